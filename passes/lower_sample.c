// Lowering of `sample`, in three kernels. By many groups: the largest logit of each 64, as ordered integers; for top-p
// without top-k, how much logits of each distance from the largest weigh together. Then for each row: the thresholds of
// top-k and top-p by bisection, and the draw. runtime/README.md says what is chosen.
//
// Counts and weights are whole numbers, so that sums may be made in any order: here by 256 slots, which a GPU gives to
// as many lanes. Bisection needs every candidate at every step; a lower bound of the k-th largest logit, the k-th
// largest of the maxima of 64, leaves few of them; for top-p the distance does at which the weights suffice. Sums of
// weights (43 bits) are kept as two i32: of the upper bits and of the lower 12 bits.
#include <limits.h>

#include "passes/lower.h"

enum { BLOCK = 64, SLOTS = 256, LOW_BITS = 12, KEY_BITS = 32 };
// Distances of 0 to 15 (or more); ids that a group tallies, so few that a slot's sum is an i32.
enum { DISTANCES = 16, SPAN = 1024 };
enum { INVERSE_TEMPERATURE, TOP_K, TOP_P, LOG_MIN_P, RANDOM, TOP_P_ALL = 1 << 20 };

typedef struct sample_context {
  qn_id id, logits, settings;
  int64_t vocab, blocks;
  int64_t vocab_pitch, block_pitch;  // of their scratch memory's rows
  int64_t spans, tally_pitch;
  const qn_lexpr *row;
  const qn_lbuf *block_keys;        // i32 (R, blocks)
  const qn_lbuf *tallies;           // i32 (R, spans, 2, DISTANCES): lower and upper bits of sums of weights
  const qn_lbuf *keys, *ids;        // i32 (R, vocab): of candidates, by id
  const qn_lbuf *weights;           // i32 (R, vocab): likewise, where there is a top-p
  const qn_lbuf *count;             // i32 (1): candidates
  const qn_lbuf *max, *low, *high;  // i32 (1) each: the largest key; the bisection's ends
  const qn_lbuf *sums[2];           // i32 (SLOTS): of lower and upper bits
  const qn_lexpr *from;             // keys below it do not count
  int words;                        // of a sum: 1 for counts
} sample_context;

// An i32 to add up for the candidate (or block) at `index`.
typedef const qn_lexpr *(*sample_term)(qn_lower *lower, const sample_context *c, const qn_lexpr *index);

static const qn_lexpr *load(qn_lbuild *b, const qn_lbuf *buf, const qn_lexpr *at) {
  return LX_LOAD(buf, QN_LM_I32, at);
}

static const qn_lexpr *only(qn_lbuild *b, const qn_lbuf *local) { return load(b, local, LX_INT(0)); }

static void set(qn_lbuild *b, qn_lblock *block, const qn_lbuf *local, const qn_lexpr *value) {
  qn_lstore(b, block, local, QN_LM_I32, LX_INT(0), value);
}

static const qn_lbuf *variable(qn_lbuild *b, qn_lblock *block, const char *name, const qn_lexpr *value) {
  const qn_lbuf *local = qn_llocal(b, block, name, QN_LM_I32, 1);
  set(b, block, local, value);
  return local;
}

static const qn_lexpr *index_of(qn_lbuild *b, const qn_lexpr *x) { return qn_lop1(b, QN_LX_TO_INDEX, x); }
static const qn_lexpr *i32_of(qn_lbuild *b, const qn_lexpr *x) { return qn_lop1(b, QN_LX_TO_I32, x); }
static const qn_lexpr *choose(qn_lbuild *b, const qn_lexpr *predicate, const qn_lexpr *yes, const qn_lexpr *no) {
  return qn_lop3(b, QN_LX_SELECT, predicate, yes, no);
}
static const qn_lexpr *at_least(qn_lbuild *b, const qn_lexpr *x, const qn_lexpr *y) {
  return qn_lop2(b, QN_LX_LE, y, x);
}

static const qn_lexpr *setting(qn_lower *lower, const sample_context *c, int word) {
  qn_lbuild *b = &lower->build;
  return qn_lower_value(lower, c->settings, (qn_lplace){c->row, LX_INT(word)});
}

static const qn_lexpr *has_top_p(qn_lower *lower, const sample_context *c) {
  qn_lbuild *b = &lower->build;
  return qn_lop2(b, QN_LX_LT, setting(lower, c, TOP_P), qn_li32(b, TOP_P_ALL));
}

// ---- keys -------------------------------------------------------------------------------------------------------

// The bits of a float, the sign taken for the magnitudes' order: integers that are ordered as the floats are.
static const qn_lexpr *flip(qn_lbuild *b, const qn_lexpr *bits) {
  return choose(b, qn_lop2(b, QN_LX_LT, bits, qn_li32(b, 0)), qn_lop2(b, QN_LX_XOR, bits, qn_li32(b, INT_MAX)), bits);
}

// Of the logit with this id. Both zeros are equal; NaN is above all.
static const qn_lexpr *key_of(qn_lower *lower, const sample_context *c, const qn_lexpr *id) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *x = qn_lower_value(lower, c->logits, (qn_lplace){c->row, id});
  const qn_lexpr *bits = qn_lop1(b, QN_LX_AS_I32, LX_ADD(x, LX_F32(0)));
  return choose(b, qn_lop2(b, QN_LX_EQ, x, x), flip(b, bits), qn_li32(b, INT_MAX));
}

