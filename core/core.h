/* Bobbin core: contexts, tensors, op records and the one call that runs an op.
 *
 * This header is the manual of `core`. It knows no op and no gradient: ops/ops.h lists the ops,
 * autograd/autograd.h the gradients. Everything hangs on a bb_context; there is no global mutable
 * state, so two threads with two contexts never meet. One context belongs to one thread at a time.
 *
 * Ownership in one sentence: a tensor belongs to the step in which it was made; parameters belong
 * to the context; you free neither.
 *
 * Errors in one sentence: the first error sticks in the context, a failed call returns NULL (or a
 * status), and until bb_clear_error every later call does nothing and returns NULL too.
 */
#ifndef BOBBIN_CORE_H
#define BOBBIN_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define BB_PRINTF(format_index, first) __attribute__((format(printf, format_index, first)))
#else
#define BB_PRINTF(format_index, first)
#endif
#if defined(__GNUC__) && defined(BB_BUILDING)
#define BB_API __attribute__((visibility("default")))
#else
#define BB_API
#endif

typedef struct bb_context bb_context;
typedef struct bb_tensor bb_tensor;
typedef struct bb_op bb_op;

/* ---- Status ------------------------------------------------------------------------------- */

typedef enum bb_status {
    BB_OK = 0,
    BB_ERR_ARGUMENT,    /* wrong use: shape, dtype, attribute, NULL, unknown name */
    BB_ERR_STATE,       /* right call, wrong moment: dead tensor, second backward, changed value */
    BB_ERR_FORMAT,      /* a file's content is not what it should be */
    BB_ERR_UNSUPPORTED, /* a legal request that this build or backend cannot serve */
    BB_ERR_MEMORY,      /* the allocator said no */
    BB_ERR_IO,          /* the system said no: missing file, full disk */
    BB_ERR_DEVICE       /* the accelerator or its driver said no */
} bb_status;

/* "argument", "memory", ... */
BB_API const char *bb_status_name(bb_status status);

/* ---- Types and shapes --------------------------------------------------------------------- */

typedef enum bb_dtype {
    BB_F64 = 0,
    BB_F32,
    BB_F16,
    BB_BF16,
    BB_I64,
    BB_I32,
    BB_U8,
    BB_BOOL, /* one byte, 0 or 1 */
    BB_DTYPE_COUNT
} bb_dtype;

/* The names of all dtypes in enum order, for attributes that choose one. */
#define BB_DTYPE_CHOICES "f64|f32|f16|bf16|i64|i32|u8|bool"

BB_API const char *bb_dtype_name(bb_dtype dtype);             /* "f32" */
BB_API size_t bb_dtype_bytes(bb_dtype dtype);                 /* bytes of one element */
BB_API bool bb_dtype_is_float(bb_dtype dtype);                /* f64, f32, f16, bf16 */
BB_API bool bb_dtype_find(const char *name, bb_dtype *dtype); /* false: no such name */

enum { BB_MAX_RANK = 8 };

/* A shape by value. Rank 0 is a scalar of one element; any size may be 0. */
typedef struct bb_shape {
    int rank;
    int64_t size[BB_MAX_RANK];
} bb_shape;

/* BB_SHAPE(2, 3) is the shape (2, 3); BB_SCALAR the shape (). */
#ifdef __cplusplus
extern "C++" {
template <typename... T> inline bb_shape bb_make_shape(T... size) {
    return bb_shape{int(sizeof...(T)), {int64_t(size)...}};
}
}
#define BB_SHAPE(...) bb_make_shape(__VA_ARGS__)
#define BB_SCALAR (bb_shape{0, {0}})
#else
#define BB_SHAPE(...)                                                                              \
    ((bb_shape){(int)(sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), {__VA_ARGS__}})
#define BB_SCALAR ((bb_shape){0, {0}})
#endif

