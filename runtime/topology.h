// The machine as far as threads care: physical cores this process may use, which of them is which, caches, NUMA nodes.
#ifndef QN_RUNTIME_TOPOLOGY_H
#define QN_RUNTIME_TOPOLOGY_H

#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Caches of one level for data, all alike: of several kinds (a machine with small cores and large ones) the largest.
typedef struct qn_cache {
  int level;       // 1 is nearest
  uint64_t bytes;  // of one
  int line_bytes;  // 0 = not known
  int count;       // of them in the machine
  int cores;       // that share one
} qn_cache;
#define QN_TOPOLOGY_CACHES 5

typedef struct qn_topology {
  int cores;                     // physical cores with a CPU in this process's affinity mask, at least 1
  int cpus;                      // logical CPUs in the mask
  int default_threads;           // cores, or fewer where a CPU quota is smaller (qn_topology_quota_cpus)
  int numa_nodes;                // at least 1
  int packages;                  // at least 1
  uint64_t l1d_bytes, l2_bytes;  // of one core; 0 = not known
  uint64_t l3_bytes;             // of all last-level caches that the cores share; 0 = none or not known
  int machine_cores;             // physical cores of the machine, whether they may be used or not; at least 1
  uint64_t memory_bytes;         // of all NUMA nodes; 0 = not known
  qn_cache caches[QN_TOPOLOGY_CACHES];  // by level
  int cache_count;
  char cpu[96];  // the name that the system gives it; empty = none
} qn_topology;

// Asked of the machine at the first call, for the whole process: later changes of the affinity mask are not seen.
const qn_topology *qn_topology_get(void);
// CPUs' worth of time that the process may use by its cgroups (of version 2, and of version 1) and those around them, rounded
// up, the least of them;
// `otherwise` where that is less, or none has a quota. `root` is where cgroups are mounted, `self` the file that tells which
// one is the process's (/proc/self/cgroup).
int qn_topology_quota_cpus(const char *root, const char *self, int otherwise);
// Binds the calling thread to a core (0 .. cores-1, neighbours first). False when the system refuses.
bool qn_topology_bind(int core);
// Binds the calling thread to a core and gives its mask before that, for qn_topology_unbind.
bool qn_topology_bind_saving(int core, cpu_set_t *out_before);
void qn_topology_unbind(const cpu_set_t *before);

// Spreads memory that nobody has touched yet over the NUMA nodes, page by page: any thread may come to read any part of
// it. False where there is one node only, or the system refuses; then pages lie where they are touched first.
bool qn_topology_interleave(void *memory, size_t size);

#endif
