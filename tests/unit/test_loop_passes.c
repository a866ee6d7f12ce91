// A kernel means the same under every schedule: the kernels of tests/golden/passes/pipeline go through the loop passes
// with many schedules and are interpreted for several numbers of tokens; every output must have the bits of the kernel
// as it was written. The verifier runs after each pass.
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "ir/loop_interp.h"
#include "passes/loop_pass.h"
#include "runtime/base/file.h"
#include "tests/support/test.h"

enum { MAX_PARAMS = 8 };

static const int64_t TOKENS[] = {1, 2, 3, 5, 13, 17};

// ---- kernels ----------------------------------------------------------------------------------------------------

// Parses the kernel of a golden case, what stands after its line "---".
static qn_lkernel *read_kernel(const char *name, qn_arena *arena) {
  char path[1024];
  qn_diag diag = {0};
  char *text = NULL;
  size_t size = 0, count = 0;
  snprintf(path, sizeof path, "%s/%s.in.txt", qn_test_source("tests/golden/passes/pipeline"), name);
  qn_assert_ok(&diag, qn_file_read(path, QN_TEXT_MAX, qn_test_allocator(), &text, &size, &diag));
  const char *kernel = strstr(text, "\n---\n");
  ck_assert_msg(kernel != NULL, "%s: no line '---'", path);
  kernel += 5;
  qn_lkernel **kernels = NULL;
  qn_assert_ok(&diag, qn_lkernels_parse(path, qn_str_from(kernel), arena, &kernels, &count, &diag));
  ck_assert_uint_eq(count, 1);
  qn_free(qn_test_allocator(), text, size + 1);
  qn_assert_ok(&diag, qn_lkernel_verify(kernels[0], &diag));
  return kernels[0];
}

// ---- running ----------------------------------------------------------------------------------------------------

// A parameter's size expression for T tokens.
static int64_t elements_of(const qn_lexpr *e, int64_t tokens) {
  switch (e->op) {
    case QN_LX_INT: return e->u.int_value;
    case QN_LX_SYM: return tokens;
    case QN_LX_ADD: return elements_of(e->operands[0], tokens) + elements_of(e->operands[1], tokens);
    case QN_LX_MUL: return elements_of(e->operands[0], tokens) * elements_of(e->operands[1], tokens);
    default: ck_abort_msg("a size is made of + and *");
  }
  return 0;
}

// Values that the kernels can use: floats in -1..1, small positions, and f16 scales wherever a weight block has one.
static void fill(const qn_lbuf *param, uint8_t *data, size_t size, qn_test_random *random) {
  size_t element = qn_lmem_size(param->mem);
  for (size_t at = 0; at + element <= size; at += element) {
    float value = (float)(2 * qn_test_random_unit(random) - 1);
    int32_t whole = (int32_t)(qn_test_random_u64(random) & 0xFF);
    uint16_t half = param->mem == QN_LM_F16 ? qn_f32_to_f16(value) : qn_f32_to_bf16(value);
    if (strcmp(param->name, "pos") == 0) whole &= 7;
    switch (param->mem) {
      case QN_LM_F32: memcpy(data + at, &value, 4); break;
      case QN_LM_I32: memcpy(data + at, &whole, 4); break;
      case QN_LM_F16:
      case QN_LM_BF16: memcpy(data + at, &half, 2); break;
      default: data[at] = (uint8_t)whole; break;
    }
  }
  size_t block = strcmp(param->name, "w8") == 0 ? 544 : strcmp(param->name, "w4") == 0 ? 288 : 0;
  for (size_t at = 0; block > 0 && at + block <= size; at += block) {
    for (size_t row = 0; row < 16; row++) {
      uint16_t scale = qn_f32_to_f16((float)qn_test_random_unit(random));
      memcpy(data + at + 2 * row, &scale, 2);
    }
  }
}

typedef struct buffers {
  qn_linterp_buffer items[MAX_PARAMS];
  size_t count;
} buffers;