/* A list of integers by value, for attributes (axes, sizes, starts). */
enum { BB_MAX_INTS = 16 };
typedef struct bb_ints {
    int n;
    int64_t v[BB_MAX_INTS];
} bb_ints;

#ifdef __cplusplus
extern "C++" {
template <typename... T> inline bb_ints bb_make_ints(T... v) {
    return bb_ints{int(sizeof...(T)), {int64_t(v)...}};
}
}
#define BB_INTS(...) bb_make_ints(__VA_ARGS__)
#else
#define BB_INTS(...)                                                                               \
    ((bb_ints){(int)(sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), {__VA_ARGS__}})
#endif

/* Shape arithmetic. All of it is checked: false means overflow or mismatch, never a wrapped value.
 */
BB_API bool bb_checked_add(size_t a, size_t b, size_t *sum);
BB_API bool bb_checked_mul(size_t a, size_t b, size_t *product);
BB_API bool bb_shape_count(const bb_shape *shape,
                           int64_t *count); /* elements; false: overflow or a negative size */
BB_API bool bb_shape_bytes(const bb_shape *shape, bb_dtype dtype, size_t *bytes);
BB_API bool bb_shape_equal(const bb_shape *a, const bb_shape *b);
BB_API bool bb_shape_broadcast(const bb_shape *a, const bb_shape *b,
                               bb_shape *out); /* NumPy's rule */

/* Text of a shape, "(2, 3)", written into text and returned. */
enum { BB_SHAPE_TEXT = 200 };
BB_API const char *bb_shape_text(const bb_shape *shape, char text[BB_SHAPE_TEXT]);

/* ---- Context ------------------------------------------------------------------------------ */

typedef enum bb_device { BB_CPU = 0, BB_CUDA, BB_DEVICE_COUNT } bb_device;

/* How a composite op runs. AUTO: fused where the backend can (core/dispatch.c has the table);
 * FUSED: an error where it cannot; COMPOSED: always through its decomposition. */
typedef enum bb_path { BB_PATH_AUTO = 0, BB_PATH_FUSED, BB_PATH_COMPOSED } bb_path;

/* Every host allocation of a context goes through these two. Blocks must be aligned to 64 bytes;
 * allocate returns NULL when there is no memory. */
typedef struct bb_allocator {
    void *(*allocate)(void *user, size_t bytes);
    void (*release)(void *user, void *block, size_t bytes);
    void *user;
} bb_allocator;

enum { BB_MAX_THREADS = 1024 }; /* of one context: each takes memory of its own */

/* All zero means the defaults. */
typedef struct bb_options {
    uint64_t seed; /* of the random generator */
    int threads;   /* for CPU loops and GEMM; 0: what OpenMP gives, to BB_MAX_THREADS */
    bb_path path;
    const bb_allocator *allocator;                  /* NULL: the C library's */
    void (*on_error)(void *user, const char *line); /* told of the first error; NULL: silence. It
                                                       cannot clear it: its call fails first */
    void *on_error_user;
    /* The same bytes for any number of threads on one machine: matrix products never go to
     * OpenBLAS, whose sums depend on that number; all else never does. BOBBIN_DETERMINISTIC=1 in
     * the environment does the same. */
    bool deterministic;
} bb_options;

/* Opens a context with all built-in ops and backends (implemented in bobbin.c). NULL: out of
 * memory, or a built-in table is inconsistent. options may be NULL. What options or the environment
 * (BOBBIN_ISA, BOBBIN_GEMM) ask for and cannot have is an error that the new context holds:
 * bb_error_message names it; after bb_clear_error the context runs with the default instead. */
BB_API bb_context *bb_open(const bb_options *options);

/* Frees the context and everything made in it, once no other library holds a tensor of it
 * (bb_to_dlpack). NULL is ignored. */
BB_API void bb_close(bb_context *ctx);

/* Ends the step: every tensor made in it dies, its storage returns to the pool, the tape is empty.
 * Parameters and kept tensors live on. A dead tensor passed to an op is an error with a message. */
