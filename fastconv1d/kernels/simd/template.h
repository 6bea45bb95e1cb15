/* Window packing, register-tile kernels and the tile loop, written once over a vector type.
 *
 * The including file defines T (element), BYTES (vector size in bytes), ROWS (output channels of a register tile),
 * LANES (elements of a vector), NAME(x) (suffix for dtype and instruction set) and SHUFFLE(a, b, ...) with its index lists.
 */

#include "types.h"

#include "half.h"

#include "rows.h"

#include "totals.h"

#include "pointwise.h"

/* ---- register tiles ------------------------------------------------------------------------------------------
 * y[i][q] (+)= sum over t < kc of w[t*MR + i] * x[tap[t] + q]  for MR rows i and NV*LANES columns q.
 * The chain of sums runs over t in order in one accumulator per output, so the value of an output depends neither on
 * its place in the tile nor on the tile's shape. `bias` (MR values) or NULL is added to a fresh sum; with `accumulate`
 * the sum is added to what y holds; `finish`, if not NULL, is applied to the result. x must be readable for NV*LANES
 * columns past every tap. `order`, if not NULL, says which terms are left out: those of taps that read nothing, as zero times
 * a finite weight adds nothing.
 */
typedef struct {
    ptrdiff_t kc, chain;             /* terms, and terms of a chain, without those that are left out */
    ptrdiff_t run, skip, skip_table; /* after each `run` terms so many are left out of w, and of tap */
    ptrdiff_t pitch;                 /* of w from one output channel to the next, in terms */
    ptrdiff_t ahead;                 /* so many terms ahead w is asked for, see AHEAD_BYTES */
} NAME(order);
typedef void (*NAME(tile_fn))(ptrdiff_t kc, const NAME(order) * order, const T *w, const T *x, const int32_t *tap, T *y,
                              ptrdiff_t ldy, const T *bias, int accumulate, const NAME(finish) * finish);

#define TILE(MR, NV)                                                                                                   \
    static void NAME(tile_##MR##x##NV)(ptrdiff_t kc, const NAME(order) * order, const T *restrict w,                   \
                                       const T *restrict x, const int32_t *restrict tap, T *restrict y, ptrdiff_t ldy, \
                                       const T *restrict bias, int accumulate, const NAME(finish) * finish)            \
    {                                                                                                                  \
        V acc[MR][NV] = {{{0}}};                                                                                       \
        const ptrdiff_t ahead = (order ? order->ahead : AHEAD_BYTES / (ROWS * (ptrdiff_t)sizeof(T))) * MR;             \
        for (ptrdiff_t t = 0, end = order && order->run < kc ? order->run : kc;;) {                                    \
            for (; t < end; t++, w += MR) {                                                                            \
                const T *restrict xt = x + tap[t];                                                                     \
                PREFETCH_NEAR(w + ahead);                                                                              \
                if (MR > 1 && NV > 2 * MR) { /* the vectors of x do not fit the registers as well */                   \
                    V wv[MR];                                                                                          \
                    _Pragma("GCC unroll 16") for (int i = 0; i < MR; i++) wv[i] = w[i] - (V){0};                       \
                    _Pragma("GCC unroll 16") for (int j = 0; j < NV; j++)                                              \
                    {                                                                                                  \
                        V xj = LOAD(xt + j * LANES);                                                                   \
                        HOLD(xj);                                                                                      \
                        _Pragma("GCC unroll 16") for (int i = 0; i < MR; i++) acc[i][j] += wv[i] * xj;                 \
                    }                                                                                                  \
                    continue;                                                                                          \
                }                                                                                                      \
                V xv[NV];                                                                                              \
                _Pragma("GCC unroll 16") for (int j = 0; j < NV; j++) xv[j] = LOAD(xt + j * LANES);                    \
                EACH(MR, NV, acc[i][j] += w[i] * xv[j])                                                                \
            }                                                                                                          \
            if (t == kc)                                                                                               \
                break;                                                                                                 \
            w += order->skip * MR;                                                                                     \
            tap += order->skip_table;                                                                                  \
            end += order->run; /* kc is a multiple of it */                                                            \
        }                                                                                                              \
        if (accumulate)                                                                                                \
            EACH(MR, NV, acc[i][j] = LOAD(y + i * ldy + j * LANES) + acc[i][j])                                        \
        else if (bias)                                                                                                 \
            EACH(MR, NV, acc[i][j] = acc[i][j] + bias[i])                                                              \
        if (finish)                                                                                                    \
            EACH(MR, NV, acc[i][j] = NAME(rectified)(finish, acc[i][j], finish->residual                               \
                                                     ? finish->residual + i * finish->ldr + j * LANES : NULL))         \
        EACH(MR, NV, STORE(y + i * ldy + j * LANES, acc[i][j]))                                                        \
    }

#define TILES_1(MR) TILE(MR, 1)
#define TILES_2(MR) TILES_1(MR) TILE(MR, 2)
#define TILES_3(MR) TILES_2(MR) TILE(MR, 3)
#define TILES_4(MR) TILES_3(MR) TILE(MR, 4)
#define TILES_5(MR) TILES_4(MR) TILE(MR, 5)
#define TILES_6(MR) TILES_5(MR) TILE(MR, 6)
#define TILES_8(MR) TILES_6(MR) TILE(MR, 7) TILE(MR, 8)
#define TILES_12(MR) TILES_8(MR) TILE(MR, 9) TILE(MR, 10) TILE(MR, 11) TILE(MR, 12)

#define ENTRY(MR, NV) NAME(tile_##MR##x##NV)
#define ROW_3(MR) {0, ENTRY(MR, 1), ENTRY(MR, 2), ENTRY(MR, 3)}
#define ROW_4(MR) {0, ENTRY(MR, 1), ENTRY(MR, 2), ENTRY(MR, 3), ENTRY(MR, 4)}
#define ROW_5(MR) {0, ENTRY(MR, 1), ENTRY(MR, 2), ENTRY(MR, 3), ENTRY(MR, 4), ENTRY(MR, 5)}
#define ROW_6(MR) {0, ENTRY(MR, 1), ENTRY(MR, 2), ENTRY(MR, 3), ENTRY(MR, 4), ENTRY(MR, 5), ENTRY(MR, 6)}
#define ROW_8(MR)                                                                                                      \
    {0, ENTRY(MR, 1), ENTRY(MR, 2), ENTRY(MR, 3), ENTRY(MR, 4), ENTRY(MR, 5), ENTRY(MR, 6), ENTRY(MR, 7), ENTRY(MR, 8)}
#define ROW_12(MR)                                                                                                     \
    {0, ENTRY(MR, 1), ENTRY(MR, 2), ENTRY(MR, 3), ENTRY(MR, 4), ENTRY(MR, 5), ENTRY(MR, 6), ENTRY(MR, 7), ENTRY(MR, 8),\
     ENTRY(MR, 9), ENTRY(MR, 10), ENTRY(MR, 11), ENTRY(MR, 12)}

#if ROWS == 4 /* 16 vector registers: 12 accumulators */
TILES_12(1) TILES_6(2) TILES_4(3) TILES_3(4)
static const NAME(tile_fn) NAME(tiles)[ROWS + 1][13] = {{0}, ROW_12(1), ROW_6(2), ROW_4(3), ROW_3(4)};
static const ptrdiff_t NAME(vectors)[ROWS + 1] = {0, 12, 6, 4, 3};
enum { NAME(most_vectors) = 12 };
#else /* 32 vector registers: 24 accumulators where few rows allow, 12 for a single row (enough to hide the latency) */
TILES_12(1) TILES_12(2) TILES_8(3) TILES_6(4) TILES_5(5) TILES_4(6) TILES_3(7) TILES_3(8)
static const NAME(tile_fn) NAME(tiles)[ROWS + 1][13] = {{0},      ROW_12(1), ROW_12(2), ROW_8(3), ROW_6(4),
                                                        ROW_5(5), ROW_4(6),  ROW_3(7),  ROW_3(8)};
static const ptrdiff_t NAME(vectors)[ROWS + 1] = {0, 12, 12, 8, 6, 5, 4, 3, 3};
enum { NAME(most_vectors) = 25 };
#endif

/* One row with few terms: the weights stay in registers while all columns pass, n of them in whole vectors. The sums are
 * those of a register tile. */
typedef void (*NAME(row_fn))(const T *w, const T *x, const int32_t *tap, T *y, ptrdiff_t n, const T *bias);

#define ROW(TERMS)                                                                                                     \
    static void NAME(row_##TERMS)(const T *restrict w, const T *restrict x, const int32_t *restrict tap, T *restrict y,\
                                  ptrdiff_t n, const T *restrict bias)                                                 \
    {                                                                                                                  \
        V wv[TERMS];                                                                                                   \
        const T *xp[TERMS];                                                                                            \
        _Pragma("GCC unroll 9") for (int t = 0; t < TERMS; t++)                                                        \
        {                                                                                                              \
            wv[t] = w[t] - (V){0};                                                                                     \
            xp[t] = x + tap[t];                                                                                        \
        }                                                                                                              \
        for (ptrdiff_t q = 0; q < n; q += LANES) {                                                                     \
            V acc = {0};                                                                                               \
            _Pragma("GCC unroll 9") for (int t = 0; t < TERMS; t++) acc += wv[t] * LOAD(xp[t] + q);                    \
            STORE(y + q, bias ? acc + bias[0] : acc);                                                                  \
        }                                                                                                              \
    }
ROW(1) ROW(2) ROW(3) ROW(4) ROW(5) ROW(6) ROW(7) ROW(8) ROW(9) /* a 3x3 kernel */
enum { NAME(row_terms) = 9 };
static const NAME(row_fn) NAME(row)[NAME(row_terms) + 1] = {0,           NAME(row_1), NAME(row_2), NAME(row_3), NAME(row_4),
                                                            NAME(row_5), NAME(row_6), NAME(row_7), NAME(row_8), NAME(row_9)};

