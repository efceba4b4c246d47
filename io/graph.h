/* The inside of graphs, for the graph_*.c, externalize.c and onnx*.c files of io/. io/io.h is the
 * manual.
 *
 * A graph is two arrays. Nodes stand in the order in which they ran; the nodes inside a composite
 * (its body) or a layer follow it directly, up to its `end`. Values are what nodes read and
 * write, by index. */
#ifndef BOBBIN_IO_GRAPH_H
#define BOBBIN_IO_GRAPH_H

#include "core/impl.h"
#include "io/io.h"

enum { BB_DIM_TERMS = 1 << BB_GRAPH_SYMBOLS };

/* A size as a polynomial of the symbols, none squared: c[0] + c[1] s0 + c[2] s1 + c[3] s0 s1 ...
 * (bit k of the index: times symbol k). */
typedef struct bb_dim {
    int64_t c[BB_DIM_TERMS];
} bb_dim;

typedef enum bb_value_kind {
    BB_VALUE_INPUT,
    BB_VALUE_PARAM,    /* named, by reference: a run sees its current elements */
    BB_VALUE_CONSTANT, /* whatever else was there before: a tensor of the context by reference, one
                          of the step as a copy */
    BB_VALUE_NODE
} bb_value_kind;

typedef struct bb_value {
    bb_value_kind kind;
    bb_dtype dtype;
    int rank;
    bb_dim dim[BB_MAX_RANK];
    const char *name;  /* unique in the graph */
    bb_tensor *tensor; /* PARAM, CONSTANT. A constant whose dims are symbolic has one element, which
                          stands for all */
    bool owned;        /* tensor, the handle, is ours to free */
    bool copied;       /* a constant that is part of the graph, not of the context */
    int node, output;  /* who makes it; node -1: nobody */
    int inner;         /* of a composite's output: the value of the body that it is; -1: none */
} bb_value;

/* An attribute, or an element of one, that is a polynomial of the symbols. */
typedef struct bb_dynamic {
    const bb_attr *attr;
    int element;
    bb_dim dim;
} bb_dynamic;

typedef struct bb_node {
    const bb_op *op;         /* NULL: a layer's call */
    const char *type;        /* of a layer: its class; of an op: the record's name */
    const char *path, *name; /* "blocks.0.attn_norm.rmsnorm_impl"; name: unique */
    uint64_t serial;         /* of a layer's call */
    void *attrs;
    bb_dynamic *dynamic;
    int dynamic_count;
    int *in, *out; /* values; in -1: absent. A layer's are filled in by bb_graph_end */
    int n_in, n_out;
    int end, parent; /* parent -1: top */
    bool dead;       /* no output of the graph needs it */
    bool opened;     /* a composite of whose body others read (a recorded backward does) */
    bool lowered;    /* a composite that is replaced by its body; opened ones always are */
    int external;    /* index into externals; -1: none */
    bb_device device;
} bb_node;

/* An externalized call with the values at its boundary. */
typedef struct bb_external_call {
    bb_external seen;
    int node;
    const int *in, *out; /* seen.n_inputs, seen.n_outputs */
} bb_external_call;

typedef struct bb_slot {
    const bb_tensor *key;
    int value;
    uint32_t version; /* of its bytes when it was last read or changed by an op */
    bool read;
} bb_slot;

struct bb_graph {
    bb_recorder recorder; /* first: the recorder is the graph */
    bb_context *ctx;
    bb_arena arena; /* everything below that has no release of its own */
    bb_node *node;
    bb_value *value;
    int node_count, node_capacity, value_count, value_capacity;
    int *input, *output, *param; /* values */
    int input_count, output_count, param_count;
    int input_capacity, output_capacity, param_capacity;
    const char **output_name;
    int output_name_capacity;
    const char *symbol[BB_GRAPH_SYMBOLS];
    int symbol_count;
    int64_t size[BB_GRAPH_SYMBOLS]; /* in this recording */
    bool failed;                    /* to record or to end; such a graph can only be freed */
    /* While recording */
    bool recording;
    bb_path path_before;
    bb_slot *slot; /* open addressing; key NULL: free */
    int slot_count, slot_capacity;
    int open; /* innermost node that has not ended; -1: none */
    uint64_t step;
    const bb_module *outermost; /* layers from here outwards are not the graph's */
    /* Externalized */
    bb_external_call *external;
    int external_count, external_capacity;
    bool externalized;
    bool lowered; /* by bb_graph_lower */
};

