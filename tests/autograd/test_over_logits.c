/* autograd/walk.c: the gradient of cross_entropy lies where its logits lay, if nobody but the tape
 * holds them; whoever does hold them finds them unchanged, and the gradient is the same. */
#include "core/impl.h"
#include "tests/support/test.h"

enum { ROWS = 3, CLASSES = 70, COUNT = ROWS * CLASSES };

/* Makes the logits, and sees where their gradient lies. */
static const void *gradient_at;

static bb_status watched_infer(bb_call *call) {
    call->meta[0] = (bb_meta){bb_dtype_of(call->in[0]), bb_shape_of(call->in[0])};
    return BB_OK;
}
static bb_status watched_forward(bb_call *call) {
    memcpy(bb_data(call->out[0]), bb_data(call->in[0]), COUNT * sizeof(float));
    return BB_OK;
}
static bb_status watched_gradient(const bb_grad_call *grad) {
    gradient_at = bb_data(grad->grad_out[0]);
    grad->grad_in[0] = grad->grad_out[0];
    return BB_OK;
}
static const bb_op watched = {.name = "watched",
                              .inputs = {"x"},
                              .outputs = {"y"},
                              .infer = watched_infer,
                              .gradient = watched_gradient};

/* Who holds the logits when backward comes. */
typedef enum holder {
    NOBODY,
    A_HANDLE,
    A_VIEW,
    SAVED_BY_HAND,
    ANOTHER_NODE,
    A_SECOND_LOSS,
    HOOKS,
    A_SECOND_BACKWARD,
    HOLDERS
} holder;

static bb_status pack(void *user, bb_tensor *value, void **packed) {
    (void)user;
    *packed = bb_hold(bb_detach(value));
    return *packed ? BB_OK : BB_ERR_MEMORY;
}
static bb_tensor *unpack(void *user, void *packed) {
    (void)user;
    return packed;
}

static bb_tensor *loss_of(bb_context *ctx, bb_tensor *logits, holder who) {
    static const bb_saved_hooks hooks = {pack, unpack, NULL, NULL};
    bb_tensor *target = bb_arange(ctx, BB_I64, 0, ROWS, 1);
    if (who == HOOKS) bb_saved_hooks_push(ctx, &hooks);
    bb_tensor *loss = bb_cross_entropy(logits, target, -100, BB_REDUCE_SUM);
    if (who == HOOKS) bb_saved_hooks_pop(ctx);
    if (who == ANOTHER_NODE) loss = bb_add(loss, bb_mul_scalar(bb_sum_all(bb_square(logits)), 0));
    if (who == A_SECOND_LOSS) {
        bb_tensor *other = bb_cross_entropy(logits, target, -100, BB_REDUCE_SUM);
        loss = bb_mul_scalar(bb_add(loss, other), 0.5);
    }
    return loss;
}

/* dx: x's gradient. Gives whether it lay over the logits. */
static bool train(test *t, holder who, float dx[COUNT]) {
    bb_context *ctx = test_open_host();
    bb_kernel kernel = {.op = "watched", .forward = watched_forward};
    bb_register_op(ctx, &watched);
    bb_register_kernel(ctx, BB_CPU, &kernel);
    bb_tensor *x = bb_set_requires_grad(bb_randn(ctx, BB_F32, BB_SHAPE(ROWS, CLASSES)), true);
    bb_tensor *logits = bb_apply1(ctx, &watched, &x, 1, NULL);
    const char *at = bb_data(logits);
    bb_tensor *loss = loss_of(ctx, logits, who), *held = NULL;
    bb_saved saved = {.tensor = NULL};
    if (who == A_HANDLE) held = logits;
    if (who == A_VIEW) held = bb_select(logits, 0, ROWS - 1);
    if (who == SAVED_BY_HAND) bb_save(logits, &saved);
    if (who != A_HANDLE) bb_drop(logits);
    if (who == A_SECOND_BACKWARD) {
        CHECK_INT(t, bb_backward_retain(loss, NULL), BB_OK);
        CHECK(t, gradient_at != at);
        bb_zero_grad(x);
    }
    CHECK_INT(t, bb_backward(loss, NULL), BB_OK);
    bb_read(bb_grad(x), dx, COUNT * sizeof *dx);
    if (who == SAVED_BY_HAND) held = bb_saved_read(&saved, ctx, "the test");
    if (held) {
        size_t bytes = (size_t)bb_count(held) * sizeof(float);
        size_t offset = (size_t)((const char *)bb_data(held) - at);
        CHECK(t, memcmp(bb_data(held), (const char *)bb_data(x) + offset, bytes) == 0);
    }
    bb_unsave(&saved);
    CHECK_OK(t, ctx);
    bb_close(ctx);
    return gradient_at == at;
}

static void test_over_the_logits(test *t) {
    float nobody[COUNT], other[COUNT];
    CHECK(t, train(t, NOBODY, nobody));
    for (int who = A_HANDLE; who < HOLDERS; who++) {
        bool over = train(t, (holder)who, other);
        CHECK_MSG(t, over == (who == A_SECOND_BACKWARD), "holder %d: over the logits: %d", who,
                  over);
        CHECK_MSG(t, memcmp(nobody, other, sizeof other) == 0, "holder %d: other gradients", who);
    }
}

static const test_row rows[] = {{"over the logits", test_over_the_logits}};
TEST_MAIN(rows)
