// The op `sample` and the runtime's sampler choose the same tokens: the same logits, options and random numbers, for
// vocabularies around the sizes at which the kernels' loops change, with equal logits and forbidden tokens.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/sampler.h"
#include "tests/support/graph_run.h"
#include "tests/support/test.h"

enum { ROWS = 6 };

// Runs the program's kernels as lowered on these logits (rows, vocab) and settings; `rows` at most those that the
// program has room for.
static void run_op(const qn_program *program, float *logits, int rows, int vocab, qn_sampling *settings,
                   int32_t *out_tokens) {
  qn_diag diag = {0};
  void *memory[16];
  int64_t symbols[QN_SYM_COUNT] = {[QN_SYM_R] = rows};
  ck_assert_uint_le(program->buffers.count, QN_COUNT(memory));
  for (size_t i = 0; i < program->buffers.count; i++) memory[i] = calloc(1, (size_t)program->buffers.items[i].bytes);
  for (size_t s = 0; s < program->steps.count; s++) {
    const qn_pstep *step = &program->steps.items[s];
    const qn_lkernel *kernel = program->kernels.items[step->kernel].plain;
    qn_linterp_buffer bound[16];
    for (size_t p = 0; p < kernel->param_count; p++) {
      const qn_pbuf *buffer = &program->buffers.items[step->buffers[p]];
      bool of_logits = buffer->kind == QN_PB_INPUT && buffer->type.dtype == QN_DTYPE_F32;
      bound[p] = (qn_linterp_buffer){memory[step->buffers[p]], (size_t)buffer->bytes};
      if (of_logits) bound[p] = (qn_linterp_buffer){logits, (size_t)rows * (size_t)vocab * sizeof *logits};
      if (buffer->kind == QN_PB_INPUT && !of_logits)
        bound[p] = (qn_linterp_buffer){settings, (size_t)rows * sizeof *settings};
    }
    qn_assert_ok(&diag, qn_lkernel_interpret(kernel, bound, symbols, 0, INT64_MAX, qn_test_allocator(), &diag));
  }
  for (size_t i = 0; i < program->buffers.count; i++) {
    if (program->buffers.items[i].name && strcmp(program->buffers.items[i].name, "token") == 0)
      memcpy(out_tokens, memory[i], (size_t)rows * sizeof *out_tokens);
    free(memory[i]);
  }
}

static float made_up_logit(qn_test_random *random, int kind) {
  double u = qn_test_random_unit(random) * 2 - 1;
  switch (kind) {
    case 0: return (float)(u * 20);
    case 1: return (float)u;             // a large nucleus
    case 2: return (float)trunc(u * 4);  // many equal ones, zeros of both signs
    default: return u < 0 ? -INFINITY : (float)(u * u * 9);
  }
}

static void check_vocabulary(int vocab, size_t turns) {
  static const int32_t ks[] = {0, 1, 2, 40, 5000};
  static const double ps[] = {1, 0.95, 0.3}, ms[] = {0, 0.05, 1}, temperatures[] = {1, 0, 0.3, 4};
  char sizes[32];
  snprintf(sizes, sizeof sizes, "V=%d", vocab);
  qn_run *run = qn_run_create(
      "max R=6; x = input f32[R,$V]; sampling = input i32[R,8]; token = sample x sampling\n"
      "output token",
      sizes, NULL);
  qn_test_random random = {(uint64_t)vocab};
  float *logits = malloc(ROWS * (size_t)vocab * sizeof *logits);
  for (size_t turn = 0; turn < turns; turn++) {
    qn_sampling settings[ROWS];
    int32_t got[ROWS], want[ROWS];
    qn_diag diag = {0};
    for (size_t row = 0; row < ROWS; row++) {
      size_t j = turn * ROWS + row + (size_t)vocab;  // each size takes other options
      qn_sampler_options options = {.temperature = temperatures[j / 7 % QN_COUNT(temperatures)],
                                    .top_k = ks[j % QN_COUNT(ks)],
                                    .top_p = ps[j / 5 % QN_COUNT(ps)],
                                    .min_p = ms[j / 3 % QN_COUNT(ms)],
                                    .repeat_penalty = 1,
                                    .seed = j};
      qn_sampler *sampler = NULL;
      float *x = logits + row * (size_t)vocab;
      for (int i = 0; i < vocab; i++) x[i] = made_up_logit(&random, (int)(j % 4));
      x[j % (size_t)vocab] = 0.5f;  // not all are forbidden
      qn_assert_ok(&diag, qn_sampler_create(&options, vocab, qn_test_allocator(), &sampler, &diag));
      qn_sampler_settings(sampler, &settings[row]);
      qn_sampler_reset(sampler);
      qn_assert_ok(&diag, qn_sampler_sample(sampler, x, &want[row], &diag));
      qn_sampler_destroy(sampler);
    }
    run_op(qn_run_program(run), logits, ROWS, vocab, settings, got);
    for (size_t row = 0; row < ROWS; row++)
      qn_check(got[row] == want[row], "vocabulary of %d, case %zu: the op chose %d, the sampler %d", vocab,
               turn * ROWS + row, (int)got[row], (int)want[row]);
  }
  free(logits);
  qn_run_destroy(run);
}

