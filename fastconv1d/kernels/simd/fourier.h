/* Correlations by transforms, included by template.h: overlap-save in blocks of M inputs.
 *
 * A block is a polynomial of M real coefficients modulo t^M + 1, which over the complex numbers is one of n = M/2 complex
 * ones modulo t^n - i: the second half of the block is its imaginary part. The wrapped terms that a product has there are
 * those that overlap-save leaves out. A node of the transform has a polynomial of m coefficients modulo t^m - c and splits
 * it into those modulo t^(m/2) - s and t^(m/2) + s, s*s = c: low + s*high and low - s*high, one number s a node, until a
 * coefficient each is left, in an order that products do not mind. Complex data are n complex coefficients as they are.
 *
 * Node j of level l has s = e^(i*pi*angle), angle(0, 0) = 1/4, angle(l + 1, 2j) = angle(l, j)/2, angle(l + 1, 2j + 1) =
 * angle(l, j)/2 + 1/2; `nodes` has cosine and sine of level l, node j at 2*(2^l + j). The last log2(LANES) levels lie within
 * vectors: LANES nodes are transposed there; `ends` has for each such square and level the cosines and sines of the first
 * node below each of the LANES, and `turns` what the others are turned by.
 */
#define LEAST_N 256       /* squares of LANES by LANES */
#define IN_L1 (16384 / (ptrdiff_t)sizeof(T)) /* n of transforms that are made level by level */

#if LANES == 16
enum { NAME(lane_levels) = 4 };
#elif LANES == 8
enum { NAME(lane_levels) = 3 };
#elif LANES == 4
enum { NAME(lane_levels) = 2 };
#elif LANES == 2
enum { NAME(lane_levels) = 1 };
#else
enum { NAME(lane_levels) = 0 };
#endif

/* One pass over two levels, from (fr, fi) to (re, im), which may be the same: `count` nodes of `size` coefficients, the
 * first of them node j of its level, whose twiddles begin at `nodes`. */
static void NAME(split_four)(const T *fr, const T *fi, T *re, T *im, ptrdiff_t size, ptrdiff_t count, const T *nodes,
                             const T *below)
{
    const ptrdiff_t q = size / 4;
    for (ptrdiff_t k = 0; k < count; k++, fr += size, fi += size, re += size, im += size) {
        const T sr = nodes[2 * k], si = nodes[2 * k + 1], ur = below[4 * k], ui = below[4 * k + 1];
        for (ptrdiff_t i = 0; i < q; i += LANES) {
            const V a0r = LOAD(fr + i), a1r = LOAD(fr + q + i), a2r = LOAD(fr + 2 * q + i), a3r = LOAD(fr + 3 * q + i);
            const V a0i = LOAD(fi + i), a1i = LOAD(fi + q + i), a2i = LOAD(fi + 2 * q + i), a3i = LOAD(fi + 3 * q + i);
            const V t2r = a2r * sr - a2i * si, t2i = a2r * si + a2i * sr;
            const V t3r = a3r * sr - a3i * si, t3i = a3r * si + a3i * sr;
            const V b0r = a0r + t2r, b0i = a0i + t2i, b2r = a0r - t2r, b2i = a0i - t2i;
            const V b1r = a1r + t3r, b1i = a1i + t3i, b3r = a1r - t3r, b3i = a1i - t3i;
            const V v1r = b1r * ur - b1i * ui, v1i = b1r * ui + b1i * ur;
            const V v3r = b3r * ur - b3i * ui, v3i = b3r * ui + b3i * ur; /* times i below */
            STORE(re + i, b0r + v1r);
            STORE(im + i, b0i + v1i);
            STORE(re + q + i, b0r - v1r);
            STORE(im + q + i, b0i - v1i);
            STORE(re + 2 * q + i, b2r - v3i);
            STORE(im + 2 * q + i, b2i + v3r);
            STORE(re + 3 * q + i, b2r + v3i);
            STORE(im + 3 * q + i, b2i - v3r);
        }
    }
}

