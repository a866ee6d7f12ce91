// Compiled models that are kept: their names, made of everything they depend on, and opening one, compiled first where
// it is not there. Several processes may do so at once: an artifact appears by a rename, and who finds another one
// compiling it waits for that.
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "frontend/cache.h"
#include "frontend/compilation.h"
#include "frontend/compile.h"
#include "frontend/import/model_files.h"
#include "runtime/base/hash.h"
#include "runtime/base/log.h"
#include "runtime/cpu_features.h"

// --- names

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

// What an artifact depends on beside the model, with the defaults in place of what is not given.
static qn_status hash_options(qn_hasher *hasher, const quern_compile_options *o, qn_diag *diag) {
  const qn_format *quant = NULL;
  if (o->quant) QN_TRY(qn_requantize_parse(o->quant, &quant, diag));
  QN_TRY(hash_targets(hasher, o->target, diag));
  const char *texts[] = {QUERN_VERSION,
                         quern_build_id(),
                         o->numeric_mode ? o->numeric_mode : QUERN_DEFAULT_NUMERIC,
                         o->kv_type ? o->kv_type : QUERN_DEFAULT_KV_TYPE,
                         o->schedule,
                         quant ? quant->name : NULL,
                         o->tuning_db,
                         o->sign_key,
                         o->kv_evict && strcmp(o->kv_evict, "none") != 0 ? o->kv_evict : NULL};
  for (size_t i = 0; i < QN_COUNT(texts); i++) hash_text(hasher, texts[i]);
  if (o->template_path) QN_TRY(hash_file(hasher, o->template_path, diag));
  int64_t numbers[] = {o->context_tokens, o->chunk_tokens, o->all_logits, o->sequences ? o->sequences : 1,
                       o->run_threads, o->guesses};
  qn_hasher_update(hasher, numbers, sizeof numbers);
  return QN_OK;
}

// The files of the model, by their identities: their contents are too large to be read for this. They may be links that
// stand beside each other only in this path's folder.
static qn_status hash_model(qn_hasher *hasher, const char *model, qn_model_kind kind, qn_diag *diag) {
  qn_arena arena;
  qn_path_list files;
  qn_arena_init(&arena, qn_allocator_default());
  qn_status status = qn_model_files(model, kind, &arena, &files, diag);
  for (size_t i = 0; status == QN_OK && i < files.count; i++) {
    struct stat info;
    if (stat(files.items[i], &info) != 0) {
      status = qn_fail(diag, QN_ERR_IO, files.items[i], "cannot be read: %m; check the path");
      break;
    }
    int64_t numbers[] = {info.st_size, info.st_mtim.tv_sec, info.st_mtim.tv_nsec, (int64_t)info.st_ino};
    size_t shared = kind == QN_MODEL_FOLDER ? strlen(model) : 0;
    const char *name = files.items[i] + shared, *slash = strrchr(name, '/');
    if (files.count > 1) hash_text(hasher, shared || !slash ? name : slash + 1);  // one alone may be a link
    qn_hasher_update(hasher, numbers, sizeof numbers);
  }
  qn_arena_deinit(&arena);
  return status;
}

// The artifact's path by what the hasher has taken, in the folder, which is there then. What of the name may be part of
// a file's stays: a file name may have 255 bytes, of which the writer's temporary one wants some more.
static qn_status put_path(const char *name, const qn_hasher *hasher, char **out, qn_diag *diag) {
  qn_buf path;
  qn_buf_init(&path, qn_allocator_default());
  qn_status status = quern_cache_folder_make(&path, diag);
  qn_buf_putc(&path, '/');
  for (size_t i = 0; i < 100 && name[i]; i++) qn_buf_putc(&path, name[i] == '/' ? '_' : name[i]);
  qn_buf_printf(&path, "-%016" PRIx64 ".qn", qn_hasher_final(hasher));
  if (status == QN_OK && !(*out = path.failed ? NULL : strdup(qn_buf_text(&path))))
    status = qn_fail_nomem(diag, "cache", "a path");
  qn_buf_deinit(&path);
  return status;
}

static qn_status cache_path(const char *model_path, const quern_compile_options *o, char **out, qn_diag *diag) {
  qn_model_kind kind;
  qn_hasher hasher;
  char *real = realpath(model_path, NULL);
  if (!real) return qn_fail(diag, QN_ERR_IO, model_path, "cannot be read: %m; check the path");
  if (qn_recognise(real, &kind, NULL) != QN_OK || kind == QN_MODEL_JSON) {
    free(real);
    return QN_OK;
  }
  qn_hasher_init(&hasher, QN_ARTIFACT_VERSION);
  hash_text(&hasher, real);
  qn_status status = hash_model(&hasher, model_path, kind, diag);
  if (status == QN_OK) status = hash_options(&hasher, o, diag);
  if (status == QN_OK) status = put_path(strrchr(real, '/') + 1, &hasher, out, diag);
  free(real);
  return status;
}

