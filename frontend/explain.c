// quern_explain: what is measured, and the explanation that comes of it.
#include "frontend/explain.h"

#include <stdlib.h>
#include <string.h>

#include "codegen/target.h"
#include "frontend/compile.h"
#include "passes/cost.h"
#include "runtime/base/options.h"

enum { DEFAULT_PROMPT = 256, DEFAULT_REPETITIONS = 5, MOST_REPETITIONS = 1000 };

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double explain_undisturbed(double *values, size_t count) {
  if (count == 0) return 0;
  qsort(values, count, sizeof *values, by_value);
  return values[count / 4];
}

const char *explain_text(qn_arena *arena, qn_str text) {
  char *copy = qn_arena_strndup(arena, text.data, text.length);
  for (char *c = copy; c && *c; c++) {
    if ((unsigned char)*c < 0x20 || *c == 0x7F) *c = '?';
  }
  return copy;
}

explanation *explanation_create(void) {
  explanation *e = calloc(1, sizeof *e);
  if (!e) return NULL;
  qn_arena_init(&e->arena, qn_allocator_default());
  e->told.quern = e->told.model = e->told.target = e->told.host = e->told.lacking = e->told.prediction = "";
  e->told.problem = "";
  e->told.phases = e->phases;
  return e;
}

void quern_explanation_free(const quern_explanation *explained) {
  if (!explained) return;
  explanation *e = (explanation *)(uintptr_t)explained;  // its first member
  qn_arena_deinit(&e->arena);
  free(e);
}

qn_status explain_report(explaining *x, const char *stage, uint64_t done, uint64_t total) {
  const quern_explain_options *o = x->options;
  if (!o->progress || o->progress(o->progress_context, stage, done, total)) return QN_OK;
  return qn_fail(x->diag, QN_ERR_CANCELLED, "explain", "cancelled by the caller");
}

qn_status explain_without_database(explaining *x, qn_status status, const qn_diag *problem) {
  if (status == QN_OK) return QN_OK;
  const char *told = status == QN_ERR_NOMEM ? NULL : explain_text(x->arena, qn_str_from(problem->text));
  if (!told) return qn_fail_nomem(x->diag, "explain", "what the tuning database tells");
  x->e->told.problem = told;
  return QN_OK;
}

// ---- what runs

// The features of a list that another list lacks.
static const char *lacking(explaining *x, const char *list, const char *other) {
  qn_buf out;
  qn_buf_init(&out, qn_allocator_default());
  while (*list) {
    size_t length = strcspn(list, ",");
    bool found = false;
    for (const char *at = other; *at && !found;) {
      size_t n = strcspn(at, ",");
      found = n == length && memcmp(at, list, length) == 0;
      at += n + (at[n] == ',');
    }
    if (!found) qn_buf_printf(&out, "%s%.*s", out.length ? "," : "", (int)length, list);
    list += length + (list[length] == ',');
  }
  const char *copy = out.failed ? NULL : qn_arena_strdup(x->arena, qn_buf_text(&out));
  qn_buf_deinit(&out);
  return copy;
}

// The target that runs, and the one that suits the machine.
static qn_status take_targets(explaining *x) {
  quern_explanation *told = &x->e->told;
  qn_target target, host;
  const char *name = quern_model_target(x->model);
  QN_TRY(qn_target_parse("host", &host, x->diag));
  QN_TRY(qn_target_parse(name, &target, x->diag));
  told->quern = quern_version();
  size_t length = 0;
  const char *model = quern_model_summary_value(x->model, "model", &length);
  told->model = explain_text(x->arena, length ? (qn_str){model, length} : qn_str_from(quern_model_name(x->model)));
  told->target = explain_text(x->arena, qn_str_from(name));
  told->host = qn_arena_strdup(x->arena, host.name);
  told->lacking = lacking(x, host.required, target.required);
  if (!told->model || !told->target || !told->host || !told->lacking) return qn_fail_nomem(x->diag, "explain", "names");
  x->same_isa = told->lacking[0] == '\0';
  return QN_OK;
}

// The code that runs and its plan; the JIT's has plan 0.
static qn_status take_plan(explaining *x) {
  const qn_artifact *a = &x->model->artifact;
  uint32_t first, count;
  if (!x->model->jit.entries) {
    const char *target = x->model->target[0] ? x->model->target : NULL;
    QN_TRY(qn_executor_choose_code(a, target, &x->code, x->diag));
    x->plan = x->code->plan;
  }
  x->slices = qn_artifact_plan(a, x->plan, &first, &count);
  return QN_OK;
}

