// ir/loop: makers and names, the simplifier against plain evaluation, ranges, copies, the verifier on kernels that no
// text can say, and allocations that fail.
#include <math.h>
#include <stdio.h>

#include "ir/loop.h"
#include "tests/support/test.h"

// ---- help -----------------------------------------------------------------------------------------------------

static const char *text_of(const qn_lexpr *e) {
  static char text[8][512];
  static int turn;
  qn_buf buf;
  qn_buf_init(&buf, qn_test_allocator());
  qn_lexpr_print(e, &buf);
  turn = (turn + 1) % 8;
  snprintf(text[turn], sizeof text[turn], "%s", qn_buf_text(&buf));
  qn_buf_deinit(&buf);
  return text[turn];
}

// A builder with a few variables of known range, and one that is only known not to be negative.
typedef struct fixture {
  qn_arena arena;
  qn_lbuild b;
  qn_lvar *n, *k, *l, *t;  // 0..32, 0..64, 0..16, 0..T
  qn_lblock block;         // the innermost loop's body
} fixture;

static qn_lblock *add_loop(fixture *f, qn_lblock *block, const char *name, const qn_lexpr *hi, qn_lvar **out) {
  *out = qn_lvar_new(&f->b, name);
  return &qn_lfor(&f->b, block, *out, qn_lint(&f->b, 0), hi, QN_LO_DATA)->u.loop.body;
}

static void setup(fixture *f) {
  qn_arena_init(&f->arena, qn_test_allocator());
  qn_lbuild_init(&f->b, &f->arena, "test");
  qn_lblock *block = add_loop(f, &f->b.kernel->body, "n", qn_lint(&f->b, 32), &f->n);
  block = add_loop(f, block, "t", qn_lsym(&f->b, QN_SYM_T), &f->t);
  block = add_loop(f, block, "k", qn_lint(&f->b, 64), &f->k);
  add_loop(f, block, "l", qn_lint(&f->b, 16), &f->l);
  ck_assert(!f->b.failed);
}

static void teardown(fixture *f) { qn_arena_deinit(&f->arena); }

#define I(value)     qn_lint(&f.b, value)
#define V(var)       qn_lref(&f.b, f.var)
#define OP(op, x, y) qn_lop2(&f.b, QN_LX_##op, x, y)

// ---- makers ---------------------------------------------------------------------------------------------------

START_TEST(names_are_unique) {
  fixture f;
  setup(&f);
  ck_assert_str_eq(qn_lvar_new(&f.b, "t")->name, "t$1");
  qn_lvar *again = qn_lvar_new(&f.b, "t$7");  // only the base counts
  ck_assert_str_eq(again->name, "t$2");
  ck_assert(qn_str_is(qn_lvar_base(again), "t"));
  ck_assert_str_eq(qn_llocal(&f.b, &f.b.kernel->body, "acc", QN_LM_F32, 1)->name, "acc");
  ck_assert_str_eq(qn_lparam(&f.b, "acc", QN_LM_F32, I(1), true, false)->name, "acc$1");
  char name[16];
  for (int i = 0; i < 500; i++) {
    snprintf(name, sizeof name, "v%d", i);
    ck_assert_str_eq(qn_lvar_new(&f.b, name)->name, name);
  }
  ck_assert_str_eq(qn_lvar_new(&f.b, "v499")->name, "v499$1");
  teardown(&f);
}
END_TEST

START_TEST(opening_a_kernel_keeps_names_apart) {
  qn_arena arena;
  qn_arena_init(&arena, qn_test_allocator());
  qn_lkernel **kernels;
  size_t count;
  qn_diag diag = {0};
  qn_str text = QN_STR("kernel \"k\" { param x : f32[4] out for i$3 in 0..4 data { local a : f32[1] x[i$3] = 1.0 } }");
  qn_assert_ok(&diag, qn_lkernels_parse("k", text, &arena, &kernels, &count, &diag));
  ck_assert_uint_eq(count, 1);
  qn_lbuild b;
  qn_lbuild_open(&b, &arena, kernels[0]);
  ck_assert_str_eq(qn_lvar_new(&b, "i")->name, "i$4");
  ck_assert_str_eq(qn_lvar_new(&b, "a")->name, "a$1");
  ck_assert_str_eq(qn_lvar_new(&b, "x")->name, "x$1");
  ck_assert_str_eq(qn_lvar_new(&b, "j")->name, "j");
  qn_arena_deinit(&arena);
}
END_TEST

START_TEST(loops_bound_their_variables) {
  fixture f;
  setup(&f);
  ck_assert(f.n->bounded && f.n->lo == 0 && f.n->hi == 32);
  ck_assert(!f.t->bounded && f.t->lo == 0 && f.t->hi == INT64_MAX);
  qn_lvar *j = qn_lvar_new(&f.b, "j");  // for j in 4n .. 4n + 4, n in 0..32
  qn_lstmt *loop =
      qn_lfor(&f.b, &f.b.kernel->body, j, OP(MUL, V(n), I(4)), OP(ADD, OP(MUL, V(n), I(4)), I(4)), QN_LO_DATA);
  ck_assert(j->bounded && j->lo == 0 && j->hi == 128);
  qn_lfor_set_bounds(loop, I(2), I(3));
  ck_assert(j->lo == 2 && j->hi == 3);
  teardown(&f);
}
END_TEST

// ---- the simplifier -------------------------------------------------------------------------------------------

START_TEST(sums_have_one_form) {
  fixture f;
  setup(&f);
  const qn_lexpr *block = OP(ADD, OP(MUL, V(n), I(64)), V(k));
  const qn_lexpr *e = OP(ADD, OP(ADD, OP(MUL, block, I(136)), I(8)), OP(ADD, OP(MUL, I(16), V(k)), V(l)));
  ck_assert_str_eq(text_of(e), "n*8704 + k*152 + l + 8");
  ck_assert_str_eq(text_of(OP(SUB, e, e)), "0");
  ck_assert_str_eq(text_of(OP(SUB, I(3), OP(SUB, V(t), OP(MUL, V(n), I(2))))), "n*2 - t + 3");
  ck_assert_str_eq(text_of(OP(MUL, OP(ADD, V(t), I(1)), qn_lsym(&f.b, QN_SYM_P))), "t*P + P");
  ck_assert_str_eq(text_of(OP(ADD, qn_llane(&f.b, 16), V(n))), "n + lane(16)");
  ck_assert_str_eq(text_of(qn_lop1(&f.b, QN_LX_NEG, V(n))), "n*-1");
  ck_assert(qn_lexpr_equal(OP(ADD, V(n), V(k)), OP(ADD, V(k), V(n))));
  // What would lose its lanes stays a vector.
  const qn_lexpr *lanes = qn_llane(&f.b, 8);
  ck_assert_int_eq(OP(SUB, lanes, lanes)->type.lanes, 8);
  ck_assert_int_eq(OP(MUL, lanes, I(0))->type.lanes, 8);
  teardown(&f);
}
END_TEST