static void NAME(join_four)(T *re, T *im, ptrdiff_t size, ptrdiff_t count, const T *nodes, const T *below)
{
    const ptrdiff_t q = size / 4;
    for (ptrdiff_t k = 0; k < count; k++, re += size, im += size) {
        const T sr = nodes[2 * k], si = nodes[2 * k + 1], ur = below[4 * k], ui = below[4 * k + 1];
        for (ptrdiff_t i = 0; i < q; i += LANES) {
            const V c0r = LOAD(re + i), c1r = LOAD(re + q + i), c2r = LOAD(re + 2 * q + i), c3r = LOAD(re + 3 * q + i);
            const V c0i = LOAD(im + i), c1i = LOAD(im + q + i), c2i = LOAD(im + 2 * q + i), c3i = LOAD(im + 3 * q + i);
            const V b0r = c0r + c1r, b0i = c0i + c1i, d1r = c0r - c1r, d1i = c0i - c1i;
            const V b2r = c2r + c3r, b2i = c2i + c3i, d3i = c3r - c2r, d3r = c2i - c3i; /* times -i */
            const V b1r = d1r * ur + d1i * ui, b1i = d1i * ur - d1r * ui;
            const V b3r = d3r * ur + d3i * ui, b3i = d3i * ur - d3r * ui;
            const V e2r = b0r - b2r, e2i = b0i - b2i, e3r = b1r - b3r, e3i = b1i - b3i;
            STORE(re + i, b0r + b2r);
            STORE(im + i, b0i + b2i);
            STORE(re + q + i, b1r + b3r);
            STORE(im + q + i, b1i + b3i);
            STORE(re + 2 * q + i, e2r * sr + e2i * si);
            STORE(im + 2 * q + i, e2i * sr - e2r * si);
            STORE(re + 3 * q + i, e3r * sr + e3i * si);
            STORE(im + 3 * q + i, e3i * sr - e3r * si);
        }
    }
}

/* The same over one level. */
static void NAME(split_two)(T *re, T *im, ptrdiff_t size, ptrdiff_t count, const T *nodes)
{
    const ptrdiff_t h = size / 2;
    for (ptrdiff_t k = 0; k < count; k++, re += size, im += size) {
        const T sr = nodes[2 * k], si = nodes[2 * k + 1];
        for (ptrdiff_t i = 0; i < h; i += LANES) {
            const V lr = LOAD(re + i), li = LOAD(im + i), hr = LOAD(re + h + i), hi = LOAD(im + h + i);
            const V tr = hr * sr - hi * si, ti = hr * si + hi * sr;
            STORE(re + i, lr + tr);
            STORE(im + i, li + ti);
            STORE(re + h + i, lr - tr);
            STORE(im + h + i, li - ti);
        }
    }
}

static void NAME(join_two)(T *re, T *im, ptrdiff_t size, ptrdiff_t count, const T *nodes)
{
    const ptrdiff_t h = size / 2;
    for (ptrdiff_t k = 0; k < count; k++, re += size, im += size) {
        const T sr = nodes[2 * k], si = nodes[2 * k + 1];
        for (ptrdiff_t i = 0; i < h; i += LANES) {
            const V ar = LOAD(re + i), ai = LOAD(im + i), br = LOAD(re + h + i), bi = LOAD(im + h + i);
            const V dr = ar - br, di = ai - bi;
            STORE(re + i, ar + br);
            STORE(im + i, ai + bi);
            STORE(re + h + i, dr * sr + di * si);
            STORE(im + h + i, di * sr - dr * si);
        }
    }
}

