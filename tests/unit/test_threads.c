// The threads: every share is done once, nobody passes a barrier early, whatever the number of threads. And the machine
// they run on: topology and CPU features.
#include "runtime/threads.h"

#include <sched.h>
#include <signal.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/cpu_features.h"
#include "runtime/topology.h"
#include "tests/support/test.h"

static const int counts[] = {1, 2, 3, 8};

static qn_threads *create(int count, bool pin) {
  qn_threads *threads = NULL;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_threads_create(count, pin, qn_test_allocator(), &threads, &diag));
  ck_assert_int_eq(qn_threads_count(threads), count);
  return threads;
}

// --- runs

typedef struct tally {
  qn_threads *threads;
  qn_work work;
  int marks[1000];  // plain memory: the end of a run makes it visible
  int threads_seen[8];
} tally;

static void mark_pieces(void *context, int thread, int thread_count) {
  (void)thread_count;
  tally *t = context;
  int64_t begin, end;
  while (qn_work_take(&t->work, thread, &begin, &end)) {
    for (int64_t i = begin; i < end; i++) t->marks[i]++;
    qn_work_finish(t->threads, &t->work, end - begin);
  }
  qn_work_wait(t->threads, &t->work);
  for (uint32_t i = 1; i < t->work.extent; i++)
    qn_check(t->marks[i] == t->marks[0], "work was not done when waited for");
  t->threads_seen[thread]++;
}

static void run_marking(tally *t, uint32_t extent) {
  qn_work_reset(&t->work, extent, NULL, t->threads);
  qn_threads_run(t->threads, mark_pieces, t);
}

START_TEST(every_piece_is_done_once) {
  static const uint32_t extents[] = {0, 1, 2, 7, 8, 999, 1000};
  for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
    qn_threads *threads = create(counts[c], true);
    for (size_t e = 0; e < sizeof extents / sizeof *extents; e++) {
      tally t = {.threads = threads};
      qn_threads_set_grain(threads, 1 + (int)e);
      for (int run = 1; run <= 50; run++) run_marking(&t, extents[e]);
      for (uint32_t i = 0; i < 1000; i++) ck_assert(t.marks[i] == (i < extents[e] ? 50 : 0));
      for (int i = 0; i < 8; i++) ck_assert(t.threads_seen[i] == (i < counts[c] ? 50 : 0));
    }
    qn_threads_destroy(threads);
  }
}
END_TEST

// Others sit out, sleep, and come back in the middle of everything, with and without runs in between.
START_TEST(some_of_the_threads) {
  enum { MOST = 5 };
  qn_threads *threads = create(MOST, false);
  qn_test_random random = {7};
  tally t = {.threads = threads};
  int want[MOST] = {0};
  ck_assert_int_eq(qn_threads_created(threads), MOST);
  for (int run = 1; run <= 400; run++) {
    int use = 1 + (int)(qn_test_random_u64(&random) % MOST);
    qn_threads_use(threads, use);
    ck_assert_int_eq(qn_threads_count(threads), use);
    if (qn_test_random_u64(&random) % 8 == 0) qn_threads_set_spin(threads, qn_test_random_u64(&random) % 50000);
    if (qn_test_random_u64(&random) % 4 == 0) continue;
    run_marking(&t, 10);
    for (int i = 0; i < MOST; i++) want[i] += i < use;
    for (int i = 0; i < MOST; i++) qn_check(t.threads_seen[i] == want[i], "thread %d of %d, run %d", i, use, run);
  }
  qn_threads_use(threads, 0);
  ck_assert_int_eq(qn_threads_count(threads), 1);
  qn_threads_destroy(threads);  // with all but one asleep
}
END_TEST

