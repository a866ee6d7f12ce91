// Files that become shorter while they are mapped: an error with words where the system would kill the process, and the
// host's own handler of SIGBUS for what is not ours.
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "frontend/import/gguf.h"
#include "frontend/quern.h"
#include "runtime/base/file.h"
#include "tests/support/test.h"

enum { PAGE = 1 << 16 };  // a multiple of every page size

static const char *numbered_file(const char *name, size_t size) {
  const char *path = qn_test_temp_path(name);
  char *data = malloc(size);
  ck_assert_ptr_nonnull(data);
  for (size_t i = 0; i < size; i++) data[i] = (char)(1 + i / PAGE);
  qn_test_write_file(path, data, size);
  free(data);
  return path;
}

// --- mappings

START_TEST(lost_bytes_are_zeros_and_an_error) {
  const char *path = numbered_file("m", 4 * PAGE - 7);
  qn_mapping m, other;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_mapping_open(&m, path, &diag));
  qn_assert_ok(&diag, qn_mapping_open(&other, numbered_file("other", PAGE), &diag));
  ck_assert_int_eq(truncate(path, PAGE), 0);
  ck_assert_uint_eq(m.data[PAGE - 1], 1);
  qn_assert_ok(&diag, qn_mapping_check(&m, path, &diag));  // nothing was read that is not there
  ck_assert_uint_eq(m.data[PAGE], 0);
  ck_assert_uint_eq(m.data[m.size - 1], 0);
  ck_assert_uint_eq(m.data[0], 1);
  qn_assert_fails(&diag, QN_ERR_IO, "m: the file lost bytes while it was in use, want all 262137",
                  qn_mapping_check(&m, path, &diag));
  qn_mapping_close(&m);
  qn_assert_ok(&diag, qn_mapping_open(&m, path, &diag));  // the next one in its place is none the worse
  qn_assert_ok(&diag, qn_mapping_check(&m, path, &diag));
  qn_assert_ok(&diag, qn_mapping_check(&other, "other", &diag));
  qn_mapping_close(&other);
  qn_mapping_close(&m);
}
END_TEST

START_TEST(kept_bytes_outlive_the_file) {
  const char *path = numbered_file("k", 5 * PAGE - 1);
  qn_mapping m;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_mapping_open(&m, path, &diag));
  const uint8_t *place = m.data;
  qn_assert_ok(&diag, qn_mapping_keep_but(&m, 2 * PAGE, 3 * PAGE + 1, path, &diag));
  ck_assert_ptr_eq(m.data, place);
  ck_assert_int_eq(truncate(path, 0), 0);
  for (size_t i = 0; i < m.size; i += PAGE / 2)
    if (i / PAGE != 2) ck_assert_uint_eq(m.data[i], 1 + i / PAGE);
  qn_assert_ok(&diag, qn_mapping_check(&m, path, &diag));
  ck_assert_uint_eq(m.data[2 * PAGE], 0);
  qn_assert_fails(&diag, QN_ERR_IO, "lost bytes", qn_mapping_check(&m, path, &diag));
  for (size_t i = 0; i < m.size; i += PAGE / 2)
    if (i / PAGE != 2) ck_assert_uint_eq(m.data[i], 1 + i / PAGE);
  qn_mapping_close(&m);
}
END_TEST

START_TEST(keeping_what_is_lost_already) {
  const char *path = numbered_file("l", 3 * PAGE);
  qn_mapping m;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_mapping_open(&m, path, &diag));
  ck_assert_int_eq(truncate(path, PAGE), 0);
  qn_assert_fails(&diag, QN_ERR_IO, "lost bytes", qn_mapping_keep_but(&m, 0, 0, path, &diag));
  qn_mapping_close(&m);
}
END_TEST

// --- the host's handler

static sigjmp_buf way_back;
static volatile sig_atomic_t host_calls;

static void host_handler(int number) {
  (void)number;
  host_calls++;
  siglongjmp(way_back, 1);
}

