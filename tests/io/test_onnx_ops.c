/* Each op's form: a graph of one call, in each mode and dtype, is what onnx.checker accepts and
 * what onnxruntime computes as we do. An op without a form is an error that names the node. */
#include "tests/io/graph_test.h"
#include "tests/io/onnx_test.h"
#include "tools/attrs.h"
#include "tools/op_cases.h"

/* The call of a case as a graph; NULL and no error: the op does not take this dtype. */
static bb_graph *record(bb_context *ctx, const bb_op_case *c, bb_dtype dtype, bb_named *in,
                        int *n_in, bb_named *out) {
    static const char *const names[] = {"x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7"};
    const bb_op *op = bb_find_op(ctx, c->op);
    bb_any_attrs attrs;
    bb_tensor *all[BB_MAX_INPUTS] = {NULL}, *got[BB_MAX_OUTPUTS] = {NULL};
    bb_attrs_parse(ctx, op, c->attrs, &attrs);
    *n_in = 0;
    for (int i = 0; i < c->n; i++) {
        all[i] = bb_op_case_input_tensor(ctx, c, i, dtype);
        if (!all[i]) continue;
        in[*n_in] = (bb_named){names[*n_in], all[i]};
        ++*n_in;
    }
    bb_graph *g = bb_graph_begin(ctx);
    for (int i = 0; i < *n_in; i++) bb_graph_input(g, in[i].name, in[i].tensor);
    bb_apply(ctx, op, all, c->n, op->attrs_bytes ? &attrs : NULL, got);
    *out = (bb_named){"y", got[0]};
    if (got[0]) bb_graph_output(g, out->name, out->tensor);
    bb_graph_end(g);
    if (bb_error(ctx) == BB_OK) return g;
    bb_clear_error(ctx);
    bb_graph_free(g);
    return NULL;
}

/* Not by themselves: test_onnx_quantize.c writes them. */
static bool only_in_pairs(const bb_op *op) {
    return strstr(op->name, "Quantize") || strcmp(op->name, "Dequantize") == 0;
}

static void test_each(test *t) {
    static const bb_dtype dtypes[] = {BB_F32, BB_F64, BB_F16, BB_BF16};
    static const char *const tolerances[] = {"1e-5", "1e-6", "5e-3", "5e-2"};
    scratch s = scratch_open();
    int saved = 0;
    for (int i = 0; i < bb_op_case_count; i++) {
        const bb_op_case *c = &bb_op_cases[i];
        for (int d = 0; d < 4; d++) {
            bb_context *ctx = test_open();
            bb_named in[BB_MAX_INPUTS], out;
            int n_in;
            const bb_op *op = bb_find_op(ctx, c->op);
            bb_graph *g = record(ctx, c, dtypes[d], in, &n_in, &out);
            int modes_run = op->decompose && dtypes[d] == BB_F32 ? ONNX_MODES : 1;
            for (int m = 0; g && m < modes_run; m++) {
                char stem[64], name[ONNX_NAME];
                const bb_onnx_options how = {.mode = (bb_onnx_mode)m};
                snprintf(stem, sizeof stem, "%03d.%s.%s", i, c->op, bb_dtype_name(dtypes[d]));
                bb_status status = onnx_save_as(g, &s, stem, &how, name);
                if (!bb_onnx_form(op, NULL)) {
                    CHECK_ERROR(t, ctx, BB_ERR_UNSUPPORTED, "ONNX has no form for this op");
                    continue;
                }
                if (only_in_pairs(op)) {
                    CHECK_ERROR(t, ctx, BB_ERR_UNSUPPORTED, "ONNX has fp8 numbers, and no bytes");
                    continue;
                }
                CHECK_MSG(t, status == BB_OK, "%s: %s", name, bb_error_message(ctx));
                onnx_expect(&s, name, 0, in, n_in, out, tolerances[d], d > 0);
                saved++;
            }
            bb_graph_free(g);
            CHECK_OK(t, ctx);
            bb_close(ctx);
        }
    }
    CHECK_MSG(t, saved > 200, "only %d models", saved);
    onnx_run_all(t, &s);
    scratch_close(&s);
}

/* Every op has a form or is known to have none. */
static void test_table(test *t) {
    static const char *const without[] = {"rand",   "randn", "dropout",
                                          "adamw_", "sgd_",  "update_scale_"};
    bb_context *ctx = test_open();
    for (int i = 0; i < bb_op_count(ctx); i++) {
        const bb_op *op = bb_op_at(ctx, i);
        bool known = false;
        for (int k = 0; k < COUNT(without); k++) known |= strcmp(without[k], op->name) == 0;
        CHECK_MSG(t, !bb_onnx_form(op, NULL) == known, "%s: %s", op->name,
                  known ? "has a form now" : "has no form");
    }
    bb_close(ctx);
}

static const test_row rows[] = {{"each op", test_each}, {"table", test_table}};
TEST_MAIN(rows)
