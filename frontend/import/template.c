// JSON → qn_template. Each kind of entry has one function; what refers to other entries is checked afterwards
// (template_check.c), when all names are known.
#include "frontend/import/template.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/import/graph_json.h"
#include "frontend/import/json.h"

enum { MAX_ENTRIES = 16384, MAX_STATEMENTS = 65536, MAX_NESTING = 8, MAX_EXTENDS = 4 };

typedef struct reader {
  qn_json json;
  qn_template *t;
  qn_template_lookup_fn lookup;
  size_t statements;  // so far, nested ones included
} reader;

static const char *const world_names[QN_WORLD_COUNT] = {"gguf", "hf"};

const char *qn_world_name(qn_world world) { return world_names[world]; }

static qn_status fail_nomem(const reader *r) { return qn_fail_nomem(r->json.diag, r->json.file, "a template"); }

// --- names

bool qn_template_parse_symbol(const char *text, qn_dim *out) {
  size_t digits = strspn(text, "0123456789");
  if (digits > 9 || !text[digits] || text[digits + 1]) return false;
  int64_t factor = digits ? strtoll(text, NULL, 10) : 1;
  if (factor < 1 || !qn_symbol_parse((qn_str){text + digits, 1}, &out->symbol)) return false;
  out->value = factor;
  return true;
}

bool qn_template_is_reserved(const char *name) {
  static const char *const words[] = {"arch", "kv", "true", "false", "compiled_context"};
  qn_dim dim;
  if (qn_template_parse_symbol(name, &dim)) return true;
  for (size_t i = 0; i < QN_COUNT(words); i++) {
    if (strcmp(words[i], name) == 0) return true;
  }
  return !qn_expression_is_name(qn_str_from(name));
}

qn_name_kind qn_template_find(const qn_template *t, qn_str name, size_t *out_index) {
  uint64_t value;
  if (!qn_map_get(&t->names, name, &value)) return QN_NAME_NONE;
  if (out_index) *out_index = (size_t)(value & UINT32_MAX);
  return (qn_name_kind)(value >> 32);
}

qn_status qn_template_declare(qn_template *t, const char *path, const char *name, qn_name_kind kind, size_t index,
                              qn_diag *diag) {
  static const char *const kinds[] = {"nothing", "a param", "a weight", "an input", "a value", "an index"};
  if (qn_template_is_reserved(name)) {
    return qn_fail(diag, QN_ERR_FORMAT, path,
                   "got the name '%.64s', want letters, digits and _ that are no word of the language", name);
  }
  qn_name_kind taken = qn_template_find(t, qn_str_from(name), NULL);
  if (taken != QN_NAME_NONE) {
    return qn_fail(diag, QN_ERR_FORMAT, path, "the name '%s' is taken: it is %s already", name, kinds[taken]);
  }
  if (!qn_map_put(&t->names, qn_str_from(name), (uint64_t)kind << 32 | index)) {
    return qn_fail_nomem(diag, t->file, "names");
  }
  return QN_OK;
}

// --- params

static qn_status read_param_kind(reader *r, const cJSON *item, const char *path, qn_param_kind *out) {
  static const char *const kinds[] = {"int", "float", "bool", "text"};
  const char *text = "int";
  QN_TRY(qn_json_get_text(&r->json, item, path, "kind", &text));
  for (size_t i = 0; i < QN_COUNT(kinds); i++) {
    if (strcmp(text, kinds[i]) == 0) {
      *out = (qn_param_kind)i;
      return QN_OK;
    }
  }
  return qn_json_fail(&r->json, QN_ERR_FORMAT, qn_json_key_path(&r->json, path, "kind"),
                      "got '%.40s', want int, float, bool or text", text);
}

// A text for params of kind text, an expression for others.
static qn_status read_param_value(reader *r, const cJSON *item, const char *path, qn_param_kind kind,
                                  const char **out) {
  return kind == QN_PARAM_TEXT ? qn_json_text(&r->json, item, path, out)
                               : qn_json_expression(&r->json, item, path, out);
}

static qn_status read_texts(reader *r, const cJSON *list, const char *path, qn_text_list *out);

// One text or a list of them, under a key that may be missing.
static qn_status read_names(reader *r, const cJSON *item, const char *path, const char *key, qn_text_list *out) {
  const cJSON *names = qn_json_get(item, key);
  const char *names_path = qn_json_key_path(&r->json, path, key), *text;
  if (!names) return QN_OK;
  if (cJSON_IsArray(names)) {
    QN_TRY(qn_json_array(&r->json, names, names_path, 1, MAX_ENTRIES));
    return read_texts(r, names, names_path, out);
  }
  QN_TRY(qn_json_text(&r->json, names, names_path, &text));
  return qn_vec_push_arena(r->json.arena, out, text) ? QN_OK : fail_nomem(r);
}

