// quern_compile_object: a compilation into one relocatable object file and a C header that says how to call it.
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "codegen/object_file.h"
#include "frontend/compilation.h"
#include "frontend/compile.h"
#include "runtime/base/options.h"

#define HEADER_MAGIC   "// Made by quern"
#define NAME_MAX_BYTES 64

typedef struct object_writing {
  quern_compilation *c;
  const quern_object_options *options;
  const char *object_path, *header_path;  // the latter of c->arena
  const char *name;                       // of c->arena: a C identifier
  const char *upper;                      // the same in capitals
  qn_object_spec spec;
  qn_buf header;
} object_writing;

// --- names

static bool is_identifier(const char *text) {
  if (!isalpha((unsigned char)text[0]) && text[0] != '_') return false;
  for (const char *c = text; *c; c++)
    if (!isalnum((unsigned char)*c) && *c != '_') return false;
  return true;
}

// The text as part of a C identifier, in the arena; NULL when out of memory.
static char *as_identifier(qn_arena *arena, const char *text) {
  char *out = qn_arena_strndup(arena, text, strlen(text) < NAME_MAX_BYTES ? strlen(text) : NAME_MAX_BYTES);
  for (char *c = out; c && *c; c++)
    if (!isalnum((unsigned char)*c) || (unsigned char)*c > 127) *c = '_';
  return out;
}

static qn_status choose_name(object_writing *w) {
  quern_compilation *c = w->c;
  const char *asked = w->options->name;
  if (asked && (!is_identifier(asked) || strlen(asked) > NAME_MAX_BYTES)) {
    return qn_fail(c->diag, QN_ERR_ARGUMENT, "name",
                   "got '%s', want a C identifier of at most %d letters, digits and _", asked, NAME_MAX_BYTES);
  }
  const char *own = as_identifier(&c->arena, quern_compilation_name(c));
  if (own && !asked && !is_identifier(own)) own = qn_arena_printf(&c->arena, "model_%s", own);
  w->name = asked ? asked : own;
  char *upper = w->name ? qn_arena_strdup(&c->arena, w->name) : NULL;
  for (char *at = upper; at && *at; at++) *at = (char)toupper((unsigned char)*at);
  w->upper = upper;
  if (!upper) return qn_fail_nomem(c->diag, "object", "a name");
  return QN_OK;
}

// "a/b.o" → "a/b.h"
static qn_status choose_header(object_writing *w) {
  size_t length = strlen(w->object_path);
  if (length > 2 && strcmp(w->object_path + length - 2, ".o") == 0) length -= 2;
  w->header_path = w->options->header_path ? w->options->header_path
                                           : qn_arena_printf(&w->c->arena, "%.*s.h", (int)length, w->object_path);
  return w->header_path ? QN_OK : qn_fail_nomem(w->c->diag, "object", "a path");
}

// A file that is there already is replaced only when it is one of the same kind.
static qn_status check_output(const char *path, const char *magic, const char *what, qn_diag *diag) {
  char head[32];
  size_t length = *path ? quern_file_head(path, head, sizeof head) : 0;
  if (!*path) return qn_fail(diag, QN_ERR_ARGUMENT, "output", "got an empty name, want the name of %s to write", what);
  if (length == 0 || (length >= strlen(magic) && memcmp(head, magic, strlen(magic)) == 0)) return QN_OK;
  return qn_fail(diag, QN_ERR_ARGUMENT, path, "is there already and not %s; delete it or choose another name", what);
}

static qn_status check_outputs(object_writing *w) {
  const char *weights = w->options->weights_path;
  QN_TRY(check_output(w->object_path, "\177ELF", "an object file", w->c->diag));
  QN_TRY(check_output(w->header_path, HEADER_MAGIC, "a header that quern made", w->c->diag));
  return weights ? check_output(weights, QN_WEIGHTS_MAGIC, "a file of weights", w->c->diag) : QN_OK;
}

// --- the header

// The values that sizes have, by symbol: names of fields, and what they count.
static const struct {
  const char *name, *about;
} SIZES[QN_SYM_COUNT] = {[QN_SYM_T] = {"tokens", "rows of the step"},
                         [QN_SYM_R] = {"rows", "rows whose results are wanted"},
                         [QN_SYM_P] = {"pages", "pages a sequence may have"},
                         [QN_SYM_B] = {"sequences", "sequences"},
                         [QN_SYM_G] = {"pool_pages", "pages of a cache"},
                         [QN_SYM_S] = {"source", "tokens of the source"}};

