// Reading a GGUF file's tokenizer.* keys. Defaults for keys that are missing are llama.cpp's, since files are written
// with them in mind.
#include "frontend/import/vocab.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "frontend/import/vocab_pre.h"
#include "runtime/base/log.h"

#define KEY(name) "tokenizer.ggml." name

// What tokenizer.ggml.model says: the kind, and what holds for keys that are missing.
typedef struct model_line {
  const char *name;
  qn_tokenizer_kind kind;
  int32_t bos, eos, unk, pad;
  bool add_bos, add_eos, space_prefix;
} model_line;

static const model_line models[] = {
    {"llama", QN_TOKENIZER_SPM, 1, 2, 0, -1, true, false, true},
    {"gpt2", QN_TOKENIZER_BPE, -1, -1, -1, -1, false, false, false},  // add_bos: by the pre-tokenizer's name
    {"t5", QN_TOKENIZER_UNIGRAM, -1, 1, 2, 0, false, true, true},
    {"bert", QN_TOKENIZER_WORDPIECE, 101, 102, 100, 0, true, true, false},
};

__attribute__((format(printf, 5, 6))) static qn_status fail_key(const qn_gguf *gguf, qn_diag *diag, qn_status status,
                                                                const char *key, const char *format, ...) {
  char where[512], message[384];
  snprintf(where, sizeof where, "%.400s: key '%s'", gguf->name, key);
  va_list args;
  va_start(args, format);
  vsnprintf(message, sizeof message, format, args);
  va_end(args);
  return qn_fail(diag, status, where, "%s", message);
}

static qn_status fail_nomem(const qn_gguf *gguf, qn_diag *diag) {
  return qn_fail_nomem(diag, gguf->name, "the vocabulary");
}

static qn_status read_kind(qn_gguf *gguf, const model_line **out, qn_diag *diag) {
  qn_str model;
  QN_TRY(qn_gguf_get_string(gguf, KEY("model"), &model, diag));
  for (size_t i = 0; i < QN_COUNT(models); i++) {
    *out = &models[i];
    if (qn_str_is(model, models[i].name)) return QN_OK;
  }
  return fail_key(gguf, diag, QN_ERR_UNSUPPORTED, KEY("model"), "got '%.*s', want 'llama', 'gpt2', 't5' or 'bert'",
                  (int)(model.length < 64 ? model.length : 64), model.data);
}

static qn_status read_pre(qn_gguf *gguf, qn_arena *arena, const char **out, qn_diag *diag) {
  if (qn_gguf_find(gguf, KEY("pre")) == NULL) {
    qn_log(QN_LOG_WARNING, "%s: key '%s' is missing: taking 'default'; the model may see text cut in unfamiliar ways",
           gguf->name, KEY("pre"));
    *out = "default";
    return QN_OK;
  }
  qn_str pre;
  QN_TRY(qn_gguf_get_string(gguf, KEY("pre"), &pre, diag));
  *out = qn_arena_strndup(arena, pre.data, pre.length);
  return *out == NULL ? fail_nomem(gguf, diag) : QN_OK;
}

static qn_status read_scores(qn_gguf *gguf, qn_tokenizer_desc *out, qn_diag *diag) {
  size_t count;
  QN_TRY(qn_gguf_get_floats(gguf, KEY("scores"), &out->scores, &count, diag));
  if (count == out->token_count) return QN_OK;
  return fail_key(gguf, diag, QN_ERR_FORMAT, KEY("scores"), "has %zu scores, want one for each of %zu tokens", count,
                  out->token_count);
}

static bool holds_mark(qn_str text) {
  return memmem(text.data, text.length, QN_SPACE_MARK, strlen(QN_SPACE_MARK)) != NULL;
}

