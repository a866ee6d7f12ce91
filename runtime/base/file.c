// Files by way of the operating system: mappings, whole reads, and writes that appear whole or not at all.
#include "runtime/base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base/str.h"

// What a person can do about an errno; "" where the system's own words say it all.
static const char *advice(int error) {
  switch (error) {
    case ENOENT: return "; check the spelling and the current folder";
    case EACCES:
    case EPERM: return "; check the permissions of the file and of its folder";
    case ENOSPC: return "; free some space there or choose another place";
    case EDQUOT: return "; free some of your quota or choose another place";
    case EROFS: return "; choose a place that can be written";
    case EMFILE:
    case ENFILE: return "; raise the limit of open files (ulimit -n)";
    case ENOMEM: return "; close other programs or raise the memory limit (ulimit -v)";
    case EFBIG: return "; raise the limit of file sizes (ulimit -f) or choose another file system";
    default: return "";
  }
}

static qn_status fail_errno(qn_diag *diag, const char *path, const char *action, int error) {
  qn_status status = error == ENOMEM ? QN_ERR_NOMEM : QN_ERR_IO;
  return qn_fail(diag, status, path, "cannot %s: %s%s", action, strerror(error), advice(error));
}

// ---------------------------------------------------------------------------------------------------------------
// Reading

bool qn_file_is_there(const char *path) {
  struct stat info;
  return lstat(path, &info) == 0 || (errno != ENOENT && errno != ENOTDIR);
}

// Non-blocking, so that a pipe without a writer is refused by examine() instead of waited for.
static int open_to_read(const char *path) { return open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); }

// Refuses what is no regular file.
static qn_status examine(int fd, const char *name, struct stat *out_info, qn_diag *diag) {
  if (fstat(fd, out_info) != 0) return fail_errno(diag, name, "examine", errno);
  if (S_ISDIR(out_info->st_mode)) return qn_fail(diag, QN_ERR_IO, name, "is a folder; want a file");
  if (!S_ISREG(out_info->st_mode)) return qn_fail(diag, QN_ERR_IO, name, "is a pipe or a device; want a file");
  return QN_OK;
}

qn_status qn_mapping_open(qn_mapping *mapping, const char *path, qn_diag *diag) {
  *mapping = (qn_mapping){0};
  int fd = open_to_read(path);
  if (fd < 0) return fail_errno(diag, path, "open", errno);
  qn_status status = qn_mapping_open_fd(mapping, fd, path, diag);
  close(fd);
  return status;
}

qn_status qn_mapping_open_fd(qn_mapping *mapping, int fd, const char *name, qn_diag *diag) {
  struct stat info;
  *mapping = (qn_mapping){0};
  QN_TRY(examine(fd, name, &info, diag));
  if (info.st_size == 0) return qn_fail(diag, QN_ERR_FORMAT, name, "the file is empty");
  if ((uintmax_t)info.st_size > SIZE_MAX) {
    return qn_fail(diag, QN_ERR_LIMIT, name, "the file has %lld bytes, more than an address can hold",
                   (long long)info.st_size);
  }
  void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (data == MAP_FAILED) return fail_errno(diag, name, "map", errno);
  mapping->data = data;
  mapping->size = (size_t)info.st_size;
  mapping->guard = qn_guard_open(data, mapping->size);
  if (mapping->guard) return QN_OK;
  qn_mapping_close(mapping);
  return qn_fail_nomem(diag, name, "a mapping");
}

// Memory with the same bytes in place of the file's pages [begin, end), which are whole ones; the last page may be
// longer than the file.
static qn_status keep_pages(qn_mapping *mapping, size_t begin, size_t end, const char *name, qn_diag *diag) {
  if (begin >= end) return QN_OK;
  size_t count = (end < mapping->size ? end : mapping->size) - begin;
  void *memory = mmap(NULL, end - begin, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return qn_fail_nomem(diag, name, "the file's head");
  memcpy(memory, mapping->data + begin, count);
  void *place = (void *)(uintptr_t)(mapping->data + begin);
  if (mprotect(memory, end - begin, PROT_READ) == 0 &&
      mremap(memory, end - begin, end - begin, MREMAP_MAYMOVE | MREMAP_FIXED, place) == place) {
    return QN_OK;
  }
  munmap(memory, end - begin);
  return qn_fail_nomem(diag, name, "the file's head");
}

qn_status qn_mapping_keep_but(qn_mapping *mapping, size_t begin, size_t end, const char *name, qn_diag *diag) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE), all = qn_align_up(mapping->size, page);
  begin = qn_align_up(begin, page);
  end -= end % page;
  if (end < begin) begin = end = all;
  QN_TRY(keep_pages(mapping, 0, begin, name, diag));
  QN_TRY(keep_pages(mapping, end, all, name, diag));
  QN_TRY(qn_mapping_check(mapping, name, diag));
  if (mapping->guard) qn_guard_narrow(mapping->guard, mapping->data + begin, end - begin);
  return QN_OK;
}

