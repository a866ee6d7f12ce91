// Writes small artifacts by hand. Nothing here is shared with the real writer, so that the two check each other.
#include "tests/support/artifact_builder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "runtime/base/hash.h"

#define PUSH(vec, value) qn_test_need(qn_vec_push(qn_allocator_default(), vec, value), "memory")

void qn_test_need(bool condition, const char *what) {
  if (condition) return;
  fprintf(stderr, "a hand-made artifact needs %s\n", what);
  abort();
}

void qn_test_artifact_init(qn_test_artifact *a) {
  *a = (qn_test_artifact){.head = {.page_keys = 16}};
  qn_buf_init(&a->strings, qn_allocator_default());
  qn_buf_init(&a->weights, qn_allocator_default());
  qn_buf_putc(&a->strings, '\0');
  a->head.name = qn_test_artifact_string(a, "test");
}

void qn_test_artifact_deinit(qn_test_artifact *a) {
  qn_vec_free(qn_allocator_default(), &a->buffers);
  qn_vec_free(qn_allocator_default(), &a->kernels);
  qn_vec_free(qn_allocator_default(), &a->slices);
  qn_vec_free(qn_allocator_default(), &a->variants);
  qn_vec_free(qn_allocator_default(), &a->steps);
  qn_vec_free(qn_allocator_default(), &a->operands);
  qn_buf_deinit(&a->strings);
  qn_buf_deinit(&a->weights);
}

uint32_t qn_test_artifact_string(qn_test_artifact *a, const char *text) {
  uint32_t at = (uint32_t)a->strings.length;
  qn_buf_append(&a->strings, text, strlen(text) + 1);
  return at;
}

static uint32_t add_buffer(qn_test_artifact *a, qn_art_buffer buffer, const char *name) {
  if (name) buffer.name = qn_test_artifact_string(a, name);
  PUSH(&a->buffers, buffer);
  return (uint32_t)a->buffers.count - 1;
}

uint32_t qn_test_artifact_input(qn_test_artifact *a, const char *name, uint32_t symbol, uint32_t second_symbol) {
  qn_art_buffer b = {.kind = QN_ART_INPUT, .dtype = QN_TEST_I32, .rank = second_symbol ? 2 : 1};
  b.dims[0] = b.dims[1] = 1;
  b.symbols[0] = symbol;
  b.symbols[1] = second_symbol;
  return add_buffer(a, b, name);
}

uint32_t qn_test_artifact_cache(qn_test_artifact *a, const char *kind, uint32_t layer, uint64_t page_bytes) {
  return add_buffer(a, (qn_art_buffer){.kind = QN_ART_CACHE, .bytes = page_bytes, .layer = layer}, kind);
}

uint32_t qn_test_artifact_weight(qn_test_artifact *a, const char *name, const void *data, size_t size) {
  while (a->weights.length % 64 != 0) qn_buf_putc(&a->weights, '\0');
  qn_art_buffer b = {.kind = QN_ART_WEIGHT, .offset = a->weights.length, .bytes = size};
  qn_buf_append(&a->weights, data, size);
  return add_buffer(a, b, name);
}

uint32_t qn_test_artifact_arena(qn_test_artifact *a, const char *name, uint32_t symbol, int64_t rows, int64_t columns) {
  qn_art_buffer b = {.kind = QN_ART_ARENA, .dtype = QN_TEST_F32, .rank = 2, .output = name != NULL};
  b.offset = a->head.arena_bytes;
  b.row_pitch = (columns + 15) / 16 * 16;
  b.bytes = (uint64_t)(rows * b.row_pitch) * sizeof(float);
  b.dims[0] = symbol ? 1 : rows;
  b.dims[1] = columns;
  b.symbols[0] = symbol;
  a->head.arena_bytes += qn_align_up(b.bytes, 64);
  return add_buffer(a, b, name);
}

uint32_t qn_test_artifact_kernel(qn_test_artifact *a, const char *name, uint32_t param_count, uint32_t rows_symbol) {
  qn_art_kernel kernel = {
      .name = qn_test_artifact_string(a, name), .param_count = param_count, .rows_symbol = rows_symbol};
  PUSH(&a->kernels, kernel);
  PUSH(&a->slices, (qn_art_slice){0});
  return (uint32_t)a->kernels.count - 1;
}

uint32_t qn_test_artifact_plan(qn_test_artifact *a) {
  for (size_t i = 0; i < a->kernels.count; i++) PUSH(&a->slices, (qn_art_slice){0});
  return (uint32_t)(a->slices.count / a->kernels.count) - 1;
}

uint32_t qn_test_artifact_variant_of(qn_test_artifact *a, uint32_t kernel, int64_t rows_min, int64_t rows_max,
                                     uint32_t extent_symbol, int64_t extent_value) {
  qn_art_variant variant = {.rows_min = rows_min,
                            .rows_max = rows_max,
                            .name = qn_test_artifact_string(a, "variant"),
                            .extent_symbol = extent_symbol,
                            .extent_value = extent_value};
  size_t kernels = a->kernels.count, plan = (a->slices.count - 1) / kernels;
  qn_art_slice *slice = &a->slices.items[plan * kernels + kernel];
  PUSH(&a->variants, variant);
  if (slice->variant_count++ == 0) slice->first_variant = (uint32_t)a->variants.count - 1;
  return (uint32_t)a->variants.count - 1;
}

