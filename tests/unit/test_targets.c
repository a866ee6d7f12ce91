// Kernels by target: all that this machine runs give the same bits for every weight format, and the code of each target
// has the instructions it is there for. Both are driven by tables: targets here, formats in ir/format.def.
#include <stdio.h>
#include <stdlib.h>

#include "codegen/cpu/host.h"
#include "tests/support/graph_run.h"
#include "tests/support/test.h"

typedef struct target_case {
  const char *name;
  bool small;  // fma and f16 are emulated: with tiles of many tokens compiling would take minutes
  // What a line of assembly must have (a mnemonic and a register) in kernels with integer dot products, with those in
  // pairs, with fma, and with loads of f16; NULL = nothing to be seen.
  const char *dot[2], *pairs[2], *fma[2], *half[2];
} target_case;

static const target_case targets[] = {
    {"x86-64-v2", true, {"pmadd", "%xmm"}, {"pmaddubsw", "%xmm"}, {NULL}, {NULL}},
    {"x86-64-v3", false, {"vpmadd", "%ymm"}, {"vpmaddubsw", "%ymm"}, {"vfmadd", "%ymm"}, {"vcvtph2ps", "%ymm"}},
    {"x86-64-v3+avxvnni", false, {"vpdpbusd", "%ymm"}, {NULL}, {"vfmadd", "%ymm"}, {"vcvtph2ps", "%ymm"}},
    {"x86-64-v4", false, {"vpmadd", "%zmm"}, {"vpmaddubsw", "%zmm"}, {"vfmadd", "%zmm"}, {"vcvtph2ps", "%zmm"}},
    {"x86-64-v4+avx512vnni", false, {"vpdpbusd", "%zmm"}, {NULL}, {"vfmadd", "%zmm"}, {"vcvtph2ps", "%zmm"}},
    {"aarch64", false, {"smull", "v"}, {"\tmul\tv", ".8h"}, {"fmla", "v"}, {"fcvtl", "v"}},
    {"aarch64+dotprod", false, {"\tsdot", "v"}, {NULL}, {"fmla", "v"}, {"fcvtl", "v"}},
    {"aarch64+dotprod+i8mm", false, {"usdot", "v"}, {NULL}, {"fmla", "v"}, {"fcvtl", "v"}},
};

// A product with something after it and one that it meets; K is a whole number of every format's blocks.
static const char product[] =
    "max T=32\n"
    "x = input f32[T,256]; wg = param $F[32,256]; wu = param $F[32,256]\n"
    "g = matmul x wg; s = silu g; u = matmul x wu; y = mul s u; output y";

// Every class of kernels that products are not: lookups, norms, RoPE, cache writes and attention.
static const char layer[] =
    "max T=32 R=32\n"
    "embd = param $F[40,256]; norm = param f32[256]; x = embed embd tokens\n"
    "table = rope_table pos dims=32 theta=10000; a = rmsnorm x norm eps=1e-5; wq = param $F[256,256]\n"
    "wk = param $F[128,256]; wv = param $F[128,256]; q = matmul a wq; k = matmul a wk; v = matmul a wv\n"
    "q3 = split_heads q heads=4; k3 = split_heads k heads=2; v3 = split_heads v heads=2\n"
    "qr = rope q3 table kind=pairs; kr = rope k3 table kind=pairs\n"
    "kc = cache kind=k index=0 f16[G,2,64,64]; vc = cache kind=v index=0 f16[G,2,64,64]\n"
    "kw = kv_write kc kr pos seq block_table kind=k; vw = kv_write vc v3 pos seq block_table kind=v\n"
    "s = attn_scores qr kw pos seq block_table scale=0.35; p = softmax s; o = attn_mix p vw pos seq block_table\n"
    "om = merge_heads o; wo = param $F[256,256]; oo = matmul om wo; h = add x oo; output h";

static bool runs_here(const char *name) {
  qn_diag diag = {0};
  qn_target target;
  qn_assert_ok(&diag, qn_target_parse(name, &target, &diag));
  return qn_host_runs(&target, NULL, 0);
}

static qn_run *create_run(const char *text, const char *sizes, bool quantize, const target_case *t) {
  qn_schedule small = qn_schedule_plain();
  small.lanes = 16;
  small.parallel = 1;
  qn_run_options options = {.quantize_activations = quantize, .target = t->name, .schedule = t->small ? &small : NULL};
  return qn_run_create(text, sizes, &options);
}

// ---- the same bits --------------------------------------------------------------------------------------------

enum { MAX_STEPS = 5 };
static const qn_run_step steps[MAX_STEPS] = {{.spans = {{0, 0, 1}}},
                                             {.spans = {{0, 1, 2}}, .threads = 2},
                                             {.spans = {{0, 3, 3}}},
                                             {.spans = {{0, 6, 16}}, .threads = 2},
                                             {.spans = {{0, 22, 17}}, .threads = 3}};

static void run_steps(qn_run *run, qn_run_engine engine, const qn_run_output **out) {
  qn_run_begin(run, 1, 1, NULL);
  for (int i = 0; i < MAX_STEPS; i++) out[i] = qn_run_execute(run, engine, &steps[i]);
}

// Compiled for each target that runs here against the interpreted kernels.
static void check_bits(const qn_format *format, bool quantize, bool with_small) {
  char sizes[32], label[120];
  const qn_run_output *want[MAX_STEPS], *got[MAX_STEPS];
  snprintf(sizes, sizeof sizes, "F=%s", format->name);
  qn_run *plain = qn_run_create(product, sizes, &(qn_run_options){.quantize_activations = quantize});
  run_steps(plain, QN_RUN_PLAIN, want);
  for (size_t t = 0; t < QN_COUNT(targets); t++) {
    if ((targets[t].small && !with_small) || !runs_here(targets[t].name)) continue;
    qn_run *run = create_run(product, sizes, quantize, &targets[t]);
    run_steps(run, QN_RUN_JIT, got);
    for (int i = 0; i < MAX_STEPS; i++) {
      snprintf(label, sizeof label, "%s, %s activations, %s, step %d", format->name, quantize ? "int8" : "f32",
               targets[t].name, i);
      qn_run_compare_bits(&got[i][0], &want[i][0], label);
    }
    qn_run_destroy(run);
  }
  qn_run_destroy(plain);
}

