// Looks into a model's folder. Names decide: config.json, model.safetensors or its index, else the one safetensors file.
#include "frontend/import/hf_folder.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "frontend/import/hf_modules.h"

// Files that hold a model in a form that is refused, in the order of what is told first. `what` is said of the file.
static const struct {
  const char *ending, *what;
} foreign[] = {
    {".gguf", "is a GGUF file: compile that file itself"},
    {".bin", "is a PyTorch checkpoint, a pickle, which runs code when it is read; want safetensors files "
             "(save_pretrained of transformers writes them from it)"},
    {".pth", "is a PyTorch checkpoint, a pickle, which runs code when it is read; want safetensors files "
             "(save_pretrained of transformers writes them from it)"},
    {".pt", "is a PyTorch checkpoint, a pickle, which runs code when it is read; want safetensors files "
            "(save_pretrained of transformers writes them from it)"},
    {".ckpt", "is a checkpoint of PyTorch or TensorFlow; want safetensors files (save_pretrained of transformers)"},
    {".onnx", "is an ONNX model; want the safetensors files of the model that it was made from"},
    {".h5", "is a TensorFlow checkpoint; want safetensors files (save_pretrained of transformers)"},
    {".msgpack", "is a Flax checkpoint; want safetensors files (save_pretrained of transformers)"},
    {".npz", "is an archive of NumPy; want safetensors files"},
};

// What was seen in the folder; names are the arena's.
typedef struct listing {
  const char *foreign[QN_COUNT(foreign)];  // the first of each kind, by name
  QN_VEC(const char *) safetensors;
  const char *sentence_config;  // sentence_bert_config.json, or of another name
  bool config, adapter, single, index, modules;
} listing;

static bool ends_with(const char *text, const char *ending) {
  size_t length = strlen(text), tail = strlen(ending);
  return length > tail && strcmp(text + length - tail, ending) == 0;
}

static qn_status note_file(listing *seen, const char *name, qn_arena *arena, qn_diag *diag) {
  seen->config |= strcmp(name, "config.json") == 0;
  seen->adapter |= strcmp(name, "adapter_config.json") == 0;
  seen->single |= strcmp(name, "model.safetensors") == 0;
  seen->index |= strcmp(name, "model.safetensors.index.json") == 0;
  seen->modules |= strcmp(name, "modules.json") == 0;
  bool first = !seen->sentence_config || strcmp(name, seen->sentence_config) < 0;  // by name
  if (first && strncmp(name, "sentence_", 9) == 0 && ends_with(name, "_config.json")) {
    seen->sentence_config = qn_arena_strdup(arena, name);
    if (!seen->sentence_config) return qn_fail_nomem(diag, name, "a name");
  }
  bool ours = ends_with(name, ".safetensors");
  const char *copy = NULL;
  for (size_t i = 0; i < QN_COUNT(foreign); i++) {
    if (!ends_with(name, foreign[i].ending) || strcmp(name, "training_args.bin") == 0) continue;
    if (seen->foreign[i] && strcmp(seen->foreign[i], name) < 0) continue;
    if (!(copy = qn_arena_strdup(arena, name))) return qn_fail_nomem(diag, name, "a name");
    seen->foreign[i] = copy;
  }
  if (!ours) return QN_OK;
  if (!(copy = qn_arena_strdup(arena, name)) || !qn_vec_push_arena(arena, &seen->safetensors, copy)) {
    return qn_fail_nomem(diag, name, "a name");
  }
  return QN_OK;
}

