/* Windows and results of correlates of two dimensions, included by template.h.
 *
 * A channel's row of the window is made of runs, as in one dimension, but a run holds a row of each slot, item_pitch
 * elements apart: slot s, element e of it is
 *
 *     window[run.offset + s*item_pitch + e] = x[row of the slot][run.start + e*x_step]
 *
 * Output row i of the tile reads slot i of a run of rows, so a tap (kh, kw) is one place for all rows and columns, and what
 * the register tiles see is a stride-1 sum over one long row. Between the columns of two output rows lie those where taps
 * reach into the next row; nobody keeps them, but what they read is written, as old bytes may be denormal numbers. Where zeros pad both ends, the zeros after a row are those before the next.
 */

/* A slot of n + gap elements: zeros, and src[0, hi - lo) from lo on. Whole vectors are written, beyond the slot as well:
 * what follows it is written later, or read by columns that nobody keeps. */
static inline void NAME(pack_slot)(T *dst, const T *src, ptrdiff_t lo, ptrdiff_t hi, ptrdiff_t end, const T *x_end)
{
    for (ptrdiff_t e = 0; e < lo; e += LANES)
        STORE(dst + e, (V){0});
    if (hi - lo < LANES && src + LANES <= x_end && hi > lo)
        STORE(dst + lo, LOAD(src));
    else if (hi > lo)
        NAME(gather)(dst + lo, hi - lo, src, 1);
    for (ptrdiff_t e = hi; e < end; e += LANES)
        STORE(dst + e, (V){0});
}

/* `rows` output rows from o0 on of one batch item, columns [q0, q0 + width), channels [ci, ci + n_ci); x and first as in
 * pack_window. */
static void NAME(pack_planes)(const fc1d_problem *p, ptrdiff_t x, ptrdiff_t first, ptrdiff_t o0, ptrdiff_t rows,
                              ptrdiff_t ci, ptrdiff_t n_ci, ptrdiff_t q0, ptrdiff_t width, T *window)
{
    const ptrdiff_t step = p->x_step, l_in = p->l_in, top = o0 * p->row_step;
    const int zeros = p->mode == FC1D_ZEROS || l_in == 0 || p->rows_in == 0;
    /* Channels side by side are transposed together, others read one after another, as they lie in memory. */
    const ptrdiff_t m = p->xc == 1 && p->xl != 1 ? n_ci : 1;
    const int in_vectors = m == 1 && step * p->xl == 1 && !p->half && zeros && !p->before.function;
    NAME(finish) before;
    if (p->before.function)
        before = NAME(finish_of)(&p->before, NULL, 0, 0, 0);
    for (ptrdiff_t c0 = 0; c0 < n_ci; c0 += m)
        for (ptrdiff_t r = 0; r < p->n_runs; r++) {
            const fc1d_run *run = p->runs + r;
            const ptrdiff_t n = width + run->extra, start = q0 * step + run->start;
            ptrdiff_t lo = start >= 0 ? 0 : step == 1 ? -start : (-start + step - 1) / step; /* [lo, hi) inside the input */
            ptrdiff_t hi = start >= l_in ? 0 : step == 1 ? l_in - start : (l_in - 1 - start) / step + 1;
            lo = lo < n ? lo : n;
            hi = hi < n ? hi : n;
            hi = hi > lo ? hi : lo;
            const ptrdiff_t gap = p->item_pitch > n ? p->item_pitch - n : 0;
            T *slot = window + c0 * p->row_pitch + run->offset, *end = slot;
            for (ptrdiff_t v = 0; v < p->n_row_runs; v++)
                for (ptrdiff_t i = 0; i < rows + p->row_runs[v].extra; i++) {
                    T *dst = slot + (p->row_runs[v].offset + i) * p->item_pitch;
                    end = dst + n + gap;
                    ptrdiff_t row = top + p->row_runs[v].start + i * p->row_step;
                    if (in_vectors) {
                        const int inside = row >= 0 && row < p->rows_in;
                        const ptrdiff_t from = x + (ci + c0) * p->xc + (inside ? row : 0) * p->xh + start + lo;
                        NAME(pack_slot)(dst, (const T *)p->x + from, inside ? lo : 0, inside ? hi : 0, n + gap,
                                        (const T *)p->x_end);
                        continue;
                    }
                    if (row < 0 || row >= p->rows_in) {
                        if (zeros) {
                            for (ptrdiff_t c = 0; c < m; c++)
                                memset(dst + c * p->row_pitch, 0, (size_t)(n + gap) * sizeof(T));
                            continue;
                        }
                        row = NAME(resolve)(row, p->rows_in, p->mode);
                    }
                    const ptrdiff_t from = x + (ci + c0) * p->xc + row * p->xh;
                    const void *src = NAME(at)(p->x, from + (start + lo * step) * p->xl, p->half);
                    if (hi > lo)
                        NAME(load_rows)(dst + lo, p->row_pitch, m, hi - lo, src, p->xc, step * p->xl, p->half);
                    for (ptrdiff_t c = 0; c < m; c++) {
                        T *line = dst + c * p->row_pitch;
                        NAME(fill)(p, line, 0, lo, start, from + c * p->xc);
                        NAME(fill)(p, line, hi, n, start, from + c * p->xc);
                        for (ptrdiff_t e = n; e < n + gap; e++)
                            line[e] = 0;
                        if (p->before.function)
                            NAME(finish_row)(&before, first + ci + c0 + c, zeros ? line + lo : line, NULL,
                                             zeros ? hi - lo : n);
                    }
                }
            for (ptrdiff_t c = 0; c < m; c++)
                memset(end + c * p->row_pitch, 0, LANES * sizeof(T));
        }
}

