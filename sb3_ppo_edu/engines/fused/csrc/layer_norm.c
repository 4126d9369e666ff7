/* LayerNorm y = scale n + shift with n = (z - mean) / sigma: mean and sigma^2 = variance + epsilon of a transition's units.
 * Python's twin: LayerNorm in engines/derivation/layers.py.
 */
#include "kernels.h"

/* The sum of a b over n numbers, in two chains of one vector each. */
static REAL inner(const REAL *a, const REAL *b, int64_t n) {
    vec even = {0}, odd = {0};
    int64_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        even += load(a + i) * load(b + i);
        odd += load(a + i + LANES) * load(b + i + LANES);
    }
    for (; i < n; i += LANES) even += load(a + i) * load(b + i);
    return sum_lanes(even + odd);
}

/* y takes the place of z, (units x transitions); n and 1 / sigma are kept for the backward pass. */
void INTERNAL(normalize)(const Layer *layer, int64_t row) {
    const int64_t units = layer->outputs;
    const REAL share = (REAL)1 / (REAL)units;
    for (int64_t i = 0; i < row; i += LANES) {
        REAL *z = layer->z + i, *normal = layer->normal + i;
        vec mean = {0}, variance = {0};
        for (int64_t u = 0; u < units; u++) mean += load(z + u * row);
        mean *= share;
        for (int64_t u = 0; u < units; u++) {
            const vec centred = load(z + u * row) - mean;
            store(normal + u * row, centred);
            variance += centred * centred;
        }
        const vec inverse = (REAL)1 / vsqrt(variance * share + (REAL)layer->epsilon);
        store(layer->inverse_sigma + i, inverse);
        for (int64_t u = 0; u < units; u++) {
            const vec n = load(normal + u * row) * inverse;
            store(normal + u * row, n);
            store(z + u * row, n * layer->scale[u] + layer->shift[u]);
        }
    }
}

/* The same for a single transition, whose units lie side by side; behind them there are zeros, to whole vectors. */
void INTERNAL(normalize_row)(const Layer *layer, REAL *z) {
    const int64_t units = layer->outputs, row = padded(units);
    const REAL share = (REAL)1 / (REAL)units, mean = sum(z, row) * share;
    for (int64_t u = 0; u < units; u++) z[u] -= mean;
    const vec inverse = (REAL)1 / vsqrt(splat(inner(z, z, row) * share + (REAL)layer->epsilon));
    for (int64_t u = 0; u < units; u++) z[u] = z[u] * inverse[0] * layer->scale[u] + layer->shift[u];
}

/* From dL/dy in `slope`: dL/dscale = sum of n dL/dy, dL/dshift = sum of dL/dy, and with dL/dn = scale dL/dy
 * dL/dz = (dL/dn - mean of dL/dn - n mean of n dL/dn) / sigma in its place. */
void INTERNAL(normalize_backward)(const Layer *layer, REAL *slope, int64_t row) {
    const int64_t units = layer->outputs;
    const REAL share = (REAL)1 / (REAL)units;
    for (int64_t u = 0; u < units; u++) {
        layer->scale_gradient[u] = inner(slope + u * row, layer->normal + u * row, row);
        layer->shift_gradient[u] = sum(slope + u * row, row);
    }
    for (int64_t i = 0; i < row; i += LANES) {
        const REAL *normal = layer->normal + i;
        vec mean = {0}, along = {0};
        for (int64_t u = 0; u < units; u++) {
            const vec of_n = load(slope + u * row + i) * layer->scale[u];
            mean += of_n;
            along += of_n * load(normal + u * row);
        }
        mean *= share;
        along *= share;
        const vec inverse = load(layer->inverse_sigma + i);
        for (int64_t u = 0; u < units; u++) {
            const vec of_n = load(slope + u * row + i) * layer->scale[u];
            store(slope + u * row + i, (of_n - mean - load(normal + u * row) * along) * inverse);
        }
    }
}
