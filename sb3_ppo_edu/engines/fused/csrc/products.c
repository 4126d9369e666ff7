/* Products of matrices. Python's twins: Linear in engines/derivation/layers.py.
 *
 * Every element is one chain of fused multiply-adds in the order of k, whatever the tile it is computed in: tiles, blocks and
 * instruction sets change the speed and no bit.
 */
#include "kernels.h"

/* Registers decide the tile: TILE_ROWS x TILE_VECTORS sums, one row of B and one number of A have to fit. */
#if defined(__AVX512F__)
#define TILE_ROWS 8
#define TILE_VECTORS 2
#elif defined(__AVX2__)
#define TILE_ROWS 6
#define TILE_VECTORS 1
#elif defined(__aarch64__)
#define TILE_ROWS 6
#define TILE_VECTORS 1
#else
#define TILE_ROWS 2
#define TILE_VECTORS 1
#endif

#define BLOCK 512       /* of k: a panel of B with so many rows stays in the cache while all of A goes by */
#define PACKING_ROWS 16 /* rows of the product from which it pays to lay the panel out side by side */

/* What a tile needs: C[i][j] = start + sum over k of A[i][k] B[k][j], with A[i][k] at a[i * a_row + k * a_step]. */
typedef struct {
    int64_t inner, a_row, a_step, b_row, c_row;
    int goes_on; /* the sums go on from C, not from the bias */
} Shape;

ALWAYS_INLINE void tile(const int rows, const int vectors, const Shape *shape, const REAL *a, const REAL *b, REAL *c,
                        const REAL *bias, int64_t last) {
    vec sums[TILE_ROWS][TILE_VECTORS];
    const int64_t a_row = shape->a_row, a_step = shape->a_step, b_row = shape->b_row, inner = shape->inner;
    UNROLL for (int i = 0; i < rows; i++) {
        UNROLL for (int j = 0; j < vectors; j++) {
            const REAL *from = c + i * shape->c_row + j * LANES;
            if (shape->goes_on)
                sums[i][j] = load_some(from, j == vectors - 1 ? last : LANES);
            else
                sums[i][j] = splat(bias ? bias[i] : (REAL)0);
        }
    }
    for (int64_t k = 0; k < inner; k++) {
        vec row[TILE_VECTORS];
        UNROLL for (int j = 0; j < vectors; j++) row[j] = load(b + j * LANES);
        UNROLL for (int i = 0; i < rows; i++) {
            const vec factor = splat(a[i * a_row]);
            UNROLL for (int j = 0; j < vectors; j++) sums[i][j] = vfused(factor, row[j], sums[i][j]);
        }
        a += a_step;
        b += b_row;
    }
    UNROLL for (int i = 0; i < rows; i++) {
        UNROLL for (int j = 0; j < vectors; j++) {
            store_some(c + i * shape->c_row + j * LANES, sums[i][j], j == vectors - 1 ? last : LANES);
        }
    }
}

#define CASE(n)                                                    \
    case n:                                                        \
        tile(n, vectors, shape, a, b, c, bias, last);              \
        return;

ALWAYS_INLINE void any_rows(int rows, const int vectors, const Shape *shape, const REAL *a, const REAL *b, REAL *c,
                            const REAL *bias, int64_t last) {
    switch (rows) {
#if TILE_ROWS > 6
        CASE(8)
        CASE(7)
#endif
#if TILE_ROWS > 2
        CASE(6)
        CASE(5)
        CASE(4)
        CASE(3)
#endif
        CASE(2)
        CASE(1)
    }
}

static void any_tile(int rows, int vectors, const Shape *shape, const REAL *a, const REAL *b, REAL *c, const REAL *bias,
                     int64_t last) {
#if TILE_VECTORS > 1
    if (vectors == 2) {
        any_rows(rows, 2, shape, a, b, c, bias, last);
        return;
    }
#endif
    (void)vectors;
    any_rows(rows, 1, shape, a, b, c, bias, last);
}

