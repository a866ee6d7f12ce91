// The cost model (passes/cost*.c) and what stands on it: counts of kernels that can be done by hand, times that follow
// from them, what must never make a kernel slower, and schedules: which are legal, what the default is, who may choose.
#include <math.h>
#include <string.h>

#include "passes/cost.h"
#include "passes/pass.h"
#include "tests/support/graph_text.h"
#include "tests/support/test.h"

typedef struct compiled {
  qn_arena arena;
  qn_pass_options options;
  qn_pass_context context;
  qn_diag diag;
} compiled;

static qn_status run(compiled *c, const char *text, const char *sizes) {
  qn_arena_init(&c->arena, qn_test_allocator());
  c->context = (qn_pass_context){
      .arena = &c->arena, .allocator = qn_test_allocator(), .options = &c->options, .diag = &c->diag};
  qn_assert_ok(&c->diag, qn_graph_from_text(text, sizes, &c->arena, &c->context.graph, &c->diag));
  return qn_run_passes(&c->context);
}

// The last kernel of the graph, which the caller's arena holds.
static const qn_pkernel *compile(compiled *c, const char *text, const char *sizes, qn_machine_model machine) {
  *c = (compiled){.options = {.machine = machine, .quantize_activations = true}};
  qn_assert_ok(&c->diag, run(c, text, sizes));
  return &c->context.program->kernels.items[c->context.program->kernels.count - 1];
}

static void release(compiled *c) { qn_arena_deinit(&c->arena); }

static const char product[] = "x = input f32[T,$K]; w = param $F[$N,$K]; y = matmul x w; output y; max T=256 R=256";
static const char attention[] =
    "q = input f32[T,8,64]; kc = cache kind=k index=0 f16[G,2,64,64]; vc = cache kind=v index=0 f16[G,2,64,64]\n"
    "s = attn_scores q kc pos seq block_table scale=0.125; p = softmax s; o = attn_mix p vc pos seq block_table\n"
    "output o; max T=64 R=64 B=1 P=8 G=8";
static const char rows[] = "x = input f32[T,96]; w = param f32[96]; y = rmsnorm x w eps=1e-5; output y; max T=64";

// One core that does 2 multiplications and loads a cycle, on vectors of 16 floats.
static qn_machine_model plain_machine(void) {
  qn_machine_model m = qn_machine_model_plain(64, 32, 0, 1 << 20);
  m.cores = 1;
  m.fma_per_cycle = m.loads_per_cycle = 2;
  m.vector_ops_per_cycle = 4;
  m.cycles_per_s = 1e9;
  m.memory_bytes_per_s = m.core_bytes_per_s = 1e15;  // only instructions count
  return m;
}

static qn_schedule tiles(int m, int n) {
  qn_schedule s = qn_schedule_plain();
  s.k_unroll = s.parallel = 1;
  s.lanes = 16;
  s.n_tile = n;
  s.m_tile_count = 0;
  s.m_tiles[s.m_tile_count++] = m;
  if (m > 1) s.m_tiles[s.m_tile_count++] = 1;
  return s;
}

static qn_prediction predict(const qn_pkernel *kernel, int64_t count, const qn_schedule *s, const qn_machine_model *m) {
  qn_prediction p;
  qn_schedule_predict(kernel, count, s, m, &p);
  return p;
}

static void check_near(double got, double want, const char *what) {
  qn_check(fabs(got - want) <= 1e-3 * fabs(want), "%s: got %g, want %g", what, got, want);
}

// ---- counting ---------------------------------------------------------------------------------------------------

// 64 values along K: a multiply-add each, a load of 16 weights for all tokens and one of an activation for all panels.
START_TEST(a_float_product_by_hand) {
  compiled c;
  const qn_work_nest *nest = &compile(&c, product, "F=f32 N=32 K=64", plain_machine())->work->nests[0][0];
  ck_assert_int_eq(nest->panels, 2);
  ck_assert_int_eq(nest->accumulators, 1);
  check_near(nest->links, 64, "links");
  check_near(nest->sums, 0, "sums");
  check_near(nest->counts[QN_SHARE_CELL].ops[QN_LX_FMA], 64, "fma");
  check_near(nest->counts[QN_SHARE_PANEL].loads[QN_LM_F32], 64, "loads of weights");
  check_near(nest->counts[QN_SHARE_ROW].loads[QN_LM_F32], 64, "loads of activations");
  check_near(nest->counts[QN_SHARE_CELL].stores, 1, "stores");
  release(&c);
}
END_TEST

