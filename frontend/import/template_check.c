// The static check of a template: every name that an expression, an argument or an output uses is known there. What
// depends on a model (which weights it has, sizes, types) is checked when the graph is made.
#include <string.h>

#include "frontend/import/template.h"

enum { MAX_FRAMES = 8, MAX_INDEXES = MAX_FRAMES + 3 };

typedef struct checker {
  qn_template *t;
  qn_diag *diag;
  const char *indexes[MAX_INDEXES];  // of the repeats around the current statement, and what else is known here
  int index_count, frames;
  bool values;  // value[...] is known
  qn_scope scope;
} checker;

// Is the name a list of values?
static bool is_list(const qn_template *t, qn_str name) {
  size_t index = 0;
  return qn_template_find(t, name, &index) == QN_NAME_PARAM && t->params.items[index].list;
}

static qn_status check_name(void *context, const char *where, qn_str name, qn_value *out, qn_diag *diag) {
  const checker *c = context;
  (void)out;  // always NULL here
  for (int i = 0; i < c->index_count; i++) {
    if (qn_str_is(name, c->indexes[i])) return QN_OK;
  }
  if (is_list(c->t, name)) {
    return qn_fail(c->diag, QN_ERR_FORMAT, where, "got '%.*s', which is a list: want %.*s[index]", QN_STR_ARGS(name),
                   QN_STR_ARGS(name));
  }
  if (qn_str_is(name, "arch") || qn_template_find(c->t, name, NULL) == QN_NAME_PARAM) return QN_OK;
  if (qn_str_is(name, "compiled_context")) {
    return qn_fail(c->diag, QN_ERR_FORMAT, where, "compiled_context is known in statements only");
  }
  static const char *const hints[] = {"want a param",
                                      "want a param",
                                      "it is a weight: want has(), rows() or cols() around it",
                                      "it is an input: want a param",
                                      "it is a value of the graph: want a param",
                                      "it is the index of a repeat and known in its body only"};
  return qn_fail(diag, QN_ERR_FORMAT, where, "got the unknown name '%.*s' in an expression: %s", QN_STR_ARGS(name),
                 hints[qn_template_find(c->t, name, NULL)]);
}

static qn_status check_item(void *context, const char *where, qn_str name, int64_t index, qn_value *out,
                            qn_diag *diag) {
  const checker *c = context;
  (void)index;
  (void)out;
  if (is_list(c->t, name) || (c->values && qn_str_is(name, "value"))) return QN_OK;
  return qn_fail(diag, QN_ERR_FORMAT, where, "got %.*s[...], want the name of a param with \"list\"",
                 QN_STR_ARGS(name));
}

static qn_status check_weight(void *context, const char *where, qn_str function, qn_str weight, qn_value *out,
                              qn_diag *diag) {
  const checker *c = context;
  (void)out;
  if (qn_template_find(c->t, weight, NULL) == QN_NAME_WEIGHT) return QN_OK;
  return qn_fail(diag, QN_ERR_FORMAT, where, "%.*s(%.*s): there is no weight of that name", QN_STR_ARGS(function),
                 QN_STR_ARGS(weight));
}

static qn_status check_expression(checker *c, const char *where, const char *text) {
  return text ? qn_expression_check(where, text, &c->scope, c->diag) : QN_OK;
}

static qn_status check_text(checker *c, const char *where, const char *text) {
  return text ? qn_text_expand(where, text, &c->scope, NULL, c->diag) : QN_OK;
}

// The value of a param, and of each number of a list, which is known as j.
static qn_status check_value(checker *c, const qn_template_param *p, const char *value) {
  if (p->list) c->indexes[c->index_count++] = "j";
  qn_status status = p->kind == QN_PARAM_TEXT ? check_text(c, p->path, value) : check_expression(c, p->path, value);
  if (p->list) c->index_count--;
  return status;
}

static qn_status check_texts(checker *c, const char *where, const qn_text_list *list) {
  for (size_t i = 0; i < list->count; i++) QN_TRY(check_text(c, where, list->items[i]));
  return QN_OK;
}

