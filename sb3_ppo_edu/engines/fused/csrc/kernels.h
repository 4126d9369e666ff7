/* What the kernels know of a policy, a rollout, an update and an optimizer, and what each file offers the others.
 *
 * Python fills these structures (description.py has their twins) and keeps what they point to alive. Parameters, gradients
 * and the optimizer's state are torch's own tensors; nothing is copied. Every member has 8 bytes, so that both sides agree.
 *
 * Activations are feature-major: a matrix (units x transitions), each row padded to whole vectors. Padding holds finite
 * numbers, and gradients there are 0, so that it changes no sum over transitions.
 */
#ifndef SB3EDU_KERNELS_H
#define SB3EDU_KERNELS_H

#include "vectors.h"

#define INTERNAL(name) JOIN(sb3edu_internal_##name, SUFFIX)
#define EXPORTED(name) JOIN(sb3edu_##name, SUFFIX)
#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#define HIDDEN
#else
#define EXPORT __attribute__((visibility("default")))
#define HIDDEN __attribute__((visibility("hidden")))
#endif

enum { TANH, RELU, ELU, LEAKY_RELU, GELU, GELU_TANH, SILU };
enum { CATEGORICAL, BERNOULLI, GAUSSIAN, TANH_GAUSSIAN, BETA, GSDE };
enum { AS_THEY_ARE, OWN_MOMENTS, GIVEN_MOMENTS };
enum { LSTM, GRU };
enum { ADAM, SGD, RMSPROP, RMSPROP_TF };
enum { FLOAT32, FLOAT64, INT8, UINT8, INT16, INT32, INT64 };

/* A linear layer z = W h + b, and the activation behind it. W has shape (outputs, inputs). In between there may be a
 * LayerNorm, whose scale, shift and epsilon are torch's; otherwise its pointers are NULL. */
typedef struct {
    int64_t inputs, outputs;
    double epsilon;
    const REAL *weight, *bias;
    REAL *weight_gradient, *bias_gradient;
    REAL *z, *h; /* scratch: (outputs x transitions) before and after the activation, which may be one array */
    const REAL *scale, *shift;
    REAL *scale_gradient, *shift_gradient;
    REAL *normal, *inverse_sigma; /* scratch: (outputs x transitions) before scale and shift; one number a transition */
} Layer;

/* A layer of an LSTM or GRU. Torch's parameters: a block of `units` rows for each gate, i f g o or r z n, one after the other.
 * The scratch memory has a row for each transition. Its blocks are whole vectors; a GRU's fourth is W_hn h + b_hn. */
typedef struct {
    int64_t inputs;
    const REAL *weight_ih, *weight_hh, *bias_ih, *bias_hh;
    REAL *weight_ih_gradient, *weight_hh_gradient, *bias_ih_gradient, *bias_hh_gradient;
    REAL *gates;         /* four blocks; in the backward pass dL/d of what the gates' functions take */
    REAL *h, *c;         /* the state after the transition; a GRU has no c */
    REAL *h_old, *c_old; /* and before it: zeros where an episode begins */
} RecurrentLayer;

/* Layers of an LSTM or GRU, one on the other. Of transition i, layer l has its state at hidden[i * state_row + l *
 * state_layer], and cell likewise: in the rollout's columns, or the environments' states. */
typedef struct {
    int64_t kind, depth, units;
    RecurrentLayer *layers;
    int64_t state_row, state_layer;
    const REAL *hidden, *cell;
    REAL *next_hidden, *next_cell; /* (depth x transitions x units), after a single time step; NULL if nobody asks */

    int64_t in_panels;                /* the weights are laid out in panels first, or read where they are */
    REAL *panels, *bias;              /* scratch: the weights of a gate or all of them; the biases in blocks */
    REAL *slope;                      /* dL/dh of the last layer, a row a transition */
    REAL *h_slope, *c_slope, *totals; /* dL/d of the state that goes to the time step before; sums over transitions */
} Recurrent;

/* Layers one after the other. `option` is ELU's alpha or LeakyReLU's slope. */
typedef struct {
    int64_t depth, activation;
    double option;
    Layer *layers;
    int64_t linear, head; /* layers at the beginning and at the end without an activation */
    Recurrent *recurrent; /* what the layers take comes from it; NULL: from the observations */
    int64_t borrows;      /* it is the other tower's, which alone gives it gradients */
    REAL *x, *x_rows;     /* scratch: what the layers take, (inputs x transitions) and (transitions x inputs) or NULL */
    int64_t x_row;        /* numbers from one row of x_rows to the next */
} Tower;

