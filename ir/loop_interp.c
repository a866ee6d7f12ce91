// The interpreter of the loop IR. A kernel is first turned into steps (one a statement) with a list of instructions
// each, whose operands and results are fixed cells; then the steps are walked. Shared nodes of a statement run once, and
// what only the variables of outer loops decide runs when the loop inside of those begins.
#include "ir/loop_interp.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "ir/math.h"
#include "runtime/base/map.h"
#include "runtime/base/vec.h"

#define TEXT_LIMIT 300  // bytes of an expression or a statement that a message quotes

// One lane of a value. Predicates are 0 or 1 in i32.
typedef union cell {
  int64_t index;
  int32_t i32;
  float f32;
} cell;

// A buffer while the kernel runs.
typedef struct region {
  const qn_lbuf *buf;      // borrowed
  uint8_t *data;           // borrowed (parameters) or arena (locals)
  size_t size;             // bytes
  uint8_t *written;        // arena; of a local, for each byte: a byte_state; NULL for parameters
  struct region *outer;    // locals: the one declared before it that is visible in the same place
} region;

enum byte_state { NEVER_WRITTEN, WRITTEN, UNDER_WAY };  // UNDER_WAY: a copy to it has not been waited for

// A copy that has not been waited for.
typedef struct under_way {
  region *to;
  const uint8_t *from;  // borrowed
  size_t at, bytes;     // in `to`
  int64_t group;
} under_way;

typedef struct machine machine;
typedef struct step step;

// One instruction: computes the cells of one expression node from those of its operands.
typedef struct code {
  bool (*run)(machine *m, const struct code *c);  // false after a failure
  const qn_lexpr *expr;  // borrowed; its address is the key by which shared nodes are found
  int lanes;
  cell *out;             // arena, `lanes` cells
  const cell *in[3];     // arena
  int stride[3];         // 0: a scalar, the same for every lane; 1: a vector
  const region *memory;  // LOAD
  size_t size;           // LOAD: bytes of an element
  step *home;            // the innermost loop whose variable it goes by; NULL = none
  bool moves;            // it goes by variables of loops alone, and may run before it is wanted
  step *step;            // whose expression it is of
  struct code *next;
} code;

typedef struct code_list {
  code *first, *last;
} code_list;

// One statement.
struct step {
  const qn_lstmt *stmt;
  struct step *next, *parent;  // parent: the loop around it
  int depth;                   // loops around it
  struct step *body;           // FOR
  code_list codes;             // what computes its expressions
  code_list before;            // FOR: what runs before the first of its iterations, each time that there is one
  const cell *lo, *hi;         // FOR
  cell *var;                   // FOR
  const cell *index, *value;   // STORE, COPY: value is the index in `from`
  region *memory;              // STORE, LOCAL, COPY
  size_t size;                 // STORE: bytes of an element
  const region *from;          // COPY
  region *operands[QN_MMA_OPERANDS];  // MMA
};

struct machine {
  const qn_lkernel *kernel;
  const int64_t *symbols;
  int64_t begin, end;  // of the parallel loop
  const qn_allocator *allocator;
  qn_arena arena;      // all cells, steps and locals
  region *params;      // one a parameter
  region *locals;      // while compiling: the visible locals, innermost first
  qn_map shared;       // while compiling a statement: node → code
  QN_VEC(under_way) copies;
  int64_t groups;      // that were committed
  step *step;          // the one being compiled or run
  const code *early;   // that runs before its step does; NULL = none
  bool running;
  qn_status status;
  qn_diag *diag;
};

// --- failures

// " with t = 3, i = 7": the loops around the present step, outermost first.
static void put_variables(const step *loop, qn_buf *text) {
  if (!loop) return;
  put_variables(loop->parent, text);
  const char *name = loop->stmt->u.loop.var->name;
  qn_buf_printf(text, "%s%s = %" PRId64, loop->parent ? ", " : " with ", name, loop->var->index);
}

// A quoted piece of loop IR, cut when it is long: of a statement, or of an expression where that is given.
static void put_quoted(machine *m, const qn_lstmt *stmt, const qn_lexpr *expr, qn_buf *text) {
  qn_buf quoted;
  qn_buf_init(&quoted, m->allocator);
  if (expr) qn_lexpr_print(expr, &quoted);
  else qn_lstmt_print(stmt, &quoted);
  bool cut = quoted.length > TEXT_LIMIT;
  qn_buf_printf(text, "'%.*s%s'", TEXT_LIMIT, qn_buf_text(&quoted), cut ? "..." : "");
  qn_buf_deinit(&quoted);
}

// Reports what went wrong in the present step, in node `expr` of it unless that is NULL. Returns false.
static bool fail(machine *m, const qn_lexpr *expr, const char *format, ...) QN_PRINTF(3, 4);
static bool fail(machine *m, const qn_lexpr *expr, const char *format, ...) {
  char where[160], message[320];
  qn_buf text;
  va_list args;
  va_start(args, format);
  vsnprintf(message, sizeof message, format, args);
  va_end(args);
  snprintf(where, sizeof where, "kernel '%s'", m->kernel->name);
  qn_buf_init(&text, m->allocator);
  qn_buf_puts(&text, "in ");
  put_quoted(m, m->step->stmt, NULL, &text);
  if (m->running) put_variables(m->early ? m->early->home : m->step->parent, &text);
  qn_buf_printf(&text, ": %s", message);
  if (expr) {
    qn_buf_puts(&text, ", in ");
    put_quoted(m, NULL, expr, &text);
  }
  m->status = qn_fail(m->diag, QN_ERR_INTERNAL, where, "%s", text.failed ? message : qn_buf_text(&text));
  qn_buf_deinit(&text);
  return false;
}

