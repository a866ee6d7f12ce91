// The public interface of quern_run.h over the runtime's own modules: checks arguments, turns errors and options into
// the public structs.
#include "runtime/quern_run.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/log.h"
#include "runtime/base/options.h"
#include "runtime/base/window.h"
#include "runtime/generate.h"
#include "runtime/kv_state.h"
#include "runtime/model.h"
#include "runtime/weights.h"

_Static_assert((int)QUERN_ERR_ARGUMENT == (int)QN_ERR_ARGUMENT && (int)QUERN_ERR_FORMAT == (int)QN_ERR_FORMAT &&
                   (int)QUERN_ERR_UNSUPPORTED == (int)QN_ERR_UNSUPPORTED && (int)QUERN_ERR_IO == (int)QN_ERR_IO &&
                   (int)QUERN_ERR_NOMEM == (int)QN_ERR_NOMEM && (int)QUERN_ERR_TARGET == (int)QN_ERR_TARGET &&
                   (int)QUERN_ERR_LIMIT == (int)QN_ERR_LIMIT && (int)QUERN_ERR_CANCELLED == (int)QN_ERR_CANCELLED &&
                   (int)QUERN_ERR_INTERNAL == (int)QN_ERR_INTERNAL,
               "the public status codes are the internal ones");
_Static_assert((int)QUERN_STOP_CANCELLED == (int)QN_STOP_CANCELLED && (int)QUERN_STOP_CONTEXT == (int)QN_STOP_CONTEXT &&
                   (int)QUERN_STOP_STRING == (int)QN_STOP_STRING,
               "the public stop reasons are the internal ones");
_Static_assert((int)QUERN_TOKENIZE_ADD_SPECIAL == (int)QN_ENCODE_SPECIAL &&
                   (int)QUERN_TOKENIZE_PARSE_SPECIAL == (int)QN_ENCODE_PARSE_SPECIAL &&
                   (int)QUERN_DETOKENIZE_SPECIAL == (int)QN_DECODE_SPECIAL &&
                   (int)QUERN_DETOKENIZE_CONTINUES == (int)QN_DECODE_CONTINUES,
               "the public flags are the internal ones");
_Static_assert((int)QUERN_HUGE_PAGES_MADVISE == (int)QN_HUGE_PAGES_MADVISE &&
                   (int)QUERN_HUGE_PAGES_HUGETLB == (int)QN_HUGE_PAGES_HUGETLB,
               "the public choices of pages are the internal ones");
_Static_assert(sizeof((quern_error *)0)->text == sizeof((qn_diag *)0)->text, "error texts are copied whole");

quern_status qn_model_finish(qn_status status, const qn_diag *diag, quern_error *error) {
  if (error) {
    error->code = (int)status;
    if (status == QN_OK) {
      error->text[0] = '\0';
    } else {
      memcpy(error->text, diag->text, sizeof error->text);
    }
  }
  return (quern_status)status;
}

static quern_status finish(qn_status status, const qn_diag *diag, quern_error *error) {
  return qn_model_finish(status, diag, error);
}

// ---- the host's messages

_Static_assert((int)QUERN_LOG_ERROR == (int)QN_LOG_ERROR && (int)QUERN_LOG_DEBUG == (int)QN_LOG_DEBUG,
               "the public levels are the internal ones");

// The level's type is another one inside, hence one more function between; callback and context change together.
static pthread_mutex_t host_lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
  quern_log_fn fn;
  void *context;
} host;

static void forward_log(void *context, qn_log_level level, const char *text) {
  (void)context;
  pthread_mutex_lock(&host_lock);
  quern_log_fn fn = host.fn;
  void *to = host.context;
  pthread_mutex_unlock(&host_lock);
  if (fn) fn(to, (quern_log_level)level, text);
}

void quern_log_set(quern_log_fn fn, void *context) {
  pthread_mutex_lock(&host_lock);
  host.fn = fn;
  host.context = context;
  pthread_mutex_unlock(&host_lock);
  qn_log_set(fn ? forward_log : NULL, NULL);
}

// ---- names

const char *quern_status_name(int status) { return qn_status_name((qn_status)status); }
const char *quern_stop_reason_name(quern_stop_reason reason) { return qn_stop_reason_name((qn_stop_reason)reason); }

// ---- models

quern_status quern_model_open(const char *path, const quern_model_options *options, quern_model **out_model,
                              quern_error *error) {
  qn_diag diag = {0};
  *out_model = NULL;
  if (!path) return finish(qn_fail(&diag, QN_ERR_ARGUMENT, "path", "got NULL, want the name of a file"), &diag, error);
  return finish(qn_model_open(path, options, out_model, &diag), &diag, error);
}

void quern_model_close(quern_model *model) { qn_model_close(model); }

