// The vocabulary of a Hugging Face folder: tokenizer.json or tokenizer.model, or older files, and what the files beside it say.
#include "frontend/import/vocab_folder.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/import/vocab_files.h"
#include "runtime/base/file.h"
#include "runtime/base/vec.h"

typedef struct folder {
  const char *path;
  qn_arena *arena;
  qn_tokenizer_desc *out;
  qn_diag *diag;
  QN_VEC(int32_t) ends;                 // arena
  cJSON *config, *special_map, *added;  // owned; NULL: there is no such file
  cJSON *generation, *model_config;     // owned
} folder;

static qn_status no_memory(folder *f, const char *what) { return qn_fail_nomem(f->diag, f->path, what); }

// *out is "folder/name" in the arena, or NULL when there is no such file.
static qn_status find_file(folder *f, const char *name, const char **out) {
  size_t length = strlen(f->path);
  const char *slash = length > 0 && f->path[length - 1] == '/' ? "" : "/";
  const char *path = qn_arena_printf(f->arena, "%s%s%s", f->path, slash, name);
  if (!path) return no_memory(f, "a path");
  *out = qn_file_is_there(path) ? path : NULL;
  return QN_OK;
}

// Parses a file of the folder; *out stays NULL when it is not there.
static qn_status read_json(folder *f, const char *name, cJSON **out) {
  const char *path;
  char *text;
  size_t size;
  QN_TRY(find_file(f, name, &path));
  if (!path) return QN_OK;
  QN_TRY(qn_file_read(path, QN_TEXT_MAX, f->arena->allocator, &text, &size, f->diag));
  const qn_json json = {f->arena, path, f->diag};
  qn_status status = qn_json_parse(&json, text, size, out);
  if (status == QN_OK && !cJSON_IsObject(*out)) status = qn_fail(f->diag, QN_ERR_FORMAT, path, "want an object {...}");
  qn_free(f->arena->allocator, text, size + 1);
  return status;
}

static const cJSON *get(const cJSON *object, const char *key) {
  const cJSON *item = object ? qn_json_get(object, key) : NULL;
  return item && !cJSON_IsNull(item) ? item : NULL;
}

// ---- tokens by name ----------------------------------------------------------------------------------------------

static int32_t find_token(const qn_tokenizer_desc *desc, const char *text) {
  for (size_t i = 0; i < desc->token_count; i++) {
    if (qn_str_is(desc->tokens[i], text)) return (int32_t)i;
  }
  return -1;
}

// "bos_token": "<s>" or {"content": "<s>", ...}, of tokenizer_config.json or of special_tokens_map.json.
static qn_status name_token(folder *f, const char *key, int32_t *out) {
  const cJSON *item = get(f->config, key);
  const char *file = item ? "tokenizer_config.json" : "special_tokens_map.json";
  if (!item) item = get(f->special_map, key);
  if (cJSON_IsObject(item)) item = get(item, "content");
  if (!item) return QN_OK;
  if (!cJSON_IsString(item)) {
    return qn_fail(f->diag, QN_ERR_FORMAT, f->path, "%s: %s: want a token's text", file, key);
  }
  int32_t id = find_token(f->out, item->valuestring);
  if (id < 0 && item->valuestring[0] != 0) {
    return qn_fail(f->diag, QN_ERR_FORMAT, f->path, "%s: %s is '%.64s', which is not in the vocabulary of %zu tokens",
                   file, key, item->valuestring, f->out->token_count);
  }
  *out = id;
  return QN_OK;
}

static qn_status name_tokens(folder *f) {
  QN_TRY(name_token(f, "bos_token", &f->out->bos));
  QN_TRY(name_token(f, "eos_token", &f->out->eos));
  return name_token(f, "pad_token", &f->out->pad);
}

// ---- tokens that end a generation ----------------------------------------------------------------------------------

static qn_status add_end(folder *f, const cJSON *item, const char *file) {
  double id = cJSON_IsNumber(item) ? item->valuedouble : -1;
  if (id != floor(id) || id < 0) {
    return qn_fail(f->diag, QN_ERR_FORMAT, f->path, "%s: eos_token_id: want a token id or a list of them", file);
  }
  if (id >= (double)f->out->token_count) return QN_OK;  // a row of the embedding that the tokenizer does not know
  if (f->out->eos < 0) f->out->eos = (int32_t)id;
  return qn_vec_push_arena(f->arena, &f->ends, (int32_t)id) ? QN_OK : no_memory(f, "tokens that end a text");
}

static qn_status add_ends(folder *f) {
  const cJSON *list = get(f->generation, "eos_token_id"), *item;
  const char *file = list ? "generation_config.json" : "config.json";
  if (!list) list = get(f->model_config, "eos_token_id");
  if (!list) return QN_OK;
  if (cJSON_IsArray(list)) {
    cJSON_ArrayForEach(item, list) QN_TRY(add_end(f, item, file));
  } else {
    QN_TRY(add_end(f, list, file));
  }
  f->out->ends = f->ends.items;
  f->out->end_count = f->ends.count;
  return QN_OK;
}

// ---- what was added to a tokenizer.model ---------------------------------------------------------------------------

