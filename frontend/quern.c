// The file that joins the rooms: import → passes → code → artifact, or → JIT.
#include "frontend/quern.h"

#include <ctype.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "frontend/compilation.h"
#include "frontend/compile.h"
#include "frontend/kernel_facts.h"
#include "runtime/base/hash.h"
#include "runtime/cpu_features.h"
#include "runtime/model.h"

const char *quern_version(void) { return QUERN_VERSION; }

int quern_give_error(quern_error *error, const qn_diag *diag, qn_status status) {
  if (error) {
    error->code = (int)status;
    snprintf(error->text, sizeof error->text, "%s", diag->text);
  }
  return (int)status;
}

// One program serves all targets of the artifact; its kernels' variants are each target's own. The passes have run for
// the first target; for the others `schedule` runs again on what was lowered. Targets whose schedules are the same
// share a plan.
static qn_status make_plans(quern_compilation *c, bool again) {
  c->plan_count = 0;
  for (size_t i = 0; i < c->target_count; i++) {
    if (i > 0 || again) {
      quern_compilation_take_target(c, i);
      QN_TRY(qn_run_pass(&c->pass, "schedule"));
    }
    qn_program_plan *plan = &c->plans[c->plan_count];
    QN_TRY(qn_program_plan_take(c->pass.program, plan, c->diag));
    size_t at = 0;
    while (!qn_program_plan_equal(c->pass.program, &c->plans[at], plan)) at++;  // at the latest with itself
    c->plan_of[i] = at;
    c->plan_count += at == c->plan_count;
  }
  return QN_OK;
}

// Opens the model and takes it through every pass.
static qn_status run_frontend(quern_compilation *c, const char *model_path) {
  QN_TRY(quern_compilation_open(c, model_path));
  QN_TRY(qn_run_passes(&c->pass));
  if (c->options->dump) QN_TRY(quern_dump_cuda(c));
  return make_plans(c, false);
}

static qn_codegen_options codegen_options(const quern_compilation *c, const qn_target *target) {
  return (qn_codegen_options){.target = target,
                              .threads = c->options->threads,
                              .dump = c->options->dump,
                              .dump_context = c->options->dump_context};
}

// A line of the summary, whose value may come from anybody.
static void put_value(qn_buf *s, const char *key, const char *value) {
  qn_buf_printf(s, "%s = ", key);
  qn_put_one_line(s, qn_str_from(value));
  qn_buf_putc(s, '\n');
}

// Every plan with the targets that it is for and the schedules of its variants.
static void put_schedules(quern_compilation *c) {
  qn_buf *out = &c->kernels_text;
  for (size_t p = 0; p < c->plan_count; p++) {
    qn_buf_printf(out, "\n# plan %zu:", p);
    for (size_t i = 0; i < c->target_count; i++)
      if (c->plan_of[i] == p) qn_buf_printf(out, " %s", c->targets[i].name);
    qn_buf_putc(out, '\n');
    for (size_t i = 0; i < c->target_count; i++)
      if (c->plan_of[i] == p) qn_buf_append(out, qn_buf_text(&c->evidence[i]), c->evidence[i].length);
    for (size_t i = 0; i < c->pass.program->kernels.count; i++) {
      const qn_pkernel *kernel = &c->plans[p].kernels[i];
      for (int v = 0; v < kernel->variant_count; v++) {
        qn_buf_printf(out, "\n# plan %zu, schedule of %s\n", p, kernel->variants[v].kernel->name);
        qn_schedule_print(&kernel->variants[v].schedule, out);
      }
    }
  }
}

// What the records say of this program's kernels: 0 when out of memory, which makes a cached artifact a stale one.
static uint64_t tuning_state(const quern_compilation *c) {
  const qn_program *program = c->pass.program;
  const char **signatures = qn_alloc(c->allocator, (program->kernels.count + 1) * sizeof *signatures);
  if (!signatures) return 0;
  for (size_t i = 0; i < program->kernels.count; i++) signatures[i] = program->kernels.items[i].signature;
  uint64_t state = quern_tuned_state(&c->tuned, signatures, program->kernels.count);
  qn_free(c->allocator, signatures, (program->kernels.count + 1) * sizeof *signatures);
  return state;
}

static qn_status make_texts(quern_compilation *c, const char *model_path) {
  qn_buf *s = &c->summary;
  put_value(s, "quern", QUERN_VERSION);
  put_value(s, "model", qn_import_model_name(c->import));
  put_value(s, "architecture", qn_import_architecture(c->import));
  put_value(s, "source", model_path);
  put_value(s, "numeric_mode", c->pass_options.quantize_activations ? "int8" : "f32");
  put_value(s, "kv_type", c->options->kv_type ? c->options->kv_type : QUERN_DEFAULT_KV_TYPE);
  if (c->quantize.format) put_value(s, "quantised_to", c->quantize.format->name);
  qn_buf_printf(s, "chunk_tokens = %" PRId64 "\ncontext_tokens = %" PRId64 "\n", c->pass.program->max_values[QN_SYM_T],
                c->context_tokens);
  for (size_t i = 0; i < c->target_count; i++) qn_buf_printf(s, "target = %s\n", c->targets[i].name);
  uint64_t tuning = tuning_state(c);
  if (tuning > QUERN_TUNED_NOTHING) qn_buf_printf(s, "tuning = %016" PRIx64 "\n", tuning);
  qn_import_describe(c->import, s);
  quern_put_cost(c->pass.graph, c->pass.program, s);
  qn_graph_print(c->pass.graph, &c->graph_text);
  qn_program_print(c->pass.program, &c->kernels_text);
  put_schedules(c);
  quern_put_kernels(c->pass.graph, c->pass.program, &c->kernels_text);
  bool failed = s->failed || c->graph_text.failed || c->kernels_text.failed;
  return failed ? qn_fail_nomem(c->diag, model_path, "the artifact's texts") : QN_OK;
}

