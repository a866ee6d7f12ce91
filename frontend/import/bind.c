// Evaluating params (on demand: a default may use other params) and binding weights.
#include "frontend/import/bind.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "frontend/import/import.h"

enum { UNKNOWN, EVALUATING, DONE };  // a param's state
enum { MAX_DEPTH = 16 };             // params that wait for one another; each may hold a deep expression on the stack
enum { MAX_LIST = 1 << 14, MAX_COMPUTED = 1 << 20 };  // values of a param, and of a weight that is computed
enum { MAX_MADE = 1 << 22 };                          // of all of them
enum { MAX_PARTS = 1 << 16 };                         // of a stacked weight
#define MAX_DIMENSION ((int64_t)1 << 40)

static qn_status evaluate_param(qn_place *place, size_t index, qn_diag *diag);
static qn_status tensor_name(qn_place *place, const char *where, const qn_template_weight *weight, const char **out,
                             const char **out_pattern, qn_diag *diag);
static qn_status fail_missing(const qn_binding *b, const qn_template_weight *weight, const char *where,
                              const char *name, qn_diag *diag);

// --- the scope of expressions

static qn_status fail_index(const qn_binding *b, const char *where, qn_str name, qn_diag *diag) {
  bool is_index = qn_template_find(b->t, name, NULL) == QN_NAME_INDEX;
  return qn_fail(diag, QN_ERR_FORMAT, where, "got the %s '%.*s', which is not known here", is_index ? "index" : "name",
                 QN_STR_ARGS(name));
}

static qn_status scope_name(void *context, const char *where, qn_str name, qn_value *out, qn_diag *diag) {
  qn_place *place = context;
  qn_binding *b = place->binding;
  qn_value value;
  size_t index;
  for (int i = place->count - 1; i >= 0; i--) {
    if (!qn_str_is(name, place->frames[i].name)) continue;
    if (out) *out = place->frames[i].value;
    return QN_OK;
  }
  if (qn_str_is(name, "arch")) {
    value = qn_value_text(qn_str_from(b->source.architecture));
  } else {
    if (qn_template_find(b->t, name, &index) != QN_NAME_PARAM) return fail_index(b, where, name, diag);
    if (b->t->params.items[index].list) {
      return qn_fail(diag, QN_ERR_FORMAT, where, "got '%.*s', which is a list: want %.*s[index]", QN_STR_ARGS(name),
                     QN_STR_ARGS(name));
    }
    if (!out) return QN_OK;
    QN_TRY(evaluate_param(place, index, diag));
    value = b->values[index];
  }
  if (out) *out = value;
  return QN_OK;
}

static qn_status scope_value(const qn_place *place, const char *where, int64_t item, qn_value *out, qn_diag *diag) {
  if (!out) return QN_OK;
  if (item < 0 || item >= place->value_count) {
    return qn_fail(diag, QN_ERR_FORMAT, where, "got value[%" PRId64 "], want an index of 0 to %" PRId64, item,
                   place->value_count - 1);
  }
  *out = qn_value_float(place->values[item]);
  return QN_OK;
}

static qn_status scope_item(void *context, const char *where, qn_str name, int64_t item, qn_value *out, qn_diag *diag) {
  qn_place *place = context;
  qn_binding *b = place->binding;
  if (place->values && qn_str_is(name, "value")) return scope_value(place, where, item, out, diag);
  size_t index;
  if (qn_template_find(b->t, name, &index) != QN_NAME_PARAM || !b->t->params.items[index].list) {
    return fail_index(b, where, name, diag);
  }
  if (!out) return QN_OK;
  QN_TRY(evaluate_param(place, index, diag));
  if (item < 0 || item >= b->lists[index].count) {
    return qn_fail(diag, QN_ERR_FORMAT, where, "got %.*s[%" PRId64 "], want an index of 0 to %" PRId64,
                   QN_STR_ARGS(name), item, b->lists[index].count - 1);
  }
  *out = b->lists[index].items[item];
  return QN_OK;
}

void qn_place_push(qn_place *place, const char *name, const char *label, qn_value value) {
  place->frames[place->count].name = name;
  place->frames[place->count].label = label;
  place->frames[place->count++].value = value;
}

// Are the weight's values computed here, not read?
static bool is_computed(const qn_place *place, const qn_template_weight *weight) {
  qn_world world = place->binding->source.world;
  return weight->each[world] && weight->names[world].count == 0;
}

static void swap_dims(qn_tensor_data *matrix) {
  int64_t rows = matrix->dims[1];
  matrix->dims[1] = matrix->dims[0];
  matrix->dims[0] = rows;
}

// The tensor as the file has it, for sizes that nothing else states; its shape is checked where the graph uses it.
static qn_status look_at(qn_place *place, const char *where, const qn_template_weight *weight, qn_tensor_data *out,
                         qn_diag *diag) {
  const qn_model_source *source = &place->binding->source;
  const char *name;
  bool found = false;
  QN_TRY(tensor_name(place, where, weight, &name, NULL, diag));
  if (weight->data || is_computed(place, weight)) {
    return qn_fail(diag, QN_ERR_FORMAT, where, "the size of '%s' is in its shape", weight->name);
  }
  if (name) QN_TRY(source->find_tensor(source->context, name, &found, out, diag));
  if (!found) return fail_missing(place->binding, weight, where, name, diag);
  if (weight->transposed[source->world] && out->rank == 2) swap_dims(out);
  return QN_OK;
}

