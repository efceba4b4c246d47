/* bobbin sample: text from a trained model. The work is in tools/sampler.c. */
#include <stddef.h>

#include "tools/args.h"
#include "tools/commands.h"
#include "tools/model.h"
#include "tools/sampler.h"
#include "tools/device.h"

typedef struct options {
    const char *model, *prompt;
    int64_t tokens, top_k, seed, threads;
    double temperature;
    int device;
} options;

#define AT(field) offsetof(options, field)
static const bb_flag flags[] = {
    {"model", BB_FLAG_TEXT, AT(model), .value = "DIR", .required = true,
     .help = "folder of a trained model"},
    {"prompt", BB_FLAG_TEXT, AT(prompt), .fallback = "", .any = true, .value = "TEXT",
     .help = "what to go on from"},
    {"tokens", BB_FLAG_INT, AT(tokens), .fallback = "500", .max = 1e9,
     .help = "how many tokens to write, at most"},
    {"temperature", BB_FLAG_NUMBER, AT(temperature), .fallback = "0.8",
     .help = "0: always the likeliest"},
    {"top-k", BB_FLAG_INT, AT(top_k), .fallback = "0",
     .help = "draw from the K likeliest tokens; 0: from all"},
    {"seed", BB_FLAG_INT, AT(seed), .fallback = "0", .help = "of the draws"},
    {"device", BB_FLAG_CHOICE, AT(device), .choices = BB_DEVICE_CHOICES,
     .help = "where to compute"},
    {"threads", BB_FLAG_INT, AT(threads), .fallback = "0", .max = 1024, .help = "0: all cores"},
    {.name = NULL}};
static const bb_usage usage = {"sample", "writes text with a trained model", flags};

int bb_cmd_sample(int argc, char **argv) {
    options o;
    int code = bb_args_parse(&usage, argc, argv, &o);
    if (code != BB_ARGS_GO) return code;
    const bb_options open = {.threads = (int)o.threads};
    bb_context *ctx = bb_open(&open);
    if (!ctx) return bb_report(NULL, "sample");
    bb_device device = bb_choose_device(ctx, o.device);
    code = BB_EXIT_OK;
    if (bb_error(ctx) == BB_OK) {
        bb_nn_transformer *model = bb_model_load(ctx, device, o.model);
        bb_tokenizer *tokenizer = model ? bb_tokenizer_of_folder(ctx, o.model) : NULL;
        bb_ints ends = model ? bb_model_end_tokens(ctx, o.model) : (bb_ints){0};
        const bb_sampling sampling = {.prompt = o.prompt,
                                      .tokens = o.tokens,
                                      .temperature = o.temperature,
                                      .top_k = o.top_k,
                                      .seed = (uint64_t)o.seed,
                                      .tokenizer = tokenizer,
                                      .ends = &ends};
        if (bb_error(ctx) == BB_OK) bb_sample(model, &sampling, stdout);
        bb_tokenizer_close(tokenizer);
    }
    if (bb_error(ctx) != BB_OK) code = bb_report_input(ctx, "sample");
    bb_close(ctx);
    return code;
}
