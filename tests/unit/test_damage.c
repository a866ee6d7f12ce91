// A real artifact with one bit changed or its end cut off: refused, or changed where nothing reads. The suite takes some
// places, QUERN_TEST_ALL=1 every byte (and every length).
#include <string.h>

#include "frontend/quern.h"
#include "runtime/artifact.h"
#include "tests/support/artifact_builder.h"
#include "tests/support/test.h"

typedef struct file {
  char *data;
  size_t size;
} file;

static file compiled(void) {
  const char *path = qn_test_temp_path("nano.qn");
  quern_compile_options compile = {.size = sizeof compile, .tuning_db = "none", .context_tokens = 64, .chunk_tokens = 4};
  quern_error error = {0};
  qn_diag diag = {0};
  file f;
  int code = quern_compile(qn_test_source("models/nano/nano.gguf"), path, &compile, &error);
  ck_assert_msg(code == 0, "%s", error.text);
  qn_assert_ok(&diag, qn_file_read(path, QN_TEXT_MAX, qn_test_allocator(), &f.data, &f.size, &diag));
  return f;
}

// Opening it and reading its weights.
static qn_status check(const char *data, size_t size, qn_diag *diag) {
  qn_artifact a;
  QN_TRY(qn_artifact_open_mapping(&a, qn_test_artifact_map(data, size), "t.qn", diag));
  qn_status status = qn_artifact_check_weights(&a, diag);
  qn_artifact_close(&a);
  return status;
}

// Which bytes anything reads: those of the header, the table and the sections.
static char *bytes_that_count(const file *f) {
  qn_artifact a;
  qn_diag diag = {0};
  char *counts = qn_alloc_zeroed(qn_test_allocator(), f->size);
  ck_assert_ptr_nonnull(counts);
  qn_assert_ok(&diag, qn_artifact_open_mapping(&a, qn_test_artifact_map(f->data, f->size), "t.qn", &diag));
  memset(counts, 1, sizeof(qn_art_header) + a.section_count * sizeof(qn_art_section));
  for (uint32_t i = 0; i < a.section_count; i++) memset(counts + a.sections[i].offset, 1, (size_t)a.sections[i].size);
  qn_artifact_close(&a);
  return counts;
}

static void flip(const file *f, const char *counts, size_t at) {
  qn_diag diag = {0};
  f->data[at] = (char)(f->data[at] ^ (1 << at % 8));
  qn_status status = check(f->data, f->size, &diag);
  f->data[at] = (char)(f->data[at] ^ (1 << at % 8));
  if (counts[at]) {
    qn_check(status == QN_ERR_FORMAT || (status == QN_ERR_UNSUPPORTED && at < sizeof(qn_art_header)),
             "byte %zu: got %s", at, qn_status_name(status));
    qn_check(strncmp(diag.text, "t.qn: ", 6) == 0, "byte %zu: %s", at, diag.text);
  } else {
    qn_check(status == QN_OK, "padding at byte %zu: got %s", at, diag.text);
  }
}

START_TEST(one_bit_anywhere) {
  enum { HEAD = 1024 };
  file f = compiled();
  char *counts = bytes_that_count(&f);
  size_t stride = qn_test_stride(4099, 16411);
  for (size_t at = 0; at < HEAD; at += stride < 8 ? 1 : 5) flip(&f, counts, at);
  for (size_t at = HEAD; at < f.size; at += stride) flip(&f, counts, at);
  qn_free(qn_test_allocator(), counts, f.size);
  qn_free(qn_test_allocator(), f.data, f.size + 1);
}
END_TEST

START_TEST(every_length) {
  file f = compiled();
  size_t stride = qn_test_stride(2053, 8209);
  for (size_t size = 0; size < f.size; size += stride) {
    qn_diag diag = {0};
    qn_status status = check(f.data, size, &diag);
    qn_check(status == QN_ERR_FORMAT && strstr(diag.text, "truncated"), "%zu bytes: got %s", size, diag.text);
  }
  qn_free(qn_test_allocator(), f.data, f.size + 1);
}
END_TEST

static TCase *damage(void) {
  TCase *tcase = tcase_create("damage");
  tcase_add_test(tcase, one_bit_anywhere);
  tcase_add_test(tcase, every_length);
  if (qn_test_stride(2, 2) == 1) tcase_set_timeout(tcase, 4 * 3600);
  return tcase;
}

QN_TEST_MAIN(damage)
