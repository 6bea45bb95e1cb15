/* Element-wise operations one after the other, over pieces that stay in L1; included by template.h.
 *
 * A piece of every value has a register: a tile of CHAIN_PIECE elements, or the operand itself where its elements lie as the
 * result's. Every element goes through the same vector instructions wherever it stands.
 */

#define CHAIN_PIECE 512

/* `statement` for each vector `a` (and `b`) of a piece; y is the result's vector. */
#define MAP(statement)                                                                                                 \
    for (ptrdiff_t i = 0; i < n; i += LANES) {                                                                         \
        const V a = LOAD(pa + i);                                                                                      \
        V y;                                                                                                           \
        statement;                                                                                                     \
        STORE(py + i, y);                                                                                              \
    }
#define MAP2(statement)                                                                                                \
    for (ptrdiff_t i = 0; i < n; i += LANES) {                                                                         \
        const V a = LOAD(pa + i), b = LOAD(pb + i);                                                                    \
        V y;                                                                                                           \
        statement;                                                                                                     \
        STORE(py + i, y);                                                                                              \
    }
#define MAP_ELEMENTS(expression)                                                                                       \
    for (ptrdiff_t i = 0; i < n; i++) {                                                                                \
        const T a = pa[i];                                                                                             \
        py[i] = (T)(expression);                                                                                       \
    }

#if LANES > 1 && FLOAT32
/* e^x: below 2 ulp. */
static inline V NAME(exp_any)(V x)
{
    const V zero = {0}, low = zero - 104.0f, high = zero + 88.8f;
    NAME(mask) n;
    const V y = SELECT(x < low, low, SELECT(x > high, high, x));
    const V m = NAME(exponential)(y, &n);
    const NAME(mask) half = n >> 1; /* in two steps: 2^n itself may be too small or too large */
    return (m + 1.0f) * (V)((half + 127) << 23) * (V)((n - half + 127) << 23);
}

/* ln(x): below 2 ulp. */
static inline V NAME(log_any)(V x)
{
    const V zero = {0}, one = zero + 1.0f;
    const NAME(mask) tiny = x < 1.17549435e-38f;
    const V scaled = SELECT(tiny, x * 8388608.0f, x);
    NAME(mask) bits = (NAME(mask))scaled - 0x3f3504f3; /* sqrt(1/2), so that the mantissa is in [sqrt(1/2), sqrt(2)) */
    const V e = __builtin_convertvector((bits >> 23) - (tiny & 23), V);
    bits = (bits & 0x7fffff) + 0x3f3504f3;
    const V f = (V)bits - one, z = f * f;
    V p = f * 7.0376836292e-2f - 1.1514610310e-1f;
    p = p * f + 1.1676998740e-1f;
    p = p * f - 1.2420140846e-1f;
    p = p * f + 1.4249322787e-1f;
    p = p * f - 1.6668057665e-1f;
    p = p * f + 2.0000714765e-1f;
    p = p * f - 2.4999993993e-1f;
    p = p * f + 3.3333331174e-1f;
    V y = p * f * z + e * -2.12194440e-4f - 0.5f * z;
    y = f + y + e * 0.693359375f;
    y = SELECT(x == (zero + INFINITY), x, y);
    y = SELECT(x == zero, zero - INFINITY, y);
    return SELECT((x < zero) | (x != x), zero + NAN, y);
}

/* The nearest integer, half to even. */
static inline V NAME(round_even)(V x)
{
    const V magic = (V){0} + 8388608.0f, a = NAME(absolute)(x); /* from 2^23 on all are integers */
    const V r = (V)((NAME(mask))((a + magic) - magic) | ((NAME(mask))x & ~0x7fffffff));
    return SELECT(a < magic, r, x);
}
#define EXP_ANY(p) MAP(y = NAME(exp_any)(a))
#define LOG_ANY(p) MAP(y = NAME(log_any)(a))
#define ERF_ANY(p) MAP(y = NAME(erf_of)(a))
#define ROUND_EVEN(v) NAME(round_even)(v)
#else
static inline V NAME(round_even)(V x)
{
    T lanes[LANES];
    STORE(lanes, x);
    for (int i = 0; i < LANES; i++)
        lanes[i] = (T)rint(lanes[i]);
    return LOAD(lanes);
}
#define EXP_ANY(p) MAP_ELEMENTS(exp(a))
#define LOG_ANY(p) MAP_ELEMENTS(log(a))
#define ERF_ANY(p) MAP_ELEMENTS(erf(a))
#define ROUND_EVEN(v) NAME(round_even)(v)
#endif

