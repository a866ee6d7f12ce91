// Rooflines of kernels: bytes and multiply-adds as the cost model counts them, at measured speeds.
#include "frontend/tune_bound.h"

#include <math.h>

quern_roofline quern_roofline_of(const quern_machine_profile *p, int threads, const qn_machine_model *model,
                                 const qn_program *program) {
  quern_roofline r = {.model = model};
  for (size_t i = 0; i < program->buffers.count; i++)
    if (program->buffers.items[i].kind == QN_PB_WEIGHT) r.weight_bytes += program->buffers.items[i].bytes;
  if (!p || p->count == 0 || p->moving_gain <= 0) return r;  // a busy machine's speeds bound nothing
  int at = 0;  // the most threads that were measured, of those not more than asked for
  while (at + 1 < p->count && p->thread_counts[at + 1] <= threads) at++;
  r.known = true;
  r.memory_bytes_per_s = fmax(p->read[QUERN_LEVEL_MEMORY][0][at], p->read[QUERN_LEVEL_MEMORY][1][at]);
  r.cache_bytes_per_s = fmax(p->read[QUERN_LEVEL_L3][0][at], p->read[QUERN_LEVEL_L3][1][at]);
  r.int8_ops_per_s = p->int8[at];
  r.narrow_ops_per_s = p->narrow[at];
  r.f32_ops_per_s = p->fma[at];
  return r;
}

// Weights that a call reads, once each: a table that is only looked up is not among them, and of experts those are that
// its rows may be thought to have.
static double streamed_bytes(const qn_tuning_task *task) {
  double bytes = 0;
  if (!task->kernel->is_matmul) return 0;
  for (size_t i = 0; i < task->kernel->plain->param_count; i++) {
    const qn_pbuf *buffer = &task->program->buffers.items[task->step->buffers[i]];
    bool again = false;
    for (size_t j = 0; j < i; j++) again = again || task->step->buffers[j] == task->step->buffers[i];
    if (buffer->kind == QN_PB_WEIGHT && buffer->layout == QN_LAYOUT_ROWS16 && !again) bytes += (double)buffer->bytes;
  }
  const qn_pkernel *k = task->kernel;
  return k->experts ? bytes * qn_expert_share(k->experts, k->chosen, (double)task->rows) : bytes;
}

// Of the smallest cache that holds so many bytes.
static double value_rate(const quern_roofline *r, double bytes) {
  const qn_machine_model *m = r->model;
  double l2 = m->cores * m->l2_bytes_per_cycle * m->cycles_per_s;
  if (bytes <= m->cores * (double)m->l2_bytes && l2 > 0) return l2;
  if (bytes <= (double)m->l3_bytes && r->cache_bytes_per_s > 0) return r->cache_bytes_per_s;
  return r->memory_bytes_per_s;
}

double quern_roofline_bound(void *context, const qn_tuning_task *task) {
  const quern_roofline *r = context;
  qn_prediction cost;
  if (!r->known) return 0;
  qn_kernel_plan plan = qn_schedule_default(task->kernel, task->rows, r->model);
  qn_schedule_predict(task->kernel, task->rows, &plan.variants[plan.count - 1].schedule, r->model, &cost);
  bool cached = r->weight_bytes <= (uint64_t)r->model->l3_bytes && r->cache_bytes_per_s > 0;
  double weights = streamed_bytes(task), values = fmax(0, cost.bytes - weights);
  double stream_s = weights / (cached ? r->cache_bytes_per_s : r->memory_bytes_per_s);
  bool codes = task->kernel->is_matmul && task->kernel->input == QN_DTYPE_A8;
  const qn_format *format = qn_format_of(task->kernel->weights);
  double peak = !codes                                    ? r->f32_ops_per_s
                : format && qn_format_is_narrow(format) ? r->narrow_ops_per_s
                                                          : r->int8_ops_per_s;
  double issue_s = 2 * cost.macs / peak;
  double bound = fmax(fmax(stream_s, issue_s), values / value_rate(r, values));
  return isfinite(bound) ? bound : 0;
}