static bool fail_nomem(machine *m) {
  m->status = qn_fail_nomem(m->diag, m->kernel->name, "interpreting it");
  return false;
}

// --- instructions

// At the begin of an instruction: its cells in locals, which stores to cells cannot change.
#define CELLS                                                               \
  const cell *const in_a = c->in[0], *const in_b = c->in[1], *const in_c = c->in[2]; \
  cell *const cells = c->out;                                               \
  const int stride_a = c->stride[0], stride_b = c->stride[1], stride_c = c->stride[2], lanes = c->lanes; \
  (void)in_a, (void)in_b, (void)in_c, (void)cells, (void)stride_a, (void)stride_b, (void)stride_c, (void)lanes
#define A in_a[lane * stride_a]
#define B in_b[lane * stride_b]
#define C in_c[lane * stride_c]
#define OUT cells[lane]
#define EACH_LANE(statement)                     \
  do {                                           \
    for (int lane = 0; lane < lanes; lane++)     \
      statement;                                 \
    return true;                                 \
  } while (0)

static bool fail_operator(machine *m, const code *c) {
  return fail(m, c->expr, "%s does not apply to such operands", qn_lop_info_of(c->expr->op)->name);
}

// Index arithmetic is exact: what does not fit into 64 bits is an error.
static bool run_index(machine *m, const code *c) {
  CELLS;
  for (int lane = 0; lane < lanes; lane++) {
    int64_t a = A.index, b = in_b ? B.index : 0, result = 0;
    bool overflow = false;
    qn_lop op = c->expr->op;
    if ((op == QN_LX_DIV || op == QN_LX_MOD) && b <= 0)
      return fail(m, c->expr, "got the divisor %" PRId64 ", want a positive one", b);
    switch (op) {
      case QN_LX_ADD: overflow = __builtin_add_overflow(a, b, &result); break;
      case QN_LX_SUB: overflow = __builtin_sub_overflow(a, b, &result); break;
      case QN_LX_MUL: overflow = __builtin_mul_overflow(a, b, &result); break;
      case QN_LX_NEG: overflow = __builtin_sub_overflow(0, a, &result); break;
      case QN_LX_DIV: result = a / b - (a % b < 0); break;
      case QN_LX_MOD: result = a % b + (a % b < 0 ? b : 0); break;
      case QN_LX_MIN: result = a < b ? a : b; break;
      case QN_LX_MAX: result = a > b ? a : b; break;
      default: return fail_operator(m, c);
    }
    if (overflow) return fail(m, c->expr, "index overflow of %" PRId64 " and %" PRId64, a, b);
    OUT.index = result;
  }
  return true;
}

// Most of what is run is where something lies: sums and products of single numbers. run_index says what is wrong with one.
static bool run_index_sum(machine *m, const code *c) {
  CELLS;
  enum { lane = 0 };
  int64_t result;
  if (__builtin_add_overflow(A.index, B.index, &result)) return run_index(m, c);
  OUT.index = result;
  return true;
}

static bool run_index_product(machine *m, const code *c) {
  CELLS;
  enum { lane = 0 };
  int64_t result;
  if (__builtin_mul_overflow(A.index, B.index, &result)) return run_index(m, c);
  OUT.index = result;
  return true;
}

static int32_t dot4(int32_t sum, uint32_t x, bool x_signed, uint32_t signed_bytes) {
  uint32_t result = (uint32_t)sum;
  for (int shift = 0; shift < 32; shift += 8) {
    uint8_t byte = (uint8_t)(x >> shift);
    int32_t factor = x_signed ? (int8_t)byte : byte;
    result += (uint32_t)(factor * (int8_t)(uint8_t)(signed_bytes >> shift));
  }
  return (int32_t)result;
}

static int32_t dot2(uint32_t sums, uint32_t unsigned_bytes, uint32_t signed_bytes) {
  uint32_t low = (uint32_t)dot4(0, unsigned_bytes & 0xFFFF, false, signed_bytes);
  uint32_t high = (uint32_t)dot4(0, unsigned_bytes & 0xFFFF0000, false, signed_bytes);
  return (int32_t)(((sums + low) & 0xFFFF) | ((sums + (high << 16)) & 0xFFFF0000));
}

static bool has_byte(uint32_t word, uint8_t byte) {
  for (int shift = 0; shift < 32; shift += 8) {
    if ((uint8_t)(word >> shift) == byte) return true;
  }
  return false;
}

