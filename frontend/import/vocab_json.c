// Reading a tokenizer.json: its model, the tokens that were added, and the parts of its pipeline by their tables.
#include "frontend/import/vocab_json.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "frontend/import/vocab_folder.h"

// ---- values ------------------------------------------------------------------------------------------------------

const cJSON *vocab_json_get(const cJSON *object, const char *key) {
  const cJSON *item = qn_json_get(object, key);
  return item && !cJSON_IsNull(item) ? item : NULL;
}

qn_status vocab_json_bool(vocab_json *v, const cJSON *object, const char *path, const char *key, bool *out) {
  const cJSON *item = vocab_json_get(object, key);
  return item ? qn_json_bool(&v->json, item, qn_json_key_path(&v->json, path, key), out) : QN_OK;
}

static qn_status copy_text(vocab_json *v, const cJSON *item, const char *path, qn_str *out) {
  if (!cJSON_IsString(item)) return qn_json_fail(&v->json, QN_ERR_FORMAT, path, "want a text");
  size_t length = strlen(item->valuestring);
  const char *copy = qn_arena_strndup(v->arena, item->valuestring, length);
  *out = (qn_str){copy, length};
  return copy ? QN_OK : qn_fail_nomem(v->json.diag, v->json.file, "a text");
}

qn_status vocab_json_text(vocab_json *v, const cJSON *object, const char *path, const char *key, qn_str *out) {
  const cJSON *item = vocab_json_get(object, key);
  return item ? copy_text(v, item, qn_json_key_path(&v->json, path, key), out) : QN_OK;
}

qn_status vocab_json_int(vocab_json *v, const cJSON *item, const char *path, int64_t min, int64_t max, int64_t *out) {
  double value;
  if (!item) return qn_json_fail(&v->json, QN_ERR_FORMAT, path, "is missing, want a number");
  QN_TRY(qn_json_number(&v->json, item, path, &value));
  if (value != floor(value) || value < (double)min || value > (double)max) {
    return qn_json_fail(&v->json, QN_ERR_FORMAT, path, "got %.17g, want a whole number from %" PRId64 " to %" PRId64,
                        value, min, max);
  }
  *out = (int64_t)value;
  return QN_OK;
}

qn_status vocab_json_token(vocab_json *v, qn_str text, const char *path, int32_t *out) {
  uint64_t id;
  if (!qn_map_get(&v->ids, text, &id)) {
    return qn_json_fail(&v->json, QN_ERR_FORMAT, path, "got '%.*s', which is not in the vocabulary",
                        (int)(text.length < 64 ? text.length : 64), text.data);
  }
  *out = (int32_t)id;
  return QN_OK;
}

qn_status vocab_json_pattern(vocab_json *v, const cJSON *object, const char *path, qn_str *out, bool *out_literal) {
  const cJSON *pattern = vocab_json_get(object, "pattern");
  path = qn_json_key_path(&v->json, path, "pattern");
  qn_str text = {0};
  *out_literal = pattern && vocab_json_get(pattern, "String");
  if (!*out_literal && !(pattern && vocab_json_get(pattern, "Regex"))) {
    return qn_json_fail(&v->json, QN_ERR_FORMAT, path, "want {\"String\": ...} or {\"Regex\": ...}");
  }
  QN_TRY(vocab_json_text(v, pattern, path, *out_literal ? "String" : "Regex", &text));
  if (text.length == 0) return qn_json_fail(&v->json, QN_ERR_FORMAT, path, "got an empty text");
  if (!*out_literal) return vocab_json_regex(v, text, path, out);
  *out = text;
  return QN_OK;
}

// ---- parts -------------------------------------------------------------------------------------------------------

static qn_status fail_type(vocab_json *v, const char *path, const char *type, const vocab_part *table, size_t count,
                           const char *what) {
  qn_buf list;
  qn_buf_init(&list, v->arena->allocator);
  for (size_t i = 0; i < count; i++) qn_buf_printf(&list, "%s%s", i ? ", " : "", table[i].type);
  qn_status status = qn_json_fail(&v->json, QN_ERR_UNSUPPORTED, path, "got %s of type '%.40s', want one of %s", what,
                                  type, qn_buf_text(&list));
  qn_buf_deinit(&list);
  return status;
}

