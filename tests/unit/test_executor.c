// The executor on hand-made programs: choice of code, binding, variants, extents, barriers, errors, profiles.
#include "runtime/executor.h"

#include <stdatomic.h>
#include <stdio.h>

#include "runtime/cpu_features.h"
#include "tests/support/artifact_builder.h"
#include "tests/support/test.h"

// --- a program whose kernels are functions of this file
// first:  hidden[t] = input[t] * 2 + 1             extent T
// second: out[r][c] = hidden[r] + c + variant      extent 20 (columns), by rows R
// third:  last[0] = sum of out                     no parallel loop

enum { T = QN_TEST_SYM_T, R = QN_TEST_SYM_R };
enum { COLUMNS = 20, PITCH = 32, MAX_T = 64, MAX_R = 8 };

static atomic_int calls_of_third;

static void first(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  const int32_t *input = buffers[0];
  float *hidden = buffers[1];
  qn_check(begin >= 0 && begin < end && end <= symbols[T], "a share outside the loop");
  for (int64_t i = begin; i < end; i++) hidden[i * 16] = (float)(input[i] * 2 + 1);
}

static void second(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end, float variant) {
  const float *hidden = buffers[0];
  float *out = buffers[1];
  for (int64_t r = 0; r < symbols[R]; r++) {
    for (int64_t c = begin; c < end; c++) out[r * PITCH + c] = hidden[r * 16] + (float)c + variant;
  }
}
static void second_one(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  qn_check(symbols[R] == 1, "the wrong variant");
  second(buffers, symbols, begin, end, 1000);
}
static void second_many(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  qn_check(symbols[R] > 1, "the wrong variant");
  second(buffers, symbols, begin, end, 2000);
}

static void third(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  const float *out = buffers[0];
  float *last = buffers[1], sum = 0;
  (void)begin, (void)end;
  atomic_fetch_add(&calls_of_third, 1);
  for (int64_t r = 0; r < symbols[R]; r++) {
    for (int64_t c = 0; c < COLUMNS; c++) sum += out[r * PITCH + c];
  }
  last[0] = sum;
}

static const qn_kernel_entry entries[] = {first, second_one, second_many, third};

static void describe(qn_test_artifact *a) {
  qn_test_artifact_init(a);
  a->head.symbol_max[T] = MAX_T;
  a->head.symbol_max[R] = MAX_R;
  uint32_t input = qn_test_artifact_input(a, "x", T, 0);
  uint32_t hidden = qn_test_artifact_arena(a, NULL, T, MAX_T, 1);
  uint32_t out = qn_test_artifact_arena(a, "out", R, MAX_R, COLUMNS);
  uint32_t last = qn_test_artifact_arena(a, "last", 0, 1, 1);
  qn_test_artifact_kernel(a, "first", 2, 0);
  qn_test_artifact_variant(a, 0, 0, T, 1);
  qn_test_artifact_kernel(a, "second", 2, R);
  qn_test_artifact_variant(a, 1, 1, 0, COLUMNS);
  qn_test_artifact_variant(a, 2, 6, 0, COLUMNS);
  qn_test_artifact_kernel(a, "third", 2, 0);
  qn_test_artifact_variant(a, 0, 0, 0, 1);
  qn_test_artifact_step(a, 0, false, (const uint32_t[]){input, hidden});
  qn_test_artifact_step(a, 1, true, (const uint32_t[]){hidden, out});
  qn_test_artifact_step(a, 2, true, (const uint32_t[]){out, last});
}

static qn_artifact open_artifact(const qn_test_artifact *a) {
  qn_artifact artifact;
  qn_diag diag = {0};
  qn_buf file;
  qn_test_artifact_build(a, &file);
  qn_assert_ok(&diag, qn_artifact_open_mapping(&artifact, qn_test_artifact_map(file.data, file.length), "t.qn", &diag));
  qn_buf_deinit(&file);
  return artifact;
}

typedef struct fixture {
  qn_artifact artifact;
  qn_threads *threads;
  const qn_kernel_entry *entries;
  qn_executor *executor;
  qn_run_kind kind;
  qn_diag diag;
} fixture;

