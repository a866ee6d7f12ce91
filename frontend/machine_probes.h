// The machine's probe kernels, compiled for a target and linked by the JIT: what measuring it wants open.
#ifndef QUERN_FRONTEND_MACHINE_PROBES_H
#define QUERN_FRONTEND_MACHINE_PROBES_H

#include "autotune/machine.h"
#include "codegen/codegen.h"

typedef struct quern_machine_probes {
  qn_target target;
  qn_jit *jit;          // owned
  qn_machine *machine;  // owned
  qn_kernel_entry entries[QN_PROBE_COUNT];
} quern_machine_probes;

// To be closed in every case. Errors: ARGUMENT (no such target), TARGET (it does not run here), NOMEM.
QN_CHECKED qn_status quern_machine_probes_open(quern_machine_probes *out, const char *target, qn_diag *diag);
void quern_machine_probes_close(quern_machine_probes *probes);

#endif
