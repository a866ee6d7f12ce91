// The text of a sequence as it becomes certain: tokens through the detokeniser and the filter of stop strings. What the
// decoding loop and the scheduler have in common.
#ifndef QN_RUNTIME_TEXT_OUT_H
#define QN_RUNTIME_TEXT_OUT_H

#include "runtime/generate.h"

typedef struct qn_text_out {
  const qn_tokenizer *tokenizer;  // borrowed; NULL = there is no text
  qn_detokenizer detokenizer;
  qn_stop_filter filter;
} qn_text_out;

typedef struct qn_text_options {
  const qn_tokenizer *tokenizer;  // borrowed; NULL = there is no text, and there must be no stop strings
  const qn_str *stops;            // borrowed
  size_t stop_count;
  bool show_special;      // control tokens as their text
  int64_t position;       // tokens that are before the prompt
  const int32_t *prompt;  // what comes before the text; read here alone
  size_t prompt_count;
} qn_text_options;

// Errors: ARGUMENT (an empty stop string; stop strings without a tokenizer), LIMIT, NOMEM. Then nothing is to be freed.
// Afterwards nothing is allocated.
QN_CHECKED qn_status qn_text_out_init(qn_text_out *out, const qn_text_options *options, const qn_allocator *allocator,
                                      qn_diag *diag);
void qn_text_out_deinit(qn_text_out *out);
// Takes a token; *out_text is what it makes certain, borrowed until the next call. *out_stop: is a stop string there, and
// then which one. Errors: ARGUMENT (no such token).
QN_CHECKED qn_status qn_text_out_push(qn_text_out *out, int32_t id, qn_str *out_text, bool *out_stop,
                                      size_t *out_stop_index, qn_diag *diag);
// What is left at the end, in up to two pieces: call it until it returns false. A stop string of broken characters may
// still appear: *out_stop, then it was the last piece.
bool qn_text_out_finish(qn_text_out *out, int piece, qn_str *out_text, bool *out_stop, size_t *out_stop_index);

#endif
