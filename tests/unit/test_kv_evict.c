// Policies of eviction on keys made by hand: what each of them holds a key to be worth; and the evictor over memory that
// fails.
#include "runtime/kv_evict.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/artifact_builder.h"
#include "tests/support/test.h"

enum { KEYS = 16, WIDTH = 4 };

static const qn_kv_policy *find(const char *name, unsigned by) {
  const qn_kv_policy *p = qn_kv_policy_find(name);
  ck_assert_ptr_nonnull(p);
  ck_assert(p->by == by && p->recent >= 0 && p->recent <= 8);
  return p;
}

static void weigh(const qn_kv_policy *p, const float *keys, const float *queries, int64_t query_count, float *out) {
  float room[KEYS + WIDTH];
  p->weigh(
      &(qn_kv_head){
          .keys = keys, .queries = queries, .count = KEYS, .width = WIDTH, .query_count = query_count, .room = room},
      out);
}

START_TEST(by_name) {
  size_t count = 0;
  for (const qn_kv_policy *p = qn_kv_policy_at(0); p; p = qn_kv_policy_at(++count)) {
    ck_assert(qn_kv_policy_find(p->name) == p);
  }
  ck_assert_uint_eq(count, 7);
  ck_assert_ptr_null(qn_kv_policy_find("none"));
}
END_TEST

START_TEST(by_keys) {
  float keys[KEYS * WIDTH] = {0}, out[KEYS];
  for (int i = 0; i < KEYS; i++) keys[i * WIDTH + i % WIDTH] = (float)(1 + i % 7);  // of norm 1 to 7
  weigh(find("sinks", 0), keys, NULL, 0, out);
  for (int i = 1; i < KEYS; i++) ck_assert(out[i] > out[i - 1]);
  weigh(find("norm", 0), keys, NULL, 0, out);
  for (int i = 0; i < KEYS; i++) ck_assert(out[i] == -(float)((1 + i % 7) * (1 + i % 7)));
  // All alike but two, of which one has no direction.
  for (int i = 0; i < KEYS * WIDTH; i++) keys[i] = i % WIDTH == 0 ? 3 : 0;
  memcpy(keys + 5 * WIDTH, (float[]){0, 2, 0, 0}, WIDTH * sizeof *keys);
  memset(keys + 9 * WIDTH, 0, WIDTH * sizeof *keys);
  weigh(find("unlike", 0), keys, NULL, 0, out);
  for (int i = 0; i < KEYS; i++) ck_assert(out[i] == (i == 5 ? -1.0f : i == 9 ? 0.0f : -(float)(KEYS - 2)));
}
END_TEST

START_TEST(by_attention) {
  float keys[KEYS * WIDTH] = {0}, out[KEYS], sum = 0;
  const float queries[2 * WIDTH] = {8, 0, 0, 0, 0, 8, 0, 0};  // of two heads that share the keys
  keys[6 * WIDTH] = 1;                                        // what the first looks at
  keys[10 * WIDTH + 1] = 2;                                   // and the second
  weigh(find("heavy", QN_KV_QUERIES), keys, queries, 2, out);
  for (int i = 0; i < KEYS; i++) sum += out[i];
  ck_assert(fabsf(sum - 2) < 1e-5f);
  ck_assert(out[10] > out[6] && out[6] > 0.9f && out[0] == out[15] && out[0] < 0.01f);
  // What is looked at lies neither at the beginning nor in the newest half: as hitters. It does, of the other head: as
  // sinks.
  float sums[KEYS], room[KEYS + WIDTH];
  for (int i = 0; i < KEYS; i++) sums[i] = (float)(KEYS - i);
  qn_kv_head head = {keys, queries, sums, KEYS, WIDTH, 1, room};
  find("adaptive", QN_KV_QUERIES | QN_KV_SUMS)->weigh(&head, out);
  ck_assert(memcmp(out, sums, sizeof out) == 0);
  head.queries += WIDTH;
  find("adaptive", QN_KV_QUERIES | QN_KV_SUMS)->weigh(&head, out);
  for (int i = 0; i < KEYS; i++) ck_assert(out[i] == (float)i);
}
END_TEST

START_TEST(by_sums) {
  float sums[KEYS], out[KEYS], room[KEYS];
  for (int i = 0; i < KEYS; i++) sums[i] = (float)(i * 7 % KEYS);
  const qn_kv_policy *policies[] = {find("hitters", QN_KV_SUMS), find("keyformer", QN_KV_SOFTSUMS)};
  for (size_t i = 0; i < QN_COUNT(policies); i++) {
    policies[i]->weigh(&(qn_kv_head){.sums = sums, .count = KEYS, .width = WIDTH, .room = room}, out);
    ck_assert(memcmp(out, sums, sizeof sums) == 0);
  }
}
END_TEST