START_TEST(division_drops_what_divides) {
  fixture f;
  setup(&f);
  const qn_lexpr *row = OP(ADD, OP(MUL, V(n), I(16)), V(l)), *q, *r;
  ck_assert_str_eq(text_of(OP(DIV, row, I(16))), "n");
  ck_assert_str_eq(text_of(OP(MOD, row, I(16))), "l");
  ck_assert_str_eq(text_of(OP(MOD, OP(ADD, row, I(18)), I(16))), "(l + 2) % 16");
  ck_assert_str_eq(text_of(OP(DIV, OP(ADD, row, I(32)), I(16))), "n + 2");
  ck_assert_str_eq(text_of(OP(DIV, row, I(4))), "n*4 + l / 4");
  ck_assert_str_eq(text_of(OP(DIV, OP(DIV, V(t), I(4)), I(3))), "t / 12");
  ck_assert_str_eq(text_of(OP(MOD, OP(MOD, V(t), I(12)), I(4))), "t % 4");
  ck_assert_str_eq(text_of(OP(DIV, OP(ADD, OP(MUL, V(t), I(6)), I(5)), I(8))), "(t*3 + 2) / 4");
  q = OP(DIV, OP(ADD, OP(MUL, V(t), I(6)), I(5)), I(8));
  r = OP(MOD, OP(ADD, OP(MUL, V(t), I(6)), I(5)), I(8));
  ck_assert_str_eq(text_of(OP(ADD, OP(MUL, q, I(8)), r)), "t*6 + 5");
  ck_assert_str_eq(text_of(OP(DIV, I(-7), I(2))), "-4");
  ck_assert_str_eq(text_of(OP(MOD, I(-7), I(2))), "1");
  ck_assert_str_eq(text_of(OP(DIV, V(t), I(0))), "t / 0");
  teardown(&f);
}
END_TEST

START_TEST(ranges_decide) {
  fixture f;
  setup(&f);
  const qn_lexpr *four = OP(MUL, V(n), I(4)), *rest = OP(SUB, qn_lsym(&f.b, QN_SYM_T), V(t));
  ck_assert_str_eq(text_of(OP(MIN, OP(ADD, four, I(4)), OP(ADD, four, I(8)))), "n*4 + 4");
  ck_assert_str_eq(text_of(OP(MIN, V(n), I(31))), "n");
  ck_assert_str_eq(text_of(OP(MAX, V(t), I(0))), "t");
  ck_assert_str_eq(text_of(OP(MIN, rest, I(4))), text_of(OP(MIN, I(4), rest)));
  const qn_lexpr *pick = qn_lop3(&f.b, QN_LX_SELECT, OP(LT, V(n), I(32)), V(k), V(l));
  ck_assert_str_eq(text_of(pick), "k");
  pick = qn_lop3(&f.b, QN_LX_SELECT, OP(EQ, V(n), I(31)), V(k), V(l));
  ck_assert_str_eq(text_of(pick), "select(eq(n, 31), k, l)");
  ck_assert_str_eq(text_of(qn_lop1(&f.b, QN_LX_TO_INDEX, qn_lop1(&f.b, QN_LX_TO_I32, V(n)))), "n");
  ck_assert_str_eq(text_of(qn_lop1(&f.b, QN_LX_TO_INDEX, qn_lop1(&f.b, QN_LX_TO_I32, V(t)))), "index(i32(t))");
  teardown(&f);
}
END_TEST

START_TEST(other_kinds_only_fold) {
  fixture f;
  setup(&f);
  qn_lbuf *x = qn_lparam(&f.b, "x", QN_LM_F32, I(16), false, false),
          *w = qn_lparam(&f.b, "w", QN_LM_I8, I(16), false, true);
  const qn_lexpr *xf = qn_lload(&f.b, x, QN_LM_F32, V(l), 1), *wi = qn_lload(&f.b, w, QN_LM_I8, V(l), 1);
  ck_assert_str_eq(text_of(OP(ADD, xf, qn_lf32(&f.b, 0))), "x[l] + 0.0");
  ck_assert_str_eq(text_of(OP(MUL, xf, qn_lf32(&f.b, 1))), "x[l]*1.0");
  ck_assert_str_eq(text_of(OP(MUL, qn_lf32(&f.b, 1.5f), qn_lf32(&f.b, 2))), "3.0");
  ck_assert_str_eq(text_of(OP(DIV, qn_lf32(&f.b, 0), qn_lf32(&f.b, 0))), "0.0 / 0.0");
  ck_assert_str_eq(text_of(qn_lop1(&f.b, QN_LX_NEG, qn_lf32(&f.b, 0))), "-0.0");
  ck_assert_str_eq(text_of(qn_lop1(&f.b, QN_LX_ROUND, qn_lf32(&f.b, 2.5f))), "2.0");
  ck_assert_str_eq(text_of(OP(ADD, wi, qn_li32(&f.b, 0))), "w[l]");
  ck_assert_str_eq(text_of(OP(MUL, qn_li32(&f.b, 0), wi)), "0i32");
  ck_assert_str_eq(text_of(OP(ADD, qn_li32(&f.b, INT32_MAX), qn_li32(&f.b, 1))), "-2147483648i32");
  ck_assert_str_eq(text_of(OP(DIV, qn_li32(&f.b, -7), qn_li32(&f.b, 2))), "-4i32");
  ck_assert_str_eq(text_of(OP(SHR, qn_li32(&f.b, -1), qn_li32(&f.b, 28))), "15i32");
  ck_assert_str_eq(text_of(qn_lop1(&f.b, QN_LX_TO_F32, qn_li32(&f.b, 16777217))), "16777216.0");
  ck_assert_str_eq(text_of(qn_lop1(&f.b, QN_LX_AS_I32, qn_lf32(&f.b, 1))), "1065353216i32");
  ck_assert_str_eq(text_of(qn_lop1(&f.b, QN_LX_TO_I32, I(7))), "7i32");
  ck_assert_str_eq(text_of(qn_lop1(&f.b, QN_LX_TO_I32, I(1LL << 31))), "i32(2147483648)");
  ck_assert_str_eq(text_of(qn_lload(&f.b, x, QN_LM_F16, V(l), 16)), "x.f16[l : 16]");
  ck_assert_str_eq(text_of(qn_lload(&f.b, x, QN_LM_F32, qn_llane(&f.b, 4), 1)), "x[lane(4)]");
  teardown(&f);
}
END_TEST