static qn_status read_param_sources(reader *r, const cJSON *item, const char *path, qn_template_param *p) {
  const cJSON *value = qn_json_get(item, "value"), *otherwise = qn_json_get(item, "default");
  const char *value_path = qn_json_key_path(&r->json, path, "value");
  static const char *const worlds[] = {"gguf", "hf", NULL};
  if (cJSON_IsObject(value)) QN_TRY(qn_json_object(&r->json, value, value_path, worlds));
  for (int w = 0; w < QN_WORLD_COUNT; w++) {
    const cJSON *own = cJSON_IsObject(value) ? qn_json_get(value, world_names[w]) : value;
    QN_TRY(read_names(r, item, path, world_names[w], &p->keys[w]));
    if (own) QN_TRY(read_param_value(r, own, value_path, p->kind, &p->values[w]));
    if (p->keys[w].count && p->values[w]) {
      return qn_json_fail(&r->json, QN_ERR_FORMAT, path, "got both a value and a %s key, want one", world_names[w]);
    }
  }
  const cJSON *none = qn_json_get(item, "null");
  if (none) QN_TRY(read_param_value(r, none, qn_json_key_path(&r->json, path, "null"), p->kind, &p->none));
  if (!otherwise) return QN_OK;
  return read_param_value(r, otherwise, qn_json_key_path(&r->json, path, "default"), p->kind, &p->otherwise);
}

static qn_status read_param(reader *r, const cJSON *item, const char *path) {
  static const char *const keys[] = {"gguf", "hf",  "kind", "list", "value", "default",
                                     "null", "min", "max",  "note", NULL};
  qn_template_param p = {.path = qn_json_where(&r->json, path)};
  QN_TRY(qn_json_object(&r->json, item, path, keys));
  p.name = qn_arena_strdup(r->json.arena, item->string);
  if (!p.name) return fail_nomem(r);
  QN_TRY(read_param_kind(r, item, path, &p.kind));
  QN_TRY(qn_json_get_expression(&r->json, item, path, "list", &p.list));
  QN_TRY(read_param_sources(r, item, path, &p));
  const cJSON *min = qn_json_get(item, "min"), *max = qn_json_get(item, "max");
  p.has_min = min != NULL;
  p.has_max = max != NULL;
  if (min) QN_TRY(qn_json_number(&r->json, min, qn_json_key_path(&r->json, path, "min"), &p.min));
  if (max) QN_TRY(qn_json_number(&r->json, max, qn_json_key_path(&r->json, path, "max"), &p.max));
  bool bounded = min || max;
  if (bounded && p.kind != QN_PARAM_INT && p.kind != QN_PARAM_FLOAT) {
    return qn_json_fail(&r->json, QN_ERR_FORMAT, path, "min and max are for int and float params");
  }
  size_t index;
  if (qn_template_find(r->t, qn_str_from(p.name), &index) == QN_NAME_PARAM) {  // of the template this one extends
    r->t->params.items[index] = p;
    return QN_OK;
  }
  QN_TRY(qn_template_declare(r->t, p.path, p.name, QN_NAME_PARAM, r->t->params.count, r->json.diag));
  return qn_vec_push_arena(r->json.arena, &r->t->params, p) ? QN_OK : fail_nomem(r);
}

// --- weights, inputs

// A list of at most QN_MAX_RANK expressions.
static qn_status read_shape(reader *r, const cJSON *item, const char *path, const char *shape[QN_MAX_RANK],
                            int *out_rank) {
  QN_TRY(qn_json_array(&r->json, item, path, 0, QN_MAX_RANK));
  *out_rank = 0;
  const cJSON *child;
  cJSON_ArrayForEach(child, item) {
    const char *child_path = qn_json_index_path(&r->json, path, (size_t)*out_rank);
    QN_TRY(qn_json_expression(&r->json, child, child_path, &shape[*out_rank]));
    ++*out_rank;
  }
  return QN_OK;
}

// "each": one expression for all worlds, or one a world.
static qn_status read_each(reader *r, const cJSON *item, const char *path, qn_template_weight *w) {
  static const char *const worlds[] = {"gguf", "hf", NULL};
  const cJSON *each = qn_json_get(item, "each");
  const char *each_path = qn_json_key_path(&r->json, path, "each");
  if (!each) return QN_OK;
  if (cJSON_IsObject(each)) QN_TRY(qn_json_object(&r->json, each, each_path, worlds));
  for (int i = 0; i < QN_WORLD_COUNT; i++) {
    const cJSON *own = cJSON_IsObject(each) ? qn_json_get(each, world_names[i]) : each;
    if (own) QN_TRY(qn_json_expression(&r->json, own, each_path, &w->each[i]));
  }
  if (w->rank == 1) return QN_OK;
  return qn_json_fail(&r->json, QN_ERR_FORMAT, each_path, "got a shape of %d dimensions, want one: a vector is computed",
                      w->rank);
}

