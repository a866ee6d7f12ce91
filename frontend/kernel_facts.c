// The texts of kernels in an artifact: facts, costs and loop IR, written and read back. A reader treats them as
// hostile.
#include "frontend/kernel_facts.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

typedef enum fact_kind { FACT_COUNT, FACT_INT, FACT_BOOL, FACT_DTYPE, FACT_SYMBOL } fact_kind;

typedef struct fact {
  const char *key;
  fact_kind kind;
  size_t offset;  // in qn_pkernel
  int64_t most;
} fact;

#define FACT(field, kind, most) \
  { #field, FACT_##kind, offsetof(qn_pkernel, field), most }
static const fact facts[] = {
    FACT(rows, SYMBOL, QN_SYM_COUNT - 1),
    FACT(is_matmul, BOOL, 1),
    FACT(panels, COUNT, INT32_MAX),
    FACT(k, COUNT, INT32_MAX),
    FACT(products, INT, 1024),
    FACT(weights, DTYPE, QN_DTYPE_COUNT - 1),
    FACT(input, DTYPE, QN_DTYPE_COUNT - 1),
    FACT(tile_rows, COUNT, INT32_MAX),
    FACT(run_tokens, COUNT, INT32_MAX),
    FACT(experts, COUNT, QN_EXPERTS_MAX),
    FACT(chosen, COUNT, QN_EXPERTS_MAX),
};

static const struct {
  const char *key;
  size_t offset;  // in quern_kernel_cost
} costs[] = {
#define X(field, meaning) {"cost." #field, offsetof(quern_kernel_cost, field)},
    QUERN_KERNEL_COSTS(X)
#undef X
};

static const char heading[] = "\n# kernel ", line_start[] = "#   ";

// ---- writing

static void put_fact(const fact *f, const qn_pkernel *kernel, qn_buf *out) {
  const char *at = (const char *)kernel + f->offset;
  qn_buf_printf(out, "%s%s = ", line_start, f->key);
  switch (f->kind) {
    case FACT_COUNT: qn_buf_printf(out, "%" PRId64, *(const int64_t *)(const void *)at); break;
    case FACT_INT: qn_buf_printf(out, "%d", *(const int *)(const void *)at); break;
    case FACT_BOOL: qn_buf_printf(out, "%d", *(const bool *)(const void *)at); break;
    case FACT_DTYPE: qn_buf_puts(out, qn_dtype_name(*(const qn_dtype *)(const void *)at)); break;
    case FACT_SYMBOL: {
      char letter = qn_symbol_letter(*(const qn_symbol *)(const void *)at);
      qn_buf_putc(out, letter ? letter : '-');
      break;
    }
  }
  qn_buf_putc(out, '\n');
}

// "-" for a parameter that is no weight. A kernel's steps differ in their buffers, and not in what those are.
static void put_layouts(const qn_program *program, const qn_pstep *step, size_t count, qn_buf *out) {
  qn_buf_printf(out, "%slayouts = ", line_start);
  for (size_t i = 0; i < count; i++) {
    const qn_pbuf *p = &program->buffers.items[step->buffers[i]];
    qn_buf_printf(out, "%s%s", i ? "," : "", p->kind == QN_PB_WEIGHT ? qn_layout_name(p->layout) : "-");
  }
  qn_buf_putc(out, '\n');
}

// A kernel's steps differ in their buffers alone, so any of them tells what a call costs.
static const qn_pstep *first_step(const qn_program *program, size_t kernel) {
  for (size_t i = 0; i < program->steps.count; i++) {
    if (program->steps.items[i].kernel == kernel) return &program->steps.items[i];
  }
  return NULL;
}

void quern_put_kernels(const qn_graph *graph, const qn_program *program, qn_buf *out) {
  for (size_t i = 0; i < program->kernels.count; i++) {
    const qn_pkernel *kernel = &program->kernels.items[i];
    const qn_pstep *step = first_step(program, i);
    quern_kernel_cost cost = {0};
    if (step) cost = quern_step_cost(graph, program, step);
    qn_buf_printf(out, "%s%s\n%ssignature = %s\n", heading, kernel->name, line_start, kernel->signature);
    for (size_t f = 0; f < QN_COUNT(facts); f++) put_fact(&facts[f], kernel, out);
    if (step) put_layouts(program, step, kernel->plain->param_count, out);
    for (size_t c = 0; c < QN_COUNT(costs); c++) {
      uint64_t value;
      memcpy(&value, (const char *)&cost + costs[c].offset, sizeof value);
      qn_buf_printf(out, "%s%s = %" PRIu64 "\n", line_start, costs[c].key, value);
    }
    qn_lkernel_print(kernel->plain, out);
  }
}

// ---- reading

typedef struct reader {
  const char *path, *name;  // of the file and the kernel, for messages
  qn_diag *diag;
} reader;

static qn_status fail(const reader *r, const char *what) {
  return qn_fail(r->diag, QN_ERR_FORMAT, r->path, "kernel '%s': %s; compile the model again", r->name, what);
}

// What follows the line `start` NAME in the text, whose first line is no such one.
static bool find(qn_str text, const char *start, const char *name, qn_str *out) {
  size_t start_length = strlen(start), name_length = strlen(name);
  const char *at = text.data, *end = text.data + text.length;
  while (at && (at = memmem(at, (size_t)(end - at), start, start_length)) != NULL) {
    at += start_length;
    if ((size_t)(end - at) > name_length && memcmp(at, name, name_length) == 0 && at[name_length] == '\n') {
      at += name_length + 1;
      *out = (qn_str){at, (size_t)(end - at)};
      return true;
    }
  }
  return false;
}

// Takes the next line off the text, without its end.
static qn_str take_line(qn_str *text) {
  const char *stop = memchr(text->data, '\n', text->length);
  qn_str line = {text->data, stop ? (size_t)(stop - text->data) : text->length};
  size_t used = line.length + (stop != NULL);
  *text = (qn_str){text->data + used, text->length - used};
  return line;
}

static bool starts_with(qn_str text, const char *prefix) {
  size_t length = strlen(prefix);
  return text.length >= length && memcmp(text.data, prefix, length) == 0;
}

// The value of the line "#   key = value" among `lines`.
static bool value_of(qn_str lines, const char *key, qn_str *out) {
  size_t length = strlen(key);
  while (lines.length > 0) {
    qn_str line = take_line(&lines);
    if (!starts_with(line, line_start)) continue;
    line.data += sizeof line_start - 1;
    line.length -= sizeof line_start - 1;
    if (!starts_with(line, key) || line.length < length + 3 || memcmp(line.data + length, " = ", 3) != 0) continue;
    *out = (qn_str){line.data + length + 3, line.length - length - 3};
    return true;
  }
  return false;
}

static bool read_number(qn_str text, uint64_t most, uint64_t *out) {
  *out = 0;
  if (text.length == 0 || text.length > 20) return false;
  for (size_t i = 0; i < text.length; i++) {
    unsigned digit = (unsigned char)text.data[i] - (unsigned)'0';
    if (digit > 9 || __builtin_mul_overflow(*out, (uint64_t)10, out) || __builtin_add_overflow(*out, digit, out))
      return false;
  }
  return *out <= most;
}

static qn_status read_fact(const reader *r, qn_str lines, const fact *f, qn_pkernel *out) {
  qn_str value;
  uint64_t number = 0;
  qn_dtype dtype = 0;
  qn_symbol symbol = QN_SYM_NONE;
  char *at = (char *)out + f->offset;
  if (!value_of(lines, f->key, &value)) return fail(r, "its facts lack one");
  bool good = f->kind == FACT_DTYPE    ? qn_dtype_parse(value, &dtype)
              : f->kind == FACT_SYMBOL ? qn_str_is(value, "-") || qn_symbol_parse(value, &symbol)
                                       : read_number(value, (uint64_t)f->most, &number);
  if (!good) return fail(r, "a fact is no value that makes sense");
  switch (f->kind) {
    case FACT_COUNT: *(int64_t *)(void *)at = (int64_t)number; break;
    case FACT_INT: *(int *)(void *)at = (int)number; break;
    case FACT_BOOL: *(bool *)(void *)at = number != 0; break;
    case FACT_DTYPE: *(qn_dtype *)(void *)at = dtype; break;
    case FACT_SYMBOL: *(qn_symbol *)(void *)at = symbol; break;
  }
  return QN_OK;
}

static qn_status read_costs(const reader *r, qn_str lines, quern_kernel_cost *out) {
  for (size_t i = 0; i < QN_COUNT(costs); i++) {
    qn_str value;
    uint64_t number;
    if (!value_of(lines, costs[i].key, &value) || !read_number(value, INT64_MAX, &number)) {
      return fail(r, "what it costs is not told");
    }
    memcpy((char *)out + costs[i].offset, &number, sizeof number);
  }
  return QN_OK;
}

static qn_status read_loops(const reader *r, qn_str text, qn_arena *arena, qn_pkernel *out) {
  const char *next = memmem(text.data, text.length, heading, sizeof heading - 1);
  if (next) text.length = (size_t)(next - text.data);
  qn_lkernel **kernels = NULL;
  size_t count = 0;
  QN_TRY(qn_lkernels_parse(r->path, text, arena, &kernels, &count, r->diag));
  if (count != 1) return fail(r, "want its loops once");
  out->plain = kernels[0];
  qn_diag inner = {0};
  if (qn_lkernel_verify(kernels[0], &inner) != QN_OK) return fail(r, inner.text);
  return QN_OK;
}

qn_status quern_read_kernel(const char *path, qn_str text, const char *name, qn_arena *arena, qn_pkernel *out,
                            quern_kernel_cost *out_cost, qn_diag *diag) {
  reader r = {path, name, diag};
  qn_str rest, signature;
  *out = (qn_pkernel){0};
  if (!find(text, heading, name, &rest)) return fail(&r, "its facts are not there");
  qn_str lines = rest, after = rest;
  while (starts_with(after, line_start)) take_line(&after);
  lines.length = rest.length - after.length;
  for (size_t i = 0; i < QN_COUNT(facts); i++) QN_TRY(read_fact(&r, lines, &facts[i], out));
  if (out_cost) QN_TRY(read_costs(&r, lines, out_cost));
  if (!value_of(lines, "signature", &signature)) return fail(&r, "its signature is not there");
  out->name = qn_arena_strdup(arena, name);
  out->signature = qn_arena_strndup(arena, signature.data, signature.length);
  if (!out->name || !out->signature) return qn_fail_nomem(diag, path, "a kernel's facts");
  return read_loops(&r, after, arena, out);
}

qn_status quern_read_layouts(const char *path, qn_str text, const char *name, size_t param_count, qn_layout *out,
                             qn_diag *diag) {
  reader r = {path, name, diag};
  qn_str rest, value;
  if (!find(text, heading, name, &rest)) return fail(&r, "its facts are not there");
  qn_str after = rest;
  while (starts_with(after, line_start)) take_line(&after);
  rest.length -= after.length;
  if (!value_of(rest, "layouts", &value)) return fail(&r, "how its weights are packed is not told");
  for (size_t i = 0; i < param_count; i++) {
    char word[16] = "";
    const char *comma = memchr(value.data, ',', value.length);
    size_t length = comma ? (size_t)(comma - value.data) : value.length;
    if (length >= sizeof word || (comma == NULL) != (i + 1 == param_count)) return fail(&r, "it tells other layouts");
    memcpy(word, value.data, length);
    out[i] = QN_LAYOUT_PLAIN;
    if (strcmp(word, "-") != 0 && !qn_layout_parse(word, &out[i])) return fail(&r, "a layout is none that is known");
    value.data += length + (comma != NULL);
    value.length -= length + (comma != NULL);
  }
  return QN_OK;
}

qn_status quern_read_schedule(const char *path, qn_str text, uint32_t plan, const char *variant, qn_schedule *out,
                              qn_diag *diag) {
  reader r = {path, variant, diag};
  char start[64];
  qn_str rest;
  snprintf(start, sizeof start, "\n# plan %" PRIu32 ", schedule of ", plan);
  if (!find(text, start, variant, &rest)) return fail(&r, "its schedule is not there");
  qn_str after = rest;
  while (after.length > 0 && after.data[0] != '\n' && after.data[0] != '#') take_line(&after);
  rest.length -= after.length;
  QN_TRY(qn_schedule_parse(path, rest, out, diag));
  return qn_schedule_check(out, diag);
}
