/* `bobbin op`: every op through files gives what the library gives; wrong files and attributes are
 * refused by name. */
#include "tests/tools/shell.h"
#include "tools/attrs.h"
#include "tools/op_cases.h"

enum { MAX_ROWS = 16 };

/* Rows for a file of an op's inputs and cotangents, named as `bobbin op` wants them. */
typedef struct file_rows {
    bb_named row[MAX_ROWS];
    char name[MAX_ROWS][64];
    int n;
} file_rows;

static void add_row(file_rows *f, bb_tensor *tensor, const char *format, const char *name,
                    int index) {
    if (!tensor) return;
    snprintf(f->name[f->n], sizeof f->name[0], format, name, index);
    f->row[f->n] = (bb_named){f->name[f->n], tensor};
    f->n++;
}

static void input_names(file_rows *f, const bb_op *op, const char *prefix, bb_tensor *const *in,
                        int n) {
    int names = bb_op_input_count(op);
    char base[64];
    for (int i = 0; i < n; i++) {
        bool many = op->variadic && i >= names - 1;
        snprintf(base, sizeof base, "%s%s", prefix, op->inputs[many ? names - 1 : i]);
        add_row(f, in[i], many ? "%s.%d" : "%s", base, i - (names - 1));
    }
}

static void save(bb_context *ctx, const char *path, const file_rows *f) {
    bb_safetensors_save(ctx, path, f->row, f->n, NULL, 0, NULL);
}

static void check_same(test *t, const char *what, const bb_named *expected, bb_safetensors *file) {
    bb_context *ctx = bb_context_of(expected->tensor);
    bb_tensor *got = bb_safetensors_load(file, expected->name, BB_CPU);
    bb_shape a = bb_shape_of(expected->tensor), b = got ? bb_shape_of(got) : BB_SCALAR;
    bool same = got && bb_shape_equal(&a, &b) && bb_dtype_of(got) == bb_dtype_of(expected->tensor);
    if (same) {
        char x[4096], y[4096];
        size_t bytes = (size_t)bb_count(got) * bb_dtype_bytes(bb_dtype_of(got));
        bb_read(got, x, bytes);
        bb_read(expected->tensor, y, bytes);
        same = memcmp(x, y, bytes) == 0;
    }
    CHECK_MSG(t, same, "%s: %s differs (%s)", what, expected->name, bb_error_message(ctx));
}

/* One case in one dtype, on one path: the program's file against the same call in this process, bit
 * by bit. */
static void compare_case(test *t, bb_context *ctx, scratch *s, const bb_op_case *c, bb_dtype dtype,
                         bb_path path) {
    static const char *const paths[] = {"auto", "fused", "composed"};
    const bb_op *op = bb_find_op(ctx, c->op);
    bb_any_attrs attrs;
    bb_tensor *in[BB_MAX_INPUTS] = {NULL}, *out[BB_MAX_OUTPUTS] = {NULL};
    file_rows before = {.n = 0}, after = {.n = 0};
    char what[128], input[600], output[600];
    said r;
    bool grad = op->gradient != bb_no_gradient;
    int visible = bb_op_output_count(op) - op->hidden;
    snprintf(what, sizeof what, "%s %s %s %s", c->op, c->attrs ? c->attrs : "",
             bb_dtype_name(dtype), paths[path]);
    snprintf(input, sizeof input, "%s/in", s->folder);
    snprintf(output, sizeof output, "%s/out", s->folder);
    if (c->in[0].draw == BB_DRAW_BYTE) dtype = BB_U8;
    bb_set_path(ctx, path);
    bb_attrs_parse(ctx, op, c->attrs, &attrs);
    for (int i = 0; i < c->n; i++) {
        in[i] = bb_op_case_input_tensor(ctx, c, i, dtype);
        if (grad && in[i] && bb_dtype_is_float(bb_dtype_of(in[i])))
            bb_set_requires_grad(in[i], true);
    }
    input_names(&before, op, "", in, c->n);
    save(ctx, input, &before); /* now: an op may change its inputs */
    bb_status status = bb_apply(ctx, op, in, c->n, op->attrs_bytes ? &attrs : NULL, out);
    CHECK_MSG(t, status == BB_OK, "%s: %s", what, bb_error_message(ctx));
    for (int i = 0; i < visible; i++) add_row(&after, out[i], "%s", op->outputs[i], 0);
    for (int i = 0; i < c->n; i++)
        if (op->mutates >> i & 1) add_row(&after, in[i], "%s", op->inputs[i], 0);
    for (int i = 0; grad && i < visible; i++) {
        double values[256];
        for (int k = 0; k < 256; k++) values[k] = (k * 37 % 17 - 8) / 8.0;
        bb_tensor *seed = bb_from_f64(ctx, bb_dtype_of(out[i]), bb_shape_of(out[i]), values);
        add_row(&before, seed, "grad.%s", op->outputs[i], 0);
        bb_backward_retain(out[i], seed);
        save(ctx, input, &before);
    }
    if (grad) {
        bb_tensor *grads[BB_MAX_INPUTS] = {NULL};
        for (int i = 0; i < c->n; i++) grads[i] = in[i] ? bb_grad(in[i]) : NULL;
        input_names(&after, op, "grad.", grads, c->n);
    }
    CHECK_MSG(t, bb_error(ctx) == BB_OK, "%s: %s", what, bb_error_message(ctx));
    run_bobbin(s, &r, "op %s --input '%s' --attrs '%s' --path %s %s --output '%s'", c->op, input,
               c->attrs ? c->attrs : "{}", paths[path], grad ? "--grad" : "", output);
    CHECK_MSG(t, r.code == 0 && r.err[0] == '\0' && r.out[0] == '\0', "%s: %d: %s", what, r.code,
              r.err);
    bb_safetensors *file = bb_safetensors_open(ctx, output);
    CHECK_MSG(t, file != NULL, "%s: %s", what, bb_error_message(ctx));
    for (int i = 0; file && i < after.n; i++) check_same(t, what, &after.row[i], file);
    bb_safetensors_close(file);
    bb_clear_error(ctx);
    bb_end_step(ctx);
}

