// lower: every group becomes a kernel in loop IR and a step that calls it; values that cross groups become buffers.
// Requires: every computing node has a group, groups are convex and their outside users come after them (fuse passes).
// Keeps: the order of arithmetic that ops.def and the numeric contract state. Breaks nothing: the graph stays.
#include "passes/lower.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "passes/cost.h"
#include "runtime/base/map.h"

bool qn_lower_add_buffer(qn_lower *lower, const qn_pbuf *buffer, uint32_t *out_index) {
  *out_index = (uint32_t)lower->program->buffers.count;
  return qn_vec_push_arena(lower->program->arena, &lower->program->buffers, *buffer);
}

static qn_status weight_buffer(qn_lower *lower, const qn_node *node, qn_pbuf *out) {
  qn_diag *diag = lower->pass->diag;
  const char *layout = qn_node_text(node, QN_ATTR_LAYOUT, "plain");
  qn_pbuf p = {.kind = QN_PB_WEIGHT, .type = node->type};
  if (!qn_layout_parse(layout, &p.layout)) {
    return qn_fail(diag, QN_ERR_FORMAT, node->loc, "layout: got '%s', want plain, rows1 or rows16", layout);
  }
  p.source_count = node->op == QN_OP_CONCAT ? (size_t)node->operand_count : 1;
  p.sources = QN_ARENA_ARRAY(lower->program->arena, p.source_count, const char *);
  if (!p.sources) return qn_fail_nomem(diag, node->loc, "a weight");
  for (size_t i = 0; i < p.source_count; i++) {
    const qn_node *source = node->op == QN_OP_CONCAT ? qn_graph_node(lower->graph, node->operands[i]) : node;
    p.sources[i] = qn_node_text(source, QN_ATTR_NAME, "?");
    if (p.layout == QN_LAYOUT_ROWS16 && i + 1 < p.source_count && source->type.dims[0].value % QN_TILE_ROWS != 0) {
      return qn_fail(diag, QN_ERR_UNSUPPORTED, node->loc,
                     "stacking '%s' for a matmul: got %" PRId64 " rows, want a multiple of %d in all but the last",
                     p.sources[i], source->type.dims[0].value, QN_TILE_ROWS);
    }
  }
  p.name = p.sources[0];
  size_t bytes = 0;
  int64_t elements = 0, ones[QN_SYM_COUNT] = {1, 1, 1, 1, 1, 1, 1};
  bool sized;
  if (p.layout == QN_LAYOUT_PLAIN) {
    sized = qn_type_elements(&p.type, ones, &elements) && qn_size_mul((size_t)elements, sizeof(float), &bytes);
    bytes = qn_align_up(bytes, QN_TILE_ROWS * sizeof(float));  // lanes past the end read zeros
  } else {
    sized = qn_weight_bytes(&p.type, p.layout, &bytes);
  }
  if (!sized)
    return qn_fail(diag, QN_ERR_LIMIT, node->loc, "the packed size of this weight overflows or has no layout");
  p.bytes = bytes;
  *out = p;
  return QN_OK;
}

static qn_status arena_buffer(qn_lower *lower, const qn_node *node, qn_pbuf *out) {
  const qn_type *type = &node->type;
  qn_pbuf p = {.kind = QN_PB_ARENA, .type = *type, .row_pitch = qn_lower_row_pitch(type), .first_step = UINT32_MAX};
  int64_t elements = 0;
  qn_type padded = *type;
  bool constant_rows = true;
  for (int i = 1; i < type->rank; i++) constant_rows = constant_rows && qn_dim_is_const(type->dims[i]);
  if (constant_rows && type->rank > 1) {
    padded.rank = 2;
    padded.dims[1] = qn_dim_const(p.row_pitch);
  } else if (!constant_rows) {
    p.row_pitch = 0;
  }
  if (!qn_type_elements(&padded, lower->graph->max_values, &elements) || elements < 1) {
    return qn_fail(lower->pass->diag, QN_ERR_LIMIT, node->loc,
                   "got a buffer of %" PRId64
                   " elements; every symbol needs a largest value above 0, and sizes must fit",
                   elements);
  }
  size_t bytes = 0;
  bool fits = qn_size_mul((size_t)elements, type->dtype == QN_DTYPE_A8 ? 1 : sizeof(float), &bytes) &&
              qn_size_add(bytes, QN_TILE_ROWS * sizeof(float), &bytes) && bytes <= QN_BUFFER_BYTES_MAX;
  if (!fits) {
    return qn_fail(lower->pass->diag, QN_ERR_LIMIT, node->loc,
                   "got a buffer of %" PRId64 " elements, want at most 2^40 bytes; compile for a smaller chunk or context",
                   elements);
  }
  p.bytes = bytes;
  *out = p;
  return QN_OK;
}

