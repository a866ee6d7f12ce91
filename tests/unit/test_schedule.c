// ir/schedule: the text form, what it refuses and how it says so.
#include "ir/schedule.h"
#include "tests/support/test.h"

static const char PLAIN[] =
    "m_tiles = 1\nm_block = 1\nn_tile = 1\nn_apart = 0\nn_block = 1\nk_unroll = 0\ndots = 0\nlanes = 1\nprefetch_bytes = 0\nprefetch_far = 0\nparallel = 0\n";

static void check_print(const qn_schedule *schedule, const char *want) {
  qn_buf buf;
  qn_buf_init(&buf, qn_test_allocator());
  qn_schedule_print(schedule, &buf);
  ck_assert_str_eq(qn_buf_text(&buf), want);
  qn_buf_deinit(&buf);
}

START_TEST(the_plain_schedule_is_legal) {
  qn_diag diag = {0};
  qn_schedule plain = qn_schedule_plain(), parsed;
  ck_assert_int_eq(plain.m_tile_count, 1);
  ck_assert_int_eq(plain.m_tiles[0], 1);
  qn_assert_ok(&diag, qn_schedule_check(&plain, &diag));
  check_print(&plain, PLAIN);
  qn_assert_ok(&diag, qn_schedule_parse("s", QN_STR(""), &parsed, &diag));
  check_print(&parsed, PLAIN);
  qn_assert_ok(&diag, qn_schedule_parse("s", (qn_str){NULL, 0}, &parsed, &diag));
  check_print(&parsed, PLAIN);
}
END_TEST

START_TEST(schedules_round_trip) {
  static const char text[] =
      "m_tiles = 16,12,8,4,2,1\nm_block = 6\nn_tile = 2\nn_apart = 1\nn_block = 3\nk_unroll = 1\ndots = 2\nlanes = 16\nprefetch_bytes = "
      "4096\nprefetch_far = 1\nparallel = 1\n";
  qn_diag diag = {0};
  qn_schedule parsed;
  qn_assert_ok(&diag, qn_schedule_parse("s", QN_STR(text), &parsed, &diag));
  ck_assert_int_eq(parsed.m_tile_count, 6);
  ck_assert_int_eq(parsed.m_tiles[1], 12);
  check_print(&parsed, text);
}
END_TEST

START_TEST(spaces_comments_and_omissions) {
  qn_diag diag = {0};
  qn_schedule parsed;
  qn_str text = QN_STR("# tuned by hand\r\n\r\n  lanes=8 # narrow\r\n\tm_tiles = 4 , 2,1\n\nparallel =\t1");
  qn_assert_ok(&diag, qn_schedule_parse("s", text, &parsed, &diag));
  check_print(&parsed,
              "m_tiles = 4,2,1\nm_block = 1\nn_tile = 1\nn_apart = 0\nn_block = 1\nk_unroll = 0\ndots = 0\nlanes = 8\nprefetch_bytes = "
              "0\nprefetch_far = 0\nparallel = 1\n");
}
END_TEST

START_TEST(errors_name_line_knob_got_and_want) {
  static const struct {
    const char *text, *message;
  } cases[] = {
      {"lanes = 5", "s:1: lanes: got 5, want 1|4|8|16"},
      {"\n\nn_tile = 0", "s:3: n_tile: got 0, want 1..64"},
      {"n_tile = 65", "s:1: n_tile: got 65, want 1..64"},
      {"k_unroll = 2", "s:1: k_unroll: got 2, want 0|1"},
      {"prefetch_bytes = 1048577", "s:1: prefetch_bytes: got 1048577, want 0..1048576"},
      {"lanes = 1,4", "s:1: lanes: got more values than 1"},
      {"lanes = four", "s:1: lanes: got 'four', want 1|4|8|16"},
      {"lanes = -4", "s:1: lanes: got '-4', want 1|4|8|16"},
      {"lanes = 99999999999", "s:1: lanes: got '99999999999', want 1|4|8|16"},
      {"lanes =", "s:1: lanes: got '', want 1|4|8|16"},
      {"lanes = 4 8", "s:1: lanes: got '4 8', want"},
      {"m_tiles = 4,2", "s:1: m_tiles: got 2 as the last value, want 1"},
      {"m_tiles = 2,4,1", "s:1: m_tiles: got 4 after 2, want falling values"},
      {"m_tiles = 1,1", "s:1: m_tiles: got 1 after 1, want falling values"},
      {"m_tiles = 4,,1", "s:1: m_tiles: got '', want 1..64"},
      {"m_tiles = 4,1,", "s:1: m_tiles: got '', want 1..64"},
      {"m_tiles = 128,1", "s:1: m_tiles: got 128, want 1..64"},
      {"m_tiles = 32,16,12,8,4,2,1", "s:1: m_tiles: got more values than 6"},
      {"lanes = 4\nlanes = 4", "s:2: lanes: got it twice, want it once"},
      {"lanes", "s:1: got 'lanes', want 'knob = value'"},
      {"\x01\xff = 1",
       "s:1: got the knob '\?\?', want one of m_tiles, m_block, n_tile, n_apart, n_block, k_unroll, dots, lanes, prefetch_bytes, "
       "prefetch_far, parallel"},
      {"Lanes = 4", "s:1: got the knob 'Lanes', want one of"},
      {"= 4", "s:1: got the knob '', want one of"},
      {"a_name_that_goes_on_and_on_without_any_end_at_all_it_seems = 4", "..."},
  };
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    qn_diag diag = {0};
    qn_schedule parsed = {.lanes = 77};
    qn_assert_fails(&diag, QN_ERR_ARGUMENT, cases[i].message,
                    qn_schedule_parse("s", qn_str_from(cases[i].text), &parsed, &diag));
    ck_assert_int_eq(parsed.lanes, 77);  // untouched
  }
}
END_TEST