static qn_status read_types(qn_gguf *gguf, bool marked, qn_arena *arena, qn_tokenizer_desc *out, qn_diag *diag) {
  if (qn_gguf_find(gguf, KEY("token_type")) == NULL) return QN_OK;
  const int64_t *values;
  size_t count;
  QN_TRY(qn_gguf_get_ints(gguf, KEY("token_type"), &values, &count, diag));
  if (count != out->token_count) {
    return fail_key(gguf, diag, QN_ERR_FORMAT, KEY("token_type"), "has %zu types, want one for each of %zu tokens",
                    count, out->token_count);
  }
  uint8_t *types = qn_arena_alloc(arena, count);
  if (types == NULL) return fail_nomem(gguf, diag);
  for (size_t i = 0; i < count; i++) {
    if (values[i] < 0 || values[i] >= QN_TOKEN_TYPE_COUNT) {
      return fail_key(gguf, diag, QN_ERR_FORMAT, KEY("token_type"), "token %zu has type %" PRId64 ", want 0 to %d", i,
                      values[i], QN_TOKEN_TYPE_COUNT - 1);
    }
    types[i] = (uint8_t)values[i];
    // Runs of spaces that the user has defined (Gemma) are found where spaces are U+2581 already.
    bool spaces = marked && values[i] == QN_TOKEN_USER_DEFINED && holds_mark(out->tokens[i]);
    if (spaces) types[i] |= QN_TOKEN_NORMALIZED;
  }
  out->types = types;
  return QN_OK;
}

static bool contains_ignoring_case(qn_str text, const char *word) {
  size_t length = strlen(word);
  for (size_t i = 0; i + length <= text.length; i++) {
    if (strncasecmp(text.data + i, word, length) == 0) return true;
  }
  return false;
}

// Phi-3's special tokens swallow the white space after them (rstrip in its tokenizer.json), of which GGUF says nothing;
// as in llama.cpp the model is known by its name.
static qn_status mark_phi3(qn_gguf *gguf, qn_arena *arena, qn_tokenizer_desc *out, qn_diag *diag) {
  const qn_gguf_kv *kv = qn_gguf_find(gguf, "general.name");
  qn_str name;
  if (out->types == NULL || kv == NULL || !qn_gguf_value_string(&kv->value, &name)) return QN_OK;
  if (!contains_ignoring_case(name, "phi-3") && !contains_ignoring_case(name, "phi3")) return QN_OK;
  uint8_t *types = qn_arena_alloc(arena, out->token_count);
  if (types == NULL) return fail_nomem(gguf, diag);
  for (size_t i = 0; i < out->token_count; i++) {
    uint8_t type = out->types[i];
    qn_str text = out->tokens[i];
    bool special = type == QN_TOKEN_CONTROL || type == QN_TOKEN_USER_DEFINED || type == QN_TOKEN_UNKNOWN;
    bool plain = qn_str_is(text, "<unk>") || qn_str_is(text, "<s>") || qn_str_is(text, "<|endoftext|>");
    types[i] = (uint8_t)(special && !plain ? type | QN_TOKEN_TAKES_SPACE : type);
  }
  out->types = types;
  return QN_OK;
}

static qn_status read_merges(qn_gguf *gguf, qn_arena *arena, qn_tokenizer_desc *out, qn_diag *diag) {
  const qn_str *texts;
  QN_TRY(qn_gguf_get_strings(gguf, KEY("merges"), &texts, &out->merge_count, diag));
  qn_token_merge *merges = QN_ARENA_ARRAY(arena, out->merge_count, qn_token_merge);
  if (merges == NULL) return fail_nomem(gguf, diag);
  for (size_t i = 0; i < out->merge_count; i++) {
    qn_str text = texts[i];
    // The first byte belongs to the left side even if it is a space.
    const char *space = text.length < 3 ? NULL : memchr(text.data + 1, ' ', text.length - 2);
    if (space == NULL) {
      return fail_key(gguf, diag, QN_ERR_FORMAT, KEY("merges"),
                      "merge %zu is '%.*s', want two texts with a space between", i,
                      (int)(text.length < 64 ? text.length : 64), text.data);
    }
    size_t left = (size_t)(space - text.data);
    merges[i] = (qn_token_merge){{text.data, left}, {space + 1, text.length - left - 1}};
  }
  out->merges = merges;
  return QN_OK;
}

// A token id: missing gives `fallback` if there is such a token; 2^32-1, which converters write for "none", gives -1.
static qn_status read_id(qn_gguf *gguf, const char *key, int32_t fallback, size_t token_count, int32_t *out,
                         qn_diag *diag) {
  *out = fallback < (int64_t)token_count ? fallback : -1;
  if (qn_gguf_find(gguf, key) == NULL) return QN_OK;
  int64_t id;
  QN_TRY(qn_gguf_get_int(gguf, key, -1, UINT32_MAX, &id, diag));
  if (id == -1 || id == UINT32_MAX) {
    *out = -1;
    return QN_OK;
  }
  if (id >= (int64_t)token_count) {
    return fail_key(gguf, diag, QN_ERR_FORMAT, key, "is %" PRId64 ", want a token below %zu", id, token_count);
  }
  *out = (int32_t)id;
  return QN_OK;
}

