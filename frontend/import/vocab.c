// Reading a GGUF file's tokenizer.* keys. Defaults for keys that are missing are llama.cpp's, since files are written
// with them in mind.
#include "frontend/import/vocab.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "runtime/base/log.h"

#define KEY(name) "tokenizer.ggml." name

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

static qn_status read_kind(qn_gguf *gguf, qn_tokenizer_desc *out, qn_diag *diag) {
  qn_str model;
  QN_TRY(qn_gguf_get_string(gguf, KEY("model"), &model, diag));
  if (qn_str_is(model, "llama")) {
    out->kind = QN_TOKENIZER_SPM;
  } else if (qn_str_is(model, "gpt2")) {
    out->kind = QN_TOKENIZER_BPE;
  } else {
    return fail_key(gguf, diag, QN_ERR_UNSUPPORTED, KEY("model"), "got '%.*s', want 'llama' or 'gpt2'",
                    (int)(model.length < 64 ? model.length : 64), model.data);
  }
  return QN_OK;
}

static qn_status read_pre(qn_gguf *gguf, qn_arena *arena, qn_tokenizer_desc *out, qn_diag *diag) {
  if (qn_gguf_find(gguf, KEY("pre")) == NULL) {
    qn_log(QN_LOG_WARNING, "%s: key '%s' is missing: taking 'default'; the model may see text cut in unfamiliar ways",
           gguf->name, KEY("pre"));
    out->pre = "default";
    return QN_OK;
  }
  qn_str pre;
  QN_TRY(qn_gguf_get_string(gguf, KEY("pre"), &pre, diag));
  out->pre = qn_arena_strndup(arena, pre.data, pre.length);
  return out->pre == NULL ? fail_nomem(gguf, diag) : QN_OK;
}

static qn_status read_scores(qn_gguf *gguf, qn_tokenizer_desc *out, qn_diag *diag) {
  size_t count;
  QN_TRY(qn_gguf_get_floats(gguf, KEY("scores"), &out->scores, &count, diag));
  if (count == out->token_count) return QN_OK;
  return fail_key(gguf, diag, QN_ERR_FORMAT, KEY("scores"), "has %zu scores, want one for each of %zu tokens", count,
                  out->token_count);
}

static qn_status read_types(qn_gguf *gguf, qn_arena *arena, qn_tokenizer_desc *out, qn_diag *diag) {
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
    types[i] = special && !plain ? type | QN_TOKEN_TAKES_SPACE : type;
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

static qn_status read_ids(qn_gguf *gguf, qn_tokenizer_desc *out, qn_diag *diag) {
  bool spm = out->kind == QN_TOKENIZER_SPM;
  const struct {
    const char *key;
    int32_t fallback, *id;
  } ids[] = {
      {KEY("bos_token_id"), spm ? 1 : -1, &out->bos},
      {KEY("eos_token_id"), spm ? 2 : -1, &out->eos},
      {KEY("unknown_token_id"), spm ? 0 : -1, &out->unk},
      {KEY("padding_token_id"), -1, &out->pad},
      {KEY("eot_token_id"), -1, &out->eot},
      {KEY("eom_token_id"), -1, &out->eom},
  };
  for (size_t i = 0; i < QN_COUNT(ids); i++) {
    QN_TRY(read_id(gguf, ids[i].key, ids[i].fallback, out->token_count, ids[i].id, diag));
  }
  return QN_OK;
}

static qn_status read_bool(const qn_gguf *gguf, const char *key, bool fallback, bool *out, qn_diag *diag) {
  *out = fallback;
  return qn_gguf_find(gguf, key) == NULL ? QN_OK : qn_gguf_get_bool(gguf, key, out, diag);
}

static qn_status read_settings(const qn_gguf *gguf, qn_tokenizer_desc *out, qn_diag *diag) {
  bool spm = out->kind == QN_TOKENIZER_SPM, add_bos;
  out->add_bos = out->ignore_merges = QN_TOKENIZER_IMPLIED;
  if (qn_gguf_find(gguf, KEY("add_bos_token")) != NULL) {
    QN_TRY(qn_gguf_get_bool(gguf, KEY("add_bos_token"), &add_bos, diag));
    out->add_bos = add_bos;
    if (add_bos && out->bos < 0) {
      return fail_key(gguf, diag, QN_ERR_FORMAT, KEY("add_bos_token"), "is true, but there is no " KEY("bos_token_id"));
    }
  }
  QN_TRY(read_bool(gguf, KEY("add_eos_token"), false, &out->add_eos, diag));
  if (out->add_eos && out->eos < 0) {
    return fail_key(gguf, diag, QN_ERR_FORMAT, KEY("add_eos_token"), "is true, but there is no " KEY("eos_token_id"));
  }
  QN_TRY(read_bool(gguf, KEY("add_space_prefix"), spm, &out->add_space_prefix, diag));
  return read_bool(gguf, KEY("remove_extra_whitespaces"), false, &out->remove_extra_whitespaces, diag);
}

qn_status qn_vocab_from_gguf(qn_gguf *gguf, qn_arena *arena, qn_tokenizer_desc *out, qn_diag *diag) {
  *out = (qn_tokenizer_desc){0};
  QN_TRY(read_kind(gguf, out, diag));
  QN_TRY(qn_gguf_get_strings(gguf, KEY("tokens"), &out->tokens, &out->token_count, diag));
  if (out->token_count == 0 || out->token_count > INT32_MAX) {
    return fail_key(gguf, diag, QN_ERR_FORMAT, KEY("tokens"), "has %zu tokens, want at least 1 and at most %d",
                    out->token_count, INT32_MAX);
  }
  QN_TRY(read_types(gguf, arena, out, diag));
  QN_TRY(mark_phi3(gguf, arena, out, diag));
  if (out->kind == QN_TOKENIZER_SPM) {
    QN_TRY(read_scores(gguf, out, diag));
  } else {
    QN_TRY(read_pre(gguf, arena, out, diag));
    QN_TRY(read_merges(gguf, arena, out, diag));
  }
  QN_TRY(read_ids(gguf, out, diag));
  return read_settings(gguf, out, diag);
}
