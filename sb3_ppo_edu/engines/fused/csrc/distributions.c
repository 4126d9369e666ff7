/* The action distributions: samples, log-probabilities, entropies and their gradients with respect to the actor's outputs.
 * Python's twins: the classes in engines/derivation/distributions.py, which have the equations.
 *
 * Noise comes from torch's generator, drawn in Python in the order in which SB3's distributions draw it; gSDE's is a matrix
 * for each transition.
 */
#include "kernels.h"

#define LOG_SQRT_2PI 0.91893853320467274178
#define LOG_2 0.69314718055994530942

/* log(1 - tanh^2 u) = 2 (log 2 - u - softplus(-2u)); twin: log_tanh_derivative. */
ALWAYS_INLINE vec log_tanh_derivative(vec u) { return (REAL)2 * ((REAL)LOG_2 - u - vsoftplus((REAL)-2 * u)); }

/* -- Categorical and MultiCategorical: log pi(a) = z_a - log sum_k exp(z_k), one after the other ------------------------ */

/* log_p and p of all classes, and the sum of the chosen ones' log_p; H = -sum_k p_k log p_k. */
static void evaluate_categorical(Model *model, int64_t row, REAL *entropy) {
    const REAL *z = last_layer(&model->actor)->h;
    for (int64_t i = 0; i < row; i += LANES) {
        vec log_prob = {0}, all_entropies = {0};
        int64_t first = 0;
        for (int64_t c = 0; c < model->choices; c++) {
            const int64_t classes = model->sizes[c];
            const REAL *logits = z + first * row + i;
            REAL *p = model->p + first * row + i, *log_p = model->log_p + first * row + i;
            const vec chosen = load(model->actions + c * row + i);
            vec top = load(logits), total = {0};
            for (int64_t k = 1; k < classes; k++) top = larger(top, load(logits + k * row));
            for (int64_t k = 0; k < classes; k++) {
                const vec shifted = load(logits + k * row) - top, e = vexp(shifted);
                store(log_p + k * row, shifted);
                store(p + k * row, e);
                total += e;
            }
            const vec log_total = vlog(total), inverse = (REAL)1 / total;
            for (int64_t k = 0; k < classes; k++) {
                const vec log_p_k = load(log_p + k * row) - log_total, p_k = load(p + k * row) * inverse;
                store(log_p + k * row, log_p_k);
                store(p + k * row, p_k);
                log_prob += pick((mask)(chosen == (REAL)k), log_p_k, splat(0));
                all_entropies -= p_k * log_p_k;
            }
            first += classes;
        }
        store(model->log_prob + i, log_prob);
        if (entropy) store(entropy + i, all_entropies);
    }
}

/* d log pi/dz_k = [k = a] - p_k, and dH/dz_k = -p_k (log p_k + H). */
static void categorical_backward(Model *model, int64_t row, int has_entropy) {
    for (int64_t i = 0; i < row; i += LANES) {
        const vec slope = load(model->log_prob_slope + i);
        int64_t first = 0;
        for (int64_t c = 0; c < model->choices; c++) {
            const int64_t classes = model->sizes[c];
            const REAL *p = model->p + first * row + i, *log_p = model->log_p + first * row + i;
            const vec chosen = load(model->actions + c * row + i);
            vec entropy = {0}, entropy_slope = {0};
            if (has_entropy) {
                entropy_slope = load(model->entropy_slope + i);
                for (int64_t k = 0; k < classes; k++) entropy -= load(p + k * row) * load(log_p + k * row);
            }
            for (int64_t k = 0; k < classes; k++) {
                const vec p_k = load(p + k * row);
                vec found = slope * (pick((mask)(chosen == (REAL)k), splat(1), splat(0)) - p_k);
                if (has_entropy) found -= entropy_slope * p_k * (load(log_p + k * row) + entropy);
                store(model->slope + (first + k) * row + i, found);
            }
            first += classes;
        }
    }
}

/* torch.multinomial's race: of times q/p with q ~ Exp(1) the one of class k is the shortest with probability p_k. */
static void sample_categorical(Model *model, int64_t transitions, const REAL *noise, int64_t *actions) {
    const int64_t row = row_of(transitions);
    evaluate_categorical(model, row, 0);
    const REAL *p = model->p;
    for (int64_t c = 0; c < model->choices; c++) {
        for (int64_t i = 0; i < transitions; i++) {
            int64_t winner = 0;
            REAL best = -1;
            for (int64_t k = 0; k < model->sizes[c]; k++) {
                const REAL speed = p[k * row + i] / noise[i * model->sizes[c] + k];
                if (speed > best) best = speed, winner = k;
            }
            actions[i * model->choices + c] = winner;
            model->actions[c * row + i] = (REAL)winner;
        }
        p += model->sizes[c] * row;
        noise += model->sizes[c] * transitions;
    }
}

