// Where quern_predict has its kernels from: a model file, compiled as far as its kernels' loops, or an artifact, whose
// machine code tells the registers too.
#include "codegen/cuda/emit.h"
#include "codegen/cuda/sass.h"
#include "frontend/artifact_program.h"
#include "frontend/compilation.h"
#include "frontend/predict.h"
#include "passes/gpu_pass.h"
#include "runtime/signature.h"

// What a call of the kernel costs, by its first step.
typedef qn_status (*cost_fn)(void *context, const qn_program *program, const qn_pstep *step, quern_kernel_cost *out,
                             qn_diag *diag);

static qn_status take_variants(predicting *p, const qn_program *program, const qn_pkernel *kernel,
                               predict_kernel *out) {
  qn_gpu_variant variants[QN_MAX_VARIANTS];
  qn_cuda_kernel code[QN_MAX_VARIANTS];
  int64_t most = kernel->rows == QN_SYM_NONE ? INT64_MAX : program->max_values[kernel->rows];
  QN_TRY(qn_gpu_variants(kernel, most, p->arena, variants, &out->variant_count, p->diag));
  for (int i = 0; i < out->variant_count; i++)
    code[i] = (qn_cuda_kernel){.kernel = variants[i].kernel, .schedule = variants[i].schedule};
  qn_buf source;  // written for what it says of shared memory
  qn_buf_init(&source, p->arena->allocator);
  qn_status status = qn_cuda_emit(code, (size_t)out->variant_count, &source, p->diag);
  qn_buf_deinit(&source);
  for (int i = 0; i < out->variant_count; i++) {
    out->variants[i] = (predict_variant){.name = variants[i].kernel->name,
                                         .rows_min = variants[i].rows_min,
                                         .rows_max = variants[i].rows_max,
                                         .kernel = variants[i].kernel,
                                         .schedule = variants[i].schedule,
                                         .shared_bytes = code[i].shared_bytes};
  }
  return status;
}

static qn_status take_params(predicting *p, const qn_program *program, const qn_pstep *step, size_t count,
                             predict_kernel *out) {
  out->params = QN_ARENA_ARRAY(p->arena, count, predict_param);
  if (!out->params) return qn_fail_nomem(p->diag, p->path, "a kernel's parameters");
  for (size_t i = 0; i < count; i++) {
    const qn_pbuf *b = &program->buffers.items[step->buffers[i]];
    out->params[i] = (predict_param){.far = b->kind == QN_PB_WEIGHT || b->kind == QN_PB_CACHE, .input = ""};
    if (b->kind == QN_PB_INPUT && b->name) out->params[i].input = qn_arena_strdup(p->arena, b->name);
    if (!out->params[i].input) return qn_fail_nomem(p->diag, p->path, "a kernel's parameters");
  }
  return QN_OK;
}

static qn_status take_kernel(predicting *p, const qn_program *program, const qn_pstep *step, cost_fn cost,
                             void *context, predict_kernel *out) {
  const qn_pkernel *kernel = &program->kernels.items[step->kernel];
  explain_kernel *told = &out->told;
  QN_TRY(cost(context, program, step, &told->cost, p->diag));
  told->name = explain_text(p->arena, qn_str_from(kernel->name));
  told->place = explain_text(p->arena, qn_str_from(step->loc));
  if (!told->name || !told->place) return qn_fail_nomem(p->diag, p->path, "a kernel");
  QN_TRY(take_params(p, program, step, kernel->plain->param_count, out));
  return take_variants(p, program, kernel, out);
}

static qn_status take_program(predicting *p, const qn_program *program, cost_fn cost, void *context) {
  p->kernel_count = program->kernels.count;
  p->kernels = QN_ARENA_ARRAY(p->arena, p->kernel_count, predict_kernel);
  if (!p->kernels) return qn_fail_nomem(p->diag, p->path, "kernels");
  for (int s = 0; s < QN_SYM_COUNT; s++) p->symbol_max[s] = program->max_values[s];
  for (size_t i = 0; i < program->steps.count; i++) {
    const qn_pstep *step = &program->steps.items[i];
    predict_kernel *k = &p->kernels[step->kernel];
    if (k->told.steps++ == 0) QN_TRY(take_kernel(p, program, step, cost, context, k));
  }
  return QN_OK;
}

// ---- a model file

static qn_status graph_cost(void *context, const qn_program *program, const qn_pstep *step, quern_kernel_cost *out,
                            qn_diag *diag) {
  (void)diag;
  *out = quern_step_cost(context, program, step);
  return QN_OK;
}

static explain_kind kind_of(bool embeds, const int64_t *most) {
  return embeds ? EXPLAIN_EMBEDDINGS : most[QN_SYM_S] > 0 ? EXPLAIN_SOURCES : EXPLAIN_TEXTS;
}

static qn_status take_model(predicting *p, quern_compilation *c) {
  QN_TRY(quern_compilation_open(c, p->path));
  qn_pass_context *pass = &c->parts[c->part_of[0]].pass;
  QN_TRY(qn_run_passes(pass));
  if (qn_import_vocab_size(c->import) == 0)
    return qn_fail(p->diag, QN_ERR_UNSUPPORTED, p->path, "is no language model, whose prompts could be predicted");
  p->kind = kind_of(qn_import_embedding_size(c->import) > 0, pass->program->max_values);
  p->context = c->context_tokens;
  p->e->told.model = explain_text(p->arena, qn_str_from(qn_import_model_name(c->import)));
  if (!p->e->told.model) return qn_fail_nomem(p->diag, p->path, "its name");
  return take_program(p, pass->program, graph_cost, pass->graph);
}

