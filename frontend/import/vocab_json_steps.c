// The normalizer and the pre-tokenizer of a tokenizer.json, as steps: a line of a table and a function for each type.
#include <string.h>

#include "frontend/import/vocab_json.h"

static qn_str text_of(const char *text) { return qn_str_from(text); }

// ---- normalizers -------------------------------------------------------------------------------------------------

static vocab_part_fn read_normalizers;

static qn_status read_bert(vocab_json *v, const cJSON *item, const char *path) {
  qn_bert_normalizer options = {true, true, false, true};
  QN_TRY(vocab_json_bool(v, item, path, "clean_text", &options.clean_text));
  QN_TRY(vocab_json_bool(v, item, path, "handle_chinese_chars", &options.chinese_chars));
  QN_TRY(vocab_json_bool(v, item, path, "lowercase", &options.lowercase));
  options.strip_accents = options.lowercase;  // unless it is said
  QN_TRY(vocab_json_bool(v, item, path, "strip_accents", &options.strip_accents));
  qn_step_list_bert_normalizer(&v->steps, &options);
  return QN_OK;
}

static qn_status read_strip(vocab_json *v, const cJSON *item, const char *path) {
  bool left = true, right = true;
  QN_TRY(vocab_json_bool(v, item, path, "strip_left", &left));
  QN_TRY(vocab_json_bool(v, item, path, "strip_right", &right));
  if (left) qn_step_list_replace(&v->steps, "\\A[" QN_CLASS_SPACE "]+", "", 0);
  if (right) qn_step_list_replace(&v->steps, "[" QN_CLASS_SPACE "]+\\z", "", 0);
  return QN_OK;
}

static qn_status read_strip_accents(vocab_json *v, const cJSON *item, const char *path) {
  (void)item, (void)path;
  qn_step_list_replace(&v->steps, "\\p{M}", "", 0);
  return QN_OK;
}

static qn_status read_form(vocab_json *v, const cJSON *item, const char *path) {
  static const struct {
    const char *type;
    qn_token_step_op op;
  } forms[] = {{"NFC", QN_STEP_NFC},
               {"NFD", QN_STEP_NFD},
               {"NFKC", QN_STEP_NFKC},
               {"NFKD", QN_STEP_NFKD},
               {"Lowercase", QN_STEP_LOWERCASE},
               {"ByteLevel", QN_STEP_BYTE_LEVEL}};
  const char *type = qn_json_get(item, "type")->valuestring;
  (void)path;
  for (size_t i = 0; i < QN_COUNT(forms); i++) {
    if (strcmp(forms[i].type, type) == 0) qn_step_list_op(&v->steps, forms[i].op);
  }
  return QN_OK;
}

// SentencePiece's own cleaning, as the tokenizers library has it.
static qn_status read_nmt(vocab_json *v, const cJSON *item, const char *path) {
  (void)item, (void)path;
  qn_step_list_replace(&v->steps, "[\\x{1}-\\x{8}\\x{b}\\x{e}-\\x{1f}\\x{7f}\\x{8f}\\x{9f}]", "", 0);
  qn_step_list_replace(
      &v->steps, "[\\t\\n\\x{c}\\r\\x{1680}\\x{200b}-\\x{200f}\\x{2028}\\x{2029}\\x{2581}\\x{feff}\\x{fffd}]", " ", 0);
  return QN_OK;
}

static qn_status read_replace(vocab_json *v, const cJSON *item, const char *path) {
  qn_token_step step = {.op = QN_STEP_REPLACE};
  bool literal;
  QN_TRY(vocab_json_pattern(v, item, path, &step.pattern, &literal));
  QN_TRY(vocab_json_text(v, item, path, "content", &step.content));
  step.flags = literal ? QN_STEP_LITERAL : 0;
  qn_step_list_add(&v->steps, step);
  return QN_OK;
}

