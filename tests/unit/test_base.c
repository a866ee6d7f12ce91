// runtime/base: status, diag, allocators, arena, strings, vectors, maps, hash, files, log.
#include <fcntl.h>
#include <locale.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/base/alloc.h"
#include "runtime/base/arena.h"
#include "runtime/base/diag.h"
#include "runtime/base/file.h"
#include "runtime/base/hash.h"
#include "runtime/base/log.h"
#include "runtime/base/map.h"
#include "runtime/base/str.h"
#include "runtime/base/vec.h"
#include "runtime/base/window.h"
#include "tests/support/test.h"

// ---- status and diag ------------------------------------------------------------------------------------------

START_TEST(status_names_are_distinct_words) {
  const qn_status all[] = {QN_OK,        QN_ERR_ARGUMENT, QN_ERR_FORMAT, QN_ERR_UNSUPPORTED, QN_ERR_IO,
                           QN_ERR_NOMEM, QN_ERR_TARGET,   QN_ERR_LIMIT,  QN_ERR_CANCELLED,   QN_ERR_INTERNAL};
  for (size_t i = 0; i < QN_COUNT(all); i++) {
    const char *name = qn_status_name(all[i]);
    for (const char *c = name; *c; c++) ck_assert_msg(*c >= 'a' && *c <= 'z', "%s", name);
    for (size_t j = 0; j < i; j++) ck_assert_str_ne(name, qn_status_name(all[j]));
  }
  ck_assert_str_eq(qn_status_name((qn_status)1), "unknown");
}
END_TEST

START_TEST(fail_keeps_the_first_error) {
  qn_diag diag = {0};
  ck_assert_int_eq(qn_fail(&diag, QN_ERR_FORMAT, "a.gguf: tensor 'x'", "got %d, want %d", 3, 4), QN_ERR_FORMAT);
  ck_assert_str_eq(diag.text, "a.gguf: tensor 'x': got 3, want 4");
  ck_assert_int_eq(qn_fail(&diag, QN_ERR_IO, "later", "other"), QN_ERR_IO);
  ck_assert_int_eq(diag.status, QN_ERR_FORMAT);
  ck_assert_str_eq(diag.text, "a.gguf: tensor 'x': got 3, want 4");
  ck_assert_int_eq(qn_fail(NULL, QN_ERR_LIMIT, "x", "y"), QN_ERR_LIMIT);
}
END_TEST

START_TEST(fail_without_a_place) {
  qn_diag diag = {0};
  (void)qn_fail(&diag, QN_ERR_ARGUMENT, NULL, "plain");
  ck_assert_str_eq(diag.text, "plain");
  diag = (qn_diag){0};
  ck_assert_int_eq(qn_fail_nomem(&diag, "", "the graph"), QN_ERR_NOMEM);
  ck_assert_str_eq(diag.text, "out of memory for the graph");
}
END_TEST

// What a hostile file is named, or holds, does not steer a terminal.
START_TEST(fail_masks_control_bytes) {
  qn_diag diag = {0};
  (void)qn_fail(&diag, QN_ERR_FORMAT, "\x1b[2J.gguf", "got '%s'\n\tof \xc3\xa9\x7f", "\r\a");
  ck_assert_str_eq(diag.text, "?[2J.gguf: got '?" "?'\n\tof \xc3\xa9?");
}
END_TEST

START_TEST(fail_cuts_long_text_between_characters) {
  for (size_t length = 1000; length < 1040; length++) {
    char text[2100] = {0};
    for (size_t i = 0; i < length; i++) memcpy(text + 2 * i, "\xC3\xA4", 2);  // ä
    qn_diag diag = {0};
    (void)qn_fail(&diag, QN_ERR_FORMAT, length % 2 ? "w" : "ww", "%s", text);
    size_t got = strlen(diag.text);
    ck_assert_uint_lt(got, sizeof diag.text);
    ck_assert_str_eq(diag.text + got - 3, "...");
    ck_assert_uint_eq((got - 3 - (length % 2 ? 3 : 4)) % 2, 0);
    diag = (qn_diag){0};
    (void)qn_fail(&diag, QN_ERR_FORMAT, text, "%s", "message");
    ck_assert_str_eq(diag.text + strlen(diag.text) - 3, "...");
  }
}
END_TEST

QN_CASE(diag, status_names_are_distinct_words, fail_keeps_the_first_error, fail_without_a_place,
        fail_masks_control_bytes,
        fail_cuts_long_text_between_characters)

// ---- allocators and arena -------------------------------------------------------------------------------------

START_TEST(default_allocator_allocates_and_frees) {
  const qn_allocator *allocator = qn_allocator_default();
  unsigned char *bytes = qn_alloc_zeroed(allocator, 100);
  for (int i = 0; i < 100; i++) ck_assert_int_eq(bytes[i], 0);
  memset(bytes, 7, 100);
  bytes = qn_realloc(allocator, bytes, 100, 10000);
  for (int i = 0; i < 100; i++) ck_assert_int_eq(bytes[i], 7);
  qn_free(allocator, bytes, 10000);
  qn_free(allocator, NULL, 0);
  ck_assert_ptr_null(qn_alloc(allocator, 0));
  ck_assert_ptr_null(qn_realloc(allocator, NULL, 0, 0));
}
END_TEST

START_TEST(size_arithmetic_notices_overflow) {
  size_t out = 5;
  ck_assert(!qn_size_mul(SIZE_MAX / 2 + 1, 2, &out));
  ck_assert(!qn_size_add(SIZE_MAX, 1, &out) && out == 5);
  ck_assert(qn_size_mul(6, 7, &out) && out == 42);
  ck_assert_uint_eq(qn_align_up(33, 32), 64);
  ck_assert_uint_eq(qn_align_up(64, 32), 64);
}
END_TEST

