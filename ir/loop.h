// The loop IR: a kernel as nested loops over affine ranges, with typed loads and stores, scalar or vector
// arithmetic and dot products. Both targets are generated from it, and loop_interp.h runs it slowly.
//
// Meaning in short: statements run in order; a `for` runs its body for var = lo, lo+1, ... hi-1. A local is private
// to one execution of the block that declares it. Locals have no initial value. f32 arithmetic is IEEE single, never
// contracted or reordered. Expressions are trees in memory but may share nodes; they have no side effects.
#ifndef QN_IR_LOOP_H
#define QN_IR_LOOP_H

#include "ir/type.h"
#include "runtime/base/arena.h"

typedef enum qn_lop {
#define QN_LX(name, text, operands, result, syntax, meaning) QN_LX_##name,
#include "ir/loop.def"
#undef QN_LX
  QN_LX_COUNT
} qn_lop;

// One line of loop.def.
typedef struct qn_lop_info {
  const char *name;  // "TO_F32"
  const char *text;  // "f32"
  int operands;
  char result;  // S, B, I, N, F, L
  char syntax;  // C, O, X
  const char *meaning;
} qn_lop_info;
const qn_lop_info *qn_lop_info_of(qn_lop op);

// What an expression's lanes are.
typedef enum qn_lkind { QN_LK_INDEX, QN_LK_I32, QN_LK_F32, QN_LK_PRED } qn_lkind;
typedef struct qn_ltype {
  qn_lkind kind;
  int lanes;  // 1 = scalar
} qn_ltype;
#define QN_LANES_MAX 64
#define QN_LWAIT_MAX 31  // groups of copies that a WAIT may leave under way
const char *qn_lkind_name(qn_lkind kind);  // "index", "i32", "f32", "pred"

// What one element is in memory.
typedef enum qn_lmem { QN_LM_F32, QN_LM_F16, QN_LM_BF16, QN_LM_I32, QN_LM_I8, QN_LM_U8, QN_LM_COUNT } qn_lmem;
size_t qn_lmem_size(qn_lmem mem);
const char *qn_lmem_name(qn_lmem mem);
qn_lkind qn_lmem_kind(qn_lmem mem);  // F32 for floats, I32 for integers

typedef struct qn_lexpr qn_lexpr;
typedef struct qn_lstmt qn_lstmt;

// A loop variable: compared by address. Names (of variables and buffers) are [A-Za-z_][A-Za-z0-9_]*, perhaps followed
// by '$' and a number that makes them unique; what stands before the '$' is the base name, by which passes know loops.
typedef struct qn_lvar {
  const char *name;  // arena; unique in the kernel
  // Every value it takes is in lo .. hi-1: INT64_MIN and INT64_MAX where not known. Set by qn_lfor from the loop's
  // bounds; whoever changes those calls qn_lfor_set_bounds (the verifier checks it).
  int64_t lo, hi;
  bool bounded;  // both are known
} qn_lvar;
qn_str qn_lname_base(const char *name);  // "t$3" → "t"
qn_str qn_lvar_base(const qn_lvar *var);

typedef enum qn_lbuf_kind {
  QN_LB_PARAM,  // passed in by the runtime; `elements` of `mem` (other views of the same bytes may be loaded)
  QN_LB_LOCAL,  // private memory; `elements` is a constant
} qn_lbuf_kind;

// A buffer: a kernel parameter or a local array.
typedef struct qn_lbuf {
  const char *name;  // arena; unique in the kernel
  qn_lbuf_kind kind;
  qn_lmem mem;               // the element type that elements counts
  const qn_lexpr *elements;  // size in elements: constants, symbols, + and *
  bool writable;             // stored to (params); locals always are
  bool streamed;             // read once, in order (weights): what prefetching looks for
  bool shared;               // locals: one for all lanes of a group, which see each other's stores after a barrier
  bool spread;               // locals: element i is the lane's that does iteration i of LANE loops, and no other's
  // Locals: so many elements are each lane's own, those from lane * each on; only its iterations of LANE loops (which are
  // 0..elements / each), and MMA, touch them. 0 = none are.
  int each;
  // Locals: no byte that is stored in it, read as unsigned, is above this. 0 = nothing is known.
  int byte_max;
  int param_index;           // position among the parameters
} qn_lbuf;

