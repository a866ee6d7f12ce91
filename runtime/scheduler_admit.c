// Who has a row and pages: admission in order of priority, of what each client has had, and of arrival; and who loses
// them again when there are too few. What a request loses is its place, never a token.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/kv_state.h"
#include "runtime/scheduler_impl.h"

// --- taking in

// A client that comes is level with the one that has had least: it neither waits for what others had before nor makes
// them wait until it has had as much.
static void level(qn_scheduler *s, qn_client *client) {
  bool any = false;
  int64_t least = 0;
  if (client->taken_in) return;
  for (size_t i = 0; i < s->clients.count; i++) {
    const qn_client *other = s->clients.items[i];
    if (!other->taken_in || (any && other->served >= least)) continue;
    least = other->served;
    any = true;
  }
  client->served = least;
  client->taken_in = true;
}

static void end_cancelled(qn_scheduler *s, qn_request_list *list) {
  for (qn_request *r = list->first, *next; r; r = next) {
    next = r->next;  // a callback may add, which touches no list of ours
    if (!atomic_load(&r->cancelled)) continue;
    if (r->row < 0) qn_request_list_remove(list, r);
    r->result.reason = QN_STOP_CANCELLED;
    qn_request_end(s, r, NULL);
  }
}

void qn_scheduler_take_in(qn_scheduler *s) {
  pthread_mutex_lock(&s->lock);
  s->woken = false;
  for (qn_request *r; (r = s->incoming.first) != NULL;) {
    qn_request_list_remove(&s->incoming, r);
    qn_request_list_append(&s->waiting, r);
    level(s, r->client);
    s->stats.added++;
  }
  pthread_mutex_unlock(&s->lock);
  end_cancelled(s, &s->waiting);
  end_cancelled(s, &s->running);
}

// --- pages

static bool is_kin(const qn_request *r, const qn_request *other) {
  return other != r && (other->id == r->fork_of || (other->fork_of != 0 && other->fork_of == r->fork_of));
}

// How many tokens of its own, all but the last at most, another one begins with and has in the cache.
static int64_t alike(const qn_request *r, const qn_request *other) {
  int64_t n = 0;
  while (n < r->count - 1 && n < other->evaluated && r->tokens[n] == other->tokens[n]) n++;
  return n;
}

// Who runs (`urgent`: and keeps its place whoever comes) and has the most of what a fork begins with; NULL: nobody has any.
// *out_tokens is how much that is.
static const qn_request *find_kin(const qn_scheduler *s, const qn_request *r, bool urgent, int64_t *out_tokens) {
  const qn_request *best = NULL;
  *out_tokens = 0;
  for (const qn_request *other = r->fork_of ? s->running.first : NULL; other; other = other->next) {
    int64_t tokens = (urgent && !other->urgent) || !is_kin(r, other) ? 0 : alike(r, other);
    if (tokens <= *out_tokens || tokens < qn_decoder_least(s->decoder, other->row)) continue;
    best = other;
    *out_tokens = tokens;
  }
  return best;
}

// What those who run (`urgent`: and keep their places) will take for tokens that they have already.
static int64_t promised_pages(const qn_scheduler *s, bool urgent) {
  int64_t pages = 0;
  for (const qn_request *r = s->running.first; r; r = r->next) {
    if (!urgent || r->urgent) pages += qn_scheduler_promised_pages(s, r);
  }
  return pages;
}

// Who runs (`urgent`: and keeps its place) and has that page, the first in the list; a page that several have is at the same
// place of each. NULL: nobody.
static const qn_request *find_holder(const qn_scheduler *s, int64_t index, int32_t page, bool urgent) {
  const qn_kv_cache *cache = qn_decoder_cache(s->decoder);
  for (const qn_request *r = s->running.first; r; r = r->next) {
    if ((urgent && !r->urgent) || index < qn_kv_cache_first(cache, r->row)) continue;
    if (index >= qn_scheduler_pages_of(s, qn_kv_cache_length(cache, r->row))) continue;
    if (qn_kv_cache_page(cache, r->row, index) == page) return r;
  }
  return NULL;
}

