/* PPO's losses and their derivatives. Python's twins: PPOObjective.gradients in functional/objectives.py, and the functions of
 * functional/losses.py, which have the equations.
 */
#include "kernels.h"

#define ADVANTAGE_EPS 1e-8

/* Standardise, then clip: policy_advantages in functional/losses.py. The padding stays 0. */
static void prepare_advantages(Model *model, int64_t n, const Settings *settings) {
    const int64_t row = row_of(n);
    double mean = settings->mean, std = settings->std;
    if (settings->normalization == OWN_MOMENTS && n > 1) {
        const REAL own_mean = sum(model->advantages, row) / (REAL)n;
        vec squares = {0};
        for (int64_t i = 0; i < row; i += LANES) {
            const vec centred = (load(model->advantages + i) - own_mean) * load(model->valid + i);
            squares += centred * centred;
        }
        mean = own_mean;
        std = sqrt((double)sum_lanes(squares) / (double)(n - 1));
    }
    const int standardise = settings->normalization == GIVEN_MOMENTS || (settings->normalization == OWN_MOMENTS && n > 1);
    const REAL bound = (REAL)settings->clip_advantage, inverse = (REAL)(1 / (std + ADVANTAGE_EPS));
    for (int64_t i = 0; i < row; i += LANES) {
        vec a = load(model->advantages + i);
        if (standardise) a = (a - (REAL)mean) * inverse * load(model->valid + i);
        if (settings->clips_advantages) a = pick((mask)(a > bound), splat(bound), pick((mask)(a < -bound), splat(-bound), a));
        store(model->advantages + i, a);
    }
}

/* min(r A, clip(r) A), with the dual clip's floor for A < 0; d/d log pi = r A where the unclipped term counts, else 0. */
static double surrogate(Model *model, int64_t n, const Settings *settings, Statistics *statistics, REAL *ratios) {
    const int64_t row = row_of(n);
    const REAL low = (REAL)(1 - settings->clip_range), high = (REAL)(1 + settings->clip_range), count = (REAL)n;
    const REAL range = (REAL)settings->clip_range, floor_factor = (REAL)settings->dual_clip;
    vec objectives = {0}, kl = {0}, outside = {0}, largest = {0};
    for (int64_t i = 0; i < row; i += LANES) {
        const vec valid = load(model->valid + i), advantage = load(model->advantages + i);
        const vec log_ratio = load(model->log_prob + i) - load(model->old_log_prob + i), ratio = vexp(log_ratio);
        const vec unclipped = ratio * advantage;
        const vec clipped = smaller(larger(ratio, splat(low)), splat(high)) * advantage;
        mask counts = (mask)(unclipped <= clipped);
        vec objective = pick(counts, unclipped, clipped);
        if (settings->clips_twice) {
            const vec floor_value = floor_factor * advantage;
            const mask bounded = (mask)(advantage < (REAL)0) & (mask)(objective < floor_value);
            objective = pick(bounded, floor_value, objective);
            counts &= ~bounded;
        }
        const mask inside = (mask)(valid > (REAL)0);
        objectives += pick(inside, objective, splat(0));
        kl += pick(inside, settings->k1 ? -log_ratio : (ratio - (REAL)1) - log_ratio, splat(0));
        outside += pick(inside & (mask)(vabs(ratio - (REAL)1) > range), splat(1), splat(0));
        largest = larger(largest, pick(inside, ratio, splat(0)));
        store(model->log_prob_slope + i, pick(inside & counts, -unclipped / count, splat(0)));
        if (i < n) store_some(ratios + i, ratio, n - i);
    }
    statistics->approx_kl = (double)(sum_lanes(kl) / count);
    statistics->clip_fraction = (double)sum_lanes(outside) / (double)n;
    statistics->ratio_max = (double)largest[0];
    for (int i = 1; i < LANES; i++)
        if (largest[i] > statistics->ratio_max) statistics->ratio_max = (double)largest[i];
    return -(double)(sum_lanes(objectives) / count);
}

/* (V - R)^2, clipped around the old value or not; d/dV = 2 (V - R) where V itself counts, else 0. */
static double squared_error(Model *model, int64_t n, const Settings *settings) {
    const int64_t row = row_of(n);
    const REAL *values = last_layer(&model->critic)->h;
    const REAL range = (REAL)settings->clip_range_vf, factor = (REAL)(2 * settings->vf_coef), count = (REAL)n;
    vec squares = {0};
    for (int64_t i = 0; i < row; i += LANES) {
        const vec returns = load(model->returns + i), old = load(model->old_values + i), value = load(values + i);
        const mask inside = (mask)(load(model->valid + i) > (REAL)0);
        vec error = value - returns;
        mask counts = inside;
        if (settings->clips_values) {
            const vec change = value - old;
            const vec kept = smaller(larger(change, splat(-range)), splat(range));
            const vec clipped = old + kept - returns;
            counts = (mask)(vabs(change) <= range);
            if (settings->takes_larger_error) counts |= (mask)(vabs(error) > vabs(clipped));
            error = pick(counts, error, clipped);
            counts &= inside;
        }
        squares += pick(inside, error * error, splat(0));
        store(model->value_slope + i, pick(counts, factor * error / count, splat(0)));
    }
    return (double)(sum_lanes(squares) / count);
}

/* L = L_policy - c_e H + c_v L_value, what it says of the minibatch, and its derivatives in the model's slopes. */
void INTERNAL(losses)(Model *model, int64_t n, const Settings *settings, Statistics *statistics, REAL *ratios) {
    const int64_t row = row_of(n);
    prepare_advantages(model, n, settings);
    statistics->policy_loss = surrogate(model, n, settings, statistics, ratios);
    statistics->value_loss = squared_error(model, n, settings);
    vec entropies = {0};
    const vec slope = splat((REAL)(-settings->ent_coef / (double)n));
    for (int64_t i = 0; i < row; i += LANES) {
        const mask inside = (mask)(load(model->valid + i) > (REAL)0);
        entropies += pick(inside, load(model->entropy + i), splat(0));
        store(model->entropy_slope + i, pick(inside, slope, splat(0)));
    }
    statistics->entropy_loss = -(double)(sum_lanes(entropies) / (REAL)n);
    statistics->loss =
        statistics->policy_loss + settings->ent_coef * statistics->entropy_loss + settings->vf_coef * statistics->value_loss;
}