/* ---- the window ---------------------------------------------------------------------------------------------- */

/* Elements [i0, i1) of a run that begins at position `start` outside the input; `x` is the channel's place in p->x. */
static inline void NAME(fill)(const fc1d_problem *p, T *dst, ptrdiff_t i0, ptrdiff_t i1, ptrdiff_t start, ptrdiff_t x)
{
    if (p->mode == FC1D_ZEROS || p->l_in == 0)
        NAME(clear)(dst + i0, i1 - i0);
    else
        for (ptrdiff_t i = i0; i < i1; i++) {
            const ptrdiff_t position = NAME(resolve)(start + i * p->x_step, p->l_in, p->mode);
            NAME(load_row)(dst + i, 1, NAME(at)(p->x, x + position * p->xl, p->half), 1, p->half);
        }
}

/* Rows of the window for channels [ci, ci + n_ci) of `items` items, columns [q0, q0 + width): element i of a run is
 * before(x[start + i*x_step]), positions outside [0, l_in) resolved by the padding mode. `x` is the place in p->x of
 * the first item's first channel, which is channel `first` of all. */
static void NAME(pack_window)(const fc1d_problem *p, ptrdiff_t x, ptrdiff_t first, ptrdiff_t items, ptrdiff_t ci,
                              ptrdiff_t n_ci, ptrdiff_t q0, ptrdiff_t width, T *window)
{
    const ptrdiff_t step = p->x_step, l_in = p->l_in;
    NAME(finish) before;
    if (p->before.function)
        before = NAME(finish_of)(&p->before, NULL, 0, 0, 0);
    for (ptrdiff_t r = 0; r < p->n_runs; r++) {
        const fc1d_run *run = p->runs + r;
        const ptrdiff_t n = width + run->extra, start = q0 * step + run->start;
        ptrdiff_t lo = start < 0 ? (-start + step - 1) / step : 0; /* elements [lo, hi) lie inside the input */
        ptrdiff_t hi = start < l_in ? (l_in - 1 - start) / step + 1 : 0;
        lo = lo < n ? lo : n;
        hi = hi < n ? hi : n;
        hi = hi > lo ? hi : lo;
        const int zeros = p->mode == FC1D_ZEROS || l_in == 0;
        for (ptrdiff_t item = 0; item < items; item++) {
            const ptrdiff_t row = x + item * p->xn, inside = (start + lo * step) * p->xl;
            T *rows = window + run->offset + item * p->item_pitch;
            if (hi > lo && p->parts == 2)
                for (ptrdiff_t c = 0; c < n_ci; c++)
                    NAME(gather)(rows + lo + c * p->row_pitch, hi - lo,
                                 (const T *)p->x + row + NAME(row_at)(ci + c, p->xc, 2) + inside, step * p->xl);
            else if (hi > lo)
                NAME(load_rows)(rows + lo, p->row_pitch, n_ci, hi - lo, NAME(at)(p->x, row + ci * p->xc + inside, p->half),
                                p->xc, step * p->xl, p->half);
            for (ptrdiff_t c = 0; c < n_ci; c++) {
                T *dst = rows + c * p->row_pitch;
                const ptrdiff_t channel = row + NAME(row_at)(ci + c, p->xc, p->parts);
                if (lo > 0)
                    NAME(fill)(p, dst, 0, lo, start, channel);
                if (hi < n)
                    NAME(fill)(p, dst, hi, n, start, channel);
                if (p->before.function)
                    NAME(finish_row)(&before, first + ci + c, zeros ? dst + lo : dst, NULL, zeros ? hi - lo : n);
            }
        }
    }
}

/* What lies between the items of a window and behind the last is computed with them and left out. It is zero, as
 * whatever else is in memory may be subnormal, with which an operation takes 30 times as long. */
static void NAME(clear_gaps)(const fc1d_problem *p, ptrdiff_t items, ptrdiff_t n_ci, ptrdiff_t width, T *window)
{
    const ptrdiff_t cols = (items - 1) * p->item_pitch + width, slot = (cols + LANES - 1) / LANES * LANES;
    for (ptrdiff_t r = 0; r < p->n_runs; r++)
        for (ptrdiff_t item = 0; item < items; item++) {
            const fc1d_run *run = p->runs + r;
            const ptrdiff_t begin = item * p->item_pitch + width + run->extra;
            const ptrdiff_t end = item + 1 < items ? (item + 1) * p->item_pitch : slot + run->extra;
            for (ptrdiff_t c = 0; begin < end && c < n_ci; c++)
                memset(window + run->offset + c * p->row_pitch + begin, 0, (size_t)(end - begin) * sizeof(T));
        }
}

#include "planes.h"

/* Input that the next window will read, fetched into L2 a piece at a time while this one is computed. */
typedef struct {
    const T *row;
    ptrdiff_t rows, pitch, elements, done;
} NAME(ahead);

static void NAME(fetch_ahead)(NAME(ahead) *a, ptrdiff_t part, ptrdiff_t parts)
{
    const ptrdiff_t line = 64 / (ptrdiff_t)sizeof(T);
    if (a->done >= a->elements) /* another sweep, phase or block has asked for all of it */
        return;
    const ptrdiff_t share = part + 1 < parts ? a->elements * (part + 1) / parts : a->elements; /* short rows feel a division */
    const ptrdiff_t end = (share + line - 1) / line * line;
    if (a->done >= end)
        return;
    for (ptrdiff_t r = 0; r < a->rows; r++)
        for (ptrdiff_t i = a->done; i < end && i < a->elements; i += line)
            PREFETCH(a->row + r * a->pitch + i);
    a->done = end;
}

/* ---- weights ------------------------------------------------------------------------------------------------- */

/* Whether all of n numbers are finite: zero times anything else is NaN. */
static int NAME(all_finite)(const void *numbers, ptrdiff_t n)
{
    enum { CHAINS = 8 }; /* one would wait for its own sums */
    const T *p = (const T *)numbers;
    V sum[CHAINS] = {{0}};
    T rest = 0;
    ptrdiff_t i = 0;
    for (; i + CHAINS * LANES <= n; i += CHAINS * LANES)
        _Pragma("GCC unroll 8") for (int c = 0; c < CHAINS; c++) sum[c] += LOAD(p + i + c * LANES) * (T)0;
    for (; i + LANES <= n; i += LANES)
        sum[0] += LOAD(p + i) * (T)0;
    for (; i < n; i++)
        rest += p[i] * (T)0;
    for (int c = 1; c < CHAINS; c++)
        sum[0] += sum[c];
    T lanes[LANES];
    STORE(lanes, sum[0]);
    for (int l = 0; l < LANES; l++)
        rest += lanes[l];
    return rest == 0;
}

/* out[(c*n_k + j)*rows + i] = w[row[i] + c*si + tap[j]*sk]. */
static inline __attribute__((always_inline)) void NAME(pack_strided)(const T *w, const ptrdiff_t *row, ptrdiff_t rows,
                                                                     ptrdiff_t n_c, ptrdiff_t si, const ptrdiff_t *tap,
                                                                     ptrdiff_t n_k, ptrdiff_t sk, T *out)
{
    for (ptrdiff_t c = 0; c < n_c; c++)
        for (ptrdiff_t j = 0; j < n_k; j++) {
            const T *from = w + c * si + tap[j] * sk;
            for (ptrdiff_t i = 0; i < rows; i++)
                *out++ = from[row[i]];
        }
}

/* The same where the rows follow one another: row[i] = row[0] + i. */
static void NAME(pack_rows)(const T *w, ptrdiff_t rows, ptrdiff_t n_c, ptrdiff_t si, const ptrdiff_t *tap, ptrdiff_t n_k,
                            ptrdiff_t sk, T *out)
{
    for (ptrdiff_t c = 0; rows == ROWS && n_k == 1 && c < n_c; c++) /* most often: without an inner loop */
        memcpy(out + c * ROWS, w + c * si + tap[0] * sk, ROWS * sizeof(T));
    for (ptrdiff_t c = 0; (rows < ROWS || n_k > 1) && c < n_c; c++)
        for (ptrdiff_t j = 0; j < n_k; j++, out += rows)
            NAME(gather)(out, rows, w + c * si + tap[j] * sk, 1);
}

/* The same where ROWS rows of all taps lie in a few vectors: each vector of the result picks its elements from pairs of
 * those, element `pick` of one of them. */
#if BYTES >= 32 && defined(__GNUC__) && !defined(__clang__)
#define PICKS 1
enum { NAME(pick_taps) = LANES / ROWS > 0 ? LANES / ROWS : 1, NAME(pick_vectors) = 8, NAME(pick_pairs) = 4 };
typedef struct {
    ptrdiff_t vectors, pairs, reach, row[ROWS]; /* no vectors: not suited */
    NAME(mask) pick[NAME(pick_vectors)], of[NAME(pick_vectors)][NAME(pick_pairs)];
} NAME(picks);

