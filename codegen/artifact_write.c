// Writes model.qn: sections one after another, then the section table over the space kept for it.
#include "codegen/artifact_write.h"

#include <inttypes.h>
#include <string.h>

#include "runtime/base/hash.h"
#include "runtime/base/map.h"

#define MAX_SECTIONS 32

typedef struct writing {
  qn_file_writer *writer;
  const qn_artifact_spec *spec;
  uint64_t *signature_offset;  // out
  const qn_allocator *allocator;
  qn_diag *diag;
  qn_art_section sections[MAX_SECTIONS];
  uint32_t section_count;
  qn_hasher hasher;
} writing;

const qn_lkernel **qn_program_variants(const qn_program *program, size_t *out_count) {
  size_t count = 0;
  for (size_t i = 0; i < program->kernels.count; i++) count += (size_t)program->kernels.items[i].variant_count;
  const qn_lkernel **kernels = QN_ARENA_ARRAY(program->arena, count, const qn_lkernel *);
  if (!kernels) return NULL;
  *out_count = 0;
  for (size_t i = 0; i < program->kernels.count; i++) {
    const qn_pkernel *kernel = &program->kernels.items[i];
    for (int v = 0; v < kernel->variant_count; v++) kernels[(*out_count)++] = kernel->variants[v].kernel;
  }
  return kernels;
}

qn_status qn_program_plan_take(const qn_program *program, qn_program_plan *out, qn_diag *diag) {
  qn_pkernel *kernels = QN_ARENA_ARRAY(program->arena, program->kernels.count, qn_pkernel);
  out->kernels = kernels;
  out->functions = qn_program_variants(program, &out->function_count);
  if (!kernels || !out->functions) return qn_fail_nomem(diag, program->name, "the kernels' variants");
  for (size_t i = 0; i < program->kernels.count; i++) kernels[i] = program->kernels.items[i];
  return QN_OK;
}

static bool variant_equal(const qn_pvariant *a, const qn_pvariant *b) {
  if (a->rows_min != b->rows_min || a->rows_max != b->rows_max) return false;
  return qn_schedule_equal(&a->schedule, &b->schedule) && qn_gpu_schedule_equal(&a->gpu, &b->gpu);
}

bool qn_program_plan_equal(const qn_program *program, const qn_program_plan *a, const qn_program_plan *b) {
  for (size_t i = 0; i < program->kernels.count; i++) {
    const qn_pkernel *one = &a->kernels[i], *other = &b->kernels[i];
    if (one->variant_count != other->variant_count) return false;
    for (int v = 0; v < one->variant_count; v++)
      if (!variant_equal(&one->variants[v], &other->variants[v])) return false;
  }
  return true;
}

static qn_status begin_section(writing *w, uint32_t kind, size_t alignment) {
  if (w->section_count == MAX_SECTIONS) {
    return qn_fail(w->diag, QN_ERR_LIMIT, w->writer->path, "got more than %d sections; compile for fewer targets", MAX_SECTIONS);
  }
  QN_TRY(qn_file_writer_align(w->writer, alignment));
  qn_art_section *section = &w->sections[w->section_count];
  *section = (qn_art_section){.kind = kind, .offset = w->writer->offset};
  for (uint32_t i = 0; i < w->section_count; i++) section->index += w->sections[i].kind == kind;
  qn_hasher_init(&w->hasher, kind);
  return QN_OK;
}

static qn_status put(writing *w, const void *data, size_t size) {
  qn_hasher_update(&w->hasher, data, size);
  return qn_file_writer_write(w->writer, data, size);
}

// Zeros up to a multiple of `alignment` from the section's start.
static qn_status pad(writing *w, size_t alignment) {
  static const uint8_t zeros[QN_ARTIFACT_PAGE];
  uint64_t at = w->writer->offset - w->sections[w->section_count].offset;
  return put(w, zeros, (size_t)(qn_align_up(at, alignment) - at));
}

static void end_section(writing *w) {
  qn_art_section *section = &w->sections[w->section_count++];
  section->size = w->writer->offset - section->offset;
  section->hash = qn_hasher_final(&w->hasher);
}

static qn_status text_section(writing *w, uint32_t kind, const void *data, size_t size) {
  QN_TRY(begin_section(w, kind, 64));
  QN_TRY(put(w, data, size));
  end_section(w);
  return QN_OK;
}

