// The artifact's reader: a good file opens and reads back; a truncated, flipped or lying one is an error, never a
// crash.
#include "runtime/artifact.h"

#include <stdio.h>
#include <stdlib.h>

#include "tests/support/artifact_builder.h"
#include "tests/support/test.h"

static const uint64_t offsets[3] = {0, 1, 2}, plan_1_offsets[2] = {3, 4};
static const uint8_t image[16] = {0xc3, 0xc3, 0xc3};

static const float weights[20] = {1, 2, 3};

enum { INPUT, CACHE_0, CACHE_1, WEIGHT, HIDDEN, LOGITS };  // buffers

// The image of a GPU's code: a cubin, which nobody looks into here, and PTX.
static const char cuda_image[] = "\177ELF....// PTX";
enum { CUBIN_SIZE = 8, PTX_SIZE = sizeof cuda_image - CUBIN_SIZE };
static const qn_art_launch launches[2] = {{.lanes = 16, .groups = 8, .shared_bytes = 64}, {.lanes = 256, .groups = 1}};

// A program for GPUs over the weights of the one for CPUs.
static void add_gpu_program(qn_test_artifact *a, qn_test_artifact *gpu) {
  qn_test_artifact_init(gpu);
  gpu->head.machine = QN_ART_GPU;
  gpu->head.symbol_max[QN_TEST_SYM_R] = 4;
  gpu->head.vocab_size = 20;
  qn_test_artifact_weight(gpu, "w", weights, sizeof weights);
  qn_test_artifact_arena(gpu, "logits", QN_TEST_SYM_R, 4, 20);
  qn_test_artifact_kernel(gpu, "on a GPU", 2, QN_TEST_SYM_R);
  qn_test_artifact_variant(gpu, 1, 1, 0, 5);
  qn_test_artifact_variant(gpu, 2, 8, QN_TEST_SYM_R, 5);
  qn_test_artifact_step(gpu, 0, true, (const uint32_t[]){0, 1});
  qn_test_artifact_cuda(a, "cuda:sm_90", "sm_90", 1, cuda_image, CUBIN_SIZE, PTX_SIZE, launches);
  a->second = gpu;
}

// A little of everything. Code "two" has a plan of its own; with `gpu` there is a second program and code for it.
static qn_buf make_file(bool with_gpu) {
  qn_test_artifact a, gpu;
  qn_test_artifact_init(&a);
  a.head.symbol_max[QN_TEST_SYM_T] = 8;
  a.head.symbol_max[QN_TEST_SYM_R] = 4;
  a.head.vocab_size = 20;
  qn_test_artifact_input(&a, "tokens", QN_TEST_SYM_T, 0);
  qn_test_artifact_cache(&a, "k", 0, 64);
  qn_test_artifact_cache(&a, "k", 1, 128);
  qn_test_artifact_weight(&a, "w", weights, sizeof weights);
  qn_test_artifact_arena(&a, NULL, QN_TEST_SYM_T, 8, 4);
  qn_test_artifact_arena(&a, "logits", QN_TEST_SYM_R, 4, 20);
  qn_test_artifact_kernel(&a, "first", 2, 0);
  qn_test_artifact_variant(&a, 0, 0, QN_TEST_SYM_T, 2);
  qn_test_artifact_kernel(&a, "second", 3, QN_TEST_SYM_R);
  qn_test_artifact_variant(&a, 1, 1, 0, 5);
  qn_test_artifact_variant(&a, 2, 8, 0, 5);
  qn_test_artifact_plan(&a);
  qn_test_artifact_variant_of(&a, 0, 0, 0, QN_TEST_SYM_T, 2);
  qn_test_artifact_variant_of(&a, 1, 1, 8, 0, 10);
  qn_test_artifact_step(&a, 0, false, (const uint32_t[]){INPUT, HIDDEN});
  qn_test_artifact_step(&a, 1, true, (const uint32_t[]){HIDDEN, WEIGHT, LOGITS});
  qn_test_artifact_code(&a, "one", "sse4.2,avx2", 0, image, sizeof image, offsets);
  qn_test_artifact_code(&a, "two", "", 1, image, sizeof image, plan_1_offsets);
  a.codes[1].head.plan = 1;
  a.tokenizer = QN_STR("not looked at");
  a.summary = QN_STR("key = value\n");
  qn_buf file;
  if (with_gpu) add_gpu_program(&a, &gpu);
  qn_test_artifact_build(&a, &file);
  if (with_gpu) qn_test_artifact_deinit(&gpu);
  qn_test_artifact_deinit(&a);
  return file;
}