// 64 values of 4 bits are 16 words, half of them in the low halves of bytes, and 2 blocks with a scale.
START_TEST(an_integer_product_by_hand) {
  static const struct {
    const char *sizes;
    int dots;
    qn_lop op;
    double dot_count, wide, folds, masks;
  } cases[] = {{"F=q4_0 N=32 K=64", 0, QN_LX_DOT4, 16, 0, 0, 16}, {"F=q4_0 N=32 K=64", 2, QN_LX_DOT2, 16, 0, 2, 16},
               {"F=q8_0 N=32 K=64", 0, QN_LX_DOT4, 16, 16, 0, 0}, {"F=q8_0 N=32 K=64", 1, QN_LX_DOT4S, 16, 0, 0, 0}};
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    compiled c;
    const qn_kernel_work *work = compile(&c, product, cases[i].sizes, plain_machine())->work;
    const qn_work_nest *nest = &work->nests[cases[i].dots][0];
    const qn_op_counts *cell = &nest->counts[QN_SHARE_CELL], *panel = &nest->counts[QN_SHARE_PANEL];
    check_near(cell->ops[cases[i].op], cases[i].dot_count, "dot products");
    check_near(cell->wide_dots, cases[i].wide, "of whole bytes");
    check_near(cell->ops[QN_LX_FOLD2], cases[i].folds, "folds");
    check_near(cell->ops[QN_LX_FMA], 2, "fma");
    check_near(panel->ops[QN_LX_AND], cases[i].masks, "masks");
    check_near(panel->loads[QN_LM_F16], 2, "scales");
    check_near(nest->sums, 16, "sums");
    check_near(nest->links, 2, "links");
    check_near((double)work->row_read_bytes, 64 * 1.5, "bytes of a row");
    release(&c);
  }
}
END_TEST

// Codes of two planes: 16 words are put together by as many ORs, each of two masked parts. Numbers of lines are
// constants, and a shift left of bits that were shifted right is one shift.
START_TEST(planes_by_hand) {
  compiled c;
  const qn_work_nest *nest = &compile(&c, product, "F=q5_0 N=32 K=64", plain_machine())->work->nests[0][0];
  const qn_op_counts *row = &nest->counts[QN_SHARE_ROW], *panel = &nest->counts[QN_SHARE_PANEL];
  check_near(row->ops[QN_LX_TO_I32] + row->ops[QN_LX_ADD] + row->ops[QN_LX_MUL], 0, "arithmetic with constants");
  check_near(row->ops[QN_LX_UNBIAS], 2, "what sums start with");
  check_near(panel->ops[QN_LX_OR], 16, "words put together");
  check_near(panel->ops[QN_LX_AND], 32, "masks");
  check_near(panel->ops[QN_LX_SHR], 8 + 16, "shifts of high halves, and of the fifth bits");
  check_near(panel->ops[QN_LX_SHL], 0, "shifts back");
  release(&c);
}
END_TEST

START_TEST(other_kernels_are_counted) {
  compiled c;
  const qn_kernel_work *work = compile(&c, attention, NULL, plain_machine())->work;
  ck_assert_int_ge(work->nest_count, 2);
  check_near(work->nests[0][0].links, 64 * QN_ASSUMED_TRIPS, "links of scores in all chunks");
  ck_assert_int_eq(work->extent, 2);
  ck_assert(work->extent_rows);
  release(&c);
  work = compile(&c, rows, NULL, plain_machine())->work;
  ck_assert_int_eq(work->nest_count, 0);
  ck_assert_int_eq(work->row_read_bytes, 96 * 4);
  ck_assert_int_eq(work->row_write_bytes, 96 * 4);
  release(&c);
}
END_TEST

// ---- predicting -------------------------------------------------------------------------------------------------

