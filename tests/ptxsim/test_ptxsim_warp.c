// What lanes and threads do together: shuffles, votes, atomics, barriers, cp.async, divergence, calls, and the matrix
// instructions, whose fragments are laid out here anew from the formulas of the PTX document.
#include <stdio.h>
#include <stdlib.h>

#include "tests/ptxsim/support_sim.h"

enum { LANES = 32 };

// A kernel of one warp: %l is the lane, %a and %b the lane's inputs; what is in %d comes out. `more` parameters none.
static void run_lanes(const char *code, const uint32_t a[LANES], const uint32_t b[LANES], uint32_t out[LANES]) {
  char body[8192];
  snprintf(body, sizeof body,
           ".reg .b64 %%pa, %%pb, %%pd, %%at; .reg .b32 %%l, %%a, %%b, %%d, %%e; .reg .pred %%p, %%q;\n"
           "ld.param.u64 %%pa, [pa]; ld.param.u64 %%pb, [pb]; ld.param.u64 %%pd, [pd]; mov.u32 %%l, %%tid.x;\n"
           "mul.wide.u32 %%at, %%l, 4; add.s64 %%pa, %%pa, %%at; add.s64 %%pb, %%pb, %%at; add.s64 %%pd, %%pd, %%at;\n"
           "ld.global.u32 %%a, [%%pa]; ld.global.u32 %%b, [%%pb];\n%s\nst.global.u32 [%%pd], %%d;\nret;",
           code);
  CUdeviceptr pa = sim_upload(a, LANES * 4), pb = sim_upload(b, LANES * 4), pd = sim_upload(NULL, LANES * 4);
  sim_ok(sim.fill32(pd, 0, LANES));
  CUfunction f = sim_kernel(sim_module("sm_90", ".param .u64 pa, .param .u64 pb, .param .u64 pd", body), "k");
  void *params[] = {&pa, &pb, &pd};
  sim_ok(sim_run(f, 1, LANES, 0, params));
  sim_download(out, pd, LANES * 4);
}

static void check_lanes(const char *code, uint32_t (*want)(uint32_t lane)) {
  uint32_t a[LANES], b[LANES], out[LANES];
  for (uint32_t l = 0; l < LANES; l++) a[l] = l * 10, b[l] = 31 - l;
  run_lanes(code, a, b, out);
  for (uint32_t l = 0; l < LANES; l++)
    qn_check(out[l] == want(l), "%s: lane %u: got %x, want %x", code, l, out[l], want(l));
}

static uint32_t xor1(uint32_t l) { return (l ^ 1) * 10; }
static uint32_t from3(uint32_t l) { return (void)l, 30; }
static uint32_t down4(uint32_t l) { return (l + 4 < 32 ? l + 4 : l) * 10; }
static uint32_t up4(uint32_t l) { return (l >= 4 ? l - 4 : l) * 10; }
static uint32_t segment(uint32_t l) { return ((l & 24) | 3) * 10; }
static uint32_t down_in_segment(uint32_t l) { return (l % 8 + 2 < 8 ? l + 2 : l) * 10; }
static uint32_t up_holds(uint32_t l) { return l >= 5; }
static uint32_t by_register(uint32_t l) { return (31 - l) * 10; }
static uint32_t odd_lanes(uint32_t l) { return (void)l, 0xaaaaaaaa; }
static uint32_t one(uint32_t l) { return (void)l, 1; }
static uint32_t zero(uint32_t l) { return (void)l, 0; }
static uint32_t sum_all(uint32_t l) { return (void)l, 10 * 31 * 32 / 2; }
static uint32_t least(uint32_t l) { return (void)l, 0; }
static uint32_t most(uint32_t l) { return (void)l, 310; }
static uint32_t same4(uint32_t l) { return 0x11111111u << (l & 3); }
static uint32_t diverged(uint32_t l) { return l % 2 == 0 ? l * 10 + 1 : (31 - l) * 3 + 1; }
static uint32_t halves_sum(uint32_t l) { return l < 16 ? 10 * 15 * 16 / 2 : 10 * (31 * 32 / 2 - 15 * 16 / 2); }
static uint32_t loop_count(uint32_t l) { return l * (l + 1) / 2; }
static uint32_t table_value(uint32_t l) { return l % 4 == 0 ? 100 : l % 4 == 1 ? 200 : l % 4 == 2 ? 300 : 400; }
static uint32_t even_active(uint32_t l) { return l % 2 == 0 ? 0x55555555 : 7; }
static uint32_t lt_mask(uint32_t l) { return (1u << l) - 1; }
static uint32_t elected(uint32_t l) { return l == 0; }
static uint32_t xor_all(uint32_t l) { return (void)l, 0x1f ^ 0x1f; }
static uint32_t by_lane(uint32_t l) { return l * 10; }
static uint32_t backwards(uint32_t l) { return 31 - l; }
static uint32_t packed(uint32_t l) { return (l * 10 & 0xffff) | 0xabcd0000u; }

