// Records from the database into a compilation.
#include "frontend/tuned.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "autotune/profile.h"
#include "frontend/compilation.h"
#include "frontend/machine.h"
#include "runtime/artifact.h"
#include "runtime/base/hash.h"
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

// qn_pass_options.choose. A database that fails on the way is one that is not there: the model's choice is as right.
static bool choose(void *context, const qn_pkernel *kernel, qn_kernel_plan *out) {
  quern_tuned *t = context;
  qn_diag failure = {0};
  t->chooser.diag = &failure;
  bool chosen = qn_plan_choose(&t->chooser, kernel, out);
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
  *out = (quern_tuning_use){.accepted = counts->accepted,
                            .verified = counts->foreign,
                            .rejected = counts->rejected,
                            .missing = counts->missing};
  snprintf(out->first_reason, sizeof out->first_reason, "%s", counts->first_reason);
  snprintf(out->problem, sizeof out->problem, "%s", t->problem);
}

// --- state

// The latest marks of one signature, in any order.
typedef struct latest {
  uint64_t keys[64];  // hashes of whom a mark is for, each once
  int count;
  uint64_t state;
} latest;

static void hash_text(qn_hasher *hasher, const char *text) {
  qn_hasher_update(hasher, text ? text : "", text ? strlen(text) + 1 : 1);
}

// Called with the latest first.
static bool add_mark(void *context, const qn_finished *mark, const char *rejected) {
  latest *l = context;
  qn_hasher hasher;
  int64_t rows[] = {mark->rows_min, mark->rows_max};
  qn_hasher_init(&hasher, 1);
  hash_text(&hasher, mark->signature);
  hash_text(&hasher, mark->target);
  hash_text(&hasher, mark->generator);
  qn_hasher_update(&hasher, rows, sizeof rows);
  uint64_t key = qn_hasher_final(&hasher);
  for (int i = 0; i < l->count; i++)
    if (l->keys[i] == key) return true;
  if (l->count == (int)QN_COUNT(l->keys)) return false;
  l->keys[l->count++] = key;
  hash_text(&hasher, mark->plan);
  hash_text(&hasher, rejected);
  l->state += qn_hasher_final(&hasher);
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

uint64_t quern_tuned_state(const quern_tuned *t, const char *const *signatures, size_t count) {
  if (!t->db) return 0;
  uint64_t state = machine_state(t);
  for (size_t i = 0; i < count; i++) {
    qn_diag unused = {0};
    latest l = {.count = 0};
    qn_db_filter filter = {
        .signature = signatures[i], .fingerprint = t->chooser.key.fingerprint, .threads = t->chooser.key.threads};
    if (qn_db_each_finished(t->db, &filter, add_mark, &l, &unused) != QN_OK) return 0;
    state += l.state;
  }
  return state ? state : QUERN_TUNED_NOTHING;
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

static bool is_current(const qn_artifact *artifact, const quern_tuned *t, qn_arena *arena) {
  if (artifact->program->machine == QN_ART_GPU) return true;  // records are of CPUs
  enum { MOST = 4096 };  // kernels, of which programs have some dozens
  qn_str text = text_of(artifact, QN_SECTION_KERNELS), value;
  const char **signatures = QN_ARENA_ARRAY(arena, MOST, const char *);
  size_t count = 0;
  while (signatures && count < MOST && take_value(&text, "#   signature = ", &value)) {
    signatures[count] = qn_arena_strndup(arena, value.data, value.length);
    if (!signatures[count++]) return true;
  }
  uint64_t state = signatures ? quern_tuned_state(t, signatures, count) : 0, then = QUERN_TUNED_NOTHING;
  text = text_of(artifact, QN_SECTION_SUMMARY);
  char digits[24];
  if (take_value(&text, "tuning = ", &value)) {
    snprintf(digits, sizeof digits, "%.*s", (int)(value.length < 20 ? value.length : 20), value.data);
    then = strtoull(digits, NULL, 16);
  }
  return state == 0 || state == then;
}

bool quern_cache_is_current(const char *artifact_path, const quern_compile_options *options) {
  quern_compile_options own;
  qn_diag unused = {0};
  qn_artifact artifact;
  qn_arena arena;
  quern_tuned tuned;
  if (quern_own_options(options, &own, &unused) != QN_OK || own.schedule) return true;
  if (qn_artifact_open(&artifact, artifact_path, &unused) != QN_OK) return true;
  qn_arena_init(&arena, qn_allocator_default());
  quern_tuned_init(&tuned, &arena);
  quern_tuned_open(&tuned, own.tuning_db, 0);
  bool current = !tuned.db || is_current(&artifact, &tuned, &arena);
  quern_tuned_deinit(&tuned);
  qn_arena_deinit(&arena);
  qn_artifact_close(&artifact);
  return current;
}
