// A running kernel: launch, block, warp, and what the functions of instructions need. 32 lanes are plain loops that the
// compiler vectorises; all lanes active is the fast path, else results are blended by the mask.
#ifndef PTXSIM_EXEC_H
#define PTXSIM_EXEC_H

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "tests/ptxsim/memory.h"
#include "tests/ptxsim/program.h"
#include "tests/ptxsim/ptxsim.h"

enum { PS_MAX_DEPTH = 16, PS_MAX_WARPS = 32, PS_BARRIERS = 16, PS_FULL_MASK = -1 };
#define PS_FULL 0xffffffffu

typedef struct ps_launch_config {
  uint32_t grid[3], block[3];
  uint32_t dynamic_shared_bytes;
  const uint8_t *params;  // borrowed: program->param_bytes
} ps_launch_config;

typedef enum ps_order { PS_ORDER_FORWARD, PS_ORDER_REVERSE, PS_ORDER_SHUFFLE } ps_order;

typedef struct ps_options {
  ps_order warp_order, block_order;
  uint64_t seed;
  bool perturb;  // approximations by up to 2 ulp
  bool check_races, check_initialised;
  uint32_t threads;   // 0 = one a core
  uint64_t watchdog;  // instructions of warps in one block
} ps_options;

// What went wrong in a kernel, and the code that the driver call gives.
typedef struct ps_fault {
  int code;              // CUresult; 0 = none
  uint64_t block_order;  // position of the block in the order of the launch
  char text[640];
} ps_fault;

typedef struct ps_launch {
  const ps_program *program;
  const ps_launch_config *config;
  const ps_options *options;
  ps_memory *memory;
  uint32_t thread_count, warp_count;  // of a block
  uint32_t shared_bytes;
  uint64_t block_count;
  atomic_uint_fast64_t next_block;
  atomic_uint_fast64_t stop_at;  // no block from this position on is begun
  const uint32_t *block_order;   // NULL = forward
  pthread_mutex_t lock;
  ps_fault fault;         // guarded by lock
  ps_counters *counters;  // of the kernel; guarded by lock
  ps_traffic *traffic;    // by range of memory; guarded by lock
  size_t traffic_count;
  uint32_t grid_id;
  int device;
} ps_launch;

typedef enum ps_group_state { PS_GROUP_RUN, PS_GROUP_SYNC, PS_GROUP_ARRIVING, PS_GROUP_BARRIER } ps_group_state;

// Lanes at one place.
typedef struct ps_group {
  uint32_t pc, mask;
  ps_group_state state;
  uint32_t waits_for;  // of PS_GROUP_SYNC: lanes
  uint32_t depth;
  struct {
    uint32_t pc;
    const ps_insn *call;
  } stack[PS_MAX_DEPTH];
} ps_group;

// A copy of cp.async that has not landed.
typedef struct ps_pending_copy {
  uint32_t to, size;  // in shared memory
  uint8_t lane, group_open;
  uint32_t group;
  uint8_t data[16];
} ps_pending_copy;

typedef struct ps_warp {
  struct ps_block *block;
  uint8_t *registers;              // aligned to 32
  void *registers_block;           // owned: what was allocated for them
  uint8_t *local, *local_written;  // [lane][local_bytes]
  uint32_t mask;                   // lanes of the instruction being executed
  uint32_t alive, populated;
  uint32_t index;
  uint32_t group_count;
  uint32_t current;  // index of the group that runs
  ps_group groups[PS_LANES];
  uint64_t last_sync;  // tick
  QN_VEC(ps_pending_copy) copies;
  uint32_t copy_group[PS_LANES];  // the open group of each lane
  bool done;
} ps_warp;

typedef struct ps_barrier {
  uint32_t arrived, expected;                     // threads; expected 0 = all of the block
  uint32_t result_count, result_all, result_any;  // of bar.red
} ps_barrier;

// Where an access of an instruction was last: most come back to the same range.
typedef struct ps_place {
  uint64_t low, high;  // addresses of the range
  ps_allocation *allocation;
  uint32_t range;
} ps_place;

typedef struct ps_block {
  ps_launch *launch;
  const ps_program *program;
  uint32_t id[3];
  uint64_t order;
  uint8_t *shared;
  uint64_t *shadow_writer, *shadow_reader;  // one a granule, see shared.c
  uint64_t tick, barrier_tick;
  uint32_t warp_count, alive_threads;
  ps_warp *warps;
  ps_barrier barriers[PS_BARRIERS];
  uint64_t *executed, *lanes;  // by instruction
  ps_counters counters;
  ps_traffic *traffic;
  size_t traffic_count;
  ps_place *places;  // by instruction
  uint64_t steps;
  ps_fault fault;
  uint64_t random;
} ps_block;