// Masked bits that are moved right and then left are moved once; a table of a constant is a constant.
START_TEST(bit_moves_join) {
  static const uint8_t table[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 200};
  fixture f;
  setup(&f);
  qn_lbuf *w = qn_lparam(&f.b, "w", QN_LM_I32, I(4), false, false);
  const qn_lexpr *word = qn_lload(&f.b, w, QN_LM_I32, I(0), 1), *mask = qn_li32(&f.b, 0x03030303);
  static const char *const wants[] = {"", "and(shl(w[0], 2i32), 808464432i32)", "and(w[0], 808464432i32)",
                                      "and(shr(w[0], 2i32), 808464432i32)"};
  for (int i = 1; i < 4; i++) {
    const qn_lexpr *bits = OP(AND, OP(SHR, word, qn_li32(&f.b, 2 * i)), mask);
    ck_assert_str_eq(text_of(OP(SHL, bits, qn_li32(&f.b, 4))), wants[i]);
  }
  ck_assert_str_eq(text_of(OP(SHL, OP(AND, OP(SHR, word, qn_li32(&f.b, 8)), qn_li32(&f.b, -1)), qn_li32(&f.b, 8))),
                   "and(w[0], -256i32)");
  ck_assert_str_eq(text_of(qn_llut16(&f.b, qn_li32(&f.b, 0x0f1f0807), table)), "-926413800i32");
  const qn_lexpr *looked_up = qn_llut16(&f.b, word, table);
  uint8_t flipped[16];
  for (int i = 0; i < 16; i++) flipped[i] = table[i] ^ 0x80;
  const qn_lexpr *flip = qn_li32(&f.b, (int32_t)0x80808080);
  ck_assert(qn_lexpr_equal(qn_lop2(&f.b, QN_LX_XOR, looked_up, flip), qn_llut16(&f.b, word, flipped)));
  ck_assert_int_eq(qn_lop2(&f.b, QN_LX_XOR, looked_up, qn_li32(&f.b, 0x80))->op, QN_LX_XOR);  // of one byte of four
  ck_assert_int_eq(qn_lexpr_byte_max(looked_up), 200);
  ck_assert(qn_lexpr_equal(looked_up, qn_llut16(&f.b, word, table)));
  uint8_t other[16];
  memcpy(other, table, sizeof other);
  other[15] = 201;
  ck_assert(!qn_lexpr_equal(looked_up, qn_llut16(&f.b, word, other)));
  teardown(&f);
}
END_TEST

START_TEST(bits_that_cannot_be_set) {
  fixture f;
  setup(&f);
  qn_lbuf *w = qn_lparam(&f.b, "w", QN_LM_I32, I(4), false, false);
  const qn_lexpr *word = qn_lload(&f.b, w, QN_LM_I32, I(0), 1), *byte = qn_lload(&f.b, w, QN_LM_U8, I(0), 1);
  const qn_lexpr *low = OP(AND, word, qn_li32(&f.b, 0x0f0f0f0f));
  const qn_lexpr *high = OP(SHL, OP(AND, OP(SHR, word, qn_li32(&f.b, 3)), qn_li32(&f.b, 0x01010101)), qn_li32(&f.b, 4));
  ck_assert_uint_eq(qn_lexpr_bits(word), UINT32_MAX);
  ck_assert_int_eq(qn_lexpr_byte_max(word), 255);
  ck_assert_uint_eq(qn_lexpr_bits(byte), 255);
  ck_assert_int_eq(qn_lexpr_byte_max(OP(SHR, byte, qn_li32(&f.b, 4))), 15);
  ck_assert_int_eq(qn_lexpr_byte_max(low), 15);
  ck_assert_int_eq(qn_lexpr_byte_max(high), 16);
  ck_assert_int_eq(qn_lexpr_byte_max(OP(OR, low, high)), 31);
  ck_assert_int_eq(qn_lexpr_byte_max(OP(XOR, low, qn_li32(&f.b, 64))), 79);
  ck_assert_int_eq(qn_lexpr_byte_max(OP(ADD, low, high)), 255);
  ck_assert_int_eq(qn_lexpr_byte_max(OP(SHR, word, qn_lop1(&f.b, QN_LX_TO_I32, V(l)))), 255);  // by a variable
  const qn_lexpr *either = qn_lop3(&f.b, QN_LX_SELECT, OP(LT, V(l), V(k)), low, high);
  ck_assert_int_eq(qn_lexpr_byte_max(either), 31);
  qn_lbuf *small = qn_llocal(&f.b, &f.b.kernel->body, "small", QN_LM_I32, 4);
  small->byte_max = 100;  // a gap up to the next power of two is not seen
  ck_assert_int_eq(qn_lexpr_byte_max(qn_lload(&f.b, small, QN_LM_I32, I(0), 1)), 127);
  ck_assert_uint_eq(qn_lexpr_bits(qn_lload(&f.b, small, QN_LM_U8, I(0), 1)), 127);
  teardown(&f);
}
END_TEST

START_TEST(strides_are_read_off) {
  fixture f;
  setup(&f);
  int64_t c = -1;
  const qn_lexpr *rest, *e = OP(ADD, OP(MUL, OP(ADD, OP(MUL, V(n), I(64)), V(k)), I(136)), V(l));
  ck_assert(qn_lexpr_linear(&f.b, e, f.k, &c, &rest) && c == 136);
  ck_assert_str_eq(text_of(rest), "n*8704 + l");
  ck_assert(qn_lexpr_linear(&f.b, e, f.t, &c, &rest) && c == 0 && rest == e);
  ck_assert(!qn_lexpr_linear(&f.b, OP(MOD, V(t), I(8)), f.t, &c, &rest));
  ck_assert(!qn_lexpr_linear(&f.b, OP(MUL, V(t), qn_lsym(&f.b, QN_SYM_P)), f.t, &c, &rest));
  // A tree that no maker has seen.
  const qn_lexpr *raw = qn_lexpr_make(&f.b, &(qn_lexpr){.op = QN_LX_ADD, .operands = {V(n), V(n)}});
  ck_assert(qn_lexpr_linear(&f.b, raw, f.n, &c, &rest) && c == 2);
  ck_assert_str_eq(text_of(rest), "0");
  teardown(&f);
}
END_TEST

START_TEST(what_overflows_stays) {
  fixture f;
  setup(&f);
  const qn_lexpr *large = I(INT64_MAX), *small = I(INT64_MIN);
  ck_assert_str_eq(text_of(OP(ADD, large, I(1))), "9223372036854775807 + 1");
  ck_assert_str_eq(text_of(OP(MUL, large, large)), "9223372036854775807*9223372036854775807");
  ck_assert_str_eq(text_of(qn_lop1(&f.b, QN_LX_NEG, small)), "neg(-9223372036854775808)");
  ck_assert_str_eq(text_of(OP(SUB, V(t), small)), "t - -9223372036854775808");
  ck_assert_str_eq(text_of(OP(DIV, OP(MUL, V(t), small), I(6))), "t*-9223372036854775808 / 6");
  ck_assert_str_eq(text_of(OP(MOD, small, large)), "9223372036854775806");
  (void)qn_lexpr_range(OP(MUL, OP(ADD, V(t), large), OP(SUB, small, V(t))));
  // More terms than a sum holds.
  const qn_lexpr *sum = I(0);
  for (int i = 0; i < 40; i++) sum = OP(ADD, sum, OP(DIV, V(t), I(i + 2)));
  ck_assert_int_eq(sum->op, QN_LX_ADD);
  const qn_lexpr *product = V(n);
  for (int i = 0; i < 10; i++) product = OP(MUL, product, OP(ADD, V(t), I(i)));
  ck_assert_ptr_nonnull(product);
  ck_assert(!f.b.failed);
  teardown(&f);
}
END_TEST

