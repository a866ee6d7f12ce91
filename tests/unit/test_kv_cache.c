// The KV cache: pages are handed out and given back, no two sequences share one, tables and limits are as stated.
#include "runtime/kv_cache.h"

#include "tests/support/artifact_builder.h"
#include "tests/support/test.h"

enum { PAGE_KEYS = 16 };

// Caches "k" of 64 and "v" of 128 bytes a page in each of `layers` layers.
static uint32_t window;  // of the caches of artifacts that are built
static bool sourced;     // is what the last one holds of a source?
static bool rings;       // has the last layer alone the window, and a table of its own?

static qn_artifact open_artifact(uint32_t layers, int64_t max_p, int64_t max_b) {
  qn_test_artifact a;
  qn_artifact artifact;
  qn_diag diag = {0};
  qn_buf file;
  qn_test_artifact_init(&a);
  a.head.symbol_max[QN_TEST_SYM_P] = max_p;
  a.head.symbol_max[QN_TEST_SYM_B] = max_b;
  for (uint32_t i = 0; i < layers; i++) {
    qn_test_artifact_cache(&a, "k", i, 64);
    qn_test_artifact_cache(&a, "v", i, 128);
  }
  for (size_t i = 0; i < a.buffers.count; i++) a.buffers.items[i].window = rings && i < a.buffers.count - 2 ? 0 : window;
  a.buffers.items[a.buffers.count - 1].of_source = sourced;
  if (rings) qn_test_artifact_input(&a, "window_table", QN_TEST_SYM_B, QN_TEST_SYM_P);
  qn_test_artifact_build(&a, &file);
  qn_assert_ok(&diag, qn_artifact_open_mapping(&artifact, qn_test_artifact_map(file.data, file.length), "t.qn", &diag));
  qn_buf_deinit(&file);
  qn_test_artifact_deinit(&a);
  return artifact;
}

static qn_kv_cache *create(const qn_artifact *artifact, int32_t sequences, int64_t context, int64_t pages) {
  qn_kv_cache *cache = NULL;
  qn_diag diag = {0};
  qn_kv_options options = {.sequences = sequences, .context = context, .pages = pages};
  qn_assert_ok(&diag, qn_kv_cache_create(artifact, &options, qn_test_allocator(), &cache, &diag));
  return cache;
}

static int32_t add(qn_kv_cache *cache) {
  int32_t sequence = -1;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_kv_cache_add(cache, &sequence, &diag));
  return sequence;
}

static void append(qn_kv_cache *cache, int32_t sequence, int64_t count) {
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_kv_cache_reserve(cache, sequence, count, &diag));
  qn_kv_cache_advance(cache, sequence, count);
}

START_TEST(sizes) {
  qn_artifact artifact = open_artifact(3, 0, 0);
  qn_kv_cache *cache = create(&artifact, 4, 40, 0);
  ck_assert_int_eq(qn_kv_cache_pages_per_sequence(cache), 3);
  ck_assert_int_eq(qn_kv_cache_pages(cache), 12);
  ck_assert_int_eq(qn_kv_cache_free_pages(cache), 12);
  ck_assert_int_eq(qn_kv_cache_context(cache), 40);
  ck_assert_int_eq(qn_kv_cache_sequences(cache), 4);
  ck_assert_uint_eq(qn_kv_cache_bytes(cache), 3 * 2 * 4096);
  qn_kv_cache_destroy(cache);
  qn_artifact_close(&artifact);
}
END_TEST

