// The rules of the loop IR. Every pass is followed by this check, so that a wrong kernel is blamed on the pass that
// made it. Needs no memory of its own.
#include <stdio.h>
#include <string.h>

#include "ir/loop.h"
#include "runtime/base/hash.h"

enum { NAME_SLOTS = 1 << 15, MAX_NAMES = NAME_SLOTS / 4 * 3, MAX_LOCAL_BYTES = 1 << 20 };

// A block being checked: what stands in it before `at`, and the loop variable it is the body of, are in scope.
typedef struct scope {
  const struct scope *outer;
  const qn_lvar *var;  // NULL for the kernel's body
  const qn_lstmt *at;
} scope;

typedef struct checker {
  const qn_lkernel *kernel;
  const scope *scope;
  const qn_lstmt *stmt;  // for messages; NULL while parameters are checked
  const char **names;    // hash table of NAME_SLOTS
  size_t name_count;
  int depth;  // of blocks
  int lane_depth;  // of the body of the LANE loop that is being checked; 0 = none
  const qn_lstmt *lane_loop;  // that loop
  qn_diag *diag;
} checker;

// --- errors

// An allocator over a fixed piece of memory, for one growing text.
typedef struct fixed_memory {
  char bytes[512];
} fixed_memory;

static void *fixed_reallocate(void *context, void *pointer, size_t old_size, size_t new_size) {
  fixed_memory *memory = context;
  (void)pointer, (void)old_size;
  return new_size > 0 && new_size <= sizeof memory->bytes ? memory->bytes : NULL;
}

static qn_status fail(const checker *c, const char *format, ...) QN_PRINTF(2, 3);

// Fails at the current statement with "got ..., want ...".
static qn_status fail(const checker *c, const char *format, ...) {
  fixed_memory memory;
  qn_allocator allocator = {&memory, fixed_reallocate};
  qn_buf text;
  char where[160], message[320];
  va_list args;
  va_start(args, format);
  vsnprintf(message, sizeof message, format, args);
  va_end(args);
  snprintf(where, sizeof where, "kernel '%s'", c->kernel->name);
  if (!c->stmt) return qn_fail(c->diag, QN_ERR_INTERNAL, where, "%s", message);
  qn_buf_init(&text, &allocator);
  qn_lstmt_print(c->stmt, &text);
  return qn_fail(c->diag, QN_ERR_INTERNAL, where, "in '%s%s': %s", qn_buf_text(&text), text.failed ? "..." : "",
                 message);
}

// --- names and scopes

static qn_status check_name(checker *c, const char *name) {
  qn_str text = qn_str_from(name);
  if (!qn_lname_is_valid(text)) {
    return fail(c,
                "got the name '%s', want letters, digits and '_', then '$' and a number or nothing; no symbol or "
                "reserved word",
                name ? name : "");
  }
  if (c->name_count == MAX_NAMES) return fail(c, "got more names than %d, want fewer", MAX_NAMES);
  size_t at = (size_t)qn_hash64(text.data, text.length, 0) % NAME_SLOTS;
  for (; c->names[at]; at = (at + 1) % NAME_SLOTS) {
    if (strcmp(c->names[at], name) == 0) return fail(c, "got the name '%s' twice, want names that differ", name);
  }
  c->names[at] = name;
  c->name_count++;
  return QN_OK;
}

static bool var_in_scope(const checker *c, const qn_lvar *var) {
  for (const scope *s = c->scope; s; s = s->outer) {
    if (s->var == var) return true;
  }
  return false;
}

static bool buf_in_scope(const checker *c, const qn_lbuf *buf) {
  if (buf->kind == QN_LB_PARAM) {
    return buf->param_index >= 0 && (size_t)buf->param_index < c->kernel->param_count &&
           c->kernel->params[buf->param_index] == buf;
  }
  for (const scope *s = c->scope; s; s = s->outer) {
    for (const qn_lstmt *stmt = s->at; stmt; stmt = stmt->prev) {
      if (stmt != c->stmt && stmt->kind == QN_LS_LOCAL && stmt->u.local.buf == buf) return true;
    }
  }
  return false;
}