static void NAME(find_picks)(NAME(picks) * picks, const ptrdiff_t *row, const ptrdiff_t *tap, ptrdiff_t n_k, ptrdiff_t sk)
{
    const ptrdiff_t n = (n_k + NAME(pick_taps) - 1) / NAME(pick_taps);
    ptrdiff_t first = 0, last = 0; /* of rows in any order, as those of a fused scatter may be */
    for (ptrdiff_t i = 0; i < ROWS; i++) {
        picks->row[i] = row[i] - row[0];
        first = picks->row[i] < first ? picks->row[i] : first;
        last = picks->row[i] > last ? picks->row[i] : last;
    }
    picks->reach = last + tap[n_k - 1] * sk + 1;
    picks->pairs = (picks->reach + 2 * LANES - 1) / (2 * LANES);
    picks->vectors = first == 0 && n <= NAME(pick_vectors) && picks->pairs <= NAME(pick_pairs) ? n : 0;
    for (ptrdiff_t v = 0; v < picks->vectors; v++) {
        for (int l = 0; l < LANES; l++) {
            const ptrdiff_t j = v * NAME(pick_taps) + l / ROWS;
            picks->pick[v][l] = (TINT)(picks->row[l % ROWS] + tap[j < n_k ? j : n_k - 1] * sk);
        }
        for (ptrdiff_t i = 0; i < picks->pairs; i++)
            picks->of[v][i] = picks->pick[v] / (2 * LANES) == (TINT)i;
    }
}

/* Vectors of the last channels may reach beyond the end of w or of out, which is why those are left; returns the channels
 * done. */
static ptrdiff_t NAME(pack_picked)(const NAME(picks) * picks, const T *w, ptrdiff_t n_c, ptrdiff_t si, ptrdiff_t n_k,
                                   const T *w_end, T *out, const T *out_end)
{
    const ptrdiff_t n = picks->vectors, pairs = picks->pairs;
    ptrdiff_t c = 0;
    for (; c < n_c && w_end - w >= pairs * 2 * LANES && out_end - out >= n * LANES; c++, w += si, out += n_k * ROWS) {
        for (ptrdiff_t v = 0; v < n; v++) {
            V sum = __builtin_shuffle(LOAD(w), LOAD(w + LANES), picks->pick[v]);
            for (ptrdiff_t i = 1; i < pairs; i++) {
                const V next = __builtin_shuffle(LOAD(w + 2 * i * LANES), LOAD(w + (2 * i + 1) * LANES), picks->pick[v]);
                const NAME(mask) of = picks->of[v][i];
                sum = (V)(((NAME(mask))sum & ~of) | ((NAME(mask))next & of));
            }
            STORE(out + v * LANES, sum);
        }
    }
    return c;
}
#else
#define PICKS 0
typedef struct {
    ptrdiff_t reach;
} NAME(picks);
#endif

#if LANES > 1
/* out[(c*n_k + j)*ROWS + i] = w[i*so + c*si + j]: rows interleaved in whole vectors. The last one of a channel reads and
 * writes on into what follows, which is written again, unless that is the end of w or out. */
static void NAME(pack_interleaved)(const T *w, ptrdiff_t so, ptrdiff_t n_c, ptrdiff_t si, ptrdiff_t n_k, const T *w_end,
                                   T *out, const T *out_end)
{
    for (ptrdiff_t c = 0; c < n_c; c++, w += si, out += n_k * ROWS) {
        ptrdiff_t k = NAME(interleave)(w, so, n_k, out, ROWS);
        if (k < n_k && w_end - w >= (ROWS - 1) * so + k + LANES && out_end - out >= (k + LANES) * ROWS)
            k += NAME(interleave)(w + k, so, LANES, out + k * ROWS, ROWS);
        for (; k < n_k; k++)
            for (ptrdiff_t i = 0; i < ROWS; i++)
                out[k * ROWS + i] = w[i * so + k];
    }
}
#endif

/* out[(c*n_k + j)*rows + i] for the parts of complex numbers, rows ci + c of which two are a channel: the real and the
 * imaginary part of w[row[i/2] + tap[j]*sk], or in the second row of a channel those of its product with the imaginary
 * unit. */
static inline __attribute__((always_inline)) void NAME(pack_parts)(const T *w, const ptrdiff_t *row, ptrdiff_t rows,
                                                                   ptrdiff_t ci, ptrdiff_t n_c, ptrdiff_t si,
                                                                   const ptrdiff_t *tap, ptrdiff_t n_k, ptrdiff_t sk,
                                                                   T *out)
{
    for (ptrdiff_t c = ci; c < ci + n_c; c++)
        for (ptrdiff_t j = 0; j < n_k; j++, out += rows) {
            const T *from = w + c / 2 * si + tap[j] * sk;
            if (c % 2)
                for (ptrdiff_t i = 0; i < rows / 2; i++) {
                    out[2 * i] = -from[row[i] + 1];
                    out[2 * i + 1] = from[row[i]];
                }
            else
                for (ptrdiff_t i = 0; i < rows / 2; i++)
                    memcpy(out + 2 * i, from + row[i], 2 * sizeof(T));
        }
}

/* One register tile's weights of n_ci channels and n_k taps, in the quickest way that their strides allow. */
static void NAME(pack_tile)(const T *w, const ptrdiff_t *row, ptrdiff_t rows, ptrdiff_t so, ptrdiff_t n_ci, ptrdiff_t si,
                            const ptrdiff_t *tap, ptrdiff_t n_k, ptrdiff_t step, const T *w_end, T *out,
                            const T *out_end, NAME(picks) *picks)
{
    (void)picks;
    int follow = 1, even = 1, in_order = step == 1;
    for (ptrdiff_t i = 1; i < rows; i++) {
        follow &= row[i] == row[0] + i;
        even &= row[i] == row[0] + i * so;
    }
    for (ptrdiff_t j = 1; j < n_k; j++)
        in_order &= tap[j] == tap[0] + j;
    if (follow && n_k > 0) {
        NAME(pack_rows)(w + row[0], rows, n_ci, si, tap, n_k, step, out);
        return;
    }
#if LANES > 1
    const int joined = in_order && si == n_k, whole = w_end && rows == ROWS && n_k > 0;
    int picked = 0;
#if PICKS
    int known = picks->reach > 0;
    for (ptrdiff_t i = 0; known && i < rows; i++)
        known = row[i] - row[0] == picks->row[i];
    if (whole && !known)
        NAME(find_picks)(picks, row, tap, n_k, step);
    picked = whole && picks->vectors && !(even && joined) && !(even && in_order && n_k > 8);
    if (picked) {
        const ptrdiff_t done = NAME(pack_picked)(picks, w + row[0], n_ci, si, n_k, w_end, out, out_end);
        w += done * si;
        out += done * n_k * ROWS;
        n_ci -= done;
    }
#endif
    /* 4 taps: below that the strided loop is as fast */
    if (whole && !picked && even && in_order && (joined || n_k >= 4)) {
        NAME(pack_interleaved)(w + row[0] + tap[0], so, joined ? 1 : n_ci, si, joined ? n_ci * n_k : n_k, w_end, out,
                               out_end);
        return;
    }
#endif
    if (rows == ROWS)
        NAME(pack_strided)(w, row, ROWS, n_ci, si, tap, n_k, step, out);
    else
        NAME(pack_strided)(w, row, rows, n_ci, si, tap, n_k, step, out);
}

/* Ask for the weights of a register tile, all taps: ROWS pieces as long as n_c channels, or n_c pieces of ROWS rows. The
 * gradient by the input of 257 -> 513 channels, 3 taps, 4 positions: 595 -> 515 us with weights from memory; packing 512 x 512 x 3
 * that lie in a cache 0.24 -> 0.28 ms. */
static void NAME(fetch_tile)(const T *w, ptrdiff_t so, ptrdiff_t n_c, ptrdiff_t si)
{
    const ptrdiff_t line = 64 / (ptrdiff_t)sizeof(T), long_rows = so > si;
    const ptrdiff_t pieces = long_rows ? ROWS : n_c, pitch = long_rows ? so : si, length = long_rows ? n_c * si : ROWS * so;
    for (ptrdiff_t r = 0; r < pieces; r++)
        for (ptrdiff_t i = 0; i < length; i += line)
            PREFETCH_NEAR(w + r * pitch + i);
}

/* The weights of output channels [co0, co1), which begin with a register tile, of n_ci channels and n_k sorted taps from ci and
 * k on: tile of output channels, then [ci][tap][channel in tile]. Returns whether all are finite. */
static int NAME(pack_block)(const fc1d_weight *weight, const fc1d_problem *p, ptrdiff_t g, ptrdiff_t ci, ptrdiff_t n_ci,
                            ptrdiff_t k, ptrdiff_t n_k, ptrdiff_t co0, ptrdiff_t co1, T *out, const T *out_end)
{
    const ptrdiff_t sg = weight->sg, so = weight->so, si = weight->si, sk = weight->sk, taps = weight->taps;
    const ptrdiff_t parts = weight->parts, fused = weight->fused / parts, step = fused * sk, *tap = weight->tap_k + k;
    const T *w = (const T *)weight->data + g * sg;
    /* what vectors may read beyond their elements: all of the weight, where strides are not negative */
    const int forward = parts == 1 && so > 0 && si > 0 && sg > 0 && sk > 0;
    const T *w_end = !forward ? NULL : (const T *)weight->data + (p->groups - 1) * sg + (p->c_out / fused - 1) * so +
                                           (p->c_in - 1) * si + (taps - 1) * sk + 1;
    const int fetch = forward && fused == 1 && n_k == taps && (so < si ? so : si) == taps;
    int finite = 1;
    NAME(picks) picks = {0};
    for (ptrdiff_t co = co0, rows; co < co1; co += rows, out += rows * n_ci * n_k) {
        ptrdiff_t row[ROWS] = {0};
        rows = co1 - co < ROWS ? co1 - co : ROWS;
        const ptrdiff_t first = parts == 1 ? co : co / parts;
        for (ptrdiff_t i = 0; i < rows / parts; i++) /* without divisions where that can be: blocks may be small */
            row[i] = fused == 1 ? (first + i) * so : (first + i) / fused * so + (first + i) % fused * sk;
        if (fetch && co + 2 * ROWS <= p->c_out)
            NAME(fetch_tile)(w + (co + ROWS) * so + ci * si, so, n_ci, si);
        if (parts == 1)
            NAME(pack_tile)(w + ci * si, row, rows, so, n_ci, si, tap, n_k, step, w_end, out, out_end, &picks);
        else if (rows == ROWS)
            NAME(pack_parts)(w, row, ROWS, ci, n_ci, si, tap, n_k, step, out);
        else
            NAME(pack_parts)(w, row, rows, ci, n_ci, si, tap, n_k, step, out);
        finite &= NAME(all_finite)(out, rows * n_ci * n_k); /* in L1 still */
    }
    return finite;
}

