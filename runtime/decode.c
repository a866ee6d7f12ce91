// The decoder binds the inputs of a language-model program once, to arrays of its own, and fills them each step.
#include "runtime/decode.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/decode_impl.h"
#include "runtime/kv_state.h"

#define DEFAULT_CONTEXT 4096
#define DEFAULT_CHUNK   512
#define LANES           16  // arrays have room for a vector load at their last element

enum { DTYPE_F32 = 0, DTYPE_I32 = 3 };                 // qn_dtype of ir/dtype.def

enum { SETTINGS = sizeof(qn_sampling) / sizeof(int32_t) };  // of a row of `sampling`

// What the program may ask for: i32 with these dimensions.
static const struct {
  const char *name;
  uint32_t rank, symbols[2], dims[2];
  const char *shape;
} inputs[INPUT_COUNT] = {
    [INPUT_TOKENS] = {"tokens", 1, {SYM_T}, {1}, "[T]"},
    [INPUT_POS] = {"pos", 1, {SYM_T}, {1}, "[T]"},
    [INPUT_LAST_POS] = {"last_pos", 1, {SYM_T}, {1}, "[T]"},
    [INPUT_SLOT] = {"slot", 1, {SYM_T}, {1}, "[T]"},
    [INPUT_SEQ] = {"seq", 1, {SYM_T}, {1}, "[T]"},
    [INPUT_COPIES] = {"copies", 1, {SYM_T}, {1}, "[T]"},
    [INPUT_ROWS] = {"rows", 1, {SYM_R}, {1}, "[R]"},
    [INPUT_SAMPLING] = {"sampling", 2, {SYM_R, SYM_NONE}, {1, SETTINGS}, "[R, 8]"},
    [INPUT_SOURCE] = {"source", 1, {SYM_S}, {1}, "[S]"},
    [INPUT_SOURCE_POS] = {"source_pos", 1, {SYM_S}, {1}, "[S]"},
    [INPUT_SOURCE_SEQ] = {"source_seq", 1, {SYM_S}, {1}, "[S]"},
    [INPUT_SOURCE_LAST_POS] = {"source_last_pos", 1, {SYM_S}, {1}, "[S]"},
    [INPUT_CROSS_LAST_POS] = {"cross_last_pos", 1, {SYM_T}, {1}, "[T]"},
    [INPUT_BLOCK_TABLE] = {"block_table", 2, {SYM_B, SYM_P}, {1, 1}, "[B, P]"},
    [INPUT_WINDOW_TABLE] = {"window_table", 2, {SYM_B, SYM_P}, {1, 1}, "[B, P]"},
};

// --- what the program looks like

static qn_status check_input(const qn_artifact *a, const qn_art_buffer *b, qn_diag *diag) {
  const char *name = a->strings + b->name;
  for (size_t i = 0; i < INPUT_COUNT; i++) {
    if (strcmp(name, inputs[i].name) != 0) continue;
    bool fits = b->dtype == DTYPE_I32 && b->rank == inputs[i].rank;
    for (uint32_t d = 0; fits && d < b->rank; d++)
      fits = b->symbols[d] == inputs[i].symbols[d] && b->dims[d] == inputs[i].dims[d];
    if (fits) return QN_OK;
    return qn_fail(diag, QN_ERR_UNSUPPORTED, a->path,
                   "input '%s' has another type or shape than a language model's; want i32 %s", name, inputs[i].shape);
  }
  return qn_fail(
      diag, QN_ERR_UNSUPPORTED, a->path,
      "got input '%s', want only tokens, pos, last_pos, slot, seq, copies, rows, sampling, block_table and a "
      "source's: no language model",
      name);
}

static bool has_input(const qn_artifact *a, const char *name) {
  return qn_decode_has_buffer(a, QN_ART_INPUT, name);
}

static qn_status check_program(const qn_artifact *a, qn_diag *diag) {
  for (uint32_t i = 0; i < a->program->buffer_count; i++) {
    if (a->buffers[i].kind == QN_ART_INPUT) QN_TRY(check_input(a, &a->buffers[i], diag));
  }
  if (!has_input(a, "tokens")) {
    return qn_fail(diag, QN_ERR_UNSUPPORTED, a->path, "the program has no input 'tokens': no language model");
  }
  return QN_OK;
}

// Where the executor leaves the logits: f32 [R, vocab]; of an encoder the embeddings: f32 [R, embedding].
static qn_status find_logits(qn_decoder *d, qn_diag *diag) {
  const qn_art_buffer *b = NULL;
  const char *path = d->artifact->path;
  d->embedding = qn_artifact_embedding_size(d->artifact);
  d->logits = qn_executor_output(d->executor, d->embedding ? "embedding" : "logits", &b);
  if (!d->logits) {
    return qn_fail(diag, QN_ERR_UNSUPPORTED, path,
                   "the program has no output 'logits' nor 'embedding', f32 [R, width]: no language model");
  }
  d->vocab = d->artifact->program->vocab_size;
  d->pitch = b->row_pitch;
  if (d->embedding) return QN_OK;
  if (b->dtype != DTYPE_F32 || b->rank != 2 || b->symbols[0] != SYM_R || b->dims[0] != 1 || b->symbols[1] != SYM_NONE ||
      b->dims[1] < 1 || b->dims[1] != (int64_t)d->artifact->program->vocab_size) {
    return qn_fail(diag, QN_ERR_UNSUPPORTED, path,
                   "output 'logits' has another type or shape than f32 [R, %" PRIu32 "]",
                   d->artifact->program->vocab_size);
  }
  return QN_OK;
}

