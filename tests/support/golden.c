// Golden files: each case's answer is put where the wanted one stands, and the file compared as a whole.
#include "tests/support/golden.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/base/file.h"
#include "tests/support/test.h"

typedef struct golden {
  char want[24], end[24];  // the lines between the parts of a case
  qn_golden_fn answer;
  void *context;
} golden;

// The file as it should be, from the file as it is.
static void rebuild(const golden *g, const char *name, const char *file, qn_buf *out) {
  if (!strstr(file, g->want)) {
    g->answer(g->context, name, qn_str_from(file), out);
    return;
  }
  while (*file) {
    const char *want = strstr(file, g->want), *end = want ? strstr(want, g->end) : NULL;
    ck_assert_msg(want && end, "%s: a case without its want or its end: %.60s", name, file);
    qn_buf_append(out, file, (size_t)(want - file));
    qn_buf_puts(out, g->want);
    g->answer(g->context, name, (qn_str){file, (size_t)(want - file)}, out);
    qn_buf_puts(out, g->end);
    file = end + strlen(g->end);
  }
}

static bool check_file(const golden *g, const char *path, const char *name) {
  char *file = NULL;
  size_t size = 0;
  qn_diag diag = {0};
  qn_buf out;
  qn_buf_init(&out, qn_test_allocator());
  qn_assert_ok(&diag, qn_file_read(path, QN_TEXT_MAX, qn_test_allocator(), &file, &size, &diag));
  rebuild(g, name, file, &out);
  const char *update = getenv("QUERN_UPDATE_GOLDEN");
  bool same = strcmp(file, qn_buf_text(&out)) == 0;
  if (!same && update && strcmp(update, "1") == 0) {
    qn_test_write_file(path, qn_buf_text(&out), out.length);
    same = true;
  } else if (!same) {
    const char *got = qn_buf_text(&out);
    size_t line = 1, at = 0;  // of the first difference
    for (; got[at] && file[at] == got[at]; at++) line += file[at] == '\n';
    while (at > 0 && file[at - 1] != '\n') at--;
    fprintf(stderr, "%s:%zu:\n got  %.*s\n want %.*s\n", path, line, (int)strcspn(got + at, "\n"), got + at,
            (int)strcspn(file + at, "\n"), file + at);
  }
  qn_free(qn_test_allocator(), file, size + 1);
  qn_buf_deinit(&out);
  return same;
}

static int is_text(const struct dirent *entry) {
  const char *dot = strrchr(entry->d_name, '.');
  return dot && strcmp(dot, ".txt") == 0;
}

void qn_golden_check(const char *folder, const char *comment, qn_golden_fn answer, void *context) {
  golden g = {.answer = answer, .context = context};
  snprintf(g.want, sizeof g.want, "%s ---- want\n", comment);
  snprintf(g.end, sizeof g.end, "%s ====\n", comment);
  char source[512], path[1024];
  snprintf(source, sizeof source, "%s", qn_test_source(folder));
  struct dirent **entries = NULL;
  int count = scandir(source, &entries, is_text, alphasort), different = 0;
  ck_assert_msg(count > 0, "%s: no golden files", source);
  for (int i = 0; i < count; i++) {
    snprintf(path, sizeof path, "%s/%s", source, entries[i]->d_name);
    different += !check_file(&g, path, entries[i]->d_name);
    free(entries[i]);
  }
  free(entries);
  ck_assert_msg(different == 0, "%s: %d of %d files differ (QUERN_UPDATE_GOLDEN=1 rewrites them)", source, different,
                count);
}