/* The levels within vectors, of `count` nodes of LANES coefficients, `count` a multiple of LANES. */
static NOINLINE void NAME(split_lanes)(T *re, T *im, ptrdiff_t count, const T *ends, const T *turns)
{
#if LANES > 1
    for (ptrdiff_t k = 0; k < count; k += LANES, re += LANES * LANES, im += LANES * LANES) {
        V r[LANES], m[LANES];
        _Pragma("GCC unroll 16") for (int i = 0; i < LANES; i++) r[i] = LOAD(re + i * LANES);
        NAME(transpose)(r);
        _Pragma("GCC unroll 16") for (int i = 0; i < LANES; i++) m[i] = LOAD(im + i * LANES);
        NAME(transpose)(m);
        _Pragma("GCC unroll 4") for (int level = 0; level < NAME(lane_levels); level++, ends += 2 * LANES)
        {
            const V cr = LOAD(ends), ci = LOAD(ends + LANES);
            const int half = LANES >> (level + 1);
            _Pragma("GCC unroll 8") for (int node = 0; node < 1 << level; node++)
            {
                const T tr = turns[2 * node], ti = turns[2 * node + 1];
                const V sr = cr * tr - ci * ti, si = cr * ti + ci * tr;
                _Pragma("GCC unroll 8") for (int i = 0; i < half; i++)
                {
                    const int low = 2 * half * node + i, high = low + half;
                    const V hr = r[high] * sr - m[high] * si, hi = r[high] * si + m[high] * sr;
                    r[high] = r[low] - hr, m[high] = m[low] - hi;
                    r[low] = r[low] + hr, m[low] = m[low] + hi;
                }
            }
        }
        _Pragma("GCC unroll 16") for (int i = 0; i < LANES; i++) STORE(re + i * LANES, r[i]);
        _Pragma("GCC unroll 16") for (int i = 0; i < LANES; i++) STORE(im + i * LANES, m[i]);
    }
#else
    (void)re, (void)im, (void)count, (void)ends, (void)turns;
#endif
}

static NOINLINE void NAME(join_lanes)(T *re, T *im, ptrdiff_t count, const T *ends, const T *turns)
{
#if LANES > 1
    for (ptrdiff_t k = 0; k < count; k += LANES, re += LANES * LANES, im += LANES * LANES) {
        V r[LANES], m[LANES];
        _Pragma("GCC unroll 16") for (int i = 0; i < LANES; i++) r[i] = LOAD(re + i * LANES);
        _Pragma("GCC unroll 16") for (int i = 0; i < LANES; i++) m[i] = LOAD(im + i * LANES);
        _Pragma("GCC unroll 4") for (int level = NAME(lane_levels) - 1; level >= 0; level--)
        {
            const V cr = LOAD(ends + 2 * LANES * level), ci = LOAD(ends + 2 * LANES * level + LANES);
            const int half = LANES >> (level + 1);
            _Pragma("GCC unroll 8") for (int node = 0; node < 1 << level; node++)
            {
                const T tr = turns[2 * node], ti = turns[2 * node + 1];
                const V sr = cr * tr - ci * ti, si = cr * ti + ci * tr;
                _Pragma("GCC unroll 8") for (int i = 0; i < half; i++)
                {
                    const int low = 2 * half * node + i, high = low + half;
                    const V dr = r[low] - r[high], di = m[low] - m[high];
                    r[low] = r[low] + r[high], m[low] = m[low] + m[high];
                    r[high] = dr * sr + di * si, m[high] = di * sr - dr * si;
                }
            }
        }
        ends += 2 * LANES * NAME(lane_levels);
        NAME(transpose)(r);
        _Pragma("GCC unroll 16") for (int i = 0; i < LANES; i++) STORE(re + i * LANES, r[i]);
        NAME(transpose)(m);
        _Pragma("GCC unroll 16") for (int i = 0; i < LANES; i++) STORE(im + i * LANES, m[i]);
    }
#else
    (void)re, (void)im, (void)count, (void)ends, (void)turns;
#endif
}

/* The transform of one node j of a level that has `wide` of them; (fr, fi) may be (re, im). */
static void NAME(transform)(const fc1d_fourier *q, const T *fr, const T *fi, T *re, T *im, ptrdiff_t m, ptrdiff_t wide,
                            ptrdiff_t j)
{
    const T *nodes = (const T *)q->nodes, *turns = (const T *)q->turns;
    ptrdiff_t size = m, count = 1;
    NAME(split_four)(fr, fi, re, im, m, 1, nodes + 2 * (wide + j), nodes + 2 * (2 * wide + 2 * j));
    size /= 4, count *= 4;
    if (m > IN_L1) {
        for (int k = 0; k < 4; k++)
            NAME(transform)(q, re + k * size, im + k * size, re + k * size, im + k * size, size, 4 * wide, 4 * j + k);
        return;
    }
    for (; size >= 4 * LANES; size /= 4, count *= 4)
        NAME(split_four)(re, im, re, im, size, count, nodes + 2 * count * (wide + j), nodes + 4 * count * (wide + j));
    if (size == 2 * LANES) {
        NAME(split_two)(re, im, size, count, nodes + 2 * count * (wide + j));
        count *= 2;
    }
    NAME(split_lanes)(re, im, count, (const T *)q->ends + 2 * NAME(lane_levels) * count * j, turns);
}

