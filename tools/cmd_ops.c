/* `bobbin ops`: what every op is and what it can do. The dtypes are found out by running each op's
 * first case (tools/op_cases.c) in each of them. */
#include "bobbin.h"
#include "tools/args.h"
#include "tools/attrs.h"
#include "tools/commands.h"
#include "tools/op_cases.h"

#include <stdlib.h>
#include <string.h>

typedef struct options {
    bool json;
} options;

static const bb_flag flags[] = {
    {"json", BB_FLAG_SWITCH, offsetof(options, json), .help = "as JSON, with all there is to know"},
    {.name = NULL},
};
static const bb_usage usage = {
    "ops",
    "Lists every op: kind, gradient, backends, dtypes, ONNX form, inputs, outputs, attributes.",
    flags};

static const char *const devices[BB_DEVICE_COUNT] = {"cpu", "cuda"};

static const char *kind_of(const bb_op *op) {
    return op->decompose ? "composite" : op->view ? "view" : "primitive";
}

/* Whether an op that draws its own values is asked for this dtype by attribute. */
static void set_dtype(const bb_op *op, bb_any_attrs *attrs, bb_dtype dtype) {
    for (const bb_attr *a = op->attrs; a->name; a++)
        if (strcmp(a->name, "dtype") == 0 && a->type == BB_ATTR_CHOICE)
            memcpy(attrs->bytes + a->offset, &(int){(int)dtype}, sizeof(int));
}

static bool runs_in(bb_context *ctx, const bb_op *op, bb_dtype dtype) {
    const bb_op_case *c = NULL;
    bb_any_attrs attrs;
    bb_tensor *in[BB_MAX_INPUTS] = {NULL}, *out[BB_MAX_OUTPUTS];
    bool takes = false;
    for (int i = bb_op_case_count - 1; i >= 0; i--)
        if (strcmp(bb_op_cases[i].op, op->name) == 0) c = &bb_op_cases[i];
    if (!c) return false;
    if (bb_attrs_parse(ctx, op, c->attrs, &attrs) == BB_OK) {
        if (c->n == 0) set_dtype(op, &attrs, dtype);
        takes = c->n == 0; /* some inputs have one dtype, whatever is asked for */
        for (int i = 0; i < c->n; i++) {
            in[i] = bb_op_case_input_tensor(ctx, c, i, dtype);
            takes |= in[i] && bb_dtype_of(in[i]) == dtype;
        }
        if (bb_error(ctx) == BB_OK)
            bb_apply(ctx, op, in, c->n, op->attrs_bytes ? &attrs : NULL, out);
    }
    bool ran = takes && bb_error(ctx) == BB_OK;
    bb_clear_error(ctx);
    bb_end_step(ctx);
    return ran;
}

/* How an op runs on a device; NULL: not at all. */
static const char *runs_on(bb_context *ctx, const bb_op *op, bb_device device) {
    if (!bb_device_available(ctx, device, NULL)) return NULL;
    bool forward = bb_op_has_kernel(ctx, op, device, false),
         backward = bb_op_has_kernel(ctx, op, device, true);
    if (op->decompose) return backward ? "fused" : forward ? "fused forward" : "composed";
    return op->view ? "view" : forward ? "kernel" : NULL;
}

static const char *gradient_of(const bb_op *op) {
    return op->gradient == bb_no_gradient ? "no" : op->decompose ? "decomposition" : "rule";
}

/* ---- JSON */

static void put_names(bb_json_writer *w, const char *key, const char *const *names, int n) {
    bb_json_key(w, key);
    bb_json_begin_array(w);
    for (int i = 0; i < n; i++) bb_json_put_string(w, names[i]);
    bb_json_end_array(w);
}

