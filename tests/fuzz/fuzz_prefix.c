// Fuzzes files of kept prefixes: any bytes are refused with words, and nothing is added, or their pages are there and
// are saved as such again.
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/file.h"
#include "runtime/kv_prefix.h"
#include "tests/support/fake_model.h"
#include "tests/support/fuzz.h"

enum { CONTEXT = 100, PAGES = 12, KEYS = QN_FAKE_PAGE_KEYS, MOST_BYTES = 1 << 16 };

static struct {
  qn_artifact artifact;
  qn_kv_cache *cache;
  qn_kv_prefix *prefix;
  int32_t sequence;
} setup;

// A sequence of these tokens, whose pages hold nothing of interest.
static void keep(const int32_t *tokens, int64_t count, bool part) {
  qn_diag diag = {0};
  qn_status status = qn_kv_cache_reserve(setup.cache, setup.sequence, count, &diag);
  fuzz_require(status == QN_OK, diag.text);
  qn_kv_cache_advance(setup.cache, setup.sequence, count);
  qn_kv_prefix_keep(setup.prefix, setup.sequence, tokens, count, part);
  qn_kv_cache_truncate(setup.cache, setup.sequence, 0);
}

static void make_setup(void) {
  qn_diag diag = {0};
  if (setup.cache) return;
  setup.artifact = qn_fake_model_open(NULL);
  qn_kv_options options = {.sequences = 1, .context = CONTEXT, .pages = PAGES};
  qn_status status = qn_kv_cache_create(&setup.artifact, &options, qn_allocator_default(), &setup.cache, &diag);
  if (status == QN_OK) status = qn_kv_cache_add(setup.cache, &setup.sequence, &diag);
  if (status == QN_OK) status = qn_kv_prefix_create(setup.cache, &setup.prefix, &diag);
  fuzz_require(status == QN_OK, diag.text);
}

static qn_kv_prefix_stats stats(void) {
  qn_kv_prefix_stats now;
  qn_kv_prefix_get_stats(setup.prefix, &now);
  return now;
}

static void save(char **out_data, size_t *out_size) {
  qn_diag diag = {0};
  char folder[] = "/tmp/fuzz-prefix-XXXXXX", path[64];
  fuzz_require(mkdtemp(folder) != NULL, "no folder");
  snprintf(path, sizeof path, "%s/kept", folder);
  qn_status status = qn_kv_prefix_save(setup.prefix, path, &diag);
  if (status == QN_OK) status = qn_file_read(path, MOST_BYTES, qn_allocator_default(), out_data, out_size, &diag);
  fuzz_require(status == QN_OK, diag.text);
  unlink(path);
  rmdir(folder);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  int64_t pages = -1;
  qn_diag diag = {0};
  make_setup();
  const char *path = fuzz_file(0, data, size);
  qn_status status = qn_kv_prefix_load(setup.prefix, path, &pages, &diag);
  if (status == QN_OK) {
    fuzz_require(pages >= 0 && stats().pages <= PAGES, "more pages than there are");
    int64_t before = stats().pages, again = -1;
    status = qn_kv_prefix_load(setup.prefix, path, &again, &diag);
    fuzz_require(status == QN_OK && stats().pages == before && again == pages,
                 "a file that is there already adds pages");
  } else {
    fuzz_require(status == QN_ERR_FORMAT || status == QN_ERR_UNSUPPORTED || status == QN_ERR_IO, "an odd status");
    fuzz_require(diag.status == status && diag.text[0] != '\0', "an error without words");
    fuzz_require(stats().pages == 0, "a file that was refused has added pages");
  }
  diag = (qn_diag){0};
  status = qn_kv_prefix_check(setup.prefix, &diag);
  fuzz_require(status == QN_OK, diag.text);
  qn_kv_prefix_clear(setup.prefix);
  fuzz_require(qn_kv_cache_free_pages(setup.cache) == PAGES && stats().pages == 0, "pages are lost");
  return 0;
}

void fuzz_seeds(fuzz_take_fn take, void *context) {
  int32_t tokens[CONTEXT];
  char *data = NULL;
  size_t size = 0;
  make_setup();
  for (int round = 0; round < 3; round++) {
    for (int i = 0; i < CONTEXT; i++) tokens[i] = i < KEYS ? i : i * (round + 2) % QN_FAKE_VOCAB;
    keep(tokens, KEYS * (round + 1), false);
    keep(tokens, KEYS * (round + 1) + 5, true);
    save(&data, &size);
    take(context, data, size);
    qn_free(qn_allocator_default(), data, size + 1);
  }
  qn_kv_prefix_clear(setup.prefix);
}

static void repair(uint8_t *data, size_t size) {
  fuzz_repair_header(data, size, offsetof(qn_kv_prefix_header, size), offsetof(qn_kv_prefix_header, hash), sizeof(qn_kv_prefix_header));
}

QN_FUZZ_MAIN_WITH(.runs = 10000, .repair = repair)