qn_status vocab_json_part(vocab_json *v, const cJSON *item, const char *path, const vocab_part *table, size_t count,
                          const char *what) {
  if (!item || cJSON_IsNull(item)) return QN_OK;
  QN_TRY(qn_json_object(&v->json, item, path, NULL));
  const cJSON *type = qn_json_get(item, "type");
  if (!cJSON_IsString(type)) return qn_json_fail(&v->json, QN_ERR_FORMAT, path, "has no \"type\"");
  for (size_t i = 0; i < count; i++) {
    if (strcmp(table[i].type, type->valuestring) == 0) return table[i].read(v, item, path);
  }
  return fail_type(v, path, type->valuestring, table, count, what);
}

qn_status vocab_json_sequence(vocab_json *v, const cJSON *item, const char *path, const char *key,
                              const vocab_part *table, size_t count, const char *what) {
  const cJSON *list = vocab_json_get(item, key), *part;
  const char *list_path = qn_json_key_path(&v->json, path, key);
  size_t index = 0;
  QN_TRY(qn_json_array(&v->json, list, list_path, 0, 64));
  cJSON_ArrayForEach(part, list) {
    QN_TRY(vocab_json_part(v, part, qn_json_index_path(&v->json, list_path, index++), table, count, what));
  }
  return QN_OK;
}

// ---- the vocabulary ----------------------------------------------------------------------------------------------

typedef struct entry {
  qn_str text;
  double score;
  int64_t id;
} entry;
typedef QN_VEC(entry) entry_vec;

static qn_status no_memory(vocab_json *v) { return qn_fail_nomem(v->json.diag, v->json.file, "the vocabulary"); }

static qn_status add_entry(vocab_json *v, entry_vec *entries, entry e, const char *path) {
  if (qn_map_get(&v->ids, e.text, NULL)) {
    return qn_json_fail(&v->json, QN_ERR_FORMAT, path, "the token '%.*s' is there twice",
                        (int)(e.text.length < 64 ? e.text.length : 64), e.text.data);
  }
  bool added = qn_map_put(&v->ids, e.text, (uint64_t)e.id) && qn_vec_push_arena(v->arena, entries, e);
  return added ? QN_OK : no_memory(v);
}

enum { MAX_ID = (1 << 24) - 1 };

// {"token": id, ...}
static qn_status read_object(vocab_json *v, const cJSON *vocab, entry_vec *entries) {
  if (!cJSON_IsObject(vocab)) return qn_json_fail(&v->json, QN_ERR_FORMAT, "model.vocab", "want an object {...}");
  const cJSON *item;
  cJSON_ArrayForEach(item, vocab) {
    entry e = {.text = {qn_arena_strdup(v->arena, item->string), strlen(item->string)}};
    if (e.text.data == NULL) return no_memory(v);
    const char *path = "model.vocab";
    bool whole = cJSON_IsNumber(item) && item->valuedouble >= 0 && item->valuedouble <= MAX_ID &&
                 item->valuedouble == floor(item->valuedouble);
    if (!whole) path = qn_json_key_path(&v->json, path, item->string);
    QN_TRY(vocab_json_int(v, item, path, 0, MAX_ID, &e.id));
    QN_TRY(add_entry(v, entries, e, path));
  }
  return QN_OK;
}

// [["token", score], ...]: the id is the place.
static qn_status read_scored(vocab_json *v, const cJSON *vocab, entry_vec *entries) {
  if (!cJSON_IsArray(vocab)) return qn_json_fail(&v->json, QN_ERR_FORMAT, "model.vocab", "want a list [...]");
  const cJSON *item;
  cJSON_ArrayForEach(item, vocab) {
    const cJSON *text = cJSON_IsArray(item) ? item->child : NULL, *score = text ? text->next : NULL;
    entry e = {.id = (int64_t)entries->count};
    if (!cJSON_IsString(text) || !cJSON_IsNumber(score) || score->next || !isfinite(score->valuedouble)) {
      return qn_json_fail(&v->json, QN_ERR_FORMAT, qn_json_index_path(&v->json, "model.vocab", entries->count),
                          "want [\"token\", score]");
    }
    e.score = score->valuedouble;
    QN_TRY(copy_text(v, text, "model.vocab", &e.text));
    QN_TRY(add_entry(v, entries, e, "model.vocab"));
  }
  return QN_OK;
}

