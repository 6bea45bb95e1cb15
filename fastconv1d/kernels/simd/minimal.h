/* Minimal filtering (Toom and Cook, Winograd), included by template.h: rows to the transformed domain and back.
 *
 * Columns come in blocks of FILTER_STEP*dilation. A block b has `dilation` elements r in each of n components:
 *
 *     split_row:  d[i][b, r] = sum over j < n of bt[i][j] * before(x)[start + (FILTER_STEP*b + j)*dilation + r]
 *     join_row:   y[(FILTER_STEP*b + a)*dilation + r] = after(bias + sum over i < n of at[a][i] * m[i][b, r])
 *
 * with zeros for x beyond its ends. The components lie b*dilation + r. A piece of blocks goes through L1 at a time.
 */
#define PIECE_ROOM (FILTER_PIECE + 2 * FILTER_REACH + LANES)

static inline V NAME(load_some)(const T *from, ptrdiff_t n)
{
    if (n >= LANES)
        return LOAD(from);
    T lanes[LANES] = {0};
    memcpy(lanes, from, n * sizeof(T));
    return LOAD(lanes);
}

static inline void NAME(store_some)(T *to, V v, ptrdiff_t n)
{
    if (n >= LANES) {
        STORE(to, v);
        return;
    }
    T lanes[LANES];
    STORE(lanes, v);
    memcpy(to, lanes, n * sizeof(T));
}

/* Block b of `rows` arrays from, or to, the columns of a row: dilation elements at a time, whole vectors where they fit
 * (what is written too much is overwritten by the next; the room behind the last is LANES). */
static inline __attribute__((always_inline)) void NAME(copy_run)(T *to, const T *from, ptrdiff_t n)
{
    if (n <= LANES)
        STORE(to, LOAD(from));
    else
        memcpy(to, from, n * sizeof(T));
}

static inline __attribute__((always_inline)) void NAME(split_piece)(T phase[][PIECE_ROOM], ptrdiff_t dilation,
                                                                    const T *bt, T *out, ptrdiff_t component,
                                                                    ptrdiff_t count, const int n)
{
    for (ptrdiff_t i = 0; i < count; i += LANES) {
        V v[FILTER_MOST];
        _Pragma("GCC unroll 7") for (int j = 0; j < n; j++)
            v[j] = LOAD(phase[j % FILTER_STEP] + i + j / FILTER_STEP * dilation);
        _Pragma("GCC unroll 7") for (int c = 0; c < n; c++)
        {
            V sum = v[0] * bt[c * n];
            _Pragma("GCC unroll 7") for (int j = 1; j < n; j++) sum += v[j] * bt[c * n + j];
            NAME(store_some)(out + c * component + i, sum, count - i);
        }
    }
}

static inline __attribute__((always_inline)) void NAME(join_piece)(const T *m, ptrdiff_t component, const T *at, T bias,
                                                                   T phase[][PIECE_ROOM], ptrdiff_t count, const int n)
{
    for (ptrdiff_t i = 0; i < count; i += LANES) {
        V v[FILTER_MOST];
        _Pragma("GCC unroll 7") for (int j = 0; j < n; j++) v[j] = NAME(load_some)(m + j * component + i, count - i);
        _Pragma("GCC unroll 4") for (int a = 0; a < FILTER_STEP; a++)
        {
            V sum = v[0] * at[a * n] + bias;
            _Pragma("GCC unroll 7") for (int j = 1; j < n; j++) sum += v[j] * at[a * n + j];
            STORE(phase[a] + i, sum);
        }
    }
}

