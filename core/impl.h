/* The inside of core, for core, the backends, autograd, nn and io. Not installed, not for users.
 * core/core.h is the manual; this page gives the layouts and the two seams: bb_backend (what a
 * device must offer) and bb_recorder (who is told about every op that ran). */
#ifndef BOBBIN_CORE_IMPL_H
#define BOBBIN_CORE_IMPL_H

#include "core/core.h"

/* Bytes shared by tensors that view them. Counted; returned to the pool at zero. */
typedef struct bb_storage {
    bb_context *ctx;
    void *data;
    size_t bytes;    /* capacity, after rounding to the pool's class */
    size_t used;     /* what was asked for */
    uint64_t serial; /* of this use of the bytes: no two of a context are alike */
    uint32_t refs;
    uint32_t version; /* counts changes in place */
    uint16_t size_class;
    uint8_t device;
    bool gradient;                  /* of a leaf: a walk may add to it */
    bool lasting;                   /* a context tensor had it: letting go of it frees nothing */
    struct bb_storage *next;        /* in the pool's free list */
    void (*give_back)(void *owner); /* not NULL: the bytes are someone else's */
    void *owner;
} bb_storage;

typedef enum bb_life {
    BB_LIFE_STEP = 0,
    BB_LIFE_CONTEXT,
    BB_LIFE_DROPPED, /* given back early, header still readable */
    BB_LIFE_DEAD     /* its step has ended */
} bb_life;

struct bb_tensor {
    bb_context *ctx;
    bb_storage *storage; /* NULL: dropped, dead, or a parameter not yet materialized */
    char *data;          /* first element (storage->data + offset), or NULL */
    int64_t count;       /* elements */
    uint8_t dtype, device, rank, life;
    bool requires_grad, contiguous;
    uint64_t step; /* in which it was made; 0 for context tensors */
    int64_t size[BB_MAX_RANK];
    int64_t stride[BB_MAX_RANK]; /* in elements; 0 on broadcast axes, never negative */
    /* The tape's corner: core only clears it. */
    int32_t node;        /* index of the node that made it; -1: a leaf */
    int32_t node_output; /* which of its outputs */
    int32_t capture;     /* slot of the walk that wants this tensor's gradient; -1: none */
    bb_tensor *grad;     /* leaves: accumulated gradient */
    bool grad_empty;     /* grad's storage is there but holds nothing yet: write, do not add */
    bool retain_grad;
    bool pinned;                   /* held by the tape: the end of a scope leaves it alone */
    bool kept;                     /* bb_keep's: bb_drop gives the header back too */
    struct bb_tensor *prev, *next; /* context tensors: the list of their kind */
};

/* What a device must offer. Calls are stream-ordered; synchronize waits. copy moves between tensors
 * of the same shape, any strides, any dtypes, where at least one lives on this device and the other
 * on this device or the host. */
enum { BB_BACKEND_ABI = 4 };
typedef struct bb_backend {
    uint32_t abi;
    const char *name; /* "cpu" */
    bb_device device;
    void *(*allocate)(struct bb_backend *self, size_t bytes); /* NULL: no memory */
    void (*release)(struct bb_backend *self, void *block, size_t bytes);
    bb_status (*copy)(struct bb_backend *self, const bb_tensor *source, bb_tensor *target);
    bb_status (*fill)(struct bb_backend *self, bb_tensor *target, double value);
    bb_status (*add)(struct bb_backend *self, const bb_tensor *source,
                     bb_tensor *target); /* target += source; same shape, dtype */
    bb_status (*synchronize)(struct bb_backend *self);
    /* Fills a new block with bytes that are NaN in every float type, for tests. NULL: the block is
     * host memory. */
    void (*poison)(struct bb_backend *self, void *block, size_t bytes);
    /* A step as one graph (core/capture.c). Between begin and end work is recorded instead of run,
     * and memory may still be allocated; end gives what replay runs, or NULL after a failure. All
     * NULL: the device has no such thing. */
    bb_status (*capture_begin)(struct bb_backend *self);
    void *(*capture_end)(struct bb_backend *self);
    bb_status (*replay)(struct bb_backend *self, void *graph);
    void (*graph_free)(struct bb_backend *self, void *graph);
    /* What memory gives: reads each of `from` once (1 to 3 buffers of so many bytes, 16-byte
     * aligned) and writes each of `to` (1 or 2, no more than are read). For benchmarks. NULL: none.
     */
    bb_status (*bandwidth)(struct bb_backend *self, const void *const *from, int reads,
                           void *const *to, int writes, size_t bytes);
    /* A second queue beside the work, for copies between device memory and page-locked memory of
     * the host (autograd/offload.c). side_begin: copies given from here on start after the work
     * given so far. side_end: a ticket, rising, for the copies given so far. side_wait: work given
     * from here on starts after the copies of that ticket. The host waits for none of it, only
     * pinned_release does. All NULL: the device has no such thing. */
    void *(*pinned_allocate)(struct bb_backend *self, size_t bytes); /* NULL: no memory */
    void (*pinned_release)(struct bb_backend *self, void *block, size_t bytes);
    bb_status (*side_begin)(struct bb_backend *self);
    bb_status (*side_copy)(struct bb_backend *self, void *target, const void *source, size_t bytes,
                           bool to_host);
    bb_status (*side_end)(struct bb_backend *self, uint64_t *ticket);
    bb_status (*side_wait)(struct bb_backend *self, uint64_t ticket);
    const char *hardware;     /* what it runs on, for reports; NULL: the host */
    bool simulated;           /* nothing measured on it says anything of real hardware */
    const bb_kernel *kernels; /* ended by a row without a name */
    void (*close)(struct bb_backend *self);
    bb_context *ctx; /* set at attachment */
} bb_backend;