// i32 arithmetic wraps; also AND, OR and XOR of predicates.
static bool run_i32(machine *m, const code *c) {
  CELLS;
  for (int lane = 0; lane < lanes; lane++) {
    int32_t a = A.i32, b = in_b ? B.i32 : 0, result = 0;
    uint32_t ua = (uint32_t)a, ub = (uint32_t)b;
    qn_lop op = c->expr->op;
    if ((op == QN_LX_DIV || op == QN_LX_MOD) && b <= 0)
      return fail(m, c->expr, "got the divisor %" PRId32 ", want a positive one", b);
    if ((op == QN_LX_SHL || op == QN_LX_SHR) && ub > 31)
      return fail(m, c->expr, "got a shift by %" PRId32 ", want 0 to 31", b);
    if (op == QN_LX_DOT4S && has_byte((uint32_t)C.i32, 0x80))
      return fail(m, c->expr, "got a byte -128 as the third operand of dot4s, want -127 to 127");
    switch (op) {
      case QN_LX_ADD: result = (int32_t)(ua + ub); break;
      case QN_LX_SUB: result = (int32_t)(ua - ub); break;
      case QN_LX_MUL: result = (int32_t)(ua * ub); break;
      case QN_LX_NEG: result = (int32_t)(0 - ua); break;
      case QN_LX_DIV: result = a / b - (a % b < 0); break;
      case QN_LX_MOD: result = a % b + (a % b < 0 ? b : 0); break;
      case QN_LX_MIN: result = a < b ? a : b; break;
      case QN_LX_MAX: result = a > b ? a : b; break;
      case QN_LX_AND: result = a & b; break;
      case QN_LX_OR: result = a | b; break;
      case QN_LX_XOR: result = a ^ b; break;
      case QN_LX_SHL: result = (int32_t)(ua << ub); break;
      case QN_LX_SHR: result = (int32_t)(ua >> ub); break;
      case QN_LX_LUT16: result = (int32_t)qn_lut16(c->expr->u.table, ua); break;
      case QN_LX_DOT4: result = dot4(a, ub, false, (uint32_t)C.i32); break;
      case QN_LX_DOT4S: result = dot4(a, ub, true, (uint32_t)C.i32); break;
      case QN_LX_DOT2: result = dot2(ua, ub, (uint32_t)C.i32); break;
      case QN_LX_FOLD2: result = (int16_t)(uint16_t)ua + (int16_t)(uint16_t)(ua >> 16); break;
      case QN_LX_UNBIAS: result = (int32_t)(0 - ua * ub); break;
      default: return fail_operator(m, c);
    }
    OUT.i32 = result;
  }
  return true;
}

static bool run_f32(machine *m, const code *c) {
  CELLS;
  switch (c->expr->op) {
    case QN_LX_ADD: EACH_LANE(OUT.f32 = A.f32 + B.f32);
    case QN_LX_SUB: EACH_LANE(OUT.f32 = A.f32 - B.f32);
    case QN_LX_MUL: EACH_LANE(OUT.f32 = A.f32 * B.f32);
    case QN_LX_DIV: EACH_LANE(OUT.f32 = A.f32 / B.f32);
    case QN_LX_MIN: EACH_LANE(OUT.f32 = A.f32 < B.f32 ? A.f32 : B.f32);
    case QN_LX_MAX: EACH_LANE(OUT.f32 = A.f32 > B.f32 ? A.f32 : B.f32);
    case QN_LX_NEG: EACH_LANE(OUT.i32 = A.i32 ^ INT32_MIN);
    case QN_LX_ABS: EACH_LANE(OUT.i32 = A.i32 & INT32_MAX);
    case QN_LX_SQRT: EACH_LANE(OUT.f32 = sqrtf(A.f32));
    case QN_LX_ROUND: EACH_LANE(OUT.f32 = nearbyintf(A.f32));
    case QN_LX_FMA: EACH_LANE(OUT.f32 = fmaf(A.f32, B.f32, C.f32));
    default: return fail_operator(m, c);
  }
}

static bool run_math(machine *m, const code *c) {
  CELLS;
  (void)m;
  const qn_math_fn *fn = qn_math_fn_of(c->expr->op);
  EACH_LANE(OUT.f32 = qn_math_eval(fn, A.f32));
}

#define COMPARE(field)                                                      \
  CELLS;                                                                    \
  switch (c->expr->op) {                                                    \
    case QN_LX_LT: EACH_LANE(OUT.i32 = A.field < B.field);                  \
    case QN_LX_LE: EACH_LANE(OUT.i32 = A.field <= B.field);                 \
    case QN_LX_EQ: EACH_LANE(OUT.i32 = A.field == B.field);                 \
    default: return fail_operator(m, c);                                    \
  }
static bool run_compare_index(machine *m, const code *c) { COMPARE(index) }
static bool run_compare_i32(machine *m, const code *c) { COMPARE(i32) }
static bool run_compare_f32(machine *m, const code *c) { COMPARE(f32) }

static bool run_select(machine *m, const code *c) {
  CELLS;
  (void)m;
  EACH_LANE(OUT = A.i32 ? B : C);
}

// The f32 must be an integer that i32 holds: targets differ in what they make of others.
static bool run_f32_to_i32(machine *m, const code *c) {
  CELLS;
  for (int lane = 0; lane < lanes; lane++) {
    float x = A.f32;
    if (!(x >= -0x1p31f && x < 0x1p31f) || x != truncf(x))
      return fail(m, c->expr, "got %.9g, want an integer that i32 holds", (double)x);
    OUT.i32 = (int32_t)x;
  }
  return true;
}

static bool run_index_to_i32(machine *m, const code *c) {
  CELLS;
  for (int lane = 0; lane < lanes; lane++) {
    int64_t x = A.index;
    if (x < INT32_MIN || x > INT32_MAX) return fail(m, c->expr, "got %" PRId64 ", want an integer that i32 holds", x);
    OUT.i32 = (int32_t)x;
  }
  return true;
}

static bool run_i32_to_f32(machine *m, const code *c) {
  CELLS;
  (void)m;
  EACH_LANE(OUT.f32 = (float)A.i32);
}

static bool run_i32_to_index(machine *m, const code *c) {
  CELLS;
  (void)m;
  EACH_LANE(OUT.index = A.i32);
}

static bool run_same_bits(machine *m, const code *c) {
  CELLS;
  (void)m;
  EACH_LANE(OUT = A);
}

