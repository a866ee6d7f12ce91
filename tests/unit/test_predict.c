// quern_predict: what a launch takes, of counts made by hand; predictions of a model for every chip, which hold
// together and follow what is asked; options that make no sense.
#include "frontend/predict.h"

#include <math.h>
#include <stdio.h>

#include "tests/support/test.h"

// ---- one launch

static qn_chip chip_of(const char *name) {
  qn_chip chip;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_chip_find(name, "device", &chip, &diag));
  return chip;
}

static predict_time time_of(const qn_chip *chip, const predict_variant *v, qn_gpu_counts counts, double memory_bytes) {
  predict_time time;
  qn_diag diag = {0};
  qn_gpu_traffic none = {0};
  if (!counts.params) counts.params = &none;
  qn_assert_ok(&diag, predict_launch(chip, v, &counts, 1, memory_bytes, &time, &diag));
  double slowest = fmax(fmax(time.bandwidth_s, time.cache_s), fmax(time.issue_s, time.latency_s));
  ck_assert(fabs(time.seconds - slowest - time.start_s) < 1e-15);
  return time;
}

static bool near(double got, double want) { return fabs(got - want) <= 1e-9 * fabs(want); }

// A chip of round figures: each kind of work by itself, at full and at part of the chip.
START_TEST(a_launch) {
  qn_chip chip = chip_of("A100");
  chip.multiprocessors = 100;
  chip.cycles_per_s = 1e9;
  chip.memory_bytes_per_s = 1e12;
  chip.l2_bytes_per_s = 2e12;
  chip.instructions_per_s = 4e11;
  chip.fp32_ops_per_s = chip.i32_ops_per_s = 6.4e12;
  chip.memory_latency_s = 1e-6;
  chip.l2_latency_s = 5e-7;
  predict_variant v = {.name = "k", .schedule = {.lanes = 32, .groups = 4}, .registers = 32};
  predict_time t = time_of(&chip, &v, (qn_gpu_counts){.groups = 4000}, 9e6);
  ck_assert(near(t.bandwidth_s, 1e-5) && t.seconds > 1e-5 && t.seconds < 1.3e-5);
  t = time_of(&chip, &v, (qn_gpu_counts){.groups = 4000, .instructions = 4e6}, 0);
  ck_assert(near(t.issue_s, 1e-5));
  t = time_of(&chip, &v, (qn_gpu_counts){.groups = 4000, .instructions = 4e6, .fp32 = 4e6}, 0);
  ck_assert(near(t.issue_s, 2e-5));  // two cycles each
  t = time_of(&chip, &v, (qn_gpu_counts){.groups = 4000, .shared_requests = 1e6}, 0);
  ck_assert(near(t.issue_s, 1e-5));
  // 10 blocks keep a tenth of the multiprocessors busy.
  t = time_of(&chip, &v, (qn_gpu_counts){.groups = 40, .instructions = 4e6}, 0);
  ck_assert(near(t.issue_s, 1e-4));
  qn_gpu_traffic sectors = {.load_sectors = 1e6 / 32, .store_sectors = 1e6 / 32};
  t = time_of(&chip, &v, (qn_gpu_counts){.groups = 4000, .params = &sectors}, 0);
  ck_assert(near(t.cache_s, 1e-6));
  t = time_of(&chip, &v, (qn_gpu_counts){.groups = 40, .params = &sectors}, 0);
  ck_assert(near(t.cache_s, 2e6 / (10 * 64e9)));
  // 16 blocks of 4 groups a multiprocessor: 6400 groups wait at the same time, more one after another.
  qn_gpu_path path = {.memory = 3, .cache = 2};
  qn_gpu_counts waiting = {.groups = 6400, .longest = path, .all = {.memory = 3 * 6400, .cache = 2 * 6400}};
  t = time_of(&chip, &v, waiting, 0);
  ck_assert(near(t.latency_s, 4e-6));
  waiting.groups *= 3;
  waiting.all = (qn_gpu_path){.memory = 9 * 6400, .cache = 6 * 6400};
  t = time_of(&chip, &v, waiting, 0);
  ck_assert(near(t.latency_s, 12e-6));
  ck_assert(t.start_s > 0 && t.start_s < 1e-5);
}
END_TEST

START_TEST(a_block_that_does_not_fit) {
  qn_chip chip = chip_of("RTX-5090");
  predict_variant v = {.name = "k", .schedule = {.lanes = 128, .groups = 1}, .shared_bytes = 200 << 10};
  predict_time time;
  qn_diag diag = {0};
  qn_assert_fails(
      &diag, QN_ERR_TARGET,
      "k: a block of 128 threads with 204800 bytes of shared memory does not fit a multiprocessor of the RTX-5090",
      predict_launch(&chip, &v, &(qn_gpu_counts){.groups = 1}, 0, 0, &time, &diag));
}
END_TEST

// ---- a model

static const quern_explanation *predict_of(const char *model, const char *device, int64_t prompt, int64_t depth) {
  const quern_explanation *e = NULL;
  quern_error error = {0};
  quern_predict_options options = {.size = sizeof options, .device = device, .prompt_tokens = prompt, .depth = depth};
  ck_assert_msg(quern_predict(qn_test_source(model), &options, &e, &error) == 0, "%s", error.text);
  return e;
}