START_TEST(pages_come_and_go) {
  qn_artifact artifact = open_artifact(1, 0, 0);
  qn_kv_cache *cache = create(&artifact, 2, 100, 8);
  const int32_t *table = qn_kv_cache_block_table(cache);
  int64_t pitch = qn_kv_cache_pages_per_sequence(cache);
  ck_assert_int_eq(pitch, 7);
  int32_t a = add(cache), b = add(cache);
  ck_assert(a == 0 && b == 1 && !qn_kv_cache_has(cache, 2) && !qn_kv_cache_has(cache, -1));
  append(cache, a, PAGE_KEYS);  // exactly a page
  ck_assert_int_eq(qn_kv_cache_free_pages(cache), 7);
  append(cache, a, 1);
  ck_assert_int_eq(qn_kv_cache_free_pages(cache), 6);
  append(cache, b, 3 * PAGE_KEYS - 1);
  append(cache, b, 1);
  ck_assert_int_eq(qn_kv_cache_free_pages(cache), 3);
  ck_assert_int_eq(qn_kv_cache_length(cache, b), 48);
  bool seen[8] = {false};
  for (int64_t i = 0; i < 5; i++) {
    int32_t page = i < 2 ? table[i] : table[pitch + i - 2];
    ck_assert(page >= 0 && page < 8 && !seen[page]);
    seen[page] = true;
  }
  int32_t kept = table[0];
  qn_kv_cache_truncate(cache, a, PAGE_KEYS);
  ck_assert(table[0] == kept && table[1] == 0);
  ck_assert_int_eq(qn_kv_cache_free_pages(cache), 4);
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_kv_cache_reserve(cache, a, 3 * PAGE_KEYS, &diag));
  ck_assert_int_eq(qn_kv_cache_free_pages(cache), 1);
  qn_kv_cache_truncate(cache, a, PAGE_KEYS);  // reserved pages too
  ck_assert_int_eq(qn_kv_cache_free_pages(cache), 4);
  qn_kv_cache_remove(cache, b);
  ck_assert(!qn_kv_cache_has(cache, b));
  ck_assert_int_eq(qn_kv_cache_free_pages(cache), 7);
  ck_assert_int_eq(add(cache), b);
  ck_assert_int_eq(qn_kv_cache_length(cache, b), 0);
  qn_kv_cache_destroy(cache);
  qn_artifact_close(&artifact);
}
END_TEST

// Keys of a source lie in the pages that a window would give back: whatever its cache says of windows, they stay, and all of them
// are given back at the end.
START_TEST(pages_of_a_source_stay) {
  for (int layers = 1; layers <= 2; layers++) {  // with two the other's caches see all keys, and there is a second table
    qn_diag diag = {0};
    window = 3;
    sourced = true;
    rings = layers == 2;
    qn_artifact artifact = open_artifact((uint32_t)layers, 0, 0);
    window = 0;
    sourced = rings = false;
    ck_assert(qn_artifact_window(&artifact) == 0 && qn_artifact_ring(&artifact) == 0);
    qn_kv_options options = {.sequences = 1, .context = 8 * PAGE_KEYS, .step = PAGE_KEYS};
    qn_kv_cache *cache = NULL;
    qn_assert_ok(&diag, qn_kv_cache_create(&artifact, &options, qn_test_allocator(), &cache, &diag));
    int32_t a = add(cache);
    qn_assert_ok(&diag, qn_kv_cache_take_source(cache, a, 7 * PAGE_KEYS, &diag));
    for (int i = 0; i < 5; i++) append(cache, a, PAGE_KEYS);
    ck_assert_int_eq(qn_kv_cache_held(cache, a), 7);
    qn_kv_cache_truncate(cache, a, 0);
    qn_assert_ok(&diag, qn_kv_cache_check(cache, &diag));
    ck_assert_int_eq(qn_kv_cache_held(cache, a), 7);
    qn_kv_cache_clear(cache, a);
    qn_assert_ok(&diag, qn_kv_cache_check(cache, &diag));
    ck_assert_int_eq(qn_kv_cache_free_pages(cache), 8);
    qn_kv_cache_destroy(cache);
    qn_artifact_close(&artifact);
  }
}
END_TEST

// Layers with windows beside others: their bytes do not grow with the context, and theirs is never the pool that is full.
START_TEST(rings_are_bounded) {
  enum { CONTEXT = 1000 * PAGE_KEYS, ROWS = 2, MOST = 4 };
  qn_diag diag = {0};
  window = PAGE_KEYS + 1;
  rings = true;
  qn_artifact artifact = open_artifact(3, 0, 0);
  window = 0;
  rings = false;
  ck_assert(qn_artifact_window(&artifact) == 0 && qn_artifact_ring(&artifact) == PAGE_KEYS + 1);
  for (int whole = 0; whole < 2; whole++) {
    qn_kv_cache *cache = NULL;
    qn_kv_options options = {.sequences = ROWS, .context = CONTEXT, .pages = 1200, .step = PAGE_KEYS, .whole = whole};
    qn_assert_ok(&diag, qn_kv_cache_create(&artifact, &options, qn_test_allocator(), &cache, &diag));
    ck_assert_int_eq(qn_kv_cache_pages(cache), 1200);
    uint64_t layer = qn_align_up(1200 * 64, 4096) + qn_align_up(1200 * 128, 4096);
    ck_assert_uint_eq(qn_kv_cache_bytes(cache), whole ? 3 * layer : 2 * layer + UINT64_C(2) * 4096);
    int32_t a = add(cache), b = add(cache);
    const int32_t *table = qn_kv_cache_window_table(cache);
    for (int i = 0; i < 900; i++) {
      append(cache, a, PAGE_KEYS);
      int held = 0;
      for (int64_t p = 0; p < 1000; p++) held += table[p] != 0;
      ck_assert(whole || held <= MOST);
    }
    ck_assert_int_eq(qn_kv_cache_held(cache, a), 900);
    qn_kv_cache_fork(cache, a, 900 * PAGE_KEYS - 3, b);
    append(cache, b, PAGE_KEYS);
    append(cache, a, PAGE_KEYS);
    qn_assert_ok(&diag, qn_kv_cache_check(cache, &diag));
    qn_kv_cache_remove(cache, a);
    qn_kv_cache_remove(cache, b);
    qn_assert_ok(&diag, qn_kv_cache_check(cache, &diag));
    ck_assert_int_eq(qn_kv_cache_free_pages(cache), 1200);
    qn_kv_cache_destroy(cache);
  }
  qn_artifact_close(&artifact);
}
END_TEST

