// The file that joins the rooms: import → passes → code → artifact, or → JIT.
#include "frontend/quern.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "codegen/artifact_write.h"
#include "frontend/compile.h"
#include "frontend/import/gguf.h"
#include "frontend/import/import.h"
#include "frontend/import/vocab.h"
#include "passes/pass.h"
#include "runtime/base/hash.h"
#include "runtime/model.h"
#include "runtime/tokenizer.h"

#define QUERN_VERSION   "0.1.0"
#define DEFAULT_CHUNK   256
#define DEFAULT_CONTEXT 4096
#define MAX_TARGETS     8

const char *quern_version(void) { return QUERN_VERSION; }

static int give_error(quern_error *error, const qn_diag *diag, qn_status status) {
  if (error) {
    error->code = (int)status;
    snprintf(error->text, sizeof error->text, "%s", diag->text);
  }
  return (int)status;
}

// Everything one compilation holds. Zero-initialised, then filled from the top down.
typedef struct compilation {
  const qn_allocator *allocator;
  const quern_compile_options *options;
  qn_diag *diag;
  qn_arena arena;
  qn_import *import;
  qn_target targets[MAX_TARGETS];
  size_t target_count;
  int64_t context_tokens;
  qn_pass_options pass_options;
  qn_schedule schedule;
  qn_pass_context pass;
  const qn_lkernel **kernels;  // of all variants, in the artifact's order
  size_t kernel_count;
  qn_code codes[MAX_TARGETS];
  size_t code_count;
  qn_buf tokenizer, summary, graph_text, kernels_text;
} compilation;

static void compilation_init(compilation *c, const quern_compile_options *options, qn_diag *diag) {
  *c = (compilation){.allocator = qn_allocator_default(), .options = options, .diag = diag};
  qn_arena_init(&c->arena, c->allocator);
  qn_buf_init(&c->tokenizer, c->allocator);
  qn_buf_init(&c->summary, c->allocator);
  qn_buf_init(&c->graph_text, c->allocator);
  qn_buf_init(&c->kernels_text, c->allocator);
}

static void compilation_deinit(compilation *c) {
  for (size_t i = 0; i < c->code_count; i++) qn_code_deinit(&c->codes[i]);
  qn_buf_deinit(&c->tokenizer);
  qn_buf_deinit(&c->summary);
  qn_buf_deinit(&c->graph_text);
  qn_buf_deinit(&c->kernels_text);
  qn_import_close(c->import);
  qn_arena_deinit(&c->arena);
}

static qn_status report(compilation *c, const char *stage, uint64_t done, uint64_t total) {
  if (c->options->progress && !c->options->progress(c->options->progress_context, stage, done, total)) {
    return qn_fail(c->diag, QN_ERR_CANCELLED, "compile", "cancelled by the caller");
  }
  return QN_OK;
}

static bool pack_progress(void *context, uint64_t done, uint64_t total) {
  compilation *c = context;
  return !c->options->progress || c->options->progress(c->options->progress_context, "packing weights", done, total);
}

// "host,x86-64-v3" → targets.
static qn_status parse_targets(compilation *c) {
  const char *text = c->options->target ? c->options->target : "host";
  while (*text) {
    size_t length = strcspn(text, ",");
    char name[256];
    if (length == 0 || length >= sizeof name || c->target_count == MAX_TARGETS) {
      return qn_fail(c->diag, QN_ERR_ARGUMENT, "target", "got '%s', want 1 to %d target names with commas between them",
                     c->options->target, MAX_TARGETS);
    }
    memcpy(name, text, length);
    name[length] = 0;
    QN_TRY(qn_target_parse(name, &c->targets[c->target_count++], c->diag));
    text += length + (text[length] == ',');
  }
  return c->target_count ? QN_OK : qn_fail(c->diag, QN_ERR_ARGUMENT, "target", "got an empty list, want a target name");
}

static qn_status parse_kv_type(compilation *c, qn_dtype *out) {
  const char *text = c->options->kv_type ? c->options->kv_type : "f32";
  if (!qn_dtype_parse(qn_str_from(text), out) || !qn_dtype_is_float(*out)) {
    return qn_fail(c->diag, QN_ERR_ARGUMENT, "kv-type", "got '%s', want f32, f16 or bf16", text);
  }
  return QN_OK;
}

