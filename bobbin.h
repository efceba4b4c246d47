/* Bobbin: a small tensor library in C with a tape. This header brings in all the others, each the
 * manual of its folder: core (contexts, tensors, op records), ops (every op as a function),
 * autograd (gradients and their checks), nn (layers and optimizers), io (files). */
#ifndef BOBBIN_H
#define BOBBIN_H

#include "autograd/autograd.h"
#include "core/core.h"
#include "io/io.h"
#include "nn/fusible.h"
#include "nn/nn.h"
#include "nn/quantize.h"
#include "ops/ops.h"

#define BOBBIN_VERSION "0.1.0"

#ifdef __cplusplus
extern "C" {
#endif

/* The version of the library that runs, which may be later than that of this header. */
BB_API const char *bb_version(void);

#ifdef __cplusplus
}
#endif

#endif