/* What a backend that is loaded at run time may call: it links with nothing of ours. */
typedef struct bb_host {
    uint32_t abi;    /* BB_BACKEND_ABI */
    uint32_t layout; /* BB_HOST_LAYOUT: the shared structs have the sizes it was built with */
    bb_status (*fail)(bb_context *ctx, bb_status status, const char *format, ...) BB_PRINTF(3, 4);
    bb_storage *(*storage_new)(bb_context *ctx, bb_device device, size_t bytes);
    void (*storage_unref)(bb_storage *s);
    void *(*allocate)(bb_context *ctx, size_t bytes); /* host memory, counted */
    void (*release)(bb_context *ctx, void *block, size_t bytes);
} bb_host;
#define BB_HOST_LAYOUT                                                                             \
    ((uint32_t)(sizeof(bb_tensor) + 31 * sizeof(bb_storage) + 61 * sizeof(bb_call) +               \
                127 * sizeof(bb_context) + 251 * sizeof(bb_backend)))

/* The one function that a module exports, under this name. NULL: it cannot serve here, and *why
 * says why. */
#define BB_MODULE_OPEN "bb_module_open"
typedef bb_backend *(*bb_module_open_fn)(const bb_host *host, bb_context *ctx, const char **why);

/* Told of every op that ran. The tape is one, the graph recorder another. */
typedef struct bb_recorder {
    /* A primitive, or a composite that ran fused. May fail (no memory): dispatch then drops the
     * outputs. */
    bb_status (*record)(struct bb_recorder *self, const bb_call *call);
    /* A composite that runs composed: its primitives are recorded between these two. May be NULL.
     */
    void (*enter)(struct bb_recorder *self, const bb_call *call);
    void (*leave)(struct bb_recorder *self, const bb_call *call);
    void (*end_step)(struct bb_recorder *self); /* may be NULL */
    void (*close)(struct bb_recorder *self);    /* may be NULL */
    bool gradients_only;                        /* wants only calls with needs_grad */
} bb_recorder;

/* Told of each tensor before its values are read, by an op that is no view or for the host; watches
 * further out are told too (autograd/recompute.c). `who` reads. */
typedef struct bb_watch {
    struct bb_watch *outer;
    bb_status (*read)(struct bb_watch *self, const char *who, const bb_tensor *t);
} bb_watch;

/* Registry row: an op and its kernels by device. */
typedef struct bb_entry {
    const bb_op *op;
    bb_kernel kernel[BB_DEVICE_COUNT]; /* forward NULL: none */
    uint8_t n_inputs, n_outputs;
    bool checks_attrs; /* it has choices or lists, which dispatch checks at each call */
} bb_entry;

enum { BB_MAX_RECORDERS = 4, BB_MESSAGE_BYTES = 1024, BB_SIZE_CLASSES = 344 };

/* Step tensors live in slabs. Two generations: the current step's and the last step's (dead
 * headers, kept so that a late use is caught and named). */
