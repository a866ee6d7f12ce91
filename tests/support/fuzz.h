// What fuzz targets share. A target defines LLVMFuzzerTestOneInput and fuzz_seeds, and ends with QN_FUZZ_MAIN. Built
// plainly it takes its seeds and the files that are named, as they are and mutated by a fixed random sequence:
// fuzz_NAME [-n RUNS] [-s SEED] [FILE...]; with libFuzzer (QN_LIBFUZZER) the engine drives it (tests/fuzz/long).
#ifndef QN_TEST_FUZZ_H
#define QN_TEST_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// Ends the process when the condition is false, as the sanitizers do: the engine keeps the input.
void fuzz_require(bool condition, const char *what);
// Called with each seed.
typedef void (*fuzz_take_fn)(void *context, const void *data, size_t size);
void fuzz_seeds(fuzz_take_fn take, void *context);

// `words` are put into the input by mutation; NULL ends them. `runs`: mutations of each seed without -n.
int fuzz_main(int argc, char **argv, const char *const *words, long runs);
// Writes the seeds as files into the folder that $QUERN_FUZZ_SEEDS names, and ends the process; without it, nothing.
void fuzz_write_seeds(void);

#ifdef QN_LIBFUZZER
#define QN_FUZZ_MAIN(words, runs)                        \
  int LLVMFuzzerInitialize(int *argc, char ***argv);     \
  int LLVMFuzzerInitialize(int *argc, char ***argv) {    \
    (void)argc, (void)argv, (void)(words), (void)(runs); \
    fuzz_write_seeds();                                  \
    return 0;                                            \
  }
#else
#define QN_FUZZ_MAIN(words, runs) \
  int main(int argc, char **argv) { return fuzz_main(argc, argv, words, runs); }
#endif

#endif