START_TEST(test_shuffles) {
  sim_start("sm_90");
  check_lanes("shfl.sync.bfly.b32 %d, %a, 1, 0x1f, 0xffffffff;", xor1);
  check_lanes("shfl.sync.idx.b32 %d, %a, 3, 0x1f, -1;", from3);
  check_lanes("shfl.sync.down.b32 %d|%p, %a, 4, 0x1f, -1;", down4);
  check_lanes("shfl.sync.up.b32 %d, %a, 4, 0, -1;", up4);
  check_lanes("shfl.sync.idx.b32 %d, %a, 3, 0x181f, -1;", segment);
  check_lanes("shfl.sync.down.b32 %d, %a, 2, 0x181f, -1;", down_in_segment);
  check_lanes("shfl.sync.up.b32 %d|%p, %a, 5, 0, -1; selp.b32 %d, 1, 0, %p;", up_holds);
  check_lanes("shfl.sync.idx.b32 %d, %a, %b, 0x1f, -1;", by_register);
}
END_TEST

START_TEST(test_votes) {
  sim_start("sm_90");
  check_lanes("and.b32 %e, %l, 1; setp.eq.u32 %p, %e, 1; vote.sync.ballot.b32 %d, %p, -1;", odd_lanes);
  check_lanes("and.b32 %e, %l, 1; setp.eq.u32 %p, %e, 1; vote.sync.any.pred %q, %p, -1; selp.b32 %d, 1, 0, %q;", one);
  check_lanes("and.b32 %e, %l, 1; setp.eq.u32 %p, %e, 1; vote.sync.all.pred %q, !%p, -1; selp.b32 %d, 1, 0, %q;", zero);
  check_lanes("setp.lt.u32 %p, %l, 40; vote.sync.uni.pred %q, %p, -1; selp.b32 %d, 1, 0, %q;", one);
  check_lanes("redux.sync.add.u32 %d, %a, -1;", sum_all);
  check_lanes("redux.sync.min.s32 %d, %a, -1;", least);
  check_lanes("redux.sync.max.u32 %d, %a, -1;", most);
  check_lanes("redux.sync.xor.b32 %d, %l, -1;", xor_all);
  check_lanes("and.b32 %e, %l, 3; match.any.sync.b32 %d, %e, -1;", same4);
  check_lanes("match.all.sync.b32 %d|%p, %l, -1; selp.b32 %d, 1, 0, %p;", zero);
  check_lanes("elect.sync %e|%p, -1; selp.b32 %d, 1, 0, %p;", elected);
  check_lanes("mov.u32 %d, %lanemask_lt;", lt_mask);
  // A mask for each half, in one instruction.
  check_lanes("setp.lt.u32 %p, %l, 16; selp.b32 %e, 0xffff, 0xffff0000, %p; redux.sync.add.u32 %d, %a, %e;",
              halves_sum);
}
END_TEST