// "stored": the shape of the tensor whose values a weight is computed from, where that is another than the weight's.
static qn_status read_stored(reader *r, const cJSON *item, const char *path, qn_template_weight *w) {
  const cJSON *stored = qn_json_get(item, "stored");
  const char *stored_path = qn_json_key_path(&r->json, path, "stored");
  if (!stored) return QN_OK;
  QN_TRY(read_shape(r, stored, stored_path, w->stored, &w->stored_rank));
  bool computed = false;
  for (int i = 0; i < QN_WORLD_COUNT; i++) computed = computed || (w->each[i] && w->names[i].count);
  if (computed && w->stored_rank > 0) return QN_OK;
  return qn_json_fail(&r->json, QN_ERR_FORMAT, stored_path,
                      "want dimensions of a tensor whose values the weight is computed from (each)");
}

// "transposed": ["hf"], the worlds whose files hold the matrix the other way round.
static qn_status read_transposed(reader *r, const cJSON *item, const char *path, qn_template_weight *w) {
  qn_text_list worlds = {0};
  const char *list_path = qn_json_key_path(&r->json, path, "transposed");
  QN_TRY(read_texts(r, qn_json_get(item, "transposed"), list_path, &worlds));
  for (size_t i = 0; i < worlds.count; i++) {
    int world = 0;
    while (world < QN_WORLD_COUNT && strcmp(world_names[world], worlds.items[i]) != 0) world++;
    if (world == QN_WORLD_COUNT) {
      return qn_json_fail(&r->json, QN_ERR_FORMAT, list_path, "got '%.20s', want gguf or hf", worlds.items[i]);
    }
    w->transposed[world] = true;
  }
  if (worlds.count && w->rank != 2) {
    return qn_json_fail(&r->json, QN_ERR_FORMAT, list_path, "is for matrices, got %d dimensions", w->rank);
  }
  return QN_OK;
}

// "stack": "e", the index in the names of tensors that are stacked.
static qn_status read_stack(reader *r, const cJSON *item, const char *path, qn_template_weight *w) {
  const char *stack_path = qn_json_key_path(&r->json, path, "stack");
  QN_TRY(qn_json_get_text(&r->json, item, path, "stack", &w->stack));
  if (!w->stack) return QN_OK;
  if (qn_template_is_reserved(w->stack)) {
    return qn_json_fail(&r->json, QN_ERR_FORMAT, stack_path, "got '%.40s', want the name of an index, as in {e}",
                        w->stack);
  }
  bool changed = false;
  for (int i = 0; i < QN_WORLD_COUNT; i++) changed = changed || w->each[i] || w->transposed[i];
  if (!changed) return QN_OK;
  return qn_json_fail(&r->json, QN_ERR_FORMAT, stack_path,
                      "got values that are computed or transposed, want tensors as they are");
}

// "rows": [first, all], for all worlds or one a world: the part of the file's tensor that the weight is.
static qn_status read_rows(reader *r, const cJSON *item, const char *path, qn_template_weight *w) {
  static const char *const worlds[] = {"gguf", "hf", NULL};
  const cJSON *rows = qn_json_get(item, "rows");
  const char *rows_path = qn_json_key_path(&r->json, path, "rows");
  if (!rows) return QN_OK;
  if (cJSON_IsObject(rows)) QN_TRY(qn_json_object(&r->json, rows, rows_path, worlds));
  for (int i = 0; i < QN_WORLD_COUNT; i++) {
    const cJSON *own = cJSON_IsObject(rows) ? qn_json_get(rows, world_names[i]) : rows;
    if (!own) continue;
    QN_TRY(qn_json_array(&r->json, own, rows_path, 2, 2));
    for (int j = 0; j < 2; j++) {
      QN_TRY(qn_json_expression(&r->json, cJSON_GetArrayItem(own, j), rows_path, &w->rows[i][j]));
    }
    if (w->rank > 2 || w->stack || w->each[i] || w->transposed[i]) {
      return qn_json_fail(&r->json, QN_ERR_FORMAT, rows_path,
                          "is for matrices and vectors as the file has them, not computed, stacked or transposed");
    }
  }
  return QN_OK;
}

