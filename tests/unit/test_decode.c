// The decoder on a hand-made model whose logits depend on every token before them: chunks, pages, sequences and threads
// must make no difference, and errors must leave a sequence as it was.
#include "runtime/decode.h"

#include <sys/mman.h>

#include "runtime/kv_state.h"
#include "tests/support/fake_model.h"
#include "tests/support/test.h"

typedef struct fixture {
  qn_artifact artifact;
  qn_threads *threads;
  qn_decoder *decoder;
  qn_diag diag;
} fixture;

static void set_up(fixture *f, const qn_fake_options *model, int thread_count, const qn_decoder_options *options) {
  *f = (fixture){.artifact = qn_fake_model_open(model)};
  qn_decoder_options own = *options;
  own.executor.jit_entries = model && model->trees ? qn_fake_tree_kernels : qn_fake_kernels;
  qn_assert_ok(&f->diag, qn_threads_create(thread_count, false, qn_test_allocator(), &f->threads, &f->diag));
  qn_assert_ok(&f->diag, qn_decoder_create(&f->artifact, f->threads, &own, qn_test_allocator(), &f->decoder, &f->diag));
}

static void tear_down(fixture *f) {
  qn_decoder_destroy(f->decoder);
  qn_threads_destroy(f->threads);
  qn_artifact_close(&f->artifact);
  ck_assert_int_eq(qn_fake_errors(), 0);
}

static void random_tokens(int32_t *tokens, size_t count, uint64_t seed) {
  qn_test_random random = {seed};
  for (size_t i = 0; i < count; i++) tokens[i] = (int32_t)(qn_test_random_u64(&random) % QN_FAKE_VOCAB);
}

static void check_logits(const float *got, const int32_t *tokens, size_t count) {
  float want[QN_FAKE_VOCAB];
  qn_fake_logits(tokens, count, want);
  qn_check(memcmp(got, want, sizeof want) == 0, "after %zu tokens", count);
}

START_TEST(chunks_make_no_difference) {
  enum { COUNT = 77 };
  int32_t tokens[COUNT];
  static const int64_t chunks[] = {0, 1, 2, 7, 15, 16};
  static const int thread_counts[] = {1, 2, 3}, decode_counts[] = {0, 1, 2};
  static float all[COUNT * QN_FAKE_VOCAB];
  random_tokens(tokens, COUNT, 1);
  for (size_t c = 0; c < QN_COUNT(chunks); c++) {
    for (size_t n = 0; n < QN_COUNT(thread_counts); n++) {
      fixture f;
      set_up(&f, NULL, thread_counts[n],
             &(qn_decoder_options){.context = 100, .chunk = chunks[c], .executor.decode_threads = decode_counts[n]});
      ck_assert_int_eq(qn_decoder_chunk(f.decoder), chunks[c] ? chunks[c] : 16);
      const float *last = NULL;
      size_t allocations = qn_test_allocator_memory()->allocations;
      qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, 0, tokens, 40, NULL, &last, &f.diag));
      check_logits(last, tokens, 40);
      for (size_t i = 40; i < 50; i++) {  // one by one, over the page boundary at 48
        qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, 0, &tokens[i], 1, NULL, &last, &f.diag));
        check_logits(last, tokens, i + 1);
      }
      ck_assert_int_eq(qn_decoder_position(f.decoder, 0), 50);
      qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, 0, tokens + 50, COUNT - 50, all, &last, &f.diag));
      for (size_t i = 50; i < COUNT; i++) check_logits(all + (i - 50) * QN_FAKE_VOCAB, tokens, i + 1);
      check_logits(last, tokens, COUNT);
      ck_assert_uint_eq(qn_test_allocator_memory()->allocations, allocations);
      tear_down(&f);
    }
  }
}
END_TEST

START_TEST(fewer_rows_than_tokens) {
  enum { COUNT = 45 };
  int32_t tokens[COUNT];
  static float all[COUNT * QN_FAKE_VOCAB];
  random_tokens(tokens, COUNT, 2);
  for (int64_t rows = 1; rows <= 3; rows++) {
    fixture f;
    const float *last = NULL;
    set_up(&f, &(qn_fake_options){.max_t = 8, .max_r = rows}, 2, &(qn_decoder_options){.context = 64});
    qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, 0, tokens, COUNT, all, NULL, &f.diag));
    for (size_t i = 0; i < COUNT; i++) check_logits(all + i * QN_FAKE_VOCAB, tokens, i + 1);
    qn_decoder_reset(f.decoder, 0);
    qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, 0, tokens, COUNT, NULL, &last, &f.diag));
    check_logits(last, tokens, COUNT);
    tear_down(&f);
  }
}
END_TEST

START_TEST(going_back) {
  int32_t tokens[60], other[60];
  fixture f;
  const float *last = NULL;
  random_tokens(tokens, 60, 3);
  random_tokens(other, 60, 4);
  set_up(&f, NULL, 1, &(qn_decoder_options){.context = 64});
  qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, 0, tokens, 60, NULL, &last, &f.diag));
  static const int64_t lengths[] = {59, 48, 33, 16, 1, 0};
  for (size_t i = 0; i < QN_COUNT(lengths); i++) {
    size_t kept = (size_t)lengths[i];
    qn_decoder_truncate(f.decoder, 0, lengths[i]);
    ck_assert_int_eq(qn_decoder_position(f.decoder, 0), lengths[i]);
    memcpy(other, tokens, kept * sizeof *tokens);
    qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, 0, other + kept, 60 - kept, NULL, &last, &f.diag));
    check_logits(last, other, 60);
    qn_decoder_truncate(f.decoder, 0, lengths[i]);
    qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, 0, tokens + kept, 60 - kept, NULL, &last, &f.diag));
    check_logits(last, tokens, 60);
    random_tokens(other, 60, 5 + i);
  }
  tear_down(&f);
}
END_TEST

// Sequences in steps of mixed tokens, from a pool too small for all of them at full length.
START_TEST(sequences_in_one_step) {
  enum { SEQUENCES = 4, LENGTH = 50 };
  int32_t tokens[SEQUENCES][LENGTH];
  int64_t done[SEQUENCES] = {0};
  fixture f;
  qn_test_random random = {9};
  for (int s = 0; s < SEQUENCES; s++) random_tokens(tokens[s], LENGTH, 20 + (uint64_t)s);
  set_up(&f, NULL, 2, &(qn_decoder_options){.context = 200, .sequences = SEQUENCES, .pages = 4 * SEQUENCES});
  ck_assert_int_eq(qn_decoder_sequences(f.decoder), SEQUENCES);
  for (int steps = 0; steps < 200; steps++) {
    qn_decoder_item items[16];
    size_t count = 0, wanted = 0, lengths[16];
    int32_t owners[16];
    size_t most = 1 + qn_test_random_u64(&random) % 16;
    for (size_t tries = 0; tries < 40 && count < most; tries++) {
      int32_t s = (int32_t)(qn_test_random_u64(&random) % SEQUENCES);
      if (done[s] == LENGTH) continue;
      bool want = qn_test_random_unit(&random) < 0.5;
      items[count++] = (qn_decoder_item){.token = tokens[s][done[s]++], .sequence = s, .want = want};
      if (!want) continue;
      owners[wanted] = s;
      lengths[wanted++] = (size_t)done[s];
    }
    if (count == 0) break;
    qn_assert_ok(&f.diag, qn_decoder_step(f.decoder, items, count, &f.diag));
    for (size_t i = 0; i < wanted; i++) check_logits(qn_decoder_logits(f.decoder, i), tokens[owners[i]], lengths[i]);
  }
  for (int s = 0; s < SEQUENCES; s++) {
    ck_assert_int_eq(done[s], LENGTH);
    ck_assert_int_eq(qn_decoder_position(f.decoder, s), LENGTH);
  }
  tear_down(&f);
}
END_TEST

