/* Element-wise steps before and after the sums, included by template.h.
 *
 * float32: tanh, sigmoid, silu and elu are computed in float32 from e^r - 1 on |r| <= ln(2)/2 (largest error found over
 * every 1,999th number: below 2 ulp); gelu and snake in float64, because their arguments are rounded (below 0.51 ulp). Every
 * element goes through the same vector instructions wherever it stands, so its bits do not depend on its place.
 * float64 takes the C library's functions, element by element.
 */
#if LANES > 1
#define MASK NAME(mask)
#define SELECT(mask, a, b) ((V)(((MASK)(a) & (mask)) | ((MASK)(b) & ~(mask))))
#endif

/* One activation with a residual, for rows of one channel after the other. */
typedef struct {
    fc1d_activation f;
    const T *residual; /* or NULL: of the tile's first channel and column */
    ptrdiff_t ldr;
    T scale, slope; /* of the residual; of negative values */
    TINT keep;      /* all bits, or none for relu: no -inf times 0 */
    TINT all;       /* all bits, which the compiler does not know */
    int last;       /* add the residual after the activation */
    int in_tile;    /* cheap enough to be done before a register tile is stored: `slope` says all */
} NAME(finish);

static NAME(finish) NAME(finish_of)(const fc1d_activation *f, const T *residual, ptrdiff_t ldr, double scale, int last)
{
    const int rectifier = f->function < FC1D_LEAKY_RELU ||
                          (f->function == FC1D_LEAKY_RELU && (T)f->parameter > 0 && f->parameter <= 1);
    const NAME(finish) e = {
        .f = *f, .residual = residual, .ldr = ldr, .scale = (T)scale,
        .slope = f->function == FC1D_IDENTITY ? 1 : (T)f->parameter,
        .keep = f->function == FC1D_RELU ? 0 : -1, .all = f->function < 0 ? 0 : -1, .last = last, .in_tile = rectifier,
    };
    return e;
}

/* The larger of v and slope*v, 0 < slope <= 1 (0 and v for relu), and NaN for NaN: one multiplication and one maximum. */
static inline __attribute__((always_inline)) V NAME(rectify)(V v, T slope, TINT keep)
{
#if LANES > 1
    const V scaled = (V)((MASK)(v * slope) & keep);
    return SELECT(scaled > v, scaled, v);
#else
    return v < 0 ? (keep ? v * slope : 0) : v;
#endif
}

/* v + scale*residual, both rounded: the mask keeps the compiler from fusing them, which it does in some callers only. */
static inline __attribute__((always_inline)) V NAME(add_residual)(const NAME(finish) * e, V v, const T *residual)
{
#if LANES > 1
    return v + (V)((MASK)(LOAD(residual) * e->scale) & e->all);
#else
    return v + LOAD(residual) * e->scale;
#endif
}

static inline __attribute__((always_inline)) V NAME(rectified)(const NAME(finish) * e, V v, const T *residual)
{
    if (residual && !e->last)
        v = NAME(add_residual)(e, v, residual);
    v = NAME(rectify)(v, e->slope, e->keep);
    if (residual && e->last)
        v = NAME(add_residual)(e, v, residual);
    return v;
}

#if LANES > 1 && FLOAT32
/* 2^n for integers in lanes, -126 <= n <= 127. */
#define POWER_OF_TWO(n) ((V)(((n) + 127) << 23))

/* e^y = 2^n * (1 + m) for -115 <= y <= 89 or NaN: returns m and n. */
static inline __attribute__((always_inline)) V NAME(exponential)(V y, MASK *n)
{
    const V magic = (V){0} + 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer in the low bits */
    const V shifted = y * 0x1.715476p+0f + magic, k = shifted - magic;
    V r = y - k * 0x1.62e4p-1f; /* ln(2) in two parts, of which the first has few bits */
    r = r - k * 0x1.7f7d1cp-20f;
    V q = r * 0x1.a072f2p-13f + 0x1.6d4388p-10f;
    q = q * r + 0x1.11114cp-7f;
    q = q * r + 0x1.5554e8p-5f;
    q = q * r + 0x1.555556p-3f;
    q = q * r + 0.5f;
    *n = (MASK)shifted - (MASK)magic;
    return q * (r * r) + r;
}