static void set_up_with(fixture *f, void (*described)(qn_test_artifact *a), const qn_kernel_entry *functions,
                        int thread_count, bool profile) {
  qn_test_artifact a;
  *f = (fixture){.entries = functions};
  described(&a);
  f->artifact = open_artifact(&a);
  qn_test_artifact_deinit(&a);
  qn_assert_ok(&f->diag, qn_threads_create(thread_count, false, qn_test_allocator(), &f->threads, &f->diag));
  qn_executor_options options = {.jit_entries = functions, .decode_threads = 1, .profile = profile};
  qn_assert_ok(&f->diag,
               qn_executor_create(&f->artifact, f->threads, &options, qn_test_allocator(), &f->executor, &f->diag));
}

static void set_up(fixture *f, int thread_count, bool profile) {
  set_up_with(f, describe, entries, thread_count, profile);
}

static void tear_down(fixture *f) {
  qn_executor_destroy(f->executor);
  qn_threads_destroy(f->threads);
  qn_artifact_close(&f->artifact);
}

static qn_status run(fixture *f, int64_t t, int64_t r) {
  f->diag = (qn_diag){0};
  return qn_executor_run(f->executor, (const int64_t[QN_ARTIFACT_SYMBOLS]){[T] = t, [R] = r}, f->kind, &f->diag);
}

START_TEST(walks_the_steps) {
  static const int thread_counts[] = {1, 2, 5};
  int32_t input[MAX_T];
  for (int i = 0; i < MAX_T; i++) input[i] = 3 * i;
  for (size_t c = 0; c < QN_COUNT(thread_counts); c++) {
    fixture f;
    set_up(&f, thread_counts[c], c == 1);
    ck_assert_str_eq(qn_executor_target(f.executor), "jit");
    qn_assert_ok(&f.diag, qn_executor_bind_input(f.executor, "x", input, &f.diag));
    size_t allocations = qn_test_allocator_memory()->allocations;
    for (int64_t r = 6; r >= 1; r--) {
      atomic_store(&calls_of_third, 0);
      qn_assert_ok(&f.diag, run(&f, MAX_T, r));
      ck_assert_int_eq(atomic_load(&calls_of_third), 1);
      const qn_art_buffer *buffer;
      const float *out = qn_executor_output(f.executor, "out", &buffer),
                  *last = qn_executor_output(f.executor, "last", NULL);
      ck_assert_int_eq(buffer->row_pitch, PITCH);
      float sum = 0;
      for (int64_t row = 0; row < r; row++) {
        for (int64_t column = 0; column < COLUMNS; column++) {
          float want = (float)(6 * row + 1 + column + (r == 1 ? 1000 : 2000));
          ck_assert(out[row * PITCH + column] == want);
          sum += want;
        }
      }
      ck_assert(last[0] == sum);
    }
    ck_assert_uint_eq(qn_test_allocator_memory()->allocations, allocations);
    ck_assert_uint_eq((uintptr_t)qn_executor_output(f.executor, "out", NULL) % 64, 0);
    ck_assert_ptr_null(qn_executor_output(f.executor, "other", NULL));
    tear_down(&f);
  }
}
END_TEST

START_TEST(inputs_are_rebound) {
  fixture f;
  int32_t a[MAX_T] = {1}, b[MAX_T] = {5};
  set_up(&f, 2, false);
  const int32_t *inputs[] = {a, b, a};
  for (int i = 0; i < 3; i++) {
    qn_assert_ok(&f.diag, qn_executor_bind_input(f.executor, "x", inputs[i], &f.diag));
    qn_assert_ok(&f.diag, run(&f, 1, 1));
    ck_assert(((const float *)qn_executor_output(f.executor, "out", NULL))[0] == (float)(inputs[i][0] * 2 + 1 + 1000));
  }
  tear_down(&f);
}
END_TEST

