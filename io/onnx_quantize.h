/* For io/onnx_quantize.c and io/onnx_scales.c only: one Quantize or Dequantize that is being
 * written. */
#ifndef BOBBIN_IO_ONNX_QUANTIZE_H
#define BOBBIN_IO_ONNX_QUANTIZE_H

#include "io/onnx.h"
#include "ops/attrs.h"

/* x as a matrix (R, C). rows -1: a symbol. */
typedef struct bb_onnx_quantizing {
    bb_onnx_body *b;
    const bb_quantize_attrs *a; /* of the Quantize, for a Dequantize too */
    const bb_recipe_form *form;
    const bb_value *x;
    int64_t rows, c, blocks; /* blocks: in a row */
    bool power_of_two, square;
} bb_onnx_quantizing;

/* Their nodes. in: x and scale. out: data, scale_inv and, where it is read, amax. */
void bb_onnx_quantize_nodes(const bb_onnx_quantizing *j, const char *const *in,
                            const char *const *out);
/* in: data, scale_inv and, of nvfp4, amax. */
void bb_onnx_dequantize_nodes(const bb_onnx_quantizing *j, const char *const *in,
                              const char *const *out);

#endif
