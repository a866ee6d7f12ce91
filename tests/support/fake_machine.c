// A surface: every knob's distance from the planted value costs, by a weight of its own; tiles that do not fit the
// registers and blocks that do not fit the second cache cost more; and a ripple of up to 2 % that nothing explains.
#include "tests/support/fake_machine.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "passes/pass.h"
#include "runtime/base/hash.h"
#include "runtime/topology.h"
#include "tests/support/graph_text.h"
#include "tests/support/test.h"

static uint64_t mix(const qn_fake_machine *m, uint64_t salt) {
  uint64_t state = m->seed * 0x9E3779B97F4A7C15u + salt + (uint64_t)m->task.rows * 977;
  state ^= qn_hash64(m->task.kernel->signature, strlen(m->task.kernel->signature), salt);
  return qn_splitmix64(&state);
}

static double unit(uint64_t bits) { return (double)(bits >> 11) * 0x1p-53; }

// A tile's accumulators beyond the registers, and a block of panels beyond half of the second cache, as shares.
static double excess(const qn_fake_machine *m, const qn_schedule *s) {
  double vectors = 16.0 * sizeof(float) / m->model->vector_bytes;
  double registers = s->m_tiles[0] * s->n_tile * vectors / m->model->vector_registers;
  double bytes = (double)s->n_block * s->n_tile * 16 * 2048 * 4.5 / 8, cache = 0.5 * (double)m->model->l2_bytes;
  double over = registers > 1 ? registers - 1 : 0;
  return over + (bytes > cache ? 0.5 * log2(bytes / cache) : 0);
}

void qn_fake_machine_face(qn_fake_machine *m, const qn_tuning_task *task) {
  qn_diag diag = {0};
  m->task = *task;
  qn_kernel_plan plan = qn_schedule_default(task->kernel, task->rows_max, m->model);
  qn_schedule start = plan.variants[plan.count - 1].schedule;
  for (int i = 0; i < plan.count; i++)
    if (plan.variants[i].rows_min <= task->rows && task->rows <= plan.variants[i].rows_max)
      start = plan.variants[i].schedule;
  qn_assert_ok(&diag, qn_space_init(&m->space, task->kernel, task->rows_min, task->rows_max, &start, &diag));
  qn_rng rng;
  qn_rng_seed(&rng, mix(m, 1));
  for (int i = 0; i < 1000; i++) {
    qn_check(qn_space_random(&m->space, &rng, &m->planted), "no legal schedule");
    if (excess(m, &m->planted) == 0) return;
  }
  qn_check(false, "no schedule fits the caches");
}

double qn_fake_machine_cost(const qn_fake_machine *m, const qn_schedule *schedule) {
  if (m->cost) return m->cost(m, schedule);
  double at[QN_SURROGATE_DIMS], best[QN_SURROGATE_DIMS], cost = 0;
  qn_space_point(&m->space, schedule, at);
  qn_space_point(&m->space, &m->planted, best);
  for (int d = 0; d < m->space.dims; d++) {
    double weight = 0.02 + 0.16 * unit(mix(m, 100 + (uint64_t)d)), from = fabs(at[d] - best[d]);
    cost += weight * from * (from < 2 ? from : 2) / 2;  // a bowl, then a slope
  }
  cost += 0.5 * excess(m, schedule);
  if (!qn_schedule_equal(schedule, &m->planted)) {
    uint64_t bytes = qn_hash64(at, sizeof(double) * (size_t)m->space.dims, m->seed);
    cost += 0.02 * unit(qn_splitmix64(&bytes));
  }
  return m->best_s * exp(cost < 4 ? cost : 4);  // what is slower than that would be stopped as hung
}

// --- the measurer

static qn_status begin(void *self, const qn_tuning_task *task, qn_diag *diag) {
  qn_fake_machine *m = self;
  (void)diag;
  qn_check(!m->begun, "a task begins while another is under way");
  qn_fake_machine_face(m, task);
  m->begun = true;
  m->settings[0] = m->settings[1] = (qn_setting){.spin_us = -1};
  m->prepared_count = 0;
  return QN_OK;
}

static void end(void *self) {
  qn_fake_machine *m = self;
  qn_check(m->begun, "a task ends that has not begun");
  m->begun = false;
}

// Lets time pass; false when the deadline comes before all of it has.
static bool pass(qn_fake_machine *m, double seconds) {
  bool fits = m->clock + seconds <= m->deadline;
  if (fits) m->clock += seconds;
  if (!fits && m->clock < m->deadline) m->clock = m->deadline;
  return fits;
}

static void limit(void *self, double deadline) { ((qn_fake_machine *)self)->deadline = deadline; }

static qn_status prepare(void *self, const qn_schedule *schedules, int count, qn_measured *out, qn_diag *diag) {
  qn_fake_machine *m = self;
  if (m->too_large && m->too_large(&m->task)) return qn_fail_nomem(diag, m->task.kernel->name, "its weights");
  for (int i = 0; i < count; i++) {
    qn_check(m->begun && m->prepared_count < (int)QN_COUNT(m->prepared), "no room for candidates");
    qn_check(qn_space_is_legal(&m->space, &schedules[i]), "an illegal schedule is proposed");
    m->prepared[m->prepared_count++] = schedules[i];
    out[i] = (qn_measured){.verdict = m->judge ? m->judge(&schedules[i]) : QN_VERDICT_OK};
    bool hangs = m->hangs && m->hangs(&schedules[i]);
    if (hangs) out[i].verdict = QN_VERDICT_HUNG;
    if (out[i].verdict != QN_VERDICT_OK) snprintf(out[i].evidence, sizeof out[i].evidence, "planted");
    out[i].cut = !pass(m, m->compile_s + m->check_s + (hangs ? m->hang_s : 0));
    m->candidates++;
  }
  return QN_OK;
}

