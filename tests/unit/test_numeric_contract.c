// The numeric contract (DESIGN, section 4): an output element is a function of its inputs and the numeric mode alone.
// One layer under many schedules, targets, thread counts, ways to cut the prompt and orders of pages: the same bits.
#include <math.h>
#include <stdio.h>

#include "codegen/cpu/host.h"
#include "ir/format.h"
#include "ir/schedule.h"
#include "tests/support/graph_run.h"
#include "tests/support/test.h"

#define ATTENTION                                                                                                     \
  "max T=32 R=32\n"                                                                                                   \
  "embd = param $F[40,32]; norm = param f32[32]; x = embed embd tokens; table = rope_table pos dims=8 theta=10000\n"  \
  "a = rmsnorm x norm eps=1e-5; wq = param $F[32,32]; wk = param $F[16,32]; wv = param $F[16,32]\n"                   \
  "q = matmul a wq; k = matmul a wk; v = matmul a wv\n"                                                               \
  "q3 = split_heads q heads=4; k3 = split_heads k heads=2; v3 = split_heads v heads=2\n"                              \
  "qr = rope q3 table kind=pairs; kr = rope k3 table kind=pairs\n"                                                    \
  "kc = cache kind=k index=0 $C[G,2,8,64]; vc = cache kind=v index=0 $C[G,2,64,8]\n"                                  \
  "kw = kv_write kc kr pos seq block_table kind=k; vw = kv_write vc v3 pos seq block_table kind=v\n"                  \
  "s = attn_scores qr kw pos seq block_table scale=0.35; p = softmax s; o = attn_mix p vw pos seq block_table\n"      \
  "om = merge_heads o; wo = param $F[32,32]; oo = matmul om wo; h = add x oo\n"                                       \
  "norm2 = param f32[32]; b = rmsnorm h norm2 eps=1e-5\n"
#define HEAD                                                                                                       \
  "y = add h d; last = gather_rows y rows; norm3 = param f32[32]; l = rmsnorm last norm3 eps=1e-5; logits = "       \
  "matmul l embd\n"                                                                                                \
  "output logits"
static const char layer[] = ATTENTION
    "wg = param $F[96,32]; wu = param $F[96,32]; wd = param $F[32,96]; g = matmul b wg; gs = silu g; u = matmul b wu\n"
    "gu = mul gs u; d = matmul gu wd\n" HEAD;
// Eight experts, of which a token has three.
static const char mixture[] = ATTENTION
    "wr = param f32[8,32]; r = matmul b wr; i = top_k r k=3; pr = pick r i; share = softmax pr\n"
    "wg = param $F[8,96,32]; wu = param $F[8,96,32]; wd = param $F[8,32,96]; g = expert_matmul b wg i; gs = silu g\n"
    "u = expert_matmul b wu i; gu = mul gs u; e = expert_matmul gu wd i; d = expert_mix e share\n" HEAD;

typedef struct mode {
  const char *sizes;
  bool quantize;
  const char *layer;
} mode;
static const mode modes[] = {
    {"F=q8_0 C=int8", true, layer},
    {"F=q4_0 C=f16", true, mixture},
    {"F=f32 C=f16", false, layer},
    {"F=q4_1 C=int4", false, mixture}};

// Compiling takes long: the first few.
static size_t compiled_modes(void) { return QN_COUNT(modes) / qn_test_stride(2, 2); }

// ---- ways to compute the same tokens --------------------------------------------------------------------------

// Both sequences go on from here; the first crosses a page.
enum { SEQUENCES = 2, VOCABULARY = 40 };
static const int past[SEQUENCES] = {57, 3}, counts[SEQUENCES] = {17, 6};

// Steps that compute positions past .. past + counts of both sequences, ended by one without tokens.
typedef struct cutting {
  const char *name;
  qn_run_step steps[24];
} cutting;

static const cutting cuttings[] = {
    {"together", {{.spans = {{0, 57, 17}, {1, 3, 6}}}}},
    {"apart", {{.spans = {{1, 3, 6}}}, {.spans = {{0, 57, 17}}}}},
    {"in pieces", {{.spans = {{0, 57, 1}}}, {.spans = {{1, 3, 2}, {0, 58, 9}}}, {.spans = {{0, 67, 7}, {1, 5, 4}}}}},
    {"other sequence between", {{.spans = {{0, 57, 5}, {1, 3, 6}, {0, 62, 12}}}}},
    {"other sequence first", {{.spans = {{1, 3, 6}, {0, 57, 17}}}}},
};

