// Synthetic models: they open as GGUF with the tensors an importer looks for, and weights of a sane size.
#include "tests/support/synth.h"

#include <math.h>

#include "frontend/import/gguf.h"
#include "frontend/import/vocab.h"
#include "tests/support/test.h"

typedef struct model_file {
  uint8_t *data;
  size_t size;
  qn_gguf *gguf;
} model_file;

static model_file make(const qn_synth_options *options) {
  model_file file;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_synth_save_memory(options, qn_test_allocator(), &file.data, &file.size, &diag));
  qn_assert_ok(&diag, qn_gguf_open_memory(&file.gguf, file.data, file.size, "s", qn_test_allocator(), &diag));
  return file;
}

static void discard(model_file file) {
  qn_gguf_close(file.gguf);
  qn_free(qn_test_allocator(), file.data, file.size);
}

// The tensor is there with this format and shape (d1 = 1 for vectors), and its values have these moments.
static void expect_tensor(const qn_gguf *gguf, const char *name, qn_dtype dtype, int64_t d0, int64_t d1, double mean,
                          double deviation) {
  qn_gguf_view view;
  const qn_gguf_tensor *tensor;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_gguf_get_tensor(gguf, name, &tensor, &diag));
  qn_assert_ok(&diag, qn_gguf_tensor_view(gguf, tensor, &view, &diag));
  ck_assert_msg(view.k == d0 && view.rows == d1 && view.format->dtype == dtype, "%s: got %s of %d x %d", name,
                view.format->name, (int)view.rows, (int)view.k);
  double row[4096], sum = 0.0, squares = 0.0, count = (double)(d0 * d1);
  for (int64_t r = 0; r < view.rows; r++) {
    qn_format_row_to_f64(view.format, view.k, view.data + (size_t)r * view.row_bytes, row);
    for (int64_t i = 0; i < view.k; i++) sum += row[i], squares += (row[i] - mean) * (row[i] - mean);
  }
  double slack = 5.0 / sqrt(count);  // five sigmas of the estimates
  ck_assert_msg(fabs(sum / count - mean) <= deviation * slack, "%s: mean %g, want %g", name, sum / count, mean);
  double got = sqrt(squares / count);
  ck_assert_msg(fabs(got - deviation) <= deviation * (slack + 0.02), "%s: deviation %g, want %g", name, got, deviation);
}

START_TEST(test_llama) {
  static const qn_dtype dtypes[] = {QN_DTYPE_Q8_0, QN_DTYPE_Q4_0, QN_DTYPE_Q4_1,
                                    QN_DTYPE_F16,  QN_DTYPE_BF16, QN_DTYPE_F32};
  for (size_t d = 0; d < QN_COUNT(dtypes); d++) {
    qn_dtype dtype = dtypes[d];
    qn_synth_options options = {
        .model = qn_synth_find("tiny-llama-test"), .type = qn_synth_type_find(qn_dtype_name(dtype)), .seed = 3};
    model_file file = make(&options);
    const qn_gguf *g = file.gguf;
    double narrow = 1.0 / sqrt(64.0), residual = 0.5;  // 1 / sqrt(2 layers x 2)
    ck_assert_uint_eq(g->tensor_count, 2 * 9 + 3);
    expect_tensor(g, "token_embd.weight", dtype, 64, 512, 0.0, narrow);
    expect_tensor(g, "output.weight", dtype, 64, 512, 0.0, narrow);
    expect_tensor(g, "output_norm.weight", QN_DTYPE_F32, 64, 1, 1.0, 0.05);
    expect_tensor(g, "blk.0.attn_norm.weight", QN_DTYPE_F32, 64, 1, 1.0, 0.05);
    expect_tensor(g, "blk.0.attn_q.weight", dtype, 64, 64, 0.0, narrow);
    expect_tensor(g, "blk.1.attn_k.weight", dtype, 64, 32, 0.0, narrow);
    expect_tensor(g, "blk.1.attn_v.weight", dtype, 64, 32, 0.0, narrow);
    expect_tensor(g, "blk.1.attn_output.weight", dtype, 64, 64, 0.0, narrow * residual);
    expect_tensor(g, "blk.1.ffn_norm.weight", QN_DTYPE_F32, 64, 1, 1.0, 0.05);
    expect_tensor(g, "blk.1.ffn_gate.weight", dtype, 64, 160, 0.0, narrow);
    expect_tensor(g, "blk.1.ffn_up.weight", dtype, 64, 160, 0.0, narrow);
    expect_tensor(g, "blk.1.ffn_down.weight", dtype, 160, 64, 0.0, residual / sqrt(160.0));
    discard(file);
  }
}
END_TEST