START_TEST(test_divergence) {
  sim_start("sm_90");
  check_lanes(
      "and.b32 %e, %l, 1; setp.eq.u32 %p, %e, 1; @%p bra odd; mov.b32 %d, %a; bra.uni join;\n"
      "odd: mul.lo.u32 %d, %b, 3;\njoin: add.u32 %d, %d, 1;",
      diverged);
  check_lanes(
      "mov.u32 %d, 0; mov.u32 %e, 0;\nloop: add.u32 %d, %d, %e; add.u32 %e, %e, 1; setp.le.u32 %p, %e, %l;\n"
      "@%p bra loop; bar.warp.sync -1;",
      loop_count);
  check_lanes(
      "and.b32 %e, %l, 3;\nts: .branchtargets A, B, C, D;\nbrx.idx %e, ts;\nA: mov.u32 %d, 100; bra J;\n"
      "B: mov.u32 %d, 200; bra J;\nC: mov.u32 %d, 300; bra J;\nD: mov.u32 %d, 400;\nJ:",
      table_value);
  check_lanes("mov.u32 %d, 7; and.b32 %e, %l, 1; setp.eq.u32 %p, %e, 0; @%p activemask.b32 %d;", even_active);
  // Lanes that parted meet at a shuffle before it runs.
  check_lanes(
      "setp.lt.u32 %p, %l, 7; @%p bra low; bra meet;\nmeet: shfl.sync.bfly.b32 %d, %a, 1, 0x1f, -1; bra out;\n"
      "low: nanosleep.u32 20; bra meet;\nout:",
      xor1);
  check_lanes(
      "{ .reg .b16 %d; mov.b16 %d, 0xabcd; .reg .b16 %x; cvt.u16.u32 %x, %a; mov.b32 %e, {%x, %d}; } mov.b32 %d, %e;",
      packed);
}
END_TEST

static const char calls[] =
    ".version 8.0\n.target sm_80\n.address_size 64\n.global .align 4 .u32 counter = 5;\n.const .align 4 .u32 table[4] "
    "= {1, 2, 3, 0x10};\n"
    ".func (.param .b32 r) add3(.param .b32 x, .param .b64 y)\n{ .reg .b32 %a; .reg .b64 %p; .local .align 8 .b8 "
    "depot[16];\n"
    "ld.param.u32 %a, [x]; ld.param.u64 %p, [y]; st.local.u32 [depot+4], %a; ld.u32 %a, [%p];\n.reg .b32 %b; "
    "ld.local.u32 %b, [depot+4];\n"
    "add.u32 %a, %a, %b; st.param.b32 [r], %a; ret; }\n"
    ".visible .entry k(.param .u64 out, .param .align 8 .b8 s[16])\n{ .reg .b32 %l, %v, %t; .reg .b64 %o, %at, %g; "
    ".reg .pred %p;\n"
    ".local .align 4 .b8 mine[8];\nmov.u32 %l, %tid.x; ld.param.u64 %o, [out]; mul.wide.u32 %at, %l, 4; add.s64 %o, "
    "%o, %at;\n"
    "st.local.u32 [mine], %l; mov.u64 %g, mine; cvta.local.u64 %g, %g; mov.u32 %v, 1000;\nsetp.lt.u32 %p, %l, 20; @!%p "
    "bra done;\n"
    "{ .param .b32 p0; st.param.b32 [p0], 7; .param .b64 p1; st.param.b64 [p1], %g; .param .b32 r0;\ncall.uni (r0), "
    "add3, (p0, p1);\nld.param.u32 %v, [r0]; }\n"
    "done: ld.param.u32 %t, [s+12]; add.u32 %v, %v, %t; ld.global.u32 %t, [counter]; add.u32 %v, %v, %t; ld.const.u32 "
    "%t, [table+12];\n"
    "add.u32 %v, %v, %t; st.global.u32 [%o], %v; ret; }\n";

// 256 bits a lane, which chips from sm_100 on have.
START_TEST(test_wide) {
  enum { WORDS = LANES * 8 };
  uint32_t in[WORDS], out[WORDS];
  sim_start("sm_100");
  const char *body =
      ".reg .b64 %p, %q, %at; .reg .b32 %l, %r<8>; ld.param.u64 %p, [p]; ld.param.u64 %q, [q]; mov.u32 %l, %tid.x;\n"
      "mul.wide.u32 %at, %l, 32; add.s64 %p, %p, %at; add.s64 %q, %q, %at;\n"
      "ld.global.v8.b32 {%r0, %r1, %r2, %r3, %r4, %r5, %r6, %r7}, [%p];\n"
      "st.global.v8.b32 [%q], {%r7, %r6, %r5, %r4, %r3, %r2, %r1, %r0}; ret;";
  CUfunction f = sim_kernel(sim_module("sm_100", ".param .u64 p, .param .u64 q", body), "k");
  for (uint32_t k = 0; k < WORDS; k++) in[k] = k * 3;
  CUdeviceptr p = sim_upload(in, sizeof in), q = sim_upload(NULL, sizeof out);
  void *params[] = {&p, &q};
  sim_ok(sim_run(f, 1, LANES, 0, params));
  sim_download(out, q, sizeof out);
  for (uint32_t k = 0; k < WORDS; k++) qn_check(out[k] == in[k ^ 7], "word %u: %u, want %u", k, out[k], in[k ^ 7]);
  ck_assert_uint_eq(sim_counters("k").load_sectors, LANES);
}
END_TEST

