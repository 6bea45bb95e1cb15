/* Products of rows with a packed matrix, included by template.h: y[r][j] = sum over t, i of x[row r][t*x_tap + i] * w[j][t][i].
 *
 * A row is what a position of a convolution reads where channels lie side by side, or a row of a matrix. Rows may
 * overlap, so nothing is unfolded; the matrix is packed once, so that a few rows cost no packing. A sum is one
 * of chains of PRODUCT_TERMS terms in the order of (t, i), whatever rows and columns are computed beside it.
 */

/* A register tile: PRODUCT_ROWS rows by up to PRODUCT_VECTORS vectors of columns. */
#define PRODUCT_ROWS 6
#if ROWS == 4 /* 16 vector registers */
#define PRODUCT_VECTORS 2
#else
#define PRODUCT_VECTORS 4
#endif
enum { NAME(product_width) = PRODUCT_VECTORS * LANES };

/* A block of the packed matrix of so many terms and a panel's columns stays in L1: 32 KiB of AVX-512's. */
#define PRODUCT_TERMS 128

/* A part of a register tile's sums, from term `at` of a tap of k terms on. */
typedef struct {
    ptrdiff_t terms, k, at, jump; /* jump: from the end of a tap to the next one */
    const T *w, *bias;            /* the last part adds the bias, or NULL, and does what `finish` says, or NULL */
    const NAME(finish) * finish;
    int fresh; /* the first part */
} NAME(part_of_sums);

typedef void (*NAME(product_fn))(const NAME(part_of_sums) * q, const T *const *rows, T *const *ys,
                                 const T *const *residuals);

#define PRODUCT_TILE(MR, NV)                                                                                           \
    static void NAME(product_##MR##x##NV)(const NAME(part_of_sums) * q, const T *const *rows, T *const *ys,            \
                                          const T *const *residuals)                                                   \
    {                                                                                                                  \
        V acc[MR][NV] = {{{0}}};                                                                                       \
        const T *x[MR], *restrict w = q->w;                                                                            \
        ptrdiff_t left = q->terms, here = q->k - q->at < left ? q->k - q->at : left;                                   \
        _Pragma("GCC unroll 16") for (int i = 0; i < MR; i++) x[i] = rows[i];                                          \
        for (;;) {                                                                                                     \
            for (ptrdiff_t t = 0; t < here; t++, w += NV * LANES) {                                                    \
                V wv[NV];                                                                                              \
                _Pragma("GCC unroll 16") for (int j = 0; j < NV; j++) wv[j] = LOAD(w + j * LANES);                     \
                EACH(MR, NV, acc[i][j] += x[i][t] * wv[j])                                                             \
            }                                                                                                          \
            left -= here;                                                                                              \
            if (left == 0)                                                                                             \
                break;                                                                                                 \
            _Pragma("GCC unroll 16") for (int i = 0; i < MR; i++) x[i] += here + q->jump;                              \
            here = q->k < left ? q->k : left;                                                                          \
        }                                                                                                              \
        if (!q->fresh)                                                                                                 \
            EACH(MR, NV, acc[i][j] = LOAD(ys[i] + j * LANES) + acc[i][j])                                              \
        if (q->bias)                                                                                                   \
            EACH(MR, NV, acc[i][j] = acc[i][j] + LOAD(q->bias + j * LANES))                                            \
        if (q->finish)                                                                                                 \
            EACH(MR, NV, acc[i][j] = NAME(rectified)(q->finish, acc[i][j],                                             \
                                                     residuals ? residuals[i] + j * LANES : NULL))                     \
        EACH(MR, NV, STORE(ys[i] + j * LANES, acc[i][j]))                                                              \
    }

#define PRODUCT_TILES(NV)                                                                                              \
    PRODUCT_TILE(1, NV) PRODUCT_TILE(2, NV) PRODUCT_TILE(3, NV) PRODUCT_TILE(4, NV) PRODUCT_TILE(5, NV)                \
    PRODUCT_TILE(6, NV)