static const qn_lexpr *logit_of(qn_lbuild *b, const qn_lexpr *key) { return qn_lop1(b, QN_LX_AS_F32, flip(b, key)); }

// round(2^24 * exp((logit - maximum) * scale)).
static const qn_lexpr *weight_of(qn_lbuild *b, const sample_context *c, const qn_lexpr *key, const qn_lexpr *scale) {
  const qn_lexpr *difference = LX_SUB(logit_of(b, key), logit_of(b, only(b, c->max)));
  const qn_lexpr *power = qn_lop1(b, QN_LX_EXP, scale ? LX_MUL(difference, scale) : difference);
  return i32_of(b, qn_lop1(b, QN_LX_ROUND, LX_MUL(power, LX_F32(0x1p24f))));
}

typedef struct block_context {
  sample_context *c;
  const qn_lbuf *part;
  const qn_lexpr *block;
} block_context;

static void block_step(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const block_context *k = context;
  const qn_lexpr *lane = LX_MOD(index, LX_INT(QN_TILE_ROWS)), *id = LX_ADD(LX_MUL(k->block, LX_INT(BLOCK)), index);
  id = qn_lop2(b, QN_LX_MIN, id, LX_INT(k->c->vocab - 1));  // the last one again
  const qn_lexpr *key = key_of(lower, k->c, id);
  qn_lstore(b, block, k->part, QN_LM_I32, lane, qn_lop2(b, QN_LX_MAX, load(b, k->part, lane), key));
}

static void block_start(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  const block_context *k = context;
  qn_lstore(&lower->build, block, k->part, QN_LM_I32, index, qn_li32(&lower->build, INT_MIN));
}

static void find_block_keys(qn_lower *lower, qn_lblock *rows, sample_context *c) {
  qn_lbuild *b = &lower->build;
  block_context k = {.c = c};
  qn_lblock *block = qn_lower_loop(lower, rows, "h", LX_INT(0), LX_INT(c->blocks), QN_LO_DATA, &k.block);
  k.part = qn_llocal(b, block, "part", QN_LM_I32, QN_TILE_ROWS);
  qn_lower_lanes(lower, block, QN_TILE_ROWS, true, block_start, &k);
  qn_lower_lanes(lower, block, BLOCK, true, block_step, &k);
  qn_lower_tree(lower, block, k.part, QN_LX_MAX);
  qn_lstore(b, block, c->block_keys, QN_LM_I32, LX_ADD(LX_MUL(c->row, LX_INT(c->block_pitch)), k.block),
            only(b, k.part));
}

// ---- sums -------------------------------------------------------------------------------------------------------

// Folds sums[0 .. SLOTS) into sums[0].
static void fold_slots(qn_lower *lower, qn_lblock *block, const qn_lbuf *sums, qn_lop op) {
  qn_lbuild *b = &lower->build;
  for (int64_t half = SLOTS / 2; half >= 1; half /= 2) {
    const qn_lexpr *slot = NULL;
    qn_lblock *body = qn_lower_loop(lower, block, "slot", LX_INT(0), LX_INT(half), QN_LO_DATA, &slot);
    const qn_lexpr *x = load(b, sums, slot), *y = load(b, sums, LX_ADD(slot, LX_INT(half)));
    qn_lstore(b, body, sums, QN_LM_I32, slot, qn_lop2(b, op, x, y));
  }
}

// Adds the term to acc[0], or its lower bits to acc[0] and its upper bits to acc[1].
static void add_term(qn_lbuild *b, qn_lblock *block, const sample_context *c, const qn_lbuf *const *acc,
                     const qn_lexpr *term) {
  if (c->words == 1) {
    set(b, block, acc[0], LX_ADD(only(b, acc[0]), term));
    return;
  }
  const qn_lbuf *value = variable(b, block, "term", term);
  const qn_lexpr *low = qn_lop2(b, QN_LX_AND, only(b, value), qn_li32(b, (1 << LOW_BITS) - 1));
  const qn_lexpr *high = qn_lop2(b, QN_LX_SHR, only(b, value), qn_li32(b, LOW_BITS));
  set(b, block, acc[0], LX_ADD(only(b, acc[0]), low));
  set(b, block, acc[1], LX_ADD(only(b, acc[1]), high));
}

static void start_sums(qn_lbuild *b, qn_lblock *block, const sample_context *c, const qn_lbuf **acc) {
  for (int word = 0; word < c->words; word++) acc[word] = variable(b, block, "acc", qn_li32(b, 0));
}

// Sums of the term over `count` places, each of them in slot (place mod SLOTS); the whole in sums[...][0].
static void add_up(qn_lower *lower, qn_lblock *block, const sample_context *c, const qn_lexpr *count,
                   sample_term term) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *slot = NULL, *i = NULL;
  const qn_lbuf *acc[2] = {NULL, NULL};
  qn_lblock *slots = qn_lower_loop(lower, block, "slot", LX_INT(0), LX_INT(SLOTS), QN_LO_DATA, &slot);
  start_sums(b, slots, c, acc);
  const qn_lexpr *trips = LX_ADD(LX_DIV(LX_SUB(LX_SUB(count, LX_INT(1)), slot), LX_INT(SLOTS)), LX_INT(1));
  qn_lblock *body = qn_lower_loop(lower, slots, "place", LX_INT(0), trips, QN_LO_REDUCE, &i);
  add_term(b, body, c, acc, term(lower, c, LX_ADD(LX_MUL(i, LX_INT(SLOTS)), slot)));
  for (int word = 0; word < c->words; word++) qn_lstore(b, slots, c->sums[word], QN_LM_I32, slot, only(b, acc[word]));
  for (int word = 0; word < c->words; word++) fold_slots(lower, block, c->sums[word], QN_LX_ADD);
}