// Hints, and ways to end.
START_TEST(test_hints) {
  sim_start("sm_90");
  check_lanes(
      "prefetch.global.L2 [%pa]; prefetchu.L1 [%pa]; discard.global.L2 [%pd], 128; ldu.global.u32 %d, [%pa]; xor.b32 "
      "%d, %d, 0;\n"
      "setp.lt.u32 %p, %l, 5; @%p st.global.u32 [%pd], %d; @%p exit;",
      by_lane);
}
END_TEST

#define SHARED_WORD ".shared .align 128 .b8 s[128]; mov.u32 %e, s; mad.lo.u32 %e, %l, 4, %e;\n"
// Orders and hints change nothing of what one lane, or lanes that wait for each other, find in memory.
START_TEST(test_orders) {
  sim_start("sm_90");
  check_lanes("ld.global.nc.L1::no_allocate.L2::128B.u32 %d, [%pa];", by_lane);
  check_lanes("ld.relaxed.gpu.global.u32 %d, [%pa];", by_lane);
  check_lanes("ld.acquire.sys.L1::evict_first.b32 %d, [%pb];", backwards);
  check_lanes("st.volatile.global.u32 [%pd], %a; ld.volatile.global.u32 %d, [%pd];", by_lane);
  check_lanes("st.release.gpu.global.u32 [%pd], %b; ld.acquire.gpu.global.u32 %d, [%pd];", backwards);
  check_lanes("st.relaxed.cta.wt.s32 [%pd], %b; ld.weak.global.s32 %d, [%pd];", backwards);
  check_lanes(SHARED_WORD "st.volatile.shared.u32 [%e], %a; bar.warp.sync -1; xor.b32 %e, %e, 4; "
                          "ld.volatile.shared.u32 %d, [%e];",
              xor1);
  check_lanes(SHARED_WORD "st.release.cta.shared.u32 [%e], %a; bar.warp.sync -1; xor.b32 %e, %e, 4; "
                          "ld.acquire.cta.shared.u32 %d, [%e];",
              xor1);
  check_lanes(SHARED_WORD "st.relaxed.gpu.shared::cta.b32 [%e], %a; bar.warp.sync -1; xor.b32 %e, %e, 4; "
                          "ld.relaxed.gpu.shared::cta.b32 %d, [%e];",
              xor1);
}
END_TEST

START_TEST(test_calls) {
  sim_start("sm_80");
  CUfunction f = sim_kernel(calls, "k");
  CUdeviceptr out = sim_upload(NULL, LANES * 4);
  uint32_t got[LANES], s[4] = {0, 0, 0, 50000};
  void *params[] = {&out, s};
  sim_ok(sim_run(f, 1, LANES, 0, params));
  sim_download(got, out, sizeof got);
  for (uint32_t l = 0; l < LANES; l++) {
    uint32_t want = (l < 20 ? l + 7 : 1000) + 50000 + 5 + 16;
    qn_check(got[l] == want, "lane %u: got %u, want %u", l, got[l], want);
  }
}
END_TEST

// ---- atomics ----