static qn_status check_buf(const checker *c, const qn_lbuf *buf) {
  if (!buf) return fail(c, "got no buffer, want one");
  if (!buf_in_scope(c, buf)) return fail(c, "got the buffer '%s', which is not declared here", buf->name);
  return QN_OK;
}

// --- expressions

// What each operator takes, a letter an operand: I index, S i32, F f32, P predicate; and of several kinds, the same for
// all operands of that letter: N index, i32 or f32; J index or i32; G index or f32; L i32 or predicate.
static const char *const OPERAND_KINDS[QN_LX_COUNT] = {
    [QN_LX_LOAD] = "I",   [QN_LX_ADD] = "NN",     [QN_LX_SUB] = "NN",    [QN_LX_MUL] = "NN",    [QN_LX_DIV] = "NN",
    [QN_LX_MOD] = "JJ",   [QN_LX_MIN] = "NN",     [QN_LX_MAX] = "NN",    [QN_LX_NEG] = "N",     [QN_LX_ABS] = "F",
    [QN_LX_SQRT] = "F",   [QN_LX_ROUND] = "F",    [QN_LX_FMA] = "FFF",   [QN_LX_AND] = "LL",    [QN_LX_OR] = "LL",
    [QN_LX_XOR] = "SS",   [QN_LX_SHL] = "SS",     [QN_LX_SHR] = "SS",    [QN_LX_LT] = "NN",     [QN_LX_LE] = "NN",
    [QN_LX_EQ] = "NN",    [QN_LX_SELECT] = "PNN", [QN_LX_TO_F32] = "S",  [QN_LX_TO_I32] = "G",  [QN_LX_TO_INDEX] = "S",
    [QN_LX_AS_F32] = "S", [QN_LX_AS_I32] = "F",   [QN_LX_DOT4] = "SSS",  [QN_LX_DOT4S] = "SSS", [QN_LX_DOT2] = "SSS",
    [QN_LX_LUT16] = "S",  [QN_LX_FOLD2] = "S",    [QN_LX_UNBIAS] = "SS", [QN_LX_EXP] = "F",     [QN_LX_SIN] = "F",
    [QN_LX_COS] = "F",    [QN_LX_TANH] = "F",     [QN_LX_ERF] = "F",
};

static const char *kinds_text(char letter) {
  switch (letter) {
    case 'I': return "index";
    case 'S': return "i32";
    case 'F': return "f32";
    case 'P': return "pred";
    case 'N': return "index, i32 or f32";
    case 'J': return "index or i32";
    case 'G': return "index or f32";
    default: return "i32 or pred";
  }
}

static qn_status check_operand_kinds(const checker *c, const qn_lexpr *e) {
  const qn_lop_info *info = qn_lop_info_of(e->op);
  const char *kinds = OPERAND_KINDS[e->op];
  if (!kinds || strlen(kinds) != (size_t)info->operands) return fail(c, "operator '%s' has no rule", info->text);
  for (int i = 0; i < info->operands; i++) {
    qn_lkind kind = e->operands[i]->type.kind;
    const char *name = qn_lkind_name(kind);
    if (!strstr(kinds_text(kinds[i]), name)) {
      return fail(c, "operand %d of '%s': got %s, want %s", i + 1, info->text, name, kinds_text(kinds[i]));
    }
    for (int j = 0; j < i; j++) {
      if (kinds[j] != kinds[i] || e->operands[j]->type.kind == kind) continue;
      return fail(c, "operand %d of '%s': got %s, want %s as operand %d", i + 1, info->text, name,
                  qn_lkind_name(e->operands[j]->type.kind), j + 1);
    }
  }
  return QN_OK;
}

static qn_status check_lanes(const checker *c, int lanes) {
  if (lanes >= 1 && lanes <= QN_LANES_MAX) return QN_OK;
  return fail(c, "got %d lanes, want 1 to %d", lanes, QN_LANES_MAX);
}

