// Objects that LLVM made are kept where the environment names a folder, and believed only whole; where nothing can be
// kept, code is made all the same.
#include <stdio.h>
#include <stdlib.h>

#include "codegen/codegen.h"
#include "codegen/kept_file.h"
#include "runtime/base/file.h"
#include "tests/support/kept.h"
#include "tests/support/test.h"

#define VARIABLE "QUERN_OBJECT_CACHE"

static const char one[] = "kernel \"f\" {\n  param y : f32[16] out\n  y[0] = 1.0\n}\n";
static const char two[] = "kernel \"f\" {\n  param y : f32[16] out\n  y[0] = 2.0\n}\n";

static void ignore_stage(void *context, const char *stage, const char *text, size_t length) {
  (void)stage, (void)text, (void)length;
  ++*(int *)context;
}

// The image, of qn_test_allocator. *stages, where given, counts what is dumped.
static qn_code compile(const char *text, const char *target_name, int *stages) {
  qn_arena arena;
  qn_lkernel **kernels;
  size_t count;
  qn_diag diag = {0};
  qn_target target;
  qn_code code;
  qn_arena_init(&arena, qn_test_allocator());
  qn_assert_ok(&diag, qn_lkernels_parse("test", qn_str_from(text), &arena, &kernels, &count, &diag));
  qn_assert_ok(&diag, qn_target_parse(target_name, &target, &diag));
  qn_codegen_options options = {
      .target = &target, .threads = 1, .dump = stages ? ignore_stage : NULL, .dump_context = stages};
  qn_assert_ok(&diag,
               qn_cpu_compile((const qn_lkernel *const *)kernels, count, &options, qn_test_allocator(), &code, &diag));
  qn_arena_deinit(&arena);
  return code;
}

static bool same(const qn_code *a, const qn_code *b) {
  return a->image_size == b->image_size && memcmp(a->image, b->image, a->image_size) == 0;
}

static void compile_and_compare(const char *text, const qn_code *want, const char *label) {
  qn_code code = compile(text, "x86-64-v3", NULL);
  ck_assert_msg(same(&code, want), "%s: other code", label);
  qn_code_deinit(&code);
}

static const char *name_folder(const char *name) {
  const char *folder = qn_test_temp_path(name);
  setenv(VARIABLE, folder, 1);
  return folder;
}

static char *read_file(const char *path, size_t *out_size) {
  char *data = NULL;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_file_read(path, QN_TEXT_MAX, qn_test_allocator(), &data, out_size, &diag));
  return data;
}

START_TEST(the_second_time_it_is_there) {
  char path[512];
  const char *folder = name_folder("cache/inner");  // is made
  qn_code first = compile(one, "x86-64-v3", NULL);
  ck_assert_uint_eq(qn_kept_entries(folder, path, sizeof path), 1);
  ino_t number = qn_kept_number(path);
  compile_and_compare(one, &first, "the second time");
  ck_assert(qn_kept_number(path) == number && qn_kept_entries(folder, path, sizeof path) == 1);
  qn_code other = compile(two, "x86-64-v3", NULL);  // another kernel, another target
  ck_assert(!same(&first, &other));
  ck_assert_uint_eq(qn_kept_entries(folder, path, sizeof path), 2);
  qn_code_deinit(&other);
  other = compile(one, "x86-64-v3+avxvnni", NULL);
  ck_assert_uint_eq(qn_kept_entries(folder, path, sizeof path), 3);
  qn_code_deinit(&other);
  int stages = 0;  // whoever wants to see the stages gets all of them
  other = compile(one, "x86-64-v3", &stages);
  ck_assert(stages == 3 && same(&first, &other));
  qn_code_deinit(&other);
  qn_code_deinit(&first);
}
END_TEST

// The code of another kernel under this one's key shows that it is what is kept that is taken.
START_TEST(it_is_what_is_kept_that_is_taken) {
  char path[512];
  size_t size, other_size;
  unsetenv(VARIABLE);
  qn_code right = compile(one, "x86-64-v3", NULL), other = compile(two, "x86-64-v3", NULL);
  const char *folder = name_folder("other");
  compile_and_compare(two, &other, "before it is kept");
  ck_assert_uint_eq(qn_kept_entries(folder, path, sizeof path), 1);
  char *planted = read_file(path, &other_size);
  folder = name_folder("this");
  compile_and_compare(one, &right, "before it is kept");
  ck_assert_uint_eq(qn_kept_entries(folder, path, sizeof path), 1);
  char *data = read_file(path, &size);
  memcpy(planted, data, sizeof(qn_kept_name));
  qn_test_write_file(path, planted, other_size);  // its hash is of the content alone
  compile_and_compare(one, &other, "what was planted");
  qn_free(qn_test_allocator(), data, size + 1);
  qn_free(qn_test_allocator(), planted, other_size + 1);
  qn_code_deinit(&right);
  qn_code_deinit(&other);
}
END_TEST

static void make_again(void *context) { compile_and_compare(one, context, "after damage"); }

START_TEST(what_is_damaged_is_made_anew) {
  const char *folder = name_folder("damaged");
  qn_code right = compile(one, "x86-64-v3", NULL);
  qn_kept_damage(folder, make_again, &right);
  qn_code_deinit(&right);
}
END_TEST

START_TEST(where_nothing_can_be_kept) {
  char inside[512];
  unsetenv(VARIABLE);
  qn_code right = compile(one, "x86-64-v3", NULL);
  const char *file = qn_test_temp_path("file");
  qn_test_write_file(file, "x", 1);
  snprintf(inside, sizeof inside, "%s/folder", file);
  const char *const folders[] = {inside, ""};
  for (size_t i = 0; i < QN_COUNT(folders); i++) {
    setenv(VARIABLE, folders[i], 1);
    compile_and_compare(one, &right, folders[i]);
  }
  qn_code_deinit(&right);
}
END_TEST

static qn_status compile_with(const qn_allocator *allocator, void *context) {
  qn_arena arena;
  qn_lkernel **kernels;
  size_t count;
  qn_diag diag = {0};
  qn_code code;
  qn_codegen_options options = {.target = context, .threads = 1};
  qn_arena_init(&arena, qn_allocator_default());
  qn_status status = qn_lkernels_parse("test", qn_str_from(one), &arena, &kernels, &count, &diag);
  if (status == QN_OK)
    status = qn_cpu_compile((const qn_lkernel *const *)kernels, count, &options, allocator, &code, &diag);
  if (status == QN_OK) qn_code_deinit(&code);
  qn_arena_deinit(&arena);
  return status;
}

// While it is kept, and while it is found.
START_TEST(failing_allocations) {
  qn_diag diag = {0};
  qn_target target;
  char path[512];
  const char *folder = name_folder("failing");
  qn_assert_ok(&diag, qn_target_parse("x86-64-v3", &target, &diag));
  for (int round = 0; round < 2; round++) {
    qn_test_failing_allocations(compile_with, &target);
    ck_assert_uint_eq(qn_kept_entries(folder, path, sizeof path), 1);
  }
}
END_TEST

QN_CASE(cache, the_second_time_it_is_there, it_is_what_is_kept_that_is_taken, what_is_damaged_is_made_anew,
        where_nothing_can_be_kept, failing_allocations)
QN_TEST_MAIN(cache)