START_TEST(arena_gives_aligned_zeroed_distinct_memory) {
  qn_test_memory memory;
  qn_test_memory_init(&memory);
  qn_arena arena;
  qn_arena_init(&arena, &memory.allocator);
  const size_t sizes[] = {0, 1, 15, 16, 17, 100, 4000, 5000, 100000, 3, 2000000, 1, 600000, 8};
  unsigned char *pointers[QN_COUNT(sizes)];
  for (int round = 0; round < 2; round++) {
    for (size_t i = 0; i < QN_COUNT(sizes); i++) {
      pointers[i] = qn_arena_alloc(&arena, sizes[i]);
      ck_assert_ptr_nonnull(pointers[i]);
      ck_assert_uint_eq((uintptr_t)pointers[i] % 16, 0);
      for (size_t j = 0; j < sizes[i]; j++) qn_check(pointers[i][j] == 0, "byte %zu of %zu", j, sizes[i]);
      memset(pointers[i], (int)i + 1, sizes[i]);
    }
    for (size_t i = 0; i < QN_COUNT(sizes); i++) {
      for (size_t j = 0; j < sizes[i]; j++) qn_check(pointers[i][j] == i + 1, "byte %zu of %zu", j, sizes[i]);
    }
    ck_assert_uint_ge(arena.used_bytes, 2700000);
    qn_arena_deinit(&arena);
    ck_assert_uint_eq(memory.live_blocks, 0);
    ck_assert_uint_eq(arena.used_bytes, 0);
  }
}
END_TEST

START_TEST(arena_refuses_what_overflows) {
  qn_arena arena;
  qn_arena_init(&arena, qn_test_allocator());
  ck_assert_ptr_null(qn_arena_alloc(&arena, SIZE_MAX));
  ck_assert_ptr_null(qn_arena_alloc(&arena, SIZE_MAX - 40));
  ck_assert_ptr_null(qn_arena_array(&arena, SIZE_MAX / 8, 16));
  ck_assert_ptr_null(qn_arena_strndup(&arena, "x", SIZE_MAX));
  ck_assert_ptr_nonnull(QN_ARENA_ARRAY(&arena, 3, uint64_t));
  qn_arena_deinit(&arena);
  ck_assert_uint_eq(qn_test_allocator_memory()->live_blocks, 0);
}
END_TEST

START_TEST(arena_strings) {
  qn_arena arena;
  qn_arena_init(&arena, qn_test_allocator());
  ck_assert_str_eq(qn_arena_strdup(&arena, "quern"), "quern");
  ck_assert_str_eq(qn_arena_strndup(&arena, "quern", 2), "qu");
  ck_assert_str_eq(qn_arena_strdup(&arena, ""), "");
  ck_assert_str_eq(qn_arena_printf(&arena, "%s.%d", "blk", 12), "blk.12");
  qn_arena_deinit(&arena);
}
END_TEST

static qn_status use_arena(const qn_allocator *allocator, void *context) {
  (void)context;
  qn_arena arena;
  qn_status status = QN_ERR_NOMEM;
  qn_arena_init(&arena, allocator);
  for (int i = 0; i < 40; i++) {
    if (!qn_arena_alloc(&arena, 3000) || !qn_arena_printf(&arena, "%d", i)) goto out;
  }
  status = QN_OK;
out:
  qn_arena_deinit(&arena);
  return status;
}

START_TEST(arena_survives_failing_allocations) { qn_test_failing_allocations(use_arena, NULL); }
END_TEST

QN_CASE(memory, default_allocator_allocates_and_frees, size_arithmetic_notices_overflow,
        arena_gives_aligned_zeroed_distinct_memory, arena_refuses_what_overflows, arena_strings,
        arena_survives_failing_allocations)

// ---- strings --------------------------------------------------------------------------------------------------

START_TEST(slices_compare) {
  ck_assert(qn_str_equal(QN_STR("ab"), qn_str_from("ab")));
  ck_assert(!qn_str_equal(QN_STR("ab"), QN_STR("abc")));
  ck_assert(qn_str_is(QN_STR(""), NULL));
  ck_assert(qn_str_is((qn_str){NULL, 0}, ""));
  ck_assert(!qn_str_is((qn_str){"ab\0c", 4}, "ab"));
}
END_TEST

START_TEST(buffer_appends_and_formats) {
  qn_buf buf;
  qn_buf_init(&buf, qn_test_allocator());
  ck_assert_str_eq(qn_buf_text(&buf), "");
  qn_buf_printf(&buf, "%s-%03d", "x", 7);
  qn_buf_putc(&buf, '!');
  qn_buf_append(&buf, "a\0b", 3);
  ck_assert_uint_eq(buf.length, 9);
  ck_assert_mem_eq(qn_buf_text(&buf), "x-007!a\0b", 10);
  for (int i = 0; i < 1000; i++) qn_buf_puts(&buf, "0123456789");
  ck_assert_uint_eq(buf.length, 10009);
  ck_assert(!buf.failed);
  qn_buf_deinit(&buf);
  ck_assert_uint_eq(qn_test_allocator_memory()->live_blocks, 0);
}
END_TEST

START_TEST(buffer_failure_is_sticky) {
  qn_test_memory memory;
  qn_test_memory_init(&memory);
  qn_buf buf;
  qn_buf_init(&buf, &memory.allocator);
  qn_buf_puts(&buf, "kept");
  memory.fail_at = memory.allocations + 1;
  for (int i = 0; i < 100; i++) qn_buf_puts(&buf, "more text");
  ck_assert(buf.failed);
  memory.fail_at = 0;
  size_t length = buf.length;
  qn_buf_puts(&buf, "ignored");
  qn_buf_printf(&buf, "%d", 3);
  ck_assert_uint_eq(buf.length, length);
  ck_assert_int_eq(memcmp(qn_buf_text(&buf), "keptmore", 8), 0);
  qn_buf_deinit(&buf);
  ck_assert_uint_eq(memory.live_blocks, 0);
}
END_TEST