// Sequences that fork, go back and go on at random: each has the logits of its own tokens, and the pages balance.
START_TEST(forks) {
  enum { SEQUENCES = 5, LENGTH = 70 };
  int32_t tokens[SEQUENCES][LENGTH];
  size_t lengths[SEQUENCES] = {0};
  fixture f;
  qn_test_random random = {11};
  set_up(&f, NULL, 2, &(qn_decoder_options){.context = LENGTH, .sequences = SEQUENCES, .pages = 14});
  for (int round = 0; round < 400; round++) {
    int32_t s = (int32_t)(qn_test_random_u64(&random) % SEQUENCES), to = (int32_t)(qn_test_random_u64(&random) % SEQUENCES);
    size_t count = 1 + qn_test_random_u64(&random) % 20;
    double what = qn_test_random_unit(&random);
    const float *last = NULL;
    if (what < 0.3 && s != to) {
      lengths[to] = lengths[s] > count ? lengths[s] - (count % 3 == 0 ? count : 0) : lengths[s];
      memcpy(tokens[to], tokens[s], lengths[to] * sizeof *tokens[s]);
      qn_assert_ok(&f.diag, qn_decoder_fork(f.decoder, s, (int64_t)lengths[to], to, &f.diag));
    } else if (what < 0.4 || lengths[s] + count > LENGTH) {
      lengths[s] = lengths[s] < count ? 0 : lengths[s] - count;
      qn_decoder_truncate(f.decoder, s, (int64_t)lengths[s]);
    } else {
      random_tokens(tokens[s] + lengths[s], count, (uint64_t)round);
      qn_diag full = {0};
      qn_status status = qn_decoder_eval(f.decoder, s, tokens[s] + lengths[s], count, NULL, &last, &full);
      qn_check(status == QN_OK || status == QN_ERR_LIMIT, "%s", full.text);
      if (status == QN_OK) check_logits(last, tokens[s], lengths[s] += count);
    }
    ck_assert_int_eq(qn_decoder_position(f.decoder, s), (int64_t)lengths[s]);
    qn_assert_ok(&f.diag, qn_kv_cache_check(qn_decoder_cache(f.decoder), &f.diag));
  }
  for (int32_t s = 0; s < SEQUENCES; s++) qn_decoder_reset(f.decoder, s);
  ck_assert_int_eq(qn_kv_cache_free_pages(qn_decoder_cache(f.decoder)), 14);
#define REFUSED(text, from, length, to) \
  f.diag = (qn_diag){0};                \
  qn_assert_fails(&f.diag, QN_ERR_ARGUMENT, text, qn_decoder_fork(f.decoder, from, length, to, &f.diag))
  REFUSED("got sequence 5, want 0 to 4", 5, 0, 1);
  REFUSED("got sequence -1, want 0 to 4", 0, 0, -1);
  REFUSED("got sequence 2 to fork into itself", 2, 0, 2);
  REFUSED("got 1 tokens of sequence 0 to fork, want 0 to the 0", 0, 1, 2);
  REFUSED("got -1 tokens of sequence 0", 0, -1, 2);
#undef REFUSED
  tear_down(&f);
}
END_TEST

// --- windows

static size_t save(fixture *f, int32_t sequence, uint8_t *data, size_t capacity) {
  size_t size = 0;
  qn_assert_ok(&f->diag, qn_kv_state_save(qn_decoder_cache(f->decoder), sequence, data, capacity, &size, &f->diag));
  return size;
}

// A long text in a pool that has room for the window, one page more and a chunk: the logits of the window's tokens,
// whatever the chunk.
START_TEST(windows_give_pages_back) {
  enum { COUNT = 400, WINDOW = 21 };
  static int32_t tokens[COUNT];
  static float all[COUNT * QN_FAKE_VOCAB];
  static const int64_t chunks[] = {1, 2, 7, 16}, most[] = {4, 4, 4, 5};
  random_tokens(tokens, COUNT, 31);
  qn_fake_set_window(WINDOW);
  for (size_t c = 0; c < QN_COUNT(chunks); c++) {
    fixture f;
    const float *last = NULL;
    set_up(&f, NULL, 1, &(qn_decoder_options){.context = COUNT, .chunk = chunks[c]});
    const qn_kv_cache *cache = qn_decoder_cache(f.decoder);
    ck_assert_int_eq(qn_kv_cache_pages(cache), most[c]);
    qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, 0, tokens, COUNT - 50, all, &last, &f.diag));
    for (size_t i = 0; i < COUNT - 50; i++) check_logits(all + i * QN_FAKE_VOCAB, tokens, i + 1);
    for (size_t i = COUNT - 50; i < COUNT; i++) {
      ck_assert_int_gt(qn_decoder_room(f.decoder, 0), 0);
      qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, 0, &tokens[i], 1, NULL, &last, &f.diag));
      check_logits(last, tokens, i + 1);
      qn_assert_ok(&f.diag, qn_kv_cache_check(cache, &f.diag));
      ck_assert_int_le(qn_kv_cache_held(cache, 0), 4);
      // As far back as the page that is kept for it.
      int64_t least = qn_decoder_least(f.decoder, 0), back = (int64_t)i + 1 - QN_FAKE_PAGE_KEYS;
      ck_assert(least > 0 && least <= back + 1);
      if (i % 7 > 0) continue;
      qn_decoder_truncate(f.decoder, 0, back + 1);
      qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, 0, tokens + back + 1, QN_FAKE_PAGE_KEYS - 1, NULL, &last, &f.diag));
      check_logits(last, tokens, i + 1);
    }
    qn_assert_fails(&f.diag, QN_ERR_LIMIT, "the context is full",
                    qn_decoder_eval(f.decoder, 0, tokens, 1, NULL, &last, &f.diag));
    qn_decoder_truncate(f.decoder, 0, 100);  // those that they saw are gone
    ck_assert_int_eq(qn_decoder_position(f.decoder, 0), 0);
    ck_assert_int_eq(qn_kv_cache_free_pages(cache), most[c]);
    tear_down(&f);
  }
  qn_fake_set_window(0);
}
END_TEST

