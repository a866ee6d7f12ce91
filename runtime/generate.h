// The decoding loop: evaluate the prompt, then sample, hand out text, evaluate, until something says stop.
#ifndef QN_RUNTIME_GENERATE_H
#define QN_RUNTIME_GENERATE_H

#include "runtime/decode.h"
#include "runtime/sampler.h"
#include "runtime/speculate.h"
#include "runtime/tokenizer.h"

typedef enum qn_stop_reason {
  QN_STOP_EOG,         // the model ended its text
  QN_STOP_STRING,      // a stop string appeared
  QN_STOP_MAX_TOKENS,  // as many tokens as asked for
  QN_STOP_CONTEXT,     // the sequence's context is full
  QN_STOP_CANCELLED,   // `callback` or `cancelled` said so
  QN_STOP_COUNT
} qn_stop_reason;
const char *qn_stop_reason_name(qn_stop_reason reason);  // "eog", "string", "max_tokens", "context", "cancelled"

// Takes text as it becomes certain: called once for each token with the text that it made certain (maybe none: an
// unfinished character, or what may yet become a stop string), and with id -1 for text left at the end. `text` is
// borrowed for the time of the call. Returning false cancels.
typedef bool (*qn_generate_callback)(void *context, qn_str text, int32_t id);
// Shall it end? Asked before each chunk of the prompt and before each token that is evaluated, on the calling thread.
typedef bool (*qn_generate_cancelled)(void *context);

typedef struct qn_generate_params {
  int32_t sequence;
  const int32_t *prompt;  // borrowed; appended to what the sequence holds, or, of a model with an encoder, the source of a
                          // new text
  size_t prompt_count;    // at least 1
  size_t held;            // of the prompt, the first so many (not all) are the sequence's last tokens already
  int64_t max_tokens;     // 0 = until the context is full
  const qn_str *stops;    // borrowed; none empty. A stop string is matched across tokens and not handed out
  size_t stop_count;
  bool ignore_eog;                // go on after tokens that end a text
  bool show_special;              // hand out control tokens as their text
  qn_generate_callback callback;  // may be NULL
  void *callback_context;
  qn_generate_cancelled cancelled;  // may be NULL: never; takes callback_context. Cancelled within the prompt, the
                                    // sequence is as it was before
  qn_speculator *speculator;  // borrowed; NULL = one token a step. It knows of the sequence what passed through here
} qn_generate_params;

typedef struct qn_generate_stats {
  int64_t prompt_tokens, generated_tokens;  // generated: sampled, one that ended the text included
  int64_t held_tokens;                      // of the prompt: those that were not evaluated since the sequence had them
  uint64_t prefill_ns;                      // evaluating the prompt
  uint64_t first_ns;                        // from the start until the first token was sampled (TTFT)
  uint64_t decode_ns;                       // from then on until the end
  int64_t decode_steps;                     // tokens evaluated in that time, guesses that did not come true left out
  int64_t passes;                           // the steps that these were evaluated in
  int64_t proposed, accepted;               // guesses verified, and those of them that came true
  qn_stop_reason reason;
  size_t stop_index;  // of the stop string, for QN_STOP_STRING
  int32_t pending;    // the last token sampled, which is not in the sequence yet; to go on, put it before the next
                      // prompt; -1 = none
} qn_generate_stats;

// `tokenizer` may be NULL: then there is no text, no end of text and there must be no stop strings. The sampler is for
// at most the decoder's vocabulary; the prompt is accepted into it. *out_stats is filled in as far as it came, also
// after an error. Errors: those of qn_decoder_eval; ARGUMENT; FORMAT (logits that are no numbers); NOMEM.
QN_CHECKED qn_status qn_generate(qn_decoder *decoder, const qn_tokenizer *tokenizer, qn_sampler *sampler,
                                 const qn_generate_params *params, const qn_allocator *allocator,
                                 qn_generate_stats *out_stats, qn_diag *diag);

// --- stop strings

// Text that passes through and is held back as long as it may be the beginning of a stop string.
typedef struct qn_stop_filter {
  const qn_allocator *allocator;  // borrowed
  const qn_str *stops;            // borrowed
  size_t stop_count;
  char *buffer;  // owned
  size_t capacity, length;
  size_t given;  // bytes at the front that the last call handed out
} qn_stop_filter;

// `most`: the largest text of one push. ARGUMENT for an empty stop string, NOMEM. Pushing allocates nothing.
QN_CHECKED qn_status qn_stop_filter_init(qn_stop_filter *filter, const qn_str *stops, size_t stop_count, size_t most,
                                         const qn_allocator *allocator, qn_diag *diag);
void qn_stop_filter_deinit(qn_stop_filter *filter);
// Takes text; *out_text is what can be handed out now, borrowed until the next call. True when a stop string has
// appeared (the one that begins first; of those the first in the list): *out_text is what was before it.
bool qn_stop_filter_push(qn_stop_filter *filter, qn_str text, qn_str *out_text, size_t *out_stop);
// What is still held back, at the end.
qn_str qn_stop_filter_flush(qn_stop_filter *filter);

#endif