// ---- merges ------------------------------------------------------------------------------------------------------

// "a b" or ["a", "b"]
static bool read_merge(const cJSON *item, qn_str *out_left, qn_str *out_right) {
  if (cJSON_IsArray(item)) {
    const cJSON *left = item->child, *right = left ? left->next : NULL;
    if (!cJSON_IsString(left) || !cJSON_IsString(right) || right->next) return false;
    *out_left = qn_str_from(left->valuestring);
    *out_right = qn_str_from(right->valuestring);
  } else {
    const char *space = cJSON_IsString(item) ? strchr(item->valuestring, ' ') : NULL;
    if (!space || strchr(space + 1, ' ')) return false;
    *out_left = (qn_str){item->valuestring, (size_t)(space - item->valuestring)};
    *out_right = qn_str_from(space + 1);
  }
  return out_left->length > 0 && out_right->length > 0;
}

static qn_status fail_merge(vocab_json *v, size_t index, qn_str left, qn_str right, const char *what) {
  return qn_json_fail(&v->json, QN_ERR_FORMAT, qn_json_index_path(&v->json, "model.merges", index),
                      "the merge of '%.*s' and '%.*s' %s", (int)(left.length < 64 ? left.length : 64), left.data,
                      (int)(right.length < 64 ? right.length : 64), right.data, what);
}

// The text of a vocabulary entry, which lives in the arena; *out stays as it was where there is none.
static bool find_text(vocab_json *v, qn_str text, qn_str *out) {
  uint64_t id;
  if (!qn_map_get(&v->ids, text, &id)) return false;
  *out = v->out->tokens[id];
  return true;
}

static qn_status take_merge(vocab_json *v, qn_map *seen, size_t index, qn_token_merge *merge) {
  qn_str left = merge->left, right = merge->right, joined = {0};
  // Left and right in one key: no token holds a zero byte, since cJSON's texts end there.
  char *key = qn_arena_alloc(v->arena, left.length + right.length + 1);
  if (key == NULL) return no_memory(v);
  memcpy(key, left.data, left.length);
  memcpy(key + left.length + 1, right.data, right.length);
  qn_str pair = {key, left.length + right.length + 1};
  if (qn_map_get(seen, pair, NULL)) return fail_merge(v, index, left, right, "is there twice");
  if (!qn_map_put(seen, pair, index)) return no_memory(v);
  if (!find_text(v, left, &merge->left) || !find_text(v, right, &merge->right)) {
    return fail_merge(v, index, left, right, "has a side that is not in the vocabulary");
  }
  char *text = qn_arena_alloc(v->arena, left.length + right.length);
  if (text == NULL) return no_memory(v);
  memcpy(text, left.data, left.length);
  memcpy(text + left.length, right.data, right.length);
  if (!find_text(v, (qn_str){text, left.length + right.length}, &joined)) {
    return fail_merge(v, index, left, right, "gives what is not in the vocabulary");
  }
  return QN_OK;
}

static qn_status read_merges(vocab_json *v, const cJSON *list) {
  QN_TRY(qn_json_array(&v->json, list, "model.merges", 0, MAX_ID));
  size_t count = (size_t)cJSON_GetArraySize(list), index = 0;
  qn_token_merge *merges = QN_ARENA_ARRAY(v->arena, count, qn_token_merge);
  if (merges == NULL) return no_memory(v);
  qn_map seen;
  qn_map_init(&seen, v->arena->allocator);
  qn_status status = QN_OK;
  const cJSON *item;
  cJSON_ArrayForEach(item, list) {
    if (!read_merge(item, &merges[index].left, &merges[index].right)) {
      status = qn_json_fail(&v->json, QN_ERR_FORMAT, qn_json_index_path(&v->json, "model.merges", index),
                            "want \"left right\" or [\"left\", \"right\"]");
    } else {
      status = take_merge(v, &seen, index, &merges[index]);
    }
    if (status != QN_OK) break;
    index++;
  }
  qn_map_deinit(&seen);
  v->out->merges = merges;
  v->out->merge_count = count;
  return status;
}