static qn_status check_operator(const checker *c, const qn_lexpr *e) {
  const qn_lop_info *info = qn_lop_info_of(e->op);
  int64_t value;
  for (int i = 0; i < info->operands; i++) {
    int lanes = e->operands[i]->type.lanes;
    if (lanes == 1 || lanes == e->type.lanes) continue;
    return fail(c, "operand %d of '%s': got %d lanes, want 1 or %d", i + 1, info->text, lanes, e->type.lanes);
  }
  QN_TRY(check_operand_kinds(c, e));
  qn_ltype type = qn_lop_type(e->op, e->operands);
  if (type.kind != e->type.kind || type.lanes != e->type.lanes) {
    return fail(c, "'%s': got the type %s with %d lanes, want %s with %d", info->text, qn_lkind_name(e->type.kind),
                e->type.lanes, qn_lkind_name(type.kind), type.lanes);
  }
  bool has_limit = qn_lexpr_is_int(e->operands[1], &value);
  if (has_limit && (e->op == QN_LX_DIV || e->op == QN_LX_MOD) && value <= 0) {
    return fail(c, "divisor of '%s': got %lld, want a positive number", info->text, (long long)value);
  }
  if (has_limit && (e->op == QN_LX_SHL || e->op == QN_LX_SHR) && (value < 0 || value > 31)) {
    return fail(c, "distance of '%s': got %lld, want 0 to 31", info->text, (long long)value);
  }
  return QN_OK;
}

// Of a spread local a lane has the elements that its iterations of a lane loop have the numbers of.
static qn_status check_spread(const checker *c, const qn_lbuf *buf, qn_lmem mem, const qn_lexpr *index) {
  int64_t lo = -1, hi = 0, elements = 0;
  if (!buf->spread) return QN_OK;
  const qn_lstmt *loop = c->lane_loop;
  bool own = loop && index && index->op == QN_LX_VAR && index->u.var == loop->u.loop.var && mem == buf->mem &&
             qn_lexpr_is_int(loop->u.loop.lo, &lo) && lo == 0 && qn_lexpr_is_int(loop->u.loop.hi, &hi) &&
             qn_lexpr_is_int(buf->elements, &elements) && hi <= elements;
  if (own) return QN_OK;
  return fail(c, "got another element of the spread local '%s' than that of the lane loop's variable, from 0 on",
              buf->name);
}

// The lanes that have elements of their own in the local.
static int64_t lanes_of(const qn_lbuf *buf) {
  int64_t elements = 0;
  qn_lexpr_is_int(buf->elements, &elements);
  return elements / buf->each;
}

// A lane touches no elements but its own.
static qn_status check_own(const checker *c, const qn_lbuf *buf, qn_lmem mem, const qn_lexpr *index, int lanes) {
  int64_t lo = -1, hi = -1;
  int element;
  const qn_lstmt *loop = c->lane_loop;
  if (buf->each == 0) return QN_OK;
  bool counted = loop && qn_lexpr_is_int(loop->u.loop.lo, &lo) && qn_lexpr_is_int(loop->u.loop.hi, &hi) && lo == 0;
  if (!counted || hi != lanes_of(buf)) {
    return fail(c, "got an access to '%s' elsewhere, want it in a lane loop 0..%lld", buf->name,
                (long long)lanes_of(buf));
  }
  if (mem == buf->mem && lanes == 1 && qn_lbuf_is_own(buf, index, loop->u.loop.var, &element)) return QN_OK;
  return fail(c, "index into '%s': want one of the lane's own elements, %s*%d + a number below %d", buf->name,
              loop->u.loop.var->name, buf->each, buf->each);
}

static qn_status check_load(const checker *c, const qn_lexpr *e) {
  QN_TRY(check_buf(c, e->u.load.buf));
  QN_TRY(check_spread(c, e->u.load.buf, e->u.load.mem, e->operands[0]));
  QN_TRY(check_own(c, e->u.load.buf, e->u.load.mem, e->operands[0], e->type.lanes));
  QN_TRY(check_operand_kinds(c, e));
  int lanes = e->operands[0]->type.lanes;
  if (lanes != 1 && lanes != e->type.lanes) {
    return fail(c, "index into '%s': got %d lanes, want 1 or %d", e->u.load.buf->name, lanes, e->type.lanes);
  }
  if (e->type.kind == qn_lmem_kind(e->u.load.mem)) return QN_OK;
  return fail(c, "load from '%s': got the type %s, want %s", e->u.load.buf->name, qn_lkind_name(e->type.kind),
              qn_lkind_name(qn_lmem_kind(e->u.load.mem)));
}

