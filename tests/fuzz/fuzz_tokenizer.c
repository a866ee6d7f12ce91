// Fuzzes the tokenizer's data and its texts: any blob is refused or encodes and decodes any text without leaving its
// memory; vocabularies of GGUF files, tokenizer.json and tokenizer.model that contradict themselves are refused, and so
// are vocab.txt, vocab.json and merges.txt. The input: how many bytes of it are text (one byte), what it is ('b' a blob, 'g' a
// GGUF file, 'j' a tokenizer.json, 'm' a tokenizer.model, 'f' files of older days: tokenizer_config.json, vocab.txt or
// vocab.json, merges.txt, a zero byte between them), the text, the data.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/import/gguf.h"
#include "frontend/import/gguf_write.h"
#include "frontend/import/vocab.h"
#include "frontend/import/vocab_files.h"
#include "frontend/import/vocab_folder.h"
#include "runtime/tokenizer.h"
#include "tests/support/fuzz.h"

enum { HEAD = 2, BLOB = 'b', GGUF = 'g', JSON = 'j', MODEL = 'm', FILES = 'f' };

static void check_error(qn_status status, const qn_diag *diag) {
  fuzz_require(diag->status == status && diag->text[0] != '\0', "an error without words");
  fuzz_require(status != QN_ERR_INTERNAL, "an odd status");
}

static void stream(const qn_tokenizer *t, const qn_token_vec *tokens) {
  qn_detokenizer d;
  qn_str text;
  if (qn_detokenizer_init(&d, t, 0, qn_allocator_default(), NULL) != QN_OK) return;
  for (size_t i = 0; i < tokens->count; i++) {
    fuzz_require(qn_detokenizer_push(&d, tokens->items[i], &text, NULL) == QN_OK, "a token that was made is not taken");
    fuzz_require(text.length == 0 || memchr(text.data, 0, text.length) != text.data - 1, "a text");
  }
  qn_detokenizer_flush(&d);
  qn_detokenizer_deinit(&d);
}

static void encode(const qn_tokenizer *t, qn_str text, unsigned flags) {
  qn_token_vec tokens = {0};
  qn_buf out;
  qn_diag diag = {0};
  qn_buf_init(&out, qn_allocator_default());
  qn_status status = qn_tokenizer_encode(t, text, flags, qn_allocator_default(), &tokens, &diag);
  if (status != QN_OK) check_error(status, &diag);
  for (size_t i = 0; i < tokens.count; i++)
    fuzz_require(tokens.items[i] >= 0 && tokens.items[i] < qn_tokenizer_count(t), "a token out of range");
  status = qn_tokenizer_decode(t, tokens.items, tokens.count, QN_DECODE_SPECIAL, &out, &diag);
  fuzz_require(status == QN_OK, "tokens that were made do not decode");
  stream(t, &tokens);
  qn_vec_free(qn_allocator_default(), &tokens);
  qn_buf_deinit(&out);
}

static void use_blob(const void *blob, size_t size, qn_str text) {
  qn_tokenizer *t;
  qn_diag diag = {0};
  qn_status status = qn_tokenizer_open(blob, size, qn_allocator_default(), &t, &diag);
  if (status != QN_OK) {
    check_error(status, &diag);
    return;
  }
  for (int32_t id = -1; id <= qn_tokenizer_count(t) && id < 1000; id++) {
    qn_str piece = qn_tokenizer_piece(t, id);
    (void)qn_tokenizer_find(t, piece);
    (void)qn_tokenizer_is_eog(t, id);
    (void)qn_tokenizer_type(t, id);
  }
  encode(t, text, 0);
  encode(t, text, QN_ENCODE_SPECIAL | QN_ENCODE_PARSE_SPECIAL);
  qn_tokenizer_close(t);
}

static void use_gguf(const void *data, size_t size, qn_str text) {
  qn_gguf *gguf;
  qn_tokenizer_desc desc;
  qn_arena arena;
  qn_buf blob;
  qn_diag diag = {0};
  if (qn_gguf_open_memory(&gguf, data, size, "fuzz.gguf", qn_allocator_default(), &diag) != QN_OK) return;
  qn_arena_init(&arena, qn_allocator_default());
  qn_buf_init(&blob, qn_allocator_default());
  qn_status status = qn_vocab_from_gguf(gguf, &arena, &desc, &diag);
  if (status == QN_OK) status = qn_tokenizer_serialize(&desc, qn_allocator_default(), &blob, &diag);
  if (status == QN_OK) {
    use_blob(blob.data, blob.length, text);
  } else {
    check_error(status, &diag);
  }
  qn_buf_deinit(&blob);
  qn_arena_deinit(&arena);
  qn_gguf_close(gguf);
}