static qn_status check_param(checker *c, const qn_template_param *p) {
  QN_TRY(check_expression(c, p->path, p->list));
  for (int w = 0; w < QN_WORLD_COUNT; w++) {
    QN_TRY(check_texts(c, p->path, &p->keys[w]));
    QN_TRY(check_value(c, p, p->values[w]));
  }
  QN_TRY(check_value(c, p, p->none));
  return check_value(c, p, p->otherwise);
}

// A computed weight's elements: of their number j, and of the file's value where it has one.
static qn_status check_each(checker *c, const qn_template_weight *w) {
  for (int world = 0; world < QN_WORLD_COUNT; world++) {
    if (c->t->is_graph && world != QN_WORLD_GGUF) continue;
    c->indexes[0] = "j";
    c->indexes[1] = "value";
    bool stored = w->names[world].count > 0;
    c->values = stored && w->stored_rank > 0;
    c->index_count = stored && !c->values ? 2 : 1;
    qn_status status = check_expression(c, w->path, w->each[world]);
    c->index_count = 0;
    c->values = false;
    if (status != QN_OK) return status;
  }
  return QN_OK;
}

static qn_status check_shape(checker *c, const char *where, int rank, const char *const *shape) {
  qn_dim dim;
  for (int d = 0; d < rank; d++) {
    if (!qn_template_parse_symbol(shape[d], &dim)) QN_TRY(check_expression(c, where, shape[d]));
  }
  return QN_OK;
}

// Names and shapes of weights may use indexes: their expressions are checked where the weight is used.
static qn_status check_weights(checker *c) {
  for (size_t i = 0; i < c->t->weights.count; i++) {
    const qn_template_weight *w = &c->t->weights.items[i];
    for (int d = 0; d < w->rank; d++) {
      qn_dim dim;
      if (qn_template_parse_symbol(w->shape[d], &dim)) {
        return qn_fail(c->diag, QN_ERR_FORMAT, w->path, "got the symbol %s in a weight's shape, want an expression",
                       w->shape[d]);
      }
    }
    QN_TRY(check_each(c, w));
  }
  return QN_OK;
}

static qn_status check_weight_use(checker *c, const char *where, const qn_template_weight *w) {
  qn_status status = QN_OK;
  if (w->stack) c->indexes[c->index_count++] = w->stack;
  for (int i = 0; i < QN_WORLD_COUNT && status == QN_OK; i++) status = check_texts(c, where, &w->names[i]);
  if (w->stack) c->index_count--;
  QN_TRY(status);
  for (int i = 0; i < QN_WORLD_COUNT; i++) {
    for (int j = 0; j < 2; j++) QN_TRY(check_expression(c, where, w->rows[i][j]));
  }
  QN_TRY(check_shape(c, where, w->stored_rank, w->stored));
  return check_shape(c, where, w->rank, w->shape);
}

static qn_status check_operand(checker *c, const char *where, const char *name) {
  size_t index;
  switch (qn_template_find(c->t, qn_str_from(name), &index)) {
    case QN_NAME_WEIGHT: return check_weight_use(c, where, &c->t->weights.items[index]);
    case QN_NAME_INPUT:
    case QN_NAME_VALUE: return QN_OK;
    default:
      return qn_fail(c->diag, QN_ERR_FORMAT, where, "got '%.80s', want a weight, an input or a value set before", name);
  }
}

static qn_status check_list(checker *c, const qn_statement_list *list);

static qn_status declare_value(checker *c, const qn_statement *s) {
  if (qn_template_find(c->t, qn_str_from(s->set), NULL) == QN_NAME_VALUE) return QN_OK;
  return qn_template_declare(c->t, s->path, s->set, QN_NAME_VALUE, 0, c->diag);
}