typedef struct kept_pages {
  const qn_scheduler *s;
  bool urgent;
  int64_t held;  // that somebody has who runs: they are not among the free ones
} kept_pages;

static void count_held(void *context, int64_t index, int32_t page, int64_t keys) {
  kept_pages *k = context;
  k->held += keys == k->s->page_keys && find_holder(k->s, index, page, k->urgent);
}

// How many full pages that are not among the free ones it will begin with: its kin's, or, where more is kept than that has, of
// the kept ones.
static int64_t shared_pages(const qn_scheduler *s, const qn_request *r, bool urgent) {
  int64_t tokens = 0;
  kept_pages kept = {s, urgent, 0};
  (void)find_kin(s, r, urgent, &tokens);
  int64_t known = qn_decoder_look(s->decoder, r->tokens, (size_t)r->count, count_held, &kept);
  return known > tokens ? kept.held : tokens / s->page_keys;
}

// What it takes of the free ones for the tokens that it has, beside what it shares; but one that gives keys up copies all of
// that.
static int64_t needed_pages(const qn_scheduler *s, const qn_request *r, bool urgent) {
  int64_t most = qn_scheduler_most_pages(s, r->count), own = qn_scheduler_pages_of(s, r->count);
  if (r->kept_tokens == 0 && !qn_kv_cache_evicts(qn_decoder_cache(s->decoder))) own -= shared_pages(s, r, urgent);
  return own < most ? own : most;
}

static bool has_room(const qn_scheduler *s, const qn_request *r) {
  return needed_pages(s, r, false) <= qn_scheduler_free_pages(s) - promised_pages(s, false);
}

static int32_t free_row(const qn_scheduler *s) {
  for (int32_t row = 0; row < qn_decoder_sequences(s->decoder); row++) {
    if (!s->rows[row]) return row;
  }
  return -1;
}

// --- keeping what a request has in the cache

void qn_scheduler_drop_kept(qn_request *r) {
  qn_free(r->allocator, r->kept, r->kept_bytes);
  if (r->kept_path) {
    unlink(r->kept_path);
    qn_free(r->allocator, r->kept_path, strlen(r->kept_path) + 1);
  }
  r->kept = NULL;
  r->kept_path = NULL;
  r->kept_bytes = 0;
  r->kept_tokens = 0;
}

static qn_status keep_in_file(qn_scheduler *s, qn_request *r, qn_diag *diag) {
  qn_buf path;
  qn_buf_init(&path, r->allocator);
  qn_buf_printf(&path, "%s/quern-%ld-%p-%" PRIu64 ".kv", s->options.swap_folder, (long)getpid(), (void *)s, r->id);
  size_t length = path.length + 1;
  if (!path.failed && (r->kept_path = qn_alloc(r->allocator, length))) memcpy(r->kept_path, qn_buf_text(&path), length);
  qn_buf_deinit(&path);
  if (!r->kept_path) return qn_fail_nomem(diag, s->options.swap_folder, "a file's name");
  return qn_kv_state_save_file(qn_decoder_cache(s->decoder), r->row, r->kept_path, diag);
}

static qn_status keep(qn_scheduler *s, qn_request *r, qn_diag *diag) {
  const qn_kv_cache *cache = qn_decoder_cache(s->decoder);
  size_t bytes = 0;
  if (!qn_kv_state_size(cache, r->row, &bytes)) return qn_fail(diag, QN_ERR_LIMIT, "swap", "the size overflows");
  r->kept_tokens = r->evaluated;
  if (s->options.swap_folder) {
    QN_TRY(keep_in_file(s, r, diag));
  } else {
    r->kept = qn_alloc(r->allocator, bytes);
    if (!r->kept) return qn_fail_nomem(diag, "swap", "a sequence's keys and values");
    r->kept_bytes = bytes;
    QN_TRY(qn_kv_state_save(cache, r->row, r->kept, bytes, &bytes, diag));
  }
  s->stats.swap_bytes += bytes;
  s->stats.swapped_out++;
  return QN_OK;
}

