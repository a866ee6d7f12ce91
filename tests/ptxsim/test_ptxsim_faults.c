// Planted bugs: each must be reported with the kernel, the line of the PTX, the block and the thread.
#include <stdio.h>

#include "tests/ptxsim/support_sim.h"

typedef struct bug {
  const char *name;
  const char *body;  // parameters: .u64 p, of 4096 bytes, of which the first 2048 are initialised
  unsigned blocks, threads;
  CUresult result;
  const char *where;  // "line N, block (..), thread (..)", N counted in the module's text
  const char *what;
} bug;

// Line 5: the registers. The bug's own lines follow from line 6 on.
#define HEAD                                                                                                        \
  ".reg .b64 %p, %at, %q; .reg .b32 %t, %a, %v, %w, %c; .reg .pred %on, %off; .reg .f32 %x; ld.param.u64 %p, [p]; " \
  "mov.u32 %t, %tid.x; mov.u32 %c, %ctaid.x;\n"
#define SHARED ".shared .align 16 .b8 s[512]; mov.u32 %a, s; mad.lo.u32 %a, %t, 4, %a;"

static const bug bugs[] = {
    {"store behind the end", HEAD "mul.wide.u32 %at, %t, 4;\nadd.s64 %p, %p, %at;\nst.global.u32 [%p+3972], %t;\nret;",
     1, 64, CUDA_ERROR_ILLEGAL_ADDRESS, "line 8, block (0,0,0), thread (31,0,0)",
     "0 bytes behind the end of 'memory #1' (4096 bytes)"},
    {"load behind the end of an allocation, in block 2",
     HEAD "shr.u32 %c, %c, 1; mul.wide.u32 %at, %c, 4096;\nadd.s64 %p, %p, %at;\nld.global.u32 %v, [%p];\nret;", 3, 1,
     CUDA_ERROR_ILLEGAL_ADDRESS, "line 8, block (2,0,0), thread (0,0,0)", "global memory out of bounds: load"},
    {"load at 0", HEAD "mov.u64 %q, 0;\nld.global.u32 %v, [%q];\nret;", 1, 32, CUDA_ERROR_ILLEGAL_ADDRESS,
     "line 7, block (0,0,0), thread (0,0,0)", "0x0 is no address of this device"},
    {"misaligned vector load",
     HEAD "add.s64 %p, %p, 8;\n.reg .b32 %r<4>;\nld.global.v4.u32 {%r0, %r1, %r2, %r3}, [%p];\nret;", 1, 32,
     CUDA_ERROR_MISALIGNED_ADDRESS, "line 8, block (0,0,0), thread (0,0,0)", "16 bytes"},
    {"misaligned shared store", HEAD SHARED "\nst.shared.u64 [%a+4], %p;\nret;", 1, 32, CUDA_ERROR_MISALIGNED_ADDRESS,
     "line 7, block (0,0,0), thread (0,0,0)", "misaligned access to shared memory"},
    {"uninitialised global word",
     HEAD "mul.wide.u32 %at, %t, 4;\nadd.s64 %p, %p, %at;\nld.global.u32 %v, [%p+2000];\nret;", 1, 32,
     CUDA_ERROR_LAUNCH_FAILED, "line 8, block (0,0,0), thread (12,0,0)", "uninitialised global memory"},
    {"shared memory behind the end", HEAD SHARED "\nst.shared.u32 [%a], %t;\nret;", 1, 160, CUDA_ERROR_ILLEGAL_ADDRESS,
     "line 7, block (0,0,0), thread (128,0,0)", "shared memory out of bounds: 4 bytes at 512 of 512"},
    {"uninitialised shared word", HEAD SHARED "\nst.shared.u32 [%a], %t;\nbar.sync 0;\nld.shared.u32 %v, [%a+4];\nret;",
     1, 64, CUDA_ERROR_LAUNCH_FAILED, "line 9, block (0,0,0), thread (63,0,0)", "uninitialised shared memory at 256"},
    {"unwritten word that a wide load uses",
     HEAD SHARED "\n.reg .b32 %r<4>; mov.u32 %v, s; setp.lt.u32 %on, %t, 3; @%on st.shared.u32 [%a], %t; bar.sync 0;\n"
                 ".pragma \"used_bytes_mask 61695\";\nld.shared.v4.u32 {%r0, %r1, %r2, %r3}, [%v];\nret;",
     1, 32, CUDA_ERROR_LAUNCH_FAILED, "line 9, block (0,0,0), thread (0,0,0)", "uninitialised shared memory at 12"},
    {"missing barrier", HEAD SHARED "\nst.shared.u32 [%a], %t;\nxor.b32 %v, %a, 128;\nld.shared.u32 %w, [%v];\nret;", 1,
     64, CUDA_ERROR_LAUNCH_FAILED, "line 9, block (0,0,0)", "shared memory"},
    {"missing barrier before a write",
     HEAD SHARED "\nst.shared.u32 [%a], %t;\nbar.sync 0;\nxor.b32 %v, %a, 128;\nld.shared.u32 %w, [%v];\nadd.u32 %w, "
                 "%w, 1;\nst.shared.u32 [%a], %w;\nret;",
     1, 64, CUDA_ERROR_LAUNCH_FAILED, "block (0,0,0)", "race on shared memory"},
    {"lanes of a warp without bar.warp",
     HEAD SHARED "\nst.shared.u32 [%a], %t;\nxor.b32 %v, %a, 4;\nld.shared.u32 %w, [%v];\nret;", 1, 32,
     CUDA_ERROR_LAUNCH_FAILED, "line 9, block (0,0,0), thread (0,0,0)", "thread (1,0,0) wrote since the last barrier"},
    {"two threads write one word", HEAD SHARED "\nmov.u32 %v, s;\nst.shared.u32 [%v], %t;\nret;", 1, 32,
     CUDA_ERROR_LAUNCH_FAILED, "line 8, block (0,0,0), thread (1,0,0)", "a write here, and thread (0,0,0) wrote"},
    {"divergent barrier",
     HEAD "setp.lt.u32 %on, %t, 16;\n@%on bra other;\nbar.sync 0;\nbra out;\nother:\nbar.sync 0;\nout:\nret;", 1, 32,
     CUDA_ERROR_LAUNCH_FAILED, "line 11, block (0,0,0), thread (0,0,0)",
     "divergent barrier: lanes 0x0000ffff of the warp are here, lanes 0xffff0000 wait elsewhere (line 8)"},
    {"barrier that half a warp does not reach", HEAD "setp.lt.u32 %on, %t, 16;\n@%on bar.sync 0;\nbar.sync 0;\nret;", 1,
     64, CUDA_ERROR_LAUNCH_FAILED, "line 7, block (0,0,0)", "divergent barrier"},
    {"deadlock of warps", HEAD "setp.lt.u32 %on, %t, 32;\n@%on bar.sync 1, 96;\nret;", 1, 64, CUDA_ERROR_LAUNCH_FAILED,
     "line 7, block (0,0,0), thread (0,0,0)", "deadlock: 32 of 96 threads are at barrier 1"},
    {"shuffle that some lanes never reach",
     HEAD "setp.lt.u32 %on, %t, 16;\n@%on bar.sync 2, 64;\nshfl.sync.bfly.b32 %v, %t, 1, 31, -1;\nret;", 1, 32,
     CUDA_ERROR_LAUNCH_FAILED, "line 7, block (0,0,0), thread (0,0,0)", "divergent barrier"},
    {"read of a register never written", HEAD "add.u32 %w, %v, 1;\nret;", 1, 32, CUDA_ERROR_LAUNCH_FAILED,
     "line 6, block (0,0,0), thread (0,0,0)", "operand 1 is a register that was never written"},
    {"register written in some lanes", HEAD "setp.lt.u32 %on, %t, 20;\n@%on mov.u32 %v, 1;\nadd.u32 %w, %v, 1;\nret;",
     1, 32, CUDA_ERROR_LAUNCH_FAILED, "line 8, block (0,0,0), thread (20,0,0)", "never written"},
    {"unwritten register moved, then used", HEAD "mov.u32 %w, %v;\nst.global.u32 [%p], %w;\nret;", 1, 1,
     CUDA_ERROR_LAUNCH_FAILED, "line 7, block (0,0,0), thread (0,0,0)",
     "operand 2 is a register that was never written"},
    {"guard never written", HEAD "@%on mov.u32 %v, 1;\nret;", 1, 1, CUDA_ERROR_LAUNCH_FAILED,
     "line 6, block (0,0,0), thread (0,0,0)", "the guard is a predicate that was never written"},
    {"shuffle from a lane that is off",
     HEAD "setp.lt.u32 %on, %t, 16;\n@!%on bra out;\nshfl.sync.idx.b32 %v, %t, 20, 31, 0xffff;\nadd.u32 %v, %v, "
          "1;\nout: ret;",
     1, 32, CUDA_ERROR_LAUNCH_FAILED, "line 9, block (0,0,0), thread (0,0,0)", "never written"},
    {"lane outside its own mask", HEAD "shfl.sync.idx.b32 %v, %t, 0, 31, 0xffff;\nret;", 1, 32,
     CUDA_ERROR_ILLEGAL_INSTRUCTION, "line 6, block (0,0,0), thread (16,0,0)", "not in its own mask"},
    {"copy read before it is waited for",
     HEAD SHARED "\nmad.lo.u32 %a, %t, 12, %a;\nmul.wide.u32 %at, %t, 16;\nadd.s64 %p, %p, %at;\n"
                 "cp.async.cg.shared.global [%a], [%p], 16;\ncp.async.commit_group;\nld.shared.u32 %v, [%a];\nret;",
     1, 32, CUDA_ERROR_LAUNCH_FAILED, "line 12, block (0,0,0), thread (0,0,0)", "before its cp.async was waited for"},
    {"copies of others without a barrier",
     HEAD SHARED "\nmad.lo.u32 %a, %t, 12, %a;\nmul.wide.u32 %at, %t, 16;\nadd.s64 %p, %p, %at;\n"
                 "cp.async.cg.shared.global [%a], [%p], 16;\ncp.async.wait_all;\nxor.b32 %a, %a, 16;\nld.shared.u32 "
                 "%v, [%a];\nret;",
     1, 32, CUDA_ERROR_LAUNCH_FAILED, "line 13, block (0,0,0), thread (0,0,0)", "race on shared memory"},
    {"mma in half a warp",
     HEAD
     "setp.lt.u32 %on, %t, 16;\n@!%on bra out;\n.reg .b32 %r<8>;\nmov.u32 %r0, 0; mov.u32 %r1, 0; mov.u32 %r2, 0;\n"
     "mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%r3, %r4}, {%r0, %r1}, {%r2}, {%r0, %r1};\nout: ret;",
     1, 32, CUDA_ERROR_ILLEGAL_INSTRUCTION, "line 10, block (0,0,0), thread (0,0,0)", "all 32 lanes"},
    {"store to a constant", HEAD "mov.u64 %q, 0x300000000;\nst.u32 [%q], %t;\nret;", 1, 1, CUDA_ERROR_ILLEGAL_ADDRESS,
     "line 7, block (0,0,0), thread (0,0,0)", "store to the kernel's parameters"},
    {"parameter behind the end", HEAD "mov.u64 %q, 0x300000000;\nld.u32 %v, [%q+8];\nret;", 1, 1,
     CUDA_ERROR_ILLEGAL_ADDRESS, "line 7, block (0,0,0), thread (0,0,0)", "parameters out of bounds"},
    {"local memory behind the end", HEAD ".local .align 4 .b8 mine[16];\nst.local.u32 [mine+16], %t;\nret;", 1, 1,
     CUDA_ERROR_ILLEGAL_ADDRESS, "line 7, block (0,0,0), thread (0,0,0)", "local memory out of bounds"},
    {"local memory never written",
     HEAD ".local .align 4 .b8 mine[16];\nld.local.u32 %v, [mine+4];\nadd.u32 %v, %v, 1;\nret;", 1, 1,
     CUDA_ERROR_LAUNCH_FAILED, "line 8, block (0,0,0), thread (0,0,0)", "never written"},
    {"barrier number", HEAD "mov.u32 %v, 16;\nbar.sync %v;\nret;", 1, 1, CUDA_ERROR_ILLEGAL_INSTRUCTION,
     "line 7, block (0,0,0), thread (0,0,0)", "barrier 16"},
    {"branch table", HEAD "mov.u32 %v, 3;\nts: .branchtargets A, B;\nbrx.idx %v, ts;\nA:\nB: ret;", 1, 1,
     CUDA_ERROR_ILLEGAL_INSTRUCTION, "line 8, block (0,0,0), thread (0,0,0)", "label 3 of 2"},
    {"atomic on shared memory of others",
     HEAD SHARED
     "\nmov.u32 %v, s; setp.eq.u32 %on, %t, 0;\n@%on st.shared.u32 [%v], 0;\natom.shared.add.u32 %w, [%v], 1;\nret;",
     1, 32, CUDA_ERROR_LAUNCH_FAILED, "line 9, block (0,0,0), thread (1,0,0)", "race on shared memory"},
    {"atomic behind the end", HEAD "red.global.add.u32 [%p+4096], 1;\nret;", 1, 1, CUDA_ERROR_ILLEGAL_ADDRESS,
     "line 6, block (0,0,0), thread (0,0,0)", "atomic of 4 bytes"},
    {"misaligned atomic", HEAD "red.global.add.u32 [%p+2], 1;\nret;", 1, 1, CUDA_ERROR_MISALIGNED_ADDRESS,
     "line 6, block (0,0,0), thread (0,0,0)", "misaligned atomic"},
    {"loop without end", HEAD "again:\nbra again;\nret;", 1, 1, CUDA_ERROR_LAUNCH_TIMEOUT,
     "line 7, block (0,0,0), thread (0,0,0)", "no end after 1000000 instructions"},
    {"breakpoint", HEAD "brkpt;\nret;", 1, 1, CUDA_ERROR_LAUNCH_FAILED, "line 6, block (0,0,0), thread (0,0,0)",
     "trap"},
    {"trap", HEAD "setp.eq.u32 %on, %t, 5;\n@%on trap;\nret;", 2, 32, CUDA_ERROR_LAUNCH_FAILED,
     "line 7, block (0,0,0), thread (5,0,0)", "trap"},
};

