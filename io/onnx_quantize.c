/* Quantize and Dequantize in ONNX (opset 21): QuantizeLinear and DequantizeLinear of float8e4m3fn
 * and float8e5m2, with the scales of ops/quantize.c worked out around them. Every step is exact or
 * is rounded as ours is, so a runtime gives the numbers that bb_dequantize gives.
 *
 * QuantizeLinear divides where Quantize multiplies: with powers of two that is the same, and the
 * node has the scales that its DequantizeLinear has. Otherwise the product is taken first and the
 * node's own scale is 1; of a whole tensor, that of DequantizeLinear too (runtimes take one with a
 * constant scale before a MatMul for integers).
 *
 * Types differ from the op's, whose fp8 bytes are u8: data are float8, of nvfp4 too, whose e2m1
 * numbers e4m3 holds exactly (runtimes lack kernels for float4); scales are f32, of nvfp4
 * float8e4m3fn. So nothing but a Dequantize may read them. In composite files each op is a call of
 * a function `quantize` or `dequantize`. Columns are for backward passes and are refused.
 *
 * Here: what can be written, and functions. The nodes: onnx_scales.c. */
#include <string.h>

#include "io/onnx_quantize.h"

enum { DATA = 0, SCALE_INV, COLUMNS, COLUMNS_SCALE_INV, AMAX };
typedef bb_onnx_quantizing job;

/* ---- What can be written */

static const bb_node *maker(const bb_graph *g, int value) {
    value = bb_graph_resolve(g, value);
    const bb_value *v = value < 0 ? NULL : &g->value[value];
    const bb_node *n = v && v->kind == BB_VALUE_NODE ? &g->node[v->node] : NULL;
    return n && n->op && strcmp(n->op->name, "Quantize") == 0 ? n : NULL;
}

static bool is_output(const bb_graph *g, const bb_node *n, int output, int value) {
    return bb_graph_resolve(g, n->out[output]) == bb_graph_resolve(g, value);
}

/* Who reads output k, other than its Dequantize; NULL: nobody. *used: it is read at all. */
static const char *stranger(const bb_graph *g, const bb_node *n, int k, bool *used) {
    *used = false;
    for (int i = 0; i < g->output_count; i++)
        if (is_output(g, n, k, g->output[i])) return "an output of the graph";
    for (int i = 0; i < g->node_count; i++) {
        const bb_node *r = &g->node[i];
        for (int p = 0; p < r->n_in && !r->dead && r->op && !r->lowered; p++) {
            if (r->in[p] < 0 || !is_output(g, n, k, r->in[p])) continue;
            *used = true;
            bool composite = r->op->decompose != NULL; /* its body is looked at too */
            if (!composite && (strcmp(r->op->name, "Dequantize") != 0 || p != k)) return r->name;
        }
    }
    return NULL;
}

static bool begin(job *j, bb_onnx_body *b, const bb_node *quantized) {
    const bb_graph *g = b->o->g;
    *j = (job){.b = b, .a = quantized->attrs, .rows = 1};
    j->form = &bb_recipe_forms[j->a->recipe];
    j->x = &g->value[bb_graph_resolve(g, quantized->in[0])];
    j->square = j->a->square && j->a->recipe == BB_FP8_BLOCK;
    j->power_of_two = j->a->recipe == BB_MXFP8 || j->a->scales == BB_SCALES_POWER_OF_TWO ||
                      (j->a->recipe == BB_FP8_BLOCK && j->a->scales != BB_SCALES_ANY);
    for (int i = 0; i < j->x->rank - 1; i++) {
        bool known = j->rows >= 0 && bb_dim_constant(&j->x->dim[i]);
        j->rows = known ? j->rows * j->x->dim[i].c[0] : -1;
    }
    const bb_dim *last = &j->x->dim[j->x->rank - 1];
    j->c = last->c[0];
    if (!j->form->block) return true;
    j->blocks = (j->c + j->form->block - 1) / j->form->block;
    if (!bb_dim_constant(last) || j->c == 0)
        bb_onnx_refuse(b, "blocks of a last axis whose size is a symbol, or 0");
    else if (j->square && j->rows <= 0)
        bb_onnx_refuse(b, "square blocks of rows whose number is a symbol, or 0");
    return b->o->ctx->status == BB_OK;
}

/* ---- In a function, or in place */

static void write_attrs(bb_proto *attrs, const bb_quantize_attrs *a) {
    static const char *const recipes[] = {"fp8_delayed", "fp8_current", "mxfp8", "fp8_block",
                                          "nvfp4"};
    bb_onnx_attr_text(attrs, "format", a->format == BB_E5M2 ? "e5m2" : "e4m3");
    bb_onnx_attr_text(attrs, "recipe", recipes[a->recipe]);
    bb_onnx_attr_int(attrs, "version", 1);
}