static qn_status scope_weight(void *context, const char *where, qn_str function, qn_str name, qn_value *out,
                              qn_diag *diag) {
  qn_place *place = context;
  const qn_template *t = place->binding->t;
  size_t index;
  if (qn_template_find(t, name, &index) != QN_NAME_WEIGHT) return fail_index(place->binding, where, name, diag);
  if (!out) return QN_OK;
  const qn_template_weight *weight = &t->weights.items[index];
  bool found;
  QN_TRY(qn_binding_has(place, where, weight, &found, diag));
  *out = qn_value_int(found);
  if (qn_str_is(function, "has")) return QN_OK;
  qn_tensor_data data = {0};
  QN_TRY(look_at(place, where, weight, &data, diag));
  int64_t cols = data.dims[data.rank - 1], rows = data.rank >= 2 ? data.dims[data.rank - 2] : 1;
  *out = qn_value_int(qn_str_is(function, "rows") ? rows : cols);
  return QN_OK;
}

qn_scope qn_place_scope(qn_place *place) {
  return (qn_scope){place, scope_name, scope_item, scope_weight, &place->binding->work};
}

// `text` with its placeholders filled in, in the arena.
static qn_status expand(qn_place *place, const char *where, const char *text, const char **out, qn_diag *diag) {
  if (!strpbrk(text, "{}")) {
    *out = text;
    return QN_OK;
  }
  qn_arena *arena = place->binding->arena;
  qn_buf buf;
  qn_buf_init(&buf, arena->allocator);
  qn_scope scope = qn_place_scope(place);
  qn_status status = qn_text_expand(where, text, &scope, &buf, diag);
  *out = status == QN_OK ? qn_arena_strndup(arena, qn_buf_text(&buf), buf.length) : NULL;
  qn_buf_deinit(&buf);
  return status != QN_OK ? status : *out ? QN_OK : qn_fail_nomem(diag, where, "a text");
}

// --- params

// "model.gguf: key 'llama.block_count'", or the template's path when the value is not from the model.
static const char *value_place(qn_place *place, const qn_template_param *p, const char *key) {
  if (!key) return p->path;
  const char *where = qn_arena_printf(place->binding->arena, "%s: key '%s'", place->binding->source.name, key);
  return where ? where : p->path;
}

static qn_status fail_param(const char *where, const qn_template_param *p, const qn_value *value, const char *want,
                            qn_diag *diag) {
  qn_buf got;
  qn_buf_init(&got, qn_allocator_default());
  qn_value_print(value, &got);
  qn_status status =
      qn_fail(diag, QN_ERR_FORMAT, where, "got %.100s, want %s (param %s)", qn_buf_text(&got), want, p->name);
  qn_buf_deinit(&got);
  return status;
}

// Makes the value one of the param's kind, within its bounds.
static qn_status check_param(const char *where, const qn_template_param *p, qn_value *value, qn_diag *diag) {
  if (p->kind == QN_PARAM_TEXT) return QN_OK;
  if (value->kind == QN_VALUE_TEXT) return fail_param(where, p, value, "a number", diag);
  if (p->kind == QN_PARAM_FLOAT && value->kind == QN_VALUE_INT) *value = qn_value_float((double)value->i);
  if (p->kind != QN_PARAM_FLOAT && value->kind != QN_VALUE_INT) {
    return fail_param(where, p, value, "an integer", diag);
  }
  if (p->kind == QN_PARAM_BOOL) *value = qn_value_int(value->i != 0);
  double number = value->kind == QN_VALUE_INT ? (double)value->i : value->f;
  double min = p->has_min ? p->min : p->kind == QN_PARAM_FLOAT ? -HUGE_VAL : 0;
  double max = p->has_max ? p->max : p->kind == QN_PARAM_FLOAT ? HUGE_VAL : (double)MAX_DIMENSION;
  if (isfinite(number) && number >= min && number <= max) return QN_OK;
  char want[96];
  if (isfinite(max)) {
    snprintf(want, sizeof want, "a number of %.15g to %.15g", min, max);
  } else {
    snprintf(want, sizeof want, "a number of %.15g or more", min);
  }
  return fail_param(where, p, value, want, diag);
}

// The value of a fixed value or default.
static qn_status evaluate_text(qn_place *place, const qn_template_param *p, const char *text, qn_value *out,
                               qn_diag *diag) {
  if (p->kind != QN_PARAM_TEXT) {
    qn_scope scope = qn_place_scope(place);
    return qn_expression_evaluate(p->path, text, &scope, out, diag);
  }
  const char *expanded;
  QN_TRY(expand(place, p->path, text, &expanded, diag));
  *out = qn_value_text(qn_str_from(expanded));
  return QN_OK;
}

// What the model has under a key: of a list, the value whose number the place knows.
static qn_status look_up(qn_place *place, const qn_template_param *p, const char *key, bool *out_found, qn_value *out,
                         qn_diag *diag) {
  const qn_model_source *source = &place->binding->source;
  if (!p->list) return source->find_key(source->context, key, p->kind, out_found, out, diag);
  int64_t want = place->binding->lists[p - place->binding->t->params.items].count, count = -1;
  QN_TRY(source->find_item(source->context, key, p->kind, place->frames[0].value.i, out_found, &count, out, diag));
  if (!*out_found || count < 0 || count == want) return QN_OK;
  return qn_fail(diag, QN_ERR_FORMAT, value_place(place, p, key),
                 "got a list of %" PRId64 " values, want %" PRId64 " = %s (param %s)", count, want, p->list, p->name);
}

