// quern explain as a library: what limits a kernel, of planted terms; explanations of a model with exact costs; JSON
// that is read back, and damaged; options that make no sense.
#include "frontend/explain.h"

#include <math.h>
#include <stdio.h>

#include "autotune/db.h"
#include "tests/support/test.h"

static const char *artifact_path;

static void compile_nano(void) {
  quern_error error = {0};
  artifact_path = qn_test_temp_path("nano.qn");
  quern_compile_options options = {.size = sizeof options};
  ck_assert_msg(quern_compile(qn_test_source("models/nano/nano.gguf"), artifact_path, &options, &error) == 0, "%s",
                error.text);
}

static quern_model *open_nano(void) {
  quern_error error = {0};
  quern_model *model = NULL;
  ck_assert_msg(quern_model_open(artifact_path, NULL, &model, &error) == QUERN_OK, "%s", error.text);
  return model;
}

// ---- what limits a kernel

START_TEST(limits) {
  size_t count;
  const quern_explain_term *terms = quern_explain_terms(&count);
  ck_assert_uint_ge(count, 6);
  for (size_t i = 0; i < count; i++) {
    quern_kernel_report k = {.bandwidth_s = 1, .cache_s = 1, .issue_s = 1, .latency_s = 1, .sync_s = 1};
    double largest = 3;
    memcpy((char *)&k + terms[i].offset, &largest, sizeof largest);
    ck_assert_str_eq(explain_limit(&k), terms[i].name);
  }
  // What other instructions would save is a part of issuing: the two together are one limit, by the name that helps.
  quern_kernel_report split = {.bandwidth_s = 1.5, .issue_s = 1, .fallback_s = 1};
  ck_assert_str_eq(explain_limit(&split), "fallback ISA");
  split.fallback_s = 0.05;
  ck_assert_str_eq(explain_limit(&split), "bandwidth");
  split.bandwidth_s = 1.01;
  ck_assert_str_eq(explain_limit(&split), "issue");
}
END_TEST

START_TEST(first_quarter) {
  double values[] = {9, 1, 5, 2, 8, 3, 7, 4};
  ck_assert(explain_undisturbed(values, 8) == 3);
  ck_assert(explain_undisturbed(values, 1) == 1);
  ck_assert(explain_undisturbed(values, 0) == 0);
}
END_TEST

// ---- a model

static const quern_kernel_report *find(const quern_phase_report *phase, const char *start) {
  for (size_t i = 0; i < phase->kernel_count; i++) {
    if (strncmp(phase->kernels[i].kernel, start, strlen(start)) == 0) return &phase->kernels[i];
  }
  return NULL;
}

static void check_phase(const quern_explanation *e, const quern_phase_report *p) {
  double share = 0;
  ck_assert_uint_gt(p->kernel_count, 3);
  ck_assert(p->seconds > 0 && p->bound_s > 0 && p->mbu > 0 && p->mfu > 0 && p->first_s > 0);
  for (size_t i = 0; i < p->kernel_count; i++) {
    const quern_kernel_report *k = &p->kernels[i];
    qn_check(k->calls > 0 && k->bound_s > 0 && k->seconds >= 0, "%s", k->kernel);
    qn_check(k->kernel_s + k->wait_s <= k->seconds * 1.000001 + 1e-12, "%s", k->kernel);
    qn_check(k->predicted_s > 0 && isfinite(k->predicted_s), "%s", k->kernel);
    qn_check(strlen(k->limit) > 0 && strstr(k->schedule, "parallel = "), "%s: '%s'", k->kernel, k->schedule);
    qn_check(strncmp(k->variant, k->kernel, strlen(k->kernel)) == 0, "%s", k->variant);
    qn_check(i == 0 || k->seconds <= p->kernels[i - 1].seconds, "%s is out of order", k->kernel);
    share += k->share;
  }
  ck_assert(share <= 1.000001);
  ck_assert(e->read_bytes_per_s > 0 && e->int8_ops_per_s > 0 && e->fp32_ops_per_s > 0);
}