/* Its inverse, times n. */
static void NAME(transform_back)(const fc1d_fourier *q, T *re, T *im, ptrdiff_t m, ptrdiff_t wide, ptrdiff_t j)
{
    const T *nodes = (const T *)q->nodes, *turns = (const T *)q->turns;
    ptrdiff_t size = m / 4, count = 4;
    if (m > IN_L1)
        for (int k = 0; k < 4; k++)
            NAME(transform_back)(q, re + k * size, im + k * size, size, 4 * wide, 4 * j + k);
    else {
        size = LANES, count = m / LANES;
        NAME(join_lanes)(re, im, count, (const T *)q->ends + 2 * NAME(lane_levels) * count * j, turns);
        ptrdiff_t levels = 0;
        while (LANES << (levels + 2) <= m)
            levels += 2;
        if (LANES << levels < m) { /* an odd number of levels */
            size *= 2, count /= 2;
            NAME(join_two)(re, im, size, count, nodes + 2 * count * (wide + j));
        }
        for (; size < m / 4;) {
            size *= 4, count /= 4;
            NAME(join_four)(re, im, size, count, nodes + 2 * count * (wide + j), nodes + 4 * count * (wide + j));
        }
    }
    NAME(join_four)(re, im, m, 1, nodes + 2 * (wide + j), nodes + 4 * (wide + j));
}

/* ---- blocks in and out --------------------------------------------------------------------------------------- */

/* Where a position beyond the ends of the input is read, or -1 for a zero. */
static inline ptrdiff_t NAME(position)(const fc1d_fourier *q, ptrdiff_t i)
{
    if (i >= 0 && i < q->l_in)
        return i;
    switch (q->mode) {
    case FC1D_REFLECT:
        i = i < 0 ? -i : 2 * (q->l_in - 1) - i;
        break;
    case FC1D_REPLICATE:
        return i < 0 ? 0 : q->l_in - 1;
    case FC1D_CIRCULAR:
        i += i < 0 ? q->l_in : -q->l_in;
        break;
    default:
        return -1;
    }
    return i >= 0 && i < q->l_in ? i : -1; /* positions of no output */
}

/* Element k of (re, im) is that of position first + k*step of a row; `step` elements of it between two. */
static void NAME(load_block)(const fc1d_fourier *q, const T *row, ptrdiff_t channel, ptrdiff_t first, T *re, T *im)
{
    const ptrdiff_t step = q->in_step, pitch = q->x_step, n = q->n, whole = q->is_complex ? n : 2 * n;
    const ptrdiff_t parts = q->is_complex ? 2 : 1;
    /* elements low to high - 1 are those of the input */
    ptrdiff_t low = first < 0 ? (-first + step - 1) / step : 0;
    ptrdiff_t high = first < q->l_in ? (q->l_in - 1 - first) / step + 1 : 0;
    low = low < whole ? low : whole, high = high < whole ? high : whole, high = high < low ? low : high;
    const T *x = row + (first + low * step) * pitch * parts;
    if (q->is_complex)
        for (ptrdiff_t k = low; k < high; k++, x += 2 * step * pitch)
            re[k] = x[0], im[k] = x[1];
    else if (step * pitch == 1)
        memcpy(re + low, x, (high - low) * sizeof(T)); /* im is behind re */
    else
        NAME(gather)(re + low, high - low, x, step * pitch);
    for (int end = 0; end < 2; end++) {
        const ptrdiff_t begin = end ? high : 0, stop = end ? whole : low;
        if (q->mode == FC1D_ZEROS) {
            memset(re + begin, 0, (stop - begin) * sizeof(T));
            if (q->is_complex)
                memset(im + begin, 0, (stop - begin) * sizeof(T));
        } else
            for (ptrdiff_t k = begin; k < stop; k++) {
                const ptrdiff_t at = NAME(position)(q, first + k * step);
                re[k] = at < 0 ? 0 : row[at * pitch * parts];
                if (q->is_complex)
                    im[k] = at < 0 ? 0 : row[2 * at * pitch + 1];
            }
    }
    if (q->before.function) {
        const NAME(finish) before = NAME(finish_of)(&q->before, NULL, 0, 0, 0);
        if (q->mode == FC1D_ZEROS)
            NAME(finish_row)(&before, channel, re + low, NULL, high - low);
        else
            NAME(finish_row)(&before, channel, re, NULL, whole);
    }
}

