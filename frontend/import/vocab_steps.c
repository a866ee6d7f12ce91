// Lists of a tokenizer's steps.
#include "frontend/import/vocab_steps.h"

#include <string.h>

const char qn_gpt2_pattern[] = "'(?:[stmd]|re|ve|ll)| ?\\p{L}+| ?\\p{N}+| ?[^" QN_CLASS_SPACE
                               "\\p{L}\\p{N}]+|[" QN_CLASS_SPACE "]+(?![^" QN_CLASS_SPACE "])|[" QN_CLASS_SPACE "]+";

void qn_step_list_add(qn_step_list *list, qn_token_step step) {
  if (!qn_vec_push_arena(list->arena, &list->steps, step)) list->no_memory = true;
}

void qn_step_list_split(qn_step_list *list, const char *pattern, qn_split_behavior behavior, unsigned flags) {
  qn_step_list_add(list, (qn_token_step){.op = QN_STEP_SPLIT,
                                         .behavior = (uint8_t)behavior,
                                         .flags = (uint16_t)flags,
                                         .pattern = qn_str_from(pattern)});
}

void qn_step_list_replace(qn_step_list *list, const char *pattern, const char *content, unsigned flags) {
  qn_step_list_add(list, (qn_token_step){.op = QN_STEP_REPLACE,
                                         .flags = (uint16_t)flags,
                                         .pattern = qn_str_from(pattern),
                                         .content = qn_str_from(content)});
}

void qn_step_list_op(qn_step_list *list, qn_token_step_op op) {
  qn_step_list_add(list, (qn_token_step){.op = (uint8_t)op});
}

// The Chinese characters of BERT's own code.
#define CHINESE                                                                                            \
  "[\\x{4e00}-\\x{9fff}\\x{3400}-\\x{4dbf}\\x{20000}-\\x{2a6df}\\x{2a700}-\\x{2b73f}\\x{2b740}-\\x{2b81f}" \
  "\\x{2b920}-\\x{2ceaf}\\x{f900}-\\x{faff}\\x{2f800}-\\x{2fa1f}]"

void qn_step_list_bert_normalizer(qn_step_list *list, const qn_bert_normalizer *options) {
  if (options->clean_text) {
    qn_step_list_replace(list, "[\\x{0}\\x{fffd}]|(?![\\t\\n\\r])[\\p{Cc}\\p{Cf}\\p{Co}]", "", 0);
    qn_step_list_replace(list, "[" QN_CLASS_SPACE "]", " ", 0);
  }
  if (options->chinese_chars) {
    qn_step_list_add(list, (qn_token_step){.op = QN_STEP_SURROUND, .pattern = QN_STR(CHINESE), .content = QN_STR(" ")});
  }
  if (options->strip_accents) {
    qn_step_list_op(list, QN_STEP_NFD);
    qn_step_list_replace(list, "\\p{Mn}", "", 0);
  }
  if (options->lowercase) qn_step_list_op(list, QN_STEP_LOWERCASE);
}

void qn_step_list_bert_words(qn_step_list *list) {
  qn_step_list_split(list, "[" QN_CLASS_SPACE "]", QN_SPLIT_REMOVED, 0);
  qn_step_list_split(list, "[" QN_CLASS_PUNCTUATION "]", QN_SPLIT_ISOLATED, 0);
}

#define QN_SPACE_MARK_PATTERN "\\x{2581}"

void qn_step_list_sentencepiece(qn_step_list *list, const qn_sentencepiece_normalizer *options) {
  if (options->charsmap) qn_step_list_op(list, QN_STEP_CHARSMAP);
  if (options->squeeze) {
    qn_step_list_replace(list, "\\A +", "", QN_STEP_AT_START);
    qn_step_list_replace(list, " {2,}", " ", 0);
  }
  if (options->prefix) {
    uint16_t flags = options->prefix_after_all ? 0 : QN_STEP_AT_START;
    qn_step_list_add(list, (qn_token_step){.op = QN_STEP_PREPEND, .flags = flags, .content = QN_STR(QN_SPACE_MARK)});
  }
  qn_step_list_replace(list, " ", QN_SPACE_MARK, QN_STEP_LITERAL);
  if (options->squeeze) qn_step_list_replace(list, QN_SPACE_MARK_PATTERN "+\\z", "", QN_STEP_AT_END);
}

qn_status qn_step_list_finish(qn_step_list *list, qn_tokenizer_desc *desc, qn_diag *diag) {
  if (list->no_memory) return qn_fail_nomem(diag, "vocabulary", "a tokenizer's steps");
  desc->steps = list->steps.items;
  desc->step_count = list->steps.count;
  desc->normalizer_count = list->normalizer_count;
  unsigned ops = 0;
  for (size_t i = 0; i < list->steps.count; i++) ops |= 1u << list->steps.items[i].op;
  return qn_unicode_tables(ops, list->arena, &desc->unicode, diag);
}