static bool same_value(const qn_value *a, const qn_value *b) {
  if (a->kind != b->kind) return false;
  if (a->kind == QN_VALUE_TEXT) return qn_str_equal(a->text, b->text);
  return a->kind == QN_VALUE_INT ? a->i == b->i : a->f == b->f;
}

// The value under the first of the param's keys that is there; *out_key is it, or the first of all where none is. Others
// that are there must say the same.
static qn_status find_in_model(qn_place *place, const qn_template_param *p, const char **out_key, bool *out_found,
                               qn_value *out, qn_diag *diag) {
  qn_binding *b = place->binding;
  const qn_text_list *keys = &p->keys[b->source.world];
  *out_key = NULL;
  *out_found = false;
  for (size_t i = 0; i < keys->count; i++) {
    const char *key;
    bool found;
    qn_value value;
    QN_TRY(expand(place, p->path, keys->items[i], &key, diag));
    if (!qn_map_put(&b->keys, qn_str_from(key), 1)) return qn_fail_nomem(diag, p->path, "a key");
    QN_TRY(look_up(place, p, key, &found, &value, diag));
    if (found && *out_found && !same_value(&value, out)) {
      return qn_fail(diag, QN_ERR_FORMAT, b->source.name, "keys '%s' and '%s' differ, want one of them alone (%s)",
                     *out_key, key, p->path);
    }
    if (found && !*out_found) *out = value;
    if (!*out_key || (found && !*out_found)) *out_key = key;
    *out_found |= found;
  }
  return QN_OK;
}

// Is one of the param's keys there, and null?
static qn_status find_null(qn_place *place, const qn_template_param *p, bool *out, qn_diag *diag) {
  const qn_model_source *source = &place->binding->source;
  const qn_text_list *keys = &p->keys[source->world];
  *out = false;
  for (size_t i = 0; i < keys->count && source->is_null && !*out; i++) {
    const char *key;
    QN_TRY(expand(place, p->path, keys->items[i], &key, diag));
    *out = source->is_null(source->context, key);
  }
  return QN_OK;
}

static qn_status find_value(qn_place *place, const qn_template_param *p, const char **out_where, qn_value *out,
                            qn_diag *diag) {
  const qn_model_source *source = &place->binding->source;
  const char *key;
  bool found;
  *out_where = p->path;
  if (p->values[source->world]) return evaluate_text(place, p, p->values[source->world], out, diag);
  QN_TRY(find_in_model(place, p, &key, &found, out, diag));
  *out_where = value_place(place, p, key);
  if (found) return QN_OK;
  bool null = false;
  if (p->none) QN_TRY(find_null(place, p, &null, diag));
  if (null) {
    *out_where = p->path;
    return evaluate_text(place, p, p->none, out, diag);
  }
  if (!p->otherwise) {
    if (!key) {
      return qn_fail(diag, QN_ERR_FORMAT, p->path, "has neither a value nor a key for %s models nor a default",
                     qn_world_name(source->world));
    }
    return qn_fail(diag, QN_ERR_FORMAT, source->name, "key '%s' is missing; the template needs it (%s)", key, p->path);
  }
  *out_where = p->path;
  return evaluate_text(place, p, p->otherwise, out, diag);
}

static qn_status evaluate_one(qn_place *outside, const qn_template_param *p, qn_value *out, qn_diag *diag) {
  const char *where;
  QN_TRY(find_value(outside, p, &where, out, diag));
  return check_param(where, p, out, diag);
}

// Counts values that are evaluated one by one, which many may not be in all.
static qn_status count_made(qn_binding *b, const char *path, int64_t count, qn_diag *diag) {
  b->made += count;
  if (b->made <= MAX_MADE) return QN_OK;
  return qn_fail(diag, QN_ERR_LIMIT, path, "lists and computed weights have more than %d values in all", MAX_MADE);
}

// Each value of a list; its number is known as j.
static qn_status evaluate_list(qn_place *outside, const qn_template_param *p, qn_value_list *out, qn_diag *diag) {
  qn_scope scope = qn_place_scope(outside);
  QN_TRY(qn_expression_int(p->path, p->list, &scope, 1, MAX_LIST, &out->count, diag));
  QN_TRY(count_made(outside->binding, p->path, out->count, diag));
  out->items = QN_ARENA_ARRAY(outside->binding->arena, (size_t)out->count, qn_value);
  if (!out->items) return qn_fail_nomem(diag, p->path, "a list");
  for (int64_t j = 0; j < out->count; j++) {
    qn_place_push(outside, "j", NULL, qn_value_int(j));
    QN_TRY(evaluate_one(outside, p, &out->items[j], diag));
    outside->count--;
  }
  return QN_OK;
}

static qn_status evaluate_param(qn_place *place, size_t index, qn_diag *diag) {
  qn_binding *b = place->binding;
  const qn_template_param *p = &b->t->params.items[index];
  if (b->states[index] == DONE) return QN_OK;
  if (b->states[index] == EVALUATING) {
    return qn_fail(diag, QN_ERR_FORMAT, p->path, "the defaults go round in a circle: %s needs its own value", p->name);
  }
  if (b->depth == MAX_DEPTH) {
    return qn_fail(diag, QN_ERR_FORMAT, p->path, "more than %d defaults depend on one another", MAX_DEPTH);
  }
  b->states[index] = EVALUATING;
  b->depth++;
  qn_place outside = {.binding = b};  // indexes are not known in params
  QN_TRY(p->list ? evaluate_list(&outside, p, &b->lists[index], diag)
                 : evaluate_one(&outside, p, &b->values[index], diag));
  b->depth--;
  b->states[index] = DONE;
  return QN_OK;
}