// A sum of slot `at` as an index, which has room for it.
static const qn_lexpr *sum_at(qn_lbuild *b, const sample_context *c, const qn_lexpr *at) {
  const qn_lexpr *low = index_of(b, load(b, c->sums[0], at));
  if (c->words == 1) return low;
  return LX_ADD(LX_MUL(index_of(b, load(b, c->sums[1], at)), LX_INT(1 << LOW_BITS)), low);
}

static const qn_lexpr *candidate_key(qn_lbuild *b, const sample_context *c, const qn_lexpr *at) {
  return load(b, c->keys, LX_ADD(LX_MUL(c->row, LX_INT(c->vocab_pitch)), at));
}

static const qn_lexpr *block_key(qn_lbuild *b, const sample_context *c, const qn_lexpr *at) {
  return load(b, c->block_keys, LX_ADD(LX_MUL(c->row, LX_INT(c->block_pitch)), at));
}

static const qn_lexpr *block_count(qn_lower *lower, const sample_context *c, const qn_lexpr *at) {
  qn_lbuild *b = &lower->build;
  return choose(b, at_least(b, block_key(b, c, at), c->from), qn_li32(b, 1), qn_li32(b, 0));
}

static const qn_lexpr *candidate_count(qn_lower *lower, const sample_context *c, const qn_lexpr *at) {
  qn_lbuild *b = &lower->build;
  return choose(b, at_least(b, candidate_key(b, c, at), c->from), qn_li32(b, 1), qn_li32(b, 0));
}

static const qn_lexpr *candidate_weight(qn_lower *lower, const sample_context *c, const qn_lexpr *at) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *weight = load(b, c->weights, LX_ADD(LX_MUL(c->row, LX_INT(c->vocab_pitch)), at));
  return choose(b, at_least(b, candidate_key(b, c, at), c->from), weight, qn_li32(b, 0));
}

// ---- thresholds -------------------------------------------------------------------------------------------------

static const qn_lexpr *middle_of(qn_lbuild *b, const sample_context *c) {
  const qn_lexpr *both = LX_ADD(index_of(b, only(b, c->low)), index_of(b, only(b, c->high)));
  return i32_of(b, LX_DIV(both, LX_INT(2)));
}

// One of the bisection's ends becomes the key: the lower one where `enough`.
static void halve(qn_lbuild *b, qn_lblock *block, const sample_context *c, const qn_lbuf *key, const qn_lexpr *enough) {
  const qn_lbuf *is = variable(b, block, "enough", choose(b, enough, qn_li32(b, 1), qn_li32(b, 0)));
  const qn_lexpr *is_enough = qn_lop2(b, QN_LX_EQ, only(b, is), qn_li32(b, 1));
  set(b, block, c->low, choose(b, is_enough, only(b, key), only(b, c->low)));
  set(b, block, c->high, choose(b, is_enough, only(b, c->high), only(b, key)));
}

// Raises `low`, where `wanted`, to the largest key for which the terms of keys at least as large add up to
// `need` / `unit`, if there is one.
static void bisect(qn_lower *lower, qn_lblock *block, sample_context *c, const qn_lexpr *wanted, const qn_lexpr *count,
                   sample_term term, const qn_lexpr *need, int64_t unit) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *unused = NULL;
  set(b, block, c->high, LX_ADD(only(b, c->max), qn_li32(b, 1)));
  const qn_lexpr *trips = choose(b, wanted, LX_INT(KEY_BITS), LX_INT(0));
  qn_lblock *body = qn_lower_loop(lower, block, "bit", LX_INT(0), trips, QN_LO_REDUCE, &unused);
  const qn_lbuf *key = variable(b, body, "key", middle_of(b, c));
  c->from = only(b, key);
  add_up(lower, body, c, count, term);
  halve(b, body, c, key, at_least(b, LX_MUL(sum_at(b, c, LX_INT(0)), LX_INT(unit)), need));
}

// Sets whole[0], whole[1] to the sum of the terms of `count` places, its lower and upper bits.
static void weigh_all(qn_lower *lower, qn_lblock *block, sample_context *c, const qn_lexpr *count, sample_term term,
                      const qn_lbuf *const *whole) {
  qn_lbuild *b = &lower->build;
  add_up(lower, block, c, count, term);
  for (int word = 0; word < 2; word++) set(b, block, whole[word], only(b, c->sums[word]));
}

// The sum that is kept as two words.
static const qn_lexpr *two_words(qn_lbuild *b, const qn_lbuf *const *words) {
  return LX_ADD(LX_MUL(index_of(b, only(b, words[1])), LX_INT(1 << LOW_BITS)), index_of(b, only(b, words[0])));
}

