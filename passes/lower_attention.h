// Lowering of attention over the paged cache: shared by the fused kernel and by its parts where they stand alone.
#ifndef QN_PASSES_LOWER_ATTENTION_H
#define QN_PASSES_LOWER_ATTENTION_H

#include "passes/lower.h"

typedef struct qn_attention {
  const qn_node *node;
  qn_id q, k_cache, v_cache, pos, seq;  // q and a cache are 0 where the op has none
  qn_id slopes;                         // f32 (heads); 0 = none
  qn_id bias;                           // f32 (heads, distances); 0 = none
  int64_t distances, origin;            // the place of distance 0 among them
  qn_id at;                             // where tokens are, for distances and windows: pos, or an operand of its own
  const qn_lbuf *table;                 // block table, i32 (B, P)
  int64_t kv_heads, head_dim;
  int64_t group;   // query heads that share a KV head
  int64_t window;  // a token sees so many keys up to its own, that included; 0 = all before it
  int64_t ahead;   // and so many after it at most, of those up to pos; negative = all of them
  qn_kv_page k_page, v_page;  // of the caches that there are
  bool integer;               // the numeric mode `codes`
} qn_attention;

// An i32 value of a token (its position, its sequence) as an index.
const qn_lexpr *qn_attention_token_index(qn_lower *lower, qn_id id, const qn_lexpr *row);
// Index of element `at` of (page, kv head) in a pool of pages of [kv_heads, head_dim * 64].
const qn_lexpr *qn_attention_pool_index(qn_lbuild *b, const qn_attention *a, const qn_lexpr *page,
                                        const qn_lexpr *kv_head, const qn_lexpr *at);
// A key's score for a query head: scaled, soft-capped; with slopes or bias, of a key `distance` (i32) after the token, which
// is before it where it is negative; -inf where `seen` (a predicate) is false.
const qn_lexpr *qn_attention_score(qn_lower *lower, const qn_attention *a, const qn_lexpr *dot, const qn_lexpr *head,
                                   const qn_lexpr *distance, const qn_lexpr *seen);
// Where a token is, and the last key that it sees.
const qn_lexpr *qn_attention_place(qn_lower *lower, const qn_attention *a, const qn_lexpr *row);
const qn_lexpr *qn_attention_last_key(qn_lower *lower, const qn_attention *a, const qn_lexpr *row);
// The first page that a token at `place` sees, and the one after that of its last key.
const qn_lexpr *qn_attention_first_page(qn_lbuild *b, const qn_attention *a, const qn_lexpr *place);
const qn_lexpr *qn_attention_last_page(qn_lbuild *b, const qn_lexpr *last);

// What a chunk gave is relative to its own maximum. A maximum as it is subtracted: 0 for -inf, of which nothing may be.
const qn_lexpr *qn_attention_least(qn_lbuild *b, const qn_lexpr *max);
// The maximum of the chunks so far, that of the chunk, and the larger of them: e^(the smaller - the larger).
const qn_lexpr *qn_attention_power(qn_lbuild *b, const qn_lexpr *old, const qn_lexpr *own, const qn_lexpr *now);
// What scales what is relative to `from`, one of these maxima, to the larger, `to`: the power, 1 where they are equal.
const qn_lexpr *qn_attention_factor(qn_lbuild *b, const qn_lexpr *from, const qn_lexpr *to, const qn_lexpr *power);
// what * factor + part * share, rounded twice.
const qn_lexpr *qn_attention_merge(qn_lbuild *b, const qn_lexpr *what, const qn_lexpr *factor, const qn_lexpr *part,
                                   const qn_lexpr *share);
// An element of the result. Sums of codes have no -0: whether a chunk of which a row sees nothing is visited, whose codes
// are anything, may not show in the sign of a sum that is 0, which weights that underflow leave.
const qn_lexpr *qn_attention_result(qn_lbuild *b, const qn_attention *a, const qn_lexpr *value);

// A run of tokens (lower_attention_run.c) and a KV head, and the chunk of keys that is being visited.
typedef struct qn_attention_run {
  const qn_attention *a;
  const qn_lexpr *kv_head, *first;  // KV head and first token
  const qn_lexpr *tokens, *rows;    // how many of them; a row is a query head of a token
  const qn_lexpr *table_row;        // index of the sequence's first block table entry
  const qn_lbuf *position;          // i32 a row: the last key that it sees
  const qn_lbuf *place;             // i32 a row: where its token is; may be `position`
  const qn_lbuf *low, *high;        // i32: the least and the largest position
  const qn_lbuf *low_place, *high_place;  // the same of places; may be those of positions
  const qn_lexpr *chunk, *page;
} qn_attention_run;

// An element of an i32 local as an index.
const qn_lexpr *qn_attention_load_index(qn_lbuild *b, const qn_lbuf *local, const qn_lexpr *at);
// Does a run begin with token run->first? 1 or 0, an index. `most`: tokens of a run.
const qn_lexpr *qn_attention_begins(qn_lower *lower, const qn_attention_run *run, int64_t most);
// Sets run->tokens: those from run->first on that make a run, of one sequence, up to the next multiple of `most`.
void qn_attention_count_tokens(qn_lower *lower, qn_lblock *block, qn_attention_run *run, int64_t most);
// Declares what run->position to run->high_place are, `rows` of the first two.
void qn_attention_declare_positions(qn_lower *lower, qn_lblock *block, qn_attention_run *run, int64_t rows);
// Fills run->low, run->high and those of places.
void qn_attention_find_positions(qn_lower *lower, qn_lblock *block, qn_attention_run *run);
// The place in a token's row of element `index` of a row's query head.
const qn_lexpr *qn_attention_head_element(qn_lbuild *b, const qn_attention_run *run, const qn_lexpr *row,
                                          const qn_lexpr *index);
