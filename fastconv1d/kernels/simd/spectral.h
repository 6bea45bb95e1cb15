/* Convolutions by short Fourier transforms (overlap and save), included by template.h.
 *
 * Outputs of one phase of the dilation come in tiles of `outputs`; a tile reads `points` inputs of its phase, and its
 * spectrum is the sum over input channels of theirs times the weights', conjugated and divided by `points`:
 *
 *     y[(t*outputs + m)*dilation + r] = after(bias + inverse(sum over ci of spectrum(x_ci)[t, r] * w[ci])[m])
 *     spectrum(x)[t, r] = transform of before(x)[(t*outputs + j)*dilation + r - left], j < points
 *
 * Vectors run along the channels, so that a transform needs no shuffles. Of a real transform of `points` numbers slot 0
 * holds the real components 0 and points/2, slot s the real and imaginary part of component s. All channels of a tile lie
 * together in a slot: LANES real parts, then LANES imaginary ones. A unit is a group, some items, tiles and phases.
 */
#define SPECTRAL_ROWS 6 /* tiles of a register tile: 2*6*SPECTRAL_VECTORS sums */
#if ROWS == 4           /* 16 vector registers */
#define SPECTRAL_VECTORS 1
#else
#define SPECTRAL_VECTORS 2
#endif
enum { NAME(spectral_width) = SPECTRAL_VECTORS * LANES };
#define SPECTRAL_TERMS 128 /* of one chain, as in product.h */
#define SPECTRAL_PIECE 64  /* positions that are transposed together */

/* ---- transforms: FFTPACK's passes over `radix` parts of l1 runs of ido elements, each a vector; the twiddles `wa` are
 * cosines and sines by turns, ido - 1 for each part but the first. Element e of the input lies at e*cs. */

#define IN(a, b, c) LOAD(cc + ((a) + ido * ((b) + (c)*l1)) * cs)
#define OUT(a, b, c) (ch + ((a) + ido * ((b) + (c)*radix)) * LANES)
#define TURN_BACK(re, im, j, x_re, x_im)                                                                               \
    const V re = wa[(j) * (ido - 1) + i - 2] * (x_re) + wa[(j) * (ido - 1) + i - 1] * (x_im);                          \
    const V im = wa[(j) * (ido - 1) + i - 2] * (x_im) - wa[(j) * (ido - 1) + i - 1] * (x_re);

static void NAME(forward2)(ptrdiff_t ido, ptrdiff_t l1, const T *cc, ptrdiff_t cs, T *ch, const T *wa)
{
    enum { radix = 2 };
    for (ptrdiff_t k = 0; k < l1; k++) {
        const V a = IN(0, k, 0), b = IN(0, k, 1);
        STORE(OUT(0, 0, k), a + b);
        STORE(OUT(ido - 1, 1, k), a - b);
        for (ptrdiff_t i = 2; i < ido; i += 2) {
            const ptrdiff_t ic = ido - i;
            TURN_BACK(r2, i2, 0, IN(i - 1, k, 1), IN(i, k, 1))
            const V r1 = IN(i - 1, k, 0), i1 = IN(i, k, 0);
            STORE(OUT(i - 1, 0, k), r1 + r2);
            STORE(OUT(ic - 1, 1, k), r1 - r2);
            STORE(OUT(i, 0, k), i2 + i1);
            STORE(OUT(ic, 1, k), i2 - i1);
        }
        if (ido % 2 == 0) {
            STORE(OUT(0, 1, k), -IN(ido - 1, k, 1));
            STORE(OUT(ido - 1, 0, k), IN(ido - 1, k, 0));
        }
    }
}

/* The only odd part comes first, of runs of one element. */
static void NAME(forward3)(ptrdiff_t l1, const T *cc, ptrdiff_t cs, T *ch)
{
    enum { radix = 3, ido = 1 };
    const T half = (T)-0.5, root = (T)0.86602540378443864676;
    for (ptrdiff_t k = 0; k < l1; k++) {
        const V a = IN(0, k, 0), b = IN(0, k, 1), c = IN(0, k, 2), sum = b + c;
        STORE(OUT(0, 0, k), a + sum);
        STORE(OUT(0, 1, k), a + half * sum);
        STORE(OUT(0, 2, k), root * (c - b));
    }
}

