// Runs a scheduler hard and long: threads add requests and cancel them at random, with guesses of every kind, in chains and trees,
// and as forks of each other; rows and pages are too few for all, and every few seconds there is another scheduler with other
// settings. Every text must be what its request gives alone, no page and no byte may be lost. Also built with ThreadSanitizer (quern-soak-tsan). e2e/soak.sh runs it for seconds.
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "runtime/quern_run.h"

enum { ALIKE = 3, KINDS = 8 * ALIKE, ADDERS = 2, PROMPT_MOST = 160, OUTPUT_MOST = 64, IDS = 64 };
enum { TECHNIQUES = QUERN_SPECULATE_LOOKAHEAD + 1 };

// A kind of request, and what comes of it alone.
typedef struct kind {
  int32_t prompt[PROMPT_MOST], tokens[OUTPUT_MOST + 1];
  size_t count;
  int64_t most, generated;
  quern_sampler_options sampler;
  char *text;  // owned
  size_t length, capacity;
} kind;

typedef struct soak {
  quern_model *model, *draft, *heads;  // draft, heads: NULL = nobody guesses so
  quern_scheduler *scheduler;
  kind kinds[KINDS];  // so many one after another have the same prompt
  int64_t context;
  _Atomic bool stop;
  _Atomic int64_t added, ended, cancelled, in_flight;
  _Atomic int64_t accepted[TECHNIQUES];
  uint64_t seed;
} soak;

typedef struct flight {
  soak *s;
  const kind *kind;
  size_t length;  // of the text so far
  quern_technique technique;  // of its guesses, if there are any
} flight;

static void fail(const char *what, const char *why) {
  fprintf(stderr, "soak: %s: %s\n", what, why);
  exit(1);
}

static void check(quern_status status, const quern_error *error, const char *what) {
  if (status != QUERN_OK) fail(what, error->text);
}

static uint64_t next(uint64_t *state) {
  *state ^= *state >> 12, *state ^= *state << 25, *state ^= *state >> 27;
  return *state * 2685821657736338717u;
}
static uint64_t below(uint64_t *state, uint64_t limit) { return (next(state) >> 16) % limit; }

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

// --- memory, counted

static _Atomic int64_t live_bytes;

static void *reallocate(void *context, void *pointer, size_t old_size, size_t new_size) {
  (void)context;
  void *result = NULL;
  if (new_size == 0) {
    free(pointer);
  } else if (!(result = realloc(pointer, new_size))) {
    return NULL;
  }
  atomic_fetch_add(&live_bytes, (int64_t)new_size - (pointer ? (int64_t)old_size : 0));
  return result;
}

// --- alone

static bool note_alone(void *context, const char *text, size_t length, int32_t token) {
  kind *k = context;
  if (k->length + length > k->capacity) {
    k->capacity = 2 * (k->length + length) + 64;
    if (!(k->text = realloc(k->text, k->capacity))) fail("memory", "none for a text");
  }
  if (length > 0) memcpy(k->text + k->length, text, length);
  k->length += length;
  if (token >= 0) k->tokens[k->generated++] = token;
  return true;
}

static const char story[] =
    "Once upon a time there was a little girl named Lily. She loved to play in the park with her friends. One day she found a "
    "big red ball under a tree. She was very happy and ran home to show it to her mom.";

static void make_prompt(const soak *s, kind *k, bool of_story, uint64_t *random) {
  int64_t most = s->context / 2 < PROMPT_MOST ? s->context / 2 : PROMPT_MOST;
  k->count = 1 + below(random, below(random, 2) ? (uint64_t)most : 12);
  size_t words = 0;
  quern_error error;
  if (of_story && quern_model_has_tokenizer(s->model)) {  // which drafts know how to go on with
    check(quern_tokenize(s->model, story, strlen(story), QUERN_TOKENIZE_ADD_SPECIAL, k->prompt, PROMPT_MOST, &words, &error), &error,
          "story");
    if (k->count > words) k->count = words;
    return;
  }
  // Some begin alike, so that prefixes are found.
  uint64_t state = 77 + below(random, 3);
  for (size_t i = 0; i < k->count; i++) {
    if (i == 64) state = next(random) | 1;
    k->prompt[i] = (int32_t)below(&state, (uint64_t)quern_model_vocab_size(s->model));
  }
}

