/* What each op becomes in ONNX: a table of forms. A form without a function of its own is one ONNX
 * node with the same inputs in the same order and no attributes. Composites are not here: they are
 * functions, or they are lowered. Everything is in opset 18, which later ones understand too, but
 * for Quantize and Dequantize (onnx_quantize.c). */
#include <math.h>
#include <string.h>

#include "io/onnx.h"
#include "ops/attrs.h"

typedef struct form {
    const char *op, *onnx;
    void (*write)(bb_onnx_body *b, const struct form *f, const char *const *in, const char *out);
} form;

/* ---- What the functions below share */

static const bb_value *input(const bb_onnx_body *b, int i) {
    return &b->o->g->value[bb_graph_resolve(b->o->g, b->node->in[i])];
}
static const bb_value *output(const bb_onnx_body *b) { return &b->o->g->value[b->node->out[0]]; }
static int64_t int_attr(const bb_onnx_body *b, const char *name) {
    return bb_node_attr(b->node, name, 0).c[0];
}

static void with_int(bb_onnx_body *b, const char *type, const char *const *in, int n,
                     const char *out, const char *attr, int64_t value) {
    bb_proto attrs = {.ctx = b->o->ctx};
    bb_onnx_attr_int(&attrs, attr, value);
    bb_onnx_emit(b, type, in, n, out, &attrs);
}

/* An attribute's elements as a tensor, computed where they are symbolic. */
static const char *list_attr(bb_onnx_body *b, const char *name) {
    bb_dim dims[2 * BB_MAX_INTS];
    int n = bb_attr_elements(bb_find_attr(b->node->op, name), b->node->attrs);
    for (int i = 0; i < n; i++) dims[i] = bb_node_attr(b->node, name, i);
    return bb_onnx_dims(b, dims, n);
}

/* ---- Elementwise */

static void write_rsqrt(bb_onnx_body *b, const form *f, const char *const *in, const char *out) {
    (void)f;
    bb_onnx_emit1(b, "Reciprocal", bb_onnx_emit1(b, "Sqrt", in[0], bb_onnx_temporary(b)), out);
}
/* Opset 18 knows these not in bf16: computed in f32 and rounded once, as our kernels do. */
static void write_wide(bb_onnx_body *b, const form *f, const char *const *in, const char *out) {
    if (input(b, 0)->dtype != BB_BF16) {
        bb_onnx_emit1(b, f->onnx, in[0], out);
        return;
    }
    const char *wide = bb_onnx_cast(b, in[0], BB_F32, bb_onnx_temporary(b));
    bb_onnx_cast(b, bb_onnx_emit1(b, f->onnx, wide, bb_onnx_temporary(b)), BB_BF16, out);
}
static void write_square(bb_onnx_body *b, const form *f, const char *const *in, const char *out) {
    bb_onnx_emit2(b, f->onnx, in[0], in[0], out);
}
/* A tensor with a number: pow, add_scalar, mul_scalar. */
static void write_scalar(bb_onnx_body *b, const form *f, const char *const *in, const char *out) {
    bb_onnx_emit2(b, f->onnx, in[0], bb_onnx_number(b, "value", input(b, 0)->dtype), out);
}
static void write_clamp(bb_onnx_body *b, const form *f, const char *const *in, const char *out) {
    const bb_clamp_attrs *a = b->node->attrs;
    bb_dtype dtype = input(b, 0)->dtype;
    const char *all[] = {in[0], isinf(a->min) ? "" : bb_onnx_scalar(b, dtype, a->min),
                         isinf(a->max) ? "" : bb_onnx_scalar(b, dtype, a->max)};
    bb_onnx_emit(b, f->onnx, all, 3, out, NULL);
}
static void write_cast(bb_onnx_body *b, const form *f, const char *const *in, const char *out) {
    (void)f;
    bb_onnx_cast(b, in[0], output(b)->dtype, out);
}
static void write_ne(bb_onnx_body *b, const form *f, const char *const *in, const char *out) {
    (void)f;
    bb_onnx_emit1(b, "Not", bb_onnx_emit2(b, "Equal", in[0], in[1], bb_onnx_temporary(b)), out);
}
/* Of bool, a sum is or and a product is and. */
static void write_add(bb_onnx_body *b, const form *f, const char *const *in, const char *out) {
    bb_onnx_emit2(b, input(b, 0)->dtype == BB_BOOL ? "Or" : f->onnx, in[0], in[1], out);
}
static void write_mul(bb_onnx_body *b, const form *f, const char *const *in, const char *out) {
    bb_onnx_emit2(b, input(b, 0)->dtype == BB_BOOL ? "And" : f->onnx, in[0], in[1], out);
}

