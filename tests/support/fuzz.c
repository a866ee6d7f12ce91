// Makes inputs of seeds, and drives a fuzz target without an engine.
#include "tests/support/fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/base/hash.h"
#include "runtime/base/status.h"

// --- what targets ask

void fuzz_require(bool condition, const char *what) {
  if (condition) return;
  fprintf(stderr, "fuzz: %s\n", what);
  abort();
}

void fuzz_require_inside(const void *data, size_t size, const void *view, uint64_t view_bytes, const char *what) {
  uint64_t begin = (uint64_t)((uintptr_t)view - (uintptr_t)data);
  fuzz_require(begin <= size && view_bytes <= size - begin, what);
}

const char *fuzz_file(int which, const void *data, size_t size) {
  static char paths[4][32];
  static int files[4];  // 0 = not made; descriptor 0 is taken
  fuzz_require(which >= 0 && which < (int)QN_COUNT(files), "a number of a file");
  int *file = &files[which];
  if (*file == 0) {
    *file = memfd_create("fuzz", MFD_CLOEXEC);
    fuzz_require(*file > 0, "no file in memory");
    snprintf(paths[which], sizeof paths[which], "/proc/self/fd/%d", *file);
  }
  fuzz_require(ftruncate(*file, 0) == 0 && pwrite(*file, data, size, 0) == (ssize_t)size, "a file is not written");
  return paths[which];
}

void fuzz_repair_header(uint8_t *data, size_t size, size_t size_at, size_t hash_at, size_t header_bytes) {
  uint64_t all = size, hash = 0;
  if (size < header_bytes) return;
  memcpy(data + size_at, &all, sizeof all);
  memcpy(data + hash_at, &hash, sizeof hash);
  hash = qn_hash64(data + header_bytes, size - header_bytes, qn_hash64(data, header_bytes, 0));
  memcpy(data + hash_at, &hash, sizeof hash);
}

// --- changes

static uint64_t random_state = 1;

static uint64_t random_below(uint64_t limit) {
  random_state ^= random_state >> 12;
  random_state ^= random_state << 25;
  random_state ^= random_state >> 27;
  return (random_state * 0x2545f4914f6cdd1du >> 16) % limit;
}

enum { GROWTH = 1024, PIECE = 64, MOST_TOKEN = 128, MOST_CHANGES = 4 };  // GROWTH: room for all changes of an input

// Puts `length` bytes in place of `gone` at `at`; the buffer has room. Returns the new size.
static size_t replace(uint8_t *data, size_t size, size_t at, size_t gone, const void *with, size_t length) {
  memmove(data + at + length, data + at + gone, size - at - gone);
  if (length > 0) memcpy(data + at, with, length);
  return size - gone + length;
}

static size_t count_words(const fuzz_options *o) {
  size_t count = 0;
  while (o->words && o->words[count]) count++;
  return count;
}

static size_t put_word(const fuzz_options *o, size_t words, uint8_t *data, size_t size, size_t at, size_t gone) {
  const char *word = o->words[random_below(words)];
  fuzz_require(strlen(word) <= MOST_TOKEN, "a word is too long");
  return replace(data, size, at, random_below(2) ? gone : 0, word, strlen(word));
}

// Numbers that bounds are forgotten for, in as many bytes as they are of or fewer.
static void put_number(uint8_t *data, size_t size, size_t at) {
  static const uint64_t telling[] = {0,          1,          3,           32,        63,        64,        127,
                                     255,        4095,       4096,        65535,     INT32_MAX, 1ull << 31, UINT32_MAX,
                                     1ull << 32, 1ull << 61, 1ull << 63,  INT64_MAX, UINT64_MAX, (uint64_t)-32};
  uint64_t value = random_below(2) ? telling[random_below(QN_COUNT(telling))] : random_below(16);
  size_t width = random_below(4) ? (size_t)1 << random_below(4) : 1 + random_below(8);
  if (random_below(2)) at -= at % width;
  for (size_t i = 0; i < width && at + i < size; i++) data[at + i] = (uint8_t)(value >> (8 * i));
}

static size_t pick_place(const fuzz_options *o, const uint8_t *data, size_t size) {
  size_t at = random_below(size);
  for (int tries = 0; o->sparse && tries < 64 && data[at] == 0 && random_below(4) != 0; tries++) at = random_below(size);
  return at;
}

// One change: a bit, a byte, a telling number, a piece copied, put elsewhere or lost, an end, a word.
static size_t change_bytes(const fuzz_options *o, uint8_t *data, size_t size) {
  uint8_t piece[PIECE];
  size_t words = count_words(o);
  size_t at = pick_place(o, data, size), from = random_below(size), length = 1 + random_below(PIECE / 2);
  if (length > size - from) length = size - from;
  memcpy(piece, data + from, length);
  size_t gone = length < size - at ? length : size - at;
  switch (random_below(words > 0 ? 10 : 9)) {
    case 0: data[at] ^= (uint8_t)(1u << random_below(8)); return size;
    case 1: data[at] = (uint8_t)random_below(256); return size;
    case 2: data[at] = (uint8_t)(random_below(2) ? random_below(16) : 32 + random_below(95)); return size;
    case 3:
    case 4: put_number(data, size, at); return size;
    case 5: return o->sparse ? replace(data, size, at, gone, piece, gone) : replace(data, size, at, 0, piece, length);
    case 6: return gone < size && !o->sparse ? replace(data, size, at, gone, "", 0) : size;
    case 7: return replace(data, size, at, gone, piece, gone);
    case 8: return random_below(8) == 0 ? at + 1 : size;
    default: return put_word(o, words, data, size, at, gone);
  }
}

