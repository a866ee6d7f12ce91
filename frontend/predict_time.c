// From counts to time: what a launch asks for, held against what the chip gives. The slowest of moving bytes, issuing
// instructions and waiting decides; the others are hidden behind it.
#include "frontend/predict.h"

// What no table of chips says. The share of memory's bandwidth that reads reach was measured to be 0.91 on an H800
// (arXiv:2501.12084) and 0.88 on a B200; bytes a cycle between the second cache and a multiprocessor are those of the
// A100's paper; shared memory takes 29 cycles on all chips measured and 128 bytes a cycle; dependent arithmetic takes 4
// cycles, and half of a kernel's is taken to depend on what is just before it.
#define MEMORY_REACHED 0.9
#define START_S        1e-6  // of a kernel in a CUDA graph that waits for the one before it: a guess
enum { MULTIPROCESSOR_BYTES = 64, SHARED_CYCLES = 29, BARRIER_CYCLES = 30, STEP_CYCLES = 2, SCHEDULERS = 4 };
enum { REGISTERS_ASSUMED = 128 };  // where no machine code tells: the most that kernels are compiled for

static double larger(double a, double b) { return a > b ? a : b; }

static double smaller(double a, double b) { return a < b ? a : b; }

typedef struct spread {
  double blocks;
  int threads, resident, warps;  // of a block; blocks that a multiprocessor holds; warps that it can hold
  double multiprocessors;        // that have work
} spread;

static spread spread_of(const qn_chip *chip, const predict_variant *v, const qn_gpu_counts *counts) {
  spread s = {.threads = v->schedule.lanes * v->schedule.groups};
  int64_t registers = v->registers ? v->registers : REGISTERS_ASSUMED;
  double blocks = counts->groups / v->schedule.groups;
  s.blocks = blocks > (double)(int64_t)blocks ? (double)((int64_t)blocks + 1) : blocks;
  s.blocks = larger(s.blocks, 1);
  s.resident = qn_chip_occupancy(chip->sm, s.threads, v->shared_bytes, registers, &s.warps);
  s.multiprocessors = smaller(s.blocks, chip->multiprocessors);
  return s;
}

// How long a group takes that has no others beside it.
static double path_s(const qn_chip *chip, const qn_gpu_path *path) {
  double cycles = path->shared * SHARED_CYCLES + path->barriers * BARRIER_CYCLES + path->instructions * STEP_CYCLES;
  double work = path->memory * chip->memory_latency_s + path->cache * chip->l2_latency_s + cycles / chip->cycles_per_s;
  return larger(work, path->copies * chip->memory_latency_s);
}

static double issue_s(const qn_chip *chip, const qn_gpu_counts *counts, double part) {
  double issue = counts->instructions / chip->instructions_per_s;
  double fp32 = counts->fp32 * QN_GPU_WARP / chip->fp32_ops_per_s;
  double i32 = counts->i32 * QN_GPU_WARP / chip->i32_ops_per_s;
  double shared = counts->shared_requests / (chip->cycles_per_s * chip->multiprocessors);
  double tensor =
      counts->tensor_int8_ops / chip->tensor_int8_ops_per_s + counts->tensor_f16_ops / chip->tensor_f16_ops_per_s;
  return larger(larger(larger(issue, tensor), fp32), larger(i32, shared)) / part;
}

qn_status predict_launch(const qn_chip *chip, const predict_variant *variant, const qn_gpu_counts *counts,
                         size_t param_count, double memory_bytes, predict_time *out, qn_diag *diag) {
  spread s = spread_of(chip, variant, counts);
  if (s.resident == 0) {
    return qn_fail(diag, QN_ERR_TARGET, variant->name,
                   "a block of %d threads with %lld bytes of shared memory does not fit a multiprocessor of the %s",
                   s.threads, (long long)variant->shared_bytes, chip->name);
  }
  double sectors = 0, part = s.multiprocessors / chip->multiprocessors;
  for (size_t i = 0; i < param_count; i++) sectors += counts->params[i].load_sectors + counts->params[i].store_sectors;
  double l2 = smaller(chip->l2_bytes_per_s, s.multiprocessors * MULTIPROCESSOR_BYTES * chip->cycles_per_s);
  double at_once = (double)chip->multiprocessors * s.resident * variant->schedule.groups;
  *out = (predict_time){
      .bandwidth_s = memory_bytes / (MEMORY_REACHED * chip->memory_bytes_per_s),
      .cache_s = sectors * QN_GPU_SECTOR / l2,
      .issue_s = issue_s(chip, counts, part),
      .latency_s = larger(path_s(chip, &counts->longest), path_s(chip, &counts->all) / at_once),
      .start_s = START_S,
  };
  out->seconds = larger(larger(out->bandwidth_s, out->cache_s), larger(out->issue_s, out->latency_s)) + out->start_s;
  return QN_OK;
}

// "lanes = 16; groups = 2; ...; "
static void put_schedule(const qn_gpu_schedule *schedule, qn_buf *out) {
  qn_buf lines;
  qn_buf_init(&lines, out->allocator);
  qn_gpu_schedule_print(schedule, &lines);
  for (size_t i = 0; i < lines.length; i++) {
    if (lines.data[i] == '\n')
      qn_buf_puts(out, "; ");
    else
      qn_buf_putc(out, lines.data[i]);
  }
  if (lines.failed) out->failed = true;
  qn_buf_deinit(&lines);
}

const char *predict_words(const qn_chip *chip, const predict_variant *variant, const qn_gpu_counts *counts,
                          qn_arena *arena) {
  spread s = spread_of(chip, variant, counts);
  double warps = (double)s.resident * ((s.threads + QN_GPU_WARP - 1) / QN_GPU_WARP);
  qn_buf out;
  qn_buf_init(&out, arena->allocator);
  put_schedule(&variant->schedule, &out);
  qn_buf_printf(&out, "%.0f block%s of %d threads on %.0f of %d multiprocessors; %lld bytes of shared memory; ",
                s.blocks, s.blocks > 1 ? "s" : "", s.threads, s.multiprocessors, chip->multiprocessors,
                (long long)variant->shared_bytes);
  if (variant->registers)
    qn_buf_printf(&out, "%lld registers", (long long)variant->registers);
  else
    qn_buf_printf(&out, "registers not known, %d assumed", REGISTERS_ASSUMED);
  qn_buf_printf(&out, "; room for %.0f %% of the warps", 100 * warps / s.warps);
  if (counts->left_out > 0) qn_buf_puts(&out, "; without loops whose length only values tell");
  const char *words = out.failed ? NULL : qn_arena_strdup(arena, qn_buf_text(&out));
  qn_buf_deinit(&out);
  return words;
}
