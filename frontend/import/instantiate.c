// Carries out a template's statements on a graph.
#include "frontend/import/instantiate.h"

#include <inttypes.h>
#include <string.h>

enum { MAX_REPEATS = 4096, MAX_NODES = 1 << 18, MAX_STEPS = 1 << 20 };

typedef struct runner {
  qn_binding *binding;
  const qn_instantiate_options *options;
  qn_graph *graph;
  qn_arena *arena;  // the graph's
  qn_map values;    // value or input name → node
  qn_map params;    // tensor name → node
  qn_place place;
  size_t steps;  // statements carried out, and turns of repeats
  qn_diag *diag;
} runner;

// Adds a node; an error gets the statement's path in front.
static qn_status add_node(runner *r, const char *path, const qn_node_spec *spec, qn_id *out) {
  if (r->graph->nodes.count >= MAX_NODES) {
    return qn_fail(r->diag, QN_ERR_LIMIT, path, "the graph has more than %d nodes", MAX_NODES);
  }
  qn_diag own = {0};
  qn_status status = qn_graph_add(r->graph, spec, out, &own);
  return status == QN_OK ? QN_OK : qn_fail(r->diag, status, path, "%s", own.text);
}

static qn_status put(runner *r, qn_map *map, const char *name, qn_id id) {
  return qn_map_put(map, qn_str_from(name), id) ? QN_OK : qn_fail_nomem(r->diag, r->binding->t->file, "values");
}

// --- operands

static qn_status add_input(runner *r, const char *path, const qn_template_input *input, qn_id *out) {
  qn_type type = input->type;
  qn_scope scope = qn_place_scope(&r->place);
  for (int d = 0; d < type.rank; d++) {
    int64_t size;
    if (!input->sizes[d]) continue;
    QN_TRY(qn_expression_int(input->path, input->sizes[d], &scope, 1, INT32_MAX, &size, r->diag));
    type.dims[d] = qn_dim_const(size);
  }
  qn_node_spec spec = {.op = QN_OP_INPUT, .attr_count = 1, .type = &type, .loc = input->name};
  spec.attrs[0] = (qn_attr){QN_ATTR_NAME, {.text = input->name}};
  QN_TRY(add_node(r, path, &spec, out));
  return put(r, &r->values, input->name, *out);
}

// Vectors are f32 whatever the file keeps them in (the packer converts); matrices have their target's format.
static qn_type weight_type(const qn_bound_tensor *tensor) {
  const qn_tensor_data *data = &tensor->data;
  qn_dim dims[QN_MAX_RANK];
  for (int d = 0; d < data->rank; d++) dims[d] = qn_dim_const(data->dims[d]);
  return qn_type_make(data->rank == 1 ? QN_DTYPE_F32 : tensor->target->dtype, data->rank, dims);
}

static qn_status add_weight(runner *r, const char *path, const qn_template_weight *weight, qn_id *out) {
  const qn_bound_tensor *tensor;
  uint64_t known;
  QN_TRY(qn_binding_weight(&r->place, path, weight, &tensor, r->diag));
  if (qn_map_get(&r->params, qn_str_from(tensor->name), &known)) {
    *out = (qn_id)known;
    return QN_OK;
  }
  qn_type type = weight_type(tensor);
  qn_node_spec spec = {.op = QN_OP_PARAM, .attr_count = 1, .type = &type, .loc = tensor->name};
  spec.attrs[0] = (qn_attr){QN_ATTR_NAME, {.text = tensor->name}};
  QN_TRY(add_node(r, path, &spec, out));
  return put(r, &r->params, tensor->name, *out);
}

static qn_status add_const(runner *r, const qn_template_arg *arg, const char *loc, qn_id *out) {
  qn_scope scope = qn_place_scope(&r->place);
  qn_type type = qn_type_make(QN_DTYPE_F32, 0, NULL);
  qn_node_spec spec = {.op = QN_OP_CONST, .attr_count = 1, .type = &type, .loc = loc};
  double value;
  QN_TRY(qn_expression_number(arg->path, arg->constant, &scope, &value, r->diag));
  spec.attrs[0] = (qn_attr){QN_ATTR_VALUE, {.f = value}};
  return add_node(r, arg->path, &spec, out);
}

