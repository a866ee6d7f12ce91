// modules.json and its modules' files as keys of the model's configuration.
#include "frontend/import/hf_modules.h"

#include <string.h>

#include "frontend/import/json.h"
#include "runtime/base/file.h"

enum { MAX_MODULES = 64 };

typedef struct modules {
  qn_hf_config *config;
  qn_json json;  // of modules.json
  const char *folder, *sentence_config;
} modules;

// "sentence_transformers.models.Pooling" → "Pooling".
static const char *kind_of(const char *type) {
  const char *dot = strrchr(type, '.');
  return dot ? dot + 1 : type;
}

// A module's path is below the model's folder.
static bool stays_within(const char *path) { return path[0] != '/' && !strstr(path, ".."); }

static qn_status read_module(modules *m, const cJSON *item, int64_t place) {
  const char *path = qn_json_index_path(&m->json, "", (size_t)place), *type = NULL;
  QN_TRY(qn_json_object(&m->json, item, path, NULL));
  QN_TRY(qn_json_get_text(&m->json, item, path, "type", &type));
  const cJSON *at = qn_json_get(item, "path");  // empty where it is the model's folder itself
  const char *within = cJSON_IsString(at) ? at->valuestring : NULL;
  if (!type || !within) return qn_json_fail(&m->json, QN_ERR_FORMAT, path, "has no type or path, want a module's");
  if (!stays_within(within)) {
    return qn_json_fail(&m->json, QN_ERR_FORMAT, path, "got the path '%.100s', want one below the folder", within);
  }
  const char *prefix = qn_arena_printf(m->json.arena, "modules.%s", kind_of(type));
  const char *file =
      *within ? qn_arena_printf(m->json.arena, "%s/%s/config.json", m->folder, within) : m->sentence_config;
  const char *key = prefix ? qn_arena_printf(m->json.arena, "%s.place", prefix) : NULL;
  if (!key || (*within && !file)) return qn_fail_nomem(m->json.diag, m->json.file, "a module");
  QN_TRY(qn_hf_config_add_number(m->config, m->json.file, key, (double)place, m->json.diag));
  if (!file || !qn_file_is_there(file)) return QN_OK;  // it has nothing to say
  return qn_hf_config_add_file(m->config, file, prefix, m->json.diag);
}

static qn_status read_modules(modules *m, const cJSON *root) {
  const cJSON *item;
  int64_t place = 0;
  QN_TRY(qn_json_array(&m->json, root, "", 0, MAX_MODULES));
  cJSON_ArrayForEach(item, root) QN_TRY(read_module(m, item, place++));
  return QN_OK;
}

qn_status qn_hf_modules_read(qn_hf_config *config, const char *folder, const char *sentence_config, qn_diag *diag) {
  qn_arena *arena = config->arena;
  const char *file = qn_arena_printf(arena, "%s/modules.json", folder);
  char *text;
  size_t size;
  cJSON *root;
  if (!file) return qn_fail_nomem(diag, folder, "a path");
  QN_TRY(qn_file_read(file, QN_TEXT_MAX, arena->allocator, &text, &size, diag));
  modules m = {config, {arena, file, diag}, folder, sentence_config};
  qn_status status = qn_json_parse(&m.json, text, size, &root);
  qn_free(arena->allocator, text, size + 1);
  QN_TRY(status);
  status = read_modules(&m, root);
  cJSON_Delete(root);
  return status;
}
