// Opening what `quern run` is given: an artifact as it is, a model file by way of the cache, a private file or the JIT.
#ifndef QUERN_CLI_RUN_OPEN_H
#define QUERN_CLI_RUN_OPEN_H

#include "frontend/cli/device.h"
#include "frontend/quern.h"

typedef struct run_source {
  const char *path;                                                // borrowed
  const char *target, *numeric, *quant, *kv_type, *kv_evict, *template_path;  // borrowed; NULL = default
  const char *tuning_db;                                           // quern_compile_options.tuning_db
  uint32_t context;                                                // to compile for; 0 = the model's own
  int threads;                                                     // to compile with; 0 = one a core
  int run_threads;                                                 // to run with; 0 = one a core
  uint32_t sequences;                                              // to compile for; 0 = 1
  const char *huge_pages;                                          // a word of RUN_HUGE_PAGES; NULL = madvise
  cli_device device;                                               // where the model is to run
  const char *signed_by;                                           // quern_model_options.signed_by
  bool guesses;                                                    // quern_compile_options.guesses
  bool all_logits;                                                 // quern_compile_options.all_logits
  bool encoder;                                                    // one is wanted; else a model that makes logits
  bool any_kind;                                                   // both will do
  bool jit, no_cache, quiet;
  // Where to put the artifact's path, to be freed: NULL of one that nobody else can open. May be NULL.
  char **out_artifact;
} run_source;

#define RUN_HUGE_PAGES "madvise|off|thp|hugetlb"  // in the order of quern_huge_pages
#define RUN_HUGE_PAGES_HELP                                                                                       \
  "read the weights from huge pages: the file's own where its file system has such (madvise), not at all (off), " \
  "or a copy on transparent ones (thp) or on those reserved in /proc/sys/vm/nr_hugepages (hugetlb)"

// 0 and *out_model (close it with quern_model_close), or an exit code after a message on stderr: also for an encoder where
// none is wanted, and the other way round.
int run_open(const run_source *source, quern_model **out_model);

#endif
