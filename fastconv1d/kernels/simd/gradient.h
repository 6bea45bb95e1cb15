/* The weight gradient, included by template.h: dot products along the columns of grad_output rows and window rows.
 *
 * Vectors run along the columns, so that no operand is transposed: MR rows of g times NR (channel, tap) pairs of the
 * window give MR*NR accumulators, summed over their lanes at the end of a chunk.
 */

typedef struct {
    ptrdiff_t items, cols;     /* of the chunk */
    ptrdiff_t gn, gc;          /* strides of g between items and channels */
    ptrdiff_t xn;              /* stride of the window between items */
    ptrdiff_t ldw;             /* stride of dw between output channels */
    int add;                   /* to the chunks before; the first one sets dw and db */
} NAME(chunk);

typedef void (*NAME(dots_fn))(const NAME(chunk) * chunk, const T *g, const T *x, const int32_t *tap, T *dw);

/* The first n < LANES elements at p, the other lanes zero: zero times what lies beyond might be NaN. All LANES elements
 * are read. */
#if LANES > 1
static const TINT NAME(on_then_off)[2 * LANES] = {ON_THEN_OFF};
typedef TINT NAME(umask) __attribute__((vector_size(BYTES), aligned(sizeof(TINT)), may_alias));
#define LOAD_PART(p, n) ((V)((NAME(mask))LOAD(p) & *(const NAME(umask) *)(NAME(on_then_off) + LANES - (n))))
#else
#define LOAD_PART(p, n) ((n) ? *(p) : (T)0)
#endif

/* Lane i of the result is the sum of the lanes of v[i], in an order that is always the same. */
static inline __attribute__((always_inline)) V NAME(sum_lanes)(V *v)
{
#if LANES > 1
    _Pragma("GCC unroll 8") for (int n = LANES / 2; n > 0; n /= 2)
        _Pragma("GCC unroll 16") for (int i = 0; i < n; i++)
            v[i] = SHUFFLE(v[i], v[i + n], RIFFLE_LOW) + SHUFFLE(v[i], v[i + n], RIFFLE_HIGH);
#endif
    return v[0];
}

/* One step of the MR*NR dot products, added to sums[]; READ(p) reads the next vector of a row. */
#define DOT_STEP(MR, NR, READ, SUMS)                                                                                   \
    V xv[NR];                                                                                                          \
    _Pragma("GCC unroll 16") for (int j = 0; j < NR; j++)                                                              \
    {                                                                                                                  \
        xv[j] = READ(xp[j] + q);                                                                                       \
        if (MR > 1)                                                                                                    \
            HOLD(xv[j]);                                                                                               \
    }                                                                                                                  \
    _Pragma("GCC unroll 16") for (int i = 0; i < MR; i++)                                                              \
    {                                                                                                                  \
        V gv = READ(g + i * gc + q);                                                                                   \
        if (NR > 1)                                                                                                    \
            HOLD(gv);                                                                                                  \
        _Pragma("GCC unroll 16") for (int j = 0; j < NR; j++) (SUMS)[i * NR + j] += gv * xv[j];                        \
    }
#define READ_PART(p) LOAD_PART(p, c->cols - q)

/* dw[i*ldw + j] (+)= sum over items and columns q of g[i][q] * x[tap[j] + q]. CHAINS accumulators of each sum take turns:
 * about eight are in flight on two units. */
#define DOTS(MR, NR, CHAINS)                                                                                           \
    static void NAME(dots_##MR##x##NR)(const NAME(chunk) *restrict c, const T *restrict g, const T *restrict x,        \
                                       const int32_t *restrict tap, T *restrict dw)                                    \
    {                                                                                                                  \
        enum { SUMS = (MR * NR + LANES - 1) / LANES * LANES };                                                         \
        V acc[CHAINS][SUMS] = {{{0}}};                                                                                 \
        const ptrdiff_t gc = c->gc;                                                                                    \
        const T *xp[NR];                                                                                               \
        _Pragma("GCC unroll 16") for (int j = 0; j < NR; j++) xp[j] = x + tap[j];                                      \
        for (ptrdiff_t n = 0; n < c->items; n++) {                                                                     \
            ptrdiff_t q = 0;                                                                                           \
            while (CHAINS > 1 && q + CHAINS * LANES <= c->cols) {                                                      \
                _Pragma("GCC unroll 4") for (int u = 0; u < CHAINS; u++, q += LANES)                                   \
                {                                                                                                      \
                    DOT_STEP(MR, NR, LOAD, acc[u])                                                                     \
                }                                                                                                      \
            }                                                                                                          \
            for (; q + LANES <= c->cols; q += LANES) {                                                                 \
                DOT_STEP(MR, NR, LOAD, acc[0])                                                                         \
            }                                                                                                          \
            if (q < c->cols) {                                                                                         \
                DOT_STEP(MR, NR, READ_PART, acc[0])                                                                    \
            }                                                                                                          \
            g += c->gn;                                                                                                \
            _Pragma("GCC unroll 16") for (int j = 0; j < NR; j++) xp[j] += c->xn;                                      \
        }                                                                                                              \
        _Pragma("GCC unroll 4") for (int u = 1; u < CHAINS; u++)                                                       \
            _Pragma("GCC unroll 16") for (int s = 0; s < MR * NR; s++) acc[0][s] += acc[u][s];                         \
        T sums[SUMS];                                                                                                  \
        _Pragma("GCC unroll 32") for (int s = 0; s < SUMS; s += LANES) STORE(sums + s, NAME(sum_lanes)(acc[0] + s));   \
        for (int i = 0; i < MR; i++)                                                                                   \
            for (int j = 0; j < NR; j++) {                                                                             \
                T *out = dw + i * c->ldw + j;                                                                          \
                *out = c->add ? *out + sums[i * NR + j] : sums[i * NR + j];                                            \
            }                                                                                                          \
    }

