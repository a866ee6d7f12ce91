// Lowering of attention over the paged cache: shared by the fused kernel and by its parts where they stand alone.
#ifndef QN_PASSES_LOWER_ATTENTION_H
#define QN_PASSES_LOWER_ATTENTION_H

#include "passes/lower.h"

typedef struct qn_attention {
  const qn_node *node;
  qn_id q, k_cache, v_cache, pos, seq;  // q and a cache are 0 where the op has none
  const qn_lbuf *table;                 // block table, i32 (B, P)
  int64_t kv_heads, head_dim;
  int64_t group;   // query heads that share a KV head
  int64_t window;  // a token sees so many keys, its own the last; 0 = all before it
} qn_attention;

// An i32 value of a token (its position, its sequence) as an index.
const qn_lexpr *qn_attention_token_index(qn_lower *lower, qn_id id, const qn_lexpr *row);
// Index of element `at` of (page, kv head) in a pool of pages of [kv_heads, head_dim * 64].
const qn_lexpr *qn_attention_pool_index(qn_lbuild *b, const qn_attention *a, const qn_lexpr *page,
                                        const qn_lexpr *kv_head, const qn_lexpr *at);
// Scaled, soft-capped; -inf where `seen` (a predicate) is false.
const qn_lexpr *qn_attention_score(qn_lbuild *b, const qn_attention *a, const qn_lexpr *dot, const qn_lexpr *seen);
// The first page that a token at `pos` sees, and the one after the last.
const qn_lexpr *qn_attention_first_page(qn_lbuild *b, const qn_attention *a, const qn_lexpr *pos);
const qn_lexpr *qn_attention_last_page(qn_lbuild *b, const qn_lexpr *pos);

// Writes the kernel of a fused `attention` node (lower_attention_fused.c); sets lower->tile_rows and run_tokens.
QN_CHECKED qn_status qn_lower_attention_fused(qn_lower *lower, const qn_attention *a);

#endif