// --- memory

// The place of element `start` + `offset` of `mem`, or NULL after reporting that it lies outside of the buffer.
static uint8_t *locate(machine *m, const region *memory, qn_lmem mem, int64_t start, int offset,
                       const qn_lexpr *expr) {
  uint64_t holds = memory->size / qn_lmem_size(mem);
  if (start >= 0 && (uint64_t)start + (uint64_t)offset < holds)
    return memory->data + ((size_t)start + (size_t)offset) * qn_lmem_size(mem);
  int64_t element = start;
  if (__builtin_add_overflow(start, offset, &element)) element = INT64_MAX;
  const char *verb = expr ? "reads" : m->step->stmt->kind == QN_LS_COPY ? "copies" : "writes";
  fail(m, expr, "%s %s element %" PRId64 " of '%s', which holds %" PRIu64 " of them (%zu bytes)",
       verb, qn_lmem_name(mem), element, memory->buf->name, holds, memory->size);
  return NULL;
}

static cell widen(qn_lmem mem, const uint8_t *from) {
  uint16_t half;
  cell result = {.index = 0};
  switch (mem) {
    case QN_LM_F16: memcpy(&half, from, sizeof half); result.f32 = qn_f16_to_f32(half); break;
    case QN_LM_BF16: memcpy(&half, from, sizeof half); result.f32 = qn_bf16_to_f32(half); break;
    case QN_LM_I8: result.i32 = (int8_t)*from; break;
    case QN_LM_U8: result.i32 = *from; break;
    default: memcpy(&result.i32, from, sizeof result.i32); break;
  }
  return result;
}

static void narrow(qn_lmem mem, cell value, uint8_t *to) {
  uint16_t half;
  switch (mem) {
    case QN_LM_F16: half = qn_f32_to_f16(value.f32); memcpy(to, &half, sizeof half); break;
    case QN_LM_BF16: half = qn_f32_to_bf16(value.f32); memcpy(to, &half, sizeof half); break;
    case QN_LM_I8:
    case QN_LM_U8: *to = (uint8_t)(uint32_t)value.i32; break;
    default: memcpy(to, &value.i32, sizeof value.i32); break;
  }
}

// Why bytes of a local cannot be read; NULL when they can.
static const char *unreadable(const uint8_t *written, size_t size) {
  for (size_t i = 0; i < size; i++) {
    if (written[i] != WRITTEN)
      return written[i] == UNDER_WAY ? "while a copy to it is under way" : "before it was written";
  }
  return NULL;
}

// Most of what is loaded and stored is `lanes` elements one after another, of `size` bytes each, all within the buffer; false
// where they are not.
static bool is_run(const region *memory, size_t size, int64_t start, int lanes) {
  size_t bytes = size * (size_t)lanes;
  return (uint64_t)start <= memory->size && bytes <= memory->size && (size_t)start * size <= memory->size - bytes;
}

// False, with nothing told, where they cannot all be read.
static bool load_run(const region *from, qn_lmem mem, size_t size, int64_t start, int lanes, cell *out) {
  if (!is_run(from, size, start, lanes)) return false;
  size_t at = (size_t)start * size;
  const uint8_t *place = from->data + at;
  if (from->written && unreadable(from->written + at, size * (size_t)lanes)) return false;
  if (mem == QN_LM_F32 || mem == QN_LM_I32) {
    for (int lane = 0; lane < lanes; lane++) memcpy(&out[lane].i32, place + 4 * lane, 4);
  } else {
    for (int lane = 0; lane < lanes; lane++) out[lane] = widen(mem, place + size * (size_t)lane);
  }
  return true;
}

static bool run_load(machine *m, const code *c) {
  CELLS;
  qn_lmem mem = c->expr->u.load.mem;
  const region *from = c->memory;
  if (stride_a == 0 && load_run(from, mem, c->size, in_a->index, lanes, cells)) return true;
  for (int lane = 0; lane < lanes; lane++) {
    int offset = stride_a ? 0 : lane;
    const uint8_t *place = locate(m, from, mem, A.index, offset, c->expr);
    if (!place) return false;
    const char *fault = from->written ? unreadable(from->written + (place - from->data), qn_lmem_size(mem)) : NULL;
    if (fault)
      return fail(m, c->expr, "reads %s element %" PRId64 " of '%s' %s", qn_lmem_name(mem), A.index + offset,
                  from->buf->name, fault);
    OUT = widen(mem, place);
  }
  return true;
}

// False, with nothing told, where they cannot all be written, or have to be looked at one by one.
static bool store_run(const region *to, qn_lmem mem, size_t size, int64_t start, int lanes, const cell *values, int stride) {
  if (!is_run(to, size, start, lanes) || to->buf->byte_max > 0) return false;
  size_t at = (size_t)start * size, bytes = size * (size_t)lanes;
  uint8_t *place = to->data + at;
  if (to->written && memchr(to->written + at, UNDER_WAY, bytes)) return false;
  if (mem == QN_LM_F32 || mem == QN_LM_I32) {
    for (int lane = 0; lane < lanes; lane++) memcpy(place + 4 * lane, &values[lane * stride].i32, 4);
  } else {
    for (int lane = 0; lane < lanes; lane++) narrow(mem, values[lane * stride], place + size * (size_t)lane);
  }
  if (to->written) memset(to->written + at, WRITTEN, bytes);
  return true;
}