// What is saved is what the next token sees; forks and synthetic keys do not need the rest either.
START_TEST(windows_saved_and_forked) {
  enum { COUNT = 200, WINDOW = 33 };
  static int32_t tokens[COUNT];
  static uint8_t state[4096], again[4096];
  fixture f;
  const float *last = NULL;
  random_tokens(tokens, COUNT, 32);
  qn_fake_set_window(WINDOW);
  set_up(&f, NULL, 1, &(qn_decoder_options){.context = COUNT, .sequences = 3, .pages = 14});
  const qn_kv_cache *cache = qn_decoder_cache(f.decoder);
  qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, 0, tokens, 150, NULL, &last, &f.diag));
  size_t size = save(&f, 0, state, sizeof state);
  size_t pages = 150 / QN_FAKE_PAGE_KEYS + 1 - (150 - WINDOW + 1) / QN_FAKE_PAGE_KEYS;
  ck_assert_uint_eq(size, sizeof(qn_kv_state_header) + pages * QN_FAKE_PAGE_KEYS * 12);
  qn_assert_ok(&f.diag, qn_decoder_restore(f.decoder, 1, state, size, "state", &f.diag));
  ck_assert_int_eq(qn_kv_cache_held(cache, 1), (int64_t)pages);
  ck_assert(save(&f, 1, again, sizeof again) == size && memcmp(state, again, size) == 0);
  f.diag = (qn_diag){0};
  qn_assert_fails(&f.diag, QN_ERR_LIMIT, "to fork, want 0, or at least ", qn_decoder_fork(f.decoder, 0, 90, 2, &f.diag));
  qn_assert_ok(&f.diag, qn_decoder_fork(f.decoder, 0, 145, 2, &f.diag));
  int32_t others[COUNT];
  memcpy(others, tokens, sizeof others);
  random_tokens(others + 145, COUNT - 145, 33);
  qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, 2, others + 145, COUNT - 145, NULL, &last, &f.diag));
  check_logits(last, others, COUNT);
  for (int32_t s = 0; s < 2; s++) {
    qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, s, tokens + 150, COUNT - 150, NULL, &last, &f.diag));
    check_logits(last, tokens, COUNT);
  }
  qn_assert_ok(&f.diag, qn_kv_cache_check(cache, &f.diag));
  qn_decoder_reset(f.decoder, 0);
  qn_assert_ok(&f.diag, qn_decoder_fork(f.decoder, 1, 0, 0, &f.diag));
  ck_assert_int_eq(qn_kv_cache_held(cache, 0), 0);
  qn_assert_ok(&f.diag, qn_decoder_fill(f.decoder, 0, COUNT, &f.diag));
  ck_assert(qn_decoder_position(f.decoder, 0) == COUNT && qn_kv_cache_held(cache, 0) <= 6);
  qn_assert_ok(&f.diag, qn_kv_cache_check(cache, &f.diag));
  tear_down(&f);
  qn_fake_set_window(0);
}
END_TEST

// Rows that take pages in one step after others have given theirs back.
START_TEST(windows_in_one_step) {
  enum { SEQUENCES = 3, COUNT = 150, WINDOW = 5 };
  static int32_t tokens[SEQUENCES][COUNT];
  fixture f;
  qn_fake_set_window(WINDOW);
  for (int s = 0; s < SEQUENCES; s++) random_tokens(tokens[s], COUNT, 40 + (uint64_t)s);
  set_up(&f, NULL, 1, &(qn_decoder_options){.context = COUNT, .chunk = 4, .sequences = SEQUENCES});
  for (size_t at[SEQUENCES] = {0}, steps = 0; at[0] < COUNT; steps++) {
    qn_decoder_item items[4];
    for (size_t i = 0; i < 4; i++) {
      size_t s = i < 3 ? i : 0;  // the first has two tokens a step
      items[i] = (qn_decoder_item){tokens[s][at[s]++], (int32_t)s, true};
    }
    qn_assert_ok(&f.diag, qn_decoder_step(f.decoder, items, 4, &f.diag));
    for (size_t i = 1; i < 3; i++) check_logits(qn_decoder_logits(f.decoder, i), tokens[i], at[i]);
    check_logits(qn_decoder_logits(f.decoder, 3), tokens[0], at[0]);
    qn_assert_ok(&f.diag, qn_kv_cache_check(qn_decoder_cache(f.decoder), &f.diag));
  }
  tear_down(&f);
  qn_fake_set_window(0);
}
END_TEST

// A layer with a window beside one that sees all: the window's pages are its own and come round, whatever the chunk. Where
// beginnings are kept they stay, too.
START_TEST(rings_come_round) {
  enum { COUNT = 400, WINDOW = 21 };
  static int32_t tokens[COUNT];
  static float all[COUNT * QN_FAKE_VOCAB];
  static const int64_t chunks[] = {1, 7, 16};
  random_tokens(tokens, COUNT, 34);
  qn_fake_set_window(WINDOW);
  qn_fake_set_rings(true);
  for (size_t c = 0; c < 2 * QN_COUNT(chunks); c++) {
    fixture f;
    const float *last = NULL;
    bool whole = c >= QN_COUNT(chunks);
    set_up(&f, NULL, 1, &(qn_decoder_options){.context = COUNT, .chunk = chunks[c % 3], .prefixes = whole});
    const qn_kv_cache *cache = qn_decoder_cache(f.decoder);
    ck_assert_int_eq(qn_kv_cache_pages(cache), COUNT / QN_FAKE_PAGE_KEYS);
    ck_assert((qn_kv_cache_window_table(cache) == qn_kv_cache_block_table(cache)) == whole);
    qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, 0, tokens, COUNT - 50, all, &last, &f.diag));
    for (size_t i = 0; i < COUNT - 50; i++) check_logits(all + i * QN_FAKE_VOCAB, tokens, i + 1);
    for (size_t i = COUNT - 50; i < COUNT; i++) {
      qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, 0, &tokens[i], 1, NULL, &last, &f.diag));
      check_logits(last, tokens, i + 1);
      qn_assert_ok(&f.diag, qn_kv_cache_check(cache, &f.diag));
      int64_t least = qn_decoder_least(f.decoder, 0), back = (int64_t)i + 1 - QN_FAKE_PAGE_KEYS;
      ck_assert(whole ? least == 0 : least > 0 && least <= back + 1);
      if (i % 7 > 0) continue;
      qn_decoder_truncate(f.decoder, 0, back + 1);
      qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, 0, tokens + back + 1, QN_FAKE_PAGE_KEYS - 1, NULL, &last, &f.diag));
      check_logits(last, tokens, i + 1);
    }
    qn_decoder_truncate(f.decoder, 0, 100);
    ck_assert_int_eq(qn_decoder_position(f.decoder, 0), whole ? 100 : 0);
    tear_down(&f);
  }
  qn_fake_set_rings(false);
  qn_fake_set_window(0);
}
END_TEST