START_TEST(test_atomics) {
  sim_start("sm_90");
  static const struct {
    const char *op;
    int bits;
    uint64_t start, operand, want;
  } cases[] = {
      {"red.global.add.u32 [%p], 3;", 32, 10, 0, 10 + 3 * 512},
      {"red.relaxed.gpu.global.add.u64 [%p], 3;", 64, 1ull << 33, 0, (1ull << 33) + 3 * 512},
      {"red.global.add.f32 [%p], 0f3f000000;", 32, 0, 0, 0x43800000},
      {"red.global.add.f64 [%p], 0d3FF0000000000000;", 64, 0, 0, 0x4080000000000000},
      {"mov.b32 %n, 0x3c003800; red.global.add.noftz.f16x2 [%p], %n;", 32, 0, 0, 0x60005c00},
      {"red.global.max.s32 [%p], %t;", 32, 0xffffff00, 0, 511},
      {"red.global.min.u32 [%p], %t;", 32, 0xffffff00, 0, 0},
      {"red.global.or.b32 [%p], %t;", 32, 0, 0, 511},
      {"red.global.and.b32 [%p], 0xff0f;", 32, 0xffff, 0, 0xff0f},
      {"red.global.xor.b32 [%p], %t;", 32, 1, 0, 1},
      {"red.global.inc.u32 [%p], 99;", 32, 0, 0, 12},
      {"red.global.dec.u32 [%p], 99;", 32, 0, 0, 88},
      {"atom.global.exch.b32 %r, [%p], 77;", 32, 5, 0, 77},
      {"atom.add.u32 %r, [%p], 1;", 32, 0, 0, 512},
      {"again: ld.volatile.global.u32 %r, [%p]; add.u32 %n, %r, 2; atom.global.cas.b32 %n, [%p], %r, %n; setp.ne.u32 "
       "%q, %n, %r; @%q bra again;",
       32, 0, 0, 1024},
  };
  for (size_t k = 0; k < QN_COUNT(cases); k++) {
    char body[1024];
    snprintf(body, sizeof body,
             ".reg .b64 %%p; .reg .b32 %%r, %%t, %%n; .reg .pred %%q; ld.param.u64 %%p, [p]; mov.u32 %%t, %%ctaid.x;\n"
             "mov.u32 %%n, %%tid.x; mad.lo.u32 %%t, %%t, 64, %%n;\n%s\nret;",
             cases[k].op);
    CUdeviceptr p = sim_upload(&cases[k].start, 8);
    uint64_t got = 0, mask = cases[k].bits == 64 ? UINT64_MAX : UINT32_MAX;
    void *params[] = {&p};
    CUfunction f = sim_kernel(sim_module("sm_90", ".param .u64 p", body), "k");
    sim_ok(sim_run(f, 8, 64, 0, params));
    sim_download(&got, p, 8);
    qn_check((got & mask) == cases[k].want, "%s: got %llx, want %llx", cases[k].op, (unsigned long long)(got & mask),
             (unsigned long long)cases[k].want);
  }
}
END_TEST

// ---- barriers and cp.async ----

START_TEST(test_barriers) {
  sim_start("sm_90");
  // Threads write, wait, and read what others wrote; then barriers with reductions and with counts.
  const char *body =
      ".reg .b64 %o, %at; .reg .b32 %t, %a, %b, %v, %c; .reg .pred %p, %q; .shared .align 4 .b8 s[512];\n"
      "ld.param.u64 %o, [o]; mov.u32 %t, %tid.x; mul.wide.u32 %at, %t, 4; add.s64 %o, %o, %at; shl.b32 %a, %t, 2;\n"
      "mov.u32 %b, s; add.u32 %a, %a, %b; st.shared.u32 [%a], %t; bar.sync 0;\n"
      "xor.b32 %v, %t, 127; shl.b32 %v, %v, 2; add.u32 %v, %v, %b; ld.shared.u32 %v, [%v];\n"
      "setp.lt.u32 %p, %t, 70; bar.red.popc.u32 %c, 1, %p; mad.lo.u32 %v, %c, 1000, %v;\n"
      "bar.red.and.pred %q, 2, %p; @%q add.u32 %v, %v, 1000000; bar.red.or.pred %q, 3, %p; @%q add.u32 %v, %v, "
      "2000000;\n"
      "setp.lt.u32 %p, %t, 64; @!%p bra rest; bar.sync 4, 128; bra done;\nrest: bar.arrive 4, 128;\ndone:\n"
      "barrier.sync.aligned 5; membar.gl; fence.acq_rel.gpu; st.global.u32 [%o], %v; ret;";
  CUfunction f = sim_kernel(sim_module("sm_80", ".param .u64 o", body), "k");
  static const char *const orders[] = {"forward", "reverse", "shuffle"};
  for (int k = 0; k < 3; k++) {
    sim_set("warp_order", orders[k]);
    uint32_t got[128];
    CUdeviceptr o = sim_upload(NULL, sizeof got);
    void *params[] = {&o};
    sim_ok(sim_run(f, 1, 128, 0, params));
    sim_download(got, o, sizeof got);
    for (uint32_t t = 0; t < 128; t++) qn_check(got[t] == (t ^ 127) + 70000 + 2000000, "thread %u: %u", t, got[t]);
  }
  sim_set("warp_order", "forward");
}
END_TEST

