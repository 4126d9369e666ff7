/* Forward and backward passes of the towers. Python's twin: Network in engines/derivation/layers.py. */
#include "kernels.h"

/* Inputs up to which a layer's dL/dW is computed transposed: in its own shape its rows would fill a quarter of a vector. */
#define NARROW (LANES / 4)

/* Tell whether an activation is behind a layer, and whether its backward pass needs z: where it can't be had from h. */
ALWAYS_INLINE int activated(const Tower *tower, int64_t l) { return l < tower->depth - tower->head && l >= tower->linear; }
ALWAYS_INLINE int keeps_z(const Tower *tower) { return tower->activation != TANH && tower->activation != RELU; }

/* Lay the scratch memory out for a number of transitions; gives the size that it takes, in numbers. */
int64_t INTERNAL(lay_out)(Model *model, int64_t transitions) {
    int64_t used = 0, widest = model->features;
    const int64_t row = row_of(transitions);
    Tower *towers[] = {&model->shared, &model->actor, &model->critic}, *shared = model->shared.depth ? &model->shared : 0;
    REAL **columns[] = {&model->valid,          &model->kept,         &model->log_prob,     &model->entropy,
                        &model->old_values,     &model->old_log_prob, &model->advantages,   &model->returns,
                        &model->log_prob_slope, &model->value_slope,  &model->entropy_slope};
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++) *columns[i] = take(model, &used, 1, row);
    for (int t = 0; t < 3; t++)
        for (int64_t l = 0; l < towers[t]->depth; l++) {
            Layer *layer = &towers[t]->layers[l];
            layer->h = layer->z = take(model, &used, layer->outputs, row);
            if (keeps_z(towers[t]) && activated(towers[t], l)) layer->z = take(model, &used, layer->outputs, row);
            if (layer->scale) {
                layer->normal = take(model, &used, layer->outputs, row);
                layer->inverse_sigma = take(model, &used, 1, row);
            }
            widest = layer->outputs > widest ? layer->outputs : widest;
            widest = layer->inputs > widest ? layer->inputs : widest;
        }
    const int64_t rows = padded(transitions), features = padded(model->features), units = padded(widest);
    const int64_t outputs = last_layer(&model->actor)->outputs;
    model->x = take(model, &used, features, row);
    model->x_rows = take(model, &used, rows, features);
    model->actions = take(model, &used, model->action_size, row);
    model->p = take(model, &used, outputs, row);
    model->log_p = take(model, &used, outputs, row);
    model->transposed = take(model, &used, rows + NARROW, units);
    model->slope = take(model, &used, widest, row);
    model->slope_below = take(model, &used, widest, row);
    model->shared_slope = take(model, &used, shared ? last_layer(shared)->outputs : 0, row);
    REAL **rows_of_one[] = {&model->row, &model->row_below, &model->shared_row, &model->shared_row_below};
    for (size_t i = 0; i < sizeof rows_of_one / sizeof *rows_of_one; i++) *rows_of_one[i] = take(model, &used, 1, units);
    const int64_t weights = model->distribution == GSDE ? last_layer(&model->actor)->inputs * model->action_size : 0;
    REAL **of_gsde[] = {&model->std_squared, &model->std_squared_slope, &model->std_squared_gradient};
    for (size_t i = 0; i < sizeof of_gsde / sizeof *of_gsde; i++) *of_gsde[i] = take(model, &used, 1, padded(weights));
    for (int t = 0; t < 3; t++) {
        Tower *tower = towers[t];
        tower->x = shared && t > 0 ? last_layer(shared)->h : model->x;
        tower->x_rows = shared && t > 0 ? 0 : model->x_rows;
        tower->x_row = features;
        if (!tower->recurrent) continue;
        if (!tower->borrows) used = INTERNAL(lay_out_recurrent)(model, tower->recurrent, transitions, used);
        tower->x = tower->borrows ? model->actor.x : take(model, &used, padded(tower->recurrent->units), row);
        tower->x_rows = tower->recurrent->layers[tower->recurrent->depth - 1].h;
        tower->x_row = padded(tower->recurrent->units);
    }
    return used;
}

/* x = the observations of some transitions; all of them in order where there is no index. */
void INTERNAL(gather)(Model *model, const Rollout *rollout, const int64_t *index, int64_t transitions) {
    const int64_t features = model->features, row = padded(features), whole = features / LANES * LANES;
    if (rollout->parts) INTERNAL(features)(rollout->parts, index, 0, transitions, model->x_rows, row);
    for (int64_t i = 0; i < transitions && !rollout->parts; i++) {
        const REAL *from = rollout->observations + (index ? index[i] : i) * features;
        REAL *to = model->x_rows + i * row;
        for (int64_t k = 0; k < whole; k += LANES) store(to + k, load_unaligned(from + k));
        if (whole < features) {
            vec rest = {0};
            for (int64_t k = whole; k < features; k++) ((REAL *)&rest)[k - whole] = from[k];
            store(to + whole, rest);
        }
    }
    INTERNAL(turn)(model->x_rows, features, transitions, model->x);
}

/* x (units x transitions) from its transpose, whose rows are padded. */
void INTERNAL(turn)(const REAL *rows, int64_t units, int64_t transitions, REAL *x) {
    const int64_t row = row_of(transitions);
    INTERNAL(transpose)(transitions, units, rows, padded(units), x, row);
    for (int64_t k = 0; k < units && row > padded(transitions); k++) store(x + (k + 1) * row - LANES, (vec){0});
}