static qn_status check_leaf(const checker *c, const qn_lexpr *e) {
  qn_lkind want = e->op == QN_LX_FLOAT                              ? QN_LK_F32
                  : e->op == QN_LX_INT && e->type.kind == QN_LK_I32 ? QN_LK_I32
                                                                    : QN_LK_INDEX;
  if (e->type.kind != want || (e->op != QN_LX_LANE && e->type.lanes != 1)) {
    return fail(c, "'%s': got the type %s with %d lanes, want a scalar %s", qn_lop_info_of(e->op)->text,
                qn_lkind_name(e->type.kind), e->type.lanes, qn_lkind_name(want));
  }
  if (want == QN_LK_I32 && (e->u.int_value < INT32_MIN || e->u.int_value > INT32_MAX)) {
    return fail(c, "got the i32 constant %lld, want one of 32 bits", (long long)e->u.int_value);
  }
  if (e->op == QN_LX_VAR && (!e->u.var || !var_in_scope(c, e->u.var))) {
    return fail(c, "got the variable '%s', which is not declared here", e->u.var ? e->u.var->name : "");
  }
  if (e->op == QN_LX_SYM && (e->u.symbol <= QN_SYM_NONE || e->u.symbol >= QN_SYM_COUNT)) {
    return fail(c, "got symbol number %d, want one of T, R, P, B, G, S", (int)e->u.symbol);
  }
  return QN_OK;
}

static qn_status check_expr(const checker *c, const qn_lexpr *e, int depth) {
  if (!e) return fail(c, "got no expression, want one");
  if (depth > QN_LTEXT_MAX_DEPTH) return fail(c, "got an expression of more than %d levels", QN_LTEXT_MAX_DEPTH);
  if (e->op < 0 || e->op >= QN_LX_COUNT) return fail(c, "got operator number %d, want one of loop.def", (int)e->op);
  int operands = qn_lop_info_of(e->op)->operands;
  for (int i = 0; i < operands; i++) QN_TRY(check_expr(c, e->operands[i], depth + 1));
  QN_TRY(check_lanes(c, e->type.lanes));
  if (operands == 0) return check_leaf(c, e);
  return e->op == QN_LX_LOAD ? check_load(c, e) : check_operator(c, e);
}

// An index expression; scalar where `lanes` is 1, else of 1 or `lanes` lanes.
static qn_status check_index(const checker *c, const char *what, const qn_lexpr *e, int lanes) {
  QN_TRY(check_expr(c, e, 1));
  if (e->type.kind != QN_LK_INDEX) return fail(c, "%s: got %s, want index", what, qn_lkind_name(e->type.kind));
  if (e->type.lanes == 1 || e->type.lanes == lanes) return QN_OK;
  return fail(c, "%s: got %d lanes, want %d", what, e->type.lanes, lanes);
}

// --- statements

static qn_status check_block(checker *c, const qn_lblock *block, const qn_lvar *var);

static qn_status check_mark(const checker *c, const qn_lstmt *stmt) {
  const qn_lblock *top = &c->kernel->body;
  int64_t lo = -1, hi;
  bool constant = qn_lexpr_is_int(stmt->u.loop.lo, &lo);
  switch (stmt->u.loop.mark) {
    case QN_LM_SERIAL: return QN_OK;
    case QN_LM_PARALLEL:
      if (top->first != stmt || top->last != stmt)
        return fail(c, "a parallel loop must be the kernel's only statement");
      if (!constant || lo != 0) return fail(c, "a parallel loop must start at 0");
      break;
    case QN_LM_LANE:
      if (c->lane_depth > 0) return fail(c, "got a lane loop in another one, want no lanes of lanes");
      break;
    case QN_LM_VECTOR:
    case QN_LM_UNROLL:
      if (!constant || !qn_lexpr_is_int(stmt->u.loop.hi, &hi)) {
        return fail(c, "an unrolled or vector loop must have constant bounds");
      }
      break;
  }
  if (stmt->u.loop.mark == QN_LM_UNROLL || stmt->u.loop.order == QN_LO_DATA) return QN_OK;
  return fail(c, "got a reduction, want a data loop to be parallel, vector or lane");
}