// The node a name stands for. A weight that is optional, or one of several, may be absent: *out is 0 then.
static qn_status find_operand(runner *r, const char *path, const char *name, bool may_be_absent, qn_id *out) {
  const qn_template *t = r->binding->t;
  size_t index = 0;
  uint64_t id;
  bool found = true;
  *out = 0;
  if (qn_map_get(&r->values, qn_str_from(name), &id)) {
    *out = (qn_id)id;
    return QN_OK;
  }
  switch (qn_template_find(t, qn_str_from(name), &index)) {
    case QN_NAME_INPUT: return add_input(r, path, &t->inputs.items[index], out);
    case QN_NAME_WEIGHT:
      if (may_be_absent) QN_TRY(qn_binding_has(&r->place, path, &t->weights.items[index], &found, r->diag));
      return found ? add_weight(r, path, &t->weights.items[index], out) : QN_OK;
    default: break;
  }
  if (may_be_absent) return QN_OK;
  return qn_fail(r->diag, QN_ERR_FORMAT, path, "the value '%s' is not set at this point", name);
}

static qn_status add_operand(runner *r, const qn_template_arg *arg, const char *loc, qn_node_spec *spec) {
  qn_id id = 0;
  if (arg->constant) {
    QN_TRY(add_const(r, arg, loc, &id));
  } else {
    for (int i = 0; i < arg->name_count && !id; i++) {
      bool last = i == arg->name_count - 1;
      QN_TRY(find_operand(r, arg->path, arg->names[i], !last || arg->optional, &id));
    }
  }
  if (id) spec->operands[spec->operand_count++] = id;
  return QN_OK;
}

// --- the parts of an op statement

// What becomes of a text with placeholders, in the arena.
static qn_status expand(runner *r, const char *path, const char *text, const char **out) {
  qn_scope scope = qn_place_scope(&r->place);
  qn_buf buf;
  qn_buf_init(&buf, r->arena->allocator);
  qn_status status = qn_text_expand(path, text, &scope, &buf, r->diag);
  *out = status == QN_OK ? qn_arena_strdup(r->arena, qn_buf_text(&buf)) : NULL;
  qn_buf_deinit(&buf);
  if (status != QN_OK) return status;
  return *out ? QN_OK : qn_fail_nomem(r->diag, path, "a text");
}

static qn_status evaluate_attr(runner *r, const qn_template_attr *attr, qn_attr *out) {
  qn_scope scope = qn_place_scope(&r->place);
  out->id = attr->id;
  switch (qn_attr_get_kind(attr->id)) {
    case QN_AK_INT:
      return qn_expression_int(attr->path, attr->value, &scope, INT32_MIN, INT32_MAX, &out->value.i, r->diag);
    case QN_AK_FLOAT: return qn_expression_number(attr->path, attr->value, &scope, &out->value.f, r->diag);
    default: return expand(r, attr->path, attr->value, &out->value.text);
  }
}

static qn_status evaluate_type(runner *r, const qn_statement *s, qn_type *out) {
  qn_scope scope = qn_place_scope(&r->place);
  *out = (qn_type){.dtype = QN_DTYPE_F32, .rank = s->rank};
  if (s->dtype && strcmp(s->dtype, "kv") == 0) {
    out->dtype = r->options->kv_dtype;
  } else if (s->dtype) {
    (void)qn_dtype_parse(qn_str_from(s->dtype), &out->dtype);  // known: the template was checked
  }
  for (int d = 0; d < s->rank; d++) {
    int64_t size;
    if (qn_template_parse_symbol(s->shape[d], &out->dims[d])) continue;
    QN_TRY(qn_expression_int(s->path, s->shape[d], &scope, 1, INT32_MAX, &size, r->diag));
    out->dims[d] = qn_dim_const(size);
  }
  return QN_OK;
}

