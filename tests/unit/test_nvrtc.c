// NVRTC through our table of its functions: what it makes, and how its refusals read. Needs the library, no GPU.
#include <stdio.h>
#include <stdlib.h>

#include "codegen/cuda/nvrtc.h"
#include "codegen/cuda/ptxas.h"
#include "tests/support/test.h"

static const int chips[] = {80, 90, 100, 120};

static qn_nvrtc *open_nvrtc(void) {
  qn_diag diag = {0};
  qn_nvrtc *nvrtc = NULL;
  qn_assert_ok(&diag, qn_nvrtc_open(NULL, qn_test_allocator(), &nvrtc, &diag));
  return nvrtc;
}

static const char source[] =
    "extern \"C\" __global__ void twice(float *x, int n) {\n"
    "  int i = blockIdx.x * blockDim.x + threadIdx.x;\n"
    "  if (i < n) x[i] = x[i] * x[i] + x[i];\n"
    "}\n";

START_TEST(ptx_and_cubin_for_each_chip) {
  qn_nvrtc *nvrtc = open_nvrtc();
  int major = 0, minor = -1;
  qn_nvrtc_version(nvrtc, &major, &minor);
  ck_assert_int_ge(major, 12);
  ck_assert_int_ge(minor, 0);
  for (size_t i = 0; i < QN_COUNT(chips); i++) {
    char target[32];
    qn_diag diag = {0};
    qn_nvrtc_code code;
    qn_ptxas_report report;
    if (!qn_nvrtc_supports(nvrtc, chips[i])) continue;  // CUDA 12 before 12.8 knows no sm_100
    qn_assert_ok(&diag, qn_nvrtc_compile(nvrtc, "twice.cu", source, chips[i], &code, &diag));
    snprintf(target, sizeof target, ".target sm_%d", chips[i]);
    ck_assert_ptr_nonnull(strstr(code.ptx, target));
    ck_assert_ptr_nonnull(strstr(code.ptx, ".entry twice("));
    ck_assert_ptr_null(strstr(code.ptx, "fma"));  // not contracted
    ck_assert_ptr_null(strstr(code.ptx, ".ftz"));
    ck_assert_uint_gt(code.cubin_size, 64);
    ck_assert_mem_eq(code.cubin, "\177ELF", 4);
    ck_assert_msg(qn_ptxas_find(code.log, "twice", &report), "no report in %s", code.log);
    ck_assert_int_gt(report.registers, 3);
    ck_assert_int_eq(report.spill_bytes + report.stack_bytes + report.shared_bytes, 0);
    ck_assert(!qn_ptxas_find(code.log, "thrice", &report));
    qn_nvrtc_code_deinit(&code);
  }
  qn_nvrtc_close(nvrtc);
}
END_TEST

START_TEST(an_error_in_the_source_is_quoted) {
  qn_nvrtc *nvrtc = open_nvrtc();
  qn_diag diag = {0};
  qn_nvrtc_code code;
  qn_assert_fails(
      &diag, QN_ERR_INTERNAL, "bad.cu(2): error: identifier \"y\" is undefined",
      qn_nvrtc_compile(nvrtc, "bad.cu", "__global__ void f(float *x) {\n  x[0] = y;\n}\n", 80, &code, &diag));
  ck_assert_ptr_null(code.ptx);
  qn_nvrtc_close(nvrtc);
}
END_TEST

START_TEST(a_header_that_is_missing_is_named) {
  qn_nvrtc *nvrtc = NULL;
  qn_diag diag = {0};
  qn_nvrtc_code code;
  qn_nvrtc_options options = {.include = qn_test_temp_dir()};
  qn_assert_ok(&diag, qn_nvrtc_open(&options, qn_test_allocator(), &nvrtc, &diag));
  static const char text[] = "#include <cuda_fp16.h>\n__global__ void f(__half *x) { x[0] = x[1]; }\n";
  qn_assert_fails(&diag, QN_ERR_INTERNAL, "a header is missing; they are looked for in /",
                  qn_nvrtc_compile(nvrtc, "half.cu", text, 80, &code, &diag));
  ck_assert_ptr_nonnull(strstr(diag.text, "cannot open source file \"cuda_fp16.h\""));
  qn_test_write_file(qn_test_temp_path("cuda_fp16.h"), "typedef unsigned short __half;\n", 31);
  diag = (qn_diag){0};
  qn_assert_ok(&diag, qn_nvrtc_compile(nvrtc, "half.cu", text, 80, &code, &diag));  // the option's folder is looked in
  qn_nvrtc_code_deinit(&code);
  qn_nvrtc_close(nvrtc);
}
END_TEST

START_TEST(an_unknown_chip_is_refused) {
  qn_nvrtc *nvrtc = open_nvrtc();
  qn_diag diag = {0};
  qn_nvrtc_code code;
  qn_assert_fails(&diag, QN_ERR_UNSUPPORTED, "makes no code for sm_20; it knows ",
                  qn_nvrtc_compile(nvrtc, "twice.cu", source, 20, &code, &diag));
  qn_nvrtc_close(nvrtc);
}
END_TEST

static qn_status compile_once(const qn_allocator *allocator, void *context) {
  qn_diag diag = {0};
  qn_nvrtc *nvrtc = NULL;
  qn_nvrtc_code code;
  (void)context;
  QN_TRY(qn_nvrtc_open(NULL, allocator, &nvrtc, &diag));
  qn_status status = qn_nvrtc_compile(nvrtc, "twice.cu", source, 80, &code, &diag);
  if (status == QN_OK) qn_nvrtc_code_deinit(&code);
  qn_nvrtc_close(nvrtc);
  return status;
}

START_TEST(memory_that_runs_out_is_an_error) { qn_test_failing_allocations(compile_once, NULL); }
END_TEST

static TCase *compiling(void) {
  qn_diag diag = {0};
  qn_nvrtc *nvrtc = NULL;
  if (qn_nvrtc_open(NULL, qn_allocator_default(), &nvrtc, &diag) != QN_OK) qn_test_skip("%s", diag.text);
  qn_nvrtc_close(nvrtc);
  const TTest *const tests[] = {ptx_and_cubin_for_each_chip, an_error_in_the_source_is_quoted,
                                a_header_that_is_missing_is_named, an_unknown_chip_is_refused,
                                memory_that_runs_out_is_an_error};
  return qn_test_case("compiling", tests, QN_COUNT(tests));
}

QN_TEST_MAIN(compiling)
