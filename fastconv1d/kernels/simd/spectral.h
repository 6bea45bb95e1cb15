/* Convolutions by short Fourier transforms (overlap and save), included by template.h.
 *
 * Outputs of one phase of the dilation come in tiles of `outputs`; a tile reads `points` inputs of its phase, and its
 * spectrum is the sum over input channels of theirs times the weights', conjugated and divided by `points`:
 *
 *     y[(t*outputs + m)*dilation + r] = after(bias + inverse(sum over ci of spectrum(x_ci)[t, r] * w[ci])[m])
 *     spectrum(x)[t, r] = transform of before(x)[(t*outputs + j)*dilation + r - left], j < points
 *
 * Vectors run along the channels, so that a transform needs no shuffles. A complex product takes three real ones (Gauss):
 * of x = a + bi and w = c + di
 *
 *     re = (a + b)*c - b*(c + d)      im = (a + b)*c + a*(d - c)
 *
 * so that all is `components` real products of tiles and weights: of a real transform of `points` numbers those of the real
 * components 0 and points/2, and of each other one those of a, of b and of a + b. Of minimal filtering (Toom and Cook,
 * Winograd: no factors) there are SPECTRAL_FILTER points, each a component. A component has its vectors of channels one
 * after the other, in each all tiles of a unit: a group, some items, tiles and phases.
 */
#define SPECTRAL_VECTORS 2 /* of output channels of a register tile */
#if ROWS == 4              /* 16 vector registers */
#define SPECTRAL_ROWS 6    /* tiles of a register tile */
#else
#define SPECTRAL_ROWS 12
#endif
#define SPECTRAL_TERMS 128 /* of one chain, as in product.h */
#define SPECTRAL_AHEAD 128 /* elements */
#define SPECTRAL_PIECE 64  /* positions that are transposed together */

/* ---- transforms: FFTPACK's passes over `radix` parts of l1 runs of ido elements, each a vector; the twiddles `wa` are
 * cosines and sines by turns, ido - 1 for each part but the first. Element e of the input of a pass forward lies at e*step,
 * where runs of more than one element have the step LANES. */

#define IN(part, e) LOAD(in[part] + (e)*LANES)
#define OUT(part, e, v) STORE(out[part] + (e)*LANES, v)
/* Run k of each part of the input, and of the output; forward, parts of a run of the output lie side by side. */
#define PLACES(radix, in_run, in_part, out_run, out_part)                                                              \
    const T *in[radix];                                                                                                \
    T *out[radix];                                                                                                     \
    _Pragma("GCC unroll 4") for (int part = 0; part < radix; part++)                                                   \
    {                                                                                                                  \
        in[part] = from + k * (in_run) + part * (in_part);                                                             \
        out[part] = to + k * (out_run) + part * (out_part);                                                            \
    }
#define FORWARD_PLACES(radix)                                                                                          \
    PLACES(radix, ido *step, l1 *ido *step, radix *ido *LANES, ido *LANES)
#define BACKWARD_PLACES(radix) PLACES(radix, radix *ido *LANES, ido *LANES, ido *LANES, l1 *ido *LANES)
/* Elements i - 1 and i of a part, turned back by its twiddle. */
#define TURN_BACK(re, im, part)                                                                                        \
    const V re = wa[(part - 1) * (ido - 1) + i - 2] * IN(part, i - 1) + wa[(part - 1) * (ido - 1) + i - 1] * IN(part, i);  \
    const V im = wa[(part - 1) * (ido - 1) + i - 2] * IN(part, i) - wa[(part - 1) * (ido - 1) + i - 1] * IN(part, i - 1);
/* And turned. */
#define TURN(part, re, im)                                                                                             \
    OUT(part, i - 1, wa[(part - 1) * (ido - 1) + i - 2] * (re)-wa[(part - 1) * (ido - 1) + i - 1] * (im));             \
    OUT(part, i, wa[(part - 1) * (ido - 1) + i - 2] * (im) + wa[(part - 1) * (ido - 1) + i - 1] * (re));

static NOINLINE void NAME(forward2)(ptrdiff_t ido, ptrdiff_t l1, const T *from, ptrdiff_t step, T *to, const T *wa)
{
    for (ptrdiff_t k = 0; k < l1; k++) {
        FORWARD_PLACES(2)
        const V a = IN(0, 0), b = IN(1, 0);
        OUT(0, 0, a + b);
        OUT(1, ido - 1, a - b);
        for (ptrdiff_t i = 2; i < ido; i += 2) {
            const ptrdiff_t ic = ido - i;
            TURN_BACK(r2, i2, 1)
            const V r1 = IN(0, i - 1), i1 = IN(0, i);
            OUT(0, i - 1, r1 + r2);
            OUT(1, ic - 1, r1 - r2);
            OUT(0, i, i2 + i1);
            OUT(1, ic, i2 - i1);
        }
        if (ido % 2 == 0) {
            OUT(1, 0, -IN(1, ido - 1));
            OUT(0, ido - 1, IN(0, ido - 1));
        }
    }
}

