// Loop IR kernels → CUDA C++: signatures, statements, memory.
#include "codegen/cuda/emit.h"

#include <inttypes.h>
#include <string.h>

#include "codegen/cuda/emit_internal.h"

enum {
  SHARED_ALIGNMENT = 16,  // bytes: a 128-bit access
  BANKS_BYTES = 128       // that shared memory gives at a time
};

const char *qn_cuda_memory_type(qn_lmem mem) {
  static const char *const types[QN_LM_COUNT] = {
      [QN_LM_F32] = "float", [QN_LM_F16] = "unsigned short", [QN_LM_BF16] = "unsigned short",
      [QN_LM_I32] = "int",   [QN_LM_I8] = "signed char",     [QN_LM_U8] = "unsigned char"};
  return types[mem];
}

// ---- names and lines --------------------------------------------------------------------------------------------

// Keys of `names` are addresses, which must stay where they are.
static int number_of(qn_cuda_writer *w, const void *address) {
  uint64_t number = 0;
  if (qn_map_get(&w->names, (qn_str){(const char *)&address, sizeof address}, &number)) return (int)number;
  const void **key = QN_ARENA_NEW(&w->arena, const void *);
  if (key) *key = address;
  if (!key || !qn_map_put(&w->names, (qn_str){(const char *)key, sizeof *key}, (uint64_t)w->name_count))
    w->failed = true;
  return w->name_count++;
}

void qn_cuda_put_name(qn_cuda_writer *w, const char *name, const void *address) {
  qn_str base = qn_lname_base(name);
  qn_buf_printf(w->out, "%.*s_%d", QN_STR_ARGS(base), number_of(w, address));
}

void qn_cuda_indent(qn_cuda_writer *w) {
  for (int i = 0; i < w->depth; i++) qn_buf_puts(w->out, "  ");
}

static void open_block(qn_cuda_writer *w) {
  qn_buf_puts(w->out, "{\n");
  w->depth++;
}

static void close_block(qn_cuda_writer *w) {
  w->depth--;
  qn_cuda_indent(w);
  qn_buf_puts(w->out, "}\n");
}

// ---- statements -------------------------------------------------------------------------------------------------

static void put_block(qn_cuda_writer *w, const qn_lblock *block);

// Narrowing as the memory wants it; i8 and u8 by truncation.
static void put_narrowed(qn_cuda_writer *w, qn_lmem mem, const qn_lexpr *value, int lane) {
  static const char *const narrow[QN_LM_COUNT] = {
      [QN_LM_F32] = "", [QN_LM_F16] = "qn_to_f16(",    [QN_LM_BF16] = "qn_to_bf16(",
      [QN_LM_I32] = "", [QN_LM_I8] = "(signed char)(", [QN_LM_U8] = "(unsigned char)("};
  qn_buf_puts(w->out, narrow[mem]);
  qn_cuda_put_expr(w, value, lane);
  if (narrow[mem][0]) qn_buf_putc(w->out, ')');
}

// Outside of lane loops one lane stores to what all of them see.
static bool is_one_lanes(const qn_cuda_writer *w, const qn_lbuf *buf) {
  return w->schedule.lanes > 1 && !w->in_lanes && (buf->kind == QN_LB_PARAM || buf->shared);
}

static void put_store(qn_cuda_writer *w, const qn_lstmt *stmt) {
  const qn_lexpr *index = stmt->u.store.index, *value = stmt->u.store.value;
  qn_lmem mem = stmt->u.store.mem;
  const qn_lbuf *buf = stmt->u.store.buf;
  int lanes = stmt->u.store.lanes, first_value = w->value_count;
  bool guarded = is_one_lanes(w, buf);
  if (guarded) {
    qn_cuda_indent(w);
    qn_buf_puts(w->out, "if (lane == 0) ");
    open_block(w);
    first_value = w->value_count;
  }
  qn_cuda_begin_statement(w, (const qn_lexpr *const[]){index, value}, 2);
  if (lanes > 1) {  // all lanes are computed before one is stored
    first_value = w->value_count;
    w->value_count += lanes;
    for (int lane = 0; lane < lanes; lane++) {
      qn_cuda_indent(w);
      qn_buf_printf(w->out, "const %s v%d = ", qn_cuda_memory_type(mem), first_value + lane);
      put_narrowed(w, mem, value, lane);
      qn_buf_puts(w->out, ";\n");
    }
  }
  for (int lane = 0; lane < lanes; lane++) {
    qn_cuda_indent(w);
    qn_cuda_put_place(w, buf, mem, index, lane);
    qn_buf_puts(w->out, " = ");
    if (lanes > 1) {
      qn_buf_printf(w->out, "v%d", first_value + lane);
    } else {
      put_narrowed(w, mem, value, 0);
    }
    qn_buf_puts(w->out, ";\n");
  }
  if (guarded) close_block(w);
}

