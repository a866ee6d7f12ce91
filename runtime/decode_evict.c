// Keys that are given up: what a program must be for it, the rows that queries are left in, and who is full after a
// step.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/decode_impl.h"

bool qn_decode_has_buffer(const qn_artifact *a, uint32_t kind, const char *name) {
  for (uint32_t i = 0; i < a->program->buffer_count; i++)
    if (a->buffers[i].kind == kind && strcmp(a->strings + a->buffers[i].name, name) == 0) return true;
  return false;
}

static void name_queries(uint32_t layer, char out[32]) { snprintf(out, 32, "query.%" PRIu32, layer); }

static bool has_output(const qn_artifact *a, const char *name) {
  for (uint32_t i = 0; i < a->program->buffer_count; i++) {
    const qn_art_buffer *b = &a->buffers[i];
    if (b->kind == QN_ART_ARENA && b->output && b->rank == 2 && strcmp(a->strings + b->name, name) == 0) return true;
  }
  return false;
}

// Does it leave the queries of every layer of which it keeps keys?
static bool has_queries(const qn_artifact *a) {
  char name[32];
  for (uint32_t i = 0; i < a->program->buffer_count; i++) {
    const qn_art_buffer *b = &a->buffers[i];
    if (b->kind != QN_ART_CACHE || strcmp(a->strings + b->name, "k") != 0) continue;
    name_queries(b->layer, name);
    if (!has_output(a, name)) return false;
  }
  return true;
}

// Does the program give what the policy goes by? Keys may be evicted where it takes their places apart from positions.
static qn_status check_program(const qn_artifact *a, const qn_kv_policy *policy, qn_diag *diag) {
  if (!qn_decode_has_buffer(a, QN_ART_INPUT, "slot"))
    return qn_fail(diag, QN_ERR_UNSUPPORTED, a->path,
                   "was compiled to keep all keys, want one compiled with kv-evict %s to evict them", policy->name);
  if ((policy->by & QN_KV_QUERIES) && !has_queries(a))
    return qn_fail(diag, QN_ERR_UNSUPPORTED, a->path,
                   "makes no queries to evict keys by, want one compiled with kv-evict %s", policy->name);
  bool sums = (!(policy->by & QN_KV_SUMS) || qn_decode_has_buffer(a, QN_ART_CACHE, "sum")) &&
              (!(policy->by & QN_KV_SOFTSUMS) || qn_decode_has_buffer(a, QN_ART_CACHE, "softsum"));
  if (sums) return QN_OK;
  return qn_fail(diag, QN_ERR_UNSUPPORTED, a->path,
                 "does not sum up the attention to evict keys by, want one compiled with kv-evict %s", policy->name);
}

qn_status qn_decode_choose_policy(qn_decoder *d, const qn_decoder_options *options, qn_diag *diag) {
  enum { LEAST = 8, MOST_DROP = 64 };
  if (!options->evict && options->keep == 0) return QN_OK;
  if (!options->evict)
    return qn_fail(diag, QN_ERR_ARGUMENT, "kv_keep", "got %" PRId64 " keys to keep and no policy, want kv_evict, too",
                   options->keep);
  d->policy = qn_kv_policy_find(options->evict);
  if (!d->policy)
    return qn_fail(diag, QN_ERR_ARGUMENT, "kv_evict", "got '%s', want one of " QN_KV_POLICY_NAMES, options->evict);
  if (options->keep < LEAST || options->keep > d->context)
    return qn_fail(diag, QN_ERR_ARGUMENT, "kv_keep", "got %" PRId64 " keys, want %d to the context's %" PRId64,
                   options->keep, LEAST, d->context);
  QN_TRY(check_program(d->artifact, d->policy, diag));
  if (options->prefixes && !qn_decoder_takes_back(d))
    return qn_fail(
        diag, QN_ERR_UNSUPPORTED, d->artifact->path,
        "got prefixes to keep beside keys that are evicted by %s, want one of them: sums of attention are of "
        "all tokens that followed",
        d->policy->name);
  d->most_keys = options->keep;
  d->drop = d->most_keys / 8 < MOST_DROP ? d->most_keys / 8 : MOST_DROP;
  return QN_OK;
}