static qn_status set_pass_options(compilation *c) {
  const char *mode = c->options->numeric_mode ? c->options->numeric_mode : "int8";
  bool int8 = strcmp(mode, "int8") == 0;
  if (!int8 && strcmp(mode, "f32") != 0) {
    return qn_fail(c->diag, QN_ERR_ARGUMENT, "numeric-mode", "got '%s', want int8 or f32", mode);
  }
  // One program serves all targets of the artifact: schedules are chosen for the first.
  const qn_target *target = &c->targets[0];
  c->pass_options =
      (qn_pass_options){.quantize_activations = int8,
                        .hints = {target->vector_bytes, target->vector_registers, target->dot4 != QN_DOT4_PLAIN},
                        .dump = c->options->dump,
                        .dump_context = c->options->dump_context};
  if (c->options->schedule) {
    QN_TRY(qn_schedule_parse("schedule", qn_str_from(c->options->schedule), &c->schedule, c->diag));
    QN_TRY(qn_schedule_check(&c->schedule, c->diag));
    c->pass_options.forced_schedule = &c->schedule;
  }
  return QN_OK;
}

// Opens the model and takes it through every pass.
static qn_status run_frontend(compilation *c, const char *model_path) {
  QN_TRY(parse_targets(c));
  QN_TRY(set_pass_options(c));
  qn_import_graph_options graph_options = {.max_sequences = 1};
  QN_TRY(parse_kv_type(c, &graph_options.kv_dtype));
  QN_TRY(report(c, "reading the model", 0, 0));
  qn_import_options import_options = {.template_path = c->options->template_path};
  QN_TRY(qn_import_open(model_path, &import_options, c->allocator, &c->import, c->diag));
  int64_t own = qn_import_context(c->import);
  graph_options.context_tokens = c->options->context_tokens ? c->options->context_tokens : own ? own : DEFAULT_CONTEXT;
  graph_options.chunk_tokens = c->options->chunk_tokens ? c->options->chunk_tokens : DEFAULT_CHUNK;
  c->context_tokens = graph_options.context_tokens;
  if (graph_options.chunk_tokens > graph_options.context_tokens)
    graph_options.chunk_tokens = graph_options.context_tokens;
  graph_options.max_rows = c->options->all_logits ? graph_options.chunk_tokens : 1;
  qn_graph *graph = NULL;
  QN_TRY(qn_import_graph(c->import, &graph_options, &c->arena, &graph, c->diag));
  QN_TRY(qn_graph_verify(graph, QN_STAGE_IMPORTED, c->diag));
  QN_TRY(report(c, "optimising the graph", 0, 0));
  c->pass = (qn_pass_context){
      .arena = &c->arena, .allocator = c->allocator, .options = &c->pass_options, .graph = graph, .diag = c->diag};
  QN_TRY(qn_run_passes(&c->pass));
  c->kernels = qn_program_variants(c->pass.program, &c->kernel_count);
  return c->kernels ? QN_OK : qn_fail_nomem(c->diag, model_path, "the list of kernels");
}

static qn_codegen_options codegen_options(const compilation *c, const qn_target *target) {
  return (qn_codegen_options){.target = target,
                              .threads = c->options->threads,
                              .dump = c->options->dump,
                              .dump_context = c->options->dump_context};
}

static qn_status make_tokenizer(compilation *c) {
  qn_gguf *gguf = qn_import_gguf(c->import);
  if (!gguf || !qn_gguf_find(gguf, "tokenizer.ggml.model")) return QN_OK;
  qn_tokenizer_desc vocabulary;
  QN_TRY(qn_vocab_from_gguf(gguf, &c->arena, &vocabulary, c->diag));
  return qn_tokenizer_serialize(&vocabulary, c->allocator, &c->tokenizer, c->diag);
}

static qn_status make_texts(compilation *c, const char *model_path) {
  qn_buf *s = &c->summary;
  qn_buf_printf(s, "quern = %s\nmodel = %s\narchitecture = %s\nsource = %s\n", QUERN_VERSION,
                qn_import_model_name(c->import), qn_import_architecture(c->import), model_path);
  qn_buf_printf(s, "numeric_mode = %s\nkv_type = %s\n", c->pass_options.quantize_activations ? "int8" : "f32",
                c->options->kv_type ? c->options->kv_type : "f32");
  qn_buf_printf(s, "chunk_tokens = %" PRId64 "\ncontext_tokens = %" PRId64 "\n", c->pass.program->max_values[QN_SYM_T],
                c->context_tokens);
  for (size_t i = 0; i < c->target_count; i++) qn_buf_printf(s, "target = %s\n", c->targets[i].name);
  qn_import_describe(c->import, s);
  qn_graph_print(c->pass.graph, &c->graph_text);
  qn_program_print(c->pass.program, &c->kernels_text);
  for (size_t i = 0; i < c->pass.program->kernels.count; i++) {
    const qn_pkernel *kernel = &c->pass.program->kernels.items[i];
    for (int v = 0; v < kernel->variant_count; v++) {
      qn_buf_printf(&c->kernels_text, "\n# schedule of %s\n", kernel->variants[v].kernel->name);
      qn_schedule_print(&kernel->variants[v].schedule, &c->kernels_text);
    }
    qn_lkernel_print(kernel->plain, &c->kernels_text);
  }
  bool failed = s->failed || c->graph_text.failed || c->kernels_text.failed;
  return failed ? qn_fail_nomem(c->diag, model_path, "the artifact's texts") : QN_OK;
}