// Are the bytes within what is declared of the buffer's?
static bool is_bounded(const qn_lbuf *buf, const uint8_t *bytes, size_t count) {
  for (size_t i = 0; buf->byte_max > 0 && i < count; i++) {
    if (bytes[i] > buf->byte_max) return false;
  }
  return true;
}

// Lanes are written in order, so that the last of several that name one element stays.
static bool run_store(machine *m, const step *s) {
  const qn_lstmt *stmt = s->stmt;
  qn_lmem mem = stmt->u.store.mem;
  int index_stride = stmt->u.store.index->type.lanes > 1, value_stride = stmt->u.store.value->type.lanes > 1;
  if (s->memory->buf->kind == QN_LB_PARAM && !s->memory->buf->writable)
    return fail(m, NULL, "writes to '%s', a read-only parameter", s->memory->buf->name);
  if (!index_stride && store_run(s->memory, mem, s->size, s->index->index, stmt->u.store.lanes, s->value, value_stride))
    return true;
  for (int lane = 0; lane < stmt->u.store.lanes; lane++) {
    int64_t start = s->index[lane * index_stride].index;
    uint8_t *place = locate(m, s->memory, mem, start, index_stride ? 0 : lane, NULL);
    if (!place) return false;
    uint8_t *written = s->memory->written ? s->memory->written + (place - s->memory->data) : NULL;
    if (written && memchr(written, UNDER_WAY, qn_lmem_size(mem)))
      return fail(m, NULL, "writes to '%s' while a copy to it is under way", s->memory->buf->name);
    narrow(mem, s->value[lane * value_stride], place);
    if (!is_bounded(s->memory->buf, place, qn_lmem_size(mem)))
      return fail(m, NULL, "stores to '%s' a byte above the %d that it is declared with", s->memory->buf->name,
                  s->memory->buf->byte_max);
    if (written) memset(written, WRITTEN, qn_lmem_size(mem));
  }
  return true;
}

// --- copies: they arrive when they are waited for, which is as late as they may

static bool run_copy(machine *m, const step *s) {
  const qn_lstmt *stmt = s->stmt;
  qn_lmem mem = stmt->u.copy.mem;
  int last = stmt->u.copy.lanes - 1;
  size_t bytes = (size_t)stmt->u.copy.lanes * qn_lmem_size(mem);
  uint8_t *to = locate(m, s->memory, mem, s->index->index, 0, NULL);
  if (!to || !locate(m, s->memory, mem, s->index->index, last, NULL)) return false;
  const uint8_t *from = locate(m, s->from, mem, s->value->index, 0, NULL);
  if (!from || !locate(m, s->from, mem, s->value->index, last, NULL)) return false;
  under_way copy = {s->memory, from, (size_t)(to - s->memory->data), bytes, m->groups};
  size_t from_at = (size_t)(from - s->from->data);
  if (copy.at % bytes != 0 || from_at % bytes != 0)
    return fail(m, NULL, "copies byte %zu of '%s' to byte %zu of '%s', want multiples of %zu", from_at,
                s->from->buf->name, copy.at, s->memory->buf->name, bytes);
  if (memchr(s->memory->written + copy.at, UNDER_WAY, bytes))
    return fail(m, NULL, "copies to '%s' while a copy to it is under way", s->memory->buf->name);
  memset(s->memory->written + copy.at, UNDER_WAY, bytes);
  return qn_vec_push(m->allocator, &m->copies, copy) ? true : fail_nomem(m);
}

static void run_wait(machine *m, int64_t groups) {
  size_t kept = 0;
  for (size_t i = 0; i < m->copies.count; i++) {
    const under_way *copy = &m->copies.items[i];
    if (m->groups - copy->group <= groups) {
      m->copies.items[kept++] = *copy;
      continue;
    }
    memcpy(copy->to->data + copy->at, copy->from, copy->bytes);
    memset(copy->to->written + copy->at, WRITTEN, copy->bytes);
  }
  m->copies.count = kept;
}

// A local begins its life, or all of them end it: no copy may be left.
static bool check_copies(machine *m, const region *local) {
  for (size_t i = 0; i < m->copies.count; i++) {
    const region *to = m->copies.items[i].to;
    if (local && to != local) continue;
    return fail(m, NULL, "a copy to '%s' was not waited for", to->buf->name);
  }
  return true;
}

// The elements of an operand that the lanes of warp `warp` have, in order, and where they are.
static bool warp_elements(machine *m, const step *s, int operand, int64_t warp, uint32_t *out, uint8_t **places) {
  const region *from = s->operands[operand];
  int each = qn_lmma_each(s->stmt->u.mma.kind, (qn_lmma_operand)operand), apart = from->buf->each;
  for (int n = 0; n < QN_MMA_WARP * each; n++) {
    int64_t element = (warp * QN_MMA_WARP + n / each) * apart + s->stmt->u.mma.at[operand] + n % each;
    uint8_t *place = locate(m, from, from->buf->mem, element, 0, NULL);
    if (!place) return false;
    const char *fault = unreadable(from->written + (place - from->data), sizeof *out);
    if (fault) return fail(m, NULL, "reads element %" PRId64 " of '%s' %s", element, from->buf->name, fault);
    memcpy(&out[n], place, sizeof *out);
    if (places) places[n] = place;
  }
  return true;
}

