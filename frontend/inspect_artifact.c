// The description of an artifact, part by part, out of its records and texts.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/inspect.h"
#include "ir/type.h"
#include "runtime/artifact.h"
#include "runtime/base/window.h"
#include "runtime/chat.h"
#include "runtime/cpu_features.h"
#include "runtime/signature.h"
#include "runtime/tokenizer.h"

struct inspect_artifact {
  const inspection *to;  // borrowed
  qn_artifact whole;
  qn_artifact file;  // a view of it: with the program that is described at the moment
};

_Static_assert(QN_ARTIFACT_SYMBOLS == QN_SYM_COUNT, "the artifact's symbols are the IR's");

static const char *section_name(uint32_t kind) {
  if (kind == QN_SECTION_SIGNATURE) return "signature";
  static const char *const names[] = {"?", "program", "weights", "code", "tokenizer", "summary", "graph", "kernels", "chat"};
  return kind < QN_COUNT(names) ? names[kind] : names[0];
}

static qn_str section_text(const inspect_artifact *a, qn_art_section_kind kind) {
  size_t size;
  bool by_program = kind == QN_SECTION_GRAPH || kind == QN_SECTION_KERNELS;
  const char *data = qn_artifact_section(&a->file, kind, by_program ? a->file.program_index : 0, &size);
  return data ? (qn_str){data, size} : QN_STR("");
}

static bool is_for_gpus(const inspect_artifact *a) { return a->file.program->machine == QN_ART_GPU; }

static void put_name(const inspect_artifact *a, uint32_t string) {
  inspect_put_text(a->to->out, qn_str_from(a->file.strings + string));
}

// A number of something with its symbol: "256", "T", "8T".
static void put_extent(qn_buf *out, uint32_t symbol, int64_t value) {
  qn_dim dim = {(qn_symbol)symbol, value};
  qn_dim_print(dim, out);
}

static void put_type(const qn_art_buffer *buffer, qn_buf *out) {
  qn_buf_puts(out, buffer->dtype < QN_DTYPE_COUNT ? qn_dtype_name((qn_dtype)buffer->dtype) : "?");
  qn_buf_putc(out, '[');
  for (uint32_t d = 0; d < buffer->rank; d++) {
    if (d) qn_buf_putc(out, ',');
    put_extent(out, buffer->symbols[d], buffer->dims[d]);
  }
  qn_buf_putc(out, ']');
}

// --- summary, metadata, sections, targets

// Bytes and number of the buffers of one kind.
typedef struct buffer_sum {
  uint64_t bytes;
  uint32_t count;
} buffer_sum;

static buffer_sum sum_buffers(const inspect_artifact *a, qn_art_buffer_kind kind) {
  buffer_sum sum = {0};
  for (uint32_t i = 0; i < a->file.program->buffer_count; i++) {
    if (a->file.buffers[i].kind != (uint32_t)kind) continue;
    if (__builtin_add_overflow(sum.bytes, a->file.buffers[i].bytes, &sum.bytes)) sum.bytes = UINT64_MAX;
    sum.count++;
  }
  return sum;
}

// bytes × factor, at most UINT64_MAX: the file's numbers may be anything.
static uint64_t times(uint64_t bytes, uint64_t factor) {
  uint64_t product;
  return __builtin_mul_overflow(bytes, factor, &product) ? UINT64_MAX : product;
}

// Bytes of caches that one sequence at the largest context takes.
static uint64_t full_cache(const inspect_artifact *a) {
  const qn_art_program *program = a->file.program;
  int64_t context = qn_artifact_context_max(&a->file), keys = program->page_keys, step = program->symbol_max[QN_SYM_T];
  int64_t window = qn_artifact_window(&a->file), ring = qn_artifact_ring(&a->file);
  uint64_t bytes = 0;
  if (step == 0 || step > context) step = context;
  for (uint32_t i = 0; i < program->buffer_count; i++) {
    const qn_art_buffer *b = &a->file.buffers[i];
    bool rings = ring > 0 && b->window > 0;
    uint64_t own = times(b->bytes, (uint64_t)qn_window_pages(rings ? ring : window, step, context, keys));
    if (b->kind == QN_ART_CACHE && __builtin_add_overflow(bytes, own, &bytes)) return UINT64_MAX;
  }
  return bytes;
}

