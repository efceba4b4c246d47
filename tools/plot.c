/* The loss curve as SVG: training loss thin and raw, thick and smoothed; validation as points; the
 * entropy of the source as a dashed line. The loss axis is logarithmic, so that late progress stays
 * visible below the steep start. */
#include "tools/plot.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct point {
    double x, y;
} point;

typedef struct curve {
    point *at;
    size_t count, room;
} curve;

enum {
    WIDTH = 860,
    HEIGHT = 480,
    LEFT = 64,
    RIGHT = 24,
    TOP = 52,
    BOTTOM = 52,
    LINE_POINTS = 1500
};

typedef struct canvas {
    FILE *svg;
    double x_min, x_max, y_min, y_max; /* y: log of the loss */
} canvas;

static bool add_point(curve *c, double x, double y) {
    if (c->count == c->room) {
        size_t room = c->room ? 2 * c->room : 256;
        point *grown = realloc(c->at, room * sizeof *grown);
        if (!grown) return false;
        c->at = grown;
        c->room = room;
    }
    c->at[c->count++] = (point){x, y};
    return true;
}

/* One row: step,split,loss,... Rows of another kind or without a positive finite loss are passed
 * over. */
static bool read_row(const char *row, size_t bytes, curve *train, curve *val) {
    char line[256], split[8];
    long long step;
    double loss;
    if (bytes >= sizeof line) return true;
    memcpy(line, row, bytes);
    line[bytes] = '\0';
    if (sscanf(line, "%lld,%7[a-z],%lf", &step, split, &loss) != 3 || !isfinite(loss) || loss <= 0)
        return true;
    return add_point(strcmp(split, "val") == 0 ? val : train, (double)step, loss);
}

static bb_status read_metrics(bb_context *ctx, const char *path, curve *train, curve *val) {
    bb_file file;
    bb_status status = bb_file_map(ctx, path, &file);
    if (status != BB_OK) return status;
    const char *end = file.data + file.bytes;
    for (const char *row = file.data; status == BB_OK && row < end;) {
        const char *stop = memchr(row, '\n', (size_t)(end - row));
        if (!stop) stop = end;
        if (!read_row(row, (size_t)(stop - row), train, val))
            status = bb_fail(ctx, BB_ERR_MEMORY, "plot: out of memory");
        row = stop + (stop < end);
    }
    bb_file_unmap(&file);
    if (status == BB_OK && train->count + val->count == 0) {
        status =
            bb_fail(ctx, BB_ERR_FORMAT, "%s: expected rows 'step,split,loss,...', got none", path);
    }
    return status;
}

static void widen(canvas *c, const curve *k) {
    for (size_t i = 0; i < k->count; i++) {
        c->x_max = fmax(c->x_max, k->at[i].x);
        c->y_min = fmin(c->y_min, log(k->at[i].y));
        c->y_max = fmax(c->y_max, log(k->at[i].y));
    }
}

static double place_x(const canvas *c, double x) {
    return LEFT + (x - c->x_min) / (c->x_max - c->x_min) * (WIDTH - LEFT - RIGHT);
}

static double place_y(const canvas *c, double loss) {
    return TOP + (c->y_max - log(loss)) / (c->y_max - c->y_min) * (HEIGHT - TOP - BOTTOM);
}

/* The mean of a point and up to `half` neighbours on either side. */
static double mean_around(const curve *k, size_t i, size_t half) {
    if (half > i) half = i;
    if (half > k->count - 1 - i) half = k->count - 1 - i;
    double sum = 0;
    for (size_t j = i - half; j <= i + half; j++) sum += k->at[j].y;
    return sum / (double)(2 * half + 1);
}

static void draw_line(const canvas *c, const curve *k, size_t half, const char *style) {
    size_t stride = 1 + k->count / LINE_POINTS;
    if (k->count == 0) return;
    fprintf(c->svg, "<polyline fill=\"none\" %s points=\"", style);
    for (size_t i = 0; i < k->count; i += stride) {
        double y = place_y(c, mean_around(k, i, half));
        fprintf(c->svg, "%.1f,%.1f ", place_x(c, k->at[i].x), y);
    }
    fputs("\"/>\n", c->svg);
}

/* 1, 2 or 5 times a power of ten, near `step`. */
static double round_step(double step) {
    double power = pow(10, floor(log10(step))), lead = step / power;
    return power * (lead < 1.5 ? 1 : lead < 3.5 ? 2 : lead < 7.5 ? 5 : 10);
}