// The largest key of the row.
static void find_max(qn_lower *lower, qn_lblock *block, sample_context *c) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *slot = NULL, *i = NULL;
  qn_lblock *slots = qn_lower_loop(lower, block, "slot", LX_INT(0), LX_INT(SLOTS), QN_LO_DATA, &slot);
  const qn_lbuf *acc = variable(b, slots, "acc", qn_li32(b, INT_MIN));
  int64_t trips = (c->blocks + SLOTS - 1) / SLOTS;
  qn_lblock *body = qn_lower_loop(lower, slots, "place", LX_INT(0), LX_INT(trips), QN_LO_REDUCE, &i);
  const qn_lexpr *at = qn_lop2(b, QN_LX_MIN, LX_ADD(LX_MUL(i, LX_INT(SLOTS)), slot), LX_INT(c->blocks - 1));
  set(b, body, acc, qn_lop2(b, QN_LX_MAX, only(b, acc), block_key(b, c, at)));
  qn_lstore(b, slots, c->sums[0], QN_LM_I32, slot, only(b, acc));
  fold_slots(lower, block, c->sums[0], QN_LX_MAX);
  c->max = variable(b, block, "max", only(b, c->sums[0]));
}

// ---- distances --------------------------------------------------------------------------------------------------

// Of a key from the largest, as an i32: the larger, the smaller the key.
static const qn_lexpr *distance_of(qn_lbuild *b, const sample_context *c, const qn_lexpr *key) {
  const qn_lexpr *below = LX_SUB(logit_of(b, only(b, c->max)), logit_of(b, key));
  return i32_of(b, qn_lop1(b, QN_LX_ROUND, qn_lop2(b, QN_LX_MIN, below, LX_F32(DISTANCES - 1))));
}

// Is there a top-p, but no top-k?
static const qn_lexpr *weighs_all(qn_lower *lower, const sample_context *c) {
  qn_lbuild *b = &lower->build;
  return qn_lop2(b, QN_LX_AND, has_top_p(lower, c), qn_lop2(b, QN_LX_LT, setting(lower, c, TOP_K), qn_li32(b, 1)));
}

// The number among the tallies of word `word` of a distance of a span.
static const qn_lexpr *tally_at(qn_lbuild *b, const sample_context *c, const qn_lexpr *span, int word,
                                const qn_lexpr *distance) {
  const qn_lexpr *in_row = LX_ADD(LX_MUL(LX_ADD(LX_MUL(span, LX_INT(2)), LX_INT(word)), LX_INT(DISTANCES)), distance);
  return LX_ADD(LX_MUL(c->row, LX_INT(c->tally_pitch)), in_row);
}

// Not where all logits are -infinity, and not where one is infinite or NaN.
static const qn_lexpr *has_tokens(qn_lbuild *b, const sample_context *c) {
  const qn_lexpr *top = logit_of(b, only(b, c->max));
  return qn_lop2(b, QN_LX_EQ, LX_SUB(top, top), LX_F32(0));
}

// Adds the weights of a slot's ids of the span, by distance, to its column of `heaps`.
static void fill_heaps(qn_lower *lower, qn_lblock *block, const sample_context *c, const qn_lexpr *span,
                       const qn_lbuf *heaps) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *slot = NULL, *distance = NULL, *i = NULL, *pitch = LX_INT(SLOTS + 1);
  qn_lblock *slots = qn_lower_loop(lower, block, "slot", LX_INT(0), LX_INT(SLOTS), QN_LO_DATA, &slot);
  qn_lblock *body = qn_lower_loop(lower, slots, "distance", LX_INT(0), LX_INT(DISTANCES), QN_LO_REDUCE, &distance);
  qn_lstore(b, body, heaps, QN_LM_I32, LX_ADD(LX_MUL(distance, pitch), slot), qn_li32(b, 0));
  body = qn_lower_loop(lower, slots, "place", LX_INT(0), LX_INT(SPAN / SLOTS), QN_LO_REDUCE, &i);
  const qn_lexpr *id = LX_ADD(LX_ADD(LX_MUL(span, LX_INT(SPAN)), LX_MUL(i, LX_INT(SLOTS))), slot);
  const qn_lexpr *there = qn_lop2(b, QN_LX_LT, id, LX_INT(c->vocab));
  body = qn_lower_when(lower, body, qn_lop2(b, QN_LX_AND, there, has_tokens(b, c)));
  const qn_lbuf *key = variable(b, body, "key", key_of(lower, c, id));
  const qn_lbuf *heap = variable(b, body, "heap", distance_of(b, c, only(b, key)));
  const qn_lexpr *at = LX_ADD(LX_MUL(index_of(b, only(b, heap)), pitch), slot);
  qn_lstore(b, body, heaps, QN_LM_I32, at, LX_ADD(load(b, heaps, at), weight_of(b, c, only(b, key), NULL)));
}

