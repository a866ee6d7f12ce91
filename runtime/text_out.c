// The detokeniser and the stop filter of one sequence, in a row.
#include "runtime/text_out.h"

// Is there no text before what will be generated: an empty sequence, and a prompt of control tokens alone (BOS)? Then
// the space that SentencePiece puts before a text is not part of it.
static bool begins_text(const qn_text_options *o) {
  if (o->position > 0) return false;
  for (size_t i = 0; i < o->prompt_count; i++) {
    if (qn_tokenizer_type(o->tokenizer, o->prompt[i]) != QN_TOKEN_CONTROL) return false;
  }
  return true;
}

qn_status qn_text_out_init(qn_text_out *out, const qn_text_options *o, const qn_allocator *allocator, qn_diag *diag) {
  *out = (qn_text_out){.tokenizer = o->tokenizer};
  if (!o->tokenizer) {
    if (o->stop_count == 0) return QN_OK;
    return qn_fail(diag, QN_ERR_ARGUMENT, "stop strings", "got %zu without a tokenizer", o->stop_count);
  }
  unsigned flags = (begins_text(o) ? 0u : QN_DECODE_CONTINUES) | (o->show_special ? QN_DECODE_SPECIAL : 0u);
  QN_TRY(qn_detokenizer_init(&out->detokenizer, o->tokenizer, flags, allocator, diag));
  qn_status status =
      qn_stop_filter_init(&out->filter, o->stops, o->stop_count, out->detokenizer.capacity, allocator, diag);
  if (status != QN_OK) qn_text_out_deinit(out);
  return status;
}

void qn_text_out_deinit(qn_text_out *out) {
  if (!out->tokenizer) return;
  if (out->filter.allocator) qn_stop_filter_deinit(&out->filter);
  qn_detokenizer_deinit(&out->detokenizer);
  *out = (qn_text_out){0};
}

qn_status qn_text_out_push(qn_text_out *out, int32_t id, qn_str *out_text, bool *out_stop, size_t *out_stop_index,
                           qn_diag *diag) {
  *out_text = (qn_str){"", 0};
  *out_stop = false;
  if (!out->tokenizer) return QN_OK;
  QN_TRY(qn_detokenizer_push(&out->detokenizer, id, out_text, diag));
  *out_stop = qn_stop_filter_push(&out->filter, *out_text, out_text, out_stop_index);
  return QN_OK;
}

bool qn_text_out_finish(qn_text_out *out, int piece, qn_str *out_text, bool *out_stop, size_t *out_stop_index) {
  *out_text = (qn_str){"", 0};
  *out_stop = false;
  if (!out->tokenizer || piece > 1) return false;
  if (piece == 0) {  // broken characters
    qn_str text = qn_detokenizer_flush(&out->detokenizer);
    *out_stop = qn_stop_filter_push(&out->filter, text, out_text, out_stop_index);
  } else {
    *out_text = qn_stop_filter_flush(&out->filter);
  }
  return true;
}