// Records a fault of a lane at an instruction; the block stops after it.
void ps_fault_at(ps_warp *warp, const ps_insn *insn, int lane, int code, const char *format, ...) QN_PRINTF(5, 6);
static inline bool ps_faulted(const ps_warp *warp) { return warp->block->fault.code != 0; }

// Runs a whole grid. The result is a CUresult; the text of a fault is in out_fault.
int ps_run(ps_launch *launch, ps_fault *out_fault);
// Runs the warp until it waits, ends or has executed `budget` instructions. False when it could not do anything.
bool ps_warp_run(ps_warp *warp, uint64_t budget);
// Makes a warp ready for a block's start.
void ps_warp_begin(ps_warp *warp);
// After a barrier might have become complete; false when none was.
bool ps_barriers_release(ps_block *block);

// One fp8 number, e4m3 or e5m2.
float ps_from_fp8(uint8_t v, bool e4m3);

// The row of an operand.
static inline void *ps_row(const ps_warp *warp, int32_t offset) { return warp->registers + offset; }
static inline void *ps_dst(const ps_warp *warp, const ps_insn *insn, int i) { return ps_row(warp, insn->dst[i]); }
static inline void *ps_src(const ps_warp *warp, const ps_insn *insn, int i) { return ps_row(warp, insn->src[i]); }
static inline uint32_t *ps_written(const ps_warp *warp, int32_t offset) {
  return (uint32_t *)(void *)(warp->registers + offset - PS_ROW_HEAD);
}

// Lanes of a predicate operand that may be negated.
static inline uint32_t ps_predicate(const ps_warp *warp, const ps_insn *insn, int i) {
  uint32_t p = *(const uint32_t *)ps_src(warp, insn, i);
  return insn->negate >> i & 1 ? ~p : p;
}
static inline void ps_set_predicate(const ps_warp *warp, int32_t row, uint32_t value) {
  uint32_t *p = ps_row(warp, row);
  *p = (*p & ~warp->mask) | (value & warp->mask);
}

#if defined(__clang__)
#define PS_VECTOR _Pragma("clang loop vectorize(assume_safety)")
#else
#define PS_VECTOR _Pragma("GCC ivdep")
#endif
#define PS_EACH_LANE       PS_VECTOR for (int l = 0; l < PS_LANES; l++)
#define PS_ACTIVE(mask, l) (((mask) >> (l)&1) != 0)

// d[lane] = EXPR for the active lanes, where t is scratch of the same type.
#define PS_ASSIGN(T, d, EXPR)                                  \
  do {                                                         \
    if (w->mask == PS_FULL) {                                  \
      PS_EACH_LANE { d[l] = (T)(EXPR); }                       \
    } else {                                                   \
      T t_[PS_LANES];                                          \
      PS_EACH_LANE { t_[l] = (T)(EXPR); }                      \
      const uint32_t m_ = w->mask;                             \
      PS_EACH_LANE { d[l] = PS_ACTIVE(m_, l) ? t_[l] : d[l]; } \
    }                                                          \
  } while (0)

// Functions of one, two and three sources, lane by lane.
#define PS_UNARY(name, TD, TA, EXPR)               \
  static void name(ps_warp *w, const ps_insn *i) { \
    TD *d = ps_dst(w, i, 0);                       \
    const TA *pa = ps_src(w, i, 0);                \
    PS_ASSIGN(TD, d, ({                            \
                const TA a = pa[l];                \
                EXPR;                              \
              }));                                 \
  }
#define PS_BINARY(name, TD, TA, TB, EXPR)          \
  static void name(ps_warp *w, const ps_insn *i) { \
    TD *d = ps_dst(w, i, 0);                       \
    const TA *pa = ps_src(w, i, 0);                \
    const TB *pb = ps_src(w, i, 1);                \
    PS_ASSIGN(TD, d, ({                            \
                const TA a = pa[l];                \
                const TB b = pb[l];                \
                EXPR;                              \
              }));                                 \
  }
#define PS_TERNARY(name, TD, TA, TB, TC, EXPR)     \
  static void name(ps_warp *w, const ps_insn *i) { \
    TD *d = ps_dst(w, i, 0);                       \
    const TA *pa = ps_src(w, i, 0);                \
    const TB *pb = ps_src(w, i, 1);                \
    const TC *pc = ps_src(w, i, 2);                \
    PS_ASSIGN(TD, d, ({                            \
                const TA a = pa[l];                \
                const TB b = pb[l];                \
                const TC c = pc[l];                \
                EXPR;                              \
              }));                                 \
  }

#endif
