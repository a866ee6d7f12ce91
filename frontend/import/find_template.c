// Finds templates by architectures, and says what there is where none is found.
#include "frontend/import/find_template.h"

#include <string.h>

#include "frontend/import/import.h"
#include "runtime/base/file.h"

// Architectures that are no transformers, or not enough of one: no template can describe them. '*' is any characters.
static const struct {
  const char *pattern, *what;
} refused[] = {
    {"*rwkv*", "RWKV, a recurrent network"},
    {"*mamba*", "Mamba, a state space model"},
    {"jamba", "Jamba, which mixes attention with a state space model"},
    {"recurrent_gemma", "RecurrentGemma, which mixes attention with a recurrent network"},
};

const char *qn_builtin_template_text(const char *name) {
  size_t length = strlen(name);
  for (size_t i = 0; i < qn_builtin_template_count; i++) {
    const qn_builtin_template *builtin = &qn_builtin_templates[i];
    if (strncmp(builtin->name, name, length) == 0 && strcmp(builtin->name + length, ".json") == 0) return builtin->text;
  }
  return NULL;
}

static bool matches(const qn_text_list *lists, const qn_model_identity *model) {
  const qn_text_list *list = &lists[model->world];
  for (size_t i = 0; i < list->count; i++) {
    if (strcmp(list->items[i], model->architecture) == 0) return true;
  }
  return false;
}

static const char *list_item(const void *list, size_t i) { return ((const qn_text_list *)list)->items[i]; }

static qn_status fail_unknown(const qn_model_identity *model, const qn_text_list *known, qn_arena *arena,
                              qn_diag *diag) {
  for (size_t i = 0; i < QN_COUNT(refused); i++) {
    if (!qn_pattern_matches(refused[i].pattern, qn_str_from(model->architecture))) continue;
    return qn_fail(diag, QN_ERR_UNSUPPORTED, model->path,
                   "got the architecture '%.60s' (%s), want a transformer: quern does not compute such models",
                   model->architecture, refused[i].what);
  }
  qn_buf list;
  qn_buf_init(&list, arena->allocator);
  for (size_t i = 0; i < known->count; i++) qn_buf_printf(&list, "%s%s", i ? ", " : "", known->items[i]);
  const char *near = qn_nearest(model->architecture, known->count, list_item, known);
  qn_status status = qn_fail(diag, QN_ERR_UNSUPPORTED, model->path,
                             "got the architecture '%.60s', want one of %s%s%s%s; or describe it in a template of your own",
                             model->architecture, qn_buf_text(&list), near ? " (the nearest is " : "", near ? near : "",
                             near ? ")" : "");
  qn_buf_deinit(&list);
  return status;
}

// Parses the built-in template for the architecture.
static qn_status find_builtin(qn_template *out, const qn_model_identity *model, qn_arena *arena, qn_diag *diag) {
  qn_text_list known = {0};
  for (size_t i = 0; i < qn_builtin_template_count; i++) {
    const qn_builtin_template *builtin = &qn_builtin_templates[i];
    qn_text_list lists[QN_WORLD_COUNT];
    size_t length = strlen(builtin->text);
    QN_TRY(qn_template_read_matches(lists, builtin->name, builtin->text, length, arena, diag));
    if (matches(lists, model))
      return qn_template_parse(out, builtin->name, builtin->text, length, qn_builtin_template_text, arena, diag);
    const qn_text_list *list = &lists[model->world];
    for (size_t n = 0; n < list->count; n++) {
      if (!qn_vec_push_arena(arena, &known, list->items[n])) return qn_fail_nomem(diag, model->path, "names");
    }
  }
  return fail_unknown(model, &known, arena, diag);
}

qn_status qn_read_template(qn_template *out, const char *path, qn_arena *arena, qn_diag *diag) {
  char *text;
  size_t size;
  QN_TRY(qn_file_read(path, QN_TEXT_MAX, arena->allocator, &text, &size, diag));
  qn_status status = qn_template_parse(out, path, text, size, qn_builtin_template_text, arena, diag);
  qn_free(arena->allocator, text, size + 1);
  return status;
}

qn_status qn_find_template(qn_template *out, const qn_model_identity *model, const char *template_path, qn_arena *arena,
                           qn_diag *diag) {
  if (!template_path) return find_builtin(out, model, arena, diag);
  QN_TRY(qn_read_template(out, template_path, arena, diag));
  if (out->is_graph) {
    return qn_fail(diag, QN_ERR_ARGUMENT, template_path, "is a graph, want a template (\"quern_template\": 1)");
  }
  if (matches(out->matches, model)) return QN_OK;
  return qn_fail(diag, QN_ERR_ARGUMENT, template_path,
                 "is not for the architecture '%.60s' of %s; add it to the template's \"%s\" list if it is",
                 model->architecture, model->path, qn_world_name(model->world));
}
