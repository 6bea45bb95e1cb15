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

/* One step of the MR*NR dot products; READ(p) reads the next vector of a row. */
#define DOT_STEP(MR, NR, READ)                                                                                         \
    V xv[NR];                                                                                                          \
    _Pragma("GCC unroll 16") for (int j = 0; j < NR; j++) xv[j] = READ(xp[j] + q);                                     \
    _Pragma("GCC unroll 16") for (int i = 0; i < MR; i++)                                                              \
    {                                                                                                                  \
        const V gv = READ(g + i * gc + q);                                                                             \
        _Pragma("GCC unroll 16") for (int j = 0; j < NR; j++) acc[i * NR + j] += gv * xv[j];                           \
    }
#define READ_PART(p) LOAD_PART(p, c->cols - q)

/* dw[i*ldw + j] (+)= sum over items and columns q of g[i][q] * x[tap[j] + q]. */
#define DOTS(MR, NR)                                                                                                   \
    static void NAME(dots_##MR##x##NR)(const NAME(chunk) *restrict c, const T *restrict g, const T *restrict x,        \
                                       const int32_t *restrict tap, T *restrict dw)                                    \
    {                                                                                                                  \
        enum { SUMS = (MR * NR + LANES - 1) / LANES * LANES };                                                         \
        V acc[SUMS] = {{0}};                                                                                           \
        const ptrdiff_t gc = c->gc;                                                                                    \
        const T *xp[NR];                                                                                               \
        _Pragma("GCC unroll 16") for (int j = 0; j < NR; j++) xp[j] = x + tap[j];                                      \
        for (ptrdiff_t n = 0; n < c->items; n++) {                                                                     \
            ptrdiff_t q = 0;                                                                                           \
            for (; q + LANES <= c->cols; q += LANES) {                                                                 \
                DOT_STEP(MR, NR, LOAD)                                                                                 \
            }                                                                                                          \
            if (q < c->cols) {                                                                                         \
                DOT_STEP(MR, NR, READ_PART)                                                                            \
            }                                                                                                          \
            g += c->gn;                                                                                                \
            _Pragma("GCC unroll 16") for (int j = 0; j < NR; j++) xp[j] += c->xn;                                      \
        }                                                                                                              \
        T sums[SUMS];                                                                                                  \
        _Pragma("GCC unroll 32") for (int s = 0; s < SUMS; s += LANES) STORE(sums + s, NAME(sum_lanes)(acc + s));      \
        for (int i = 0; i < MR; i++)                                                                                   \
            for (int j = 0; j < NR; j++) {                                                                             \
                T *out = dw + i * c->ldw + j;                                                                          \
                *out = c->add ? *out + sums[i * NR + j] : sums[i * NR + j];                                            \
            }                                                                                                          \
    }

#define DOTS_1(MR) DOTS(MR, 1)
#define DOTS_2(MR) DOTS_1(MR) DOTS(MR, 2)
#define DOTS_3(MR) DOTS_2(MR) DOTS(MR, 3)
#define DOTS_4(MR) DOTS_3(MR) DOTS(MR, 4)
#define DOTS_6(MR) DOTS_4(MR) DOTS(MR, 5) DOTS(MR, 6)
#define DOTS_8(MR) DOTS_6(MR) DOTS(MR, 7) DOTS(MR, 8)

