// Tokenizers by themselves (quern_tokenizer_*): of whatever file or folder has one.
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "frontend/compile.h"
#include "frontend/import/gguf.h"
#include "frontend/import/vocab.h"
#include "frontend/import/vocab_folder.h"
#include "frontend/quern.h"
#include "runtime/artifact.h"
#include "runtime/base/file.h"
#include "runtime/tokenizer.h"

struct quern_tokenizer {
  const qn_allocator *allocator;  // borrowed
  qn_buf blob;
  qn_tokenizer *tokenizer;  // owned; reads the blob
};

static int finish(qn_status status, const qn_diag *diag, quern_error *error) {
  if (error) {
    error->code = (int)status;
    snprintf(error->text, sizeof error->text, "%s", status == QN_OK ? "" : diag->text);
  }
  return (int)status;
}

// ---- opening -----------------------------------------------------------------------------------------------------

static qn_status from_artifact(quern_tokenizer *t, const char *path, qn_diag *diag) {
  qn_artifact artifact;
  QN_TRY(qn_artifact_open(&artifact, path, diag));
  size_t size = 0;
  const void *data = qn_artifact_section(&artifact, QN_SECTION_TOKENIZER, 0, &size);
  qn_status status = QN_OK;
  if (data) {
    qn_buf_append(&t->blob, data, size);
  } else {
    status = qn_fail(diag, QN_ERR_UNSUPPORTED, path, "this artifact has no tokenizer");
  }
  qn_artifact_close(&artifact);
  return status;
}

static qn_status from_gguf(quern_tokenizer *t, const char *path, qn_arena *arena, qn_diag *diag) {
  qn_gguf *gguf;
  qn_tokenizer_desc desc;
  QN_TRY(qn_gguf_open(&gguf, path, t->allocator, diag));
  qn_status status =
      qn_gguf_find(gguf, "tokenizer.ggml.model")
          ? qn_vocab_from_gguf(gguf, arena, &desc, diag)
          : qn_fail(diag, QN_ERR_UNSUPPORTED, path, "this model has no tokenizer (tokenizer.ggml.model)");
  if (status == QN_OK) status = qn_tokenizer_serialize(&desc, t->allocator, &t->blob, diag);
  if (status == QN_OK) status = qn_gguf_check(gguf, diag);
  qn_gguf_close(gguf);
  return status;
}

// A tokenizer.json or tokenizer.model.
static qn_status from_file(quern_tokenizer *t, const char *path, qn_arena *arena, qn_diag *diag) {
  qn_tokenizer_desc desc;
  char *data;
  size_t size;
  QN_TRY(qn_file_read(path, QN_TEXT_MAX, t->allocator, &data, &size, diag));
  qn_status status = qn_vocab_is_sentencepiece(data, size)
                         ? qn_vocab_from_sentencepiece(data, size, path, arena, &desc, diag)
                         : qn_vocab_from_json(data, size, path, arena, &desc, diag);
  qn_free(t->allocator, data, size + 1);
  return status == QN_OK ? qn_tokenizer_serialize(&desc, t->allocator, &t->blob, diag) : status;
}

static qn_status from_folder(quern_tokenizer *t, const char *path, qn_arena *arena, qn_diag *diag) {
  qn_tokenizer_desc desc;
  QN_TRY(qn_vocab_from_folder(path, 0, arena, &desc, NULL, diag));
  return qn_tokenizer_serialize(&desc, t->allocator, &t->blob, diag);
}

static qn_status fill(quern_tokenizer *t, const char *path, qn_diag *diag) {
  struct stat info;
  char head[4];
  qn_arena arena;
  qn_status status;
  qn_arena_init(&arena, t->allocator);
  if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) {
    status = from_folder(t, path, &arena, diag);
  } else if (quern_is_artifact(path)) {
    status = from_artifact(t, path, diag);
  } else if (quern_file_head(path, head, sizeof head) == sizeof head && memcmp(head, "GGUF", sizeof head) == 0) {
    status = from_gguf(t, path, &arena, diag);
  } else {
    status = from_file(t, path, &arena, diag);
  }
  qn_arena_deinit(&arena);
  if (status == QN_OK && t->blob.failed) status = qn_fail_nomem(diag, path, "the tokenizer");
  return status == QN_OK ? qn_tokenizer_open(t->blob.data, t->blob.length, t->allocator, &t->tokenizer, diag) : status;
}