static void public_device(const qn_cuda_info *from, quern_device_info *to) {
  *to = (quern_device_info){.memory_bytes = from->memory_bytes, .driver = from->driver_version};
  snprintf(to->id, sizeof to->id, "cuda:%d", from->index);
  snprintf(to->chip, sizeof to->chip, "sm_%d", from->sm);
  memcpy(to->name, from->name, sizeof to->name);
}

static qn_status list_devices(const char *libcuda, quern_device_info *out, size_t capacity, size_t *out_count,
                              qn_diag *diag) {
  qn_cuda_info *found = NULL;
  size_t bytes = 0;
  if (!qn_size_mul(capacity ? capacity : 1, sizeof *found, &bytes) || !(found = qn_alloc(qn_allocator_default(), bytes)))
    return qn_fail_nomem(diag, "devices", "a list");
  qn_status status = qn_cuda_list(libcuda, found, capacity, out_count, diag);
  for (size_t i = 0; status == QN_OK && i < capacity && i < *out_count; i++) public_device(&found[i], &out[i]);
  qn_free(qn_allocator_default(), found, bytes);
  return status;
}

quern_status quern_device_list(const char *libcuda, quern_device_info *out_devices, size_t capacity, size_t *out_count,
                               quern_error *error) {
  qn_diag diag = {0};
  *out_count = 0;
  return finish(list_devices(libcuda, out_devices, capacity, out_count, &diag), &diag, error);
}

bool quern_model_device(const quern_model *model, quern_device_info *out_device) {
  if (!model->cuda) return false;
  public_device(qn_cuda_get_info(model->cuda), out_device);
  return true;
}

const char *quern_model_code_form(const quern_model *model) {
  return model->cuda && qn_cuda_from_ptx(model->cuda) ? "PTX" : "machine code";
}

quern_status quern_model_measure_read(quern_model *model, double *out_bytes_per_s, quern_error *error) {
  qn_diag diag = {0};
  *out_bytes_per_s = 0;
  if (!model->cuda)
    return finish(qn_fail(&diag, QN_ERR_ARGUMENT, model->path, "got a model on the CPU, want one on a GPU"), &diag, error);
  return finish(qn_cuda_measure_read(model->cuda, out_bytes_per_s, &diag), &diag, error);
}

const char *quern_model_name(const quern_model *model) {
  return model->artifact.strings + model->artifact.program->name;
}
const char *quern_model_path(const quern_model *model) { return model->path; }
const char *quern_model_target(const quern_model *model) { return model->target; }
int32_t quern_model_vocab_size(const quern_model *model) { return (int32_t)model->artifact.program->vocab_size; }
int32_t quern_model_embedding_size(const quern_model *model) {
  return (int32_t)qn_artifact_embedding_size(&model->artifact);
}
bool quern_model_has_source(const quern_model *model) {
  const qn_artifact *a = &model->artifact;
  for (uint32_t i = 0; i < a->program->buffer_count; i++) {
    if (a->buffers[i].kind == QN_ART_INPUT && strcmp(a->strings + a->buffers[i].name, "source") == 0) return true;
  }
  return false;
}
int32_t quern_model_start_token(const quern_model *model) { return (int32_t)model->artifact.program->start - 1; }
int64_t quern_model_context_max(const quern_model *model) {
  return qn_artifact_context_max(&model->artifact);
}
static int32_t symbol_max(const quern_model *model, int symbol) {
  return (int32_t)model->artifact.program->symbol_max[symbol];
}
int32_t quern_model_rows_max(const quern_model *model) { return symbol_max(model, 2); }       // R: qn_symbol of ir/type.h
int32_t quern_model_sequences_max(const quern_model *model) { return symbol_max(model, 4); }  // B

uint64_t quern_model_weight_bytes(const quern_model *model) { return model->artifact.weights_size; }

const char *quern_model_summary(const quern_model *model, size_t *out_length) {
  *out_length = model->summary.length;
  return model->summary.data;
}

const char *quern_model_summary_value(const quern_model *model, const char *key, size_t *out_length) {
  qn_str value = {NULL, 0};
  qn_model_summary_value(model, key, &value);
  *out_length = value.length;
  return value.data;
}

static bool cost_line(const quern_model *model, const char *name, uint64_t *out) {
  char key[64], digits[24];
  qn_str value;
  snprintf(key, sizeof key, "cost.%s", name);
  if (!qn_model_summary_value(model, key, &value) || value.length == 0 || value.length >= sizeof digits) return false;
  memcpy(digits, value.data, value.length);
  digits[value.length] = '\0';
  char *end;
  *out = strtoull(digits, &end, 10);
  return *end == '\0' && digits[0] != '-';
}