START_TEST(test_other_architectures) {
  qn_synth_options options = {.type = qn_synth_type_find("q8_0"), .layers = 1, .seed = 5};
  options.model = qn_synth_find("tiny-qwen2-test");
  model_file file = make(&options);
  qn_diag diag = {0};
  qn_str text;
  int64_t layers;
  qn_assert_ok(&diag, qn_gguf_get_string(file.gguf, "general.architecture", &text, &diag));
  ck_assert(qn_str_is(text, "qwen2"));
  qn_assert_ok(&diag, qn_gguf_get_int(file.gguf, "qwen2.block_count", 1, 1, &layers, &diag));
  ck_assert_uint_eq(file.gguf->tensor_count, 12 + 2);
  expect_tensor(file.gguf, "blk.0.attn_q.bias", QN_DTYPE_F32, 64, 1, 0.0, 0.02);
  expect_tensor(file.gguf, "blk.0.attn_k.bias", QN_DTYPE_F32, 32, 1, 0.0, 0.02);
  ck_assert_ptr_null(qn_gguf_find_tensor(file.gguf, "output.weight"));
  discard(file);

  options.model = qn_synth_find("tiny-gpt2-test");
  file = make(&options);
  ck_assert_uint_eq(file.gguf->tensor_count, 12 + 4);
  ck_assert_ptr_nonnull(qn_gguf_find(file.gguf, "gpt2.attention.layer_norm_epsilon"));
  ck_assert_ptr_null(qn_gguf_find(file.gguf, "gpt2.rope.freq_base"));
  expect_tensor(file.gguf, "position_embd.weight", QN_DTYPE_F32, 64, 64, 0.0, 0.01);
  expect_tensor(file.gguf, "blk.0.attn_norm.bias", QN_DTYPE_F32, 64, 1, 0.0, 0.02);
  expect_tensor(file.gguf, "blk.0.attn_qkv.weight", QN_DTYPE_Q8_0, 64, 192, 0.0, 0.125);
  expect_tensor(file.gguf, "blk.0.attn_qkv.bias", QN_DTYPE_F32, 192, 1, 0.0, 0.02);
  expect_tensor(file.gguf, "blk.0.ffn_up.weight", QN_DTYPE_Q8_0, 64, 256, 0.0, 0.125);
  expect_tensor(file.gguf, "blk.0.ffn_down.bias", QN_DTYPE_F32, 64, 1, 0.0, 0.02);
  expect_tensor(file.gguf, "output_norm.bias", QN_DTYPE_F32, 64, 1, 0.0, 0.02);
  discard(file);
}
END_TEST

START_TEST(test_experts) {
  qn_synth_options options = {
      .model = qn_synth_find("tiny-olmoe-test"), .type = qn_synth_type_find("q8_0"), .layers = 1, .seed = 5};
  model_file file = make(&options);
  qn_diag diag = {0};
  int64_t used;
  qn_assert_ok(&diag, qn_gguf_get_int(file.gguf, "olmoe.expert_used_count", 1, 6, &used, &diag));
  ck_assert_int_eq(used, 2);
  ck_assert_uint_eq(file.gguf->tensor_count, 12 + 3);
  expect_tensor(file.gguf, "blk.0.attn_k_norm.weight", QN_DTYPE_F32, 32, 1, 1.0, 0.05);
  expect_tensor(file.gguf, "blk.0.ffn_gate_inp.weight", QN_DTYPE_F32, 64, 6, 0.0, 0.125);
  expect_tensor(file.gguf, "blk.0.ffn_gate_exps.weight", QN_DTYPE_Q8_0, 64, 6 * 96, 0.0, 0.125);
  expect_tensor(file.gguf, "blk.0.ffn_down_exps.weight", QN_DTYPE_Q8_0, 96, 6 * 64, 0.0, sqrt(0.5 / 96.0));
  const qn_gguf_tensor *tensor = qn_gguf_find_tensor(file.gguf, "blk.0.ffn_up_exps.weight");
  ck_assert(tensor->n_dims == 3 && tensor->dims[0] == 64 && tensor->dims[1] == 96 && tensor->dims[2] == 6);
  discard(file);
}
END_TEST