// Where the executor leaves the tokens that the program chose: i32 [R].
static qn_status find_tokens(qn_decoder *d, qn_diag *diag) {
  const qn_art_buffer *b = NULL;
  d->tokens = qn_executor_output(d->executor, "token", &b);
  if (!has_input(d->artifact, inputs[INPUT_SAMPLING].name)) {
    d->tokens = NULL;  // an output of the graph's own
    return QN_OK;
  }
  if (d->tokens && b->dtype == DTYPE_I32 && b->rank == 1 && b->symbols[0] == SYM_R && b->dims[0] == 1) return QN_OK;
  return qn_fail(diag, QN_ERR_UNSUPPORTED, d->artifact->path,
                 "got input 'sampling' without an output 'token' of i32 [R]: no language model");
}

// Where the executor leaves what the logits are made of: f32 [R, width]. An output of another shape is the graph's own.
static void find_hidden(qn_decoder *d) {
  const qn_art_buffer *b = NULL;
  const float *hidden = qn_executor_output(d->executor, "hidden", &b);
  if (!hidden || b->dtype != DTYPE_F32 || b->rank != 2 || b->symbols[0] != SYM_R || b->dims[0] != 1 || b->symbols[1]) return;
  d->hidden = hidden;
  d->hidden_pitch = b->row_pitch;
  d->hidden_width = b->dims[1];
  qn_decoder_want_hidden(d, false);
}

// --- creation

static qn_status choose_sizes(qn_decoder *d, const qn_decoder_options *options, int64_t *out_context, qn_diag *diag) {
  const int64_t *most = d->artifact->program->symbol_max;
  const char *path = d->artifact->path;
  int64_t most_context = qn_artifact_context_max(d->artifact);
  *out_context = options->context ? options->context : most_context ? most_context : DEFAULT_CONTEXT;
  if (*out_context < 1 || (most_context && *out_context > most_context)) {
    return qn_fail(diag, options->context < 0 ? QN_ERR_ARGUMENT : QN_ERR_LIMIT, path,
                   "context: got %" PRId64 " tokens, want 1 to %" PRId64, *out_context,
                   most_context ? most_context : INT32_MAX);
  }
  int64_t most_chunk = most[SYM_T] ? most[SYM_T] : INT32_MAX;
  d->chunk = options->chunk ? options->chunk : most[SYM_T] ? most[SYM_T] : DEFAULT_CHUNK;
  if (d->chunk < 1 || d->chunk > most_chunk) {
    return qn_fail(diag, d->chunk < 1 ? QN_ERR_ARGUMENT : QN_ERR_LIMIT, path,
                   "chunk: got %" PRId64 " tokens, want 1 to %" PRId64, d->chunk, most_chunk);
  }
  d->max_rows = most[SYM_R] && most[SYM_R] < d->chunk ? most[SYM_R] : d->chunk;
  bool sourced = has_input(d->artifact, inputs[INPUT_SOURCE].name);
  d->max_source = !sourced ? 0 : most[SYM_S] && most[SYM_S] < *out_context ? most[SYM_S] : *out_context;
  return QN_OK;
}

static size_t array_bytes(const qn_decoder *d, size_t i) {
  if (i == INPUT_SAMPLING) return (size_t)d->max_rows * sizeof(qn_sampling);
  int64_t rows = inputs[i].symbols[0] == SYM_R ? d->max_rows : inputs[i].symbols[0] == SYM_S ? d->max_source : d->chunk;
  return ((size_t)rows + LANES) * sizeof(int32_t);
}

void qn_decode_set_symbols(const qn_decoder *d, int64_t tokens, int64_t rows, int64_t source, int64_t *out) {
  memset(out, 0, QN_ARTIFACT_SYMBOLS * sizeof *out);
  out[SYM_T] = tokens;
  out[SYM_R] = rows;
  out[SYM_P] = qn_kv_cache_pages_per_sequence(d->cache);
  out[SYM_B] = qn_kv_cache_sequences(d->cache);
  out[SYM_G] = qn_kv_cache_pages(d->cache);
  out[SYM_S] = source;
}

static qn_status bind_inputs(qn_decoder *d, qn_diag *diag) {
  for (size_t i = 0; i < INPUT_COUNT; i++) {
    const int32_t *data = i == INPUT_BLOCK_TABLE    ? qn_kv_cache_block_table(d->cache)
                          : i == INPUT_WINDOW_TABLE ? qn_kv_cache_window_table(d->cache)
                                                    : d->arrays[i];
    if (has_input(d->artifact, inputs[i].name)) QN_TRY(qn_executor_bind_input(d->executor, inputs[i].name, data, diag));
  }
  return qn_kv_cache_bind(d->cache, d->executor, diag);
}