static bool read_cost(const quern_model *model, quern_model_cost *c) {
  const struct {
    const char *name;
    uint64_t *value;
  } lines[] = {{"weight_bytes", &c->weight_bytes},     {"token_bytes", &c->token_bytes},
               {"key_bytes", &c->key_bytes},           {"int8_macs_token", &c->int8_macs_token},
               {"f32_macs_token", &c->f32_macs_token}, {"int8_macs_row", &c->int8_macs_row},
               {"f32_macs_row", &c->f32_macs_row},     {"f32_macs_key", &c->f32_macs_key},
               {"int8_macs_key", &c->int8_macs_key}, {"narrow_macs_token", &c->narrow_macs_token},
               {"narrow_macs_row", &c->narrow_macs_row},
               {"narrow_macs_key", &c->narrow_macs_key}};
  for (size_t i = 0; i < QN_COUNT(lines); i++) {
    if (!cost_line(model, lines[i].name, lines[i].value)) return false;
  }
  return true;
}

bool quern_model_get_cost(const quern_model *model, quern_model_cost *out_cost) {
  quern_model_cost own = {.size = sizeof own};
  bool told = qn_result_check(out_cost, "quern_model_cost", NULL) == QN_OK && read_cost(model, &own);
  qn_result_give(out_cost, told ? &own : NULL, sizeof own);
  return told;
}

bool quern_model_get_attention_cost(const quern_model *model, int64_t depth, int64_t tokens, double *out_bytes,
                                    double *out_macs) {
  qn_str value;
  *out_bytes = *out_macs = 0;
  if (!qn_model_summary_value(model, "cost.windows", &value)) return false;
  while (value.length > 0) {  // "window:key bytes:multiply-adds:keys ahead", spaces between
    uint64_t numbers[4] = {0};
    size_t at = 0, count = 0;
    for (; at < value.length && value.data[at] != ' '; at++) {
      char c = value.data[at];
      if (c == ':' && ++count < QN_COUNT(numbers)) continue;
      if (c < '0' || c > '9' || numbers[count] > (UINT64_MAX - 9) / 10) return false;
      numbers[count] = numbers[count] * 10 + (uint64_t)(c - '0');
    }
    if (count != QN_COUNT(numbers) - 1) return false;
    *out_bytes += (double)numbers[1] * qn_window_keys((double)numbers[0], (double)depth, (double)tokens);
    *out_macs += (double)numbers[2] * qn_window_pairs((double)numbers[0], (double)numbers[3], (double)depth, (double)tokens);
    if (at < value.length) at++;
    value = (qn_str){value.data + at, value.length - at};
  }
  return true;
}

// ---- text and tokens

static qn_status need_tokenizer(const quern_model *model, qn_diag *diag) {
  if (model->tokenizer) return QN_OK;
  return qn_fail(diag, QN_ERR_UNSUPPORTED, model->path, "this model has no tokenizer; give token ids");
}

bool quern_model_has_tokenizer(const quern_model *model) { return model->tokenizer != NULL; }
int32_t quern_token_bos(const quern_model *model) { return model->tokenizer ? qn_tokenizer_bos(model->tokenizer) : -1; }
int32_t quern_token_eos(const quern_model *model) { return model->tokenizer ? qn_tokenizer_eos(model->tokenizer) : -1; }
bool quern_token_is_eog(const quern_model *model, int32_t token) {
  return model->tokenizer && qn_tokenizer_is_eog(model->tokenizer, token);
}

const char *quern_token_piece(const quern_model *model, int32_t token, size_t *out_length) {
  *out_length = 0;
  if (!model->tokenizer || token < 0 || token >= qn_tokenizer_count(model->tokenizer)) return NULL;
  qn_str piece = qn_tokenizer_piece(model->tokenizer, token);
  *out_length = piece.length;
  return piece.data;
}

static qn_status no_room(const quern_model *model, const char *what, size_t want, size_t capacity, qn_diag *diag) {
  return qn_fail(diag, QN_ERR_LIMIT, model->path, "got room for %zu %s, want %zu", capacity, what, want);
}

static qn_status tokenize(const quern_model *model, qn_str text, unsigned flags, int32_t *tokens, size_t capacity,
                          size_t *out_count, qn_diag *diag) {
  const qn_allocator *allocator = &model->allocator;
  qn_token_vec list = {0};
  QN_TRY(need_tokenizer(model, diag));
  qn_status status = qn_tokenizer_encode(model->tokenizer, text, flags, allocator, &list, diag);
  if (status == QN_OK) {
    *out_count = list.count;
    if (list.count > capacity) status = no_room(model, "tokens", list.count, capacity, diag);
  }
  if (status == QN_OK && list.count > 0) memcpy(tokens, list.items, list.count * sizeof *tokens);
  qn_vec_free(allocator, &list);
  return status;
}

quern_status quern_tokenize(const quern_model *model, const char *text, size_t length, unsigned flags, int32_t *tokens,
                            size_t capacity, size_t *out_count, quern_error *error) {
  qn_diag diag = {0};
  *out_count = 0;
  return finish(tokenize(model, (qn_str){text, length}, flags, tokens, capacity, out_count, &diag), &diag, error);
}

