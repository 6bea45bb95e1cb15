/* float16 and bfloat16, rounded to nearest even: one number at a time, and rows into and out of the kernels' type.
 *
 * Included by vectors.h with T undefined for the first part, then by template.h for each type.
 */
#ifndef T
static inline float fc1d_from_half(uint16_t h, int half)
{
    union { uint32_t u; float f; } v = {(uint32_t)h << 16}, scale = {(uint32_t)(254 - 15) << 23}; /* 2^112 */
    if (half == FC1D_BFLOAT16)
        return v.f;
    v.u = (uint32_t)(h & 0x7fff) << 13;
    v.f *= scale.f; /* exact, and right for subnormal numbers */
    if ((h & 0x7c00) == 0x7c00)
        v.u = 0x7f800000 | (uint32_t)(h & 0x3ff) << 13;
    v.u |= (uint32_t)(h & 0x8000) << 16;
    return v.f;
}

static inline uint16_t fc1d_to_half(float f, int half)
{
    union { uint32_t u; float f; } v;
    v.f = f;
    const uint32_t sign = v.u >> 16 & 0x8000, u = v.u & 0x7fffffff;
    if (half == FC1D_BFLOAT16)
        return (uint16_t)(u > 0x7f800000 ? v.u >> 16 | 0x40 : (v.u + 0x7fff + (v.u >> 16 & 1)) >> 16);
    if (u > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | (u >> 13 & 0x3ff));
    if (u >= 0x47800000) /* 65536 */
        return (uint16_t)(sign | 0x7c00);
    if (u < 0x38800000) { /* 2^-14: below it the last bit of 0.5 + u is that of float16 */
        v.u = u;
        v.f += 0.5f;
        return (uint16_t)(sign | (v.u - 0x3f000000));
    }
    return (uint16_t)(sign | (u + 0xc8000fff + (u >> 13 & 1)) >> 13);
}

#ifdef FC1D_F16C
typedef short fc1d_halves __attribute__((vector_size(16)));
typedef float fc1d_floats __attribute__((vector_size(32)));
#endif
#else
static void NAME(widen)(T *dst, const uint16_t *src, ptrdiff_t n, int half)
{
    ptrdiff_t i = 0;
    if (half == FC1D_BFLOAT16) {
        for (; i < n; i++)
            dst[i] = fc1d_from_half(src[i], FC1D_BFLOAT16);
        return;
    }
#if defined(FC1D_F16C) && FLOAT32
    for (; i + 8 <= n; i += 8) {
        fc1d_halves h;
        memcpy(&h, src + i, sizeof(h));
        const fc1d_floats f = __builtin_ia32_vcvtph2ps256(h);
        memcpy(dst + i, &f, sizeof(f));
    }
#endif
    for (; i < n; i++)
        dst[i] = fc1d_from_half(src[i], FC1D_FLOAT16);
}

static void NAME(narrow)(uint16_t *dst, const T *src, ptrdiff_t n, int half)
{
    ptrdiff_t i = 0;
    if (half == FC1D_BFLOAT16) {
        for (; i < n; i++)
            dst[i] = fc1d_to_half((float)src[i], FC1D_BFLOAT16);
        return;
    }
#if defined(FC1D_F16C) && FLOAT32
    for (; i + 8 <= n; i += 8) {
        fc1d_floats f;
        memcpy(&f, src + i, sizeof(f));
        const fc1d_halves h = __builtin_ia32_vcvtps2ph256(f, 0); /* to nearest even */
        memcpy(dst + i, &h, sizeof(h));
    }
#endif
    for (; i < n; i++)
        dst[i] = fc1d_to_half((float)src[i], FC1D_FLOAT16);
}
#endif