static const quern_explanation *predict(const char *device, int64_t prompt, int64_t depth) {
  return predict_of("models/nano/nano.gguf", device, prompt, depth);
}

static void check_phase(const quern_explanation *e, const quern_phase_report *p) {
  double share = 0, seconds = 0;
  ck_assert_uint_gt(p->kernel_count, 3);
  ck_assert(p->mbu > 0 && p->mbu <= 1 && p->mfu > 0 && p->mfu <= 1);
  for (size_t i = 0; i < p->kernel_count; i++) {
    const quern_kernel_report *k = &p->kernels[i];
    double largest = fmax(fmax(k->bandwidth_s, k->cache_s), fmax(k->issue_s, k->latency_s));
    qn_check(k->calls > 0 && k->seconds > 0 && isfinite(k->seconds), "%s", k->kernel);
    qn_check(k->bound_s >= 0 && k->bound_s <= k->seconds, "%s on %s: bound %g, time %g", k->kernel, e->host, k->bound_s,
             k->seconds);
    qn_check(k->seconds >= largest && k->seconds >= k->sync_s && k->seconds == k->predicted_s, "%s", k->kernel);
    qn_check(k->wait_s == 0 && k->fault_s == 0 && k->unexplained_s == 0 && k->fallback_s == 0, "%s", k->kernel);
    qn_check(strstr(k->schedule, "lanes = ") && strstr(k->schedule, " of the warps"), "%s: '%s'", k->kernel,
             k->schedule);
    qn_check(strncmp(k->variant, k->kernel, strlen(k->kernel)) == 0, "%s", k->variant);
    qn_check(i == 0 || k->seconds <= p->kernels[i - 1].seconds, "%s is out of order", k->kernel);
    share += k->share;
    seconds += k->seconds;
  }
  ck_assert(fabs(share - 1) < 1e-9 && fabs(seconds - p->seconds) < 1e-9 * seconds);
}

START_TEST(a_model_on_every_chip) {
  for (size_t i = 0; i < qn_chip_count(); i++) {
    char device[64], target[32];
    qn_chip chip = qn_chip_at(i);
    snprintf(device, sizeof device, "cuda:%s", chip.name);
    snprintf(target, sizeof target, "cuda:sm_%d", chip.sm);
    const quern_explanation *e = predict(device, 20, 9);
    ck_assert_str_eq(e->model, "quern nano");
    ck_assert_str_eq(e->target, target);
    ck_assert_str_eq(e->host, chip.name);
    ck_assert_ptr_nonnull(strstr(e->prediction, "a prediction, nothing was run"));
    ck_assert_ptr_nonnull(strstr(e->prediction, chip.source));
    ck_assert_int_eq(e->phases[0].tokens, 20);
    ck_assert_int_eq(e->phases[1].depth, 9);
    for (size_t p = 0; p < e->phase_count; p++) check_phase(e, &e->phases[p]);
    quern_explanation_free(e);
  }
}
END_TEST

static double attention_bytes(const quern_phase_report *phase) {
  double bytes = 0;
  for (size_t i = 0; i < phase->kernel_count; i++) {
    const quern_kernel_report *k = &phase->kernels[i];
    if (strstr(k->kernel, "attention")) bytes += k->memory_bytes;
  }
  return bytes;
}

// More work takes more; a chip with faster memory and all else alike is no slower; the same again is the same.
START_TEST(what_follows) {
  const quern_explanation *a = predict("cuda:H100", 16, 9), *b = predict("cuda:H100", 32, 200);
  const quern_explanation *c = predict("cuda:H200", 16, 9), *d = predict("cuda:sm_90", 16, 9);
  ck_assert(b->phases[0].seconds > a->phases[0].seconds && b->phases[1].seconds > a->phases[1].seconds);
  ck_assert(near(attention_bytes(&a->phases[1]), 3.0 * 10 * 2 * 2 * 64 * 4));  // layers, keys, of K and V, KV heads, of 64 f32
  ck_assert(near(attention_bytes(&b->phases[1]), 3.0 * 201 * 2 * 2 * 64 * 4));
  for (int p = 0; p < 2; p++) {
    ck_assert(c->phases[p].seconds <= a->phases[p].seconds);
    ck_assert(d->phases[p].seconds == a->phases[p].seconds && d->phases[p].mbu == a->phases[p].mbu);
  }
  quern_explanation_free(a);
  quern_explanation_free(b);
  quern_explanation_free(c);
  quern_explanation_free(d);
}
END_TEST

// Multiply-adds of the kernels with such names, which count two.
static double ops_of(const quern_phase_report *phase, const char *name) {
  double ops = 0;
  for (size_t i = 0; i < phase->kernel_count; i++)
    if (strstr(phase->kernels[i].kernel, name)) ops += phase->kernels[i].fp32_ops;
  return ops;
}

