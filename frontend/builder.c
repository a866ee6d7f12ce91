// Graphs built in code: the functions of quern.h that add to one, each checked by the same table and shape rules as
// every other graph, and what a compilation asks of it.
#include "frontend/builder.h"

#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/compile.h"
#include "frontend/import/quantize.h"
#include "frontend/import/requantize.h"
#include "runtime/base/map.h"
#include "runtime/base/options.h"

enum { MAX_NODES = 1 << 18 };  // as many as a graph in JSON may have
#define DEFAULT_TOKENS 256
#define DEFAULT_PAGES  64
#define MAX_SEQUENCES  (1 << 20)

typedef struct weight {
  const char *name;  // arena
  qn_tensor_data data;
  size_t bytes;
} weight;

struct quern_graph {
  qn_allocator allocator;
  qn_arena arena;   // the graph, names, weights that were copied
  qn_graph *graph;  // arena
  qn_map inputs;    // names → nodes
  qn_map names;     // of weights → indexes
  QN_VEC(weight) weights;
  qn_diag diag;  // the first error
};

// --- life

static qn_status check_size(const char *what, int64_t got, int64_t most, qn_diag *diag) {
  if (got >= 0 && got <= most) return QN_OK;
  return qn_fail(diag, QN_ERR_ARGUMENT, what,
                 "got %" PRId64 " as the largest size, want 1 to %" PRId64 "; 0 = the default", got, most);
}

static qn_status take_sizes(const quern_sizes *most, int64_t *out, qn_diag *diag) {
  QN_TRY(check_size("most.tokens", most->tokens, INT32_MAX, diag));
  QN_TRY(check_size("most.rows", most->rows, INT32_MAX, diag));
  QN_TRY(check_size("most.pages", most->pages, INT32_MAX / QN_PAGE_KEYS, diag));
  QN_TRY(check_size("most.sequences", most->sequences, MAX_SEQUENCES, diag));
  QN_TRY(check_size("most.pool_pages", most->pool_pages, INT32_MAX, diag));
  QN_TRY(check_size("most.source", most->source, INT32_MAX, diag));
  out[QN_SYM_T] = most->tokens ? most->tokens : DEFAULT_TOKENS;
  out[QN_SYM_R] = most->rows ? most->rows : out[QN_SYM_T];
  out[QN_SYM_P] = most->pages ? most->pages : DEFAULT_PAGES;
  out[QN_SYM_B] = most->sequences ? most->sequences : 1;
  int64_t all = out[QN_SYM_P] * out[QN_SYM_B];
  out[QN_SYM_G] = most->pool_pages ? most->pool_pages : all < INT32_MAX ? all : INT32_MAX;
  out[QN_SYM_S] = most->source;  // 0: no graph but an encoder has it
  return QN_OK;
}

static qn_status create(const char *name, const quern_graph_options *options, quern_graph **out, qn_diag *diag) {
  int64_t sizes[QN_SYM_COUNT] = {0};
  if (!name || !*name) return qn_fail(diag, QN_ERR_ARGUMENT, "graph", "got no name, want one for messages");
  QN_TRY(take_sizes(&options->most, sizes, diag));
  qn_allocator allocator = *qn_allocator_default();
  if (options->allocator) allocator = (qn_allocator){options->allocator->context, options->allocator->reallocate};
  quern_graph *g = qn_alloc_zeroed(&allocator, sizeof *g);
  if (!g) return qn_fail_nomem(diag, name, "a graph");
  g->allocator = allocator;
  qn_arena_init(&g->arena, &g->allocator);
  qn_map_init(&g->inputs, &g->allocator);
  qn_map_init(&g->names, &g->allocator);
  g->graph = qn_graph_create(&g->arena, name);
  if (!g->graph) {
    quern_graph_destroy(g);
    return qn_fail_nomem(diag, name, "a graph");
  }
  memcpy(g->graph->max_values, sizes, sizeof sizes);
  *out = g;
  return QN_OK;
}

int quern_graph_create(const char *name, const quern_graph_options *options, quern_graph **out, quern_error *error) {
  quern_graph_options own;
  qn_diag diag = {0};
  *out = NULL;
  qn_status status = qn_options_take(options, "quern_graph_options", &own, sizeof own, &diag);
  if (status == QN_OK) status = create(name, &own, out, &diag);
  return quern_give_error(error, &diag, status);
}