static qn_status read_prepend(vocab_json *v, const cJSON *item, const char *path) {
  qn_token_step step = {.op = QN_STEP_PREPEND};
  QN_TRY(vocab_json_text(v, item, path, "prepend", &step.content));
  qn_step_list_add(&v->steps, step);
  return QN_OK;
}

static int base64_value(char c) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const char *at = c == 0 ? NULL : strchr(digits, c);
  return at == NULL ? -1 : (int)(at - digits);
}

static qn_status read_precompiled(vocab_json *v, const cJSON *item, const char *path) {
  qn_str text = {0};
  QN_TRY(vocab_json_text(v, item, path, "precompiled_charsmap", &text));
  if (v->out->charsmap.length > 0) {
    return qn_json_fail(&v->json, QN_ERR_UNSUPPORTED, path, "got a second precompiled charsmap, want one at most");
  }
  if (text.length == 0) return QN_OK;  // nothing to map
  char *bytes = qn_arena_alloc(v->arena, text.length);
  if (bytes == NULL) return qn_fail_nomem(v->json.diag, v->json.file, "the charsmap");
  while (text.length > 0 && text.data[text.length - 1] == '=') text.length--;
  uint32_t bits = 0;
  size_t count = 0;
  for (size_t i = 0; i < text.length; i++) {
    int value = base64_value(text.data[i]);
    if (value < 0 || (i + 1 == text.length && i % 4 == 0)) {
      return qn_json_fail(&v->json, QN_ERR_FORMAT, qn_json_key_path(&v->json, path, "precompiled_charsmap"),
                          "is not base64, from character %zu on", i);
    }
    bits = bits << 6 | (uint32_t)value;
    if (i % 4 != 0) bytes[count++] = (char)(bits >> (6 - 2 * (i % 4)));
  }
  v->out->charsmap = (qn_str){bytes, count};
  qn_step_list_add(&v->steps, (qn_token_step){.op = QN_STEP_CHARSMAP, .flags = QN_STEP_GRAPHEMES});
  return QN_OK;
}

static const vocab_part normalizers[] = {
    {"Sequence", read_normalizers},
    {"BertNormalizer", read_bert},
    {"Strip", read_strip},
    {"StripAccents", read_strip_accents},
    {"NFC", read_form},
    {"NFD", read_form},
    {"NFKC", read_form},
    {"NFKD", read_form},
    {"Lowercase", read_form},
    {"ByteLevel", read_form},
    {"Nmt", read_nmt},
    {"Replace", read_replace},
    {"Prepend", read_prepend},
    {"Precompiled", read_precompiled},
};

static qn_status read_normalizers(vocab_json *v, const cJSON *item, const char *path) {
  return vocab_json_sequence(v, item, path, "normalizers", normalizers, QN_COUNT(normalizers), "a normalizer");
}

qn_status vocab_json_normalizer(vocab_json *v, const cJSON *item) {
  QN_TRY(vocab_json_part(v, item, "normalizer", normalizers, QN_COUNT(normalizers), "a normalizer"));
  v->steps.normalizer_count = v->steps.steps.count;
  return QN_OK;
}

// ---- pre-tokenizers ----------------------------------------------------------------------------------------------

static vocab_part_fn read_pre_tokenizers;

static qn_status read_behavior(vocab_json *v, const cJSON *item, const char *path, uint8_t *out) {
  static const char *const names[QN_SPLIT_BEHAVIOR_COUNT] = {
      [QN_SPLIT_ISOLATED] = "Isolated",
      [QN_SPLIT_REMOVED] = "Removed",
      [QN_SPLIT_WITH_PREVIOUS] = "MergedWithPrevious",
      [QN_SPLIT_WITH_NEXT] = "MergedWithNext",
      [QN_SPLIT_CONTIGUOUS] = "Contiguous",
  };
  qn_str name = {0};
  QN_TRY(vocab_json_text(v, item, path, "behavior", &name));
  for (uint8_t i = 0; i < QN_COUNT(names); i++) {
    *out = i;
    if (qn_str_is(name, names[i])) return QN_OK;
  }
  return qn_json_fail(&v->json, QN_ERR_UNSUPPORTED, qn_json_key_path(&v->json, path, "behavior"),
                      "got '%.*s', want Isolated, Removed, MergedWithPrevious, MergedWithNext or Contiguous",
                      (int)(name.length < 64 ? name.length : 64), name.data);
}