// What an encoder does with a source, and a decoder that looks at it: two layers each, of 5 heads of 8 in f32, a width of 32
// and gated products of 24. The one sees all of the source, the other the keys of its own text and, besides, all of the source.
START_TEST(a_source) {
  const quern_explanation *e = predict_of("tests/golden/models/t5_gated", "cuda:H100", 24, 9);
  const double pair = 2 * 2.0 * 5 * 8;
  ck_assert_uint_eq(e->phase_count, 2);
  ck_assert_str_eq(e->phases[0].name, "source");
  ck_assert_str_eq(e->phases[1].name, "decode");
  ck_assert(e->phases[0].tokens == 24 && e->phases[0].depth == 0 && e->phases[1].tokens == 1 && e->phases[1].depth == 9);
  for (int p = 0; p < 2; p++) check_phase(e, &e->phases[p]);
  ck_assert(near(ops_of(&e->phases[0], "attention"), 2 * 24 * 24 * pair));
  ck_assert(near(ops_of(&e->phases[1], "attention"), 2 * (10 + 24) * pair));
  const double width = 32, heads = 5 * 8, inner = 24;
  double layer = 4 * heads * width + 3 * inner * width;  // q, k, v, o; gate, up, down
  double cross = 2 * heads * width;                      // keys and values of the source, or q and o
  ck_assert(near(ops_of(&e->phases[0], "qk_matmul"), 2 * 24 * (2 * layer + 2 * cross)));
  ck_assert(near(ops_of(&e->phases[1], "qk_matmul"), 2 * (2 * layer + 2 * cross + 64 * width)));
  quern_explanation_free(e);
}
END_TEST

// An encoder alone: two layers of 6 heads of 6; each token sees all.
START_TEST(an_encoder) {
  const quern_explanation *e = predict_of("tests/golden/models/minilm", "cuda:H100", 24, 0);
  ck_assert_uint_eq(e->phase_count, 1);
  ck_assert_str_eq(e->phases[0].name, "embed");
  ck_assert(e->phases[0].tokens == 24 && e->phases[0].depth == 0);
  check_phase(e, &e->phases[0]);
  ck_assert(near(attention_bytes(&e->phases[0]), 2 * 24 * 2.0 * 36 * 4));
  ck_assert(near(ops_of(&e->phases[0], "attention"), 2 * 24 * 24 * 2 * 2.0 * 36));
  ck_assert(near(ops_of(&e->phases[0], "qk_matmul"), 2 * 24 * 2.0 * (4 * 36 * 36 + 2 * 36 * 48)));
  quern_explanation_free(e);
}
END_TEST

// ---- errors

static void check_error(const char *path, quern_predict_options options, int code, const char *needle) {
  const quern_explanation *e = NULL;
  quern_error error = {0};
  int got = quern_predict(path, &options, &e, &error);
  ck_assert_ptr_null(e);
  qn_check(got == code && strstr(error.text, needle), "got %d: %s; want %d: %s", got, error.text, code, needle);
}

static bool refuse(void *context, const char *stage, uint64_t done, uint64_t total) {
  (void)context;
  (void)stage;
  (void)done;
  (void)total;
  return false;
}

START_TEST(what_makes_no_sense) {
  size_t size = sizeof(quern_predict_options);
  const char *model = qn_test_source("models/nano/nano.gguf");
  check_error(model, (quern_predict_options){.size = 0}, 2, "got size 0");
  check_error(model, (quern_predict_options){.size = sizeof size - 1}, 2, "got size 7, want sizeof(quern_predict_options)");
  struct {
    quern_predict_options known;
    int64_t unknown;
  } newer = {{.size = sizeof newer, .device = "cuda:H100"}, 1};  // what it wishes for is not known here
  const quern_explanation *none = NULL;
  quern_error error = {0};
  int code = quern_predict(model, &newer.known, &none, &error);
  ck_assert_msg(code == 2 && strstr(error.text, "of a quern_predict_options of"), "got %d: %s", code, error.text);
  check_error(model, (quern_predict_options){.size = size}, 2, "device: got '', want a chip by kind or name");
  check_error(model, (quern_predict_options){.size = size, .device = "cpu"}, 2, "device: got 'cpu', want a chip");
  check_error(model, (quern_predict_options){.size = size, .device = "cuda:sm_70"}, 2, "no chip 'sm_70' is known");
  check_error(model, (quern_predict_options){.size = size, .device = "cuda:H100", .depth = -1}, 2, "want 0 or more");
  check_error(model, (quern_predict_options){.size = size, .device = "cuda:H100", .prompt_tokens = 257}, 8,
              "want a context of at most 256 tokens");
  check_error(model, (quern_predict_options){.size = size, .device = "cuda:H100", .progress = refuse}, 9, "cancelled");
  check_error("/nowhere/model.gguf", (quern_predict_options){.size = size, .device = "cuda:H100"}, 5,
              "/nowhere/model.gguf");
}
END_TEST

QN_CASE(launches, a_launch, a_block_that_does_not_fit)
QN_CASE(models, a_model_on_every_chip, what_follows, a_source, an_encoder, what_makes_no_sense)
QN_TEST_MAIN(launches, models)
