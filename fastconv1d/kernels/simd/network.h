/* Layers between convolutions, row by row: softmax, normalizations, recurrent cells, quantization; included by template.h.
 *
 * The last elements of a row go through the same vector instructions, in a vector of their own.
 */

/* `count` elements of a row as a vector, the lanes behind them `fill`. */
static inline V NAME(load_part)(const T *p, ptrdiff_t count, T fill)
{
    T lanes[LANES];
    for (int i = 0; i < LANES; i++)
        lanes[i] = i < count ? p[i] : fill;
    return LOAD(lanes);
}

static inline void NAME(store_part)(T *p, V v, ptrdiff_t count)
{
    T lanes[LANES];
    STORE(lanes, v);
    memcpy(p, lanes, (size_t)count * sizeof(T));
}

/* Statements for each vector of a row of n elements: `v` is its first element, `k` how many there are. */
#define EACH_PART(n, ...)                                                                                              \
    for (ptrdiff_t v = 0; v < (n); v += LANES) {                                                                       \
        const ptrdiff_t k = (n) - v < LANES ? (n) - v : LANES;                                                         \
        __VA_ARGS__                                                                                                    \
    }
#define GET(p, fill) (k == LANES ? LOAD((p) + v) : NAME(load_part)((p) + v, k, fill))
#define PUT(p, value)                                                                                                  \
    do {                                                                                                               \
        if (k == LANES)                                                                                                \
            STORE((p) + v, value);                                                                                     \
        else                                                                                                           \
            NAME(store_part)((p) + v, value, k);                                                                       \
    } while (0)

static inline T NAME(sum_of)(V v)
{
    T lanes[LANES], sum = 0;
    STORE(lanes, v);
    for (int i = 0; i < LANES; i++)
        sum += lanes[i];
    return sum;
}

#if LANES == 1 || !FLOAT32
/* e^v for v <= 0, -inf or NaN. */
static inline V NAME(exp_of)(V v)
{
    T lanes[LANES];
    STORE(lanes, v);
    for (int i = 0; i < LANES; i++)
        lanes[i] = (T)exp(lanes[i]);
    return LOAD(lanes);
}
#endif

static inline V NAME(larger)(V a, V b)
{
#if LANES > 1
    return SELECT(a < b, b, a);
#else
    return a < b ? b : a;
#endif
}

static inline V NAME(smaller)(V a, V b)
{
#if LANES > 1
    return SELECT(b < a, b, a);
#else
    return b < a ? b : a;
#endif
}

static inline T NAME(largest_of)(V v)
{
    T lanes[LANES], top;
    STORE(lanes, v);
    top = lanes[0];
    for (int i = 1; i < LANES; i++)
        top = top < lanes[i] ? lanes[i] : top;
    return top;
}

/* One row of softmax, n >= LANES: the last vector overlaps the one before it, and counts what is new in it. */
static void NAME(softmax_row)(const T *x, T *y, ptrdiff_t n, int logarithm)
{
    const ptrdiff_t end = n - LANES, rest = n % LANES;
    V most = LOAD(x + end), sum = {0};
    for (ptrdiff_t v = 0; v < end; v += LANES)
        most = NAME(larger)(most, LOAD(x + v));
    const T top = NAME(largest_of)(most);
    ptrdiff_t v = 0;
    for (; v <= end; v += LANES) {
        const V e = NAME(exp_of)(LOAD(x + v) - top);
        sum = sum + e;
        if (!logarithm)
            STORE(y + v, e);
    }
    V last = {0};
    if (rest) {
        T lanes[LANES];
        last = NAME(exp_of)(LOAD(x + end) - top);
        STORE(lanes, last);
        for (ptrdiff_t i = 0; i < LANES - rest; i++)
            lanes[i] = 0;
        sum = sum + LOAD(lanes);
    }
    const T total = NAME(sum_of)(sum), factor = 1 / total, shift = top + (T)log(total);
    if (logarithm) {
        for (v = 0; v < end; v += LANES)
            STORE(y + v, LOAD(x + v) - shift);
        STORE(y + end, LOAD(x + end) - shift);
        return;
    }
    for (v = 0; v <= end; v += LANES)
        STORE(y + v, LOAD(y + v) * factor);
    if (rest)
        STORE(y + end, last * factor);
}

