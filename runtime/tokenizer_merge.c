// The engine under both kinds of BPE: neighbours are merged in the order a callback gives, from a priority queue.
#include "runtime/tokenizer_impl.h"

void qn_merger_deinit(qn_merger *merger) {
  qn_vec_free(merger->allocator, &merger->nodes);
  qn_vec_free(merger->allocator, &merger->heap);
  qn_vec_free(merger->allocator, &merger->paths);
  qn_vec_free(merger->allocator, &merger->way);
  qn_buf_deinit(&merger->key);
}

bool qn_merger_add(qn_merger *merger, uint32_t start, uint32_t length, uint32_t symbol) {
  uint32_t index = (uint32_t)merger->nodes.count;
  qn_merge_node node = {index == 0 ? QN_TOK_FREE : index - 1, QN_TOK_FREE, start, length, symbol};
  if (!qn_vec_push(merger->allocator, &merger->nodes, node)) return false;
  if (index > 0) merger->nodes.items[index - 1].next = index;
  return true;
}

static bool heap_push(qn_merger *merger, qn_merge_pair pair) {
  if (!qn_vec_push(merger->allocator, &merger->heap, pair)) return false;
  qn_merge_pair *items = merger->heap.items;
  size_t at = merger->heap.count - 1;
  for (; at > 0 && pair.key < items[(at - 1) / 2].key; at = (at - 1) / 2) items[at] = items[(at - 1) / 2];
  items[at] = pair;
  return true;
}

static qn_merge_pair heap_pop(qn_merger *merger) {
  qn_merge_pair *items = merger->heap.items;
  qn_merge_pair top = items[0], last = items[--merger->heap.count];
  size_t count = merger->heap.count, at = 0;
  for (size_t child; (child = 2 * at + 1) < count; at = child) {
    if (child + 1 < count && items[child + 1].key < items[child].key) child++;
    if (last.key <= items[child].key) break;
    items[at] = items[child];
  }
  if (count > 0) items[at] = last;
  return top;
}

// Queues nodes `left` and `right` if they may be merged; false when out of memory.
static bool consider(qn_merger *merger, const char *text, qn_merge_find *find, uint32_t left, uint32_t right) {
  if (left == QN_TOK_FREE || right == QN_TOK_FREE) return true;
  const qn_merge_node *a = &merger->nodes.items[left], *b = &merger->nodes.items[right];
  uint32_t order, symbol;
  if (!find(merger->tokenizer, text, a, b, &order, &symbol)) return true;
  return heap_push(merger, (qn_merge_pair){(uint64_t)order << 32 | left, right, a->length + b->length, symbol});
}

bool qn_merger_run(qn_merger *merger, const char *text, qn_merge_find *find) {
  qn_merge_node *nodes = merger->nodes.items;
  merger->heap.count = 0;
  for (size_t i = 1; i < merger->nodes.count; i++) {
    if (!consider(merger, text, find, (uint32_t)i - 1, (uint32_t)i)) return false;
  }
  while (merger->heap.count > 0) {
    qn_merge_pair pair = heap_pop(merger);
    uint32_t left = (uint32_t)pair.key, right = pair.right;
    // A pair is stale when either side has been merged since. The left one cannot have grown without taking in the
    // right one, so the sum of lengths tells.
    if (nodes[left].length == 0 || nodes[right].length == 0) continue;
    if (nodes[left].length + nodes[right].length != pair.length) continue;
    nodes[left].length = pair.length;
    nodes[left].symbol = pair.symbol;
    nodes[left].next = nodes[right].next;
    nodes[right].length = 0;
    if (nodes[right].next != QN_TOK_FREE) nodes[nodes[right].next].prev = left;
    if (!consider(merger, text, find, nodes[left].prev, left)) return false;
    if (!consider(merger, text, find, left, nodes[left].next)) return false;
  }
  return true;
}
