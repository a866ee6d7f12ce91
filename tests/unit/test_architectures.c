// Every architecture against the reference: tests/golden/models/<name> holds a tiny checkpoint of random weights, as its
// files are found in the wild, and what the reference (tests/support/reference.py) makes of some tokens. Every folder that
// is there is tested. Logits are within 1e-4 of the reference's, in float32, as the largest difference over the largest
// magnitude; a prompt at once, token by token and in uneven chunks gives the same bits. Of encoders it is embeddings, of
// texts one by one and together.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/support/golden_model.h"
#include "tests/support/test.h"

#define TOLERANCE 1e-4

static qn_golden_model cases[QN_GOLDEN_MODELS_MAX];
static int case_count;

// The largest difference from the reference, over its largest magnitude. Of logits `got` has a row for each token, of
// embeddings one for each text.
static double difference(const qn_golden_expectation *e, const float *got, bool embeddings) {
  size_t width = (size_t)e->logits->dims[1];
  double most = 0, largest = 0;
  for (size_t i = 0; i < e->positions->count; i++) {
    int32_t at = (int32_t)i;
    if (!embeddings) memcpy(&at, e->positions->data + 4 * i, 4);
    ck_assert(at >= 0 && (size_t)at < e->count);
    const float *row = got + (size_t)at * width;
    for (size_t j = 0; j < width; j++) {
      float want;
      memcpy(&want, e->logits->data + 4 * (i * width + j), 4);
      if (!isfinite(row[j])) return INFINITY;
      most = fmax(most, fabs((double)row[j] - (double)want));
      largest = fmax(largest, fabs((double)want));
    }
  }
  return most / largest;
}

// ---- runs --------------------------------------------------------------------------------------------------------

static void check_model(quern_model *model, const qn_golden_model *c, const qn_golden_expectation *e, float *logits) {
  static const int all[] = {QN_GOLDEN_TOKENS_MAX}, single[] = {1}, uneven[] = {3, 17, 1, 29};
  quern_error error;
  quern_session *session;
  quern_session_options options = {.size = sizeof options, .threads = 2, .no_pin = true};
  size_t vocab = (size_t)quern_model_vocab_size(model), size = e->count * vocab * sizeof(float);
  ck_assert_uint_eq(vocab, (size_t)e->logits->dims[1]);
  ck_assert_msg(quern_session_create(model, &options, &session, &error) == 0, "%s: %s", c->path, error.text);
  float *other = malloc(size);
  ck_assert_ptr_nonnull(other);
  qn_golden_model_evaluate(session, e, all, 1, logits);
  double got = difference(e, logits, false);
  if (getenv("QUERN_TEST_SHOW")) printf("%-60s %.3g\n", c->path, got);
  ck_assert_msg(got <= TOLERANCE, "%s: logits differ from the reference's by %.3g of the largest, want at most %g", c->path,
                got, TOLERANCE);
  qn_golden_model_evaluate(session, e, single, 1, other);
  ck_assert_msg(memcmp(logits, other, size) == 0, "%s: token by token gives other logits than at once", c->path);
  qn_golden_model_evaluate(session, e, uneven, QN_COUNT(uneven), other);
  ck_assert_msg(memcmp(logits, other, size) == 0, "%s: uneven chunks give other logits than at once", c->path);
  free(other);
  quern_session_destroy(session);
}

// What an encoder's session does not do.
static void check_refused(quern_session *session, const qn_golden_expectation *e, float *out) {
  quern_error error;
  const size_t none = 0, one = 1, longer = e->count + 1, both[] = {1, 0};
  const int32_t wrong = INT32_MAX;
  const quern_item item = {e->tokens[0], 0, true};
  int32_t tokens[QN_GOLDEN_TOKENS_MAX + 1];
  const struct {
    const int32_t *tokens;
    const size_t *counts, texts;
    float *out;
    const char *want;
  } calls[] = {{tokens, &none, 1, out, "got a text of 0 tokens to embed, want 1 to"},
               {tokens, both, 2, out, "got a text of 0 tokens to embed, want 1 to"},
               {tokens, &longer, 1, out, "since it is evaluated whole; split longer ones"},
               {&wrong, &one, 1, out, "token 0: got id 2147483647, want 0 to"},
               {tokens, &one, 1, NULL, "got NULL, want tokens, counts and memory for embeddings"}};
  for (size_t i = 0; i < longer; i++) tokens[i] = e->tokens[0];
  for (size_t i = 0; i < QN_COUNT(calls); i++) {
    int code = (int)quern_session_embed(session, calls[i].tokens, calls[i].counts, calls[i].texts, calls[i].out, &error);
    ck_assert_msg(code != 0 && strstr(error.text, calls[i].want), "want '%s', got %d: %s", calls[i].want, code, error.text);
  }
  ck_assert_int_eq((int)quern_session_embed(session, tokens, &one, 0, out, &error), 0);
  ck_assert_int_ne((int)quern_session_eval(session, 0, tokens, 1, NULL, &error), 0);
  ck_assert_msg(strstr(error.text, "is an encoder: it makes an embedding of a whole text") != NULL, "%s", error.text);
  ck_assert_int_ne((int)quern_session_step(session, &item, 1, &error), 0);
  ck_assert_msg(strstr(error.text, "is an encoder") != NULL, "%s", error.text);
}

