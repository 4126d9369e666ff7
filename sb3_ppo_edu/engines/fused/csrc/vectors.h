/* Vectors of 64 bytes, and elementary functions on them.
 *
 * One source serves every instruction set: the compiler cuts a vector into as many registers as it takes. All operations are
 * elementwise, or sums of a fixed shape, so that processors with fused multiply-adds compute the same bits.
 *
 * In float32: exp and log after Cephes (https://www.netlib.org/cephes/), tanh and erf as rational functions. In float64, which
 * is for tests, each is the C library's. NaN stays NaN.
 */
#ifndef SB3EDU_VECTORS_H
#define SB3EDU_VECTORS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define IS_float 1
#define IS_double 2
#define JOINED(a, b) a##b
#define JOIN(a, b) JOINED(a, b)
#define DOUBLE (JOIN(IS_, REAL) == IS_double)

typedef REAL vec __attribute__((vector_size(64)));
typedef REAL unaligned_vec __attribute__((vector_size(64), aligned(sizeof(REAL)), may_alias));
#if DOUBLE
typedef int64_t integer;
#else
typedef int32_t integer;
#endif
typedef integer mask __attribute__((vector_size(64)));

#define LANES ((int64_t)(64 / sizeof(REAL)))
#define ALWAYS_INLINE static inline __attribute__((always_inline))

#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* The next multiple of LANES. */
ALWAYS_INLINE int64_t padded(int64_t count) { return (count + LANES - 1) / LANES * LANES; }

ALWAYS_INLINE vec load(const REAL *from) { return *(const vec *)from; }
ALWAYS_INLINE void store(REAL *to, vec v) { *(vec *)to = v; }
ALWAYS_INLINE vec load_unaligned(const REAL *from) { return *(const unaligned_vec *)from; }
ALWAYS_INLINE void store_unaligned(REAL *to, vec v) { *(unaligned_vec *)to = v; }

/* The first `count` < LANES numbers, and zeros. */
ALWAYS_INLINE vec load_part(const REAL *from, int64_t count) {
    vec v = {0};
    memcpy(&v, from, (size_t)count * sizeof(REAL));
    return v;
}

/* A whole vector, or a part of one. */
ALWAYS_INLINE vec load_some(const REAL *from, int64_t count) {
    return count < LANES ? load_part(from, count) : load_unaligned(from);
}

ALWAYS_INLINE void store_part(REAL *to, vec v, int64_t count) { memcpy(to, &v, (size_t)count * sizeof(REAL)); }
ALWAYS_INLINE void store_some(REAL *to, vec v, int64_t count) {
    if (count < LANES)
        store_part(to, v, count);
    else
        store_unaligned(to, v);
}

ALWAYS_INLINE vec splat(REAL x) { return x - (vec){0}; }
ALWAYS_INLINE vec pick(mask where, vec yes, vec no) { return (vec)((where & (mask)yes) | (~where & (mask)no)); }

/* Of a and b; a where either is NaN. */
ALWAYS_INLINE vec larger(vec a, vec b) { return pick((mask)(b > a), b, a); }
ALWAYS_INLINE vec smaller(vec a, vec b) { return pick((mask)(b < a), b, a); }

#if defined(__FMA__) || defined(__aarch64__)
#define HAS_FMA 1
#else
#define HAS_FMA 0
#endif

/* a * b + c, rounded once where the instruction set can. */
ALWAYS_INLINE REAL fused(REAL a, REAL b, REAL c) {
#if !HAS_FMA
    return a * b + c;
#elif DOUBLE
    return __builtin_fma(a, b, c);
#else
    return __builtin_fmaf(a, b, c);
#endif
}

ALWAYS_INLINE vec vfused(vec a, vec b, vec c) {
#if !HAS_FMA
    return a * b + c;
#elif defined(__clang__)
    return __builtin_elementwise_fma(a, b, c);
#else
    for (int i = 0; i < LANES; i++) a[i] = fused(a[i], b[i], c[i]);
    return a;
#endif
}

ALWAYS_INLINE vec vabs(vec v) { return (vec)((mask)v & ~(mask)splat((REAL)-0.0)); }

ALWAYS_INLINE vec vsqrt(vec v) {
#if defined(__clang__)
    return __builtin_elementwise_sqrt(v);
#else
    for (int i = 0; i < LANES; i++) v[i] = DOUBLE ? (REAL)__builtin_sqrt(v[i]) : (REAL)__builtin_sqrtf(v[i]);
    return v;
#endif
}

/* The sum of the lanes: halves are added until one is left. */
ALWAYS_INLINE REAL sum_lanes(vec v) {
#if DOUBLE
    v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 4, 5, 6, 7);
    v += __builtin_shufflevector(v, v, 2, 3, 2, 3, 2, 3, 2, 3);
    v += __builtin_shufflevector(v, v, 1, 1, 1, 1, 1, 1, 1, 1);
#else
    v += __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15);
    v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7);
    v += __builtin_shufflevector(v, v, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3);
    v += __builtin_shufflevector(v, v, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1);
#endif
    return v[0];
}

#if DOUBLE
#define BY_LANE(name, function)                                \
    static inline vec name(vec v) {                            \
        for (int i = 0; i < LANES; i++) v[i] = function(v[i]); \
        return v;                                              \
    }
