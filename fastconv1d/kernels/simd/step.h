/* One column of a depthwise correlate, vectors along the channels: a step of a stream.
 *
 *     y[c] = sum over k < taps of w[k*pitch + c] * x[k][c] + bias[c],    c < channels
 *
 * The sums are those of a register tile, bit for bit: one chain of multiply-adds per block of `chain` taps, the bias
 * after the first, the sums of the others added in the order of totals.h.
 */

/* Channels [c, c + N*width) in N independent sums; LOAD_ and STORE_ move `width` of them. */
#define STEP(V_, N, WIDTH, LOAD_, STORE_)                                                                              \
    {                                                                                                                  \
        V_ acc[N];                                                                                                     \
        _Pragma("GCC unroll 4") for (int j = 0; j < N; j++) acc[j] = (V_){0};                                          \
        for (ptrdiff_t k = k0; k < k1; k++)                                                                            \
            _Pragma("GCC unroll 4") for (int j = 0; j < N; j++) acc[j] +=                                              \
                LOAD_(w + k * pitch + c + j * WIDTH) * LOAD_(x[k] + c + j * WIDTH);                                    \
        _Pragma("GCC unroll 4") for (int j = 0; j < N; j++)                                                            \
        {                                                                                                              \
            if (accumulate)                                                                                            \
                acc[j] = LOAD_(y + c + j * WIDTH) + acc[j];                                                            \
            else if (bias && k0 == 0)                                                                                  \
                acc[j] = acc[j] + LOAD_(bias + c + j * WIDTH);                                                         \
            STORE_(y + c + j * WIDTH, acc[j]);                                                                         \
        }                                                                                                              \
    }
#define STEP_PIECE 512
#define STEP_LEVELS 3 /* of 2^20 chains; a kernel has at most 2^18 taps, see unsuited in direct_engine.pyx */
#define LOAD_ONE(p) (*(p))
#define STORE_ONE(p, v) (*(p) = (v))

static void NAME(step)(ptrdiff_t channels, ptrdiff_t pitch, ptrdiff_t taps, ptrdiff_t chain, const void *weight,
                       const void *const *rows, const void *biases, void *out)
{
    const T *restrict w = (const T *)weight, *restrict bias = (const T *)biases;
    const T *const *x = (const T *const *)rows;
    T *restrict y = (T *)out;
    T totals[STEP_LEVELS * STEP_PIECE];
    const ptrdiff_t piece = taps > FC1D_FAN * chain ? STEP_PIECE : channels; /* channels that share the totals */
    for (ptrdiff_t c0 = 0, c1; c0 < channels; c0 = c1) {
        c1 = channels - c0 < piece ? channels : c0 + piece;
        ptrdiff_t groups = 0; /* complete */
        for (ptrdiff_t k0 = 0, i = 0; k0 < taps; k0 += chain, i++) {
            const ptrdiff_t k1 = taps - k0 < chain ? taps : k0 + chain;
            const int accumulate = i % FC1D_FAN > 0;
            if (i > 0 && !accumulate)
                NAME(carry)(totals, STEP_PIECE, 0, y + c0, 0, 1, c1 - c0, groups++);
            ptrdiff_t c = c0;
            for (; c + 4 * LANES <= c1; c += 4 * LANES)
                STEP(V, 4, LANES, LOAD, STORE)
            for (; c + LANES <= c1; c += LANES)
                STEP(V, 1, LANES, LOAD, STORE)
            for (; c < c1; c++)
                STEP(T, 1, 1, LOAD_ONE, STORE_ONE)
        }
        NAME(add_totals)(y + c0, 0, totals, STEP_PIECE, 0, 1, c1 - c0, groups);
    }
}

/* Positions of one item, row by row of its planes, which are one row for a line; channels side by side in x, y and
 * residual, weights as in step. A tap's channels are where the padding mode puts them in x, or zeros in scratch. */
static void NAME(run_positions)(const fc1d_problem *p, ptrdiff_t unit, void *scratch)
{
    const ptrdiff_t n = unit / p->n_tiles, first = unit % p->n_tiles * p->tile_cols, channels = p->groups;
    const ptrdiff_t last = p->n_cols - first < p->tile_cols ? p->n_cols : first + p->tile_cols;
    const NAME(finish) finish = NAME(finish_of)(&p->after, NULL, 0, p->residual_scale, p->residual_last);
    const ptrdiff_t taps = p->kernel_size / p->kernel_rows; /* of a row of the kernel */
    const T *x = (const T *)p->x + n * p->xn;
    const void **rows = (const void **)scratch;
    T *zeros = (T *)(rows + p->kernel_size);
    memset(zeros, 0, (size_t)channels * sizeof(T));
    for (ptrdiff_t at = first; at < last; at++) {
        const ptrdiff_t h = at / p->l_out, l = at - h * p->l_out;
        for (ptrdiff_t r = 0; r < p->kernel_rows; r++) {
            ptrdiff_t row = p->row_base + h * p->row_step + r * p->row_dilation;
            const int has_row = row >= 0 && row < p->rows_in;
            if (!has_row && p->mode != FC1D_ZEROS)
                row = NAME(resolve)(row, p->rows_in, p->mode);
            for (ptrdiff_t k = 0; k < taps; k++) {
                ptrdiff_t i = p->x_base + l * p->x_step + p->pos[k];
                const int inside = i >= 0 && i < p->l_in;
                if (!inside && p->mode != FC1D_ZEROS)
                    i = NAME(resolve)(i, p->l_in, p->mode);
                const int is_read = (has_row && inside) || p->mode != FC1D_ZEROS;
                rows[r * taps + k] = is_read ? x + row * p->xh + i * p->xl : zeros;
            }
        }
        T *y = (T *)p->y + n * p->yn + h * p->yh + l * p->yl;
        const T *residual = p->residual ? (const T *)p->residual + n * p->rn + h * p->rh + l * p->rl : NULL;
        NAME(step)(channels, channels, p->kernel_size, p->k_block, p->w, rows, p->bias, y);
        if (residual || p->after.function)
            NAME(finish_row)(&finish, 0, y, residual, channels);
    }
}

