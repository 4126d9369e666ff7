/* A kernel to try building, loading and checking with: y ← a·x + y. */
#include <stddef.h>

#define JOIN(a, b) a##b
#define NAME(verb, suffix) JOIN(sb3edu_##verb, suffix)

void NAME(axpy, SUFFIX)(size_t n, REAL a, const REAL *x, REAL *y) {
    for (size_t i = 0; i < n; i++)
        y[i] = a * x[i] + y[i];
}
