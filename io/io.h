/* Bobbin io: files, JSON, safetensors and npy files, training checkpoints. This header is the
 * manual.
 *
 * What all readers promise: a file is checked in full before anything is made of it; sizes are
 * believed only as far as bytes are present; time is linear in the file (times a logarithm where
 * names are sorted) and memory at most twice the file plus 1 MiB; a wrong file is one error line
 * that names the file, what was expected and what came.
 * What all writers promise: readers see the old file or the new one, whole, whenever power or disk
 * space end.
 *
 * BB_ERR_FORMAT: the content is wrong. BB_ERR_UNSUPPORTED: it is right, but not for us. BB_ERR_IO:
 * the system failed.
 *
 * A handle may be NULL, as a failed call gives it: then a call does nothing, and returns NULL, 0 or
 * an error. What a call fills in (bb_file_map's file, a bb_json, a bb_stored, bb_checkpoint_open's
 * state) and a bb_json_writer must not be. */
#ifndef BOBBIN_IO_H
#define BOBBIN_IO_H

#include "core/core.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- io/file.c: whole files ---------------------------------------------------------------- */

/* A file's bytes, mapped read-only. While it is mapped it may be replaced, but not cut short. */
typedef struct bb_file {
    const char *data; /* never NULL once mapped, also for an empty file */
    size_t bytes;
} bb_file;

/* Regular files only: no folders, no pipes. */
BB_API bb_status bb_file_map(bb_context *ctx, const char *path, bb_file *file);
BB_API void bb_file_unmap(bb_file *file); /* NULL is ignored */

/* The system calls of a writer, so that a test can make each fail. As in POSIX: -1 and errno. */
typedef struct bb_file_calls {
    ptrdiff_t (*write)(void *user, int file, const void *data, size_t bytes);
    int (*fsync)(void *user, int file);
    int (*rename)(void *user, const char *from, const char *to);
    void *user;
} bb_file_calls;

/* Writes a file so that it appears whole or not at all: into a temporary file of the same folder,
 * which is flushed and renamed onto `path` by bb_writer_commit; then the folder is flushed. After
 * any failure the temporary file is gone and the old file untouched. A path that exists but is no
 * regular file (a device, a pipe) is written directly. */
typedef struct bb_writer bb_writer;
/* calls NULL: the system's */
BB_API bb_writer *bb_writer_open(bb_context *ctx, const char *path, const bb_file_calls *calls);
BB_API bb_status bb_writer_add(bb_writer *w, const void *data, size_t bytes);
BB_API bb_status bb_writer_commit(bb_writer *w); /* frees w; fails if any add failed */
BB_API void bb_writer_abandon(bb_writer *w);     /* frees w, keeps the old file; NULL is ignored */

/* All of it in one call. */
BB_API bb_status bb_file_write(bb_context *ctx, const char *path, const void *data, size_t bytes);

/* A printable, short, one-line form of text that came from outside, in quotes, for errors. */
enum { BB_QUOTE_BYTES = 96 };
BB_API const char *bb_quote(const char *text, size_t bytes, char quoted[BB_QUOTE_BYTES]);

/* ---- io/json.c, io/json_write.c: JSON (RFC 8259, strict) ------------------------------------- */

/* A value inside a checked text. There is no tree: a value is the place where it is written, so
 * reading costs no memory, bb_json_get costs a pass over its object, and a walk over all members
 * costs one pass in all. */
typedef struct bb_json {
    const char *at, *end;
} bb_json;

typedef enum bb_json_kind {
    BB_JSON_NULL = 0,
    BB_JSON_BOOL,
    BB_JSON_NUMBER,
    BB_JSON_STRING,
    BB_JSON_ARRAY,
    BB_JSON_OBJECT
} bb_json_kind;

enum { BB_JSON_DEPTH = 64, BB_JSON_NUMBER_BYTES = 128 };

/* Checks a whole text: grammar, UTF-8, escapes, keys that come twice in one object, nesting up to
 * BB_JSON_DEPTH, numbers of up to BB_JSON_NUMBER_BYTES characters within the range of a double.
 * `name` is what errors call the text. The text must outlive the values, which the functions below
 * then read without any further error. */
