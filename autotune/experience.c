// What is kept of a whole program's sessions, not of one kernel: under which key, and what they have learned of their own
// promises. Without that the next session would believe its searches' first promises again, and try what this one knew
// to be not worth the time.
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "autotune/session_impl.h"
#include "runtime/base/hash.h"

void qn_program_signature(const char *what, const char *const *signatures, size_t count, qn_buf *out) {
  uint64_t hash = 0;  // whatever their order
  for (size_t i = 0; i < count; i++) hash += qn_hash64(signatures[i], strlen(signatures[i]), 1);
  qn_buf_printf(out, "%s of %zu kernels %016" PRIx64, what, count, hash);
}

qn_finished qn_program_mark(const qn_tuning_key *key, const char *signature) {
  return (qn_finished){.signature = signature,
                       .target = key->target,
                       .fingerprint = key->fingerprint,
                       .generator = key->generator,
                       .threads = key->threads};
}

qn_status qn_session_signature(const qn_session *s, const char *what, qn_buf *out) {
  size_t count = s->program->kernels.count;
  const char **signatures = qn_alloc(s->allocator, (count + 1) * sizeof *signatures);
  if (!signatures) return qn_fail_nomem(s->diag, "tune", what);
  for (size_t i = 0; i < count; i++) signatures[i] = s->program->kernels.items[i].signature;
  qn_program_signature(what, signatures, count, out);
  qn_free(s->allocator, signatures, (count + 1) * sizeof *signatures);
  return out->failed ? qn_fail_nomem(s->diag, "tune", what) : QN_OK;
}

// --- experience

static const char what[] = "experience", format[] = "first = %lg of %lg; later = %lg of %lg";

static bool is_sound(const qn_promises *p) {
  return isfinite(p->promised) && isfinite(p->kept) && p->promised >= 0 && p->kept >= 0;
}

static qn_status find(qn_session *s, const char *signature) {
  qn_finished wanted = qn_program_mark(&s->options->key, signature), mark;
  qn_promises first, later;
  bool found = false;
  QN_TRY(qn_db_finished(s->options->db, &wanted, &s->arena, &mark, &found, NULL, s->diag));
  if (!found) return QN_OK;
  // Anything else was written by another build, or by hand: as if there were none.
  if (sscanf(mark.plan, format, &first.kept, &first.promised, &later.kept, &later.promised) != 4) return QN_OK;
  if (!is_sound(&first) || !is_sound(&later)) return QN_OK;
  s->first = first;
  s->later = later;
  return QN_OK;
}

static qn_status keep(qn_session *s, const char *signature) {
  char plan[160];
  qn_finished mark = qn_program_mark(&s->options->key, signature);
  snprintf(plan, sizeof plan, "first = %.17g of %.17g; later = %.17g of %.17g", s->first.kept, s->first.promised,
           s->later.kept, s->later.promised);
  mark.plan = plan;
  mark.reason = what;
  return qn_db_set_finished(s->options->db, &mark, s->diag);
}

static qn_status with_signature(qn_session *s, qn_status (*act)(qn_session *s, const char *signature)) {
  qn_buf signature;
  qn_buf_init(&signature, s->allocator);
  qn_status status = qn_session_signature(s, what, &signature);
  if (status == QN_OK) status = act(s, qn_buf_text(&signature));
  qn_buf_deinit(&signature);
  return status;
}

qn_status qn_session_recall(qn_session *s) { return s->options->db ? with_signature(s, find) : QN_OK; }

qn_status qn_session_remember(qn_session *s) { return s->options->db ? with_signature(s, keep) : QN_OK; }
