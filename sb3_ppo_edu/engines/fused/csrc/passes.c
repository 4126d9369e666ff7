/* What Python calls: act, value, gradients and apply (optimizers.c) are one call each. Python's twin: NumpyEngine in
 * engines/derivation/engine.py.
 */
#include "kernels.h"

#define FEW 4 /* transitions up to which each is computed by itself */

/* Size of the scratch memory that so many transitions take, in numbers. */
EXPORT int64_t EXPORTED(scratch)(Model *model, int64_t transitions) { return INTERNAL(lay_out)(model, transitions); }

/* Run one tower or both and what is below them, from the observations in x. */
static void forward(Model *model, const int64_t *index, int64_t n, int actor) {
    Tower *towers[] = {&model->actor, &model->critic};
    INTERNAL(forward)(&model->shared, n);
    for (int t = 0; t < 2; t++)
        if (towers[t]->recurrent && !towers[t]->borrows && (t == 1 || actor || model->critic.borrows))
            INTERNAL(recurrent)(model, towers[t], index, n);
    for (int t = !actor; t < 2; t++) INTERNAL(forward)(towers[t], n);
}

/* The same from observations side by side. */
static void run(Model *model, const REAL *observations, int64_t n, int actor) {
    INTERNAL(lay_out)(model, n);
    /* Rows leave no hidden layer of each transition, and have no memory of it. */
    const int wants_hidden = (actor && model->distribution == GSDE) || model->actor.recurrent;
    if (n <= FEW && !wants_hidden) {
        INTERNAL(forward_rows)(model, observations, n, actor);
    } else {
        INTERNAL(gather)(model, &(Rollout){.observations = observations}, 0, n);
        forward(model, 0, n, actor);
    }
}

/* Whether none of n numbers is NaN or infinite: x - x is 0 for all others. */
static int64_t all_finite(const REAL *x, int64_t n) {
    int64_t bad = 0;
    for (int64_t i = 0; i < n; i++) bad += x[i] - x[i] != 0;
    return !bad;
}

/* Sample actions; `actions` are integers for a categorical. Tells whether everything is finite. */
EXPORT int64_t EXPORTED(act)(Model *model, const REAL *observations, int64_t n, const REAL *noise, void *actions, REAL *values,
                             REAL *log_probs) {
    run(model, observations, n, 1);
    if (model->masks) INTERNAL(forbid)(model, model->masks, 0, n);
    INTERNAL(sample)(model, n, noise, actions);
    INTERNAL(evaluate)(model, n, 0);
    memcpy(values, last_layer(&model->critic)->h, (size_t)n * sizeof(REAL));
    memcpy(log_probs, model->log_prob, (size_t)n * sizeof(REAL));
    const int numbers = model->distribution != CATEGORICAL;
    return all_finite(values, n) && all_finite(log_probs, n) && (!numbers || all_finite(actions, n * model->action_size));
}

EXPORT void EXPORTED(value)(Model *model, const REAL *observations, int64_t n, REAL *values) {
    run(model, observations, n, 0);
    memcpy(values, last_layer(&model->critic)->h, (size_t)n * sizeof(REAL));
}

/* The actor's outputs (n x outputs) and the values, for a distribution that is sampled in Python. */
EXPORT void EXPORTED(outputs)(Model *model, const REAL *observations, int64_t n, REAL *outputs, REAL *values) {
    run(model, observations, n, 1);
    const Layer *last = last_layer(&model->actor);
    for (int64_t k = 0; k < last->outputs; k++)
        for (int64_t i = 0; i < n; i++) outputs[i * last->outputs + k] = last->h[k * row_of(n) + i];
    memcpy(values, last_layer(&model->critic)->h, (size_t)n * sizeof(REAL));
}

/* Copy actions (n x action_size) to where the distributions read them. */
static void take_actions(Model *model, const REAL *actions, const int64_t *index, int64_t n) {
    const int64_t row = row_of(n), size = model->action_size;
    for (int64_t d = 0; d < size; d++) {
        REAL *to = model->actions + d * row;
        for (int64_t i = 0; i < n; i++) to[i] = actions[(index ? index[i] : i) * size + d];
        for (int64_t i = n; i < row; i++) to[i] = 0;
    }
}