// --- weights

// The (n, k) matrices of a tensor, one after another, each padded to whole panels; `size` bytes in all.
static void pack_matrices(const qn_tensor_data *tensor, uint32_t rows, int64_t matrices, int64_t n, int64_t k, uint8_t *out,
                          size_t size) {
  size_t row_bytes = (size_t)k / tensor->format->block_values * tensor->format->block_bytes;
  for (int64_t i = 0; i < matrices; i++) {
    const uint8_t *from = (const uint8_t *)tensor->data + (size_t)(i * n) * row_bytes;
    qn_format_pack(tensor->format, rows, n, k, from, 0, n, out + size / (size_t)matrices * (size_t)i);
  }
}

// One source tensor of a weight buffer in the buffer's layout, padded to whole panels.
static qn_status pack_source(writing *w, const qn_pbuf *p, const char *name, uint8_t **out, size_t *out_size, int64_t *out_rows) {
  qn_tensor_data tensor;
  QN_TRY(w->spec->weights->find(w->spec->weights->context, name, &tensor, w->diag));
  int64_t k = tensor.dims[tensor.rank - 1], n = 1;
  for (int i = 0; i + 1 < tensor.rank; i++) n *= tensor.dims[i];
  int64_t want_k = p->type.rank ? p->type.dims[p->type.rank - 1].value : 1;
  bool plain = p->layout == QN_LAYOUT_PLAIN;
  int64_t matrices = plain || n % qn_weight_matrices(&p->type) ? 1 : qn_weight_matrices(&p->type);
  bool concat_vector = plain && p->type.rank == 1 && p->source_count > 1;
  if ((k != want_k && !concat_vector) || (!plain && tensor.format->dtype != p->type.dtype)) {
    return qn_fail(w->diag, QN_ERR_FORMAT, name, "got %s with rows of %" PRId64 ", want %s with rows of %" PRId64,
                   tensor.format->name, k, qn_dtype_name(p->type.dtype), want_k);
  }
  uint32_t rows = p->layout == QN_LAYOUT_ROWS16 ? QN_TILE_ROWS : 1;
  size_t size = 0;
  bool sized = plain ? qn_size_mul((size_t)n * sizeof(float), (size_t)k, &size)
                     : qn_format_tile_bytes(tensor.format, rows, n / matrices, k, &size) &&
                           qn_size_mul(size, (size_t)matrices, &size);
  uint8_t *data = sized ? qn_alloc(w->allocator, size) : NULL;
  if (!data) return qn_fail_nomem(w->diag, name, "a packed weight");
  *out = data;
  *out_size = size;
  *out_rows = n;
  if (!plain) {
    pack_matrices(&tensor, rows, matrices, n / matrices, k, data, size);
    return QN_OK;
  }
  double *row = qn_alloc(w->allocator, (size_t)k * sizeof *row);
  if (!row) return qn_fail_nomem(w->diag, name, "a weight's row");
  size_t row_bytes = (size_t)k / tensor.format->block_values * tensor.format->block_bytes;
  for (int64_t i = 0; i < n; i++) {
    qn_format_row_to_f64(tensor.format, k, (const uint8_t *)tensor.data + (size_t)i * row_bytes, row);
    for (int64_t j = 0; j < k; j++) {
      float value = (float)row[j];
      memcpy(data + ((size_t)i * (size_t)k + (size_t)j) * sizeof value, &value, sizeof value);
    }
  }
  qn_free(w->allocator, row, (size_t)k * sizeof *row);
  return QN_OK;
}

