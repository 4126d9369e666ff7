/* Generalized state-dependent exploration, gSDE: a = mu + h M, where h is the input of the action net and M a matrix with
 * M_kd ~ N(0, std_kd^2) that stays for some steps. So a is normal, with v_d = sum_k h_k^2 std_kd^2; squashed, it is tanh of
 * that. https://arxiv.org/abs/2005.05719. Python's twin: StateDependentNoise in engines/derivation/distributions.py.
 */
#include "kernels.h"

#define LOG_SQRT_2PI 0.91893853320467274178
#define MACHINE_EPSILON ((REAL)(DOUBLE ? 0x1p-52 : 0x1p-23))

/* h, (latent x transitions): the last hidden layer, or what the actor takes where there is none. */
static const REAL *latent_of(const Model *model) {
    return model->actor.depth > 1 ? model->actor.layers[model->actor.depth - 2].h : model->actor.x;
}

/* std^2 and its derivative with respect to s = log_std: std = exp(s), or with expln log(1 + s) + 1 where s > 0. */
static void square_std(Model *model) {
    const int64_t count = last_layer(&model->actor)->inputs * (model->full_std ? model->action_size : 1);
    for (int64_t i = 0; i < count; i += LANES) {
        const vec s = load_some(model->log_std + i, count - i);
        vec std = vexp(s), slope = std;
        if (model->expln) {
            const mask above = (mask)(s > (REAL)0);
            const vec safe = pick(above, s, splat(0)) + (REAL)model->epsilon;
            std = pick(above, vlog1p(safe) + (REAL)1, std);
            slope = pick(above, (REAL)1 / ((REAL)1 + safe), std);
        }
        store(model->std_squared + i, std * std);
        store(model->std_squared_slope + i, (REAL)2 * std * slope);
    }
}

/* log pi(a) = -sum_d y^2/2 + log sigma + log(2 pi)/2 with sigma^2 = v + epsilon and y = (a - mu)/sigma. Squashed, atanh(a) is
 * in the place of a, -sum log(1 - a^2 + epsilon) is added, and -log pi stands for the entropy, which has no formula. */
void INTERNAL(evaluate_gsde)(Model *model, int64_t transitions, REAL *entropy) {
    const int64_t row = row_of(transitions), size = model->action_size, latent = last_layer(&model->actor)->inputs;
    const REAL *h = latent_of(model), *mean = last_layer(&model->actor)->h, limit = (REAL)1 - MACHINE_EPSILON;
    REAL *squares = model->slope_below, *variance = model->log_p;
    square_std(model);
    for (int64_t i = 0; i < latent * row; i += LANES) store(squares + i, load(h + i) * load(h + i));
    INTERNAL(product)(size, row, latent, model->std_squared, model->full_std, model->full_std ? size : 1, squares, row,
                      variance, row, 0);
    for (int64_t i = 0; i < row; i += LANES) {
        vec log_prob = {0}, all_entropies = {0};
        for (int64_t d = 0; d < size; d++) {
            const int64_t at = d * row + i;
            const vec sigma = vsqrt(load(variance + at) + (REAL)model->epsilon), log_sigma = vlog(sigma);
            vec action = load(model->actions + at);
            if (model->squashed) {
                action = smaller(larger(action, splat(-limit)), splat(limit));
                log_prob -= vlog((REAL)1 - action * action + (REAL)model->squash_epsilon);
                action = (REAL)0.5 * (vlog1p(action) - vlog1p(-action));
            }
            const vec y = (action - load(mean + at)) / sigma;
            log_prob -= (REAL)0.5 * y * y + log_sigma + (REAL)LOG_SQRT_2PI;
            all_entropies += log_sigma + (REAL)(0.5 + LOG_SQRT_2PI);
            store(model->p + at, y);
            store(model->log_p + at, (REAL)1 / sigma);
        }
        store(model->log_prob + i, log_prob);
        if (entropy) store(entropy + i, model->squashed ? -log_prob : all_entropies);
    }
}

/* d log pi/d mu = y/sigma, d log pi/dv = (y^2 - 1)/(2 sigma^2), dH/dv = 1/(2 sigma^2), and dv_d/ds_kd = h_k^2
 * d(std_kd^2)/ds_kd. There is no gradient with respect to h by way of v: SB3's policies do not learn the features of their
 * exploration. */
void INTERNAL(gsde_backward)(Model *model, int64_t transitions, int has_entropy) {
    const int64_t row = row_of(transitions), size = model->action_size, latent = last_layer(&model->actor)->inputs;
    const int64_t units = padded(latent), columns = model->full_std ? size : 1;
    REAL *variance_slope = model->p, *totals = model->std_squared_gradient;
    for (int64_t d = 0; d < size; d++)
        for (int64_t i = 0; i < row; i += LANES) {
            const int64_t at = d * row + i;
            const vec y = load(model->p + at), inverse = load(model->log_p + at);
            vec slope = load(model->log_prob_slope + i),
                entropy_slope = has_entropy ? load(model->entropy_slope + i) : splat(0);
            if (model->squashed) {
                slope -= entropy_slope;
                entropy_slope = splat(0);
            }
            store(model->slope + at, slope * y * inverse);
            store(variance_slope + at, (REAL)0.5 * inverse * inverse * (slope * (y * y - (REAL)1) + entropy_slope));
        }
    INTERNAL(transpose)(latent, transitions, model->slope_below, row, model->transposed, units);
    INTERNAL(product)(size, latent, transitions, variance_slope, row, 1, model->transposed, units, totals, latent, 0);
    for (int64_t k = 0; k < latent; k++)
        for (int64_t c = 0; c < columns; c++) {
            REAL total = 0;
            for (int64_t d = c; d < size; d += columns) total += totals[d * latent + k];
            model->log_std_gradient[k * columns + c] = total * model->std_squared_slope[k * columns + c];
        }
}

/* a = mu + h M, or tanh of it, with a matrix (latent x action_size) for each transition. */
void INTERNAL(sample_gsde)(Model *model, int64_t transitions, const REAL *matrices, REAL *actions) {
    const int64_t row = row_of(transitions), size = model->action_size, latent = last_layer(&model->actor)->inputs;
    const REAL *h = latent_of(model), *mean = last_layer(&model->actor)->h;
    for (int64_t d = 0; d < size; d++) {
        REAL *to = model->actions + d * row;
        for (int64_t i = 0; i < transitions; i++) {
            REAL noise = 0;
            for (int64_t k = 0; k < latent; k++) noise = fused(h[k * row + i], matrices[(i * latent + k) * size + d], noise);
            to[i] = mean[d * row + i] + noise;
        }
        /* The C library's, correct to the last bit: near 1 log pi hangs on it, since SB3 takes atanh of what is stored. */
        for (int64_t i = 0; i < row && model->squashed; i++) to[i] = (REAL)tanh((double)to[i]);
        for (int64_t i = 0; i < transitions; i++) actions[i * size + d] = to[i];
    }
}