static void check_bug(const bug *b) {
  sim_start("sm_90");
  sim_set("watchdog", "1000000");
  uint8_t zeros[2048] = {0};
  CUdeviceptr p = sim_upload(NULL, 4096);
  sim_ok(sim.to_device(p, zeros, sizeof zeros));
  CUfunction f = sim_kernel(sim_module("sm_90", ".param .u64 p", b->body), "k");
  void *params[] = {&p};
  CUresult r = sim_run(f, b->blocks, b->threads, 0, params);
  qn_check(r == b->result, "%s: got %d (%s), want %d", b->name, (int)r, sim.error(), (int)b->result);
  qn_check(strstr(sim.error(), "kernel 'k', PTX ") != NULL && strstr(sim.error(), b->where) != NULL &&
               strstr(sim.error(), b->what) != NULL,
           "%s: '%s' lacks '%s' or '%s'", b->name, sim.error(), b->where, b->what);
  // After a fault every call gives the same, until the device is reset.
  qn_check(sim.synchronize() == b->result && sim.alloc(&p, 16) == b->result, "%s: the fault does not last", b->name);
}

START_TEST(test_planted) {
  for (size_t k = 0; k < QN_COUNT(bugs); k++) check_bug(&bugs[k]);
}
END_TEST

// The same with warps in other orders: a race is found in any.
START_TEST(test_planted_shuffled) {
  static const char *const orders[] = {"reverse", "shuffle"};
  for (int o = 0; o < 2; o++) {
    for (size_t k = 0; k < QN_COUNT(bugs); k++) {
      if (strstr(bugs[k].name, "missing barrier") == NULL) continue;
      sim_start("sm_90");
      sim_set("warp_order", orders[o]);
      check_bug(&bugs[k]);
    }
  }
  sim_set("warp_order", "forward");
}
END_TEST

