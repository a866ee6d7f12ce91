// The post-processor and the decoder of a tokenizer.json: what goes around a text, and what a token stands for.
#include <string.h>

#include "frontend/import/vocab_json.h"

// ---- post-processors ---------------------------------------------------------------------------------------------

static vocab_part_fn read_processors;

static qn_status no_memory(vocab_json *v) {
  return qn_fail_nomem(v->json.diag, v->json.file, "the tokens around a text");
}

// ["[CLS]", 101]
static qn_status read_pair(vocab_json *v, const cJSON *item, const char *path, const char *key, int32_t *out) {
  const cJSON *pair = vocab_json_get(item, key);
  const char *pair_path = qn_json_key_path(&v->json, path, key);
  int64_t id;
  QN_TRY(qn_json_array(&v->json, pair, pair_path, 2, 2));
  QN_TRY(vocab_json_int(v, cJSON_GetArrayItem(pair, 1), qn_json_index_path(&v->json, pair_path, 1), 0,
                        (int64_t)v->out->token_count - 1, &id));
  *out = (int32_t)id;
  return QN_OK;
}

static qn_status read_cls_sep(vocab_json *v, const cJSON *item, const char *path) {
  int32_t cls, sep;
  QN_TRY(read_pair(v, item, path, "cls", &cls));
  QN_TRY(read_pair(v, item, path, "sep", &sep));
  if (!qn_vec_push_arena(v->arena, &v->before, cls) || !qn_vec_push_arena(v->arena, &v->after, sep))
    return no_memory(v);
  return QN_OK;
}

static qn_status read_nothing(vocab_json *v, const cJSON *item, const char *path) {
  (void)v, (void)item, (void)path;
  return QN_OK;
}

// Adds the ids of a special token of a template to those before the text, or after it.
static qn_status add_template_token(vocab_json *v, const cJSON *table, qn_str name, bool after, const char *path) {
  const cJSON *entry = NULL;
  cJSON_ArrayForEach(entry, table) {
    if (entry->string && qn_str_is(name, entry->string)) break;
  }
  const cJSON *ids = entry ? vocab_json_get(entry, "ids") : NULL, *id;
  if (!ids) {
    return qn_json_fail(&v->json, QN_ERR_FORMAT, path, "names the token '%.*s', which is not among special_tokens",
                        (int)(name.length < 64 ? name.length : 64), name.data);
  }
  QN_TRY(qn_json_array(&v->json, ids, path, 1, 64));
  cJSON_ArrayForEach(id, ids) {
    int64_t value;
    QN_TRY(vocab_json_int(v, id, path, 0, (int64_t)v->out->token_count - 1, &value));
    bool pushed = after ? qn_vec_push_arena(v->arena, &v->after, (int32_t)value)
                        : qn_vec_push_arena(v->arena, &v->before, (int32_t)value);
    if (!pushed) return no_memory(v);
  }
  return QN_OK;
}

static qn_status read_template(vocab_json *v, const cJSON *item, const char *path) {
  const cJSON *single = vocab_json_get(item, "single"), *part;
  const char *single_path = qn_json_key_path(&v->json, path, "single");
  bool after = false;
  size_t index = 0;
  QN_TRY(qn_json_array(&v->json, single, single_path, 1, 64));
  cJSON_ArrayForEach(part, single) {
    const char *part_path = qn_json_index_path(&v->json, single_path, index++);
    const cJSON *special = vocab_json_get(part, "SpecialToken");
    if (special) {
      qn_str name = {0};
      QN_TRY(vocab_json_text(v, special, part_path, "id", &name));
      QN_TRY(add_template_token(v, vocab_json_get(item, "special_tokens"), name, after, part_path));
    } else if (vocab_json_get(part, "Sequence") && !after) {
      after = true;
    } else {
      return qn_json_fail(&v->json, QN_ERR_UNSUPPORTED, part_path,
                          "want special tokens around one text (a SpecialToken, or one Sequence)");
    }
  }
  if (after) return QN_OK;
  return qn_json_fail(&v->json, QN_ERR_FORMAT, single_path, "has no place for the text (a Sequence)");
}

static const vocab_part processors[] = {
    {"Sequence", read_processors},       {"TemplateProcessing", read_template}, {"BertProcessing", read_cls_sep},
    {"RobertaProcessing", read_cls_sep}, {"ByteLevel", read_nothing},
};

static qn_status read_processors(vocab_json *v, const cJSON *item, const char *path) {
  return vocab_json_sequence(v, item, path, "processors", processors, QN_COUNT(processors), "a post-processor");
}

