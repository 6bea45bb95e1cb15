/* Both dtypes of one instruction set: expects ISA (suffix), VECTOR_BYTES and ROWS, and includes the template twice. */
#include <math.h>
#include <string.h>

#include "../atomics.h"

/* The transforms are a unit of their own, which takes a twentieth of the time to compile. */
#ifdef TRANSFORMS
#define TEMPLATE "transforms.h"
#else
#define TEMPLATE "template.h"
#endif

#include "fc1d.h"
#include "half.h"

/* The loop of a register tile fills two cache lines of instructions. Where it happens to begin inside a line, a layer
 * takes 3 to 5 % longer (AVX2), so that an edit anywhere in the library changed the speed of all. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("align-loops=64")
#endif

#define GLUE3(x, dtype, isa) fc1d_##x##_##dtype##__##isa
#define GLUE(x, dtype, isa) GLUE3(x, dtype, isa)

#if defined(__clang__)
#define SHUFFLE_LIST(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE_LIST(a, b, ...) __builtin_shuffle(a, b, (NAME(mask)){__VA_ARGS__})
#endif
#define SHUFFLE(a, b, LIST) SHUFFLE_LIST(a, b, LIST)

#if defined(__GNUC__) || defined(__clang__)
/* Some functions stay apart: inlined into one, GCC 12 fails to compile them for SSE2. */
#define NOINLINE __attribute__((noinline))
#define PREFETCH(p) __builtin_prefetch(p, 0, 2)
#define PREFETCH_NEAR(p) __builtin_prefetch(p, 0, 3)
#define PREFETCH_WRITE(p) __builtin_prefetch(p, 1, 3)
#else
#define NOINLINE
#define PREFETCH(p) ((void)(p))
#define PREFETCH_NEAR(p) ((void)(p))
#define PREFETCH_WRITE(p) ((void)(p))
#endif

/* Keeps a vector that several multiply-adds read in a register. GCC would rather have each of them read it from memory, where
 * most vectors lie in two cache lines, which are two accesses: 8 rows by 3 taps of a gradient by the weight, 4 to 768 channels,
 * 4,000 columns, went at 78 GFLOP/s and go at 132 (AVX-512). */
#if VECTOR_BYTES >= 32 && (defined(__GNUC__) || defined(__clang__))
#define HOLD(v) __asm__("" : "+v"(v))
#else
#define HOLD(v) ((void)(v))
#endif

/* Weights that do not stay in a cache are asked for so far ahead: the processor itself looks ahead within a page only, and
 * begins late in each. 40 MB of weights with 48 columns took 10.5 ms, 6.0 at 1 KiB, 5.4 at 2, 5.2 at 4; with 16 columns 5.8,
 * 3.4, 3.2 and 3.0 (AVX-512, weights from memory). Kernels that read eight places at once look less far in each: 513 -> 640
 * channels, 4 taps, 8 columns, 1.25x at 1 KiB, 1.17x at 2, and in a cache 0.94x and 0.95x, but 0.82x at 4. */
#define AHEAD_BYTES 4096
#define AHEAD_ACROSS_BYTES 1024
/* Parts of rows of a result up to so long are asked for before they are written: 48 -> 48 channels, stride 4, parts of 7.7 KB, 5.9
 * -> 3.7 ms; the gradient by the weight of 1024 -> 1024, 7 taps, 5.3 -> 3.2 ms. Longer ones the processor foresees: asking for
 * 16 KB, 16 -> 8 channels, stride 2, was 8 % slower. */
#define EMIT_AHEAD_BYTES 8192

#define EVEN_1 0
#define EVEN_2 0, 2
#define EVEN_4 EVEN_2, 4, 6
#define EVEN_8 EVEN_4, 8, 10, 12, 14
#define EVEN_16 EVEN_8, 16, 18, 20, 22, 24, 26, 28, 30
/* Every third element of three vectors: of the first two, then with those of the third. */
#define THIRDS_2 0, 3
#define THIRDS_4 0, 3, 6, 0
#define THIRDS_8 0, 3, 6, 9, 12, 15, 0, 0
#define THIRDS_16 0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 0, 0, 0, 0, 0
#define OTHER_THIRDS_2 0, 1
#define OTHER_THIRDS_4 0, 1, 2, 5
#define OTHER_THIRDS_8 0, 1, 2, 3, 4, 5, 10, 13
#define OTHER_THIRDS_16 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 17, 20, 23, 26, 29
#define LOW_1 0
#define LOW_2 0, 2
#define LOW_4 0, 4, 1, 5
#define LOW_8 0, 8, 1, 9, 2, 10, 3, 11
#define LOW_16 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HIGH_1 0
#define HIGH_2 1, 3
#define HIGH_4 2, 6, 3, 7
#define HIGH_8 4, 12, 5, 13, 6, 14, 7, 15
#define HIGH_16 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
/* Blocks of 1, 2, 4, ... lanes exchanged between two vectors, the steps of a transposition: every second block of a and
 * of b, the even ones (NEAR) and the odd ones (FAR). */
