/* LSTM and GRU over sequences: whole sequences a call, forward and back through time.
 *
 * Transitions lie in the order of time steps, the longest sequence first in each: a time step's are side by side, and sequence
 * s is the s-th of each step that it reaches. So nothing is padded. A row of numbers belongs to a transition, since a step has
 * few of them. What the input adds to the gates is computed for all steps at once, as are the gradients of the weights; only
 * the products with the state go step by step.
 */
#include "kernels.h"

#define ALONE 16 /* transitions up to which the weights are read where they are, once for each */

ALWAYS_INLINE int64_t gates_of(const Recurrent *recurrent) { return recurrent->kind == LSTM ? 4 : 3; }

/* Lay the scratch memory out behind what is used; gives what is used then. */
int64_t INTERNAL(lay_out_recurrent)(Model *model, Recurrent *recurrent, int64_t n, int64_t used) {
    const int64_t units = padded(recurrent->units);
    int64_t widest = units;
    for (RecurrentLayer *layer = recurrent->layers; layer < recurrent->layers + recurrent->depth; layer++) {
        layer->gates = take(model, &used, n, 4 * units);
        layer->h = take(model, &used, n, units);
        layer->h_old = take(model, &used, n, units);
        if (recurrent->kind == LSTM) {
            layer->c = take(model, &used, n, units);
            layer->c_old = take(model, &used, n, units);
        }
        widest = layer->inputs > widest ? layer->inputs : widest;
    }
    recurrent->panels = take(model, &used, 4 * units, padded(widest));
    recurrent->bias = take(model, &used, 4, units);
    recurrent->totals = take(model, &used, 4, units);
    recurrent->slope = take(model, &used, padded(n), units);
    recurrent->h_slope = take(model, &used, n, units);
    recurrent->c_slope = take(model, &used, n, units);
    return used;
}

/* -- forward ------------------------------------------------------------------------------------------------------------ */

/* A state, filled up with zeros to whole vectors; zeros where it is not kept. */
static void copy_state(const REAL *from, int64_t units, REAL kept, REAL *to) {
    for (int64_t u = 0; u < units; u += LANES) store(to + u, load_some(from + u, units - u) * kept);
}

/* Every transition's gates begin with the biases. A GRU's n adds only b_in, its fourth block begins with b_hn. */
static void begin_with_biases(const Recurrent *recurrent, const RecurrentLayer *layer, int64_t n) {
    const int64_t units = recurrent->units, row = padded(units);
    const int gru = recurrent->kind == GRU;
    memset(recurrent->bias, 0, (size_t)(4 * row) * sizeof(REAL));
    for (int64_t gate = 0; gate < gates_of(recurrent); gate++)
        for (int64_t u = 0; u < units; u++) {
            const REAL from_state = layer->bias_hh[gate * units + u];
            recurrent->bias[gate * row + u] = layer->bias_ih[gate * units + u] + (gru && gate == 2 ? 0 : from_state);
            if (gru && gate == 2) recurrent->bias[3 * row + u] = from_state;
        }
    for (int64_t i = 0; i < n; i++) memcpy(layer->gates + i * 4 * row, recurrent->bias, (size_t)(4 * row) * sizeof(REAL));
}

/* Add W a to a block of some transitions' gates, with the weights of one gate: in panels, or row by row. */
static void add(const Recurrent *recurrent, const REAL *weight, const REAL *panels, int64_t inputs, const REAL *a,
                int64_t a_row, REAL *gates, int64_t n, int64_t from_the_end) {
    const int64_t units = recurrent->units, row = 4 * padded(units);
    if (recurrent->in_panels) {
        INTERNAL(panel_product)(n, units, inputs, a, a_row, panels, gates, row, from_the_end);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        REAL *z = gates + i * row;
        INTERNAL(row_product)(&(Layer){.inputs = inputs, .outputs = units, .weight = weight, .bias = z}, a + i * a_row, z, 1);
    }
}

/* What the input adds to the gates, of all time steps at once. */
static void add_inputs(const Recurrent *recurrent, const RecurrentLayer *layer, const REAL *below, int64_t n) {
    const int64_t units = recurrent->units, inputs = layer->inputs;
    for (int64_t gate = 0; gate < gates_of(recurrent); gate++) {
        const REAL *weight = layer->weight_ih + gate * units * inputs;
        if (recurrent->in_panels) INTERNAL(panels)(1, inputs, units, weight, 1, inputs, recurrent->panels);
        add(recurrent, weight, recurrent->panels, inputs, below, padded(inputs), layer->gates + gate * padded(units), n, 0);
    }
}

