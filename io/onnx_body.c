/* Lists of ONNX nodes: names, constants, sizes that are computed. What each op becomes is in
 * onnx_ops.c, functions and their calls are in onnx_function.c. */
#include <stdarg.h>

#include "io/onnx.h"

const char *bb_onnx_text(bb_onnx *o, const char *format, ...) {
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int n = vsnprintf(NULL, 0, format, arguments);
    char *text = n < 0 ? NULL : bb_arena_allocate(o->ctx, &o->arena, (size_t)n + 1);
    if (text) vsnprintf(text, (size_t)n + 1, format, again);
    va_end(again);
    va_end(arguments);
    return text ? text : "";
}

bb_status bb_onnx_refuse(bb_onnx_body *b, const char *format, ...) {
    char why[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why, sizeof why, format, arguments);
    va_end(arguments);
    return bb_fail(b->o->ctx, BB_ERR_UNSUPPORTED, "onnx: node %s (%s): %s",
                   b->node ? b->node->name : "-", b->node ? b->node->type : "-", why);
}

int bb_onnx_dtype(bb_dtype dtype) {
    static const int number[BB_DTYPE_COUNT] = {
        [BB_F64] = 11, [BB_F32] = 1, [BB_F16] = 10, [BB_BF16] = 16,
        [BB_I64] = 7,  [BB_I32] = 6, [BB_U8] = 2,   [BB_BOOL] = 9};
    return number[dtype];
}

/* ---- Attributes and nodes */

static void attr(bb_proto *attrs, bb_proto *one, const char *name, int type) {
    bb_proto_text(one, BB_ONNX_ATTR_NAME, name);
    bb_proto_int(one, BB_ONNX_ATTR_TYPE, type);
    bb_proto_message(attrs, BB_ONNX_NODE_ATTRIBUTE, one);
    bb_proto_free(one);
}

void bb_onnx_attr_int(bb_proto *attrs, const char *name, int64_t value) {
    bb_proto one = {.ctx = attrs->ctx};
    bb_proto_int(&one, BB_ONNX_ATTR_INT, value);
    attr(attrs, &one, name, BB_ONNX_INT);
}
void bb_onnx_attr_ints(bb_proto *attrs, const char *name, const int64_t *values, int n) {
    bb_proto one = {.ctx = attrs->ctx};
    for (int i = 0; i < n; i++) bb_proto_int(&one, BB_ONNX_ATTR_INTS, values[i]);
    attr(attrs, &one, name, BB_ONNX_INTS);
}
void bb_onnx_attr_float(bb_proto *attrs, const char *name, float value) {
    bb_proto one = {.ctx = attrs->ctx};
    bb_proto_float(&one, BB_ONNX_ATTR_FLOAT, value);
    attr(attrs, &one, name, BB_ONNX_FLOAT);
}
void bb_onnx_attr_text(bb_proto *attrs, const char *name, const char *text) {
    bb_proto one = {.ctx = attrs->ctx};
    bb_proto_text(&one, BB_ONNX_ATTR_TEXT, text);
    attr(attrs, &one, name, BB_ONNX_STRING);
}
void bb_onnx_attr_ref(bb_proto *attrs, const char *name, int type, const char *of) {
    bb_proto one = {.ctx = attrs->ctx};
    bb_proto_text(&one, BB_ONNX_ATTR_REF, of);
    attr(attrs, &one, name, type);
}

void bb_onnx_attr_tensor(bb_proto *attrs, const char *name, bb_dtype dtype, const int64_t *dims,
                         int rank, const void *bytes, size_t n) {
    bb_proto one = {.ctx = attrs->ctx}, tensor = {.ctx = attrs->ctx};
    for (int i = 0; i < rank; i++) bb_proto_int(&tensor, BB_ONNX_TENSOR_DIM, dims[i]);
    bb_proto_int(&tensor, BB_ONNX_TENSOR_DTYPE, bb_onnx_dtype(dtype));
    bb_proto_bytes(&tensor, BB_ONNX_TENSOR_RAW, bytes, n);
    bb_proto_message(&one, BB_ONNX_ATTR_TENSOR, &tensor);
    bb_proto_free(&tensor);
    attr(attrs, &one, name, BB_ONNX_TENSOR);
}