static qn_status read_split(vocab_json *v, const cJSON *item, const char *path) {
  qn_token_step step = {.op = QN_STEP_SPLIT};
  bool literal, invert = false;
  QN_TRY(vocab_json_pattern(v, item, path, &step.pattern, &literal));
  QN_TRY(read_behavior(v, item, path, &step.behavior));
  QN_TRY(vocab_json_bool(v, item, path, "invert", &invert));
  step.flags = (uint16_t)((literal ? QN_STEP_LITERAL : 0) | (invert ? QN_STEP_INVERT : 0));
  qn_step_list_add(&v->steps, step);
  return QN_OK;
}

static qn_status read_byte_level(vocab_json *v, const cJSON *item, const char *path) {
  bool prefix = true, regex = true;
  QN_TRY(vocab_json_bool(v, item, path, "add_prefix_space", &prefix));
  QN_TRY(vocab_json_bool(v, item, path, "use_regex", &regex));
  if (prefix) {
    qn_step_list_add(&v->steps,
                     (qn_token_step){.op = QN_STEP_PREPEND, .flags = QN_STEP_UNLESS_THERE, .content = text_of(" ")});
  }
  if (regex) qn_step_list_split(&v->steps, qn_gpt2_pattern, QN_SPLIT_ISOLATED, 0);
  qn_step_list_op(&v->steps, QN_STEP_BYTE_LEVEL);
  return QN_OK;
}

// "prepend_scheme", or "add_prefix_space" in older files. *out_flags: those of PREPEND; *out_prefix: is there one?
static qn_status read_scheme(vocab_json *v, const cJSON *item, const char *path, bool *out_prefix,
                             uint16_t *out_flags) {
  qn_str scheme = {0};
  *out_prefix = true;
  *out_flags = QN_STEP_UNLESS_THERE;
  QN_TRY(vocab_json_bool(v, item, path, "add_prefix_space", out_prefix));
  QN_TRY(vocab_json_text(v, item, path, "prepend_scheme", &scheme));
  if (scheme.length == 0) return QN_OK;
  *out_prefix = !qn_str_is(scheme, "never");
  if (qn_str_is(scheme, "first")) *out_flags |= QN_STEP_AT_START;
  if (!*out_prefix || qn_str_is(scheme, "first") || qn_str_is(scheme, "always")) return QN_OK;
  return qn_json_fail(&v->json, QN_ERR_UNSUPPORTED, qn_json_key_path(&v->json, path, "prepend_scheme"),
                      "got '%.*s', want always, first or never", (int)(scheme.length < 64 ? scheme.length : 64),
                      scheme.data);
}

static qn_status read_metaspace(vocab_json *v, const cJSON *item, const char *path) {
  qn_str mark = text_of(QN_SPACE_MARK);
  bool prefix, cuts = true;
  uint16_t flags;
  QN_TRY(vocab_json_text(v, item, path, "replacement", &mark));
  QN_TRY(read_scheme(v, item, path, &prefix, &flags));
  QN_TRY(vocab_json_bool(v, item, path, "split", &cuts));
  if (mark.length == 0) {
    return qn_json_fail(&v->json, QN_ERR_FORMAT, qn_json_key_path(&v->json, path, "replacement"), "got an empty text");
  }
  qn_step_list_add(
      &v->steps,
      (qn_token_step){.op = QN_STEP_REPLACE, .flags = QN_STEP_LITERAL, .pattern = text_of(" "), .content = mark});
  if (prefix) qn_step_list_add(&v->steps, (qn_token_step){.op = QN_STEP_PREPEND, .flags = flags, .content = mark});
  if (cuts) {
    qn_step_list_add(
        &v->steps, (qn_token_step){
                       .op = QN_STEP_SPLIT, .behavior = QN_SPLIT_WITH_NEXT, .flags = QN_STEP_LITERAL, .pattern = mark});
  }
  return QN_OK;
}