typedef void writer(const job *j, const char *const *in, const char *const *out);

static bb_status write(job *j, writer *body, const char *name, const char *const *in_names,
                       const char *const *in, const char *const *out_names, const char **out) {
    static const char *const attr_names[] = {"format", "recipe", "version", NULL};
    bb_onnx_body *b = j->b;
    bb_context *ctx = b->o->ctx;
    const char *read[3], *made[3];
    int n_in = 0, n_out = 0;
    if (b->o->options.mode != BB_ONNX_COMPOSITE) {
        body(j, in, out);
        return ctx->status;
    }
    bb_onnx_body inside = {.o = b->o,
                           .nodes = {.ctx = ctx},
                           .field = BB_ONNX_FUNCTION_NODE,
                           .plain = true,
                           .node = b->node};
    const char *inner_in[4] = {NULL}, *inner_out[4] = {NULL};
    for (int i = 0; i < 3; i++) {
        if (in[i]) inner_in[n_in] = in_names[i], read[n_in++] = in[i];
        if (out[i]) inner_out[n_out] = out_names[i], made[n_out++] = out[i];
    }
    j->b = &inside;
    body(j, inner_in, inner_out);
    bb_proto attrs = {.ctx = ctx};
    write_attrs(&attrs, j->a);
    const char *function = bb_onnx_plain_function(&inside, name, inner_in, inner_out, attr_names);
    bb_onnx_emit_many(b, function, "bobbin", read, n_in, made, n_out, &attrs);
    return ctx->status;
}

bb_status bb_onnx_quantize(bb_onnx_body *b) {
    static const char *const in_names[] = {"input", "scale", NULL};
    static const char *const out_names[] = {"data", "scale_inv", "amax"};
    const bb_graph *g = b->o->g;
    const bb_node *n = b->node;
    bool used[AMAX + 1];
    job j;
    for (int k = 0; k <= AMAX; k++) {
        const char *who = stranger(g, n, k, &used[k]);
        if (who && k <= SCALE_INV)
            return bb_onnx_refuse(b, "%s reads its %s: ONNX has fp8 numbers, and no bytes of them",
                                  who, n->op->outputs[k]);
        used[k] |= who != NULL;
    }
    if (used[COLUMNS] || used[COLUMNS_SCALE_INV])
        return bb_onnx_refuse(b, "its columns are read: expected rows, which a forward pass reads");
    if (!begin(&j, b, n)) return b->o->ctx->status;
    const char *in[] = {bb_onnx_name(b, n->in[0]), n->in[1] < 0 ? NULL : bb_onnx_name(b, n->in[1]),
                        NULL};
    const char *out[] = {bb_onnx_name(b, n->out[DATA]), bb_onnx_name(b, n->out[SCALE_INV]),
                         used[AMAX] ? bb_onnx_name(b, n->out[AMAX]) : NULL};
    return write(&j, bb_onnx_quantize_nodes, "quantize", in_names, in, out_names, out);
}

bb_status bb_onnx_dequantize(bb_onnx_body *b) {
    static const char *const in_names[] = {"data", "scale_inv", "amax"};
    static const char *const out_names[] = {"output", NULL, NULL};
    const bb_graph *g = b->o->g;
    const bb_node *n = b->node, *from = maker(g, n->in[0]);
    const bb_dequantize_attrs *a = n->attrs;
    const bb_quantize_attrs *made = from ? from->attrs : NULL;
    job j;
    if (!from || !is_output(g, from, a->columns ? COLUMNS : DATA, n->in[0]) ||
        !is_output(g, from, a->columns ? COLUMNS_SCALE_INV : SCALE_INV, n->in[1]) ||
        made->recipe != a->recipe || made->format != a->format || made->square != a->square)
        return bb_onnx_refuse(b, "its data and scales are not those of one Quantize in the graph: "
                                 "ONNX has fp8 numbers, and no bytes of them");
    if (!begin(&j, b, from)) return b->o->ctx->status;
    const char *in[] = {bb_onnx_name(b, n->in[0]), bb_onnx_name(b, n->in[1]),
                        n->in[2] < 0 ? NULL : bb_onnx_name(b, n->in[2])};
    const char *out[] = {bb_onnx_name(b, n->out[0]), NULL, NULL};
    return write(&j, bb_onnx_dequantize_nodes, "dequantize", in_names, in, out_names, out);
}
