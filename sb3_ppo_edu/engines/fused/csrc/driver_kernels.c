/* The kernels that the sanitizers' program can call: a line each, which hands the arguments of a case over. */
#include <stddef.h>

#include "driver.h"

#define JOIN_AGAIN(a, b) a##b
#define JOIN(a, b) JOIN_AGAIN(a, b)

const Kernel JOIN(sb3edu_driver, SUFFIX)[] = {{NULL, 0, NULL}};
