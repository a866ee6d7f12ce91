// What an explanation knows of the machine: its stored profile, or a short measurement where there is none.
#include "frontend/compilation.h"
#include "frontend/explain.h"
#include "frontend/machine.h"
#include "frontend/machine_probes.h"

#define PROFILE_S 1.0  // how long to measure it

qn_status explain_find_profile(explaining *x) {
  qn_db *db = NULL;
  int64_t when = 0;
  qn_diag problem = {0};
  if (quern_keeps_nothing(x->options->tuning_db)) return QN_OK;
  qn_status status = qn_db_open(x->options->tuning_db, true, qn_allocator_default(), &db, &problem);
  if (status == QN_OK) status = quern_machine_stored(db, &x->profile, &when, &x->profile_found, NULL, 0, &problem);
  qn_db_close(db);
  if (status != QN_OK) x->profile_found = false;
  return explain_without_database(x, status, &problem);
}

static qn_status measure_profile(explaining *x, qn_machine_profile *out) {
  quern_machine_probes probes;
  qn_status status = quern_machine_probes_open(&probes, x->e->told.target, x->diag);
  if (status == QN_OK) status = explain_report(x, "measuring the machine", 0, 0);
  if (status == QN_OK) {
    status = qn_profile_measure(probes.machine, &probes.target, x->threads, PROFILE_S, qn_allocator_default(), NULL,
                                NULL, out, x->diag);
  }
  quern_machine_probes_close(&probes);
  return status;
}

qn_status explain_machine(explaining *x) {
  qn_target target;
  QN_TRY(qn_target_parse(x->e->told.target, &target, x->diag));
  if (!x->profile_found) QN_TRY(measure_profile(x, &x->profile));
  qn_machine_model *m = &x->memory_machine;
  *m = quern_machine_model(&target, NULL, x->threads);
  qn_profile_fill_model(&x->profile, &target, x->threads, m);
  if (x->rates.read > 0) m->memory_bytes_per_s = x->rates.read;  // of the same run as the kernels'
  return QN_OK;
}
