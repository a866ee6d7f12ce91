// From an artifact's records and texts back to a program. A reader treats both as hostile.
#include "frontend/artifact_program.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "frontend/kernel_facts.h"
#include "passes/cost.h"

_Static_assert(QN_SYM_COUNT == QN_ARTIFACT_SYMBOLS, "the artifact's symbols are the IR's");

qn_status quern_artifact_kernels_text(const qn_artifact *artifact, qn_str *out, qn_diag *diag) {
  size_t size = 0;
  const void *text = qn_artifact_section(artifact, QN_SECTION_KERNELS, artifact->program_index, &size);
  *out = (qn_str){text, size};
  if (text) return QN_OK;
  return qn_fail(diag, QN_ERR_UNSUPPORTED, artifact->path,
                 "carries no loop IR of its kernels, so there is nothing to work on; compile the model again");
}

void quern_artifact_gpus(const qn_artifact *artifact, char *out, size_t size) {
  const qn_art_code *code;
  out[0] = '\0';
  for (uint32_t i = 0; (code = qn_artifact_code_at(artifact, i)) != NULL; i++) {
    size_t used = strlen(out);
    if (code->arch == QN_ART_CUDA) snprintf(out + used, size - used, "%s%s", used ? "," : "", code->target);
  }
}

qn_status quern_artifact_buffer(const qn_artifact *artifact, uint32_t buffer, qn_layout layout, qn_pbuf *out,
                                qn_diag *diag) {
  static const qn_pbuf_kind kinds[] = {[QN_ART_ARENA] = QN_PB_ARENA,
                                       [QN_ART_WEIGHT] = QN_PB_WEIGHT,
                                       [QN_ART_CACHE] = QN_PB_CACHE,
                                       [QN_ART_INPUT] = QN_PB_INPUT};
  const qn_art_buffer *b = &artifact->buffers[buffer];
  if (b->dtype >= QN_DTYPE_COUNT) {
    return qn_fail(diag, QN_ERR_FORMAT, artifact->path, "buffer %" PRIu32 ": got type %" PRIu32 ", want one below %d",
                   buffer, b->dtype, QN_DTYPE_COUNT);
  }
  qn_dim dims[QN_MAX_RANK];
  for (uint32_t d = 0; d < b->rank; d++) dims[d] = (qn_dim){(qn_symbol)b->symbols[d], b->dims[d]};
  *out = (qn_pbuf){.kind = kinds[b->kind],
                   .type = qn_type_make((qn_dtype)b->dtype, (int)b->rank, dims),
                   .name = artifact->strings + b->name,
                   .row_pitch = b->row_pitch,
                   .layer = (int)b->layer,
                   .of_source = b->of_source != 0,
                   .window = b->window,
                   .layout = layout,
                   .bytes = b->bytes};
  return QN_OK;
}

// --- the whole

typedef struct reading {
  const qn_artifact *artifact;
  qn_arena *arena;
  qn_str text;
  qn_program *program;
  qn_diag *diag;
} reading;

static const char *kernel_name(const reading *r, uint32_t kernel) {
  return r->artifact->strings + r->artifact->kernels[kernel].name;
}

static qn_status read_buffers(reading *r) {
  for (uint32_t i = 0; i < r->artifact->program->buffer_count; i++) {
    qn_pbuf buffer;
    QN_TRY(quern_artifact_buffer(r->artifact, i, QN_LAYOUT_PLAIN, &buffer, r->diag));
    if (!qn_vec_push_arena(r->arena, &r->program->buffers, buffer))
      return qn_fail_nomem(r->diag, r->artifact->path, "its buffers");
  }
  return QN_OK;
}

static qn_status read_kernels(reading *r) {
  for (uint32_t i = 0; i < r->artifact->program->kernel_count; i++) {
    qn_pkernel kernel;
    QN_TRY(quern_read_kernel(r->artifact->path, r->text, kernel_name(r, i), r->arena, &kernel, NULL, r->diag));
    if (kernel.rows != (qn_symbol)r->artifact->kernels[i].rows_symbol) {
      return qn_fail(r->diag, QN_ERR_FORMAT, r->artifact->path,
                     "kernel '%s': its text and its record have different symbols for rows", kernel.name);
    }
    QN_TRY(qn_cost_count(&kernel, r->arena, &kernel.work, r->diag));
    if (!qn_vec_push_arena(r->arena, &r->program->kernels, kernel))
      return qn_fail_nomem(r->diag, r->artifact->path, "its kernels");
  }
  return QN_OK;
}

// A weight is packed as the kernels that read it say.
static qn_status read_layouts(reading *r, const qn_art_step *step) {
  const char *name = kernel_name(r, step->kernel);
  qn_layout *layouts = QN_ARENA_ARRAY(r->arena, step->operand_count + 1, qn_layout);
  if (!layouts) return qn_fail_nomem(r->diag, r->artifact->path, "a kernel's parameters");
  QN_TRY(quern_read_layouts(r->artifact->path, r->text, name, step->operand_count, layouts, r->diag));
  for (uint32_t i = 0; i < step->operand_count; i++) {
    qn_pbuf *buffer = &r->program->buffers.items[r->artifact->operands[step->first_operand + i]];
    if (buffer->kind == QN_PB_WEIGHT) buffer->layout = layouts[i];
  }
  return QN_OK;
}

static qn_status read_steps(reading *r) {
  for (uint32_t i = 0; i < r->artifact->program->step_count; i++) {
    const qn_art_step *from = &r->artifact->steps[i];
    size_t count = r->program->kernels.items[from->kernel].plain->param_count;
    if (from->operand_count != count) {
      return qn_fail(r->diag, QN_ERR_FORMAT, r->artifact->path, "kernel '%s': got %zu parameters in its text, want %u",
                     kernel_name(r, from->kernel), count, from->operand_count);
    }
    qn_pstep step = {.kernel = from->kernel,
                     .loc = r->artifact->strings + from->loc,
                     .barrier = from->barrier != 0,
                     .buffers = QN_ARENA_ARRAY(r->arena, count + 1, uint32_t)};
    if (!step.buffers || !qn_vec_push_arena(r->arena, &r->program->steps, step))
      return qn_fail_nomem(r->diag, r->artifact->path, "its steps");
    memcpy(step.buffers, r->artifact->operands + from->first_operand, count * sizeof *step.buffers);
    QN_TRY(read_layouts(r, from));
  }
  return QN_OK;
}

qn_status quern_artifact_program(const qn_artifact *artifact, qn_arena *arena, qn_program **out, qn_diag *diag) {
  reading r = {.artifact = artifact, .arena = arena, .diag = diag};
  QN_TRY(quern_artifact_kernels_text(artifact, &r.text, diag));
  r.program = qn_program_create(arena, artifact->path);
  if (!r.program) return qn_fail_nomem(diag, artifact->path, "its program");
  memcpy(r.program->max_values, artifact->program->symbol_max, sizeof r.program->max_values);
  QN_TRY(read_buffers(&r));
  QN_TRY(read_kernels(&r));
  QN_TRY(read_steps(&r));
  *out = r.program;
  return QN_OK;
}