static void make_buffers(const qn_lkernel *kernel, int64_t tokens, buffers *out) {
  qn_test_random random = {.state = 7 + (uint64_t)tokens};
  ck_assert_uint_le(kernel->param_count, MAX_PARAMS);
  out->count = kernel->param_count;
  for (size_t i = 0; i < kernel->param_count; i++) {
    const qn_lbuf *param = kernel->params[i];
    size_t size = (size_t)elements_of(param->elements, tokens) * qn_lmem_size(param->mem);
    out->items[i] = (qn_linterp_buffer){malloc(size ? size : 1), size};
    ck_assert_ptr_nonnull(out->items[i].data);
    if (param->writable) {
      memset(out->items[i].data, 0x5A, size);
    } else {
      fill(param, out->items[i].data, size, &random);
    }
  }
}

static void free_buffers(buffers *b) {
  for (size_t i = 0; i < b->count; i++) free(b->items[i].data);
}

// Runs all of a kernel; a parallel loop in two ranges, the second one first.
static void interpret(const qn_lkernel *kernel, int64_t tokens, const buffers *b, const char *what) {
  int64_t symbols[QN_SYM_COUNT] = {[QN_SYM_T] = tokens};
  qn_diag diag = {0};
  const qn_lstmt *first = kernel->body.first;
  bool parallel = first && first->kind == QN_LS_FOR && first->u.loop.mark == QN_LM_PARALLEL;
  qn_status status = QN_OK;
  if (parallel) {
    status = qn_lkernel_interpret(kernel, b->items, symbols, 2, INT64_MAX, qn_test_allocator(), &diag);
    ck_assert_msg(status == QN_OK, "%s, T = %lld: %s", what, (long long)tokens, diag.text);
  }
  int64_t end = parallel ? 2 : INT64_MAX;
  status = qn_lkernel_interpret(kernel, b->items, symbols, 0, end, qn_test_allocator(), &diag);
  ck_assert_msg(status == QN_OK, "%s, T = %lld: %s", what, (long long)tokens, diag.text);
}

// Interprets `got` and compares its outputs with those of `want`, which hold what the plain kernel made.
static void check_outputs(const qn_lkernel *got, int64_t tokens, const buffers *want, const char *what) {
  buffers have;
  make_buffers(got, tokens, &have);
  interpret(got, tokens, &have, what);
  for (size_t i = 0; i < have.count; i++) {
    ck_assert_uint_eq(have.items[i].size, want->items[i].size);
    const uint8_t *a = have.items[i].data, *b = want->items[i].data;
    for (size_t at = 0; at < have.items[i].size; at++) {
      ck_assert_msg(a[at] == b[at], "%s, T = %lld: '%s' differs at byte %zu", what, (long long)tokens,
                    got->params[i]->name, at);
    }
  }
  free_buffers(&have);
}

// ---- schedules --------------------------------------------------------------------------------------------------

// The number-th combination of knobs; false when there are no more.
static bool schedule_number(size_t number, qn_schedule *out) {
  static const int m_tiles[][QN_SCHEDULE_MAX_TILES] = {{1}, {4, 1}, {12, 4, 1}, {3, 2, 1}};
  static const int m_counts[] = {1, 2, 3, 3}, n_tiles[] = {1, 2, 4}, lanes[] = {1, 4, 8, 16};
  size_t m = number % 4, n = number / 4 % 3, l = number / 12 % 4, k = number / 48;
  if (k > 1) return false;
  *out = qn_schedule_plain();
  memcpy(out->m_tiles, m_tiles[m], sizeof out->m_tiles);
  out->m_tile_count = m_counts[m];
  out->n_tile = n_tiles[n];
  out->lanes = lanes[l];
  out->k_unroll = (int)k;
  out->n_apart = number % 7 < 3;
  out->n_block = number % 5 == 0 ? 3 : 1;
  out->m_block = m > 0 && number % 2 ? 2 : 1;
  out->dots = (int)(number % 3);
  out->prefetch_bytes = (number + k) % 2 ? 4096 : 0;
  out->prefetch_far = out->prefetch_bytes > 0 && number % 5 < 2;
  out->parallel = 1;
  return true;
}

// One line, for messages.
static void describe(const qn_schedule *schedule, const char *kernel, char *out, size_t size) {
  qn_buf text;
  qn_buf_init(&text, qn_test_allocator());
  qn_schedule_print(schedule, &text);
  for (size_t i = 0; i < text.length; i++) {
    if (text.data[i] == '\n') text.data[i] = ';';
  }
  snprintf(out, size, "%s: %s", kernel, qn_buf_text(&text));
  qn_buf_deinit(&text);
}