static void draw_x_axis(const canvas *c) {
    double step = fmax(1, round_step((c->x_max - c->x_min) / 8));
    for (double x = 0; x <= c->x_max * 1.0001; x += step) {
        fprintf(c->svg, "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>",
                place_x(c, x), place_x(c, x), TOP, HEIGHT - BOTTOM + 5);
        fprintf(c->svg, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.0f</text>\n",
                place_x(c, x), HEIGHT - BOTTOM + 20, x);
    }
    fprintf(c->svg, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">step</text>\n",
            (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12);
}

static void draw_y_tick(const canvas *c, double loss) {
    double y = place_y(c, loss);
    fprintf(c->svg, "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>", LEFT - 5,
            WIDTH - RIGHT, y, y);
    fprintf(c->svg, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.3g</text>\n", LEFT - 10, y + 4,
            loss);
}

/* Ticks at round losses; on a range so small that few of these fit, at even steps. */
static void draw_y_axis(const canvas *c, const char *per) {
    static const double round[] = {1, 1.5, 2, 3, 4, 5, 7};
    double low = exp(c->y_min), high = exp(c->y_max), step = round_step((high - low) / 7);
    if (high / low < 3) {
        for (double y = ceil(low / step) * step; y <= high; y += step) draw_y_tick(c, y);
    } else {
        for (double unit = pow(10, floor(log10(low))); unit <= high; unit *= 10) {
            for (size_t i = 0; i < sizeof round / sizeof round[0]; i++) {
                if (unit * round[i] >= low && unit * round[i] <= high)
                    draw_y_tick(c, unit * round[i]);
            }
        }
    }
    fprintf(c->svg,
            "<text transform=\"rotate(-90)\" x=\"%d\" y=\"18\" text-anchor=\"middle\">loss (nats "
            "per %s)</text>\n",
            -(TOP + HEIGHT - BOTTOM) / 2, per);
}

static void draw_entropy(const canvas *c, double entropy) {
    double y = place_y(c, entropy);
    fprintf(c->svg,
            "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#2a8f5b\" "
            "stroke-dasharray=\"6 4\"/>\n",
            LEFT, WIDTH - RIGHT, y, y);
}

static void draw_legend(const canvas *c, const curve *val, double entropy) {
    int x = WIDTH - RIGHT - 230, y = TOP + 18;
    fprintf(
        c->svg,
        "<line x1=\"%d\" x2=\"%d\" y1=\"%d\" y2=\"%d\" stroke=\"#2f6fb5\" stroke-width=\"2.5\"/>",
        x, x + 26, y, y);
    fprintf(c->svg, "<text x=\"%d\" y=\"%d\">training</text>\n", x + 34, y + 4);
    if (val->count) {
        y += 20;
        fprintf(c->svg, "<circle cx=\"%d\" cy=\"%d\" r=\"4\" fill=\"#d1602f\"/>", x + 13, y);
        fprintf(c->svg, "<text x=\"%d\" y=\"%d\">validation, last %.4f</text>\n", x + 34, y + 4,
                val->at[val->count - 1].y);
    }
    if (entropy > 0) {
        y += 20;
        fprintf(c->svg,
                "<line x1=\"%d\" x2=\"%d\" y1=\"%d\" y2=\"%d\" stroke=\"#2a8f5b\" "
                "stroke-dasharray=\"6 4\"/>",
                x, x + 26, y, y);
        fprintf(c->svg, "<text x=\"%d\" y=\"%d\">entropy of the source %.4f</text>\n", x + 34,
                y + 4, entropy);
    }
}

static void put_escaped(FILE *svg, const char *text) {
    for (; *text; text++) {
        unsigned char b = (unsigned char)*text;
        if (*text == '<')
            fputs("&lt;", svg);
        else if (*text == '&')
            fputs("&amp;", svg);
        else
            fputc(b < 0x20 || b > 0x7e ? '?' : b, svg);
    }
}

static void draw(const canvas *c, const bb_plot *plot, const curve *train, const curve *val) {
    fprintf(c->svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" "
            "height=\"%d\">\n",
            WIDTH, HEIGHT, WIDTH, HEIGHT);
    fputs("<style>text{font:13px system-ui,sans-serif;fill:#444}"
          ".title{font-size:17px;font-weight:600;fill:#222}.grid{stroke:#e3e3e3}</style>\n<rect "
          "width=\"100%\" height=\"100%\" fill=\"#fdfdfc\"/>\n",
          c->svg);
    fprintf(c->svg, "<text class=\"title\" x=\"%d\" y=\"30\">", LEFT);
    put_escaped(c->svg, plot->title);
    fputs("</text>\n", c->svg);
    draw_x_axis(c);
    draw_y_axis(c, plot->unit ? plot->unit : "byte");
    if (plot->entropy > 0) draw_entropy(c, plot->entropy);
    draw_line(c, train, 0, "stroke=\"#a9c6e6\" stroke-width=\"0.8\"");
    draw_line(c, train, train->count / 60, "stroke=\"#2f6fb5\" stroke-width=\"2.5\"");
    for (size_t i = 0; i < val->count; i++) {
        fprintf(c->svg,
                "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"#d1602f\" stroke=\"#fff\"/>\n",
                place_x(c, val->at[i].x), place_y(c, val->at[i].y));
    }
    fprintf(c->svg, "<path d=\"M%d %dV%dH%d\" fill=\"none\" stroke=\"#888\"/>\n", LEFT, TOP,
            HEIGHT - BOTTOM, WIDTH - RIGHT);
    draw_legend(c, val, plot->entropy);
    fputs("</svg>\n", c->svg);
}

static bb_status draw_file(bb_context *ctx, const bb_plot *plot, const curve *train,
                           const curve *val) {
    canvas c = {.x_min = 0, .x_max = 1, .y_min = INFINITY, .y_max = -INFINITY};
    widen(&c, train);
    widen(&c, val);
    if (plot->entropy > 0) c.y_min = fmin(c.y_min, log(plot->entropy));
    double margin =
        0.05 * (c.y_max - c.y_min) + 0.01; /* also keeps a flat curve off a division by zero */
    c.y_min -= margin;
    c.y_max += margin;
    char *text = NULL;
    size_t bytes = 0;
    c.svg = open_memstream(&text, &bytes);
    if (!c.svg) return bb_fail(ctx, BB_ERR_MEMORY, "plot: out of memory");
    draw(&c, plot, train, val);
    bool whole = !ferror(c.svg);
    whole = fclose(c.svg) == 0 && whole;
    bb_status status = whole ? bb_file_write(ctx, plot->output, text, bytes)
                             : bb_fail(ctx, BB_ERR_MEMORY, "plot: out of memory");
    free(text);
    return status;
}

bb_status bb_plot_loss(bb_context *ctx, const bb_plot *plot) {
    curve train = {0}, val = {0};
    bb_status status = read_metrics(ctx, plot->metrics, &train, &val);
    if (status == BB_OK) status = draw_file(ctx, plot, &train, &val);
    free(train.at);
    free(val.at);
    return status;
}