static void every_op_through_a_file(test *t) {
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    for (int i = 0; i < bb_op_case_count; i++)
        compare_case(t, ctx, &s, &bb_op_cases[i], BB_F32, BB_PATH_AUTO);
    for (int i = 0; i < bb_op_count(ctx); i++) {
        bool found = false;
        for (int k = 0; k < bb_op_case_count && !found; k++)
            found = strcmp(bb_op_cases[k].op, bb_op_at(ctx, i)->name) == 0;
        CHECK_MSG(t, found, "%s has no case", bb_op_at(ctx, i)->name);
    }
    scratch_close(&s);
    bb_close(ctx);
}

static void dtypes_and_paths(test *t) {
    static const bb_dtype dtypes[] = {BB_F64, BB_F32, BB_F16, BB_BF16};
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    for (int i = 0; i < bb_op_case_count; i++) {
        if (strcmp(bb_op_cases[i].op, "RMSNormImpl") != 0) continue;
        for (int d = 0; d < 4; d++) {
            compare_case(t, ctx, &s, &bb_op_cases[i], dtypes[d], BB_PATH_AUTO);
            compare_case(t, ctx, &s, &bb_op_cases[i], dtypes[d], BB_PATH_COMPOSED);
            if (!bb_op_cases[i].attrs) /* the fused kernel is for the last axis */
                compare_case(t, ctx, &s, &bb_op_cases[i], dtypes[d], BB_PATH_FUSED);
        }
    }
    for (int i = 0; i < bb_op_case_count; i++)
        for (int d = 0; d < BB_DTYPE_COUNT; d++)
            if (strcmp(bb_op_cases[i].op, "eq") == 0)
                compare_case(t, ctx, &s, &bb_op_cases[i], (bb_dtype)d, BB_PATH_AUTO);
    scratch_close(&s);
    bb_close(ctx);
}

/* An independent number: RMSNorm of (3, 4) with eps 0 is (3, 4) / sqrt(12.5). */
static void known_numbers(test *t) {
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    said r;
    file_rows f = {.n = 0};
    add_row(&f, bb_from_f64(ctx, BB_F64, BB_SHAPE(1, 2), (const double[]){3, 4}), "%s", "input", 0);
    add_row(&f, bb_from_f64(ctx, BB_F64, BB_SHAPE(2), (const double[]){1, 2}), "%s", "scale", 0);
    save(ctx, scratch_path(&s, "in"), &f);
    run_bobbin(&s, &r, "op RMSNormImpl --input '%s/in' --attrs '{\"eps\": 0}' --output '%s/out'",
               s.folder, s.folder);
    CHECK_MSG(t, r.code == 0, "%s", r.err);
    bb_safetensors *file = bb_safetensors_open(ctx, scratch_path(&s, "out"));
    CHECK(t, file && bb_safetensors_count(file) == 1);
    double got[2] = {0};
    if (file) bb_read_f64(bb_safetensors_load(file, "output", BB_CPU), got, 2);
    CHECK_NEAR(t, got[0], 3 / sqrt(12.5), 1e-14);
    CHECK_NEAR(t, got[1], 8 / sqrt(12.5), 1e-14);
    bb_safetensors_close(file);
    scratch_close(&s);
    bb_close(ctx);
}