// Copies the kernel, specialises it to `tokens` unless that is 0, and runs the loop passes.
static qn_lkernel *scheduled(const qn_lkernel *kernel, const qn_schedule *schedule, int64_t tokens, qn_arena *arena,
                             qn_lbuild *build, const char *what) {
  qn_diag diag = {0};
  qn_lkernel *copy = qn_lkernel_copy(build, arena, kernel, kernel->name);
  ck_assert_ptr_nonnull(copy);
  qn_loop_pass_context context = {.build = build, .schedule = schedule, .diag = &diag};
  qn_status status = tokens > 0 ? qn_pass_specialise(&context, QN_SYM_T, tokens) : QN_OK;
  if (status == QN_OK) status = qn_lkernel_verify(copy, &diag);
  if (status == QN_OK) status = qn_loop_pipeline(&context, NULL, NULL);
  ck_assert_msg(status == QN_OK, "%s: %s: %s", what, qn_status_name(status), diag.text);
  return copy;
}

// ---- tests ------------------------------------------------------------------------------------------------------

// Every schedule with T symbolic, for half of the token counts by turns; for some also the variant of a token count.
// max_n_tile: what divides the kernel's panels.
static void check_kernel(const char *name, int max_n_tile) {
  qn_arena arena;
  qn_arena_init(&arena, qn_test_allocator());
  const qn_lkernel *kernel = read_kernel(name, &arena);
  buffers want[QN_COUNT(TOKENS)];
  for (size_t i = 0; i < QN_COUNT(TOKENS); i++) {
    make_buffers(kernel, TOKENS[i], &want[i]);
    interpret(kernel, TOKENS[i], &want[i], name);
  }
  qn_schedule schedule;
  // Strides that have no factor with the numbers of choices meet every choice of every knob.
  for (size_t number = 0; schedule_number(number, &schedule); number += qn_test_stride(5, 19)) {
    char what[256];
    if (schedule.n_tile > max_n_tile) continue;
    describe(&schedule, name, what, sizeof what);
    qn_arena scratch;
    qn_lbuild build;
    qn_arena_init(&scratch, qn_test_allocator());
    const qn_lkernel *general = scheduled(kernel, &schedule, 0, &scratch, &build, what);
    for (size_t i = 0; i < QN_COUNT(TOKENS); i++) {
      if ((number / 4 + i) % 2 == 0) check_outputs(general, TOKENS[i], &want[i], what);
      if (number % 5 != i % 5) continue;
      const qn_lkernel *special = scheduled(kernel, &schedule, TOKENS[i], &scratch, &build, what);
      check_outputs(special, TOKENS[i], &want[i], what);
    }
    qn_arena_deinit(&scratch);
  }
  for (size_t i = 0; i < QN_COUNT(TOKENS); i++) free_buffers(&want[i]);
  qn_arena_deinit(&arena);
}

START_TEST(test_matmul_f32) { check_kernel("matmul_f32", 4); }
END_TEST
START_TEST(test_matmul_q8_0) { check_kernel("matmul_q8_0", 4); }
END_TEST
START_TEST(test_matmul_q4_0) { check_kernel("matmul_q4_0", 4); }
END_TEST
START_TEST(test_gate_up) { check_kernel("gate_up", 4); }
END_TEST
START_TEST(test_rmsnorm) { check_kernel("rmsnorm", 4); }
END_TEST
START_TEST(test_attention) { check_kernel("attention", 4); }
END_TEST
START_TEST(test_elementwise) { check_kernel("elementwise", 4); }
END_TEST
START_TEST(test_flat) { check_kernel("flat", 4); }
END_TEST
START_TEST(test_ragged) { check_kernel("ragged", 2); }
END_TEST
START_TEST(test_views) { check_kernel("views", 4); }
END_TEST

// Every golden kernel of the pipeline is one of the tests above.
START_TEST(test_all_kernels) {
  static const char *const names[] = {"matmul_f32", "matmul_q8_0", "matmul_q4_0", "gate_up", "rmsnorm",
                                      "attention",  "elementwise", "flat",        "ragged",  "views"};
  DIR *folder = opendir(qn_test_source("tests/golden/passes/pipeline"));
  ck_assert_ptr_nonnull(folder);
  for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
    const char *suffix = strstr(entry->d_name, ".in.txt");
    bool found = suffix == NULL;
    for (size_t i = 0; i < QN_COUNT(names) && !found; i++) {
      found = qn_str_is((qn_str){entry->d_name, (size_t)(suffix - entry->d_name)}, names[i]);
    }
    ck_assert_msg(found, "%s has no test here", entry->d_name);
  }
  closedir(folder);
}
END_TEST

