// The tables of chips, and occupancy by them.
#include "codegen/cuda/chip.h"

#include <stdio.h>
#include <string.h>

static const struct {
  int sm, warps, blocks, shared_kib, block_shared_kib;
} CAPABILITIES[] = {
#define QN_CAPABILITY(sm, warps, blocks, shared, block_shared) {sm, warps, blocks, shared, block_shared},
#define QN_CHIP(name, sm, mps, mhz, gbs, l2, l2_bytes, fp32, i32, int8, f16, l2_ns, ns, source)
#include "codegen/cuda/chip.def"
#undef QN_CAPABILITY
#undef QN_CHIP
};

static const struct {
  const char *name;
  int sm, multiprocessors;
  double mhz, gb_per_s;
  int64_t l2_mib;
  double l2_bytes, fp32, i32, int8, f16, l2_ns, memory_ns;
  const char *source;
} CHIPS[] = {
#define QN_CAPABILITY(sm, warps, blocks, shared, block_shared)
#define QN_CHIP(name, sm, mps, mhz, gbs, l2, l2_bytes, fp32, i32, int8, f16, l2_ns, ns, source) \
  {name, sm, mps, mhz, gbs, l2, l2_bytes, fp32, i32, int8, f16, l2_ns, ns, source},
#include "codegen/cuda/chip.def"
#undef QN_CAPABILITY
#undef QN_CHIP
};

enum { SCHEDULERS = 4, WARP = 32, REGISTERS = 65536, REGISTER_UNIT = 256, SHARED_UNIT = 128, SHARED_RESERVED = 1024 };

size_t qn_chip_count(void) { return QN_COUNT(CHIPS); }

qn_chip qn_chip_at(size_t index) {
  double cycles = CHIPS[index].mhz * 1e6, all = cycles * CHIPS[index].multiprocessors;
  return (qn_chip){.name = CHIPS[index].name,
                   .source = CHIPS[index].source,
                   .sm = CHIPS[index].sm,
                   .multiprocessors = CHIPS[index].multiprocessors,
                   .cycles_per_s = cycles,
                   .memory_bytes_per_s = CHIPS[index].gb_per_s * 1e9,
                   .l2_bytes_per_s = CHIPS[index].l2_bytes * cycles,
                   .l2_bytes = CHIPS[index].l2_mib << 20,
                   .l2_latency_s = CHIPS[index].l2_ns * 1e-9,
                   .memory_latency_s = CHIPS[index].memory_ns * 1e-9,
                   .instructions_per_s = SCHEDULERS * all,
                   .fp32_ops_per_s = CHIPS[index].fp32 * all,
                   .i32_ops_per_s = CHIPS[index].i32 * all,
                   .tensor_int8_ops_per_s = CHIPS[index].int8 * all,
                   .tensor_f16_ops_per_s = CHIPS[index].f16 * all};
}

qn_status qn_chip_find(const char *name, const char *where, qn_chip *out, qn_diag *diag) {
  qn_buf known;
  char by_sm[16];
  qn_buf_init(&known, qn_allocator_default());
  for (size_t i = 0; i < QN_COUNT(CHIPS); i++) {
    snprintf(by_sm, sizeof by_sm, "sm_%d", CHIPS[i].sm);
    bool first = i == 0 || CHIPS[i].sm != CHIPS[i - 1].sm;
    if (strcmp(name, CHIPS[i].name) == 0 || (first && strcmp(name, by_sm) == 0)) {
      *out = qn_chip_at(i);
      qn_buf_deinit(&known);
      return QN_OK;
    }
    if (first) qn_buf_printf(&known, "%s%s", known.length ? ", " : "", by_sm);
    qn_buf_printf(&known, ", %s", CHIPS[i].name);
  }
  qn_status status =
      qn_fail(diag, QN_ERR_ARGUMENT, where, "no chip '%s' is known; want one of %s", name, qn_buf_text(&known));
  qn_buf_deinit(&known);
  return status;
}

static int least(int a, int b) { return a < b ? a : b; }

// CUDA's occupancy calculator (cuda_occupancy.h) for capabilities from 8.0 on: a warp's registers are given out in
// units from one of four parts of the file, and each block takes a kibibyte of shared memory beside its own.
int qn_chip_occupancy(int sm, int threads, int64_t shared_bytes, int64_t registers, int *out_warps) {
  if (out_warps) *out_warps = 0;
  for (size_t i = 0; i < QN_COUNT(CAPABILITIES); i++) {
    if (CAPABILITIES[i].sm != sm) continue;
    if (out_warps) *out_warps = CAPABILITIES[i].warps;
    int warps = (threads + WARP - 1) / WARP;
    int64_t unit = (registers * WARP + REGISTER_UNIT - 1) / REGISTER_UNIT * REGISTER_UNIT;
    int64_t shared = (shared_bytes + SHARED_RESERVED + SHARED_UNIT - 1) / SHARED_UNIT * SHARED_UNIT;
    if (threads < 1 || shared_bytes > (int64_t)CAPABILITIES[i].block_shared_kib << 10) return 0;
    int blocks = least(CAPABILITIES[i].blocks, CAPABILITIES[i].warps / warps);
    if (unit > 0) blocks = least(blocks, (int)(REGISTERS / SCHEDULERS / unit) * SCHEDULERS / warps);
    return least(blocks, (int)(((int64_t)CAPABILITIES[i].shared_kib << 10) / shared));
  }
  return 0;
}
