// vocab.txt, or vocab.json and merges.txt → tokenizer.json, by what tokenizer_config.json says.
#include "frontend/import/vocab_files.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/file.h"
#include "runtime/base/map.h"

// A class of transformers: how its tokenizers cut texts and what goes around them.
typedef struct tokenizer_class {
  const char *name, *model_type;  // without "Fast"; a model_type that means it where no class is named
  bool wordpiece, around;         // around: the tokens cls and sep
  bool lower;                     // do_lower_case where it is not said
  const char *unk, *cls, *sep, *pad, *mask, *bos, *eos;  // NULL = none
} tokenizer_class;

static const tokenizer_class classes[] = {
    {"BertTokenizer", "bert", true, true, true, "[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", NULL, NULL},
    {"DistilBertTokenizer", "distilbert", true, true, true, "[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", NULL, NULL},
    {"MPNetTokenizer", "mpnet", true, true, true, "[UNK]", "<s>", "</s>", "<pad>", "<mask>", NULL, NULL},
    {"BertTokenizer", "nomic_bert", true, true, true, "[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", NULL, NULL},
    {"RobertaTokenizer", "roberta", false, true, false, "<unk>", "<s>", "</s>", "<pad>", "<mask>", "<s>", "</s>"},
    {"BartTokenizer", "bart", false, true, false, "<unk>", "<s>", "</s>", "<pad>", "<mask>", "<s>", "</s>"},
    {"GPT2Tokenizer", "gpt2", false, false, false, "<|endoftext|>", NULL, NULL, NULL, NULL, "<|endoftext|>",
     "<|endoftext|>"},
};

typedef struct reader {
  const qn_vocab_files *files;
  qn_arena *arena;
  qn_diag *diag;
  const tokenizer_class *class;
  cJSON *vocab;   // of the model: token → id; borrowed, of the tree that is made
  qn_map added;   // texts of added tokens
  cJSON *tokens;  // added_tokens, borrowed
} reader;

static qn_status no_memory(const reader *r) { return qn_fail_nomem(r->diag, r->files->folder, "its tokenizer"); }

static const cJSON *get(const cJSON *object, const char *key) {
  const cJSON *item = object ? qn_json_get(object, key) : NULL;
  return item && !cJSON_IsNull(item) ? item : NULL;
}

// ---- which class
// -----------------------------------------------------------------------------------------------------

static const char *text_of(const cJSON *object, const char *key) {
  const cJSON *item = get(object, key);
  return cJSON_IsString(item) ? item->valuestring : NULL;
}

static qn_status find_class(reader *r) {
  const char *name = text_of(r->files->config, "tokenizer_class");
  if (!name) name = text_of(r->files->model_config, "tokenizer_class");
  const char *type = text_of(r->files->model_config, "model_type");
  bool wordpiece = r->files->vocab_txt != NULL;
  for (size_t i = 0; i < QN_COUNT(classes) && !r->class; i++) {
    size_t length = strlen(classes[i].name);
    bool named = name && strncmp(name, classes[i].name, length) == 0 &&
                 (name[length] == 0 || strcmp(name + length, "Fast") == 0);
    bool meant = !name && type && strcmp(type, classes[i].model_type) == 0;
    if ((named || meant) && classes[i].wordpiece == wordpiece) r->class = &classes[i];
  }
  if (r->class) return QN_OK;
  return qn_fail(r->diag, QN_ERR_UNSUPPORTED, r->files->folder,
                 "has no tokenizer.json but %s, of the tokenizer_class '%s' (model_type '%s'), which is not known from "
                 "these files alone; save the tokenizer anew with transformers, which writes tokenizer.json",
                 wordpiece ? "vocab.txt" : "vocab.json and merges.txt", name ? name : "", type ? type : "");
}

// ---- files
// -----------------------------------------------------------------------------------------------------------

static qn_status read_file(const reader *r, const char *path, char **out, size_t *out_size) {
  return qn_file_read(path, QN_TEXT_MAX, r->arena->allocator, out, out_size, r->diag);
}

// The next line of text, without its end; false after the last.
static bool next_line(char **at, char *end, qn_str *out) {
  if (*at >= end) return false;
  char *line = *at, *stop = memchr(line, '\n', (size_t)(end - line));
  *at = stop ? stop + 1 : end;
  if (!stop) stop = end;
  if (stop > line && stop[-1] == '\r') stop--;
  *out = (qn_str){line, (size_t)(stop - line)};
  return true;
}