static qn_status detokenize(const quern_model *model, const int32_t *tokens, size_t count, unsigned flags, char *text,
                            size_t capacity, size_t *out_length, qn_diag *diag) {
  qn_buf buf;
  QN_TRY(need_tokenizer(model, diag));
  qn_buf_init(&buf, &model->allocator);
  qn_status status = qn_tokenizer_decode(model->tokenizer, tokens, count, flags, &buf, diag);
  if (status == QN_OK) {
    *out_length = buf.length;
    if (buf.length > capacity) status = no_room(model, "bytes", buf.length, capacity, diag);
  }
  if (status == QN_OK && buf.length > 0) memcpy(text, buf.data, buf.length);
  qn_buf_deinit(&buf);
  return status;
}

quern_status quern_detokenize(const quern_model *model, const int32_t *tokens, size_t count, unsigned flags, char *text,
                              size_t capacity, size_t *out_length, quern_error *error) {
  qn_diag diag = {0};
  *out_length = 0;
  return finish(detokenize(model, tokens, count, flags, text, capacity, out_length, &diag), &diag, error);
}

// ---- sessions

#define MAX_SPIN_US 1000000
#define MAX_GRAIN   64

qn_status qn_model_threads(const quern_model *model, int threads, bool no_pin, int64_t spin_us, int grain,
                           qn_threads **out, qn_diag *diag) {
  if (grain < 0 || grain > MAX_GRAIN)
    return qn_fail(diag, QN_ERR_ARGUMENT, "grain", "got %d, want 1 to %d, or 0", grain, MAX_GRAIN);
  if (spin_us < -1 || spin_us > MAX_SPIN_US)
    return qn_fail(diag, QN_ERR_ARGUMENT, "spin_us", "got %lld, want -1 to %d", (long long)spin_us, MAX_SPIN_US);
  QN_TRY(qn_threads_create(threads, !no_pin, &model->allocator, out, diag));
  if (spin_us != 0) qn_threads_set_spin(*out, spin_us < 0 ? 0 : (uint64_t)spin_us * 1000);
  if (grain != 0) qn_threads_set_grain(*out, grain);
  return QN_OK;
}

static qn_status create_threads(quern_session *session, const quern_session_options *options, qn_diag *diag) {
  QN_TRY(qn_model_threads(session->model, options->threads, options->no_pin, options->spin_us, options->grain,
                          &session->threads, diag));
  int created = qn_threads_created(session->threads);
  if (options->decode_threads < 0 || options->decode_threads > created)
    return qn_fail(diag, QN_ERR_ARGUMENT, "decode_threads", "got %d, want 1 to the %d threads, or 0 for all",
                   options->decode_threads, created);
  session->decode_threads = options->decode_threads ? options->decode_threads : created;
  return QN_OK;
}

static qn_status create_session(quern_session *session, const quern_session_options *options, qn_diag *diag) {
  quern_model *model = session->model;
  qn_decoder_options decoder = {
      .context = options->context, .chunk = options->chunk, .sequences = options->sequences, .pages = options->pages,
      .prefixes = options->prefix_cache, .evict = options->kv_evict, .keep = options->kv_keep};
  if (decoder.evict && strcmp(decoder.evict, "none") == 0) decoder.evict = NULL;
  if (!model->cuda) QN_TRY(create_threads(session, options, diag));
  decoder.executor = (qn_executor_options){.cuda = model->cuda,
                                           .target = model->target,
                                           .jit_entries = model->jit.entries,
                                           .decode_threads = session->decode_threads,
                                           .profile = options->profile,
                                           .profile_faults = options->profile_faults,
                                           .check_kernels = options->check_kernels};
  return qn_decoder_create(&model->artifact, session->threads, &decoder, &model->allocator, &session->decoder,
                           diag);
}

quern_status quern_session_create(quern_model *model, const quern_session_options *options, quern_session **out_session,
                                  quern_error *error) {
  quern_session_options own;
  qn_diag diag = {0};
  *out_session = NULL;
  qn_status status = qn_options_take(options, "quern_session_options", &own, sizeof own, &diag);
  if (status != QN_OK) return finish(status, &diag, error);
  quern_session *session = qn_alloc_zeroed(&model->allocator, sizeof *session);
  if (!session) return finish(qn_fail_nomem(&diag, model->path, "a session"), &diag, error);
  session->model = model;
  status = create_session(session, &own, &diag);
  if (status == QN_OK) {
    *out_session = session;
  } else {
    quern_session_destroy(session);
  }
  return finish(status, &diag, error);
}