/* What the block of (re, im) has of outputs first, first + out_step, ..., `count` of them; `spare` has room for as many. */
static void NAME(store_block)(const fc1d_fourier *q, T *re, const T *im, ptrdiff_t item, ptrdiff_t channel,
                              ptrdiff_t first, ptrdiff_t count, T *spare)
{
    const ptrdiff_t step = q->out_step, pitch = step * q->y_step, parts = q->is_complex ? 2 : 1;
    const ptrdiff_t low = first < 0 ? (-first + step - 1) / step : 0;
    ptrdiff_t high = first < q->l_out ? (q->l_out - 1 - first) / step + 1 : 0;
    high = high < count ? high : count;
    if (low >= high)
        return;
    const ptrdiff_t n = high - low, at = first + low * step;
    T *y = (T *)q->y + (item * q->y_item + channel * q->y_channel + at * q->y_step) * parts, *line = re + low;
    const T *bias = q->bias ? (const T *)q->bias + channel * parts : NULL;
    if (q->is_complex) {
        for (ptrdiff_t k = 0; k < n; k++, y += 2 * pitch)
            y[0] = line[k] + (bias ? bias[0] : 0), y[1] = im[low + k] + (bias ? bias[1] : 0);
        return;
    }
    T *target = pitch == 1 ? y : line;
    if (bias)
        for (ptrdiff_t k = 0; k < n; k++)
            target[k] = line[k] + *bias;
    else if (target != line)
        memcpy(target, line, n * sizeof(T));
    if (q->residual || q->after.function) {
        const T *residual = (const T *)q->residual;
        if (residual) {
            residual += item * q->residual_item + channel * q->residual_channel + at * q->residual_step;
            if (step * q->residual_step != 1) {
                for (ptrdiff_t k = 0; k < n; k++)
                    spare[k] = residual[k * step * q->residual_step];
                residual = spare;
            }
        }
        const NAME(finish) after = NAME(finish_of)(&q->after, residual, 0, q->residual_scale, q->residual_last);
        NAME(finish_row)(&after, channel, target, residual, n);
    }
    if (target == line)
        for (ptrdiff_t k = 0; k < n; k++)
            y[k * pitch] = line[k];
}

/* ---- spectra ------------------------------------------------------------------------------------------------- */

/* A kernel of K taps, of which tap k is w[k*step], as a polynomial with the tap k at t^-k: product with a block is a
 * correlation. */
static void NAME(place_taps)(const fc1d_fourier *q, const T *w, ptrdiff_t step, ptrdiff_t taps, T scale, T *re, T *im)
{
    memset(re, 0, q->n * sizeof(T));
    memset(im, 0, q->n * sizeof(T));
    if (q->is_complex) {
        if (taps)
            re[0] = w[0] * scale, im[0] = w[1] * scale;
        for (ptrdiff_t k = 1; k < taps; k++) /* times -i */
            re[q->n - k] = w[2 * k * step + 1] * scale, im[q->n - k] = -w[2 * k * step] * scale;
        return;
    }
    if (taps)
        re[0] = w[0] * scale;
    for (ptrdiff_t k = 1; k < taps; k++) { /* im is behind re */
        re[2 * q->n - k] = -w[k * step] * scale;
    }
}