static void NAME(forward4)(ptrdiff_t ido, ptrdiff_t l1, const T *cc, ptrdiff_t cs, T *ch, const T *wa)
{
    enum { radix = 4 };
    const T root = (T)0.70710678118654752440;
    for (ptrdiff_t k = 0; k < l1; k++) {
        const V a = IN(0, k, 0), b = IN(0, k, 1), c = IN(0, k, 2), d = IN(0, k, 3), odd = b + d, even = a + c;
        STORE(OUT(0, 0, k), even + odd);
        STORE(OUT(ido - 1, 1, k), a - c);
        STORE(OUT(0, 2, k), d - b);
        STORE(OUT(ido - 1, 3, k), even - odd);
        for (ptrdiff_t i = 2; i < ido; i += 2) {
            const ptrdiff_t ic = ido - i;
            TURN_BACK(r2, i2, 0, IN(i - 1, k, 1), IN(i, k, 1))
            TURN_BACK(r3, i3, 1, IN(i - 1, k, 2), IN(i, k, 2))
            TURN_BACK(r4, i4, 2, IN(i - 1, k, 3), IN(i, k, 3))
            const V r1 = IN(i - 1, k, 0), i1 = IN(i, k, 0);
            const V tr1 = r4 + r2, tr4 = r4 - r2, ti1 = i2 + i4, ti4 = i2 - i4;
            const V tr2 = r1 + r3, tr3 = r1 - r3, ti2 = i1 + i3, ti3 = i1 - i3;
            STORE(OUT(i - 1, 0, k), tr2 + tr1);
            STORE(OUT(ic - 1, 3, k), tr2 - tr1);
            STORE(OUT(i, 0, k), ti1 + ti2);
            STORE(OUT(ic, 3, k), ti1 - ti2);
            STORE(OUT(i - 1, 2, k), tr3 + ti4);
            STORE(OUT(ic - 1, 1, k), tr3 - ti4);
            STORE(OUT(i, 2, k), tr4 + ti3);
            STORE(OUT(ic, 1, k), tr4 - ti3);
        }
        if (ido % 2 == 0) {
            const V p = IN(ido - 1, k, 0), q = IN(ido - 1, k, 1), r = IN(ido - 1, k, 2), s = IN(ido - 1, k, 3);
            const V ti = -root * (q + s), tr = root * (q - s);
            STORE(OUT(ido - 1, 0, k), p + tr);
            STORE(OUT(ido - 1, 2, k), p - tr);
            STORE(OUT(0, 3, k), ti + r);
            STORE(OUT(0, 1, k), ti - r);
        }
    }
}

#undef IN
#undef OUT
#define IN(a, b, c) LOAD(cc + ((a) + ido * ((b) + (c)*radix)) * LANES)
#define OUT(a, b, c) (ch + ((a) + ido * ((b) + (c)*l1)) * LANES)
/* The product with a twiddle, to part j + 1. */
#define TURN(j, x_re, x_im)                                                                                            \
    STORE(OUT(i - 1, k, (j) + 1), wa[(j) * (ido - 1) + i - 2] * (x_re)-wa[(j) * (ido - 1) + i - 1] * (x_im));          \
    STORE(OUT(i, k, (j) + 1), wa[(j) * (ido - 1) + i - 2] * (x_im) + wa[(j) * (ido - 1) + i - 1] * (x_re));

