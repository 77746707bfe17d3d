/* What a disk and a clock can do to a program, from outside of it.
 *
 * Loaded before libc (LD_PRELOAD), this stands between a program and everything that changes or
 * syncs what lies below one directory: its own writes and those of the libraries in it. Each such
 * operation is counted, and may be listed, fail, be delayed, or be left out. The environment says
 * what is to happen:
 *
 *   PASSERELLE_OUTSIDE_BELOW=DIR             the directory; without it, nothing of the disk
 *   PASSERELLE_OUTSIDE_FAIL=17:eio:lost      the 17th operation fails and does not happen
 *   PASSERELLE_OUTSIDE_FAIL=17:enospc:persisted   it fails, and happens all the same
 *   PASSERELLE_OUTSIDE_KILL=17               before the 17th operation the program is killed
 *   PASSERELLE_OUTSIDE_LIST=FILE             each operation is appended, as "sync /data/f"
 *   PASSERELLE_OUTSIDE_SYNC_MS=1000          each sync takes so much longer
 *   PASSERELLE_OUTSIDE_OMIT=TEXT             syncs of what has this in its path do nothing
 *   PASSERELLE_OUTSIDE_CLOCK=FILE            seconds to add to the wall clock, read at every look
 *
 * A program that calls the kernel past libc is not seen.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* Room for two paths, one after the other. */
#define PATH_ROOM (2 * PATH_MAX)

static const char *below;
static size_t below_length;
static unsigned long fail_at;
static int fail_with;
static int fail_persisted;
static unsigned long kill_at;
static int list = -1;
static long sync_ms;
static const char *omit;
static int clock_file = -1;
static unsigned long counted;

__attribute__((constructor)) static void begin(void) {
  char error[16] = "", flavour[16] = "";
  const char *text = getenv("PASSERELLE_OUTSIDE_FAIL");
  if (text != NULL && sscanf(text, "%lu:%15[a-z]:%15[a-z]", &fail_at, error, flavour) != 3) {
    static const char wrong[] = "PASSERELLE_OUTSIDE_FAIL is no fault: write 17:eio:lost\n";
    (void)!syscall(SYS_write, 2, wrong, sizeof wrong - 1);
    _exit(64);
  }
  fail_with = strcmp(error, "enospc") == 0 ? ENOSPC : EIO;
  fail_persisted = strcmp(flavour, "persisted") == 0;
  if ((text = getenv("PASSERELLE_OUTSIDE_KILL")) != NULL)
    kill_at = strtoul(text, NULL, 10);
  if ((text = getenv("PASSERELLE_OUTSIDE_LIST")) != NULL) {
    int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC;
    list = (int)syscall(SYS_openat, AT_FDCWD, text, flags, 0600);
  }
  if ((text = getenv("PASSERELLE_OUTSIDE_SYNC_MS")) != NULL)
    sync_ms = atol(text);
  omit = getenv("PASSERELLE_OUTSIDE_OMIT");
  if ((text = getenv("PASSERELLE_OUTSIDE_CLOCK")) != NULL)
    clock_file = (int)syscall(SYS_openat, AT_FDCWD, text, O_RDONLY | O_CLOEXEC, 0);
  /* Programs that this one starts are left alone. */
  unsetenv("LD_PRELOAD");
  if ((below = getenv("PASSERELLE_OUTSIDE_BELOW")) != NULL)
    below_length = strlen(below);
}

/* Whether a path is the directory or below it. */
static int is_below(const char *path) {
  if (below == NULL || strncmp(path, below, below_length) != 0)
    return 0;
  return path[below_length] == '\0' || path[below_length] == '/';
}

static int path_of_link(const char *link, char *path) {
  ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
  path[length < 0 ? 0 : length] = '\0';
  return length > 0 && is_below(path);
}

/* The path of an open file; whether it is below the directory. */
static int path_of_file(int file, char *path) {
  char link[32];
  if (below == NULL)
    return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  return path_of_link(link, path);
}

/* The path of a name in a directory; whether it is below the directory. */
static int path_of_name(int directory, const char *name, char *path) {
  if (below == NULL || name == NULL)
    return 0;
  if (name[0] == '/') {
    snprintf(path, PATH_ROOM, "%s", name);
    return is_below(path);
  }
  int inside = directory == AT_FDCWD ? path_of_link("/proc/self/cwd", path)
                                     : path_of_file(directory, path);
  size_t length = strlen(path);
  snprintf(path + length, PATH_ROOM - length, "/%s", name);
  return inside;
}