BB_API void bb_end_step(bb_context *ctx);

/* A tensor of the context's lifetime with t's value, without gradient history. It shares t's
 * elements where t is all of a step's storage, in row-major order, and none kept it before, and
 * where they are another library's (bb_from_dlpack). Everything else is copied: a part, other
 * strides, a parameter, what was kept, a gradient. While a graph is recorded it is an error. Free
 * it early with bb_drop, or not at all. */
BB_API bb_tensor *bb_keep(bb_tensor *t);

/* Gives t's storage back now; the handle is dead afterwards, and its use an error until the next
 * step has ended. The gradient of a kept tensor goes with it. What the tape saved stays saved. */
BB_API void bb_drop(bb_tensor *t);

/* Scopes leave t alone from here on: it lives until bb_drop or the end of its step. Returns t. */
BB_API bb_tensor *bb_hold(bb_tensor *t);

/* A scope drops early what its step would drop at the end: every tensor made since bb_scope_begin,
 * except `result` (may be NULL), is dropped. Returns result. Scopes nest. */
typedef size_t bb_scope;
BB_API bb_scope bb_scope_begin(bb_context *ctx);
BB_API bb_tensor *bb_scope_end(bb_context *ctx, bb_scope scope, bb_tensor *result);

/* How composite ops run from here on. */
BB_API void bb_set_path(bb_context *ctx, bb_path path);
BB_API bb_path bb_get_path(const bb_context *ctx);
/* One line per op call (op, device, fused or composed, shapes, dtypes) to `file`; NULL: off.
 * BOBBIN_TRACE=1 in the environment turns it on (stderr) when a context opens. */
BB_API void bb_set_trace(bb_context *ctx, FILE *file);
/* True where ops can run on device; otherwise *why (if why is not NULL) says the reason. The first
 * question about an accelerator loads its module: libbobbin_cuda.so, looked for in
 * BOBBIN_BACKEND_PATH (a file or a folder), then beside the library. */
BB_API bool bb_device_available(bb_context *ctx, bb_device device, const char **why);
/* Where tensors are made that no input places: bb_empty, bb_from, bb_full, bb_rand, ... Initially
 * the CPU. */
BB_API bb_status bb_set_device(bb_context *ctx, bb_device device);
BB_API bb_device bb_get_device(const bb_context *ctx);
/* What an accelerator's matrix products of f32 tensors compute in: their inputs are rounded to this
 * type, sums stay f32. Initially f32. f16 and bf16 tensors compute in their own type, f64 in f64;
 * the CPU in the tensors' type always. */
typedef enum bb_compute_type {
    BB_COMPUTE_F32 = 0,
    BB_COMPUTE_TF32,
    BB_COMPUTE_BF16,
    BB_COMPUTE_F16
} bb_compute_type;
BB_API bb_status bb_set_f32_compute(bb_context *ctx, bb_compute_type type);
/* How many multiprocessors of an accelerator the kernels that offer it (norms) leave to others:
 * they launch for SMs - margin, at least one. Initially 0. The CPU has none to leave. */
BB_API bb_status bb_set_sm_margin(bb_context *ctx, int margin);

/* Counters since the context opened; bytes are of tensor storage and of everything else the context
 * holds. */
typedef struct bb_memory {
    uint64_t system_allocations; /* calls of the allocator: none in a steady training step */
    size_t bytes_held;           /* from the allocator, now */
    size_t bytes_in_use;         /* of tensors alive, now */
    size_t bytes_peak;           /* highest bytes_held */
    size_t accelerator_held;     /* of bytes_held: memory of an accelerator */
    size_t accelerator_peak;     /* highest accelerator_held */
    int64_t live_tensors;
} bb_memory;
BB_API bb_memory bb_memory_stats(const bb_context *ctx);

/* ---- Errors ------------------------------------------------------------------------------- */