/* Log-probabilities of actions at the outputs of the last call of `outputs`. */
EXPORT void EXPORTED(log_prob)(Model *model, const REAL *actions, int64_t n, REAL *log_probs) {
    take_actions(model, actions, 0, n);
    INTERNAL(evaluate)(model, n, 0);
    memcpy(log_probs, model->log_prob, (size_t)n * sizeof(REAL));
}

/* Take the minibatch's rows out of the rollout and evaluate the policy there. */
static void evaluate_minibatch(Model *model, const Rollout *rollout, const int64_t *index, int64_t n) {
    const int64_t row = row_of(n);
    const REAL *from[] = {rollout->old_values, rollout->old_log_prob, rollout->advantages, rollout->returns};
    INTERNAL(lay_out)(model, n);
    REAL *to[] = {model->old_values, model->old_log_prob, model->advantages, model->returns};
    for (int c = 0; c < 4; c++) {
        for (int64_t i = 0; i < n; i++) to[c][i] = from[c][index[i]];
        for (int64_t i = n; i < row; i++) to[c][i] = 0;
    }
    for (int64_t i = 0; i < row; i++) model->valid[i] = i < n;
    take_actions(model, rollout->actions, index, n);
    INTERNAL(gather)(model, rollout, index, n);
    forward(model, index, n, 1);
    if (rollout->masks) INTERNAL(forbid)(model, rollout->masks, index, n);
    INTERNAL(evaluate)(model, n, model->entropy);
}

/* From the slopes with respect to log-probability, value and entropy to all gradients. */
static void backward(Model *model, int64_t n, int has_entropy) {
    const int64_t row = row_of(n), shared = model->shared.depth ? last_layer(&model->shared)->outputs * row : 0;
    INTERNAL(distribution_backward)(model, n, has_entropy);
    const REAL *below = INTERNAL(backward)(model, &model->actor, n);
    memcpy(model->shared_slope, below, (size_t)shared * sizeof(REAL));
    memcpy(model->slope, model->value_slope, (size_t)row * sizeof(REAL));
    below = INTERNAL(backward)(model, &model->critic, n);
    for (int64_t i = 0; i < shared; i += LANES) store(model->slope + i, load(model->shared_slope + i) + load(below + i));
    if (shared) INTERNAL(backward)(model, &model->shared, n);
}

/* PPO's loss and its gradients. Where the loss is not finite, or the KL estimate beyond its limit (in float32, as Python
 * compares them), gradients stay what they were. */
EXPORT void EXPORTED(gradients)(Model *model, const Rollout *rollout, const int64_t *index, int64_t n,
                                const Settings *settings, Statistics *statistics, REAL *ratios) {
    evaluate_minibatch(model, rollout, index, n);
    INTERNAL(losses)(model, n, settings, statistics, ratios);
    const int stops = (float)statistics->approx_kl > (float)settings->kl_limit;
    if (isfinite(statistics->loss) && !stops) backward(model, n, settings->ent_coef != 0);
}

/* For an objective of the user's: log-probabilities, values and entropies, one after the other in `found` (3 x n). */
EXPORT void EXPORTED(evaluate)(Model *model, const Rollout *rollout, const int64_t *index, int64_t n, REAL *found) {
    evaluate_minibatch(model, rollout, index, n);
    const REAL *from[] = {model->log_prob, last_layer(&model->critic)->h, model->entropy};
    for (int c = 0; c < 3; c++) memcpy(found + c * n, from[c], (size_t)n * sizeof(REAL));
}

/* The rest, after `evaluate`: `slopes` (3 x n) are the loss's derivatives with respect to what it gave. */
EXPORT void EXPORTED(backward)(Model *model, int64_t n, const REAL *slopes, int64_t has_entropy) {
    REAL *to[] = {model->log_prob_slope, model->value_slope, model->entropy_slope};
    for (int c = 0; c < 3; c++) {
        memcpy(to[c], slopes + c * n, (size_t)n * sizeof(REAL));
        for (int64_t i = n; i < row_of(n); i++) to[c][i] = 0;
    }
    backward(model, n, (int)has_entropy);
}