// Whatever becomes of rows, both kinds of pages balance, and rings have room for all of them.
START_TEST(rings_at_random) {
  enum { ROWS = 4, STEP = 20, CONTEXT = 400 };
  qn_diag diag = {0};
  for (uint64_t seed = 1; seed <= 12; seed++) {
    window = (uint32_t)(1 + seed * 7 % 60);
    rings = true;
    qn_artifact artifact = open_artifact(3, 0, 0);
    window = 0;
    rings = false;
    qn_kv_cache *cache = NULL;
    qn_kv_options options = {.sequences = ROWS, .context = CONTEXT, .step = STEP, .pages = 0};
    qn_assert_ok(&diag, qn_kv_cache_create(&artifact, &options, qn_test_allocator(), &cache, &diag));
    for (int i = 0; i < ROWS; i++) add(cache);
    qn_test_random random = {seed};
    for (int round = 0; round < 1000; round++) {
      int32_t s = (int32_t)(qn_test_random_u64(&random) % ROWS), to = (int32_t)(qn_test_random_u64(&random) % ROWS);
      int64_t length = qn_kv_cache_length(cache, s), least = qn_kv_cache_least(cache, s), span = length - least;
      int64_t cut = length < least ? 0 : least + (int64_t)(qn_test_random_u64(&random) % (uint64_t)(span + 1));
      double what = qn_test_random_unit(&random);
      if (what < 0.15) {
        qn_kv_cache_truncate(cache, s, cut);
      } else if (what < 0.3 && s != to) {
        qn_kv_cache_fork(cache, s, cut, to);
      } else if (what < 0.32) {
        qn_kv_cache_clear(cache, s);
      } else if (what < 0.35) {
        int64_t n = (int64_t)(qn_test_random_u64(&random) % CONTEXT);
        qn_assert_ok(&diag, qn_kv_cache_replace(cache, s, n, 0, &diag));
      } else if (what < 0.4) {
        int64_t n = (int64_t)(qn_test_random_u64(&random) % (uint64_t)(CONTEXT - length + 1));
        qn_assert_ok(&diag, qn_kv_cache_reserve(cache, s, n, &diag));
      } else {
        int64_t n = (int64_t)(qn_test_random_u64(&random) % (STEP + 1));
        if (n > CONTEXT - length) n = CONTEXT - length;
        append(cache, s, n);
      }
      qn_assert_ok(&diag, qn_kv_cache_check(cache, &diag));
    }
    qn_kv_cache_destroy(cache);
    qn_artifact_close(&artifact);
  }
}
END_TEST

START_TEST(limits) {
  qn_artifact artifact = open_artifact(1, 4, 2);
  qn_kv_cache *cache = create(&artifact, 2, 50, 5);
  qn_diag diag = {0};
  int32_t a = add(cache), b = add(cache), none;
  qn_assert_fails(&diag, QN_ERR_LIMIT, "more than the 2", qn_kv_cache_add(cache, &none, &diag));
  append(cache, a, 49);
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_LIMIT, "got 2 tokens beside 49 that are there, want at most 50",
                  qn_kv_cache_reserve(cache, a, 2, &diag));
  append(cache, a, 1);
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_LIMIT, "takes 2 pages, want at most the 1 of 5",
                  qn_kv_cache_reserve(cache, b, 17, &diag));
  ck_assert_int_eq(qn_kv_cache_free_pages(cache), 1);  // all or nothing
  append(cache, b, 16);
  qn_kv_cache_destroy(cache);

  struct {
    qn_kv_options options;
    qn_status status;
    const char *text;
  } wrong[] = {
      {{.context = 0}, QN_ERR_ARGUMENT, "context: got 0"},
      {{.context = -5}, QN_ERR_ARGUMENT, "context: got -5"},
      {{.context = INT64_MAX}, QN_ERR_ARGUMENT, "context: got"},
      {{.context = 65}, QN_ERR_LIMIT, "pages of a sequence: got 5, want at most 4"},
      {{.context = 16, .sequences = 3}, QN_ERR_LIMIT, "sequences: got 3, want at most 2"},
      {{.context = 16, .sequences = -1}, QN_ERR_ARGUMENT, "sequences: got -1"},
      {{.context = 16, .pages = -1}, QN_ERR_ARGUMENT, "pages"},
      {{.context = 16, .pages = INT64_MAX}, QN_ERR_ARGUMENT, "pages"},
  };
  for (size_t i = 0; i < QN_COUNT(wrong); i++) {
    diag = (qn_diag){0};
    qn_assert_fails(&diag, wrong[i].status, wrong[i].text,
                    qn_kv_cache_create(&artifact, &wrong[i].options, qn_test_allocator(), &cache, &diag));
    ck_assert_ptr_null(cache);
  }
  qn_artifact_close(&artifact);
}
END_TEST