static void put_prefetch(qn_cuda_writer *w, const qn_lstmt *stmt) {
  qn_cuda_begin_statement(w, &stmt->u.prefetch.index, 1);
  qn_cuda_indent(w);
  qn_buf_puts(w->out, "asm volatile(\"prefetch.global.L2 [%0];\" ::\"l\"(&");
  qn_cuda_put_place(w, stmt->u.prefetch.buf, stmt->u.prefetch.mem, stmt->u.prefetch.index, 0);
  qn_buf_puts(w->out, "));\n");
}

static void put_barrier(qn_cuda_writer *w) {
  int lanes = w->schedule.lanes;
  if (lanes == 1) return;
  qn_cuda_indent(w);
  if (lanes > QN_GPU_WARP) {
    qn_buf_puts(w->out, "__syncthreads();\n");
  } else if (lanes == QN_GPU_WARP) {
    qn_buf_puts(w->out, "__syncwarp();\n");
  } else {
    qn_buf_printf(w->out, "__syncwarp(0x%xu << (threadIdx.x %% 32 / %d * %d));\n", (1u << lanes) - 1, lanes, lanes);
  }
}

static void put_local(qn_cuda_writer *w, const qn_lbuf *buf) {
  int64_t elements = 0;
  qn_lexpr_is_int(buf->elements, &elements);  // the verifier wants a number
  const char *type = qn_cuda_memory_type(buf->mem);
  qn_cuda_indent(w);
  if (buf->spread) elements = qn_cuda_lane_elements(w, buf);
  if (!buf->shared) {
    if (qn_lmem_size(buf->mem) < sizeof(int32_t)) qn_buf_puts(w->out, "alignas(4) ");  // viewed as wider elements
    qn_buf_printf(w->out, "%s ", type);
    qn_cuda_put_name(w, buf->name, buf);
    qn_buf_printf(w->out, "[%" PRId64 "];\n", buf->each > 0 ? buf->each : elements);
    return;
  }
  qn_buf_printf(w->out, "%s *const ", type);
  qn_cuda_put_name(w, buf->name, buf);
  qn_buf_printf(w->out, " = (%s *)(shared + %" PRId64 ");\n", type, w->shared_bytes);
  w->shared_bytes += elements * (int64_t)qn_lmem_size(buf->mem);
  w->shared_bytes = (w->shared_bytes + SHARED_ALIGNMENT - 1) / SHARED_ALIGNMENT * SHARED_ALIGNMENT;
}

static bool loads(const qn_lexpr *e) {
  if (e->op == QN_LX_LOAD) return true;
  for (int i = 0; i < qn_lop_info_of(e->op)->operands; i++)
    if (loads(e->operands[i])) return true;
  return false;
}

static bool loads_param(const qn_lexpr *e) {
  if (e->op == QN_LX_LOAD && e->u.load.buf->kind == QN_LB_PARAM) return true;
  for (int i = 0; i < qn_lop_info_of(e->op)->operands; i++)
    if (loads_param(e->operands[i])) return true;
  return false;
}

// Statements of the block, nested ones counted too; *out_memory is set when something in it comes from parameters.
static int count_statements(const qn_lblock *block, bool *out_memory) {
  int count = 0;
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    count++;
    if (s->kind == QN_LS_FOR) count += count_statements(&s->u.loop.body, out_memory);
    if (s->kind == QN_LS_COPY) *out_memory = true;
    if (s->kind == QN_LS_STORE && (loads_param(s->u.store.index) || loads_param(s->u.store.value))) *out_memory = true;
  }
  return count;
}

