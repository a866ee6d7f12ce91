// The decoding loop and the filter that keeps stop strings out of the text.
#include "runtime/generate.h"

#include <assert.h>
#include <string.h>
#include <time.h>

#include "runtime/text_out.h"

const char *qn_stop_reason_name(qn_stop_reason reason) {
  static const char *const names[QN_STOP_COUNT] = {"eog", "string", "max_tokens", "context", "cancelled"};
  return (unsigned)reason < QN_STOP_COUNT ? names[reason] : "unknown";
}

// --- stop strings

qn_status qn_stop_filter_init(qn_stop_filter *filter, const qn_str *stops, size_t stop_count, size_t most,
                              const qn_allocator *allocator, qn_diag *diag) {
  *filter = (qn_stop_filter){.allocator = allocator, .stops = stops, .stop_count = stop_count, .capacity = most + 1};
  size_t longest = 0;
  for (size_t i = 0; i < stop_count; i++) {
    if (stops[i].length == 0) return qn_fail(diag, QN_ERR_ARGUMENT, "stop strings", "got an empty one at place %zu", i);
    if (stops[i].length > longest) longest = stops[i].length;
  }
  if (!qn_size_add(filter->capacity, longest, &filter->capacity)) {
    return qn_fail(diag, QN_ERR_LIMIT, "stop strings", "got one of %zu bytes, want a shorter one", longest);
  }
  filter->buffer = qn_alloc(allocator, filter->capacity);
  return filter->buffer ? QN_OK : qn_fail_nomem(diag, "stop strings", "text held back");
}

void qn_stop_filter_deinit(qn_stop_filter *filter) {
  qn_free(filter->allocator, filter->buffer, filter->capacity);
  *filter = (qn_stop_filter){0};
}

static void drop_given(qn_stop_filter *filter) {
  memmove(filter->buffer, filter->buffer + filter->given, filter->length - filter->given);
  filter->length -= filter->given;
  filter->given = 0;
}

// How far stop string and text agree from `at` on: all of the stop string, all of the text that is left, or not.
typedef enum agreement { DIFFERS, TEXT_ENDS, MATCHES } agreement;
static agreement compare(const qn_stop_filter *filter, size_t at, qn_str stop) {
  size_t left = filter->length - at, length = left < stop.length ? left : stop.length;
  if (memcmp(filter->buffer + at, stop.data, length) != 0) return DIFFERS;
  return length == stop.length ? MATCHES : TEXT_ENDS;
}

bool qn_stop_filter_push(qn_stop_filter *filter, qn_str text, qn_str *out_text, size_t *out_stop) {
  drop_given(filter);
  assert(text.length <= filter->capacity - filter->length);
  if (text.length > 0) memcpy(filter->buffer + filter->length, text.data, text.length);
  filter->length += text.length;
  // A match ends the text at once, though a longer stop string that begins before it may be under way.
  size_t certain = filter->length;
  for (size_t at = 0; at < filter->length; at++) {
    for (size_t i = 0; i < filter->stop_count; i++) {
      agreement agrees = compare(filter, at, filter->stops[i]);
      if (agrees == MATCHES) {
        *out_text = (qn_str){filter->buffer, at};
        *out_stop = i;
        filter->given = filter->length;
        return true;
      }
      if (agrees == TEXT_ENDS && at < certain) certain = at;
    }
  }
  filter->given = certain;
  *out_text = (qn_str){filter->buffer, certain};
  return false;
}

qn_str qn_stop_filter_flush(qn_stop_filter *filter) {
  drop_given(filter);
  filter->given = filter->length;
  return (qn_str){filter->buffer, filter->length};
}

// --- the loop

typedef struct generation {
  qn_decoder *decoder;
  const qn_tokenizer *tokenizer;
  qn_sampler *sampler;
  const qn_generate_params *params;
  qn_generate_stats *stats;
  size_t held;  // tokens of the prompt that the sequence has already
  qn_text_out text;
  int64_t position;       // tokens of the sequence that are of the text: guesses come after them
  const qn_draft *draft;  // guesses that the last step evaluated; NULL = none
  size_t row;              // of the last step, that the last token was chosen by
  qn_sampling *settings;   // owned (as many as guesses of a step, and one): how the tokens after them are chosen
  qn_sampling *foreseen;   // owned (the same): the same by how many tokens on
  qn_diag *diag;
} generation;

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