START_TEST(quoting_escapes_control_bytes) {
  qn_buf buf;
  qn_buf_init(&buf, qn_test_allocator());
  qn_buf_quote(&buf, (qn_str){"a\"b\\c\nd\te\0f\x7F\xC3\xA4", 14});
  ck_assert_str_eq(qn_buf_text(&buf), "\"a\\\"b\\\\c\\nd\\te\\x00f\\x7f\xC3\xA4\"");
  qn_buf_deinit(&buf);
}
END_TEST

static const char *f64_text(double value) {
  static char text[64];
  qn_buf buf;
  qn_buf_init(&buf, qn_test_allocator());
  qn_buf_put_f64(&buf, value);
  snprintf(text, sizeof text, "%s", qn_buf_text(&buf));
  qn_buf_deinit(&buf);
  return text;
}

static const char *f32_text(float value) {
  static char text[64];
  qn_buf buf;
  qn_buf_init(&buf, qn_test_allocator());
  qn_buf_put_f32(&buf, value);
  snprintf(text, sizeof text, "%s", qn_buf_text(&buf));
  qn_buf_deinit(&buf);
  return text;
}

START_TEST(numbers_print_shortest) {
  ck_assert_str_eq(f64_text(0.1), "0.1");
  ck_assert_str_eq(f64_text(1e-5), "1e-05");
  ck_assert_str_eq(f64_text(-0.0), "-0");
  ck_assert_str_eq(f64_text(10000.0), "10000");
  ck_assert_str_eq(f64_text(-123456789012345.0), "-123456789012345");
  ck_assert_str_eq(f64_text(1e22), "1e+22");
  ck_assert_str_eq(f64_text(0.1 + 0.2), "0.30000000000000004");
  ck_assert_str_eq(f64_text(INFINITY), "inf");
  ck_assert_str_eq(f64_text(-INFINITY), "-inf");
  ck_assert_str_eq(f64_text(-NAN), "nan");
  ck_assert_str_eq(f32_text(0.1f), "0.1");
  ck_assert_str_eq(f32_text(16777216.0f), "16777216");
  ck_assert_str_eq(f32_text(-INFINITY), "-inf");
}
END_TEST

START_TEST(numbers_read_back) {
  qn_test_random random = {1};
  for (int i = 0; i < 20000; i++) {
    uint64_t bits = qn_test_random_u64(&random);
    uint32_t low = (uint32_t)bits;
    double f64;
    float f32;
    memcpy(&f64, &bits, sizeof f64);
    memcpy(&f32, &low, sizeof f32);
    qn_check(isnan(f64) || strtod(f64_text(f64), NULL) == f64, "%a", f64);
    qn_check(isnan(f32) || strtof(f32_text(f32), NULL) == f32, "%a", (double)f32);
  }
}
END_TEST

// Programs that a library is part of may have set a locale, whose numbers have a comma.
START_TEST(numbers_have_a_point) {
  static const char *const names[] = {"de_DE.UTF-8", "fr_FR.UTF-8", "es_ES.UTF-8", "pt_BR.UTF-8", "ru_RU.UTF-8"};
  bool comma = false;
  char *end, text[] = "0.25;", *point = strchr(text, '.');
  for (size_t i = 0; i < QN_COUNT(names) && !comma; i++)
    comma = setlocale(LC_NUMERIC, names[i]) && strcmp(localeconv()->decimal_point, ",") == 0;
  if (!comma) printf("numbers_have_a_point: no locale with a decimal comma here (Debian package locales-all)\n");
  ck_assert(qn_strtod(text, &end) == 0.25 && end == text + 4);
  *point = ',';
  ck_assert(qn_strtod(text, &end) == 0 && end == point);
  ck_assert(qn_strtod("-1e-3", NULL) == -1e-3);
  qn_buf buf;
  qn_buf_init(&buf, qn_test_allocator());
  qn_buf_put_f64(&buf, 0.75);
  qn_buf_putc(&buf, ' ');
  qn_buf_put_f32(&buf, 0.1f);
  ck_assert_str_eq(qn_buf_text(&buf), "0.75 0.1");
  qn_buf_deinit(&buf);
  setlocale(LC_NUMERIC, "C");
}
END_TEST

QN_CASE(strings, slices_compare, buffer_appends_and_formats, buffer_failure_is_sticky, quoting_escapes_control_bytes,
        numbers_print_shortest, numbers_read_back, numbers_have_a_point)

// ---- vectors, maps, hash --------------------------------------------------------------------------------------

START_TEST(vectors_grow) {
  qn_test_memory memory;
  qn_test_memory_init(&memory);
  qn_arena arena;
  qn_arena_init(&arena, &memory.allocator);
  QN_VEC(uint16_t) heap = {0};
  QN_VEC(double) in_arena = {0};
  for (int i = 0; i < 1000; i++) {
    qn_check(qn_vec_push(&memory.allocator, &heap, (uint16_t)i), "%d", i);
    qn_check(qn_vec_push_arena(&arena, &in_arena, i * 0.5), "%d", i);
  }
  for (int i = 0; i < 1000; i++) {
    qn_check(heap.items[i] == i && in_arena.items[i] == i * 0.5, "item %d", i);
  }
  memory.fail_at = memory.allocations + 1;
  size_t count = heap.count;
  while (qn_vec_push(&memory.allocator, &heap, 1)) count++;
  ck_assert_uint_eq(heap.count, count);
  ck_assert_uint_eq(heap.count, heap.capacity);
  qn_vec_free(&memory.allocator, &heap);
  ck_assert_ptr_null(heap.items);
  qn_arena_deinit(&arena);
  ck_assert_uint_eq(memory.live_blocks, 0);
}
END_TEST

