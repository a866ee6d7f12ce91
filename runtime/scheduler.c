// The scheduler as its host sees it: creation, adding and cancelling by any thread, what it counts.
#include "runtime/scheduler.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "runtime/scheduler_impl.h"

// --- small things that its files share

void qn_request_list_append(qn_request_list *list, qn_request *r) {
  r->next = NULL;
  r->previous = list->last;
  if (list->last) {
    list->last->next = r;
  } else {
    list->first = r;
  }
  list->last = r;
  list->count++;
}

void qn_request_list_remove(qn_request_list *list, qn_request *r) {
  if (r->previous) {
    r->previous->next = r->next;
  } else {
    list->first = r->next;
  }
  if (r->next) {
    r->next->previous = r->previous;
  } else {
    list->last = r->previous;
  }
  r->previous = r->next = NULL;
  list->count--;
}

static uint64_t monotonic(void *context) {
  struct timespec t;
  (void)context;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t qn_scheduler_now(const qn_scheduler *s) { return s->options.clock(s->options.clock_context); }

int64_t qn_scheduler_pages_of(const qn_scheduler *s, int64_t tokens) {
  return (tokens + s->page_keys - 1) / s->page_keys;
}

int64_t qn_scheduler_most_pages(const qn_scheduler *s, int64_t tokens) {
  return qn_kv_cache_most(qn_decoder_cache(s->decoder), tokens);
}

int64_t qn_scheduler_keys(const qn_scheduler *s, const qn_request *r) {
  return r->evaluated - qn_kv_cache_evicted(qn_decoder_cache(s->decoder), r->row);
}

int64_t qn_scheduler_more_pages(const qn_scheduler *s, const qn_request *r, int64_t tokens) {
  int64_t keys = qn_scheduler_keys(s, r);
  return qn_scheduler_pages_of(s, keys + tokens) - qn_scheduler_pages_of(s, keys) -
         qn_kv_cache_passed(qn_decoder_cache(s->decoder), r->row) + qn_decoder_copies(s->decoder, r->row, tokens);
}

int64_t qn_scheduler_promised_pages(const qn_scheduler *s, const qn_request *r) {
  return qn_scheduler_most_pages(s, r->count) - qn_kv_cache_held(qn_decoder_cache(s->decoder), r->row) +
         qn_decoder_copies(s->decoder, r->row, qn_scheduler_tokens_left(r));
}

int64_t qn_scheduler_free_pages(const qn_scheduler *s) {
  return qn_kv_cache_free_pages(qn_decoder_cache(s->decoder));
}

// --- creation

static qn_status check_options(const qn_scheduler *s, qn_diag *diag) {
  const qn_scheduler_options *o = &s->options;
  int64_t chunk = qn_decoder_chunk(s->decoder);
  if ((unsigned)o->batching >= QN_BATCHING_COUNT) {
    return qn_fail(diag, QN_ERR_ARGUMENT, "batching", "got %d, want 0 (continuous), 1 (dynamic) or 2 (static)",
                   (int)o->batching);
  }
  if ((unsigned)o->preemption >= QN_PREEMPT_COUNT) {
    return qn_fail(diag, QN_ERR_ARGUMENT, "preemption", "got %d, want 0 (recompute) or 1 (swap)", (int)o->preemption);
  }
  if (o->step_tokens < 1 || o->step_tokens > chunk) {
    return qn_fail(diag, QN_ERR_ARGUMENT, "step_tokens", "got %" PRId64 ", want 1 to %" PRId64 ", or 0 for that",
                   o->step_tokens, chunk);
  }
  return QN_OK;
}

static size_t rows_bytes(const qn_scheduler *s) { return (size_t)qn_decoder_sequences(s->decoder) * sizeof *s->rows; }
static size_t items_bytes(const qn_scheduler *s) { return (size_t)s->options.step_tokens * sizeof *s->items; }

static size_t trees_bytes(const qn_scheduler *s) { return (size_t)qn_decoder_sequences(s->decoder) * sizeof *s->trees; }
static size_t asked_bytes(const qn_scheduler *s) { return (size_t)qn_decoder_sequences(s->decoder) * sizeof *s->asked; }

static qn_status take_memory(qn_scheduler *s, const char *swap_folder, qn_diag *diag) {
  const char *path = qn_decoder_path(s->decoder);
  s->rows = qn_alloc_zeroed(s->allocator, rows_bytes(s));
  s->order = qn_alloc_zeroed(s->allocator, rows_bytes(s));
  s->items = qn_alloc_zeroed(s->allocator, items_bytes(s));
  s->trees = qn_alloc_zeroed(s->allocator, trees_bytes(s));
  s->asked = qn_alloc_zeroed(s->allocator, asked_bytes(s));
  if (!s->rows || !s->order || !s->items || !s->trees || !s->asked) return qn_fail_nomem(diag, path, "the scheduler");
  if (swap_folder) {
    char *copy = qn_alloc(s->allocator, strlen(swap_folder) + 1);
    if (!copy) return qn_fail_nomem(diag, path, "a folder's name");
    s->options.swap_folder = strcpy(copy, swap_folder);
  }
  s->has_lock = pthread_mutex_init(&s->lock, NULL) == 0;
  pthread_condattr_t attributes;
  if (s->has_lock && pthread_condattr_init(&attributes) == 0) {
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    s->has_changed = pthread_cond_init(&s->changed, &attributes) == 0;
    pthread_condattr_destroy(&attributes);
  }
  return s->has_changed ? QN_OK : qn_fail_nomem(diag, path, "a lock");
}

static qn_status set_up(qn_scheduler *s, const qn_scheduler_options *options, qn_diag *diag) {
  const qn_kv_cache *cache = qn_decoder_cache(s->decoder);
  int64_t keys = qn_kv_cache_artifact(cache)->program->page_keys;
  s->options = *options;
  s->options.swap_folder = NULL;
  if (!s->options.clock) s->options.clock = monotonic;
  if (s->options.step_tokens == 0) s->options.step_tokens = qn_decoder_chunk(s->decoder);
  QN_TRY(check_options(s, diag));
  s->page_keys = keys ? keys : 1;
  s->stats.pages = qn_kv_cache_pages(cache);
  int64_t context = qn_decoder_context(s->decoder);
  int64_t room = s->stats.pages * s->page_keys;
  if (qn_scheduler_most_pages(s, context) <= s->stats.pages) room = context;  // with a window a sequence takes no more
  s->most_tokens = room < context ? room : context;
  return take_memory(s, options->swap_folder, diag);
}

qn_status qn_scheduler_create(qn_decoder *decoder, const qn_tokenizer *tokenizer, int32_t sampled_vocab,
                              const qn_scheduler_options *options, const qn_allocator *allocator, qn_scheduler **out,
                              qn_diag *diag) {
  *out = NULL;
  if (qn_decoder_has_source(decoder))
    return qn_fail(diag, QN_ERR_UNSUPPORTED, qn_decoder_path(decoder),
                   "the model has an encoder, and requests are texts that go on; give sequences of a session their sources");
  if (qn_decoder_embedding(decoder) > 0)
    return qn_fail(diag, QN_ERR_UNSUPPORTED, qn_decoder_path(decoder),
                   "the model is an encoder, and requests are texts that go on; embed whole texts with a session");
  qn_scheduler *s = qn_alloc_zeroed(allocator, sizeof *s);
  if (!s) return qn_fail_nomem(diag, qn_decoder_path(decoder), "the scheduler");
  s->decoder = decoder;
  s->tokenizer = tokenizer;
  s->allocator = allocator;
  s->vocab = sampled_vocab;
  qn_status status = set_up(s, options, diag);
  if (status == QN_OK) {
    *out = s;
  } else {
    qn_scheduler_destroy(s);
  }
  return status;
}

// A callback may add requests meanwhile: they end, too.
static void end_all(qn_scheduler *s) {
  for (;;) {
    qn_scheduler_take_in(s);
    qn_request *r = s->running.first ? s->running.first : s->waiting.first;
    if (!r) return;
    if (r->row < 0) qn_request_list_remove(&s->waiting, r);
    r->result.reason = QN_STOP_CANCELLED;
    qn_request_end(s, r, NULL);
  }
}

void qn_scheduler_destroy(qn_scheduler *s) {
  if (!s) return;
  if (s->has_changed) end_all(s);
  qn_vec_free(s->allocator, &s->clients);
  if (s->has_changed) pthread_cond_destroy(&s->changed);
  if (s->has_lock) pthread_mutex_destroy(&s->lock);
  if (s->options.swap_folder)
    qn_free(s->allocator, (char *)(uintptr_t)s->options.swap_folder, strlen(s->options.swap_folder) + 1);
  qn_free(s->allocator, s->rows, s->rows ? rows_bytes(s) : 0);
  qn_free(s->allocator, s->order, s->order ? rows_bytes(s) : 0);
  qn_free(s->allocator, s->items, s->items ? items_bytes(s) : 0);
  qn_free(s->allocator, s->trees, s->trees ? trees_bytes(s) : 0);
  qn_free(s->allocator, s->asked, s->asked ? asked_bytes(s) : 0);
  qn_free(s->allocator, s, sizeof *s);
}

// --- adding and cancelling

static qn_client *find_client(qn_scheduler *s, uint64_t id) {
  for (size_t i = 0; i < s->clients.count; i++) {
    if (s->clients.items[i]->id == id) return s->clients.items[i];
  }
  qn_client *client = qn_alloc_zeroed(s->allocator, sizeof *client);
  if (!client) return NULL;
  client->id = id;
  if (qn_vec_push(s->allocator, &s->clients, client)) return client;
  qn_free(s->allocator, client, sizeof *client);
  return NULL;
}

qn_status qn_scheduler_add(qn_scheduler *s, const qn_request_params *params, uint64_t *out_id, qn_diag *diag) {
  qn_request *r = NULL;
  *out_id = 0;
  pthread_mutex_lock(&s->lock);
  uint64_t last = s->next_id;
  pthread_mutex_unlock(&s->lock);
  if (params->fork_of > last)
    return qn_fail(diag, QN_ERR_ARGUMENT, "fork_of", "got %" PRIu64 ", want 0 or a request that was added before",
                   params->fork_of);
  QN_TRY(qn_request_create(s, params, &r, diag));
  pthread_mutex_lock(&s->lock);
  r->client = find_client(s, params->client);
  if (r->client) {
    r->client->requests++;
    r->all_next = s->all;
    if (s->all) s->all->all_previous = r;
    s->all = r;
    *out_id = r->id = ++s->next_id;
    qn_request_list_append(&s->incoming, r);
    s->woken = true;
    pthread_cond_signal(&s->changed);
  }
  pthread_mutex_unlock(&s->lock);
  if (*out_id) return QN_OK;
  qn_request_destroy(r);
  return qn_fail_nomem(diag, qn_decoder_path(s->decoder), "a client");
}

bool qn_scheduler_cancel(qn_scheduler *s, uint64_t id) {
  bool found = false;
  pthread_mutex_lock(&s->lock);
  for (qn_request *r = s->all; r && !found; r = r->all_next) {
    if (r->id != id) continue;
    atomic_store(&r->cancelled, true);
    s->woken = found = true;
    pthread_cond_signal(&s->changed);
  }
  pthread_mutex_unlock(&s->lock);
  return found;
}

bool qn_scheduler_wait(qn_scheduler *s, uint64_t most_ns) {
  struct timespec until;
  clock_gettime(CLOCK_MONOTONIC, &until);
  uint64_t seconds = most_ns / 1000000000u, most_seconds = 1u << 30;
  until.tv_sec += (time_t)(seconds < most_seconds ? seconds : most_seconds);
  until.tv_nsec += (long)(most_ns % 1000000000u);
  if (until.tv_nsec >= 1000000000) {
    until.tv_sec++;
    until.tv_nsec -= 1000000000;
  }
  pthread_mutex_lock(&s->lock);
  int status = 0;
  while (!s->woken && status == 0) status = pthread_cond_timedwait(&s->changed, &s->lock, &until);
  bool woken = s->woken;
  pthread_mutex_unlock(&s->lock);
  return woken;
}

size_t qn_scheduler_left(qn_scheduler *s) {
  pthread_mutex_lock(&s->lock);
  size_t left = s->incoming.count;
  pthread_mutex_unlock(&s->lock);
  return left + s->waiting.count + s->running.count;
}

// --- what it counts

void qn_scheduler_get_stats(const qn_scheduler *s, qn_scheduler_stats *out) {
  *out = s->stats;
  out->running = (int64_t)s->running.count;
  out->waiting = (int64_t)s->waiting.count;
  out->free_pages = qn_scheduler_free_pages(s);
}

qn_status qn_scheduler_check(const qn_scheduler *s, qn_diag *diag) {
  int64_t held = 0;
  for (int32_t row = 0; row < qn_decoder_sequences(s->decoder); row++) {
    const qn_request *r = s->rows[row];
    int64_t tokens = qn_decoder_position(s->decoder, row);
    if (tokens != (r ? r->evaluated : 0)) {
      return qn_fail(diag, QN_ERR_INTERNAL, "scheduler", "row %" PRId32 ": got %" PRId64 " tokens, want %" PRId64, row,
                     tokens, r ? r->evaluated : 0);
    }
    held += qn_kv_cache_held(qn_decoder_cache(s->decoder), row);
  }
  int64_t used = s->stats.pages - qn_scheduler_free_pages(s);
  qn_kv_prefix *prefixes = qn_decoder_prefixes(s->decoder);
  QN_TRY(prefixes ? qn_kv_prefix_check(prefixes, diag) : qn_kv_cache_check(qn_decoder_cache(s->decoder), diag));
  if (used == held || ((prefixes || s->forked) && used < held)) return QN_OK;  // requests may share what they begin with
  return qn_fail(diag, QN_ERR_INTERNAL, "scheduler", "got %" PRId64 " pages in use, want the %" PRId64 " of requests",
                 used, held);
}