static bool run_mma(machine *m, const step *s) {
  enum { MOST = QN_MMA_WARP * 4 };
  uint32_t elements[QN_MMA_OPERANDS][MOST];
  uint8_t *places[MOST];
  const region *sums = s->operands[QN_MMA_OF_C];
  int64_t lanes = (int64_t)(sums->size / sizeof(uint32_t)) / (sums->buf->each > 0 ? sums->buf->each : 1);
  for (int64_t warp = 0; warp < lanes / QN_MMA_WARP; warp++) {
    for (int i = 0; i < QN_MMA_OPERANDS; i++)
      if (!warp_elements(m, s, i, warp, elements[i], i == QN_MMA_OF_C ? places : NULL)) return false;
    qn_lmma_multiply(s->stmt->u.mma.kind, elements[QN_MMA_OF_C], elements[QN_MMA_OF_A], elements[QN_MMA_OF_B]);
    for (int n = 0; n < QN_MMA_WARP * QN_MMA_C; n++) memcpy(places[n], &elements[QN_MMA_OF_C][n], sizeof(uint32_t));
  }
  return true;
}

// --- compiling expressions

typedef bool (*run_fn)(machine *m, const code *c);

// What an expression has come to: its cells, NULL after a failure, and when they may be computed.
typedef struct value {
  const cell *cells;
  step *home;  // as a code's
  bool moves;
} value;
static const value no_value = {0};

// May it run before it is wanted, and in vain? What fails there must not, but for indices beyond 64 bits.
static bool may_move(const qn_lexpr *e) {
  int64_t divisor;
  switch (e->op) {
    case QN_LX_ADD:
    case QN_LX_SUB:
    case QN_LX_MUL:
    case QN_LX_NEG:
    case QN_LX_MIN:
    case QN_LX_MAX:
    case QN_LX_LT:
    case QN_LX_LE:
    case QN_LX_EQ:
    case QN_LX_SELECT:
    case QN_LX_AND:
    case QN_LX_OR:
    case QN_LX_XOR: return true;
    case QN_LX_DIV:
    case QN_LX_MOD: return qn_lexpr_is_int(e->operands[1], &divisor) && divisor > 0;
    default: return false;
  }
}

static run_fn run_of_index(const qn_lexpr *e) {
  bool single = e->type.lanes == 1;
  return single && e->op == QN_LX_ADD ? run_index_sum : single && e->op == QN_LX_MUL ? run_index_product : run_index;
}

// What runs an operator; NULL when it makes no sense on operands of these kinds.
static run_fn run_of(const qn_lexpr *e) {
  qn_lkind from = e->operands[0]->type.kind;
  switch (e->op) {
    case QN_LX_LOAD: return run_load;
    case QN_LX_LT:
    case QN_LX_LE:
    case QN_LX_EQ:
      return from == QN_LK_INDEX ? run_compare_index : from == QN_LK_F32 ? run_compare_f32 : run_compare_i32;
    case QN_LX_SELECT: return run_select;
    case QN_LX_TO_F32: return from == QN_LK_I32 ? run_i32_to_f32 : NULL;
    case QN_LX_TO_I32: return from == QN_LK_F32 ? run_f32_to_i32 : from == QN_LK_INDEX ? run_index_to_i32 : NULL;
    case QN_LX_TO_INDEX: return from == QN_LK_I32 ? run_i32_to_index : NULL;
    case QN_LX_AS_F32:
    case QN_LX_AS_I32: return run_same_bits;
    case QN_LX_EXP:
    case QN_LX_SIN:
    case QN_LX_COS:
    case QN_LX_TANH:
    case QN_LX_ERF: return run_math;
    default: return from == QN_LK_INDEX ? run_of_index(e) : from == QN_LK_F32 ? run_f32 : run_i32;
  }
}

static value compile_variable(machine *m, const qn_lexpr *e) {
  for (step *loop = m->step->parent; loop; loop = loop->parent)
    if (loop->stmt->u.loop.var == e->u.var) return (value){loop->var, loop, true};
  fail(m, NULL, "the variable '%s' is used outside of its loop", e->u.var->name);
  return no_value;
}

// Cells whose value is known before the kernel runs.
static value compile_constant(machine *m, const qn_lexpr *e) {
  if (e->op == QN_LX_SYM && (unsigned)e->u.symbol >= QN_SYM_COUNT) return fail(m, NULL, "unknown symbol"), no_value;
  cell *cells = QN_ARENA_ARRAY(&m->arena, (size_t)e->type.lanes, cell);
  if (!cells) return fail_nomem(m), no_value;
  for (int lane = 0; lane < e->type.lanes; lane++) {
    if (e->op == QN_LX_FLOAT) cells[lane].f32 = e->u.float_value;
    else if (e->op == QN_LX_LANE) cells[lane].index = lane;
    else if (e->op == QN_LX_SYM) cells[lane].index = m->symbols[e->u.symbol];
    else if (e->type.kind == QN_LK_INDEX) cells[lane].index = e->u.int_value;
    else cells[lane].i32 = (int32_t)e->u.int_value;
  }
  return (value){cells, NULL, true};
}

static region *find_memory(machine *m, const qn_lbuf *buf) {
  for (size_t i = 0; i < m->kernel->param_count; i++)
    if (m->params[i].buf == buf) return &m->params[i];
  for (region *local = m->locals; local; local = local->outer)
    if (local->buf == buf) return local;
  fail(m, NULL, "the buffer '%s' is used outside of its scope", buf ? buf->name : "?");
  return NULL;
}

static value compile(machine *m, const qn_lexpr *e);

static step *inner(step *a, step *b) { return !a ? b : !b || a->depth > b->depth ? a : b; }