START_TEST(refuses_to_run) {
  fixture f;
  int32_t input[MAX_T] = {0};
  set_up(&f, 1, false);
  qn_assert_fails(&f.diag, QN_ERR_ARGUMENT, "input 'x' is not bound", run(&f, 1, 1));
  f.diag = (qn_diag){0};
  qn_assert_fails(&f.diag, QN_ERR_ARGUMENT, "inputs are: x", qn_executor_bind_input(f.executor, "y", input, &f.diag));
  f.diag = (qn_diag){0};
  qn_assert_fails(&f.diag, QN_ERR_ARGUMENT, "no memory", qn_executor_bind_input(f.executor, "x", NULL, &f.diag));
  f.diag = (qn_diag){0};
  qn_assert_fails(&f.diag, QN_ERR_ARGUMENT, "no cache 'k' of layer 3",
                  qn_executor_bind_cache(f.executor, "k", 3, input, &f.diag));
  f.diag = (qn_diag){0};
  qn_assert_ok(&f.diag, qn_executor_bind_input(f.executor, "x", input, &f.diag));
  qn_assert_fails(&f.diag, QN_ERR_LIMIT, "symbol T: got 65, want 0 to 64", run(&f, 65, 1));
  qn_assert_fails(&f.diag, QN_ERR_LIMIT, "symbol T: got -1", run(&f, -1, 1));
  qn_assert_fails(&f.diag, QN_ERR_LIMIT, "symbol R: got 9", run(&f, 1, 9));
  qn_assert_fails(&f.diag, QN_ERR_FORMAT, "kernel 'second': got 7 rows", run(&f, 7, 7));  // a gap in its variants
  qn_assert_ok(&f.diag, run(&f, 6, 6));
  qn_assert_ok(&f.diag, run(&f, 0, 0));
  qn_assert_ok(&f.diag, run(&f, 6, 0));  // nothing of what goes by rows runs: a variant may be for one exactly
  tear_down(&f);
}
END_TEST

START_TEST(profiles) {
  fixture f;
  int32_t input[MAX_T] = {0};
  uint64_t kernel_ns, run_ns, sum = 0;
  set_up(&f, 2, true);
  qn_assert_ok(&f.diag, qn_executor_bind_input(f.executor, "x", input, &f.diag));
  for (int i = 0; i < 100; i++) qn_assert_ok(&f.diag, run(&f, 8, 2));
  qn_executor_times(f.executor, &kernel_ns, &run_ns);
  const qn_step_profile *profile = qn_executor_profile(f.executor);
  for (int i = 0; i < 3; i++) sum += profile[i].kernel_ns;
  ck_assert_uint_eq(profile[0].calls, 100);
  ck_assert_uint_eq(profile[2].calls, 100);
  ck_assert(sum == kernel_ns && kernel_ns <= run_ns);
  tear_down(&f);
  set_up(&f, 1, false);
  ck_assert_ptr_null(qn_executor_profile(f.executor));
  tear_down(&f);
}
END_TEST

// --- steps that are linked
// norm:   hidden[t][c] = x[t] + c           extent T; a prologue
// spread: wide[t][c] = hidden[t][c] * 2     of one row: extent 12, two columns each, in parts; of more: extent T
// thirds: sums[t][i] = wide[t][6i ... 6i+5] of one row: extent 4, in parts; of more: extent T; chained
// odd:    odds[t][i] = wide[t][4i ... 4i+3] of one row: extent 6, in parts; of more: extent T; chained, but two parts
//                                           of a row that leaves the other steps are too few

enum { WIDE = 24 };

static atomic_int norm_calls;
static atomic_uintptr_t norm_out[8];

static void norm(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  const int32_t *x = buffers[0];
  float *hidden = buffers[1];
  int call = atomic_fetch_add(&norm_calls, 1);
  if (symbols[T] == 1) atomic_store(&norm_out[call % 8], (uintptr_t)hidden);
  for (int64_t t = begin; t < end; t++) {
    for (int64_t c = 0; c < WIDE; c++) hidden[t * 32 + c] = (float)(x[t] + c);
  }
}

// Iterations are rows, or the columns of one row.
static void spread(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  const float *hidden = buffers[0];
  float *wide = buffers[1];
  bool one = symbols[T] == 1;
  for (int64_t t = one ? 0 : begin; t < (one ? 1 : end); t++) {
    for (int64_t c = one ? 2 * begin : 0; c < (one ? 2 * end : WIDE); c++) wide[t * 32 + c] = hidden[t * 32 + c] * 2;
  }
}

static void add_up(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end, int64_t columns) {
  const float *wide = buffers[0];
  float *sums = buffers[1];
  bool one = symbols[T] == 1;
  for (int64_t t = one ? 0 : begin; t < (one ? 1 : end); t++) {
    for (int64_t i = one ? begin : 0; i < (one ? end : WIDE / columns); i++) {
      float sum = 0;
      for (int64_t c = 0; c < columns; c++) sum += wide[t * 32 + i * columns + c];
      sums[t * 16 + i] = sum;
    }
  }
}
static void thirds(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  add_up(buffers, symbols, begin, end, 6);
}
static void odd(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  add_up(buffers, symbols, begin, end, 4);
}

