/* Products with weights that are read again at every time step: C += A B, where A has few rows, of numbers side by side.
 *
 * B is laid out first in panels some vectors wide, one row of a panel behind the other and one panel behind the other, so that
 * a product reads memory from the first number to the last. Every element is one chain of fused multiply-adds in the order of
 * k that goes on from C, whatever the panel.
 */
#include "kernels.h"

/* Registers decide the tile: PANEL_ROWS x PANEL_VECTORS sums, and some of B. A vector is one register, or several. */
#if defined(__AVX512F__)
#define PANEL_ROWS 6
#define PANEL_VECTORS 4
#elif defined(__AVX2__) || defined(__aarch64__)
#define PANEL_ROWS 2
#define PANEL_VECTORS 2
#else
#define PANEL_ROWS 2
#define PANEL_VECTORS 1
#endif

/* Some rows of a panel. Where whole columns of B lie side by side they are transposed in registers. */
static void panel_rows(int64_t rows, int64_t width, int64_t valid, const REAL *b, int64_t b_row, int64_t b_column, REAL *to) {
    if (b_row == 1 && rows % LANES == 0 && valid == width) {
        INTERNAL(transpose)(width, rows, b, b_column, to, width);
        return;
    }
    for (int64_t k = 0; k < rows; k++, b += b_row, to += width) {
        for (int64_t i = 0; i < width; i += LANES) {
            if (b_column == 1 && i < valid)
                store(to + i, load_some(b + i, valid - i));
            else
                for (int64_t l = i; l < i + LANES; l++) to[l] = l < valid ? b[l * b_column] : 0;
        }
    }
}

/* Lay B out: B[k][j] is at b[k * b_row + j * b_column], columns up to a whole vector are filled with zeros. With several
 * blocks, each of which goes on where the one before ends, so are the rows of each, since A has blocks of whole vectors then.
 */
void INTERNAL(panels)(int64_t blocks, int64_t inner, int64_t columns, const REAL *b, int64_t b_row, int64_t b_column,
                      REAL *panels) {
    const int64_t all = padded(columns), whole = PANEL_VECTORS * LANES, more = blocks > 1 ? padded(inner) - inner : 0;
    for (int64_t j = 0; j < all; j += whole) {
        const int64_t width = all - j < whole ? all - j : whole, valid = columns - j < width ? columns - j : width;
        for (int64_t block = 0; block < blocks; block++, panels += (inner + more) * width) {
            panel_rows(inner, width, valid, b + block * inner * b_row + j * b_column, b_row, b_column, panels);
            memset(panels + inner * width, 0, (size_t)(more * width) * sizeof(REAL));
        }
    }
}

ALWAYS_INLINE void panel_tile(const int rows, const int vectors, int64_t inner, const REAL *a, int64_t a_row,
                              const REAL *panel, REAL *c, int64_t c_row) {
    vec sums[PANEL_ROWS][PANEL_VECTORS];
    UNROLL for (int i = 0; i < rows; i++) {
        UNROLL for (int j = 0; j < vectors; j++) sums[i][j] = load(c + i * c_row + j * LANES);
    }
    for (int64_t k = 0; k < inner; k++, panel += vectors * LANES) {
        vec row[PANEL_VECTORS];
        UNROLL for (int j = 0; j < vectors; j++) row[j] = load(panel + j * LANES);
        UNROLL for (int i = 0; i < rows; i++) {
            const vec factor = splat(a[i * a_row + k]);
            UNROLL for (int j = 0; j < vectors; j++) sums[i][j] = vfused(factor, row[j], sums[i][j]);
        }
    }
    UNROLL for (int i = 0; i < rows; i++) {
        UNROLL for (int j = 0; j < vectors; j++) store(c + i * c_row + j * LANES, sums[i][j]);
    }
}

#define CASE(n)                                                       \
    case n:                                                           \
        panel_tile(n, vectors, inner, a, a_row, panel, c, c_row); \
        return;

ALWAYS_INLINE void any_rows(int rows, const int vectors, int64_t inner, const REAL *a, int64_t a_row, const REAL *panel,
                            REAL *c, int64_t c_row) {
    switch (rows) {
#if PANEL_ROWS > 2
        CASE(6)
        CASE(5)
        CASE(4)
        CASE(3)
#endif
        CASE(2)
        CASE(1)
    }
}

#undef CASE
#define CASE(n)                                                \
    case n:                                                    \
        any_rows(rows, n, inner, a, a_row, panel, c, c_row); \
        return;

static void any_tile(int rows, int vectors, int64_t inner, const REAL *a, int64_t a_row, const REAL *panel, REAL *c,
                     int64_t c_row) {
    switch (vectors) {
#if PANEL_VECTORS > 2
        CASE(4)
        CASE(3)
#endif
#if PANEL_VECTORS > 1
        CASE(2)
#endif
        CASE(1)
    }
}

/* C += A B, panel by panel, or from the last to the first: who begins where the product before ended finds those panels in the
 * cache. A's rows lie a_row apart, C's rows c_row, and C is aligned. */
void INTERNAL(panel_product)(int64_t rows, int64_t columns, int64_t inner, const REAL *a, int64_t a_row, const REAL *panels,
                             REAL *c, int64_t c_row, int64_t from_the_end) {
    const int64_t all = padded(columns), whole = PANEL_VECTORS * LANES, count = (all + whole - 1) / whole;
    for (int64_t p = 0; p < count; p++) {
        const int64_t j = (from_the_end ? count - 1 - p : p) * whole;
        const int vectors = (int)((all - j < whole ? all - j : whole) / LANES);
        for (int64_t i = 0; i < rows; i += PANEL_ROWS)
            any_tile(rows - i < PANEL_ROWS ? (int)(rows - i) : PANEL_ROWS, vectors, inner, a + i * a_row, a_row,
                     panels + j * inner, c + i * c_row + j, c_row);
    }
}
