// Kept prefixes: sequences that begin like earlier ones have the logits of their own tokens, whatever is shared, given up,
// saved or loaded in between; the pages balance; files that are damaged or of another model are refused.
#include "runtime/kv_prefix.h"

#include <stdio.h>
#include <stdlib.h>

#include "runtime/base/hash.h"
#include "runtime/decode.h"
#include "tests/support/fake_model.h"
#include "tests/support/test.h"

enum { KEYS = QN_FAKE_PAGE_KEYS, CONTEXT = 96, MOST = 96 };

typedef struct fixture {
  qn_artifact artifact;
  qn_threads *threads;
  qn_decoder *decoder;
  qn_diag diag;
} fixture;

static void set_up(fixture *f, int32_t sequences, int64_t pages, bool prefixes) {
  *f = (fixture){.artifact = qn_fake_model_open(NULL)};
  qn_decoder_options options = {.context = CONTEXT,
                                .sequences = sequences,
                                .pages = pages,
                                .prefixes = prefixes,
                                .executor = {.jit_entries = qn_fake_kernels}};
  qn_assert_ok(&f->diag, qn_threads_create(1, false, qn_test_allocator(), &f->threads, &f->diag));
  qn_assert_ok(&f->diag,
               qn_decoder_create(&f->artifact, f->threads, &options, qn_test_allocator(), &f->decoder, &f->diag));
}

static void balance(fixture *f) {
  qn_kv_prefix *p = qn_decoder_prefixes(f->decoder);
  qn_assert_ok(&f->diag, p ? qn_kv_prefix_check(p, &f->diag) : qn_kv_cache_check(qn_decoder_cache(f->decoder), &f->diag));
}

static void tear_down(fixture *f) {
  const qn_kv_cache *cache = qn_decoder_cache(f->decoder);
  for (int32_t s = 0; s < qn_decoder_sequences(f->decoder); s++) qn_decoder_reset(f->decoder, s);
  balance(f);
  ck_assert_int_eq(qn_kv_cache_free_pages(cache), qn_kv_cache_pages(cache));
  qn_decoder_destroy(f->decoder);
  qn_threads_destroy(f->threads);
  qn_artifact_close(&f->artifact);
  ck_assert_int_eq(qn_fake_errors(), 0);
  ck_assert_uint_eq(qn_test_allocator_memory()->live_bytes, 0);
}

static void check_logits(const float *got, const int32_t *tokens, size_t count) {
  float want[QN_FAKE_VOCAB];
  qn_fake_logits(tokens, count, want);
  qn_check(memcmp(got, want, sizeof want) == 0, "after %zu tokens", count);
}

static uint64_t below(qn_test_random *random, uint64_t limit) { return qn_test_random_u64(random) % limit; }

static qn_kv_prefix_stats stats_of(fixture *f) {
  qn_kv_prefix_stats stats;
  qn_kv_prefix_get_stats(qn_decoder_prefixes(f->decoder), &stats);
  return stats;
}

// Attaches and evaluates the rest; gives how many were known.
static int64_t begin(fixture *f, int32_t sequence, const int32_t *tokens, size_t count) {
  const float *last = NULL;
  int64_t held = qn_decoder_attach(f->decoder, sequence, tokens, count);
  ck_assert_int_eq(qn_decoder_position(f->decoder, sequence), held);
  qn_assert_ok(&f->diag, qn_decoder_eval(f->decoder, sequence, tokens + held, count - (size_t)held, NULL, &last, &f->diag));
  check_logits(last, tokens, count);
  balance(f);
  return held;
}

static void make_tokens(int32_t *tokens, size_t count, int32_t first) {
  for (size_t i = 0; i < count; i++) tokens[i] = (int32_t)((uint32_t)first + i * 7) % QN_FAKE_VOCAB;
}