// What is saved has the window's part of its layer alone, for who keeps rings and who keeps them whole alike; what is
// restored of it cannot be cut to where more would be seen.
START_TEST(rings_saved_and_forked) {
  enum { COUNT = 200, WINDOW = 33, AT = 150 };
  static int32_t tokens[COUNT], others[COUNT];
  static uint8_t state[4096], again[4096];
  fixture f[2];
  size_t size = 0, pages = AT / QN_FAKE_PAGE_KEYS + 1, ring = pages - (AT - WINDOW + 1) / QN_FAKE_PAGE_KEYS;
  random_tokens(tokens, COUNT, 35);
  qn_fake_set_window(WINDOW);
  qn_fake_set_rings(true);
  for (int i = 0; i < 2; i++) {
    const float *last = NULL;
    qn_diag diag = {0};
    set_up(&f[i], NULL, 1, &(qn_decoder_options){.context = COUNT, .sequences = 3, .prefixes = i == 1});
    qn_decoder *d = f[i].decoder;
    if (i == 0) {
      qn_assert_ok(&diag, qn_decoder_eval(d, 0, tokens, AT, NULL, &last, &diag));
      size = save(f, 0, state, sizeof state);
      ck_assert_uint_eq(size, sizeof(qn_kv_state_header) + (pages * 4 + ring * 8) * QN_FAKE_PAGE_KEYS);
    }
    qn_assert_ok(&diag, qn_decoder_restore(d, 1, state, size, "state", &diag));
    ck_assert(save(&f[i], 1, again, sizeof again) == size && memcmp(state, again, size) == 0);
    ck_assert_int_eq(qn_decoder_least(d, 1), (AT - WINDOW + 1) / QN_FAKE_PAGE_KEYS * QN_FAKE_PAGE_KEYS + WINDOW - 1);
    qn_assert_fails(&diag, QN_ERR_LIMIT, "to fork, want 0, or at least ", qn_decoder_fork(d, 1, 90, 2, &diag));
    qn_assert_ok(&diag, qn_decoder_fork(d, 1, 145, 2, &diag));
    memcpy(others, tokens, sizeof others);
    random_tokens(others + 145, COUNT - 145, 36);
    qn_assert_ok(&diag, qn_decoder_eval(d, 2, others + 145, COUNT - 145, NULL, &last, &diag));
    check_logits(last, others, COUNT);
    qn_assert_ok(&diag, qn_decoder_eval(d, 1, tokens + AT, COUNT - AT, NULL, &last, &diag));
    check_logits(last, tokens, COUNT);
    qn_decoder_reset(d, 2);
    ck_assert_int_eq(qn_decoder_attach(d, 2, tokens, COUNT), 0);  // of what was restored nothing is kept for others
    qn_assert_ok(&diag, qn_decoder_fill(d, 2, COUNT, &diag));
    qn_assert_ok(&diag, qn_kv_cache_check(qn_decoder_cache(d), &diag));
    tear_down(&f[i]);
  }
  qn_fake_set_rings(false);
  qn_fake_set_window(0);
}
END_TEST

// --- keys that are evicted

enum { EVICT_AT = 24, EVICT_DROP = 3, EVICT_LEFT = EVICT_AT - EVICT_DROP };

// Whose keys a sequence has: the text's token, and when they are as many as may be, less those that the policy drops.
static size_t see(int32_t *seen, size_t count, int32_t token, bool norm) {
  seen[count++] = token;
  for (int i = 0; count > EVICT_LEFT && (i > 0 || count == EVICT_AT); i++) {
    size_t worst = 4, end = norm ? count - (EVICT_LEFT - 4) / 4 : count;
    for (size_t k = 5; norm && k < end; k++)
      if (seen[k] > seen[worst]) worst = k;
    memmove(seen + worst, seen + worst + 1, (count - worst - 1) * sizeof *seen);
    count--;
  }
  return count;
}

START_TEST(evicted_keys) {
  enum { COUNT = 130 };
  static const int64_t chunks[] = {1, 5, 16};
  static const char *const policies[] = {"sinks", "norm"};
  static float all[COUNT * QN_FAKE_VOCAB];
  int32_t tokens[COUNT];
  random_tokens(tokens, COUNT, 51);
  for (size_t c = 0; c < QN_COUNT(chunks) * QN_COUNT(policies); c++) {
    fixture f;
    const char *policy = policies[c % QN_COUNT(policies)];
    set_up(&f, &(qn_fake_options){.slots = true}, 1,
           &(qn_decoder_options){.context = COUNT, .chunk = chunks[c / 2], .evict = policy, .keep = EVICT_AT});
    const qn_kv_cache *cache = qn_decoder_cache(f.decoder);
    ck_assert(qn_kv_cache_pages(cache) == 2 && qn_decoder_context(f.decoder) == COUNT);
    qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, 0, tokens, COUNT - 10, all, NULL, &f.diag));
    const float *last = NULL;
    int32_t seen[COUNT];
    for (size_t i = 0, n = 0; i < COUNT; i++) {
      seen[n] = tokens[i];
      if (i < COUNT - 10) check_logits(all + i * QN_FAKE_VOCAB, seen, n + 1);
      if (i >= COUNT - 10) {
        size_t room = EVICT_AT - 1 - n < COUNT - i ? EVICT_AT - 1 - n : COUNT - i;
        ck_assert_int_eq(qn_decoder_room(f.decoder, 0), (int64_t)room);
        qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, 0, &tokens[i], 1, NULL, &last, &f.diag));
        check_logits(last, seen, n + 1);
      }
      n = see(seen, n, tokens[i], c % 2);
    }
    ck_assert_int_eq(qn_decoder_position(f.decoder, 0), COUNT);
    qn_assert_ok(&f.diag, qn_kv_cache_check(cache, &f.diag));
    qn_assert_fails(&f.diag, QN_ERR_LIMIT, "the context is full: got 1 tokens beside 130, want at most 130",
                    qn_decoder_eval(f.decoder, 0, tokens, 1, NULL, &last, &f.diag));
    tear_down(&f);
  }
}
END_TEST

// The logits after a text of which keys were evicted.
static void check_evicted(const float *last, const int32_t *tokens, size_t count) {
  int32_t seen[EVICT_AT];
  size_t n = 0;
  for (size_t i = 0; i + 1 < count; i++) n = see(seen, n, tokens[i], false);
  seen[n] = tokens[count - 1];
  check_logits(last, seen, n + 1);
}

// Sequences that fork, go back, begin with what is kept and go on at random, with and without pages for all of that.
START_TEST(evicted_at_random) {
  enum { SEQUENCES = 4, LENGTH = 150 };
  int64_t attached = 0, refused = 0;
  for (uint64_t seed = 1; seed <= 12; seed++) {
    static int32_t tokens[SEQUENCES][LENGTH];
    size_t lengths[SEQUENCES] = {0};
    fixture f;
    qn_test_random random = {seed};
    set_up(&f, &(qn_fake_options){.slots = true}, 1,
           &(qn_decoder_options){.context = LENGTH, .chunk = (int64_t)seed, .sequences = SEQUENCES, .prefixes = seed % 4 > 0,
                                 .pages = seed % 3 == 0 ? 7 : 0, .evict = "sinks", .keep = EVICT_AT});
    qn_decoder *d = f.decoder;
    for (int round = 0; round < 300; round++) {
      int32_t s = (int32_t)(qn_test_random_u64(&random) % SEQUENCES), to = (s + 1) % SEQUENCES;
      size_t count = 1 + qn_test_random_u64(&random) % 30, less = lengths[s] < count ? 0 : lengths[s] - count;
      double what = qn_test_random_unit(&random);
      if ((int64_t)less < qn_decoder_least(d, s)) less = 0;
      if (what < 0.2) {
        lengths[to] = count % 3 == 0 ? less : lengths[s];
        memcpy(tokens[to], tokens[s], lengths[to] * sizeof *tokens[s]);
        qn_assert_ok(&f.diag, qn_decoder_fork(d, s, (int64_t)lengths[to], to, &f.diag));
      } else if (what < 0.3) {
        qn_decoder_truncate(d, s, (int64_t)(lengths[s] = less));
      } else if (what < 0.45 || lengths[s] + count > LENGTH) {
        qn_decoder_reset(d, s);
        memcpy(tokens[s], tokens[to], sizeof tokens[s]);
        lengths[s] = (size_t)qn_decoder_attach(d, s, tokens[s], 2 * count);
        attached += (int64_t)lengths[s];
      } else {
        const float *last = NULL;
        qn_diag full = {0};
        random_tokens(tokens[s] + lengths[s], count, (uint64_t)round);
        qn_status status = qn_decoder_eval(d, s, tokens[s] + lengths[s], count, NULL, &last, &full);
        qn_check(status == QN_OK || status == QN_ERR_LIMIT, "%s", full.text);
        if (status == QN_OK) check_evicted(last, tokens[s], lengths[s] += count);
        if (status != QN_OK && qn_decoder_position(d, s) == 0) lengths[s] = 0;  // it gave keys up before
        refused += status != QN_OK;
      }
      ck_assert_int_eq(qn_decoder_position(d, s), (int64_t)lengths[s]);
      qn_assert_ok(&f.diag, qn_kv_cache_check(qn_decoder_cache(d), &f.diag));
    }
    tear_down(&f);
  }
  ck_assert(attached > 0 && refused > 0);
}
END_TEST

