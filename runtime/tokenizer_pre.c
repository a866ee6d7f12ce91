// The pre-tokenizer: cuts text into words with the regular expressions a model was trained with. A table line is a name
// from GGUF's tokenizer.ggml.pre and a list of PCRE2 patterns. Each pattern in turn cuts the words left by the one
// before: its matches become words, and so does what lies between them.
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <string.h>

#include "runtime/tokenizer_impl.h"

// clang-format off
// Unicode's White_Space, for use inside a character class. Not \s: PCRE2's also has U+180E.
#define WS "\\t-\\r\\x{85}\\p{Z}"
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

enum { MAX_PATTERNS = 4 };

static const char *const gpt2[MAX_PATTERNS] = {GPT2};
static const char *const digits[MAX_PATTERNS] = {"\\p{N}", GPT2};
static const char *const llama3[MAX_PATTERNS] = {LLAMA3("\\p{N}{1,3}")};
static const char *const qwen2[MAX_PATTERNS] = {LLAMA3("\\p{N}")};
static const char *const qwen35[MAX_PATTERNS] = {
    CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}"
                "| ?[^" WS "\\p{L}\\p{M}\\p{N}]+[\\r\\n]*" NEWLINES SPACES};
static const char *const fallback[MAX_PATTERNS] = {"[\\p{P}$+<=>^~|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"};
static const char *const falcon[MAX_PATTERNS] = {"[\\p{P}$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]"};
static const char *const tekken[MAX_PATTERNS] = {CASED("", "\\p{N}")};
static const char *const gpt4o[MAX_PATTERNS] = {CASED("(?:" CONTRACTION ")?", "\\p{N}{1,3}")};
static const char *const seed_coder[MAX_PATTERNS] = {
    CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^" WS "\\p{L}\\p{N}\\r\\n]+" NEWLINES SPACES};
static const char *const bailing[MAX_PATTERNS] = {
    CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n]*|[" WS "]*[\\r\\n]" SPACES};
static const char *const deepseek3[MAX_PATTERNS] = {
    "\\p{N}{1,3}", "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+",
    ASCII_PUNCTUATION "[A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
                      "| ?[\\p{P}\\p{S}]+[\\r\\n]*" NEWLINES SPACES};

typedef struct pre_line {
  const char *name;
  const char *const *patterns;  // (MAX_PATTERNS), NULL after the last
  bool ignore_merges, add_bos;  // what the name implies
} pre_line;

static const pre_line table[] = {
    // name            patterns    ignore_merges add_bos
    {"default",        fallback,   false, false},
    {"gpt-2",          gpt2,       false, false},
    {"mpt",            gpt2,       false, false},
    {"olmo",           gpt2,       false, false},
    {"phi-2",          gpt2,       false, false},
    {"jais",           gpt2,       false, false},
    {"exaone4",        gpt2,       false, false},
    {"trillion",       gpt2,       false, false},
    {"smollm",         digits,     false, false},
    {"starcoder",      digits,     false, false},
    {"refact",         digits,     false, false},
    {"command-r",      digits,     false, false},
    {"codeshell",      digits,     false, false},
    {"exaone",         digits,     false, false},
    {"minerva-7b",     digits,     false, false},
    {"llama-bpe",      llama3,     true,  true},
    {"llama3",         llama3,     true,  true},
    {"llama-v3",       llama3,     true,  true},
    {"falcon3",        llama3,     true,  true},
    {"lfm2",           llama3,     true,  true},
    {"dbrx",           llama3,     false, false},
    {"smaug-bpe",      llama3,     false, false},
    {"chatglm-bpe",    llama3,     false, false},
    {"glm4",           llama3,     false, false},
    {"qwen2",          qwen2,      false, false},
    {"deepseek-r1-qwen", qwen2,    false, false},
    {"stablelm2",      qwen2,      false, false},
    {"megrez",         qwen2,      false, false},
    {"hunyuan",        qwen2,      false, false},
    {"grok-2",         qwen2,      false, false},
    {"qwen35",         qwen35,     false, false},
    {"falcon",         falcon,     false, false},
    {"tekken",         tekken,     true,  true},
    {"gpt-4o",         gpt4o,      false, false},
    {"llama4",         gpt4o,      false, false},
    {"seed-coder",     seed_coder, false, false},
    {"bailingmoe",     bailing,    false, false},
    {"deepseek-v3",    deepseek3,  false, false},
};
// clang-format on

static const pre_line *find_line(const char *name) {
  for (size_t i = 0; i < QN_COUNT(table); i++) {
    if (strcmp(name, table[i].name) == 0) return &table[i];
  }
  return NULL;
}

