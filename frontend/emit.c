// quern_emit: a compilation up to one stage, whose texts are handed out, and nothing else.
#include <string.h>

#include "frontend/compilation.h"
#include "frontend/compile.h"

// Texts of code, by the kind of targets that have them.
static const struct stage {
  const char *name;
  bool gpu;
} STAGES[] = {{"mlir", false}, {"llvm", false}, {"asm", false}, {"cuda", true}, {"ptx", true}, {"ptxas", true}};

// Forwards the texts of one name.
typedef struct filter {
  const quern_compile_options *to;  // borrowed
  const char *stage;
  size_t count;
  qn_buf seen;  // other names, each once
} filter;

static void note_name(filter *f, const char *name) {
  qn_str word = qn_str_from(name);
  for (const char *at = qn_buf_text(&f->seen); *at;) {
    size_t length = strcspn(at, ",");
    if (length == word.length && memcmp(at, name, length) == 0) return;
    at += length + (at[length] ? strlen(", ") : 0);
  }
  qn_buf_printf(&f->seen, "%s%s", f->seen.length ? ", " : "", name);
}

static void forward(void *context, const char *name, const char *text, size_t length) {
  filter *f = context;
  if (strcmp(name, f->stage) != 0) {
    note_name(f, name);
    return;
  }
  f->count++;
  if (f->to->dump) f->to->dump(f->to->dump_context, name, text, length);
}

// The source for GPUs is the plan's, and so the same for all targets that share it.
static bool was_shown(const quern_compilation *c, size_t target) {
  for (size_t i = 0; i < target; i++)
    if (c->part_of[i] == c->part_of[target] && c->plan_of[i] == c->plan_of[target]) return true;
  return false;
}

static qn_status show_code(quern_compilation *c, const struct stage *stage) {
  bool any = false, source = strcmp(stage->name, "cuda") == 0;
  for (size_t i = 0; i < c->target_count; i++) {
    if (qn_target_is_gpu(&c->targets[i]) != stage->gpu) continue;
    any = true;
    if (!source || !was_shown(c, i)) QN_TRY(quern_compile_target(c, i, source));
  }
  if (any) return QN_OK;
  return qn_fail(c->diag, QN_ERR_ARGUMENT, "emit", "got '%s', which is of %s, and no such target; name one (%s)",
                 stage->name, stage->gpu ? "GPUs" : "CPUs", stage->gpu ? "cuda:sm_90" : "host");
}

static qn_status show(quern_compilation *c, filter *f, const char *model_path) {
  QN_TRY(quern_compilation_open(c, model_path));
  QN_TRY(quern_make_plans(c));
  const struct stage *stage = NULL;
  for (size_t i = 0; i < QN_COUNT(STAGES); i++) {
    if (strcmp(STAGES[i].name, f->stage) == 0) stage = &STAGES[i];
    note_name(f, STAGES[i].name);
  }
  if (stage) return show_code(c, stage);
  if (f->count > 0) return QN_OK;
  if (f->seen.failed) return qn_fail_nomem(c->diag, "emit", "names of texts");
  return qn_fail(c->diag, QN_ERR_ARGUMENT, "emit", "got '%s', want one of: %s", f->stage, qn_buf_text(&f->seen));
}

int quern_emit(const char *model_path, const char *stage, const quern_compile_options *options, quern_error *error) {
  quern_compile_options own;
  qn_diag diag = {0};
  quern_compilation c;
  qn_status status = quern_own_options(options, &own, &diag);
  quern_compile_options asked = own;
  filter f = {.to = &asked, .stage = stage ? stage : ""};  // a name that is none
  own.dump = forward;
  own.dump_context = &f;
  quern_compilation_init(&c, &own, &diag);
  qn_buf_init(&f.seen, c.allocator);
  if (status == QN_OK) status = show(&c, &f, model_path);
  quern_compilation_deinit(&c);
  qn_buf_deinit(&f.seen);
  return quern_give_error(error, &diag, status);
}