START_TEST(map_finds_what_was_put) {
  enum { KEYS = 5000 };
  static char keys[KEYS][16];
  qn_test_memory memory;
  qn_test_memory_init(&memory);
  qn_map map;
  uint64_t value;
  qn_map_init(&map, &memory.allocator);
  ck_assert(!qn_map_get(&map, QN_STR("x"), NULL));
  for (int i = 0; i < KEYS; i++) {
    snprintf(keys[i], sizeof keys[i], "key %d", i);
    qn_check(qn_map_put(&map, qn_str_from(keys[i]), (uint64_t)i), "%s", keys[i]);
  }
  for (int i = 0; i < KEYS; i += 2) qn_check(qn_map_put(&map, qn_str_from(keys[i]), (uint64_t)i + 7), "%s", keys[i]);
  ck_assert_uint_eq(map.count, KEYS);
  for (int i = 0; i < KEYS; i++) {
    qn_check(qn_map_get(&map, qn_str_from(keys[i]), &value), "%s", keys[i]);
    qn_check(value == (uint64_t)i + (i % 2 ? 0 : 7), "%s", keys[i]);
  }
  ck_assert(!qn_map_get(&map, QN_STR("key 5000"), &value));
  ck_assert(!qn_map_get(&map, QN_STR(""), &value));
  ck_assert(qn_map_put(&map, (qn_str){NULL, 0}, 99));
  ck_assert(qn_map_get(&map, QN_STR(""), &value) && value == 99);
  ck_assert(qn_map_put(&map, (qn_str){"a\0b", 3}, 1) && !qn_map_get(&map, QN_STR("a"), NULL));
  qn_map_deinit(&map);
  ck_assert_uint_eq(memory.live_blocks, 0);
}
END_TEST

static qn_status use_map(const qn_allocator *allocator, void *context) {
  static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
  (void)context;
  qn_map map;
  qn_status status = QN_OK;
  qn_map_init(&map, allocator);
  size_t put = 0;
  while (put < sizeof letters && status == QN_OK) {
    if (qn_map_put(&map, (qn_str){letters + put, 1}, put))
      put++;
    else
      status = QN_ERR_NOMEM;
  }
  for (size_t i = 0; i < put; i++) {  // what went in before the failure is still there
    uint64_t value = 0;
    qn_check(qn_map_get(&map, (qn_str){letters + i, 1}, &value) && value == i, "key %zu", i);
  }
  qn_map_deinit(&map);
  return status;
}

START_TEST(map_survives_failing_allocations) { qn_test_failing_allocations(use_map, NULL); }
END_TEST

static void fill(unsigned char *bytes, size_t count) {
  for (size_t i = 0; i < count; i++) bytes[i] = (unsigned char)(i * 37 + 11);
}

START_TEST(hash_of_pieces_is_hash_of_whole) {
  unsigned char bytes[200];
  fill(bytes, sizeof bytes);
  for (size_t length = 0; length <= sizeof bytes; length++) {
    uint64_t want = qn_hash64(bytes, length, 42);
    for (size_t first = 0; first <= length; first++) {
      size_t second = (length - first) / 3;
      qn_hasher hasher;
      qn_hasher_init(&hasher, 42);
      qn_hasher_update(&hasher, bytes, first);
      qn_hasher_update(&hasher, bytes + first, second);
      qn_hasher_update(&hasher, bytes + first + second, length - first - second);
      qn_check(qn_hasher_final(&hasher) == want, "%zu bytes, %zu first", length, first);
      qn_check(qn_hasher_final(&hasher) == want, "%zu bytes, %zu first", length, first);  // asking changes nothing
    }
  }
}
END_TEST

START_TEST(hash_values_never_change) {
  unsigned char bytes[100];
  fill(bytes, sizeof bytes);
  ck_assert_uint_eq(qn_hash64("", 0, 0), 0x4DA9CB167547AA09u);
  ck_assert_uint_eq(qn_hash64("", 0, 1), 0x4A47BD887F9F3685u);
  ck_assert_uint_eq(qn_hash64("quern", 5, 0), 0x04BBE748A9763ADDu);
  ck_assert_uint_eq(qn_hash64(bytes, 32, 0), 0x64A053D84D6807AEu);
  ck_assert_uint_eq(qn_hash64(bytes, 100, 7), 0x57711B3BA326601Eu);
}
END_TEST

START_TEST(hash_sees_every_bit_length_and_seed) {
  unsigned char bytes[96] = {0};
  enum { VALUES = 96 * 8 + 97 + 100 };
  static uint64_t values[VALUES];
  size_t count = 0;
  for (size_t bit = 0; bit < sizeof bytes * 8; bit++) {
    bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
    values[count++] = qn_hash64(bytes, sizeof bytes, 0);
    bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
  }
  for (size_t length = 0; length <= sizeof bytes; length++) values[count++] = qn_hash64(bytes, length, 0);
  for (uint64_t seed = 1; seed <= 100; seed++) values[count++] = qn_hash64(bytes, 10, seed);
  for (size_t i = 0; i < count; i++) {
    for (size_t j = 0; j < i; j++) qn_check(values[i] != values[j], "values %zu and %zu collide", i, j);
  }
}
END_TEST

START_TEST(hash_changes_half_of_the_bits) {
  unsigned char bytes[64];
  double flipped = 0;
  int trials = 0;
  fill(bytes, sizeof bytes);
  uint64_t base = qn_hash64(bytes, sizeof bytes, 0);
  for (size_t bit = 0; bit < sizeof bytes * 8; bit++, trials++) {
    bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
    int changed = __builtin_popcountll(base ^ qn_hash64(bytes, sizeof bytes, 0));
    ck_assert_msg(changed >= 10 && changed <= 54, "bit %zu changes %d bits", bit, changed);
    flipped += changed;
    bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
  }
  ck_assert_double_eq_tol(flipped / trials, 32.0, 1.0);
}
END_TEST

