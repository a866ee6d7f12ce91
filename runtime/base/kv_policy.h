// The policies of eviction, once: by what a full sequence chooses the keys that it gives up. runtime/kv_evict.c makes
// its table of them, the command line its options, errors their texts.
#ifndef QN_BASE_KV_POLICY_H
#define QN_BASE_KV_POLICY_H

// What a policy goes by beside the keys, which the program must then give: bits.
enum {
  QN_KV_QUERIES = 1,   // the newest token's queries (outputs `query.<layer>`)
  QN_KV_SUMS = 2,      // the attention that each had from all tokens (caches `sum`)
  QN_KV_SOFTSUMS = 4,  // the same by half the scores (caches `softsum`)
  QN_KV_ANY_SUMS = QN_KV_SUMS | QN_KV_SOFTSUMS,
};

// X(name, goes by, recent, what is kept); recent: of 8 parts of what is kept so many are the newest keys, whatever
// their weight. What a key is worth says weigh_<name> of runtime/kv_evict.c.
#define QN_KV_POLICIES(X)                                                                   \
  X(sinks, 0, 8, "the first and the newest")                                                \
  X(norm, 0, 2, "keys of the smallest norm")                                                \
  X(unlike, 0, 2, "keys that are unlike the others")                                        \
  X(heavy, QN_KV_QUERIES, 4, "what the newest token looks at most")                         \
  X(adaptive, QN_KV_QUERIES | QN_KV_SUMS, 4, "as sinks or hitters, whichever suits a head") \
  X(hitters, QN_KV_SUMS, 4, "what all tokens together looked at most")                      \
  X(keyformer, QN_KV_SOFTSUMS, 2, "the same by half the scores")

#define QN_KV_NAME_CHOICE(name, by, recent, text)  "|" #name
#define QN_KV_NAME_LISTED(name, by, recent, text)  ", " #name
#define QN_KV_NAME_MEANING(name, by, recent, text) "; " #name ": " text

#define QN_KV_POLICY_CHOICES  "none" QN_KV_POLICIES(QN_KV_NAME_CHOICE)  // "none|sinks|..."
#define QN_KV_POLICY_NAMES    "none" QN_KV_POLICIES(QN_KV_NAME_LISTED)  // "none, sinks, ..."
#define QN_KV_POLICY_MEANINGS "none: all" QN_KV_POLICIES(QN_KV_NAME_MEANING)

#endif