static bool compile_operands(machine *m, const qn_lexpr *e, code *c) {
  int count = qn_lop_info_of(e->op)->operands;
  c->moves = may_move(e);
  for (int i = 0; i < count; i++) {
    value v = compile(m, e->operands[i]);
    if (!v.cells) return false;
    c->in[i] = v.cells;
    c->home = inner(c->home, v.home);
    c->moves = c->moves && v.moves;
    int lanes = e->operands[i]->type.lanes;
    if (lanes != 1 && lanes != e->type.lanes)
      return fail(m, e, "operand %d: got %d lanes, want 1 or %d", i + 1, lanes, e->type.lanes);
    c->stride[i] = lanes > 1;
  }
  c->run = run_of(e);
  if (!c->run) return fail_operator(m, c);
  if (e->op == QN_LX_LOAD) c->size = qn_lmem_size(e->u.load.mem);
  return e->op != QN_LX_LOAD || (c->memory = find_memory(m, e->u.load.buf)) != NULL;
}

// Where an instruction of the present step runs: there, or before the loop inside of the one that it goes by.
static code_list *list_for(machine *m, const code *c) {
  step *loop = m->step->parent;
  if (!c->moves || c->home == loop) return &m->step->codes;
  while (loop->parent != c->home) loop = loop->parent;
  return &loop->before;
}

// Appends the instructions of `e` to the present step, or to loops around it, and gives its value.
static value compile(machine *m, const qn_lexpr *e) {
  assert(e);
  if (e->type.lanes < 1 || e->type.lanes > QN_LANES_MAX)
    return fail(m, e, "got %d lanes, want 1 to %d", e->type.lanes, QN_LANES_MAX), no_value;
  if (e->op == QN_LX_VAR) return compile_variable(m, e);
  if (e->op == QN_LX_INT || e->op == QN_LX_FLOAT || e->op == QN_LX_SYM || e->op == QN_LX_LANE)
    return compile_constant(m, e);
  uint64_t known;
  if (qn_map_get(&m->shared, (qn_str){(const char *)&e, sizeof e}, &known)) {
    const code *c = (const code *)(uintptr_t)known;
    return (value){c->out, c->home, c->moves};
  }
  code *c = QN_ARENA_NEW(&m->arena, code);
  if (!c) return fail_nomem(m), no_value;
  c->expr = e;
  c->step = m->step;
  c->lanes = e->type.lanes;
  c->out = QN_ARENA_ARRAY(&m->arena, (size_t)c->lanes, cell);
  if (!c->out) return fail_nomem(m), no_value;
  if (!compile_operands(m, e, c)) return no_value;
  if (!qn_map_put(&m->shared, (qn_str){(const char *)&c->expr, sizeof c->expr}, (uintptr_t)c))
    return fail_nomem(m), no_value;
  code_list *list = list_for(m, c);
  if (list->last) list->last->next = c;
  else list->first = c;
  list->last = c;
  return (value){c->out, c->home, c->moves};
}

// --- compiling statements

static bool compile_block(machine *m, const qn_lblock *block, step *parent, step **out_first);

static bool compile_loop(machine *m, step *s) {
  const qn_lstmt *stmt = s->stmt;
  s->var = QN_ARENA_NEW(&m->arena, cell);
  if (!s->var) return fail_nomem(m);
  s->lo = compile(m, stmt->u.loop.lo).cells;
  s->hi = s->lo ? compile(m, stmt->u.loop.hi).cells : NULL;
  if (!s->hi) return false;
  region *visible = m->locals;
  bool ok = compile_block(m, &stmt->u.loop.body, s, &s->body);
  m->locals = visible;
  return ok;
}

static bool compile_store(machine *m, step *s) {
  const qn_lstmt *stmt = s->stmt;
  s->index = compile(m, stmt->u.store.index).cells;
  s->value = s->index ? compile(m, stmt->u.store.value).cells : NULL;
  s->memory = s->value ? find_memory(m, stmt->u.store.buf) : NULL;
  if (!s->memory) return false;
  s->size = qn_lmem_size(stmt->u.store.mem);
  int lanes = stmt->u.store.lanes, index_lanes = stmt->u.store.index->type.lanes;
  int value_lanes = stmt->u.store.value->type.lanes;
  if ((index_lanes != 1 && index_lanes != lanes) || (value_lanes != 1 && value_lanes != lanes))
    return fail(m, NULL, "index and value: got %d and %d lanes, want 1 or %d", index_lanes, value_lanes, lanes);
  return true;
}

static bool compile_copy(machine *m, step *s) {
  const qn_lstmt *stmt = s->stmt;
  s->index = compile(m, stmt->u.copy.to_index).cells;
  s->value = s->index ? compile(m, stmt->u.copy.from_index).cells : NULL;
  s->memory = s->value ? find_memory(m, stmt->u.copy.to) : NULL;
  s->from = s->memory ? find_memory(m, stmt->u.copy.from) : NULL;
  if (!s->from) return false;
  if (!s->memory->written || s->from->written)
    return fail(m, NULL, "a copy goes from a parameter to a local");
  return true;
}

static bool compile_local(machine *m, step *s) {
  const qn_lbuf *buf = s->stmt->u.local.buf;
  int64_t elements;
  region *local = QN_ARENA_NEW(&m->arena, region);
  if (!local) return fail_nomem(m);
  if (!qn_lexpr_is_int(buf->elements, &elements) || elements < 0 ||
      !qn_size_mul((size_t)elements, qn_lmem_size(buf->mem), &local->size))
    return fail(m, NULL, "the size of the local '%s' is no constant", buf->name);
  local->buf = buf;
  local->data = qn_arena_alloc(&m->arena, local->size);
  local->written = qn_arena_alloc(&m->arena, local->size);
  if (!local->data || !local->written) return fail_nomem(m);
  local->outer = m->locals;
  m->locals = s->memory = local;
  return true;
}