// A tokenizer.json or tokenizer.model.
static void use_file(char kind, const void *data, size_t size, qn_str text) {
  qn_tokenizer_desc desc;
  qn_arena arena;
  qn_buf blob;
  qn_diag diag = {0};
  char *copy = malloc(size + 1);
  fuzz_require(copy != NULL, "out of memory");
  memcpy(copy, data, size);
  copy[size] = '\0';
  qn_arena_init(&arena, qn_allocator_default());
  qn_buf_init(&blob, qn_allocator_default());
  qn_status status = kind == JSON ? qn_vocab_from_json(copy, size, "fuzz", &arena, &desc, &diag)
                                  : qn_vocab_from_sentencepiece(copy, size, "fuzz", &arena, &desc, &diag);
  free(copy);
  fuzz_require(status == QN_OK || strncmp(diag.text, "fuzz: ", 6) == 0, "an error does not name the file");
  if (status == QN_OK) status = qn_tokenizer_serialize(&desc, qn_allocator_default(), &blob, &diag);
  if (status == QN_OK) {
    use_blob(blob.data, blob.length, text);
  } else {
    check_error(status, &diag);
  }
  qn_buf_deinit(&blob);
  qn_arena_deinit(&arena);
}

// What is before the next zero byte, or all of it; takes it off.
static qn_str next_part(qn_str *rest) {
  const char *end = rest->length > 0 ? memchr(rest->data, 0, rest->length) : NULL;
  qn_str part = {rest->data, end ? (size_t)(end - rest->data) : rest->length};
  size_t taken = part.length + (end != NULL);
  *rest = (qn_str){rest->data + taken, rest->length - taken};
  return part;
}

static void use_files(const void *data, size_t size, qn_str text) {
  qn_str rest = {data, size}, config = next_part(&rest), vocab = next_part(&rest);
  bool lines = vocab.length == 0 || vocab.data[0] != '{';
  char *json = NULL;
  qn_arena arena;
  qn_diag diag = {0};
  cJSON *tree = cJSON_ParseWithLength(config.data, config.length);
  qn_vocab_files files = {.folder = "fuzz", .config = tree, .model_config = tree};
  if (vocab.length == 0 || (!lines && rest.length == 0)) files.folder = "fuzz";  // none of them: *out stays NULL
  const char *first = fuzz_file(0, vocab.data, vocab.length);
  files.vocab_txt = lines ? first : NULL;
  files.vocab_json = lines ? NULL : first;
  files.merges = lines ? NULL : fuzz_file(1, rest.data, rest.length);
  qn_arena_init(&arena, qn_allocator_default());
  qn_status status = qn_vocab_files_to_json(&files, &arena, &json, &diag);
  qn_arena_deinit(&arena);
  cJSON_Delete(tree);
  if (status != QN_OK) check_error(status, &diag);
  if (json) use_file(JSON, json, strlen(json), text);
  cJSON_free(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < HEAD) return 0;
  size_t length = data[0] < size - HEAD ? data[0] : size - HEAD;
  qn_str text = {(const char *)data + HEAD, length};
  const uint8_t *rest = data + HEAD + length;
  if (data[1] == BLOB) use_blob(rest, size - HEAD - length, text);
  if (data[1] == GGUF) use_gguf(rest, size - HEAD - length, text);
  if (data[1] == JSON || data[1] == MODEL) use_file((char)data[1], rest, size - HEAD - length, text);
  if (data[1] == FILES) use_files(rest, size - HEAD - length, text);
  return 0;
}

// --- seeds

static const char sample[] = "  Hello hi</s>\n\xc3\xa9\xff <s>";

static void give(fuzz_take_fn take, void *context, char kind, const void *data, size_t size) {
  qn_buf input;
  qn_buf_init(&input, qn_allocator_default());
  qn_buf_putc(&input, (char)(sizeof sample - 1));
  qn_buf_putc(&input, kind);
  qn_buf_append(&input, sample, sizeof sample - 1);
  qn_buf_append(&input, data, size);
  take(context, input.data, input.length);
  qn_buf_deinit(&input);
}

enum { BYTES = 256, WORDS = 6 };