/* The only odd part comes first, of runs of one element. */
static NOINLINE void NAME(forward3)(ptrdiff_t l1, const T *from, ptrdiff_t step, T *to)
{
    const T half = (T)-0.5, root = (T)0.86602540378443864676;
    const ptrdiff_t ido = 1;
    for (ptrdiff_t k = 0; k < l1; k++) {
        FORWARD_PLACES(3)
        const V a = IN(0, 0), b = IN(1, 0), c = IN(2, 0), sum = b + c;
        OUT(0, 0, a + sum);
        OUT(1, 0, a + half * sum);
        OUT(2, 0, root * (c - b));
    }
}

static NOINLINE void NAME(forward4)(ptrdiff_t ido, ptrdiff_t l1, const T *from, ptrdiff_t step, T *to, const T *wa)
{
    const T root = (T)0.70710678118654752440;
    for (ptrdiff_t k = 0; k < l1; k++) {
        FORWARD_PLACES(4)
        const V a = IN(0, 0), b = IN(1, 0), c = IN(2, 0), d = IN(3, 0), odd = b + d, even = a + c;
        OUT(0, 0, even + odd);
        OUT(1, ido - 1, a - c);
        OUT(2, 0, d - b);
        OUT(3, ido - 1, even - odd);
        for (ptrdiff_t i = 2; i < ido; i += 2) {
            const ptrdiff_t ic = ido - i;
            TURN_BACK(r2, i2, 1)
            TURN_BACK(r3, i3, 2)
            TURN_BACK(r4, i4, 3)
            const V r1 = IN(0, i - 1), i1 = IN(0, i);
            const V tr1 = r4 + r2, tr4 = r4 - r2, ti1 = i2 + i4, ti4 = i2 - i4;
            const V tr2 = r1 + r3, tr3 = r1 - r3, ti2 = i1 + i3, ti3 = i1 - i3;
            OUT(0, i - 1, tr2 + tr1);
            OUT(3, ic - 1, tr2 - tr1);
            OUT(0, i, ti1 + ti2);
            OUT(3, ic, ti1 - ti2);
            OUT(2, i - 1, tr3 + ti4);
            OUT(1, ic - 1, tr3 - ti4);
            OUT(2, i, tr4 + ti3);
            OUT(1, ic, tr4 - ti3);
        }
        if (ido % 2 == 0) {
            const V p = IN(0, ido - 1), q = IN(1, ido - 1), r = IN(2, ido - 1), s = IN(3, ido - 1);
            const V ti = -root * (q + s), tr = root * (q - s);
            OUT(0, ido - 1, p + tr);
            OUT(2, ido - 1, p - tr);
            OUT(3, 0, ti + r);
            OUT(1, 0, ti - r);
        }
    }
}

static NOINLINE void NAME(backward2)(ptrdiff_t ido, ptrdiff_t l1, const T *from, T *to, const T *wa)
{
    for (ptrdiff_t k = 0; k < l1; k++) {
        BACKWARD_PLACES(2)
        const V a = IN(0, 0), b = IN(1, ido - 1);
        OUT(0, 0, a + b);
        OUT(1, 0, a - b);
        for (ptrdiff_t i = 2; i < ido; i += 2) {
            const ptrdiff_t ic = ido - i;
            const V r1 = IN(0, i - 1), r2 = IN(1, ic - 1), i1 = IN(0, i), i2 = IN(1, ic);
            OUT(0, i - 1, r1 + r2);
            OUT(0, i, i1 - i2);
            TURN(1, r1 - r2, i1 + i2)
        }
        if (ido % 2 == 0) {
            OUT(0, ido - 1, 2 * IN(0, ido - 1));
            OUT(1, ido - 1, -2 * IN(1, 0));
        }
    }
}

static NOINLINE void NAME(backward3)(ptrdiff_t l1, const T *from, T *to)
{
    const T root = (T)1.73205080756887729353;
    const ptrdiff_t ido = 1;
    for (ptrdiff_t k = 0; k < l1; k++) {
        BACKWARD_PLACES(3)
        const V a = IN(0, 0), re = IN(1, 0), im = root * IN(2, 0), rest = a - re;
        OUT(0, 0, a + (re + re));
        OUT(1, 0, rest - im);
        OUT(2, 0, rest + im);
    }
}