// A group's tallies of a span, zeros where nobody wants them.
static void tally_span(qn_lower *lower, qn_lblock *block, sample_context *c, const qn_lexpr *span) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *distance = NULL, *slot = NULL, *wanted = weighs_all(lower, c);
  const qn_lbuf *acc[2] = {NULL, NULL};
  const qn_lexpr *unwanted = choose(b, wanted, qn_li32(b, 0), qn_li32(b, 1));
  qn_lblock *none = qn_lower_when(lower, block, qn_lop2(b, QN_LX_EQ, unwanted, qn_li32(b, 1)));
  none = qn_lower_loop(lower, none, "distance", LX_INT(0), LX_INT(DISTANCES), QN_LO_DATA, &distance);
  for (int word = 0; word < 2; word++)
    qn_lstore(b, none, c->tallies, QN_LM_I32, tally_at(b, c, span, word, distance), qn_li32(b, 0));
  block = qn_lower_when(lower, block, wanted);
  c->sums[0] = qn_llocal(b, block, "sums", QN_LM_I32, SLOTS);
  find_max(lower, block, c);
  const qn_lbuf *heaps = qn_llocal(b, block, "heaps", QN_LM_I32, DISTANCES * (SLOTS + 1));
  fill_heaps(lower, block, c, span, heaps);
  block = qn_lower_loop(lower, block, "distance", LX_INT(0), LX_INT(DISTANCES), QN_LO_DATA, &distance);
  start_sums(b, block, c, acc);
  qn_lblock *body = qn_lower_loop(lower, block, "place", LX_INT(0), LX_INT(SLOTS), QN_LO_REDUCE, &slot);
  add_term(b, body, c, acc, load(b, heaps, LX_ADD(LX_MUL(distance, LX_INT(SLOTS + 1)), slot)));
  for (int word = 0; word < 2; word++)
    qn_lstore(b, block, c->tallies, QN_LM_I32, tally_at(b, c, span, word, distance), only(b, acc[word]));
}

// Adds up the tallies: of each distance into `heaps` (2, DISTANCES), of all into whole.
static void add_tallies(qn_lower *lower, qn_lblock *block, const sample_context *c, const qn_lbuf *heaps,
                        const qn_lbuf *const *whole) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *distance = NULL, *span = NULL;
  const qn_lbuf *acc[2] = {NULL, NULL};
  qn_lblock *each = qn_lower_loop(lower, block, "distance", LX_INT(0), LX_INT(DISTANCES), QN_LO_DATA, &distance);
  start_sums(b, each, c, acc);
  qn_lblock *body = qn_lower_loop(lower, each, "span", LX_INT(0), LX_INT(c->spans), QN_LO_REDUCE, &span);
  for (int word = 0; word < 2; word++)
    set(b, body, acc[word], LX_ADD(only(b, acc[word]), load(b, c->tallies, tally_at(b, c, span, word, distance))));
  for (int word = 0; word < 2; word++)
    qn_lstore(b, each, heaps, QN_LM_I32, LX_ADD(LX_INT(word * DISTANCES), distance), only(b, acc[word]));
  for (int word = 0; word < 2; word++) set(b, block, whole[word], qn_li32(b, 0));
  body = qn_lower_loop(lower, block, "distance", LX_INT(0), LX_INT(DISTANCES), QN_LO_REDUCE, &distance);
  for (int word = 0; word < 2; word++) {
    const qn_lexpr *heap = load(b, heaps, LX_ADD(LX_INT(word * DISTANCES), distance));
    set(b, body, whole[word], LX_ADD(only(b, whole[word]), heap));
  }
}

// The least distance up to which the weights are enough for top-p, as an i32.
static const qn_lexpr *find_distance(qn_lower *lower, qn_lblock *block, const sample_context *c, const qn_lbuf *heaps,
                                     const qn_lexpr *need) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *distance = NULL, *sum = NULL;
  const qn_lbuf *passed[2] = {NULL, NULL}, *found = variable(b, block, "found", qn_li32(b, DISTANCES - 1));
  start_sums(b, block, c, passed);
  qn_lblock *body = qn_lower_loop(lower, block, "distance", LX_INT(0), LX_INT(DISTANCES), QN_LO_REDUCE, &distance);
  for (int word = 0; word < 2; word++) {
    const qn_lexpr *heap = load(b, heaps, LX_ADD(LX_INT(word * DISTANCES), distance));
    set(b, body, passed[word], LX_ADD(only(b, passed[word]), heap));
  }
  sum = LX_MUL(two_words(b, passed), LX_INT(TOP_P_ALL));
  const qn_lexpr *here = choose(b, at_least(b, sum, need), i32_of(b, distance), qn_li32(b, DISTANCES - 1));
  set(b, body, found, qn_lop2(b, QN_LX_MIN, only(b, found), here));
  return only(b, found);
}

// For top-p without top-k: sets whole to the sum of all weights and raises `low` to the least key of the distance at which
// they suffice, which has the threshold.
static void skip_distant(qn_lower *lower, qn_lblock *block, sample_context *c, const qn_lbuf *const *whole) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *unused = NULL;
  const qn_lbuf *heaps = qn_llocal(b, block, "heaps", QN_LM_I32, 2 * DISTANCES);
  add_tallies(lower, block, c, heaps, whole);
  const qn_lexpr *need = LX_MUL(two_words(b, whole), index_of(b, setting(lower, c, TOP_P)));
  const qn_lexpr *farthest = find_distance(lower, block, c, heaps, need);
  set(b, block, c->high, only(b, c->max));
  qn_lblock *body = qn_lower_loop(lower, block, "bit", LX_INT(0), LX_INT(KEY_BITS), QN_LO_REDUCE, &unused);
  const qn_lbuf *key = variable(b, body, "key", middle_of(b, c));
  halve(b, body, c, key, qn_lop2(b, QN_LX_LT, farthest, distance_of(b, c, only(b, key))));
  set(b, block, c->low, only(b, c->high));
}

