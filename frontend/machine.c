// The machine's speeds for the public API: probe kernels from autotune, linked by the JIT.
#include <inttypes.h>
#include <stdlib.h>

#include "frontend/compile.h"
#include "frontend/machine_probes.h"
#include "frontend/quern.h"

_Static_assert((int)QUERN_RATE_READ == (int)QN_RATE_READ && (int)QUERN_RATE_NARROW == (int)QN_RATE_NARROW,
               "the public rates are the internal ones");

struct quern_machine {
  quern_machine_probes probes;
  qn_threads *threads;  // owned; NULL before the first measurement
};

qn_status quern_machine_probes_open(quern_machine_probes *p, const char *target_name, qn_diag *diag) {
  const qn_lkernel *kernels[QN_PROBE_COUNT];
  qn_arena arena;
  *p = (quern_machine_probes){0};
  QN_TRY(qn_target_parse(target_name, &p->target, diag));
  qn_codegen_options codegen = {.target = &p->target, .threads = 1};
  qn_arena_init(&arena, qn_allocator_default());
  qn_status status = qn_machine_kernels(&p->target, &arena, kernels, diag);
  if (status == QN_OK) {
    status = qn_jit_create(kernels, QN_PROBE_COUNT, &codegen, qn_allocator_default(), &p->jit, diag);
  }
  qn_arena_deinit(&arena);
  QN_TRY(status);
  for (size_t i = 0; i < QN_PROBE_COUNT; i++) p->entries[i] = qn_jit_kernel(p->jit, i);
  return qn_machine_create(&p->target, p->entries, qn_allocator_default(), &p->machine, diag);
}

void quern_machine_probes_close(quern_machine_probes *p) {
  qn_machine_destroy(p->machine);
  qn_jit_destroy(p->jit);
}

int quern_machine_open(const char *target, quern_machine **out, quern_error *error) {
  qn_diag diag = {0};
  *out = NULL;
  quern_machine *m = calloc(1, sizeof *m);
  qn_status status = m ? quern_machine_probes_open(&m->probes, target ? target : "host", &diag) : qn_fail_nomem(&diag, "machine", "it");
  if (status == QN_OK) {
    *out = m;
  } else {
    quern_machine_close(m);
  }
  return quern_give_error(error, &diag, status);
}

void quern_machine_close(quern_machine *m) {
  if (!m) return;
  qn_threads_destroy(m->threads);
  quern_machine_probes_close(&m->probes);
  free(m);
}

static qn_status have_threads(quern_machine *m, int count, qn_diag *diag) {
  if (m->threads && qn_threads_count(m->threads) == count) return QN_OK;
  qn_threads_destroy(m->threads);
  m->threads = NULL;
  return qn_threads_create(count, true, qn_allocator_default(), &m->threads, diag);
}

int quern_machine_measure(quern_machine *m, quern_rate rate, int threads, quern_clock clock, double *out_per_second,
                          quern_error *error) {
  qn_diag diag = {0};
  *out_per_second = 0;
  qn_status status = QN_OK;
  if ((unsigned)rate >= QN_RATE_COUNT) {
    status = qn_fail(&diag, QN_ERR_ARGUMENT, "rate", "got %d, want 0 to %d", (int)rate, QN_RATE_COUNT - 1);
  }
  if (status == QN_OK) status = have_threads(m, threads, &diag);
  if (status == QN_OK)
    *out_per_second = qn_machine_measure(m->probes.machine, m->threads, (qn_rate)rate, clock == QUERN_CLOCK_CPU);
  return quern_give_error(error, &diag, status);
}

uint64_t quern_machine_huge_bytes(const quern_machine *m) { return qn_machine_huge_bytes(m->probes.machine); }