static qn_buf small_file(void) { return make_file(false); }

static qn_status open_bytes(qn_artifact *artifact, const void *data, size_t size, qn_diag *diag) {
  return qn_artifact_open_mapping(artifact, qn_test_artifact_map(data, size), "t.qn", diag);
}

START_TEST(opens_and_reads_back) {
  qn_buf file = small_file();
  qn_artifact a;
  qn_diag diag = {0};
  const char *path = qn_test_temp_path("small.qn");
  qn_test_write_file(path, file.data, file.length);
  qn_assert_ok(&diag, qn_artifact_open(&a, path, &diag));
  ck_assert_uint_eq(a.program->buffer_count, 6);
  ck_assert_str_eq(a.strings + a.buffers[LOGITS].name, "logits");
  ck_assert_str_eq(a.strings + a.kernels[1].name, "second");
  ck_assert_str_eq(a.strings + a.steps[1].loc, "op 1");
  ck_assert_int_eq(a.variants[2].rows_max, 8);
  ck_assert_uint_eq(a.operands[a.steps[1].first_operand + 1], WEIGHT);
  float third;
  memcpy(&third, a.weights + a.buffers[WEIGHT].offset + 8, sizeof third);
  ck_assert(third == 3.0f);
  size_t size;
  const qn_art_code *code = qn_artifact_section(&a, QN_SECTION_CODE, 1, &size);
  ck_assert_str_eq(code->target, "two");
  uint32_t first, count;
  ck_assert_uint_eq(qn_artifact_plan(&a, 0, &first, &count)[1].variant_count, 2);
  ck_assert(first == 0 && count == 3);
  ck_assert_uint_eq(qn_artifact_plan(&a, code->plan, &first, &count)[1].first_variant, 4);
  ck_assert(first == 3 && count == 2 && code->variant_count == 2);
  ck_assert_ptr_null(qn_artifact_section(&a, QN_SECTION_CODE, 2, &size));
  ck_assert_ptr_null(qn_artifact_section(&a, QN_SECTION_GRAPH, 0, &size));
  const char *summary = qn_artifact_section(&a, QN_SECTION_SUMMARY, 0, &size);
  ck_assert(qn_str_is((qn_str){summary, size}, "key = value\n"));
  qn_assert_ok(&diag, qn_artifact_check_weights(&a, &diag));
  qn_artifact_close(&a);
  qn_assert_fails(&diag, QN_ERR_IO, "none.qn", qn_artifact_open(&a, qn_test_temp_path("none.qn"), &diag));
  qn_buf_deinit(&file);
}
END_TEST

START_TEST(a_program_for_each_kind_of_machine) {
  qn_buf file = make_file(true);
  qn_artifact a, view;
  qn_diag diag = {0};
  qn_assert_ok(&diag, open_bytes(&a, file.data, file.length, &diag));
  ck_assert_uint_eq(a.program->machine, QN_ART_CPU);  // the first one is taken
  ck_assert_uint_eq(a.program->buffer_count, 6);
  ck_assert(qn_artifact_view(&a, QN_ART_CPU, &view) && view.program == a.program && view.program_index == 0);
  ck_assert(qn_artifact_view(&a, QN_ART_GPU, &view) && view.program_index == 1);
  ck_assert_uint_eq(view.program->buffer_count, 2);
  ck_assert_str_eq(view.strings + view.kernels[0].name, "on a GPU");
  ck_assert_mem_eq(view.weights + view.buffers[0].offset, weights, sizeof weights);
  const qn_art_code *code = qn_artifact_code_at(&a, 2);
  ck_assert_str_eq(code->target, "cuda:sm_90");
  ck_assert(code->program == 1 && code->variant_count == 2 && qn_art_code_sm(code) == 90);
  ck_assert_mem_eq(qn_art_code_launches(code), launches, sizeof launches);
  ck_assert_mem_eq((const char *)code + code->image_offset, cuda_image, sizeof cuda_image);
  ck_assert_ptr_null(qn_artifact_code_at(&a, 3));
  qn_artifact_close(&a);
  qn_buf_deinit(&file);

  file = small_file();
  qn_assert_ok(&diag, open_bytes(&a, file.data, file.length, &diag));
  ck_assert(!qn_artifact_view(&a, QN_ART_GPU, &view));
  qn_artifact_close(&a);
  qn_buf_deinit(&file);
}
END_TEST