qn_status qn_mapping_check(const qn_mapping *mapping, const char *name, qn_diag *diag) {
  if (!qn_guard_lost(mapping->guard)) return QN_OK;
  return qn_fail(diag, QN_ERR_IO, name,
                 "the file lost bytes while it was in use, want all %zu: it became shorter or its disk failed; replace "
                 "files by renaming others into their place, not by writing into them",
                 mapping->size);
}

void qn_mapping_close(qn_mapping *mapping) {
  qn_guard_close(mapping->guard);
  if (mapping->data) munmap((void *)(uintptr_t)mapping->data, mapping->size);
  *mapping = (qn_mapping){0};
}

// Reads a descriptor to its end. The buffer always has room for a NUL behind the bytes.
static qn_status read_all(int fd, const char *name, size_t most, qn_buf *buf, qn_diag *diag) {
  char *chunk = malloc(1 << 16);
  if (!chunk) return qn_fail_nomem(diag, name, "reading");
  qn_status status = QN_OK;
  for (;;) {
    ssize_t count = read(fd, chunk, 1 << 16);
    if (count == 0) break;
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      status = fail_errno(diag, name, "read", errno);
      break;
    }
    if ((size_t)count > most - buf->length) {
      status = qn_fail(diag, QN_ERR_LIMIT, name, "got more than %zu bytes, want at most %zu; is it the right file?",
                       most, most);
      break;
    }
    qn_buf_append(buf, chunk, (size_t)count);
    if (buf->failed) {
      status = qn_fail_nomem(diag, name, "the file's text");
      break;
    }
  }
  free(chunk);
  return status;
}

qn_status qn_file_read(const char *path, size_t most, const qn_allocator *allocator, char **out_data, size_t *out_size,
                       qn_diag *diag) {
  bool is_stdin = strcmp(path, "-") == 0;
  const char *name = is_stdin ? "standard input" : path;
  *out_data = NULL;
  *out_size = 0;
  struct stat info;
  int fd = is_stdin ? STDIN_FILENO : open_to_read(path);
  if (fd < 0) return fail_errno(diag, name, "open", errno);
  qn_buf buf;
  qn_buf_init(&buf, allocator);
  qn_status status = is_stdin ? QN_OK : examine(fd, name, &info, diag);
  if (status == QN_OK && !is_stdin && (uintmax_t)info.st_size > most) {  // before reading any of it
    status = qn_fail(diag, QN_ERR_LIMIT, name, "got %lld bytes, want at most %zu; is it the right file?",
                     (long long)info.st_size, most);
  }
  if (status == QN_OK) status = read_all(fd, name, most, &buf, diag);
  if (!is_stdin) close(fd);
  if (status == QN_OK) {  // exactly size + 1 bytes, so that the caller knows what to free
    char *data = qn_realloc(allocator, buf.data, buf.capacity, buf.length + 1);
    if (data) {
      data[buf.length] = '\0';
      *out_data = data;
      *out_size = buf.length;
      return QN_OK;
    }
    status = qn_fail_nomem(diag, name, "the file's text");
  }
  qn_buf_deinit(&buf);
  return status;
}

// ---------------------------------------------------------------------------------------------------------------
// Writing

#define TEMPORARY ".tmp."  // between a path and what makes the name of a file that is being written

// The place that a path means: a symbolic link's target, so that the rename replaces that and not the link.
// NULL when out of memory.
static char *final_path(const char *path) {
  struct stat info;
  if (lstat(path, &info) == 0 && S_ISLNK(info.st_mode)) {
    char *target = realpath(path, NULL);
    if (target) return target;
  }
  return strdup(path);
}

// Holds the new file as long as it is open, which tells others (remove_orphans) that somebody writes it; a process that
// is killed lets go. False when it is theirs already: somebody took it for an orphan before it was held. File systems
// without locks leave orphans.
static bool hold(int fd) {
  struct stat info;
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) return errno != EWOULDBLOCK;
  return fstat(fd, &info) == 0 && info.st_nlink > 0;
}

static void remove_orphan(int folder, const char *name) {
  struct stat info, now;
  int fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
  if (fd < 0) return;
  bool orphan = fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && flock(fd, LOCK_EX | LOCK_NB) == 0;
  // The name may mean another file by now.
  if (orphan && fstatat(folder, name, &now, AT_SYMLINK_NOFOLLOW) == 0 && now.st_ino == info.st_ino)
    unlinkat(folder, name, 0);
  close(fd);
}

