// A compilation from the model's path to its graph.
#include "frontend/compilation.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "frontend/import/chat_source.h"
#include "frontend/import/gguf.h"
#include "frontend/import/vocab.h"
#include "frontend/import/vocab_folder.h"
#include "frontend/machine.h"
#include "runtime/base/log.h"
#include "runtime/base/options.h"
#include "runtime/chat.h"
#include "runtime/tokenizer.h"

#define DEFAULT_CONTEXT 4096

qn_status quern_own_options(const quern_compile_options *options, quern_compile_options *out, qn_diag *diag) {
  QN_TRY(qn_options_take(options, "quern_compile_options", out, sizeof *out, diag));
  return qn_result_check(out->tuning_use, "quern_tuning_use", diag);
}

void quern_compilation_init(quern_compilation *c, const quern_compile_options *options, qn_diag *diag) {
  *c = (quern_compilation){.own_allocator = *qn_allocator_default(), .options = options, .diag = diag};
  if (options->allocator)
    c->own_allocator = (qn_allocator){options->allocator->context, options->allocator->reallocate};
  c->allocator = &c->own_allocator;
  qn_arena_init(&c->arena, c->allocator);
  qn_buf_init(&c->tokenizer, c->allocator);
  qn_buf_init(&c->chat, c->allocator);
  qn_buf_init(&c->summary, c->allocator);
  for (size_t i = 0; i < QN_COUNT(c->parts); i++) {
    qn_buf_init(&c->parts[i].graph_text, c->allocator);
    qn_buf_init(&c->parts[i].kernels_text, c->allocator);
  }
  for (size_t i = 0; i < QUERN_MAX_TARGETS; i++) qn_buf_init(&c->evidence[i], c->allocator);
  quern_tuned_init(&c->tuned, &c->arena);
}

void quern_compilation_deinit(quern_compilation *c) {
  for (size_t i = 0; i < QUERN_MAX_TARGETS; i++) qn_code_deinit(&c->codes[i]);
  qn_buf_deinit(&c->tokenizer);
  qn_buf_deinit(&c->chat);
  qn_buf_deinit(&c->summary);
  for (size_t i = 0; i < QN_COUNT(c->parts); i++) {
    qn_buf_deinit(&c->parts[i].graph_text);
    qn_buf_deinit(&c->parts[i].kernels_text);
  }
  for (size_t i = 0; i < QUERN_MAX_TARGETS; i++) qn_buf_deinit(&c->evidence[i]);
  qn_signing_key_wipe(&c->key);
  quern_tuned_deinit(&c->tuned);
  qn_import_close(c->import);
  qn_arena_deinit(&c->arena);
}

qn_status quern_compilation_report(quern_compilation *c, const char *stage, uint64_t done, uint64_t total) {
  if (c->options->progress && !c->options->progress(c->options->progress_context, stage, done, total)) {
    return qn_fail(c->diag, QN_ERR_CANCELLED, "compile", "cancelled by the caller");
  }
  return QN_OK;
}

bool quern_compilation_pack_progress(void *context, uint64_t done, uint64_t total) {
  quern_compilation *c = context;
  const char *stage = c->quantize.format ? "quantising and packing weights" : "packing weights";
  c->packed_bytes = done;
  c->pack_total_bytes = total;
  return !c->options->progress || c->options->progress(c->options->progress_context, stage, done, total);
}

// --- quantising

// Between two tensors of pack_progress: it counts bytes of the packed weights.
static bool quantize_progress(void *context, const qn_requantized *tensor, int64_t done_rows) {
  quern_compilation *c = context;
  uint64_t before = c->packed_bytes;
  size_t bytes = 0;
  (void)qn_format_file_bytes(tensor->to, done_rows, tensor->k, &bytes);
  bool go_on = quern_compilation_pack_progress(c, before + bytes, c->pack_total_bytes);
  c->packed_bytes = before;
  return go_on;
}