static qn_status put_back(qn_scheduler *s, qn_request *r, qn_diag *diag) {
  if (!r->kept_path) return qn_decoder_restore(s->decoder, r->row, r->kept, r->kept_bytes, "swap", diag);
  qn_mapping mapping = {0};
  QN_TRY(qn_mapping_open(&mapping, r->kept_path, diag));
  qn_status status = qn_mapping_keep_but(&mapping, mapping.size, mapping.size, r->kept_path, diag);
  if (status == QN_OK)
    status = qn_decoder_restore(s->decoder, r->row, mapping.data, mapping.size, r->kept_path, diag);
  qn_mapping_close(&mapping);
  return status;
}

// Nothing is lost with it but time: what it is of is evaluated again.
static void lose_kept(qn_scheduler *s, qn_request *r, const qn_diag *why) {
  qn_log(QN_LOG_WARNING, "swap: %s; evaluating %" PRId64 " tokens again", why->text, r->kept_tokens);
  qn_scheduler_drop_kept(r);
  s->stats.swaps_lost++;
}

// --- rows

static void preempt(qn_scheduler *s, qn_request *r) {
  qn_diag diag = {0};
  if (s->options.preemption == QN_PREEMPT_SWAP && r->evaluated > 0 && keep(s, r, &diag) != QN_OK)
    lose_kept(s, r, &diag);
  s->planned_pages -= r->step_pages;
  qn_speculator_destroy(r->speculator);  // whoever guesses may hold things for the row
  r->speculator = NULL;
  qn_decoder_reset(s->decoder, r->row);
  s->rows[r->row] = NULL;
  r->row = -1;
  r->evaluated = r->step_tokens = r->step_pages = 0;
  r->result.preemptions++;
  s->stats.preemptions++;
  qn_request_list_remove(&s->running, r);
  qn_request_list_append(&s->waiting, r);
}

// Of a request that is to be guessed at: what guesses, and the text so far.
static qn_status begin_guessing(qn_scheduler *s, qn_request *r, qn_diag *diag) {
  qn_proposer *proposer = NULL;
  if (!r->guesser || qn_decoder_rows(s->decoder) < 2) return QN_OK;
  qn_speculate_options options = {
      .tokens = r->most_guesses, .text_max = r->capacity, .make_cost = r->guesser->make_cost, .judged = r->judged};
  if (options.tokens == 0 && qn_decoder_rows(s->decoder) <= QN_SPECULATE_MOST)
    options.most = (int32_t)qn_decoder_rows(s->decoder) - 1;
  QN_TRY(r->guesser->create(r->guesser->context, r->row, r->judged, &proposer, diag));
  QN_TRY(qn_speculator_create(proposer, &options, r->allocator, &r->speculator, diag));
  QN_TRY(qn_speculator_begin(r->speculator, 0, r->sampler, diag));
  qn_speculator_take(r->speculator, r->tokens, (size_t)r->count);
  return QN_OK;
}

// --- forks

// Takes pages of the one whose prompt begins alike, or of another fork of it; none where more than it has is kept.
static int64_t share_pages(qn_scheduler *s, qn_request *r) {
  int64_t tokens = 0;
  const qn_request *kin = find_kin(s, r, false, &tokens);
  if (!kin || qn_decoder_look(s->decoder, r->tokens, (size_t)r->count, NULL, NULL) > tokens) return 0;
  s->forked = true;
  return qn_decoder_branch(s->decoder, kin->row, tokens, r->row);
}

// Is the one that it would share pages with about to have them?
static bool waits_for_kin(const qn_scheduler *s, const qn_request *r) {
  if (!r->fork_of || r->sampler || s->options.batching != QN_BATCHING_CONTINUOUS) return false;
  const qn_request_list *lists[] = {&s->running, &s->waiting};
  for (size_t i = 0; i < QN_COUNT(lists); i++) {
    for (const qn_request *other = lists[i]->first; other; other = other->next) {
      if (other->id == r->fork_of && other->urgent >= r->urgent) return other->furthest < other->prompt_count;
    }
  }
  return false;
}

