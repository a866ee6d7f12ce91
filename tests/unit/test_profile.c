// A machine's profile: its text, what settings and which model follow from its speeds, and the fingerprint.
#include "autotune/profile.h"

#include <math.h>

#include "runtime/cpu_features.h"
#include "runtime/topology.h"
#include "tests/support/test.h"

// A machine of 8 cores whose memory is read as fast by 4 of them.
static qn_machine_profile sample(void) {
  qn_machine_profile p = {.target = "x86-64-v3", .count = 4, .threads = {1, 2, 4, 8}};
  static const double memory[] = {12e9, 22e9, 39.5e9, 40e9};
  for (int i = 0; i < p.count; i++) {
    double threads = p.threads[i];
    for (int level = 0; level < QN_PROFILE_LEVELS; level++)
      for (int pages = 0; pages < QN_PROFILE_PAGES; pages++)
        p.read[level][pages][i] = level == QN_PROFILE_MEMORY ? memory[i] : threads * 192e9 / (1 << level);
    p.fma[i] = threads * 96e9, p.bf16[i] = threads * 90e9, p.int8[i] = threads * 120e9, p.narrow[i] = threads * 150e9;
    p.barrier_s[i] = i * 1e-7, p.piece_s[i] = 1e-8 * threads;
    p.read_part[i] = memory[i] / 40e9, p.int8_part[i] = threads / 8;
  }
  p.huge_gain = 1.05, p.moving_gain = 0.98, p.ahead_gain = 1.25, p.far_gain = 1.2, p.wake_s = 23.4e-6;
  p.cycles_per_s = 3e9, p.fma_latency = 4,
  p.vector_ops = 72e9;
  p.dots[0] = 90e9, p.dots[1] = 120e9, p.dots[2] = 150e9;
  p.knobs = qn_profile_knobs(&p);
  return p;
}

START_TEST(text_and_back) {
  qn_machine_profile p = sample(), back;
  qn_buf text, again;
  qn_diag diag = {0};
  qn_buf_init(&text, qn_test_allocator()), qn_buf_init(&again, qn_test_allocator());
  qn_profile_print(&p, &text);
  ck_assert_ptr_null(strchr(qn_buf_text(&text), '\n'));
  qn_assert_ok(&diag, qn_profile_parse("profile", (qn_str){text.data, text.length}, &back, &diag));
  qn_profile_print(&back, &again);
  ck_assert_str_eq(text.data, again.data);
  ck_assert_str_eq(back.target, p.target);
  ck_assert(memcmp(&back.knobs, &p.knobs, sizeof p.knobs) == 0 && back.read[3][0][2] == 39.5e9);
  qn_buf_puts(&text, "; later = 1 2 3");  // of a later version
  qn_assert_ok(&diag, qn_profile_parse("profile", (qn_str){text.data, text.length}, &back, &diag));
  memcpy(strstr(text.data, "stream_ahead"), "other_gain  ", strlen("stream_ahead"));  // of an earlier one
  qn_assert_ok(&diag, qn_profile_parse("profile", (qn_str){text.data, text.length}, &back, &diag));
  ck_assert(back.ahead_gain == 0 && back.far_gain == p.far_gain && back.moving_gain == p.moving_gain);
  qn_buf_deinit(&text), qn_buf_deinit(&again);
}
END_TEST

// The text with `from` changed into `to`.
static void parse_fails_with(qn_status status, const char *from, const char *to, const char *needle) {
  qn_machine_profile p = sample();
  qn_buf text, changed;
  qn_diag diag = {0};
  qn_buf_init(&text, qn_test_allocator()), qn_buf_init(&changed, qn_test_allocator());
  qn_profile_print(&p, &text);
  const char *at = strstr(text.data, from);
  ck_assert_ptr_nonnull(at);
  qn_buf_append(&changed, text.data, (size_t)(at - text.data));
  qn_buf_printf(&changed, "%s%s", to, at + strlen(from));
  qn_assert_fails(&diag, status, needle,
                  qn_profile_parse("profile", (qn_str){changed.data, changed.length}, &p, &diag));
  qn_buf_deinit(&text), qn_buf_deinit(&changed);
}

