/*
 * Drawing tables with gnuplot: curves with their intervals, or bars. The data travels inside the
 * script, so that nothing is left on disk; gnuplot's answer is read from a pipe.
 *
 * SPDX-License-Identifier: MIT
 */
#include "plot.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "names.h"

#define SVG_BYTES_MAX ((size_t)4 << 20)

/** A plot takes a fraction of a second: gnuplot waits for something that will not come. */
#define GNUPLOT_SECONDS_MAX 30u

/** Told apart by people who see fewer colours too: lightness differs as well as hue. */
static const char *const colours[] = {"#0060a8", "#d95f02", "#1b9e77", "#b3006e", "#7570b3",
                                      "#a6761d", "#444444", "#66a61e", "#e7298a", "#56b4e9"};
#define COLOURS (sizeof colours / sizeof colours[0])

/* ---- what is drawn -----------------------------------------------------------------------------
 */

struct drawing {
    const struct report_plot *plot;
    const struct report_table *table;
    int x, y, only; /**< columns; -1: none */
};

static bool
row_drawn(const struct drawing *drawing, const struct report_row *row)
{
    if (drawing->only >= 0 && row->values[drawing->only].median != drawing->plot->only_value)
        return false;
    if (drawing->x >= 0 && !isfinite(row->values[drawing->x].median))
        return false;
    return isfinite(row->values[drawing->y].median) &&
           names_have(drawing->plot->variants, row->variant);
}

/** Finds table and columns. False: there is nothing to draw. */
static bool
drawing_begin(struct drawing *drawing, const struct report *report, const struct report_plot *plot)
{
    memset(drawing, 0, sizeof *drawing);
    drawing->plot = plot;
    for (unsigned i = 0; i < report->tables_count; i++) {
        if (strcmp(report->tables[i].name, plot->table) == 0)
            drawing->table = &report->tables[i];
    }
    if (drawing->table == NULL)
        return false;
    drawing->x = plot->x != NULL ? report_column_find(drawing->table, plot->x) : -1;
    drawing->y = report_column_find(drawing->table, plot->y);
    drawing->only = plot->only != NULL ? report_column_find(drawing->table, plot->only) : -1;
    if (drawing->y < 0 || (plot->x != NULL && drawing->x < 0))
        return false;
    for (unsigned i = 0; i < drawing->table->rows_count; i++) {
        if (row_drawn(drawing, &drawing->table->rows[i]))
            return true;
    }
    return false;
}

/** Whether row `at` is the first to be drawn of its variant. */
static bool
is_first(const struct drawing *drawing, unsigned at)
{
    const struct report_row *rows = drawing->table->rows;
    for (unsigned i = 0; i < at; i++) {
        if (row_drawn(drawing, &rows[i]) && strcmp(rows[i].variant, rows[at].variant) == 0)
            return false;
    }
    return row_drawn(drawing, &rows[at]);
}

/* ---- the script --------------------------------------------------------------------------------
 */

static void
write_point(FILE *script, const struct estimate *value)
{
    const bool interval = isfinite(value->low) && isfinite(value->high);
    fprintf(script, " %.10g %.10g %.10g", value->median, interval ? value->low : value->median,
            interval ? value->high : value->median);
}

/** In single quotes, where gnuplot neither escapes nor runs what stands in backquotes. */
static void
write_text(FILE *script, const char *text)
{
    fputc('\'', script);
    for (; *text != '\0'; text++) {
        if (*text == '\'')
            fputc('\'', script);
        fputc(*text == '\n' ? ' ' : *text, script);
    }
    fputc('\'', script);
}

/** As a field of data, which takes double quotes only, and has no way to write one inside them. */
static void
write_label(FILE *script, const char *text)
{
    fputc('"', script);
    for (; *text != '\0'; text++) {
        if (*text == '\\')
            fputc('\\', script);
        fputc(*text == '"' ? '\'' : *text, script);
    }
    fputc('"', script);
}

static void
write_setting(FILE *script, const char *what, const char *text)
{
    fprintf(script, "set %s ", what);
    write_text(script, text != NULL ? text : "");
    fputs(" noenhanced\n", script);
}