#define NEAR1_2 0, 2
#define FAR1_2 1, 3
#define NEAR1_4 0, 4, 2, 6
#define FAR1_4 1, 5, 3, 7
#define NEAR2_4 0, 1, 4, 5
#define FAR2_4 2, 3, 6, 7
#define NEAR1_8 0, 8, 2, 10, 4, 12, 6, 14
#define FAR1_8 1, 9, 3, 11, 5, 13, 7, 15
#define NEAR2_8 0, 1, 8, 9, 4, 5, 12, 13
#define FAR2_8 2, 3, 10, 11, 6, 7, 14, 15
#define NEAR4_8 0, 1, 2, 3, 8, 9, 10, 11
#define FAR4_8 4, 5, 6, 7, 12, 13, 14, 15
#define NEAR1_16 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30
#define FAR1_16 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31
#define NEAR2_16 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define FAR2_16 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#define NEAR4_16 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27
#define FAR4_16 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31
#define NEAR8_16 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23
#define FAR8_16 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31
/* The first half of two vectors. */
#define FIRST_HALVES_8 NEAR4_8
#define FIRST_HALVES_16 NEAR8_16
#define PICK3(list, lanes) list##_##lanes
#define PICK(list, lanes) PICK3(list, lanes)
#define EVEN PICK(EVEN, LANES)
#define THIRDS PICK(THIRDS, LANES)
#define OTHER_THIRDS PICK(OTHER_THIRDS, LANES)
#define RIFFLE_LOW PICK(LOW, LANES)
#define RIFFLE_HIGH PICK(HIGH, LANES)

#define ON_THEN_OFF_1 -1, 0
#define ON_THEN_OFF_2 -1, -1, 0, 0
#define ON_THEN_OFF_4 -1, -1, ON_THEN_OFF_2, 0, 0
#define ON_THEN_OFF_8 -1, -1, -1, -1, ON_THEN_OFF_4, 0, 0, 0, 0
#define ON_THEN_OFF_16 -1, -1, -1, -1, -1, -1, -1, -1, ON_THEN_OFF_8, 0, 0, 0, 0, 0, 0, 0, 0
#define ON_THEN_OFF PICK(ON_THEN_OFF, LANES)

#define BYTES VECTOR_BYTES

#define T float
#define FLOAT32 1
#define TINT int32_t
#define NAME(x) GLUE(x, f32, ISA)
#if VECTOR_BYTES == 64
#define LANES 16
#elif VECTOR_BYTES == 32
#define LANES 8
#elif VECTOR_BYTES == 16
#define LANES 4
#else
#define LANES 1
#endif
#include TEMPLATE
#undef T
#undef FLOAT32
#undef TINT
#undef NAME
#undef LANES

#define T double
#define FLOAT32 0
#define TINT int64_t
#define NAME(x) GLUE(x, f64, ISA)
#if VECTOR_BYTES == 64
#define LANES 8
#elif VECTOR_BYTES == 32
#define LANES 4
#elif VECTOR_BYTES == 16
#define LANES 2
#else
#define LANES 1
#endif
#include TEMPLATE

#define QUOTE2(isa) #isa
#define QUOTE(isa) QUOTE2(isa)
#ifdef TRANSFORMS
#define ISA_NAME2(isa) fc1d_transforms__##isa
#define ISA_NAME(isa) ISA_NAME2(isa)
#define KERNELS(D)                                                                                                     \
    {GLUE(fourier_weight, D, ISA), GLUE(fourier_blocks, D, ISA), GLUE(fourier_gradient, D, ISA),                        \
     GLUE(fourier_window, D, ISA), GLUE(fourier_parts, D, ISA), GLUE(spectral, D, ISA), GLUE(spectral_pack, D, ISA),    \
     GLUE(lanes, D, ISA)}
const fc1d_transforms ISA_NAME(ISA) = {QUOTE(ISA), KERNELS(f32), KERNELS(f64)};
#else