QN_CASE(containers, vectors_grow, map_finds_what_was_put, map_survives_failing_allocations,
        hash_of_pieces_is_hash_of_whole, hash_values_never_change, hash_sees_every_bit_length_and_seed,
        hash_changes_half_of_the_bits)

// ---- windows --------------------------------------------------------------------------------------------------

static int64_t least_of(int64_t a, int64_t b) { return a < b ? a : b; }

// Counted one by one: of `tokens` tokens behind `depth` keys.
static int64_t count_pairs(int64_t window, int64_t ahead, int64_t depth, int64_t tokens) {
  int64_t pairs = 0;
  for (int64_t t = 0; t < tokens; t++)
    pairs += (window > 0 ? least_of(window, depth + t + 1) : depth + t + 1) + least_of(ahead, tokens - 1 - t);
  return pairs;
}

// The most pages that are held on the way, step by step, where those that neither the next token sees nor a page's worth of
// tokens before it are given back.
static int64_t most_held(int64_t window, int64_t step, int64_t tokens, int64_t keys) {
  int64_t most = 0;
  for (int64_t length = 0; length < tokens; length++) {  // steps may have been shorter
    int64_t end = least_of(length + step, tokens), first = 0;
    if (window > 0) first = qn_window_first_page(window + keys, length, keys);
    int64_t held = (end + keys - 1) / keys - first;
    if (held > most) most = held;
  }
  return most;
}

START_TEST(windows_are_counted) {
  for (int64_t i = 0; i < 6 * 6 * 5 * 6; i++) {
    int64_t window = i % 6 * 3, ahead = i / 6 % 6 * 2, depth = i / 36 % 5 * 4, tokens = i / 180 * 5;
    if (i / 6 % 6 == 5) ahead = QN_WINDOW_ALL;
    double got = qn_window_pairs((double)window, (double)ahead, (double)depth, (double)tokens);
    qn_check(got == (double)count_pairs(window, ahead, depth, tokens),
             "window %d, ahead %d, %d tokens behind %d: got %g pairs", (int)window, (int)ahead, (int)tokens, (int)depth, got);
  }
  for (int64_t window = 0; window < 20; window++) {
    for (int64_t step = 1; step < 12; step++) {
      int64_t got = qn_window_pages(window, step, 60, 4), want = most_held(window, step, 60, 4);
      qn_check(got >= want && got <= want + 1, "window %d, step %d: got %d pages, want %d", (int)window, (int)step,
               (int)got, (int)want);
    }
  }
  ck_assert_int_eq(qn_window_pages(0, 1, INT64_MAX, 64), INT64_MAX / 64 + 1);
  ck_assert_int_eq(qn_window_pages(16, INT64_MAX, INT64_MAX, 64), INT64_MAX / 64 + 1);
}
END_TEST

QN_CASE(windows, windows_are_counted)

// ---- files ----------------------------------------------------------------------------------------------------

START_TEST(mapping_reads_a_file) {
  qn_diag diag = {0};
  qn_mapping mapping;
  const char *path = qn_test_temp_path("a.bin");
  qn_test_write_file(path, "hello", 5);
  qn_assert_ok(&diag, qn_mapping_open(&mapping, path, &diag));
  ck_assert_uint_eq(mapping.size, 5);
  ck_assert_mem_eq(mapping.data, "hello", 5);
  qn_mapping_close(&mapping);
  ck_assert_ptr_null(mapping.data);
  qn_mapping_close(&mapping);
}
END_TEST

START_TEST(mapping_refuses_what_is_no_file) {
  qn_mapping mapping;
  qn_diag diag = {0};
  qn_assert_fails(&diag, QN_ERR_IO, "No such file", qn_mapping_open(&mapping, qn_test_temp_path("none"), &diag));
  ck_assert_ptr_nonnull(strstr(diag.text, "check the spelling"));
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_IO, "is a folder", qn_mapping_open(&mapping, qn_test_temp_dir(), &diag));
  diag = (qn_diag){0};
  qn_test_write_file(qn_test_temp_path("empty"), "", 0);
  qn_assert_fails(&diag, QN_ERR_FORMAT, "empty", qn_mapping_open(&mapping, qn_test_temp_path("empty"), &diag));
  diag = (qn_diag){0};
  ck_assert_int_eq(mkfifo(qn_test_temp_path("pipe"), 0600), 0);
  qn_assert_fails(&diag, QN_ERR_IO, "is a pipe", qn_mapping_open(&mapping, qn_test_temp_path("pipe"), &diag));
}
END_TEST

static qn_status read_whole(const qn_allocator *allocator, void *context) {
  char *data;
  size_t size;
  QN_TRY(qn_file_read(context, QN_TEXT_MAX, allocator, &data, &size, NULL));
  ck_assert_uint_eq(size, 200000);
  ck_assert_int_eq(data[size], 0);
  ck_assert_int_eq(data[size - 1], 'z');
  qn_free(allocator, data, size + 1);
  return QN_OK;
}

START_TEST(file_read_reads_all) {
  static char bytes[200000];
  memset(bytes, 'z', sizeof bytes);
  char *path = (char *)(uintptr_t)qn_test_temp_path("big");
  qn_test_write_file(path, bytes, sizeof bytes);
  qn_test_failing_allocations(read_whole, path);
  qn_test_write_file(path, "", 0);
  qn_diag diag = {0};
  char *data;
  size_t size = 9;
  qn_assert_ok(&diag, qn_file_read(path, QN_TEXT_MAX, qn_test_allocator(), &data, &size, &diag));
  ck_assert_uint_eq(size, 0);
  ck_assert_str_eq(data, "");
  qn_free(qn_test_allocator(), data, 1);
  ck_assert_uint_eq(qn_test_allocator_memory()->live_blocks, 0);
}
END_TEST

