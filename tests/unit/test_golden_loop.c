// Loop IR in text: tests/golden/loop/*.txt. A file is a kernel that must print as it stands, or a list of cases:
//   text
//   // ---- want
//   the printed kernels (simplified first in files simplify*.txt), or the error of the parser or the verifier
//   // ====
// QUERN_UPDATE_GOLDEN=1 rewrites what is wanted by what is got; read the difference before keeping it.
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "ir/loop.h"
#include "runtime/base/file.h"
#include "tests/support/test.h"

static const char WANT[] = "// ---- want\n", END[] = "// ====\n";

static const qn_lexpr *simplify(qn_lbuild *b, const qn_lexpr *e, void *context) {
  (void)context;
  return qn_lexpr_simplify(b, e);
}

// What becomes of a text: the kernels printed, or the first error and a newline.
static void answer(qn_str text, bool simplified, qn_buf *out) {
  qn_arena arena;
  qn_diag diag = {0};
  qn_lkernel **kernels = NULL;
  size_t count = 0;
  qn_arena_init(&arena, qn_test_allocator());
  qn_status status = qn_lkernels_parse("case", text, &arena, &kernels, &count, &diag);
  for (size_t i = 0; status == QN_OK && i < count; i++) {
    qn_lbuild b;
    qn_lbuild_open(&b, &arena, kernels[i]);
    if (simplified) qn_lblock_map(&b, &kernels[i]->body, simplify, NULL);
    ck_assert(!b.failed);
    status = qn_lkernel_verify(kernels[i], &diag);
  }
  if (status != QN_OK) {
    qn_buf_printf(out, "%s: %s\n", qn_status_name(status), diag.text);
  } else {
    for (size_t i = 0; i < count; i++) {
      if (i > 0) qn_buf_putc(out, '\n');
      qn_lkernel_print(kernels[i], out);
    }
  }
  qn_arena_deinit(&arena);
}

// The file as it should be, from the file as it is.
static void rebuild(const char *file, bool simplified, qn_buf *out) {
  if (!strstr(file, WANT)) {
    answer(qn_str_from(file), simplified, out);
    return;
  }
  while (*file) {
    const char *want = strstr(file, WANT), *end = want ? strstr(want, END) : NULL;
    ck_assert_msg(want && end, "a case without its want or its end: %.60s", file);
    qn_buf_append(out, file, (size_t)(want - file));
    qn_buf_puts(out, WANT);
    answer((qn_str){file, (size_t)(want - file)}, simplified, out);
    qn_buf_puts(out, END);
    file = end + strlen(END);
  }
}

static void check_file(const char *path, const char *name) {
  char *file;
  size_t size;
  qn_diag diag = {0};
  qn_buf out;
  qn_buf_init(&out, qn_test_allocator());
  qn_assert_ok(&diag, qn_file_read(path, qn_test_allocator(), &file, &size, &diag));
  rebuild(file, strncmp(name, "simplify", 8) == 0, &out);
  if (getenv("QUERN_UPDATE_GOLDEN")) {
    qn_test_write_file(path, qn_buf_text(&out), out.length);
  } else {
    size_t line = 1, at = 0;  // of the first difference
    for (; at < out.length && file[at] == out.data[at]; at++) line += file[at] == '\n';
    while (at > 0 && file[at - 1] != '\n') at--;
    ck_assert_msg(strcmp(file, qn_buf_text(&out)) == 0, "%s:%zu:\n got  %.*s\n want %.*s", name, line,
                  (int)strcspn(out.data + at, "\n"), out.data + at, (int)strcspn(file + at, "\n"), file + at);
  }
  qn_free(qn_test_allocator(), file, size + 1);
  qn_buf_deinit(&out);
}

START_TEST(golden_files) {
  const char *folder = qn_test_source("tests/golden/loop");
  struct dirent **entries;
  int count = scandir(folder, &entries, NULL, alphasort), files = 0;
  ck_assert_int_gt(count, 0);
  for (int i = 0; i < count; i++) {
    const char *dot = strrchr(entries[i]->d_name, '.');
    if (dot && strcmp(dot, ".txt") == 0) {
      char path[1024];
      snprintf(path, sizeof path, "%s/%s", folder, entries[i]->d_name);
      check_file(path, entries[i]->d_name);
      files++;
    }
    free(entries[i]);
  }
  free(entries);
  ck_assert_int_ge(files, 4);
}
END_TEST

QN_CASE(golden, golden_files)
QN_TEST_MAIN(golden)