static double normal(qn_rng *rng) {
  double radius = sqrt(-2 * log(1 - qn_rng_unit(rng)));
  return radius * cos(2 * M_PI * qn_rng_unit(rng));
}

static void set(void *self, const qn_setting settings[2]) {
  qn_fake_machine *m = self;
  qn_check(m->begun, "settings without a task");
  memcpy(m->settings, settings, sizeof m->settings);
}

static double factor_of(const qn_fake_machine *m, qn_setting setting) {
  if (m->factor) return m->factor(m, setting);
  return setting.threads > 0 ? (double)m->task.threads / setting.threads : 1;
}

static qn_status pair(void *self, int a, int b, int rounds, double *out_seconds, qn_measured out[2], qn_diag *diag) {
  qn_fake_machine *m = self;
  const qn_schedule *schedules[2] = {&m->prepared[a], &m->prepared[b]};
  (void)diag;
  out[0] = out[1] = (qn_measured){.verdict = QN_VERDICT_OK};
  for (int i = 0; i < 2; i++) {
    if (!m->dies || !m->dies(schedules[i])) continue;
    out[i].verdict = QN_VERDICT_CRASHED;
    memset(out_seconds, 0, (size_t)rounds * 2 * sizeof *out_seconds);
    return QN_OK;
  }
  for (int i = 0; i < 2 * rounds; i++) {
    double factor = 1 + m->noise * normal(&m->rng);
    out_seconds[i] = qn_fake_machine_cost(m, schedules[i % 2]) * factor_of(m, m->settings[i % 2]);
    out_seconds[i] *= factor > 0.2 ? factor : 0.2;
    if (!pass(m, out_seconds[i])) {
      out[0].cut = out[1].cut = true;
      memset(out_seconds, 0, (size_t)rounds * 2 * sizeof *out_seconds);
      return QN_OK;
    }
  }
  m->pairs += rounds;
  return QN_OK;
}

static double now(void *self) { return ((qn_fake_machine *)self)->clock; }

void qn_fake_machine_init(qn_fake_machine *m, const qn_machine_model *model, uint64_t seed, double noise) {
  *m = (qn_fake_machine){.model = model, .seed = seed, .noise = noise};
  m->best_s = 1e-3;
  m->compile_s = 0.1;
  m->check_s = 0.01;
  m->hang_s = 10;
  m->deadline = HUGE_VAL;
  qn_rng_seed(&m->rng, seed ^ 0xFA4E);
  m->measurer = (qn_measurer){m, begin, prepare, pair, set, end, now, limit};
}

qn_machine_model qn_fake_machine_model(void) {
  const qn_topology *topology = qn_topology_get();
  qn_machine_model model = qn_machine_model_plain(32, 16, 0, (int64_t)topology->l2_bytes);
  model.l1_bytes = (int64_t)topology->l1d_bytes;
  model.l3_bytes = (int64_t)topology->l3_bytes;
  return model;
}

// --- kernels

const qn_program *qn_fake_program(qn_arena *arena) {
  static const char text[] =
      "max T=256 R=1\n"
      "x = input f32[T,1024]; norm = param f32[1024]; a = rmsnorm x norm eps=1e-5; w = param q4_0[2048,1024]\n"
      "b = matmul a w; c = silu b; w2 = param q4_0[1024,2048]; d = matmul c w2; y = add x d\n"
      "last = gather_rows y rows; w3 = param q8_0[4096,1024]; logits = matmul last w3\n"
      "output logits";
  static const qn_pass_options options = {.quantize_activations = true,
                                          .machine = {.vector_bytes = 32, .vector_registers = 16}};
  static qn_diag diag;
  qn_pass_context context = {.arena = arena, .allocator = arena->allocator, .options = &options, .diag = &diag};
  qn_assert_ok(&diag, qn_graph_from_text(text, NULL, arena, &context.graph, &diag));
  qn_assert_ok(&diag, qn_run_passes_until(&context, "plan_memory"));
  return context.program;
}

const qn_pkernel *qn_fake_matmul(const qn_program *program) {
  for (size_t i = 0; i < program->kernels.count; i++)
    if (program->kernels.items[i].is_matmul) return &program->kernels.items[i];
  qn_check(false, "no matmul");
  return NULL;
}

qn_tuning_task qn_fake_task(const qn_program *program, const qn_pkernel *kernel, int64_t rows_min, int64_t rows_max,
                            int64_t rows) {
  qn_tuning_task task = {.program = program,
                         .kernel = kernel,
                         .rows_min = rows_min,
                         .rows_max = rows_max,
                         .rows = rows,
                         .keys = 64,
                         .threads = 2,
                         .weight = 1};
  for (size_t i = 0; i < program->steps.count; i++)
    if (&program->kernels.items[program->steps.items[i].kernel] == kernel) task.step = &program->steps.items[i];
  return task;
}
