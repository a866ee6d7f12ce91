// quern_predict: how long a model's kernels would take on a GPU that need not be here, counted from their loop IR.
#include "frontend/predict.h"

#include <stdlib.h>
#include <string.h>

#include "frontend/compile.h"
#include "runtime/base/options.h"

// ---- inputs of a step

// What the kernels find in the program's inputs: one sequence whose pages follow each other. Each array is as long as its
// symbol says.
typedef struct step_inputs {
  int32_t *numbers;  // arena: 0, 1, 2, ... as token ids (each row of a table is read once), and as a source's positions
  int32_t *pos, *last_pos, *cross_last_pos, *zeros, *ones, *rows, *block_table, *sampling;  // arena
  int64_t symbols[QN_SYM_COUNT];
} step_inputs;

// How a row's token is chosen (runtime/README.md, input `sampling`): the most likely one.
static const int32_t greedy[8] = {0x3f800000, 1, 1 << 20, (int32_t)0xff800000};

static qn_status make_inputs(predicting *p, const explain_chunk *chunk, step_inputs *out) {
  int64_t tokens = chunk->tokens, keys = chunk->depth + tokens;
  if (keys < chunk->source) keys = chunk->source;
  int64_t pages = (keys + QN_PAGE_KEYS - 1) / QN_PAGE_KEYS;
  if (p->symbol_max[QN_SYM_P] > pages) pages = p->symbol_max[QN_SYM_P];
  size_t n = (size_t)tokens;
  *out = (step_inputs){.symbols = {[QN_SYM_T] = chunk->of_source ? 0 : tokens,
                                   [QN_SYM_R] = chunk->rows,
                                   [QN_SYM_P] = pages,
                                   [QN_SYM_B] = 1,
                                   [QN_SYM_G] = pages,
                                   [QN_SYM_S] = chunk->of_source ? tokens : 0},
                       .numbers = QN_ARENA_ARRAY(p->arena, n, int32_t),
                       .pos = QN_ARENA_ARRAY(p->arena, n, int32_t),
                       .last_pos = QN_ARENA_ARRAY(p->arena, n, int32_t),
                       .cross_last_pos = QN_ARENA_ARRAY(p->arena, n, int32_t),
                       .zeros = QN_ARENA_ARRAY(p->arena, n, int32_t),
                       .ones = QN_ARENA_ARRAY(p->arena, n, int32_t),
                       .rows = QN_ARENA_ARRAY(p->arena, (size_t)chunk->rows + 1, int32_t),
                       .block_table = QN_ARENA_ARRAY(p->arena, (size_t)pages, int32_t),
                       .sampling = QN_ARENA_ARRAY(p->arena, ((size_t)chunk->rows + 1) * QN_COUNT(greedy), int32_t)};
  if (!out->numbers || !out->pos || !out->last_pos || !out->cross_last_pos || !out->zeros || !out->ones || !out->rows ||
      !out->block_table || !out->sampling)
    return qn_fail_nomem(p->diag, "predict", "the inputs of a step");
  for (int64_t t = 0; t < tokens; t++) {
    out->numbers[t] = (int32_t)t;
    out->pos[t] = (int32_t)(chunk->depth + t);
    out->last_pos[t] = (int32_t)(chunk->depth + tokens - 1);
    out->cross_last_pos[t] = (int32_t)chunk->source - 1;
    out->ones[t] = 1;
  }
  for (int64_t r = 0; r < chunk->rows; r++) {
    out->rows[r] = (int32_t)(tokens - chunk->rows + r);
    memcpy(out->sampling + r * (int64_t)QN_COUNT(greedy), greedy, sizeof greedy);
  }
  for (int64_t i = 0; i < pages; i++) out->block_table[i] = (int32_t)i;
  return QN_OK;
}

static qn_gpu_param bind(const predict_param *param, const step_inputs *in) {
  const struct {
    const char *name;
    const int32_t *data;
    qn_symbol symbol;
    int64_t each;
  } known[] = {{"tokens", in->numbers, QN_SYM_T, 1},
               {"pos", in->pos, QN_SYM_T, 1},
               {"last_pos", in->last_pos, QN_SYM_T, 1},
               {"slot", in->pos, QN_SYM_T, 1},
               {"seq", in->zeros, QN_SYM_T, 1},
               {"copies", in->ones, QN_SYM_T, 1},
               {"cross_last_pos", in->cross_last_pos, QN_SYM_T, 1},
               {"source", in->numbers, QN_SYM_S, 1},
               {"source_pos", in->numbers, QN_SYM_S, 1},
               {"source_seq", in->zeros, QN_SYM_S, 1},
               {"source_last_pos", in->last_pos, QN_SYM_S, 1},
               {"rows", in->rows, QN_SYM_R, 1},
               {"block_table", in->block_table, QN_SYM_P, 1},
               {"window_table", in->block_table, QN_SYM_P, 1},
               {"sampling", in->sampling, QN_SYM_R, (int64_t)QN_COUNT(greedy)}};
  qn_gpu_param out = {.far = param->far};
  for (size_t i = 0; i < QN_COUNT(known); i++) {
    if (strcmp(known[i].name, param->input) != 0) continue;
    out.data = known[i].data;
    out.count = (size_t)(in->symbols[known[i].symbol] * known[i].each);
  }
  return out;
}