/* y = e^x / sum(e^x) of each row, or its logarithm; x and y are not the same. */
static void NAME(softmax_rows)(const void *from, void *to, ptrdiff_t n_rows, ptrdiff_t n, int logarithm)
{
    const T *x = (const T *)from;
    T *y = (T *)to;
    for (ptrdiff_t row = 0; row < n_rows; row++, x += n, y += n) {
        if (n >= LANES) {
            NAME(softmax_row)(x, y, n, logarithm);
            continue;
        }
        T padded[LANES], result[LANES];
        for (ptrdiff_t i = 0; i < LANES; i++)
            padded[i] = i < n ? x[i] : (T)-INFINITY;
        NAME(softmax_row)(padded, result, LANES, logarithm);
        memcpy(y, result, (size_t)n * sizeof(T));
    }
}

/* Softmax of each column of n_planes planes of n rows, `columns` columns each: strips of columns, three passes each. */
static void NAME(softmax_columns)(const void *from, void *to, ptrdiff_t n_planes, ptrdiff_t n, ptrdiff_t columns)
{
    enum { STRIP = 4 };
    for (ptrdiff_t plane = 0; plane < n_planes; plane++)
        for (ptrdiff_t first = 0; first < columns; first += STRIP * LANES) {
            const ptrdiff_t count = columns - first < STRIP * LANES ? columns - first : STRIP * LANES;
            const T *x = (const T *)from + plane * n * columns + first;
            T *y = (T *)to + plane * n * columns + first;
            V most[STRIP], sum[STRIP] = {{0}};
            for (int s = 0; s < STRIP; s++)
                most[s] = (V){0} + (T)-INFINITY;
            for (ptrdiff_t c = 0; c < n; c++) {
                const T *p = x + c * columns;
                EACH_PART(count, most[v / LANES] = NAME(larger)(most[v / LANES], GET(p, 0));)
            }
            for (ptrdiff_t c = 0; c < n; c++) {
                const T *p = x + c * columns;
                T *e = y + c * columns;
                EACH_PART(count, const V power = NAME(exp_of)(GET(p, 0) - most[v / LANES]); sum[v / LANES] += power;
                          PUT(e, power);)
            }
            for (int s = 0; s < STRIP; s++)
                sum[s] = 1 / sum[s];
            for (ptrdiff_t c = 0; c < n; c++) {
                T *e = y + c * columns;
                EACH_PART(count, PUT(e, GET(e, 0) * sum[v / LANES]);)
            }
        }
}

/* Vectors that are added in T before their sum goes on in float64. */
#define SUM_VECTORS 64

/* The sum of (x - mean)^power over a row, power 1 or 2. */
static double NAME(sum_row)(const T *x, ptrdiff_t n, T mean, int power)
{
    double total = 0;
    for (ptrdiff_t first = 0; first < n; first += SUM_VECTORS * LANES) {
        const ptrdiff_t here = n - first < SUM_VECTORS * LANES ? n - first : SUM_VECTORS * LANES;
        const T *p = x + first;
        V sum = {0};
        if (power == 1)
            EACH_PART(here, sum = sum + GET(p, 0);)
        else
            EACH_PART(here, const V d = GET(p, mean) - mean; sum = sum + d * d;)
        total += NAME(sum_of)(sum);
    }
    return total;
}

/* y = (x - mean)/sqrt(variance + epsilon) * scale + shift of rows [start, end), mean 0 if not centered. With span 0
 * scale and shift have n elements; otherwise one for `span` elements, of `channels` in turn, as a row of several channels has them.
 * scale and shift may be NULL. */
