// Copies into shared memory that go on while the lane does other things: `copy`, `commit` and `wait` as cp.async.
#include "codegen/cuda/emit_internal.h"

static void put_address(qn_cuda_writer *w, const qn_lbuf *buf, qn_lmem mem, const qn_lexpr *index) {
  qn_buf_putc(w->out, '&');
  qn_cuda_put_place(w, buf, mem, index, 0);
}

void qn_cuda_put_copy(qn_cuda_writer *w, const qn_lstmt *stmt) {
  const qn_lexpr *to = stmt->u.copy.to_index, *from = stmt->u.copy.from_index;
  qn_lmem mem = stmt->u.copy.mem;
  qn_cuda_begin_statement(w, (const qn_lexpr *const[]){to, from}, 2);
  qn_cuda_indent(w);
  qn_buf_printf(w->out, "qn_copy<%zu>(", (size_t)stmt->u.copy.lanes * qn_lmem_size(mem));
  put_address(w, stmt->u.copy.to, mem, to);
  qn_buf_puts(w->out, ", ");
  put_address(w, stmt->u.copy.from, mem, from);
  qn_buf_puts(w->out, ");\n");
}

void qn_cuda_put_commit(qn_cuda_writer *w) {
  qn_cuda_indent(w);
  qn_buf_puts(w->out, "qn_commit();\n");
}

void qn_cuda_put_wait(qn_cuda_writer *w, const qn_lstmt *stmt) {
  qn_cuda_indent(w);
  qn_buf_printf(w->out, "qn_wait<%d>();\n", stmt->u.wait.groups);
}
