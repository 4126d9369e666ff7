/* What an LSTM and a GRU do in one time step behind the products, and its derivatives. The equations are those of
 * torch.nn.LSTM and torch.nn.GRU. A transition's gates are four blocks of a row, in torch's order.
 */
#include "kernels.h"

/* c = f c_old + i g and h = o tanh(c); i, f, o are sigmoids of what is in `gates`, and g is its tanh. They take its place. */
static void lstm(const RecurrentLayer *layer, int64_t transition, int64_t units) {
    REAL *gates = layer->gates + transition * 4 * units;
    for (int64_t u = 0; u < units; u += LANES) {
        const int64_t at = transition * units + u;
        const vec i = vsigmoid(load(gates + u)), f = vsigmoid(load(gates + units + u));
        const vec g = vtanh(load(gates + 2 * units + u)), o = vsigmoid(load(gates + 3 * units + u));
        const vec c = f * load(layer->c_old + at) + i * g;
        store(gates + u, i);
        store(gates + units + u, f);
        store(gates + 2 * units + u, g);
        store(gates + 3 * units + u, o);
        store(layer->c + at, c);
        store(layer->h + at, o * vtanh(c));
    }
}

/* dL/dh is the sum of what comes from above and from the time step behind. Derivatives with respect to what the gates'
 * functions take replace the gates; h_slope becomes 0, and c_slope dL/dc_old. */
static void lstm_backward(const Recurrent *recurrent, const RecurrentLayer *layer, int64_t transition, int64_t units,
                          REAL *h_slope, REAL *c_slope) {
    REAL *gates = layer->gates + transition * 4 * units;
    for (int64_t u = 0; u < units; u += LANES) {
        const int64_t at = transition * units + u;
        const vec i = load(gates + u), f = load(gates + units + u), g = load(gates + 2 * units + u);
        const vec o = load(gates + 3 * units + u), t = vtanh(load(layer->c + at));
        const vec h = load(recurrent->slope + at) + load(h_slope + u);
        const vec c = load(c_slope + u) + h * o * ((REAL)1 - t * t);
        store(gates + u, c * g * i * ((REAL)1 - i));
        store(gates + units + u, c * load(layer->c_old + at) * f * ((REAL)1 - f));
        store(gates + 2 * units + u, c * i * ((REAL)1 - g * g));
        store(gates + 3 * units + u, h * t * o * ((REAL)1 - o));
        store(h_slope + u, (vec){0});
        store(c_slope + u, c * f);
    }
}

/* h = (1 - z) n + z h_old with n = tanh(x_n + r q): r, z are sigmoids of the first two blocks, x_n is the third, and the
 * fourth is q = W_hn h_old + b_hn. */
static void gru(const RecurrentLayer *layer, int64_t transition, int64_t units) {
    REAL *gates = layer->gates + transition * 4 * units;
    for (int64_t u = 0; u < units; u += LANES) {
        const int64_t at = transition * units + u;
        const vec r = vsigmoid(load(gates + u)), z = vsigmoid(load(gates + units + u));
        const vec n = vtanh(load(gates + 2 * units + u) + r * load(gates + 3 * units + u));
        store(gates + u, r);
        store(gates + units + u, z);
        store(gates + 2 * units + u, n);
        store(layer->h + at, ((REAL)1 - z) * n + z * load(layer->h_old + at));
    }
}

/* Derivatives replace the gates: with respect to r's and z's arguments, to q, and to x_n. h_slope becomes z dL/dh. */
static void gru_backward(const Recurrent *recurrent, const RecurrentLayer *layer, int64_t transition, int64_t units,
                         REAL *h_slope) {
    REAL *gates = layer->gates + transition * 4 * units;
    for (int64_t u = 0; u < units; u += LANES) {
        const int64_t at = transition * units + u;
        const vec r = load(gates + u), z = load(gates + units + u), n = load(gates + 2 * units + u);
        const vec q = load(gates + 3 * units + u), h = load(recurrent->slope + at) + load(h_slope + u);
        const vec inner = h * ((REAL)1 - z) * ((REAL)1 - n * n);
        store(gates + u, inner * q * r * ((REAL)1 - r));
        store(gates + units + u, h * (load(layer->h_old + at) - n) * z * ((REAL)1 - z));
        store(gates + 2 * units + u, inner * r);
        store(gates + 3 * units + u, inner);
        store(h_slope + u, h * z);
    }
}

/* From the gates' arguments to the state after a transition. */
void INTERNAL(cell)(const Recurrent *recurrent, const RecurrentLayer *layer, int64_t transition) {
    if (recurrent->kind == LSTM)
        lstm(layer, transition, padded(recurrent->units));
    else
        gru(layer, transition, padded(recurrent->units));
}

/* The reverse, for a transition that is one of a sequence. */
void INTERNAL(cell_backward)(const Recurrent *recurrent, const RecurrentLayer *layer, int64_t transition, int64_t sequence) {
    const int64_t units = padded(recurrent->units), at = sequence * units;
    if (recurrent->kind == LSTM)
        lstm_backward(recurrent, layer, transition, units, recurrent->h_slope + at, recurrent->c_slope + at);
    else
        gru_backward(recurrent, layer, transition, units, recurrent->h_slope + at);
}