static void NAME(standardize_rows)(const fc1d_norm *q, ptrdiff_t start, ptrdiff_t end)
{
    const T *scale = (const T *)q->scale, *shift = (const T *)q->shift;
    const ptrdiff_t n = q->n, span = q->span ? q->span : n;
    for (ptrdiff_t row = start; row < end; row++) {
        const T *x = (const T *)q->x + row * n;
        T *y = (T *)q->y + row * n;
        const T mean = q->centered ? (T)(NAME(sum_row)(x, n, 0, 1) / (double)n) : 0;
        const T factor = (T)(1 / sqrt(NAME(sum_row)(x, n, mean, 2) / (double)n + q->epsilon));
        if (q->span == 0 && scale) {
            if (shift)
                EACH_PART(n, PUT(y, (GET(x, 0) - mean) * factor * GET(scale, 0) + GET(shift, 0));)
            else
                EACH_PART(n, PUT(y, (GET(x, 0) - mean) * factor * GET(scale, 0));)
            continue;
        }
        for (ptrdiff_t first = 0, i = row * (n / span); first < n; first += span, i++) {
            const T a = scale ? factor * scale[i % q->channels] : factor, b = shift ? shift[i % q->channels] : 0;
            const T *px = x + first;
            T *py = y + first;
            EACH_PART(span, PUT(py, (GET(px, 0) - mean) * a + b);)
        }
    }
}

/* The same of each column of planes [start, end) of n rows, `span` columns each: strips of columns, three passes each. */
static void NAME(standardize_columns)(const fc1d_norm *q, ptrdiff_t start, ptrdiff_t end)
{
    enum { STRIP = 4 };
    const T *scale = (const T *)q->scale, *shift = (const T *)q->shift;
    const ptrdiff_t n = q->n, columns = q->span;
    for (ptrdiff_t plane = start; plane < end; plane++)
        for (ptrdiff_t first = 0; first < columns; first += STRIP * LANES) {
            const ptrdiff_t count = columns - first < STRIP * LANES ? columns - first : STRIP * LANES;
            const T *x = (const T *)q->x + plane * n * columns + first;
            T *y = (T *)q->y + plane * n * columns + first;
            V mean[STRIP] = {{0}}, factor[STRIP] = {{0}};
            for (ptrdiff_t c = 0; c < n; c++) {
                const T *p = x + c * columns;
                EACH_PART(count, mean[v / LANES] += GET(p, 0);)
            }
            for (int s = 0; s < STRIP; s++)
                mean[s] = mean[s] / (T)n;
            for (ptrdiff_t c = 0; c < n; c++) {
                const T *p = x + c * columns;
                EACH_PART(count, const V d = GET(p, 0) - mean[v / LANES]; factor[v / LANES] += d * d;)
            }
            for (int s = 0; s < STRIP; s++) {
                T lanes[LANES];
                STORE(lanes, factor[s]);
                for (int i = 0; i < LANES; i++)
                    lanes[i] = (T)(1 / sqrt((double)lanes[i] / (double)n + q->epsilon));
                factor[s] = LOAD(lanes);
            }
            for (ptrdiff_t c = 0; c < n; c++) {
                const T *p = x + c * columns, a = scale ? scale[c] : 1, b = shift ? shift[c] : 0;
                T *to = y + c * columns;
                EACH_PART(count, PUT(to, (GET(p, 0) - mean[v / LANES]) * factor[v / LANES] * a + b);)
            }
        }
}

#define SIGMOID(v) NAME(curve)(v, FC1D_SIGMOID, 0, 0)
#define TANH(v) NAME(curve)(v, FC1D_TANH, 0, 0)

/* Sigmoid of what a gate gets, and a state: numbers so small that they do not count are kept away from denormal ones, with
 * which a step takes several times as long and which a saturated cell is full of. */
