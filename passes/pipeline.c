// Runs the passes of passes.def in order: run, verify, dump.
#include <string.h>

#include "passes/pass.h"

typedef struct pass_entry {
  const char *name;
  qn_graph_stage stage;
  qn_status (*run)(qn_pass_context *context);
} pass_entry;

static const pass_entry passes[] = {
#define QN_PASS(name, stage, text) {#name, QN_STAGE_##stage, qn_pass_##name},
#include "passes/passes.def"
#undef QN_PASS
};

static void dump(const qn_pass_context *context, const char *pass) {
  qn_buf text;
  qn_buf_init(&text, context->allocator);
  if (!context->program) {
    qn_graph_print(context->graph, &text);
  } else {
    qn_program_print(context->program, &text);
    for (size_t i = 0; i < context->program->kernels.count; i++) {
      const qn_pkernel *kernel = &context->program->kernels.items[i];
      if (kernel->variant_count == 0) qn_lkernel_print(kernel->plain, &text);
      for (int v = 0; v < kernel->variant_count; v++) qn_lkernel_print(kernel->variants[v].kernel, &text);
    }
  }
  context->options->dump(context->options->dump_context, pass, qn_buf_text(&text), text.length);
  qn_buf_deinit(&text);
}

static qn_status run_one(qn_pass_context *context, const pass_entry *pass) {
  QN_TRY(pass->run(context));
  QN_TRY(qn_graph_verify(context->graph, pass->stage, context->diag));
  if (context->program) {
    bool planned = context->program->arena_bytes > 0;
    QN_TRY(qn_program_verify(context->program, planned, context->diag));
  }
  if (context->options->dump) dump(context, pass->name);
  return QN_OK;
}

static const pass_entry *find(const char *name) {
  for (size_t i = 0; i < QN_COUNT(passes); i++) {
    if (strcmp(passes[i].name, name) == 0) return &passes[i];
  }
  return NULL;
}

qn_status qn_run_pass(qn_pass_context *context, const char *name) {
  const pass_entry *pass = find(name);
  if (!pass) return qn_fail(context->diag, QN_ERR_ARGUMENT, "pass", "got '%s', want a name of passes.def", name);
  return run_one(context, pass);
}

qn_status qn_run_passes_until(qn_pass_context *context, const char *last) {
  const pass_entry *end = find(last);
  if (!end) return qn_fail(context->diag, QN_ERR_ARGUMENT, "pass", "got '%s', want a name of passes.def", last);
  for (const pass_entry *pass = passes; pass <= end; pass++) QN_TRY(run_one(context, pass));
  return QN_OK;
}

qn_status qn_run_passes(qn_pass_context *context) {
  return qn_run_passes_until(context, passes[QN_COUNT(passes) - 1].name);
}
