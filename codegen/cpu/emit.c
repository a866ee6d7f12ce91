// Loop IR kernels → functions of an MLIR module: signatures, statements, memory. Memory is llvm pointers rather than
// memref: a kernel views one buffer as several element types, and there are no descriptors to carry.
#include "codegen/cpu/emit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mlir-c/BuiltinAttributes.h"
#include "mlir-c/BuiltinTypes.h"
#include "mlir-c/Dialect/LLVM.h"

// What lies in memory for an element: 16-bit floats are loaded as their bits and converted by emit_float.c.
MlirType qn_emit_memory_type(const qn_emit *e, qn_lmem mem) {
  switch (mem) {
    case QN_LM_F32: return e->m.f32;
    case QN_LM_F16:
    case QN_LM_BF16: return e->m.i16;
    case QN_LM_I32: return e->m.i32;
    case QN_LM_I8:
    case QN_LM_U8: return e->m.i8;
    case QN_LM_COUNT: break;
  }
  abort();
}

static MlirValue widen(qn_emit *e, qn_lmem mem, MlirValue v) {
  switch (mem) {
    case QN_LM_F16: return qn_emit_f16_to_f32(e, v);
    case QN_LM_BF16: return qn_emit_bf16_to_f32(e, v);
    case QN_LM_I8: return qn_mlir_unary(&e->m, "arith.extsi", v, qn_mlir_like(&e->m, e->m.i32, v));
    case QN_LM_U8: return qn_mlir_unary(&e->m, "arith.extui", v, qn_mlir_like(&e->m, e->m.i32, v));
    default: return v;
  }
}

static MlirValue narrow(qn_emit *e, qn_lmem mem, MlirValue v) {
  switch (mem) {
    case QN_LM_F16: return qn_emit_f32_to_f16(e, v);
    case QN_LM_BF16: return qn_emit_f32_to_bf16(e, v);
    case QN_LM_I8:
    case QN_LM_U8: return qn_mlir_unary(&e->m, "arith.trunci", v, qn_mlir_like(&e->m, e->m.i8, v));
    default: return v;
  }
}

static MlirValue buffer_base(qn_emit *e, const qn_lbuf *buf) {
  MlirValue base = {NULL};
  if (!qn_value_map_get(&e->bindings, buf, &base)) abort();  // the verifier checks scopes
  return base;
}

// A buffer that streams weights is read-only and never shares memory with an output.
static bool is_invariant(const qn_lbuf *buf) { return buf->kind == QN_LB_PARAM && buf->streamed && !buf->writable; }

MlirValue qn_emit_load(qn_emit *e, const qn_lexpr *load) {
  qn_mlir *m = &e->m;
  qn_lmem mem = load->u.load.mem;
  MlirType element = qn_emit_memory_type(e, mem);
  MlirValue base = buffer_base(e, load->u.load.buf), index = qn_emit_expr(e, load->operands[0]);
  int lanes = load->type.lanes, size = (int)qn_lmem_size(mem), index_lanes = load->operands[0]->type.lanes;
  bool invariant = is_invariant(load->u.load.buf);
  if (index_lanes == 1) {
    MlirValue address = qn_mlir_address(m, base, element, index);
    return widen(e, mem, qn_mlir_load(m, address, qn_mlir_vector(m, element, lanes), size, invariant));
  }
  MlirType type = qn_mlir_vector(m, element, lanes);
  MlirValue gathered = mem == QN_LM_F32 ? qn_mlir_float(m, type, 0.0) : qn_mlir_int(m, type, 0);
  for (int lane = 0; lane < lanes; lane++) {
    MlirValue address = qn_mlir_address(m, base, element, qn_mlir_extract(m, index, lane));
    gathered = qn_mlir_insert(m, gathered, lane, qn_mlir_load(m, address, element, size, invariant));
  }
  return widen(e, mem, gathered);
}

static void emit_store(qn_emit *e, const qn_lstmt *stmt) {
  qn_mlir *m = &e->m;
  qn_lmem mem = stmt->u.store.mem;
  MlirType element = qn_emit_memory_type(e, mem);
  MlirValue base = buffer_base(e, stmt->u.store.buf);
  int size = (int)qn_lmem_size(mem), index_lanes = stmt->u.store.index->type.lanes;
  bool is_vector = stmt->u.store.value->type.lanes > 1;
  MlirValue value = narrow(e, mem, qn_emit_wide(e, stmt->u.store.value, index_lanes == 1 ? stmt->u.store.lanes : 1));
  MlirValue index = qn_emit_expr(e, stmt->u.store.index);
  if (index_lanes == 1) {
    qn_mlir_store(m, value, qn_mlir_address(m, base, element, index), size);
    return;
  }
  for (int lane = 0; lane < index_lanes; lane++) {
    MlirValue address = qn_mlir_address(m, base, element, qn_mlir_extract(m, index, lane));
    qn_mlir_store(m, is_vector ? qn_mlir_extract(m, value, lane) : value, address, size);
  }
}