#if LANES > 1
#define GATE(v) SIGMOID(SELECT((v) < -80, (V){0} - 80, v))
#define KEPT(v) SELECT(((v) > (T)(FLOAT32 ? -1e-30 : -1e-280)) & ((v) < (T)(FLOAT32 ? 1e-30 : 1e-280)), (V){0}, v)
#else
#define GATE(v) SIGMOID((v) < -80 ? -80 : (v))
#define KEPT(v) ((v) > (T)(FLOAT32 ? -1e-30 : -1e-280) && (v) < (T)(FLOAT32 ? 1e-30 : 1e-280) ? 0 : (v))
#endif

/* One step of rows of LSTM cells: gates input, output, forget, new, of n elements each. */
static void NAME(lstm_rows)(const void *gates, void *cells, void *states, ptrdiff_t n_rows, ptrdiff_t n)
{
    const T *g = (const T *)gates;
    T *c = (T *)cells, *h = (T *)states;
    for (ptrdiff_t row = 0; row < n_rows; row++, g += 4 * n, c += n, h += n)
        EACH_PART(n, const V a = GET(g, 0), b = GET(g + n, 0), d = GET(g + 2 * n, 0);
                  const V enter = GATE(a), leave = GATE(b), keep = GATE(d);
                  const V sum = keep * GET(c, 0) + enter * TANH(GET(g + 3 * n, 0)), cell = KEPT(sum); PUT(c, cell);
                  const V state = leave * TANH(cell); PUT(h, KEPT(state));)
}

/* One step of rows of GRU cells: gates update, reset, new from the inputs, and from the last states. */
static void NAME(gru_rows)(const void *gates, const void *pushes, const void *before, void *states, ptrdiff_t n_rows,
                           ptrdiff_t n)
{
    const T *g = (const T *)gates, *p = (const T *)pushes, *last = (const T *)before;
    T *h = (T *)states;
    for (ptrdiff_t row = 0; row < n_rows; row++, g += 3 * n, p += 3 * n, last += n, h += n)
        EACH_PART(n, const V a = GET(g, 0) + GET(p, 0), b = GET(g + n, 0) + GET(p + n, 0);
                  const V update = GATE(a), reset = GATE(b);
                  const V new_ = TANH(GET(g + 2 * n, 0) + reset * GET(p + 2 * n, 0));
                  const V state = new_ + update * (GET(last, 0) - new_); PUT(h, KEPT(state));)
}

/* y = round(x/scale) + zero in [low, high], half to even, stored in 1 or 2 bytes. */
static void NAME(quantize)(const void *from, void *to, ptrdiff_t n, double scale, ptrdiff_t zero, ptrdiff_t low,
                           ptrdiff_t high, int size)
{
    const T *x = (const T *)from, s = (T)scale;
    const T magic = FLOAT32 ? (T)12582912.0 : (T)0x1.8p52; /* 1.5 * 2^(bits - 1): adding it rounds to an integer */
    const V least = (V){0} + (T)(low - zero), most = (V){0} + (T)(high - zero);
    TINT offset;
    memcpy(&offset, &magic, sizeof(offset));
    offset = (TINT)zero - offset;
    EACH_PART(
        n, const V q = NAME(smaller)(NAME(larger)(GET(x, 0) / s, least), most) + magic; TINT lanes[LANES];
        uint8_t bytes[LANES]; uint16_t pairs[LANES]; memcpy(lanes, &q, sizeof(lanes));
        for (int i = 0; i < LANES; i++) pairs[i] = (uint16_t)(lanes[i] + offset);
        for (int i = 0; i < LANES; i++) bytes[i] = (uint8_t)pairs[i];
        memcpy((uint8_t *)to + v * size, size == 1 ? (const void *)bytes : (const void *)pairs, (size_t)(k * size));)
}
#if LANES > 1 && FLOAT32
/* erf: x*P(x*x) up to 1, beyond it 1 - e^-Q(|x|), Q fitted up to 4, where erf is 1. Below 3 ulp. */
static inline V NAME(erf_of)(V x)
{
    const V zero = {0}, one = zero + 1.0f, a = NAME(absolute)(x), s = x * x;
    V p = s * 7.847259e-05f - 0.0008008189f;
    p = p * s + 0.005188099f;
    p = p * s - 0.026853692f;
    p = p * s + 0.112835824f;
    p = p * s - 0.37612626f;
    p = p * s + 1.1283791f;
    const V b = NAME(smaller)(a, zero + 4.0f);
    V q = b * -0.00018737525f + 0.00295714f;
    q = q * b - 0.021874882f;
    q = q * b + 0.10318146f;
    q = q * b + 0.6380612f;
    q = q * b + 1.1271381f;
    q = q * b + 0.0003297907f;
    const V far = (V)((NAME(mask))(one - NAME(exp_of)(zero - q)) | ((NAME(mask))x & ~0x7fffffff));
    return SELECT(a > one, far, x * p);
}
#endif

