// The user's cache: where it is, and under which name a model lies in it that is compiled with some options.
#include "frontend/cache.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "frontend/compilation.h"
#include "frontend/compile.h"
#include "runtime/base/hash.h"
#include "runtime/cpu_features.h"

static void hash_text(qn_hasher *hasher, const char *text) {
  qn_hasher_update(hasher, text ? text : "", text ? strlen(text) + 1 : 1);
}

// A template is small and edited often: its content counts, not its name.
static qn_status hash_file(qn_hasher *hasher, const char *path, qn_diag *diag) {
  char *text = NULL;
  size_t size = 0;
  QN_TRY(qn_file_read(path, QN_TEXT_MAX, qn_allocator_default(), &text, &size, diag));
  qn_hasher_update(hasher, text, size);
  qn_free(qn_allocator_default(), text, size + 1);
  return QN_OK;
}

// The target's canonical name. Of this machine's own its features instead, which are known without LLVM: a run from the
// cache does not load it.
static qn_status hash_target(qn_hasher *hasher, const char *text, qn_diag *diag) {
  qn_target target;
  if (strcmp(text, "host") != 0) {
    QN_TRY(qn_target_parse(text, &target, diag));
    hash_text(hasher, target.name);
    return QN_OK;
  }
  const char *name;
  hash_text(hasher, qn_cpu_arch_name(qn_cpu_arch()));
  for (size_t i = 0; (name = qn_cpu_feature_name(i)) != NULL; i++) {
    if (qn_cpu_has(name)) hash_text(hasher, name);
  }
  return QN_OK;
}

static qn_status hash_targets(qn_hasher *hasher, const char *list, qn_diag *diag) {
  for (const char *at = list ? list : "host"; *at;) {
    size_t length = strcspn(at, ",");
    char *name = strndup(at, length);
    if (!name) return qn_fail_nomem(diag, "cache", "a target");
    qn_status status = hash_target(hasher, name, diag);
    free(name);
    QN_TRY(status);
    at += length + (at[length] == ',');
  }
  return QN_OK;
}

// What the artifact depends on, with the defaults in place of what is not given.
static qn_status hash_compilation(const char *model, const struct stat *info, const quern_compile_options *o,
                                  uint64_t *out, qn_diag *diag) {
  qn_hasher hasher;
  const qn_format *quant = NULL;
  if (o->quant) QN_TRY(qn_requantize_parse(o->quant, &quant, diag));
  qn_hasher_init(&hasher, QN_ARTIFACT_VERSION);
  QN_TRY(hash_targets(&hasher, o->target, diag));
  const char *texts[] = {QUERN_VERSION,
                         quern_build_id(),
                         model,
                         o->numeric_mode ? o->numeric_mode : QUERN_DEFAULT_NUMERIC,
                         o->kv_type ? o->kv_type : QUERN_DEFAULT_KV_TYPE,
                         o->schedule,
                         quant ? quant->name : NULL,
                         o->tuning_db};
  for (size_t i = 0; i < QN_COUNT(texts); i++) hash_text(&hasher, texts[i]);
  if (o->template_path) QN_TRY(hash_file(&hasher, o->template_path, diag));
  int64_t numbers[] = {info->st_size,         info->st_mtim.tv_sec,
                       info->st_mtim.tv_nsec, (int64_t)info->st_ino,
                       o->context_tokens,     o->chunk_tokens ? o->chunk_tokens : QUERN_DEFAULT_CHUNK,
                       o->all_logits,         o->sequences ? o->sequences : 1};
  qn_hasher_update(&hasher, numbers, sizeof numbers);
  *out = qn_hasher_final(&hasher);
  return QN_OK;
}

bool quern_cache_folder(const char *inside, qn_buf *path) {
  const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  if (xdg && *xdg) {
    qn_buf_printf(path, "%s/quern", xdg);
  } else if (home && *home) {
    qn_buf_printf(path, "%s/.cache/quern", home);
  } else {
    return false;
  }
  if (*inside) qn_buf_printf(path, "/%s", inside);
  return !path->failed;
}

static qn_status put_cache_folder(qn_buf *path, qn_diag *diag) {
  if (quern_cache_folder("", path)) return qn_make_directories(qn_buf_text(path), diag);
  if (path->failed) return qn_fail_nomem(diag, "cache", "a path");
  return qn_fail(diag, QN_ERR_IO, "cache",
                 "got neither XDG_CACHE_HOME nor HOME, want one; or use quern compile -o FILE");
}

static qn_status cache_path(const char *model_path, const quern_compile_options *o, char **out, qn_diag *diag) {
  struct stat info;
  char head[4];
  uint64_t hash = 0;
  char *real = realpath(model_path, NULL);
  if (!real || stat(real, &info) != 0) {
    free(real);
    return qn_fail(diag, QN_ERR_IO, model_path, "cannot be read: %m; check the path");
  }
  if (quern_file_head(real, head, sizeof head) != sizeof head || memcmp(head, "GGUF", sizeof head) != 0) {
    free(real);
    return QN_OK;
  }
  qn_buf path;
  qn_buf_init(&path, qn_allocator_default());
  qn_status status = hash_compilation(real, &info, o, &hash, diag);
  if (status == QN_OK) status = put_cache_folder(&path, diag);
  // A file name may have 255 bytes, of which the writer's temporary one wants some more.
  qn_buf_printf(&path, "/%.100s-%016" PRIx64 ".qn", strrchr(real, '/') + 1, hash);
  if (status == QN_OK && !(*out = path.failed ? NULL : strdup(qn_buf_text(&path))))
    status = qn_fail_nomem(diag, "cache", "a path");
  qn_buf_deinit(&path);
  free(real);
  return status;
}

int quern_cache_path(const char *model_path, const quern_compile_options *options, char **out_path,
                     quern_error *error) {
  quern_compile_options own;
  qn_diag diag = {0};
  *out_path = NULL;
  qn_status status = quern_own_options(options, &own, &diag);
  if (status == QN_OK) status = cache_path(model_path, &own, out_path, &diag);
  return quern_give_error(error, &diag, status);
}