// Without QUERN_TEST_ALL the numeric modes take turns from format to format, and targets for which compiling is slow
// meet some of the cases.
START_TEST(every_target_gives_the_same_bits) {
  size_t turn = 0, stride = qn_test_stride(3, 12), small_stride = qn_test_stride(7, 28);
  for (int dtype = 0; dtype < QN_DTYPE_COUNT; dtype++) {
    const qn_format *format = qn_format_of((qn_dtype)dtype);
    if (!format) continue;
    for (int quantize = 0; quantize <= (format->block_values > 1); quantize++)
      if ((turn++ + (size_t)dtype) % stride == 0) check_bits(format, quantize, turn % small_stride == 0);
  }
}
END_TEST

// ---- instructions ---------------------------------------------------------------------------------------------

typedef struct assembly {
  char *text;  // owned
} assembly;

static void keep_assembly(void *context, const char *stage, const char *text, size_t length) {
  assembly *a = context;
  if (strcmp(stage, "asm") != 0) return;
  ck_assert_ptr_null(a->text);
  a->text = strndup(text, length);
  ck_assert_ptr_nonnull(a->text);
}

static bool has_line(const char *text, const char *const want[2]) {
  for (const char *at = text; (at = strstr(at, want[0])) != NULL;) {
    const char *end = strchr(at, '\n'), *found = strstr(at + strlen(want[0]), want[1]);
    if (found && (!end || found < end)) return true;
    at += strlen(want[0]);
  }
  return false;
}

// Compiles one kernel and looks for what its loop IR calls for.
static void check_kernel(const qn_lkernel *kernel, const target_case *t, const char *label) {
  qn_diag diag = {0};
  qn_target target;
  qn_code code;
  assembly a = {0};
  qn_buf ir;
  qn_assert_ok(&diag, qn_target_parse(t->name, &target, &diag));
  qn_codegen_options options = {.target = &target, .threads = 1, .dump = keep_assembly, .dump_context = &a};
  qn_assert_ok(&diag, qn_cpu_compile(&kernel, 1, &options, qn_test_allocator(), &code, &diag));
  qn_code_deinit(&code);
  qn_buf_init(&ir, qn_test_allocator());
  qn_lkernel_print(kernel, &ir);
  bool matmul = strncmp(kernel->name, "qk_matmul", 9) == 0;  // others load single halves (the scales of one row)
  const struct {
    const char *in_ir;
    const char *const *want;
  } looked_for[] = {
      {" = dot4", t->dot}, {" = dot2(", t->pairs}, {" = fma(", t->fma}, {".f16[", matmul ? t->half : NULL}};
  for (size_t i = 0; i < QN_COUNT(looked_for); i++) {
    if (!looked_for[i].want || !looked_for[i].want[0] || !strstr(qn_buf_text(&ir), looked_for[i].in_ir)) continue;
    qn_check(has_line(a.text, looked_for[i].want), "%s, %s, %s: has %s and no line with %s and %s", label, kernel->name,
             t->name, looked_for[i].in_ir, looked_for[i].want[0], looked_for[i].want[1]);
  }
  qn_buf_deinit(&ir);
  free(a.text);
}

// The kernels of a program: each in the variant for the fewest rows, or every stride-th of all variants, of which `first`
// says where to begin.
static size_t check_program(const char *text, const char *sizes, bool quantize, const target_case *t, size_t first,
                            size_t stride) {
  qn_run *run = create_run(text, sizes, quantize, t);
  const qn_program *program = qn_run_program(run);
  size_t count = 0;
  for (size_t k = 0; k < program->kernels.count; k++) {
    const qn_pkernel *kernel = &program->kernels.items[k];
    for (int v = 0; v < (stride == 0 ? 1 : kernel->variant_count); v++)
      if ((count++ + first) % (stride ? stride : 1) == 0) check_kernel(kernel->variants[v].kernel, t, sizes);
  }
  qn_run_destroy(run);
  return count;
}

// In the suite each numeric mode of each format meets one of the targets at least. It is LLVM's code that is looked at,
// which has no sanitizers.
START_TEST(code_has_the_instructions_of_its_target) {
  bool all = qn_test_stride(2, 4) == 1;
  for (size_t t = 0; t < QN_COUNT(targets); t += qn_test_stride(1, 4)) {
    size_t turn = t;
    for (int dtype = 0; dtype < QN_DTYPE_COUNT; dtype++) {
      const qn_format *format = qn_format_of((qn_dtype)dtype);
      if (!format) continue;
      char sizes[32];
      snprintf(sizes, sizeof sizes, "F=%s", format->name);
      for (int quantize = 0; quantize <= (format->block_values > 1); quantize++)
        if (all || turn++ % qn_test_stride(QN_COUNT(targets), 16) == 0)
          check_program(product, sizes, quantize, &targets[t], 0, all ? 1 : 0);
    }
    ck_assert_uint_gt(check_program(layer, "F=q8_0", true, &targets[t], t, qn_test_stride(8, 16)), 8);
  }
}
END_TEST

QN_CASE(bits, every_target_gives_the_same_bits)
QN_CASE(instructions, code_has_the_instructions_of_its_target)
QN_TEST_MAIN(bits, instructions)