static qn_status read_weight(reader *r, const cJSON *item, const char *path) {
  static const char *const keys[] = {"gguf",  "hf",   "shape", "optional", "keep", "transposed",
                                     "stack", "each", "rows",  "stored",   "note", NULL};
  static const char *const graph_keys[] = {"gguf", "shape", "optional", "keep",   "stack",
                                           "each", "note",  "data",     "base64", NULL};
  qn_template_weight w = {.path = qn_json_where(&r->json, path)};
  QN_TRY(qn_json_object(&r->json, item, path, r->t->is_graph ? graph_keys : keys));
  w.name = qn_arena_strdup(r->json.arena, item->string);
  if (!w.name) return fail_nomem(r);
  for (int i = 0; i < QN_WORLD_COUNT; i++) {
    QN_TRY(read_names(r, item, path, world_names[i], &w.names[i]));
  }
  const char *shape_path = qn_json_key_path(&r->json, path, "shape");
  QN_TRY(read_shape(r, qn_json_get(item, "shape"), shape_path, w.shape, &w.rank));
  if (w.rank == 0) return qn_json_fail(&r->json, QN_ERR_FORMAT, shape_path, "got no dimensions, want 1 to 4");
  const cJSON *optional = qn_json_get(item, "optional");
  if (optional) QN_TRY(qn_json_bool(&r->json, optional, qn_json_key_path(&r->json, path, "optional"), &w.optional));
  const cJSON *keep = qn_json_get(item, "keep");
  if (keep) QN_TRY(qn_json_bool(&r->json, keep, qn_json_key_path(&r->json, path, "keep"), &w.keep));
  QN_TRY(qn_graph_json_read_data(&r->json, item, path, &w));
  QN_TRY(read_transposed(r, item, path, &w));
  QN_TRY(read_each(r, item, path, &w));
  QN_TRY(read_stored(r, item, path, &w));
  QN_TRY(read_stack(r, item, path, &w));
  QN_TRY(read_rows(r, item, path, &w));
  bool named = w.names[QN_WORLD_GGUF].count || w.names[QN_WORLD_HF].count;
  bool computed = w.each[QN_WORLD_GGUF] || w.each[QN_WORLD_HF];
  if (w.data && computed) return qn_json_fail(&r->json, QN_ERR_FORMAT, path, "got both values and each, want one");
  if (named == (w.data != NULL) && !computed) {
    return qn_json_fail(
        &r->json, QN_ERR_FORMAT, path, "got %s, want %s",
        named ? "a tensor name and values" : "neither a tensor name nor values",
        r->t->is_graph ? "gguf (the tensor's name in weights_file), data or base64" : "gguf or hf (the tensor's name)");
  }
  size_t index;
  if (qn_template_find(r->t, qn_str_from(w.name), &index) == QN_NAME_WEIGHT) {
    r->t->weights.items[index] = w;
    return QN_OK;
  }
  QN_TRY(qn_template_declare(r->t, w.path, w.name, QN_NAME_WEIGHT, r->t->weights.count, r->json.diag));
  return qn_vec_push_arena(r->json.arena, &r->t->weights, w) ? QN_OK : fail_nomem(r);
}

static qn_status add_input(reader *r, const char *path, const qn_template_input *input) {
  QN_TRY(qn_template_declare(r->t, path, input->name, QN_NAME_INPUT, r->t->inputs.count, r->json.diag));
  return qn_vec_push_arena(r->json.arena, &r->t->inputs, *input) ? QN_OK : fail_nomem(r);
}

// What the runtime gives every step.
static qn_status add_runtime_inputs(reader *r) {
  const qn_dim t = qn_dim_sym(QN_SYM_T), rows = qn_dim_sym(QN_SYM_R), source = qn_dim_sym(QN_SYM_S);
  const qn_dim table[] = {qn_dim_sym(QN_SYM_B), qn_dim_sym(QN_SYM_P)};
  const qn_template_input inputs[] = {
      {.name = "tokens", .type = qn_type_make(QN_DTYPE_I32, 1, &t)},
      {.name = "pos", .type = qn_type_make(QN_DTYPE_I32, 1, &t)},
      {.name = "last_pos", .type = qn_type_make(QN_DTYPE_I32, 1, &t)},
      {.name = "seq", .type = qn_type_make(QN_DTYPE_I32, 1, &t)},
      {.name = "copies", .type = qn_type_make(QN_DTYPE_I32, 1, &t)},
      {.name = "rows", .type = qn_type_make(QN_DTYPE_I32, 1, &rows)},
      {.name = "source", .type = qn_type_make(QN_DTYPE_I32, 1, &source)},
      {.name = "source_pos", .type = qn_type_make(QN_DTYPE_I32, 1, &source)},
      {.name = "source_seq", .type = qn_type_make(QN_DTYPE_I32, 1, &source)},
      {.name = "source_last_pos", .type = qn_type_make(QN_DTYPE_I32, 1, &source)},
      {.name = "cross_last_pos", .type = qn_type_make(QN_DTYPE_I32, 1, &t)},
      {.name = "block_table", .type = qn_type_make(QN_DTYPE_I32, 2, table)},
  };
  for (size_t i = 0; i < QN_COUNT(inputs); i++) QN_TRY(add_input(r, r->json.file, &inputs[i]));
  return QN_OK;
}

