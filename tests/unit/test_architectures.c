// Every architecture against the reference: tests/golden/models/<name> holds a tiny checkpoint of random weights, as its
// files are found in the wild, and what the reference (tests/support/reference.py) makes of some tokens. Every folder that
// is there is tested. Logits are within 1e-4 of the reference's, in float32, as the largest difference over the largest
// magnitude; a prompt at once, token by token and in uneven chunks gives the same bits. Of encoders it is embeddings, of
// texts one by one and together.
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "frontend/import/safetensors.h"
#include "frontend/quern.h"
#include "tests/support/test.h"

#define TOLERANCE 1e-4
enum { MAX_MODELS = 128, MAX_TOKENS = 512, CHUNK = 32, SEQUENCES = 3 };

// ---- what is there -----------------------------------------------------------------------------------------------

// A model's path below tests/golden/models, "llama" or "llama/model.gguf", and the folder of what is wanted.
typedef struct model_case {
  char path[512], folder[512];
} model_case;

static model_case cases[MAX_MODELS];
static int case_count;

static void add_case(const char *folder, const char *file) {
  model_case *c = &cases[case_count];
  snprintf(c->folder, sizeof c->folder, "%s", folder);
  snprintf(c->path, sizeof c->path, "%.300s/%.100s", folder, file);
  if (access(c->path, R_OK) != 0) return;
  if (strcmp(file, "config.json") == 0) snprintf(c->path, sizeof c->path, "%s", folder);
  case_count++;
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const model_case *)a)->path, ((const model_case *)b)->path);
}

static void find_cases(void) {
  const char *root = qn_test_source("tests/golden/models");
  DIR *list = opendir(root);
  qn_check(list != NULL, "%s cannot be listed", root);
  for (const struct dirent *entry; (entry = readdir(list)) != NULL;) {
    char folder[400];
    if (entry->d_name[0] == '.') continue;
    qn_check(case_count + 2 <= MAX_MODELS, "more than %d models", MAX_MODELS);
    snprintf(folder, sizeof folder, "%s/%s", root, entry->d_name);
    add_case(folder, "config.json");
    add_case(folder, "model.gguf");
  }
  closedir(list);
  qsort(cases, (size_t)case_count, sizeof *cases, by_name);
}

// ---- what is wanted ----------------------------------------------------------------------------------------------

// expected.safetensors: tokens I32 [T], positions I32 [P], logits F32 [P, vocabulary]; of an encoder in their place
// lengths I32 [P], of texts that are so many of the first tokens, and embeddings F32 [P, width]. Where there is an encoder
// beside the decoder, whose tokens they are, also source I32 [S].
typedef struct expectation {
  qn_safetensors *file;
  int32_t tokens[MAX_TOKENS], source[MAX_TOKENS];
  size_t count, source_count;
  bool encoder;
  const qn_safetensors_tensor *positions, *logits;
} expectation;

static const qn_safetensors_tensor *find(const expectation *e, const char *name, qn_stored_dtype dtype, int rank) {
  const qn_safetensors_tensor *t = qn_safetensors_find(e->file, name);
  ck_assert_msg(t && t->dtype == dtype && t->rank == rank, "%s: no tensor '%s' as it should be", e->file->name, name);
  return t;
}

static void open_expectation(const model_case *c, expectation *e) {
  char path[600];
  qn_diag diag = {0};
  snprintf(path, sizeof path, "%s/expected.safetensors", c->folder);
  qn_assert_ok(&diag, qn_safetensors_open(&e->file, path, qn_test_allocator(), &diag));
  const qn_safetensors_tensor *tokens = find(e, "tokens", QN_STORED_I32, 1);
  e->encoder = qn_safetensors_find(e->file, "embeddings") != NULL;
  e->positions = find(e, e->encoder ? "lengths" : "positions", QN_STORED_I32, 1);
  e->logits = find(e, e->encoder ? "embeddings" : "logits", QN_STORED_F32, 2);
  e->count = (size_t)tokens->count;
  ck_assert_uint_le(e->count, MAX_TOKENS);
  memcpy(e->tokens, tokens->data, tokens->size_bytes);
  if (qn_safetensors_find(e->file, "source")) {
    const qn_safetensors_tensor *source = find(e, "source", QN_STORED_I32, 1);
    e->source_count = (size_t)source->count;
    ck_assert_uint_le(e->source_count, MAX_TOKENS);
    memcpy(e->source, source->data, source->size_bytes);
  }
  ck_assert_int_eq(e->logits->dims[0], (int64_t)e->positions->count);
}