START_TEST(test_llama3_factors) {
  qn_synth_model model = *qn_synth_find("tiny-llama-test");
  model.head_dim = 64;
  model.rope_theta = 5e5f;
  model.llama3_rope = true;
  qn_synth_options options = {.model = &model, .type = qn_synth_type_find("q4_0"), .layers = 1, .seed = 1};
  model_file file = make(&options);
  qn_gguf_view view;
  float factors[32];
  qn_assert_ok(&(qn_diag){0},
               qn_gguf_tensor_view(file.gguf, qn_gguf_find_tensor(file.gguf, "rope_freqs.weight"), &view, NULL));
  ck_assert(view.k == 32 && view.rows == 1);
  memcpy(factors, view.data, sizeof factors);
  // Wavelengths below 8192 / 4 keep their frequency, above 8192 / 1 it is divided by 32; 15 to 17 lie between.
  for (int i = 0; i < 32; i++) {
    if (i < 15) ck_assert(factors[i] == 1.0f);
    if (i >= 18) ck_assert(factors[i] == 32.0f);
    if (i > 0) ck_assert(factors[i] >= factors[i - 1]);
  }
  ck_assert(factors[15] > 1.0f && factors[17] < 32.0f);
  discard(file);
}
END_TEST

START_TEST(test_vocabulary) {
  qn_synth_options options = {.model = qn_synth_find("tiny-llama-test"), .type = qn_synth_type_find("q4_0")};
  model_file file = make(&options);
  qn_diag diag = {0};
  const qn_str *tokens;
  const int64_t *types;
  const float *scores;
  size_t count;
  qn_assert_ok(&diag, qn_gguf_get_strings(file.gguf, "tokenizer.ggml.tokens", &tokens, &count, &diag));
  ck_assert_uint_eq(count, 512);
  ck_assert(qn_str_is(tokens[0], "<unk>") && qn_str_is(tokens[1], "<s>") && qn_str_is(tokens[2], "</s>"));
  ck_assert(qn_str_is(tokens[3], "<0x00>") && qn_str_is(tokens[258], "<0xFF>"));
  ck_assert(qn_str_is(tokens[259], "\xe2\x96\x81") && qn_str_is(tokens[260], "!") && qn_str_is(tokens[353], "~"));
  ck_assert(qn_str_is(tokens[354], "\xe2\x96\x81w") && qn_str_is(tokens[355], "\xe2\x96\x81w0"));
  qn_assert_ok(&diag, qn_gguf_get_ints(file.gguf, "tokenizer.ggml.token_type", &types, &count, &diag));
  ck_assert(types[0] == 2 && types[1] == 3 && types[2] == 3 && types[3] == 6 && types[258] == 6 && types[259] == 1);
  qn_assert_ok(&diag, qn_gguf_get_floats(file.gguf, "tokenizer.ggml.scores", &scores, &count, &diag));
  for (size_t i = 260; i < count; i++) ck_assert(scores[i] < scores[i - 1]);
  discard(file);
}
END_TEST

// Byte-level BPE: the bytes, words by merges of tokens that are there, control tokens at the end.
START_TEST(test_bpe_vocabulary) {
  qn_synth_model model = *qn_synth_find("tiny-llama-test");
  model.vocabulary = "llama-3";
  model.vocab = 1600;
  qn_synth_options options = {.model = &model, .type = qn_synth_type_find("q4_0"), .layers = 1};
  model_file file = make(&options);
  qn_diag diag = {0};
  const qn_str *tokens, *merges;
  size_t count, merge_count;
  int64_t bos;
  qn_str pre;
  qn_assert_ok(&diag, qn_gguf_get_string(file.gguf, "tokenizer.ggml.pre", &pre, &diag));
  ck_assert(qn_str_is(pre, "llama-bpe"));
  qn_assert_ok(&diag, qn_gguf_get_strings(file.gguf, "tokenizer.ggml.tokens", &tokens, &count, &diag));
  qn_assert_ok(&diag, qn_gguf_get_strings(file.gguf, "tokenizer.ggml.merges", &merges, &merge_count, &diag));
  qn_assert_ok(&diag, qn_gguf_get_int(file.gguf, "tokenizer.ggml.bos_token_id", 0, 2000, &bos, &diag));
  ck_assert(count == 1600 && merge_count == 1600 - 512 && bos == 1600 - 256);
  ck_assert(qn_str_is(tokens[bos], "<|begin_of_text|>") && qn_str_is(tokens[bos + 1], "<|end_of_text|>"));
  ck_assert(qn_str_is(tokens[0], "\xc4\x80") && qn_str_is(tokens[' '], "\xc4\xa0") && qn_str_is(tokens['a'], "a"));
  ck_assert(qn_str_is(tokens[0xad], "\xc5\x83") && qn_str_is(tokens[0xff], "\xc3\xbf"));
  ck_assert(qn_str_is(tokens[256],
                      "\xc4\xa0"
                      "a") &&
            qn_str_is(tokens[256 + 26],
                      "\xc4\xa0"
                      "aa"));
  ck_assert(qn_str_is(tokens[256 + 26 + 676 + 27],
                      "\xc4\xa0"
                      "abb"));
  ck_assert(qn_str_is(merges[0], "\xc4\xa0 a") && qn_str_is(merges[26 + 676 + 27],
                                                            "\xc4\xa0"
                                                            "ab b"));
  discard(file);
  // The tokenizer takes it: every word is one token.
  qn_arena arena;
  qn_tokenizer_desc vocabulary;
  file = make(&options);
  qn_arena_init(&arena, qn_test_allocator());
  qn_assert_ok(&diag, qn_vocab_from_gguf(file.gguf, &arena, &vocabulary, &diag));
  ck_assert_uint_eq(vocabulary.token_count, 1600);
  qn_arena_deinit(&arena);
  discard(file);
}
END_TEST