static qn_status write_artifact(compilation *c, const char *model_path, qn_file_writer *writer) {
  QN_TRY(make_tokenizer(c));
  QN_TRY(make_texts(c, model_path));
  qn_artifact_code codes[MAX_TARGETS];
  for (size_t i = 0; i < c->code_count; i++) codes[i] = (qn_artifact_code){&c->targets[i], &c->codes[i]};
  qn_weight_source weights = qn_import_weights(c->import);
  qn_artifact_spec spec = {.program = c->pass.program,
                           .weights = &weights,
                           .codes = codes,
                           .code_count = c->code_count,
                           .tokenizer = c->tokenizer.length ? c->tokenizer.data : NULL,
                           .tokenizer_size = c->tokenizer.length,
                           .summary = qn_buf_text(&c->summary),
                           .graph_text = qn_buf_text(&c->graph_text),
                           .kernels_text = qn_buf_text(&c->kernels_text),
                           .vocab_size = (uint32_t)qn_import_vocab_size(c->import),
                           .context_tokens = (uint32_t)c->context_tokens,
                           .progress = pack_progress,
                           .progress_context = c};
  return qn_artifact_write(writer, &spec, c->allocator, c->diag);
}

static qn_status compile_to_file(compilation *c, const char *model_path, const char *out_path) {
  QN_TRY(run_frontend(c, model_path));
  for (size_t i = 0; i < c->target_count; i++) {
    QN_TRY(report(c, "compiling kernels", i, c->target_count));
    qn_codegen_options options = codegen_options(c, &c->targets[i]);
    QN_TRY(qn_cpu_compile(c->kernels, c->kernel_count, &options, c->allocator, &c->codes[i], c->diag));
    c->code_count++;
  }
  qn_file_writer writer;
  QN_TRY(qn_file_writer_open(&writer, out_path, c->diag));
  qn_status status = write_artifact(c, model_path, &writer);
  if (status == QN_OK) status = report(c, "writing", 1, 1);
  if (status == QN_OK) status = qn_file_writer_commit(&writer);
  qn_file_writer_abandon(&writer);
  return status;
}

// Options of an older or newer caller: what lies beyond its size is zero.
static quern_compile_options own_options(const quern_compile_options *options) {
  quern_compile_options own = {.size = sizeof own};
  if (options) memcpy(&own, options, options->size < sizeof own ? options->size : sizeof own);
  return own;
}

int quern_compile(const char *model_path, const char *out_path, const quern_compile_options *options,
                  quern_error *error) {
  quern_compile_options own = own_options(options);
  qn_diag diag = {0};
  compilation c;
  compilation_init(&c, &own, &diag);
  qn_status status = compile_to_file(&c, model_path, out_path);
  compilation_deinit(&c);
  return give_error(error, &diag, status);
}

// --- JIT: the artifact lies in an anonymous memory file without code, which comes from LLJIT

typedef struct jit_owner {
  qn_jit *jit;
  qn_kernel_entry *entries;
  size_t count;
} jit_owner;

static void jit_owner_destroy(void *context) {
  jit_owner *owner = context;
  qn_jit_destroy(owner->jit);
  free(owner->entries);
  free(owner);
}

static qn_status link_jit(compilation *c, jit_owner *owner) {
  qn_codegen_options options = codegen_options(c, &c->targets[0]);
  QN_TRY(report(c, "compiling kernels", 0, 1));
  QN_TRY(qn_jit_create(c->kernels, c->kernel_count, &options, c->allocator, &owner->jit, c->diag));
  owner->entries = calloc(c->kernel_count, sizeof *owner->entries);
  if (!owner->entries) return qn_fail_nomem(c->diag, "jit", "kernel entries");
  owner->count = c->kernel_count;
  for (size_t i = 0; i < c->kernel_count; i++) owner->entries[i] = qn_jit_kernel(owner->jit, i);
  return QN_OK;
}

static qn_status compile_to_memory(compilation *c, const char *model_path, quern_model **out) {
  QN_TRY(run_frontend(c, model_path));
  jit_owner *owner = calloc(1, sizeof *owner);
  if (!owner) return qn_fail_nomem(c->diag, "jit", "a model");
  qn_status status = link_jit(c, owner);
  qn_file_writer writer;
  if (status == QN_OK) status = qn_file_writer_open_memory(&writer, model_path, c->diag);
  if (status != QN_OK) {
    jit_owner_destroy(owner);
    return status;
  }
  qn_mapping mapping = {0};
  status = write_artifact(c, model_path, &writer);
  if (status == QN_OK) status = qn_file_writer_commit(&writer);
  int fd = writer.fd;
  if (status == QN_OK) status = qn_mapping_open_fd(&mapping, fd, model_path, c->diag);
  if (status == QN_OK) {
    close(fd);  // the mapping keeps the memory
    qn_model_jit jit = {.entries = owner->entries,
                        .entry_count = owner->count,
                        .target = c->targets[0].name,
                        .owner = owner,
                        .destroy_owner = jit_owner_destroy};
    return qn_model_open_mapping(mapping, model_path, &jit, out, c->diag);  // takes mapping and owner in every case
  }
  qn_file_writer_abandon(&writer);
  jit_owner_destroy(owner);
  return status;
}