static qn_status read_input(reader *r, const cJSON *item, const char *path) {
  static const char *const keys[] = {"dtype", "shape", "note", NULL};
  QN_TRY(qn_json_object(&r->json, item, path, keys));
  qn_template_input input = {.name = qn_arena_strdup(r->json.arena, item->string), .path = qn_json_where(&r->json, path)};
  if (!input.name) return fail_nomem(r);
  const char *dtype = "f32", *shape[QN_MAX_RANK];
  QN_TRY(qn_json_get_text(&r->json, item, path, "dtype", &dtype));
  if (!qn_dtype_parse(qn_str_from(dtype), &input.type.dtype) ||
      (input.type.dtype != QN_DTYPE_F32 && input.type.dtype != QN_DTYPE_I32)) {
    return qn_json_fail(&r->json, QN_ERR_FORMAT, qn_json_key_path(&r->json, path, "dtype"),
                        "got '%.20s', want f32 or i32", dtype);
  }
  const char *shape_path = qn_json_key_path(&r->json, path, "shape");
  QN_TRY(read_shape(r, qn_json_get(item, "shape"), shape_path, shape, &input.type.rank));
  for (int d = 0; d < input.type.rank; d++) {
    char *end;
    long long size = strtoll(shape[d], &end, 10);
    if (qn_template_parse_symbol(shape[d], &input.type.dims[d])) continue;
    if (*end) {
      input.sizes[d] = shape[d];
      continue;
    }
    if (size < 1 || size > INT32_MAX) {
      return qn_json_fail(&r->json, QN_ERR_FORMAT, qn_json_index_path(&r->json, shape_path, (size_t)d),
                          "got '%.40s', want a number, an expression or a symbol such as T", shape[d]);
    }
    input.type.dims[d] = qn_dim_const(size);
  }
  return add_input(r, input.path, &input);
}

// Each entry of the object under `key` through `read`.
static qn_status read_entries(reader *r, const cJSON *root, const char *key,
                              qn_status (*read)(reader *r, const cJSON *item, const char *path)) {
  const cJSON *object = qn_json_get(root, key), *child;
  if (!object) return QN_OK;
  QN_TRY(qn_json_object(&r->json, object, key, NULL));
  if (cJSON_GetArraySize(object) > MAX_ENTRIES) {
    return qn_json_fail(&r->json, QN_ERR_FORMAT, key, "got more than %d entries", MAX_ENTRIES);
  }
  cJSON_ArrayForEach(child, object) QN_TRY(read(r, child, qn_json_key_path(&r->json, key, child->string)));
  return QN_OK;
}

// --- statements

static qn_status read_list(reader *r, const cJSON *list, const char *path, int nesting, qn_statement_list *out);

static qn_status read_arg(reader *r, const cJSON *item, const char *path, qn_template_arg *arg) {
  const char *text;
  arg->path = qn_json_where(&r->json, path);
  if (cJSON_IsNumber(item)) return qn_json_expression(&r->json, item, path, &arg->constant);
  QN_TRY(qn_json_text(&r->json, item, path, &text));
  if (text[0] == '=') {
    arg->constant = text + 1 + strspn(text + 1, " ");
    return QN_OK;
  }
  size_t length = strlen(text);
  arg->optional = text[length - 1] == '?';
  if (arg->optional) length--;
  for (size_t at = 0; at <= length;) {
    size_t part = strcspn(text + at, "|");
    if (part > length - at) part = length - at;
    if (part == 0 || arg->name_count == (int)QN_COUNT(arg->names)) {
      return qn_json_fail(&r->json, QN_ERR_FORMAT, path,
                          "got '%.80s', want \"name\", \"name?\", \"a|b\" or \"= expression\"", text);
    }
    const char *name = qn_arena_strndup(r->json.arena, text + at, part);
    if (!name) return fail_nomem(r);
    arg->names[arg->name_count++] = name;
    at += part + 1;
  }
  return QN_OK;
}

static qn_status fail_attr(reader *r, const char *path, const qn_op_info *info) {
  qn_buf list;
  qn_buf_init(&list, r->json.arena->allocator);
  for (int id = 0; id < QN_ATTR_COUNT; id++) {
    if (id == QN_ATTR_LAYOUT || !((info->required_attrs | info->optional_attrs) & (1u << id))) continue;
    qn_buf_printf(&list, "%s%s", list.length ? ", " : "", qn_attr_name((qn_attr_id)id));
  }
  qn_status status = qn_json_fail(&r->json, QN_ERR_FORMAT, path, "%s has no such attribute, want %s", info->name,
                                  list.length ? qn_buf_text(&list) : "none");
  qn_buf_deinit(&list);
  return status;
}

static qn_status read_attr(reader *r, const cJSON *item, const char *path, const qn_op_info *info,
                           qn_template_attr *attr) {
  if (!qn_attr_parse(qn_str_from(item->string), &attr->id) ||
      !((info->required_attrs | info->optional_attrs) & (1u << attr->id)) || attr->id == QN_ATTR_LAYOUT) {
    return fail_attr(r, path, info);
  }
  attr->path = qn_json_where(&r->json, path);
  return qn_attr_get_kind(attr->id) == QN_AK_TEXT ? qn_json_text(&r->json, item, path, &attr->value)
                                                  : qn_json_expression(&r->json, item, path, &attr->value);
}

