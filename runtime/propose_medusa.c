// Medusa heads guess from the hidden state that the last token was chosen by: head i says what comes i + 1 places after
// that token. No head knows what another one says, so all of what one says may come after all of what the one before does.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/propose_tree.h"

#define MOST_HEADS 64
#define MOST_ENDS  16  // of a tree as it grows: guesses of a head that the next one goes on from
#define MOST_ROWS  16  // texts that are guessed for at a time
#define LANES      16  // the input has room for a vector load at its last element

enum { SYMBOL_R = 2, DTYPE_F32 = 0 };  // of ir/type.h, ir/dtype.def

struct qn_heads {
  const qn_allocator *allocator;  // borrowed
  const qn_artifact *artifact;    // borrowed
  qn_executor *executor;          // owned
  float *hidden;                  // owned (rows × width, and LANES): the program's input
  size_t width;
  const float *guesses[MOST_HEADS];  // the executor's: (rows, vocab), `pitches` elements apart
  int64_t pitches[MOST_HEADS];
  int32_t heads, vocab, rows;
  qn_growth growth;  // nodes owned: of the text that is guessed for
};

typedef struct medusa {
  qn_proposer base;
  const qn_allocator *allocator;  // borrowed
  qn_heads *heads;                // borrowed
  qn_sampler *sampler;            // owned; NULL before the first text
  bool judged;
} medusa;

static qn_status run_heads(const qn_heads *h, int32_t rows, qn_diag *diag) {
  const int64_t symbols[QN_ARTIFACT_SYMBOLS] = {[SYMBOL_R] = rows};
  return qn_executor_run(h->executor, symbols, QN_RUN_STEP, diag);
}

// From what the heads said in that row.
static qn_status guess(medusa *m, const qn_proposal *asked, int32_t row, qn_diag *diag) {
  qn_heads *h = m->heads;
  int32_t ends[MOST_ENDS] = {QN_DRAFT_ROOT}, count = 1, most = 0;
  qn_sampler_follow(m->sampler, asked->text.sampler);
  h->growth.count = 0;
  for (int32_t i = 0; i < h->heads && i < asked->room.depth && count > 0; i++) {
    qn_choice choices[QN_CHOICES_MOST];
    qn_diag why = {0};
    const float *logits = h->guesses[i] + row * h->pitches[i];
    if (qn_choices_take(m->sampler, logits, QN_CHOICES_MOST, !m->judged, choices, &most, &why) != QN_OK)
      return qn_fail(diag, QN_ERR_FORMAT, h->artifact->path,
                     "what head %" PRId32 " says are no numbers (%s): its weights may be damaged, try --check-weights", i,
                     why.text);
    qn_sampler_accept(m->sampler, choices[0].token);
    for (int32_t end = 0; end < count; end++) qn_growth_add(&h->growth, ends[end], choices, most);
    count = qn_growth_frontier(&h->growth, i + 1, &asked->room, MOST_ENDS, ends);
  }
  qn_growth_harvest(&h->growth, &asked->room, asked->out);
  return QN_OK;
}

static bool can_guess(const qn_proposal *a) { return a->text.hidden && ((const medusa *)a->proposer)->sampler; }

// As many as a run has rows, from *at on, which then is what comes after them.
static qn_status guess_some(qn_heads *h, const qn_proposal **at, qn_diag *diag) {
  const qn_proposal *first = *at;
  int32_t rows = 0, row = 0;
  for (; *at && rows < h->rows; *at = (*at)->next) {
    if (!can_guess(*at)) continue;
    memcpy(h->hidden + (size_t)rows++ * h->width, (*at)->text.hidden, h->width * sizeof *h->hidden);
  }
  if (rows > 0) QN_TRY(run_heads(h, rows, diag));
  for (const qn_proposal *a = first; a != *at; a = a->next)
    if (can_guess(a)) QN_TRY(guess((medusa *)a->proposer, a, row++, diag));
  return QN_OK;
}

static qn_status propose_all(const qn_proposal *first, qn_diag *diag) {
  qn_heads *h = ((medusa *)first->proposer)->heads;
  qn_status status = QN_OK;
  for (const qn_proposal *at = first; at && status == QN_OK;) status = guess_some(h, &at, diag);
  for (const qn_proposal *a = first; a && status != QN_OK; a = a->next) a->out->count = 0;
  return status;
}

static qn_status propose(qn_proposer *self, const qn_propose_text *text, const qn_draft_room *room, qn_draft *out,
                         qn_diag *diag) {
  return propose_all(&(qn_proposal){self, *text, *room, out, NULL}, diag);
}

static const void *shared(const qn_proposer *self) { return ((const medusa *)self)->heads; }

static qn_status begin(qn_proposer *self, const qn_sampler *sampler, qn_diag *diag) {
  medusa *m = (medusa *)self;
  if (m->sampler && qn_sampler_alike(m->sampler, sampler)) return QN_OK;
  qn_sampler_destroy(m->sampler);
  m->sampler = NULL;
  return qn_sampler_clone(sampler, m->allocator, &m->sampler, diag);
}

static void destroy(qn_proposer *self) {
  medusa *m = (medusa *)self;
  qn_sampler_destroy(m->sampler);
  qn_free(m->allocator, m, sizeof *m);
}

void qn_propose_medusa_judged(qn_proposer *proposer) { ((medusa *)proposer)->judged = true; }

