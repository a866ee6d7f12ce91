// quern-gpu: what the kernels of one layer at a model's true shapes ask of a GPU, by kind of chip: run by the simulator
// of PTX (tests/ptxsim) as they would be shipped, for one token after some others and for a prompt. Prints the table of
// the README. Needs NVRTC, no GPU.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "codegen/cuda/compile.h"
#include "codegen/cuda/nvrtc.h"
#include "codegen/cuda/ptxas.h"
#include "runtime/base/hash.h"
#include "tests/ptxsim/support_sim.h"
#include "tests/support/gpu_layer.h"
#include "tests/support/graph_run.h"
#include "tests/support/test.h"

enum { MAX_KERNELS = 96, MAX_PARAMS = 48, MAX_CHIPS = 8, FUNC_SHARED_BYTES = 8 };  // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES

typedef struct options {
  const char *models, *formats, *chips;
  int prompt, depth;
  bool kernels;  // a line for each kernel, too
} options;

// What a buffer is to the count.
typedef enum range { WEIGHTS, CACHE, VALUES, RANGES } range;
static const char *const range_names[RANGES] = {"weights", "cache", "values"};

// Sums over launches.
typedef struct sums {
  uint64_t bytes[RANGES], moved[RANGES];  // that there are (each launch's once), and loaded by sectors
  uint64_t weight_requests, wide_requests;
  uint64_t wavefronts, least;
  uint64_t tensor, arithmetic;  // of products
  double model_bytes;           // of products: what their tiles move at least
  uint64_t product_moved;
} sums;

typedef struct device {
  const options *o;
  int sm;
  CUmodule module;
  qn_cuda_kernel kernels[MAX_KERNELS];
  size_t count;
  int64_t spills, registers;  // of all kernels: bytes; the most of a thread
  uint64_t code;  // hash of the PTX without its head
  int tokens;                 // of the step
  int64_t keys;               // that its sequence has then
  sums sums;
  double worst_conflict;  // of a kernel: wavefronts over the least
} device;

// ---- code -------------------------------------------------------------------------------------------------------

static void read_log(device *d, const char *log) {
  for (size_t i = 0; i < d->count; i++) {
    qn_ptxas_report r;
    ck_assert(qn_ptxas_find(log, d->kernels[i].kernel->name, &r));
    d->spills += r.spill_bytes;
    if (r.spill_bytes > 0)
      fprintf(stderr, "sm_%d: %s spills %d bytes\n", d->sm, d->kernels[i].kernel->name, (int)r.spill_bytes);
    if (r.registers > d->registers) d->registers = r.registers;
  }
}

static void load_kernels(device *d, qn_run *run) {
  qn_diag diag = {0};
  qn_nvrtc *nvrtc = NULL;
  qn_nvrtc_code code;
  qn_buf source;
  for (size_t k = 0; k < qn_run_program(run)->kernels.count; k++) {
    int variants = 0;
    const qn_gpu_variant *v = qn_run_gpu_variants(run, k, &variants);
    for (int i = 0; i < variants; i++) {
      ck_assert_uint_lt(d->count, MAX_KERNELS);
      d->kernels[d->count++] = (qn_cuda_kernel){.kernel = v[i].kernel, .schedule = v[i].schedule};
    }
  }
  qn_buf_init(&source, qn_test_allocator());
  qn_assert_ok(&diag, qn_nvrtc_open(NULL, qn_test_allocator(), &nvrtc, &diag));
  qn_assert_ok(&diag, qn_cuda_build(nvrtc, getenv(QN_NVRTC_CACHE_VARIABLE), "kernels.cu", d->sm, d->kernels, d->count,
                                     &source, &code, &diag));
  sim_ok(sim.load(&d->module, code.ptx));
  const char *body = strstr(code.ptx, ".address_size");  // behind the version and the chip
  ck_assert_ptr_nonnull(body);
  d->code = qn_hash64(body, strlen(body), 0);
  read_log(d, code.log);
  qn_nvrtc_code_deinit(&code);
  qn_nvrtc_close(nvrtc);
  qn_buf_deinit(&source);
}