// ---- the simplifier against plain evaluation ------------------------------------------------------------------

typedef struct values {
  const fixture *f;
  int64_t n, k, l, t, symbol_t, symbol_p;
  int lane;
} values;

static int64_t floor_divide(int64_t a, int64_t b) { return a / b - (a % b < 0); }

static int64_t evaluate(const qn_lexpr *e, const values *v) {
  if (e->op == QN_LX_INT) return e->u.int_value;
  if (e->op == QN_LX_LANE) return v->lane % e->type.lanes;
  if (e->op == QN_LX_SYM) return e->u.symbol == QN_SYM_T ? v->symbol_t : v->symbol_p;
  if (e->op == QN_LX_VAR) {
    return e->u.var == v->f->n ? v->n : e->u.var == v->f->k ? v->k : e->u.var == v->f->l ? v->l : v->t;
  }
  int64_t x[3] = {0};
  for (int i = 0; i < qn_lop_info_of(e->op)->operands; i++) x[i] = evaluate(e->operands[i], v);
  switch (e->op) {
    case QN_LX_ADD: return x[0] + x[1];
    case QN_LX_SUB: return x[0] - x[1];
    case QN_LX_MUL: return x[0] * x[1];
    case QN_LX_DIV: return floor_divide(x[0], x[1]);
    case QN_LX_MOD: return x[0] - x[1] * floor_divide(x[0], x[1]);
    case QN_LX_MIN: return x[0] < x[1] ? x[0] : x[1];
    case QN_LX_MAX: return x[0] > x[1] ? x[0] : x[1];
    case QN_LX_NEG: return -x[0];
    case QN_LX_LT: return x[0] < x[1];
    case QN_LX_LE: return x[0] <= x[1];
    case QN_LX_EQ: return x[0] == x[1];
    case QN_LX_SELECT: return x[0] ? x[1] : x[2];
    case QN_LX_TO_I32: return (int32_t)(uint32_t)(uint64_t)x[0];
    case QN_LX_TO_INDEX: return x[0];
    default: qn_test_abort(__FILE__, __LINE__, "operator", "%s", qn_lop_info_of(e->op)->text);
  }
}

static const qn_lexpr *keep_simple(qn_lbuild *b, const qn_lexpr *e, void *context) {
  (void)context;
  return qn_lexpr_simplify(b, e);
}

// A random index expression, as written (*raw) and as the makers make it (the result).
static const qn_lexpr *random_expr(fixture *f, qn_test_random *r, int depth, const qn_lexpr **raw) {
  static const qn_lop ops[] = {QN_LX_ADD, QN_LX_ADD, QN_LX_SUB, QN_LX_MUL, QN_LX_DIV,
                               QN_LX_MOD, QN_LX_MIN, QN_LX_MAX, QN_LX_NEG, QN_LX_SELECT};
  qn_lbuild *b = &f->b;
  uint64_t pick = qn_test_random_u64(r) % 100;
  if (depth == 0 || pick < 8) {
    const qn_lvar *const vars[] = {f->n, f->k, f->l, f->t};
    if (pick % 8 < 4) return *raw = qn_lref(b, vars[pick % 4]);
    if (pick % 8 == 4) return *raw = qn_lsym(b, pick & 8 ? QN_SYM_T : QN_SYM_P);
    if (pick % 8 == 5) return *raw = qn_llane(b, 8);
    return *raw = qn_lint(b, (int64_t)(qn_test_random_u64(r) % 40) - 12);
  }
  qn_lexpr node = {.op = ops[pick % QN_COUNT(ops)]}, simple;
  const qn_lexpr *x, *y, *z, *raw_x, *raw_y, *raw_z;
  x = random_expr(f, r, depth - 1, &raw_x);
  y = random_expr(f, r, depth - 1, &raw_y);
  if (node.op == QN_LX_DIV || node.op == QN_LX_MOD) {
    y = raw_y =
        qn_test_random_u64(r) % 8 ? qn_lint(b, 1 + (int64_t)(qn_test_random_u64(r) % 24)) : qn_lsym(b, QN_SYM_T);
  } else if (node.op == QN_LX_MUL && qn_test_random_u64(r) % 4) {
    y = raw_y = qn_lint(b, (int64_t)(qn_test_random_u64(r) % 24) - 4);
  }
  if (node.op == QN_LX_SELECT) {
    static const qn_lop compares[] = {QN_LX_LT, QN_LX_LE, QN_LX_EQ};
    qn_lop compare = compares[qn_test_random_u64(r) % 3];
    z = random_expr(f, r, depth - 1, &raw_z);
    const qn_lexpr *raw_p = qn_lexpr_make(b, &(qn_lexpr){.op = compare, .operands = {raw_x, raw_y}});
    const qn_lexpr *p = qn_lop2(b, compare, x, y);
    *raw = qn_lexpr_make(b, &(qn_lexpr){.op = QN_LX_SELECT, .operands = {raw_p, raw_y, raw_z}});
    return qn_lop3(b, QN_LX_SELECT, p, y, z);
  }
  node.operands[0] = raw_x;
  if (node.op != QN_LX_NEG) node.operands[1] = raw_y;
  simple = node;
  simple.operands[0] = x;
  if (node.op != QN_LX_NEG) simple.operands[1] = y;
  *raw = qn_lexpr_make(b, &node);
  return qn_lexpr_simplify(b, &simple);
}

static void check_equal_values(const fixture *f, qn_test_random *r, const qn_lexpr *raw, const qn_lexpr *simple) {
  qn_lrange range = qn_lexpr_range(simple);
  for (int i = 0; i < 24; i++) {
    values v = {.f = f, .lane = i % 8};
    v.symbol_t = 1 + (int64_t)(qn_test_random_u64(r) % 9);
    v.symbol_p = 1 + (int64_t)(qn_test_random_u64(r) % 5);
    v.n = (int64_t)(qn_test_random_u64(r) % 32);
    v.k = (int64_t)(qn_test_random_u64(r) % 64);
    v.l = (int64_t)(qn_test_random_u64(r) % 16);
    v.t = (int64_t)(qn_test_random_u64(r) % (uint64_t)v.symbol_t);
    int64_t want = evaluate(raw, &v), got = evaluate(simple, &v);
    qn_check(want == got, "%s became %s: got %lld, want %lld", text_of(raw), text_of(simple), (long long)got,
             (long long)want);
    qn_check(got >= range.min && got <= range.max, "%s is %lld, its range %lld..%lld", text_of(simple), (long long)got,
             (long long)range.min, (long long)range.max);
  }
}