// Costs are exact: of the model's shapes, not of the clock.
START_TEST(a_model) {
  quern_error error = {0};
  quern_model *model = open_nano();
  const quern_explanation *e = NULL;
  quern_explain_options options = {
      .size = sizeof options, .threads = 2, .prompt_tokens = 20, .depth = 9, .repetitions = 1, .tuning_db = "none"};
  ck_assert_msg(quern_explain(model, &options, &e, &error) == 0, "%s", error.text);
  quern_model_close(model);  // which the explanation outlives
  ck_assert_str_eq(e->model, "quern nano");
  ck_assert_str_eq(e->target, e->host);
  ck_assert_str_eq(e->lacking, "");
  ck_assert_int_eq(e->threads, 2);
  ck_assert_uint_eq(e->phase_count, 2);
  const quern_phase_report *prefill = &e->phases[0], *decode = &e->phases[1];
  ck_assert_str_eq(prefill->name, "prefill");
  ck_assert_int_eq(prefill->tokens, 20);
  ck_assert_int_eq(decode->depth, 9);
  check_phase(e, prefill);
  check_phase(e, decode);
  // Three layers' products of 256 to 512, in F16.
  const quern_kernel_report *k = find(decode, "qk_matmul_f16_f32_n512_k256");
  ck_assert_ptr_nonnull(k);
  k = find(prefill, "qk_matmul_f16_f32_n256_k512");
  ck_assert_ptr_nonnull(k);
  ck_assert_int_eq(k->calls, 3);
  ck_assert(k->memory_bytes == 3.0 * 512 * 256 * 2);
  ck_assert(k->fp32_ops == 3.0 * 20 * 2 * 512 * 256);
  ck_assert(k->int8_ops == 0);
  // Attention: 20 tokens see 1 to 20 keys, of which each is read once; a token after 9 keys sees 10.
  k = find(prefill, "qk_attention_h4_d64");
  ck_assert_ptr_nonnull(k);
  ck_assert(k->fp32_ops == 3.0 * 210 * 2 * 2 * 4 * 64);
  ck_assert(k->memory_bytes == 3.0 * 20 * 2 * 2 * 64 * 4);
  k = find(decode, "qk_attention_h4_d64");
  ck_assert(k->fp32_ops == 3.0 * 10 * 2 * 2 * 4 * 64);
  quern_explanation_free(e);
}
END_TEST

// What the database holds of a kernel stands beside it; what it holds of other machines does not.
START_TEST(records) {
  qn_diag diag = {0};
  qn_arena arena;
  qn_artifact artifact;
  qn_pkernel kernel;
  qn_buf fingerprint;
  qn_db *db = NULL;
  size_t size = 0;
  const char *path = qn_test_temp_path("tuning.db"), *name = "qk_matmul_f16_f32_n256_k512";
  qn_arena_init(&arena, qn_test_allocator());
  qn_buf_init(&fingerprint, qn_test_allocator());
  qn_machine_fingerprint(2, &fingerprint);
  qn_assert_ok(&diag, qn_artifact_open(&artifact, artifact_path, &diag));
  const char *text = qn_artifact_section(&artifact, QN_SECTION_KERNELS, 0, &size);
  qn_assert_ok(&diag, quern_read_kernel("nano.qn", (qn_str){text, size}, name, &arena, &kernel, NULL, &diag));
  quern_model *model = open_nano();
  qn_record record = {.signature = kernel.signature,
                      .target = quern_model_target(model),
                      .fingerprint = qn_buf_text(&fingerprint),
                      .generator = "another build",
                      .threads = 2,
                      .rows_min = 2,
                      .rows_max = 100,
                      .rows = 20,
                      .schedule = "parallel = 1",
                      .verdict = QN_VERDICT_OK,
                      .median_s = 12e-6,
                      .bound_s = 6e-6,
                      .samples = 3};
  qn_assert_ok(&diag, qn_db_open(path, false, qn_test_allocator(), &db, &diag));
  qn_assert_ok(&diag, qn_db_put(db, &record, &diag));
  record.verdict = QN_VERDICT_WRONG;
  record.median_s = 1e-6;
  qn_assert_ok(&diag, qn_db_put(db, &record, &diag));
  record.fingerprint = "another machine";
  qn_assert_ok(&diag, qn_db_put(db, &record, &diag));
  qn_db_close(db);
  quern_error error = {0};
  const quern_explanation *e = NULL;
  quern_explain_options options = {
      .size = sizeof options, .threads = 2, .prompt_tokens = 20, .repetitions = 1, .tuning_db = path};
  ck_assert_msg(quern_explain(model, &options, &e, &error) == 0, "%s", error.text);
  const quern_kernel_report *k = find(&e->phases[0], name);
  ck_assert_int_eq(k->tried, 2);
  ck_assert_int_eq(k->failed, 1);
  ck_assert(k->tuned_s == 12e-6);
  ck_assert_str_eq(
      k->tuning,
      "2 candidates tried, of which 1 failed, 2 by other builds; the fastest took 12 us a call, 50 % of its "
      "bound");
  ck_assert_str_eq(find(&e->phases[1], name)->tuning, "");  // for other numbers of rows
  ck_assert_str_eq(find(&e->phases[0], "qk_rmsnorm")->tuning, "");
  quern_explanation_free(e);
  quern_model_close(model);
  qn_artifact_close(&artifact);
  qn_buf_deinit(&fingerprint);
  qn_arena_deinit(&arena);
}
END_TEST

static bool refuse(void *context, const char *stage, uint64_t done, uint64_t total) {
  (void)context, (void)stage, (void)done, (void)total;
  return false;
}

static void expect(const quern_explain_options *options, int code, const char *needle) {
  quern_error error = {0};
  quern_model *model = open_nano();
  const quern_explanation *e = NULL;
  ck_assert_int_eq(quern_explain(model, options, &e, &error), code);
  ck_assert_ptr_null(e);
  qn_check(strstr(error.text, needle), "'%s' lacks '%s'", error.text, needle);
  quern_model_close(model);
}