static void quantize_report(void *context, const qn_requantized *t) {
  quern_compilation *c = context;
  if (!c->options->quantized) return;
  size_t before = 0, after = 0;  // shapes of tensors that are there do not overflow
  (void)qn_format_file_bytes(t->from, t->rows, t->k, &before);
  (void)qn_format_file_bytes(t->to, t->rows, t->k, &after);
  quern_quantized told = {.tensor = t->name,
                          .from = t->from->name,
                          .asked = t->asked->name,
                          .to = t->to->name,
                          .kept = t->kept,
                          .rows = t->rows,
                          .columns = t->k,
                          .relative_rms = t->squares > 0 ? sqrt(t->error_squares / t->squares) : 0.0,
                          .max_error = t->max_error,
                          .bytes_before = before,
                          .bytes_after = after};
  c->options->quantized(c->options->quantized_context, &told);
}

static qn_status parse_quant(quern_compilation *c) {
  if (!c->options->quant) return QN_OK;
  c->quantize = (qn_requantize_options){.threads = c->options->threads,
                                        .report = quantize_report,
                                        .report_context = c,
                                        .progress = quantize_progress,
                                        .progress_context = c};
  return qn_requantize_parse(c->options->quant, &c->quantize.format, c->diag);
}

// "host,x86-64-v3" → targets.
static qn_status parse_targets(quern_compilation *c) {
  const char *text = c->options->target ? c->options->target : "host";
  while (*text) {
    size_t length = strcspn(text, ",");
    char name[256];
    if (length == 0 || length >= sizeof name || c->target_count == QUERN_MAX_TARGETS) {
      return qn_fail(c->diag, QN_ERR_ARGUMENT, "target", "got '%s', want 1 to %d target names with commas between them",
                     c->options->target, QUERN_MAX_TARGETS);
    }
    memcpy(name, text, length);
    name[length] = 0;
    QN_TRY(qn_target_parse(name, &c->targets[c->target_count++], c->diag));
    text += length + (text[length] == ',');
  }
  return c->target_count ? QN_OK : qn_fail(c->diag, QN_ERR_ARGUMENT, "target", "got an empty list, want a target name");
}

static qn_status parse_kv_type(quern_compilation *c, qn_dtype *out) {
  const char *text = c->options->kv_type ? c->options->kv_type : QUERN_DEFAULT_KV_TYPE;
  if (!qn_dtype_parse(qn_str_from(text), out) || !qn_dtype_is_cached(*out)) {
    return qn_fail(c->diag, QN_ERR_ARGUMENT, "kv-type", "got '%s', want f32, f16, bf16, int8 or int4", text);
  }
  return QN_OK;
}

static qn_status parse_evict(quern_compilation *c) {
  const char *name = c->options->kv_evict;
  if (!name || strcmp(name, "none") == 0) return QN_OK;
  c->evict_policy = qn_kv_policy_find(name);
  if (!c->evict_policy)
    return qn_fail(c->diag, QN_ERR_ARGUMENT, "kv-evict", "got '%s', want one of " QN_KV_POLICY_NAMES, name);
  return QN_OK;
}

static unsigned evict_by(const quern_compilation *c) {
  static const struct {
    unsigned by, evict;
  } outputs[] = {{QN_KV_QUERIES, QN_EVICT_QUERIES}, {QN_KV_SUMS, QN_EVICT_SUMS}, {QN_KV_SOFTSUMS, QN_EVICT_SOFTSUMS}};
  unsigned evict = c->evict_policy ? QN_EVICT_PLACES : QN_EVICT_NONE;
  for (size_t i = 0; c->evict_policy && i < QN_COUNT(outputs); i++)
    if (c->evict_policy->by & outputs[i].by) evict |= outputs[i].evict;
  return evict;
}

// Code for "host", by whatever name.
static bool is_host(const qn_target *target, qn_target *out_host) {
  qn_diag unused = {0};
  return qn_target_parse("host", out_host, &unused) == QN_OK && strcmp(out_host->name, target->name) == 0;
}

