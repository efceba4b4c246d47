/* core/dlpack.c: tensors out to a stand-in for another library and in from it, on the same memory;
 * who holds what for how long; descriptions that are wrong. */
#include "core/impl.h"
#include "tests/support/alloc.h"

/* DLPack 1.x, written down once more, so that the two layouts check each other. */
typedef struct DLTensor {
    void *data;
    struct {
        int32_t type, id;
    } device;
    int32_t ndim;
    struct {
        uint8_t code, bits;
        uint16_t lanes;
    } dtype;
    int64_t *shape, *strides;
    uint64_t byte_offset;
} DLTensor;
typedef struct DLManagedTensor {
    DLTensor dl_tensor;
    void *manager_ctx;
    void (*deleter)(struct DLManagedTensor *self);
} DLManagedTensor;
typedef struct DLManagedTensorVersioned {
    struct {
        uint32_t major, minor;
    } version;
    void *manager_ctx;
    void (*deleter)(struct DLManagedTensorVersioned *self);
    uint64_t flags;
    DLTensor dl_tensor;
} DLManagedTensorVersioned;

static void goes_out(test *t) {
    bb_context *ctx = test_open();
    bb_tensor *x = bb_reshape(bb_arange(ctx, BB_F32, 0, 12, 1), BB_SHAPE(3, 4));
    bb_tensor *part = bb_transpose(bb_slice(x, 1, 1, 4, 2), 0, 1); /* (2, 3), strides (2, 4) */
    DLManagedTensorVersioned *v = bb_to_dlpack(part, true);
    if (!CHECK(t, v)) return;
    CHECK(t, v->version.major == 1 && v->flags == 0);
    CHECK(t, v->dl_tensor.device.type == 1 && v->dl_tensor.ndim == 2);
    CHECK(t, v->dl_tensor.dtype.code == 2 && v->dl_tensor.dtype.bits == 32 &&
                 v->dl_tensor.dtype.lanes == 1);
    CHECK(t, v->dl_tensor.shape[0] == 2 && v->dl_tensor.shape[1] == 3);
    CHECK(t, v->dl_tensor.strides[0] == 2 && v->dl_tensor.strides[1] == 4);
    CHECK(t, v->dl_tensor.data == bb_data(part) && v->dl_tensor.byte_offset == 0);
    DLManagedTensor *m = bb_to_dlpack(x, false);
    CHECK(t, m && m->dl_tensor.data == bb_data(x) && m->dl_tensor.ndim == 2);
    /* The elements outlive handle, step and context. */
    const float *values = v->dl_tensor.data;
    bb_drop(x);
    bb_drop(part);
    bb_end_step(ctx);
    bb_full(ctx, BB_F32, BB_SHAPE(3, 4), 77);
    CHECK_NEAR(t, values[0], 1, 0);
    CHECK_NEAR(t, values[2 + 4], 7, 0);
    bb_close(ctx);
    CHECK_NEAR(t, values[2 + 8], 11, 0);
    m->deleter(m);
    CHECK_NEAR(t, values[2 + 8], 11, 0);
    v->deleter(v); /* frees the context: a leak or a second free would show under ASan */
}

