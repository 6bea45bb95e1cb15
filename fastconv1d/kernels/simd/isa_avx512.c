/* AVX-512: 32 registers of 64 bytes. FC1D_EMULATE_AVX512 has the compiler split the vectors for AVX2 (tests only). */
#include "fc1d.h"
#ifdef FC1D_X86
#include <stdint.h>
#include <string.h>
#ifdef FC1D_EMULATE_AVX512
#define FEATURES "avx2,fma,f16c"
#else
#define FEATURES "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,f16c"
#endif
#define PRAGMA(text) _Pragma(#text)
#define GCC_TARGET(features) PRAGMA(GCC target(features))
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target(FEATURES))), apply_to = function)
#else
#pragma GCC push_options
GCC_TARGET(FEATURES)
#endif
#define VECTOR_BYTES 64
#define ROWS 8
#define FC1D_F16C
#define ISA avx512
#include "vectors.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