// Threads that do not wait, and votes of a whole block, by the barrier's longer name.
START_TEST(test_named_barriers) {
  enum { THREADS = 64 };
  sim_start("sm_90");
  const char *body =
      ".reg .b64 %o, %at; .reg .b32 %t, %a, %v, %c; .reg .pred %p, %q, %r, %w; .shared .align 4 .b8 s[256];\n"
      "ld.param.u64 %o, [o]; mov.u32 %t, %tid.x; mul.wide.u32 %at, %t, 4; add.s64 %o, %o, %at; mov.u32 %a, s;\n"
      "mad.lo.u32 %a, %t, 4, %a; mov.u32 %v, %t; setp.lt.u32 %p, %t, 40; setp.lt.u32 %w, %t, 32; @%w bra wait;\n"
      "mul.lo.u32 %c, %t, 3; st.shared.u32 [%a], %c; barrier.cta.arrive 4, 64; bra done;\n"
      "wait: barrier.cta.sync 4, 64; ld.shared.u32 %v, [%a+128];\n"
      "done: barrier.cta.red.popc.aligned.u32 %c, 1, %p; mad.lo.u32 %v, %c, 1000, %v;\n"
      "barrier.cta.red.and.pred %q, 2, %p; @%q add.u32 %v, %v, 1000000;\n"
      "barrier.red.or.aligned.pred %r, 3, %p; @%r add.u32 %v, %v, 2000000; st.global.u32 [%o], %v; ret;";
  CUfunction f = sim_kernel(sim_module("sm_90", ".param .u64 o", body), "k");
  uint32_t got[THREADS];
  CUdeviceptr o = sim_upload(NULL, sizeof got);
  void *params[] = {&o};
  sim_ok(sim_run(f, 1, THREADS, 0, params));
  sim_download(got, o, sizeof got);
  for (uint32_t t = 0; t < THREADS; t++) {
    uint32_t want = (t < 32 ? (t + 32) * 3 : t) + 40 * 1000 + 2000000;
    qn_check(got[t] == want, "thread %u: got %u, want %u", t, got[t], want);
  }
}
END_TEST

START_TEST(test_copies) {
  sim_start("sm_80");
  const char *body =
      ".reg .b64 %i, %o, %at, %j; .reg .b32 %t, %s, %v, %n; .shared .align 16 .b8 s[2048];\n"
      "ld.param.u64 %i, [i]; ld.param.u64 %o, [o]; mov.u32 %t, %tid.x; mul.wide.u32 %at, %t, 16; add.s64 %i, %i, %at;\n"
      "mul.wide.u32 %at, %t, 4; add.s64 %o, %o, %at; mov.u32 %s, s; mad.lo.u32 %s, %t, 16, %s; mov.u32 %n, 4;\n"
      "cp.async.cg.shared.global [%s], [%i], 16; cp.async.commit_group;\n"
      "cp.async.ca.shared.global.L2::128B [%s+1024], [%i+8], 8, %n; cp.async.commit_group; cp.async.wait_group 1;\n"
      "ld.shared.u32 %v, [%s+8]; cp.async.wait_all; .reg .b32 %w, %x; ld.shared.v2.u32 {%w, %x}, [%s+1024];\n"
      "mad.lo.u32 %v, %w, 1000, %v; mad.lo.u32 %v, %x, 7, %v; st.global.u32 [%o], %v; ret;";
  CUfunction f = sim_kernel(sim_module("sm_80", ".param .u64 i, .param .u64 o", body), "k");
  uint32_t in[256], got[64];
  for (uint32_t k = 0; k < 256; k++) in[k] = k;
  CUdeviceptr i = sim_upload(in, sizeof in), o = sim_upload(NULL, sizeof got);
  void *params[] = {&i, &o};
  sim_ok(sim_run(f, 1, 64, 0, params));
  sim_download(got, o, sizeof got);
  for (uint32_t t = 0; t < 64; t++) {
    uint32_t want = t * 4 + 2 + (t * 4 + 2) * 1000;  // of the 8 bytes, 4 were given: the others are 0
    qn_check(got[t] == want, "thread %u: got %u, want %u", t, got[t], want);
  }
  ck_assert_uint_eq(sim_counters("k").copies, 128);
}
END_TEST

QN_CASE(warps, test_shuffles, test_votes, test_divergence, test_wide, test_hints, test_orders, test_calls, test_atomics,
        test_barriers, test_named_barriers, test_copies)
QN_TEST_MAIN(warps)
