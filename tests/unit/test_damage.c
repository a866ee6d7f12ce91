// Real artifacts with a byte changed or their end cut off: refused, or changed where nothing reads. Of a small one every
// byte and every length is tried; of the nano model's some, with QUERN_TEST_ALL=1 all (an hour).
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "frontend/quern.h"
#include "runtime/artifact.h"
#include "tests/support/test.h"

// A file in memory that is changed in place and mapped anew for each reader: nothing is copied.
typedef struct file {
  uint8_t *data;
  size_t size;
  int fd;
  char *counts;  // of each byte: does anything read it?
} file;

// Of the bytes as they are now; the reader's to close.
static qn_mapping view(const file *f, size_t size) {
  void *pages = mmap(NULL, size > 0 ? size : 1, PROT_READ, MAP_SHARED | MAP_POPULATE, f->fd, 0);
  qn_check(pages != MAP_FAILED, "no pages");
  return (qn_mapping){.data = pages, .size = size};
}

// Opening it and reading its weights.
static qn_status check(const file *f, size_t size, qn_diag *diag) {
  qn_artifact a;
  QN_TRY(qn_artifact_open_mapping(&a, view(f, size), "t.qn", diag));
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
  qn_assert_ok(&diag, qn_artifact_open_mapping(&a, view(f, f->size), "t.qn", &diag));
  memset(counts, 1, sizeof(qn_art_header) + a.section_count * sizeof(qn_art_section));
  for (uint32_t i = 0; i < a.section_count; i++) memset(counts + a.sections[i].offset, 1, (size_t)a.sections[i].size);
  qn_artifact_close(&a);
  return counts;
}

static file compiled(const char *model) {
  const char *path = qn_test_temp_path("model.qn");
  quern_compile_options compile = {.size = sizeof compile, .tuning_db = "none", .context_tokens = 64, .chunk_tokens = 4};
  quern_error error = {0};
  qn_diag diag = {0};
  char *data;
  file f = {.fd = memfd_create("artifact", MFD_CLOEXEC)};
  int code = quern_compile(model, path, &compile, &error);
  ck_assert_msg(code == 0, "%s", error.text);
  qn_assert_ok(&diag, qn_file_read(path, QN_TEXT_MAX, qn_test_allocator(), &data, &f.size, &diag));
  ck_assert(f.fd >= 0 && ftruncate(f.fd, (off_t)f.size) == 0);
  f.data = mmap(NULL, f.size, PROT_READ | PROT_WRITE, MAP_SHARED, f.fd, 0);
  ck_assert(f.data != MAP_FAILED);
  memcpy(f.data, data, f.size);
  qn_free(qn_test_allocator(), data, f.size + 1);
  f.counts = bytes_that_count(&f);
  return f;
}

static void discard(file *f) {
  qn_free(qn_test_allocator(), f->counts, f->size);
  munmap(f->data, f->size);
  close(f->fd);
}

static void change(const file *f, size_t at, uint8_t bits) {
  qn_diag diag = {0};
  f->data[at] ^= bits;
  qn_status status = check(f, f->size, &diag);
  f->data[at] ^= bits;
  if (f->counts[at]) {
    qn_check(status == QN_ERR_FORMAT || (status == QN_ERR_UNSUPPORTED && at < sizeof(qn_art_header)),
             "byte %zu ^ %02x: got %s", at, bits, qn_status_name(status));
    qn_check(strncmp(diag.text, "t.qn: ", 6) == 0, "byte %zu: %s", at, diag.text);
  } else {
    qn_check(status == QN_OK, "padding at byte %zu: got %s", at, diag.text);
  }
}

static void cut(const file *f, size_t size) {
  qn_diag diag = {0};
  qn_status status = check(f, size, &diag);
  qn_check(status == QN_ERR_FORMAT && strstr(diag.text, "truncated"), "%zu bytes: got %s", size, diag.text);
}

// Weights, code and every other section but a tokenizer.
static const char *small_model(void) {
  static const char graph[] =
      "{\"quern_graph\": 1, \"name\": \"small\", \"inputs\": {\"x\": {\"shape\": [\"T\", 8]}},"
      " \"weights\": {\"w\": {\"shape\": [8], \"data\": [1, 2, 3, 4, 5, 6, 7, 8]}},"
      " \"graph\": [{\"set\": \"y\", \"op\": \"rmsnorm\", \"args\": [\"x\", \"w\"], \"attrs\": {\"eps\": 1e-5}},"
      " {\"output\": \"y\", \"value\": \"y\"}]}";
  const char *path = qn_test_temp_path("small.json");
  qn_test_write_file(path, graph, sizeof graph - 1);
  return path;
}

START_TEST(every_byte_of_a_small_one) {
  file f = compiled(small_model());
  bool all = qn_test_stride(2, 2) == 1;
  for (size_t at = 0; at < f.size; at++) {
    for (int bit = all ? 0 : (int)(at % 8); bit <= (all ? 7 : (int)(at % 8)); bit++) change(&f, at, (uint8_t)(1 << bit));
    if (all) change(&f, at, 0xFF);
  }
  discard(&f);
}
END_TEST

START_TEST(every_length_of_a_small_one) {
  file f = compiled(small_model());
  for (size_t size = 0; size < f.size; size++) cut(&f, size);
  discard(&f);
}
END_TEST

START_TEST(bytes_of_a_language_model) {
  enum { HEAD = 1024 };
  file f = compiled(qn_test_source("models/nano/nano.gguf"));
  size_t stride = qn_test_stride(4099, 16411);
  for (size_t at = 0; at < HEAD; at += stride < 8 ? 1 : 5) change(&f, at, (uint8_t)(1 << at % 8));
  for (size_t at = HEAD; at < f.size; at += stride) change(&f, at, (uint8_t)(1 << at % 8));
  for (size_t size = 0; size < f.size; size += stride) cut(&f, size);
  discard(&f);
}
END_TEST

static TCase *damage(void) {
  const TTest *const tests[] = {every_byte_of_a_small_one, every_length_of_a_small_one, bytes_of_a_language_model};
  TCase *tcase = qn_test_case("damage", tests, QN_COUNT(tests));
  if (qn_test_stride(2, 2) == 1) tcase_set_timeout(tcase, 24 * 3600);
  return tcase;
}

QN_TEST_MAIN(damage)