// "layer 3: q"
static qn_status make_loc(runner *r, const char *path, const char *name, const char **out) {
  qn_scope scope = qn_place_scope(&r->place);
  qn_buf text;
  qn_buf_init(&text, r->arena->allocator);
  for (int i = 0; i < r->place.count; i++) {
    if (!r->place.frames[i].label) continue;
    qn_buf_printf(&text, "%s %" PRId64 ": ", r->place.frames[i].label, r->place.frames[i].value.i);
  }
  qn_buf_puts(&text, name);
  qn_status status = qn_expression_count_text(path, &scope, text.length, r->diag);
  *out = status != QN_OK || text.failed ? NULL : qn_arena_strdup(r->arena, qn_buf_text(&text));
  qn_buf_deinit(&text);
  return status != QN_OK || *out ? status : qn_fail_nomem(r->diag, path, "a node");
}

static qn_status run_op(runner *r, const qn_statement *s) {
  qn_node_spec spec = {.op = s->op};
  qn_type type;
  qn_id id;
  QN_TRY(make_loc(r, s->path, s->set, &spec.loc));
  for (int i = 0; i < s->arg_count; i++) QN_TRY(add_operand(r, &s->args[i], spec.loc, &spec));
  bool of_tokens = s->op == QN_OP_KV_WRITE && spec.operand_count == 5 &&
                   qn_graph_node(r->graph, spec.operands[1])->type.dims[0].symbol == QN_SYM_T;
  if (r->options->guesses && of_tokens)
    QN_TRY(find_operand(r, s->path, "copies", false, &spec.operands[spec.operand_count++]));
  for (int i = 0; i < s->attr_count; i++) QN_TRY(evaluate_attr(r, &s->attrs[i], &spec.attrs[spec.attr_count++]));
  if (s->has_shape) {
    QN_TRY(evaluate_type(r, s, &type));
    spec.type = &type;
  }
  QN_TRY(add_node(r, s->path, &spec, &id));
  return put(r, &r->values, s->set, id);
}

// --- the other statements

static qn_status run_list(runner *r, const qn_statement_list *list);

// Statements carried out, and turns of repeats: a body may be empty.
static qn_status count_step(runner *r, const char *path) {
  if (++r->steps <= MAX_STEPS) return QN_OK;
  return qn_fail(r->diag, QN_ERR_LIMIT, path, "the template takes more than %d steps", MAX_STEPS);
}

static qn_status run_repeat(runner *r, const qn_statement *s) {
  qn_scope scope = qn_place_scope(&r->place);
  int64_t count;
  QN_TRY(qn_expression_int(s->path, s->count, &scope, 0, MAX_REPEATS, &count, r->diag));
  for (int64_t i = 0; i < count; i++) {
    QN_TRY(count_step(r, s->path));
    qn_place_push(&r->place, s->index, s->label, qn_value_int(i));
    QN_TRY(run_list(r, &s->body));
    r->place.count--;
  }
  return QN_OK;
}

static qn_id output_of(const qn_graph *graph, const char *name) {
  for (size_t i = 0; i < graph->outputs.count; i++)
    if (strcmp(graph->outputs.items[i].name, name) == 0) return graph->outputs.items[i].value;
  return 0;
}

static qn_status run_output(runner *r, const qn_statement *s) {
  qn_id id;
  const char *name;
  QN_TRY(expand(r, s->path, s->output, &name));
  if (output_of(r->graph, name))
    return qn_fail(r->diag, QN_ERR_FORMAT, s->path, "there is an output '%s' already", name);
  QN_TRY(find_operand(r, s->path, s->value, false, &id));
  return qn_graph_add_output(r->graph, name, id, r->diag);
}