START_TEST(file_read_refuses_what_is_no_file_or_too_long) {
  qn_diag diag = {0};
  char *data = &diag.text[0];
  size_t size = 9;
  const char *pipe_path = qn_test_temp_path("pipe"), *path = qn_test_temp_path("six");
  qn_assert_fails(&diag, QN_ERR_IO, "is a folder",
                  qn_file_read(qn_test_temp_dir(), QN_TEXT_MAX, qn_test_allocator(), &data, &size, &diag));
  ck_assert(data == NULL && size == 0);
  diag = (qn_diag){0};
  ck_assert_int_eq(mkfifo(pipe_path, 0600), 0);
  qn_assert_fails(&diag, QN_ERR_IO, "is a pipe",
                  qn_file_read(pipe_path, QN_TEXT_MAX, qn_test_allocator(), &data, &size, &diag));
  diag = (qn_diag){0};
  qn_test_write_file(path, "sixsix", 6);
  qn_assert_fails(&diag, QN_ERR_LIMIT, "six: got 6 bytes, want at most 5",
                  qn_file_read(path, 5, qn_test_allocator(), &data, &size, &diag));
  diag = (qn_diag){0};
  // A file of the kernel's says that it has no bytes.
  qn_assert_fails(&diag, QN_ERR_LIMIT, "got more than 2 bytes, want at most 2",
                  qn_file_read("/proc/self/stat", 2, qn_test_allocator(), &data, &size, &diag));
  diag = (qn_diag){0};
  qn_assert_ok(&diag, qn_file_read(path, 6, qn_test_allocator(), &data, &size, &diag));
  ck_assert_str_eq(data, "sixsix");
  qn_free(qn_test_allocator(), data, size + 1);
  ck_assert_uint_eq(qn_test_allocator_memory()->live_blocks, 0);
}
END_TEST

START_TEST(file_read_reads_standard_input) {
  int ends[2];
  char *data;
  size_t size;
  qn_diag diag = {0};
  ck_assert_int_eq(pipe(ends), 0);
  ck_assert_int_eq(write(ends[1], "piped", 5), 5);
  close(ends[1]);
  ck_assert_int_ge(dup2(ends[0], STDIN_FILENO), 0);
  qn_assert_ok(&diag, qn_file_read("-", QN_TEXT_MAX, qn_test_allocator(), &data, &size, &diag));
  ck_assert_str_eq(data, "piped");
  qn_free(qn_test_allocator(), data, size + 1);
}
END_TEST

// How many entries of the temporary folder have ".tmp." in their names.
static bool leftovers(void) {
  char command[600];
  snprintf(command, sizeof command, "ls '%s' | grep -q '\\.tmp\\.'", qn_test_temp_dir());
  return system(command) == 0;
}

START_TEST(writer_puts_a_file_in_place_at_commit) {
  qn_diag diag = {0};
  qn_file_writer writer;
  qn_mapping mapping;
  const char *path = qn_test_temp_path("out.bin");
  qn_test_write_file(path, "old", 3);
  qn_assert_ok(&diag, qn_file_writer_open(&writer, path, &diag));
  qn_assert_ok(&diag, qn_file_writer_write(&writer, "header--", 8));
  qn_assert_ok(&diag, qn_file_writer_align(&writer, 4096));
  qn_assert_ok(&diag, qn_file_writer_align(&writer, 64));
  ck_assert_uint_eq(writer.offset, 4096);
  qn_assert_ok(&diag, qn_file_writer_align(&writer, 16384));
  qn_assert_ok(&diag, qn_file_writer_write(&writer, "end", 3));
  qn_assert_ok(&diag, qn_file_writer_write_at(&writer, 2, "XY", 2));
  ck_assert_uint_eq(writer.offset, 16387);
  qn_assert_ok(&diag, qn_mapping_open(&mapping, path, &diag));  // until commit the old file is whole
  ck_assert_uint_eq(mapping.size, 3);
  qn_mapping_close(&mapping);
  qn_assert_ok(&diag, qn_file_writer_commit(&writer));
  qn_file_writer_abandon(&writer);
  qn_assert_ok(&diag, qn_mapping_open(&mapping, path, &diag));
  ck_assert_uint_eq(mapping.size, 16387);
  ck_assert_mem_eq(mapping.data, "heXYer--\0\0", 10);
  ck_assert_mem_eq(mapping.data + 16384, "end", 3);
  qn_mapping_close(&mapping);
  ck_assert(!leftovers());
}
END_TEST