static void check_no_requests(quern_model *model) {
  quern_error error;
  quern_scheduler *scheduler = NULL;
  ck_assert_int_ne((int)quern_scheduler_create(model, NULL, &scheduler, &error), 0);
  ck_assert_msg(strstr(error.text, "is an encoder, and requests are texts that go on") != NULL, "%s", error.text);
}

static void check_encoder(quern_model *model, const qn_golden_model *c, const qn_golden_expectation *e, float *embeddings) {
  quern_error error;
  quern_session *session;
  quern_session_options options = {.size = sizeof options, .threads = 2, .no_pin = true, .sequences = QN_GOLDEN_SEQUENCES};
  size_t size = e->positions->count * (size_t)e->logits->dims[1] * sizeof(float);
  float *other = malloc(size);
  ck_assert_ptr_nonnull(other);
  ck_assert_int_eq(quern_model_embedding_size(model), e->logits->dims[1]);
  ck_assert_msg(quern_session_create(model, &options, &session, &error) == 0, "%s: %s", c->path, error.text);
  qn_golden_model_embed(session, e, e->positions->count, embeddings);
  double got = difference(e, embeddings, true);
  if (getenv("QUERN_TEST_SHOW")) printf("%-60s %.3g\n", c->path, got);
  ck_assert_msg(got <= TOLERANCE, "%s: embeddings differ from the reference's by %.3g of the largest, want at most %g",
                c->path, got, TOLERANCE);
  qn_golden_model_embed(session, e, 1, other);
  ck_assert_msg(memcmp(embeddings, other, size) == 0, "%s: a text alone gives another embedding", c->path);
  check_refused(session, e, other);
  check_no_requests(model);
  quern_session_destroy(session);
  options.pages = 2;  // fewer than all texts together take: some at a time
  ck_assert_msg(quern_session_create(model, &options, &session, &error) == 0, "%s: %s", c->path, error.text);
  ck_assert_msg(quern_session_fill(session, QN_GOLDEN_SEQUENCES - 1, 1, &error) == 0, "%s: %s", c->path, error.text);
  memset(other, 0, size);
  qn_golden_model_embed(session, e, e->positions->count, other);
  ck_assert_msg(memcmp(embeddings, other, size) == 0, "%s: few pages give other embeddings", c->path);
  free(other);
  quern_session_destroy(session);
}

// The artifact of the same compilation has the same bits as what the JIT linked.
static void check_artifact(const qn_golden_model *c, const quern_compile_options *options, const qn_golden_expectation *e,
                           const float *logits) {
  quern_error error;
  quern_model *model;
  const char *path = qn_test_temp_path("model.qn");
  size_t size = e->count * (size_t)e->logits->dims[1] * sizeof(float);
  float *other = malloc(size);
  ck_assert_ptr_nonnull(other);
  ck_assert_msg(quern_compile(c->path, path, options, &error) == 0, "%s", error.text);
  ck_assert_msg(quern_model_open(path, NULL, &model, &error) == 0, "%s", error.text);
  if (e->encoder) {
    size = e->positions->count * (size_t)e->logits->dims[1] * sizeof(float);
    check_encoder(model, c, e, other);
  } else {
    check_model(model, c, e, other);
  }
  ck_assert_msg(memcmp(logits, other, size) == 0, "%s: the artifact gives other logits than the JIT", c->path);
  quern_model_close(model);
  free(other);
}

// Compiling is slow: GGUF files, whose graphs are those of the folders beside them, take turns in the suite, and under
// sanitizers folders do, too.
static bool is_left_out(int i) {
  int turn = 0;
  bool gguf = strstr(cases[i].path, ".gguf") != NULL;
  for (int j = 0; j < i; j++) turn += (strstr(cases[j].path, ".gguf") != NULL) == gguf;
  return turn % (int)(gguf ? qn_test_stride(3, 9) : qn_test_stride(1, 3)) != 0;
}

START_TEST(agrees_with_the_reference) {
  const qn_golden_model *c = &cases[_i];
  if (is_left_out(_i)) return;
  quern_compile_options options;
  quern_error error;
  quern_model *model;
  qn_golden_expectation e;
  qn_golden_model_expect(c, &e);
  qn_golden_model_options(&e, &options);
  options.numeric_mode = "f32";
  float *logits = malloc(e.count * (size_t)e.logits->dims[1] * sizeof(float));
  ck_assert_ptr_nonnull(logits);
  ck_assert_msg(quern_jit(c->path, &options, &model, &error) == 0, "%s", error.text);
  if (e.encoder) {
    check_encoder(model, c, &e, logits);
  } else {
    check_model(model, c, &e, logits);
  }
  quern_model_close(model);
  if (_i % (int)qn_test_stride(6, 12) == 0) check_artifact(c, &options, &e, logits);
  free(logits);
  qn_safetensors_close(e.file);
}
END_TEST

static TCase *architectures(void) {
  case_count = qn_golden_models_find(cases);
  TCase *tcase = qn_test_case("architectures", NULL, 0);
  tcase_add_loop_test(tcase, agrees_with_the_reference, 0, case_count);
  tcase_set_timeout(tcase, 300);
  return tcase;
}

QN_TEST_MAIN(architectures)