BB_API bb_status bb_error(const bb_context *ctx);           /* BB_OK: none */
BB_API const char *bb_error_message(const bb_context *ctx); /* "" when there is none; one line */
BB_API void bb_clear_error(bb_context *ctx);                /* calls work again */
/* Records an error unless one is already there; returns the recorded (first) status.
 * Write "what: which argument: expected X, got Y". */
BB_API bb_status bb_fail(bb_context *ctx, bb_status status, const char *format, ...)
    BB_PRINTF(3, 4);

/* ---- Tensors ------------------------------------------------------------------------------ */

/* New tensors of the current step, contiguous, row-major. NULL and a sticky error on failure.
 * (ops/ops.h has bb_full, bb_zeros, bb_arange, bb_rand, ...) */
BB_API bb_tensor *bb_empty(bb_context *ctx, bb_dtype dtype,
                           bb_shape shape); /* values undefined (NaN under tests) */
BB_API bb_tensor *bb_empty_on(bb_context *ctx, bb_device device, bb_dtype dtype, bb_shape shape);
BB_API bb_tensor *bb_from(bb_context *ctx, bb_dtype dtype, bb_shape shape,
                          const void *values); /* copies */
BB_API bb_tensor *bb_from_f64(bb_context *ctx, bb_dtype dtype, bb_shape shape,
                              const double *values);                        /* rounds once */
BB_API bb_tensor *bb_scalar(bb_context *ctx, bb_dtype dtype, double value); /* rank 0 */

/* What a tensor is. NULL, the result of a failed call, is of no context, f32, rank 0, without
 * elements, not contiguous. */
BB_API bb_context *bb_context_of(const bb_tensor *t);
BB_API bb_dtype bb_dtype_of(const bb_tensor *t);
BB_API bb_device bb_device_of(const bb_tensor *t);
BB_API bb_shape bb_shape_of(const bb_tensor *t);
BB_API int bb_rank(const bb_tensor *t);
BB_API int64_t bb_size(const bb_tensor *t,
                       int axis); /* negative axis counts from the end; -1: no such axis */
BB_API int64_t bb_stride(const bb_tensor *t, int axis); /* in elements */
BB_API int64_t bb_count(const bb_tensor *t);            /* elements */
BB_API bool bb_is_contiguous(const bb_tensor *t);
BB_API void *bb_data(const bb_tensor *t); /* first element; NULL on a device, for a dead tensor, or
                                             for no elements */

/* Copies all elements in row-major order out of or into t, whatever its strides. `bytes` must be
 * bb_count(t) * element size. Into a bool tensor (bb_from too) any byte but 0 goes as 1. bb_write
 * counts as a change: a backward that saved t will refuse. */
BB_API bb_status bb_read(bb_tensor *t, void *values, size_t bytes);
BB_API bb_status bb_write(bb_tensor *t, const void *values, size_t bytes);
BB_API bb_status bb_read_f64(bb_tensor *t, double *values, int64_t count); /* converted */
BB_API double bb_item(bb_tensor *t); /* of a one-element tensor; NaN and an error otherwise */

/* target's elements become source's: same shape, any dtypes, strides and devices; no gradient goes
 * through it. The two may share elements. Counts as a change of target. Unlike bb_keep it may stand
 * in a captured step: it is how a result leaves one. */
BB_API bb_status bb_assign(bb_tensor *target, bb_tensor *source);
/* Exchange without copies by DLPack 1.x. `managed` points to a DLManagedTensorVersioned or, if not
 * `versioned`, to the older DLManagedTensor.
 *
 *   bb_to_dlpack     t's own elements, for another library to read and write. They stay as long as
 *                    it holds them, past bb_drop, bb_end_step and bb_close; its deleter must be
 *                    called where calls with t's context may be made.
 *   bb_from_dlpack   a tensor of the current step on the other's memory (bb_keep carries it out),
 *                    on the CPU, of our dtypes, without negative strides, and not read-only. Takes
 *                    `managed` over: its deleter is called when nothing needs the elements any
 *                    more. After an error `managed` is still the caller's. */