static void set_row(qn_decoder *d, int64_t row, const qn_sampling *settings) {
  memcpy(d->arrays[INPUT_SAMPLING] + row * SETTINGS, settings, sizeof *settings);
}

// --- prefixes: what they take

static size_t log_bytes(const qn_decoder *d) {  // rows × pages of them are bounded (kv_cache_create.c)
  return (size_t)qn_kv_cache_sequences(d->cache) * (size_t)qn_kv_cache_context(d->cache) * sizeof *d->log;
}
static size_t logged_bytes(const qn_decoder *d) {
  return (size_t)qn_kv_cache_sequences(d->cache) * sizeof *d->logged;
}
int32_t *qn_decode_log(const qn_decoder *d, int32_t sequence) {
  return d->log + (size_t)sequence * (size_t)qn_kv_cache_context(d->cache);
}

static qn_status create_prefixes(qn_decoder *d, qn_diag *diag) {
  if (has_input(d->artifact, inputs[INPUT_LAST_POS].name))
    return qn_fail(diag, QN_ERR_UNSUPPORTED, d->artifact->path,
                   "got prefixes to keep of a model whose tokens see those after them, want one of generated text");
  if (d->max_source > 0)
    return qn_fail(diag, QN_ERR_UNSUPPORTED, d->artifact->path,
                   "got prefixes to keep of a model with an encoder, whose keys go by a source, too; want one without");
  QN_TRY(qn_kv_prefix_create(d->cache, &d->prefixes, diag));
  d->log = qn_alloc(d->allocator, log_bytes(d));
  d->logged = qn_alloc_zeroed(d->allocator, logged_bytes(d));
  return d->log && d->logged ? QN_OK : qn_fail_nomem(diag, d->artifact->path, "the tokens that sequences hold");
}

static void destroy_prefixes(qn_decoder *d) {
  if (!d->prefixes) return;
  qn_free(d->allocator, d->log, log_bytes(d));
  qn_free(d->allocator, d->logged, logged_bytes(d));
  qn_kv_prefix_destroy(d->prefixes);
}

// What is kept beside sequences needs room, which windows would not leave: as much as all of their tokens. Where keys are
// given up, each has pages of its own besides.
static int64_t pages_of_all(const qn_decoder *d, int32_t sequences) {
  int64_t keys = d->artifact->program->page_keys ? d->artifact->program->page_keys : 1;
  int64_t own = d->policy ? (d->most_keys - 1) / keys + 1 : 0;
  int64_t pages = ((d->context - 1) / keys + 1 + own) * (sequences > 0 ? sequences : 1);
  int64_t most = d->artifact->program->symbol_max[SYM_G];
  return d->policy && most > 0 && pages > most ? most : pages;
}

static qn_status build(qn_decoder *d, qn_threads *threads, const qn_decoder_options *options, qn_diag *diag) {
  QN_TRY(check_program(d->artifact, diag));
  qn_kv_options kv = {.sequences = options->sequences, .pages = options->pages};
  QN_TRY(choose_sizes(d, options, &kv.context, diag));
  kv.step = d->chunk;
  d->context = kv.context;
  QN_TRY(qn_decode_choose_policy(d, options, diag));
  if (d->policy) kv.context = d->most_keys;
  if (options->prefixes && kv.pages == 0) kv.pages = pages_of_all(d, options->sequences);
  kv.evicts = d->policy != NULL;
  kv.whole = options->prefixes;
  kv.sums = !qn_decoder_takes_back(d);
  d->sequences = options->sequences ? options->sequences : 1;
  kv.forks = (int32_t)qn_artifact_paths(d->artifact, d->max_rows, d->sequences);
  QN_TRY(qn_executor_create(d->artifact, threads, &options->executor, d->allocator, &d->executor, diag));
  QN_TRY(find_logits(d, diag));
  QN_TRY(find_tokens(d, diag));
  find_hidden(d);
  kv.memory = qn_executor_memory(d->executor);
  QN_TRY(qn_kv_cache_create(d->artifact, &kv, d->allocator, &d->cache, diag));
  if (d->policy) QN_TRY(qn_kv_evictor_create(d->cache, d->policy, &d->evictor, diag));
  int32_t sequence = 0;
  for (int32_t i = 0; i < qn_kv_cache_sequences(d->cache); i++) QN_TRY(qn_kv_cache_add(d->cache, &sequence, diag));
  d->pending = qn_alloc_zeroed(d->allocator, (size_t)qn_kv_cache_sequences(d->cache) * sizeof *d->pending);
  d->nodes = qn_alloc_zeroed(d->allocator, (size_t)d->max_rows * sizeof *d->nodes);
  if (options->prefixes) QN_TRY(create_prefixes(d, diag));
  d->trees = qn_alloc_zeroed(d->allocator, (size_t)d->sequences * sizeof *d->trees);
  d->tree_items = qn_alloc(d->allocator, (size_t)d->max_rows * sizeof *d->tree_items);
  bool taken = d->pending && d->nodes && d->trees && d->tree_items;
  for (size_t i = 0; i < QN_COUNT(d->arrays); i++) {
    d->arrays[i] = qn_alloc_zeroed(d->allocator, array_bytes(d, i));
    taken = taken && d->arrays[i];
  }
  if (!taken) return qn_fail_nomem(diag, d->artifact->path, "a step's inputs");
  QN_TRY(bind_inputs(d, diag));
  for (int64_t row = 0; row < d->max_rows; row++) set_row(d, row, &(qn_sampling){.inverse_temperature = 1, .top_k = 1});
  qn_decoder_choose(d, NULL, 0);
  int64_t most[QN_ARTIFACT_SYMBOLS];
  qn_decode_set_symbols(d, d->chunk, d->max_rows, d->max_source, most);
  return qn_executor_reserve(d->executor, most, diag);
}