typedef struct extra {
  int64_t id;
  const char *text;
  uint8_t type;
} extra;
typedef QN_VEC(extra) extra_vec;

static bool is_true(const cJSON *item, const char *key) { return cJSON_IsTrue(get(item, key)); }

// {"32000": {"content": "<|end|>", "special": true, ...}, ...}
static qn_status read_decoder(folder *f, const cJSON *list, extra_vec *extras) {
  const cJSON *item;
  if (list && !cJSON_IsObject(list)) {
    return qn_fail(f->diag, QN_ERR_FORMAT, f->path,
                   "tokenizer_config.json: added_tokens_decoder: want an object of ids with {\"content\": ...}");
  }
  cJSON_ArrayForEach(item, list) {
    const cJSON *content = get(item, "content");
    char *end;
    long long id = strtoll(item->string, &end, 10);
    if (*end || end == item->string || id < 0 || id >= 1 << 24 || !cJSON_IsString(content)) {
      return qn_fail(f->diag, QN_ERR_FORMAT, f->path,
                     "tokenizer_config.json: added_tokens_decoder: '%.40s': want an id with {\"content\": ...}",
                     item->string);
    }
    unsigned type = is_true(item, "special") ? QN_TOKEN_CONTROL : QN_TOKEN_USER_DEFINED;
    type |=
        (is_true(item, "lstrip") ? QN_TOKEN_TAKES_BEFORE : 0u) | (is_true(item, "rstrip") ? QN_TOKEN_TAKES_SPACE : 0u);
    type |= is_true(item, "single_word") ? QN_TOKEN_SINGLE_WORD : 0u;
    type |= is_true(item, "normalized") ? QN_TOKEN_NORMALIZED : 0u;
    extra e = {id, qn_arena_strdup(f->arena, content->valuestring), (uint8_t)type};
    if (!e.text || !qn_vec_push_arena(f->arena, extras, e)) return no_memory(f, "added tokens");
  }
  return QN_OK;
}

// {"<|end|>": 32000, ...}: without more, these are plain texts that are found as they are.
static qn_status read_added(folder *f, extra_vec *extras) {
  const cJSON *item;
  cJSON_ArrayForEach(item, f->added) {
    double id = cJSON_IsNumber(item) ? item->valuedouble : -1;
    if (id != floor(id) || id < 0 || id >= 1 << 24) {
      return qn_fail(f->diag, QN_ERR_FORMAT, f->path, "added_tokens.json: '%.40s': want a token id", item->string);
    }
    extra e = {(int64_t)id, qn_arena_strdup(f->arena, item->string), QN_TOKEN_USER_DEFINED};
    if (!e.text || !qn_vec_push_arena(f->arena, extras, e)) return no_memory(f, "added tokens");
  }
  return QN_OK;
}

static qn_status place_extra(folder *f, const extra *e, qn_str *tokens, uint8_t *types) {
  qn_str text = qn_str_from(e->text);
  if (tokens[e->id].length > 0 && !qn_str_equal(tokens[e->id], text)) {
    return qn_fail(f->diag, QN_ERR_FORMAT, f->path, "the added token '%.64s' has the id %" PRId64 " of '%.*s'", e->text,
                   e->id, (int)(tokens[e->id].length < 64 ? tokens[e->id].length : 64), tokens[e->id].data);
  }
  bool plain = types[e->id] != QN_TOKEN_UNKNOWN && types[e->id] != QN_TOKEN_CONTROL;
  tokens[e->id] = text;
  if (plain) types[e->id] = e->type;
  return QN_OK;
}

static qn_status add_extras(folder *f) {
  extra_vec extras = {0};
  const cJSON *decoder = get(f->config, "added_tokens_decoder");
  QN_TRY(read_decoder(f, decoder, &extras));
  if (!decoder) QN_TRY(read_added(f, &extras));
  size_t had = f->out->token_count, count = had;
  for (size_t i = 0; i < extras.count; i++) {
    if ((size_t)extras.items[i].id >= count) count = (size_t)extras.items[i].id + 1;
  }
  if (count - had > 4 * extras.count + 1024) {
    return qn_fail(f->diag, QN_ERR_FORMAT, f->path, "%zu added tokens have ids up to %zu, the vocabulary has %zu",
                   extras.count, count - 1, had);
  }
  qn_str *tokens = QN_ARENA_ARRAY(f->arena, count, qn_str);
  uint8_t *types = QN_ARENA_ARRAY(f->arena, count, uint8_t);
  float *scores = QN_ARENA_ARRAY(f->arena, count, float);
  if (!tokens || !types || !scores) return no_memory(f, "added tokens");
  for (size_t i = 0; i < count; i++) {
    tokens[i] = i < had ? f->out->tokens[i] : QN_STR("");
    types[i] = i < had ? f->out->types[i] : QN_TOKEN_UNUSED;
    scores[i] = i < had ? f->out->scores[i] : 0;
  }
  for (size_t i = 0; i < extras.count; i++) QN_TRY(place_extra(f, &extras.items[i], tokens, types));
  f->out->tokens = tokens, f->out->types = types, f->out->scores = scores;
  f->out->token_count = count;
  return QN_OK;
}