// ---- a kernel

static const predict_variant *variant_for(const predict_kernel *k, int64_t rows) {
  for (int i = 0; i < k->variant_count; i++) {
    const predict_variant *v = &k->variants[i];
    if (k->variant_count == 1 || (rows >= v->rows_min && rows <= v->rows_max)) return v;
  }
  return NULL;
}

static double least(double a, double b) { return a < b ? a : b; }

// What must come from memory in a call: what it loads of weights, keys and values, but each of them once. An op in
// several kernels, as attention, is told of as a whole with each of them, of which some may have nothing to do: so that
// no more is told than is counted, and who loads none of its keys does not compute with them.
static double add_cost(const predict_kernel *k, const predict_variant *v, const qn_gpu_counts *counts,
                       const explain_chunk *chunk, quern_kernel_report *out) {
  quern_kernel_report cost = {0};
  double far = 0, near = 0, n = (double)k->told.steps;
  explain_add_cost(&k->told, chunk, &cost);
  for (size_t i = 0; i < v->kernel->param_count; i++) {
    const qn_gpu_traffic *t = &counts->params[i];
    *(k->params[i].far ? &far : &near) += n * (t->load_bytes + t->store_bytes);
  }
  double memory = least(cost.memory_bytes, far);
  out->calls += cost.calls;
  out->memory_bytes += memory;
  out->value_bytes += least(cost.value_bytes, near);
  if (cost.memory_bytes > 0 && far == 0) return 0;
  out->int8_ops += cost.int8_ops;
  out->fp32_ops += cost.fp32_ops;
  out->other_ops += cost.other_ops;
  return memory / n;
}

// Adds what the kernel's calls in one step take.
static qn_status add_chunk(predicting *p, const predict_kernel *k, const explain_chunk *chunk,
                           quern_kernel_report *out) {
  int64_t rows = explain_rows(&k->told, chunk);
  const predict_variant *v = rows > 0 ? variant_for(k, rows) : NULL;
  if (!v) return QN_OK;
  step_inputs inputs;
  qn_gpu_counts counts;
  predict_time time;
  double n = (double)k->told.steps;
  QN_TRY(make_inputs(p, chunk, &inputs));
  qn_gpu_param *params = QN_ARENA_ARRAY(p->arena, v->kernel->param_count, qn_gpu_param);
  if (!params) return qn_fail_nomem(p->diag, "predict", "a kernel's parameters");
  for (size_t i = 0; i < v->kernel->param_count; i++) params[i] = bind(&k->params[i], &inputs);
  QN_TRY(qn_gpu_count(v->kernel, &v->schedule, params, inputs.symbols, p->arena, &counts, p->diag));
  double memory = add_cost(k, v, &counts, chunk, out);
  QN_TRY(predict_launch(&p->chip, v, &counts, v->kernel->param_count, memory, &time, p->diag));
  out->bandwidth_s += n * time.bandwidth_s;
  out->cache_s += n * time.cache_s;
  out->issue_s += n * time.issue_s;
  out->latency_s += n * time.latency_s;
  out->sync_s += n * time.start_s;
  out->predicted_s += n * time.seconds;
  out->variant = v->name;
  out->schedule = predict_words(&p->chip, v, &counts, p->arena);
  return out->schedule ? QN_OK : qn_fail_nomem(p->diag, "predict", "a kernel's report");
}

static double ideal_s(const predicting *p, const quern_kernel_report *k) {
  return k->int8_ops / p->chip.tensor_int8_ops_per_s + k->fp32_ops / (2 * p->chip.fp32_ops_per_s);
}

// The roofline. What is no multiply-add is one operation where that is two.
static double bound_of(const predicting *p, const quern_kernel_report *k) {
  double memory = k->memory_bytes / p->chip.memory_bytes_per_s, values = k->value_bytes / p->chip.l2_bytes_per_s;
  double arithmetic = ideal_s(p, k) + k->other_ops / p->chip.fp32_ops_per_s;
  double bound = memory > values ? memory : values;
  return bound > arithmetic ? bound : arithmetic;
}

static qn_status predict_kernel_time(predicting *p, const predict_kernel *k, int phase, quern_kernel_report *out) {
  *out = (quern_kernel_report){
      .kernel = k->told.name, .place = k->told.place, .variant = k->told.name, .schedule = "", .tuning = ""};
  for (size_t i = 0; i < p->chunk_count[phase]; i++) QN_TRY(add_chunk(p, k, &p->chunks[phase][i], out));
  out->seconds = out->kernel_s = out->predicted_s;
  out->bound_s = bound_of(p, out);
  out->of_bound = out->seconds > 0 ? out->bound_s / out->seconds : 0;
  out->limit = explain_limit(out);
  return QN_OK;
}

// ---- phases

static int by_time(const void *a, const void *b) {
  double x = ((const quern_kernel_report *)a)->seconds, y = ((const quern_kernel_report *)b)->seconds;
  return (x < y) - (x > y);
}