void quern_graph_destroy(quern_graph *g) {
  if (!g) return;
  qn_allocator allocator = g->allocator;
  qn_vec_free(&allocator, &g->weights);
  qn_map_deinit(&g->inputs);
  qn_map_deinit(&g->names);
  qn_arena_deinit(&g->arena);
  qn_free(&allocator, g, sizeof *g);
}

// --- adding

// Ends a function that adds a value.
static quern_value give(const quern_graph *g, qn_status status, qn_id id, quern_error *error) {
  quern_give_error(error, &g->diag, g->diag.status != QN_OK ? g->diag.status : status);
  return g->diag.status == QN_OK ? id : 0;
}

// Adds a node. What the graph's rules call a bad file is here what the caller asked for.
static qn_status add_node(quern_graph *g, const qn_node_spec *spec, qn_id *out) {
  qn_diag own = {0};
  if (g->graph->nodes.count >= MAX_NODES)
    return qn_fail(&g->diag, QN_ERR_LIMIT, g->graph->name, "the graph has %d values, want no more", MAX_NODES);
  qn_status status = qn_graph_add(g->graph, spec, out, &own);
  if (status == QN_ERR_FORMAT) status = QN_ERR_ARGUMENT;
  return status == QN_OK ? QN_OK : qn_fail(&g->diag, status, g->graph->name, "%s", own.text);
}

static qn_status parse_type(quern_graph *g, const char *where, const char *text, qn_type *out) {
  qn_str rest = qn_str_from(text);
  if (text && qn_type_parse(&rest, out) && rest.length == 0) return QN_OK;
  return qn_fail(&g->diag, QN_ERR_ARGUMENT, g->graph->name,
                 "%s: got the type '%s', want an element type and at most %d dimensions: f32[T,64]", where,
                 text ? text : "", QN_MAX_RANK);
}

static qn_status check_name(quern_graph *g, const char *what, const char *name, const qn_map *taken) {
  if (!name || !*name) return qn_fail(&g->diag, QN_ERR_ARGUMENT, g->graph->name, "%s: got no name, want one", what);
  if (!taken || !qn_map_get(taken, qn_str_from(name), NULL)) return QN_OK;
  return qn_fail(&g->diag, QN_ERR_ARGUMENT, g->graph->name, "%s '%s' is there already; give each its own name", what,
                 name);
}

// A node for something with a name, which goes into the map under it.
static qn_status add_named(quern_graph *g, qn_op op, const char *name, const qn_type *type, qn_map *map, uint64_t value,
                           qn_id *out) {
  qn_node_spec spec = {.op = op, .attr_count = 1, .type = type, .loc = name};
  spec.attrs[0] = (qn_attr){QN_ATTR_NAME, {.text = name}};
  QN_TRY(add_node(g, &spec, out));
  const char *kept = qn_node_text(qn_graph_node(g->graph, *out), QN_ATTR_NAME, "");
  if (!qn_map_put(map, qn_str_from(kept), value)) return qn_fail_nomem(&g->diag, g->graph->name, "a name");
  return QN_OK;
}

static qn_status add_input(quern_graph *g, const char *name, const char *type_text, qn_id *out) {
  qn_type type;
  QN_TRY(check_name(g, "input", name, &g->inputs));
  QN_TRY(parse_type(g, name, type_text, &type));
  return add_named(g, QN_OP_INPUT, name, &type, &g->inputs, 0, out);
}

quern_value quern_graph_input(quern_graph *g, const char *name, const char *type, quern_error *error) {
  qn_id id = 0;
  qn_status status = g->diag.status == QN_OK ? add_input(g, name, type, &id) : QN_OK;
  return give(g, status, id, error);
}

// The tensor that `type` describes, and what it takes; false where the type is none of a weight's.
static bool describe_weight(const qn_type *type, qn_tensor_data *out, size_t *out_bytes) {
  int64_t rows = 1;
  *out = (qn_tensor_data){.format = qn_format_of(type->dtype), .rank = type->rank};
  if (!out->format || type->rank < 1) return false;
  for (int i = 0; i < type->rank; i++) {
    if (!qn_dim_is_const(type->dims[i]) || type->dims[i].value < 1) return false;
    out->dims[i] = type->dims[i].value;
    if (i + 1 < type->rank && __builtin_mul_overflow(rows, out->dims[i], &rows)) return false;
  }
  int64_t columns = out->dims[type->rank - 1];
  return columns % out->format->block_values == 0 && qn_format_file_bytes(out->format, rows, columns, out_bytes);
}

