// Architectures on GPUs: the tiny checkpoints of tests/golden/models, compiled for the CPU and for a GPU, give the same
// logits to the bit, in chunks there and in uneven pieces and steps here; encoders the same embeddings, one by one
// there and together here. Needs NVRTC to compile; runs in the simulator, or on the driver that QUERN_TEST_LIBCUDA
// names.
#include <stdio.h>
#include <stdlib.h>

#include "codegen/cuda/nvrtc.h"
#include "tests/ptxsim/support_sim.h"
#include "tests/support/golden_model.h"
#include "tests/support/gpu_program.h"
#include "tests/support/test.h"

static const char *chips[] = {"sm_80", "sm_90", "sm_100", "sm_120"};
static size_t chip_count = QN_COUNT(chips);
static qn_golden_model cases[QN_GOLDEN_MODELS_MAX];
static int case_count;

// One of each kind, which is what the suite takes: a decoder with windows and caps, experts, an encoder, an encoder
// beside a decoder, an encoder with windows.
static const char *const kinds[] = {"gemma2", "qwen3moe_some_dense", "minilm", "t5_gated", "modernbert"};

static const char *evict;  // by what keys are given up, of KEEP; NULL = all stay
enum { KEEP = 16 };

static uint64_t graph_launches(void) {
  ps_driver_counts counts = {0};
  if (qn_test_simulated()) sim.driver_counters(&counts);
  return counts.graph_launches;
}

// How many of the pieces are of one token: a step of a loop.
static uint64_t single_tokens(const qn_golden_expectation *e, const int *pieces, size_t piece_count) {
  uint64_t steps = 0;
  for (size_t i = 0, done = 0; done < e->count; i++) {
    size_t piece = (size_t)pieces[i % piece_count];
    steps += piece == 1 || e->count - done == 1;
    done += piece;
  }
  return steps;
}

// In chunks or pieces, or the texts together. A step on a GPU is one graph.
static void evaluate(const char *path, const char *device, const qn_golden_expectation *e, const int *pieces,
                     size_t piece_count, float *out) {
  quern_error error;
  quern_model *model = NULL;
  quern_session *session = NULL;
  quern_model_options how = {.size = sizeof how, .device = device, .libcuda = device ? qn_test_libcuda() : NULL};
  quern_session_options options = {.size = sizeof options, .threads = device ? 0 : 2, .no_pin = true};
  if (e->encoder) options.sequences = QN_GOLDEN_SEQUENCES;
  if (evict) options.kv_evict = evict, options.kv_keep = KEEP;
  ck_assert_msg(quern_model_open(path, &how, &model, &error) == 0, "%s", error.text);
  ck_assert_msg(quern_session_create(model, &options, &session, &error) == 0, "%s", error.text);
  uint64_t before = graph_launches();
  if (e->encoder) {
    qn_golden_model_embed(session, e, (size_t)pieces[0], out);
  } else {
    ck_assert_int_eq(quern_model_vocab_size(model), e->logits->dims[1]);
    qn_golden_model_evaluate(session, e, pieces, piece_count, out);
  }
  if (device && qn_test_simulated() && !e->encoder && !evict)  // a piece is cut where keys go
    ck_assert_uint_eq(graph_launches() - before, single_tokens(e, pieces, piece_count));
  quern_session_destroy(session);
  quern_model_close(model);
}

static void check_chip(const qn_golden_model *c, const qn_golden_expectation *e, const char *chip) {
  static const int whole[] = {QN_GOLDEN_TOKENS_MAX}, uneven[] = {17, 1, 3, 1}, single[] = {1};
  char target[64];
  quern_error error;
  const char *path = qn_test_temp_path("model.qn");
  size_t width = (size_t)e->logits->dims[1], values = (e->encoder ? e->positions->count : e->count) * width;
  float *want = malloc(values * sizeof *want), *got = malloc(values * sizeof *got);
  ck_assert(want && got);
  snprintf(target, sizeof target, "host,cuda:%s", chip);
  quern_compile_options options;
  qn_golden_model_options(e, &options);
  options.target = target;
  if (evict) options.kv_evict = evict, options.kv_type = "int4";
  ck_assert_msg(quern_compile(c->path, path, &options, &error) == 0, "%s", error.text);
  if (qn_test_simulated()) sim_start(chip);
  if (qn_test_simulated()) sim_set("warp_order", "shuffle"), sim_set("block_order", "reverse");
  evaluate(path, NULL, e, e->encoder ? single : whole, 1, want);
  evaluate(path, "cuda", e, e->encoder ? whole : uneven, e->encoder ? 1 : QN_COUNT(uneven), got);
  for (size_t i = 0; i < values; i++)
    qn_check(memcmp(&got[i], &want[i], sizeof *got) == 0, "%s on %s: value %zu of row %zu: got %a, want %a", c->path,
             chip, i % width, i / width, (double)got[i], (double)want[i]);
  free(want);
  free(got);
}