// ---- models ------------------------------------------------------------------------------------------------------

static qn_status refuse_text(vocab_json *v, const cJSON *model, const char *key) {
  qn_str text = {0};
  QN_TRY(vocab_json_text(v, model, "model", key, &text));
  if (text.length == 0) return QN_OK;
  return qn_json_fail(&v->json, QN_ERR_UNSUPPORTED, qn_json_key_path(&v->json, "model", key),
                      "got '%.*s', want none: this is not supported", (int)(text.length < 64 ? text.length : 64),
                      text.data);
}

static qn_status read_unknown(vocab_json *v, const cJSON *model) {
  qn_str text = {0};
  QN_TRY(vocab_json_text(v, model, "model", "unk_token", &text));
  return text.length > 0 ? vocab_json_token(v, text, "model.unk_token", &v->out->unk) : QN_OK;
}

static qn_status read_bpe(vocab_json *v, const cJSON *model) {
  const cJSON *dropout = vocab_json_get(model, "dropout");
  if (dropout && !(cJSON_IsNumber(dropout) && dropout->valuedouble == 0)) {
    return qn_json_fail(&v->json, QN_ERR_UNSUPPORTED, "model.dropout", "want null: leaving merges out is for training");
  }
  QN_TRY(refuse_text(v, model, "continuing_subword_prefix"));
  QN_TRY(refuse_text(v, model, "end_of_word_suffix"));
  QN_TRY(vocab_json_bool(v, model, "model", "fuse_unk", &v->out->fuse_unknown));
  QN_TRY(vocab_json_bool(v, model, "model", "byte_fallback", &v->byte_fallback));
  QN_TRY(vocab_json_bool(v, model, "model", "ignore_merges", &v->out->ignore_merges));
  return read_unknown(v, model);
}

static qn_status read_unigram(vocab_json *v, const cJSON *model) {
  int64_t unk = -1;
  const cJSON *item = vocab_json_get(model, "unk_id");
  if (item) QN_TRY(vocab_json_int(v, item, "model.unk_id", 0, (int64_t)v->out->token_count - 1, &unk));
  v->out->unk = (int32_t)unk;
  v->out->fuse_unknown = true;
  return vocab_json_bool(v, model, "model", "byte_fallback", &v->byte_fallback);
}

static qn_status read_wordpiece(vocab_json *v, const cJSON *model) {
  int64_t most = 100;
  const cJSON *item = vocab_json_get(model, "max_input_chars_per_word");
  if (item) QN_TRY(vocab_json_int(v, item, "model.max_input_chars_per_word", 1, INT32_MAX, &most));
  v->out->max_word = (uint32_t)most;
  v->out->next_prefix = QN_STR("##");
  QN_TRY(vocab_json_text(v, model, "model", "continuing_subword_prefix", &v->out->next_prefix));
  return read_unknown(v, model);
}

typedef struct model_part {
  const char *type;
  qn_tokenizer_kind kind;
  qn_status (*read_vocab)(vocab_json *v, const cJSON *vocab, entry_vec *entries);
  qn_status (*read)(vocab_json *v, const cJSON *model);
} model_part;
static const model_part models[] = {
    {"BPE", QN_TOKENIZER_BPE, read_object, read_bpe},
    {"Unigram", QN_TOKENIZER_UNIGRAM, read_scored, read_unigram},
    {"WordPiece", QN_TOKENIZER_WORDPIECE, read_object, read_wordpiece},
};

// Old files do not say which model it is.
static const char *guess_type(const cJSON *model) {
  const cJSON *type = vocab_json_get(model, "type");
  if (cJSON_IsString(type)) return type->valuestring;
  if (vocab_json_get(model, "merges")) return "BPE";
  return cJSON_IsArray(vocab_json_get(model, "vocab")) ? "Unigram" : "WordPiece";
}

