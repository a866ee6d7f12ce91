// The machine's topology by hwloc, within the process's affinity mask (which cpusets of containers narrow); where hwloc
// fails, every CPU of the mask counts as a core.
#include "runtime/topology.h"

#include <hwloc.h>
#include <hwloc/glibc-sched.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_CORES 1024  // what a cpu_set_t can hold

static qn_topology machine;
static cpu_set_t core_cpus[MAX_CORES];  // of each core: its CPUs within the mask

static void add_core(const cpu_set_t *cpus) {
  if (machine.cores < MAX_CORES && CPU_COUNT(cpus) > 0) core_cpus[machine.cores++] = *cpus;
}

static void add_cores(hwloc_topology_t topology, const cpu_set_t *allowed) {
  int count = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE);
  for (int i = 0; i < count; i++) {
    hwloc_obj_t core = hwloc_get_obj_by_type(topology, HWLOC_OBJ_CORE, (unsigned)i);
    cpu_set_t cpus;
    if (!core || hwloc_cpuset_to_glibc_sched_affinity(topology, core->cpuset, &cpus, sizeof cpus) != 0) continue;
    CPU_AND(&cpus, &cpus, allowed);
    add_core(&cpus);
  }
}

static uint64_t cache_bytes(hwloc_topology_t topology, hwloc_obj_type_t type, bool all) {
  uint64_t bytes = 0;
  int count = hwloc_get_nbobjs_by_type(topology, type);
  for (int i = 0; i < count; i++) {
    hwloc_obj_t cache = hwloc_get_obj_by_type(topology, type, (unsigned)i);
    uint64_t size = cache && cache->attr ? cache->attr->cache.size : 0;
    bytes = all ? bytes + size : bytes > size ? bytes : size;
  }
  return bytes;
}

static int at_least_1(int count) { return count > 1 ? count : 1; }

static int level_of(hwloc_obj_type_t type) { return (int)type - (int)HWLOC_OBJ_L1CACHE + 1; }

static void add_caches(hwloc_topology_t topology) {
  for (hwloc_obj_type_t type = HWLOC_OBJ_L1CACHE; type <= HWLOC_OBJ_L5CACHE; type++) {
    int count = hwloc_get_nbobjs_by_type(topology, type);
    qn_cache found = {.level = level_of(type), .count = count};
    for (int i = 0; i < count; i++) {
      hwloc_obj_t cache = hwloc_get_obj_by_type(topology, type, (unsigned)i);
      if (!cache || !cache->attr || cache->attr->cache.size <= found.bytes) continue;
      int cores = hwloc_get_nbobjs_inside_cpuset_by_type(topology, cache->cpuset, HWLOC_OBJ_CORE);
      found.bytes = cache->attr->cache.size;
      found.line_bytes = (int)cache->attr->cache.linesize;
      found.cores = cores > 1 ? cores : 1;
    }
    if (found.bytes > 0) machine.caches[machine.cache_count++] = found;
  }
}
_Static_assert(HWLOC_OBJ_L5CACHE - HWLOC_OBJ_L1CACHE + 1 == QN_TOPOLOGY_CACHES, "a place for every level");

static void add_memory(hwloc_topology_t topology) {
  for (int i = 0; i < machine.numa_nodes; i++) {
    hwloc_obj_t node = hwloc_get_obj_by_type(topology, HWLOC_OBJ_NUMANODE, (unsigned)i);
    if (node && node->attr) machine.memory_bytes += node->attr->numanode.local_memory;
  }
}

static void add_name(hwloc_topology_t topology) {
  hwloc_obj_t package = hwloc_get_obj_by_type(topology, HWLOC_OBJ_PACKAGE, 0);
  const char *name = package ? hwloc_obj_get_info_by_name(package, "CPUModel") : NULL;
  if (name) snprintf(machine.cpu, sizeof machine.cpu, "%s", name);
}

