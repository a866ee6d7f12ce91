// The checks of one kernel (check_set.h).
#include "autotune/check_set.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/vec.h"

// SEEDS at the least and the largest row count; between them 1.
enum { SEEDS = 2, MOST_RUN = 64 };

// Inputs of one row count and one seed.
typedef struct kept_check {
  int64_t rows;
  uint64_t seed;
  bool kept;  // code that is right has left its outputs
  qn_check *check;
} kept_check;

struct qn_check_set {
  const qn_allocator *allocator;  // borrowed
  qn_subject subject;
  bool quick;
  QN_VEC(kept_check) checks;
  const qn_check *running;  // NULL = no code runs
};

qn_status qn_check_set_create(const qn_subject *subject, bool quick, const qn_allocator *allocator, qn_check_set **out,
                              qn_diag *diag) {
  qn_check_set *set = *out = qn_alloc_zeroed(allocator, sizeof *set);
  if (!set) return qn_fail_nomem(diag, subject->plain->name, "its checks");
  set->allocator = allocator;
  set->subject = *subject;
  set->quick = quick;
  return QN_OK;
}

void qn_check_set_destroy(qn_check_set *set) {
  if (!set) return;
  // The first one lends its weights to the others.
  for (size_t i = set->checks.count; i > 0; i--) qn_check_destroy(set->checks.items[i - 1].check);
  qn_vec_free(set->allocator, &set->checks);
  qn_free(set->allocator, set, sizeof *set);
}

bool qn_check_set_locate(const qn_check_set *set, const void *address, char *out, size_t size) {
  return set->running && qn_check_locate(set->running, address, out, size);
}

static qn_status have_check(qn_check_set *set, int64_t rows, uint64_t seed, kept_check **out, qn_diag *diag) {
  for (size_t i = 0; i < set->checks.count; i++) {
    *out = &set->checks.items[i];
    if ((*out)->rows == rows && (*out)->seed == seed) return QN_OK;
  }
  kept_check made = {.rows = rows, .seed = seed};
  const qn_check *first = set->checks.count ? set->checks.items[0].check : NULL;
  QN_TRY(qn_check_create(&set->subject, rows, seed, QN_CHECK_WORK, first, set->allocator, &made.check, diag));
  if (!qn_vec_push(set->allocator, &set->checks, made)) {
    qn_check_destroy(made.check);
    return qn_fail_nomem(diag, set->subject.plain->name, "its checks");
  }
  *out = &set->checks.items[set->checks.count - 1];
  return QN_OK;
}

// The row counts to run; how many. Tiles of attention are made of runs of tokens: with as many tokens as three runs and
// some, there are sequences whose runs are whole, cut and crossed.
static int choose_rows(const qn_check_set *set, const qn_check_code *code, int64_t rows[QN_CHECK_ROWS_MAX]) {
  qn_symbol symbol = set->subject.rows == QN_SYM_NONE ? QN_SYM_T : set->subject.rows;
  int64_t most = set->subject.max_values[symbol];
  if (most <= 0 || code->rows_max < most) most = code->rows_max;
  int count = set->quick ? qn_check_quick_counts(&code->schedule, code->rows_min, most, rows)
                         : qn_check_row_counts(&code->schedule, code->rows_min, most, rows);
  int64_t run = set->subject.run_tokens;
  if (run > 0) {
    rows[0] = code->rows_min < 1 ? 1 : code->rows_min;
    rows[1] = run < MOST_RUN ? 3 * run + 2 : MOST_RUN;
    if (rows[1] > most) rows[1] = most;
    count = rows[1] > rows[0] ? 2 : 1;
  }
  return count;
}

qn_status qn_check_set_run(qn_check_set *set, const qn_check_code *code, qn_check_note note, void *context,
                           qn_verdict *out_verdict, char *evidence, size_t size, bool *out_doubt, qn_diag *diag) {
  int64_t rows[QN_CHECK_ROWS_MAX], elements = 0, interpreted = 0;
  int count = choose_rows(set, code, rows);
  for (int r = 0; r < count; r++) {
    uint64_t seeds = !set->quick && (r == 0 || r == count - 1) ? SEEDS : 1;
    for (uint64_t seed = 0; seed < seeds; seed++) {
      kept_check *kept = NULL;
      qn_check_result result;
      note(context, false);
      QN_TRY(have_check(set, rows[r], set->quick ? 1 : seed, &kept, diag));
      set->running = kept->check;
      note(context, true);
      qn_check_run(kept->check, code->entry, code->extent, code->remote, &result);
      set->running = NULL;
      elements += result.written;
      interpreted += result.interpreted;
      if (result.kept_wrong) kept->kept = false;
      if (result.kept_wrong && out_doubt) *out_doubt = true;
      if (!result.right) {
        *out_verdict = QN_VERDICT_WRONG;
        snprintf(evidence, size, "%s", result.text);
        return QN_OK;
      }
      if (!kept->kept) QN_TRY(qn_check_keep(kept->check, diag));
      kept->kept = true;
    }
  }
  *out_verdict = QN_VERDICT_OK;
  snprintf(evidence, size, "%" PRId64 " elements at %d row count%s, %" PRId64 " against the interpreter", elements,
           count, count == 1 ? "" : "s", interpreted);
  return QN_OK;
}