static void NAME(backward2)(ptrdiff_t ido, ptrdiff_t l1, const T *cc, T *ch, const T *wa)
{
    enum { radix = 2 };
    for (ptrdiff_t k = 0; k < l1; k++) {
        const V a = IN(0, 0, k), b = IN(ido - 1, 1, k);
        STORE(OUT(0, k, 0), a + b);
        STORE(OUT(0, k, 1), a - b);
        for (ptrdiff_t i = 2; i < ido; i += 2) {
            const ptrdiff_t ic = ido - i;
            const V r1 = IN(i - 1, 0, k), r2 = IN(ic - 1, 1, k), i1 = IN(i, 0, k), i2 = IN(ic, 1, k);
            STORE(OUT(i - 1, k, 0), r1 + r2);
            STORE(OUT(i, k, 0), i1 - i2);
            TURN(0, r1 - r2, i1 + i2)
        }
        if (ido % 2 == 0) {
            STORE(OUT(ido - 1, k, 0), 2 * IN(ido - 1, 0, k));
            STORE(OUT(ido - 1, k, 1), -2 * IN(0, 1, k));
        }
    }
}

static void NAME(backward3)(ptrdiff_t l1, const T *cc, T *ch)
{
    enum { radix = 3, ido = 1 };
    const T root = (T)1.73205080756887729353;
    for (ptrdiff_t k = 0; k < l1; k++) {
        const V a = IN(0, 0, k), re = IN(0, 1, k), im = root * IN(0, 2, k), rest = a - re;
        STORE(OUT(0, k, 0), a + (re + re));
        STORE(OUT(0, k, 1), rest - im);
        STORE(OUT(0, k, 2), rest + im);
    }
}

static void NAME(backward4)(ptrdiff_t ido, ptrdiff_t l1, const T *cc, T *ch, const T *wa)
{
    enum { radix = 4 };
    const T root = (T)1.41421356237309504880;
    for (ptrdiff_t k = 0; k < l1; k++) {
        const V a = IN(0, 0, k), d = IN(ido - 1, 3, k), b = 2 * IN(ido - 1, 1, k), c = 2 * IN(0, 2, k);
        const V sum = a + d, rest = a - d;
        STORE(OUT(0, k, 0), sum + b);
        STORE(OUT(0, k, 1), rest - c);
        STORE(OUT(0, k, 2), sum - b);
        STORE(OUT(0, k, 3), rest + c);
        for (ptrdiff_t i = 2; i < ido; i += 2) {
            const ptrdiff_t ic = ido - i;
            const V p = IN(i - 1, 0, k), q = IN(ic - 1, 3, k), r = IN(i, 0, k), s = IN(ic, 3, k);
            const V t = IN(i, 2, k), u = IN(ic, 1, k), v = IN(i - 1, 2, k), w = IN(ic - 1, 1, k);
            const V tr2 = p + q, tr1 = p - q, ti1 = r + s, ti2 = r - s;
            const V tr4 = t + u, ti3 = t - u, tr3 = v + w, ti4 = v - w;
            STORE(OUT(i - 1, k, 0), tr2 + tr3);
            STORE(OUT(i, k, 0), ti2 + ti3);
            TURN(0, tr1 - tr4, ti1 + ti4)
            TURN(1, tr2 - tr3, ti2 - ti3)
            TURN(2, tr1 + tr4, ti1 - ti4)
        }
        if (ido % 2 == 0) {
            const V e = IN(0, 3, k), f = IN(0, 1, k), g = IN(ido - 1, 0, k), h = IN(ido - 1, 2, k);
            const V ti1 = e + f, ti2 = e - f, tr2 = g + h, tr1 = g - h;
            STORE(OUT(ido - 1, k, 0), tr2 + tr2);
            STORE(OUT(ido - 1, k, 1), root * (tr1 - ti1));
            STORE(OUT(ido - 1, k, 2), ti2 + ti2);
            STORE(OUT(ido - 1, k, 3), -root * (tr1 + ti1));
        }
    }
}
#undef IN
#undef OUT
#undef TURN
#undef TURN_BACK

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

/* ---- products: sums of complex products over channels, or of slot 0 (`apart`) of two real ones ------------------- */

typedef struct {
    const T *x, *w;
    T *y;
    ptrdiff_t x_row, y_row, terms;
    int add;
} NAME(spectral_part);