// A tile of 4 tokens by a panel: 256 multiply-adds in 128 cycles, 64 + 256 loads in 160; a chain of 64 links of 4
// cycles takes 256. Of 12 tokens: 384, 416 and the same 256. Two panels each.
START_TEST(tiles_by_hand) {
  compiled c;
  qn_machine_model m = plain_machine();
  const qn_pkernel *kernel = compile(&c, product, "F=f32 N=32 K=64", m);
  qn_schedule four = tiles(4, 1), twelve = tiles(12, 1);
  qn_prediction p = predict(kernel, 4, &four, &m);
  check_near(p.issue_s, 2 * 160e-9, "issue of 4 tokens");
  check_near(p.latency_s, 2 * (256 * pow(1 + pow(160.0 / 256, 8), 0.125) - 160) * 1e-9, "latency of 4 tokens");
  check_near(p.macs, 4 * 32 * 64, "multiply-adds");
  ck_assert_int_eq(p.registers, 4 + 1 + 1);
  p = predict(kernel, 12, &twelve, &m);
  check_near(p.issue_s, 2 * 416e-9, "issue of 12 tokens");
  m.vector_registers = 10;  // 4 too few: each is stored and loaded for every link
  p = predict(kernel, 12, &twelve, &m);
  check_near(p.issue_s, 2 * (416 + 4 * 64 * 1.2) * 1e-9, "issue with spills");
  release(&c);
}
END_TEST

// Two cells' sums more than registers: all 16 of the outer sums are in memory where a store takes two cycles.
START_TEST(outer_sums_by_hand) {
  compiled c;
  qn_machine_model m = plain_machine(), fast = m;
  const qn_pkernel *kernel = compile(&c, product, "F=q4_0 N=32 K=64", m);
  qn_schedule one = tiles(8, 1), two = tiles(8, 2);
  fast.stores_per_cycle = 1;
  check_near(predict(kernel, 8, &one, &m).issue_s, predict(kernel, 8, &one, &fast).issue_s, "issue of 8 sums");
  double slow = predict(kernel, 8, &two, &m).issue_s - predict(kernel, 8, &two, &fast).issue_s;
  check_near(slow, 2 * 16 * 1.2e-9, "of 16 sums in 2 blocks");
  release(&c);
}
END_TEST

// Threads and memory: half the time with two cores that each have a panel; weights at the speed of memory alone.
START_TEST(cores_and_memory_by_hand) {
  compiled c;
  qn_machine_model m = plain_machine();
  const qn_pkernel *kernel = compile(&c, product, "F=f32 N=1024 K=64", m);
  qn_schedule four = tiles(4, 1);
  double one = predict(kernel, 4, &four, &m).issue_s;
  m.cores = 2;
  check_near(predict(kernel, 4, &four, &m).issue_s, one / 2, "issue with two cores");
  four.parallel = 0;
  check_near(predict(kernel, 4, &four, &m).issue_s, one, "issue of a kernel that is not shared");
  m = plain_machine();
  m.memory_bytes_per_s = 1e6;
  double bytes = 1024 * 64 * 4, rows_bytes = 4 * (64 + 1024) * 4, cached = rows_bytes / (m.l3_bytes_per_cycle * 1e9);
  qn_prediction p = predict(kernel, 4, &four, &m);
  check_near(p.memory_s - cached, bytes / 1.15e6, "memory");
  check_near(p.bytes, bytes + rows_bytes, "bytes");
  release(&c);
}
END_TEST