static qn_status read_op_name(reader *r, const cJSON *item, const char *path, qn_op *out) {
  const char *name = NULL, *op_path = qn_json_key_path(&r->json, path, "op");
  QN_TRY(qn_json_text(&r->json, qn_json_get(item, "op"), op_path, &name));
  if (!qn_op_parse(qn_str_from(name), out)) {
    return qn_json_fail(&r->json, QN_ERR_FORMAT, op_path, "got '%.40s', which is no op (ir/ops.def lists them)", name);
  }
  const char *instead = *out == QN_OP_PARAM      ? "list the weight under weights and use its name"
                        : *out == QN_OP_INPUT    ? "list the input under inputs and use its name"
                        : *out == QN_OP_CONST    ? "write the number as an argument"
                        : *out == QN_OP_QUANTIZE || *out == QN_OP_EXPERT_ORDER ? "the compiler adds it"
                                                                               : NULL;
  if (instead)
    return qn_json_fail(&r->json, QN_ERR_FORMAT, op_path, "got '%s', which is not written: %s", name, instead);
  return QN_OK;
}

static qn_status read_op(reader *r, const cJSON *item, const char *path, qn_statement *s) {
  static const char *const keys[] = {"set", "op", "args", "attrs", "shape", "dtype", "if", "note", NULL};
  s->kind = QN_STATEMENT_OP;
  QN_TRY(qn_json_object(&r->json, item, path, keys));
  QN_TRY(read_op_name(r, item, path, &s->op));
  QN_TRY(qn_json_text(&r->json, qn_json_get(item, "set"), qn_json_key_path(&r->json, path, "set"), &s->set));
  const cJSON *args = qn_json_get(item, "args"), *attrs = qn_json_get(item, "attrs"),
              *shape = qn_json_get(item, "shape");
  const cJSON *child;
  if (args) {
    const char *args_path = qn_json_key_path(&r->json, path, "args");
    QN_TRY(qn_json_array(&r->json, args, args_path, 0, QN_MAX_OPERANDS));
    cJSON_ArrayForEach(child, args) {
      const char *arg_path = qn_json_index_path(&r->json, args_path, (size_t)s->arg_count);
      QN_TRY(read_arg(r, child, arg_path, &s->args[s->arg_count++]));
    }
  }
  if (attrs) {
    const char *attrs_path = qn_json_key_path(&r->json, path, "attrs");
    QN_TRY(qn_json_object(&r->json, attrs, attrs_path, NULL));
    cJSON_ArrayForEach(child, attrs) {
      qn_template_attr attr = {0};
      QN_TRY(read_attr(r, child, qn_json_key_path(&r->json, attrs_path, child->string), qn_op_get_info(s->op), &attr));
      if (s->attr_count < QN_MAX_ATTRS) s->attrs[s->attr_count++] = attr;  // no op has more
    }
  }
  s->has_shape = shape != NULL;
  if (shape) QN_TRY(read_shape(r, shape, qn_json_key_path(&r->json, path, "shape"), s->shape, &s->rank));
  return qn_json_get_text(&r->json, item, path, "dtype", &s->dtype);
}

static qn_status read_repeat(reader *r, const cJSON *item, const char *path, int nesting, qn_statement *s) {
  static const char *const keys[] = {"repeat", "index", "label", "body", "if", "note", NULL};
  s->kind = QN_STATEMENT_REPEAT;
  QN_TRY(qn_json_object(&r->json, item, path, keys));
  QN_TRY(qn_json_get_expression(&r->json, item, path, "repeat", &s->count));
  QN_TRY(qn_json_text(&r->json, qn_json_get(item, "index"), qn_json_key_path(&r->json, path, "index"), &s->index));
  s->label = s->index;
  QN_TRY(qn_json_get_text(&r->json, item, path, "label", &s->label));
  return read_list(r, qn_json_get(item, "body"), qn_json_key_path(&r->json, path, "body"), nesting, &s->body);
}

static qn_status read_choice(reader *r, const cJSON *item, const char *path, int nesting, qn_statement *s) {
  static const char *const keys[] = {"if", "then", "else", "note", NULL};
  s->kind = QN_STATEMENT_CHOICE;
  QN_TRY(qn_json_object(&r->json, item, path, keys));
  QN_TRY(read_list(r, qn_json_get(item, "then"), qn_json_key_path(&r->json, path, "then"), nesting, &s->body));
  const cJSON *otherwise = qn_json_get(item, "else");
  if (!otherwise) return QN_OK;
  return read_list(r, otherwise, qn_json_key_path(&r->json, path, "else"), nesting, &s->otherwise);
}

static qn_status read_output(reader *r, const cJSON *item, const char *path, qn_statement *s) {
  static const char *const keys[] = {"output", "value", "if", "note", NULL};
  s->kind = QN_STATEMENT_OUTPUT;
  QN_TRY(qn_json_object(&r->json, item, path, keys));
  QN_TRY(qn_json_get_text(&r->json, item, path, "output", &s->output));
  return qn_json_text(&r->json, qn_json_get(item, "value"), qn_json_key_path(&r->json, path, "value"), &s->value);
}