static const qn_pbuf *buffer_of(const object_writing *w, const qn_driver_field *field) {
  return &w->c->parts[0].pass.program->buffers.items[field->buffer];
}

// The field's name in the struct, without what depends on its kind.
static char *field_name(const object_writing *w, const qn_driver_field *field) {
  const qn_pbuf *p = buffer_of(w, field);
  char *name = as_identifier(&w->c->arena, p->name);
  if (!name || field->kind != QN_FIELD_CACHE) return name;
  return qn_arena_printf(&w->c->arena, "%s_%d", name, p->layer);
}

// Two tensors of one kind whose names are the same in C.
static qn_status check_names(const object_writing *w) {
  for (size_t i = 0; i < w->spec.field_count; i++) {
    const qn_driver_field *one = &w->spec.fields[i];
    if (one->kind > QN_FIELD_CACHE) break;
    char *name = field_name(w, one);
    for (size_t j = 0; name && j < i; j++) {
      const qn_driver_field *other = &w->spec.fields[j];
      char *taken = other->kind == one->kind ? field_name(w, other) : NULL;
      if (!taken || strcmp(taken, name) != 0) continue;
      return qn_fail(w->c->diag, QN_ERR_UNSUPPORTED, w->name, "got '%s' and '%s', which are both '%s' in C; rename one",
                     buffer_of(w, other)->name, buffer_of(w, one)->name, name);
    }
    if (!name) return qn_fail_nomem(w->c->diag, "object", "a name");
  }
  return QN_OK;
}

static void put_tensor(const object_writing *w, const qn_driver_field *field, qn_buf *out) {
  static const char *const kinds[] = {[QN_FIELD_INPUT] = "in", [QN_FIELD_OUTPUT] = "out", [QN_FIELD_CACHE] = "cache"};
  const qn_pbuf *p = buffer_of(w, field);
  const char *name = field_name(w, field), *type = p->type.dtype == QN_DTYPE_I32 ? "int32_t" : "float";
  if (field->kind == QN_FIELD_CACHE) type = "void";
  qn_buf_printf(out, "  %s%s *%s_%s;", field->kind == QN_FIELD_INPUT ? "const " : "", type, kinds[field->kind],
                name ? name : "?");
  qn_buf_puts(out, "  // ");
  qn_type_print(&p->type, out);
  if (field->kind == QN_FIELD_CACHE)
    qn_buf_printf(out, ", whose pages have %" PRIu64 " bytes each; what is in them at first does not matter", p->bytes);
  if (field->kind == QN_FIELD_OUTPUT) qn_buf_puts(out, ", written; NULL = not wanted");
  qn_buf_putc(out, '\n');
}

static void put_field(const object_writing *w, const qn_driver_field *field, qn_buf *out) {
  int64_t most = w->c->parts[0].pass.program->max_values[field->symbol];
  switch (field->kind) {
    case QN_FIELD_INPUT:
    case QN_FIELD_OUTPUT:
    case QN_FIELD_CACHE: put_tensor(w, field, out); break;
    case QN_FIELD_WEIGHTS:
      qn_buf_printf(out, "  const void *weights;  // all of the file of weights, %s_WEIGHTS_BYTES\n", w->upper);
      break;
    case QN_FIELD_SCRATCH:
      qn_buf_printf(out, "  void *scratch;  // %s_SCRATCH_BYTES to work in, which nobody else uses meanwhile\n",
                    w->upper);
      break;
    case QN_FIELD_SIZE:
      qn_buf_printf(out, "  int64_t %s;  // %c: %s, 0 to %" PRId64 "\n", SIZES[field->symbol].name,
                    qn_symbol_letter(field->symbol), SIZES[field->symbol].about, most);
      break;
    case QN_FIELD_PARALLEL:
      qn_buf_puts(out, "  quern_object_parallel_fn parallel;  // NULL = all on the calling thread\n");
      break;
    case QN_FIELD_PARALLEL_CONTEXT: qn_buf_puts(out, "  void *parallel_context;  // its first argument\n"); break;
  }
}

