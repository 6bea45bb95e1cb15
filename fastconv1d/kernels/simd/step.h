/* One column of a depthwise correlate, vectors along the channels: a step of a stream.
 *
 *     y[c] = sum over k < taps of w[k*channels + c] * x[k][c] + bias[c]
 *
 * The sums are those of a register tile, bit for bit: one chain of multiply-adds per block of `chain` taps, the bias
 * after the first, the partial sums of the others added in order.
 */

#define STEP(V_, LOAD_, STORE_)                                                                                        \
    {                                                                                                                  \
        V_ acc = {0};                                                                                                  \
        for (ptrdiff_t k = k0; k < k1; k++)                                                                            \
            acc += LOAD_(w + k * channels + c) * LOAD_(x[k] + c);                                                      \
        if (k0 > 0)                                                                                                    \
            acc = LOAD_(y + c) + acc;                                                                                  \
        else if (bias)                                                                                                 \
            acc = acc + LOAD_(bias + c);                                                                               \
        STORE_(y + c, acc);                                                                                            \
    }
#define LOAD_ONE(p) (*(p))
#define STORE_ONE(p, v) (*(p) = (v))

static void NAME(step)(ptrdiff_t channels, ptrdiff_t taps, ptrdiff_t chain, const void *weight, const void *const *rows,
                       const void *biases, void *out)
{
    const T *restrict w = (const T *)weight, *restrict bias = (const T *)biases;
    const T *const *x = (const T *const *)rows;
    T *restrict y = (T *)out;
    for (ptrdiff_t k0 = 0; k0 < taps; k0 += chain) {
        const ptrdiff_t k1 = taps - k0 < chain ? taps : k0 + chain;
        ptrdiff_t c = 0;
        for (; c + LANES <= channels; c += LANES)
            STEP(V, LOAD, STORE)
        for (; c < channels; c++)
            STEP(T, LOAD_ONE, STORE_ONE)
    }
}

#undef STEP
#undef LOAD_ONE
#undef STORE_ONE
