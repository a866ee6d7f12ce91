// The tree of kept pages: finding, keeping, giving up the least recently used.
#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "runtime/kv_prefix_impl.h"

static size_t node_bytes(const qn_kv_cache *cache) { return (size_t)qn_kv_cache_pages(cache) * sizeof(qn_kv_node); }

// False when they are too many to count.
static bool token_bytes(const qn_kv_cache *cache, size_t *out) {
  return qn_size_mul((size_t)qn_kv_cache_pages(cache), (size_t)qn_kv_cache_page_keys(cache), out) &&
         qn_size_mul(*out, sizeof(int32_t), out);
}

static int32_t *tokens_of(const qn_kv_prefix *p, int32_t page) {
  return p->tokens + (size_t)page * (size_t)p->page_keys;
}

static int32_t *children_of(qn_kv_prefix *p, int32_t parent) {
  return parent == QN_KV_NONE ? &p->child : &p->nodes[parent].child;
}

// --- the order of use

static void take_out(qn_kv_prefix *p, int32_t page) {
  qn_kv_node *n = &p->nodes[page];
  *(n->newer == QN_KV_NONE ? &p->newest : &p->nodes[n->newer].older) = n->older;
  *(n->older == QN_KV_NONE ? &p->oldest : &p->nodes[n->older].newer) = n->newer;
}

static void put_in(qn_kv_prefix *p, int32_t page, bool newest) {
  qn_kv_node *n = &p->nodes[page];
  n->newer = newest ? QN_KV_NONE : p->oldest;
  n->older = newest ? p->newest : QN_KV_NONE;
  *(n->newer == QN_KV_NONE ? &p->newest : &p->nodes[n->newer].older) = page;
  *(n->older == QN_KV_NONE ? &p->oldest : &p->nodes[n->older].newer) = page;
}

// The page and all before it are used now; in this order, so that none is older than its children.
static void use(qn_kv_prefix *p, int32_t page) {
  for (; page != QN_KV_NONE; page = p->nodes[page].parent) {
    take_out(p, page);
    put_in(p, page, true);
  }
}

// --- nodes

void qn_kv_prefix_link(qn_kv_prefix *p, int32_t parent, int32_t page, const int32_t *tokens, int64_t count,
                       bool newest) {
  int32_t *first = children_of(p, parent);
  p->nodes[page] = (qn_kv_node){.count = (int32_t)count, .parent = parent, .child = QN_KV_NONE, .next = *first};
  *first = page;
  memcpy(tokens_of(p, page), tokens, (size_t)count * sizeof *tokens);
  put_in(p, page, newest);
  p->stats.pages++;
  p->stats.tokens += count;
}

static void unlink_leaf(qn_kv_prefix *p, int32_t page) {
  qn_kv_node *n = &p->nodes[page];
  assert(n->count > 0 && n->child == QN_KV_NONE);
  int32_t *place = children_of(p, n->parent);
  while (*place != page) place = &p->nodes[*place].next;
  *place = n->next;
  take_out(p, page);
  p->stats.pages--;
  p->stats.tokens -= n->count;
  n->count = 0;
  qn_kv_cache_unkeep(p->cache, page);
}

int32_t qn_kv_prefix_find(const qn_kv_prefix *p, int32_t parent, const int32_t *tokens, int64_t count,
                          int64_t *out_same) {
  int32_t best = QN_KV_NONE;
  *out_same = 0;
  for (int32_t c = parent == QN_KV_NONE ? p->child : p->nodes[parent].child; c != QN_KV_NONE; c = p->nodes[c].next) {
    const int32_t *own = tokens_of(p, c);
    int64_t most = p->nodes[c].count < count ? p->nodes[c].count : count, same = 0;
    while (same < most && own[same] == tokens[same]) same++;
    if (same > *out_same) {
      *out_same = same;
      best = c;
    }
    if (same == count || same == p->page_keys) break;
  }
  return best;
}

static int64_t drop_leaf(qn_kv_prefix *p, int32_t page) {
  bool idle = qn_kv_cache_idle(p->cache, page);
  unlink_leaf(p, page);
  p->stats.given_up += idle;
  return idle;
}

// Drops a page and all that follow it; gives how many of them nobody else held.
static int64_t drop(qn_kv_prefix *p, int32_t page) {
  int64_t count = 0;
  for (int32_t at = page, parent;; at = parent) {
    while (p->nodes[at].child != QN_KV_NONE) at = p->nodes[at].child;
    parent = p->nodes[at].parent;
    count += drop_leaf(p, at);
    if (at == page) return count;
  }
}