static void put_constants(const object_writing *w, qn_buf *out) {
  const qn_program *program = w->c->parts[0].pass.program;
  const char *n = w->upper;
  qn_buf_printf(out, "#define %s_TARGET \"%s\"\n#define %s_CPU_FEATURES \"%s\"\n", n, w->c->targets[0].name, n,
                w->c->targets[0].required);
  qn_buf_printf(out, "#define %s_SCRATCH_BYTES %" PRIu64 "\n", n, program->arena_bytes);
  qn_buf_printf(out, "#define %s_ALIGNMENT %d  // of scratch%s, and best of all that is given\n", n,
                QN_SCRATCH_ALIGNMENT, w->spec.weights ? " and weights" : "");
  if (w->spec.weights) qn_buf_printf(out, "#define %s_WEIGHTS_BYTES %" PRIu64 "\n", n, w->spec.weight_bytes);
  for (size_t i = 0; i < w->spec.field_count; i++) {
    const qn_driver_field *field = &w->spec.fields[i];
    if (field->kind != QN_FIELD_SIZE) continue;
    qn_buf_printf(out, "#define %s_MAX_", n);
    for (const char *c = SIZES[field->symbol].name; *c; c++) qn_buf_putc(out, (char)toupper((unsigned char)*c));
    qn_buf_printf(out, " %" PRId64 "\n", program->max_values[field->symbol]);
  }
}

static void put_intro(const object_writing *w, qn_buf *out) {
  qn_buf_printf(out, HEADER_MAGIC " %s from ", QUERN_VERSION);
  qn_put_one_line(out, qn_str_from(quern_compilation_name(w->c)));
  qn_buf_printf(
      out,
      ", for %s: how to call what is in the object file.\n"
      "// It needs nothing of quern, and of a C library memcpy%s. Tensors are dense and row-major.\n"
      "// Several threads may call at a time, each with memory of its own; a kernel may use 4 MiB of stack.\n",
      w->c->targets[0].name, w->c->targets[0].arch == QN_ARCH_X86_64 ? "" : " and getauxval");
  qn_buf_printf(out, "#ifndef %s_QUERN_H\n#define %s_QUERN_H\n\n#include <stddef.h>\n#include <stdint.h>\n\n", w->upper,
                w->upper);
  qn_buf_puts(
      out,
      "#ifndef QUERN_OBJECT_PARALLEL\n#define QUERN_OBJECT_PARALLEL\n"
      "// The host's own threads, for who has some: calls part(work, begin, end) for ranges that together are\n"
      "// [0, count), each number in one of them, in any order and by any threads, and returns when all calls\n"
      "// have. Results do not depend on how.\n"
      "typedef void (*quern_object_part_fn)(void *work, int64_t begin, int64_t end);\n"
      "typedef void (*quern_object_parallel_fn)(void *context, quern_object_part_fn part, void *work, int64_t count);\n"
      "#endif\n\n#ifdef __cplusplus\nextern \"C\" {\n#endif\n\n");
}

static qn_status make_header(object_writing *w) {
  qn_buf *out = &w->header;
  QN_TRY(check_names(w));
  put_intro(w, out);
  put_constants(w, out);
  qn_buf_printf(out, "\ntypedef struct %s_args {\n", w->name);
  for (size_t i = 0; i < w->spec.field_count; i++) put_field(w, &w->spec.fields[i], out);
  qn_buf_printf(out, "} %s_args;\n\n", w->name);
  qn_buf_printf(
      out,
      "// Runs the program once. 0, or a code: %d a pointer that is NULL or not aligned as it must be, %s%d this\n"
      "// CPU lacks one of %s_CPU_FEATURES, %d a size out of range. Integers that say where something is (ids\n"
      "// of tokens, rows, positions, pages) are not checked.\nint %s_run(const %s_args *args);\n",
      QN_DRIVER_ARGUMENT, w->spec.weights ? "3 weights of another object, " : "", QN_DRIVER_TARGET, w->upper,
      QN_DRIVER_LIMIT, w->name, w->name);
  qn_buf_puts(out, "\n#ifdef __cplusplus\n}\n#endif\n\n#endif\n");
  return out->failed ? qn_fail_nomem(w->c->diag, w->header_path, "the header") : QN_OK;
}

// --- writing

