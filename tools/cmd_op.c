/* `bobbin op`: one registered op on tensors from a safetensors file, named after its inputs; its
 * outputs into another. The last input of a variadic op is name.0, name.1, ... With --grad the file
 * also holds grad.<output>, and the result grad.<input>. An op that works in place gives the inputs
 * it changed. */
#include "bobbin.h"
#include "tools/args.h"
#include "tools/attrs.h"
#include "tools/commands.h"
#include "tools/device.h"

#include <stdlib.h>
#include <string.h>

typedef struct options {
    const char *name, *input, *attrs, *output;
    int device, path;
    bool grad;
} options;

static const bb_flag flags[] = {
    {"NAME", BB_FLAG_TEXT, offsetof(options, name), .positional = true, .required = true,
     .help = "the op, as `bobbin ops` lists it"},
    {"input", BB_FLAG_TEXT, offsetof(options, input), .value = "FILE",
     .help = "safetensors file with the inputs"},
    {"output", BB_FLAG_TEXT, offsetof(options, output), .value = "FILE", .required = true,
     .help = "safetensors file to write"},
    {"attrs", BB_FLAG_TEXT, offsetof(options, attrs), .value = "JSON",
     .help = "attributes, such as '{\"axes\": [-1]}'"},
    {"grad", BB_FLAG_SWITCH, offsetof(options, grad),
     .help = "also read grad.<output> and write grad.<input>"},
    {"device", BB_FLAG_CHOICE, offsetof(options, device), .choices = BB_DEVICE_CHOICES,
     .help = "where it runs"},
    {"path", BB_FLAG_CHOICE, offsetof(options, path), .choices = "auto|fused|composed",
     .help = "how a composite op runs"},
    {.name = NULL},
};
static const bb_usage usage = {"op", "Runs one op on tensors from a file.", flags};

enum { NAME_BYTES = 96 };

typedef struct run {
    bb_context *ctx;
    const options *o;
    const bb_op *op;
    bb_safetensors *file; /* NULL: no --input */
    int names, n;         /* of input names, of tensors */
    bb_tensor **in;       /* n of them; NULL where an optional one is absent */
    bb_tensor *out[BB_MAX_OUTPUTS];
    int visible; /* outputs that are results */
} run;

/* The name of input tensor i: "scale", or "input.2" where the last name stands for many. */
static const char *input_name(const run *r, const char *prefix, int i, char name[NAME_BYTES]) {
    int last = r->names - 1;
    if (r->op->variadic && i >= last)
        snprintf(name, NAME_BYTES, "%s%s.%d", prefix, r->op->inputs[last], i - last);
    else
        snprintf(name, NAME_BYTES, "%s%s", prefix, r->op->inputs[i]);
    return name;
}

static bool in_file(const run *r, const char *name) {
    bb_stored stored;
    return r->file && bb_safetensors_find(r->file, name, &stored);
}

/* A tensor that nobody asks for is a misspelt one. */
static bb_status check_names(const run *r) {
    for (int64_t i = 0; r->file && i < bb_safetensors_count(r->file); i++) {
        const char *stored = bb_safetensors_at(r->file, i).name;
        char name[NAME_BYTES];
        bool known = false;
        for (int k = 0; k < r->n && !known; k++)
            known = strcmp(stored, input_name(r, "", k, name)) == 0;
        for (int k = 0; k < r->visible && !known; k++) {
            snprintf(name, sizeof name, "grad.%s", r->op->outputs[k]);
            known = strcmp(stored, name) == 0;
        }
        char quoted[BB_QUOTE_BYTES];
        if (!known)
            return bb_fail(r->ctx, BB_ERR_ARGUMENT,
                           "%s: expected tensors named after the inputs of %s, got %s",
                           bb_safetensors_path(r->file), r->op->name,
                           bb_quote(stored, strlen(stored), quoted));
    }
    return BB_OK;
}

static bb_status load_inputs(run *r) {
    char name[NAME_BYTES];
    r->n = r->names;
    if (r->op->variadic) /* at least one, so that a missing one has a name in the error */
        while (in_file(r, input_name(r, "", r->n, name))) r->n++;
    if (check_names(r) != BB_OK) return bb_error(r->ctx);
    r->in = calloc((size_t)r->n + 1, sizeof(bb_tensor *));
    if (!r->in) return bb_fail(r->ctx, BB_ERR_MEMORY, "out of memory");
    for (int i = 0; i < r->n; i++) {
        input_name(r, "", i, name);
        if (!in_file(r, name)) {
            if (i < r->names && r->op->optional >> i & 1) continue;
            return bb_fail(r->ctx, BB_ERR_ARGUMENT,
                           "%s: %s: expected a tensor of this name in %s, got none", r->op->name,
                           name, r->file ? bb_safetensors_path(r->file) : "--input");
        }
        r->in[i] = bb_safetensors_load(r->file, name, bb_get_device(r->ctx));
        if (!r->in[i]) return bb_error(r->ctx);
        if (r->o->grad && bb_dtype_is_float(bb_dtype_of(r->in[i])))
            bb_set_requires_grad(r->in[i], true);
    }
    return bb_error(r->ctx);
}

