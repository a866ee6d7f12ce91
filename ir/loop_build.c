// Making loop IR: names, declarations, statements and expression nodes. Every failure is an allocation's and sticks in
// qn_lbuild.failed, so that lowering and passes read like the kernels they make.
#include <stdio.h>
#include <string.h>

#include "ir/loop.h"
#include "runtime/base/hash.h"

// A base name in use, and the suffix that the next variable or buffer of that name gets.
struct qn_lname {
  qn_str base;  // arena; data NULL = a free slot
  uint64_t next;
};

static void *arena_new(qn_lbuild *b, size_t count, size_t size) {
  void *pointer = b->failed ? NULL : qn_arena_array(b->arena, count, size);
  if (!pointer) b->failed = true;
  return pointer;
}

// --- names

qn_str qn_lname_base(const char *name) {
  qn_str text = qn_str_from(name);
  const char *dollar = text.length ? memchr(text.data, '$', text.length) : NULL;
  return dollar ? (qn_str){text.data, (size_t)(dollar - text.data)} : text;
}

qn_str qn_lvar_base(const qn_lvar *var) { return qn_lname_base(var->name); }

// The slot of `base`, or the free one where it belongs. The table is never full.
static struct qn_lname *name_slot(const qn_lbuild *b, qn_str base) {
  size_t mask = b->name_capacity - 1, at = (size_t)qn_hash64(base.data, base.length, 0) & mask;
  while (b->names[at].base.data && !qn_str_equal(b->names[at].base, base)) at = (at + 1) & mask;
  return &b->names[at];
}

static bool names_grow(qn_lbuild *b) {
  struct qn_lname *old = b->names;
  size_t old_capacity = b->name_capacity, capacity = old_capacity ? old_capacity * 2 : 32;
  struct qn_lname *table = arena_new(b, capacity, sizeof *table);
  if (!table) return false;
  b->names = table;
  b->name_capacity = capacity;
  for (size_t i = 0; i < old_capacity; i++) {
    if (old[i].base.data) *name_slot(b, old[i].base) = old[i];
  }
  return true;
}

// The entry of a base name, made when new (next = 0); `base` must live as long as the arena. NULL when out of memory.
static struct qn_lname *name_entry(qn_lbuild *b, qn_str base) {
  if (2 * (b->name_count + 1) > b->name_capacity && !names_grow(b)) return NULL;
  struct qn_lname *slot = name_slot(b, base);
  if (!slot->base.data) {
    slot->base = base;
    b->name_count++;
  }
  return slot;
}

// Takes note of a name that is in the kernel, so that it is not given again.
static void name_register(qn_lbuild *b, const char *name) {
  qn_str base = qn_lname_base(name);
  struct qn_lname *entry = name_entry(b, base);
  if (!entry) return;
  uint64_t suffix = 0;
  for (const char *c = name + base.length + (name[base.length] == '$'); *c >= '0' && *c <= '9'; c++) {
    if (suffix < UINT64_MAX / 100) suffix = suffix * 10 + (uint64_t)(*c - '0');
  }
  if (entry->next <= suffix) entry->next = suffix + 1;
}

// A name made from the base of `name`, not in the kernel yet; NULL when out of memory.
static const char *name_fresh(qn_lbuild *b, const char *name) {
  qn_str base = qn_lname_base(name);
  char *text = arena_new(b, base.length + 24, 1);
  if (!text) return NULL;
  memcpy(text, base.data, base.length);
  struct qn_lname *entry = name_entry(b, (qn_str){text, base.length});
  if (!entry) return NULL;
  if (entry->next > 0) snprintf(text + base.length, 24, "$%llu", (unsigned long long)entry->next);
  entry->next++;
  return text;
}

static void block_register(qn_lbuild *b, const qn_lblock *block) {
  for (const qn_lstmt *stmt = block->first; stmt; stmt = stmt->next) {
    if (stmt->kind == QN_LS_LOCAL) name_register(b, stmt->u.local.buf->name);
    if (stmt->kind != QN_LS_FOR) continue;
    name_register(b, stmt->u.loop.var->name);
    block_register(b, &stmt->u.loop.body);
  }
}

// --- kernels and declarations