static qn_status open_compilation(object_writing *w, const char *model_path) {
  quern_compilation *c = w->c;
  if (c->options->sign_key)
    return qn_fail(c->diag, QN_ERR_ARGUMENT, "sign_key", "got a key, but an object file is not signed; want none");
  QN_TRY(quern_compilation_open(c, model_path));
  QN_TRY(quern_compilation_need_cpus(c, "an object file has code"));
  if (c->target_count > 1)
    return qn_fail(c->diag, QN_ERR_ARGUMENT, "target", "got '%s', want one: an object file has code for one target",
                   c->options->target);
  QN_TRY(choose_name(w));
  QN_TRY(choose_header(w));
  return check_outputs(w);
}

static qn_status write_object(object_writing *w, qn_file_writer *object, qn_file_writer *weights) {
  quern_compilation *c = w->c;
  quern_part *part = &c->parts[0];
  qn_weight_source source = quern_compilation_weights(c);
  qn_artifact_program program = {
      .machine = QN_ART_CPU, .program = part->pass.program, .plans = part->plans, .plan_count = part->plan_count};
  qn_artifact_spec spec = {.programs = &program,
                           .program_count = 1,
                           .weights = &source,
                           .progress = quern_compilation_pack_progress,
                           .progress_context = c};
  qn_codegen_options options = quern_codegen_options(c, &c->targets[0]);
  options.dump = NULL;
  w->spec = (qn_object_spec){.name = w->name,
                             .target = &c->targets[0],
                             .program = &spec,
                             .plan = &part->plans[0],
                             .code = &c->codes[0],
                             .weights = w->options->weights_path ? weights : NULL,
                             .arena = &c->arena};
  QN_TRY(qn_object_write(object, &w->spec, &options, c->allocator, c->diag));
  return quern_compilation_check_weights(c);
}

static qn_status write_all(object_writing *w, qn_file_writer *object, qn_file_writer *header, qn_file_writer *weights) {
  QN_TRY(quern_compile_code(w->c));
  QN_TRY(write_object(w, object, weights));
  QN_TRY(make_header(w));
  QN_TRY(qn_file_writer_write(header, w->header.data, w->header.length));
  QN_TRY(quern_compilation_report(w->c, "writing", 1, 1));
  if (w->spec.weights) QN_TRY(qn_file_writer_commit(weights));
  QN_TRY(qn_file_writer_commit(object));
  return qn_file_writer_commit(header);
}

static qn_status compile_object(object_writing *w, const char *model_path) {
  qn_file_writer object = {.fd = -1}, header = {.fd = -1}, weights = {.fd = -1};
  qn_diag *diag = w->c->diag;
  QN_TRY(open_compilation(w, model_path));
  QN_TRY(quern_make_plans(w->c));
  qn_status status = qn_file_writer_open(&object, w->object_path, diag);
  if (status == QN_OK) status = qn_file_writer_open(&header, w->header_path, diag);
  if (status == QN_OK && w->options->weights_path)
    status = qn_file_writer_open(&weights, w->options->weights_path, diag);
  if (status == QN_OK) status = write_all(w, &object, &header, &weights);
  qn_file_writer_abandon(&object);
  qn_file_writer_abandon(&header);
  qn_file_writer_abandon(&weights);
  return status;
}

static int make(const char *model_path, const quern_graph *built, const char *object_path,
                const quern_object_options *object, const quern_compile_options *options, quern_error *error) {
  quern_compile_options own;
  quern_object_options how;
  qn_diag diag = {0};
  quern_compilation c;
  qn_status status = quern_own_options(options, &own, &diag);
  if (status == QN_OK) status = qn_options_take(object, "quern_object_options", &how, sizeof how, &diag);
  quern_compilation_init(&c, &own, &diag);
  c.built = built;
  object_writing w = {.c = &c, .options = &how, .object_path = object_path};
  qn_buf_init(&w.header, c.allocator);
  if (status == QN_OK) status = compile_object(&w, model_path);
  qn_buf_deinit(&w.header);
  quern_compilation_deinit(&c);
  return quern_give_error(error, &diag, status);
}

int quern_compile_object(const char *model_path, const char *object_path, const quern_object_options *object,
                         const quern_compile_options *options, quern_error *error) {
  return make(model_path, NULL, object_path, object, options, error);
}

int quern_graph_object(const quern_graph *graph, const char *object_path, const quern_object_options *object,
                       const quern_compile_options *options, quern_error *error) {
  return make(quern_built_name(graph), graph, object_path, object, options, error);
}