// ---- candidates -------------------------------------------------------------------------------------------------

typedef void (*visit_fn)(qn_lower *lower, qn_lblock *block, sample_context *c, const qn_lbuf *at, const qn_lexpr *id,
                         const qn_lexpr *key);

// Visits a slot's ids, those of its share of the blocks, whose keys are at least `low`.
static void visit_slot(qn_lower *lower, qn_lblock *slots, sample_context *c, const qn_lexpr *slot, const qn_lbuf *at,
                       visit_fn visit) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *i = NULL, *id = NULL, *share = LX_INT((c->blocks + SLOTS - 1) / SLOTS);
  const qn_lexpr *first = LX_MUL(slot, share);
  const qn_lexpr *end = qn_lop2(b, QN_LX_MIN, LX_ADD(first, share), LX_INT(c->blocks));
  qn_lblock *blocks = qn_lower_loop(lower, slots, "block", first, end, QN_LO_REDUCE, &i);
  blocks = qn_lower_when(lower, blocks, at_least(b, block_key(b, c, i), only(b, c->low)));
  const qn_lexpr *begin = LX_MUL(i, LX_INT(BLOCK));
  qn_lblock *body =
      qn_lower_loop(lower, blocks, "id", begin, qn_lop2(b, QN_LX_MIN, LX_ADD(begin, LX_INT(BLOCK)), LX_INT(c->vocab)),
                    QN_LO_REDUCE, &id);
  const qn_lbuf *key = variable(b, body, "key", key_of(lower, c, id));
  visit(lower, qn_lower_when(lower, body, at_least(b, only(b, key), only(b, c->low))), c, at, id, only(b, key));
}

static void count_one(qn_lower *lower, qn_lblock *block, sample_context *c, const qn_lbuf *at, const qn_lexpr *id,
                      const qn_lexpr *key) {
  qn_lbuild *b = &lower->build;
  (void)c, (void)id, (void)key;
  set(b, block, at, LX_ADD(only(b, at), qn_li32(b, 1)));
}

static void keep_one(qn_lower *lower, qn_lblock *block, sample_context *c, const qn_lbuf *at, const qn_lexpr *id,
                     const qn_lexpr *key) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *place = LX_ADD(LX_MUL(c->row, LX_INT(c->vocab_pitch)), index_of(b, only(b, at)));
  qn_lstore(b, block, c->keys, QN_LM_I32, place, key);
  qn_lstore(b, block, c->ids, QN_LM_I32, place, i32_of(b, id));
  qn_lblock *weighed = qn_lower_when(lower, block, has_top_p(lower, c));
  qn_lstore(b, weighed, c->weights, QN_LM_I32, place, weight_of(b, c, key, NULL));
  count_one(lower, block, c, at, id, key);
}

// Makes of each slot's number the sum of those up to it (Hillis and Steele 1986).
static void sum_up_slots(qn_lower *lower, qn_lblock *block, const qn_lbuf *sums) {
  qn_lbuild *b = &lower->build;
  const qn_lbuf *from = sums, *to = qn_llocal(b, block, "scan", QN_LM_I32, SLOTS);
  for (int64_t step = 1; step < SLOTS; step *= 2) {  // eight times: it ends where it began
    const qn_lexpr *slot = NULL;
    qn_lblock *slots = qn_lower_loop(lower, block, "slot", LX_INT(0), LX_INT(SLOTS), QN_LO_DATA, &slot);
    const qn_lexpr *before = LX_SUB(slot, LX_INT(step));
    const qn_lexpr *other = load(b, from, qn_lop2(b, QN_LX_MAX, before, LX_INT(0)));
    const qn_lexpr *more = choose(b, at_least(b, before, LX_INT(0)), other, qn_li32(b, 0));
    qn_lstore(b, slots, to, QN_LM_I32, slot, LX_ADD(load(b, from, slot), more));
    const qn_lbuf *swap = from;
    from = to;
    to = swap;
  }
}

// Lists the candidates, keys of at least `low`, by id.
static void list_candidates(qn_lower *lower, qn_lblock *block, sample_context *c) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *slot = NULL;
  qn_lblock *slots = qn_lower_loop(lower, block, "slot", LX_INT(0), LX_INT(SLOTS), QN_LO_DATA, &slot);
  const qn_lbuf *at = variable(b, slots, "at", qn_li32(b, 0));
  visit_slot(lower, slots, c, slot, at, count_one);
  qn_lstore(b, slots, c->sums[0], QN_LM_I32, slot, only(b, at));
  sum_up_slots(lower, block, c->sums[0]);
  c->count = variable(b, block, "count", load(b, c->sums[0], LX_INT(SLOTS - 1)));
  slots = qn_lower_loop(lower, block, "slot", LX_INT(0), LX_INT(SLOTS), QN_LO_DATA, &slot);
  const qn_lexpr *before = load(b, c->sums[0], qn_lop2(b, QN_LX_MAX, LX_SUB(slot, LX_INT(1)), LX_INT(0)));
  at = variable(b, slots, "at", choose(b, qn_lop2(b, QN_LX_EQ, slot, LX_INT(0)), qn_li32(b, 0), before));
  visit_slot(lower, slots, c, slot, at, keep_one);
}

// ---- the draw ---------------------------------------------------------------------------------------------------