static void parse_fails(const char *from, const char *to, const char *needle) {
  parse_fails_with(QN_ERR_FORMAT, from, to, needle);
}

START_TEST(bad_texts) {
  parse_fails("threads = 1 2", "threads = 2 1", "'threads': want 1 to 16 rising numbers; measure again: quern machine");
  parse_fails("fma = 9", "fma = x", "profile: 'fma': want 4 numbers; measure again");
  parse_fails("wake_s = ", "wake_s = 1 ", "'wake_s': got more than 1 numbers");
  parse_fails("bf16 =", "bf17 =", "'bf16' is missing; measure again");
  parse_fails("int8 = ", "int8 ", "want name = values; measure again");
  parse_fails_with(QN_ERR_ARGUMENT, "pin = 1", "pin = 7", "pin: got 7, want 0|1");
}
END_TEST

START_TEST(settings) {
  qn_machine_profile p = sample();
  qn_machine_knobs k = qn_profile_knobs(&p);
  ck_assert_int_eq(k.threads_decode, 4);  // 39.5 of 40 GB/s are enough
  ck_assert_int_eq(k.threads_prefill, 8);
  ck_assert_int_eq(k.pin, 1);
  ck_assert_int_eq(k.huge_pages, 0);
  ck_assert_int_eq(k.spin_us, 24);
  p.huge_gain = 1.2, p.moving_gain = 1.1, p.wake_s = 1;
  k = qn_profile_knobs(&p);
  ck_assert_int_eq(k.pin, 0);
  ck_assert_int_eq(k.huge_pages, 0);  // a copy of the weights is for who runs it to want
  ck_assert_int_eq(k.spin_us, 1000);
  p.read_part[2] = 0.97, p.int8_part[0] = 0.99;  // a prompt takes no fewer than a token
  k = qn_profile_knobs(&p);
  ck_assert(k.threads_decode == 8 && k.threads_prefill == 8);
  for (int i = 0; i < p.count; i++) p.read_part[i] = p.int8_part[i] = 0;  // the machine was busy
  p.huge_gain = p.moving_gain = 0;
  k = qn_profile_knobs(&p);
  ck_assert(k.threads_decode == 8 && k.threads_prefill == 8 && k.pin == 1 && k.huge_pages == 0 && k.spin_us == 40);
  p.count = 1;
  k = qn_profile_knobs(&p);
  ck_assert(k.threads_decode == 1 && k.threads_prefill == 1 && k.spin_us == qn_machine_knobs_plain().spin_us);
  p.count = 0;
  k = qn_profile_knobs(&p);
  ck_assert_int_eq(k.threads_decode, 0);
}
END_TEST

static bool near(double got, double want) { return fabs(got - want) <= 1e-9 * fabs(want); }