static bb_status backward(run *r) {
    if (r->op->gradient == bb_no_gradient)
        return bb_fail(r->ctx, BB_ERR_ARGUMENT, "%s: --grad: the op has no gradient", r->op->name);
    for (int i = 0; i < r->visible; i++) {
        char name[NAME_BYTES];
        snprintf(name, sizeof name, "grad.%s", r->op->outputs[i]);
        if (!in_file(r, name))
            return bb_fail(r->ctx, BB_ERR_ARGUMENT,
                           "%s: --grad: expected a tensor '%s' in %s, got none", r->op->name, name,
                           r->file ? bb_safetensors_path(r->file) : "--input");
        bb_tensor *seed = bb_safetensors_load(r->file, name, bb_get_device(r->ctx));
        if (seed) bb_backward_retain(r->out[i], seed);
    }
    return bb_error(r->ctx);
}

static bb_status save(const run *r) {
    size_t room = (size_t)(2 * r->n + r->visible);
    bb_named *rows = calloc(room + 1, sizeof *rows);
    char(*names)[NAME_BYTES] = calloc(room + 1, sizeof *names);
    int64_t count = 0;
    if (!rows || !names) bb_fail(r->ctx, BB_ERR_MEMORY, "out of memory");
    for (int i = 0; i < r->visible && bb_error(r->ctx) == BB_OK; i++)
        rows[count++] = (bb_named){r->op->outputs[i], r->out[i]};
    for (int i = 0; i < r->n && bb_error(r->ctx) == BB_OK; i++) {
        bool changed = i < 32 && r->op->mutates >> i & 1;
        bool floating = r->in[i] && bb_dtype_is_float(bb_dtype_of(r->in[i]));
        if (r->in[i] && changed) {
            rows[count] = (bb_named){input_name(r, "", i, names[count]), r->in[i]};
            count++;
        }
        if (!r->o->grad || !floating) continue;
        bb_tensor *grad = bb_grad(r->in[i]);
        rows[count] = (bb_named){input_name(r, "grad.", i, names[count]),
                                 grad ? grad : bb_zeros_like(r->in[i])};
        count++;
    }
    if (bb_error(r->ctx) == BB_OK)
        bb_safetensors_save(r->ctx, r->o->output, rows, count, NULL, 0, NULL);
    free(rows);
    free(names);
    return bb_error(r->ctx);
}

static bb_status execute(run *r) {
    const options *o = r->o;
    bb_any_attrs attrs;
    r->op = bb_find_op(r->ctx, o->name);
    if (!r->op)
        return bb_fail(r->ctx, BB_ERR_ARGUMENT, "NAME: expected an op (see bobbin ops), got '%s'",
                       o->name);
    if (bb_set_device(r->ctx, bb_choose_device(r->ctx, o->device))) return bb_error(r->ctx);
    bb_set_path(r->ctx, (bb_path)o->path);
    r->names = bb_op_input_count(r->op);
    r->visible = bb_op_output_count(r->op) - r->op->hidden;
    if (bb_attrs_parse(r->ctx, r->op, o->attrs, &attrs) != BB_OK) return bb_error(r->ctx);
    if (o->input && !(r->file = bb_safetensors_open(r->ctx, o->input))) return bb_error(r->ctx);
    if (load_inputs(r) != BB_OK) return bb_error(r->ctx);
    bb_status status =
        bb_apply(r->ctx, r->op, r->in, r->n, r->op->attrs_bytes ? &attrs : NULL, r->out);
    if (status == BB_OK && o->grad) status = backward(r);
    return status == BB_OK ? save(r) : status;
}

int bb_cmd_op(int argc, char **argv) {
    options o;
    int code = bb_args_parse(&usage, argc, argv, &o);
    if (code != BB_ARGS_GO) return code;
    run r = {.ctx = bb_open(NULL), .o = &o};
    if (!r.ctx) return bb_report(NULL, "op");
    if (execute(&r) == BB_OK)
        code = BB_EXIT_OK;
    else if (o.input && !r.file)
        code = bb_report_input(r.ctx, "op");
    else
        code = bb_report(r.ctx, "op");
    bb_safetensors_close(r.file);
    free(r.in);
    bb_close(r.ctx);
    return code;
}