static qn_status check_for(checker *c, const qn_lstmt *stmt) {
  const qn_lvar *var = stmt->u.loop.var;
  if (!var) return fail(c, "got a loop without a variable");
  QN_TRY(check_name(c, var->name));
  QN_TRY(check_index(c, "lower bound", stmt->u.loop.lo, 1));
  QN_TRY(check_index(c, "upper bound", stmt->u.loop.hi, 1));
  QN_TRY(check_mark(c, stmt));
  int64_t lo = qn_lexpr_range(stmt->u.loop.lo).min, hi = qn_lexpr_range(stmt->u.loop.hi).max;
  bool bounded = var->lo != INT64_MIN && var->hi != INT64_MAX;
  if (lo < var->lo || hi > var->hi || var->bounded != bounded) {
    return fail(c, "the variable's range: got %lld..%lld, want %lld..%lld (see qn_lfor_set_bounds)", (long long)var->lo,
                (long long)var->hi, (long long)lo, (long long)hi);
  }
  int outer = c->lane_depth;
  const qn_lstmt *outer_loop = c->lane_loop;
  if (stmt->u.loop.mark == QN_LM_LANE) {
    c->lane_depth = c->depth + 1;
    c->lane_loop = stmt;
  }
  QN_TRY(check_block(c, &stmt->u.loop.body, var));
  c->lane_depth = outer;
  c->lane_loop = outer_loop;
  return QN_OK;
}

// Is the local declared around the LANE loop that is being checked?
static bool is_outside_lanes(const checker *c, const qn_lbuf *buf) {
  int depth = c->depth;
  if (c->lane_depth == 0 || buf->kind != QN_LB_LOCAL) return false;
  for (const scope *s = c->scope; s && depth >= c->lane_depth; s = s->outer, depth--) {
    for (const qn_lstmt *stmt = s->at; stmt; stmt = stmt->prev) {
      if (stmt->kind == QN_LS_LOCAL && stmt->u.local.buf == buf) return false;
    }
  }
  return true;
}

static qn_status check_store(const checker *c, const qn_lstmt *stmt) {
  const qn_lbuf *buf = stmt->u.store.buf;
  const qn_lexpr *value = stmt->u.store.value;
  int lanes = stmt->u.store.lanes;
  QN_TRY(check_buf(c, buf));
  QN_TRY(check_lanes(c, lanes));
  if (!buf->writable) return fail(c, "got a store to '%s', want a buffer declared 'out' or 'local'", buf->name);
  QN_TRY(check_spread(c, buf, stmt->u.store.mem, stmt->u.store.index));
  QN_TRY(check_own(c, buf, stmt->u.store.mem, stmt->u.store.index, lanes));
  if (is_outside_lanes(c, buf) && !buf->shared && !buf->spread && buf->each == 0) {
    return fail(c, "got a store to the local '%s', of which each lane has its own around the lane loop, want it shared",
                buf->name);
  }
  QN_TRY(check_index(c, "index", stmt->u.store.index, lanes));
  QN_TRY(check_expr(c, value, 1));
  qn_lkind want = qn_lmem_kind(stmt->u.store.mem);
  if (value->type.kind != want) {
    return fail(c, "value: got %s, want %s", qn_lkind_name(value->type.kind), qn_lkind_name(want));
  }
  if (value->type.lanes == 1 || value->type.lanes == lanes) return QN_OK;
  return fail(c, lanes == 1 ? "value: got %d lanes, want %d" : "value: got %d lanes, want 1 or %d", value->type.lanes,
              lanes);
}