struct qn_lexpr {
  qn_lop op;
  qn_ltype type;
  const qn_lexpr *operands[3];
  union {
    int64_t int_value;     // INT
    float float_value;     // FLOAT
    const qn_lvar *var;    // VAR
    qn_symbol symbol;      // SYM
    struct {               // LOAD: operands[0] is the index in elements of `mem`.
      const qn_lbuf *buf;  //   scalar index and type.lanes n > 1: n consecutive elements from there
      qn_lmem mem;         //   vector index: a gather, lane by lane
    } load;
    uint8_t table[16];     // LUT16
  } u;
};

// What tensor cores do: C += A * B for a tile of 16 rows and 8 columns, by the 32 lanes of a warp. A has 16 rows and B 8
// columns of `words` words along K, of four bytes or two 16-bit floats each. Each lane has a part of each in locals of
// its own (qn_lbuf.each): with r = lane / 4 and q = lane % 4
//   A  words / 2 words, number i being row r + i % 2 * 8, word q + i / 2 * 4
//   B  words / 4 words, number i being column r, word q + i * 4
//   C  4 elements, number i being row r + i / 2 * 8, column 2q + i % 2
typedef enum qn_lmma {
#define QN_MMA(name, text, words, sum, instruction, meaning) QN_MMA_##name,
#include "ir/mma.def"
#undef QN_MMA
  QN_MMA_COUNT
} qn_lmma;

// One line of mma.def.
typedef struct qn_lmma_info {
  const char *text;  // "u8s8k32"
  int words;
  qn_lmem sum;
  const char *instruction;  // what PTX calls it, after "mma.sync.aligned."
  const char *meaning;
} qn_lmma_info;
const qn_lmma_info *qn_lmma_info_of(qn_lmma kind);
enum { QN_MMA_WARP = 32, QN_MMA_ROWS = 16, QN_MMA_COLUMNS = 8, QN_MMA_C = 4 };
typedef enum qn_lmma_operand { QN_MMA_OF_C, QN_MMA_OF_A, QN_MMA_OF_B, QN_MMA_OPERANDS } qn_lmma_operand;
int qn_lmma_each(qn_lmma kind, qn_lmma_operand operand);  // elements a lane has of an operand
// What a warp does, in the bits of its elements: c[lane * 4 + i] and so on.
void qn_lmma_multiply(qn_lmma kind, uint32_t *c, const uint32_t *a, const uint32_t *b);

typedef enum qn_lstmt_kind {
  QN_LS_FOR,
  QN_LS_STORE,
  QN_LS_LOCAL,
  QN_LS_PREFETCH,
  QN_LS_BARRIER,
  QN_LS_COPY,    // these three: see `copy` below
  QN_LS_COMMIT,
  QN_LS_WAIT,
  QN_LS_MMA,
} qn_lstmt_kind;

// How the iterations of a loop relate, which is what a schedule may do with it.
typedef enum qn_lorder {
  QN_LO_DATA,    // independent of each other: may be tiled, reordered, unrolled, vectorised, run in parallel
  QN_LO_REDUCE,  // in this order always (the numeric contract); may be tiled in place and unrolled
} qn_lorder;

// What the schedule decided about a loop.
//
// On a GPU a *group* of threads, its lanes, does one iteration of the parallel loop together. All of them walk the
// statements outside of LANE loops: there a store to a parameter or a shared local is done by one lane, a store to
// another local by each lane to its own; a LANE loop's iterations are shared out among them. What one lane stored to a
// parameter or a shared local, others may load after a BARRIER. A machine with one thread an iteration runs a LANE loop
// as any other, and a BARRIER does nothing.
typedef enum qn_lmark {
  QN_LM_SERIAL,
  QN_LM_PARALLEL,  // at most one, the kernel's only top-level statement, lo = 0: threads get ranges of it
  QN_LM_UNROLL,    // constant bounds: the unroll pass replicates the body
  QN_LM_VECTOR,    // constant bounds: the vectorise pass turns the body into vector statements
  QN_LM_LANE,      // DATA order, not in another LANE loop: lane i of the group does iterations i, i + lanes, ...
} qn_lmark;

typedef struct qn_lblock {
  qn_lstmt *first, *last;  // a doubly linked list
} qn_lblock;