// The compiler makes copies of loops' bodies, for loads that wait together. It is told not to where that only takes
// registers: of a body that is many statements already, and of what each lane does a number of times that is not known
// in memory that is near.
static bool stays_one(const qn_cuda_writer *w, const qn_lstmt *loop, bool by_lanes) {
  enum { MANY = 24 };
  bool memory = false;
  int64_t known = 0;
  int count = count_statements(&loop->u.loop.body, &memory);
  bool counted = qn_lexpr_is_int(loop->u.loop.lo, &known) && qn_lexpr_is_int(loop->u.loop.hi, &known);
  return !by_lanes && (count >= MANY || (w->in_lanes && !counted && !memory));
}

// "for (int i_3 = <lo>; i_3 < <hi>; i_3 += step)". Bounds are what they are when the loop begins: one that is loaded,
// which the body may change, goes into a variable, and so does what would be read as part of the comparison.
static void put_for_head(qn_cuda_writer *w, const qn_lstmt *stmt, bool by_lanes) {
  const qn_lvar *var = stmt->u.loop.var;
  const qn_lexpr *hi = stmt->u.loop.hi;
  int end = -1;
  qn_cuda_begin_statement(w, (const qn_lexpr *const[]){stmt->u.loop.lo, hi}, 2);
  qn_cuda_indent(w);
  if (loads(hi) || hi->op == QN_LX_SELECT) {
    end = w->value_count++;
    qn_buf_printf(w->out, "const %s v%d = ", qn_cuda_index_type(hi), end);
    qn_cuda_put_expr(w, hi, 0);
    qn_buf_puts(w->out, ";\n");
    qn_cuda_indent(w);
  }
  if (stays_one(w, stmt, by_lanes)) {
    qn_buf_puts(w->out, "#pragma unroll 1\n");
    qn_cuda_indent(w);
  }
  qn_buf_printf(w->out, "for (%s ", qn_cuda_var_type(var));
  qn_cuda_put_name(w, var->name, var);
  qn_buf_puts(w->out, " = ");
  int64_t lo = -1;
  bool from_zero = by_lanes && qn_lexpr_is_int(stmt->u.loop.lo, &lo) && lo == 0;
  if (!from_zero) qn_cuda_put_expr(w, stmt->u.loop.lo, 0);
  qn_buf_puts(w->out, from_zero ? "lane; " : by_lanes ? " + lane; " : "; ");
  qn_cuda_put_name(w, var->name, var);
  qn_buf_puts(w->out, " < ");
  if (end >= 0) {
    qn_buf_printf(w->out, "v%d", end);
  } else {
    qn_cuda_put_expr(w, hi, 0);
  }
  qn_buf_puts(w->out, "; ");
  qn_cuda_put_name(w, var->name, var);
  if (by_lanes) {
    qn_buf_printf(w->out, " += %d) ", w->schedule.lanes);
  } else {
    qn_buf_puts(w->out, "++) ");
  }
}

// A lane loop of no more iterations than lanes: one each, or none.
static bool put_single_iteration(qn_cuda_writer *w, const qn_lstmt *stmt) {
  const qn_lvar *var = stmt->u.loop.var;
  int64_t lo = 0, hi = 0;
  if (!qn_lexpr_is_int(stmt->u.loop.lo, &lo) || !qn_lexpr_is_int(stmt->u.loop.hi, &hi)) return false;
  if (lo != 0 || hi > w->schedule.lanes) return false;
  qn_cuda_indent(w);
  if (hi < w->schedule.lanes) qn_buf_printf(w->out, "if (lane < %" PRId64 ") ", hi);
  open_block(w);
  qn_cuda_indent(w);
  qn_buf_puts(w->out, "const int ");
  qn_cuda_put_name(w, var->name, var);
  qn_buf_puts(w->out, " = lane;\n");
  return true;
}

static void put_for(qn_cuda_writer *w, const qn_lstmt *stmt) {
  bool by_lanes = stmt->u.loop.mark == QN_LM_LANE && w->schedule.lanes > 1;
  if (!by_lanes || !put_single_iteration(w, stmt)) {
    put_for_head(w, stmt, by_lanes);
    open_block(w);
  }
  if (by_lanes) w->in_lanes = true;
  put_block(w, &stmt->u.loop.body);
  if (by_lanes) w->in_lanes = false;
  close_block(w);
}

