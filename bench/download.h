/*
 * A client that downloads one file over HTTP/1.1, on several connections at once, again and again,
 * and throws it away: for case `file`.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_DOWNLOAD_H
#define BENCH_DOWNLOAD_H

#include <stdint.h>

#define DOWNLOAD_CONNS_MAX 1024u

struct download_connection {
    int fd;
    uint64_t left; /**< of the file; 0: the next thing to come is a head */
    uint32_t head; /**< bytes of it in `text` */
    char text[1024];
};

struct download {
    const char *path; /**< "/file" */
    unsigned count;
    uint64_t bytes; /**< of files, that have come */
    uint64_t files; /**< whole ones */
    struct download_connection at[DOWNLOAD_CONNS_MAX];
};

/** Connects `count` times to that port of 127.0.0.1, and asks for nothing yet. 0 or -errno. */
int download_open(struct download *download, uint16_t port, const char *path, unsigned count);

/**
 * Downloads until the clock says `until_ns`, or it is interrupted. 0; -EPROTO: that was no answer
 * with status 200 and a length; -ECONNRESET: the server closed; or another -errno.
 */
int download_run(struct download *download, uint64_t until_ns);

/** Resets every connection. */
void download_close(struct download *download);

#endif