/* A logit so low that its class has probability 0, as sb3-contrib's. */
#define FORBIDDEN ((REAL)(-1e8))

/* Put it in the place of the logits of illegal classes, whose slopes are then 0, being p_k. Rows of masks, of all transitions
 * in order where there is no index. */
void INTERNAL(forbid)(Model *model, const REAL *masks, const int64_t *index, int64_t transitions) {
    const Layer *last = last_layer(&model->actor);
    const int64_t row = row_of(transitions);
    for (int64_t i = 0; i < transitions; i++) {
        const REAL *mask = masks + (index ? index[i] : i) * last->outputs;
        for (int64_t k = 0; k < last->outputs; k++)
            if (mask[k] == 0) last->h[k * row + i] = FORBIDDEN;
    }
}

/* -- Bernoulli: log pi(a) = sum a z - softplus(z), p = sigmoid(z) ------------------------------------------------------- */

static void evaluate_bernoulli(Model *model, int64_t row, REAL *entropy) {
    const REAL *outputs = last_layer(&model->actor)->h;
    for (int64_t i = 0; i < row; i += LANES) {
        vec log_prob = {0}, all_entropies = {0};
        for (int64_t d = 0; d < model->action_size; d++) {
            const vec z = load(outputs + d * row + i), log_normaliser = vsoftplus(z), p = vsigmoid(z);
            store(model->p + d * row + i, p);
            log_prob += load(model->actions + d * row + i) * z - log_normaliser;
            all_entropies += log_normaliser - z * p;
        }
        store(model->log_prob + i, log_prob);
        if (entropy) store(entropy + i, all_entropies);
    }
}

/* d log pi/dz = a - p, and dH/dz = -z p (1 - p). */
static void bernoulli_backward(Model *model, int64_t row, int has_entropy) {
    const REAL *outputs = last_layer(&model->actor)->h;
    for (int64_t d = 0; d < model->action_size; d++)
        for (int64_t i = 0; i < row; i += LANES) {
            const int64_t at = d * row + i;
            const vec p = load(model->p + at);
            vec found = load(model->log_prob_slope + i) * (load(model->actions + at) - p);
            if (has_entropy) found -= load(model->entropy_slope + i) * load(outputs + at) * p * ((REAL)1 - p);
            store(model->slope + at, found);
        }
}

static void sample_bernoulli(Model *model, int64_t transitions, const REAL *noise, REAL *actions) {
    const int64_t row = row_of(transitions);
    const REAL *outputs = last_layer(&model->actor)->h;
    for (int64_t d = 0; d < model->action_size; d++)
        for (int64_t i = 0; i < row; i += LANES) store(model->p + d * row + i, vsigmoid(load(outputs + d * row + i)));
    for (int64_t i = 0; i < transitions; i++)
        for (int64_t d = 0; d < model->action_size; d++) {
            const REAL action = noise[i * model->action_size + d] < model->p[d * row + i];
            actions[i * model->action_size + d] = model->actions[d * row + i] = action;
        }
}

/* -- Gaussian: y = (a - mu)/sigma, log pi(a) = -sum y^2/2 + s + log(2 pi)/2 with s = log sigma --------------------------- */

/* With tanh-squashed actions -sum log(1 - tanh^2 a) is added, and to the entropy sum_k w_k log(1 - tanh^2(mu + sigma x_k)). */
static void evaluate_gaussian(Model *model, int64_t row, REAL *entropy) {
    const REAL *mean = last_layer(&model->actor)->h;
    const int squashed = model->distribution == TANH_GAUSSIAN;
    for (int64_t i = 0; i < row; i += LANES) {
        vec log_prob = {0}, all_entropies = {0};
        for (int64_t d = 0; d < model->action_size; d++) {
            const vec s = splat(model->log_std[d]), mu = load(mean + d * row + i), action = load(model->actions + d * row + i);
            const vec y = (action - mu) * vexp(-s);
            log_prob -= (REAL)0.5 * y * y + s + (REAL)LOG_SQRT_2PI;
            store(model->p + d * row + i, y);
            if (squashed) log_prob -= log_tanh_derivative(action);
            if (!entropy) continue;
            all_entropies += s + (REAL)(0.5 + LOG_SQRT_2PI);
            if (squashed) {
                const vec sigma = vexp(s);
                for (int64_t k = 0; k < model->nodes; k++)
                    all_entropies += model->node_weight[k] * log_tanh_derivative(mu + sigma * model->node[k]);
            }
        }
        store(model->log_prob + i, log_prob);
        if (entropy) store(entropy + i, all_entropies);
    }
}