void bb_onnx_emit_many(bb_onnx_body *b, const char *type, const char *domain, const char *const *in,
                       int n_in, const char *const *out, int n_out, bb_proto *attrs) {
    bb_proto node = {.ctx = b->o->ctx};
    for (int i = 0; i < n_in; i++) bb_proto_text(&node, BB_ONNX_NODE_INPUT, in[i]);
    for (int i = 0; i < n_out; i++) bb_proto_text(&node, BB_ONNX_NODE_OUTPUT, out[i]);
    /* Of a recorded node's nodes, the one with its output bears its name. */
    if (!b->call && !b->plain) bb_proto_text(&node, BB_ONNX_NODE_NAME, out[0]);
    bb_proto_text(&node, BB_ONNX_NODE_TYPE, type);
    if (domain) bb_proto_text(&node, BB_ONNX_NODE_DOMAIN, domain);
    size_t extra = attrs ? attrs->n : 0; /* they are tagged already */
    bb_proto_head(&b->nodes, b->field, node.n + extra);
    bb_proto_append(&b->nodes, node.at, node.n);
    if (extra) bb_proto_append(&b->nodes, attrs->at, extra);
    bb_proto_free(&node);
    if (attrs) bb_proto_free(attrs);
}

const char *bb_onnx_emit(bb_onnx_body *b, const char *type, const char *const *in, int n_in,
                         const char *out, bb_proto *attrs) {
    bb_onnx_emit_many(b, type, NULL, in, n_in, &out, 1, attrs);
    return out;
}
const char *bb_onnx_emit1(bb_onnx_body *b, const char *type, const char *in, const char *out) {
    return bb_onnx_emit(b, type, &in, 1, out, NULL);
}
const char *bb_onnx_emit2(bb_onnx_body *b, const char *type, const char *x, const char *y,
                          const char *out) {
    const char *in[] = {x, y};
    return bb_onnx_emit(b, type, in, 2, out, NULL);
}

/* ---- Names */

/* Inside functions names count from the first value made there: calls of one composite that do the
 * same get the same bytes. */
const char *bb_onnx_temporary(bb_onnx_body *b) {
    return b->call || b->plain
               ? bb_onnx_text(b->o, "/u%d", b->temporaries++)
               : bb_onnx_text(b->o, "%s/%d", b->node ? b->node->name : "", b->temporaries++);
}

static const char *constant_node(bb_onnx_body *b, bb_dtype dtype, const int64_t *dims, int rank,
                                 const void *bytes, size_t n, const char *out) {
    bb_proto attrs = {.ctx = b->o->ctx};
    bb_onnx_attr_tensor(&attrs, "value", dtype, dims, rank, bytes, n);
    return bb_onnx_emit(b, "Constant", NULL, 0, out, &attrs);
}

/* A constant that a body captured is written where it is first read. */
static bb_status constant_value(bb_onnx_body *b, const bb_value *v, const char *name) {
    bb_tensor *t = v->tensor;
    bb_shape shape = bb_shape_of_tensor(t);
    size_t n = (size_t)t->count * bb_dtype_bytes(v->dtype);
    void *bytes = bb_arena_allocate(b->o->ctx, &b->o->arena, n ? n : 1);
    if (!bytes || bb_read(t, bytes, n)) return b->o->ctx->status;
    constant_node(b, v->dtype, shape.size, shape.rank, bytes, n, name);
    return b->o->ctx->status;
}

/* The value as it stands in the file, before sizes are spread. */
static const char *stored_name(bb_onnx_body *b, int value, bool grows, const char *name) {
    bb_onnx *o = b->o;
    const bb_value *v = &o->g->value[value];
    if (!b->call) {
        o->stored[value] = true;
        return v->name;
    }
    if (v->kind == BB_VALUE_PARAM || !v->copied) {
        bb_onnx_refuse(b, "its body reads %s, which is not among its inputs", v->name);
        return "";
    }
    const char *own = grows ? bb_onnx_temporary(b) : name;
    return constant_value(b, v, own) ? "" : own;
}