static const qn_cuda_kernel *find_kernel(const device *d, const qn_lkernel *kernel) {
  for (size_t i = 0; i < d->count; i++)
    if (d->kernels[i].kernel == kernel) return &d->kernels[i];
  ck_abort_msg("kernel '%s' is not loaded", kernel->name);
  return NULL;
}

// ---- launches ---------------------------------------------------------------------------------------------------

static const qn_pbuf *buffer_of(const qn_program *program, size_t kernel, size_t param) {
  for (size_t i = 0; i < program->steps.count; i++) {
    const qn_pstep *step = &program->steps.items[i];
    if (step->kernel == kernel) return &program->buffers.items[step->buffers[param]];
  }
  ck_abort_msg("no step calls kernel %zu", kernel);
  return NULL;
}

static range range_of(const qn_pbuf *b) {
  return b->kind == QN_PB_CACHE ? CACHE : b->kind == QN_PB_WEIGHT && b->layout != QN_LAYOUT_PLAIN ? WEIGHTS : VALUES;
}

// Of a cache the keys that the sequence has, of others all.
static uint64_t live_bytes(const device *d, const qn_pbuf *b, const qn_linterp_buffer *buffer) {
  if (b->kind != QN_PB_CACHE) return buffer->size;
  qn_kv_page page;
  ck_assert(qn_type_kv_page(&b->type, strcmp(b->name, "k") == 0, &page));
  return (uint64_t)(d->keys * page.page_bytes / QN_PAGE_KEYS);
}

// What a product moves at least when each of its blocks reads its panels' weights and its tokens' values once, and
// writes its results. The values that are multiplied are the first parameter that is no weight; of quantised ones a
// format needs sums of 16 or sums of 32 codes, not both. What is read after the product is read once.
static double tile_bytes(const qn_pkernel *kernel, const qn_gpu_variant *v, int64_t tokens, int64_t extent,
                         const qn_linterp_buffer *buffers) {
  const qn_format *format = qn_format_of(kernel->weights);
  int64_t each = v->rows_each > 0 ? v->rows_each : 1, token_blocks = (tokens + each - 1) / each;
  double panel_blocks = (double)extent / (double)token_blocks, sum = 0;
  double used = kernel->input != QN_DTYPE_A8 ? 1 : (format->group_values == 16 ? 44.0 : 40.0) / 48;
  bool first = true;
  for (size_t i = 0; i < v->kernel->param_count; i++) {
    const qn_lbuf *param = v->kernel->params[i];
    bool input = first && !param->streamed && !param->writable;
    if (input) first = false;
    sum += (double)buffers[i].size * (param->streamed ? (double)token_blocks : input ? panel_blocks * used : 1);
  }
  return sum;
}

// What the kernel did to all memory of that name.
static ps_traffic traffic_of(const char *kernel, const char *name) {
  ps_traffic sum = {0};
  for (size_t k = 0; k < sim.kernel_count(); k++) {
    for (size_t r = 0; strcmp(sim.kernel_name(k), kernel) == 0 && r < sim.range_count(); r++) {
      ps_traffic t = {0};
      if (strcmp(sim.range_name(r), name) != 0 || sim.kernel_traffic(k, r, &t) != 0) continue;
      sum.load_sectors += t.load_sectors;
      sum.store_sectors += t.store_sectors;
      sum.load_requests += t.load_requests;
      sum.load_requests_128 += t.load_requests_128;
    }
  }
  return sum;
}

