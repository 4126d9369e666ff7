/* The activations h = f(z) and their backward passes dL/dz = dL/dh f'(z). Python's twins: FUNCTIONS in
 * engines/derivation/layers.py.
 */
#include "kernels.h"

#define SQRT_2_OVER_PI 0.79788456080286535588
#define SQRT_HALF 0.70710678118654752440
#define INVERSE_SQRT_2PI 0.39894228040143267794
#define GELU_CUBIC 0.044715

/* Phi(z) = (1 + erf(z / sqrt 2)) / 2, the distribution function of the standard normal. */
ALWAYS_INLINE vec normal_cdf(vec z) { return (REAL)0.5 * ((REAL)1 + verf(z * (REAL)SQRT_HALF)); }

/* The tanh that stands in for 2 Phi(z) - 1 in GELU(approximate="tanh"). */
ALWAYS_INLINE vec gelu_tanh(vec z) { return vtanh((REAL)SQRT_2_OVER_PI * (z + (REAL)GELU_CUBIC * z * z * z)); }

#define EACH(expression)                         \
    for (int64_t i = 0; i < count; i += LANES) { \
        const vec z = load(z_array + i);         \
        store(h_array + i, expression);          \
    }                                            \
    break;

/* h = f(z) for `count` numbers, a multiple of LANES. */
void INTERNAL(activate)(const Tower *tower, const REAL *z_array, REAL *h_array, int64_t count) {
    const REAL option = (REAL)tower->option;
    switch (tower->activation) {
        case TANH: EACH(vtanh(z))
        case RELU: EACH(pick((mask)(z <= (REAL)0), splat(0), z))
        case ELU: EACH(pick((mask)(z > (REAL)0), z, option * vexpm1(smaller(z, splat(0)))))
        case LEAKY_RELU: EACH(pick((mask)(z > (REAL)0), z, option * z))
        case GELU: EACH(z * normal_cdf(z))
        case GELU_TANH: EACH((REAL)0.5 * z * ((REAL)1 + gelu_tanh(z)))
        case SILU: EACH(z * vsigmoid(z))
    }
}

#undef EACH
#define EACH(derivative)                                        \
    for (int64_t i = 0; i < count; i += LANES) {                \
        const vec z = load(z_array + i), h = load(h_array + i); \
        (void)z, (void)h;                                       \
        store(slope + i, load(slope + i) * (derivative));       \
    }                                                           \
    break;

/* d/dz of z (1 + t) / 2 by the product rule; the derivative of tanh is 1 - tanh^2. */
ALWAYS_INLINE vec gelu_tanh_derivative(vec z) {
    const vec t = gelu_tanh(z);
    const vec inner = (REAL)SQRT_2_OVER_PI * ((REAL)1 + (REAL)(3 * GELU_CUBIC) * z * z);
    return (REAL)0.5 * ((REAL)1 + t) + (REAL)0.5 * z * ((REAL)1 - t * t) * inner;
}

/* slope = slope f'(z) for `count` numbers. */
void INTERNAL(activate_backward)(const Tower *tower, const REAL *z_array, const REAL *h_array, REAL *slope, int64_t count) {
    const REAL option = (REAL)tower->option;
    switch (tower->activation) {
        case TANH: EACH((REAL)1 - h * h)
        case RELU: EACH(pick((mask)(h > (REAL)0), splat(1), splat(0)))
        case ELU: EACH(pick((mask)(z > (REAL)0), splat(1), option * vexp(smaller(z, splat(0)))))
        case LEAKY_RELU: EACH(pick((mask)(z > (REAL)0), splat(1), splat(option)))
        case GELU: EACH(normal_cdf(z) + z * (REAL)INVERSE_SQRT_2PI * vexp((REAL)-0.5 * z * z))
        case GELU_TANH: EACH(gelu_tanh_derivative(z))
        case SILU: EACH(vsigmoid(z) * ((REAL)1 + z * vsigmoid(-z)))
    }
}
