// The machine's measurement: its kernels do all of the work that is counted, and what it says are speeds.
#include "autotune/machine_internal.h"

#include <math.h>
#include <stdlib.h>

#include "frontend/quern.h"
#include "ir/loop_interp.h"
#include "tests/support/test.h"

// Each chain has results of its own: a compiler that finds two of them equal, or unused, would do less than is counted.
START_TEST(every_chain_counts) {
  static const char *const targets[] = {"x86-64-v3", "aarch64"};
  const qn_lkernel *kernels[QN_PROBE_COUNT];
  for (size_t t = 0; t < QN_COUNT(targets); t++) {
    qn_diag diag = {0};
    qn_target target;
    qn_arena arena;
    qn_arena_init(&arena, qn_allocator_default());
    qn_assert_ok(&diag, qn_target_parse(targets[t], &target, &diag));
    qn_assert_ok(&diag, qn_machine_kernels(&target, &arena, kernels, &diag));
    for (int probe = QN_PROBE_FMA; probe < QN_PROBE_COUNT; probe++) {
      float operands[128], chains[12];
      int64_t symbols[QN_SYM_COUNT] = {0}, size = 0, chain_count = 0;
      for (int i = 0; i < 128; i++) operands[i] = 1.0f + 0.001f * (float)i;
      uint16_t halves[256];  // bf16 from 0.5 up, so that chains stay small
      for (int i = 0; i < 256; i++) halves[i] = (uint16_t)(0x3F00 + i % 64);
      if (probe == QN_PROBE_BF16) memcpy(operands, halves, sizeof operands);
      for (int i = 0; i < 12; i++) chains[i] = 1.5f + 0.01f * (float)i;
      qn_check(qn_lexpr_is_int(kernels[probe]->params[1]->elements, &chain_count) && chain_count >= 1, "no chains");
      qn_check(qn_lexpr_is_int(kernels[probe]->params[2]->elements, &size) && chain_count <= 12, "too many chains");
      float *results = calloc((size_t)size, sizeof *results);
      qn_linterp_buffer buffers[] = {{operands, sizeof operands},
                                     {chains, (size_t)chain_count * sizeof *chains},
                                     {results, (size_t)size * sizeof *results}};
      qn_assert_ok(&diag, qn_lkernel_interpret(kernels[probe], buffers, symbols, 0, 1, qn_allocator_default(), &diag));
      for (int64_t i = 0; i < chain_count * qn_probe_lanes((qn_probe)probe); i++) {
        uint32_t bits;
        memcpy(&bits, &results[i], sizeof bits);
        qn_check(bits != 0, "%s, probe %d: result %d is not there", targets[t], probe, (int)i);
        if (i >= 16) qn_check(memcmp(&results[i], &results[i - 16], 4) != 0, "probe %d: two chains are one", probe);
      }
      free(results);
    }
    qn_arena_deinit(&arena);
  }
}
END_TEST

START_TEST(speeds) {
  quern_machine *machine = NULL;
  quern_error error = {0};
  double speed = 0;
  ck_assert_msg(quern_machine_open(NULL, &machine, &error) == 0, "%s", error.text);
  for (int rate = 0; rate <= QUERN_RATE_INT8; rate++) {
    for (int threads = 1; threads <= 2; threads++) {
      for (quern_clock clock = QUERN_CLOCK_WALL; clock <= QUERN_CLOCK_CPU; clock++) {
        ck_assert_msg(quern_machine_measure(machine, (quern_rate)rate, threads, clock, &speed, &error) == 0, "%s",
                      error.text);
        ck_assert(isfinite(speed) && speed > 0);
      }
    }
  }
  ck_assert(quern_machine_huge_bytes(machine) <= 256 << 20);
  ck_assert_int_eq(quern_machine_measure(machine, (quern_rate)9, 1, QUERN_CLOCK_WALL, &speed, &error),
                   QUERN_ERR_ARGUMENT);
  ck_assert_ptr_nonnull(strstr(error.text, "rate: got 9, want 0 to 3"));
  ck_assert_int_eq(quern_machine_measure(machine, QUERN_RATE_READ, -1, QUERN_CLOCK_WALL, &speed, NULL),
                   QUERN_ERR_ARGUMENT);
  quern_machine_close(machine);
  quern_machine_close(NULL);
}
END_TEST

START_TEST(unknown_target) {
  quern_machine *machine = NULL;
  quern_error error = {0};
  ck_assert_int_eq(quern_machine_open("z80", &machine, &error), QUERN_ERR_ARGUMENT);
  ck_assert_ptr_null(machine);
  ck_assert_ptr_nonnull(strstr(error.text, "z80"));
}
END_TEST

QN_CASE(kernels, every_chain_counts)
QN_CASE(measuring, speeds, unknown_target)
QN_TEST_MAIN(kernels, measuring)