static void NAME(erf_rows)(const void *from, void *to, ptrdiff_t n)
{
    const T *x = (const T *)from;
    T *y = (T *)to;
#if LANES > 1 && FLOAT32
    EACH_PART(n, PUT(y, NAME(erf_of)(GET(x, 0)));)
#else
    for (ptrdiff_t i = 0; i < n; i++)
        y[i] = (T)erf(x[i]);
#endif
}

/* To or from 16 bits. */
static void NAME(convert)(const void *from, void *to, ptrdiff_t n, int half, int widen)
{
    if (widen)
        NAME(widen)((T *)to, (const uint16_t *)from, n, half);
    else
        NAME(narrow)((uint16_t *)to, (const T *)from, n, half);
}

/* The larger of two, NaN before all, or their sum. */
static inline __attribute__((always_inline)) V NAME(pooled)(V a, V b, const int largest)
{
    if (!largest)
        return a + b;
#if LANES > 1
    return SELECT((b > a) | (b != b), b, a);
#else
    return b > a || b != b ? b : a;
#endif
}

/* `count` elements, `step` apart; whole vectors are read for steps of 1 and 2. */
static inline __attribute__((always_inline)) V NAME(load_apart)(const T *p, const ptrdiff_t step, ptrdiff_t count)
{
    if (step == 1)
        return LOAD(p);
#if LANES > 1
    if (step == 2)
        return SHUFFLE(LOAD(p), LOAD(p + LANES), EVEN);
#endif
    T lanes[LANES] = {0};
    for (ptrdiff_t i = 0; i < count; i++)
        lanes[i] = p[i * step];
    return LOAD(lanes);
}

/* One row of outputs from the row that holds the largest or the sums of its input rows. */
static inline __attribute__((always_inline)) void NAME(pool_columns)(const fc1d_pool *q, const T *row, T *y,
                                                                     const ptrdiff_t step, const int largest)
{
    EACH_PART(q->columns_out, V sum = NAME(load_apart)(row + v * step, step, k);
              for (ptrdiff_t t = 1; t < q->taps; t++)
                  sum = NAME(pooled)(sum, NAME(load_apart)(row + v * step + t * q->dilation, step, k), largest);
              if (q->divisors) sum = sum / GET((const T *)q->divisors, 1);
              PUT(y, sum);)
}

/* Positions of a vector of outputs `step` apart that are computed, all of them, before one of `step` is taken. */
enum { NAME(most_steps) = FC1D_POOL_STEPS };

/* The same for larger steps: windows that begin at every position, of which one of `step` is taken. */
static inline __attribute__((always_inline)) void NAME(pool_picked)(const fc1d_pool *q, const T *row, T *y,
                                                                    const int largest)
{
    T every[NAME(most_steps) * LANES];
    const ptrdiff_t step = q->step;
    EACH_PART(q->columns_out, for (ptrdiff_t s = 0; s < step && s * LANES <= (k - 1) * step; s++) {
        const T *p = row + v * step + s * LANES;
        V sum = LOAD(p);
        for (ptrdiff_t t = 1; t < q->taps; t++)
            sum = NAME(pooled)(sum, LOAD(p + t * q->dilation), largest);
        STORE(every + s * LANES, sum);
    } T lanes[LANES]; for (ptrdiff_t i = 0; i < k; i++) lanes[i] = every[i * step];
              V sum = NAME(load_part)(lanes, k, 1); if (q->divisors) sum = sum / GET((const T *)q->divisors, 1);
              PUT(y, sum);)
}