static qn_status check_refusals(qn_binding *b, qn_diag *diag) {
  qn_place place = {.binding = b};
  qn_scope scope = qn_place_scope(&place);
  for (size_t i = 0; i < b->t->refusals.count; i++) {
    const qn_template_refusal *refusal = &b->t->refusals.items[i];
    bool refused;
    QN_TRY(qn_expression_condition(refusal->path, refusal->condition, &scope, &refused, diag));
    if (!refused) continue;
    const char *message;
    QN_TRY(expand(&place, refusal->path, refusal->message, &message, diag));
    return qn_fail(diag, QN_ERR_UNSUPPORTED, b->source.name, "%s", message);
  }
  return QN_OK;
}

// The param named "context", and the template's own limit.
static qn_status find_context(qn_binding *b, qn_diag *diag) {
  qn_place place = {.binding = b};
  qn_scope scope = qn_place_scope(&place);
  size_t index;
  if (qn_template_find(b->t, QN_STR("context"), &index) == QN_NAME_PARAM) {
    if (b->t->params.items[index].kind == QN_PARAM_INT) b->context = b->values[index].i;
  }
  if (!b->t->max_context) return QN_OK;
  QN_TRY(qn_expression_int(b->t->max_context_path, b->t->max_context, &scope, 1, INT32_MAX, &b->max_context, diag));
  if (b->context == 0 || b->context > b->max_context) b->context = b->max_context;
  return QN_OK;
}

// The token that a decoder's text begins with.
static qn_status find_start(qn_binding *b, qn_diag *diag) {
  qn_place place = {.binding = b};
  qn_scope scope = qn_place_scope(&place);
  b->start = -1;
  if (!b->t->start) return QN_OK;
  return qn_expression_int(b->t->start_path, b->t->start, &scope, 0, INT32_MAX, &b->start, diag);
}

qn_status qn_binding_init(qn_binding *binding, const qn_template *t, const qn_model_source *source, qn_arena *arena,
                          qn_diag *diag) {
  *binding = (qn_binding){.t = t, .source = *source, .arena = arena};
  qn_map_init(&binding->tensor_index, arena->allocator);
  qn_map_init(&binding->keys, arena->allocator);
  binding->values = QN_ARENA_ARRAY(arena, t->params.count, qn_value);
  binding->lists = QN_ARENA_ARRAY(arena, t->params.count, qn_value_list);
  binding->states = QN_ARENA_ARRAY(arena, t->params.count, uint8_t);
  if (!binding->values || !binding->lists || !binding->states) return qn_fail_nomem(diag, source->name, "params");
  qn_place place = {.binding = binding};
  for (size_t i = 0; i < t->params.count; i++) QN_TRY(evaluate_param(&place, i, diag));
  QN_TRY(check_refusals(binding, diag));
  QN_TRY(find_start(binding, diag));
  return find_context(binding, diag);
}

void qn_binding_deinit(qn_binding *binding) {
  qn_map_deinit(&binding->tensor_index);
  qn_map_deinit(&binding->keys);
}

// --- weights

// The name of a tensor, of a stack that of number e.
static qn_status name_of_part(const qn_place *place, const char *where, const qn_template_weight *weight,
                              const char *pattern, int64_t e, const char **out, qn_diag *diag) {
  qn_place within = *place;
  if (weight->stack) qn_place_push(&within, weight->stack, NULL, qn_value_int(e));
  return expand(&within, where, pattern, out, diag);
}

// The name that the graph's parameter gets, that of the tensor (of a stack, the first): of several names the first that is
// there, or the first of all; NULL when this world has none for it. *out_pattern (may be NULL) is what it was made of.
static qn_status tensor_name(qn_place *place, const char *where, const qn_template_weight *weight, const char **out,
                             const char **out_pattern, qn_diag *diag) {
  const qn_model_source *source = &place->binding->source;
  const qn_text_list *names = &weight->names[source->world];
  bool own = weight->data || is_computed(place, weight);
  *out = own ? weight->name : NULL;
  for (size_t i = 0; i < names->count && !own; i++) {
    const char *name;
    QN_TRY(name_of_part(place, where, weight, names->items[i], 0, &name, diag));
    bool there = names->count > 1 && source->has_tensor(source->context, name);
    if (*out && !there) continue;
    *out = name;
    if (out_pattern) *out_pattern = names->items[i];
    if (there) break;
  }
  return QN_OK;
}

qn_status qn_binding_has(qn_place *place, const char *where, const qn_template_weight *weight, bool *out,
                         qn_diag *diag) {
  const qn_model_source *source = &place->binding->source;
  const char *name;
  QN_TRY(tensor_name(place, where, weight, &name, NULL, diag));
  *out = weight->data || is_computed(place, weight) || (name && source->has_tensor(source->context, name));
  return QN_OK;
}

static void print_dims(int rank, const int64_t *dims, qn_buf *out) {
  qn_buf_putc(out, '[');
  for (int d = 0; d < rank; d++) qn_buf_printf(out, "%s%" PRId64, d ? ", " : "", dims[d]);
  qn_buf_putc(out, ']');
}

// A shape as the template writes it.
typedef struct shape_wanted {
  int rank;
  const char *const *dims;
} shape_wanted;