struct qn_lstmt {
  qn_lstmt_kind kind;
  qn_lstmt *next, *prev;
  union {
    struct {
      qn_lvar *var;
      const qn_lexpr *lo, *hi;  // index
      qn_lorder order;
      qn_lmark mark;
      qn_lblock body;
    } loop;
    struct {
      const qn_lbuf *buf;
      qn_lmem mem;            // narrows: f32 to f16/bf16 to nearest even, i32 to i8/u8 by truncation
      const qn_lexpr *index;  // scalar: consecutive lanes from there; vector: a scatter
      const qn_lexpr *value;  // of `lanes` lanes, or scalar: the same value to every lane
      int lanes;              // elements written
    } store;
    struct {
      qn_lbuf *buf;  // its scope runs from here to the end of the block
    } local;
    struct {
      const qn_lbuf *buf;
      qn_lmem mem;
      const qn_lexpr *index;  // may point beyond the buffer's end
      bool far;               // into the second cache: other things fill the first before this is read
    } prefetch;
    // 4, 8 or 16 bytes from a parameter into a shared local, both places at multiples of as many: a copy that goes on
    // while the lane does other things. A COMMIT closes the group of what its lane has copied since the one before; a
    // WAIT holds the lane until no more than the `groups` youngest of its groups are under way. What then has arrived,
    // others may load after a barrier. Between the copy and the wait for it nobody touches the bytes in the local, nor
    // stores to those in the parameter.
    struct {
      const qn_lbuf *to, *from;
      qn_lmem mem;                            // of both views
      const qn_lexpr *to_index, *from_index;  // scalar
      int lanes;                              // elements
    } copy;
    struct {
      int groups;
    } wait;
    struct {
      qn_lmma kind;
      const qn_lbuf *bufs[QN_MMA_OPERANDS];  // locals with elements of each lane's own, all of as many lanes
      int at[QN_MMA_OPERANDS];               // the first of the elements that a lane has there
    } mma;  // by all warps of a group, each on what its lanes have
  } u;
};

// A kernel. Everything in it lives in the arena it was made with.
typedef struct qn_lkernel {
  const char *name;  // the symbol; [A-Za-z0-9_]+
  qn_lbuf **params;  // in the order the runtime passes them
  size_t param_count;
  qn_lblock body;
} qn_lkernel;

// --- building (loop_build.c). Makers return NULL when out of memory, and pass NULL operands through, so that a whole
// kernel can be built and checked once: see qn_lbuild.failed.
typedef struct qn_lbuild {
  qn_arena *arena;         // borrowed
  qn_lkernel *kernel;      // arena; never NULL (`spare` after a failure)
  bool failed;             // an allocation failed: the kernel must not be used
  struct qn_lname *names;  // arena: a hash table of base names, for unique names
  size_t name_count, name_capacity;
  qn_lstmt spare_loop;  // what qn_lfor returns after a failure, so that callers may go on
  qn_lkernel spare;
} qn_lbuild;

void qn_lbuild_init(qn_lbuild *b, qn_arena *arena, const char *kernel_name);
// Goes on with a finished kernel (parsed, say) in the arena it lives in: new names will differ from those in it.
void qn_lbuild_open(qn_lbuild *b, qn_arena *arena, qn_lkernel *kernel);
// Names: the first of a kernel is taken as it is, later ones get a suffix: t, t$1, t$2.
qn_lbuf *qn_lparam(qn_lbuild *b, const char *name, qn_lmem mem, const qn_lexpr *elements, bool writable, bool streamed);
// Declares a local at the end of `block`.
qn_lbuf *qn_llocal(qn_lbuild *b, qn_lblock *block, const char *name, qn_lmem mem, int64_t elements);
qn_lvar *qn_lvar_new(qn_lbuild *b, const char *name);
// Appends `for var in lo..hi` and returns the statement, never NULL; fill stmt->u.loop.body. Sets var's range: make
// the expressions that use var afterwards.
qn_lstmt *qn_lfor(qn_lbuild *b, qn_lblock *block, qn_lvar *var, const qn_lexpr *lo, const qn_lexpr *hi,
                  qn_lorder order);
// Changes a loop's bounds and with them its variable's range.
void qn_lfor_set_bounds(qn_lstmt *loop, const qn_lexpr *lo, const qn_lexpr *hi);
// Stores as many lanes as value or index has; NULL after a failure.
qn_lstmt *qn_lstore(qn_lbuild *b, qn_lblock *block, const qn_lbuf *buf, qn_lmem mem, const qn_lexpr *index,
                    const qn_lexpr *value);
// Stores `lanes` lanes, a scalar value to each of them.
qn_lstmt *qn_lstore_lanes(qn_lbuild *b, qn_lblock *block, const qn_lbuf *buf, qn_lmem mem, const qn_lexpr *index,
                          const qn_lexpr *value, int lanes);