static void make_kind(soak *s, int which, uint64_t *random) {
  quern_error error;
  quern_session *session = NULL;
  quern_stats stats = {.size = sizeof stats};
  kind *k = &s->kinds[which];
  const kind *first = &s->kinds[which - which % ALIKE];
  if (k == first) {
    make_prompt(s, k, which / ALIKE % 2 == 0, random);
  } else {
    memcpy(k->prompt, first->prompt, sizeof k->prompt);
    k->count = first->count;
  }
  k->most = 1 + (int64_t)below(random, OUTPUT_MOST);
  k->sampler = quern_sampler_options_default();
  k->sampler.temperature = below(random, 2) ? 0 : 1;
  k->sampler.seed = next(random);
  quern_session_options options = {.size = sizeof options, .threads = 1, .no_pin = true, .context = s->context};
  check(quern_session_create(s->model, &options, &session, &error), &error, "session");
  quern_generate_params params = {.size = sizeof params,
                                  .prompt = k->prompt,
                                  .prompt_count = k->count,
                                  .max_tokens = k->most,
                                  .sampler = &k->sampler,
                                  .callback = note_alone,
                                  .callback_context = k};
  check(quern_generate(session, &params, &stats, &error), &error, "alone");
  if (stats.reason == QUERN_STOP_EOG) k->tokens[k->generated++] = stats.pending_token;
  quern_session_destroy(session);
}

// --- among others

static bool note(void *context, const char *text, size_t length, int32_t token) {
  flight *f = context;
  (void)token;
  if (length > f->kind->length - f->length || (length > 0 && memcmp(f->kind->text + f->length, text, length) != 0))
    fail("text", "another one than alone");
  f->length += length;
  return true;
}

static void note_end(void *context, uint64_t id, const quern_request_result *result) {
  flight *f = context;
  const kind *k = f->kind;
  (void)id;
  if (result->status != QUERN_OK) fail("request", result->error);
  bool whole = result->reason != QUERN_STOP_CANCELLED;
  if (whole ? result->generated_tokens != k->generated : result->generated_tokens > k->generated)
    fail("tokens", "another number than alone");
  if (memcmp(result->tokens, k->tokens, (size_t)result->generated_tokens * sizeof *k->tokens) != 0)
    fail("tokens", "others than alone");
  if (whole && f->length != k->length) fail("text", "a shorter one than alone");
  atomic_fetch_add(&f->s->ended, 1);
  if (!whole) atomic_fetch_add(&f->s->cancelled, 1);
  atomic_fetch_add(&f->s->accepted[f->technique], result->accepted);
  atomic_fetch_sub(&f->s->in_flight, 1);
  free(f);
}

typedef struct adder {
  soak *s;
  uint64_t random;
  uint64_t last[KINDS / ALIKE];  // the last request of each prompt
} adder;

static bool has_technique(const soak *s, quern_technique technique) {
  return technique == QUERN_SPECULATE_DRAFT ? s->draft != NULL : technique != QUERN_SPECULATE_MEDUSA || s->heads != NULL;
}

