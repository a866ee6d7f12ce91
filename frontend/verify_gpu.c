// quern_verify for GPUs: an artifact's code on the device itself, launch by launch, against the plain kernels that it
// carries as text. A kernel that faults takes nothing with it but the device's context, so that no process of its own
// is needed; but nothing after it can be checked.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "autotune/check_set.h"
#include "frontend/artifact_program.h"
#include "frontend/kernel_facts.h"
#include "frontend/verify.h"

// The variant that is being checked.
typedef struct gpu_check {
  verification *v;
  qn_cuda *cuda;  // owned
  uint32_t index;
  const qn_subject *subject;
  qn_status lost;  // not OK: the device is of no use any more
  uint32_t left_out;
  uint64_t done, total;  // variants
} gpu_check;

static bool run_variant(void *context, void *const *buffers, const size_t *sizes, const bool *written, size_t count,
                        const int64_t symbols[QN_SYM_COUNT], char *why, size_t size) {
  gpu_check *g = context;
  qn_diag diag = {0};
  int64_t outside = -1;
  const qn_cuda_call call = {
      .buffers = buffers, .sizes = sizes, .written = written, .count = count, .symbols = symbols};
  g->lost = qn_cuda_call_variant(g->cuda, g->index, &call, &outside, &diag);
  if (g->lost != QN_OK) {
    snprintf(why, size, "%s", diag.text);
  } else if (outside >= 0) {
    snprintf(why, size, "writes past the end of '%s'", g->subject->plain->params[outside]->name);
  }
  return g->lost == QN_OK && outside < 0;
}

static void nobody(void *context, bool running) { (void)context, (void)running; }

// Tensor cores add 16-bit floats up in an order of their own, which the interpreter does not know.
static bool has_chips_sums(const verification *v, const qn_pkernel *facts) {
  size_t length = 0;
  const char *summary = qn_artifact_section(&v->artifact, QN_SECTION_SUMMARY, 0, &length);
  static const char mode[] = "numeric_mode = half\n";
  bool half = summary && memmem(summary, length, mode, sizeof mode - 1) != NULL;
  return half && facts->is_matmul && (facts->weights == QN_DTYPE_F16 || facts->weights == QN_DTYPE_BF16);
}

// Does it go to places that another kernel wrote, which made-up ones need not have?
static bool takes_places(const qn_subject *s) {
  for (size_t i = 0; i < s->plain->param_count; i++) {
    bool numbers = s->params[i]->kind == QN_PB_ARENA && s->params[i]->type.dtype == QN_DTYPE_I32;
    if (numbers && !s->plain->params[i]->writable) return true;
  }
  return false;
}

static qn_status check_variant(gpu_check *g, qn_check_set *set, uint32_t number) {
  verification *v = g->v;
  const qn_art_variant *variant = &v->view.variants[number];
  const qn_check_remote remote = {run_variant, g};
  qn_check_code code = {.schedule = qn_schedule_plain(),
                        .rows_min = variant->rows_min,
                        .rows_max = variant->rows_max,
                        .remote = &remote};
  qn_measured measured = {.verdict = QN_VERDICT_OK};
  if (variant->extent_rows > 1) code.schedule.m_tiles[0] = (int)variant->extent_rows;
  qn_status status = qn_check_set_run(set, &code, nobody, NULL, &measured.verdict, measured.evidence,
                                      sizeof measured.evidence, NULL, v->diag);
  if (status == QN_ERR_NOMEM) return status;
  if (status != QN_OK && takes_places(g->subject)) {
    *v->diag = (qn_diag){0};
    g->done++;
    g->left_out++;
    return QN_OK;
  }
  if (status != QN_OK) {  // the plain kernel cannot be run as it is
    measured.verdict = QN_VERDICT_FAILED;
    snprintf(measured.evidence, sizeof measured.evidence, "%.190s", v->diag->text);
    *v->diag = (qn_diag){0};
  }
  if (g->lost != QN_OK) measured.verdict = QN_VERDICT_CRASHED;
  if (!verify_report(v, variant, &measured, ++g->done, g->total))
    return qn_fail(v->diag, QN_ERR_CANCELLED, v->path, "cancelled");
  return QN_OK;
}

static qn_status check_kernel(gpu_check *g, uint32_t kernel, const qn_art_slice *slice, uint32_t first) {
  verification *v = g->v;
  const qn_art_step *step = verify_step_of(v, kernel);
  qn_subject subject;
  qn_pkernel facts;
  qn_check_set *set = NULL;
  if (!step) return QN_OK;
  QN_TRY(verify_read_subject(v, kernel, step, &subject, &facts));
  if (has_chips_sums(v, &facts)) {
    g->left_out += slice->variant_count;
    g->done += slice->variant_count;
    return QN_OK;
  }
  g->subject = &subject;
  QN_TRY(qn_check_set_create(&subject, v->options->quick, v->allocator, &set, v->diag));
  qn_status status = QN_OK;
  for (uint32_t i = 0; i < slice->variant_count && status == QN_OK && g->lost == QN_OK; i++) {
    g->index = slice->first_variant + i - first;
    status = check_variant(g, set, slice->first_variant + i);
  }
  qn_check_set_destroy(set);
  return status;
}

static qn_status check_all(gpu_check *g) {
  verification *v = g->v;
  uint32_t first = 0, count = 0;
  v->code = qn_cuda_code(g->cuda);
  memcpy(v->report.target, v->code->target, sizeof v->report.target);
  QN_TRY(quern_artifact_kernels_text(&v->view, &v->text, v->diag));
  const qn_art_slice *slices = qn_artifact_plan(&v->view, v->code->plan, &first, &count);
  g->total = count;
  for (uint32_t i = 0; i < v->view.program->kernel_count && g->lost == QN_OK; i++)
    QN_TRY(check_kernel(g, i, &slices[i], first));
  if (g->left_out > 0)
    snprintf(v->report.unchecked, sizeof v->report.unchecked,
             "%" PRIu32 " kernels that go by what others wrote, or whose sums of 16-bit floats are the chip's", g->left_out);
  return verify_conclude(v);
}

qn_status verify_on_gpu(verification *v) {
  gpu_check g = {.v = v};
  const quern_verify_options *o = v->options;
  qn_cuda_open_options options = {
      .device = o->device, .library = o->libcuda, .target = o->target, .code_alone = true};
  if (!qn_artifact_view(&v->artifact, QN_ART_GPU, &v->view)) {
    return qn_fail(v->diag, QN_ERR_TARGET, v->path,
                   "there is no code for GPUs in this artifact; compile it with --target cuda:sm_90 or the like");
  }
  QN_TRY(qn_cuda_open(&v->view, &options, v->allocator, &g.cuda, v->diag));
  qn_status status = check_all(&g);
  qn_cuda_close(g.cuda);
  return status;
}
