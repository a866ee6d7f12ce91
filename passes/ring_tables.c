// ring_tables: where some layers have windows and others see all keys (pass option `rings`), caches of those with windows
// go by a block table of their own, the input `window_table` [B, P], in place of `block_table`: so the runtime can give
// back their pages before the window and keep the others'. Where all layers have windows one table serves them all.
// Requires: a valid graph. Keeps: every value, where both tables are right for what is read. A graph with an encoder,
// whose source's keys lie in the same pages, is left alone.
#include <string.h>

#include "passes/pass.h"

static const char name[] = "window_table";

typedef struct ringing {
  const bool *has_window;  // by old node: of caches, and of what they are after a write
  qn_id table;             // of the new graph; 0 = not yet
} ringing;

static bool is_input(const qn_graph *graph, qn_id id, const char *input) {
  const qn_node *node = qn_graph_node(graph, id);
  return node->op == QN_OP_INPUT && strcmp(qn_node_text(node, QN_ATTR_NAME, ""), input) == 0;
}

// Which operands are a cache and the block table; false = the op has none.
static bool find_operands(const qn_node *node, int *out_cache, int *out_table) {
  *out_cache = node->op == QN_OP_KV_WRITE ? 0 : 1;
  *out_table = node->op == QN_OP_ATTENTION ? 5 : 4;
  return node->op == QN_OP_KV_WRITE || node->op == QN_OP_ATTN_SCORES || node->op == QN_OP_ATTN_MIX ||
         node->op == QN_OP_ATTENTION;
}

static qn_status add_table(qn_rewriter *r, const qn_type *type, qn_id *out) {
  qn_node_spec input = {.op = QN_OP_INPUT,
                        .attr_count = 1,
                        .attrs = {{.id = QN_ATTR_NAME, .value.text = name}},
                        .type = type,
                        .loc = name};
  return qn_graph_add(r->to, &input, out, r->diag);
}

static qn_status ring_node(qn_rewriter *r, qn_id id, qn_id *out) {
  ringing *c = r->context;
  const qn_node *node = qn_graph_node(r->from, id);
  int cache, table;
  qn_node_spec spec;
  QN_TRY(qn_rewrite_spec(r, id, &spec));
  if (is_input(r->from, id, name))
    return qn_fail(r->diag, QN_ERR_UNSUPPORTED, node->loc, "got an input '%s' of its own, want none: it is made", name);
  if (find_operands(node, &cache, &table) && c->has_window[node->operands[cache]] &&
      is_input(r->from, node->operands[table], "block_table")) {
    if (!c->table) QN_TRY(add_table(r, &qn_graph_node(r->from, node->operands[table])->type, &c->table));
    spec.operands[table] = c->table;
  }
  return qn_graph_add(r->to, &spec, out, r->diag);
}

qn_status qn_pass_ring_tables(qn_pass_context *context) {
  const qn_graph *graph = context->graph;
  bool some = false, all = true, source = false;
  bool *has_window = QN_ARENA_ARRAY(context->arena, graph->nodes.count, bool);
  if (!context->options->rings) return QN_OK;
  if (!has_window) return qn_fail_nomem(context->diag, graph->name, "caches with windows");
  for (qn_id id = 1; id < graph->nodes.count; id++) {
    const qn_node *node = qn_graph_node(graph, id);
    if (node->op == QN_OP_KV_WRITE) {
      has_window[id] = has_window[node->operands[0]];
      source = source || qn_graph_node(graph, node->operands[1])->type.dims[0].symbol == QN_SYM_S;
    }
    if (node->op != QN_OP_CACHE) continue;
    has_window[id] = qn_graph_cache_window(graph, id) > 0;
    some = some || has_window[id];
    all = all && has_window[id];
  }
  if (!some || all || source) return QN_OK;
  ringing c = {.has_window = has_window};
  return qn_graph_rewrite(graph, context->arena, ring_node, &c, &context->graph, context->diag);
}