// Pieces go to the system whole and at multiples of their size, however the bytes come; all of them where one is written
// over, or when that is asked for.
START_TEST(writer_hands_over_whole_pieces) {
  enum { STEP = 700001, STEPS = 7, LARGE = 2 * QN_FILE_PIECE + 5 };
  qn_diag diag = {0};
  qn_file_writer writer;
  qn_mapping mapping;
  struct stat info;
  const char *path = qn_test_temp_path("pieces.bin");
  uint8_t *bytes = malloc(STEP * STEPS + LARGE);
  ck_assert_ptr_nonnull(bytes);
  for (size_t i = 0; i < STEP * STEPS + LARGE; i++) bytes[i] = (uint8_t)(i * 7 + i / 251);
  qn_assert_ok(&diag, qn_file_writer_open(&writer, path, &diag));
  for (size_t i = 0; i < STEPS; i++) {
    qn_assert_ok(&diag, qn_file_writer_write(&writer, bytes + i * STEP, STEP));
    ck_assert_uint_eq(writer.offset, (i + 1) * STEP);
    ck_assert_int_eq(fstat(writer.fd, &info), 0);
    ck_assert_uint_eq((uint64_t)info.st_size, (i + 1) * STEP / QN_FILE_PIECE * QN_FILE_PIECE);
  }
  qn_assert_ok(&diag, qn_file_writer_write_at(&writer, 1, bytes + 1, 2));
  ck_assert(fstat(writer.fd, &info) == 0 && info.st_size == STEP * STEPS);
  qn_assert_ok(&diag, qn_file_writer_write(&writer, bytes + STEP * STEPS, LARGE));
  ck_assert_int_eq(fstat(writer.fd, &info), 0);
  ck_assert_uint_eq((uint64_t)info.st_size, (STEP * STEPS + LARGE) / QN_FILE_PIECE * QN_FILE_PIECE);
  qn_assert_ok(&diag, qn_file_writer_flush(&writer));
  ck_assert(fstat(writer.fd, &info) == 0 && (uint64_t)info.st_size == STEP * STEPS + LARGE);
  qn_assert_ok(&diag, qn_file_writer_commit(&writer));
  qn_assert_ok(&diag, qn_mapping_open(&mapping, path, &diag));
  ck_assert_uint_eq(mapping.size, STEP * STEPS + LARGE);
  ck_assert(memcmp(mapping.data, bytes, mapping.size) == 0);
  qn_mapping_close(&mapping);
  free(bytes);
}
END_TEST

START_TEST(writer_leaves_nothing_when_abandoned) {
  qn_diag diag = {0};
  qn_file_writer writer;
  const char *path = qn_test_temp_path("out.bin");
  qn_assert_ok(&diag, qn_file_writer_open(&writer, path, &diag));
  ck_assert(leftovers());
  qn_assert_ok(&diag, qn_file_writer_write(&writer, "x", 1));
  qn_file_writer_abandon(&writer);
  qn_file_writer_abandon(&writer);
  ck_assert_int_ne(access(path, F_OK), 0);
  ck_assert(!leftovers());
  qn_assert_fails(&diag, QN_ERR_INTERNAL, "not open", qn_file_writer_write(&writer, "x", 1));
}
END_TEST

// What a killed process left is no one's; what somebody still writes is theirs, and names of other kinds are, too.
START_TEST(writer_removes_orphans) {
  qn_diag diag = {0};
  qn_file_writer first, second;
  const char *path = qn_test_temp_path("orphans");
  static const char *const orphans[] = {"orphans.tmp.1.0", "orphans.tmp.999999999.12"};
  static const char *const others[] = {"orphans.tmp.1", "orphans.tmp.x.1", "orphans.tmp.1.2.3", "orphans2.tmp.1.0"};
  qn_assert_ok(&diag, qn_file_writer_open(&first, path, &diag));
  for (size_t i = 0; i < QN_COUNT(orphans); i++) qn_test_write_file(qn_test_temp_path(orphans[i]), "x", 1);
  for (size_t i = 0; i < QN_COUNT(others); i++) qn_test_write_file(qn_test_temp_path(others[i]), "x", 1);
  qn_assert_ok(&diag, qn_file_writer_open(&second, path, &diag));
  for (size_t i = 0; i < QN_COUNT(orphans); i++) ck_assert_int_ne(access(qn_test_temp_path(orphans[i]), F_OK), 0);
  for (size_t i = 0; i < QN_COUNT(others); i++) ck_assert_int_eq(access(qn_test_temp_path(others[i]), F_OK), 0);
  qn_assert_ok(&diag, qn_file_writer_write(&first, "1", 1));
  qn_assert_ok(&diag, qn_file_writer_commit(&first));
  qn_assert_ok(&diag, qn_file_writer_write(&second, "2", 1));
  qn_assert_ok(&diag, qn_file_writer_commit(&second));
}
END_TEST

START_TEST(writer_refuses_bad_places) {
  qn_diag diag = {0};
  qn_file_writer writer;
  qn_assert_fails(&diag, QN_ERR_ARGUMENT, "is a folder", qn_file_writer_open(&writer, qn_test_temp_dir(), &diag));
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_ARGUMENT, "device", qn_file_writer_open(&writer, "/dev/null", &diag));
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_IO, "No such file", qn_file_writer_open(&writer, qn_test_temp_path("none/x"), &diag));
  qn_file_writer_abandon(&writer);
}
END_TEST

START_TEST(writer_follows_a_symbolic_link) {
  qn_diag diag = {0};
  qn_file_writer writer;
  struct stat info;
  const char *target = qn_test_temp_path("target"), *link = qn_test_temp_path("link");
  qn_test_write_file(target, "old", 3);
  ck_assert_int_eq(symlink(target, link), 0);
  qn_assert_ok(&diag, qn_file_writer_open(&writer, link, &diag));
  qn_assert_ok(&diag, qn_file_writer_write(&writer, "newer", 5));
  qn_assert_ok(&diag, qn_file_writer_commit(&writer));
  ck_assert(lstat(link, &info) == 0 && S_ISLNK(info.st_mode));
  ck_assert(stat(target, &info) == 0 && info.st_size == 5);
}
END_TEST

// What may be absent is absent where nothing has its name; whatever else opening says is not for this to hide.
START_TEST(what_is_there) {
  const char *file = qn_test_temp_path("is_there"), *link = qn_test_temp_path("dangling");
  qn_test_write_file(file, "x", 1);
  ck_assert_int_eq(symlink("/nowhere/at/all", link), 0);
  ck_assert(qn_file_is_there(file) && qn_file_is_there(link) && qn_file_is_there(qn_test_temp_dir()));
  ck_assert(!qn_file_is_there(qn_test_temp_path("is_not_there")));
  ck_assert(!qn_file_is_there(qn_test_temp_path("no_folder/file")) && !qn_file_is_there(qn_test_temp_path("is_there/file")));
}
END_TEST