// The weight that a candidate is drawn with.
static const qn_lexpr *kept_weight(qn_lower *lower, const sample_context *c, const qn_lexpr *at) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *key = candidate_key(b, c, at), *limit = qn_lop1(b, QN_LX_AS_F32, setting(lower, c, LOG_MIN_P));
  const qn_lexpr *difference = LX_SUB(logit_of(b, key), logit_of(b, only(b, c->max)));
  const qn_lexpr *kept = qn_lop2(b, QN_LX_AND, at_least(b, key, only(b, c->low)), at_least(b, difference, limit));
  const qn_lexpr *scale = qn_lop1(b, QN_LX_AS_F32, setting(lower, c, INVERSE_TEMPERATURE));
  return choose(b, kept, weight_of(b, c, key, scale), qn_li32(b, 0));
}

// floor(random * whole / 2^48), digit by digit from the lowest.
static const qn_lexpr *draw_of(qn_lower *lower, const sample_context *c, const qn_lexpr *whole) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *draw = LX_INT(0);
  for (int digit = 2; digit >= 0; digit--) {
    const qn_lexpr *random = index_of(b, setting(lower, c, RANDOM + digit));
    draw = LX_DIV(LX_ADD(LX_MUL(random, whole), draw), LX_INT(1 << 16));
  }
  return draw;
}

// Slots have equal runs of the candidates; the slot, and in it the candidate, at which the sum of weights passes the
// draw.
static void draw_token(qn_lower *lower, qn_lblock *block, sample_context *c) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *slot = NULL, *at = NULL, *zero = LX_INT(0), *none = qn_li32(b, 0), *one = qn_li32(b, 1);
  const qn_lbuf *acc[2] = {NULL, NULL}, *part[2] = {NULL, NULL};
  const qn_lexpr *count = index_of(b, only(b, c->count));
  const qn_lexpr *run = LX_DIV(LX_ADD(count, LX_INT(SLOTS - 1)), LX_INT(SLOTS));
  qn_lblock *slots = qn_lower_loop(lower, block, "slot", zero, LX_INT(SLOTS), QN_LO_DATA, &slot);
  start_sums(b, slots, c, acc);
  const qn_lexpr *end = qn_lop2(b, QN_LX_MIN, LX_MUL(LX_ADD(slot, LX_INT(1)), run), count);
  qn_lblock *body = qn_lower_loop(lower, slots, "place", LX_MUL(slot, run), end, QN_LO_REDUCE, &at);
  add_term(b, body, c, acc, kept_weight(lower, c, at));
  for (int word = 0; word < c->words; word++) qn_lstore(b, slots, c->sums[word], QN_LM_I32, slot, only(b, acc[word]));
  for (int word = 0; word < c->words; word++) sum_up_slots(lower, block, c->sums[word]);
  // The draw as two words, since memory holds no index.
  const qn_lexpr *whole = draw_of(lower, c, sum_at(b, c, LX_INT(SLOTS - 1)));
  const qn_lbuf *draw[2] = {variable(b, block, "draw", i32_of(b, LX_MOD(whole, LX_INT(1 << LOW_BITS)))),
                            variable(b, block, "draw", i32_of(b, LX_DIV(whole, LX_INT(1 << LOW_BITS))))};
  const qn_lexpr *drawn =
      LX_ADD(LX_MUL(index_of(b, only(b, draw[1])), LX_INT(1 << LOW_BITS)), index_of(b, only(b, draw[0])));
  const qn_lbuf *passed = qn_llocal(b, block, "passed", QN_LM_I32, SLOTS);
  slots = qn_lower_loop(lower, block, "slot", zero, LX_INT(SLOTS), QN_LO_DATA, &slot);
  qn_lstore(b, slots, passed, QN_LM_I32, slot, choose(b, at_least(b, drawn, sum_at(b, c, slot)), one, none));
  fold_slots(lower, block, passed, QN_LX_ADD);
  const qn_lbuf *chosen = variable(b, block, "chosen", only(b, passed));
  const qn_lexpr *first = index_of(b, only(b, chosen));
  const qn_lexpr *before = qn_lop2(b, QN_LX_MAX, LX_SUB(first, LX_INT(1)), zero);
  for (int word = 0; word < c->words; word++) {
    const qn_lexpr *sum = load(b, c->sums[word], before);
    part[word] = variable(b, block, "sum", choose(b, qn_lop2(b, QN_LX_EQ, first, zero), none, sum));
  }
  const qn_lbuf *place = variable(b, block, "place", i32_of(b, LX_MUL(first, run)));
  end = qn_lop2(b, QN_LX_MIN, LX_MUL(LX_ADD(first, LX_INT(1)), run), count);
  body = qn_lower_loop(lower, block, "place", LX_MUL(first, run), end, QN_LO_REDUCE, &at);
  add_term(b, body, c, part, kept_weight(lower, c, at));
  const qn_lexpr *sum =
      LX_ADD(LX_MUL(index_of(b, only(b, part[1])), LX_INT(1 << LOW_BITS)), index_of(b, only(b, part[0])));
  set(b, body, place, LX_ADD(only(b, place), choose(b, at_least(b, drawn, sum), one, none)));
  const qn_lexpr *id = LX_ADD(LX_MUL(c->row, LX_INT(c->vocab_pitch)), index_of(b, only(b, place)));
  qn_lower_store(lower, block, c->id, (qn_lplace){NULL, c->row}, load(b, c->ids, id));
}