// ".tmp.<pid>.<number>", as open_temporary has it.
static bool is_temporary_suffix(const char *text) {
  if (strncmp(text, TEMPORARY, sizeof TEMPORARY - 1) != 0) return false;
  text += sizeof TEMPORARY - 1;
  size_t pid = strspn(text, "0123456789");
  if (pid == 0 || text[pid] != '.') return false;
  text += pid + 1;
  size_t number = strspn(text, "0123456789");
  return number > 0 && text[number] == '\0';
}

// Removes what writers of the same path left there that were killed. What cannot be removed stays.
static void remove_orphans(const char *path) {
  const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
  size_t length = strlen(base);
  char *name = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
  DIR *folder = name ? opendir(name) : NULL;
  const struct dirent *entry;
  free(name);
  if (!folder) return;
  while ((entry = readdir(folder)) != NULL) {
    if (strncmp(entry->d_name, base, length) == 0 && is_temporary_suffix(entry->d_name + length))
      remove_orphan(dirfd(folder), entry->d_name);
  }
  closedir(folder);
}

// Opens a new file beside writer->path under a name that no other process or thread uses.
static qn_status open_temporary(qn_file_writer *writer) {
  static atomic_uint counter;
  size_t size = strlen(writer->path) + 64;
  writer->temporary_path = malloc(size);
  if (!writer->temporary_path) return qn_fail_nomem(writer->diag, writer->path, "a file name");
  for (int attempt = 0; attempt < 100; attempt++) {
    snprintf(writer->temporary_path, size, "%s" TEMPORARY "%ld.%u", writer->path, (long)getpid(),
             atomic_fetch_add(&counter, 1));
    writer->fd = open(writer->temporary_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (writer->fd >= 0 && hold(writer->fd)) return QN_OK;
    if (writer->fd < 0 && errno != EEXIST) break;
    if (writer->fd >= 0) close(writer->fd);
    writer->fd = -1;
    errno = EEXIST;
  }
  return fail_errno(writer->diag, writer->path, "create", errno);
}

// Frees names and memory, and forgets the descriptor, which is closed by now or the caller's.
static void finish(qn_file_writer *writer) {
  free(writer->path);
  free(writer->temporary_path);
  free(writer->pending);
  writer->path = writer->temporary_path = writer->pending = NULL;
  writer->pending_size = 0;
}

qn_status qn_file_writer_open(qn_file_writer *writer, const char *path, qn_diag *diag) {
  struct stat info;
  *writer = (qn_file_writer){.fd = -1, .diag = diag};
  if (stat(path, &info) == 0 && !S_ISREG(info.st_mode)) {
    return qn_fail(diag, QN_ERR_ARGUMENT, path, "is a %s; want the name of a file to write",
                   S_ISDIR(info.st_mode) ? "folder" : "device or a pipe");
  }
  writer->path = final_path(path);
  if (!writer->path) return qn_fail_nomem(diag, path, "a file name");
  remove_orphans(writer->path);
  qn_status status = open_temporary(writer);
  if (status != QN_OK) finish(writer);
  return status;
}

qn_status qn_file_writer_open_memory(qn_file_writer *writer, const char *name, qn_diag *diag) {
  *writer = (qn_file_writer){.fd = -1, .diag = diag};
  writer->path = strdup(name);
  if (!writer->path) return qn_fail_nomem(diag, name, "a file name");
  char short_name[64];  // the system allows 249 bytes and only shows it in /proc
  snprintf(short_name, sizeof short_name, "%s", name);
  writer->fd = memfd_create(short_name, MFD_CLOEXEC);
  if (writer->fd >= 0) return QN_OK;
  qn_status status = fail_errno(diag, name, "create a file in memory", errno);
  finish(writer);
  return status;
}

static qn_status fail_not_open(const qn_file_writer *writer) {
  return qn_fail(writer->diag, QN_ERR_INTERNAL, "file writer", "write to a writer that is not open");
}

static qn_status put_at(qn_file_writer *writer, uint64_t offset, const char *bytes, size_t size) {
  while (size > 0) {
    ssize_t count = pwrite(writer->fd, bytes, size, (off_t)offset);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return fail_errno(writer->diag, writer->path, "write", count < 0 ? errno : ENOSPC);
    bytes += count;
    size -= (size_t)count;
    offset += (uint64_t)count;
  }
  return QN_OK;
}

qn_status qn_file_writer_flush(qn_file_writer *writer) {
  if (!writer->path) return fail_not_open(writer);
  QN_TRY(put_at(writer, writer->offset - writer->pending_size, writer->pending, writer->pending_size));
  writer->pending_size = 0;
  return QN_OK;
}

qn_status qn_file_writer_write_at(qn_file_writer *writer, uint64_t offset, const void *data, size_t size) {
  QN_TRY(qn_file_writer_flush(writer));
  return put_at(writer, offset, data, size);
}

qn_status qn_file_writer_write(qn_file_writer *writer, const void *data, size_t size) {
  const char *bytes = data;
  if (!writer->path) return fail_not_open(writer);
  if (!writer->pending && !(writer->pending = malloc(QN_FILE_PIECE))) {
    return qn_fail_nomem(writer->diag, writer->path, "a piece of the file");
  }
  while (size > 0) {
    size_t begun = (size_t)(writer->offset % QN_FILE_PIECE), room = QN_FILE_PIECE - begun;
    size_t count = size < room ? size : room;
    if (begun == 0) QN_TRY(qn_file_writer_flush(writer));  // nothing, unless an earlier call failed
    if (begun == 0 && size >= QN_FILE_PIECE) {
      count = size - size % QN_FILE_PIECE;
      QN_TRY(put_at(writer, writer->offset, bytes, count));
      writer->offset += count;
    } else {
      memcpy(writer->pending + writer->pending_size, bytes, count);
      writer->pending_size += count;
      writer->offset += count;
      if (count == room) QN_TRY(qn_file_writer_flush(writer));
    }
    bytes += count;
    size -= count;
  }
  return QN_OK;
}

qn_status qn_file_writer_align(qn_file_writer *writer, size_t alignment) {
  static const char zeros[4096];
  size_t padding = (size_t)(-writer->offset & (alignment - 1));
  while (padding > 0) {
    size_t count = padding < sizeof zeros ? padding : sizeof zeros;
    QN_TRY(qn_file_writer_write(writer, zeros, count));
    padding -= count;
  }
  return QN_OK;
}

// Before the rename: after a crash the name means the old file or all of the new one. Some file systems have no fsync.
static int put_on_disk(int fd) {
  int result;
  do {
    result = fsync(fd);
  } while (result != 0 && errno == EINTR);
  return result != 0 && errno != EINVAL && errno != ENOSYS ? -1 : 0;
}

qn_status qn_file_writer_commit(qn_file_writer *writer) {
  if (!writer->path)
    return qn_fail(writer->diag, QN_ERR_INTERNAL, "file writer", "commit of a writer that is not open");
  qn_status status = qn_file_writer_flush(writer);
  if (!writer->temporary_path && status != QN_OK) {
    close(writer->fd);
    writer->fd = -1;
  }
  if (writer->temporary_path) {
    // Network file systems report a full disk only at close. After EINTR the descriptor is closed all the same. The copy
    // holds the file until it has its name.
    int held = fcntl(writer->fd, F_DUPFD_CLOEXEC, 0);
    if (status == QN_OK && (held < 0 || put_on_disk(writer->fd) != 0))
      status = fail_errno(writer->diag, writer->path, "write", errno);
    if (close(writer->fd) != 0 && errno != EINTR && status == QN_OK) {
      status = fail_errno(writer->diag, writer->path, "write", errno);
    } else if (status == QN_OK && rename(writer->temporary_path, writer->path) != 0) {
      status = fail_errno(writer->diag, writer->path, "put the finished file in place", errno);
    }
    if (held >= 0) close(held);
    writer->fd = -1;
    if (status != QN_OK) unlink(writer->temporary_path);
  }
  finish(writer);
  return status;
}

void qn_file_writer_abandon(qn_file_writer *writer) {
  if (!writer->path) return;
  if (writer->fd >= 0) close(writer->fd);
  writer->fd = -1;
  if (writer->temporary_path) unlink(writer->temporary_path);
  finish(writer);
}

qn_status qn_make_directories(const char *path, qn_diag *diag) {
  struct stat info;
  if (!*path) return qn_fail(diag, QN_ERR_ARGUMENT, "folder", "got an empty name");
  char *prefix = strdup(path);
  if (!prefix) return qn_fail_nomem(diag, path, "a folder name");
  qn_status status = QN_OK;
  for (char *end = prefix + 1; status == QN_OK; end++) {
    if (*end != '/' && *end != '\0') continue;
    char kept = *end;
    *end = '\0';
    if (mkdir(prefix, 0777) != 0) {
      int error = errno;  // an ancestor may be there and refuse mkdir with EROFS or EACCES
      if (stat(prefix, &info) != 0) {
        status = fail_errno(diag, prefix, "create the folder", error);
      } else if (!S_ISDIR(info.st_mode)) {
        status = qn_fail(diag, QN_ERR_IO, prefix, "is a file; want a folder");
      }
    }
    *end = kept;
    if (kept == '\0') break;
  }
  free(prefix);
  return status;
}
