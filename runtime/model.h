// An open model: what is behind quern_model. The compiler's side (frontend/quern.c) opens one here that was never
// written to a file, with code from its JIT.
#ifndef QN_RUNTIME_MODEL_H
#define QN_RUNTIME_MODEL_H

#include <stdatomic.h>

#include "runtime/base/sampler_defaults.h"
#include "runtime/decode.h"
#include "runtime/quern_run.h"
#include "runtime/speculate.h"
#include "runtime/tokenizer.h"

// Code that is in this process already.
typedef struct qn_model_jit {
  const qn_kernel_entry *entries;  // one a variant of plan 0, borrowed until the owner is destroyed
  size_t entry_count;
  const char *target;                  // its name, copied
  void *owner;                         // whatever keeps the entries alive
  void (*destroy_owner)(void *owner);  // called when the model is closed or cannot be opened; may be NULL
} qn_model_jit;

struct quern_model {
  qn_allocator allocator;   // what the model and its sessions are made of
  qn_artifact file;         // owned
  qn_artifact artifact;     // a view of it: the program that runs here
  char *path;               // owned
  qn_tokenizer *tokenizer;  // owned; NULL = none
  qn_str summary;           // in the artifact
  qn_str chat;              // in the artifact: its CHAT section, checked
  qn_sampler_defaults sampling;  // what the summary says
  qn_model_jit jit;         // entries NULL: the artifact's own code
  qn_cuda *cuda;            // owned: the GPU that it runs on; NULL = the CPU
  char target[128];         // what runs here
};

struct quern_session {
  quern_model *model;   // borrowed
  qn_threads *threads;  // owned; NULL on a GPU
  qn_decoder *decoder;  // owned
  size_t step_rows;     // wanted items of the last step
  int decode_threads;
  _Atomic bool cancelled;  // asked for, and not yet used up
};

// What a session's guesses are made with beside its texts. For one thread at a time.
typedef struct qn_guessing {
  quern_session *session;  // borrowed
  qn_decoder *draft;       // owned; NULL where no draft model guesses
  int32_t ends;            // of the draft's trees: 0 = it makes chains
  qn_heads *heads;         // owned; NULL where no Medusa heads guess
  double draft_cost;       // of a step of it, in steps of the model
  qn_ngrams *ngrams;       // owned; NULL until lookahead needs them
} qn_guessing;
enum { QN_TECHNIQUES = QUERN_SPECULATE_LOOKAHEAD + 1 };

struct quern_speculator {
  qn_guessing guessing;
  qn_speculator *speculator;  // owned
};

QN_CHECKED qn_status qn_model_open(const char *path, const quern_model_options *options, quern_model **out,
                                   qn_diag *diag);
// Takes over the mapping and the JIT's owner in every case. `name` is for messages, copied. `jit` NULL: the artifact's
// own code. `allocator` is copied.
QN_CHECKED qn_status qn_model_open_mapping(qn_mapping mapping, const char *name, const qn_model_jit *jit,
                                           const qn_allocator *allocator, quern_model **out, qn_diag *diag);
void qn_model_close(quern_model *model);  // NULL is harmless
// Threads for a session or a runner on the CPU, as their options say. Errors: ARGUMENT, LIMIT, NOMEM.
QN_CHECKED qn_status qn_model_threads(const quern_model *model, int threads, bool no_pin, int64_t spin_us, int grain,
                                      qn_threads **out, qn_diag *diag);
// Ends a public function: *error (may be NULL) becomes what the diagnosis says.
quern_status qn_model_finish(qn_status status, const qn_diag *diag, quern_error *error);
// What a caller's sampler options (NULL = the model's, else the usual ones) are inside. ARGUMENT for a struct of another
// library's.
QN_CHECKED qn_status qn_model_sampler_options(const quern_model *model, const quern_sampler_options *options,
                                              qn_sampler_options *out, qn_diag *diag);
// Models pad their vocabulary: only ids that have a text are sampled.
int32_t qn_session_sampled_vocab(const quern_session *session);
// A draft model for so many texts at once, which makes trees where it was compiled for that many sequences and the session's
// model can verify them. Errors: ARGUMENT (another vocabulary, another device), and those of qn_decoder_create.
QN_CHECKED qn_status qn_guessing_open_draft(qn_guessing *guessing, quern_model *draft, int32_t texts, qn_diag *diag);
// Medusa heads, for any number of texts. Errors: UNSUPPORTED (the session's model gives no hidden states), ARGUMENT (another
// device, and as qn_heads_create), NOMEM.
QN_CHECKED qn_status qn_guessing_open_heads(qn_guessing *guessing, quern_model *heads, qn_diag *diag);
// ARGUMENT where it is none.
QN_CHECKED qn_status qn_technique_check(quern_technique technique, qn_diag *diag);
// What guesses by a technique, for one text at a time of the `row`-th of those that may be there at once. `judged`: its
// guesses will be (qn_speculate_options). ARGUMENT (no draft model, or no heads were opened), NOMEM.
QN_CHECKED qn_status qn_guessing_create(qn_guessing *guessing, quern_technique technique, int32_t row, bool judged,
                                        qn_proposer **out, qn_diag *diag);
// qn_speculate_options.make_cost of the technique.
double qn_guessing_cost(const qn_guessing *guessing, quern_technique technique);
void qn_guessing_deinit(qn_guessing *guessing);
// False when the summary has no such key.
bool qn_model_summary_value(const quern_model *model, const char *key, qn_str *out);

#endif