static qn_status read_statement(reader *r, const cJSON *item, const char *path, int nesting, qn_statement *s) {
  s->path = qn_json_where(&r->json, path);
  QN_TRY(qn_json_object(&r->json, item, path, NULL));
  QN_TRY(qn_json_get_expression(&r->json, item, path, "if", &s->condition));
  if (qn_json_get(item, "op")) return read_op(r, item, path, s);
  if (qn_json_get(item, "repeat")) return read_repeat(r, item, path, nesting, s);
  if (qn_json_get(item, "output")) return read_output(r, item, path, s);
  if (qn_json_get(item, "if") && qn_json_get(item, "then")) return read_choice(r, item, path, nesting, s);
  return qn_json_fail(&r->json, QN_ERR_FORMAT, path, "want a statement with op, repeat, output, or if and then");
}

static qn_status read_list(reader *r, const cJSON *list, const char *path, int nesting, qn_statement_list *out) {
  QN_TRY(qn_json_array(&r->json, list, path, 0, MAX_STATEMENTS));
  if (nesting >= MAX_NESTING)
    return qn_json_fail(&r->json, QN_ERR_FORMAT, path, "nested more than %d deep", MAX_NESTING);
  const cJSON *child;
  cJSON_ArrayForEach(child, list) {
    if (++r->statements > MAX_STATEMENTS) {
      return qn_json_fail(&r->json, QN_ERR_FORMAT, path, "got more than %d statements in all", MAX_STATEMENTS);
    }
    qn_statement s = {0};
    QN_TRY(read_statement(r, child, qn_json_index_path(&r->json, path, out->count), nesting + 1, &s));
    if (!qn_vec_push_arena(r->json.arena, out, s)) return fail_nomem(r);
  }
  return QN_OK;
}

// --- the rest

static qn_status read_refusals(reader *r, const cJSON *root) {
  static const char *const keys[] = {"if", "message", "note", NULL};
  const cJSON *list = qn_json_get(root, "refuse"), *child;
  size_t i = 0;
  if (!list) return QN_OK;
  QN_TRY(qn_json_array(&r->json, list, "refuse", 0, MAX_ENTRIES));
  cJSON_ArrayForEach(child, list) {
    const char *path = qn_json_index_path(&r->json, "refuse", i++);
    qn_template_refusal refusal = {.path = qn_json_where(&r->json, path)};
    QN_TRY(qn_json_object(&r->json, child, path, keys));
    const char *if_path = qn_json_key_path(&r->json, path, "if");
    QN_TRY(qn_json_expression(&r->json, qn_json_get(child, "if"), if_path, &refusal.condition));
    const char *message_path = qn_json_key_path(&r->json, path, "message");
    QN_TRY(qn_json_text(&r->json, qn_json_get(child, "message"), message_path, &refusal.message));
    if (!qn_vec_push_arena(r->json.arena, &r->t->refusals, refusal)) return fail_nomem(r);
  }
  return QN_OK;
}

// A list of texts, appended to *out.
static qn_status read_texts(reader *r, const cJSON *list, const char *path, qn_text_list *out) {
  const cJSON *child;
  size_t i = 0;
  if (!list) return QN_OK;
  QN_TRY(qn_json_array(&r->json, list, path, 0, MAX_ENTRIES));
  cJSON_ArrayForEach(child, list) {
    const char *text;
    QN_TRY(qn_json_text(&r->json, child, qn_json_index_path(&r->json, path, i++), &text));
    if (!qn_vec_push_arena(r->json.arena, out, text)) return fail_nomem(r);
  }
  return QN_OK;
}

static qn_status read_ignored(reader *r, const cJSON *root) {
  static const char *const keys[] = {"keys", "weights", "note", NULL};
  const cJSON *ignore = qn_json_get(root, "ignore");
  if (!ignore) return QN_OK;
  QN_TRY(qn_json_object(&r->json, ignore, "ignore", keys));
  QN_TRY(read_texts(r, qn_json_get(ignore, "keys"), "ignore.keys", &r->t->ignored_keys));
  return read_texts(r, qn_json_get(ignore, "weights"), "ignore.weights", &r->t->ignored_weights);
}

static qn_status read_matches(reader *r, const cJSON *root) {
  for (int w = 0; w < QN_WORLD_COUNT; w++) {
    const cJSON *list = qn_json_get(root, world_names[w]);
    r->t->matches[w] = (qn_text_list){0};  // those of the template this one extends are not its own
    QN_TRY(read_texts(r, list, world_names[w], &r->t->matches[w]));
  }
  return QN_OK;
}

static qn_status read_graph(reader *r, const cJSON *root) {
  const cJSON *list = qn_json_get(root, "graph");
  if (!list && r->t->body.count) return QN_OK;  // inherited
  r->t->body = (qn_statement_list){0};
  return read_list(r, list, "graph", 0, &r->t->body);
}

