// Opening a model: the artifact, the code that runs here, the tokenizer and the summary.
#include "runtime/model.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/options.h"
#include "runtime/chat.h"
#include "runtime/cpu_features.h"
#include "runtime/device_cuda.h"
#include "runtime/signature.h"
#include "runtime/weights.h"

static bool on_gpu(const quern_model_options *options) {
  return options->device && strcmp(options->device, "cpu") != 0;
}

// The program of the kind of machine that is asked for.
static qn_status choose_program(quern_model *model, const quern_model_options *options, qn_diag *diag) {
  bool gpu = on_gpu(options);
  int index;
  if (gpu) QN_TRY(qn_cuda_parse(options->device, &index, diag));
  if (qn_artifact_view(&model->file, gpu ? QN_ART_GPU : QN_ART_CPU, &model->artifact)) return QN_OK;
  model->artifact = model->file;
  if (gpu) {
    return qn_fail(diag, QN_ERR_TARGET, model->path,
                   "there is no code for GPUs in this artifact; compile it with --target cuda:sm_90, say");
  }
  return qn_fail(diag, QN_ERR_TARGET, model->path,
                 "there is code for GPUs only in this artifact; run it with --device cuda, or compile it for CPUs, too");
}

static qn_status choose_target(quern_model *model, const quern_model_options *options, qn_diag *diag) {
  if (model->jit.entries) {
    uint32_t first, count;
    qn_artifact_plan(&model->artifact, 0, &first, &count);
    if (model->jit.entry_count != count) {
      return qn_fail(diag, QN_ERR_INTERNAL, model->path, "got %zu functions from the JIT, want %" PRIu32,
                     model->jit.entry_count, count);
    }
    snprintf(model->target, sizeof model->target, "%s", model->jit.target ? model->jit.target : "jit");
    return QN_OK;
  }
  if (on_gpu(options)) return QN_OK;  // when the device is opened
  const qn_art_code *code = NULL;
  QN_TRY(qn_executor_choose_code(&model->artifact, options->target, &code, diag));
  memcpy(model->target, code->target, sizeof model->target);
  return QN_OK;
}

static qn_status open_device(quern_model *model, const quern_model_options *options, qn_diag *diag) {
  qn_cuda_open_options how = {.device = options->device, .library = options->libcuda, .target = options->target};
  QN_TRY(qn_cuda_open(&model->artifact, &how, &model->allocator, &model->cuda, diag));
  QN_TRY(qn_mapping_check(&model->file.mapping, model->path, diag));
  memcpy(model->target, qn_cuda_code(model->cuda)->target, sizeof model->target);
  return QN_OK;
}

// Walks all templates, so that none of them fails later.
static qn_status open_chat(quern_model *model, qn_diag *diag) {
  qn_chat_template last;
  bool found;
  size_t size = 0;
  const void *data = qn_artifact_section(&model->artifact, QN_SECTION_CHAT, 0, &size);
  model->chat = data ? (qn_str){data, size} : (qn_str){"", 0};
  return qn_chat_read(model->chat.data, model->chat.length, SIZE_MAX, &last, &found, diag);
}

// Lines of the summary that say how tokens are chosen.
static qn_status open_sampling(quern_model *model, qn_diag *diag) {
  for (qn_sampler_key key = 0; key < QN_SAMPLER_KEYS; key++) {
    char name[64];
    qn_str value;
    snprintf(name, sizeof name, "sampling.%s", qn_sampler_key_name(key));
    if (!qn_model_summary_value(model, name, &value)) continue;
    QN_TRY(qn_sampler_defaults_read(&model->sampling, key, value, model->path, diag));
  }
  return QN_OK;
}