void quern_session_destroy(quern_session *session) {
  if (!session) return;
  qn_decoder_destroy(session->decoder);
  qn_threads_destroy(session->threads);
  qn_free(&session->model->allocator, session, sizeof *session);
}

quern_status quern_session_get_info(const quern_session *session, quern_session_info *out_info, quern_error *error) {
  const qn_decoder *decoder = session->decoder;
  qn_diag diag = {0};
  quern_session_info own = {
      .threads = session->threads ? qn_threads_created(session->threads) : 0,
      .decode_threads = session->decode_threads,
      .context = qn_decoder_context(decoder),
      .chunk = qn_decoder_chunk(decoder),
      .sequences = qn_decoder_sequences(decoder),
      .kv_bytes = qn_kv_cache_bytes(qn_decoder_cache(decoder)),
      .arena_bytes = session->model->artifact.program->arena_bytes,
  };
  qn_status status = qn_result_check(out_info, "quern_session_info", &diag);
  qn_result_give(out_info, &own, sizeof own);
  return finish(status, &diag, error);
}

// Uses a request to stop up.
static qn_status take_cancel(quern_session *session, qn_diag *diag) {
  if (!atomic_exchange(&session->cancelled, false)) return QN_OK;
  return qn_fail(diag, QN_ERR_CANCELLED, session->model->path, "cancelled by quern_session_cancel");
}

static qn_status eval_chunks(quern_session *session, int32_t sequence, const int32_t *tokens, size_t count, float *all,
                             const float **out_logits, qn_diag *diag) {
  qn_decoder *decoder = session->decoder;
  size_t chunk = (size_t)qn_decoder_chunk(decoder), vocab = (size_t)qn_decoder_vocab(decoder);
  for (size_t done = 0; done < count; done += chunk) {
    size_t now = count - done < chunk ? count - done : chunk;
    QN_TRY(take_cancel(session, diag));
    QN_TRY(qn_decoder_eval(decoder, sequence, tokens + done, now, all ? all + done * vocab : NULL,
                           done + now == count ? out_logits : NULL, diag));
  }
  return QN_OK;
}

// Chunk by chunk, so that it can be cancelled between them.
static qn_status eval(quern_session *session, int32_t sequence, const int32_t *tokens, size_t count, float *all,
                      const float **out_logits, qn_diag *diag) {
  session->step_rows = 0;
  QN_TRY(qn_decoder_reserve(session->decoder, sequence, tokens, count, diag));
  int64_t before = qn_decoder_position(session->decoder, sequence);
  qn_executor_hold(qn_decoder_executor(session->decoder));
  qn_status status = eval_chunks(session, sequence, tokens, count, all, out_logits, diag);
  qn_executor_release(qn_decoder_executor(session->decoder));
  if (status != QN_OK) qn_decoder_truncate(session->decoder, sequence, before);
  return status;
}

quern_status quern_session_source(quern_session *session, int32_t sequence, const int32_t *tokens, size_t count,
                                  quern_error *error) {
  qn_diag diag = {0};
  session->step_rows = 0;
  qn_status status = take_cancel(session, &diag);
  if (status == QN_OK) status = qn_decoder_source(session->decoder, sequence, tokens, count, &diag);
  return finish(status, &diag, error);
}

quern_status quern_session_eval(quern_session *session, int32_t sequence, const int32_t *tokens, size_t count,
                                const float **out_logits, quern_error *error) {
  qn_diag diag = {0};
  return finish(eval(session, sequence, tokens, count, NULL, out_logits, &diag), &diag, error);
}

quern_status quern_session_eval_all(quern_session *session, int32_t sequence, const int32_t *tokens, size_t count,
                                    float *logits, quern_error *error) {
  qn_diag diag = {0};
  qn_status status = logits ? QN_OK : qn_fail(&diag, QN_ERR_ARGUMENT, "logits", "got NULL, want memory for them");
  if (status == QN_OK) status = eval(session, sequence, tokens, count, logits, NULL, &diag);
  return finish(status, &diag, error);
}

// Step by step, so that it can be cancelled between them.
static qn_status embed(quern_session *session, const int32_t *tokens, const size_t *counts, size_t texts, float *out,
                       qn_diag *diag) {
  size_t width = (size_t)qn_decoder_embedding(session->decoder), done = 0;
  session->step_rows = 0;
  if (texts > 0 && (!tokens || !counts || !out)) {
    return qn_fail(diag, QN_ERR_ARGUMENT, session->model->path, "got NULL, want tokens, counts and memory for embeddings");
  }
  for (size_t at = 0; at < texts; at += done) {
    QN_TRY(take_cancel(session, diag));
    QN_TRY(qn_decoder_embed(session->decoder, tokens, counts + at, texts - at, out + at * width, &done, diag));
    for (size_t i = 0; i < done; i++) tokens += counts[at + i];
  }
  return QN_OK;
}