// False when the callback cancels.
static bool give(generation *g, qn_str text, int32_t id) {
  if (!g->params->callback || g->params->callback(g->params->callback_context, text, id)) return true;
  g->stats->reason = QN_STOP_CANCELLED;
  return false;
}

// Hands out what the token makes certain; *out_stop when the generation ends with it.
static qn_status take_token(generation *g, int32_t id, bool *out_stop) {
  qn_str text;
  QN_TRY(qn_text_out_push(&g->text, id, &text, out_stop, &g->stats->stop_index, g->diag));
  if (*out_stop) g->stats->reason = QN_STOP_STRING;
  if (!give(g, text, id)) *out_stop = true;
  return QN_OK;
}

// The text that was held back while it might have become something else.
static void finish_text(generation *g) {
  qn_str text;
  bool found = false;
  size_t stop = 0;
  if (g->stats->reason == QN_STOP_STRING || g->stats->reason == QN_STOP_CANCELLED) return;
  for (int piece = 0; !found && qn_text_out_finish(&g->text, piece, &text, &found, &stop); piece++) {
    if (found) {
      g->stats->reason = QN_STOP_STRING;
      g->stats->stop_index = stop;
    }
    if (text.length > 0 && !give(g, text, -1)) return;
  }
}

static bool cancelled(generation *g) {
  if (!g->params->cancelled || !g->params->cancelled(g->params->callback_context)) return false;
  g->stats->reason = QN_STOP_CANCELLED;
  return true;
}

// Is there a reason to stop before this token is evaluated?
static bool ends_here(generation *g) {
  const qn_generate_params *p = g->params;
  if (p->max_tokens > 0 && g->stats->generated_tokens >= p->max_tokens) {
    g->stats->reason = QN_STOP_MAX_TOKENS;
    return true;
  }
  if (g->position >= qn_decoder_context(g->decoder)) {
    g->stats->reason = QN_STOP_CONTEXT;
    return true;
  }
  return cancelled(g);
}

// Does the program choose the tokens? Then steps bring no logits. It takes every logit for a token's, and a model may have
// more of them than there are tokens: then the host chooses.
static bool program_chooses(const generation *g) {
  if (g->params->speculator && qn_speculator_judged(g->params->speculator)) return false;
  return qn_decoder_chooses(g->decoder) && !qn_sampler_needs_logits(g->sampler) &&
         qn_sampler_vocab(g->sampler) == qn_decoder_vocab(g->decoder);
}

// Before a step that wants the next token and those after guesses, if there are any.
static void tell_settings(generation *g) {
  size_t count = (size_t)(g->draft ? g->draft->count : 0) + 1;
  if (!program_chooses(g)) return;
  qn_sampler_foresee(g->sampler, g->foreseen, count);
  for (size_t i = 0; i < count; i++)
    g->settings[i] = g->foreseen[i == 0 ? 0 : qn_draft_depth(g->draft, (int32_t)i - 1)];
  qn_decoder_choose(g->decoder, g->settings, count);
}

// From the logits of the last step's index-th row.
static qn_status choose(generation *g, size_t index, int32_t *out_id, qn_diag *diag) {
  const float *logits = qn_decoder_logits(g->decoder, index);
  if (!g->draft) return qn_sampler_sample(g->sampler, logits, out_id, diag);
  return qn_speculator_judge(g->params->speculator, g->sampler, logits, (int32_t)index - 1, out_id, diag);
}

