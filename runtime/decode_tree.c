// Trees of guesses in a step. Attention is not told which of a step's keys a token sees: each path from the text to an
// end of the tree is a row of the block table, a fork of the sequence, and what paths have in common is computed once
// and written to each of them (README.md, "Several tokens a step").
#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "runtime/decode_impl.h"

bool qn_decoder_want_hidden(qn_decoder *d, bool wanted) { return qn_executor_want(d->executor, "hidden", wanted); }
int64_t qn_decoder_hidden_width(const qn_decoder *d) { return d->hidden_width; }
const float *qn_decoder_hidden(const qn_decoder *d, size_t index) {
  return d->hidden ? d->hidden + (int64_t)index * d->hidden_pitch : NULL;
}

int32_t qn_decoder_path_rows(const qn_decoder *d) {
  int32_t rows = qn_kv_cache_sequences(d->cache) - d->sequences;
  return rows < 2 ? 0 : rows;
}

int32_t qn_decoder_paths(const qn_decoder *d, int64_t depth) {
  int64_t keys = qn_kv_cache_page_keys(d->cache), rows = qn_decoder_path_rows(d);
  int64_t paths =
      qn_kv_cache_free_forks(d->cache) / (1 + (depth + keys) / keys);  // a copy of the last page, and new ones
  if (paths > rows) paths = rows;
  return paths < 2 ? 1 : (int32_t)paths;
}

// --- paths

// Numbers the paths of one.
static void place_nodes(tree_node *n, const int32_t *parents, size_t count) {
  memset(n, 0, (count + 1) * sizeof *n);
  for (size_t i = count; i > 0; i--) {
    assert(parents[i - 1] >= -1 && parents[i - 1] < (int32_t)i - 1);
    n[i].parent = parents[i - 1] + 1;
    if (n[i].paths == 0) n[i].paths = 1;
    n[n[i].parent].paths += n[i].paths;
  }
  if (n[0].paths == 0) n[0].paths = 1;
  for (size_t i = 1; i <= count; i++) {
    tree_node *parent = &n[n[i].parent];
    n[i].path = parent->path + parent->told;
    n[i].depth = parent->depth + 1;
    parent->told += n[i].paths;
  }
}

qn_status qn_decode_place_trees(qn_decoder *d, const qn_decoder_item *items, const qn_decoder_tree *trees, size_t count,
                                qn_diag *diag) {
  int32_t rows = qn_decoder_path_rows(d), taken = 0;
  tree_node *nodes = d->nodes;  // no more than wanted rows
  for (int32_t i = 0; i < d->sequences; i++) d->trees[i].nodes = NULL;
  for (size_t i = 0; i < count; i++) {
    int32_t sequence = items[trees[i].item].sequence;
    assert(!d->trees[sequence].nodes);
    place_nodes(nodes, trees[i].parents, trees[i].count);
    d->trees[sequence] =
        (step_tree){nodes, qn_kv_cache_length(d->cache, sequence), d->sequences + taken, (int32_t)trees[i].item};
    if (nodes->paths > 1) taken += nodes->paths;
    nodes += trees[i].count + 1;
  }
  if (taken <= rows) return QN_OK;
  return qn_fail(diag, QN_ERR_LIMIT, d->artifact->path,
                 "got guesses on %" PRId32 " paths, want at most %" PRId32
                 "; compile it with --guesses and a larger --batch",
                 taken, rows < 2 ? 1 : rows);
}

bool qn_decode_branches(const qn_decoder *d, int32_t sequence) { return d->trees[sequence].nodes[0].paths > 1; }

static void drop_paths(qn_decoder *d, const step_tree *t) {
  for (int32_t i = 0; i < t->nodes[0].paths; i++) qn_kv_cache_clear(d->cache, t->row + i);
}

void qn_decode_drop_tree(qn_decoder *d, int32_t sequence) {
  const step_tree *t = &d->trees[sequence];
  if (!qn_decode_branches(d, sequence)) return;
  drop_paths(d, t);
  qn_kv_cache_truncate(d->cache, sequence, t->base);
}

// The tokens from the text to the end of the path.
static int64_t tokens_on(const step_tree *t, size_t count, int32_t path) {
  int64_t most = 0;
  for (size_t i = 0; i <= count; i++)
    if (t->nodes[i].path == path && t->nodes[i].depth + 1 > most) most = t->nodes[i].depth + 1;
  return most;
}

// Guesses never make a sequence full: rows of paths would give keys up, and not the sequence.
static qn_status check_depth(const qn_decoder *d, int32_t sequence, size_t count, qn_diag *diag) {
  const step_tree *t = &d->trees[sequence];
  int64_t left = qn_decoder_keys_left(d, sequence);
  for (size_t i = 0; i <= count; i++) {
    if (t->nodes[i].depth + 1 < left) continue;
    return qn_fail(diag, QN_ERR_LIMIT, d->artifact->path,
                   "got guesses on paths of %" PRId32 " tokens of sequence %" PRId32 ", want fewer than %" PRId64
                   ": then keys are evicted",
                   t->nodes[i].depth + 1, sequence, left);
  }
  return QN_OK;
}