qn_machine_model quern_machine_model(const qn_target *target, qn_db *db, int threads) {
  qn_machine_model model =
      qn_machine_model_plain(target->vector_bytes, target->vector_registers, target->dots, target->cache_bytes);
  qn_target host;
  bool here = is_host(target, &host);
  if (target->reads_alone || (here && host.reads_alone)) qn_machine_model_read_alone(&model);
  if (here) quern_machine_fill_model(db, target, threads, &model);
  return model;
}

static qn_status parse_modes(quern_compilation *c) {
  const char *mode = c->options->numeric_mode ? c->options->numeric_mode : QUERN_DEFAULT_NUMERIC;
  bool half = strcmp(mode, "half") == 0, int8 = half || strcmp(mode, "int8") == 0;
  if (!int8 && strcmp(mode, "f32") != 0) {
    return qn_fail(c->diag, QN_ERR_ARGUMENT, "numeric-mode", "got '%s', want int8, f32 or half", mode);
  }
  c->quantize_activations = int8;
  c->half_activations = half;
  if (!c->options->schedule) return QN_OK;
  QN_TRY(quern_compilation_need_cpus(c, "a schedule is of kernels"));
  QN_TRY(qn_schedule_parse("schedule", qn_str_from(c->options->schedule), &c->schedule, c->diag));
  return qn_schedule_check(&c->schedule, c->diag);
}

qn_status quern_compilation_need_cpus(const quern_compilation *c, const char *what) {
  for (size_t i = 0; i < c->target_count; i++) {
    if (!qn_target_is_gpu(&c->targets[i])) continue;
    return qn_fail(c->diag, QN_ERR_ARGUMENT, "target", "got '%s', a GPU, but %s for CPUs alone", c->targets[i].name,
                   what);
  }
  return QN_OK;
}

// Of a folder: a model without one is run on token ids.
static qn_status make_folder_tokenizer(quern_compilation *c, const char *folder) {
  qn_tokenizer_desc vocabulary;
  bool found;
  QN_TRY(qn_vocab_from_folder(folder, qn_import_vocab_size(c->import), &c->arena, &vocabulary, &found, c->diag));
  return found ? qn_tokenizer_serialize(&vocabulary, c->allocator, &c->tokenizer, c->diag) : QN_OK;
}

static qn_status make_tokenizer(quern_compilation *c) {
  const char *folder = qn_import_folder(c->import);
  if (folder) return make_folder_tokenizer(c, folder);
  qn_gguf *gguf = qn_import_gguf(c->import);
  if (!gguf || !qn_gguf_find(gguf, "tokenizer.ggml.model")) return QN_OK;
  qn_tokenizer_desc vocabulary;
  QN_TRY(qn_vocab_from_gguf(gguf, &c->arena, &vocabulary, c->diag));
  int64_t rows = qn_import_vocab_size(c->import);
  if (rows > 0 && vocabulary.token_count > (size_t)rows) {
    return qn_fail(c->diag, QN_ERR_FORMAT, "key 'tokenizer.ggml.tokens'",
                   "has %zu tokens, want at most %" PRId64 ", the rows of the model's embedding",
                   vocabulary.token_count, rows);
  }
  return qn_tokenizer_serialize(&vocabulary, c->allocator, &c->tokenizer, c->diag);
}

// Kept as they are; one that cannot be used is no reason against the model, but told.
static qn_status take_chat_templates(quern_compilation *c) {
  const qn_gguf *gguf = qn_import_gguf(c->import);
  qn_chat_templates found = {0};
  const char *folder = qn_import_folder(c->import);
  if (gguf) QN_TRY(qn_chat_from_gguf(gguf, &c->arena, &found, c->diag));
  if (folder) QN_TRY(qn_chat_from_folder(folder, &c->arena, &found, c->diag));
  for (size_t i = 0; i < found.count; i++) {
    qn_diag why = {0};
    qn_jinja *jinja = NULL;
    if (qn_jinja_parse("chat template", found.items[i].text, c->allocator, &jinja, &why) != QN_OK)
      qn_log(QN_LOG_WARNING, "the model's chat template cannot be used: %s", why.text);
    qn_jinja_free(jinja);
  }
  return qn_chat_serialize(found.items, found.count, &c->chat, c->diag);
}

