/* The OpenMP runtime that a prange runs on, and what a team's leader needs of the system. */
#ifndef FC1D_OPENMP_H
#define FC1D_OPENMP_H

#include <omp.h>
#include <stdlib.h>

#if defined(__GNUC__) && !defined(__clang__) && !defined(_WIN32)
/* GCC calls these four for a prange. They are defined here and lead to the runtime bound last, so
   the extension needs no runtime of its own and no symbol of another is looked up by the loader. */
#define FC1D_BINDS 1
#include <dlfcn.h>

static struct {
    void (*parallel)(void (*)(void *), void *, unsigned, unsigned);
    void (*barrier)(void);
    int (*thread_num)(void);
    int (*num_threads)(void);
    int (*max_threads)(void);
    int (*pause)(omp_pause_resource_t); /* NULL before GCC 9 */
    int survives_forks;                 /* libomp has handlers of its own */
} fc1d_runtime;

#pragma GCC visibility push(hidden)
void GOMP_parallel(void (*run)(void *), void *data, unsigned n_threads, unsigned flags) {
    fc1d_runtime.parallel(run, data, n_threads, flags);
}
void GOMP_barrier(void) { fc1d_runtime.barrier(); }
int omp_get_thread_num(void) { return fc1d_runtime.thread_num(); }
int omp_get_num_threads(void) { return fc1d_runtime.num_threads(); }
#pragma GCC visibility pop

/* Returns 0, 1 where the path cannot be opened, 2 where a function is missing: then it stays. */
static int fc1d_bind(const char *path) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    void *parallel, *barrier, *thread_num, *num_threads, *max_threads;
    if (library == NULL) return 1;
    parallel = dlsym(library, "GOMP_parallel");
    barrier = dlsym(library, "GOMP_barrier");
    thread_num = dlsym(library, "omp_get_thread_num");
    num_threads = dlsym(library, "omp_get_num_threads");
    max_threads = dlsym(library, "omp_get_max_threads");
    if (!parallel || !barrier || !thread_num || !num_threads || !max_threads) {
        dlclose(library);
        return 2;
    }
    fc1d_runtime.parallel = (void (*)(void (*)(void *), void *, unsigned, unsigned))parallel;
    fc1d_runtime.barrier = (void (*)(void))barrier;
    fc1d_runtime.thread_num = (int (*)(void))thread_num;
    fc1d_runtime.num_threads = (int (*)(void))num_threads;
    fc1d_runtime.max_threads = (int (*)(void))max_threads;
    fc1d_runtime.pause =
        (int (*)(omp_pause_resource_t))dlsym(library, "omp_pause_resource_all");
    fc1d_runtime.survives_forks = dlsym(library, "__kmpc_fork_call") != NULL;
    return 0;
}

static int fc1d_max_threads(void) { return fc1d_runtime.max_threads(); }

/* Ends the calling thread's idle threads, which a child could not use. Returns whether a child may
   then have threads again. */
static int fc1d_pause(void) {
    if (fc1d_runtime.survives_forks) return 1;
    return fc1d_runtime.pause != NULL && fc1d_runtime.pause(omp_pause_hard) == 0;
}
#else
#define FC1D_BINDS 0
#define fc1d_bind(path) 0
#define fc1d_max_threads omp_get_max_threads
#define fc1d_pause() 1 /* libomp has handlers of its own, Windows has no forks */
#endif

#ifdef _WIN32
#include <windows.h>
#define fc1d_can_start(n_threads) 1
#define fc1d_on_thread_end(call)
#define fc1d_hold_signals()
#define fc1d_release_signals()
#define fc1d_now() ((long long)GetTickCount64() * 1000000)
#define fc1d_worked() fc1d_now()
#else
#include <pthread.h>
#include <signal.h>
#include <time.h>

static void *fc1d_pass(void *gate) {
    pthread_mutex_lock((pthread_mutex_t *)gate);
    pthread_mutex_unlock((pthread_mutex_t *)gate);
    return NULL;
}

/* Starts so many threads that are there at the same time, and ends them: 20 us each. */
static int fc1d_can_start(int n_threads) {
    pthread_t *threads = (pthread_t *)malloc(n_threads * sizeof(pthread_t));
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    int i, started = 0;
    if (threads == NULL) return 0;
    pthread_mutex_lock(&gate);
    while (started < n_threads && pthread_create(&threads[started], NULL, fc1d_pass, &gate) == 0)
        started++;
    pthread_mutex_unlock(&gate);
    for (i = 0; i < started; i++) pthread_join(threads[i], NULL);
    free(threads);
    return started == n_threads;
}

static pthread_key_t fc1d_end_key;
static void (*fc1d_at_end)(void);
static void fc1d_call_at_end(void *unused) { (void)unused; fc1d_at_end(); }
static void fc1d_make_key(void) { pthread_key_create(&fc1d_end_key, fc1d_call_at_end); }

/* Has the calling thread call this when it ends. */
static void fc1d_on_thread_end(void (*call)(void)) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    fc1d_at_end = call;
    pthread_once(&once, fc1d_make_key);
    pthread_setspecific(fc1d_end_key, &fc1d_end_key); /* any but NULL */
}

/* Threads inherit what is blocked: as in the workers, signals of the process are not for them. */
static _Thread_local sigset_t fc1d_signals;
static void fc1d_hold_signals(void) {
    int i, faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP};
    sigset_t set;
    sigfillset(&set);
    for (i = 0; i < (int)(sizeof(faults) / sizeof(faults[0])); i++) sigdelset(&set, faults[i]);
    pthread_sigmask(SIG_BLOCK, &set, &fc1d_signals);
}
static void fc1d_release_signals(void) { pthread_sigmask(SIG_SETMASK, &fc1d_signals, NULL); }

static long long fc1d_nanoseconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (long long)now.tv_sec * 1000000000 + now.tv_nsec;
}
#define fc1d_now() fc1d_nanoseconds(CLOCK_MONOTONIC)
#define fc1d_worked() fc1d_nanoseconds(CLOCK_THREAD_CPUTIME_ID) /* by the calling thread */
#endif

#endif
