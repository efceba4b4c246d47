/* Checkpoints of a training run: tensors and counters by io/checkpoint.c, the run's settings as one
 * JSON text in its metadata. The manual is tools/trainer.h. */
#include "tools/trainer.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "tools/model.h"

/* The numbers of a bb_run, under the names and with the bounds of the flags that set them. */
typedef struct run_field {
    const char *name;
    size_t offset;
    bool integer;
    int64_t min, max; /* of an integer; other numbers are finite and >= 0 */
} run_field;
#define FIELD(field) offsetof(bb_run, field)
static const run_field fields[] = {
    {"batch", FIELD(batch), true, 1, 65536},
    {"seq", FIELD(seq), true, 1, 65536},
    {"seed", FIELD(seed), true, 0, INT64_MAX},
    {"warmup", FIELD(warmup), true, 0, INT64_MAX},
    {"decay-steps", FIELD(decay_steps), true, 0, INT64_MAX},
    {"steps", FIELD(steps), true, 1, INT64_MAX},
    {"lr", FIELD(lr), false, 0, 0},
    {"min-lr", FIELD(min_lr), false, 0, 0},
    {"clip", FIELD(clip), false, 0, 0},
    {"weight-decay", FIELD(weight_decay), false, 0, 0},
};
enum { FIELD_COUNT = sizeof fields / sizeof fields[0] };

static void write_run(bb_json_writer *w, const bb_run *run, double elapsed_s) {
    char fingerprint[24];
    snprintf(fingerprint, sizeof fingerprint, "%016" PRIx64, run->fingerprint);
    bb_json_begin_object(w);
    bb_json_key(w, "data");
    bb_json_put_string(w, run->data);
    bb_json_key(w, "fingerprint");
    bb_json_put_string(w, fingerprint);
    bb_json_key(w, "model");
    bb_model_config_write(w, &run->config);
    bb_json_key(w, "dtype");
    bb_json_put_string(w, bb_dtype_name(run->dtype));
    for (int i = 0; i < FIELD_COUNT; i++) {
        int64_t integer;
        double number;
        bb_json_key(w, fields[i].name);
        if (fields[i].integer) {
            memcpy(&integer, (const char *)run + fields[i].offset, sizeof integer);
            bb_json_put_int(w, integer);
        } else {
            memcpy(&number, (const char *)run + fields[i].offset, sizeof number);
            bb_json_put_number(w, number);
        }
    }
    bb_json_key(w, "elapsed_s");
    bb_json_put_number(w, elapsed_s);
    bb_json_end_object(w);
}

/* Model and optimizer as one list. free() it. */
static bb_named *all_tensors(bb_trainer *t, int *count) {
    int model_count = 0, state_count = 0;
    const bb_named *model = bb_nn_transformer_named(t->model, &model_count);
    const bb_named *state = bb_adamw_state(t->optimizer, &state_count);
    bb_named *all = malloc((size_t)(model_count + state_count + 1) * sizeof *all);
    if (!all) bb_fail(t->ctx, BB_ERR_MEMORY, "checkpoint: out of memory");
    if (!all || !model || !state) {
        free(all);
        return NULL;
    }
    memcpy(all, model, (size_t)model_count * sizeof *all);
    memcpy(all + model_count, state, (size_t)state_count * sizeof *all);
    *count = model_count + state_count;
    return all;
}

bb_status bb_trainer_save(bb_trainer *t, const char *path) {
    bb_checkpoint state = {
        .step = t->step, .data_position = t->step * t->run.batch, .rng = bb_get_rng(t->ctx)};
    int count = 0;
    bb_named *tensors = all_tensors(t, &count);
    if (!tensors) return bb_error(t->ctx);
    bb_json_writer w;
    bb_json_open(&w, t->ctx, 0);
    write_run(&w, &t->run, t->elapsed_s);
    const bb_text extra = {"run", w.text};
    if (bb_error(t->ctx) == BB_OK)
        bb_checkpoint_save(t->ctx, path, &state, tensors, count, &extra, 1, NULL);
    bb_json_close(&w);
    free(tensors);
    bb_end_step(t->ctx);
    return bb_error(t->ctx);
}

