// tokenizer.json: what its parts become, how patterns are translated, and every error with its place, got and want.
#include <stdio.h>
#include <stdlib.h>

#include "frontend/import/vocab_folder.h"
#include "runtime/tokenizer.h"
#include "tests/support/test.h"

typedef struct file {
  qn_arena arena;
  qn_tokenizer_desc desc;
  qn_diag diag;
} file;

static qn_status read_text(file *f, const char *text) {
  *f = (file){0};
  qn_arena_init(&f->arena, qn_test_allocator());
  return qn_vocab_from_json(text, strlen(text), "t.json", &f->arena, &f->desc, &f->diag);
}

static void end(file *f) { qn_arena_deinit(&f->arena); }

static void refuse(const char *text, qn_status status, const char *message) {
  file f;
  size_t live = qn_test_allocator_memory()->live_blocks;
  qn_assert_fails(&f.diag, status, message, read_text(&f, text));
  end(&f);
  ck_assert_uint_eq(qn_test_allocator_memory()->live_blocks, live);
}

// A byte-pair vocabulary with more keys.
#define BPE(more) \
  "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2}, \"merges\": [\"a b\"]}" more "}"
#define MODEL(more) \
  "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2}, \"merges\": []" more "}}"
#define MERGES(list)         "{\"model\": {\"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2}, \"merges\": " list "}}"
#define UNIGRAM(vocab, more) "{\"model\": {\"type\": \"Unigram\", \"vocab\": " vocab more "}}"

// ---- what parts become ---------------------------------------------------------------------------------------------

// The tokens of a text as "id id".
static const char *encode(const char *json, const char *text, unsigned flags) {
  static char out[256];
  file f;
  qn_buf blob;
  qn_tokenizer *tokenizer;
  qn_token_vec tokens = {0};
  size_t used = 0;
  qn_assert_ok(&f.diag, read_text(&f, json));
  qn_buf_init(&blob, qn_test_allocator());
  qn_assert_ok(&f.diag, qn_tokenizer_serialize(&f.desc, qn_test_allocator(), &blob, &f.diag));
  end(&f);
  qn_assert_ok(&f.diag, qn_tokenizer_open(blob.data, blob.length, qn_test_allocator(), &tokenizer, &f.diag));
  qn_assert_ok(&f.diag,
               qn_tokenizer_encode(tokenizer, qn_str_from(text), flags, qn_test_allocator(), &tokens, &f.diag));
  out[0] = '\0';
  for (size_t i = 0; i < tokens.count; i++) {
    used += (size_t)snprintf(out + used, sizeof out - used, i ? " %d" : "%d", tokens.items[i]);
  }
  qn_vec_free(qn_test_allocator(), &tokens);
  qn_tokenizer_close(tokenizer);
  qn_buf_deinit(&blob);
  return out;
}

START_TEST(models) {
  ck_assert_str_eq(encode(BPE(""), "abba", 0), "2 1 0");
  ck_assert_str_eq(encode(MERGES("[[\"a\", \"b\"]]"), "ab", 0), "2");  // pairs; and no type, as in old files
  ck_assert_str_eq(encode(UNIGRAM("[[\"<unk>\", 0], [\"a\", -1.5], [\"aa\", -2]]", ", \"unk_id\": 0"), "aaxya", 0),
                   "2 0 1");
  static const char *const pieces =
      "{\"model\": {\"type\": \"WordPiece\", \"unk_token\": \"?\", \"max_input_chars_per_word\": 4, \"vocab\": {\"?\": "
      "0, "
      "\"ab\": 1, \"##c\": 2}}, \"pre_tokenizer\": {\"type\": \"Whitespace\"}, \"post_processor\": {\"type\": "
      "\"BertProcessing\", \"sep\": [\"ab\", 1], \"cls\": [\"?\", 0]}}";
  ck_assert_str_eq(encode(pieces, "abc abd abccc", 0), "1 2 0 0");
  ck_assert_str_eq(encode(pieces, "ab", QN_ENCODE_SPECIAL), "0 1 1");
}
END_TEST