// Buffers of one node: sources and what must be in memory.
static qn_status make_buffer(qn_lower *lower, qn_id id) {
  const qn_node *node = qn_graph_node(lower->graph, id);
  qn_lvalue *value = &lower->values[id];
  qn_pbuf p = {.type = node->type};
  if (node->op == QN_OP_KV_WRITE) {
    value->buffer = lower->values[qn_graph_base(lower->graph, node->operands[0])].buffer;
    if (qn_graph_node(lower->graph, node->operands[1])->type.dims[0].symbol == QN_SYM_S)
      lower->program->buffers.items[value->buffer - 1].of_source = true;
    value->stored = true;
    return QN_OK;
  }
  if (node->op == QN_OP_PARAM || qn_graph_is_stack(lower->graph, node)) {
    if (node->op == QN_OP_PARAM && !qn_node_attr(node, QN_ATTR_LAYOUT)) return QN_OK;  // part of a concat
    QN_TRY(weight_buffer(lower, node, &p));
    value->stored = true;
  } else if (node->op == QN_OP_INPUT) {
    p.kind = QN_PB_INPUT;
    p.name = qn_node_text(node, QN_ATTR_NAME, "?");
    int64_t elements = 0;
    if (!qn_type_elements(&node->type, lower->graph->max_values, &elements) || elements > QN_BUFFER_BYTES_MAX / 4) {
      return qn_fail(lower->pass->diag, QN_ERR_LIMIT, node->loc, "the size of input '%s' overflows", p.name);
    }
    p.bytes = (uint64_t)elements * 4;
    value->stored = true;
  } else if (node->op == QN_OP_CACHE) {
    p.kind = QN_PB_CACHE;
    p.name = qn_node_text(node, QN_ATTR_KIND, "?");
    p.layer = (int)qn_node_int(node, QN_ATTR_INDEX, 0);
    p.window = qn_graph_cache_window(lower->graph, id);
    qn_kv_page page;
    if (!qn_type_kv_page(&node->type, qn_kv_lies_as_k(p.name), &page) || page.page_bytes > QN_BUFFER_BYTES_MAX) {
      return qn_fail(lower->pass->diag, QN_ERR_LIMIT, node->loc, "the size of a cache page overflows");
    }
    p.bytes = (uint64_t)page.page_bytes;
    value->stored = true;
  } else if (value->materialised) {
    QN_TRY(arena_buffer(lower, node, &p));
  } else {
    return QN_OK;
  }
  uint32_t index = 0;
  if (!qn_lower_add_buffer(lower, &p, &index)) return qn_fail_nomem(lower->pass->diag, node->loc, "a buffer");
  value->buffer = index + 1;
  return QN_OK;
}

// Ops that are no expression of an element: their kernels write rows as a whole.
static bool writes_rows(const qn_node *node) {
  switch (node->op) {
    case QN_OP_ATTN_SCORES:
    case QN_OP_ATTN_MIX:
    case QN_OP_ATTENTION:
    case QN_OP_QUANTIZE:
    case QN_OP_SAMPLE:
    case QN_OP_TOP_K:
    case QN_OP_EXPERT_ORDER:
    case QN_OP_EXPERT_MIX:
    case QN_OP_POOL:
    case QN_OP_CONCAT: return true;
    case QN_OP_SOFTMAX: return !qn_dim_is_const(node->type.dims[node->type.rank - 1]);
    default: return false;
  }
}

