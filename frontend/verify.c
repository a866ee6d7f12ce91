// quern_verify: an artifact's machine code against the plain kernels that it carries as text, on this machine.
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "frontend/artifact_program.h"
#include "frontend/compile.h"
#include "frontend/kernel_facts.h"
#include "frontend/verify.h"
#include "runtime/base/options.h"
#include "runtime/signature.h"

// --- what the artifact says of its kernels

const qn_art_step *verify_step_of(const verification *v, uint32_t kernel) {
  for (uint32_t i = 0; i < v->view.program->step_count; i++)
    if (v->view.steps[i].kernel == kernel) return &v->view.steps[i];
  return NULL;
}

// The kernel as text has it and its parameters as a step has them.
qn_status verify_read_subject(verification *v, uint32_t kernel, const qn_art_step *step, qn_subject *out,
                              qn_pkernel *out_facts) {
  const char *name = v->view.strings + v->view.kernels[kernel].name;
  qn_pkernel read;
  QN_TRY(quern_read_kernel(v->path, v->text, name, &v->arena, &read, NULL, v->diag));
  size_t count = step->operand_count;
  if (read.plain->param_count != count)
    return qn_fail(v->diag, QN_ERR_FORMAT, v->path, "kernel '%s': got %zu parameters in its text, want %zu", name,
                   read.plain->param_count, count);
  qn_layout *layouts = QN_ARENA_ARRAY(&v->arena, count + 1, qn_layout);
  qn_pbuf *buffers = QN_ARENA_ARRAY(&v->arena, count + 1, qn_pbuf);
  const qn_pbuf **params = QN_ARENA_ARRAY(&v->arena, count + 1, const qn_pbuf *);
  if (!layouts || !buffers || !params) return qn_fail_nomem(v->diag, v->path, "a kernel's parameters");
  QN_TRY(quern_read_layouts(v->path, v->text, name, count, layouts, v->diag));
  for (size_t i = 0; i < count; i++) {
    QN_TRY(quern_artifact_buffer(&v->view, v->view.operands[step->first_operand + i], layouts[i], &buffers[i],
                                 v->diag));
    params[i] = &buffers[i];
  }
  *out = (qn_subject){.plain = read.plain,
                      .params = params,
                      .rows = (qn_symbol)v->view.kernels[kernel].rows_symbol,
                      .run_tokens = read.run_tokens};
  memcpy(out->max_values, v->view.program->symbol_max, sizeof out->max_values);
  if (out_facts) *out_facts = read;
  return QN_OK;
}

static qn_status add_variants(verification *v, const qn_art_slice *slice, uint32_t first, const qn_subject *subject) {
  const uint64_t *offsets = (const uint64_t *)(const void *)(v->code + 1);
  for (uint32_t i = 0; i < slice->variant_count; i++) {
    uint32_t number = slice->first_variant + i;
    const qn_art_variant *variant = &v->view.variants[number];
    const uint8_t *address = (const uint8_t *)v->image + offsets[number - first];
    qn_recheck_item item = {.subject = subject,
                            .code = {.rows_min = variant->rows_min,
                                     .rows_max = variant->rows_max,
                                     .extent = {(qn_symbol)variant->extent_symbol, variant->extent_value}}};
    memcpy(&item.code.entry, &address, sizeof address);  // ISO C has no cast from an object's address to a function's
    QN_TRY(quern_read_schedule(v->path, v->text, v->code->plan, v->view.strings + variant->name,
                               &item.code.schedule, v->diag));
    if (!qn_vec_push(v->allocator, &v->items, item) || !qn_vec_push(v->allocator, &v->variants, variant))
      return qn_fail_nomem(v->diag, v->path, "what is to be checked");
  }
  return QN_OK;
}

static qn_status map_image(verification *v) {
  size_t size = (size_t)v->code->image_size;
  if (size == 0) return QN_OK;
  void *image = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (image == MAP_FAILED) return qn_fail_nomem(v->diag, v->path, "its machine code");
  v->image = image;
  v->image_size = size;
  memcpy(image, (const uint8_t *)v->code + v->code->image_offset, size);
  __builtin___clear_cache((char *)image, (char *)image + size);
  if (mprotect(image, size, PROT_READ | PROT_EXEC) == 0) return QN_OK;
  return qn_fail(v->diag, QN_ERR_IO, v->path, "the system refuses to make memory executable: %s", strerror(errno));
}

