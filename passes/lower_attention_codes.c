// Attention over caches of codes (runtime/base/kv_page.h): their words and scales as loop IR, from a page's description
// alone, and what kernels for CPUs and those for GPUs do with them alike.
//
// Arithmetic of a score: the exact sum of query times code, or in the numeric mode `codes` of the query's codes times
// the key's, by blocks of 32 along the head as in any product of codes; then times the key's scale. Of a sum of values:
// of weight times the value's scale (0 where the token does not see the key) times code; in that mode these products
// get codes by blocks of 32 keys. Codes are numbers whatever a page held before, so all rows of a run visit all keys of
// a chunk.
#include "passes/lower_attention.h"

// Index, in elements of `size` bytes, of the head's first.
static const qn_lexpr *head_at(qn_lbuild *b, const qn_attention_codes *codes, size_t size) {
  return codes->first_byte ? LX_DIV(codes->first_byte, LX_INT((int64_t)size)) : LX_INT(0);
}

const qn_lexpr *qn_attention_code_word(qn_lbuild *b, const qn_attention_codes *codes, const qn_lexpr *word,
                                       const qn_lexpr *panel, const qn_lexpr *lane) {
  const qn_kv_page *p = codes->page;
  const qn_lexpr *line = word, *shift = NULL, *column = LX_ADD(LX_MUL(panel, LX_INT(QN_TILE_ROWS)), lane);
  if (p->bits == 4) {
    const qn_lexpr *two = LX_INT(2), *lines = LX_INT(p->lines),
                   *half = p->is_k ? LX_DIV(word, lines) : LX_MOD(panel, two);
    if (p->is_k)
      line = LX_MOD(word, lines);
    else
      column = LX_ADD(LX_MUL(LX_DIV(panel, two), LX_INT(QN_TILE_ROWS)), lane);
    shift = LX_MUL(qn_lop1(b, QN_LX_TO_I32, half), qn_li32(b, 4));
  }
  const qn_lexpr *at = LX_ADD(LX_MUL(line, LX_INT(p->line_words)), column);
  const qn_lexpr *value = LX_LOAD(codes->buf, QN_LM_I32, LX_ADD(head_at(b, codes, 4), at));
  if (!shift) return value;
  return qn_lop2(b, QN_LX_AND, qn_lop2(b, QN_LX_SHR, value, shift), qn_li32(b, 0x0F0F0F0F));
}

const qn_lexpr *qn_attention_code_number(qn_lbuild *b, const qn_attention_codes *codes, const qn_lexpr *along,
                                         const qn_lexpr *panel, const qn_lexpr *lane) {
  const qn_lexpr *four = LX_INT(4), *word = qn_attention_code_word(b, codes, LX_DIV(along, four), panel, lane);
  const qn_lexpr *shift = LX_MUL(qn_lop1(b, QN_LX_TO_I32, LX_MOD(along, four)), qn_li32(b, 8));
  const qn_lexpr *code = qn_lop2(b, QN_LX_AND, qn_lop2(b, QN_LX_SHR, word, shift), qn_li32(b, 0xFF));
  const qn_lexpr *offset = qn_li32(b, codes->page->offset), *top = qn_li32(b, 1 << (codes->page->bits - 1));
  if (codes->page->offset == 0) code = qn_lop2(b, QN_LX_XOR, code, offset = top);
  return qn_lop1(b, QN_LX_TO_F32, LX_SUB(code, offset));
}

const qn_lexpr *qn_attention_code_scale(qn_lbuild *b, const qn_attention_codes *codes, const qn_lexpr *group,
                                        const qn_lexpr *key) {
  const qn_lexpr *at = LX_ADD(LX_MUL(group, LX_INT(codes->page->keys)), key);
  const qn_lexpr *from = LX_ADD(head_at(b, codes, 2), LX_INT(codes->page->scales_at / 2));
  return LX_LOAD(codes->buf, QN_LM_BF16, LX_ADD(from, at));
}