typedef struct bb_slab {
    struct bb_slab *next, *prev;
    bb_tensor tensor[64];
} bb_slab;
typedef struct bb_generation {
    bb_slab *first, *current;
    size_t count; /* tensors handed out */
} bb_generation;

/* Bytes with the step's lifetime, for tape nodes and attribute copies. */
typedef struct bb_arena_block {
    struct bb_arena_block *next;
    size_t bytes, used;
} bb_arena_block;
typedef struct bb_arena {
    bb_arena_block *first, *current;
} bb_arena;

struct bb_context {
    bb_allocator allocator;
    bb_status status;
    char message[BB_MESSAGE_BYTES];
    void (*on_error)(void *user, const char *line);
    void *on_error_user;
    bool telling;           /* on_error is being called */
    const bb_call *running; /* whose kernel is at work: named where the environment fails it */
    bool running_backward;

    bb_entry *entries;
    int entry_count, entry_capacity;
    int *entry_index; /* open-addressed by record address; -1: free */
    int entry_index_size;

    bb_backend *backend[BB_DEVICE_COUNT];
    const char *backend_missing[BB_DEVICE_COUNT]; /* why it is NULL */
    /* Asked once a device. NULL: nothing to load. */
    bb_status (*load_device)(bb_context *ctx, bb_device device);
    bool load_tried[BB_DEVICE_COUNT];
    char backend_why[BB_DEVICE_COUNT][400]; /* room for backend_missing */
    bb_recorder *recorder[BB_MAX_RECORDERS];
    int recorder_count;
    void *tape;              /* autograd's; also in recorder[] */
    bb_watch *watch;         /* the innermost; NULL: nobody asks */
    const bb_module *module; /* the innermost layer that runs; NULL: none */
    uint64_t module_calls;

    bb_generation generation[2];
    int current_generation;
    uint64_t step; /* from 1 */
    bb_arena arena;
    bb_tensor *context_tensors; /* list */
    bb_tensor *retired[2];      /* headers dropped in the current and in the last step, by
                                   generation */
    bb_tensor *spare_tensors;   /* headers that will be context tensors again */
    bb_storage *free_storages;  /* headers */
    uint64_t storages;          /* serials given */
    bb_storage *pool[BB_DEVICE_COUNT][BB_SIZE_CLASSES];
    bb_memory memory;

    bb_rng rng;
    int threads;
    bool deterministic;
    bb_path path;
    bool grad_enabled, poison, synchronize;
    FILE *trace;
    int composing;    /* how many decompositions are under way */
    bb_device device; /* of tensors that no input places */
    int sm_margin;
    bb_compute_type f32_compute;
    bb_capture *captures; /* list */
    bb_device capture_device;
    bool capturing; /* what runs is recorded for a replay: values must not go to or come from the
                       host */
    int exports;    /* tensors that other libraries hold (dlpack.c) */
    bool closing;   /* closed by its owner; freed with the last export */
};

/* ---- core/memory.c: host bytes, counted */
void *bb_host_allocate(bb_context *ctx,
                       size_t bytes); /* sticky BB_ERR_MEMORY and NULL on failure */
void bb_host_release(bb_context *ctx, void *block, size_t bytes);
void *bb_arena_allocate(bb_context *ctx, bb_arena *arena, size_t bytes); /* 16-byte aligned */
void bb_arena_reset(bb_arena *arena);
void bb_arena_free(bb_context *ctx, bb_arena *arena);

/* ---- core/storage.c */
bb_storage *bb_storage_new(bb_context *ctx, bb_device device, size_t bytes);
/* Bytes that belong to someone else, who is told when they are no longer needed. */
bb_storage *bb_storage_foreign(bb_context *ctx, void *data, size_t bytes,
                               void (*give_back)(void *owner), void *owner);
bb_storage *bb_storage_ref(bb_storage *s); /* NULL is passed through */
void bb_storage_unref(bb_storage *s);
void bb_pool_free(bb_context *ctx); /* returns all pooled blocks to the backends */

/* ---- core/poison_{asan,none}.c: CMake takes one */
void bb_poison(void *block, size_t bytes);
void bb_unpoison(void *block, size_t bytes);

/* ---- core/tensor.c */
/* NULL and the sticky error: no tensor can have this shape. */
bb_tensor *bb_refuse_shape(bb_context *ctx, const bb_shape *shape);
bb_tensor *bb_tensor_new(bb_context *ctx, bb_device device, bb_dtype dtype,
                         const bb_shape *shape); /* step lifetime, contiguous */