qn_status predict_open_model(predicting *p) {
  quern_compile_options own;
  quern_compilation c;
  char target[32];
  QN_TRY(quern_own_options(p->options->compile, &own, p->diag));
  snprintf(target, sizeof target, "cuda:sm_%d", p->chip.sm);
  own.target = target;
  own.tuning_db = "none";
  own.progress = p->options->progress;
  own.progress_context = p->options->progress_context;
  quern_compilation_init(&c, &own, p->diag);
  qn_status status = take_model(p, &c);
  quern_compilation_deinit(&c);
  return status;
}

// ---- an artifact

static qn_status told_cost(void *context, const qn_program *program, const qn_pstep *step, quern_kernel_cost *out,
                           qn_diag *diag) {
  const qn_artifact *a = context;
  qn_str text;
  qn_pkernel facts;
  qn_arena scratch;
  QN_TRY(quern_artifact_kernels_text(a, &text, diag));
  qn_arena_init(&scratch, qn_allocator_default());
  qn_status status =
      quern_read_kernel(a->path, text, program->kernels.items[step->kernel].name, &scratch, &facts, out, diag);
  qn_arena_deinit(&scratch);
  return status;
}

// The best code for the chip: the newest kind of those that it runs.
static qn_status choose_code(const predicting *p, const qn_artifact *a, const qn_art_code **out) {
  const qn_art_code *code;
  *out = NULL;
  for (uint32_t i = 0; (code = qn_artifact_code_at(a, i)) != NULL; i++) {
    if (code->arch != QN_ART_CUDA || qn_art_code_sm(code) > p->chip.sm) continue;
    if (!*out || qn_art_code_sm(code) > qn_art_code_sm(*out)) *out = code;
  }
  if (*out) return QN_OK;
  return qn_fail(p->diag, QN_ERR_TARGET, p->path,
                 "has no code that the %s runs; compile the model with --target cuda:sm_%d, or give the model file",
                 p->chip.name, p->chip.sm);
}

// The launches and the registers that the artifact's code has. Loops are those that this build makes of the kernels, so
// the code must be of the same.
static qn_status take_code(predicting *p, const qn_artifact *a, const qn_art_code *code, size_t index) {
  uint32_t first, count;
  predict_kernel *k = &p->kernels[index];
  const qn_art_slice *slice = &qn_artifact_plan(a, code->plan, &first, &count)[index];
  const qn_art_launch *launches = qn_art_code_launches(code);
  const uint8_t *cubin = (const uint8_t *)code + code->image_offset;
  for (int i = 0; i < k->variant_count; i++) {
    predict_variant *v = &k->variants[i];
    uint32_t number = slice->first_variant + (uint32_t)i;
    bool same = (uint32_t)k->variant_count == slice->variant_count &&
                strcmp(a->strings + a->variants[number].name, v->name) == 0;
    const qn_art_launch *launch = &launches[number - first];
    if (!same || (int)launch->lanes != v->schedule.lanes || (int)launch->groups != v->schedule.groups ||
        launch->shared_bytes != v->shared_bytes) {
      return qn_fail(p->diag, QN_ERR_UNSUPPORTED, p->path,
                     "kernel '%s': its code is not what this build of quern makes; compile the model again",
                     k->told.name);
    }
    qn_sass_report report;
    if (code->cubin_size == 0) continue;
    QN_TRY(qn_sass_scan(cubin, code->cubin_size, v->name, p->path, &report, p->diag));
    v->registers = report.registers;
  }
  return QN_OK;
}

static const char *summary_value(const qn_artifact *a, const char *key, qn_arena *arena) {
  size_t size = 0, length = strlen(key);
  const char *at = qn_artifact_section(a, QN_SECTION_SUMMARY, 0, &size), *end = at ? at + size : NULL;
  while (at && at < end) {
    const char *stop = memchr(at, '\n', (size_t)(end - at));
    size_t line = (size_t)((stop ? stop : end) - at);
    if (line > length + 3 && memcmp(at, key, length) == 0 && memcmp(at + length, " = ", 3) == 0)
      return explain_text(arena, (qn_str){at + length + 3, line - length - 3});
    at += line + 1;
  }
  return "";
}

static qn_status take_artifact(predicting *p, const qn_artifact *whole) {
  qn_artifact a;
  const qn_art_code *code;
  qn_program *program = NULL;
  QN_TRY(choose_code(p, whole, &code));
  if (!qn_artifact_view(whole, QN_ART_GPU, &a)) return qn_fail(p->diag, QN_ERR_FORMAT, p->path, "has no GPU program");
  if (a.program->vocab_size == 0)
    return qn_fail(p->diag, QN_ERR_UNSUPPORTED, p->path, "is no language model, whose prompts could be predicted");
  p->kind = kind_of(qn_artifact_embedding_size(&a) > 0, a.program->symbol_max);
  QN_TRY(quern_artifact_program(&a, p->arena, &program, p->diag));
  QN_TRY(take_program(p, program, told_cost, &a));
  for (size_t i = 0; i < p->kernel_count; i++)
    if (p->kernels[i].told.steps > 0) QN_TRY(take_code(p, &a, code, i));
  p->context = qn_artifact_context_max(&a);
  p->e->told.model = summary_value(&a, "model", p->arena);
  return p->e->told.model ? QN_OK : qn_fail_nomem(p->diag, p->path, "its name");
}

qn_status predict_open_artifact(predicting *p) {
  qn_artifact artifact;
  QN_TRY(qn_artifact_open(&artifact, p->path, p->diag));
  qn_status status = qn_signature_demand(&artifact, p->options->signed_by, p->arena->allocator, p->diag);
  if (status == QN_OK) status = take_artifact(p, &artifact);
  qn_artifact_close(&artifact);
  return status;
}
