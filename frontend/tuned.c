// Records from the database into a compilation.
#include "frontend/tuned.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "autotune/profile.h"
#include "frontend/compilation.h"
#include "frontend/compile.h"
#include "frontend/machine.h"
#include "runtime/artifact.h"
#include "runtime/base/hash.h"
#include "runtime/base/options.h"
#include "runtime/model.h"
#include "runtime/topology.h"

void quern_tuned_init(quern_tuned *t, qn_arena *arena) {
  *t = (quern_tuned){.chooser = {.arena = arena, .take_foreign = true}};
  qn_buf_init(&t->fingerprint, arena->allocator);
}

void quern_tuned_deinit(quern_tuned *t) {
  qn_db_close(t->db);
  qn_buf_deinit(&t->fingerprint);
}

void quern_tuned_open(quern_tuned *t, const char *tuning_db, int threads) {
  const qn_allocator *allocator = t->chooser.arena->allocator;
  qn_diag problem = {0};
  if (quern_keeps_nothing(tuning_db)) return;
  if (tuning_db) snprintf(t->path, sizeof t->path, "%s", tuning_db);
  if (threads <= 0) threads = qn_topology_get()->default_threads;
  qn_machine_fingerprint(threads, &t->fingerprint);
  if (t->fingerprint.failed || qn_db_open(tuning_db, true, allocator, &t->db, &problem) != QN_OK) {
    snprintf(t->problem, sizeof t->problem, "%.*s", (int)sizeof t->problem - 1, problem.text);
    t->db = NULL;
  }
  t->chooser.db = t->db;
  t->chooser.key = (qn_tuning_key){NULL, qn_buf_text(&t->fingerprint), qn_generator_id, threads};
}

// Fingerprints of one machine differ in their last word, which tells how many threads were at work.
static size_t length_without_threads(const char *fingerprint) {
  const char *last = strrchr(fingerprint, ' ');
  return last ? (size_t)(last - fingerprint) : strlen(fingerprint);
}

static bool find_other_threads(void *context, const qn_finished *mark, const char *rejected) {
  quern_tuned *t = context;
  const char *own = t->chooser.key.fingerprint;
  size_t length = length_without_threads(own);
  bool same = length_without_threads(mark->fingerprint) == length && memcmp(mark->fingerprint, own, length) == 0;
  if (rejected || !same || mark->threads == t->chooser.key.threads) return true;
  t->other_threads = mark->threads;
  return false;
}

// A kernel that has no record for the threads at hand, but for others: the user may have meant those.
static void look_for_other_threads(quern_tuned *t, const qn_pkernel *kernel) {
  qn_diag unused = {0};
  qn_db_filter filter = {.signature = kernel->signature, .target = t->chooser.key.target};
  if (t->other_threads == 0 && qn_db_each_finished(t->db, &filter, find_other_threads, t, &unused) != QN_OK)
    t->other_threads = 0;
}

// qn_pass_options.choose. A database that fails on the way is one that is not there: the model's choice is as right.
static bool choose(void *context, const qn_pkernel *kernel, qn_kernel_plan *out) {
  quern_tuned *t = context;
  qn_diag failure = {0};
  t->chooser.diag = &failure;
  bool chosen = qn_plan_choose(&t->chooser, kernel, out);
  if (!chosen && t->chooser.status == QN_OK) look_for_other_threads(t, kernel);
  if (t->chooser.status != QN_OK && !*t->problem)
    snprintf(t->problem, sizeof t->problem, "%.*s", (int)sizeof t->problem - 1, failure.text);
  return chosen;
}

void quern_tuned_choose_for(quern_tuned *t, const qn_target *target, const int64_t *max_values,
                            qn_pass_options *options, qn_buf *evidence) {
  t->machine = options->machine;
  t->chooser.machine = &t->machine;
  t->chooser.max_values = max_values;
  t->chooser.key.target = target->name;
  t->chooser.evidence = evidence;
  options->choose = t->db ? choose : NULL;
  options->choose_context = t;
}

void quern_tuned_report(const quern_tuned *t, quern_tuning_use *out) {
  const qn_plan_counts *counts = &t->chooser.counts;
  quern_tuning_use own = {.accepted = counts->accepted,
                          .verified = counts->foreign,
                          .rejected = counts->rejected,
                          .missing = counts->missing,
                          .threads = t->chooser.key.threads};
  if (counts->accepted + counts->rejected == 0) own.other_threads = t->other_threads;
  snprintf(own.first_reason, sizeof own.first_reason, "%s", counts->first_reason);
  snprintf(own.problem, sizeof own.problem, "%s", t->problem);
  qn_result_give(out, &own, sizeof own);
}

// --- state

// The latest marks of one signature, in any order.
typedef struct latest {
  uint64_t keys[64];     // hashes of whom a mark is for, each once
  uint64_t winners[64];  // the same with the mark's plan
  bool bad[64];          // a record says so of the winner
  int count;
  uint64_t state;
} latest;