int64_t qn_decoder_keys_left(const qn_decoder *d, int32_t sequence) {
  return d->policy ? d->most_keys - qn_kv_cache_length(d->cache, sequence) : INT64_MAX;
}

bool qn_decoder_takes_back(const qn_decoder *d) { return !d->policy || !(d->policy->by & QN_KV_ANY_SUMS); }

bool qn_decoder_fills_with_row(const qn_decoder *d) { return d->policy && (d->policy->by & QN_KV_QUERIES); }

int64_t qn_decoder_copies(const qn_decoder *d, int32_t sequence, int64_t tokens) {
  bool writes = tokens >= qn_decoder_keys_left(d, sequence) || !qn_decoder_takes_back(d);
  return writes ? qn_kv_cache_shared(d->cache, sequence, false) : 0;
}

// Is the sequence full with the step's index-th token?
static bool fills(const qn_decoder *d, int64_t index) {
  return d->policy && d->arrays[INPUT_SLOT][index] + 1 == d->most_keys;
}

static int64_t row_of(const qn_decoder *d, int64_t index, int64_t rows) {
  for (int64_t row = 0; row < rows; row++)
    if (d->arrays[INPUT_ROWS][row] == index) return row;
  return -1;
}

// Queries are there of rows alone: of tokens that fill a sequence, too, behind those that are wanted.
static qn_status add_query_rows(qn_decoder *d, int64_t *out_rows, qn_diag *diag) {
  *out_rows = d->rows;
  for (int64_t i = 0; qn_decoder_fills_with_row(d) && i < d->count; i++) {
    if (!fills(d, i) || row_of(d, i, d->rows) >= 0) continue;
    if (*out_rows == d->max_rows) {
      return qn_fail(diag, QN_ERR_LIMIT, d->artifact->path,
                     "got a step with more than the %" PRId64
                     " rows that the program can have, those that keys are evicted by included; want fewer logits",
                     d->max_rows);
    }
    d->arrays[INPUT_ROWS][(*out_rows)++] = (int32_t)i;
  }
  return QN_OK;
}

// Who will give keys up writes to all of its pages, and so does every token that adds to sums. Where there are too few
// for copies of those that are kept for others that come, these are no longer kept.
static qn_status own_pages(qn_decoder *d, int32_t sequence, qn_diag *diag) {
  bool few = qn_kv_cache_shared(d->cache, sequence, true) > qn_kv_cache_free_pages(d->cache);
  if (d->prefixes && few) qn_kv_prefix_forget(d->prefixes, sequence);
  return qn_kv_cache_own(d->cache, sequence, diag);
}

qn_status qn_decode_before_evicting(qn_decoder *d, int64_t *out_rows, qn_diag *diag) {
  QN_TRY(add_query_rows(d, out_rows, diag));
  for (int64_t i = 0; i < d->count; i++)
    if (fills(d, i) || !qn_decoder_takes_back(d)) QN_TRY(own_pages(d, d->arrays[INPUT_SEQ][i], diag));
  return QN_OK;
}

typedef struct query_row {
  const qn_decoder *decoder;
  int64_t row;
} query_row;

static const float *queries_of(void *context, uint32_t layer, int64_t *out_count) {
  const query_row *q = context;
  const qn_art_buffer *b = NULL;
  char name[32];
  name_queries(layer, name);
  const float *all = qn_executor_output(q->decoder->executor, name, &b);
  *out_count = all ? b->dims[1] : 0;
  return all ? all + q->row * b->row_pitch : NULL;
}

qn_status qn_decode_evict(qn_decoder *d, int64_t rows, qn_diag *diag) {
  qn_status status = QN_OK;
  for (int64_t i = 0; i < d->count; i++) {
    if (!fills(d, i)) continue;
    query_row q = {d, row_of(d, i, rows)};
    int32_t sequence = d->arrays[INPUT_SEQ][i];
    qn_status own = qn_kv_evictor_run(d->evictor, sequence, d->most_keys - d->drop, queries_of, &q, diag);
    if (own == QN_OK) continue;
    status = own;
    qn_decoder_truncate(d, sequence, 0);
  }
  return status;
}
