// The public interface of the scheduler: sessions of its own, options and results turned from public structs and back.
#include <stdlib.h>
#include <string.h>

#include "runtime/base/options.h"
#include "runtime/model.h"
#include "runtime/scheduler.h"

// What guesses by one technique.
typedef struct technique_guesser {
  qn_guesser guesser;
  qn_guessing *guessing;  // borrowed
  quern_technique technique;
} technique_guesser;

struct quern_scheduler {
  quern_session *session;  // owned
  qn_guessing guessing;
  const quern_model *draft, *heads;  // borrowed; NULL = none
  technique_guesser guessers[QN_TECHNIQUES];
  qn_scheduler *scheduler;  // owned
};

_Static_assert((int)QUERN_BATCHING_STATIC == (int)QN_BATCHING_STATIC &&
                   (int)QUERN_BATCHING_DYNAMIC == (int)QN_BATCHING_DYNAMIC &&
                   (int)QUERN_PREEMPT_SWAP == (int)QN_PREEMPT_SWAP &&
                   (int)QUERN_PRIORITY_BATCH == (int)QN_PRIORITY_BATCH,
               "the public choices are the internal ones");

static qn_status read_time(const char *name, int64_t us, uint64_t *out_ns, qn_diag *diag) {
  if (us < 0 || us > INT64_MAX / 1000)
    return qn_fail(diag, QN_ERR_ARGUMENT, name, "got %lld, want 0 or more microseconds", (long long)us);
  *out_ns = (uint64_t)us * 1000;
  return QN_OK;
}

static qn_status create_proposer(void *context, int32_t row, bool judged, qn_proposer **out, qn_diag *diag) {
  const technique_guesser *g = context;
  return qn_guessing_create(g->guessing, g->technique, row, judged, out, diag);
}

static qn_status prepare_guessing(quern_scheduler *s, quern_model *draft, quern_model *heads, qn_diag *diag) {
  s->guessing.session = s->session;
  s->draft = draft;
  s->heads = heads;
  if (draft)
    QN_TRY(qn_guessing_open_draft(&s->guessing, draft, qn_decoder_sequences(s->session->decoder), diag));
  if (heads) QN_TRY(qn_guessing_open_heads(&s->guessing, heads, diag));
  for (int i = 0; i < QN_TECHNIQUES; i++) {
    technique_guesser *g = &s->guessers[i];
    *g = (technique_guesser){.guessing = &s->guessing, .technique = (quern_technique)i};
    g->guesser = (qn_guesser){create_proposer, g, qn_guessing_cost(&s->guessing, g->technique), i == QUERN_SPECULATE_MEDUSA};
  }
  return QN_OK;
}

static qn_status create(quern_scheduler *s, const quern_scheduler_options *o, qn_diag *diag) {
  qn_scheduler_options options = {.batching = (qn_batching)o->batching,
                                  .preemption = (qn_preemption)o->preemption,
                                  .swap_folder = o->swap_folder,
                                  .step_tokens = o->step_tokens};
  QN_TRY(read_time("longest_wait_us", o->longest_wait_us, &options.longest_wait_ns, diag));
  QN_TRY(read_time("batch_wait_us", o->batch_wait_us, &options.batch_wait_ns, diag));
  QN_TRY(read_time("patience_us", o->patience_us, &options.patience_ns, diag));
  QN_TRY(prepare_guessing(s, o->draft, o->heads, diag));
  const quern_model *model = s->session->model;
  return qn_scheduler_create(s->session->decoder, model->tokenizer, qn_session_sampled_vocab(s->session), &options,
                             &model->allocator, &s->scheduler, diag);
}

quern_status quern_scheduler_create(quern_model *model, const quern_scheduler_options *options,
                                    quern_scheduler **out_scheduler, quern_error *error) {
  quern_scheduler_options own;
  qn_diag diag = {0};
  quern_session *session = NULL;
  *out_scheduler = NULL;
  qn_status status = qn_options_take(options, "quern_scheduler_options", &own, sizeof own, &diag);
  if (status != QN_OK) return qn_model_finish(status, &diag, error);
  quern_status made = quern_session_create(model, own.session, &session, error);
  if (made != QUERN_OK) return made;
  quern_scheduler *s = qn_alloc_zeroed(&model->allocator, sizeof *s);
  if (!s) {
    quern_session_destroy(session);
    return qn_model_finish(qn_fail_nomem(&diag, model->path, "a scheduler"), &diag, error);
  }
  s->session = session;
  status = create(s, &own, &diag);
  if (status == QN_OK) {
    *out_scheduler = s;
  } else {
    quern_scheduler_destroy(s);
  }
  return qn_model_finish(status, &diag, error);
}

quern_session *quern_scheduler_session(const quern_scheduler *s) { return s->session; }