// hwloc asks the kernel, and x86 CPUs themselves, for which it binds this thread to one after another: on a busy machine
// that is a wait of milliseconds for each.
static bool load(bool ask_cpus, hwloc_topology_t *out) {
  if (hwloc_topology_init(out) != 0) return false;
  if (!ask_cpus) (void)hwloc_topology_set_components(*out, HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST, "x86");
  if (hwloc_topology_load(*out) == 0) return true;
  hwloc_topology_destroy(*out);
  return false;
}

static bool is_whole(hwloc_topology_t topology) {
  return hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE) > 0 && hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_L1CACHE) > 0;
}

static void ask_hwloc(const cpu_set_t *allowed) {
  hwloc_topology_t topology;
  bool loaded = load(false, &topology);
  if (loaded && !is_whole(topology)) {  // the kernel of some virtual machines tells less than their CPUs do
    hwloc_topology_destroy(topology);
    loaded = load(true, &topology);
  }
  if (loaded) {
    add_cores(topology, allowed);
    machine.numa_nodes = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_NUMANODE);
    machine.packages = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_PACKAGE);
    machine.l1d_bytes = cache_bytes(topology, HWLOC_OBJ_L1CACHE, false);
    machine.l2_bytes = cache_bytes(topology, HWLOC_OBJ_L2CACHE, false);
    machine.l3_bytes = cache_bytes(topology, HWLOC_OBJ_L3CACHE, true);
    machine.machine_cores = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE);
    add_caches(topology);
    add_memory(topology);
    add_name(topology);
    hwloc_topology_destroy(topology);
  }
}

// Where quotas of CPU time stand, by version and, of version 1, by the names that its hierarchy is mounted under.
typedef struct quota_files {
  const char *controller;      // that the line of the process's cgroup names; "" = the line of version 2
  const char *mount;           // below where cgroups are mounted
  const char *quota, *period;  // of a cgroup, in microseconds; period NULL: behind the quota in its file
} quota_files;

static const quota_files quotas[] = {
    {"", "", "/cpu.max", NULL},
    {"cpu", "/cpu,cpuacct", "/cpu.cfs_quota_us", "/cpu.cfs_period_us"},
    {"cpu", "/cpuacct,cpu", "/cpu.cfs_quota_us", "/cpu.cfs_period_us"},
    {"cpu", "/cpu", "/cpu.cfs_quota_us", "/cpu.cfs_period_us"},
};

enum { MOST_NAME = 32 };  // of a cgroup's file, with its NUL

// The first numbers in a file of the folder whose path `path` is, which has room for its name; gives how many there are.
static int read_numbers(char *path, const char *name, long long out[2]) {
  size_t length = strlen(path);
  memcpy(path + length, name, strlen(name) + 1);
  FILE *file = fopen(path, "re");
  path[length] = '\0';
  if (!file) return 0;
  int fields = fscanf(file, "%lld %lld", &out[0], &out[1]);  // "max 100000" gives none
  fclose(file);
  return fields;
}

// CPUs' worth of time by a cgroup's files, rounded up; `otherwise` where that is less, or there is no quota (version 1 says
// -1 then).
static int quota_of(const quota_files *files, char *path, int otherwise) {
  long long time[2] = {0}, period[2] = {0};
  int fields = read_numbers(path, files->quota, time);
  if (files->period && fields == 1 && read_numbers(path, files->period, period) == 1) {
    time[1] = period[0];
    fields = 2;
  }
  if (fields != 2 || time[0] <= 0 || time[1] <= 0) return otherwise;
  long long cpus = time[0] / time[1] + (time[0] % time[1] != 0);
  return cpus < otherwise ? (int)cpus : otherwise;
}

// Is the controller in the list, "cpu,cpuacct"? "" is in the empty one alone.
static bool has_controller(const char *list, size_t length, const char *controller) {
  if (length == 0 || *controller == '\0') return length == 0 && *controller == '\0';
  for (size_t at = 0, end; at < length; at = end + 1) {
    for (end = at; end < length && list[end] != ',';) end++;
    if (end - at == strlen(controller) && memcmp(list + at, controller, end - at) == 0) return true;
  }
  return false;
}