// Sequences that share pages, are saved, cut and gone on with while keys are evicted.
START_TEST(evicted_and_shared) {
  enum { COUNT = 100 };
  static uint8_t state[4096], again[4096];
  int32_t tokens[COUNT], seen[COUNT];
  fixture f, plain;
  const float *last = NULL;
  random_tokens(tokens, COUNT, 52);
  set_up(&f, &(qn_fake_options){.slots = true}, 1,
         &(qn_decoder_options){.context = COUNT, .sequences = 3, .evict = "sinks", .keep = EVICT_AT});
  qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, 0, tokens, 50, NULL, &last, &f.diag));
  size_t size = save(&f, 0, state, sizeof state);
  qn_assert_ok(&f.diag, qn_decoder_restore(f.decoder, 1, state, size, "state", &f.diag));
  ck_assert(save(&f, 1, again, sizeof again) == size && memcmp(state, again, size) == 0);
  ck_assert_int_eq(qn_decoder_position(f.decoder, 1), 50);
  qn_assert_ok(&f.diag, qn_decoder_fork(f.decoder, 0, 50, 2, &f.diag));
  int64_t least = qn_decoder_least(f.decoder, 0);
  ck_assert(least == 48 && qn_decoder_least(f.decoder, 2) == 48);  // 24 tokens, then 3 each time
  f.diag = (qn_diag){0};
  qn_assert_fails(&f.diag, QN_ERR_LIMIT, "want 0, or at least 48", qn_decoder_fork(f.decoder, 0, 47, 1, &f.diag));
  for (int32_t s = 0; s < 3; s++) {
    size_t n = 0;
    qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, s, tokens + 50, COUNT - 50, NULL, &last, &f.diag));
    for (size_t i = 0; i < COUNT; i++) {
      if (i + 1 == COUNT) seen[n] = tokens[i];
      if (i + 1 == COUNT) check_logits(last, seen, n + 1);
      n = see(seen, n, tokens[i], false);
    }
    qn_assert_ok(&f.diag, qn_kv_cache_check(qn_decoder_cache(f.decoder), &f.diag));
  }
  qn_decoder_truncate(f.decoder, 0, 20);  // those keys are gone
  ck_assert_int_eq(qn_decoder_position(f.decoder, 0), 0);
  qn_decoder_item items[16];
  for (int i = 0; i < 16; i++) items[i] = (qn_decoder_item){1, 0, i == 15};
  qn_assert_ok(&f.diag, qn_decoder_step(f.decoder, items, 16, &f.diag));
  f.diag = (qn_diag){0};
  qn_assert_fails(&f.diag, QN_ERR_LIMIT, "got more than 8 tokens of sequence 0 in a step",
                  qn_decoder_step(f.decoder, items, 16, &f.diag));
  ck_assert_int_eq(qn_decoder_position(f.decoder, 0), 16);
  // Who keeps all keys has no use for such a state.
  set_up(&plain, &(qn_fake_options){.slots = true}, 1, &(qn_decoder_options){.context = COUNT});
  qn_assert_fails(&plain.diag, QN_ERR_UNSUPPORTED, "keys were evicted, want a session with kv_evict",
                  qn_decoder_restore(plain.decoder, 0, state, size, "state", &plain.diag));
  qn_assert_ok(&plain.diag, qn_decoder_eval(plain.decoder, 0, tokens, 40, NULL, &last, &plain.diag));
  check_logits(last, tokens, 40);
  size = save(&plain, 0, state, sizeof state);
  f.diag = (qn_diag){0};
  qn_assert_fails(&f.diag, QN_ERR_LIMIT, "got a state of 40 keys, want fewer than the 24",
                  qn_decoder_restore(f.decoder, 0, state, size, "state", &f.diag));
  tear_down(&plain);
  tear_down(&f);
}
END_TEST

// Keys that nobody evaluated leave room for a token, too: with that a sequence is full.
START_TEST(filled_before_keys_are_evicted) {
  fixture f;
  const float *last = NULL;
  set_up(&f, &(qn_fake_options){.slots = true}, 1, &(qn_decoder_options){.context = 64, .evict = "sinks", .keep = EVICT_AT});
  qn_assert_fails(&f.diag, QN_ERR_LIMIT, "got 24 keys to fill in beside 0, want fewer than 24 in all (kv_keep)",
                  qn_decoder_fill(f.decoder, 0, EVICT_AT, &f.diag));
  f.diag = (qn_diag){0};
  qn_assert_ok(&f.diag, qn_decoder_fill(f.decoder, 0, EVICT_AT - 1, &f.diag));
  ck_assert_int_eq(qn_decoder_position(f.decoder, 0), EVICT_AT - 1);
  qn_decoder_reset(f.decoder, 0);
  int32_t tokens[EVICT_AT] = {0};
  qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, 0, tokens, EVICT_AT, NULL, &last, &f.diag));
  f.diag = (qn_diag){0};
  qn_assert_fails(&f.diag, QN_ERR_LIMIT, "got 3 keys to fill in beside 21, want fewer than 24 in all (kv_keep)",
                  qn_decoder_fill(f.decoder, 0, EVICT_DROP, &f.diag));
  ck_assert_int_eq(qn_decoder_position(f.decoder, 0), EVICT_AT);
  tear_down(&f);
}
END_TEST