START_TEST(simplified_expressions_keep_their_values) {
  qn_test_random r = {2024};
  for (int round = 0; round < 400; round++) {
    fixture f;
    setup(&f);
    for (int i = 0; i < 20; i++) {
      const qn_lexpr *raw, *simple = random_expr(&f, &r, 1 + i % 5, &raw);
      ck_assert_ptr_nonnull(simple);
      qn_check(simple->type.lanes == raw->type.lanes && simple->type.kind == raw->type.kind, "%s", text_of(raw));
      check_equal_values(&f, &r, raw, simple);
      const qn_lexpr *later = qn_lexpr_map(&f.b, raw, keep_simple, NULL);
      check_equal_values(&f, &r, raw, later);
      // What the maker made is simple: making it again changes nothing.
      const qn_lexpr *again = qn_lexpr_map(&f.b, simple, keep_simple, NULL);
      qn_check(qn_lexpr_equal(again, simple), "%s: %s became %s", text_of(raw), text_of(simple), text_of(again));
      const qn_lexpr *moved = qn_lexpr_replace(&f.b, simple, f.k, qn_lint(&f.b, 5));
      qn_check(!qn_lexpr_uses(moved, f.k), "%s", text_of(moved));
    }
    teardown(&f);
  }
}
END_TEST

// ---- copies and blocks ----------------------------------------------------------------------------------------

static const char SMALL[] =
    "kernel \"small\" {\n"
    "  param x : f32[T*64]\n"
    "  param y : f32[T*64] out\n"
    "  for t in 0..T data parallel {\n"
    "    local sum : f32[1]\n"
    "    sum[0] = 0.0\n"
    "    for i in 0..64 reduce unroll {\n"
    "      prefetch x[t*64 + i + 256]\n"
    "      sum[0] = fma(x[t*64 + i], f32(i32(i)), sum[0])\n"
    "    }\n"
    "    for j in 0..4 data {\n"
    "      y[t*64 + j*16 : 16] = sum[0] + x[t*64 + j*16 : 16]*x[t*64 + (j*16 + lane(16)) % 64]\n"
    "    }\n"
    "  }\n"
    "}\n";

static char *print_kernel(const qn_lkernel *kernel, qn_arena *arena) {
  qn_buf buf;
  qn_buf_init(&buf, qn_test_allocator());
  qn_lkernel_print(kernel, &buf);
  char *text = qn_arena_strdup(arena, qn_buf_text(&buf));
  qn_buf_deinit(&buf);
  return text;
}

static qn_lkernel *parse_one(const char *text, qn_arena *arena) {
  qn_lkernel **kernels = NULL;
  size_t count = 0;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_lkernels_parse("small", qn_str_from(text), arena, &kernels, &count, &diag));
  ck_assert_uint_eq(count, 1);
  return kernels[0];
}

START_TEST(kernels_are_copied_whole) {
  qn_arena first, second;
  qn_arena_init(&first, qn_test_allocator());
  qn_arena_init(&second, qn_test_allocator());
  qn_diag diag = {0};
  qn_lbuild b;
  qn_lkernel *copy = qn_lkernel_copy(&b, &second, parse_one(SMALL, &first), "small");
  qn_arena_deinit(&first);  // the copy holds nothing of it
  qn_assert_ok(&diag, qn_lkernel_verify(copy, &diag));
  ck_assert_str_eq(print_kernel(copy, &second), SMALL);
  ck_assert_str_eq(qn_lvar_new(&b, "i")->name, "i$1");
  qn_arena_deinit(&second);
}
END_TEST

START_TEST(blocks_are_copied_under_fresh_names) {
  qn_arena arena;
  qn_arena_init(&arena, qn_test_allocator());
  qn_diag diag = {0};
  qn_lbuild b;
  qn_lkernel *kernel = parse_one(SMALL, &arena);
  qn_lbuild_open(&b, &arena, kernel);
  qn_lstmt *loop = kernel->body.first;
  ck_assert(qn_lblock_copy(&b, &loop->u.loop.body, &loop->u.loop.body));  // onto itself: once, not for ever
  qn_assert_ok(&diag, qn_lkernel_verify(kernel, &diag));
  const char *text = print_kernel(kernel, &arena);
  ck_assert(strstr(text, "sum$1[0] = fma(x[t*64 + i$1], f32(i32(i$1)), sum$1[0])"));
  ck_assert(strstr(text, "for i$1 in 0..64 reduce unroll {"));
  ck_assert(!strstr(text, "$2"));
  qn_arena_deinit(&arena);
}
END_TEST

static const qn_lexpr *widen(qn_lbuild *b, const qn_lexpr *e, void *context) {
  return e->op == QN_LX_VAR && e->u.var == context ? qn_llane(b, 8) : e;
}

static const qn_lexpr *fix_t(qn_lbuild *b, const qn_lexpr *e, void *context) {
  (void)context;
  return e->op == QN_LX_SYM ? qn_lint(b, 3) : qn_lexpr_simplify(b, e);
}

START_TEST(maps_update_lanes_and_ranges) {
  qn_arena arena;
  qn_arena_init(&arena, qn_test_allocator());
  qn_diag diag = {0};
  qn_lbuild b;
  qn_lkernel *kernel = parse_one(
      "kernel \"k\" { param x : f32[T*8] param y : f32[T*8] out for t in 0..T data {"
      " for i in 0..8 data { y[t % 3*8 + i] = x[i] y[i] = 1.0 } } }",
      &arena);
  qn_lbuild_open(&b, &arena, kernel);
  qn_lstmt *t = kernel->body.first, *i = t->u.loop.body.first;
  qn_lblock_map(&b, &i->u.loop.body, widen, i->u.loop.var);
  ck_assert_int_eq(i->u.loop.body.first->u.store.lanes, 8);
  ck_assert_int_eq(i->u.loop.body.first->u.store.value->type.lanes, 8);  // the load became a gather
  ck_assert_int_eq(i->u.loop.body.last->u.store.lanes, 8);
  ck_assert(!t->u.loop.var->bounded);
  qn_lblock_map(&b, &kernel->body, fix_t, NULL);
  ck_assert(t->u.loop.var->bounded && t->u.loop.var->hi == 3);
  ck_assert(strstr(print_kernel(kernel, &arena), "y[t*8 + lane(8)] = x[lane(8)]"));
  qn_assert_ok(&diag, qn_lkernel_verify(kernel, &diag));
  qn_arena_deinit(&arena);
}
END_TEST

START_TEST(statements_are_linked_both_ways) {
  qn_lstmt s[3] = {0};
  qn_lblock block = {0};
  qn_lblock_append(&block, &s[1]);
  qn_lblock_insert_before(&block, &s[1], &s[0]);
  qn_lblock_insert_before(&block, NULL, &s[2]);
  ck_assert(block.first == &s[0] && s[0].next == &s[1] && s[1].next == &s[2] && block.last == &s[2] && !s[2].next);
  ck_assert(!s[0].prev && s[1].prev == &s[0] && s[2].prev == &s[1]);
  qn_lblock_remove(&block, &s[1]);
  ck_assert(s[0].next == &s[2] && s[2].prev == &s[0] && !s[1].next && !s[1].prev);
  qn_lblock_remove(&block, &s[0]);
  qn_lblock_remove(&block, &s[2]);
  ck_assert(!block.first && !block.last);
}
END_TEST

// ---- parts of buffers -----------------------------------------------------------------------------------------