qn_status qn_decoder_create(const qn_artifact *artifact, qn_threads *threads, const qn_decoder_options *options,
                            const qn_allocator *allocator, qn_decoder **out, qn_diag *diag) {
  static const qn_decoder_options none;
  *out = NULL;
  qn_decoder *d = qn_alloc_zeroed(allocator, sizeof *d);
  if (!d) return qn_fail_nomem(diag, artifact->path, "the decoder");
  d->artifact = artifact;
  d->allocator = allocator;
  if (!options) options = &none;
  qn_status status = build(d, threads, options, diag);
  if (status == QN_OK) {
    *out = d;
  } else {
    qn_decoder_destroy(d);
  }
  return status;
}

void qn_decoder_destroy(qn_decoder *d) {
  if (!d) return;
  for (size_t i = 0; i < QN_COUNT(d->arrays); i++) qn_free(d->allocator, d->arrays[i], array_bytes(d, i));
  if (d->cache) qn_free(d->allocator, d->pending, (size_t)qn_kv_cache_sequences(d->cache) * sizeof *d->pending);
  qn_free(d->allocator, d->nodes, (size_t)d->max_rows * sizeof *d->nodes);
  qn_free(d->allocator, d->trees, (size_t)d->sequences * sizeof *d->trees);
  qn_free(d->allocator, d->tree_items, (size_t)d->max_rows * sizeof *d->tree_items);
  destroy_prefixes(d);
  qn_kv_evictor_destroy(d->evictor);
  qn_kv_cache_destroy(d->cache);
  qn_executor_destroy(d->executor);
  qn_free(d->allocator, d, sizeof *d);
}

int32_t qn_decoder_vocab(const qn_decoder *d) { return (int32_t)d->vocab; }
int64_t qn_decoder_embedding(const qn_decoder *d) { return d->embedding; }
int64_t qn_decoder_context(const qn_decoder *d) { return d->context; }
int64_t qn_decoder_chunk(const qn_decoder *d) { return d->chunk; }
int64_t qn_decoder_rows(const qn_decoder *d) { return d->max_rows; }
int32_t qn_decoder_sequences(const qn_decoder *d) { return d->sequences; }
const char *qn_decoder_path(const qn_decoder *d) { return d->artifact->path; }
qn_executor *qn_decoder_executor(qn_decoder *d) { return d->executor; }
const qn_kv_cache *qn_decoder_cache(const qn_decoder *d) { return d->cache; }

int64_t qn_decoder_position(const qn_decoder *d, int32_t sequence) {
  return qn_kv_cache_length(d->cache, sequence) + qn_kv_cache_evicted(d->cache, sequence);
}

// --- prefixes

// The sequence has only `length` tokens now, or only so many that are known.
static void forget(qn_decoder *d, int32_t sequence, int64_t length) {
  if (d->prefixes && d->logged[sequence] > length) d->logged[sequence] = length;
}

// Not of one that has given up keys: its pages are of no beginning any more.
static void keep(qn_decoder *d, int32_t sequence, bool part) {
  if (d->prefixes && qn_kv_cache_evicted(d->cache, sequence) == 0)
    qn_kv_prefix_keep(d->prefixes, sequence, qn_decode_log(d, sequence), d->logged[sequence], part);
}

// What the last step appended, by position.
static void log_step(qn_decoder *d) {
  for (int64_t i = 0; d->prefixes && i < d->count; i++) {
    int32_t sequence = d->arrays[INPUT_SEQ][i], pos = d->arrays[INPUT_POS][i];
    if (d->pending[sequence] == 0) continue;  // of trees what came true is logged
    if (pos != d->logged[sequence] || pos >= qn_kv_cache_context(d->cache)) continue;
    qn_decode_log(d, sequence)[pos] = d->arrays[INPUT_TOKENS][i];
    d->logged[sequence]++;
  }
}

qn_kv_prefix *qn_decoder_prefixes(qn_decoder *d) { return d->prefixes; }
void qn_decoder_keep(qn_decoder *d, int32_t sequence) { keep(d, sequence, false); }

