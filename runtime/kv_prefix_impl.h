// The tree behind kv_prefix.h, for the two files that implement it.
#ifndef QN_RUNTIME_KV_PREFIX_IMPL_H
#define QN_RUNTIME_KV_PREFIX_IMPL_H

#include "runtime/kv_prefix.h"

enum { QN_KV_NONE = -1 };

// A page that is kept, by its number. Its tokens follow those of `parent`; only full pages have children. `newer` and
// `older` are all kept pages by their last use: a page is never older than its children.
typedef struct qn_kv_node {
  int32_t count;  // tokens; 0 = not kept
  int32_t parent, child, next;
  int32_t newer, older;
} qn_kv_node;

struct qn_kv_prefix {
  qn_kv_cache *cache;  // borrowed
  qn_kv_node *nodes;   // owned: one a page
  int32_t *tokens;     // owned: (pages, page_keys)
  int64_t page_keys;
  int32_t child;  // of the root, the first
  int32_t newest, oldest;
  qn_kv_prefix_stats stats;
};

// The child of `parent` (or of the root) that begins with most of the tokens; *out_same of them. QN_KV_NONE when none
// begins with the first.
int32_t qn_kv_prefix_find(const qn_kv_prefix *prefix, int32_t parent, const int32_t *tokens, int64_t count,
                          int64_t *out_same);
// Enters a page that is kept already, as the oldest or the newest.
void qn_kv_prefix_link(qn_kv_prefix *prefix, int32_t parent, int32_t page, const int32_t *tokens, int64_t count,
                       bool newest);

#endif