START_TEST(a_program_for_gpus_alone) {
  qn_test_artifact a;
  qn_artifact opened, view;
  qn_buf file;
  qn_diag diag = {0};
  qn_test_artifact_init(&a);
  a.head.machine = QN_ART_GPU;
  qn_test_artifact_kernel(&a, "k", 0, 0);
  qn_test_artifact_variant(&a, 0, 0, 0, 1);
  qn_test_artifact_cuda(&a, "cuda:sm_120", "sm_120", 0, cuda_image, 0, sizeof cuda_image, launches);
  qn_test_artifact_build(&a, &file);
  qn_assert_ok(&diag, open_bytes(&opened, file.data, file.length, &diag));
  ck_assert_uint_eq(opened.program->machine, QN_ART_GPU);
  ck_assert(!qn_artifact_view(&opened, QN_ART_CPU, &view) && qn_artifact_view(&opened, QN_ART_GPU, &view));
  ck_assert_int_eq(qn_art_code_sm(qn_artifact_code_at(&opened, 0)), 120);
  qn_artifact_close(&opened);
  qn_buf_deinit(&file);
  qn_test_artifact_deinit(&a);
}
END_TEST

START_TEST(weights_are_checked_when_asked) {
  qn_buf file = small_file();
  qn_artifact a;
  qn_diag diag = {0};
  file.data[QN_ARTIFACT_PAGE + 5] ^= 1;  // weights come first
  qn_assert_ok(&diag, open_bytes(&a, file.data, file.length, &diag));
  qn_assert_fails(&diag, QN_ERR_FORMAT, "(weights)", qn_artifact_check_weights(&a, &diag));
  qn_artifact_close(&a);
  qn_buf_deinit(&file);
}
END_TEST

START_TEST(truncated_anywhere) {
  qn_buf file = small_file();
  for (size_t size = 0; size < file.length; size++) {
    qn_artifact a;
    qn_diag diag = {0};
    qn_status status = open_bytes(&a, file.data, size, &diag);
    qn_check(status == QN_ERR_FORMAT, "%zu bytes: got %s", size, qn_status_name(status));
    qn_check(strncmp(diag.text, "t.qn: the file is truncated: got ", 33) == 0, "%zu bytes: %s", size, diag.text);
  }
  qn_buf_putc(&file, 'x');
  qn_artifact a;
  qn_diag diag = {0};
  qn_assert_fails(&diag, QN_ERR_FORMAT, "after its end", open_bytes(&a, file.data, file.length, &diag));
  qn_buf_deinit(&file);
}
END_TEST

// Touches all that the reader hands out, so that the sanitizers see what lies outside.
static uint64_t touch_program(const qn_artifact *a) {
  uint64_t sum = strlen(a->strings + a->program->name);
  for (uint32_t i = 0; i < a->program->buffer_count; i++) {
    const qn_art_buffer *b = &a->buffers[i];
    sum += strlen(a->strings + b->name);
    if (b->kind == QN_ART_WEIGHT && b->bytes > 0) sum += a->weights[b->offset] + a->weights[b->offset + b->bytes - 1];
  }
  for (uint32_t i = 0; i < a->program->step_count; i++) {
    const qn_art_step *s = &a->steps[i];
    const qn_art_kernel *k = &a->kernels[s->kernel];
    sum += strlen(a->strings + k->name) + strlen(a->strings + s->loc);
    for (uint32_t p = 0; p < a->program->plan_count; p++) {
      const qn_art_slice *slice = &a->slices[p * a->program->kernel_count + s->kernel];
      for (uint32_t v = 0; v < slice->variant_count; v++)
        sum += strlen(a->strings + a->variants[slice->first_variant + v].name);
    }
    for (uint32_t o = 0; o < s->operand_count; o++) sum += a->buffers[a->operands[s->first_operand + o]].bytes;
  }
  return sum;
}

static uint64_t touch_code(const qn_art_code *code) {
  uint64_t sum = strlen(code->target) + strlen(code->required);
  const uint8_t *bytes = (const uint8_t *)code + code->image_offset;
  for (uint32_t v = 0; v < code->variant_count; v++) {
    uint64_t offset;
    memcpy(&offset, (const uint8_t *)(code + 1) + v * sizeof offset, sizeof offset);
    sum += code->arch == QN_ART_CUDA ? qn_art_code_launches(code)[v].lanes : bytes[offset];
  }
  for (uint64_t i = 0; i < code->cubin_size; i++) sum += bytes[i];
  return sum + (code->ptx_size ? strlen((const char *)bytes + code->cubin_size) : 0);
}