/** One block of data per variant, named $d0, $d1 ... Returns how many. */
static unsigned
write_curve_data(const struct drawing *drawing, FILE *script)
{
    const struct report_table *table = drawing->table;
    unsigned count = 0;
    for (unsigned i = 0; i < table->rows_count; i++) {
        if (!is_first(drawing, i))
            continue;
        fprintf(script, "$d%u << END\n", count++);
        for (unsigned j = i; j < table->rows_count; j++) {
            const struct report_row *row = &table->rows[j];
            if (!row_drawn(drawing, row) || strcmp(row->variant, table->rows[i].variant) != 0)
                continue;
            fprintf(script, "%.10g", row->values[drawing->x].median);
            write_point(script, &row->values[drawing->y]);
            fputc('\n', script);
        }
        fputs("END\n", script);
    }
    return count;
}

static void
write_curves(const struct drawing *drawing, FILE *script)
{
    const struct report_table *table = drawing->table;
    unsigned count = write_curve_data(drawing, script), at = 0;
    fputs("plot", script);
    for (unsigned i = 0; i < table->rows_count && at < count; i++) {
        if (!is_first(drawing, i))
            continue;
        fprintf(script, "%s $d%u using 1:2:3:4 with yerrorlines lw 1.6 ps 0.5 pt 7 dt %u lc rgb ",
                at > 0 ? "," : "", at, 1 + at / (unsigned)COLOURS);
        write_text(script, colours[at % COLOURS]);
        fputs(" title ", script);
        write_text(script, table->rows[i].variant);
        at++;
    }
    fputc('\n', script);
}

static void
write_bars(const struct drawing *drawing, FILE *script)
{
    unsigned count = 0;
    fputs("$bars << END\n", script);
    for (unsigned i = 0; i < drawing->table->rows_count; i++) {
        const struct report_row *row = &drawing->table->rows[i];
        if (!row_drawn(drawing, row))
            continue;
        write_label(script, row->variant);
        write_point(script, &row->values[drawing->y]);
        fputc('\n', script);
        count++;
    }
    fprintf(script, "END\nset yrange [%u.6:-0.6]\nset style fill solid 0.55\n", count - 1);
    fputs("plot $bars using 2:0:(0):2:($0-0.35):($0+0.35):ytic(1) with boxxyerror lc rgb "
          "\"#0060a8\" notitle, $bars using 2:0:3:4 with xerrorbars pt 7 ps 0.3 lw 1.4 lc rgb "
          "\"#222222\" notitle\n",
          script);
}

/** Whether `x` lies between points that are drawn: beyond, gnuplot would draw over the legend. */
static bool
x_drawn(const struct drawing *drawing, double x)
{
    bool below = false, above = false;
    for (unsigned i = 0; i < drawing->table->rows_count; i++) {
        const struct report_row *row = &drawing->table->rows[i];
        if (!row_drawn(drawing, row))
            continue;
        below = below || row->values[drawing->x].median <= x;
        above = above || row->values[drawing->x].median >= x;
    }
    return below && above;
}

/** A line for each cache of the machine, where the working set leaves it. */
static void
write_caches(const struct drawing *drawing, const struct environment *environment, FILE *script)
{
    const double bytes_per_x = drawing->plot->cache_bytes_per_x;
    for (unsigned i = 0; i < environment->cache_count && bytes_per_x > 0; i++) {
        const double x = (double)environment->cache[i].bytes / bytes_per_x;
        if (!x_drawn(drawing, x))
            continue;
        fprintf(script,
                "set arrow from first %.10g, graph 0 to first %.10g, graph 1 nohead dt 3 lw 1.5 "
                "lc rgb \"#888888\" back\n"
                "set label \"L%u\" at first %.10g, graph 0.965 offset 0.4, 0 tc rgb \"#666666\"\n",
                x, x, environment->cache[i].level, x);
    }
}

