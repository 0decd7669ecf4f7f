/*
 * Case `file`: a file of 100 MB, downloaded over HTTP from the http example and from nginx, and
 * what a gigabyte costs the server. nginx runs one worker, with sendfile and without a log, or
 * with sendfile off: then it reads and sends. All servers stand from the beginning to the end of
 * the run; each slice has connections of its own, on which the file is asked for again as soon as
 * it has come, and thrown away.
 *
 * The file is in memory (/dev/shm, or else the page cache): no disk is measured. The servers keep
 * the congestion control that the system gives them, as nobody can tell nginx another one.
 *
 * What it cannot show: anything but loopback. The kernel's work to receive a segment is done on the
 * CPU that sent it, and counts for the server here; that is most of what is measured.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench.h"
#include "download.h"
#include "machine.h"
#include "random.h"
#include "server.h"

#define FILE_BYTES ((size_t)100 * 1000 * 1000)
#define RATIO_MAX 1.0

enum metric { CPU_MS_PER_GB, GB_PER_SECOND, FILES, METRICS };

static const struct report_column columns[] = {
    {"connections", "connections", 0},
    {"cpu_ms_per_gb", "server CPU\nms per GB", 0},
    {"ratio_to_nginx", "CPU ratio\nto nginx", 3},
    {"gb_per_second", "GB/s", 2},
    {"whole_files", NULL, 0},
};
#define COLUMNS (sizeof columns / sizeof columns[0])

enum which { NGINX, NGINX_COPY, HTTP_URING, HTTP_EPOLL, NGINX_AGAIN, CONTESTANTS };

static const char *const names[CONTESTANTS] = {"nginx", "nginx-copy", "http-uring", "http-epoll",
                                               "nginx again"};

struct contestant {
    struct server_kind kind;
    struct server server;
    char command[2 * PATH_MAX];
};

static struct {
    char directory[64];
    char http[PATH_MAX]; /**< the example; empty: it was not found */
    struct contestant at[CONTESTANTS];
} files;

/* ---- what it takes ---------------------------------------------------------------------------
 */

/** Beside this program, where the build leaves it, or what BERTH_HTTP says. */
static void
find_http(void)
{
    const char *given = getenv("BERTH_HTTP");
    char self[PATH_MAX - 64];
    const ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (given != NULL) {
        snprintf(files.http, sizeof files.http, "%s", given);
        return;
    }
    self[length > 0 ? length : 0] = '\0';
    for (int up = 0; up < 2; up++) { /* libtool keeps the program one below */
        char *slash = strrchr(self, '/');
        if (slash == NULL)
            break;
        *slash = '\0';
        snprintf(files.http, sizeof files.http, "%s/docs/examples/http", self);
        if (access(files.http, X_OK) == 0)
            return;
    }
    files.http[0] = '\0';
}

static bool
has_nginx(void)
{
    return system("PATH=$PATH:/usr/sbin:/sbin command -v nginx > /dev/null 2>&1") == 0;
}

static int
write_all(int fd, const void *data, size_t length)
{
    for (const char *at = data; length > 0;) {
        const ssize_t put = write(fd, at, length);
        if (put < 0)
            return -errno;
        at += put;
        length -= (size_t)put;
    }
    return 0;
}

static int
write_file(void)
{
    static uint64_t block[1 << 14];
    char path[128];
    uint64_t seed = 1;
    snprintf(path, sizeof path, "%s/file", files.directory);
    const int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0)
        return -errno;
    for (size_t i = 0; i < sizeof block / sizeof block[0]; i++)
        block[i] = random_next(&seed);
    int error = 0;
    for (size_t left = FILE_BYTES; left > 0 && error == 0;) {
        const size_t length = left < sizeof block ? left : sizeof block;
        error = write_all(fd, block, length);
        left -= length;
    }
    close(fd);
    return error;
}