static uint64_t touch(const qn_artifact *a) {
  uint64_t sum = 0;
  qn_artifact view;
  for (qn_art_machine machine = QN_ART_CPU; machine < QN_ART_MACHINE_COUNT; machine++)
    if (qn_artifact_view(a, machine, &view)) sum += touch_program(&view);
  const qn_art_code *code;
  for (uint32_t i = 0; (code = qn_artifact_code_at(a, i)) != NULL; i++) sum += touch_code(code);
  return sum;
}

// Opens changed bytes: an error with words, or a file that can be walked.
static bool survives(const qn_buf *file) {
  qn_artifact a;
  qn_diag diag = {0};
  qn_status status = open_bytes(&a, file->data, file->length, &diag);
  if (status == QN_OK) {
    touch(&a);
    qn_artifact_close(&a);
    return true;
  }
  qn_check(status == QN_ERR_FORMAT || status == QN_ERR_UNSUPPORTED, "got %s", qn_status_name(status));
  qn_check(strncmp(diag.text, "t.qn: ", 6) == 0 && diag.status == status, "%s", diag.text);
  return false;
}

// Where the bytes that matter are: header and table, the program section, heads and offsets of the code sections.
static size_t interesting(const qn_buf *file, size_t (*out_ranges)[2]) {
  qn_artifact a;
  qn_diag diag = {0};
  size_t count = 0;
  qn_assert_ok(&diag, open_bytes(&a, file->data, file->length, &diag));
  out_ranges[count][0] = 0;
  out_ranges[count++][1] = sizeof(qn_art_header) + a.section_count * sizeof(qn_art_section);
  for (uint32_t i = 0; i < a.section_count; i++) {
    const qn_art_section *s = &a.sections[i];
    if (s->kind != QN_SECTION_PROGRAM && s->kind != QN_SECTION_CODE) continue;
    size_t bytes = s->kind == QN_SECTION_CODE ? sizeof(qn_art_code) + sizeof launches : (size_t)s->size;
    out_ranges[count][0] = (size_t)s->offset;
    out_ranges[count++][1] = (size_t)s->offset + bytes;
  }
  qn_artifact_close(&a);
  return count;
}

