/* io/checkpoint.c: a run comes back as it was; a wrong checkpoint changes nothing; a failed save
 * loses nothing. */
#include "tests/io/scratch.h"
#include "tests/support/alloc.h"

static const bb_checkpoint state = {1234567890123, INT64_MAX, {UINT64_MAX, (uint64_t)1 << 63}};

static bb_tensor *filled(bb_context *ctx, bb_dtype dtype, bb_shape shape, double value) {
    double values[6] = {value, value + 1, value + 2, value + 3, value + 4, value + 5};
    return bb_from_f64(ctx, dtype, shape, values);
}

static void comes_back(test *t) {
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    bb_named rows[] = {{"w", filled(ctx, BB_F32, BB_SHAPE(2, 3), 1)},
                       {"adam.m.w", filled(ctx, BB_F32, BB_SHAPE(2, 3), 7)}};
    const bb_text extra = {"config", "{\"hidden_size\": 4}\n"};
    CHECK(t, bb_checkpoint_save(ctx, scratch_path(&s, "c"), &state, rows, 2, &extra, 1, NULL) ==
                 BB_OK);
    bb_checkpoint back = {0};
    bb_safetensors *file = bb_checkpoint_open(ctx, s.path, &back);
    CHECK(t, file != NULL);
    CHECK_OK(t, ctx);
    CHECK(t, back.step == state.step && back.data_position == state.data_position &&
                 back.rng.seed == state.rng.seed && back.rng.offset == state.rng.offset);
    CHECK_TEXT(t, bb_safetensors_metadata(file, "config"), extra.value);
    CHECK(t, bb_safetensors_metadata(file, "nothing") == NULL);
    CHECK_INT(t, bb_safetensors_metadata_count(file), 6);
    bb_named targets[] = {{"adam.m.w", filled(ctx, BB_F32, BB_SHAPE(2, 3), 0)},
                          {"w", filled(ctx, BB_F32, BB_SHAPE(2, 3), 0)}};
    CHECK(t, bb_safetensors_restore(file, targets, 2, true) == BB_OK);
    double got[6];
    bb_read_f64(targets[0].tensor, got, 6);
    CHECK(t, got[0] == 7 && got[5] == 12);
    bb_read_f64(targets[1].tensor, got, 6);
    CHECK(t, got[0] == 1 && got[5] == 6);
    bb_safetensors_close(file);
    scratch_close(&s);
    bb_close(ctx);
}

/* The last row is wrong; the first must not have been touched. */
static void a_wrong_one_changes_nothing(test *t) {
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    bb_named rows[] = {{"a", filled(ctx, BB_F32, BB_SHAPE(6), 1)},
                       {"b", filled(ctx, BB_F32, BB_SHAPE(2, 3), 7)}};
    bb_checkpoint_save(ctx, scratch_path(&s, "c"), &state, rows, 2, NULL, 0, NULL);
    bb_checkpoint back;
    bb_safetensors *file = bb_checkpoint_open(ctx, s.path, &back);
    bb_tensor *a = filled(ctx, BB_F32, BB_SHAPE(6), -100);
    const struct {
        bb_named last;
        const char *expected;
        bb_status status;
    } wrong[] = {
        {{"b", filled(ctx, BB_F32, BB_SHAPE(3, 2), 0)},
         "tensor 'b': expected (3, 2), got (2, 3)",
         BB_ERR_FORMAT},
        {{"b", filled(ctx, BB_F64, BB_SHAPE(2, 3), 0)},
         "tensor 'b': expected f64, got f32",
         BB_ERR_FORMAT},
        {{"c", filled(ctx, BB_F32, BB_SHAPE(2, 3), 0)},
         "tensor 'c': expected to find it",
         BB_ERR_FORMAT},
        {{"a", filled(ctx, BB_F32, BB_SHAPE(6), 0)},
         "expected each name once, got 'a' twice",
         BB_ERR_ARGUMENT},
        {{"b", NULL}, "got NULL in row 1", BB_ERR_ARGUMENT},
    };
    for (int i = 0; i < COUNT(wrong); i++) {
        bb_named targets[] = {{"a", a}, wrong[i].last};
        CHECK(t, bb_safetensors_restore(file, targets, 2, true) != BB_OK);
        CHECK_ERROR(t, ctx, wrong[i].status, wrong[i].expected);
        double got[6] = {0};
        bb_read_f64(a, got, 6);
        CHECK(t, got[0] == -100 && got[5] == -95);
    }
    bb_named one = {"a", a};
    CHECK(t, bb_safetensors_restore(file, &one, 1, true) != BB_OK);
    CHECK_ERROR(t, ctx, BB_ERR_FORMAT, "expected 1 tensors, got 2");
    CHECK(t, bb_safetensors_restore(file, &one, 1, false) == BB_OK);
    bb_safetensors_close(file);
    scratch_close(&s);
    bb_close(ctx);
}