quern_status quern_session_embed(quern_session *session, const int32_t *tokens, const size_t *counts, size_t texts,
                                 float *out_embeddings, quern_error *error) {
  qn_diag diag = {0};
  return finish(embed(session, tokens, counts, texts, out_embeddings, &diag), &diag, error);
}

quern_status quern_session_step(quern_session *session, const quern_item *items, size_t count, quern_error *error) {
  _Static_assert(sizeof(quern_item) == sizeof(qn_decoder_item) &&
                     offsetof(quern_item, want_logits) == offsetof(qn_decoder_item, want) &&
                     offsetof(quern_item, sequence) == offsetof(qn_decoder_item, sequence),
                 "the public item is the decoder's");
  qn_diag diag = {0};
  session->step_rows = 0;
  qn_status status = take_cancel(session, &diag);
  if (status == QN_OK)
    status = qn_decoder_step(session->decoder, (const qn_decoder_item *)(const void *)items, count, &diag);
  for (size_t i = 0; status == QN_OK && i < count; i++) session->step_rows += items[i].want_logits;
  return finish(status, &diag, error);
}

const float *quern_session_logits(const quern_session *session, size_t index) {
  return index < session->step_rows ? qn_decoder_logits(session->decoder, index) : NULL;
}

static bool has_sequence(const quern_session *session, int32_t sequence) {
  return sequence >= 0 && sequence < qn_decoder_sequences(session->decoder);
}

int64_t quern_session_position(const quern_session *session, int32_t sequence) {
  return has_sequence(session, sequence) ? qn_decoder_position(session->decoder, sequence) : -1;
}

quern_status quern_session_truncate(quern_session *session, int32_t sequence, int64_t length, quern_error *error) {
  qn_diag diag = {0};
  qn_status status = QN_OK;
  int64_t position = quern_session_position(session, sequence);
  if (position < 0) {
    status = qn_fail(&diag, QN_ERR_ARGUMENT, "sequence", "got %" PRId32 ", want 0 to %" PRId32, sequence,
                     qn_decoder_sequences(session->decoder) - 1);
  } else if (length < 0 || length > position) {
    status =
        qn_fail(&diag, QN_ERR_ARGUMENT, "length", "got %" PRId64 ", want 0 to the present %" PRId64, length, position);
  } else if (length > 0 && length < qn_decoder_least(session->decoder, sequence)) {
    status = qn_fail(&diag, QN_ERR_LIMIT, "length",
                     "got %" PRId64 ", want 0, or %" PRId64 " to %" PRId64
                     ": keys that fewer tokens would see lay before the window, or were evicted, or have sums of what "
                     "followed; empty the sequence and evaluate its tokens again",
                     length, qn_decoder_least(session->decoder, sequence), position);
  } else {
    qn_decoder_truncate(session->decoder, sequence, length);
  }
  return finish(status, &diag, error);
}

quern_status quern_session_fill(quern_session *session, int32_t sequence, int64_t count, quern_error *error) {
  qn_diag diag = {0};
  session->step_rows = 0;
  return finish(qn_decoder_fill(session->decoder, sequence, count, &diag), &diag, error);
}

quern_status quern_session_fork(quern_session *session, int32_t from, int64_t length, int32_t to, quern_error *error) {
  qn_diag diag = {0};
  session->step_rows = 0;
  return finish(qn_decoder_fork(session->decoder, from, length, to, &diag), &diag, error);
}

void quern_session_reset(quern_session *session, int32_t sequence) {
  if (has_sequence(session, sequence)) qn_decoder_reset(session->decoder, sequence);
}

void quern_session_cancel(quern_session *session) { atomic_store(&session->cancelled, true); }
void quern_session_uncancel(quern_session *session) { atomic_store(&session->cancelled, false); }

// ---- a sequence's state

size_t quern_session_state_size(const quern_session *session, int32_t sequence) {
  size_t size = 0;
  return has_sequence(session, sequence) && qn_kv_state_size(qn_decoder_cache(session->decoder), sequence, &size) ? size
                                                                                                                : 0;
}

static qn_status need_sequence(const quern_session *session, int32_t sequence, qn_diag *diag) {
  if (has_sequence(session, sequence)) return QN_OK;
  return qn_fail(diag, QN_ERR_ARGUMENT, "sequence", "got %" PRId32 ", want 0 to %" PRId32, sequence,
                 qn_decoder_sequences(session->decoder) - 1);
}

quern_status quern_session_save(const quern_session *session, int32_t sequence, void *data, size_t capacity,
                                size_t *out_size, quern_error *error) {
  qn_diag diag = {0};
  *out_size = 0;
  qn_status status = need_sequence(session, sequence, &diag);
  if (status == QN_OK)
    status = qn_kv_state_save(qn_decoder_cache(session->decoder), sequence, data, capacity, out_size, &diag);
  return finish(status, &diag, error);
}