static qn_status take_data(quern_graph *g, const char *name, const void *data, size_t bytes, size_t want,
                           quern_ownership ownership, qn_tensor_data *tensor) {
  if (!data || bytes != want) {
    return qn_fail(&g->diag, QN_ERR_ARGUMENT, g->graph->name, "weight '%s': got %zu bytes%s, want %zu by its type",
                   name, bytes, data ? "" : " at no address", want);
  }
  tensor->data = data;
  if (ownership == QUERN_BORROW) return QN_OK;
  if (ownership != QUERN_COPY) {
    return qn_fail(&g->diag, QN_ERR_ARGUMENT, g->graph->name,
                   "weight '%s': got ownership %d, want to borrow or to copy", name, (int)ownership);
  }
  void *copy = qn_arena_alloc(&g->arena, bytes);
  if (!copy) return qn_fail_nomem(&g->diag, g->graph->name, "a copy of a weight");
  tensor->data = memcpy(copy, data, bytes);
  return QN_OK;
}

static qn_status add_weight(quern_graph *g, const char *name, const char *type_text, const void *data, size_t bytes,
                            quern_ownership ownership, qn_id *out) {
  qn_type type;
  weight w = {0};
  size_t want = 0;
  QN_TRY(check_name(g, "weight", name, &g->names));
  QN_TRY(parse_type(g, name, type_text, &type));
  if (!describe_weight(&type, &w.data, &want)) {
    return qn_fail(&g->diag, QN_ERR_ARGUMENT, g->graph->name,
                   "weight '%s': got type %s, want a weight format and 1 to %d numbers, the last one whole blocks",
                   name, type_text, QN_MAX_RANK);
  }
  QN_TRY(take_data(g, name, data, bytes, want, ownership, &w.data));
  if (type.rank == 1) type.dtype = QN_DTYPE_F32;  // vectors are widened as they are packed
  QN_TRY(add_named(g, QN_OP_PARAM, name, &type, &g->names, g->weights.count, out));
  w.name = qn_node_text(qn_graph_node(g->graph, *out), QN_ATTR_NAME, "");
  w.bytes = bytes;
  if (!qn_vec_push(&g->allocator, &g->weights, w)) return qn_fail_nomem(&g->diag, g->graph->name, "a weight");
  return QN_OK;
}

quern_value quern_graph_weight(quern_graph *g, const char *name, const char *type, const void *data, size_t bytes,
                               quern_ownership ownership, quern_error *error) {
  qn_id id = 0;
  qn_status status = g->diag.status == QN_OK ? add_weight(g, name, type, data, bytes, ownership, &id) : QN_OK;
  return give(g, status, id, error);
}

quern_value quern_graph_constant(quern_graph *g, double number, quern_error *error) {
  qn_id id = 0;
  qn_type type = qn_type_make(QN_DTYPE_F32, 0, NULL);
  qn_node_spec spec = {.op = QN_OP_CONST, .attr_count = 1, .type = &type, .loc = "constant"};
  spec.attrs[0] = (qn_attr){QN_ATTR_VALUE, {.f = number}};
  qn_status status = QN_OK;
  if (g->diag.status == QN_OK && !isfinite((float)number))
    status =
        qn_fail(&g->diag, QN_ERR_ARGUMENT, g->graph->name, "constant: got %g, want a number that f32 holds", number);
  if (g->diag.status == QN_OK) status = add_node(g, &spec, &id);
  return give(g, status, id, error);
}

// --- ops

// Ops that hosts add by name: not those that the functions above make, nor those of passes alone.
static bool is_for_hosts(qn_op op) {
  return op != QN_OP_INPUT && op != QN_OP_PARAM && op != QN_OP_CONST && op != QN_OP_QUANTIZE;
}

static qn_status parse_op(quern_graph *g, const char *name, qn_op *out) {
  if (name && qn_op_parse(qn_str_from(name), out) && is_for_hosts(*out)) return QN_OK;
  qn_buf known;
  qn_buf_init(&known, &g->allocator);
  for (int i = 0; i < QN_OP_COUNT; i++)
    if (is_for_hosts((qn_op)i)) qn_buf_printf(&known, "%s%s", known.length ? ", " : "", qn_op_get_info((qn_op)i)->name);
  qn_status status = qn_fail(&g->diag, QN_ERR_ARGUMENT, g->graph->name, "got the op '%s', want one of: %s",
                             name ? name : "", qn_buf_text(&known));
  qn_buf_deinit(&known);
  return status;
}