static void put_memory_lines(const inspect_artifact *a) {
  qn_buf *out = a->to->out;
  const qn_art_program *program = a->file.program;
  buffer_sum arena = sum_buffers(a, QN_ART_ARENA), weights = sum_buffers(a, QN_ART_WEIGHT);
  buffer_sum cache = sum_buffers(a, QN_ART_CACHE), inputs = sum_buffers(a, QN_ART_INPUT);
  char first[32], second[32];
  if (is_for_gpus(a)) qn_buf_puts(out, "for GPUs:\n");
  qn_buf_printf(out, "weights = %s in %" PRIu32 " buffers, mapped from the file\n", inspect_size(weights.bytes, first),
                weights.count);
  qn_buf_printf(out, "arena = %s for %" PRIu32 " buffers of %s in all\n", inspect_size(program->arena_bytes, first),
                arena.count, inspect_size(arena.bytes, second));
  qn_buf_printf(out, "inputs = %s in %" PRIu32 " buffers at most\n", inspect_size(inputs.bytes, first), inputs.count);
  if (cache.count == 0) return;
  uint64_t keys = program->page_keys;
  qn_buf_printf(out, "kv_cache = %s per 1024 tokens of a sequence; %" PRIu32 " buffers, pages of %" PRIu64 " tokens\n",
                inspect_size(times(cache.bytes, 1024) / keys, first), cache.count, keys);
  if (program->symbol_max[QN_SYM_P] > 0) {
    qn_buf_printf(out, "kv_cache_full = %s at the largest context, %" PRIu64 " tokens\n",
                  inspect_size(full_cache(a), first), (uint64_t)qn_artifact_context_max(&a->file));
  }
}

static void put_targets(const inspect_artifact *a) {
  qn_buf *out = a->to->out;
  const qn_art_code *code;
  size_t size;
  for (uint32_t i = 0; (code = qn_artifact_section(&a->file, QN_SECTION_CODE, i, &size)) != NULL; i++) {
    char bytes[32], text[32], missing[256];
    qn_buf_puts(out, "target = ");
    inspect_put_text(out, qn_str_from(code->target));
    qn_buf_printf(out, ", %s of code, ", inspect_size(code->image_size, bytes));
    if (code->arch == QN_ART_CUDA) {
      qn_buf_printf(out, "for a GPU: a cubin of %s, PTX of %s\n", inspect_size(code->cubin_size, bytes),
                    inspect_size(code->ptx_size, text));
    } else if (code->arch != qn_cpu_arch()) {
      qn_buf_printf(out, "not for this machine (%s)\n", qn_cpu_arch_name(qn_cpu_arch()));
    } else if (qn_cpu_missing(code->required, missing, sizeof missing)) {
      qn_buf_puts(out, "not for this machine, which lacks ");
      inspect_put_text(out, qn_str_from(missing));
      qn_buf_putc(out, '\n');
    } else {
      qn_buf_puts(out, "runs here\n");
    }
    qn_buf_puts(out, "  needs = ");
    inspect_put_text(out, qn_str_from(code->required));
    qn_buf_putc(out, '\n');
  }
}