/* Order of a packed weight: group, block of ci, output phase, block of taps, then pack_block's, as run_group walks it.
 * Returns whether all packed numbers are finite. */
static int NAME(pack_weights)(const fc1d_weight *weight, const fc1d_problem *p, void *packed)
{
    T *out = (T *)packed;
    const T *out_end = out + p->groups * p->c_out * p->c_in * p->kernel_size;
    int finite = 1;
    for (ptrdiff_t g = 0; g < p->groups; g++)
        for (ptrdiff_t ci = 0; ci < p->c_in; ci += p->ci_block) {
            const ptrdiff_t n_ci = p->c_in - ci < p->ci_block ? p->c_in - ci : p->ci_block;
            for (ptrdiff_t r = 0; r < p->n_phases; r++)
                for (ptrdiff_t k = p->phase_start[r]; k < p->phase_start[r + 1]; k += p->k_block) {
                    const ptrdiff_t rest = p->phase_start[r + 1] - k, n_k = rest < p->k_block ? rest : p->k_block;
                    finite &= NAME(pack_block)(weight, p, g, ci, n_ci, k, n_k, 0, p->c_out, out, out_end);
                    out += p->c_out * n_ci * n_k;
                }
        }
    return finite;
}

/* ---- the tile loop ------------------------------------------------------------------------------------------- */

/* What happens to finished sums of a group: `finish` for channel 0 and column 0 of the tile, which is `channel` of all. */
typedef struct {
    NAME(finish) finish;
    ptrdiff_t channel;
} NAME(sink);

/* The output arrives while the sums are made. */
static inline void NAME(expect)(T *y, ptrdiff_t rows, ptrdiff_t ldy, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < rows; i++)
        for (ptrdiff_t j = 0; j < n; j += 64 / (ptrdiff_t)sizeof(T))
            PREFETCH_WRITE(y + i * ldy + j);
}

/* A register tile of all terms, chain by chain: the first sum is set, or with `accumulate` added to what y holds, as all
 * others are. */
static inline void NAME(run_chains)(NAME(tile_fn) tile, ptrdiff_t rows, const NAME(order) * order, const T *w, const T *x,
                                    const int32_t *tap, T *y, ptrdiff_t ldy, const T *bias, int accumulate,
                                    const NAME(finish) * finish)
{
    ptrdiff_t kc = order->kc;
    if (kc > order->chain) {
        const ptrdiff_t chain = order->chain, runs = order->skip ? chain / order->run : 0;
        for (; kc > chain; kc -= chain, accumulate = 1) {
            tile(chain, order, w, x, tap, y, ldy, bias, accumulate, NULL);
            w += (chain + runs * order->skip) * rows;
            tap += chain + runs * order->skip_table;
        }
    }
    tile(kc, order, w, x, tap, y, ldy, bias, accumulate, finish);
}

/* One register tile with last steps, or of which columns from `cols` < nv*LANES on are not kept. */
static void NAME(run_tile)(ptrdiff_t rows, ptrdiff_t nv, ptrdiff_t cols, const NAME(order) * order, const T *w, const T *x,
                           const int32_t *tap, T *y, ptrdiff_t ldy, const T *bias, int accumulate,
                           const NAME(finish) * finish, ptrdiff_t channel)
{
    const NAME(tile_fn) tile = NAME(tiles)[rows][nv];
    const int whole = cols >= nv * LANES, in_tile = finish && whole && finish->in_tile;
    if (finish && finish->residual) /* what the next strip adds is too much for the hardware to foresee */
        for (ptrdiff_t i = 0; i < rows; i++)
            for (ptrdiff_t j = 0; j < nv * LANES; j += 64 / (ptrdiff_t)sizeof(T))
                PREFETCH(finish->residual + i * finish->ldr + nv * LANES + j);
    if (whole)
        NAME(run_chains)(tile, rows, order, w, x, tap, y, ldy, bias, accumulate, in_tile ? finish : NULL);
    else {
        T edge[NAME(most_vectors) * LANES];
        for (ptrdiff_t i = 0; accumulate && i < rows; i++) {
            NAME(gather)(edge + i * nv * LANES, cols, y + i * ldy, 1);
            for (ptrdiff_t j = cols; j < nv * LANES; j++)
                edge[i * nv * LANES + j] = 0;
        }
        NAME(run_chains)(tile, rows, order, w, x, tap, edge, nv * LANES, bias, accumulate, NULL);
        for (ptrdiff_t i = 0; i < rows; i++)
            NAME(gather)(y + i * ldy, cols, edge + i * nv * LANES, 1);
    }
    if (finish && !in_tile)
        for (ptrdiff_t i = 0; i < rows; i++)
            NAME(finish_row)(finish, channel + i, y + i * ldy, finish->residual ? finish->residual + i * finish->ldr : NULL,
                             whole ? nv * LANES : cols);
}

#include "across.h"

/* All columns [0, cols) of output channels [co0, co1), `rows` (<= ROWS) at a time. Either the strip of the window that one
 * register tile needs stays in L1 while the weights stream past it, or, `by_rows`, the weights of one register tile stay, the
 * window comes by, from L2 maybe, and the output is written row after row, as far as the hardware foresees best. */
static void NAME(run_rows)(ptrdiff_t rows, ptrdiff_t co0, ptrdiff_t co1, ptrdiff_t cols, const NAME(order) * order,
                           const T *w, const T *window, const int32_t *tap, T *y, ptrdiff_t ldy, int padded, const T *bias,
                           int accumulate, int by_rows, NAME(ahead) *ahead, const NAME(sink) * sink)
{
    if (co0 == co1)
        return;
    const ptrdiff_t n_vec = (cols + LANES - 1) / LANES, widest = NAME(vectors)[rows];
    const ptrdiff_t strips = (n_vec + widest - 1) / widest, sweep = by_rows ? rows : co1 - co0;
    const ptrdiff_t kc = order->kc, pitch = order->pitch;
    if (rows == 1 && kc > 0 && kc <= NAME(row_terms) && kc <= order->chain && kc <= order->run && !accumulate && !sink) {
        const ptrdiff_t whole = padded ? n_vec * LANES : cols / LANES * LANES;
        NAME(fetch_ahead)(ahead, 0, 1);
        NAME(row)[kc](w + co0 * pitch, window, tap, y + co0 * ldy, whole, bias ? bias + co0 : NULL);
        if (whole < cols)
            NAME(run_tile)(1, 1, cols - whole, order, w + co0 * pitch, window + whole, tap, y + co0 * ldy + whole, ldy,
                           bias ? bias + co0 : NULL, 0, NULL, 0);
        return;
    }
    for (ptrdiff_t c0 = co0; c0 < co1; c0 += sweep)
        for (ptrdiff_t s = 0, q = 0, nv; s < strips; s++, q += nv * LANES) {
            nv = n_vec / strips + (s < n_vec % strips);
            const NAME(tile_fn) tile = NAME(tiles)[rows][nv];
            const int plain = !sink && (padded || cols - q >= nv * LANES);
            NAME(fetch_ahead)(ahead, (c0 - co0) / sweep * strips + s, (co1 - co0) / sweep * strips);
            for (ptrdiff_t co = c0; co < c0 + sweep; co += rows) {
                T *out = y + co * ldy + q;
                const T *b = bias ? bias + co : NULL;
                if (!by_rows)
                    NAME(expect)(out, rows, ldy, nv * LANES);
                else if (s + 1 < strips) /* the tile's own would be late: few terms come with large outputs */
                    NAME(expect)(out + nv * LANES, rows, ldy, nv * LANES);
                else if (co + rows < co1)
                    NAME(expect)(y + (co + rows) * ldy, rows, ldy, nv * LANES);
                if (plain) {
                    NAME(run_chains)(tile, rows, order, w + co * pitch, window + q, tap, out, ldy, b, accumulate, NULL);
                    continue;
                }
                NAME(finish) finish;
                if (sink) {
                    finish = sink->finish;
                    if (finish.residual)
                        finish.residual += co * finish.ldr + q;
                }
                NAME(run_tile)(rows, nv, cols - q, order, w + co * pitch, window + q, tap, out, ldy, b, accumulate,
                               sink ? &finish : NULL, sink ? sink->channel + co : 0);
            }
        }
}

#if LANES > 1
/* out[q*step + r] = stage[r][q] for q < cols in whole vectors and r < step; returns the columns done. Squares of LANES
 * phases and columns; what a square has beyond the last phase is written over by the next column, so the columns whose
 * squares would reach beyond the last are left. The rows of pairs of phases are `outer` apart, others `pitch`. */
static inline __attribute__((always_inline)) ptrdiff_t NAME(unstage_squares)(const T *stage, ptrdiff_t pitch,
                                                                            ptrdiff_t outer, ptrdiff_t cols, T *out,
                                                                            ptrdiff_t step)
{
    const ptrdiff_t beyond = step < LANES ? (LANES - 1) / step : 0;
    ptrdiff_t q = 0;
    for (; q + LANES + beyond <= cols; q += LANES)
        for (ptrdiff_t r = 0; r < step; r += LANES) {
            const ptrdiff_t first = step < LANES || r + LANES <= step ? r : step - LANES;
            V v[LANES];
            _Pragma("GCC unroll 16") for (int i = 0; i < LANES; i++)
            {
                const ptrdiff_t row = first + i < step ? first + i : step - 1;
                v[i] = LOAD(stage + (outer ? row / 2 * outer + row % 2 * pitch : row * pitch) + q);
            }
            NAME(transpose)(v);
            _Pragma("GCC unroll 16") for (int i = 0; i < LANES; i++) STORE(out + (q + i) * step + first, v[i]);
        }
    return q;
}
#endif