static void hash_text(qn_hasher *hasher, const char *text) {
  qn_hasher_update(hasher, text ? text : "", text ? strlen(text) + 1 : 1);
}

// Whom an entry is for.
static qn_hasher hash_key(const char *signature, const char *target, const char *generator, int64_t rows_min,
                          int64_t rows_max) {
  qn_hasher hasher;
  int64_t rows[] = {rows_min, rows_max};
  qn_hasher_init(&hasher, 1);
  hash_text(&hasher, signature);
  hash_text(&hasher, target);
  hash_text(&hasher, generator);
  qn_hasher_update(&hasher, rows, sizeof rows);
  return hasher;
}

// Called with the latest first.
static bool add_mark(void *context, const qn_finished *mark, const char *rejected) {
  latest *l = context;
  qn_hasher hasher = hash_key(mark->signature, mark->target, mark->generator, mark->rows_min, mark->rows_max);
  uint64_t key = qn_hasher_final(&hasher);
  for (int i = 0; i < l->count; i++)
    if (l->keys[i] == key) return true;
  if (l->count == (int)QN_COUNT(l->keys)) return false;
  l->keys[l->count] = key;
  hash_text(&hasher, mark->plan);
  l->winners[l->count++] = qn_hasher_final(&hasher);
  hash_text(&hasher, rejected);
  l->state += qn_hasher_final(&hasher);
  return true;
}

// A winner that its build found to be bad later is none (qn_plan_winner), though its mark is the latest.
static bool add_bad(void *context, const qn_record *record, const char *rejected) {
  latest *l = context;
  qn_hasher hasher =
      hash_key(record->signature, record->target, record->generator, record->rows_min, record->rows_max);
  hash_text(&hasher, record->schedule);
  uint64_t winner = qn_hasher_final(&hasher);
  for (int i = 0; i < l->count && !rejected; i++) {
    if (l->winners[i] != winner || l->bad[i]) continue;
    l->bad[i] = true;
    l->state += qn_hash64(&winner, sizeof winner, 1);
  }
  return true;
}

// Defaults are chosen by what the machine was measured to do: 0 when that does not enter them.
static uint64_t machine_state(const quern_tuned *t) {
  qn_machine_profile profile;
  qn_diag unused = {0};
  int64_t when;
  bool found = false;
  if (quern_machine_stored(t->db, &profile, &when, &found, NULL, 0, &unused) != QN_OK || !found) return 0;
  return profile.moving_gain > 0 ? qn_hash64(&profile, sizeof profile, 1) : 0;
}

quern_tuned_state quern_tuned_get_state(const quern_tuned *t, const char *const *signatures, size_t count) {
  quern_tuned_state state = {.known = t->db != NULL};
  if (!t->db) return state;
  state.machine = machine_state(t);
  for (size_t i = 0; i < count; i++) {
    qn_diag unused = {0};
    latest l = {.count = 0};
    qn_db_filter filter = {
        .signature = signatures[i], .fingerprint = t->chooser.key.fingerprint, .threads = t->chooser.key.threads};
    if (qn_db_each_finished(t->db, &filter, add_mark, &l, &unused) != QN_OK) return (quern_tuned_state){0};
    filter.only_bad = true;
    if (l.count > 0 && qn_db_each(t->db, &filter, add_bad, &l, &unused) != QN_OK) return (quern_tuned_state){0};
    state.records += l.state;
  }
  return state;
}

static bool is_any(void *context, const qn_finished *mark, const char *rejected) {
  (void)mark;
  *(bool *)context = !rejected;
  return rejected != NULL;
}

int quern_tuned_threads(const char *tuning_db, int threads) {
  quern_tuned tuned;
  qn_arena arena;
  qn_diag unused = {0};
  bool any = false;
  if (threads <= 0 || threads == qn_topology_get()->default_threads) return 0;
  qn_arena_init(&arena, qn_allocator_default());
  quern_tuned_init(&tuned, &arena);
  quern_tuned_open(&tuned, tuning_db, threads);
  qn_db_filter filter = {.fingerprint = tuned.chooser.key.fingerprint, .threads = threads};
  if (tuned.db && qn_db_each_finished(tuned.db, &filter, is_any, &any, &unused) != QN_OK) any = false;
  quern_tuned_deinit(&tuned);
  qn_arena_deinit(&arena);
  return any ? threads : 0;
}

// --- the cache

// What follows `key` at the start of one of the text's lines, to the line's end; *text becomes what follows that.
static bool take_value(qn_str *text, const char *key, qn_str *out) {
  size_t length = strlen(key);
  while (text->length > 0) {
    const char *stop = memchr(text->data, '\n', text->length);
    qn_str line = {text->data, stop ? (size_t)(stop - text->data) : text->length};
    size_t used = line.length + (stop != NULL);
    *text = (qn_str){text->data + used, text->length - used};
    if (line.length < length || memcmp(line.data, key, length) != 0) continue;
    *out = (qn_str){line.data + length, line.length - length};
    return true;
  }
  return false;
}

