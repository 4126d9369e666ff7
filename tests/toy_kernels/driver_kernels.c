/* The toy kernel in the sanitizers' program. */
#include <stddef.h>

#include "driver.h"

#define JOIN_AGAIN(a, b) a##b
#define JOIN(a, b) JOIN_AGAIN(a, b)

void JOIN(sb3edu_axpy, SUFFIX)(size_t n, REAL a, const REAL *x, REAL *y);

/* The vectors lie behind a structure of two pointers, as the real kernels' arrays do. */
static void axpy(const Argument *argument) {
    REAL **vectors = argument[2].address;
    JOIN(sb3edu_axpy, SUFFIX)((size_t)argument[0].integer, (REAL)argument[1].real, vectors[0], vectors[1]);
}

const Kernel JOIN(sb3edu_driver, SUFFIX)[] = {{"axpy", 3, axpy}, {NULL, 0, NULL}};
