/* Lets the N-th call of a kind fail, where it is about a file below one folder.

   LD_PRELOAD=failing.so FAIL_UNDER=/a/folder FAIL_CALL=open|write|fsync|rename|unlink|make
   FAIL_AT=N FAIL_ERRNO=E. How many calls of each kind there were is written to the file FAIL_COUNT,
   where one is named, at the end. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const calls[] = {"open", "write", "fsync", "rename", "unlink", "make"};
enum { CALLS = sizeof calls / sizeof *calls };
static atomic_int seen[CALLS];

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int below(const char *path) {
    const char *under = getenv("FAIL_UNDER");
    size_t size = under ? strlen(under) : 0;
    return size && !strncmp(path, under, size) && (path[size] == '/' || !path[size]);
}

static int below_at(int folder, const char *path) {
    char link[64], place[PATH_MAX + 1];
    ssize_t size;
    if (path && path[0] == '/') return below(path);
    if (folder == AT_FDCWD) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    size = readlink(link, place, PATH_MAX);
    if (size < 0) return 0;
    place[size] = 0;
    return below(place);
}

static int fails(const char *call, int ours) {
    const char *chosen = getenv("FAIL_CALL"), *at = getenv("FAIL_AT");
    int kind = 0, number;
    if (!ours) return 0;
    while (strcmp(calls[kind], call)) kind++;
    number = atomic_fetch_add(&seen[kind], 1) + 1;
    if (!chosen || !at || strcmp(chosen, call) || number != atoi(at)) return 0;
    errno = atoi(getenv("FAIL_ERRNO"));
    return 1;
}

__attribute__((destructor)) static void told(void) {
    const char *place = getenv("FAIL_COUNT");
    FILE *out = place ? fopen(place, "w") : NULL;
    if (!out) return;
    for (int kind = 0; kind < CALLS; kind++) fprintf(out, "%s %d\n", calls[kind], seen[kind]);
    fclose(out);
}

#define OPENS(name)                                                        \
    int name(const char *path, int flags, ...) {                           \
        va_list more;                                                      \
        va_start(more, flags);                                             \
        int mode = va_arg(more, int);                                      \
        va_end(more);                                                      \
        if (fails("open", below_at(AT_FDCWD, path))) return -1;            \
        return REAL(name)(path, flags, mode);                              \
    }
OPENS(open)
OPENS(open64)

#define OPENS_AT(name)                                                     \
    int name(int folder, const char *path, int flags, ...) {               \
        va_list more;                                                      \
        va_start(more, flags);                                             \
        int mode = va_arg(more, int);                                      \
        va_end(more);                                                      \
        if (fails("open", below_at(folder, path))) return -1;              \
        return REAL(name)(folder, path, flags, mode);                      \
    }
OPENS_AT(openat)
OPENS_AT(openat64)

ssize_t write(int file, const void *data, size_t size) {
    return fails("write", below_at(file, NULL)) ? -1 : REAL(write)(file, data, size);
}

int fsync(int file) {
    return fails("fsync", below_at(file, NULL)) ? -1 : REAL(fsync)(file);
}

int syncfs(int file) {
    return fails("fsync", below_at(file, NULL)) ? -1 : REAL(syncfs)(file);
}

int rename(const char *from, const char *to) {
    return fails("rename", below(to)) ? -1 : REAL(rename)(from, to);
}

int unlink(const char *path) {
    return fails("unlink", below(path)) ? -1 : REAL(unlink)(path);
}

int unlinkat(int folder, const char *path, int flags) {
    return fails("unlink", below_at(folder, path)) ? -1 : REAL(unlinkat)(folder, path, flags);
}

int rmdir(const char *path) {
    return fails("unlink", below(path)) ? -1 : REAL(rmdir)(path);
}

int mkdir(const char *path, mode_t mode) {
    return fails("make", below(path)) ? -1 : REAL(mkdir)(path, mode);
}

int symlink(const char *to, const char *path) {
    return fails("make", below(path)) ? -1 : REAL(symlink)(to, path);
}

int linkat(int from_folder, const char *from, int folder, const char *path, int flags) {
    if (fails("make", below_at(folder, path))) return -1;
    return REAL(linkat)(from_folder, from, folder, path, flags);
}

int link(const char *from, const char *path) {
    return fails("make", below(path)) ? -1 : REAL(link)(from, path);
}
