// Where the user's database lies, and who holds its locks.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "autotune/db_internal.h"

qn_status qn_db_default_path(qn_buf *out, qn_diag *diag) {
  const char *xdg = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
  if (xdg && *xdg) {
    qn_buf_printf(out, "%s/quern/tuning.db", xdg);
  } else if (home && *home) {
    qn_buf_printf(out, "%s/.local/share/quern/tuning.db", home);
  } else {
    return qn_fail(diag, QN_ERR_IO, "tuning database",
                   "got neither XDG_DATA_HOME nor HOME, want one; or name a file");
  }
  return out->failed ? qn_fail_nomem(diag, "tuning database", "a path") : QN_OK;
}

typedef struct file_id {
  unsigned major, minor;
  unsigned long long inode;
} file_id;

static bool identify(const char *path, const char *suffix, const qn_allocator *allocator, file_id *out) {
  qn_buf name;
  struct stat info;
  qn_buf_init(&name, allocator);
  qn_buf_printf(&name, "%s%s", path, suffix);
  bool there = !name.failed && stat(qn_buf_text(&name), &info) == 0;
  qn_buf_deinit(&name);
  if (there) *out = (file_id){major(info.st_dev), minor(info.st_dev), info.st_ino};
  return there;
}

static void put_process(long pid, bool first, qn_buf *out) {
  char path[48], name[32] = "";
  snprintf(path, sizeof path, "/proc/%ld/comm", pid);
  FILE *file = fopen(path, "re");
  if (file) {
    if (!fgets(name, sizeof name, file)) name[0] = '\0';
    fclose(file);
    name[strcspn(name, "\n")] = '\0';
  }
  qn_buf_printf(out, "%s %ld", first ? " by process" : ",", pid);
  if (name[0]) qn_buf_printf(out, " (%s)", name);
}

// /proc/locks, proc(5): "1: POSIX  ADVISORY  WRITE 3568 fd:00:2531452 0 EOF". Readers hold locks too, but keep nobody
// waiting who writes ahead.
void qn_db_lock_owners(const char *path, qn_buf *out) {
  file_id files[2];
  size_t count = 0;
  if (identify(path, "", out->allocator, &files[count])) count++;
  if (identify(path, "-shm", out->allocator, &files[count])) count++;
  FILE *locks = fopen("/proc/locks", "re");
  char line[256];
  long last = 0;
  while (locks && fgets(line, sizeof line, locks)) {
    long pid;
    file_id at;
    if (sscanf(line, "%*d: %*s %*s WRITE %ld %x:%x:%llu", &pid, &at.major, &at.minor, &at.inode) != 4) continue;
    if (pid <= 0 || pid == (long)getpid() || pid == last) continue;
    for (size_t i = 0; i < count; i++) {
      if (at.major != files[i].major || at.minor != files[i].minor || at.inode != files[i].inode) continue;
      put_process(pid, last == 0, out);
      last = pid;
      break;
    }
  }
  if (locks) fclose(locks);
}