static void put_inputs(bb_json_writer *w, const bb_op *op) {
    bb_json_key(w, "inputs");
    bb_json_begin_array(w);
    for (int i = 0; op->inputs[i]; i++) {
        bb_json_begin_object(w);
        bb_json_key(w, "name");
        bb_json_put_string(w, op->inputs[i]);
        bb_json_key(w, "optional");
        bb_json_put_bool(w, op->optional >> i & 1);
        bb_json_key(w, "variadic");
        bb_json_put_bool(w, op->variadic && !op->inputs[i + 1]);
        bb_json_key(w, "changed");
        bb_json_put_bool(w, op->mutates >> i & 1);
        bb_json_end_object(w);
    }
    bb_json_end_array(w);
}

static void put_attrs(bb_json_writer *w, const bb_op *op) {
    static const char *const types[] = {"int", "float", "bool", "ints", "choice"};
    bb_any_attrs defaults;
    bb_op_default_attrs(op, &defaults);
    bb_json_key(w, "attributes");
    bb_json_begin_array(w);
    for (const bb_attr *a = op->attrs; a->name; a++) {
        bb_json_begin_object(w);
        bb_json_key(w, "name");
        bb_json_put_string(w, a->name);
        bb_json_key(w, "type");
        bb_json_put_string(w, types[a->type]);
        if (a->choices) {
            bb_json_key(w, "choices");
            bb_json_put_string(w, a->choices);
        }
        bb_json_key(w, "default");
        if (a->required)
            bb_json_put_null(w);
        else
            bb_attr_put(w, a, &defaults);
        bb_json_end_object(w);
    }
    bb_json_end_array(w);
}

/* What the op becomes in each mode of `bobbin export`; no member: an error. */
static void put_export(bb_json_writer *w, const bb_op *op) {
    static const char *const modes[] = {"composite", "native", "decomposed"};
    const char *native, *form = bb_onnx_form(op, &native);
    bb_json_key(w, "export");
    bb_json_begin_object(w);
    for (int m = 0; form && m < 3; m++) {
        bb_json_key(w, modes[m]);
        bb_json_put_string(w, m == 1 && native          ? native
                              : m == 2 && op->decompose ? "decomposition"
                                                        : form);
    }
    bb_json_end_object(w);
}

static void put_op(bb_json_writer *w, bb_context *ctx, const bb_op *op) {
    bb_json_begin_object(w);
    bb_json_key(w, "name");
    bb_json_put_string(w, op->name);
    bb_json_key(w, "kind");
    bb_json_put_string(w, kind_of(op));
    bb_json_key(w, "doc");
    bb_json_put_string(w, op->doc ? op->doc : "");
    put_inputs(w, op);
    int outputs = bb_op_output_count(op), visible = outputs - op->hidden;
    put_names(w, "outputs", op->outputs, visible);
    put_names(w, "hidden_outputs", op->outputs + visible, op->hidden);
    put_attrs(w, op);
    bb_json_key(w, "dtypes");
    bb_json_begin_array(w);
    for (int d = 0; d < BB_DTYPE_COUNT; d++)
        if (runs_in(ctx, op, (bb_dtype)d)) bb_json_put_string(w, bb_dtype_name((bb_dtype)d));
    bb_json_end_array(w);
    bb_json_key(w, "backends");
    bb_json_begin_object(w);
    for (int d = 0; d < BB_DEVICE_COUNT; d++) {
        const char *how = runs_on(ctx, op, (bb_device)d);
        if (!how) continue;
        bb_json_key(w, devices[d]);
        bb_json_put_string(w, how);
    }
    bb_json_end_object(w);
    bb_json_key(w, "gradient");
    bb_json_put_string(w, gradient_of(op));
    put_export(w, op);
    bb_json_end_object(w);
}

static bb_status print_json(bb_context *ctx) {
    bb_json_writer w;
    bb_json_open(&w, ctx, 2);
    bb_json_begin_array(&w);
    for (int i = 0; i < bb_op_count(ctx); i++) put_op(&w, ctx, bb_op_at(ctx, i));
    bb_json_end_array(&w);
    if (!w.failed) printf("%s\n", w.text);
    bb_json_close(&w);
    return bb_error(ctx);
}

/* ---- A table, wide columns last. All cells are written first; columns are as wide as their widest
 * cell. */

enum { COLUMNS = 9, CELL = 160 };