// A tree whose last guess would make the sequence full.
START_TEST(trees_before_keys_are_evicted) {
  enum { COUNT = EVICT_AT - 4 };
  const int32_t guesses[] = {1, 2, 3, 4}, parents[] = {-1, -1, 1, 2};
  int32_t tokens[COUNT + 4];
  fixture f;
  const float *last = NULL;
  random_tokens(tokens, COUNT, 55);
  set_up(&f, &(qn_fake_options){.slots = true, .trees = true, .max_b = 4}, 1,
         &(qn_decoder_options){.context = 64, .evict = "sinks", .keep = EVICT_AT});
  qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, 0, tokens, COUNT, NULL, &last, &f.diag));
  qn_assert_fails(&f.diag, QN_ERR_LIMIT, "got guesses on paths of 4 tokens of sequence 0, want fewer than 4",
                  qn_decoder_step_tree(f.decoder, 0, 5, guesses, parents, 4, &f.diag));
  ck_assert_int_eq(qn_decoder_position(f.decoder, 0), COUNT);
  f.diag = (qn_diag){0};
  qn_assert_ok(&f.diag, qn_kv_cache_check(qn_decoder_cache(f.decoder), &f.diag));
  qn_assert_ok(&f.diag, qn_decoder_step_tree(f.decoder, 0, 5, guesses, parents, 3, &f.diag));
  memcpy(tokens + COUNT, (int32_t[]){5, 2, 3}, 3 * sizeof *tokens);
  check_logits(qn_decoder_logits(f.decoder, 3), tokens, COUNT + 3);
  qn_decoder_take_path(f.decoder, 0, 2);
  ck_assert_int_eq(qn_decoder_position(f.decoder, 0), COUNT + 3);
  qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, 0, guesses, 1, NULL, &last, &f.diag));
  tokens[COUNT + 3] = 1;
  check_logits(last, tokens, COUNT + 4);
  ck_assert_int_eq(qn_decoder_least(f.decoder, 0), EVICT_AT);
  qn_assert_ok(&f.diag, qn_kv_cache_check(qn_decoder_cache(f.decoder), &f.diag));
  tear_down(&f);
}
END_TEST

// Tokens on the paths of a tree see the source that their sequence has, and so do those after them.
START_TEST(trees_beside_a_source) {
  enum { COUNT = 20, SOURCE = 9 };
  int32_t tokens[COUNT + 3], guesses[] = {1, 2, 3}, parents[] = {-1, 0, -1};
  fixture f;
  const float *last = NULL;
  random_tokens(tokens, COUNT, 57);
  set_up(&f, &(qn_fake_options){.trees = true, .source = SOURCE, .max_b = 4}, 1, &(qn_decoder_options){.context = 64});
  qn_assert_ok(&f.diag, qn_decoder_source(f.decoder, 0, tokens, SOURCE, &f.diag));
  qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, 0, tokens, COUNT, NULL, &last, &f.diag));
  qn_assert_ok(&f.diag, qn_decoder_step_tree(f.decoder, 0, 5, guesses, parents, 3, &f.diag));
  tokens[COUNT] = 5;
  tokens[COUNT + 1] = 3;
  check_logits(qn_decoder_logits(f.decoder, 3), tokens, COUNT + 2);
  qn_decoder_take_path(f.decoder, 0, 2);
  ck_assert_int_eq(qn_kv_cache_source(qn_decoder_cache(f.decoder), 0), SOURCE);
  tokens[COUNT + 2] = 7;
  qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, 0, tokens + COUNT + 2, 1, NULL, &last, &f.diag));
  check_logits(last, tokens, COUNT + 3);
  qn_assert_ok(&f.diag, qn_kv_cache_check(qn_decoder_cache(f.decoder), &f.diag));
  tear_down(&f);
}
END_TEST

// An error before the step: nothing has changed.
START_TEST(no_room_to_evict) {
  enum { COUNT = 40 };
  int32_t tokens[COUNT];
  fixture f;
  const float *last = NULL;
  random_tokens(tokens, COUNT, 53);
  set_up(&f, &(qn_fake_options){.slots = true}, 1,
         &(qn_decoder_options){.context = COUNT, .sequences = 2, .pages = 3, .evict = "sinks", .keep = EVICT_AT});
  qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, 0, tokens, EVICT_AT - 2, NULL, &last, &f.diag));
  qn_assert_ok(&f.diag, qn_decoder_fork(f.decoder, 0, EVICT_AT - 2, 1, &f.diag));
  qn_assert_fails(&f.diag, QN_ERR_LIMIT,
                  "got 1 pages that a sequence shares and of which it evicts keys, want at most the 0 of 3",
                  qn_decoder_eval(f.decoder, 0, tokens + EVICT_AT - 2, 2, NULL, &last, &f.diag));
  ck_assert_int_eq(qn_decoder_position(f.decoder, 0), EVICT_AT - 2);
  qn_decoder_reset(f.decoder, 1);
  f.diag = (qn_diag){0};
  qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, 0, tokens + EVICT_AT - 2, 2, NULL, &last, &f.diag));
  check_logits(last, tokens, EVICT_AT);
  ck_assert_int_eq(qn_decoder_least(f.decoder, 0), EVICT_AT);
  qn_assert_ok(&f.diag, qn_kv_cache_check(qn_decoder_cache(f.decoder), &f.diag));
  tear_down(&f);

  set_up(&f, &(qn_fake_options){.slots = true, .queries = true, .max_r = 2}, 1,
         &(qn_decoder_options){.context = COUNT, .evict = "heavy", .keep = 16});
  qn_decoder_item items[16];
  for (int i = 0; i < 16; i++) items[i] = (qn_decoder_item){tokens[i], 0, i < 2};
  qn_assert_fails(&f.diag, QN_ERR_LIMIT, "got a step with more than the 2 rows that the program can have",
                  qn_decoder_step(f.decoder, items, 16, &f.diag));
  ck_assert_int_eq(qn_decoder_position(f.decoder, 0), 0);
  tear_down(&f);
}
END_TEST

// Sums of attention are of all tokens that followed: nothing is taken back, forks are of whole texts and copy at once.
START_TEST(evicted_by_sums) {
  enum { COUNT = 30 };
  static uint8_t state[4096];
  int32_t tokens[COUNT];
  fixture f, plain;
  const float *last = NULL;
  random_tokens(tokens, COUNT, 54);
  set_up(&f, &(qn_fake_options){.slots = true, .sums = true}, 1,
         &(qn_decoder_options){.context = COUNT, .sequences = 2, .evict = "hitters", .keep = EVICT_AT});
  ck_assert(!qn_decoder_takes_back(f.decoder));
  qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, 0, tokens, 20, NULL, &last, &f.diag));
  ck_assert_int_eq(qn_decoder_least(f.decoder, 0), 20);
  qn_assert_fails(&f.diag, QN_ERR_LIMIT, "or have sums of what followed", qn_decoder_fork(f.decoder, 0, 19, 1, &f.diag));
  f.diag = (qn_diag){0};
  qn_assert_ok(&f.diag, qn_decoder_fork(f.decoder, 0, 20, 1, &f.diag));
  const qn_kv_cache *cache = qn_decoder_cache(f.decoder);
  ck_assert(qn_kv_cache_shared(cache, 0, true) == 2 && qn_decoder_copies(f.decoder, 0, 1) == 2);
  qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, 0, tokens + 20, 1, NULL, &last, &f.diag));
  ck_assert_int_eq(qn_kv_cache_shared(cache, 0, true), 0);
  check_logits(last, tokens, 21);
  qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, 1, tokens + 20, 10, NULL, &last, &f.diag));
  size_t size = save(&f, 1, state, sizeof state);
  qn_assert_ok(&f.diag, qn_decoder_restore(f.decoder, 0, state, size, "state", &f.diag));
  ck_assert_int_eq(qn_decoder_position(f.decoder, 0), 30);
  qn_decoder_truncate(f.decoder, 0, 29);
  ck_assert_int_eq(qn_decoder_position(f.decoder, 0), 0);
  // A state of who went by other things says nothing of sums.
  set_up(&plain, &(qn_fake_options){.slots = true, .sums = true}, 1, &(qn_decoder_options){.context = COUNT});
  qn_assert_ok(&plain.diag, qn_decoder_eval(plain.decoder, 0, tokens, 10, NULL, &last, &plain.diag));
  size = save(&plain, 0, state, sizeof state);
  qn_assert_fails(&f.diag, QN_ERR_UNSUPPORTED, "got a state without sums of the attention that its 10 keys have had",
                  qn_decoder_restore(f.decoder, 0, state, size, "state", &f.diag));
  tear_down(&plain);
  tear_down(&f);
}
END_TEST