#define DOTS_1(MR) DOTS(MR, 1, 1)
#define DOTS_2(MR) DOTS_1(MR) DOTS(MR, 2, 1)
#define DOTS_3(MR) DOTS_2(MR) DOTS(MR, 3, 1)
#define DOTS_4(MR) DOTS_3(MR) DOTS(MR, 4, 1)
#define DOTS_6(MR) DOTS_4(MR) DOTS(MR, 5, 1) DOTS(MR, 6, 1)

#define DOT_ROW_3(MR) {0, NAME(dots_##MR##x1), NAME(dots_##MR##x2), NAME(dots_##MR##x3)}
#define DOT_ROW_4(MR) {0, NAME(dots_##MR##x1), NAME(dots_##MR##x2), NAME(dots_##MR##x3), NAME(dots_##MR##x4)}
#define DOT_ROW_6(MR)                                                                                                  \
    {0, NAME(dots_##MR##x1), NAME(dots_##MR##x2), NAME(dots_##MR##x3), NAME(dots_##MR##x4), NAME(dots_##MR##x5),       \
     NAME(dots_##MR##x6)}
#define DOT_ROW_8(MR)                                                                                                  \
    {0, NAME(dots_##MR##x1), NAME(dots_##MR##x2), NAME(dots_##MR##x3), NAME(dots_##MR##x4), NAME(dots_##MR##x5),       \
     NAME(dots_##MR##x6), NAME(dots_##MR##x7), NAME(dots_##MR##x8)}

/* Pointers limit a row to 8 taps: each needs a general register. */
DOTS(1, 1, 4) DOTS(1, 2, 4) DOTS(1, 3, 3) DOTS(1, 4, 2) DOTS(1, 5, 2) DOTS(1, 6, 2) DOTS(1, 7, 1) DOTS(1, 8, 1)
DOTS_6(2) DOTS_4(3)
#if ROWS == 4
DOTS_3(4)
static const NAME(dots_fn) NAME(dots)[ROWS + 1][9] = {{0}, DOT_ROW_8(1), DOT_ROW_6(2), DOT_ROW_4(3), DOT_ROW_3(4)};
static const ptrdiff_t NAME(dot_taps)[ROWS + 1] = {0, 8, 6, 4, 3};
#else
DOTS_6(4) DOTS_4(5) DOTS_4(6) DOTS_3(7) DOTS_3(8)
static const NAME(dots_fn) NAME(dots)[ROWS + 1][9] = {{0},          DOT_ROW_8(1), DOT_ROW_6(2), DOT_ROW_4(3), DOT_ROW_6(4),
                                                      DOT_ROW_4(5), DOT_ROW_4(6), DOT_ROW_3(7), DOT_ROW_3(8)};
static const ptrdiff_t NAME(dot_taps)[ROWS + 1] = {0, 8, 6, 4, 6, 4, 4, 3, 3};
#endif

/* The same as add_rows for rows of less than four vectors, whose lanes are summed together. */
static void NAME(add_short_rows)(const NAME(chunk) *c, const T *g, ptrdiff_t rows, double *db)
{
    for (ptrdiff_t i = 0; i < rows; i += LANES) {
        const ptrdiff_t m = rows - i < LANES ? rows - i : LANES;
        V acc[LANES] = {{0}};
        for (ptrdiff_t r = 0; r < m; r++)
            for (ptrdiff_t n = 0; n < c->items; n++) {
                const T *row = g + n * c->gn + (i + r) * c->gc;
                for (ptrdiff_t q = 0; q < c->cols; q += LANES)
                    acc[r] += c->cols - q < LANES ? LOAD_PART(row + q, c->cols - q) : LOAD(row + q);
            }
        T sums[LANES];
        STORE(sums, NAME(sum_lanes)(acc));
        for (ptrdiff_t r = 0; r < m; r++)
            db[i + r] = c->add ? db[i + r] + sums[r] : sums[r];
    }
}

/* db[i] (+)= the sum of row i of g, i < rows. */
static void NAME(add_rows)(const NAME(chunk) *c, const T *g, ptrdiff_t rows, double *db)
{
    if (c->cols < 4 * LANES) {
        NAME(add_short_rows)(c, g, rows, db);
        return;
    }
    for (ptrdiff_t i = 0; i < rows; i++) {
        V acc[LANES] = {{0}};
        for (ptrdiff_t n = 0; n < c->items; n++) {
            const T *row = g + n * c->gn + i * c->gc;
            ptrdiff_t q = 0;
            for (; q + 4 * LANES <= c->cols; q += 4 * LANES)
                for (int u = 0; u < 4; u++)
                    acc[u % LANES] += LOAD(row + q + u * LANES);
            for (; q < c->cols; q += LANES)
                acc[0] += c->cols - q < LANES ? LOAD_PART(row + q, c->cols - q) : LOAD(row + q);
        }
        T sums[LANES];
        STORE(sums, NAME(sum_lanes)(acc));
        for (int u = 1; u < LANES && u < 4; u++)
            sums[0] += sums[u];
        db[i] = c->add ? db[i] + sums[0] : sums[0];
    }
}

/* Rows of g for output channels [co, co + rows), and how far apart (c->gn, c->gc): in place, or in `copy` if there is
 * one, for rows that have gaps or must not be read past their ends. */
static const T *NAME(rows_of_g)(const fc1d_gradient *q, NAME(chunk) *c, const T *g, ptrdiff_t co, ptrdiff_t rows, T *copy)
{
    const int parts = q->window.parts;
    if (!copy)
        g += co * q->gc;
    c->gn = q->gn;
    c->gc = q->gc;
    if (!copy)
        return g;
    c->gn = (c->cols + LANES - 1) / LANES * LANES;
    c->gc = c->items * c->gn;
    for (ptrdiff_t i = 0; i < rows; i++)
        for (ptrdiff_t n = 0; n < c->items; n++)
            NAME(gather)(copy + i * c->gc + n * c->gn, c->cols, g + n * q->gn + NAME(row_at)(co + i, q->gc, parts), q->gl);
    return copy;
}

/* Ask for rows that are read soon, one line after the other. */
static void NAME(fetch_rows)(const T *row, ptrdiff_t rows, ptrdiff_t pitch, ptrdiff_t elements)
{
    for (ptrdiff_t r = 0; r < rows; r++)
        for (ptrdiff_t i = 0; i < elements; i += 64 / (ptrdiff_t)sizeof(T))
            PREFETCH(row + r * pitch + i);
}

/* All (channel, tap) pairs of a window block for output channels [co0, co1). */
static void NAME(run_dots)(const fc1d_gradient *q, NAME(chunk) c, ptrdiff_t co0, ptrdiff_t co1, const T *g,
                           const T *window, const int32_t *tap, ptrdiff_t n_taps, T *dw, double *db, T *copy)
{
    for (ptrdiff_t co = co0, rows; co < co1; co += rows) {
        rows = co1 - co < ROWS ? co1 - co : ROWS;
        const T *gr = NAME(rows_of_g)(q, &c, g, co, rows, copy);
        const ptrdiff_t widest = NAME(dot_taps)[rows], strips = (n_taps + widest - 1) / widest;
        const ptrdiff_t next = co1 - co - rows < ROWS ? co1 - co - rows : ROWS;
        const ptrdiff_t piece = strips ? (c.cols + strips - 1) / strips : 0;
        for (ptrdiff_t s = 0, j = 0, nr; s < strips; s++, j += nr) {
            if (!copy && c.items == 1 && next > 0) /* the next rows arrive meanwhile: up to 1.1x with operands in memory */
                NAME(fetch_rows)(gr + rows * c.gc + s * piece, next, c.gc, piece);
            nr = (n_taps - j) / (strips - s);
            NAME(dots)[rows][nr](&c, gr, window, tap + j, dw + co * c.ldw + j);
        }
        if (db)
            NAME(add_rows)(&c, gr, rows, db + co);
    }
}

/* ---- panels ----------------------------------------------------------------------------------------------------
 * Vectors along input channels: a chunk of the window is transposed to panel[position][channel], rows of g are
 * interleaved like a packed weight, and the register tile of the forward sums over a chunk's columns t:
 *
 *     sums[co][k][ci] (+)= sum over t of g[co][t] * panel[column[t] + tap[k]*width + ci]
 *
 * No lanes are summed, however few the columns; sums are transposed to dw when the last chunk is done, or where that is
 * the only one, those of a few output channels at a time.
 */

/* panel[t*rows + i] = row i of g at column t, the columns of all items behind one another. */
static void NAME(interleave_rows)(const NAME(chunk) *c, const T *g, ptrdiff_t rows, T *panel)
{
    for (ptrdiff_t n = 0; n < c->items; n++, g += c->gn, panel += c->cols * rows) {
        ptrdiff_t q = 0;
#if LANES > 1
        if (rows == ROWS)
            q = NAME(interleave)(g, c->gc, c->cols, panel, ROWS);
#endif
        for (; q < c->cols; q++)
            for (ptrdiff_t i = 0; i < rows; i++)
                panel[q * rows + i] = g[i * c->gc + q];
    }
}

/* Output channels [co0, co1) of g in panels of ROWS rows, and their sums for db. */
static void NAME(pack_g)(const fc1d_gradient *q, NAME(chunk) c, ptrdiff_t co0, ptrdiff_t co1, const T *g, T *panel,
                         double *db, T *copy)
{
    for (ptrdiff_t co = co0, rows; co < co1; co += rows, panel += rows * c.items * c.cols) {
        rows = co1 - co < ROWS ? co1 - co : ROWS;
        const T *gr = NAME(rows_of_g)(q, &c, g, co, rows, copy);
        NAME(interleave_rows)(&c, gr, rows, panel);
        if (db)
            NAME(add_rows)(&c, gr, rows, db + co);
    }
}

/* Channels [ci, ci + nv*LANES) of the window, transposed; those beyond c_in are zero. */
static void NAME(pack_panel)(const fc1d_gradient *q, const T *x, ptrdiff_t items, ptrdiff_t ci, ptrdiff_t nv,
                             ptrdiff_t q0, ptrdiff_t cols, T *scratch)
{
    const fc1d_problem *p = &q->window;
    const ptrdiff_t n_ci = p->c_in - ci < nv * LANES ? p->c_in - ci : nv * LANES;
    NAME(pack_window)(p, x - (const T *)p->x, 0, items, ci, n_ci, q0 * q->stride, (cols - 1) * q->stride + 1, scratch);
    memset(scratch + n_ci * p->row_pitch, 0, (size_t)((nv * LANES - n_ci) * p->row_pitch) * sizeof(T));
    T *panel = scratch + q->panel_offset;
    for (ptrdiff_t v = 0; v < nv * LANES; v += LANES)
        for (ptrdiff_t i = 0; i < p->row_pitch; i += LANES)
            NAME(transpose_to)(scratch + v * p->row_pitch + i, p->row_pitch, panel + v, q->place + i);
}

#if LANES > 1
/* dw[ci*taps + k] = sums[k*pitch + ci] for ci < n_ci and `n_k` taps; `step` >= n_k are written, the ones too many in the
 * place of the next channel's, which are written later. */
static inline __attribute__((always_inline)) void NAME(transpose_taps)(const T *sums, ptrdiff_t pitch, ptrdiff_t n_ci,
                                                                       ptrdiff_t taps, ptrdiff_t n_k, T *dw,
                                                                       const int step)
{
    T tile[8 * LANES];
    ptrdiff_t ci = taps == step ? NAME(interleave)(sums, pitch, n_ci, dw, step) : 0;
    for (; ci + LANES < n_ci; ci += LANES) {
        NAME(interleave)(sums + ci, pitch, LANES, tile, step);
        _Pragma("GCC unroll 16") for (ptrdiff_t i = 0; i < LANES; i++)
            memcpy(dw + (ci + i) * taps, tile + i * step, (size_t)step * sizeof(T));
    }
    if (ci >= n_ci)
        return;
    NAME(interleave)(sums + ci, pitch, LANES, tile, step);
    for (ptrdiff_t i = 0; ci + i < n_ci; i++)
        for (ptrdiff_t k = 0; k < n_k; k++)
            dw[(ci + i) * taps + k] = tile[i * step + k];
}
#endif

/* dw[ci*taps + k] = or += sums[k*pitch + ci] for ci < n_ci and all taps: eight at a time, then what is left, with taps
 * before it where it is no power of two. Where hardly any tap is `live`, the others are cleared first. */
static void NAME(transpose_sums)(const T *sums, ptrdiff_t pitch, ptrdiff_t n_ci, ptrdiff_t taps, const int32_t *live,
                                 ptrdiff_t n_live, T *dw, int add)
{
    if (add || 4 * n_live <= taps) {
        if (!add)
            memset(dw, 0, (size_t)(n_ci * taps) * sizeof(T));
        for (ptrdiff_t j = 0; j < n_live; j++)
            for (ptrdiff_t ci = 0; ci < n_ci; ci++)
                dw[ci * taps + live[j]] += sums[live[j] * pitch + ci];
        return;
    }
    ptrdiff_t k = 0;
#if LANES > 1
    for (; k + 8 <= taps; k += 8)
        NAME(transpose_taps)(sums + k * pitch, pitch, n_ci, taps, 8, dw + k, 8);
    const ptrdiff_t left = taps - k, step = left <= 2 ? left : left <= 4 ? 4 : 8;
    const ptrdiff_t first = taps >= step ? taps - step : k, n_k = taps - first;
    if (left == 1)
        NAME(transpose_taps)(sums + first * pitch, pitch, n_ci, taps, n_k, dw + first, 1);
    else if (left == 2)
        NAME(transpose_taps)(sums + first * pitch, pitch, n_ci, taps, n_k, dw + first, 2);
    else if (left > 0 && left <= 4)
        NAME(transpose_taps)(sums + first * pitch, pitch, n_ci, taps, n_k, dw + first, 4);
    else if (left > 4)
        NAME(transpose_taps)(sums + first * pitch, pitch, n_ci, taps, n_k, dw + first, 8);
#else
    for (ptrdiff_t ci = 0; ci < n_ci; ci++)
        for (k = 0; k < taps; k++)
            dw[ci * taps + k] = sums[k * pitch + ci];
#endif
}

/* The taps that read some of the input in columns [q0, q0 + cols); returns how many. The others read zeros, which times
 * a finite g add nothing. */
static ptrdiff_t NAME(find_taps)(const fc1d_gradient *q, ptrdiff_t q0, ptrdiff_t cols, int finite, int32_t *live)
{
    const fc1d_problem *p = &q->window;
    ptrdiff_t n = 0;
    for (ptrdiff_t k = 0; k < p->kernel_size; k++) {
        const ptrdiff_t first = q->base + p->pos[k] + q0 * q->stride;
        const ptrdiff_t skip = first < 0 ? (-first + q->stride - 1) / q->stride : 0;
        if (p->mode != FC1D_ZEROS || (skip < cols && first + skip * q->stride < p->l_in) || !finite)
            live[n++] = (int32_t)k;
    }
    return n;
}

/* sums[co][k][ci] = or += the products of channels [co0, co1) of g with a panel of nv vectors. */
static void NAME(multiply_panel)(const fc1d_gradient *q, ptrdiff_t co0, ptrdiff_t co1, ptrdiff_t nv, ptrdiff_t kc,
                                 const T *g, const T *panel, const int32_t *live, ptrdiff_t n_live, T *sums,
                                 ptrdiff_t co_pitch, ptrdiff_t k_pitch, int add)
{
    for (ptrdiff_t j = 0; j < n_live; j++) /* a tap's part of the panel stays in L1, g passes */
        for (ptrdiff_t co = co0, rows; co < co1; co += rows) {
            rows = co1 - co < ROWS ? co1 - co : ROWS;
            const ptrdiff_t k = q->swapped ? q->window.kernel_size - 1 - live[j] : live[j];
            T *to = sums + (co - co0) * co_pitch + k * k_pitch;
            NAME(expect)(to, rows, co_pitch, nv * LANES);
            NAME(tiles)[rows][nv](kc, NULL, g + co * kc, panel + q->window.tap[live[j]], q->column, to, co_pitch, NULL, add, NULL);
        }
}

/* The same for a gradient that has all its sums in one chunk: some output channels' in L1, and from there to dw, or where
 * there is one tap, at once. */
static void NAME(finish_panel)(const fc1d_gradient *q, ptrdiff_t n_co, ptrdiff_t ci, ptrdiff_t nv, ptrdiff_t kc,
                               const T *g, const T *panel, const int32_t *live, ptrdiff_t n_live, T *sums, T *dw)
{
    const fc1d_problem *p = &q->window;
    const ptrdiff_t taps = p->kernel_size, ldw = p->c_in * taps, n_ci = p->c_in - ci < nv * LANES ? p->c_in - ci : nv * LANES;
    if (q->swapped) {
        NAME(multiply_panel)(q, 0, n_co, nv, kc, g, panel, live, n_live, sums, q->sums_pitch, q->panel, 0);
        NAME(transpose_sums)(sums, q->panel, n_ci, n_co * taps, NULL, n_co * taps, dw + ci * n_co * taps, 0);
        return;
    }
    if (taps == 1 && n_live == 1 && n_ci == nv * LANES && !q->add) {
        NAME(multiply_panel)(q, 0, n_co, nv, kc, g, panel, live, 1, dw + ci, ldw, 0, 0);
        return;
    }
    for (ptrdiff_t co = 0; co < n_co; co += q->finish_rows) {
        const ptrdiff_t end = n_co - co < q->finish_rows ? n_co : co + q->finish_rows;
        NAME(multiply_panel)(q, co, end, nv, kc, g, panel, live, n_live, sums, q->sums_pitch, q->panel, 0);
        for (ptrdiff_t i = co; i < end; i++) {
            T *row = dw + i * ldw + ci * taps;
            if (i + 2 < n_co && n_ci * taps * (ptrdiff_t)sizeof(T) <= EMIT_AHEAD_BYTES)
                NAME(expect)(row + 2 * ldw, 1, 0, n_ci * taps);
            NAME(transpose_sums)(sums + (i - co) * q->sums_pitch, q->panel, n_ci, taps, live, n_live, row, q->add);
        }
    }
}

/* One chunk of the sums of output channels [co0, co1), which dw begins with. */
static void NAME(run_panels)(const fc1d_gradient *q, const NAME(chunk) * c, ptrdiff_t co0, ptrdiff_t co1, const T *g,
                             const T *x, ptrdiff_t q0, T *dw, double *db, T *scratch, T *copy)
{
    const fc1d_problem *p = &q->window;
    const ptrdiff_t n_vec = (p->c_in + LANES - 1) / LANES, kc = c->items * c->cols, n_co = co1 - co0, taps = p->kernel_size;
    const ptrdiff_t widest = q->panel / LANES, strips = (n_vec + widest - 1) / widest;
    T *panel = scratch + q->panel_offset, *g_panel = scratch + q->g_offset, *sums = scratch + q->sums_offset;
    int32_t *live = (int32_t *)(scratch + q->live_offset);
    NAME(pack_g)(q, *c, co0, co1, g, g_panel, db, copy);
    ptrdiff_t n_live = NAME(find_taps)(q, q0, c->cols, 1, live);
    if (n_live < taps && !NAME(all_finite)(g_panel, n_co * kc))
        n_live = NAME(find_taps)(q, q0, c->cols, 0, live);
    if (n_live < taps && !c->add)
        memset(sums, 0, (size_t)((q->finish_rows ? q->finish_rows : n_co) * q->sums_pitch) * sizeof(T));
    /* the rows of the next chunk, while this one is computed */
    const ptrdiff_t next = p->n_cols - q0 - c->cols, ahead = next < c->cols ? next : c->cols;
    if (ahead > 0 && q->gl == 1)
        NAME(fetch_rows)(g + co0 * q->gc + c->cols, n_co, q->gc, ahead);
    if (ahead > 0 && p->xl == 1)
        NAME(fetch_rows)(x + (q0 + c->cols) * q->stride, p->c_in, p->xc, ahead * q->stride);
    for (ptrdiff_t s = 0, v = 0, nv; s < strips; s++, v += nv) {
        nv = (n_vec - v) / (strips - s);
        NAME(pack_panel)(q, x, c->items, v * LANES, nv, q0, c->cols, scratch);
        if (q->finish_rows)
            NAME(finish_panel)(q, n_co, v * LANES, nv, kc, g_panel, panel, live, n_live, sums, dw + co0 * c->ldw);
        else
            NAME(multiply_panel)(q, 0, n_co, nv, kc, g_panel, panel, live, n_live, sums + v * LANES, q->sums_pitch,
                                 n_vec * LANES, c->add);
    }
}

/* The sums of all chunks, of output channels [co0, co1), to dw. */
static void NAME(finish_sums)(const fc1d_gradient *q, ptrdiff_t co0, ptrdiff_t co1, T *dw, T *scratch)
{
    const fc1d_problem *p = &q->window;
    const ptrdiff_t taps = p->kernel_size, ldw = p->c_in * taps, pitch = q->sums_pitch / taps;
    int32_t *all = (int32_t *)(scratch + q->live_offset);
    if (q->swapped) {
        const ptrdiff_t n = p->c_out * taps;
        NAME(transpose_sums)(scratch + q->sums_offset, pitch, p->c_in, n, NULL, n, dw, 0);
        return;
    }
    for (ptrdiff_t k = 0; k < taps; k++)
        all[k] = (int32_t)k;
    for (ptrdiff_t co = co0; co < co1; co++)
        NAME(transpose_sums)(scratch + q->sums_offset + (co - co0) * q->sums_pitch, pitch, p->c_in, taps, all, taps,
                             dw + co * ldw, q->add);
}

/* ---- depthwise layers: the gradient by the input in the same pass ----------------------------------------------- */

/* y[q] = sum over k of w[k] * x[tap[k] + q], q < cols. */
static void NAME(correlate_row)(const fc1d_problem *p, const T *w, const T *x, const int32_t *tap, T *y, ptrdiff_t cols)
{
    const ptrdiff_t whole = cols / LANES * LANES;
    NAME(row)[p->kernel_size](w, x, tap, y, whole, NULL);
    if (whole < cols) {
        T edge[LANES];
        NAME(row)[p->kernel_size](w, x + whole, tap, edge, LANES, NULL);
        memcpy(y + whole, edge, (size_t)(cols - whole) * sizeof(T));
    }
}

/* dx[i] = sum over k of w[k] * g[i - base + back[k]] for positions [from, to), with zeros beyond the ends of g. */
static void NAME(scatter_ends)(const fc1d_gradient *q, const T *w, const T *g, T *dx, ptrdiff_t from, ptrdiff_t to)
{
    for (ptrdiff_t i = from; i < to; i += LANES) {
        T piece[LANES];
        V sum = {0};
        for (ptrdiff_t k = 0; k < q->window.kernel_size; k++) {
            const ptrdiff_t column = i - q->base + q->back[k];
            for (ptrdiff_t l = 0; l < LANES; l++)
                piece[l] = column + l >= 0 && column + l < q->window.n_cols ? g[column + l] : 0;
            sum += w[k] * LOAD(piece);
        }
        STORE(piece, sum);
        memcpy(dx + i, piece, (size_t)(to - i < LANES ? to - i : LANES) * sizeof(T));
    }
}

/* The same for all positions of a row. */
static void NAME(scatter_row)(const fc1d_gradient *q, const T *w, const T *g, T *dx)
{
    const fc1d_problem *p = &q->window;
    const ptrdiff_t first = q->base - q->back[p->kernel_size - 1], lo = first > 0 ? first : 0;
    const ptrdiff_t last = p->n_cols + q->base < p->l_in ? p->n_cols + q->base : p->l_in;
    const ptrdiff_t inside = last > lo ? (last - lo) / LANES * LANES : 0;
    NAME(scatter_ends)(q, w, g, dx, 0, lo < p->l_in ? lo : p->l_in);
    if (inside)
        NAME(row)[p->kernel_size](w, g + lo - q->base, q->back, dx + lo, inside, NULL);
    NAME(scatter_ends)(q, w, g, dx, lo + inside, p->l_in);
}

/* Columns [q0, q0 + c.cols) of the items from n on: their part of dw and db, or of the sums in scratch. The input is read
 * in place where it can be and no column reads padding. */
static void NAME(run_columns)(const fc1d_gradient *q, NAME(chunk) c, ptrdiff_t group, ptrdiff_t co0, ptrdiff_t co1,
                              ptrdiff_t n, ptrdiff_t q0, int inside, T *dw, double *db, T *scratch)
{
    const fc1d_problem *p = &q->window;
    const T *g = (const T *)q->g + n * q->gn + NAME(row_at)(group * p->c_out, q->gc, p->parts) + q0 * q->gl;
    const T *x = (const T *)p->x + n * p->xn + NAME(row_at)(group * p->c_in, p->xc, p->parts);
    /* the last row of all may end at the end of the memory */
    const ptrdiff_t beyond = (c.cols + LANES - 1) / LANES * LANES + (c.items - 1) * (q->gn > 0 ? q->gn : 0) +
                             (q->gc > 0 ? (co1 - 1) * q->gc : co0 * q->gc);
    const int unsafe = p->parts == 2 || q->gl != 1 || (c.cols % LANES && g + beyond > (const T *)q->g_end);
    T *copy = unsafe ? scratch + q->copy_offset : NULL;
    const int fetch = q->fetch && group + 1 < p->groups && !q->in_place;
    if (fetch)
        NAME(fetch_rows)(g + q->gc, c.items, q->gn, c.cols);
    if (!dw) {
        NAME(run_dots)(q, c, co0, co1, g, NULL, NULL, 0, NULL, db, copy);
        return;
    }
    if (q->panel) {
        NAME(run_panels)(q, &c, co0, co1, g, x, q0, dw, db, scratch, copy);
        return;
    }
    const T *window = scratch;
    const int32_t *tap = p->tap;
    const int in_place = inside && p->xl == 1;
    if (in_place) {
        window = x + q0 + q->base;
        tap = q->in_place;
        c.xn = p->xn;
    }
    for (ptrdiff_t ci = 0; ci < p->c_in; ci += p->ci_block) {
        const ptrdiff_t n_ci = p->c_in - ci < p->ci_block ? p->c_in - ci : p->ci_block;
        if (!in_place)
            NAME(pack_window)(p, x - (const T *)p->x, 0, c.items, ci, n_ci, q0, c.cols, scratch);
        if (fetch)
            NAME(fetch_rows)(x + p->xc + q0 * p->x_step, c.items, p->xn, c.cols * p->x_step);
        NAME(run_dots)(q, c, co0, co1, g, window, tap, n_ci * p->kernel_size, dw + ci * p->kernel_size,
                       ci == 0 ? db : NULL, copy);
    }
    for (ptrdiff_t i = 0; q->dx && !q->scatter && i < c.items; i++)
        NAME(correlate_row)(p, (const T *)q->w + group * p->kernel_size, window + i * c.xn, tap,
                            (T *)q->dx + ((n + i) * p->groups + group) * p->n_cols + q0, c.cols);
}

/* One chunk. The columns of a depthwise layer that read no padding are a sum apart. */
static void NAME(run_chunk)(const fc1d_gradient *q, ptrdiff_t group, ptrdiff_t co0, ptrdiff_t co1, ptrdiff_t i, int add,
                            T *dw, double *db, T *scratch)
{
    const fc1d_problem *p = &q->window;
    const ptrdiff_t q0 = i % p->n_tiles * p->tile_cols, n = i / p->n_tiles * p->items_per_unit;
    const ptrdiff_t q1 = p->n_cols - q0 < p->tile_cols ? p->n_cols : q0 + p->tile_cols;
    ptrdiff_t bounds[4] = {q0, q1, q1, q1};
    NAME(chunk) c = {
        .items = p->n_batch - n < p->items_per_unit ? p->n_batch - n : p->items_per_unit,
        .xn = p->item_pitch, .ldw = p->c_in * p->kernel_size, .add = add,
    };
    if (q->in_place) {
        const ptrdiff_t lo = q->inside < q0 ? q0 : q->inside < q1 ? q->inside : q1;
        const ptrdiff_t hi = q->beyond < lo ? lo : q->beyond < q1 ? q->beyond : q1;
        bounds[1] = lo;
        bounds[2] = lo + (hi - lo) / LANES * LANES;
    }
    for (int part = 0; part < 3; part++) {
        c.cols = bounds[part + 1] - bounds[part];
        if (c.cols == 0)
            continue;
        NAME(run_columns)(q, c, group, co0, co1, n, bounds[part], part == 1, dw, db, scratch);
        c.add = 1;
    }
}

/* One unit: some groups, some output channels, one of the partial sums. Depthwise groups pass item by item, in the order
 * of memory. */
static void NAME(run_gradient)(const fc1d_gradient *q, ptrdiff_t unit, void *scratch)
{
    const fc1d_problem *p = &q->window;
    const ptrdiff_t part = unit % q->parts;
    unit /= q->parts;
    const ptrdiff_t co0 = unit % p->n_co_units * p->co_unit;
    const ptrdiff_t co1 = p->c_out - co0 < p->co_unit ? p->c_out : co0 + p->co_unit;
    const ptrdiff_t g0 = unit / p->n_co_units * p->groups_per_unit, ldw = p->c_in * p->kernel_size;
    const ptrdiff_t first = q->first_chunk + q->chunks * part / q->parts;
    const ptrdiff_t last = q->first_chunk + q->chunks * (part + 1) / q->parts;
    const ptrdiff_t visit = q->parts == 1 && p->c_in * p->c_out == 1 ? p->n_tiles : last - first;
    for (ptrdiff_t begin = first; begin < last; begin += visit)
        for (ptrdiff_t group = g0; group < p->groups && group < g0 + p->groups_per_unit; group++) {
            T *dw = q->dw ? (T *)q->dw + part * q->dw_part + group * p->c_out * ldw : NULL;
            double *db = q->db ? q->db + part * q->db_part + group * p->c_out : NULL;
            for (ptrdiff_t i = begin; i < begin + visit && i < last; i++)
                NAME(run_chunk)(q, group, co0, co1, i, i > first, dw, db, (T *)scratch);
            if (q->panel && dw && !q->finish_rows)
                NAME(finish_sums)(q, co0, co1, dw, (T *)scratch);
            const ptrdiff_t n0 = begin / p->n_tiles * p->items_per_unit, n1 = n0 + p->items_per_unit;
            for (ptrdiff_t n = n0; q->dx && q->scatter && n < n1 && n < p->n_batch; n++)
                NAME(scatter_row)(q, (const T *)q->w + group * p->kernel_size,
                                  (const T *)q->g + n * q->gn + group * q->gc,
                                  (T *)q->dx + (n * p->groups + group) * p->l_in);
        }
}
