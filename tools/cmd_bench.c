/* bobbin bench: measures. Each benchmark is a file tools/bench_<name>.c; tests/bench/ compares them
 * with PyTorch. */
#include <stddef.h>
#include <string.h>

#include "tools/args.h"
#include "tools/bench.h"
#include "tools/commands.h"
#include "tools/progress.h"
#include "tools/device.h"

static const struct benchmark {
    const char *name;
    int (*run)(const bb_bench_options *options);
} benchmarks[] = {{"start", bb_bench_start},       {"op", bb_bench_op},
                  {"rms_norm", bb_bench_rms_norm}, {"add_rms_norm", bb_bench_add_rms_norm},
                  {"quantize", bb_bench_quantize}, {"gpu", bb_bench_gpu},
                  {"train", bb_bench_train}};
enum { BENCHMARKS = sizeof benchmarks / sizeof benchmarks[0] };

#define AT(field) offsetof(bb_bench_options, field)
static const bb_flag flags[] = {
    {"what", BB_FLAG_TEXT, AT(what), .positional = true, .value = "WHAT",
     .help = "start, op, rms_norm, add_rms_norm, quantize, gpu or train; left out: all of them"},
    {"model", BB_FLAG_TEXT, AT(model), .value = "tiny|small|baby",
     .help = "of train; left out: all of them"},
    {"steps", BB_FLAG_INT, AT(steps), .fallback = "20", .min = 1, .max = 4000,
     .help = "timed steps of train"},
    {"rounds", BB_FLAG_INT, AT(rounds), .fallback = "5", .min = 1, .max = 1000,
     .help = "turns that cases take"},
    {"budget", BB_FLAG_NUMBER, AT(budget), .fallback = "0.2", .max = 3600,
     .help = "seconds a case"},
    {"dtype", BB_FLAG_CHOICE, AT(dtype), .choices = "f32|bf16", .help = "of train"},
    {"chain", BB_FLAG_SWITCH, AT(chain), .help = "of train: the residual stream fused"},
    {"device", BB_FLAG_CHOICE, AT(device), .choices = BB_DEVICE_CHOICES,
     .help = "where to compute"},
    {"threads", BB_FLAG_INT, AT(threads), .fallback = "0", .max = 1024, .help = "0: all cores"},
    {"json", BB_FLAG_SWITCH, AT(json), .help = "one JSON object a line"},
    {.name = NULL}};
static const bb_usage usage = {
    "bench", "measures calls, RMSNorm and training steps: median, fastest, slowest", flags};

int bb_cmd_bench(int argc, char **argv) {
    bb_bench_options o;
    double begin = bb_seconds();
    int code = bb_args_parse(&usage, argc, argv, &o);
    if (code != BB_ARGS_GO) return code;
    o.begin = begin;
    bool found = false;
    code = 0;
    for (int i = 0; i < BENCHMARKS && code == 0; i++) {
        if (o.what && strcmp(o.what, benchmarks[i].name) != 0) continue;
        found = true;
        code = benchmarks[i].run(&o);
    }
    if (!found)
        return bb_usage_error(
            "bench", "expected start, op, rms_norm, add_rms_norm, quantize, gpu or train, got '%s'",
            o.what);
    return code;
}