// What patterns and vocabularies say of a file says not always which file.
static qn_status name_file(const char *path, qn_status status, qn_diag *diag) {
  if (status == QN_OK || strstr(diag->text, path)) return status;
  qn_diag inner = *diag;
  *diag = (qn_diag){0};
  return qn_fail(diag, status, path, "%s", inner.text);
}

int quern_tokenizer_open(const char *path, quern_tokenizer **out, quern_error *error) {
  const qn_allocator *allocator = qn_allocator_default();
  qn_diag diag = {0};
  *out = NULL;
  quern_tokenizer *t = qn_alloc_zeroed(allocator, sizeof *t);
  if (!t) return finish(qn_fail_nomem(&diag, path, "the tokenizer"), &diag, error);
  t->allocator = allocator;
  qn_buf_init(&t->blob, allocator);
  qn_status status = name_file(path, fill(t, path, &diag), &diag);
  if (status == QN_OK) {
    *out = t;
  } else {
    quern_tokenizer_close(t);
  }
  return finish(status, &diag, error);
}

void quern_tokenizer_close(quern_tokenizer *t) {
  if (!t) return;
  qn_tokenizer_close(t->tokenizer);
  qn_buf_deinit(&t->blob);
  qn_free(t->allocator, t, sizeof *t);
}

// ---- use ---------------------------------------------------------------------------------------------------------

int32_t quern_tokenizer_count(const quern_tokenizer *t) { return qn_tokenizer_count(t->tokenizer); }

const char *quern_tokenizer_kind(const quern_tokenizer *t) {
  return qn_tokenizer_kind_name(qn_tokenizer_get_kind(t->tokenizer));
}

const char *quern_tokenizer_piece(const quern_tokenizer *t, int32_t token, size_t *out_length) {
  *out_length = 0;
  if (token < 0 || token >= qn_tokenizer_count(t->tokenizer)) return NULL;
  qn_str piece = qn_tokenizer_piece(t->tokenizer, token);
  *out_length = piece.length;
  return piece.data;
}

int quern_tokenizer_encode(const quern_tokenizer *t, const char *text, size_t length, unsigned flags, int32_t *tokens,
                           size_t capacity, size_t *out_count, quern_error *error) {
  qn_token_vec list = {0};
  qn_diag diag = {0};
  *out_count = 0;
  qn_status status = qn_tokenizer_encode(t->tokenizer, (qn_str){text, length}, flags, t->allocator, &list, &diag);
  if (status == QN_OK) {
    *out_count = list.count;
    if (list.count > capacity) {
      status = qn_fail(&diag, QN_ERR_LIMIT, "tokenizer", "got room for %zu tokens, want %zu", capacity, list.count);
    } else if (list.count > 0) {
      memcpy(tokens, list.items, list.count * sizeof *tokens);
    }
  }
  qn_vec_free(t->allocator, &list);
  return finish(status, &diag, error);
}

int quern_tokenizer_decode(const quern_tokenizer *t, const int32_t *tokens, size_t count, unsigned flags, char *text,
                           size_t capacity, size_t *out_length, quern_error *error) {
  qn_buf buf;
  qn_diag diag = {0};
  *out_length = 0;
  qn_buf_init(&buf, t->allocator);
  qn_status status = qn_tokenizer_decode(t->tokenizer, tokens, count, flags, &buf, &diag);
  if (status == QN_OK) {
    *out_length = buf.length;
    if (buf.length > capacity) {
      status = qn_fail(&diag, QN_ERR_LIMIT, "tokenizer", "got room for %zu bytes, want %zu", capacity, buf.length);
    } else if (buf.length > 0) {
      memcpy(text, buf.data, buf.length);
    }
  }
  qn_buf_deinit(&buf);
  return finish(status, &diag, error);
}