static const qn_kernel_entry linked_entries[] = {norm, spread, spread, thirds, thirds, odd, odd};

static void describe_linked(qn_test_artifact *a) {
  static const int64_t extents[] = {12, 4, 6};
  static const char *const names[] = {"spread", "thirds", "odd"};
  qn_test_artifact_init(a);
  a->head.symbol_max[T] = MAX_T;
  uint32_t x = qn_test_artifact_input(a, "x", T, 0), hidden = qn_test_artifact_arena(a, NULL, T, MAX_T, WIDE);
  uint32_t wide = qn_test_artifact_arena(a, NULL, T, MAX_T, WIDE);
  uint32_t sums = qn_test_artifact_arena(a, "sums", T, MAX_T, 4), odds = qn_test_artifact_arena(a, "odds", T, MAX_T, 6);
  a->head.own_bytes = 192;
  a->buffers.items[hidden].own_bytes = 128;
  a->buffers.items[hidden].own_offset = 64;
  qn_test_artifact_kernel(a, "norm", 2, 0);
  qn_test_artifact_variant(a, 0, 0, T, 1);
  for (int k = 0; k < 3; k++) {
    qn_test_artifact_kernel(a, names[k], 2, T);
    uint32_t one = qn_test_artifact_variant(a, 1, 1, 0, extents[k]);
    a->variants.items[one].in_parts = 1;
    qn_test_artifact_variant(a, 2, MAX_T, T, 1);
  }
  qn_test_artifact_step(a, 0, false, (const uint32_t[]){x, hidden});
  qn_test_artifact_step(a, 1, true, (const uint32_t[]){hidden, wide});
  qn_test_artifact_step(a, 2, true, (const uint32_t[]){wide, sums});
  qn_test_artifact_step(a, 3, true, (const uint32_t[]){wide, odds});
  a->steps.items[0].link = QN_ART_LINK_PROLOGUE;
  a->steps.items[2].link = a->steps.items[3].link = QN_ART_LINK_CHAINED;
}

static void check_linked(const fixture *f, const int32_t *x, int64_t rows) {
  const float *sums = qn_executor_output(f->executor, "sums", NULL);
  const float *odds = qn_executor_output(f->executor, "odds", NULL);
  for (int64_t t = 0; t < rows; t++) {
    for (int64_t i = 0; i < 4; i++) ck_assert(sums[t * 16 + i] == (float)(2 * (6 * (x[t] + 6 * i) + 15)));
    for (int64_t i = 0; i < 6; i++) ck_assert(odds[t * 16 + i] == (float)(2 * (4 * (x[t] + 4 * i) + 6)));
  }
}

// One row: each thread that takes part has a prologue of its own; nothing waits within the chain. Many: step by step.
START_TEST(linked_steps) {
  static const int thread_counts[] = {1, 2, 5};
  int32_t inputs[2][MAX_T], *x = inputs[0];
  for (int i = 0; i < MAX_T; i++) inputs[0][i] = inputs[1][i] = 100 - 3 * i;
  for (size_t c = 0; c < QN_COUNT(thread_counts); c++) {
    fixture f;
    set_up_with(&f, describe_linked, linked_entries, thread_counts[c], true);
    for (int i = 0; i < 200; i++) {
      if (i % 20 == 0) f.kind = QN_RUN_STEP;  // of one thread
      if (i == 0 || i % 20 == 1) {  // while others sit out an input is bound for them, too
        x = inputs[i / 20 % 2];
        qn_assert_ok(&f.diag, qn_executor_bind_input(f.executor, "x", x, &f.diag));
      }
      if (i % 20 == 3) f.kind = QN_RUN_PROMPT;
      x[0] = i;
      atomic_store(&norm_calls, 0);
      qn_assert_ok(&f.diag, run(&f, i % 10 == 9 ? MAX_T : 1, 0));
      check_linked(&f, x, i % 10 == 9 ? MAX_T : 1);
      int calls = atomic_load(&norm_calls);
      if (i % 10 == 9) continue;
      ck_assert(calls >= 1 && calls <= thread_counts[c]);
      for (int j = 0; j < calls; j++) {
        for (int k = 0; k < j; k++) ck_assert_uint_ne(atomic_load(&norm_out[j]), atomic_load(&norm_out[k]));
      }
    }
    const qn_step_profile *profile = qn_executor_profile(f.executor);
    for (int i = 0; i < 4; i++) ck_assert_uint_eq(profile[i].calls, 200);
    qn_threads_use(f.threads, 1);  // all that is freed is of all of them
    tear_down(&f);
  }
}
END_TEST