BB_API bb_status bb_json_parse(bb_context *ctx, const char *name, const char *text, size_t bytes,
                               bb_json *root);

BB_API bb_json_kind bb_json_kind_of(bb_json value);      /* by its first letter */
BB_API const char *bb_json_kind_name(bb_json_kind kind); /* "a string" */

/* False: another kind, or out of range. An int is written without fraction and exponent. */
BB_API bool bb_json_int(bb_json value, int64_t min, int64_t max, int64_t *number);
BB_API bool bb_json_number(bb_json value, double *number);
BB_API bool bb_json_bool(bb_json value, bool *flag);

/* Unescapes a string into `text`, always ends it with a zero byte, and returns its length without
 * that byte (like snprintf: cut short if it is >= capacity). A length never exceeds end - at - 2. 0
 * for other kinds. */
BB_API size_t bb_json_string(bb_json value, char *text, size_t capacity);
BB_API bool bb_json_equals(bb_json value, const char *text); /* a string with this content */

/* False: no object, or no such key. */
BB_API bool bb_json_get(bb_json object, const char *key, bb_json *value);

/* for (bb_json_walk w = bb_json_begin(value); bb_json_next(&w);) use(w.key, w.value);
 * Members of an object, elements of an array (w.key is then empty), nothing for other kinds. */
typedef struct bb_json_walk {
    bb_json key, value;
    const char *next, *end; /* what is left */
    bool object;
} bb_json_walk;
BB_API bb_json_walk bb_json_begin(bb_json value);
BB_API bool bb_json_next(bb_json_walk *walk);

/* Writes JSON into memory. Commas and indentation are its business; an error (no memory, a string
 * that is no UTF-8, a number that JSON has not) sticks in the context and makes the rest do
 * nothing. */
typedef struct bb_json_writer {
    bb_context *ctx;
    char *text; /* ended by a zero byte once there is anything */
    size_t bytes, capacity;
    int depth, indent;             /* indent: spaces a level; 0: one line */
    bool empty[BB_JSON_DEPTH + 1]; /* nothing at this level yet */
    bool after_key, failed;
} bb_json_writer;
BB_API void bb_json_open(bb_json_writer *w, bb_context *ctx, int indent);
BB_API void bb_json_close(bb_json_writer *w); /* releases the text */
BB_API void bb_json_begin_object(bb_json_writer *w);
BB_API void bb_json_end_object(bb_json_writer *w);
BB_API void bb_json_begin_array(bb_json_writer *w);
BB_API void bb_json_end_array(bb_json_writer *w);
BB_API void bb_json_key(bb_json_writer *w, const char *key);
BB_API void bb_json_put_string(bb_json_writer *w, const char *text);
BB_API void bb_json_put_int(bb_json_writer *w, int64_t value);
/* The shortest text that reads back the same. */
BB_API void bb_json_put_number(bb_json_writer *w, double value);
BB_API void bb_json_put_bool(bb_json_writer *w, bool value);
BB_API void bb_json_put_null(bb_json_writer *w);
/* The text and a newline, atomically. */
BB_API bb_status bb_json_save(bb_json_writer *w, const char *path);

/* ---- io/safetensors.c, io/safetensors_write.c ------------------------------------------------ */

/* The format of https://github.com/huggingface/safetensors, by all rules of its reference
 * implementation. Of its types we read F64 F32 F16 BF16 I64 I32 U8 BOOL, of its shapes those of up
 * to 8 axes. In a BOOL tensor any byte but 0 is read as 1: NumPy and PyTorch take such bytes for
 * true, and bb_from and bb_write do. */

typedef struct bb_text {
    const char *key, *value;
} bb_text;

typedef struct bb_safetensors bb_safetensors;

/* One tensor of a file. Pointers live as long as the file is open; data may be unaligned. */
typedef struct bb_stored {
    const char *name;
    bb_dtype dtype;
    bb_shape shape;
    const void *data;
    size_t bytes;
} bb_stored;

/* Maps a file and checks all of it. NULL and an error naming file and tensor if anything is wrong.
 */