/* A unit: the kernel of an output and an input channel, both as they are split. */
static void NAME(fourier_weight)(const fc1d_fourier *q, ptrdiff_t unit, void *scratch)
{
    (void)scratch;
    const ptrdiff_t ci = unit % q->ci, co = unit / q->ci % q->co, group = unit / q->ci / q->co + q->first_group;
    const ptrdiff_t parts = q->is_complex ? 2 : 1, phase = q->transposed ? co % q->out_split : ci % q->in_split;
    const ptrdiff_t split = q->transposed ? q->out_split : q->in_split;
    const ptrdiff_t taps = q->kernel > phase ? (q->kernel - phase - 1) / split + 1 : 0;
    const T *w = (const T *)q->w;
    T *re = (T *)q->spectra + unit * 2 * q->n, *im = re + q->n;
    if (q->transposed) {
        /* the last tap of most taps comes first; a phase may have one fewer, whose first tap is zero */
        const ptrdiff_t missing = q->taps - taps;
        w += ((group * q->ci + ci) * q->w_ci + co / q->out_split * q->w_co + (phase + (taps - 1) * split) * q->w_tap) * parts;
        memset(re, 0, 2 * q->n * sizeof(T));
        NAME(place_taps)(q, w, -split * q->w_tap, taps, (T)q->scale, re, im);
        if (missing && taps) { /* all taps one place later: by t^-1 */
            if (q->is_complex) {
                const T r = re[0], i = im[0];
                memmove(re, re + 1, (q->n - 1) * sizeof(T));
                memmove(im, im + 1, (q->n - 1) * sizeof(T));
                re[q->n - 1] = i, im[q->n - 1] = -r;
            } else {
                const T r = re[0];
                memmove(re, re + 1, (2 * q->n - 1) * sizeof(T));
                re[2 * q->n - 1] = -r;
            }
        }
    } else {
        w += ((group * q->co + co) * q->w_co + ci / q->in_split * q->w_ci + phase * q->w_tap) * parts;
        NAME(place_taps)(q, w, split * q->w_tap, taps, (T)q->scale, re, im);
    }
    NAME(transform)(q, re, im, re, im, q->n, 1, 0);
}

/* sum (+)= x*w for `blocks` blocks of 2n. */
static inline __attribute__((always_inline)) void NAME(multiply_some)(const T *x, const T *w, T *sum, ptrdiff_t n,
                                                                      const int blocks, int fresh)
{
    for (ptrdiff_t i = 0; i < n; i += LANES) {
        const V wr = LOAD(w + i), wi = LOAD(w + n + i);
        _Pragma("GCC unroll 4") for (int b = 0; b < blocks; b++)
        {
            const V xr = LOAD(x + 2 * b * n + i), xi = LOAD(x + 2 * b * n + n + i);
            V r = xr * wr - xi * wi, m = xr * wi + xi * wr;
            if (!fresh)
                r = LOAD(sum + 2 * b * n + i) + r, m = LOAD(sum + 2 * b * n + n + i) + m;
            STORE(sum + 2 * b * n + i, r);
            STORE(sum + 2 * b * n + n + i, m);
        }
    }
}

static void NAME(multiply)(const T *x, const T *w, T *sum, ptrdiff_t n, ptrdiff_t blocks, int fresh)
{
    ptrdiff_t b = 0;
    for (; b + 4 <= blocks; b += 4, x += 8 * n, sum += 8 * n) {
        if (fresh)
            NAME(multiply_some)(x, w, sum, n, 4, 1);
        else
            NAME(multiply_some)(x, w, sum, n, 4, 0);
    }
    for (; b < blocks; b++, x += 2 * n, sum += 2 * n) {
        if (fresh)
            NAME(multiply_some)(x, w, sum, n, 1, 1);
        else
            NAME(multiply_some)(x, w, sum, n, 1, 0);
    }
}

/* The spectra of `blocks` blocks of an input channel, from block `block` on. */
static void NAME(spectra_of)(const fc1d_fourier *q, ptrdiff_t item, ptrdiff_t phase, ptrdiff_t group, ptrdiff_t ci,
                             ptrdiff_t block, ptrdiff_t blocks, T *to)
{
    const ptrdiff_t parts = q->is_complex ? 2 : 1;
    const ptrdiff_t channel = (group * q->ci + ci) / q->in_split, whole = q->is_complex ? q->n : 2 * q->n;
    const T *row = (const T *)q->x + (item * q->x_item + channel * q->x_channel) * parts;
    for (ptrdiff_t b = 0; b < blocks; b++, to += 2 * q->n) {
        const ptrdiff_t first = q->in_first + phase + ci % q->in_split + (block + b) * q->step * q->in_step;
        if (!q->is_complex && q->in_step * q->x_step == 1 && !q->before.function && first >= 0 && first + whole <= q->l_in)
            NAME(transform)(q, row + first, row + first + q->n, to, to + q->n, q->n, 1, 0);
        else {
            NAME(load_block)(q, row, channel, first, to, to + q->n);
            NAME(transform)(q, to, to + q->n, to, to + q->n, q->n, 1, 0);
        }
    }
}