// A tokenizer.model does not say what goes around a text.
static qn_status read_around(folder *f) {
  int32_t *ids = QN_ARENA_ARRAY(f->arena, 2, int32_t);
  bool bos = f->out->before_count > 0, eos = f->out->after_count > 0;
  if (!ids) return no_memory(f, "the tokens around a text");
  if (get(f->config, "add_bos_token")) bos = is_true(f->config, "add_bos_token");
  if (get(f->config, "add_eos_token")) eos = is_true(f->config, "add_eos_token");
  if ((bos && f->out->bos < 0) || (eos && f->out->eos < 0)) {
    return qn_fail(f->diag, QN_ERR_FORMAT, f->path,
                   "tokenizer_config.json: add_%s_token is true, but there is no such token",
                   bos && f->out->bos < 0 ? "bos" : "eos");
  }
  ids[0] = f->out->bos;
  ids[1] = f->out->eos;
  f->out->before = ids, f->out->before_count = bos;
  f->out->after = ids + 1, f->out->after_count = eos;
  return QN_OK;
}

// ---- the folder --------------------------------------------------------------------------------------------------

// One that is in the files of older days.
static qn_status read_files(folder *f, bool *out_found) {
  qn_vocab_files files = {.folder = f->path,
                          .config = f->config,
                          .special_map = f->special_map,
                          .added = f->added,
                          .model_config = f->model_config};
  char *text;
  QN_TRY(find_file(f, "vocab.txt", &files.vocab_txt));
  QN_TRY(find_file(f, "vocab.json", &files.vocab_json));
  QN_TRY(find_file(f, "merges.txt", &files.merges));
  QN_TRY(qn_vocab_files_to_json(&files, f->arena, &text, f->diag));
  *out_found = text != NULL;
  if (!text) return QN_OK;
  const char *path = files.vocab_txt ? files.vocab_txt : files.vocab_json;
  qn_status status = qn_vocab_from_json(text, strlen(text), path, f->arena, f->out, f->diag);
  cJSON_free(text);
  return status == QN_OK ? name_tokens(f) : status;
}

static qn_status read_tokenizer(folder *f, bool *out_found) {
  const char *json, *model = NULL;
  char *data;
  size_t size;
  QN_TRY(find_file(f, "tokenizer.json", &json));
  if (!json) QN_TRY(find_file(f, "tokenizer.model", &model));
  const char *path = json ? json : model;
  *out_found = path != NULL;
  if (!path) return read_files(f, out_found);
  QN_TRY(qn_file_read(path, QN_TEXT_MAX, f->arena->allocator, &data, &size, f->diag));
  qn_status status = json ? qn_vocab_from_json(data, size, path, f->arena, f->out, f->diag)
                          : qn_vocab_from_sentencepiece(data, size, path, f->arena, f->out, f->diag);
  qn_free(f->arena->allocator, data, size + 1);
  if (status == QN_OK && model) status = add_extras(f);
  if (status == QN_OK) status = name_tokens(f);
  if (status == QN_OK && model) status = read_around(f);
  return status;
}

static qn_status read_folder(folder *f, int64_t vocab_size, bool *out_found) {
  const struct {
    const char *name;
    cJSON **to;
  } files[] = {{"tokenizer_config.json", &f->config},
               {"special_tokens_map.json", &f->special_map},
               {"added_tokens.json", &f->added},
               {"generation_config.json", &f->generation},
               {"config.json", &f->model_config}};
  for (size_t i = 0; i < QN_COUNT(files); i++) QN_TRY(read_json(f, files[i].name, files[i].to));
  QN_TRY(read_tokenizer(f, out_found));
  if (!*out_found) return QN_OK;
  QN_TRY(add_ends(f));
  if (vocab_size <= 0 || f->out->token_count <= (uint64_t)vocab_size) return QN_OK;
  return qn_fail(f->diag, QN_ERR_FORMAT, f->path,
                 "the tokenizer has %zu tokens, want at most %" PRId64 ", the rows of the model's embedding",
                 f->out->token_count, vocab_size);
}

qn_status qn_vocab_from_folder(const char *path, int64_t vocab_size, qn_arena *arena, qn_tokenizer_desc *out,
                               bool *out_found, qn_diag *diag) {
  folder f = {.path = path, .arena = arena, .out = out, .diag = diag};
  bool found = false;
  *out = (qn_tokenizer_desc){.bos = -1, .eos = -1, .unk = -1, .pad = -1};
  qn_status status = read_folder(&f, vocab_size, &found);
  cJSON *const trees[] = {f.config, f.special_map, f.added, f.generation, f.model_config};
  for (size_t i = 0; i < QN_COUNT(trees); i++) cJSON_Delete(trees[i]);
  if (out_found) {
    *out_found = found;
  } else if (status == QN_OK && !found) {
    status = qn_fail(diag, QN_ERR_UNSUPPORTED, path,
                     "has neither tokenizer.json nor tokenizer.model, nor vocab.txt, nor vocab.json with merges.txt; save "
                     "the tokenizer anew with transformers");
  }
  return status;
}
