// One request: what was asked for, checked and copied; taking its tokens; its end.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/scheduler_impl.h"

// --- creation

static qn_status check(const qn_scheduler *s, const qn_request_params *p, qn_diag *diag) {
  int64_t vocab = qn_decoder_vocab(s->decoder);
  if (p->prompt_count == 0) return qn_fail(diag, QN_ERR_ARGUMENT, "prompt", "got no token, want at least 1");
  if (p->prompt_count > (size_t)s->most_tokens) {
    return qn_fail(diag, QN_ERR_LIMIT, qn_decoder_path(s->decoder),
                   "got a prompt of %zu tokens, want at most the %" PRId64 " that context and KV cache have room for",
                   p->prompt_count, s->most_tokens);
  }
  for (size_t i = 0; i < p->prompt_count; i++) {
    if (p->prompt[i] >= 0 && p->prompt[i] < vocab) continue;
    return qn_fail(diag, QN_ERR_ARGUMENT, "prompt", "token %zu: got id %" PRId32 ", want 0 to %" PRId64, i, p->prompt[i],
                   vocab - 1);
  }
  if (p->max_tokens < 0) {
    return qn_fail(diag, QN_ERR_ARGUMENT, "max_tokens", "got %" PRId64 ", want 0 (no limit) or more", p->max_tokens);
  }
  if ((unsigned)p->priority >= QN_PRIORITY_COUNT) {
    return qn_fail(diag, QN_ERR_ARGUMENT, "priority", "got %d, want 0 (online) or 1 (batch)", (int)p->priority);
  }
  int64_t rows = qn_decoder_rows(s->decoder);
  if (p->guesser && !qn_decoder_takes_back(s->decoder))
    return qn_fail(diag, QN_ERR_UNSUPPORTED, qn_decoder_path(s->decoder), QN_GUESSES_BESIDE_SUMS);
  if (p->guesses < 0 || p->guesses >= (rows > 1 ? rows : INT32_MAX)) {
    return qn_fail(diag, QN_ERR_ARGUMENT, "guesses", "got %" PRId32 ", want 0 (as many as pay) to %" PRId64, p->guesses,
                   rows - 1);
  }
  return qn_sampler_options_check(&p->sampler, diag);
}

// One block for the strings and their bytes.
static qn_status copy_stops(qn_request *r, const qn_request_params *p, qn_diag *diag) {
  size_t bytes = 0;
  bool fits = qn_size_mul(p->stop_count, sizeof(qn_str), &bytes);
  for (size_t i = 0; fits && i < p->stop_count; i++) fits = qn_size_add(bytes, p->stops[i].length, &bytes);
  if (!fits) return qn_fail(diag, QN_ERR_LIMIT, "stop strings", "got more bytes than can be counted");
  if (bytes == 0) return QN_OK;
  r->stops = qn_alloc(r->allocator, bytes);
  if (!r->stops) return qn_fail_nomem(diag, "stop strings", "a copy");
  r->stops_bytes = bytes;
  qn_str *stops = r->stops;
  char *to = (char *)(stops + p->stop_count);
  for (size_t i = 0; i < p->stop_count; i++) {
    if (p->stops[i].length > 0) memcpy(to, p->stops[i].data, p->stops[i].length);
    stops[i] = (qn_str){to, p->stops[i].length};
    to += p->stops[i].length;
  }
  return QN_OK;
}

// Room for all that it may become, so that no step needs memory for it.
static qn_status copy_prompt(const qn_scheduler *s, qn_request *r, const qn_request_params *p, qn_diag *diag) {
  r->prompt_count = r->count = (int64_t)p->prompt_count;
  int64_t more = s->most_tokens + 1 - r->count;  // the last one sampled is not evaluated
  r->capacity = r->count + (p->max_tokens > 0 && p->max_tokens < more ? p->max_tokens : more);
  r->tokens = qn_alloc(r->allocator, (size_t)r->capacity * sizeof *r->tokens);
  if (!r->tokens) return qn_fail_nomem(diag, "prompt", "a request's tokens");
  memcpy(r->tokens, p->prompt, p->prompt_count * sizeof *r->tokens);
  return QN_OK;
}