// --- the evictor over memory that fails

typedef struct bad_memory {
  int reads, writes;  // that succeed
} bad_memory;

static qn_status take(void *context, size_t bytes, const char *where, const char *what, const char *advice, void **out,
                      qn_diag *diag) {
  (void)context, (void)where, (void)what, (void)advice, (void)diag;
  *out = bytes < 1 << 20 ? calloc(1, bytes) : calloc(1, 1);  // more is never touched
  return QN_OK;
}
static void give_back(void *context, void *memory, size_t bytes) {
  (void)context, (void)bytes;
  free(memory);
}
static qn_status move(int *left, void *to, const void *from, size_t bytes, qn_diag *diag) {
  if ((*left)-- == 0) return qn_fail(diag, QN_ERR_INTERNAL, "memory", "a fault");
  memcpy(to, from, bytes);
  return QN_OK;
}
static qn_status write_to(void *context, void *to, const void *from, size_t bytes, qn_diag *diag) {
  return move(&((bad_memory *)context)->writes, to, from, bytes, diag);
}
static qn_status read_from(void *context, void *to, const void *from, size_t bytes, qn_diag *diag) {
  return move(&((bad_memory *)context)->reads, to, from, bytes, diag);
}

enum { PAGE = 16 };

typedef struct kind_of_cache {
  const char *kind;
  int64_t heads, width;
  uint32_t layer, window;
  bool of_source;
} kind_of_cache;

#define CACHE(name, of_heads, of_width) .kind = name, .heads = of_heads, .width = of_width

static void add_cache(qn_test_artifact *a, const kind_of_cache *c) {
  uint32_t at = qn_test_artifact_cache(a, c->kind, c->layer, (uint64_t)(c->heads * c->width * PAGE) * sizeof(float));
  qn_art_buffer *b = &a->buffers.items[at];
  bool as_k = qn_kv_lies_as_k(c->kind);
  b->rank = 4;
  b->symbols[0] = QN_TEST_SYM_G;
  b->window = c->window;
  b->of_source = c->of_source;
  memcpy(b->dims, (int64_t[]){1, c->heads, as_k ? c->width : PAGE, as_k ? PAGE : c->width}, sizeof b->dims);
}

static qn_artifact open_caches(const kind_of_cache caches[3]) {
  qn_test_artifact a;
  qn_artifact artifact;
  qn_diag diag = {0};
  qn_buf file;
  qn_test_artifact_init(&a);
  a.head.page_keys = PAGE;
  for (int i = 0; i < 3; i++) add_cache(&a, &caches[i]);
  qn_test_artifact_build(&a, &file);
  qn_assert_ok(&diag, qn_artifact_open_mapping(&artifact, qn_test_artifact_map(file.data, file.length), "t.qn", &diag));
  qn_buf_deinit(&file);
  qn_test_artifact_deinit(&a);
  return artifact;
}

// The first fault is the error, wherever it is; nothing is evicted then. Without one all three caches have moved.
START_TEST(memory_that_faults) {
  enum { COUNT = 2 * PAGE, KEEP = 24, MOVES = 2 * 4 };  // pages of sum, K, V and sum again
  qn_artifact artifact = open_caches((kind_of_cache[]){{CACHE("k", 1, WIDTH)}, {CACHE("v", 1, WIDTH)}, {CACHE("sum", 1, 1)}});
  for (int fault = 0; fault <= MOVES; fault++) {
    bad_memory bad = {.reads = fault, .writes = fault < MOVES ? 100 : 6};
    qn_memory memory = *qn_memory_host();
    memory.context = &bad, memory.take = take, memory.give_back = give_back, memory.read = read_from, memory.write = write_to;
    qn_kv_options options = {.sequences = 1, .context = COUNT, .evicts = true, .sums = true, .memory = &memory};
    qn_kv_cache *cache = NULL;
    qn_kv_evictor *evictor = NULL;
    int32_t sequence;
    qn_diag diag = {0};
    qn_assert_ok(&diag, qn_kv_cache_create(&artifact, &options, qn_test_allocator(), &cache, &diag));
    qn_assert_ok(&diag, qn_kv_cache_add(cache, &sequence, &diag));
    qn_assert_ok(&diag, qn_kv_evictor_create(cache, find("hitters", QN_KV_SUMS), &evictor, &diag));
    qn_assert_ok(&diag, qn_kv_cache_reserve(cache, sequence, COUNT, &diag));
    qn_kv_cache_advance(cache, sequence, COUNT);
    qn_status status = qn_kv_evictor_run(evictor, sequence, KEEP, NULL, NULL, &diag);
    if (fault < MOVES) qn_assert_fails(&diag, QN_ERR_INTERNAL, "memory: a fault", status);
    if (fault == MOVES) qn_assert_ok(&diag, status);
    ck_assert_int_eq(qn_kv_cache_length(cache, sequence), fault < MOVES ? COUNT : KEEP);
    ck_assert_int_eq(qn_kv_cache_evicted(cache, sequence), fault < MOVES ? 0 : COUNT - KEEP);
    qn_kv_evictor_destroy(evictor);
    qn_kv_cache_destroy(cache);
  }
  qn_artifact_close(&artifact);
}
END_TEST