// A machine that is better in one thing is never slower by the model, nor is less work.
START_TEST(better_is_never_slower) {
  static const char *const sizes[] = {"F=q4_0 N=512 K=256", "F=q6_k N=512 K=256", "F=f16 N=512 K=256"};
  static const size_t better[] = {offsetof(qn_machine_model, cycles_per_s),
                                  offsetof(qn_machine_model, fma_per_cycle),
                                  offsetof(qn_machine_model, loads_per_cycle),
                                  offsetof(qn_machine_model, stores_per_cycle),
                                  offsetof(qn_machine_model, vector_ops_per_cycle),
                                  offsetof(qn_machine_model, issue_per_cycle),
                                  offsetof(qn_machine_model, l2_bytes_per_cycle),
                                  offsetof(qn_machine_model, l3_bytes_per_cycle),
                                  offsetof(qn_machine_model, memory_bytes_per_s)};
  static const int64_t counts[] = {1, 2, 5, 8, 40, 256};
  for (size_t f = 0; f < QN_COUNT(sizes); f++) {
    compiled c;
    qn_machine_model m = qn_machine_model_plain(32, 16, 2, 1 << 19);
    m.cores = 2;  // which do not ask for all that memory has
    const qn_pkernel *kernel = compile(&c, product, sizes[f], m);
    double before = 0;
    for (size_t i = 0; i < QN_COUNT(counts); i++) {
      qn_schedule s = tiles(4, 2);
      double base = predict(kernel, counts[i], &s, &m).seconds;
      ck_assert(isfinite(base) && base > before);
      before = base;
      for (size_t j = 0; j < QN_COUNT(better); j++) {
        qn_machine_model other = m;
        double *value = (double *)(void *)((char *)&other + better[j]);
        *value *= 1.5;
        double faster = predict(kernel, counts[i], &s, &other).seconds;
        qn_check(faster <= base * (1 + 1e-12), "%s, %lld rows, field %zu: got %g s, want at most %g s", sizes[f],
                 (long long)counts[i], j, faster, base);
      }
      qn_machine_model other = m;
      other.vector_registers = 32;
      ck_assert(predict(kernel, counts[i], &s, &other).seconds <= base);
      other = m;
      other.l1_bytes *= 16, other.l2_bytes *= 16;
      ck_assert(predict(kernel, counts[i], &s, &other).cache_s <= predict(kernel, counts[i], &s, &m).cache_s);
    }
    release(&c);
  }
}
END_TEST

// ---- schedules --------------------------------------------------------------------------------------------------

static const qn_pkernel *find_chained(const compiled *c) {
  for (size_t i = 0; i < c->context.program->kernels.count; i++) {
    const qn_pkernel *kernel = &c->context.program->kernels.items[i];
    if (kernel->is_matmul && kernel->chained) return kernel;
  }
  return NULL;
}

// Panels of a product lie apart where they are short and weights come from memory, but not where a chain goes on with
// their neighbours.
START_TEST(panels_lie_apart) {
  static const char chain[] =
      "x = input f32[T,$K]; wg = param q4_0[$N,$K]; wu = param q4_0[$N,$K]; wd = param q4_0[64,$N]; g = matmul x wg\n"
      "u = matmul x wu; s = silu g; a = mul s u; y = matmul a wd; output y; max T=1 R=1";
  qn_machine_model m = qn_machine_model_plain(32, 16, 2, 1 << 19);
  m.cores = 2;  // which do not ask for all that memory has
  compiled c;
  qn_schedule s = compile(&c, product, "F=q4_0 N=49152 K=576", m)->variants[0].schedule;
  ck_assert(s.n_tile > 1 && s.n_apart == 1);
  release(&c);
  s = compile(&c, product, "F=q4_0 N=4096 K=16384", m)->variants[0].schedule;
  ck_assert_int_eq(s.n_apart, 0);  // long ones are streams of their own as they are
  release(&c);
  (void)compile(&c, chain, "N=1536 K=576", m);
  const qn_pkernel *kernel = find_chained(&c);
  const char *why = "";
  ck_assert(kernel != NULL);
  ck_assert_int_eq(kernel->variants[0].schedule.n_apart, 0);
  s.n_tile = 2;
  s.n_apart = 1;
  ck_assert(!qn_schedule_legal(kernel, 1, 1, &s, &why));
  ck_assert(strstr(why, "n_apart: the steps chained to this kernel want neighbours") != NULL);
  s = qn_schedule_fit(kernel, 1, &s);
  ck_assert(s.n_apart == 0 && qn_schedule_legal(kernel, 1, 1, &s, NULL));
  release(&c);
}
END_TEST