void quern_scheduler_destroy(quern_scheduler *s) {
  if (!s) return;
  const qn_allocator *allocator = &s->session->model->allocator;
  qn_scheduler_destroy(s->scheduler);
  qn_guessing_deinit(&s->guessing);
  quern_session_destroy(s->session);
  qn_free(allocator, s, sizeof *s);
}

// --- requests

// What a request's own callbacks are called with, from those of inside.
typedef struct forward {
  const qn_allocator *allocator;  // borrowed
  quern_text_fn callback;
  quern_request_done_fn done;
  void *context;
} forward;

static bool forward_text(void *context, qn_str text, int32_t id) {
  const forward *f = context;
  return !f->callback || f->callback(f->context, text.data, text.length, id);
}

static void forward_done(void *context, uint64_t id, const qn_request_result *r) {
  forward *f = context;
  quern_request_result result = {.status = (quern_status)r->status,
                                 .error = r->error,
                                 .reason = (quern_stop_reason)r->reason,
                                 .stop_index = r->stop_index,
                                 .tokens = r->tokens,
                                 .generated_tokens = r->generated_tokens,
                                 .prompt_tokens = r->prompt_tokens,
                                 .cached_tokens = r->cached_tokens,
                                 .preemptions = r->preemptions,
                                 .passes = r->passes,
                                 .proposed = r->proposed,
                                 .accepted = r->accepted,
                                 .queued_ns = r->queued_ns,
                                 .first_ns = r->first_ns,
                                 .total_ns = r->total_ns};
  if (f->done) f->done(f->context, id, &result);
  qn_free(f->allocator, f, sizeof *f);
}

// What guesses for a request.
static qn_status choose_guesser(const quern_scheduler *s, const quern_speculator_options *options,
                                qn_request_params *params, qn_diag *diag) {
  quern_speculator_options own;
  if (!options) return QN_OK;
  QN_TRY(qn_options_take(options, "quern_speculator_options", &own, sizeof own, diag));
  QN_TRY(qn_technique_check(own.technique, diag));
  bool by_heads = own.technique == QUERN_SPECULATE_MEDUSA;
  const quern_model *model = by_heads ? s->heads : s->draft;
  const char *what = by_heads ? "heads" : "a draft model";
  if (own.draft && own.draft != model)
    return qn_fail(diag, QN_ERR_ARGUMENT, own.draft->path, "got %s of a request's own, want the scheduler's", what);
  if ((by_heads || own.technique == QUERN_SPECULATE_DRAFT) && !model)
    return qn_fail(diag, QN_ERR_ARGUMENT, "speculator", "got no %s, want %s in the scheduler's options",
                   by_heads ? "heads" : "draft model", by_heads ? "some" : "one");
  params->guesser = &s->guessers[own.technique].guesser;
  params->guesses = own.tokens;
  params->judged = own.rejection;
  return QN_OK;
}

// Adds a request whose prompt is tokens.
static qn_status add_tokens(quern_scheduler *s, const quern_request *q, const int32_t *prompt, size_t count,
                            qn_str *stops, uint64_t *out_id, qn_diag *diag) {
  const qn_allocator *allocator = &s->session->model->allocator;
  qn_request_params params = {.prompt = prompt,
                              .prompt_count = count,
                              .max_tokens = q->max_tokens,
                              .stops = stops,
                              .stop_count = q->stop_count,
                              .ignore_eog = q->ignore_eog,
                              .show_special = q->show_special,
                              .priority = (qn_priority)q->priority,
                              .client = q->client,
                              .fork_of = q->fork_of,
                              .callback = q->callback ? forward_text : NULL,
                              .done = forward_done};
  for (size_t i = 0; i < q->stop_count; i++) stops[i] = qn_str_from(q->stops[i]);
  QN_TRY(qn_model_sampler_options(s->session->model, q->sampler, &params.sampler, diag));
  QN_TRY(choose_guesser(s, q->speculator, &params, diag));
  forward *f = qn_alloc(allocator, sizeof *f);
  if (!f) return qn_fail_nomem(diag, s->session->model->path, "a request");
  *f = (forward){allocator, q->callback, q->done, q->callback_context};
  params.context = f;
  qn_status status = qn_scheduler_add(s->scheduler, &params, out_id, diag);
  if (status != QN_OK) qn_free(allocator, f, sizeof *f);
  return status;
}

static qn_status tokens_of_text(const quern_model *model, const quern_request *q, qn_token_vec *out, qn_diag *diag) {
  if (!model->tokenizer)
    return qn_fail(diag, QN_ERR_UNSUPPORTED, model->path, "this model has no tokenizer; give token ids");
  return qn_tokenizer_encode(model->tokenizer, (qn_str){q->text, q->text_length}, q->text_flags, &model->allocator, out,
                             diag);
}