// Token by token: the last entry of the ways to cut, made when asked for.
static cutting one_by_one(void) {
  cutting c = {.name = "one by one"};
  int n = 0;
  for (int i = 0; i < counts[0]; i++) {
    c.steps[n].spans[0] = (qn_run_span){0, past[0] + i, 1};
    if (i < counts[1]) c.steps[n].spans[1] = (qn_run_span){1, past[1] + i, 1};
    n++;
  }
  return c;
}

typedef struct logits {
  double values[SEQUENCES][17][VOCABULARY];
} logits;

static void compute(qn_run *run, qn_run_engine engine, const cutting *c, int threads, int pages, logits *out) {
  qn_run_begin(run, SEQUENCES, pages, past);
  for (int i = 0; c->steps[i].spans[0].count; i++) {
    qn_run_step step = c->steps[i];
    step.threads = threads;
    const qn_run_output *o = qn_run_execute(run, engine, &step);
    const double *row = o->values;
    for (int s = 0; s < QN_RUN_MAX_SPANS; s++) {
      qn_run_span span = step.spans[s];
      for (int j = 0; j < span.count; j++, row += VOCABULARY) {
        memcpy(out->values[span.sequence][span.first + j - past[span.sequence]], row, sizeof out->values[0][0]);
      }
    }
  }
}

static void compare(const logits *got, const logits *want, const char *label) {
  for (int s = 0; s < SEQUENCES; s++) {
    for (int t = 0; t < counts[s]; t++) {
      for (int i = 0; i < VOCABULARY; i++) {
        double x = got->values[s][t][i], y = want->values[s][t][i];
        qn_check(x == y, "%s: sequence %d, token %d, logit %d: got %a, want %a", label, s, t, i, x, y);
      }
    }
  }
}

// What everything is compared with: the kernels as lowered, all tokens in one step.
static void compute_plain(const mode *m, logits *out) {
  qn_run *run = qn_run_create(m->layer, m->sizes, &(qn_run_options){.quantize_activations = m->quantize});
  compute(run, QN_RUN_PLAIN, &cuttings[0], 1, 2, out);
  qn_run_destroy(run);
}

// ---- schedules ------------------------------------------------------------------------------------------------

static const char *const schedules[] = {
    "m_tiles = 1\nn_tile = 1\nk_unroll = 0\nlanes = 1\nparallel = 1",
    "m_tiles = 1\nn_tile = 2\nk_unroll = 1\ndots = 1\nlanes = 4\nprefetch_bytes = 64\nparallel = 1",
    "m_tiles = 4,2,1\nn_tile = 4\nk_unroll = 0\ndots = 2\nlanes = 8\nprefetch_bytes = 4096\nparallel = 1",
    "m_tiles = 12,4,1\nn_tile = 1\nk_unroll = 1\ndots = 1\nlanes = 16\nparallel = 1",
    "m_tiles = 3,1\nn_tile = 3\nk_unroll = 1\ndots = 2\nlanes = 16\nprefetch_bytes = 1024\nprefetch_far = 1\nparallel = 0",
    "m_tiles = 8,1\nn_tile = 2\nn_apart = 1\nn_block = 3\nk_unroll = 0\nlanes = 16\nparallel = 1",
    "m_tiles = 2,1\nm_block = 3\nn_tile = 1\nn_block = 2\nk_unroll = 1\ndots = 2\nlanes = 16\nparallel = 1",
};

// Interpreting is slow: in the suite a schedule meets two of the modes, which differ in numeric mode and in layer; under
// sanitizers one of them.
static bool schedule_meets(size_t i, size_t m) {
  switch (qn_test_stride(2, 4)) {
    case 1: return true;
    case 2: return (i & 1) == ((m ^ m >> 1) & 1);
    default: return m == i % QN_COUNT(modes);
  }
}