const qn_lexpr *qn_attention_value_weight(qn_lower *lower, const qn_attention_run *run,
                                          const qn_attention_codes *values, const qn_lexpr *weight, const qn_lexpr *row,
                                          const qn_lexpr *group, const qn_lexpr *key) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *seen = qn_attention_is_seen(b, run, row, LX_INT(0), key);
  const qn_lexpr *scaled = LX_MUL(weight, qn_attention_code_scale(b, values, group, key));
  return qn_lop3(b, QN_LX_SELECT, seen, scaled, LX_F32(0));
}

const qn_lexpr *qn_attention_dot_start(qn_lbuild *b, const qn_attention_codes *codes, const qn_attention_factors *f,
                                       const qn_lexpr *at) {
  if (codes->page->offset == 0) return qn_li32(b, 0);
  return qn_lop2(b, QN_LX_UNBIAS, LX_LOAD(f->sums, QN_LM_I32, at), qn_li32(b, codes->page->offset));
}

// Weights are 0 to 127, as their local says: the products of two such bytes fit 16 bits, and some targets have
// instructions for these.
const qn_lexpr *qn_attention_dot(qn_lbuild *b, const qn_attention_codes *codes, const qn_lexpr *sum,
                                 const qn_lexpr *word, const qn_lexpr *factors) {
  if (codes->page->offset != 0) return qn_lop3(b, QN_LX_DOT4, sum, word, factors);
  return qn_lop3(b, QN_LX_DOT4, sum, factors, word);
}

int64_t qn_attention_code_words(const qn_kv_page *page) {
  return page->is_k ? page->lines * (page->bits == 4 ? 2 : 1) : page->keys / 4;
}

enum { BLOCK_WORDS = 8 };

int64_t qn_attention_code_blocks(const qn_kv_page *page) {
  return (qn_attention_code_words(page) + BLOCK_WORDS - 1) / BLOCK_WORDS;
}

const qn_lexpr *qn_attention_panel_group(qn_lbuild *b, const qn_kv_page *page, const qn_lexpr *panel) {
  return page->groups == 1 ? LX_INT(0) : LX_DIV(panel, LX_INT(page->group_width / QN_TILE_ROWS));
}

qn_attention_codes qn_attention_pool_codes(qn_lower *lower, const qn_attention *a, qn_id cache, const qn_lexpr *page,
                                           const qn_lexpr *kv_head) {
  qn_lbuild *b = &lower->build;
  const qn_kv_page *p = cache == a->k_cache ? &a->k_page : &a->v_page;
  const qn_lexpr *head = LX_ADD(LX_MUL(page, LX_INT(p->heads)), kv_head);
  return (qn_attention_codes){p, qn_lower_param(lower, cache), LX_MUL(head, LX_INT(p->head_bytes))};
}

int64_t qn_attention_lanes(int64_t numbers) {
  return (numbers + QN_ATTENTION_LANES - 1) / QN_ATTENTION_LANES * QN_ATTENTION_LANES;
}

qn_attention_factors qn_attention_declare_factors(qn_lbuild *b, qn_lblock *block, int64_t rows, const qn_kv_page *page) {
  int64_t row_blocks = qn_attention_code_blocks(page);
  qn_attention_factors f = {.row_blocks = row_blocks, .least = page->is_k ? -QN_QUANTIZE_MOST : 0};
  qn_lbuf *codes = qn_llocal(b, block, "codes", QN_LM_I32, rows * row_blocks * BLOCK_WORDS);
  if (codes && f.least == 0) codes->byte_max = QN_QUANTIZE_MOST;
  f.codes = codes;
  f.scales = qn_llocal(b, block, "scales", QN_LM_F32, qn_attention_lanes(rows * row_blocks));
  f.sums = qn_llocal(b, block, "sums", QN_LM_I32, rows * row_blocks);
  return f;
}

void qn_attention_each_block(qn_lower *lower, qn_lblock *block, const qn_attention_codes *codes, qn_attention_block add,
                             void *context) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *kb = NULL;
  int64_t words = qn_attention_code_words(codes->page), whole = words / BLOCK_WORDS, rest = words % BLOCK_WORDS;
  if (whole > 0) {
    qn_lblock *body = qn_lower_loop(lower, block, "kb", LX_INT(0), LX_INT(whole), QN_LO_REDUCE, &kb);
    add(lower, body, codes, kb, BLOCK_WORDS, context);
  }
  if (rest > 0) add(lower, block, codes, LX_INT(whole), rest, context);
}
