// Graphs built in code for tests, and their oracle.
#include "tests/support/built_graph.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "ir/format.h"
#include "ir/ref/ref.h"

// A call that adds a value, which is there.
#define ADD(call)                                             \
  __extension__({                                             \
    quern_error error_ = {.code = -1};                        \
    quern_error *error = &error_;                             \
    quern_value value_ = (call);                              \
    ck_assert_msg(value_ != 0, "%s: %s", #call, error->text); \
    ck_assert(error->code == 0);                              \
    value_;                                                   \
  })

void qn_built_init(qn_built *b, const char *name, const quern_graph_options *options) {
  *b = (qn_built){.random = {0x9E3779B97F4A7C15u}};
  OK(quern_graph_create(name, options, &b->graph, error));
}

void qn_built_deinit(qn_built *b) {
  quern_graph_destroy(b->graph);
  for (size_t i = 0; i < b->count; i++) {
    free(b->tensors[i].values);
    free(b->tensors[i].ids);
    free(b->tensors[i].data);
  }
}

static qn_built_tensor *add_tensor(qn_built *b, const char *name, size_t count) {
  ck_assert(b->count < QN_BUILT_TENSORS);
  b->tensors[b->count] = (qn_built_tensor){.name = name, .count = count};
  return &b->tensors[b->count++];
}

qn_built_tensor *qn_built_values(qn_built *b, const char *name, size_t count) {
  qn_built_tensor *t = add_tensor(b, name, count);
  t->values = calloc(count, sizeof *t->values);
  for (size_t i = 0; i < count; i++) t->values[i] = (float)(2 * qn_test_random_unit(&b->random) - 1);
  return t;
}

qn_built_tensor *qn_built_integers(qn_built *b, const char *name, size_t count) {
  qn_built_tensor *t = add_tensor(b, name, count);
  t->ids = calloc(count, sizeof *t->ids);
  return t;
}

const qn_built_tensor *qn_built_find(const qn_built *b, const char *name) {
  for (size_t i = 0; i < b->count; i++)
    if (strcmp(b->tensors[i].name, name) == 0) return &b->tensors[i];
  ck_abort_msg("no tensor %s", name);
}

quern_value qn_built_input(qn_built *b, const char *name, const char *type) {
  return ADD(quern_graph_input(b->graph, name, type, error));
}

quern_value qn_built_apply(qn_built *b, const char *op, quern_value x, quern_value y) {
  return ADD(quern_graph_apply(b->graph, op, x, y, error));
}

quern_value qn_built_matrix(qn_built *b, const char *name, int rows, int columns) {
  char type[64];
  qn_built_tensor *t = qn_built_values(b, name, (size_t)rows * (size_t)columns);
  snprintf(type, sizeof type, "f32[%d,%d]", rows, columns);
  return ADD(quern_graph_weight(b->graph, name, type, t->values, t->count * sizeof(float), QUERN_BORROW, error));
}

quern_value qn_built_vector(qn_built *b, const char *name, int size) {
  char type[64];
  qn_built_tensor *t = qn_built_values(b, name, (size_t)size);
  for (size_t i = 0; i < t->count; i++) t->values[i] = 1 + t->values[i] / 2;
  snprintf(type, sizeof type, "f32[%d]", size);
  return ADD(quern_graph_weight(b->graph, name, type, t->values, t->count * sizeof(float), QUERN_COPY, error));
}

quern_value qn_built_blocks(qn_built *b, const char *name, const char *format, int rows, int columns) {
  char type[64];
  size_t bytes = 0, again = 0, row_bytes;
  qn_dtype dtype;
  qn_built_tensor *t = qn_built_values(b, name, (size_t)rows * (size_t)columns);
  FAILS(QUERN_ERR_LIMIT, "got room for 0 bytes",
        quern_quantize(format, rows, columns, t->values, NULL, 0, &bytes, error));
  uint8_t *data = t->data = malloc(bytes + 1);
  OK(quern_quantize(format, rows, columns, t->values, data + 1, bytes, &again, error));
  ck_assert_uint_eq(bytes, again);
  snprintf(type, sizeof type, "%s[%d,%d]", format, rows, columns);
  quern_value value = ADD(quern_graph_weight(b->graph, name, type, data + 1, bytes, QUERN_BORROW, error));
  ck_assert(qn_dtype_parse(qn_str_from(format), &dtype));
  row_bytes = bytes / (size_t)rows;
  double *row = calloc((size_t)columns, sizeof *row);
  for (int r = 0; r < rows; r++) {
    qn_format_row_to_f64(qn_format_of(dtype), columns, data + 1 + (size_t)r * row_bytes, row);
    for (int c = 0; c < columns; c++) t->values[r * columns + c] = (float)row[c];
  }
  free(row);
  return value;
}

quern_value qn_built_op(qn_built *b, const char *name, const quern_value *operands, size_t count,
                        const quern_attr *attrs, size_t attr_count, const char *type) {
  quern_op op = {.size = sizeof op,
                 .name = name,
                 .operands = operands,
                 .operand_count = count,
                 .attrs = attrs,
                 .attr_count = attr_count,
                 .type = type};
  return ADD(quern_graph_op(b->graph, &op, error));
}

// --- the oracle

typedef struct oracle {
  const qn_built *built;
  qn_arena arena;
} oracle;

// Caches are empty.
static qn_status give_source(void *context, const qn_node *node, qn_ref_tensor *out, qn_diag *diag) {
  oracle *o = context;
  (void)diag;
  out->values = QN_ARENA_ARRAY(&o->arena, (size_t)out->count, double);
  if (node->op == QN_OP_CACHE) return QN_OK;
  const qn_built_tensor *t = qn_built_find(o->built, qn_node_text(node, QN_ATTR_NAME, ""));
  ck_assert_int_le(out->count, (int64_t)t->count);
  for (int64_t i = 0; i < out->count; i++) out->values[i] = t->ids ? t->ids[i] : (double)t->values[i];
  return QN_OK;
}

void qn_built_check(const qn_built *b, const char *output, const float *got, const quern_sizes *sizes,
                    double tolerance) {
  char *text = NULL;
  oracle o = {.built = b};
  qn_graph *graph = NULL;
  qn_ref_tensor *values = NULL;
  qn_diag diag = {0};
  const int64_t symbols[QN_SYM_COUNT] = {
      0, sizes->tokens, sizes->rows, sizes->pages, sizes->sequences, sizes->pool_pages};
  qn_arena_init(&o.arena, qn_allocator_default());
  OK(quern_graph_text(b->graph, &text, error));
  qn_assert_ok(&diag, qn_graph_parse("test", qn_str_from(text), &o.arena, &graph, &diag));
  qn_assert_ok(&diag, qn_ref_evaluate(graph, symbols, give_source, &o, &o.arena, &values, &diag));
  qn_id id = 0;
  for (size_t i = 0; i < graph->outputs.count; i++)
    if (strcmp(graph->outputs.items[i].name, output) == 0) id = graph->outputs.items[i].value;
  ck_assert_uint_ne(id, 0);
  double squares = 0;
  for (int64_t i = 0; i < values[id].count; i++) squares += values[id].values[i] * values[id].values[i];
  double scale = sqrt(squares / (double)values[id].count);
  for (int64_t i = 0; i < values[id].count; i++) {
    double want = values[id].values[i];
    qn_check(fabs(got[i] - want) <= tolerance * (fabs(want) + scale), "%s[%lld]: got %g, want %g", output, (long long)i,
             got[i], want);
  }
  qn_arena_deinit(&o.arena);
  free(text);
}

void qn_built_bind(quern_runner *runner, const qn_built *b, const char *name) {
  const qn_built_tensor *t = qn_built_find(b, name);
  const void *data = t->ids ? (const void *)t->ids : t->values;
  OK(quern_runner_bind_input(runner, name, data, t->count * 4, error));
}

// --- graphs

static quern_value rmsnorm(qn_built *b, quern_value x, quern_value weight) {
  return qn_built_op(b, "rmsnorm", OPERANDS(x, weight), ATTRS({"eps", 1e-5, NULL}), NULL);
}

void qn_built_mlp(qn_built *b, const char *format, int width, int hidden) {
  char type[32];
  qn_built_init(b, "gated mlp", NULL);
  snprintf(type, sizeof type, "f32[T,%d]", width);
  qn_built_values(b, "x", (size_t)QN_MLP_ROWS * (size_t)width);
  quern_value x = qn_built_input(b, "x", type);
  quern_value n = rmsnorm(b, x, qn_built_vector(b, "norm", width));
  quern_value gate =
      format ? qn_built_blocks(b, "gate", format, hidden, width) : qn_built_matrix(b, "gate", hidden, width);
  quern_value up = format ? qn_built_blocks(b, "up", format, hidden, width) : qn_built_matrix(b, "up", hidden, width);
  quern_value down = qn_built_matrix(b, "down", width, hidden);
  quern_value gated = qn_built_apply(b, "silu", qn_built_apply(b, "matmul", n, gate), 0);
  quern_value both = qn_built_apply(b, "mul", gated, qn_built_apply(b, "matmul", n, up));
  OK(quern_graph_output(b->graph, "y", qn_built_apply(b, "add", x, qn_built_apply(b, "matmul", both, down)), error));
}

enum { HEADS = 4, KV_HEADS = 2, HEAD = 16 };
_Static_assert((int)QN_ATTENTION_QUERY == HEADS * HEAD && (int)QN_ATTENTION_KEY == KV_HEADS * HEAD,
               "as types say below");

static quern_value cache_of(qn_built *b, const char *kind, const char *type, quern_value x, const quern_value *places) {
  const quern_attr attrs[] = {{"kind", 0, kind}, {"index", 0, NULL}};
  quern_value cache = qn_built_op(b, "cache", NULL, 0, attrs, 2, type);
  quern_value heads = qn_built_op(b, "split_heads", OPERANDS(x), ATTRS({"heads", KV_HEADS, NULL}), NULL);
  return qn_built_op(b, "kv_write", OPERANDS(cache, heads, places[0], places[1], places[2]), attrs, 1, NULL);
}

void qn_built_attention(qn_built *b) {
  qn_built_init(b, "attention",
                &(quern_graph_options){.size = sizeof(quern_graph_options), .most = {.tokens = 8, .pages = 2}});
  qn_built_values(b, "q", QN_ATTENTION_TOKENS * QN_ATTENTION_QUERY);
  qn_built_values(b, "k", QN_ATTENTION_TOKENS * QN_ATTENTION_KEY);
  qn_built_values(b, "v", QN_ATTENTION_TOKENS * QN_ATTENTION_KEY);
  static const char *const names[] = {"pos", "seq", "block_table"};
  quern_value places[3];
  for (int i = 0; i < 3; i++) {
    qn_built_tensor *t = qn_built_integers(b, names[i], i < 2 ? QN_ATTENTION_TOKENS : 2);
    for (size_t j = 0; j < t->count; j++) t->ids[j] = i == 1 ? 0 : (int32_t)j;
    places[i] = qn_built_input(b, names[i], i < 2 ? "i32[T]" : "i32[B,P]");
  }
  quern_value q = qn_built_input(b, "q", "f32[T,64]");
  quern_value k = qn_built_input(b, "k", "f32[T,32]");
  quern_value v = qn_built_input(b, "v", "f32[T,32]");
  quern_value keys = cache_of(b, "k", "f32[G,2,16,64]", k, places);
  quern_value values = cache_of(b, "v", "f32[G,2,64,16]", v, places);
  q = qn_built_op(b, "split_heads", OPERANDS(q), ATTRS({"heads", HEADS, NULL}), NULL);
  quern_value p = qn_built_op(b, "attn_scores", OPERANDS(q, keys, places[0], places[1], places[2]),
                              ATTRS({"scale", 0.25, NULL}), NULL);
  p = qn_built_op(b, "attn_mix", OPERANDS(qn_built_apply(b, "softmax", p, 0), values, places[0], places[1], places[2]),
                  NULL, 0, NULL);
  OK(quern_graph_output(b->graph, "y", qn_built_apply(b, "merge_heads", p, 0), error));
}
