// The machine's measurement: its kernels do all of the work that is counted, and what it says are speeds.
#include "autotune/machine_internal.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "frontend/machine.h"
#include "frontend/quern.h"
#include "ir/loop_interp.h"
#include "runtime/cpu_features.h"
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

// Every code of a chunk is read, once a token, however it is prefetched: with codes of 1 a lane's sum counts them, each
// token's times its activation, and the scales besides.
START_TEST(streams_read_everything) {
  enum { BLOCKS = CHUNK_BYTES / 288, CODES = 4 * 2 * 4 };
  qn_diag diag = {0};
  qn_target target;
  qn_arena arena;
  const qn_lkernel *kernels[QN_PROBE_COUNT];
  qn_arena_init(&arena, qn_allocator_default());
  qn_assert_ok(&diag, qn_target_parse("x86-64-v3", &target, &diag));
  qn_assert_ok(&diag, qn_machine_kernels(&target, &arena, kernels, &diag));
  uint8_t *chunk = malloc(CHUNK_BYTES);
  ck_assert_ptr_nonnull(chunk);
  for (int i = 0; i < CHUNK_BYTES; i++) chunk[i] = i % 288 < 32 ? 0 : 0x11;
  for (int b = 0; b < BLOCKS; b++) chunk[b * 288 + 4] = 1;  // the second lane's scale
  for (int probe = QN_PROBE_STREAM_0; probe <= QN_PROBE_STREAM_FAR; probe++) {
    int32_t results[16] = {0}, tokens = probe == QN_PROBE_STREAM_FAR ? 1 + 2 + 3 : 1;
    int64_t symbols[QN_SYM_COUNT] = {0};
    qn_linterp_buffer buffers[] = {{chunk, CHUNK_BYTES}, {results, sizeof results}};
    qn_assert_ok(&diag, qn_lkernel_interpret(kernels[probe], buffers, symbols, 0, 1, qn_allocator_default(), &diag));
    for (int i = 0; i < 16; i++) ck_assert_int_eq(results[i], BLOCKS * (CODES * tokens + (i == 1)));
  }
  free(chunk);
  qn_arena_deinit(&arena);
}
END_TEST