/* Counts and lists an operation; whether it is the one that fails. */
static int is_chosen(const char *operation, const char *path) {
  unsigned long number = __atomic_add_fetch(&counted, 1, __ATOMIC_SEQ_CST);
  char line[PATH_ROOM + 64];
  if (list >= 0) {
    int length = snprintf(line, sizeof line, "%s %s\n", operation, path);
    (void)!syscall(SYS_write, list, line, (size_t)length);
  }
  if (number == kill_at)
    (void)kill(getpid(), SIGKILL);
  if (number != fail_at)
    return 0;
  int length = snprintf(line, sizeof line,
                        "operation %lu, %s %s, fails, as PASSERELLE_OUTSIDE_FAIL says\n", number,
                        operation, path);
  (void)!syscall(SYS_write, 2, line, (size_t)length);
  return 1;
}

/* Does an operation below the directory, or fails it; elsewhere it is done. */
#define RUN(operation, path, is_inside, call)                                                      \
  do {                                                                                             \
    if (!(is_inside) || !is_chosen(operation, path))                                               \
      return call;                                                                                 \
    if (fail_persisted)                                                                            \
      (void)!call;                                                                                 \
    errno = fail_with;                                                                             \
    return -1;                                                                                     \
  } while (0)

static int opened(int directory, const char *name, int flags, mode_t mode) {
  char path[PATH_ROOM];
  int changes = (flags & (O_CREAT | O_TRUNC)) != 0 || (flags & O_TMPFILE) == O_TMPFILE;
  if (!changes || !path_of_name(directory, name, path) || !is_chosen("create", path))
    return (int)syscall(SYS_openat, directory, name, flags, mode);
  if (fail_persisted) {
    int file = (int)syscall(SYS_openat, directory, name, flags, mode);
    if (file >= 0)
      syscall(SYS_close, file);
  }
  errno = fail_with;
  return -1;
}

#define MODE(flags, last)                                                                          \
  mode_t mode = 0;                                                                                 \
  if (((flags) & O_CREAT) || ((flags) & O_TMPFILE) == O_TMPFILE) {                                 \
    va_list rest;                                                                                  \
    va_start(rest, last);                                                                          \
    mode = va_arg(rest, mode_t);                                                                   \
    va_end(rest);                                                                                  \
  }

#define OPEN(name)                                                                                 \
  int name(const char *path, int flags, ...) {                                                     \
    MODE(flags, flags)                                                                             \
    return opened(AT_FDCWD, path, flags, mode);                                                    \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                               \
  int name(int directory, const char *path, int flags, ...) {                                      \
    MODE(flags, flags)                                                                             \
    return opened(directory, path, flags, mode);                                                   \
  }
OPENAT(openat)
OPENAT(openat64)

#define CREAT(name)                                                                                \
  int name(const char *path, mode_t mode) {                                                        \
    return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);                             \
  }
CREAT(creat)
CREAT(creat64)

ssize_t write(int file, const void *bytes, size_t length) {
  char path[PATH_ROOM];
  RUN("write", path, path_of_file(file, path), syscall(SYS_write, file, bytes, length));
}

ssize_t writev(int file, const struct iovec *parts, int count) {
  char path[PATH_ROOM];
  RUN("write", path, path_of_file(file, path), syscall(SYS_writev, file, parts, count));
}

#define PWRITE(name)                                                                               \
  ssize_t name(int file, const void *bytes, size_t length, off64_t at) {                           \
    char path[PATH_ROOM];                                                                          \
    RUN("write", path, path_of_file(file, path), syscall(SYS_pwrite64, file, bytes, length, at));  \
  }
PWRITE(pwrite)
PWRITE(pwrite64)

#define PWRITEV(name)                                                                              \
  ssize_t name(int file, const struct iovec *parts, int count, off64_t at) {                       \
    char path[PATH_ROOM];                                                                          \
    RUN("write", path, path_of_file(file, path),                                                   \
        syscall(SYS_pwritev, file, parts, count, at, 0));                                          \
  }
PWRITEV(pwritev)
PWRITEV(pwritev64)

/* A sync that is left out has been counted; one that is delayed fails or not after the delay. */
static int is_omitted(const char *path) { return omit != NULL && strstr(path, omit) != NULL; }

static void delay(void) {
  struct timespec left = {sync_ms / 1000, sync_ms % 1000 * 1000000};
  while (sync_ms > 0 && nanosleep(&left, &left) != 0 && errno == EINTR)
    ;
}