// Children are older than what they follow: one walk comes to each page after all that follow it. Where windows let
// sequences give back what they began with, idle pages may come before some that sequences have: those go last, and what
// follows them is not known any more.
static void give_up(void *context, int64_t count) {
  qn_kv_prefix *p = context;
  for (int32_t page = p->oldest, newer; page != QN_KV_NONE && count > 0; page = newer) {
    newer = p->nodes[page].newer;
    if (p->nodes[page].child == QN_KV_NONE && qn_kv_cache_idle(p->cache, page)) count -= drop_leaf(p, page);
  }
  for (int32_t page = p->oldest, newer; page != QN_KV_NONE && count > 0; page = newer) {
    newer = p->nodes[page].newer;  // not among those that follow it, which are older
    if (qn_kv_cache_idle(p->cache, page)) count -= drop(p, page);
  }
}

// --- the interface

qn_status qn_kv_prefix_create(qn_kv_cache *cache, qn_kv_prefix **out, qn_diag *diag) {
  const qn_allocator *allocator = qn_kv_cache_allocator(cache);
  size_t bytes = 0;
  *out = NULL;
  bool fits = token_bytes(cache, &bytes);
  qn_kv_prefix *p = fits ? qn_alloc_zeroed(allocator, sizeof *p) : NULL;
  if (!p) return qn_fail_nomem(diag, qn_kv_cache_artifact(cache)->path, "the prefixes of the KV cache");
  p->cache = cache;
  p->page_keys = qn_kv_cache_page_keys(cache);
  p->child = p->newest = p->oldest = QN_KV_NONE;
  p->nodes = qn_alloc_zeroed(allocator, node_bytes(cache));
  p->tokens = qn_alloc(allocator, bytes);
  if (!p->nodes || !p->tokens) {
    qn_kv_prefix_destroy(p);
    return qn_fail_nomem(diag, qn_kv_cache_artifact(cache)->path, "the prefixes of the KV cache");
  }
  qn_kv_cache_set_reclaimer(cache, give_up, p);
  *out = p;
  return QN_OK;
}

void qn_kv_prefix_destroy(qn_kv_prefix *p) {
  size_t bytes = 0;
  if (!p) return;
  const qn_allocator *allocator = qn_kv_cache_allocator(p->cache);
  for (int32_t page = p->oldest, newer; page != QN_KV_NONE; page = newer) {
    newer = p->nodes[page].newer;
    unlink_leaf(p, page);
  }
  qn_kv_cache_set_reclaimer(p->cache, NULL, NULL);
  (void)token_bytes(p->cache, &bytes);
  qn_free(allocator, p->nodes, node_bytes(p->cache));
  qn_free(allocator, p->tokens, bytes);
  qn_free(allocator, p, sizeof *p);
}

int64_t qn_kv_prefix_look(const qn_kv_prefix *p, const int32_t *tokens, int64_t count, qn_kv_prefix_visitor visit,
                          void *context) {
  int64_t most = count - 1, done = 0, same = p->page_keys;
  int32_t last = QN_KV_NONE;
  if (most > qn_kv_cache_context(p->cache)) most = qn_kv_cache_context(p->cache);
  for (int64_t i = 0; done < most && same == p->page_keys; i++, done += same) {
    int64_t left = most - done;
    last = qn_kv_prefix_find(p, last, tokens + done, left < p->page_keys ? left : p->page_keys, &same);
    if (last == QN_KV_NONE) break;
    if (visit) visit(context, i, last, same);
  }
  return done;
}

typedef struct attaching {
  qn_kv_cache *cache;
  int32_t sequence, last;
} attaching;

static void attach_page(void *context, int64_t index, int32_t page, int64_t keys) {
  attaching *a = context;
  (void)index;
  qn_kv_cache_append(a->cache, a->sequence, page, keys);
  a->last = page;
}

int64_t qn_kv_prefix_attach(qn_kv_prefix *p, int32_t sequence, const int32_t *tokens, int64_t count) {
  assert(qn_kv_cache_length(p->cache, sequence) == 0);
  attaching a = {p->cache, sequence, QN_KV_NONE};
  qn_kv_cache_truncate(p->cache, sequence, 0);  // pages that were reserved
  int64_t done = qn_kv_prefix_look(p, tokens, count, attach_page, &a);
  use(p, a.last);
  qn_kv_cache_slide(p->cache, sequence);
  p->stats.lookups++;
  p->stats.asked_tokens += count;
  p->stats.found_tokens += done;
  return done;
}

