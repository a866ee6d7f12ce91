// share_lanes: locals around lane loops that lanes exchange values through become shared, and barriers keep a lane from
// reading what another has not stored yet, or overwriting what another has still to read.
//
// requires: lane loops; run last, when indices are as constant as they get.
// keeps: every result: barriers and the word `shared` mean nothing where one thread does it all.
// breaks: nothing.
//
// A local of which each lane has elements of its own stays so. Another one declared outside of lane loops stays each lane's own where all its indices are constants and no lane loop
// stores to it: all lanes compute the same then. Any other is shared. Parameters may share memory, so all that are not
// streamed count as one buffer.
//
// Barriers: the statements outside of lane loops are walked in order with what has been read and stored since the last
// one, by one lane or by all. A loop begins with all that its body does, which covers its next iteration; the parallel
// loop does not, since a group does one iteration of it. A copy stores when it is waited for, since nobody may touch
// its bytes between (qn_lstmt); but it must not begin before others have read what was there, or stored.
#include "passes/gpu_pass.h"
#include "passes/loop_util.h"
#include "runtime/base/vec.h"

// ---- what is shared ---------------------------------------------------------------------------------------------

enum { MAX_OWN_ELEMENTS = 64 };  // of a local that each lane has in registers

static bool is_variable_access(const qn_lexpr *e, const void *context) {
  int64_t known = 0;
  return e->op == QN_LX_LOAD && e->u.load.buf == context && !qn_lexpr_is_int(e->operands[0], &known);
}

// Is the buffer stored to in a lane loop, or anywhere at an index that varies?
static bool is_stored_apart(const qn_lblock *block, const qn_lbuf *buf, bool in_lanes) {
  int64_t known = 0;
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    if (s->kind == QN_LS_STORE && s->u.store.buf == buf && (in_lanes || !qn_lexpr_is_int(s->u.store.index, &known))) {
      return true;
    }
    if (s->kind == QN_LS_COPY && s->u.copy.to == buf) return true;
    if (s->kind == QN_LS_FOR && is_stored_apart(&s->u.loop.body, buf, in_lanes || s->u.loop.mark == QN_LM_LANE)) {
      return true;
    }
  }
  return false;
}

void qn_share_locals(qn_lblock *block) {
  for (qn_lstmt *s = block->first; s; s = s->next) {
    if (s->kind == QN_LS_FOR && s->u.loop.mark != QN_LM_LANE) qn_share_locals(&s->u.loop.body);
    if (s->kind != QN_LS_LOCAL || s->u.local.buf->spread) continue;
    qn_lbuf *buf = s->u.local.buf;
    int64_t elements = 0;
    if (buf->each > 0) continue;
    bool large = !qn_lexpr_is_int(buf->elements, &elements) || elements > MAX_OWN_ELEMENTS;
    buf->shared = large || is_stored_apart(block, buf, false) || qn_lblock_any(block, is_variable_access, buf);
  }
}

// ---- barriers ---------------------------------------------------------------------------------------------------

// What lanes have in common, by number: 0 is the memory of parameters, then come shared locals.
typedef struct access {
  bool read[2], stored[2];  // by one lane (a store outside of lane loops), by all
  bool begun;               // copies to it, by all
} access;
enum { BY_ONE, BY_ALL };

typedef struct barriers {
  qn_lbuild *b;
  QN_VEC(const qn_lbuf *) locals;  // arena; number - 1
  size_t count;                    // locals.count + 1
} barriers;

static void find_shared(barriers *s, const qn_lblock *block) {
  for (const qn_lstmt *stmt = block->first; stmt; stmt = stmt->next) {
    if (stmt->kind == QN_LS_FOR) find_shared(s, &stmt->u.loop.body);
    if (stmt->kind != QN_LS_LOCAL || !stmt->u.local.buf->shared) continue;
    const qn_lbuf *buf = stmt->u.local.buf;
    if (!qn_vec_push_arena(s->b->arena, &s->locals, buf)) s->b->failed = true;
  }
}

// -1: nothing that lanes have in common.
static int number_of(const barriers *s, const qn_lbuf *buf) {
  if (buf->kind == QN_LB_PARAM) return buf->streamed && !buf->writable ? -1 : 0;
  for (size_t i = 0; i < s->locals.count; i++) {
    if (s->locals.items[i] == buf) return (int)i + 1;
  }
  return -1;
}

static void add_loads(const barriers *s, const qn_lexpr *e, int by, access *out) {
  if (e->op == QN_LX_LOAD && number_of(s, e->u.load.buf) >= 0) out[number_of(s, e->u.load.buf)].read[by] = true;
  for (size_t i = 0; i < QN_COUNT(e->operands) && e->operands[i]; i++) add_loads(s, e->operands[i], by, out);
}

static void add_block(const barriers *s, const qn_lblock *block, bool in_lanes, access *out);

