// What the measured times are made of: costs by kernel, the roofline's bounds, and the terms of the compiler's model of
// the machine beside what was measured.
#include <stdlib.h>
#include <string.h>

#include "frontend/explain.h"
#include "runtime/base/window.h"

// What is limited by a term of this share of the time is told to be limited by another kind of instructions.
#define FALLBACK_SHARE 0.1

static const quern_explain_term terms[] = {
#define TERM(name, field, meaning) \
  { name, offsetof(quern_kernel_report, field), meaning }
    TERM("bandwidth", bandwidth_s, "reading weights, keys and values from memory"),
    TERM("cache", cache_s, "moving what is in the caches"),
    TERM("issue", issue_s, "issuing the instructions"),
    TERM("fallback ISA", fallback_s, "of issuing, what better instructions of this CPU would save"),
    TERM("latency", latency_s, "waiting for results, beyond issuing"),
    TERM("synchronisation", sync_s, "threads that wait for the last one, and meet; of a GPU, kernels that start"),
    TERM("page faults", fault_s, "pages that were not mapped, or not in memory"),
    TERM("not explained", unexplained_s, "measured beyond what all of these predict together"),
#undef TERM
};

const quern_explain_term *quern_explain_terms(size_t *out_count) {
  *out_count = QN_COUNT(terms);
  return terms;
}

static double term_of(const quern_kernel_report *k, size_t i) {
  double value;
  memcpy(&value, (const char *)k + terms[i].offset, sizeof value);
  return value;
}

// Issuing with the instructions of a target that is not the machine's best is one term in two parts: the part that
// better ones would save names it, where it is worth naming.
const char *explain_limit(const quern_kernel_report *k) {
  quern_kernel_report judged = *k;
  bool falls_back = k->fallback_s > FALLBACK_SHARE * (k->issue_s + k->fallback_s);
  double issuing = k->issue_s + k->fallback_s;
  judged.issue_s = falls_back ? 0 : issuing;
  judged.fallback_s = falls_back ? issuing : 0;
  size_t best = 0;
  for (size_t i = 1; i < QN_COUNT(terms); i++) {
    if (term_of(&judged, i) > term_of(&judged, best)) best = i;
  }
  return terms[best].name;
}

// ---- costs and bounds

int64_t explain_rows(const explain_kernel *k, const explain_chunk *chunk) {
  if ((k->cost.of_source != 0) != chunk->of_source) return 0;
  return k->cost.of_rows ? chunk->rows : chunk->tokens;
}

double explain_pairs(const quern_kernel_cost *c, const explain_chunk *chunk) {
  double t = (double)chunk->tokens;
  return c->cross ? t * (double)chunk->source : qn_window_pairs((double)c->window, (double)c->ahead, (double)chunk->depth, t);
}

void explain_add_cost(const explain_kernel *k, const explain_chunk *chunk, quern_kernel_report *out) {
  if (explain_rows(k, chunk) == 0) return;
  const quern_kernel_cost *c = &k->cost;
  double n = (double)k->steps, t = (double)chunk->tokens, r = (double)chunk->rows;
  double pairs = explain_pairs(c, chunk);
  double keys = c->cross ? (double)chunk->source : qn_window_keys((double)c->window, (double)chunk->depth, t);
  out->calls += k->steps;
  out->memory_bytes += n * ((double)c->weight_bytes + (double)c->token_bytes * t + (double)c->key_bytes * keys);
  out->value_bytes +=
      n * ((double)c->value_bytes_token * t + (double)c->value_bytes_row * r + (double)c->value_bytes_pair * pairs);
  out->int8_ops +=
      2 * n * ((double)c->int8_macs_token * t + (double)c->int8_macs_row * r + (double)c->int8_macs_pair * pairs);
  out->fp32_ops +=
      2 * n * ((double)c->f32_macs_token * t + (double)c->f32_macs_row * r + (double)c->f32_macs_pair * pairs);
  out->other_ops += n * ((double)c->flops_token * t + (double)c->flops_row * r + (double)c->flops_pair * pairs);
}

// Bytes a second at which all cores move so many bytes between kernels: of the smallest cache that holds them.
static double value_rate(const qn_machine_model *m, double bytes) {
  double cores = m->cores, l2 = m->l2_bytes_per_cycle, l3 = m->l3_bytes_per_cycle;
  if (bytes <= cores * (double)m->l2_bytes && l2 > 0) return cores * l2 * m->cycles_per_s;
  if (bytes <= (double)m->l3_bytes && l3 > 0) return cores * l3 * m->cycles_per_s;
  return m->memory_bytes_per_s;
}