static qn_status open_sections(quern_model *model, const quern_model_options *options, qn_diag *diag) {
  QN_TRY(qn_signature_demand(&model->file, options->signed_by, &model->allocator, diag));
  QN_TRY(choose_program(model, options, diag));
  QN_TRY(choose_target(model, options, diag));
  size_t size = 0;
  const void *data = qn_artifact_section(&model->artifact, QN_SECTION_SUMMARY, 0, &size);
  model->summary = data ? (qn_str){data, size} : (qn_str){"", 0};
  QN_TRY(open_sampling(model, diag));
  data = qn_artifact_section(&model->artifact, QN_SECTION_TOKENIZER, 0, &size);
  if (data) QN_TRY(qn_tokenizer_open(data, size, &model->allocator, &model->tokenizer, diag));
  QN_TRY(open_chat(model, diag));
  if (options->check_weights) QN_TRY(qn_artifact_check_weights(&model->artifact, diag));
  if (on_gpu(options) && options->huge_pages != QUERN_HUGE_PAGES_MADVISE)
    return qn_fail(diag, QN_ERR_ARGUMENT, "huge_pages", "is for weights that a CPU reads, got device %s", options->device);
  QN_TRY(qn_weights_place(&model->file, (qn_huge_pages)options->huge_pages, diag));
  model->artifact.weights = model->file.weights;  // they may be a copy
  return on_gpu(options) ? open_device(model, options, diag) : QN_OK;
}

static void destroy_jit(const qn_model_jit *jit) {
  if (jit->destroy_owner) jit->destroy_owner(jit->owner);
}

static qn_status open_mapping(qn_mapping mapping, const char *name, const qn_model_jit *jit,
                              const quern_model_options *options, const qn_allocator *allocator, quern_model **out,
                              qn_diag *diag) {
  *out = NULL;
  quern_model *model = qn_alloc_zeroed(allocator, sizeof *model);
  char *path = model ? qn_alloc(allocator, strlen(name) + 1) : NULL;
  if (!path) {
    qn_mapping_close(&mapping);
    destroy_jit(jit);
    qn_free(allocator, model, sizeof *model);
    return qn_fail_nomem(diag, name, "a model");
  }
  model->allocator = *allocator;
  model->path = memcpy(path, name, strlen(name) + 1);
  model->jit = *jit;
  qn_status status = qn_artifact_open_mapping(&model->file, mapping, model->path, diag);
  if (status == QN_OK) status = open_sections(model, options, diag);
  model->jit.target = NULL;  // was borrowed for the time of this call
  if (status == QN_OK) {
    *out = model;
  } else {
    qn_model_close(model);
  }
  return status;
}

qn_status qn_model_open_mapping(qn_mapping mapping, const char *name, const qn_model_jit *jit,
                                const qn_allocator *allocator, quern_model **out, qn_diag *diag) {
  static const qn_model_jit no_jit;
  static const quern_model_options no_options = {.size = sizeof no_options};
  return open_mapping(mapping, name, jit ? jit : &no_jit, &no_options, allocator, out, diag);
}

qn_status qn_model_open(const char *path, const quern_model_options *options, quern_model **out, qn_diag *diag) {
  static const qn_model_jit no_jit;
  quern_model_options own;
  qn_mapping mapping;
  *out = NULL;
  QN_TRY(qn_options_take(options, "quern_model_options", &own, sizeof own, diag));
  qn_allocator allocator = *qn_allocator_default();
  if (own.allocator) allocator = (qn_allocator){own.allocator->context, own.allocator->reallocate};
  QN_TRY(qn_mapping_open(&mapping, path, diag));
  return open_mapping(mapping, path, &no_jit, &own, &allocator, out, diag);
}

void qn_model_close(quern_model *model) {
  if (!model) return;
  qn_allocator allocator = model->allocator;
  qn_tokenizer_close(model->tokenizer);
  qn_cuda_close(model->cuda);
  qn_artifact_close(&model->file);
  destroy_jit(&model->jit);
  qn_free(&allocator, model->path, strlen(model->path) + 1);
  qn_free(&allocator, model, sizeof *model);
}

static qn_str trim(const char *begin, const char *end) {
  while (begin < end && (*begin == ' ' || *begin == '\t')) begin++;
  while (begin < end && (end[-1] == ' ' || end[-1] == '\t' || end[-1] == '\r')) end--;
  return (qn_str){begin, (size_t)(end - begin)};
}

bool qn_model_summary_value(const quern_model *model, const char *key, qn_str *out) {
  const char *end = model->summary.data + model->summary.length;
  for (const char *line = model->summary.data; line < end;) {
    const char *stop = memchr(line, '\n', (size_t)(end - line));
    if (!stop) stop = end;
    const char *equals = memchr(line, '=', (size_t)(stop - line));
    if (equals && qn_str_is(trim(line, equals), key)) {
      *out = trim(equals + 1, stop);
      return true;
    }
    line = stop < end ? stop + 1 : end;
  }
  return false;
}
