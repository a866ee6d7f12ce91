// Fuzzes saved states of sequences: any bytes are refused with words, and the sequence is as it was, or become what the
// sequence holds and are saved as such again.
#include <stdlib.h>
#include <string.h>

#include "runtime/kv_state.h"
#include "tests/support/fake_model.h"
#include "tests/support/fuzz.h"

enum { CONTEXT = 100, TOKENS = 20, MOST_BYTES = 8192 };

static struct {
  qn_artifact artifact;
  qn_kv_cache *cache;
  int32_t sequence, other;
  uint8_t saved[MOST_BYTES], others[MOST_BYTES];
  size_t saved_size, others_size;
} setup;

static void save(int32_t sequence, uint8_t *data, size_t *out_size) {
  qn_diag diag = {0};
  qn_status status = qn_kv_state_save(setup.cache, sequence, data, MOST_BYTES, out_size, &diag);
  fuzz_require(status == QN_OK, diag.text);
}

static qn_status put_numbers(void *context, const qn_art_buffer *buffer, uint8_t *page, int64_t keys) {
  uint8_t *next = context;
  (void)keys;
  for (uint64_t i = 0; i < buffer->bytes; i++) page[i] = (*next)++;
  return QN_OK;
}

static int32_t add_sequence(int64_t tokens) {
  int32_t sequence;
  uint8_t next = 1, page[QN_FAKE_PAGE_KEYS * 8];
  qn_diag diag = {0};
  qn_status status = qn_kv_cache_add(setup.cache, &sequence, &diag);
  if (status == QN_OK) status = qn_kv_cache_reserve(setup.cache, sequence, tokens, &diag);
  if (status == QN_OK) qn_kv_cache_advance(setup.cache, sequence, tokens);
  if (status == QN_OK) status = qn_kv_cache_visit(setup.cache, sequence, true, page, put_numbers, &next, &diag);
  fuzz_require(status == QN_OK && qn_kv_cache_largest_page(setup.cache) <= sizeof page, diag.text);
  return sequence;
}

static void make_setup(void) {
  qn_diag diag = {0};
  if (setup.cache) return;
  setup.artifact = qn_fake_model_open(NULL);
  qn_kv_options options = {.sequences = 2, .context = CONTEXT, .pages = 9};
  qn_status status = qn_kv_cache_create(&setup.artifact, &options, qn_allocator_default(), &setup.cache, &diag);
  fuzz_require(status == QN_OK, diag.text);
  setup.other = add_sequence(TOKENS);
  setup.sequence = add_sequence(TOKENS + 5);
  save(setup.sequence, setup.saved, &setup.saved_size);
  save(setup.other, setup.others, &setup.others_size);
}

// What the sequence holds now is what was saved of it: of this many tokens, and the same once more.
static void check_restored(size_t size) {
  uint8_t first[MOST_BYTES], second[MOST_BYTES];
  size_t first_size = 0, second_size = 0;
  qn_diag diag = {0};
  save(setup.sequence, first, &first_size);
  fuzz_require(first_size == size, "a state that was taken is of another size");
  qn_status status = qn_kv_state_restore(setup.cache, setup.sequence, first, first_size, "again", &diag);
  fuzz_require(status == QN_OK, diag.text);
  save(setup.sequence, second, &second_size);
  fuzz_require(first_size == second_size && memcmp(first, second, first_size) == 0, "a state reads back as another");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  uint8_t now[MOST_BYTES];
  size_t now_size = 0;
  qn_diag diag = {0};
  make_setup();
  qn_status status = qn_kv_state_restore(setup.cache, setup.sequence, data, size, "fuzz.kv", &diag);
  if (status == QN_OK) {
    check_restored(size);
    status = qn_kv_state_restore(setup.cache, setup.sequence, setup.saved, setup.saved_size, "fuzz.kv", &diag);
    fuzz_require(status == QN_OK, diag.text);
  } else {
    fuzz_require(status == QN_ERR_FORMAT || status == QN_ERR_UNSUPPORTED || status == QN_ERR_LIMIT, "an odd status");
    fuzz_require(diag.status == status && diag.text[0] != '\0', "an error without words");
  }
  save(setup.sequence, now, &now_size);
  fuzz_require(now_size == setup.saved_size && memcmp(now, setup.saved, now_size) == 0, "the sequence has changed");
  save(setup.other, now, &now_size);
  fuzz_require(now_size == setup.others_size && memcmp(now, setup.others, now_size) == 0, "another one has changed");
  return 0;
}

void fuzz_seeds(fuzz_take_fn take, void *context) {
  make_setup();
  take(context, setup.saved, setup.saved_size);
  take(context, setup.others, setup.others_size);
}

static void repair(uint8_t *data, size_t size) {
  fuzz_repair_header(data, size, offsetof(qn_kv_state_header, size), offsetof(qn_kv_state_header, hash), sizeof(qn_kv_state_header));
}

QN_FUZZ_MAIN_WITH(.runs = 30000, .repair = repair)