// Does the row's token see key `base` + `lane` of the chunk? A predicate, in i32, whose vectors are short.
const qn_lexpr *qn_attention_is_seen(qn_lbuild *b, const qn_attention_run *run, const qn_lexpr *row,
                                     const qn_lexpr *base, const qn_lexpr *lane);
// qn_attention_score of that key for the row.
const qn_lexpr *qn_attention_row_score(qn_lower *lower, const qn_attention_run *run, const qn_lexpr *dot,
                                       const qn_lexpr *row, const qn_lexpr *base, const qn_lexpr *lane);
// A key's place in the chunk, kept within 0 .. 64; those of the first key that a token at `place` sees, and one past the
// last, which is key `last` of the sequence.
const qn_lexpr *qn_attention_in_chunk(qn_lbuild *b, const qn_attention_run *run, const qn_lexpr *key);
const qn_lexpr *qn_attention_first_seen(qn_lbuild *b, const qn_attention_run *run, const qn_lexpr *place);
const qn_lexpr *qn_attention_end_seen(qn_lbuild *b, const qn_attention_run *run, const qn_lexpr *last);

// --- caches of codes (lower_attention_codes.c)

// A head of a chunk of keys or values: in a pool, or brought into a tile.
typedef struct qn_attention_codes {
  const qn_kv_page *page;
  const qn_lbuf *buf;
  const qn_lexpr *first_byte;  // where the head begins in the pool; NULL = at 0
} qn_attention_codes;
// The head of a page of the pool that `cache` is.
qn_attention_codes qn_attention_pool_codes(qn_lower *lower, const qn_attention *a, qn_id cache, const qn_lexpr *page,
                                           const qn_lexpr *kv_head);
// Columns are keys of K and elements of V: `lane` of panel `panel` of 16. Four codes along what is summed, `word` being
// which four, as unsigned bytes of an i32.
const qn_lexpr *qn_attention_code_word(qn_lbuild *b, const qn_attention_codes *codes, const qn_lexpr *word,
                                       const qn_lexpr *panel, const qn_lexpr *lane);
// Code number `along` of what is summed, as f32 without its offset.
const qn_lexpr *qn_attention_code_number(qn_lbuild *b, const qn_attention_codes *codes, const qn_lexpr *along,
                                         const qn_lexpr *panel, const qn_lexpr *lane);
// The scale of a key's codes; of V of group `group` of its elements.
const qn_lexpr *qn_attention_code_scale(qn_lbuild *b, const qn_attention_codes *codes, const qn_lexpr *group,
                                        const qn_lexpr *key);
// The group that a panel of V's elements is of.
const qn_lexpr *qn_attention_panel_group(qn_lbuild *b, const qn_kv_page *page, const qn_lexpr *panel);
// A row's weight of a key times the scale of the key's value; 0 where the row does not see it.
const qn_lexpr *qn_attention_value_weight(qn_lower *lower, const qn_attention_run *run,
                                          const qn_attention_codes *values, const qn_lexpr *weight, const qn_lexpr *row,
                                          const qn_lexpr *group, const qn_lexpr *key);
int64_t qn_attention_code_words(const qn_kv_page *page);   // along what is summed
int64_t qn_attention_code_blocks(const qn_kv_page *page);  // of 32 codes, the last of which may be less

// Numbers of rows are made so many at once, so that there is room for multiples of them.
enum { QN_ATTENTION_LANES = 8 };
int64_t qn_attention_lanes(int64_t numbers);

// What rows are multiplied with, in codes: of each row `row_blocks` blocks of 8 words.
typedef struct qn_attention_factors {
  int64_t row_blocks;
  const qn_lbuf *codes;   // i32: four codes a word; `least` to 127
  const qn_lbuf *scales;  // f32 a block
  const qn_lbuf *sums;    // i32 a block: of its codes
  int least;              // -127; 0 of weights
} qn_attention_factors;
// What a block's exact sum starts with; `at` numbers the block of factors.
const qn_lexpr *qn_attention_dot_start(qn_lbuild *b, const qn_attention_codes *codes, const qn_attention_factors *f,
                                       const qn_lexpr *at);
// The sum and the products of a word of codes and one of factors.
const qn_lexpr *qn_attention_dot(qn_lbuild *b, const qn_attention_codes *codes, const qn_lexpr *sum, const qn_lexpr *word,
                                 const qn_lexpr *factors);
// Declares room for so many rows of queries or weights, by how many blocks the page's sums of products have.
qn_attention_factors qn_attention_declare_factors(qn_lbuild *b, qn_lblock *block, int64_t rows, const qn_kv_page *page);
// The sums that begin with block `kb`, of `words` words: of one element and one or several rows.
typedef void (*qn_attention_block)(qn_lower *lower, qn_lblock *block, const qn_attention_codes *codes,
                                   const qn_lexpr *kb, int64_t words, void *context);
// Appends what adds up all blocks in order, and calls `block` for each place where one is written.
void qn_attention_each_block(qn_lower *lower, qn_lblock *block, const qn_attention_codes *codes,
                             qn_attention_block add, void *context);

// Writes the kernel of a fused `attention` node (lower_attention_fused.c); sets lower->tile_rows and run_tokens.
QN_CHECKED qn_status qn_lower_attention_fused(qn_lower *lower, const qn_attention *a);
// Writes its kernels for GPUs (lower_attention_split.c).
QN_CHECKED qn_status qn_lower_attention_split(qn_lower *lower, const qn_attention *a);

#endif