/* C = A B, plus a bias for each row where there is one. B is aligned and its rows are padded; C may lie anywhere. */
void INTERNAL(product)(int64_t rows, int64_t columns, int64_t inner, const REAL *a, int64_t a_row, int64_t a_step,
                       const REAL *b, int64_t b_row, REAL *c, int64_t c_row, const REAL *bias) {
    REAL panel[BLOCK * TILE_VECTORS * LANES] __attribute__((aligned(64)));
    const int packs = rows >= PACKING_ROWS && b_row > TILE_VECTORS * LANES;
    int64_t k = 0;
    do { /* once even if there is nothing to add up */
        const int64_t depth = inner - k < BLOCK ? inner - k : BLOCK;
        Shape shape = {depth, a_row, a_step, b_row, c_row, k > 0};
        for (int64_t j = 0; j < columns; j += TILE_VECTORS * LANES) {
            const int64_t left = columns - j;
            const int vectors = left > (TILE_VECTORS - 1) * LANES ? TILE_VECTORS : 1;
            const int64_t last = left < vectors * LANES ? left - (vectors - 1) * LANES : LANES;
            const REAL *from = b + k * b_row + j;
            if (packs) {
                REAL *to = panel;
                for (int64_t r = 0; r < depth; r++)
                    for (int v = 0; v < vectors; v++, to += LANES) store(to, load(from + r * b_row + v * LANES));
                from = panel;
                shape.b_row = vectors * LANES;
            }
            for (int64_t i = 0; i < rows; i += TILE_ROWS) {
                const int height = rows - i < TILE_ROWS ? (int)(rows - i) : TILE_ROWS;
                const REAL *factors = a + i * a_row + k * a_step;
                any_tile(height, vectors, &shape, factors, from, c + i * c_row + j, bias ? bias + i : 0, last);
            }
        }
        k += depth;
    } while (k < inner);
}

/* z = W x + b for one transition: each element is a sum over k in LANES chains, then one over what is left of k. */
void INTERNAL(row_product)(const Layer *layer, const REAL *x, REAL *z, int64_t stride) {
    enum { AT_ONCE = 4 };
    const int64_t inputs = layer->inputs, whole = inputs / LANES * LANES;
    for (int64_t first = 0; first < layer->outputs; first += AT_ONCE) {
        const int count = layer->outputs - first < AT_ONCE ? (int)(layer->outputs - first) : AT_ONCE;
        const REAL *w = layer->weight + first * inputs;
        vec sums[AT_ONCE] = {{0}};
        for (int64_t k = 0; k < whole; k += LANES) {
            const vec row = load_unaligned(x + k);
            if (count == AT_ONCE) {
                UNROLL for (int i = 0; i < AT_ONCE; i++) sums[i] = vfused(load_unaligned(w + i * inputs + k), row, sums[i]);
            } else
                UNROLL for (int i = 0; i < AT_ONCE; i++)
                    if (i < count) sums[i] = vfused(load_unaligned(w + i * inputs + k), row, sums[i]);
        }
        for (int i = 0; i < count; i++) {
            REAL total = layer->bias[first + i] + (whole ? sum_lanes(sums[i]) : 0);
            for (int64_t k = whole; k < inputs; k++) total = fused(w[i * inputs + k], x[k], total);
            z[(first + i) * stride] = total;
        }
    }
}

#if !DOUBLE
/* Swap the off-diagonal blocks of d x d numbers: the lower half of one vector with the upper half of another. */
#define SWAP(d, LOW, HIGH)                                              \
    for (int i = 0; i < LANES; i++)                                     \
        if (!(i & d)) {                                                 \
            const vec low = __builtin_shufflevector(v[i], v[i + d], LOW);   \
            const vec high = __builtin_shufflevector(v[i], v[i + d], HIGH); \
            v[i] = low;                                                 \
            v[i + d] = high;                                            \
        }
#define LIST(...) __VA_ARGS__
#endif

/* One block of LANES x LANES numbers, transposed in registers. */
ALWAYS_INLINE void transpose_block(vec v[]) {
#if DOUBLE
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < i; j++) {
            const REAL swapped = v[i][j];
            v[i][j] = v[j][i];
            v[j][i] = swapped;
        }
#else
    UNROLL SWAP(8, LIST(0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23),
                LIST(8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31))
    UNROLL SWAP(4, LIST(0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27),
                LIST(4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31))
    UNROLL SWAP(2, LIST(0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29),
                LIST(2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31))
    UNROLL SWAP(1, LIST(0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30),
                LIST(1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31))
#endif
}

/* Rows of `to` are the columns of `from`. The rows of both are padded, `to` is aligned and has room for whole blocks. */
void INTERNAL(transpose)(int64_t rows, int64_t columns, const REAL *from, int64_t from_row, REAL *to, int64_t to_row) {
    vec v[64 / sizeof(REAL)];
    for (int64_t i = 0; i < rows; i += LANES)
        for (int64_t j = 0; j < columns; j += LANES) {
            if (i + LANES <= rows) {
                UNROLL for (int r = 0; r < LANES; r++) v[r] = load_unaligned(from + (i + r) * from_row + j);
            } else
                UNROLL for (int r = 0; r < LANES; r++) v[r] = i + r < rows ? load_unaligned(from + (i + r) * from_row + j) : (vec){0};
            transpose_block(v);
            UNROLL for (int r = 0; r < LANES; r++) store(to + (j + r) * to_row + i, v[r]);
        }
}