// Of a graph that was built in code: what it is, and its weights' bytes.
static qn_status graph_path(const quern_graph *graph, const quern_compile_options *o, char **out, qn_diag *diag) {
  qn_hasher hasher;
  QN_TRY(quern_built_check(graph, o, diag));
  qn_hasher_init(&hasher, QN_ARTIFACT_VERSION + 1);  // no model file's
  QN_TRY(quern_built_hash(graph, &hasher, diag));
  QN_TRY(hash_options(&hasher, o, diag));
  return put_path(quern_built_name(graph), &hasher, out, diag);
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

// --- opening

typedef struct loading {
  const char *model_path;    // or the graph's name
  const quern_graph *built;  // NULL = a model file
  char *path;                // owned: of the artifact
  const quern_compile_options *compile;
  const quern_model_options *open;
  quern_model **out;
  quern_error error;  // of the public functions that this calls
} loading;

// Takes what is in the cache; *l->out stays NULL when it has to be compiled.
static int open_cached(loading *l) {
  if (!quern_cache_has(l->path)) return 0;
  const char *why = NULL;
  if (!quern_cache_is_current(l->path, l->compile, &why)) {
    qn_log(QN_LOG_INFO, "%s since it was cached: %s", why, l->path);
    return 0;
  }
  int code = (int)quern_model_open(l->path, l->open, l->out, &l->error);
  if (code == QN_OK) {
    qn_log(QN_LOG_INFO, "from the cache: %s", l->path);
    quern_cache_touch(l->path);
  } else if (code == QN_ERR_FORMAT || code == QN_ERR_UNSUPPORTED) {
    qn_log(QN_LOG_WARNING, "the cached artifact cannot be used: %s", l->error.text);
    unlink(l->path);
    code = 0;
  } else if (code == QN_ERR_IO && access(l->path, F_OK) != 0) {
    code = 0;  // somebody has deleted it meanwhile
  }
  return code;
}

static int compile(loading *l) {
  const char *target = l->compile->target ? l->compile->target : "host";
  qn_log(QN_LOG_INFO, "compiling %s for %s, to be cached at %s", l->model_path, target, l->path);
  int code = l->built ? quern_graph_compile(l->built, l->path, l->compile, &l->error)
                      : quern_compile(l->model_path, l->path, l->compile, &l->error);
  if (code == 0) code = (int)quern_model_open(l->path, l->open, l->out, &l->error);
  if (code == 0) quern_cache_hold_limit(l->path);
  return code;
}

// A lock that other processes compiling the same hold until they are done. -1 where the file system has none: then both
// compile. Waiting ends when the caller's progress says so (*out_cancelled).
static int lock(const loading *l, const char *path, bool *out_waited, bool *out_cancelled) {
  const quern_compile_options *o = l->compile;
  int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return -1;
  while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) break;
    if (!*out_waited) qn_log(QN_LOG_INFO, "another process is compiling it: waiting");
    *out_waited = true;
    nanosleep(&(struct timespec){.tv_nsec = 50 * 1000 * 1000}, NULL);
    if (o->progress && !o->progress(o->progress_context, "waiting for another process", 0, 0)) {
      *out_cancelled = true;
      break;
    }
  }
  return fd;
}

static int compile_once(loading *l, qn_diag *diag) {
  bool waited = false, cancelled = false;
  size_t size = strlen(l->path) + sizeof ".lock";
  char *path = malloc(size);
  if (!path) return (int)qn_fail_nomem(diag, "cache", "a path");
  snprintf(path, size, "%s.lock", l->path);
  int code = 0, fd = lock(l, path, &waited, &cancelled);
  if (cancelled) code = (int)qn_fail(diag, QN_ERR_CANCELLED, "compile", "cancelled by the caller");
  if (code == 0 && waited) code = open_cached(l);
  if (code == 0 && !*l->out) code = compile(l);
  if (fd >= 0) {
    if (!cancelled) unlink(path);
    close(fd);
  }
  free(path);
  return code;
}

// Gives what is at l->path, compiled where it has to be.
static int load(loading *l, quern_error *error) {
  qn_diag diag = {0};
  int code = open_cached(l);
  if (code == 0 && !*l->out) code = compile_once(l, &diag);
  free(l->path);
  if (code != 0 && diag.status == QN_OK) {  // the text is that of the function that failed
    if (error) *error = l->error;
    return code;
  }
  return quern_give_error(error, &diag, (qn_status)code);
}

int quern_load(const char *model_path, const quern_compile_options *compile_options,
               const quern_model_options *open_options, quern_model **out, quern_error *error) {
  quern_compile_options own;
  qn_diag diag = {0};
  *out = NULL;
  loading l = {.model_path = model_path, .compile = &own, .open = open_options, .out = out};
  qn_status status = quern_own_options(compile_options, &own, &diag);
  if (status == QN_OK) status = cache_path(model_path, &own, &l.path, &diag);
  if (status == QN_OK && !l.path) {
    status = qn_fail(&diag, QN_ERR_UNSUPPORTED, model_path,
                     "is not cached, got neither a GGUF file nor a model's folder; use quern_compile or quern_jit");
  }
  return status == QN_OK ? load(&l, error) : quern_give_error(error, &diag, status);
}

int quern_graph_load(const quern_graph *graph, const quern_compile_options *options, const quern_model_options *open,
                     quern_model **out, quern_error *error) {
  quern_compile_options own;
  qn_diag diag = {0};
  *out = NULL;
  loading l = {.model_path = quern_built_name(graph), .built = graph, .compile = &own, .open = open, .out = out};
  qn_status status = quern_own_options(options, &own, &diag);
  if (status == QN_OK) status = graph_path(graph, &own, &l.path, &diag);
  return status == QN_OK ? load(&l, error) : quern_give_error(error, &diag, status);
}
