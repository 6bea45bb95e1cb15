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

/* Columns of one item, channels side by side in x, y and residual, weights as in step. A tap's row is where the padding
 * mode puts it in x, or a row of zeros in scratch. */
static void NAME(run_positions)(const fc1d_problem *p, ptrdiff_t unit, void *scratch)
{
    const ptrdiff_t n = unit / p->n_tiles, first = unit % p->n_tiles * p->tile_cols, channels = p->groups;
    const ptrdiff_t last = p->n_cols - first < p->tile_cols ? p->n_cols : first + p->tile_cols;
    const NAME(finish) finish = NAME(finish_of)(&p->after, NULL, 0, p->residual_scale, p->residual_last);
    const T *x = (const T *)p->x + n * p->xn;
    const void **rows = (const void **)scratch;
    T *zeros = (T *)(rows + p->kernel_size);
    memset(zeros, 0, (size_t)channels * sizeof(T));
    for (ptrdiff_t l = first; l < last; l++) {
        for (ptrdiff_t k = 0; k < p->kernel_size; k++) {
            ptrdiff_t i = p->x_base + l * p->x_step + p->pos[k];
            const int inside = i >= 0 && i < p->l_in;
            if (!inside && p->mode != FC1D_ZEROS)
                i = NAME(resolve)(i, p->l_in, p->mode);
            rows[k] = inside || p->mode != FC1D_ZEROS ? x + i * p->xl : zeros;
        }
        T *y = (T *)p->y + n * p->yn + l * p->yl;
        const T *residual = p->residual ? (const T *)p->residual + n * p->rn + l * p->rl : NULL;
        NAME(step)(channels, channels, p->kernel_size, p->k_block, p->w, rows, p->bias, y);
        if (residual || p->after.function)
            NAME(finish_row)(&finish, 0, y, residual, channels);
    }
}

#undef STEP
#undef STEP_PIECE
#undef STEP_LEVELS
#undef LOAD_ONE
#undef STORE_ONE