static void put_block(qn_cuda_writer *w, const qn_lblock *block) {
  for (const qn_lstmt *stmt = block->first; stmt && !w->failed; stmt = stmt->next) {
    switch (stmt->kind) {
      case QN_LS_FOR: put_for(w, stmt); break;
      case QN_LS_STORE: put_store(w, stmt); break;
      case QN_LS_LOCAL: put_local(w, stmt->u.local.buf); break;
      case QN_LS_PREFETCH: put_prefetch(w, stmt); break;
      case QN_LS_BARRIER: put_barrier(w); break;
      case QN_LS_COPY: qn_cuda_put_copy(w, stmt); break;
      case QN_LS_COMMIT: qn_cuda_put_commit(w); break;
      case QN_LS_WAIT: qn_cuda_put_wait(w, stmt); break;
      case QN_LS_MMA: qn_cuda_put_mma(w, stmt); break;
    }
  }
}

// ---- kernels ----------------------------------------------------------------------------------------------------

static void put_signature(qn_cuda_writer *w) {
  const qn_lkernel *kernel = w->kernel;
  int threads = w->schedule.lanes * w->schedule.groups;
  qn_buf_printf(w->out, "\nextern \"C\" __global__ void __launch_bounds__(%d, %d) %s(", threads,
                w->resident_threads > threads ? w->resident_threads / threads : 1, kernel->name);
  for (size_t i = 0; i < kernel->param_count; i++) {
    const qn_lbuf *param = kernel->params[i];
    bool alone = param->streamed && !param->writable;  // nothing stored to shares memory with it
    qn_buf_printf(w->out, "%s%s *%s", param->writable ? "" : "const ", qn_cuda_memory_type(param->mem),
                  alone ? "__restrict__ " : "");
    qn_cuda_put_name(w, param->name, param);
    qn_buf_puts(w->out, ", ");
  }
  qn_buf_puts(w->out, "int T, int R, int P, int B, int G, int S) ");
}

// The parallel loop: its variable is the group's number, and what is beyond its end has nothing to do.
static const qn_lblock *put_groups(qn_cuda_writer *w, qn_buf *body) {
  const qn_lstmt *loop = w->kernel->body.first;
  int lanes = w->schedule.lanes, groups = w->schedule.groups;
  w->out = body;
  if (lanes > 1)
    qn_buf_printf(body, groups > 1 ? "  const int lane = threadIdx.x %% %d;\n" : "  const int lane = threadIdx.x;\n",
                  lanes);
  if (groups > 1) qn_buf_printf(body, "  const int group = threadIdx.x / %d;\n", lanes);
  if (!loop || loop->kind != QN_LS_FOR || loop->u.loop.mark != QN_LM_PARALLEL) {
    qn_buf_puts(body, groups > 1 ? "  if (blockIdx.x > 0 || group > 0) return;\n" : "  if (blockIdx.x > 0) return;\n");
    return &w->kernel->body;
  }
  const qn_lvar *var = loop->u.loop.var;
  bool narrow = strcmp(qn_cuda_var_type(var), "int") == 0;
  qn_buf_printf(body, "  const %s ", qn_cuda_var_type(var));
  qn_cuda_put_name(w, var->name, var);
  qn_buf_puts(body, narrow ? " = (int)blockIdx.x" : " = (long long)blockIdx.x");
  if (groups > 1) qn_buf_printf(body, " * %d + group", groups);
  qn_buf_puts(body, ";\n");
  qn_cuda_begin_statement(w, &loop->u.loop.hi, 1);
  qn_buf_puts(body, "  if (");
  qn_cuda_put_name(w, var->name, var);
  qn_buf_puts(body, " >= ");
  qn_cuda_put_expr(w, loop->u.loop.hi, 0);
  qn_buf_puts(body, ") return;\n");
  return &loop->u.loop.body;
}

// Bytes from a group's shared memory to the next one's. Groups that are parts of a warp go through theirs side by side,
// where each lane takes its word of a row: their rows lie in different banks.
static int64_t group_stride(const qn_cuda_writer *w) {
  int64_t row = w->schedule.lanes * (int64_t)sizeof(int32_t);
  if (w->schedule.groups == 1 || w->shared_bytes == 0 || row >= BANKS_BYTES) return w->shared_bytes;
  if (row < SHARED_ALIGNMENT) row = SHARED_ALIGNMENT;
  int64_t rest = w->shared_bytes > row ? w->shared_bytes - row : 0;
  return row + (rest + BANKS_BYTES - 1) / BANKS_BYTES * BANKS_BYTES;
}

