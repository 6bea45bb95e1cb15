/* Which of the compiled instruction sets this CPU runs. */
#include "fc1d.h"
#ifdef FC1D_X86
#include <cpuid.h>

/* Compilers differ in whether __builtin_cpu_supports knows F16C. */
static int has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

int fc1d_supported(const fc1d_isa **list, int room)
{
    int n = 0;
#ifdef FC1D_X86
    __builtin_cpu_init();
#ifdef FC1D_EMULATE_AVX512
    if (n < room && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c())
        list[n++] = &fc1d_isa__avx512;
#else
    if (n < room && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && has_f16c())
        list[n++] = &fc1d_isa__avx512;
#endif
    if (n < room && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c())
        list[n++] = &fc1d_isa__avx2;
#endif
    if (n < room)
        list[n++] = &fc1d_isa__base;
    return n;
}
