/*
 * The files of the http example: opening them below one directory and nowhere else, and keeping the
 * small ones in memory, ready to be sent to any number of connections without copying.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef HTTP_FILES_H
#define HTTP_FILES_H

#include <stdint.h>
#include <time.h>

#include <berth/pool.h>

/** A file to be served. Whoever got it owns the reference in `content`, and the descriptor. */
struct http_file {
    struct berth_lease content; /**< of a small file; none: read it from `fd`, or it is empty */
    int fd;                     /**< of a big file; -1 otherwise */
    uint64_t bytes;
    time_t modified;
    const char *type; /**< for Content-Type; static text */
};

/** Serves files below the directory `root`. 0 or -errno. */
int http_files_open(struct berth_pool *pool, const char *root);

/**
 * Finds the regular file `path`, relative and without a part that begins with a dot. Symbolic links
 * are not followed. A file that has changed is noticed within a second.
 * @return 0, or the status to answer with: 404 or 503.
 */
int http_file_get(const char *path, int64_t now_ms, struct http_file *file);

/** Gives up what is kept; what is being sent lives until it has been sent. */
void http_files_close(void);

#endif