START_TEST(parts_of_buffers) {
  static const struct {
    const char *head, *body;
    int64_t bytes;
  } cases[] = {
      {"n in 0..8", "y[n*16 : 16] = 1.0", 512},
      {"n in 0..8", "for l in 0..16 data { y[n*16 + l] = 1.0 }", 512},
      {"n in 0..8", "for l in 0..17 data { y[n*16 + l] = 1.0 }", 0},         // reaches into the next part
      {"n in 0..8", "for l in 0..8 data { y[n*16 + l + 1 : 8] = 1.0 }", 512},  // elements 1 to 15
      {"n in 0..8", "for l in 0..8 data { y[n*16 + l + 2 : 8] = 1.0 }", 0},
      {"n in 0..8", "for t in 0..T data { y[t*128 + n*16] = 1.0 }", 512},    // of every row
      {"n in 0..8", "for t in 0..T data { y[t*130 + n*16] = 1.0 }", 0},      // rows that begin elsewhere
      {"n in 0..8", "y[index(i[0])*256 + n*16 + 3] = 1.0", 512},             // of some page
      {"n in 0..8", "y[index(i[0]) + n*16] = 1.0", 0},
      {"n in 0..8", "y[n*16 + 4 - lane(4)] = 1.0", 512},
      {"n in 0..8", "y[n*16 + lane(4)*6] = 1.0", 0},
      {"n in 0..8", "y[n*16] = y[n*16 + 3] + y.f32[n*16 + 15]", 512},
      {"n in 0..8", "y[n*16] = y[n*16 + 16]", 0},
      {"n in 0..8", "y.i8[n*64 + 63] = 1i32 y[n*16] = 1.0", 512},            // the same bytes as another type
      {"n in 0..8", "y.i8[n*32] = 1i32 y[n*16] = 1.0", 0},
      {"n in 0..8", "y[n*16] = select(lt(y[n*8], 0.0), 1.0, 2.0)", 0},
      {"n in 0..8", "for k in 0..index(i[0]) data { y[n*16] = 1.0 }", 512},
      {"n in 0..8", "y[128 - n*16] = 1.0", 0},                               // the other way round
      {"n in 0..8", "y[5] = 1.0", 0},                                        // all of them the same
      {"n in 0..8", "y[n/2*16] = 1.0", 0},
      {"n in 0..8", "prefetch y[0] x[n] = 1.0", 0},                          // nothing is touched
      {"n in 0..T", "y[n*16] = 1.0", 0},                                     // not so many as is known
      {"n in 1..8", "y[n*16] = 1.0", 0},
      {"n in 0..1", "y[n*16] = 1.0", 0},                                     // one part
  };
  for (size_t c = 0; c < QN_COUNT(cases); c++) {
    char text[512];
    qn_diag diag = {0};
    qn_arena arena;
    qn_lkernel **kernels = NULL;
    size_t count = 0;
    int64_t bytes = -1;
    int length = snprintf(text, sizeof text,
                          "kernel \"k\" { param y : f32[T*256] out param x : f32[T*8] out param i : i32[T] "
                          "for %s data { %s } }",
                          cases[c].head, cases[c].body);
    qn_arena_init(&arena, qn_test_allocator());
    qn_assert_ok(&diag, qn_lkernels_parse("t", (qn_str){text, (size_t)length}, &arena, &kernels, &count, &diag));
    qn_assert_ok(&diag, qn_lkernel_verify(kernels[0], &diag));
    qn_assert_ok(&diag, qn_lkernel_span(kernels[0], 0, &arena, &bytes, &diag));
    qn_check(bytes == cases[c].bytes, "%s: got %lld bytes, want %lld", text, (long long)bytes,
             (long long)cases[c].bytes);
    qn_arena_deinit(&arena);
  }
}
END_TEST

// ---- text -----------------------------------------------------------------------------------------------------

START_TEST(random_expressions_round_trip) {
  qn_test_random r = {7};
  for (int round = 0; round < 500; round++) {
    fixture f;
    setup(&f);
    qn_lbuf *y = qn_lparam(&f.b, "y", QN_LM_F32, I(64), true, false);
    qn_lblock *body = &f.b.kernel->body;  // every variable is in scope in the innermost loop
    while (body->first && body->first->kind == QN_LS_FOR) body = &body->first->u.loop.body;
    for (int i = 0; i < 10; i++) {
      const qn_lexpr *raw, *simple = random_expr(&f, &r, 1 + i % 5, &raw);
      qn_lstore(&f.b, body, y, QN_LM_F32, I(0), qn_lop1(&f.b, QN_LX_TO_F32, qn_lop1(&f.b, QN_LX_TO_I32, simple)));
      qn_lstore(&f.b, body, y, QN_LM_F32, I(0), qn_lop1(&f.b, QN_LX_TO_F32, qn_lop1(&f.b, QN_LX_TO_I32, raw)));
    }
    const char *text = print_kernel(f.b.kernel, &f.arena);
    ck_assert_str_eq(print_kernel(parse_one(text, &f.arena), &f.arena), text);
    teardown(&f);
  }
}
END_TEST

START_TEST(random_constants_round_trip) {
  static const float special[] = {0, -0.0f, 1, 16777216, 1e-45f, 3.4028235e38f, 0.1f, INFINITY, -INFINITY, NAN};
  qn_test_random r = {11};
  fixture f;
  setup(&f);
  qn_lbuf *y = qn_lparam(&f.b, "y", QN_LM_F32, I(64), true, false);
  for (int i = 0; i < 2000; i++) {
    uint32_t bits = (uint32_t)qn_test_random_u64(&r);
    float value;
    memcpy(&value, &bits, sizeof value);
    if (i < (int)QN_COUNT(special)) value = special[i];
    qn_lstore(&f.b, &f.b.kernel->body, y, QN_LM_F32, I(0), qn_lf32(&f.b, value));
  }
  qn_lkernel *again = parse_one(print_kernel(f.b.kernel, &f.arena), &f.arena);
  const qn_lstmt *a = f.b.kernel->body.first, *b = again->body.first;
  for (; a && b; a = a->next, b = b->next) {
    if (a->kind != QN_LS_STORE) continue;
    qn_check(qn_lexpr_equal(a->u.store.value, b->u.store.value), "%s", text_of(a->u.store.value));
  }
  ck_assert(!a && !b);
  teardown(&f);
}
END_TEST

START_TEST(damaged_texts_are_errors) {  // cut short, or with one byte changed: no crash, and a message with a place
  qn_test_random r = {3};
  for (int round = 0; round < 4000; round++) {
    char text[sizeof SMALL];
    memcpy(text, SMALL, sizeof text);
    size_t length = sizeof SMALL - 1;
    if (round % 2) {
      length = qn_test_random_u64(&r) % length;
    } else {
      for (int i = 0; i < 1 + round % 3; i++) text[qn_test_random_u64(&r) % length] = (char)qn_test_random_u64(&r);
    }
    char *exact = qn_alloc(qn_test_allocator(), length + 1);  // so that reading beyond the end is seen
    memcpy(exact, text, length);
    qn_arena arena;
    qn_diag diag = {0};
    qn_lkernel **kernels = NULL;
    size_t count = 0;
    qn_arena_init(&arena, qn_test_allocator());
    qn_status status = qn_lkernels_parse("small", (qn_str){exact, length}, &arena, &kernels, &count, &diag);
    qn_check(status == QN_OK || (status == QN_ERR_FORMAT && strncmp(diag.text, "small:", 6) == 0), "%s", diag.text);
    for (size_t i = 0; status == QN_OK && i < count; i++) {
      diag = (qn_diag){0};
      qn_status verdict = qn_lkernel_verify(kernels[i], &diag);
      qn_check(verdict == QN_OK || verdict == QN_ERR_INTERNAL, "%s", diag.text);
    }
    qn_arena_deinit(&arena);
    qn_free(qn_test_allocator(), exact, length + 1);
  }
}
END_TEST

