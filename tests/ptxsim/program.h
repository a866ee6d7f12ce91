// A kernel as the simulator runs it: one array of instructions for the entry and all it calls, operands as byte offsets
// into a warp's register file, constants and special registers as rows of that file.
#ifndef PTXSIM_PROGRAM_H
#define PTXSIM_PROGRAM_H

#include "tests/ptxsim/parse.h"

enum { PS_LANES = 32, PS_MAX_DST = 8, PS_MAX_SRC = 12, PS_NO_ROW = -1 };
// A row of the register file: PS_ROW_HEAD bytes, of which the first four are the mask of lanes that were written, then
// 32 values (predicates: one mask). Offsets point at the values.
enum { PS_ROW_HEAD = 32 };

struct ps_warp;
struct ps_insn;
typedef void (*ps_fn)(struct ps_warp *warp, const struct ps_insn *insn);
// Lanes for which a comparison holds.
typedef uint32_t (*ps_compare_fn)(const void *a, const void *b);

// What instructions are counted as: PS_CLASS(name, meaning).
#define PS_CLASSES(PS_CLASS)                                      \
  PS_CLASS(integer, "integer arithmetic and bits")                \
  PS_CLASS(float32, "f32 arithmetic")                             \
  PS_CLASS(float64, "f64 arithmetic")                             \
  PS_CLASS(half, "f16 and bf16 arithmetic")                       \
  PS_CLASS(dot, "dp4a and dp2a")                                  \
  PS_CLASS(special, "approximations: ex2, rcp, rsqrt, sin, ...")  \
  PS_CLASS(convert, "cvt")                                        \
  PS_CLASS(compare, "setp, set, selp, slct")                      \
  PS_CLASS(move, "mov, cvta, prmt of registers")                  \
  PS_CLASS(param, "loads of parameters")                          \
  PS_CLASS(load, "loads from global memory or generic addresses") \
  PS_CLASS(store, "stores there")                                 \
  PS_CLASS(shared_load, "loads from shared memory, ldmatrix")     \
  PS_CLASS(shared_store, "stores to shared memory")               \
  PS_CLASS(local, "loads and stores of local memory")             \
  PS_CLASS(atomic, "atom, red")                                   \
  PS_CLASS(copy, "cp.async, its commits and waits")               \
  PS_CLASS(tensor, "mma")                                         \
  PS_CLASS(warp, "shfl, vote, match, redux")                      \
  PS_CLASS(barrier, "barriers of blocks and warps, fences")       \
  PS_CLASS(control, "branches, calls, exits")

typedef enum ps_class {
#define PS_CLASS(name, meaning) PS_CLASS_##name,
  PS_CLASSES(PS_CLASS)
#undef PS_CLASS
      PS_CLASS_COUNT
} ps_class;

// What the scheduler does itself; everything else is a plain function of registers and memory.
typedef enum ps_control {
  PS_CONTROL_NONE,
  PS_CONTROL_BRANCH,  // target
  PS_CONTROL_BRANCH_TABLE,
  PS_CONTROL_CALL,  // target, copies
  PS_CONTROL_RETURN,
  PS_CONTROL_EXIT,
  PS_CONTROL_SYNC,     // waits for the lanes of a mask (sync_arg), then fn
  PS_CONTROL_BARRIER,  // of the block
} ps_control;

typedef enum ps_space {
  PS_SPACE_GENERIC,
  PS_SPACE_GLOBAL,
  PS_SPACE_SHARED,
  PS_SPACE_LOCAL,
  PS_SPACE_PARAM,
} ps_space;

// Flags of an instruction, by what it is.
enum {
  PS_FLAG_FTZ = 1,
  PS_FLAG_SAT = 2,
  PS_FLAG_RELU = 4,
  PS_FLAG_NAN = 8,
  PS_FLAG_SIGNED = 16,  // loads widen with the sign
  PS_FLAG_ATOMIC = 32,  // volatile, relaxed and the like: no race with others of their kind
  PS_FLAG_TRANS = 64,
  PS_FLAG_ALIGNED = 128,      // all lanes of the warp take part in one instruction
  PS_FLAG_ARRIVE = 256,       // bar.arrive does not wait
  PS_FLAG_READS = 512,        // of atomics: there is a destination
  PS_FLAG_OWN_INIT = 1024,    // fn itself says which lanes of the destinations are written
  PS_FLAG_RAW_SOURCE = 2048,  // may read what was never written, and hands that on (mov)
  PS_FLAG_COUNT = 8192,       // bar with a count of threads
  PS_FLAG_XOR_SIGN = 16384,
};
enum { PS_BAR_PLAIN, PS_BAR_POPC, PS_BAR_AND, PS_BAR_OR };  // bar.red
enum { PS_ROUND_NEAREST, PS_ROUND_ZERO, PS_ROUND_DOWN, PS_ROUND_UP, PS_ROUND_AWAY };

typedef struct ps_call_copy {
  uint32_t from, to, size;  // in the local memory of each thread
} ps_call_copy;

