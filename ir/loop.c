// Asking about loop IR and rewriting it: the operator table, equality, substitution, block lists and deep copies.
#include "ir/loop.h"

#include <string.h>

#include "runtime/base/vec.h"

// --- tables

const qn_lop_info *qn_lop_info_of(qn_lop op) {
  static const qn_lop_info table[QN_LX_COUNT] = {
#define QN_LX(name, text, operands, result, syntax, meaning) {#name, text, operands, #result[0], #syntax[0], meaning},
#include "ir/loop.def"
#undef QN_LX
  };
  return &table[op];
}

static const struct {
  const char *name;
  size_t size;
  qn_lkind kind;
} MEM[QN_LM_COUNT] = {
    [QN_LM_F32] = {"f32", 4, QN_LK_F32}, [QN_LM_F16] = {"f16", 2, QN_LK_F32}, [QN_LM_BF16] = {"bf16", 2, QN_LK_F32},
    [QN_LM_I32] = {"i32", 4, QN_LK_I32}, [QN_LM_I8] = {"i8", 1, QN_LK_I32},   [QN_LM_U8] = {"u8", 1, QN_LK_I32},
};

size_t qn_lmem_size(qn_lmem mem) { return MEM[mem].size; }
const char *qn_lmem_name(qn_lmem mem) { return MEM[mem].name; }
qn_lkind qn_lmem_kind(qn_lmem mem) { return MEM[mem].kind; }

const char *qn_lkind_name(qn_lkind kind) {
  static const char *const names[] = {"index", "i32", "f32", "pred"};
  return names[kind];
}

qn_ltype qn_lop_type(qn_lop op, const qn_lexpr *const operands[3]) {
  const qn_lop_info *info = qn_lop_info_of(op);
  qn_ltype type = {QN_LK_INDEX, 1};
  for (int i = 0; i < info->operands; i++) {
    if (operands[i]->type.lanes > type.lanes) type.lanes = operands[i]->type.lanes;
  }
  switch (info->result) {
    case 'B': type.kind = QN_LK_PRED; break;
    case 'N': type.kind = QN_LK_I32; break;
    case 'F': type.kind = QN_LK_F32; break;
    case 'S': type.kind = operands[op == QN_LX_SELECT ? 1 : 0]->type.kind; break;
    default: break;
  }
  return type;
}

// --- asking

bool qn_lexpr_is_int(const qn_lexpr *e, int64_t *out) {
  if (!e || e->op != QN_LX_INT) return false;
  *out = e->u.int_value;
  return true;
}

uint32_t qn_lut16(const uint8_t table[16], uint32_t bytes) {
  uint32_t result = 0;
  for (int shift = 0; shift < 32; shift += 8) result |= (uint32_t)table[bytes >> shift & 15] << shift;
  return result;
}

#define COMPARE(a, b)                          \
  do {                                         \
    if ((a) != (b)) return (a) < (b) ? -1 : 1; \
  } while (0)

// Names order by base, then by number (t$2 before t$10), so that renumbering on a copy keeps the order.
static int compare_names(const char *a, const char *b) {
  qn_str base_a = qn_lname_base(a), base_b = qn_lname_base(b);
  size_t shorter = base_a.length < base_b.length ? base_a.length : base_b.length;
  int order = memcmp(a, b, shorter);
  if (order != 0) return order;
  COMPARE(base_a.length, base_b.length);
  COMPARE(strlen(a), strlen(b));
  return strcmp(a, b);
}

