// Schedules that another build of quern found, checked by the code that this one makes of them.
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "autotune/recheck.h"
#include "frontend/tuned.h"
#include "runtime/cpu_features.h"

// What is to be checked for one target.
typedef struct rechecking {
  quern_tuned *tuned;
  const qn_program *program;
  qn_arena arena;
  QN_VEC(qn_recheck_item) items;
  QN_VEC(qn_plan_foreign *) foreign;  // whose item that is
  qn_diag *diag;
} rechecking;

static bool is_for(const qn_plan_foreign *f, const qn_target *target) { return strcmp(f->target, target->name) == 0; }

static void deny(qn_plan_foreign *f, const char *reason, bool *out_again) {
  f->denied = true;
  f->reason = reason;
  *out_again = true;
}

// Its kernel in the program: plans hold copies.
static bool is_kernel(const qn_plan_foreign *f, const qn_program *program, size_t index) {
  return f->kernel == &program->kernels.items[index];
}

// Is it the record of this variant?
static bool is_of(const qn_plan_foreign *f, const qn_target *target, const qn_program *program, size_t kernel,
                  const qn_pvariant *variant) {
  return is_for(f, target) && !f->denied && is_kernel(f, program, kernel) &&
         qn_schedule_equal(&f->schedule, &variant->schedule);
}

static qn_status add_item(rechecking *r, size_t kernel, const qn_pvariant *variant, qn_kernel_entry entry,
                          qn_plan_foreign *f) {
  const qn_pstep *step = NULL;
  for (size_t i = 0; i < r->program->steps.count && !step; i++)
    if (r->program->steps.items[i].kernel == kernel) step = &r->program->steps.items[i];
  if (!step) return QN_OK;  // nobody calls it
  qn_subject *subject = QN_ARENA_NEW(&r->arena, qn_subject);
  if (!subject) return qn_fail_nomem(r->diag, f->kernel->name, "a check");
  QN_TRY(qn_subject_of_step(r->program, step, &r->arena, subject, r->diag));
  qn_recheck_item item = {.subject = subject,
                          .code = {.schedule = variant->schedule,
                                   .rows_min = variant->rows_min,
                                   .rows_max = variant->rows_max,
                                   .entry = entry,
                                   .extent = variant->extent}};
  if (!qn_vec_push_arena(&r->arena, &r->items, item) || !qn_vec_push_arena(&r->arena, &r->foreign, f))
    return qn_fail_nomem(r->diag, f->kernel->name, "a check");
  return QN_OK;
}

static qn_status add_items(rechecking *r, const qn_target *target, const qn_program_plan *plan,
                           const qn_kernel_entry *entries) {
  size_t function = 0;
  for (size_t k = 0; k < r->program->kernels.count; k++) {
    for (int v = 0; v < plan->kernels[k].variant_count; v++, function++) {
      const qn_pvariant *variant = &plan->kernels[k].variants[v];
      for (size_t i = 0; i < r->tuned->chooser.foreign.count; i++) {
        qn_plan_foreign *f = &r->tuned->chooser.foreign.items[i];
        if (is_of(f, target, r->program, k, variant)) QN_TRY(add_item(r, k, variant, entries[function], f));
      }
    }
  }
  return QN_OK;
}

// What was found right is this build's from now on. A database that cannot be written stays as it is.
static void keep(const rechecking *r) {
  qn_diag unused = {0};
  qn_db *db = NULL;
  quern_tuned *t = r->tuned;
  qn_db_close(t->db);
  t->db = t->chooser.db = NULL;
  const char *path = *t->path ? t->path : NULL;
  if (qn_db_open(path, false, t->chooser.arena->allocator, &db, &unused) == QN_OK) {
    for (size_t i = 0; i < r->foreign.count; i++) {
      const qn_plan_foreign *f = r->foreign.items[i];
      qn_tuning_key key = t->chooser.key;
      key.target = f->target;
      if (f->denied) continue;
      const qn_plan_end end = {.reason = "found by another build, and checked"};
      if (qn_plan_put_winner(db, &key, f->kernel, f->rows_min, f->rows_max, &f->schedule, &end, &unused) != QN_OK) {
        break;
      }
    }
  }
  qn_db_close(db);
  if (qn_db_open(path, true, t->chooser.arena->allocator, &t->db, &unused) != QN_OK) t->db = NULL;
  t->chooser.db = t->db;
}

static qn_status check_items(rechecking *r, bool *out_again) {
  size_t count = r->items.count;
  qn_measured *results = QN_ARENA_ARRAY(&r->arena, count + 1, qn_measured);
  qn_recheck_options options = {.quick = true};
  if (!results) return qn_fail_nomem(r->diag, "tuning", "results of checks");
  QN_TRY(qn_recheck(r->items.items, count, &options, r->tuned->chooser.arena->allocator, results, r->diag));
  for (size_t i = 0; i < count; i++) {
    if (results[i].verdict == QN_VERDICT_OK) continue;
    const char *reason =
        qn_arena_printf(r->tuned->chooser.arena, "another build of quern found it; its code now %s: %s",
                        qn_verdict_text(results[i].verdict), results[i].evidence);
    deny(r->foreign.items[i], reason ? reason : "its code is wrong now", out_again);
  }
  keep(r);
  return QN_OK;
}

