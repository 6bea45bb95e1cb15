/* Products of rows of bytes with a packed matrix of signed bytes, in exact sums of 32 bits:
 * y[r][j] = (sum over i of x[r][i]*w[j][i] - minus[j])*scale[j], then rounded to steps, then plus bias[j].
 *
 * A lane is a column; its four bytes are four terms. Included once for each way to add the products of four bytes: the
 * including file defines BYTE_NAME(x), BYTE_LANES, BYTE_ROWS (3 or 6) and BYTE_VECTORS (rows and vectors of a register tile) and
 * BYTE_TARGET. BYTE_DOT adds, to each lane of 32 bits, the products of its four bytes: unsigned ones of x, signed ones of
 * w. Sums of products of pairs in 16 bits, which saturate, are none of the ways.
 */

#if BYTE_LANES > 1
typedef int32_t BYTE_NAME(ints) __attribute__((vector_size(4 * BYTE_LANES)));
typedef int32_t BYTE_NAME(uints) __attribute__((vector_size(4 * BYTE_LANES), aligned(4), may_alias));
#else
typedef int32_t BYTE_NAME(ints);
typedef int32_t BYTE_NAME(uints);
#endif
#define VI BYTE_NAME(ints)
enum { BYTE_NAME(width) = BYTE_VECTORS * BYTE_LANES };

#ifndef BYTE_DOT
/* Any CPU: the four products one after the other. */
#define BYTE_DOT(sum, x, w)                                                                                            \
    ((sum) + ((x)&255) * ((VI)((w) << 24) >> 24) + (((x) >> 8) & 255) * ((VI)((w) << 16) >> 24) +                      \
     (((x) >> 16) & 255) * ((VI)((w) << 8) >> 24) + (((x) >> 24) & 255) * ((w) >> 24))
#endif

/* MR rows from `row` on by the columns of a panel. */
#define BYTE_TILE(MR)                                                                                                  \
    BYTE_TARGET static void BYTE_NAME(tile_##MR)(const fc1d_bytes *q, ptrdiff_t row, const int8_t *restrict w,         \
                                                 int32_t sums[][BYTE_NAME(width)])                                     \
    {                                                                                                                  \
        VI acc[MR][BYTE_VECTORS];                                                                                      \
        const uint8_t *x[MR];                                                                                          \
        const ptrdiff_t whole = q->k / 4 * 4;                                                                          \
        _Pragma("GCC unroll 16") for (int i = 0; i < MR; i++)                                                          \
        {                                                                                                              \
            x[i] = q->x + (row + i) * q->k;                                                                            \
            _Pragma("GCC unroll 16") for (int j = 0; j < BYTE_VECTORS; j++) acc[i][j] = (VI){0};                       \
        }                                                                                                              \
        for (ptrdiff_t t = 0; t < q->k; t += 4, w += 4 * BYTE_NAME(width)) {                                           \
            VI wv[BYTE_VECTORS];                                                                                       \
            _Pragma("GCC unroll 16") for (int j = 0; j < BYTE_VECTORS; j++)                                            \
                wv[j] = (VI) * (const BYTE_NAME(uints) *)(w + j * 4 * BYTE_LANES);                                     \
            _Pragma("GCC unroll 16") for (int i = 0; i < MR; i++)                                                      \
            {                                                                                                          \
                int32_t four = 0;                                                                                      \
                if (t < whole)                                                                                         \
                    memcpy(&four, x[i] + t, 4);                                                                        \
                else                                                                                                   \
                    memcpy(&four, x[i] + t, (size_t)(q->k - t));                                                       \
                const VI xv = (VI){0} + four;                                                                          \
                _Pragma("GCC unroll 16") for (int j = 0; j < BYTE_VECTORS; j++)                                        \
                    acc[i][j] = BYTE_DOT(acc[i][j], xv, wv[j]);                                                        \
            }                                                                                                          \
        }                                                                                                              \
        _Pragma("GCC unroll 16") for (int i = 0; i < MR; i++)                                                          \
            _Pragma("GCC unroll 16") for (int j = 0; j < BYTE_VECTORS; j++)                                            \
                *(BYTE_NAME(uints) *)(sums[i] + j * BYTE_LANES) = acc[i][j];                                           \
    }
BYTE_TILE(1)
BYTE_TILE(2)
BYTE_TILE(3)
#if BYTE_ROWS > 3
BYTE_TILE(4)
BYTE_TILE(5)
BYTE_TILE(6)
#endif

/* n sums of a row to y. */
BYTE_TARGET static void BYTE_NAME(finish)(const fc1d_bytes *q, const int32_t *restrict sums, ptrdiff_t column, ptrdiff_t n,
                                          float *restrict y)
{
    const int32_t *minus = q->minus + column;
    const float *scale = q->scale + column;
    const float step = q->step, low = q->low, high = q->high, magic = 12582912.0f; /* adding it rounds to an integer */
    if (step == 0.0f) {
        for (ptrdiff_t j = 0; j < n; j++)
            y[j] = (float)(sums[j] - minus[j]) * scale[j];
    } else {
        for (ptrdiff_t j = 0; j < n; j++) {
            float v = (float)(sums[j] - minus[j]) * scale[j] / step;
            v = v > low ? v : low;
            v = v < high ? v : high;
            y[j] = (v + magic - magic) * step;
        }
    }
    if (q->bias)
        for (ptrdiff_t j = 0; j < n; j++)
            y[j] += q->bias[column + j];
}

/* A unit: row_unit rows by all columns. */
BYTE_TARGET static void BYTE_NAME(product)(const fc1d_bytes *q, ptrdiff_t unit)
{
    static void (*const tiles[])(const fc1d_bytes *, ptrdiff_t, const int8_t *restrict, int32_t[][BYTE_NAME(width)]) = {
        BYTE_NAME(tile_1), BYTE_NAME(tile_2), BYTE_NAME(tile_3),
#if BYTE_ROWS > 3
        BYTE_NAME(tile_4), BYTE_NAME(tile_5), BYTE_NAME(tile_6),
#endif
    };
    const ptrdiff_t begin = unit * q->row_unit, end = begin + q->row_unit < q->rows ? begin + q->row_unit : q->rows;
    const ptrdiff_t panel = (q->k + 3) / 4 * 4 * BYTE_NAME(width);
    int32_t sums[BYTE_ROWS][BYTE_NAME(width)];
    for (ptrdiff_t column = 0; column < q->n; column += BYTE_NAME(width)) {
        const int8_t *w = q->w + column / BYTE_NAME(width) * panel;
        const ptrdiff_t n = q->n - column < BYTE_NAME(width) ? q->n - column : BYTE_NAME(width);
        for (ptrdiff_t row = begin; row < end; row += BYTE_ROWS) {
            const int count = end - row < BYTE_ROWS ? (int)(end - row) : BYTE_ROWS;
            tiles[count - 1](q, row, w, sums);
            for (int i = 0; i < count; i++)
                BYTE_NAME(finish)(q, sums[i], column, n, q->y + (row + i) * q->n + column);
        }
    }
}

#undef VI
#undef BYTE_ROWS
#undef BYTE_DOT
#undef BYTE_NAME
#undef BYTE_TARGET
#undef BYTE_TILE