BB_API bb_safetensors *bb_safetensors_open(bb_context *ctx, const char *path);
BB_API void bb_safetensors_close(bb_safetensors *file);             /* NULL is ignored */
BB_API const char *bb_safetensors_path(const bb_safetensors *file); /* as it was opened */
BB_API int64_t bb_safetensors_count(const bb_safetensors *file);    /* tensors */
/* In the order of the header; all zero: no such index. */
BB_API bb_stored bb_safetensors_at(const bb_safetensors *file, int64_t index);
BB_API bool bb_safetensors_find(const bb_safetensors *file, const char *name, bb_stored *stored);
/* NULL: no such key. */
BB_API const char *bb_safetensors_metadata(const bb_safetensors *file, const char *key);
BB_API int bb_safetensors_metadata_count(const bb_safetensors *file);
BB_API bb_text bb_safetensors_metadata_at(const bb_safetensors *file, int index);

/* A new tensor of the current step. NULL and an error if there is none of this name. */
BB_API bb_tensor *bb_safetensors_load(bb_safetensors *file, const char *name, bb_device device);

/* Fills existing tensors. All are checked first (there, same dtype, same shape), so an error leaves
 * every tensor as it was; `exact` also refuses a file that holds further tensors. */
BB_API bb_status bb_safetensors_restore(bb_safetensors *file, const bb_named *tensors,
                                        int64_t count, bool exact);

/* Tensors of any layout and device; order in the file: larger elements first, then by name. */
BB_API bb_status bb_safetensors_save(bb_context *ctx, const char *path, const bb_named *tensors,
                                     int64_t count, const bb_text *metadata, int64_t metadata_count,
                                     const bb_file_calls *calls);

/* ---- io/npy.c: one tensor in NumPy's .npy format --------------------------------------------- */

/* A new tensor of the current step from a file as numpy.save writes it: versions 1.0 to 3.0, either
 * order of elements, little-endian, the types f8 f4 f2 i8 i4 u1 b1, and V2, which is how bfloat16
 * of ml_dtypes is stored. Of b1 any byte but 0 is read as 1, as NumPy takes it. Other types, Python
 * objects above all, are refused. */
BB_API bb_tensor *bb_npy_load(bb_context *ctx, const char *path, bb_device device);

/* The bytes that numpy.save would write. bf16 becomes '<V2':
 * numpy.load(path).view(ml_dtypes.bfloat16) brings it back. calls as in bb_writer_open. */
BB_API bb_status bb_npy_save(bb_context *ctx, const char *path, bb_tensor *t,
                             const bb_file_calls *calls);

/* ---- io/checkpoint.c: a training run, to be continued ----------------------------------- */

/* One safetensors file: parameters and optimizer state as tensors, the rest as metadata strings.
 * Replaying from it gives the same bytes as never having stopped. */
typedef struct bb_checkpoint {
    int64_t step;          /* optimizer steps done */
    int64_t data_position; /* of the data stream */
    bb_rng rng;
} bb_checkpoint;

/* `extra` are further metadata, such as {"config", text}; keys of our own are refused. */
BB_API bb_status bb_checkpoint_save(bb_context *ctx, const char *path, const bb_checkpoint *state,
                                    const bb_named *tensors, int64_t count, const bb_text *extra,
                                    int64_t extra_count, const bb_file_calls *calls);

/* Opens a checkpoint and reads its state. Then build the model, by bb_safetensors_metadata(file,
 * "config") say, and fill it: bb_safetensors_restore(file, tensors, count, true). Close with
 * bb_safetensors_close. */
BB_API bb_safetensors *bb_checkpoint_open(bb_context *ctx, const char *path, bb_checkpoint *state);

/* ---- Graphs (io/graph.c, io/graph_trace.c, io/graph_run.c, io/graph_print.c) -----------------
 * A graph is the record of a computation: named inputs, parameters, constants, outputs, and a node
 * for each op that an output needs, in the order in which they ran. A composite op is one node that
 * carries its decomposition as a body: while a graph records, composites run composed. Nodes are
 * named after the layers they stand in (bb_module): "blocks.0.attn_norm.rmsnorm_impl". */
typedef struct bb_graph bb_graph;