// Where weights, keys and values come from: the last cache, where all that a step reads stays in it.
static void choose_stream(explaining *x, int phase, double step_bytes) {
  qn_machine_model *m = &x->machine;
  *m = x->memory_machine;
  m->cores = x->phase_threads[phase];
  double core = m->l3_bytes_per_cycle * m->cycles_per_s;
  if (step_bytes >= (double)m->l3_bytes || m->cores * core <= x->rates.read) return;
  m->memory_bytes_per_s = m->cores * core;
  m->core_bytes_per_s = core;
  m->stream_alone = m->stream_ahead = m->stream_far = m->neighbours = 1;  // these are memory's, as is its latency
  m->memory_latency_s = 0;
}

// Of the kernel's operations on codes those by codes of few bits.
static double narrow_ops(const explaining *x, const explain_kernel *k, int phase) {
  double macs = 0;
  for (size_t i = 0; i < x->chunk_count[phase]; i++) {
    const explain_chunk *chunk = &x->chunks[phase][i];
    if (explain_rows(k, chunk) == 0) continue;
    const quern_kernel_cost *c = &k->cost;
    macs += (double)c->narrow_macs_token * (double)chunk->tokens + (double)c->narrow_macs_row * (double)chunk->rows +
            (double)c->narrow_macs_pair * explain_pairs(c, chunk);
  }
  return 2 * macs * (double)k->steps;
}

// Seconds that multiply-adds take at such peaks, `narrow` of them by codes of few bits.
typedef struct peaks {
  double int8, narrow, fp32;
} peaks;
static double ideal_s(const quern_kernel_report *k, double narrow, peaks p) {
  return (k->int8_ops - narrow) / p.int8 + narrow / p.narrow + k->fp32_ops / p.fp32;
}

static peaks host_peaks(const explaining *x) { return (peaks){x->rates.int8, x->rates.narrow, x->rates.fp32}; }
static peaks target_peaks(const explaining *x) {
  return (peaks){x->rates.target_int8, x->rates.target_narrow, x->rates.target_fp32};
}

// The roofline: memory, the caches and the arithmetic units, each at its peak, at the same time. What is no
// multiply-add is one operation where that is two.
static double bound_of(const explaining *x, const quern_kernel_report *k, double narrow) {
  double memory = k->memory_bytes / x->machine.memory_bytes_per_s;
  double calls = k->calls ? (double)k->calls : 1;
  double values = k->value_bytes / value_rate(&x->machine, k->value_bytes / calls);
  double arithmetic = ideal_s(k, narrow, host_peaks(x)) + 2 * k->other_ops / x->rates.fp32;
  double bound = memory > values ? memory : values;
  return bound > arithmetic ? bound : arithmetic;
}

// ---- the model's terms

static const qn_art_variant *variant_for(const explaining *x, const explain_kernel *k, int64_t rows) {
  const qn_art_slice *slice = &x->slices[k->slice];
  const qn_art_variant *v = &x->model->artifact.variants[slice->first_variant];
  for (uint32_t i = 0; i < slice->variant_count; i++) {
    if (slice->variant_count == 1 || (rows >= v[i].rows_min && rows <= v[i].rows_max)) return &v[i];
  }
  return NULL;
}

static const char *schedule_line(explaining *x, const qn_schedule *schedule) {
  qn_buf text;
  qn_buf_init(&text, qn_allocator_default());
  qn_schedule_print(schedule, &text);
  qn_buf line;
  qn_buf_init(&line, qn_allocator_default());
  for (size_t i = 0; i < text.length; i++) {
    if (text.data[i] != '\n') {
      qn_buf_putc(&line, text.data[i]);
    } else if (i + 1 < text.length) {
      qn_buf_puts(&line, "; ");
    }
  }
  const char *copy = text.failed || line.failed ? NULL : qn_arena_strdup(x->arena, qn_buf_text(&line));
  qn_buf_deinit(&text);
  qn_buf_deinit(&line);
  return copy;
}

