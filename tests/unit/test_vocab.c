// The vocabulary of a GGUF file: what each key becomes, the defaults, and every error with its key, got and want.
#include "frontend/import/vocab.h"

#include <stdio.h>

#include "frontend/import/gguf_write.h"
#include "runtime/base/log.h"
#include "tests/support/test.h"

#define KEY(name) "tokenizer.ggml." name

// A vocabulary file; `spoil` says what is wrong with it.
static const qn_str spm_tokens[] = {{"<unk>", 5}, {"<s>", 3}, {"</s>", 4}, {"a", 1}};
static const qn_str bpe_tokens[] = {{"a", 1}, {"b", 1}, {"ab", 2}, {"<|end|>", 7}};
static const float scores[] = {0, 0, 0, -1, -2};
static const int32_t types[] = {2, 3, 3, 1, 1}, bpe_types[] = {1, 1, 1, 4};

typedef struct file {
  qn_gguf_writer *writer;
  uint8_t *data;
  size_t size;
  qn_gguf *gguf;
  qn_arena arena;
  qn_tokenizer_desc desc;
  qn_diag diag;
} file;

static file begin(const char *model) {
  file f = {.writer = qn_gguf_writer_create(qn_test_allocator())};
  qn_arena_init(&f.arena, qn_test_allocator());
  if (model != NULL) qn_gguf_writer_add_text(f.writer, KEY("model"), model);
  return f;
}

static file begin_spm(void) {
  file f = begin("llama");
  qn_gguf_writer_add_strings(f.writer, KEY("tokens"), spm_tokens, 4);
  qn_gguf_writer_add_array(f.writer, KEY("scores"), QN_GGUF_F32, scores, 4);
  return f;
}

static file begin_bpe_as(const char *pre) {
  static const qn_str merges[] = {{"a b", 3}};
  file f = begin("gpt2");
  qn_gguf_writer_add_strings(f.writer, KEY("tokens"), bpe_tokens, 4);
  qn_gguf_writer_add_strings(f.writer, KEY("merges"), merges, 1);
  qn_gguf_writer_add_text(f.writer, KEY("pre"), pre);
  return f;
}

static file begin_bpe(void) { return begin_bpe_as("qwen2"); }

static qn_status read_file(file *f) {
  qn_assert_ok(&f->diag, qn_gguf_writer_save_memory(f->writer, &f->data, &f->size, &f->diag));
  qn_gguf_writer_destroy(f->writer);
  qn_assert_ok(&f->diag, qn_gguf_open_memory(&f->gguf, f->data, f->size, "t.gguf", qn_test_allocator(), &f->diag));
  return qn_vocab_from_gguf(f->gguf, &f->arena, &f->desc, &f->diag);
}

static void end(file *f) {
  qn_arena_deinit(&f->arena);
  qn_gguf_close(f->gguf);
  qn_free(qn_test_allocator(), f->data, f->size);
}

static void refuse(file f, qn_status status, const char *text) {
  qn_assert_fails(&f.diag, status, text, read_file(&f));
  end(&f);
}

// ---- what the keys become ----------------------------------------------------------------------------------------

START_TEST(spm_defaults) {
  file f = begin_spm();
  qn_assert_ok(&f.diag, read_file(&f));
  const qn_tokenizer_desc *d = &f.desc;
  ck_assert_int_eq(d->kind, QN_TOKENIZER_SPM);
  ck_assert_uint_eq(d->token_count, 4);
  ck_assert(qn_str_is(d->tokens[3], "a") && d->scores[3] == -1 && d->types == NULL);
  ck_assert(d->bos == 1 && d->eos == 2 && d->unk == 0 && d->pad == -1 && d->end_count == 0);
  ck_assert(d->before_count == 1 && d->before[0] == 1 && d->after_count == 0);
  ck_assert(d->step_count == 2 && d->normalizer_count == 2 && d->fuse_unknown);
  ck_assert(d->steps[0].op == QN_STEP_PREPEND && d->steps[0].flags == 0 && d->steps[1].op == QN_STEP_REPLACE);
  ck_assert(d->decoder.drop_space && d->decoder.byte_tokens && qn_str_is(d->decoder.space, "\xe2\x96\x81"));
  end(&f);
}
END_TEST