static qn_status take_attr(quern_graph *g, const char *loc, const quern_attr *from, qn_attr *out) {
  const char *where = g->graph->name;
  if (!from->name || !qn_attr_parse(qn_str_from(from->name), &out->id)) {
    return qn_fail(&g->diag, QN_ERR_ARGUMENT, where, "%s: there is no attribute '%s'; quern_graph_ops lists each op's",
                   loc, from->name ? from->name : "");
  }
  qn_attr_kind kind = qn_attr_get_kind(out->id);
  if ((kind == QN_AK_TEXT) != (from->text != NULL)) {
    return qn_fail(&g->diag, QN_ERR_ARGUMENT, where, "%s: attribute %s: got a %s, want a %s", loc, from->name,
                   from->text ? "text" : "number", from->text ? "number" : "text");
  }
  out->value.text = from->text;
  if (kind == QN_AK_FLOAT) out->value.f = from->number;
  if (kind == QN_AK_FLOAT && !isfinite(from->number))
    return qn_fail(&g->diag, QN_ERR_ARGUMENT, where, "%s: attribute %s: got %g, want a finite number", loc, from->name,
                   from->number);
  if (kind != QN_AK_INT) return QN_OK;
  if (!(from->number >= INT32_MIN && from->number <= INT32_MAX) || from->number != floor(from->number)) {
    return qn_fail(&g->diag, QN_ERR_ARGUMENT, where, "%s: attribute %s: got %g, want an integer of 32 bits", loc,
                   from->name, from->number);
  }
  out->value.i = (int64_t)from->number;
  return QN_OK;
}

// What the op has, into a spec.
static qn_status take_op(quern_graph *g, const quern_op *op, const char *loc, qn_node_spec *spec) {
  if (op->operand_count > QN_MAX_OPERANDS || op->attr_count > QN_MAX_ATTRS) {
    return qn_fail(&g->diag, QN_ERR_ARGUMENT, g->graph->name,
                   "%s: got %zu operands and %zu attributes, want at most %d and %d", loc, op->operand_count,
                   op->attr_count, QN_MAX_OPERANDS, QN_MAX_ATTRS);
  }
  for (size_t i = 0; i < op->operand_count; i++) {
    spec->operands[spec->operand_count++] = op->operands[i];
    if (op->operands[i] > 0 && op->operands[i] < g->graph->nodes.count) continue;
    return qn_fail(&g->diag, QN_ERR_ARGUMENT, g->graph->name,
                   "%s: operand %zu: got %" PRIu32 ", want a value of this graph", loc, i, op->operands[i]);
  }
  for (size_t i = 0; i < op->attr_count; i++)
    QN_TRY(take_attr(g, loc, &op->attrs[i], &spec->attrs[spec->attr_count++]));
  return QN_OK;
}

static qn_status add_op(quern_graph *g, const quern_op *op, qn_id *out) {
  char number[96];
  qn_type type;
  qn_node_spec spec = {0};
  QN_TRY(parse_op(g, op->name, &spec.op));
  snprintf(number, sizeof number, "%s %%%zu", op->name, g->graph->nodes.count);
  spec.loc = op->label && *op->label ? op->label : number;
  QN_TRY(take_op(g, op, spec.loc, &spec));
  if (op->type) {
    QN_TRY(parse_type(g, spec.loc, op->type, &type));
    spec.type = &type;
  }
  return add_node(g, &spec, out);
}

quern_value quern_graph_op(quern_graph *g, const quern_op *op, quern_error *error) {
  quern_op own;
  qn_id id = 0;
  qn_status status = QN_OK;
  if (g->diag.status == QN_OK) status = qn_options_take(op, "quern_op", &own, sizeof own, &g->diag);
  if (g->diag.status == QN_OK) status = add_op(g, &own, &id);
  return give(g, status, id, error);
}

quern_value quern_graph_apply(quern_graph *g, const char *name, quern_value a, quern_value b, quern_error *error) {
  quern_value operands[] = {a, b};
  quern_op op = {.size = sizeof op, .name = name, .operands = operands, .operand_count = b ? 2 : 1};
  return quern_graph_op(g, &op, error);
}

