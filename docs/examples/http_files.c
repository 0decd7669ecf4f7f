/*
 * The files of the http example; see http_files.h. Small files live in blocks of malloc'd memory
 * that berth_wrap makes leases of: the cache holds one reference and each response that is under
 * way another, so a file that changes or falls out of the cache is freed when its last response is
 * sent.
 *
 * The cache has one place per hash value: what comes later takes the place. So it is bounded, and
 * there is nothing to be walked, aged or rebalanced.
 *
 * SPDX-License-Identifier: MIT
 */
#include "http_files.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "http_request.h"

#define CACHE_PLACES 1024 /* a power of two; times CACHED_BYTES_MAX: at most 64 MiB */
#define CACHED_BYTES_MAX (64 * 1024)
#define FRESH_MS 1000 /* how long a file is taken to be what it was */

struct place {
    char path[HTTP_PATH_BYTES_MAX];
    struct berth_lease content;
    struct stat stat;
    int64_t checked_ms;
};

static struct {
    struct berth_pool *pool;
    int root_fd;
    struct place *places[CACHE_PLACES];
} files = {.root_fd = -1};

static const char *
content_type(const char *path)
{
    static const struct {
        const char *extension;
        const char *type;
    } types[] = {
        {"html", "text/html; charset=utf-8"},
        {"htm", "text/html; charset=utf-8"},
        {"css", "text/css; charset=utf-8"},
        {"js", "text/javascript; charset=utf-8"},
        {"txt", "text/plain; charset=utf-8"},
        {"md", "text/plain; charset=utf-8"},
        {"json", "application/json"},
        {"xml", "application/xml"},
        {"pdf", "application/pdf"},
        {"wasm", "application/wasm"},
        {"svg", "image/svg+xml"},
        {"png", "image/png"},
        {"jpg", "image/jpeg"},
        {"jpeg", "image/jpeg"},
        {"gif", "image/gif"},
        {"webp", "image/webp"},
        {"ico", "image/x-icon"},
        {"woff2", "font/woff2"},
    };
    const char *name = strrchr(path, '/') != NULL ? strrchr(path, '/') + 1 : path;
    const char *dot = strrchr(name, '.');

    for (size_t i = 0; dot != NULL && i < sizeof(types) / sizeof(types[0]); i++) {
        if (strcasecmp(dot + 1, types[i].extension) == 0)
            return types[i].type;
    }
    return "application/octet-stream";
}

/* ---- opening ------------------------------------------------------------------------------ */

/*
 * Goes down one directory at a time and follows no link, so that nothing outside of the root can be
 * reached, whatever is renamed meanwhile. Returns a descriptor, or -errno.
 */
static int
open_below(const char *path)
{
    char part[HTTP_PATH_BYTES_MAX];
    int directory = files.root_fd;

    for (;;) {
        path += strspn(path, "/");
        const size_t length = strcspn(path, "/");
        const int is_last = path[length] == '\0';
        assert(length < sizeof(part));
        memcpy(part, path, length);
        part[length] = '\0';
        /* A FIFO must not keep us waiting for somebody to open its other end. */
        const int fd =
            openat(directory, part,
                   O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | (is_last ? 0 : O_DIRECTORY));
        const int error = errno;
        if (directory != files.root_fd)
            close(directory);
        if (fd < 0 || is_last)
            return fd < 0 ? -error : fd;
        directory = fd;
        path += length;
    }
}

static int
status_of(int error)
{
    return error == -EMFILE || error == -ENFILE || error == -ENOMEM || error == -ENOBUFS ? 503
                                                                                         : 404;
}

/* ---- keeping ------------------------------------------------------------------------------ */

static struct place **
place_of(const char *path)
{
    uint32_t hash = 2166136261u; /* FNV-1a; who aims at a place only slows that one file down */

    for (; *path != '\0'; path++)
        hash = (hash ^ (unsigned char)*path) * 16777619u;
    return &files.places[hash % CACHE_PLACES];
}

static void
place_clear(struct place **place)
{
    if (*place == NULL)
        return;
    berth_release(files.pool, (*place)->content);
    free(*place);
    *place = NULL;
}

static void
content_free(void *data, size_t length, void *context)
{
    (void)length;
    (void)context;
    free(data);
}

/* Reads the whole file into memory that is ready to be sent. Returns 0 or -errno. */
static int
content_read(int fd, size_t bytes, struct berth_lease *content)
{
    size_t used = 0;
    char *data = malloc(bytes);

    if (data == NULL)
        return -ENOMEM;
    while (used < bytes) {
        const ssize_t got = read(fd, data + used, bytes - used);
        if (got <= 0)
            break; /* it shrinks under our hands */
        used += (size_t)got;
    }
    const int error =
        used < bytes ? -EIO : berth_wrap(files.pool, data, bytes, content_free, NULL, content);
    if (error != 0)
        free(data);
    return error;
}

static int
is_unchanged(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

/* Puts a small file, open as `fd`, into the place. Returns 0 or -errno. */
static int
place_fill(struct place **place, const char *path, int fd, const struct stat *stat)
{
    struct place *filled = calloc(1, sizeof(*filled));

    if (filled == NULL)
        return -ENOMEM;
    const int error = content_read(fd, (size_t)stat->st_size, &filled->content);
    if (error != 0) {
        free(filled);
        return error;
    }
    strcpy(filled->path, path); /* http_path has seen to its length */
    filled->stat = *stat;
    place_clear(place);
    *place = filled;
    return 0;
}

static int
file_share(const struct place *place, struct http_file *file)
{
    file->content = place->content;
    return berth_lease_share(files.pool, place->content) == 0 ? 0 : 503;
}

/* Looks at the file itself, and at the place only if it still holds the same. */
static int
file_load(const char *path, int64_t now_ms, struct place **place, struct http_file *file)
{
    struct stat stat;

    const int fd = open_below(path);
    if (fd < 0 || fstat(fd, &stat) != 0 || !S_ISREG(stat.st_mode)) {
        if (fd >= 0)
            close(fd);
        return fd < 0 ? status_of(fd) : 404;
    }
    file->bytes = (uint64_t)stat.st_size;
    file->modified = stat.st_mtim.tv_sec;
    if (stat.st_size > CACHED_BYTES_MAX) {
        file->fd = fd;
        return 0;
    }
    int error = 0;
    if (stat.st_size > 0 && (*place == NULL || strcmp((*place)->path, path) != 0 ||
                             !is_unchanged(&(*place)->stat, &stat)))
        error = place_fill(place, path, fd, &stat);
    close(fd);
    if (error != 0)
        return status_of(error);
    if (stat.st_size == 0)
        return 0;
    assert(*place != NULL);
    (*place)->checked_ms = now_ms;
    return file_share(*place, file);
}

int
http_file_get(const char *path, int64_t now_ms, struct http_file *file)
{
    struct place **place = place_of(path);

    *file = (struct http_file){.fd = -1, .type = content_type(path)};
    if (*place == NULL || strcmp((*place)->path, path) != 0 ||
        now_ms - (*place)->checked_ms >= FRESH_MS)
        return file_load(path, now_ms, place, file);
    file->bytes = (uint64_t)(*place)->stat.st_size;
    file->modified = (*place)->stat.st_mtim.tv_sec;
    return file_share(*place, file);
}

int
http_files_open(struct berth_pool *pool, const char *root)
{
    files.pool = pool;
    files.root_fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return files.root_fd < 0 ? -errno : 0;
}

void
http_files_close(void)
{
    for (size_t i = 0; i < CACHE_PLACES; i++)
        place_clear(&files.places[i]);
    close(files.root_fd);
    files.root_fd = -1;
}