void qn_lbuild_init(qn_lbuild *b, qn_arena *arena, const char *kernel_name) {
  *b = (qn_lbuild){.arena = arena};
  b->kernel = arena_new(b, 1, sizeof *b->kernel);
  if (!b->kernel) b->kernel = &b->spare;
  b->kernel->name = qn_arena_strdup(arena, kernel_name);
  if (!b->kernel->name) b->failed = true;
}

void qn_lbuild_open(qn_lbuild *b, qn_arena *arena, qn_lkernel *kernel) {
  *b = (qn_lbuild){.arena = arena, .kernel = kernel};
  for (size_t i = 0; i < kernel->param_count; i++) name_register(b, kernel->params[i]->name);
  block_register(b, &kernel->body);
}

qn_lbuf *qn_lparam(qn_lbuild *b, const char *name, qn_lmem mem, const qn_lexpr *elements, bool writable,
                   bool streamed) {
  qn_lkernel *kernel = b->kernel;
  if (!elements) return NULL;
  if ((kernel->param_count & (kernel->param_count - 1)) == 0) {  // 0 or a power of two: the array is full
    size_t capacity = kernel->param_count ? kernel->param_count * 2 : 1;
    qn_lbuf **params = arena_new(b, capacity, sizeof *params);
    if (!params) return NULL;
    if (kernel->param_count > 0) memcpy(params, kernel->params, kernel->param_count * sizeof *params);
    kernel->params = params;
  }
  qn_lbuf *buf = arena_new(b, 1, sizeof *buf);
  const char *unique = name_fresh(b, name);
  if (!buf || !unique) return NULL;
  *buf = (qn_lbuf){.name = unique,
                   .kind = QN_LB_PARAM,
                   .mem = mem,
                   .elements = elements,
                   .writable = writable,
                   .streamed = streamed,
                   .param_index = (int)kernel->param_count};
  kernel->params[kernel->param_count++] = buf;
  return buf;
}

qn_lvar *qn_lvar_new(qn_lbuild *b, const char *name) {
  qn_lvar *var = arena_new(b, 1, sizeof *var);
  const char *unique = name_fresh(b, name);
  if (!var || !unique) return NULL;
  *var = (qn_lvar){.name = unique, .lo = INT64_MIN, .hi = INT64_MAX};
  return var;
}

// --- statements

static qn_lstmt *append_stmt(qn_lbuild *b, qn_lblock *block, qn_lstmt_kind kind) {
  qn_lstmt *stmt = arena_new(b, 1, sizeof *stmt);
  if (!stmt) return NULL;
  stmt->kind = kind;
  qn_lblock_append(block, stmt);
  return stmt;
}

qn_lbuf *qn_llocal(qn_lbuild *b, qn_lblock *block, const char *name, qn_lmem mem, int64_t elements) {
  qn_lbuf *buf = arena_new(b, 1, sizeof *buf);
  const char *unique = name_fresh(b, name);
  const qn_lexpr *size = qn_lint(b, elements);
  if (!buf || !unique || !size) return NULL;
  *buf = (qn_lbuf){.name = unique, .kind = QN_LB_LOCAL, .mem = mem, .elements = size, .writable = true};
  buf->param_index = -1;
  qn_lstmt *stmt = append_stmt(b, block, QN_LS_LOCAL);
  if (!stmt) return NULL;
  stmt->u.local.buf = buf;
  return buf;
}

void qn_lfor_set_bounds(qn_lstmt *loop, const qn_lexpr *lo, const qn_lexpr *hi) {
  loop->u.loop.lo = lo;
  loop->u.loop.hi = hi;
  qn_lvar *var = loop->u.loop.var;
  var->lo = qn_lexpr_range(lo).min;
  var->hi = qn_lexpr_range(hi).max;
  var->bounded = var->lo != INT64_MIN && var->hi != INT64_MAX;
}

qn_lstmt *qn_lfor(qn_lbuild *b, qn_lblock *block, qn_lvar *var, const qn_lexpr *lo, const qn_lexpr *hi,
                  qn_lorder order) {
  qn_lstmt *stmt = var && lo && hi ? append_stmt(b, block, QN_LS_FOR) : NULL;
  if (!stmt) {  // the failure sticks; what the caller puts into the spare loop is never looked at
    b->spare_loop = (qn_lstmt){.kind = QN_LS_FOR};
    return &b->spare_loop;
  }
  stmt->u.loop.var = var;
  stmt->u.loop.order = order;
  stmt->u.loop.mark = QN_LM_SERIAL;
  qn_lfor_set_bounds(stmt, lo, hi);
  return stmt;
}

