/* Operations on a long long that threads share: sequentially consistent, but fc1d_release(at), which stores 0 and only
 * keeps what came before it from coming after it. */
#ifndef FC1D_ATOMICS_H
#define FC1D_ATOMICS_H

#if defined(_MSC_VER) && !defined(__clang__)
#include <windows.h>
#define fc1d_load(at) InterlockedCompareExchange64((at), 0, 0)
#define fc1d_add(at, n) InterlockedExchangeAdd64((at), (n))
#define fc1d_release(at) InterlockedExchange64((at), 0)
#define fc1d_swap(at, value) InterlockedExchange64((at), (value))
#define fc1d_swap_if(at, old, value) \
    (InterlockedCompareExchange64((at), (value), (old)) == (old))
#define fc1d_relax() YieldProcessor()
#else
#define fc1d_load(at) __atomic_load_n((at), __ATOMIC_SEQ_CST)
#define fc1d_add(at, n) __atomic_fetch_add((at), (n), __ATOMIC_SEQ_CST)
#define fc1d_release(at) __atomic_store_n((at), 0, __ATOMIC_RELEASE)
#define fc1d_swap(at, value) __atomic_exchange_n((at), (value), __ATOMIC_SEQ_CST)
static inline int fc1d_swap_if(long long *at, long long old, long long value) {
    return __atomic_compare_exchange_n(
        at, &old, value, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
#if defined(__x86_64__) || defined(__i386__)
#define fc1d_relax() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define fc1d_relax() __asm__ volatile("isb")
#else
#define fc1d_relax() __asm__ volatile("" ::: "memory")
#endif
#endif

#endif