static qn_status take_kernels(explaining *x) {
  const qn_artifact *a = &x->model->artifact;
  size_t size = 0;
  x->text.data = qn_artifact_section(a, QN_SECTION_KERNELS, a->program_index, &size);
  x->text.length = size;
  if (!x->text.data) {
    return qn_fail(x->diag, QN_ERR_UNSUPPORTED, a->path,
                   "does not tell what its kernels cost; compile the model again");
  }
  x->kernel_count = a->program->kernel_count;
  x->kernels = QN_ARENA_ARRAY(x->arena, x->kernel_count, explain_kernel);
  if (!x->kernels) return qn_fail_nomem(x->diag, "explain", "kernels");
  for (uint32_t i = 0; i < a->program->kernel_count; i++) {
    explain_kernel *k = &x->kernels[i];
    const char *name = a->strings + a->kernels[i].name;
    k->place = "";
    k->slice = i;
    QN_TRY(quern_read_kernel(a->path, x->text, name, x->arena, &k->facts, &k->cost, x->diag));
    QN_TRY(qn_cost_count(&k->facts, x->arena, &k->facts.work, x->diag));
    k->name = explain_text(x->arena, qn_str_from(name));
    if (!k->name) return qn_fail_nomem(x->diag, "explain", "kernels");
  }
  for (uint32_t i = 0; i < a->program->step_count; i++) {
    explain_kernel *k = &x->kernels[a->steps[i].kernel];
    if (k->steps++ == 0) k->place = explain_text(x->arena, qn_str_from(a->strings + a->steps[i].loc));
    if (!k->place) return qn_fail_nomem(x->diag, "explain", "kernels");
  }
  return QN_OK;
}

// ---- what is measured

static const char *const phase_names[EXPLAIN_KINDS][EXPLAIN_PHASES] = {
    [EXPLAIN_TEXTS] = {"prefill", "decode"}, [EXPLAIN_SOURCES] = {"source", "decode"}, [EXPLAIN_EMBEDDINGS] = {"embed"}};

const char *explain_phase_name(explain_kind kind, int phase) { return phase_names[kind][phase]; }

size_t explain_phase_count(explain_kind kind) { return kind == EXPLAIN_EMBEDDINGS ? 1 : EXPLAIN_PHASES; }

static int64_t least_given(int64_t a, int64_t b) { return a == 0 ? b : b == 0 || a < b ? a : b; }

qn_status explain_plan_sizes(explain_kind kind, int64_t context, const int64_t symbol_max[QN_SYM_COUNT],
                             const char *path, const char *what, explain_sizes *sizes, qn_diag *diag) {
  bool decodes = kind != EXPLAIN_EMBEDDINGS;
  // What is read whole is in one step.
  int64_t most = kind == EXPLAIN_TEXTS ? context : least_given(context, symbol_max[decodes ? QN_SYM_S : QN_SYM_T]);
  int64_t prompt = sizes->prompt, depth = sizes->depth;
  if (prompt < 0 || depth < 0)
    return qn_fail(diag, QN_ERR_ARGUMENT, what, "got a prompt of %lld tokens and a depth of %lld, want 0 or more",
                   (long long)prompt, (long long)depth);
  if (!decodes && depth > 0)
    return qn_fail(diag, QN_ERR_ARGUMENT, what, "got a depth of %lld for %s, which is an encoder and decodes nothing",
                   (long long)depth, path);
  if (prompt == 0) prompt = most > 0 && most <= DEFAULT_PROMPT ? (most + 1) / 2 : DEFAULT_PROMPT;
  if (depth == 0 && decodes) depth = prompt;
  if ((most > 0 && prompt > most) || (decodes && context > 0 && depth + 1 > context)) {
    return qn_fail(diag, QN_ERR_LIMIT, path,
                   "got a prompt of %lld tokens and a depth of %lld, want a context of at most %lld tokens",
                   (long long)prompt, (long long)depth, (long long)(prompt > most && most > 0 ? most : context));
  }
  *sizes = (explain_sizes){prompt, depth};
  return QN_OK;
}