// --- machine code

static void describe_code(qn_test_artifact *a) {
  qn_test_artifact_init(a);
  uint32_t out = qn_test_artifact_arena(a, "out", 0, 1, 1000);
  qn_test_artifact_kernel(a, "count", 1, 0);
  qn_test_artifact_variant(a, 0, 0, 0, 1000);
  qn_test_artifact_step(a, 0, false, &out);
}

START_TEST(code_brings_its_plan) {
  size_t size;
  const void *code = qn_test_machine_code(&size);
  if (!code) return;
  static const uint64_t offsets[2] = {64, 128};
  uint8_t image[256] = {0};
  for (int i = 0; i < 2; i++) memcpy(image + offsets[i], code, size);
  qn_test_artifact a;
  describe_code(&a);
  qn_test_artifact_plan(&a);
  qn_test_artifact_variant_of(&a, 0, 0, 0, 0, 500);
  for (int i = 0; i < 2; i++) {
    qn_test_artifact_code(&a, i ? "half" : "whole", "", qn_cpu_arch(), image, sizeof image, offsets);
    a.codes[i].head.plan = (uint32_t)i;
  }
  qn_artifact artifact = open_artifact(&a);
  for (int i = 0; i < 2; i++) {
    qn_diag diag = {0};
    qn_threads *threads = NULL;
    qn_executor *executor = NULL;
    qn_executor_options options = {.target = i ? "half" : "whole"};
    qn_assert_ok(&diag, qn_threads_create(2, false, qn_test_allocator(), &threads, &diag));
    qn_assert_ok(&diag, qn_executor_create(&artifact, threads, &options, qn_test_allocator(), &executor, &diag));
    qn_assert_ok(&diag, qn_executor_run(executor, (const int64_t[QN_ARTIFACT_SYMBOLS]){0}, QN_RUN_PROMPT, &diag));
    const int32_t *out = qn_executor_output(executor, "out", NULL);
    ck_assert_int_eq(out[499], 499);
    ck_assert_int_eq(out[999], i ? 0 : 999);  // beyond the loop of the plan nothing is written
    qn_executor_destroy(executor);
    qn_threads_destroy(threads);
  }
  qn_artifact_close(&artifact);
  qn_test_artifact_deinit(&a);
}
END_TEST

// The first two features that this CPU has; false when it has fewer.
static bool present_features(const char *out[2]) {
  int found = 0;
  for (size_t i = 0; qn_cpu_feature_name(i) && found < 2; i++) {
    if (qn_cpu_has(qn_cpu_feature_name(i))) out[found++] = qn_cpu_feature_name(i);
  }
  return found == 2;
}

START_TEST(runs_machine_code) {
  size_t size;
  const void *code = qn_test_machine_code(&size);
  if (!code) return;
  uint8_t image[256] = {0};
  uint64_t offset = 64;
  memcpy(image + offset, code, size);
  qn_test_artifact a;
  describe_code(&a);
  qn_test_artifact_code(&a, "native", "", qn_cpu_arch(), image, sizeof image, &offset);
  // From anonymous memory and from a file: two kinds of pages to make executable.
  for (int from_file = 0; from_file < 2; from_file++) {
    qn_artifact artifact;
    qn_diag diag = {0};
    qn_threads *threads = NULL;
    qn_executor *executor = NULL, *other = NULL;
    if (from_file) {
      qn_buf file;
      qn_test_artifact_build(&a, &file);
      qn_test_write_file(qn_test_temp_path("code.qn"), file.data, file.length);
      qn_buf_deinit(&file);
      qn_assert_ok(&diag, qn_artifact_open(&artifact, qn_test_temp_path("code.qn"), &diag));
    } else {
      artifact = open_artifact(&a);
    }
    qn_assert_ok(&diag, qn_threads_create(2, false, qn_test_allocator(), &threads, &diag));
    qn_assert_ok(&diag, qn_executor_create(&artifact, threads, NULL, qn_test_allocator(), &executor, &diag));
    qn_assert_ok(&diag, qn_executor_create(&artifact, threads, NULL, qn_test_allocator(), &other, &diag));
    qn_executor_destroy(other);  // takes nothing away from the first
    qn_assert_ok(&diag, qn_executor_run(executor, (const int64_t[QN_ARTIFACT_SYMBOLS]){0}, QN_RUN_PROMPT, &diag));
    const int32_t *out = qn_executor_output(executor, "out", NULL);
    for (int32_t i = 0; i < 1000; i++) ck_assert_int_eq(out[i], i);
    ck_assert_str_eq(qn_executor_target(executor), "native");
    qn_executor_destroy(executor);
    qn_threads_destroy(threads);
    qn_artifact_close(&artifact);
  }
  qn_test_artifact_deinit(&a);
}
END_TEST

