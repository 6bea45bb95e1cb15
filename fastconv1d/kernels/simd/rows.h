/* Rows of channels in and out of scratch, included by template.h: any strides, any storage type. */

#if LANES > 1
/* out[q*STEP + r] = rows[r][q] for whole vectors of q < cols; returns the columns done. */
static inline __attribute__((always_inline)) ptrdiff_t NAME(interleave)(const T *rows, ptrdiff_t pitch, ptrdiff_t cols,
                                                                       T *out, const int step)
{
    ptrdiff_t q = 0;
    for (; q + LANES <= cols; q += LANES) {
        V v[8], u[8];
        _Pragma("GCC unroll 8") for (int r = 0; r < step; r++) v[r] = LOAD(rows + r * pitch + q);
        _Pragma("GCC unroll 3") for (int half = step / 2; half > 0; half /= 2)
        {
            _Pragma("GCC unroll 4") for (int r = 0; r < step / 2; r++)
            {
                u[2 * r] = SHUFFLE(v[r], v[r + step / 2], RIFFLE_LOW);
                u[2 * r + 1] = SHUFFLE(v[r], v[r + step / 2], RIFFLE_HIGH);
            }
            _Pragma("GCC unroll 8") for (int r = 0; r < step; r++) v[r] = u[r];
        }
        _Pragma("GCC unroll 8") for (int r = 0; r < step; r++) STORE(out + q * step + r * LANES, v[r]);
    }
    return q;
}
#endif