START_TEST(spm_settings) {
  file f = begin_spm();
  qn_gguf_writer_add_array(f.writer, KEY("token_type"), QN_GGUF_I32, types, 4);
  qn_gguf_writer_add_u32(f.writer, KEY("bos_token_id"), 3);
  qn_gguf_writer_add_u32(f.writer, KEY("eos_token_id"), 0xFFFFFFFF);
  qn_gguf_writer_add_int(f.writer, KEY("padding_token_id"), QN_GGUF_I32, -1);
  qn_gguf_writer_add_u32(f.writer, KEY("eot_token_id"), 2);
  qn_gguf_writer_add_bool(f.writer, KEY("add_bos_token"), false);
  qn_gguf_writer_add_bool(f.writer, KEY("add_space_prefix"), false);
  qn_gguf_writer_add_bool(f.writer, KEY("remove_extra_whitespaces"), true);
  qn_assert_ok(&f.diag, read_file(&f));
  const qn_tokenizer_desc *d = &f.desc;
  ck_assert(d->bos == 3 && d->eos == -1 && d->pad == -1 && d->end_count == 1 && d->ends[0] == 2);
  ck_assert(d->types[0] == QN_TOKEN_UNKNOWN && d->types[1] == QN_TOKEN_CONTROL && d->types[3] == QN_TOKEN_NORMAL);
  ck_assert(d->before_count == 0 && !d->decoder.drop_space && d->step_count == 4);  // three squeeze spaces
  end(&f);
}
END_TEST

START_TEST(bpe_keys) {
  file f = begin_bpe();
  qn_gguf_writer_add_array(f.writer, KEY("token_type"), QN_GGUF_I32, bpe_types, 4);
  qn_gguf_writer_add_u32(f.writer, KEY("eos_token_id"), 3);
  qn_gguf_writer_add_bool(f.writer, KEY("add_eos_token"), true);
  qn_assert_ok(&f.diag, read_file(&f));
  const qn_tokenizer_desc *d = &f.desc;
  ck_assert_int_eq(d->kind, QN_TOKENIZER_BPE);
  // Qwen2's: NFC, one pattern, the byte alphabet.
  ck_assert(d->step_count == 3 && d->normalizer_count == 1 && d->steps[0].op == QN_STEP_NFC && d->unicode.length > 0);
  ck_assert(d->steps[1].op == QN_STEP_SPLIT && d->steps[2].op == QN_STEP_BYTE_LEVEL && d->decoder.byte_level);
  ck_assert(d->merge_count == 1 && qn_str_is(d->merges[0].left, "a") && qn_str_is(d->merges[0].right, "b"));
  ck_assert(d->bos == -1 && d->eos == 3 && d->unk == -1 && d->after_count == 1 && d->after[0] == 3);
  ck_assert(!d->ignore_merges && d->before_count == 0 && d->scores == NULL && !d->decoder.drop_space);
  end(&f);
  // Llama 3's name implies that words that are tokens are taken whole, and BOS where there is one.
  for (int with_bos = 0; with_bos < 2; with_bos++) {
    f = begin_bpe_as("llama-bpe");
    if (with_bos) qn_gguf_writer_add_u32(f.writer, KEY("bos_token_id"), 3);
    qn_assert_ok(&f.diag, read_file(&f));
    ck_assert(f.desc.ignore_merges && f.desc.before_count == (size_t)with_bos);
    end(&f);
  }
}
END_TEST

START_TEST(unigram_and_wordpiece_keys) {
  static const int8_t map[] = {8, 0, 0, 0, 0, 4, 0, 0, -1, 0, 0, 0, 'b', 0};
  file f = begin("t5");
  qn_gguf_writer_add_strings(f.writer, KEY("tokens"), spm_tokens, 4);
  qn_gguf_writer_add_array(f.writer, KEY("scores"), QN_GGUF_F32, scores, 4);
  qn_gguf_writer_add_array(f.writer, KEY("precompiled_charsmap"), QN_GGUF_I8, map, sizeof map);
  qn_gguf_writer_add_bool(f.writer, KEY("remove_extra_whitespaces"), true);
  qn_assert_ok(&f.diag, read_file(&f));
  const qn_tokenizer_desc *d = &f.desc;
  ck_assert(d->kind == QN_TOKENIZER_UNIGRAM && d->single_precision && d->charsmap.length == sizeof map);
  ck_assert(d->bos == -1 && d->eos == 1 && d->unk == 2 && d->pad == 0 && d->after_count == 1 && d->before_count == 0);
  ck_assert(d->step_count == 6 && d->steps[0].op == QN_STEP_CHARSMAP && d->steps[3].flags == QN_STEP_AT_START);
  end(&f);
  f = begin("bert");
  qn_gguf_writer_add_strings(f.writer, KEY("tokens"), spm_tokens, 4);
  qn_gguf_writer_add_u32(f.writer, KEY("cls_token_id"), 1);
  qn_gguf_writer_add_u32(f.writer, KEY("seperator_token_id"), 2);
  qn_assert_ok(&f.diag, read_file(&f));
  d = &f.desc;
  ck_assert(d->kind == QN_TOKENIZER_WORDPIECE && d->before_count == 1 && d->before[0] == 1 && d->after[0] == 2);
  ck_assert(d->max_word == 100 && qn_str_is(d->first_prefix, "\xe2\x96\x81") && d->next_prefix.length == 0);
  end(&f);
}
END_TEST