static qn_status read_all(verification *v) {
  uint32_t first = 0, count = 0;
  QN_TRY(quern_artifact_kernels_text(&v->view, &v->text, v->diag));
  quern_artifact_gpus(&v->artifact, v->report.unchecked, sizeof v->report.unchecked);
  QN_TRY(qn_executor_choose_code(&v->artifact, v->options->target, &v->code, v->diag));
  memcpy(v->report.target, v->code->target, sizeof v->report.target);
  QN_TRY(map_image(v));
  const qn_art_slice *slices = qn_artifact_plan(&v->view, v->code->plan, &first, &count);
  for (uint32_t i = 0; i < v->view.program->kernel_count; i++) {
    const qn_art_step *step = verify_step_of(v, i);
    if (!step) continue;  // nobody calls it
    qn_subject *subject = QN_ARENA_NEW(&v->arena, qn_subject);
    if (!subject) return qn_fail_nomem(v->diag, v->path, "a kernel");
    QN_TRY(verify_read_subject(v, i, step, subject, NULL));
    QN_TRY(add_variants(v, &slices[i], first, subject));
  }
  return QN_OK;
}

// --- checking

static bool report_progress(const verification *v, const char *stage, uint64_t done, uint64_t total) {
  const quern_verify_options *o = v->options;
  return !o->progress || o->progress(o->progress_context, stage, done, total);
}

bool verify_report(verification *v, const qn_art_variant *variant, const qn_measured *measured, uint64_t done,
                   uint64_t total) {
  v->report.checked++;
  v->report.wrong += measured->verdict != QN_VERDICT_OK;
  quern_verified told = {.kernel = v->view.strings + variant->name,
                         .rows_min = variant->rows_min,
                         .rows_max = variant->rows_max,
                         .verdict = qn_verdict_name(measured->verdict),
                         .evidence = measured->evidence};
  if (v->options->verified) v->options->verified(v->options->verified_context, &told);
  return report_progress(v, "checking kernels", done, total);
}

static bool report_item(void *context, size_t i, const qn_measured *measured) {
  verification *v = context;
  return verify_report(v, v->variants.items[i], measured, i + 1, v->items.count);
}

static bool is_cancelled(void *context) {
  const verification *v = context;
  return !report_progress(v, "checking kernels", v->report.checked, v->items.count);
}

qn_status verify_conclude(const verification *v) {
  if (v->report.wrong == 0) return QN_OK;
  return qn_fail(v->diag, QN_ERR_FORMAT, v->path,
                 "%" PRIu32 " of %" PRIu32
                 " kernels for %s do other than their loop IR says; do not use this artifact: "
                 "compile the model again, and check this machine if that does not help",
                 v->report.wrong, v->report.checked, v->report.target);
}

static qn_status verify_on_cpu(verification *v) {
  QN_TRY(read_all(v));
  v->results = qn_alloc_zeroed(v->allocator, (v->items.count + 1) * sizeof *v->results);
  if (!v->results) return qn_fail_nomem(v->diag, v->path, "results");
  qn_recheck_options options = {.quick = v->options->quick,
                                .limit_s = v->options->limit_s,
                                .report = report_item,
                                .cancelled = is_cancelled,
                                .context = v};
  QN_TRY(qn_recheck(v->items.items, v->items.count, &options, v->allocator, v->results, v->diag));
  return verify_conclude(v);
}

static qn_status verify(verification *v) {
  QN_TRY(qn_artifact_open(&v->artifact, v->path, v->diag));
  v->view = v->artifact;
  QN_TRY(qn_signature_demand(&v->artifact, v->options->signed_by, v->allocator, v->diag));
  if (v->options->check_weights) {
    if (!report_progress(v, "reading weights", 0, 1)) return qn_fail(v->diag, QN_ERR_CANCELLED, v->path, "cancelled");
    QN_TRY(qn_artifact_check_weights(&v->artifact, v->diag));
  }
  if (v->options->no_run) return QN_OK;
  return v->options->device ? verify_on_gpu(v) : verify_on_cpu(v);
}

int quern_verify(const char *path, const quern_verify_options *options, quern_verify_report *report,
                 quern_error *error) {
  quern_verify_options own;
  qn_diag diag = {0};
  verification v = {.path = path, .options = &own, .allocator = qn_allocator_default(), .diag = &diag};
  qn_status status = qn_options_take(options, "quern_verify_options", &own, sizeof own, &diag);
  if (status == QN_OK) status = qn_result_check(report, "quern_verify_report", &diag);
  qn_arena_init(&v.arena, v.allocator);
  if (status == QN_OK) status = verify(&v);
  qn_result_give(report, &v.report, sizeof v.report);
  if (v.results) qn_free(v.allocator, v.results, (v.items.count + 1) * sizeof *v.results);
  qn_vec_free(v.allocator, &v.items);
  qn_vec_free(v.allocator, &v.variants);
  if (v.image) munmap(v.image, v.image_size);
  qn_artifact_close(&v.artifact);
  qn_arena_deinit(&v.arena);
  return quern_give_error(error, &diag, status);
}