/* LANES vectors, transposed: blocks of ever more lanes change their rows. */
#define EXCHANGE(b)                                                                                                    \
    _Pragma("GCC unroll 16") for (int r = 0; r < LANES; r++) if (!(r & b))                                             \
    {                                                                                                                  \
        const V near = SHUFFLE(v[r], v[r + b], PICK(NEAR##b, LANES)), far = SHUFFLE(v[r], v[r + b], PICK(FAR##b, LANES));\
        v[r] = near;                                                                                                   \
        v[r + b] = far;                                                                                                \
    }
static inline __attribute__((always_inline)) void NAME(transpose)(V *v)
{
    (void)v;
#if LANES > 1
    EXCHANGE(1)
#endif
#if LANES > 2
    EXCHANGE(2)
#endif
#if LANES > 4
    EXCHANGE(4)
#endif
#if LANES > 8
    EXCHANGE(8)
#endif
}
#undef EXCHANGE

/* dst[place[j] + i] = src[i*pitch + j] for i and j < LANES. */
static inline __attribute__((always_inline)) void NAME(transpose_to)(const T *src, ptrdiff_t pitch, T *dst,
                                                                     const int32_t *place)
{
    V v[LANES];
    _Pragma("GCC unroll 16") for (int r = 0; r < LANES; r++) v[r] = LOAD(src + r * pitch);
    NAME(transpose)(v);
    _Pragma("GCC unroll 16") for (int r = 0; r < LANES; r++) STORE(dst + place[r], v[r]);
}

/* dst[j*dst_pitch + i] = src[i*pitch + j] for i and j < LANES. */
static void NAME(transpose_square)(T *restrict dst, ptrdiff_t dst_pitch, const T *restrict src, ptrdiff_t pitch)
{
    V v[LANES];
    _Pragma("GCC unroll 16") for (int r = 0; r < LANES; r++) v[r] = LOAD(src + r * pitch);
    NAME(transpose)(v);
    _Pragma("GCC unroll 16") for (int r = 0; r < LANES; r++) STORE(dst + r * dst_pitch, v[r]);
}

/* dst[i] = src[i], i < n < LANES, in two pieces that may overlap; without src zeros. */
static inline __attribute__((always_inline)) void NAME(copy_short)(T *restrict dst, const T *restrict src, ptrdiff_t n)
{
#define PIECES(SIZE)                                                                                                   \
    if (LANES > SIZE && n >= SIZE) {                                                                                   \
        T head[SIZE] = {0}, tail[SIZE] = {0};                                                                          \
        if (src) {                                                                                                     \
            memcpy(head, src, sizeof(head));                                                                           \
            memcpy(tail, src + n - SIZE, sizeof(tail));                                                                \
        }                                                                                                              \
        memcpy(dst, head, sizeof(head));                                                                               \
        memcpy(dst + n - SIZE, tail, sizeof(tail));                                                                    \
        return;                                                                                                        \
    }
    PIECES(8)
    PIECES(4)
    PIECES(2)
    if (n > 0)
        *dst = src ? *src : 0;
#undef PIECES
}

/* Zeros for dst[i], i < n. */
static inline void NAME(clear)(T *dst, ptrdiff_t n)
{
    if (n < LANES)
        NAME(copy_short)(dst, NULL, n);
    else
        memset(dst, 0, (size_t)n * sizeof(T));
}

/* dst[i] = src[i*step], i < n: contiguous and every second, third, fourth or eighth in vectors, otherwise one by one. */
static void NAME(gather)(T *restrict dst, ptrdiff_t n, const T *restrict src, ptrdiff_t step)
{
    ptrdiff_t i = 0;
#if LANES > 1
    if (step == 1 && n >= LANES) {
        for (; i < n - LANES; i += LANES)
            STORE(dst + i, LOAD(src + i));
        STORE(dst + n - LANES, LOAD(src + n - LANES)); /* may write some elements again */
        return;
    }
    if (step == 1) {
        NAME(copy_short)(dst, src, n);
        return;
    }
    if (step == 2)
        for (; i + LANES < n; i += LANES)
            STORE(dst + i, SHUFFLE(LOAD(src + 2 * i), LOAD(src + 2 * i + LANES), EVEN));
    else if (step == 4)
        for (; i + LANES < n; i += LANES) {
            const T *s = src + 4 * i;
            V a = SHUFFLE(LOAD(s), LOAD(s + LANES), EVEN), b = SHUFFLE(LOAD(s + 2 * LANES), LOAD(s + 3 * LANES), EVEN);
            STORE(dst + i, SHUFFLE(a, b, EVEN));
        }
    else if (step == 8)
        for (; i + LANES < n; i += LANES) {
            V v[4];
            for (int u = 0; u < 4; u++) {
                const T *s = src + 8 * i + 2 * u * LANES;
                v[u] = SHUFFLE(LOAD(s), LOAD(s + LANES), EVEN);
            }
            STORE(dst + i, SHUFFLE(SHUFFLE(v[0], v[1], EVEN), SHUFFLE(v[2], v[3], EVEN), EVEN));
        }
    else if (step == 3)
        for (; i + LANES < n; i += LANES) {
            const T *s = src + 3 * i;
            V a = SHUFFLE(LOAD(s), LOAD(s + LANES), THIRDS);
            STORE(dst + i, SHUFFLE(a, LOAD(s + 2 * LANES), OTHER_THIRDS));
        }
#endif
    for (; i < n; i++)
        dst[i] = src[i * step];
}

/* dst[i] = src[i], i < n, without a call for the short rows of many items, where a call takes as long as the copy. */
static inline __attribute__((always_inline)) void NAME(copy_row)(T *restrict dst, const T *restrict src, ptrdiff_t n)
{
    if (n < LANES)
        NAME(copy_short)(dst, src, n);
    else if (n <= 2 * LANES) {
        const V head = LOAD(src), tail = LOAD(src + n - LANES);
        STORE(dst, head);
        STORE(dst + n - LANES, tail);
    } else
        NAME(gather)(dst, n, src, 1);
}

/* Element `offset` of storage that holds 16-bit elements or the kernels' own. */
static inline void *NAME(at)(const void *data, ptrdiff_t offset, int half)
{
    return (char *)data + offset * (half ? 2 : (ptrdiff_t)sizeof(T));
}

/* dst[i] = src[i*step] from any storage. */
static void NAME(load_row)(T *dst, ptrdiff_t n, const void *src, ptrdiff_t step, int half)
{
    if (!half) {
        NAME(gather)(dst, n, (const T *)src, step);
        return;
    }
    const uint16_t *from = (const uint16_t *)src;
    if (step == 1) {
        NAME(widen)(dst, from, n, half);
        return;
    }
    T piece[512];
    if (step >= 2 && step <= 16) { /* convert what lies between as well */
        const ptrdiff_t most = 512 / step;
        for (ptrdiff_t i = 0, m; i < n; i += m) {
            m = n - i < most ? n - i : most;
            NAME(widen)(piece, from + i * step, (m - 1) * step + 1, half);
            NAME(gather)(dst + i, m, piece, step);
        }
        return;
    }
    for (ptrdiff_t i = 0; i < n; i++)
        NAME(widen)(dst + i, from + i * step, 1, half);
}

/* dst[c*pitch + i] = src[c*sc + i*sl] for m channels and n positions. Channels side by side go through squares of
 * LANES, all channels of some positions after another, as they lie in memory. */
static void NAME(load_rows)(T *dst, ptrdiff_t pitch, ptrdiff_t m, ptrdiff_t n, const void *src, ptrdiff_t sc,
                            ptrdiff_t sl, int half)
{
    ptrdiff_t c = 0;
    if (!half && (sl == 1 || sc != 1)) { /* the most frequent case */
        for (; sl == 1 && c < m; c++)
            NAME(copy_row)(dst + c * pitch, (const T *)src + c * sc, n);
        for (; c < m; c++)
            NAME(gather)(dst + c * pitch, n, (const T *)src + c * sc, sl);
        return;
    }
#if LANES > 1
    for (ptrdiff_t i = 0; sc == 1 && sl != 1 && m >= LANES && i < n; i += LANES) {
        i = n < LANES || i + LANES <= n ? i : n - LANES; /* the last square lies over the one before */
        const ptrdiff_t count = n < LANES ? n : LANES;
        for (c = 0; c < m; c += LANES) {
            c = c + LANES <= m ? c : m - LANES;
            const void *from = NAME(at)(src, c + i * sl, half);
            const T *square = (const T *)from;
            ptrdiff_t square_pitch = sl;
            T wide[LANES * LANES], part[LANES * LANES];
            if (half || n < LANES) {
                for (ptrdiff_t r = 0; r < count; r++)
                    NAME(load_row)(wide + r * LANES, LANES, NAME(at)(from, r * sl, half), 1, half);
                for (ptrdiff_t r = count * LANES; r < LANES * LANES; r++)
                    wide[r] = 0;
                square = wide;
                square_pitch = LANES;
            }
            if (n >= LANES) {
                NAME(transpose_square)(dst + c * pitch + i, pitch, square, square_pitch);
                continue;
            }
            NAME(transpose_square)(part, LANES, square, LANES);
            for (ptrdiff_t r = 0; r < LANES; r++)
                NAME(copy_row)(dst + (c + r) * pitch, part + r * LANES, n);
        }
    }
#endif
    for (; c < m; c++)
        NAME(load_row)(dst + c * pitch, n, NAME(at)(src, c * sc, half), sl, half);
}

/* Where row `c` of x, or of g, begins in an item: the parts of complex numbers are rows of their own. */
static inline ptrdiff_t NAME(row_at)(ptrdiff_t c, ptrdiff_t sc, int parts)
{
    return parts == 2 ? c / 2 * sc + c % 2 : c * sc;
}

/* to[c*to_pitch + 2*i + part] = from[c*pitch + i*sl + part] for m channels, n elements: pairs of any stride. */
static void NAME(load_pairs)(T *to, ptrdiff_t to_pitch, ptrdiff_t m, ptrdiff_t n, const T *from, ptrdiff_t pitch,
                             ptrdiff_t sl)
{
    for (ptrdiff_t c = 0; c < m; c++, to += to_pitch, from += pitch)
        for (ptrdiff_t i = 0; 2 * i < n; i++) {
            to[2 * i] = from[i * sl];
            to[2 * i + 1] = from[i * sl + 1];
        }
}

/* to[c*to_pitch + i*sl + part] = from[c*pitch + 2*i + part], the other way round. */
static void NAME(store_pairs)(T *to, ptrdiff_t to_pitch, ptrdiff_t sl, const T *from, ptrdiff_t pitch, ptrdiff_t m,
                              ptrdiff_t n)
{
    for (ptrdiff_t c = 0; c < m; c++, to += to_pitch, from += pitch)
        for (ptrdiff_t i = 0; 2 * i < n; i++) {
            to[i * sl] = from[2 * i];
            to[i * sl + 1] = from[2 * i + 1];
        }
}

/* dst[c*sc + i*sl] = src[c*pitch + i] for m channels and n positions, in the same order. */
static void NAME(store_rows)(void *dst, ptrdiff_t sc, ptrdiff_t sl, const T *src, ptrdiff_t pitch, ptrdiff_t m,
                             ptrdiff_t n, int half)
{
#if LANES > 1
    ptrdiff_t i = 0;
    for (; sc == 1 && sl != 1 && m >= LANES && i < n; i += LANES) {
        i = n < LANES || i + LANES <= n ? i : n - LANES; /* the last square lies over the one before */
        const ptrdiff_t count = n < LANES ? n : LANES;
        for (ptrdiff_t c = 0; c < m; c += LANES) {
            c = c + LANES <= m ? c : m - LANES;
            T part[LANES * LANES], square[LANES * LANES];
            void *to = NAME(at)(dst, c + i * sl, half);
            if (n < LANES)
                for (ptrdiff_t r = 0; r < LANES; r++) {
                    NAME(copy_row)(part + r * LANES, src + (c + r) * pitch, n);
                    for (ptrdiff_t j = n; j < LANES; j++)
                        part[r * LANES + j] = 0;
                }
            else if (!half) {
                NAME(transpose_square)((T *)to, sl, src + c * pitch + i, pitch);
                continue;
            }
            if (n < LANES)
                NAME(transpose_square)(square, LANES, part, LANES);
            else
                NAME(transpose_square)(square, LANES, src + c * pitch + i, pitch);
            for (ptrdiff_t r = 0; r < count; r++)
                if (half)
                    NAME(narrow)((uint16_t *)to + r * sl, square + r * LANES, LANES, half);
                else
                    NAME(copy_row)((T *)to + r * sl, square + r * LANES, LANES);
        }
    }
    if (i >= n)
        return;
#endif
    for (ptrdiff_t c = 0; c < m; c++) {
        const T *row = src + c * pitch;
        void *to = NAME(at)(dst, c * sc, half);
        if (half && sl == 1)
            NAME(narrow)((uint16_t *)to, row, n, half);
        else if (half)
            for (ptrdiff_t j = 0; j < n; j++)
                NAME(narrow)((uint16_t *)to + j * sl, row + j, 1, half);
        else if (sl == 1)
            NAME(copy_row)((T *)to, row, n);
        else
            for (ptrdiff_t j = 0; j < n; j++)
                ((T *)to)[j * sl] = row[j];
    }
}

/* The input position that padding `mode` puts at position i outside [0, n); clamped, because masked columns may ask for
 * positions that no valid output needs. */
static ptrdiff_t NAME(resolve)(ptrdiff_t i, ptrdiff_t n, int mode)
{
    if (mode == FC1D_REFLECT)
        i = i < 0 ? -i : 2 * (n - 1) - i;
    else if (mode == FC1D_CIRCULAR)
        i = i < 0 ? i + n : i - n;
    return i < 0 ? 0 : i < n ? i : n - 1;
}