START_TEST(phi3_is_known_by_name) {
  static const char *const names[] = {"Phi3", "microsoft_Phi-3-mini", "Llama"};
  for (size_t i = 0; i < QN_COUNT(names); i++) {
    file f = begin_spm();
    qn_gguf_writer_add_text(f.writer, "general.name", names[i]);
    qn_gguf_writer_add_array(f.writer, KEY("token_type"), QN_GGUF_I32, types, 4);
    qn_assert_ok(&f.diag, read_file(&f));
    bool phi = i < 2;
    ck_assert_int_eq(f.desc.types[2], QN_TOKEN_CONTROL | (phi ? QN_TOKEN_TAKES_SPACE : 0));  // </s>
    ck_assert_int_eq(f.desc.types[1], QN_TOKEN_CONTROL);                                     // <s>
    ck_assert_int_eq(f.desc.types[3], QN_TOKEN_NORMAL);
    end(&f);
  }
}
END_TEST

static char logged[512];
static void keep_log(void *context, qn_log_level level, const char *text) {
  (void)context;
  ck_assert_int_eq(level, QN_LOG_WARNING);
  snprintf(logged, sizeof logged, "%s", text);
}

START_TEST(missing_pre_warns) {
  static const qn_str merges[] = {{"a b", 3}};
  file f = begin("gpt2");
  qn_gguf_writer_add_strings(f.writer, KEY("tokens"), bpe_tokens, 4);
  qn_gguf_writer_add_strings(f.writer, KEY("merges"), merges, 1);
  qn_log_set(keep_log, NULL);
  qn_assert_ok(&f.diag, read_file(&f));
  qn_log_set(NULL, NULL);
  ck_assert_uint_eq(f.desc.step_count, 5);  // its four patterns and the byte alphabet
  ck_assert_msg(strstr(logged, "t.gguf: key 'tokenizer.ggml.pre' is missing: taking 'default'") != NULL, "%s", logged);
  end(&f);
}
END_TEST

// ---- errors ------------------------------------------------------------------------------------------------------

START_TEST(errors) {
  const qn_status format = QN_ERR_FORMAT;
  file f;
  refuse(begin(NULL), format, "tokenizer.ggml.model");
  refuse(begin("rwkv"), QN_ERR_UNSUPPORTED,
         "t.gguf: key 'tokenizer.ggml.model': got 'rwkv', want 'llama', 'gpt2', 't5' or 'bert'");
  refuse(begin_bpe_as("gpt-9"), QN_ERR_UNSUPPORTED, "pre-tokenizer 'gpt-9' is not known; known are: default gpt-2");
  static const int32_t not_bytes[] = {1, 256};
  f = begin_spm(), qn_gguf_writer_add_array(f.writer, KEY("precompiled_charsmap"), QN_GGUF_I32, not_bytes, 2);
  refuse(f, format, "t.gguf: key 'tokenizer.ggml.precompiled_charsmap': item 1 is 256, want a byte");
  refuse(begin("llama"), format, "tokenizer.ggml.tokens");
  f = begin("llama"), qn_gguf_writer_add_u32(f.writer, KEY("tokens"), 7);
  refuse(f, format, "tokenizer.ggml.tokens");
  f = begin("llama"), qn_gguf_writer_add_strings(f.writer, KEY("tokens"), spm_tokens, 0);
  refuse(f, format, "t.gguf: key 'tokenizer.ggml.tokens': has 0 tokens, want at least 1");
  f = begin("llama"), qn_gguf_writer_add_strings(f.writer, KEY("tokens"), spm_tokens, 4);
  refuse(f, format, "tokenizer.ggml.scores");
  f = begin("llama"), qn_gguf_writer_add_strings(f.writer, KEY("tokens"), spm_tokens, 4);
  qn_gguf_writer_add_array(f.writer, KEY("scores"), QN_GGUF_F32, scores, 5);
  refuse(f, format, "t.gguf: key 'tokenizer.ggml.scores': has 5 scores, want one for each of 4 tokens");
  f = begin_spm(), qn_gguf_writer_add_array(f.writer, KEY("token_type"), QN_GGUF_I32, types, 3);
  refuse(f, format, "t.gguf: key 'tokenizer.ggml.token_type': has 3 types, want one for each of 4 tokens");
  static const int32_t wrong_types[] = {1, 1, 7, 1}, negative[] = {1, -1, 1, 1};
  f = begin_spm(), qn_gguf_writer_add_array(f.writer, KEY("token_type"), QN_GGUF_I32, wrong_types, 4);
  refuse(f, format, "t.gguf: key 'tokenizer.ggml.token_type': token 2 has type 7, want 0 to 6");
  f = begin_spm(), qn_gguf_writer_add_array(f.writer, KEY("token_type"), QN_GGUF_I32, negative, 4);
  refuse(f, format, "t.gguf: key 'tokenizer.ggml.token_type': token 1 has type -1, want 0 to 6");
  f = begin_spm(), qn_gguf_writer_add_u32(f.writer, KEY("bos_token_id"), 4);
  refuse(f, format, "t.gguf: key 'tokenizer.ggml.bos_token_id': is 4, want a token below 4");
  f = begin_spm(), qn_gguf_writer_add_text(f.writer, KEY("eos_token_id"), "x");
  refuse(f, format, "tokenizer.ggml.eos_token_id");
  f = begin_spm(), qn_gguf_writer_add_u32(f.writer, KEY("add_bos_token"), 2);
  refuse(f, format, "tokenizer.ggml.add_bos_token");
}
END_TEST