bb_tensor *bb_tensor_header(bb_context *ctx, bb_dtype dtype, const bb_shape *shape,
                            bb_life life); /* no storage */
bb_tensor *bb_tensor_context(bb_context *ctx, bb_device device, bb_dtype dtype,
                             const bb_shape *shape); /* context lifetime */
/* A view: shares base's storage; offset in elements from base's first element. */
bb_tensor *bb_tensor_view(bb_tensor *base, const bb_shape *shape, const int64_t *stride,
                          int64_t offset);
void bb_tensor_attach(bb_tensor *t, bb_storage *s,
                      size_t byte_offset); /* takes over one reference */
/* A leaf's gradient that was dropped serves again, over these bytes (takes over one reference). */
void bb_tensor_revive(bb_tensor *t, bb_storage *s, size_t byte_offset);
void bb_tensor_changed(bb_tensor *t); /* counts a change in place */
void bb_tensor_free(bb_tensor *t);    /* context tensors: unlink and release the header */
bool bb_tensor_usable(
    const bb_tensor *t); /* alive, with storage; otherwise the sticky error names why */
enum { BB_LOST_TEXT = 128 };
const char *bb_tensor_lost(const bb_tensor *t,
                           char text[BB_LOST_TEXT]); /* why one without storage has none */
bb_tensor *bb_detach_header(bb_tensor *t); /* step view of the same elements, no history */
void bb_set_strides(bb_tensor *t);         /* contiguous strides from size[], and count */
void bb_tensor_restride(bb_tensor *t); /* after a change of stride[]: whether it is contiguous */
static inline bb_shape bb_shape_of_tensor(const bb_tensor *t) {
    bb_shape s;
    s.rank = t->rank;
    for (int i = 0; i < BB_MAX_RANK; i++) s.size[i] = i < t->rank ? t->size[i] : 0;
    return s;
}
bb_status bb_copy_into(const bb_tensor *source,
                       bb_tensor *target); /* same shape; any strides, dtypes, devices */

/* ---- core/dispatch.c */
/* One call without recorders, for those who keep themselves what its backward reads (autograd's
 * bb_call_backward runs it). The caller fills ctx, op, attrs (not NULL where the op has some), in
 * and n_in. Hidden outputs are there if `statistics` and *fused: a composite that ran composed
 * leaves none. */
bb_status bb_run_call(bb_call *call, bool statistics, bool *fused);

/* ---- core/lifetime.c */
/* The end of a scope for several results. */
void bb_scope_end_many(bb_context *ctx, bb_scope scope, bb_tensor *const *results, int n);
/* bb_keep for those who own what they keep and free it (bb_tensor_free); recorders may call it. */
bb_tensor *bb_keep_value(bb_tensor *t);
void bb_context_tensors_free(bb_context *ctx);

/* ---- core/context.c: bobbin.c wires, core knows nobody */
bb_context *bb_context_new(const bb_options *options);
void bb_context_free(bb_context *ctx);
bb_status bb_attach_backend(bb_context *ctx,
                            bb_backend *backend); /* registers its kernels: ops come first */
bb_status bb_attach_recorder(bb_context *ctx, bb_recorder *recorder);
void bb_detach_recorder(bb_context *ctx, const bb_recorder *recorder);
bool bb_is_recorded(const bb_context *ctx);   /* by somebody who keeps all ops: not just the tape */
bb_status bb_registry_check(bb_context *ctx); /* the built-in tables are complete */
bb_status bb_tell_watch(bb_context *ctx, const char *who, const bb_tensor *t);

/* ---- core/op.c */
const bb_entry *bb_find_entry(const bb_context *ctx, const bb_op *op);

/* ---- core/error.c */
/* Input `input` has no storage: says so with the op's and the input's name. */
bb_status bb_fail_lost_input(const bb_call *call, int input);

/* ---- core/capture.c */
/* Fails if a captured step is under way, with "who: inside a captured step: what". */
bb_status bb_refuse_in_capture(bb_context *ctx, const char *who, const char *what);

/* ---- core/random.c: one Philox block; loops in backends use the same function */
void bb_philox(uint64_t seed, uint64_t offset, uint32_t out[4]);
uint64_t bb_take_random(bb_context *ctx,
                        int64_t elements); /* offset of the first block; moves the generator on */

#endif
