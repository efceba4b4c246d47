/* What the adapters of RMSNormImpl, AddRMSNorm and layer_norm share: rows, scale tables, sums
 * (norm.c). */
#ifndef BOBBIN_BACKENDS_CPU_NORM_H
#define BOBBIN_BACKENDS_CPU_NORM_H

#include "backends/cpu/cpu.h"
#include "ops/attrs.h"

/* One forward or backward over all rows. Tensors that an op lacks, or nobody wants, are NULL. */
typedef struct bb_norm_pass {
    void (*loop)(const bb_norm_run *run);
    const bb_tensor *x, *dy;
    const bb_tensor *scale, *bias; /* absent: ones, zeros; of one shape where both are there */
    bool layer;                    /* has a bias, given or zero */
    bb_tensor *y;                  /* output, or dx */
    const bb_tensor *more;         /* AddRMSNorm (loops/norm.h), contiguous */
    bb_tensor *sum;
    bb_tensor *mean, *rstd;
    bb_tensor *dscale, *dbias;
    double eps;
    bool round_first;
} bb_norm_pass;

bb_status bb_cpu_norm(const bb_call *call, const bb_norm_pass *pass);

/* The last axis alone, and a scale or bias (NULL: fits) that bb_cpu_norm can take. */
bool bb_cpu_norm_fits(const bb_tensor *x, const bb_ints *axes, const bb_tensor *scale);

/* Which of the two rounding orders of ops/rms_norm.c, for input and scale of these dtypes. */
bool bb_cpu_rms_norm_rounds_first(const bb_rms_norm_attrs *attrs, int dtype, int scale);

#endif