int quern_graph_output(quern_graph *g, const char *name, quern_value value, quern_error *error) {
  qn_status status = g->diag.status;
  if (status == QN_OK) status = check_name(g, "output", name, NULL);
  if (status == QN_OK) status = qn_graph_add_output(g->graph, name, value, &g->diag);
  return quern_give_error(error, &g->diag, status);
}

// --- texts

int quern_graph_type(const quern_graph *g, quern_value value, char *out, size_t size, quern_error *error) {
  qn_diag diag = g->diag;
  qn_buf text;
  qn_buf_init(&text, &g->allocator);
  qn_status status = diag.status;
  if (status == QN_OK && (value == 0 || value >= g->graph->nodes.count))
    status = qn_fail(&diag, QN_ERR_ARGUMENT, g->graph->name, "got value %" PRIu32 ", want one of this graph", value);
  if (status == QN_OK) qn_type_print(&qn_graph_node(g->graph, value)->type, &text);
  if (text.failed) status = qn_fail_nomem(&diag, g->graph->name, "a type");
  if (status == QN_OK && text.length >= size)
    status = qn_fail(&diag, QN_ERR_LIMIT, g->graph->name, "got room for %zu bytes, want %zu", size, text.length + 1);
  if (status == QN_OK) memcpy(out, qn_buf_text(&text), text.length + 1);
  qn_buf_deinit(&text);
  return quern_give_error(error, &diag, status);
}

int quern_graph_text(const quern_graph *g, char **out_text, quern_error *error) {
  qn_diag diag = g->diag;
  qn_buf text;
  *out_text = NULL;
  qn_buf_init(&text, qn_allocator_default());
  qn_status status = diag.status;
  if (status == QN_OK) {
    qn_graph_print(g->graph, &text);
    *out_text = text.failed ? NULL : strdup(qn_buf_text(&text));
    if (!*out_text) status = qn_fail_nomem(&diag, g->graph->name, "its text");
  }
  qn_buf_deinit(&text);
  return quern_give_error(error, &diag, status);
}

static void put_op(qn_op op, qn_buf *out) {
  const qn_op_info *info = qn_op_get_info(op);
  qn_buf_printf(out, "%s: %d", info->name, info->min_operands);
  if (info->max_operands > info->min_operands) qn_buf_printf(out, " to %d", info->max_operands);
  qn_buf_puts(out, info->max_operands == 1 ? " operand" : " operands");
  for (int id = 0; id < QN_ATTR_COUNT; id++) {
    uint32_t bit = 1u << id;
    if ((info->required_attrs | info->optional_attrs) & bit)
      qn_buf_printf(out, ", %s%s", qn_attr_name((qn_attr_id)id),
                    info->required_attrs & bit ? "" : " (may be left out)");
  }
  qn_buf_printf(out, ": %s\n", info->meaning);
}

static qn_buf ops_text;  // filled once; lives as long as the process

static void list_ops(void) {
  qn_buf_init(&ops_text, qn_allocator_default());
  for (int op = 0; op < QN_OP_COUNT; op++)
    if (is_for_hosts((qn_op)op)) put_op((qn_op)op, &ops_text);
}

const char *quern_graph_ops(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, list_ops);
  return qn_buf_text(&ops_text);
}

// --- quantising

static qn_status quantize(const char *name, int64_t rows, int64_t columns, const float *values, void *out,
                          size_t capacity, size_t *out_bytes, qn_diag *diag) {
  const qn_format *format;
  size_t row_bytes = 0;
  QN_TRY(qn_requantize_parse(name ? name : "", &format, diag));
  if (rows < 1 || columns < 1 || columns % format->block_values != 0 ||
      !qn_format_file_bytes(format, rows, columns, out_bytes)) {
    return qn_fail(diag, QN_ERR_ARGUMENT, "quantize",
                   "got %" PRId64 " rows of %" PRId64 " values, want rows of whole blocks of %" PRIu32, rows, columns,
                   format->block_values);
  }
  if (*out_bytes > capacity)
    return qn_fail(diag, QN_ERR_LIMIT, "quantize", "got room for %zu bytes, want %zu", capacity, *out_bytes);
  row_bytes = *out_bytes / (size_t)rows;
  for (int64_t row = 0; row < rows; row++) {
    QN_TRY(qn_quantize_row(format, columns, values + row * columns, (uint8_t *)out + (size_t)row * row_bytes,
                           "quantize", diag));
  }
  return QN_OK;
}