#define DOT_ROW_3(MR) {0, NAME(dots_##MR##x1), NAME(dots_##MR##x2), NAME(dots_##MR##x3)}
#define DOT_ROW_4(MR) {0, NAME(dots_##MR##x1), NAME(dots_##MR##x2), NAME(dots_##MR##x3), NAME(dots_##MR##x4)}
#define DOT_ROW_6(MR)                                                                                                  \
    {0, NAME(dots_##MR##x1), NAME(dots_##MR##x2), NAME(dots_##MR##x3), NAME(dots_##MR##x4), NAME(dots_##MR##x5),       \
     NAME(dots_##MR##x6)}
#define DOT_ROW_8(MR)                                                                                                  \
    {0, NAME(dots_##MR##x1), NAME(dots_##MR##x2), NAME(dots_##MR##x3), NAME(dots_##MR##x4), NAME(dots_##MR##x5),       \
     NAME(dots_##MR##x6), NAME(dots_##MR##x7), NAME(dots_##MR##x8)}

/* Pointers limit a row to 8 taps: each needs a general register. */
DOTS_8(1) DOTS_6(2) DOTS_4(3)
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

/* db[i] (+)= the sum of row i of g, i < rows. */
static void NAME(add_rows)(const NAME(chunk) *c, const T *g, ptrdiff_t rows, double *db)
{
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

/* All (channel, tap) pairs of a window block for output channels [co0, co1); `copy`, if there is one, takes rows of g
 * that have gaps or must not be read past their ends. */
static void NAME(run_dots)(NAME(chunk) c, ptrdiff_t co0, ptrdiff_t co1, const T *g, ptrdiff_t gl, const T *window,
                           const int32_t *tap, ptrdiff_t n_taps, T *dw, double *db, T *copy)
{
    const T *rows_of_g = g + co0 * c.gc;
    const ptrdiff_t gn = c.gn, gc = c.gc, pitch = (c.cols + LANES - 1) / LANES * LANES;
    for (ptrdiff_t co = co0, rows; co < co1; co += rows, rows_of_g = g + co * gc) {
        rows = co1 - co < ROWS ? co1 - co : ROWS;
        if (copy) {
            for (ptrdiff_t i = 0; i < rows; i++)
                for (ptrdiff_t n = 0; n < c.items; n++)
                    NAME(gather)(copy + (i * c.items + n) * pitch, c.cols, rows_of_g + n * gn + i * gc, gl);
            c.gn = pitch;
            c.gc = c.items * pitch;
            rows_of_g = copy;
        }
        const ptrdiff_t widest = NAME(dot_taps)[rows], strips = (n_taps + widest - 1) / widest;
        for (ptrdiff_t s = 0, j = 0, nr; s < strips; s++, j += nr) {
            nr = (n_taps - j) / (strips - s);
            NAME(dots)[rows][nr](&c, rows_of_g, window, tap + j, dw + co * c.ldw + j);
        }
        if (db)
            NAME(add_rows)(&c, rows_of_g, rows, db + co);
    }
}

/* Ask for the rows that a chunk of the next group will read, one line after the other. */
static void NAME(fetch_rows)(const T *row, ptrdiff_t rows, ptrdiff_t pitch, ptrdiff_t elements)
{
    for (ptrdiff_t r = 0; r < rows; r++)
        for (ptrdiff_t i = 0; i < elements; i += 64 / (ptrdiff_t)sizeof(T))
            PREFETCH(row + r * pitch + i);
}

/* One unit: some groups, some output channels, one of the partial sums. */
static void NAME(run_gradient)(const fc1d_gradient *q, ptrdiff_t unit, void *scratch)
{
    const fc1d_problem *p = &q->window;
    const ptrdiff_t part = unit % q->parts;
    unit /= q->parts;
    const ptrdiff_t co0 = unit % p->n_co_units * p->co_unit;
    const ptrdiff_t co1 = p->c_out - co0 < p->co_unit ? p->c_out : co0 + p->co_unit;
    const ptrdiff_t g0 = unit / p->n_co_units * p->groups_per_unit;
    const ptrdiff_t ldw = p->c_in * p->kernel_size;
    for (ptrdiff_t group = g0; group < p->groups && group < g0 + p->groups_per_unit; group++) {
        T *dw = q->dw ? (T *)q->dw + part * q->dw_part + group * p->c_out * ldw : NULL;
        double *db = q->db ? q->db + part * q->db_part + group * p->c_out : NULL;
        const ptrdiff_t first = q->chunks * part / q->parts;
        for (ptrdiff_t i = first; i < q->chunks * (part + 1) / q->parts; i++) {
            const ptrdiff_t q0 = i % p->n_tiles * p->tile_cols, n = i / p->n_tiles * p->items_per_unit;
            const NAME(chunk) c = {
                .items = p->n_batch - n < p->items_per_unit ? p->n_batch - n : p->items_per_unit,
                .cols = p->n_cols - q0 < p->tile_cols ? p->n_cols - q0 : p->tile_cols,
                .gn = q->gn, .gc = q->gc, .xn = p->item_pitch, .ldw = ldw, .add = i > first,
            };
            const T *g = (const T *)q->g + n * q->gn + group * p->c_out * q->gc + q0 * q->gl;
            const T *x = (const T *)p->x + n * p->xn + group * p->c_in * p->xc;
            /* the last row of all may end at the end of the memory */
            const ptrdiff_t beyond = (c.cols + LANES - 1) / LANES * LANES + (c.items - 1) * (q->gn > 0 ? q->gn : 0) +
                                     (q->gc > 0 ? (co1 - 1) * q->gc : co0 * q->gc);
            if (q->fetch && group + 1 < p->groups) {
                NAME(fetch_rows)(g + q->gc, c.items, q->gn, c.cols);
                NAME(fetch_rows)(x + p->xc + q0 * p->x_step, c.items, p->xn, c.cols * p->x_step);
            }
            T *copy = q->gl != 1 || (c.cols % LANES && g + beyond > (const T *)q->g_end)
                          ? (T *)scratch + p->window_elems
                          : NULL;
            if (!dw)
                NAME(run_dots)(c, co0, co1, g, q->gl, NULL, NULL, 0, NULL, db, copy);
            for (ptrdiff_t ci = 0; dw && ci < p->c_in; ci += p->ci_block) {
                const ptrdiff_t n_ci = p->c_in - ci < p->ci_block ? p->c_in - ci : p->ci_block;
                NAME(pack_window)(p, x, c.items, ci, n_ci, q0, c.cols, (T *)scratch);
                NAME(run_dots)(c, co0, co1, g, q->gl, (const T *)scratch, p->tap, n_ci * p->kernel_size,
                               dw + ci * p->kernel_size, ci == 0 ? db : NULL, copy);
            }
        }
    }
}