static qn_status fail_shape(const qn_binding *b, const qn_template_weight *weight, const shape_wanted *shape,
                            const char *name, const qn_tensor_data *got, const int64_t *want, qn_diag *diag) {
  qn_buf where, message;
  qn_buf_init(&where, qn_allocator_default());
  qn_buf_init(&message, qn_allocator_default());
  qn_buf_printf(&where, "%s: tensor '%s'", b->source.name, name);
  qn_buf_puts(&message, "got shape ");
  print_dims(got->rank, got->dims, &message);
  qn_buf_puts(&message, ", want ");
  print_dims(shape->rank, want, &message);
  for (int d = 0; d < shape->rank; d++) qn_buf_printf(&message, "%s%s", d ? ", " : " = [", shape->dims[d]);
  qn_buf_printf(&message, "] (%s)", weight->path);
  qn_status status = qn_fail(diag, QN_ERR_FORMAT, qn_buf_text(&where), "%s", qn_buf_text(&message));
  qn_buf_deinit(&where);
  qn_buf_deinit(&message);
  return status;
}

static qn_status evaluate_dims(qn_place *place, const char *path, const shape_wanted *shape, int64_t *out,
                               qn_diag *diag) {
  qn_scope scope = qn_place_scope(place);
  for (int d = 0; d < shape->rank; d++) {
    QN_TRY(qn_expression_int(path, shape->dims[d], &scope, 1, MAX_DIMENSION, &out[d], diag));
  }
  return QN_OK;
}

static qn_status evaluate_shape(qn_place *place, const qn_template_weight *weight, int64_t *out, qn_diag *diag) {
  return evaluate_dims(place, weight->path, &(shape_wanted){weight->rank, weight->shape}, out, diag);
}

// The dimension d places from the last; 1 where there is none (files leave out leading ones).
static int64_t dim_from_end(const int64_t *dims, int rank, int d) { return d < rank ? dims[rank - 1 - d] : 1; }

// Compares with the template's shape and gives the tensor that shape's rank.
static qn_status check_shape(qn_place *place, const qn_template_weight *weight, const char *name, qn_tensor_data *data,
                             qn_diag *diag) {
  int64_t want[QN_MAX_RANK] = {0};
  bool stored = weight->stored_rank > 0 && weight->each[place->binding->source.world];
  const shape_wanted shape = {stored ? weight->stored_rank : weight->rank, stored ? weight->stored : weight->shape};
  QN_TRY(evaluate_dims(place, weight->path, &shape, want, diag));
  for (int d = 0; d < QN_MAX_RANK; d++) {
    if (dim_from_end(want, shape.rank, d) != dim_from_end(data->dims, data->rank, d)) {
      return fail_shape(place->binding, weight, &shape, name, data, want, diag);
    }
  }
  data->rank = shape.rank;
  memcpy(data->dims, want, sizeof want);
  return QN_OK;
}

static qn_status fail_missing(const qn_binding *b, const qn_template_weight *weight, const char *where,
                              const char *name, qn_diag *diag) {
  if (!name) {
    return qn_fail(diag, QN_ERR_FORMAT, weight->path, "has no name for %s models", qn_world_name(b->source.world));
  }
  if (weight->optional) {
    return qn_fail(diag, QN_ERR_FORMAT, where,
                   "uses the optional weight '%s', but %s has no tensor '%s'; write \"%s?\" or \"if\": \"has(%s)\"",
                   weight->name, b->source.name, name, weight->name, weight->name);
  }
  return qn_fail(diag, QN_ERR_FORMAT, b->source.name, "tensor '%s' is missing; the template needs it (%s)", name,
                 weight->path);
}

// Element number j of a computed weight.
static qn_status compute_element(const qn_binding *b, const qn_template_weight *weight, qn_place *place, int64_t j,
                                 float *out, qn_diag *diag) {
  double number;
  qn_scope scope = qn_place_scope(place);
  QN_TRY(qn_expression_number(weight->path, weight->each[b->source.world], &scope, &number, diag));
  *out = (float)number;
  if (isfinite(*out)) return QN_OK;
  return qn_fail(diag, QN_ERR_FORMAT, weight->path, "element %" PRId64 " is %g, want a number that f32 can hold", j,
                 number);
}

// Fills `out` with `count` elements: expressions of their number j and, where there is a tensor, of its `value`, or, where
// that has another shape, of its values by number.
static qn_status compute_all(qn_binding *b, const qn_template_weight *weight, const qn_tensor_data *from, int64_t count,
                             float *out, qn_diag *diag) {
  int64_t value_count = 1;
  for (int d = 0; d < from->rank; d++) value_count *= from->dims[d];  // it has been sized before
  size_t bytes = (size_t)value_count * sizeof(double);
  double *values = from->data ? qn_alloc(b->arena->allocator, bytes) : NULL;
  if (from->data && !values) return qn_fail_nomem(diag, weight->path, "a weight's values");
  if (values) qn_format_row_to_f64(from->format, value_count, from->data, values);
  qn_status status = QN_OK;
  for (int64_t j = 0; j < count && status == QN_OK; j++) {
    qn_place place = {.binding = b};
    qn_place_push(&place, "j", NULL, qn_value_int(j));
    if (weight->stored_rank > 0) {
      place.values = values;
      place.value_count = value_count;
    } else if (values) {
      qn_place_push(&place, "value", NULL, qn_value_float(values[j]));
    }
    status = compute_element(b, weight, &place, j, &out[j], diag);
  }
  qn_free(b->arena->allocator, values, bytes);
  return status;
}