static uint64_t add(adder *a) {
  soak *s = a->s;
  quern_error error;
  uint64_t id = 0;
  flight *f = calloc(1, sizeof *f);
  if (!f) fail("memory", "none for a request");
  uint64_t which = below(&a->random, KINDS), *last = &a->last[which / ALIKE];
  *f = (flight){s, &s->kinds[which], 0, (quern_technique)below(&a->random, TECHNIQUES)};
  if (!has_technique(s, f->technique)) f->technique = QUERN_SPECULATE_LOOKUP;
  quern_speculator_options guesses = {
      .size = sizeof guesses, .technique = f->technique, .tokens = (int32_t)below(&a->random, 8)};
  quern_request request = {.size = sizeof request,
                           .prompt = f->kind->prompt,
                           .prompt_count = f->kind->count,
                           .max_tokens = f->kind->most,
                           .sampler = &f->kind->sampler,
                           .priority = below(&a->random, 3) ? QUERN_PRIORITY_ONLINE : QUERN_PRIORITY_BATCH,
                           .client = below(&a->random, 4),
                           .speculator = below(&a->random, 4) ? &guesses : NULL,
                           .fork_of = below(&a->random, 2) ? *last : 0,
                           .callback = note,
                           .done = note_end,
                           .callback_context = f};
  atomic_fetch_add(&s->in_flight, 1);
  check(quern_scheduler_add(s->scheduler, &request, &id, &error), &error, "add");
  atomic_fetch_add(&s->added, 1);
  return *last = id;
}

static void *add_and_cancel(void *context) {
  adder *a = context;
  uint64_t ids[IDS] = {0};
  for (size_t i = 0; !atomic_load(&a->s->stop); i++) {
    if (atomic_load(&a->s->in_flight) < 40) ids[i % IDS] = add(a);
    uint64_t id = ids[below(&a->random, IDS)];
    if (below(&a->random, 6) == 0 && id > 0) (void)quern_scheduler_cancel(a->s->scheduler, id, NULL);  // it may have ended
    if (below(&a->random, 3)) usleep((useconds_t)below(&a->random, 3000));
  }
  return NULL;
}

// --- one scheduler after the other

static void step_until(soak *s, double until) {
  quern_error error;
  size_t left = 1;
  int64_t idle = 0;
  for (uint64_t i = 0; seconds() < until || left > 0; i++) {
    if (seconds() >= until) atomic_store(&s->stop, true);
    check(quern_scheduler_step(s->scheduler, &left, &idle, &error), &error, "step");
    if (i % 16 == 0) check(quern_scheduler_check(s->scheduler, &error), &error, "check");
    if (idle > 0) (void)quern_scheduler_wait(s->scheduler, idle < 2000 ? idle : 2000);
  }
  atomic_store(&s->stop, true);
}

// Of settings only such as every request ends with: pages for one at its full context, at least.
static void run_one(soak *s, uint64_t *random, bool first, double until, quern_scheduler_stats *out) {
  quern_error error;
  int32_t most = quern_model_sequences_max(s->model);
  quern_session_options session = {.size = sizeof session, .threads = 2, .no_pin = true, .context = s->context};
  if (most == 0) most = 16;
  session.sequences = 1 + (int32_t)below(random, (uint64_t)(below(random, 2) && most > 1 ? most / 2 : most));  // others are for trees
  session.pages = (s->context + 63) / 64 + (int64_t)below(random, 8);
  session.prefix_cache = below(random, 2);
  if (first) {  // one that preempts in any case
    session.sequences = most;
    session.pages = (s->context + 63) / 64;
  }
  quern_scheduler_options options = {.size = sizeof options,
                                     .session = &session,
                                     .draft = s->draft,
                                     .heads = s->heads,
                                     .batching = (quern_batching)(first || below(random, 2) ? 0 : below(random, 3)),
                                     .preemption = (quern_preemption)below(random, 2),
                                     .swap_folder = below(random, 2) ? getenv("TMPDIR") : NULL,
                                     .longest_wait_us = below(random, 2) ? 20000 : 0,
                                     .batch_wait_us = 2000,
                                     .patience_us = below(random, 2) ? 50000 : 0};
  pthread_t threads[ADDERS];
  adder adders[ADDERS];
  atomic_store(&s->stop, false);
  check(quern_scheduler_create(s->model, &options, &s->scheduler, &error), &error, "scheduler");
  for (int i = 0; i < ADDERS; i++) {
    adders[i] = (adder){s, next(random) | 1, {0}};
    if (pthread_create(&threads[i], NULL, add_and_cancel, &adders[i]) != 0) fail("thread", "cannot start one");
  }
  step_until(s, until);
  for (int i = 0; i < ADDERS; i++) pthread_join(threads[i], NULL);
  step_until(s, 0);  // what was added last
  check(quern_scheduler_check(s->scheduler, &error), &error, "check");
  out->size = sizeof *out;
  quern_scheduler_get_stats(s->scheduler, out, NULL);
  if (out->free_pages != out->pages || out->failed > 0 || atomic_load(&s->in_flight) != 0)
    fail("the end", "pages or requests are left");
  quern_scheduler_destroy(s->scheduler);
}