/* Recording by hand, of anything: a forward pass, or a training step made of ops (bb_gradients with
 * create_graph, then bb_adamw_). Begin; name the inputs and parameters; compute; name the outputs;
 * end; all within one step. What changes a tensor without an op is an error meanwhile: bb_backward,
 * bb_assign, the optimizers of nn/nn.h, and an op that reads what was changed so (bb_write) since
 * another op read or made it. A training step looks into composites, so those stay open in its
 * graph and a run of it gives the numbers of BB_PATH_COMPOSED. Sizes are static. What was not named
 * and comes from outside is a constant: tensors of the context by reference, tensors of the step as
 * a copy.
 */
BB_API bb_graph *bb_graph_begin(bb_context *ctx); /* one at a time in a context */
BB_API bb_status bb_graph_input(bb_graph *graph, const char *name, bb_tensor *t);
/* By reference: a run reads, and optimizer nodes change, t itself. t is of the context. */
BB_API bb_status bb_graph_param(bb_graph *graph, const char *name, bb_tensor *t);
BB_API bb_status bb_graph_output(bb_graph *graph, const char *name, bb_tensor *t);
/* A graph that an error kept from ending well can only be freed. */
BB_API bb_status bb_graph_end(bb_graph *graph);
BB_API void bb_graph_free(bb_graph *graph); /* NULL is ignored; before bb_close */

/* Recording a function, with sizes that may change. The inputs are declared; the function is
 * recorded at several sizes of each symbol, and each size and each attribute of each node must turn
 * out to be a sum of products of symbols (2*time + 1, batch*time). Otherwise the error names the
 * node that the recording would have specialised. The function runs 2^symbols + 1 times, on ones
 * and zeros; it must be a pure function of its inputs and parameters. */
enum { BB_GRAPH_SYMBOLS = 3 };
typedef struct bb_graph_axis {
    const char *symbol; /* "batch"; NULL: the size is fixed */
    int64_t size;
} bb_graph_axis;
typedef struct bb_graph_arg {
    const char *name;
    bb_dtype dtype;
    int rank;
    bb_graph_axis axis[BB_MAX_RANK];
} bb_graph_arg;
typedef struct bb_graph_signature {
    const bb_graph_arg *inputs;
    int n_inputs;
    const bb_named *params;
    int64_t n_params;
    const char *const *outputs; /* names */
    int n_outputs;
    bb_device device; /* of the inputs */
} bb_graph_signature;
/* Fills outputs; a failure is an error in the context. */
typedef bb_status (*bb_graph_fn)(void *user, bb_tensor *const *inputs, bb_tensor **outputs);
BB_API bb_graph *bb_graph_trace(bb_context *ctx, bb_graph_fn fn, void *user,
                                const bb_graph_signature *signature);

/* Runs the nodes again. Composites run as the context's path says, so the results are those of the
 * function itself on the same inputs, bit for bit. */
BB_API bb_status bb_graph_run(bb_graph *graph, bb_tensor *const *inputs, int n_inputs,
                              bb_tensor **outputs);
/* On: composites are replaced by their bodies, here and in what is printed. Off: they are back. */
BB_API bb_status bb_graph_lower(bb_graph *graph, bool on);
BB_API int bb_graph_input_count(const bb_graph *graph);
BB_API int bb_graph_output_count(const bb_graph *graph);
/* Nodes that run: composites are one unless lowered; op NULL counts all. */
BB_API int bb_graph_node_count(const bb_graph *graph, const char *op);
/* As text for people, a line a node. */
BB_API void bb_graph_print(const bb_graph *graph, FILE *file);

/* ---- Externalizing (io/externalize.c) -------------------------------------------------------
 * Gives chosen composites, or whole layers, a graph of their own behind a boundary with a name, so
 * that whoever reads the graph can put a kernel of theirs in its place; the body is the fallback.
 * Composites that no spec names are lowered. */
typedef struct bb_externalize_spec {
    const char *target;            /* an op's name ("RMSNormImpl") or a layer's class ("RMSNorm") */
    const char *composite_op_name; /* "rms_norm"; NULL: a boundary without a declaration */
    /* Names, ended by NULL; needs composite_op_name. "norm.eps" puts the attribute eps into a
     * dictionary norm, which holds all that are named so; dictionaries may stand in others. */
    const char *const *composite_attrs;
} bb_externalize_spec;