START_TEST(added_tokens) {
  // Ids behind the vocabulary, with a gap; normalised ones are found in what the normalizer makes.
  static const char *const json =
      "{\"added_tokens\": [{\"id\": 6, \"content\": \"<S>\", \"special\": true}, {\"id\": 4, \"content\": \"AB\", "
      "\"normalized\": true, \"single_word\": true}], \"normalizer\": {\"type\": \"Lowercase\"}, \"model\": {\"type\": "
      "\"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"<\": 2, \"s\": 3, \">\": 5}, \"merges\": []}}";
  ck_assert_str_eq(encode(json, "<S>AB<s>", QN_ENCODE_PARSE_SPECIAL), "6 4 2 3 5");
  ck_assert_str_eq(encode(json, "<S>aB", 0), "2 3 5 4");
  ck_assert_str_eq(encode(json, "abab", 0), "0 1 0 1");  // a word of more
  file f;
  qn_assert_ok(&f.diag, read_text(&f, json));
  ck_assert(f.desc.token_count == 7 && f.desc.types[6] == QN_TOKEN_CONTROL);
  ck_assert_int_eq(f.desc.types[4], QN_TOKEN_USER_DEFINED | QN_TOKEN_NORMALIZED | QN_TOKEN_SINGLE_WORD);
  end(&f);
}
END_TEST

START_TEST(templates_and_decoders) {
  file f;
  qn_assert_ok(&f.diag, read_text(&f, BPE(", \"post_processor\": {\"type\": \"Sequence\", \"processors\": [{\"type\": "
                                          "\"ByteLevel\"}, {\"type\": \"TemplateProcessing\", \"single\": "
                                          "[{\"SpecialToken\": {\"id\": \"x\"}}, {\"Sequence\": {\"id\": \"A\"}}, "
                                          "{\"SpecialToken\": {\"id\": \"y\"}}], \"special_tokens\": {\"x\": {\"ids\": "
                                          "[2, 0]}, \"y\": {\"ids\": [1]}}}]}, \"decoder\": {\"type\": \"Sequence\", "
                                          "\"decoders\": [{\"type\": \"Replace\", \"pattern\": {\"String\": \"_\"}, "
                                          "\"content\": \" \"}, {\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"}, "
                                          "{\"type\": \"Strip\", \"content\": \" \", \"start\": 1, \"stop\": 0}]}")));
  const qn_tokenizer_desc *d = &f.desc;
  ck_assert(d->before_count == 2 && d->before[0] == 2 && d->before[1] == 0 && d->after_count == 1 && d->after[0] == 1);
  ck_assert(qn_str_is(d->decoder.space, "_") && d->decoder.byte_tokens && d->decoder.drop_space &&
            !d->decoder.byte_level);
  end(&f);
  qn_assert_ok(&f.diag,
               read_text(&f, BPE(", \"decoder\": {\"type\": \"WordPiece\", \"prefix\": \"@\", \"cleanup\": false}")));
  ck_assert(qn_str_is(d->decoder.word_goes_on, "@") && !d->decoder.clean_up);
  end(&f);
  qn_assert_ok(&f.diag, read_text(&f, BPE(", \"decoder\": {\"type\": \"BPEDecoder\", \"suffix\": \"</w>\"}")));
  ck_assert(qn_str_is(d->decoder.word_end, "</w>"));
  end(&f);
}
END_TEST

// The pattern of the one step that a Split becomes.
static const char *translated(const char *pattern) {
  static char out[256];
  char json[512];
  file f;
  snprintf(
      json, sizeof json,
      BPE(", \"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"%s\"}, \"behavior\": \"Isolated\"}"),
      pattern);
  qn_status status = read_text(&f, json);
  if (status == QN_OK) {
    snprintf(out, sizeof out, "%.*s", QN_STR_ARGS(f.desc.steps[0].pattern));
  } else {
    snprintf(out, sizeof out, "%s: %s", qn_status_name(status), strstr(f.diag.text, "the pattern"));
  }
  end(&f);
  return out;
}

