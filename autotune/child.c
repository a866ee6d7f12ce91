// A child process that serves its parent (child.h).
#include "autotune/child.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "runtime/base/str.h"

enum { POLL_MS = 20, STACK_BYTES = 64 << 10 };

void qn_flight_note(qn_flight *flight, int stage, int item) {
  atomic_store(&flight->stage, stage);
  atomic_store(&flight->item, item);
  atomic_fetch_add(&flight->beat, 1);
}

// --- in the child

// Of this process, which is a child: a signal handler gets no context.
static struct {
  qn_flight *flight;
  qn_child_locate locate;
  void *context;
} self;

static void on_fault(int number, siginfo_t *info, void *unused) {
  (void)unused;
  if (self.locate) self.locate(self.context, info->si_addr, self.flight->text, sizeof self.flight->text);
  signal(number, SIG_DFL);
  raise(number);
}

// Faults say where on a stack of their own: a kernel's may be what overflowed.
static void catch_faults(void) {
  static uint8_t stack[STACK_BYTES];
  stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
  sigaltstack(&alternate, NULL);
  struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = (int)(SA_SIGINFO | SA_ONSTACK | SA_RESETHAND)};
  sigemptyset(&action.sa_mask);
  const int faults[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
  for (size_t i = 0; i < QN_COUNT(faults); i++) sigaction(faults[i], &action, NULL);
}

static _Noreturn void serve_all(int socket, qn_child_serve serve, void *context, void *shared, pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
  const int ignored[] = {SIGINT, SIGQUIT, SIGHUP, SIGPIPE};
  for (size_t i = 0; i < QN_COUNT(ignored); i++) signal(ignored[i], SIG_IGN);
  signal(SIGTERM, SIG_DFL);
  setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
  catch_faults();
  for (;;) {
    char word = 0;
    ssize_t got = read(socket, &word, 1);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) _exit(0);
    serve(context, shared);
    while ((got = send(socket, &word, 1, MSG_NOSIGNAL)) < 0 && errno == EINTR) continue;
    if (got <= 0) _exit(0);
  }
}

// --- in the parent

static void close_socket(qn_child *child) {
  if (child->socket >= 0) close(child->socket);
  child->socket = -1;
}

qn_status qn_child_start(size_t shared_size, qn_child_serve serve, qn_child_locate locate, void *context, qn_child *out,
                         qn_diag *diag) {
  int sockets[2];
  *out = (qn_child){.socket = -1};
  void *shared = mmap(NULL, shared_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) return qn_fail_nomem(diag, "child process", "the memory shared with it");
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) {
    munmap(shared, shared_size);
    return qn_fail(diag, QN_ERR_LIMIT, "child process", "cannot be talked to: %s; close files or raise ulimit -n",
                   strerror(errno));
  }
  pid_t parent = getpid(), pid = fork();
  if (pid == 0) {
    close(sockets[0]);
    self.flight = shared;
    self.locate = locate;
    self.context = context;
    serve_all(sockets[1], serve, context, shared, parent);
  }
  int failure = errno;
  close(sockets[1]);
  if (pid < 0) {
    close(sockets[0]);
    munmap(shared, shared_size);
    return qn_fail(diag, failure == ENOMEM ? QN_ERR_NOMEM : QN_ERR_LIMIT, "child process",
                   "the system has none to give: %s; end other programs or raise ulimit -u", strerror(failure));
  }
  *out = (qn_child){.pid = pid, .socket = sockets[0], .shared = shared, .shared_size = shared_size};
  return QN_OK;
}

// Its status; it is no zombie afterwards.
static int reap(qn_child *child) {
  int status = 0;
  while (waitpid(child->pid, &status, 0) < 0 && errno == EINTR) continue;
  child->pid = 0;
  close_socket(child);
  return status;
}

static void kill_child(qn_child *child) {
  if (child->pid <= 0) return;
  kill(child->pid, SIGKILL);
  (void)reap(child);
}

