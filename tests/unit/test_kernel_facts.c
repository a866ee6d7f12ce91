// What an artifact tells of its kernels: written by the compiler, read back the same; texts that are damaged.
#include "frontend/kernel_facts.h"

#include <stdio.h>

#include "frontend/quern.h"
#include "runtime/artifact.h"
#include "tests/support/test.h"

static qn_artifact artifact;
static qn_str text;

static void open_nano(void) {
  quern_error error = {0};
  qn_diag diag = {0};
  const char *path = qn_test_temp_path("nano.qn");
  quern_compile_options options = {.size = sizeof options, .target = "host", .quant = "q8_0"};
  ck_assert_msg(quern_compile(qn_test_source("models/nano/nano.gguf"), path, &options, &error) == 0, "%s", error.text);
  qn_assert_ok(&diag, qn_artifact_open(&artifact, path, &diag));
  size_t size = 0;
  text.data = qn_artifact_section(&artifact, QN_SECTION_KERNELS, 0, &size);
  text.length = size;
}

// Every kernel is there with loops as many parameters as its steps give; the costs of all steps are the whole's.
START_TEST(read_back) {
  qn_arena arena;
  qn_diag diag = {0};
  quern_kernel_cost sum = {0};
  qn_arena_init(&arena, qn_test_allocator());
  bool matmul = false, attention = false;
  for (uint32_t i = 0; i < artifact.program->step_count; i++) {
    const qn_art_kernel *record = &artifact.kernels[artifact.steps[i].kernel];
    const char *name = artifact.strings + record->name;
    qn_pkernel kernel;
    quern_kernel_cost cost;
    qn_assert_ok(&diag, quern_read_kernel("nano.qn", text, name, &arena, &kernel, &cost, &diag));
    ck_assert_str_eq(kernel.name, name);
    ck_assert_uint_eq(kernel.plain->param_count, record->param_count);
    ck_assert_uint_eq((uint32_t)kernel.rows, record->rows_symbol);
    ck_assert_ptr_nonnull(strstr(kernel.signature, "leaves"));
    ck_assert(kernel.is_matmul == (kernel.k > 0 && kernel.panels > 0 && kernel.products > 0));
    if (kernel.is_matmul) ck_assert_int_eq(kernel.weights, QN_DTYPE_Q8_0);
    matmul = matmul || kernel.is_matmul;
    attention = attention || (kernel.tile_rows > 0 && cost.f32_macs_pair > 0 && cost.key_bytes > 0);
#define X(field, meaning) sum.field += cost.field;
    QUERN_KERNEL_COSTS(X)
#undef X
  }
  ck_assert(matmul && attention);
  quern_error error;
  quern_model *model;
  quern_model_cost whole = {.size = sizeof whole};
  ck_assert_int_eq((int)quern_model_open(artifact.path, NULL, &model, &error), 0);
  ck_assert(quern_model_get_cost(model, &whole));
  quern_model_close(model);
  ck_assert_uint_eq(sum.weight_bytes, whole.weight_bytes);
  ck_assert_uint_eq(sum.token_bytes, whole.token_bytes);
  ck_assert_uint_eq(sum.key_bytes, whole.key_bytes);
  ck_assert_uint_eq(sum.int8_macs_token, whole.int8_macs_token);
  ck_assert_uint_eq(sum.int8_macs_row, whole.int8_macs_row);
  ck_assert_uint_eq(sum.f32_macs_pair, whole.f32_macs_key);
  ck_assert_uint_eq(sum.int8_macs_pair, whole.int8_macs_key);
  ck_assert_uint_eq(sum.narrow_macs_token, whole.narrow_macs_token);
  ck_assert_uint_eq(sum.narrow_macs_row, whole.narrow_macs_row);
  ck_assert_uint_eq(sum.narrow_macs_pair, whole.narrow_macs_key);
  ck_assert(whole.int8_macs_token > 0 && whole.narrow_macs_token == 0 && whole.narrow_macs_row == 0);  // all of Q8_0
  ck_assert_uint_gt(sum.value_bytes_token, 0);
  ck_assert_uint_gt(sum.flops_token, 0);
  qn_arena_deinit(&arena);
}
END_TEST

START_TEST(schedules) {
  uint32_t first, count;
  qn_artifact_plan(&artifact, 0, &first, &count);
  ck_assert_uint_gt(count, 0);
  for (uint32_t i = first; i < first + count; i++) {
    qn_schedule schedule;
    qn_diag diag = {0};
    const char *name = artifact.strings + artifact.variants[i].name;
    qn_assert_ok(&diag, quern_read_schedule("nano.qn", text, 0, name, &schedule, &diag));
    ck_assert_int_eq(schedule.parallel, 1);
  }
  qn_schedule schedule;
  qn_diag diag = {0};
  qn_assert_fails(&diag, QN_ERR_FORMAT, "kernel 'qk_none': its schedule is not there; compile the model again",
                  quern_read_schedule("nano.qn", text, 0, "qk_none", &schedule, &diag));
}
END_TEST