static void
write_script(const struct drawing *drawing, const struct environment *environment, FILE *script)
{
    const struct report_plot *plot = drawing->plot;
    const bool bars = drawing->x < 0;
    fputs("set terminal svg size 960,540 dynamic font \"sans-serif,13\" background rgb \"white\" "
          "noenhanced\nset encoding utf8\nset grid back lc rgb \"#dddddd\"\n"
          "set key outside right top noenhanced\nset tics nomirror noenhanced\nset border 3\n",
          script);
    write_setting(script, "title", plot->title);
    write_setting(script, bars ? "xlabel" : "ylabel", plot->y_title);
    if (bars) {
        if (plot->options & REPORT_PLOT_LOG_Y)
            fputs("set logscale x\n", script);
        else
            fputs("set xrange [0:*]\n", script);
        write_bars(drawing, script);
        return;
    }
    write_setting(script, "xlabel", plot->x_title);
    if (plot->options & REPORT_PLOT_LOG_X)
        fputs("set logscale x\nset format x \"%.0s%c\"\n", script);
    if (plot->options & REPORT_PLOT_LOG_Y)
        fputs("set logscale y\n", script);
    else if (!(plot->options & REPORT_PLOT_NEAR))
        fputs("set yrange [0:*]\n", script);
    write_caches(drawing, environment, script);
    write_curves(drawing, script);
}

/* ---- running gnuplot ---------------------------------------------------------------------------
 */

/** Reads all of it, to be freed; NULL when it is nothing, too much, or memory is out. */
static char *
read_all(int fd)
{
    size_t bytes = 0, room = 65536;
    char *text = malloc(room);
    for (;;) {
        if (text == NULL)
            return NULL;
        const ssize_t got = read(fd, text + bytes, room - bytes - 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        bytes += (size_t)got;
        if (room - bytes < 2) {
            char *bigger = room < SVG_BYTES_MAX ? realloc(text, room * 2) : NULL;
            if (bigger == NULL)
                free(text);
            text = bigger;
            room *= 2;
        }
    }
    if (bytes == 0) {
        free(text);
        return NULL;
    }
    text[bytes] = '\0';
    return text;
}

/** Status 127 when there is no gnuplot, as with a shell. */
static _Noreturn void
become_gnuplot(FILE *script, int output)
{
    alarm(GNUPLOT_SECONDS_MAX);
    if (dup2(fileno(script), STDIN_FILENO) >= 0 && dup2(output, STDOUT_FILENO) >= 0)
        execlp("gnuplot", "gnuplot", "-", (char *)NULL);
    _exit(errno == ENOENT ? 127 : 126);
}

/** Runs the script; *status is gnuplot's exit status, or -1. */
static char *
run_gnuplot(FILE *script, int *status)
{
    int ends[2];
    *status = -1;
    rewind(script);
    /* It must not hold the end that we read from: it would write for ever when we have stopped. */
    if (pipe2(ends, O_CLOEXEC) != 0)
        return NULL;
    const pid_t child = fork();
    if (child == 0)
        become_gnuplot(script, ends[1]);
    close(ends[1]);
    char *text = child > 0 ? read_all(ends[0]) : NULL;
    close(ends[0]);
    int how = 0;
    while (child > 0 && waitpid(child, &how, 0) != child)
        ;
    if (child > 0 && WIFEXITED(how))
        *status = WEXITSTATUS(how);
    if (*status != 0) {
        free(text);
        text = NULL;
    }
    return text;
}

void
plot_all(struct report *report, const struct environment *environment,
         const struct report_plot *plots, char **svgs)
{
    int status = 0;
    for (unsigned i = 0; plots != NULL && plots[i].name != NULL && i < PLOTS_MAX; i++) {
        struct drawing drawing;
        FILE *script = drawing_begin(&drawing, report, &plots[i]) ? tmpfile() : NULL;
        if (script == NULL)
            continue;
        write_script(&drawing, environment, script);
        fflush(script);
        svgs[i] = run_gnuplot(script, &status);
        fclose(script);
        if (status == 127) {
            report_note(report, "no plots: gnuplot is not installed");
            return;
        }
        if (svgs[i] == NULL)
            report_note(report, "the plot %s could not be drawn: gnuplot ended with status %d",
                        plots[i].name, status);
    }
}