qn_status quern_tuned_recheck(quern_tuned *t, const qn_target *target, const qn_program *program,
                              const qn_program_plan *plan, const qn_kernel_entry *entries, bool *out_again,
                              qn_diag *diag) {
  rechecking r = {.tuned = t, .program = program, .diag = diag};
  *out_again = false;
  qn_arena_init(&r.arena, t->chooser.arena->allocator);
  qn_status status = add_items(&r, target, plan, entries);
  if (status == QN_OK && r.items.count > 0) status = check_items(&r, out_again);
  qn_arena_deinit(&r.arena);
  return status;
}

// --- code that cannot be made

// Out of memory, a full disk, a caller that has enough: no function's doing.
static bool is_of_function(qn_status status) {
  return status != QN_OK && status != QN_ERR_NOMEM && status != QN_ERR_IO && status != QN_ERR_CANCELLED;
}

// Denies the records of a variant whose code cannot be made, if there are such.
static bool deny_variant(quern_tuned *t, const qn_target *target, const qn_program *program, size_t kernel,
                         const qn_pvariant *variant, const quern_tuned_maker *maker) {
  bool denied = false;
  qn_status status = QN_OK;
  qn_diag own = {0};
  for (size_t i = 0; i < t->chooser.foreign.count; i++) {
    qn_plan_foreign *f = &t->chooser.foreign.items[i];
    if (!is_of(f, target, program, kernel, variant)) continue;
    if (status == QN_OK) status = maker->make(maker->context, &variant->kernel, 1, &own);
    if (!is_of_function(status)) return denied;
    const char *reason = qn_arena_printf(
        t->chooser.arena, "another build of quern found it; its code does not compile now: %s", own.text);
    deny(f, reason ? reason : "its code does not compile now", &denied);
  }
  return denied;
}

bool quern_tuned_deny_failing(quern_tuned *t, const qn_target *target, const qn_program *program,
                              const qn_program_plan *plan, qn_status failure, const quern_tuned_maker *maker) {
  bool denied = false;
  if (!is_of_function(failure)) return false;
  for (size_t k = 0; k < program->kernels.count; k++)
    for (int v = 0; v < plan->kernels[k].variant_count; v++)
      denied = deny_variant(t, target, program, k, &plan->kernels[k].variants[v], maker) || denied;
  return denied;
}

// --- code of an artifact

// Records for code that does not run here: nobody can say whether it is right.
static bool deny_unrunnable(quern_tuned *t, const qn_target *target, bool *out_again) {
  char missing[64];
  if (!qn_cpu_missing(target->required, missing, sizeof missing)) return false;
  for (size_t i = 0; i < t->chooser.foreign.count; i++) {
    qn_plan_foreign *f = &t->chooser.foreign.items[i];
    if (is_for(f, target) && !f->denied)
      deny(f, "another build of quern found it, and this machine does not run its code", out_again);
  }
  return true;
}

qn_status quern_tuned_recheck_code(quern_tuned *t, const qn_target *target, const qn_program *program,
                                   const qn_program_plan *plan, const qn_code *code, bool *out_again, qn_diag *diag) {
  size_t size = code->image_size;
  *out_again = false;
  if (t->chooser.foreign.count == 0 || size == 0 || deny_unrunnable(t, target, out_again)) return QN_OK;
  void *image = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (image == MAP_FAILED) return qn_fail_nomem(diag, "tuning", "machine code to check");
  memcpy(image, code->image, size);
  __builtin___clear_cache((char *)image, (char *)image + size);
  qn_kernel_entry *entries = qn_alloc_zeroed(code->allocator, code->kernel_count * sizeof *entries);
  qn_status status = entries ? QN_OK : qn_fail_nomem(diag, "tuning", "entries of kernels");
  if (status == QN_OK && mprotect(image, size, PROT_READ | PROT_EXEC) != 0)
    status = qn_fail(diag, QN_ERR_IO, "tuning", "the system refuses to make memory executable: %s", strerror(errno));
  for (size_t i = 0; i < code->kernel_count && status == QN_OK; i++) {
    const uint8_t *address = (const uint8_t *)image + code->offsets[i];
    memcpy(&entries[i], &address, sizeof address);  // ISO C has no cast from an object's address to a function's
  }
  if (status == QN_OK) status = quern_tuned_recheck(t, target, program, plan, entries, out_again, diag);
  if (entries) qn_free(code->allocator, entries, code->kernel_count * sizeof *entries);
  munmap(image, size);
  return status;
}