#define PRODUCT_ENTRIES(NV)                                                                                            \
    {NAME(product_1x##NV), NAME(product_2x##NV), NAME(product_3x##NV), NAME(product_4x##NV), NAME(product_5x##NV),     \
     NAME(product_6x##NV)}
PRODUCT_TILES(1)
PRODUCT_TILES(2)
#if PRODUCT_VECTORS == 4
PRODUCT_TILES(3)
PRODUCT_TILES(4)
#endif

static const NAME(product_fn) NAME(product_tiles)[PRODUCT_VECTORS][PRODUCT_ROWS] = {
    PRODUCT_ENTRIES(1), PRODUCT_ENTRIES(2),
#if PRODUCT_VECTORS == 4
    PRODUCT_ENTRIES(3), PRODUCT_ENTRIES(4),
#endif
};

/* What the register tiles leave: a function of whole rows of `n` elements, and a residual. */
static void NAME(finish_product)(const NAME(finish) * e, T *const *ys, const T *const *residuals, int n_rows, ptrdiff_t n)
{
    for (int i = 0; i < n_rows; i++)
        NAME(finish_row)(e, 0, ys[i], residuals ? residuals[i] : NULL, n);
}

/* Rows [first, last) by the columns of one panel, of which `n` are columns of y; one part of the sums. */
static void NAME(product_panel)(const fc1d_product *q, NAME(part_of_sums) part, const NAME(finish) * curve,
                                ptrdiff_t term, ptrdiff_t column, ptrdiff_t n, ptrdiff_t first, ptrdiff_t last)
{
    const int vectors = (int)((n + LANES - 1) / LANES), partial = n % LANES != 0;
    const ptrdiff_t offset = term / q->k * q->x_tap + term % q->k;
    T tile[PRODUCT_ROWS][PRODUCT_VECTORS * LANES], more[PRODUCT_ROWS][PRODUCT_VECTORS * LANES];
    ptrdiff_t item = first / q->per_item, place = first % q->per_item;
    for (ptrdiff_t row = first; row < last; row += PRODUCT_ROWS) {
        const int count = last - row < PRODUCT_ROWS ? (int)(last - row) : PRODUCT_ROWS;
        const T *xs[PRODUCT_ROWS], *residuals[PRODUCT_ROWS];
        T *ys[PRODUCT_ROWS], *targets[PRODUCT_ROWS];
        for (int i = 0; i < count; i++) {
            xs[i] = (const T *)q->x + item * q->x_item + place * q->x_row + offset;
            targets[i] = ys[i] = (T *)q->y + (row + i) * q->y_row + column;
            residuals[i] = q->residual ? (const T *)q->residual + (row + i) * q->y_row + column : NULL;
            if (partial) {
                if (!part.fresh)
                    memcpy(tile[i], ys[i], (size_t)n * sizeof(T));
                if (residuals[i])
                    memcpy(more[i], residuals[i], (size_t)n * sizeof(T));
                targets[i] = tile[i];
            }
            if (++place == q->per_item)
                place = 0, item++;
        }
        const T *const wide[PRODUCT_ROWS] = {more[0], more[1], more[2], more[3], more[4], more[5]};
        NAME(product_tiles)[vectors - 1][count - 1](&part, xs, targets, !q->residual ? NULL : partial ? wide : residuals);
        if (partial)
            for (int i = 0; i < count; i++)
                memcpy(ys[i], tile[i], (size_t)n * sizeof(T));
        if (curve)
            NAME(finish_product)(curve, ys, q->residual ? residuals : NULL, count, n);
    }
}

/* A unit: row_unit rows by column_unit columns, which are whole panels. */
static void NAME(product)(const fc1d_product *q, ptrdiff_t unit, void *scratch)
{
    (void)scratch;
    const ptrdiff_t across = (q->n + q->column_unit - 1) / q->column_unit, terms = q->k * q->taps;
    const ptrdiff_t first = unit / across * q->row_unit, begin = unit % across * q->column_unit;
    const ptrdiff_t last = first + q->row_unit < q->rows ? first + q->row_unit : q->rows;
    const ptrdiff_t end = begin + q->column_unit < q->n ? begin + q->column_unit : q->n;
    const ptrdiff_t padded = (q->n + LANES - 1) / LANES * LANES;
    const NAME(finish) e = NAME(finish_of)(&q->step, NULL, 0, q->residual_scale, q->residual_last);
    const int any = q->residual || q->step.function != FC1D_IDENTITY;
    for (ptrdiff_t term = 0; term < terms; term += PRODUCT_TERMS) {
        NAME(part_of_sums) part = {.k = q->k, .at = term % q->k, .jump = q->x_tap - q->k, .fresh = term == 0 && !q->add};
        part.terms = terms - term < PRODUCT_TERMS ? terms - term : PRODUCT_TERMS;
        const int done = term + part.terms == terms;
        part.finish = done && any && e.in_tile ? &e : NULL;
        const T *w = (const T *)q->w + term * padded + begin * part.terms;
        for (ptrdiff_t column = begin; column < end; column += NAME(product_width)) {
            const ptrdiff_t n = end - column < NAME(product_width) ? end - column : NAME(product_width);
            part.w = w;
            part.bias = done && q->bias ? (const T *)q->bias + column : NULL;
            NAME(product_panel)(q, part, done && any && !e.in_tile ? &e : NULL, term, column, n, first, last);
            w += (n + LANES - 1) / LANES * LANES * part.terms;
        }
    }
}

/* w (n, terms) in the order in which `product` reads it: blocks of terms, in each the panels, in each its terms; the
 * columns behind the last one are 0. */
static void NAME(pack_product)(const void *from, void *to, ptrdiff_t n, ptrdiff_t terms)
{
    const T *w = (const T *)from;
    T *packed = (T *)to;
    for (ptrdiff_t term = 0; term < terms; term += PRODUCT_TERMS) {
        const ptrdiff_t stop = terms - term < PRODUCT_TERMS ? terms : term + PRODUCT_TERMS;
        for (ptrdiff_t column = 0; column < n; column += NAME(product_width)) {
            const ptrdiff_t here = n - column < NAME(product_width) ? n - column : NAME(product_width);
            const ptrdiff_t width = (here + LANES - 1) / LANES * LANES;
            for (ptrdiff_t t = term; t < stop; t++, packed += width)
                for (ptrdiff_t j = 0; j < width; j++)
                    packed[j] = j < here ? w[(column + j) * terms + t] : 0;
        }
    }
}

#undef PRODUCT_TERMS
#undef PRODUCT_ROWS
#undef PRODUCT_VECTORS
#undef PRODUCT_TILE
#undef PRODUCT_TILES
#undef PRODUCT_ENTRIES