static void add_launch(device *d, const qn_pkernel *kernel, const qn_gpu_variant *v, const uint64_t bytes[RANGES],
                       double model) {
  const char *name = v->kernel->name;
  ps_counters c = sim_counters(name);
  uint64_t moved[RANGES], all = 0;
  sums *s = &d->sums;
  for (int r = 0; r < RANGES; r++) {
    ps_traffic t = traffic_of(name, range_names[r]);
    moved[r] = t.load_sectors * 32;
    all += (t.load_sectors + t.store_sectors) * 32;
    s->bytes[r] += bytes[r];
    s->moved[r] += moved[r];
    if (r == WEIGHTS) s->weight_requests += t.load_requests, s->wide_requests += t.load_requests_128;
  }
  s->wavefronts += c.shared_wavefronts;
  s->least += c.shared_wavefronts_least;
  double conflict = c.shared_wavefronts_least ? (double)c.shared_wavefronts / (double)c.shared_wavefronts_least : 1;
  if (conflict > d->worst_conflict) d->worst_conflict = conflict;
  if (kernel->is_matmul) {
    s->tensor += c.tensor_operations;
    s->arithmetic += c.arithmetic_operations;
    s->model_bytes += model;
    s->product_moved += all;
  }
  if (!d->o->kernels) return;
  fprintf(stderr,
          "sm_%d %d tokens %s: weights %.3f of %" PRIu64 " bytes, cache %.3f of %" PRIu64 ", values %" PRIu64
          " moved for %" PRIu64 "; conflicts %.3f; tensor %.3f; of the tile model %.3f; %" PRIu64 " instructions\n",
          d->sm, d->tokens, name, bytes[WEIGHTS] ? (double)moved[WEIGHTS] / (double)bytes[WEIGHTS] : 0, bytes[WEIGHTS],
          bytes[CACHE] ? (double)moved[CACHE] / (double)bytes[CACHE] : 0, bytes[CACHE], moved[VALUES], bytes[VALUES],
          conflict, (double)c.tensor_operations / (double)(c.tensor_operations + c.arithmetic_operations + 1),
          kernel->is_matmul ? (double)all / model : 0, c.instructions);
}

static void launch(void *context, qn_run *run, size_t number, const qn_gpu_variant *variant,
                   const qn_linterp_buffer *buffers, const int64_t *symbols, int64_t extent) {
  device *d = context;
  const qn_program *program = qn_run_program(run);
  const qn_lkernel *kernel = variant->kernel;
  CUdeviceptr pointers[MAX_PARAMS];
  int values[QN_SYM_COUNT];
  void *params[MAX_PARAMS + QN_SYM_COUNT];
  uint64_t bytes[RANGES] = {0};
  CUfunction function;
  ck_assert_uint_le(kernel->param_count, MAX_PARAMS);
  sim.counters_reset();
  for (size_t i = 0; i < kernel->param_count; i++) {
    const qn_pbuf *b = buffer_of(program, number, i);
    pointers[i] = sim_upload(buffers[i].data, buffers[i].size);
    ck_assert_int_eq(sim.label(pointers[i], buffers[i].size, range_names[range_of(b)]), 0);
    if (!kernel->params[i]->writable) bytes[range_of(b)] += live_bytes(d, b, &buffers[i]);
    params[i] = &pointers[i];
  }
  for (int s = QN_SYM_NONE + 1; s < QN_SYM_COUNT; s++) {
    values[s] = (int)symbols[s];
    params[kernel->param_count + (size_t)s - 1] = &values[s];
  }
  const qn_cuda_kernel *code = find_kernel(d, kernel);
  int groups = variant->schedule.groups;
  unsigned blocks = (unsigned)((extent + groups - 1) / groups), threads = (unsigned)(variant->schedule.lanes * groups);
  sim_ok(sim.function(&function, d->module, kernel->name));
  sim_ok(sim.set_function_attribute(function, FUNC_SHARED_BYTES, (int)code->shared_bytes));
  sim_ok(sim_run(function, blocks > 0 ? blocks : 1, threads, (unsigned)code->shared_bytes, params));
  const qn_pkernel *lowered = &program->kernels.items[number];
  double model = lowered->is_matmul ? tile_bytes(lowered, variant, symbols[lowered->rows], extent, buffers) : 0;
  add_launch(d, lowered, variant, bytes, model);
  for (size_t i = 0; i < kernel->param_count; i++) {
    if (kernel->params[i]->writable) sim_download(buffers[i].data, pointers[i], buffers[i].size);
    sim_ok(sim.free(pointers[i]));
  }
}

// ---- the table --------------------------------------------------------------------------------------------------

static double ratio(uint64_t a, uint64_t b) { return b ? (double)a / (double)b : 0; }

