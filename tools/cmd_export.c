/* bobbin export: a trained model as an ONNX file that any runtime loads, for every batch size and
 * length. The work is in io/graph_trace.c and io/onnx.c. */
#include <stddef.h>

#include "tools/args.h"
#include "tools/commands.h"
#include "tools/model.h"

typedef struct options {
    const char *model, *output;
    int mode, dtype;
    bool external_data, print;
} options;

#define AT(field) offsetof(options, field)
static const bb_flag flags[] = {
    {"model", BB_FLAG_TEXT, AT(model), .value = "DIR", .required = true,
     .help = "folder of a trained model"},
    {"output", BB_FLAG_TEXT, AT(output), .value = "FILE", .required = true,
     .help = "the ONNX file to write"},
    {"mode", BB_FLAG_CHOICE, AT(mode), .choices = "composite|native|decomposed",
     .help = "composites as functions, as operators of opset 23, or as primitives"},
    {"dtype", BB_FLAG_CHOICE, AT(dtype), .choices = "f32|f16|bf16",
     .help = "of the parameters and the computation"},
    {"external-data", BB_FLAG_SWITCH, AT(external_data),
     .help = "parameters into FILE.data (always so beyond 2 GiB)"},
    {"print", BB_FLAG_SWITCH, AT(print), .help = "also print the graph as text"},
    {.name = NULL}};
static const bb_usage usage = {"export", "writes a trained model as ONNX", flags};

static bb_status forward(void *user, bb_tensor *const *in, bb_tensor **out) {
    out[0] = bb_nn_transformer_forward(user, in[0]);
    return bb_error(bb_context_of(in[0]));
}

static void export_model(bb_context *ctx, bb_nn_transformer *model, const options *o) {
    static const bb_graph_arg ids = {"ids", BB_I64, 2, {{.symbol = "batch"}, {.symbol = "time"}}};
    static const char *const outputs[] = {"logits"};
    int n = 0;
    const bb_named *params = bb_params_list(model->params, &n);
    const bb_graph_signature signature = {&ids, 1, params, n, outputs, 1, BB_CPU};
    bb_graph *graph = bb_graph_trace(ctx, forward, model, &signature);
    if (!graph) return;
    if (o->print) bb_graph_print(graph, stdout);
    const bb_onnx_options how = {.mode = (bb_onnx_mode)o->mode, .external_data = o->external_data};
    bb_onnx_save(graph, o->output, &how);
    bb_graph_free(graph);
}

int bb_cmd_export(int argc, char **argv) {
    static const bb_dtype dtypes[] = {BB_F32, BB_F16, BB_BF16};
    options o;
    int code = bb_args_parse(&usage, argc, argv, &o);
    if (code != BB_ARGS_GO) return code;
    bb_context *ctx = bb_open(NULL);
    if (!ctx) return bb_report(NULL, "export");
    bb_set_grad_enabled(ctx, false);
    bb_nn_transformer *model = bb_model_load_as(ctx, BB_CPU, o.model, dtypes[o.dtype]);
    if (bb_error(ctx) != BB_OK) {
        code = bb_report_input(ctx, "export");
    } else {
        export_model(ctx, model, &o);
        code = bb_error(ctx) == BB_OK ? BB_EXIT_OK : bb_report(ctx, "export");
    }
    bb_close(ctx);
    return code;
}