#define SYNC(call)                                                                                 \
  char path[PATH_ROOM];                                                                            \
  if (!path_of_file(file, path))                                                                   \
    return (int)call;                                                                              \
  int chosen = is_chosen("sync", path);                                                            \
  delay();                                                                                         \
  int done = (chosen && !fail_persisted) || is_omitted(path) ? 0 : (int)call;                      \
  if (!chosen)                                                                                     \
    return done;                                                                                   \
  errno = fail_with;                                                                               \
  return -1;

int fsync(int file) { SYNC(syscall(SYS_fsync, file)) }

int fdatasync(int file) { SYNC(syscall(SYS_fdatasync, file)) }

int sync_file_range(int file, off64_t from, off64_t length, unsigned int flags) {
  SYNC(syscall(SYS_sync_file_range, file, from, length, flags))
}

int renameat2(int from_directory, const char *from, int to_directory, const char *to,
              unsigned int flags) {
  char path[PATH_ROOM], other[PATH_ROOM];
  int inside = path_of_name(to_directory, to, other);
  inside |= path_of_name(from_directory, from, path);
  RUN("rename", path, inside,
      (int)syscall(SYS_renameat2, from_directory, from, to_directory, to, flags));
}

int renameat(int from_directory, const char *from, int to_directory, const char *to) {
  return renameat2(from_directory, from, to_directory, to, 0);
}

int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }

int unlinkat(int directory, const char *name, int flags) {
  char path[PATH_ROOM];
  RUN("remove", path, path_of_name(directory, name, path),
      (int)syscall(SYS_unlinkat, directory, name, flags));
}

int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }

int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int mkdirat(int directory, const char *name, mode_t mode) {
  char path[PATH_ROOM];
  RUN("create", path, path_of_name(directory, name, path),
      (int)syscall(SYS_mkdirat, directory, name, mode));
}

int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }

int linkat(int from_directory, const char *from, int to_directory, const char *to, int flags) {
  char path[PATH_ROOM];
  RUN("link", path, path_of_name(to_directory, to, path),
      (int)syscall(SYS_linkat, from_directory, from, to_directory, to, flags));
}

int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int symlinkat(const char *target, int directory, const char *name) {
  char path[PATH_ROOM];
  RUN("link", path, path_of_name(directory, name, path),
      (int)syscall(SYS_symlinkat, target, directory, name));
}

int symlink(const char *target, const char *name) { return symlinkat(target, AT_FDCWD, name); }

#define FTRUNCATE(name)                                                                            \
  int name(int file, off64_t length) {                                                             \
    char path[PATH_ROOM];                                                                          \
    RUN("truncate", path, path_of_file(file, path), (int)syscall(SYS_ftruncate, file, length));    \
  }
FTRUNCATE(ftruncate)
FTRUNCATE(ftruncate64)

#define FALLOCATE(name)                                                                            \
  int name(int file, int mode, off64_t at, off64_t length) {                                       \
    char path[PATH_ROOM];                                                                          \
    RUN("allocate", path, path_of_file(file, path),                                                \
        (int)syscall(SYS_fallocate, file, mode, at, length));                                      \
  }
FALLOCATE(fallocate)
FALLOCATE(fallocate64)

#define COPY(name)                                                                                 \
  ssize_t name(int from, off64_t *from_at, int file, off64_t *at, size_t length,                   \
               unsigned int flags) {                                                               \
    char path[PATH_ROOM];                                                                          \
    RUN("write", path, path_of_file(file, path),                                                   \
        syscall(SYS_copy_file_range, from, from_at, file, at, length, flags));                     \
  }
COPY(copy_file_range)

/* Seconds that the wall clock is to be wrong by. */
static long offset(void) {
  char text[24] = "";
  if (clock_file < 0 || syscall(SYS_pread64, clock_file, text, sizeof text - 1, 0) <= 0)
    return 0;
  return atol(text);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  int done = (int)syscall(SYS_clock_gettime, clock, now);
  if (done == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
    now->tv_sec += offset();
  return done;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  int done = (int)syscall(SYS_gettimeofday, now, zone);
  if (done == 0)
    now->tv_sec += offset();
  return done;
}

time_t time(time_t *into) {
  struct timespec now;
  (void)clock_gettime(CLOCK_REALTIME, &now);
  if (into != NULL)
    *into = now.tv_sec;
  return now.tv_sec;
}