qn_lstmt *qn_lstore_lanes(qn_lbuild *b, qn_lblock *block, const qn_lbuf *buf, qn_lmem mem, const qn_lexpr *index,
                          const qn_lexpr *value, int lanes) {
  qn_lstmt *stmt = buf && index && value ? append_stmt(b, block, QN_LS_STORE) : NULL;
  if (!stmt) return NULL;
  stmt->u.store.buf = buf;
  stmt->u.store.mem = mem;
  stmt->u.store.index = index;
  stmt->u.store.value = value;
  stmt->u.store.lanes = lanes;
  return stmt;
}

qn_lstmt *qn_lstore(qn_lbuild *b, qn_lblock *block, const qn_lbuf *buf, qn_lmem mem, const qn_lexpr *index,
                    const qn_lexpr *value) {
  if (!index || !value) return NULL;
  int lanes = index->type.lanes > value->type.lanes ? index->type.lanes : value->type.lanes;
  return qn_lstore_lanes(b, block, buf, mem, index, value, lanes);
}

qn_lstmt *qn_lprefetch(qn_lbuild *b, qn_lblock *block, const qn_lbuf *buf, qn_lmem mem, const qn_lexpr *index,
                       bool far) {
  qn_lstmt *stmt = buf && index ? append_stmt(b, block, QN_LS_PREFETCH) : NULL;
  if (!stmt) return NULL;
  stmt->u.prefetch.buf = buf;
  stmt->u.prefetch.mem = mem;
  stmt->u.prefetch.index = index;
  stmt->u.prefetch.far = far;
  return stmt;
}

qn_lstmt *qn_lbarrier(qn_lbuild *b, qn_lblock *block) { return append_stmt(b, block, QN_LS_BARRIER); }

qn_lstmt *qn_lcopy(qn_lbuild *b, qn_lblock *block, const qn_lbuf *to, const qn_lexpr *to_index, const qn_lbuf *from,
                   const qn_lexpr *from_index, qn_lmem mem, int lanes) {
  qn_lstmt *stmt = to && to_index && from && from_index ? append_stmt(b, block, QN_LS_COPY) : NULL;
  if (!stmt) return NULL;
  stmt->u.copy.to = to;
  stmt->u.copy.to_index = to_index;
  stmt->u.copy.from = from;
  stmt->u.copy.from_index = from_index;
  stmt->u.copy.mem = mem;
  stmt->u.copy.lanes = lanes;
  return stmt;
}

qn_lstmt *qn_lcommit(qn_lbuild *b, qn_lblock *block) { return append_stmt(b, block, QN_LS_COMMIT); }

qn_lstmt *qn_lwait(qn_lbuild *b, qn_lblock *block, int groups) {
  qn_lstmt *stmt = append_stmt(b, block, QN_LS_WAIT);
  if (stmt) stmt->u.wait.groups = groups;
  return stmt;
}

qn_lstmt *qn_lmma_append(qn_lbuild *b, qn_lblock *block, qn_lmma kind, const qn_lbuf *const bufs[QN_MMA_OPERANDS],
                         const int at[QN_MMA_OPERANDS]) {
  bool given = bufs[QN_MMA_OF_C] && bufs[QN_MMA_OF_A] && bufs[QN_MMA_OF_B];
  qn_lstmt *stmt = given ? append_stmt(b, block, QN_LS_MMA) : NULL;
  if (!stmt) return NULL;
  stmt->u.mma.kind = kind;
  memcpy(stmt->u.mma.bufs, bufs, sizeof stmt->u.mma.bufs);
  memcpy(stmt->u.mma.at, at, sizeof stmt->u.mma.at);
  return stmt;
}

// --- expressions

// A copy of *node in the arena; its type must be set.
static const qn_lexpr *node_new(qn_lbuild *b, qn_lexpr node) {
  qn_lexpr *copy = arena_new(b, 1, sizeof *copy);
  if (copy) *copy = node;
  return copy;
}