// What looks like a race and is none.
START_TEST(test_no_fault) {
  static const char *const bodies[] = {
      HEAD SHARED "\nst.shared.u32 [%a], %t;\nbar.warp.sync -1;\nxor.b32 %v, %a, 4;\nld.shared.u32 %w, [%v];\nret;",
      HEAD SHARED "\nmov.u32 %v, s;\nst.shared.u32 [%v], 7;\nret;",  // all the same value
      // a wide load whose last word nobody wrote, and nobody uses
      HEAD SHARED "\n.reg .b32 %r<4>; mov.u32 %v, s; setp.lt.u32 %on, %t, 3; @%on st.shared.u32 [%a], %t; bar.sync 0;\n"
                  ".pragma \"used_bytes_mask 4095\";\nld.shared.v4.u32 {%r0, %r1, %r2, %r3}, [%v]; add.u32 %w, %r0, %r2;\nret;",
      HEAD SHARED
      "\nmov.u32 %v, s; setp.eq.u32 %on, %t, 0;\n@%on st.shared.u32 [%v], 0;\nbar.sync 0;\natom.shared.add.u32 %w, "
      "[%v], 1;\nbar.sync 0;\nld.shared.u32 %w, [%v];\nret;",
      HEAD "setp.ge.u32 %on, %t, 40;\n@%on ret;\nbar.sync 0;\nret;",  // threads that ended are not waited for
      HEAD "mov.u32 %w, %v;\nselp.b32 %w, %t, %v, 1;\nadd.u32 %w, %w, 1;\nret;",  // what no path has set is not used
      HEAD SHARED "\nst.shared.u8 [%a], %t;\nst.shared.u8 [%a+1], %t;\nld.shared.u16 %v, [%a];\nret;",
      HEAD "{ .reg .b32 %v; mov.u32 %v, 1; add.u32 %w, %v, 1; }\nret;",
  };
  for (size_t k = 0; k < QN_COUNT(bodies); k++) {
    sim_start("sm_90");
    CUdeviceptr p = sim_upload(NULL, 4096);
    CUfunction f = sim_kernel(sim_module("sm_90", ".param .u64 p", bodies[k]), "k");
    void *params[] = {&p};
    CUresult r = sim_run(f, 2, 64, 0, params);
    qn_check(r == CUDA_SUCCESS, "%s: %s", bodies[k], sim.error());
  }
}
END_TEST