START_TEST(what_is_found) {
  int32_t a[MOST], b[MOST];
  fixture f;
  set_up(&f, 2, 12, true);
  make_tokens(a, MOST, 1);
  ck_assert_int_eq(begin(&f, 0, a, 40), 0);
  ck_assert_int_eq(begin(&f, 1, a, 40), 0);  // nothing is kept yet
  qn_decoder_keep(f.decoder, 0);
  ck_assert_int_eq(stats_of(&f).tokens, 2 * KEYS);  // full pages alone
  qn_decoder_reset(f.decoder, 1);                   // its full pages are there already, its last one is new
  ck_assert_int_eq(stats_of(&f).tokens, 40);
  ck_assert_int_eq(begin(&f, 1, a, 40), 39);  // not the last token
  qn_decoder_reset(f.decoder, 1);
  ck_assert_int_eq(begin(&f, 1, a, 60), 40);
  ck_assert_int_eq(qn_decoder_attach(f.decoder, 1, a, 60), 0);  // not empty
  ck_assert_int_eq(qn_decoder_attach(f.decoder, 7, a, 60), 0);
  qn_decoder_reset(f.decoder, 1);  // the page with 8 tokens gives way to one with 16
  ck_assert_int_eq(stats_of(&f).tokens, 60);
  ck_assert_int_eq(stats_of(&f).pages, 4);
  // Within a page the texts part: so far they share it.
  memcpy(b, a, sizeof b);
  b[20] ^= 1;
  ck_assert_int_eq(begin(&f, 1, b, 30), 20);
  qn_decoder_reset(f.decoder, 1);
  ck_assert_int_eq(stats_of(&f).pages, 5);
  ck_assert_int_eq(begin(&f, 1, b, 31), 30);
  // A sequence that went on while its pages were kept has not changed them.
  const float *last = NULL;
  qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, 0, a + 40, 10, NULL, &last, &f.diag));
  check_logits(last, a, 50);
  qn_decoder_reset(f.decoder, 1);
  ck_assert_int_eq(begin(&f, 1, a, 70), 60);
  // Of what is not known nothing is kept.
  qn_decoder_reset(f.decoder, 1);
  qn_assert_ok(&f.diag, qn_decoder_fill(f.decoder, 1, 0, &f.diag));
  qn_kv_prefix_stats stats = stats_of(&f);
  ck_assert(stats.lookups == 7 && stats.asked_tokens == 40 + 40 + 40 + 60 + 30 + 31 + 70);
  ck_assert_int_eq(stats.found_tokens, 39 + 40 + 20 + 30 + 60);
  qn_kv_prefix_clear(qn_decoder_prefixes(f.decoder));
  ck_assert(stats_of(&f).pages <= 4 && stats_of(&f).given_up > 0);
  tear_down(&f);
  set_up(&f, 1, 0, false);
  ck_assert_int_eq(begin(&f, 0, a, 40), 0);
  qn_decoder_reset(f.decoder, 0);
  ck_assert_int_eq(begin(&f, 0, a, 40), 0);
  tear_down(&f);
}
END_TEST

// The least recently used goes first, what follows a page before the page, and nothing that a sequence has.
START_TEST(what_is_given_up) {
  int32_t a[MOST], b[MOST], c[MOST];
  fixture f;
  set_up(&f, 2, 8, true);
  make_tokens(a, MOST, 1);
  make_tokens(b, MOST, 2);
  make_tokens(c, MOST, 3);
  begin(&f, 0, a, 3 * KEYS);
  qn_decoder_reset(f.decoder, 0);
  begin(&f, 0, b, 3 * KEYS);
  qn_decoder_reset(f.decoder, 0);
  ck_assert_int_eq(begin(&f, 1, a, 2 * KEYS + 1), 2 * KEYS);  // a is used now, but for its last page
  begin(&f, 0, c, 3 * KEYS);                             // 8 - 3 - 3 = 2 are free, one of which the sequence above has
  ck_assert_int_eq(stats_of(&f).given_up, 2);
  qn_decoder_reset(f.decoder, 1);
  qn_decoder_reset(f.decoder, 0);
  ck_assert_int_eq(begin(&f, 0, a, 3 * KEYS), 2 * KEYS + 1);
  ck_assert_int_eq(begin(&f, 1, b, 3 * KEYS), KEYS);  // its second page went for the copy of the page with one token
  // With every page in use there is nothing to give up.
  const float *last;
  qn_assert_fails(&f.diag, QN_ERR_LIMIT, "the KV cache is full", qn_decoder_eval(f.decoder, 0, a, 3 * KEYS, NULL, &last, &f.diag));
  balance(&f);
  tear_down(&f);
}
END_TEST