static void emit_prefetch(qn_emit *e, const qn_lstmt *stmt) {
  int locality = stmt->u.prefetch.far ? 2 : 3;  // as LLVM counts: for the second cache, for the first
  qn_mlir *m = &e->m;
  MlirValue base = buffer_base(e, stmt->u.prefetch.buf), index = qn_emit_expr(e, stmt->u.prefetch.index);
  MlirValue address = qn_mlir_address(m, base, qn_emit_memory_type(e, stmt->u.prefetch.mem), index);
  qn_mlir_append(m, "llvm.intr.prefetch",
                 &(qn_mlir_op){.operands = {address},
                               .operand_count = 1,
                               .attrs = {{"rw", qn_mlir_i32_attr(m, 0)},
                                         {"hint", qn_mlir_i32_attr(m, locality)},
                                         {"cache", qn_mlir_i32_attr(m, 1)}},
                               .attr_count = 3});
}

static qn_status emit_block(qn_emit *e, const qn_lblock *block);

// `for` → scf.for over i64. The parallel loop runs over what of [begin, end) is inside its bounds.
static qn_status emit_for(qn_emit *e, const qn_lstmt *stmt) {
  qn_mlir *m = &e->m;
  MlirValue lo = qn_emit_expr(e, stmt->u.loop.lo), hi = qn_emit_expr(e, stmt->u.loop.hi);
  if (stmt->u.loop.mark == QN_LM_PARALLEL) {
    lo = qn_mlir_select(m, qn_mlir_cmpi(m, QN_MLIR_SLT, lo, e->begin), e->begin, lo);
    hi = qn_mlir_select(m, qn_mlir_cmpi(m, QN_MLIR_SLT, e->end, hi), e->end, hi);
  }
  MlirValue step = qn_mlir_int(m, m->i64, 1);
  MlirRegion region = mlirRegionCreate();
  MlirBlock body = mlirBlockCreate(1, &m->i64, &m->location), outer = m->block;
  mlirRegionAppendOwnedBlock(region, body);
  MlirValue var = mlirBlockGetArgument(body, 0);
  if (!qn_value_map_put(&e->bindings, stmt->u.loop.var, var)) e->out_of_memory = true;
  m->block = body;
  qn_emit_crowded(e, stmt, true);
  qn_status status = emit_block(e, &stmt->u.loop.body);
  qn_emit_crowded(e, stmt, false);
  qn_mlir_append(m, "scf.yield", &(qn_mlir_op){.operand_count = 0});
  m->block = outer;
  qn_mlir_append(m, "scf.for", &(qn_mlir_op){.operands = {lo, hi, step}, .operand_count = 3, .region = region});
  return status;
}

static qn_status refuse_copy(const qn_emit *e) {
  return qn_fail(e->diag, QN_ERR_INTERNAL, e->kernel->name,
                 "got copies to shared memory, which GPU passes make, want a kernel for the CPU");
}

static qn_status emit_block(qn_emit *e, const qn_lblock *block) {
  for (const qn_lstmt *stmt = block->first; stmt && !e->m.failed && !e->out_of_memory; stmt = stmt->next) {
    qn_value_map_clear(&e->memo);
    switch (stmt->kind) {
      case QN_LS_FOR: QN_TRY(emit_for(e, stmt)); break;
      case QN_LS_STORE: emit_store(e, stmt); break;
      case QN_LS_LOCAL: QN_TRY(qn_emit_local(e, stmt)); break;
      case QN_LS_PREFETCH: emit_prefetch(e, stmt); break;
      case QN_LS_BARRIER: break;  // a thread has an iteration to itself
      case QN_LS_COPY:
      case QN_LS_COMMIT:
      case QN_LS_WAIT: return refuse_copy(e);
      case QN_LS_MMA:
        return qn_fail(e->diag, QN_ERR_ARGUMENT, e->kernel->name,
                       "got an mma, which only GPUs have; want a kernel that the loop passes for CPUs made");
    }
  }
  return QN_OK;
}

// Loads every buffer's address and every symbol; LLVM drops what is not used.
static void emit_entry(qn_emit *e, MlirBlock entry) {
  qn_mlir *m = &e->m;
  MlirValue buffers = mlirBlockGetArgument(entry, 0), symbols = mlirBlockGetArgument(entry, 1);
  for (size_t i = 0; i < e->kernel->param_count; i++) {
    MlirValue slot = qn_mlir_address(m, buffers, m->ptr, qn_mlir_int(m, m->i64, (int64_t)i));
    MlirValue base = qn_mlir_load(m, slot, m->ptr, sizeof(void *), true);
    if (!qn_value_map_put(&e->bindings, e->kernel->params[i], base)) e->out_of_memory = true;
  }
  for (int s = QN_SYM_NONE + 1; s < QN_SYM_COUNT; s++) {
    MlirValue slot = qn_mlir_address(m, symbols, m->i64, qn_mlir_int(m, m->i64, s));
    e->symbols[s] = qn_mlir_load(m, slot, m->i64, sizeof(int64_t), true);
  }
  e->begin = mlirBlockGetArgument(entry, 2);
  e->end = mlirBlockGetArgument(entry, 3);
}