static void widen_keys(qn_test_artifact *a) { a->buffers.items[6].dims[2] = 3; }
static void move_keys(qn_test_artifact *a) { a->buffers.items[6].layer = a->buffers.items[7].layer = 1; }

START_TEST(caches_that_do_not_fit) {
  static const struct {
    void (*change)(qn_test_artifact *a);
    const char *evict, *text;
  } cases[] = {{widen_keys, "sinks", "KV cache 'k' of layer 0: got a layout that keys cannot be evicted from"},
               {move_keys, "heavy", "makes no queries to evict keys by"}};  // but of layer 0
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    fixture f = {.diag = {0}};
    qn_buf file;
    const qn_decoder_options options = {
        .context = 64, .evict = cases[i].evict, .keep = 32, .executor = {.jit_entries = qn_fake_kernels}};
    qn_fake_model_build(&(qn_fake_options){.slots = true, .queries = true}, cases[i].change, &file);
    qn_assert_ok(&f.diag,
                 qn_artifact_open_mapping(&f.artifact, qn_test_artifact_map(file.data, file.length), "t.qn", &f.diag));
    qn_assert_ok(&f.diag, qn_threads_create(1, false, qn_test_allocator(), &f.threads, &f.diag));
    qn_assert_fails(&f.diag, QN_ERR_UNSUPPORTED, cases[i].text,
                    qn_decoder_create(&f.artifact, f.threads, &options, qn_test_allocator(), &f.decoder, &f.diag));
    qn_buf_deinit(&file);
    tear_down(&f);
  }
}
END_TEST

START_TEST(what_cannot_be_evicted) {
  static const struct {
    bool slots;
    qn_decoder_options options;
    qn_status status;
    const char *text;
  } cases[] = {
      {true, {.evict = "old", .keep = 32}, QN_ERR_ARGUMENT, "kv_evict: got 'old', want one of none, sinks"},
      {true, {.evict = "sinks", .keep = 7}, QN_ERR_ARGUMENT, "kv_keep: got 7 keys, want 8 to the context's 64"},
      {true, {.evict = "sinks", .keep = 65}, QN_ERR_ARGUMENT, "kv_keep: got 65 keys"},
      {true, {.keep = 32}, QN_ERR_ARGUMENT, "kv_keep: got 32 keys to keep and no policy, want kv_evict, too"},
      {true, {.evict = "sinks"}, QN_ERR_ARGUMENT, "kv_keep: got 0 keys, want 8 to the context's 64"},
      {false,
       {.evict = "sinks", .keep = 32},
       QN_ERR_UNSUPPORTED,
       "compiled to keep all keys, want one compiled with kv-evict sinks"},
      {true, {.evict = "heavy", .keep = 32}, QN_ERR_UNSUPPORTED, "makes no queries to evict keys by"},
      {true, {.evict = "keyformer", .keep = 32}, QN_ERR_UNSUPPORTED, "does not sum up the attention to evict keys by"},
      {true,
       {.evict = "hitters", .keep = 32, .prefixes = true},
       QN_ERR_UNSUPPORTED,
       "got prefixes to keep beside keys that are evicted by hitters"},
  };
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    fixture f;
    qn_decoder *decoder = NULL;
    set_up(&f, &(qn_fake_options){.slots = cases[i].slots, .sums = true}, 1, &(qn_decoder_options){.context = 64});
    qn_decoder_options options = cases[i].options;
    options.context = 64;
    options.executor.jit_entries = qn_fake_kernels;
    qn_assert_fails(&f.diag, cases[i].status, cases[i].text,
                    qn_decoder_create(&f.artifact, f.threads, &options, qn_test_allocator(), &decoder, &f.diag));
    ck_assert_ptr_null(decoder);
    tear_down(&f);
  }
}
END_TEST

// --- errors

START_TEST(refused_tokens_change_nothing) {
  fixture f;
  const float *last = NULL;
  int32_t tokens[64], bad[3] = {1, QN_FAKE_VOCAB, 2};
  random_tokens(tokens, 64, 6);
  set_up(&f, NULL, 1, &(qn_decoder_options){.context = 50, .sequences = 2, .pages = 5});
  qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, 0, tokens, 40, NULL, &last, &f.diag));
  int64_t pages = qn_kv_cache_free_pages(qn_decoder_cache(f.decoder));
  ck_assert_int_eq(pages, 2);
#define REFUSED(status, text, call)                                               \
  do {                                                                            \
    f.diag = (qn_diag){0};                                                        \
    qn_assert_fails(&f.diag, status, text, call);                                 \
    ck_assert_int_eq(qn_decoder_position(f.decoder, 0), 40);                      \
    ck_assert_int_eq(qn_decoder_position(f.decoder, 1), 0);                       \
    ck_assert_int_eq(qn_kv_cache_free_pages(qn_decoder_cache(f.decoder)), pages); \
  } while (0)
  REFUSED(QN_ERR_LIMIT, "got 11 tokens beside 40", qn_decoder_eval(f.decoder, 0, tokens, 11, NULL, &last, &f.diag));
  REFUSED(QN_ERR_LIMIT, "takes 3 pages", qn_decoder_eval(f.decoder, 1, tokens, 33, NULL, &last, &f.diag));
  REFUSED(QN_ERR_ARGUMENT, "token 1: got id 40, want 0 to 39",
          qn_decoder_eval(f.decoder, 0, bad, 3, NULL, &last, &f.diag));
  bad[1] = -1;
  REFUSED(QN_ERR_ARGUMENT, "token 1: got id -1", qn_decoder_eval(f.decoder, 0, bad, 3, NULL, &last, &f.diag));
  REFUSED(QN_ERR_ARGUMENT, "got 0 tokens", qn_decoder_eval(f.decoder, 0, tokens, 0, NULL, &last, &f.diag));
  REFUSED(QN_ERR_ARGUMENT, "got sequence 2, want 0 to 1",
          qn_decoder_eval(f.decoder, 2, tokens, 1, NULL, &last, &f.diag));
  REFUSED(QN_ERR_ARGUMENT, "got sequence -1", qn_decoder_eval(f.decoder, -1, tokens, 1, NULL, &last, &f.diag));
  qn_decoder_item items[17] = {{.sequence = 0, .want = true}};
  REFUSED(QN_ERR_LIMIT, "got a step of 17 tokens, want 1 to 16", qn_decoder_step(f.decoder, items, 17, &f.diag));
  REFUSED(QN_ERR_LIMIT, "got a step of 0", qn_decoder_step(f.decoder, items, 0, &f.diag));
  REFUSED(QN_ERR_LIMIT, "the context is full", qn_decoder_step(f.decoder, items, 16, &f.diag));
  items[3].sequence = 5;
  REFUSED(QN_ERR_ARGUMENT, "got sequence 5", qn_decoder_step(f.decoder, items, 8, &f.diag));
  qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, 0, tokens + 40, 10, NULL, &last, &f.diag));
  check_logits(last, tokens, 50);
  tear_down(&f);
}
END_TEST