QN_CASE(matmul, test_matmul_f32, test_matmul_q8_0, test_matmul_q4_0, test_gate_up)
QN_CASE(rows, test_rmsnorm, test_attention, test_ragged, test_views)
QN_CASE(elements, test_elementwise, test_flat, test_all_kernels)

// ---- failures ---------------------------------------------------------------------------------------------------

static void count_dump(void *context, const char *pass, const qn_lkernel *kernel) {
  (void)pass;
  if (kernel->body.first) ++*(int *)context;
}

enum {
  PASS_COUNT = 0
#define QN_LOOP_PASS(name, text) +1
#include "passes/loop_passes.def"
#undef QN_LOOP_PASS
};

// The pipeline dumps after each of its passes.
START_TEST(test_dump) {
  qn_arena arena;
  qn_lbuild build;
  qn_diag diag = {0};
  int dumps = 0;
  qn_arena_init(&arena, qn_test_allocator());
  qn_schedule schedule = qn_schedule_plain();
  qn_lbuild_open(&build, &arena, read_kernel("flat", &arena));
  qn_loop_pass_context context = {.build = &build, .schedule = &schedule, .diag = &diag};
  qn_assert_ok(&diag, qn_loop_pipeline(&context, count_dump, &dumps));
  ck_assert_int_eq(dumps, PASS_COUNT);
  qn_arena_deinit(&arena);
}
END_TEST

START_TEST(test_bad_schedule) {
  qn_arena arena;
  qn_lbuild build;
  qn_diag diag = {0};
  qn_arena_init(&arena, qn_test_allocator());
  qn_schedule schedule = qn_schedule_plain();
  schedule.n_tile = 3;
  qn_lbuild_open(&build, &arena, read_kernel("matmul_f32", &arena));
  qn_loop_pass_context context = {.build = &build, .schedule = &schedule, .diag = &diag};
  qn_assert_fails(&diag, QN_ERR_ARGUMENT, "n_tile = 3 does not divide the 4 panels",
                  qn_loop_pipeline(&context, NULL, NULL));
  qn_arena_deinit(&arena);
}
END_TEST

typedef struct memory_case {
  const qn_lkernel *kernel;
  size_t skip;  // bytes taken from the arena first, so that its chunks end, and fail to follow, at other places
} memory_case;

// Copies and schedules a kernel with this allocator.
static qn_status schedule_kernel(const qn_allocator *allocator, void *context) {
  const memory_case *c = context;
  qn_arena arena;
  qn_lbuild build;
  qn_schedule schedule = qn_schedule_plain();
  schedule.m_tiles[0] = 4;
  schedule.m_tiles[1] = 1;
  schedule.m_tile_count = 2;
  schedule.m_block = 2;
  schedule.n_tile = 2;
  schedule.k_unroll = 1;
  schedule.lanes = 16;
  schedule.prefetch_bytes = 4096;
  qn_arena_init(&arena, allocator);
  qn_status status = QN_ERR_NOMEM;
  if (qn_arena_alloc(&arena, c->skip) && qn_lkernel_copy(&build, &arena, c->kernel, c->kernel->name)) {
    qn_loop_pass_context pass = {.build = &build, .schedule = &schedule};
    status = qn_pass_specialise(&pass, QN_SYM_P, 3);
    if (status == QN_OK) status = qn_loop_pipeline(&pass, NULL, NULL);
  }
  qn_arena_deinit(&arena);
  return status;
}

START_TEST(test_memory) {
  static const char *const names[] = {"matmul_q4_0", "rmsnorm", "elementwise", "ragged", "views"};
  qn_arena arena;
  qn_arena_init(&arena, qn_test_allocator());
  for (size_t i = 0; i < QN_COUNT(names); i++) {
    memory_case c = {.kernel = read_kernel(names[i], &arena)};
    for (c.skip = 16; c.skip < 4096; c.skip += 112) qn_test_failing_allocations(schedule_kernel, &c);
  }
  qn_arena_deinit(&arena);
}
END_TEST

QN_CASE(failures, test_dump, test_bad_schedule, test_memory)

QN_TEST_MAIN(matmul, rows, elements, failures)