static qn_status write_weight(writing *w, const qn_pbuf *p) {
  uint64_t start = w->writer->offset;
  if (p->source_count == 0) QN_TRY(put(w, p->literal, (size_t)p->type.dims[0].value * sizeof(float)));
  int64_t rows = 0;
  for (size_t i = 0; i < p->source_count; i++) {
    uint8_t *data = NULL;
    size_t size = 0;
    int64_t source_rows = 0;
    qn_status status = pack_source(w, p, p->sources[i], &data, &size, &source_rows);
    if (status == QN_OK) status = put(w, data, size);
    qn_free(w->allocator, data, size);
    QN_TRY(status);
    rows += source_rows;
  }
  int64_t want_rows = 1;
  for (int d = 0; d + 1 < p->type.rank; d++) want_rows *= p->type.dims[d].value;
  if (p->layout != QN_LAYOUT_PLAIN && rows != want_rows) {
    return qn_fail(w->diag, QN_ERR_FORMAT, p->name, "got %" PRId64 " rows, want %" PRId64, rows, want_rows);
  }
  uint64_t written = w->writer->offset - start;
  if (written > p->bytes) {
    return qn_fail(w->diag, QN_ERR_FORMAT, p->name, "got %" PRIu64 " packed bytes, want at most %" PRIu64, written, p->bytes);
  }
  static const uint8_t zeros[QN_TILE_ROWS * sizeof(float)];
  for (uint64_t left = p->bytes - written; left > 0;) {
    size_t step = left < sizeof zeros ? (size_t)left : sizeof zeros;
    QN_TRY(put(w, zeros, step));
    left -= step;
  }
  return QN_OK;
}

// Do two buffers hold the same bytes?
static bool same_weight(const qn_pbuf *a, const qn_pbuf *b) {
  if (a->kind != QN_PB_WEIGHT || b->kind != QN_PB_WEIGHT) return false;
  if (a->layout != b->layout || a->bytes != b->bytes) return false;
  if (!qn_type_equal(&a->type, &b->type) || a->source_count != b->source_count) return false;
  for (size_t i = 0; i < a->source_count; i++)
    if (strcmp(a->sources[i], b->sources[i]) != 0) return false;
  return a->source_count > 0 || memcmp(a->literal, b->literal, (size_t)a->type.dims[0].value * sizeof(float)) == 0;
}

// What a program before number `before` packs in the same way; NULL where none does.
static const qn_pbuf *packed_before(const writing *w, size_t before, const qn_pbuf *p) {
  for (size_t i = 0; i < before; i++) {
    const qn_program *program = w->spec->programs[i].program;
    for (size_t j = 0; j < program->buffers.count; j++)
      if (same_weight(&program->buffers.items[j], p)) return &program->buffers.items[j];
  }
  return NULL;
}

static qn_status report_weights(const writing *w, uint64_t done, uint64_t total) {
  if (!w->spec->progress || w->spec->progress(w->spec->progress_context, done, total)) return QN_OK;
  return qn_fail(w->diag, QN_ERR_CANCELLED, w->writer->path, "cancelled");
}

// Bytes of the weights of all programs, each counted once.
static uint64_t count_weights(const writing *w) {
  uint64_t total = 0;
  for (size_t n = 0; n < w->spec->program_count; n++) {
    const qn_program *program = w->spec->programs[n].program;
    for (size_t i = 0; i < program->buffers.count; i++) {
      const qn_pbuf *p = &program->buffers.items[i];
      if (p->kind == QN_PB_WEIGHT && !packed_before(w, n, p)) total += p->bytes;
    }
  }
  return total;
}

static qn_status write_weights_of(writing *w, size_t number, uint64_t section_start, uint64_t *done, uint64_t total) {
  qn_program *program = w->spec->programs[number].program;
  for (size_t i = 0; i < program->buffers.count; i++) {
    qn_pbuf *p = &program->buffers.items[i];
    if (p->kind != QN_PB_WEIGHT) continue;
    const qn_pbuf *other = packed_before(w, number, p);
    if (other) {
      p->offset = other->offset;
      continue;
    }
    QN_TRY(pad(w, QN_ARTIFACT_PAGE));
    p->offset = w->writer->offset - section_start;
    QN_TRY(write_weight(w, p));
    *done += p->bytes;
    QN_TRY(report_weights(w, *done, total));
  }
  return QN_OK;
}

static qn_status write_weights(writing *w) {
  uint64_t total = count_weights(w), done = 0;
  QN_TRY(begin_section(w, QN_SECTION_WEIGHTS, QN_ARTIFACT_PAGE));
  uint64_t section_start = w->writer->offset;
  QN_TRY(report_weights(w, 0, total));
  for (size_t n = 0; n < w->spec->program_count; n++) QN_TRY(write_weights_of(w, n, section_start, &done, total));
  QN_TRY(pad(w, QN_ARTIFACT_PAGE));  // a vector load at the last row stays inside the mapping
  end_section(w);
  return QN_OK;
}