// A sampler, what guesses, and what is in the cache already: what a fork shares, what is kept, or what it had before it was
// preempted.
static qn_status begin(qn_scheduler *s, qn_request *r, qn_diag *diag) {
  if (!r->sampler) {
    QN_TRY(qn_sampler_create(&r->sampling, s->vocab, r->allocator, &r->sampler, diag));
    for (int64_t i = 0; i < r->prompt_count; i++) qn_sampler_accept(r->sampler, r->tokens[i]);
    r->result.queued_ns = qn_scheduler_now(s) - r->added_ns;
  }
  QN_TRY(begin_guessing(s, r, diag));
  if (r->kept_tokens == 0) {
    r->evaluated = share_pages(s, r);
    if (r->evaluated == 0) r->evaluated = qn_decoder_attach(s->decoder, r->row, r->tokens, (size_t)r->count);
    if (r->furthest == 0) {  // else it finds what it had itself
      s->stats.cached_tokens += r->evaluated;
      r->result.cached_tokens = r->evaluated;
    }
    if (r->evaluated > r->furthest) r->furthest = r->evaluated;
    return QN_OK;
  }
  qn_diag why = {0};
  if (put_back(s, r, &why) == QN_OK) {
    r->evaluated = r->kept_tokens;
    qn_decoder_know(s->decoder, r->row, r->tokens);
    qn_decoder_keep(s->decoder, r->row);
    s->stats.swapped_in++;
    qn_scheduler_drop_kept(r);
  } else {
    lose_kept(s, r, &why);
  }
  return QN_OK;
}

static void give_row(qn_scheduler *s, qn_request *r, int32_t row) {
  qn_diag diag = {0};
  qn_request_list_remove(&s->waiting, r);
  qn_request_list_append(&s->running, r);
  s->rows[row] = r;
  r->row = row;
  r->turn = ++s->turns;
  if (begin(s, r, &diag) != QN_OK) qn_request_end(s, r, &diag);
}

// Whom pages are taken from: of the least urgent the one that came last. So the one that came first always gets on.
static qn_request *victim(const qn_scheduler *s) {
  qn_request *worst = NULL;
  for (qn_request *r = s->running.first; r; r = r->next) {
    if (!worst || r->urgent < worst->urgent || (r->urgent == worst->urgent && r->turn > worst->turn)) worst = r;
  }
  return worst;
}

bool qn_scheduler_make_room(qn_scheduler *s, qn_request *r, int64_t tokens) {
  int64_t more;  // less where what is shared was shared with one that has lost its pages
  while ((more = qn_scheduler_more_pages(s, r, tokens)) > qn_scheduler_free_pages(s) - s->planned_pages) {
    if (s->running.count == 1) {
      qn_diag diag = {0};
      (void)qn_fail(&diag, QN_ERR_LIMIT, qn_decoder_path(s->decoder),
                    "no page of the KV cache is free for a request of %" PRId64
                    " tokens, and there is nobody to take one from; got %" PRId64 " free, want %" PRId64,
                    r->count, qn_scheduler_free_pages(s), more);
      qn_request_end(s, r, &diag);
      return false;
    }
    qn_request *loser = victim(s);
    preempt(s, loser);
    if (loser == r) return false;
  }
  return true;
}

// --- who is next

// Is `a` to be given a row before `b`? Who had one already goes on first, so that nobody is thrown out twice for those
// that came later.
static bool before(const qn_request *a, const qn_request *b) {
  if (a->urgent != b->urgent) return a->urgent;
  bool a_began = a->sampler != NULL, b_began = b->sampler != NULL;
  if (a_began != b_began) return a_began;
  if (a->client->served != b->client->served) return a->client->served < b->client->served;
  return a->id < b->id;
}