// Random use: pages are conserved, no page is in two places, every key of a sequence has its page, what is shared is
// counted, and no page that is written to is another's.
START_TEST(pages_are_conserved) {
  enum { ROWS = 5, PAGES = 24 };
  qn_artifact artifact = open_artifact(1, 0, 0);
  qn_kv_cache *cache = create(&artifact, ROWS, 130, PAGES);
  const int32_t *table = qn_kv_cache_block_table(cache);
  int64_t pitch = qn_kv_cache_pages_per_sequence(cache), lengths[ROWS] = {0};
  qn_test_random random = {7};
  for (int i = 0; i < ROWS; i++) add(cache);
  for (int round = 0; round < 5000; round++) {
    int32_t s = (int32_t)(qn_test_random_u64(&random) % ROWS), to = (int32_t)(qn_test_random_u64(&random) % ROWS);
    int64_t count = (int64_t)(qn_test_random_u64(&random) % 40);
    double what = qn_test_random_unit(&random);
    if (what < 0.4) {
      lengths[s] = lengths[s] < count ? 0 : lengths[s] - count;
      qn_kv_cache_truncate(cache, s, lengths[s]);
    } else if (what < 0.55 && to != s) {
      lengths[to] = lengths[s] < count ? lengths[s] : lengths[s] - count;
      qn_kv_cache_fork(cache, s, lengths[to], to);
    } else if (qn_kv_cache_reserve(cache, s, count, NULL) == QN_OK) {
      for (int64_t i = lengths[s]; i < lengths[s] + count; i++) {
        int32_t page = table[s * pitch + i / PAGE_KEYS];
        for (int32_t row = 0; row < ROWS; row++) {
          for (int64_t p = 0; row != s && p * PAGE_KEYS < lengths[row]; p++)
            qn_check(table[row * pitch + p] != page, "row %d has the page that row %d writes", row, s);
        }
      }
      qn_kv_cache_advance(cache, s, count);
      lengths[s] += count;
    }
    bool used[PAGES] = {false};
    int64_t free = PAGES;
    for (int32_t row = 0; row < ROWS; row++) {
      int64_t pages = (lengths[row] + PAGE_KEYS - 1) / PAGE_KEYS;
      qn_check(qn_kv_cache_length(cache, row) == lengths[row] && lengths[row] <= 130, "row %d", row);
      for (int64_t p = 0; p < pages; p++) {
        free -= !used[table[row * pitch + p]];
        used[table[row * pitch + p]] = true;
      }
    }
    qn_check(free == qn_kv_cache_free_pages(cache), "pages are lost");
    qn_diag diag = {0};
    if (round % 50 == 0) qn_assert_ok(&diag, qn_kv_cache_check(cache, &diag));
  }
  for (int32_t row = 0; row < ROWS; row++) qn_kv_cache_remove(cache, row);
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_kv_cache_check(cache, &diag));
  ck_assert_int_eq(qn_kv_cache_free_pages(cache), PAGES);
  qn_kv_cache_destroy(cache);
  qn_artifact_close(&artifact);
}
END_TEST