#if LANES > 1
#define CHOOSE(mask, a, b) SELECT(mask, a, b)
#else
#define CHOOSE(mask, a, b) ((mask) ? (a) : (b))
#endif
#define LARGER(a, b) CHOOSE(((b) > (a)) | ((b) != (b)), b, a)
#define SMALLER(a, b) CHOOSE(((b) < (a)) | ((b) != (b)), b, a)

static void NAME(chain_operation)(const fc1d_operation *o, const T *pa, const T *pb, T *py, ptrdiff_t n)
{
    const V p = (V){0} + (T)o->parameter, q = (V){0} + (T)o->second, zero = {0};
    (void)zero;
    switch (o->kind) {
    case FC1D_ADD:
        MAP2(y = a + b)
        break;
    case FC1D_SUBTRACT:
        MAP2(y = a - b)
        break;
    case FC1D_MULTIPLY:
        MAP2(y = a * b)
        break;
    case FC1D_DIVIDE:
        MAP2(y = a / b)
        break;
    case FC1D_LARGER:
        MAP2(y = LARGER(a, b))
        break;
    case FC1D_SMALLER:
        MAP2(y = SMALLER(a, b))
        break;
    case FC1D_POWER:
        for (ptrdiff_t i = 0; i < n; i++)
            py[i] = (T)pow(pa[i], pb[i]);
        break;
    case FC1D_SCALE:
        MAP(y = a * p)
        break;
    case FC1D_SHIFT:
        MAP(y = a + p)
        break;
    case FC1D_NEGATE:
        MAP(y = -a)
        break;
    case FC1D_ABSOLUTE:
        MAP_ELEMENTS(fabs(a))
        break;
    case FC1D_SQUARE:
        MAP(y = a * a)
        break;
    case FC1D_CUBE:
        MAP(y = a * a * a)
        break;
    case FC1D_ROOT:
        MAP_ELEMENTS(FLOAT32 ? (double)sqrtf((float)a) : sqrt(a))
        break;
    case FC1D_RECIPROCAL:
        MAP(y = (zero + (T)1) / a)
        break;
    case FC1D_EXPONENTIAL:
        EXP_ANY()
        break;
    case FC1D_LOGARITHM:
        LOG_ANY()
        break;
    case FC1D_ERROR_FUNCTION:
        ERF_ANY()
        break;
    case FC1D_ROUND:
        MAP(y = ROUND_EVEN(a))
        break;
    case FC1D_FLOOR:
        MAP(const V r = ROUND_EVEN(a); y = CHOOSE(r > a, r - (T)1, r))
        break;
    case FC1D_CEILING:
        MAP(const V r = ROUND_EVEN(a); y = CHOOSE(r < a, r + (T)1, r))
        break;
    case FC1D_AT_LEAST:
        MAP(y = CHOOSE(a < p, p, a))
        break;
    case FC1D_AT_MOST:
        MAP(y = CHOOSE(a > p, p, a))
        break;
    case FC1D_STEPS: /* quantised and back: multiples of p from low to high of them */
        MAP(const V low = (V){0} + (T)o->low; y = ROUND_EVEN(a / p); y = CHOOSE(y < low, low, y);
            y = CHOOSE(y > q, q, y) * p)
        break;
    case FC1D_SINE:
        MAP_ELEMENTS(FLOAT32 ? (double)sinf((float)a) : sin(a))
        break;
    case FC1D_COSINE:
        MAP_ELEMENTS(FLOAT32 ? (double)cosf((float)a) : cos(a))
        break;
    case FC1D_SIGN:
        MAP_ELEMENTS(a > 0 ? 1 : a < 0 ? -1 : a)
        break;
    default: {
        const NAME(finish) e = NAME(finish_of)(&o->step, NULL, 0, 0, 0);
        if (e.in_tile)
            MAP(y = NAME(rectify)(a, e.slope, e.keep))
        else
            MAP(y = NAME(curve)(a, o->step.function, (T)o->step.parameter, 0))
    }
    }
}