static const char *outer_value(bb_onnx_body *b, int value) {
    const bb_value *v = &b->o->g->value[value];
    bool grows = false;
    for (int i = 0; i < v->rank; i++) grows |= !bb_dim_constant(&v->dim[i]);
    const char *name = b->call ? bb_onnx_text(b->o, "/v%d", value - b->first)
                       : grows ? bb_onnx_text(b->o, "%s/spread", v->name)
                               : v->name;
    if (b->made[value]) return name;
    b->made[value] = true;
    const char *stored = stored_name(b, value, grows, name);
    return grows ? bb_onnx_emit2(b, "Expand", stored, bb_onnx_dims(b, v->dim, v->rank), name)
                 : stored;
}

const char *bb_onnx_name(bb_onnx_body *b, int value) {
    const bb_graph *g = b->o->g;
    value = bb_graph_resolve(g, value);
    if (value < 0) return "";
    const bb_value *v = &g->value[value];
    if (b->call) {
        const bb_external *e = &b->call->seen;
        for (int i = 0; i < e->n_inputs; i++)
            if (bb_graph_resolve(g, b->call->in[i]) == value) return e->input_names[i];
        for (int i = 0; i < e->n_outputs; i++)
            if (bb_onnx_inner(g, b->call, i) == value && v->kind == BB_VALUE_NODE)
                return e->output_names[i];
        if (v->kind == BB_VALUE_NODE) return bb_onnx_text(b->o, "/v%d", value - b->first);
        return outer_value(b, value);
    }
    for (int i = 0; i < g->output_count; i++)
        if (v->kind == BB_VALUE_NODE && bb_graph_resolve(g, g->output[i]) == value)
            return g->output_name[i];
    return v->kind == BB_VALUE_PARAM || v->kind == BB_VALUE_CONSTANT ? outer_value(b, value)
                                                                     : v->name;
}

/* ---- Constants and sizes */

const char *bb_onnx_ints(bb_onnx_body *b, const int64_t *values, int n) {
    unsigned char bytes[8 * 2 * BB_MAX_INTS];
    int64_t count = n;
    for (int i = 0; i < 8 * n; i++)
        bytes[i] = (unsigned char)((uint64_t)values[i / 8] >> 8 * (i % 8));
    return constant_node(b, BB_I64, &count, 1, bytes, 8 * (size_t)n, bb_onnx_temporary(b));
}

const char *bb_onnx_scalar(bb_onnx_body *b, bb_dtype dtype, double value) {
    bb_context *ctx = b->o->ctx;
    unsigned char bytes[8];
    bb_scope scope = bb_scope_begin(ctx);
    bb_tensor *t = bb_scalar(ctx, dtype, value);
    if (t) bb_read(t, bytes, bb_dtype_bytes(dtype));
    bb_scope_end(ctx, scope, NULL);
    if (ctx->status) return "";
    return constant_node(b, dtype, NULL, 0, bytes, bb_dtype_bytes(dtype), bb_onnx_temporary(b));
}

const char *bb_onnx_cast(bb_onnx_body *b, const char *x, bb_dtype dtype, const char *out) {
    bb_proto attrs = {.ctx = b->o->ctx};
    bb_onnx_attr_int(&attrs, "to", bb_onnx_dtype(dtype));
    return bb_onnx_emit(b, "Cast", &x, 1, out, &attrs);
}