// ---- a row ------------------------------------------------------------------------------------------------------

static void choose_token(qn_lower *lower, qn_lblock *rows, sample_context *c) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *least = qn_li32(b, INT_MIN);
  for (int word = 0; word < 2; word++) c->sums[word] = qn_llocal(b, rows, "sums", QN_LM_I32, SLOTS);
  find_max(lower, rows, c);
  qn_lower_store(lower, rows, c->id, (qn_lplace){NULL, c->row}, qn_li32(b, -1));
  qn_lblock *block = qn_lower_when(lower, rows, has_tokens(b, c));
  const qn_lexpr *k = setting(lower, c, TOP_K);
  const qn_lexpr *greedy = qn_lop2(b, QN_LX_EQ, k, qn_li32(b, 1)), *some = qn_lop2(b, QN_LX_LT, qn_li32(b, 1), k);
  const qn_lexpr *p = setting(lower, c, TOP_P), *nucleus = has_top_p(lower, c);
  const qn_lexpr *of_some = qn_lop2(b, QN_LX_AND, nucleus, qn_lop2(b, QN_LX_LT, qn_li32(b, 0), k));
  const qn_lbuf *const whole[2] = {variable(b, block, "whole", least), variable(b, block, "whole", least)};
  c->low = variable(b, block, "low", choose(b, greedy, only(b, c->max), least));
  c->high = variable(b, block, "high", least);
  c->words = 2;
  skip_distant(lower, qn_lower_when(lower, block, weighs_all(lower, c)), c, whole);
  c->words = 1;
  bisect(lower, block, c, some, LX_INT(c->blocks), block_count, index_of(b, k), 1);
  list_candidates(lower, block, c);
  const qn_lexpr *count = index_of(b, only(b, c->count));
  bisect(lower, block, c, some, count, candidate_count, index_of(b, k), 1);
  c->words = 2;
  c->from = only(b, c->low);
  weigh_all(lower, qn_lower_when(lower, block, of_some), c, count, candidate_weight, whole);
  const qn_lexpr *need = LX_MUL(two_words(b, whole), index_of(b, p));
  bisect(lower, block, c, nucleus, count, candidate_weight, need, TOP_P_ALL);
  draw_token(lower, block, c);
}

qn_status qn_lower_sample(qn_lower *lower, qn_id id) {
  const qn_node *node = qn_graph_node(lower->graph, id);
  const qn_type *logits = &qn_graph_node(lower->graph, node->operands[0])->type;
  sample_context c = {.id = id, .logits = node->operands[0], .settings = node->operands[1]};
  qn_lbuild *b = &lower->build;
  c.vocab = logits->dims[1].value;
  c.blocks = (c.vocab + BLOCK - 1) / BLOCK;
  c.block_pitch = qn_lower_pitch(c.blocks);
  c.vocab_pitch = qn_lower_pitch(c.vocab);
  c.spans = (c.vocab + SPAN - 1) / SPAN;
  c.tally_pitch = qn_lower_pitch(c.spans * 2 * DISTANCES);
  uint32_t keys = 0, tallies = 0, scratch[3] = {0, 0, 0};
  QN_TRY(qn_lower_scratch(lower, QN_DTYPE_I32, logits->dims[0], c.block_pitch, &keys));
  QN_TRY(qn_lower_scratch(lower, QN_DTYPE_I32, logits->dims[0], c.tally_pitch, &tallies));
  for (size_t i = 0; i < QN_COUNT(scratch); i++)
    QN_TRY(qn_lower_scratch(lower, QN_DTYPE_I32, logits->dims[0], c.vocab_pitch, &scratch[i]));
  c.block_keys = qn_lower_bind_writable(lower, keys);
  qn_lblock *body =
      qn_lower_loop(lower, &b->kernel->body, "t", LX_INT(0), qn_ldim(b, logits->dims[0]), QN_LO_DATA, &c.row);
  find_block_keys(lower, body, &c);
  QN_TRY(qn_lower_end_piece(lower, "maxima"));
  c.block_keys = qn_lower_bind(lower, keys);
  c.tallies = qn_lower_bind_writable(lower, tallies);
  c.words = 2;
  const qn_lexpr *span = NULL;
  body = qn_lower_loop(lower, &b->kernel->body, "t", LX_INT(0), qn_ldim(b, logits->dims[0]), QN_LO_DATA, &c.row);
  body = qn_lower_loop(lower, body, "h", LX_INT(0), LX_INT(c.spans), QN_LO_DATA, &span);
  tally_span(lower, body, &c, span);
  QN_TRY(qn_lower_end_piece(lower, "tallies"));
  c.block_keys = qn_lower_bind(lower, keys);
  c.tallies = qn_lower_bind(lower, tallies);
  c.keys = qn_lower_bind_writable(lower, scratch[0]);
  c.ids = qn_lower_bind_writable(lower, scratch[1]);
  c.weights = qn_lower_bind_writable(lower, scratch[2]);
  body = qn_lower_loop(lower, &b->kernel->body, "t", LX_INT(0), qn_ldim(b, logits->dims[0]), QN_LO_DATA, &c.row);
  choose_token(lower, body, &c);
  return QN_OK;
}