// Who writes to a shared page gets a copy of it, the other keeps it; a full one is not copied.
static qn_status write_number(void *context, const qn_art_buffer *buffer, uint8_t *page, int64_t keys) {
  (void)keys;
  memset(page, *(const int *)context, (size_t)buffer->bytes);
  return QN_OK;
}
static qn_status expect_number(void *context, const qn_art_buffer *buffer, uint8_t *page, int64_t keys) {
  (void)keys;
  for (size_t i = 0; i < buffer->bytes; i++) qn_check(page[i] == *(const int *)context, "byte %zu: %d", i, page[i]);
  return QN_OK;
}
static void visit(qn_kv_cache *cache, int32_t sequence, bool write, int number) {
  static uint8_t page[128];
  qn_diag diag = {0};
  ck_assert_uint_le(qn_kv_cache_largest_page(cache), sizeof page);
  qn_assert_ok(&diag, qn_kv_cache_visit(cache, sequence, write, page, write ? write_number : expect_number, &number, &diag));
}

START_TEST(shared_pages_are_copied) {
  qn_artifact artifact = open_artifact(2, 0, 0);
  qn_kv_cache *cache = create(&artifact, 3, 64, 6);
  const int32_t *table = qn_kv_cache_block_table(cache);
  qn_diag diag = {0};
  int32_t a = add(cache), b = add(cache), c = add(cache);
  append(cache, a, PAGE_KEYS + 5);
  visit(cache, a, true, 7);
  qn_kv_cache_fork(cache, a, PAGE_KEYS + 3, b);
  qn_kv_cache_fork(cache, a, PAGE_KEYS, c);
  ck_assert_int_eq(qn_kv_cache_free_pages(cache), 4);
  ck_assert(table[4] == table[0] && table[5] == table[1] && table[8] == table[0] && table[9] == 0);
  append(cache, b, 1);
  ck_assert(table[4] == table[0] && table[5] != table[1]);
  visit(cache, b, false, 7);
  visit(cache, b, true, 9);  // of its own page; the first is still all three's
  visit(cache, a, true, 7);
  int32_t own = table[1];
  append(cache, a, 1);  // nobody shares it any more
  ck_assert_int_eq(table[1], own);
  append(cache, c, 1);
  ck_assert_int_eq(qn_kv_cache_free_pages(cache), 2);
  // Nothing is copied before there is something to write, nor when the other has gone on.
  qn_kv_cache_fork(cache, a, PAGE_KEYS + 6, c);
  qn_assert_ok(&diag, qn_kv_cache_reserve(cache, c, 0, &diag));
  ck_assert_int_eq(table[9], own);
  qn_kv_cache_truncate(cache, c, PAGE_KEYS);
  append(cache, a, 1);
  ck_assert_int_eq(table[1], own);
  qn_kv_cache_remove(cache, b);
  qn_kv_cache_truncate(cache, a, 0);
  qn_kv_cache_truncate(cache, c, 0);
  qn_assert_ok(&diag, qn_kv_cache_check(cache, &diag));
  ck_assert_int_eq(qn_kv_cache_free_pages(cache), 6);
  qn_kv_cache_destroy(cache);
  qn_artifact_close(&artifact);
}
END_TEST

START_TEST(no_page_for_a_copy) {
  qn_artifact artifact = open_artifact(1, 0, 0);
  qn_kv_cache *cache = create(&artifact, 2, 64, 2);
  qn_diag diag = {0};
  int32_t a = add(cache), b = add(cache);
  append(cache, a, PAGE_KEYS + 5);
  qn_kv_cache_fork(cache, a, PAGE_KEYS + 5, b);
  qn_assert_fails(&diag, QN_ERR_LIMIT, "got 1 more tokens for a sequence, which takes 1 pages, want at most the 0 of 2",
                  qn_kv_cache_reserve(cache, b, 1, &diag));
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_LIMIT, "got a sequence of 2 pages, want at most the 0 of 2",
                  qn_kv_cache_replace(cache, b, 20, 0, &diag));
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_LIMIT, "got a sequence of 65 tokens, want at most 64",
                  qn_kv_cache_replace(cache, b, 65, 0, &diag));
  ck_assert_int_eq(qn_kv_cache_length(cache, b), PAGE_KEYS + 5);
  qn_assert_ok(&diag, qn_kv_cache_check(cache, &diag));
  qn_kv_cache_remove(cache, a);
  append(cache, b, 1);
  qn_assert_ok(&diag, qn_kv_cache_replace(cache, b, 3, 0, &diag));
  ck_assert_int_eq(qn_kv_cache_free_pages(cache), 1);
  qn_assert_ok(&diag, qn_kv_cache_check(cache, &diag));
  // What the check finds: a table that was written over.
  ((int32_t *)(uintptr_t)qn_kv_cache_block_table(cache))[b * qn_kv_cache_pages_per_sequence(cache) + 3] = 1;
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_INTERNAL, "the table beyond a sequence", qn_kv_cache_check(cache, &diag));
  ((int32_t *)(uintptr_t)qn_kv_cache_block_table(cache))[b * qn_kv_cache_pages_per_sequence(cache) + 3] = 0;
  ((int32_t *)(uintptr_t)qn_kv_cache_block_table(cache))[b * qn_kv_cache_pages_per_sequence(cache)] ^= 1;
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_INTERNAL, "KV cache: holders", qn_kv_cache_check(cache, &diag));
  qn_kv_cache_destroy(cache);
  qn_artifact_close(&artifact);
}
END_TEST

