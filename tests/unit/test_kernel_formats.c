// Every format's product and look-up kernels at odd sizes and numbers of tokens against the oracle; the ways to run them
// agree in every bit.
#include <stdio.h>

#include "tests/support/kernel_cases.h"
#include "tests/support/test.h"

// Each format at N of 1 and panels of 16 and one row more or less; K odd for floats, blocks of 32 else. The table is
// looked up as it lies for matmuls too (tied), and by itself. Inputs named q quantise exactly.
static const char products[] =
    "q = input f32[T,$K]; z = input f32[T,$K]; w = param $F[$N,$K]; tied = param $F[$V,$K]; table = param $F[$N,$K]\n"
    "a = matmul q w; b = matmul z tied; e = embed tied tokens; f = embed table tokens; output a b e f";
static const char *const float_shapes[] = {"N=1 K=1 V=3", "N=15 K=37 V=16", "N=16 K=4 V=17", "N=17 K=64 V=31",
                                           "N=100 K=33 V=5"};
static const char *const block_shapes[] = {"N=1 K=32 V=3", "N=15 K=96 V=16", "N=16 K=64 V=17", "N=17 K=160 V=31",
                                           "N=100 K=32 V=5"};
static const char *const superblock_shapes[] = {"N=17 K=256 V=3", "N=3 K=512 V=16"};

// Interpreting is slow: in the suite each format takes every third shape or so, another one in each mode.
static void check_format(const qn_format *format) {
  bool floats = format->block_values == 1, large = format->block_values > 32;
  qn_kernel_case c = {.text = products, .scenario = &qn_row_classes, .tolerance = 160 * 0x1p-24, .scale = QN_SCALE_MAGNITUDE};
  const char *const *sizes_of = floats ? float_shapes : large ? superblock_shapes : block_shapes;
  size_t count = large ? QN_COUNT(superblock_shapes) : QN_COUNT(block_shapes);
  for (int quantize = 0; quantize <= !floats; quantize++) {
    for (size_t i = 0; i < count; i++) {
      char sizes[64];
      if (!floats &&
          (i + (size_t)format->dtype + (size_t)quantize) % (large ? qn_test_stride(2, 2) : qn_test_stride(4, 12))) {
        qn_kernel_skip_program();
        continue;
      }
      snprintf(sizes, sizeof sizes, "F=%s %s", format->name, sizes_of[i]);
      qn_kernel_check_program(&c, sizes, quantize);
    }
  }
}

// Numbers of tokens around the widths of tiles, and one of many tiles.
static const qn_scenario batches = {1,
                                 1,
                                 {0},
                                 {{.spans = {{0, 0, 1}}},
                                  {.spans = {{0, 1, 2}}},
                                  {.spans = {{0, 3, 3}}, .threads = 2},
                                  {.spans = {{0, 6, 16}}},
                                  {.spans = {{0, 22, 17}}, .threads = 3},
                                  {.spans = {{0, 39, 512}}, .threads = 2}}};

// The compiled kernels of a format against the oracle. What an element's error is measured against is the sum of
// |x w|; it is a chain of one rounding a value, or of one or two a group of 16 or 32, and the product of scales.
static void check_batches(const qn_format *format, bool quantize) {
  char sizes[64], label[160];
  const char *text = "max T=512 R=512; q = input f32[T,$K]; w = param $F[$N,$K]; a = matmul q w; output a";
  snprintf(sizes, sizeof sizes, "F=%s N=33 K=%d", format->name, format->block_values > 32 ? 256 : 96);
  qn_run *run = qn_run_create(text, sizes, &(qn_run_options){.quantize_activations = quantize});
  qn_run_begin(run, batches.sequences, batches.pages, batches.past);
  for (int i = 0; batches.steps[i].spans[0].count; i++) {
    const qn_run_step *step = &batches.steps[i];
    snprintf(label, sizeof label, "%s %s, %d tokens", sizes, quantize ? "int8" : "f32", step->spans[0].count);
    const qn_run_output *scales = qn_run_oracle(run, step, true), *want = qn_run_oracle(run, step, false);
    qn_run_compare(qn_run_execute(run, QN_RUN_JIT, step), want, 160 * 0x1p-24, scales, 0, label);
  }
  qn_run_destroy(run);
}

START_TEST(every_format) {
  for (int dtype = 0; dtype < QN_DTYPE_COUNT; dtype++) {
    if (qn_format_of((qn_dtype)dtype)) check_format(qn_format_of((qn_dtype)dtype));
  }
}
END_TEST

START_TEST(every_format_by_tokens) {
  for (int dtype = 0; dtype < QN_DTYPE_COUNT; dtype++) {
    const qn_format *format = qn_format_of((qn_dtype)dtype);
    if (!format) continue;
    check_batches(format, false);
    if (format->block_values > 1) check_batches(format, true);
  }
}
END_TEST

QN_CASE(formats, every_format, every_format_by_tokens)
QN_TEST_MAIN(formats)