qn_status qn_pre_tokenizer_check(const char *name, bool *out_ignore_merges, bool *out_add_bos, qn_diag *diag) {
  const pre_line *line = find_line(name);
  if (line != NULL) {
    *out_ignore_merges = line->ignore_merges;
    *out_add_bos = line->add_bos;
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

// ---- PCRE2 -------------------------------------------------------------------------------------------------------

// What PCRE2's allocation callbacks are handed.
typedef struct pcre_memory {
  const qn_allocator *allocator;  // borrowed
  bool failed;
} pcre_memory;

struct qn_pre_tokenizer {
  const qn_allocator *allocator;  // borrowed
  pcre_memory memory;
  pcre2_general_context *general;   // owned
  pcre2_match_context *limits;      // owned
  pcre2_code *codes[MAX_PATTERNS];  // owned
  size_t count;
};

// PCRE2 frees without a size, our allocators want one: it is kept in front of the block.
enum { BLOCK_HEADER = 16 };

static void *pcre_malloc(size_t size, void *context) {
  pcre_memory *memory = context;
  size_t total;
  char *block = qn_size_add(size, BLOCK_HEADER, &total) ? qn_alloc(memory->allocator, total) : NULL;
  if (block == NULL) {
    memory->failed = true;
    return NULL;
  }
  memcpy(block, &total, sizeof total);
  return block + BLOCK_HEADER;
}

static void pcre_free(void *pointer, void *context) {
  const pcre_memory *memory = context;
  if (pointer == NULL) return;
  char *block = (char *)pointer - BLOCK_HEADER;
  size_t total;
  memcpy(&total, block, sizeof total);
  qn_free(memory->allocator, block, total);
}

static qn_status compile(qn_pre_tokenizer *pre, const char *pattern, qn_diag *diag) {
  int error = 0;
  PCRE2_SIZE at = 0;
  pcre2_compile_context *context = pcre2_compile_context_create(pre->general);
  if (context == NULL) return qn_fail_nomem(diag, "tokenizer", "a pre-tokenizer pattern");
  pcre2_code *code =
      pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &error, &at, context);
  pcre2_compile_context_free(context);
  if (code == NULL) {
    if (pre->memory.failed) return qn_fail_nomem(diag, "tokenizer", "a pre-tokenizer pattern");
    char message[128] = "";
    pcre2_get_error_message(error, (PCRE2_UCHAR *)message, sizeof message);
    return qn_fail(diag, QN_ERR_INTERNAL, "tokenizer", "pre-tokenizer pattern '%.200s', offset %zu: %s", pattern,
                   (size_t)at, message);
  }
  pre->codes[pre->count++] = code;
  // Where the system forbids generated code, matching falls back to the interpreter.
  (void)pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  return pre->memory.failed ? qn_fail_nomem(diag, "tokenizer", "a pre-tokenizer pattern") : QN_OK;
}

qn_status qn_pre_tokenizer_create_from(const char *const *patterns, size_t count, uint32_t match_limit,
                                       const qn_allocator *allocator, qn_pre_tokenizer **out, qn_diag *diag) {
  *out = NULL;
  qn_pre_tokenizer *pre = qn_alloc_zeroed(allocator, sizeof *pre);
  if (pre == NULL) return qn_fail_nomem(diag, "tokenizer", "the pre-tokenizer");
  pre->allocator = allocator;
  pre->memory.allocator = allocator;
  qn_status status = QN_OK;
  pre->general = pcre2_general_context_create(pcre_malloc, pcre_free, &pre->memory);
  if (pre->general != NULL) pre->limits = pcre2_match_context_create(pre->general);
  if (pre->limits == NULL) status = qn_fail_nomem(diag, "tokenizer", "the pre-tokenizer");
  if (status == QN_OK) {
    // The table's patterns backtrack over a run of characters at most once and hold no frames for it, so the bound on
    // work need only stop what we did not foresee; the one on memory is 64 MiB.
    pcre2_set_match_limit(pre->limits, match_limit == 0 ? UINT32_MAX : match_limit);
    pcre2_set_heap_limit(pre->limits, 64 * 1024);
  }
  for (size_t i = 0; i < count && status == QN_OK; i++) status = compile(pre, patterns[i], diag);
  if (status == QN_OK) {
    *out = pre;
  } else {
    qn_pre_tokenizer_destroy(pre);
  }
  return status;
}

qn_status qn_pre_tokenizer_create(const char *name, const qn_allocator *allocator, qn_pre_tokenizer **out,
                                  qn_diag *diag) {
  *out = NULL;
  bool ignore_merges, add_bos;
  QN_TRY(qn_pre_tokenizer_check(name, &ignore_merges, &add_bos, diag));
  const pre_line *line = find_line(name);
  size_t count = 0;
  while (count < MAX_PATTERNS && line->patterns[count] != NULL) count++;
  return qn_pre_tokenizer_create_from(line->patterns, count, 0, allocator, out, diag);
}

void qn_pre_tokenizer_destroy(qn_pre_tokenizer *pre) {
  if (pre == NULL) return;
  for (size_t i = 0; i < pre->count; i++) pcre2_code_free(pre->codes[i]);
  if (pre->limits != NULL) pcre2_match_context_free(pre->limits);
  if (pre->general != NULL) pcre2_general_context_free(pre->general);
  qn_free(pre->allocator, pre, sizeof *pre);
}

// ---- splitting ---------------------------------------------------------------------------------------------------

static qn_status fail_words(qn_diag *diag) { return qn_fail_nomem(diag, "tokenizer", "the words of a text"); }

// Runs that are UTF-8 and runs that are not.
static qn_status split_by_validity(qn_str text, const qn_allocator *allocator, qn_word_vec *words, qn_diag *diag) {
  words->count = 0;
  bool opaque = false;
  for (size_t at = 0; at < text.length;) {
    size_t length = qn_utf8_sequence(text.data + at, text.length - at, NULL);
    if (at > 0 && opaque != (length == 0)) {
      if (!qn_vec_push(allocator, words, ((qn_word){(uint32_t)at, opaque}))) return fail_words(diag);
    }
    opaque = length == 0;
    at += length == 0 ? 1 : length;
  }
  if (text.length > 0 && !qn_vec_push(allocator, words, ((qn_word){(uint32_t)text.length, opaque}))) {
    return fail_words(diag);
  }
  return QN_OK;
}

static qn_status fail_match(int error, size_t at, qn_diag *diag) {
  if (error == PCRE2_ERROR_NOMEMORY) return qn_fail_nomem(diag, "tokenizer", "matching a pre-tokenizer pattern");
  char message[128] = "";
  pcre2_get_error_message(error, (PCRE2_UCHAR *)message, sizeof message);
  return qn_fail(diag, QN_ERR_LIMIT, "tokenizer", "the pre-tokenizer gave up at byte %zu of the text: %s", at, message);
}

// Cuts the word [begin, end) of the text with one pattern. The pattern sees nothing of the text outside the word.
static qn_status split_word(const qn_pre_tokenizer *pre, const pcre2_code *code, pcre2_match_data *match,
                            const char *text, size_t begin, size_t end, const qn_allocator *allocator, qn_word_vec *out,
                            qn_diag *diag) {
  const PCRE2_SIZE *span = pcre2_get_ovector_pointer(match);
  PCRE2_SPTR subject = (PCRE2_SPTR)text + begin;
  for (size_t at = 0, length = end - begin; at < length;) {
    uint32_t options = PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY;
    int found = pcre2_match(code, subject, length, at, options, match, pre->limits);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) {
      found = pcre2_match(code, subject, length, at, options | PCRE2_NO_JIT, match, pre->limits);
    }
    if (found < 0 && found != PCRE2_ERROR_NOMATCH) return fail_match(found, begin + at, diag);
    size_t match_begin = found < 0 ? length : span[0], match_end = found < 0 ? length : span[1];
    if (match_begin > at && !qn_vec_push(allocator, out, ((qn_word){(uint32_t)(begin + match_begin), false}))) {
      return fail_words(diag);
    }
    if (match_end > match_begin && !qn_vec_push(allocator, out, ((qn_word){(uint32_t)(begin + match_end), false}))) {
      return fail_words(diag);
    }
    at = match_end;
  }
  return QN_OK;
}