qn_status qn_artifact_write_weights(qn_file_writer *writer, const qn_artifact_spec *spec, const qn_allocator *allocator,
                                    uint64_t *out_offset, uint64_t *out_size, uint64_t *out_hash, qn_diag *diag) {
  writing w = {.writer = writer, .spec = spec, .allocator = allocator, .diag = diag};
  QN_TRY(write_weights(&w));
  *out_offset = w.sections[0].offset;
  *out_size = w.sections[0].size;
  *out_hash = w.sections[0].hash;
  return QN_OK;
}

// --- program

typedef struct strings {
  qn_buf text;
} strings;

static uint32_t add_string(strings *s, const char *text) {
  uint32_t at = (uint32_t)s->text.length;
  qn_buf_append(&s->text, text, strlen(text) + 1);
  return at;
}

static qn_art_buffer buffer_record(const qn_pbuf *p, strings *s) {
  qn_art_buffer record = {.kind = (uint32_t)p->kind, .offset = p->offset, .bytes = p->bytes,
                          .dtype = (uint32_t)p->type.dtype, .rank = (uint32_t)p->type.rank, .row_pitch = p->row_pitch,
                          .layer = (uint32_t)p->layer, .of_source = p->of_source, .window = (uint32_t)p->window,
                          .own_offset = p->own_offset, .own_bytes = p->own_bytes};
  record.name = p->name ? add_string(s, p->name) : 0;
  record.output = p->kind == QN_PB_ARENA && p->name;
  for (int d = 0; d < p->type.rank; d++) {
    record.dims[d] = p->type.dims[d].value;
    record.symbols[d] = (uint32_t)p->type.dims[d].symbol;
  }
  return record;
}

static qn_status put_array(writing *w, const void *data, size_t size) {
  QN_TRY(pad(w, 8));
  return put(w, data, size);
}

typedef struct program_arrays {
  qn_art_buffer *buffers;
  qn_art_kernel *kernels;
  qn_art_slice *slices;
  qn_art_variant *variants;
  qn_art_step *steps;
  uint32_t *operands;
  qn_art_program head;
} program_arrays;

static bool fill_kernels(const qn_program *program, strings *s, program_arrays *a, qn_arena *arena) {
  a->kernels = QN_ARENA_ARRAY(arena, program->kernels.count, qn_art_kernel);
  if (!a->kernels) return false;
  for (size_t i = 0; i < program->kernels.count; i++) {
    const qn_pkernel *kernel = &program->kernels.items[i];
    a->kernels[i] = (qn_art_kernel){.name = add_string(s, kernel->name),
                                    .param_count = (uint32_t)kernel->plain->param_count,
                                    .rows_symbol = (uint32_t)kernel->rows};
  }
  return true;
}

static void fill_plan(const qn_program_plan *plan, strings *s, program_arrays *a) {
  qn_art_slice *slices = a->slices + (size_t)a->head.plan_count++ * a->head.kernel_count;
  for (uint32_t i = 0; i < a->head.kernel_count; i++) {
    const qn_pkernel *kernel = &plan->kernels[i];
    slices[i] = (qn_art_slice){a->head.variant_count, (uint32_t)kernel->variant_count};
    for (int v = 0; v < kernel->variant_count; v++) {
      const qn_pvariant *from = &kernel->variants[v];
      a->variants[a->head.variant_count++] = (qn_art_variant){.rows_min = from->rows_min,
                                                              .rows_max = from->rows_max,
                                                              .name = add_string(s, from->kernel->name),
                                                              .extent_symbol = (uint32_t)from->extent.symbol,
                                                              .extent_value = from->extent.value,
                                                              .in_parts = from->in_parts,
                                                              .extent_rows = (uint32_t)from->extent_rows};
    }
  }
}

static bool fill_plans(const qn_artifact_program *of, strings *s, program_arrays *a, qn_arena *arena) {
  size_t variants = 0;
  for (size_t i = 0; i < of->plan_count; i++) variants += of->plans[i].function_count;
  a->slices = QN_ARENA_ARRAY(arena, of->plan_count * a->head.kernel_count, qn_art_slice);
  a->variants = QN_ARENA_ARRAY(arena, variants, qn_art_variant);
  if (!a->slices || !a->variants) return false;
  for (size_t i = 0; i < of->plan_count; i++) fill_plan(&of->plans[i], s, a);
  return true;
}