quern_status quern_session_restore(quern_session *session, int32_t sequence, const void *data, size_t size,
                                   quern_error *error) {
  qn_diag diag = {0};
  session->step_rows = 0;
  qn_status status = need_sequence(session, sequence, &diag);
  if (status == QN_OK) status = qn_decoder_restore(session->decoder, sequence, data, size, "state", &diag);
  return finish(status, &diag, error);
}

quern_status quern_session_save_file(const quern_session *session, int32_t sequence, const char *path,
                                     quern_error *error) {
  qn_diag diag = {0};
  qn_status status = need_sequence(session, sequence, &diag);
  if (status == QN_OK) status = qn_kv_state_save_file(qn_decoder_cache(session->decoder), sequence, path, &diag);
  return finish(status, &diag, error);
}

quern_status quern_session_restore_file(quern_session *session, int32_t sequence, const char *path,
                                        quern_error *error) {
  qn_diag diag = {0};
  qn_mapping mapping = {0};
  session->step_rows = 0;
  qn_status status = need_sequence(session, sequence, &diag);
  if (status == QN_OK) status = qn_mapping_open(&mapping, path, &diag);
  if (status == QN_OK) status = qn_mapping_keep_but(&mapping, mapping.size, mapping.size, path, &diag);
  if (status == QN_OK)
    status = qn_decoder_restore(session->decoder, sequence, mapping.data, mapping.size, path, &diag);
  qn_mapping_close(&mapping);
  return finish(status, &diag, error);
}

// ---- generation

qn_status qn_model_sampler_options(const quern_model *model, const quern_sampler_options *options,
                                   qn_sampler_options *out, qn_diag *diag) {
  quern_sampler_options o = quern_sampler_options_default();
  if (!options) quern_model_sampler_defaults(model, &o);
  if (options) QN_TRY(qn_options_take(options, "quern_sampler_options", &o, sizeof o, diag));
  *out = (qn_sampler_options){.temperature = o.temperature,
                              .top_k = o.top_k,
                              .top_p = o.top_p,
                              .min_p = o.min_p,
                              .repeat_penalty = o.repeat_penalty,
                              .repeat_last_n = o.repeat_last_n,
                              .seed = o.seed};
  return QN_OK;
}

void quern_sampler_options_init(quern_sampler_options *out, size_t size) {
  qn_sampler_options o = qn_sampler_options_default();
  quern_sampler_options own = {.size = size,
                               .temperature = o.temperature,
                               .top_k = o.top_k,
                               .top_p = o.top_p,
                               .min_p = o.min_p,
                               .repeat_penalty = o.repeat_penalty,
                               .repeat_last_n = o.repeat_last_n,
                               .seed = o.seed};
  memset(out, 0, size);
  memcpy(out, &own, size < sizeof own ? size : sizeof own);
}

bool quern_model_sampler_defaults(const quern_model *model, quern_sampler_options *options) {
  const qn_sampler_defaults *d = &model->sampling;
  quern_sampler_options own = {0};
  size_t size = options->size < sizeof own ? options->size : sizeof own;
  bool any = false;
  memcpy(&own, options, size);
  if (d->said[QN_SAMPLER_TEMPERATURE]) own.temperature = d->values[QN_SAMPLER_TEMPERATURE];
  if (d->said[QN_SAMPLER_TOP_K]) own.top_k = (int32_t)d->values[QN_SAMPLER_TOP_K];
  if (d->said[QN_SAMPLER_TOP_P]) own.top_p = d->values[QN_SAMPLER_TOP_P];
  if (d->said[QN_SAMPLER_MIN_P]) own.min_p = d->values[QN_SAMPLER_MIN_P];
  if (d->said[QN_SAMPLER_REPEAT_PENALTY]) own.repeat_penalty = d->values[QN_SAMPLER_REPEAT_PENALTY];
  if (d->said[QN_SAMPLER_REPEAT_LAST]) own.repeat_last_n = (int32_t)d->values[QN_SAMPLER_REPEAT_LAST];
  memcpy(options, &own, size);
  for (int key = 0; key < QN_SAMPLER_MAX_TOKENS; key++) any |= d->said[key];
  return any;
}

int64_t quern_model_max_tokens(const quern_model *model) {
  return model->sampling.said[QN_SAMPLER_MAX_TOKENS] ? (int64_t)model->sampling.values[QN_SAMPLER_MAX_TOKENS] : 0;
}

// One call of quern_generate.
typedef struct generating {
  quern_session *session;
  const quern_generate_params *params;
} generating;

static bool forward_text(void *context, qn_str text, int32_t id) {
  const quern_generate_params *params = ((const generating *)context)->params;
  return params->callback(params->callback_context, text.data, text.length, id);
}