// The process's cgroup in the controller's hierarchy, "/a/b", behind `out`, which has room for `size` bytes with what is
// there; nothing where there is none. A line is "number:controllers:cgroup".
static void append_cgroup(const char *self, const char *controller, char *out, size_t size) {
  char line[PATH_MAX];
  FILE *file = fopen(self, "re");
  while (file && fgets(line, sizeof line, file)) {
    const char *list = strchr(line, ':'), *path = list ? strchr(list + 1, ':') : NULL;
    if (!path || path[1] != '/' || !has_controller(list + 1, (size_t)(path - list - 1), controller)) continue;
    size_t length = strcspn(path + 1, "\n"), used = strlen(out);
    if (length == 1 || used + length >= size) continue;
    memcpy(out + used, path + 1, length);
    out[used + length] = '\0';
  }
  if (file) fclose(file);
}

int qn_topology_quota_cpus(const char *root, const char *self, int otherwise) {
  char path[PATH_MAX + MOST_NAME];
  for (size_t i = 0; i < sizeof quotas / sizeof *quotas; i++) {
    size_t top = strlen(root) + strlen(quotas[i].mount);
    if (top >= PATH_MAX) continue;
    strcpy(stpcpy(path, root), quotas[i].mount);
    append_cgroup(self, quotas[i].controller, path, PATH_MAX);
    for (;;) {  // outwards: each may have a quota
      otherwise = quota_of(&quotas[i], path, otherwise);
      char *slash = strrchr(path + top, '/');
      if (!slash) break;
      *slash = '\0';
    }
  }
  return otherwise;
}

static void ask_machine(void) {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) {  // more CPUs than a cpu_set_t holds
    CPU_ZERO(&allowed);
    for (int i = 0; i < CPU_SETSIZE; i++) CPU_SET(i, &allowed);
  } else {
    machine.cpus = CPU_COUNT(&allowed);
  }
  ask_hwloc(&allowed);
  bool known = machine.cores > 0;
  for (int i = 0; !known && machine.cpus > 0 && i < CPU_SETSIZE; i++) {
    cpu_set_t one;
    CPU_ZERO(&one);
    if (CPU_ISSET(i, &allowed)) CPU_SET(i, &one);
    add_core(&one);
  }
  if (machine.cores == 0) add_core(&allowed);
  machine.cpus = machine.cpus > machine.cores ? machine.cpus : machine.cores;
  machine.numa_nodes = at_least_1(machine.numa_nodes);
  machine.packages = at_least_1(machine.packages);
  if (machine.machine_cores < machine.cores) machine.machine_cores = machine.cores;
  machine.default_threads = at_least_1(qn_topology_quota_cpus("/sys/fs/cgroup", "/proc/self/cgroup", machine.cores));
}

const qn_topology *qn_topology_get(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, ask_machine);
  return &machine;
}

bool qn_topology_bind(int core) {
  if (core < 0 || core >= qn_topology_get()->cores) return false;
  return sched_setaffinity(0, sizeof core_cpus[core], &core_cpus[core]) == 0;
}

bool qn_topology_bind_saving(int core, cpu_set_t *out_before) {
  return sched_getaffinity(0, sizeof *out_before, out_before) == 0 && qn_topology_bind(core);
}

void qn_topology_unbind(const cpu_set_t *before) {
  if (sched_setaffinity(0, sizeof *before, before) != 0) return;  // the mask was the system's own: nothing to do
}

bool qn_topology_interleave(void *memory, size_t size) {
  hwloc_topology_t topology;
  if (qn_topology_get()->numa_nodes < 2 || !load(false, &topology)) return false;
  bool done = hwloc_set_area_membind(topology, memory, size, hwloc_topology_get_topology_nodeset(topology),
                                     HWLOC_MEMBIND_INTERLEAVE, HWLOC_MEMBIND_BYNODESET) == 0;
  hwloc_topology_destroy(topology);
  return done;
}
