/* Model folders as a whole: what lies beside the weights, and the program on a folder with a
 * tokenizer. Configurations are test_model_config.c, weights test_model_weights.c; that the numbers
 * are right is the business of tests/reference/test_models.c, whose fixtures are used here. */
#include "tests/tools/model_test.h"

static void ends(test *t) {
    scratch_folder s;
    bb_context *ctx = test_open();
    if (!scratch_open(t, &s)) return;
    CHECK_INT(t, bb_model_end_tokens(ctx, s.path).n, 0);
    scratch_write(&s, "config.json", "{\"eos_token_id\": 7}", 19);
    bb_ints one = bb_model_end_tokens(ctx, s.path);
    CHECK(t, one.n == 1 && one.v[0] == 7);
    scratch_write(&s, "generation_config.json", "{\"eos_token_id\": [3, 4]}", 24);
    bb_ints two = bb_model_end_tokens(ctx, s.path);
    CHECK(t, two.n == 2 && two.v[0] == 3 && two.v[1] == 4);
    char to[256];
    snprintf(to, sizeof to, "%s/to", s.path);
    mkdir(to, 0777);
    CHECK_INT(t, bb_model_copy_papers(ctx, s.path, to), BB_OK);
    two = bb_model_end_tokens(ctx, to);
    CHECK(t, two.n == 2 && two.v[0] == 3 && two.v[1] == 4);
    char gone[300];
    snprintf(gone, sizeof gone, "%s/generation_config.json", s.path);
    remove(gone);
    CHECK_INT(t, bb_model_copy_papers(ctx, s.path, to), BB_OK); /* from config.json */
    one = bb_model_end_tokens(ctx, to);
    CHECK(t, one.n == 1 && one.v[0] == 7);
    scratch_write(&s, "generation_config.json", "{\"eos_token_id\": [3, \"x\", 4]}", 29);
    bb_model_end_tokens(ctx, s.path);
    CHECK_ERROR(t, ctx, BB_ERR_FORMAT, "eos_token_id: expected an id or up to");
    scratch_close(&s);
    bb_close(ctx);
}

/* A folder of a family's form with a tokenizer: fine-tuned, resumed, sampled; the same run in one
 * go gives the same bytes. */
static void fine_tuning(test *t) {
    scratch_folder s;
    bb_context *ctx = test_open();
    char folder[256];
    size_t n, a_bytes = 0, b_bytes = 1;
    if (!scratch_open(t, &s)) return;
    char *qwen = changed(t, "qwen3", "\"vocab_size\": 96", "\"vocab_size\": 430");
    bb_nn_config c;
    bb_model_config_parse(ctx, "qwen3", qwen, strlen(qwen), &c);
    snprintf(folder, sizeof folder, "%s/base", s.path);
    mkdir(folder, 0777);
    CHECK_INT(t, bb_model_save(bb_nn_transformer_new(ctx, BB_CPU, &c), folder), BB_OK);
    char *tokenizer = slurp(ROOT "tokenizers/qwen.json", &n);
    scratch_write(&s, "base/tokenizer.json", tokenizer, n);
    free(tokenizer);
    free(qwen);
#define RUN                                                                                        \
    "train --model base --data '" ROOT "tokenizers/text.txt' --batch 4 --seq 16 --lr 1e-2 "        \
    "--warmup 2 --eval-every 0 --save-every 0 --threads 1 "
    CHECK_INT(t, program_run(&s, RUN "--steps 6 --out whole"), 0);
    char *said = scratch_read(&s, "out.txt", NULL);
    CHECK_MSG(t, said && strstr(said, "nats/token"), "%s", said ? said : "nothing");
    free(said);
    CHECK_INT(t, program_run(&s, RUN "--steps 4 --out parts"), 0);
    CHECK_INT(t, program_run(&s, "train --resume parts --steps 6 --threads 1"), 0);
    char *a = scratch_read(&s, "whole/model.safetensors", &a_bytes),
         *b = scratch_read(&s, "parts/model.safetensors", &b_bytes);
    CHECK(t, a && b && a_bytes == b_bytes && memcmp(a, b, a_bytes) == 0);
    free(a);
    free(b);
    CHECK_INT(t,
              program_run(&s, "sample --model parts --prompt 'The quick' --tokens 20 "
                              "--temperature 0"),
              0);
    said = scratch_read(&s, "out.txt", &n);
    CHECK(t, said && strncmp(said, "The quick", 9) == 0 && n > 20);
    free(said);
    scratch_write(&s, "bytes.bin", "\xff\xfe\xfd", 3);
    check_refused(t, &s, program_run(&s, "train --model base --data bytes.bin --out x"), 2,
                  "text: expected UTF-8, got byte 0xff at 0");
    check_refused(t, &s, program_run(&s, "train --model '" ROOT "llama' --out x"), 2,
                  "vocab_size: expected at least 256, one for each byte, got 96");
    scratch_close(&s);
    CHECK_OK(t, ctx);
    bb_close(ctx);
}

static const test_row rows[] = {{"ends", ends}, {"fine_tuning", fine_tuning}};
TEST_MAIN(rows)