qn_status qn_pre_tokenizer_split(const qn_pre_tokenizer *pre, qn_str text, const qn_allocator *allocator,
                                 qn_word_vec *words, qn_diag *diag) {
  QN_TRY(split_by_validity(text, allocator, words, diag));
  qn_word_vec cuts = {0};
  qn_status status = QN_OK;
  pcre_memory memory = {allocator, false};
  pcre2_general_context *general = pcre2_general_context_create(pcre_malloc, pcre_free, &memory);
  pcre2_match_data *match = general == NULL ? NULL : pcre2_match_data_create(1, general);
  if (match == NULL) status = qn_fail_nomem(diag, "tokenizer", "matching a pre-tokenizer pattern");
  for (size_t p = 0; p < pre->count && status == QN_OK; p++) {
    cuts.count = 0;
    size_t begin = 0;
    for (size_t i = 0; i < words->count && status == QN_OK; begin = words->items[i++].end) {
      qn_word word = words->items[i];
      if (!word.opaque) {
        status = split_word(pre, pre->codes[p], match, text.data, begin, word.end, allocator, &cuts, diag);
      } else if (!qn_vec_push(allocator, &cuts, word)) {
        status = fail_words(diag);
      }
    }
    qn_word_vec swap = *words;
    *words = cuts;
    cuts = swap;
  }
  if (match != NULL) pcre2_match_data_free(match);
  if (general != NULL) pcre2_general_context_free(general);
  qn_vec_free(allocator, &cuts);
  return status;
}