/* All outputs of planes whose windows lie inside, one by one: rows of a few outputs are too short for vectors. */
static inline __attribute__((always_inline)) void NAME(pool_few)(const fc1d_pool *q, const int largest)
{
    const T *x = (const T *)q->x;
    T *y = (T *)q->y;
    for (ptrdiff_t plane = 0; plane < q->planes; plane++, x += q->rows * q->columns)
        for (ptrdiff_t o = 0; o < q->rows_out; o++)
            for (ptrdiff_t i = 0; i < q->columns_out; i++) {
                const T *window = x + o * q->row_step * q->columns + i * q->step;
                T sum = largest ? (T)-INFINITY : 0;
                for (ptrdiff_t t = 0; t < q->taps; t++) { /* the order of the vectors: the rows of a column first */
                    T column = largest ? (T)-INFINITY : 0;
                    for (ptrdiff_t r = 0; r < q->row_taps; r++) {
                        const T next = window[r * q->row_dilation * q->columns + t * q->dilation];
                        column = !largest ? column + next : next > column || next != next ? next : column;
                    }
                    sum = t == 0 ? column : !largest ? sum + column : column > sum || column != column ? column : sum;
                }
                *y++ = q->divisors ? sum / ((const T *)q->divisors)[i] : sum;
            }
}

static inline __attribute__((always_inline)) void NAME(pool_planes)(const fc1d_pool *q, T *row, const int largest)
{
    const T none = largest ? (T)-INFINITY : 0;
    const T *x = (const T *)q->x;
    T *y = (T *)q->y;
    for (ptrdiff_t i = 0; i < q->row_length; i++) /* what lies beside the columns stays so */
        row[i] = none;
    for (ptrdiff_t plane = 0; plane < q->planes; plane++, x += q->rows * q->columns)
        for (ptrdiff_t o = 0; o < q->rows_out; o++, y += q->columns_out) {
            const ptrdiff_t start = o * q->row_step - q->row_before;
            EACH_PART(q->columns, V sum = (V){0} + none;
                      for (ptrdiff_t t = 0, r = start; t < q->row_taps; t++, r += q->row_dilation)
                          if (r >= 0 && r < q->rows)
                              sum = NAME(pooled)(sum, GET(x + r * q->columns, none), largest);
                      STORE(row + q->before + v, sum);)
            if (q->step == 1)
                NAME(pool_columns)(q, row, y, 1, largest);
            else if (q->step == 2)
                NAME(pool_columns)(q, row, y, 2, largest);
            else if (q->step <= NAME(most_steps))
                NAME(pool_picked)(q, row, y, largest);
            else
                NAME(pool_columns)(q, row, y, q->step, largest);
        }
}

/* The largest or the sum of the windows of each plane; scratch has row_length elements. */
static void NAME(pool)(const fc1d_pool *q, void *scratch)
{
    const ptrdiff_t last_row = (q->rows_out - 1) * q->row_step + (q->row_taps - 1) * q->row_dilation - q->row_before;
    const ptrdiff_t last = (q->columns_out - 1) * q->step + (q->taps - 1) * q->dilation - q->before;
    const int inside = q->row_before == 0 && q->before == 0 && last_row < q->rows && last < q->columns;
    if (inside && q->columns_out * 2 <= LANES) {
        if (q->largest)
            NAME(pool_few)(q, 1);
        else
            NAME(pool_few)(q, 0);
    } else if (q->largest)
        NAME(pool_planes)(q, (T *)scratch, 1);
    else
        NAME(pool_planes)(q, (T *)scratch, 0);
}

