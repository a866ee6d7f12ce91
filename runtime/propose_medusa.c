// Medusa heads guess from the hidden state that the last token was chosen by: head i says what comes i + 1 places after
// that token. No head knows what another one says, so all of what one says may come after all of what the one before does.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/propose_tree.h"

#define MOST_HEADS 64
#define MOST_ENDS  16  // of a tree as it grows: guesses of a head that the next one goes on from
#define LANES      16  // the input has room for a vector load at its last element

enum { SYMBOL_R = 2, DTYPE_F32 = 0 };  // of ir/type.h, ir/dtype.def

typedef struct medusa {
  qn_proposer base;
  const qn_allocator *allocator;  // borrowed
  const qn_artifact *artifact;    // borrowed
  qn_executor *executor;          // owned
  float *hidden;                  // owned (width, and LANES): the program's input
  size_t width;
  const float *guesses[MOST_HEADS];  // the executor's: (vocab)
  int32_t heads, vocab;
  qn_sampler *sampler;  // owned; NULL before the first text
  bool judged;
  qn_growth growth;     // nodes owned
} medusa;

static qn_status run_heads(medusa *m, const float *hidden, qn_diag *diag) {
  const int64_t symbols[QN_ARTIFACT_SYMBOLS] = {[SYMBOL_R] = 1};
  memcpy(m->hidden, hidden, m->width * sizeof *hidden);
  return qn_executor_run(m->executor, symbols, QN_RUN_STEP, diag);
}

static qn_status propose(qn_proposer *self, const qn_propose_text *text, const qn_draft_room *room, qn_draft *out,
                         qn_diag *diag) {
  medusa *m = (medusa *)self;
  int32_t ends[MOST_ENDS] = {QN_DRAFT_ROOT}, count = 1, most = 0;
  if (!text->hidden || !m->sampler) return QN_OK;
  QN_TRY(run_heads(m, text->hidden, diag));
  qn_sampler_follow(m->sampler, text->sampler);
  m->growth.count = 0;
  for (int32_t i = 0; i < m->heads && i < room->depth && count > 0; i++) {
    qn_choice choices[QN_CHOICES_MOST];
    qn_diag why = {0};
    if (qn_choices_take(m->sampler, m->guesses[i], QN_CHOICES_MOST, !m->judged, choices, &most, &why) != QN_OK)
      return qn_fail(diag, QN_ERR_FORMAT, m->artifact->path,
                     "what head %" PRId32 " says are no numbers (%s): its weights may be damaged, try --check-weights", i,
                     why.text);
    qn_sampler_accept(m->sampler, choices[0].token);
    for (int32_t end = 0; end < count; end++) qn_growth_add(&m->growth, ends[end], choices, most);
    count = qn_growth_frontier(&m->growth, i + 1, room, MOST_ENDS, ends);
  }
  qn_growth_harvest(&m->growth, room, out);
  return QN_OK;
}

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
  qn_free(m->allocator, m->hidden, (m->width + LANES) * sizeof *m->hidden);
  qn_free(m->allocator, m->growth.nodes, (size_t)m->growth.capacity * sizeof *m->growth.nodes);
  qn_executor_destroy(m->executor);
  qn_free(m->allocator, m, sizeof *m);
}

void qn_propose_medusa_judged(qn_proposer *proposer) { ((medusa *)proposer)->judged = true; }

// --- what the program must look like

static bool is_rows(const qn_art_buffer *b) {
  return b->dtype == DTYPE_F32 && b->rank == 2 && b->symbols[0] == SYMBOL_R && b->dims[0] == 1 && b->symbols[1] == 0;
}

static qn_status find_hidden(medusa *m, int64_t width, qn_diag *diag) {
  const qn_artifact *a = m->artifact;
  for (uint32_t i = 0; i < a->program->buffer_count; i++) {
    const qn_art_buffer *b = &a->buffers[i];
    if (b->kind != QN_ART_INPUT || strcmp(a->strings + b->name, "hidden") != 0 || !is_rows(b)) continue;
    m->width = (size_t)width;
    if (b->dims[1] == width) return QN_OK;
    return qn_fail(diag, QN_ERR_ARGUMENT, a->path,
                   "the heads are for hidden states of %" PRId64 " numbers, want the model's %" PRId64, (int64_t)b->dims[1],
                   width);
  }
  return qn_fail(diag, QN_ERR_ARGUMENT, a->path, "has no input 'hidden' of f32 [R, width], want Medusa heads");
}

static qn_status find_guesses(medusa *m, int32_t vocab, qn_diag *diag) {
  for (; m->heads < MOST_HEADS; m->heads++) {
    const qn_art_buffer *b = NULL;
    char name[24];
    snprintf(name, sizeof name, "guess.%" PRId32, m->heads);
    const float *guesses = qn_executor_output(m->executor, name, &b);
    if (!guesses || !is_rows(b)) break;
    if (b->dims[1] != vocab)
      return qn_fail(diag, QN_ERR_ARGUMENT, m->artifact->path,
                     "head %" PRId32 " has a vocabulary of %" PRId64 " tokens, want the model's %" PRId32, m->heads,
                     (int64_t)b->dims[1], vocab);
    m->guesses[m->heads] = guesses;
  }
  if (m->heads > 0) return QN_OK;
  return qn_fail(diag, QN_ERR_ARGUMENT, m->artifact->path, "has no output 'guess.0' of f32 [R, vocabulary], want Medusa heads");
}

static qn_status build(medusa *m, int64_t width, int32_t vocab, qn_diag *diag) {
  const int64_t symbols[QN_ARTIFACT_SYMBOLS] = {[SYMBOL_R] = 1};
  QN_TRY(find_hidden(m, width, diag));
  QN_TRY(find_guesses(m, vocab, diag));
  m->growth.capacity = (m->heads * MOST_ENDS + 1) * QN_CHOICES_MOST;
  m->growth.nodes = qn_alloc(m->allocator, (size_t)m->growth.capacity * sizeof *m->growth.nodes);
  m->hidden = qn_alloc_zeroed(m->allocator, (m->width + LANES) * sizeof *m->hidden);
  if (!m->growth.nodes || !m->hidden) return qn_fail_nomem(diag, m->artifact->path, "guesses");
  QN_TRY(qn_executor_bind_input(m->executor, "hidden", m->hidden, diag));
  return qn_executor_reserve(m->executor, symbols, diag);
}

qn_status qn_propose_medusa_create(const qn_artifact *artifact, qn_executor *executor, int64_t width, int32_t vocab,
                                   const qn_allocator *allocator, qn_proposer **out, qn_diag *diag) {
  static const qn_proposer_type type = {
      .name = "medusa", .branches = true, .begin = begin, .propose = propose, .destroy = destroy};
  *out = NULL;
  medusa *m = qn_alloc_zeroed(allocator, sizeof *m);
  if (!m) {
    qn_executor_destroy(executor);
    return qn_fail_nomem(diag, artifact->path, "the proposer");
  }
  *m = (medusa){.base = {&type}, .allocator = allocator, .artifact = artifact, .executor = executor};
  qn_status status = build(m, width, vocab, diag);
  if (status == QN_OK) {
    *out = &m->base;
  } else {
    destroy(&m->base);
  }
  return status;
}