static void refuses_other_files(test *t) {
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    static const char *const good[5][2] = {{"format", "bobbin checkpoint 1"},
                                           {"step", "1"},
                                           {"data_position", "2"},
                                           {"rng_seed", "3"},
                                           {"rng_offset", "4"}};
    static const struct {
        int key;
        const char *value, *expected;
    } rows[] = {{0, NULL, "format: expected 'bobbin checkpoint 1', got nothing"},
                {0, "bobbin checkpoint 2", "got 'bobbin checkpoint 2'"},
                {1, NULL, "step: expected an integer from 0 to 2^63 - 1, got nothing"},
                {1, "", "step: expected"},
                {1, "-1", "got '-1'"},
                {1, "1.5", "got '1.5'"},
                {1, " 1", "got ' 1'"},
                {1, "9223372036854775808", "step: expected"},
                {2, "ten", "data_position: expected"},
                {3, "18446744073709551616", "rng_seed: expected an integer from 0 to 2^64 - 1"},
                {4, "0x1", "rng_offset: expected"}};
    for (int i = 0; i < COUNT(rows); i++) {
        bb_text metadata[5];
        int n = 0;
        for (int k = 0; k < 5; k++) {
            const char *value = k == rows[i].key ? rows[i].value : good[k][1];
            if (value) metadata[n++] = (bb_text){good[k][0], value};
        }
        bb_safetensors_save(ctx, scratch_path(&s, "c"), NULL, 0, metadata, n, NULL);
        bb_checkpoint back;
        CHECK(t, bb_checkpoint_open(ctx, s.path, &back) == NULL);
        CHECK_ERROR(t, ctx, BB_ERR_FORMAT, rows[i].expected);
    }
    bb_checkpoint back;
    CHECK(t, bb_checkpoint_open(ctx, scratch_path(&s, "missing"), &back) == NULL);
    CHECK_ERROR(t, ctx, BB_ERR_IO, "missing");
    scratch_close(&s);
    bb_close(ctx);
}

static void refuses_wrong_saves(test *t) {
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    const bb_checkpoint negative = {-1, 0, {0, 0}};
    const bb_text own = {"step", "5"};
    bb_checkpoint_save(ctx, scratch_path(&s, "c"), &negative, NULL, 0, NULL, 0, NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "expected step and data_position >= 0");
    bb_checkpoint_save(ctx, s.path, NULL, NULL, 0, NULL, 0, NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "got NULL");
    bb_checkpoint_save(ctx, s.path, &state, NULL, 0, &own, 1, NULL);
    CHECK_ERROR(t, ctx, BB_ERR_ARGUMENT, "the key 'step' is the checkpoint's own");
    CHECK_INT(t, scratch_count(&s), 0);
    scratch_close(&s);
    bb_close(ctx);
}

/* After a failure at any step the file is the old checkpoint or the new one, and can be read. */
static void fails_at_each_step(test *t) {
    static const int errors[] = {ENOSPC, EIO};
    bb_context *ctx = test_open();
    scratch s = scratch_open();
    const char *path = scratch_path(&s, "c");
    bb_named row = {"w", filled(ctx, BB_F32, BB_SHAPE(6), 1)};
    bb_checkpoint old = {1, 1, {1, 1}}, new = {2, 2, {2, 2}}, back;
    for (size_t e = 0; e < 2; e++)
        for (int at = 1;; at++) {
            CHECK(t, bb_checkpoint_save(ctx, path, &old, &row, 1, NULL, 0, NULL) == BB_OK);
            fault f;
            fault_init(&f, at, errors[e], 50);
            bb_status status = bb_checkpoint_save(ctx, path, &new, &row, 1, NULL, 0, &f.calls);
            CHECK(t, f.failed ? status == BB_ERR_IO : status == BB_OK);
            bb_clear_error(ctx);
            bb_safetensors *file = bb_checkpoint_open(ctx, path, &back);
            CHECK(t, file != NULL && back.step == (f.renamed ? 2 : 1));
            bb_safetensors_close(file);
            CHECK_INT(t, scratch_count(&s), 1);
            if (!f.failed) {
                CHECK(t, at > 6);
                break;
            }
        }
    scratch_close(&s);
    bb_close(ctx);
}

static void save_and_open(bb_context *ctx) {
    char path[300];
    snprintf(path, sizeof path, "%s/scratch-alloc-checkpoint", BOBBIN_BINARY_DIR);
    bb_named row = {"w", filled(ctx, BB_F32, BB_SHAPE(6), 1)};
    bb_checkpoint back;
    bb_checkpoint_save(ctx, path, &state, &row, row.tensor ? 1 : 0, NULL, 0, NULL);
    bb_safetensors_close(bb_checkpoint_open(ctx, path, &back));
    remove(path);
}
static void survives_no_memory(test *t) { alloc_failure_loop(t, save_and_open); }

static const test_row rows[] = {
    {"comes_back", comes_back},
    {"a_wrong_one_changes_nothing", a_wrong_one_changes_nothing},
    {"refuses_other_files", refuses_other_files},
    {"refuses_wrong_saves", refuses_wrong_saves},
    {"fails_at_each_step", fails_at_each_step},
    {"survives_no_memory", survives_no_memory},
};
TEST_MAIN(rows)