// `times` times `open`, then `middle`, then as often `close`, in a kernel; gives the parse's status.
static qn_status parse_nested(const char *open, const char *middle, const char *close, int times, qn_diag *diag) {
  qn_buf text;
  qn_arena arena;
  qn_lkernel **kernels;
  size_t count;
  qn_buf_init(&text, qn_test_allocator());
  qn_arena_init(&arena, qn_test_allocator());
  qn_buf_puts(&text, "kernel \"k\" { param y : f32[1] out ");
  for (int i = 0; i < times; i++) qn_buf_printf(&text, open, i);
  qn_buf_puts(&text, middle);
  for (int i = 0; i < times; i++) qn_buf_puts(&text, close);
  qn_buf_puts(&text, "}");
  *diag = (qn_diag){0};
  qn_status status = qn_lkernels_parse("k", qn_str_from(qn_buf_text(&text)), &arena, &kernels, &count, diag);
  if (status == QN_OK) status = qn_lkernel_verify(kernels[0], diag);
  qn_arena_deinit(&arena);
  qn_buf_deinit(&text);
  return status;
}

START_TEST(nesting_is_bounded) {
  qn_diag diag;
  const char *loop = "for i%d in 0..2 data {", *deep = "got deeper nesting", *high = "got a deeper expression";
  qn_assert_ok(&diag, parse_nested(loop, "", "}", 190, &diag));
  qn_assert_fails(&diag, QN_ERR_FORMAT, deep, parse_nested(loop, "", "}", 100000, &diag));
  qn_assert_ok(&diag, parse_nested("y[0] = 1.0", "", " + 1.0", 1, &diag));
  qn_assert_fails(&diag, QN_ERR_FORMAT, deep, parse_nested("y[", "0", "]", 100000, &diag));
  qn_assert_ok(&diag, parse_nested("", "y[0] = abs(abs(1.0))", "", 0, &diag));
  // A chain nests to the left without a bracket: refused by its height.
  qn_buf chain;
  qn_buf_init(&chain, qn_test_allocator());
  qn_buf_puts(&chain, "y[0] = 1.0");
  for (int i = 0; i < 150; i++) qn_buf_puts(&chain, " + 1.0");
  qn_assert_ok(&diag, parse_nested("", qn_buf_text(&chain), "", 0, &diag));
  for (int i = 0; i < 100000; i++) qn_buf_puts(&chain, " + 1.0");
  qn_assert_fails(&diag, QN_ERR_FORMAT, high, parse_nested("", qn_buf_text(&chain), "", 0, &diag));
  qn_buf_deinit(&chain);
}
END_TEST

// ---- the verifier on what no text can say ---------------------------------------------------------------------

START_TEST(every_operator_has_a_rule) {
  for (int op = 0; op < QN_LX_COUNT; op++) {  // an operator without one is refused whatever it is given
    fixture f;
    setup(&f);
    const qn_lop_info *info = qn_lop_info_of((qn_lop)op);
    qn_lbuf *y = qn_lparam(&f.b, "y", QN_LM_F32, I(1), true, false);
    qn_lexpr node = {.op = (qn_lop)op, .operands = {qn_lf32(&f.b, 1), qn_lf32(&f.b, 1), qn_lf32(&f.b, 1)}};
    if (info->syntax != 'X') {
      qn_diag diag = {0};
      qn_lstore(&f.b, &f.b.kernel->body, y, QN_LM_F32, I(0), qn_lexpr_make(&f.b, &node));
      if (qn_lkernel_verify(f.b.kernel, &diag) != QN_OK) {
        qn_check(!strstr(diag.text, "has no rule"), "%s", diag.text);
      }
    }
    teardown(&f);
  }
}
END_TEST

START_TEST(broken_structures_are_found) {
  fixture f;
  qn_diag diag = {0};
  setup(&f);
  f.n->hi = 31;  // the loop runs to 32
  qn_assert_fails(&diag, QN_ERR_INTERNAL, "kernel 'test': in 'for n in 0..32 data': the variable's range: got 0..31",
                  qn_lkernel_verify(f.b.kernel, &diag));
  teardown(&f);
  setup(&f);
  diag = (qn_diag){0};
  f.b.kernel->body.last = NULL;
  qn_assert_fails(&diag, QN_ERR_INTERNAL, "broken link", qn_lkernel_verify(f.b.kernel, &diag));
  teardown(&f);
  setup(&f);
  diag = (qn_diag){0};
  qn_lbuf *y = qn_lparam(&f.b, "y", QN_LM_F32, I(1), true, false);
  qn_lexpr wrong = {.op = QN_LX_FLOAT, .type = {QN_LK_I32, 1}};
  qn_lstore(&f.b, &f.b.kernel->body, y, QN_LM_F32, I(0), &wrong);
  qn_assert_fails(&diag, QN_ERR_INTERNAL, "want a scalar f32", qn_lkernel_verify(f.b.kernel, &diag));
  diag = (qn_diag){0};
  qn_lexpr shared = {.op = QN_LX_NEG, .type = {QN_LK_F32, 2}, .operands = {qn_lf32(&f.b, 1)}};
  f.b.kernel->body.last->u.store.value = &shared;
  qn_assert_fails(&diag, QN_ERR_INTERNAL, "got the type f32 with 2 lanes, want f32 with 1",
                  qn_lkernel_verify(f.b.kernel, &diag));
  diag = (qn_diag){0};
  y->spread = y->shared = true;
  qn_lwait(&f.b, &f.b.kernel->body, QN_LWAIT_MAX + 1);
  f.b.kernel->body.last->prev->u.store.value = qn_lf32(&f.b, 1);
  y->spread = y->shared = false;
  qn_assert_fails(&diag, QN_ERR_INTERNAL, "in 'wait 32': got 32 groups, want 0 to 31",
                  qn_lkernel_verify(f.b.kernel, &diag));
  diag = (qn_diag){0};
  qn_lblock_remove(&f.b.kernel->body, f.b.kernel->body.last);
  qn_lbuf *both = qn_llocal(&f.b, &f.b.kernel->body, "both", QN_LM_F32, 1);
  both->spread = both->shared = true;
  qn_assert_fails(&diag, QN_ERR_INTERNAL, "got a local that is shared and spread, want one of both",
                  qn_lkernel_verify(f.b.kernel, &diag));
  diag = (qn_diag){0};
  y->param_index = 4;
  qn_assert_fails(&diag, QN_ERR_INTERNAL, "parameter 'y': got number 4, want 0", qn_lkernel_verify(f.b.kernel, &diag));
  teardown(&f);
}
END_TEST