static NOINLINE void NAME(backward4)(ptrdiff_t ido, ptrdiff_t l1, const T *from, T *to, const T *wa)
{
    const T root = (T)1.41421356237309504880;
    for (ptrdiff_t k = 0; k < l1; k++) {
        BACKWARD_PLACES(4)
        const V a = IN(0, 0), d = IN(3, ido - 1), b = 2 * IN(1, ido - 1), c = 2 * IN(2, 0);
        const V sum = a + d, rest = a - d;
        OUT(0, 0, sum + b);
        OUT(1, 0, rest - c);
        OUT(2, 0, sum - b);
        OUT(3, 0, rest + c);
        for (ptrdiff_t i = 2; i < ido; i += 2) {
            const ptrdiff_t ic = ido - i;
            const V p = IN(0, i - 1), q = IN(3, ic - 1), r = IN(0, i), s = IN(3, ic);
            const V t = IN(2, i), u = IN(1, ic), v = IN(2, i - 1), w = IN(1, ic - 1);
            const V tr2 = p + q, tr1 = p - q, ti1 = r + s, ti2 = r - s;
            const V tr4 = t + u, ti3 = t - u, tr3 = v + w, ti4 = v - w;
            OUT(0, i - 1, tr2 + tr3);
            OUT(0, i, ti2 + ti3);
            TURN(1, tr1 - tr4, ti1 + ti4)
            TURN(2, tr2 - tr3, ti2 - ti3)
            TURN(3, tr1 + tr4, ti1 - ti4)
        }
        if (ido % 2 == 0) {
            const V e = IN(3, 0), f = IN(1, 0), g = IN(0, ido - 1), h = IN(2, ido - 1);
            const V ti1 = e + f, ti2 = e - f, tr2 = g + h, tr1 = g - h;
            OUT(0, ido - 1, tr2 + tr2);
            OUT(1, ido - 1, root * (tr1 - ti1));
            OUT(2, ido - 1, ti2 + ti2);
            OUT(3, ido - 1, -root * (tr1 + ti1));
        }
    }
}
#undef IN
#undef OUT
#undef PLACES
#undef FORWARD_PLACES
#undef BACKWARD_PLACES
#undef TURN
#undef TURN_BACK

/* to[r] = start + sum over c of matrix[r][c]*x[c], of vectors that are steps apart. Of the matrices of minimal filtering
 * the first column has its only number in the first row, and the last in the last row. */
static inline __attribute__((always_inline)) void NAME(by_matrix)(const T *matrix, ptrdiff_t rows, const T *x, ptrdiff_t step,
                                                                  V start, T *to, ptrdiff_t to_step)
{
    const int last = SPECTRAL_FILTER - 1;
    V v[SPECTRAL_FILTER];
    _Pragma("GCC unroll 6") for (int c = 0; c <= last; c++) v[c] = LOAD(x + c * step);
    for (ptrdiff_t r = 0; r < rows; r++, matrix += SPECTRAL_FILTER) {
        V sum = r == 0 ? start + v[0] * matrix[0] : r == rows - 1 ? start + v[last] * matrix[last] : start;
        _Pragma("GCC unroll 6") for (int c = 1; c < last; c++) sum += v[c] * matrix[c];
        STORE(to + r * to_step, sum);
    }
}

/* From points vectors, `step` apart, to their components, in one of two buffers, which is returned. */
static const T *NAME(to_spectrum)(const fc1d_spectral *q, const T *x, ptrdiff_t step, T *buffer, T *other)
{
    const T *from = x;
    ptrdiff_t ido = 1;
    for (int f = q->n_factors - 1; f >= 0; f--) {
        const ptrdiff_t radix = q->factors[f], l1 = q->points / (ido * radix);
        const T *wa = (const T *)q->twiddles + q->twiddle_start[f];
        if (radix == 4)
            NAME(forward4)(ido, l1, from, step, buffer, wa);
        else if (radix == 3)
            NAME(forward3)(l1, from, step, buffer);
        else
            NAME(forward2)(ido, l1, from, step, buffer, wa);
        ido *= radix;
        T *next = other;
        from = other = buffer;
        buffer = next;
        step = LANES;
    }
    return from;
}

/* And back, times points; both buffers are written. */
static const T *NAME(from_spectrum)(const fc1d_spectral *q, T *buffer, T *other)
{
    ptrdiff_t l1 = 1;
    for (int f = 0; f < q->n_factors; f++) {
        const ptrdiff_t radix = q->factors[f], ido = q->points / (l1 * radix);
        const T *wa = (const T *)q->twiddles + q->twiddle_start[f];
        if (radix == 4)
            NAME(backward4)(ido, l1, buffer, other, wa);
        else if (radix == 3)
            NAME(backward3)(l1, buffer, other);
        else
            NAME(backward2)(ido, l1, buffer, other, wa);
        l1 *= radix;
        T *next = buffer;
        buffer = other;
        other = next;
    }
    return buffer;
}

/* ---- products: of each component a sum of real products over channels --------------------------------------------- */

typedef struct {
    const T *x, *w;
    T *y;
    ptrdiff_t block, terms; /* elements of all tiles of a vector of channels */
    ptrdiff_t ahead;        /* from a weight to one to fetch, or 0 */
    int add;
} NAME(spectral_part);