// One token's weights are prefetched where that is faster than what the hardware does by itself; where it is not, they
// are one plain stream. Tiles of some tokens are slow without, since a core does not look far ahead of them.
START_TEST(streams_suit_the_machine) {
  qn_machine_model m = qn_machine_model_plain(64, 32, 0, 1 << 20);
  m.cores = 2;
  m.core_bytes_per_s = 30e9;
  m.memory_bytes_per_s = 60e9;
  compiled c;
  for (int own = 0; own < 2; own++) {
    m.stream_alone = own ? 1 : 0.75;
    m.stream_ahead = own ? 0.85 : 1;
    const qn_pkernel *kernel = compile(&c, product, "F=q4_0 N=49152 K=2048", m);
    const qn_schedule *one = &kernel->variants[0].schedule, *few = &kernel->variants[2].schedule;
    ck_assert_int_eq(one->prefetch_bytes > 0, !own);
    qn_check(!own || one->n_tile == 1 || one->n_apart, "got %d panels, %d ahead", one->n_tile, one->prefetch_bytes);
    ck_assert(few->m_tiles[0] > 2 && few->prefetch_bytes >= 512 && !few->prefetch_far);
    ck_assert(!own || kernel->variants[1].schedule.prefetch_bytes == 0);  // two tokens are read like one
    double losses[2];  // of one panel and of four apart, by prefetches
    for (int i = 0; i < 2; i++) {
      qn_schedule plain = tiles(2, i ? 4 : 1), ahead = plain;
      plain.n_apart = ahead.n_apart = i;
      ahead.prefetch_bytes = 2048;
      losses[i] = predict(kernel, 2, &ahead, &m).memory_s - predict(kernel, 2, &plain, &m).memory_s;
    }
    ck_assert(!own || (losses[0] > 0 && losses[1] > 0.9 * losses[0]));  // more streams do not bring it back
    release(&c);
  }
  m.stream_far = 0.87;  // known: work hides behind what is asked for far ahead
  const qn_pkernel *kernel = compile(&c, product, "F=q4_0 N=49152 K=2048", m);
  ck_assert_int_eq(kernel->variants[0].schedule.prefetch_bytes, 0);
  ck_assert_int_eq(kernel->variants[1].schedule.prefetch_bytes, 0);
  ck_assert(kernel->variants[2].schedule.prefetch_far && kernel->variants[2].schedule.prefetch_bytes >= 4096);
  release(&c);
}
END_TEST