// The token after the last step's index-th row.
static qn_status sample(generation *g, size_t index, int32_t *out_id) {
  qn_diag why = {.text = "the program chose no token"};
  bool program = program_chooses(g);
  qn_sampling drawn;
  if (program) qn_sampler_settings(g->sampler, &drawn);
  if (program && (*out_id = qn_decoder_token(g->decoder, index)) >= 0) return QN_OK;
  if (!program && choose(g, index, out_id, &why) == QN_OK) return QN_OK;
  return qn_fail(g->diag, QN_ERR_FORMAT, qn_decoder_path(g->decoder),
                 "the logits are not numbers: the weights may be damaged, try --check-weights (%s)", why.text);
}

static void note_text(generation *g, const int32_t *tokens, size_t count) {
  if (g->params->speculator) qn_speculator_take(g->params->speculator, tokens, count);
}

// The token after the index-th row: hands it out. *out_stop when the text ends with it.
static qn_status next_token(generation *g, size_t index, uint64_t start, int32_t *out_id, bool *out_stop) {
  qn_generate_stats *stats = g->stats;
  int32_t id = 0;
  QN_TRY(sample(g, index, &id));
  qn_sampler_accept(g->sampler, id);
  note_text(g, &id, 1);
  stats->pending = *out_id = id;
  if (stats->generated_tokens++ == 0) stats->first_ns = now_ns() - start;
  if (g->tokenizer && !g->params->ignore_eog && qn_tokenizer_is_eog(g->tokenizer, id)) {
    stats->reason = QN_STOP_EOG;
    *out_stop = true;
    return QN_OK;
  }
  QN_TRY(take_token(g, id, out_stop));
  *out_stop = *out_stop || ends_here(g);
  return QN_OK;
}

// Hands out what the last step has made certain: the token after the text, and as long as it was guessed, the one after
// that. Guesses that did not come true are taken out of the sequence.
static qn_status take_tokens(generation *g, uint64_t start, int32_t *out_id, bool *out_stop) {
  int32_t node = QN_DRAFT_ROOT, accepted = 0;
  qn_status status;
  if (g->draft) qn_speculator_watch(g->params->speculator, g->decoder, 0, program_chooses(g));
  for (;;) {
    status = next_token(g, (size_t)(node + 1), start, out_id, out_stop);
    if (status != QN_OK || *out_stop || !g->draft) break;
    int32_t child = qn_draft_child(g->draft, node, *out_id);
    if (child == QN_DRAFT_ROOT) break;
    node = child;
    g->stats->pending = -1;
    g->stats->decode_steps++;
    g->position++;
    accepted++;
  }
  g->row = (size_t)(node + 1);
  if (g->draft) {
    qn_decoder_take_path(g->decoder, g->params->sequence, node);
    qn_speculator_note(g->params->speculator, node);
    g->stats->accepted += accepted;
  }
  return status;
}

// Guesses what may come after the next token. There is room for that one.
static qn_status guess(generation *g) {
  const qn_generate_params *p = g->params;
  g->draft = NULL;
  if (!p->speculator) return QN_OK;
  int64_t most = qn_decoder_room(g->decoder, p->sequence) - 1, rows = qn_decoder_rows(g->decoder) - 1;
  if (p->max_tokens > 0 && most > p->max_tokens - g->stats->generated_tokens - 1)
    most = p->max_tokens - g->stats->generated_tokens - 1;
  if (most > rows) most = rows;
  const qn_draft *draft = NULL;
  if (most < 1) return QN_OK;
  const qn_draft_room room = {(int32_t)rows, (int32_t)most, qn_decoder_paths(g->decoder, most), 0};
  const float *hidden = qn_decoder_hidden(g->decoder, g->row);
  QN_TRY(qn_speculator_propose(p->speculator, g->sampler, hidden, &room, &draft, g->diag));
  if (draft->count > 0) g->draft = draft;
  return QN_OK;
}

// One step: the token, and the guesses after it.
static qn_status evaluate(generation *g, int32_t id) {
  const qn_generate_params *p = g->params;
  int32_t guesses = g->draft ? g->draft->count : 0;
  uint64_t begin = now_ns();
  tell_settings(g);
  QN_TRY(qn_decoder_step_tree(g->decoder, p->sequence, id, guesses ? g->draft->tokens : NULL,
                              guesses ? g->draft->parents : NULL, (size_t)guesses, g->diag));
  g->stats->proposed += guesses;
  if (p->speculator) qn_speculator_time(p->speculator, guesses, now_ns() - begin);
  g->stats->pending = -1;
  g->stats->decode_steps++;
  g->stats->passes++;
  g->position++;
  return QN_OK;
}