static qn_status add_prediction(explaining *x, const explain_kernel *k, const explain_chunk *chunk, int64_t *most,
                                quern_kernel_report *out, double *sync_s) {
  int64_t rows = explain_rows(k, chunk);
  const qn_art_variant *variant = rows > 0 ? variant_for(x, k, rows) : NULL;
  const qn_artifact *a = &x->model->artifact;
  if (!variant) return QN_OK;
  qn_schedule schedule;
  qn_prediction p;
  const char *name = a->strings + variant->name;
  QN_TRY(quern_read_schedule(a->path, x->text, x->plan, name, &schedule, x->diag));
  qn_schedule_predict(&k->facts, rows, &schedule, &x->machine, &p);
  double n = (double)k->steps;
  // Attention is predicted with some number of keys: all but what threads pay to meet goes with them.
  double meet = x->machine.barrier_s < p.sync_s ? x->machine.barrier_s : p.sync_s;
  double pair_macs = (double)(k->cost.f32_macs_pair + k->cost.int8_macs_pair);
  double macs = pair_macs > 0 && p.macs > 0 ? pair_macs * explain_pairs(&k->cost, chunk) / p.macs : 1;
  out->bandwidth_s += n * p.memory_s * macs;
  out->cache_s += n * p.cache_s * macs;
  out->issue_s += n * p.issue_s * macs;
  out->latency_s += n * p.latency_s * macs;
  out->predicted_s += n * ((p.seconds - meet) * macs + meet);
  *sync_s += n * ((p.sync_s - meet) * macs + meet);
  if (rows > *most) {
    *most = rows;
    out->variant = explain_text(x->arena, qn_str_from(name));
    out->schedule = schedule_line(x, &schedule);
    if (!out->variant || !out->schedule) return qn_fail_nomem(x->diag, "explain", "a schedule");
  }
  return QN_OK;
}

// How much of issuing the target's instructions cost beyond the host's.
static double lost_share(const explaining *x, const quern_kernel_report *k, double narrow) {
  double own = ideal_s(k, narrow, target_peaks(x)), best = ideal_s(k, narrow, host_peaks(x));
  if (k->int8_ops + k->fp32_ops <= 0) return 1 - x->rates.target_fp32 / x->rates.fp32;
  return own > best && own > 0 ? 1 - best / own : 0;
}

// Threads that get work of the kernel, by the extent of its parallel loop.
static double workers(const explaining *x, const explain_kernel *k, int phase) {
  double most = 1;
  for (size_t i = 0; i < x->chunk_count[phase]; i++) {
    const explain_chunk *chunk = &x->chunks[phase][i];
    const qn_art_variant *v = variant_for(x, k, explain_rows(k, chunk));
    if (!v) continue;
    bool by_tokens = v->extent_symbol == QN_SYM_T || v->extent_symbol == QN_SYM_S;
    double symbol = by_tokens ? (double)chunk->tokens : v->extent_symbol == QN_SYM_R ? (double)chunk->rows : 1;
    double extent = (double)v->extent_value * symbol;
    if (extent > most) most = extent;
  }
  return most < x->phase_threads[phase] ? most : x->phase_threads[phase];
}

static void take_measured(const explaining *x, size_t kernel, int phase, quern_kernel_report *out) {
  const explain_samples *s = &x->samples[phase];
  out->seconds = explain_undisturbed(s->wall + kernel * s->most_runs, s->runs);
  out->kernel_s =
      explain_undisturbed(s->busy + kernel * s->most_runs, s->runs) / workers(x, &x->kernels[kernel], phase);
  if (out->kernel_s > out->seconds) out->kernel_s = out->seconds;  // what each thread does for itself
  out->wait_s = out->seconds - out->kernel_s;
  out->fault_s = s->faults[kernel] * x->fault_s;
}

static quern_kernel_report cost_of(const explaining *x, const explain_kernel *k, int phase) {
  quern_kernel_report out = {.kernel = k->name, .place = k->place, .variant = k->name, .schedule = "", .tuning = ""};
  for (size_t i = 0; i < x->chunk_count[phase]; i++) explain_add_cost(k, &x->chunks[phase][i], &out);
  return out;
}

// *ideal grows by what its multiply-adds would take at the peaks.
static qn_status explain_kernel_time(explaining *x, size_t index, int phase, quern_kernel_report *out, double *ideal) {
  const explain_kernel *k = &x->kernels[index];
  double sync_s = 0, narrow = narrow_ops(x, k, phase);
  int64_t most = 0;
  take_measured(x, index, phase, out);
  for (size_t i = 0; i < x->chunk_count[phase]; i++)
    QN_TRY(add_prediction(x, k, &x->chunks[phase][i], &most, out, &sync_s));
  double lost = x->same_isa ? 0 : lost_share(x, out, narrow);
  if (lost > 0) {
    out->fallback_s = out->issue_s * lost;
    out->issue_s -= out->fallback_s;
  }
  out->sync_s = out->wait_s > sync_s ? out->wait_s : sync_s;
  out->predicted_s += out->sync_s - sync_s + out->fault_s;
  if (out->seconds > out->predicted_s) out->unexplained_s = out->seconds - out->predicted_s;
  out->bound_s = bound_of(x, out, narrow);
  *ideal += ideal_s(out, narrow, host_peaks(x));
  out->of_bound = out->seconds > 0 ? out->bound_s / out->seconds : 0;
  out->limit = explain_limit(out);
  return QN_OK;
}