// The body is written first: how much shared memory it needs is known afterwards.
static void put_kernel(qn_cuda_writer *w, qn_cuda_kernel *kernel) {
  qn_buf *out = w->out, head, body;
  int64_t stride;
  qn_buf_init(&head, w->allocator);
  qn_buf_init(&body, w->allocator);
  put_signature(w);
  open_block(w);
  const qn_lblock *block = put_groups(w, &head);
  w->out = &body;
  put_block(w, block);
  close_block(w);
  w->out = out;
  stride = group_stride(w);
  qn_buf_printf(out, "  // A block: %d group%s of %d lane%s", w->schedule.groups, w->schedule.groups > 1 ? "s" : "",
                w->schedule.lanes, w->schedule.lanes > 1 ? "s" : "");
  if (w->shared_bytes > 0)
    qn_buf_printf(out, ", %" PRId64 " bytes of shared memory", stride * w->schedule.groups);
  qn_buf_puts(out, ".\n");
  if (w->shared_bytes > 0) {
    bool several = w->schedule.groups > 1;
    qn_buf_printf(out, "  extern __shared__ __align__(%d) unsigned char %s[];\n", SHARED_ALIGNMENT,
                  several ? "all_shared" : "shared");
    qn_buf_append(out, head.data, head.length);
    if (several)
      qn_buf_printf(out, "  unsigned char *const shared = all_shared + group * %" PRId64 ";\n", stride);
  } else {
    qn_buf_append(out, head.data, head.length);
  }
  qn_buf_append(out, body.data, body.length);
  if (head.failed || body.failed) w->failed = true;
  kernel->shared_bytes = stride * w->schedule.groups;
  qn_buf_deinit(&head);
  qn_buf_deinit(&body);
}

static qn_status write_kernel(qn_cuda_kernel *kernel, qn_buf *out, qn_diag *diag) {
  QN_TRY(qn_gpu_schedule_check(&kernel->schedule, kernel->kernel->name, diag));
  qn_cuda_writer w = {.out = out, .allocator = out->allocator, .kernel = kernel->kernel, .schedule = kernel->schedule};
  w.resident_threads = kernel->resident_threads > 0 ? kernel->resident_threads : QN_CUDA_RESIDENT_THREADS;
  qn_arena_init(&w.arena, out->allocator);
  qn_map_init(&w.names, out->allocator);
  qn_map_init(&w.nodes, out->allocator);
  put_kernel(&w, kernel);
  qn_map_deinit(&w.nodes);
  qn_map_deinit(&w.names);
  qn_arena_deinit(&w.arena);
  return w.failed || out->failed ? qn_fail_nomem(diag, kernel->kernel->name, "its CUDA source") : QN_OK;
}

static void mark_operators(const qn_lexpr *e, bool *used) {
  used[e->op] = true;
  for (int i = 0; i < qn_lop_info_of(e->op)->operands; i++) mark_operators(e->operands[i], used);
}

static void mark_block(const qn_lblock *block, bool *used) {
  for (const qn_lstmt *stmt = block->first; stmt; stmt = stmt->next) {
    if (stmt->kind == QN_LS_STORE) mark_operators(stmt->u.store.value, used);
    if (stmt->kind == QN_LS_FOR) mark_block(&stmt->u.loop.body, used);
  }
}

qn_status qn_cuda_emit(qn_cuda_kernel *kernels, size_t count, qn_buf *out, qn_diag *diag) {
  qn_buf_puts(out, "// Written by quern.\n");
  qn_cuda_put_prelude(out);
  bool used[QN_LX_COUNT] = {false};
  for (size_t i = 0; i < count; i++) mark_block(&kernels[i].kernel->body, used);
  for (int op = 0; op < QN_LX_COUNT; op++)
    if (used[op]) qn_cuda_put_math((qn_lop)op, out);
  for (size_t i = 0; i < count; i++) QN_TRY(write_kernel(&kernels[i], out, diag));
  return out->failed ? qn_fail_nomem(diag, "CUDA", "the source") : QN_OK;
}
