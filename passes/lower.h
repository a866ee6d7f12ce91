// Lowering: shared by lower.c (groups → kernels, steps, buffers) and the files that write one kind of kernel each.
#ifndef QN_PASSES_LOWER_H
#define QN_PASSES_LOWER_H

#include "ir/format.h"
#include "passes/pass.h"
#include "runtime/base/map.h"

// What is known of a graph value while its group's kernel is written.
typedef struct qn_lvalue {
  uint32_t buffer;       // index + 1 of the program buffer that holds it; 0 = none
  bool materialised;     // somebody outside its group needs it in memory
  bool stored;           // it is in its buffer by now: sources, and what earlier statements wrote
  const qn_lexpr *expr;  // its value at the element being written (a matmul's accumulator)
  const qn_lbuf *stats;  // a row op's numbers, stat_count for each row of the last dimension
  int stat_count;
} qn_lvalue;

typedef struct qn_lparam_binding {
  uint32_t buffer;  // of the program
  qn_lbuf *param;
} qn_lparam_binding;

typedef struct qn_lower {
  qn_pass_context *pass;
  const qn_graph *graph;
  qn_program *program;
  qn_lvalue *values;  // by node id
  // the kernel being written
  uint32_t group;
  qn_id anchor;        // the node that decides what kind of kernel the group is
  const char *piece;   // of the group's kernels, where it has several: added to its name; NULL = the last or only one
  qn_map *known;       // kernels by text
  qn_lbuild build;
  QN_VEC(qn_lparam_binding) bindings;
  int64_t tile_rows, run_tokens;  // of attention; see qn_pkernel
  // of rows: heads are done in so many equal parts, the number of the one being written (NULL where there is one)
  int64_t parts;
  const qn_lexpr *part;
  const qn_lexpr *copy;  // of what a kv_write with copies writes, the number of the one being written; NULL = one alone
  bool splits;     // a row's work is one loop, which threads can share: a variant for one row is worth having
  qn_symbol rows;  // of `splits`
} qn_lower;

// Where an element of a value is: its row (leading dimension) and its place among the row's elements, flattened.
typedef struct qn_lplace {
  const qn_lexpr *row;  // NULL for values without a leading symbolic dimension
  const qn_lexpr *flat;
} qn_lplace;

// The expression for an element of a value: a load, or the computation where it is not in memory. NULL: see
// build.failed, or *status-carrying diag set when the op cannot be an element's expression.
const qn_lexpr *qn_lower_value(qn_lower *lower, qn_id id, qn_lplace place);
// The kernel parameter for a value in memory (an arena buffer, weight, cache or input).
qn_lbuf *qn_lower_param(qn_lower *lower, qn_id id);
// Stores an element of `id` wherever it is needed: its buffer, and the caches that kv_write ops of the group name.
void qn_lower_store(qn_lower *lower, qn_lblock *block, qn_id id, qn_lplace place, const qn_lexpr *value);
// [element (n, k)] of a packed weight as f32.
const qn_lexpr *qn_lower_weight(qn_lower *lower, qn_id weight, const qn_lexpr *n, const qn_lexpr *k);

// Writes the kernel of a kv_write that sums attention (lower_attention.c).
QN_CHECKED qn_status qn_lower_attention_sum(qn_lower *lower, qn_id id);
// Is the node such a one?
bool qn_lower_is_sum(const qn_node *node);

// --- packed weights in loop IR (lower_format.c): places of the tile layout of ir/format.h.
typedef struct qn_lower_tile {
  const qn_format *format;  // of blocks
  qn_tile tile;
  int64_t rows;
  const qn_lbuf *buf;
  const qn_lexpr *block, *part,
      *lane;  // block of the matrix (panel * blocks of K + block), part of it, row in the panel
} qn_lower_tile;
qn_lower_tile qn_lower_tile_at(const qn_format *format, const qn_lbuf *buf, int64_t rows, const qn_lexpr *block,
                               const qn_lexpr *part, const qn_lexpr *lane);
// The block's scale and min as f32; no min is NULL.
const qn_lexpr *qn_lower_tile_scale(qn_lower *lower, const qn_lower_tile *t);
const qn_lexpr *qn_lower_tile_min(qn_lower *lower, const qn_lower_tile *t);
// Those of a group of the part, from the block's.
const qn_lexpr *qn_lower_group_scale(qn_lower *lower, const qn_lower_tile *t, const qn_lexpr *scale,
                                     const qn_lexpr *group);
