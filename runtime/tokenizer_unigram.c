// Unigram: of all ways to cut a word into tokens the one with the best sum of scores (Kudo 2018, section 3.2), found
// from the left by Viterbi's algorithm. A character that begins no token of its own is unknown, at a price.
#include "runtime/tokenizer_impl.h"

// SentencePiece rounds sums to float, the tokenizers library does not.
static double rounded(const qn_tokenizer *t, double sum) { return t->flags & QN_TOK_SINGLE ? (double)(float)sum : sum; }

static size_t character_length(qn_str word, size_t at) {
  size_t length = qn_utf8_sequence(word.data + at, word.length - at, NULL);
  return length == 0 ? 1 : length;
}

static void improve(qn_path_node *to, double score, uint32_t from, uint32_t id) {
  if (to->from == QN_TOK_FREE || score > to->score) *to = (qn_path_node){score, from, id};
}

// All tokens that begin at `at`, which the best way has reached.
static void step_from(const qn_tokenizer *t, qn_path_node *paths, qn_str word, size_t at, size_t first_length) {
  uint32_t longest = t->longest[(uint8_t)word.data[at]];
  double here = paths[at].score;
  bool single = false;
  for (size_t end = at; end < word.length;) {
    end += end == at ? first_length : character_length(word, end);
    size_t length = end - at;
    if (length > longest) break;
    uint32_t id = qn_tok_lookup(t, word.data + at, length);
    if (id >= t->n_tokens) continue;
    improve(&paths[end], rounded(t, here + qn_tok_score(t, id)), (uint32_t)at, id);
    single = single || length == first_length;
  }
  if (!single) improve(&paths[at + first_length], rounded(t, here + t->unknown_score), (uint32_t)at, QN_TOK_FREE);
}

qn_status qn_unigram_encode(qn_merger *merger, qn_str word, qn_diag *diag) {
  const qn_tokenizer *t = merger->tokenizer;
  merger->paths.count = merger->way.count = 0;
  for (size_t i = 0; i <= word.length; i++) {
    if (!qn_vec_push(merger->allocator, &merger->paths, ((qn_path_node){0, QN_TOK_FREE, QN_TOK_FREE}))) goto no_memory;
  }
  qn_path_node *paths = merger->paths.items;
  for (size_t at = 0, length; at < word.length; at += length) {
    length = character_length(word, at);
    step_from(t, paths, word, at, length);
  }
  for (size_t at = word.length; at > 0; at = paths[at].from) {
    if (!qn_vec_push(merger->allocator, &merger->way, (uint32_t)at)) goto no_memory;
  }
  for (size_t i = merger->way.count; i-- > 0;) {
    uint32_t end = merger->way.items[i];
    const qn_path_node *node = &paths[end];
    qn_str text = {word.data + node->from, end - node->from};
    if (node->id == QN_TOK_FREE) {
      QN_TRY(qn_tok_push_unknown(merger, text, diag));
    } else if (node->id != (uint32_t)t->unk || !merger->after_unknown || !(t->flags & QN_TOK_FUSE_UNKNOWN)) {
      QN_TRY(qn_tok_push(merger, node->id, diag));
      merger->after_unknown = node->id == (uint32_t)t->unk;  // a text may spell it out where it is no special token
    }
  }
  return QN_OK;
no_memory:
  return qn_fail_nomem(diag, "tokenizer", "the ways through a word");
}