static int by_name(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

static qn_status list_folder(const char *path, listing *seen, qn_arena *arena, qn_diag *diag) {
  *seen = (listing){0};
  DIR *folder = opendir(path);
  if (!folder) return qn_fail(diag, QN_ERR_IO, path, "cannot be listed: %s; check the path", strerror(errno));
  qn_status status = QN_OK;
  for (const struct dirent *entry; status == QN_OK && (entry = readdir(folder)) != NULL;) {
    status = note_file(seen, entry->d_name, arena, diag);
  }
  closedir(folder);
  if (seen->safetensors.count) qsort(seen->safetensors.items, seen->safetensors.count, sizeof(const char *), by_name);
  return status;
}

static const char *join(qn_arena *arena, const char *folder, const char *name) {
  return qn_arena_printf(arena, "%s%s%s", folder, ends_with(folder, "/") ? "" : "/", name);
}

// What to say of a folder that has none of what we want; `wanted` is what is missing.
static qn_status fail_foreign(const qn_hf_model *model, const listing *seen, const char *wanted, qn_diag *diag) {
  for (size_t i = 0; i < QN_COUNT(foreign); i++) {
    if (!seen->foreign[i]) continue;
    return qn_fail(diag, QN_ERR_UNSUPPORTED, model->name, "has no %s; '%.100s' in it %s", wanted, seen->foreign[i],
                   foreign[i].what);
  }
  return qn_fail(diag, QN_ERR_FORMAT, model->name,
                 "has no %s; want a model's folder: config.json, its weights in safetensors files, and its tokenizer's "
                 "files",
                 wanted);
}

// ---- opening -----------------------------------------------------------------------------------------------------

// The files of weights in a folder.
static qn_status open_weights(qn_hf_model *model, const listing *seen, qn_arena *arena, qn_diag *diag) {
  const char *name = seen->single  ? "model.safetensors"
                     : seen->index ? "model.safetensors.index.json"
                     : seen->safetensors.count ? seen->safetensors.items[0]
                                               : NULL;
  if (!name) return fail_foreign(model, seen, "weights in safetensors files", diag);
  if (!seen->single && !seen->index && seen->safetensors.count > 1) {
    return qn_fail(diag, QN_ERR_FORMAT, model->name,
                   "has %zu safetensors files ('%.100s', ...), but neither model.safetensors nor "
                   "model.safetensors.index.json, which says which of them are the model's; get the index, or give one "
                   "file's path",
                   seen->safetensors.count, name);
  }
  const char *path = join(arena, model->folder, name);
  if (!path) return qn_fail_nomem(diag, model->name, "a path");
  return seen->index && !seen->single ? qn_safetensors_open_index(&model->files, path, arena->allocator, diag)
                                      : qn_safetensors_open(&model->files, path, arena->allocator, diag);
}

// One of several files has not all of the model.
static qn_status refuse_shard(const char *path, const listing *seen, qn_diag *diag) {
  const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
  if (!seen->index || !strstr(name, "-of-")) return QN_OK;
  return qn_fail(diag, QN_ERR_ARGUMENT, path,
                 "is one of several files of a model (model.safetensors.index.json lists them); give the folder");
}

static qn_status open_config(qn_hf_model *model, const listing *seen, qn_arena *arena, qn_diag *diag) {
  if (!seen->config && seen->adapter) {
    return qn_fail(diag, QN_ERR_UNSUPPORTED, model->name,
                   "is an adapter (adapter_config.json), which quern does not apply; merge it into the model that it is "
                   "for (merge_and_unload of peft) and compile that");
  }
  if (!seen->config) return fail_foreign(model, seen, "config.json", diag);
  const char *path = join(arena, model->folder, "config.json");
  if (!path) return qn_fail_nomem(diag, model->name, "a path");
  QN_TRY(qn_hf_config_open(&model->config, path, arena, diag));
  if (!seen->modules) return QN_OK;
  const char *first = seen->sentence_config ? join(arena, model->folder, seen->sentence_config) : NULL;
  if (seen->sentence_config && !first) return qn_fail_nomem(diag, model->name, "a path");
  return qn_hf_modules_read(&model->config, model->folder, first, diag);
}

qn_status qn_hf_model_open(qn_hf_model *out, const char *path, qn_arena *arena, qn_diag *diag) {
  struct stat info;
  listing seen;
  *out = (qn_hf_model){.name = qn_arena_strdup(arena, path)};
  qn_map_init(&out->config.index, arena->allocator);
  bool is_folder = stat(path, &info) == 0 && S_ISDIR(info.st_mode);
  const char *slash = strrchr(path, '/');
  out->folder = is_folder          ? out->name
                : slash && slash > path ? qn_arena_strndup(arena, path, (size_t)(slash - path))
                                   : slash ? "/" : ".";
  if (!out->name || !out->folder) return qn_fail_nomem(diag, path, "its name");
  QN_TRY(list_folder(out->folder, &seen, arena, diag));
  if (!is_folder) QN_TRY(refuse_shard(path, &seen, diag));
  QN_TRY(open_config(out, &seen, arena, diag));
  return is_folder ? open_weights(out, &seen, arena, diag)
                   : qn_safetensors_open(&out->files, path, arena->allocator, diag);
}

void qn_hf_model_close(qn_hf_model *model) {
  qn_hf_config_deinit(&model->config);
  qn_safetensors_close(model->files);
  *model = (qn_hf_model){0};
}