/* e^y - 1 for y <= 89 or NaN. */
static NOINLINE V NAME(expm1)(V y)
{
    MASK n;
    const V low = (V){0} - 30.0f;
    const V m = NAME(exponential)(SELECT(y < low, low, y), &n), scale = POWER_OF_TWO(n);
    return m * scale + (scale - 1.0f);
}

static inline V NAME(absolute)(V v)
{
    return (V)((MASK)v & 0x7fffffff);
}

/* tanh|x| = E / (E + 2), E = e^(2|x|) - 1; what E + 2 is rounded by is put right for small E. */
static NOINLINE V NAME(tanh)(V v)
{
    const V most = (V){0} + 10.0f, a = NAME(absolute)(v), e = NAME(expm1)(2.0f * SELECT(most < a, most, a));
    const V sum = e + 2.0f, one = (V){0} + 1.0f, lost = SELECT(e < one, e - (sum - 2.0f), (V){0}), t = e / sum;
    return (V)((MASK)(t - t * lost * (0.5f - 0.5f * t)) | ((MASK)v & ~0x7fffffff));
}

/* x / (1 + e^-x) or 1 / (1 + e^-x), from E = e^-|x| = part * rest so that nothing overflows, and with what 1 + E
 * and E are rounded by put right; silu(-inf) is the limit, -0. */
static NOINLINE V NAME(logistic)(V v, int times_v)
{
    MASK n;
    const V zero = {0}, one = zero + 1.0f, low = zero - 115.0f, y = zero - NAME(absolute)(v);
    const MASK negative = v < zero;
    const V m = NAME(exponential)(SELECT(y < low, low, y), &n);
    const MASK half = n >> 1; /* in two steps: 2^n itself may be too small */
    const V near_one = one + m, short_of = m - (near_one - one);
    const V part = near_one * POWER_OF_TWO(half), rest = POWER_OF_TWO(n - half), e = part * rest;
    const V sum = one + e, lost = (e - (sum - one)) * (one - 0.5f * e); /* nearly relative to sum */
    const V gain = SELECT(negative, short_of * (one - m), zero) - lost; /* and to 1 + m */
    V top = SELECT(negative, part, one);
    if (times_v)
        top = top * SELECT(v < low * 10.0f, low * 10.0f, v);
    V s = top / sum;
    s = SELECT(s < zero + 3e38f, s + s * gain, s); /* not inf + inf * 0 */
    return s * SELECT(negative, rest, one);
}

/* e^v for v <= 0, -inf or NaN. */
static inline V NAME(exp_of)(V v)
{
    MASK n;
    const V zero = {0}, low = zero - 87.0f;
    const V m = NAME(exponential)(SELECT(v < low, low, v), &n), scale = POWER_OF_TWO(n);
    return SELECT(v < low, zero, m * scale + scale);
}

/* x*tanh(log(1 + e^x)) = x*w/(w + 2), w = e*(e + 2), e = e^x, which is x itself from 20 on. */
static NOINLINE V NAME(mish)(V v)
{
    MASK n;
    const V zero = {0}, high = zero + 20.0f, low = zero - 87.0f;
    V y = SELECT(high < v, high, v);
    y = SELECT(y < low, low, y);
    const V m = NAME(exponential)(y, &n), scale = POWER_OF_TWO(n), e = m * scale + scale, w = e * (e + 2.0f);
    return SELECT(high < v, v, SELECT(v < low, zero, v * (w / (w + 2.0f))));
}