// The largest difference from the reference, over its largest magnitude. Of logits `got` has a row for each token, of
// embeddings one for each text.
static double difference(const expectation *e, const float *got, bool embeddings) {
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

// All logits of the tokens, given to the session in pieces of these sizes in turn.
static void evaluate(quern_session *session, const expectation *e, const int *pieces, size_t piece_count, float *out) {
  quern_error error;
  size_t vocab = (size_t)e->logits->dims[1], done = 0;
  quern_session_reset(session, 0);
  if (e->source_count > 0)
    ck_assert_msg(quern_session_source(session, 0, e->source, e->source_count, &error) == 0, "%s: %s", e->file->name, error.text);
  for (size_t i = 0; done < e->count; i++) {
    size_t count = (size_t)pieces[i % piece_count];
    if (count > e->count - done) count = e->count - done;
    int code = (int)quern_session_eval_all(session, 0, e->tokens + done, count, out + done * vocab, &error);
    ck_assert_msg(code == 0, "%s: %s", e->file->name, error.text);
    done += count;
  }
}

static void check_model(quern_model *model, const model_case *c, const expectation *e, float *logits) {
  static const int all[] = {MAX_TOKENS}, single[] = {1}, uneven[] = {3, 17, 1, 29};
  quern_error error;
  quern_session *session;
  quern_session_options options = {.size = sizeof options, .threads = 2, .no_pin = true};
  size_t vocab = (size_t)quern_model_vocab_size(model), size = e->count * vocab * sizeof(float);
  ck_assert_uint_eq(vocab, (size_t)e->logits->dims[1]);
  ck_assert_msg(quern_session_create(model, &options, &session, &error) == 0, "%s: %s", c->path, error.text);
  float *other = malloc(size);
  ck_assert_ptr_nonnull(other);
  evaluate(session, e, all, 1, logits);
  double got = difference(e, logits, false);
  if (getenv("QUERN_TEST_SHOW")) printf("%-60s %.3g\n", c->path, got);
  ck_assert_msg(got <= TOLERANCE, "%s: logits differ from the reference's by %.3g of the largest, want at most %g", c->path,
                got, TOLERANCE);
  evaluate(session, e, single, 1, other);
  ck_assert_msg(memcmp(logits, other, size) == 0, "%s: token by token gives other logits than at once", c->path);
  evaluate(session, e, uneven, QN_COUNT(uneven), other);
  ck_assert_msg(memcmp(logits, other, size) == 0, "%s: uneven chunks give other logits than at once", c->path);
  free(other);
  quern_session_destroy(session);
}

// Texts that begin alike, of the lengths that are wanted, `together` at a time.
static void embed(quern_session *session, const expectation *e, size_t together, float *out) {
  quern_error error;
  int32_t tokens[4 * MAX_TOKENS];
  size_t counts[MAX_TOKENS], width = (size_t)e->logits->dims[1];
  for (size_t at = 0, now; at < e->positions->count; at += now) {
    now = e->positions->count - at < together ? e->positions->count - at : together;
    size_t used = 0;
    for (size_t i = 0; i < now; i++) {
      int32_t length;
      memcpy(&length, e->positions->data + 4 * (at + i), 4);
      ck_assert(length > 0 && (size_t)length <= e->count && used + (size_t)length <= QN_COUNT(tokens));
      memcpy(tokens + used, e->tokens, (size_t)length * sizeof *tokens);
      counts[i] = (size_t)length;
      used += counts[i];
    }
    int code = (int)quern_session_embed(session, tokens, counts, now, out + at * width, &error);
    ck_assert_msg(code == 0, "%s: %s", e->file->name, error.text);
  }
}

// What an encoder's session does not do.
static void check_refused(quern_session *session, const expectation *e, float *out) {
  quern_error error;
  const size_t none = 0, one = 1, longer = e->count + 1, both[] = {1, 0};
  const int32_t wrong = INT32_MAX;
  const quern_item item = {e->tokens[0], 0, true};
  int32_t tokens[MAX_TOKENS + 1];
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

static void check_encoder(quern_model *model, const model_case *c, const expectation *e, float *embeddings) {
  quern_error error;
  quern_session *session;
  quern_session_options options = {.size = sizeof options, .threads = 2, .no_pin = true, .sequences = SEQUENCES};
  size_t size = e->positions->count * (size_t)e->logits->dims[1] * sizeof(float);
  float *other = malloc(size);
  ck_assert_ptr_nonnull(other);
  ck_assert_int_eq(quern_model_embedding_size(model), e->logits->dims[1]);
  ck_assert_msg(quern_session_create(model, &options, &session, &error) == 0, "%s: %s", c->path, error.text);
  embed(session, e, e->positions->count, embeddings);
  double got = difference(e, embeddings, true);
  if (getenv("QUERN_TEST_SHOW")) printf("%-60s %.3g\n", c->path, got);
  ck_assert_msg(got <= TOLERANCE, "%s: embeddings differ from the reference's by %.3g of the largest, want at most %g",
                c->path, got, TOLERANCE);
  embed(session, e, 1, other);
  ck_assert_msg(memcmp(embeddings, other, size) == 0, "%s: a text alone gives another embedding", c->path);
  check_refused(session, e, other);
  check_no_requests(model);
  free(other);
  quern_session_destroy(session);
}

// The artifact of the same compilation has the same bits as what the JIT linked.
static void check_artifact(const model_case *c, const quern_compile_options *options, const expectation *e,
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
  const model_case *c = &cases[_i];
  if (is_left_out(_i)) return;
  quern_compile_options options = {.size = sizeof options, .numeric_mode = "f32", .tuning_db = "none"};
  quern_error error;
  quern_model *model;
  expectation e = {0};
  open_expectation(c, &e);
  if (e.encoder) {  // texts are evaluated whole
    options.sequences = SEQUENCES;
    options.context_tokens = (uint32_t)e.count;
  } else {
    options.chunk_tokens = CHUNK;
    options.context_tokens = MAX_TOKENS / 4;
    options.all_logits = true;
  }
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
  find_cases();
  TCase *tcase = qn_test_case("architectures", NULL, 0);
  tcase_add_loop_test(tcase, agrees_with_the_reference, 0, case_count);
  tcase_set_timeout(tcase, 300);
  return tcase;
}

QN_TEST_MAIN(architectures)
