// The machine's profile for the public API: measured by autotune/profile_measure.c, kept in the tuning database.
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "codegen/target.h"
#include "frontend/compile.h"
#include "frontend/machine.h"
#include "frontend/machine_probes.h"
#include "frontend/quern.h"
#include "runtime/base/options.h"
#include "runtime/cpu_features.h"
#include "runtime/topology.h"

_Static_assert((int)QUERN_MACHINE_COUNTS == (int)QN_PROFILE_COUNTS && (int)QUERN_LEVELS == (int)QN_PROFILE_LEVELS &&
                   (int)QUERN_MACHINE_CACHES == (int)QN_TOPOLOGY_CACHES,
               "the public profile has room for the internal one");

#define DEFAULT_BUDGET_S 4.0

bool quern_keeps_nothing(const char *tuning_db) { return tuning_db && strcmp(tuning_db, "none") == 0; }

// --- from the database

static qn_status read_stored(qn_db *db, const char *fingerprint, qn_arena *arena, qn_machine_profile *out,
                             int64_t *out_when, bool *out_found, char *note, size_t note_size, qn_diag *diag) {
  qn_machine_record record;
  bool found = false;
  int rejected = 0;
  qn_diag parsing = {0};
  QN_TRY(qn_db_machine(db, fingerprint, arena, &record, &found, &rejected, diag));
  if (rejected > 0 && note)
    snprintf(note, note_size, "%d stored measurement%s rejected: edited or damaged", rejected,
             rejected > 1 ? "s were" : " was");
  if (!found) return QN_OK;
  qn_status status = qn_profile_parse("the stored profile", qn_str_from(record.profile), out, &parsing);
  if (status == QN_OK) {
    *out_when = record.when;
    *out_found = true;
  } else if (note) {
    snprintf(note, note_size, "%.400s", parsing.text);
  }
  return status == QN_ERR_NOMEM ? qn_fail_nomem(diag, qn_db_path(db), "a profile") : QN_OK;
}

qn_status quern_machine_stored(qn_db *db, qn_machine_profile *out, int64_t *out_when, bool *out_found, char *note,
                               size_t note_size, qn_diag *diag) {
  qn_arena arena;
  qn_buf fingerprint;
  *out_found = false;
  if (note && note_size > 0) note[0] = '\0';
  qn_arena_init(&arena, qn_allocator_default());
  qn_buf_init(&fingerprint, qn_allocator_default());
  qn_machine_fingerprint(0, &fingerprint);
  qn_status status = fingerprint.failed ? qn_fail_nomem(diag, "machine", "a fingerprint")
                                        : read_stored(db, qn_buf_text(&fingerprint), &arena, out, out_when, out_found,
                                                      note, note_size, diag);
  qn_buf_deinit(&fingerprint);
  qn_arena_deinit(&arena);
  return status;
}

void quern_machine_fill_model(qn_db *db, const qn_target *target, int threads, qn_machine_model *model) {
  char missing[64];
  qn_machine_profile profile;
  qn_diag ignored = {0};  // who wants to know asks quern machine
  int64_t when;
  bool found = false;
  bool runs_here =
      (unsigned)target->arch == qn_cpu_arch() && !qn_cpu_missing(target->required, missing, sizeof missing);
  if (!runs_here) return;
  if (db && quern_machine_stored(db, &profile, &when, &found, NULL, 0, &ignored) != QN_OK) found = false;
  qn_profile_fill_model(found ? &profile : NULL, target, threads, model);
}

static qn_status store(qn_db *db, const char *fingerprint, const qn_machine_profile *profile, int64_t when,
                       qn_diag *diag) {
  qn_buf text;
  qn_buf_init(&text, qn_allocator_default());
  qn_profile_print(profile, &text);
  qn_machine_record record = {.fingerprint = fingerprint, .profile = qn_buf_text(&text), .when = when};
  qn_status status =
      text.failed ? qn_fail_nomem(diag, qn_db_path(db), "a profile") : qn_db_put_machine(db, &record, diag);
  qn_buf_deinit(&text);
  return status;
}

// --- to the public form

static quern_machine_settings settings_of(const qn_machine_knobs *knobs) {
  return (quern_machine_settings){.threads_prefill = knobs->threads_prefill,
                                  .threads_decode = knobs->threads_decode,
                                  .pin = knobs->pin != 0,
                                  .huge_pages = (quern_huge_pages)knobs->huge_pages,
                                  .spin_us = knobs->spin_us > 0 ? knobs->spin_us : -1,
                                  .grain = knobs->grain};
}

static void put_topology(quern_machine_profile *out) {
  const qn_topology *machine = qn_topology_get();
  qn_buf text;
  qn_buf_init(&text, qn_allocator_default());
  qn_machine_features(&text);
  snprintf(out->features, sizeof out->features, "%s", qn_buf_text(&text));
  qn_buf_deinit(&text);
  qn_machine_fingerprint(0, &text);
  snprintf(out->fingerprint, sizeof out->fingerprint, "%s", qn_buf_text(&text));
  qn_buf_deinit(&text);
  snprintf(out->cpu, sizeof out->cpu, "%s", machine->cpu);
  out->packages = machine->packages;
  out->numa_nodes = machine->numa_nodes;
  out->machine_cores = machine->machine_cores;
  out->cores = machine->cores;
  out->cpus = machine->cpus;
  out->threads = machine->default_threads;
  out->memory_bytes = machine->memory_bytes;
  out->cache_count = machine->cache_count;
  for (int i = 0; i < machine->cache_count; i++) {
    const qn_cache *cache = &machine->caches[i];
    out->caches[i] = (quern_cache){cache->level, cache->bytes, cache->line_bytes, cache->count, cache->cores};
  }
}

