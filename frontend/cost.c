// Counts what a step costs, from the graph and the program that came of it: of every kernel (kernel_facts.h), and of
// the whole into lines of the artifact's summary, which the runtime reads back (quern_model_get_cost): a benchmark
// divides by them.
#include <inttypes.h>

#include "frontend/compile.h"
#include "frontend/kernel_facts.h"
#include "runtime/base/vec.h"
#include "runtime/base/window.h"

static uint64_t constant(qn_dim dim) { return qn_dim_is_const(dim) ? (uint64_t)dim.value : 0; }

// What a value is counted for, by its dimensions.
typedef enum counted_for { FOR_TOKEN, FOR_ROW, FOR_PAIR, FOR_NOTHING } counted_for;

static counted_for what_for(const qn_type *type) {
  bool has[QN_SYM_COUNT] = {false};
  for (int i = 0; i < type->rank; i++) has[type->dims[i].symbol] = true;
  if (has[QN_SYM_B] || has[QN_SYM_G]) return FOR_NOTHING;
  return has[QN_SYM_P] ? FOR_PAIR : has[QN_SYM_R] ? FOR_ROW : FOR_TOKEN;
}

static void add_for(counted_for what, uint64_t token_each, uint64_t *token, uint64_t *row, uint64_t *pair) {
  if (what == FOR_TOKEN) *token += token_each;
  if (what == FOR_ROW) *row += token_each;
  if (what == FOR_PAIR) *pair += token_each / QN_PAGE_KEYS;  // a P is a page of keys
}

static const int64_t one_of_each[QN_SYM_COUNT] = {0, 1, 1, 1, 1, 1, 1};

// Of the rows that come out: of experts, those that each token has.
static void count_product(const qn_graph *g, const qn_node *node, quern_kernel_cost *c) {
  const qn_type *x = &qn_graph_node(g, node->operands[0])->type, *y = &node->type;
  uint64_t macs = constant(y->dims[1]) * constant(x->dims[1]) * (uint64_t)y->dims[0].value;
  bool integer = x->dtype == QN_DTYPE_A8, row = x->dims[0].symbol == QN_SYM_R;
  *(row ? integer ? &c->int8_macs_row : &c->f32_macs_row : integer ? &c->int8_macs_token : &c->f32_macs_token) += macs;
  const qn_format *format = qn_format_of(qn_graph_node(g, node->operands[1])->type.dtype);
  if (integer && format && qn_format_is_narrow(format)) *(row ? &c->narrow_macs_row : &c->narrow_macs_token) += macs;
}

static bool cache_page(const qn_node *cache, qn_kv_page *out) {
  bool is_k = qn_kv_lies_as_k(qn_node_text(cache, QN_ATTR_KIND, ""));
  return qn_type_kv_page(&cache->type, is_k, out);
}

// Of a key or its value, in the cache that the operand is.
static uint64_t cached_bytes(const qn_graph *g, qn_id operand) {
  qn_kv_page page;
  return cache_page(qn_graph_node(g, operand), &page) ? (uint64_t)page.page_bytes / QN_PAGE_KEYS : 0;
}

// Of keys and of values, each as codes or as floats.
static void count_attention(const qn_graph *g, const qn_node *node, quern_kernel_cost *c) {
  uint64_t macs = constant(node->type.dims[1]) * constant(node->type.dims[2]);
  for (int i = 1; i <= 2; i++) {
    const qn_node *cache = qn_graph_node(g, node->operands[i]);
    qn_kv_page page;
    bool codes = qn_node_attr(node, QN_ATTR_CODES) && qn_dtype_is_block(cache->type.dtype);
    *(codes ? &c->int8_macs_pair : &c->f32_macs_pair) += macs;
    if (codes && cache_page(cache, &page) && qn_pairs_that_fit((1 << page.bits) - 1) > 1) c->narrow_macs_pair += macs;
  }
}

