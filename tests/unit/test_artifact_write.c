// The artifact's writer with programs for CPUs and GPUs: what both pack is there once, and each has its own kernels,
// plans, code and texts.
#include "codegen/artifact_write.h"

#include <stdio.h>

#include "passes/pass.h"
#include "tests/support/graph_text.h"
#include "tests/support/test.h"

enum { CPU, GPU };

// A program with the plan of its one target.
typedef struct made {
  qn_pass_context pass;
  qn_pass_options options;
  qn_program_plan plan;
  qn_target target;
  qn_code code;
} made;

static qn_arena arena;

static void make_program(made *m, const char *text, bool gpu) {
  qn_diag diag = {0};
  *m = (made){.options = {.gpu = gpu, .machine = qn_machine_model_plain(32, 16, 0, 0), .quantize_activations = true}};
  m->pass = (qn_pass_context){.arena = &arena, .allocator = qn_test_allocator(), .options = &m->options, .diag = &diag};
  qn_assert_ok(&diag, qn_graph_from_text(text, NULL, &arena, &m->pass.graph, &diag));
  qn_assert_ok(&diag, qn_run_passes(&m->pass));
  qn_assert_ok(&diag, qn_program_plan_take(m->pass.program, &m->plan, &diag));
}

// Code that nobody runs: a byte a function, or a cubin and PTX of some letters.
static void make_code(made *m) {
  static uint8_t image[] = "cubin// PTX";
  size_t count = m->plan.function_count, at = 0;
  bool gpu = m->options.gpu;
  m->code = (qn_code){.image = image, .image_size = sizeof image, .kernel_count = count};
  m->target = (qn_target){.arch = gpu ? QN_ARCH_CUDA : QN_ARCH_X86_64};
  snprintf(m->target.name, sizeof m->target.name, "%s", gpu ? "cuda:sm_90" : "x86-64-v3");
  snprintf(m->target.required, sizeof m->target.required, "%s", gpu ? "sm_90" : "avx2");
  m->code.offsets = QN_ARENA_ARRAY(&arena, count, uint64_t);
  if (!gpu) return;
  m->code.cubin_size = 5;
  m->code.ptx_size = sizeof image - 5;
  m->code.launches = QN_ARENA_ARRAY(&arena, count, qn_art_launch);
  for (size_t k = 0; k < m->pass.program->kernels.count; k++) {
    for (int v = 0; v < m->plan.kernels[k].variant_count; v++) {
      qn_gpu_schedule s = m->plan.kernels[k].variants[v].gpu;
      m->code.launches[at++] = (qn_art_launch){.lanes = (uint32_t)s.lanes, .groups = (uint32_t)s.groups};
    }
  }
}

static qn_status find_weight(void *context, const char *name, qn_tensor_data *out, qn_diag *diag) {
  static const uint8_t zeros[64 * 96 * 4];
  (void)context;
  (void)diag;
  bool vector = name[0] == 'b';
  *out = (qn_tensor_data){.format = qn_format_of(vector ? QN_DTYPE_F32 : QN_DTYPE_Q8_0), .data = zeros};
  out->rank = vector ? 1 : 2;
  out->dims[0] = 64;
  out->dims[1] = vector ? 0 : 96;
  return QN_OK;
}

static void write(const char *name, made *programs, size_t count, qn_artifact *out) {
  qn_diag diag = {0};
  qn_file_writer writer;
  qn_artifact_program parts[2];
  qn_artifact_code codes[2];
  qn_weight_source weights = {.find = find_weight};
  for (uint32_t i = 0; i < count; i++) {
    bool gpu = programs[i].options.gpu;
    parts[i] = (qn_artifact_program){.machine = gpu ? QN_ART_GPU : QN_ART_CPU,
                                     .program = programs[i].pass.program,
                                     .plans = &programs[i].plan,
                                     .plan_count = 1,
                                     .graph_text = gpu ? "the GPU's graph" : "the CPU's graph",
                                     .kernels_text = gpu ? "the GPU's kernels" : "the CPU's kernels"};
    make_code(&programs[i]);
    codes[i] = (qn_artifact_code){&programs[i].target, &programs[i].code, i, 0};
  }
  qn_artifact_spec spec = {
      .programs = parts, .program_count = count, .weights = &weights, .codes = codes, .code_count = count};
  const char *path = qn_test_temp_path(name);
  qn_assert_ok(&diag, qn_file_writer_open(&writer, path, &diag));
  qn_assert_ok(&diag, qn_artifact_write(&writer, &spec, qn_test_allocator(), &diag));
  qn_assert_ok(&diag, qn_file_writer_commit(&writer));
  qn_assert_ok(&diag, qn_artifact_open(out, path, &diag));
}