// Not where keys are missing that others that begin alike would see: given up, or of layers with windows beside others.
void qn_decoder_know(qn_decoder *d, int32_t sequence, const int32_t *tokens) {
  bool whole = qn_kv_cache_first(d->cache, sequence) > 0 || qn_kv_cache_least(d->cache, sequence) == 0;
  if (!d->prefixes || !whole || qn_kv_cache_evicted(d->cache, sequence) > 0) return;
  d->logged[sequence] = qn_kv_cache_length(d->cache, sequence);
  memcpy(qn_decode_log(d, sequence), tokens, (size_t)d->logged[sequence] * sizeof *tokens);
}

// Of a sequence that shares the pages of its `length` tokens: the last one, where it is shared in part, is copied at once, so
// that the sequence needs no more pages later than others do. Gives how many tokens are left: fewer where no page is free.
static int64_t own_last_page(qn_decoder *d, int32_t sequence, int64_t tokens) {
  int64_t evicted = qn_kv_cache_evicted(d->cache, sequence), length = tokens - evicted;
  int64_t part = length % qn_kv_cache_page_keys(d->cache);
  if (part > 0 && qn_kv_cache_reserve(d->cache, sequence, length < qn_kv_cache_context(d->cache), NULL) != QN_OK)
    length -= part;
  if (length < qn_kv_cache_least(d->cache, sequence)) length = 0;
  qn_kv_cache_truncate(d->cache, sequence, length);  // pages that were reserved, too
  return length == 0 ? 0 : length + evicted;
}

// Of so many tokens those that are looked for: the last key of a full sequence is evaluated.
static int64_t looked_for(const qn_decoder *d, size_t count) {
  if (!d->prefixes || count < 2 || count > INT32_MAX) return 0;
  return d->policy && (int64_t)count > d->most_keys ? d->most_keys : (int64_t)count;
}

int64_t qn_decoder_look(const qn_decoder *d, const int32_t *tokens, size_t count, qn_kv_prefix_visitor visit,
                        void *context) {
  int64_t most = looked_for(d, count);
  return most > 0 ? qn_kv_prefix_look(d->prefixes, tokens, most, visit, context) : 0;
}

int64_t qn_decoder_attach(qn_decoder *d, int32_t sequence, const int32_t *tokens, size_t count) {
  int64_t most = looked_for(d, count);
  if (most == 0 || sequence < 0 || sequence >= d->sequences || qn_kv_cache_length(d->cache, sequence) > 0) return 0;
  int64_t found = own_last_page(d, sequence, qn_kv_prefix_attach(d->prefixes, sequence, tokens, most));
  memcpy(qn_decode_log(d, sequence), tokens, (size_t)found * sizeof *tokens);
  d->logged[sequence] = found;
  return found;
}

// Before a sequence goes on: what it gives back to others is kept first.
static void slide(qn_decoder *d, int32_t sequence) {
  if (!qn_kv_cache_slides(d->cache, sequence)) return;
  keep(d, sequence, false);
  qn_kv_cache_slide(d->cache, sequence);
}

qn_status qn_decode_reserve(qn_decoder *d, int32_t sequence, int64_t count, qn_diag *diag) {
  int64_t position = qn_decoder_position(d, sequence), left = qn_decoder_keys_left(d, sequence);
  if (d->policy && count > d->context - position) {
    return qn_fail(diag, QN_ERR_LIMIT, d->artifact->path,
                   "the context is full: got %" PRId64 " tokens beside %" PRId64 ", want at most %" PRId64
                   " in all; open the model with a larger context",
                   count, position, d->context);
  }
  if (count >= left) keep(d, sequence, false);  // while it is whole
  if (count > left) count = left;
  slide(d, sequence);
  return qn_kv_cache_reserve(d->cache, sequence, count, diag);
}

void qn_decoder_reset(qn_decoder *d, int32_t sequence) {
  keep(d, sequence, true);
  qn_kv_cache_clear(d->cache, sequence);
  forget(d, sequence, 0);
}

int64_t qn_decoder_least(const qn_decoder *d, int32_t sequence) {
  if (!qn_decoder_takes_back(d)) return qn_decoder_position(d, sequence);
  return qn_kv_cache_least(d->cache, sequence) + qn_kv_cache_evicted(d->cache, sequence);
}

void qn_decoder_truncate(qn_decoder *d, int32_t sequence, int64_t length) {
  bool there = length <= qn_decoder_position(d, sequence);  // not after an error that cost it all keys
  if (!there || length < qn_decoder_least(d, sequence)) length = 0;
  qn_kv_cache_truncate(d->cache, sequence, length == 0 ? 0 : length - qn_kv_cache_evicted(d->cache, sequence));
  forget(d, sequence, length);
}

// --- one step: begin, push every token, run

void qn_decode_begin(qn_decoder *d) { d->count = d->rows = 0; }

qn_status qn_decode_check_sequence(const qn_decoder *d, int32_t sequence, qn_diag *diag) {
  if (sequence >= 0 && sequence < d->sequences) return QN_OK;
  return qn_fail(diag, QN_ERR_ARGUMENT, d->artifact->path, "got sequence %" PRId32 ", want 0 to %" PRId32, sequence,
                 d->sequences - 1);
}