static qn_status predict_phase(predicting *p, int phase) {
  quern_kernel_report *kernels = QN_ARENA_ARRAY(p->arena, p->kernel_count, quern_kernel_report);
  quern_phase_report *out = &p->e->phases[phase];
  if (!kernels) return qn_fail_nomem(p->diag, "predict", "a phase");
  *out = (quern_phase_report){.name = explain_phase_name(p->kind, phase),
                              .tokens = phase == EXPLAIN_PREFILL ? p->prompt : 1,
                              .depth = phase == EXPLAIN_PREFILL ? 0 : p->depth,
                              .stream_bytes_per_s = p->chip.memory_bytes_per_s,
                              .kernels = kernels};
  double bytes = 0, ideal = 0;
  for (size_t i = 0; i < p->kernel_count; i++) {
    quern_kernel_report *k = &kernels[out->kernel_count];
    QN_TRY(predict_kernel_time(p, &p->kernels[i], phase, k));
    if (k->calls == 0) continue;
    out->kernel_count++;
    out->seconds += k->seconds;
    out->bound_s += k->bound_s;
    bytes += k->memory_bytes;
    ideal += ideal_s(p, k);
  }
  if (out->seconds > 0) {
    out->mbu = bytes / out->seconds / p->chip.memory_bytes_per_s;
    out->mfu = ideal / out->seconds;
  }
  for (size_t i = 0; i < out->kernel_count; i++) kernels[i].share = kernels[i].seconds / out->seconds;
  qsort(kernels, out->kernel_count, sizeof *kernels, by_time);
  return QN_OK;
}

static qn_status plan(predicting *p) {
  explain_sizes sizes = {p->options->prompt_tokens, p->options->depth};
  QN_TRY(explain_plan_sizes(p->kind, p->context, p->symbol_max, p->path, "predict", &sizes, p->diag));
  p->prompt = sizes.prompt;
  p->depth = sizes.depth;
  return explain_plan_chunks(p->kind, &sizes, p->symbol_max, p->arena, p->chunks, p->chunk_count, p->diag);
}

static qn_status tell_chip(predicting *p) {
  quern_explanation *told = &p->e->told;
  const qn_chip *c = &p->chip;
  told->quern = quern_version();
  told->target = qn_arena_printf(p->arena, "cuda:sm_%d", c->sm);
  told->host = qn_arena_strdup(p->arena, c->name);
  told->prediction = qn_arena_printf(
      p->arena,
      "a prediction, nothing was run: bytes and instructions are counted from the kernels' loops, and held against "
      "figures of the %s, %d multiprocessors at %.0f MHz (%s)",
      c->name, c->multiprocessors, c->cycles_per_s * 1e-6, c->source);
  told->read_bytes_per_s = c->memory_bytes_per_s;
  told->int8_ops_per_s = told->target_int8_ops_per_s = c->tensor_int8_ops_per_s;
  told->narrow_ops_per_s = told->target_narrow_ops_per_s = c->tensor_int8_ops_per_s;
  told->fp32_ops_per_s = told->target_fp32_ops_per_s = 2 * c->fp32_ops_per_s;
  told->phase_count = explain_phase_count(p->kind);
  return told->target && told->host && told->prediction ? QN_OK : qn_fail_nomem(p->diag, "predict", "a chip's name");
}

static qn_status find_device(predicting *p) {
  static const char prefix[] = "cuda:";
  const char *device = p->options->device ? p->options->device : "";
  if (strncmp(device, prefix, sizeof prefix - 1) != 0)
    return qn_fail(p->diag, QN_ERR_ARGUMENT, "device", "got '%s', want a chip by kind or name: cuda:sm_90, cuda:H100",
                   device);
  return qn_chip_find(device + sizeof prefix - 1, "device", &p->chip, p->diag);
}

static qn_status predict(predicting *p) {
  QN_TRY(find_device(p));
  QN_TRY(quern_is_artifact(p->path) ? predict_open_artifact(p) : predict_open_model(p));
  QN_TRY(plan(p));
  QN_TRY(tell_chip(p));
  for (size_t phase = 0; phase < p->e->told.phase_count; phase++) QN_TRY(predict_phase(p, (int)phase));
  return QN_OK;
}

int quern_predict(const char *path, const quern_predict_options *options, const quern_explanation **out,
                  quern_error *error) {
  quern_predict_options own;
  qn_diag diag = {0};
  *out = NULL;
  qn_status status = qn_options_take(options, "quern_predict_options", &own, sizeof own, &diag);
  if (status != QN_OK) return quern_give_error(error, &diag, status);
  predicting p = {.options = &own, .e = explanation_create(), .diag = &diag, .path = path};
  if (p.e) p.arena = &p.e->arena;
  status = p.e ? predict(&p) : qn_fail_nomem(&diag, "predict", "an explanation");
  if (status == QN_OK) {
    *out = &p.e->told;
  } else if (p.e) {
    quern_explanation_free(&p.e->told);
  }
  return quern_give_error(error, &diag, status);
}