START_TEST(threads_that_sleep_wake_up) {
  qn_threads *threads = create(3, false);
  tally t = {.threads = threads};
  for (int run = 1; run <= 20; run++) {
    usleep(run % 4 * 200);  // shorter and longer than workers spin
    run_marking(&t, 10);
    for (int i = 0; i < 10; i++) ck_assert_int_eq(t.marks[i], run);
  }
  qn_threads_destroy(threads);
  for (int i = 0; i < 50; i++) qn_threads_destroy(create(4, true));  // without a run
}
END_TEST

// --- barriers

typedef struct relay {
  qn_threads *threads;
  int rounds;
  struct {
    alignas(64) int round;  // plain memory: the barrier orders it
  } slots[8];
  atomic_int early;
} relay;

static void run_relay(void *context, int thread, int thread_count) {
  relay *r = context;
  for (int round = 1; round <= r->rounds; round++) {
    r->slots[thread].round = round;
    qn_threads_barrier(r->threads);
    for (int i = 0; i < thread_count; i++) {
      if (r->slots[i].round != round) atomic_fetch_add(&r->early, 1);
    }
    qn_threads_barrier(r->threads);
  }
}

START_TEST(nobody_passes_a_barrier_early) {
  // Many where threads have cores of their own, fewer where each barrier is a turn of the scheduler.
  static const int rounds[] = {200000, 200000, 10000, 4000};
  for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
    relay r = {.threads = create(counts[c], true), .rounds = rounds[c]};
    qn_threads_hold(r.threads);
    qn_threads_run(r.threads, run_relay, &r);
    qn_threads_release(r.threads);
    ck_assert_int_eq(atomic_load(&r.early), 0);
    qn_threads_destroy(r.threads);
  }
}
END_TEST

static void short_run(void *context, int thread, int thread_count) {
  atomic_int *sum = context;
  (void)thread_count;
  atomic_fetch_add(sum, thread + 1);
}

START_TEST(many_short_runs) {
  qn_threads *threads = create(2, true);
  atomic_int sum = 0;
  for (int i = 0; i < 100000; i++) qn_threads_run(threads, short_run, &sum);
  ck_assert_int_eq(atomic_load(&sum), 300000);
  qn_threads_destroy(threads);
}
END_TEST

// --- creation

START_TEST(counts_and_errors) {
  qn_threads *threads = NULL;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_threads_create(0, true, qn_test_allocator(), &threads, &diag));
  ck_assert_int_eq(qn_threads_count(threads), qn_topology_get()->default_threads);
  qn_threads_destroy(threads);
  qn_assert_fails(&diag, QN_ERR_ARGUMENT, "got -1", qn_threads_create(-1, true, qn_test_allocator(), &threads, &diag));
  ck_assert_ptr_null(threads);
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_ARGUMENT, "got 1000000",
                  qn_threads_create(1000000, true, qn_test_allocator(), &threads, &diag));
}
END_TEST

static qn_status create_and_destroy(const qn_allocator *allocator, void *context) {
  qn_threads *threads = NULL;
  (void)context;
  QN_TRY(qn_threads_create(3, false, allocator, &threads, NULL));
  qn_threads_destroy(threads);
  return QN_OK;
}

START_TEST(out_of_memory) { qn_test_failing_allocations(create_and_destroy, NULL); }
END_TEST

static void remember_mask(void *context, int thread, int thread_count) {
  cpu_set_t *masks = context;
  (void)thread_count;
  sched_getaffinity(0, sizeof *masks, &masks[thread]);
}

START_TEST(the_caller_keeps_its_cpus) {
  const qn_topology *machine = qn_topology_get();
  if (machine->cores < 2) return;
  cpu_set_t before, after, masks[2];
  ck_assert_int_eq(sched_getaffinity(0, sizeof before, &before), 0);
  qn_threads *threads = create(2, true);
  qn_threads_hold(threads);
  qn_threads_hold(threads);
  qn_threads_release(threads);
  qn_threads_run(threads, remember_mask, masks);
  CPU_AND(&after, &masks[0], &masks[1]);
  ck_assert_int_eq(CPU_COUNT(&after), 0);  // no CPU in common
  qn_threads_release(threads);
  ck_assert_int_eq(sched_getaffinity(0, sizeof after, &after), 0);
  ck_assert(CPU_EQUAL(&before, &after));
  qn_threads_destroy(threads);
}
END_TEST