START_TEST(options_of_no_sense) {
  quern_explain_options o = {.size = 0};
  expect(&o, QUERN_ERR_ARGUMENT, "options: got size 0, want sizeof(quern_explain_options) in it");
  o = (quern_explain_options){.size = sizeof o, .prompt_tokens = -1};
  expect(&o, QUERN_ERR_ARGUMENT, "got a prompt of -1 tokens");
  o = (quern_explain_options){.size = sizeof o, .repetitions = 5000};
  expect(&o, QUERN_ERR_ARGUMENT, "got 5000 repetitions, want 1 to 1000");
  o = (quern_explain_options){.size = sizeof o, .prompt_tokens = 300};
  expect(&o, QUERN_ERR_LIMIT, "got a prompt of 300 tokens and a depth of 300, want a context of at most 256 tokens");
  o = (quern_explain_options){.size = sizeof o, .prompt_tokens = 8, .depth = 256};
  expect(&o, QUERN_ERR_LIMIT, "a depth of 256, want a context of at most 256 tokens");
  o = (quern_explain_options){.size = sizeof o, .prompt_tokens = 8, .progress = refuse};
  expect(&o, QUERN_ERR_CANCELLED, "cancelled by the caller");
}
END_TEST

// ---- JSON

static const char good[] =
    "{\"quern\": \"0\", \"model\": \"m\", \"target\": \"t\", \"host\": \"t\", \"lacking\": \"\", \"prediction\": \"\", \"threads\": 2, "
    "\"read_bytes_per_s\": 1, \"int8_ops_per_s\": 1, \"narrow_ops_per_s\": 1, \"fp32_ops_per_s\": 1, \"target_int8_ops_per_s\": 1, "
    "\"target_narrow_ops_per_s\": 1, "
    "\"target_fp32_ops_per_s\": 1, \"fault_s\": 0, \"prefill\": PHASE, \"decode\": PHASE}";
static const char good_phase[] =
    "{\"threads\": 1, \"tokens\": 1, \"depth\": 0, \"seconds\": 2.5, \"outside_s\": 0, \"bound_s\": 1, \"mbu\": 0.5, "
    "\"mfu\": 0.1, "
    "\"stream_bytes_per_s\": 1, \"first_s\": 1, \"first_minor_faults\": 0, \"first_major_faults\": 0, "
    "\"minor_faults\": 0, \"major_faults\": 0, \"interrupted\": 0, \"kernels\": []}";

static const char *write_json(const char *from, const char *to) {
  static char text[8192], changed[8192];
  const char *at = strstr(good, "PHASE"), *second = strstr(at + 1, "PHASE");
  snprintf(text, sizeof text, "%.*s%s%.*s%s%s", (int)(at - good), good, good_phase, (int)(second - at - 5), at + 5,
           good_phase, second + 5);
  const char *place = *from ? strstr(text, from) : text;
  ck_assert_ptr_nonnull(place);
  snprintf(changed, sizeof changed, "%.*s%s%s", (int)(place - text), text, to, place + strlen(from));
  const char *path = qn_test_temp_path("explain.json");
  qn_test_write_file(path, changed, strlen(changed));
  return path;
}

static void expect_damaged(const char *from, const char *to, const char *needle) {
  quern_error error = {0};
  const quern_explanation *e = NULL;
  int code = quern_explanation_read(write_json(from, to), &e, &error);
  qn_check(code == QUERN_ERR_FORMAT && strstr(error.text, needle), "got %d '%s', want '%s'", code, error.text, needle);
  ck_assert_ptr_null(e);
}

START_TEST(json) {
  quern_error error = {0};
  const quern_explanation *e = NULL;
  ck_assert_msg(quern_explanation_read(write_json("", ""), &e, &error) == 0, "%s", error.text);
  ck_assert(e->phases[1].seconds == 2.5 && e->phases[0].kernel_count == 0 && e->threads == 2);
  quern_explanation_free(e);
  quern_explanation_free(NULL);
  expect_damaged("\"mfu\": 0.1", "\"MFU\": 0.1", "prefill.mfu: is not there; want what quern explain --json writes");
  expect_damaged("\"seconds\": 2.5", "\"seconds\": \"2\"", "prefill.seconds: got a text, want a number");
  expect_damaged("\"seconds\": 2.5", "\"seconds\": -1", "prefill.seconds: got -1, want 0 or more");
  expect_damaged("\"decode\": ", "\"encode\": ", "decode: is not there; want what quern explain --json writes");
  expect_damaged("\"kernels\": []", "\"kernels\": [{}]", "prefill.kernels[0].kernel: is not there");
  expect_damaged("\"kernels\": []", "\"kernels\": 7", "prefill.kernels: got a number, want a list");
  expect_damaged("{", "[", "not JSON");
  ck_assert_int_eq(quern_explanation_read(qn_test_temp_path("none.json"), &e, &error), QUERN_ERR_IO);
}
END_TEST

QN_CASE(explain, limits, first_quarter, a_model, records, options_of_no_sense, json)

static TCase *all(void) {
  TCase *tests = explain();
  tcase_add_unchecked_fixture(tests, compile_nano, NULL);
  tcase_set_timeout(tests, 120);
  return tests;
}

QN_TEST_MAIN(all)
