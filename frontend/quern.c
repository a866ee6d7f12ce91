// The file that joins the rooms: import → passes → code → artifact, or → JIT.
#include "frontend/quern.h"

#include <ctype.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "frontend/compilation.h"
#include "frontend/compile.h"
#include "runtime/model.h"

const char *quern_version(void) { return QUERN_VERSION; }

int quern_give_error(quern_error *error, const qn_diag *diag, qn_status status) {
  if (error) {
    error->code = (int)status;
    snprintf(error->text, sizeof error->text, "%s", diag->text);
  }
  return (int)status;
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
  if (c->options->sign_key) QN_TRY(qn_signing_key_read(c->options->sign_key, c->allocator, &c->key, c->diag));
  c->has_key = c->options->sign_key != NULL;
  QN_TRY(quern_compilation_open(c, model_path));
  QN_TRY(quern_make_plans(c));
  qn_file_writer writer;  // opened before the long work, which a folder that is closed would make vain
  QN_TRY(qn_file_writer_open(&writer, out_path, c->diag));
  qn_status status = quern_compile_code(c);
  if (status == QN_OK) status = quern_write_artifact(c, model_path, &writer, true);
  if (status == QN_OK) status = quern_compilation_report(c, "writing", 1, 1);
  if (status == QN_OK) status = qn_file_writer_commit(&writer);
  qn_file_writer_abandon(&writer);
  return status;
}

static int compile(const char *model_path, const quern_graph *built, const char *out_path,
                   const quern_compile_options *options, quern_error *error) {
  quern_compile_options own;
  qn_diag diag = {0};
  quern_compilation c;
  qn_status status = quern_own_options(options, &own, &diag);
  quern_compilation_init(&c, &own, &diag);
  c.built = built;
  if (status == QN_OK) status = compile_to_file(&c, model_path, out_path);
  quern_compilation_deinit(&c);
  return quern_give_error(error, &diag, status);
}

int quern_compile(const char *model_path, const char *out_path, const quern_compile_options *options,
                  quern_error *error) {
  return compile(model_path, NULL, out_path, options, error);
}

int quern_graph_compile(const quern_graph *graph, const char *out_path, const quern_compile_options *options,
                        quern_error *error) {
  return compile(quern_built_name(graph), graph, out_path, options, error);
}

// --- JIT: the artifact lies in an anonymous memory file without code, which comes from LLJIT

typedef struct jit_owner {
  qn_allocator allocator;  // of the JIT, which outlives the compilation
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
  qn_codegen_options options = quern_codegen_options(c, &c->targets[0]);
  QN_TRY(quern_compilation_report(c, "compiling kernels", 0, 1));
  const qn_program_plan *plan = &c->parts[0].plans[0];
  qn_status status =
      qn_jit_create(plan->functions, plan->function_count, &options, &owner->allocator, &owner->jit, c->diag);
  if (status != QN_OK) return quern_blame_records(c, 0, status, out_again);
  owner->entries = calloc(plan->function_count, sizeof *owner->entries);
  if (!owner->entries) return qn_fail_nomem(c->diag, "jit", "kernel entries");
  owner->count = plan->function_count;
  for (size_t i = 0; i < owner->count; i++) owner->entries[i] = qn_jit_kernel(owner->jit, i);
  return quern_tuned_recheck(&c->tuned, &c->targets[0], c->parts[0].pass.program, plan, owner->entries, out_again,
                             c->diag);
}

static qn_status link_jit(quern_compilation *c, jit_owner *owner) {
  for (;;) {
    bool again = false;
    QN_TRY(link_jit_once(c, owner, &again));
    if (!again) break;
    qn_jit_destroy(owner->jit);
    free(owner->entries);
    *owner = (jit_owner){.allocator = *c->allocator};
    QN_TRY(quern_choose_again(c));
  }
  quern_report_tuning(c);
  return QN_OK;
}

static qn_status compile_to_memory(quern_compilation *c, const char *model_path, quern_model **out) {
  QN_TRY(quern_compilation_open(c, model_path));
  QN_TRY(quern_compilation_need_cpus(c, "the JIT makes code"));
  QN_TRY(quern_make_plans(c));
  jit_owner *owner = calloc(1, sizeof *owner);
  if (!owner) return qn_fail_nomem(c->diag, "jit", "a model");
  owner->allocator = *c->allocator;
  qn_status status = link_jit(c, owner);
  qn_file_writer writer;
  if (status == QN_OK) status = qn_file_writer_open_memory(&writer, model_path, c->diag);
  if (status != QN_OK) {
    jit_owner_destroy(owner);
    return status;
  }
  qn_mapping mapping = {0};
  status = quern_write_artifact(c, model_path, &writer, false);
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
    // Takes mapping and owner in every case.
    return qn_model_open_mapping(mapping, model_path, &jit, c->allocator, out, c->diag);
  }
  qn_file_writer_abandon(&writer);
  jit_owner_destroy(owner);
  return status;
}

static int jit(const char *model_path, const quern_graph *built, const quern_compile_options *options,
               quern_model **out, quern_error *error) {
  quern_compile_options own;
  qn_diag diag = {0};
  quern_compilation c;
  *out = NULL;
  qn_status status = quern_own_options(options, &own, &diag);
  quern_compilation_init(&c, &own, &diag);
  c.built = built;
  if (status == QN_OK) status = compile_to_memory(&c, model_path, out);
  quern_compilation_deinit(&c);
  return quern_give_error(error, &diag, status);
}

int quern_jit(const char *model_path, const quern_compile_options *options, quern_model **out, quern_error *error) {
  return jit(model_path, NULL, options, out, error);
}

int quern_graph_jit(const quern_graph *graph, const quern_compile_options *options, quern_model **out,
                    quern_error *error) {
  return jit(quern_built_name(graph), graph, options, out, error);
}

// --- files and lists

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

int quern_gpu_target(const char *chip, char *out, size_t size, quern_error *error) {
  enum { OLDEST = 10 };
  qn_diag diag = {0};
  int sm = strncmp(chip, "sm_", 3) == 0 ? atoi(chip + 3) : 0;
  for (int known = sm; known >= OLDEST; known--) {
    qn_target target;
    snprintf(out, size, "cuda:sm_%d", known);
    if (qn_target_parse(out, &target, NULL) == QN_OK) return quern_give_error(error, &diag, QN_OK);
  }
  return quern_give_error(error, &diag,
                          qn_fail(&diag, QN_ERR_UNSUPPORTED, "device",
                                  "got a chip '%s', which is older than all that quern compiles for (quern compile --help)",
                                  chip));
}