// Sequences of a few beginnings come, go on, fork, go back and end at random, in a pool that is too small to keep all.
static qn_kv_prefix_stats use_at_random(int64_t window, int64_t pages) {
  enum { SEQUENCES = 4 };
  static int32_t tokens[SEQUENCES][MOST];
  size_t lengths[SEQUENCES] = {0};
  fixture f;
  qn_test_random random = {5};
  qn_fake_set_window(window);
  set_up(&f, SEQUENCES, pages, true);
  for (int round = 0; round < 1500; round++) {
    int32_t s = (int32_t)below(&random, SEQUENCES), to = (int32_t)below(&random, SEQUENCES);
    uint64_t what = below(&random, 10);
    const float *last = NULL;
    qn_diag full = {0};
    if (lengths[s] == 0) {
      size_t count = 2 + below(&random, 60), alike = below(&random, 70);
      make_tokens(tokens[s], MOST, (int32_t)below(&random, 3));
      for (size_t i = alike; i < count; i++) tokens[s][i] = (int32_t)below(&random, QN_FAKE_VOCAB);
      size_t held = (size_t)qn_decoder_attach(f.decoder, s, tokens[s], count);
      qn_status status = qn_decoder_eval(f.decoder, s, tokens[s] + held, count - held, NULL, &last, &full);
      qn_check(status == QN_OK || status == QN_ERR_LIMIT, "%s", full.text);
      lengths[s] = status == QN_OK ? count : window > 0 ? (size_t)qn_decoder_position(f.decoder, s) : held;
      if (status == QN_OK) check_logits(last, tokens[s], count);
      if (below(&random, 2)) qn_decoder_keep(f.decoder, s);
    } else if (what < 3) {
      qn_decoder_reset(f.decoder, s);
      lengths[s] = 0;
    } else if (what < 4 && s != to) {
      qn_assert_ok(&f.diag, qn_decoder_fork(f.decoder, s, (int64_t)lengths[s], to, &f.diag));
      memcpy(tokens[to], tokens[s], sizeof tokens[s]);
      lengths[to] = lengths[s];
    } else if (what < 5) {
      int64_t least = qn_decoder_least(f.decoder, s);
      lengths[s] -= below(&random, lengths[s]);
      qn_decoder_truncate(f.decoder, s, (int64_t)lengths[s]);
      if ((int64_t)lengths[s] < least) lengths[s] = 0;
    } else if (lengths[s] + 9 < CONTEXT) {
      size_t count = 1 + below(&random, 8);
      for (size_t i = 0; i < count; i++) tokens[s][lengths[s] + i] = (int32_t)below(&random, QN_FAKE_VOCAB);
      qn_status status = qn_decoder_eval(f.decoder, s, tokens[s] + lengths[s], count, NULL, &last, &full);
      qn_check(status == QN_OK || status == QN_ERR_LIMIT, "%s", full.text);
      if (status == QN_OK) check_logits(last, tokens[s], lengths[s] += count);
    }
    ck_assert_int_eq(qn_decoder_position(f.decoder, s), (int64_t)lengths[s]);
    balance(&f);
  }
  qn_kv_prefix_stats stats = stats_of(&f);
  tear_down(&f);
  qn_fake_set_window(0);
  return stats;
}

START_TEST(random_use) {
  qn_kv_prefix_stats stats = use_at_random(0, 14);
  ck_assert(stats.found_tokens > 2000 && stats.given_up > 100);
}
END_TEST

// Windows: what sequences give back stays known as long as there is room, and goes though others hold what follows it.
START_TEST(random_use_of_windows) {
  static const int64_t windows[] = {1, 5, 20}, pages[] = {9, 12, 14};
  for (size_t i = 0; i < QN_COUNT(windows); i++) {
    qn_kv_prefix_stats stats = use_at_random(windows[i], pages[i]);
    ck_assert_msg(stats.found_tokens > 1000 && stats.given_up > 100, "got %d, %d", (int)stats.found_tokens,
                  (int)stats.given_up);
  }
  qn_fake_set_rings(true);  // beside a layer that sees all, what has a window is kept whole, too
  qn_kv_prefix_stats stats = use_at_random(5, 14);
  qn_fake_set_rings(false);
  ck_assert(stats.found_tokens > 2000 && stats.given_up > 100);
}
END_TEST

// --- files

