/* What test_saved.c and test_saved_faults.c share: pairs of hooks on saved values, and programs to
 * try them on. */
#ifndef BOBBIN_TESTS_AUTOGRAD_SAVED_TEST_H
#define BOBBIN_TESTS_AUTOGRAD_SAVED_TEST_H

#include "core/impl.h"
#include "tests/support/test.h"

/* ---- A pair that keeps bytes outside of the library, as a file would ------------------------- */

typedef struct store {
    bb_context *ctx;
    int packs, unpacks, releases, live;
    int64_t smallest; /* values of fewer elements stay with the tape */
    int fail_pack;    /* the nth pack fails */
    int recorded;     /* calls whose ops would have gone on the tape */
} store;

static inline void look_whether_recorded(store *s) {
    bool before = bb_set_grad_enabled(s->ctx, false);
    s->recorded += before;
    bb_set_grad_enabled(s->ctx, before);
}
typedef struct stored {
    bb_dtype dtype;
    bb_device device;
    bb_shape shape;
    size_t bytes;
    char values[];
} stored;

static inline bb_status store_pack(void *user, bb_tensor *value, void **packed) {
    store *s = user;
    look_whether_recorded(s);
    if (bb_count(value) < s->smallest) return BB_OK;
    if (++s->packs == s->fail_pack) return bb_fail(s->ctx, BB_ERR_IO, "the disk is full");
    size_t bytes = (size_t)bb_count(value) * bb_dtype_bytes(bb_dtype_of(value));
    stored *p = malloc(sizeof *p + bytes);
    if (!p) return bb_fail(s->ctx, BB_ERR_MEMORY, "no memory");
    *p = (stored){bb_dtype_of(value), bb_device_of(value), bb_shape_of(value), bytes};
    if (bb_read(value, p->values, bytes)) {
        free(p);
        return bb_error(s->ctx);
    }
    s->live++;
    *packed = p;
    return BB_OK;
}
static inline bb_tensor *store_unpack(void *user, void *packed) {
    store *s = user;
    const stored *p = packed;
    look_whether_recorded(s);
    s->unpacks++;
    bb_tensor *t = bb_empty_on(s->ctx, p->device, p->dtype, p->shape);
    return t && bb_write(t, p->values, p->bytes) == BB_OK ? t : NULL;
}
static inline void store_release(void *user, void *packed) {
    store *s = user;
    look_whether_recorded(s);
    s->releases++;
    s->live--;
    memset(packed, 0xee, sizeof(stored)); /* whoever uses it again will notice */
    free(packed);
}
static inline bb_saved_hooks store_hooks(store *s) {
    return (bb_saved_hooks){store_pack, store_unpack, store_release, s};
}

/* ---- A pair that keeps half of them, as tensors of the library ------------------------------- */

static inline bb_status narrow_pack(void *user, bb_tensor *value, void **packed) {
    (void)user;
    if (bb_dtype_of(value) != BB_F32) return BB_OK;
    *packed = bb_hold(bb_cast(bb_mul_scalar(value, 1), BB_F16)); /* the product is dropped */
    return bb_error(bb_context_of(value));
}
static inline bb_tensor *narrow_unpack(void *user, void *packed) {
    (void)user;
    return bb_cast(packed, BB_F32);
}
static inline void narrow_release(void *user, void *packed) {
    (void)user;
    bb_drop(packed);
}
static const bb_saved_hooks narrow = {narrow_pack, narrow_unpack, narrow_release, NULL};

/* ---- Programs on inputs of (4, 6), (4, 6) and (6,) ------------------------------------------- */

enum { N = 24, MOST = 3 };

static inline void make_inputs(bb_context *ctx, bb_dtype dtype, bb_tensor *in[MOST]) {
    double v[N];
    for (int k = 0; k < MOST; k++) {
        for (int i = 0; i < N; i++) v[i] = 0.9 * sin(1.7 * i + k) + 0.05;
        in[k] = bb_from_f64(ctx, dtype, k == 2 ? BB_SHAPE(6) : BB_SHAPE(4, 6), v);
        bb_set_requires_grad(in[k], true);
    }
}

static inline bb_tensor *plain(bb_tensor *const *in) {
    bb_tensor *h = bb_tanh(bb_mul(in[0], in[0])); /* one tensor twice; an output that is saved */
    h = bb_mul(bb_transpose(h, 0, 1), bb_exp(bb_transpose(in[1], 0, 1))); /* views */
    return bb_add(bb_mul(bb_transpose(h, 0, 1), in[2]), bb_slice(in[0], 0, 0, 1, 1));
}
static inline bb_tensor *composite(bb_tensor *const *in) {
    bb_tensor *h = bb_rms_norm(bb_add(in[0], in[1]), in[2], 1e-5); /* a hidden output */
    h = bb_swiglu(h, bb_layer_norm(h, in[2], NULL, 1e-5));
    bb_tensor *x = bb_reshape(h, BB_SHAPE(1, 1, 4, 6));
    return bb_reshape(bb_sdpa(x, bb_rope(x, NULL), x, NULL, &(bb_sdpa_attrs){.is_causal = true}),
                      BB_SHAPE(4, 6));
}

#endif