/* y = x*scale + shift of rows [first, last). */
static void NAME(affine_rows)(const fc1d_affine *q, ptrdiff_t first, ptrdiff_t last)
{
    const T *scale = (const T *)q->scale, *shift = (const T *)q->shift;
    if (q->n == 1) {
        for (ptrdiff_t item = first; item < last; item++) {
            const T *x = (const T *)q->x + item * q->channels;
            T *y = (T *)q->y + item * q->channels;
            ptrdiff_t v = 0; /* no choice between reads: it keeps the compiler from contracting as for long rows */
            for (; v + LANES <= q->channels; v += LANES)
                STORE(y + v, LOAD(x + v) * LOAD(scale + v) + LOAD(shift + v));
            if (v < q->channels) {
                const ptrdiff_t k = q->channels - v;
                const V a = NAME(load_part)(scale + v, k, 0), b = NAME(load_part)(shift + v, k, 0);
                NAME(store_part)(y + v, NAME(load_part)(x + v, k, 0) * a + b, k);
            }
        }
        return;
    }
    for (ptrdiff_t row = first; row < last; row++) {
        const T *x = (const T *)q->x + row * q->n, a = scale[row % q->channels], b = shift[row % q->channels];
        T *y = (T *)q->y + row * q->n;
        EACH_PART(q->n, PUT(y, GET(x, 0) * a + b);)
    }
}

/* y[i] = x[left[i]]*near[i] + x[right[i]]*far[i] of rows [first, last), or x[left[i]] where there is no right. */
static void NAME(resample_rows)(const fc1d_resample *q, ptrdiff_t first, ptrdiff_t last)
{
    const T *near_ = (const T *)q->near_, *far_ = (const T *)q->far_;
    const ptrdiff_t *left = q->left, *right = q->right;
    for (ptrdiff_t row = first; row < last; row++) {
        const T *x = (const T *)q->x + row * q->n;
        T *y = (T *)q->y + row * q->count;
        if (right)
            for (ptrdiff_t i = 0; i < q->count; i++)
                y[i] = x[left[i]] * near_[i] + x[right[i]] * far_[i];
        else
            for (ptrdiff_t i = 0; i < q->count; i++)
                y[i] = x[left[i]];
    }
}

/* y = f(a)*sigmoid(b), f tanh if squashed, otherwise the identity. */
static void NAME(gate)(const void *of_a, const void *of_b, void *to, ptrdiff_t n, int squashed)
{
    const T *a = (const T *)of_a, *b = (const T *)of_b;
    T *y = (T *)to;
    if (squashed)
        EACH_PART(n, PUT(y, TANH(GET(a, 0)) * SIGMOID(GET(b, 0)));)
    else
        EACH_PART(n, PUT(y, GET(a, 0) * SIGMOID(GET(b, 0)));)
}

/* `count` elements that lie in a row of `room` elements, the lanes behind them `fill`. */
static inline V NAME(load_within)(const T *p, ptrdiff_t count, ptrdiff_t room, T fill)
{
#if LANES > 1
    if (room >= LANES) {
        NAME(mask) lane;
        for (int i = 0; i < LANES; i++)
            lane[i] = i;
        return SELECT(lane < (TINT)count, LOAD(p), (V){0} + fill);
    }
#endif
    return NAME(load_part)(p, count, fill);
}

/* The largest of n elements or their mean, of a row that has `room` elements from x on. */
static T NAME(reduced)(const T *x, ptrdiff_t n, ptrdiff_t room, const int largest)
{
    const T none = largest ? (T)-INFINITY : 0;
    double total = 0;
    V part = (V){0} + none;
    ptrdiff_t v = 0;
    for (ptrdiff_t vectors = 0; v + LANES <= n; v += LANES) {
        part = NAME(pooled)(part, LOAD(x + v), largest);
        if (!largest && ++vectors % SUM_VECTORS == 0) {
            total += NAME(sum_of)(part);
            part = (V){0};
        }
    }
    if (v < n)
        part = NAME(pooled)(part, NAME(load_within)(x + v, n - v, room - v, none), largest);
    if (!largest)
        return (T)((total + NAME(sum_of)(part)) / (double)n);
    T lanes[LANES], most;
    STORE(lanes, part);
    most = lanes[0];
    for (int i = 1; i < LANES; i++)
        most = lanes[i] > most || lanes[i] != lanes[i] ? lanes[i] : most;
    return most;
}