// Attention alone in its group. Where operand `pos` is another input than the tokens' positions, or than their places
// where keys are evicted, they see keys after them.
static void count_window(const qn_graph *g, const qn_node *node, int pos, quern_kernel_cost *c) {
  const qn_attr *window = qn_node_attr(node, QN_ATTR_WINDOW), *ahead = qn_node_attr(node, QN_ATTR_AHEAD);
  const char *name = qn_node_text(qn_graph_node(g, node->operands[pos]), QN_ATTR_NAME, "");
  bool both_ways = strcmp(name, "pos") != 0 && strcmp(name, "slot") != 0;
  c->cross = strcmp(name, "cross_last_pos") == 0;
  if (window) c->window = (uint64_t)window->value.i;
  if (both_ways) c->ahead = ahead ? (uint64_t)ahead->value.i : QN_WINDOW_ALL;
}

static void count_node(const qn_graph *g, qn_id id, quern_kernel_cost *c) {
  const qn_node *node = qn_graph_node(g, id);
  const qn_type *type = &node->type;
  size_t bytes = 0;
  switch (node->op) {
    case QN_OP_MATMUL:
    case QN_OP_EXPERT_MATMUL: count_product(g, node, c); return;
    case QN_OP_EMBED: {
      const qn_type *table = &qn_graph_node(g, node->operands[0])->type;
      const qn_format *format = qn_format_of(table->dtype);
      if (format && qn_format_tile_bytes(format, 1, 1, (int64_t)constant(table->dims[1]), &bytes))
        c->token_bytes += bytes;
      break;
    }
    case QN_OP_ATTENTION:
      count_window(g, node, 3, c);
      count_attention(g, node, c);
      c->key_bytes += cached_bytes(g, node->operands[1]) + cached_bytes(g, node->operands[2]);
      return;
    case QN_OP_ATTN_SCORES: {
      const qn_type *q = &qn_graph_node(g, node->operands[0])->type;
      count_window(g, node, 2, c);
      c->f32_macs_pair += constant(q->dims[1]) * constant(q->dims[2]);
      c->key_bytes += cached_bytes(g, node->operands[1]);
      return;
    }
    case QN_OP_ATTN_MIX:
      c->f32_macs_pair += constant(type->dims[1]) * constant(type->dims[2]);
      c->key_bytes += cached_bytes(g, node->operands[1]);
      return;
    default: break;
  }
  double flops = qn_node_cost(g, id, one_of_each).flops;
  add_for(what_for(type), flops > 0 ? (uint64_t)flops : 0, &c->flops_token, &c->flops_row, &c->flops_pair);
}

// Bytes of a value between kernels with every symbol one.
static uint64_t value_bytes(const qn_type *type) {
  int64_t elements = 0;
  if (!qn_type_elements(type, one_of_each, &elements)) return 0;
  if (type->dtype == QN_DTYPE_A8) return (uint64_t)elements * 3 / 2;  // ir/dtype.def
  return (uint64_t)elements * qn_dtype_size(type->dtype);
}

// Weights that a step reads whole: a table that is only looked up is not among them, unless a product reads it too. Of
// experts those that one token has.
static void count_buffer(const qn_pkernel *kernel, const qn_pbuf *buffer, bool gathers, quern_kernel_cost *c) {
  bool lookup = buffer->layout == QN_LAYOUT_ROWS1 || (buffer->layout == QN_LAYOUT_ROWS16 && !kernel->is_matmul);
  bool experts = kernel->experts > 0 && buffer->layout == QN_LAYOUT_ROWS16;
  uint64_t all = experts ? (uint64_t)kernel->experts : 1, read = experts ? (uint64_t)kernel->chosen : 1;
  if (buffer->kind == QN_PB_WEIGHT && !lookup) c->weight_bytes += buffer->bytes / all * read;
  if (buffer->kind != QN_PB_ARENA && buffer->kind != QN_PB_INPUT) return;
  counted_for what = what_for(&buffer->type);
  if (what == FOR_TOKEN && gathers) what = FOR_ROW;  // of all tokens' values those that it takes
  add_for(what, value_bytes(&buffer->type), &c->value_bytes_token, &c->value_bytes_row, &c->value_bytes_pair);
}

// Does the group work on the tokens of a source?
static bool reads_source(const qn_graph *graph, uint32_t group) {
  for (qn_id id = 1; id < graph->nodes.count; id++) {
    const qn_node *node = qn_graph_node(graph, id);
    if (node->group != group) continue;
    const qn_type *rows = node->op == QN_OP_KV_WRITE ? &qn_graph_node(graph, node->operands[1])->type : &node->type;
    if (rows->rank > 0 && rows->dims[0].symbol == QN_SYM_S) return true;
  }
  return false;
}

