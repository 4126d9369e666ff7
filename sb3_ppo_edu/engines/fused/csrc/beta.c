/* The Beta distribution on raw actions u. Python's twin: Beta in engines/derivation/distributions.py, which has the equations.
 *
 * u = log x - log(1 - x) with x ~ Beta(alpha, beta) and alpha = 1 + softplus(z). In double, whatever REAL is: log B is a small
 * difference of large numbers. The actor's first rows are those of the alphas, the others those of the betas.
 */
#include "kernels.h"

#define LOG_2 0.69314718055994530942
#define HALF_LOG_2PI 0.91893853320467274178

/* log Gamma(x), its derivative psi(x), and psi'(x). */
typedef struct {
    double log_gamma, digamma, trigamma;
} Gammas;

/* For x >= 1: Gamma(x + 1) = x Gamma(x) up to where Stirling's series is exact to double's last digits (Abramowitz and Stegun,
 * 6.1.41, 6.3.18 and 6.4.12). psi' has as many terms as torch's, so that both agree to more digits than either has. */
static Gammas gammas(double x) {
    enum { STEPS_OF_TRIGAMMA = 6 };
    double product = 1, digamma = 0, trigamma = 0, y = x;
    for (int i = 0; i < STEPS_OF_TRIGAMMA; i++, y += 1) trigamma += 1 / (y * y);
    const double p = 1 / (y * y);
    trigamma += (1 + 1 / (2 * y) + p * (1.0 / 6 - p * (1.0 / 30 - p * (1.0 / 42)))) / y;
    for (; x < 12; x += 1) {
        product *= x;
        digamma -= 1 / x;
    }
    const double r = 1 / x, q = r * r, log_x = log(x);
    const double series =
        r * (1.0 / 12 - q * (1.0 / 360 - q * (1.0 / 1260 - q * (1.0 / 1680 - q * (1.0 / 1188 - q * (691.0 / 360360))))));
    const double slope =
        q * (1.0 / 12 - q * (1.0 / 120 - q * (1.0 / 252 - q * (1.0 / 240 - q * (1.0 / 132 - q * (691.0 / 32760))))));
    return (Gammas){(x - 0.5) * log_x - x + HALF_LOG_2PI + series - log(product), digamma + log_x - 0.5 * r - slope, trigamma};
}

static double softplus(double z) { return (z > 0 ? z : 0) + log1p(exp(-fabs(z))); }

/* Sums over actions of what each pair (alpha, beta) contributes. */
void INTERNAL(evaluate_beta)(Model *model, int64_t transitions, REAL *entropy) {
    const int64_t row = row_of(transitions), size = model->action_size;
    const REAL *z = last_layer(&model->actor)->h;
    memset(model->log_prob, 0, (size_t)row * sizeof(REAL));
    if (entropy) memset(entropy, 0, (size_t)row * sizeof(REAL));
    for (int64_t i = 0; i < transitions; i++) {
        double log_prob = 0, all_entropies = 0;
        for (int64_t d = 0; d < size; d++) {
            const double u = (double)model->actions[d * row + i];
            const double alpha = 1 + softplus((double)z[d * row + i]), beta = 1 + softplus((double)z[(size + d) * row + i]);
            const Gammas a = gammas(alpha), b = gammas(beta), both = gammas(alpha + beta);
            const double log_normaliser = a.log_gamma + b.log_gamma - both.log_gamma + LOG_2;
            log_prob += -(alpha - 1) * softplus(-u) - (beta - 1) * softplus(u) - log_normaliser;
            all_entropies += log_normaliser - (alpha - 1) * a.digamma - (beta - 1) * b.digamma;
            all_entropies += (alpha + beta - 2) * both.digamma;
        }
        model->log_prob[i] = (REAL)log_prob;
        if (entropy) entropy[i] = (REAL)all_entropies;
    }
}

/* d log pi/d alpha = log sigma(u) - psi(alpha) + psi(alpha + beta),
 * dH/d alpha = -(alpha - 1) psi'(alpha) + (alpha + beta - 2) psi'(alpha + beta), and d alpha/dz = sigma(z). */
void INTERNAL(beta_backward)(Model *model, int64_t transitions, int has_entropy) {
    const int64_t row = row_of(transitions), size = model->action_size;
    const REAL *z = last_layer(&model->actor)->h;
    memset(model->slope, 0, (size_t)(2 * size * row) * sizeof(REAL));
    for (int64_t d = 0; d < size; d++)
        for (int64_t i = 0; i < transitions; i++) {
            const double u = (double)model->actions[d * row + i], slope = (double)model->log_prob_slope[i];
            const double entropy_slope = has_entropy ? (double)model->entropy_slope[i] : 0;
            const double both_z[2] = {(double)z[d * row + i], (double)z[(size + d) * row + i]};
            const double concentration[2] = {1 + softplus(both_z[0]), 1 + softplus(both_z[1])};
            const double total = concentration[0] + concentration[1];
            const Gammas both = gammas(total);
            for (int half = 0; half < 2; half++) {
                const Gammas own = gammas(concentration[half]);
                double found = slope * (-softplus(half ? u : -u) - own.digamma + both.digamma);
                if (has_entropy)
                    found += entropy_slope * ((total - 2) * both.trigamma - (concentration[half] - 1) * own.trigamma);
                model->slope[(half * size + d) * row + i] = (REAL)(found / (1 + exp(-both_z[half])));
            }
        }
}