// What guesses from hidden states sees one when the decoder's is gone already.
static qn_status take_hidden(const qn_scheduler *s, qn_request *r, qn_diag *diag) {
  r->hidden_width = r->guesser && r->guesser->hidden ? qn_decoder_hidden_width(s->decoder) : 0;
  if (r->hidden_width == 0) return QN_OK;
  r->hidden = qn_alloc(r->allocator, (size_t)r->hidden_width * sizeof *r->hidden);
  return r->hidden ? QN_OK : qn_fail_nomem(diag, "guesses", "a hidden state");
}

static qn_status fill_in(const qn_scheduler *s, qn_request *r, const qn_request_params *p, qn_diag *diag) {
  QN_TRY(copy_stops(r, p, diag));
  QN_TRY(copy_prompt(s, r, p, diag));
  QN_TRY(take_hidden(s, r, diag));
  qn_text_options text = {.tokenizer = s->tokenizer,
                          .stops = r->stops,
                          .stop_count = p->stop_count,
                          .show_special = p->show_special,
                          .prompt = r->tokens,
                          .prompt_count = p->prompt_count};
  return qn_text_out_init(&r->text, &text, r->allocator, diag);
}

qn_status qn_request_create(const qn_scheduler *s, const qn_request_params *p, qn_request **out, qn_diag *diag) {
  *out = NULL;
  QN_TRY(check(s, p, diag));
  qn_request *r = qn_alloc_zeroed(s->allocator, sizeof *r);
  if (!r) return qn_fail_nomem(diag, qn_decoder_path(s->decoder), "a request");
  r->allocator = s->allocator;
  r->sampling = p->sampler;
  r->max_tokens = p->max_tokens;
  r->ignore_eog = p->ignore_eog;
  r->guesser = p->guesser;
  r->fork_of = p->fork_of;
  r->most_guesses = p->guesses;
  r->judged = p->judged;
  r->priority = p->priority;
  r->callback = p->callback;
  r->done = p->done;
  r->context = p->context;
  r->row = -1;
  r->urgent = p->priority == QN_PRIORITY_ONLINE;
  qn_status status = fill_in(s, r, p, diag);
  if (status == QN_OK) {
    r->added_ns = qn_scheduler_now(s);
    *out = r;
  } else {
    qn_request_destroy(r);
  }
  return status;
}

void qn_request_destroy(qn_request *r) {
  if (!r) return;
  qn_scheduler_drop_kept(r);
  qn_text_out_deinit(&r->text);
  qn_speculator_destroy(r->speculator);
  qn_sampler_destroy(r->sampler);
  qn_free(r->allocator, r->hidden, (size_t)r->hidden_width * sizeof *r->hidden);
  qn_free(r->allocator, r->stops, r->stops_bytes);
  qn_free(r->allocator, r->tokens, (size_t)r->capacity * sizeof *r->tokens);
  qn_free(r->allocator, r, sizeof *r);
}

// --- tokens

// False when the callback cancels.
static bool give(qn_request *r, qn_str text, int32_t id) {
  if (!r->callback || r->callback(r->context, text, id)) return true;
  r->result.reason = QN_STOP_CANCELLED;
  return false;
}

static bool is_full(const qn_scheduler *s, const qn_request *r) { return r->evaluated >= s->most_tokens; }