/* The state before each transition of a time step: the one after the step before, or that with which the sequence begins. */
static void take_states(const Model *model, const Recurrent *recurrent, int64_t l, const int64_t *index, int64_t t,
                        int64_t first) {
    const RecurrentLayer *layer = &recurrent->layers[l];
    const int64_t units = recurrent->units, row = padded(units);
    for (int64_t s = 0; s < model->counts[t]; s++) {
        const int64_t before = t > 0 ? (first - model->counts[t - 1] + s) * row
                                     : (index ? index[s] : s) * recurrent->state_row + l * recurrent->state_layer;
        const REAL kept = model->kept[first + s];
        copy_state((t > 0 ? layer->h : recurrent->hidden) + before, units, kept, layer->h_old + (first + s) * row);
        if (recurrent->kind == LSTM)
            copy_state((t > 0 ? layer->c : recurrent->cell) + before, units, kept, layer->c_old + (first + s) * row);
    }
}

/* Leave the states after a time step that is the only one. */
static void leave_states(const Recurrent *recurrent, int64_t l, int64_t n) {
    const RecurrentLayer *layer = &recurrent->layers[l];
    const int64_t units = recurrent->units, row = padded(units);
    for (int64_t i = 0; i < n; i++) {
        const int64_t to = (l * n + i) * units;
        memcpy(recurrent->next_hidden + to, layer->h + i * row, (size_t)units * sizeof(REAL));
        if (recurrent->kind == LSTM) memcpy(recurrent->next_cell + to, layer->c + i * row, (size_t)units * sizeof(REAL));
    }
}

/* From the first time step to the last: the state enters the gates, and the gates make the next one. */
static void go_through_time(const Model *model, const Recurrent *recurrent, int64_t l, const int64_t *index) {
    const RecurrentLayer *layer = &recurrent->layers[l];
    const int64_t units = recurrent->units, row = padded(units), gates = gates_of(recurrent), size = units * units;
    for (int64_t gate = 0; gate < gates && recurrent->in_panels; gate++)
        INTERNAL(panels)(1, units, units, layer->weight_hh + gate * size, 1, units, recurrent->panels + gate * units * row);
    for (int64_t t = 0, first = 0; t < model->steps; first += model->counts[t++]) {
        take_states(model, recurrent, l, index, t, first);
        for (int64_t g = 0; g < gates; g++) {
            const int64_t gate = t % 2 ? gates - 1 - g : g, block = recurrent->kind == GRU && gate == 2 ? 3 : gate;
            add(recurrent, layer->weight_hh + gate * size, recurrent->panels + gate * units * row, units,
                layer->h_old + first * row, row, layer->gates + (first * 4 + block) * row, model->counts[t], t % 2);
        }
        for (int64_t s = 0; s < model->counts[t]; s++) INTERNAL(cell)(recurrent, layer, first + s);
    }
}

/* From the observations in x_rows to what the tower takes. */
void INTERNAL(recurrent)(Model *model, Tower *tower, const int64_t *index, int64_t n) {
    Recurrent *recurrent = tower->recurrent;
    const REAL *below = model->x_rows;
    recurrent->in_panels = n > ALONE;
    for (int64_t i = 0; i < n; i++) model->kept[i] = 1 - model->episode_starts[index ? index[i] : i];
    for (int64_t l = 0; l < recurrent->depth; l++) {
        begin_with_biases(recurrent, &recurrent->layers[l], n);
        add_inputs(recurrent, &recurrent->layers[l], below, n);
        go_through_time(model, recurrent, l, index);
        if (recurrent->next_hidden) leave_states(recurrent, l, n);
        below = recurrent->layers[l].h;
    }
    INTERNAL(turn)(below, recurrent->units, n, tower->x);
}

/* -- backward ----------------------------------------------------------------------------------------------------------- */

/* From the last time step to the first: dL/dh_old = W_hh^T dL/dgates goes to the step before, but not past an episode's start.
 */