START_TEST(checks_find_what_code_sets) {
  qn_diag diag = {0};
  qn_schedule schedule = qn_schedule_plain();
  schedule.m_tile_count = 0;
  qn_assert_fails(&diag, QN_ERR_ARGUMENT, "schedule: m_tiles: got 0 values, want 1 to 6",
                  qn_schedule_check(&schedule, &diag));
  diag = (qn_diag){0};
  schedule.m_tile_count = 7;
  qn_assert_fails(&diag, QN_ERR_ARGUMENT, "schedule: m_tiles: got 7 values, want 1 to 6",
                  qn_schedule_check(&schedule, &diag));
  diag = (qn_diag){0};
  schedule = qn_schedule_plain();
  schedule.prefetch_bytes = -1;
  qn_assert_fails(&diag, QN_ERR_ARGUMENT, "prefetch_bytes: got -1, want 0..1048576",
                  qn_schedule_check(&schedule, &diag));
}
END_TEST

START_TEST(machine_knobs_are_text_too) {
  qn_diag diag = {0};
  qn_machine_knobs knobs = qn_machine_knobs_plain();
  qn_buf buf;
  ck_assert_int_eq(knobs.pin, 1);
  qn_assert_ok(&diag, qn_machine_knobs_parse("k", QN_STR("threads_decode = 3\nspin_us=0"), &knobs, &diag));
  qn_buf_init(&buf, qn_test_allocator());
  qn_machine_knobs_print(&knobs, &buf);
  ck_assert_str_eq(qn_buf_text(&buf),
                   "threads_prefill = 0\nthreads_decode = 3\npin = 1\nhuge_pages = 0\nspin_us = 0\ngrain = 2\n");
  qn_buf_deinit(&buf);
  qn_assert_fails(&diag, QN_ERR_ARGUMENT, "k:1: got the knob 'lanes', want one of threads_prefill, threads_decode, pin",
                  qn_machine_knobs_parse("k", QN_STR("lanes = 4"), &knobs, &diag));
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_ARGUMENT, "k:1: pin: got 2, want 0|1",
                  qn_machine_knobs_parse("k", QN_STR("pin = 2"), &knobs, &diag));
  ck_assert_int_eq(knobs.threads_decode, 3);
}
END_TEST

// What the table says of itself: plain values are legal, names differ, kernels are named by the letters that there are.
START_TEST(the_table_is_sound) {
  size_t count;
  const qn_knob *knobs = qn_knobs(&count);
  qn_schedule schedule = qn_schedule_plain();
  for (size_t i = 0; i < count; i++) {
    ck_assert(qn_knob_is_legal(&knobs[i], knobs[i].plain));
    ck_assert(!qn_knob_is_legal(&knobs[i], -1));
    ck_assert_uint_eq(strspn(knobs[i].kernels, "MAR"), strlen(knobs[i].kernels));
    ck_assert_int_eq(knobs[i].of_machine, knobs[i].kernels[0] == 0);
    for (size_t j = 0; j < i; j++) ck_assert_str_ne(knobs[i].name, knobs[j].name);
    if (knobs[i].of_machine) continue;
    qn_knob_set(&knobs[i], &schedule, 1);
    ck_assert_int_eq(qn_knob_get(&knobs[i], &schedule), 1);
  }
  ck_assert_int_eq(schedule.prefetch_bytes, 1);
}
END_TEST

QN_CASE(text, the_plain_schedule_is_legal, schedules_round_trip, spaces_comments_and_omissions,
        errors_name_line_knob_got_and_want, machine_knobs_are_text_too, the_table_is_sound)
QN_CASE(checks, checks_find_what_code_sets)
QN_TEST_MAIN(text, checks)