static int64_t resident_kib(void) {
  long pages = 0;
  FILE *file = fopen("/proc/self/statm", "r");
  if (!file || fscanf(file, "%*d %ld", &pages) != 1) pages = 0;
  if (file) fclose(file);
  return (int64_t)pages * sysconf(_SC_PAGESIZE) / 1024;
}

static void report(soak *s, const quern_scheduler_stats *sum, double took, int64_t schedulers, int64_t first_kib) {
  printf("%.0f s, %" PRId64 " schedulers, %" PRId64 " steps: %" PRId64 " requests, %" PRId64 " of them cancelled, %" PRId64
         " preemptions, %" PRId64 " swapped in, %" PRId64 " tokens of prefixes and forks; guesses that came true:",
         took, schedulers, sum->steps, atomic_load(&s->added), atomic_load(&s->cancelled), sum->preemptions, sum->swapped_in,
         sum->cached_tokens);
  for (int i = 0; i < TECHNIQUES; i++)
    printf("%s %" PRId64 " by %s", i ? "," : "", atomic_load(&s->accepted[i]), quern_technique_name((quern_technique)i));
  printf("; resident %" PRId64 " KiB, %" PRId64 " after five schedulers\n", resident_kib(), first_kib);
}

int main(int argc, char **argv) {
  static soak s;
  quern_error error;
  const quern_allocator allocator = {NULL, reallocate};
  quern_model_options options = {.size = sizeof options, .allocator = &allocator};
  if (argc < 3) return fprintf(stderr, "usage: quern-soak MODEL.qn SECONDS [SEED [DRAFT.qn HEADS.qn]]\n"), 2;
  double limit = strtod(argv[2], NULL), begin = seconds();
  uint64_t random = argc > 3 ? strtoull(argv[3], NULL, 10) | 1 : 1;
  quern_scheduler_stats stats, sum = {0};
  check(quern_model_open(argv[1], &options, &s.model, &error), &error, "model");
  if (argc > 4) check(quern_model_open(argv[4], &options, &s.draft, &error), &error, "draft");
  if (argc > 5) check(quern_model_open(argv[5], &options, &s.heads, &error), &error, "heads");
  int64_t context = quern_model_context_max(s.model);
  s.context = context > 0 && context < 256 ? context : 256;
  for (int i = 0; i < KINDS; i++) make_kind(&s, i, &random);
  int64_t live = atomic_load(&live_bytes), schedulers = 0, first_kib = 0;
  while (schedulers == 0 || seconds() - begin < limit) {
    double left = limit - (seconds() - begin), slice = left < 3 ? left : 3;
    run_one(&s, &random, schedulers == 0, seconds() + (slice > 0.2 ? slice : 0.2), &stats);
    if (atomic_load(&live_bytes) != live) fail("memory", "some is left after a scheduler");
    if (++schedulers == 5) first_kib = resident_kib();
    sum.steps += stats.steps, sum.preemptions += stats.preemptions, sum.swapped_in += stats.swapped_in;
    sum.cached_tokens += stats.cached_tokens, sum.swaps_lost += stats.swaps_lost;
  }
  report(&s, &sum, seconds() - begin, schedulers, first_kib);
  for (int i = 0; i < KINDS; i++) free(s.kinds[i].text);
  quern_model_close(s.heads);
  quern_model_close(s.draft);
  quern_model_close(s.model);
  if (atomic_load(&live_bytes) != 0) fail("memory", "some is left at the end");
  return sum.swaps_lost > 0 ? (fail("swap", "bytes were lost"), 1) : 0;
}
