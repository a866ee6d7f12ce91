// What NVRTC made is kept and believed only whole; where nothing can be kept, code is made all the same. Needs NVRTC.
#include <stdio.h>

#include "codegen/cuda/nvrtc_cache.h"
#include "tests/support/kept.h"
#include "tests/support/test.h"

static const char source[] = "extern \"C\" __global__ void f(int *x) { x[threadIdx.x] = 7; }\n";

static qn_nvrtc *open_nvrtc(void) {
  qn_diag diag = {0};
  qn_nvrtc *nvrtc = NULL;
  qn_assert_ok(&diag, qn_nvrtc_open(NULL, qn_test_allocator(), &nvrtc, &diag));
  return nvrtc;
}

static qn_nvrtc_code compile(const char *folder, const char *text, int sm) {
  qn_diag diag = {0};
  qn_nvrtc_code code;
  qn_nvrtc *nvrtc = open_nvrtc();
  qn_assert_ok(&diag, qn_nvrtc_compile_cached(nvrtc, folder, "f.cu", text, sm, &code, &diag));
  ck_assert_ptr_nonnull(strstr(code.ptx, ".entry f("));
  ck_assert_mem_eq(code.cubin, "\177ELF", 4);
  ck_assert_ptr_nonnull(strstr(code.log, "Used "));
  qn_nvrtc_close(nvrtc);
  return code;
}

START_TEST(the_second_time_it_is_there) {
  char path[512];
  const char *folder = qn_test_temp_path("cache/inner");  // is made
  qn_nvrtc_code first = compile(folder, source, 80);
  ck_assert_uint_eq(qn_kept_entries(folder, path, sizeof path), 1);
  ino_t number = qn_kept_number(path);
  qn_nvrtc_code second = compile(folder, source, 80);
  ck_assert(qn_kept_number(path) == number && qn_kept_entries(folder, path, sizeof path) == 1);
  ck_assert_str_eq(first.ptx, second.ptx);
  ck_assert_str_eq(first.log, second.log);
  ck_assert_uint_eq(first.cubin_size, second.cubin_size);
  ck_assert_mem_eq(first.cubin, second.cubin, first.cubin_size);
  qn_nvrtc_code_deinit(&second);
  second = compile(folder, source, 90);  // another chip, another source
  ck_assert_ptr_nonnull(strstr(second.ptx, ".target sm_90"));
  qn_nvrtc_code_deinit(&second);
  second = compile(folder, "extern \"C\" __global__ void f(int *x) { x[threadIdx.x] = 8; }\n", 80);
  ck_assert_str_ne(first.ptx, second.ptx);
  ck_assert_uint_eq(qn_kept_entries(folder, path, sizeof path), 3);
  qn_nvrtc_code_deinit(&second);
  qn_nvrtc_code_deinit(&first);
}
END_TEST

typedef struct kept {
  const char *folder;
  qn_nvrtc_code code;
} kept;

static void make_again(void *context) {
  const kept *right = context;
  qn_nvrtc_code code = compile(right->folder, source, 80);
  ck_assert_str_eq(code.ptx, right->code.ptx);
  qn_nvrtc_code_deinit(&code);
}

START_TEST(what_is_damaged_is_made_anew) {
  const char *folder = qn_test_temp_path("damaged");
  kept right = {folder, compile(folder, source, 80)};
  qn_kept_damage(folder, make_again, &right);
  qn_nvrtc_code_deinit(&right.code);
}
END_TEST

START_TEST(where_nothing_can_be_kept) {
  const char *file = qn_test_temp_path("file");
  char inside[512];
  qn_test_write_file(file, "x", 1);
  snprintf(inside, sizeof inside, "%s/folder", file);
  qn_nvrtc_code code = compile(inside, source, 80);
  qn_nvrtc_code_deinit(&code);
  code = compile(NULL, source, 80);
  qn_nvrtc_code_deinit(&code);
}
END_TEST

START_TEST(errors_are_not_kept) {
  char path[512];
  qn_diag diag = {0};
  qn_nvrtc_code code;
  qn_nvrtc *nvrtc = open_nvrtc();
  const char *folder = qn_test_temp_path("errors");
  qn_assert_fails(&diag, QN_ERR_INTERNAL,
                  "refuses the source: ", qn_nvrtc_compile_cached(nvrtc, folder, "f.cu", "no C++", 80, &code, &diag));
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_UNSUPPORTED, "makes no code for sm_20",
                  qn_nvrtc_compile_cached(nvrtc, folder, "f.cu", source, 20, &code, &diag));
  ck_assert_uint_eq(qn_kept_entries(folder, path, sizeof path), 0);
  qn_nvrtc_close(nvrtc);
}
END_TEST

static TCase *cache(void) {
  qn_diag diag = {0};
  qn_nvrtc *nvrtc = NULL;
  if (qn_nvrtc_open(NULL, qn_allocator_default(), &nvrtc, &diag) != QN_OK) qn_test_skip("%s", diag.text);
  qn_nvrtc_close(nvrtc);
  const TTest *const tests[] = {the_second_time_it_is_there, what_is_damaged_is_made_anew, where_nothing_can_be_kept,
                                errors_are_not_kept};
  return qn_test_case("cache", tests, QN_COUNT(tests));
}

QN_TEST_MAIN(cache)