static qn_status read_bert_words(vocab_json *v, const cJSON *item, const char *path) {
  (void)item, (void)path;
  qn_step_list_bert_words(&v->steps);
  return QN_OK;
}

static qn_status read_whitespace(vocab_json *v, const cJSON *item, const char *path) {
  (void)item, (void)path;
  qn_step_list_split(&v->steps,
                     "[" QN_CLASS_WORD "\\p{Join_Control}]+|[^" QN_CLASS_WORD "\\p{Join_Control}" QN_CLASS_SPACE "]+",
                     QN_SPLIT_REMOVED, QN_STEP_INVERT);
  return QN_OK;
}

static qn_status read_whitespace_split(vocab_json *v, const cJSON *item, const char *path) {
  (void)item, (void)path;
  qn_step_list_split(&v->steps, "[" QN_CLASS_SPACE "]", QN_SPLIT_REMOVED, 0);
  return QN_OK;
}

static qn_status read_punctuation(vocab_json *v, const cJSON *item, const char *path) {
  uint8_t behavior = QN_SPLIT_ISOLATED;
  if (vocab_json_get(item, "behavior")) QN_TRY(read_behavior(v, item, path, &behavior));
  qn_step_list_split(&v->steps, "[" QN_CLASS_PUNCTUATION "]", (qn_split_behavior)behavior, 0);
  return QN_OK;
}

static qn_status read_digits(vocab_json *v, const cJSON *item, const char *path) {
  bool individual = false;
  QN_TRY(vocab_json_bool(v, item, path, "individual_digits", &individual));
  qn_step_list_split(&v->steps, "\\p{N}", individual ? QN_SPLIT_ISOLATED : QN_SPLIT_CONTIGUOUS, 0);
  return QN_OK;
}

static qn_status read_delimiter(vocab_json *v, const cJSON *item, const char *path) {
  qn_token_step step = {.op = QN_STEP_SPLIT, .behavior = QN_SPLIT_REMOVED, .flags = QN_STEP_LITERAL};
  QN_TRY(vocab_json_text(v, item, path, "delimiter", &step.pattern));
  if (step.pattern.length == 0) {
    return qn_json_fail(&v->json, QN_ERR_FORMAT, qn_json_key_path(&v->json, path, "delimiter"),
                        "got no text, want one");
  }
  qn_step_list_add(&v->steps, step);
  return QN_OK;
}

static const vocab_part pre_tokenizers[] = {
    {"Sequence", read_pre_tokenizers},
    {"Split", read_split},
    {"ByteLevel", read_byte_level},
    {"Metaspace", read_metaspace},
    {"BertPreTokenizer", read_bert_words},
    {"Whitespace", read_whitespace},
    {"WhitespaceSplit", read_whitespace_split},
    {"Punctuation", read_punctuation},
    {"Digits", read_digits},
    {"CharDelimiterSplit", read_delimiter},
};

static qn_status read_pre_tokenizers(vocab_json *v, const cJSON *item, const char *path) {
  return vocab_json_sequence(v, item, path, "pretokenizers", pre_tokenizers, QN_COUNT(pre_tokenizers),
                             "a pre-tokenizer");
}

qn_status vocab_json_pre_tokenizer(vocab_json *v, const cJSON *item) {
  return vocab_json_part(v, item, "pre_tokenizer", pre_tokenizers, QN_COUNT(pre_tokenizers), "a pre-tokenizer");
}