const qn_lexpr *qn_lower_group_min(qn_lower *lower, const qn_lower_tile *t, const qn_lexpr *min, const qn_lexpr *group);
// The second factor of a group's scale, or of its min, as i32; of formats that have one.
const qn_lexpr *qn_lower_group_factor(qn_lower *lower, const qn_lower_tile *t, bool min, const qn_lexpr *group);
// Values 4 * word ... 4 * word + 3 of the part as unsigned bytes of an i32: offset still added. Of panels of 16. `word` is
// first + run, of a run of tile.lines words that begins with a multiple of so many.
const qn_lexpr *qn_lower_tile_word(qn_lower *lower, const qn_lower_tile *t, int64_t first, const qn_lexpr *run);
// Value 4 * word + byte as f32, before scaling.
const qn_lexpr *qn_lower_tile_number(qn_lower *lower, const qn_lower_tile *t, int64_t first, const qn_lexpr *run,
                                     int byte);
// number * scale, or fma(number, scale, min).
const qn_lexpr *qn_lower_scaled(qn_lower *lower, const qn_lexpr *number, const qn_lexpr *scale, const qn_lexpr *min);
// Element (n, k) as f32, of any format.
const qn_lexpr *qn_lower_tile_value(qn_lower *lower, const qn_format *format, const qn_lbuf *buf, int64_t rows,
                                    int64_t k_size, const qn_lexpr *n, const qn_lexpr *k);

// The parameter for a program buffer by index.
qn_lbuf *qn_lower_bind(qn_lower *lower, uint32_t buffer);
// The same for memory of the program's that the kernel writes; NULL after a failure.
qn_lbuf *qn_lower_bind_writable(qn_lower *lower, uint32_t buffer);
// Memory for what the kernels of a group leave each other: `rows` rows of `pitch` (qn_lower_pitch) elements.
QN_CHECKED qn_status qn_lower_scratch(qn_lower *lower, qn_dtype dtype, qn_dim rows, int64_t pitch,
                                      uint32_t *out_buffer);
// How elements lie in memory: of blocks and a8, bytes.
qn_lmem qn_lower_mem(qn_dtype dtype);
// Elements from row to row for rows of `width`: whole lines of 16.
int64_t qn_lower_pitch(int64_t width);
// Ends the kernel being written, one of several of the group, and begins the next.
QN_CHECKED qn_status qn_lower_end_piece(qn_lower *lower, const char *piece);
// Appends a buffer to the program; false when out of memory.
bool qn_lower_add_buffer(qn_lower *lower, const qn_pbuf *buffer, uint32_t *out_index);

// Elements of a row: the product of all dimensions but the leading one (constant).
int64_t qn_lower_row_width(const qn_type *type);
// Byte (a8) or element pitch of rows in the arena.
int64_t qn_lower_row_pitch(const qn_type *type);
// Elements of a row, for rows that hold a symbol too.
const qn_lexpr *qn_lower_row_elements(qn_lower *lower, const qn_type *type);

// Shapes of loops that many kernels use. `body` gets the index of an element.
typedef void (*qn_lower_body)(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context);
// for name in lo..hi; returns its body.
qn_lblock *qn_lower_loop(qn_lower *lower, qn_lblock *block, const char *name, const qn_lexpr *lo, const qn_lexpr *hi,
                         qn_lorder order, const qn_lexpr **out_var);
// What runs where the predicate holds.
qn_lblock *qn_lower_when(qn_lower *lower, qn_lblock *block, const qn_lexpr *predicate);
// for i in 0..extent: elementwise, vectorised by the schedule.
void qn_lower_each(qn_lower *lower, qn_lblock *block, const char *name, int64_t extent, qn_lower_body body,
                   void *context);
// for k in steps of 16, for l in 0..16 (and the rest): 16 lanes at a time whatever the schedule says.
void qn_lower_lanes(qn_lower *lower, qn_lblock *block, int64_t extent, bool unroll, qn_lower_body body, void *context);
// Folds local[0..16) into local[0] by a fixed tree.
void qn_lower_tree(qn_lower *lower, qn_lblock *block, const qn_lbuf *local, qn_lop op);
// A reduction along `extent` elements with 16 strided partial values and a fixed tree; returns the local whose
// element 0 is the result. `element` gives the value to fold in.
typedef const qn_lexpr *(*qn_lower_element)(qn_lower *lower, const qn_lexpr *index, void *context);
const qn_lbuf *qn_lower_reduce(qn_lower *lower, qn_lblock *block, int64_t extent, qn_lop op, float start,
                               qn_lower_element element, void *context);

// A block of 32 values as codes, the rule of the op quantize.
typedef struct qn_lower_codes {
  const qn_lbuf *codes;    // i32 (32), -127 to 127
  const qn_lexpr *scale;   // f32; NaN of a block that has a NaN or an infinity
  const qn_lbuf *sums[2];  // i32: element 0 is the sum of the codes of a half
} qn_lower_codes;
// Appends what makes codes and scale of 32 values, none of which has a code below `least`, -127 or 0; the sums are
// declared.
qn_lower_codes qn_lower_quantize_block(qn_lower *lower, qn_lblock *block, int least, qn_lower_element element,
                                       void *context);