/** nginx's configuration, but for the port, which the command writes into it. */
static int
write_configuration(enum which which)
{
    char path[128];
    const char *directory = files.directory;
    snprintf(path, sizeof path, "%s/%d.in", directory, (int)which);
    FILE *out = fopen(path, "w");
    if (out == NULL)
        return -errno;
    fprintf(out,
            "daemon off; worker_processes 1; pid %s/%d.pid; error_log stderr crit;\n"
            "events { worker_connections 1024; }\n"
            "http { access_log off; sendfile %s; keepalive_requests 1000000000; root %s;\n",
            directory, (int)which, which == NGINX_COPY ? "off" : "on", directory);
    static const char *const temporaries[] = {"client_body", "proxy", "fastcgi", "uwsgi", "scgi"};
    for (size_t i = 0; i < sizeof temporaries / sizeof temporaries[0]; i++)
        fprintf(out, "%s_temp_path %s/%d.%s;\n", temporaries[i], directory, (int)which,
                temporaries[i]);
    fprintf(out, "server { listen 127.0.0.1:PORT; } }\n");
    return fclose(out) == 0 ? 0 : -errno;
}

static int
prepare(void)
{
    snprintf(files.directory, sizeof files.directory, "%s/berth-bench-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (mkdtemp(files.directory) == NULL)
        return -errno;
    if (chmod(files.directory, 0755) != 0) /* nginx's worker is somebody else */
        return -errno;
    return write_file();
}

static void
clean_up(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", files.directory);
    if (system(command) != 0)
        fprintf(stderr, "file: %s could not be removed\n", files.directory);
}

/* ---- servers ---------------------------------------------------------------------------------
 */

static int
start(struct bench *bench, enum which which)
{
    struct contestant *one = &files.at[which];
    const char *directory = files.directory;
    int error = 0;
    if (which == HTTP_URING || which == HTTP_EPOLL) {
        snprintf(one->command, sizeof one->command,
                 "exec '%s' --engine %s --root '%s' tcp://127.0.0.1:$PORT", files.http,
                 which == HTTP_URING ? "uring" : "epoll", directory);
    } else {
        error = write_configuration(which);
        snprintf(one->command, sizeof one->command,
                 "PATH=$PATH:/usr/sbin:/sbin; sed s/PORT/$PORT/ '%s/%d.in' > '%s/%d.conf' && "
                 "exec nginx -p '%s' -c '%s/%d.conf'",
                 directory, (int)which, directory, (int)which, directory, directory, (int)which);
    }
    one->kind = (struct server_kind){.name = names[which], .command = one->command};
    if (error == 0)
        error = server_start(&one->server, &one->kind, bench->environment.cpu_server);
    if (error != 0) {
        report_note(&bench->report, "%s was left out: %s", names[which], strerror(-error));
    }
    return error;
}

static int
measure(struct bench *bench, const struct bench_subject *subject, double *metrics)
{
    static struct download download;
    struct server_counters before, after;
    struct server *server = &((struct contestant *)(uintptr_t)subject->context)->server;
    int error = download_open(&download, server->control->port, "/file", subject->parameter);
    if (error == 0)
        error = server_counters_get(server, &before);
    if (error == 0)
        error =
            download_run(&download, machine_now_ns() + (uint64_t)(bench->options.seconds * 1e9));
    if (error == 0)
        error = server_counters_get(server, &after);
    download_close(&download);
    if (error != 0)
        return error;
    const double gigabytes = (double)download.bytes / 1e9;
    metrics[CPU_MS_PER_GB] = (double)(after.cpu_ns - before.cpu_ns) / 1e6 / gigabytes;
    metrics[GB_PER_SECOND] = gigabytes / ((double)(after.wall_ns - before.wall_ns) / 1e9);
    metrics[FILES] = (double)download.files;
    return 0;
}

/* ---- telling ---------------------------------------------------------------------------------
 */

static void
run_with(struct bench *bench, uint32_t conns, struct bench_samples *samples)
{
    struct bench_subject subjects[CONTESTANTS];
    enum which who[CONTESTANTS];
    unsigned count = 0;
    for (enum which which = NGINX; which < CONTESTANTS; which++) {
        if (files.at[which].server.control == NULL)
            continue;
        who[count] = which;
        subjects[count++] = (struct bench_subject){.name = names[which],
                                                   .measure = measure,
                                                   .context = &files.at[which],
                                                   .parameter = conns};
    }
    bench_rounds(bench, subjects, count, samples);
    const bool compared = count > 0 && who[0] == NGINX && !subjects[0].left_out;
    for (unsigned i = 0; i < count; i++) {
        const struct estimate ratio =
            compared ? bench_ratio(samples, i, 0, CPU_MS_PER_GB) : estimate_exact(NAN);
        const struct estimate values[COLUMNS] = {
            estimate_exact(conns), bench_estimate(samples, i, CPU_MS_PER_GB), ratio,
            bench_estimate(samples, i, GB_PER_SECOND), bench_median(samples, i, FILES)};
        char figure[64], text[96];
        if (subjects[i].left_out)
            continue;
        report_row(&bench->report, names[who[i]], values);
        if (compared && who[i] == NGINX_AGAIN) {
            snprintf(text, sizeof text, "nginx, %u connections", conns);
            report_control(&bench->report, text, ratio);
        }
        if (!compared || conns != 1 || (who[i] != HTTP_URING && who[i] != HTTP_EPOLL))
            continue;
        snprintf(figure, sizeof figure, "%s_cpu_to_nginx",
                 who[i] == HTTP_URING ? "uring_file" : "epoll_file");
        snprintf(text, sizeof text, "server CPU per GB of a 100 MB file, %s to nginx",
                 names[who[i]]);
        report_figure(&bench->report, figure, text, "", ratio, false, RATIO_MAX);
    }
}

static int
run(struct bench *bench)
{
    static struct bench_samples samples;
    const struct bench_numbers *conns = &bench->options.connections;
    memset(files.at, 0, sizeof files.at);
    find_http();
    if (files.http[0] == '\0')
        report_note(&bench->report, "the http example was left out: it is not beside berth-bench, "
                                    "and BERTH_HTTP in the environment does not name it");
    const bool nginx = has_nginx();
    if (!nginx)
        report_note(&bench->report, "nginx is not installed: there is nothing to compare with");
    int error = prepare();
    unsigned started = 0;
    for (enum which which = NGINX; which < CONTESTANTS && error == 0; which++) {
        const bool is_http = which == HTTP_URING || which == HTTP_EPOLL;
        if (bench_wants(bench, names[which == NGINX_AGAIN ? NGINX : which]) &&
            (is_http ? files.http[0] != '\0' : nginx))
            started += start(bench, which) == 0;
    }
    report_table_begin(&bench->report, "file", columns, COLUMNS);
    for (unsigned i = 0; i < conns->count && started > 0 && !machine_interrupted; i++)
        run_with(bench, bench_descriptors_fit(bench, conns->values[i], 1), &samples);
    for (enum which which = NGINX; which < CONTESTANTS; which++)
        if (files.at[which].server.control != NULL)
            server_stop(&files.at[which].server);
    clean_up();
    if (error != 0)
        return error;
    return bench->report.tables[0].rows_count > 0 ? 0 : -EIO;
}

static const char *
variant(unsigned at)
{
    return at < NGINX_AGAIN ? names[at] : NULL;
}

static const struct report_plot plots[] = {
    {
        .name = "file-cpu",
        .title = "Server's processor time per GB of a file: lower is better",
        .table = "file",
        .y = "cpu_ms_per_gb",
        .y_title = "ms per GB",
    },
    {.name = NULL},
};

const struct bench_case bench_case_file = {
    .name = "file",
    .summary = "a 100 MB file by HTTP: server CPU per GB, the http example beside nginx",
    .run = run,
    .variant = variant,
    .connections_max = DOWNLOAD_CONNS_MAX,
    .normal = {.rounds = 15, .seconds = 0.4, .connections = "1,8"},
    .quick = {.rounds = 1, .seconds = 0.1, .connections = "1"},
    .full = {.rounds = 31, .seconds = 1, .connections = "1,8,64"},
    .plots = plots,
};