qn_lstmt *qn_lprefetch(qn_lbuild *b, qn_lblock *block, const qn_lbuf *buf, qn_lmem mem, const qn_lexpr *index,
                       bool far);
// Appends a barrier of the group's lanes; NULL after a failure.
qn_lstmt *qn_lbarrier(qn_lbuild *b, qn_lblock *block);
// Appends a copy of `lanes` elements, a commit, a wait; NULL after a failure.
qn_lstmt *qn_lcopy(qn_lbuild *b, qn_lblock *block, const qn_lbuf *to, const qn_lexpr *to_index, const qn_lbuf *from,
                   const qn_lexpr *from_index, qn_lmem mem, int lanes);
qn_lstmt *qn_lcommit(qn_lbuild *b, qn_lblock *block);
qn_lstmt *qn_lwait(qn_lbuild *b, qn_lblock *block, int groups);
// Appends C += A * B; NULL after a failure.
qn_lstmt *qn_lmma_append(qn_lbuild *b, qn_lblock *block, qn_lmma kind, const qn_lbuf *const bufs[QN_MMA_OPERANDS],
                         const int at[QN_MMA_OPERANDS]);

const qn_lexpr *qn_lint(qn_lbuild *b, int64_t value);  // index constant
const qn_lexpr *qn_li32(qn_lbuild *b, int32_t value);  // i32 constant
const qn_lexpr *qn_lf32(qn_lbuild *b, float value);
const qn_lexpr *qn_lref(qn_lbuild *b, const qn_lvar *var);
const qn_lexpr *qn_lsym(qn_lbuild *b, qn_symbol symbol);
const qn_lexpr *qn_ldim(qn_lbuild *b, qn_dim dim);  // value, or value * symbol
const qn_lexpr *qn_llane(qn_lbuild *b, int lanes);
const qn_lexpr *qn_lload(qn_lbuild *b, const qn_lbuf *buf, qn_lmem mem, const qn_lexpr *index, int lanes);
// Any operator with operands, simplified on the way: see qn_lexpr_simplify.
const qn_lexpr *qn_lop1(qn_lbuild *b, qn_lop op, const qn_lexpr *x);
const qn_lexpr *qn_lop2(qn_lbuild *b, qn_lop op, const qn_lexpr *x, const qn_lexpr *y);
const qn_lexpr *qn_lop3(qn_lbuild *b, qn_lop op, const qn_lexpr *x, const qn_lexpr *y, const qn_lexpr *z);
const qn_lexpr *qn_llut16(qn_lbuild *b, const qn_lexpr *x, const uint8_t table[16]);
// A node exactly as given (operands and u of *node; its type is computed), not simplified: what the parser uses.
const qn_lexpr *qn_lexpr_make(qn_lbuild *b, const qn_lexpr *node);

// --- simplifying (loop_simplify.c)
// A node equal to *node, whose operands are simple already; *node is copied where nothing is simpler. Index arithmetic
// (which never overflows) becomes a sum of coefficient * product terms, scalar terms first, then by falling
// coefficient, the constant last; / and % by constants lose the terms that divide and vanish where the range allows it;
// min, max and select are decided by ranges. i32 and f32 are only folded, exactly; f32 arithmetic is never rearranged.
// The kind and the lanes stay the same.
const qn_lexpr *qn_lexpr_simplify(qn_lbuild *b, const qn_lexpr *node);
// e = coefficient * var + rest with a constant coefficient and `rest` free of var; false when it is not of that form.
// (floor-division and modulo of a term with var are not.)
bool qn_lexpr_linear(qn_lbuild *b, const qn_lexpr *e, const qn_lvar *var, int64_t *out_coefficient,
                     const qn_lexpr **out_rest);
// Bounds of an index expression, both inclusive: INT64_MIN and INT64_MAX where not known.
typedef struct qn_lrange {
  int64_t min, max;
} qn_lrange;
qn_lrange qn_lexpr_range(const qn_lexpr *e);
// The bits of an i32 expression that may be 1 in some lane: all of them where nothing is known.
uint32_t qn_lexpr_bits(const qn_lexpr *e);
// An upper bound on each of the four bytes of an i32 expression, read as unsigned: 255 where nothing is known. What
// decides which instructions hold the sums of dot4's products.
int qn_lexpr_byte_max(const qn_lexpr *e);

