// specialise: a kernel for one value of a symbol, such as the one-token variant of decoding.
//
// requires: the value is one that the runtime will pass; the pass's caller sees to it.
// keeps: every result for that value.
// breaks: nothing. The symbol is gone from indices, bounds and the sizes of parameters, and so are loops that run once
// with it (it ends with simplify).
#include "passes/loop_util.h"

typedef struct constant {
  qn_symbol symbol;
  int64_t value;
} constant;

static const qn_lexpr *replace_symbol(qn_lbuild *b, const qn_lexpr *e, void *context) {
  const constant *c = context;
  return e->op == QN_LX_SYM && e->u.symbol == c->symbol ? qn_lint(b, c->value) : e;
}

qn_status qn_pass_specialise(qn_loop_pass_context *context, qn_symbol symbol, int64_t value) {
  qn_lbuild *b = context->build;
  constant c = {symbol, value};
  if (symbol == QN_SYM_NONE || value < 0) {
    return qn_fail(context->diag, QN_ERR_ARGUMENT, b->kernel->name, "cannot specialise symbol '%c' to %lld",
                   symbol == QN_SYM_NONE ? '-' : qn_symbol_letter(symbol), (long long)value);
  }
  for (size_t i = 0; i < b->kernel->param_count && !b->failed; i++) {
    qn_lbuf *param = b->kernel->params[i];
    const qn_lexpr *elements = qn_lexpr_map(b, param->elements, replace_symbol, &c);
    if (elements) param->elements = elements;
  }
  if (!b->failed) qn_lblock_map(b, &b->kernel->body, replace_symbol, &c);
  QN_TRY(qn_loop_pass_end(context, "specialise"));
  return qn_pass_simplify(context);
}