typedef struct {
    int64_t features;    /* of an observation */
    int64_t action_size; /* numbers that the rollout stores of an action */
    Tower actor, critic; /* the actor may take the first of the features only */
    Tower shared;        /* below both, from the observations; it may have no layers */

    int64_t distribution;
    int64_t choices;      /* of a (multi-)categorical */
    const int64_t *sizes; /* classes of each choice */
    const REAL *log_std;
    REAL *log_std_gradient;
    int64_t nodes; /* of the quadrature for the tanh-Gaussian's entropy */
    const REAL *node, *node_weight;
    const REAL *masks;                 /* `act`: 0 where a class is illegal, (transitions x outputs); NULL: all are legal */
    int64_t full_std, expln, squashed; /* of gSDE: a deviation for each weight, its form, tanh actions */
    double epsilon, squash_epsilon;    /* added to variances, and to tanh's derivative */

    /* With recurrent layers transitions lie in the order of time steps, the longest sequence first in each: so many sequences
     * are as long as that (steps), and by transition of the rollout whether it begins an episode. */
    int64_t steps;
    const int64_t *counts;
    const REAL *episode_starts;

    REAL *scratch; /* aligned to 64 bytes */
    int64_t capacity;

    /* Scratch, laid out anew for each number of transitions. One number per transition: */
    REAL *valid; /* 1, and 0 in the padding */
    REAL *kept;  /* 0 where an episode begins, else 1 */
    REAL *log_prob, *entropy, *old_values, *old_log_prob, *advantages, *returns;
    REAL *log_prob_slope, *value_slope, *entropy_slope; /* dL/d log-probability, dL/d value, dL/d entropy */
    /* and matrices: */
    REAL *x, *x_rows;          /* observations (features x transitions) and (transitions x features) */
    REAL *actions;             /* (action_size x transitions) */
    REAL *p, *log_p;           /* of the distribution, as many rows as the actor has outputs */
    REAL *transposed;          /* the input of a layer (transitions x inputs) */
    REAL *slope, *slope_below; /* dL/d of a layer's outputs and inputs */
    REAL *shared_slope;        /* dL/d of what actor and critic share */
    REAL *row, *row_below;     /* of a single transition */
    REAL *shared_row, *shared_row_below;
    REAL *std_squared, *std_squared_slope, *std_squared_gradient; /* of gSDE, at most (latent x action_size) */
} Model;

/* A part of the observations as it is stored, a row a transition: `width` numbers or, where `classes` says how many there are,
 * as many choices, each of which becomes one-hot. */
typedef struct {
    int64_t type, width;
    const int64_t *classes;
    const void *data;
} Part;

typedef struct {
    int64_t count;
    const Part *parts;
} Parts;

/* The rollout buffer's columns, one row a transition. Where there are `parts`, observations are in them. */
typedef struct {
    const REAL *observations, *actions, *old_values, *old_log_prob, *advantages, *returns;
    const Parts *parts;
    const REAL *masks; /* 0 where a class is illegal, a row a transition; NULL: all are legal */
} Rollout;

/* UpdateSettings of functional/objectives.py. */
typedef struct {
    double clip_range, clip_range_vf, ent_coef, vf_coef, mean, std, clip_advantage, dual_clip;
    double kl_limit; /* infinity: none */
    int64_t clips_values, takes_larger_error, normalization, clips_advantages, clips_twice, k1;
} Settings;

/* MinibatchStatistics of engines/base.py. */
typedef struct {
    double policy_loss, value_loss, entropy_loss, loss, approx_kl, clip_fraction, ratio_max;
} Statistics;

/* One parameter with its gradient and the optimizer's state; what an optimizer does not have is NULL. */
typedef struct {
    int64_t size;
    REAL *value, *gradient, *first, *second, *third;
    void *step; /* number of steps as torch keeps it */
} Parameter;

/* An optimizer's hyperparameters, in torch's names. */
typedef struct {
    int64_t kind, count, amsgrad, decoupled_weight_decay, maximize, nesterov, centered, first_step, double_step;
    double lr, beta1, beta2, eps, weight_decay, momentum, dampening, alpha;
    Parameter *parameters;
} Optimizer;

/* products.c */
HIDDEN void INTERNAL(product)(int64_t rows, int64_t columns, int64_t inner, const REAL *a, int64_t a_row, int64_t a_step,
                              const REAL *b, int64_t b_row, REAL *c, int64_t c_row, const REAL *bias);
HIDDEN void INTERNAL(row_product)(const Layer *layer, const REAL *x, REAL *z, int64_t stride);
HIDDEN void INTERNAL(transpose)(int64_t rows, int64_t columns, const REAL *from, int64_t from_row, REAL *to, int64_t to_row);

/* panels.c */
HIDDEN void INTERNAL(panels)(int64_t blocks, int64_t inner, int64_t columns, const REAL *b, int64_t b_row, int64_t b_column,
                             REAL *panels);
HIDDEN void INTERNAL(panel_product)(int64_t rows, int64_t columns, int64_t inner, const REAL *a, int64_t a_row,
                                    const REAL *panels, REAL *c, int64_t c_row, int64_t from_the_end);

