// Locals: where a kernel's own values lie. LLVM makes registers of those whose indices are constant; sums for which
// there are none left stay in memory, which is better said beforehand than found out by its register allocator.
#include <stdlib.h>

#include "codegen/cpu/emit.h"
#include "mlir-c/BuiltinAttributes.h"
#include "mlir-c/Dialect/LLVM.h"

enum {
  LOCAL_ALIGNMENT = 64,
  MAX_LOCAL_BYTES = 1 << 22,  // of a kernel: threads have stacks of 8 MiB
  MAX_LOADED = 16,            // locals that are looked at in a loop
  WORKING_REGISTERS = 4,      // beside the sums: of a panel's codes, a factor, a product
};

static int64_t bytes_of(const qn_lbuf *buf) {
  int64_t elements;
  if (!qn_lexpr_is_int(buf->elements, &elements)) abort();  // the verifier wants constants
  return elements <= MAX_LOCAL_BYTES ? elements * (int64_t)qn_lmem_size(buf->mem) : MAX_LOCAL_BYTES;
}

// Bytes of the largest integer sums that are declared in the block.
static int64_t largest_sums(const qn_lblock *block) {
  int64_t most = 0;
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    int64_t bytes = s->kind == QN_LS_FOR ? largest_sums(&s->u.loop.body) : 0;
    if (s->kind == QN_LS_LOCAL && s->u.local.buf->mem == QN_LM_I32) bytes = bytes_of(s->u.local.buf);
    most = bytes > most ? bytes : most;
  }
  return most;
}

static bool declares(const qn_lblock *block, const qn_lbuf *buf) {
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    if (s->kind == QN_LS_LOCAL && s->u.local.buf == buf) return true;
    if (s->kind == QN_LS_FOR && declares(&s->u.loop.body, buf)) return true;
  }
  return false;
}

// The address as something of which LLVM knows nothing, in each iteration anew.
static MlirValue opaque(qn_mlir *m, MlirValue address) {
  return qn_mlir_append(m, "llvm.inline_asm",
                        &(qn_mlir_op){.operands = {address},
                                      .operand_count = 1,
                                      .result = m->ptr,
                                      .attrs = {{"asm_string", qn_mlir_string_attr(m, "")},
                                                {"constraints", qn_mlir_string_attr(m, "=r,0")},
                                                {"has_side_effects", mlirUnitAttrGet(m->context)}},
                                      .attr_count = 3});
}

// Does the local, to which the loop's body stores, find no registers beside the integer sums that are declared there?
static bool is_crowded_out(const qn_emit *e, const qn_lbuf *buf, const qn_lblock *body, int64_t sums) {
  int64_t vector = e->target->vector_bytes;
  if (buf->kind != QN_LB_LOCAL || buf->mem != QN_LM_F32 || declares(body, buf) || bytes_of(buf) < vector) return false;
  return (bytes_of(buf) + sums) / vector + WORKING_REGISTERS > e->target->vector_registers;
}

// The locals that a block's expressions load.
typedef struct loaded {
  qn_emit *e;
  const qn_lblock *body;
  int64_t sums;
  const qn_lbuf *buf[MAX_LOADED];
  int count;
} loaded;

static void add_loaded(loaded *all, const qn_lexpr *x) {
  const qn_lbuf *buf = x->op == QN_LX_LOAD ? x->u.load.buf : NULL;
  for (size_t i = 0; i < QN_COUNT(x->operands) && x->operands[i]; i++) add_loaded(all, x->operands[i]);
  if (!buf || buf->kind != QN_LB_LOCAL || declares(all->body, buf)) return;
  for (int i = 0; i < all->count; i++)
    if (all->buf[i] == buf) return;
  int64_t vector = all->e->target->vector_bytes, vectors = (bytes_of(buf) + all->sums) / vector;
  bool crowded = bytes_of(buf) >= vector && vectors + WORKING_REGISTERS > all->e->target->vector_registers;
  if (crowded && all->count < MAX_LOADED) all->buf[all->count++] = buf;
}

