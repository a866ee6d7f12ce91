// The table of chips, and occupancy: the numbers that CUDA's own calculator (cuda_occupancy.h of CUDA 13.0) gives.
#include <math.h>
#include <stdio.h>

#include "codegen/cuda/chip.h"
#include "tests/support/test.h"

static const struct {
  int sm, threads, registers, blocks;
  int64_t shared;
} occupancy[] = {
    {80, 128, 32, 16, 0},      {80, 128, 40, 12, 0},     {80, 32, 32, 32, 0},      {80, 1024, 64, 1, 0},
    {80, 256, 255, 1, 0},      {80, 128, 32, 3, 49152},  {80, 128, 32, 0, 166913}, {80, 128, 32, 1, 166912},
    {90, 128, 128, 4, 0},      {90, 128, 32, 4, 49152},  {90, 64, 40, 24, 1000},   {100, 96, 33, 16, 0},
    {100, 128, 32, 1, 232448}, {120, 128, 32, 12, 0},    {120, 1024, 32, 1, 0},    {120, 32, 32, 24, 0},
    {120, 128, 64, 8, 0},      {120, 128, 32, 2, 49152}, {120, 128, 32, 0, 101377}};

START_TEST(blocks_of_a_multiprocessor) {
  for (size_t i = 0; i < QN_COUNT(occupancy); i++) {
    int warps = 0;
    int blocks =
        qn_chip_occupancy(occupancy[i].sm, occupancy[i].threads, occupancy[i].shared, occupancy[i].registers, &warps);
    qn_check(blocks == occupancy[i].blocks, "sm_%d, %d threads, %d registers, %d bytes shared: got %d blocks, want %d",
             occupancy[i].sm, occupancy[i].threads, occupancy[i].registers, (int)occupancy[i].shared, blocks,
             occupancy[i].blocks);
    ck_assert_int_eq(warps, occupancy[i].sm == 120 ? 48 : 64);
  }
  ck_assert_int_eq(qn_chip_occupancy(35, 128, 0, 32, NULL), 0);  // of which nothing is known
  ck_assert_int_eq(qn_chip_occupancy(80, 0, 0, 32, NULL), 0);
}
END_TEST

START_TEST(chips_are_found) {
  qn_chip chip;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_chip_find("sm_90", "device", &chip, &diag));
  ck_assert_str_eq(chip.name, "H100");
  qn_assert_ok(&diag, qn_chip_find("H200", "device", &chip, &diag));
  ck_assert_int_eq(chip.sm, 90);
  ck_assert(chip.memory_bytes_per_s == 4800e9);
  qn_assert_fails(&diag, QN_ERR_ARGUMENT, "device: no chip 'sm_70' is known; want one of sm_80, A100, ",
                  qn_chip_find("sm_70", "device", &chip, &diag));
}
END_TEST

// What all figures have in common, whoever adds a line: a slip of a power of ten shows.
START_TEST(figures_make_sense) {
  for (size_t i = 0; i < qn_chip_count(); i++) {
    qn_chip c = qn_chip_at(i), found;
    qn_diag diag = {0};
    int warps = 0;
    qn_assert_ok(&diag, qn_chip_find(c.name, "device", &found, &diag));
    ck_assert_int_eq(found.multiprocessors, c.multiprocessors);
    ck_assert(qn_chip_occupancy(c.sm, 32, 0, 32, &warps) > 0 && warps >= 48);
    ck_assert(c.cycles_per_s > 1e9 && c.cycles_per_s < 4e9);
    ck_assert(c.memory_bytes_per_s > 5e11 && c.l2_bytes_per_s > 1.5 * c.memory_bytes_per_s);
    ck_assert(c.l2_latency_s > 1e-7 && c.memory_latency_s > c.l2_latency_s && c.memory_latency_s < 2e-6);
    ck_assert(c.fp32_ops_per_s > 5e12 && c.i32_ops_per_s <= c.fp32_ops_per_s);
    ck_assert(c.tensor_int8_ops_per_s >= 2 * c.tensor_f16_ops_per_s && c.tensor_f16_ops_per_s > 2 * c.fp32_ops_per_s);
    ck_assert(c.instructions_per_s == 4 * c.cycles_per_s * c.multiprocessors);
    ck_assert_uint_gt(strlen(c.source), 10);
  }
}
END_TEST

QN_CASE(chip, blocks_of_a_multiprocessor, chips_are_found, figures_make_sense)
QN_TEST_MAIN(chip)