// Each line becomes a value of JSON.
static qn_status check_lines(const reader *r, const char *path, const char *text, size_t size) {
  size_t lines = 0;
  for (const char *at = text; (at = memchr(at, '\n', (size_t)(text + size - at))) != NULL; at++) lines++;
  if (lines <= QN_JSON_MOST_VALUES) return QN_OK;
  return qn_fail(r->diag, QN_ERR_LIMIT, path, "got %zu lines, want at most %d", lines, QN_JSON_MOST_VALUES);
}

// Of a token that is there twice the last line counts.
static qn_status add_lines(reader *r, char *text, size_t size) {
  qn_map last;
  qn_str line;
  uint64_t id = 0, of;
  bool made = true;
  char *at = text;
  qn_map_init(&last, r->arena->allocator);
  while (made && next_line(&at, text + size, &line)) made = qn_map_put(&last, line, id++);
  at = text;
  id = 0;
  while (made && next_line(&at, text + size, &line)) {
    if (!qn_map_get(&last, line, &of) || of != id++) continue;
    const char *token = qn_arena_strndup(r->arena, line.data, line.length);
    made = token && cJSON_AddNumberToObject(r->vocab, token, (double)of) != NULL;
  }
  qn_map_deinit(&last);
  return made ? QN_OK : no_memory(r);
}

static qn_status read_lines(reader *r) {
  char *text;
  size_t size;
  QN_TRY(read_file(r, r->files->vocab_txt, &text, &size));
  qn_status status = check_lines(r, r->files->vocab_txt, text, size);
  if (status == QN_OK) status = add_lines(r, text, size);
  qn_free(r->arena->allocator, text, size + 1);
  return status;
}

static qn_status read_vocabulary(reader *r, cJSON *model) {
  qn_json json = {.arena = r->arena, .file = r->files->vocab_json, .diag = r->diag};
  char *text;
  size_t size;
  QN_TRY(read_file(r, json.file, &text, &size));
  qn_status status = qn_json_parse(&json, text, size, &r->vocab);
  qn_free(r->arena->allocator, text, size + 1);
  QN_TRY(status);
  if (!cJSON_AddItemToObject(model, "vocab", r->vocab)) {
    cJSON_Delete(r->vocab);
    return no_memory(r);
  }
  if (cJSON_IsObject(r->vocab)) return QN_OK;
  return qn_fail(r->diag, QN_ERR_FORMAT, json.file, "is no JSON object of tokens and ids");
}

static qn_status add_merges(reader *r, cJSON *merges, char *text, size_t size) {
  char *at = text;
  qn_str line;
  QN_TRY(check_lines(r, r->files->merges, text, size));
  for (bool first = true; next_line(&at, text + size, &line); first = false) {
    if (line.length == 0 || (first && line.length >= 8 && memcmp(line.data, "#version", 8) == 0)) continue;
    const char *merge = qn_arena_strndup(r->arena, line.data, line.length);
    cJSON *item = merge ? cJSON_CreateString(merge) : NULL;
    if (!item || !cJSON_AddItemToArray(merges, item)) return no_memory(r);
  }
  return QN_OK;
}

static qn_status read_bpe(reader *r, cJSON *model) {
  char *text;
  size_t size;
  QN_TRY(read_vocabulary(r, model));
  cJSON *merges = cJSON_AddArrayToObject(model, "merges");
  if (!merges) return no_memory(r);
  QN_TRY(read_file(r, r->files->merges, &text, &size));
  qn_status status = add_merges(r, merges, text, size);
  qn_free(r->arena->allocator, text, size + 1);
  return status;
}

// ---- added tokens
// ----------------------------------------------------------------------------------------------------

// An added token, the first of its text; without an id it is the vocabulary's, and none where that has none.
static qn_status add_token(reader *r, const char *text, int64_t id, const cJSON *flags, bool special, bool lstrip) {
  static const char *const names[] = {"single_word", "lstrip", "rstrip", "normalized", "special"};
  const cJSON *known = id < 0 ? get(r->vocab, text) : NULL;
  if (id < 0 && !cJSON_IsNumber(known)) return QN_OK;
  if (qn_map_get(&r->added, qn_str_from(text), NULL)) return QN_OK;
  const bool standard[] = {false, lstrip, false, !special, special};
  cJSON *token = cJSON_CreateObject();
  bool made = token && cJSON_AddItemToArray(r->tokens, token) &&
              cJSON_AddNumberToObject(token, "id", id < 0 ? known->valuedouble : (double)id) &&
              cJSON_AddStringToObject(token, "content", text);
  for (size_t i = 0; i < QN_COUNT(names) && made; i++) {
    const cJSON *flag = cJSON_IsObject(flags) ? get(flags, names[i]) : NULL;
    made = cJSON_AddBoolToObject(token, names[i], flag ? cJSON_IsTrue(flag) : standard[i]) != NULL;
  }
  return made && qn_map_put(&r->added, qn_str_from(text), 1) ? QN_OK : no_memory(r);
}