START_TEST(bpe_errors) {
  const qn_status format = QN_ERR_FORMAT;
  file f = begin("gpt2");
  qn_gguf_writer_add_strings(f.writer, KEY("tokens"), bpe_tokens, 4);
  qn_gguf_writer_add_text(f.writer, KEY("pre"), "gpt-2");
  refuse(f, format, "tokenizer.ggml.merges");
  static const qn_str wrong[] = {{"ab", 2}, {" b", 2}, {"a ", 2}, {"", 0}, {"a", 1}};
  static const char *const texts[] = {"merge 1 is 'ab', want two texts with a space between", "merge 1 is ' b', want",
                                      "merge 1 is 'a ', want", "merge 1 is '', want", "merge 1 is 'a', want"};
  for (size_t i = 0; i < QN_COUNT(wrong); i++) {
    const qn_str merges[] = {{"  b", 3}, wrong[i]};  // the first is a space and "b"
    f = begin("gpt2");
    qn_gguf_writer_add_strings(f.writer, KEY("tokens"), bpe_tokens, 4);
    qn_gguf_writer_add_strings(f.writer, KEY("merges"), merges, 2);
    qn_gguf_writer_add_text(f.writer, KEY("pre"), "gpt-2");
    refuse(f, format, texts[i]);
  }
  f = begin_bpe(), qn_gguf_writer_add_bool(f.writer, KEY("add_bos_token"), true);
  refuse(f, format, "t.gguf: key 'tokenizer.ggml.add_bos_token': is true, but there is no tokenizer.ggml.bos_token_id");
  f = begin_bpe(), qn_gguf_writer_add_bool(f.writer, KEY("add_eos_token"), true);
  refuse(f, format, "t.gguf: key 'tokenizer.ggml.add_eos_token': is true, but there is no tokenizer.ggml.eos_token_id");
}
END_TEST

static qn_status read_again(const qn_allocator *allocator, void *context) {
  const file *f = context;
  qn_gguf *gguf;
  qn_arena arena;
  qn_tokenizer_desc desc;
  qn_diag diag = {0};
  qn_status status = qn_gguf_open_memory(&gguf, f->data, f->size, "t.gguf", allocator, &diag);
  if (status != QN_OK) return status;
  qn_arena_init(&arena, allocator);
  status = qn_vocab_from_gguf(gguf, &arena, &desc, &diag);
  qn_arena_deinit(&arena);
  qn_gguf_close(gguf);
  return status;
}

START_TEST(allocations_may_fail) {
  file f = begin_bpe();
  qn_gguf_writer_add_text(f.writer, "general.name", "phi-3");
  qn_gguf_writer_add_array(f.writer, KEY("token_type"), QN_GGUF_I32, bpe_types, 4);
  qn_assert_ok(&f.diag, read_file(&f));
  qn_test_failing_allocations(read_again, &f);
  end(&f);
}
END_TEST

QN_CASE(keys, spm_defaults, spm_settings, bpe_keys, unigram_and_wordpiece_keys, phi3_is_known_by_name, missing_pre_warns)
QN_CASE(refusals, errors, bpe_errors, allocations_may_fail)
QN_TEST_MAIN(keys, refusals)