// --- asking and rewriting (loop.c)
bool qn_lexpr_is_int(const qn_lexpr *e, int64_t *out);  // an INT constant?
// Is the index that of an element which lane `var` has of its own in the local? Which of them, then.
bool qn_lbuf_is_own(const qn_lbuf *buf, const qn_lexpr *index, const qn_lvar *var, int *out_element);
uint32_t qn_lut16(const uint8_t table[16], uint32_t bytes);  // what LUT16 makes of an i32
bool qn_lexpr_equal(const qn_lexpr *a, const qn_lexpr *b);
int qn_lexpr_compare(const qn_lexpr *a, const qn_lexpr *b);  // a total order, the same in every run; 0 = equal
bool qn_lexpr_uses(const qn_lexpr *e, const qn_lvar *var);
// A copy with var replaced by `with` (simplified); nodes without var are shared.
const qn_lexpr *qn_lexpr_replace(qn_lbuild *b, const qn_lexpr *e, const qn_lvar *var, const qn_lexpr *with);
// A copy in which `fn` may replace any node (called bottom-up on each node, rebuilt and simplified where an operand
// changed; returns the node itself to keep it, NULL when out of memory).
typedef const qn_lexpr *(*qn_lexpr_fn)(qn_lbuild *b, const qn_lexpr *e, void *context);
const qn_lexpr *qn_lexpr_map(qn_lbuild *b, const qn_lexpr *e, qn_lexpr_fn fn, void *context);
// Applies fn to every expression of a block, in place (stores, bounds, prefetches, nested loops). Stores become as wide
// as their new index or value, variables get the range of their new bounds.
void qn_lblock_map(qn_lbuild *b, qn_lblock *block, qn_lexpr_fn fn, void *context);
// The type that an operator's result has by loop.def, lanes broadcast; operands are not checked.
qn_ltype qn_lop_type(qn_lop op, const qn_lexpr *const operands[3]);
void qn_lblock_append(qn_lblock *block, qn_lstmt *stmt);
void qn_lblock_remove(qn_lblock *block, qn_lstmt *stmt);
void qn_lblock_insert_before(qn_lblock *block, qn_lstmt *before, qn_lstmt *stmt);  // before NULL = at the end
// Appends a deep copy to `to`, with fresh variables and locals under fresh names; false when out of memory.
bool qn_lblock_copy(qn_lbuild *b, const qn_lblock *from, qn_lblock *to);
// Initialises b with a deep copy that shares nothing with `from` and keeps its names; NULL when out of memory.
qn_lkernel *qn_lkernel_copy(qn_lbuild *b, qn_arena *arena, const qn_lkernel *from, const char *new_name);

// --- parts (loop_parts.c)
// Whether the kernel, one DATA loop from 0 over a constant number n > 1 of iterations, touches the parameter in equal
// parts: iteration i nothing but bytes [i, i + 1) * *out_bytes / n, and those at multiples of *out_bytes from there (the
// same part of every row, or page). *out_bytes is 0 when that is not seen to be so, or nothing is touched at all.
// Prefetches touch nothing. What is made on the way is in the arena.
QN_CHECKED qn_status qn_lkernel_span(const qn_lkernel *kernel, size_t param, qn_arena *arena, int64_t *out_bytes,
                                     qn_diag *diag);

// --- text (loop_print.c, loop_parse.c): print → parse → print is the identity. Grammar in ir/README.md.
#define QN_LTEXT_MAX_DEPTH 200  // how deep blocks, and how deep expressions, may nest
void qn_lkernel_print(const qn_lkernel *kernel, qn_buf *out);
void qn_lexpr_print(const qn_lexpr *e, qn_buf *out);
void qn_lstmt_print(const qn_lstmt *stmt, qn_buf *out);  // one line, of a loop its head only; for messages
// `name` is for messages ("file:line:col: ..."). Several kernels may follow each other in one text. Builds what is
// written without simplifying it. Types are the verifier's business.
QN_CHECKED qn_status qn_lkernels_parse(const char *name, qn_str text, qn_arena *arena, qn_lkernel ***out_kernels,
                                       size_t *out_count, qn_diag *diag);
// A name that may stand in the text: the charset above, and not a reserved word.
bool qn_lname_is_valid(qn_str name);

// --- checking (loop_verify.c): types, scopes, unique names, marks, constant local sizes, lanes. Errors are
// QN_ERR_INTERNAL and name the kernel and the statement.
QN_CHECKED qn_status qn_lkernel_verify(const qn_lkernel *kernel, qn_diag *diag);

#endif
