// Drives a fuzz target without an engine.
#include "tests/support/fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t random_state = 1;

void fuzz_require(bool condition, const char *what) {
  if (condition) return;
  fprintf(stderr, "fuzz: %s\n", what);
  abort();
}

static uint64_t random_below(uint64_t limit) {
  random_state ^= random_state >> 12;
  random_state ^= random_state << 25;
  random_state ^= random_state >> 27;
  return (random_state * 0x2545f4914f6cdd1du >> 16) % limit;
}

// Puts `length` bytes in place of `gone` at `at`; the buffer has room. Returns the new size.
static size_t replace(uint8_t *data, size_t size, size_t at, size_t gone, const void *with, size_t length) {
  memmove(data + at + length, data + at + gone, size - at - gone);
  if (length > 0) memcpy(data + at, with, length);
  return size - gone + length;
}

enum { GROWTH = 256, PIECE = 64, MOST_CHANGES = 4 };

// One change: a bit, a byte, a telling number, a word, a piece copied or lost, an end.
static size_t mutate(uint8_t *data, size_t size, const char *const *words, size_t word_count) {
  static const uint64_t telling[] = {0, 1, 127, 255, 65535, 0x7fffffff, 0x80000000, 0xffffffff, INT64_MAX, UINT64_MAX};
  uint8_t piece[PIECE];
  size_t at = random_below(size), from = random_below(size), length = 1 + random_below(PIECE / 4);
  if (length > size - from) length = size - from;
  memcpy(piece, data + from, length);
  size_t gone = length < size - at ? length : size - at;
  switch (random_below(word_count > 0 ? 8 : 7)) {
    case 0: data[at] ^= (uint8_t)(1u << random_below(8)); return size;
    case 1: data[at] = (uint8_t)random_below(256); return size;
    case 2: {
      size_t width = (size_t)1 << random_below(4);
      uint64_t value = telling[random_below(sizeof telling / sizeof *telling)];
      if (at + width <= size) memcpy(data + at, &value, width);
      return size;
    }
    case 3: return replace(data, size, at, 0, piece, length);
    case 4: return gone < size ? replace(data, size, at, gone, "", 0) : size;
    case 5: return replace(data, size, at, gone, piece, length);
    case 6: return random_below(8) == 0 ? at + 1 : size;
    default: {
      const char *word = words[random_below(word_count)];
      return replace(data, size, at, random_below(2) ? gone : 0, word, strlen(word));
    }
  }
}

typedef struct driver {
  const char *const *words;
  size_t word_count;
  long runs;
} driver;

static void drive(void *context, const void *seed, size_t size) {
  const driver *d = context;
  LLVMFuzzerTestOneInput(seed, size);
  for (long run = 0; run < d->runs && size > 0; run++) {
    uint8_t *data = malloc(size + GROWTH);
    fuzz_require(data != NULL, "out of memory");
    memcpy(data, seed, size);
    size_t cut = size;
    for (uint64_t i = 1 + random_below(MOST_CHANGES); i > 0; i--)
      cut = mutate(data, cut, d->words, d->word_count);
    uint8_t *exact = malloc(cut);  // so that a sanitizer sees a byte too many
    fuzz_require(exact != NULL, "out of memory");
    memcpy(exact, data, cut);
    free(data);
    LLVMFuzzerTestOneInput(exact, cut);
    free(exact);
  }
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

int fuzz_main(int argc, char **argv, const char *const *words, long runs) {
  driver d = {.words = words, .runs = runs};
  int first = 1;
  fuzz_write_seeds();
  while (words && words[d.word_count]) d.word_count++;
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