// What the simulator counted of one PTX.
typedef struct counted {
  uint64_t code;
  sums decode, prompt;
  double decode_conflict, prompt_conflict;
} counted;

static void put_row(const device *d, const char *model, const char *format, const counted *c) {
  char tensor[32], traffic[32];
  const sums *decode = &c->decode, *prompt = &c->prompt;
  snprintf(tensor, sizeof tensor, "%.1f %%", 100 * ratio(prompt->tensor, prompt->tensor + prompt->arithmetic));
  snprintf(traffic, sizeof traffic, "%.2f", (double)prompt->product_moved / prompt->model_bytes);
  printf("| sm_%d | %s | %s | %.3f | %.3f | %.2f | %.0f %% | %" PRId64 " | %.3f | %.3f | %s | %s | %" PRId64 " |\n", d->sm,
         model, format, ratio(decode->moved[WEIGHTS], decode->bytes[WEIGHTS]),
         ratio(decode->moved[CACHE], decode->bytes[CACHE]), ratio(decode->moved[VALUES], decode->bytes[WEIGHTS]),
         100 * ratio(decode->wide_requests, decode->weight_requests),
         d->spills, c->decode_conflict, c->prompt_conflict, tensor, traffic, d->registers);
  fflush(stdout);
}

static void run_step(device *d, qn_run *run, int first, int count) {
  d->tokens = count;
  d->keys = first + count;
  d->sums = (sums){.tensor = 0};
  d->worst_conflict = 1;
  qn_run_begin(run, 1, (first + count + QN_PAGE_KEYS - 1) / QN_PAGE_KEYS, &first);
  qn_run_execute(run, QN_RUN_LAUNCH, &(qn_run_step){.spans = {{0, first, count}}});
}

static void count_code(device *d, qn_run *run, counted *out) {
  out->code = d->code;
  run_step(d, run, d->o->depth, 1);
  out->decode = d->sums;
  out->decode_conflict = d->worst_conflict;
  run_step(d, run, 0, d->o->prompt);
  out->prompt = d->sums;
  out->prompt_conflict = d->worst_conflict;
}

// A row for each chip. NVRTC makes the same PTX for some of them, which is run once.
static void run_chips(device *d, qn_run *run, const char *model, const char *format, const int *chips, size_t count) {
  const options *o = d->o;
  counted seen[MAX_CHIPS], *c;
  size_t different = 0;
  for (size_t i = 0; i < count; i++) {
    char target[16];
    *d = (device){.o = o, .sm = chips[i]};
    snprintf(target, sizeof target, "sm_%d", d->sm);
    sim_start(target);
    load_kernels(d, run);
    for (c = seen; c < seen + different && c->code != d->code;) c++;
    if (c == seen + different) {
      count_code(d, run, c);
      different++;
    }
    put_row(d, model, format, c);
  }
}

// `name`: of a format, and "+half" after it for that numeric mode.
static void run_model(const options *o, const qn_synth_model *m, const char *name, const int *chips, size_t count) {
  char sizes[256], format[32];
  device d = {.o = o};
  qn_dtype dtype;
  const char *plus = strchr(name, '+');
  bool half = plus && strcmp(plus, "+half") == 0;
  snprintf(format, sizeof format, "%.*s", (int)strcspn(name, "+"), name);
  ck_assert_msg(qn_dtype_parse(qn_str_from(format), &dtype) && (half || !plus), "no format '%s'", name);
  qn_gpu_layer_sizes(m, format, o->prompt, o->depth, sizes, sizeof sizes);
  bool integers = qn_dtype_is_block(dtype);
  qn_run_options run_options = {
      .gpu = true, .quantize_activations = integers, .half_activations = half, .launch = launch, .launch_context = &d};
  qn_run *run = qn_run_create(qn_gpu_layer, sizes, &run_options);
  run_chips(&d, run, m->name, name, chips, count);
  qn_run_destroy(run);
}