static qn_status read_ids(qn_gguf *gguf, const model_line *line, qn_arena *arena, qn_tokenizer_desc *out,
                          qn_diag *diag) {
  bool words = line->kind == QN_TOKENIZER_WORDPIECE;
  int32_t eot, eom, *ends = QN_ARENA_ARRAY(arena, 2, int32_t);
  if (ends == NULL) return fail_nomem(gguf, diag);
  const struct {
    const char *key;
    int32_t fallback, *id;
  } ids[] = {
      {words ? KEY("cls_token_id") : KEY("bos_token_id"), line->bos, &out->bos},
      {words ? KEY("seperator_token_id") : KEY("eos_token_id"), line->eos, &out->eos},  // spelled like this in GGUF
      {KEY("unknown_token_id"), line->unk, &out->unk},
      {KEY("padding_token_id"), line->pad, &out->pad},
      {KEY("eot_token_id"), -1, &eot},
      {KEY("eom_token_id"), -1, &eom},
  };
  for (size_t i = 0; i < QN_COUNT(ids); i++) {
    QN_TRY(read_id(gguf, ids[i].key, ids[i].fallback, out->token_count, ids[i].id, diag));
  }
  if (eot >= 0) ends[out->end_count++] = eot;
  if (eom >= 0) ends[out->end_count++] = eom;
  out->ends = ends;
  return QN_OK;
}

static qn_status read_bool(const qn_gguf *gguf, const char *key, bool fallback, bool *out, qn_diag *diag) {
  *out = fallback;
  return qn_gguf_find(gguf, key) == NULL ? QN_OK : qn_gguf_get_bool(gguf, key, out, diag);
}

// What goes around a text: one token at either end where the file wants it.
static qn_status read_around(const qn_gguf *gguf, const char *key, const char *id_key, int32_t id, bool fallback,
                             qn_arena *arena, const int32_t **out, size_t *out_count, qn_diag *diag) {
  bool adds;
  QN_TRY(read_bool(gguf, key, fallback && id >= 0, &adds, diag));
  if (!adds) return QN_OK;
  if (id < 0) return fail_key(gguf, diag, QN_ERR_FORMAT, key, "is true, but there is no %s", id_key);
  int32_t *ids = QN_ARENA_ARRAY(arena, 1, int32_t);
  if (ids == NULL) return fail_nomem(gguf, diag);
  ids[0] = id;
  *out = ids;
  *out_count = 1;
  return QN_OK;
}

// ---- the steps ---------------------------------------------------------------------------------------------------

static qn_status add_byte_level(qn_gguf *gguf, qn_step_list *list, const qn_pre_tokenizer **out_pre,
                                qn_tokenizer_desc *out, qn_diag *diag) {
  const char *name;
  QN_TRY(read_pre(gguf, list->arena, &name, diag));
  QN_TRY(qn_pre_tokenizer_find(name, out_pre, diag));
  qn_step_list_pre_tokenizer(list, *out_pre);
  out->ignore_merges = (*out_pre)->ignore_merges;
  out->decoder.byte_level = true;
  return QN_OK;
}

// SentencePiece's map, an array of bytes there.
static qn_status read_charsmap(qn_gguf *gguf, qn_arena *arena, qn_str *out, qn_diag *diag) {
  const int64_t *values;
  size_t count;
  if (qn_gguf_find(gguf, KEY("precompiled_charsmap")) == NULL) return QN_OK;
  QN_TRY(qn_gguf_get_ints(gguf, KEY("precompiled_charsmap"), &values, &count, diag));
  char *bytes = qn_arena_alloc(arena, count);
  if (bytes == NULL) return fail_nomem(gguf, diag);
  for (size_t i = 0; i < count; i++) {
    if (values[i] < INT8_MIN || values[i] > UINT8_MAX) {
      return fail_key(gguf, diag, QN_ERR_FORMAT, KEY("precompiled_charsmap"), "item %zu is %" PRId64 ", want a byte", i,
                      values[i]);
    }
    bytes[i] = (char)values[i];
  }
  *out = (qn_str){bytes, count};
  return QN_OK;
}