// Is the operand read many times over, so that it is worth computing once?
static bool reads_often(const qn_node *node, int i) {
  return (node->op == QN_OP_TOP_K && i == 0) || (node->op == QN_OP_EXPERT_MIX && i == 1);
}

// What an element's expression may grow to before a part of it goes to memory.
#define MAX_EXPRESSION 128

// Which values must be in memory: those used outside their group, outputs, what no expression computes, and what would
// make expressions too large (a value used twice is computed twice).
static qn_status find_materialised(qn_lower *lower) {
  const qn_graph *graph = lower->graph;
  uint32_t *sizes = QN_ARENA_ARRAY(lower->pass->arena, graph->nodes.count, uint32_t);
  if (!sizes) return qn_fail_nomem(lower->pass->diag, graph->name, "sizes of expressions");
  for (qn_id id = 1; id < graph->nodes.count; id++) {
    const qn_node *user = qn_graph_node(graph, id);
    sizes[id] = 1;
    for (int i = 0; user->group && i < user->operand_count; i++) {
      qn_id base = qn_graph_base(graph, user->operands[i]);
      const qn_node *node = qn_graph_node(graph, base);
      bool direct = user->op == QN_OP_KV_WRITE && user->operands[1] == base && !qn_dtype_is_block(user->type.dtype);
      bool rotated = node->op == QN_OP_ROPE && !direct;  // pairs are stored, not read element by element
      bool needed = node->group != user->group || rotated || reads_often(user, i);
      if (node->group && needed) lower->values[base].materialised = true;
      sizes[id] += lower->values[base].materialised ? 1 : sizes[base];
    }
    bool large = sizes[id] > MAX_EXPRESSION && user->op != QN_OP_KV_WRITE;
    if (user->group && (writes_rows(user) || large)) lower->values[id].materialised = true;
  }
  for (size_t i = 0; i < graph->outputs.count; i++) {
    lower->values[qn_graph_base(graph, graph->outputs.items[i].value)].materialised = true;
  }
  return QN_OK;
}

static qn_status name_outputs(qn_lower *lower) {
  for (size_t i = 0; i < lower->graph->outputs.count; i++) {
    const qn_output *output = &lower->graph->outputs.items[i];
    uint32_t buffer = lower->values[qn_graph_base(lower->graph, output->value)].buffer;
    const qn_node *node = qn_graph_node(lower->graph, output->value);
    qn_pbuf *p = buffer ? &lower->program->buffers.items[buffer - 1] : NULL;
    if (!p || p->kind != QN_PB_ARENA || p->name) {
      return qn_fail(lower->pass->diag, QN_ERR_UNSUPPORTED, node->loc,
                     "output '%s' is not a value of its own that a step computes; got %s", output->name,
                     p && p->name ? p->name : qn_op_get_info(node->op)->name);
    }
    p->name = output->name;
    p->type = node->type;
    p->last_step = UINT32_MAX;
  }
  return QN_OK;
}

// The node that decides what kind of kernel a group is.
static qn_id anchor_of(const qn_graph *graph, uint32_t group) {
  qn_id first = 0;
  for (qn_id id = 1; id < graph->nodes.count; id++) {
    const qn_node *node = qn_graph_node(graph, id);
    if (node->group != group) continue;
    if (!first) first = id;
    if (qn_op_is_product(node->op) || node->op == QN_OP_ATTENTION || node->op == QN_OP_ATTN_SCORES ||
        node->op == QN_OP_ATTN_MIX) {
      return id;
    }
  }
  return first;
}