static void types(test *t) {
    static const struct {
        bb_dtype dtype;
        uint8_t code, bits;
    } expected[] = {{BB_F64, 2, 64}, {BB_F32, 2, 32}, {BB_F16, 2, 16}, {BB_BF16, 4, 16},
                    {BB_I64, 0, 64}, {BB_I32, 0, 32}, {BB_U8, 1, 8},   {BB_BOOL, 6, 8}};
    bb_context *ctx = test_open();
    for (int i = 0; i < BB_DTYPE_COUNT; i++) {
        bb_tensor *x = bb_full(ctx, expected[i].dtype, BB_SHAPE(3), 1);
        DLManagedTensor *m = bb_to_dlpack(x, false);
        CHECK(t, m && m->dl_tensor.dtype.code == expected[i].code &&
                     m->dl_tensor.dtype.bits == expected[i].bits);
        bb_tensor *back = bb_from_dlpack(ctx, m, false);
        CHECK(t, back && bb_dtype_of(back) == expected[i].dtype && bb_data(back) == bb_data(x));
    }
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

/* Another library: floats on its own stack or heap, and how often it was told to let go. */
typedef struct other {
    DLManagedTensorVersioned managed;
    int64_t shape[9], strides[9];
    float values[6];
    int deleted;
} other;

static void other_deleter(DLManagedTensorVersioned *self) {
    ((other *)self->manager_ctx)->deleted++;
}

static void other_init(other *o) {
    *o = (other){.shape = {2, 3}, .strides = {3, 1}, .values = {0, 1, 2, 3, 4, 5}};
    o->managed =
        (DLManagedTensorVersioned){.version = {1, 3}, .manager_ctx = o, .deleter = other_deleter};
    o->managed.dl_tensor = (DLTensor){.data = o->values,
                                      .device = {1, 0},
                                      .ndim = 2,
                                      .dtype = {2, 32, 1},
                                      .shape = o->shape,
                                      .strides = o->strides};
}

static void comes_in(test *t) {
    bb_context *ctx = test_open();
    other o;
    other_init(&o);
    bb_tensor *x = bb_from_dlpack(ctx, &o.managed, true);
    CHECK(t, x && bb_data(x) == o.values && bb_is_contiguous(x));
    bb_set_requires_grad(x, true);
    bb_tensor *loss = bb_sum_all(bb_mul(x, x));
    CHECK_NEAR(t, bb_item(loss), 55, 0);
    CHECK_INT(t, bb_backward(loss, NULL), BB_OK);
    double grad[6];
    bb_read_f64(bb_grad(x), grad, 6);
    for (int i = 0; i < 6; i++) CHECK_NEAR(t, grad[i], 2 * i, 0);
    o.values[0] = 10; /* shared */
    double got[6];
    bb_read_f64(x, got, 6);
    CHECK_NEAR(t, got[0], 10, 0);
    bb_tensor *kept = bb_keep(x);
    CHECK(t, bb_data(kept) == o.values);
    bb_end_step(ctx);
    CHECK_INT(t, o.deleted, 0);
    bb_drop(kept);
    CHECK_INT(t, o.deleted, 1);
    /* Column-major, from the second column on, with no strides given for the row-major one. */
    other_init(&o);
    o.shape[0] = 3, o.shape[1] = 1, o.strides[0] = 2, o.strides[1] = -5;
    o.managed.dl_tensor.byte_offset = 4;
    x = bb_from_dlpack(ctx, &o.managed, true);
    bb_read_f64(x, got, 3);
    CHECK(t, got[0] == 1 && got[1] == 3 && got[2] == 5 && !bb_is_contiguous(x));
    kept = bb_keep(x);
    CHECK(t, bb_data(kept) == o.values + 1 && bb_stride(kept, 0) == 2);
    bb_close(ctx);
    CHECK_INT(t, o.deleted, 1);
    ctx = test_open();
    other_init(&o);
    o.managed.dl_tensor.strides = NULL;
    CHECK(t, bb_is_contiguous(bb_from_dlpack(ctx, &o.managed, true)));
    CHECK_OK(t, ctx);
    bb_close(ctx);
    CHECK_INT(t, o.deleted, 1);
}

/* What the tape saved holds the elements, too. */
static void the_tape_holds_on(test *t) {
    bb_context *ctx = test_open();
    other o;
    other_init(&o);
    bb_tensor *x = bb_from_dlpack(ctx, &o.managed, true);
    bb_tensor *w = bb_set_requires_grad(bb_full(ctx, BB_F32, BB_SHAPE(2, 3), 1), true);
    bb_tensor *loss = bb_sum_all(bb_mul(x, w));
    bb_drop(x);
    CHECK_INT(t, o.deleted, 0);
    bb_backward(loss, NULL);
    CHECK_INT(t, o.deleted, 1);
    double grad[6];
    bb_read_f64(bb_grad(w), grad, 6);
    CHECK_NEAR(t, grad[5], 5, 0);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static void refuse(test *t, bb_context *ctx, other *o, const char *part) {
    CHECK(t, bb_from_dlpack(ctx, &o->managed, true) == NULL);
    bb_status status = bb_error(ctx);
    CHECK_ERROR(t, ctx, status == BB_OK ? BB_ERR_ARGUMENT : status, part);
    CHECK_INT(t, o->deleted, 0);
    other_init(o);
}

static void refuses(test *t) {
    bb_context *ctx = test_open();
    other o;
    other_init(&o);
    DLTensor *d = &o.managed.dl_tensor;
    o.managed.version.major = 2;
    refuse(t, ctx, &o, "version: expected DLPack 1, got 2");
    o.managed.flags = 1;
    refuse(t, ctx, &o, "flags: expected memory that may be written");
    d->device.type = 2;
    refuse(t, ctx, &o, "device: expected the CPU (1), got 2");
    d->dtype.bits = 24;
    refuse(t, ctx, &o, "dtype: expected one of f64|f32");
    d->dtype.lanes = 4;
    refuse(t, ctx, &o, "dtype: expected one of");
    d->ndim = 9;
    refuse(t, ctx, &o, "rank: expected 0 to 8, got 9");
    d->ndim = -1;
    refuse(t, ctx, &o, "rank: expected 0 to 8, got -1");
    o.shape[0] = -2;
    refuse(t, ctx, &o, "shape: expected sizes >= 0");
    o.shape[0] = o.shape[1] = (int64_t)1 << 32;
    refuse(t, ctx, &o, "less than 2^63 bytes, got (4294967296, 4294967296) of ");
    o.strides[0] = -3;
    refuse(t, ctx, &o, "stride: expected none below 0, got -3");
    o.strides[0] = INT64_MAX;
    refuse(t, ctx, &o, "stride: expected a tensor below 2^63 bytes");
    o.shape[0] = 3, o.shape[1] = 2, o.strides[0] = INT64_MAX; /* the last element at 2^64 - 1 */
    refuse(t, ctx, &o, "stride: expected a tensor below 2^63 bytes");
    d->byte_offset = 2;
    refuse(t, ctx, &o, "data: expected an address");
    d->data = NULL;
    refuse(t, ctx, &o, "data: expected an address");
    CHECK(t, bb_from_dlpack(ctx, NULL, true) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "managed: expected a tensor, got NULL");
    CHECK(t, bb_to_dlpack(NULL, true) == NULL);
    bb_close(ctx);
}

static void out_and_in(bb_context *ctx) {
    DLManagedTensorVersioned *v = bb_to_dlpack(bb_full(ctx, BB_F32, BB_SHAPE(4), 1), true);
    if (!v) return;
    if (!bb_from_dlpack(ctx, v, true)) v->deleter(v); /* still ours */
}
static void survives_no_memory(test *t) { alloc_failure_loop(t, out_and_in); }

static const test_row rows[] = {
    {"goes out", goes_out}, {"types", types},
    {"comes in", comes_in}, {"the tape holds on", the_tape_holds_on},
    {"refuses", refuses},   {"survives no memory", survives_no_memory},
};
TEST_MAIN(rows)