static void refuses_wrong_input(test *t) {
    static const struct {
        const char *arguments;
        int code;
        const char *expected;
    } rows[] = {
        {"matmul --input missing", 2, "missing: cannot open: No such file"},
        {"matmul --input .", 2, "expected a regular file, got a folder"},
        {"matmul --input junk", 2, "junk: header: expected"},
        {"matmul", 2, "matmul: input: expected a tensor of this name in --input, got none"},
        {"neg --input ab", 2, "expected tensors named after the inputs of neg, got"},
        {"matmul --input bad_shapes", 2, "matmul: "},
        {"matmul --input ab --grad", 2,
         "matmul: --grad: expected a tensor 'grad.output' in ab, got none"},
        {"argmax --input x --grad", 2, "argmax: --grad: the op has no gradient"},
        {"cat --input ab", 2, "expected tensors named after the inputs of cat, got 'input'"},
        {"cat", 2, "cat: input.0: expected a tensor of this name"},
        {"matmul --input ab --attrs x", 2, "attributes: byte 0: expected a value, got 'x'"},
        {"matmul --input ab --attrs '[]'", 2, "attributes: expected an object, got an array"},
        {"matmul --input ab --attrs '{\"axis\": 1}'", 2,
         "matmul: expected attributes that the op has, got 'axis'"},
        {"sum --input x --attrs '{\"axes\": 1}'", 2,
         "sum: axes: expected an array of up to 16 integers, got '1'"},
        {"sum --input x --attrs '{\"axes\": [0.5]}'", 2, "sum: axes: expected an array"},
        {"sum --input x --attrs '{\"axes\": [7]}'", 2, "sum: axes"},
        {"sum --input x --attrs '{\"keepdim\": 1}'", 2,
         "sum: keepdim: expected true or false, got '1'"},
        {"sum --input x --attrs '{\"keepdim\": true, \"keepdim\": true}'", 2,
         "expected each key once"},
        {"gelu --input x --attrs '{\"approximate\": \"erf\"}'", 2,
         "gelu: approximate: expected one of none|tanh, got '\"erf\"'"},
        {"mul_scalar --input x --attrs '{\"value\": \"2\"}'", 2,
         "mul_scalar: value: expected a number"},
        {"cumsum --input x --attrs '{\"axis\": 1.5}'", 2,
         "cumsum: axis: expected an integer, got '1.5'"},
        {"reshape --input x", 2, "reshape: shape: expected a value, got nothing"},
        {"reshape --input x --attrs '{\"shape\": [7]}'", 2, "reshape"},
    };
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    said r;
    file_rows ab = {.n = 0}, x = {.n = 0};
    add_row(&ab, bb_from_f64(ctx, BB_F32, BB_SHAPE(2), (const double[]){1, 2}), "%s", "input", 0);
    add_row(&ab, bb_from_f64(ctx, BB_F32, BB_SHAPE(3), (const double[]){1, 2, 3}), "%s", "other",
            0);
    save(ctx, scratch_path(&s, "bad_shapes"), &ab);
    ab.row[1].tensor = ab.row[0].tensor;
    save(ctx, scratch_path(&s, "ab"), &ab);
    add_row(&x, ab.row[0].tensor, "%s", "input", 0);
    save(ctx, scratch_path(&s, "x"), &x);
    put_bytes(scratch_path(&s, "junk"), "this is not a safetensors file", 30);
    char here[4096];
    CHECK(t, getcwd(here, sizeof here) && chdir(s.folder) == 0);
    for (int i = 0; i < COUNT(rows); i++) {
        run_bobbin(&s, &r, "op %s --output out", rows[i].arguments);
        CHECK_REFUSED(t, &r, rows[i].code, rows[i].expected);
        CHECK(t, access("out", F_OK) != 0); /* nothing half-made */
    }
    run_bobbin(&s, &r, "op matmul --input ab --output no/such/folder/out");
    CHECK_REFUSED(t, &r, 1, "No such file");
    CHECK(t, chdir(here) == 0);
    scratch_close(&s);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"every_op_through_a_file", every_op_through_a_file},
    {"dtypes_and_paths", dtypes_and_paths},
    {"known_numbers", known_numbers},
    {"refuses_wrong_input", refuses_wrong_input},
};
TEST_MAIN(rows)
