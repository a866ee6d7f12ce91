// Forks at allocations and has them fail (sweep.h).
#include "tests/support/sweep.h"

#include <dirent.h>
#include <execinfo.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "runtime/base/hash.h"
#include "runtime/base/status.h"
#include "tests/support/test.h"

enum { LIMIT_S = 600, MOST_DEPTH = 40, OWN_FRAMES = 3, LEAK_CHECKS = 64, TEXT = 512 };

// Of the sanitizer: are there leaks by now? Not there without it.
extern int __lsan_do_recoverable_leak_check(void) __attribute__((weak));

typedef struct numbers {
  size_t *items, count, room;
} numbers;

static struct {
  atomic_size_t count, live;
  enum { COUNTING, FORKING, FAILING } mode;
  size_t fail_at;
  bool all_later, is_child, shares, every;
  size_t before;    // blocks that were live when the action began
  pid_t main_process;
  int depth;
  uint64_t *seen;   // hashes of places, by open addressing; 0 = free
  size_t seen_count, seen_room;
  size_t stride;    // every so many places are taken
  size_t forks, wrong;
  numbers left;     // allocations that no fork can take
} sweep;

static void *need(void *memory) {
  if (!memory) abort();
  return memory;
}

// --- which allocations are taken

static void put_seen(uint64_t hash) {
  size_t at = hash & (sweep.seen_room - 1);
  while (sweep.seen[at] != 0 && sweep.seen[at] != hash) at = (at + 1) & (sweep.seen_room - 1);
  sweep.seen_count += sweep.seen[at] == 0;
  sweep.seen[at] = hash;
}

static void grow_seen(void) {
  uint64_t *old = sweep.seen;
  size_t old_room = sweep.seen_room;
  sweep.seen_room = old_room ? 2 * old_room : 4096;
  sweep.seen = need(calloc(sweep.seen_room, sizeof *sweep.seen));
  sweep.seen_count = 0;
  for (size_t i = 0; i < old_room; i++)
    if (old[i] != 0) put_seen(old[i]);
  free(old);
}

// Is it the first allocation of this place?
static bool is_new_place(void) {
  void *frames[MOST_DEPTH];
  int count = backtrace(frames, OWN_FRAMES + sweep.depth);
  if (count <= OWN_FRAMES) return false;
  uint64_t hash = qn_hash64(frames + OWN_FRAMES, (size_t)(count - OWN_FRAMES) * sizeof *frames, 1) | 1;
  if (2 * sweep.seen_count >= sweep.seen_room) grow_seen();
  size_t before = sweep.seen_count;
  put_seen(hash);
  return sweep.seen_count > before;
}

static bool is_wanted(void) {
  if (!is_new_place()) return sweep.every;
  return sweep.every || sweep.seen_count % sweep.stride == 0;
}

static bool has_other_threads(void) {
  int count = 0;
  DIR *dir = opendir("/proc/self/task");
  if (!dir) return true;
  for (struct dirent *entry; (entry = readdir(dir)) != NULL;) count += entry->d_name[0] != '.';
  closedir(dir);
  return count != 1;
}

// --- processes

static void begin_child(size_t number, bool all_later) {
  sweep.mode = FAILING;
  sweep.fail_at = number;
  sweep.all_later = all_later;
  sweep.is_child = true;
  signal(SIGALRM, SIG_DFL);
  alarm(LIMIT_S);
}