int quern_jit(const char *model_path, const quern_compile_options *options, quern_model **out, quern_error *error) {
  quern_compile_options own = own_options(options);
  qn_diag diag = {0};
  compilation c;
  compilation_init(&c, &own, &diag);
  qn_status status = compile_to_memory(&c, model_path, out);
  compilation_deinit(&c);
  return give_error(error, &diag, status);
}

// --- files and the cache

bool quern_is_artifact(const char *path) {
  char magic[8] = {0};
  FILE *file = fopen(path, "rb");
  if (!file) return false;
  bool is = fread(magic, 1, sizeof magic, file) == sizeof magic && memcmp(magic, QN_ARTIFACT_MAGIC, sizeof magic) == 0;
  fclose(file);
  return is;
}

static void hash_text(qn_hasher *hasher, const char *text) {
  qn_hasher_update(hasher, text ? text : "", text ? strlen(text) + 1 : 1);
}

// A template is small and edited often: its content counts, not its name.
static qn_status hash_file(qn_hasher *hasher, const char *path, qn_diag *diag) {
  char *text = NULL;
  size_t size = 0;
  QN_TRY(qn_file_read(path, qn_allocator_default(), &text, &size, diag));
  qn_hasher_update(hasher, text, size);
  qn_free(qn_allocator_default(), text, size + 1);
  return QN_OK;
}

static qn_status cache_path(const char *model_path, const quern_compile_options *o, char **out, qn_diag *diag) {
  struct stat info;
  char *real = realpath(model_path, NULL);
  if (!real || stat(real, &info) != 0) {
    free(real);
    return qn_fail(diag, QN_ERR_IO, model_path, "cannot be read: %m; check the path");
  }
  qn_target host;
  qn_status status = qn_target_parse(o->target ? o->target : "host", &host, diag);
  if (status != QN_OK) {
    free(real);
    return status;
  }
  qn_hasher hasher;
  qn_hasher_init(&hasher, QN_ARTIFACT_VERSION);
  const char *texts[] = {QUERN_VERSION, quern_build_id(), real,       host.name, o->numeric_mode,
                         o->kv_type,    o->schedule};
  for (size_t i = 0; i < QN_COUNT(texts); i++) hash_text(&hasher, texts[i]);
  if (o->template_path && (status = hash_file(&hasher, o->template_path, diag)) != QN_OK) {
    free(real);
    return status;
  }
  int64_t numbers[] = {info.st_size,      info.st_mtim.tv_sec, info.st_mtim.tv_nsec, (int64_t)info.st_ino,
                       o->context_tokens, o->chunk_tokens,     o->all_logits};
  qn_hasher_update(&hasher, numbers, sizeof numbers);
  const char *base = strrchr(real, '/') + 1, *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  qn_buf path;
  qn_buf_init(&path, qn_allocator_default());
  if (xdg && *xdg) {
    qn_buf_printf(&path, "%s/quern", xdg);
  } else if (home && *home) {
    qn_buf_printf(&path, "%s/.cache/quern", home);
  } else {
    status = qn_fail(diag, QN_ERR_IO, "cache",
                     "got neither XDG_CACHE_HOME nor HOME, want one; or use quern compile -o FILE");
  }
  if (status == QN_OK) status = qn_make_directories(qn_buf_text(&path), diag);
  qn_buf_printf(&path, "/%s-%016" PRIx64 ".qn", base, qn_hasher_final(&hasher));
  if (status == QN_OK && !(*out = path.failed ? NULL : strdup(qn_buf_text(&path))))
    status = qn_fail_nomem(diag, "cache", "a path");
  qn_buf_deinit(&path);
  free(real);
  return status;
}

int quern_cache_path(const char *model_path, const quern_compile_options *options, char **out_path,
                     quern_error *error) {
  quern_compile_options own = own_options(options);
  qn_diag diag = {0};
  return give_error(error, &diag, cache_path(model_path, &own, out_path, &diag));
}

const char *quern_targets(void) {
  static qn_buf text;  // filled once; lives as long as the process
  if (!text.data) {
    qn_buf_init(&text, qn_allocator_default());
    qn_target_list(&text);
  }
  return qn_buf_text(&text);
}
