// Texts that are read whole: those that an encoder makes embeddings of, and those that it reads for a decoder beside
// it.
#include <inttypes.h>
#include <string.h>

#include "runtime/decode_impl.h"

// --- whole texts

// How many of the texts one step can take, and their tokens; each alone must fit.
static qn_status choose_texts(const qn_decoder *d, const size_t *counts, size_t texts, size_t *out_texts,
                              qn_diag *diag) {
  size_t tokens = 0, pages = 0, most = (size_t)d->chunk, sequences = (size_t)qn_kv_cache_sequences(d->cache);
  size_t longest = (size_t)qn_decoder_context(d) < most ? (size_t)qn_decoder_context(d) : most;
  if (sequences > (size_t)d->max_rows) sequences = (size_t)d->max_rows;
  for (*out_texts = 0; *out_texts < texts && *out_texts < sequences; ++*out_texts) {
    size_t count = counts[*out_texts];
    if (count == 0 || count > longest) {
      if (*out_texts > 0) return QN_OK;  // told when its turn comes
      return qn_fail(diag, count ? QN_ERR_LIMIT : QN_ERR_ARGUMENT, d->artifact->path,
                     "got a text of %zu tokens to embed, want 1 to %zu, since it is evaluated whole; split longer ones",
                     count, longest);
    }
    size_t keys = (size_t)qn_kv_cache_page_keys(d->cache), more = count / keys + (count % keys != 0);
    bool fits = count <= most - tokens && pages + more <= (size_t)qn_kv_cache_free_pages(d->cache);
    if (!fits && *out_texts > 0) return QN_OK;  // one alone that does not fit is told by who reserves its pages
    tokens += count;
    pages += more;
  }
  return QN_OK;
}

static qn_status push_texts(qn_decoder *d, const int32_t *tokens, const size_t *counts, size_t texts, qn_diag *diag) {
  for (size_t i = 0; i < texts; i++) {
    QN_TRY(qn_kv_cache_reserve(d->cache, (int32_t)i, (int64_t)counts[i], diag));
    for (size_t j = 0; j < counts[i]; j++, tokens++) {
      QN_TRY(qn_decode_check_token(d, *tokens, j, diag));
      qn_decode_push(d, *tokens, (int32_t)i, j + 1 == counts[i]);
    }
  }
  return QN_OK;
}

qn_status qn_decoder_embed(qn_decoder *d, const int32_t *tokens, const size_t *counts, size_t texts, float *out,
                           size_t *out_done, qn_diag *diag) {
  size_t now = 0, width = (size_t)d->embedding;
  *out_done = 0;
  if (!d->embedding) {
    return qn_fail(diag, QN_ERR_UNSUPPORTED, d->artifact->path,
                   "makes logits and no embeddings, want an encoder (BERT and its like)");
  }
  for (int32_t s = 0; s < qn_kv_cache_sequences(d->cache); s++)
    qn_decoder_truncate(d, s, 0);  // all pages are free then
  QN_TRY(choose_texts(d, counts, texts, &now, diag));
  if (now == 0) return QN_OK;
  qn_decode_begin(d);
  qn_status status = push_texts(d, tokens, counts, now, diag);
  if (status == QN_OK) {
    qn_executor_hold(d->executor);
    status = qn_decode_run(d, diag);
    qn_executor_release(d->executor);
  }
  for (int64_t i = 0; status != QN_OK && i < d->count; i++) d->pending[d->arrays[INPUT_SEQ][i]] = 0;
  for (size_t i = 0; i < now; i++) {
    if (status == QN_OK) memcpy(out + i * width, qn_decoder_logits(d, i), width * sizeof *out);
    qn_decoder_truncate(d, (int32_t)i, 0);
  }
  if (status == QN_OK) *out_done = now;
  return status;
}

// --- what an encoder reads

bool qn_decoder_has_source(const qn_decoder *d) { return d->max_source > 0; }
int64_t qn_decoder_source_max(const qn_decoder *d) { return d->max_source; }
int32_t qn_decoder_start(const qn_decoder *d) { return (int32_t)d->artifact->program->start - 1; }

static qn_status check_whole_source(const qn_decoder *d, const int32_t *tokens, size_t count, qn_diag *diag) {
  if (d->max_source == 0) {
    return qn_fail(diag, QN_ERR_UNSUPPORTED, d->artifact->path,
                   "the model has no encoder: it reads no source; evaluate the tokens instead");
  }
  if (count == 0 || count > (size_t)d->max_source) {
    return qn_fail(diag, count ? QN_ERR_LIMIT : QN_ERR_ARGUMENT, d->artifact->path,
                   "got a source of %zu tokens, want 1 to %" PRId64
                   "; it is read at once, so a longer one takes a larger context",
                   count, d->max_source);
  }
  for (size_t i = 0; i < count; i++) QN_TRY(qn_decode_check_token(d, tokens[i], i, diag));
  return QN_OK;
}

qn_status qn_decoder_source(qn_decoder *d, int32_t sequence, const int32_t *tokens, size_t count, qn_diag *diag) {
  int64_t symbols[QN_ARTIFACT_SYMBOLS];
  QN_TRY(qn_decode_check_sequence(d, sequence, diag));
  QN_TRY(check_whole_source(d, tokens, count, diag));
  QN_TRY(qn_kv_cache_take_source(d->cache, sequence, (int64_t)count, diag));
  qn_decode_begin(d);
  for (size_t i = 0; i < count; i++) {
    d->arrays[INPUT_SOURCE][i] = tokens[i];
    d->arrays[INPUT_SOURCE_POS][i] = (int32_t)i;
    d->arrays[INPUT_SOURCE_SEQ][i] = sequence;
    d->arrays[INPUT_SOURCE_LAST_POS][i] = (int32_t)count - 1;
  }
  qn_decode_set_symbols(d, 0, 0, (int64_t)count, symbols);
  qn_executor_hold(d->executor);
  qn_status status = qn_executor_run(d->executor, symbols, QN_RUN_PROMPT, diag);
  qn_executor_release(d->executor);
  if (status != QN_OK) qn_kv_cache_clear(d->cache, sequence);
  return status;
}