/* log(1 + e^x) = max(x, 0) + log(1 + e), e = e^-|x|, of which the logarithm is 2*artanh(e/(2 + e)). */
static NOINLINE V NAME(softplus)(V v, T beta, T limit)
{
    const V zero = {0}, x = v * beta, e = NAME(exp_of)(zero - NAME(absolute)(x)), s = e / (e + 2.0f), q = s * s;
    V p = q * (2.0f / 15) + (2.0f / 13);
    p = p * q + (2.0f / 11);
    p = p * q + (2.0f / 9);
    p = p * q + (2.0f / 7);
    p = p * q + (2.0f / 5);
    p = p * q + (2.0f / 3);
    p = p * q + 2.0f;
    const V sum = SELECT(x < zero, zero, x) + p * s;
    return SELECT(zero + limit < x, v, sum / beta);
}

typedef float NAME(part) __attribute__((vector_size(BYTES / 2)));
typedef float NAME(upart) __attribute__((vector_size(BYTES / 2), aligned(4), may_alias));
typedef double NAME(wide) __attribute__((vector_size(BYTES)));
typedef int64_t NAME(wide_mask) __attribute__((vector_size(BYTES)));
#define W NAME(wide)
#define SELECT_WIDE(mask, a, b) ((W)(((NAME(wide_mask))(a) & (mask)) | ((NAME(wide_mask))(b) & ~(mask))))

/* e^y within 1e-10, -700 <= y <= 0 or NaN */
static inline W NAME(exp_wide)(W y)
{
    const W magic = (W){0} + 0x1.8p52;
    const W shifted = y * 0x1.71547652b82fep+0 + magic, k = shifted - magic;
    W r = y - k * 0x1.62e42fefa39efp-1;
    W p = r * 0.0001977500277125788 + 0.0013948328562445628;
    p = p * r + 0.008333562224297162;
    p = p * r + 0.04166622326580844;
    p = p * r + 0.1666666511467708;
    p = p * r + 0.5000000105302761;
    p = p * r + 1.0000000002455054;
    p = p * r + 0.9999999999613084;
    const NAME(wide_mask) n = (NAME(wide_mask))shifted - (NAME(wide_mask))magic;
    return p * (W)((n + 1023) << 52);
}

/* x*P(x), P the normal distribution's: P(-a) = e^(-a*a/2) * g((a - 4)/(a + 4)), g a polynomial fitted for a <= 14.5,
 * beyond which x*P(x) is no float32. With `approximate`, torch's tanh form, which is x*sigmoid(2u). */
static inline W NAME(gelu_wide)(W x, int approximate)
{
    const W zero = {0}, most = zero + 14.5;
    const NAME(wide_mask) negative = x < zero;
    W a = SELECT_WIDE(negative, zero - x, x);
    a = SELECT_WIDE(most < a, most, a);
    const W kept = SELECT_WIDE(negative, zero - a, x);
    W lower;
    if (approximate) {
        const W u = a * 0x1.9884533d43651p-1 * (a * a * 0.044715 + 1.0), e = NAME(exp_wide)(-2.0 * u);
        lower = e / (e + 1.0);
    } else {
        const W t = (a - 4.0) / (a + 4.0);
        W p = t * 7.77312582280384e-06 + 2.574907867067103e-05;
        p = p * t - 4.917492746363794e-05;
        p = p * t - 0.00018661487447021113;
        p = p * t + 0.000640255430009052;
        p = p * t + 0.0005075597492885994;
        p = p * t - 0.008492355159552692;
        p = p * t + 0.030864798505568163;
        p = p * t - 0.07170738747624218;
        p = p * t + 0.1243792553849095;
        p = p * t - 0.17039772197788833;
        p = p * t + 0.09441064130630847;
        lower = p * NAME(exp_wide)(a * a * -0.5);
    }
    return kept * SELECT_WIDE(negative, lower, 1.0 - lower);
}