static qn_status check_local(checker *c, const qn_lbuf *buf) {
  int64_t elements;
  QN_TRY(check_name(c, buf->name));
  if (buf->kind != QN_LB_LOCAL || !buf->writable || buf->streamed) return fail(c, "got the flags of a parameter");
  if ((buf->shared || buf->spread) && c->lane_depth > 0) {
    return fail(c, "got a %s local in a lane loop, want it around the loop", buf->shared ? "shared" : "spread");
  }
  if (buf->shared && buf->spread) return fail(c, "got a local that is shared and spread, want one of both");
  QN_TRY(check_index(c, "size", buf->elements, 1));
  if (!qn_lexpr_is_int(buf->elements, &elements)) return fail(c, "size: got an expression, want a number");
  if (elements < 1 || elements > MAX_LOCAL_BYTES / (int64_t)qn_lmem_size(buf->mem)) {
    return fail(c, "size: got %lld elements, want at least 1 and at most %d bytes", (long long)elements,
                MAX_LOCAL_BYTES);
  }
  if (buf->byte_max < 0 || buf->byte_max >= UINT8_MAX || (buf->byte_max > 0 && qn_lmem_kind(buf->mem) != QN_LK_I32)) {
    return fail(c, "got bytes up to %d of %s, want 1 to 254 of i32, i8 or u8", buf->byte_max, qn_lmem_name(buf->mem));
  }
  if (buf->each == 0) return QN_OK;
  if (buf->shared || c->lane_depth > 0) return fail(c, "got a shared local or a lane loop, want each lane's own around it");
  if (buf->each > 0 && elements % buf->each == 0) return QN_OK;
  return fail(c, "got %d elements a lane, want a divisor of %lld", buf->each, (long long)elements);
}

static qn_status check_mma(const checker *c, const qn_lstmt *stmt) {
  static const char *const names[QN_MMA_OPERANDS] = {"C", "A", "B"};
  qn_lmma kind = stmt->u.mma.kind;
  if (kind < 0 || kind >= QN_MMA_COUNT) return fail(c, "got mma number %d, want one of mma.def", (int)kind);
  if (c->lane_depth > 0) return fail(c, "got mma in a lane loop, want it where all lanes pass");
  for (int i = 0; i < QN_MMA_OPERANDS; i++) {
    const qn_lbuf *buf = stmt->u.mma.bufs[i];
    QN_TRY(check_buf(c, buf));
    qn_lmem want = i == QN_MMA_OF_C ? qn_lmma_info_of(kind)->sum : QN_LM_I32;
    if (buf->each == 0 || buf->mem != want) {
      return fail(c, "%s: got '%s', want a local of %s with elements of each lane's own", names[i], buf->name,
                  qn_lmem_name(want));
    }
    if (i == QN_MMA_OF_C && buf->byte_max > 0)
      return fail(c, "C: got '%s', whose bytes are bounded, want a local that holds any sum", buf->name);
    int each = qn_lmma_each(kind, (qn_lmma_operand)i), at = stmt->u.mma.at[i];
    if (at < 0 || at > buf->each - each) {
      return fail(c, "%s: got elements %d to %d of a lane's %d, want %d that there are", names[i], at, at + each - 1,
                  buf->each, each);
    }
    if (lanes_of(buf) % QN_MMA_WARP != 0 || lanes_of(buf) != lanes_of(stmt->u.mma.bufs[0])) {
      return fail(c, "%s: got %lld lanes, want as many as of C, whole warps of %d", names[i],
                  (long long)lanes_of(buf), (int)QN_MMA_WARP);
    }
  }
  return QN_OK;
}

static qn_status check_copy(const checker *c, const qn_lstmt *stmt) {
  const qn_lbuf *to = stmt->u.copy.to, *from = stmt->u.copy.from;
  QN_TRY(check_buf(c, to));
  QN_TRY(check_buf(c, from));
  if (to->kind != QN_LB_LOCAL || !to->shared) return fail(c, "got a copy to '%s', want a shared local", to->name);
  if (from->kind != QN_LB_PARAM || from->writable)
    return fail(c, "got a copy from '%s', want a parameter that is not stored to", from->name);
  if (to->byte_max > 0) return fail(c, "got a copy to '%s', whose bytes are bounded, want stores", to->name);
  if (c->lane_depth == 0) return fail(c, "got a copy outside of lane loops, want lanes to share it out");
  QN_TRY(check_lanes(c, stmt->u.copy.lanes));
  size_t bytes = (size_t)stmt->u.copy.lanes * qn_lmem_size(stmt->u.copy.mem);
  if (bytes != 4 && bytes != 8 && bytes != 16) return fail(c, "got a copy of %zu bytes, want 4, 8 or 16", bytes);
  QN_TRY(check_index(c, "index", stmt->u.copy.to_index, 1));
  return check_index(c, "index", stmt->u.copy.from_index, 1);
}

