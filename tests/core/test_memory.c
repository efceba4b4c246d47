/* core/memory.c, and every place that asks for memory: each allocation of a set of small programs
 * fails in turn. */
#include "core/impl.h"
#include "tests/support/alloc.h"

static void nothing(bb_context *ctx) { bb_end_step(ctx); }

static void make(bb_context *ctx) {
    bb_tensor *x = bb_full(ctx, BB_F32, BB_SHAPE(20, 20), 1);
    bb_keep(bb_slice(x, 0, 1, 5, 2));
    bb_tensor *kept = bb_keep(x);
    bb_drop(kept);
    bb_item(bb_scalar(ctx, BB_F64, 1));
}

static void elementwise(bb_context *ctx) {
    bb_tensor *x = bb_rand(ctx, BB_F16, BB_SHAPE(30, 40)), *w = bb_randn(ctx, BB_F32, BB_SHAPE(40));
    bb_tensor *y = bb_where(bb_gt(x, w), bb_exp(x), bb_cast(bb_dropout(w, 0.5), BB_F64));
    bb_sum_all(bb_contiguous(bb_transpose(y, 0, 1)));
}

static void backward(bb_context *ctx) {
    bb_tensor *x = bb_set_requires_grad(bb_full(ctx, BB_F32, BB_SHAPE(7, 9), 0.25), true);
    bb_tensor *w = bb_set_requires_grad(bb_full(ctx, BB_F32, BB_SHAPE(9, 5), 0.5), true);
    bb_tensor *y = bb_tanh(bb_matmul(x, w));
    y = bb_add(bb_slice(y, 1, 0, 4, 1), bb_slice(y, 1, 1, 5, 1));
    bb_backward(bb_mean_all(bb_mul(y, y)), NULL);
    bb_tensor *grad = bb_grad(w);
    if (grad) bb_item(bb_sum_all(grad));
}

static void composites(bb_context *ctx) {
    for (int path = BB_PATH_AUTO; path <= BB_PATH_COMPOSED; path += 2) {
        bb_set_path(ctx, (bb_path)path);
        bb_tensor *x = bb_set_requires_grad(bb_full(ctx, BB_F32, BB_SHAPE(2, 4, 8), 0.25), true);
        bb_tensor *w = bb_set_requires_grad(bb_full(ctx, BB_F32, BB_SHAPE(8), 0.5), true);
        bb_tensor *h = bb_rms_norm(x, w, 1e-5);
        h = bb_add(h, bb_sdpa(h, bb_rope(h, NULL), bb_swiglu(h, h), NULL, NULL));
        h = bb_layer_norm(bb_linear(h, bb_full(ctx, BB_F32, BB_SHAPE(8, 8), 0.1), w), w, w, 1e-5);
        bb_tensor *target = bb_zeros(ctx, BB_I64, BB_SHAPE(2, 4));
        bb_backward(bb_cross_entropy(bb_gelu(h, BB_GELU_TANH), target, -100, BB_REDUCE_MEAN), NULL);
    }
    bb_set_path(ctx, BB_PATH_AUTO);
}

static bb_tensor *segment(void *user, bb_tensor *const *in, int n) {
    (void)user, (void)n;
    return bb_mul(bb_exp(in[0]), bb_sin(in[1]));
}

static void higher(bb_context *ctx) {
    bb_tensor *in[2] = {bb_set_requires_grad(bb_full(ctx, BB_F64, BB_SHAPE(2), 0.5), true),
                        bb_set_requires_grad(bb_full(ctx, BB_F64, BB_SHAPE(2), 0.25), true)};
    bb_tensor *y = bb_recompute(ctx, segment, NULL, in, 2), *g[2] = {NULL};
    bb_gradients(bb_sum_all(bb_mul(y, y)), NULL, in, 2, true, g);
    bb_backward(bb_sum_all(bb_mul(g[0], g[1])), NULL);
    bb_gradcheck_report report;
    bb_end_step(ctx);
    in[0] = bb_set_requires_grad(bb_full(ctx, BB_F64, BB_SHAPE(1), 0.5), true);
    in[1] = bb_set_requires_grad(bb_full(ctx, BB_F64, BB_SHAPE(1), 0.25), true);
    bb_gradcheck(ctx, segment, NULL, in, 2, NULL, &report);
    bb_gradgradcheck(ctx, segment, NULL, in, 2, NULL, &report);
}

static void joining(bb_context *ctx) {
    bb_tensor *x = bb_set_requires_grad(bb_full(ctx, BB_F32, BB_SHAPE(3, 4), 2), true);
    bb_tensor *index = bb_arange(ctx, BB_I64, 0, 3, 1), *many[70];
    for (int i = 0; i < 70; i++) many[i] = x;
    bb_tensor *y = bb_cat(many, 70, 0);
    y = bb_add(bb_sum(y, BB_INTS(0), true), bb_embedding(x, index));
    y = bb_pad(bb_stack((bb_tensor *[]){y, y}, 2, 1), BB_INTS(0, 1, 0), BB_INTS(1, 0, 0), 0);
    bb_backward(bb_sum_all(bb_cumsum(bb_index_select(y, 0, index), 1)), NULL);
}

static bb_status copy_infer(bb_call *call) {
    call->meta[0] = (bb_meta){bb_dtype_of(call->in[0]), bb_shape_of(call->in[0])};
    return BB_OK;
}
static bb_status copy_forward(bb_call *call) { return bb_copy_into(call->in[0], call->out[0]); }

