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