START_TEST(the_machine) {
  const qn_topology *machine = qn_topology_get();
  ck_assert_int_ge(machine->cores, 1);
  ck_assert_int_ge(machine->cpus, machine->cores);
  ck_assert_int_ge(machine->default_threads, 1);
  ck_assert_int_le(machine->default_threads, machine->cores);
  ck_assert_int_ge(machine->numa_nodes, 1);
  ck_assert_int_ge(machine->packages, 1);
  ck_assert_int_ge(machine->machine_cores, machine->cores);
  ck_assert(machine->cache_count >= 0 && machine->cache_count <= QN_TOPOLOGY_CACHES);
  for (int i = 0; i < machine->cache_count; i++) {
    const qn_cache *cache = &machine->caches[i];
    ck_assert(cache->bytes > 0 && cache->count >= 1 && cache->cores >= 1 && cache->line_bytes >= 0);
    ck_assert(cache->level >= 1 && (i == 0 || cache->level > machine->caches[i - 1].level));
  }
  cpu_set_t before, now;
  ck_assert(!qn_topology_bind(-1) && !qn_topology_bind(machine->cores));
  for (int i = 0; i < machine->cores; i++) {
    ck_assert(qn_topology_bind_saving(i, &before));
    ck_assert_int_eq(sched_getaffinity(0, sizeof now, &now), 0);
    ck_assert(CPU_COUNT(&now) <= CPU_COUNT(&before) && CPU_ISSET(sched_getcpu(), &now));
    qn_topology_unbind(&before);
  }
}
END_TEST

// As many threads as the process may have CPUs: of this process, which is the test's own.
START_TEST(fewer_cpus_than_there_are) {
  cpu_set_t all, one;
  ck_assert_int_eq(sched_getaffinity(0, sizeof all, &all), 0);
  CPU_ZERO(&one);
  for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; i++)
    if (CPU_ISSET(i, &all)) CPU_SET(i, &one);
  ck_assert_int_eq(sched_setaffinity(0, sizeof one, &one), 0);
  const qn_topology *machine = qn_topology_get();
  ck_assert(machine->cores == 1 && machine->cpus == 1 && machine->default_threads == 1);
  ck_assert_int_ge(machine->machine_cores, 1);
  qn_threads_destroy(create(1, true));
  qn_threads *threads = NULL;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_threads_create(0, true, qn_test_allocator(), &threads, &diag));
  ck_assert_int_eq(qn_threads_count(threads), 1);
  qn_threads_destroy(threads);
}
END_TEST

static void put_text(const char *path, const char *text) { qn_test_write_file(path, text, strlen(text)); }