static void await_child(pid_t pid, size_t number, bool all_later) {
  int status = 0;
  sweep.forks++;
  while (waitpid(pid, &status, 0) < 0) continue;
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return;
  sweep.wrong++;
  fprintf(stderr, "allocation %zu%s: the process ended with %s %d\n", number, all_later ? " and all later" : "",
          WIFSIGNALED(status) ? "signal" : "status", WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

// True in the child.
static bool fork_at(size_t number, bool all_later) {
  fflush(NULL);
  pid_t pid = fork();
  if (pid < 0) abort();
  if (pid == 0) begin_child(number, all_later);
  if (pid > 0) await_child(pid, number, all_later);
  return pid == 0;
}

static _Noreturn void end_child(int code, const char *text) {
  bool clean = code == 0 || (code == QN_ERR_NOMEM && text[0] != '\0');
  size_t live = atomic_load(&sweep.live);
  const char *later = sweep.all_later ? " and all later" : "";
  if (!clean) fprintf(stderr, "allocation %zu%s: got %d: %s\n", sweep.fail_at, later, code, text);
  if (live != sweep.before)
    fprintf(stderr, "allocation %zu%s: %zu blocks are left\n", sweep.fail_at, later, live - sweep.before);
  bool leaks = __lsan_do_recoverable_leak_check && sweep.fail_at % LEAK_CHECKS == 0 && __lsan_do_recoverable_leak_check();
  fflush(NULL);
  _exit(clean && live == sweep.before && !leaks ? 0 : 1);
}

static void leave(size_t number) {
  numbers *left = &sweep.left;
  if (left->count == left->room) {
    left->room = left->room ? 2 * left->room : 64;
    left->items = need(realloc(left->items, left->room * sizeof *left->items));
  }
  left->items[left->count++] = number;
}

// True in a child, whose allocation this is to fail.
static bool visit(size_t number) {
  if (getpid() != sweep.main_process || !is_wanted()) return false;
  if (sweep.shares || has_other_threads()) {
    leave(number);
    return false;
  }
  return fork_at(number, false) || fork_at(number, true);
}

// --- the allocator

static void *reallocate(void *context, void *pointer, size_t old_size, size_t new_size) {
  (void)context;
  if (new_size == 0) {
    atomic_fetch_sub(&sweep.live, 1);
    free(pointer);
    return NULL;
  }
  if (!pointer || new_size > old_size) {
    size_t number = atomic_fetch_add(&sweep.count, 1) + 1;
    if (sweep.mode == FORKING && visit(number)) return NULL;
    if (sweep.mode == FAILING && (number == sweep.fail_at || (sweep.all_later && number > sweep.fail_at))) return NULL;
  }
  void *fresh = realloc(pointer, new_size);
  if (fresh && !pointer) atomic_fetch_add(&sweep.live, 1);
  return fresh;
}

const qn_allocator *qn_sweep_allocator(void) {
  static const qn_allocator allocator = {NULL, reallocate};
  return &allocator;
}

size_t qn_sweep_count(void) { return atomic_load(&sweep.count); }

void qn_sweep_shares(bool shares) { sweep.shares = shares; }
void qn_sweep_heal(void) {
  if (sweep.is_child) sweep.mode = COUNTING;
}

// --- the whole

// Does not return in a child. In the parent the action must succeed.
static void act(qn_sweep_action action, void *context) {
  char text[TEXT] = "";
  sweep.before = atomic_load(&sweep.live);
  atomic_store(&sweep.count, 0);
  int code = action(context, text, sizeof text);
  if (sweep.is_child) end_child(code, text);
  sweep.mode = COUNTING;
  ck_assert_msg(code == 0, "got %d: %s", code, text);
  ck_assert_msg(atomic_load(&sweep.live) == sweep.before, "%zu blocks are left", atomic_load(&sweep.live) - sweep.before);
}

static void begin(const qn_sweep_options *options) {
  void *frames[2];
  backtrace(frames, 2);  // loads a library the first time
  sweep.every = qn_test_stride(2, 2) == 1;
  sweep.depth = options && options->depth ? options->depth : 24;
  if (sweep.depth > MOST_DEPTH - OWN_FRAMES) sweep.depth = MOST_DEPTH - OWN_FRAMES;
  sweep.main_process = getpid();
  sweep.seen_count = sweep.forks = sweep.wrong = sweep.left.count = 0;
  sweep.stride = 1;
  if (sweep.seen) memset(sweep.seen, 0, sweep.seen_room * sizeof *sweep.seen);
}

// For the first time, which also makes what is made once a process. Counts the places, so that a part of them can be
// taken evenly.
static void choose_stride(qn_sweep_action action, void *context, int most) {
  bool every = sweep.every;
  sweep.stride = SIZE_MAX;
  sweep.every = false;
  sweep.mode = FORKING;
  act(action, context);
  sweep.every = every;
  sweep.stride = most > 0 ? 1 + sweep.seen_count / (size_t)most : 1;
  sweep.seen_count = sweep.left.count = 0;
  if (sweep.seen) memset(sweep.seen, 0, sweep.seen_room * sizeof *sweep.seen);
}

// Those that no fork could take: from the beginning, in a process each.
static void take_left(qn_sweep_action action, void *context, int again) {
  size_t count = sweep.left.count, taken = sweep.every || count < (size_t)again ? count : (size_t)again;
  for (size_t i = 0; i < taken; i++) {
    size_t number = sweep.left.items[i * count / taken];
    if (fork_at(number, i % 2 != 0)) act(action, context);
  }
}

void qn_sweep(const char *name, qn_sweep_action action, void *context, const qn_sweep_options *options) {
  struct timespec from, to;
  unsetenv("QUERN_OBJECT_CACHE");  // the first of all the runs must not find less than the others
  begin(options);
  clock_gettime(CLOCK_MONOTONIC, &from);
  choose_stride(action, context, options ? options->most : 0);
  sweep.mode = FORKING;
  act(action, context);
  size_t allocations = atomic_load(&sweep.count), places = sweep.seen_count, by_fork = sweep.forks;
  take_left(action, context, options && options->again ? options->again : 3);
  clock_gettime(CLOCK_MONOTONIC, &to);
  if (getenv("QUERN_TEST_SHOW"))
    fprintf(stderr, "%s: %zu allocations at %zu places; %zu failed by a fork, %zu of %zu others anew; %.1f s\n", name,
            allocations, places, by_fork, sweep.forks - by_fork, sweep.left.count,
            (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec));
  ck_assert_uint_gt(sweep.forks, 0);
  ck_assert_msg(sweep.wrong == 0, "%s: %zu of %zu failing allocations end badly (above)", name, sweep.wrong, sweep.forks);
}