static void NAME(outputs_of)(const fc1d_fourier *q, T *sum, ptrdiff_t item, ptrdiff_t phase, ptrdiff_t group, ptrdiff_t co,
                             ptrdiff_t block, ptrdiff_t blocks, T *spare)
{
    const ptrdiff_t channel = (group * q->co + co) / q->out_split;
    for (ptrdiff_t b = 0; b < blocks; b++, sum += 2 * q->n) {
        const ptrdiff_t first = q->out_first + phase + co % q->out_split + (block + b) * q->step * q->out_step;
        NAME(transform_back)(q, sum, sum + q->n, q->n, 1, 0);
        NAME(store_block)(q, sum, sum + q->n, item, channel, first, q->step, spare);
    }
}

/* `blocks` blocks of a phase of an item and a group. */
static void NAME(convolve_blocks)(const fc1d_fourier *q, ptrdiff_t item, ptrdiff_t phase, ptrdiff_t group, ptrdiff_t block,
                                  ptrdiff_t blocks, void *scratch)
{
    const ptrdiff_t size = 2 * q->n, g = group + q->first_group;
    const T *spectra = (const T *)q->spectra + group * q->co * q->ci * size;
    T *spare = (T *)scratch, *x = spare + size;
    if (q->sums_kept) { /* all sums in scratch, the inputs one after the other */
        T *sums = x + blocks * size;
        for (ptrdiff_t ci = 0; ci < q->ci; ci++) {
            NAME(spectra_of)(q, item, phase, g, ci, block, blocks, x);
            for (ptrdiff_t co = 0; co < q->co; co++)
                NAME(multiply)(x, spectra + (co * q->ci + ci) * size, sums + co * blocks * size, q->n, blocks, ci == 0);
        }
        for (ptrdiff_t co = 0; co < q->co; co++)
            NAME(outputs_of)(q, sums + co * blocks * size, item, phase, g, co, block, blocks, spare);
        return;
    }
    T *sum = x + q->ci * blocks * size;
    for (ptrdiff_t ci = 0; ci < q->ci; ci++)
        NAME(spectra_of)(q, item, phase, g, ci, block, blocks, x + ci * blocks * size);
    for (ptrdiff_t co = 0; co < q->co; co++) {
        for (ptrdiff_t ci = 0; ci < q->ci; ci++)
            NAME(multiply)(x + ci * blocks * size, spectra + (co * q->ci + ci) * size, sum, q->n, blocks, ci == 0);
        NAME(outputs_of)(q, sum, item, phase, g, co, block, blocks, spare);
    }
}

/* A unit: `together` blocks of an item and a group, of as many phases as have elements in a cache line. */
static void NAME(fourier_blocks)(const fc1d_fourier *q, ptrdiff_t unit, void *scratch)
{
    const ptrdiff_t lines = (q->phases + FOURIER_PHASES - 1) / FOURIER_PHASES;
    const ptrdiff_t across = (q->blocks + q->together - 1) / q->together;
    const ptrdiff_t block = unit / lines % across * q->together, left = q->blocks - block;
    const ptrdiff_t group = unit / lines / across % q->groups, item = unit / lines / across / q->groups;
    const ptrdiff_t first = unit % lines * FOURIER_PHASES, last = first + FOURIER_PHASES;
    for (ptrdiff_t phase = first; phase < last && phase < q->phases; phase++)
        NAME(convolve_blocks)(q, item, phase, group, block, left < q->together ? left : q->together, scratch);
}

/* A unit: the gradient by the weight of an output and an input channel, real: the correlate of x with pieces of g, which
 * is at y, of `step` taps; q->taps positions of it are those of dw, at w. */
