// sum_attention: for policies of eviction that go by what attention each key has had (pass option `evict`). A layer
// gets a cache of sums beside its keys, to which every step adds its tokens' attention: of scores and their softmax,
// computed once more, since attention itself never writes them. Requires: place_keys and fuse_attention have run.
// Keeps: every value; the order of the sums is that of tokens, wherever steps end.
#include <inttypes.h>
#include <string.h>

#include "passes/pass.h"

// The kinds of sums, and of which part of the scores they are.
static const struct {
  unsigned evict;
  const char *kind;
  double share;
} sums[] = {{QN_EVICT_SUMS, "sum", 1}, {QN_EVICT_SOFTSUMS, "softsum", 0.5}};

typedef struct summing {
  unsigned evict;
} summing;

// Which operand of attention, or of its scores, says where a token's key is; 0 = neither.
static int place_operand(const qn_node *node) {
  return node->op == QN_OP_ATTENTION ? 3 : node->op == QN_OP_ATTN_SCORES ? 2 : 0;
}

static int64_t layer_of(const qn_graph *graph, qn_id cache) {
  while (qn_graph_node(graph, cache)->op == QN_OP_KV_WRITE) cache = qn_graph_node(graph, cache)->operands[0];
  return qn_node_int(qn_graph_node(graph, cache), QN_ATTR_INDEX, 0);
}

static bool has_cache(const qn_graph *graph, const char *kind, int64_t layer) {
  for (qn_id id = 1; id < graph->nodes.count; id++) {
    const qn_node *node = qn_graph_node(graph, id);
    if (node->op == QN_OP_CACHE && strcmp(qn_node_text(node, QN_ATTR_KIND, ""), kind) == 0 &&
        qn_node_int(node, QN_ATTR_INDEX, 0) == layer)
      return true;
  }
  return false;
}

// The attention that tokens give keys: `share` of the scores, the soft cap's too, through a softmax.
static qn_status add_weights(qn_rewriter *r, const qn_node *node, double share, qn_id *out) {
  int place = place_operand(node);
  double cap = qn_node_float(node, QN_ATTR_SOFTCAP, 0);
  qn_node_spec scores = {.op = QN_OP_ATTN_SCORES,
                         .operand_count = 5,
                         .operands = {r->map[node->operands[0]], r->map[node->operands[1]]},
                         .attr_count = cap > 0 ? 2 : 1,
                         .attrs = {{.id = QN_ATTR_SCALE, .value.f = qn_node_float(node, QN_ATTR_SCALE, 1) * share},
                                   {.id = QN_ATTR_SOFTCAP, .value.f = cap * share}},
                         .loc = node->loc};
  for (int i = 0; i < 3; i++) scores.operands[2 + i] = r->map[node->operands[place + i]];
  qn_node_spec softmax = {.op = QN_OP_SOFTMAX, .operand_count = 1, .loc = node->loc};
  QN_TRY(qn_graph_add(r->to, &scores, &softmax.operands[0], r->diag));
  return qn_graph_add(r->to, &softmax, out, r->diag);
}

static qn_status add_sums(qn_rewriter *r, const qn_node *node, const char *kind, double share) {
  int place = place_operand(node);
  int64_t layer = layer_of(r->from, node->operands[1]);
  if (has_cache(r->to, kind, layer)) return QN_OK;  // another layer reads the same keys
  qn_dim heads = qn_graph_node(r->from, node->operands[1])->type.dims[1];
  qn_dim dims[] = {qn_dim_sym(QN_SYM_G), heads, qn_dim_const(1), qn_dim_const(QN_PAGE_KEYS)};
  qn_type type = qn_type_make(QN_DTYPE_F32, 4, dims);
  qn_node_spec cache = {.op = QN_OP_CACHE,
                        .attr_count = 2,
                        .attrs = {{.id = QN_ATTR_KIND, .value.text = kind}, {.id = QN_ATTR_INDEX, .value.i = layer}},
                        .type = &type,
                        .loc = node->loc};
  qn_node_spec write = {.op = QN_OP_KV_WRITE,
                        .operand_count = 5,
                        .attr_count = 1,
                        .attrs = {{.id = QN_ATTR_KIND, .value.text = kind}},
                        .loc = node->loc};
  qn_id written = 0;
  QN_TRY(qn_graph_add(r->to, &cache, &write.operands[0], r->diag));
  QN_TRY(add_weights(r, node, share, &write.operands[1]));
  for (int i = 0; i < 3; i++) write.operands[2 + i] = r->map[node->operands[place + i]];
  return qn_graph_add(r->to, &write, &written, r->diag);
}

static qn_status sum_node(qn_rewriter *r, qn_id id, qn_id *out) {
  const summing *s = r->context;
  const qn_node *node = qn_graph_node(r->from, id);
  QN_TRY(qn_rewrite_keep(r, id, out));
  for (size_t i = 0; place_operand(node) && i < sizeof sums / sizeof *sums; i++)
    if (s->evict & sums[i].evict) QN_TRY(add_sums(r, node, sums[i].kind, sums[i].share));
  return QN_OK;
}

qn_status qn_pass_sum_attention(qn_pass_context *context) {
  summing s = {context->options->evict};
  if (!(s.evict & (QN_EVICT_SUMS | QN_EVICT_SOFTSUMS))) return QN_OK;
  return qn_graph_rewrite(context->graph, context->arena, sum_node, &s, &context->graph, context->diag);
}
