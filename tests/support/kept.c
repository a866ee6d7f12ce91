// Looks into folders of kept results (kept.h).
#include "tests/support/kept.h"

#include <glob.h>
#include <stdio.h>
#include <sys/stat.h>

#include "runtime/base/file.h"
#include "tests/support/test.h"

size_t qn_kept_entries(const char *folder, char *out_path, size_t size) {
  char pattern[512];
  glob_t found;
  snprintf(pattern, sizeof pattern, "%s/*", folder);
  if (glob(pattern, 0, NULL, &found) != 0) return 0;
  size_t count = found.gl_pathc;
  snprintf(out_path, size, "%s", found.gl_pathv[0]);
  globfree(&found);
  return count;
}

ino_t qn_kept_number(const char *path) {
  struct stat info;
  ck_assert_int_eq(stat(path, &info), 0);
  return info.st_ino;
}

void qn_kept_damage(const char *folder, void (*make)(void *context), void *context) {
  char path[512], *data = NULL;
  size_t size = 0;
  qn_diag diag = {0};
  ck_assert_uint_eq(qn_kept_entries(folder, path, sizeof path), 1);
  qn_assert_ok(&diag, qn_file_read(path, QN_TEXT_MAX, qn_test_allocator(), &data, &size, &diag));
  for (size_t i = 0; i < 14; i++) {
    size_t at = i < 8 ? i * 8 : (size - 1) * (i - 7) / 6, length = i % 2 ? at : size;
    if (length == size) data[at] ^= 4;
    qn_test_write_file(path, data, length);
    if (length == size) data[at] ^= 4;
    ino_t number = qn_kept_number(path);
    make(context);
    ck_assert_msg(qn_kept_number(path) != number, "a damaged entry (byte %zu of %zu) is believed", at, length);
  }
  qn_free(qn_test_allocator(), data, size + 1);
}