// {"quern_template": 1, ...} or {"quern_graph": 1, ...}
static qn_status read_header(reader *r, const cJSON *root) {
  static const char *const template_keys[] = {"quern_template", "name",    "note",   "extends", "gguf",   "hf",
                                              "params",         "weights", "inputs", "refuse",  "ignore", "max_context",
                                              "start",          "graph",   NULL};
  static const char *const graph_keys[] = {"quern_graph", "name",   "note",        "params", "weights", "weights_file",
                                           "inputs",      "refuse", "max_context", "start",  "graph",   NULL};
  QN_TRY(qn_json_object(&r->json, root, "", NULL));
  const cJSON *graph = qn_json_get(root, "quern_graph");
  const cJSON *version = graph ? graph : qn_json_get(root, "quern_template");
  if (!version) {
    return qn_json_fail(&r->json, QN_ERR_FORMAT, "",
                        "got neither \"quern_template\": 1 nor \"quern_graph\": 1, want one");
  }
  double number = 0;
  const char *path = graph ? "quern_graph" : "quern_template";
  QN_TRY(qn_json_number(&r->json, version, path, &number));
  if (number != 1) {
    return qn_json_fail(&r->json, QN_ERR_UNSUPPORTED, path, "got version %g, want 1: this file is for a newer quern",
                        number);
  }
  r->t->is_graph = graph != NULL;
  return qn_json_object(&r->json, root, "", graph ? graph_keys : template_keys);
}

static qn_status read_text(reader *r, const char *text, size_t length, int depth);

static qn_status read_base(reader *r, const cJSON *root, int depth) {
  const char *name = NULL;
  QN_TRY(qn_json_get_text(&r->json, root, "", "extends", &name));
  if (!name) return add_runtime_inputs(r);  // once: by the template that extends no other
  const char *text = r->lookup ? r->lookup(name) : NULL;
  if (!text) return qn_json_fail(&r->json, QN_ERR_FORMAT, "extends", "there is no built-in template '%.40s'", name);
  if (depth == MAX_EXTENDS) {
    return qn_json_fail(&r->json, QN_ERR_FORMAT, "extends", "more than %d templates extend one another", MAX_EXTENDS);
  }
  reader base = *r;
  base.json.file = qn_arena_printf(r->json.arena, "%s.json", name);
  if (!base.json.file) return fail_nomem(r);
  return read_text(&base, text, strlen(text), depth + 1);
}

static qn_status read_root(reader *r, const cJSON *root, int depth) {
  QN_TRY(read_header(r, root));
  QN_TRY(read_base(r, root, depth));
  QN_TRY(qn_json_text(&r->json, qn_json_get(root, "name"), "name", &r->t->name));
  QN_TRY(read_matches(r, root));
  QN_TRY(read_entries(r, root, "params", read_param));
  QN_TRY(read_entries(r, root, "weights", read_weight));
  QN_TRY(read_entries(r, root, "inputs", read_input));
  QN_TRY(read_refusals(r, root));
  QN_TRY(read_ignored(r, root));
  QN_TRY(qn_json_get_expression(&r->json, root, "", "max_context", &r->t->max_context));
  if (qn_json_get(root, "max_context")) r->t->max_context_path = qn_json_where(&r->json, "max_context");
  QN_TRY(qn_json_get_expression(&r->json, root, "", "start", &r->t->start));
  if (qn_json_get(root, "start")) r->t->start_path = qn_json_where(&r->json, "start");
  QN_TRY(qn_json_get_text(&r->json, root, "", "weights_file", &r->t->weights_file));
  return read_graph(r, root);
}

static qn_status read_text(reader *r, const char *text, size_t length, int depth) {
  cJSON *root;
  QN_TRY(qn_json_parse(&r->json, text, length, &root));
  qn_status status = read_root(r, root, depth);
  cJSON_Delete(root);
  return status;
}

qn_status qn_template_read_matches(qn_text_list out[QN_WORLD_COUNT], const char *file, const char *text, size_t length,
                                   qn_arena *arena, qn_diag *diag) {
  cJSON *root;
  qn_template t = {.arena = arena, .file = file};
  reader r = {.json = {arena, file, diag}, .t = &t};
  QN_TRY(qn_json_parse(&r.json, text, length, &root));
  qn_status status = read_matches(&r, root);
  cJSON_Delete(root);
  memcpy(out, t.matches, sizeof t.matches);
  return status;
}

qn_status qn_template_parse(qn_template *out, const char *file, const char *text, size_t length,
                            qn_template_lookup_fn lookup, qn_arena *arena, qn_diag *diag) {
  *out = (qn_template){.arena = arena, .file = qn_arena_strdup(arena, file)};
  qn_map_init(&out->names, arena->allocator);
  if (!out->file) return qn_fail_nomem(diag, file, "a template");
  reader r = {.json = {arena, out->file, diag}, .t = out, .lookup = lookup};
  QN_TRY(read_text(&r, text, length, 0));
  return qn_template_check(out, diag);
}

void qn_template_deinit(qn_template *t) { qn_map_deinit(&t->names); }
