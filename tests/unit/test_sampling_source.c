// What a GGUF file says of sampling (general.sampling.*), and the lines that keep it. Folders are in tests/golden/hf.
#include <stdio.h>

#include "frontend/import/gguf_write.h"
#include "frontend/import/sampling_source.h"
#include "runtime/base/log.h"
#include "tests/support/test.h"

static char last_log[1024];

static void keep_log(void *context, qn_log_level level, const char *text) {
  (void)context, (void)level;
  snprintf(last_log, sizeof last_log, "%s", text);
}

// Reads what the writer has, and ends it; *out_lines (to be freed) is what the summary would say.
static qn_status read_file(qn_gguf_writer *writer, qn_buf *out_lines, qn_diag *diag) {
  uint8_t *data;
  size_t size;
  qn_gguf *gguf;
  qn_sampler_defaults said;
  qn_assert_ok(diag, qn_gguf_writer_save_memory(writer, &data, &size, diag));
  qn_gguf_writer_destroy(writer);
  qn_assert_ok(diag, qn_gguf_open_memory(&gguf, data, size, "t.gguf", qn_test_allocator(), diag));
  last_log[0] = '\0';
  qn_log_set(keep_log, NULL);
  qn_status status = qn_sampling_from_gguf(gguf, &said, diag);
  qn_log_set(NULL, NULL);
  qn_buf_init(out_lines, qn_test_allocator());
  qn_sampler_defaults_put(&said, out_lines);
  qn_gguf_close(gguf);
  qn_free(qn_test_allocator(), data, size);
  return status;
}

START_TEST(keys_of_a_file) {
  qn_diag diag = {0};
  qn_buf lines;
  qn_gguf_writer *w = qn_gguf_writer_create(qn_test_allocator());
  qn_gguf_writer_add_f32(w, "general.sampling.temp", 0.6f);
  qn_gguf_writer_add_f32(w, "general.sampling.top_p", 0.95f);
  qn_gguf_writer_add_int(w, "general.sampling.top_k", QN_GGUF_I32, 64);
  qn_gguf_writer_add_f64(w, "general.sampling.min_p", 0.01);
  qn_gguf_writer_add_int(w, "general.sampling.penalty_last_n", QN_GGUF_I32, -1);
  qn_gguf_writer_add_f32(w, "general.sampling.penalty_repeat", 1.05f);
  qn_gguf_writer_add_int(w, "general.sampling.mirostat", QN_GGUF_I32, 0);
  qn_assert_ok(&diag, read_file(w, &lines, &diag));
  ck_assert_str_eq(qn_buf_text(&lines), "sampling.temperature = 0.6\nsampling.top_k = 64\nsampling.top_p = 0.95\n"
                                        "sampling.min_p = 0.01\nsampling.repeat_penalty = 1.05\n"
                                        "sampling.repeat_last = 1048576\n");
  ck_assert_str_eq(last_log, "");
  qn_buf_deinit(&lines);
}
END_TEST

START_TEST(what_is_left_out) {
  qn_diag diag = {0};
  qn_buf lines;
  qn_gguf_writer *w = qn_gguf_writer_create(qn_test_allocator());
  qn_gguf_writer_add_f32(w, "general.sampling.top_p", 1.5f);
  qn_gguf_writer_add_int(w, "general.sampling.top_k", QN_GGUF_I32, 5);
  qn_assert_ok(&diag, read_file(w, &lines, &diag));
  ck_assert_str_eq(qn_buf_text(&lines), "sampling.top_k = 5\n");
  ck_assert_str_eq(last_log, "t.gguf: general.sampling.top_p: got 1.5, want a number above 0 and at most 1: left out");
  qn_buf_deinit(&lines);
  w = qn_gguf_writer_create(qn_test_allocator());
  qn_gguf_writer_add_int(w, "general.sampling.mirostat", QN_GGUF_I32, 2);
  qn_gguf_writer_add_f32(w, "general.sampling.xtc_probability", 0.5f);
  qn_gguf_writer_add_text(w, "general.sampling.sequence", "kpt");
  qn_assert_ok(&diag, read_file(w, &lines, &diag));
  ck_assert_str_eq(qn_buf_text(&lines), "");
  ck_assert_str_eq(last_log, "t.gguf: asks for general.sampling.xtc_probability, general.sampling.mirostat, "
                             "general.sampling.sequence, which quern does not do: left out, so texts may be others than elsewhere");
  qn_buf_deinit(&lines);
  w = qn_gguf_writer_create(qn_test_allocator());
  qn_gguf_writer_add_text(w, "general.sampling.temp", "warm");
  qn_assert_fails(&diag, QN_ERR_FORMAT, "general.sampling.temp", read_file(w, &lines, &diag));
  qn_buf_deinit(&lines);
}
END_TEST

// Lines of an artifact, which may come from anybody.
START_TEST(lines) {
  static const struct {
    qn_sampler_key key;
    const char *text, *error;  // error NULL: it is taken
  } cases[] = {{QN_SAMPLER_TEMPERATURE, "0.25", NULL},
               {QN_SAMPLER_TEMPERATURE, "1e-05", NULL},
               {QN_SAMPLER_TOP_K, "-1", NULL},
               {QN_SAMPLER_TEMPERATURE, "", "sampling.temperature: got '', want a number from 0 to 1000"},
               {QN_SAMPLER_TEMPERATURE, "-0.5", "got '-0.5'"},
               {QN_SAMPLER_TEMPERATURE, "nan", "got 'nan'"},
               {QN_SAMPLER_TEMPERATURE, "1 2", "got '1 2'"},
               {QN_SAMPLER_TEMPERATURE, "1.2.3", "got '1.2.3'"},
               {QN_SAMPLER_TEMPERATURE, "00000000000000000000000000000000000000000", "got '0000"},
               {QN_SAMPLER_TOP_K, "2.5", "want a whole number from 0 to 2147483647"},
               {QN_SAMPLER_TOP_K, "2147483648", "want a whole number"},
               {QN_SAMPLER_TOP_P, "0", "want a number above 0 and at most 1"},
               {QN_SAMPLER_MIN_P, "1.01", "want a number from 0 to 1"},
               {QN_SAMPLER_REPEAT_PENALTY, "0", "want a number above 0 and at most 1000"},
               {QN_SAMPLER_REPEAT_LAST, "1048577", "want a whole number from 0 to 1048576"},
               {QN_SAMPLER_MAX_TOKENS, "0", "want a whole number from 1 to 2147483647"}};
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    qn_sampler_defaults said = {0};
    qn_diag diag = {0};
    qn_status status = qn_sampler_defaults_read(&said, cases[i].key, qn_str_from(cases[i].text), "m.qn", &diag);
    if (cases[i].error) {
      qn_assert_fails(&diag, QN_ERR_FORMAT, cases[i].error, status);
    } else {
      qn_assert_ok(&diag, status);
      ck_assert(said.said[cases[i].key]);
    }
  }
}
END_TEST

QN_CASE(cases, keys_of_a_file, what_is_left_out, lines)

QN_TEST_MAIN(cases)