/* The largest element or the mean of each part of rows [first, last); no part is empty. */
static void NAME(reduce_parts)(const fc1d_parts *q, ptrdiff_t first, ptrdiff_t last)
{
    for (ptrdiff_t row = first; row < last; row++) {
        const T *x = (const T *)q->x + row * q->n;
        T *y = (T *)q->y + row * q->count;
        for (ptrdiff_t i = 0; i < q->count; i++) {
            const ptrdiff_t at = q->begin[i], n = q->end[i] - at;
            y[i] = q->largest ? NAME(reduced)(x + at, n, q->n - at, 1) : NAME(reduced)(x + at, n, q->n - at, 0);
        }
    }
}

/* Columns of a panel of add_product, whose rows lie one after the other; vectors and rows of a tile of sums. */
enum { NAME(panel) = FC1D_PANEL_BYTES / sizeof(T), NAME(tile_vectors) = 4, NAME(tile_rows) = ROWS / 2 };

/* The sums of `rows` rows of A with 4 vectors of a panel's columns, in the order of k. */
static inline __attribute__((always_inline)) void NAME(product_tile)(const T *a, const T *b, T *c, ptrdiff_t n,
                                                                     ptrdiff_t k, ptrdiff_t columns, const int rows)
{
    V sum[NAME(tile_rows)][NAME(tile_vectors)] = {{{0}}};
    for (ptrdiff_t j = 0; j < k; j++, b += NAME(panel)) {
        V w[NAME(tile_vectors)];
        _Pragma("GCC unroll 4") for (int v = 0; v < NAME(tile_vectors); v++) w[v] = LOAD(b + v * LANES);
        _Pragma("GCC unroll 4") for (int i = 0; i < rows; i++)
            _Pragma("GCC unroll 4") for (int v = 0; v < NAME(tile_vectors); v++) sum[i][v] += a[i * k + j] * w[v];
    }
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < NAME(tile_vectors) && v * LANES < columns; v++) {
            T *y = c + i * n + v * LANES;
            const ptrdiff_t here = columns - v * LANES;
            if (here >= LANES)
                STORE(y, LOAD(y) + sum[i][v]);
            else
                NAME(store_part)(y, NAME(load_part)(y, here, 0) + sum[i][v], here);
        }
}

/* C[m, n] += A[m, k] @ B[k, n]: B lies in panels of FC1D_PANEL_BYTES of columns, filled up with zeros. The bits of a row
 * do not depend on the others. */
static void NAME(add_product)(const void *left, const void *right, void *to, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k)
{
    const ptrdiff_t width = NAME(tile_vectors) * LANES;
    for (ptrdiff_t first = 0; first < n; first += width) {
        const T *a = (const T *)left, *b = (const T *)right + first / NAME(panel) * NAME(panel) * k + first % NAME(panel);
        T *c = (T *)to + first;
        const ptrdiff_t columns = n - first < width ? n - first : width;
        ptrdiff_t i = 0;
        for (; i + NAME(tile_rows) <= m; i += NAME(tile_rows))
            NAME(product_tile)(a + i * k, b, c + i * n, n, k, columns, NAME(tile_rows));
        for (; i < m; i++)
            NAME(product_tile)(a + i * k, b, c + i * n, n, k, columns, 1);
    }
}

#undef GATE
#undef KEPT
#undef SIGMOID
#undef TANH
#undef EACH_PART
#undef GET
#undef PUT
#undef SUM_VECTORS
