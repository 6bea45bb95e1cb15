/* What every CPU of the architecture has: SSE2 on x86-64, NEON on aarch64, scalars where there are no vector types. */
#if defined(__GNUC__) || defined(__clang__)
#define VECTOR_BYTES 16
#else
#define VECTOR_BYTES 0
#endif
#if defined(__aarch64__)
#define ROWS 8
#else
#define ROWS 4
#endif
#define ISA base
#include "vectors.h"