START_TEST(patterns) {
#define SPACE "\\t-\\r\\x{85}\\p{Z}"
#define WORD  "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
  ck_assert_str_eq(translated("\\\\s+(?!\\\\S)"), "[" SPACE "]+(?![^" SPACE "])");
  ck_assert_str_eq(translated("[^\\\\s\\\\w]|[\\\\S]"), "[^" SPACE WORD "]|[\\S\\x{180e}]");
  ck_assert_str_eq(translated("\\\\d\\\\W"), "[\\p{Nd}][^" WORD "]");
  ck_assert_str_eq(translated("\\\\u4e00\\\\x{41}\\\\p{Lu}\\\\n\\\\."), "\\x{4e00}\\x{41}\\p{Lu}\\n\\.");
  ck_assert_str_eq(translated("[^(a[.,]|)]"), "[^(a.,|)]");  // brackets in brackets are a union
  ck_assert_str_eq(translated("[]a](?i:b)(?<!c)"), "[]a](?i:b)(?<!c)");
#define NO(what) "unsupported: the pattern has " what ", which is not supported"
  ck_assert_str_eq(translated("a\\\\h"), NO("an escape \\h at byte 1"));
  ck_assert_str_eq(translated("(a)\\\\1"), NO("an escape \\1 at byte 3"));
  ck_assert_str_eq(translated("[a&&[b]]"), NO("an intersection (&&) at byte 2"));
  ck_assert_str_eq(translated("[a[^b]]"), NO("[^ or [: in brackets at byte 2"));
  ck_assert_str_eq(translated("[a"), NO("brackets without an end at byte 0"));
  ck_assert_str_eq(translated("[\\\\W]"), NO("\\W or \\D in brackets at byte 1"));
  ck_assert_str_eq(translated("(?m)a"), NO("a group of a kind other than (?: (?= (?! (?<= (?<! (?> (?i: at byte 0"));
  ck_assert_str_eq(translated("(*FAIL)"), NO("a verb (* at byte 0"));
  ck_assert_str_eq(translated("a{1,2}+"), NO("}+, which repeats a repetition at byte 5"));
  ck_assert_str_eq(translated("a\\\\"), NO("a lone backslash at byte 1"));
  ck_assert_str_eq(translated("\\\\u12"), NO("\\u without 4 digits at byte 0"));
  ck_assert_str_eq(translated("\\\\p{L"), NO("a property without a closing brace at byte 0"));
}
END_TEST

// ---- errors ------------------------------------------------------------------------------------------------------

START_TEST(bad_models) {
  const qn_status format = QN_ERR_FORMAT, unsupported = QN_ERR_UNSUPPORTED;
  refuse("{", format, "t.json: 1:2: not JSON");
  refuse("[]", format, "t.json: got a list, want an object");
  refuse("{}", format, "t.json: model: want an object {...}");
  refuse("{\"model\": {\"type\": \"WordLevel\"}}", unsupported,
         "t.json: model.type: got 'WordLevel', want BPE, Unigram or WordPiece");
  refuse("{\"model\": {\"type\": \"BPE\"}}", format, "t.json: model.vocab: want an object {...}");
  refuse("{\"model\": {\"type\": \"BPE\", \"vocab\": {}}}", format, "t.json: model.vocab: has no tokens");
  refuse("{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0.5}}}", format,
         "t.json: model.vocab.a: got 0.5, want a whole number from 0 to 16777215");
  refuse("{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": \"0\"}}}", format, "t.json: model.vocab.a: got a text");
  refuse("{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"a\": 1}}}", format,
         "t.json: model.vocab: the token 'a' is there twice");
  refuse("{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 0}}}", format,
         "t.json: model.vocab: id 0 is both 'a' and 'b'");
  refuse("{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 9999}}}", format,
         "t.json: model.vocab: has 2 tokens, but ids up to 9999");
  refuse(MODEL(", \"dropout\": 0.1"), unsupported,
         "t.json: model.dropout: want null: leaving merges out is for training");
  refuse(MODEL(", \"end_of_word_suffix\": \"</w>\""), unsupported,
         "t.json: model.end_of_word_suffix: got '</w>', want none");
  refuse(MODEL(", \"unk_token\": \"?\""), format, "t.json: model.unk_token: got '?', which is not in the vocabulary");
  refuse(MODEL(", \"unk_token\": 5"), format, "t.json: model.unk_token: want a text");
  refuse(MODEL(", \"fuse_unk\": 1"), format, "t.json: model.fuse_unk: got a number, want true or false");
  refuse(UNIGRAM("{}", ""), format, "t.json: model.vocab: want a list [...]");
  refuse(UNIGRAM("[[\"a\", -1], [\"b\"]]", ""), format, "t.json: model.vocab[1]: want [\"token\", score]");
  refuse(UNIGRAM("[[\"a\", -1], [\"a\", -1]]", ""), format, "t.json: model.vocab: the token 'a' is there twice");
  refuse(UNIGRAM("[[\"a\", -1]]", ", \"unk_id\": 1"), format,
         "t.json: model.unk_id: got 1, want a whole number from 0 to 0");
}
END_TEST