static void NAME(split_row)(const fc1d_filter *q, ptrdiff_t channel, void *scratch)
{
    (void)scratch;
    const ptrdiff_t n = q->n, dilation = q->dilation, most = FILTER_PIECE / dilation;
    const T *x = (const T *)q->in + channel * q->in_channel, *bt = (const T *)q->matrix;
    const NAME(finish) before = NAME(finish_of)(&q->step, NULL, 0, 0, 0);
    T row[FILTER_STEP * PIECE_ROOM], phase[FILTER_STEP][PIECE_ROOM];
    for (ptrdiff_t b = 0; b < q->blocks; b += most) {
        const ptrdiff_t count = (q->blocks - b < most ? q->blocks - b : most) * dilation;
        const ptrdiff_t width = count + dilation; /* phases of the block behind, for j >= FILTER_STEP */
        const ptrdiff_t first = q->start + FILTER_STEP * b * dilation, wanted = FILTER_STEP * width;
        const ptrdiff_t low = first < 0 ? (-first < wanted ? -first : wanted) : 0;
        const ptrdiff_t end = q->length - first < wanted ? q->length - first : wanted;
        const ptrdiff_t high = end > low ? end : low;
        memset(row, 0, low * sizeof(T));
        memcpy(row + low, x + first + low, (high - low) * sizeof(T));
        memset(row + high, 0, (wanted - high) * sizeof(T));
        if (q->step.function)
            NAME(finish_row)(&before, channel, row + low, NULL, high - low);
        if (dilation == 1)
            for (int j = 0; j < FILTER_STEP; j++)
                NAME(gather)(phase[j], width, row + j, FILTER_STEP);
        else
            for (ptrdiff_t i = 0; i < width; i += dilation)
                for (int j = 0; j < FILTER_STEP; j++)
                    NAME(copy_run)(phase[j] + i, row + FILTER_STEP * i + j * dilation, dilation);
        T *out = (T *)q->out + channel * q->out_channel + b * dilation;
        if (n == FILTER_MOST)
            NAME(split_piece)(phase, dilation, bt, out, q->out_component, count, FILTER_MOST);
        else
            NAME(split_piece)(phase, dilation, bt, out, q->out_component, count, FILTER_MOST - 1);
    }
}

static void NAME(join_row)(const fc1d_filter *q, ptrdiff_t channel, void *scratch)
{
    (void)scratch;
    const ptrdiff_t n = q->n, dilation = q->dilation, most = FILTER_PIECE / dilation;
    const T *m = (const T *)q->in + channel * q->in_channel, *at = (const T *)q->matrix;
    const T *residual = q->residual ? (const T *)q->residual + channel * q->residual_channel : NULL;
    const T bias = q->bias ? ((const T *)q->bias)[channel] : 0;
    T *y = (T *)q->out + channel * q->out_channel;
    const NAME(finish) after = NAME(finish_of)(&q->step, residual, 0, q->residual_scale, q->residual_last);
    T row[FILTER_STEP * PIECE_ROOM], phase[FILTER_STEP][PIECE_ROOM];
    for (ptrdiff_t b = 0; b < q->blocks; b += most) {
        const ptrdiff_t count = (q->blocks - b < most ? q->blocks - b : most) * dilation;
        const ptrdiff_t first = FILTER_STEP * b * dilation;
        const ptrdiff_t left = q->length - first, wanted = left < FILTER_STEP * count ? left : FILTER_STEP * count;
        if (n == FILTER_MOST)
            NAME(join_piece)(m + b * dilation, q->in_component, at, bias, phase, count, FILTER_MOST);
        else
            NAME(join_piece)(m + b * dilation, q->in_component, at, bias, phase, count, FILTER_MOST - 1);
        if (dilation == 1) {
            ptrdiff_t i = 0;
#if LANES > 1
            i = NAME(interleave)(phase[0], PIECE_ROOM, count, row, FILTER_STEP);
#endif
            for (; i < count; i++)
                for (int a = 0; a < FILTER_STEP; a++)
                    row[FILTER_STEP * i + a] = phase[a][i];
        } else
            for (ptrdiff_t i = 0; i < count; i += dilation)
                for (int a = 0; a < FILTER_STEP; a++)
                    NAME(copy_run)(row + FILTER_STEP * i + a * dilation, phase[a] + i, dilation);
        if (residual || q->step.function)
            NAME(finish_row)(&after, channel, row, residual ? residual + first : NULL, wanted);
        memcpy(y + first, row, wanted * sizeof(T));
    }
}
#undef PIECE_ROOM