START_TEST(chooses_code) {
  static const uint8_t image[16];
  static const uint64_t offset;
  char two[128], four[256];
  const char *names[2];
  const qn_art_code *code = NULL;
  qn_test_artifact a;
  qn_diag diag = {0};
  if (!present_features(names)) return;
  snprintf(two, sizeof two, "%s,%s", names[0], names[1]);
  snprintf(four, sizeof four, "%s,%s,imaginary,unheard-of", names[0], names[1]);
  describe_code(&a);
  qn_test_artifact_code(&a, "one", names[0], qn_cpu_arch(), image, sizeof image, &offset);
  qn_test_artifact_code(&a, "elsewhere", "", 1 - qn_cpu_arch() % 2, image, sizeof image, &offset);
  qn_test_artifact_code(&a, "two", two, qn_cpu_arch(), image, sizeof image, &offset);
  qn_test_artifact_code(&a, "four", four, qn_cpu_arch(), image, sizeof image, &offset);
  qn_artifact artifact = open_artifact(&a);
  qn_assert_ok(&diag, qn_executor_choose_code(&artifact, NULL, &code, &diag));
  ck_assert_str_eq(code->target, "two");
  qn_assert_ok(&diag, qn_executor_choose_code(&artifact, "one", &code, &diag));
  ck_assert_str_eq(code->target, "one");
  qn_assert_fails(&diag, QN_ERR_TARGET, "'four' needs imaginary,unheard-of",
                  qn_executor_choose_code(&artifact, "four", &code, &diag));
  ck_assert_ptr_null(code);
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_TARGET, "'elsewhere' needs",
                  qn_executor_choose_code(&artifact, "elsewhere", &code, &diag));
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_ARGUMENT, "got target 'five', want one of: one; elsewhere; two; four",
                  qn_executor_choose_code(&artifact, "five", &code, &diag));
  qn_artifact_close(&artifact);
  a.codes[0] = a.codes[3];
  a.code_count = 2;
  artifact = open_artifact(&a);
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_TARGET, "four needs imaginary,unheard-of",
                  qn_executor_choose_code(&artifact, NULL, &code, &diag));
  qn_artifact_close(&artifact);
  a.code_count = 0;
  artifact = open_artifact(&a);
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_TARGET, "no machine code", qn_executor_choose_code(&artifact, NULL, &code, &diag));
  qn_artifact_close(&artifact);
  qn_test_artifact_deinit(&a);
}
END_TEST

static qn_status create_and_destroy(const qn_allocator *allocator, void *context) {
  fixture *f = context;
  qn_executor *executor = NULL;
  qn_executor_options options = {.jit_entries = f->entries, .profile = true};
  QN_TRY(qn_executor_create(&f->artifact, f->threads, &options, allocator, &executor, NULL));
  qn_executor_destroy(executor);
  return QN_OK;
}

START_TEST(out_of_memory) {
  fixture f;
  set_up(&f, 1, false);
  qn_test_failing_allocations(create_and_destroy, &f);
  tear_down(&f);
  set_up_with(&f, describe_linked, linked_entries, 2, false);
  qn_test_failing_allocations(create_and_destroy, &f);
  tear_down(&f);
}
END_TEST

QN_CASE(running, walks_the_steps, linked_steps, inputs_are_rebound, refuses_to_run, profiles)
QN_CASE(code, runs_machine_code, code_brings_its_plan, chooses_code)
QN_CASE(memory, out_of_memory)
QN_TEST_MAIN(running, code, memory)