// Quotas of containers and services: of the process's own group, of one around it, and of what is nothing of the kind.
START_TEST(quotas) {
  static const struct {
    const char *self, *outer, *middle, *inner;  // NULL = no such file
    int otherwise, want;
  } cases[] = {{"0::/\n", NULL, NULL, NULL, 16, 16},
               {"0::/\n", "150000 100000\n", NULL, NULL, 16, 2},
               {"0::/\n", "50000 100000\n", NULL, NULL, 16, 1},
               {"0::/\n", "max 100000\n", NULL, NULL, 16, 16},
               {"0::/\n", "800000 100000\n", NULL, NULL, 4, 4},
               {"0::/\n", "-1 100000", NULL, NULL, 4, 4},
               {"0::/\n", "100000 0", NULL, NULL, 4, 4},
               {"0::/\n", "what", NULL, NULL, 4, 4},
               {"0::/\n", "max 100000\n", "100000 100000\n", "100000 100000\n", 16, 16},
               {"1:cpu:/other\n0::/a/b\n", NULL, "max 100000\n", "300000 100000\n", 16, 3},
               {"1:cpu:/other\n0::/a/b\n", NULL, "200000 100000\n", "300000 100000\n", 16, 2},
               {"1:cpu:/a/b\n", "400000 100000\n", "200000 100000\n", "300000 100000\n", 16, 4},
               {"0::/of/another/namespace\n", "500000 100000\n", "200000 100000\n", NULL, 16, 5},
               {NULL, "600000 100000\n", NULL, NULL, 16, 6}};
  const char *root = qn_test_temp_path("cgroup"), *self = qn_test_temp_path("self");
  const char *files[] = {qn_test_temp_path("cgroup/cpu.max"), qn_test_temp_path("cgroup/a/cpu.max"),
                         qn_test_temp_path("cgroup/a/b/cpu.max")};
  ck_assert(mkdir(root, 0700) == 0 && mkdir(qn_test_temp_path("cgroup/a"), 0700) == 0 &&
            mkdir(qn_test_temp_path("cgroup/a/b"), 0700) == 0);
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    const char *texts[] = {cases[i].outer, cases[i].middle, cases[i].inner};
    unlink(self);
    if (cases[i].self) put_text(self, cases[i].self);
    for (size_t f = 0; f < QN_COUNT(files); f++) {
      unlink(files[f]);
      if (texts[f]) put_text(files[f], texts[f]);
    }
    int got = qn_topology_quota_cpus(root, self, cases[i].otherwise);
    ck_assert_msg(got == cases[i].want, "case %zu: got %d, want %d", i, got, cases[i].want);
  }
}
END_TEST

// The same in two files of a hierarchy that has the controller, however that is mounted.
START_TEST(quota_of_version_1) {
  static const struct {
    const char *self, *mount, *outer, *inner, *period;  // quotas; NULL = no such file
    int otherwise, want;
  } cases[] = {{"4:cpu,cpuacct:/a\n", "cpu,cpuacct", "-1\n", "250000\n", "100000\n", 16, 3},
               {"4:cpu,cpuacct:/a\n", "cpu,cpuacct", "200000\n", "250000\n", "100000\n", 16, 2},
               {"4:cpuacct,cpu:/a\n", "cpuacct,cpu", "-1\n", "50000\n", "100000\n", 16, 1},
               {"4:cpu:/a\n", "cpu", "-1\n", "1600000\n", "100000\n", 4, 4},
               {"4:cpu:/of/another/namespace\n", "cpu", "150000\n", NULL, "100000\n", 16, 2},
               {"4:cpuset,cpuacct:/a\n0::/a\n", "cpu", "-1\n", "100000\n", "100000\n", 16, 16},
               {"4:cpu:/a\n", "cpu", "-1\n", "100000\n", NULL, 16, 16},
               {"4:cpu:/a\n", "cpu", "-1\n", "what\n", "100000\n", 16, 16},
               {"4:cpu:/a\n", "cpu", NULL, "100000\n", "0\n", 16, 16}};
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    char root[32], mount[64], name[128];
    snprintf(root, sizeof root, "cgroup1-%zu", i);
    snprintf(mount, sizeof mount, "%s/%s", root, cases[i].mount);
    snprintf(name, sizeof name, "%s/a", mount);
    ck_assert(mkdir(qn_test_temp_path(root), 0700) == 0 && mkdir(qn_test_temp_path(mount), 0700) == 0 &&
              mkdir(qn_test_temp_path(name), 0700) == 0);
    put_text(qn_test_temp_path("self1"), cases[i].self);
    for (int inner = 0; inner < 2; inner++) {
      const char *quota = inner ? cases[i].inner : cases[i].outer;
      snprintf(name, sizeof name, "%s%s/cpu.cfs_quota_us", mount, inner ? "/a" : "");
      if (quota) put_text(qn_test_temp_path(name), quota);
      snprintf(name, sizeof name, "%s%s/cpu.cfs_period_us", mount, inner ? "/a" : "");
      if (cases[i].period) put_text(qn_test_temp_path(name), cases[i].period);
    }
    int got = qn_topology_quota_cpus(qn_test_temp_path(root), qn_test_temp_path("self1"), cases[i].otherwise);
    ck_assert_msg(got == cases[i].want, "case %zu: got %d, want %d", i, got, cases[i].want);
  }
}
END_TEST