// All bytes as tokens, a few words and, for byte-level vocabularies, the merges that make them.
static void give_vocabulary(fuzz_take_fn take, void *context, bool spm) {
  static const char *const spm_words[WORDS] = {"\xe2\x96\x81", "H", "e", "He", "\xe2\x96\x81He", "h"};
  static const char *const bpe_words[WORDS] = {"\xc4\xa0", "Q", "He", "el", "Hel", "<|x|>"};
  static char names[BYTES][8];
  qn_str tokens[3 + BYTES + WORDS], merges[] = {QN_STR("H e"), QN_STR("e l"), QN_STR("H el")};
  float scores[3 + BYTES + WORDS];
  int32_t types[3 + BYTES + WORDS];
  size_t count = 0;
  const char *const special[] = {"<unk>", "<s>", "</s>"};
  for (size_t i = 0; i < 3; i++, count++) {
    tokens[count] = qn_str_from(special[i]);
    types[count] = i == 0 ? 2 : 3;
  }
  for (int i = 0; i < BYTES; i++) {
    if (spm) snprintf(names[i], sizeof names[i], "<0x%02X>", (unsigned)i);
    if (!spm && (i <= 32 || i >= 127)) continue;
    if (!spm) snprintf(names[i], sizeof names[i], "%c", i);
    types[count] = spm ? 6 : 1;
    tokens[count++] = qn_str_from(names[i]);
  }
  for (size_t i = 0; i < WORDS; i++, count++) {
    tokens[count] = qn_str_from((spm ? spm_words : bpe_words)[i]);
    types[count] = !spm && i == WORDS - 1 ? 3 : 1;
  }
  for (size_t i = 0; i < count; i++) scores[i] = -(float)i;
  qn_gguf_writer *w = qn_gguf_writer_create(qn_allocator_default());
  fuzz_require(w != NULL, "out of memory");
  qn_gguf_writer_add_text(w, "tokenizer.ggml.model", spm ? "llama" : "gpt2");
  if (!spm) qn_gguf_writer_add_text(w, "tokenizer.ggml.pre", "gpt-2");
  qn_gguf_writer_add_strings(w, "tokenizer.ggml.tokens", tokens, count);
  qn_gguf_writer_add_array(w, "tokenizer.ggml.token_type", QN_GGUF_I32, types, count);
  if (spm) qn_gguf_writer_add_array(w, "tokenizer.ggml.scores", QN_GGUF_F32, scores, count);
  if (!spm) qn_gguf_writer_add_strings(w, "tokenizer.ggml.merges", merges, 3);
  qn_gguf_writer_add_u32(w, "tokenizer.ggml.bos_token_id", 1);
  qn_gguf_writer_add_u32(w, "tokenizer.ggml.eos_token_id", 2);
  uint8_t *file;
  size_t size;
  qn_diag diag = {0};
  fuzz_require(qn_gguf_writer_save_memory(w, &file, &size, &diag) == QN_OK, diag.text);
  qn_gguf_writer_destroy(w);
  give(take, context, GGUF, file, size);
  qn_gguf *gguf;
  qn_tokenizer_desc desc;
  qn_arena arena;
  qn_buf blob;
  qn_arena_init(&arena, qn_allocator_default());
  qn_buf_init(&blob, qn_allocator_default());
  qn_status status = qn_gguf_open_memory(&gguf, file, size, "seed", qn_allocator_default(), &diag);
  if (status == QN_OK) status = qn_vocab_from_gguf(gguf, &arena, &desc, &diag);
  if (status == QN_OK) status = qn_tokenizer_serialize(&desc, qn_allocator_default(), &blob, &diag);
  fuzz_require(status == QN_OK, diag.text);
  give(take, context, BLOB, blob.data, blob.length);
  qn_gguf_close(gguf);
  qn_buf_deinit(&blob);
  qn_arena_deinit(&arena);
  qn_free(qn_allocator_default(), file, size);
}

