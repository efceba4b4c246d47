/* The progress bar of a run. See tools/progress.h. */
#include "tools/progress.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { BAR_MAX = 40, TEXT_COLUMNS = 62 };
static const double redraw_seconds = 0.1;

double bb_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

void bb_progress_begin(bb_progress *p, FILE *file, int64_t first, int64_t total, int64_t every) {
    const char *term = getenv("TERM"), *no_color = getenv("NO_COLOR");
    bool dumb = !term || strcmp(term, "dumb") == 0;
    *p = (bb_progress){
        .file = file, .first = first, .total = total, .every = every, .begin = bb_seconds()};
    p->terminal = isatty(fileno(file)) && !dumb;
    p->color = p->terminal && !(no_color && *no_color);
}

static const char *duration(double seconds, char text[24]) {
    int64_t s = (int64_t)(seconds + 0.5);
    if (s >= 3600) {
        snprintf(text, 24, "%lld:%02d:%02d", (long long)(s / 3600), (int)(s / 60 % 60),
                 (int)(s % 60));
    } else {
        snprintf(text, 24, "%d:%02d", (int)(s / 60), (int)(s % 60));
    }
    return text;
}

static int terminal_columns(const bb_progress *p) {
    struct winsize size;
    return ioctl(fileno(p->file), TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

static void draw_bar(const bb_progress *p, int64_t step, const char *text) {
    int columns = terminal_columns(p), width = columns - TEXT_COLUMNS;
    if (width > BAR_MAX) width = BAR_MAX;
    fputs("\r", p->file);
    if (width >= 8) {
        int filled = (int)(width * step / p->total);
        if (p->color) fputs("\033[36m", p->file);
        for (int i = 0; i < filled; i++) fputs("\u2501", p->file);
        if (p->color) fputs("\033[90m", p->file);
        for (int i = filled; i < width; i++) fputs(p->color ? "\u2501" : "-", p->file);
        fputs(p->color ? "\033[0m " : " ", p->file);
    }
    fprintf(p->file, "%.*s\033[K", columns - 1, text);
    fflush(p->file);
}

void bb_progress_step(bb_progress *p, int64_t step, double loss, double tokens_per_s) {
    double now = bb_seconds();
    bool last = step == p->total;
    if (p->terminal ? !last && now - p->drawn < redraw_seconds : !last && step % p->every != 0)
        return;
    p->drawn = now;
    double left = (now - p->begin) / (double)(step - p->first) * (double)(p->total - step);
    char eta[24], text[160];
    int digits = snprintf(NULL, 0, "%lld", (long long)p->total);
    snprintf(text, sizeof text, "step %*lld/%lld  loss %.4f  %.0f tokens/s  ETA %s", digits,
             (long long)step, (long long)p->total, loss, tokens_per_s, duration(left, eta));
    if (p->terminal) {
        draw_bar(p, step, text);
    } else {
        fprintf(p->file, "%s\n", text);
        fflush(p->file);
    }
}

void bb_progress_note(bb_progress *p, const char *format, ...) {
    va_list args;
    va_start(args, format);
    if (p->terminal) fputs("\r\033[K", p->file);
    vfprintf(p->file, format, args);
    fputc('\n', p->file);
    fflush(p->file);
    p->drawn = 0;
    va_end(args);
}

void bb_progress_end(bb_progress *p) {
    if (p->terminal) fputs("\r\033[K", p->file);
    fflush(p->file);
}