// A text with one place changed.
static void expect(const char *from, const char *to, const char *needle) {
  qn_buf changed;
  qn_arena arena;
  qn_pkernel kernel;
  quern_kernel_cost cost;
  qn_diag diag = {0};
  const char *name = artifact.strings + artifact.kernels[artifact.steps[1].kernel].name;
  qn_arena_init(&arena, qn_test_allocator());
  qn_buf_init(&changed, qn_test_allocator());
  char start[256];
  snprintf(start, sizeof start, "\n# kernel %s\n", name);
  const char *record = memmem(text.data, text.length, start, strlen(start));
  ck_assert_ptr_nonnull(record);
  const char *at = memmem(record, (size_t)(text.data + text.length - record), from, strlen(from));
  ck_assert_ptr_nonnull(at);
  qn_buf_append(&changed, text.data, (size_t)(at - text.data));
  qn_buf_puts(&changed, to);
  at += strlen(from);
  qn_buf_append(&changed, at, (size_t)(text.data + text.length - at));
  qn_assert_fails(
      &diag, QN_ERR_FORMAT, needle,
      quern_read_kernel("nano.qn", (qn_str){changed.data, changed.length}, name, &arena, &kernel, &cost, &diag));
  qn_buf_deinit(&changed);
  qn_arena_deinit(&arena);
}

START_TEST(damaged) {
  expect("\n# kernel qk_", "\n# kernel qx_", "its facts are not there; compile the model again");
  expect("#   k = ", "#   K = ", "its facts lack one");
  expect("#   products = 1", "#   products = 99999", "a fact is no value that makes sense");
  expect("#   rows = T", "#   rows = Z", "a fact is no value that makes sense");
  expect("#   weights = q8_0", "#   weights = q9_9", "a fact is no value that makes sense");
  expect("cost.weight_bytes = ", "cost.weight_bytes = 99999999999999999999", "what it costs is not told");
  expect("#   signature", "#   sign", "its signature is not there");
  expect("\nkernel \"", "\nkettle \"", "kernel");
  expect("\nkernel \"", "\nkernel \"other\" {\n}\nkernel \"", "want its loops once");
}
END_TEST

// Gemma 3's small model: five layers of six, of 384 bytes and multiply-adds a key in all, see 29 keys at most.
START_TEST(windows_end_what_attention_costs) {
  static const struct {
    int64_t depth, tokens;
    double in_window, pairs_in_window;  // keys that are read, pairs of a token and a key
  } cases[] = {{0, 10, 10, 55}, {0, 29, 29, 435}, {20, 20, 40, 544}, {28, 1, 29, 29}, {100, 1, 29, 29}, {100, 3, 31, 87}};
  const char *path = qn_test_temp_path("gemma3.qn");
  quern_error error = {0};
  quern_model *model;
  quern_model_cost cost = {.size = sizeof cost};
  double bytes, macs;
  ck_assert_msg(quern_compile(qn_test_source("tests/golden/models/gemma3"), path, NULL, &error) == 0, "%s", error.text);
  ck_assert_int_eq((int)quern_model_open(path, NULL, &model, &error), 0);
  ck_assert(quern_model_get_cost(model, &cost));
  ck_assert_uint_eq(cost.key_bytes, 384);
  ck_assert_uint_eq(cost.f32_macs_key, 384);
  ck_assert(!quern_model_get_cost(model, &(quern_model_cost){0}));
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    double depth = (double)cases[i].depth, tokens = (double)cases[i].tokens;
    ck_assert(quern_model_get_attention_cost(model, cases[i].depth, cases[i].tokens, &bytes, &macs));
    ck_assert_double_eq(bytes, 320 * cases[i].in_window + 64 * (depth + tokens));
    ck_assert_double_eq(macs, 320 * cases[i].pairs_in_window + 64 * (tokens * depth + tokens * (tokens + 1) / 2));
  }
  quern_model_close(model);
}
END_TEST

// Multiply-adds by codes of few bits are told beside all those of codes; of floats there are neither.
START_TEST(codes_of_few_bits) {
  static const struct {
    const char *quant;
    bool codes, narrow;
  } cases[] = {{NULL, false, false}, {"q4_0", true, true}, {"q8_0", true, false}};
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    const char *path = qn_test_temp_path("narrow.qn");
    quern_compile_options options = {.size = sizeof options, .quant = cases[i].quant};
    quern_error error = {0};
    quern_model *model;
    quern_model_cost cost = {.size = sizeof cost};
    int code = quern_compile(qn_test_source("tests/golden/models/gemma3"), path, &options, &error);
    ck_assert_msg(code == 0 && quern_model_open(path, NULL, &model, &error) == 0, "%s", error.text);
    ck_assert(quern_model_get_cost(model, &cost));
    ck_assert((cost.int8_macs_token > 0) == cases[i].codes && (cost.int8_macs_row > 0) == cases[i].codes);
    ck_assert_uint_eq(cost.narrow_macs_token, cases[i].narrow ? cost.int8_macs_token : 0);
    ck_assert_uint_eq(cost.narrow_macs_row, cases[i].narrow ? cost.int8_macs_row : 0);
    quern_model_close(model);
  }
}
END_TEST

QN_CASE(kernel_facts, windows_end_what_attention_costs, codes_of_few_bits, read_back, schedules, damaged)

static TCase *all(void) {
  TCase *tests = kernel_facts();
  tcase_add_unchecked_fixture(tests, open_nano, NULL);
  return tests;
}

QN_TEST_MAIN(all)