// What templates and tokenizers say of a file says not always which file.
static qn_status name_model(quern_compilation *c, const char *path, qn_status status) {
  bool of_file = status == QN_ERR_FORMAT || status == QN_ERR_UNSUPPORTED;
  if (of_file && !strstr(c->diag->text, path)) {
    qn_diag inner = *c->diag;
    *c->diag = (qn_diag){0};
    return qn_fail(c->diag, status, path, "%s", inner.text);
  }
  return status;
}

static qn_status open_model(quern_compilation *c, const char *path) {
  qn_import_options options = {.template_path = c->options->template_path};
  QN_TRY(quern_compilation_report(c, "reading the model", 0, 0));
  QN_TRY(name_model(c, path, qn_import_open(path, &options, c->allocator, &c->import, c->diag)));
  QN_TRY(name_model(c, path, make_tokenizer(c)));
  return name_model(c, path, take_chat_templates(c));
}

void quern_compilation_take_target(quern_compilation *c, size_t index) {
  quern_part *part = &c->parts[c->part_of[index]];
  part->options.machine = quern_machine_model(&c->targets[index], c->tuned.db, c->options->run_threads);
  quern_tuned_choose_for(&c->tuned, &c->targets[index], part->pass.graph->max_values, &part->options,
                         &c->evidence[index]);
}

// Names of what passes leave for GPUs begin with gpu_, so that they are apart from those for CPUs.
static void dump_gpu_pass(void *context, const char *pass, const char *text, size_t length) {
  const quern_part *part = context;
  char name[64];
  snprintf(name, sizeof name, "gpu_%s", pass);
  part->dump_to->dump(part->dump_to->dump_context, name, text, length);
}

// --- a model file, or a graph built in code

const char *quern_compilation_name(const quern_compilation *c) {
  return c->built ? quern_built_name(c->built) : qn_import_model_name(c->import);
}

const char *quern_compilation_architecture(const quern_compilation *c) {
  return c->built ? "graph" : qn_import_architecture(c->import);
}

int64_t quern_compilation_vocab_size(const quern_compilation *c) {
  return c->built ? quern_built_vocab_size(c->built) : qn_import_vocab_size(c->import);
}

// A qn_weight_source's function: what passes made, and the model's own.
static qn_status find_weight(void *context, const char *name, qn_tensor_data *out, qn_diag *diag) {
  const quern_compilation *c = context;
  for (size_t p = 0; p < c->part_count; p++) {
    for (size_t i = 0; i < c->parts[p].pass.made.count; i++) {
      const qn_made_weight *made = &c->parts[p].pass.made.items[i];
      if (strcmp(made->name, name) != 0) continue;
      *out = (qn_tensor_data){
          .format = qn_format_of(QN_DTYPE_F32), .rank = 1, .dims = {made->count}, .data = made->values};
      return QN_OK;
    }
  }
  qn_weight_source own = c->built ? quern_built_weights(c->built) : qn_import_weights(c->import);
  return own.find(own.context, name, out, diag);
}

qn_weight_source quern_compilation_weights(quern_compilation *c) { return (qn_weight_source){c, find_weight}; }

static qn_status make_graph(quern_compilation *c, const char *model_path, const qn_import_graph_options *options,
                            qn_graph **out) {
  if (c->built) return quern_built_copy(c->built, &c->arena, out, c->diag);
  return name_model(c, model_path, qn_import_graph(c->import, options, &c->arena, out, c->diag));
}

