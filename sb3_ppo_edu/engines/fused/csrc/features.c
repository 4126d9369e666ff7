/* From observations as a rollout buffer stores them to the features that the networks take: parts side by side, numbers cast,
 * classes one-hot. Python's twin: features_of in engines/features.py.
 */
#include "kernels.h"

#define CAST(type, number)                                                                        \
    case type:                                                                                    \
        for (int64_t k = 0; k < count; k++) to[k] = (REAL)((const number *)part->data)[from + k]; \
        break

/* Some of a part's numbers as the networks' type. */
static void cast(const Part *part, int64_t from, int64_t count, REAL *to) {
    switch (part->type) {
        CAST(FLOAT32, float);
        CAST(FLOAT64, double);
        CAST(INT8, int8_t);
        CAST(UINT8, uint8_t);
        CAST(INT16, int16_t);
        CAST(INT32, int32_t);
        CAST(INT64, int64_t);
    }
}

/* The features of one transition; none beyond `end`. A class that a choice does not have makes them NaN, so that whatever is
 * computed from them is refused. */
static void features_of_one(const Parts *parts, int64_t transition, REAL *to, const REAL *end) {
    for (const Part *part = parts->parts; part < parts->parts + parts->count; part++) {
        const int64_t first = transition * part->width;
        if (!part->classes) {
            if (part->width > end - to) return;
            cast(part, first, part->width, to);
            to += part->width;
            continue;
        }
        for (int64_t c = 0; c < part->width; c++) {
            REAL chosen = -1;
            if (part->classes[c] < 1 || part->classes[c] > end - to) return;
            cast(part, first + c, 1, &chosen);
            if (chosen >= 0 && chosen < (REAL)part->classes[c])
                to[(int64_t)chosen] = 1;
            else
                to[0] = (REAL)NAN;
            to += part->classes[c];
        }
    }
}

/* The features of some transitions, `row` numbers from one to the next: those of an index, or n from `first` on. */
void INTERNAL(features)(const Parts *parts, const int64_t *index, int64_t first, int64_t n, REAL *x, int64_t row) {
    memset(x, 0, (size_t)(n * row) * sizeof(REAL));
    for (int64_t i = 0; i < n; i++) features_of_one(parts, index ? index[i] : first + i, x + i * row, x + (i + 1) * row);
}

EXPORT void EXPORTED(features)(const Parts *parts, int64_t first, int64_t n, REAL *x, int64_t row) {
    INTERNAL(features)(parts, 0, first, n, x, row);
}