/* d log pi/d mu = y/sigma, d log pi/ds = y^2 - 1, dH/ds = 1; squashed, -2 tanh(u_k) comes in at every node u_k. */
static void gaussian_backward(Model *model, int64_t row, int has_entropy) {
    const REAL *mean = last_layer(&model->actor)->h;
    const int squashed = model->distribution == TANH_GAUSSIAN;
    for (int64_t d = 0; d < model->action_size; d++) {
        const vec s = splat(model->log_std[d]), inverse = vexp(-s), sigma = vexp(s);
        vec log_std_slope = {0};
        for (int64_t i = 0; i < row; i += LANES) {
            const vec y = load(model->p + d * row + i), slope = load(model->log_prob_slope + i);
            vec found = slope * y * inverse;
            log_std_slope += slope * (y * y - (REAL)1);
            if (has_entropy) {
                const vec entropy_slope = load(model->entropy_slope + i);
                log_std_slope += entropy_slope;
                if (squashed) {
                    const vec mu = load(mean + d * row + i);
                    vec to_mean = {0}, to_sigma = {0};
                    for (int64_t k = 0; k < model->nodes; k++) {
                        const vec t = model->node_weight[k] * vtanh(mu + sigma * model->node[k]);
                        to_mean += t;
                        to_sigma += t * model->node[k];
                    }
                    found -= (REAL)2 * entropy_slope * to_mean;
                    log_std_slope -= (REAL)2 * entropy_slope * to_sigma * sigma;
                }
            }
            store(model->slope + d * row + i, found);
        }
        model->log_std_gradient[d] = sum_lanes(log_std_slope);
    }
}

/* a = mu + sigma e with e ~ N(0, 1). */
static void sample_gaussian(Model *model, int64_t transitions, const REAL *noise, REAL *actions) {
    const int64_t row = row_of(transitions), size = model->action_size;
    const REAL *mean = last_layer(&model->actor)->h;
    for (int64_t d = 0; d < size; d++) {
        const REAL sigma = vexp(splat(model->log_std[d]))[0];
        for (int64_t i = 0; i < transitions; i++)
            actions[i * size + d] = model->actions[d * row + i] = mean[d * row + i] + sigma * noise[i * size + d];
    }
}

/* -- whichever it is ---------------------------------------------------------------------------------------------------- */

/* log_prob of the model's actions, and their entropies. */
void INTERNAL(evaluate)(Model *model, int64_t transitions, REAL *entropy) {
    const int64_t row = row_of(transitions);
    switch (model->distribution) {
        case CATEGORICAL: evaluate_categorical(model, row, entropy); break;
        case BERNOULLI: evaluate_bernoulli(model, row, entropy); break;
        case BETA: INTERNAL(evaluate_beta)(model, transitions, entropy); break;
        case GSDE: INTERNAL(evaluate_gsde)(model, transitions, entropy); break;
        default: evaluate_gaussian(model, row, entropy);
    }
}

/* dL/d outputs in `slope`, from log_prob_slope and entropy_slope; the gradient of log_std where there is one. */
void INTERNAL(distribution_backward)(Model *model, int64_t transitions, int has_entropy) {
    const int64_t row = row_of(transitions);
    switch (model->distribution) {
        case CATEGORICAL: categorical_backward(model, row, has_entropy); break;
        case BERNOULLI: bernoulli_backward(model, row, has_entropy); break;
        case BETA: INTERNAL(beta_backward)(model, transitions, has_entropy); break;
        case GSDE: INTERNAL(gsde_backward)(model, transitions, has_entropy); break;
        default: gaussian_backward(model, row, has_entropy);
    }
}

/* Actions as the rollout buffer stores them, and in the model's `actions`; a Beta's are drawn in Python. */
void INTERNAL(sample)(Model *model, int64_t transitions, const REAL *noise, void *actions) {
    const int64_t row = row_of(transitions);
    memset(model->actions, 0, (size_t)(model->action_size * row) * sizeof(REAL));
    switch (model->distribution) {
        case CATEGORICAL: sample_categorical(model, transitions, noise, actions); break;
        case BERNOULLI: sample_bernoulli(model, transitions, noise, actions); break;
        case GSDE: INTERNAL(sample_gsde)(model, transitions, noise, actions); break;
        default: sample_gaussian(model, transitions, noise, actions);
    }
}
