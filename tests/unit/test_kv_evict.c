// Policies of eviction on keys made by hand: what each of them holds a key to be worth.
#include "runtime/kv_evict.h"

#include <math.h>
#include <string.h>

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
  ck_assert_uint_eq(count, 5);
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
  // What is looked at lies neither at the beginning nor in the newest half: as heavy.
  float adaptive[KEYS];
  weigh(find("adaptive", QN_KV_QUERIES), keys, queries, 1, adaptive);
  weigh(find("heavy", QN_KV_QUERIES), keys, queries, 1, out);
  ck_assert(memcmp(adaptive, out, sizeof out) == 0);
  // It does, of the other head: as sinks.
  weigh(find("adaptive", QN_KV_QUERIES), keys, queries + WIDTH, 1, adaptive);
  for (int i = 0; i < KEYS; i++) ck_assert(adaptive[i] == (float)i);
}
END_TEST

QN_CASE(policies, by_name, by_keys, by_attention)
QN_TEST_MAIN(policies)