static void go_back_through_time(const Model *model, const Recurrent *recurrent, const RecurrentLayer *layer, int64_t n) {
    const int64_t units = recurrent->units, row = padded(units), gates = gates_of(recurrent);
    REAL *h_slope = recurrent->h_slope, *c_slope = recurrent->c_slope;
    memset(h_slope, 0, (size_t)(model->counts[0] * row) * sizeof(REAL));
    memset(c_slope, 0, (size_t)(model->counts[0] * row) * sizeof(REAL));
    INTERNAL(panels)(gates, units, units, layer->weight_hh, units, 1, recurrent->panels);
    for (int64_t t = model->steps - 1, first = n; t >= 0; t--) {
        const int64_t count = model->counts[t];
        first -= count;
        for (int64_t s = 0; s < count; s++) INTERNAL(cell_backward)(recurrent, layer, first + s, s);
        if (t == 0) break;
        INTERNAL(panel_product)(count, units, gates * row, layer->gates + first * 4 * row, 4 * row, recurrent->panels, h_slope,
                                row, t % 2);
        for (int64_t s = 0; s < count; s++)
            if (model->kept[first + s] != 1) {
                copy_state(h_slope + s * row, row, model->kept[first + s], h_slope + s * row);
                copy_state(c_slope + s * row, row, model->kept[first + s], c_slope + s * row);
            }
    }
}

/* Where a gate's dL/dgate with respect to what the input adds to it is: a GRU's n has two. */
ALWAYS_INLINE int64_t input_block(const Recurrent *recurrent, int64_t gate) {
    return recurrent->kind == GRU && gate == 2 ? 3 : gate;
}

/* dL/dW_ih = dL/dgates x^T, dL/dW_hh = dL/dgates h_old^T, and the biases' are the sums over the transitions. */
static void parameter_gradients(const Recurrent *recurrent, const RecurrentLayer *layer, const REAL *below, int64_t n) {
    const int64_t units = recurrent->units, row = padded(units), inputs = layer->inputs;
    for (int64_t u = 0; u < 4 * row; u += LANES) {
        vec total = {0};
        for (int64_t i = 0; i < n; i++) total += load(layer->gates + i * 4 * row + u);
        store(recurrent->totals + u, total);
    }
    for (int64_t gate = 0; gate < gates_of(recurrent); gate++) {
        const int64_t block = input_block(recurrent, gate), first = gate * units;
        INTERNAL(product)(units, units, n, layer->gates + gate * row, 1, 4 * row, layer->h_old, row,
                          layer->weight_hh_gradient + first * units, units, 0);
        INTERNAL(product)(units, inputs, n, layer->gates + block * row, 1, 4 * row, below, padded(inputs),
                          layer->weight_ih_gradient + first * inputs, inputs, 0);
        memcpy(layer->bias_hh_gradient + first, recurrent->totals + gate * row, (size_t)units * sizeof(REAL));
        memcpy(layer->bias_ih_gradient + first, recurrent->totals + block * row, (size_t)units * sizeof(REAL));
    }
}

/* dL/dx = W_ih^T dL/dgates takes the place of dL/dh: the layer below has x as its h. */
static void slope_below(const Recurrent *recurrent, const RecurrentLayer *layer, int64_t n) {
    const int64_t units = recurrent->units, row = padded(units), inputs = layer->inputs;
    memset(recurrent->slope, 0, (size_t)(n * padded(inputs)) * sizeof(REAL));
    for (int64_t gate = 0; gate < gates_of(recurrent); gate++) {
        INTERNAL(panels)(1, units, inputs, layer->weight_ih + gate * units * inputs, inputs, 1, recurrent->panels);
        INTERNAL(panel_product)(n, inputs, units, layer->gates + input_block(recurrent, gate) * row, 4 * row,
                                recurrent->panels, recurrent->slope, padded(inputs), 0);
    }
}

/* From dL/d of what the tower takes, (units x transitions), to the gradients of all layers. */
void INTERNAL(recurrent_backward)(Model *model, Tower *tower, const REAL *slope, int64_t n) {
    Recurrent *recurrent = tower->recurrent;
    INTERNAL(transpose)(recurrent->units, n, slope, row_of(n), recurrent->slope, padded(recurrent->units));
    for (int64_t l = recurrent->depth - 1; l >= 0; l--) {
        const RecurrentLayer *layer = &recurrent->layers[l];
        go_back_through_time(model, recurrent, layer, n);
        parameter_gradients(recurrent, layer, l > 0 ? recurrent->layers[l - 1].h : model->x_rows, n);
        if (l > 0) slope_below(recurrent, layer, n);
    }
}