START_TEST(saved_and_loaded) {
  int32_t a[MOST], b[MOST];
  const char *path = qn_test_temp_path("prefixes");
  int64_t pages;
  fixture f;
  set_up(&f, 2, 12, true);
  make_tokens(a, MOST, 1);
  make_tokens(b, MOST, 1);
  b[35] ^= 1;
  qn_assert_ok(&f.diag, qn_kv_prefix_save(qn_decoder_prefixes(f.decoder), path, &f.diag));  // none
  qn_assert_ok(&f.diag, qn_kv_prefix_load(qn_decoder_prefixes(f.decoder), path, &pages, &f.diag));
  ck_assert_int_eq(pages, 0);
  begin(&f, 0, a, 90);
  begin(&f, 1, b, 60);
  qn_decoder_reset(f.decoder, 0);
  qn_decoder_reset(f.decoder, 1);
  qn_assert_ok(&f.diag, qn_kv_prefix_save(qn_decoder_prefixes(f.decoder), path, &f.diag));
  int64_t saved = stats_of(&f).pages;
  ck_assert_int_eq(saved, 6 + 2);
  qn_assert_ok(&f.diag, qn_kv_prefix_load(qn_decoder_prefixes(f.decoder), path, &pages, &f.diag));  // all there already
  ck_assert(pages == saved && stats_of(&f).pages == saved);
  tear_down(&f);
  set_up(&f, 2, 12, true);  // as if in another process
  qn_assert_ok(&f.diag, qn_kv_prefix_load(qn_decoder_prefixes(f.decoder), path, &pages, &f.diag));
  ck_assert(pages == saved && stats_of(&f).tokens == 90 + 28);
  balance(&f);
  ck_assert_int_eq(begin(&f, 0, a, 96), 90);
  ck_assert_int_eq(begin(&f, 1, b, 61), 60);
  tear_down(&f);
  set_up(&f, 1, 3, true);  // less room: the pages used last, each with those before it
  qn_assert_ok(&f.diag, qn_kv_prefix_load(qn_decoder_prefixes(f.decoder), path, &pages, &f.diag));
  ck_assert_int_eq(pages, 3);
  balance(&f);
  tear_down(&f);
}
END_TEST

static char *read_all(const char *path, size_t *out_size) {
  char *bytes = NULL;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_file_read(path, (size_t)1 << 20, qn_allocator_default(), &bytes, out_size, &diag));
  return bytes;
}

static void write_all(const char *path, const void *bytes, size_t size) {
  FILE *file = fopen(path, "wb");
  ck_assert(file && fwrite(bytes, 1, size, file) == size && fclose(file) == 0);
}

// As save would have it, with these bytes behind the header.
static void sign(char *bytes, size_t size) {
  qn_kv_prefix_header h;
  memcpy(&h, bytes, sizeof h);
  h.hash = 0;
  h.hash = qn_hash64(bytes + sizeof h, size - sizeof h, qn_hash64(&h, sizeof h, 0));
  memcpy(bytes, &h, sizeof h);
}

// The file of one sequence of 40 tokens; nothing is kept any more.
static char *save_forty(fixture *f, size_t *out_size) {
  int32_t a[MOST];
  const char *path = qn_test_temp_path("prefixes");
  set_up(f, 1, 6, true);
  qn_kv_prefix *p = qn_decoder_prefixes(f->decoder);
  make_tokens(a, MOST, 1);
  begin(f, 0, a, 40);
  qn_decoder_reset(f->decoder, 0);
  qn_assert_ok(&f->diag, qn_kv_prefix_save(p, path, &f->diag));
  qn_kv_prefix_clear(p);
  return read_all(path, out_size);
}

static void expect_refused(fixture *f, const char *bytes, size_t size, qn_status status, const char *text) {
  const char *bad = qn_test_temp_path("bad");
  int64_t pages;
  write_all(bad, bytes, size);
  f->diag = (qn_diag){0};
  qn_assert_fails(&f->diag, status, text, qn_kv_prefix_load(qn_decoder_prefixes(f->decoder), bad, &pages, &f->diag));
}

START_TEST(files_that_lie_are_refused) {
  size_t size;
  fixture f;
  char *bytes = save_forty(&f, &size);
  bytes[8] = 9;
  expect_refused(&f, bytes, size, QN_ERR_UNSUPPORTED, "got saved prefixes of version 9, want 1");
  bytes[8] = QN_KV_PREFIX_VERSION;
  bytes[offsetof(qn_kv_prefix_header, model)] ^= 1;
  expect_refused(&f, bytes, size, QN_ERR_UNSUPPORTED, "was saved with another model");
  bytes[offsetof(qn_kv_prefix_header, model)] ^= 1;
  // Well signed, but not a tree.
  int32_t *records = (int32_t *)(void *)(bytes + sizeof(qn_kv_prefix_header));
  const size_t pitch = 2 + KEYS;
  const struct {
    size_t at;
    int32_t value;
    const char *text;
  } lies[] = {{1, 0, "page 0 of the saved prefixes: its tokens are too many or none"},
              {1, KEYS + 1, "its tokens are too many or none"},
              {pitch, 1, "page 1 of the saved prefixes: it follows one that is not before it"},
              {pitch, -2, "it follows one that is not before it"},
              {pitch + 1, 3, "page 2 of the saved prefixes: it follows one that is not full"}};
  for (size_t i = 0; i < QN_COUNT(lies); i++) {
    int32_t before = records[lies[i].at];
    records[lies[i].at] = lies[i].value;
    sign(bytes, size);
    expect_refused(&f, bytes, size, QN_ERR_FORMAT, lies[i].text);
    records[lies[i].at] = before;
  }
  qn_free(qn_allocator_default(), bytes, size + 1);
  tear_down(&f);
}
END_TEST