START_TEST(the_same_tokens) {
  static const int sizes[] = {1, 2, 63, 64, 65, 300, 4097};
  for (size_t i = 0; i < QN_COUNT(sizes); i++) check_vocabulary(sizes[i], qn_test_stride(1, 2) == 1 ? 8 : 2);
}
END_TEST

// More blocks of 64 than slots, and more candidates.
START_TEST(a_large_vocabulary) { check_vocabulary(20001, 1); }
END_TEST

// The largest sums there may be: of all tokens of the largest vocabulary, all as likely.
START_TEST(the_largest_sums) {
  static const struct {
    int32_t random[3], want;
  } draws[] = {{{0, 0, 0}, 0}, {{0x8000, 0, 0}, 262143}, {{0xffff, 0xffff, 0xffff}, 524286}};
  enum { VOCAB = QN_SAMPLER_VOCAB_MAX };
  qn_run *run = qn_run_create(
      "max R=1; x = input f32[R,524287]; sampling = input i32[R,8]; token = sample x sampling\n"
      "output token",
      NULL, NULL);
  float *logits = malloc(VOCAB * sizeof *logits);
  for (int i = 0; i < VOCAB; i++) logits[i] = -3;
  for (size_t i = 0; i < QN_COUNT(draws); i += qn_test_stride(1, 2)) {
    qn_sampling settings = {.inverse_temperature = 1, .top_p = 1 << 20, .log_min_p = -INFINITY};
    int32_t got = -1;
    memcpy(settings.random, draws[i].random, sizeof settings.random);
    run_op(qn_run_program(run), logits, 1, VOCAB, &settings, &got);
    qn_check(got == draws[i].want, "draw %zu: token %d, want %d", i, (int)got, (int)draws[i].want);
  }
  free(logits);
  qn_run_destroy(run);
}
END_TEST

START_TEST(no_token_of_bad_logits) {
  static const float bad[ROWS] = {NAN, -NAN, INFINITY, -INFINITY, 0, -INFINITY};
  qn_run *run = qn_run_create(
      "max R=6; x = input f32[R,70]; sampling = input i32[R,8]; token = sample x sampling\n"
      "output token",
      NULL, NULL);
  float logits[ROWS * 70];
  qn_sampling settings[ROWS];
  int32_t got[ROWS];
  for (int row = 0; row < ROWS; row++) {
    settings[row] = (qn_sampling){.inverse_temperature = 1, .top_k = row % 2, .top_p = 1 << 20, .log_min_p = -INFINITY};
    for (int i = 0; i < 70; i++) logits[row * 70 + i] = row == 3 ? -INFINITY : row == 5 && i != 69 ? -INFINITY : 1;
    logits[row * 70 + 66] = bad[row];
  }
  run_op(qn_run_program(run), logits, ROWS, 70, settings, got);
  for (int row = 0; row < ROWS; row++) {
    int want = row == 4 ? 0 : row == 5 ? 69 : -1;
    qn_check(got[row] == want, "row %d: token %d, want %d", row, (int)got[row], want);
  }
  qn_run_destroy(run);
}
END_TEST

QN_CASE(sampling, the_same_tokens, a_large_vocabulary, the_largest_sums, no_token_of_bad_logits)
QN_TEST_MAIN(sampling)