static qn_status add_sentencepiece(qn_gguf *gguf, const model_line *line, qn_step_list *list, qn_tokenizer_desc *out,
                                   qn_diag *diag) {
  qn_sentencepiece_normalizer options = {.prefix_after_all = line->kind == QN_TOKENIZER_SPM};
  QN_TRY(read_bool(gguf, KEY("add_space_prefix"), line->space_prefix, &options.prefix, diag));
  QN_TRY(read_bool(gguf, KEY("remove_extra_whitespaces"), false, &options.squeeze, diag));
  QN_TRY(read_charsmap(gguf, list->arena, &out->charsmap, diag));
  options.charsmap = out->charsmap.length > 0;
  qn_step_list_sentencepiece(list, &options);
  list->normalizer_count = list->steps.count;
  out->fuse_unknown = true;
  out->single_precision = line->kind == QN_TOKENIZER_UNIGRAM;
  out->decoder = (qn_token_decoder){.byte_tokens = true, .space = QN_STR(QN_SPACE_MARK), .drop_space = options.prefix};
  return QN_OK;
}

// GGUF's WordPiece spells tokens that begin a word with U+2581, and others without the "##" that models write.
static void add_bert(qn_step_list *list, qn_tokenizer_desc *out) {
  const qn_bert_normalizer options = {true, true, true, true};
  qn_step_list_bert_normalizer(list, &options);
  list->normalizer_count = list->steps.count;
  qn_step_list_bert_words(list);
  out->first_prefix = QN_STR(QN_SPACE_MARK);
  out->max_word = 100;
  out->decoder = (qn_token_decoder){.word_begin = QN_STR(QN_SPACE_MARK), .clean_up = true, .drop_space = true};
}

static qn_status add_steps(qn_gguf *gguf, const model_line *line, qn_arena *arena, const qn_pre_tokenizer **out_pre,
                           qn_tokenizer_desc *out, qn_diag *diag) {
  qn_step_list list = {.arena = arena};
  if (line->kind == QN_TOKENIZER_BPE) {
    QN_TRY(add_byte_level(gguf, &list, out_pre, out, diag));
  } else if (line->kind == QN_TOKENIZER_WORDPIECE) {
    add_bert(&list, out);
  } else {
    QN_TRY(add_sentencepiece(gguf, line, &list, out, diag));
  }
  return qn_step_list_finish(&list, out, diag);
}

qn_status qn_vocab_from_gguf(qn_gguf *gguf, qn_arena *arena, qn_tokenizer_desc *out, qn_diag *diag) {
  const model_line *line;
  const qn_pre_tokenizer *pre = NULL;
  *out = (qn_tokenizer_desc){0};
  QN_TRY(read_kind(gguf, &line, diag));
  out->kind = line->kind;
  QN_TRY(qn_gguf_get_strings(gguf, KEY("tokens"), &out->tokens, &out->token_count, diag));
  if (out->token_count == 0 || out->token_count > INT32_MAX) {
    return fail_key(gguf, diag, QN_ERR_FORMAT, KEY("tokens"), "has %zu tokens, want at least 1 and at most %d",
                    out->token_count, INT32_MAX);
  }
  QN_TRY(read_types(gguf, line->kind == QN_TOKENIZER_SPM, arena, out, diag));
  QN_TRY(mark_phi3(gguf, arena, out, diag));
  if (line->kind == QN_TOKENIZER_SPM || line->kind == QN_TOKENIZER_UNIGRAM) QN_TRY(read_scores(gguf, out, diag));
  QN_TRY(add_steps(gguf, line, arena, &pre, out, diag));
  if (line->kind == QN_TOKENIZER_BPE) QN_TRY(read_merges(gguf, arena, out, diag));
  QN_TRY(read_ids(gguf, line, arena, out, diag));
  bool add_bos = pre != NULL ? pre->add_bos : line->add_bos;
  QN_TRY(read_around(gguf, KEY("add_bos_token"), KEY("bos_token_id"), out->bos, add_bos, arena, &out->before,
                     &out->before_count, diag));
  return read_around(gguf, KEY("add_eos_token"), KEY("eos_token_id"), out->eos, line->add_eos, arena, &out->after,
                     &out->after_count, diag);
}