// What all lanes have to pass.
static qn_status check_together(const checker *c, const char *what) {
  if (c->lane_depth > 0) return fail(c, "got a %s in a lane loop, want it where all lanes pass", what);
  return QN_OK;
}

static qn_status check_statement(checker *c, const qn_lstmt *stmt) {
  switch (stmt->kind) {
    case QN_LS_FOR: return check_for(c, stmt);
    case QN_LS_STORE: return check_store(c, stmt);
    case QN_LS_LOCAL: return check_local(c, stmt->u.local.buf);
    case QN_LS_PREFETCH:
      QN_TRY(check_buf(c, stmt->u.prefetch.buf));
      return check_index(c, "index", stmt->u.prefetch.index, 1);
    case QN_LS_BARRIER: return check_together(c, "barrier");
    case QN_LS_COPY: return check_copy(c, stmt);
    case QN_LS_COMMIT: return check_together(c, "commit");
    case QN_LS_WAIT:
      if (stmt->u.wait.groups < 0 || stmt->u.wait.groups > QN_LWAIT_MAX)
        return fail(c, "got %d groups, want 0 to %d", stmt->u.wait.groups, QN_LWAIT_MAX);
      return check_together(c, "wait");
    case QN_LS_MMA: return check_mma(c, stmt);
  }
  return QN_OK;
}

static qn_status check_block(checker *c, const qn_lblock *block, const qn_lvar *var) {
  scope inner = {.outer = c->scope, .var = var};
  const qn_lstmt *previous = NULL, *outer_stmt = c->stmt;
  if (++c->depth > QN_LTEXT_MAX_DEPTH) return fail(c, "got blocks of more than %d levels", QN_LTEXT_MAX_DEPTH);
  c->scope = &inner;
  for (const qn_lstmt *stmt = block->first; stmt; previous = stmt, stmt = stmt->next) {
    c->stmt = stmt;
    inner.at = stmt;
    if (stmt->prev != previous) return fail(c, "got a broken link to the statement before");
    QN_TRY(check_statement(c, stmt));
    c->stmt = stmt;
  }
  c->stmt = outer_stmt;
  if (block->last != previous) return fail(c, "got a broken link to a block's last statement");
  c->scope = inner.outer;
  c->depth--;
  return QN_OK;
}

// --- the kernel

// Constants that are not negative, symbols, + and *.
static bool is_size(const qn_lexpr *e, int depth) {
  if (!e || depth > QN_LTEXT_MAX_DEPTH) return false;
  if (e->op == QN_LX_INT) return e->type.kind == QN_LK_INDEX && e->u.int_value >= 0;
  if (e->op == QN_LX_SYM) return true;
  if (e->op != QN_LX_ADD && e->op != QN_LX_MUL) return false;
  return is_size(e->operands[0], depth + 1) && is_size(e->operands[1], depth + 1);
}

static qn_status check_param(checker *c, size_t index) {
  const qn_lbuf *param = c->kernel->params[index];
  QN_TRY(check_name(c, param->name));
  if (param->kind != QN_LB_PARAM || param->param_index != (int)index) {
    return fail(c, "parameter '%s': got number %d, want %zu", param->name, param->param_index, index);
  }
  if (!is_size(param->elements, 1)) {
    return fail(c, "parameter '%s': got a size of other operators, want constants, symbols, + and *", param->name);
  }
  return check_index(c, "size of a parameter", param->elements, 1);
}

qn_status qn_lkernel_verify(const qn_lkernel *kernel, qn_diag *diag) {
  const char *names[NAME_SLOTS] = {NULL};
  checker c = {.kernel = kernel, .names = names, .diag = diag};
  for (const char *letter = kernel->name; *letter || letter == kernel->name; letter++) {
    bool valid = (*letter >= 'a' && *letter <= 'z') || (*letter >= 'A' && *letter <= 'Z') || *letter == '_' ||
                 (*letter >= '0' && *letter <= '9');
    if (!valid) return fail(&c, "got a name of other characters, want letters, digits and '_'");
  }
  for (size_t i = 0; i < kernel->param_count; i++) QN_TRY(check_param(&c, i));
  return check_block(&c, &kernel->body, NULL);
}