// Function attributes as ["name", "value"] pairs or single names.
static MlirAttribute passthrough(const qn_emit *e) {
  const qn_mlir *m = &e->m;
  char width[16];
  snprintf(width, sizeof width, "%d", e->target->vector_bytes * 8);
  MlirAttribute prefer[2] = {qn_mlir_string_attr(m, "prefer-vector-width"), qn_mlir_string_attr(m, width)};
  MlirAttribute legal[2] = {qn_mlir_string_attr(m, "min-legal-vector-width"), qn_mlir_string_attr(m, width)};
  MlirAttribute all[] = {
      qn_mlir_string_attr(m, "nounwind"),
      mlirArrayAttrGet(m->context, 2, prefer),
      mlirArrayAttrGet(m->context, 2, legal),
      mlirArrayAttrGet(m->context, 2,
                       (MlirAttribute[]){qn_mlir_string_attr(m, "no-builtins"), qn_mlir_string_attr(m, "true")}),
  };
  return mlirArrayAttrGet(m->context, (intptr_t)QN_COUNT(all), all);
}

static qn_status emit_function(qn_emit *e, MlirBlock module_body, const char *symbol) {
  qn_mlir *m = &e->m;
  MlirType arguments[4] = {m->ptr, m->ptr, m->i64, m->i64};
  MlirLocation locations[4] = {m->location, m->location, m->location, m->location};
  MlirType type = mlirLLVMFunctionTypeGet(mlirLLVMVoidTypeGet(m->context), 4, arguments, false);
  MlirRegion region = mlirRegionCreate();
  MlirBlock entry = mlirBlockCreate(4, arguments, locations);
  mlirRegionAppendOwnedBlock(region, entry);
  m->block = entry;
  emit_entry(e, entry);
  e->entry_last = mlirOpResultGetOwner(e->symbols[QN_SYM_COUNT - 1]);
  qn_status status = emit_block(e, &e->kernel->body);
  qn_mlir_append(m, "llvm.return", &(qn_mlir_op){.operand_count = 0});
  m->block = module_body;
  qn_mlir_append(m, "llvm.func",
                 &(qn_mlir_op){.region = region,
                               .attrs = {{"sym_name", qn_mlir_string_attr(m, symbol)},
                                         {"function_type", mlirTypeAttrGet(type)},
                                         {"passthrough", passthrough(e)}},
                               .attr_count = 3});
  return status;
}

bool qn_features_have(const char *list, qn_str name) {
  for (const char *at = list; *at;) {
    qn_str word = {at, strcspn(at, ",")};
    if (qn_str_equal(word, name)) return true;
    at += word.length + (at[word.length] == ',');
  }
  return false;
}

static bool lists(const char *list, const char *name) { return qn_features_have(list, qn_str_from(name)); }

static qn_cpu_features features_of(const qn_target *target) {
  bool arm = target->arch == QN_ARCH_AARCH64, riscv = target->arch == QN_ARCH_RISCV64;
  return (qn_cpu_features){
      .f16_convert = arm || lists(target->required, "f16c"),
      .fma = arm || riscv || lists(target->required, "fma"),
      .dotprod = lists(target->required, "dotprod"),
      .i8mm = lists(target->required, "i8mm"),
  };
}

qn_status qn_emit_kernels(MlirContext context, MlirModule module, const qn_target *target,
                          const qn_lkernel *const *kernels, const char *const *names, size_t count,
                          const qn_allocator *allocator, qn_diag *diag) {
  qn_emit e = {.target = target, .has = features_of(target), .diag = diag};
  qn_mlir_init(&e.m, context);
  qn_value_map_init(&e.bindings, allocator);
  qn_value_map_init(&e.homes, allocator);
  qn_value_map_init(&e.memo, allocator);
  qn_status status = QN_OK;
  for (size_t i = 0; i < count && status == QN_OK; i++) {
    qn_value_map_clear(&e.bindings);
    qn_value_map_clear(&e.homes);
    e.kernel = kernels[i];
    e.local_bytes = 0;
    status = emit_function(&e, mlirModuleGetBody(module), names[i]);
    if (status == QN_OK && e.out_of_memory) status = qn_fail_nomem(diag, kernels[i]->name, "emission");
    if (status == QN_OK && e.m.failed)
      status = qn_fail(diag, QN_ERR_INTERNAL, kernels[i]->name, "an MLIR operation could not be made");
  }
  qn_value_map_deinit(&e.bindings);
  qn_value_map_deinit(&e.homes);
  qn_value_map_deinit(&e.memo);
  return status;
}