enum { IDS_MOST = 1 << 24 };

// {"30522": {"content": ...}} of tokenizer_config.json, {"text": 30522} of added_tokens.json.
static qn_status add_listed(reader *r) {
  const cJSON *item, *list = get(r->files->config, "added_tokens_decoder");
  if (list && !cJSON_IsObject(list)) {
    return qn_fail(r->diag, QN_ERR_FORMAT, r->files->folder,
                   "tokenizer_config.json: added_tokens_decoder: want an object of ids with {\"content\": ...}");
  }
  cJSON_ArrayForEach(item, list) {
    const char *text = text_of(item, "content");
    char *end;
    long long id = strtoll(item->string, &end, 10);
    if (*end || end == item->string || id < 0 || id >= IDS_MOST || !text) {
      return qn_fail(r->diag, QN_ERR_FORMAT, r->files->folder,
                     "tokenizer_config.json: added_tokens_decoder: '%.40s': want an id with {\"content\": ...}",
                     item->string);
    }
    QN_TRY(add_token(r, text, id, item, false, false));
  }
  cJSON_ArrayForEach(item, r->files->added) {
    double id = cJSON_IsNumber(item) ? item->valuedouble : -1;
    if (!item->string || !(id >= 0 && id < IDS_MOST && floor(id) == id)) {
      return qn_fail(r->diag, QN_ERR_FORMAT, r->files->folder, "added_tokens.json: '%.40s': want a text with its id",
                     item->string ? item->string : "");
    }
    QN_TRY(add_token(r, item->string, (int64_t)id, NULL, false, false));
  }
  return QN_OK;
}

// The text of a special token: as tokenizer_config.json or special_tokens_map.json has it, or the class's.
static const char *special_text(const reader *r, const char *key, const char *standard, const cJSON **out_flags) {
  const cJSON *item = get(r->files->config, key);
  if (!item) item = get(r->files->special_map, key);
  *out_flags = item;
  if (cJSON_IsObject(item)) item = get(item, "content");
  return cJSON_IsString(item) ? item->valuestring : standard;
}

static qn_status add_special(reader *r) {
  const tokenizer_class *c = r->class;
  const struct {
    const char *key, *standard;
  } tokens[] = {{"pad_token", c->pad}, {"unk_token", c->unk}, {"cls_token", c->cls},  {"sep_token", c->sep},
                {"bos_token", c->bos}, {"eos_token", c->eos}, {"mask_token", c->mask}};
  for (size_t i = 0; i < QN_COUNT(tokens); i++) {
    const cJSON *flags;
    const char *text = special_text(r, tokens[i].key, tokens[i].standard, &flags);
    bool mask = !c->wordpiece && strcmp(tokens[i].key, "mask_token") == 0;  // takes the space before it
    if (text && *text) QN_TRY(add_token(r, text, -1, flags, true, mask));
  }
  return QN_OK;
}

// ---- the pipeline
// ----------------------------------------------------------------------------------------------------

static bool flag_of(const reader *r, const char *key, bool standard) {
  const cJSON *item = get(r->files->config, key);
  return item ? cJSON_IsTrue(item) : standard;
}

// {"type": ...} under a key of the tree.
static cJSON *add_part(cJSON *root, const char *key, const char *type) {
  cJSON *part = cJSON_AddObjectToObject(root, key);
  return part && cJSON_AddStringToObject(part, "type", type) ? part : NULL;
}

static bool add_normalizer(const reader *r, cJSON *root) {
  cJSON *part = add_part(root, "normalizer", "BertNormalizer");
  const cJSON *strip = get(r->files->config, "strip_accents");
  return part && cJSON_AddBoolToObject(part, "clean_text", true) &&
         cJSON_AddBoolToObject(part, "handle_chinese_chars", flag_of(r, "tokenize_chinese_chars", true)) &&
         (strip ? cJSON_AddBoolToObject(part, "strip_accents", cJSON_IsTrue(strip))
                : cJSON_AddNullToObject(part, "strip_accents")) &&
         cJSON_AddBoolToObject(part, "lowercase", flag_of(r, "do_lower_case", r->class->lower));
}

