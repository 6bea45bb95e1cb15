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

/* Terms of one chain: sums of many terms are sums of chains, which keeps their error small. */
#define PRODUCT_TERMS 128
/* Bytes of x that stay in L2, beside a panel, while all panels go by. */
#define PRODUCT_X_BYTES (512 * 1024)

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
                _Pragma("GCC unroll 16") for (int j = 0; j < NV; j++)                                                  \
                {                                                                                                      \
                    wv[j] = LOAD(w + j * LANES);                                                                       \
                    if (MR > 1)                                                                                        \
                        HOLD(wv[j]);                                                                                   \
                }                                                                                                      \
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

/* Up to PRODUCT_ROWS rows from `row` on by the columns of one panel, `n` of which are columns of y, whose weights begin at w:
 * all parts of the sums one after the other, while the tile of y is in L1. */
static void NAME(product_rows)(const fc1d_product *q, const NAME(finish) * e, const T *w, ptrdiff_t column, ptrdiff_t n,
                               ptrdiff_t row, int count)
{
    const int vectors = (int)((n + LANES - 1) / LANES), partial = n % LANES != 0;
    const int any = q->residual || q->step.function != FC1D_IDENTITY;
    const ptrdiff_t terms = q->k * q->taps;
    T tile[PRODUCT_ROWS][PRODUCT_VECTORS * LANES], more[PRODUCT_ROWS][PRODUCT_VECTORS * LANES];
    const T *starts[PRODUCT_ROWS], *xs[PRODUCT_ROWS], *residuals[PRODUCT_ROWS];
    T *ys[PRODUCT_ROWS], *targets[PRODUCT_ROWS];
    ptrdiff_t item = row / q->per_item, place = row % q->per_item;
    for (int i = 0; i < count; i++) {
        starts[i] = (const T *)q->x + item * q->x_item + place * q->x_row;
        targets[i] = ys[i] = (T *)q->y + (row + i) * q->y_row + column;
        residuals[i] = q->residual ? (const T *)q->residual + (row + i) * q->y_row + column : NULL;
        if (partial) {
            if (q->add)
                memcpy(tile[i], ys[i], (size_t)n * sizeof(T));
            if (residuals[i])
                memcpy(more[i], residuals[i], (size_t)n * sizeof(T));
            targets[i] = tile[i];
        }
        if (++place == q->per_item)
            place = 0, item++;
    }
    const T *const wide[PRODUCT_ROWS] = {more[0], more[1], more[2], more[3], more[4], more[5]};
    const NAME(product_fn) run = NAME(product_tiles)[vectors - 1][count - 1];
    for (ptrdiff_t term = 0; term < terms; term += PRODUCT_TERMS) {
        NAME(part_of_sums) part = {.k = q->k, .at = term % q->k, .jump = q->x_tap - q->k, .fresh = term == 0 && !q->add};
        part.terms = terms - term < PRODUCT_TERMS ? terms - term : PRODUCT_TERMS;
        part.w = w + term * vectors * LANES;
        if (term + part.terms == terms) {
            part.finish = any && e->in_tile ? e : NULL;
            part.bias = q->bias ? (const T *)q->bias + column : NULL;
        }
        const ptrdiff_t offset = term / q->k * q->x_tap + part.at;
        for (int i = 0; i < count; i++)
            xs[i] = starts[i] + offset;
        run(&part, xs, targets, !q->residual ? NULL : partial ? wide : residuals);
    }
    for (int i = 0; partial && i < count; i++)
        memcpy(ys[i], tile[i], (size_t)n * sizeof(T));
    if (any && !e->in_tile)
        NAME(finish_product)(e, ys, q->residual ? residuals : NULL, count, n);
}