static void group_name(const qn_lower *lower, char *out, size_t size) {
  const qn_graph *graph = lower->graph;
  qn_id anchor = lower->anchor;
  const qn_node *node = qn_graph_node(graph, anchor);
  const char *op = qn_op_get_info(node->op)->name;
  if (qn_op_is_product(node->op)) {
    const qn_type *x = &qn_graph_node(graph, node->operands[0])->type,
                  *w = &qn_graph_node(graph, node->operands[1])->type;
    int length = snprintf(out, size, "qk_%s_%s_%s", op, qn_dtype_name(w->dtype), qn_dtype_name(x->dtype));
    if (w->rank == 3) length += snprintf(out + length, size - (size_t)length, "_e%" PRId64, w->dims[0].value);
    snprintf(out + length, size - (size_t)length, "_n%" PRId64 "_k%" PRId64, w->dims[w->rank - 2].value,
             w->dims[w->rank - 1].value);
    return;
  }
  if (node->op == QN_OP_ATTENTION) {
    snprintf(out, size, "qk_attention_h%" PRId64 "_d%" PRId64, node->type.dims[1].value, node->type.dims[2].value);
    return;
  }
  int length = snprintf(out, size, "qk_%s", op);
  for (qn_id id = anchor + 1; id < graph->nodes.count && length < 40; id++) {
    const qn_node *next = qn_graph_node(graph, id);
    if (next->group == lower->group && !(qn_op_get_info(next->op)->flags & QN_OF_V)) {
      length += snprintf(out + length, size - (size_t)length, "_%s", qn_op_get_info(next->op)->name);
    }
  }
}

static void kernel_name(const qn_lower *lower, char *out, size_t size) {
  group_name(lower, out, size);
  size_t length = strlen(out);
  if (lower->piece) snprintf(out + length, size - length, "_%s", lower->piece);
}

static const char *kernel_signature(const qn_lower *lower) {
  const char *signature = qn_lower_signature(lower);
  if (!signature || !lower->piece) return signature;
  return qn_arena_printf(lower->program->arena, "%s piece %s", signature, lower->piece);
}

static void describe_matmul(const qn_lower *lower, const qn_node *first, qn_pkernel *out) {
  const qn_graph *graph = lower->graph;
  const qn_type *weights = &qn_graph_node(graph, first->operands[1])->type;
  out->k = weights->dims[weights->rank - 1].value;
  if (first->op == QN_OP_EXPERT_MATMUL) {
    out->experts = weights->dims[0].value;
    out->chosen = qn_graph_node(graph, first->operands[2])->type.dims[1].value;
  }
  out->weights = weights->dtype;
  out->input = qn_graph_node(graph, first->operands[0])->type.dtype;
  for (qn_id id = 1; id < graph->nodes.count; id++) {
    const qn_node *node = qn_graph_node(graph, id);
    bool product = node->group == lower->group && qn_op_is_product(node->op);
    out->products += product;
    out->halves = out->halves || (product && qn_node_attr(node, QN_ATTR_HALVES));
  }
}

