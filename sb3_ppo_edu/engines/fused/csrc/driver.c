/* Runs the kernels on cases from files, without Python: `driver FILE…`, for gcc's address and undefined-behaviour sanitizers.

   Each block of a case is allocated with exactly its size, so that the sanitizer sees the first byte read or written beyond.
   Every level that the processor has runs every case. Prints what differs from the expected values; exits with 1 then.

   A case, little-endian, in words of 8 bytes; tests/kernel_cases.py writes it:

     "SB3EDU01"
     name of the kernel (32 bytes, zeros behind it), "f32" or "f64" (8 bytes)
     number of blocks, of pointers, of arguments
     each block:     size in bytes, alignment, type (0 bytes, 1 int64, 2 float or double as the kernel's, 3 double), compared?,
                     relative and absolute tolerance (doubles), content, and the expected content if it is compared;
                     both padded with zeros to whole words
     each pointer:   block, offset in it, and the block whose address is written there
     each argument:  1 and a block whose address is handed over, or 0 and a word (whole number or double) */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "driver.h"

const char *sb3edu_cpu(void);

#if defined(__x86_64__)
#define TABLES(level) extern const Kernel sb3edu_driver_f32_##level[], sb3edu_driver_f64_##level[];
TABLES(v2)
TABLES(v3)
TABLES(v4)
static const char *const LEVELS[] = {"v2", "v3", "v4"};
static const Kernel *const KERNELS[][2] = {
    {sb3edu_driver_f32_v2, sb3edu_driver_f64_v2},
    {sb3edu_driver_f32_v3, sb3edu_driver_f64_v3},
    {sb3edu_driver_f32_v4, sb3edu_driver_f64_v4},
};
#else
extern const Kernel sb3edu_driver_f32_arm64[], sb3edu_driver_f64_arm64[];
static const char *const LEVELS[] = {"arm64"};
static const Kernel *const KERNELS[][2] = {{sb3edu_driver_f32_arm64, sb3edu_driver_f64_arm64}};
#endif

enum { BYTES, INT64, REAL_NUMBERS, DOUBLES };

typedef struct {
    uint64_t size, alignment, type, compared;
    double relative, absolute;
    unsigned char *memory, *expected;
} Block;

static void fail(const char *file, const char *what) {
    fprintf(stderr, "%s: %s\n", file, what);
    exit(2);
}

static uint64_t word(FILE *stream, const char *file) {
    uint64_t value;
    if (fread(&value, 8, 1, stream) != 1) fail(file, "ends early");
    return value;
}

static double number(FILE *stream, const char *file) {
    uint64_t bits = word(stream, file);
    double value;
    memcpy(&value, &bits, 8);
    return value;
}

/* A block's content, in memory of exactly its size. */
static unsigned char *content(FILE *stream, const char *file, uint64_t size, uint64_t alignment) {
    void *memory = NULL;
    if (posix_memalign(&memory, alignment < 8 ? 8 : alignment, size ? size : 1)) fail(file, "no memory");
    if (fread(memory, 1, size, stream) != size || fseek(stream, (long)(-size & 7), SEEK_CUR)) fail(file, "ends early");
    return memory;
}

/* Element i of an array of floats or doubles. */
static double element(const unsigned char *array, uint64_t i, int single) {
    float f;
    double d;
    if (single) {
        memcpy(&f, array + 4 * i, 4);
        return f;
    }
    memcpy(&d, array + 8 * i, 8);
    return d;
}

/* How many elements of a block differ from what is expected; the first is printed. NaN equals NaN. */
static int differences(const Block *block, uint64_t index, int single, const char *where) {
    int count = 0;
    if (block->type == BYTES || block->type == INT64)
        count = memcmp(block->memory, block->expected, block->size) != 0;
    else {
        int narrow = single && block->type == REAL_NUMBERS;
        for (uint64_t i = 0; i < block->size / (narrow ? 4 : 8); i++) {
            double found = element(block->memory, i, narrow), expected = element(block->expected, i, narrow);
            int same = found == expected || (isnan(found) && isnan(expected)) ||
                       fabs(found - expected) <= block->absolute + block->relative * fabs(expected);
            if (!same && !count++)
                printf("%s: block %d, element %d: found %.17g, expected %.17g\n", where, (int)index, (int)i, found, expected);
        }
    }
    if (count) printf("%s: block %d: %d differ\n", where, (int)index, count);
    return count;
}

static int run_case(const char *file, unsigned level) {
    char name[33] = {0}, dtype[9] = {0}, magic[9] = {0}, where[4096];
    FILE *stream = fopen(file, "rb");
    if (!stream || fread(magic, 8, 1, stream) != 1 || strcmp(magic, "SB3EDU01")) fail(file, "is no case");
    if (fread(name, 32, 1, stream) != 1 || fread(dtype, 8, 1, stream) != 1) fail(file, "ends early");
    snprintf(where, sizeof where, "%s (%s, %s, %s)", file, name, dtype, LEVELS[level]);

    uint64_t blocks = word(stream, file), pointers = word(stream, file), arguments = word(stream, file);
    Block *block = calloc(blocks + 1, sizeof *block);
    Argument *argument = calloc(arguments + 1, sizeof *argument);
    if (!block || !argument) fail(file, "no memory");
    for (Block *b = block; b < block + blocks; b++) {
        b->size = word(stream, file), b->alignment = word(stream, file), b->type = word(stream, file);
        b->compared = word(stream, file), b->relative = number(stream, file), b->absolute = number(stream, file);
        b->memory = content(stream, file, b->size, b->alignment);
        if (b->compared) b->expected = content(stream, file, b->size, 8);
    }
    for (uint64_t i = 0; i < pointers; i++) {
        uint64_t from = word(stream, file), offset = word(stream, file), to = word(stream, file);
        if (from >= blocks || to >= blocks || block[from].size < 8 || offset > block[from].size - 8)
            fail(file, "a pointer lies outside");
        memcpy(block[from].memory + offset, &block[to].memory, sizeof(void *));
    }
    for (uint64_t i = 0; i < arguments; i++) {
        uint64_t is_block = word(stream, file), value = word(stream, file);
        if (is_block && value >= blocks) fail(file, "an argument names no block");
        if (is_block)
            argument[i].address = block[value].memory;
        else
            memcpy(&argument[i], &value, 8);
    }
    fclose(stream);

    int single = !strcmp(dtype, "f32"), wrong = 0;
    const Kernel *kernel = KERNELS[level][!single];
    while (kernel->name && strcmp(kernel->name, name)) kernel++;
    if (!kernel->name) fail(file, "names no kernel of driver_kernels.c");
    if (kernel->arguments != arguments) fail(file, "has another number of arguments than the kernel");
    kernel->call(argument);

    for (uint64_t i = 0; i < blocks; i++) {
        if (block[i].compared) wrong += differences(&block[i], i, single, where);
        free(block[i].memory);
        free(block[i].expected);
    }
    free(block);
    free(argument);
    return wrong != 0;
}

int main(int count, char **files) {
    int wrong = 0, run = 0;
    const char *cpu = sb3edu_cpu();
    for (unsigned level = 0; level < sizeof LEVELS / sizeof *LEVELS && strcmp(cpu, LEVELS[level]) >= 0; level++)
        for (int i = 1; i < count; i++, run++) wrong += run_case(files[i], level);
    printf("%d cases up to %s: %d differ\n", run, cpu, wrong);
    return wrong || !run;
}
