// The runtime's topology without hwloc: one core, no binding. For programs cross-built to run under emulation, which
// have the C library and nothing else; linked in place of runtime/topology.c.
#include "runtime/topology.h"

#include <stddef.h>

const qn_topology *qn_topology_get(void) {
  static const qn_topology machine = {.cores = 1, .machine_cores = 1, .cpus = 1, .default_threads = 1, .numa_nodes = 1, .packages = 1};
  return &machine;
}

bool qn_topology_bind(int core) {
  (void)core;
  return false;
}

bool qn_topology_bind_saving(int core, cpu_set_t *out_before) {
  (void)core, (void)out_before;
  return false;
}

void qn_topology_unbind(const cpu_set_t *before) { (void)before; }

bool qn_topology_interleave(void *memory, size_t size) {
  (void)memory, (void)size;
  return false;
}