// The same in two steps: the largest magnitude of the values as an f32, and their codes by what is made of it.
const qn_lexpr *qn_lower_block_max(qn_lower *lower, qn_lblock *block, qn_lower_element element, void *context);
qn_lower_codes qn_lower_block_codes(qn_lower *lower, qn_lblock *block, int least, const qn_lexpr *inverse,
                                    const qn_lexpr *scale, qn_lower_element element, void *context);
// Appends what makes the sums.
void qn_lower_sum_codes(qn_lower *lower, qn_lblock *block, const qn_lower_codes *codes);
// Of a block whose largest magnitude is `max`: what values are multiplied with before they are rounded, its scale; the code
// of x, which is `least` where x is no number.
const qn_lexpr *qn_lower_code_inverse(qn_lbuild *b, const qn_lexpr *max);
const qn_lexpr *qn_lower_code_scale(qn_lbuild *b, const qn_lexpr *max);
const qn_lexpr *qn_lower_code(qn_lbuild *b, const qn_lexpr *x, const qn_lexpr *inverse, int least);
// A value's magnitude as an i32, which orders as the values do and puts NaN above all.
const qn_lexpr *qn_lower_magnitude(qn_lbuild *b, const qn_lexpr *x);

// The body of a loop over `heads`, or over those of the part that is being written, and the head's number.
qn_lblock *qn_lower_each_head(qn_lower *lower, qn_lblock *block, int64_t heads, const qn_lexpr **out_head);
// The page that a kv_write puts token `row` on, and the token's position; NULL after a failure.
const qn_lexpr *qn_lower_written_page(qn_lower *lower, const qn_node *write, const qn_lexpr *row,
                                      const qn_lexpr **out_pos);
// Writes a row of a kv_write into a cache of codes (lower_codes.c).
void qn_lower_write_codes(qn_lower *lower, qn_lblock *block, qn_id id, const qn_lexpr *row);

// The signature of the group being lowered (signature.c; see qn_pkernel), in the program's arena; NULL when out of memory.
const char *qn_lower_signature(const qn_lower *lower);

QN_CHECKED qn_status qn_lower_matmul_group(qn_lower *lower);
QN_CHECKED qn_status qn_lower_rows_group(qn_lower *lower);
QN_CHECKED qn_status qn_lower_attention_group(qn_lower *lower, qn_id id);
QN_CHECKED qn_status qn_lower_sample(qn_lower *lower, qn_id id);

// --- experts (lower_experts.c)
// The rows that one iteration of a product of experts does, for one panel: pairs of a token and an expert that it has.
typedef struct qn_lower_run {
  const qn_lexpr *expert;      // whose weights
  const qn_lexpr *begin, *end;  // of the order's places
} qn_lower_run;
// Appends what finds the run that begins at place `at` of the order, if one does, to `block`. node: an expert_matmul.
qn_lower_run qn_lower_expert_run(qn_lower *lower, qn_lblock *block, const qn_node *node, const qn_lexpr *at);
// The row at a place of the order, an index; computed in `block`.
const qn_lexpr *qn_lower_expert_row(qn_lower *lower, qn_lblock *block, const qn_node *node, const qn_lexpr *place);
QN_CHECKED qn_status qn_lower_expert_order(qn_lower *lower, qn_id id);
// Writes a row of top_k, or of expert_mix, to its memory.
void qn_lower_top_k_row(qn_lower *lower, qn_lblock *block, qn_id id, const qn_lexpr *row);
void qn_lower_expert_mix_row(qn_lower *lower, qn_lblock *block, qn_id id, const qn_lexpr *row);

// Short names for the makers, for code that writes kernels.
#define LX_INT(v)                qn_lint(b, (v))
#define LX_F32(v)                qn_lf32(b, (v))
#define LX_ADD(x, y)             qn_lop2(b, QN_LX_ADD, (x), (y))
#define LX_SUB(x, y)             qn_lop2(b, QN_LX_SUB, (x), (y))
#define LX_MUL(x, y)             qn_lop2(b, QN_LX_MUL, (x), (y))
#define LX_DIV(x, y)             qn_lop2(b, QN_LX_DIV, (x), (y))
#define LX_MOD(x, y)             qn_lop2(b, QN_LX_MOD, (x), (y))
#define LX_FMA(x, y, z)          qn_lop3(b, QN_LX_FMA, (x), (y), (z))
#define LX_LOAD(buf, mem, index) qn_lload(b, (buf), (mem), (index), 1)

#endif