static int compare_leaf(const qn_lexpr *a, const qn_lexpr *b) {
  uint32_t bits_a, bits_b;
  int order;
  switch (a->op) {
    case QN_LX_INT: COMPARE(a->u.int_value, b->u.int_value); return 0;
    case QN_LX_SYM: COMPARE(a->u.symbol, b->u.symbol); return 0;
    case QN_LX_FLOAT:  // by bits: -0 and 0 differ
      memcpy(&bits_a, &a->u.float_value, sizeof bits_a);
      memcpy(&bits_b, &b->u.float_value, sizeof bits_b);
      COMPARE(bits_a, bits_b);
      return 0;
    case QN_LX_VAR:
      if (a->u.var == b->u.var) return 0;
      order = compare_names(a->u.var->name, b->u.var->name);
      if (order != 0) return order;
      COMPARE((uintptr_t)a->u.var, (uintptr_t)b->u.var);  // two kernels: names are unique in one
      return 0;
    case QN_LX_LOAD:
      COMPARE(a->u.load.mem, b->u.load.mem);
      if (a->u.load.buf == b->u.load.buf) return 0;
      order = compare_names(a->u.load.buf->name, b->u.load.buf->name);
      if (order != 0) return order;
      COMPARE((uintptr_t)a->u.load.buf, (uintptr_t)b->u.load.buf);
      return 0;
    case QN_LX_LUT16: return memcmp(a->u.table, b->u.table, sizeof a->u.table);
    default: return 0;
  }
}

int qn_lexpr_compare(const qn_lexpr *a, const qn_lexpr *b) {
  if (a == b) return 0;
  COMPARE(a->op, b->op);
  COMPARE(a->type.kind, b->type.kind);
  COMPARE(a->type.lanes, b->type.lanes);
  int order = compare_leaf(a, b);
  for (int i = 0; order == 0 && i < qn_lop_info_of(a->op)->operands; i++) {
    order = qn_lexpr_compare(a->operands[i], b->operands[i]);
  }
  return order;
}

bool qn_lexpr_equal(const qn_lexpr *a, const qn_lexpr *b) { return qn_lexpr_compare(a, b) == 0; }

bool qn_lexpr_uses(const qn_lexpr *e, const qn_lvar *var) {
  if (e->op == QN_LX_VAR) return e->u.var == var;
  for (int i = 0; i < qn_lop_info_of(e->op)->operands; i++) {
    if (qn_lexpr_uses(e->operands[i], var)) return true;
  }
  return false;
}

// --- rewriting

const qn_lexpr *qn_lexpr_map(qn_lbuild *b, const qn_lexpr *e, qn_lexpr_fn fn, void *context) {
  if (!e || b->failed) return NULL;
  qn_lexpr node = *e;
  bool changed = false;
  for (int i = 0; i < qn_lop_info_of(e->op)->operands; i++) {
    node.operands[i] = qn_lexpr_map(b, e->operands[i], fn, context);
    if (!node.operands[i]) return NULL;
    changed = changed || node.operands[i] != e->operands[i];
  }
  const qn_lexpr *mapped = changed ? qn_lexpr_simplify(b, &node) : e;
  return mapped ? fn(b, mapped, context) : NULL;
}

typedef struct replacement {
  const qn_lvar *var;
  const qn_lexpr *with;
} replacement;

static const qn_lexpr *replace_var(qn_lbuild *b, const qn_lexpr *e, void *context) {
  const replacement *r = context;
  (void)b;
  return e->op == QN_LX_VAR && e->u.var == r->var ? r->with : e;
}

const qn_lexpr *qn_lexpr_replace(qn_lbuild *b, const qn_lexpr *e, const qn_lvar *var, const qn_lexpr *with) {
  return with ? qn_lexpr_map(b, e, replace_var, &(replacement){var, with}) : NULL;
}

// Maps *e in place; keeps it after a failure, so that the kernel stays whole.
static void map_slot(qn_lbuild *b, const qn_lexpr **e, qn_lexpr_fn fn, void *context) {
  const qn_lexpr *mapped = qn_lexpr_map(b, *e, fn, context);
  if (mapped) {
    *e = mapped;
  } else {
    b->failed = true;
  }
}

static int widest(int lanes, const qn_lexpr *a, const qn_lexpr *b) {
  if (a->type.lanes > lanes) lanes = a->type.lanes;
  return b->type.lanes > lanes ? b->type.lanes : lanes;
}