const qn_lexpr *qn_lexpr_make(qn_lbuild *b, const qn_lexpr *node) {
  qn_lexpr copy = *node;
  const qn_lop_info *info = qn_lop_info_of(node->op);
  for (int i = 0; i < info->operands; i++) {
    if (!node->operands[i]) return NULL;
  }
  if (node->op == QN_LX_LOAD) {  // a gather has the lanes of its index
    if (node->operands[0]->type.lanes > 1) copy.type.lanes = node->operands[0]->type.lanes;
    copy.type.kind = qn_lmem_kind(node->u.load.mem);
  } else if (info->operands > 0) {
    copy.type = qn_lop_type(node->op, node->operands);
  }
  return node_new(b, copy);
}

const qn_lexpr *qn_lint(qn_lbuild *b, int64_t value) {
  return node_new(b, (qn_lexpr){.op = QN_LX_INT, .type = {QN_LK_INDEX, 1}, .u.int_value = value});
}

const qn_lexpr *qn_li32(qn_lbuild *b, int32_t value) {
  return node_new(b, (qn_lexpr){.op = QN_LX_INT, .type = {QN_LK_I32, 1}, .u.int_value = value});
}

const qn_lexpr *qn_lf32(qn_lbuild *b, float value) {
  if (value != value) value = __builtin_nanf("");  // one NaN, so that text keeps its bits
  return node_new(b, (qn_lexpr){.op = QN_LX_FLOAT, .type = {QN_LK_F32, 1}, .u.float_value = value});
}

const qn_lexpr *qn_lref(qn_lbuild *b, const qn_lvar *var) {
  if (!var) return NULL;
  return node_new(b, (qn_lexpr){.op = QN_LX_VAR, .type = {QN_LK_INDEX, 1}, .u.var = var});
}

const qn_lexpr *qn_lsym(qn_lbuild *b, qn_symbol symbol) {
  return node_new(b, (qn_lexpr){.op = QN_LX_SYM, .type = {QN_LK_INDEX, 1}, .u.symbol = symbol});
}

const qn_lexpr *qn_ldim(qn_lbuild *b, qn_dim dim) {
  if (qn_dim_is_const(dim)) return qn_lint(b, dim.value);
  return qn_lop2(b, QN_LX_MUL, qn_lsym(b, dim.symbol), qn_lint(b, dim.value));
}

const qn_lexpr *qn_llane(qn_lbuild *b, int lanes) {
  return node_new(b, (qn_lexpr){.op = QN_LX_LANE, .type = {QN_LK_INDEX, lanes}});
}

const qn_lexpr *qn_lload(qn_lbuild *b, const qn_lbuf *buf, qn_lmem mem, const qn_lexpr *index, int lanes) {
  if (!buf || !index) return NULL;
  qn_lexpr node = {.op = QN_LX_LOAD, .type = {QN_LK_F32, lanes}, .operands = {index}};
  node.u.load.buf = buf;
  node.u.load.mem = mem;
  return qn_lexpr_make(b, &node);
}

const qn_lexpr *qn_lop1(qn_lbuild *b, qn_lop op, const qn_lexpr *x) {
  if (!x) return NULL;
  qn_lexpr node = {.op = op, .operands = {x}};
  return qn_lexpr_simplify(b, &node);
}

const qn_lexpr *qn_llut16(qn_lbuild *b, const qn_lexpr *x, const uint8_t table[16]) {
  if (!x) return NULL;
  qn_lexpr node = {.op = QN_LX_LUT16, .operands = {x}};
  memcpy(node.u.table, table, sizeof node.u.table);
  return qn_lexpr_simplify(b, &node);
}

const qn_lexpr *qn_lop2(qn_lbuild *b, qn_lop op, const qn_lexpr *x, const qn_lexpr *y) {
  if (!x || !y) return NULL;
  qn_lexpr node = {.op = op, .operands = {x, y}};
  return qn_lexpr_simplify(b, &node);
}

const qn_lexpr *qn_lop3(qn_lbuild *b, qn_lop op, const qn_lexpr *x, const qn_lexpr *y, const qn_lexpr *z) {
  if (!x || !y || !z) return NULL;
  qn_lexpr node = {.op = op, .operands = {x, y, z}};
  return qn_lexpr_simplify(b, &node);
}