START_TEST(speeds) {
  quern_machine *machine = NULL;
  quern_error error = {0};
  double speed = 0;
  ck_assert_msg(quern_machine_open(NULL, &machine, &error) == 0, "%s", error.text);
  for (int rate = 0; rate <= QUERN_RATE_NARROW; rate++) {
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
  ck_assert_ptr_nonnull(strstr(error.text, "rate: got 9, want 0 to 4"));
  ck_assert_int_eq(quern_machine_measure(machine, QUERN_RATE_READ, -1, QUERN_CLOCK_WALL, &speed, NULL),
                   QUERN_ERR_ARGUMENT);
  quern_machine_close(machine);
  quern_machine_close(NULL);
}
END_TEST

// What is stored once more, as if nothing had disturbed the measurement.
static void put_quiet(qn_db *db, const char *fingerprint) {
  qn_machine_profile quiet;
  qn_buf text;
  qn_diag diag = {0};
  int64_t when;
  bool found = false;
  qn_assert_ok(&diag, quern_machine_stored(db, &quiet, &when, &found, NULL, 0, &diag));
  ck_assert(found);
  quiet.moving_gain = 1;
  qn_buf_init(&text, qn_test_allocator());
  qn_profile_print(&quiet, &text);
  qn_machine_record record = {.fingerprint = fingerprint, .profile = text.data, .when = when + 1};
  qn_assert_ok(&diag, qn_db_put_machine(db, &record, &diag));
  qn_buf_deinit(&text);
}

// Measured once, kept, found again; a new measurement when asked for.
START_TEST(a_profile) {
  const char *path = qn_test_temp_path("profile.db");
  quern_machine_options options = {.size = sizeof options, .tuning_db = path, .budget_s = 1e-3};
  quern_machine_profile first = {.size = sizeof first}, again = {.size = sizeof again};
  quern_machine_settings settings;
  quern_error error = {0};
  bool found = true;
  ck_assert_int_eq(quern_machine_get_settings(path, &settings, &found, &error), 0);
  ck_assert(!found && settings.pin && settings.threads_decode == 0);
  ck_assert_msg(quern_machine_get_profile(&options, &first, &error) == 0, "%s", error.text);
  ck_assert(!first.stored && first.count >= 1 && first.thread_counts[first.count - 1] == first.threads);
  for (int i = 0; i < first.count; i++)
    ck_assert(first.read[QUERN_LEVEL_MEMORY][0][i] > 0 && first.fma[i] > 0 && first.bf16[i] > 0 && first.int8[i] > 0 &&
              first.narrow[i] > 0);
  ck_assert_msg(quern_machine_get_profile(&options, &again, &error) == 0, "%s", error.text);
  ck_assert(again.stored && again.measured_at == first.measured_at);
  again.stored = false;
  ck_assert_int_eq(memcmp(&first, &again, sizeof first), 0);
  ck_assert_int_eq(quern_machine_get_settings(path, &settings, &found, &error), 0);
  ck_assert(found && settings.threads_prefill == first.settings.threads_prefill && settings.spin_us != 0);
  // The model of code that runs here has what was measured, that of other code has not.
  qn_db *db = NULL;
  qn_diag diag = {0};
  qn_target target;
  qn_assert_ok(&diag, qn_db_open(path, false, qn_allocator_default(), &db, &diag));
  put_quiet(db, first.fingerprint);
  qn_assert_ok(&diag, qn_target_parse("host", &target, &diag));
  qn_machine_model plain = qn_machine_model_plain(target.vector_bytes, target.vector_registers, 0, 1 << 20),
                   model = plain;
  quern_machine_fill_model(db, &target, 0, &model);
  ck_assert(model.cores == first.threads && model.cycles_per_s == first.cycles_per_s);
  ck_assert(model.memory_bytes_per_s == first.read[QUERN_LEVEL_MEMORY][0][first.count - 1]);
  qn_assert_ok(&diag, qn_target_parse(qn_cpu_arch() == 0 ? "aarch64" : "x86-64-v3", &target, &diag));
  model = plain;
  quern_machine_fill_model(db, &target, 0, &model);
  ck_assert_int_eq(memcmp(&model, &plain, sizeof model), 0);
  qn_db_close(db);
  options.fresh = true;
  ck_assert_msg(quern_machine_get_profile(&options, &again, &error) == 0, "%s", error.text);
  ck_assert(!again.stored);
}
END_TEST

// An artifact in the cache was compiled for what was known of the machine then.
START_TEST(cached_code_is_for_the_machine_as_measured) {
  const char *path = qn_test_temp_path("stale.db"), *artifact = qn_test_temp_path("nano.qn");
  quern_compile_options compile = {.size = sizeof compile, .tuning_db = path, .context_tokens = 64};
  quern_machine_options machine = {.size = sizeof machine, .tuning_db = path, .budget_s = 1e-3};
  quern_machine_profile measured = {.size = sizeof measured};
  quern_error error = {0};
  ck_assert_msg(quern_compile(qn_test_source("models/nano/nano.gguf"), artifact, &compile, &error) == 0, "%s",
                error.text);
  const char *why = "?";
  ck_assert(quern_cache_is_current(artifact, &compile, &why) && !why);
  ck_assert_msg(quern_machine_get_profile(&machine, &measured, &error) == 0, "%s", error.text);
  qn_db *db = NULL;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_db_open(path, false, qn_allocator_default(), &db, &diag));
  put_quiet(db, measured.fingerprint);
  qn_db_close(db);
  ck_assert(!quern_cache_is_current(artifact, &compile, &why));
  ck_assert_str_eq(why, "the machine was measured anew");
  ck_assert_msg(quern_compile(qn_test_source("models/nano/nano.gguf"), artifact, &compile, &error) == 0, "%s",
                error.text);
  ck_assert(quern_cache_is_current(artifact, &compile, NULL));
  compile.tuning_db = "none";
  ck_assert(quern_cache_is_current(artifact, &compile, NULL));  // nobody is asked
}
END_TEST

static bool refuse(void *context, const char *stage, uint64_t done, uint64_t total) {
  (void)stage, (void)done, (void)total;
  return --*(int *)context > 0;
}

START_TEST(no_profile) {
  int steps = 2;
  quern_machine_options options = {.size = 1, .tuning_db = "none", .progress = refuse, .progress_context = &steps};
  quern_machine_profile profile = {.size = sizeof profile};
  quern_error error = {0};
  ck_assert_int_eq(quern_machine_get_profile(&options, &profile, &error), QUERN_ERR_ARGUMENT);
  ck_assert_ptr_nonnull(strstr(error.text, "got size 1, want sizeof(quern_machine_options)"));
  options.size = sizeof options;
  ck_assert_int_eq(quern_machine_get_profile(&options, &profile, &error), QUERN_ERR_CANCELLED);
  ck_assert_ptr_nonnull(strstr(error.text, "stopped while measuring"));
  steps = 1;
  ck_assert_int_eq(quern_machine_get_profile(&options, &profile, &error), QUERN_ERR_CANCELLED);
  ck_assert_ptr_nonnull(strstr(error.text, "stopped before measuring"));
  ck_assert_int_eq(profile.count, 0);
  profile.size = 0;
  ck_assert_int_eq(quern_machine_get_profile(&options, &profile, &error), QUERN_ERR_ARGUMENT);
  ck_assert_ptr_nonnull(strstr(error.text, "quern_machine_profile: got size 0"));
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

QN_CASE(kernels, every_chain_counts, streams_read_everything)
QN_CASE(measuring, speeds, a_profile, cached_code_is_for_the_machine_as_measured, no_profile, unknown_target)
QN_TEST_MAIN(kernels, measuring)