// ---- phases

static int by_time(const void *a, const void *b) {
  double x = ((const quern_kernel_report *)a)->seconds, y = ((const quern_kernel_report *)b)->seconds;
  return (x < y) - (x > y);
}

// Bytes and multiply-adds of the whole against what the machine gives in the time.
static void take_whole(const explaining *x, const quern_kernel_report *kernels, double ideal, quern_phase_report *p) {
  double bytes = 0;
  for (size_t i = 0; i < p->kernel_count; i++) {
    bytes += kernels[i].memory_bytes;
    p->bound_s += kernels[i].bound_s;
  }
  if (p->seconds <= 0) return;
  p->mbu = bytes / p->seconds / x->rates.read;
  p->mfu = ideal / p->seconds;
}

static qn_status report_phase(explaining *x, int phase) {
  explain_samples *s = &x->samples[phase];
  quern_phase_report *p = &x->e->phases[phase];
  quern_kernel_report *kernels = QN_ARENA_ARRAY(x->arena, x->kernel_count, quern_kernel_report);
  if (!kernels) return qn_fail_nomem(x->diag, "explain", "a phase");
  *p = (quern_phase_report){.name = explain_phase_name(x->kind, phase),
                            .threads = x->phase_threads[phase],
                            .tokens = phase == EXPLAIN_PREFILL ? x->prompt : 1,
                            .depth = phase == EXPLAIN_PREFILL ? 0 : x->depth,
                            .seconds = explain_undisturbed(s->total, s->runs),
                            .outside_s = explain_undisturbed(s->outside, s->runs),
                            .first_s = s->first_s,
                            .first_minor_faults = s->first_minor,
                            .first_major_faults = s->first_major,
                            .minor_faults = explain_undisturbed(s->minor, s->runs),
                            .major_faults = explain_undisturbed(s->major, s->runs),
                            .interrupted = explain_undisturbed(s->interrupted, s->runs),
                            .kernels = kernels};
  double step_bytes = 0, ideal = 0;
  for (size_t i = 0; i < x->kernel_count; i++)
    step_bytes += cost_of(x, &x->kernels[i], phase).memory_bytes / (double)x->chunk_count[phase];
  choose_stream(x, phase, step_bytes);
  p->stream_bytes_per_s = x->machine.memory_bytes_per_s;
  for (size_t i = 0; i < x->kernel_count; i++) {
    quern_kernel_report *k = &kernels[p->kernel_count];
    *k = cost_of(x, &x->kernels[i], phase);
    if (k->calls == 0) continue;
    QN_TRY(explain_kernel_time(x, i, phase, k, &ideal));
    p->kernel_count++;
  }
  take_whole(x, kernels, ideal, p);
  double sum = p->outside_s;
  for (size_t i = 0; i < p->kernel_count; i++) sum += kernels[i].seconds;
  for (size_t i = 0; i < p->kernel_count; i++) kernels[i].share = sum > 0 ? kernels[i].seconds / sum : 0;
  qsort(kernels, p->kernel_count, sizeof *kernels, by_time);
  return QN_OK;
}

qn_status explain_terms(explaining *x) {
  quern_explanation *told = &x->e->told;
  told->threads = x->threads;
  told->read_bytes_per_s = x->rates.read;
  told->int8_ops_per_s = x->rates.int8;
  told->narrow_ops_per_s = x->rates.narrow;
  told->fp32_ops_per_s = x->rates.fp32;
  told->target_int8_ops_per_s = x->rates.target_int8;
  told->target_narrow_ops_per_s = x->rates.target_narrow;
  told->target_fp32_ops_per_s = x->rates.target_fp32;
  told->fault_s = x->fault_s;
  told->phase_count = explain_phase_count(x->kind);
  for (size_t phase = 0; phase < told->phase_count; phase++) QN_TRY(report_phase(x, (int)phase));
  return QN_OK;
}