static qn_status put_tokenizer(const inspect_artifact *a) {
  qn_buf *out = a->to->out;
  qn_str blob = section_text(a, QN_SECTION_TOKENIZER);
  if (blob.length == 0) {
    qn_buf_puts(out, "tokenizer = none\n");
    return QN_OK;
  }
  qn_tokenizer *tokenizer = NULL;
  QN_TRY(qn_tokenizer_open(blob.data, blob.length, a->to->allocator, &tokenizer, a->to->diag));
  qn_buf_printf(out, "tokenizer = %s, %" PRId32 " tokens", qn_tokenizer_kind_name(qn_tokenizer_get_kind(tokenizer)),
                qn_tokenizer_count(tokenizer));
  const int32_t ids[] = {qn_tokenizer_bos(tokenizer), qn_tokenizer_eos(tokenizer), qn_tokenizer_unk(tokenizer)};
  static const char *const names[] = {"bos", "eos", "unk"};
  for (size_t i = 0; i < QN_COUNT(ids); i++) {
    if (ids[i] < 0) continue;
    qn_buf_printf(out, ", %s %" PRId32 " ", names[i], ids[i]);
    qn_buf_quote(out, qn_tokenizer_piece(tokenizer, ids[i]));
  }
  qn_buf_printf(out, "%s\n", qn_tokenizer_adds_bos(tokenizer) ? ", prompts begin with bos" : "");
  qn_tokenizer_close(tokenizer);
  return QN_OK;
}

// Names of the chat templates.
static qn_status put_chat(const inspect_artifact *a) {
  qn_str section = section_text(a, QN_SECTION_CHAT);
  qn_chat_template found;
  bool is_there = true;
  for (size_t i = 0; is_there; i++) {
    QN_TRY(qn_chat_read(section.data, section.length, i, &found, &is_there, a->to->diag));
    if (!is_there) break;
    qn_buf_puts(a->to->out, i == 0 ? "chat_templates = " : ", ");
    inspect_put_text(a->to->out, found.name);
  }
  if (section.length > 0) qn_buf_putc(a->to->out, '\n');
  return QN_OK;
}

// Whose it says it is: nobody has checked that.
static void put_signature(const inspect_artifact *a) {
  const qn_art_signature *s = qn_signature_find(&a->file);
  if (!s) return;
  qn_buf_puts(a->to->out, "signature = ed25519, not checked, by ");
  for (size_t i = 0; i < sizeof s->public_key; i++) qn_buf_printf(a->to->out, "%02x", s->public_key[i]);
  qn_buf_putc(a->to->out, '\n');
}

static void put_program(const inspect_artifact *a) {
  const qn_art_program *program = a->file.program;
  qn_buf_printf(a->to->out, "program%s = %" PRIu32 " steps of %" PRIu32 " kernels in %" PRIu32 " variants%s\n",
                is_for_gpus(a) ? " for GPUs" : "", program->step_count, program->kernel_count, program->variant_count,
                program->plan_count > 1 ? ", by target" : "");
}

// Describes each program in turn, all of which may be in one file.
static void for_each_program(inspect_artifact *a, void (*put)(const inspect_artifact *a)) {
  for (qn_art_machine machine = QN_ART_CPU; machine < QN_ART_MACHINE_COUNT; machine++)
    if (qn_artifact_view(&a->whole, machine, &a->file)) put(a);
  a->file = a->whole;
}

static qn_status put_summary(inspect_artifact *a) {
  qn_buf *out = a->to->out;
  const qn_art_header *header = (const qn_art_header *)(const void *)a->file.mapping.data;
  char size[32];
  qn_buf_printf(out, "file = artifact version %" PRIu32 ", %s in %" PRIu32 " sections\n", header->version,
                inspect_size(header->file_size, size), a->file.section_count);
  inspect_put_text(out, section_text(a, QN_SECTION_SUMMARY));
  for_each_program(a, put_program);
  for_each_program(a, put_memory_lines);
  put_signature(a);
  put_targets(a);
  QN_TRY(put_tokenizer(a));
  return put_chat(a);
}