static const char *const jsons[] = {
    "{\"added_tokens\": [{\"id\": 5, \"content\": \"<s>\", \"special\": true, \"lstrip\": true, \"single_word\": true}], "
    "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"}, {\"type\": \"Replace\", \"pattern\": "
    "{\"Regex\": \"[\\\\s0-9]+\"}, \"content\": \" \"}]}, \"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": "
    "[{\"type\": \"Split\", \"pattern\": {\"Regex\": \" ?\\\\p{L}+\"}, \"behavior\": \"Isolated\"}, {\"type\": \"ByteLevel\", "
    "\"add_prefix_space\": true, \"use_regex\": true}]}, \"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": "
    "[{\"SpecialToken\": {\"id\": \"<s>\"}}, {\"Sequence\": {\"id\": \"A\"}}], \"special_tokens\": {\"<s>\": {\"ids\": "
    "[5]}}}, \"decoder\": {\"type\": \"ByteLevel\"}, \"model\": {\"type\": \"BPE\", \"unk_token\": \"e\", \"vocab\": "
    "{\"e\": 0, \"l\": 1, \"el\": 2, \"o\": 3, \"h\": 4}, \"merges\": [\"e l\"]}}",
    "{\"normalizer\": {\"type\": \"BertNormalizer\"}, \"pre_tokenizer\": {\"type\": \"BertPreTokenizer\"}, "
    "\"post_processor\": {\"type\": \"BertProcessing\", \"sep\": [\"a\", 0], \"cls\": [\"h\", 1]}, \"decoder\": {\"type\": "
    "\"WordPiece\", \"prefix\": \"##\", \"cleanup\": true}, \"model\": {\"type\": \"WordPiece\", \"unk_token\": \"a\", "
    "\"vocab\": {\"a\": 0, \"h\": 1, \"##e\": 2, \"##l\": 3, \"he\": 4}}}",
    "{\"pre_tokenizer\": {\"type\": \"Metaspace\", \"prepend_scheme\": \"first\"}, \"normalizer\": {\"type\": "
    "\"Precompiled\", \"precompiled_charsmap\": \"CAAAAABABABBBQAAYgA=\"}, \"decoder\": {\"type\": \"Metaspace\"}, \"model\": "
    "{\"type\": \"Unigram\", \"unk_id\": 0, \"byte_fallback\": true, \"vocab\": [[\"?\", 0], [\"\xe2\x96\x81\", -1], "
    "[\"He\", -2.5], [\"<0xFF>\", 0]]}}",
};

// Pieces <unk>, a, He and a byte; then what the trainer and the normaliser say.
static const char model[] =
    "\x0a\x0c\x0a\x05<unk>\x15\0\0\0\0\x18\x02\x0a\x08\x0a\x01" "a\x15\0\0\x80\xbf\x0a\x09\x0a\x02" "He\x15\0\0\0\xc0"
    "\x0a\x0f\x0a\x06<0xFF>\x15\0\0\0\0\x18\x06\x12\x06\x18\x01\xc0\x02\0\x18\0\x1a\x04\x18\x01\x20\x01";

static const char *const files[] = {  // \1 stands for the zero bytes
    "{\"tokenizer_class\": \"BertTokenizer\", \"cls_token\": \"h\", \"sep_token\": \"e\", \"unk_token\": \"h\"}\1h\ne\n##l\n##o\r\nhe\n",
    ("{\"tokenizer_class\": \"GPT2Tokenizer\", \"added_tokens_decoder\": {\"4\": {\"content\": \"<s>\", \"special\": true}}}\1"
     "{\"h\": 0, \"e\": 1, \"he\": 2, \"<|endoftext|>\": 3}\1#version: 0.2\nh e\n"),
    "{\"model_type\": \"roberta\", \"add_prefix_space\": true}\1{\"<s>\": 0, \"</s>\": 1, \"<unk>\": 2, \"a\": 3}\1a a\n",
};

static void give_files(fuzz_take_fn take, void *context, const char *text) {
  qn_buf data;
  qn_buf_init(&data, qn_allocator_default());
  for (; *text; text++) qn_buf_putc(&data, *text == 1 ? 0 : *text);
  give(take, context, FILES, data.data, data.length);
  qn_buf_deinit(&data);
}

void fuzz_seeds(fuzz_take_fn take, void *context) {
  give_vocabulary(take, context, true);
  give_vocabulary(take, context, false);
  for (size_t i = 0; i < sizeof jsons / sizeof *jsons; i++) give(take, context, JSON, jsons[i], strlen(jsons[i]));
  give(take, context, MODEL, model, sizeof model - 1);
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) give_files(take, context, files[i]);
}

static const char *const words[] = {"gpt-2", "llama-bpe", "smollm", "<s>", "\xe2\x96\x81", " ", "\"Replace\"", "\"Split\"",
                                    "null", "true", "[", "{", "(?=", "\\\\s", "\"NFKD\"", NULL};

QN_FUZZ_MAIN(words, 1500)