// What the statement reads and stores; of a loop, its bounds alone when `head` is set.
static void add_statement(const barriers *s, const qn_lstmt *stmt, bool head, bool in_lanes, access *out) {
  if (stmt->kind == QN_LS_FOR) {
    add_loads(s, stmt->u.loop.lo, BY_ALL, out);
    add_loads(s, stmt->u.loop.hi, BY_ALL, out);
    if (!head) add_block(s, &stmt->u.loop.body, in_lanes || stmt->u.loop.mark == QN_LM_LANE, out);
  } else if (stmt->kind == QN_LS_STORE) {
    int number = number_of(s, stmt->u.store.buf), by = number >= 0 && !in_lanes ? BY_ONE : BY_ALL;
    add_loads(s, stmt->u.store.index, by, out);
    add_loads(s, stmt->u.store.value, by, out);
    if (number >= 0) out[number].stored[by] = true;
  } else if (stmt->kind == QN_LS_COPY) {
    int to = number_of(s, stmt->u.copy.to), from = number_of(s, stmt->u.copy.from);
    add_loads(s, stmt->u.copy.to_index, BY_ALL, out);
    add_loads(s, stmt->u.copy.from_index, BY_ALL, out);
    if (to >= 0) out[to].begun = true;
    if (from >= 0) out[from].read[BY_ALL] = true;
  }
}

static void add_block(const barriers *s, const qn_lblock *block, bool in_lanes, access *out) {
  for (const qn_lstmt *stmt = block->first; stmt; stmt = stmt->next) add_statement(s, stmt, false, in_lanes, out);
}

static access *no_accesses(barriers *s) {
  access *accesses = QN_ARENA_ARRAY(s->b->arena, s->count, access);
  if (!accesses) s->b->failed = true;
  return accesses;
}

static bool conflict(const barriers *s, const access *before, const access *now) {
  for (size_t i = 0; i < s->count; i++) {
    for (int pair = 0; pair < 4; pair++) {
      int by = pair / 2, then = pair % 2;
      if (by == BY_ONE && then == BY_ONE) continue;  // one lane, in order
      bool stored = before[i].stored[by], stores = now[i].stored[then] || now[i].begun;
      if ((stored && (now[i].read[then] || stores)) || (before[i].read[by] && stores)) return true;
    }
  }
  return false;
}

static void merge(const barriers *s, access *into, const access *from) {
  for (size_t i = 0; i < s->count; i++) {
    for (int by = BY_ONE; by <= BY_ALL; by++) {
      into[i].read[by] = into[i].read[by] || from[i].read[by];
      into[i].stored[by] = into[i].stored[by] || from[i].stored[by];
    }
    into[i].begun = into[i].begun || from[i].begun;
  }
}

static void put_barrier(barriers *s, qn_lblock *block, qn_lstmt *before, access *pending) {
  qn_lblock alone = {0};
  if (!qn_lbarrier(s->b, &alone)) return;
  qn_lblock_splice(&alone, block, before);
  for (size_t i = 0; i < s->count; i++) pending[i] = (access){.begun = pending[i].begun};
}

// What copies have begun to store may be there now.
static void end_copies(const barriers *s, access *pending) {
  for (size_t i = 0; i < s->count; i++) {
    if (pending[i].begun) pending[i].stored[BY_ALL] = true;
  }
}

static void walk_block(barriers *s, qn_lblock *block, access *pending);

// A loop that all lanes walk. One barrier in front of it serves what came before; inside, what its iterations do to
// each other is left.
static void walk_loop(barriers *s, qn_lstmt *loop, access *pending) {
  access *inside = no_accesses(s);
  if (!inside) return;
  merge(s, inside, pending);
  if (loop->u.loop.mark != QN_LM_PARALLEL) add_block(s, &loop->u.loop.body, false, inside);
  walk_block(s, &loop->u.loop.body, inside);
  merge(s, pending, inside);
}

// `pending`: what has been done since the last barrier.
static void walk_block(barriers *s, qn_lblock *block, access *pending) {
  for (qn_lstmt *stmt = block->first; stmt && !s->b->failed; stmt = stmt->next) {
    bool is_loop = stmt->kind == QN_LS_FOR && stmt->u.loop.mark != QN_LM_LANE;
    access *now = no_accesses(s);
    if (!now) return;
    add_statement(s, stmt, is_loop && stmt->u.loop.mark == QN_LM_PARALLEL, false, now);
    if (conflict(s, pending, now)) put_barrier(s, block, stmt, pending);
    if (stmt->kind == QN_LS_WAIT) end_copies(s, pending);
    if (is_loop) {
      walk_loop(s, stmt, pending);
    } else {
      merge(s, pending, now);
    }
  }
}

qn_status qn_pass_share_lanes(qn_loop_pass_context *context) {
  barriers s = {.b = context->build};
  qn_lblock *body = &context->build->kernel->body;
  if (context->build->failed) return qn_loop_pass_end(context, "share_lanes");
  qn_share_locals(body);
  find_shared(&s, body);
  s.count = s.locals.count + 1;
  access *pending = no_accesses(&s);
  if (!s.b->failed) walk_block(&s, body, pending);
  return qn_loop_pass_end(context, "share_lanes");
}
