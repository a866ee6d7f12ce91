// Loop IR as text (grammar in ir/README.md). Parentheses are the fewest that keep the tree, so that a text that was
// parsed prints the same again.
#include <string.h>

#include "ir/loop.h"

// Binding strength: sums, products, and what needs no parentheses.
enum { PREC_SUM = 1, PREC_PRODUCT, PREC_ATOM };

static int precedence(qn_lop op) {
  if (op == QN_LX_ADD || op == QN_LX_SUB) return PREC_SUM;
  return qn_lop_info_of(op)->syntax == 'O' ? PREC_PRODUCT : PREC_ATOM;
}

// A constant of f32 always holds a '.', an 'e', "inf" or "nan", which no integer does.
static void print_float(float value, qn_buf *out) {
  size_t start = out->length;
  qn_buf_put_f32(out, value);
  if (out->failed) return;
  for (size_t i = start; i < out->length; i++) {
    char c = out->data[i];
    if (c != '-' && (c < '0' || c > '9')) return;
  }
  qn_buf_puts(out, ".0");
}

// "w" or "w.f16": a buffer, seen as `mem`.
static void print_view(const qn_lbuf *buf, qn_lmem mem, qn_buf *out) {
  qn_buf_puts(out, buf->name);
  if (mem != buf->mem) qn_buf_printf(out, ".%s", qn_lmem_name(mem));
}

// "[index]" or "[index : lanes]"; a vector index says its lanes itself.
static void print_index(const qn_lexpr *index, int lanes, qn_buf *out) {
  qn_buf_putc(out, '[');
  qn_lexpr_print(index, out);
  if (lanes > 1 && index->type.lanes == 1) qn_buf_printf(out, " : %d", lanes);
  qn_buf_putc(out, ']');
}

static void print_operand(const qn_lexpr *e, int least, qn_buf *out) {
  bool parentheses = precedence(e->op) < least;
  if (parentheses) qn_buf_putc(out, '(');
  qn_lexpr_print(e, out);
  if (parentheses) qn_buf_putc(out, ')');
}

static void print_leaf(const qn_lexpr *e, qn_buf *out) {
  switch (e->op) {
    case QN_LX_INT:
      qn_buf_printf(out, "%lld%s", (long long)e->u.int_value, e->type.kind == QN_LK_I32 ? "i32" : "");
      break;
    case QN_LX_FLOAT: print_float(e->u.float_value, out); break;
    case QN_LX_VAR: qn_buf_puts(out, e->u.var->name); break;
    case QN_LX_SYM: qn_buf_putc(out, qn_symbol_letter(e->u.symbol)); break;
    case QN_LX_LANE: qn_buf_printf(out, "lane(%d)", e->type.lanes); break;
    case QN_LX_LUT16:
      qn_buf_puts(out, "lut16(");
      qn_lexpr_print(e->operands[0], out);
      qn_buf_puts(out, ", \"");
      for (size_t i = 0; i < sizeof e->u.table; i++) qn_buf_printf(out, "%02x", e->u.table[i]);
      qn_buf_puts(out, "\")");
      break;
    default:  // LOAD
      print_view(e->u.load.buf, e->u.load.mem, out);
      print_index(e->operands[0], e->type.lanes, out);
  }
}

void qn_lexpr_print(const qn_lexpr *e, qn_buf *out) {
  const qn_lop_info *info = qn_lop_info_of(e->op);
  if (info->syntax == 'X') {
    print_leaf(e, out);
  } else if (info->syntax == 'O') {  // a + b, a*b, a / b; left associative
    int own = precedence(e->op);
    print_operand(e->operands[0], own, out);
    qn_buf_printf(out, e->op == QN_LX_MUL ? "%s" : " %s ", info->text);
    print_operand(e->operands[1], own + 1, out);
  } else {
    qn_buf_printf(out, "%s(", info->text);
    for (int i = 0; i < info->operands; i++) {
      if (i > 0) qn_buf_puts(out, ", ");
      qn_lexpr_print(e->operands[i], out);
    }
    qn_buf_putc(out, ')');
  }
}