qn_status qn_propose_medusa_create(qn_heads *heads, const qn_allocator *allocator, qn_proposer **out, qn_diag *diag) {
  static const qn_proposer_type type = {.name = "medusa",
                                        .branches = true,
                                        .begin = begin,
                                        .propose = propose,
                                        .propose_all = propose_all,
                                        .shared = shared,
                                        .destroy = destroy};
  *out = NULL;
  medusa *m = qn_alloc_zeroed(allocator, sizeof *m);
  if (!m) return qn_fail_nomem(diag, heads->artifact->path, "the proposer");
  *m = (medusa){.base = {&type}, .allocator = allocator, .heads = heads};
  *out = &m->base;
  return QN_OK;
}

// --- what the program must look like

static bool is_rows(const qn_art_buffer *b) {
  return b->dtype == DTYPE_F32 && b->rank == 2 && b->symbols[0] == SYMBOL_R && b->dims[0] == 1 && b->symbols[1] == 0;
}

static qn_status find_hidden(qn_heads *h, int64_t width, qn_diag *diag) {
  const qn_artifact *a = h->artifact;
  for (uint32_t i = 0; i < a->program->buffer_count; i++) {
    const qn_art_buffer *b = &a->buffers[i];
    if (b->kind != QN_ART_INPUT || strcmp(a->strings + b->name, "hidden") != 0 || !is_rows(b)) continue;
    h->width = (size_t)width;
    if (b->dims[1] == width) return QN_OK;
    return qn_fail(diag, QN_ERR_ARGUMENT, a->path,
                   "the heads are for hidden states of %" PRId64 " numbers, want the model's %" PRId64, (int64_t)b->dims[1],
                   width);
  }
  return qn_fail(diag, QN_ERR_ARGUMENT, a->path, "has no input 'hidden' of f32 [R, width], want Medusa heads");
}

// Hidden states are all that there is to give them.
static qn_status check_inputs(const qn_heads *h, qn_diag *diag) {
  const qn_artifact *a = h->artifact;
  for (uint32_t i = 0; i < a->program->buffer_count; i++) {
    const qn_art_buffer *b = &a->buffers[i];
    const char *name = a->strings + b->name;
    bool is_input = b->kind == QN_ART_INPUT && strcmp(name, "hidden") != 0;
    if (!is_input && b->kind != QN_ART_CACHE) continue;
    return qn_fail(diag, QN_ERR_ARGUMENT, a->path, "got %s '%s', want Medusa heads, whose only input is 'hidden'",
                   is_input ? "the input" : "a cache", name);
  }
  return QN_OK;
}

static qn_status find_guesses(qn_heads *h, int32_t vocab, qn_diag *diag) {
  for (; h->heads < MOST_HEADS; h->heads++) {
    const qn_art_buffer *b = NULL;
    char name[24];
    snprintf(name, sizeof name, "guess.%" PRId32, h->heads);
    const float *guesses = qn_executor_output(h->executor, name, &b);
    if (!guesses || !is_rows(b)) break;
    if (b->dims[1] != vocab)
      return qn_fail(diag, QN_ERR_ARGUMENT, h->artifact->path,
                     "head %" PRId32 " has a vocabulary of %" PRId64 " tokens, want the model's %" PRId32, h->heads,
                     (int64_t)b->dims[1], vocab);
    h->guesses[h->heads] = guesses;
    h->pitches[h->heads] = b->row_pitch;
  }
  if (h->heads > 0) return QN_OK;
  return qn_fail(diag, QN_ERR_ARGUMENT, h->artifact->path, "has no output 'guess.0' of f32 [R, vocabulary], want Medusa heads");
}

static size_t hidden_bytes(const qn_heads *h) { return ((size_t)h->rows * h->width + LANES) * sizeof *h->hidden; }

static qn_status build(qn_heads *h, int64_t width, int32_t vocab, qn_diag *diag) {
  int64_t most = h->artifact->program->symbol_max[SYMBOL_R];
  QN_TRY(find_hidden(h, width, diag));
  QN_TRY(check_inputs(h, diag));
  QN_TRY(find_guesses(h, vocab, diag));
  h->rows = most > 0 && most < MOST_ROWS ? (int32_t)most : MOST_ROWS;
  h->growth.capacity = (h->heads * MOST_ENDS + 1) * QN_CHOICES_MOST;
  h->growth.nodes = qn_alloc(h->allocator, (size_t)h->growth.capacity * sizeof *h->growth.nodes);
  h->hidden = qn_alloc_zeroed(h->allocator, hidden_bytes(h));
  if (!h->growth.nodes || !h->hidden) return qn_fail_nomem(diag, h->artifact->path, "guesses");
  QN_TRY(qn_executor_bind_input(h->executor, "hidden", h->hidden, diag));
  const int64_t symbols[QN_ARTIFACT_SYMBOLS] = {[SYMBOL_R] = h->rows};
  return qn_executor_reserve(h->executor, symbols, diag);
}

void qn_heads_destroy(qn_heads *h) {
  if (!h) return;
  qn_free(h->allocator, h->hidden, h->hidden ? hidden_bytes(h) : 0);
  qn_free(h->allocator, h->growth.nodes, (size_t)h->growth.capacity * sizeof *h->growth.nodes);
  qn_executor_destroy(h->executor);
  qn_free(h->allocator, h, sizeof *h);
}

qn_status qn_heads_create(const qn_artifact *artifact, qn_executor *executor, int64_t width, int32_t vocab,
                          const qn_allocator *allocator, qn_heads **out, qn_diag *diag) {
  *out = NULL;
  qn_heads *h = qn_alloc_zeroed(allocator, sizeof *h);
  if (!h) {
    qn_executor_destroy(executor);
    return qn_fail_nomem(diag, artifact->path, "heads");
  }
  *h = (qn_heads){.allocator = allocator, .artifact = artifact, .executor = executor};
  qn_status status = build(h, width, vocab, diag);
  if (status == QN_OK) {
    *out = h;
  } else {
    qn_heads_destroy(h);
  }
  return status;
}
