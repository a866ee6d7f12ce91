// Real vocabularies against the ids that llama.cpp gives (its ggml-vocab-*.gguf with .inp and .out), through the
// importer and the blob, as a compiled model has them.
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "frontend/import/vocab.h"
#include "frontend/import/vocab_pre.h"
#include "runtime/base/file.h"
#include "runtime/tokenizer_impl.h"
#include "tests/support/test.h"
#include "tests/support/token_golden.h"

#define SEPARATOR "\n__ggml_vocab_test__\n"

typedef struct model {
  qn_buf blob;
  qn_tokenizer *tokenizer;
} model;

static model open_model(const char *relative) {
  model m;
  qn_gguf *gguf;
  qn_arena arena;
  qn_tokenizer_desc desc;
  qn_diag diag = {0};
  const qn_allocator *allocator = qn_test_allocator();
  qn_arena_init(&arena, allocator);
  qn_buf_init(&m.blob, allocator);
  qn_assert_ok(&diag, qn_gguf_open(&gguf, qn_test_shared(relative), allocator, &diag));
  qn_assert_ok(&diag, qn_vocab_from_gguf(gguf, &arena, &desc, &diag));
  qn_assert_ok(&diag, qn_tokenizer_serialize(&desc, allocator, &m.blob, &diag));
  qn_arena_deinit(&arena);
  qn_gguf_close(gguf);  // the blob stands alone
  qn_assert_ok(&diag, qn_tokenizer_open(m.blob.data, m.blob.length, allocator, &m.tokenizer, &diag));
  return m;
}

static void close_model(model m) {
  qn_tokenizer_close(m.tokenizer);
  qn_buf_deinit(&m.blob);
}

static void encode(const model *m, qn_str text, unsigned flags, qn_token_vec *tokens) {
  qn_diag diag = {0};
  tokens->count = 0;
  qn_status status = qn_tokenizer_encode(m->tokenizer, text, flags, qn_test_allocator(), tokens, &diag);
  qn_check(status == QN_OK, "%s", diag.text);
}

static void check_decoded(const model *m, const qn_token_vec *tokens, qn_str want) {
  qn_buf out;
  qn_diag diag = {0};
  qn_buf_init(&out, qn_test_allocator());
  qn_assert_ok(&diag, qn_tokenizer_decode(m->tokenizer, tokens->items, tokens->count, 0, &out, &diag));
  qn_check(out.length == want.length && memcmp(qn_buf_text(&out), want.data, want.length) == 0, "'%s', want '%.*s'",
           qn_buf_text(&out), QN_STR_ARGS(want));
  qn_buf_deinit(&out);
}

typedef struct cases {
  char *inputs, *outputs;
  size_t inputs_size, outputs_size;
} cases;

static cases read_cases(const char *vocabulary) {
  cases c;
  char path[128];
  qn_diag diag = {0};
  snprintf(path, sizeof path, "models/vocab/%s.gguf.inp", vocabulary);
  qn_assert_ok(&diag,
               qn_file_read(qn_test_shared(path), QN_TEXT_MAX, qn_test_allocator(), &c.inputs, &c.inputs_size, &diag));
  snprintf(path, sizeof path, "models/vocab/%s.gguf.out", vocabulary);
  qn_assert_ok(
      &diag, qn_file_read(qn_test_shared(path), QN_TEXT_MAX, qn_test_allocator(), &c.outputs, &c.outputs_size, &diag));
  return c;
}

static void free_cases(cases c) {
  qn_free(qn_test_allocator(), c.inputs, c.inputs_size + 1);
  qn_free(qn_test_allocator(), c.outputs, c.outputs_size + 1);
}

// Takes the next case; the ids are at most 256.
static bool next_case(char **input, char **output, qn_str *text, int32_t *ids, size_t *id_count) {
  if (*input == NULL) return false;
  char *end = strstr(*input, SEPARATOR);
  *text = (qn_str){*input, end == NULL ? strlen(*input) : (size_t)(end - *input)};
  *input = end == NULL ? NULL : end + strlen(SEPARATOR);
  *id_count = 0;
  for (; **output != '\n' && **output != '\0';) {
    if (**output == ' ') {
      (*output)++;
      continue;
    }
    qn_check(*id_count < 256, "too many ids");
    ids[(*id_count)++] = (int32_t)strtol(*output, output, 10);
  }
  if (**output == '\n') (*output)++;
  return true;
}