void qn_lstmt_print(const qn_lstmt *stmt, qn_buf *out) {
  static const char *const marks[] = {"", " parallel", " unroll", " vector", " lane"};
  switch (stmt->kind) {
    case QN_LS_FOR:
      qn_buf_printf(out, "for %s in ", stmt->u.loop.var->name);
      qn_lexpr_print(stmt->u.loop.lo, out);
      qn_buf_puts(out, "..");
      qn_lexpr_print(stmt->u.loop.hi, out);
      qn_buf_puts(out, stmt->u.loop.order == QN_LO_REDUCE ? " reduce" : " data");
      qn_buf_puts(out, marks[stmt->u.loop.mark]);
      break;
    case QN_LS_STORE:
      print_view(stmt->u.store.buf, stmt->u.store.mem, out);
      print_index(stmt->u.store.index, stmt->u.store.lanes, out);
      qn_buf_puts(out, " = ");
      qn_lexpr_print(stmt->u.store.value, out);
      break;
    case QN_LS_LOCAL:
      qn_buf_printf(out, "local %s : %s[", stmt->u.local.buf->name, qn_lmem_name(stmt->u.local.buf->mem));
      qn_lexpr_print(stmt->u.local.buf->elements, out);
      qn_buf_puts(out, stmt->u.local.buf->shared ? "] shared" : stmt->u.local.buf->spread ? "] spread" : "]");
      if (stmt->u.local.buf->each > 0) qn_buf_printf(out, " each %d", stmt->u.local.buf->each);
      if (stmt->u.local.buf->byte_max > 0) qn_buf_printf(out, " bytes %d", stmt->u.local.buf->byte_max);
      break;
    case QN_LS_BARRIER: qn_buf_puts(out, "barrier"); break;
    case QN_LS_COPY:
      qn_buf_puts(out, "copy ");
      print_view(stmt->u.copy.to, stmt->u.copy.mem, out);
      print_index(stmt->u.copy.to_index, stmt->u.copy.lanes, out);
      qn_buf_puts(out, " = ");
      print_view(stmt->u.copy.from, stmt->u.copy.mem, out);
      print_index(stmt->u.copy.from_index, 1, out);
      break;
    case QN_LS_COMMIT: qn_buf_puts(out, "commit"); break;
    case QN_LS_WAIT: qn_buf_printf(out, "wait %d", stmt->u.wait.groups); break;
    case QN_LS_MMA:
      qn_buf_printf(out, "mma %s", qn_lmma_info_of(stmt->u.mma.kind)->text);
      for (int i = 0; i < QN_MMA_OPERANDS; i++)
        qn_buf_printf(out, " %s[%d]", stmt->u.mma.bufs[i]->name, stmt->u.mma.at[i]);
      break;
    case QN_LS_PREFETCH:
      qn_buf_puts(out, stmt->u.prefetch.far ? "prefetch far " : "prefetch ");
      print_view(stmt->u.prefetch.buf, stmt->u.prefetch.mem, out);
      print_index(stmt->u.prefetch.index, 1, out);
      break;
  }
}

static void indent(int depth, qn_buf *out) {
  for (int i = 0; i < depth; i++) qn_buf_puts(out, "  ");
}

static void print_block(const qn_lblock *block, int depth, qn_buf *out) {
  for (const qn_lstmt *stmt = block->first; stmt; stmt = stmt->next) {
    indent(depth, out);
    qn_lstmt_print(stmt, out);
    if (stmt->kind == QN_LS_FOR) {
      qn_buf_puts(out, " {\n");
      print_block(&stmt->u.loop.body, depth + 1, out);
      indent(depth, out);
      qn_buf_putc(out, '}');
    }
    qn_buf_putc(out, '\n');
  }
}

void qn_lkernel_print(const qn_lkernel *kernel, qn_buf *out) {
  qn_buf_puts(out, "kernel ");
  qn_buf_quote(out, qn_str_from(kernel->name));
  qn_buf_puts(out, " {\n");
  for (size_t i = 0; i < kernel->param_count; i++) {
    const qn_lbuf *param = kernel->params[i];
    qn_buf_printf(out, "  param %s : %s[", param->name, qn_lmem_name(param->mem));
    qn_lexpr_print(param->elements, out);
    qn_buf_printf(out, "]%s%s\n", param->writable ? " out" : "", param->streamed ? " streamed" : "");
  }
  print_block(&kernel->body, 1, out);
  qn_buf_puts(out, "}\n");
}
