// Speculators in the public interface of quern_run.h: what guesses, for a session.
#include <inttypes.h>

#include "runtime/base/options.h"
#include "runtime/model.h"
#include "runtime/speculate.h"

// --- draft models

static const char *name_of(const quern_model *model) { return model->path; }

// Guesses are token ids: both models must mean the same text by each.
static qn_status check_vocabulary(const quern_model *model, const quern_model *draft, qn_diag *diag) {
  const qn_tokenizer *a = model->tokenizer, *b = draft->tokenizer;
  if (!a != !b)
    return qn_fail(diag, QN_ERR_ARGUMENT, name_of(draft), "the draft model has %s tokenizer, want that of %s",
                   b ? "a" : "no", name_of(model));
  int32_t count = a ? qn_tokenizer_count(a) : (int32_t)model->artifact.program->vocab_size;
  int32_t got = b ? qn_tokenizer_count(b) : (int32_t)draft->artifact.program->vocab_size;
  if (got != count)
    return qn_fail(diag, QN_ERR_ARGUMENT, name_of(draft),
                   "the draft model has a vocabulary of %" PRId32 " tokens, want the %" PRId32 " of %s", got, count,
                   name_of(model));
  for (int32_t id = 0; a && id < count; id++) {
    qn_str x = qn_tokenizer_piece(a, id), y = qn_tokenizer_piece(b, id);
    if (qn_str_equal(x, y)) continue;
    return qn_fail(diag, QN_ERR_ARGUMENT, name_of(draft),
                   "token %" PRId32 " of the draft model is '%.*s', want '%.*s' as %s has it", id, QN_STR_ARGS(y),
                   QN_STR_ARGS(x), name_of(model));
  }
  return QN_OK;
}

// How many guesses of a depth a tree goes on from: so many rows and, of each text, twice as many sequences beside its own.
static int32_t ends_of(const qn_art_program *draft, int32_t texts) {
  enum { MOST = 4, SYMBOL_R = 2, SYMBOL_B = 4 };  // qn_symbol of ir/type.h
  int64_t rows = draft->symbol_max[SYMBOL_R], sequences = draft->symbol_max[SYMBOL_B], ends = MOST;
  if (rows && rows < ends) ends = rows;
  if (sequences && (sequences / texts - 1) / 2 < ends) ends = (sequences / texts - 1) / 2;
  return ends < 2 ? 0 : (int32_t)ends;
}

// Bytes of weights that a step reads.
static double read_bytes(const quern_model *model) {
  quern_model_cost cost = {.size = sizeof cost};
  return (double)(quern_model_get_cost(model, &cost) ? cost.weight_bytes : quern_model_weight_bytes(model));
}

qn_status qn_guessing_open_draft(qn_guessing *g, quern_model *draft, int32_t texts, qn_diag *diag) {
  quern_session *session = g->session;
  QN_TRY(check_vocabulary(session->model, draft, diag));
  if (!draft->cuda && !session->threads)
    return qn_fail(diag, QN_ERR_ARGUMENT, name_of(draft), "the draft model is on the CPU, want it on the GPU that %s is on",
                   name_of(session->model));
  int64_t context = qn_decoder_context(session->decoder), most = qn_artifact_context_max(&draft->artifact);
  qn_decoder_options options = {.context = most && most < context ? most : context, .sequences = texts};
  int64_t keys = draft->artifact.program->page_keys ? draft->artifact.program->page_keys : 1;
  int64_t pages = (options.context + keys - 1) / keys;
  g->draft_cost = read_bytes(session->model) > 0 ? read_bytes(draft) / read_bytes(session->model) : 0;
  g->ends = qn_decoder_path_rows(session->decoder) > 0 ? ends_of(draft->artifact.program, texts) : 0;
  if (g->ends > 0) {
    options.sequences = texts * (1 + 2 * g->ends);
    options.pages = texts * (pages + 2 * g->ends * (pages < 3 ? pages : 3));  // a fork has its own for its last tokens alone
  }
  options.executor = (qn_executor_options){.cuda = draft->cuda,
                                           .target = draft->target,
                                           .jit_entries = draft->jit.entries,
                                           .decode_threads = session->decode_threads};
  return qn_decoder_create(&draft->artifact, draft->cuda ? NULL : session->threads, &options, &session->model->allocator,
                           &g->draft, diag);
}