qn_status explain_plan_chunks(explain_kind kind, const explain_sizes *sizes, const int64_t symbol_max[QN_SYM_COUNT],
                              qn_arena *arena, explain_chunk *chunks[EXPLAIN_PHASES], size_t counts[EXPLAIN_PHASES],
                              qn_diag *diag) {
  int64_t prompt = sizes->prompt, most = symbol_max[QN_SYM_T];
  int64_t chunk = kind == EXPLAIN_TEXTS && most > 0 ? most : prompt;
  size_t count = (size_t)((prompt + chunk - 1) / chunk);
  counts[EXPLAIN_PREFILL] = count;
  counts[EXPLAIN_DECODE] = explain_phase_count(kind) - 1;
  chunks[EXPLAIN_PREFILL] = QN_ARENA_ARRAY(arena, count, explain_chunk);
  chunks[EXPLAIN_DECODE] = QN_ARENA_ARRAY(arena, 1, explain_chunk);
  if (!chunks[EXPLAIN_PREFILL] || !chunks[EXPLAIN_DECODE]) return qn_fail_nomem(diag, "explain", "chunks");
  bool of_source = kind == EXPLAIN_SOURCES;
  for (size_t i = 0; i < count; i++) {
    int64_t before = (int64_t)i * chunk, left = prompt - before;
    chunks[EXPLAIN_PREFILL][i] = (explain_chunk){.tokens = left < chunk ? left : chunk,
                                                 .rows = i + 1 == count && !of_source,
                                                 .depth = before,
                                                 .of_source = of_source};
  }
  chunks[EXPLAIN_DECODE][0] =
      (explain_chunk){.tokens = 1, .rows = 1, .depth = sizes->depth, .source = of_source ? prompt : 0};
  return QN_OK;
}

static qn_status plan(explaining *x) {
  const quern_explain_options *o = x->options;
  const int64_t *most = x->model->artifact.program->symbol_max;
  explain_sizes sizes = {o->prompt_tokens, o->depth};
  x->repetitions = o->repetitions ? o->repetitions : DEFAULT_REPETITIONS;
  if (x->repetitions < 1 || x->repetitions > MOST_REPETITIONS)
    return qn_fail(x->diag, QN_ERR_ARGUMENT, "explain", "got %d repetitions, want 1 to %d", x->repetitions,
                   MOST_REPETITIONS);
  QN_TRY(explain_plan_sizes(x->kind, quern_model_context_max(x->model), most, x->model->path, "explain", &sizes, x->diag));
  x->prompt = sizes.prompt;
  x->depth = sizes.depth;
  return explain_plan_chunks(x->kind, &sizes, most, x->arena, x->chunks, x->chunk_count, x->diag);
}

static qn_status explain(explaining *x) {
  if (quern_model_vocab_size(x->model) == 0) {
    return qn_fail(x->diag, QN_ERR_UNSUPPORTED, x->model->path,
                   "is no language model, whose prompts could be measured");
  }
  x->kind = quern_model_embedding_size(x->model) > 0 ? EXPLAIN_EMBEDDINGS
            : quern_model_has_source(x->model)       ? EXPLAIN_SOURCES
                                                     : EXPLAIN_TEXTS;
  QN_TRY(take_targets(x));
  QN_TRY(take_plan(x));
  QN_TRY(take_kernels(x));
  QN_TRY(plan(x));
  QN_TRY(explain_find_profile(x));
  QN_TRY(explain_measure(x));
  QN_TRY(explain_machine(x));
  QN_TRY(explain_terms(x));
  return explain_tuning(x);
}

int quern_explain(quern_model *model, const quern_explain_options *options, const quern_explanation **out,
                  quern_error *error) {
  quern_explain_options own;
  qn_diag diag = {0};
  *out = NULL;
  qn_status taken = qn_options_take(options, "quern_explain_options", &own, sizeof own, &diag);
  if (taken != QN_OK) return quern_give_error(error, &diag, taken);
  explaining x = {.model = model, .options = &own, .e = explanation_create(), .diag = &diag};
  if (x.e) x.arena = &x.e->arena;
  qn_status status = x.e ? explain(&x) : qn_fail_nomem(&diag, "explain", "an explanation");
  if (status == QN_OK) {
    *out = &x.e->told;
  } else if (x.e) {
    quern_explanation_free(&x.e->told);
  }
  return quern_give_error(error, &diag, status);
}