// An executor's error in the middle of a prompt takes all of it back.
START_TEST(failure_in_a_later_chunk) {
  static int32_t tokens[64];
  fixture f;
  const float *last = NULL;
  random_tokens(tokens, 64, 7);
  // The variants of "logits" know up to 16 rows; with max_r 20 wider steps find none.
  set_up(&f, &(qn_fake_options){.max_t = 16, .max_r = 16}, 1, &(qn_decoder_options){.context = 64});
  qn_art_variant *variant = (qn_art_variant *)(uintptr_t)&f.artifact.variants[3];
  uintptr_t page = (uintptr_t)variant & ~(uintptr_t)4095;
  ck_assert_int_eq(mprotect((void *)page, 8192, PROT_READ | PROT_WRITE), 0);
  variant->rows_min = 16;
  static float all[64 * QN_FAKE_VOCAB];
  qn_assert_fails(&f.diag, QN_ERR_FORMAT, "none of its 2 variants",
                  qn_decoder_eval(f.decoder, 0, tokens, 40, all, &last, &f.diag));  // 16, 16, 8
  ck_assert_int_eq(qn_decoder_position(f.decoder, 0), 0);
  ck_assert_int_eq(qn_kv_cache_free_pages(qn_decoder_cache(f.decoder)), 4);
  qn_decoder_item items[2] = {{.want = true}, {.want = true}};
  qn_assert_fails(&f.diag, QN_ERR_FORMAT, "none of its", qn_decoder_step(f.decoder, items, 2, &f.diag));
  ck_assert_int_eq(qn_kv_cache_free_pages(qn_decoder_cache(f.decoder)), 4);
  f.diag = (qn_diag){0};
  qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, 0, tokens, 48, all, &last, &f.diag));
  check_logits(last, tokens, 48);
  tear_down(&f);
}
END_TEST

static void rename_input(qn_test_artifact *a) { a->buffers.items[0].name = qn_test_artifact_string(a, "pixels"); }
static void retype_input(qn_test_artifact *a) { a->buffers.items[1].dtype = QN_TEST_F32; }
static void reshape_input(qn_test_artifact *a) { a->buffers.items[4].symbols[0] = QN_TEST_SYM_T; }
static void rename_logits(qn_test_artifact *a) { a->buffers.items[8].name = qn_test_artifact_string(a, "logit"); }
static void narrow_logits(qn_test_artifact *a) { a->buffers.items[8].dims[1] = 20; }

START_TEST(no_language_model) {
  static const struct {
    void (*change)(qn_test_artifact *a);
    const char *text;
  } cases[] = {
      {rename_input, "got input 'pixels'"}, {retype_input, "input 'pos' has another type"},
      {reshape_input, "want i32 [B, P]"},   {rename_logits, "no output 'logits'"},
      {narrow_logits, "than f32 [R, 40]"},
  };
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    qn_buf file;
    qn_artifact artifact;
    qn_diag diag = {0};
    qn_threads *threads;
    qn_decoder *decoder = NULL;
    qn_decoder_options options = {.executor = {.jit_entries = qn_fake_kernels}};
    qn_fake_model_build(NULL, cases[i].change, &file);
    qn_assert_ok(&diag,
                 qn_artifact_open_mapping(&artifact, qn_test_artifact_map(file.data, file.length), "t.qn", &diag));
    qn_assert_ok(&diag, qn_threads_create(1, false, qn_test_allocator(), &threads, &diag));
    qn_assert_fails(&diag, QN_ERR_UNSUPPORTED, cases[i].text,
                    qn_decoder_create(&artifact, threads, &options, qn_test_allocator(), &decoder, &diag));
    ck_assert_ptr_null(decoder);
    qn_threads_destroy(threads);
    qn_artifact_close(&artifact);
    qn_buf_deinit(&file);
  }
}
END_TEST

START_TEST(sizes) {
  qn_fake_options bounded = {.max_p = 4, .max_b = 2};
  fixture f;
  set_up(&f, &bounded, 1, &(qn_decoder_options){0});
  ck_assert_int_eq(qn_decoder_context(f.decoder), 64);
  ck_assert_int_eq(qn_decoder_vocab(f.decoder), QN_FAKE_VOCAB);
  static const struct {
    qn_decoder_options options;
    qn_status status;
    const char *text;
  } cases[] = {
      {{.context = 65}, QN_ERR_LIMIT, "context: got 65 tokens, want 1 to 64"},
      {{.context = -1}, QN_ERR_ARGUMENT, "context: got -1"},
      {{.chunk = 17}, QN_ERR_LIMIT, "chunk: got 17 tokens, want 1 to 16"},
      {{.chunk = -2}, QN_ERR_ARGUMENT, "chunk: got -2"},
      {{.sequences = 3}, QN_ERR_LIMIT, "sequences: got 3, want at most 2"},
  };
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    qn_decoder *decoder = NULL;
    qn_diag diag = {0};
    qn_decoder_options options = cases[i].options;
    options.executor.jit_entries = qn_fake_kernels;
    qn_assert_fails(&diag, cases[i].status, cases[i].text,
                    qn_decoder_create(&f.artifact, f.threads, &options, qn_test_allocator(), &decoder, &diag));
  }
  tear_down(&f);
  set_up(&f, NULL, 1, &(qn_decoder_options){0});
  ck_assert_int_eq(qn_decoder_context(f.decoder), 4096);
  tear_down(&f);
}
END_TEST

static qn_status create_and_destroy(const qn_allocator *allocator, void *context) {
  fixture *f = context;
  qn_decoder *decoder = NULL;
  qn_decoder_options options = {
      .context = 64, .evict = "hitters", .keep = 32, .executor = {.jit_entries = qn_fake_kernels}};
  QN_TRY(qn_decoder_create(&f->artifact, f->threads, &options, allocator, &decoder, NULL));
  qn_decoder_destroy(decoder);
  return QN_OK;
}

START_TEST(out_of_memory) {
  fixture f;
  set_up(&f, &(qn_fake_options){.slots = true, .sums = true}, 1, &(qn_decoder_options){.context = 64});
  qn_test_failing_allocations(create_and_destroy, &f);
  tear_down(&f);
}
END_TEST

QN_CASE(evaluating, chunks_make_no_difference, fewer_rows_than_tokens, going_back, sequences_in_one_step, forks)
QN_CASE(windows, windows_give_pages_back, windows_saved_and_forked, windows_in_one_step, rings_come_round,
        rings_saved_and_forked)
QN_CASE(eviction, evicted_keys, evicted_at_random, evicted_and_shared, filled_before_keys_are_evicted,
        trees_before_keys_are_evicted, trees_beside_a_source, no_room_to_evict, caches_that_do_not_fit, evicted_by_sums, what_cannot_be_evicted)
QN_CASE(errors, refused_tokens_change_nothing, failure_in_a_later_chunk, no_language_model, sizes, out_of_memory)
QN_TEST_MAIN(evaluating, windows, eviction, errors)
