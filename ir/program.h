// What lowering makes of a graph: kernels in loop IR, the steps that call them in order, and the buffers between them.
// Loop passes, memory planning, code generation and the artifact writer all work on this.
#ifndef QN_IR_PROGRAM_H
#define QN_IR_PROGRAM_H

#include "ir/format.h"
#include "ir/gpu_schedule.h"
#include "ir/graph.h"
#include "ir/loop.h"
#include "ir/schedule.h"

#define QN_QUANTIZE_MOST 127        // the code of a block's largest magnitude
#define QN_QUANTIZE_LEAST 0x1p-120f  // a block whose largest magnitude is less has codes 0: 127 / it may overflow
#define QN_BUFFER_BYTES_MAX ((int64_t)1 << 40)  // of one buffer: sums of thousands of them cannot overflow
#define QN_SAMPLE_SETTINGS  8          // i32 of a row's settings (runtime/README.md)
#define QN_SAMPLE_VOCAB_END (1 << 19)  // sums of as many weights of 2^24 at most fit two i32
#define QN_EXPERTS_MAX      4096       // of a product: ordering rows by them takes a number for each on the stack
#define QN_EXPERT_RUN       256        // rows of an expert that are done together at most
#define QN_PAGE_KEYS 64  // keys a KV page holds, which is also the attention chunk of the numeric contract

// How a parameter's bytes are laid out.
typedef enum qn_layout {
  QN_LAYOUT_PLAIN,   // f32, row-major as in the graph's type (norm weights, biases)
  QN_LAYOUT_ROWS1,   // tile layout with one row a panel: row lookups
  QN_LAYOUT_ROWS16,  // tile layout with 16 rows a panel: matmuls (and lookups in a tied table)
  QN_LAYOUT_COUNT
} qn_layout;
const char *qn_layout_name(qn_layout layout);
bool qn_layout_parse(const char *text, qn_layout *out);
// Bytes of a parameter of this type in a tile layout: an (N, K) matrix, or several one after another, their numbers in
// the dimensions before N. false on overflow, or when the type has no such layout.
bool qn_weight_bytes(const qn_type *type, qn_layout layout, size_t *out);
// How many matrices those are.
int64_t qn_weight_matrices(const qn_type *type);

typedef enum qn_pbuf_kind {
  QN_PB_ARENA,   // an intermediate value, or an output of the program when `name` is set
  QN_PB_WEIGHT,  // packed parameters
  QN_PB_CACHE,   // a layer's K or V pool
  QN_PB_INPUT,   // bound by the runtime or the host, by name
} qn_pbuf_kind;

// A buffer of the program. Rows of 2-D and wider f32 values in the arena are padded to 16 elements: row_pitch from one
// row (all dimensions but the first) to the next; kernels may write the padding and never read it as data. Inputs and
// plain weights are dense, in the order of their type.
typedef struct qn_pbuf {
  qn_pbuf_kind kind;
  qn_type type;
  const char *name;     // arena: WEIGHT: first tensor's name; INPUT and output: the name; CACHE: "k" or "v"
  int64_t row_pitch;    // ARENA: elements from row to row (bytes for a8); 0 where a row's size holds a symbol
  int layer;            // CACHE
  bool of_source;       // CACHE: its keys are of a source's tokens (S), not of the sequence's own
  int64_t window;       // CACHE: keys that a token sees of it at most, its own the last; 0 = all before it
  qn_layout layout;     // WEIGHT
  const char **sources; // WEIGHT: tensors stacked along dimension 0, arena
  size_t source_count;  // 0: the values are `literal`
  const float *literal; // WEIGHT made by the compiler (RoPE frequencies): one a element, arena
  uint32_t first_step, last_step;  // ARENA: lifetime, inclusive; last_step UINT32_MAX = an output
  uint64_t bytes;       // for the largest symbol values; set by lowering
  uint64_t offset;      // ARENA: in the arena, set by plan_memory; WEIGHT: in the weights section, by the writer
  // ARENA, written by a prologue: a row's place in the memory that each thread has of its own; own_bytes 0 = none
  uint64_t own_offset, own_bytes;
} qn_pbuf;

// A kernel made for row counts [rows_min, rows_max].
typedef struct qn_pvariant {
  int64_t rows_min, rows_max;
  qn_schedule schedule;      // for a CPU
  qn_gpu_schedule gpu;       // for a GPU; lanes 0 = it is for a CPU
  const qn_lkernel *kernel;  // after the loop passes
  qn_dim extent;             // of its parallel loop; constant 1 when it has none
  int extent_rows;           // GPUs: 2 or more = an iteration does so many of the extent's symbol
  bool in_parts;             // its parallel loop keeps to the spans of the steps that call it (qn_pstep)
} qn_pvariant;