typedef struct ps_insn {
  ps_fn fn;
  int32_t guard;  // row, or PS_NO_ROW
  bool guard_negated;
  uint8_t control;  // ps_control
  uint8_t klass;    // ps_class
  uint8_t dst_count, src_count;
  uint8_t space;   // ps_space
  uint8_t size;    // bytes of one element of an access
  uint8_t width;   // bytes of the registers that hold it
  uint8_t vector;  // elements of an access, or of a register of mma
  uint8_t a_regs;  // of mma: registers of A
  uint8_t op;      // of atomics, shuffles, votes, comparisons that combine, ...
  uint8_t round;
  uint8_t negate;        // bit i: source i is a predicate that is negated
  uint8_t address32;     // bit i: source i is an address of 32 bits
  uint32_t used_bytes;   // of a load: bit i = byte i of a lane's matters; 0 = all do
  bool param_direct;     // the address is a kernel parameter's, known when decoded and in bounds
  uint8_t source_width;  // of cvt: bytes of the source register
  uint8_t sync_arg;      // index in src of the mask of a PS_CONTROL_SYNC; 255 = all lanes
  uint16_t flags;
  int32_t dst[PS_MAX_DST], src[PS_MAX_SRC];
  int64_t offset;        // of the address; of the last one where there are two
  int64_t offset_first;  // of the first of two
  uint32_t target;
  int32_t line;         // in the PTX
  uint8_t type, type2;  // ps_type
  ps_compare_fn compare;
  const uint32_t *table;  // arena: targets of a PS_CONTROL_BRANCH_TABLE; 32-lane constants of others
  uint32_t table_count;
  const ps_call_copy *copies;  // arena: parameters of a call
  uint32_t copy_count;
  const struct ps_unit *callee;
} ps_insn;

// A function placed in a program.
typedef struct ps_unit {
  const ps_function *function;
  uint32_t first, end;   // instructions
  bool decoded, active;  // active: being decoded, so a call of it would be recursive
} ps_unit;

typedef struct ps_constant {
  uint64_t bits;
  unsigned bytes;
  int32_t row;
} ps_constant;

// Special registers: PS_SPECIAL(enum, spelling, bytes).
#define PS_SPECIALS(PS_SPECIAL)                \
  PS_SPECIAL(TID_X, "%tid.x", 4)               \
  PS_SPECIAL(TID_Y, "%tid.y", 4)               \
  PS_SPECIAL(TID_Z, "%tid.z", 4)               \
  PS_SPECIAL(NTID_X, "%ntid.x", 4)             \
  PS_SPECIAL(NTID_Y, "%ntid.y", 4)             \
  PS_SPECIAL(NTID_Z, "%ntid.z", 4)             \
  PS_SPECIAL(CTAID_X, "%ctaid.x", 4)           \
  PS_SPECIAL(CTAID_Y, "%ctaid.y", 4)           \
  PS_SPECIAL(CTAID_Z, "%ctaid.z", 4)           \
  PS_SPECIAL(NCTAID_X, "%nctaid.x", 4)         \
  PS_SPECIAL(NCTAID_Y, "%nctaid.y", 4)         \
  PS_SPECIAL(NCTAID_Z, "%nctaid.z", 4)         \
  PS_SPECIAL(LANEID, "%laneid", 4)             \
  PS_SPECIAL(WARPID, "%warpid", 4)             \
  PS_SPECIAL(NWARPID, "%nwarpid", 4)           \
  PS_SPECIAL(SMID, "%smid", 4)                 \
  PS_SPECIAL(NSMID, "%nsmid", 4)               \
  PS_SPECIAL(GRIDID, "%gridid", 8)             \
  PS_SPECIAL(LANEMASK_EQ, "%lanemask_eq", 4)   \
  PS_SPECIAL(LANEMASK_LE, "%lanemask_le", 4)   \
  PS_SPECIAL(LANEMASK_LT, "%lanemask_lt", 4)   \
  PS_SPECIAL(LANEMASK_GE, "%lanemask_ge", 4)   \
  PS_SPECIAL(LANEMASK_GT, "%lanemask_gt", 4)   \
  PS_SPECIAL(DYNAMIC, "%dynamic_smem_size", 4) \
  PS_SPECIAL(TOTAL, "%total_smem_size", 4)     \
  PS_SPECIAL(CLOCK, "%clock", 4)               \
  PS_SPECIAL(CLOCK64, "%clock64", 8)           \
  PS_SPECIAL(GLOBALTIMER, "%globaltimer", 8)

typedef enum ps_special {
#define PS_SPECIAL(name, spelling, bytes) PS_SPECIAL_##name,
  PS_SPECIALS(PS_SPECIAL)
#undef PS_SPECIAL
      PS_SPECIAL_COUNT
} ps_special;

typedef struct ps_program {
  const ps_function *entry;
  const char *name;  // arena
  uint32_t first;    // instruction of the entry
  QN_VEC(ps_insn) insns;
  QN_VEC(ps_unit *) units;
  QN_VEC(ps_constant) constants;
  QN_VEC(int32_t) rows;                // all of the register file
  int32_t specials[PS_SPECIAL_COUNT];  // rows, PS_NO_ROW where not used
  int32_t sink;                        // row for what `_` swallows
  uint32_t register_bytes;             // of a warp's register file
  uint32_t local_bytes;                // of each thread
  uint32_t static_shared_bytes, dynamic_align;
  uint32_t param_bytes;
  uint32_t granule;         // bytes of the smallest access that may reach shared memory: 1, 2 or 4
  uint32_t live_registers;  // an estimate, in 32-bit registers
  uint32_t id;              // of its counters
} ps_program;

// Addresses that are not global: generic ones lie in these windows.
#define PS_WINDOW_SHARED 0x0000000100000000ull
#define PS_WINDOW_LOCAL  0x0000000200000000ull
#define PS_WINDOW_PARAM  0x0000000300000000ull
#define PS_WINDOW_BYTES  0x0000000100000000ull

// Decodes an entry with all it calls. Global variables must have been placed. The program lives in the arena.
// QN_ERR_UNSUPPORTED with the line for an instruction or operand that is in no table.
QN_CHECKED qn_status ps_decode(const ps_module *module, const ps_function *entry, qn_arena *arena,
                               ps_program **out_program, qn_diag *diag);

#endif