#define SPECTRAL_TILE(MR, NV, NAME_, APART)                                                                            \
    static void NAME(NAME_##MR##x##NV)(const NAME(spectral_part) * q)                                                  \
    {                                                                                                                  \
        V re[MR][NV] = {{{0}}}, im[MR][NV] = {{{0}}};                                                                  \
        const T *x[MR], *restrict w = q->w;                                                                            \
        _Pragma("GCC unroll 16") for (int i = 0; i < MR; i++) x[i] = q->x + i * q->x_row;                              \
        for (ptrdiff_t left = q->terms; left > 0; left -= LANES) {                                                     \
            const ptrdiff_t here = left < LANES ? left : LANES;                                                        \
            for (ptrdiff_t t = 0; t < here; t++, w += 2 * NV * LANES) {                                                \
                V wr[NV], wi[NV];                                                                                      \
                _Pragma("GCC unroll 16") for (int j = 0; j < NV; j++)                                                  \
                {                                                                                                      \
                    wr[j] = LOAD(w + j * LANES);                                                                       \
                    wi[j] = LOAD(w + (NV + j) * LANES);                                                                \
                }                                                                                                      \
                _Pragma("GCC unroll 16") for (int i = 0; i < MR; i++)                                                  \
                { /* a row at a time: that all sums stay in registers */                                               \
                    const T a = x[i][t], b = x[i][LANES + t];                                                          \
                    _Pragma("GCC unroll 16") for (int j = 0; j < NV; j++) re[i][j] += a * wr[j];                       \
                    _Pragma("GCC unroll 16") for (int j = 0; j < NV; j++) im[i][j] += (APART ? b : a) * wi[j];         \
                    _Pragma("GCC unroll 16") for (int j = 0; j < NV && !APART; j++) re[i][j] -= b * wi[j];             \
                    _Pragma("GCC unroll 16") for (int j = 0; j < NV && !APART; j++) im[i][j] += b * wr[j];             \
                }                                                                                                      \
            }                                                                                                          \
            _Pragma("GCC unroll 16") for (int i = 0; i < MR; i++) x[i] += 2 * LANES;                                   \
        }                                                                                                              \
        T *y = q->y;                                                                                                   \
        if (q->add) {                                                                                                  \
            EACH(MR, NV, re[i][j] = LOAD(y + i * q->y_row + 2 * j * LANES) + re[i][j])                                 \
            EACH(MR, NV, im[i][j] = LOAD(y + i * q->y_row + (2 * j + 1) * LANES) + im[i][j])                           \
        }                                                                                                              \
        EACH(MR, NV, STORE(y + i * q->y_row + 2 * j * LANES, re[i][j]))                                                \
        EACH(MR, NV, STORE(y + i * q->y_row + (2 * j + 1) * LANES, im[i][j]))                                          \
    }

#define SPECTRAL_TILES(NV)                                                                                             \
    SPECTRAL_TILE(1, NV, joined_, 0) SPECTRAL_TILE(2, NV, joined_, 0) SPECTRAL_TILE(3, NV, joined_, 0)                 \
    SPECTRAL_TILE(4, NV, joined_, 0) SPECTRAL_TILE(5, NV, joined_, 0) SPECTRAL_TILE(6, NV, joined_, 0)                 \
    SPECTRAL_TILE(1, NV, apart_, 1) SPECTRAL_TILE(2, NV, apart_, 1) SPECTRAL_TILE(3, NV, apart_, 1)                    \
    SPECTRAL_TILE(4, NV, apart_, 1) SPECTRAL_TILE(5, NV, apart_, 1) SPECTRAL_TILE(6, NV, apart_, 1)
#define SPECTRAL_ENTRIES(NAME_, NV)                                                                                    \
    {NAME(NAME_##1x##NV), NAME(NAME_##2x##NV), NAME(NAME_##3x##NV), NAME(NAME_##4x##NV), NAME(NAME_##5x##NV),          \
     NAME(NAME_##6x##NV)}
SPECTRAL_TILES(1)
#if SPECTRAL_VECTORS == 2
SPECTRAL_TILES(2)
#endif

typedef void (*NAME(spectral_fn))(const NAME(spectral_part) * q);
static const NAME(spectral_fn) NAME(spectral_tiles)[2][SPECTRAL_VECTORS][SPECTRAL_ROWS] = {
#if SPECTRAL_VECTORS == 2
    {SPECTRAL_ENTRIES(joined_, 1), SPECTRAL_ENTRIES(joined_, 2)},
    {SPECTRAL_ENTRIES(apart_, 1), SPECTRAL_ENTRIES(apart_, 2)},
#else
    {SPECTRAL_ENTRIES(joined_, 1)},
    {SPECTRAL_ENTRIES(apart_, 1)},
#endif
};

/* All tiles of one slot, whose weights begin at w. */
static void NAME(spectral_slot)(const fc1d_spectral *q, const T *x, const T *w, T *y, ptrdiff_t tiles, int apart)
{
    const ptrdiff_t vectors = (q->c_out + LANES - 1) / LANES;
    NAME(spectral_part) part = {.x_row = q->x_row, .y_row = q->y_row};
    for (ptrdiff_t v = 0, nv; v < vectors; v += nv, w += 2 * nv * LANES * q->c_in) {
        nv = vectors - v < SPECTRAL_VECTORS ? vectors - v : SPECTRAL_VECTORS;
        const NAME(spectral_fn) *run = NAME(spectral_tiles)[apart][nv - 1];
        for (ptrdiff_t t = 0; t < tiles; t += SPECTRAL_ROWS) {
            const ptrdiff_t rows = tiles - t < SPECTRAL_ROWS ? tiles - t : SPECTRAL_ROWS;
            part.y = y + t * q->y_row + 2 * v * LANES;
            for (ptrdiff_t c = 0; c < q->c_in; c += SPECTRAL_TERMS) {
                part.terms = q->c_in - c < SPECTRAL_TERMS ? q->c_in - c : SPECTRAL_TERMS;
                part.x = x + t * q->x_row + 2 * c;
                part.w = w + 2 * nv * LANES * c;
                part.add = c > 0;
                run[rows - 1](&part);
            }
        }
    }
}

/* ---- what a unit reads and writes -------------------------------------------------------------------------------- */

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
            const ptrdiff_t position = NAME(resolve)(first + i, q->l_in, q->mode);
            NAME(load_row)(row + i, 1, NAME(at)(q->x, x + position * q->xl, q->half), 1, q->half);
        }
    }
}

/* Positions [start, start + n) of up to LANES channels, side by side in the window. */
static void NAME(spectral_load)(const fc1d_spectral *q, ptrdiff_t item, ptrdiff_t channel, ptrdiff_t m, ptrdiff_t start,
                                ptrdiff_t n, T *window)
{
    const int zeros = q->mode == FC1D_ZEROS || q->l_in == 0;
    const ptrdiff_t x = item * q->xn + channel * q->xc;
    NAME(finish) before;
    if (q->before.function)
        before = NAME(finish_of)(&q->before, NULL, 0, 0, 0);
    T rows[LANES * SPECTRAL_PITCH];
    memset(rows, 0, sizeof(rows));
    for (ptrdiff_t i = 0; i < n; i += SPECTRAL_PIECE) {
        const ptrdiff_t wanted = n - i < SPECTRAL_PIECE ? n - i : SPECTRAL_PIECE, first = start + i;
        const ptrdiff_t low = first < 0 ? (-first < wanted ? -first : wanted) : 0;
        const ptrdiff_t end = q->l_in - first < wanted ? q->l_in - first : wanted, high = end > low ? end : low;
        if (high > low)
            NAME(load_rows)(rows + low, SPECTRAL_PITCH, m, high - low, NAME(at)(q->x, x + (first + low) * q->xl, q->half),
                            q->xc, q->xl, q->half);
        for (ptrdiff_t c = 0; c < m; c++) {
            NAME(spectral_fill)(q, x + c * q->xc, first, 0, low, rows + c * SPECTRAL_PITCH);
            NAME(spectral_fill)(q, x + c * q->xc, first, high, wanted, rows + c * SPECTRAL_PITCH);
        }
        for (ptrdiff_t c = 0; q->before.function && c < m; c++)
            NAME(finish_row)(&before, channel + c, rows + c * SPECTRAL_PITCH + (zeros ? low : 0), NULL,
                             zeros ? high - low : wanted);
        for (ptrdiff_t j = 0; j < wanted; j += LANES)
            NAME(transpose_square)(window + (i + j) * LANES, LANES, rows + j, SPECTRAL_PITCH);
    }
}

/* Outputs [start, start + n) of up to LANES channels, which lie side by side, with the last steps. */
static void NAME(spectral_store)(const fc1d_spectral *q, ptrdiff_t item, ptrdiff_t channel, ptrdiff_t m, ptrdiff_t start,
                                 ptrdiff_t n, const T *stage)
{
    const NAME(finish) after = NAME(finish_of)(&q->after, NULL, 0, q->residual_scale, q->residual_last);
    const int any = q->residual || q->after.function;
    T rows[LANES * SPECTRAL_PITCH], more[LANES * SPECTRAL_PITCH];
    for (ptrdiff_t i = 0; i < n; i += SPECTRAL_PIECE) {
        const ptrdiff_t here = n - i < SPECTRAL_PIECE ? n - i : SPECTRAL_PIECE, first = start + i;
        for (ptrdiff_t j = 0; j < here; j += LANES)
            NAME(transpose_square)(rows + j, SPECTRAL_PITCH, stage + (i + j) * LANES, LANES);
        if (q->residual)
            NAME(load_rows)(more, SPECTRAL_PITCH, m, here,
                            NAME(at)(q->residual, item * q->rn + channel * q->rc + first * q->rl, q->half), q->rc, q->rl,
                            q->half);
        for (ptrdiff_t c = 0; any && c < m; c++)
            NAME(finish_row)(&after, channel + c, rows + c * SPECTRAL_PITCH, q->residual ? more + c * SPECTRAL_PITCH : NULL,
                             here);
        NAME(store_rows)(NAME(at)(q->y, item * q->yn + channel * q->yc + first * q->yl, q->half), q->yc, q->yl, rows,
                         SPECTRAL_PITCH, m, here, q->half);
    }
}

/* The spectra of all tiles of a unit to x, slot after slot. */
static void NAME(spectral_split)(const fc1d_spectral *q, const NAME(spectral_unit) * u, T *buffer, T *window, T *x)
{
    const ptrdiff_t across = u->phases, reads = ((u->tiles - 1) * q->outputs + q->points) * across;
    const ptrdiff_t first = u->tile * q->outputs * q->dilation + u->phase - q->left;
    const ptrdiff_t run = across == q->dilation ? reads : across;
    T *other = buffer + q->points * LANES;
    for (ptrdiff_t item = 0; item < u->items; item++)
        for (ptrdiff_t c = 0; c < q->c_in; c += LANES) {
            const ptrdiff_t m = q->c_in - c < LANES ? q->c_in - c : LANES;
            for (ptrdiff_t i = 0; i < reads; i += run)
                NAME(spectral_load)(q, u->item + item, u->channel_in + c, m, first + i / across * q->dilation, run,
                                    window + i * LANES);
            for (ptrdiff_t t = 0; t < u->tiles; t++)
                for (ptrdiff_t r = 0; r < across; r++) {
                    const T *read = window + (t * q->outputs * across + r) * LANES;
                    const T *v = NAME(to_spectrum)(q, read, across * LANES, buffer, other);
                    T *to = x + ((item * u->tiles + t) * across + r) * q->x_row + 2 * c;
                    STORE(to, LOAD(v));
                    STORE(to + LANES, LOAD(v + (q->points - 1) * LANES));
                    for (ptrdiff_t e = 1; e < q->points - 1; e += 2) {
                        to += q->x_slot;
                        STORE(to, LOAD(v + e * LANES));
                        STORE(to + LANES, LOAD(v + (e + 1) * LANES));
                    }
                }
        }
}

/* The outputs of all tiles of a unit from their spectra. */
static void NAME(spectral_join)(const fc1d_spectral *q, const NAME(spectral_unit) * u, T *buffer, T *stage, const T *y)
{
    const ptrdiff_t across = u->phases, first = u->tile * q->outputs * q->dilation + u->phase;
    T *other = buffer + q->points * LANES;
    for (ptrdiff_t item = 0; item < u->items; item++)
        for (ptrdiff_t c = 0; c < q->c_out; c += LANES) {
            const ptrdiff_t m = q->c_out - c < LANES ? q->c_out - c : LANES;
            T some[LANES] = {0};
            if (q->bias)
                memcpy(some, (const T *)q->bias + u->channel_out + c, (size_t)m * sizeof(T));
            const V bias = LOAD(some);
            for (ptrdiff_t t = 0; t < u->tiles; t++)
                for (ptrdiff_t r = 0; r < across; r++) {
                    const T *from = y + ((item * u->tiles + t) * across + r) * q->y_row + 2 * c;
                    STORE(buffer, LOAD(from));
                    STORE(buffer + (q->points - 1) * LANES, LOAD(from + LANES));
                    for (ptrdiff_t e = 1; e < q->points - 1; e += 2) {
                        from += q->y_slot;
                        STORE(buffer + e * LANES, LOAD(from));
                        STORE(buffer + (e + 1) * LANES, LOAD(from + LANES));
                    }
                    const T *v = NAME(from_spectrum)(q, buffer, other);
                    T *to = stage + (t * q->outputs * across + r) * LANES;
                    for (ptrdiff_t i = 0; i < q->outputs; i++)
                        STORE(to + i * across * LANES, LOAD(v + i * LANES) + bias);
                }
            const ptrdiff_t made = u->tiles * q->outputs * across, run = across == q->dilation ? made : across;
            for (ptrdiff_t i = 0; i < made; i += run) {
                const ptrdiff_t start = first + i / across * q->dilation;
                const ptrdiff_t n = q->l_out - start < run ? q->l_out - start : run;
                if (n > 0)
                    NAME(spectral_store)(q, u->item + item, u->channel_out + c, m, start, n, stage + i * LANES);
            }
        }
}

static ptrdiff_t NAME(least)(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

static void NAME(spectral)(const fc1d_spectral *q, ptrdiff_t unit, void *scratch)
{
    T *buffer = (T *)scratch, *window = buffer + 2 * q->points * LANES, *x = window + q->window_elems;
    T *y = x + q->points / 2 * q->x_slot;
    const ptrdiff_t phase = unit % q->n_phase_units * q->phase_unit, rest = unit / q->n_phase_units;
    const ptrdiff_t tile = rest % q->n_tile_units * q->tile_unit, more = rest / q->n_tile_units;
    const ptrdiff_t item = more % q->n_item_units * q->item_unit, group = more / q->n_item_units;
    const NAME(spectral_unit) u = {
        .item = item, .items = NAME(least)(q->item_unit, q->n_batch - item),
        .tile = tile, .tiles = NAME(least)(q->tile_unit, q->n_tiles - tile),
        .phase = phase, .phases = NAME(least)(q->phase_unit, q->n_phases - phase),
        .channel_in = group * q->c_in, .channel_out = group * q->c_out,
    };
    const ptrdiff_t tiles = u.items * u.tiles * u.phases, slots = q->points / 2;
    const ptrdiff_t slot_size = 2 * q->c_in * ((q->c_out + LANES - 1) / LANES * LANES);
    const T *w = (const T *)q->w + group * slots * slot_size;
    NAME(spectral_split)(q, &u, buffer, window, x);
    for (ptrdiff_t s = 0; s < slots; s++)
        NAME(spectral_slot)(q, x + s * q->x_slot, w + s * slot_size, y + s * q->y_slot, tiles, s == 0);
    NAME(spectral_join)(q, &u, buffer, window, y);
}