static qn_status find_model(vocab_json *v, const cJSON *model, const model_part **out) {
  if (!cJSON_IsObject(model)) return qn_json_fail(&v->json, QN_ERR_FORMAT, "model", "want an object {...}");
  const char *type = guess_type(model);
  for (size_t i = 0; i < QN_COUNT(models); i++) {
    *out = &models[i];
    if (strcmp(models[i].type, type) == 0) return QN_OK;
  }
  return qn_json_fail(&v->json, QN_ERR_UNSUPPORTED, "model.type", "got '%.40s', want BPE, Unigram or WordPiece", type);
}

// ---- tokens that were added --------------------------------------------------------------------------------------

typedef struct added {
  qn_str text;
  int64_t id;
  uint8_t type;
} added;
typedef QN_VEC(added) added_vec;

static qn_status read_added(vocab_json *v, const cJSON *item, const char *path, added *out) {
  static const struct {
    const char *key;
    uint8_t flag;
  } flags[] = {{"lstrip", QN_TOKEN_TAKES_BEFORE},
               {"rstrip", QN_TOKEN_TAKES_SPACE},
               {"single_word", QN_TOKEN_SINGLE_WORD},
               {"normalized", QN_TOKEN_NORMALIZED}};
  bool special = false;
  QN_TRY(qn_json_object(&v->json, item, path, NULL));
  QN_TRY(vocab_json_text(v, item, path, "content", &out->text));
  QN_TRY(vocab_json_int(v, vocab_json_get(item, "id"), qn_json_key_path(&v->json, path, "id"), 0, MAX_ID, &out->id));
  QN_TRY(vocab_json_bool(v, item, path, "special", &special));
  out->type = special ? QN_TOKEN_CONTROL : QN_TOKEN_USER_DEFINED;
  for (size_t i = 0; i < QN_COUNT(flags); i++) {
    bool set = false;
    QN_TRY(vocab_json_bool(v, item, path, flags[i].key, &set));
    if (set) out->type |= flags[i].flag;
  }
  uint64_t id;
  if (qn_map_get(&v->ids, out->text, &id) && id != (uint64_t)out->id) {
    return qn_json_fail(&v->json, QN_ERR_FORMAT, path,
                        "the token '%.*s' has id %" PRId64 " here, and %" PRIu64 " before",
                        (int)(out->text.length < 64 ? out->text.length : 64), out->text.data, out->id, id);
  }
  return QN_OK;
}

static qn_status read_all_added(vocab_json *v, const cJSON *list, added_vec *all) {
  const cJSON *item;
  size_t index = 0;
  if (!list) return QN_OK;
  QN_TRY(qn_json_array(&v->json, list, "added_tokens", 0, MAX_ID));
  cJSON_ArrayForEach(item, list) {
    added a = {0};
    QN_TRY(read_added(v, item, qn_json_index_path(&v->json, "added_tokens", index++), &a));
    if (a.text.length == 0) continue;
    if (!qn_map_put(&v->ids, a.text, (uint64_t)a.id) || !qn_vec_push_arena(v->arena, all, a)) return no_memory(v);
  }
  return QN_OK;
}

static bool is_byte_token(qn_str text) {
  return text.length == 6 && memcmp(text.data, "<0x", 3) == 0 && text.data[5] == '>' &&
         strspn(text.data + 3, "0123456789ABCDEFabcdef") >= 2;
}

static qn_status place_token(vocab_json *v, qn_str *tokens, int64_t id, qn_str text) {
  if (tokens[id].data != NULL && !qn_str_equal(tokens[id], text)) {
    return qn_json_fail(&v->json, QN_ERR_FORMAT, "model.vocab", "id %" PRId64 " is both '%.*s' and '%.*s'", id,
                        (int)(tokens[id].length < 64 ? tokens[id].length : 64), tokens[id].data,
                        (int)(text.length < 64 ? text.length : 64), text.data);
  }
  tokens[id] = text;
  return QN_OK;
}