static qn_str text_of(const qn_artifact *artifact, qn_art_section_kind kind) {
  size_t size;
  const char *data = qn_artifact_section(artifact, kind, 0, &size);
  return data ? (qn_str){data, size} : QN_STR("");
}

// The number that follows `key` in the artifact's summary; 0 = there is none.
static uint64_t number_of(const qn_artifact *artifact, const char *key) {
  qn_str text = text_of(artifact, QN_SECTION_SUMMARY), value;
  char digits[24];
  if (!take_value(&text, key, &value)) return 0;
  snprintf(digits, sizeof digits, "%.*s", (int)(value.length < 20 ? value.length : 20), value.data);
  return strtoull(digits, NULL, 16);
}

// The signatures of the artifact's kernels; NULL when out of memory.
static const char **read_signatures(const qn_artifact *artifact, qn_arena *arena, size_t *out_count) {
  enum { MOST = 4096 };  // kernels, of which programs have some dozens
  qn_str text = text_of(artifact, QN_SECTION_KERNELS), value;
  const char **signatures = QN_ARENA_ARRAY(arena, MOST, const char *);
  size_t count = 0;
  while (signatures && count < MOST && take_value(&text, "#   signature = ", &value)) {
    signatures[count] = qn_arena_strndup(arena, value.data, value.length);
    if (!signatures[count++]) return NULL;
  }
  *out_count = count;
  return signatures;
}

// What has changed since the artifact was made; NULL = nothing.
static const char *find_news(const qn_artifact *artifact, const quern_tuned *t, qn_arena *arena) {
  size_t count = 0;
  if (artifact->program->machine == QN_ART_GPU) return NULL;  // records are of CPUs
  const char **signatures = read_signatures(artifact, arena, &count);
  if (!signatures) return NULL;
  quern_tuned_state state = quern_tuned_get_state(t, signatures, count);
  if (!state.known) return NULL;
  if (state.records != number_of(artifact, "tuning = ")) return "tuning has found other schedules";
  return state.machine != number_of(artifact, "machine = ") ? "the machine was measured anew" : NULL;
}

bool quern_cache_is_current(const char *artifact_path, const quern_compile_options *options, const char **out_why) {
  quern_compile_options own;
  qn_diag unused = {0};
  qn_artifact artifact;
  qn_arena arena;
  quern_tuned tuned;
  if (out_why) *out_why = NULL;
  if (quern_own_options(options, &own, &unused) != QN_OK || own.schedule) return true;
  if (qn_artifact_open(&artifact, artifact_path, &unused) != QN_OK) return true;
  qn_arena_init(&arena, qn_allocator_default());
  quern_tuned_init(&tuned, &arena);
  quern_tuned_open(&tuned, own.tuning_db, own.run_threads);
  const char *news = tuned.db ? find_news(&artifact, &tuned, &arena) : NULL;
  if (out_why) *out_why = news;
  quern_tuned_deinit(&tuned);
  qn_arena_deinit(&arena);
  qn_artifact_close(&artifact);
  return !news;
}

// --- settings

static qn_status find_settings(const quern_model *model, const quern_tuned *t, qn_arena *arena,
                               quern_machine_settings *out, bool *out_found, qn_diag *diag) {
  size_t count = 0;
  qn_machine_knobs knobs;
  qn_buf signature;
  const char **signatures = read_signatures(&model->artifact, arena, &count);
  if (!signatures) return qn_fail_nomem(diag, model->path, "its kernels");
  qn_buf_init(&signature, arena->allocator);
  qn_program_signature("settings", signatures, count, &signature);
  qn_tuning_key key = {quern_model_target(model), t->chooser.key.fingerprint, NULL, t->chooser.key.threads};
  qn_status status = signature.failed ? qn_fail_nomem(diag, model->path, "its kernels")
                                      : qn_settings_find(t->db, &key, qn_buf_text(&signature), &knobs, out_found, diag);
  qn_buf_deinit(&signature);
  if (status != QN_OK || !*out_found) return status;
  out->threads_prefill = knobs.threads_prefill;
  out->threads_decode = knobs.threads_decode;
  out->spin_us = knobs.spin_us > 0 ? knobs.spin_us : -1;
  out->grain = knobs.grain;
  return QN_OK;
}

int quern_model_get_settings(const quern_model *model, const char *tuning_db, int threads, quern_machine_settings *out,
                             bool *out_found, quern_error *error) {
  quern_tuned tuned;
  qn_arena arena;
  qn_diag diag = {0};
  *out_found = false;
  qn_arena_init(&arena, &model->allocator);
  quern_tuned_init(&tuned, &arena);
  quern_tuned_open(&tuned, tuning_db, threads);
  qn_status status = tuned.db        ? find_settings(model, &tuned, &arena, out, out_found, &diag)
                     : *tuned.problem ? qn_fail(&diag, QN_ERR_IO, "settings", "%s", tuned.problem)
                                      : QN_OK;
  quern_tuned_deinit(&tuned);
  qn_arena_deinit(&arena);
  return quern_give_error(error, &diag, status);
}