static qn_status write_artifact(quern_compilation *c, const char *model_path, qn_file_writer *writer) {
  QN_TRY(make_texts(c, model_path));
  qn_artifact_code codes[QUERN_MAX_TARGETS];
  for (size_t i = 0; i < c->code_count; i++)
    codes[i] = (qn_artifact_code){&c->targets[i], &c->codes[i], (uint32_t)c->plan_of[i]};
  qn_weight_source weights = qn_import_weights(c->import);
  qn_artifact_spec spec = {.program = c->pass.program,
                           .weights = &weights,
                           .plans = c->plans,
                           .plan_count = c->plan_count,
                           .codes = codes,
                           .code_count = c->code_count,
                           .tokenizer = c->tokenizer.length ? c->tokenizer.data : NULL,
                           .tokenizer_size = c->tokenizer.length,
                           .summary = qn_buf_text(&c->summary),
                           .graph_text = qn_buf_text(&c->graph_text),
                           .kernels_text = qn_buf_text(&c->kernels_text),
                           .vocab_size = (uint32_t)qn_import_vocab_size(c->import),
                           .context_tokens = (uint32_t)c->context_tokens,
                           .progress = quern_compilation_pack_progress,
                           .progress_context = c};
  return qn_artifact_write(writer, &spec, c->allocator, c->diag);
}

// Chooses schedules anew after records were found not to serve: code made so far is dropped.
static qn_status choose_again(quern_compilation *c) {
  for (size_t i = 0; i < c->code_count; i++) qn_code_deinit(&c->codes[i]);
  c->code_count = 0;
  c->tuned.chooser.counts = (qn_plan_counts){0};
  for (size_t i = 0; i < c->target_count; i++) c->evidence[i].length = 0;
  return make_plans(c, true);
}

static void report_tuning(const quern_compilation *c) {
  if (c->options->tuning_use) quern_tuned_report(&c->tuned, c->options->tuning_use);
}

static qn_status compile_targets(quern_compilation *c) {
  for (size_t i = 0; i < c->target_count; i++) {
    QN_TRY(quern_compilation_report(c, "compiling kernels", i, c->target_count));
    qn_codegen_options options = codegen_options(c, &c->targets[i]);
    const qn_program_plan *plan = &c->plans[c->plan_of[i]];
    QN_TRY(qn_cpu_compile(plan->functions, plan->function_count, &options, c->allocator, &c->codes[i], c->diag));
    c->code_count++;
  }
  return QN_OK;
}

// Code for all targets. Schedules that another build found are checked by their code now, and given up where it is wrong,
// each for good: the second round has none of those of the first.
static qn_status compile_kernels(quern_compilation *c) {
  for (bool again = true; again;) {
    QN_TRY(compile_targets(c));
    again = false;
    for (size_t i = 0; i < c->target_count; i++) {
      bool denied = false;
      QN_TRY(quern_tuned_recheck_code(&c->tuned, &c->targets[i], c->pass.program, &c->plans[c->plan_of[i]], &c->codes[i],
                                      &denied, c->diag));
      again = again || denied;
    }
    if (again) QN_TRY(choose_again(c));
  }
  report_tuning(c);
  return QN_OK;
}