static qn_status check_op(checker *c, const qn_statement *s) {
  for (int i = 0; i < s->arg_count; i++) {
    const qn_template_arg *arg = &s->args[i];
    QN_TRY(check_expression(c, arg->path, arg->constant));
    for (int n = 0; n < arg->name_count; n++) QN_TRY(check_operand(c, arg->path, arg->names[n]));
  }
  for (int i = 0; i < s->attr_count; i++) {
    const qn_template_attr *attr = &s->attrs[i];
    bool is_text = qn_attr_get_kind(attr->id) == QN_AK_TEXT;
    QN_TRY(is_text ? check_text(c, attr->path, attr->value) : check_expression(c, attr->path, attr->value));
  }
  QN_TRY(check_shape(c, s->path, s->rank, s->shape));
  qn_dtype dtype;
  if (s->dtype && strcmp(s->dtype, "kv") != 0 && !qn_dtype_parse(qn_str_from(s->dtype), &dtype)) {
    return qn_fail(c->diag, QN_ERR_FORMAT, s->path, "got the dtype '%.20s', want kv, f32, f16, bf16, i32 or i8",
                   s->dtype);
  }
  return declare_value(c, s);
}

static qn_status check_repeat(checker *c, const qn_statement *s) {
  QN_TRY(check_expression(c, s->path, s->count));
  if (c->frames == MAX_FRAMES) return qn_fail(c->diag, QN_ERR_FORMAT, s->path, "repeats nested too deep");
  for (int i = 0; i < c->index_count; i++) {
    if (strcmp(c->indexes[i], s->index) == 0) {
      return qn_fail(c->diag, QN_ERR_FORMAT, s->path, "the index '%s' is that of a repeat around this one", s->index);
    }
  }
  if (qn_template_find(c->t, qn_str_from(s->index), NULL) != QN_NAME_INDEX) {
    QN_TRY(qn_template_declare(c->t, s->path, s->index, QN_NAME_INDEX, 0, c->diag));
  }
  c->indexes[c->index_count++] = s->index;
  c->frames++;
  QN_TRY(check_list(c, &s->body));
  c->frames--;
  c->index_count--;
  return QN_OK;
}

static qn_status check_statement(checker *c, const qn_statement *s) {
  QN_TRY(check_expression(c, s->path, s->condition));
  switch (s->kind) {
    case QN_STATEMENT_OP: return check_op(c, s);
    case QN_STATEMENT_REPEAT: return check_repeat(c, s);
    case QN_STATEMENT_OUTPUT:
      QN_TRY(check_text(c, s->path, s->output));
      return check_operand(c, s->path, s->value);
    default: break;
  }
  QN_TRY(check_list(c, &s->body));
  return check_list(c, &s->otherwise);
}

static qn_status check_list(checker *c, const qn_statement_list *list) {
  for (size_t i = 0; i < list->count; i++) QN_TRY(check_statement(c, &list->items[i]));
  return QN_OK;
}

qn_status qn_template_check(qn_template *t, qn_diag *diag) {
  checker c = {.t = t, .diag = diag};
  c.scope = (qn_scope){&c, check_name, check_item, check_weight, NULL};
  for (size_t i = 0; i < t->params.count; i++) QN_TRY(check_param(&c, &t->params.items[i]));
  for (size_t i = 0; i < t->inputs.count; i++)
    for (int d = 0; d < t->inputs.items[i].type.rank; d++)
      QN_TRY(check_expression(&c, t->inputs.items[i].path, t->inputs.items[i].sizes[d]));
  QN_TRY(check_weights(&c));
  QN_TRY(check_expression(&c, t->max_context_path, t->max_context));
  QN_TRY(check_expression(&c, t->start_path, t->start));
  for (size_t i = 0; i < t->refusals.count; i++) {
    const qn_template_refusal *refusal = &t->refusals.items[i];
    QN_TRY(check_expression(&c, refusal->path, refusal->condition));
    QN_TRY(check_text(&c, refusal->path, refusal->message));
  }
  c.indexes[c.index_count++] = "compiled_context";
  return check_list(&c, &t->body);
}
