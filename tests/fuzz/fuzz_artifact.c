// Fuzzes the artifact's reader: any bytes give an error or an artifact whose every record lies inside those bytes, over
// which an executor, a KV cache and a decoder can be made.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/decode.h"
#include "tests/support/fake_model.h"
#include "tests/support/fuzz.h"

static void require_inside(const qn_artifact *a, const void *view, uint64_t bytes) {
  fuzz_require_inside(a->mapping.data, a->mapping.size, view, bytes, "a record leaves the file");
}

static void require_string(const qn_artifact *a, uint32_t offset) {
  fuzz_require(offset < a->program->string_bytes, "a string begins outside the strings");
  require_inside(a, a->strings + offset, strlen(a->strings + offset) + 1);
}

static void read_program(const qn_artifact *a) {
  const qn_art_program *p = a->program;
  require_string(a, p->name);
  for (uint32_t i = 0; i < p->buffer_count; i++) {
    const qn_art_buffer *b = &a->buffers[i];
    require_inside(a, b, sizeof *b);
    require_string(a, b->name);
    if (b->kind == QN_ART_WEIGHT) require_inside(a, a->weights + b->offset, b->bytes);
    if (b->kind == QN_ART_ARENA) fuzz_require(b->offset + b->bytes <= p->arena_bytes, "a buffer leaves the arena");
  }
  for (uint32_t i = 0; i < p->step_count; i++) {
    const qn_art_step *s = &a->steps[i];
    const qn_art_kernel *k = &a->kernels[s->kernel];
    require_inside(a, k, sizeof *k);
    require_string(a, s->loc);
    for (uint32_t plan = 0; plan < p->plan_count; plan++) {
      const qn_art_slice *slice = &a->slices[plan * p->kernel_count + s->kernel];
      require_inside(a, slice, sizeof *slice);
      for (uint32_t v = 0; v < slice->variant_count; v++) require_string(a, a->variants[slice->first_variant + v].name);
    }
    for (uint32_t o = 0; o < s->operand_count; o++)
      fuzz_require(a->operands[s->first_operand + o] < p->buffer_count, "an operand");
  }
}

static void read_all(const qn_artifact *a) {
  qn_artifact view;
  for (qn_art_machine machine = QN_ART_CPU; machine < QN_ART_MACHINE_COUNT; machine++)
    if (qn_artifact_view(a, machine, &view)) read_program(&view);
  const qn_art_code *code;
  for (uint32_t i = 0; (code = qn_artifact_code_at(a, i)) != NULL; i++) {
    const uint8_t *image = (const uint8_t *)code + code->image_offset;
    require_inside(a, image, code->image_size);
    fuzz_require(strlen(code->target) < sizeof code->target && strlen(code->required) < sizeof code->required, "a name");
    if (code->arch != QN_ART_CUDA) continue;
    require_inside(a, qn_art_code_launches(code), code->variant_count * sizeof(qn_art_launch));
    fuzz_require(code->cubin_size + code->ptx_size == code->image_size && qn_art_code_sm(code) > 0, "code for a GPU");
    if (code->ptx_size > 0) fuzz_require(strlen((const char *)image + code->cubin_size) == code->ptx_size - 1, "the PTX");
  }
}

// Builds what works on an artifact; runs nothing. Sizes that would take real memory are left out.
static void build_on(const qn_artifact *a, qn_threads *threads) {
  const qn_art_code *code = NULL;
  qn_executor *executor = NULL;
  qn_decoder *decoder = NULL;
  if (a->program->arena_bytes > 1 << 20) return;
  for (uint32_t i = 0; i < a->program->buffer_count; i++) {
    if (a->buffers[i].kind == QN_ART_CACHE && a->buffers[i].bytes > 1 << 16) return;
  }
  if (a->program->symbol_max[QN_TEST_SYM_T] > 4096) return;
  if (qn_executor_choose_code(a, NULL, &code, NULL) == QN_OK) fuzz_require(code != NULL, "no code and no error");
  qn_kernel_entry *entries = calloc(a->program->variant_count + 1, sizeof *entries);
  fuzz_require(entries != NULL, "out of memory");
  qn_executor_options options = {.jit_entries = entries};
  if (qn_executor_create(a, threads, &options, qn_allocator_default(), &executor, NULL) == QN_OK) {
    const qn_art_buffer *buffer = NULL;
    const float *logits = qn_executor_output(executor, "logits", &buffer);
    if (logits) fuzz_require(buffer->output == 1, "an output that is none");
    qn_executor_destroy(executor);
  }
  qn_decoder_options decoding = {.context = 64, .executor = options};
  if (qn_decoder_create(a, threads, &decoding, qn_allocator_default(), &decoder, NULL) == QN_OK) {
    fuzz_require(qn_decoder_vocab(decoder) > 0, "a vocabulary");
    qn_decoder_destroy(decoder);
  }
  free(entries);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static qn_threads *threads;
  qn_artifact artifact;
  qn_diag diag = {0};
  if (!threads) fuzz_require(qn_threads_create(1, false, qn_allocator_default(), &threads, NULL) == QN_OK, "no thread");
  qn_status status = qn_artifact_open_mapping(&artifact, qn_test_artifact_map(data, size), "fuzz.qn", &diag);
  if (status == QN_OK) {
    read_all(&artifact);
    build_on(&artifact, threads);
    qn_artifact_close(&artifact);
  } else {
    fuzz_require(status == QN_ERR_FORMAT || status == QN_ERR_UNSUPPORTED, "an odd status");
    fuzz_require(diag.status == status && strncmp(diag.text, "fuzz.qn: ", 9) == 0, "an error does not name the file");
  }
  return 0;
}

static void add_code(qn_test_artifact *a) {
  static const uint8_t image[64];
  static const uint64_t offsets[QN_FAKE_KERNELS] = {0, 8, 16, 63};
  static const float weights[32] = {1, 2, 3};
  static const qn_art_launch launch = {.lanes = 32, .groups = 4};
  static qn_test_artifact gpu;
  qn_test_artifact_init(&gpu);
  gpu.head.machine = QN_ART_GPU;
  qn_test_artifact_weight(&gpu, "w", weights, sizeof weights);
  qn_test_artifact_kernel(&gpu, "k", 1, 0);
  qn_test_artifact_variant(&gpu, 0, 0, 0, 7);
  qn_test_artifact_step(&gpu, 0, false, (const uint32_t[]){0});
  qn_test_artifact_code(a, "plain", "", 0, image, sizeof image, offsets);
  qn_test_artifact_code(a, "other", "neon,dotprod", 1, image, sizeof image, offsets);
  qn_test_artifact_weight(a, "w", weights, sizeof weights);
  qn_test_artifact_cuda(a, "cuda:sm_80", "sm_80", 1, "cubinPTX", 5, 4, &launch);
  a->second = &gpu;
}

void fuzz_seeds(fuzz_take_fn take, void *context) {
  qn_buf file;
  qn_fake_model_build(&(qn_fake_options){.tokenizer = true, .max_p = 8}, add_code, &file);
  take(context, file.data, file.length);
  qn_buf_deinit(&file);
}

static void repair(uint8_t *data, size_t size) {
  uint64_t file_size = size;
  if (size >= sizeof(qn_art_header)) memcpy(data + offsetof(qn_art_header, file_size), &file_size, sizeof file_size);
  qn_test_artifact_rehash(data, size);
}

QN_FUZZ_MAIN_WITH(.runs = 20000, .sparse = true, .repair = repair)