/* Elements [first, first + n) of an operand, in the result's order. */
static void NAME(chain_gather)(const fc1d_chain *q, const fc1d_operand *x, ptrdiff_t first, ptrdiff_t n, T *to)
{
    ptrdiff_t place[FC1D_CHAIN_AXES], left = first;
    const int last = q->n_axes - 1;
    const T *p = (const T *)x->data;
    for (int axis = last; axis >= 0; axis--) {
        place[axis] = left % q->sizes[axis];
        left /= q->sizes[axis];
        p += place[axis] * x->strides[axis];
    }
    while (n > 0) {
        const ptrdiff_t row = q->sizes[last] - place[last], here = row < n ? row : n, step = x->strides[last];
        if (step == 1) {
            memcpy(to, p, (size_t)here * sizeof(T));
        } else if (step == 0) {
            const T number = *p;
            for (ptrdiff_t i = 0; i < here; i++)
                to[i] = number;
        } else {
            for (ptrdiff_t i = 0; i < here; i++)
                to[i] = p[i * step];
        }
        to += here;
        n -= here;
        p += here * step;
        place[last] += here;
        for (int axis = last; axis > 0 && place[axis] == q->sizes[axis]; axis--) {
            p += x->strides[axis - 1] - q->sizes[axis] * x->strides[axis];
            place[axis] = 0;
            place[axis - 1]++;
        }
    }
}

/* A unit: `unit` elements of the result; scratch holds a tile for every register. */
static void NAME(chain)(const fc1d_chain *q, ptrdiff_t index, void *scratch)
{
    T *const tiles = (T *)scratch;
    const T *values[FC1D_CHAIN_REGISTERS];
    const ptrdiff_t begin = index * q->unit, end = begin + q->unit < q->size ? begin + q->unit : q->size;
    for (int r = 0; r < q->n_registers; r++)
        values[r] = tiles + r * CHAIN_PIECE;
    for (int r = 0; r < q->n_operands; r++)
        if (q->operands[r].kind == FC1D_ONE_NUMBER)
            for (ptrdiff_t i = 0; i < CHAIN_PIECE; i++)
                tiles[r * CHAIN_PIECE + i] = *(const T *)q->operands[r].data;
    for (ptrdiff_t first = begin; first < end; first += CHAIN_PIECE) {
        const ptrdiff_t n = end - first < CHAIN_PIECE ? end - first : CHAIN_PIECE, part = n % LANES;
        T *const y = (T *)q->y + first;
        for (int r = 0; r < q->n_operands; r++) {
            const fc1d_operand *x = &q->operands[r];
            T *const tile = tiles + r * CHAIN_PIECE;
            if (x->kind == FC1D_ALIKE && !part)
                values[r] = (const T *)x->data + first;
            else if (x->kind == FC1D_ALIKE) {
                memcpy(tile, (const T *)x->data + first, (size_t)n * sizeof(T));
                values[r] = tile;
            } else if (x->kind == FC1D_REPEATED)
                NAME(chain_gather)(q, x, first, n, tile);
        }
        for (int i = 0; i < q->n_operations; i++) {
            const fc1d_operation *o = &q->operations[i];
            T *const to = i == q->n_operations - 1 && !part ? y : tiles + o->target * CHAIN_PIECE;
            NAME(chain_operation)(o, values[o->a], values[o->b], to, n);
            if (i == q->n_operations - 1 && part)
                memcpy(y, to, (size_t)n * sizeof(T));
        }
    }
}

#undef MAP
#undef MAP2
#undef MAP_ELEMENTS
#undef EXP_ANY
#undef LOG_ANY
#undef ERF_ANY
#undef ROUND_EVEN
#undef CHOOSE
#undef LARGER
#undef SMALLER
#undef CHAIN_PIECE
