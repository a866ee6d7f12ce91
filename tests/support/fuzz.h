// What fuzz targets share. A target defines LLVMFuzzerTestOneInput and fuzz_seeds, and ends with QN_FUZZ_MAIN or
// QN_FUZZ_MAIN_WITH. Built plainly it takes its seeds and the files that are named, as they are and mutated by a fixed
// random sequence: fuzz_NAME [-n RUNS] [-s SEED] [FILE...]; with libFuzzer (QN_LIBFUZZER) the engine drives it
// (tests/fuzz/long).
#ifndef QN_TEST_FUZZ_H
#define QN_TEST_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// Ends the process when the condition is false, as the sanitizers do: the engine keeps the input.
void fuzz_require(bool condition, const char *what);
// The same unless `view` and what follows it, `view_bytes` in all, lie inside the bytes of `data`.
void fuzz_require_inside(const void *data, size_t size, const void *view, uint64_t view_bytes, const char *what);
// The path of a file without a name that holds the input's bytes, for readers that take paths. `which` (0 to 3) tells
// several apart; each is written anew by the next call with its number. Static.
const char *fuzz_file(int which, const void *data, size_t size);
// Has a header fit again, at the begin of the input: `header_bytes` in all, the input's size at `size_at`, and at `hash_at`
// qn_hash64 of the header with hash 0, then of the rest with that as the seed; 64 bits each. Shorter inputs stay as they are.
void fuzz_repair_header(uint8_t *data, size_t size, size_t size_at, size_t hash_at, size_t header_bytes);
// Called with each seed.
typedef void (*fuzz_take_fn)(void *context, const void *data, size_t size);
void fuzz_seeds(fuzz_take_fn take, void *context);

// How inputs are made of seeds.
typedef struct fuzz_options {
  const char *const *words;  // put into the input; NULL ends them; NULL = none
  long runs;                 // mutations of each seed without -n
  // The input is JSON: most changes put one of its own tokens, or one of the words, in place of another, so that it
  // stays well formed.
  bool json;
  bool sparse;  // most of the input is zeros that nothing reads: most changes are made elsewhere
  // Has checksums and sizes fit again; done after most mutations, so that what lies behind such checks is met.
  void (*repair)(uint8_t *data, size_t size);
} fuzz_options;

int fuzz_main(int argc, char **argv, const fuzz_options *options);
// Writes the seeds as files into the folder that $QUERN_FUZZ_SEEDS names, and ends the process; without it, nothing.
void fuzz_write_seeds(void);
// One mutation for libFuzzer, by its own or ours; returns the new size, at most `most`.
size_t fuzz_mutate(const fuzz_options *options, size_t (*engine)(uint8_t *data, size_t size, size_t most), uint8_t *data,
                   size_t size, size_t most, unsigned seed);

#ifdef QN_LIBFUZZER
#define QN_FUZZ_MAIN_WITH(...)                                                                           \
  static const fuzz_options own_options = {__VA_ARGS__};                                                 \
  int LLVMFuzzerInitialize(int *argc, char ***argv);                                                     \
  int LLVMFuzzerInitialize(int *argc, char ***argv) {                                                    \
    (void)argc, (void)argv;                                                                              \
    fuzz_write_seeds();                                                                                  \
    return 0;                                                                                            \
  }                                                                                                      \
  size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most);                                      \
  size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed);                \
  size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed) {               \
    return fuzz_mutate(&own_options, LLVMFuzzerMutate, data, size, most, seed);                          \
  }
#else
#define QN_FUZZ_MAIN_WITH(...)                           \
  int main(int argc, char **argv) {                      \
    static const fuzz_options own_options = {__VA_ARGS__}; \
    return fuzz_main(argc, argv, &own_options);          \
  }
#endif
#define QN_FUZZ_MAIN(put_words, how_many) QN_FUZZ_MAIN_WITH(.words = put_words, .runs = how_many)

#endif
