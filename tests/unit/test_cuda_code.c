// From kernels to what an artifact holds for a GPU: source, launches, image; and what is said where that cannot be.
// What NVRTC does needs the library; nothing needs a GPU.
#include <stdio.h>
#include <stdlib.h>

#include "codegen/cuda/compile.h"
#include "tests/support/graph_run.h"
#include "tests/support/test.h"

// A product, and a softmax, whose lanes exchange values through shared memory.
static const char text[] =
    "max T=4; x = input f32[T,64]; w = param q8_0[48,64]; y = matmul x w; z = softmax y; output z";

enum { MAX_KERNELS = 16 };

typedef struct fixture {
  qn_run *run;
  qn_cuda_kernel kernels[MAX_KERNELS];
  size_t count;
  qn_target target;
  qn_cuda_options options;
} fixture;

static void begin(fixture *f, const char *target) {
  qn_diag diag = {0};
  *f = (fixture){.run = qn_run_create(text, NULL, &(qn_run_options){.quantize_activations = true})};
  for (size_t k = 0; k < qn_run_program(f->run)->kernels.count; k++) {
    int count = 0;
    const qn_gpu_variant *v = qn_run_gpu_variants(f->run, k, &count);
    for (int i = 0; i < count; i++) {
      ck_assert_uint_lt(f->count, MAX_KERNELS);
      f->kernels[f->count++] = (qn_cuda_kernel){.kernel = v[i].kernel, .schedule = v[i].schedule};
    }
  }
  qn_assert_ok(&diag, qn_target_parse(target, &f->target, &diag));
  f->options = (qn_cuda_options){.target = &f->target};
}

static void end(fixture *f) { qn_run_destroy(f->run); }

// --- without NVRTC

typedef struct texts {
  char stages[64];
  size_t source_size;
} texts;

static void note(void *context, const char *stage, const char *said, size_t length) {
  texts *t = context;
  size_t used = strlen(t->stages);
  snprintf(t->stages + used, sizeof t->stages - used, "%s ", stage);
  if (strcmp(stage, "cuda") == 0) t->source_size = length;
  ck_assert_uint_eq(strlen(said), length);
}

START_TEST(the_source_alone) {
  fixture f;
  texts seen = {0};
  qn_diag diag = {0};
  begin(&f, "cuda:sm_90");
  f.options.dump = note;
  f.options.dump_context = &seen;
  f.options.nvrtc.library = "/nowhere/nvrtc.so";  // is not wanted
  qn_assert_ok(&diag, qn_cuda_show(f.kernels, f.count, &f.options, qn_test_allocator(), &diag));
  ck_assert_str_eq(seen.stages, "cuda ");
  ck_assert_uint_gt(seen.source_size, 1000);
  int64_t shared = 0;
  for (size_t i = 0; i < f.count; i++) shared += f.kernels[i].shared_bytes;
  ck_assert_int_gt(shared, 0);
  end(&f);
}
END_TEST

START_TEST(without_nvrtc) {
  fixture f;
  qn_code code;
  qn_diag diag = {0};
  begin(&f, "cuda:sm_90");
  f.options.nvrtc.library = "/nowhere/nvrtc.so";
  qn_assert_fails(&diag, QN_ERR_TARGET, "NVRTC: cannot be loaded (looked at: /nowhere/nvrtc.so",
                  qn_cuda_compile(f.kernels, f.count, &f.options, qn_test_allocator(), &code, &diag));
  ck_assert(!code.image && !code.launches);
  end(&f);
}
END_TEST

START_TEST(more_than_the_chip_has) {
  fixture f;
  qn_code code;
  qn_diag diag = {0};
  begin(&f, "cuda:sm_120");
  f.target.shared_bytes = 16;
  qn_assert_fails(&diag, QN_ERR_UNSUPPORTED, "bytes of shared memory a block; the chip has 16",
                  qn_cuda_compile(f.kernels, f.count, &f.options, qn_test_allocator(), &code, &diag));
  end(&f);
}
END_TEST

// --- with NVRTC

START_TEST(an_image_and_launches) {
  fixture f;
  texts seen = {0};
  qn_code code;
  qn_diag diag = {0};
  begin(&f, "cuda:sm_80");
  f.options.dump = note;
  f.options.dump_context = &seen;
  qn_assert_ok(&diag, qn_cuda_compile(f.kernels, f.count, &f.options, qn_test_allocator(), &code, &diag));
  ck_assert_str_eq(seen.stages, "cuda ptx ptxas ");
  ck_assert(!code.offsets && code.kernel_count == f.count);
  ck_assert_uint_eq(code.image_size, code.cubin_size + code.ptx_size);
  ck_assert_mem_eq(code.image, "\177ELF", 4);
  const char *ptx = (const char *)code.image + code.cubin_size;
  ck_assert_uint_eq(strlen(ptx) + 1, code.ptx_size);
  for (size_t i = 0; i < f.count; i++) {
    char entry[160];
    snprintf(entry, sizeof entry, ".entry %s(", f.kernels[i].kernel->name);
    ck_assert_msg(strstr(ptx, entry) != NULL, "no %s in the PTX", entry);
    ck_assert_int_eq(code.launches[i].lanes, f.kernels[i].schedule.lanes);
    ck_assert_int_eq(code.launches[i].groups, f.kernels[i].schedule.groups);
    ck_assert_int_eq(code.launches[i].shared_bytes, f.kernels[i].shared_bytes);
  }
  qn_code_deinit(&code);
  end(&f);
}
END_TEST

static qn_status compile_once(const qn_allocator *allocator, void *context) {
  fixture *f = context;
  qn_code code;
  qn_diag diag = {0};
  QN_TRY(qn_cuda_compile(f->kernels, f->count, &f->options, allocator, &code, &diag));
  qn_code_deinit(&code);
  return QN_OK;
}

START_TEST(memory_that_runs_out_is_an_error) {
  fixture f;
  begin(&f, "cuda:sm_80");
  f.count = 1;
  qn_test_failing_allocations(compile_once, &f);
  end(&f);
}
END_TEST

QN_CASE(without, the_source_alone, without_nvrtc, more_than_the_chip_has)

static TCase *with(void) {
  qn_diag diag = {0};
  qn_nvrtc *nvrtc = NULL;
  const TTest *const tests[] = {an_image_and_launches, memory_that_runs_out_is_an_error};
  size_t count = QN_COUNT(tests);
  if (qn_nvrtc_open(NULL, qn_allocator_default(), &nvrtc, &diag) != QN_OK)
    count = 0;  // test_nvrtc tells that it is not there
  qn_nvrtc_close(nvrtc);
  return qn_test_case("with", tests, count);
}

QN_TEST_MAIN(without, with)