// --- heads

qn_status qn_guessing_open_heads(qn_guessing *g, quern_model *heads, qn_diag *diag) {
  quern_session *session = g->session;
  qn_executor *executor = NULL;
  if (!qn_decoder_want_hidden(session->decoder, true) || qn_decoder_hidden_width(session->decoder) == 0)
    return qn_fail(diag, QN_ERR_UNSUPPORTED, name_of(session->model),
                   "does not give the hidden states that heads guess from; compile it with --guesses");
  if (!heads->cuda && !session->threads)
    return qn_fail(diag, QN_ERR_ARGUMENT, name_of(heads), "the heads are on the CPU, want them on the GPU that %s is on",
                   name_of(session->model));
  const qn_executor_options how = {.cuda = heads->cuda,
                                   .target = heads->target,
                                   .jit_entries = heads->jit.entries,
                                   .decode_threads = session->decode_threads};
  QN_TRY(qn_executor_create(&heads->artifact, heads->cuda ? NULL : session->threads, &how, &session->model->allocator,
                            &executor, diag));
  return qn_heads_create(&heads->artifact, executor, qn_decoder_hidden_width(session->decoder),
                         qn_decoder_vocab(session->decoder), &session->model->allocator, &g->heads, diag);
}

// --- techniques

static qn_status propose_by_lookup(qn_guessing *g, int32_t row, qn_proposer **out, qn_diag *diag) {
  (void)row;
  return qn_propose_lookup_create(&g->session->model->allocator, out, diag);
}

static qn_status propose_by_draft(qn_guessing *g, int32_t row, qn_proposer **out, qn_diag *diag) {
  if (!g->draft) return qn_fail(diag, QN_ERR_ARGUMENT, "speculator", "got no draft model, want one that guesses");
  int32_t sequence = row * (1 + 2 * g->ends);
  return qn_propose_draft_create(g->draft, sequence, g->ends, &g->session->model->allocator, out, diag);
}

static qn_status propose_by_medusa(qn_guessing *g, int32_t row, qn_proposer **out, qn_diag *diag) {
  (void)row;
  if (!g->heads) return qn_fail(diag, QN_ERR_ARGUMENT, "speculator", "got no heads, want ones that guess");
  return qn_propose_medusa_create(g->heads, &g->session->model->allocator, out, diag);
}

// All texts of a session, or of a scheduler, teach the same n-grams.
static qn_status propose_by_lookahead(qn_guessing *g, int32_t row, qn_proposer **out, qn_diag *diag) {
  const qn_allocator *allocator = &g->session->model->allocator;
  (void)row;
  if (!g->ngrams) QN_TRY(qn_ngrams_create(allocator, &g->ngrams, diag));
  return qn_propose_lookahead_create(g->ngrams, allocator, out, diag);
}

static const struct {
  const char *name;
  qn_status (*create)(qn_guessing *g, int32_t row, qn_proposer **out, qn_diag *diag);
} techniques[] = {
    [QUERN_SPECULATE_LOOKUP] = {"lookup", propose_by_lookup},
    [QUERN_SPECULATE_DRAFT] = {"draft", propose_by_draft},
    [QUERN_SPECULATE_MEDUSA] = {"medusa", propose_by_medusa},
    [QUERN_SPECULATE_LOOKAHEAD] = {"lookahead", propose_by_lookahead},
};
_Static_assert(QN_COUNT(techniques) == QN_TECHNIQUES, "a line of each");

qn_status qn_guessing_create(qn_guessing *g, quern_technique technique, int32_t row, bool judged, qn_proposer **out,
                             qn_diag *diag) {
  QN_TRY(techniques[technique].create(g, row, out, diag));
  if (judged && technique == QUERN_SPECULATE_DRAFT) qn_propose_draft_judged(*out);
  if (judged && technique == QUERN_SPECULATE_MEDUSA) qn_propose_medusa_judged(*out);
  return QN_OK;
}

