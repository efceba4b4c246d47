/* autograd/walk.c, gather.c and tape.c: adding, un-broadcasting, windows, saved values. Windows side
 * by side: test_gather.c. Whose memory gradients are written to: test_walk_buffers.c. */
#include "core/impl.h"
#include "tests/support/alloc.h"

static bb_tensor *leaf(bb_context *ctx, bb_shape shape, const double *values) {
    return bb_set_requires_grad(bb_from_f64(ctx, BB_F64, shape, values), true);
}

static void check_grad(test *t, bb_tensor *x, int n, const double *expected) {
    double got[32] = {0};
    bb_tensor *g = bb_grad(x);
    CHECK(t, g != NULL && bb_read_f64(g, got, n) == BB_OK);
    for (int i = 0; g && i < n; i++) CHECK_NEAR(t, got[i], expected[i], 1e-12);
}

static void test_shared(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = leaf(ctx, BB_SHAPE(2), (double[]){2, 3});
    /* A diamond, a node used three times, and the same tensor twice in one op. */
    bb_tensor *a = bb_square(x), *b = bb_mul_scalar(a, 3), *c = bb_neg(a);
    bb_tensor *y = bb_add(bb_mul(b, c), bb_mul(a, a)); /* -3 a^2 + a^2 */
    CHECK_INT(t, bb_backward(bb_sum_all(y), NULL), BB_OK);
    check_grad(t, x, 2, (double[]){-8 * 8, -8 * 27});
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* x1 = x + x, x2 = x1 + x1, ...: slots that share storage must not be added into. */
static void test_doubling(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = leaf(ctx, BB_SHAPE(3), (double[]){1, 2, 3}), *y = x;
    for (int i = 0; i < 10; i++)
        y = i % 2 ? bb_add(y, y) : bb_sub(bb_mul_scalar(y, 3), bb_alias(y));
    CHECK_INT(t, bb_backward(bb_sum_all(y), NULL), BB_OK);
    check_grad(t, x, 3, (double[]){1024, 1024, 1024});
    bb_close(ctx);
}

static void test_dead_branches(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = leaf(ctx, BB_SHAPE(2), (double[]){2, 3}),
              *w = leaf(ctx, BB_SHAPE(2), (double[]){1, 1});
    bb_tensor *dead = bb_exp(bb_mul(x, w));
    bb_tensor *y = bb_square(x);
    CHECK_INT(t, bb_backward(bb_sum_all(y), NULL), BB_OK);
    check_grad(t, x, 2, (double[]){4, 6});
    CHECK(t, !bb_grad(w) && !bb_grad(dead));
    bb_close(ctx);
}

static void test_broadcast(test *t) {
    bb_context *ctx = test_open();
    double seed[24], expected_a[3] = {0}, expected_b[8] = {0}, expected_s = 0;
    for (int i = 0; i < 24; i++) seed[i] = i * i % 7 - 2.5;
    bb_tensor *a = leaf(ctx, BB_SHAPE(3, 1), (double[]){1, 2, 3});
    bb_tensor *b = leaf(ctx, BB_SHAPE(2, 1, 4), (double[]){1, -1, 2, -2, 3, -3, 4, -4});
    bb_tensor *s = leaf(ctx, BB_SCALAR, (double[]){0.5});
    bb_tensor *y = bb_mul(bb_mul(a, b), s); /* (2, 3, 4) */
    CHECK_INT(t, bb_backward(y, bb_from_f64(ctx, BB_F64, BB_SHAPE(2, 3, 4), seed)), BB_OK);
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 3; j++)
            for (int k = 0; k < 4; k++) {
                double av = j + 1, bv = (k % 2 ? -1 : 1) * (i * 2 + k / 2 + 1),
                       g = seed[(i * 3 + j) * 4 + k];
                expected_a[j] += g * bv * 0.5;
                expected_b[i * 4 + k] += g * av * 0.5;
                expected_s += g * av * bv;
            }
    check_grad(t, a, 3, expected_a);
    check_grad(t, b, 8, expected_b);
    check_grad(t, s, 1, &expected_s);
    CHECK(t, bb_rank(bb_grad(b)) == 3 && bb_size(bb_grad(b), 1) == 1);
    bb_close(ctx);
}

