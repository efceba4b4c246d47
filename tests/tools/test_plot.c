/* The loss curve: what is drawn from a metrics.csv, and where. */
#include "tools/plot.h"

#include "tests/tools/program.h"

static char *draw(test *t, const scratch_folder *f, const char *csv, double entropy,
                  bb_status expected, const char *part) {
    char in[512], out[512];
    snprintf(in, sizeof in, "%s/metrics.csv", f->path);
    snprintf(out, sizeof out, "%s/loss.svg", f->path);
    scratch_write(f, "metrics.csv", csv, strlen(csv));
    bb_context *ctx = test_open();
    bb_plot_loss(ctx, &(bb_plot){"a <b> & \"c\"", in, out, entropy, NULL});
    if (expected == BB_OK)
        CHECK_OK(t, ctx);
    else
        CHECK_ERROR(t, ctx, expected, part);
    bb_close(ctx);
    return scratch_read(f, "loss.svg", NULL);
}

static int occurrences(const char *text, const char *part) {
    int n = 0;
    while ((text = strstr(text, part))) n++, text++;
    return n;
}

static const char header[] = "step,split,loss,lr,grad_norm,tokens_per_s,elapsed_s\n";

static void curves_and_labels(test *t) {
    scratch_folder f;
    char csv[8192];
    if (!scratch_open(t, &f)) return;
    int n = snprintf(csv, sizeof csv, "%s", header);
    for (int i = 1; i <= 100; i++) {
        n += snprintf(csv + n, sizeof csv - (size_t)n, "%d,train,%g,0.001,1,100,1\n", i,
                      5.5 / (1 + 0.1 * i));
        if (i % 25 == 0)
            n += snprintf(csv + n, sizeof csv - (size_t)n, "%d,val,%g,0.001,,100,1\n", i,
                          5.6 / (1 + 0.1 * i));
    }
    char *svg = draw(t, &f, csv, 0.4, BB_OK, NULL);
    if (CHECK(t, svg)) {
        CHECK(t, strncmp(svg, "<svg xmlns=", 11) == 0 &&
                     strcmp(svg + strlen(svg) - 7, "</svg>\n") == 0);
        CHECK_INT(t, occurrences(svg, "<polyline"), 2); /* raw and smoothed */
        CHECK_INT(t, occurrences(svg, "<circle"), 5);   /* four validations and the legend */
        CHECK_INT(t, occurrences(svg, "stroke-dasharray"), 2);
        CHECK(t, strstr(svg, "entropy of the source 0.4000"));
        CHECK(t, strstr(svg, "loss (nats per byte)") && strstr(svg, ">step<"));
        CHECK(t, occurrences(svg, "class=\"grid\"") >= 8);
        CHECK(t, strstr(svg, "a &lt;b> &amp; \"c\""));
        CHECK(t, !strstr(svg, "http://www.w3.org/1999") && !strstr(svg, "href") &&
                     !strstr(svg, "nan") && !strstr(svg, "inf"));
    }
    free(svg);
    svg = draw(t, &f, csv, 0, BB_OK, NULL);
    if (CHECK(t, svg)) CHECK(t, !strstr(svg, "entropy"));
    free(svg);
    scratch_close(&f);
}

/* The same points at a place that can be told: a later one is further right, a lower loss further
 * down. */
static void places(test *t) {
    scratch_folder f;
    if (!scratch_open(t, &f)) return;
    char csv[256];
    snprintf(csv, sizeof csv, "%s10,val,4,0,,1,1\n20,val,2,0,,1,1\n30,val,1,0,,1,1\n", header);
    char *svg = draw(t, &f, csv, 0, BB_OK, NULL);
    double x[3] = {0}, y[3] = {0};
    const char *at = svg;
    for (int i = 0; at && i < 3; i++) {
        at = strstr(at, "<circle cx=\"");
        if (CHECK(t, at && sscanf(at, "<circle cx=\"%lf\" cy=\"%lf\"", &x[i], &y[i]) == 2)) at++;
    }
    CHECK_NEAR(t, x[1] - x[0], x[2] - x[1], 0.2);
    CHECK(t, x[0] < x[1] && y[0] < y[1]);
    CHECK_NEAR(t, y[1] - y[0], y[2] - y[1],
               0.2); /* halving the loss is the same way everywhere: a logarithmic axis */
    free(svg);
    scratch_close(&f);
}

static void odd_inputs(test *t) {
    scratch_folder f;
    if (!scratch_open(t, &f)) return;
    char csv[512], one[128];
    snprintf(one, sizeof one, "%s1,train,3,0,1,1,1\n", header);
    char *svg = draw(t, &f, one, 0, BB_OK, NULL); /* a single point spans no range */
    if (CHECK(t, svg)) CHECK(t, !strstr(svg, "nan") && !strstr(svg, "inf"));
    free(svg);
    snprintf(csv, sizeof csv,
             "%s1,train,nan,0,1,1,1\n2,train,inf,0,1,1,1\nrubbish\n3,train,-1,0,1,1,1\n4,train,2,0,"
             "1,1,1\n5,tra",
             header);
    svg = draw(t, &f, csv, 0, BB_OK, NULL);
    if (CHECK(t, svg)) CHECK(t, !strstr(svg, "nan") && !strstr(svg, "inf"));
    free(svg);
    free(draw(t, &f, header, 0, BB_ERR_FORMAT, "expected rows"));
    free(draw(t, &f, "", 0, BB_ERR_FORMAT, "expected rows"));
    scratch_close(&f);
}

static const test_row rows[] = {
    {"curves_and_labels", curves_and_labels},
    {"places", places},
    {"odd_inputs", odd_inputs},
};
TEST_MAIN(rows)