// Adds the kernel just written to the program, or finds the equal one that is there.
static qn_status intern_kernel(qn_lower *lower, uint32_t *out_index) {
  qn_arena *arena = lower->program->arena;
  const qn_node *node = qn_graph_node(lower->graph, lower->anchor);
  qn_buf text;
  qn_buf_init(&text, arena->allocator);
  qn_lkernel_print(lower->build.kernel, &text);
  char *key = text.failed ? NULL : qn_arena_strndup(arena, qn_buf_text(&text), text.length);
  size_t length = text.length;
  qn_buf_deinit(&text);
  if (!key) return qn_fail_nomem(lower->pass->diag, node->loc, "a kernel's text");
  uint64_t found = 0;
  if (qn_map_get(lower->known, (qn_str){key, length}, &found)) {
    *out_index = (uint32_t)found;
    return QN_OK;
  }
  bool matmul = qn_op_is_product(node->op);
  qn_pkernel kernel = {.plain = lower->build.kernel, .is_matmul = matmul, .rows = QN_SYM_NONE};
  if (matmul) {
    kernel.rows = node->type.dims[0].symbol;
    kernel.panels = (node->type.dims[1].value + QN_TILE_ROWS - 1) / QN_TILE_ROWS;
    describe_matmul(lower, node, &kernel);
  }
  if (node->op == QN_OP_ATTENTION) {
    bool even = node->type.dims[2].value / QN_TILE_ROWS % 2 == 0;  // of head_dim; a page of keys has 4 panels
    kernel.rows = node->type.dims[0].symbol;
    kernel.tile_rows = lower->tile_rows;
    kernel.run_tokens = lower->run_tokens;
    kernel.panels = !even ? 1 : node->type.dims[2].value / QN_TILE_ROWS % 4 == 0 ? 4 : 2;
  }
  if (lower->splits) kernel.rows = lower->rows;
  kernel.signature = kernel_signature(lower);
  char name[96];
  kernel_name(lower, name, sizeof name);
  int twins = 0;
  for (size_t i = 0; i < lower->program->kernels.count; i++) {
    const char *other = lower->program->kernels.items[i].name;
    size_t n = strlen(name);
    twins += strncmp(other, name, n) == 0 && (other[n] == 0 || strncmp(other + n, "__v", 3) == 0);
  }
  kernel.name = twins ? qn_arena_printf(arena, "%s__v%d", name, twins + 1) : qn_arena_strdup(arena, name);
  *out_index = (uint32_t)lower->program->kernels.count;
  if (!kernel.name || !kernel.signature || !qn_vec_push_arena(arena, &lower->program->kernels, kernel) ||
      !qn_map_put(lower->known, (qn_str){key, length}, *out_index)) {
    return qn_fail_nomem(lower->pass->diag, node->loc, "a kernel");
  }
  lower->build.kernel->name = kernel.name;
  return qn_cost_count(&kernel, arena, &lower->program->kernels.items[*out_index].work, lower->pass->diag);
}

static qn_status add_step(qn_lower *lower, uint32_t kernel, const char *loc) {
  qn_program *program = lower->program;
  uint32_t index = (uint32_t)program->steps.count;
  qn_pstep step = {.kernel = kernel, .loc = loc, .group = lower->group};
  step.buffers = QN_ARENA_ARRAY(program->arena, lower->bindings.count, uint32_t);
  step.spans = QN_ARENA_ARRAY(program->arena, lower->bindings.count, int64_t);
  if (!step.buffers || !step.spans) return qn_fail_nomem(lower->pass->diag, loc, "a step");
  for (size_t i = 0; i < lower->bindings.count; i++) {
    qn_lparam_binding binding = lower->bindings.items[i];
    step.buffers[i] = binding.buffer;
    qn_pbuf *p = &program->buffers.items[binding.buffer];
    if (p->first_step == UINT32_MAX) p->first_step = index;
    if (p->last_step < index) p->last_step = index;
  }
  if (!qn_vec_push_arena(program->arena, &program->steps, step)) return qn_fail_nomem(lower->pass->diag, loc, "a step");
  return QN_OK;
}

static void begin_kernel(qn_lower *lower) {
  lower->bindings.count = 0;
  lower->splits = false;
  lower->tile_rows = lower->run_tokens = 0;
  lower->part = NULL;
  lower->parts = 1;
  lower->piece = NULL;
  lower->copy = NULL;
  qn_lbuild_init(&lower->build, lower->program->arena, "k");
}

// The kernel just written and a step that calls it.
static qn_status end_kernel(qn_lower *lower) {
  const qn_node *node = qn_graph_node(lower->graph, lower->anchor);
  if (lower->build.failed) {
    if (lower->pass->diag && lower->pass->diag->status != QN_OK) return lower->pass->diag->status;
    return qn_fail_nomem(lower->pass->diag, node->loc, "a kernel");
  }
  QN_TRY(qn_lkernel_verify(lower->build.kernel, lower->pass->diag));
  uint32_t kernel = 0;
  QN_TRY(intern_kernel(lower, &kernel));
  return add_step(lower, kernel, node->loc);
}

