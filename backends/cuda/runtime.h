/* What host code needs of a device's runtime. runtime.cu is CUDA's, sim/runtime.cpp the
 * simulation's. Functions that can fail return NULL or a text that says why; all work goes to one
 * stream in order, but for the copies beside it. */
#ifndef BOBBIN_BACKENDS_CUDA_RUNTIME_H
#define BOBBIN_BACKENDS_CUDA_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

struct bb_runtime;

struct bb_device_info {
    char name[256];
    int multiprocessors, major, minor;
    size_t shared_bytes; /* a block may ask for */
    size_t memory_bytes;
    bool simulated;
};

/* Opens the first device. NULL: *why says what is missing (static text or one that lives in the
 * runtime). */
bb_runtime *bb_runtime_open(bb_device_info *info, const char **why);
void bb_runtime_close(bb_runtime *r);

void *bb_runtime_allocate(bb_runtime *r, size_t bytes); /* 256-byte aligned; NULL: no memory */
void bb_runtime_free(bb_runtime *r, void *block);

/* Memory that host and device both see: few bytes, for what a kernel has to tell. 256-byte aligned;
 * NULL: no memory. */
void *bb_runtime_allocate_shared(bb_runtime *r, size_t bytes);
void bb_runtime_free_shared(bb_runtime *r, void *block);

enum bb_direction { BB_TO_DEVICE, BB_TO_HOST, BB_ON_DEVICE };
/* Host memory may be reused when the call returns (TO_DEVICE), and is complete after synchronize
 * (TO_HOST). */
const char *bb_runtime_copy(bb_runtime *r, void *target, const void *source, size_t bytes,
                            bb_direction direction);
const char *bb_runtime_set(bb_runtime *r, void *target, int byte, size_t bytes);
const char *bb_runtime_synchronize(bb_runtime *r);

/* Copies beside the work: a second stream, between device memory and page-locked memory. begin:
 * copies given from here on start after the work given so far; work that is given between begin and
 * a copy is not waited for (the simulation makes that an error). end: a ticket, rising, for the
 * copies given so far. wait: work given from here on starts after the copies of that ticket. In a
 * captured step all of them must be waited for, and none from before it. */
void *bb_runtime_allocate_pinned(bb_runtime *r, size_t bytes); /* NULL: no memory */
void bb_runtime_free_pinned(bb_runtime *r, void *block);       /* waits for the copies */
const char *bb_runtime_side_begin(bb_runtime *r);
const char *bb_runtime_side_copy(bb_runtime *r, void *target, const void *source, size_t bytes,
                                 bb_direction direction);
const char *bb_runtime_side_end(bb_runtime *r, uint64_t *ticket);
const char *bb_runtime_side_wait(bb_runtime *r, uint64_t ticket);

/* Graphs. begin: work is recorded instead of run. end: what was recorded, or NULL and *why. */
const char *bb_runtime_capture_begin(bb_runtime *r);
void *bb_runtime_capture_end(bb_runtime *r, const char **why);
const char *bb_runtime_replay(bb_runtime *r, void *graph);
void bb_runtime_graph_free(bb_runtime *r, void *graph);

#if !defined(BOBBIN_CUDA_SIM)
#include <cuda_runtime.h>
cudaStream_t bb_runtime_stream(bb_runtime *r);
#endif

#endif
