// What tuning tried for the kernels of an explanation, as the database and the artifact tell it.
#include <inttypes.h>
#include <string.h>

#include "codegen/target.h"
#include "frontend/explain.h"
#include "frontend/machine.h"

// Sums over the records of one kernel that are for the rows in question.
typedef struct tally {
  int64_t rows;  // 0 = any
  int64_t tried, failed, edited, other_builds;
  double fastest_s, bound_s;
} tally;

static bool add_record(void *context, const qn_record *record, const char *rejected) {
  tally *t = context;
  if (t->rows > 0 && (t->rows < record->rows_min || t->rows > record->rows_max)) return true;
  if (rejected) {
    t->edited++;
    return true;
  }
  t->tried++;
  t->failed += qn_verdict_blames(record->verdict);
  t->other_builds += !record->generator || strcmp(record->generator, qn_generator_id) != 0;
  bool timed = record->verdict == QN_VERDICT_OK && record->median_s > 0;
  if (timed && (t->fastest_s == 0 || record->median_s < t->fastest_s)) {
    t->fastest_s = record->median_s;
    t->bound_s = record->bound_s;
  }
  return true;
}

// The head of every line "# evidence of NAME, ...", which the compiler wrote of records that it took.
static void put_evidence(const explaining *x, const char *kernel, qn_buf *out) {
  qn_buf heading;
  qn_buf_init(&heading, qn_allocator_default());
  qn_buf_printf(&heading, "\n# evidence of %s, ", kernel);
  const char *end = x->text.data + x->text.length, *at = x->text.data;
  while (!heading.failed && (at = memmem(at, (size_t)(end - at), heading.data, heading.length)) != NULL) {
    at += heading.length;
    size_t length = 0;
    while (at + length < end && at[length] != ';' && at[length] != '\n') length++;
    qn_buf_printf(out, "%scompiled with what was found for ", out->length ? "; " : "");
    qn_buf_append(out, at, length);
  }
  if (heading.failed) out->failed = true;
  qn_buf_deinit(&heading);
}

static const char *sentence(explaining *x, const char *kernel, const tally *t) {
  qn_buf text;
  qn_buf_init(&text, qn_allocator_default());
  if (t->tried > 0) {
    qn_buf_printf(&text, "%" PRId64 " candidate%s tried", t->tried, t->tried == 1 ? "" : "s");
    if (t->failed > 0) qn_buf_printf(&text, ", of which %" PRId64 " failed", t->failed);
    if (t->other_builds > 0) qn_buf_printf(&text, ", %" PRId64 " by other builds", t->other_builds);
    if (t->fastest_s > 0) qn_buf_printf(&text, "; the fastest took %.3g us a call", 1e6 * t->fastest_s);
    if (t->fastest_s > 0 && t->bound_s > 0)
      qn_buf_printf(&text, ", %.0f %% of its bound", 100 * t->bound_s / t->fastest_s);
  }
  if (t->edited > 0) {
    qn_buf_printf(&text, "%s%" PRId64 " record%s rejected, whose checksum does not hold", text.length ? "; " : "",
                  t->edited, t->edited == 1 ? "" : "s");
  }
  put_evidence(x, kernel, &text);
  const char *copy = text.failed ? NULL : explain_text(x->arena, qn_str_from(qn_buf_text(&text)));
  qn_buf_deinit(&text);
  return copy;
}

static const explain_kernel *kernel_named(const explaining *x, const char *name) {
  for (size_t i = 0; i < x->kernel_count; i++) {
    if (strcmp(x->kernels[i].name, name) == 0) return &x->kernels[i];
  }
  return NULL;
}

static qn_status look_up(explaining *x, qn_db *db, const char *fingerprint, int64_t tokens, quern_kernel_report *k) {
  const explain_kernel *kernel = kernel_named(x, k->kernel);
  if (!kernel) return QN_OK;
  tally t = {.rows = kernel->facts.rows == QN_SYM_NONE ? 0 : kernel->cost.of_rows ? 1 : tokens};
  qn_db_filter filter = {.signature = kernel->facts.signature, .target = x->e->told.target, .fingerprint = fingerprint};
  qn_diag problem = {0};
  if (db) QN_TRY(explain_without_database(x, qn_db_each(db, &filter, add_record, &t, &problem), &problem));
  k->tried = t.tried;
  k->failed = t.failed;
  k->tuned_s = t.fastest_s;
  k->tuning = sentence(x, k->kernel, &t);
  return k->tuning ? QN_OK : qn_fail_nomem(x->diag, "explain", "what tuning tried");
}

static qn_status look_up_all(explaining *x, qn_db *db, const char *fingerprint) {
  for (size_t p = 0; p < explain_phase_count(x->kind); p++) {
    quern_phase_report *phase = &x->e->phases[p];
    quern_kernel_report *kernels = (quern_kernel_report *)(uintptr_t)phase->kernels;  // still being built
    for (size_t i = 0; i < phase->kernel_count; i++)
      QN_TRY(look_up(x, db, fingerprint, x->chunks[p][0].tokens, &kernels[i]));
  }
  return QN_OK;
}

qn_status explain_tuning(explaining *x) {
  qn_db *db = NULL;
  qn_buf fingerprint;
  qn_diag problem = {0};
  if (!quern_keeps_nothing(x->options->tuning_db)) {
    qn_status opened = qn_db_open(x->options->tuning_db, true, qn_allocator_default(), &db, &problem);
    QN_TRY(explain_without_database(x, opened, &problem));
  }
  qn_buf_init(&fingerprint, qn_allocator_default());
  qn_machine_fingerprint(x->threads, &fingerprint);
  qn_status status = fingerprint.failed ? qn_fail_nomem(x->diag, "explain", "a fingerprint")
                                        : look_up_all(x, db, qn_buf_text(&fingerprint));
  qn_buf_deinit(&fingerprint);
  qn_db_close(db);
  return status;
}