// Replaces a vector, which has no data where it is no file's, by the computed one, f32 in the arena.
static qn_status compute_each(qn_place *outside, const qn_template_weight *weight, qn_bound_tensor *tensor,
                              qn_diag *diag) {
  qn_binding *b = outside->binding;
  qn_tensor_data *data = &tensor->data;
  int64_t shape[QN_MAX_RANK], count = 0, stored = 1;
  QN_TRY(evaluate_shape(outside, weight, shape, diag));
  count = shape[0];
  for (int d = 0; d < data->rank; d++) {
    if (__builtin_mul_overflow(stored, data->dims[d], &stored)) stored = INT64_MAX;
  }
  void *made = NULL;
  size_t made_bytes = 0;
  if (count > MAX_COMPUTED || stored > MAX_COMPUTED) {
    return qn_fail(diag, QN_ERR_LIMIT, weight->path, "got %" PRId64 " values to compute, want at most %d",
                   count > stored ? count : stored, MAX_COMPUTED);
  }
  QN_TRY(count_made(b, weight->path, count, diag));
  float *values = QN_ARENA_ARRAY(b->arena, (size_t)count, float);
  if (!values) return qn_fail_nomem(diag, weight->path, "a weight's values");
  if (weight->names[b->source.world].count && !data->data) {
    QN_TRY(qn_binding_load(b, tensor, b->arena->allocator, &made, &made_bytes, diag));
    data->data = made;
  }
  qn_status status = compute_all(b, weight, data, count, values, diag);
  qn_free(b->arena->allocator, made, made_bytes);
  QN_TRY(status);
  data->rank = 1;
  data->dims[0] = count;
  data->format = qn_format_of(QN_DTYPE_F32);
  data->data = values;
  return QN_OK;
}

// The file's matrix as the graph sees it: the other way round.
static qn_status turn_around(qn_place *place, qn_bound_tensor *tensor, qn_diag *diag) {
  qn_tensor_data *data = &tensor->data;
  if (data->rank != 2 || data->format->block_values != 1) {
    return qn_fail(diag, QN_ERR_UNSUPPORTED, place->binding->source.name,
                   "tensor '%s' is stored transposed, got %s of %d dimensions, want a matrix of floats", tensor->name,
                   data->format->name, data->rank);
  }
  swap_dims(data);
  data->data = NULL;
  tensor->transposed = true;
  return QN_OK;
}

// Makes the tensor those of its rows that the weight is.
static qn_status take_rows(qn_place *place, const qn_template_weight *weight, qn_bound_tensor *tensor, qn_diag *diag) {
  qn_world world = place->binding->source.world;
  qn_tensor_data *data = &tensor->data;
  qn_scope scope = qn_place_scope(place);
  int64_t first, all, count = 1, stored = data->rank == 2 ? data->dims[0] : data->rank == 1 ? 1 : 0;
  size_t skipped = 0;
  QN_TRY(qn_expression_int(weight->path, weight->rows[world][0], &scope, 0, MAX_DIMENSION, &first, diag));
  QN_TRY(qn_expression_int(weight->path, weight->rows[world][1], &scope, 1, MAX_DIMENSION, &all, diag));
  if (weight->rank == 2) {
    QN_TRY(qn_expression_int(weight->path, weight->shape[0], &scope, 1, MAX_DIMENSION, &count, diag));
  }
  if (stored != all || first + count > all) {
    return qn_fail(diag, QN_ERR_FORMAT, place->binding->source.name,
                   "tensor '%s': got a matrix of %" PRId64 " rows, want %" PRId64 " = %s, of which %" PRId64
                   " from row %" PRId64 " on are taken (%s)",
                   tensor->name, stored, all, weight->rows[world][1], count, first, weight->path);
  }
  int64_t width = data->dims[data->rank - 1];
  if (!qn_format_file_bytes(data->format, first, width, &skipped)) return qn_fail_nomem(diag, tensor->name, "its rows");
  if (data->data) data->data = (const uint8_t *)data->data + skipped;
  tensor->first_row = first;
  tensor->file_rows = all;
  data->rank = 2;
  data->dims[0] = count;
  data->dims[1] = width;
  return QN_OK;
}

static qn_status fail_part(const qn_binding *b, const char *name, const qn_tensor_data *got, const char *first,
                           const qn_tensor_data *want, qn_diag *diag) {
  qn_buf text;
  qn_buf_init(&text, qn_allocator_default());
  qn_buf_printf(&text, "got %s ", got->format->name);
  print_dims(got->rank, got->dims, &text);
  qn_buf_printf(&text, ", want %s ", want->format->name);
  print_dims(want->rank, want->dims, &text);
  qn_status status = qn_fail(diag, QN_ERR_FORMAT, b->source.name, "tensor '%s': %s as '%s' has, on which it is stacked",
                             name, qn_buf_text(&text), first);
  qn_buf_deinit(&text);
  return status;
}