/* y[c*pitch + i] = rows[i*row_pitch + c] for n positions and m channels. */
static void NAME(columns_to_rows)(T *y, ptrdiff_t pitch, ptrdiff_t m, ptrdiff_t n, const T *rows, ptrdiff_t row_pitch)
{
    ptrdiff_t c = 0;
#if LANES > 1
    if (n >= LANES) {
        NAME(load_rows)(y, pitch, m, n, rows, 1, row_pitch, 0);
        return;
    }
    if (pitch == n && n == 2)
        c = NAME(interleave)(rows, row_pitch, m, y, 2);
    else if (pitch == n && n == 4)
        c = NAME(interleave)(rows, row_pitch, m, y, 4);
#endif
    for (; c < m; c++)
        for (ptrdiff_t i = 0; i < n; i++)
            y[c * pitch + i] = rows[i * row_pitch + c];
}

/* Some groups of one item of a correlate of one input channel a group, positions side by side in x and y: transposed, so
 * that vectors run along the groups. Weights and bias lie as [channel of a group][tap][group]. Scratch: the rows of the
 * taps, a row of zeros, the input's positions, and the outputs', row_pitch elements each. */
static void NAME(run_channels)(const fc1d_problem *p, ptrdiff_t unit, void *scratch)
{
    const ptrdiff_t n = unit / p->n_group_units, g0 = unit % p->n_group_units * p->groups_per_unit, pitch = p->row_pitch;
    const ptrdiff_t groups = p->groups - g0 < p->groups_per_unit ? p->groups - g0 : p->groups_per_unit;
    const T *x = (const T *)p->x + n * p->xn + g0 * p->xc;
    T *y = (T *)p->y + n * p->yn + g0 * p->c_out * p->yc;
    const void **rows = (const void **)scratch;
    T *zeros = (T *)(rows + (p->kernel_size + 7) / 8 * 8), *in = zeros + pitch, *out = in + p->l_in * pitch;
    memset(zeros, 0, (size_t)groups * sizeof(T));
    if (p->xl == 1 && p->l_in >= LANES)
        NAME(store_rows)(in, 1, pitch, x, p->xc, groups, p->l_in, 0);
    else
        for (ptrdiff_t i = 0; i < p->l_in; i++)
            NAME(gather)(in + i * pitch, groups, x + i * p->xl, p->xc);
    if (p->before.function) {
        const NAME(finish) before = NAME(finish_of)(&p->before, NULL, 0, 0, 0);
        for (ptrdiff_t i = 0; i < p->l_in; i++)
            NAME(finish_row)(&before, 0, in + i * pitch, NULL, groups);
    }
    const NAME(finish) after = NAME(finish_of)(&p->after, NULL, 0, 0, 0);
    ptrdiff_t live = p->kernel_size, end = p->kernel_size; /* of taps that read some of the input, [live, end) */
    for (ptrdiff_t l = 0; l < p->l_out; l++) {
        const ptrdiff_t low = p->x_base + l * p->x_step;
        while (live > 0 && low + p->pos[live - 1] >= 0) /* both fall as positions rise */
            live--;
        while (end > 0 && low + p->pos[end - 1] >= p->l_in)
            end--;
        ptrdiff_t from = 0, to = p->kernel_size;
        if (p->leaves_out) { /* without any, one of zeros for the bias */
            from = live < end ? live : 0;
            to = live < end ? end : 1;
        }
        for (ptrdiff_t k = from; k < to; k++) {
            ptrdiff_t i = low + p->pos[k];
            const int inside = i >= 0 && i < p->l_in;
            if (!inside && p->mode != FC1D_ZEROS)
                i = NAME(resolve)(i, p->l_in, p->mode);
            rows[k] = inside || p->mode != FC1D_ZEROS ? in + i * pitch : zeros;
        }
        for (ptrdiff_t j = 0; j < p->c_out; j++) {
            const T *w = (const T *)p->w + (j * p->kernel_size + from) * p->groups + g0;
            const T *bias = p->bias ? (const T *)p->bias + j * p->groups + g0 : NULL;
            T *row = out + (j * p->l_out + l) * pitch;
            NAME(step)(groups, p->groups, to - from, p->k_block, w, rows + from, bias, row);
            if (p->after.function)
                NAME(finish_row)(&after, 0, row, NULL, groups);
        }
    }
    for (ptrdiff_t j = 0; j < p->c_out; j++)
        NAME(columns_to_rows)(y + j * p->yc, p->c_out * p->yc, groups, p->l_out, out + j * p->l_out * pitch, pitch);
}

#undef STEP
#undef STEP_PIECE
#undef STEP_LEVELS
#undef LOAD_ONE
#undef STORE_ONE