int quern_quantize(const char *format, int64_t rows, int64_t columns, const float *values, void *out, size_t capacity,
                   size_t *out_bytes, quern_error *error) {
  qn_diag diag = {0};
  *out_bytes = 0;
  return quern_give_error(error, &diag, quantize(format, rows, columns, values, out, capacity, out_bytes, &diag));
}

// --- what a compilation asks

const char *quern_built_name(const quern_graph *g) { return g->graph->name; }

qn_status quern_built_check(const quern_graph *g, const quern_compile_options *o, qn_diag *diag) {
  const struct {
    const char *name, *instead;
    bool asked;
  } fixed[] = {{"template_path", "a graph has no architecture", o->template_path != NULL},
               {"quant", "types of weights say how they are kept", o->quant != NULL},
               {"kv_type", "types of caches say how they are kept", o->kv_type != NULL},
               {"context_tokens", "quern_graph_options.most says it", o->context_tokens != 0},
               {"chunk_tokens", "quern_graph_options.most says it", o->chunk_tokens != 0},
               {"sequences", "quern_graph_options.most says it", o->sequences != 0},
               {"all_logits", "quern_graph_options.most says it", o->all_logits},
               {"guesses", "kv_write takes copies, and quern_graph_output names what is hidden", o->guesses}};
  if (g->diag.status != QN_OK) {
    *diag = g->diag;
    return g->diag.status;
  }
  for (size_t i = 0; i < QN_COUNT(fixed); i++) {
    if (fixed[i].asked)
      return qn_fail(diag, QN_ERR_ARGUMENT, g->graph->name,
                     "got the option %s, want none with a graph built in code: %s", fixed[i].name, fixed[i].instead);
  }
  if (g->graph->outputs.count == 0)
    return qn_fail(diag, QN_ERR_ARGUMENT, g->graph->name, "the graph has no output; name one by quern_graph_output");
  qn_diag own = {0};
  qn_status status = qn_graph_verify(g->graph, QN_STAGE_IMPORTED, &own);
  if (status == QN_OK) return QN_OK;
  return qn_fail(diag, status == QN_ERR_FORMAT ? QN_ERR_ARGUMENT : status, g->graph->name, "%s", own.text);
}

qn_status quern_built_copy(const quern_graph *g, qn_arena *arena, qn_graph **out, qn_diag *diag) {
  return qn_graph_rewrite(g->graph, arena, qn_rewrite_keep, NULL, out, diag);
}

static qn_status find_weight(void *context, const char *name, qn_tensor_data *out, qn_diag *diag) {
  const quern_graph *g = context;
  uint64_t index = 0;
  if (!qn_map_get(&g->names, qn_str_from(name), &index))
    return qn_fail(diag, QN_ERR_INTERNAL, g->graph->name, "weight '%s' is missing", name);
  *out = g->weights.items[index].data;
  return QN_OK;
}

qn_weight_source quern_built_weights(const quern_graph *g) {
  return (qn_weight_source){(void *)(uintptr_t)g, find_weight};  // only read
}

int64_t quern_built_context(const quern_graph *g) { return g->graph->max_values[QN_SYM_P] * QN_PAGE_KEYS; }

int64_t quern_built_vocab_size(const quern_graph *g) { return qn_graph_vocab_size(g->graph); }

qn_status quern_built_hash(const quern_graph *g, qn_hasher *hasher, qn_diag *diag) {
  qn_buf text;
  qn_buf_init(&text, &g->allocator);
  qn_graph_print(g->graph, &text);
  qn_status status = text.failed ? qn_fail_nomem(diag, g->graph->name, "its text") : QN_OK;
  qn_hasher_update(hasher, qn_buf_text(&text), text.length);
  for (size_t i = 0; i < g->weights.count; i++) {
    const weight *w = &g->weights.items[i];
    uint64_t facts[] = {w->data.format->dtype, w->bytes};
    qn_hasher_update(hasher, facts, sizeof facts);
    qn_hasher_update(hasher, w->data.data, w->bytes);
  }
  qn_buf_deinit(&text);
  return status;
}