START_TEST(writer_tells_when_there_is_no_room) {
  qn_diag diag = {0};
  qn_file_writer writer;
  static char bytes[3 << 20];
  struct rlimit limit = {50000, 50000};  // a short write at the limit, then an error
  signal(SIGXFSZ, SIG_IGN);
  qn_assert_ok(&diag, qn_file_writer_open(&writer, qn_test_temp_path("full"), &diag));
  ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
  qn_assert_ok(&diag, qn_file_writer_write(&writer, "x", 1));
  qn_assert_fails(&diag, QN_ERR_IO, "File too large", qn_file_writer_write(&writer, bytes, sizeof bytes));
  ck_assert_ptr_nonnull(strstr(diag.text, "/full: cannot write"));
  ck_assert_ptr_nonnull(strstr(diag.text, "ulimit -f"));
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_IO, "File too large", qn_file_writer_write(&writer, "x", 1));  // it stays so
  qn_file_writer_abandon(&writer);
  ck_assert(!leftovers());
  diag = (qn_diag){0};
  qn_assert_ok(&diag, qn_file_writer_open(&writer, qn_test_temp_path("full"), &diag));
  qn_assert_ok(&diag, qn_file_writer_write(&writer, bytes, 100000));  // less than a piece: told at the end
  qn_assert_fails(&diag, QN_ERR_IO, "File too large", qn_file_writer_commit(&writer));
  ck_assert(!leftovers());
  diag = (qn_diag){0};
  qn_assert_ok(&diag, qn_file_writer_open_memory(&writer, "full", &diag));
  qn_assert_ok(&diag, qn_file_writer_write(&writer, bytes, 100000));
  qn_assert_fails(&diag, QN_ERR_IO, "File too large", qn_file_writer_commit(&writer));
  ck_assert_int_eq(writer.fd, -1);
}
END_TEST

START_TEST(writer_into_memory) {
  qn_diag diag = {0};
  qn_file_writer writer;
  qn_mapping mapping;
  qn_assert_ok(&diag, qn_file_writer_open_memory(&writer, "cached artifact", &diag));
  qn_assert_ok(&diag, qn_file_writer_write(&writer, "12345", 5));
  qn_assert_ok(&diag, qn_file_writer_commit(&writer));
  qn_file_writer_abandon(&writer);
  qn_assert_ok(&diag, qn_mapping_open_fd(&mapping, writer.fd, "cached artifact", &diag));
  close(writer.fd);
  ck_assert_uint_eq(mapping.size, 5);
  ck_assert_mem_eq(mapping.data, "12345", 5);
  qn_mapping_close(&mapping);
}
END_TEST

START_TEST(folders_are_made_with_parents) {
  qn_diag diag = {0};
  struct stat info;
  qn_assert_ok(&diag, qn_make_directories(qn_test_temp_path("a/b//c/"), &diag));
  qn_assert_ok(&diag, qn_make_directories(qn_test_temp_path("a/b/c"), &diag));
  ck_assert(stat(qn_test_temp_path("a/b/c"), &info) == 0 && S_ISDIR(info.st_mode));
  qn_assert_ok(&diag, qn_make_directories("/", &diag));
  qn_test_write_file(qn_test_temp_path("file"), "x", 1);
  qn_assert_fails(&diag, QN_ERR_IO, "", qn_make_directories(qn_test_temp_path("file/d"), &diag));
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_IO, "want a folder", qn_make_directories(qn_test_temp_path("file"), &diag));
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_ARGUMENT, "empty name", qn_make_directories("", &diag));
}
END_TEST

QN_CASE(files, mapping_reads_a_file, mapping_refuses_what_is_no_file, file_read_reads_all,
        file_read_refuses_what_is_no_file_or_too_long, file_read_reads_standard_input,
        writer_puts_a_file_in_place_at_commit, writer_hands_over_whole_pieces, writer_leaves_nothing_when_abandoned,
        writer_removes_orphans, writer_refuses_bad_places, writer_follows_a_symbolic_link, what_is_there,
        writer_tells_when_there_is_no_room, writer_into_memory, folders_are_made_with_parents)

// ---- log and the test support itself --------------------------------------------------------------------------

static void collect(void *context, qn_log_level level, const char *text) {
  qn_buf_printf(context, "%d:%s;", (int)level, text);
}

START_TEST(log_goes_to_the_callback) {
  qn_buf buf;
  qn_buf_init(&buf, qn_test_allocator());
  qn_log_set(collect, &buf);
  qn_log(QN_LOG_INFO, "pass %s", "fuse");
  qn_log(QN_LOG_ERROR, "bad");
  qn_log_set(NULL, NULL);
  ck_assert_str_eq(qn_buf_text(&buf), "2:pass fuse;0:bad;");
  qn_buf_deinit(&buf);
}
END_TEST

START_TEST(log_default_prints_warnings_and_errors) {
  char text[200] = {0};
  const char *path = qn_test_temp_path("stderr");
  ck_assert_ptr_nonnull(freopen(path, "w", stderr));
  qn_log(QN_LOG_ERROR, "one");
  qn_log(QN_LOG_WARNING, "two %d", 2);
  qn_log(QN_LOG_INFO, "three");
  qn_log(QN_LOG_DEBUG, "four");
  fflush(stderr);
  FILE *file = fopen(path, "r");
  ck_assert_uint_gt(fread(text, 1, sizeof text - 1, file), 0);
  fclose(file);
  ck_assert_str_eq(text, "quern: error: one\nquern: warning: two 2\n");
}
END_TEST

QN_CASE(logging, log_goes_to_the_callback, log_default_prints_warnings_and_errors)

QN_TEST_MAIN(diag, memory, strings, containers, windows, files, logging)