// Makes a stack of the tensor that was found, where the pattern of its name has the index: all parts are there, and alike.
// Parts of a vector lie one after another.
static qn_status find_parts(const qn_place *place, const char *where, const qn_template_weight *weight,
                            const char *pattern, qn_bound_tensor *tensor, qn_diag *diag) {
  qn_binding *b = place->binding;
  qn_tensor_data *data = &tensor->data, part;
  const char *name;
  bool found;
  int64_t count = 0;
  QN_TRY(name_of_part(place, where, weight, pattern, 1, &name, diag));
  if (strcmp(name, tensor->name) == 0) return QN_OK;
  bool vector = weight->rank == 1;
  qn_place outside = *place;
  qn_scope scope = qn_place_scope(&outside);
  QN_TRY(qn_expression_int(weight->path, weight->shape[0], &scope, 1, MAX_PARTS, &count, diag));
  if (vector && data->rank != 1) return QN_OK;  // of another shape, which is told of next
  if (vector) count = count > data->dims[0] ? count / data->dims[0] : 1;
  tensor->parts = QN_ARENA_ARRAY(b->arena, (size_t)count, const char *);
  if (!tensor->parts) return qn_fail_nomem(diag, b->source.name, "tensors");
  for (int64_t e = 0; e < count; e++) {
    QN_TRY(name_of_part(place, where, weight, pattern, e, &tensor->parts[e], diag));
    name = tensor->parts[e];
    QN_TRY(b->source.find_tensor(b->source.context, name, &found, &part, diag));
    if (!found) return fail_missing(b, weight, where, name, diag);
    bool alike = part.format == data->format && part.rank == data->rank && part.rank < QN_MAX_RANK &&
                 memcmp(part.dims, data->dims, (size_t)part.rank * sizeof *part.dims) == 0;
    if (!alike) return fail_part(b, name, &part, tensor->name, data, diag);
  }
  tensor->part_count = count;
  data->data = NULL;
  if (vector) {
    data->dims[0] *= count;
    return QN_OK;
  }
  memmove(data->dims + 1, data->dims, (size_t)data->rank * sizeof *data->dims);
  data->dims[0] = count;
  data->rank++;
  return QN_OK;
}

// The weight's tensor, checked; *out_found false when there is none.
static qn_status find_tensor(qn_place *place, const char *where, const qn_template_weight *weight, bool *out_found,
                             qn_bound_tensor *out, qn_diag *diag) {
  const qn_model_source *source = &place->binding->source;
  const char *pattern = NULL;
  QN_TRY(tensor_name(place, where, weight, &out->name, &pattern, diag));
  *out_found = weight->data != NULL;
  if (weight->data) {  // counted against the shape when it was read
    out->data = (qn_tensor_data){.format = qn_format_of(QN_DTYPE_F32), .rank = weight->rank, .data = weight->data};
    return evaluate_shape(place, weight, out->data.dims, diag);
  }
  if (is_computed(place, weight)) {
    *out_found = true;
    out->data.rank = weight->rank;
    return evaluate_shape(place, weight, out->data.dims, diag);
  }
  if (out->name) QN_TRY(source->find_tensor(source->context, out->name, out_found, &out->data, diag));
  if (*out_found && weight->stack) QN_TRY(find_parts(place, where, weight, pattern, out, diag));
  if (*out_found && weight->stack && weight->rank == 1 && out->data.rank == 2) {  // a file's own stack of vectors
    out->data.dims[0] *= out->data.dims[1];
    out->data.rank = 1;
  }
  if (*out_found && weight->transposed[source->world]) QN_TRY(turn_around(place, out, diag));
  if (*out_found && weight->rows[source->world][0]) QN_TRY(take_rows(place, weight, out, diag));
  return *out_found ? check_shape(place, weight, out->name, &out->data, diag) : QN_OK;
}

qn_status qn_binding_weight(qn_place *place, const char *where, const qn_template_weight *weight,
                            const qn_bound_tensor **out, qn_diag *diag) {
  qn_binding *b = place->binding;
  qn_bound_tensor tensor = {.weight = weight};
  bool found, computed = weight->each[b->source.world] != NULL;
  uint64_t index;
  QN_TRY(find_tensor(place, where, weight, &found, &tensor, diag));
  if (!found) return fail_missing(b, weight, where, tensor.name, diag);
  if (computed && qn_map_get(&b->tensor_index, qn_str_from(tensor.name), &index) &&
      b->tensors.items[index].weight == weight) {
    *out = &b->tensors.items[index];  // computed once
    return QN_OK;
  }
  if (computed) QN_TRY(compute_each(place, weight, &tensor, diag));
  tensor.target = tensor.data.format;
  tensor.keep = weight->keep;
  if (!qn_map_get(&b->tensor_index, qn_str_from(tensor.name), &index)) {
    index = b->tensors.count;
    if (!qn_vec_push_arena(b->arena, &b->tensors, tensor) ||
        !qn_map_put(&b->tensor_index, qn_str_from(tensor.name), index)) {
      return qn_fail_nomem(diag, b->source.name, "tensors");
    }
    for (int64_t e = 1; e < tensor.part_count; e++) {
      if (!qn_map_put(&b->tensor_index, qn_str_from(tensor.parts[e]), index))
        return qn_fail_nomem(diag, b->source.name, "tensors");
    }
  }
  *out = &b->tensors.items[index];
  bool same = (*out)->data.rank == tensor.data.rank && (*out)->data.data == tensor.data.data &&
              (*out)->transposed == tensor.transposed && (*out)->first_row == tensor.first_row &&
              memcmp((*out)->data.dims, tensor.data.dims, sizeof tensor.data.dims) == 0;
  if (same) return QN_OK;
  return qn_fail(diag, QN_ERR_FORMAT, weight->path, "tensor '%s' is bound to two weights of different shapes or values",
                 tensor.name);
}

// --- bytes that are made

// (rows, columns) → (columns, rows), of elements of `size` bytes; in tiles, so that lines of both are used whole.
static void transpose(const uint8_t *from, int64_t rows, int64_t columns, size_t size, uint8_t *to) {
  enum { TILE = 32 };
  for (int64_t r0 = 0; r0 < rows; r0 += TILE) {
    for (int64_t c0 = 0; c0 < columns; c0 += TILE) {
      for (int64_t r = r0; r < rows && r < r0 + TILE; r++) {
        for (int64_t c = c0; c < columns && c < c0 + TILE; c++) {
          memcpy(to + (size_t)(c * rows + r) * size, from + (size_t)(r * columns + c) * size, size);
        }
      }
    }
  }
}

