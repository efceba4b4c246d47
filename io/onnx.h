/* Shared by the onnx*.c files of io/: a writer of protobuf's wire format, and what is known while a
 * model is written. io/io.h is the manual. The numbers of fields are those of onnx.proto
 * (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto). */
#ifndef BOBBIN_IO_ONNX_H
#define BOBBIN_IO_ONNX_H

#include "io/graph.h"

/* ---- io/protobuf.c. After an error of the context they do nothing. */
typedef struct bb_proto {
    bb_context *ctx;
    unsigned char *at;
    size_t n, capacity;
} bb_proto;
void bb_proto_int(bb_proto *p, int field, int64_t value);
void bb_proto_double(bb_proto *p, int field, double value);
void bb_proto_float(bb_proto *p, int field, float value);
void bb_proto_bytes(bb_proto *p, int field, const void *bytes, size_t n);
void bb_proto_text(bb_proto *p, int field, const char *text);
/* Appends inner as a message and empties it. */
void bb_proto_message(bb_proto *p, int field, bb_proto *inner);
/* Only a message's tag and length; its bytes are written elsewhere. */
void bb_proto_head(bb_proto *p, int field, size_t n);
void bb_proto_append(bb_proto *p, const void *bytes, size_t n); /* as they are */
void bb_proto_free(bb_proto *p);

enum {
    BB_ONNX_MODEL_IR = 1,
    BB_ONNX_MODEL_PRODUCER = 2,
    BB_ONNX_MODEL_GRAPH = 7,
    BB_ONNX_MODEL_OPSET = 8,
    BB_ONNX_MODEL_FUNCTION = 25,
    BB_ONNX_OPSET_DOMAIN = 1,
    BB_ONNX_OPSET_VERSION = 2,
    BB_ONNX_GRAPH_NODE = 1,
    BB_ONNX_GRAPH_NAME = 2,
    BB_ONNX_GRAPH_INITIALIZER = 5,
    BB_ONNX_GRAPH_INPUT = 11,
    BB_ONNX_GRAPH_OUTPUT = 12,
    BB_ONNX_NODE_INPUT = 1,
    BB_ONNX_NODE_OUTPUT = 2,
    BB_ONNX_NODE_NAME = 3,
    BB_ONNX_NODE_TYPE = 4,
    BB_ONNX_NODE_ATTRIBUTE = 5,
    BB_ONNX_NODE_DOMAIN = 7,
    BB_ONNX_ATTR_NAME = 1,
    BB_ONNX_ATTR_FLOAT = 2,
    BB_ONNX_ATTR_INT = 3,
    BB_ONNX_ATTR_TEXT = 4,
    BB_ONNX_ATTR_TENSOR = 5,
    BB_ONNX_ATTR_INTS = 8,
    BB_ONNX_ATTR_TYPE = 20,
    BB_ONNX_ATTR_REF = 21,
    BB_ONNX_TENSOR_DIM = 1,
    BB_ONNX_TENSOR_DTYPE = 2,
    BB_ONNX_TENSOR_NAME = 8,
    BB_ONNX_TENSOR_RAW = 9,
    BB_ONNX_TENSOR_EXTERNAL = 13,
    BB_ONNX_TENSOR_LOCATION = 14,
    BB_ONNX_FUNCTION_NAME = 1,
    BB_ONNX_FUNCTION_INPUT = 4,
    BB_ONNX_FUNCTION_OUTPUT = 5,
    BB_ONNX_FUNCTION_ATTRIBUTE = 6,
    BB_ONNX_FUNCTION_NODE = 7,
    BB_ONNX_FUNCTION_OPSET = 9,
    BB_ONNX_FUNCTION_DOMAIN = 10
};
/* AttributeProto.type */
enum {
    BB_ONNX_FLOAT = 1,
    BB_ONNX_INT = 2,
    BB_ONNX_STRING = 3,
    BB_ONNX_TENSOR = 4,
    BB_ONNX_INTS = 7
};

/* ---- The model */

typedef struct bb_onnx_function {
    const char *base, *name; /* base: before a number was added */
    bb_proto content;        /* all but the name */
} bb_onnx_function;

typedef struct bb_onnx {
    bb_graph *g;
    bb_context *ctx;
    bb_onnx_options options;
    int opset;
    bb_arena arena; /* names */
    bb_onnx_function *function;
    int function_count, function_capacity;
    bool *stored; /* by value: becomes an initializer */
} bb_onnx;

