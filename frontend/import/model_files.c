// Lists a model's files.
#include "frontend/import/model_files.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool is_ours(const char *name) {
  static const char *const endings[] = {".json", ".safetensors", ".model", ".txt", ".jinja"};
  size_t length = strlen(name);
  for (size_t i = 0; i < QN_COUNT(endings); i++) {
    size_t tail = strlen(endings[i]);
    if (length > tail && strcmp(name + length - tail, endings[i]) == 0) return true;
  }
  return false;
}

static qn_status add(qn_path_list *list, qn_arena *arena, const char *folder, const char *name, qn_diag *diag) {
  const char *path = folder ? qn_arena_printf(arena, "%s/%s", folder, name) : qn_arena_strdup(arena, name);
  if (path && qn_vec_push_arena(arena, list, path)) return QN_OK;
  return qn_fail_nomem(diag, name, "the list of files");
}

static int by_name(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

// A folder of sentence-transformers' modules has config.json in folders of its own.
static qn_status add_module(qn_path_list *list, qn_arena *arena, const char *folder, const char *name, qn_diag *diag) {
  const char *file = qn_arena_printf(arena, "%s/config.json", name);
  const char *path = file ? qn_arena_printf(arena, "%s/%s", folder, file) : NULL;
  if (!path) return qn_fail_nomem(diag, name, "the list of files");
  return access(path, F_OK) == 0 ? add(list, arena, folder, file, diag) : QN_OK;
}

static qn_status list_folder(const char *folder, qn_arena *arena, qn_path_list *out, qn_diag *diag) {
  DIR *entries = opendir(folder);
  if (!entries) return qn_fail(diag, QN_ERR_IO, folder, "cannot be listed: %s; check the path", strerror(errno));
  qn_status status = QN_OK;
  for (const struct dirent *entry; status == QN_OK && (entry = readdir(entries)) != NULL;) {
    if (is_ours(entry->d_name)) status = add(out, arena, folder, entry->d_name, diag);
    if (*entry->d_name != '.' && status == QN_OK) status = add_module(out, arena, folder, entry->d_name, diag);
  }
  closedir(entries);
  if (out->count) qsort(out->items, out->count, sizeof *out->items, by_name);
  return status;
}

// The other parts of a split GGUF model, whose first part's name ends in "-00001-of-00003.gguf".
static qn_status add_parts(const char *path, qn_arena *arena, qn_path_list *out, qn_diag *diag) {
  enum { TAIL_BYTES = 20 };
  size_t length = strlen(path), count = 0;
  int end = 0;
  if (length <= TAIL_BYTES || sscanf(path + length - TAIL_BYTES, "-00001-of-%5zu.gguf%n", &count, &end) != 1) return QN_OK;
  for (size_t i = 2; end == TAIL_BYTES && i <= count; i++) {
    const char *part = qn_arena_printf(arena, "%.*s-%05zu-of-%05zu.gguf", (int)(length - TAIL_BYTES), path, i, count);
    if (!part) return qn_fail_nomem(diag, path, "the path of a part");
    if (access(part, F_OK) != 0) return QN_OK;  // the importer says so
    QN_TRY(add(out, arena, NULL, part, diag));
  }
  return QN_OK;
}

qn_status qn_model_files(const char *path, qn_model_kind kind, qn_arena *arena, qn_path_list *out, qn_diag *diag) {
  const char *slash = strrchr(path, '/');
  *out = (qn_path_list){0};
  if (kind == QN_MODEL_FOLDER) return list_folder(path, arena, out, diag);
  if (kind == QN_MODEL_SAFETENSORS) {
    const char *folder = slash ? qn_arena_strndup(arena, path, (size_t)(slash - path)) : ".";
    QN_TRY(folder ? list_folder(*folder ? folder : "/", arena, out, diag) : qn_fail_nomem(diag, path, "its folder"));
  }
  QN_TRY(add(out, arena, NULL, path, diag));
  return kind == QN_MODEL_GGUF ? add_parts(path, arena, out, diag) : QN_OK;
}