static bool forward_cancelled(void *context) {
  const generating *g = context;
  if (atomic_exchange(&g->session->cancelled, false)) return true;
  return g->params->cancelled && g->params->cancelled(g->params->callback_context);
}

static void public_stats(const qn_generate_stats *from, quern_stats *to) {
  quern_stats own = {.prompt_tokens = from->prompt_tokens,
                     .generated_tokens = from->generated_tokens,
                     .prefill_ns = from->prefill_ns,
                     .first_ns = from->first_ns,
                     .decode_ns = from->decode_ns,
                     .decode_steps = from->decode_steps,
                     .reason = (quern_stop_reason)from->reason,
                     .stop_index = from->stop_index,
                     .pending_token = from->pending,
                     .held_tokens = from->held_tokens,
                     .passes = from->passes,
                     .proposed = from->proposed,
                     .accepted = from->accepted};
  qn_result_give(to, &own, sizeof own);
}

int32_t qn_session_sampled_vocab(const quern_session *session) {
  int32_t vocab = qn_decoder_vocab(session->decoder);
  const qn_tokenizer *tokenizer = session->model->tokenizer;
  return tokenizer && qn_tokenizer_count(tokenizer) < vocab ? qn_tokenizer_count(tokenizer) : vocab;
}

static qn_status generate(quern_session *session, const quern_generate_params *p, qn_str *stops,
                          qn_generate_stats *stats, qn_diag *diag) {
  const qn_allocator *allocator = &session->model->allocator;
  generating g = {session, p};
  qn_sampler_options sampling;
  qn_sampler *sampler = NULL;
  QN_TRY(qn_model_sampler_options(session->model, p->sampler, &sampling, diag));
  for (size_t i = 0; i < p->stop_count; i++) stops[i] = qn_str_from(p->stops[i]);
  qn_generate_params params = {.sequence = p->sequence,
                               .prompt = p->prompt,
                               .prompt_count = p->prompt_count,
                               .held = p->prompt_held,
                               .max_tokens = p->max_tokens,
                               .stops = stops,
                               .stop_count = p->stop_count,
                               .ignore_eog = p->ignore_eog,
                               .show_special = p->show_special,
                               .callback = p->callback ? forward_text : NULL,
                               .callback_context = &g,
                               .cancelled = forward_cancelled};
  if (p->speculator && p->speculator->guessing.session != session)
    return qn_fail(diag, QN_ERR_ARGUMENT, "speculator", "got one of another session, want one of this session");
  if (p->speculator) params.speculator = p->speculator->speculator;
  QN_TRY(qn_sampler_create(&sampling, qn_session_sampled_vocab(session), allocator, &sampler, diag));
  qn_status status =
      qn_generate(session->decoder, session->model->tokenizer, sampler, &params, allocator, stats, diag);
  qn_sampler_destroy(sampler);
  return status;
}

quern_status quern_generate(quern_session *session, const quern_generate_params *params, quern_stats *out_stats,
                            quern_error *error) {
  qn_diag diag = {0};
  qn_generate_stats stats = {.pending = -1};
  const qn_allocator *allocator = &session->model->allocator;
  quern_generate_params own;
  size_t bytes = 0;
  qn_str *stops = NULL;
  session->step_rows = 0;
  qn_status status = qn_options_take(params, "quern_generate_params", &own, sizeof own, &diag);
  if (status == QN_OK) status = qn_result_check(out_stats, "quern_stats", &diag);
  if (status == QN_OK && (!qn_size_mul(own.stop_count, sizeof *stops, &bytes) ||
                          (bytes > 0 && !(stops = qn_alloc(allocator, bytes))))) {
    status = qn_fail_nomem(&diag, session->model->path, "stop strings");
  }
  if (status == QN_OK) status = generate(session, &own, stops, &stats, &diag);
  qn_free(allocator, stops, bytes);
  public_stats(&stats, out_stats);
  return finish(status, &diag, error);
}

// ---- profiles

bool quern_session_profile(const quern_session *session, size_t index, quern_step_profile *out_profile) {
  const qn_artifact *a = &session->model->artifact;
  const qn_step_profile *profile = qn_executor_profile(qn_decoder_executor(session->decoder));
  if (!profile || index >= a->program->step_count) return false;
  if (qn_result_check(out_profile, "quern_step_profile", NULL) != QN_OK) return false;
  const qn_art_step *step = &a->steps[index];
  quern_step_profile own = {.kernel = a->strings + a->kernels[step->kernel].name,
                            .place = a->strings + step->loc,
                            .kernel_ns = profile[index].kernel_ns,
                            .wait_ns = profile[index].wait_ns,
                            .calls = profile[index].calls,
                            .busy_ns = qn_executor_busy_ns(qn_decoder_executor(session->decoder), index),
                            .faults = profile[index].faults};
  qn_result_give(out_profile, &own, sizeof own);
  return true;
}
