// The handler of SIGBUS and the list of ranges that it answers for.
#include "runtime/base/guard.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

// Never freed, since a handler may be looking at it in another thread: taken again by the next that opens a guard, so
// that there are as many as there were guards at once.
struct qn_guard {
  _Atomic(uintptr_t) begin, end;  // the same: nothing
  atomic_bool lost;
  bool taken;      // under the lock
  qn_guard *next;  // never changes once it is in the list
};

static _Atomic(qn_guard *) all;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;  // of what follows
static size_t taken_count;
static bool installed;
static struct sigaction before;  // read by the handler, set before it is there
static uintptr_t page_bytes;

// What would have happened without us.
static void hand_on(int number, siginfo_t *info, void *context) {
  if (before.sa_flags & SA_SIGINFO) {
    before.sa_sigaction(number, info, context);
  } else if (before.sa_handler == SIG_DFL || before.sa_handler == SIG_IGN) {
    if (before.sa_handler == SIG_IGN && info->si_code <= 0) return;  // sent by a process; an access cannot be ignored
    struct sigaction standard = {.sa_handler = SIG_DFL};
    sigaction(number, &standard, NULL);
    raise(number);  // comes when this returns, and ends the process
  } else {
    before.sa_handler(number);
  }
}

// Zeros from the page on to the range's end: a file that ends before a page has nothing after it either.
static bool put_zeros(qn_guard *guard, uintptr_t at) {
  uintptr_t begin = atomic_load(&guard->begin), end = atomic_load(&guard->end);
  if (at < begin || at >= end) return false;
  uintptr_t page = at & ~(page_bytes - 1);
  void *memory = (void *)page;  // NOLINT(performance-no-int-to-ptr): it is where the access was
  if (mmap(memory, end - page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != memory)
    return false;
  atomic_store(&guard->lost, true);
  return true;
}

static void on_signal(int number, siginfo_t *info, void *context) {
  int kept = errno;
  bool done = false;
  if (info->si_code > 0) {  // from the system, not sent by a process: there is an address
    for (qn_guard *guard = atomic_load(&all); guard && !done; guard = guard->next)
      done = put_zeros(guard, (uintptr_t)info->si_addr);
  }
  if (!done) hand_on(number, info, context);
  errno = kept;
}

static bool is_ours(void) {
  struct sigaction now;
  return sigaction(SIGBUS, NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_signal;
}

static void install(void) {
  struct sigaction ours = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};
  if (installed) return;
  page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
  sigemptyset(&ours.sa_mask);
  installed = sigaction(SIGBUS, NULL, &before) == 0 && sigaction(SIGBUS, &ours, NULL) == 0;
}

qn_guard *qn_guard_open(const void *data, size_t size) {
  pthread_mutex_lock(&lock);
  qn_guard *guard = atomic_load(&all);
  while (guard && guard->taken) guard = guard->next;
  if (!guard) {
    guard = calloc(1, sizeof *guard);
    if (guard) {
      guard->next = atomic_load(&all);
      atomic_store(&all, guard);
    }
  }
  if (guard) {
    guard->taken = true;
    taken_count++;
    atomic_store(&guard->lost, false);
    qn_guard_narrow(guard, data, size);
    install();
  }
  pthread_mutex_unlock(&lock);
  return guard;
}

void qn_guard_narrow(qn_guard *guard, const void *data, size_t size) {
  atomic_store(&guard->end, 0);  // nothing, while the two do not fit
  atomic_store(&guard->begin, (uintptr_t)data);
  atomic_store(&guard->end, (uintptr_t)data + size);
}

bool qn_guard_lost(const qn_guard *guard) { return guard && atomic_load(&guard->lost); }

void qn_guard_close(qn_guard *guard) {
  if (!guard) return;
  pthread_mutex_lock(&lock);
  qn_guard_narrow(guard, NULL, 0);
  guard->taken = false;
  if (--taken_count == 0 && installed && is_ours()) {
    sigaction(SIGBUS, &before, NULL);
    installed = false;
  }
  pthread_mutex_unlock(&lock);
}