#define SPECTRAL_TILE(MR, NV)                                                                                          \
    static void NAME(spectral_##MR##x##NV)(const NAME(spectral_part) * q)                                              \
    {                                                                                                                  \
        V sums[MR][NV] = {{{0}}};                                                                                      \
        const T *x = q->x, *restrict w = q->w;                                                                         \
        for (ptrdiff_t left = q->terms; left > 0; left -= LANES, x += q->block) {                                      \
            const ptrdiff_t here = left < LANES ? left : LANES;                                                        \
            for (ptrdiff_t t = 0; t < here; t++, w += NV * LANES) {                                                    \
                V by[NV];                                                                                              \
                PREFETCH(w + q->ahead);                                                                                \
                _Pragma("GCC unroll 16") for (int j = 0; j < NV; j++) by[j] = LOAD(w + j * LANES);                     \
                EACH(MR, NV, sums[i][j] += x[i * LANES + t] * by[j])                                                   \
            }                                                                                                          \
        }                                                                                                              \
        T *y = q->y;                                                                                                   \
        if (q->add) {                                                                                                  \
            EACH(MR, NV, sums[i][j] = LOAD(y + j * q->block + i * LANES) + sums[i][j])                                 \
        }                                                                                                              \
        EACH(MR, NV, STORE(y + j * q->block + i * LANES, sums[i][j]))                                                  \
    }

#define SPECTRAL_TILES(NV)                                                                                             \
    SPECTRAL_TILE(1, NV) SPECTRAL_TILE(2, NV) SPECTRAL_TILE(3, NV)                                                     \
    SPECTRAL_TILE(4, NV) SPECTRAL_TILE(5, NV) SPECTRAL_TILE(6, NV)
#define SPECTRAL_ENTRIES(NV)                                                                                           \
    NAME(spectral_1x##NV), NAME(spectral_2x##NV), NAME(spectral_3x##NV), NAME(spectral_4x##NV), NAME(spectral_5x##NV), \
        NAME(spectral_6x##NV)
#define SPECTRAL_MORE_TILES(NV)                                                                                        \
    SPECTRAL_TILE(7, NV) SPECTRAL_TILE(8, NV) SPECTRAL_TILE(9, NV)                                                     \
    SPECTRAL_TILE(10, NV) SPECTRAL_TILE(11, NV) SPECTRAL_TILE(12, NV)
#define SPECTRAL_MORE_ENTRIES(NV)                                                                                      \
    NAME(spectral_7x##NV), NAME(spectral_8x##NV), NAME(spectral_9x##NV), NAME(spectral_10x##NV),                       \
        NAME(spectral_11x##NV), NAME(spectral_12x##NV)
SPECTRAL_TILES(1)
SPECTRAL_TILES(2)
#if SPECTRAL_ROWS == 12
SPECTRAL_MORE_TILES(1)
SPECTRAL_MORE_TILES(2)
#endif

typedef void (*NAME(spectral_fn))(const NAME(spectral_part) * q);
static const NAME(spectral_fn) NAME(spectral_tiles)[SPECTRAL_VECTORS][SPECTRAL_ROWS] = {
#if SPECTRAL_ROWS == 12
    {SPECTRAL_ENTRIES(1), SPECTRAL_MORE_ENTRIES(1)},
    {SPECTRAL_ENTRIES(2), SPECTRAL_MORE_ENTRIES(2)},
#else
    {SPECTRAL_ENTRIES(1)},
    {SPECTRAL_ENTRIES(2)},
#endif
};

/* All tiles of one component of nv vectors of output channels, whose weights begin at w. */
static void NAME(spectral_component)(const fc1d_spectral *q, const T *x, const T *w, T *y, ptrdiff_t nv, ptrdiff_t tiles)
{
    NAME(spectral_part) part = {.block = tiles * LANES};
    for (ptrdiff_t t = 0, rows; t < tiles; t += rows) {
        const ptrdiff_t left = tiles - t, parts = (left + SPECTRAL_ROWS - 1) / SPECTRAL_ROWS;
        rows = (left + parts - 1) / parts; /* no last part of few rows */
        part.y = y + t * LANES;
        for (ptrdiff_t c = 0; c < q->c_in; c += SPECTRAL_TERMS) {
            part.terms = q->c_in - c < SPECTRAL_TERMS ? q->c_in - c : SPECTRAL_TERMS;
            part.x = x + c / LANES * part.block + t * LANES;
            part.w = w + nv * LANES * c;
            part.add = c > 0;
            part.ahead = t == 0 ? nv * LANES * q->c_in : 0; /* the next component's */
            NAME(spectral_tiles)[nv - 1][rows - 1](&part);
        }
    }
}

/* ---- what a unit reads and writes -------------------------------------------------------------------------------- */

static ptrdiff_t NAME(least)(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

#define SPECTRAL_PITCH (SPECTRAL_PIECE + 2 * LANES)

/* The tiles of a unit: phases [phase, phase + phases) of tiles [tile, tile + tiles) of an item. */
typedef struct {
    ptrdiff_t item, items, tile, tiles, phase, phases, channel_in, channel_out;
} NAME(spectral_unit);

/* Elements [i0, i1) of a row that begins at position `first` and lie outside the input; `x` is the channel's place. */
static inline void NAME(spectral_fill)(const fc1d_spectral *q, ptrdiff_t x, ptrdiff_t first, ptrdiff_t i0, ptrdiff_t i1,
                                       T *row)
{
    for (ptrdiff_t i = i0; i < i1; i++) {
        row[i] = 0;
        if (q->mode != FC1D_ZEROS && q->l_in > 0) {
            const ptrdiff_t position = NAME(resolve)(first + i * q->x_split, q->l_in, q->mode);
            NAME(load_row)(row + i, 1, NAME(at)(q->x, x + position * q->xl, q->half), 1, q->half);
        }
    }
}

/* n elements of up to LANES rows for columns from `start` on, each of an input channel or, of a stride, a phase of one. */
static void NAME(spectral_rows)(const fc1d_spectral *q, ptrdiff_t item, ptrdiff_t channel, ptrdiff_t m, ptrdiff_t start,
                                ptrdiff_t n, const NAME(finish) * before, T *rows)
{
    const ptrdiff_t step = q->x_split;
    for (ptrdiff_t c = 0; c < m; c++) {
        const ptrdiff_t of = (channel + c) / step, first = start * step + (channel + c) % step - q->left;
        const ptrdiff_t x = item * q->xn + of * q->xc;
        T *row = rows + c * SPECTRAL_PITCH;
        ptrdiff_t lo = first < 0 ? (-first + step - 1) / step : 0, hi = first < q->l_in ? (q->l_in - 1 - first) / step + 1 : 0;
        lo = lo < n ? lo : n; /* elements [lo, hi) lie inside the input */
        hi = hi < n ? hi : n;
        hi = hi > lo ? hi : lo;
        if (step == 1 && lo == 0 && hi == n && q->xc == 1) { /* channels side by side: all at once */
            if (c == 0)
                NAME(load_rows)(rows, SPECTRAL_PITCH, m, n, NAME(at)(q->x, x + first * q->xl, q->half), 1, q->xl, q->half);
        } else {
            if (hi > lo)
                NAME(load_row)(row + lo, hi - lo, NAME(at)(q->x, x + (first + lo * step) * q->xl, q->half), step * q->xl,
                               q->half);
            NAME(spectral_fill)(q, x, first, 0, lo, row);
            NAME(spectral_fill)(q, x, first, hi, n, row);
        }
        if (before) {
            const int zeros = q->mode == FC1D_ZEROS || q->l_in == 0;
            NAME(finish_row)(before, of, zeros ? row + lo : row, NULL, zeros ? hi - lo : n);
        }
    }
}

/* to[c*tc + i*tl] = from[c*fc + i*fl] for LANES channels and n positions, rounded up to whole vectors; one of the strides
 * on each side is 1. */
static void NAME(spectral_squares)(T *to, ptrdiff_t tc, ptrdiff_t tl, const T *from, ptrdiff_t fc, ptrdiff_t fl, ptrdiff_t n)
{
    if (tc == 1 && fc == 1)
        for (ptrdiff_t i = 0; i < n; i++)
            STORE(to + i * tl, LOAD(from + i * fl));
    else
        for (ptrdiff_t i = 0; i < n; i += LANES) {
            for (ptrdiff_t c = 0; c < LANES; c++)
                if (tc == 1)
                    PREFETCH(from + c * fc + i + SPECTRAL_AHEAD);
                else
                    PREFETCH_WRITE(to + c * tc + i + SPECTRAL_AHEAD);
            NAME(transpose_square)(to + i * tl, tc == 1 ? tl : tc, from + i * fl, fc == 1 ? fl : fc);
        }
}

/* Columns [start, start + n) of up to LANES channels, side by side in the window. */
static void NAME(spectral_load)(const fc1d_spectral *q, ptrdiff_t item, ptrdiff_t channel, ptrdiff_t m, ptrdiff_t start,
                                ptrdiff_t n, T *window)
{
    NAME(finish) before;
    if (q->before.function)
        before = NAME(finish_of)(&q->before, NULL, 0, 0, 0);
    const int direct = m == LANES && q->x_split == 1 && !q->half && !q->before.function && (q->xl == 1 || q->xc == 1);
    T rows[LANES * SPECTRAL_PITCH];
    memset(rows, 0, sizeof(rows));
    for (ptrdiff_t i = 0; i < n; i += SPECTRAL_PIECE) {
        const ptrdiff_t wanted = NAME(least)(n - i, SPECTRAL_PIECE), first = start + i - q->left;
        if (direct && first >= 0 && first + (wanted + LANES - 1) / LANES * LANES <= q->l_in) {
            NAME(spectral_squares)(window + i * LANES, 1, LANES, (const T *)q->x + item * q->xn + channel * q->xc + first * q->xl,
                                   q->xc, q->xl, wanted);
            continue;
        }
        NAME(spectral_rows)(q, item, channel, m, start + i, wanted, q->before.function ? &before : NULL, rows);
        for (ptrdiff_t j = 0; j < wanted; j += LANES)
            NAME(transpose_square)(window + (i + j) * LANES, LANES, rows + j, SPECTRAL_PITCH);
    }
}

/* n finished columns from `start` on of a row, which are those of a channel or, of a stride, of a phase of one. */
static void NAME(spectral_phase)(const fc1d_spectral *q, ptrdiff_t item, ptrdiff_t channel, ptrdiff_t start, ptrdiff_t n,
                                 const NAME(finish) * after, T *row, T *more)
{
    const ptrdiff_t step = q->y_split, of = channel / step, first = start * step + channel % step - q->crop;
    const ptrdiff_t lo = first < 0 ? (-first + step - 1) / step : 0;
    ptrdiff_t hi = first < q->l_out ? (q->l_out - 1 - first) / step + 1 : 0;
    hi = hi < n ? hi : n;
    if (hi <= lo)
        return;
    const ptrdiff_t at = first + lo * step;
    if (q->residual)
        NAME(load_row)(more, hi - lo, NAME(at)(q->residual, item * q->rn + of * q->rc + at * q->rl, q->half), step * q->rl,
                       q->half);
    if (after)
        NAME(finish_row)(after, of, row + lo, q->residual ? more : NULL, hi - lo);
    NAME(store_rows)(NAME(at)(q->y, item * q->yn + of * q->yc + at * q->yl, q->half), 0, step * q->yl, row + lo, 0, 1, hi - lo,
                     q->half);
}

/* Columns [start, start + n) of up to LANES channels, which lie side by side, with the last steps. */
static void NAME(spectral_store)(const fc1d_spectral *q, ptrdiff_t item, ptrdiff_t channel, ptrdiff_t m, ptrdiff_t start,
                                 ptrdiff_t n, const T *stage)
{
    const NAME(finish) after = NAME(finish_of)(&q->after, NULL, 0, q->residual_scale, q->residual_last);
    const NAME(finish) *any = q->residual || q->after.function ? &after : NULL;
    const int direct = m == LANES && q->y_split == 1 && !q->half && !q->residual &&
                       (q->yl == 1 || (q->yc == 1 && !q->after.function));
    T rows[LANES * SPECTRAL_PITCH], more[LANES * SPECTRAL_PITCH];
    for (ptrdiff_t i = 0; i < n; i += SPECTRAL_PIECE) {
        const ptrdiff_t here = NAME(least)(n - i, SPECTRAL_PIECE), first = start + i;
        if (direct && here % LANES == 0) {
            T *y = (T *)q->y + item * q->yn + channel * q->yc + first * q->yl;
            NAME(spectral_squares)(y, q->yc, q->yl, stage + i * LANES, 1, LANES, here);
            for (ptrdiff_t c = 0; any && c < LANES; c++)
                NAME(finish_row)(any, channel + c, y + c * q->yc, NULL, here);
            continue;
        }
        for (ptrdiff_t j = 0; j < here; j += LANES)
            NAME(transpose_square)(rows + j, SPECTRAL_PITCH, stage + (i + j) * LANES, LANES);
        if (q->y_split > 1) {
            for (ptrdiff_t c = 0; c < m; c++)
                NAME(spectral_phase)(q, item, channel + c, first, here, any, rows + c * SPECTRAL_PITCH, more);
            continue;
        }
        if (q->residual)
            NAME(load_rows)(more, SPECTRAL_PITCH, m, here,
                            NAME(at)(q->residual, item * q->rn + channel * q->rc + first * q->rl, q->half), q->rc, q->rl,
                            q->half);
        for (ptrdiff_t c = 0; any && c < m; c++)
            NAME(finish_row)(any, channel + c, rows + c * SPECTRAL_PITCH, q->residual ? more + c * SPECTRAL_PITCH : NULL,
                             here);
        NAME(store_rows)(NAME(at)(q->y, item * q->yn + channel * q->yc + first * q->yl, q->half), q->yc, q->yl, rows,
                         SPECTRAL_PITCH, m, here, q->half);
    }
}

/* A tile of vectors, `step` apart, to its components, which are `slot` apart. */
static inline void NAME(spectral_spread)(const fc1d_spectral *q, const T *x, ptrdiff_t step, T *buffer, T *to, ptrdiff_t slot)
{
    if (q->n_factors == 0) {
        const V zero = {0};
        NAME(by_matrix)((const T *)q->twiddles, SPECTRAL_FILTER, x, step, zero, to, slot);
        return;
    }
    const T *v = NAME(to_spectrum)(q, x, step, buffer, buffer + q->points * LANES);
    STORE(to, LOAD(v));
    STORE(to + slot, LOAD(v + (q->points - 1) * LANES));
    to += 2 * slot;
    for (ptrdiff_t e = 1; e < q->points - 1; e += 2, to += 3 * slot) {
        const V re = LOAD(v + e * LANES), im = LOAD(v + (e + 1) * LANES);
        STORE(to, re);
        STORE(to + slot, im);
        STORE(to + 2 * slot, re + im);
    }
}

/* And back, from sums of products to outputs, with the bias. */
static inline void NAME(spectral_collect)(const fc1d_spectral *q, const T *from, ptrdiff_t slot, V bias, T *buffer, T *to,
                                          ptrdiff_t step)
{
    if (q->n_factors == 0) {
        const T *matrix = (const T *)q->twiddles + SPECTRAL_FILTER * SPECTRAL_FILTER;
        NAME(by_matrix)(matrix, q->outputs, from, slot, bias, to, step);
        return;
    }
    STORE(buffer, LOAD(from));
    STORE(buffer + (q->points - 1) * LANES, LOAD(from + slot));
    from += 2 * slot;
    for (ptrdiff_t e = 1; e < q->points - 1; e += 2, from += 3 * slot) {
        const V both = LOAD(from + 2 * slot);
        STORE(buffer + e * LANES, both - LOAD(from + slot));
        STORE(buffer + (e + 1) * LANES, both + LOAD(from));
    }
    const T *v = NAME(from_spectrum)(q, buffer, buffer + q->points * LANES);
    for (ptrdiff_t i = 0; i < q->outputs; i++)
        STORE(to + i * step, LOAD(v + i * LANES) + bias);
}

/* The spectra of all tiles of a unit to x, component after component. */
static void NAME(spectral_split)(const fc1d_spectral *q, const NAME(spectral_unit) * u, T *buffer, T *window, T *x)
{
    const ptrdiff_t across = u->phases, reads = ((u->tiles - 1) * q->outputs + q->points) * across;
    const ptrdiff_t first = u->tile * q->outputs * q->dilation + u->phase;
    const ptrdiff_t run = across == q->dilation ? reads : across;
    const ptrdiff_t all = u->items * u->tiles * across;
    for (ptrdiff_t item = 0; item < u->items; item++)
        for (ptrdiff_t c = 0; c < q->c_in; c += LANES) {
            const ptrdiff_t m = q->c_in - c < LANES ? q->c_in - c : LANES;
            for (ptrdiff_t i = 0; i < reads; i += run)
                NAME(spectral_load)(q, u->item + item, u->channel_in + c, m, first + i / across * q->dilation, run,
                                    window + i * LANES);
            for (ptrdiff_t t = 0; t < u->tiles; t++)
                for (ptrdiff_t r = 0; r < across; r++) {
                    const T *read = window + (t * q->outputs * across + r) * LANES;
                    T *to = x + c * all + ((item * u->tiles + t) * across + r) * LANES;
                    NAME(spectral_spread)(q, read, across * LANES, buffer, to, q->x_slot);
                }
        }
}

/* The outputs of all tiles of a unit, of n vectors of channels from `begin` on, from their spectra. */
static void NAME(spectral_join)(const fc1d_spectral *q, const NAME(spectral_unit) * u, ptrdiff_t begin, ptrdiff_t n, T *buffer,
                                T *stage, const T *y)
{
    const ptrdiff_t across = u->phases, first = u->tile * q->outputs * q->dilation + u->phase;
    const ptrdiff_t all = u->items * u->tiles * across;
    for (ptrdiff_t item = 0; item < u->items; item++)
        for (ptrdiff_t v = 0; v < n; v++) {
            const ptrdiff_t c = begin + v * LANES, m = q->c_out - c < LANES ? q->c_out - c : LANES;
            T some[LANES] = {0};
            for (ptrdiff_t l = 0; q->bias && l < m; l++)
                some[l] = ((const T *)q->bias)[(u->channel_out + c + l) / q->y_split];
            const V bias = LOAD(some);
            for (ptrdiff_t t = 0; t < u->tiles; t++)
                for (ptrdiff_t r = 0; r < across; r++) {
                    const T *from = y + v * LANES * all + ((item * u->tiles + t) * across + r) * LANES;
                    T *to = stage + (t * q->outputs * across + r) * LANES;
                    NAME(spectral_collect)(q, from, q->y_slot, bias, buffer, to, across * LANES);
                }
            const ptrdiff_t made = u->tiles * q->outputs * across, run = across == q->dilation ? made : across;
            for (ptrdiff_t i = 0; i < made; i += run) {
                const ptrdiff_t start = first + i / across * q->dilation;
                const ptrdiff_t wanted = NAME(least)(q->n_cols - start, run);
                if (wanted > 0)
                    NAME(spectral_store)(q, u->item + item, u->channel_out + c, m, start, wanted, stage + i * LANES);
            }
        }
}

static void NAME(spectral)(const fc1d_spectral *q, ptrdiff_t unit, void *scratch)
{
    T *buffer = (T *)scratch, *window = buffer + 2 * q->points * LANES, *x = window + q->window_elems;
    T *y = x + q->components * q->x_slot;
    const ptrdiff_t phase = unit % q->n_phase_units * q->phase_unit, rest = unit / q->n_phase_units;
    const ptrdiff_t tile = rest % q->n_tile_units * q->tile_unit, more = rest / q->n_tile_units;
    const ptrdiff_t item = more % q->n_item_units * q->item_unit, group = more / q->n_item_units;
    const NAME(spectral_unit) u = {
        .item = item, .items = NAME(least)(q->item_unit, q->n_batch - item),
        .tile = tile, .tiles = NAME(least)(q->tile_unit, q->n_tiles - tile),
        .phase = phase, .phases = NAME(least)(q->phase_unit, q->n_phases - phase),
        .channel_in = group * q->c_in, .channel_out = group * q->c_out,
    };
    const ptrdiff_t tiles = u.items * u.tiles * u.phases, vectors = (q->c_out + LANES - 1) / LANES;
    const T *w = (const T *)q->w + group * q->components * q->c_in * vectors * LANES;
    NAME(spectral_split)(q, &u, buffer, window, x);
    for (ptrdiff_t v = 0, nv; v < vectors; v += nv) {
        nv = NAME(least)(vectors - v, SPECTRAL_VECTORS);
        for (ptrdiff_t i = 0; i < q->components; i++, w += q->c_in * nv * LANES)
            NAME(spectral_component)(q, x + i * q->x_slot, w, y + i * q->y_slot, nv, tiles);
        NAME(spectral_join)(q, &u, v * LANES, nv, buffer, window, y);
    }
}

/* ---- weights ------------------------------------------------------------------------------------------------------ */

/* What components of a vector of output channels of a group are multiplied with, where products read it: panels of
 * output channels, in these components, in these input channel after input channel. Spectra are conjugated and divided by points. */
static void NAME(spectral_pack)(const fc1d_spectral_weight *p, ptrdiff_t unit, void *scratch)
{
    const fc1d_spectral *q = p->layer;
    const ptrdiff_t points = q->points, vectors = (q->c_out + LANES - 1) / LANES;
    const ptrdiff_t group = unit / vectors, v = unit % vectors, co = v * LANES;
    const ptrdiff_t first = v / SPECTRAL_VECTORS * SPECTRAL_VECTORS, rest = vectors - first;
    const ptrdiff_t width = (rest < SPECTRAL_VECTORS ? rest : SPECTRAL_VECTORS) * LANES, slot = q->c_in * width;
    const ptrdiff_t m = q->c_out - co < LANES ? q->c_out - co : LANES;
    const T *w = (const T *)p->w + group * p->sg, share = (T)1 / points;
    T *buffer = (T *)scratch, *other = buffer + points * LANES, *taps = other + points * LANES;
    T *to = (T *)p->packed + q->components * q->c_in * (group * vectors + first) * LANES + (v - first) * LANES;
    memset(taps, 0, (size_t)(points * LANES) * sizeof(T));
    for (ptrdiff_t ci = 0; ci < q->c_in; ci++, to += width) {
        const T *row = w + ci / q->x_split * p->si;
        for (ptrdiff_t k = 0; k < p->taps; k++)
            for (ptrdiff_t l = 0; l < m; l++) {
                /* a tap of a phase of the stride; of a scatter the taps are backwards */
                const ptrdiff_t tap = q->y_split > 1 ? (p->taps - 1 - k) * q->y_split + (co + l) % q->y_split
                                                     : k * q->x_split + ci % q->x_split;
                taps[k * LANES + l] = tap < p->kernel_size ? row[(co + l) / q->y_split * p->so + tap * p->sk] : 0;
            }
        for (ptrdiff_t e = 0; q->n_factors == 0 && e < points; e++) {
            V sum = {0};
            for (ptrdiff_t k = 0; k < p->taps; k++)
                sum += LOAD(taps + k * LANES) * ((const T *)p->matrix)[e * SPECTRAL_FILTER + k];
            STORE(to + e * slot, sum);
        }
        if (q->n_factors == 0)
            continue;
        const T *s = NAME(to_spectrum)(q, taps, LANES, buffer, other);
        STORE(to, LOAD(s) * share);
        STORE(to + slot, LOAD(s + (points - 1) * LANES) * share);
        T *part = to + 2 * slot;
        for (ptrdiff_t e = 1; e < points - 1; e += 2, part += 3 * slot) {
            const V re = LOAD(s + e * LANES) * share, im = LOAD(s + (e + 1) * LANES) * share;
            STORE(part, -im - re);
            STORE(part + slot, re - im);
            STORE(part + 2 * slot, re);
        }
    }
}