START_TEST(flipped_anywhere) {
  qn_buf file = make_file(true);
  size_t ranges[8][2], count = interesting(&file, ranges), opened = 0, tried = 0;
  for (size_t r = 0; r < count; r++) {
    for (size_t at = ranges[r][0]; at < ranges[r][1]; at++) {
      file.data[at] = (char)(file.data[at] ^ (1 << (at % 8)));
      qn_check(!survives(&file) || at < 256, "a changed byte %zu is not noticed", at);
      file.data[at] = (char)(file.data[at] ^ (1 << (at % 8)));
    }
  }
  // With checksums that fit, the checks behind them decide; each byte becomes each of some telling values.
  static const uint8_t values[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
  qn_buf changed;
  qn_buf_init(&changed, qn_test_allocator());
  for (size_t r = 0; r < count; r++) {
    for (size_t at = ranges[r][0]; at < ranges[r][1]; at++) {
      for (size_t v = 0; v < QN_COUNT(values); v++) {
        changed.length = 0;
        qn_buf_append(&changed, file.data, file.length);
        changed.data[at] = (char)values[v];
        qn_test_artifact_rehash((uint8_t *)changed.data, changed.length);
        opened += survives(&changed);
        tried++;
      }
    }
  }
  ck_assert_uint_gt(opened, 0);
  ck_assert_uint_lt(opened, tried);
  qn_buf_deinit(&changed);
  qn_buf_deinit(&file);
}
END_TEST

// --- one lie at a time

typedef struct records {
  qn_art_header *header;
  qn_art_section *sections;
  qn_art_program *program;
  qn_art_buffer *buffers;
  qn_art_kernel *kernels;
  qn_art_slice *slices;
  qn_art_variant *variants;
  qn_art_step *steps;
  uint32_t *operands;
  char *strings;
  qn_art_code *code;
  uint64_t *offsets;
  qn_art_program *gpu;  // with two programs, from here on
  qn_art_step *gpu_steps;
  qn_art_code *cuda;
  qn_art_launch *launches;
  char *image;
} records;

// The records of a file in memory that may be written (aligned, since the file begins at an allocation).
static records records_of(qn_buf *file, bool with_gpu) {
  records r = {.header = (void *)file->data, .sections = (void *)(file->data + sizeof(qn_art_header))};
  r.program = (void *)(file->data + r.sections[1].offset);
  r.buffers = (void *)(r.program + 1);
  r.kernels = (void *)(r.buffers + r.program->buffer_count);
  r.slices = (void *)(r.kernels + r.program->kernel_count);
  r.variants = (void *)(r.slices + r.program->plan_count * r.program->kernel_count);
  r.steps = (void *)(r.variants + r.program->variant_count);
  r.operands = (void *)(r.steps + r.program->step_count);
  r.strings = (char *)r.program + r.sections[1].size - r.program->string_bytes;
  r.code = (void *)(file->data + r.sections[with_gpu ? 3 : 2].offset);
  r.offsets = (void *)(r.code + 1);
  if (!with_gpu) return r;
  r.gpu = (void *)(file->data + r.sections[2].offset);
  qn_art_kernel *kernel = (void *)((qn_art_buffer *)(void *)(r.gpu + 1) + r.gpu->buffer_count);
  qn_art_slice *slice = (void *)(kernel + r.gpu->kernel_count);
  r.gpu_steps = (void *)((qn_art_variant *)(void *)(slice + 1) + r.gpu->variant_count);
  r.cuda = (void *)(file->data + r.sections[5].offset);
  r.launches = (void *)(r.cuda + 1);
  r.image = (char *)r.cuda + r.cuda->image_offset;
  return r;
}

#define LIE(needle, assignment) LIE_IN(false, needle, assignment)
#define GPU_LIE(needle, assignment) LIE_IN(true, needle, assignment)
#define LIE_IN(with_gpu, needle, assignment)                                                      \
  do {                                                                                            \
    qn_buf file = make_file(with_gpu);                                                            \
    records r = records_of(&file, with_gpu);                                                      \
    qn_artifact a;                                                                                \
    qn_diag diag = {0};                                                                           \
    assignment;                                                                                   \
    qn_test_artifact_rehash((uint8_t *)file.data, file.length);                                   \
    qn_assert_fails(&diag, QN_ERR_FORMAT, needle, open_bytes(&a, file.data, file.length, &diag)); \
    qn_buf_deinit(&file);                                                                         \
  } while (0)

START_TEST(lies_of_the_table) {
  LIE("not a quern artifact", r.header->magic[0] = 'Q');
  LIE("transfer as text", r.header->magic[5] = '\n');
  LIE("want at most", r.header->section_count = 0xffffffff);
  LIE("want a multiple of 64", r.sections[1].offset += 8);
  LIE("want a multiple of 4096", r.sections[2].offset += 64);
  LIE("want at least", r.sections[2].offset = 0);
  LIE("want an end within", r.sections[5].size = UINT64_MAX);
  LIE("want an end within", r.sections[2].offset = UINT64_MAX - 4095);
  LIE("one section of this kind", r.sections[5].kind = QN_SECTION_TOKENIZER);
  LIE("consecutive ones", r.sections[3].index = 2);
  LIE("no program section", r.sections[1].kind = 77);
  LIE("end in the weights", r.sections[0].size = 64);
  qn_buf file = small_file();
  qn_artifact a;
  qn_diag diag = {0};
  records_of(&file, false).header->version = 3;
  qn_assert_fails(&diag, QN_ERR_UNSUPPORTED, "got 3, want 6", open_bytes(&a, file.data, file.length, &diag));
  qn_buf_deinit(&file);
}
END_TEST

START_TEST(lies_of_the_program) {
  LIE("buffers: got 4294967295", r.program->buffer_count = UINT32_MAX);
  LIE("operands: got 1000 of", r.program->operand_count = 1000);
  LIE("program section 0: got", r.program->string_bytes -= 1);
  LIE("begin and end with a NUL", r.strings[r.program->string_bytes - 1] = 'x');
  LIE("arena bytes", r.program->arena_bytes = UINT64_C(1) << 50);
  LIE("end in the arena", r.program->arena_bytes -= 64);
  LIE("largest symbol value", r.program->symbol_max[1] = -1);
  LIE("start of a text: got 21, want at most 20", r.program->start = 21);
  LIE("buffer 0: kind: got 9, want at most 3", r.buffers[0].kind = 9);
  LIE("buffer 0: got no name", r.buffers[0].name = 0);
  LIE("buffer 0: name", r.buffers[0].name = r.program->string_bytes);
  LIE("symbol: got 7", r.buffers[0].symbols[0] = 7);
  LIE("cache of a source: got 1, want at most 0", r.buffers[0].of_source = 1);
  LIE("buffer 0: window: got 1, want at most 0", r.buffers[0].window = 1);
  LIE("buffer 1: window: got 2147483648, want at most 2147483647", r.buffers[CACHE_0].window = 1u << 31);
  LIE("rank: got 5", r.buffers[0].rank = 5);
  LIE("buffer 1: got pages of 0 bytes", r.buffers[CACHE_0].bytes = 0);
  LIE("which buffer 1 is already", r.buffers[CACHE_1].layer = 0);
  LIE("offset in the weights", r.buffers[WEIGHT].offset = UINT64_MAX);
  LIE("end in the weights", r.buffers[WEIGHT].offset = 64);
  LIE("remainder by 64", r.buffers[HIDDEN].offset = 4);
  LIE("named f32 or i32 value in the arena", r.buffers[LOGITS].dtype = 4);
  LIE("row pitch: got 8, want at least 20", r.buffers[LOGITS].row_pitch = 8);
  LIE("bytes of an output's rows", r.program->symbol_max[QN_TEST_SYM_R] = 5);
  LIE("an output whose rows have no bound (symbol 2)", r.program->symbol_max[QN_TEST_SYM_R] = 0);
  LIE("got no plans", r.program->plan_count = 0);
  LIE("slices: got 4294967294 of 8 bytes", r.program->plan_count = INT32_MAX);
  LIE("slice 0: variants: got 0", r.slices[0].variant_count = 0);
  LIE("slice 1: variants: got 2, want 1", r.kernels[1].rows_symbol = 0);
  LIE("slice 1: first variant: got 2, want 1", r.slices[1].first_variant = 2);
  LIE("slice 2: first variant: got 0, want 3", r.slices[2].first_variant = 0);
  LIE("slice 3: end of the variants: got 6, want at most 5", r.slices[3].variant_count = 2);
  LIE("got 5 variants, want 4 as the plans have",
      (r.slices[1].variant_count = 1, r.slices[2].first_variant = 2, r.slices[3].first_variant = 3));
  LIE("variant 1: smallest", r.variants[1].rows_min = 3);
  LIE("variant 0: symbol of the extent", r.variants[0].extent_symbol = 7);
  LIE("variant 0: extent", r.variants[0].extent_value = -1);
  LIE("variant 0: rows of an iteration", r.variants[0].extent_rows = UINT32_MAX);
  LIE("step 1: kernel: got 2, want one of 2", r.steps[1].kernel = 2);
  LIE("a thread's own", r.program->own_bytes = UINT64_C(1) << 50);
  LIE("buffer 0: bytes in a thread's own memory: got 64, want at most 0",
      (r.program->own_bytes = 64, r.buffers[0].own_bytes = 64));
  LIE("bytes in a thread's own memory: got 65", (r.program->own_bytes = 64, r.buffers[HIDDEN].own_bytes = 65));
  LIE("offset in a thread's own memory: got 64, want at most 60",
      (r.program->own_bytes = 64, r.buffers[HIDDEN].own_bytes = 4, r.buffers[HIDDEN].own_offset = 64));
  LIE("an output's bytes in a thread's own memory",
      (r.program->own_bytes = 64, r.buffers[HIDDEN].own_bytes = 64, r.buffers[HIDDEN].output = 1));
  LIE("symbol: got 7", r.buffers[HIDDEN].symbols[3] = 7);
  LIE("own offset's remainder by 64", (r.program->own_bytes = 64, r.buffers[HIDDEN].own_offset = 4));
  LIE("variant 1: mark of parts", r.variants[1].in_parts = 2);
  LIE("step 1: link: got 3, want at most 2", r.steps[1].link = 3);
  LIE("step 0: got link 2, want a neighbour to join", r.steps[0].link = QN_ART_LINK_CHAINED);
  LIE("step 1: got link 1, want a neighbour to join", r.steps[1].link = QN_ART_LINK_PROLOGUE);
  LIE("none beside a prologue", (r.steps[0].link = QN_ART_LINK_PROLOGUE, r.steps[1].link = QN_ART_LINK_CHAINED));
  LIE("step 1: end of the operands", r.steps[1].first_operand = 3);
  LIE("step 0: got 1 operands, want 2", r.steps[0].operand_count = 1);
  LIE("operand 4: got buffer 6, want one of 6", r.operands[4] = 6);
}
END_TEST

START_TEST(lies_of_the_code) {
  LIE("without an end", memset(r.code->target, 'x', sizeof r.code->target));
  LIE("without an end", memset(r.code->required, 'x', sizeof r.code->required));
  LIE("got plan 2, want one of 2", r.code->plan = 2);
  LIE("got 3 functions, want 2", r.code->plan = 1);
  LIE("got 2 functions, want 3", r.code->variant_count = 2);
  LIE("image of 16 bytes at 8192", r.code->image_offset = 8192);
  LIE("image of 16 bytes at 0", r.code->image_offset = 0);
  LIE("image of 17 bytes", r.code->image_size = 17);
  LIE("function 2: got offset 16, want less than 16", r.offsets[2] = 16);
  LIE("got program 1, which is not there", r.code->program = 1);
  LIE("got a cubin of 1 bytes and PTX of 0 in code for a CPU", r.code->cubin_size = 1);
  LIE("got code for GPUs of program 0, which is for CPUs", r.code->arch = QN_ART_CUDA);
}
END_TEST

START_TEST(lies_of_a_gpus_code) {
  GPU_LIE("program section 1: head 0: machine: got 2", r.gpu->machine = 2);
  GPU_LIE("program section 1: got machine 0 after 0, want one program for each", r.gpu->machine = QN_ART_CPU);
  GPU_LIE("program section 1: got machine 1 after 1", r.program->machine = QN_ART_GPU);
  GPU_LIE("a thread's own: got 64, want at most 0", r.gpu->own_bytes = 64);
  GPU_LIE("link: got 2, want at most 0", r.gpu_steps[0].link = QN_ART_LINK_CHAINED);
  GPU_LIE("consecutive ones", r.sections[2].index = 2);
  GPU_LIE("code section 2: got code for CPUs of program 1, which is for GPUs", r.cuda->arch = QN_ART_X86_64);
  GPU_LIE("code section 2: got code for GPUs of program 0", r.cuda->program = 0);
  GPU_LIE("got plan 1, want one of 1", r.cuda->plan = 1);
  GPU_LIE("got 3 functions, want 2", r.cuda->variant_count = 3);
  GPU_LIE("got '' as the chip", r.cuda->required[0] = '\0');
  GPU_LIE("got 'sm_9x' as the chip", r.cuda->required[4] = 'x');
  GPU_LIE("got 'sm_99999' as the chip", strcpy(r.cuda->required, "sm_99999"));
  GPU_LIE("got a cubin of 9 bytes and PTX of 7 in an image of 15", r.cuda->cubin_size++);
  GPU_LIE("want at least one, and both together", r.cuda->cubin_size = UINT64_MAX);
  GPU_LIE("got PTX whose end is not at its 7th byte", r.image[sizeof cuda_image - 1] = 'x');
  GPU_LIE("got PTX whose end is not at its 7th byte", r.image[CUBIN_SIZE] = '\0');
  GPU_LIE("function 0: got blocks of 8 groups of 0 lanes", r.launches[0].lanes = 0);
  GPU_LIE("function 1: got blocks of 5 groups of 256 lanes with 0 bytes of shared memory, want 1 to 1024",
          r.launches[1].groups = 5);
  GPU_LIE("function 1: got blocks of 0 groups", r.launches[1].groups = 0);
  GPU_LIE("blocks of 4294967295 groups of 4294967295", r.launches[1].lanes = r.launches[1].groups = UINT32_MAX);
  GPU_LIE("with 1000000 bytes of shared memory", r.launches[0].shared_bytes = 1000000);
}
END_TEST

QN_CASE(reading, opens_and_reads_back, a_program_for_each_kind_of_machine, a_program_for_gpus_alone,
        weights_are_checked_when_asked)
QN_CASE(damage, truncated_anywhere, flipped_anywhere)
QN_CASE(lies, lies_of_the_table, lies_of_the_program, lies_of_the_code, lies_of_a_gpus_code)
QN_TEST_MAIN(reading, damage, lies)