/* x + b*sin(a*x)^2, the sine by its odd polynomial after reduction by pi, in three parts. */
static inline W NAME(snake_wide)(W x, double a, double b)
{
    const W magic = (W){0} + 0x1.8p52, most = (W){0} + 0x1p40, least = (W){0} - 0x1p40;
    W v = x * a; /* beyond 2^40 the sine adds less than half an ulp of x */
    v = SELECT_WIDE(most < v, most, v);
    v = SELECT_WIDE(v < least, least, v);
    const W k = (v * 0x1.45f306dc9c883p-2 + magic) - magic;
    W r = v - k * 0x1.921fb544p+1;
    r = r - k * 0x1.0b4611a6p-33;
    r = r - k * 0x1.3198a2e037073p-68;
    const W s = r * r;
    W p = s * -2.3867165049482478e-08 + 2.7523903821027563e-06;
    p = p * s - 0.0001984083149189232;
    p = p * s + 0.008333330709876487;
    p = p * s - 0.16666666608528455;
    p = p * s + 0.9999999999787176;
    p = p * r;
    return x + p * p * b;
}

static NOINLINE V NAME(through_wide)(V v, int function, double a, double b)
{
    T lanes[LANES];
    STORE(lanes, v);
    for (int i = 0; i < LANES; i += LANES / 2) {
        W x = __builtin_convertvector((NAME(part)) * (const NAME(upart) *)(lanes + i), W);
        x = function == FC1D_SNAKE ? NAME(snake_wide)(x, a, b) : NAME(gelu_wide)(x, function == FC1D_GELU_TANH);
        *(NAME(upart) *)(lanes + i) = __builtin_convertvector(x, NAME(part));
    }
    return LOAD(lanes);
}

static V NAME(curve)(V v, int function, T a, double b)
{
    switch (function) {
    case FC1D_LEAKY_RELU: /* with another slope than those of rectify */
    case FC1D_PRELU: {
        const V zero = {0};
        return SELECT(v < zero, v * a, v);
    }
    case FC1D_RELU6: {
        const V zero = {0}, six = zero + 6.0f;
        return SELECT(six < v, six, SELECT(v < zero, zero, v));
    }
    case FC1D_HARDSWISH: {
        const V zero = {0}, three = zero + 3.0f;
        return SELECT(three < v, v, SELECT(v < zero - 3.0f, zero, v * (v + 3.0f) * (1.0f / 6)));
    }
    case FC1D_MISH:
        return NAME(mish)(v);
    case FC1D_SOFTPLUS:
        return NAME(softplus)(v, a, (T)b);
    case FC1D_ELU: {
        const V zero = {0};
        return SELECT(v < zero, NAME(expm1)(SELECT(v < zero, v, zero)) * a, v);
    }
    case FC1D_SILU:
        return NAME(logistic)(v, 1);
    case FC1D_SIGMOID:
        return NAME(logistic)(v, 0);
    case FC1D_TANH:
        return NAME(tanh)(v);
    default:
        return NAME(through_wide)(v, function, a, b);
    }
}
#undef W
#undef SELECT_WIDE
#undef POWER_OF_TWO
#else
static double NAME(curve_of)(double v, int function, double a, double b)
{
    const double below = v < -1e4 ? -1e4 : v; /* keeps -inf times 0 out of the limits */
    double u;
    switch (function) {
    case FC1D_LEAKY_RELU:
    case FC1D_PRELU:
        return v < 0 ? a * v : v;
    case FC1D_RELU6:
        return v < 0 ? 0 : v > 6 ? 6 : v;
    case FC1D_HARDSWISH:
        return v < -3 ? 0 : v > 3 ? v : v * (v + 3) / 6;
    case FC1D_MISH:
        u = exp(v > 20 ? 20 : v);
        u = u * (u + 2);
        return v > 40 ? v : below * (u / (u + 2));
    case FC1D_SOFTPLUS:
        u = a * v;
        return u > b ? v : ((u > 0 ? u : 0) + log1p(exp(-fabs(u)))) / a;
    case FC1D_ELU:
        return v < 0 ? a * expm1(v) : v;
    case FC1D_GELU:
        return v < 0 ? below * (0.5 * erfc(v * -0.70710678118654752440)) : v * (1 - 0.5 * erfc(v * 0.70710678118654752440));
    case FC1D_GELU_TANH:
        u = 1.5957691216057307 * below * (1 + 0.044715 * below * below);
        return u < 0 ? below * (exp(u) / (1 + exp(u))) : v / (1 + exp(-u));
    case FC1D_SILU:
        return v < 0 ? below * (exp(v) / (1 + exp(v))) : v / (1 + exp(-v));
    case FC1D_SIGMOID:
        return v < 0 ? exp(v) / (1 + exp(v)) : 1 / (1 + exp(-v));
    case FC1D_TANH:
        return tanh(v);
    default:
        u = isinf(v) ? 0 : sin(a * v);
        return v + b * (u * u);
    }
}

