// Put before libc by LD_PRELOAD: has the system's calls on files fail or do only a part of their work. What and when:
//   QUERN_FAULT_CALL   read, write (with pread, pwrite and what else does the same), fsync, rename, open, ftruncate, mmap
//                      (of files), fork, socketpair
//   QUERN_FAULT_AT     the call of that kind that it begins with, from 1; 0 = none, count only
//   QUERN_FAULT_ONCE   set: that call alone, not the later ones
//   QUERN_FAULT_HOW    a name from the table below; "short": reads and writes take at most 7 bytes; "interrupted": each
//                      call fails with EINTR once
//   QUERN_FAULT_PATH   only descriptors and names of paths that contain this
//   QUERN_FAULT_COUNT  a file whose length becomes the number of calls met
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

static const struct {
  const char *name;
  int error;
} errors[] = {{"EIO", EIO},       {"ENOSPC", ENOSPC}, {"EACCES", EACCES}, {"EDQUOT", EDQUOT},
              {"ENOMEM", ENOMEM}, {"EROFS", EROFS},   {"EAGAIN", EAGAIN}, {"EMFILE", EMFILE}};

static atomic_long calls;
static atomic_bool was_interrupted;

// The function that this one hides.
static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

static bool is_named(int fd, const char *path) {
  const char *part = getenv("QUERN_FAULT_PATH");
  char link[64], target[4096];
  if (!part) return true;
  if (path) return strstr(path, part) != NULL;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, target, sizeof target - 1);
  if (length < 0) return false;
  target[length] = '\0';
  return strstr(target, part) != NULL;
}

// Grows a file by a byte, by calls that nothing here hides.
static void count(void) {
  const char *path = getenv("QUERN_FAULT_COUNT");
  int (*open_file)(const char *, int, ...) = (int (*)(const char *, int, ...))real("open");
  ssize_t (*write_bytes)(int, const void *, size_t) = (ssize_t (*)(int, const void *, size_t))real("write");
  if (!path) return;
  int fd = open_file(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
  if (fd < 0 || write_bytes(fd, ".", 1) != 1) abort();
  close(fd);
}

// What happens to this call: nothing (0), an error, or -1 for a part of the work.
static int fate(const char *call, int fd, const char *path) {
  const char *wanted = getenv("QUERN_FAULT_CALL"), *at = getenv("QUERN_FAULT_AT"), *how = getenv("QUERN_FAULT_HOW");
  if (!wanted || strcmp(wanted, call) != 0 || !is_named(fd, path)) return 0;
  long number = atomic_fetch_add(&calls, 1) + 1, first = at ? strtol(at, NULL, 10) : 0;
  count();
  if (first == 0 || number < first || !how || (getenv("QUERN_FAULT_ONCE") && number > first)) return 0;
  if (strcmp(how, "short") == 0) return -1;
  if (strcmp(how, "interrupted") == 0) return atomic_exchange(&was_interrupted, !atomic_load(&was_interrupted)) ? 0 : EINTR;
  for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++)
    if (strcmp(how, errors[i].name) == 0) return errors[i].error;
  abort();
}

// Declares `next`, the hidden function, and returns from here when this call fails.
#define MEET(call, fd, path, result, name, ...)        \
  result (*next)(__VA_ARGS__);                         \
  *(void **)&next = real(name);                        \
  int fault = fate(call, fd, path);                    \
  if (fault > 0) return errno = fault, (result)-1

static size_t part(int fault, size_t size) { return fault < 0 && size > 7 ? 7 : size; }

ssize_t read(int fd, void *data, size_t size) {
  MEET("read", fd, NULL, ssize_t, "read", int, void *, size_t);
  return next(fd, data, part(fault, size));
}

ssize_t pread(int fd, void *data, size_t size, off_t offset) {
  MEET("read", fd, NULL, ssize_t, "pread", int, void *, size_t, off_t);
  return next(fd, data, part(fault, size), offset);
}

ssize_t pread64(int fd, void *data, size_t size, off64_t offset) {
  MEET("read", fd, NULL, ssize_t, "pread64", int, void *, size_t, off64_t);
  return next(fd, data, part(fault, size), offset);
}

ssize_t write(int fd, const void *data, size_t size) {
  MEET("write", fd, NULL, ssize_t, "write", int, const void *, size_t);
  return next(fd, data, part(fault, size));
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
  MEET("write", fd, NULL, ssize_t, "pwrite", int, const void *, size_t, off_t);
  return next(fd, data, part(fault, size), offset);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
  MEET("write", fd, NULL, ssize_t, "pwrite64", int, const void *, size_t, off64_t);
  return next(fd, data, part(fault, size), offset);
}

int fsync(int fd) {
  MEET("fsync", fd, NULL, int, "fsync", int);
  return next(fd);
}

int fdatasync(int fd) {
  MEET("fsync", fd, NULL, int, "fdatasync", int);
  return next(fd);
}

int rename(const char *from, const char *to) {
  MEET("rename", -1, to, int, "rename", const char *, const char *);
  return next(from, to);
}

int ftruncate(int fd, off_t size) {
  MEET("ftruncate", fd, NULL, int, "ftruncate", int, off_t);
  return next(fd, size);
}

int ftruncate64(int fd, off64_t size) {
  MEET("ftruncate", fd, NULL, int, "ftruncate64", int, off64_t);
  return next(fd, size);
}

// Of processes: no path says which.
pid_t fork(void) {
  pid_t (*next)(void);
  *(void **)&next = real("fork");
  int fault = fate("fork", -1, "");
  if (fault > 0) return errno = fault, -1;
  return next();
}

int socketpair(int domain, int type, int protocol, int sockets[2]) {
  MEET("socketpair", -1, "", int, "socketpair", int, int, int, int *);
  return next(domain, type, protocol, sockets);
}

static mode_t mode_of(int flags, va_list args) {
  return flags & (O_CREAT | O_TMPFILE) ? va_arg(args, mode_t) : 0;
}

int open(const char *path, int flags, ...) {
  va_list args;
  va_start(args, flags);
  mode_t mode = mode_of(flags, args);
  va_end(args);
  MEET("open", -1, path, int, "open", const char *, int, ...);
  return next(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
  va_list args;
  va_start(args, flags);
  mode_t mode = mode_of(flags, args);
  va_end(args);
  MEET("open", -1, path, int, "open64", const char *, int, ...);
  return next(path, flags, mode);
}

void *mmap(void *place, size_t size, int protection, int flags, int fd, off_t offset) {
  void *(*next)(void *, size_t, int, int, int, off_t);
  *(void **)&next = real("mmap");
  if (fd >= 0) {
    int fault = fate("mmap", fd, NULL);
    if (fault > 0) return errno = fault, MAP_FAILED;
  }
  return next(place, size, protection, flags, fd, offset);
}