// What a decoder beside an encoder must know before it evaluates a token.
qn_status qn_decode_check_source(const qn_decoder *d, int32_t sequence, qn_diag *diag) {
  if (d->max_source == 0 || qn_kv_cache_source(d->cache, sequence) > 0) return QN_OK;
  return qn_fail(diag, QN_ERR_ARGUMENT, d->artifact->path,
                 "sequence %" PRId32 " has no source, want one (quern_session_source) before tokens are evaluated",
                 sequence);
}

qn_status qn_decode_check_token(const qn_decoder *d, int32_t token, size_t index, qn_diag *diag) {
  if (token >= 0 && token < d->vocab) return QN_OK;
  return qn_fail(diag, QN_ERR_ARGUMENT, d->artifact->path, "token %zu: got id %" PRId32 ", want 0 to %" PRId64, index,
                 token, d->vocab - 1);
}

qn_status qn_decoder_fork(qn_decoder *d, int32_t from, int64_t length, int32_t to, qn_diag *diag) {
  QN_TRY(qn_decode_check_sequence(d, from, diag));
  QN_TRY(qn_decode_check_sequence(d, to, diag));
  if (from == to)
    return qn_fail(diag, QN_ERR_ARGUMENT, d->artifact->path,
                   "got sequence %" PRId32 " to fork into itself, want another one", from);
  if (length < 0 || length > qn_decoder_position(d, from))
    return qn_fail(diag, QN_ERR_ARGUMENT, d->artifact->path,
                   "got %" PRId64 " tokens of sequence %" PRId32 " to fork, want 0 to the %" PRId64 " that it has",
                   length, from, qn_decoder_position(d, from));
  if (length > 0 && length < qn_decoder_least(d, from))
    return qn_fail(diag, QN_ERR_LIMIT, d->artifact->path,
                   "got %" PRId64 " tokens of sequence %" PRId32 " to fork, want 0, or at least %" PRId64
                   ": keys that fewer would see lay before the window, or were evicted, or have sums of what followed",
                   length, from, qn_decoder_least(d, from));
  keep(d, to, true);
  qn_kv_cache_fork(d->cache, from, length == 0 ? 0 : length - qn_kv_cache_evicted(d->cache, from), to);
  if (d->prefixes) {
    d->logged[to] = d->logged[from] < length ? d->logged[from] : length;
    memcpy(qn_decode_log(d, to), qn_decode_log(d, from), (size_t)d->logged[to] * sizeof *d->log);
  }
  return QN_OK;
}

int64_t qn_decoder_branch(qn_decoder *d, int32_t from, int64_t length, int32_t to) {
  if (qn_decoder_fork(d, from, length, to, NULL) != QN_OK) return 0;
  length = own_last_page(d, to, length);
  forget(d, to, length);
  return length;
}

// The token and its page must be checked and reserved.
void qn_decode_push(qn_decoder *d, int32_t token, int32_t sequence, bool want) {
  d->arrays[INPUT_TOKENS][d->count] = token;
  int64_t slot = qn_kv_cache_length(d->cache, sequence) + d->pending[sequence]++;
  d->arrays[INPUT_SLOT][d->count] = (int32_t)slot;
  d->arrays[INPUT_POS][d->count] = (int32_t)(slot + qn_kv_cache_evicted(d->cache, sequence));
  d->arrays[INPUT_SEQ][d->count] = sequence;
  d->arrays[INPUT_COPIES][d->count] = 1;
  d->arrays[INPUT_CROSS_LAST_POS][d->count] = (int32_t)qn_kv_cache_source(d->cache, sequence) - 1;
  if (want) d->arrays[INPUT_ROWS][d->rows++] = (int32_t)d->count;
  d->count++;
}

// None of them on a path of a tree, which is pending nowhere.
static bool one_token_each(const qn_decoder *d) {
  for (int64_t i = 0; i < d->count; i++)
    if (d->pending[d->arrays[INPUT_SEQ][i]] != 1) return false;
  return true;
}

qn_status qn_decode_run(qn_decoder *d, qn_diag *diag) {
  int64_t symbols[QN_ARTIFACT_SYMBOLS], rows = d->rows;
  qn_status status = qn_decode_before_evicting(d, &rows, diag);
  qn_decode_set_symbols(d, d->count, rows, 0, symbols);
  for (int64_t i = 0; i < d->count; i++) {
    int32_t sequence = d->arrays[INPUT_SEQ][i];
    if (d->pending[sequence] == 0) continue;
    d->arrays[INPUT_LAST_POS][i] = (int32_t)(qn_kv_cache_length(d->cache, sequence) + d->pending[sequence] - 1);
  }
  qn_run_kind kind = one_token_each(d) ? QN_RUN_STEP : QN_RUN_PROMPT;
  bool ran = status == QN_OK;
  if (ran) status = qn_executor_run(d->executor, symbols, kind, diag);
  if (status == QN_OK) log_step(d);
  for (int64_t i = 0; i < d->count; i++) {
    int32_t sequence = d->arrays[INPUT_SEQ][i];
    if (status == QN_OK) qn_kv_cache_advance(d->cache, sequence, d->pending[sequence]);
    if (ran && status != QN_OK && !qn_decoder_takes_back(d)) qn_kv_cache_clear(d->cache, sequence);
    d->pending[sequence] = 0;
  }
  return status == QN_OK ? qn_decode_evict(d, rows, diag) : status;
}