/* cells.c */
HIDDEN void INTERNAL(cell)(const Recurrent *recurrent, const RecurrentLayer *layer, int64_t transition);
HIDDEN void INTERNAL(cell_backward)(const Recurrent *recurrent, const RecurrentLayer *layer, int64_t transition,
                                    int64_t sequence);

/* recurrent.c */
HIDDEN int64_t INTERNAL(lay_out_recurrent)(Model *model, Recurrent *recurrent, int64_t transitions, int64_t used);
HIDDEN void INTERNAL(recurrent)(Model *model, Tower *tower, const int64_t *index, int64_t transitions);
HIDDEN void INTERNAL(recurrent_backward)(Model *model, Tower *tower, const REAL *slope, int64_t transitions);

/* activations.c */
HIDDEN void INTERNAL(activate)(const Tower *tower, const REAL *z, REAL *h, int64_t count);
HIDDEN void INTERNAL(activate_backward)(const Tower *tower, const REAL *z, const REAL *h, REAL *slope, int64_t count);

/* layer_norm.c */
HIDDEN void INTERNAL(normalize)(const Layer *layer, int64_t row);
HIDDEN void INTERNAL(normalize_row)(const Layer *layer, REAL *z);
HIDDEN void INTERNAL(normalize_backward)(const Layer *layer, REAL *slope, int64_t row);

/* features.c */
HIDDEN void INTERNAL(features)(const Parts *parts, const int64_t *index, int64_t first, int64_t n, REAL *x, int64_t row);

/* networks.c */
HIDDEN int64_t INTERNAL(lay_out)(Model *model, int64_t transitions);
HIDDEN void INTERNAL(gather)(Model *model, const Rollout *rollout, const int64_t *index, int64_t transitions);
HIDDEN void INTERNAL(turn)(const REAL *rows, int64_t units, int64_t transitions, REAL *x);
HIDDEN void INTERNAL(forward)(Tower *tower, int64_t transitions);
HIDDEN void INTERNAL(forward_rows)(Model *model, const REAL *observations, int64_t transitions, int actor);
HIDDEN REAL *INTERNAL(backward)(Model *model, Tower *tower, int64_t transitions);

/* distributions.c, beta.c and gsde.c: `entropy` may be NULL where nobody asks for it */
HIDDEN void INTERNAL(forbid)(Model *model, const REAL *masks, const int64_t *index, int64_t transitions);
HIDDEN void INTERNAL(evaluate)(Model *model, int64_t transitions, REAL *entropy);
HIDDEN void INTERNAL(distribution_backward)(Model *model, int64_t transitions, int has_entropy);
HIDDEN void INTERNAL(sample)(Model *model, int64_t transitions, const REAL *noise, void *actions);
HIDDEN void INTERNAL(evaluate_beta)(Model *model, int64_t transitions, REAL *entropy);
HIDDEN void INTERNAL(beta_backward)(Model *model, int64_t transitions, int has_entropy);
HIDDEN void INTERNAL(evaluate_gsde)(Model *model, int64_t transitions, REAL *entropy);
HIDDEN void INTERNAL(gsde_backward)(Model *model, int64_t transitions, int has_entropy);
HIDDEN void INTERNAL(sample_gsde)(Model *model, int64_t transitions, const REAL *matrices, REAL *actions);

/* losses.c */
HIDDEN void INTERNAL(losses)(Model *model, int64_t transitions, const Settings *settings, Statistics *statistics,
                             REAL *ratios);

/* Numbers from one row of a matrix (units x transitions) to the next: whole vectors, and one more where rows would begin at
 * the same place of every page, so that the cache could not hold eight of them at once. */
ALWAYS_INLINE int64_t row_of(int64_t transitions) {
    const int64_t row = padded(transitions);
    return row * (int64_t)sizeof(REAL) % 2048 ? row : row + LANES;
}

/* Give out scratch memory. Beyond the capacity only the size is counted. */
ALWAYS_INLINE REAL *take(Model *model, int64_t *used, int64_t rows, int64_t row) {
    REAL *found = model->scratch + (*used <= model->capacity ? *used : 0);
    *used += rows * row;
    return found;
}

/* The action net's outputs, (outputs x transitions), and the values, (1 x transitions). */
ALWAYS_INLINE Layer *last_layer(const Tower *tower) { return &tower->layers[tower->depth - 1]; }

/* The sum of n numbers, in four chains of one vector each. The padding holds zeros. */
ALWAYS_INLINE REAL sum(const REAL *x, int64_t n) {
    vec a = {0}, b = {0}, c = {0}, d = {0};
    int64_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        a += load(x + i);
        b += load(x + i + LANES);
        c += load(x + i + 2 * LANES);
        d += load(x + i + 3 * LANES);
    }
    for (; i < n; i += LANES) a += load(x + i);
    return sum_lanes((a + b) + (c + d));
}

#endif