qn_status vocab_json_post_processor(vocab_json *v, const cJSON *item) {
  QN_TRY(vocab_json_part(v, item, "post_processor", processors, QN_COUNT(processors), "a post-processor"));
  v->out->before = v->before.items, v->out->before_count = v->before.count;
  v->out->after = v->after.items, v->out->after_count = v->after.count;
  return QN_OK;
}

// ---- decoders ----------------------------------------------------------------------------------------------------

static vocab_part_fn read_decoders;

static qn_status read_byte_level(vocab_json *v, const cJSON *item, const char *path) {
  (void)item, (void)path;
  v->out->decoder.byte_level = true;
  return QN_OK;
}

static qn_status read_byte_fallback(vocab_json *v, const cJSON *item, const char *path) {
  (void)item, (void)path;
  v->out->decoder.byte_tokens = true;
  return QN_OK;
}

static qn_status read_replace(vocab_json *v, const cJSON *item, const char *path) {
  qn_str pattern, content = {0};
  bool literal;
  QN_TRY(vocab_json_pattern(v, item, path, &pattern, &literal));
  QN_TRY(vocab_json_text(v, item, path, "content", &content));
  if (!literal || !qn_str_is(content, " ")) {
    return qn_json_fail(&v->json, QN_ERR_UNSUPPORTED, path, "a decoder replaces plain texts by a space, got '%.*s'",
                        (int)(content.length < 64 ? content.length : 64), content.data);
  }
  v->out->decoder.space = pattern;
  return QN_OK;
}

static qn_status read_strip(vocab_json *v, const cJSON *item, const char *path) {
  qn_str content = {0};
  int64_t start = 0, stop = 0;
  QN_TRY(vocab_json_text(v, item, path, "content", &content));
  const cJSON *first = vocab_json_get(item, "start"), *last = vocab_json_get(item, "stop");
  if (first) QN_TRY(vocab_json_int(v, first, qn_json_key_path(&v->json, path, "start"), 0, INT32_MAX, &start));
  if (last) QN_TRY(vocab_json_int(v, last, qn_json_key_path(&v->json, path, "stop"), 0, INT32_MAX, &stop));
  if (start == 0 && stop == 0) return QN_OK;
  if (start != 1 || stop != 0 || !qn_str_is(content, " ")) {
    return qn_json_fail(&v->json, QN_ERR_UNSUPPORTED, path, "a decoder strips one space at the front of a text");
  }
  v->out->decoder.drop_space = true;
  return QN_OK;
}

static qn_status read_metaspace(vocab_json *v, const cJSON *item, const char *path) {
  qn_str mark = QN_STR(QN_SPACE_MARK), scheme = {0};
  bool prefix = true;
  QN_TRY(vocab_json_text(v, item, path, "replacement", &mark));
  QN_TRY(vocab_json_bool(v, item, path, "add_prefix_space", &prefix));
  QN_TRY(vocab_json_text(v, item, path, "prepend_scheme", &scheme));
  v->out->decoder.space = mark;
  v->out->decoder.drop_space = scheme.length > 0 ? !qn_str_is(scheme, "never") : prefix;
  return QN_OK;
}

static qn_status read_word_piece(vocab_json *v, const cJSON *item, const char *path) {
  v->out->decoder.word_goes_on = QN_STR("##");
  v->out->decoder.clean_up = v->out->decoder.drop_space = true;
  QN_TRY(vocab_json_text(v, item, path, "prefix", &v->out->decoder.word_goes_on));
  return vocab_json_bool(v, item, path, "cleanup", &v->out->decoder.clean_up);
}

static qn_status read_bpe(vocab_json *v, const cJSON *item, const char *path) {
  v->out->decoder.word_end = QN_STR("</w>");
  return vocab_json_text(v, item, path, "suffix", &v->out->decoder.word_end);
}

static const vocab_part decoders[] = {
    {"Sequence", read_decoders},   {"ByteLevel", read_byte_level}, {"ByteFallback", read_byte_fallback},
    {"Replace", read_replace},     {"Strip", read_strip},          {"Fuse", read_nothing},
    {"Metaspace", read_metaspace}, {"WordPiece", read_word_piece}, {"BPEDecoder", read_bpe},
};

static qn_status read_decoders(vocab_json *v, const cJSON *item, const char *path) {
  return vocab_json_sequence(v, item, path, "decoders", decoders, QN_COUNT(decoders), "a decoder");
}

qn_status vocab_json_decoder(vocab_json *v, const cJSON *item) {
  return vocab_json_part(v, item, "decoder", decoders, QN_COUNT(decoders), "a decoder");
}
