// What proposers that need no model guess from a text alone.
#include "runtime/propose.h"
#include "tests/support/test.h"

// --- what lookup finds

static void check_lookup(const int32_t *text, size_t count, int32_t kind, const int32_t *want, int32_t want_count) {
  qn_diag diag = {0};
  qn_proposer *lookup = NULL;
  int32_t tokens[8], parents[8];
  qn_draft draft = {.tokens = tokens, .parents = parents, .capacity = 8};
  qn_propose_text t = {.tokens = text, .count = count};
  qn_assert_ok(&diag, qn_propose_lookup_create(qn_test_allocator(), &lookup, &diag));
  ck_assert_int_eq(lookup->type->look(lookup, &t), kind);
  qn_assert_ok(&diag, lookup->type->propose(lookup, &t, &(qn_draft_room){5, 5, 1, 0}, &draft, &diag));
  ck_assert_int_eq(draft.count, want_count);
  for (int32_t i = 0; i < want_count; i++) {
    ck_assert_int_eq(tokens[i], want[i]);
    ck_assert_int_eq(parents[i], i - 1);
    ck_assert_int_eq(qn_draft_child(&draft, i - 1, want[i]), i);
    ck_assert_int_eq(qn_draft_child(&draft, i - 1, want[i] + 100), QN_DRAFT_ROOT);
  }
  qn_proposer_destroy(lookup);
}

START_TEST(lookup_finds) {
  const int32_t none[] = {1, 2, 3, 4}, once[] = {1, 2, 3, 4, 5, 6, 7, 1, 2}, latest[] = {1, 2, 5, 1, 2, 6, 9, 1, 2};
  const int32_t longest[] = {7, 1, 2, 5, 5, 1, 2, 6, 6, 7, 1, 2}, period[] = {1, 2, 3, 1, 2, 3, 1};
  check_lookup(none, 4, 0, NULL, 0);
  check_lookup(none, 1, 0, NULL, 0);
  check_lookup(once, 9, 1, (const int32_t[]){3, 4, 5, 6, 7}, 5);
  check_lookup(latest, 9, 1, (const int32_t[]){6, 9, 1, 2, 6}, 5);
  check_lookup(longest, 12, 2, (const int32_t[]){5, 5, 1, 2, 6}, 5);
  check_lookup(period, 7, 3, (const int32_t[]){2, 3, 1, 2, 3}, 5);  // the text goes on beyond its own end
}
END_TEST

// --- lookahead

// What came after a text's last tokens, the latest first; several at once in a tree.
START_TEST(lookahead_finds) {
  static const int32_t text[] = {1, 2, 3, 9, 1, 2, 4, 9, 9, 7, 1, 2}, chain[] = {4, 9, 9, 7}, rows[] = {4, 5, 6, 8, 8, 8, 8, 8, 8};
  qn_diag diag = {0};
  qn_ngrams *ngrams = NULL;
  qn_proposer *p = NULL;
  int32_t tokens[8], parents[8];
  qn_draft draft = {.tokens = tokens, .parents = parents, .capacity = 8};
  qn_propose_text t = {.tokens = text, .count = QN_COUNT(text)};
  qn_assert_ok(&diag, qn_ngrams_create(qn_test_allocator(), &ngrams, &diag));
  qn_assert_ok(&diag, qn_propose_lookahead_create(ngrams, qn_test_allocator(), &p, &diag));
  qn_assert_ok(&diag, p->type->begin(p, NULL, &diag));
  ck_assert_int_gt(p->type->look(p, &t), 0);
  qn_assert_ok(&diag, p->type->propose(p, &t, &(qn_draft_room){4, 4, 1, 0}, &draft, &diag));
  ck_assert_int_eq(draft.count, 4);
  ck_assert_mem_eq(tokens, chain, sizeof chain);
  for (int32_t i = 0; i < 4; i++) ck_assert_int_eq(parents[i], i - 1);
  // Where several paths may be: both that came after (1, 2), and a window.
  draft.count = 0;
  qn_assert_ok(&diag, p->type->propose(p, &t, &(qn_draft_room){8, 3, 8, 0}, &draft, &diag));
  ck_assert_int_gt(draft.count, 4);
  ck_assert(qn_draft_child(&draft, QN_DRAFT_ROOT, 3) >= 0 && qn_draft_child(&draft, QN_DRAFT_ROOT, 4) >= 0);
  for (int32_t i = 0; i < draft.count; i++) ck_assert_int_le(qn_draft_depth(&draft, i), 3);
  // What is not likely enough is not guessed.
  draft.count = 0;
  qn_assert_ok(&diag, p->type->propose(p, &t, &(qn_draft_room){8, 8, 8, 0.99}, &draft, &diag));
  ck_assert_int_eq(draft.count, 0);
  // What a program could not choose is no token: neither of the window to come nor of n-grams.
  const int32_t unknown[] = {-1, -1, -1, -1, -1, -1, -1, -1, -1};
  draft.count = 0;
  qn_assert_ok(&diag, p->type->propose(p, &t, &(qn_draft_room){8, 3, 8, 0}, &draft, &diag));
  p->type->see(p, &draft, QN_DRAFT_ROOT, unknown);
  draft.count = 0;
  qn_assert_ok(&diag, p->type->propose(p, &t, &(qn_draft_room){8, 3, 8, 0}, &draft, &diag));
  ck_assert_int_gt(draft.count, 4);
  for (int32_t i = 0; i < draft.count; i++) ck_assert_int_ge(tokens[i], 0);
  // Rows of wrong guesses teach, too: after (2, 4) comes 5 then, if the text ever goes so.
  draft.count = 0;
  qn_assert_ok(&diag, p->type->propose(p, &t, &(qn_draft_room){2, 2, 1, 0}, &draft, &diag));
  ck_assert_int_eq(tokens[0], 4);
  p->type->see(p, &draft, QN_DRAFT_ROOT, rows);
  const int32_t again[] = {2, 4};
  t = (qn_propose_text){.tokens = again, .count = QN_COUNT(again)};
  qn_assert_ok(&diag, p->type->begin(p, NULL, &diag));
  ck_assert_int_gt(p->type->look(p, &t), 0);
  draft.count = 0;
  qn_assert_ok(&diag, p->type->propose(p, &t, &(qn_draft_room){1, 1, 1, 0}, &draft, &diag));
  ck_assert_int_eq(tokens[0], 5);
  qn_proposer_destroy(p);
  qn_ngrams_destroy(ngrams);
  qn_ngrams_destroy(NULL);
}
END_TEST

QN_CASE(guesses, lookup_finds, lookahead_finds)
QN_TEST_MAIN(guesses)