/* A list of nodes being written: the graph's own, or a function's. */
typedef struct bb_onnx_body {
    bb_onnx *o;
    bb_proto nodes;
    int field;                    /* of a node in what holds them */
    const bb_external_call *call; /* whose body it is; NULL: the graph's own */
    bool plain;                   /* a function's, which was not recorded */
    int first;                    /* value: the first that was made in it */
    int temporaries;
    bool *made;                           /* by value: its Constant or Expand node is written */
    const char *symbol[BB_GRAPH_SYMBOLS]; /* where its size is found; NULL: not looked up yet */
    const bb_node *node;                  /* being written: for errors and names */
} bb_onnx_body;

/* ---- io/onnx_body.c */
const char *bb_onnx_text(bb_onnx *o, const char *format, ...) BB_PRINTF(2, 3);
/* The error of the node that is being written. */
bb_status bb_onnx_refuse(bb_onnx_body *b, const char *format, ...) BB_PRINTF(2, 3);
const char *bb_onnx_name(bb_onnx_body *b, int value);
const char *bb_onnx_temporary(bb_onnx_body *b);
int bb_onnx_dtype(bb_dtype dtype);
/* Attributes of a node, appended to its own buffer. */
void bb_onnx_attr_int(bb_proto *attrs, const char *name, int64_t value);
void bb_onnx_attr_ints(bb_proto *attrs, const char *name, const int64_t *values, int n);
void bb_onnx_attr_float(bb_proto *attrs, const char *name, float value);
void bb_onnx_attr_text(bb_proto *attrs, const char *name, const char *text);
void bb_onnx_attr_ref(bb_proto *attrs, const char *name, int type, const char *of);
void bb_onnx_attr_tensor(bb_proto *attrs, const char *name, bb_dtype dtype, const int64_t *dims,
                         int rank, const void *bytes, size_t n);
/* Writes a node; inputs may be "" (absent). attrs may be NULL; it is emptied. Returns output. */
const char *bb_onnx_emit(bb_onnx_body *b, const char *type, const char *const *in, int n_in,
                         const char *out, bb_proto *attrs);
void bb_onnx_emit_many(bb_onnx_body *b, const char *type, const char *domain, const char *const *in,
                       int n_in, const char *const *out, int n_out, bb_proto *attrs);
const char *bb_onnx_emit1(bb_onnx_body *b, const char *type, const char *in, const char *out);
const char *bb_onnx_emit2(bb_onnx_body *b, const char *type, const char *x, const char *y,
                          const char *out);
const char *bb_onnx_ints(bb_onnx_body *b, const int64_t *values, int n); /* a constant, 1-D, i64 */
const char *bb_onnx_scalar(bb_onnx_body *b, bb_dtype dtype, double value);
/* Sizes as a 1-D i64 tensor: a constant, or computed from the shapes of inputs. */
const char *bb_onnx_dims(bb_onnx_body *b, const bb_dim *dims, int n);
/* A number attribute as a scalar: a constant, or computed. */
const char *bb_onnx_number(bb_onnx_body *b, const char *attr, bb_dtype dtype);
const char *bb_onnx_cast(bb_onnx_body *b, const char *x, bb_dtype dtype, const char *out);
/* ---- io/onnx_function.c */
/* Whether an attribute of the body's composite is meant by this attribute of a node inside: then
 * its name, else NULL. */
const char *bb_onnx_reference(const bb_onnx_body *b, const char *attr);
/* What output i of a call is, inside: a value. */
int bb_onnx_inner(const bb_graph *g, const bb_external_call *c, int i);
/* Which version of a domain's operators the model or the function uses: its field of that kind. */
void bb_onnx_opset(bb_proto *p, int field, const char *domain, int version);
/* All nodes of [first, end). */
bb_status bb_onnx_range(bb_onnx_body *b, int first, int end);
/* The function of a plain body, which is emptied: its name, `base` with a number where another of
 * that base is there. Lists end with NULL. */
const char *bb_onnx_plain_function(bb_onnx_body *b, const char *base, const char *const *in,
                                   const char *const *out, const char *const *attrs);

/* ---- io/onnx_ops.c: one node. io/onnx_native.c: the same by opset 23; *done false: not exact. */
bb_status bb_onnx_op(bb_onnx_body *b);
bb_status bb_onnx_native(bb_onnx_body *b, bool *done);
const char *bb_onnx_native_form(const bb_op *op);

/* ---- io/onnx_quantize.c: opset 21 */
bb_status bb_onnx_quantize(bb_onnx_body *b);
bb_status bb_onnx_dequantize(bb_onnx_body *b);

#endif