static qn_status begin_part(quern_compilation *c, const char *model_path, bool gpu,
                            const qn_import_graph_options *graph_options) {
  size_t index = c->part_count;
  bool wanted = false;
  for (size_t i = 0; i < c->target_count; i++) {
    if (qn_target_is_gpu(&c->targets[i]) != gpu) continue;
    c->part_of[i] = index;
    wanted = true;
  }
  if (!wanted) return QN_OK;
  quern_part *part = &c->parts[c->part_count++];
  part->gpu = gpu;
  part->options = (qn_pass_options){.gpu = gpu,
                                    .quantize_activations = c->quantize_activations,
                                    .half_activations = c->half_activations,
                                    .evict = evict_by(c),
                                    .weights = &c->stored,
                                    .rings = c->import != NULL && quern_compilation_vocab_size(c) > 0,
                                    .forced_schedule = c->options->schedule ? &c->schedule : NULL,
                                    .dump = c->options->dump,
                                    .dump_context = c->options->dump_context};
  if (gpu && c->options->dump) {
    part->dump_to = c->options;
    part->options.dump = dump_gpu_pass;
    part->options.dump_context = part;
  }
  qn_graph *graph = NULL;
  QN_TRY(make_graph(c, model_path, graph_options, &graph));
  QN_TRY(qn_graph_verify(graph, QN_STAGE_IMPORTED, c->diag));
  part->pass = (qn_pass_context){
      .arena = &c->arena, .allocator = c->allocator, .options = &part->options, .graph = graph, .diag = c->diag};
  return QN_OK;
}

// Opens the model file and says how large its graph's steps are to be.
static qn_status open_file(quern_compilation *c, const char *model_path, qn_import_graph_options *out) {
  int64_t sequences = c->options->sequences ? c->options->sequences : 1;
  *out = (qn_import_graph_options){.max_sequences = sequences, .guesses = c->options->guesses};
  QN_TRY(parse_kv_type(c, &out->kv_dtype));
  QN_TRY(parse_quant(c));
  QN_TRY(open_model(c, model_path));
  QN_TRY(name_model(c, model_path, qn_import_quantize(c->import, &c->quantize, c->diag)));
  int64_t own = qn_import_context(c->import);
  out->context_tokens = c->options->context_tokens ? c->options->context_tokens : own ? own : DEFAULT_CONTEXT;
  bool encodes = qn_import_embedding_size(c->import) > 0;  // a text as a whole
  out->chunk_tokens = c->options->chunk_tokens ? c->options->chunk_tokens
                      : encodes                ? out->context_tokens
                                               : QUERN_DEFAULT_CHUNK;
  c->context_tokens = out->context_tokens;
  if (out->chunk_tokens > out->context_tokens) out->chunk_tokens = out->context_tokens;
  out->max_rows = c->options->all_logits || sequences > out->chunk_tokens ? out->chunk_tokens : sequences;
  return QN_OK;
}

static qn_status open_built(quern_compilation *c) {
  QN_TRY(quern_built_check(c->built, c->options, c->diag));
  c->context_tokens = quern_built_context(c->built);
  return QN_OK;
}

qn_status quern_compilation_open(quern_compilation *c, const char *model_path) {
  qn_import_graph_options graph_options = {0};
  if (c->options->run_threads < 0)
    return qn_fail(c->diag, QN_ERR_ARGUMENT, "run-threads", "got %d, want 0 or more", c->options->run_threads);
  QN_TRY(parse_targets(c));
  QN_TRY(parse_modes(c));
  QN_TRY(parse_evict(c));
  QN_TRY(c->built ? open_built(c) : open_file(c, model_path, &graph_options));
  c->stored = c->built ? quern_built_weights(c->built) : qn_import_stored_weights(c->import);
  QN_TRY(begin_part(c, model_path, false, &graph_options));
  QN_TRY(begin_part(c, model_path, true, &graph_options));
  QN_TRY(quern_compilation_report(c, "optimising the graph", 0, 0));
  if (c->parts[0].gpu) return QN_OK;
  if (!c->options->schedule) quern_tuned_open(&c->tuned, c->options->tuning_db, c->options->run_threads);
  size_t first = 0;
  while (c->part_of[first] != 0) first++;
  quern_compilation_take_target(c, first);
  return QN_OK;
}