static void put_sections(const inspect_artifact *a) {
  qn_buf *out = a->to->out;
  for (uint32_t i = 0; i < a->file.section_count; i++) {
    const qn_art_section *s = &a->file.sections[i];
    qn_buf_printf(out, "%-9s %" PRIu32 " %14" PRIu64 " bytes at %-14" PRIu64 " hash %016" PRIx64 "\n",
                  section_name(s->kind), s->index, s->size, s->offset, s->hash);
  }
}

// --- memory, tensors

static void put_memory(const inspect_artifact *a) {
  static const char *const kinds[] = {"arena", "weight", "cache", "input"};
  qn_buf *out = a->to->out;
  put_memory_lines(a);
  qn_buf_puts(out, "largest =");
  for (int s = 1; s < QN_SYM_COUNT; s++) {
    qn_buf_printf(out, " %c ", qn_symbol_letter((qn_symbol)s));
    if (a->file.program->symbol_max[s] > 0) {
      qn_buf_printf(out, "%" PRId64, a->file.program->symbol_max[s]);
    } else {
      qn_buf_puts(out, "any");
    }
    qn_buf_puts(out, s + 1 < QN_SYM_COUNT ? "," : "\n");
  }
  for (uint32_t i = 0; i < a->file.program->buffer_count; i++) {
    const qn_art_buffer *b = &a->file.buffers[i];
    if (b->kind == QN_ART_WEIGHT) continue;  // these are the tensors
    qn_buf_printf(out, "b%-4" PRIu32 " %-6s %12" PRIu64 " bytes", i, kinds[b->kind], b->bytes);
    if (b->kind == QN_ART_ARENA) qn_buf_printf(out, " at %-10" PRIu64, b->offset);
    if (b->kind == QN_ART_CACHE) qn_buf_printf(out, " a page, layer %" PRIu32, b->layer);
    qn_buf_putc(out, ' ');
    put_type(b, out);
    if (b->name) {
      qn_buf_puts(out, b->output ? " output " : " ");
      put_name(a, b->name);
    }
    qn_buf_putc(out, '\n');
  }
}

static void put_tensors(const inspect_artifact *a) {
  qn_buf *out = a->to->out;
  for (uint32_t i = 0; i < a->file.program->buffer_count; i++) {
    const qn_art_buffer *b = &a->file.buffers[i];
    if (b->kind != QN_ART_WEIGHT) continue;
    qn_buf_printf(out, "%12" PRIu64 " bytes at %-12" PRIu64 " ", b->bytes, b->offset);
    put_type(b, out);
    qn_buf_putc(out, ' ');
    put_name(a, b->name);
    qn_buf_putc(out, '\n');
  }
}

// --- kernels

// The lines of "# plan N, schedule of NAME" in the text of the kernels, each after an indent.
static void put_schedule(const inspect_artifact *a, uint32_t plan, const char *name) {
  qn_str text = section_text(a, QN_SECTION_KERNELS);
  qn_buf heading;
  qn_buf_init(&heading, a->to->allocator);
  qn_buf_printf(&heading, "\n# plan %" PRIu32 ", schedule of %s\n", plan, name);
  const char *end = text.data + text.length;
  const char *at = heading.failed ? NULL : memmem(text.data, text.length, heading.data, heading.length);
  if (at) at += heading.length;
  while (at && at < end) {
    const char *stop = memchr(at, '\n', (size_t)(end - at));
    size_t length = (size_t)((stop ? stop : end) - at);
    if (length == 0 || *at == ' ' || !memmem(at, length, " = ", 3)) break;
    qn_buf_puts(a->to->out, "      ");
    inspect_put_text(a->to->out, (qn_str){at, length});
    qn_buf_putc(a->to->out, '\n');
    at = stop ? stop + 1 : end;
  }
  if (heading.failed) a->to->out->failed = true;
  qn_buf_deinit(&heading);
}

