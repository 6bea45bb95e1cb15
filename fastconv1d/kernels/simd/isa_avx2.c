/* AVX2 with FMA: 16 registers of 32 bytes. */
#include "fc1d.h"
#ifdef FC1D_X86
#include <stdint.h>
#include <string.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
#define VECTOR_BYTES 32
#define ROWS 4
#define FC1D_F16C
#define ISA avx2
#include "vectors.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
