ctypedef fused num_t:
    float
    double
    float complex
    double complex