// `back`: decoding gives the text again.
static void check_cases(const char *vocabulary, bool back) {
  char path[128];
  snprintf(path, sizeof path, "models/vocab/%s.gguf", vocabulary);
  model m = open_model(path);
  cases c = read_cases(vocabulary);
  char *input = c.inputs, *output = c.outputs;
  qn_str text;
  int32_t ids[256];
  size_t id_count, count = 0;
  qn_token_vec tokens = {0};
  for (; next_case(&input, &output, &text, ids, &id_count); count++) {
    encode(&m, text, 0, &tokens);
    bool same = tokens.count == id_count;
    for (size_t i = 0; same && i < id_count; i++) same = tokens.items[i] == ids[i];
    ck_assert_msg(same, "%s: '%.*s' got %zu tokens, want %zu", vocabulary, QN_STR_ARGS(text), tokens.count, id_count);
    if (back) check_decoded(&m, &tokens, text);
  }
  ck_assert_uint_eq(count, 47);
  qn_vec_free(qn_test_allocator(), &tokens);
  free_cases(c);
  close_model(m);
}

START_TEST(gpt2_cases) { check_cases("ggml-vocab-gpt-2", true); }
END_TEST
START_TEST(phi3_cases) { check_cases("ggml-vocab-phi-3", true); }
END_TEST
START_TEST(llama_spm_cases) { check_cases("ggml-vocab-llama-spm", true); }
END_TEST

START_TEST(bert_bge_cases) { check_cases("ggml-vocab-bert-bge", false); }
END_TEST

// 1,000 random texts against the tokenizers library's ids for the same vocabulary (reference_tokenizers.py --gguf).
START_TEST(random_texts) {
  static const char *const names[] = {"ggml-vocab-gpt-2", "ggml-vocab-llama-spm", "ggml-vocab-phi-3", "ggml-vocab-bert-bge"};
  for (size_t i = 0; i < QN_COUNT(names); i++) {
    char path[256];
    snprintf(path, sizeof path, "models/vocab/%s.gguf", names[i]);
    model m = open_model(path);
    snprintf(path, sizeof path, QUERN_SOURCE_DIR "/tests/golden/tokenizers/gguf/%s.ids", names[i]);
    qn_token_golden_check(m.tokenizer, names[i], path, QN_ENCODE_PARSE_SPECIAL);
    close_model(m);
  }
}
END_TEST

// For these there are cases without a vocabulary. Where a case has as many ids as words, each word must be one id: the
// same one in all such cases, and no other word's.
static void check_words(const char *vocabulary, const char *pre_name) {
  cases c = read_cases(vocabulary);
  char *input = c.inputs, *output = c.outputs;
  qn_str text, known[512];
  int32_t ids[256], known_ids[512];
  size_t id_count, known_count = 0, whole = 0;
  const qn_pre_tokenizer *pre;
  qn_arena arena;
  qn_tokenizer_desc desc;
  qn_steps steps;
  qn_stepper s;
  qn_diag diag = {0};
  qn_arena_init(&arena, qn_test_allocator());
  qn_step_list list = {.arena = &arena};
  qn_assert_ok(&diag, qn_pre_tokenizer_find(pre_name, &pre, &diag));
  qn_step_list_pre_tokenizer(&list, pre);
  qn_assert_ok(&diag, qn_step_list_finish(&list, &desc, &diag));
  qn_assert_ok(&diag, qn_steps_open(&steps, desc.steps, desc.step_count, desc.normalizer_count, desc.charsmap,
                                    desc.unicode, false, qn_test_allocator(), "test", &diag));
  qn_assert_ok(&diag, qn_stepper_init(&s, qn_test_allocator(), &diag));
  while (next_case(&input, &output, &text, ids, &id_count)) {
    qn_assert_ok(&diag, qn_stepper_load(&s, text, QN_STEP_AT_START | QN_STEP_AT_END, &diag));
    qn_assert_ok(&diag, qn_steps_run(&steps, steps.normalizer_count, steps.count - 1, &s, &diag));  // not to the alphabet
    ck_assert_msg(s.words.count <= id_count, "'%.*s': %zu words, %zu ids", QN_STR_ARGS(text), s.words.count, id_count);
    if (s.words.count != id_count) continue;
    whole++;
    for (size_t i = 0; i < id_count; i++) {
      qn_str word = {text.data + s.words.items[i].begin, s.words.items[i].end - s.words.items[i].begin};
      for (size_t k = 0; k < known_count; k++) {
        ck_assert_msg(qn_str_equal(known[k], word) == (known_ids[k] == ids[i]), "'%.*s' is %d", QN_STR_ARGS(word),
                      ids[i]);
      }
      ck_assert_uint_lt(known_count, 512);
      known[known_count] = word;
      known_ids[known_count++] = ids[i];
    }
  }
  ck_assert_msg(whole >= 20, "%zu", whole);
  qn_stepper_deinit(&s);
  qn_steps_close(&steps);
  qn_arena_deinit(&arena);
  free_cases(c);
}