void qn_lblock_map(qn_lbuild *b, qn_lblock *block, qn_lexpr_fn fn, void *context) {
  for (qn_lstmt *stmt = block->first; stmt && !b->failed; stmt = stmt->next) {
    switch (stmt->kind) {
      case QN_LS_FOR:
        map_slot(b, &stmt->u.loop.lo, fn, context);
        map_slot(b, &stmt->u.loop.hi, fn, context);
        qn_lfor_set_bounds(stmt, stmt->u.loop.lo, stmt->u.loop.hi);
        qn_lblock_map(b, &stmt->u.loop.body, fn, context);
        break;
      case QN_LS_STORE:
        map_slot(b, &stmt->u.store.index, fn, context);
        map_slot(b, &stmt->u.store.value, fn, context);
        stmt->u.store.lanes = widest(stmt->u.store.lanes, stmt->u.store.index, stmt->u.store.value);
        break;
      case QN_LS_PREFETCH: map_slot(b, &stmt->u.prefetch.index, fn, context); break;
      case QN_LS_COPY:
        map_slot(b, &stmt->u.copy.to_index, fn, context);
        map_slot(b, &stmt->u.copy.from_index, fn, context);
        break;
      case QN_LS_LOCAL:
      case QN_LS_BARRIER:
      case QN_LS_COMMIT:
      case QN_LS_WAIT:
      case QN_LS_MMA: break;
    }
  }
}

// --- block lists

void qn_lblock_append(qn_lblock *block, qn_lstmt *stmt) { qn_lblock_insert_before(block, NULL, stmt); }

void qn_lblock_remove(qn_lblock *block, qn_lstmt *stmt) {
  *(stmt->prev ? &stmt->prev->next : &block->first) = stmt->next;
  *(stmt->next ? &stmt->next->prev : &block->last) = stmt->prev;
  stmt->next = stmt->prev = NULL;
}

void qn_lblock_insert_before(qn_lblock *block, qn_lstmt *before, qn_lstmt *stmt) {
  stmt->next = before;
  stmt->prev = before ? before->prev : block->last;
  *(stmt->prev ? &stmt->prev->next : &block->first) = stmt;
  *(before ? &before->prev : &block->last) = stmt;
}

// --- deep copies

typedef struct rename {
  const void *from, *to;  // variables and buffers
} rename;

typedef struct copier {
  qn_lbuild *b;
  QN_VEC(rename) renames;  // arena
  bool whole_kernel;       // nothing may be shared with the original; names are kept
} copier;

static const void *renamed(const copier *c, const void *from) {
  for (size_t i = c->renames.count; i > 0; i--) {  // the latest declarations are the likeliest
    if (c->renames.items[i - 1].from == from) return c->renames.items[i - 1].to;
  }
  return from;
}

static void add_rename(copier *c, const void *from, const void *to) {
  if (!to || !qn_vec_push_arena(c->b->arena, &c->renames, ((rename){from, to}))) c->b->failed = true;
}

static const qn_lexpr *copy_expr(copier *c, const qn_lexpr *e) {
  qn_lexpr node = *e;
  bool changed = c->whole_kernel;
  for (int i = 0; i < qn_lop_info_of(e->op)->operands; i++) {
    node.operands[i] = copy_expr(c, e->operands[i]);
    if (!node.operands[i]) return NULL;
    changed = changed || node.operands[i] != e->operands[i];
  }
  if (e->op == QN_LX_VAR) {
    node.u.var = renamed(c, e->u.var);
    changed = changed || node.u.var != e->u.var;
  } else if (e->op == QN_LX_LOAD) {
    node.u.load.buf = renamed(c, e->u.load.buf);
    changed = changed || node.u.load.buf != e->u.load.buf;
  }
  return changed ? qn_lexpr_make(c->b, &node) : e;
}

// A variable or buffer of the original has this name in the copy.
static void keep_name(copier *c, const char *from, const char **to) {
  if (!c->whole_kernel || c->b->failed) return;
  *to = qn_arena_strdup(c->b->arena, from);
  if (!*to) c->b->failed = true;
}

static void copy_loop(copier *c, const qn_lstmt *from, qn_lblock *to);