/* Products of bytes: by the instruction for them where the CPU has it, otherwise products of pairs of 16 bits. */
#if defined(FC1D_X86) && VECTOR_BYTES > 0
#include <immintrin.h>
/* Bytes 0 and 2, and bytes 1 and 3, of each lane as 16 bits. */
#define PAIRS(bits, prefix, sum, x, w)                                                                                 \
    ((sum) + (VI)prefix##_madd_epi16((bits)((x)&0x00ff00ff), prefix##_srai_epi16(prefix##_slli_epi16((bits)(w), 8), 8)) + \
     (VI)prefix##_madd_epi16(prefix##_srli_epi16((bits)(x), 8), prefix##_srai_epi16((bits)(w), 8)))
#endif
#define BYTE_LANES (VECTOR_BYTES > 0 ? VECTOR_BYTES / 4 : 1)
#define BYTE_TARGET
#define BYTE_NAME(x) GLUE(x, bytes, ISA)
#define BYTE_ROWS 3 /* by two halves of a vector of weights: what registers hold */
#if VECTOR_BYTES == 64
#define BYTE_VECTORS 4
#define BYTE_DOT(sum, x, w) PAIRS(__m512i, _mm512, sum, x, w)
#elif VECTOR_BYTES == 32
#define BYTE_VECTORS 2
#define BYTE_DOT(sum, x, w) PAIRS(__m256i, _mm256, sum, x, w)
#else
#define BYTE_VECTORS 2
#if defined(FC1D_X86) && VECTOR_BYTES == 16
#define BYTE_DOT(sum, x, w) PAIRS(__m128i, _mm, sum, x, w)
#endif
#endif
#include "bytes.h"

#if VECTOR_BYTES == 64 && !defined(FC1D_EMULATE_AVX512)
#define BYTES_NATIVE "avx512vnni"
#define BYTE_ROWS 6
#define BYTE_TARGET __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx512vnni,avx2,fma,f16c")))
#define BYTE_DOT(sum, x, w) ((VI)_mm512_dpbusd_epi32((__m512i)(sum), (__m512i)(x), (__m512i)(w)))
#elif VECTOR_BYTES == 32 && defined(__GNUC__) && !defined(__clang__) && __GNUC__ > 11
#define BYTES_NATIVE "avxvnni"
#define BYTE_ROWS 6
#define BYTE_TARGET __attribute__((target("avx2,avxvnni,fma,f16c")))
#define BYTE_DOT(sum, x, w) ((VI)_mm256_dpbusd_avx_epi32((__m256i)(sum), (__m256i)(x), (__m256i)(w)))
#endif
#ifdef BYTES_NATIVE
#define BYTE_NAME(x) GLUE(x, native_bytes, ISA)
#include "bytes.h"
#endif

static void GLUE(any, bytes, ISA)(const fc1d_bytes *q, ptrdiff_t unit, void *scratch)
{
    (void)scratch;
#ifdef BYTES_NATIVE
    if (__builtin_cpu_supports(BYTES_NATIVE)) {
        GLUE(product, native_bytes, ISA)(q, unit);
        return;
    }
#endif
    GLUE(product, bytes, ISA)(q, unit);
}

#define ISA_NAME2(isa) fc1d_isa__##isa
#define ISA_NAME(isa) ISA_NAME2(isa)
#define KERNELS(D)                                                                                                     \
    {GLUE(run_unit, D, ISA), GLUE(run_items, D, ISA), GLUE(run_channels, D, ISA), GLUE(pack_weights, D, ISA), GLUE(all_finite, D, ISA), GLUE(run_gradient, D, ISA),         \
     GLUE(run_positions, D, ISA), GLUE(step, D, ISA), GLUE(finish_rows, D, ISA), GLUE(softmax_rows, D, ISA), GLUE(softmax_columns, D, ISA),                                \
     GLUE(standardize_rows, D, ISA), GLUE(standardize_columns, D, ISA), GLUE(lstm_rows, D, ISA),                       \
     GLUE(gru_rows, D, ISA), GLUE(quantize, D, ISA), GLUE(erf_rows, D, ISA), GLUE(convert, D, ISA),                    \
     GLUE(pool, D, ISA), GLUE(product, D, ISA), GLUE(pack_product, D, ISA), GLUE(transpose_planes, D, ISA),             \
     GLUE(chain, D, ISA), GLUE(affine_rows, D, ISA), GLUE(resample_rows, D, ISA), GLUE(gate, D, ISA),                   \
     GLUE(reduce_parts, D, ISA), GLUE(add_product, D, ISA), GLUE(fma_loop, D, ISA), GLUE(lanes, D, ISA), ROWS, GLUE(product_width, D, ISA), GLUE(vectors, D, ISA)}
const fc1d_isa ISA_NAME(ISA) = {QUOTE(ISA), KERNELS(f32), KERNELS(f64), GLUE(any, bytes, ISA),
                             GLUE(width, bytes, ISA)};
#endif