START_TEST(long_chains_are_refused_not_overflowed) {
  fixture f;
  setup(&f);
  qn_diag diag = {0};
  qn_lbuf *y = qn_lparam(&f.b, "y", QN_LM_F32, I(1), true, false);
  const qn_lexpr *e = qn_lload(&f.b, y, QN_LM_F32, I(0), 1);
  for (int i = 0; i < 1000; i++) e = OP(ADD, e, qn_lf32(&f.b, 1));
  qn_lstore(&f.b, &f.b.kernel->body, y, QN_LM_F32, I(0), e);
  qn_assert_fails(&diag, QN_ERR_INTERNAL, "more than 200 levels", qn_lkernel_verify(f.b.kernel, &diag));
  teardown(&f);
}
END_TEST

// ---- allocations that fail ------------------------------------------------------------------------------------

static qn_status parse_copy_map(const qn_allocator *allocator, void *context) {
  qn_arena arena;
  qn_diag diag = {0};
  qn_lkernel **kernels;
  size_t count;
  qn_lbuild b;
  (void)context;
  qn_arena_init(&arena, allocator);
  qn_status status = qn_lkernels_parse("small", QN_STR(SMALL), &arena, &kernels, &count, &diag);
  if (status == QN_OK) {
    qn_lkernel *copy = qn_lkernel_copy(&b, &arena, kernels[0], "copy");
    if (copy) qn_lblock_map(&b, &copy->body, fix_t, NULL);
    if (copy) qn_lblock_copy(&b, &copy->body, &copy->body);
    if (!copy || b.failed) status = QN_ERR_NOMEM;
  } else if (!strstr(diag.text, "out of memory")) {
    status = QN_ERR_INTERNAL;
  }
  qn_arena_deinit(&arena);
  return status;
}

static qn_status build_all(const qn_allocator *allocator, void *context) {
  qn_arena arena;
  qn_lbuild b;
  (void)context;
  qn_arena_init(&arena, allocator);
  qn_lbuild_init(&b, &arena, "built");
  qn_lbuf *y = qn_lparam(&b, "y", QN_LM_F32, qn_ldim(&b, (qn_dim){QN_SYM_T, 16}), true, false);
  qn_lblock *block = &b.kernel->body;
  for (int i = 0; i < 40; i++) {
    qn_lvar *var = qn_lvar_new(&b, "i");
    qn_lstmt *loop = qn_lfor(&b, block, var, qn_lint(&b, 0), qn_lint(&b, 16), QN_LO_DATA);
    qn_lbuf *local = qn_llocal(&b, &loop->u.loop.body, "a", QN_LM_F32, 1);
    const qn_lexpr *at = qn_lop2(&b, QN_LX_ADD, qn_lref(&b, var), qn_lint(&b, i));
    qn_lprefetch(&b, &loop->u.loop.body, y, QN_LM_F32, at, false);
    qn_lstore(&b, &loop->u.loop.body, y, QN_LM_F32, at, qn_lload(&b, local, QN_LM_F32, qn_lint(&b, 0), 1));
    block = &loop->u.loop.body;
  }
  bool failed = b.failed;
  qn_diag diag = {0};
  if (!failed) qn_assert_ok(&diag, qn_lkernel_verify(b.kernel, &diag));
  qn_arena_deinit(&arena);
  return failed ? QN_ERR_NOMEM : QN_OK;
}

// Lets small requests through and fails the `fail_at`th large one: an arena's chunk.
typedef struct chunk_allocator {
  qn_allocator allocator;
  int chunks, fail_at;
} chunk_allocator;

static void *chunk_reallocate(void *context, void *pointer, size_t old_size, size_t new_size) {
  chunk_allocator *a = context;
  if (new_size >= 4096 && new_size > old_size && ++a->chunks >= a->fail_at) return NULL;
  const qn_allocator *inner = qn_test_allocator();
  return inner->reallocate(inner->context, pointer, old_size, new_size);
}

// Moves the place where a chunk ends over every object of a parse, so that each allocation site sees a failure.
START_TEST(every_object_may_fail) {
  size_t failures = 0;
  size_t before = qn_test_allocator_memory()->live_bytes;
  for (int fail_at = 2; fail_at <= 4; fail_at++) {
    for (size_t used = 0; used < 4096; used += 16) {
      chunk_allocator a = {.allocator = {&a, chunk_reallocate}, .fail_at = fail_at};
      qn_arena arena;
      qn_arena_init(&arena, &a.allocator);
      ck_assert_ptr_nonnull(qn_arena_alloc(&arena, used));
      qn_lkernel **kernels = NULL;
      size_t count;
      qn_diag diag = {0};
      qn_lbuild b;
      qn_status status = qn_lkernels_parse("small", QN_STR(SMALL), &arena, &kernels, &count, &diag);
      qn_check(status == QN_OK || (status == QN_ERR_NOMEM && diag.status == QN_ERR_NOMEM), "%s", diag.text);
      if (status == QN_OK && !qn_lkernel_copy(&b, &arena, kernels[0], "copy")) status = QN_ERR_NOMEM;
      if (status == QN_OK) qn_lblock_map(&b, &b.kernel->body, fix_t, NULL);
      if (status == QN_OK && !qn_lblock_copy(&b, &b.kernel->body, &b.kernel->body)) status = QN_ERR_NOMEM;
      failures += status != QN_OK;
      qn_arena_deinit(&arena);
    }
  }
  ck_assert_uint_gt(failures, 600);
  ck_assert_uint_eq(qn_test_allocator_memory()->live_bytes, before);
}
END_TEST

START_TEST(failures_stick_and_leak_nothing) {
  qn_test_failing_allocations(parse_copy_map, NULL);
  qn_test_failing_allocations(build_all, NULL);
}
END_TEST

QN_CASE(makers, names_are_unique, opening_a_kernel_keeps_names_apart, loops_bound_their_variables)
QN_CASE(simplifier, sums_have_one_form, division_drops_what_divides, ranges_decide, other_kinds_only_fold,
        bit_moves_join, bits_that_cannot_be_set, strides_are_read_off, what_overflows_stays,
        simplified_expressions_keep_their_values)
QN_CASE(copies, kernels_are_copied_whole, blocks_are_copied_under_fresh_names, maps_update_lanes_and_ranges,
        statements_are_linked_both_ways)
QN_CASE(parts, parts_of_buffers)
QN_CASE(text, random_expressions_round_trip, random_constants_round_trip, damaged_texts_are_errors, nesting_is_bounded)
QN_CASE(verifier, every_operator_has_a_rule, broken_structures_are_found, long_chains_are_refused_not_overflowed)
QN_CASE(memory, failures_stick_and_leak_nothing, every_object_may_fail)
QN_TEST_MAIN(makers, simplifier, copies, parts, text, verifier, memory)
