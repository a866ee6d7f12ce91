// Opening what `quern run` is given: an artifact as it is, a model file by way of the cache (quern_load).
#include "frontend/cli/run_open.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "frontend/cli/cli.h"
#include "frontend/cli/progress.h"
#include "frontend/cli/quant_table.h"

static int tell_artifact(const run_source *s, const char *path) {
  if (!s->out_artifact) return 0;
  *s->out_artifact = strdup(path);
  return *s->out_artifact ? 0 : cli_fail(QN_ERR_NOMEM, s->path, "out of memory for a path");
}

static quern_huge_pages huge_pages(const run_source *s) {
  const char *const words[] = {"madvise", "off", "thp", "hugetlb"};
  for (int i = 0; s->huge_pages && i <= QUERN_HUGE_PAGES_HUGETLB; i++) {
    if (strcmp(s->huge_pages, words[i]) == 0) return (quern_huge_pages)i;
  }
  return QUERN_HUGE_PAGES_MADVISE;
}

static quern_model_options model_options(const run_source *s, const char *target) {
  return (quern_model_options){
      .size = sizeof(quern_model_options),
      .target = target,
      .huge_pages = huge_pages(s),
      .device = s->device.name,
      .libcuda = s->device.libcuda,
  };
}

// Options that say how to compile make no sense for what is compiled.
static int open_artifact(const run_source *s, quern_model **out) {
  const struct {
    const char *name;
    bool given;
  } compiling[] = {{"--numeric", s->numeric},        {"--quant", s->quant}, {"--kv-type", s->kv_type},
                   {"--template", s->template_path}, {"--jit", s->jit},     {"--no-cache", s->no_cache}};
  for (size_t i = 0; i < QN_COUNT(compiling); i++) {
    if (!compiling[i].given) continue;
    return cli_fail(QN_ERR_ARGUMENT, compiling[i].name,
                    "is for model files, got the artifact %s; compile it so instead", s->path);
  }
  quern_error error = {0};
  bool host = s->target && strcmp(s->target, "host") == 0;
  quern_model_options options = model_options(s, host ? NULL : s->target);
  options.signed_by = s->signed_by;
  int code = (int)quern_model_open(s->path, &options, out, &error);
  return code == 0 ? tell_artifact(s, s->path) : cli_fail_with(code, &error);
}

static quern_compile_options compile_options(const run_source *s) {
  return (quern_compile_options){
      .size = sizeof(quern_compile_options),
      .target = s->target,
      .context_tokens = s->context,
      .numeric_mode = s->numeric,
      .quant = s->quant,
      .kv_type = s->kv_type,
      .kv_evict = s->kv_evict,
      .template_path = s->template_path,
      .threads = s->threads,
      .sequences = s->sequences,
      .all_logits = s->all_logits,
      .guesses = s->guesses,
      .tuning_db = s->tuning_db,
      .run_threads = quern_tuned_threads(s->tuning_db, s->run_threads),
  };
}

// One compilation's progress, and what it tells of quantised matrices.
typedef struct watch {
  cli_progress progress;
  cli_quant_table table;
  quern_tuning_use tuning;
  bool quiet;
} watch;

static quern_compile_options watched_options(const run_source *s, watch *w) {
  *w = (watch){.tuning.size = sizeof w->tuning, .quiet = s->quiet};
  cli_progress_init(&w->progress, s->quiet);
  quern_compile_options options = compile_options(s);
  options.progress = cli_progress_step;
  options.progress_context = &w->progress;
  options.quantized = cli_quant_table_add;
  options.quantized_context = &w->table;
  options.tuning_use = &w->tuning;
  return options;
}

// The exit code of a compilation that ended with `code`.
static int end_compile(const run_source *s, watch *w, int code, const quern_error *error) {
  cli_progress_end(&w->progress);
  if (code == 0 && !s->quiet) cli_quant_table_print(&w->table, false);
  if (code == 0 && !s->quiet) cli_tell_tuning(&w->tuning);
  cli_quant_table_free(&w->table);
  if (code == QN_ERR_CANCELLED && cli_interrupted()) return cli_interrupt_code();
  return code == 0 ? 0 : cli_fail_with(code, error);
}

static void remark(const run_source *s, const char *text, const char *path) {
  if (!s->quiet) fprintf(stderr, "quern: %s %s\n", text, path);
}

static int compile_to(const run_source *s, const char *path) {
  watch w;
  quern_error error = {0};
  quern_compile_options options = watched_options(s, &w);
  int code = quern_compile(s->path, path, &options, &error);
  return end_compile(s, &w, code, &error);
}