static void check_schedules(qn_run_engine engine, size_t mode_count, size_t first, size_t end) {
  for (size_t m = 0; m < mode_count; m++) {
    logits want, got;
    compute_plain(&modes[m], &want);
    for (size_t i = first; i < end; i++) {
      if (engine == QN_RUN_SCHEDULED && !schedule_meets(i, m)) continue;
      qn_diag diag = {0};
      qn_schedule schedule;
      qn_assert_ok(&diag, qn_schedule_parse("schedule", qn_str_from(schedules[i]), &schedule, &diag));
      qn_run *run = qn_run_create(modes[m].layer, modes[m].sizes,
                                  &(qn_run_options){.quantize_activations = modes[m].quantize, .schedule = &schedule});
      char label[80];
      snprintf(label, sizeof label, "%s, schedule %zu, engine %d", modes[m].sizes, i, (int)engine);
      compute(run, engine, &cuttings[0], 1 + (int)i % 3, 2, &got);
      compare(&got, &want, label);
      qn_run_destroy(run);
    }
  }
}

START_TEST(schedules_interpreted) { check_schedules(QN_RUN_SCHEDULED, QN_COUNT(modes), 0, QN_COUNT(schedules)); }
END_TEST
// The wide ones, which differ the most.
START_TEST(schedules_compiled) { check_schedules(QN_RUN_JIT, compiled_modes(), 2, 4); }
END_TEST

// ---- targets, threads, cuts and pages -------------------------------------------------------------------------

static const char *const targets[] = {"x86-64-v2", "x86-64-v3", "x86-64-v4", "host", "aarch64", "aarch64+dotprod"};

// In every second mode from `first` on; with QUERN_TEST_ALL in every one.
static void check_target(const char *name, size_t first) {
  qn_diag diag = {0};
  qn_target target;
  qn_assert_ok(&diag, qn_target_parse(name, &target, &diag));
  if (!qn_host_runs(&target, NULL, 0)) return;
  for (size_t m = first; m < compiled_modes(); m += qn_test_stride(2, 2)) {
    logits want, got;
    compute_plain(&modes[m], &want);
    qn_run *run = qn_run_create(modes[m].layer, modes[m].sizes,
                                &(qn_run_options){.quantize_activations = modes[m].quantize, .target = name});
    compute(run, QN_RUN_JIT, &cuttings[2], 2, 2, &got);
    compare(&got, &want, name);
    qn_run_destroy(run);
  }
}

START_TEST(every_target) {
  for (size_t i = 0; i < QN_COUNT(targets); i++) check_target(targets[i], i % qn_test_stride(2, 2));
}
END_TEST

// One graph with a product of every block format.
static const char *all_formats(char *text, size_t size) {
  size_t at = (size_t)snprintf(text, size, "max T=8 R=8; x = input f32[T,256]\n"), named = 0;
  char outputs[256] = "output";
  for (int dtype = 0; dtype < QN_DTYPE_COUNT; dtype++) {
    const qn_format *format = qn_format_of((qn_dtype)dtype);
    if (!format || format->block_values == 1) continue;
    at += (size_t)snprintf(text + at, size - at, "w%d = param %s[17,256]; a%d = matmul x w%d\n", dtype, format->name,
                           dtype, dtype);
    named += (size_t)snprintf(outputs + 6 + named, sizeof outputs - 6 - named, " a%d", dtype);
    ck_assert(at < size && named < sizeof outputs - 6);
  }
  snprintf(text + at, size - at, "%s", outputs);
  return text;
}

// The kernels of every format, compiled for every target that runs here: the bits of the interpreted ones. In numeric
// mode int8: fma a value, where the target has none, is long code.
START_TEST(formats_on_every_target) {
  const qn_run_step step = {.spans = {{0, 0, 5}}};
  char text[4096], label[80];
  all_formats(text, sizeof text);
  qn_run *plain = qn_run_create(text, NULL, &(qn_run_options){.quantize_activations = true});
  qn_run_begin(plain, 1, 1, NULL);
  const qn_run_output *want = qn_run_execute(plain, QN_RUN_PLAIN, &step);
  for (size_t t = 0; t < QN_COUNT(targets); t++) {
    qn_diag diag = {0};
    qn_target target;
    qn_assert_ok(&diag, qn_target_parse(targets[t], &target, &diag));
    if (!qn_host_runs(&target, NULL, 0)) continue;
    // test_kernels.c compiles every format for this very machine.
    if (strcmp(targets[t], "host") == 0 && qn_test_stride(2, 2) > 1) continue;
    qn_run *run = qn_run_create(text, NULL, &(qn_run_options){.quantize_activations = true, .target = targets[t]});
    qn_run_begin(run, 1, 1, NULL);
    const qn_run_output *got = qn_run_execute(run, QN_RUN_JIT, &step);
    for (size_t o = 0; o < qn_run_output_count(run); o++) {
      snprintf(label, sizeof label, "%s, output %s", targets[t], got[o].name);
      qn_run_compare_bits(&got[o], &want[o], label);
    }
    qn_run_destroy(run);
  }
  qn_run_destroy(plain);
}
END_TEST