static bool compile_mma(machine *m, step *s) {
  for (int i = 0; i < QN_MMA_OPERANDS; i++) {
    const qn_lbuf *buf = s->stmt->u.mma.bufs[i];
    if (!(s->operands[i] = find_memory(m, buf))) return false;
    if (buf->each <= 0 || qn_lmem_size(buf->mem) != sizeof(uint32_t))
      return fail(m, NULL, "'%s' has no elements of 32 bits of each lane's own", buf->name);
  }
  return true;
}

static bool compile_statement(machine *m, step *s) {
  switch (s->stmt->kind) {
    case QN_LS_FOR: return compile_loop(m, s);
    case QN_LS_STORE: return compile_store(m, s);
    case QN_LS_LOCAL: return compile_local(m, s);
    case QN_LS_PREFETCH: return true;  // has no effect, and may point anywhere
    case QN_LS_BARRIER: return true;   // one lane after another
    case QN_LS_COPY: return compile_copy(m, s);
    case QN_LS_COMMIT:
    case QN_LS_WAIT: return true;
    case QN_LS_MMA: return compile_mma(m, s);
  }
  return fail(m, NULL, "unknown statement");
}

static bool compile_block(machine *m, const qn_lblock *block, step *parent, step **out_first) {
  for (const qn_lstmt *stmt = block->first; stmt; stmt = stmt->next) {
    step *s = QN_ARENA_NEW(&m->arena, step);
    if (!s) return fail_nomem(m);
    s->stmt = stmt;
    s->parent = parent;
    s->depth = parent ? parent->depth + 1 : 0;
    m->step = s;
    *out_first = s;
    out_first = &s->next;
    qn_map_deinit(&m->shared);
    qn_map_init(&m->shared, m->allocator);
    if (!compile_statement(m, s)) return false;
  }
  return true;
}

// --- running

static bool run_block(machine *m, step *first);

// What the loop's iterations have in common.
static bool run_before(machine *m, const step *s) {
  for (const code *c = s->before.first; c; c = c->next) {
    m->early = c;
    m->step = c->step;
    if (!c->run(m, c)) return false;
  }
  m->early = NULL;
  return true;
}

static bool run_loop(machine *m, const step *s) {
  int64_t lo = s->lo->index, hi = s->hi->index;
  if (s->stmt->u.loop.mark == QN_LM_PARALLEL) {
    if (lo < m->begin) lo = m->begin;
    if (hi > m->end) hi = m->end;
  }
  if (lo < hi && !run_before(m, s)) return false;
  for (int64_t i = lo; i < hi; i++) {
    s->var->index = i;
    if (!run_block(m, s->body)) return false;
  }
  return true;
}

static bool run_statement(machine *m, step *s) {
  switch (s->stmt->kind) {
    case QN_LS_FOR: return run_loop(m, s);
    case QN_LS_STORE: return run_store(m, s);
    case QN_LS_LOCAL:
      if (!check_copies(m, s->memory)) return false;
      memset(s->memory->written, NEVER_WRITTEN, s->memory->size);
      return true;
    case QN_LS_COPY: return run_copy(m, s);
    case QN_LS_COMMIT: m->groups++; return true;
    case QN_LS_WAIT: run_wait(m, s->stmt->u.wait.groups); return true;
    case QN_LS_MMA: return run_mma(m, s);
    case QN_LS_PREFETCH:
    case QN_LS_BARRIER: return true;
  }
  return true;
}

static bool run_block(machine *m, step *first) {
  for (step *s = first; s; s = s->next) {
    m->step = s;
    for (const code *c = s->codes.first; c; c = c->next)
      if (!c->run(m, c)) return false;
    if (!run_statement(m, s)) return false;
  }
  return true;
}

static bool run_kernel(machine *m, const qn_linterp_buffer *buffers) {
  const qn_lkernel *kernel = m->kernel;
  m->params = QN_ARENA_ARRAY(&m->arena, kernel->param_count, region);
  if (!m->params) return fail_nomem(m);
  for (size_t i = 0; i < kernel->param_count; i++)
    m->params[i] = (region){.buf = kernel->params[i], .data = buffers[i].data, .size = buffers[i].size};
  step *first = NULL;
  if (!compile_block(m, &kernel->body, NULL, &first)) return false;
  m->running = true;
  return run_block(m, first) && check_copies(m, NULL);
}

qn_status qn_lkernel_interpret(const qn_lkernel *kernel, const qn_linterp_buffer *buffers,
                               const int64_t symbols[QN_SYM_COUNT], int64_t begin, int64_t end,
                               const qn_allocator *allocator, qn_diag *diag) {
  assert(kernel && allocator && (buffers || kernel->param_count == 0));
  machine m = {.kernel = kernel, .symbols = symbols, .begin = begin, .end = end, .allocator = allocator, .diag = diag};
  qn_arena_init(&m.arena, allocator);
  qn_map_init(&m.shared, allocator);
  bool ok = run_kernel(&m, buffers);
  assert(ok == (m.status == QN_OK));
  (void)ok;
  qn_vec_free(allocator, &m.copies);
  qn_map_deinit(&m.shared);
  qn_arena_deinit(&m.arena);
  return m.status;
}