static bool fill_steps(const qn_program *program, strings *s, program_arrays *a, qn_arena *arena) {
  size_t operands = 0;
  for (size_t i = 0; i < program->steps.count; i++) {
    operands += program->kernels.items[program->steps.items[i].kernel].plain->param_count;
  }
  a->steps = QN_ARENA_ARRAY(arena, program->steps.count, qn_art_step);
  a->operands = QN_ARENA_ARRAY(arena, operands, uint32_t);
  if (!a->steps || !a->operands) return false;
  for (size_t i = 0; i < program->steps.count; i++) {
    const qn_pstep *step = &program->steps.items[i];
    uint32_t count = (uint32_t)program->kernels.items[step->kernel].plain->param_count;
    a->steps[i] = (qn_art_step){.kernel = step->kernel, .first_operand = a->head.operand_count, .operand_count = count,
                                .barrier = step->barrier, .loc = add_string(s, step->loc),
                                .link = (uint32_t)step->link};
    for (uint32_t j = 0; j < count; j++) a->operands[a->head.operand_count++] = step->buffers[j];
  }
  return true;
}

static qn_status write_program(writing *w, const qn_artifact_program *of) {
  const qn_program *program = of->program;
  qn_arena arena;
  qn_arena_init(&arena, w->allocator);
  strings s;
  qn_buf_init(&s.text, w->allocator);
  add_string(&s, "");
  program_arrays a = {.head = {.buffer_count = (uint32_t)program->buffers.count,
                               .kernel_count = (uint32_t)program->kernels.count,
                               .step_count = (uint32_t)program->steps.count,
                               .page_keys = QN_PAGE_KEYS,
                               .machine = (uint32_t)of->machine,
                               .arena_bytes = program->arena_bytes,
                               .own_bytes = program->own_bytes,
                               .vocab_size = w->spec->vocab_size,
                               .context_tokens = w->spec->context_tokens,
                               .start = w->spec->start}};
  _Static_assert((int)QN_LINK_CHAINED == (int)QN_ART_LINK_CHAINED && QN_LINK_COUNT == 3, "the artifact's links are the IR's");
  _Static_assert(QN_SYM_COUNT == QN_ARTIFACT_SYMBOLS, "the artifact's symbols are the IR's");
  memcpy(a.head.symbol_max, program->max_values, sizeof a.head.symbol_max);
  a.head.name = add_string(&s, program->name);
  a.buffers = QN_ARENA_ARRAY(&arena, program->buffers.count, qn_art_buffer);
  bool filled = a.buffers != NULL;
  for (size_t i = 0; filled && i < program->buffers.count; i++) a.buffers[i] = buffer_record(&program->buffers.items[i], &s);
  filled = filled && fill_kernels(program, &s, &a, &arena) && fill_plans(of, &s, &a, &arena) &&
           fill_steps(program, &s, &a, &arena) && !s.text.failed;
  a.head.string_bytes = (uint32_t)s.text.length;
  qn_status status = filled ? begin_section(w, QN_SECTION_PROGRAM, 64) : qn_fail_nomem(w->diag, program->name, "the program section");
  if (status == QN_OK) status = put(w, &a.head, sizeof a.head);
  if (status == QN_OK) status = put_array(w, a.buffers, a.head.buffer_count * sizeof *a.buffers);
  if (status == QN_OK) status = put_array(w, a.kernels, a.head.kernel_count * sizeof *a.kernels);
  size_t slice_count = (size_t)a.head.plan_count * a.head.kernel_count;
  if (status == QN_OK) status = put_array(w, a.slices, slice_count * sizeof *a.slices);
  if (status == QN_OK) status = put_array(w, a.variants, a.head.variant_count * sizeof *a.variants);
  if (status == QN_OK) status = put_array(w, a.steps, a.head.step_count * sizeof *a.steps);
  if (status == QN_OK) status = put_array(w, a.operands, a.head.operand_count * sizeof *a.operands);
  if (status == QN_OK) status = put_array(w, s.text.data, s.text.length);
  if (status == QN_OK) end_section(w);
  qn_buf_deinit(&s.text);
  qn_arena_deinit(&arena);
  return status;
}