START_TEST(threads_cuts_and_pages) {
  const cutting singly = one_by_one();
  for (size_t m = 0; m < QN_COUNT(modes); m++) {
    logits want, got;
    compute_plain(&modes[m], &want);
    for (int order = 0; order < 2; order++) {
      qn_run *run = qn_run_create(modes[m].layer, modes[m].sizes,
                                  &(qn_run_options){.quantize_activations = modes[m].quantize, .page_order = order});
      for (size_t i = 0; i <= QN_COUNT(cuttings); i++) {
        const cutting *c = i < QN_COUNT(cuttings) ? &cuttings[i] : &singly;
        if ((i + m + (size_t)order) % qn_test_stride(2, 8)) continue;  // each in one of the orders
        int threads = 1 + (int)(i + (size_t)order) % 3, pages = 2 + order;
        char label[120];
        snprintf(label, sizeof label, "%s, %s, %d threads, %d pages", modes[m].sizes, c->name, threads, pages);
        compute(run, QN_RUN_SCHEDULED, c, threads, pages, &got);
        compare(&got, &want, label);
      }
      qn_run_destroy(run);
    }
  }
}
END_TEST

// Sums of codes that are 0 have one sign, whether or not a chunk is visited of which a token sees nothing but a later one of
// its run does. Scores are far apart and values tiny, so that what the lesser chunk gives underflows.
START_TEST(zeros_of_codes) {
  enum { HEADS = 4, WIDTH = 16, FIRST = 116, COUNT = 24 };  // up to key 128, which begins a chunk, and beyond
  static const char graph[] =
      "max T=116 R=116\n"
      "a = input f32[T,4,16]; k = input f32[T,4,16]; v = input f32[T,4,16]; c = const 8e-28; w = mul v c\n"
      "kc = cache kind=k index=0 $C[G,4,16,64]; vc = cache kind=v index=0 $C[G,4,64,16]\n"
      "kw = kv_write kc k pos seq block_table kind=k; vw = kv_write vc w pos seq block_table kind=v\n"
      "s = attn_scores a kw pos seq block_table scale=60; p = softmax s; o = attn_mix p vw pos seq block_table; output o";
  for (int i = 0; i < 4; i++) {
    int zeros = 0;
    const qn_run_options options = {.quantize_activations = i % 2, .gpu = i >= 2};
    qn_run *run = qn_run_create(graph, "C=int4", &options);
    static double together[COUNT * HEADS * WIDTH];
    qn_run_begin(run, 1, 3, NULL);
    qn_run_execute(run, QN_RUN_PLAIN, &(qn_run_step){.spans = {{0, 0, FIRST}}});
    const qn_run_output *o = qn_run_execute(run, QN_RUN_PLAIN, &(qn_run_step){.spans = {{0, FIRST, COUNT}}});
    memcpy(together, o->values, sizeof together);
    for (int t = 0; t < COUNT; t++) {
      o = qn_run_execute(run, QN_RUN_PLAIN, &(qn_run_step){.spans = {{0, FIRST + t, 1}}});
      for (int e = 0; e < HEADS * WIDTH; e++) {
        double x = o->values[e], y = together[t * HEADS * WIDTH + e];
        qn_check(x == y && !signbit(x) == !signbit(y), "mode %d, token %d, element %d: got %a, and %a beside others", i, t,
                 e, x, y);
        zeros += x == 0;
      }
    }
    qn_check(zeros > 20, "mode %d: got %d zeros", i, zeros);
    qn_run_destroy(run);
  }
}
END_TEST

QN_CASE(contract, schedules_interpreted, schedules_compiled, every_target, threads_cuts_and_pages)
QN_CASE(codes, zeros_of_codes)
QN_CASE(formats, formats_on_every_target)
QN_TEST_MAIN(contract, codes, formats)
