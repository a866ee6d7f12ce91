// The tuner's space: which values of a knob are worth a trial.
#include "autotune/space.h"

#include <string.h>

#include "tests/support/fake_machine.h"
#include "tests/support/test.h"

static bool has_choice(const qn_space *space, const char *knob, int value) {
  for (int i = 0; i < space->knob_count; i++) {
    const qn_space_knob *k = &space->knobs[i];
    for (int j = 0; strcmp(k->knob->name, knob) == 0 && j < k->count; j++) {
      if (k->choices[j].items[0] == value) return true;
    }
  }
  return false;
}

// From the plain schedule some values are illegal until another knob moves: they stay. What no other knob makes legal
// does not: a token has no tiles of tokens, and rows have neither panels nor weights.
START_TEST(values_that_want_another_knob_moved) {
  static const struct {
    const char *knob;
    int value;
    bool one, more, rows;
  } cases[] = {{"prefetch_far", 0, true, true, true},    {"prefetch_far", 1, true, true, false},
               {"n_apart", 1, true, true, false},        {"m_block", 4, false, true, false},
               {"n_block", 4, false, true, false},       {"prefetch_bytes", 4096, true, true, false},
               {"m_tiles", 4, true, true, false},        {"n_tile", 2, true, true, false},
               {"k_unroll", 1, true, true, true}};
  qn_arena arena;
  qn_diag diag = {0};
  qn_arena_init(&arena, qn_test_allocator());
  const qn_program *program = qn_fake_program(&arena);
  const qn_pkernel *matmul = NULL, *chained = NULL, *rows = NULL;
  for (size_t i = 0; i < program->kernels.count; i++) {
    const qn_pkernel *k = &program->kernels.items[i];
    const qn_pkernel **kind = !k->is_matmul ? &rows : k->chained ? &chained : &matmul;
    if (k->tile_rows == 0 && k->rows == QN_SYM_T) *kind = k;
  }
  ck_assert(matmul && chained && rows);
  const qn_schedule plain = qn_schedule_plain();
  qn_space one, more, of_rows;
  qn_assert_ok(&diag, qn_space_init(&one, matmul, 1, 1, &plain, &diag));
  qn_assert_ok(&diag, qn_space_init(&more, matmul, 9, INT64_MAX, &plain, &diag));
  qn_assert_ok(&diag, qn_space_init(&of_rows, rows, 0, INT64_MAX, &plain, &diag));
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    bool got[] = {has_choice(&one, cases[i].knob, cases[i].value), has_choice(&more, cases[i].knob, cases[i].value),
                  has_choice(&of_rows, cases[i].knob, cases[i].value)};
    qn_check(got[0] == cases[i].one && got[1] == cases[i].more && got[2] == cases[i].rows, "%s = %d: got %d, %d, %d",
             cases[i].knob, cases[i].value, got[0], got[1], got[2]);
  }
  qn_assert_ok(&diag, qn_space_init(&one, chained, 1, 1, &plain, &diag));
  ck_assert(has_choice(&one, "prefetch_far", 1) && !has_choice(&one, "n_apart", 1));
  qn_arena_deinit(&arena);
}
END_TEST

QN_CASE(choices, values_that_want_another_knob_moved)
QN_TEST_MAIN(choices)