BB_API void *bb_to_dlpack(bb_tensor *t, bool versioned);
BB_API bb_tensor *bb_from_dlpack(bb_context *ctx, void *managed, bool versioned);

/* Prints as a person would want to read it: dtype, shape, aligned numbers, long tensors abridged.
 */
BB_API void bb_print(bb_tensor *t, FILE *file);

/* A tensor and what it is called, for lists of parameters and for files. */
typedef struct bb_named {
    const char *name;
    bb_tensor *tensor;
} bb_named;

/* ---- Gradient flags (the walk itself is autograd/autograd.h) ------------------------------- */

BB_API bb_tensor *bb_set_requires_grad(bb_tensor *t, bool on); /* leaves only; returns t */
BB_API bool bb_requires_grad(const bb_tensor *t);              /* or depends on a leaf that does */
BB_API bb_tensor *bb_grad(bb_tensor *t); /* the accumulated gradient; NULL: none yet, or dropped */
BB_API bool bb_grad_enabled(const bb_context *ctx);        /* true in a new context */
BB_API bool bb_set_grad_enabled(bb_context *ctx, bool on); /* returns the former setting */

/* ---- Where a call stands --------------------------------------------------------------------- */

/* A layer says who it is while its forward runs, so that a recorded graph can name its nodes:
 *     bb_module here;
 *     bb_module_enter(ctx, &here, "Block", "blocks", i);   (index -1: no index)
 *     ...
 *     bb_module_leave(ctx, &here);
 * Inside, nodes stand under "blocks.<i>". The struct lives on the caller's stack; the texts must
 * outlive the call. It costs a few stores; nobody allocates or copies. Leave whatever was entered,
 * also after an error. ctx NULL is ignored. */
typedef struct bb_module {
    const struct bb_module *outer;
    const char *type, *name; /* the layer's class; what its owner calls it */
    int64_t index;
    uint64_t serial; /* of the call: no two of a context are alike */
} bb_module;
BB_API void bb_module_enter(bb_context *ctx, bb_module *here, const char *type, const char *name,
                            int64_t index);
BB_API void bb_module_leave(bb_context *ctx, const bb_module *here);

/* ---- Random numbers ------------------------------------------------------------------------ */

/* Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), addressed
 * by (seed, offset): element i of an op reads block offset + i/4 (f64: i/2), so any thread count
 * gives the same numbers. Saving and restoring these 16 bytes replays a run. */
typedef struct bb_rng {
    uint64_t seed, offset;
} bb_rng;
BB_API bb_rng bb_get_rng(const bb_context *ctx);
BB_API void bb_set_rng(bb_context *ctx, bb_rng rng);

/* ---- Steps as graphs ------------------------------------------------------------------------- */

/* A step (forward, backward, clipping, optimizer) that an accelerator runs again and again as one
 * graph, without the host calling a single op. bb_capture_run calls `step` the first time (which
 * also makes all that lives longer than a step), calls it once more the second time while the
 * device records what it is asked to do, and from then on replays the record. On a device that
 * cannot record (the CPU) it calls `step` every time. Each run ends the step (bb_end_step), and the
 * bits are the same either way.
 *
 * A replay does again what the recorded call did, with the same addresses. So what changes from
 * step to step must lie in context tensors that are written before the run (bb_write: the batch,
 * bb_adamw_set_lr), results go to context tensors by bb_assign, and inside `step` these are errors:
 * reading or writing values from the host, work on another device, random numbers (they would
 * repeat), bb_keep.
 *
 * `step` gives BB_OK or what it failed with; user is handed to it. The capture lives until
 * bb_capture_free or the end of the context; NULL and a sticky error on failure. */