static qn_status run_statement(runner *r, const qn_statement *s) {
  bool holds = true;
  QN_TRY(count_step(r, s->path));
  if (s->condition) {
    qn_scope scope = qn_place_scope(&r->place);
    QN_TRY(qn_expression_condition(s->path, s->condition, &scope, &holds, r->diag));
  }
  if (s->kind == QN_STATEMENT_CHOICE) return run_list(r, holds ? &s->body : &s->otherwise);
  if (!holds) return QN_OK;
  switch (s->kind) {
    case QN_STATEMENT_OP: return run_op(r, s);
    case QN_STATEMENT_REPEAT: return run_repeat(r, s);
    default: return run_output(r, s);
  }
}

static qn_status run_list(runner *r, const qn_statement_list *list) {
  for (size_t i = 0; i < list->count; i++) QN_TRY(run_statement(r, &list->items[i]));
  return QN_OK;
}

// The output `hidden`: what the product multiplies that makes the logits, but for what is done to each of them after it.
static qn_status add_hidden(runner *r) {
  const qn_graph *graph = r->graph;
  const char *file = r->binding->t->file;
  qn_id id = output_of(graph, "logits");
  if (!id) return qn_fail(r->diag, QN_ERR_UNSUPPORTED, file, "has no output 'logits', want a language model to guess for");
  if (graph->max_values[QN_SYM_S])
    return qn_fail(r->diag, QN_ERR_UNSUPPORTED, file,
                   "has an encoder, and tokens are guessed of texts that go on; compile it without guesses");
  for (const qn_node *node = qn_graph_node(graph, id); node->op != QN_OP_MATMUL; node = qn_graph_node(graph, id)) {
    int i = 0;
    while (i < node->operand_count && qn_graph_node(graph, node->operands[i])->type.rank != 2) i++;
    if (!(qn_op_get_info(node->op)->flags & (QN_OF_E | QN_OF_V)) || i == node->operand_count)
      return qn_fail(r->diag, QN_ERR_UNSUPPORTED, file,
                     "its logits are made by '%s' and not by a product, whose input heads could guess from",
                     qn_op_get_info(node->op)->name);
    id = node->operands[i];
  }
  return output_of(graph, "hidden") ? QN_OK
                                    : qn_graph_add_output(r->graph, "hidden", qn_graph_node(graph, id)->operands[0], r->diag);
}

// A symbol that no value has needs no bound: most models have no source.
static void drop_unused_bounds(qn_graph *graph) {
  bool used = false;
  for (qn_id id = 1; id < graph->nodes.count && !used; id++) {
    const qn_node *node = qn_graph_node(graph, id);
    used = node->op == QN_OP_INPUT && node->type.rank > 0 && node->type.dims[0].symbol == QN_SYM_S;
  }
  if (!used) graph->max_values[QN_SYM_S] = 0;
}

qn_status qn_instantiate(qn_binding *binding, const qn_instantiate_options *options, qn_arena *arena, qn_graph **out,
                         qn_diag *diag) {
  runner r = {.binding = binding, .options = options, .arena = arena, .place = {.binding = binding}, .diag = diag};
  qn_place_push(&r.place, "compiled_context", NULL, qn_value_int(options->context_tokens));
  r.graph = qn_graph_create(arena, binding->t->name);
  if (!r.graph) return qn_fail_nomem(diag, binding->t->file, "a graph");
  memcpy(r.graph->max_values, options->max_values, sizeof r.graph->max_values);
  qn_map_init(&r.values, arena->allocator);
  qn_map_init(&r.params, arena->allocator);
  qn_status status = run_list(&r, &binding->t->body);
  drop_unused_bounds(r.graph);
  qn_map_deinit(&r.values);
  qn_map_deinit(&r.params);
  if (status == QN_OK && r.graph->outputs.count == 0) {
    status = qn_fail(diag, QN_ERR_FORMAT, binding->t->file, "the graph has no output");
  }
  if (status == QN_OK && options->guesses) status = add_hidden(&r);
  qn_diag own = {0};
  if (status == QN_OK && (status = qn_graph_verify(r.graph, QN_STAGE_IMPORTED, &own)) != QN_OK) {
    status = qn_fail(diag, status, binding->t->file, "%s", own.text);
  }
  *out = status == QN_OK ? r.graph : NULL;
  return status;
}