static void add(char cell[CELL], const char *text) {
    size_t n = strlen(cell);
    snprintf(cell + n, CELL - n, "%s%s", n ? " " : "", text);
}

static void fill_attrs(bb_context *ctx, const bb_op *op, char cell[CELL]) {
    bb_any_attrs defaults;
    bb_op_default_attrs(op, &defaults);
    for (const bb_attr *a = op->attrs; a->name; a++) {
        bb_json_writer w;
        char text[CELL];
        bb_json_open(&w, ctx, 0);
        if (!a->required) bb_attr_put(&w, a, &defaults);
        snprintf(text, sizeof text, "%s=%s", a->name, a->required ? "?" : w.text ? w.text : "");
        bb_json_close(&w);
        add(cell, text);
    }
}

static void fill_row(bb_context *ctx, const bb_op *op, char row[COLUMNS][CELL]) {
    char text[CELL];
    add(row[0], op->name);
    add(row[1], kind_of(op));
    for (int i = 0; op->inputs[i]; i++) {
        bool many = op->variadic && !op->inputs[i + 1];
        snprintf(text, sizeof text, "%s%s", op->inputs[i],
                 many                    ? "..."
                 : op->optional >> i & 1 ? "?"
                                         : "");
        add(row[6], text);
    }
    for (int i = 0; i < bb_op_output_count(op) - op->hidden; i++) add(row[7], op->outputs[i]);
    fill_attrs(ctx, op, row[8]);
    for (int d = 0; d < BB_DTYPE_COUNT; d++)
        if (runs_in(ctx, op, (bb_dtype)d)) add(row[4], bb_dtype_name((bb_dtype)d));
    for (int d = 0; d < BB_DEVICE_COUNT; d++) {
        const char *how = runs_on(ctx, op, (bb_device)d);
        snprintf(text, sizeof text, "%s:%s", devices[d], how ? how : "");
        if (how) add(row[3], text);
    }
    add(row[2], gradient_of(op));
    const char *native, *form = bb_onnx_form(op, &native);
    snprintf(text, sizeof text, "%s%s%s", form ? form : "", native ? " or " : "",
             native ? native : "");
    if (form) add(row[5], text);
}

static void print_table(bb_context *ctx) {
    static const char *const heads[COLUMNS] = {"op",       "kind",    "gradient",
                                               "backends", "dtypes",  "export",
                                               "inputs",   "outputs", "attributes"};
    int count = bb_op_count(ctx), width[COLUMNS] = {0};
    char(*rows)[COLUMNS][CELL] = calloc((size_t)count + 1, sizeof *rows);
    if (!rows) {
        bb_fail(ctx, BB_ERR_MEMORY, "out of memory");
        return;
    }
    for (int c = 0; c < COLUMNS; c++) snprintf(rows[0][c], CELL, "%s", heads[c]);
    for (int i = 0; i < count; i++) fill_row(ctx, bb_op_at(ctx, i), rows[i + 1]);
    for (int i = 0; i <= count; i++)
        for (int c = 0; c < COLUMNS; c++)
            if ((int)strlen(rows[i][c]) > width[c]) width[c] = (int)strlen(rows[i][c]);
    for (int i = 0; i <= count; i++)
        for (int c = 0; c < COLUMNS; c++)
            printf("%-*s%s", c + 1 < COLUMNS ? width[c] : 0, rows[i][c][0] ? rows[i][c] : "-",
                   c + 1 < COLUMNS ? "  " : "\n");
    free(rows);
}

int bb_cmd_ops(int argc, char **argv) {
    options o;
    int code = bb_args_parse(&usage, argc, argv, &o);
    if (code != BB_ARGS_GO) return code;
    bb_context *ctx = bb_open(NULL);
    if (!ctx) return bb_report(NULL, "ops");
    if (bb_error(ctx) == BB_OK) o.json ? (void)print_json(ctx) : print_table(ctx);
    code = bb_error(ctx) == BB_OK ? BB_EXIT_OK : bb_report(ctx, "ops");
    bb_close(ctx);
    return code;
}