static qn_status decode(generation *g, uint64_t start) {
  for (;;) {
    int32_t id = 0;
    bool stop = false;
    QN_TRY(take_tokens(g, start, &id, &stop));
    if (stop) return QN_OK;
    QN_TRY(guess(g));
    QN_TRY(evaluate(g, id));
  }
}

// What the sequence lacks of the prompt, chunk by chunk; logits are of the last one alone. *out_logits stays NULL when it
// was cancelled; then, as after an error, the sequence is as before.
static qn_status prefill(generation *g, const float **out_logits) {
  const qn_generate_params *p = g->params;
  size_t chunk = (size_t)qn_decoder_chunk(g->decoder);
  int64_t before = qn_decoder_position(g->decoder, p->sequence);
  if (before == 0) g->held = (size_t)qn_decoder_attach(g->decoder, p->sequence, p->prompt, p->prompt_count);
  qn_status status =
      qn_decoder_reserve(g->decoder, p->sequence, p->prompt + g->held, p->prompt_count - g->held, g->diag);
  for (size_t done = g->held; status == QN_OK && done < p->prompt_count; done += chunk) {
    size_t count = p->prompt_count - done < chunk ? p->prompt_count - done : chunk;
    if (cancelled(g)) break;
    const float **logits = done + count == p->prompt_count ? out_logits : NULL;
    if (logits) tell_settings(g);
    status = qn_decoder_eval(g->decoder, p->sequence, p->prompt + done, count, NULL, logits, g->diag);
  }
  if (status == QN_OK && *out_logits) {
    qn_decoder_keep(g->decoder, p->sequence);
  } else {
    qn_decoder_truncate(g->decoder, p->sequence, before);
  }
  return status;
}

// The prompt is what the encoder reads; the text begins with a token of its own. As above, but for an error of the device
// or of the first token's evaluation, after which the sequence is empty.
static qn_status prefill_source(generation *g, const float **out_logits) {
  const qn_generate_params *p = g->params;
  int32_t start = qn_decoder_start(g->decoder);
  if (start < 0) {
    return qn_fail(g->diag, QN_ERR_UNSUPPORTED, qn_decoder_path(g->decoder),
                   "the model does not say which token a text begins with; evaluate one behind the source instead");
  }
  if (cancelled(g)) return QN_OK;
  QN_TRY(qn_decoder_source(g->decoder, p->sequence, p->prompt, p->prompt_count, g->diag));
  tell_settings(g);
  return qn_decoder_eval(g->decoder, p->sequence, &start, 1, NULL, out_logits, g->diag);
}

static qn_status prefill_and_decode(generation *g) {
  const qn_generate_params *p = g->params;
  const float *logits = NULL;
  uint64_t start = now_ns();
  if (p->speculator) {
    int64_t before = qn_decoder_position(g->decoder, p->sequence) - (int64_t)g->held;
    QN_TRY(qn_speculator_begin(p->speculator, before, g->sampler, g->diag));
  }
  bool sourced = qn_decoder_has_source(g->decoder);
  qn_status prefilled = sourced ? prefill_source(g, &logits) : prefill(g, &logits);
  g->stats->prefill_ns = now_ns() - start;
  if (prefilled != QN_OK || !logits) return prefilled;
  g->stats->prompt_tokens = (int64_t)p->prompt_count;
  g->stats->held_tokens = (int64_t)g->held;
  for (size_t i = 0; i < p->prompt_count && !sourced; i++) qn_sampler_accept(g->sampler, p->prompt[i]);
  g->position = qn_decoder_position(g->decoder, p->sequence);
  note_text(g, p->prompt, p->prompt_count);
  qn_status status = decode(g, start);
  g->stats->decode_ns = now_ns() - start - g->stats->first_ns;
  if (status == QN_OK) finish_text(g);
  return status;
}