// With QUERN_TEST_ALL every folder is compiled for two chips in turn, one of each of NVRTC's front ends (before sm_100
// and since); else each kind for one chip, and under sanitizers every second kind.
static bool is_taken(const qn_golden_model *c, size_t chip) {
  size_t stride = qn_test_stride(1, 2), number = (size_t)(c - cases);
  const char *all = getenv("QUERN_TEST_ALL");
  if (all && *all && strcmp(all, "0") != 0) return chip_count == 1 || chip % 2 == number % 2;
  for (size_t i = 0; i < QN_COUNT(kinds); i++)
    if (strcmp(qn_golden_model_name(c), kinds[i]) == 0) return (i + 1) % stride == 0 && i % chip_count == chip;
  return false;
}

START_TEST(same_bits) {
  const qn_golden_model *c = &cases[_i];
  for (size_t chip = 0; chip < chip_count; chip++) {
    qn_golden_expectation e;
    if (!is_taken(c, chip)) continue;
    qn_golden_model_expect(c, &e);
    check_chip(c, &e, chips[chip]);
    qn_safetensors_close(e.file);
    if (getenv("QUERN_TEST_SHOW")) printf("%s on %s\n", qn_golden_model_name(c), chips[chip]);
  }
}
END_TEST

// Keys that are given up, by queries, which come from the device, and in codes, of keys whose channels are balanced, which are moved there and back.
START_TEST(evicted_keys) {
  qn_golden_expectation e;
  int i = 0;
  while (i < case_count && strcmp(qn_golden_model_name(&cases[i]), "llama") != 0) i++;
  ck_assert_msg(i < case_count, "no folder 'llama'");
  qn_golden_model_expect(&cases[i], &e);
  ck_assert_uint_gt(e.count, 2 * KEEP);
  evict = "heavy";
  check_chip(&cases[i], &e, chips[0]);
  evict = NULL;
  qn_safetensors_close(e.file);
}
END_TEST

START_TEST(kinds_are_there) {
  for (size_t i = 0; i < QN_COUNT(kinds); i++) {
    int found = 0;
    for (int j = 0; j < case_count; j++) found += strcmp(qn_golden_model_name(&cases[j]), kinds[i]) == 0;
    ck_assert_msg(found == 1, "no folder '%s'", kinds[i]);
  }
}
END_TEST

// A real device is one chip.
static void find_chips(void) {
  static char target[64], chip[16];
  qn_diag diag = {0};
  quern_error error;
  qn_cuda_info info;
  size_t count = 0;
  if (qn_test_simulated()) sim_open();
  if (qn_cuda_list(qn_test_libcuda(), &info, 1, &count, &diag) != QN_OK) qn_test_skip("%s", diag.text);
  if (qn_test_simulated()) return;
  snprintf(chip, sizeof chip, "sm_%d", info.sm);
  if (quern_gpu_target(chip, target, sizeof target, &error) != 0) qn_test_skip("%s", error.text);
  chips[0] = strchr(target, ':') + 1;
  chip_count = 1;
}

static TCase *architectures(void) {
  qn_diag diag = {0};
  qn_nvrtc *nvrtc = NULL;
  if (qn_nvrtc_open(NULL, qn_allocator_default(), &nvrtc, &diag) != QN_OK) qn_test_skip("%s", diag.text);
  qn_nvrtc_close(nvrtc);
  find_chips();
  int found = qn_golden_models_find(cases);
  for (int i = 0; i < found; i++)  // of a GGUF file the graph is that of the folder
    if (!strstr(cases[i].path, ".gguf")) cases[case_count++] = cases[i];
  TCase *tcase = qn_test_case("architectures", NULL, 0);
  tcase_add_test(tcase, kinds_are_there);
  tcase_add_test(tcase, evicted_keys);
  tcase_add_loop_test(tcase, same_bits, 0, case_count);
  tcase_set_timeout(tcase, 600);
  return tcase;
}

QN_TEST_MAIN(architectures)