START_TEST(bad_merges) {
  const qn_status format = QN_ERR_FORMAT;
  refuse("{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}}}", format,
         "t.json: model.merges: got nothing, want a list");
  refuse(MERGES("[\"ab\"]"), format, "t.json: model.merges[0]: want \"left right\" or [\"left\", \"right\"]");
  refuse(MERGES("[\"a b\", [\"a\"]]"), format, "t.json: model.merges[1]: want");
  refuse(MERGES("[\"a b c\"]"), format, "t.json: model.merges[0]: want");
  refuse(MERGES("[[\"\", \"a\"]]"), format, "t.json: model.merges[0]: want");
  refuse(MERGES("[\"a b\", \"a b\"]"), format, "t.json: model.merges[1]: the merge of 'a' and 'b' is there twice");
  refuse(MERGES("[\"a x\"]"), format,
         "t.json: model.merges[0]: the merge of 'a' and 'x' has a side that is not in the vocabulary");
  // Nothing can be merged in a circle: what a merge makes is longer than its sides, and must be a token.
  refuse(MERGES("[\"a b\", \"ab a\"]"), format,
         "t.json: model.merges[1]: the merge of 'ab' and 'a' gives what is not in the vocabulary");
}
END_TEST

START_TEST(bad_parts) {
  const qn_status format = QN_ERR_FORMAT, unsupported = QN_ERR_UNSUPPORTED;
  refuse(BPE(", \"normalizer\": {\"type\": \"Magic\"}"), unsupported,
         "t.json: normalizer: got a normalizer of type 'Magic', want one of Sequence, BertNormalizer, ");
  refuse(BPE(", \"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"}, {}]}"), format,
         "t.json: normalizer.normalizers[1]: has no \"type\"");
  refuse(BPE(", \"normalizer\": {\"type\": \"Sequence\"}"), format,
         "t.json: normalizer.normalizers: got nothing, want a list");
  refuse(BPE(", \"normalizer\": {\"type\": \"Replace\", \"pattern\": {\"Glob\": \"*\"}, \"content\": \"\"}"), format,
         "t.json: normalizer.pattern: want {\"String\": ...} or {\"Regex\": ...}");
  refuse(BPE(", \"normalizer\": {\"type\": \"Replace\", \"pattern\": {\"String\": \"\"}, \"content\": \"\"}"), format,
         "t.json: normalizer.pattern: got an empty text");
  refuse(BPE(", \"normalizer\": {\"type\": \"Precompiled\", \"precompiled_charsmap\": \"AA*A\"}"), format,
         "t.json: normalizer.precompiled_charsmap: is not base64, from character 2 on");
  refuse(BPE(", \"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Precompiled\", "
             "\"precompiled_charsmap\": \"AAAA\"}, {\"type\": \"Precompiled\", \"precompiled_charsmap\": \"AAAA\"}]}"),
         unsupported, "t.json: normalizer.normalizers[1]: got a second precompiled charsmap");
  refuse(BPE(", \"pre_tokenizer\": {\"type\": \"UnicodeScripts\"}"), unsupported,
         "t.json: pre_tokenizer: got a pre-tokenizer of type 'UnicodeScripts', want one of Sequence, Split, ");
  refuse(BPE(", \"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"String\": \"a\"}, \"behavior\": \"Odd\"}"),
         unsupported, "t.json: pre_tokenizer.behavior: got 'Odd', want Isolated, Removed, ");
  refuse(BPE(", \"pre_tokenizer\": {\"type\": \"Metaspace\", \"prepend_scheme\": \"last\"}"), unsupported,
         "t.json: pre_tokenizer.prepend_scheme: got 'last', want always, first or never");
  refuse(BPE(", \"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"\"}"), format,
         "t.json: pre_tokenizer.replacement: got an empty text");
  refuse(BPE(", \"pre_tokenizer\": {\"type\": \"CharDelimiterSplit\"}"), format,
         "t.json: pre_tokenizer.delimiter: got no text, want one");
  refuse(BPE(", \"pre_tokenizer\": []"), format, "t.json: pre_tokenizer: got a list, want an object");
  refuse(BPE(", \"decoder\": {\"type\": \"CTC\"}"), unsupported,
         "t.json: decoder: got a decoder of type 'CTC', want one of ");
  refuse(BPE(", \"decoder\": {\"type\": \"Strip\", \"content\": \" \", \"start\": 2, \"stop\": 0}"), unsupported,
         "t.json: decoder: a decoder strips one space at the front of a text");
  refuse(BPE(", \"decoder\": {\"type\": \"Replace\", \"pattern\": {\"String\": \"_\"}, \"content\": \"-\"}"),
         unsupported, "t.json: decoder: a decoder replaces plain texts by a space, got '-'");
}
END_TEST