START_TEST(llama3_words) { check_words("ggml-vocab-llama-bpe", "llama-bpe"); }
END_TEST
START_TEST(qwen2_words) { check_words("ggml-vocab-qwen2", "qwen2"); }
END_TEST

START_TEST(special_tokens) {
  model m = open_model("models/vocab/ggml-vocab-llama-spm.gguf");
  qn_token_vec tokens = {0};
  encode(&m, QN_STR("Hello world"), QN_ENCODE_SPECIAL, &tokens);
  ck_assert(tokens.count == 3 && tokens.items[0] == 1 && tokens.items[1] == 15043 && tokens.items[2] == 3186);
  check_decoded(&m, &tokens, QN_STR("Hello world"));
  encode(&m, QN_STR("<s>Hello</s>"), QN_ENCODE_PARSE_SPECIAL, &tokens);
  ck_assert(tokens.count == 3 && tokens.items[0] == 1 && tokens.items[1] == 15043 && tokens.items[2] == 2);
  ck_assert(qn_tokenizer_is_eog(m.tokenizer, 2) && !qn_tokenizer_is_eog(m.tokenizer, 1));
  close_model(m);

  // Phi-3's special tokens swallow the space after them.
  m = open_model("models/vocab/ggml-vocab-phi-3.gguf");
  encode(&m, QN_STR("<|user|>\n Hello<|end|> \n<|assistant|>"), QN_ENCODE_PARSE_SPECIAL, &tokens);
  ck_assert(tokens.count == 4 && tokens.items[0] == 32010 && tokens.items[1] == 15043 && tokens.items[2] == 32007 &&
            tokens.items[3] == 32001);
  ck_assert(qn_tokenizer_is_eog(m.tokenizer, 32007) && qn_tokenizer_is_eog(m.tokenizer, 32000));
  close_model(m);

  m = open_model("models/vocab/ggml-vocab-gpt-2.gguf");
  encode(&m, QN_STR("Hello<|endoftext|> Hello"), QN_ENCODE_PARSE_SPECIAL, &tokens);
  ck_assert(tokens.count == 3 && tokens.items[0] == 15496 && tokens.items[1] == 50256 && tokens.items[2] == 18435);
  ck_assert(qn_tokenizer_is_eog(m.tokenizer, 50256) && !qn_tokenizer_adds_bos(m.tokenizer));
  close_model(m);
  qn_vec_free(qn_test_allocator(), &tokens);
}
END_TEST

START_TEST(stories_round_trip) {
  model m = open_model("models/stories260K/stories260K.gguf");
  ck_assert_int_eq(qn_tokenizer_count(m.tokenizer), 512);
  ck_assert_int_eq(qn_tokenizer_pad(m.tokenizer), -1);  // the file says 2^32-1
  static const int32_t greedy[] = {403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421, 395, 317,
                                   426, 338, 401, 396, 267, 337, 410, 408, 419, 292, 411, 322, 265, 282};
  qn_token_vec tokens = {(int32_t *)(uintptr_t)greedy, QN_COUNT(greedy), 0};
  check_decoded(&m, &tokens,
                QN_STR("Once upon a time, there was a little girl named Lily. She loved to play outside in the p"));
  char *text;
  size_t size;
  qn_diag diag = {0};
  const char *path = qn_test_shared("models/stories260K/golden-greedy-n256.txt");
  qn_assert_ok(&diag, qn_file_read(path, QN_TEXT_MAX, qn_test_allocator(), &text, &size, &diag));
  tokens = (qn_token_vec){0};
  encode(&m, (qn_str){text, size}, 0, &tokens);
  check_decoded(&m, &tokens, (qn_str){text, size});
  qn_free(qn_test_allocator(), text, size + 1);
  qn_vec_free(qn_test_allocator(), &tokens);
  close_model(m);
}
END_TEST

QN_CASE(llama_cpp, gpt2_cases, phi3_cases, llama_spm_cases, bert_bge_cases, llama3_words, qwen2_words)
static TCase *others(void) {
  if (qn_test_shared("models/vocab") == NULL) qn_test_skip("the shared folder models/vocab is not here");
  const TTest *const tests[] = {special_tokens, stories_round_trip, random_texts};
  return qn_test_case("others", tests, QN_COUNT(tests));
}
QN_TEST_MAIN(llama_cpp, others)
