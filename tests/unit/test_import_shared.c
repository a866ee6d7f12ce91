// Trained models of others through the importer and the oracle: the graphs that the templates make compute what the
// models' makers say. (The compiled kernels are held against the same numbers elsewhere.)
#include <math.h>
#include <stdlib.h>

#include "frontend/import/import.h"
#include "ir/ref/ref.h"
#include "tests/support/nano_sort.h"
#include "tests/support/test.h"

#define STORIES "models/stories260K/stories260K.gguf"

// One sequence of `count` tokens in one page.
typedef struct step {
  qn_weight_source weights;
  const int *tokens;
  int64_t count;
  qn_arena *arena;
} step;

static double input_value(const step *s, const char *name, int64_t i) {
  if (strcmp(name, "tokens") == 0) return s->tokens[i];
  return strcmp(name, "pos") == 0 || strcmp(name, "rows") == 0 ? (double)i : 0;  // seq and block_table: the first
}

// A qn_ref_source_fn.
static qn_status give_source(void *context, const qn_node *node, qn_ref_tensor *out, qn_diag *diag) {
  const step *s = context;
  const char *name = qn_node_text(node, QN_ATTR_NAME, "");
  out->values = QN_ARENA_ARRAY(s->arena, (size_t)out->count, double);
  if (!out->values) return qn_fail_nomem(diag, name, "values");
  if (node->op == QN_OP_INPUT) {
    for (int64_t i = 0; i < out->count; i++) out->values[i] = input_value(s, name, i);
  } else if (node->op == QN_OP_PARAM) {
    qn_tensor_data data;
    QN_TRY(s->weights.find(s->weights.context, name, &data, diag));
    ck_assert_int_eq(data.format->dtype, QN_DTYPE_F32);
    for (int64_t i = 0; i < out->count; i++) out->values[i] = ((const float *)data.data)[i];
  }
  return QN_OK;
}

// The logits of every token, (count, vocabulary), by the oracle.
static const double *evaluate(qn_import *import, const int *tokens, int64_t count, qn_arena *arena) {
  const qn_import_graph_options options = {
      .chunk_tokens = count, .max_rows = count, .max_sequences = 1, .kv_dtype = QN_DTYPE_F32};
  const int64_t symbols[QN_SYM_COUNT] = {
      [QN_SYM_T] = count, [QN_SYM_R] = count, [QN_SYM_P] = 1, [QN_SYM_B] = 1, [QN_SYM_G] = 1};
  step s = {qn_import_weights(import), tokens, count, arena};
  qn_graph *graph;
  qn_ref_tensor *values;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_import_graph(import, &options, arena, &graph, &diag));
  qn_assert_ok(&diag, qn_graph_verify(graph, QN_STAGE_IMPORTED, &diag));
  qn_assert_ok(&diag, qn_ref_evaluate(graph, symbols, give_source, &s, arena, &values, &diag));
  const qn_ref_tensor *logits = &values[graph->outputs.items[0].value];
  ck_assert_int_eq(logits->count, count * qn_import_vocab_size(import));
  return logits->values;
}

// shared/models/README.md: logits after BOS in float64, and the first greedy ids.
START_TEST(test_stories) {
  static const struct {
    int id;
    double logit;
  } best[] = {{403, 17.02352}, {385, 15.40621}, {410, 13.10826}, {317, 12.76917}, {407, 12.41809}};
  static const int greedy[] = {1,   403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421, 395,
                               317, 426, 338, 401, 396, 267, 337, 410, 408, 419, 292, 411, 322, 265,
                               282, 295, 433, 426, 385, 328, 432, 358, 394, 261, 370, 432, 352};
  enum { COUNT = QN_COUNT(greedy) - 1 };
  qn_import *import;
  qn_arena arena;
  qn_diag diag = {0};
  qn_arena_init(&arena, qn_test_allocator());
  qn_assert_ok(&diag, qn_import_open(qn_test_shared(STORIES), NULL, qn_test_allocator(), &import, &diag));
  ck_assert_str_eq(qn_import_architecture(import), "llama");
  ck_assert_int_eq(qn_import_vocab_size(import), 512);
  const double *logits = evaluate(import, greedy, COUNT, &arena);
  for (size_t i = 0; i < QN_COUNT(best); i++) {
    qn_check(fabs(logits[best[i].id] - best[i].logit) < 2e-5, "logit of %d: got %.6f, want %.5f", best[i].id,
             logits[best[i].id], best[i].logit);
  }
  for (int t = 0; t < COUNT; t++) {
    int top = 0;
    for (int v = 1; v < 512; v++) top = logits[t * 512 + v] > logits[t * 512 + top] ? v : top;
    qn_check(top == greedy[t + 1], "after token %d: got %d, want %d", t, top, greedy[t + 1]);
  }
  qn_import_close(import);
  qn_arena_deinit(&arena);
}
END_TEST

// The partials that come with gpt-nano-sort hold the logits of a batch of three, in float32.
START_TEST(test_nano_sort) {
  qn_import *import;
  qn_nano_file *partials;
  qn_nano_tensor idx, want;
  qn_diag diag = {0};
  const char *path = qn_test_temp_path("nano_sort.gguf");
  qn_assert_ok(&diag, qn_nano_sort_convert(qn_test_shared(QN_NANO_SORT_MODEL), path, &diag));
  qn_assert_ok(&diag, qn_import_open(path, NULL, qn_test_allocator(), &import, &diag));
  ck_assert_str_eq(qn_import_architecture(import), "gpt2");
  ck_assert_int_eq(qn_import_context(import), 11);
  ck_assert_int_eq(qn_import_vocab_size(import), 3);
  qn_assert_ok(&diag, qn_nano_open(qn_test_shared(QN_NANO_SORT_PARTIALS), &partials, &diag));
  qn_assert_ok(&diag, qn_nano_get(partials, "idx", &idx, &diag));
  qn_assert_ok(&diag, qn_nano_get(partials, "lm_head", &want, &diag));
  ck_assert(idx.dims[0] == 3 && idx.dims[1] == 11 && want.count == 3 * 11 * 3);
  for (int sequence = 0; sequence < 3; sequence++) {
    qn_arena arena;
    int tokens[11];
    qn_arena_init(&arena, qn_test_allocator());
    for (int i = 0; i < 11; i++) tokens[i] = (int)idx.values[sequence * 11 + i];
    const double *logits = evaluate(import, tokens, 11, &arena);
    for (int i = 0; i < 33; i++) {
      double expected = want.values[sequence * 33 + i];
      qn_check(fabs(logits[i] - expected) < 1e-4, "sequence %d, logit %d: got %.6f, want %.6f", sequence, i, logits[i],
               expected);
    }
    qn_arena_deinit(&arena);
  }
  qn_nano_close(partials);
  qn_import_close(import);
}
END_TEST

static TCase *shared(void) {
  if (!qn_test_shared(STORIES) || !qn_test_shared(QN_NANO_SORT_MODEL) || !qn_test_shared(QN_NANO_SORT_PARTIALS)) {
    qn_test_skip("the shared models are not here");
  }
  const TTest *const tests[] = {test_stories, test_nano_sort};
  return qn_test_case("shared", tests, QN_COUNT(tests));
}

QN_TEST_MAIN(shared)
