// Fuzzes the artifact's reader: any bytes give an error or an artifact whose every record lies inside those bytes, over
// which an executor, a KV cache and a decoder can be made. With libFuzzer (clang -DQN_LIBFUZZER
// -fsanitize=fuzzer,address,undefined) the engine drives it; built plainly it mutates a small file, and any that are
// named, by a fixed random sequence: fuzz_artifact [-n RUNS] [-s SEED] [FILE...]
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/decode.h"
#include "tests/support/fake_model.h"
#include "tests/support/fuzz.h"

static void require(bool condition, const char *what) {
  if (condition) return;
  fprintf(stderr, "fuzz_artifact: %s\n", what);
  abort();
}

static void require_inside(const qn_artifact *a, const void *view, uint64_t bytes) {
  uint64_t begin = (uint64_t)((uintptr_t)view - (uintptr_t)a->mapping.data);
  require(begin <= a->mapping.size && bytes <= a->mapping.size - begin, "a record leaves the file");
}

static void require_string(const qn_artifact *a, uint32_t offset) {
  require(offset < a->program->string_bytes, "a string begins outside the strings");
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
    if (b->kind == QN_ART_ARENA) require(b->offset + b->bytes <= p->arena_bytes, "a buffer leaves the arena");
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
      require(a->operands[s->first_operand + o] < p->buffer_count, "an operand");
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
    require(strlen(code->target) < sizeof code->target && strlen(code->required) < sizeof code->required, "a name");
    if (code->arch != QN_ART_CUDA) continue;
    require_inside(a, qn_art_code_launches(code), code->variant_count * sizeof(qn_art_launch));
    require(code->cubin_size + code->ptx_size == code->image_size && qn_art_code_sm(code) > 0, "code for a GPU");
    if (code->ptx_size > 0) require(strlen((const char *)image + code->cubin_size) == code->ptx_size - 1, "the PTX");
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
  if (qn_executor_choose_code(a, NULL, &code, NULL) == QN_OK) require(code != NULL, "no code and no error");
  qn_kernel_entry *entries = calloc(a->program->variant_count + 1, sizeof *entries);
  require(entries != NULL, "out of memory");
  qn_executor_options options = {.jit_entries = entries};
  if (qn_executor_create(a, threads, &options, qn_allocator_default(), &executor, NULL) == QN_OK) {
    const qn_art_buffer *buffer = NULL;
    const float *logits = qn_executor_output(executor, "logits", &buffer);
    if (logits) require(buffer->output == 1, "an output that is none");
    qn_executor_destroy(executor);
  }
  qn_decoder_options decoding = {.context = 64, .executor = options};
  if (qn_decoder_create(a, threads, &decoding, qn_allocator_default(), &decoder, NULL) == QN_OK) {
    require(qn_decoder_vocab(decoder) > 0, "a vocabulary");
    qn_decoder_destroy(decoder);
  }
  free(entries);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static qn_threads *threads;
  qn_artifact artifact;
  qn_diag diag = {0};
  if (!threads) require(qn_threads_create(1, false, qn_allocator_default(), &threads, NULL) == QN_OK, "no thread");
  qn_status status = qn_artifact_open_mapping(&artifact, qn_test_artifact_map(data, size), "fuzz.qn", &diag);
  if (status == QN_OK) {
    read_all(&artifact);
    build_on(&artifact, threads);
    qn_artifact_close(&artifact);
  } else {
    require(status == QN_ERR_FORMAT || status == QN_ERR_UNSUPPORTED, "an odd status");
    require(diag.status == status && strncmp(diag.text, "fuzz.qn: ", 9) == 0, "an error does not name the file");
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

#ifdef QN_LIBFUZZER
QN_FUZZ_MAIN(NULL, 0)

// Mostly with a size and checksums that fit, so that the checks behind them are met.
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed) {
  size = LLVMFuzzerMutate(data, size, most);
  if (seed % 8 == 0) return size;
  if (size >= sizeof(qn_art_header)) {
    uint64_t file_size = size;
    memcpy(data + offsetof(qn_art_header, file_size), &file_size, sizeof file_size);
  }
  qn_test_artifact_rehash(data, size);
  return size;
}
#else

static uint64_t random_state = 1;

static uint64_t random_below(uint64_t limit) {
  random_state ^= random_state >> 12;
  random_state ^= random_state << 25;
  random_state ^= random_state >> 27;
  return (random_state * 0x2545f4914f6cdd1du >> 16) % limit;
}

// One change of a few bytes where it may matter: not in the padding between sections.
static void mutate(uint8_t *data, size_t size) {
  static const uint64_t telling[] = {0,    1,          2,          63,         64,         4095,
                                     4096, 0x7fffffff, 0x80000000, 0xffffffff, UINT64_MAX, INT64_MAX};
  size_t at = random_below(size);
  for (int tries = 0; tries < 64 && data[at] == 0 && random_below(4) != 0; tries++) at = random_below(size);
  switch (random_below(4)) {
    case 0: data[at] ^= (uint8_t)(1u << random_below(8)); break;
    case 1: data[at] = (uint8_t)random_below(256); break;
    default: {
      size_t width = random_below(2) ? 4 : 8;
      uint64_t value = telling[random_below(sizeof telling / sizeof *telling)];
      at -= at % width;
      if (at + width <= size) memcpy(data + at, &value, width);
      break;
    }
  }
}

static void fuzz(const uint8_t *seed, size_t size, long runs) {
  uint8_t *data = malloc(size);
  require(data != NULL && LLVMFuzzerTestOneInput(seed, size) == 0, "out of memory");
  for (long run = 0; run < runs; run++) {
    size_t length = size;
    memcpy(data, seed, size);
    for (uint64_t i = 1 + random_below(4); i > 0; i--) mutate(data, size);
    if (random_below(8) == 0) length = random_below(size);
    if (random_below(8) != 0) qn_test_artifact_rehash(data, length);  // so that the checks behind the hashes are met
    LLVMFuzzerTestOneInput(data, length);
  }
  free(data);
}

int main(int argc, char **argv) {
  long runs = 20000;
  bool named = false;
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "-n") == 0 && i + 1 < argc) {
      runs = strtol(argv[++i], NULL, 10);
    } else if (strcmp(argv[i], "-s") == 0 && i + 1 < argc) {
      random_state = strtoull(argv[++i], NULL, 10) | 1;
    } else {
      char *data;
      size_t size;
      require(qn_file_read(argv[i], QN_TEXT_MAX, qn_allocator_default(), &data, &size, NULL) == QN_OK,
              "cannot read a file");
      fuzz((const uint8_t *)data, size, runs);
      qn_free(qn_allocator_default(), data, size + 1);
      named = true;
    }
  }
  if (!named) {
    qn_buf file;
    qn_fake_model_build(&(qn_fake_options){.tokenizer = true, .max_p = 8}, add_code, &file);
    fuzz((const uint8_t *)file.data, file.length, runs);
    qn_buf_deinit(&file);
  }
  printf("fuzz_artifact: ok\n");
  return 0;
}

#endif