// Of a sequence's index-th page, whose tokens these are; gives the page that is kept for them.
static int32_t keep_page(qn_kv_prefix *p, int32_t parent, int32_t sequence, int64_t index, const int32_t *tokens,
                         int64_t count) {
  int64_t same;
  int32_t page = qn_kv_cache_page(p->cache, sequence, index);
  int32_t found = qn_kv_prefix_find(p, parent, tokens, count, &same);
  if (found != QN_KV_NONE && same == count) {
    if (found != page && count == p->page_keys) qn_kv_cache_exchange(p->cache, sequence, index, found);
    return found;
  }
  if (found != QN_KV_NONE && same == p->nodes[found].count) unlink_leaf(p, found);  // this one has more
  assert(p->nodes[page].count == 0);
  qn_kv_cache_keep(p->cache, page);
  qn_kv_prefix_link(p, parent, page, tokens, count, true);
  return page;
}

void qn_kv_prefix_keep(qn_kv_prefix *p, int32_t sequence, const int32_t *tokens, int64_t count, bool part) {
  int32_t last = QN_KV_NONE;
  int64_t first = qn_kv_cache_first(p->cache, sequence), keys = p->page_keys;
  assert(count <= qn_kv_cache_length(p->cache, sequence));
  for (int64_t i = 0, left = count; left >= (part ? 1 : keys); i++, left -= keys) {
    int64_t now = left < keys ? left : keys, same = 0;
    if (i >= first) {
      last = keep_page(p, last, sequence, i, tokens + i * keys, now);
      continue;
    }
    int32_t found = qn_kv_prefix_find(p, last, tokens + i * keys, now, &same);  // the sequence gave this one back
    if (same < keys) break;
    last = found;
  }
  use(p, last);
}

void qn_kv_prefix_forget(qn_kv_prefix *p, int32_t sequence) {
  int64_t end = (qn_kv_cache_length(p->cache, sequence) + p->page_keys - 1) / p->page_keys;
  for (int64_t i = qn_kv_cache_first(p->cache, sequence); i < end; i++) {
    int32_t page = qn_kv_cache_page(p->cache, sequence, i);
    if (p->nodes[page].count > 0) drop(p, page);
  }
}

void qn_kv_prefix_clear(qn_kv_prefix *p) { give_up(p, INT64_MAX); }

void qn_kv_prefix_get_stats(const qn_kv_prefix *p, qn_kv_prefix_stats *out) { *out = p->stats; }

// --- is the tree whole?

static qn_status broken(const qn_kv_prefix *p, const char *what, int64_t page, qn_diag *diag) {
  return qn_fail(diag, QN_ERR_INTERNAL, qn_kv_cache_artifact(p->cache)->path,
                 "kept prefixes: page %" PRId64 ": %s; this is a bug", page, what);
}

static qn_status check_node(const qn_kv_prefix *p, int32_t page, qn_diag *diag) {
  const qn_kv_node *n = &p->nodes[page];
  int64_t listed = 0;
  if (n->count == 0) return qn_kv_cache_kept(p->cache, page) ? broken(p, "kept, but by nobody", page, diag) : QN_OK;
  if (!qn_kv_cache_kept(p->cache, page)) return broken(p, "in the tree, but not kept", page, diag);
  for (int32_t c = n->parent == QN_KV_NONE ? p->child : p->nodes[n->parent].child; c != QN_KV_NONE; c = p->nodes[c].next)
    listed += c == page;
  if (listed != 1) return broken(p, "not among the pages after the one before it", page, diag);
  if (n->parent != QN_KV_NONE && p->nodes[n->parent].count != p->page_keys)
    return broken(p, "follows one that is not full", page, diag);
  return QN_OK;
}

qn_status qn_kv_prefix_check(const qn_kv_prefix *p, qn_diag *diag) {
  int64_t pages = 0, tokens = 0;
  for (int64_t i = 0; i < qn_kv_cache_pages(p->cache); i++) {
    QN_TRY(check_node(p, (int32_t)i, diag));
    pages += p->nodes[i].count > 0;
    tokens += p->nodes[i].count;
  }
  if (pages != p->stats.pages || tokens != p->stats.tokens) return broken(p, "the counts are wrong", -1, diag);
  // From the newest on: a page comes before its children, and all pages come.
  int64_t listed = 0;
  for (int32_t page = p->newest; page != QN_KV_NONE; page = p->nodes[page].older, listed++) {
    if (listed == pages) return broken(p, "the order of use does not end", page, diag);
    for (int32_t newer = p->nodes[page].newer; newer != QN_KV_NONE; newer = p->nodes[newer].newer)
      if (p->nodes[newer].parent == page) return broken(p, "older than one that follows it", page, diag);
  }
  if (listed != pages) return broken(p, "the order of use is torn", -1, diag);
  return qn_kv_cache_check(p->cache, diag);
}