// Bytes of a tensor in its format; false when there are more than memory has.
static bool tensor_bytes(const qn_tensor_data *data, size_t *out) {
  int64_t rows = 1;
  for (int d = 0; d + 1 < data->rank; d++) {
    if (__builtin_mul_overflow(rows, data->dims[d], &rows)) return false;
  }
  return qn_format_file_bytes(data->format, rows, data->dims[data->rank - 1], out);
}

// The bytes of what the file has: `from`, or made by the source where that is NULL.
static qn_status put_bytes(const qn_binding *binding, const qn_bound_tensor *tensor, const void *from, size_t size,
                           const qn_allocator *allocator, void *out, qn_diag *diag) {
  const qn_model_source *source = &binding->source;
  const int64_t *dims = tensor->data.dims;
  void *made = NULL;
  size_t row = tensor->data.rank == 2 ? size / (size_t)dims[0] : size, whole = size;
  if (tensor->file_rows && !qn_size_mul((size_t)tensor->file_rows, row, &whole)) {
    return qn_fail_nomem(diag, tensor->name, "its bytes");
  }
  if (!from && !tensor->transposed && !tensor->file_rows) {
    return source->load_tensor(source->context, tensor->name, out, diag);
  }
  if (!from) {
    if (!(made = qn_alloc(allocator, whole))) return qn_fail_nomem(diag, tensor->name, "its bytes");
    qn_status status = source->load_tensor(source->context, tensor->name, made, diag);
    if (status != QN_OK) {
      qn_free(allocator, made, whole);
      return status;
    }
    from = made;
  }
  if (tensor->transposed) {
    transpose(from, dims[1], dims[0], tensor->data.format->block_bytes, out);
  } else {
    memcpy(out, (const uint8_t *)from + (size_t)tensor->first_row * row, size);
  }
  qn_free(allocator, made, whole);
  return QN_OK;
}

// The bytes of one tensor of the file, `size` of them, to `out`.
static qn_status load_part(const qn_binding *binding, const qn_bound_tensor *tensor, size_t size,
                           const qn_allocator *allocator, void *out, qn_diag *diag) {
  const qn_model_source *source = &binding->source;
  qn_tensor_data stored;
  bool found;
  QN_TRY(source->find_tensor(source->context, tensor->name, &found, &stored, diag));
  if (!found) return qn_fail(diag, QN_ERR_FORMAT, source->name, "tensor '%s' is missing", tensor->name);
  return put_bytes(binding, tensor, stored.data, size, allocator, out, diag);
}

qn_status qn_binding_load(const qn_binding *binding, const qn_bound_tensor *tensor, const qn_allocator *allocator,
                          void **out, size_t *out_size, qn_diag *diag) {
  int64_t count = tensor->part_count ? tensor->part_count : 1;
  size_t size;
  *out = NULL;
  if (!tensor_bytes(&tensor->data, &size) || !(*out = qn_alloc(allocator, size))) {
    return qn_fail_nomem(diag, tensor->name, "its bytes");
  }
  *out_size = size;
  qn_status status = QN_OK;
  size_t part_size = size / (size_t)count;
  for (int64_t e = 0; e < count && status == QN_OK; e++) {
    qn_bound_tensor part = *tensor;
    if (tensor->part_count) part.name = tensor->parts[e];
    status = load_part(binding, &part, part_size, allocator, (uint8_t *)*out + (size_t)e * part_size, diag);
  }
  if (status == QN_OK) return QN_OK;
  qn_free(allocator, *out, size);
  *out = NULL;
  return status;
}

// --- for the importer

static void describe_value(const qn_value *value, qn_buf *out) {
  if (value->kind == QN_VALUE_TEXT) {
    qn_put_one_line(out, value->text);
  } else {
    qn_value_print(value, out);
  }
}

void qn_binding_describe(const qn_binding *binding, qn_buf *out) {
  for (size_t i = 0; i < binding->t->params.count; i++) {
    qn_buf_printf(out, "%s = ", binding->t->params.items[i].name);
    bool list = binding->t->params.items[i].list != NULL;
    int64_t count = list ? binding->lists[i].count : 1;
    for (int64_t j = 0; j < count; j++) {
      if (j > 0) qn_buf_puts(out, ", ");
      describe_value(list ? &binding->lists[i].items[j] : &binding->values[i], out);
    }
    qn_buf_putc(out, '\n');
  }
}

bool qn_binding_reads_key(const qn_binding *binding, qn_str key) {
  return qn_map_get(&binding->keys, key, NULL);
}

bool qn_pattern_matches(const char *pattern, qn_str name) {
  const char *star = NULL;  // the last '*' passed, which takes characters up to `taken`
  size_t at = 0, taken = 0;
  while (at < name.length) {
    if (*pattern == '*') {
      star = pattern++;
      taken = at;
    } else if (*pattern == name.data[at]) {
      pattern++;
      at++;
    } else if (star) {
      pattern = star + 1;
      at = ++taken;
    } else {
      return false;
    }
  }
  while (*pattern == '*') pattern++;
  return !*pattern;
}

qn_status qn_binding_ignores(qn_binding *binding, const qn_text_list *patterns, qn_str name, bool *out, qn_diag *diag) {
  qn_place place = {.binding = binding};
  *out = false;
  for (size_t i = 0; i < patterns->count && !*out; i++) {
    const char *pattern;
    QN_TRY(expand(&place, binding->t->file, patterns->items[i], &pattern, diag));
    *out = qn_pattern_matches(pattern, name);
  }
  return QN_OK;
}