void qn_child_stop(qn_child *child) {
  kill_child(child);
  if (child->shared) {
    close_socket(child);
    munmap(child->shared, child->shared_size);
  }
  *child = (qn_child){.socket = -1};
}

static double seconds(clockid_t clock) {
  struct timespec t = {0};
  clock_gettime(clock, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static qn_child_end tell_death(qn_child *child, char *evidence, size_t size) {
  const qn_flight *flight = child->shared;
  int status = reap(child);
  if (WIFSIGNALED(status)) {
    int number = WTERMSIG(status);
    snprintf(evidence, size, "signal %d (%s)%s%.150s", number, strsignal(number), flight->text[0] ? ": " : "",
             flight->text);
    return number == SIGKILL || number == SIGTERM ? QN_CHILD_KILLED : QN_CHILD_DIED;
  }
  snprintf(evidence, size, "the process left with status %d", WEXITSTATUS(status));
  return QN_CHILD_DIED;
}

// Since when the present piece of work is going on.
typedef struct lap {
  uint32_t beat;
  double cpu, wall;
} lap;

static bool over_limit(qn_child *child, const qn_child_limits *limits, lap *since, char *evidence, size_t size) {
  const qn_flight *flight = child->shared;
  clockid_t clock;
  double wall = seconds(CLOCK_MONOTONIC);
  double cpu = clock_getcpuclockid(child->pid, &clock) == 0 ? seconds(clock) : 0;
  uint32_t beat = atomic_load(&flight->beat);
  if (beat != since->beat || since->wall <= 0) {
    since->beat = beat;
    since->cpu = cpu;
    since->wall = wall;
  }
  bool runs = limits->run_stage && atomic_load(&flight->stage) == limits->run_stage;
  if (cpu - since->cpu < (runs ? limits->run_cpu_s : limits->cpu_s) &&
      wall - since->wall < (runs ? limits->run_wall_s : limits->wall_s))
    return false;
  snprintf(evidence, size, "no end after %.1f s of CPU time, %.1f s in all", cpu - since->cpu, wall - since->wall);
  return true;
}

// Is its time over, or is it cancelled? Then it is no more.
static bool must_stop(qn_child *child, const qn_child_limits *limits, char *evidence, size_t size, qn_child_end *out) {
  bool cancelled = limits->cancelled && limits->cancelled(limits->context);
  bool over = limits->until_s > 0 && seconds(CLOCK_MONOTONIC) >= limits->until_s;
  if (!cancelled && !over) return false;
  kill_child(child);
  snprintf(evidence, size, cancelled ? "cancelled" : "its time is over");
  *out = cancelled ? QN_CHILD_CANCELLED : QN_CHILD_CUT;
  return true;
}

qn_child_end qn_child_ask(qn_child *child, const qn_child_limits *limits, char *evidence, size_t size) {
  qn_flight *flight = child->shared;
  qn_child_end end;
  lap since = {0};
  char word = 1;
  evidence[0] = 0;
  flight->text[0] = 0;
  qn_flight_note(flight, 0, 0);
  if (must_stop(child, limits, evidence, size, &end)) return end;  // else it might answer before somebody looks
  while (send(child->socket, &word, 1, MSG_NOSIGNAL) < 0)
    if (errno != EINTR) return tell_death(child, evidence, size);  // it is gone already
  for (;;) {
    struct pollfd wait = {.fd = child->socket, .events = POLLIN};
    int ready = poll(&wait, 1, POLL_MS);
    ssize_t got = ready > 0 ? recv(child->socket, &word, 1, 0) : -1;
    if (got == 1) return QN_CHILD_ANSWERED;
    if (ready > 0 && (got == 0 || errno != EINTR)) return tell_death(child, evidence, size);
    if (must_stop(child, limits, evidence, size, &end)) return end;
    if (over_limit(child, limits, &since, evidence, size)) {
      kill_child(child);
      return QN_CHILD_HUNG;
    }
  }
}