// The kernel's own list, of the first CPU.
static bool in_cpuinfo(const char *word) {
  char line[8192];
  bool found = false;
  size_t length = strlen(word);
  FILE *file = fopen("/proc/cpuinfo", "r");
  while (file && fgets(line, sizeof line, file)) {
    if (strncmp(line, "flags", 5) != 0 && strncmp(line, "Features", 8) != 0) continue;
    for (char *at = line; (at = strstr(at, word)) != NULL; at += length) {
      found = found || (at[-1] == ' ' && (at[length] == ' ' || at[length] == '\n'));
    }
    break;
  }
  if (file) fclose(file);
  return found;
}

// What cannot be spread, or need not, stays as it is.
START_TEST(memory_of_one_node) {
  enum { SIZE = 1 << 20 };
  char *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ck_assert(memory != MAP_FAILED);
  bool spread = qn_topology_interleave(memory, SIZE);
  ck_assert(!spread || qn_topology_get()->numa_nodes > 1);
  memset(memory, 1, SIZE);
  munmap(memory, SIZE);
}
END_TEST

START_TEST(cpu_features) {
  static const char *const names[][2] = {
      {"sse4.2", "sse4_2"},     {"avx2", "avx2"},
      {"fma", "fma"},           {"f16c", "f16c"},
      {"bmi2", "bmi2"},         {"avx512f", "avx512f"},
      {"avx512bw", "avx512bw"}, {"avx512dq", "avx512dq"},
      {"avx512vl", "avx512vl"}, {"avx512vnni", "avx512_vnni"},
      {"avxvnni", "avx_vnni"},  {"avx512bf16", "avx512_bf16"},
      {"neon", "asimd"},        {"dotprod", "asimddp"},
      {"i8mm", "i8mm"},
  };
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    ck_assert_msg(qn_cpu_has(names[i][0]) == in_cpuinfo(names[i][1]), "%s", names[i][0]);
  }
  char out[64];
  ck_assert(!qn_cpu_missing("", out, sizeof out));
  ck_assert_str_eq(out, "");
  ck_assert(qn_cpu_missing("no-such,nor-this", out, sizeof out));
  ck_assert_str_eq(out, "no-such,nor-this");
  ck_assert(qn_cpu_missing("no-such,nor-this", out, 8));
  ck_assert_str_eq(out, "no-such");
  size_t count = 0;
  for (const char *name; (name = qn_cpu_feature_name(count)) != NULL; count++) {
    char list[64];
    snprintf(list, sizeof list, "%s,zzz", name);
    ck_assert(qn_cpu_missing(list, out, sizeof out));
    ck_assert_msg((strcmp(out, "zzz") == 0) == qn_cpu_has(name), "%s: %s", name, out);
  }
  ck_assert_uint_gt(count, 0);
}
END_TEST

QN_CASE(runs, every_piece_is_done_once, some_of_the_threads, threads_that_sleep_wake_up, many_short_runs)
QN_CASE(barriers, nobody_passes_a_barrier_early)
QN_CASE(creation, counts_and_errors, out_of_memory, the_caller_keeps_its_cpus)
QN_CASE(machine, the_machine, fewer_cpus_than_there_are, quotas, quota_of_version_1, memory_of_one_node, cpu_features)
QN_TEST_MAIN(runs, barriers, creation, machine)