typedef enum bb_external_kind {
    BB_EXTERNAL_INT,
    BB_EXTERNAL_FLOAT, /* f32 */
    BB_EXTERNAL_BOOL,
    BB_EXTERNAL_STRING,
    BB_EXTERNAL_LIST, /* of integers */
    BB_EXTERNAL_DICT
} bb_external_kind;
typedef struct bb_external_attr {
    const char *name;
    bb_external_kind kind;
    int64_t number; /* INT, BOOL */
    float real;
    const char *text;
    bb_ints list;
    const struct bb_external_attr *items; /* DICT, in alphabetical order */
    int n_items;
} bb_external_attr;

/* One call of an externalized target. */
typedef struct bb_external {
    const char *name; /* of its graph: the path and 8 hexadecimal digits, one for each call */
    const char *path; /* "blocks.0.attn_norm.rmsnorm_impl" */
    const char
        *composite; /* the name in its declaration; NULL: none, and the graph is not private */
    const char *const *input_names, *const *output_names;
    const bb_external_attr *attrs; /* in alphabetical order, `version` = 1 among them */
    int n_inputs, n_outputs, n_attrs;
} bb_external;

/* For each op call and each layer the first spec that names it counts; the whole graph is never
 * matched. What matches nothing, or only what no output needs, is told to `warn` (may be NULL) and
 * left alone. An error leaves the graph as it was. Not twice without bb_externalize_undo. */
typedef void (*bb_warn_fn)(void *user, const char *line);
BB_API bb_status bb_externalize(bb_graph *graph, const bb_externalize_spec *specs, int n,
                                bb_warn_fn warn, void *user);
BB_API void bb_externalize_undo(bb_graph *graph);
/* The inner before the outer. */
BB_API int bb_external_count(const bb_graph *graph);
BB_API const bb_external *bb_external_at(const bb_graph *graph, int index); /* NULL: no such */
/* composite_declaration<"rms_norm" = {input_names = [...], op_attrs = {...}, output_names = [...]}>
 * into text, always ended; returns the length that was needed. */
BB_API size_t bb_external_declaration(const bb_external *external, char *text, size_t bytes);
/* The specs under which models are exported: rms_norm, layer_norm, rope,
 * scaled_dot_product_attention and the other composites that are worth a kernel. */
BB_API const bb_externalize_spec *bb_externalize_defaults(int *n);

/* ---- ONNX (io/onnx.c) -----------------------------------------------------------------------
 * COMPOSITE: externalized calls are calls of functions inside the file (domain "bobbin"), whose
 * bodies are the decompositions and whose attributes are used by reference. IR 8, opset 18.
 * NATIVE: RMSNormalization, RotaryEmbedding and Attention of opset 23 (IR 11) where they mean
 * exactly the same, functions elsewhere. DECOMPOSED: primitives only; IR 8, opset 18.
 * Quantize and Dequantize are QuantizeLinear and DequantizeLinear of float8 with their scales
 * around them, in COMPOSITE files as functions `quantize` and `dequantize`; with them a file is of
 * IR 10 and opset 21 at least. They are read as pairs: fp8 bytes that another op reads, or that
 * come from outside, are an error. Parameters are stored in the file, or beside it in NAME.data:
 * beyond 2 GiB, or where asked. */
typedef enum bb_onnx_mode {
    BB_ONNX_COMPOSITE = 0,
    BB_ONNX_NATIVE,
    BB_ONNX_DECOMPOSED
} bb_onnx_mode;
typedef struct bb_onnx_options {
    bb_onnx_mode mode;
    bool external_data;
    const bb_externalize_spec *specs; /* NULL: what is externalized, or else the defaults */
    int n_specs;
    const bb_file_calls *calls; /* NULL: the system's */
} bb_onnx_options;
/* options NULL: all zero. An op without an ONNX form, an attribute that none can hold: an error
 * that names the node, and no file. The graph is as it was afterwards. */
BB_API bb_status bb_onnx_save(bb_graph *graph, const char *path, const bb_onnx_options *options);
/* What an op becomes in ONNX ("Add", "ReduceMean"; "function" for a composite); NULL: it has no
 * form. *native (may be NULL): its form in NATIVE mode, or NULL. */
BB_API const char *bb_onnx_form(const bb_op *op, const char **native);

#ifdef __cplusplus
}
#endif
#endif