/* Write columns [q0, q0 + cols) of the staged phases of one output channel: y[q*step + r - shift] = stage[r][q]. Where the
 * phases of complex numbers are not fused, the rows of both parts are a pair of phases. */
static void NAME(unstage)(const fc1d_problem *p, const T *stage, ptrdiff_t phase_pitch, ptrdiff_t q0, ptrdiff_t cols,
                          T *y)
{
    const ptrdiff_t step = p->y_step, pitch = p->fused > 1 ? p->stage_pitch : phase_pitch;
    const ptrdiff_t outer = p->fused > 1 && p->fused < step ? phase_pitch : 0;
    T *out = y + q0 * step - p->y_shift;
    const ptrdiff_t first = q0 == 0 && p->y_shift > 0; /* column 0 may begin before the output, the last end after it */
    const ptrdiff_t inside = (p->l_out + p->y_shift) / step - q0, end = inside < cols ? inside : cols;
    ptrdiff_t q = first;
#if LANES > 1
    if (outer)
        q += NAME(unstage_squares)(stage + q, pitch, outer, end - q, out + q * step, step);
    else if (step == 2)
        q += NAME(interleave)(stage + q, pitch, end - q, out + q * 2, 2);
    else if (step == 4)
        q += NAME(interleave)(stage + q, pitch, end - q, out + q * 4, 4);
    else if (step == 8)
        q += NAME(interleave)(stage + q, pitch, end - q, out + q * 8, 8);
    else if (step > 2)
        q += NAME(unstage_squares)(stage + q, pitch, 0, end - q, out + q * step, step);
#endif
#define STAGED(r) stage[outer ? r / 2 * outer + r % 2 * pitch + q : r * pitch + q]
    for (; q < end; q++)
        for (ptrdiff_t r = 0; r < step; r++)
            out[q * step + r] = STAGED(r);
    for (ptrdiff_t edge = 0; edge < 2; edge++) {
        q = edge == 0 ? 0 : end;
        if (edge == 0 ? !first : q >= cols || q < first)
            continue;
        const ptrdiff_t o = (q0 + q) * step - p->y_shift;
        for (ptrdiff_t r = o < 0 ? -o : 0; r < step && o + r < p->l_out; r++)
            out[q * step + r] = STAGED(r);
    }
#undef STAGED
}

/* Columns [q0, q0 + cols) of one item from the stage to the output: phases interleaved, finished, and stored as y is laid
 * out. `y_item` and `r_item` are the item's places in y and residual, `stage` begins with channel co0's row. */
static void NAME(emit)(const fc1d_problem *p, ptrdiff_t y_item, ptrdiff_t r_item, ptrdiff_t group, ptrdiff_t co0,
                       ptrdiff_t co1, ptrdiff_t q0, ptrdiff_t cols, T *stage, ptrdiff_t phase_pitch, T *rows,
                       const NAME(finish) * finish)
{
    const ptrdiff_t step = p->y_step, begin = q0 * step - p->y_shift, end = (q0 + cols) * step - p->y_shift;
    const ptrdiff_t lo = begin > 0 ? begin : 0, length = (end < p->l_out ? end : p->l_out) - lo;
    const ptrdiff_t first = group * (p->c_out / p->fused), pitch = step == 1 ? p->stage_pitch : p->emit_pitch;
    const ptrdiff_t place = p->pairs ? lo / 2 : lo;
    T *more = rows + p->emit_rows * p->emit_pitch;
    for (ptrdiff_t co = co0, m; co < co1; co += m * p->fused) {
        const ptrdiff_t channel = first + co / p->fused, left = (co1 - co) / p->fused;
        const ptrdiff_t y = y_item + channel * p->yc + place * p->yl, r = r_item + channel * p->rc + place * p->rl;
        const T *from = stage + (co - co0) * p->stage_pitch, *residual = p->residual ? more : NULL;
        m = p->plain ? 1 : step == 1 && !p->residual ? left : left < p->emit_rows ? left : p->emit_rows;
        T *to = p->plain ? (T *)p->y + y : step == 1 ? stage + (co - co0) * p->stage_pitch : rows;
        if (p->plain && residual)
            residual = (const T *)p->residual + r;
        else if (residual && p->pairs)
            NAME(load_pairs)(more, p->emit_pitch, m, length, (const T *)p->residual + r, p->rc, p->rl);
        else if (residual)
            NAME(load_rows)(more, p->emit_pitch, m, length, NAME(at)(p->residual, r, p->half), p->rc, p->rl, p->half);
        for (ptrdiff_t c = 0; c < m; c++) {
            T *row = to + c * pitch;
            /* the same part of the next row arrives meanwhile */
            if (p->plain && p->n_tiles > 1 && length * (ptrdiff_t)sizeof(T) <= EMIT_AHEAD_BYTES && co + m * p->fused < co1)
                NAME(expect)(row + p->yc, 1, 0, length);
            if (step > 1)
                NAME(unstage)(p, from + c * p->fused * p->stage_pitch, phase_pitch, q0, cols, row - lo);
            else if (p->plain)
                NAME(copy_row)(row, from, cols);
            if (finish)
                NAME(finish_row)(finish, channel + c, row, residual ? residual + c * p->emit_pitch : NULL, length);
        }
        if (p->pairs)
            NAME(store_pairs)((T *)p->y + y, p->yc, p->yl, to, pitch, m, length);
        else if (!p->plain)
            NAME(store_rows)(NAME(at)(p->y, y, p->half), p->yc, p->yl, to, pitch, m, length, p->half);
    }
}

/* What comes after channel block ci of the tile at q0: the next block, or the first block of the next group in the unit,
 * or of the next tile. */
static NAME(ahead) NAME(look_ahead)(const fc1d_problem *p, ptrdiff_t x, ptrdiff_t ci, ptrdiff_t q0, int more_groups)
{
    NAME(ahead) a = {0};
    ptrdiff_t start = q0 * p->x_step + p->runs[0].start, end;
    ci += p->ci_block;
    if (ci >= p->c_in) {
        ci = 0;
        if (more_groups)
            x += NAME(row_at)(p->c_in, p->xc, p->parts);
        else
            start += p->tile_cols * p->x_step;
    }
    end = start + p->tile_cols * p->x_step;
    start = start < 0 ? 0 : start;
    end = end < p->l_in ? end : p->l_in;
    if (p->xl == p->parts && !p->half && end > start) {
        a.rows = (p->c_in - ci < p->ci_block ? p->c_in - ci : p->ci_block) / p->parts;
        a.row = (const T *)p->x + x + ci / p->parts * p->xc + start * p->xl;
        a.pitch = p->xc;
        a.elements = (end - start) * p->xl;
    }
    return a;
}

/* The same for planes: rows of the input that follow each other. */
static NAME(ahead) NAME(look_below)(const fc1d_problem *p, ptrdiff_t x, ptrdiff_t ci, ptrdiff_t o0, ptrdiff_t rows,
                                    int more_groups)
{
    NAME(ahead) a = {0};
    ptrdiff_t start = o0 * p->row_step + p->row_base, end;
    ci += p->ci_block;
    if (ci >= p->c_in) {
        ci = 0;
        if (more_groups)
            x += p->c_in * p->xc;
        else
            start += rows * p->row_step;
    }
    end = start + rows * p->row_step;
    start = start < 0 ? 0 : start;
    end = end < p->rows_in ? end : p->rows_in;
    if (p->xl == 1 && p->xh >= p->l_in && p->n_tiles == 1 && !p->half && end > start) {
        a.rows = p->c_in - ci < p->ci_block ? p->c_in - ci : p->ci_block;
        a.row = (const T *)p->x + x + ci * p->xc + start * p->xh;
        a.pitch = p->xc;
        a.elements = (end - start) * p->xh;
    }
    return a;
}

/* How many blocks come before that of channel ci and tap k in the sums of a phase of so many taps. */
static ptrdiff_t NAME(block_of)(const fc1d_problem *p, ptrdiff_t ci, ptrdiff_t k, ptrdiff_t taps)
{
    const ptrdiff_t k_blocks = taps ? (taps + p->k_block - 1) / p->k_block : 1;
    return ci / p->ci_block * k_blocks + k / p->k_block;
}

/* Whether that block, not the first, is added to the sums; otherwise it begins a group, and the sums were carried. */
static NOINLINE int NAME(go_on)(const fc1d_problem *p, ptrdiff_t ci, ptrdiff_t k, ptrdiff_t taps, const T *sums,
                                ptrdiff_t lds, ptrdiff_t rows, ptrdiff_t cols, T *total, ptrdiff_t level, ptrdiff_t pitch)
{
    const ptrdiff_t block = NAME(block_of)(p, ci, k, taps);
    if (block % p->group_blocks)
        return 1;
    NAME(carry)(total, level, pitch, sums, lds, rows, cols, block / p->group_blocks - 1);
    return 0;
}

