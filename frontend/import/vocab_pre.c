// The table of GGUF's pre-tokenizers: a line is a name and a list of PCRE2 patterns.
#include "frontend/import/vocab_pre.h"

#include <stdio.h>
#include <string.h>

// clang-format off
#define WS QN_CLASS_SPACE
#define SPACES "|[" WS "]+(?![^" WS "])|[" WS "]+"
#define NEWLINES "|[" WS "]*[\\r\\n]+"
#define CONTRACTION "'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define ASCII_PUNCTUATION "[!-/:-@\\[-`{-~]"

// The patterns below are those of the models' tokenizer.json files (for "default", llama.cpp's), with \s and \S
// written out and (?i:...) as classes.
#define GPT2 "'(?:[stmd]|re|ve|ll)| ?\\p{L}+| ?\\p{N}+| ?[^" WS "\\p{L}\\p{N}]+" SPACES
#define LLAMA3(numbers) \
  CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" numbers "| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n]*" NEWLINES SPACES
#define CASED(suffix, numbers)                                   \
  "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" suffix             \
  "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*" suffix "|" numbers \
  "| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n/]*" NEWLINES SPACES

static const char *const gpt2[QN_PRE_PATTERNS] = {GPT2};
static const char *const digits[QN_PRE_PATTERNS] = {"\\p{N}", GPT2};
static const char *const llama3[QN_PRE_PATTERNS] = {LLAMA3("\\p{N}{1,3}")};
static const char *const qwen2[QN_PRE_PATTERNS] = {LLAMA3("\\p{N}")};
static const char *const qwen35[QN_PRE_PATTERNS] = {
    CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}"
                "| ?[^" WS "\\p{L}\\p{M}\\p{N}]+[\\r\\n]*" NEWLINES SPACES};
static const char *const fallback[QN_PRE_PATTERNS] = {"[\\p{P}$+<=>^~|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"};
static const char *const falcon[QN_PRE_PATTERNS] = {"[\\p{P}$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]"};
static const char *const tekken[QN_PRE_PATTERNS] = {CASED("", "\\p{N}")};
static const char *const gpt4o[QN_PRE_PATTERNS] = {CASED("(?:" CONTRACTION ")?", "\\p{N}{1,3}")};
static const char *const seed_coder[QN_PRE_PATTERNS] = {
    CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^" WS "\\p{L}\\p{N}\\r\\n]+" NEWLINES SPACES};
static const char *const bailing[QN_PRE_PATTERNS] = {
    CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n]*|[" WS "]*[\\r\\n]" SPACES};
static const char *const deepseek3[QN_PRE_PATTERNS] = {
    "\\p{N}{1,3}", "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+",
    ASCII_PUNCTUATION "[A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
                      "| ?[\\p{P}\\p{S}]+[\\r\\n]*" NEWLINES SPACES};

static const qn_pre_tokenizer table[] = {
    // name            patterns    ignore_merges add_bos nfc
    {"default",        fallback,   false, false, false},
    {"gpt-2",          gpt2,       false, false, false},
    {"mpt",            gpt2,       false, false, false},
    {"olmo",           gpt2,       false, false, true},
    {"phi-2",          gpt2,       false, false, false},
    {"jais",           gpt2,       false, false, false},
    {"exaone4",        gpt2,       false, false, false},
    {"trillion",       gpt2,       false, false, false},
    {"smollm",         digits,     false, false, false},
    {"starcoder",      digits,     false, false, false},
    {"refact",         digits,     false, false, false},
    {"command-r",      digits,     false, false, false},
    {"codeshell",      digits,     false, false, false},
    {"exaone",         digits,     false, false, false},
    {"minerva-7b",     digits,     false, false, false},
    {"llama-bpe",      llama3,     true,  true, false},
    {"llama3",         llama3,     true,  true, false},
    {"llama-v3",       llama3,     true,  true, false},
    {"falcon3",        llama3,     true,  true, false},
    {"lfm2",           llama3,     true,  true, false},
    {"dbrx",           llama3,     false, false, false},
    {"smaug-bpe",      llama3,     false, false, false},
    {"chatglm-bpe",    llama3,     false, false, false},
    {"glm4",           llama3,     false, false, false},
    {"qwen2",          qwen2,      false, false, true},
    {"deepseek-r1-qwen", qwen2,    false, false, true},
    {"stablelm2",      qwen2,      false, false, false},
    {"megrez",         qwen2,      false, false, false},
    {"hunyuan",        qwen2,      false, false, false},
    {"grok-2",         qwen2,      false, false, false},
    {"qwen35",         qwen35,     false, false, true},
    {"falcon",         falcon,     false, false, false},
    {"tekken",         tekken,     true,  true, false},
    {"gpt-4o",         gpt4o,      false, false, false},
    {"llama4",         gpt4o,      false, false, false},
    {"seed-coder",     seed_coder, false, false, false},
    {"bailingmoe",     bailing,    false, false, false},
    {"deepseek-v3",    deepseek3,  false, false, false},
};
// clang-format on

qn_status qn_pre_tokenizer_find(const char *name, const qn_pre_tokenizer **out, qn_diag *diag) {
  for (size_t i = 0; i < QN_COUNT(table); i++) {
    if (strcmp(name, table[i].name) != 0) continue;
    *out = &table[i];
    return QN_OK;
  }
  char known[768];
  size_t used = 0;
  known[0] = '\0';
  for (size_t i = 0; i < QN_COUNT(table) && used < sizeof known; i++) {
    used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i == 0 ? "" : " ", table[i].name);
  }
  return qn_fail(diag, QN_ERR_UNSUPPORTED, "tokenizer", "pre-tokenizer '%.64s' is not known; known are: %s", name,
                 known);
}

void qn_step_list_pre_tokenizer(qn_step_list *list, const qn_pre_tokenizer *pre) {
  if (pre->nfc) qn_step_list_op(list, QN_STEP_NFC);
  list->normalizer_count = list->steps.count;
  for (size_t i = 0; i < QN_PRE_PATTERNS && pre->patterns[i] != NULL; i++) {
    qn_step_list_split(list, pre->patterns[i], QN_SPLIT_ISOLATED, 0);
  }
  qn_step_list_op(list, QN_STEP_BYTE_LEVEL);
}