// Makes each path a row of its own, with room for the path's tokens. The first one's pages are the sequence's: its
// tokens come after all that the sequence has. The others are forks of what it was. After an error some may be there.
static qn_status fork_paths(qn_decoder *d, int32_t sequence, size_t count, qn_diag *diag) {
  const step_tree *t = &d->trees[sequence];
  int64_t first = tokens_on(t, count, 0);
  QN_TRY(qn_decode_reserve(d, sequence, first, diag));
  for (int32_t i = 1; i < t->nodes[0].paths; i++) {
    qn_kv_cache_fork(d->cache, sequence, t->base, t->row + i);
    QN_TRY(qn_kv_cache_reserve(d->cache, t->row + i, tokens_on(t, count, i), diag));
  }
  qn_kv_cache_advance(d->cache, sequence, first);
  qn_kv_cache_fork(d->cache, sequence, t->base + first, t->row);
  return QN_OK;
}

// Every token once, in the first of the rows that it is in.
qn_status qn_decode_push_tree(qn_decoder *d, const qn_decoder_item *items, size_t count, qn_diag *diag) {
  const step_tree *t = &d->trees[items->sequence];
  int64_t evicted = qn_kv_cache_evicted(d->cache, items->sequence);
  QN_TRY(check_depth(d, items->sequence, count, diag));
  QN_TRY(fork_paths(d, items->sequence, count, diag));
  for (size_t i = 0; i <= count; i++) {
    const tree_node *n = &t->nodes[i];
    int64_t at = d->count++;
    d->arrays[INPUT_TOKENS][at] = items[i].token;
    d->arrays[INPUT_SLOT][at] = d->arrays[INPUT_LAST_POS][at] = (int32_t)t->base + n->depth;
    d->arrays[INPUT_POS][at] = (int32_t)(t->base + n->depth + evicted);
    d->arrays[INPUT_SEQ][at] = t->row + n->path;
    d->arrays[INPUT_COPIES][at] = n->paths;
    d->arrays[INPUT_CROSS_LAST_POS][at] = (int32_t)qn_kv_cache_source(d->cache, items->sequence) - 1;
    d->arrays[INPUT_ROWS][d->rows++] = (int32_t)at;
  }
  return QN_OK;
}

// --- one tree alone

qn_status qn_decoder_step_tree(qn_decoder *d, int32_t sequence, int32_t token, const int32_t *tokens,
                               const int32_t *parents, size_t count, qn_diag *diag) {
  int64_t most = d->chunk < d->max_rows ? d->chunk : d->max_rows;
  if (count >= (size_t)most)
    return qn_fail(diag, QN_ERR_LIMIT, d->artifact->path, "got %zu guesses in a step, want at most %" PRId64, count,
                   most - 1);
  d->tree_items[0] = (qn_decoder_item){token, sequence, true};
  for (size_t i = 0; i < count; i++) d->tree_items[i + 1] = (qn_decoder_item){tokens[i], sequence, true};
  const qn_decoder_tree whole = {0, count, parents};
  return qn_decoder_step_trees(d, d->tree_items, count + 1, &whole, 1, diag);
}

// --- what came true

// What the sequence holds is known as far as it was before.
static void log_path(qn_decoder *d, int32_t sequence, const tree_node *node) {
  const step_tree *t = &d->trees[sequence];
  if (!d->prefixes || d->logged[sequence] != t->base || qn_kv_cache_evicted(d->cache, sequence) > 0) return;
  d->logged[sequence] = t->base + node->depth + 1;
  for (;; node = &t->nodes[node->parent]) {
    qn_decode_log(d, sequence)[t->base + node->depth] = d->arrays[INPUT_TOKENS][t->first + (node - t->nodes)];
    if (node == t->nodes) return;
  }
}

void qn_decoder_take_path(qn_decoder *d, int32_t sequence, int32_t guess) {
  const step_tree *t = &d->trees[sequence];
  const tree_node *node = &t->nodes[guess + 1];
  int64_t length = t->base + node->depth + 1;  // in keys
  if (!qn_decode_branches(d, sequence)) {
    qn_decoder_truncate(d, sequence, length + qn_kv_cache_evicted(d->cache, sequence));
    return;
  }
  int32_t row = t->row + node->path;
  if (node->path == 0) {
    qn_kv_cache_truncate(d->cache, sequence, length);
  } else {
    qn_kv_cache_advance(d->cache, row, node->depth + 1);
    qn_kv_cache_fork(d->cache, row, length, sequence);
  }
  drop_paths(d, t);
  log_path(d, sequence, node);
}