static void test_mixed_dtypes(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *h = bb_set_requires_grad(bb_full(ctx, BB_BF16, BB_SHAPE(2), 2), true);
    bb_tensor *x = bb_set_requires_grad(bb_full(ctx, BB_F32, BB_SHAPE(2), 3), true);
    CHECK_INT(t, bb_backward(bb_sum_all(bb_mul(h, x)), NULL), BB_OK);
    CHECK_INT(t, bb_dtype_of(bb_grad(h)), BB_BF16);
    CHECK_INT(t, bb_dtype_of(bb_grad(x)), BB_F32);
    check_grad(t, h, 2, (double[]){3, 3});
    check_grad(t, x, 2, (double[]){2, 2});
    bb_close(ctx);
}

/* Windows add in place through the same view of the input's gradient: overlapping ones, whole ones,
 * of a leaf and of a result, before and after other gradients of the same tensor. */
static void test_windows(test *t) {
    bb_context *ctx = test_open();
    for (int middle = 0; middle < 2; middle++) {
        bb_tensor *x = leaf(ctx, BB_SHAPE(6), (double[]){1, 2, 3, 4, 5, 6});
        bb_tensor *h = middle ? bb_mul_scalar(x, 1) : x;
        bb_tensor *y = bb_mul(bb_slice(h, 0, 0, 4, 1), bb_slice(h, 0, 2, 6, 1)); /* x[i] x[i+2] */
        y = bb_add(bb_sum_all(y), bb_sum_all(bb_square(h)));
        y = bb_add(y, bb_mul_scalar(bb_select(h, 0, -1), 10));
        y = bb_add(y, bb_sum_all(bb_slice(h, 0, 1, 6, 2)));
        CHECK_INT(t, bb_backward(y, NULL), BB_OK);
        check_grad(t, x, 6,
                   (double[]){3 + 2, 4 + 4 + 1, 1 + 5 + 6, 2 + 6 + 8 + 1, 3 + 10, 4 + 12 + 10 + 1});
    }
    /* Two levels, and a part that nothing reads gets zero. */
    bb_tensor *x = leaf(ctx, BB_SHAPE(3, 4), (double[]){1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12});
    bb_tensor *row = bb_select(x, 0, 1);
    CHECK_INT(t, bb_backward(bb_sum_all(bb_square(bb_slice(row, 0, 1, 3, 1))), NULL), BB_OK);
    check_grad(t, x, 12, (double[]){0, 0, 0, 0, 0, 12, 14, 0, 0, 0, 0, 0});
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* A gradient of a leaf that is accumulated over several walks, some through windows. */
static void test_accumulation(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = leaf(ctx, BB_SHAPE(3), (double[]){1, 2, 3});
    bb_tensor *kept = bb_set_requires_grad(bb_keep(x), true); /* of the context */
    for (int step = 1; step <= 3; step++) {
        CHECK_INT(t, bb_backward(bb_sum_all(bb_square(kept)), NULL), BB_OK);
        CHECK_INT(t, bb_backward(bb_select(kept, 0, 1), NULL), BB_OK);
        bb_end_step(ctx);
        check_grad(t, kept, 3, (double[]){2 * step, 5 * step, 6 * step});
    }
    bb_zero_grad(kept);
    CHECK(t, !bb_grad(kept));
    CHECK_INT(t, bb_backward(bb_select(kept, 0, 1), NULL), BB_OK);
    check_grad(t, kept, 3, (double[]){0, 1, 0});
    bb_close(ctx);
}

static void test_retain_grad(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = leaf(ctx, BB_SHAPE(2), (double[]){2, 3}), *h = bb_square(x), *y = bb_square(h);
    bb_retain_grad(h);
    CHECK_INT(t, bb_backward(bb_add(bb_sum_all(y), bb_sum_all(h)), NULL), BB_OK);
    check_grad(t, h, 2, (double[]){9, 19});
    check_grad(t, x, 2, (double[]){36, 114});
    CHECK(t, !bb_grad(y));
    bb_retain_grad(NULL);
    bb_close(ctx);
}

/* What backward reads may be dropped by its owner; the tape holds the bytes. */
static void test_saved(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = leaf(ctx, BB_SHAPE(2), (double[]){0.5, 2});
    bb_tensor *h = bb_mul_scalar(x, 2), *e = bb_exp(h), *y = bb_mul(e, h), *loss = bb_sum_all(y);
    bb_drop(h);
    bb_drop(e);
    bb_drop(y);
    for (int i = 0; i < 8; i++)
        bb_full(ctx, BB_F64, BB_SHAPE(2), NAN); /* what was given back is used again */
    CHECK_INT(t, bb_backward(loss, NULL), BB_OK);
    /* y = 2x exp(2x); y' = 2 exp(2x) (1 + 2x) */
    check_grad(t, x, 2, (double[]){4 * exp(1), 10 * exp(4)});
    bb_close(ctx);
}

static void test_changed(test *t) {
    bb_context *ctx = test_open();
    double values[2] = {7, 8};
    bb_tensor *x = leaf(ctx, BB_SHAPE(2), (double[]){1, 2});
    bb_tensor *w = bb_from_f64(ctx, BB_F64, BB_SHAPE(2), values);
    bb_tensor *y = bb_mul(x, w);
    CHECK_INT(t, bb_write(bb_slice(w, 0, 0, 1, 1), values, 8), BB_OK); /* through a view */
    CHECK_INT(t, bb_backward(bb_sum_all(y), NULL), BB_ERR_STATE);
    CHECK_ERROR(t, ctx, BB_ERR_STATE,
                "mul: a tensor it saved was changed in place after the forward pass");
    CHECK(t, !bb_grad(x));
    /* A change before the forward pass is nobody's business, */
    y = bb_mul(x, w);
    CHECK_INT(t, bb_backward(bb_sum_all(y), NULL), BB_OK);
    check_grad(t, x, 2, (double[]){7, 8});
    bb_zero_grad(x);
    /* and add saves nothing, so a change after it is harmless. */
    y = bb_add(x, w);
    bb_write(w, values, 16);
    CHECK_INT(t, bb_backward(bb_sum_all(y), NULL), BB_OK);
    check_grad(t, x, 2, (double[]){1, 1});
    bb_close(ctx);
}

static void test_tape(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = leaf(ctx, BB_SHAPE(2), (double[]){1, 2}),
              *plain = bb_zeros(ctx, BB_F64, BB_SHAPE(2));
    CHECK_INT(t, bb_tape_length(ctx), 0);
    bb_exp(plain); /* nobody wants its gradient */
    bb_gt(x, plain);
    CHECK_INT(t, bb_tape_length(ctx), 0);
    bb_sum_all(bb_mul(x, plain));
    CHECK_INT(t, bb_tape_length(ctx), 2);
    CHECK_TEXT(t, bb_tape_op(ctx, 0)->name, "mul");
    CHECK_TEXT(t, bb_tape_op(ctx, 1)->name, "sum");
    CHECK(t, !bb_tape_op(ctx, 2) && !bb_tape_op(ctx, -1));
    bb_end_step(ctx);
    CHECK_INT(t, bb_tape_length(ctx), 0);
    bb_close(ctx);
}

/* A variadic op with more inputs than most. */
static void test_variadic(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x[40], *y;
    for (int i = 0; i < 40; i++) x[i] = leaf(ctx, BB_SHAPE(1), (double[]){i});
    y = bb_square(bb_cat(x, 40, 0));
    CHECK_INT(t, bb_backward(bb_sum_all(y), NULL), BB_OK);
    for (int i = 0; i < 40; i++) check_grad(t, x[i], 1, (double[]){2 * i});
    /* The rule's results and the nodes it puts on the tape must not share memory. */
    bb_tensor *first[40], *second[40];
    y = bb_square(bb_square(bb_cat(x, 40, 0)));
    CHECK_INT(t, bb_gradients(bb_sum_all(y), NULL, x, 40, true, first), BB_OK);
    CHECK_INT(t, bb_gradients(bb_sum_all(bb_cat(first, 40, 0)), NULL, x, 40, true, second), BB_OK);
    for (int i = 0; i < 40; i++) {
        CHECK_NEAR(t, bb_item(first[i]), 4.0 * i * i * i, 1e-9);
        CHECK_NEAR(t, bb_item(second[i]), 12.0 * i * i, 1e-9);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Two results, x^2 and x^3, of which a loss may use one: the other's gradient is zero, not whatever
 * lay in its buffer. */
static bb_status powers_infer(bb_call *call) {
    for (int i = 0; i < 2; i++)
        call->meta[i] = (bb_meta){bb_dtype_of(call->in[0]), bb_shape_of(call->in[0])};
    return BB_OK;
}
static bb_status powers_kernel(bb_call *call) {
    const double *x = bb_data(call->in[0]);
    double *square = bb_data(call->out[0]), *cube = bb_data(call->out[1]);
    for (int64_t i = 0; i < bb_count(call->in[0]); i++) {
        square[i] = x[i] * x[i];
        cube[i] = square[i] * x[i];
    }
    return BB_OK;
}
static bb_status powers_gradient(const bb_grad_call *grad) {
    bb_tensor *x = grad->call->in[0];
    bb_tensor *from_square = bb_mul(grad->grad_out[0], bb_mul_scalar(x, 2));
    bb_tensor *from_cube = bb_mul(grad->grad_out[1], bb_mul_scalar(bb_square(x), 3));
    grad->grad_in[0] = bb_add(from_square, from_cube);
    return bb_error(grad->call->ctx);
}
static const bb_op powers = {.name = "powers",
                             .inputs = {"x"},
                             .outputs = {"square", "cube"},
                             .saves_inputs = 1u,
                             .infer = powers_infer,
                             .gradient = powers_gradient};

static void test_unused_output(test *t) {
    bb_context *ctx = test_open_host();
    CHECK_INT(t, bb_register_op(ctx, &powers), BB_OK);
    bb_kernel kernel = {.op = "powers", .forward = powers_kernel};
    CHECK_INT(t, bb_register_kernel(ctx, BB_CPU, &kernel), BB_OK);
    for (int used = 1; used < 4; used++) {
        bb_tensor *x = leaf(ctx, BB_SHAPE(2), (double[]){2, -3}), *out[BB_MAX_OUTPUTS] = {NULL};
        CHECK_INT(t, bb_apply(ctx, &powers, &x, 1, NULL, out), BB_OK);
        bb_retain_grad(out[0]); /* that nothing comes back to it changes nothing for the other */
        bb_retain_grad(out[1]);
        bb_tensor *loss = used == 1 ? out[0] : used == 2 ? out[1] : bb_add(out[0], out[1]);
        CHECK_INT(t, bb_backward(bb_sum_all(loss), NULL), BB_OK);
        double square = used & 1, cube = used >> 1;
        check_grad(t, x, 2, (double[]){4 * square + 12 * cube, -6 * square + 27 * cube});
        for (int i = 0; i < 2; i++) CHECK(t, !bb_grad(out[i]) == !(used >> i & 1));
        bb_end_step(ctx);
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* A tensor in the middle of a walk is captured on the way, whichever place it has in the list. */
static void test_captures(test *t) {
    bb_context *ctx = test_open();
    for (int order = 0; order < 2; order++)
        for (int create_graph = 0; create_graph < 2; create_graph++) {
            bb_tensor *x = leaf(ctx, BB_SHAPE(2), (double[]){2, 3}), *h = bb_square(x), *g[2];
            bb_tensor *in[2] = {order ? h : x, order ? x : h};
            double got[2];
            CHECK_INT(t, bb_gradients(bb_sum_all(bb_square(h)), NULL, in, 2, create_graph, g),
                      BB_OK);
            bb_read_f64(g[!order], got, 2);
            CHECK(t, got[0] == 8 && got[1] == 18); /* of h: 2 h */
            bb_read_f64(g[order], got, 2);
            CHECK(t, got[0] == 32 && got[1] == 108); /* of x: 4 x^3 */
            bb_end_step(ctx);
        }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* A walk for the caller's gradients leaves those of other leaves alone, those that are read through
 * windows too; and no window needs a tensor of zeros. */
static void test_windows_left_out(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = leaf(ctx, BB_SHAPE(2), (double[]){2, 3}),
              *w = leaf(ctx, BB_SHAPE(3), (double[]){4, 5, 6}), *g;
    bb_tensor *y = bb_sum_all(bb_mul(bb_slice(x, 0, 0, 2, 1), bb_slice(w, 0, 1, 3, 1)));
    FILE *trace = tmpfile();
    char line[256];
    int lines = 0;
    bb_set_trace(ctx, trace);
    CHECK_INT(t, bb_gradients(y, NULL, &x, 1, false, &g), BB_OK);
    bb_set_trace(ctx, NULL);
    rewind(trace);
    for (; fgets(line, sizeof line, trace); lines++) CHECK(t, !strstr(line, "pad"));
    fclose(trace);
    double got[2] = {0};
    CHECK(t, lines > 0 && bb_read_f64(g, got, 2) == BB_OK && got[0] == 5 && got[1] == 6);
    CHECK(t, !bb_grad(x) && !bb_grad(w));
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Parameters, broadcasting, windows, captures: each allocation of the walk fails in turn. */
static void walk_of_all_kinds(bb_context *ctx) {
    bb_tensor *p = bb_set_requires_grad(bb_keep(bb_ones(ctx, BB_F32, BB_SHAPE(3))), true),
              *q = bb_set_requires_grad(bb_keep(bb_ones(ctx, BB_F32, BB_SHAPE(2, 3))), true);
    bb_tensor *h = bb_mul(p, q), *row = bb_select(q, 0, 1);
    bb_retain_grad(h);
    bb_tensor *y = bb_add(bb_sum_all(bb_mul(h, row)), bb_sum_all(bb_slice(p, 0, 1, 3, 1)));
    bb_tensor *once = bb_mul(p, q), *in[] = {once, p}, *g[2];
    if (bb_gradients(bb_sum_all(bb_mul(bb_square(once), p)), NULL, in, 2, false, g) == BB_OK)
        bb_backward(y, NULL);
    bb_drop(p);
    bb_drop(q);
}
static void test_memory_runs_out(test *t) { alloc_failure_loop(t, walk_of_all_kinds); }

/* An error that knows only that memory ran out is told which op's backward wanted it. */
static void test_error_names_the_backward(test *t) {
    test_allocator memory;
    test_allocator_init(&memory);
    bb_context *ctx = bb_open(&(bb_options){.allocator = &memory.base});
    bb_tensor *x = bb_set_requires_grad(bb_ones(ctx, BB_F32, BB_SHAPE(64, 128)), true);
    bb_tensor *scale = bb_set_requires_grad(bb_ones(ctx, BB_F32, BB_SHAPE(128)), true);
    bb_tensor *y = bb_rms_norm(x, scale, 1e-5), *seed = bb_ones_like(y);
    memory.fail_at = memory.calls + 1;
    memory.for_good = true;
    CHECK(t, bb_backward(y, seed) != BB_OK);
    CHECK_ERROR(t, ctx, BB_ERR_MEMORY, "(backward of RMSNormImpl on cpu");
    bb_close(ctx);
    CHECK_INT(t, memory.live, 0);
}

static const test_row rows[] = {
    {"shared nodes", test_shared},
    {"doubling", test_doubling},
    {"dead branches", test_dead_branches},
    {"broadcast", test_broadcast},
    {"mixed dtypes", test_mixed_dtypes},
    {"windows", test_windows},
    {"accumulation", test_accumulation},
    {"retain grad", test_retain_grad},
    {"saved", test_saved},
    {"changed", test_changed},
    {"tape", test_tape},
    {"variadic", test_variadic},
    {"unused output", test_unused_output},
    {"captures", test_captures},
    {"windows left out", test_windows_left_out},
    {"memory runs out", test_memory_runs_out},
    {"error names the backward", test_error_names_the_backward},
};
TEST_MAIN(rows)