static void NAME(fourier_gradient)(const fc1d_fourier *q, ptrdiff_t unit, void *scratch)
{
    const ptrdiff_t ci = unit % q->ci, co = unit / q->ci % q->co, group = unit / q->ci / q->co, size = 2 * q->n;
    T *x = (T *)scratch, *g = x + size, *sum = g + size;
    int fresh = 1;
    for (ptrdiff_t row = 0; row < q->rows; row++) {
        const ptrdiff_t item = row / q->phases, phase = row % q->phases;
        const T *from = (const T *)q->y + item * q->y_item + (group * q->co + co) * q->y_channel + phase * q->y_step;
        const ptrdiff_t length = phase < q->l_out ? (q->l_out - phase - 1) / q->out_step + 1 : 0;
        for (ptrdiff_t block = 0; block * q->step < length; block++, fresh = 0) {
            const ptrdiff_t left = length - block * q->step, taps = left < q->step ? left : q->step;
            NAME(spectra_of)(q, item, phase, group, ci, block, 1, x);
            NAME(place_taps)(q, from + block * q->step * q->out_step * q->y_step, q->out_step * q->y_step, taps,
                             (T)q->scale, g, g + q->n);
            NAME(transform)(q, g, g + q->n, g, g + q->n, q->n, 1, 0);
            NAME(multiply)(x, g, sum, q->n, 1, fresh);
        }
    }
    T *dw = (T *)q->w + (group * q->co + co) * q->w_co + ci * q->w_ci;
    if (!fresh)
        NAME(transform_back)(q, sum, sum + q->n, q->n, 1, 0);
    for (ptrdiff_t k = 0; k < q->taps; k++)
        dw[k * q->w_tap] = fresh ? 0 : sum[k];
}
/* A kernel in parts of n taps, for streams: q->taps of them, newest first. Real data; the spectra of the windows that a part
 * reads, 2n inputs each, lie in a ring of as many for each item and channel, that of the newest at `first_group`. */

/* A unit: the spectrum of the newest window of an item and channel, from input in_first on, into the ring at `spectra`. */
static void NAME(fourier_window)(const fc1d_fourier *q, ptrdiff_t unit, void *scratch)
{
    (void)scratch;
    const ptrdiff_t channels = q->ci * q->groups, item = unit / channels, channel = unit % channels;
    T *re = (T *)q->spectra + (unit * q->taps + q->first_group) * 2 * q->n;
    NAME(load_block)(q, (const T *)q->x + item * q->x_item + channel * q->x_channel, channel, q->in_first, re, re + q->n);
    NAME(transform)(q, re, re + q->n, re, re + q->n, q->n, 1, 0);
}

/* A unit: of an item and an output channel the sum of all parts but the newest, at w; or, with y, that and the newest part's:
 * `step` outputs from out_first on, the first of which is element in_first of the block. x has the ring. */
static void NAME(fourier_parts)(const fc1d_fourier *q, ptrdiff_t unit, void *scratch)
{
    const ptrdiff_t size = 2 * q->n, parts = q->taps, co = unit % q->co, row = unit / q->co, group = row % q->groups;
    const T *ring = (const T *)q->x + row * q->ci * parts * size;
    const T *spectra = (const T *)q->spectra + (group * q->co + co) * q->ci * parts * size;
    T *kept = (T *)q->w + unit * size, *sum = q->y ? (T *)scratch + size : kept;
    if (q->y)
        memcpy(sum, kept, size * sizeof(T));
    else
        memset(sum, 0, size * sizeof(T));
    for (ptrdiff_t ci = 0; ci < q->ci; ci++)
        for (ptrdiff_t p = q->y ? 0 : 1; p < (q->y ? 1 : parts); p++)
            NAME(multiply)(ring + (ci * parts + (q->first_group + parts - p) % parts) * size, spectra + (ci * parts + p) * size,
                           sum, q->n, 1, 0);
    if (!q->y)
        return;
    NAME(transform_back)(q, sum, sum + q->n, q->n, 1, 0);
    NAME(store_block)(q, sum + q->in_first, NULL, row / q->groups, group * q->co + co, q->out_first, q->step, (T *)scratch);
}
#undef LEAST_N
#undef IN_L1