static int open_jit(const run_source *s, quern_model **out) {
  watch w;
  quern_error error = {0};
  remark(s, "compiling in memory:", s->path);
  quern_compile_options options = watched_options(s, &w);
  int code = quern_jit(s->path, &options, out, &error);
  return end_compile(s, &w, code, &error);
}

static int open_compiled(const run_source *s, const char *path, quern_model **out) {
  quern_error error = {0};
  quern_model_options options = model_options(s, NULL);
  int code = (int)quern_model_open(path, &options, out, &error);
  return code == 0 ? 0 : cli_fail_with(code, &error);
}

// By way of a file that nobody else sees and that is gone when this returns: the open model keeps its mapping.
static int open_uncached(const run_source *s, quern_model **out) {
  const char *base = getenv("TMPDIR");
  char folder[3072], path[4096];
  snprintf(folder, sizeof folder, "%s/quern-XXXXXX", base && *base ? base : "/tmp");
  if (!mkdtemp(folder)) return cli_fail(QN_ERR_IO, folder, "cannot create the folder: %s", strerror(errno));
  snprintf(path, sizeof path, "%s/model.qn", folder);
  remark(s, s->no_cache ? "compiling" : "compiling anew (graphs in JSON are not cached)", s->path);
  int code = compile_to(s, path);
  if (code == 0) code = open_compiled(s, path, out);
  unlink(path);
  rmdir(folder);
  return code;
}

// The library's remarks go where the program's go.
static void say(void *context, quern_log_level level, const char *text) {
  watch *w = context;
  if (w->quiet || level > QUERN_LOG_INFO) return;
  cli_progress_end(&w->progress);
  fprintf(stderr, "quern: %s%s\n", level <= QUERN_LOG_WARNING ? "warning: " : "", text);
}

static int open_cached(const run_source *s, quern_model **out) {
  watch w;
  char *path = NULL;
  quern_error error = {0};
  quern_compile_options options = watched_options(s, &w);
  quern_model_options how = model_options(s, NULL);
  int code = quern_cache_path(s->path, &options, &path, &error);
  if (code != 0) return end_compile(s, &w, code, &error);
  if (!path) return open_uncached(s, out);
  free(path);
  quern_log_set(say, &w);
  code = quern_load(s->path, &options, &how, out, &error);
  quern_log_set(NULL, NULL);
  code = end_compile(s, &w, code, &error);
  return code == 0 ? tell_artifact(s, quern_model_path(*out)) : code;
}

static int open_model_file(const run_source *s, quern_model **out_model) {
  if (s->jit && s->huge_pages) {
    return cli_fail(QN_ERR_ARGUMENT, "--huge-pages", "is for artifacts, which have a file; got --jit");
  }
  if (s->jit) return open_jit(s, out_model);
  return s->no_cache ? open_uncached(s, out_model) : open_cached(s, out_model);
}

static int open_any(const run_source *source, quern_model **out_model) {
  if (source->target && strchr(source->target, ',')) {
    return cli_fail(QN_ERR_ARGUMENT, "--target", "got '%s', want one target to run", source->target);
  }
  if (quern_is_artifact(source->path)) return open_artifact(source, out_model);
  if (source->signed_by) {
    return cli_fail(QN_ERR_ARGUMENT, "--require-signature", "is for artifacts, got the model file %s", source->path);
  }
  if (!source->device.name || source->target) return open_model_file(source, out_model);
  char target[64];  // the one that the device runs best
  quern_error error = {0};
  int code = (int)quern_gpu_target(source->device.info.chip, target, sizeof target, &error);
  if (code != 0) return cli_fail_with(code, &error);
  run_source with_target = *source;
  with_target.target = target;
  return open_model_file(&with_target, out_model);
}

int run_open(const run_source *source, quern_model **out_model) {
  int code = open_any(source, out_model);
  bool fits = source->any_kind || (code == 0 && (quern_model_embedding_size(*out_model) > 0) == source->encoder);
  if (code != 0 || fits) return code;
  quern_model_close(*out_model);
  *out_model = NULL;
  if (source->encoder) {
    return cli_fail(QN_ERR_UNSUPPORTED, source->path, "makes no embeddings, want an encoder (BERT and its like); quern run continues texts with a model that makes logits");
  }
  return cli_fail(QN_ERR_UNSUPPORTED, source->path, "is an encoder, which makes embeddings and no text; want quern embed");
}
