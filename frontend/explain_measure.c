// Takes the samples of an explanation: rates of the machine, prompts and decoded tokens in turn, so that whatever else
// the machine does falls on all of it alike.
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "frontend/compile.h"
#include "frontend/explain.h"

enum { RUNS = 8 };  // of a phase in a repetition, but of one that takes long
#define LONG_S 0.1  // for all of them

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static qn_status give(explaining *x, int code, const quern_error *error) {
  return code == 0 ? QN_OK : qn_fail(x->diag, (qn_status)code, "explain", "%s", error->text);
}

// ---- the machine

// Seconds that a page takes when it is touched for the first time.
static double measure_fault(void) {
  enum { PAGES = 1024, TRIES = 5 };
  double tries[TRIES] = {0};
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  for (int i = 0; i < TRIES; i++) {
    char *memory = mmap(NULL, PAGES * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return 0;
    madvise(memory, PAGES * page, MADV_NOHUGEPAGE);
    double begin = now();
    for (size_t p = 0; p < PAGES; p++) *(volatile char *)(memory + p * page) = 1;
    tries[i] = (now() - begin) / PAGES;
    munmap(memory, PAGES * page);
  }
  return explain_undisturbed(tries, TRIES);
}

// The best of several measurements, since other programs only take away.
typedef struct best_rates {
  quern_machine *machine;  // owned; NULL = not to be measured
  double values[QUERN_RATE_NARROW + 1];
} best_rates;

static qn_status open_machine(explaining *x, best_rates *r, const char *target) {
  quern_error error;
  return give(x, quern_machine_open(target, &r->machine, &error), &error);
}

static qn_status measure_rates(explaining *x, best_rates *r) {
  static const quern_rate wanted[] = {QUERN_RATE_READ, QUERN_RATE_FP32, QUERN_RATE_INT8, QUERN_RATE_NARROW};
  quern_error error;
  for (size_t i = 0; r->machine && i < QN_COUNT(wanted); i++) {
    double rate = 0, *best = &r->values[wanted[i]];
    QN_TRY(give(x, quern_machine_measure(r->machine, wanted[i], x->threads, QUERN_CLOCK_CPU, &rate, &error), &error));
    if (rate > *best) *best = rate;
  }
  return QN_OK;
}

static void take_rates(explaining *x, const best_rates *own, const best_rates *host) {
  const best_rates *best = host->machine ? host : own;
  x->rates = (explain_rates){.read = own->values[QUERN_RATE_READ],
                             .int8 = best->values[QUERN_RATE_INT8],
                             .narrow = best->values[QUERN_RATE_NARROW],
                             .fp32 = best->values[QUERN_RATE_FP32],
                             .target_int8 = own->values[QUERN_RATE_INT8],
                             .target_narrow = own->values[QUERN_RATE_NARROW],
                             .target_fp32 = own->values[QUERN_RATE_FP32]};
}

// ---- runs

// What the profile has counted so far, by kernel.
typedef struct counted {
  double *wall, *busy;  // (kernels), seconds: of the first thread, waiting included; inside, of all threads. Arena
  double *faults;       // (kernels)
} counted;

typedef struct runs {
  explaining *x;
  quern_session *session;  // owned
  counted before, after;
  int32_t *tokens;   // (prompt), arena
  float *embedding;  // arena; NULL but of an encoder
} runs;

static bool have_counted(explaining *x, counted *c) {
  c->wall = QN_ARENA_ARRAY(x->arena, x->kernel_count, double);
  c->busy = QN_ARENA_ARRAY(x->arena, x->kernel_count, double);
  c->faults = QN_ARENA_ARRAY(x->arena, x->kernel_count, double);
  return c->wall && c->busy && c->faults;
}

// A wait is noted at the barrier after the work that is waited for.
static void count(const runs *r, counted *c) {
  const explaining *x = r->x;
  const qn_artifact *a = &x->model->artifact;
  quern_step_profile p = {.size = sizeof p};
  for (size_t k = 0; k < x->kernel_count; k++) c->wall[k] = c->busy[k] = c->faults[k] = 0;
  for (size_t i = 0; quern_session_profile(r->session, i, &p); i++) {
    uint32_t kernel = a->steps[i].kernel;
    c->wall[kernel] += (double)p.kernel_ns * 1e-9;
    c->busy[kernel] += (double)p.busy_ns * 1e-9;
    c->faults[kernel] += (double)p.faults;
    c->wall[a->steps[i ? i - 1 : 0].kernel] += (double)p.wait_ns * 1e-9;
  }
}

static double minor_of(const struct rusage *u) { return (double)u->ru_minflt; }
static double major_of(const struct rusage *u) { return (double)u->ru_majflt; }

// What is read at once, or a prompt from its first token on, into an empty sequence.
static int read_prompt(runs *r, quern_error *error) {
  explaining *x = r->x;
  size_t count = (size_t)x->prompt;
  const float *logits;  // they are part of it
  if (x->kind == EXPLAIN_SOURCES) return (int)quern_session_source(r->session, 0, r->tokens, count, error);
  if (x->kind == EXPLAIN_EMBEDDINGS)
    return (int)quern_session_embed(r->session, r->tokens, &count, 1, r->embedding, error);
  return (int)quern_session_eval(r->session, 0, r->tokens, count, &logits, error);
}

// Evaluates what the phase is made of, once.
static qn_status evaluate(runs *r, int phase, double *out_seconds) {
  explaining *x = r->x;
  quern_error error = {0};
  int code = 0;
  if (phase == EXPLAIN_PREFILL) {
    quern_session_reset(r->session, 0);
  } else {
    code = (int)quern_session_truncate(r->session, 0, x->depth, &error);
  }
  double begin = now();
  const float *logits;
  if (code == 0 && phase == EXPLAIN_PREFILL) {
    code = read_prompt(r, &error);
  } else if (code == 0) {
    code = (int)quern_session_eval(r->session, 0, r->tokens, 1, &logits, &error);
  }
  *out_seconds = now() - begin;
  return give(x, code, &error);
}

static qn_status run_once(runs *r, int phase) {
  explaining *x = r->x;
  explain_samples *s = &x->samples[phase];
  struct rusage before, after;
  size_t n = s->runs;
  count(r, &r->before);
  getrusage(RUSAGE_SELF, &before);
  QN_TRY(evaluate(r, phase, &s->total[n]));
  getrusage(RUSAGE_SELF, &after);
  count(r, &r->after);
  s->minor[n] = minor_of(&after) - minor_of(&before);
  s->major[n] = major_of(&after) - major_of(&before);
  s->interrupted[n] = (double)(after.ru_nivcsw - before.ru_nivcsw);
  s->outside[n] = s->total[n];
  for (size_t k = 0; k < x->kernel_count; k++) {
    double wall = r->after.wall[k] - r->before.wall[k], busy = r->after.busy[k] - r->before.busy[k];
    // After the last step the first thread does not wait: others may have had the work.
    if (wall < busy / x->phase_threads[phase]) wall = busy / x->phase_threads[phase];
    s->wall[k * s->most_runs + n] = wall;
    s->busy[k * s->most_runs + n] = busy;
    s->outside[n] -= wall;
  }
  if (s->outside[n] < 0) s->outside[n] = 0;
  s->runs++;
  return QN_OK;
}

static qn_status run_often(runs *r, int phase) {
  double begin = now();
  for (int i = 0; i < RUNS && (i == 0 || now() - begin < LONG_S); i++) QN_TRY(run_once(r, phase));
  return QN_OK;
}

static qn_status fill_to_depth(runs *r) {
  quern_error error = {0};
  int code = 0;
  quern_session_reset(r->session, 0);
  if (r->x->kind == EXPLAIN_SOURCES) code = read_prompt(r, &error);
  if (code == 0) code = (int)quern_session_fill(r->session, 0, r->x->depth, &error);
  return give(r->x, code, &error);
}

static qn_status open_session(runs *r, bool faults) {
  explaining *x = r->x;
  quern_error error = {0};
  int64_t keys = x->prompt > x->depth + 1 ? x->prompt : x->depth + 1;
  quern_session_options options = {.size = sizeof options, .threads = x->options->threads,
                                   .decode_threads = x->options->decode_threads,
                                   .no_pin = x->options->no_pin,
                                   .spin_us = x->options->spin_us,
                                   .grain = x->options->grain,
                                   .context = keys,
                                   .profile = true,
                                   .profile_faults = faults};
  QN_TRY(give(x, (int)quern_session_create(x->model, &options, &r->session, &error), &error));
  quern_session_info info = {.size = sizeof info};
  quern_session_get_info(r->session, &info, NULL);
  x->threads = x->phase_threads[EXPLAIN_PREFILL] = info.threads;
  x->phase_threads[EXPLAIN_DECODE] = info.decode_threads;
  return QN_OK;
}

// The first run of each phase finds its pages and caches cold; the second one counts the page faults of every kernel,
// which takes a system call each: in a session of its own.
static qn_status measure_faults(runs *r) {
  explaining *x = r->x;
  QN_TRY(open_session(r, true));
  int phases = (int)explain_phase_count(x->kind);
  for (int phase = 0; phase < phases; phase++) {
    explain_samples *s = &x->samples[phase];
    QN_TRY(explain_report(x, "first runs", (uint64_t)phase, (uint64_t)phases));
    if (phase == EXPLAIN_DECODE) QN_TRY(fill_to_depth(r));
    QN_TRY(run_once(r, phase));
    s->first_s = s->total[0];
    s->first_minor = s->minor[0];
    s->first_major = s->major[0];
    QN_TRY(run_once(r, phase));
    for (size_t k = 0; k < x->kernel_count; k++) s->faults[k] = r->after.faults[k] - r->before.faults[k];
    s->runs = 0;
  }
  quern_session_destroy(r->session);
  r->session = NULL;
  return QN_OK;
}

static qn_status measure_runs(runs *r, best_rates *own, best_rates *host) {
  explaining *x = r->x;
  QN_TRY(open_session(r, false));
  double unused;
  QN_TRY(evaluate(r, EXPLAIN_PREFILL, &unused));  // touches the session's memory
  for (int i = 0; i < x->repetitions; i++) {
    QN_TRY(explain_report(x, "measuring", (uint64_t)i, (uint64_t)x->repetitions));
    QN_TRY(measure_rates(x, own));
    QN_TRY(measure_rates(x, host));
    QN_TRY(run_often(r, EXPLAIN_PREFILL));
    if (x->kind == EXPLAIN_EMBEDDINGS) continue;
    QN_TRY(fill_to_depth(r));
    QN_TRY(run_often(r, EXPLAIN_DECODE));
  }
  return QN_OK;
}

static qn_status have_samples(explaining *x, runs *r) {
  size_t most = (size_t)x->repetitions * RUNS, all = most * x->kernel_count;
  bool good = have_counted(x, &r->before) && have_counted(x, &r->after);
  for (int phase = 0; good && phase < EXPLAIN_PHASES; phase++) {
    explain_samples *s = &x->samples[phase];
    s->most_runs = most;
    s->total = QN_ARENA_ARRAY(x->arena, most, double);
    s->outside = QN_ARENA_ARRAY(x->arena, most, double);
    s->minor = QN_ARENA_ARRAY(x->arena, most, double);
    s->major = QN_ARENA_ARRAY(x->arena, most, double);
    s->interrupted = QN_ARENA_ARRAY(x->arena, most, double);
    s->wall = QN_ARENA_ARRAY(x->arena, all, double);
    s->busy = QN_ARENA_ARRAY(x->arena, all, double);
    s->faults = QN_ARENA_ARRAY(x->arena, x->kernel_count, double);
    good = s->total && s->outside && s->minor && s->major && s->interrupted && s->wall && s->busy && s->faults;
  }
  r->tokens = good ? QN_ARENA_ARRAY(x->arena, (size_t)x->prompt, int32_t) : NULL;
  size_t width = (size_t)quern_model_embedding_size(x->model);
  if (width > 0) r->embedding = QN_ARENA_ARRAY(x->arena, width, float);
  if (!r->tokens || (width > 0 && !r->embedding)) return qn_fail_nomem(x->diag, "explain", "samples");
  int32_t vocab = quern_model_vocab_size(x->model);
  for (int64_t i = 0; i < x->prompt; i++) r->tokens[i] = (int32_t)((i * 7919 + 13) % vocab);
  return QN_OK;
}

qn_status explain_measure(explaining *x) {
  runs r = {.x = x};
  best_rates own = {0}, host = {0};
  qn_status status = have_samples(x, &r);
  x->fault_s = measure_fault();
  if (status == QN_OK) status = measure_faults(&r);
  if (status == QN_OK) status = explain_report(x, "compiling what measures the machine", 0, 0);
  if (status == QN_OK) status = open_machine(x, &own, quern_model_target(x->model));
  if (status == QN_OK && !x->same_isa) status = open_machine(x, &host, "host");
  if (status == QN_OK) status = measure_runs(&r, &own, &host);
  if (status == QN_OK) take_rates(x, &own, &host);
  quern_session_destroy(r.session);
  quern_machine_close(own.machine);
  quern_machine_close(host.machine);
  return status;
}