// The end of the text, number or word of JSON that begins at `at`; `at` itself where none does.
static size_t token_end(const uint8_t *text, size_t size, size_t at) {
  size_t end = at;
  if (text[at] == '"') {
    for (end++; end < size && text[end] != '"'; end++) end += text[end] == '\\';
    return end < size ? end + 1 : at;
  }
  while (end < size && text[end] != '\0' && strchr("+-.0123456789eEaflnrstu", text[end]) != NULL) end++;
  return end;
}

// A token at random, which the JSON stays well-formed without; false when there is none.
static bool pick_token(const uint8_t *text, size_t size, size_t *out_at, size_t *out_end) {
  uint64_t seen = 0;
  for (size_t at = 0; at < size;) {
    size_t end = token_end(text, size, at);
    if (end > at && random_below(++seen) == 0) {
      *out_at = at;
      *out_end = end;
    }
    at = end > at ? end : at + 1;
  }
  return seen > 0;
}

// A token becomes another of the text, or a word.
static size_t change_token(const fuzz_options *o, uint8_t *text, size_t size) {
  size_t at = 0, end = 0, from = 0, from_end = 0, words = count_words(o);
  uint8_t other[MOST_TOKEN];
  if (!pick_token(text, size, &at, &end)) return size;
  if ((words == 0 || random_below(2) != 0) && pick_token(text, size, &from, &from_end) && from_end - from <= MOST_TOKEN) {
    memcpy(other, text + from, from_end - from);
    return replace(text, size, at, end - at, other, from_end - from);
  }
  if (words == 0) return size;
  const char *word = o->words[random_below(words)];
  return replace(text, size, at, end - at, word, strlen(word));
}

// Changes some places; the buffer has GROWTH bytes of room. Returns the new size.
static size_t change(const fuzz_options *o, uint8_t *data, size_t size) {
  for (uint64_t i = 1 + random_below(MOST_CHANGES); i > 0; i--)
    size = o->json && random_below(8) != 0 ? change_token(o, data, size) : change_bytes(o, data, size);
  return size;
}

size_t fuzz_mutate(const fuzz_options *options, size_t (*engine)(uint8_t *data, size_t size, size_t most), uint8_t *data,
                   size_t size, size_t most, unsigned seed) {
  random_state = ((uint64_t)seed << 20) | 1;
  for (int i = 0; i < 4; i++) random_below(2);  // seeds are alike
  bool ours = options->json && size > 0 && most >= GROWTH && size <= most - GROWTH && random_below(2);
  size = ours ? change(options, data, size) : engine(data, size, most);
  if (options->repair && random_below(8) != 0) options->repair(data, size);
  return size;
}

// --- without an engine

typedef struct driver {
  const fuzz_options *options;
  long runs;
} driver;

// In memory of just that size, so that a sanitizer sees a byte too many.
static void try_input(const uint8_t *data, size_t size) {
  uint8_t *exact = malloc(size);
  fuzz_require(exact != NULL || size == 0, "out of memory");
  if (size > 0) memcpy(exact, data, size);
  LLVMFuzzerTestOneInput(exact, size);
  free(exact);
}

static void drive(void *context, const void *seed, size_t size) {
  const driver *d = context;
  const fuzz_options *o = d->options;
  uint8_t *data = malloc(size + GROWTH);
  fuzz_require(data != NULL, "out of memory");
  try_input(seed, size);
  for (long run = 0; run < d->runs && size > 0; run++) {
    memcpy(data, seed, size);
    size_t cut = change(o, data, size);
    if (o->repair && random_below(8) != 0) o->repair(data, cut);
    try_input(data, cut);
  }
  free(data);
}

static void drive_file(driver *d, const char *path) {
  enum { MOST = 1 << 20 };
  FILE *file = fopen(path, "rb");
  uint8_t *data = malloc(MOST);
  fuzz_require(file != NULL && data != NULL, "a file that was named cannot be read");
  size_t size = fread(data, 1, MOST, file);
  fclose(file);
  drive(d, data, size);
  free(data);
}

int fuzz_main(int argc, char **argv, const fuzz_options *options) {
  driver d = {.options = options, .runs = options->runs};
  int first = 1;
  fuzz_write_seeds();
  for (; first + 1 < argc && argv[first][0] == '-'; first += 2) {
    if (strcmp(argv[first], "-n") == 0) d.runs = strtol(argv[first + 1], NULL, 10);
    if (strcmp(argv[first], "-s") == 0) random_state = strtoull(argv[first + 1], NULL, 10) | 1;
  }
  fuzz_seeds(drive, &d);
  d.runs /= 100;
  for (int i = first; i < argc; i++) drive_file(&d, argv[i]);
  printf("%s: ok\n", argv[0]);
  return 0;
}

typedef struct folder {
  const char *path;
  int count;
} folder;

static void write_seed(void *context, const void *data, size_t size) {
  folder *to = context;
  char path[4096];
  snprintf(path, sizeof path, "%s/seed-%d", to->path, to->count++);
  FILE *file = fopen(path, "wb");
  fuzz_require(file != NULL && fwrite(data, 1, size, file) == size && fclose(file) == 0, "a seed cannot be written");
}

void fuzz_write_seeds(void) {
  folder to = {.path = getenv("QUERN_FUZZ_SEEDS")};
  if (!to.path) return;
  fuzz_seeds(write_seed, &to);
  exit(0);
}