static bool is_text(const qn_artifact *a, qn_art_section_kind kind, uint32_t index, const char *want) {
  size_t size = 0;
  const char *data = qn_artifact_section(a, kind, index, &size);
  return data && qn_str_is((qn_str){data, size}, want);
}

// The offset of the weight of this name, which is there.
static uint64_t weight_offset(const qn_artifact *a, const char *name) {
  for (uint32_t i = 0; i < a->program->buffer_count; i++)
    if (a->buffers[i].kind == QN_ART_WEIGHT && strcmp(a->strings + a->buffers[i].name, name) == 0)
      return a->buffers[i].offset;
  ck_abort_msg("no weight '%s'", name);
  return 0;
}

#define LAYER \
  "max T=8; x = input f32[T,96]; w = param q8_0[64,96]; bias = param f32[64]; y = matmul x w; z = add y bias\n"
static const char layer[] = LAYER "output z";
static const char more[] = LAYER "x2 = input f32[T,96]; v = param q8_0[64,96]; u = matmul x2 v; output z u";

static void check_gpu(const qn_artifact *a, uint32_t code_index) {
  const qn_art_code *code = qn_artifact_code_at(a, code_index);
  const qn_art_launch *launches = qn_art_code_launches(code);
  uint32_t first, count;
  ck_assert(code->arch == QN_ART_CUDA && code->program == a->program_index && qn_art_code_sm(code) == 90);
  ck_assert(code->cubin_size == 5 && strcmp((const char *)code + code->image_offset + 5, "// PTX") == 0);
  qn_artifact_plan(a, 0, &first, &count);
  ck_assert(count == code->variant_count && count > a->program->kernel_count);  // products have two
  for (uint32_t i = 0; i < count; i++) ck_assert_uint_ge(launches[i].lanes * launches[i].groups, 32);
  ck_assert_uint_eq(a->program->own_bytes, 0);
  for (uint32_t i = 0; i < a->program->step_count; i++) ck_assert_uint_eq(a->steps[i].link, QN_ART_LINK_NONE);
}

START_TEST(what_both_pack_is_there_once) {
  made programs[2];
  qn_artifact one, both, gpu;
  qn_arena_init(&arena, qn_test_allocator());
  make_program(&programs[CPU], layer, false);
  make_program(&programs[GPU], more, true);
  write("one.qn", programs, 1, &one);
  write("both.qn", programs, 2, &both);
  ck_assert_uint_eq(both.program->machine, QN_ART_CPU);
  ck_assert(qn_artifact_view(&both, QN_ART_GPU, &gpu));
  ck_assert_uint_eq(weight_offset(&gpu, "w"), weight_offset(&both, "w"));
  ck_assert_uint_eq(weight_offset(&gpu, "bias"), weight_offset(&both, "bias"));
  ck_assert_uint_ge(weight_offset(&gpu, "v"), one.weights_size - QN_ARTIFACT_PAGE);
  uint64_t v_bytes = qn_align_up(64 / 16 * 3 * 544, QN_ARTIFACT_PAGE);  // panels, blocks, bytes of a block
  ck_assert_uint_eq(both.weights_size, one.weights_size + v_bytes);
  ck_assert(is_text(&both, QN_SECTION_GRAPH, 0, "the CPU's graph") &&
            is_text(&both, QN_SECTION_GRAPH, 1, "the GPU's graph"));
  ck_assert(is_text(&both, QN_SECTION_KERNELS, 1, "the GPU's kernels"));
  ck_assert_uint_eq(qn_artifact_code_at(&both, 0)->program, 0);
  check_gpu(&gpu, 1);
  qn_artifact_close(&one);
  qn_artifact_close(&both);
  qn_arena_deinit(&arena);
}
END_TEST

START_TEST(for_gpus_alone) {
  made program;
  qn_artifact a;
  qn_arena_init(&arena, qn_test_allocator());
  make_program(&program, more, true);
  write("gpu.qn", &program, 1, &a);
  ck_assert_uint_eq(a.program->machine, QN_ART_GPU);
  ck_assert(is_text(&a, QN_SECTION_GRAPH, 0, "the GPU's graph"));
  check_gpu(&a, 0);
  qn_artifact_close(&a);
  qn_arena_deinit(&arena);
}
END_TEST

QN_CASE(programs, what_both_pack_is_there_once, for_gpus_alone)
QN_TEST_MAIN(programs)