// A slip of the hand must not cost a model, a template or anything else that cannot be made again.
static qn_status check_output(const char *path, qn_diag *diag) {
  struct stat info;
  char head[8];
  if (!*path) return qn_fail(diag, QN_ERR_ARGUMENT, "output", "got an empty name, want the name of a file to write");
  if (stat(path, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size == 0 || quern_is_artifact(path)) return QN_OK;
  size_t length = quern_file_head(path, head, sizeof head);
  for (size_t i = 0; i < length; i++) head[i] = isprint((unsigned char)head[i]) ? head[i] : '.';
  return qn_fail(diag, QN_ERR_ARGUMENT, path,
                 "is there already and no artifact (it begins with '%.*s'); delete it or choose another name",
                 (int)length, head);
}

static qn_status compile_to_file(quern_compilation *c, const char *model_path, const char *out_path) {
  QN_TRY(check_output(out_path, c->diag));
  QN_TRY(run_frontend(c, model_path));
  qn_file_writer writer;  // opened before the long work, which a folder that is closed would make vain
  QN_TRY(qn_file_writer_open(&writer, out_path, c->diag));
  qn_status status = compile_kernels(c);
  if (status == QN_OK) status = write_artifact(c, model_path, &writer);
  if (status == QN_OK) status = quern_compilation_report(c, "writing", 1, 1);
  if (status == QN_OK) status = qn_file_writer_commit(&writer);
  qn_file_writer_abandon(&writer);
  return status;
}

int quern_compile(const char *model_path, const char *out_path, const quern_compile_options *options,
                  quern_error *error) {
  quern_compile_options own;
  qn_diag diag = {0};
  quern_compilation c;
  qn_status status = quern_own_options(options, &own, &diag);
  quern_compilation_init(&c, &own, &diag);
  if (status == QN_OK) status = compile_to_file(&c, model_path, out_path);
  quern_compilation_deinit(&c);
  return quern_give_error(error, &diag, status);
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

static qn_status link_jit_once(quern_compilation *c, jit_owner *owner, bool *out_again) {
  qn_codegen_options options = codegen_options(c, &c->targets[0]);
  QN_TRY(quern_compilation_report(c, "compiling kernels", 0, 1));
  const qn_program_plan *plan = &c->plans[0];
  QN_TRY(qn_jit_create(plan->functions, plan->function_count, &options, c->allocator, &owner->jit, c->diag));
  owner->entries = calloc(plan->function_count, sizeof *owner->entries);
  if (!owner->entries) return qn_fail_nomem(c->diag, "jit", "kernel entries");
  owner->count = plan->function_count;
  for (size_t i = 0; i < owner->count; i++) owner->entries[i] = qn_jit_kernel(owner->jit, i);
  return quern_tuned_recheck(&c->tuned, &c->targets[0], c->pass.program, plan, owner->entries, out_again, c->diag);
}

static qn_status link_jit(quern_compilation *c, jit_owner *owner) {
  for (bool again = true; again;) {
    QN_TRY(link_jit_once(c, owner, &again));
    if (!again) break;
    qn_jit_destroy(owner->jit);
    free(owner->entries);
    *owner = (jit_owner){0};
    QN_TRY(choose_again(c));
  }
  report_tuning(c);
  return QN_OK;
}

static qn_status compile_to_memory(quern_compilation *c, const char *model_path, quern_model **out) {
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
  if (status == QN_OK) {
    status = qn_mapping_open_fd(&mapping, writer.fd, model_path, c->diag);
    close(writer.fd);  // the mapping keeps the memory
  }
  if (status == QN_OK) {
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
  quern_compile_options own;
  qn_diag diag = {0};
  quern_compilation c;
  *out = NULL;
  qn_status status = quern_own_options(options, &own, &diag);
  quern_compilation_init(&c, &own, &diag);
  if (status == QN_OK) status = compile_to_memory(&c, model_path, out);
  quern_compilation_deinit(&c);
  return quern_give_error(error, &diag, status);
}

// --- files and the cache

size_t quern_file_head(const char *path, char *out, size_t size) {
  struct stat info;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return 0;
  ssize_t count = fstat(fd, &info) == 0 && S_ISREG(info.st_mode) ? read(fd, out, size) : 0;
  close(fd);
  return count > 0 ? (size_t)count : 0;
}

bool quern_is_artifact(const char *path) {
  char magic[8];
  return quern_file_head(path, magic, sizeof magic) == sizeof magic &&
         memcmp(magic, QN_ARTIFACT_MAGIC, sizeof magic) == 0;
}

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
  if (text && strcmp(text, "host") != 0) {
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

// What the artifact depends on, with the defaults in place of what is not given.
static qn_status hash_compilation(const char *model, const struct stat *info, const quern_compile_options *o,
                                  uint64_t *out, qn_diag *diag) {
  qn_hasher hasher;
  const qn_format *quant = NULL;
  if (o->quant) QN_TRY(qn_requantize_parse(o->quant, &quant, diag));
  qn_hasher_init(&hasher, QN_ARTIFACT_VERSION);
  QN_TRY(hash_target(&hasher, o->target, diag));
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

static qn_status put_cache_folder(qn_buf *path, qn_diag *diag) {
  const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  if (xdg && *xdg) {
    qn_buf_printf(path, "%s/quern", xdg);
  } else if (home && *home) {
    qn_buf_printf(path, "%s/.cache/quern", home);
  } else {
    return qn_fail(diag, QN_ERR_IO, "cache",
                   "got neither XDG_CACHE_HOME nor HOME, want one; or use quern compile -o FILE");
  }
  return path->failed ? qn_fail_nomem(diag, "cache", "a path") : qn_make_directories(qn_buf_text(path), diag);
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

const char *quern_quant_formats(void) {
  static qn_buf text;
  if (!text.data) {
    qn_buf_init(&text, qn_allocator_default());
    qn_requantize_list(&text);
  }
  return qn_buf_text(&text);
}

const char *quern_targets(void) {
  static qn_buf text;  // filled once; lives as long as the process
  if (!text.data) {
    qn_buf_init(&text, qn_allocator_default());
    qn_target_list(&text);
  }
  return qn_buf_text(&text);
}