/* Output channels [co0, co1) from the stage to whole rows of y that follow each other; y is where the first row of the
 * group's channel 0 begins. What a vector holds beyond a short row is written over by the next one. */
static void NAME(emit_planes)(const fc1d_problem *p, T *y, ptrdiff_t co0, ptrdiff_t co1, ptrdiff_t rows, ptrdiff_t cols,
                              const T *stage)
{
    for (ptrdiff_t co = co0; co < co1; co++, stage += p->stage_pitch)
        for (ptrdiff_t i = 0; i < rows; i++) {
            T *to = y + co * p->yc + i * cols;
            if (cols < LANES && (rows - i) * cols >= LANES)
                STORE(to, LOAD(stage + i * p->item_pitch));
            else
                NAME(gather)(to, cols, stage + i * p->item_pitch, 1);
        }
}

/* Four output rows of a depthwise correlate at once, KxK taps, SH rows apart: an input row serves all that read it, a third
 * to a half of the loads of one row after another. J vectors of columns. The sums are those of a register tile. `room` is how
 * many elements of y may be written from row 0 on: a row's last vector goes beyond it, into the next, which is written after.
 */
typedef void (*NAME(stack_fn))(const T *w, const T *x, const int32_t *tap, ptrdiff_t pitch, const T *bias, T *y,
                               ptrdiff_t cols, ptrdiff_t left, ptrdiff_t room);

enum { NAME(stack_rows) = 4 };
#define STACK(K, SH, J)                                                                                                \
    static void NAME(stack_##K##_##SH##_##J)(const T *restrict w, const T *restrict x, const int32_t *restrict tap,    \
                                             ptrdiff_t pitch, const T *restrict bias, T *restrict y, ptrdiff_t cols,   \
                                             ptrdiff_t left, ptrdiff_t room)                                           \
    {                                                                                                                  \
        V acc[4][J] = {{{0}}};                                                                                         \
        _Pragma("GCC unroll 16") for (int t = 0; t < 3 * SH + K; t++)                                                  \
        {                                                                                                              \
            const int last = t / SH < 3 ? t / SH : 3; /* a row that reads input row t, by its tap t - last*SH */       \
            _Pragma("GCC unroll 8") for (int k = 0; k < K; k++)                                                        \
            {                                                                                                          \
                const T *restrict xt = x + last * pitch + tap[(t - last * SH) * K + k];                                \
                V xv[J];                                                                                               \
                _Pragma("GCC unroll 4") for (int j = 0; j < J; j++)                                                    \
                {                                                                                                      \
                    xv[j] = LOAD(xt + j * LANES);                                                                      \
                    HOLD(xv[j]);                                                                                       \
                }                                                                                                      \
                _Pragma("GCC unroll 4") for (int r = 0; r < 4; r++) if (t >= r * SH && t - r * SH < K)                 \
                    _Pragma("GCC unroll 4") for (int j = 0; j < J; j++) acc[r][j] += w[(t - r * SH) * K + k] * xv[j];  \
            }                                                                                                          \
        }                                                                                                              \
        _Pragma("GCC unroll 4") for (int r = 0; r < 4; r++)                                                            \
            _Pragma("GCC unroll 4") for (int j = 0; j < J; j++)                                                        \
            {                                                                                                          \
                const V v = bias ? acc[r][j] + bias[0] : acc[r][j];                                                    \
                const ptrdiff_t at = r * cols + j * LANES;                                                             \
                if (at + LANES <= room) {                                                                              \
                    STORE(y + at, v);                                                                                  \
                    continue;                                                                                          \
                }                                                                                                      \
                T edge[LANES];                                                                                         \
                STORE(edge, v);                                                                                        \
                NAME(gather)(y + at, left - j * LANES, edge, 1);                                                       \
            }                                                                                                          \
    }
#define STACKS(K, SH) STACK(K, SH, 1) STACK(K, SH, 2) STACK(K, SH, 3)
STACKS(3, 1) STACKS(3, 2) STACKS(5, 1) STACKS(5, 2)
#define ENTRIES(K, SH) {0, NAME(stack_##K##_##SH##_1), NAME(stack_##K##_##SH##_2), NAME(stack_##K##_##SH##_3)}
static const NAME(stack_fn) NAME(stack)[2][2][4] = {{ENTRIES(3, 1), ENTRIES(3, 2)}, {ENTRIES(5, 1), ENTRIES(5, 2)}};
#undef STACKS
#undef ENTRIES

/* All rows of a tile of one depthwise channel, four at a time, the last four perhaps again in part. */
static void NAME(run_stack)(const fc1d_problem *p, const T *w, const T *window, const T *bias, ptrdiff_t rows,
                            ptrdiff_t cols, T *y)
{
    const ptrdiff_t n_vec = (cols + LANES - 1) / LANES, strips = (n_vec + 2) / 3;
    const NAME(stack_fn) *stack = NAME(stack)[p->stacked == 5][p->row_step - 1];
    for (ptrdiff_t o = 0; o < rows; o += NAME(stack_rows)) {
        o = o < rows - NAME(stack_rows) ? o : rows - NAME(stack_rows);
        /* the last columns first: what goes beyond a row is written over by the first columns of the next */
        for (ptrdiff_t s = strips - 1, end = n_vec, nv; s >= 0; s--, end -= nv) {
            nv = n_vec / strips + (s < n_vec % strips);
            const ptrdiff_t q = (end - nv) * LANES;
            stack[nv](w, window + o * p->item_pitch + q, p->tap, p->item_pitch, bias, y + o * cols + q, cols, cols - q,
                      (rows - o) * cols - q);
        }
    }
}