qn_status qn_lower_end_piece(qn_lower *lower, const char *piece) {
  lower->piece = piece;
  QN_TRY(end_kernel(lower));
  begin_kernel(lower);
  return QN_OK;
}

qn_status qn_lower_scratch(qn_lower *lower, qn_dtype dtype, qn_dim rows, int64_t pitch, uint32_t *out_buffer) {
  qn_dim dims[] = {rows, qn_dim_const(pitch)};
  const qn_node *anchor = qn_graph_node(lower->graph, lower->anchor);
  qn_node node = {.type = qn_type_make(dtype, 2, dims), .loc = anchor->loc};
  qn_pbuf p;
  QN_TRY(arena_buffer(lower, &node, &p));
  return qn_lower_add_buffer(lower, &p, out_buffer) ? QN_OK
                                                    : qn_fail_nomem(lower->pass->diag, anchor->loc, "a buffer");
}

static qn_status lower_group(qn_lower *lower, uint32_t group) {
  lower->group = group;
  lower->anchor = anchor_of(lower->graph, group);
  const qn_node *node = qn_graph_node(lower->graph, lower->anchor);
  begin_kernel(lower);
  if (qn_op_is_product(node->op)) {
    QN_TRY(qn_lower_matmul_group(lower));
  } else if (node->op == QN_OP_EXPERT_ORDER) {
    QN_TRY(qn_lower_expert_order(lower, lower->anchor));
  } else if (node->op == QN_OP_ATTENTION || node->op == QN_OP_ATTN_SCORES || node->op == QN_OP_ATTN_MIX) {
    QN_TRY(qn_lower_attention_group(lower, lower->anchor));
  } else if (qn_lower_is_sum(node)) {
    QN_TRY(qn_lower_attention_sum(lower, lower->anchor));
  } else if (node->op == QN_OP_SAMPLE) {
    QN_TRY(qn_lower_sample(lower, lower->anchor));
  } else {
    QN_TRY(qn_lower_rows_group(lower));
  }
  for (qn_id id = 1; id < lower->graph->nodes.count; id++) {  // accumulators and row numbers end with the kernel
    if (qn_graph_node(lower->graph, id)->group != group) continue;
    lower->values[id].expr = NULL;
    lower->values[id].stats = NULL;
    lower->values[id].stored = true;
  }
  return end_kernel(lower);
}

// Groups in the order of their last nodes, which is an order in which they can run.
static qn_status lower_groups(qn_lower *lower) {
  const qn_graph *graph = lower->graph;
  qn_id *last = QN_ARENA_ARRAY(lower->program->arena, graph->group_count + 1, qn_id);
  if (!last) return qn_fail_nomem(lower->pass->diag, graph->name, "the order of groups");
  for (qn_id id = 1; id < graph->nodes.count; id++) last[qn_graph_node(graph, id)->group] = id;
  qn_map known;
  qn_map_init(&known, lower->pass->allocator);
  lower->known = &known;
  qn_status status = QN_OK;
  for (qn_id id = 1; id < graph->nodes.count && status == QN_OK; id++) {
    uint32_t group = qn_graph_node(graph, id)->group;
    if (group && last[group] == id) status = lower_group(lower, group);
  }
  qn_map_deinit(&known);
  return status;
}

qn_status qn_pass_lower(qn_pass_context *context) {
  qn_lower lower = {.pass = context, .graph = context->graph};
  lower.program = qn_program_create(context->arena, context->graph->name);
  lower.values = QN_ARENA_ARRAY(context->arena, context->graph->nodes.count, qn_lvalue);
  if (!lower.program || !lower.values) return qn_fail_nomem(context->diag, context->graph->name, "lowering");
  memcpy(lower.program->max_values, context->graph->max_values, sizeof lower.program->max_values);
  QN_TRY(find_materialised(&lower));
  for (qn_id id = 1; id < context->graph->nodes.count; id++) QN_TRY(make_buffer(&lower, id));
  QN_TRY(name_outputs(&lower));
  QN_TRY(lower_groups(&lower));
  context->program = lower.program;
  return QN_OK;
}