START_TEST(illegal_schedules_say_why) {
  static const struct {
    const char *graph, *sizes, *schedule, *why;
    int64_t min, max;
  } cases[] = {
      {product, "F=f32 N=48 K=64", "n_tile = 2", "n_tile: it does not divide the number of panels", 1, 1},
      {product, "F=f32 N=48 K=64", "n_tile = 3", NULL, 1, 1},
      {product, "F=f32 N=48 K=64", "n_block = 2", "n_block: one token has no tile of tokens", 1, 1},
      {product, "F=f32 N=48 K=64", "n_block = 2", NULL, 2, 8},
      {product, "F=f32 N=48 K=64", "m_tiles = 4,1\nm_block = 2", "m_block: one token has no tiles of tokens", 1, 1},
      {product, "F=f32 N=48 K=64", "m_tiles = 4,1\nm_block = 2", NULL, 2, 8},
      {product, "F=f32 N=48 K=64", "m_block = 2", "m_block: tiles of one token share nothing", 2, 8},
      {attention, NULL, "m_tiles = 4,1\nm_block = 2", "m_block: this kernel multiplies no weights", 2, 8},
      {product, "F=f32 N=48 K=64", "lanes = 16", "the range of row counts is empty", 3, 2},
      {attention, NULL, "m_tiles = 6,1\nn_tile = 4", NULL, 2, 8},
      {attention, NULL, "n_tile = 3", "n_tile: it does not divide", 2, 8},
      {product, "F=f32 N=48 K=64", "prefetch_far = 1", "prefetch_far: nothing is prefetched; only 0 fits", 1, 1},
      {product, "F=f32 N=48 K=64", "prefetch_bytes = 64\nprefetch_far = 1", NULL, 1, 1},
      {attention, NULL, "prefetch_bytes = 64\nprefetch_far = 1", "prefetch_far: this kernel multiplies no weights", 2, 8},
      {attention, NULL, "dots = 1", "dots: this kernel multiplies no codes", 2, 8},
      {product, "F=f32 N=64 K=64", "n_tile = 2\nn_apart = 1", NULL, 1, 1},
      {attention, NULL, "n_tile = 2\nn_apart = 1", "n_apart: this kernel multiplies no weights", 2, 8},
      {attention, NULL, "n_block = 2", "n_block: this kernel multiplies no weights", 2, 8},
      {rows, NULL, "m_tiles = 2,1", "m_tiles: rows are not tiled in this kernel", 1, 8},
      {product, "F=f32 N=64 K=64", "n_apart = 1", "n_apart: a tile has one panel", 1, 1},
      {rows, NULL, "n_apart = 1", "n_apart: this kernel multiplies no weights", 1, 8},
      {rows, NULL, "n_tile = 2", "n_tile: this kernel has no panels", 1, 8},
  };
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    compiled c;
    qn_schedule s;
    const char *why = "";
    const qn_pkernel *kernel = compile(&c, cases[i].graph, cases[i].sizes, plain_machine());
    qn_assert_ok(&c.diag, qn_schedule_parse("s", qn_str_from(cases[i].schedule), &s, &c.diag));
    bool legal = qn_schedule_legal(kernel, cases[i].min, cases[i].max, &s, &why);
    const char *got = why ? why : "legal", *want = cases[i].why ? cases[i].why : "legal";
    qn_check(strstr(got, want) && legal == !cases[i].why, "%s: got '%s', want '%s'", cases[i].schedule, got, want);
    const qn_lkernel *out = NULL;
    qn_dim extent;
    if (cases[i].why) {
      qn_assert_fails(&c.diag, QN_ERR_ARGUMENT, cases[i].why,
                      qn_schedule_apply(kernel, cases[i].min, cases[i].max, &s, "k", &c.arena, &out, &extent, &c.diag));
      s = qn_schedule_fit(kernel, cases[i].max, &s);
    }
    if (cases[i].min <= cases[i].max) {
      ck_assert(qn_schedule_legal(kernel, cases[i].min, cases[i].max, &s, NULL));
      c.diag = (qn_diag){0};
      qn_assert_ok(&c.diag, qn_schedule_apply(kernel, cases[i].min, cases[i].max, &s, "k", &c.arena, &out, &extent,
                                              &c.diag));
      ck_assert_str_eq(out->name, "k");
    }
    release(&c);
  }
}
END_TEST

// A knob out of the range of knobs.def is illegal as well.
START_TEST(knobs_out_of_range_are_illegal) {
  compiled c;
  const char *why = NULL;
  const qn_pkernel *kernel = compile(&c, rows, NULL, plain_machine());
  qn_schedule s = qn_schedule_plain();
  s.lanes = 5;
  ck_assert(!qn_schedule_legal(kernel, 1, 1, &s, &why));
  ck_assert_ptr_nonnull(strstr(why, "a knob has a value that none of it may have"));
  release(&c);
}
END_TEST

// On every machine, for every format: legal, and within a few percent of the best of its neighbours.
START_TEST(defaults_are_legal_and_hard_to_better) {
  const qn_machine_model machines[] = {qn_machine_model_plain(16, 16, 2, 0), qn_machine_model_plain(32, 16, 2, 1 << 19),
                                       qn_machine_model_plain(64, 32, 0, 1 << 20),
                                       qn_machine_model_plain(16, 32, 1, 1 << 19)};
  static const char *const sizes[] = {"F=q4_0 N=512 K=512", "F=q8_0 N=528 K=512", "F=q6_k N=32 K=512",
                                      "F=f16 N=2048 K=512"};
  for (size_t m = 0; m < QN_COUNT(machines); m++) {
    for (size_t f = 0; f < QN_COUNT(sizes); f++) {
      compiled c;
      const qn_pkernel *kernel = compile(&c, product, sizes[f], machines[m]);
      qn_kernel_plan plan = qn_schedule_default(kernel, 256, &machines[m]);
      ck_assert_int_eq(plan.count, 5);
      for (int v = 0; v < plan.count; v++) {
        int64_t min = plan.variants[v].rows_min, max = plan.variants[v].rows_max;
        const qn_schedule *s = &plan.variants[v].schedule;
        ck_assert(qn_schedule_legal(kernel, min, max, s, NULL));
        double its = predict(kernel, min, s, &machines[m]).seconds;
        for (int n = 1; n <= 4 && min == max; n++) {  // one token: nothing but panels and prefetch to choose
          qn_schedule other = *s;
          other.n_tile = n;
          if (!qn_schedule_legal(kernel, min, max, &other, NULL)) continue;
          double time = predict(kernel, min, &other, &machines[m]).seconds;
          qn_check(its <= time * 1.05, "%s, machine %zu: %d panels take %g s, the default's %d %g s", sizes[f], m, n,
                   time, s->n_tile, its);
        }
      }
      release(&c);
    }
  }
}
END_TEST