// The host's memory, of which the so many'th copy from now on fails.
static int copies_left;
static qn_status copy_or_fail(void *context, void *to, const void *from, size_t bytes, qn_diag *diag) {
  if (copies_left-- == 0) return qn_fail(diag, QN_ERR_IO, "memory", "lost");
  return qn_memory_host()->copy(context, to, from, bytes, diag);
}

// All or nothing, wherever copying ends: in the first group of pages or in the second.
START_TEST(copies_that_fail) {
  enum { LAYERS = 3, COPIES = 2 * LAYERS };  // a page of each of their caches
  qn_diag diag = {0};
  window = 4 * PAGE_KEYS;
  rings = true;
  qn_artifact artifact = open_artifact(LAYERS, 0, 0);
  window = 0;
  rings = false;
  qn_memory memory = *qn_memory_host();
  memory.copy = copy_or_fail;
  qn_kv_options options = {.sequences = 2, .context = 8 * PAGE_KEYS, .step = 2 * PAGE_KEYS, .memory = &memory};
  qn_kv_cache *cache = NULL;
  qn_assert_ok(&diag, qn_kv_cache_create(&artifact, &options, qn_test_allocator(), &cache, &diag));
  int32_t a = add(cache), b = add(cache);
  append(cache, a, PAGE_KEYS + 5);
  qn_kv_cache_fork(cache, a, PAGE_KEYS + 5, b);
  int64_t free = qn_kv_cache_free_pages(cache), forks = qn_kv_cache_free_forks(cache);
  for (copies_left = 0; copies_left < COPIES;) {
    int failing = copies_left;
    diag = (qn_diag){0};
    qn_assert_fails(&diag, QN_ERR_IO, "lost", qn_kv_cache_reserve(cache, b, 2 * PAGE_KEYS, &diag));
    ck_assert_int_eq(qn_kv_cache_free_pages(cache), free);
    ck_assert_int_eq(qn_kv_cache_free_forks(cache), forks);
    ck_assert_int_eq(qn_kv_cache_held(cache, b), 2);
    ck_assert_int_eq(qn_kv_cache_shared(cache, b, true), 2);
    diag = (qn_diag){0};
    qn_assert_fails(&diag, QN_ERR_IO, "lost", (copies_left = failing % LAYERS, qn_kv_cache_own(cache, b, &diag)));
    ck_assert_int_eq(qn_kv_cache_shared(cache, b, true), 2);
    diag = (qn_diag){0};
    qn_assert_ok(&diag, qn_kv_cache_check(cache, &diag));
    copies_left = failing + 1;
  }
  append(cache, b, 2 * PAGE_KEYS);
  ck_assert_int_eq(qn_kv_cache_shared(cache, b, true), 1);
  qn_kv_cache_remove(cache, a);
  qn_kv_cache_remove(cache, b);
  qn_assert_ok(&diag, qn_kv_cache_check(cache, &diag));
  ck_assert_int_eq(qn_kv_cache_free_pages(cache), qn_kv_cache_pages(cache));
  qn_kv_cache_destroy(cache);
  qn_artifact_close(&artifact);
}
END_TEST

// Pages that are kept beside the sequences count as free while nobody has them, and are given up when others are wanted.
typedef struct keeper {
  qn_kv_cache *cache;
  int32_t pages[4];
  int64_t asked;
} keeper;

static void give_up(void *context, int64_t count) {
  keeper *k = context;
  k->asked += count;
  for (int i = 0; i < 4 && count > 0; i++) {
    if (k->pages[i] < 0 || !qn_kv_cache_idle(k->cache, k->pages[i])) continue;
    qn_kv_cache_unkeep(k->cache, k->pages[i]);
    k->pages[i] = -1;
    count--;
  }
}