// The first faulting block by number is named, however many threads run.
START_TEST(test_first_block) {
  for (int round = 0; round < 5; round++) {
    sim_start("sm_90");
    sim_set("threads", round % 2 == 0 ? "4" : "1");
    CUdeviceptr p = sim_upload(NULL, 4096);
    CUfunction f =
        sim_kernel(sim_module("sm_90", ".param .u64 p", HEAD "setp.ge.u32 %on, %c, 9;\n@%on trap;\nret;"), "k");
    void *params[] = {&p};
    sim_fails(CUDA_ERROR_LAUNCH_FAILED, "block (9,0,0)", sim_run(f, 200, 64, 0, params));
  }
  sim_set("threads", "0");
}
END_TEST

// What does not load: the line, and what is wrong in it.
START_TEST(test_rejected) {
  static const struct {
    const char *body, *what;
  } texts[] = {
      {"frobnicate.s32 %a, %b;", "PTX line 5: 'frobnicate.s32': the instruction 'frobnicate' is not known"},
      {"\nadd.frob.s32 %a, %b;", "PTX line 6: 'add.frob.s32': no such form of 'add' is known"},
      {".reg .b32 %a;\nadd.s32 %a, %a, %zz;", "PTX line 6: the special register '%zz' is not known"},
      {".reg .b32 %a; .reg .b64 %b;\nadd.s32 %a, %a, %b;", "PTX line 6: add.s32: '%b' has 64 bits, want 32"},
      {".reg .b32 %a;\nadd.s32 %a, %a;", "PTX line 6: add.s32: got too few operands"},
      {".reg .b32 %a;\nadd.s32 %a, %a, %a, %a;", "PTX line 6: add.s32: got too many operands"},
      {".reg .b32 %a;\nadd.s32 %a, %a, {%a, %a};", "got registers in braces"},
      {".reg .b32 %a;\nadd.s32 %a, !%a, %a;", "got a negation"},
      {"bra nowhere;", "PTX line 5: 'nowhere' is declared nowhere"},
      {".reg .b32 %a; .reg .b32 %a;", "'%a' is declared already, in line 5"},
      {".reg .b32 %a; ld.global.v4.u32 {%a, %a}, [%a];", "got 2 registers in braces, want 4"},
      {".reg .b32 %a;\n@%a bra x; x:", "the guard '%a' is no predicate"},
      {".reg .f32 %a;\ncvt.s32.f32 %a, %a;", "PTX line 6: 'cvt.s32.f32': no such form"},
      {".reg .b64 %a;\ncall (%a), %a, (%a);", "calls through registers are not supported"},
      {"mov.b32 \"x\", 1;", "an operand"},
      {"\x01", "it is corrupt"},
      {"/* open", "a comment that has no end"},
      {".reg .b32 %a; mov.b32 %a, 0f12;", "wants 8 hexadecimal digits"},
      {".reg .b32 %a; mov.b32 %a, 12ab;", "is no number"},
      {".shared .b8 s[4] = {1, 2, 3, 4, 5};", "more initial values than its 4 elements"},
      {".shared .align 3 .b8 s[4];", "an alignment of 3 bytes"},
      {".wrong x;", "the directive '.wrong'"},
      {".reg .b8 %a;", "registers of type '.b8'"},
      {"ret", "got '}', want an operand"},
  };
  for (size_t k = 0; k < QN_COUNT(texts); k++) {
    CUmodule m;
    sim_start("sm_90");
    CUresult r = sim.load(&m, sim_module("sm_80", "", texts[k].body));
    qn_check(r == CUDA_ERROR_INVALID_PTX || r == CUDA_ERROR_INVALID_IMAGE, "%s: got %d", texts[k].body, (int)r);
    qn_check(strstr(sim.error(), texts[k].what) != NULL, "%s: '%s' lacks '%s'", texts[k].body, sim.error(),
             texts[k].what);
  }
}
END_TEST

QN_CASE(faults, test_planted, test_planted_shuffled, test_no_fault, test_first_block, test_rejected)
QN_TEST_MAIN(faults)