START_TEST(bad_ends_and_added_tokens) {
  const qn_status format = QN_ERR_FORMAT, unsupported = QN_ERR_UNSUPPORTED;
  refuse(BPE(", \"post_processor\": {\"type\": \"Other\"}"), unsupported,
         "t.json: post_processor: got a post-processor of type 'Other', want one of ");
  refuse(BPE(", \"post_processor\": {\"type\": \"BertProcessing\", \"sep\": [\"a\", 9], \"cls\": [\"a\", 0]}"), format,
         "t.json: post_processor.sep[1]: got 9, want a whole number from 0 to 2");
  refuse(BPE(", \"post_processor\": {\"type\": \"BertProcessing\", \"sep\": [\"a\", 0]}"), format,
         "t.json: post_processor.cls: got nothing, want a list");
#define TEMPLATE(single) \
  BPE(", \"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [" single "], \"special_tokens\": {}}")
  refuse(TEMPLATE("{\"SpecialToken\": {\"id\": \"x\"}}"), format,
         "t.json: post_processor.single[0]: names the token 'x', which is not among special_tokens");
  refuse(TEMPLATE("{\"Sequence\": {\"id\": \"A\"}}, {\"Sequence\": {\"id\": \"A\"}}"), unsupported,
         "t.json: post_processor.single[1]: want special tokens around one text");
  refuse(TEMPLATE(""), format, "t.json: post_processor.single: got 0 items, want 1 to 64");
  refuse(
      BPE(", \"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"x\"}}], "
          "\"special_tokens\": {\"x\": {\"ids\": [0]}}}"),
      format, "t.json: post_processor.single: has no place for the text");
  refuse(BPE(", \"added_tokens\": [{\"content\": \"x\"}]"), format,
         "t.json: added_tokens[0].id: is missing, want a number");
  refuse(BPE(", \"added_tokens\": [{\"content\": \"a\", \"id\": 7}]"), format,
         "t.json: added_tokens[0]: the token 'a' has id 7 here, and 0 before");
  refuse(BPE(", \"added_tokens\": [{\"content\": \"x\", \"id\": 1}]"), format,
         "t.json: model.vocab: id 1 is both 'b' and 'x'");
  refuse(BPE(", \"added_tokens\": [{\"content\": \"x\", \"id\": 3, \"special\": \"yes\"}]"), format,
         "t.json: added_tokens[0].special: got a text, want true or false");
  refuse(BPE(", \"added_tokens\": {}"), format, "t.json: added_tokens: got an object, want a list");
}
END_TEST

static qn_status read_again(const qn_allocator *allocator, void *context) {
  qn_arena arena;
  qn_tokenizer_desc desc;
  qn_diag diag = {0};
  const char *text = context;
  qn_arena_init(&arena, allocator);
  qn_status status = qn_vocab_from_json(text, strlen(text), "t.json", &arena, &desc, &diag);
  qn_arena_deinit(&arena);
  return status;
}

START_TEST(allocations_may_fail) {
  static char text[] =
      BPE(", \"added_tokens\": [{\"id\": 3, \"content\": \"<s>\", \"special\": true}], \"pre_tokenizer\": "
          "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"[\\\\s]+\"}, \"behavior\": \"Removed\"}, "
          "\"post_processor\": {\"type\": \"BertProcessing\", \"sep\": [\"a\", 0], \"cls\": [\"b\", 1]}");
  qn_test_failing_allocations(read_again, text);
}
END_TEST

QN_CASE(parts, models, added_tokens, templates_and_decoders, patterns)
QN_CASE(refusals, bad_models, bad_merges, bad_parts, bad_ends_and_added_tokens, allocations_may_fail)
QN_TEST_MAIN(parts, refusals)