bool qn_decoder_chooses(const qn_decoder *d) { return d->tokens != NULL; }

void qn_decoder_choose(qn_decoder *d, const qn_sampling *settings, size_t count) {
  if (!d->tokens) return;
  for (size_t row = 0; row < count; row++) set_row(d, (int64_t)row, &settings[row]);
  qn_executor_want(d->executor, "token", count > 0);
  qn_executor_want(d->executor, "logits", count == 0);
}

int32_t qn_decoder_token(const qn_decoder *d, size_t index) { return d->tokens[index]; }

int64_t qn_decoder_room(const qn_decoder *d, int32_t sequence) {
  int64_t most = qn_decoder_keys_left(d, sequence) - 1;  // the last one may not be taken back
  int64_t length = qn_kv_cache_length(d->cache, sequence), keys = d->artifact->program->page_keys;
  int64_t pages = qn_kv_cache_free_pages(d->cache) + qn_kv_cache_passed(d->cache, sequence);
  int64_t context = d->context - qn_decoder_position(d, sequence);
  if (context > most) context = most;
  if (keys == 0) keys = 1;
  int64_t rest = (keys - length % keys) % keys;  // of the last page
  if (rest > 0 && pages > 0) pages--;            // which may be shared: then whoever writes to it takes a free one
  return pages > context / keys || pages * keys + rest > context ? context : pages * keys + rest;
}

const float *qn_decoder_logits(const qn_decoder *d, size_t index) { return d->logits + (int64_t)index * d->pitch; }

// --- many tokens of one sequence

static qn_status eval_chunks(qn_decoder *d, int32_t sequence, const int32_t *tokens, size_t count, float *all,
                             bool last, qn_diag *diag) {
  size_t most = (size_t)(all ? d->max_rows : d->chunk), vocab = (size_t)d->vocab;
  for (size_t done = 0; done < count;) {
    size_t now = count - done < most ? count - done : most;
    if ((int64_t)now > qn_decoder_keys_left(d, sequence)) now = (size_t)qn_decoder_keys_left(d, sequence);
    QN_TRY(qn_decode_reserve(d, sequence, (int64_t)(count - done), diag));  // takes more only where a window goes on
    qn_decode_begin(d);
    for (size_t i = done; i < done + now; i++) qn_decode_push(d, tokens[i], sequence, all || (last && i + 1 == count));
    QN_TRY(qn_decode_run(d, diag));
    for (size_t i = 0; all && i < now; i++) {
      memcpy(all + (done + i) * vocab, qn_decoder_logits(d, i), vocab * sizeof(float));
    }
    done += now;
  }
  return QN_OK;
}

qn_status qn_decode_check_logits(const qn_decoder *d, qn_diag *diag) {
  if (!d->embedding) return QN_OK;
  return qn_fail(diag, QN_ERR_UNSUPPORTED, d->artifact->path,
                 "is an encoder: it makes an embedding of a whole text, and no logits; embed texts with it");
}

qn_status qn_decoder_reserve(qn_decoder *d, int32_t sequence, const int32_t *tokens, size_t count, qn_diag *diag) {
  QN_TRY(qn_decode_check_logits(d, diag));
  QN_TRY(qn_decode_check_sequence(d, sequence, diag));
  if (count == 0 || count > INT32_MAX) {
    return qn_fail(diag, QN_ERR_ARGUMENT, d->artifact->path, "got %zu tokens to evaluate, want at least 1", count);
  }
  QN_TRY(qn_decode_check_source(d, sequence, diag));
  for (size_t i = 0; i < count; i++) QN_TRY(qn_decode_check_token(d, tokens[i], i, diag));
  return qn_decode_reserve(d, sequence, (int64_t)count, diag);
}

qn_status qn_decoder_eval(qn_decoder *d, int32_t sequence, const int32_t *tokens, size_t count, float *all,
                          const float **out_last, qn_diag *diag) {
  QN_TRY(qn_decoder_reserve(d, sequence, tokens, count, diag));
  int64_t before = qn_decoder_position(d, sequence);
  qn_executor_hold(d->executor);
  qn_status status = eval_chunks(d, sequence, tokens, count, all, out_last != NULL, diag);
  qn_executor_release(d->executor);
  if (status != QN_OK) qn_decoder_truncate(d, sequence, before);
  if (status == QN_OK && out_last) *out_last = qn_decoder_logits(d, (size_t)d->rows - 1);
  return status;
}

