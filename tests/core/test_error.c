/* core/error.c: the first error sticks, NULL passes through, nothing else happens meanwhile. */
#include "core/impl.h"
#include "tests/support/test.h"

static void count_error(void *user, const char *line) {
    CHECK(user, strstr(line, "first") != NULL);
    ((test *)user)->checks += 1000;
}

static void test_sticky(test *t) {
    bb_context *ctx = bb_open(&(bb_options){.on_error = count_error, .on_error_user = t});
    CHECK_INT(t, bb_error(ctx), BB_OK);
    CHECK_TEXT(t, bb_error_message(ctx), "");
    int checks = t->checks;
    CHECK_INT(t, bb_fail(ctx, BB_ERR_IO, "first %d", 1), BB_ERR_IO);
    CHECK_INT(t, bb_fail(ctx, BB_ERR_MEMORY, "second"), BB_ERR_IO);
    CHECK_INT(t, t->checks - checks, 1000 + 3); /* told once */
    CHECK_TEXT(t, bb_error_message(ctx), "first 1");
    CHECK(t, !bb_scalar(ctx, BB_F32, 1));
    CHECK(t, !bb_full(ctx, BB_F32, BB_SHAPE(2), 1));
    CHECK_TEXT(t, bb_error_message(ctx), "first 1");
    bb_clear_error(ctx);
    CHECK_TEXT(t, bb_error_message(ctx), "");
    CHECK(t, bb_scalar(ctx, BB_F32, 1) != NULL);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void clear_error(void *user, const char *line) {
    (void)line;
    bb_clear_error(*(bb_context **)user);
}

/* An on_error that clears does not make a failed call go on. */
static void test_cleared_early(test *t) {
    bb_context *ctx = NULL;
    ctx = bb_open(&(bb_options){.on_error = clear_error, .on_error_user = &ctx});
    bb_tensor *a = bb_ones(ctx, BB_F32, BB_SHAPE(1000)), *b = bb_ones(ctx, BB_F32, BB_SHAPE(3));
    CHECK(t, !bb_add(a, b));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "add: ");
    CHECK_INT(t, bb_fail(ctx, BB_ERR_IO, "wrong"), BB_ERR_IO);
    CHECK_INT(t, bb_assign(a, b), BB_ERR_IO);
    bb_clear_error(ctx);
    CHECK_INT(t, bb_assign(a, b), BB_ERR_ARGUMENT);
    bb_clear_error(ctx);
    CHECK(t, bb_add(a, a) != NULL);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void test_refuses(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = bb_set_requires_grad(bb_scalar(ctx, BB_F32, 3), true), *y = bb_square(x);
    float value = 1;
    bb_fail(ctx, BB_ERR_ARGUMENT, "wrong");
    CHECK(t, !bb_add(x, x));
    CHECK(t, !bb_alias(x));
    CHECK(t, !bb_keep(x));
    CHECK(t, isnan(bb_item(x)));
    CHECK_INT(t, bb_backward(y, NULL), BB_ERR_ARGUMENT);
    CHECK(t, !bb_grad(x));
    CHECK_INT(t, bb_write(x, &value, 4), BB_ERR_ARGUMENT);
    bb_clear_error(ctx);
    CHECK_NEAR(t, bb_item(x), 3, 0); /* bb_write did nothing */
    CHECK_INT(t, bb_backward(y, NULL), BB_OK);
    CHECK_NEAR(t, bb_item(bb_grad(x)), 6, 0);
    bb_close(ctx);
}

static void test_null_in(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = bb_scalar(ctx, BB_F32, 1);
    CHECK(t, !bb_add(NULL, NULL)); /* no context to complain to */
    CHECK(t, !bb_exp(NULL));
    CHECK(t, !bb_matmul(NULL, NULL));
    CHECK_OK(t, ctx);
    CHECK(t, !bb_add(x, NULL));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "add: ");
    CHECK(t, !bb_where(NULL, x, x));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "expected a tensor, got NULL");
    /* A failure early in an expression comes out of its end as NULL, with the first message. */
    bb_tensor *a = bb_full(ctx, BB_F32, BB_SHAPE(2), 1), *b = bb_full(ctx, BB_F32, BB_SHAPE(3), 1);
    CHECK(t, !bb_sum_all(bb_mul(bb_add(a, b), bb_exp(x))));
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "add: ");
    bb_close(ctx);
}

static void test_other_context(test *t) {
    bb_context *a = test_open(), *b = test_open();
    bb_tensor *x = bb_scalar(a, BB_F32, 1), *y = bb_scalar(b, BB_F32, 1);
    CHECK(t, !bb_add(x, y));
    CHECK_ERROR(t, a, BB_ERR_ARGUMENT, "expected a tensor of this context, got one of another");
    CHECK_OK(t, b);
    bb_close(a);
    bb_close(b);
}

static void test_message(test *t) {
    bb_context *ctx = test_open();
    bb_fail(ctx, BB_ERR_IO, "file \"%s\"", "two\nlines\r");
    CHECK_ERROR(t, ctx, BB_ERR_IO, "file \"two lines \"");
    char longer[3 * BB_MESSAGE_BYTES];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    bb_fail(ctx, BB_ERR_IO, "%s", longer);
    CHECK_INT(t, strlen(bb_error_message(ctx)), BB_MESSAGE_BYTES - 1);
    CHECK_INT(t, bb_error(NULL), BB_ERR_MEMORY);
    CHECK(t, strstr(bb_error_message(NULL), "no context") != NULL);
    bb_clear_error(NULL);
    CHECK_TEXT(t, bb_status_name(BB_OK), "ok");
    CHECK_TEXT(t, bb_status_name(BB_ERR_DEVICE), "device");
    CHECK_TEXT(t, bb_status_name((bb_status)99), "unknown");
    bb_close(ctx);
}

static const test_row rows[] = {
    {"sticky", test_sticky},
    {"cleared early", test_cleared_early},
    {"nothing runs", test_refuses},
    {"null in, null out", test_null_in},
    {"other context", test_other_context},
    {"message", test_message},
};
TEST_MAIN(rows)
