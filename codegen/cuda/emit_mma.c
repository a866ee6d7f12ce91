// Operations of tensor cores as inline PTX: operands are elements of the lane's own locals, which are its registers.
#include "codegen/cuda/emit_internal.h"

static void put_registers(qn_cuda_writer *w, const qn_lstmt *stmt, qn_lmma_operand operand, const char *constraint) {
  int each = qn_lmma_each(stmt->u.mma.kind, operand);
  for (int i = 0; i < each; i++) {
    qn_buf_printf(w->out, "%s\"%s\"(", i > 0 ? ", " : "", constraint);
    qn_cuda_put_name(w, stmt->u.mma.bufs[operand]->name, stmt->u.mma.bufs[operand]);
    qn_buf_printf(w->out, "[%d])", stmt->u.mma.at[operand] + i);
  }
}

// "{%4, %5}": registers of an operand by their places in the statement.
static void put_places(qn_cuda_writer *w, int first, int count) {
  for (int i = 0; i < count; i++) qn_buf_printf(w->out, "%s%%%d", i > 0 ? ", " : "{", first + i);
  qn_buf_putc(w->out, '}');
}

void qn_cuda_put_mma(qn_cuda_writer *w, const qn_lstmt *stmt) {
  const qn_lmma_info *info = qn_lmma_info_of(stmt->u.mma.kind);
  int a = qn_lmma_each(stmt->u.mma.kind, QN_MMA_OF_A), b = qn_lmma_each(stmt->u.mma.kind, QN_MMA_OF_B);
  qn_cuda_indent(w);
  qn_buf_printf(w->out, "asm volatile(\"mma.sync.aligned.%s ", info->instruction);
  put_places(w, 0, QN_MMA_C);
  qn_buf_puts(w->out, ", ");
  put_places(w, QN_MMA_C, a);
  qn_buf_puts(w->out, ", ");
  put_places(w, QN_MMA_C + a, b);
  qn_buf_puts(w->out, ", ");
  put_places(w, 0, QN_MMA_C);
  qn_buf_puts(w->out, ";\" : ");
  put_registers(w, stmt, QN_MMA_OF_C, info->sum == QN_LM_F32 ? "+f" : "+r");
  qn_buf_puts(w->out, " : ");
  put_registers(w, stmt, QN_MMA_OF_A, "r");
  qn_buf_puts(w->out, ", ");
  put_registers(w, stmt, QN_MMA_OF_B, "r");
  qn_buf_puts(w->out, ");\n");
}