/* h = f(N(W h_below + b)), layer by layer; N is LayerNorm where there is one. */
void INTERNAL(forward)(Tower *tower, int64_t transitions) {
    const int64_t row = row_of(transitions);
    const REAL *below = tower->x;
    for (int64_t l = 0; l < tower->depth; l++) {
        Layer *layer = &tower->layers[l];
        INTERNAL(product)(layer->outputs, row, layer->inputs, layer->weight, layer->inputs, 1, below, row, layer->z, row,
                          layer->bias);
        if (layer->scale) INTERNAL(normalize)(layer, row);
        if (activated(tower, l)) INTERNAL(activate)(tower, layer->z, layer->h, layer->outputs * row);
        below = layer->h;
    }
}

/* The first layers for a single transition: rows of W times a row. Gives where the last h is: in `now`, `next` or `below`. */
static const REAL *row_through(const Tower *tower, int64_t layers, const REAL *below, REAL *now, REAL *next) {
    for (int64_t l = 0; l < layers; l++) {
        const Layer *layer = &tower->layers[l];
        INTERNAL(row_product)(layer, below, now, 1);
        for (int64_t k = layer->outputs; k < padded(layer->outputs); k++) now[k] = 0;
        if (layer->scale) INTERNAL(normalize_row)(layer, now);
        if (activated(tower, l)) INTERNAL(activate)(tower, now, now, padded(layer->outputs));
        below = now;
        now = next;
        next = (REAL *)below;
    }
    return below;
}

/* Forward passes for a few transitions, each by itself. Only the last layers' outputs are kept. */
void INTERNAL(forward_rows)(Model *model, const REAL *observations, int64_t transitions, int actor) {
    const Tower *towers[] = {&model->actor, &model->critic}, *shared = &model->shared;
    const int64_t row = row_of(transitions);
    for (int t = !actor; t < 2; t++)
        memset(last_layer(towers[t])->h, 0, (size_t)(last_layer(towers[t])->outputs * row) * sizeof(REAL));
    for (int64_t i = 0; i < transitions; i++) {
        const REAL *x = observations + i * model->features;
        x = row_through(shared, shared->depth, x, model->shared_row, model->shared_row_below);
        for (int t = !actor; t < 2; t++) {
            const Layer *last = last_layer(towers[t]);
            const REAL *below = row_through(towers[t], towers[t]->depth - 1, x, model->row, model->row_below);
            INTERNAL(row_product)(last, below, last->h + i, row);
        }
    }
}

/* dL/dW = dL/dz h_below^T. One of the two is transposed first, so that the product reads both along rows. */
static void weight_gradient(Model *model, const Tower *tower, int64_t l, const REAL *slope, int64_t transitions) {
    const Layer *layer = &tower->layers[l];
    const int64_t row = row_of(transitions), inputs = layer->inputs, outputs = layer->outputs;
    const REAL *h_below = l > 0 ? tower->layers[l - 1].h : tower->x;
    if (inputs <= NARROW) { /* (dL/dW)^T = h_below (dL/dz)^T */
        const int64_t units = padded(outputs);
        REAL *found = model->transposed + padded(transitions) * units;
        INTERNAL(transpose)(outputs, transitions, slope, row, model->transposed, units);
        INTERNAL(product)(inputs, units, transitions, h_below, row, 1, model->transposed, units, found, units, 0);
        for (int64_t i = 0; i < outputs; i++)
            for (int64_t k = 0; k < inputs; k++) layer->weight_gradient[i * inputs + k] = found[k * units + i];
        return;
    }
    const int in_rows = l == 0 && tower->x_rows;
    const int64_t units = in_rows ? tower->x_row : padded(inputs);
    if (!in_rows) INTERNAL(transpose)(inputs, transitions, h_below, row, model->transposed, units);
    INTERNAL(product)(outputs, inputs, transitions, slope, row, 1, in_rows ? tower->x_rows : model->transposed, units,
                      layer->weight_gradient, inputs, 0);
}

/* From dL/dh of the last layer in `slope`: dL/dW = dL/dz h_below^T, dL/db = sum of dL/dz, dL/dh_below = W^T dL/dz. Gives where
 * dL/dx is, for a tower on shared layers. */
REAL *INTERNAL(backward)(Model *model, Tower *tower, int64_t transitions) {
    const int64_t row = row_of(transitions);
    const int remembers = tower->recurrent && !tower->borrows, above_shared = model->shared.depth && tower != &model->shared;
    REAL *slope = model->slope, *below = model->slope_below;
    for (int64_t l = tower->depth - 1; l >= 0; l--) {
        const Layer *layer = &tower->layers[l];
        if (activated(tower, l)) INTERNAL(activate_backward)(tower, layer->z, layer->h, slope, layer->outputs * row);
        if (layer->scale) INTERNAL(normalize_backward)(layer, slope, row);
        for (int64_t i = 0; i < layer->outputs; i++) layer->bias_gradient[i] = sum(slope + i * row, row);
        weight_gradient(model, tower, l, slope, transitions);
        if (l > 0 || remembers || above_shared) {
            INTERNAL(product)(layer->inputs, row, layer->outputs, layer->weight, 1, layer->inputs, slope, row, below, row, 0);
            REAL *swapped = slope;
            slope = below;
            below = swapped;
        }
    }
    if (remembers) INTERNAL(recurrent_backward)(model, tower, slope, transitions);
    return slope;
}
