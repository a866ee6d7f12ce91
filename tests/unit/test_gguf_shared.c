// Real GGUF files: the shared trained model and vocabularies read as what their makers say they are.
#include "frontend/import/gguf.h"
#include "tests/support/test.h"

static qn_gguf *open_shared(const char *relative) {
  qn_gguf *gguf;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_gguf_open(&gguf, qn_test_shared(relative), qn_test_allocator(), &diag));
  return gguf;
}

static int64_t get_int(const qn_gguf *gguf, const char *key) {
  int64_t value = -1;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_gguf_get_int(gguf, key, 0, INT64_MAX, &value, &diag));
  return value;
}

START_TEST(test_stories) {
  qn_gguf *gguf = open_shared("models/stories260K/stories260K.gguf");
  qn_diag diag = {0};
  const qn_gguf_tensor *tensor;
  const qn_str *tokens;
  const float *scores;
  size_t count;
  double number;
  qn_str text;
  ck_assert_uint_eq(gguf->version, 3);
  ck_assert_uint_eq(gguf->tensor_count, 48);
  qn_assert_ok(&diag, qn_gguf_get_string(gguf, "general.architecture", &text, &diag));
  ck_assert(qn_str_is(text, "llama"));
  ck_assert_int_eq(get_int(gguf, "llama.embedding_length"), 64);
  ck_assert_int_eq(get_int(gguf, "llama.block_count"), 5);
  ck_assert_int_eq(get_int(gguf, "llama.feed_forward_length"), 172);
  ck_assert_int_eq(get_int(gguf, "llama.attention.head_count"), 8);
  ck_assert_int_eq(get_int(gguf, "llama.attention.head_count_kv"), 4);
  qn_assert_ok(&diag, qn_gguf_get_float(gguf, "llama.attention.layer_norm_rms_epsilon", &number, &diag));
  ck_assert(number > 0.99e-5 && number < 1.01e-5);
  qn_assert_ok(&diag, qn_gguf_get_strings(gguf, "tokenizer.ggml.tokens", &tokens, &count, &diag));
  ck_assert_uint_eq(count, 512);
  ck_assert(qn_str_is(tokens[3], "<0x00>"));
  qn_assert_ok(&diag, qn_gguf_get_floats(gguf, "tokenizer.ggml.scores", &scores, &count, &diag));
  ck_assert_uint_eq(count, 512);
  qn_assert_ok(&diag, qn_gguf_get_tensor(gguf, "blk.4.ffn_down.weight", &tensor, &diag));
  ck_assert(tensor->dims[0] == 172 && tensor->dims[1] == 64);
  int64_t values = 0;
  for (size_t i = 0; i < gguf->tensor_count; i++) {
    qn_gguf_view view;
    qn_assert_ok(&diag, qn_gguf_tensor_view(gguf, &gguf->tensors[i], &view, &diag));
    ck_assert_str_eq(view.format->name, "f32");
    values += view.rows * view.k;
  }
  ck_assert_int_eq(values, 292800);  // 260,032 parameters, the tied embedding stored twice (512 x 64)
  qn_gguf_close(gguf);
}
END_TEST

START_TEST(test_vocabularies) {
  static const struct {
    const char *file, *model;
    size_t tokens;
  } cases[] = {
      {"models/vocab/ggml-vocab-gpt-2.gguf", "gpt2", 50257},
      {"models/vocab/ggml-vocab-llama-spm.gguf", "llama", 32000},
      {"models/vocab/ggml-vocab-phi-3.gguf", "llama", 32064},
      {"models/vocab/ggml-vocab-bert-bge.gguf", "bert", 30522},
  };
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    qn_gguf *gguf = open_shared(cases[i].file);
    qn_diag diag = {0};
    const qn_str *tokens;
    const int64_t *types;
    size_t count;
    qn_str model;
    ck_assert_uint_eq(gguf->tensor_count, 0);
    qn_assert_ok(&diag, qn_gguf_get_string(gguf, "tokenizer.ggml.model", &model, &diag));
    ck_assert(qn_str_is(model, cases[i].model));
    qn_assert_ok(&diag, qn_gguf_get_strings(gguf, "tokenizer.ggml.tokens", &tokens, &count, &diag));
    ck_assert_uint_eq(count, cases[i].tokens);
    qn_assert_ok(&diag, qn_gguf_get_ints(gguf, "tokenizer.ggml.token_type", &types, &count, &diag));
    ck_assert_uint_eq(count, cases[i].tokens);
    qn_gguf_close(gguf);
  }
}
END_TEST

static TCase *shared(void) {
  if (qn_test_shared("models/stories260K/stories260K.gguf") == NULL ||
      qn_test_shared("models/vocab/ggml-vocab-gpt-2.gguf") == NULL) {
    qn_test_skip("the shared models are not here");
  }
  const TTest *const tests[] = {test_stories, test_vocabularies};
  return qn_test_case("shared", tests, QN_COUNT(tests));
}

QN_TEST_MAIN(shared)