uint32_t qn_test_artifact_variant(qn_test_artifact *a, int64_t rows_min, int64_t rows_max, uint32_t extent_symbol,
                                  int64_t extent_value) {
  uint32_t last = (uint32_t)a->kernels.count - 1;
  return qn_test_artifact_variant_of(a, last, rows_min, rows_max, extent_symbol, extent_value);
}

void qn_test_artifact_step(qn_test_artifact *a, uint32_t kernel, bool barrier, const uint32_t *operands) {
  char loc[32];
  snprintf(loc, sizeof loc, "op %zu", a->steps.count);
  qn_art_step step = {.kernel = kernel,
                      .first_operand = (uint32_t)a->operands.count,
                      .operand_count = a->kernels.items[kernel].param_count,
                      .barrier = barrier,
                      .loc = qn_test_artifact_string(a, loc)};
  PUSH(&a->steps, step);
  for (uint32_t i = 0; i < step.operand_count; i++) PUSH(&a->operands, operands[i]);
}

void qn_test_artifact_code(qn_test_artifact *a, const char *target, const char *required, uint32_t arch,
                           const void *image, size_t image_size, const uint64_t *offsets) {
  qn_test_need(a->code_count < QN_TEST_MAX_CODES, "fewer code sections");
  qn_test_code *code = &a->codes[a->code_count++];
  *code = (qn_test_code){.head = {.arch = arch, .image_size = image_size}, .image = image, .table = offsets};
  snprintf(code->head.target, sizeof code->head.target, "%s", target);
  snprintf(code->head.required, sizeof code->head.required, "%s", required);
}

void qn_test_artifact_cuda(qn_test_artifact *a, const char *target, const char *required, uint32_t program,
                           const void *image, size_t cubin_size, size_t ptx_size, const qn_art_launch *launches) {
  qn_test_artifact_code(a, target, required, QN_ART_CUDA, image, cubin_size + ptx_size, NULL);
  qn_test_code *code = &a->codes[a->code_count - 1];
  code->head.program = program;
  code->head.cubin_size = cubin_size;
  code->head.ptx_size = ptx_size;
  code->table = launches;
}

// --- the file

static void align(qn_buf *out, size_t base, size_t alignment) {
  while ((out->length - base) % alignment != 0) qn_buf_putc(out, '\0');
}

static void put_program(const qn_test_artifact *a, qn_buf *out) {
  size_t base = out->length;
  qn_art_program head = a->head;
  head.buffer_count = (uint32_t)a->buffers.count;
  head.kernel_count = (uint32_t)a->kernels.count;
  head.plan_count = a->kernels.count ? (uint32_t)(a->slices.count / a->kernels.count) : 1;
  head.variant_count = (uint32_t)a->variants.count;
  head.step_count = (uint32_t)a->steps.count;
  head.operand_count = (uint32_t)a->operands.count;
  head.string_bytes = (uint32_t)a->strings.length;
  qn_buf_append(out, &head, sizeof head);
  qn_buf_append(out, a->buffers.items, a->buffers.count * sizeof *a->buffers.items);
  qn_buf_append(out, a->kernels.items, a->kernels.count * sizeof *a->kernels.items);
  qn_buf_append(out, a->slices.items, a->slices.count * sizeof *a->slices.items);
  qn_buf_append(out, a->variants.items, a->variants.count * sizeof *a->variants.items);
  qn_buf_append(out, a->steps.items, a->steps.count * sizeof *a->steps.items);
  qn_buf_append(out, a->operands.items, a->operands.count * sizeof *a->operands.items);
  align(out, base, 8);
  qn_buf_append(out, a->strings.data, a->strings.length);
}

static void put_code(const qn_test_artifact *a, const qn_test_code *code, qn_buf *out) {
  size_t base = out->length, record = code->head.arch == QN_ART_CUDA ? sizeof(qn_art_launch) : sizeof(uint64_t);
  qn_art_code head = code->head;
  if (head.program == 1) a = a->second;
  for (size_t k = 0; k < a->kernels.count; k++)
    head.variant_count += a->slices.items[head.plan * a->kernels.count + k].variant_count;
  head.image_offset = qn_align_up(sizeof head + head.variant_count * record, QN_ARTIFACT_PAGE);
  qn_buf_append(out, &head, sizeof head);
  qn_buf_append(out, code->table, head.variant_count * record);
  align(out, base, QN_ARTIFACT_PAGE);
  qn_buf_append(out, code->image, (size_t)code->head.image_size);
}

