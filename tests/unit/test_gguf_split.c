// Models split into several GGUF files: read as one, and what is wrong with a part is told.
#include <stdio.h>
#include <unistd.h>

#include "frontend/import/gguf.h"
#include "frontend/import/gguf_write.h"
#include "frontend/import/model_files.h"
#include "tests/support/test.h"

enum { F32 = 0, PARTS = 3 };

// What a part says; name_no 0: the file is named by its number.
typedef struct part {
  int no, count, stated;  // stated: split.tensors.count; 0 = none
  const char *tensor;
  int name_no;
} part;

static const float values[PARTS] = {1.5f, 2.5f, 3.5f};

static const char *path_of(int no) {
  char name[64];
  snprintf(name, sizeof name, "m-%05d-of-%05d.gguf", no + 1, PARTS);
  return qn_test_temp_path(name);
}

static void write_part(const part *p, const char *path, const float *value) {
  qn_diag diag = {0};
  qn_gguf_writer *w = qn_gguf_writer_create(qn_test_allocator());
  ck_assert_ptr_nonnull(w);
  if (p->no == 0) qn_gguf_writer_add_text(w, "general.architecture", "llama");
  qn_gguf_writer_add_int(w, "split.no", QN_GGUF_U16, p->no);
  qn_gguf_writer_add_int(w, "split.count", QN_GGUF_U16, p->count);
  if (p->stated) qn_gguf_writer_add_int(w, "split.tensors.count", QN_GGUF_I32, p->stated);
  if (p->tensor) qn_gguf_writer_add_tensor(w, qn_str_from(p->tensor), F32, 1, (int64_t[]){1}, value, sizeof *value);
  qn_assert_ok(&diag, qn_gguf_writer_save(w, path, &diag));
  qn_gguf_writer_destroy(w);
}

// All parts as they should be, but for number `changed`, which is as given.
static const char *write_all(int changed, const part *as) {
  static const char *const names[PARTS] = {NULL, "a", "b"};
  for (int i = 0; i < PARTS; i++) {
    part good = {.no = i, .count = PARTS, .stated = 2, .tensor = names[i]};
    write_part(i == changed ? as : &good, path_of(i), &values[i]);
  }
  return path_of(0);
}

START_TEST(parts_are_one_model) {
  qn_gguf *gguf;
  qn_gguf_view view;
  qn_diag diag = {0};
  float value;
  qn_assert_ok(&diag, qn_gguf_open(&gguf, write_all(-1, NULL), qn_test_allocator(), &diag));
  ck_assert_uint_eq(gguf->part_count, PARTS);
  ck_assert_uint_eq(gguf->tensor_count, 2);
  ck_assert_ptr_nonnull(qn_gguf_find(gguf, "general.architecture"));
  for (int i = 1; i < PARTS; i++) {
    const qn_gguf_tensor *t = qn_gguf_find_tensor(gguf, i == 1 ? "a" : "b");
    ck_assert_ptr_nonnull(t);
    qn_assert_ok(&diag, qn_gguf_tensor_view(gguf, t, &view, &diag));
    memcpy(&value, view.data, sizeof value);
    ck_assert(value == values[i]);
  }
  qn_assert_ok(&diag, qn_gguf_check(gguf, &diag));
  qn_gguf_close(gguf);
  ck_assert_uint_eq(qn_test_allocator_memory()->live_bytes, 0);
}
END_TEST

// All files make the model's identity.
START_TEST(files_of_a_model) {
  qn_arena arena;
  qn_path_list files;
  qn_diag diag = {0};
  qn_arena_init(&arena, qn_test_allocator());
  qn_assert_ok(&diag, qn_model_files(write_all(-1, NULL), QN_MODEL_GGUF, &arena, &files, &diag));
  ck_assert_uint_eq(files.count, PARTS);
  for (int i = 0; i < PARTS; i++) ck_assert_str_eq(files.items[i], path_of(i));
  unlink(path_of(2));
  qn_assert_ok(&diag, qn_model_files(path_of(0), QN_MODEL_GGUF, &arena, &files, &diag));
  ck_assert_uint_eq(files.count, 2);
  qn_arena_deinit(&arena);
}
END_TEST

static void refused(const char *path, qn_status status, const char *text) {
  qn_gguf *gguf = NULL;
  qn_diag diag = {0};
  qn_assert_fails(&diag, status, text, qn_gguf_open(&gguf, path, qn_test_allocator(), &diag));
  ck_assert_ptr_null(gguf);
  ck_assert_uint_eq(qn_test_allocator_memory()->live_bytes, 0);
}

START_TEST(parts_that_are_wrong) {
  write_all(-1, NULL);
  refused(path_of(1), QN_ERR_ARGUMENT, "is part 2 of 3 of a model, want the first part's path");
  unlink(path_of(1));
  refused(path_of(0), QN_ERR_FORMAT, "part 2 of 3 is missing beside it");
  refused(write_all(1, &(part){.no = 2, .count = PARTS, .tensor = "a"}), QN_ERR_FORMAT,
          "says that it is part 3 of 3, want part 2 of 3");
  refused(write_all(1, &(part){.no = 1, .count = 4, .tensor = "a"}), QN_ERR_FORMAT,
          "says that it is part 2 of 4, want part 2 of 3");
  refused(write_all(1, &(part){.no = 1, .count = PARTS, .tensor = "b"}), QN_ERR_FORMAT,
          "tensor 'b': the tensor is in another part, too");
  refused(write_all(1, &(part){.no = 1, .count = PARTS}), QN_ERR_FORMAT,
          "key 'split.tensors.count' says 2 tensors, got 1 in all parts");
  const char *other = qn_test_temp_path("m.gguf");
  write_part(&(part){.no = 0, .count = PARTS}, other, values);
  refused(other, QN_ERR_FORMAT, "whose names end in -00001-of-00003.gguf");
}
END_TEST

static qn_status open_with(const qn_allocator *allocator, void *context) {
  qn_gguf *gguf = NULL;
  qn_diag diag = {0};
  qn_status status = qn_gguf_open(&gguf, context, allocator, &diag);
  qn_gguf_close(gguf);
  return status;
}

START_TEST(memory_runs_out) {
  char path[512];
  snprintf(path, sizeof path, "%s", write_all(-1, NULL));
  qn_test_failing_allocations(open_with, path);
}
END_TEST

QN_CASE(split, parts_are_one_model, files_of_a_model, parts_that_are_wrong, memory_runs_out)

QN_TEST_MAIN(split)
