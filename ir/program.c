// The program: creation, text and checks.
#include "ir/program.h"

#include <inttypes.h>
#include <string.h>

static const char *const layout_names[QN_LAYOUT_COUNT] = {
    [QN_LAYOUT_PLAIN] = "plain", [QN_LAYOUT_ROWS1] = "rows1", [QN_LAYOUT_ROWS16] = "rows16"};

const char *qn_layout_name(qn_layout layout) { return layout_names[layout]; }

bool qn_layout_parse(const char *text, qn_layout *out) {
  for (int i = 0; i < QN_LAYOUT_COUNT; i++) {
    if (strcmp(text, layout_names[i]) == 0) {
      *out = (qn_layout)i;
      return true;
    }
  }
  return false;
}

int64_t qn_weight_matrices(const qn_type *type) {
  int64_t count = 1;
  for (int i = 0; i + 2 < type->rank; i++) count *= type->dims[i].value;
  return count;
}

bool qn_weight_bytes(const qn_type *type, qn_layout layout, size_t *out) {
  const qn_format *format = qn_format_of(type->dtype);
  uint32_t rows = layout == QN_LAYOUT_ROWS16 ? QN_TILE_ROWS : 1;
  if (!format || layout == QN_LAYOUT_PLAIN || type->rank < 2) return false;
  if (!qn_format_tile_bytes(format, rows, type->dims[type->rank - 2].value, type->dims[type->rank - 1].value, out))
    return false;
  for (int i = 0; i + 2 < type->rank; i++) {
    if (type->dims[i].value < 0 || !qn_size_mul(*out, (size_t)type->dims[i].value, out)) return false;
  }
  return true;
}

const char *qn_link_name(qn_link link) {
  static const char *const names[QN_LINK_COUNT] = {
      [QN_LINK_NONE] = "none", [QN_LINK_PROLOGUE] = "prologue", [QN_LINK_CHAINED] = "chained"};
  return names[link];
}

size_t qn_program_phase_end(const qn_program *program, size_t first) {
  const qn_pstep *steps = program->steps.items;
  size_t end = first;
  while (end + 1 < program->steps.count && steps[end].link == QN_LINK_PROLOGUE) end++;
  while (end + 1 < program->steps.count && steps[end + 1].link == QN_LINK_CHAINED) end++;
  return end;
}

qn_program *qn_program_create(qn_arena *arena, const char *name) {
  qn_program *program = QN_ARENA_NEW(arena, qn_program);
  if (!program) return NULL;
  program->arena = arena;
  program->name = qn_arena_strdup(arena, name);
  return program->name ? program : NULL;
}

static const char *const kind_names[] = {
    [QN_PB_ARENA] = "arena", [QN_PB_WEIGHT] = "weight", [QN_PB_CACHE] = "cache", [QN_PB_INPUT] = "input"};

static void print_buffer(const qn_pbuf *p, size_t index, qn_buf *out) {
  qn_buf_printf(out, "  b%zu = %s ", index, kind_names[p->kind]);
  if (p->name) {
    qn_buf_quote(out, qn_str_from(p->name));
    qn_buf_putc(out, ' ');
  }
  qn_type_print(&p->type, out);
  if (p->kind == QN_PB_WEIGHT) {
    qn_buf_printf(out, " %s", p->source_count ? qn_layout_name(p->layout) : "literal");
    for (size_t i = 1; i < p->source_count; i++) {
      qn_buf_puts(out, " + ");
      qn_buf_quote(out, qn_str_from(p->sources[i]));
    }
  }
  if (p->kind == QN_PB_CACHE) qn_buf_printf(out, " layer %d", p->layer);
  qn_buf_printf(out, " bytes %" PRIu64, p->bytes);
  if (p->kind == QN_PB_ARENA) {
    qn_buf_printf(out, " at %" PRIu64 " steps %u", p->offset, p->first_step);
    if (p->last_step == UINT32_MAX) {
      qn_buf_puts(out, "..end");
    } else {
      qn_buf_printf(out, "..%u", p->last_step);
    }
    if (p->own_bytes) qn_buf_printf(out, " own %" PRIu64 " at %" PRIu64, p->own_bytes, p->own_offset);
  }
  qn_buf_putc(out, '\n');
}

static void print_kernel(const qn_pkernel *kernel, qn_buf *out) {
  qn_buf_printf(out, "  %s", kernel->name);
  if (kernel->panels) qn_buf_printf(out, " panels %" PRId64, kernel->panels);
  qn_buf_putc(out, '\n');
  for (int i = 0; i < kernel->variant_count; i++) {
    const qn_pvariant *v = &kernel->variants[i];
    qn_buf_printf(out, "    %s rows %" PRId64 "..%" PRId64 " extent ", v->kernel->name, v->rows_min, v->rows_max);
    qn_dim_print(v->extent, out);
    if (v->extent_rows > 1) qn_buf_printf(out, " by %d", v->extent_rows);
    qn_buf_puts(out, v->in_parts ? " in parts\n" : "\n");
  }
}

