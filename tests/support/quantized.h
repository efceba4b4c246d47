/* An independent reference for quantizing: slow and straight from the rules in ops/quantize.c, one
 * run of elements at a time, codes found by search. For the tests of Quantize, RMSNormQuantize and
 * the quantizers of nn. */
#ifndef BOBBIN_TESTS_QUANTIZED_H
#define BOBBIN_TESTS_QUANTIZED_H

#include "ops/ops.h"
#include "tests/support/test.h"

enum { REF_E4M3 = 0, REF_E5M2, REF_E2M1 };

/* The value of a code: from sign, exponent and mantissa, by ldexp. */
double ref_decode(int kind, int code);
double ref_decode_e8m0(int code);
/* The code of x: the nearest finite value, of two the even one. */
int ref_encode(int kind, float x);

/* Everything Quantize gives for z, a matrix (rows, columns). Freed by ref_free. */
typedef struct ref_parts {
    uint8_t *data, *columns;
    uint8_t *scale_inv, *columns_scale_inv; /* bytes as stored, f32 or u8 */
    int64_t data_bytes, columns_bytes, scale_bytes, columns_scale_bytes;
    float amax;
} ref_parts;
ref_parts ref_quantize(const bb_quantize_attrs *a, const float *z, int64_t rows, int64_t columns,
                       float scale);
void ref_free(ref_parts *parts);

/* The values that these bytes stand for, in f32, row-major (rows, columns). */
void ref_dequantize(const bb_quantize_attrs *a, const ref_parts *parts, bool of_columns,
                    int64_t rows, int64_t columns, float *y);

/* Checks a tensor's bytes, or that it is NULL where there are none to expect. */
void check_bytes(test *t, bb_tensor *got, const void *expected, int64_t bytes, const char *what);
void check_parts(test *t, const bb_quantized_parts *got, const ref_parts *expected,
                 const bb_quantize_attrs *a, const char *what);
/* t's elements as f32, row-major; to be freed. */
float *read_f32(bb_tensor *t);

/* Names for messages, and every combination of attributes that makes a difference. */
typedef struct quantize_case {
    const char *name;
    bb_quantize_attrs attrs;
} quantize_case;
extern const quantize_case quantize_cases[];
extern const int quantize_case_count;

/* ---- What the tests of both ops that quantize share */

/* Quantize's second input: delayed scaling has one. */
static inline bb_tensor *scale_for(bb_context *ctx, const bb_quantize_attrs *a, double scale) {
    bb_tensor *s = bb_full(ctx, BB_F32, SH(1), scale);
    return a->recipe == BB_FP8_DELAYED ? s : NULL;
}

static inline bool fits(const quantize_case *c, int64_t rows, int64_t width) {
    int64_t d = bb_recipe_forms[c->attrs.recipe].divides;
    return rows % d == 0 && width % d == 0;
}

#endif