static bb_status bad_run(bb_context *ctx, const char *path, const char *key) {
    return bb_fail(ctx, BB_ERR_FORMAT,
                   "%s: expected the settings of a training run, got none or a wrong '%s'", path,
                   key);
}

/* Zero, too; a number of JSON is finite. */
static bool read_positive(bb_json value, double *number) {
    return bb_json_number(value, number) && *number >= 0;
}

static bb_status parse_run(bb_context *ctx, const char *path, const char *text, bb_run *run,
                           double *elapsed_s) {
    bb_json root, value;
    char fingerprint[24] = "", dtype[8] = "";
    memset(run, 0, sizeof *run);
    if (bb_json_parse(ctx, path, text, strlen(text), &root) != BB_OK) return bb_error(ctx);
    if (!bb_json_get(root, "data", &value) ||
        bb_json_string(value, run->data, sizeof run->data) >= sizeof run->data) {
        return bad_run(ctx, path, "data");
    }
    if (!bb_json_get(root, "fingerprint", &value) ||
        bb_json_string(value, fingerprint, sizeof fingerprint) != 16 ||
        sscanf(fingerprint, "%" SCNx64, &run->fingerprint) != 1) {
        return bad_run(ctx, path, "fingerprint");
    }
    if (!bb_json_get(root, "dtype", &value) ||
        bb_json_string(value, dtype, sizeof dtype) >= sizeof dtype ||
        !bb_dtype_find(dtype, &run->dtype) || (run->dtype != BB_F32 && run->dtype != BB_BF16)) {
        return bad_run(ctx, path, "dtype");
    }
    for (int i = 0; i < FIELD_COUNT; i++) {
        const run_field *f = &fields[i];
        void *field = (char *)run + f->offset;
        bool good =
            bb_json_get(root, f->name, &value) &&
            (f->integer ? bb_json_int(value, f->min, f->max, field) : read_positive(value, field));
        if (!good) return bad_run(ctx, path, f->name);
    }
    if (run->min_lr > run->lr) return bad_run(ctx, path, "min-lr");
    if (!bb_json_get(root, "elapsed_s", &value) || !read_positive(value, elapsed_s))
        return bad_run(ctx, path, "elapsed_s");
    if (!bb_json_get(root, "model", &value)) return bad_run(ctx, path, "model");
    if (bb_model_config_parse(ctx, path, value.at, (size_t)(value.end - value.at), &run->config))
        return bb_error(ctx);
    return run->seq <= run->config.max_seq ? BB_OK : bad_run(ctx, path, "seq");
}

bb_safetensors *bb_run_read(bb_context *ctx, const char *path, bb_run *run, bb_checkpoint *state,
                            double *elapsed_s) {
    bb_safetensors *file = bb_checkpoint_open(ctx, path, state);
    if (!file) return NULL;
    const char *text = bb_safetensors_metadata(file, "run");
    if (text)
        parse_run(ctx, path, text, run, elapsed_s);
    else
        bad_run(ctx, path, "run");
    if (bb_error(ctx) == BB_OK && state->data_position != state->step * run->batch)
        bad_run(ctx, path, "batch");
    if (bb_error(ctx) == BB_OK) return file;
    bb_safetensors_close(file);
    return NULL;
}

bb_status bb_trainer_restore(bb_trainer *t, bb_safetensors *file, const bb_checkpoint *state,
                             double elapsed_s) {
    int count = 0;
    bb_named *tensors = all_tensors(t, &count);
    if (tensors) bb_safetensors_restore(file, tensors, count, true);
    free(tensors);
    bb_safetensors_close(file);
    bb_end_step(t->ctx);
    bb_set_rng(t->ctx, state->rng);
    t->step = state->step;
    t->elapsed_s = elapsed_s;
    return bb_error(t->ctx);
}