static void list_loaded(loaded *all, const qn_lblock *block) {
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    if (s->kind == QN_LS_STORE) add_loaded(all, s->u.store.value);
    if (s->kind == QN_LS_FOR) list_loaded(all, &s->u.loop.body);
  }
}

// In a loop over tiles of tokens that share a block of weights (m): what was made of the block in front of it.
static void crowd_held(qn_emit *e, const qn_lstmt *loop, bool inside) {
  loaded all = {.e = e, .body = &loop->u.loop.body, .sums = largest_sums(&loop->u.loop.body)};
  if (all.sums >= e->target->vector_bytes) list_loaded(&all, &loop->u.loop.body);
  for (int i = 0; i < all.count; i++) {
    MlirValue home = {NULL};
    if (!qn_value_map_get(&e->homes, all.buf[i], &home)) abort();  // the verifier checks scopes
    if (!qn_value_map_put(&e->bindings, all.buf[i], inside ? opaque(&e->m, home) : home)) e->out_of_memory = true;
  }
}

void qn_emit_crowded(qn_emit *e, const qn_lstmt *loop, bool inside) {
  const qn_lblock *body = &loop->u.loop.body;
  if (qn_str_is(qn_lvar_base(loop->u.loop.var), "m")) crowd_held(e, loop, inside);
  int64_t sums = loop->u.loop.order == QN_LO_REDUCE ? largest_sums(body) : 0;
  const qn_lbuf *last = NULL;
  for (const qn_lstmt *s = body->first; sums >= e->target->vector_bytes && s; s = s->next) {
    const qn_lbuf *buf = s->kind == QN_LS_STORE ? s->u.store.buf : NULL;
    if (!buf || buf == last || !is_crowded_out(e, buf, body, sums)) continue;
    last = buf;
    MlirValue home = {NULL};
    if (!qn_value_map_get(&e->homes, buf, &home)) abort();  // the verifier checks scopes
    if (!qn_value_map_put(&e->bindings, buf, inside ? opaque(&e->m, home) : home)) e->out_of_memory = true;
  }
}

// Allocated once, at the function's entry: one address per declaration, sizes constant.
qn_status qn_emit_local(qn_emit *e, const qn_lstmt *stmt) {
  qn_mlir *m = &e->m;
  const qn_lbuf *buf = stmt->u.local.buf;
  int64_t elements;
  if (!qn_lexpr_is_int(buf->elements, &elements)) abort();
  size_t bytes;
  if (elements <= 0 || !qn_size_mul((size_t)elements, qn_lmem_size(buf->mem), &bytes) ||
      !qn_size_add(e->local_bytes, bytes, &e->local_bytes) || e->local_bytes > MAX_LOCAL_BYTES)
    return qn_fail(e->diag, QN_ERR_UNSUPPORTED, e->kernel->name,
                   "got a local '%s' of %lld elements of %s, want at most %d bytes of locals in a kernel", buf->name,
                   (long long)elements, qn_lmem_name(buf->mem), MAX_LOCAL_BYTES);
  MlirType array = mlirLLVMArrayTypeGet(qn_emit_memory_type(e, buf->mem), (unsigned)elements);
  MlirBlock current = m->block;
  m->block = mlirBlockCreate(0, NULL, NULL);  // a place to make it, from where it moves to the entry
  MlirValue one = qn_mlir_int(m, m->i64, 1);
  MlirValue base = qn_mlir_append(m, "llvm.alloca",
                                  &(qn_mlir_op){.operands = {one},
                                                .operand_count = 1,
                                                .result = m->ptr,
                                                .attrs = {{"elem_type", mlirTypeAttrGet(array)},
                                                          {"alignment", qn_mlir_i64_attr(m, LOCAL_ALIGNMENT)}},
                                                .attr_count = 2});
  if (!m->failed) {
    mlirOperationMoveBefore(mlirOpResultGetOwner(one), e->entry_last);
    mlirOperationMoveBefore(mlirOpResultGetOwner(base), e->entry_last);
    if (!qn_value_map_put(&e->bindings, buf, base) || !qn_value_map_put(&e->homes, buf, base)) e->out_of_memory = true;
  }
  mlirBlockDestroy(m->block);
  m->block = current;
  return QN_OK;
}