/* ---- Reductions */

static void write_reduce(bb_onnx_body *b, const form *f, const char *const *in, const char *out) {
    const bb_reduce_attrs *a = b->node->attrs;
    const char *all[] = {in[0], ""}, *ref = bb_onnx_reference(b, "axes");
    int n = ref || a->axes.n ? 2 : 1; /* no axes: all of them */
    bb_dtype dtype = input(b, 0)->dtype, result = output(b)->dtype;
    bb_proto attrs = {.ctx = b->o->ctx};
    if (ref) {
        bb_onnx_attr_ref(&attrs, "value_ints", BB_ONNX_INTS, ref);
        all[1] = bb_onnx_emit(b, "Constant", NULL, 0, bb_onnx_temporary(b), &attrs);
    } else if (n == 2) {
        all[1] = list_attr(b, "axes");
    }
    if (dtype != result) all[0] = bb_onnx_cast(b, in[0], result, bb_onnx_temporary(b));
    with_int(b, f->onnx, all, n, out, "keepdims", a->keepdim);
}
static void write_sum_squares(bb_onnx_body *b, const form *f, const char *const *in,
                              const char *out) {
    bb_dtype dtype = input(b, 0)->dtype, result = output(b)->dtype;
    const char *x = dtype == result ? in[0] : bb_onnx_cast(b, in[0], result, bb_onnx_temporary(b));
    with_int(b, f->onnx, &x, 1, out, "keepdims", 0);
}
static void write_argmax(bb_onnx_body *b, const form *f, const char *const *in, const char *out) {
    bb_proto attrs = {.ctx = b->o->ctx};
    bb_onnx_attr_int(&attrs, "axis", int_attr(b, "axis"));
    bb_onnx_attr_int(&attrs, "keepdims", int_attr(b, "keepdim"));
    bb_onnx_emit(b, f->onnx, in, 1, out, &attrs);
}
static void write_cumsum(bb_onnx_body *b, const form *f, const char *const *in, const char *out) {
    bb_dtype dtype = input(b, 0)->dtype, result = output(b)->dtype;
    const char *x = dtype == result ? in[0] : bb_onnx_cast(b, in[0], result, bb_onnx_temporary(b));
    bb_onnx_emit2(b, f->onnx, x, bb_onnx_scalar(b, BB_I64, (double)int_attr(b, "axis")), out);
}

/* ---- Shapes */

/* Reshape copies a size where its tensor says 0, and finds one that says -1. With these two most
 * shapes with symbols are constants; otherwise the sizes are computed. */
