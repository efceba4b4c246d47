/* metrics.csv: what is written, what a resumed run keeps, and that files of any content are read
 * within their bounds. The event file beside it says the same. */
#include "tools/metrics.h"

#include "tests/tools/events_reader.h"

static const char header[] = "step,split,loss,lr,grad_norm,tokens_per_s,elapsed_s\n";

static void writes_both(test *t) {
    scratch_folder f;
    if (!scratch_open(t, &f)) return;
    bb_context *ctx = test_open();
    bb_metrics m;
    char path[256];
    snprintf(path, sizeof path, "%s/metrics.csv", f.path);
    CHECK_INT(t, bb_metrics_open(ctx, &m, path, NULL, 0, 0), BB_OK);
    bb_metrics_add(&m, &(bb_metrics_row){1, "train", 2.5, 1e-3, 0.75, 1000, 0.5});
    bb_metrics_add(&m, &(bb_metrics_row){1, "val", 2.25, 1e-3, -1, 4000, 0.75});
    bb_metrics_add(&m, &(bb_metrics_row){2, "train", 2, 1e-3, 0.5, 1000, 1.25});
    CHECK_INT(t, bb_metrics_close(ctx, &m), BB_OK);
    char *csv = scratch_read(&f, "metrics.csv", NULL), expected[512];
    snprintf(expected, sizeof expected, "%s%s", header,
             "1,train,2.500000,0.001,0.75,1000.0,0.500\n1,val,2.250000,0.001,,4000.0,0.750\n"
             "2,train,2.000000,0.001,0.5,1000.0,1.250\n");
    CHECK_TEXT(t, csv, expected);
    free(csv);
    read_events e;
    CHECK_INT(t, read_event_folder(&f, ".", &e), 1);
    CHECK_INT(t, e.count, 9);
    CHECK_NEAR(t, event_value(&e, "loss/train", 1), 2.5, 0);
    CHECK_NEAR(t, event_value(&e, "loss/val", 1), 2.25, 0);
    CHECK_NEAR(t, event_value(&e, "loss/train", 2), 2, 0);
    CHECK_NEAR(t, event_value(&e, "lr", 2), (double)1e-3f, 0);
    CHECK_NEAR(t, event_value(&e, "grad_norm", 2), 0.5, 0);
    CHECK_NEAR(t, event_value(&e, "tokens_per_s", 1), 1000, 0);
    CHECK_NEAR(t, e.value[8].time - e.value[0].time, 0.75, 1e-5);
    /* Going on from step 1: the file keeps one step, TensorBoard forgets and sees it again. */
    CHECK_INT(t, bb_metrics_open(ctx, &m, path, path, 1, 0.75), BB_OK);
    bb_metrics_add(&m, &(bb_metrics_row){2, "train", 1.75, 1e-3, 0.5, 1000, 1.5});
    CHECK_INT(t, bb_metrics_close(ctx, &m), BB_OK);
    csv = scratch_read(&f, "metrics.csv", NULL);
    CHECK(t, csv && strstr(csv, "\n1,val,2.25") && strstr(csv, "\n2,train,1.75") &&
                 !strstr(csv, "2,train,2.0"));
    free(csv);
    CHECK_INT(t, read_event_folder(&f, ".", &e), 2);
    CHECK_INT(t, e.starts, 2);
    CHECK_INT(t, e.count, 9);
    CHECK_NEAR(t, event_value(&e, "loss/train", 1), 2.5, 0);
    CHECK_NEAR(t, event_value(&e, "loss/train", 2), 1.75, 0);
    bb_close(ctx);
    scratch_close(&f);
}

/* How many rows a resumed run keeps of a former file with this content. */
static int kept_rows(test *t, const char *former, size_t bytes) {
    scratch_folder f;
    if (!scratch_open(t, &f)) return -1;
    bb_context *ctx = test_open();
    bb_metrics m = {0};
    char from[256], to[256];
    snprintf(from, sizeof from, "%s/former.csv", f.path);
    snprintf(to, sizeof to, "%s/metrics.csv", f.path);
    scratch_write(&f, "former.csv", former, bytes);
    CHECK_INT(t, bb_metrics_open(ctx, &m, to, from, 5, 0), BB_OK);
    CHECK_INT(t, bb_metrics_close(ctx, &m), BB_OK);
    char *csv = scratch_read(&f, "metrics.csv", NULL);
    int lines = -1; /* the header */
    for (const char *p = csv; p && *p; p++) lines += *p == '\n';
    free(csv);
    bb_close(ctx);
    scratch_close(&f);
    return lines;
}

static void former_files(test *t) {
#define ROW "1,train,2.5,0.001,0.75,1000.0,0.500\n"
    static const struct {
        const char *text;
        int rows;
    } cases[] = {
        {"", 0},
        {ROW, 1},
        {"step,split\n" ROW ROW, 2},
        {"1,train,2.5,0.001,0.75,1000.0,0.500", 0}, /* cut off */
        {"6" ROW, 0},                               /* later than the checkpoint: step 61 */
        {"\n\n" ROW "\n\n", 1},
        {"1,test,2.5,0.001,0.75,1000.0,0.500\n", 0},
        {"1,val,2.5,0.001,,1000.0,0.500\n", 1},
        {"1,val,2.5,0.001,,1000.0\n", 0},
        {"1,val,,0.001,,1000.0,0.5\n", 0},
        {"1,val,2.5,0.001,,1000.0,0.500,\n", 0},
        {"x,train,2.5,0.001,0.75,1000.0,0.500\n", 0},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        int rows = kept_rows(t, cases[i].text, strlen(cases[i].text));
        CHECK_MSG(t, rows == cases[i].rows, "%s: kept %d rows, expected %d", cases[i].text, rows,
                  cases[i].rows);
    }
    /* Numbers and spaces up to the last byte of a file that fills its pages: nothing may be read
     * behind them. */
    long page = sysconf(_SC_PAGESIZE);
    char *text = malloc((size_t)page);
    for (const char *c = " \n7"; *c; c++) {
        memset(text, *c, (size_t)page);
        memcpy(text, ROW, sizeof ROW - 1);
        text[page - 1] = '\n';
        CHECK_INT(t, kept_rows(t, text, (size_t)page), 1);
    }
    free(text);
}

static const test_row rows[] = {{"writes both", writes_both}, {"former files", former_files}};
TEST_MAIN(rows)
