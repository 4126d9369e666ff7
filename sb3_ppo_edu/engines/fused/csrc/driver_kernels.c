/* The kernels that the sanitizers' program can call: a line each, which hands the arguments of a case over. */
#include "driver.h"
#include "kernels.h"

int64_t EXPORTED(act)(Model *, const REAL *, int64_t, const REAL *, void *, REAL *, REAL *);
void EXPORTED(value)(Model *, const REAL *, int64_t, REAL *);
void EXPORTED(features)(const Parts *, int64_t, int64_t, REAL *, int64_t);
void EXPORTED(gradients)(Model *, const Rollout *, const int64_t *, int64_t, const Settings *, Statistics *, REAL *);
double EXPORTED(apply)(const Optimizer *, double);

static void act(const Argument *a) {
    EXPORTED(act)(a[0].address, a[1].address, a[2].integer, a[3].address, a[4].address, a[5].address, a[6].address);
}
static void value(const Argument *a) { EXPORTED(value)(a[0].address, a[1].address, a[2].integer, a[3].address); }
static void features(const Argument *a) {
    EXPORTED(features)(a[0].address, a[1].integer, a[2].integer, a[3].address, a[4].integer);
}
static void gradients(const Argument *a) {
    EXPORTED(gradients)
    (a[0].address, a[1].address, a[2].address, a[3].integer, a[4].address, a[5].address, a[6].address);
}
static void apply(const Argument *a) { EXPORTED(apply)(a[0].address, a[1].real); }

const Kernel JOIN(sb3edu_driver, SUFFIX)[] = {{"act", 7, act},           {"value", 4, value},
                                              {"features", 5, features}, {"gradients", 7, gradients},
                                              {"apply", 2, apply},       {NULL, 0, NULL}};
