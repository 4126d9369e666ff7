/* A kernel to try building, loading and checking with: y ← a·x + y. */
#include <stddef.h>

#define JOIN_AGAIN(a, b) a##b
#define JOIN(a, b) JOIN_AGAIN(a, b)

void JOIN(sb3edu_axpy, SUFFIX)(size_t n, REAL a, const REAL *x, REAL *y) {
    for (size_t i = 0; i < n; i++) y[i] = a * x[i] + y[i];
}