static void copy_block(copier *c, const qn_lblock *from, qn_lblock *to) {
  qn_lbuild *b = c->b;
  const qn_lstmt *last = from->last;  // `to` may be the block copied from
  for (const qn_lstmt *stmt = from->first; stmt && !b->failed; stmt = stmt == last ? NULL : stmt->next) {
    switch (stmt->kind) {
      case QN_LS_FOR: copy_loop(c, stmt, to); break;
      case QN_LS_STORE:
        qn_lstore_lanes(b, to, renamed(c, stmt->u.store.buf), stmt->u.store.mem, copy_expr(c, stmt->u.store.index),
                        copy_expr(c, stmt->u.store.value), stmt->u.store.lanes);
        break;
      case QN_LS_LOCAL: {
        const qn_lbuf *old = stmt->u.local.buf;
        qn_lbuf *buf = qn_llocal(b, to, old->name, old->mem, 0);
        add_rename(c, old, buf);
        if (b->failed) return;
        keep_name(c, old->name, &buf->name);
        buf->elements = copy_expr(c, old->elements);
        buf->shared = old->shared;
        buf->spread = old->spread;
        buf->each = old->each;
        buf->byte_max = old->byte_max;
        break;
      }
      case QN_LS_PREFETCH:
        qn_lprefetch(b, to, renamed(c, stmt->u.prefetch.buf), stmt->u.prefetch.mem,
                     copy_expr(c, stmt->u.prefetch.index), stmt->u.prefetch.far);
        break;
      case QN_LS_BARRIER: qn_lbarrier(b, to); break;
      case QN_LS_COPY:
        qn_lcopy(b, to, renamed(c, stmt->u.copy.to), copy_expr(c, stmt->u.copy.to_index),
                 renamed(c, stmt->u.copy.from), copy_expr(c, stmt->u.copy.from_index), stmt->u.copy.mem,
                 stmt->u.copy.lanes);
        break;
      case QN_LS_COMMIT: qn_lcommit(b, to); break;
      case QN_LS_WAIT: qn_lwait(b, to, stmt->u.wait.groups); break;
      case QN_LS_MMA: {
        const qn_lbuf *bufs[QN_MMA_OPERANDS];
        for (int i = 0; i < QN_MMA_OPERANDS; i++) bufs[i] = renamed(c, stmt->u.mma.bufs[i]);
        qn_lmma_append(b, to, stmt->u.mma.kind, bufs, stmt->u.mma.at);
        break;
      }
    }
  }
}

static void copy_loop(copier *c, const qn_lstmt *from, qn_lblock *to) {
  qn_lvar *var = qn_lvar_new(c->b, from->u.loop.var->name);
  const qn_lexpr *lo = copy_expr(c, from->u.loop.lo), *hi = copy_expr(c, from->u.loop.hi);
  add_rename(c, from->u.loop.var, var);
  if (c->b->failed) return;
  keep_name(c, from->u.loop.var->name, &var->name);
  qn_lstmt *loop = qn_lfor(c->b, to, var, lo, hi, from->u.loop.order);
  loop->u.loop.mark = from->u.loop.mark;
  copy_block(c, &from->u.loop.body, &loop->u.loop.body);
}

bool qn_lblock_copy(qn_lbuild *b, const qn_lblock *from, qn_lblock *to) {
  copier c = {.b = b};
  copy_block(&c, from, to);
  return !b->failed;
}

qn_lkernel *qn_lkernel_copy(qn_lbuild *b, qn_arena *arena, const qn_lkernel *from, const char *new_name) {
  qn_lbuild_init(b, arena, new_name);
  copier c = {.b = b, .whole_kernel = true};
  for (size_t i = 0; i < from->param_count && !b->failed; i++) {
    const qn_lbuf *old = from->params[i];
    qn_lbuf *buf = qn_lparam(b, old->name, old->mem, copy_expr(&c, old->elements), old->writable, old->streamed);
    add_rename(&c, old, buf);
    if (!b->failed) keep_name(&c, old->name, &buf->name);
  }
  copy_block(&c, &from->body, &b->kernel->body);
  if (b->failed) return NULL;
  qn_lkernel *copy = b->kernel;
  qn_lbuild_open(b, arena, copy);  // the names as they were kept
  return b->failed ? NULL : copy;
}