START_TEST(models) {
  const qn_topology *machine = qn_topology_get();
  qn_machine_profile p = sample();
  qn_target target;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_target_parse("x86-64-v3", &target, &diag));
  qn_machine_model plain = qn_machine_model_plain(target.vector_bytes, target.vector_registers, 0, target.cache_bytes);
  qn_machine_model m = plain;
  qn_profile_fill_model(NULL, &target, 0, &m);  // not measured: the topology alone
  ck_assert(m.cores == machine->default_threads && m.cycles_per_s == plain.cycles_per_s);
  if (machine->l2_bytes > 0) ck_assert_int_eq(m.l2_bytes, (int64_t)machine->l2_bytes);
  qn_profile_fill_model(&p, &target, 3, &m);
  ck_assert(m.cores == 3 && m.dots == 2 && near(m.cycles_per_s, 3e9));
  ck_assert(near(m.fma_per_cycle, 2) && near(m.loads_per_cycle, 2) && near(m.vector_ops_per_cycle, 3));
  ck_assert(near(m.fma_latency, 4) && near(m.l2_bytes_per_cycle, 32) && near(m.l3_bytes_per_cycle, 16));
  ck_assert(near(m.memory_bytes_per_s, (22e9 + 39.5e9) / 2) && near(m.core_bytes_per_s, 12e9));
  ck_assert(near(m.barrier_s, 1.5e-7) && near(m.piece_s, 3e-8));
  ck_assert(near(m.stream_ahead, plain.stream_ahead) && near(m.stream_alone, plain.stream_ahead / 1.25));
  ck_assert(plain.stream_far == 0 && near(m.stream_far, m.stream_alone * 1.2));
  p.moving_gain = 0;  // disturbed: as if it had not been measured
  qn_machine_model before = m;
  qn_profile_fill_model(&p, &target, 3, &before);
  ck_assert(near(before.memory_bytes_per_s, m.memory_bytes_per_s));
  before = plain;
  qn_profile_fill_model(&p, &target, 3, &before);
  ck_assert(before.cycles_per_s == plain.cycles_per_s && before.dots == 0);
  p.moving_gain = 1, p.ahead_gain = 0.9;
  qn_profile_fill_model(&p, &target, 64, &m);  // more than were measured: as the most
  ck_assert(m.cores == 64 && near(m.memory_bytes_per_s, 40e9));
  ck_assert(near(m.stream_alone, plain.stream_ahead) && near(m.stream_ahead, plain.stream_ahead * 0.9));
  ck_assert(near(m.stream_far, plain.stream_ahead * 1.2));
  p.ahead_gain = 0;  // the machine was too busy to tell: all three stay
  qn_profile_fill_model(&p, &target, 64, &m);
  ck_assert(near(m.stream_alone, plain.stream_ahead) && near(m.stream_far, plain.stream_ahead * 1.2));
  p.ahead_gain = 0.9, p.far_gain = 0;
  qn_profile_fill_model(&p, &target, 64, &m);
  ck_assert(m.stream_far == 0);
  p.far_gain = 1.2;
  // Code for another target: what its instructions do was not measured.
  qn_assert_ok(&diag, qn_target_parse("x86-64-v4", &target, &diag));
  m = qn_machine_model_plain(target.vector_bytes, target.vector_registers, 0, target.cache_bytes);
  double fma = m.fma_per_cycle;
  qn_profile_fill_model(&p, &target, 8, &m);
  ck_assert(near(m.fma_per_cycle, fma) && m.dots == 0 && near(m.memory_bytes_per_s, 40e9));
}
END_TEST

START_TEST(fingerprints) {
  qn_buf a, b;
  char want[32];
  qn_buf_init(&a, qn_test_allocator()), qn_buf_init(&b, qn_test_allocator());
  qn_machine_fingerprint(0, &a);
  qn_machine_fingerprint(qn_topology_get()->default_threads, &b);
  ck_assert_str_eq(a.data, b.data);
  qn_buf_deinit(&b);
  qn_machine_fingerprint(1000, &b);  // as many threads make another machine of it
  ck_assert_str_ne(a.data, b.data);
  ck_assert_ptr_nonnull(strstr(b.data, " threads=1000"));
  ck_assert_ptr_nonnull(strstr(a.data, qn_cpu_arch_name(qn_cpu_arch())));
  snprintf(want, sizeof want, "l2=%uK", (unsigned)(qn_topology_get()->l2_bytes >> 10));
  ck_assert_ptr_nonnull(strstr(a.data, want));
  for (size_t i = 0; qn_cpu_feature_name(i); i++)
    if (qn_cpu_has(qn_cpu_feature_name(i))) ck_assert_ptr_nonnull(strstr(a.data, qn_cpu_feature_name(i)));
  qn_buf_deinit(&a), qn_buf_deinit(&b);
}
END_TEST

QN_CASE(profile, text_and_back, bad_texts, settings, models, fingerprints)
QN_TEST_MAIN(profile)