qn_status qn_decoder_fill(qn_decoder *d, int32_t sequence, int64_t count, qn_diag *diag) {
  QN_TRY(qn_decode_check_sequence(d, sequence, diag));
  if (count < 0)
    return qn_fail(diag, QN_ERR_ARGUMENT, d->artifact->path, "got %" PRId64 " keys, want 0 or more", count);
  if (d->policy && count >= qn_decoder_keys_left(d, sequence))
    return qn_fail(diag, QN_ERR_LIMIT, d->artifact->path,
                   "got %" PRId64 " keys to fill in beside %" PRId64 ", want fewer than %" PRId64
                   " in all (kv_keep): with the last one keys are given up, which only a token does",
                   count, qn_kv_cache_length(d->cache, sequence), d->most_keys);
  return qn_kv_cache_fill(d->cache, sequence, count, diag);
}

qn_status qn_decoder_restore(qn_decoder *d, int32_t sequence, const void *data, size_t size, const char *name,
                             qn_diag *diag) {
  QN_TRY(qn_decode_check_sequence(d, sequence, diag));
  keep(d, sequence, false);
  QN_TRY(qn_kv_state_restore(d->cache, sequence, data, size, name, diag));
  forget(d, sequence, 0);
  return QN_OK;
}

// --- one token of each of many sequences

static qn_status check_items(const qn_decoder *d, const qn_decoder_item *items, size_t count, qn_diag *diag) {
  int64_t wanted = 0;
  QN_TRY(qn_decode_check_logits(d, diag));
  for (size_t i = 0; i < count; i++) {
    QN_TRY(qn_decode_check_sequence(d, items[i].sequence, diag));
    QN_TRY(qn_decode_check_source(d, items[i].sequence, diag));
    QN_TRY(qn_decode_check_token(d, items[i].token, i, diag));
    wanted += items[i].want;
  }
  if (count == 0 || count > (size_t)d->chunk) {
    return qn_fail(diag, QN_ERR_LIMIT, d->artifact->path, "got a step of %zu tokens, want 1 to %" PRId64, count,
                   d->chunk);
  }
  if (wanted > d->max_rows) {
    return qn_fail(diag, QN_ERR_LIMIT, d->artifact->path,
                   "got %" PRId64 " tokens whose logits are wanted, want at most %" PRId64, wanted, d->max_rows);
  }
  return QN_OK;
}

// Those of trees that branch go to rows of their own; *out_trees is how many of these were begun.
static qn_status push_items(qn_decoder *d, const qn_decoder_item *items, size_t count, const qn_decoder_tree *trees,
                            size_t tree_count, size_t *out_trees, qn_diag *diag) {
  for (size_t i = 0; i < count; i++) slide(d, items[i].sequence);  // before anybody takes pages
  for (size_t i = 0; i < count; i++) {
    int32_t sequence = items[i].sequence;
    while (*out_trees < tree_count && trees[*out_trees].item < i) ++*out_trees;
    if (*out_trees < tree_count && trees[*out_trees].item == i && qn_decode_branches(d, sequence)) {
      const qn_decoder_tree *tree = &trees[(*out_trees)++];
      QN_TRY(qn_decode_push_tree(d, &items[i], tree->count, diag));
      i += tree->count;
      continue;
    }
    if (d->pending[sequence] == qn_decoder_keys_left(d, sequence)) {
      return qn_fail(diag, QN_ERR_LIMIT, d->artifact->path,
                     "got more than %" PRId64 " tokens of sequence %" PRId32
                     " in a step, want at most so many: then keys are evicted",
                     d->pending[sequence], sequence);
    }
    QN_TRY(qn_decode_reserve(d, sequence, d->pending[sequence] + 1, diag));
    qn_decode_push(d, items[i].token, items[i].sequence, items[i].want);
  }
  return QN_OK;
}

qn_status qn_decoder_step_trees(qn_decoder *d, const qn_decoder_item *items, size_t count, const qn_decoder_tree *trees,
                                size_t tree_count, qn_diag *diag) {
  size_t begun = 0;
  qn_decode_begin(d);
  QN_TRY(check_items(d, items, count, diag));
  QN_TRY(qn_decode_place_trees(d, items, trees, tree_count, diag));
  qn_status status = push_items(d, items, count, trees, tree_count, &begun, diag);
  for (int64_t i = 0; status != QN_OK && i < d->count; i++) d->pending[d->arrays[INPUT_SEQ][i]] = 0;
  if (status == QN_OK) {
    qn_executor_hold(d->executor);
    status = qn_decode_run(d, diag);
    qn_executor_release(d->executor);
  }
  for (size_t i = 0; status != QN_OK && i < begun; i++) qn_decode_drop_tree(d, items[trees[i].item].sequence);
  for (int64_t i = 0; status != QN_OK && i < d->count; i++) {  // pages that were reserved
    int32_t sequence = d->arrays[INPUT_SEQ][i];
    qn_kv_cache_truncate(d->cache, sequence, qn_kv_cache_length(d->cache, sequence));
  }
  return status;
}

qn_status qn_decoder_step(qn_decoder *d, const qn_decoder_item *items, size_t count, qn_diag *diag) {
  return qn_decoder_step_trees(d, items, count, NULL, 0, diag);
}