static void write_reshape(bb_onnx_body *b, const form *f, const char *const *in, const char *out) {
    const bb_value *x = input(b, 0), *y = output(b);
    int64_t sizes[BB_MAX_RANK] = {0};
    int open = 0;
    bool zero = false;
    for (int i = 0; i < y->rank; i++) {
        bool same = i < x->rank && bb_dim_equal(&x->dim[i], &y->dim[i]);
        bool constant = bb_dim_constant(&y->dim[i]);
        zero |= constant && y->dim[i].c[0] == 0;
        sizes[i] = constant ? y->dim[i].c[0] : same ? 0 : -1;
        open += sizes[i] == -1;
    }
    const char *all[] = {in[0], open > 1 || zero ? bb_onnx_dims(b, y->dim, y->rank)
                                                 : bb_onnx_ints(b, sizes, y->rank)};
    with_int(b, f->onnx, all, 2, out, "allowzero", zero);
}
static void write_expand(bb_onnx_body *b, const form *f, const char *const *in, const char *out) {
    bb_onnx_emit2(b, f->onnx, in[0], bb_onnx_dims(b, output(b)->dim, output(b)->rank), out);
}
static void write_permute(bb_onnx_body *b, const form *f, const char *const *in, const char *out) {
    int64_t axes[BB_MAX_RANK];
    int rank = input(b, 0)->rank;
    bool swap = strcmp(b->node->op->name, "transpose") == 0;
    for (int i = 0; i < rank; i++) {
        axes[i] = swap ? i : bb_node_attr(b->node, "axes", i).c[0];
        if (axes[i] < 0) axes[i] += rank;
    }
    if (swap) {
        int64_t x = int_attr(b, "axis0"), y = int_attr(b, "axis1");
        if (x < 0) x += rank;
        if (y < 0) y += rank;
        if (rank) axes[x] = y, axes[y] = x;
    }
    bb_proto attrs = {.ctx = b->o->ctx};
    bb_onnx_attr_ints(&attrs, "perm", axes, rank);
    bb_onnx_emit(b, f->onnx, in, 1, out, &attrs);
}
static void write_slice(bb_onnx_body *b, const form *f, const char *const *in, const char *out) {
    bb_dim start = bb_node_attr(b->node, "start", 0), stop = bb_node_attr(b->node, "stop", 0);
    int64_t axis = int_attr(b, "axis"), step = int_attr(b, "step");
    const char *all[] = {in[0], bb_onnx_dims(b, &start, 1), bb_onnx_dims(b, &stop, 1),
                         bb_onnx_ints(b, &axis, 1), bb_onnx_ints(b, &step, 1)};
    bb_onnx_emit(b, f->onnx, all, 5, out, NULL);
}
static void write_select(bb_onnx_body *b, const form *f, const char *const *in, const char *out) {
    const char *all[] = {in[0], bb_onnx_number(b, "index", BB_I64)};
    with_int(b, f->onnx, all, 2, out, "axis", int_attr(b, "axis"));
}
static void write_cat(bb_onnx_body *b, const form *f, const char *const *in, const char *out) {
    with_int(b, f->onnx, in, b->node->n_in, out, "axis", int_attr(b, "axis"));
}
static void write_stack(bb_onnx_body *b, const form *f, const char *const *in, const char *out) {
    (void)f;
    int64_t axis = int_attr(b, "axis");
    int n = b->node->n_in;
    const char **all = bb_arena_allocate(b->o->ctx, &b->o->arena, (size_t)n * sizeof *all);
    for (int i = 0; all && i < n; i++)
        all[i] =
            bb_onnx_emit2(b, "Unsqueeze", in[i], bb_onnx_ints(b, &axis, 1), bb_onnx_temporary(b));
    if (all) with_int(b, "Concat", all, n, out, "axis", axis);
}
static void write_pad(bb_onnx_body *b, const form *f, const char *const *in, const char *out) {
    bb_dim pads[2 * BB_MAX_RANK];
    int rank = input(b, 0)->rank;
    for (int i = 0; i < rank; i++) {
        pads[i] = bb_node_attr(b->node, "before", i);
        pads[rank + i] = bb_node_attr(b->node, "after", i);
    }
    const char *all[] = {in[0], bb_onnx_dims(b, pads, 2 * rank),
                         bb_onnx_number(b, "value", input(b, 0)->dtype)};
    bb_onnx_emit(b, f->onnx, all, 3, out, NULL);
}

/* ---- Indices */

static void write_indexed(bb_onnx_body *b, const form *f, const char *const *in, const char *out) {
    bool has_axis = bb_find_attr(b->node->op, "axis") != NULL; /* embedding: the first */
    with_int(b, f->onnx, in, 2, out, "axis", has_axis ? int_attr(b, "axis") : 0);
}
static void write_scatter(bb_onnx_body *b, const form *f, const char *const *in, const char *out) {
    bb_proto attrs = {.ctx = b->o->ctx};
    bb_onnx_attr_int(&attrs, "axis", int_attr(b, "axis"));
    bb_onnx_attr_text(&attrs, "reduction", "add");
    bb_onnx_emit(b, f->onnx, in, 3, out, &attrs);
}

/* ---- From nothing */

static void write_full(bb_onnx_body *b, const form *f, const char *const *in, const char *out) {
    const bb_full_attrs *a = b->node->attrs;
    (void)f, (void)in;
    const char *x = bb_onnx_scalar(b, output(b)->dtype, a->value);
    bb_onnx_emit2(b, "Expand", x, bb_onnx_dims(b, output(b)->dim, output(b)->rank), out);
}
/* In f64, then rounded once, as the op does. */
static void write_arange(bb_onnx_body *b, const form *f, const char *const *in, const char *out) {
    bool wide = output(b)->dtype == BB_F64;
    (void)in;
    const char *all[] = {bb_onnx_number(b, "start", BB_F64), bb_onnx_number(b, "stop", BB_F64),
                         bb_onnx_number(b, "step", BB_F64)};
    const char *range = bb_onnx_emit(b, f->onnx, all, 3, wide ? out : bb_onnx_temporary(b), NULL);
    if (!wide) bb_onnx_cast(b, range, output(b)->dtype, out);
}

/* ---- The table */

