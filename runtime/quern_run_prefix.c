// The public interface's part for prefixes: what sequences begin with.
#include <inttypes.h>
#include <string.h>

#include "runtime/base/options.h"
#include "runtime/model.h"

static qn_status attach(quern_session *session, int32_t sequence, const int32_t *tokens, size_t count, size_t *out_held,
                        qn_diag *diag) {
  if (sequence < 0 || sequence >= qn_decoder_sequences(session->decoder))
    return qn_fail(diag, QN_ERR_ARGUMENT, "sequence", "got %" PRId32 ", want 0 to %" PRId32, sequence,
                   qn_decoder_sequences(session->decoder) - 1);
  if (qn_decoder_position(session->decoder, sequence) > 0)
    return qn_fail(diag, QN_ERR_ARGUMENT, "sequence", "got %" PRId32 " of %" PRId64 " tokens, want an empty one", sequence,
                   qn_decoder_position(session->decoder, sequence));
  *out_held = (size_t)qn_decoder_attach(session->decoder, sequence, tokens, count);
  return QN_OK;
}

quern_status quern_session_attach(quern_session *session, int32_t sequence, const int32_t *tokens, size_t count,
                                  size_t *out_held, quern_error *error) {
  qn_diag diag = {0};
  *out_held = 0;
  session->step_rows = 0;
  return qn_model_finish(attach(session, sequence, tokens, count, out_held, &diag), &diag, error);
}

quern_status quern_session_get_prefixes(const quern_session *session, quern_prefix_info *out_info, quern_error *error) {
  qn_diag diag = {0};
  qn_kv_prefix_stats stats = {0};
  qn_status status = qn_result_check(out_info, "quern_prefix_info", &diag);
  if (qn_decoder_prefixes(session->decoder)) qn_kv_prefix_get_stats(qn_decoder_prefixes(session->decoder), &stats);
  quern_prefix_info own = {.lookups = stats.lookups,
                           .asked_tokens = stats.asked_tokens,
                           .found_tokens = stats.found_tokens,
                           .pages = stats.pages,
                           .tokens = stats.tokens,
                           .given_up_pages = stats.given_up};
  qn_result_give(out_info, &own, sizeof own);
  return qn_model_finish(status, &diag, error);
}

static qn_status need_prefixes(const quern_session *session, const char *path, qn_diag *diag) {
  if (!path) return qn_fail(diag, QN_ERR_ARGUMENT, "path", "got NULL, want the name of a file");
  if (qn_decoder_prefixes(session->decoder)) return QN_OK;
  return qn_fail(diag, QN_ERR_ARGUMENT, path, "got a session that keeps no prefixes, want one with prefix_cache");
}

quern_status quern_session_save_prefixes(const quern_session *session, const char *path, quern_error *error) {
  qn_diag diag = {0};
  qn_status status = need_prefixes(session, path, &diag);
  if (status == QN_OK) status = qn_kv_prefix_save(qn_decoder_prefixes(session->decoder), path, &diag);
  return qn_model_finish(status, &diag, error);
}

quern_status quern_session_load_prefixes(quern_session *session, const char *path, int64_t *out_pages,
                                         quern_error *error) {
  qn_diag diag = {0};
  *out_pages = 0;
  qn_status status = need_prefixes(session, path, &diag);
  if (status == QN_OK) status = qn_kv_prefix_load(qn_decoder_prefixes(session->decoder), path, out_pages, &diag);
  return qn_model_finish(status, &diag, error);
}