typedef struct bb_capture bb_capture;
BB_API bb_capture *bb_capture_step(bb_context *ctx, bb_device device, bb_status (*step)(void *user),
                                   void *user);
BB_API bb_status bb_capture_run(bb_capture *capture);
BB_API bool bb_capture_replays(const bb_capture *capture); /* the next run is a replay */
BB_API void bb_capture_free(bb_capture *capture);

/* ---- Op records ----------------------------------------------------------------------------- */

/* An attribute: a named field of the op's attribute struct. The C type of the field is given by
 * `type`. */
typedef enum bb_attr_type {
    BB_ATTR_INT,   /* int64_t */
    BB_ATTR_FLOAT, /* double */
    BB_ATTR_BOOL,  /* bool */
    BB_ATTR_INTS,  /* bb_ints */
    BB_ATTR_CHOICE /* int: index into `choices`, names separated by '|' */
} bb_attr_type;

typedef struct bb_attr {
    const char *name; /* NULL ends the list */
    bb_attr_type type;
    size_t offset;       /* offsetof(attribute struct, field) */
    double value;        /* default, for all types but INTS */
    bb_ints ints;        /* default of INTS */
    const char *choices; /* for CHOICE */
    bool required;       /* no default: the caller must name it */
} bb_attr;

typedef struct bb_meta {
    bb_dtype dtype;
    bb_shape shape;
} bb_meta;

enum { BB_MAX_INPUTS = 8, BB_MAX_OUTPUTS = 6, BB_MAX_ATTRS = 8 };

/* One call of an op, seen by infer, view, decompose and kernels.
 *   in[0..n_in)    inputs; NULL where an optional input is absent. Any strides.
 *   meta[0..n_out) dtype and shape of every output, hidden ones included; infer fills it.
 *   out[0..n_out)  contiguous outputs, allocated by dispatch. A hidden output is NULL when no
 *                  gradient will need it. Kernels write all elements of those that are there. */
typedef struct bb_call {
    bb_context *ctx;
    const bb_op *op;
    const void *attrs; /* the op's attribute struct; NULL if it has none */
    bb_device device;
    int n_in, n_out;
    bb_tensor *const *in;
    bb_meta meta[BB_MAX_OUTPUTS];
    bb_tensor *out[BB_MAX_OUTPUTS];
    bool needs_grad;
} bb_call;

/* The backward of one call. Inputs and outputs that the op does not save may hold no values.
 *   grad_out[i]  gradient of visible output i, of its shape and dtype, any strides; never NULL.
 *   want[i]      whether input i wants a gradient.
 *   grad_in[i]   a gradient rule stores its result here for wanted inputs (NULL means zero). Its
 *                shape may be any that the input broadcasts to: the tape sums it down. A backward
 *                kernel finds contiguous tensors of the input's own shape and dtype here and WRITES
 *                them (never adds); NULL means not wanted. */
typedef struct bb_grad_call {
    const bb_call *call;
    bb_tensor *const *grad_out;
    const bool *want;
    bb_tensor **grad_in;
} bb_grad_call;

typedef bb_status (*bb_forward_fn)(bb_call *call);
typedef bb_status (*bb_backward_fn)(const bb_grad_call *grad);

/* One op. Built-in ops and yours use the same record; it must outlive the context.
 * A primitive has `gradient` (ops all the way, so it can be differentiated again; bb_no_gradient
 * for ops that have none) and a kernel on each backend, or `view` if it only re-reads its input's
 * storage. A composite has `decompose`, which computes the visible outputs by calling other ops and
 * is the authoritative formula; kernels for it are optional. Its gradient is that of the
 * decomposition, unless `gradient` is bb_no_gradient: then it has none. */