// Heads choose what all caches of their layer give up: where these do not belong together nothing is evicted.
START_TEST(caches_that_differ) {
  static const struct {
    int at;
    kind_of_cache instead;
    const char *wrong;  // NULL = nothing is
  } cases[] = {{0, {CACHE("k", 2, 8)}, NULL},
               {0, {CACHE("k", 2, 8), .window = 9}, "KV cache 'k' of layer 0: got a layout that keys cannot be evicted from"},
               {0, {CACHE("k", 1, 8)}, "KV cache 'v' of layer 0: got a layout"},
               {0, {CACHE("k", 2, 8), .layer = 1}, "KV cache 'k' of layer 1: got a layout"},
               {1, {CACHE("v", 2, 16)}, NULL},
               {1, {CACHE("v", 4, 8)}, "KV cache 'v' of layer 0: got a layout"},
               {1, {CACHE("v", 2, 8), .layer = 1}, "KV cache 'v' of layer 1: got a layout"},
               {1, {CACHE("v", 2, 8), .window = 9}, "KV cache 'v' of layer 0: got a layout"},
               {1, {CACHE("v", 2, 8), .of_source = true}, "KV cache 'v' of layer 0: got a layout"},
               {2, {CACHE("sum", 2, 2)}, "KV cache 'sum' of layer 0: got a layout"},
               {2, {CACHE("sum", 1, 1)}, "KV cache 'sum' of layer 0: got a layout"},
               {2, {CACHE("softsum", 2, 1)}, "KV cache 'k' of layer 0: got a layout"}};
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    kind_of_cache caches[] = {{CACHE("k", 2, 8)}, {CACHE("v", 2, 8)}, {CACHE("sum", 2, 1)}};
    caches[cases[i].at] = cases[i].instead;
    qn_artifact artifact = open_caches(caches);
    qn_kv_options options = {.sequences = 1, .context = 2 * PAGE, .evicts = true, .sums = true};
    qn_kv_cache *cache = NULL;
    qn_kv_evictor *evictor = NULL;
    qn_diag diag = {0};
    qn_assert_ok(&diag, qn_kv_cache_create(&artifact, &options, qn_test_allocator(), &cache, &diag));
    qn_status status = qn_kv_evictor_create(cache, find("hitters", QN_KV_SUMS), &evictor, &diag);
    if (cases[i].wrong) qn_assert_fails(&diag, QN_ERR_UNSUPPORTED, cases[i].wrong, status);
    if (!cases[i].wrong) qn_assert_ok(&diag, status);
    qn_kv_evictor_destroy(evictor);
    qn_kv_cache_destroy(cache);
    qn_artifact_close(&artifact);
  }
}
END_TEST

// Pages of 2^39 bytes, of which a sequence may have 2^25.
START_TEST(sizes_that_overflow) {
  const int64_t heads = 1 << 20, width = 1 << 13;
  qn_artifact artifact = open_caches((kind_of_cache[]){{CACHE("k", heads, width)}, {CACHE("v", heads, width)}, {CACHE("sum", heads, 1)}});
  bad_memory bad = {0, 0};
  qn_memory memory = *qn_memory_host();
  memory.context = &bad, memory.take = take, memory.give_back = give_back;
  qn_kv_options options = {.sequences = 1, .context = PAGE << 25, .pages = 1, .evicts = true, .memory = &memory};
  qn_kv_cache *cache = NULL;
  qn_kv_evictor *evictor = NULL;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_kv_cache_create(&artifact, &options, qn_test_allocator(), &cache, &diag));
  qn_assert_fails(&diag, QN_ERR_LIMIT, "the size of evicting keys overflows",
                  qn_kv_evictor_create(cache, find("sinks", 0), &evictor, &diag));
  ck_assert_ptr_null(evictor);
  qn_kv_cache_destroy(cache);
  qn_artifact_close(&artifact);
}
END_TEST

QN_CASE(policies, by_name, by_keys, by_attention, by_sums)
QN_CASE(evicting, memory_that_faults, caches_that_differ, sizes_that_overflow)
QN_TEST_MAIN(policies, evicting)