// ["[SEP]", 102] under a key.
static bool add_pair(cJSON *part, const char *key, const char *text, double id) {
  cJSON *pair = cJSON_AddArrayToObject(part, key), *name = cJSON_CreateString(text), *number = cJSON_CreateNumber(id);
  if (pair && name && number) return cJSON_AddItemToArray(pair, name) && cJSON_AddItemToArray(pair, number);
  cJSON_Delete(name);
  cJSON_Delete(number);
  return false;
}

static qn_status add_around(const reader *r, cJSON *root) {
  static const char *const keys[] = {"cls", "sep"};
  const char *const standard[] = {r->class->cls, r->class->sep};
  cJSON *part = add_part(root, "post_processor", r->class->wordpiece ? "BertProcessing" : "RobertaProcessing");
  if (!part) return no_memory(r);
  for (int i = 0; i < 2; i++) {
    char key[16];
    const cJSON *flags;
    snprintf(key, sizeof key, "%s_token", keys[i]);
    const char *text = special_text(r, key, standard[i], &flags);
    const cJSON *id = get(r->vocab, text);
    if (!cJSON_IsNumber(id)) {
      return qn_fail(r->diag, QN_ERR_FORMAT, r->files->folder,
                     "%s is '%.64s', which is not in the vocabulary of %d tokens", key, text,
                     cJSON_GetArraySize(r->vocab));
    }
    if (!add_pair(part, keys[i], text, id->valuedouble)) return no_memory(r);
  }
  if (r->class->wordpiece) return QN_OK;
  bool made = cJSON_AddBoolToObject(part, "trim_offsets", true) &&
              cJSON_AddBoolToObject(part, "add_prefix_space", flag_of(r, "add_prefix_space", false));
  return made ? QN_OK : no_memory(r);
}

static qn_status add_wordpiece(reader *r, cJSON *root) {
  const cJSON *flags;
  cJSON *model = add_part(root, "model", "WordPiece"), *decoder = add_part(root, "decoder", "WordPiece");
  bool made = model && decoder && cJSON_AddStringToObject(decoder, "prefix", "##") &&
              cJSON_AddBoolToObject(decoder, "cleanup", true) && add_normalizer(r, root) &&
              add_part(root, "pre_tokenizer", "BertPreTokenizer") &&
              cJSON_AddStringToObject(model, "unk_token", special_text(r, "unk_token", r->class->unk, &flags)) &&
              cJSON_AddStringToObject(model, "continuing_subword_prefix", "##") &&
              cJSON_AddNumberToObject(model, "max_input_chars_per_word", 100) &&
              (r->vocab = cJSON_AddObjectToObject(model, "vocab")) != NULL;
  return made ? read_lines(r) : no_memory(r);
}

static qn_status add_bpe(reader *r, cJSON *root) {
  static const char *const parts[] = {"pre_tokenizer", "decoder"};
  cJSON *model = add_part(root, "model", "BPE");
  bool made = model != NULL;
  for (size_t i = 0; i < QN_COUNT(parts) && made; i++) {
    cJSON *part = add_part(root, parts[i], "ByteLevel");
    made = part && cJSON_AddBoolToObject(part, "add_prefix_space", i == 0 && flag_of(r, "add_prefix_space", false)) &&
           cJSON_AddBoolToObject(part, "trim_offsets", true) && cJSON_AddBoolToObject(part, "use_regex", true);
  }
  return made ? read_bpe(r, model) : no_memory(r);
}

static qn_status make_tree(reader *r, cJSON *root) {
  QN_TRY(find_class(r));
  r->tokens = cJSON_AddArrayToObject(root, "added_tokens");
  if (!r->tokens) return no_memory(r);
  QN_TRY(r->class->wordpiece ? add_wordpiece(r, root) : add_bpe(r, root));
  QN_TRY(add_listed(r));
  QN_TRY(add_special(r));
  return r->class->around ? add_around(r, root) : QN_OK;
}

qn_status qn_vocab_files_to_json(const qn_vocab_files *files, qn_arena *arena, char **out, qn_diag *diag) {
  reader r = {.files = files, .arena = arena, .diag = diag};
  *out = NULL;
  if (!files->vocab_txt && !(files->vocab_json && files->merges)) return QN_OK;
  cJSON *root = cJSON_CreateObject();
  qn_map_init(&r.added, arena->allocator);
  qn_status status = root ? make_tree(&r, root) : no_memory(&r);
  if (status == QN_OK && !(*out = cJSON_PrintUnformatted(root))) status = no_memory(&r);
  qn_map_deinit(&r.added);
  cJSON_Delete(root);
  return status;
}
