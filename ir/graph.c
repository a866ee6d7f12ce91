// The op and attribute tables, and questions about a graph's nodes.
#include "ir/graph.h"

#include "ir/program.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct {
  const char *name;
  qn_attr_kind kind;
} attr_table[QN_ATTR_COUNT] = {
#define QN_ATTR(name, text, kind, meaning) [QN_ATTR_##name] = {text, QN_AK_##kind},
#include "ir/attrs.def"
#undef QN_ATTR
};

#define A(name) | (1u << QN_ATTR_##name)
#define O(name)
static const uint32_t required_attrs[QN_OP_COUNT] = {
#define QN_OP(name, text, min, max, attrs, ...) [QN_OP_##name] = 0u attrs,
#include "ir/ops.def"
#undef QN_OP
};
#undef A
#undef O
#define A(name)
#define O(name) | (1u << QN_ATTR_##name)
static const qn_op_info op_table[QN_OP_COUNT] = {
#define QN_OP(name, text, min, max, attrs, flags, shape, flops, meaning) \
  [QN_OP_##name] = {text, min, max, 0, 0u attrs, flags, meaning},
#include "ir/ops.def"
#undef QN_OP
};
#undef A
#undef O

// The cost column as text: a number of flops a result element, or the name of a rule.
static const char *const cost_rules[QN_OP_COUNT] = {
#define QN_OP(name, text, min, max, attrs, flags, shape, flops, meaning) [QN_OP_##name] = #flops,
#include "ir/ops.def"
#undef QN_OP
};

const qn_op_info *qn_op_get_info(qn_op op) {
  static qn_op_info complete[QN_OP_COUNT];
  static bool ready;
  if (!__atomic_load_n(&ready, __ATOMIC_ACQUIRE)) {
    for (int i = 0; i < QN_OP_COUNT; i++) {
      qn_op_info info = op_table[i];
      info.required_attrs = required_attrs[i];
      complete[i] = info;  // every thread writes the same values
    }
    __atomic_store_n(&ready, true, __ATOMIC_RELEASE);
  }
  return &complete[op];
}

bool qn_op_parse(qn_str text, qn_op *out) {
  for (int i = 0; i < QN_OP_COUNT; i++) {
    if (qn_str_is(text, op_table[i].name)) {
      *out = (qn_op)i;
      return true;
    }
  }
  return false;
}

const char *qn_attr_name(qn_attr_id id) { return attr_table[id].name; }

qn_attr_kind qn_attr_get_kind(qn_attr_id id) { return attr_table[id].kind; }

bool qn_attr_parse(qn_str text, qn_attr_id *out) {
  for (int i = 0; i < QN_ATTR_COUNT; i++) {
    if (qn_str_is(text, attr_table[i].name)) {
      *out = (qn_attr_id)i;
      return true;
    }
  }
  return false;
}

qn_graph *qn_graph_create(qn_arena *arena, const char *name) {
  qn_graph *graph = QN_ARENA_NEW(arena, qn_graph);
  if (!graph) return NULL;
  graph->arena = arena;
  graph->name = qn_arena_strdup(arena, name);
  if (!graph->name || !qn_vec_push_arena(arena, &graph->nodes, (qn_node){.loc = "none"})) return NULL;
  return graph;
}

qn_status qn_graph_add_output(qn_graph *graph, const char *name, qn_id value, qn_diag *diag) {
  if (value == 0 || value >= graph->nodes.count) {
    return qn_fail(diag, QN_ERR_ARGUMENT, graph->name, "output '%s': got value %u, want one of 1..%zu", name, value,
                   graph->nodes.count - 1);
  }
  for (size_t i = 0; i < graph->outputs.count; i++) {
    if (strcmp(graph->outputs.items[i].name, name) == 0) {
      return qn_fail(diag, QN_ERR_ARGUMENT, graph->name, "output '%s' is there twice; give each its own name", name);
    }
  }
  qn_output output = {qn_arena_strdup(graph->arena, name), value};
  if (!output.name || !qn_vec_push_arena(graph->arena, &graph->outputs, output)) {
    return qn_fail_nomem(diag, graph->name, "an output");
  }
  return QN_OK;
}

const qn_attr *qn_node_attr(const qn_node *node, qn_attr_id id) {
  for (int i = 0; i < node->attr_count; i++) {
    if (node->attrs[i].id == id) return &node->attrs[i];
  }
  return NULL;
}

int64_t qn_node_int(const qn_node *node, qn_attr_id id, int64_t otherwise) {
  const qn_attr *attr = qn_node_attr(node, id);
  return attr ? attr->value.i : otherwise;
}

double qn_node_float(const qn_node *node, qn_attr_id id, double otherwise) {
  const qn_attr *attr = qn_node_attr(node, id);
  return attr ? attr->value.f : otherwise;
}

const char *qn_node_text(const qn_node *node, qn_attr_id id, const char *otherwise) {
  const qn_attr *attr = qn_node_attr(node, id);
  return attr ? attr->value.text : otherwise;
}

bool qn_graph_is_stack(const qn_graph *graph, const qn_node *node) {
  bool stack = node->op == QN_OP_CONCAT && !node->group && qn_node_int(node, QN_ATTR_AXIS, 0) == 0;
  for (int i = 0; stack && i < node->operand_count; i++) {
    stack = qn_graph_node(graph, node->operands[i])->op == QN_OP_PARAM;
  }
  return stack;
}

qn_id qn_graph_base(const qn_graph *graph, qn_id id) {
  for (;;) {
    const qn_node *node = qn_graph_node(graph, id);
    if (!(qn_op_get_info(node->op)->flags & QN_OF_V) || node->group) return id;
    id = node->operands[0];
  }
}

void qn_attention_operands(const qn_node *node, int pos, const qn_type *after, int *out_by, int *out_at) {
  int next = pos + 3;  // behind seq and block_table
  bool by = after && after->dtype != QN_DTYPE_I32;
  *out_by = by ? next : 0;
  *out_at = node->operand_count > next + by ? next + by : pos;
}

// Is the last key that a token sees its own, from which windows count? `pos`: the operand of attention or its scores.
static bool is_placed_by_pos(const qn_graph *graph, const qn_node *node, int pos) {
  int by, at, next = pos + 3;
  const qn_type *after = node->operand_count > next ? &qn_graph_node(graph, node->operands[next])->type : NULL;
  qn_attention_operands(node, pos, after, &by, &at);
  return node->operands[at] == node->operands[pos];
}

int64_t qn_graph_mix_window(const qn_graph *graph, const qn_node *mix) {
  const qn_node *softmax = qn_graph_node(graph, mix->operands[0]);
  const qn_node *scores = softmax->op == QN_OP_SOFTMAX ? qn_graph_node(graph, softmax->operands[0]) : NULL;
  bool seen = scores && scores->op == QN_OP_ATTN_SCORES;
  for (int i = 2; seen && i < 5; i++) seen = scores->operands[i] == mix->operands[i];  // pos, seq, block_table
  return seen && is_placed_by_pos(graph, scores, 2) ? qn_node_int(scores, QN_ATTR_WINDOW, 0) : 0;
}

// What an op sees of a cache that it reads, if keys were written at the positions `pos`.
static int64_t reader_window(const qn_graph *graph, const qn_node *node, qn_id pos) {
  bool mixes = node->op == QN_OP_ATTN_MIX, whole = node->op == QN_OP_ATTENTION;
  if (!mixes && !whole && node->op != QN_OP_ATTN_SCORES) return 0;
  if (node->operands[whole ? 3 : 2] != pos || (!mixes && !is_placed_by_pos(graph, node, whole ? 3 : 2))) return 0;
  return mixes ? qn_graph_mix_window(graph, node) : qn_node_int(node, QN_ATTR_WINDOW, 0);
}

// Is an operand the cache, or what was written to it?
static bool uses_cache(const qn_graph *graph, const qn_node *node, qn_id cache) {
  for (int i = 0; i < node->operand_count; i++) {
    qn_id id = qn_graph_base(graph, node->operands[i]);
    while (qn_graph_node(graph, id)->op == QN_OP_KV_WRITE) id = qn_graph_base(graph, qn_graph_node(graph, id)->operands[0]);
    if (id == cache) return true;
  }
  return false;
}

int64_t qn_graph_cache_window(const qn_graph *graph, qn_id cache) {
  qn_id pos = 0;  // where keys were written
  int64_t most = 0;
  for (qn_id id = cache + 1; id < graph->nodes.count; id++) {
    const qn_node *node = qn_graph_node(graph, id);
    if (!uses_cache(graph, node, cache)) continue;
    bool writes = node->op == QN_OP_KV_WRITE;
    int64_t window = writes ? 0 : reader_window(graph, node, pos);
    if (writes ? pos != 0 && pos != node->operands[2] : window <= 0 || window > INT32_MAX) return 0;
    if (writes) pos = node->operands[2];
    if (window > most) most = window;
  }
  return most;
}

uint32_t *qn_graph_count_uses(const qn_graph *graph, qn_arena *arena) {
  uint32_t *uses = QN_ARENA_ARRAY(arena, graph->nodes.count, uint32_t);
  if (!uses) return NULL;
  for (qn_id id = 1; id < graph->nodes.count; id++) {
    const qn_node *node = qn_graph_node(graph, id);
    for (int i = 0; i < node->operand_count; i++) uses[node->operands[i]]++;
  }
  for (size_t i = 0; i < graph->outputs.count; i++) uses[graph->outputs.items[i].value]++;
  return uses;
}

// The output of this name where it is rows of f32; NULL when there is none.
static const qn_type *rows_output(const qn_graph *graph, const char *name) {
  for (size_t i = 0; i < graph->outputs.count; i++) {
    const qn_output *output = &graph->outputs.items[i];
    const qn_type *type = &qn_graph_node(graph, output->value)->type;
    if (strcmp(output->name, name) == 0 && type->rank == 2) return type;
  }
  return NULL;
}

int64_t qn_graph_embedding_size(const qn_graph *graph) {
  const qn_type *type = rows_output(graph, "embedding");
  bool encodes = type && !rows_output(graph, "logits") && type->dims[0].symbol == QN_SYM_R && qn_dim_is_const(type->dims[1]);
  return encodes ? type->dims[1].value : 0;
}

int64_t qn_graph_vocab_size(const qn_graph *graph) {
  const qn_type *logits = rows_output(graph, "logits");
  int64_t least = 0;
  if (logits) return logits->dims[1].value;
  if (!qn_graph_embedding_size(graph)) return 0;
  for (qn_id id = 1; id < graph->nodes.count; id++) {
    const qn_node *node = qn_graph_node(graph, id);
    if (node->op != QN_OP_EMBED) continue;
    const qn_node *ids = qn_graph_node(graph, node->operands[1]);
    int64_t rows = qn_graph_node(graph, node->operands[0])->type.dims[0].value;
    bool of_tokens = ids->op == QN_OP_INPUT && strcmp(qn_node_text(ids, QN_ATTR_NAME, ""), "tokens") == 0;
    if (of_tokens && (least == 0 || rows < least)) least = rows;
  }
  return least;
}

double qn_expert_share(int64_t experts, int64_t chosen, double tokens) {
  if (experts < 1 || chosen >= experts) return 1;
  return 1 - pow(1 - (double)chosen / (double)experts, tokens);
}

static double value_bytes(const qn_type *type, const int64_t *symbol_values) {
  int64_t elements = 0;
  if (!qn_type_elements(type, symbol_values, &elements)) return 0;
  if (type->dtype == QN_DTYPE_A8) return (double)elements * 1.5;  // ir/dtype.def
  const qn_format *format = qn_format_of(type->dtype);
  if (format) return (double)elements * format->block_bytes / format->block_values;
  return (double)elements * (double)qn_dtype_size(type->dtype);
}

// Of a cache, whose pages hold more than elements: all of them.
static double node_bytes(const qn_node *node, const int64_t *symbol_values) {
  qn_kv_page page;
  bool is_k = qn_kv_lies_as_k(qn_node_text(node, QN_ATTR_KIND, ""));
  bool cache = node->op == QN_OP_CACHE || node->op == QN_OP_KV_WRITE;
  if (!cache || !qn_type_kv_page(&node->type, is_k, &page)) return value_bytes(&node->type, symbol_values);
  return (double)page.page_bytes * (double)symbol_values[QN_SYM_G];
}

// The part of its experts that a product reads.
static double share_read(const qn_graph *graph, const qn_node *node, const int64_t *symbol_values) {
  const qn_type *w = &qn_graph_node(graph, node->operands[1])->type;
  const qn_type *ids = &qn_graph_node(graph, node->operands[2])->type;
  qn_dim tokens = ids->dims[0];
  double count = (double)tokens.value * (qn_dim_is_const(tokens) ? 1 : (double)symbol_values[tokens.symbol]);
  return qn_expert_share(w->dims[0].value, ids->dims[1].value, count);
}

qn_cost qn_node_cost(const qn_graph *graph, qn_id id, const int64_t symbol_values[QN_SYM_COUNT]) {
  const qn_node *node = qn_graph_node(graph, id);
  uint32_t flags = qn_op_get_info(node->op)->flags;
  qn_cost cost = {0};
  if (flags & (QN_OF_S | QN_OF_V)) return cost;
  int64_t elements = 0;
  if (!qn_type_elements(&node->type, symbol_values, &elements)) return cost;
  const char *rule = cost_rules[node->op];
  const qn_type *first = node->operand_count > 0 ? &qn_graph_node(graph, node->operands[0])->type : NULL;
  if (strcmp(rule, "matmul") == 0) {
    cost.flops = 2.0 * (double)elements * (double)first->dims[first->rank - 1].value;
  } else if (strcmp(rule, "top_k") == 0 || strcmp(rule, "expert_mix") == 0) {
    const qn_type *weights = node->op == QN_OP_TOP_K ? first : &qn_graph_node(graph, node->operands[1])->type;
    cost.flops = 2.0 * (double)elements * (double)weights->dims[1].value;
  } else if (strcmp(rule, "pool") == 0) {
    int64_t summed = 0;  // each token once
    cost.flops = qn_type_elements(first, symbol_values, &summed) ? (double)summed : 0;
  } else if (strcmp(rule, "attn_scores") == 0) {
    cost.flops = 2.0 * (double)elements * (double)first->dims[2].value;
  } else if (strcmp(rule, "attn_mix") == 0 || strcmp(rule, "attention") == 0) {
    double keys = (double)symbol_values[QN_SYM_P] * QN_PAGE_KEYS;
    cost.flops = (node->op == QN_OP_ATTENTION ? 4.0 : 2.0) * (double)elements * keys;
  } else {
    cost.flops = (double)elements * strtod(rule, NULL);
  }
  for (int i = 0; i < node->operand_count; i++) {
    if ((flags & QN_OF_W) && i == 0) continue;  // a cache is written at a few places, not read
    const qn_node *operand = qn_graph_node(graph, node->operands[i]);
    bool experts = node->op == QN_OP_EXPERT_MATMUL && i == 1;
    cost.bytes_read += node_bytes(operand, symbol_values) * (experts ? share_read(graph, node, symbol_values) : 1);
  }
  cost.bytes_written = (flags & QN_OF_W) ? value_bytes(&qn_graph_node(graph, node->operands[1])->type, symbol_values)
                                         : value_bytes(&node->type, symbol_values);
  return cost;
}