START_TEST(kept_pages) {
  qn_artifact artifact = open_artifact(1, 0, 0);
  qn_kv_cache *cache = create(&artifact, 2, 64, 4);
  keeper k = {.cache = cache};
  qn_diag diag = {0};
  int32_t a = add(cache), b = add(cache), page;
  qn_kv_cache_set_reclaimer(cache, give_up, &k);
  append(cache, a, 3 * PAGE_KEYS);
  for (int i = 0; i < 3; i++) qn_kv_cache_keep(cache, k.pages[i] = qn_kv_cache_page(cache, a, i));
  ck_assert(qn_kv_cache_kept(cache, k.pages[0]) && !qn_kv_cache_idle(cache, k.pages[0]));
  ck_assert(qn_kv_cache_take(cache, &k.pages[3]) && !qn_kv_cache_take(cache, &page));
  ck_assert_int_eq(qn_kv_cache_free_pages(cache), 1);
  qn_assert_ok(&diag, qn_kv_cache_check(cache, &diag));
  qn_kv_cache_truncate(cache, a, 0);
  ck_assert_int_eq(qn_kv_cache_free_pages(cache), 4);
  qn_kv_cache_append(cache, b, k.pages[0], PAGE_KEYS);
  qn_kv_cache_append(cache, b, k.pages[1], 5);  // the rest of it is no part of this sequence
  ck_assert_int_eq(qn_kv_cache_length(cache, b), PAGE_KEYS + 5);
  ck_assert_int_eq(qn_kv_cache_free_pages(cache), 2);
  append(cache, b, 1);  // copies the second, for which a kept page is given up: it is idle then itself
  ck_assert_int_eq(k.asked, 1);
  ck_assert(qn_kv_cache_page(cache, b, 1) != k.pages[1] && qn_kv_cache_idle(cache, k.pages[1]));
  ck_assert_int_eq(qn_kv_cache_free_pages(cache), 2);
  qn_assert_ok(&diag, qn_kv_cache_check(cache, &diag));
  append(cache, a, PAGE_KEYS);
  qn_kv_cache_exchange(cache, a, 0, k.pages[0]);  // as if of the same tokens
  ck_assert_int_eq(qn_kv_cache_page(cache, a, 0), qn_kv_cache_page(cache, b, 0));
  qn_assert_ok(&diag, qn_kv_cache_check(cache, &diag));
  qn_kv_cache_remove(cache, a);
  qn_kv_cache_remove(cache, b);
  for (int i = 0; i < 4; i++) {
    if (k.pages[i] >= 0) qn_kv_cache_unkeep(cache, k.pages[i]);
  }
  qn_assert_ok(&diag, qn_kv_cache_check(cache, &diag));
  ck_assert_int_eq(qn_kv_cache_free_pages(cache), 4);
  qn_kv_cache_destroy(cache);
  qn_artifact_close(&artifact);
}
END_TEST

// --- pools

static void nothing(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  (void)buffers, (void)symbols, (void)begin, (void)end;
}
static uint8_t *pools[4];
static void remember_pools(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  (void)symbols, (void)begin, (void)end;
  for (int i = 0; i < 4; i++) pools[i] = buffers[i];
}

START_TEST(pools_are_zero_and_apart) {
  qn_test_artifact a;
  qn_artifact artifact;
  qn_diag diag = {0};
  qn_buf file;
  const uint64_t page_bytes[] = {64, 128, 8192, 64};
  qn_test_artifact_init(&a);
  uint32_t operands[4];
  for (uint32_t i = 0; i < 4; i++) operands[i] = qn_test_artifact_cache(&a, i % 2 ? "v" : "k", i / 2, page_bytes[i]);
  qn_test_artifact_kernel(&a, "look", 4, 0);
  qn_test_artifact_variant(&a, 0, 0, 0, 1);
  qn_test_artifact_step(&a, 0, false, operands);
  qn_test_artifact_build(&a, &file);
  qn_assert_ok(&diag, qn_artifact_open_mapping(&artifact, qn_test_artifact_map(file.data, file.length), "t.qn", &diag));
  qn_threads *threads = NULL;
  qn_executor *executor = NULL;
  qn_kernel_entry entry = nothing;
  qn_executor_options options = {.jit_entries = &entry};
  qn_assert_ok(&diag, qn_threads_create(1, false, qn_test_allocator(), &threads, &diag));
  qn_assert_ok(&diag, qn_executor_create(&artifact, threads, &options, qn_test_allocator(), &executor, &diag));
  qn_assert_fails(&diag, QN_ERR_ARGUMENT, "cache 'k' of layer 0 is not bound",
                  qn_executor_run(executor, (const int64_t[QN_ARTIFACT_SYMBOLS]){0}, QN_RUN_PROMPT, &diag));
  qn_executor_destroy(executor);
  entry = remember_pools;
  diag = (qn_diag){0};
  qn_assert_ok(&diag, qn_executor_create(&artifact, threads, &options, qn_test_allocator(), &executor, &diag));
  qn_kv_cache *cache = create(&artifact, 1, 160, 0);
  qn_assert_ok(&diag, qn_kv_cache_bind(cache, executor, &diag));
  qn_assert_ok(&diag, qn_executor_run(executor, (const int64_t[QN_ARTIFACT_SYMBOLS]){0}, QN_RUN_PROMPT, &diag));
  for (int i = 0; i < 4; i++) {
    size_t bytes = (size_t)page_bytes[i] * 10;
    ck_assert_uint_eq((uintptr_t)pools[i] % 64, 0);
    for (size_t j = 0; j < bytes; j++) qn_check(pools[i][j] == 0, "a byte of a fresh pool");
    memset(pools[i], i + 1, bytes);
  }
  for (int i = 0; i < 4; i++) {
    for (size_t j = 0; j < (size_t)page_bytes[i] * 10; j++) qn_check(pools[i][j] == i + 1, "pools overlap");
  }
  qn_kv_cache_destroy(cache);
  qn_executor_destroy(executor);
  qn_threads_destroy(threads);
  qn_artifact_close(&artifact);
  qn_buf_deinit(&file);
  qn_test_artifact_deinit(&a);
}
END_TEST