// How code of the plan starts the variant.
static void put_launch(const inspect_artifact *a, uint32_t plan, uint32_t index) {
  const qn_art_code *code;
  uint32_t first, count;
  qn_artifact_plan(&a->file, plan, &first, &count);
  for (uint32_t i = 0; (code = qn_artifact_code_at(&a->file, i)) != NULL; i++) {
    if (code->program != a->file.program_index || code->plan != plan) continue;
    const qn_art_launch *launch = &qn_art_code_launches(code)[index - first];
    qn_buf_printf(a->to->out, "      blocks of %" PRIu32 " threads, %" PRIu32 " bytes of shared memory\n",
                  launch->lanes * launch->groups, launch->shared_bytes);
    return;
  }
}

static void put_variant(const inspect_artifact *a, const qn_art_kernel *kernel, uint32_t plan, uint32_t index) {
  qn_buf *out = a->to->out;
  const qn_art_variant *v = &a->file.variants[index];
  qn_buf_puts(out, "    ");
  put_name(a, v->name);
  if (kernel->rows_symbol) {
    qn_buf_printf(out, ", %c from %" PRId64 " to ", qn_symbol_letter((qn_symbol)kernel->rows_symbol), v->rows_min);
    if (v->rows_max < INT32_MAX) {
      qn_buf_printf(out, "%" PRId64, v->rows_max);
    } else {
      qn_buf_puts(out, "any");
    }
  }
  qn_buf_puts(out, ", parallel over ");
  put_extent(out, v->extent_symbol, v->extent_value);
  if (v->extent_rows > 1) qn_buf_printf(out, ", by tiles of %" PRIu32, v->extent_rows);
  qn_buf_putc(out, '\n');
  if (is_for_gpus(a)) put_launch(a, plan, index);
  put_schedule(a, plan, a->file.strings + v->name);
}

// A kernel's variants in a plan. The plan and its targets are named where there is more than one.
static void put_slice(const inspect_artifact *a, const qn_art_kernel *kernel, uint32_t plan) {
  qn_buf *out = a->to->out;
  uint32_t first, count;
  const qn_art_slice *slice = qn_artifact_plan(&a->file, plan, &first, &count) + (kernel - a->file.kernels);
  if (a->file.program->plan_count > 1) {
    const qn_art_code *code;
    size_t size;
    qn_buf_printf(out, "  plan %" PRIu32, plan);
    for (uint32_t i = 0; (code = qn_artifact_section(&a->file, QN_SECTION_CODE, i, &size)) != NULL; i++) {
      if (code->plan != plan || code->program != a->file.program_index) continue;
      qn_buf_putc(out, ' ');
      inspect_put_text(out, qn_str_from(code->target));
    }
    qn_buf_puts(out, ":\n");
  }
  for (uint32_t v = 0; v < slice->variant_count; v++) put_variant(a, kernel, plan, slice->first_variant + v);
}

// The lines "# evidence of NAME, ...": what tuning measured.
static void put_evidence(const inspect_artifact *a, const char *name) {
  qn_str text = section_text(a, QN_SECTION_KERNELS);
  qn_buf heading;
  qn_buf_init(&heading, a->to->allocator);
  qn_buf_printf(&heading, "\n# evidence of %s, ", name);
  const char *end = text.data + text.length, *at = text.data;
  while (!heading.failed && (at = memmem(at, (size_t)(end - at), heading.data, heading.length)) != NULL) {
    at += heading.length;
    const char *stop = memchr(at, '\n', (size_t)(end - at));
    qn_buf_puts(a->to->out, "  tuned for ");
    inspect_put_text(a->to->out, (qn_str){at, (size_t)((stop ? stop : end) - at)});
    qn_buf_putc(a->to->out, '\n');
    if (!stop) break;
    at = stop;  // which the next heading begins with
  }
  if (heading.failed) a->to->out->failed = true;
  qn_buf_deinit(&heading);
}

