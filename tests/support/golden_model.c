// Finding and reading the checkpoints of golden_model.h, and running them.
#include "tests/support/golden_model.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/support/test.h"

enum { CHUNK = 32, CONTEXT = 128 };

static void add_case(qn_golden_model *c, const char *folder, const char *file, int *count) {
  snprintf(c->folder, sizeof c->folder, "%s", folder);
  snprintf(c->path, sizeof c->path, "%.300s/%.100s", folder, file);
  if (access(c->path, R_OK) != 0) return;
  if (strcmp(file, "config.json") == 0) snprintf(c->path, sizeof c->path, "%s", folder);
  (*count)++;
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const qn_golden_model *)a)->path, ((const qn_golden_model *)b)->path);
}

int qn_golden_models_find(qn_golden_model out[QN_GOLDEN_MODELS_MAX]) {
  int count = 0;
  const char *root = qn_test_source("tests/golden/models");
  DIR *list = opendir(root);
  qn_check(list != NULL, "%s cannot be listed", root);
  for (const struct dirent *entry; (entry = readdir(list)) != NULL;) {
    char folder[400];
    if (entry->d_name[0] == '.') continue;
    qn_check(count + 2 <= QN_GOLDEN_MODELS_MAX, "more than %d models", QN_GOLDEN_MODELS_MAX);
    snprintf(folder, sizeof folder, "%s/%s", root, entry->d_name);
    add_case(&out[count], folder, "config.json", &count);
    add_case(&out[count], folder, "model.gguf", &count);
  }
  closedir(list);
  qsort(out, (size_t)count, sizeof *out, by_name);
  return count;
}

const char *qn_golden_model_name(const qn_golden_model *model) { return strrchr(model->folder, '/') + 1; }

static const qn_safetensors_tensor *find(const qn_golden_expectation *e, const char *name, qn_stored_dtype dtype,
                                         int rank) {
  const qn_safetensors_tensor *t = qn_safetensors_find(e->file, name);
  ck_assert_msg(t && t->dtype == dtype && t->rank == rank, "%s: no tensor '%s' as it should be", e->file->name, name);
  return t;
}

static size_t take_tokens(const qn_golden_expectation *e, const char *name, int32_t out[QN_GOLDEN_TOKENS_MAX]) {
  const qn_safetensors_tensor *t = find(e, name, QN_STORED_I32, 1);
  ck_assert_uint_le((size_t)t->count, QN_GOLDEN_TOKENS_MAX);
  memcpy(out, t->data, t->size_bytes);
  return (size_t)t->count;
}

void qn_golden_model_expect(const qn_golden_model *model, qn_golden_expectation *e) {
  char path[600];
  qn_diag diag = {0};
  *e = (qn_golden_expectation){.file = NULL};
  snprintf(path, sizeof path, "%s/expected.safetensors", model->folder);
  qn_assert_ok(&diag, qn_safetensors_open(&e->file, path, qn_test_allocator(), &diag));
  e->count = take_tokens(e, "tokens", e->tokens);
  if (qn_safetensors_find(e->file, "source")) e->source_count = take_tokens(e, "source", e->source);
  e->encoder = qn_safetensors_find(e->file, "embeddings") != NULL;
  e->positions = find(e, e->encoder ? "lengths" : "positions", QN_STORED_I32, 1);
  e->logits = find(e, e->encoder ? "embeddings" : "logits", QN_STORED_F32, 2);
  ck_assert_int_eq(e->logits->dims[0], (int64_t)e->positions->count);
}

void qn_golden_model_options(const qn_golden_expectation *e, quern_compile_options *out) {
  *out = (quern_compile_options){.size = sizeof *out, .tuning_db = "none"};
  if (e->encoder) {
    out->sequences = QN_GOLDEN_SEQUENCES;
    out->context_tokens = (uint32_t)e->count;
  } else {
    out->chunk_tokens = CHUNK;
    out->context_tokens = CONTEXT;
    out->all_logits = true;
  }
}

void qn_golden_model_evaluate(quern_session *session, const qn_golden_expectation *e, const int *pieces,
                              size_t piece_count, float *out) {
  quern_error error;
  size_t vocab = (size_t)e->logits->dims[1], done = 0;
  quern_session_reset(session, 0);
  if (e->source_count > 0) {
    int code = (int)quern_session_source(session, 0, e->source, e->source_count, &error);
    ck_assert_msg(code == 0, "%s: %s", e->file->name, error.text);
  }
  for (size_t i = 0; done < e->count; i++) {
    size_t count = (size_t)pieces[i % piece_count];
    if (count > e->count - done) count = e->count - done;
    int code = (int)quern_session_eval_all(session, 0, e->tokens + done, count, out + done * vocab, &error);
    ck_assert_msg(code == 0, "%s: %s", e->file->name, error.text);
    done += count;
  }
}

void qn_golden_model_embed(quern_session *session, const qn_golden_expectation *e, size_t together, float *out) {
  quern_error error;
  int32_t tokens[4 * QN_GOLDEN_TOKENS_MAX];
  size_t counts[QN_GOLDEN_TOKENS_MAX], width = (size_t)e->logits->dims[1];
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