/* A symbol's size as a tensor of one element, from an input one of whose sizes it divides. */
static const char *symbol(bb_onnx_body *b, int k) {
    const bb_graph *g = b->o->g;
    int n = b->call ? b->call->seen.n_inputs : g->input_count;
    if (b->symbol[k]) return b->symbol[k];
    for (int i = 0; i < n; i++) {
        int value = b->call ? b->call->in[i] : g->input[i];
        const bb_value *v = &g->value[value];
        for (int64_t axis = 0; axis < v->rank; axis++) {
            bb_dim only = bb_dim_of(0);
            int64_t times = only.c[1 << k] = v->dim[axis].c[1 << k];
            if (times < 1 || !bb_dim_equal(&only, &v->dim[axis])) continue;
            const char *x = bb_onnx_name(b, value);
            bb_proto attrs = {.ctx = b->o->ctx};
            bb_onnx_attr_int(&attrs, "start", axis);
            bb_onnx_attr_int(&attrs, "end", axis + 1);
            const char *size = bb_onnx_emit(b, "Shape", &x, 1, bb_onnx_temporary(b), &attrs);
            if (times > 1)
                size =
                    bb_onnx_emit2(b, "Div", size, bb_onnx_ints(b, &times, 1), bb_onnx_temporary(b));
            return b->symbol[k] = size;
        }
    }
    bb_onnx_refuse(b, "it needs the size '%s', which is no size of an input", g->symbol[k]);
    return "";
}

static const char *one_dim(bb_onnx_body *b, const bb_dim *d) {
    const char *sum = NULL;
    if (bb_dim_constant(d)) return bb_onnx_ints(b, &d->c[0], 1);
    for (int i = BB_DIM_TERMS - 1; i >= 0; i--) {
        const char *product = NULL;
        if (!d->c[i]) continue;
        for (int k = 0; k < BB_GRAPH_SYMBOLS; k++) {
            if (!(i >> k & 1)) continue;
            const char *s = symbol(b, k);
            product = product ? bb_onnx_emit2(b, "Mul", product, s, bb_onnx_temporary(b)) : s;
        }
        if (!product)
            product = bb_onnx_ints(b, &d->c[0], 1);
        else if (d->c[i] != 1)
            product = bb_onnx_emit2(b, "Mul", product, bb_onnx_ints(b, &d->c[i], 1),
                                    bb_onnx_temporary(b));
        sum = sum ? bb_onnx_emit2(b, "Add", sum, product, bb_onnx_temporary(b)) : product;
    }
    return sum;
}

const char *bb_onnx_dims(bb_onnx_body *b, const bb_dim *dims, int n) {
    const char *part[2 * BB_MAX_INTS];
    int64_t run[2 * BB_MAX_INTS];
    int parts = 0, length = 0;
    for (int i = 0; i <= n; i++) {
        bool constant = i < n && bb_dim_constant(&dims[i]);
        if (constant) run[length++] = dims[i].c[0];
        if (!constant && length) {
            part[parts++] = bb_onnx_ints(b, run, length);
            length = 0;
        }
        if (i < n && !constant) part[parts++] = one_dim(b, &dims[i]);
    }
    if (parts == 0) return bb_onnx_ints(b, run, 0);
    if (parts == 1) return part[0];
    bb_proto attrs = {.ctx = b->o->ctx};
    bb_onnx_attr_int(&attrs, "axis", 0);
    return bb_onnx_emit(b, "Concat", part, parts, bb_onnx_temporary(b), &attrs);
}

const char *bb_onnx_number(bb_onnx_body *b, const char *name, bb_dtype dtype) {
    const bb_node *n = b->node;
    const bb_attr *a = bb_find_attr(n->op, name);
    const char *ref = dtype == BB_F32 ? bb_onnx_reference(b, name) : NULL;
    if (ref) {
        bb_proto attrs = {.ctx = b->o->ctx};
        bb_onnx_attr_ref(&attrs, "value_float", BB_ONNX_FLOAT, ref);
        return bb_onnx_emit(b, "Constant", NULL, 0, bb_onnx_temporary(b), &attrs);
    }
    for (int i = 0; i < n->dynamic_count; i++) {
        if (n->dynamic[i].attr != a) continue;
        const char *flat = one_dim(b, &n->dynamic[i].dim);
        const char *wide = bb_onnx_cast(b, flat, dtype, bb_onnx_temporary(b));
        return bb_onnx_emit1(b, "Squeeze", wide, bb_onnx_temporary(b));
    }
    double value = a->type == BB_ATTR_FLOAT
                       ? *(const double *)(const void *)((const char *)n->attrs + a->offset)
                       : (double)bb_node_attr(n, name, 0).c[0];
    return bb_onnx_scalar(b, dtype, value);
}