// Every type that the formats allow writes every matrix; the _M mixes keep some in more bits; rows that a format does
// not fit become another.
START_TEST(test_types) {
  qn_synth_model model = *qn_synth_find("tiny-llama-test");
  model.hidden = 256;
  model.ffn = 96;
  for (size_t i = 0, types = qn_test_stride(1, 3); qn_synth_type_at(i) != NULL; i++) {
    if (i % types != 0 && !qn_synth_type_at(i)->every) continue;
    const qn_synth_type *type = qn_synth_type_at(i);
    qn_synth_options options = {
        .model = &model, .type = type, .layers = type->better != type->format ? 8 : 1, .seed = 2};
    model_file file = make(&options);
    uint64_t formats = 0;
    for (size_t t = 0; t < file.gguf->tensor_count; t++) {
      const qn_gguf_tensor *tensor = &file.gguf->tensors[t];
      const char *format = qn_format_of_gguf(tensor->type)->name, *want = qn_dtype_name(type->format);
      qn_str name = tensor->name;
      bool down = strstr(name.data, "ffn_down") != NULL, value = strstr(name.data, "attn_v") != NULL;
      int layer = name.data[0] == 'b' ? name.data[4] - '0' : -1;
      if (tensor->n_dims == 1) continue;
      if (type->better != type->format &&
          (strncmp(name.data, "output.", 7) == 0 ||
           ((down || value) && (layer == 0 || layer == 3 || layer == 6 || layer == 7)))) {
        want = qn_dtype_name(type->better);
      }
      if (tensor->dims[0] == 256) formats |= UINT64_C(1) << tensor->type;
      if (tensor->dims[0] == 256 && !type->every) {
        ck_assert_msg(strcmp(format, want) == 0, "%s: %.*s is %s", type->name, (int)name.length, name.data, format);
      } else {
        ck_assert_int_eq((int64_t)tensor->dims[0] % qn_format_of_gguf(tensor->type)->block_values, 0);
      }
    }
    if (type->every) ck_assert_int_ge(__builtin_popcountll(formats), 7);  // f32, which vectors have, and six more
    discard(file);
  }
}
END_TEST

START_TEST(test_seeds) {
  qn_synth_options options = {.model = qn_synth_find("tiny-llama-test"), .type = qn_synth_type_find("q8_0")};
  model_file a = make(&options), b = make(&options);
  options.seed = 1;
  model_file c = make(&options);
  ck_assert_uint_eq(a.size, b.size);
  ck_assert_mem_eq(a.data, b.data, a.size);
  ck_assert_uint_eq(a.size, c.size);
  ck_assert(memcmp(a.data + a.gguf->data_offset, c.data + c.gguf->data_offset, 4096) != 0);
  discard(a);
  discard(b);
  discard(c);
  // Rows drawn from the pool of a large tensor: a wider model, still of the right spread.
  qn_synth_model model = *options.model;
  model.vocab = 8192;
  options.model = &model;
  options.layers = 1;
  model_file wide = make(&options);
  expect_tensor(wide.gguf, "token_embd.weight", QN_DTYPE_Q8_0, 64, 8192, 0.0, 0.125);
  discard(wide);
  ck_assert_ptr_null(qn_synth_find("no such model"));
  ck_assert_uint_eq(qn_test_allocator_memory()->live_blocks, 0);
}
END_TEST

static qn_status save(const qn_allocator *allocator, void *context) {
  uint8_t *data;
  size_t size;
  qn_diag diag = {0};
  qn_status status = qn_synth_save_memory(context, allocator, &data, &size, &diag);
  if (status == QN_OK) qn_free(allocator, data, size);
  return status;
}

START_TEST(test_out_of_memory) {
  qn_synth_options options = {
      .model = qn_synth_find("tiny-llama-test"), .type = qn_synth_type_find("q4_0"), .layers = 1};
  qn_test_failing_allocations(save, &options);
}
END_TEST

QN_CASE(synth, test_llama, test_other_architectures, test_experts, test_llama3_factors, test_vocabulary, test_bpe_vocabulary,
        test_types, test_seeds, test_out_of_memory)
QN_TEST_MAIN(synth)