static qn_status write_code(writing *w, const qn_artifact_code *code) {
  _Static_assert((int)QN_ARCH_CUDA == (int)QN_ART_CUDA && (int)QN_ARCH_COUNT == (int)QN_ART_ARCH_COUNT,
                 "the artifact's architectures are the compiler's");
  qn_art_code record = {.arch = (uint32_t)code->target->arch,
                        .plan = code->plan,
                        .variant_count = (uint32_t)code->code->kernel_count,
                        .program = code->program,
                        .image_size = code->code->image_size,
                        .cubin_size = code->code->cubin_size,
                        .ptx_size = code->code->ptx_size};
  snprintf(record.target, sizeof record.target, "%s", code->target->name);
  snprintf(record.required, sizeof record.required, "%s", code->target->required);
  bool cuda = code->target->arch == QN_ARCH_CUDA;
  const void *table = cuda ? (const void *)code->code->launches : code->code->offsets;
  size_t table_size = code->code->kernel_count * (cuda ? sizeof(qn_art_launch) : sizeof(uint64_t));
  record.image_offset = qn_align_up(sizeof record + table_size, QN_ARTIFACT_PAGE);
  QN_TRY(begin_section(w, QN_SECTION_CODE, QN_ARTIFACT_PAGE));
  QN_TRY(put(w, &record, sizeof record));
  QN_TRY(put(w, table, table_size));
  QN_TRY(pad(w, QN_ARTIFACT_PAGE));
  QN_TRY(put(w, code->code->image, code->code->image_size));
  end_section(w);
  return QN_OK;
}

// Texts of the programs, of one kind of section.
static qn_status write_texts(writing *w, uint32_t kind) {
  for (size_t i = 0; i < w->spec->program_count; i++) {
    const qn_artifact_program *of = &w->spec->programs[i];
    const char *text = kind == QN_SECTION_GRAPH ? of->graph_text : of->kernels_text;
    if (text) QN_TRY(text_section(w, kind, text, strlen(text)));
  }
  return QN_OK;
}

static qn_status write_signature(writing *w) {
  qn_art_signature record = {0};
  memcpy(record.public_key, w->spec->public_key, sizeof record.public_key);
  QN_TRY(text_section(w, QN_SECTION_SIGNATURE, &record, sizeof record));
  qn_art_section *section = &w->sections[w->section_count - 1];
  section->hash = 0;
  *w->signature_offset = section->offset + offsetof(qn_art_signature, signature);
  return QN_OK;
}

qn_status qn_artifact_write(qn_file_writer *writer, qn_artifact_spec *spec, const qn_allocator *allocator, qn_diag *diag) {
  writing w = {.writer = writer, .spec = spec, .signature_offset = &spec->signature_offset, .allocator = allocator,
               .diag = diag};
  static const uint8_t table_space[sizeof(qn_art_header) + MAX_SECTIONS * sizeof(qn_art_section)];
  QN_TRY(qn_file_writer_write(writer, table_space, sizeof table_space));
  QN_TRY(write_weights(&w));
  for (size_t i = 0; i < spec->program_count; i++) QN_TRY(write_program(&w, &spec->programs[i]));
  for (size_t i = 0; i < spec->code_count; i++) QN_TRY(write_code(&w, &spec->codes[i]));
  if (spec->tokenizer) QN_TRY(text_section(&w, QN_SECTION_TOKENIZER, spec->tokenizer, spec->tokenizer_size));
  if (spec->chat) QN_TRY(text_section(&w, QN_SECTION_CHAT, spec->chat, spec->chat_size));
  if (spec->summary) QN_TRY(text_section(&w, QN_SECTION_SUMMARY, spec->summary, strlen(spec->summary)));
  QN_TRY(write_texts(&w, QN_SECTION_GRAPH));
  QN_TRY(write_texts(&w, QN_SECTION_KERNELS));
  if (spec->public_key) QN_TRY(write_signature(&w));
  QN_TRY(qn_file_writer_align(writer, QN_ARTIFACT_PAGE));
  qn_art_header header = {.version = QN_ARTIFACT_VERSION, .section_count = w.section_count, .file_size = writer->offset};
  memcpy(header.magic, QN_ARTIFACT_MAGIC, sizeof header.magic);
  header.table_hash = qn_hash64(w.sections, w.section_count * sizeof *w.sections, QN_ARTIFACT_VERSION);
  QN_TRY(qn_file_writer_write_at(writer, 0, &header, sizeof header));
  return qn_file_writer_write_at(writer, sizeof header, w.sections, w.section_count * sizeof *w.sections);
}