quern_kernel_cost quern_step_cost(const qn_graph *graph, const qn_program *program, const qn_pstep *step) {
  quern_kernel_cost c = {0};
  const qn_pkernel *kernel = &program->kernels.items[step->kernel];
  bool pools = false;
  c.of_source = reads_source(graph, step->group);
  for (qn_id id = 1; id < graph->nodes.count; id++) {
    if (qn_graph_node(graph, id)->group != step->group) continue;
    count_node(graph, id, &c);
    if (what_for(&qn_graph_node(graph, id)->type) == FOR_ROW) c.of_rows = 1;
    pools = pools || qn_graph_node(graph, id)->op == QN_OP_POOL;
  }
  for (size_t i = 0; i < kernel->plain->param_count; i++) {
    bool again = false;
    for (size_t j = 0; j < i; j++) again = again || step->buffers[j] == step->buffers[i];
    if (!again) count_buffer(kernel, &program->buffers.items[step->buffers[i]], c.of_rows && !pools, &c);
  }
  return c;
}

// What attention costs in the layers with the same window.
typedef struct window_cost {
  uint64_t window, key_bytes, macs, ahead;
} window_cost;
typedef QN_VEC(window_cost) window_costs;

static void add_window(const quern_kernel_cost *c, window_costs *all, qn_buf *out) {
  uint64_t macs = c->f32_macs_pair + c->int8_macs_pair;
  if (c->key_bytes == 0 && macs == 0) return;
  for (size_t i = 0; i < all->count; i++) {
    if (all->items[i].window != c->window || all->items[i].ahead != c->ahead) continue;
    all->items[i].key_bytes += c->key_bytes;
    all->items[i].macs += macs;
    return;
  }
  if (!qn_vec_push(out->allocator, all, ((window_cost){c->window, c->key_bytes, macs, c->ahead}))) out->failed = true;
}

void quern_put_cost(const qn_graph *graph, const qn_program *program, qn_buf *out) {
  quern_kernel_cost sum = {0};
  window_costs windows = {0};
  for (size_t i = 0; i < program->steps.count; i++) {
    // The steps of an op in several kernels follow each other, and each is told of as the whole.
    if (i > 0 && program->steps.items[i].group == program->steps.items[i - 1].group) continue;
    quern_kernel_cost c = quern_step_cost(graph, program, &program->steps.items[i]);
    if (c.of_source) continue;  // none of a step's
#define X(field, meaning) sum.field += c.field;
    QUERN_KERNEL_COSTS(X)
#undef X
    add_window(&c, &windows, out);
  }
  const struct {
    const char *key;
    uint64_t value;
  } lines[] = {{"weight_bytes", sum.weight_bytes},     {"token_bytes", sum.token_bytes},
               {"key_bytes", sum.key_bytes},           {"int8_macs_token", sum.int8_macs_token},
               {"f32_macs_token", sum.f32_macs_token}, {"int8_macs_row", sum.int8_macs_row},
               {"f32_macs_row", sum.f32_macs_row},     {"f32_macs_key", sum.f32_macs_pair},
               {"int8_macs_key", sum.int8_macs_pair}, {"narrow_macs_token", sum.narrow_macs_token},
               {"narrow_macs_row", sum.narrow_macs_row},
               {"narrow_macs_key", sum.narrow_macs_pair}};
  for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
    qn_buf_printf(out, "cost.%s = %" PRIu64 "\n", lines[i].key, lines[i].value);
  }
  qn_buf_puts(out, "cost.windows =");  // window:key bytes:multiply-adds:keys ahead
  for (size_t i = 0; i < windows.count; i++) {
    const window_cost *w = &windows.items[i];
    qn_buf_printf(out, " %" PRIu64 ":%" PRIu64 ":%" PRIu64 ":%" PRIu64, w->window, w->key_bytes, w->macs, w->ahead);
  }
  qn_buf_putc(out, '\n');
  qn_vec_free(out->allocator, &windows);
}