void qn_test_artifact_build(const qn_test_artifact *a, qn_buf *out) {
  qn_art_section sections[6 + QN_TEST_MAX_CODES];
  uint32_t count = 0, total = 2u + (uint32_t)a->code_count + (a->tokenizer.length > 0) + (a->summary.length > 0) +
                              (a->signature != NULL);
  total += (a->second != NULL) + (a->chat.length > 0);
  qn_buf_init(out, qn_allocator_default());
  for (size_t i = 0; i < sizeof(qn_art_header) + total * sizeof *sections; i++) qn_buf_putc(out, '\0');
#define BEGIN(section_kind, alignment) \
  align(out, 0, alignment);            \
  sections[count] = (qn_art_section){.kind = section_kind, .offset = out->length}
#define END() sections[count].size = out->length - sections[count].offset, count++
  BEGIN(QN_SECTION_WEIGHTS, QN_ARTIFACT_PAGE);
  qn_buf_append(out, a->weights.data, a->weights.length);
  END();
  BEGIN(QN_SECTION_PROGRAM, 64);
  put_program(a, out);
  END();
  if (a->second) {
    BEGIN(QN_SECTION_PROGRAM, 64);
    sections[count].index = 1;
    put_program(a->second, out);
    END();
  }
  for (size_t i = 0; i < a->code_count; i++) {
    BEGIN(QN_SECTION_CODE, QN_ARTIFACT_PAGE);
    sections[count].index = (uint32_t)i;
    put_code(a, &a->codes[i], out);
    END();
  }
  if (a->tokenizer.length > 0) {
    BEGIN(QN_SECTION_TOKENIZER, 64);
    qn_buf_append(out, a->tokenizer.data, a->tokenizer.length);
    END();
  }
  if (a->chat.length > 0) {
    BEGIN(QN_SECTION_CHAT, 64);
    qn_buf_append(out, a->chat.data, a->chat.length);
    END();
  }
  if (a->summary.length > 0) {
    BEGIN(QN_SECTION_SUMMARY, 64);
    qn_buf_append(out, a->summary.data, a->summary.length);
    END();
  }
  if (a->signature) {
    BEGIN(QN_SECTION_SIGNATURE, 64);
    qn_buf_append(out, a->signature, sizeof *a->signature);
    END();
  }
#undef BEGIN
#undef END
  qn_test_need(!out->failed && count == total, "memory");
  qn_art_header header = {.version = QN_ARTIFACT_VERSION, .section_count = count, .file_size = out->length};
  memcpy(header.magic, QN_ARTIFACT_MAGIC, sizeof header.magic);
  memcpy(out->data, &header, sizeof header);
  memcpy(out->data + sizeof header, sections, count * sizeof *sections);
  qn_test_artifact_rehash((uint8_t *)out->data, out->length);
}

void qn_test_artifact_rehash(uint8_t *data, size_t size) {
  qn_art_header header;
  if (size < sizeof header) return;
  memcpy(&header, data, sizeof header);
  if (header.section_count > (size - sizeof header) / sizeof(qn_art_section)) return;
  for (uint32_t i = 0; i < header.section_count; i++) {
    qn_art_section section;
    uint8_t *at = data + sizeof header + i * sizeof section;
    memcpy(&section, at, sizeof section);
    if (section.offset > size || section.size > size - section.offset) continue;
    bool hashed = section.kind != QN_SECTION_SIGNATURE;
    section.hash = hashed ? qn_hash64(data + section.offset, (size_t)section.size, section.kind) : 0;
    memcpy(at, &section, sizeof section);
  }
  header.table_hash =
      qn_hash64(data + sizeof header, header.section_count * sizeof(qn_art_section), QN_ARTIFACT_VERSION);
  memcpy(data, &header, sizeof header);
}

qn_mapping qn_test_artifact_map(const void *data, size_t size) {
  void *pages = mmap(NULL, size > 0 ? size : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  qn_test_need(pages != MAP_FAILED, "pages");
  if (size > 0) memcpy(pages, data, size);
  qn_test_need(mprotect(pages, size > 0 ? size : 1, PROT_READ) == 0, "pages that cannot be written");
  return (qn_mapping){.data = pages, .size = size};
}

const void *qn_test_machine_code(size_t *out_size) {
#if defined(__x86_64__)
  static const uint8_t code[] = {
      0x48, 0x8b, 0x07,  // mov rax, [rdi]
      0x89, 0x14, 0x90,  // again: mov [rax + 4 * rdx], edx
      0x48, 0xff, 0xc2,  // inc rdx
      0x48, 0x39, 0xca,  // cmp rdx, rcx
      0x7c, 0xf5,        // jl again
      0xc3,              // ret
  };
#elif defined(__aarch64__)
  static const uint32_t code[] = {
      0xf9400008,  // ldr x8, [x0]
      0xb8227902,  // again: str w2, [x8, x2, lsl #2]
      0x91000442,  // add x2, x2, #1
      0xeb03005f,  // cmp x2, x3
      0x54ffffab,  // b.lt again
      0xd65f03c0,  // ret
  };
#else
  static const uint8_t code[1];
  *out_size = 0;
  if (sizeof code == 1) return NULL;
#endif
  *out_size = sizeof code;
  return code;
}