#define QN_MAX_VARIANTS 5

// The variants that a kernel is to have: ascending ranges of row counts, each with its schedule.
typedef struct qn_kernel_plan {
  int count;
  struct {
    int64_t rows_min, rows_max;  // inclusive
    qn_schedule schedule;
  } variants[QN_MAX_VARIANTS];
} qn_kernel_plan;

typedef struct qn_pkernel {
  const char *name;         // arena; without the variant's suffix
  // arena: what it computes, on one line, in the graph's terms and nothing of lowering or of names: two kernels of the
  // same signature compute the same function (passes/signature.c).
  const char *signature;
  const qn_lkernel *plain;  // as lowered
  qn_symbol rows;           // the symbol that chooses the variant: T or R; NONE = one variant
  bool is_matmul;           // schedules for matmuls apply (m tiles, n tiles, prefetch)
  int64_t panels;           // matmul: number of 16-row panels
  int64_t k;                // matmul: values along K
  int products;             // matmul: products of one input that it does together (gate and up are 2)
  qn_dtype weights, input;  // matmul: element types of the first product's operands
  bool chained;             // some step that calls it is in a chain: its iterations are the neighbours' (qn_link)
  bool halves;              // matmul: some product has the attribute of that name
  // matmul of experts: how many there are, and how many each token has; 0 of others. panels are then those of one.
  int64_t experts, chosen;
  const struct qn_kernel_work *work;  // arena: what it does, counted for the cost model (passes/cost.h)
  // Attention: rows (query heads) that a token has in a tile, and tokens that share one; 0 for other kernels. panels
  // then divides the numbers of panels of all its loops.
  int64_t tile_rows, run_tokens;
  qn_pvariant variants[QN_MAX_VARIANTS];
  int variant_count;
} qn_pkernel;

// How a step may run with its neighbours, without a barrier between them (passes/link_steps.c).
typedef enum qn_link {
  QN_LINK_NONE,
  // Where it has one row, each thread that takes part in the next step computes it for itself, into memory of its own,
  // before its first piece of that. Nobody else reads what it writes.
  QN_LINK_PROLOGUE,
  // Goes on where the step before it stopped: of the buffers that they share, an equal part of its iterations touches
  // what the same part of the iterations of that one does, and of those that it is chained to in turn.
  QN_LINK_CHAINED,
  QN_LINK_COUNT
} qn_link;
const char *qn_link_name(qn_link link);

typedef struct qn_pstep {
  uint32_t kernel;
  uint32_t *buffers;   // arena: one a kernel parameter, index into buffers
  const char *loc;     // arena: the op it came from
  qn_link link;
  int64_t *spans;      // arena: one a parameter, see qn_lkernel_span; 0 = not shared along a chain
  bool barrier;        // all work before this step is waited for, unless its link spares that
  uint32_t group;      // of the graph
} qn_pstep;

typedef struct qn_program {
  qn_arena *arena;  // borrowed
  const char *name;
  QN_VEC(qn_pbuf) buffers;
  QN_VEC(qn_pkernel) kernels;
  QN_VEC(qn_pstep) steps;
  int64_t max_values[QN_SYM_COUNT];
  uint64_t arena_bytes, own_bytes;  // own: of each thread
} qn_program;

qn_program *qn_program_create(qn_arena *arena, const char *name);  // NULL when out of memory
// Kernels, steps, buffers with offsets, as text for dumps and `quern inspect` (program.c).
void qn_program_print(const qn_program *program, qn_buf *out);
// The last step that runs together with step `first`, which no link joins to the one before it.
size_t qn_program_phase_end(const qn_program *program, size_t first);
// Steps name kernels and buffers that exist, with as many buffers as parameters; lifetimes do not overlap in memory;
// a prologue has a step to go before, a chained step one to follow, and one step is not both.
QN_CHECKED qn_status qn_program_verify(const qn_program *program, bool memory_planned, qn_diag *diag);

// Where the packer finds a model's tensors. dims are row-major (dims[0] the outermost, N; the last K).
typedef struct qn_tensor_data {
  const qn_format *format;
  int rank;
  int64_t dims[QN_MAX_RANK];
  const void *data;  // borrowed, in the file's layout
} qn_tensor_data;
typedef struct qn_weight_source {
  void *context;
  qn_status (*find)(void *context, const char *name, qn_tensor_data *out, qn_diag *diag);
} qn_weight_source;

#endif