// With 16 registers of 8 floats the defaults have tiles for what is left of few rows: a row less takes no longer, but for
// what more code would have to bring.
START_TEST(fewer_rows_take_no_longer) {
  const qn_machine_model m = qn_machine_model_plain(32, 16, 2, 1 << 19);
  static const char *const sizes[] = {"F=q4_0 N=2048 K=2048", "F=q8_0 N=2048 K=2048", "F=q6_k N=2048 K=2048"};
  for (size_t i = 0; i < QN_COUNT(sizes); i++) {
    compiled c;
    const qn_pkernel *kernel = compile(&c, product, sizes[i], m);
    qn_kernel_plan plan = qn_schedule_default(kernel, 256, &m);
    static const int classes[] = {0, 0, 1, 2, 2, 3, 3, 3, 3};
    for (int64_t n = 2; n < 8; n++) {
      const qn_schedule *its = &plan.variants[classes[n]].schedule, *next = &plan.variants[classes[n + 1]].schedule;
      ck_assert(plan.variants[classes[n]].rows_min <= n && n <= plan.variants[classes[n]].rows_max);
      double time = predict(kernel, n, its, &m).seconds, more = predict(kernel, n + 1, next, &m).seconds;
      qn_check(time <= more * 1.03, "%s: %lld rows take %g s, one more %g s", sizes[i], (long long)n, time, more);
    }
    release(&c);
  }
}
END_TEST

// ---- who chooses ------------------------------------------------------------------------------------------------

typedef struct choice {
  qn_kernel_plan plan;
  int asked;
} choice;

static bool choose(void *context, const qn_pkernel *kernel, qn_kernel_plan *out) {
  choice *c = context;
  c->asked++;
  if (!kernel->is_matmul) return false;
  *out = c->plan;
  return true;
}

// Classes with one schedule are one variant; a single row count keeps code of its own.
START_TEST(equal_neighbours_are_one) {
  choice chosen = {.plan = {.count = 5,
                            .variants = {{1, 1, tiles(1, 2)},
                                         {2, 3, tiles(2, 2)},
                                         {4, 8, tiles(2, 2)},
                                         {9, 9, tiles(2, 2)},
                                         {10, INT64_MAX, tiles(2, 2)}}}};
  compiled c = {.options = {.machine = plain_machine(), .choose = choose, .choose_context = &chosen}};
  qn_assert_ok(&c.diag, run(&c, product, "F=f32 N=64 K=64"));
  const qn_pkernel *kernel = &c.context.program->kernels.items[0];
  static const int64_t bounds[][2] = {{1, 1}, {2, 8}, {9, 9}, {10, INT64_MAX}};
  ck_assert_int_eq(kernel->variant_count, QN_COUNT(bounds));
  for (size_t i = 0; i < QN_COUNT(bounds); i++) {
    ck_assert_int_eq(kernel->variants[i].rows_min, bounds[i][0]);
    ck_assert_int_eq(kernel->variants[i].rows_max, bounds[i][1]);
  }
  release(&c);
  const qn_schedule all = tiles(2, 2);
  chosen.plan = (qn_kernel_plan){.count = 3, .variants = {{1, 3, all}, {4, 8, all}, {9, INT64_MAX, all}}};
  c = (compiled){.options = {.machine = plain_machine(), .choose = choose, .choose_context = &chosen}};
  qn_assert_ok(&c.diag, run(&c, product, "F=f32 N=64 K=64"));
  kernel = &c.context.program->kernels.items[0];
  ck_assert(kernel->variant_count == 1 && kernel->variants[0].rows_max == INT64_MAX);
  release(&c);
}
END_TEST