static V NAME(curve)(V v, int function, T a, double b)
{
    T lanes[LANES];
    STORE(lanes, v);
    for (int i = 0; i < LANES; i++)
        lanes[i] = (T)NAME(curve_of)(lanes[i], function, a, b);
    return LOAD(lanes);
}
#endif

/* n elements of one channel, in place, with what does not change along a row known to the compiler. */
static inline __attribute__((always_inline)) void NAME(finish_span)(const NAME(finish) * e, T a, double b, T *row,
                                                                  const T *residual, ptrdiff_t n, const int in_tile,
                                                                  const int add, const int last)
{
    for (ptrdiff_t i = 0; i < n; i += LANES) {
        V v = LOAD(row + i);
        if (add && !last)
            v = NAME(add_residual)(e, v, residual + i);
        v = in_tile ? NAME(rectify)(v, e->slope, e->keep) : NAME(curve)(v, e->f.function, a, b);
        if (add && last)
            v = NAME(add_residual)(e, v, residual + i);
        STORE(row + i, v);
    }
}

static void NAME(finish_vectors)(const NAME(finish) * e, T a, double b, T *row, const T *residual, ptrdiff_t n)
{
    if (!e->in_tile && residual)
        NAME(finish_span)(e, a, b, row, residual, n, 0, 1, e->last);
    else if (!e->in_tile)
        NAME(finish_span)(e, a, b, row, residual, n, 0, 0, 0);
    else if (residual && e->last)
        NAME(finish_span)(e, a, b, row, residual, n, 1, 1, 1);
    else if (residual)
        NAME(finish_span)(e, a, b, row, residual, n, 1, 1, 0);
    else
        NAME(finish_span)(e, a, b, row, residual, n, 1, 0, 0);
}

/* One row of n elements of one channel, in place; the last ones go through the same instructions in a vector of their
 * own. */
static void NAME(finish_row)(const NAME(finish) * e, ptrdiff_t channel, T *row, const T *residual, ptrdiff_t n)
{
    const int function = e->f.function;
    const T a = e->f.alpha ? ((const T *)e->f.alpha)[channel] : (T)e->f.parameter;
    /* Of snake torch implementations add 1e-9, which allows alpha = 0. */
    const double b = function == FC1D_SOFTPLUS ? e->f.limit : 1 / ((double)a + 1e-9);
    const ptrdiff_t whole = n / LANES * LANES, rest = n - whole;
    NAME(finish_vectors)(e, a, b, row, residual, whole);
    if (rest) {
        T part[LANES] = {0}, more[LANES] = {0};
        memcpy(part, row + whole, (size_t)rest * sizeof(T));
        if (residual)
            memcpy(more, residual + whole, (size_t)rest * sizeof(T));
        NAME(finish_vectors)(e, a, b, part, residual ? more : NULL, LANES);
        memcpy(row + whole, part, (size_t)rest * sizeof(T));
    }
}

/* The kernel table's finish_rows. */
static void NAME(finish_rows)(const fc1d_activation *f, void *rows, const void *residual, ptrdiff_t n_rows, ptrdiff_t n,
                              ptrdiff_t channels, double residual_scale, int residual_last)
{
    const NAME(finish) e = NAME(finish_of)(f, (const T *)residual, n, residual_scale, residual_last);
    for (ptrdiff_t i = 0; i < n_rows; i++)
        NAME(finish_row)(&e, i % channels, (T *)rows + i * n, residual ? (const T *)residual + i * n : NULL, n);
}