static void host_handler_with_info(int number, siginfo_t *info, void *context) {
  ck_assert_ptr_nonnull(info);
  ck_assert_ptr_nonnull(context);
  host_handler(number);
}

// Reads where a file of the host's own has no bytes any more.
static void read_lost(const volatile char *memory) {
  if (sigsetjmp(way_back, 1) == 0) (void)memory[PAGE];
}

static void check_host(const struct sigaction *host) {
  struct sigaction now;
  const char *path = numbered_file("host", 2 * PAGE);
  FILE *file = fopen(path, "rb");
  ck_assert_ptr_nonnull(file);
  char *memory = mmap(NULL, 2 * PAGE, PROT_READ, MAP_PRIVATE, fileno(file), 0);
  ck_assert(memory != MAP_FAILED);
  ck_assert_int_eq(truncate(path, 1), 0);
  ck_assert_int_eq(sigaction(SIGBUS, host, NULL), 0);
  const char *ours = numbered_file("ours", 2 * PAGE);
  qn_mapping m;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_mapping_open(&m, ours, &diag));
  host_calls = 0;
  read_lost(memory);
  ck_assert_int_eq(host_calls, 1);
  qn_assert_ok(&diag, qn_mapping_check(&m, ours, &diag));
  ck_assert_int_eq(truncate(ours, 1), 0);
  ck_assert_uint_eq(m.data[PAGE], 0);
  ck_assert_int_eq(host_calls, 1);
  if (sigsetjmp(way_back, 1) == 0) raise(SIGBUS);  // sent, not met
  ck_assert_int_eq(host_calls, 2);
  qn_mapping_close(&m);
  ck_assert_int_eq(sigaction(SIGBUS, NULL, &now), 0);
  ck_assert_msg(now.sa_sigaction == host->sa_sigaction, "our handler stays behind");
  munmap(memory, 2 * PAGE);
  fclose(file);
}

START_TEST(other_signals_are_the_hosts) {
  check_host(&(struct sigaction){.sa_handler = host_handler});
  check_host(&(struct sigaction){.sa_sigaction = host_handler_with_info, .sa_flags = SA_SIGINFO});
}
END_TEST

START_TEST(a_handler_on_top_stays) {
  struct sigaction top = {.sa_handler = host_handler}, now;
  qn_mapping m;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_mapping_open(&m, numbered_file("top", PAGE), &diag));
  ck_assert_int_eq(sigaction(SIGBUS, &top, NULL), 0);
  qn_mapping_close(&m);
  ck_assert_int_eq(sigaction(SIGBUS, NULL, &now), 0);
  ck_assert_msg(now.sa_handler == host_handler, "the host's handler is gone");
}
END_TEST

static void die_as_without_us(int number) {
  qn_mapping m;
  qn_diag diag = {0};
  signal(SIGBUS, SIG_DFL);
  qn_assert_ok(&diag, qn_mapping_open(&m, numbered_file("d", PAGE), &diag));
  raise(number);
}

START_TEST(without_a_handler_the_signal_ends_the_process) { die_as_without_us(SIGBUS); }
END_TEST

// --- models

static const char *nano_path(void) { return qn_test_source("models/nano/nano.gguf"); }

// A copy that may be cut.
static const char *copy_nano(size_t *out_size) {
  char *data;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_file_read(nano_path(), QN_TEXT_MAX, qn_test_allocator(), &data, out_size, &diag));
  const char *path = qn_test_temp_path("nano.gguf");
  qn_test_write_file(path, data, *out_size);
  qn_free(qn_test_allocator(), data, *out_size + 1);
  return path;
}