static qn_status create_and_destroy(const qn_allocator *allocator, void *context) {
  qn_kv_cache *cache = NULL;
  qn_kv_options options = {.context = 100};
  QN_TRY(qn_kv_cache_create(context, &options, allocator, &cache, NULL));
  qn_kv_cache_destroy(cache);
  return QN_OK;
}

START_TEST(out_of_memory) {
  qn_artifact artifact = open_artifact(2, 0, 0);
  qn_test_failing_allocations(create_and_destroy, &artifact);
  qn_artifact_close(&artifact);
}
END_TEST

// Synthetic contents: small numbers of the pool's type in whole pages, and what was there stays.
START_TEST(filling) {
  enum { F32, F16, BF16, I32 };
  qn_test_artifact a;
  qn_artifact artifact;
  qn_diag diag = {0};
  qn_buf file;
  qn_test_artifact_init(&a);
  for (uint32_t i = F32; i <= BF16; i++) {
    uint32_t buffer = qn_test_artifact_cache(&a, "k", i, 64);
    a.buffers.items[buffer].dtype = i;
  }
  qn_test_artifact_build(&a, &file);
  qn_assert_ok(&diag, qn_artifact_open_mapping(&artifact, qn_test_artifact_map(file.data, file.length), "t.qn", &diag));
  qn_kv_cache *cache = create(&artifact, 1, 5 * PAGE_KEYS, 0);
  int32_t s = add(cache);
  append(cache, s, 3);
  qn_assert_ok(&diag, qn_kv_cache_fill(cache, s, 2 * PAGE_KEYS, &diag));
  ck_assert_int_eq(qn_kv_cache_length(cache, s), 2 * PAGE_KEYS + 3);
  ck_assert_int_eq(qn_kv_cache_free_pages(cache), 2);
  qn_assert_fails(&diag, QN_ERR_LIMIT, "context is full", qn_kv_cache_fill(cache, s, 3 * PAGE_KEYS, &diag));
  ck_assert_int_eq(qn_kv_cache_length(cache, s), 2 * PAGE_KEYS + 3);
  qn_kv_cache_destroy(cache);
  qn_artifact_close(&artifact);
  qn_buf_deinit(&file);
  qn_test_artifact_cache(&a, "v", 0, 64);
  a.buffers.items[3].dtype = I32;
  qn_test_artifact_build(&a, &file);
  qn_assert_ok(&diag, qn_artifact_open_mapping(&artifact, qn_test_artifact_map(file.data, file.length), "t.qn", &diag));
  cache = create(&artifact, 1, 5 * PAGE_KEYS, 0);
  s = add(cache);
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_UNSUPPORTED, "got element type 3", qn_kv_cache_fill(cache, s, 1, &diag));
  ck_assert_int_eq(qn_kv_cache_length(cache, s), 0);
  ck_assert_int_eq(qn_kv_cache_free_pages(cache), 5);
  qn_kv_cache_destroy(cache);
  qn_artifact_close(&artifact);
  qn_buf_deinit(&file);
  qn_test_artifact_deinit(&a);
}
END_TEST

QN_CASE(pages, sizes, pages_come_and_go, pages_of_a_source_stay, rings_are_bounded, rings_at_random, limits, pages_are_conserved,
        shared_pages_are_copied, no_page_for_a_copy, copies_that_fail, kept_pages)
QN_CASE(memory, pools_are_zero_and_apart, filling, out_of_memory)
QN_TEST_MAIN(pages, memory)