/* ---- io/graph.c */
void *bb_graph_allocate(bb_graph *g, size_t bytes); /* zeroed; lives with the graph */
const char *bb_graph_text(bb_graph *g, const char *format, ...) BB_PRINTF(2, 3);
/* Makes room for one more element in an array of ours. */
bool bb_graph_grow(bb_graph *g, void **array, int count, int *capacity, size_t bytes);
/* An error unless the graph has ended well; `call` is whose error it is. */
bb_status bb_graph_complete(bb_graph *g, const char *call);
/* "rmsnorm_impl" of "RMSNormImpl". */
void bb_graph_op_name(const char *op, char *out, size_t bytes);

/* ---- io/graph_value.c: while recording */
int bb_graph_find(const bb_graph *g,
                  const bb_tensor *t); /* the value that t stands for; -1: none */
int bb_graph_new_value(bb_graph *g, bb_value_kind kind, const bb_tensor *t); /* -1: no memory */
/* What an op reads, or only views: something recorded, or a constant. -1 after an error. `changes`:
 * how often the op that is being recorded has changed t's bytes. */
int bb_graph_value_of(bb_graph *g, bb_tensor *t, uint32_t changes, bool reads);
void bb_graph_note_change(bb_graph *g, const bb_storage *changed); /* by a recorded op */
/* `view` was read if its base was: nothing else may change it. */
void bb_graph_same_bytes(bb_graph *g, const bb_tensor *base, const bb_tensor *view);

/* ---- io/graph_finish.c: dead nodes, layers' inputs and outputs, names */
bb_status bb_graph_finish(bb_graph *g);
/* What the nodes [first, end) read from outside and what of theirs is used outside, in order of
 * appearance, parameters and constants by reference first. The lists live with the graph. */
bb_status bb_graph_boundary(bb_graph *g, int first, int end, int **in, int *n_in, int **out,
                            int *n_out);

/* io/graph_run.c: every composite as bb_graph_lower last said. */
void bb_graph_lower_all(bb_graph *g);

/* ---- Polynomials, io/graph_dim.c */
static inline bb_dim bb_dim_of(int64_t constant) { return (bb_dim){{constant}}; }
bool bb_dim_constant(const bb_dim *d); /* d->c[0] is all */
bool bb_dim_equal(const bb_dim *a, const bb_dim *b);
int64_t bb_dim_at(const bb_dim *d, const int64_t *size); /* its value */
enum { BB_DIM_TEXT = 160 };
/* "2*batch*time + 1" */
const char *bb_dim_text(const bb_graph *g, const bb_dim *d, char text[BB_DIM_TEXT]);
/* "(batch, time, 64)" */
enum { BB_DIMS_TEXT = 512 };
const char *bb_dims_text(const bb_graph *g, const bb_value *v, char text[BB_DIMS_TEXT]);
/* From its values where symbol k is 2 + (bit k of the index). */
bb_dim bb_dim_fit(const int64_t *at, int symbols);

/* The number that an attribute's element is, from an attribute struct; the attribute of a node with
 * its polynomial, or its constant. */
bb_dim bb_node_attr(const bb_node *n, const char *attr, int element);
const bb_attr *bb_find_attr(const bb_op *op, const char *name);
/* How many elements an INTS attribute has; 1 for others. */
int bb_attr_elements(const bb_attr *a, const void *attrs);
/* The attributes as they are with symbols of these sizes, into `out` of op->attrs_bytes. */
void bb_node_attrs_at(const bb_node *n, const int64_t *size, void *out);

/* The value that v stands for once lowered composites are gone. */
static inline int bb_graph_resolve(const bb_graph *g, int v) {
    while (v >= 0 && g->value[v].kind == BB_VALUE_NODE && g->value[v].inner >= 0 &&
           g->node[g->value[v].node].lowered)
        v = g->value[v].inner;
    return v;
}

#endif
