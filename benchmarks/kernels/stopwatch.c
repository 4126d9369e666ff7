/* Stopwatches around the parts of the kernels, for minibatch.py. The linker's --wrap sends each call of a part here first, so
 * that the kernels themselves are the ones that train.
 */
#include <time.h>

#include "kernels.h"

enum {
    GATHER,
    FORWARD,
    WEIGHTS,
    INPUTS,
    TRANSPOSE,
    ACTIVATE,
    ACTIVATE_BACKWARD,
    EVALUATE,
    EVALUATE_BACKWARD,
    LOSSES,
    APPLY,
    REST,
    PARTS
};

static double ticks[PARTS], multiply_adds[PARTS];
static double inside; /* ticks of the parts within the part that runs */

/* The processor's counter where it has one that is cheap to read, else nanoseconds. */
ALWAYS_INLINE double now(void) {
#if defined(__x86_64__)
    return (double)__builtin_ia32_rdtsc();
#else
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
#endif
}

/* Count what a call takes for its part, without the parts that it calls. */
#define TIMED(part, call)                         \
    const double outside = inside, start = now(); \
    inside = 0;                                   \
    call;                                         \
    const double taken = now() - start;           \
    ticks[part] += taken - inside;                \
    inside = outside + taken;

#define REAL_ONE(name) JOIN(__real_sb3edu_internal_##name, SUFFIX)
#define WRAPPED(part, name, types, names) \
    void REAL_ONE(name) types;            \
    void JOIN(__wrap_sb3edu_internal_##name, SUFFIX) types { TIMED(part, REAL_ONE(name) names) }

WRAPPED(GATHER, gather, (Model * m, const REAL *o, const int64_t *i, int64_t n), (m, o, i, n))
WRAPPED(TRANSPOSE, transpose, (int64_t r, int64_t c, const REAL *f, int64_t fr, REAL *t, int64_t tr), (r, c, f, fr, t, tr))
WRAPPED(ACTIVATE, activate, (const Tower *t, const REAL *z, REAL *h, int64_t n), (t, z, h, n))
WRAPPED(ACTIVATE_BACKWARD, activate_backward, (const Tower *t, const REAL *z, const REAL *h, REAL *s, int64_t n),
        (t, z, h, s, n))
WRAPPED(EVALUATE, evaluate, (Model * m, int64_t n, REAL *e), (m, n, e))
WRAPPED(EVALUATE_BACKWARD, distribution_backward, (Model * m, int64_t n, int e), (m, n, e))
WRAPPED(LOSSES, losses, (Model * m, int64_t n, const Settings *s, Statistics *f, REAL *r), (m, n, s, f, r))

/* A product is known by what it is given: only the forward pass has a bias, only the input gradient reads W by columns. */
void REAL_ONE(product)(int64_t, int64_t, int64_t, const REAL *, int64_t, int64_t, const REAL *, int64_t, REAL *, int64_t,
                       const REAL *);
void JOIN(__wrap_sb3edu_internal_product, SUFFIX)(int64_t rows, int64_t columns, int64_t inner, const REAL *a, int64_t a_row,
                                                  int64_t a_step, const REAL *b, int64_t b_row, REAL *c, int64_t c_row,
                                                  const REAL *bias) {
    const int part = bias ? FORWARD : a_step == 1 ? WEIGHTS : INPUTS;
    TIMED(part, REAL_ONE(product)(rows, columns, inner, a, a_row, a_step, b, b_row, c, c_row, bias))
    multiply_adds[part] += (double)(rows * columns * inner);
}

/* The verbs themselves, under names of their own. */
void EXPORTED(gradients)(Model *, const Rollout *, const int64_t *, int64_t, const Settings *, Statistics *, REAL *);
EXPORT void EXPORTED(timed_gradients)(Model *model, const Rollout *rollout, const int64_t *index, int64_t n,
                                      const Settings *settings, Statistics *statistics, REAL *ratios) {
    TIMED(REST, EXPORTED(gradients)(model, rollout, index, n, settings, statistics, ratios))
}

double EXPORTED(apply)(const Optimizer *, double);
EXPORT double EXPORTED(timed_apply)(const Optimizer *optimizer, double max_grad_norm) {
    TIMED(APPLY, const double norm = EXPORTED(apply)(optimizer, max_grad_norm))
    return norm;
}

/* Hand over ticks and multiply-adds of each part since the last call, and the ticks that a stopwatch itself takes. */
EXPORT void EXPORTED(read)(double *found, double *counted) {
    memcpy(found, ticks, sizeof ticks);
    memcpy(counted, multiply_adds, sizeof multiply_adds);
    memset(ticks, 0, sizeof ticks);
    memset(multiply_adds, 0, sizeof multiply_adds);
}

EXPORT double EXPORTED(now)(void) { return now(); }

/* As many multiply-adds as the core can: 16 chains in registers, nothing loaded or stored. Gives their number. */
EXPORT double EXPORTED(peak)(int64_t times, REAL *result) {
    vec sums[16];
    const vec factor = splat(result[0]), term = splat(result[1]);
    UNROLL for (int i = 0; i < 16; i++) sums[i] = splat((REAL)i);
    for (int64_t t = 0; t < times; t++) {
        UNROLL for (int i = 0; i < 16; i++) sums[i] = vfused(sums[i], factor, term);
    }
    UNROLL for (int i = 1; i < 16; i++) sums[0] += sums[i];
    store_unaligned(result, sums[0]);
    return (double)(16 * LANES * times);
}
