/* What the sanitizers' program (driver.c) and its table of kernels (driver_kernels.c) have in common. */
#ifndef SB3EDU_DRIVER_H
#define SB3EDU_DRIVER_H

#include <stdint.h>

/* An argument of a kernel: the address of a block of memory, a whole number or a double. */
typedef union {
    void *address;
    int64_t integer;
    double real;
} Argument;

/* A kernel by its name; `call` hands the arguments over. A table ends with a name that is NULL. */
typedef struct {
    const char *name;
    uint64_t arguments;
    void (*call)(const Argument *argument);
} Kernel;

#endif
