/* Nothing but the matrix products of a pass, on numbers that mean nothing: what no engine with these products gets below.
 * The laboratory measures it. Python's twin: network_products in lab/speed/floor.py.
 */
#include "kernels.h"

enum { ROW_BY_ROW, FORWARD, FORWARD_AND_BACKWARD };

static void multiply(const Model *model, const Tower *tower, int64_t n, int64_t kind) {
    const int64_t row = row_of(n);
    const REAL *below = tower->x;
    for (int64_t l = 0; l < tower->depth; l++) {
        const Layer *layer = &tower->layers[l];
        const int64_t inputs = layer->inputs, outputs = layer->outputs;
        if (kind == ROW_BY_ROW) {
            for (int64_t i = 0; i < n; i++) INTERNAL(row_product)(layer, model->row, model->row_below, 1);
            continue;
        }
        INTERNAL(product)(outputs, row, inputs, layer->weight, inputs, 1, below, row, layer->z, row, layer->bias);
        below = layer->z;
        if (kind == FORWARD) continue;
        const int in_rows = l == 0 && tower->x_rows;
        INTERNAL(product)(outputs, inputs, n, model->slope, row, 1, in_rows ? tower->x_rows : model->transposed,
                          in_rows ? tower->x_row : padded(inputs), layer->weight_gradient, inputs, 0);
        if (l > 0)
            INTERNAL(product)(inputs, row, outputs, layer->weight, 1, inputs, model->slope, row, model->slope_below, row, 0);
    }
}

/* The towers' products for n transitions. Those of the backward pass overwrite the gradients of the weights. */
EXPORT void EXPORTED(products)(Model *model, int64_t n, int64_t kind) {
    INTERNAL(lay_out)(model, n);
    multiply(model, &model->shared, n, kind);
    multiply(model, &model->actor, n, kind);
    multiply(model, &model->critic, n, kind);
}
