// Patterns of the steps: PCRE2 with Unicode properties, its memory from our allocators, its work bounded, since
// patterns come from model files.
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#include "runtime/tokenizer_impl.h"

typedef struct qn_pattern_memory pattern_memory;

struct qn_patterns {
  const qn_allocator *allocator;  // borrowed
  pattern_memory memory;
  pcre2_general_context *general;  // owned
  pcre2_match_context *limits;     // owned
  pcre2_code **codes;              // owned
  size_t count, capacity;
};

// PCRE2 frees without a size, our allocators want one: it is kept in front of the block.
enum { BLOCK_HEADER = 16, HEAP_LIMIT_KIB = 64 * 1024, NESTING_LIMIT = 64 };

static void *pcre_malloc(size_t size, void *context) {
  pattern_memory *memory = context;
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
  const pattern_memory *memory = context;
  if (pointer == NULL) return;
  char *block = (char *)pointer - BLOCK_HEADER;
  size_t total;
  memcpy(&total, block, sizeof total);
  qn_free(memory->allocator, block, total);
}

qn_status qn_patterns_create(size_t capacity, uint32_t match_limit, const qn_allocator *allocator, qn_patterns **out,
                             qn_diag *diag) {
  *out = NULL;
  qn_patterns *p = qn_alloc_zeroed(allocator, sizeof *p);
  if (p == NULL) return qn_fail_nomem(diag, "tokenizer", "patterns");
  p->allocator = p->memory.allocator = allocator;
  p->capacity = capacity;
  p->codes = qn_alloc_zeroed(allocator, (capacity ? capacity : 1) * sizeof *p->codes);
  p->general = pcre2_general_context_create(pcre_malloc, pcre_free, &p->memory);
  if (p->general != NULL) p->limits = pcre2_match_context_create(p->general);
  if (p->limits == NULL || p->codes == NULL) {
    qn_patterns_destroy(p);
    return qn_fail_nomem(diag, "tokenizer", "patterns");
  }
  // Patterns of real models backtrack over a run of characters at most once and hold no frames for it.
  pcre2_set_match_limit(p->limits, match_limit == 0 ? QN_PATTERN_LIMIT : match_limit);
  pcre2_set_heap_limit(p->limits, HEAP_LIMIT_KIB);
  *out = p;
  return QN_OK;
}

void qn_patterns_destroy(qn_patterns *p) {
  if (p == NULL) return;
  for (size_t i = 0; i < p->count; i++) pcre2_code_free(p->codes[i]);
  if (p->codes != NULL) qn_free(p->allocator, p->codes, (p->capacity ? p->capacity : 1) * sizeof *p->codes);
  if (p->limits != NULL) pcre2_match_context_free(p->limits);
  if (p->general != NULL) pcre2_general_context_free(p->general);
  qn_free(p->allocator, p, sizeof *p);
}

qn_status qn_patterns_add(qn_patterns *p, qn_str pattern, bool literal, qn_diag *diag) {
  int error = 0;
  PCRE2_SIZE at = 0;
  pcre2_compile_context *context = pcre2_compile_context_create(p->general);
  if (context == NULL) return qn_fail_nomem(diag, "tokenizer", "a pattern");
  pcre2_set_parens_nest_limit(context, NESTING_LIMIT);
  uint32_t options =
      literal ? PCRE2_UTF | PCRE2_LITERAL : PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_MULTILINE;
  pcre2_code *code = pcre2_compile((PCRE2_SPTR)pattern.data, pattern.length, options, &error, &at, context);
  pcre2_compile_context_free(context);
  if (code == NULL) {
    if (p->memory.failed) return qn_fail_nomem(diag, "tokenizer", "a pattern");
    char message[128] = "";
    pcre2_get_error_message(error, (PCRE2_UCHAR *)message, sizeof message);
    return qn_fail(diag, QN_ERR_UNSUPPORTED, "tokenizer", "pattern '%.*s', offset %zu: %s",
                   (int)(pattern.length < 200 ? pattern.length : 200), pattern.data, (size_t)at, message);
  }
  p->codes[p->count++] = code;
  // Where the system forbids generated code, matching falls back to the interpreter.
  (void)pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  return p->memory.failed ? qn_fail_nomem(diag, "tokenizer", "a pattern") : QN_OK;
}

// ---- matching ----------------------------------------------------------------------------------------------------

qn_status qn_matcher_init(qn_matcher *m, const qn_allocator *allocator, qn_diag *diag) {
  m->memory.allocator = allocator;
  pcre2_general_context *general = pcre2_general_context_create(pcre_malloc, pcre_free, &m->memory);
  m->general = general;
  m->data = general == NULL ? NULL : pcre2_match_data_create(1, general);
  return m->data != NULL ? QN_OK : qn_fail_nomem(diag, "tokenizer", "matching a pattern");
}

void qn_matcher_deinit(qn_matcher *m) {
  if (m->data != NULL) pcre2_match_data_free(m->data);
  if (m->general != NULL) pcre2_general_context_free(m->general);
  *m = (qn_matcher){0};
}

static qn_status fail_match(int error, size_t at, qn_diag *diag) {
  if (error == PCRE2_ERROR_NOMEMORY) return qn_fail_nomem(diag, "tokenizer", "matching a pattern");
  char message[128] = "";
  pcre2_get_error_message(error, (PCRE2_UCHAR *)message, sizeof message);
  return qn_fail(diag, QN_ERR_LIMIT, "tokenizer", "a pattern's engine gave up at byte %zu of the text: %s", at,
                 message);
}

qn_status qn_pattern_find(const qn_patterns *p, size_t index, qn_matcher *m, qn_str text, size_t at, size_t offset,
                          size_t *out_begin, size_t *out_end, qn_diag *diag) {
  const pcre2_code *code = p->codes[index];
  pcre2_match_data *data = m->data;
  PCRE2_SPTR subject = (PCRE2_SPTR)text.data;
  int found = pcre2_match(code, subject, text.length, at, PCRE2_NO_UTF_CHECK, data, p->limits);
  if (found == PCRE2_ERROR_JIT_STACKLIMIT) {
    found = pcre2_match(code, subject, text.length, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data, p->limits);
  }
  if (found < 0 && found != PCRE2_ERROR_NOMATCH) return fail_match(found, offset + at, diag);
  const PCRE2_SIZE *span = pcre2_get_ovector_pointer(data);
  *out_begin = found < 0 ? text.length + 1 : span[0];
  *out_end = found < 0 ? text.length + 1 : span[1];
  // \K in a lookahead can put the beginning behind the end, or before `at`.
  if (found >= 0 && (*out_begin < at || *out_end < *out_begin)) {
    return qn_fail(diag, QN_ERR_UNSUPPORTED, "tokenizer", "a pattern's match begins outside of what it matches (\\K)");
  }
  return QN_OK;
}