static void put_profile(const qn_machine_profile *p, int64_t when, bool stored, quern_machine_profile *out) {
  snprintf(out->target, sizeof out->target, "%s", p->target);
  out->measured_at = when;
  out->stored = stored;
  out->count = p->count;
  memcpy(out->thread_counts, p->threads, sizeof p->threads);
  memcpy(out->read, p->read, sizeof p->read);
  memcpy(out->fma, p->fma, sizeof p->fma);
  memcpy(out->bf16, p->bf16, sizeof p->bf16);
  memcpy(out->int8, p->int8, sizeof p->int8);
  memcpy(out->narrow, p->narrow, sizeof p->narrow);
  memcpy(out->barrier_s, p->barrier_s, sizeof p->barrier_s);
  memcpy(out->piece_s, p->piece_s, sizeof p->piece_s);
  memcpy(out->read_part, p->read_part, sizeof p->read_part);
  memcpy(out->int8_part, p->int8_part, sizeof p->int8_part);
  memcpy(out->dots, p->dots, sizeof p->dots);
  out->huge_gain = p->huge_gain;
  out->moving_gain = p->moving_gain;
  out->ahead_gain = p->ahead_gain;
  out->far_gain = p->far_gain;
  out->wake_s = p->wake_s;
  out->cycles_per_s = p->cycles_per_s;
  out->fma_latency = p->fma_latency;
  out->vector_ops = p->vector_ops;
  out->huge_bytes = p->huge_bytes;
  out->settings = settings_of(&p->knobs);
}

// --- measuring

static bool report(void *context, int done, int total) {
  const quern_machine_options *options = context;
  return !options->progress ||
         options->progress(options->progress_context, "measuring the machine", (uint64_t)done, (uint64_t)total);
}

static qn_status measure(const quern_machine_options *o, qn_machine_profile *out, qn_diag *diag) {
  quern_machine_probes probes;
  if (!report((void *)(uintptr_t)o, 0, 100))
    return qn_fail(diag, QN_ERR_CANCELLED, "machine", "stopped before measuring");
  qn_status status = quern_machine_probes_open(&probes, "host", diag);
  if (status == QN_OK)
    status = qn_profile_measure(probes.machine, &probes.target, 0, o->budget_s > 0 ? o->budget_s : DEFAULT_BUDGET_S,
                                qn_allocator_default(), report, (void *)(uintptr_t)o, out, diag);
  quern_machine_probes_close(&probes);
  return status;
}

// What is told is what is stored, to the digit.
static qn_status round_profile(qn_machine_profile *profile, qn_diag *diag) {
  qn_buf text;
  qn_buf_init(&text, qn_allocator_default());
  qn_profile_print(profile, &text);
  qn_status status = text.failed ? qn_fail_nomem(diag, "machine", "a profile")
                                 : qn_profile_parse("machine", (qn_str){text.data, text.length}, profile, diag);
  qn_buf_deinit(&text);
  return status;
}

// With the database open, or NULL.
static qn_status get_profile(qn_db *db, const quern_machine_options *o, quern_machine_profile *out, qn_diag *diag) {
  qn_machine_profile profile;
  int64_t when = 0;
  bool found = false;
  if (db && !o->fresh) QN_TRY(quern_machine_stored(db, &profile, &when, &found, out->note, sizeof out->note, diag));
  if (found) {
    put_profile(&profile, when, true, out);
    return QN_OK;
  }
  QN_TRY(measure(o, &profile, diag));
  QN_TRY(round_profile(&profile, diag));
  when = (int64_t)time(NULL);
  put_profile(&profile, when, false, out);
  return db ? store(db, out->fingerprint, &profile, when, diag) : QN_OK;
}

int quern_machine_get_profile(const quern_machine_options *options, quern_machine_profile *out, quern_error *error) {
  quern_machine_options own;
  qn_diag diag = {0};
  qn_db *db = NULL;
  quern_machine_profile made;
  memset(&made, 0, sizeof made);  // padding, too: profiles are compared
  made.size = sizeof made;
  qn_status status = qn_options_take(options, "quern_machine_options", &own, sizeof own, &diag);
  if (status == QN_OK) status = qn_result_check(out, "quern_machine_profile", &diag);
  put_topology(&made);
  if (status == QN_OK && !quern_keeps_nothing(own.tuning_db))
    status = qn_db_open(own.tuning_db, false, qn_allocator_default(), &db, &diag);
  if (status == QN_OK) status = get_profile(db, &own, &made, &diag);
  qn_db_close(db);
  qn_result_give(out, &made, sizeof made);
  return quern_give_error(error, &diag, status);
}

// Where neither a file nor the folder of one was named there is nothing stored.
static bool has_place(const char *tuning_db) {
  const char *xdg = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
  return tuning_db || (xdg && *xdg) || (home && *home);
}

int quern_machine_get_settings(const char *tuning_db, quern_machine_settings *out, bool *out_found,
                               quern_error *error) {
  qn_diag diag = {0};
  qn_db *db = NULL;
  qn_machine_profile profile;
  int64_t when;
  *out = (quern_machine_settings){.pin = true};
  *out_found = false;
  if (quern_keeps_nothing(tuning_db) || !has_place(tuning_db)) return quern_give_error(error, &diag, QN_OK);
  qn_status status = qn_db_open(tuning_db, true, qn_allocator_default(), &db, &diag);
  if (status == QN_OK) status = quern_machine_stored(db, &profile, &when, out_found, NULL, 0, &diag);
  if (status == QN_OK && *out_found) *out = settings_of(&profile.knobs);
  qn_db_close(db);
  return quern_give_error(error, &diag, status);
}
