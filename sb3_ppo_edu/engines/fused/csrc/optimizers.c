/* Clipping by the global norm, and the optimizers' steps, in torch's order of operations.
 * Python's twins: torch.nn.utils.clip_grad_norm_, torch.optim.Adam, AdamW, SGD and RMSprop, and SB3's RMSpropTFLike.
 */
#include "kernels.h"

#define CLIP_EPS 1e-6 /* of clip_grad_norm_ */

/* What a step needs, as numbers of REAL; computed once a call. */
typedef struct {
    REAL scale; /* of the gradients, by the clipping */
    REAL decay, shrink, lr, eps, momentum, kept_first, new_first, kept_second, new_second, new_momentum;
    REAL step_size, inverse_root;
} Step;

/* One vector of a parameter, its gradient and its state. */
typedef struct {
    vec value, gradient, first, second, third;
} Lanes;

/* m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, value -= step_size m / (sqrt(v)/sqrt(1 - b2^t) + eps); algorithm 1 of
 * https://arxiv.org/abs/1412.6980, with decoupled weight decay that of https://arxiv.org/abs/1711.05101. */
ALWAYS_INLINE void adam(Lanes *x, vec g, const Optimizer *optimizer, const Step *step) {
    if (optimizer->weight_decay != 0) {
        if (optimizer->decoupled_weight_decay)
            x->value *= step->shrink;
        else
            g += step->decay * x->value;
    }
    x->first += (g - x->first) * step->new_first;
    x->second = x->second * step->kept_second + step->new_second * g * g;
    vec second = x->second;
    if (optimizer->amsgrad) second = x->third = larger(x->third, x->second);
    x->value -= step->step_size * x->first / (vsqrt(second) * step->inverse_root + step->eps);
}

/* buffer = momentum buffer + (1 - dampening) g, value -= lr (Nesterov's: g + momentum buffer); the first buffer is g. */
ALWAYS_INLINE void sgd(Lanes *x, vec g, const Optimizer *optimizer, const Step *step) {
    if (optimizer->weight_decay != 0) g += step->decay * x->value;
    if (optimizer->momentum != 0) {
        x->first = optimizer->first_step ? g : x->first * step->momentum + step->new_momentum * g;
        g = optimizer->nesterov ? g + step->momentum * x->first : x->first;
    }
    x->value -= step->lr * g;
}

/* v = a v + (1 - a) g^2, average = that of g where centred; value -= lr g / (sqrt(v - average^2) + eps), through a momentum
 * buffer where there is one. TensorFlow's has eps within the root. first: v, second: momentum buffer, third: average. */
ALWAYS_INLINE void rmsprop(Lanes *x, vec g, const Optimizer *optimizer, const Step *step) {
    if (optimizer->weight_decay != 0) g += step->decay * x->value;
    x->first = x->first * step->kept_first + step->new_first * g * g;
    vec mean_square = x->first;
    if (optimizer->centered) {
        x->third += (g - x->third) * step->new_first;
        mean_square -= x->third * x->third;
    }
    const vec root = optimizer->kind == RMSPROP_TF ? vsqrt(mean_square + step->eps) : vsqrt(mean_square) + step->eps;
    if (optimizer->momentum != 0) {
        x->second = x->second * step->momentum + g / root;
        x->value -= step->lr * x->second;
    } else
        x->value -= step->lr * g / root;
}

ALWAYS_INLINE void step_lanes(Lanes *x, const int kind, const Optimizer *optimizer, const Step *step) {
    x->gradient *= step->scale;
    const vec g = optimizer->maximize ? -x->gradient : x->gradient;
    if (kind == ADAM)
        adam(x, g, optimizer, step);
    else if (kind == SGD)
        sgd(x, g, optimizer, step);
    else
        rmsprop(x, g, optimizer, step);
}