static void put_kernels(const inspect_artifact *a) {
  qn_buf *out = a->to->out;
  const qn_art_program *program = a->file.program;
  if (is_for_gpus(a)) qn_buf_puts(out, "for GPUs:\n");
  for (uint32_t i = 0; i < program->kernel_count; i++) {
    const qn_art_kernel *kernel = &a->file.kernels[i];
    uint32_t steps = 0;
    for (uint32_t s = 0; s < program->step_count; s++) steps += a->file.steps[s].kernel == i;
    put_name(a, kernel->name);
    qn_buf_printf(out, ": parameters %" PRIu32 ", steps %" PRIu32 "\n", kernel->param_count, steps);
    put_evidence(a, a->file.strings + kernel->name);
    for (uint32_t p = 0; p < program->plan_count; p++) put_slice(a, kernel, p);
  }
  qn_buf_puts(out, "steps:\n");
  for (uint32_t s = 0; s < program->step_count; s++) {
    const qn_art_step *step = &a->file.steps[s];
    static const char *const links[] = {
        [QN_ART_LINK_NONE] = "         ", [QN_ART_LINK_PROLOGUE] = "prologue ", [QN_ART_LINK_CHAINED] = "chained  "};
    qn_buf_printf(out, "%5" PRIu32 " %s%s", s, step->barrier ? "barrier " : "        ", links[step->link]);
    put_name(a, a->file.kernels[step->kernel].name);
    const char *between = "(";
    for (uint32_t o = 0; o < step->operand_count; o++, between = ", ") {
      qn_buf_printf(out, "%sb%" PRIu32, between, a->file.operands[step->first_operand + o]);
    }
    qn_buf_puts(out, step->operand_count ? ") " : "() ");
    put_name(a, step->loc);
    qn_buf_putc(out, '\n');
  }
}

static void put_graph(const inspect_artifact *a) {
  if (is_for_gpus(a)) qn_buf_puts(a->to->out, "# for GPUs:\n");
  inspect_put_text(a->to->out, section_text(a, QN_SECTION_GRAPH));
}

static void put_loops(const inspect_artifact *a) {
  if (is_for_gpus(a)) qn_buf_puts(a->to->out, "# for GPUs:\n");
  inspect_put_text(a->to->out, section_text(a, QN_SECTION_KERNELS));
}

// --- the interface

qn_status inspect_artifact_open(const inspection *to, inspect_artifact **out) {
  *out = NULL;
  inspect_artifact *a = calloc(1, sizeof *a);
  if (!a) return qn_fail_nomem(to->diag, to->path, "its description");
  a->to = to;
  qn_status status = qn_artifact_open(&a->whole, to->path, to->diag);
  a->file = a->whole;
  if (status == QN_OK) {
    *out = a;
  } else {
    free(a);
  }
  return status;
}

qn_status inspect_artifact_part(inspect_artifact *a, inspect_part part) {
  switch (part) {
    case INSPECT_SUMMARY: return put_summary(a);
    case INSPECT_METADATA: inspect_put_text(a->to->out, section_text(a, QN_SECTION_SUMMARY)); break;
    case INSPECT_SECTIONS: put_sections(a); break;
    case INSPECT_TARGETS: put_targets(a); break;
    case INSPECT_MEMORY: for_each_program(a, put_memory); break;
    case INSPECT_TENSORS: put_tensors(a); break;
    case INSPECT_KERNELS: for_each_program(a, put_kernels); break;
    case INSPECT_GRAPH: for_each_program(a, put_graph); break;
    case INSPECT_LOOPS: for_each_program(a, put_loops); break;
    case INSPECT_CHECK:
      QN_TRY(qn_artifact_check_weights(&a->file, a->to->diag));
      qn_buf_puts(a->to->out, "weights_hash = good\n");
      break;
    case INSPECT_PART_COUNT: break;
  }
  return QN_OK;
}

void inspect_artifact_close(inspect_artifact *a) {
  if (!a) return;
  qn_artifact_close(&a->whole);
  free(a);
}
