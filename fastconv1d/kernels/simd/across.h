/* Register tiles for few columns, included by template.h: vectors along the output channels.
 *
 *     sums[q*pitch + i] (+)= sum over t < kc of w[i][t] * x[tap[t] + q]    for NV*LANES channels i and COLS columns q
 *
 * in chains, as run_chains. Channel i of term t is w[i / ROWS * ROWS * order->pitch + t * ROWS + i % ROWS], as
 * weights are packed for ROWS rows: a vector is one such piece, or two (whose loads go LANES - ROWS elements past the
 * last). The sums and what follows are those of a register tile, bit for bit.
 */
#define ACROSS_CHANNELS (LANES > 1 && (LANES == ROWS || LANES == 2 * ROWS))
#if ACROSS_CHANNELS
#if LANES == ROWS
#define CHANNELS(w) LOAD(w)
#else
#define CHANNELS(w) SHUFFLE(LOAD(w), LOAD((w) + ROWS * order->pitch), PICK(FIRST_HALVES, LANES))
#endif
/* Terms whose ROWS weights fill a line of the cache. */
#define LINE_TERMS (64 / (ROWS * (ptrdiff_t)sizeof(T)) > 0 ? 64 / (ROWS * (ptrdiff_t)sizeof(T)) : 1)
typedef void (*NAME(across_fn))(const NAME(order) * order, const T *w, const T *x, const int32_t *tap, T *sums,
                                ptrdiff_t pitch, const T *bias, int accumulate, const NAME(finish) * finish);

#define ACROSS(NV, COLS)                                                                                               \
    static void NAME(across_##NV##x##COLS)(const NAME(order) * order, const T *restrict w, const T *restrict x,        \
                                           const int32_t *tap, T *restrict sums, ptrdiff_t pitch,                      \
                                           const T *restrict bias, int accumulate, const NAME(finish) * finish)        \
    {                                                                                                                  \
        const ptrdiff_t kc = order->kc, chain = order->chain, ahead = order->ahead * ROWS;                             \
        for (ptrdiff_t t = 0;;) {                                                                                      \
            const ptrdiff_t end = kc - t < chain ? kc : t + chain;                                                     \
            V acc[NV][COLS] = {{{0}}};                                                                                 \
            while (t < end) {                                                                                          \
                const ptrdiff_t stop = end - t < order->run ? end : t + order->run;                                    \
                for (ptrdiff_t line = 0; t < stop; t++, line++, w += ROWS) {                                           \
                    const T *restrict xt = x + *tap++;                                                                 \
                    V channels[NV];                                                                                    \
                    if (line % LINE_TERMS == 0)                                                                        \
                        _Pragma("GCC unroll 8") for (int j = 0; j < NV * (LANES / ROWS); j++)                          \
                            PREFETCH_NEAR(w + j * ROWS * order->pitch + ahead);                                        \
                    _Pragma("GCC unroll 4") for (int j = 0; j < NV; j++)                                               \
                    {                                                                                                  \
                        channels[j] = CHANNELS(w + j * LANES * order->pitch);                                          \
                        if (COLS > 1)                                                                                  \
                            HOLD(channels[j]);                                                                         \
                    }                                                                                                  \
                    _Pragma("GCC unroll 8") for (int q = 0; q < COLS; q++)                                             \
                        _Pragma("GCC unroll 4") for (int j = 0; j < NV; j++) acc[j][q] += channels[j] * xt[q];         \
                }                                                                                                      \
                w += order->skip * ROWS;                                                                               \
                tap += order->skip_table;                                                                              \
            }                                                                                                          \
            _Pragma("GCC unroll 4") for (int j = 0; j < NV; j++)                                                       \
                _Pragma("GCC unroll 8") for (int q = 0; q < COLS; q++)                                                 \
                {                                                                                                      \
                    T *out = sums + q * pitch + j * LANES;                                                             \
                    V v = acc[j][q];                                                                                   \
                    if (accumulate)                                                                                    \
                        v = LOAD(out) + v;                                                                             \
                    else if (bias)                                                                                     \
                        v = v + LOAD(bias + j * LANES);                                                                \
                    if (finish && t == kc)                                                                             \
                        v = NAME(rectified)(finish, v, NULL);                                                          \
                    STORE(out, v);                                                                                     \
                }                                                                                                      \
            if (t == kc)                                                                                               \
                return;                                                                                                \
            accumulate = 1;                                                                                            \
        }                                                                                                              \
    }

/* Up to 4 vectors of channels: together the sums hide the latency of a multiply-add, and they, the channels and one
 * element of x fit in the registers. */