static qn_request *next_waiting(qn_scheduler *s) {
  uint64_t now = qn_scheduler_now(s), patience = s->options.patience_ns;
  qn_request *best = NULL;
  for (qn_request *r = s->waiting.first; r; r = r->next) {
    if (patience > 0 && now - r->added_ns >= patience) r->urgent = true;
    if (waits_for_kin(s, r)) continue;
    if (!best || before(r, best)) best = r;
  }
  return best;
}

static uint64_t oldest_wait(const qn_scheduler *s) {
  uint64_t now = qn_scheduler_now(s), most = 0;
  for (const qn_request *r = s->waiting.first; r; r = r->next) most = now - r->added_ns > most ? now - r->added_ns : most;
  return most;
}

// Static and dynamic batches: may somebody be taken in?
static bool batch_is_open(qn_scheduler *s) {
  if (s->options.batching == QN_BATCHING_CONTINUOUS) return true;
  if (s->running.count == 0) s->batch_closed = false;
  if (s->batch_closed) return false;
  return s->options.batching == QN_BATCHING_STATIC ||
         s->waiting.count >= (size_t)qn_decoder_sequences(s->decoder) || oldest_wait(s) >= s->options.batch_wait_ns;
}

// Pages that become free when all that are less urgent lose their rows; those that several of them share count once.
static int64_t pages_of_others(const qn_scheduler *s) {
  const qn_kv_cache *cache = qn_decoder_cache(s->decoder);
  int64_t pages = 0;
  for (const qn_request *r = s->running.first; r; r = r->next) {
    int64_t end = r->urgent ? 0 : qn_scheduler_pages_of(s, qn_kv_cache_length(cache, r->row));
    for (int64_t i = qn_kv_cache_first(cache, r->row); i < end; i++) {
      int32_t page = qn_kv_cache_page(cache, r->row, i);
      pages += !find_holder(s, i, page, true) && find_holder(s, i, page, false) == r;
    }
  }
  return pages;
}

// No less than those, and quickly told: who asks in vain asks at every step.
static int64_t most_of_others(const qn_scheduler *s) {
  int64_t pages = 0;
  for (const qn_request *r = s->running.first; r; r = r->next)
    pages += r->urgent ? 0 : qn_kv_cache_held(qn_decoder_cache(s->decoder), r->row);
  return pages;
}

// Takes the place of one that is less urgent. False when all of those would not make enough room.
static bool displace(qn_scheduler *s, const qn_request *r) {
  qn_request *loser = victim(s);
  if (!loser || loser->urgent) return false;
  int64_t wanted = needed_pages(s, r, true) + promised_pages(s, true) - qn_scheduler_free_pages(s);
  if (most_of_others(s) < wanted || pages_of_others(s) < wanted) return false;
  preempt(s, loser);
  return true;
}

void qn_scheduler_admit(qn_scheduler *s) {
  if (!batch_is_open(s)) return;
  for (qn_request *r; (r = next_waiting(s)) != NULL;) {
    int32_t row = free_row(s);
    if (row >= 0 && has_room(s, r)) {
      give_row(s, r, row);
    } else if (s->running.count == 0 && row >= 0) {
      give_row(s, r, row);  // nobody will ever leave more room: qn_scheduler_make_room tells it
    } else if (!r->urgent || s->options.batching != QN_BATCHING_CONTINUOUS || !displace(s, r)) {
      break;
    }
  }
  if (s->options.batching != QN_BATCHING_CONTINUOUS && s->running.count > 0) s->batch_closed = true;
  if ((int64_t)s->running.count > s->stats.most_running) s->stats.most_running = (int64_t)s->running.count;
}

uint64_t qn_scheduler_idle_ns(const qn_scheduler *s) {
  uint64_t waited = oldest_wait(s);
  if (s->waiting.count == 0) return QN_SCHEDULER_IDLE;
  return waited < s->options.batch_wait_ns ? s->options.batch_wait_ns - waited : 1;
}
