// Counts what a step costs, from the graph and the program that came of it, into lines of the artifact's summary. The
// runtime reads them back (quern_model_get_cost): a benchmark divides by them.
#include <inttypes.h>

#include "frontend/compile.h"
#include "ir/program.h"

typedef struct cost {
  uint64_t weight_bytes, token_bytes, key_bytes;
  uint64_t int8_token, f32_token, int8_row, f32_row, key;
} cost;

static uint64_t constant(qn_dim dim) { return qn_dim_is_const(dim) ? (uint64_t)dim.value : 0; }

static void count_matmul(const qn_graph *g, const qn_node *node, cost *c) {
  const qn_type *x = &qn_graph_node(g, node->operands[0])->type, *w = &qn_graph_node(g, node->operands[1])->type;
  uint64_t macs = constant(w->dims[0]) * constant(w->dims[1]) * (uint64_t)x->dims[0].value;
  bool integer = x->dtype == QN_DTYPE_A8, row = x->dims[0].symbol == QN_SYM_R;
  *(row ? integer ? &c->int8_row : &c->f32_row : integer ? &c->int8_token : &c->f32_token) += macs;
}

static void count_node(const qn_graph *g, const qn_node *node, cost *c) {
  size_t bytes = 0;
  const qn_type *type = &node->type;
  switch (node->op) {
    case QN_OP_MATMUL: count_matmul(g, node, c); break;
    case QN_OP_EMBED: {
      const qn_type *table = &qn_graph_node(g, node->operands[0])->type;
      const qn_format *format = qn_format_of(table->dtype);
      if (format && qn_format_tile_bytes(format, 1, 1, (int64_t)constant(table->dims[1]), &bytes))
        c->token_bytes += bytes;
      break;
    }
    case QN_OP_CACHE: {
      uint64_t values = constant(type->dims[1]) * constant(type->dims[2]) * constant(type->dims[3]);
      c->key_bytes += values * qn_dtype_size(type->dtype) / QN_PAGE_KEYS;
      break;
    }
    case QN_OP_ATTENTION: c->key += 2 * constant(type->dims[1]) * constant(type->dims[2]); break;
    case QN_OP_ATTN_SCORES: {
      const qn_type *q = &qn_graph_node(g, node->operands[0])->type;
      c->key += constant(q->dims[1]) * constant(q->dims[2]);
      break;
    }
    case QN_OP_ATTN_MIX: c->key += constant(type->dims[1]) * constant(type->dims[2]); break;
    default: break;
  }
}

// Weights that a step reads whole: a table that is only looked up is not among them, unless a product reads it too.
static void count_step(const qn_program *p, const qn_pstep *step, cost *c) {
  const qn_pkernel *kernel = &p->kernels.items[step->kernel];
  for (size_t i = 0; i < kernel->plain->param_count; i++) {
    const qn_pbuf *buffer = &p->buffers.items[step->buffers[i]];
    bool lookup = buffer->layout == QN_LAYOUT_ROWS1 || (buffer->layout == QN_LAYOUT_ROWS16 && !kernel->is_matmul);
    bool again = false;
    for (size_t j = 0; j < i; j++) again = again || step->buffers[j] == step->buffers[i];
    if (buffer->kind == QN_PB_WEIGHT && !lookup && !again) c->weight_bytes += buffer->bytes;
  }
}

void quern_put_cost(const qn_graph *graph, const qn_program *program, qn_buf *out) {
  cost c = {0};
  for (qn_id id = 1; id < graph->nodes.count; id++) count_node(graph, qn_graph_node(graph, id), &c);
  for (size_t i = 0; i < program->steps.count; i++) count_step(program, &program->steps.items[i], &c);
  const struct {
    const char *key;
    uint64_t value;
  } lines[] = {{"weight_bytes", c.weight_bytes},  {"token_bytes", c.token_bytes},  {"key_bytes", c.key_bytes},
               {"int8_macs_token", c.int8_token}, {"f32_macs_token", c.f32_token}, {"int8_macs_row", c.int8_row},
               {"f32_macs_row", c.f32_row},       {"f32_macs_key", c.key}};
  for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
    qn_buf_printf(out, "cost.%s = %" PRIu64 "\n", lines[i].key, lines[i].value);
  }
}