void qn_program_print(const qn_program *program, qn_buf *out) {
  qn_buf_puts(out, "program ");
  qn_buf_quote(out, qn_str_from(program->name));
  qn_buf_printf(out, " arena %" PRIu64, program->arena_bytes);
  if (program->own_bytes) qn_buf_printf(out, " own %" PRIu64, program->own_bytes);
  qn_buf_puts(out, " {\n");
  qn_buf_puts(out, " buffers\n");
  for (size_t i = 0; i < program->buffers.count; i++) print_buffer(&program->buffers.items[i], i, out);
  qn_buf_puts(out, " kernels\n");
  for (size_t i = 0; i < program->kernels.count; i++) print_kernel(&program->kernels.items[i], out);
  qn_buf_puts(out, " steps\n");
  for (size_t i = 0; i < program->steps.count; i++) {
    const qn_pstep *step = &program->steps.items[i];
    const qn_pkernel *kernel = &program->kernels.items[step->kernel];
    qn_buf_printf(out, "  %zu%s%s%s %s(", i, step->barrier ? " barrier" : "", step->link ? " " : "",
                  step->link ? qn_link_name(step->link) : "", kernel->name);
    for (size_t j = 0; j < kernel->plain->param_count; j++) {
      qn_buf_printf(out, "%sb%u", j ? ", " : "", step->buffers[j]);
    }
    qn_buf_puts(out, ") ");
    qn_buf_quote(out, qn_str_from(step->loc));
    qn_buf_putc(out, '\n');
  }
  qn_buf_puts(out, "}\n");
}

static bool overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size) {
  return a < b + b_size && b < a + a_size;
}

static qn_status verify_memory(const qn_program *program, qn_diag *diag) {
  for (size_t i = 0; i < program->buffers.count; i++) {
    const qn_pbuf *a = &program->buffers.items[i];
    if (a->kind != QN_PB_ARENA) continue;
    if (a->offset + a->bytes > program->arena_bytes) {
      return qn_fail(diag, QN_ERR_INTERNAL, program->name, "buffer b%zu ends at %" PRIu64 ", want at most %" PRIu64, i,
                     a->offset + a->bytes, program->arena_bytes);
    }
    for (size_t j = 0; j < i; j++) {
      const qn_pbuf *b = &program->buffers.items[j];
      if (b->kind != QN_PB_ARENA || !overlap(a->offset, a->bytes, b->offset, b->bytes)) continue;
      if (a->first_step <= b->last_step && b->first_step <= a->last_step) {
        return qn_fail(diag, QN_ERR_INTERNAL, program->name, "buffers b%zu and b%zu share memory while both are alive",
                       j, i);
      }
    }
  }
  return QN_OK;
}

static qn_status verify_link(const qn_program *program, size_t i, qn_diag *diag) {
  const qn_pstep *steps = program->steps.items;
  bool after = i > 0 && steps[i - 1].link == QN_LINK_PROLOGUE;
  bool fits = steps[i].link == QN_LINK_NONE || !after;
  if (steps[i].link == QN_LINK_PROLOGUE) fits = fits && i + 1 < program->steps.count;
  if (steps[i].link == QN_LINK_CHAINED) fits = fits && i > 0;
  if (fits) return QN_OK;
  return qn_fail(diag, QN_ERR_INTERNAL, steps[i].loc, "step %zu is %s, but has no neighbour for that", i,
                 qn_link_name(steps[i].link));
}

qn_status qn_program_verify(const qn_program *program, bool memory_planned, qn_diag *diag) {
  for (size_t i = 0; i < program->steps.count; i++) {
    const qn_pstep *step = &program->steps.items[i];
    if (step->kernel >= program->kernels.count) {
      return qn_fail(diag, QN_ERR_INTERNAL, program->name, "step %zu: got kernel %u, want one of %zu", i, step->kernel,
                     program->kernels.count);
    }
    QN_TRY(verify_link(program, i, diag));
    const qn_lkernel *kernel = program->kernels.items[step->kernel].plain;
    for (size_t j = 0; j < kernel->param_count; j++) {
      if (step->buffers[j] >= program->buffers.count) {
        return qn_fail(diag, QN_ERR_INTERNAL, step->loc, "step %zu: got buffer %u, want one of %zu", i,
                       step->buffers[j], program->buffers.count);
      }
    }
  }
  return memory_planned ? verify_memory(program, diag) : QN_OK;
}