static void registering(bb_context *ctx) {
    enum { MANY = 200 };
    static bb_op ops[MANY];
    static char names[MANY][16];
    if (bb_find_op(ctx, "copy0")) return; /* the second run in this context */
    for (int i = 0; i < MANY; i++) {
        snprintf(names[i], sizeof names[i], "copy%d", i);
        ops[i] = (bb_op){.name = names[i],
                         .inputs = {"x"},
                         .outputs = {"y"},
                         .infer = copy_infer,
                         .gradient = bb_no_gradient};
        if (bb_register_op(ctx, &ops[i])) return;
        if (bb_register_kernel(ctx, BB_CPU, &(bb_kernel){names[i], copy_forward, NULL, NULL}))
            return;
    }
}

static void printing(bb_context *ctx) {
    FILE *file = tmpfile();
    bb_tensor *x = bb_full(ctx, BB_F32, BB_SHAPE(40, 40), 1.5);
    if (file) bb_print(x, file);
    if (file) fclose(file);
}

static void test_open_close(test *t) { alloc_failure_loop(t, nothing); }
static void test_make(test *t) { alloc_failure_loop(t, make); }
static void test_elementwise(test *t) { alloc_failure_loop(t, elementwise); }
static void test_backward(test *t) { alloc_failure_loop(t, backward); }
static void test_composites(test *t) { alloc_failure_loop(t, composites); }
static void test_higher(test *t) { alloc_failure_loop(t, higher); }
static void test_joining(test *t) { alloc_failure_loop(t, joining); }
static void test_registering(test *t) { alloc_failure_loop(t, registering); }
static void test_printing(test *t) { alloc_failure_loop(t, printing); }

/* What is counted agrees with what the allocator saw. */
static void test_counts(test *t) {
    test_allocator a;
    test_allocator_init(&a);
    bb_context *ctx = bb_open(&(bb_options){.allocator = &a.base});
    backward(ctx);
    CHECK_INT(t, bb_memory_stats(ctx).system_allocations, a.calls);
    bb_end_step(ctx);
    CHECK_INT(t, bb_memory_stats(ctx).bytes_in_use, 0);
    CHECK_OK(t, ctx);
    bb_close(ctx);
    CHECK_INT(t, a.live, 0);
    CHECK_INT(t, a.misuses, 0);
}

/* When the allocator refuses, what the pool holds is given back and asked for again. */
static void test_pool_is_emptied(test *t) {
    test_allocator a;
    test_allocator_init(&a);
    bb_context *ctx = bb_open(&(bb_options){.allocator = &a.base});
    bb_tensor *one = bb_empty(ctx, BB_F32, BB_SHAPE(100)),
              *two = bb_empty(ctx, BB_F32, BB_SHAPE(100));
    bb_drop(one);
    bb_drop(two);
    bb_pool_free(
        ctx); /* now there are headers to spare, so that the next call asks for the block alone */
    bb_drop(bb_empty(ctx, BB_F32, BB_SHAPE(100)));
    int64_t live = a.live;
    a.fail_at = a.calls + 1;
    CHECK(t, bb_empty(ctx, BB_F32, BB_SHAPE(1000000)) != NULL);
    CHECK_INT(t, a.failures, 1);
    CHECK(t, a.live <= live);
    CHECK_OK(t, ctx);
    bb_close(ctx);
    CHECK_INT(t, a.live, 0);
}

static void test_arena(test *t) {
    bb_context *ctx = test_open();
    bb_arena arena = {NULL, NULL};
    char *last = NULL;
    for (int i = 0; i < 3000; i++) {
        char *p = bb_arena_allocate(ctx, &arena, (size_t)(i * 7 % 300));
        CHECK(t, p && (uintptr_t)p % 16 == 0 &&
                     (p != last || i * 7 % 300 == 0 || (i - 1) * 7 % 300 == 0));
        if (p) memset(p, i, (size_t)(i * 7 % 300));
        last = p;
    }
    CHECK(t, bb_arena_allocate(ctx, &arena, 1000000) != NULL);
    uint64_t before = bb_memory_stats(ctx).system_allocations;
    bb_arena_reset(&arena);
    for (int i = 0; i < 3000; i++)
        CHECK(t, bb_arena_allocate(ctx, &arena, (size_t)(i * 7 % 300)) != NULL);
    CHECK_INT(t, bb_memory_stats(ctx).system_allocations, before);
    CHECK_OK(t, ctx);
    CHECK(t, !bb_arena_allocate(ctx, &arena, SIZE_MAX - 3));
    CHECK_ERROR(t, ctx, BB_ERR_MEMORY, "out of memory");
    bb_arena_free(ctx, &arena);
    bb_close(ctx);
}

static const test_row rows[] = {
    {"counts", test_counts},
    {"pool is emptied", test_pool_is_emptied},
    {"arena", test_arena},
    {"failing: open", test_open_close},
    {"failing: make", test_make},
    {"failing: elementwise", test_elementwise},
    {"failing: backward", test_backward},
    {"failing: composites", test_composites},
    {"failing: higher order", test_higher},
    {"failing: joining", test_joining},
    {"failing: registering", test_registering},
    {"failing: printing", test_printing},
};
TEST_MAIN(rows)