/* A unit: row_unit rows by column_unit columns, which are whole panels. */
static void NAME(product)(const fc1d_product *q, ptrdiff_t unit, void *scratch)
{
    (void)scratch;
    const ptrdiff_t across = (q->n + q->column_unit - 1) / q->column_unit, terms = q->k * q->taps;
    const ptrdiff_t begin = unit % across * q->column_unit, rows_begin = unit / across * q->row_unit;
    const ptrdiff_t rows_end = rows_begin + q->row_unit < q->rows ? rows_begin + q->row_unit : q->rows;
    const ptrdiff_t end = begin + q->column_unit < q->n ? begin + q->column_unit : q->n;
    const NAME(finish) e = NAME(finish_of)(&q->step, NULL, 0, q->residual_scale, q->residual_last);
    ptrdiff_t block = PRODUCT_X_BYTES / (ptrdiff_t)sizeof(T) / terms / PRODUCT_ROWS * PRODUCT_ROWS;
    block = block < 8 * PRODUCT_ROWS ? 8 * PRODUCT_ROWS : block;
    for (ptrdiff_t first = rows_begin; first < rows_end; first += block) {
        const ptrdiff_t last = first + block < rows_end ? first + block : rows_end;
        for (ptrdiff_t column = begin; column < end; column += NAME(product_width)) {
            const ptrdiff_t n = end - column < NAME(product_width) ? end - column : NAME(product_width);
            for (ptrdiff_t row = first; row < last; row += PRODUCT_ROWS)
                NAME(product_rows)(q, &e, (const T *)q->w + column * terms, column, n, row,
                                   last - row < PRODUCT_ROWS ? (int)(last - row) : PRODUCT_ROWS);
        }
    }
}

/* w (n, terms) in the order in which `product` reads it: panels, in each its terms; columns behind the last one are 0. */
static void NAME(pack_product)(const void *from, void *to, ptrdiff_t n, ptrdiff_t terms)
{
    const T *w = (const T *)from;
    T *packed = (T *)to;
    for (ptrdiff_t column = 0; column < n; column += NAME(product_width)) {
        const ptrdiff_t here = n - column < NAME(product_width) ? n - column : NAME(product_width);
        const ptrdiff_t width = (here + LANES - 1) / LANES * LANES;
        for (ptrdiff_t t = 0; t < terms; t++, packed += width)
            for (ptrdiff_t j = 0; j < width; j++)
                packed[j] = j < here ? w[(column + j) * terms + t] : 0;
    }
}

/* to[j*rows + i] = from[i*columns + j]. */
static void NAME(transpose_plane)(const T *from, T *to, ptrdiff_t rows, ptrdiff_t columns)
{
    ptrdiff_t i = 0;
    if (LANES > 1 && columns >= LANES && rows >= LANES) {
        for (; i < rows; i += LANES) {
            const ptrdiff_t row = i < rows - LANES ? i : rows - LANES; /* the last block may write some again */
            for (ptrdiff_t j = 0; j < columns; j += LANES) {
                const ptrdiff_t column = j < columns - LANES ? j : columns - LANES;
                NAME(transpose_square)(to + column * rows + row, rows, from + row * columns + column, columns);
            }
        }
        return;
    }
    if (LANES > 1 && columns >= LANES && rows > 1) {
        for (ptrdiff_t j = 0; j < columns; j += LANES) {
            const ptrdiff_t column = j < columns - LANES ? j : columns - LANES;
            V v[LANES] = {{0}};
            for (ptrdiff_t r = 0; r < rows; r++)
                v[r] = LOAD(from + r * columns + column);
            NAME(transpose)(v);
            for (ptrdiff_t r = 0; r < LANES; r++) { /* what a vector writes behind its row, the next rows write again */
                T *const p = to + (column + r) * rows;
                if ((column + r) * rows + LANES <= columns * rows)
                    STORE(p, v[r]);
                else
                    NAME(store_part)(p, v[r], rows);
            }
        }
        return;
    }
    for (ptrdiff_t j = 0; j < columns; j++)
        for (i = 0; i < rows; i++)
            to[j * rows + i] = from[i * columns + j];
}

/* A unit is a plane: to[q->to_item*unit + j*rows + i] = from[q->from_item*unit + i*columns + j]. */
static void NAME(transpose_planes)(const fc1d_planes *q, ptrdiff_t unit, void *scratch)
{
    (void)scratch;
    NAME(transpose_plane)((const T *)q->from + unit * q->from_plane, (T *)q->to + unit * q->to_plane, q->rows, q->columns);
}

#undef PRODUCT_TERMS
#undef PRODUCT_X_BYTES
#undef PRODUCT_ROWS
#undef PRODUCT_VECTORS
#undef PRODUCT_TILE
#undef PRODUCT_TILES
#undef PRODUCT_ENTRIES