static const form forms[] = {
    {"full", "Expand", write_full},
    {"arange", "Range", write_arange},
    {"neg", "Neg", NULL},
    {"abs", "Abs", NULL},
    {"sign", "Sign", NULL},
    {"exp", "Exp", NULL},
    {"log", "Log", NULL},
    {"sqrt", "Sqrt", NULL},
    {"rsqrt", "Sqrt, Reciprocal", write_rsqrt},
    {"sin", "Sin", write_wide},
    {"cos", "Cos", write_wide},
    {"tanh", "Tanh", NULL},
    {"sigmoid", "Sigmoid", NULL},
    {"relu", "Relu", NULL},
    {"erf", "Erf", NULL},
    {"square", "Mul", write_square},
    {"reciprocal", "Reciprocal", NULL},
    {"pow", "Pow", write_scalar},
    {"add_scalar", "Add", write_scalar},
    {"mul_scalar", "Mul", write_scalar},
    {"clamp", "Clip", write_clamp},
    {"cast", "Cast", write_cast},
    {"contiguous", "Identity", NULL},
    {"alias", "Identity", NULL},
    {"add", "Add", write_add},
    {"sub", "Sub", NULL},
    {"mul", "Mul", write_mul},
    {"div", "Div", NULL},
    {"maximum", "Max", NULL},
    {"minimum", "Min", NULL},
    {"eq", "Equal", NULL},
    {"ne", "Equal, Not", write_ne},
    {"lt", "Less", NULL},
    {"le", "LessOrEqual", NULL},
    {"gt", "Greater", NULL},
    {"ge", "GreaterOrEqual", NULL},
    {"where", "Where", NULL},
    {"sum", "ReduceSum", write_reduce},
    {"mean", "ReduceMean", write_reduce},
    {"amax", "ReduceMax", write_reduce},
    {"amin", "ReduceMin", write_reduce},
    {"sum_squares", "ReduceSumSquare", write_sum_squares},
    {"argmax", "ArgMax", write_argmax},
    {"cumsum", "CumSum", write_cumsum},
    {"matmul", "MatMul", NULL},
    {"reshape", "Reshape", write_reshape},
    {"permute", "Transpose", write_permute},
    {"transpose", "Transpose", write_permute},
    {"expand", "Expand", write_expand},
    {"slice", "Slice", write_slice},
    {"select", "Gather", write_select},
    {"cat", "Concat", write_cat},
    {"stack", "Unsqueeze, Concat", write_stack},
    {"pad", "Pad", write_pad},
    {"gather", "GatherElements", write_indexed},
    {"index_select", "Gather", write_indexed},
    {"embedding", "Gather", write_indexed},
    {"scatter_add", "ScatterElements", write_scatter},
};

static const form *form_of(const bb_op *op) {
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++)
        if (strcmp(forms[i].op, op->name) == 0) return &forms[i];
    return NULL;
}

/* What has several outputs, or inputs of types that are not the op's: whole nodes. */
static const struct {
    const char *op, *onnx;
    bb_status (*write)(bb_onnx_body *b);
} whole[] = {{"Quantize", "QuantizeLinear", bb_onnx_quantize},
             {"Dequantize", "DequantizeLinear", bb_onnx_dequantize}};
enum { WHOLE = sizeof whole / sizeof whole[0] };

bb_status bb_onnx_op(bb_onnx_body *b) {
    const bb_node *n = b->node;
    bb_context *ctx = b->o->ctx;
    for (int i = 0; i < WHOLE; i++)
        if (strcmp(whole[i].op, n->op->name) == 0) return whole[i].write(b);
    const form *f = form_of(n->op);
    if (!f)
        return bb_onnx_refuse(b, n->op->decompose ? "a composite that was recorded without its body"
                                                  : "ONNX has no form for this op");
    const char **in = bb_arena_allocate(ctx, &b->o->arena, (size_t)(n->n_in + 1) * sizeof *in);
    if (!in) return ctx->status;
    for (int i = 0; i < n->n_in; i++) in[i] = bb_onnx_name(b, n->in[i]);
    const char *out = bb_onnx_name(b, n->out[0]);
    if (f->write)
        f->write(b, f, in, out);
    else
        bb_onnx_emit(b, f->onnx, in, n->n_in, out, NULL);
    return ctx->status;
}

const char *bb_onnx_form(const bb_op *op, const char **native) {
    if (native) *native = op ? bb_onnx_native_form(op) : NULL;
    if (!op) return NULL;
    const form *f = form_of(op);
    for (int i = 0; i < WHOLE; i++)
        if (strcmp(whole[i].op, op->name) == 0) return whole[i].onnx;
    return f ? f->onnx : op->decompose ? "function" : NULL;
}