BY_LANE(vexp, exp)
BY_LANE(vlog, log)
BY_LANE(vlog1p, log1p)
BY_LANE(vexpm1, expm1)
BY_LANE(vtanh, tanh)
BY_LANE(verf, erf)
#undef BY_LANE

#else

/* Polynomials by Horner's rule, coefficients of the highest power first. */
#define POLYNOMIAL(x, ...) polynomial(x, sizeof((REAL[]){__VA_ARGS__}) / sizeof(REAL), (REAL[]){__VA_ARGS__})
ALWAYS_INLINE vec polynomial(vec x, int count, const REAL *coefficients) {
    vec y = splat(coefficients[0]);
    for (int i = 1; i < count; i++) y = vfused(y, x, splat(coefficients[i]));
    return y;
}

/* exp(x) = 2^n exp(r) with |r| <= log(2)/2. */
static inline vec vexp(vec x) {
    x = pick((mask)(x > (REAL)89), splat(89), pick((mask)(x < (REAL)-104), splat(-104), x));
    const vec shift = splat(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer, which is then in the low bits */
    const vec shifted = vfused(x, splat(1.44269504088896341f), shift);
    const mask n = (mask)shifted - (mask)shift, half = n >> 1;
    const vec whole = shifted - shift;
    const vec r = vfused(whole, splat(2.12194440e-4f), vfused(whole, splat(-0.693359375f), x));
    const vec p = POLYNOMIAL(r, 1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f,
                             5.0000001201e-1f);
    const vec y = vfused(p, r * r, r) + 1.0f;
    return y * (vec)((half + 127) << 23) * (vec)((n - half + 127) << 23);
}

/* log(x) = e log(2) + log(m) with m between sqrt(1/2) and sqrt(2). */
static inline vec vlog(vec x) {
    const mask tiny = (mask)(x < 1.17549435e-38f);
    const mask bits = (mask)pick(tiny, x * 8388608.0f, x);
    vec m = (vec)((bits & 0x7fffff) | 0x3f000000);
    const mask low = (mask)(m < 0.707106781186547524f);
    const vec e = __builtin_convertvector(((bits >> 23) & 0xff) - 126 - (tiny & 23) + low, vec);
    m = pick(low, m + m, m) - 1.0f;
    const vec z = m * m;
    vec y = POLYNOMIAL(m, 7.0376836292e-2f, -1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f,
                       -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f);
    y = vfused(e, splat(-2.12194440e-4f), y * m * z);
    y = vfused(z, splat(-0.5f), y);
    y = vfused(e, splat(0.693359375f), m + y);
    y = pick((mask)(x == INFINITY), x, y);
    y = pick((mask)(x == 0.0f), splat(-INFINITY), y);
    return pick((mask)(x >= 0.0f), y, splat(NAN));
}

/* log(1 + x) for x > -1: the logarithm of the rounded 1 + x, and what the rounding took. */
static inline vec vlog1p(vec x) {
    const vec u = 1.0f + x;
    return vlog(u) + (x - (u - 1.0f)) / u;
}

/* tanh: a rational function of odd degree 13 over even degree 6, clamped where it comes close to 1. c times the
 * quotient, not c p by q: a product of small numbers would underflow. */
static inline vec vtanh(vec x) {
    const float limit = 7.90531110763549805f;
    const vec c = larger(smaller(x, splat(limit)), splat(-limit)), z = c * c;
    const vec p = POLYNOMIAL(z, -2.76076847742355e-16f, 2.00018790482477e-13f, -8.60467152213735e-11f, 5.12229709037114e-08f,
                             1.48572235717979e-05f, 6.37261928875436e-04f, 4.89352455891786e-03f);
    const vec q = POLYNOMIAL(z, 1.19825839466702e-06f, 1.18534705686654e-04f, 2.26843463243900e-03f, 4.89352518554385e-03f);
    const vec one = (vec)(((mask)x & (mask)splat(-0.0f)) | (mask)splat(1.0f));
    return pick((mask)(vabs(x) > 9.0f), one, c * (p / q));
}

/* exp(x) - 1 for x <= 0, from tanh(x/2): (1 + t)/(1 - t) = exp(x). */
static inline vec vexpm1(vec x) {
    const vec t = vtanh(x * 0.5f);
    return 2.0f * t / (1.0f - t);
}

/* erf: a rational function of odd degree 13 over even degree 8, on |x| <= 4. */
static inline vec verf(vec x) {
    const vec c = pick((mask)(x > 4.0f), splat(4.0f), pick((mask)(x < -4.0f), splat(-4.0f), x)), z = c * c;
    const vec p = POLYNOMIAL(z, -2.72614225801306e-10f, 2.77068142495902e-08f, -2.10102402082508e-06f, -5.69250639462346e-05f,
                             -7.34990630326855e-04f, -2.95459980854025e-03f, -1.60960333262415e-02f);
    const vec q = POLYNOMIAL(z, -1.45660718464996e-05f, -2.13374055278905e-04f, -1.68282697438203e-03f, -7.37332916720468e-03f,
                             -1.42647390514189e-02f);
    return c * p / q;
}
#endif

/* log(1 + exp(z)), without overflow. */
static inline vec vsoftplus(vec z) { return pick((mask)(z > (REAL)0), z, splat(0)) + vlog1p(vexp(-vabs(z))); }

/* 1 / (1 + exp(-z)). */
static inline vec vsigmoid(vec z) { return (REAL)1 / ((REAL)1 + vexp(-z)); }

#endif