struct bb_op {
    const char *name;                      /* "add", "RMSNormImpl" */
    const char *doc;                       /* one line: the formula */
    const char *inputs[BB_MAX_INPUTS + 1]; /* names; NULL ends */
    const char *outputs[BB_MAX_OUTPUTS + 1];
    bb_attr attrs[BB_MAX_ATTRS + 1];
    size_t attrs_bytes;     /* sizeof the attribute struct; 0: none. Plain data, no pointers. */
    unsigned optional;      /* bit i: input i may be NULL */
    bool variadic;          /* the last input name stands for one or more tensors */
    int hidden;             /* the last `hidden` outputs are statistics for backward, not results */
    unsigned saves_inputs;  /* bit i: backward reads input i (variadic: bit of the name) */
    unsigned saves_outputs; /* bit i: backward reads output i */
    unsigned mutates;       /* bit i: the kernel changes input i in place (optimizer steps) */
    unsigned overwrites;    /* bit i: a backward kernel may be given the memory of input i for its
                               gradient: it reads each element before it writes there, and no other */
    bool window; /* a view of a part of its input, no element twice (slice, select): the tape
                    adds the gradient in place through the same view of the input's gradient */
    bb_status (*infer)(bb_call *call); /* checks inputs and attributes, fills meta */
    bb_forward_fn view;                /* sets out[0] to a view of in[0] */
    bb_backward_fn gradient;
    bb_forward_fn decompose;
};

/* The `gradient` of an op that has none by nature (comparisons, argmax, integer results, bytes). */
BB_API bb_status bb_no_gradient(const bb_grad_call *grad);

/* A kernel row. `supports` (may be NULL) says no to calls this kernel cannot take; a composite then
 * runs composed. `backward` may be NULL: a composite that needs a gradient then runs composed, a
 * primitive uses its gradient rule. */
typedef struct bb_kernel {
    const char *op;
    bb_forward_fn forward;
    bb_backward_fn backward;
    bool (*supports)(const bb_call *call);
} bb_kernel;

/* Adds an op, or a kernel for one, to this context. The name must be new; the record must be
 * complete and outlive the context. A kernel takes the place of the one that was there. */
BB_API bb_status bb_register_op(bb_context *ctx, const bb_op *op);
BB_API bb_status bb_register_kernel(bb_context *ctx, bb_device device, const bb_kernel *kernel);
BB_API const bb_op *bb_find_op(const bb_context *ctx, const char *name); /* NULL: no such op */
/* All ops of the context: the built-in ones, then those registered, by index from 0 (NULL beyond).
 */
BB_API int bb_op_count(const bb_context *ctx);
BB_API const bb_op *bb_op_at(const bb_context *ctx, int index);
/* Whether device has a kernel of its own for op, forward or backward. */
BB_API bool bb_op_has_kernel(const bb_context *ctx, const bb_op *op, bb_device device,
                             bool backward);
BB_API int bb_op_input_count(const bb_op *op);  /* names, not tensors */
BB_API int bb_op_output_count(const bb_op *op); /* hidden ones included */

/* Fills an attribute struct with the op's defaults. */
BB_API void bb_op_default_attrs(const bb_op *op, void *attrs);

/* Runs an op: infer, choose, run, record. Visible outputs go to out[0..], NULL after an error.
 * attrs may be NULL for defaults. */
BB_API bb_status bb_apply(bb_context *ctx, const bb_op *op, bb_tensor *const *in, int n_in,
                          const void *attrs, bb_tensor **out);
/* The same for ops with one visible output: returns it, or NULL. */
BB_API bb_tensor *bb_apply1(bb_context *ctx, const bb_op *op, bb_tensor *const *in, int n_in,
                            const void *attrs);

/* Errors from inside an op, prefixed "op: argument: ". */
BB_API bb_status bb_fail_input(const bb_call *call, int input, const char *format, ...)
    BB_PRINTF(3, 4);
BB_API bb_status bb_fail_attr(const bb_call *call, const char *attr, const char *format, ...)
    BB_PRINTF(3, 4);

#ifdef __cplusplus
}
#endif
#endif