double qn_guessing_cost(const qn_guessing *g, quern_technique technique) {
  return technique == QUERN_SPECULATE_DRAFT ? g->draft_cost : 0;
}

void qn_guessing_deinit(qn_guessing *g) {
  qn_decoder_destroy(g->draft);
  qn_heads_destroy(g->heads);
  qn_ngrams_destroy(g->ngrams);
}

const char *quern_technique_name(quern_technique technique) {
  return (unsigned)technique < QN_COUNT(techniques) ? techniques[technique].name : NULL;
}

qn_status qn_technique_check(quern_technique technique, qn_diag *diag) {
  if ((unsigned)technique < QN_COUNT(techniques)) return QN_OK;
  return qn_fail(diag, QN_ERR_ARGUMENT, "technique", "got %d, want 0 to %zu", (int)technique, QN_COUNT(techniques) - 1);
}

static qn_status check(const quern_session *session, const quern_speculator_options *options, qn_diag *diag) {
  QN_TRY(qn_technique_check(options->technique, diag));
  int64_t rows = qn_decoder_rows(session->decoder);
  if (!qn_decoder_takes_back(session->decoder))
    return qn_fail(diag, QN_ERR_UNSUPPORTED, session->model->path, QN_GUESSES_BESIDE_SUMS);
  if (rows < 2 || options->tokens > rows - 1)
    return qn_fail(diag, QN_ERR_LIMIT, session->model->path,
                   "got %" PRId32 " guesses to verify in a step, but the artifact computes the logits of %" PRId64
                   " token%s a step, want guesses and one; compile it with --batch %" PRId64,
                   options->tokens ? options->tokens : 1, rows, rows == 1 ? "" : "s",
                   (options->tokens ? (int64_t)options->tokens : QN_SPECULATE_MOST) + 1);
  return QN_OK;
}

static qn_status create(quern_speculator *s, const quern_speculator_options *options, qn_diag *diag) {
  qn_proposer *proposer = NULL;
  qn_guessing *g = &s->guessing;
  qn_decoder *decoder = g->session->decoder;
  QN_TRY(check(g->session, options, diag));
  if (options->technique == QUERN_SPECULATE_MEDUSA && options->draft) QN_TRY(qn_guessing_open_heads(g, options->draft, diag));
  if (options->technique == QUERN_SPECULATE_DRAFT && options->draft)
    QN_TRY(qn_guessing_open_draft(g, options->draft, 1, diag));
  QN_TRY(qn_guessing_create(g, options->technique, 0, options->rejection, &proposer, diag));
  qn_speculate_options own = {.tokens = options->tokens,
                              .text_max = qn_decoder_context(decoder) + 1,
                              .make_cost = qn_guessing_cost(g, options->technique),
                              .judged = options->rejection};
  if (own.tokens == 0 && qn_decoder_rows(decoder) <= QN_SPECULATE_MOST) own.most = (int32_t)qn_decoder_rows(decoder) - 1;
  return qn_speculator_create(proposer, &own, &g->session->model->allocator, &s->speculator, diag);
}

quern_status quern_speculator_create(quern_session *session, const quern_speculator_options *options,
                                     quern_speculator **out_speculator, quern_error *error) {
  qn_diag diag = {0};
  quern_speculator_options own;
  *out_speculator = NULL;
  qn_status status = qn_options_take(options, "quern_speculator_options", &own, sizeof own, &diag);
  if (status != QN_OK) return qn_model_finish(status, &diag, error);
  quern_speculator *s = qn_alloc_zeroed(&session->model->allocator, sizeof *s);
  if (!s) return qn_model_finish(qn_fail_nomem(&diag, session->model->path, "a speculator"), &diag, error);
  s->guessing.session = session;
  status = create(s, &own, &diag);
  if (status == QN_OK) {
    *out_speculator = s;
  } else {
    quern_speculator_destroy(s);
  }
  return qn_model_finish(status, &diag, error);
}

void quern_speculator_destroy(quern_speculator *s) {
  if (!s) return;
  qn_speculator_destroy(s->speculator);
  qn_guessing_deinit(&s->guessing);
  qn_free(&s->guessing.session->model->allocator, s, sizeof *s);
}