START_TEST(a_plan_may_come_from_elsewhere) {
  choice chosen = {.plan = {.count = 2, .variants = {{1, 3, tiles(2, 1)}, {4, INT64_MAX, tiles(3, 2)}}}};
  compiled c = {.options = {.machine = plain_machine(), .choose = choose, .choose_context = &chosen}};
  qn_assert_ok(&c.diag, run(&c, product, "F=f32 N=64 K=64"));
  const qn_pkernel *kernel = &c.context.program->kernels.items[0];
  ck_assert_int_eq(chosen.asked, 1);
  ck_assert_int_eq(kernel->variant_count, 2);
  ck_assert_int_eq(kernel->variants[1].rows_min, 4);
  ck_assert(qn_schedule_equal(&kernel->variants[1].schedule, &chosen.plan.variants[1].schedule));
  release(&c);
  chosen.plan.variants[1].rows_min = 5;
  c = (compiled){.options = {.machine = plain_machine(), .choose = choose, .choose_context = &chosen}};
  qn_assert_fails(&c.diag, QN_ERR_ARGUMENT, "got a plan of 2 variants whose row counts do not follow each other",
                  run(&c, product, "F=f32 N=64 K=64"));
  release(&c);
  chosen.plan.variants[1].rows_min = 4;
  chosen.plan.variants[1].schedule.n_tile = 3;
  c = (compiled){.options = {.machine = plain_machine(), .choose = choose, .choose_context = &chosen}};
  qn_assert_fails(&c.diag, QN_ERR_ARGUMENT, "the schedule does not fit: n_tile: it does not divide",
                  run(&c, product, "F=f32 N=64 K=64"));
  release(&c);
}
END_TEST

// Names, layers and places do not matter to a signature; shapes, types and constants do.
START_TEST(signatures_tell_what_is_computed) {
  static const struct {
    const char *a, *b;
    bool same;
  } cases[] = {
      {"x = input f32[T,64]; w = param f32[32,64]; y = matmul x w; output y",
       "a = input f32[T,64]; b = param f32[32,64]; c = matmul a b; output c", true},
      {"x = input f32[T,64]; w = param f32[32,64]; y = matmul x w; output y",
       "x = input f32[T,64]; w = param f16[32,64]; y = matmul x w; output y", false},
      {"x = input f32[T,64]; w = param f32[64]; y = rmsnorm x w eps=1; output y",
       "x = input f32[T,64]; w = param f32[64]; y = rmsnorm x w eps=2; output y", false},
      {"x = input f32[T,64]; w = param f32[64]; y = rmsnorm x w eps=1; output y",
       "x = input f32[R,64]; w = param f32[64]; y = rmsnorm x w eps=1; output y", false},
  };
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    compiled a, b;
    const char *x = compile(&a, cases[i].a, NULL, plain_machine())->signature;
    const char *y = compile(&b, cases[i].b, NULL, plain_machine())->signature;
    qn_check((strcmp(x, y) == 0) == cases[i].same, "case %zu: got '%s' and '%s'", i, x, y);
    release(&a);
    release(&b);
  }
}
END_TEST

QN_CASE(counting, a_float_product_by_hand, an_integer_product_by_hand, planes_by_hand, other_kernels_are_counted)
QN_CASE(predicting, tiles_by_hand, outer_sums_by_hand, cores_and_memory_by_hand, better_is_never_slower)
QN_CASE(schedules, panels_lie_apart, streams_suit_the_machine, illegal_schedules_say_why, knobs_out_of_range_are_illegal,
        defaults_are_legal_and_hard_to_better,
        fewer_rows_take_no_longer)
QN_CASE(plans, equal_neighbours_are_one, a_plan_may_come_from_elsewhere, signatures_tell_what_is_computed)
QN_TEST_MAIN(counting, predicting, schedules, plans)