START_TEST(weights_lost_while_running) {
  const char *path = qn_test_temp_path("nano.qn");
  quern_compile_options compile = {.size = sizeof compile, .tuning_db = "none"};
  quern_error error = {0};
  ck_assert_msg(quern_compile(nano_path(), path, &compile, &error) == 0, "%s", error.text);
  quern_model *model;
  quern_session *session;
  const float *logits;
  ck_assert_msg(quern_model_open(path, NULL, &model, &error) == QUERN_OK, "%s", error.text);
  ck_assert_msg(quern_session_create(model, NULL, &session, &error) == QUERN_OK, "%s", error.text);
  const int32_t tokens[] = {1, 2, 3};
  ck_assert_msg(quern_session_eval(session, 0, tokens, 3, &logits, &error) == QUERN_OK, "%s", error.text);
  ck_assert_int_eq(truncate(path, 1), 0);
  ck_assert_int_eq(quern_session_eval(session, 0, tokens, 3, &logits, &error), QUERN_ERR_IO);
  ck_assert_msg(strstr(error.text, "nano.qn: the file lost bytes") != NULL, "%s", error.text);
  ck_assert_int_eq(quern_session_position(session, 0), 3);
  ck_assert_int_eq(quern_session_eval(session, 0, tokens, 1, &logits, &error), QUERN_ERR_IO);
  quern_session_destroy(session);
  quern_model_close(model);
}
END_TEST

// Cuts the file at a stage of the compilation.
typedef struct cut {
  const char *path, *stage;
  size_t size;
  bool done;
} cut;

static bool cut_at_stage(void *context, const char *stage, uint64_t done, uint64_t of) {
  cut *c = context;
  (void)done, (void)of;
  if (!c->done && strstr(stage, c->stage)) {
    ck_assert_int_eq(truncate(c->path, (off_t)c->size), 0);
    c->done = true;
  }
  return true;
}

START_TEST(a_model_file_lost_while_compiling) {
  const char *path = qn_test_temp_path("never.qn");
  size_t size;
  cut c = {.path = copy_nano(&size), .stage = "kernels", .size = size / 2};
  quern_compile_options compile = {
      .size = sizeof compile, .tuning_db = "none", .progress = cut_at_stage, .progress_context = &c};
  quern_error error = {0};
  ck_assert_int_eq(quern_compile(c.path, path, &compile, &error), QUERN_ERR_IO);
  ck_assert_msg(strstr(error.text, "nano.gguf: the file lost bytes") != NULL, "%s", error.text);
  ck_assert(c.done);
  ck_assert_int_ne(access(path, F_OK), 0);
}
END_TEST

START_TEST(a_model_file_lost_while_open) {
  size_t size;
  const char *path = copy_nano(&size);
  qn_gguf *gguf;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_gguf_open(&gguf, path, qn_test_allocator(), &diag));
  ck_assert_int_eq(truncate(path, 100), 0);
  qn_buf out;
  qn_buf_init(&out, qn_test_allocator());
  for (size_t i = 0; i < gguf->kv_count; i++) qn_gguf_value_print(&gguf->kvs[i].value, 100, &out);
  const qn_str *strings;
  size_t count;
  qn_status status = qn_gguf_get_strings(gguf, "tokenizer.ggml.tokens", &strings, &count, NULL);
  ck_assert(status == QN_OK || status == QN_ERR_FORMAT);
  qn_assert_fails(&diag, QN_ERR_IO, "lost bytes", qn_gguf_check(gguf, &diag));
  qn_buf_deinit(&out);
  qn_gguf_close(gguf);
}
END_TEST

static TCase *defaults(void) {
  TCase *tcase = tcase_create("defaults");
  tcase_add_test_raise_signal(tcase, without_a_handler_the_signal_ends_the_process, SIGBUS);
  return tcase;
}

QN_CASE(mappings, lost_bytes_are_zeros_and_an_error, kept_bytes_outlive_the_file, keeping_what_is_lost_already)
QN_CASE(handlers, other_signals_are_the_hosts, a_handler_on_top_stays)
QN_CASE(models, weights_lost_while_running, a_model_file_lost_while_compiling, a_model_file_lost_while_open)
QN_TEST_MAIN(mappings, handlers, defaults, models)