/* Some numbers of a parameter, at most one vector. */
ALWAYS_INLINE void step_some(const Parameter *p, const int kind, const Optimizer *optimizer, const Step *step, int64_t i,
                             int64_t count) {
    Lanes x = {load_some(p->value + i, count), load_some(p->gradient + i, count), {0}, {0}, {0}};
    if (p->first) x.first = load_some(p->first + i, count);
    if (p->second) x.second = load_some(p->second + i, count);
    if (p->third) x.third = load_some(p->third + i, count);
    step_lanes(&x, kind, optimizer, step);
    store_some(p->value + i, x.value, count);
    store_some(p->gradient + i, x.gradient, count);
    if (p->first) store_some(p->first + i, x.first, count);
    if (p->second) store_some(p->second + i, x.second, count);
    if (p->third) store_some(p->third + i, x.third, count);
}

/* All of one parameter. */
ALWAYS_INLINE void step_parameter(const Parameter *p, const int kind, const Optimizer *optimizer, const Step *step) {
    int64_t i = 0;
    for (; i + LANES <= p->size; i += LANES) step_some(p, kind, optimizer, step, i, LANES);
    if (i < p->size) step_some(p, kind, optimizer, step, i, p->size - i);
}

/* The sum of the squares, in four chains of one vector each. */
static REAL sum_of_squares(const REAL *x, int64_t n) {
    vec a = {0}, b = {0}, c = {0}, d = {0};
    int64_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        const vec p = load_unaligned(x + i), q = load_unaligned(x + i + LANES);
        const vec r = load_unaligned(x + i + 2 * LANES), s = load_unaligned(x + i + 3 * LANES);
        a = vfused(p, p, a);
        b = vfused(q, q, b);
        c = vfused(r, r, c);
        d = vfused(s, s, d);
    }
    for (; i < n; i += LANES) {
        const vec p = load_some(x + i, n - i);
        a = vfused(p, p, a);
    }
    return sum_lanes((a + b) + (c + d));
}

/* Count a step where torch counts it, in a number of its own type; gives the count. RMSpropTFLike counts in Python. */
static double count_step(const Optimizer *optimizer, const Parameter *p) {
    if (!p->step) return 1;
    if (optimizer->double_step) return *(double *)p->step += 1;
    return (double)(*(float *)p->step += 1);
}

/* Clip the gradients and take a step; gives the norm before. Where that is not finite, nothing moves. */
EXPORT double EXPORTED(apply)(const Optimizer *o, double max_grad_norm) {
    double squares = 0;
    for (int64_t i = 0; i < o->count; i++) squares += (double)sum_of_squares(o->parameters[i].gradient, o->parameters[i].size);
    const double norm = sqrt(squares), factor = max_grad_norm / (norm + CLIP_EPS);
    if (!isfinite(norm)) return norm;
    Step step = {
        .scale = (REAL)(factor < 1 ? factor : 1),
        .decay = (REAL)o->weight_decay,
        .shrink = (REAL)(1 - o->lr * o->weight_decay),
        .lr = (REAL)o->lr,
        .eps = (REAL)o->eps,
        .momentum = (REAL)o->momentum,
        .new_momentum = (REAL)(1 - o->dampening),
        .kept_first = (REAL)o->alpha,
        .new_first = (REAL)(1 - (o->kind == ADAM ? o->beta1 : o->alpha)),
        .kept_second = (REAL)o->beta2,
        .new_second = (REAL)(1 - o->beta2),
    };
    double counted = 0;
    for (int64_t i = 0; i < o->count; i++) {
        const Parameter *p = &o->parameters[i];
        const double steps = count_step(o, p);
        if (o->kind == ADAM && steps != counted) {
            step.step_size = (REAL)(o->lr / (1 - pow(o->beta1, steps)));
            step.inverse_root = (REAL)(1 / sqrt(1 - pow(o->beta2, steps)));
            counted = steps;
        }
        if (o->kind == ADAM)
            step_parameter(p, ADAM, o, &step);
        else if (o->kind == SGD)
            step_parameter(p, SGD, o, &step);
        else
            step_parameter(p, RMSPROP, o, &step);
    }
    return norm;
}