static qn_status add(quern_scheduler *s, const quern_request *q, uint64_t *out_id, qn_diag *diag) {
  const quern_model *model = s->session->model;
  qn_token_vec tokens = {0};
  qn_str *stops = NULL;
  size_t bytes = 0;
  if (!q->prompt && q->prompt_count > 0)
    return qn_fail(diag, QN_ERR_ARGUMENT, "prompt", "got NULL, want %zu tokens", q->prompt_count);
  if (!qn_size_mul(q->stop_count, sizeof *stops, &bytes) || (bytes > 0 && !(stops = qn_alloc(&model->allocator, bytes))))
    return qn_fail_nomem(diag, model->path, "stop strings");
  qn_status status = QN_OK;
  bool is_text = !q->prompt && q->text;
  if (is_text) status = tokens_of_text(model, q, &tokens, diag);
  if (status == QN_OK) {
    status = add_tokens(s, q, is_text ? tokens.items : q->prompt, is_text ? tokens.count : q->prompt_count, stops,
                        out_id, diag);
  }
  qn_vec_free(&model->allocator, &tokens);
  qn_free(&model->allocator, stops, bytes);
  return status;
}

quern_status quern_scheduler_add(quern_scheduler *s, const quern_request *request, uint64_t *out_id,
                                 quern_error *error) {
  quern_request own;
  qn_diag diag = {0};
  uint64_t id = 0;
  qn_status status = qn_options_take(request, "quern_request", &own, sizeof own, &diag);
  if (status == QN_OK) status = add(s, &own, &id, &diag);
  if (out_id) *out_id = id;
  return qn_model_finish(status, &diag, error);
}

quern_status quern_scheduler_cancel(quern_scheduler *s, uint64_t id, quern_error *error) {
  qn_diag diag = {0};
  qn_status status = QN_OK;
  if (!qn_scheduler_cancel(s->scheduler, id)) {
    status = qn_fail(&diag, QN_ERR_ARGUMENT, "request", "got %llu, want one that was added and has not ended",
                     (unsigned long long)id);
  }
  return qn_model_finish(status, &diag, error);
}

// --- stepping

quern_status quern_scheduler_step(quern_scheduler *s, size_t *out_left, int64_t *out_idle_us, quern_error *error) {
  qn_diag diag = {0};
  size_t left = 0;
  uint64_t idle_ns = 0;
  qn_status status = qn_scheduler_step(s->scheduler, &left, &idle_ns, &diag);
  if (out_left) *out_left = left;
  if (out_idle_us) *out_idle_us = idle_ns == QN_SCHEDULER_IDLE ? INT64_MAX : (int64_t)((idle_ns + 999) / 1000);
  return qn_model_finish(status, &diag, error);
}

bool quern_scheduler_wait(quern_scheduler *s, int64_t most_us) {
  if (most_us < 0) most_us = 0;
  return qn_scheduler_wait(s->scheduler, most_us > INT64_MAX / 1000 ? QN_SCHEDULER_IDLE : (uint64_t)most_us * 1000);
}

quern_status quern_scheduler_get_stats(const quern_scheduler *s, quern_scheduler_stats *out_stats, quern_error *error) {
  qn_scheduler_stats i;
  qn_diag diag = {0};
  qn_scheduler_get_stats(s->scheduler, &i);
  quern_scheduler_stats own = {.running = i.running,
                               .waiting = i.waiting,
                               .added = i.added,
                               .finished = i.finished,
                               .cancelled = i.cancelled,
                               .failed = i.failed,
                               .steps = i.steps,
                               .prompt_tokens = i.prompt_tokens,
                               .generated_tokens = i.decode_tokens,
                               .cached_tokens = i.cached_tokens,
                               .recomputed_tokens = i.recomputed_tokens,
                               .proposed = i.proposed,
                               .accepted = i.accepted,
                               .preemptions = i.preemptions,
                               .swapped_out = i.swapped_out,
                               .swapped_in = i.swapped_in,
                               .swaps_lost = i.swaps_lost,
                               .swap_bytes = i.swap_bytes,
                               .pages = i.pages,
                               .free_pages = i.free_pages,
                               .most_pages = i.most_pages,
                               .slots = i.slots,
                               .slots_unused = i.slots_unused,
                               .longest_step_ns = i.longest_step_ns,
                               .most_running = i.most_running};
  qn_status status = qn_result_check(out_stats, "quern_scheduler_stats", &diag);
  qn_result_give(out_stats, &own, sizeof own);
  return qn_model_finish(status, &diag, error);
}

quern_status quern_scheduler_check(const quern_scheduler *s, quern_error *error) {
  qn_diag diag = {0};
  return qn_model_finish(qn_scheduler_check(s->scheduler, &diag), &diag, error);
}