// Calls `each` with every part of a list with commas.
static void for_each(const char *list, void (*each)(void *context, const char *item), void *context) {
  char item[64];
  while (*list) {
    size_t length = strcspn(list, ",");
    snprintf(item, sizeof item, "%.*s", (int)length, list);
    each(context, item);
    list += length + (list[length] == ',');
  }
}

typedef struct plan {
  const options *o;
  const qn_synth_model *model;
  int chips[MAX_CHIPS];
  size_t count;
} plan;

static void add_chip(void *context, const char *item) {
  plan *p = context;
  ck_assert_msg(strncmp(item, "sm_", 3) == 0 && p->count < QN_COUNT(p->chips), "want chips like sm_90, got '%s'", item);
  p->chips[p->count++] = atoi(item + 3);
}

static void run_format(void *context, const char *item) {
  plan *p = context;
  run_model(p->o, p->model, item, p->chips, p->count);
}

static void run_name(void *context, const char *item) {
  plan *p = context;
  p->model = qn_synth_find(item);
  ck_assert_msg(p->model != NULL, "no model '%s'", item);
  for_each(p->o->formats, run_format, p);
}

static options parse(int argc, char **argv) {
  options o = {.models = "tinyllama-1.1b,llama-3.2-1b",
               .formats = "q8_0,q4_0,q4_k,q2_k,f16+half",
               .chips = "sm_80,sm_90,sm_100,sm_120",
               .prompt = 64,
               .depth = 1000};
  for (int i = 1; i < argc; i++) {
    const char *value = i + 1 < argc ? argv[i + 1] : "";
    bool taken = true;
    if (strcmp(argv[i], "--models") == 0)
      o.models = value;
    else if (strcmp(argv[i], "--formats") == 0)
      o.formats = value;
    else if (strcmp(argv[i], "--chips") == 0)
      o.chips = value;
    else if (strcmp(argv[i], "--prompt") == 0)
      o.prompt = atoi(value);
    else if (strcmp(argv[i], "--depth") == 0)
      o.depth = atoi(value);
    else
      taken = false;
    if (strcmp(argv[i], "--kernels") == 0)
      o.kernels = true;
    else if (!taken || o.prompt < 1 || o.depth < 1) {
      fprintf(stderr,
              "quern-gpu [--models NAME,...] [--formats F,...] [--chips sm_90,...] [--prompt TOKENS] [--depth KEYS] "
              "[--kernels]\nA table of what one layer's kernels ask of a GPU, counted by the simulator.\n");
      exit(2);
    }
    i += taken;
  }
  return o;
}

static options given;

// What it uses of the tests' support asserts, which Check wants to be in a test.
START_TEST(table) {
  plan p = {.o = &given};
  sim_open();
  for_each(given.chips, add_chip, &p);
  printf(
      "| chip | model | format | weights | keys and values | other values, of the weights' bytes | loads of 128 bits | "
      "spilled bytes | conflicts, decode | conflicts, prompt | tensor cores | of the tiles' minimum | registers |\n"
      "|---|---|---|---|---|---|---|---|---|---|---|---|---|\n");
  for_each(given.models, run_name, &p);
}
END_TEST

int main(int argc, char **argv) {
  qn_diag diag = {0};
  qn_nvrtc *nvrtc = NULL;
  given = parse(argc, argv);
  if (qn_nvrtc_open(NULL, qn_allocator_default(), &nvrtc, &diag) != QN_OK) {
    fprintf(stderr, "quern-gpu: %s\n", diag.text);
    return (int)diag.status;
  }
  qn_nvrtc_close(nvrtc);
  const TTest *const tests[] = {table};
  Suite *suite = suite_create("quern-gpu");
  TCase *tcase = qn_test_case("table", tests, QN_COUNT(tests));
  tcase_set_timeout(tcase, 0);
  suite_add_tcase(suite, tcase);
  SRunner *runner = srunner_create(suite);
  srunner_set_fork_status(runner, CK_NOFORK);
  srunner_run_all(runner, CK_SILENT);
  int failed = srunner_ntests_failed(runner);
  if (failed > 0) srunner_print(runner, CK_NORMAL);
  srunner_free(runner);
  return failed > 0;
}