#define ACROSS_1(COLS) ACROSS(1, COLS)
#define ACROSS_2(COLS) ACROSS_1(COLS) ACROSS(2, COLS)
#define ACROSS_3(COLS) ACROSS_2(COLS) ACROSS(3, COLS)
#define ACROSS_4(COLS) ACROSS_3(COLS) ACROSS(4, COLS)
#define ENTRIES_1(COLS) {0, NAME(across_1x##COLS)}
#define ENTRIES_2(COLS) {0, NAME(across_1x##COLS), NAME(across_2x##COLS)}
#define ENTRIES_3(COLS) {0, NAME(across_1x##COLS), NAME(across_2x##COLS), NAME(across_3x##COLS)}
#define ENTRIES_4(COLS)                                                                                                \
    {0, NAME(across_1x##COLS), NAME(across_2x##COLS), NAME(across_3x##COLS), NAME(across_4x##COLS)}
/* And columns at once of a wider tile in which each has taps of its own to leave out: four vectors on AVX-512. */
enum { NAME(few) = 8, NAME(part_columns) = 6 };
ACROSS_4(1) ACROSS_4(2)
#if ROWS == 4 /* 16 vector registers: 7 and 8 columns in two passes, see run_across */
enum { NAME(at_once) = 6 };
ACROSS_3(3) ACROSS_3(4) ACROSS_2(5) ACROSS_2(6)
static const NAME(across_fn) NAME(across)[NAME(at_once) + 1][5] = {
    {0}, ENTRIES_4(1), ENTRIES_4(2), ENTRIES_3(3), ENTRIES_3(4), ENTRIES_2(5), ENTRIES_2(6)};
static const ptrdiff_t NAME(across_vectors)[NAME(few) + 1] = {0, 4, 4, 3, 3, 2, 2, 3, 3};
#else
enum { NAME(at_once) = 8 };
ACROSS_4(3) ACROSS_4(4) ACROSS_4(5) ACROSS_4(6) ACROSS_3(7) ACROSS_3(8)
static const NAME(across_fn) NAME(across)[NAME(at_once) + 1][5] = {
    {0}, ENTRIES_4(1), ENTRIES_4(2), ENTRIES_4(3), ENTRIES_4(4), ENTRIES_4(5), ENTRIES_4(6), ENTRIES_3(7), ENTRIES_3(8)};
static const ptrdiff_t NAME(across_vectors)[NAME(few) + 1] = {0, 4, 4, 4, 4, 4, 4, 3, 3};
#endif

/* Columns [0, cols), cols <= few, of output channels [co0, co1) in whole vectors; returns the first channel left. */
static ptrdiff_t NAME(run_across)(ptrdiff_t co0, ptrdiff_t co1, ptrdiff_t cols, const NAME(order) * order, const T *w,
                                  const T *window, const int32_t *tap, T *y, ptrdiff_t ldy, const T *bias, int accumulate,
                                  const NAME(sink) * sink)
{
    enum { PITCH = 4 * LANES };
    T sums[NAME(few) * PITCH];
    const NAME(finish) *finish = sink ? &sink->finish : NULL;
    const int in_tile = finish && finish->in_tile && !finish->residual;
    ptrdiff_t co = co0;
    for (ptrdiff_t nv, n; co + LANES <= co1; co += n) {
        nv = (co1 - co) / LANES < NAME(across_vectors)[cols] ? (co1 - co) / LANES : NAME(across_vectors)[cols];
        n = nv * LANES;
        T *rows = y + co * ldy;
        for (ptrdiff_t i = 0; accumulate && i < n; i++)
            for (ptrdiff_t q = 0; q < cols; q++)
                sums[q * PITCH + i] = rows[i * ldy + q];
        /* 12 sums for 3 vectors of channels and 4 columns: the weights, in L1 the second time, are read with them more often
         * than with 8 sums of 8 columns, each of which has an element of x to itself. 256 to 256 channels, 3 taps: 8 columns
         * take 32 us instead of 38, 7 columns 31 instead of 35. */
        for (ptrdiff_t q = 0, m; q < cols; q += m) {
            m = cols > NAME(at_once) && q == 0 ? (cols + 1) / 2 : cols - q;
            NAME(across)[m][nv](order, w + co * order->pitch, window + q, tap, sums + q * PITCH, PITCH,
                                bias ? bias + co : NULL, accumulate, in_tile ? finish : NULL);
        }
        for (ptrdiff_t i = 0; i < n; i++)
            for (ptrdiff_t q = 0; q < cols; q++)
                rows[i * ldy + q] = sums[q * PITCH + i];
        for (ptrdiff_t i = 0; finish && !in_tile && i < n; i++)
            NAME(finish_row)(finish, sink->channel + co + i, rows + i * ldy,
                             finish->residual ? finish->residual + (co + i) * finish->ldr : NULL, cols);
    }
    return co;
}
#undef LINE_TERMS
#undef CHANNELS
#endif