START_TEST(wrong_files_are_refused) {
  size_t size;
  int64_t pages;
  fixture f;
  char *bytes = save_forty(&f, &size);
  const char *bad = qn_test_temp_path("bad");
  qn_kv_prefix *p = qn_decoder_prefixes(f.decoder);
  for (size_t at = 0; at < size; at++) {  // a flipped bit anywhere
    bytes[at] ^= 0x10;
    write_all(bad, bytes, size);
    f.diag = (qn_diag){0};
    qn_status status = qn_kv_prefix_load(p, bad, &pages, &f.diag);
    qn_check(status == QN_ERR_FORMAT || status == QN_ERR_UNSUPPORTED, "byte %zu: got %d", at, (int)status);
    qn_check(pages == 0 && stats_of(&f).pages == 0, "byte %zu: something was added", at);
    bytes[at] ^= 0x10;
  }
  for (size_t length = 1; length < size; length += qn_test_stride(1, 7) + 4) {
    write_all(bad, bytes, length);
    f.diag = (qn_diag){0};
    qn_assert_fails(&f.diag, QN_ERR_FORMAT, "", qn_kv_prefix_load(p, bad, &pages, &f.diag));
  }
  write_all(bad, "something else", 14);
  f.diag = (qn_diag){0};
  qn_assert_fails(&f.diag, QN_ERR_FORMAT, "does not begin with 'quernpf'", qn_kv_prefix_load(p, bad, &pages, &f.diag));
  f.diag = (qn_diag){0};
  qn_assert_fails(&f.diag, QN_ERR_IO, "none", qn_kv_prefix_load(p, qn_test_temp_path("none"), &pages, &f.diag));
  f.diag = (qn_diag){0};
  qn_assert_fails(&f.diag, QN_ERR_IO, "no/where", qn_kv_prefix_save(p, qn_test_temp_path("no/where"), &f.diag));
  sign(bytes, size);
  write_all(bad, bytes, size);
  qn_assert_ok(&f.diag, qn_kv_prefix_load(p, bad, &pages, &f.diag));
  ck_assert_int_eq(pages, 3);
  qn_free(qn_allocator_default(), bytes, size + 1);
  tear_down(&f);
}
END_TEST

static qn_status save_and_load(const qn_allocator *allocator, void *context) {
  fixture *f = context;
  qn_decoder *decoder = NULL;
  int32_t a[MOST];
  int64_t pages;
  qn_decoder_options options = {.context = CONTEXT, .prefixes = true, .executor = {.jit_entries = qn_fake_kernels}};
  QN_TRY(qn_decoder_create(&f->artifact, f->threads, &options, allocator, &decoder, NULL));
  make_tokens(a, MOST, 1);
  qn_status status = qn_decoder_eval(decoder, 0, a, 40, NULL, NULL, NULL);
  qn_decoder_reset(decoder, 0);
  const char *path = qn_test_temp_path("prefixes");
  if (status == QN_OK) status = qn_kv_prefix_save(qn_decoder_prefixes(decoder), path, NULL);
  if (status == QN_OK) status = qn_kv_prefix_load(qn_decoder_prefixes(decoder), path, &pages, NULL);
  qn_decoder_destroy(decoder);
  return status;
}

START_TEST(out_of_memory) {
  fixture f;
  set_up(&f, 1, 0, true);
  qn_test_failing_allocations(save_and_load, &f);
  tear_down(&f);
}
END_TEST

QN_CASE(tree, what_is_found, what_is_given_up, random_use, random_use_of_windows)
QN_CASE(files, saved_and_loaded, wrong_files_are_refused, files_that_lie_are_refused, out_of_memory)
QN_TEST_MAIN(tree, files)
