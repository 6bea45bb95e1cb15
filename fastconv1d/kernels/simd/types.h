/* The vector of T, included by the templates; V, LOAD and STORE. */
#if LANES > 1
typedef T NAME(vec) __attribute__((vector_size(BYTES)));
typedef T NAME(uvec) __attribute__((vector_size(BYTES), aligned(sizeof(T)), may_alias));
typedef TINT NAME(mask) __attribute__((vector_size(BYTES)));
#else
typedef T NAME(vec);
typedef T NAME(uvec);
#endif
#define V NAME(vec)
#define LOAD(p) ((V) * (const NAME(uvec) *)(p))
#define STORE(p, v) (*(NAME(uvec) *)(p) = (v))

/* A statement for each accumulator of a register tile. */
#define EACH(MR, NV, ...)                                                                                              \
    _Pragma("GCC unroll 16") for (int i = 0; i < MR; i++)                                                              \
        _Pragma("GCC unroll 16") for (int j = 0; j < NV; j++) __VA_ARGS__;