/* The first of n_k positions, which rise or fall, that is at least (falling: below) `limit`. */
static ptrdiff_t NAME(first_beyond)(const ptrdiff_t *pos, ptrdiff_t n_k, ptrdiff_t limit, int falling)
{
    ptrdiff_t low = 0;
    while (low < n_k) {
        const ptrdiff_t middle = (low + n_k) / 2;
        if ((pos[middle] < limit) == falling)
            n_k = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* The taps [*from, *to) of n_k at pos that read some of the input in columns [q0, q0 + cols); they lie in order. */
static void NAME(find_live)(const fc1d_problem *p, const ptrdiff_t *pos, ptrdiff_t n_k, ptrdiff_t q0, ptrdiff_t cols,
                            ptrdiff_t *from, ptrdiff_t *to)
{
    const ptrdiff_t low = p->x_base + q0 * p->x_step, high = low + (cols - 1) * p->x_step;
    const int falling = n_k > 1 && pos[1] < pos[0];
    const ptrdiff_t begin = NAME(first_beyond)(pos, n_k, falling ? p->l_in - low : -high, falling);
    const ptrdiff_t end = NAME(first_beyond)(pos, n_k, falling ? -high : p->l_in - low, falling);
    *from = begin < end ? begin : end; /* the input may be empty */
    *to = end;
}

/* The terms of a block for output channels: those of n_ci channels and n_k taps, of which [from, to) read some of the input in
 * the columns of the tile. With `part` so many columns at once have taps of their own to leave out, with `strip` those of a register tile. */
typedef struct {
    ptrdiff_t n_ci, n_k, taps; /* channels, taps of the block, and of the phase */
    ptrdiff_t chain;           /* channels */
    ptrdiff_t from, to;
    const int32_t *tap;
    const fc1d_problem *p;
    const ptrdiff_t *pos;
    ptrdiff_t q0, strip, part;
} NAME(terms);

static inline NAME(order) NAME(order_of)(const NAME(terms) * t, ptrdiff_t from, ptrdiff_t to, ptrdiff_t ahead_bytes)
{
    const ptrdiff_t n_k = to - from, kc = t->n_ci * n_k, skip = t->n_k - n_k;
    const ptrdiff_t terms = ahead_bytes / (ROWS * (ptrdiff_t)sizeof(T));
    const ptrdiff_t ahead = skip ? (terms + t->n_k - 1) / t->n_k * t->n_k : terms; /* whole channels, whose live taps are these */
    const NAME(order) order = {kc, t->chain * n_k, skip ? n_k : kc, skip, t->taps - n_k, t->n_ci * t->n_k, ahead};
    return order;
}

#if ACROSS_CHANNELS
/* Whether parts of a tile's columns should leave out taps of their own: where that saves cycles (two multiply-adds each, for
 * a vector of channels), though each sum is carried to and from its column by itself. */
static void NAME(find_parts)(NAME(terms) * t, ptrdiff_t cols)
{
    const ptrdiff_t live = t->to - t->from, whole = (cols + LANES - 1) / LANES * LANES, low = t->p->x_base + t->q0 * t->p->x_step;
    const ptrdiff_t a = t->pos[0], b = t->pos[t->n_k - 1];
    ptrdiff_t cycles = 3 * LANES * cols / t->n_ci, from, to;
    if (live == t->n_k && low + (a < b ? a : b) >= 0 && low + (cols - 1) * t->p->x_step + (a < b ? b : a) < t->p->l_in)
        return; /* nothing to leave out anywhere */
    for (ptrdiff_t q = 0, n; q < cols; q += n) {
        n = cols - q < NAME(part_columns) ? cols - q : NAME(part_columns);
        NAME(find_live)(t->p, t->pos, t->n_k, t->q0 + q, n, &from, &to);
        cycles += (to - from) * (n + 1);
    }
    ptrdiff_t others = t->strip ? 0 : live * whole;
    for (ptrdiff_t q = 0; q < cols && t->strip; q += t->strip) {
        NAME(find_live)(t->p, t->pos, t->n_k, t->q0 + q, cols - q < t->strip ? cols - q : t->strip, &from, &to);
        others += (to - from) * t->strip;
    }
    t->part = cycles < others ? NAME(part_columns) : 0;
}

/* What run_block does, as far as whole vectors of channels go; returns the first channel left. */
static ptrdiff_t NAME(run_parts)(const NAME(terms) * t, ptrdiff_t c0, ptrdiff_t c1, ptrdiff_t cols, const T *w,
                                 const T *window, T *y, ptrdiff_t ldy, const T *bias, int accumulate,
                                 const NAME(sink) * sink)
{
    NAME(sink) of_part;
    ptrdiff_t next = c0, from = t->from, to = t->to;
    for (ptrdiff_t q = 0, n; q < cols; q += n) {
        n = t->part && t->part < cols - q ? t->part : cols - q;
        if (t->part)
            NAME(find_live)(t->p, t->pos, t->n_k, t->q0 + q, n, &from, &to);
        const NAME(order) order = NAME(order_of)(t, from, to, AHEAD_ACROSS_BYTES);
        if (sink) {
            of_part = *sink;
            if (sink->finish.residual)
                of_part.finish.residual += q;
        }
        next = NAME(run_across)(c0, c1, n, &order, w + from * ROWS, window + q, t->tap + from, y + q, ldy, bias, accumulate,
                                sink ? &of_part : NULL);
    }
    return next;
}
#endif

/* The sums of output channels [c0, c1) of a block of terms. */
static void NAME(run_block)(const NAME(terms) * t, ptrdiff_t c0, ptrdiff_t c1, ptrdiff_t cols, const T *w, const T *window,
                            T *y, ptrdiff_t ldy, int padded, const T *bias, int accumulate, int by_rows,
                            NAME(ahead) * ahead, const NAME(sink) * sink)
{
    const ptrdiff_t whole = c0 + (c1 - c0) / ROWS * ROWS;
#if ACROSS_CHANNELS
    if (cols <= NAME(few) || t->part)
        c0 = NAME(run_parts)(t, c0, whole, cols, w, window, y, ldy, bias, accumulate, sink);
    if (c0 == c1)
        return;
#endif
    NAME(sink) of_strip;
    ptrdiff_t from = t->from, to = t->to;
    for (ptrdiff_t q = 0, n; q < cols; q += n) {
        n = t->strip && t->strip < cols - q ? t->strip : cols - q;
        if (t->strip)
            NAME(find_live)(t->p, t->pos, t->n_k, t->q0 + q, n, &from, &to);
        const NAME(order) order = NAME(order_of)(t, from, to, AHEAD_BYTES);
        const int32_t *tap = t->tap + from;
        if (sink) {
            of_strip = *sink;
            if (sink->finish.residual)
                of_strip.finish.residual += q;
        }
        NAME(run_rows)(ROWS, c0, whole, n, &order, w + from * ROWS, window + q, tap, y + q, ldy, padded, bias, accumulate,
                       by_rows, ahead, sink ? &of_strip : NULL);
        if (whole < c1)
            NAME(run_rows)(c1 - whole, whole, c1, n, &order, w + from * (c1 - whole), window + q, tap, y + q, ldy, padded,
                           bias, accumulate, by_rows, ahead, sink ? &of_strip : NULL);
    }
}

/* Up to four rows of one tap from rows of x that lie far apart in memory and in no cache: a few rows of x at a time from one end
 * of the tile to the other, as far as the hardware foresees them, with the sums so far in L1. Chains and their order are
 * those of run_chains. */
#define STREAM(MR, TERMS)                                                                                              \
    static void NAME(stream_##MR##x##TERMS)(const T *restrict w, const T *restrict x, ptrdiff_t pitch, ptrdiff_t n,     \
                                            T *restrict sums, ptrdiff_t lds, int fresh)                                \
    {                                                                                                                  \
        V wv[TERMS][MR];                                                                                               \
        const T *row[TERMS];                                                                                           \
        _Pragma("GCC unroll 8") for (int t = 0; t < TERMS; t++)                                                        \
        {                                                                                                              \
            row[t] = x + t * pitch;                                                                                    \
            _Pragma("GCC unroll 4") for (int i = 0; i < MR; i++) wv[t][i] = w[t * MR + i] - (V){0};                    \
        }                                                                                                              \
        for (ptrdiff_t q = 0; q < n; q += LANES) {                                                                     \
            V acc[MR];                                                                                                 \
            _Pragma("GCC unroll 4") for (int i = 0; i < MR; i++) acc[i] = fresh ? (V){0} : LOAD(sums + i * lds + q);   \
            _Pragma("GCC unroll 8") for (int t = 0; t < TERMS; t++)                                                    \
            {                                                                                                          \
                V xt = LOAD(row[t] + q);                                                                               \
                HOLD(xt);                                                                                              \
                _Pragma("GCC unroll 4") for (int i = 0; i < MR; i++) acc[i] += wv[t][i] * xt;                          \
            }                                                                                                          \
            _Pragma("GCC unroll 4") for (int i = 0; i < MR; i++) STORE(sums + i * lds + q, acc[i]);                    \
        }                                                                                                              \
    }
typedef void (*NAME(stream_fn))(const T *w, const T *x, ptrdiff_t pitch, ptrdiff_t n, T *sums, ptrdiff_t lds, int fresh);
STREAM(1, 1) STREAM(2, 1) STREAM(3, 1) STREAM(4, 1)
#if ROWS == 4 /* 16 vector registers */
STREAM(1, 4) STREAM(2, 4) STREAM(3, 2) STREAM(4, 2)
static const NAME(stream_fn) NAME(streams)[2][5] = {
    {0, NAME(stream_1x1), NAME(stream_2x1), NAME(stream_3x1), NAME(stream_4x1)},
    {0, NAME(stream_1x4), NAME(stream_2x4), NAME(stream_3x2), NAME(stream_4x2)}};
static const ptrdiff_t NAME(streamed)[5] = {0, 4, 4, 2, 2};
#else
STREAM(1, 8) STREAM(2, 8) STREAM(3, 4) STREAM(4, 4)
static const NAME(stream_fn) NAME(streams)[2][5] = {
    {0, NAME(stream_1x1), NAME(stream_2x1), NAME(stream_3x1), NAME(stream_4x1)},
    {0, NAME(stream_1x8), NAME(stream_2x8), NAME(stream_3x4), NAME(stream_4x4)}};
static const ptrdiff_t NAME(streamed)[5] = {0, 8, 8, 4, 4};
#endif

/* y[i][q] (+)= the sums of n_ci channels for `rows` output channels and n columns, whole vectors of which can be read. */
static void NAME(run_streams)(ptrdiff_t rows, const T *w, const T *x, ptrdiff_t pitch, ptrdiff_t n_ci, ptrdiff_t chain,
                              ptrdiff_t n, T *y, ptrdiff_t ldy, const T *bias, int accumulate, T *sums, ptrdiff_t lds)
{
    for (ptrdiff_t c = 0, m; c < n_ci; c += m) {
        m = n_ci - c < chain ? n_ci - c : chain;
        for (ptrdiff_t t = 0, several; t < m; t += several ? NAME(streamed)[rows] : 1) {
            several = m - t >= NAME(streamed)[rows];
            NAME(streams)[several][rows](w + (c + t) * rows, x + (c + t) * pitch, pitch, n, sums, lds, t == 0);
        }
        for (ptrdiff_t i = 0; i < rows; i++) {
            T *out = y + i * ldy;
            const T *from = sums + i * lds;
            for (ptrdiff_t q = 0; q < n; q++)
                out[q] = accumulate || c > 0 ? out[q] + from[q] : bias ? from[q] + bias[i] : from[q];
        }
    }
}

/* Of planes, `n` is the batch item and o0 its first output row, otherwise 0; `items` counts rows then. */
static void NAME(run_group)(const fc1d_problem *p, ptrdiff_t n, ptrdiff_t o0, ptrdiff_t items, ptrdiff_t g, ptrdiff_t co0,
                            ptrdiff_t co1, ptrdiff_t q0, int more_groups, T *window)
{
    const ptrdiff_t item_cols = p->n_cols - q0 < p->tile_cols ? p->n_cols - q0 : p->tile_cols;
    const ptrdiff_t cols = (items - 1) * p->item_pitch + item_cols;
    const ptrdiff_t width = items > 1 ? item_cols : (cols + LANES - 1) / LANES * LANES;
    const ptrdiff_t x = n * p->xn + NAME(row_at)(g * p->c_in, p->xc, p->parts);
    const T *w = p->w ? (const T *)p->w + g * p->c_out * p->c_in * p->kernel_size : NULL;
    const T *bias = p->bias ? (const T *)p->bias + g * p->c_out : NULL;
    const ptrdiff_t y_item = n * p->yn + o0 * p->yh, r_item = n * p->rn + o0 * p->rh;
    T *y = (T *)p->y + y_item + g * p->c_out * p->yc + q0; /* where it is plain and not staged */
    const T *residual = p->residual && p->plain ? (const T *)p->residual + r_item + g * p->c_out * p->rc + q0 : NULL;
    const int active = p->residual || p->after.function;
    NAME(sink) sink;
    if (active) {
        sink.finish = NAME(finish_of)(&p->after, residual, p->rc, p->residual_scale, p->residual_last);
        sink.channel = g * p->c_out;
    }
    const ptrdiff_t phase_pitch = (co1 - co0) * p->stage_pitch;
    T *stage = window + p->window_elems, *totals = stage + p->stage_elems + 2 * p->emit_rows * p->emit_pitch;
    T *packed = totals + p->levels * p->total_elems;

    const fc1d_run *last_run = p->runs + p->n_runs - 1;
    const int in_place = p->in_place && q0 + p->runs->start >= 0 && q0 + last_run->start + last_run->extra + width <= p->l_in;
    for (ptrdiff_t ci = 0; ci == 0 || ci < p->c_in; ci += p->ci_block) {
        const ptrdiff_t n_ci = p->c_in - ci < p->ci_block ? p->c_in - ci : p->ci_block;
        NAME(ahead) ahead;
        if (p->rows_out) {
            NAME(pack_planes)(p, x, g * p->c_in, o0, items, ci, n_ci, q0, item_cols, window);
            ahead = NAME(look_below)(p, x, ci, o0, items, more_groups);
            if (p->stacked) {
                NAME(fetch_ahead)(&ahead, 0, 1);
                NAME(run_stack)(p, w, window, bias, items, item_cols, y);
                if (active)
                    NAME(finish_row)(&sink.finish, sink.channel, y, residual, items * item_cols);
                return;
            }
        } else {
            if (!in_place)
                NAME(pack_window)(p, x, g * p->c_in, items, ci, n_ci, q0, width, window);
            if (ci == 0 && items > 1)
                NAME(clear_gaps)(p, items, n_ci, width, window);
            ahead = NAME(look_ahead)(p, x, ci, q0, more_groups);
        }
        const T *rows = in_place ? (const T *)p->x + x + ci * p->xc + q0 + p->runs->start : window;
        const int32_t *tap = in_place ? p->in_place : p->tap;
        for (ptrdiff_t r = 0; r < p->n_phases; r++) {
            const ptrdiff_t taps = p->phase_start[r + 1] - p->phase_start[r];
            T *base = p->staged ? stage + r * phase_pitch - co0 * p->stage_pitch : y;
            const ptrdiff_t ldy = p->staged ? p->stage_pitch : p->yc;
            for (ptrdiff_t k = 0; k == 0 || k < taps; k += p->k_block) {
                const ptrdiff_t n_k = taps - k < p->k_block ? taps - k : p->k_block;
                const T *wb = w ? w + (ci * p->kernel_size + (p->phase_start[r] + k) * n_ci) * p->c_out : NULL;
                NAME(terms) terms = {n_ci, n_k, taps, p->ci_chain, 0, n_k, tap + p->phase_start[r] * p->ci_block + k, p,
                                     p->pos + p->phase_start[r] + k, q0, p->strip, 0};
                if (p->leaves_out)
                    NAME(find_live)(p, terms.pos, n_k, q0, item_cols, &terms.from, &terms.to);
#if ACROSS_CHANNELS
                if (p->leaves_out && items == 1 && cols > NAME(few) && co1 - co0 >= LANES && n_k > 0)
                    NAME(find_parts)(&terms, cols);
#endif
                const int last = ci + n_ci == p->c_in && k + n_k == taps;
                const NAME(sink) *to = last && !p->staged && active && !p->levels ? &sink : NULL;
                int accumulate = ci > 0 || k > 0;
                const T *b = accumulate ? NULL : bias;
                if (p->levels && accumulate)
                    accumulate = NAME(go_on)(p, ci, k, taps, base + co0 * ldy, ldy, co1 - co0, cols, totals + r * phase_pitch,
                                             p->total_elems, p->stage_pitch);
                const int streams = in_place && p->streamed;
                if (streams)
                    NAME(run_streams)(co1, wb, rows, p->xc, n_ci, p->ci_chain, cols, y, ldy, b, accumulate, window,
                                      p->row_pitch);
                for (ptrdiff_t co = 0; streams && to && co < co1; co++)
                    NAME(finish_row)(&sink.finish, sink.channel + co, y + co * ldy, residual ? residual + co * p->rc : NULL,
                                     cols);
                for (ptrdiff_t c0 = co0; !streams && c0 < co1; c0 += p->co_block) {
                    const ptrdiff_t c1 = co1 - c0 < p->co_block ? co1 : c0 + p->co_block;
                    if (p->unpacked && n_k > 0 &&
                        !NAME(pack_block)(p->unpacked, p, g, ci, n_ci, p->phase_start[r] + k, n_k, c0, c1, packed,
                                          packed + (c1 - c0) * n_ci * n_k))
                        fc1d_swap(p->not_finite, 1);
                    NAME(run_block)(&terms, c0, c1, cols, p->unpacked ? packed - c0 * n_ci * n_k : wb, rows, base, ldy,
                                    p->staged, b, accumulate, p->by_rows, &ahead, to);
                }
                if (p->levels && last)
                    NAME(add_totals)(base + co0 * ldy, ldy, totals + r * phase_pitch, p->total_elems, p->stage_pitch,
                                     co1 - co0, cols, NAME(block_of)(p, ci, k, taps) / p->group_blocks);
            }
        }
    }
    for (ptrdiff_t co = co0; p->levels && !p->staged && active && co < co1; co++)
        NAME(finish_row)(&sink.finish, sink.channel + co, y + co * p->yc, residual ? residual + co * p->rc : NULL, cols);
    const int together = p->y_step == 1 && !p->residual; /* the items of a channel lie in one row, the last steps too */
    for (ptrdiff_t co = co0; p->staged && active && together && co < co1; co++)
        NAME(finish_row)(&sink.finish, sink.channel + co, stage + (co - co0) * p->stage_pitch, NULL, cols);
    const ptrdiff_t y_step = p->rows_out ? p->yh : p->yn, r_step = p->rows_out ? p->rh : p->rn; /* from item to item */
    if (p->staged && p->rows_out && p->plain && p->yh == item_cols && !p->residual)
        NAME(emit_planes)(p, y, co0, co1, items, item_cols, stage);
    else
        for (ptrdiff_t i = 0; p->staged && i < items; i++)
            NAME(emit)(p, y_item + i * y_step, r_item + i * r_step, g, co0, co1, q0, item_cols, stage + i * p->item_pitch,
                       phase_pitch, stage + p->stage_elems, active && !together ? &sink.finish : NULL);
}

/* One unit of work: some items, some groups, some output channels, one column tile. Units write disjoint outputs. */
static void NAME(run_unit)(const fc1d_problem *p, ptrdiff_t unit, void *scratch)
{
    const ptrdiff_t tile = unit % p->n_tiles;
    unit /= p->n_tiles;
    const ptrdiff_t co0 = unit % p->n_co_units * p->co_unit;
    unit /= p->n_co_units;
    const ptrdiff_t g0 = unit % p->n_group_units * p->groups_per_unit;
    unit /= p->n_group_units;
    const ptrdiff_t n0 = p->rows_out ? unit / p->n_row_tiles : unit * p->items_per_unit;
    const ptrdiff_t o0 = p->rows_out ? unit % p->n_row_tiles * p->items_per_unit : 0;
    const ptrdiff_t left = p->rows_out ? p->rows_out - o0 : p->n_batch - n0;
    const ptrdiff_t items = left < p->items_per_unit ? left : p->items_per_unit;
    const ptrdiff_t co1 = p->c_out - co0 < p->co_unit ? p->c_out : co0 + p->co_unit;
    const ptrdiff_t g1 = p->groups - g0 < p->groups_per_unit ? p->groups : g0 + p->groups_per_unit;
    for (ptrdiff_t g = g0; g < g1; g++)
        NAME(run_group)(p, n0, o0, items, g, co0, co1, tile * p->tile_cols, g + 1 < g1, (T *)scratch);
}

/* What channels [ci, ci + n_ci) of the input add to position l of channels [c0, c1), for all items of a unit: the rows of a
 * tap are those of one position each. `stage` begins with channel c0, the totals lie as the stage does. */
static void NAME(run_position)(const fc1d_problem *p, ptrdiff_t l, ptrdiff_t ci, ptrdiff_t n_ci, ptrdiff_t c0, ptrdiff_t c1,
                               ptrdiff_t items, const T *w, const T *bias, const T *window, T *stage, int32_t *table)
{
    const ptrdiff_t taps = p->kernel_size, ldy = p->n_cols * p->stage_pitch, zeros = p->window_elems - p->row_pitch;
    T *sums = stage + l * p->stage_pitch, *total = sums + p->stage_elems;
    for (ptrdiff_t k = 0; k < taps; k += p->k_block) {
        const ptrdiff_t n_k = taps - k < p->k_block ? taps - k : p->k_block;
        const int first = ci == 0 && k == 0;
        NAME(ahead) nothing = {0};
        NAME(terms) terms = {n_ci, n_k, n_k, p->ci_chain, 0, n_k, table, p, p->pos + k, l, 0, 0};
        if (p->leaves_out)
            NAME(find_live)(p, p->pos + k, n_k, l, 1, &terms.from, &terms.to);
        int accumulate = !first;
        if (p->levels && accumulate)
            accumulate = NAME(go_on)(p, ci, k, taps, sums, ldy, c1 - c0, items, total, p->stage_elems, ldy);
        for (ptrdiff_t j = terms.from; j < terms.to; j++) {
            ptrdiff_t i = p->x_base + l * p->x_step + p->pos[k + j];
            const int inside = i >= 0 && i < p->l_in, found = inside || p->mode != FC1D_ZEROS;
            if (!inside && found)
                i = NAME(resolve)(i, p->l_in, p->mode);
            for (ptrdiff_t c = 0; c < n_ci; c++)
                table[c * n_k + j] = (int32_t)(found ? (c * p->l_in + i) * p->row_pitch : zeros);
        }
        NAME(run_block)(&terms, c0, c1, items, w + (ci * taps + k * n_ci) * p->c_out, window, sums - c0 * ldy, ldy, 1,
                        first ? bias : NULL, accumulate, p->by_rows, &nothing, NULL);
        if (p->levels && ci + n_ci == p->c_in && k + n_k == taps)
            NAME(add_totals)(sums, ldy, total, p->stage_elems, ldy, c1 - c0, items,
                             NAME(block_of)(p, ci, k, taps) / p->group_blocks);
    }
}

/* y[item][i] = the row of the i-th position in stage for n positions of channels of a scatter, which follow one another in y,
 * while the rows of a channel are phases, column by column. They are put in order in `rows`, some at a time. */
static void NAME(store_positions)(const fc1d_problem *p, const T *stage, ptrdiff_t n, ptrdiff_t items, T *rows, void *y)
{
    for (ptrdiff_t i0 = 0, m; i0 < n; i0 += m) {
        m = n - i0 < p->emit_rows ? n - i0 : p->emit_rows;
        for (ptrdiff_t i = i0; i < i0 + m; i++) {
            const ptrdiff_t channel = i / p->l_out, at = i - channel * p->l_out + p->y_shift;
            const ptrdiff_t q = at / p->y_step, row = channel * p->fused + at - q * p->y_step;
            NAME(copy_row)(rows + (i - i0) * p->stage_pitch, stage + (row * p->n_cols + q) * p->stage_pitch, items);
        }
        NAME(store_rows)(NAME(at)(y, i0, p->half), 1, p->yn, rows, p->stage_pitch, m, items, p->half);
    }
}

/* Many short items: one column for each, and each position of the output computed by itself, for all items of the unit; of
 * a scatter all phases of a column. A window row is a position of an input channel, so that a tap that reads padding is a
 * row of zeros, or left out. Channels and positions of an item lie side by side in x and in y. */
static void NAME(run_items)(const fc1d_problem *p, ptrdiff_t unit, void *scratch)
{
    const ptrdiff_t co0 = unit % p->n_co_units * p->co_unit, g = unit / p->n_co_units % p->groups;
    const ptrdiff_t n0 = unit / p->n_co_units / p->groups * p->items_per_unit;
    const ptrdiff_t items = p->n_batch - n0 < p->items_per_unit ? p->n_batch - n0 : p->items_per_unit;
    const ptrdiff_t co1 = p->c_out - co0 < p->co_unit ? p->c_out : co0 + p->co_unit;
    const T *w = (const T *)p->w + g * p->c_out * p->c_in * p->kernel_size;
    const T *bias = p->bias ? (const T *)p->bias + g * p->c_out : NULL;
    T *window = (T *)scratch, *stage = window + p->window_elems, *in_order = stage + (1 + p->levels) * p->stage_elems;
    T *table = in_order + p->emit_rows * p->stage_pitch;
    const ptrdiff_t zeros = p->window_elems - p->row_pitch, ldy = p->n_cols * p->stage_pitch;
    memset(window + zeros, 0, (size_t)p->row_pitch * sizeof(T));
    for (ptrdiff_t ci = 0; ci < p->c_in; ci += p->ci_block) {
        const ptrdiff_t n_ci = p->c_in - ci < p->ci_block ? p->c_in - ci : p->ci_block;
        NAME(load_rows)(window, p->row_pitch, n_ci * p->l_in, items,
                        NAME(at)(p->x, n0 * p->xn + (g * p->c_in + ci) * p->xc, p->half), 1, p->xn, p->half);
        if (p->before.function) {
            const NAME(finish) before = NAME(finish_of)(&p->before, NULL, 0, 0, 0);
            for (ptrdiff_t i = 0; i < n_ci * p->l_in; i++)
                NAME(finish_row)(&before, g * p->c_in + ci + i / p->l_in, window + i * p->row_pitch, NULL, items);
        }
        for (ptrdiff_t i = 0; i < n_ci * p->l_in; i++) /* columns that are computed and dropped, see clear_gaps */
            for (ptrdiff_t j = items; j % LANES; j++)
                window[i * p->row_pitch + j] = 0;
        for (ptrdiff_t c0 = co0; c0 < co1; c0 += p->co_block)
            for (ptrdiff_t l = 0; l < p->n_cols; l++)
                NAME(run_position)(p, l, ci, n_ci, c0, co1 - c0 < p->co_block ? co1 : c0 + p->co_block, items, w, bias,
                                   window, stage + (c0 - co0) * ldy, (int32_t *)table);
    }
    const ptrdiff_t rows = (co1 - co0) * p->n_cols, fused = p->fused;
    if (p->after.function) {
        const NAME(finish) after = NAME(finish_of)(&p->after, NULL, 0, 0, 0);
        for (ptrdiff_t i = 0; i < rows; i++)
            NAME(finish_row)(&after, (g * p->c_out + co0 + i / p->n_cols) / fused, stage + i * p->stage_pitch, NULL, items);
    }
    void *y = NAME(at)(p->y, n0 * p->yn + (g * p->c_out + co0) / fused * p->yc, p->half);
    if (p->y_step == 1)
        NAME(store_rows)(y, 1, p->yn, stage, p->stage_pitch, rows, items, p->half);
    else
        NAME(store_positions)(p, stage, (co1 - co0) / fused * p->l_out, items, in_order, y);
}

/* ---- peak ---------------------------------------------------------------------------------------------------- */

/* Independent multiply-adds in registers only: the rate no kernel can pass. */
static double NAME(fma_loop)(ptrdiff_t rounds)
{
    enum { CHAINS = ROWS * 3 };
    V acc[CHAINS], total = {0};
    volatile T one = 1, tiny = (T)1e-9; /* unknown to the compiler */
    const V a = (V){0} + one, b = (V){0} + tiny;
    _Pragma("GCC unroll 32") for (int i = 0; i < CHAINS; i++) acc[i] = b * (T)i;
    for (ptrdiff_t r = 0; r < rounds; r++)
        _Pragma("GCC unroll 32") for (int i = 0; i < CHAINS; i++) acc[i] = acc[i] * a + b;
    _Pragma("GCC unroll 32") for (int i = 0; i < CHAINS; i++) total += acc[i];
    T lanes[LANES];
    STORE(lanes, total);
    tiny = lanes[0];
    return (double)rounds * CHAINS * LANES;
}

#include "gradient.h"
#include "step.h"
#include "network.h"
#include "product.h"
#include "chain.h"

/* An enumerator, for the table of kernels that vectors.h makes of both dtypes: LANES is gone by then. */
enum { NAME(lanes) = LANES };

#undef PICKS
#undef V