static qn_status check_params(const qn_decoder *decoder, const qn_generate_params *params, qn_diag *diag) {
  if (params->sequence < 0 || params->sequence >= qn_decoder_sequences(decoder))
    return qn_fail(diag, QN_ERR_ARGUMENT, "sequence", "got %d, want 0 to %d", (int)params->sequence,
                   (int)qn_decoder_sequences(decoder) - 1);
  if (params->held > 0 && qn_decoder_has_source(decoder))
    return qn_fail(diag, QN_ERR_ARGUMENT, "prompt_held", "got %zu, want 0: the model's encoder reads the prompt at once",
                   params->held);
  if (params->speculator && qn_decoder_has_source(decoder))
    return qn_fail(diag, QN_ERR_UNSUPPORTED, qn_decoder_path(decoder),
                   "the model has an encoder, and tokens are guessed of texts that go on; generate without guesses");
  if (params->held > 0 && (params->held >= params->prompt_count ||
                           params->held > (uint64_t)qn_decoder_position(decoder, params->sequence)))
    return qn_fail(diag, QN_ERR_ARGUMENT, "prompt_held",
                   "got %zu, want fewer than the prompt's %zu tokens, and at most the %lld that the sequence has",
                   params->held, params->prompt_count, (long long)qn_decoder_position(decoder, params->sequence));
  if (params->max_tokens < 0)
    return qn_fail(diag, QN_ERR_ARGUMENT, "max_tokens", "got %lld, want 0 (no limit) or more",
                   (long long)params->max_tokens);
  return QN_OK;
}

// Where a step's tokens are laid out: the next one, and guesses.
static qn_status take_step_memory(generation *g, const qn_allocator *allocator, size_t count, qn_diag *diag) {
  g->settings = qn_alloc_zeroed(allocator, count * sizeof *g->settings);
  g->foreseen = qn_alloc_zeroed(allocator, count * sizeof *g->foreseen);
  return g->settings && g->foreseen ? QN_OK : qn_fail_nomem(diag, "generate", "a step");
}

static void free_step_memory(generation *g, const qn_allocator *allocator, size_t count) {
  qn_free(allocator, g->settings, count * sizeof *g->settings);
  qn_free(allocator, g->foreseen, count * sizeof *g->foreseen);
}

qn_status qn_generate(qn_decoder *decoder, const qn_tokenizer *tokenizer, qn_sampler *sampler,
                      const qn_generate_params *params, const qn_allocator *allocator, qn_generate_stats *out_stats,
                      qn_diag *diag) {
  generation g = {.decoder = decoder,
                  .tokenizer = tokenizer,
                  .sampler = sampler,
                  .params = params,
                  .held = params->held,
                  .stats = out_stats,
                  .diag = diag};
  size_t step = (params->speculator ? (size_t)qn_speculator_most(params->speculator) : 0) + 1;
  *out_stats = (qn_generate_stats){.pending = -1};
  QN_TRY(check_params(decoder, params, diag));
  bool sourced = qn_decoder_has_source(decoder);  // its prompt is another text
  qn_text_options text = {.tokenizer = tokenizer,
                          .stops = params->stops,
                          .stop_count = params->stop_count,
                          .show_special = params->show_special,
                          .position = sourced ? 0 : qn_decoder_position(decoder, params->sequence) - (int64_t)params->held,
                          .prompt = params->prompt,
                          .prompt_count = sourced ? 0 : params->prompt_count};
  QN_TRY(qn_text_out_init(&g.text, &text, allocator, diag));
  qn_status status = take_step_memory(&g, allocator, step, diag);
  if (status == QN_OK) {
    qn_executor_hold(qn_decoder_executor(decoder));
    status = prefill_and_decode(&g);
    qn_decoder_choose(decoder, NULL, 0);
    qn_executor_release(qn_decoder_executor(decoder));
  }
  free_step_memory(&g, allocator, step);
  qn_text_out_deinit(&g.text);
  return status;
}