// What qn_generate does with a token, in the same order.
static qn_status take_token(qn_scheduler *s, qn_request *r, int32_t id, bool *out_end, qn_diag *diag) {
  qn_request_result *result = &r->result;
  qn_str text;
  *out_end = true;
  if (s->tokenizer && !r->ignore_eog && qn_tokenizer_is_eog(s->tokenizer, id)) {
    result->reason = QN_STOP_EOG;
    return QN_OK;
  }
  bool stop = false;
  QN_TRY(qn_text_out_push(&r->text, id, &text, &stop, &result->stop_index, diag));
  if (stop) result->reason = QN_STOP_STRING;
  if (!give(r, text, id) || stop) return QN_OK;
  if (r->max_tokens > 0 && result->generated_tokens >= r->max_tokens) {
    result->reason = QN_STOP_MAX_TOKENS;
  } else if (is_full(s, r)) {
    result->reason = QN_STOP_CONTEXT;
  } else {
    *out_end = false;
  }
  return QN_OK;
}

qn_status qn_request_take(qn_scheduler *s, qn_request *r, const float *logits, int32_t node, bool *out_end, qn_diag *diag) {
  int32_t id = 0;
  qn_diag why = {0};
  qn_status status = r->guesses > 0 ? qn_speculator_judge(r->speculator, r->sampler, logits, node, &id, &why)
                                    : qn_sampler_sample(r->sampler, logits, &id, &why);
  if (status != QN_OK) {
    return qn_fail(diag, QN_ERR_FORMAT, qn_decoder_path(s->decoder),
                   "the logits are not numbers: the weights may be damaged, try --check-weights (%s)", why.text);
  }
  qn_sampler_accept(r->sampler, id);
  if (r->result.generated_tokens++ == 0) r->result.first_ns = qn_scheduler_now(s) - r->added_ns;
  r->tokens[r->count++] = id;
  if (r->speculator) qn_speculator_take(r->speculator, &id, 1);
  return take_token(s, r, id, out_end, diag);
}

void qn_request_finish_text(qn_request *r) {
  qn_str text;
  bool found = false;
  size_t stop = 0;
  if (r->result.reason == QN_STOP_STRING || r->result.reason == QN_STOP_CANCELLED) return;
  for (int piece = 0; !found && qn_text_out_finish(&r->text, piece, &text, &found, &stop); piece++) {
    if (found) {
      r->result.reason = QN_STOP_STRING;
      r->result.stop_index = stop;
    }
    if (text.length > 0 && !give(r, text, -1)) return;
  }
}

// --- the end

static void leave_client(qn_scheduler *s, qn_request *r) {
  qn_client *client = r->client;
  if (!client || --client->requests > 0) return;
  for (size_t i = 0; i < s->clients.count; i++) {
    if (s->clients.items[i] != client) continue;
    s->clients.items[i] = s->clients.items[--s->clients.count];
    break;
  }
  qn_free(s->allocator, client, sizeof *client);
}

static void forget(qn_scheduler *s, qn_request *r) {
  pthread_mutex_lock(&s->lock);
  if (r->all_previous) r->all_previous->all_next = r->all_next;
  if (r->all_next) r->all_next->all_previous = r->all_previous;
  if (s->all == r) s->all = r->all_next;
  leave_client(s, r);
  pthread_mutex_unlock(&s->lock);
}

void qn_request_end(qn_scheduler *s, qn_request *r, const qn_diag *diag) {
  qn_request_result *result = &r->result;
  if (r->row >= 0) {
    qn_decoder_reset(s->decoder, r->row);
    s->rows[r->row] = NULL;
    qn_request_list_remove(&s->running, r);
    r->row = -1;
  }
  forget(s, r);
  result->status = diag ? diag->status : QN_OK;
  result->error = diag ? diag->text : "";
  result->tokens = r->tokens + r->prompt_count;
  result->prompt_tokens = r->prompt_count;
  result->total_ns = qn_scheduler_now(s) - r->added_ns;
  if (diag) {
    s->stats.failed++;
  } else if (result->reason == QN_STOP_CANCELLED) {
    s->stats.cancelled++;
  } else {
    s->stats.finished++;
  }
  if (r->done) r->done(r->context, r->id, result);
  qn_request_destroy(r);
}