// Entries and added tokens by id. Ids that nobody has are tokens without a text.
static qn_status arrange(vocab_json *v, const entry_vec *entries, const added_vec *all) {
  int64_t most = -1;
  size_t known = entries->count + all->count;
  for (size_t i = 0; i < entries->count; i++) most = entries->items[i].id > most ? entries->items[i].id : most;
  for (size_t i = 0; i < all->count; i++) most = all->items[i].id > most ? all->items[i].id : most;
  if (most < 0) return qn_json_fail(&v->json, QN_ERR_FORMAT, "model.vocab", "has no tokens");
  if ((uint64_t)most > 4 * (uint64_t)known + 1024) {
    return qn_json_fail(&v->json, QN_ERR_FORMAT, "model.vocab", "has %zu tokens, but ids up to %" PRId64, known, most);
  }
  size_t count = (size_t)most + 1;
  qn_str *tokens = QN_ARENA_ARRAY(v->arena, count, qn_str);
  uint8_t *types = QN_ARENA_ARRAY(v->arena, count, uint8_t);
  double *scores = QN_ARENA_ARRAY(v->arena, count, double);
  if (!tokens || !types || !scores) return no_memory(v);
  memset(types, QN_TOKEN_NORMAL, count);
  for (size_t i = 0; i < entries->count; i++) {
    const entry *e = &entries->items[i];
    QN_TRY(place_token(v, tokens, e->id, e->text));
    scores[e->id] = e->score;
  }
  for (size_t i = 0; i < all->count; i++) {
    QN_TRY(place_token(v, tokens, all->items[i].id, all->items[i].text));
    types[all->items[i].id] = all->items[i].type;
  }
  for (size_t i = 0; i < count; i++) {
    if (tokens[i].data == NULL) tokens[i] = QN_STR("");
  }
  v->out->tokens = tokens;
  v->out->token_count = count;
  v->out->types = types;
  v->out->scores64 = v->out->kind == QN_TOKENIZER_UNIGRAM ? scores : NULL;
  return QN_OK;
}

static void mark_bytes(vocab_json *v) {
  uint8_t *types = (uint8_t *)(uintptr_t)v->out->types;  // ours
  for (size_t i = 0; v->byte_fallback && i < v->out->token_count; i++) {
    if (types[i] == QN_TOKEN_NORMAL && is_byte_token(v->out->tokens[i])) types[i] = QN_TOKEN_BYTE;
  }
}

static qn_status read_root(vocab_json *v, const cJSON *root) {
  const model_part *part;
  entry_vec entries = {0};
  added_vec all = {0};
  QN_TRY(qn_json_object(&v->json, root, "", NULL));
  const cJSON *model = vocab_json_get(root, "model");
  QN_TRY(find_model(v, model, &part));
  v->out->kind = part->kind;
  QN_TRY(part->read_vocab(v, vocab_json_get(model, "vocab"), &entries));
  QN_TRY(read_all_added(v, vocab_json_get(root, "added_tokens"), &all));
  QN_TRY(arrange(v, &entries, &all));
  QN_TRY(part->read(v, model));
  mark_bytes(v);
  if (part->kind == QN_TOKENIZER_BPE) QN_TRY(read_merges(v, vocab_json_get(model, "merges")));
  QN_TRY(vocab_json_normalizer(v, vocab_json_get(root, "normalizer")));
  QN_TRY(vocab_json_pre_tokenizer(v, vocab_json_get(root, "pre_tokenizer")));
  QN_TRY(vocab_json_post_processor(v, vocab_json_get(root, "post_processor")));
  QN_TRY(vocab_json_decoder(v, vocab_json_get(root, "decoder")));
  return qn_step_list_finish(&v->steps, v->out, v->json.diag);
}

qn_status qn_vocab_from_json(const char *text, size_t length, const char *name, qn_arena *arena, qn_tokenizer_desc *out,
                             qn_diag *diag) {
  vocab_json v = {.json = {arena, name, diag}, .arena = arena, .out = out, .steps = {.arena = arena}};
  cJSON *root = NULL;
  *out = (qn_tokenizer_desc){.bos = -1, .eos = -1, .unk = -1, .pad = -1};
  QN_TRY(qn_json_parse(&v.json, text, length, &root));
  qn_map_init(&v.ids, arena->allocator);
  qn_status status = read_root(&v, root);
  qn_map_deinit(&v.ids);
  cJSON_Delete(root);
  return status;
}
