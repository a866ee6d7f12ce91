// Opens an artifact. Every offset, size, count and index of the file is checked against the file and against each other
// before anything uses it: after qn_artifact_open the rest of the runtime indexes without looking.
#include "runtime/artifact.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "runtime/base/hash.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "records are read in place: little-endian machines only");
_Static_assert(sizeof(qn_art_header) == 32 && sizeof(qn_art_section) == 32, "file layout");
_Static_assert(sizeof(qn_art_program) == 128 && sizeof(qn_art_buffer) == 120, "file layout");
_Static_assert(sizeof(qn_art_kernel) == 16 && sizeof(qn_art_slice) == 8, "file layout");
_Static_assert(sizeof(qn_art_variant) == 40, "file layout");
_Static_assert(sizeof(qn_art_step) == 24 && sizeof(qn_art_code) == 688 && sizeof(qn_art_launch) == 16,
               "file layout");

#define ALIGNMENT  64u
#define MAX_CACHES 8192u                // compared with each other
enum { MAX_SECTIONS = 1024 };
#define MAX_PLANS  1024u                // as many as there may be sections
#define MAX_BYTES  (UINT64_C(1) << 48)  // of anything that will be allocated
#define MAX_EXTENT (INT64_C(1) << 40)
#define MAX_EXTENT_ROWS (1 << 16)
#define DTYPE_F32  0u  // qn_dtype of ir/dtype.def
#define DTYPE_I32  3u

static const char *section_name(uint32_t kind) {
  static const char *const names[] = {"unknown",   "program", "weights", "code",
                                      "tokenizer", "summary", "graph",   "kernels", "chat"};
  if (kind == QN_SECTION_SIGNATURE) return "signature";
  return kind < QN_COUNT(names) ? names[kind] : names[0];
}

// --- header and section table

static qn_status check_magic(const qn_artifact *a, const qn_art_header *header, qn_diag *diag) {
  if (memcmp(header->magic, QN_ARTIFACT_MAGIC, sizeof header->magic) == 0) return QN_OK;
  char got[3 * sizeof header->magic + 1] = "";
  for (size_t i = 0; i < sizeof header->magic; i++) {
    snprintf(got + 3 * i, 4, "%02x ", (unsigned char)header->magic[i]);
  }
  bool line_end = header->magic[5] == '\r' || header->magic[5] == '\n';
  bool text = line_end && memcmp(header->magic, QN_ARTIFACT_MAGIC, 5) == 0;
  got[strlen(got) - 1] = '\0';
  return qn_fail(diag, QN_ERR_FORMAT, a->path, "byte 0: got %s, want 71 75 65 72 6e 0d 0a 1a: %s", got,
                 text ? "a transfer as text has damaged this file; copy it as binary" : "this is not a quern artifact");
}

static qn_status check_header(qn_artifact *a, qn_diag *diag) {
  size_t size = a->mapping.size;
  if (size < sizeof(qn_art_header)) {
    return qn_fail(diag, QN_ERR_FORMAT, a->path, "the file is truncated: got %zu bytes, want at least %zu", size,
                   sizeof(qn_art_header));
  }
  const qn_art_header *header = (const qn_art_header *)(const void *)a->mapping.data;
  QN_TRY(check_magic(a, header, diag));
  if (header->version != QN_ARTIFACT_VERSION) {
    return qn_fail(diag, QN_ERR_UNSUPPORTED, a->path,
                   "byte 8: format version: got %" PRIu32 ", want %u; compile the model again", header->version,
                   QN_ARTIFACT_VERSION);
  }
  if (header->file_size != size) {
    return qn_fail(diag, QN_ERR_FORMAT, a->path, "%s: got %zu bytes, want %" PRIu64,
                   size < header->file_size ? "the file is truncated" : "the file has bytes after its end", size,
                   header->file_size);
  }
  if (header->section_count > (size - sizeof *header) / sizeof(qn_art_section)) {
    return qn_fail(diag, QN_ERR_FORMAT, a->path, "byte 12: got %" PRIu32 " sections, want at most %zu in %zu bytes",
                   header->section_count, (size - sizeof *header) / sizeof(qn_art_section), size);
  }
  a->sections = (const qn_art_section *)(const void *)(a->mapping.data + sizeof *header);
  a->section_count = header->section_count;
  uint64_t hash = qn_hash64(a->sections, a->section_count * sizeof *a->sections, QN_ARTIFACT_VERSION);
  if (hash != header->table_hash) {
    return qn_fail(diag, QN_ERR_FORMAT, a->path,
                   "the section table is damaged: got hash %016" PRIx64 ", want %016" PRIx64, hash, header->table_hash);
  }
  return QN_OK;
}

// `end`: where the section before ends, the table for the first one.
static qn_status check_section(const qn_artifact *a, uint32_t at, uint64_t end, qn_diag *diag) {
  const qn_art_section *s = &a->sections[at];
  bool paged = s->kind == QN_SECTION_WEIGHTS || s->kind == QN_SECTION_CODE;
  uint64_t alignment = paged ? QN_ARTIFACT_PAGE : ALIGNMENT;
  const char *name = section_name(s->kind);
  if (s->offset % alignment != 0) {
    return qn_fail(diag, QN_ERR_FORMAT, a->path,
                   "section %" PRIu32 " (%s): got offset %" PRIu64 ", want a multiple of %" PRIu64, at, name, s->offset,
                   alignment);
  }
  if (s->offset < end) {
    return qn_fail(diag, QN_ERR_FORMAT, a->path,
                   "section %" PRIu32 " (%s): got offset %" PRIu64 ", want at least %" PRIu64, at, name, s->offset,
                   end);
  }
  if (s->offset > a->mapping.size || s->size > a->mapping.size - s->offset) {
    return qn_fail(diag, QN_ERR_FORMAT, a->path,
                   "section %" PRIu32 " (%s): got %" PRIu64 " bytes at %" PRIu64 ", want an end within %zu", at, name,
                   s->size, s->offset, a->mapping.size);
  }
  uint32_t index = 0;
  for (uint32_t i = 0; i < at; i++) index += a->sections[i].kind == s->kind;
  bool signature = s->kind == QN_SECTION_SIGNATURE;
  bool single = signature || s->kind == QN_SECTION_WEIGHTS || s->kind == QN_SECTION_TOKENIZER ||
                s->kind == QN_SECTION_SUMMARY || s->kind == QN_SECTION_CHAT;
  if (s->index != index || (index > 0 && single)) {
    return qn_fail(diag, QN_ERR_FORMAT, a->path, "section %" PRIu32 " (%s): got index %" PRIu32 ", want %s", at, name,
                   s->index, single ? "one section of this kind" : "consecutive ones");
  }
  if (signature && s->size != sizeof(qn_art_signature)) {
    return qn_fail(diag, QN_ERR_FORMAT, a->path, "section %" PRIu32 " (%s): got %" PRIu64 " bytes, want %zu", at, name,
                   s->size, sizeof(qn_art_signature));
  }
  return QN_OK;
}

static qn_status check_hash(const qn_artifact *a, uint32_t at, qn_diag *diag) {
  const qn_art_section *s = &a->sections[at];
  uint64_t hash = qn_hash64(a->mapping.data + s->offset, (size_t)s->size, s->kind);
  if (hash == s->hash) return QN_OK;
  return qn_fail(diag, QN_ERR_FORMAT, a->path,
                 "section %" PRIu32 " (%s) at byte %" PRIu64 " is damaged: got hash %016" PRIx64 ", want %016" PRIx64,
                 at, section_name(s->kind), s->offset, hash, s->hash);
}

static qn_status check_sections(const qn_artifact *a, qn_diag *diag) {
  if (a->section_count > MAX_SECTIONS) {
    return qn_fail(diag, QN_ERR_FORMAT, a->path, "got %" PRIu32 " sections, want at most %d", a->section_count,
                   MAX_SECTIONS);
  }
  uint64_t end = sizeof(qn_art_header) + a->section_count * sizeof(qn_art_section);
  for (uint32_t i = 0; i < a->section_count; i++) {
    QN_TRY(check_section(a, i, end, diag));
    end = a->sections[i].offset + a->sections[i].size;
  }
  for (uint32_t i = 0; i < a->section_count; i++) {
    bool hashed = a->sections[i].kind != QN_SECTION_WEIGHTS && a->sections[i].kind != QN_SECTION_SIGNATURE;
    if (hashed) QN_TRY(check_hash(a, i, diag));
  }
  return QN_OK;
}

// Takes all but the weights into memory before anything is checked, so that what was checked is what is used, whatever
// becomes of the file. Where the weights are is checked here; a table that says nonsense is refused later.
static qn_status keep_all_but_weights(qn_artifact *a, qn_diag *diag) {
  const qn_art_header *header = (const qn_art_header *)(const void *)a->mapping.data;
  size_t size = a->mapping.size, begin = size, end = size;
  if (size < sizeof *header) return QN_OK;
  size_t most = (size - sizeof *header) / sizeof(qn_art_section), count = header->section_count;
  const qn_art_section *sections = (const qn_art_section *)(const void *)(header + 1);
  for (size_t i = 0; i < count && i < most && i < MAX_SECTIONS; i++) {
    qn_art_section s = sections[i];
    if (s.kind != QN_SECTION_WEIGHTS || s.offset > size || s.size > size - s.offset) continue;
    begin = (size_t)s.offset;
    end = begin + (size_t)s.size;
    break;
  }
  return qn_mapping_keep_but(&a->mapping, begin, end, a->path, diag);
}

// --- program

// "t.qn: program section 0: " and what is wrong there.
QN_PRINTF(3, 4) static qn_status bad_program(const qn_artifact *a, qn_diag *diag, const char *format, ...) {
  char text[512];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  return qn_fail(diag, QN_ERR_FORMAT, a->path, "program section %" PRIu32 ": %s", a->program_index, text);
}

typedef struct cursor {
  const qn_artifact *artifact;
  const uint8_t *data;  // of the section
  size_t size, at;
  qn_diag *diag;
} cursor;

static qn_status take(cursor *c, const char *what, size_t count, size_t item_size, const void **out) {
  size_t start = qn_align_up(c->at, 8), bytes = 0;
  if (!qn_size_mul(count, item_size, &bytes) || start > c->size || bytes > c->size - start) {
    return bad_program(c->artifact, c->diag,
                   "%s: got %zu of %zu bytes from byte %zu, want an end within %zu", what, count,
                   item_size, start, c->size);
  }
  *out = c->data + start;
  c->at = start + bytes;
  return QN_OK;
}

// Takes the program of the index, which is there.
static qn_status find_arrays(qn_artifact *a, uint32_t index, qn_diag *diag) {
  cursor c = {.artifact = a, .diag = diag};
  c.data = qn_artifact_section(a, QN_SECTION_PROGRAM, index, &c.size);
  a->program_index = index;
  const void *found = NULL;
  QN_TRY(take(&c, "head", 1, sizeof *a->program, &found));
  a->program = found;
  if (a->program->plan_count == 0) {
    return bad_program(a, diag, "got no plans, want at least 1");
  }
  QN_TRY(take(&c, "buffers", a->program->buffer_count, sizeof *a->buffers, &found));
  a->buffers = found;
  QN_TRY(take(&c, "kernels", a->program->kernel_count, sizeof *a->kernels, &found));
  a->kernels = found;
  size_t slice_count = 0;
  if (!qn_size_mul(a->program->plan_count, a->program->kernel_count, &slice_count)) slice_count = SIZE_MAX;
  QN_TRY(take(&c, "slices", slice_count, sizeof *a->slices, &found));
  a->slices = found;
  QN_TRY(take(&c, "variants", a->program->variant_count, sizeof *a->variants, &found));
  a->variants = found;
  QN_TRY(take(&c, "steps", a->program->step_count, sizeof *a->steps, &found));
  a->steps = found;
  QN_TRY(take(&c, "operands", a->program->operand_count, sizeof *a->operands, &found));
  a->operands = found;
  QN_TRY(take(&c, "strings", a->program->string_bytes, 1, &found));
  a->strings = found;
  if (c.at != c.size) {
    return bad_program(a, diag, "got %zu bytes, want %zu", c.size, c.at);
  }
  uint32_t bytes = a->program->string_bytes;
  if (bytes == 0 || a->strings[bytes - 1] != '\0' || a->strings[0] != '\0') {
    return bad_program(a, diag, "got strings that do not begin and end with a NUL");
  }
  return QN_OK;
}

// "program section 0: buffer 3: kind: got 9, want at most 3"
static qn_status wrong(const qn_artifact *a, qn_diag *diag, const char *array, uint32_t index, const char *field,
                       uint64_t got, uint64_t most) {
  return bad_program(a, diag,
                 "%s %" PRIu32 ": %s: got %" PRIu64 ", want at most %" PRIu64, array, index, field,
                 got, most);
}
#define AT_MOST(array, index, field, got, most)                                      \
  do {                                                                               \
    if ((uint64_t)(got) > (uint64_t)(most))                                          \
      return wrong(a, diag, array, index, field, (uint64_t)(got), (uint64_t)(most)); \
  } while (0)
#define STRING(array, index, field, offset) AT_MOST(array, index, field, offset, a->program->string_bytes - 1)

static qn_status check_head(const qn_artifact *a, qn_diag *diag) {
  const qn_art_program *p = a->program;
  STRING("head", 0, "name", p->name);
  AT_MOST("head", 0, "plans", p->plan_count, MAX_PLANS);
  AT_MOST("head", 0, "machine", p->machine, QN_ART_MACHINE_COUNT - 1);
  AT_MOST("head", 0, "arena bytes", p->arena_bytes, MAX_BYTES);
  AT_MOST("head", 0, "bytes of a thread's own", p->own_bytes, p->machine == QN_ART_GPU ? 0 : MAX_BYTES);
  AT_MOST("head", 0, "keys of a page", p->page_keys, 65536);
  AT_MOST("head", 0, "vocabulary", p->vocab_size, INT32_MAX);
  AT_MOST("head", 0, "context", p->context_tokens, INT32_MAX);
  AT_MOST("head", 0, "start of a text", p->start, p->vocab_size);
  for (uint32_t i = 0; i < QN_ARTIFACT_SYMBOLS; i++)
    AT_MOST("head", 0, "largest symbol value", p->symbol_max[i], INT32_MAX);
  return QN_OK;
}

// An output's rows at the largest symbol values lie inside its bytes, so that a host may read them.
static qn_status check_output(const qn_artifact *a, uint32_t i, qn_diag *diag) {
  const qn_art_buffer *b = &a->buffers[i];
  if (b->kind != QN_ART_ARENA || b->name == 0 || (b->dtype != DTYPE_F32 && b->dtype != DTYPE_I32)) {
    return bad_program(a, diag,
                   "buffer %" PRIu32 ": got an output of kind %" PRIu32 ", name %" PRIu32
                   ", dtype %" PRIu32 ", want a named f32 or i32 value in the arena",
                   i, b->kind, b->name, b->dtype);
  }
  if (b->rank == 0 || b->rank > 2 || (b->rank == 2 && b->symbols[1] != 0)) return QN_OK;
  int64_t rows = b->dims[0];
  if (b->symbols[0] != 0 && a->program->symbol_max[b->symbols[0]] == 0) {  // a host reads the rows
    return bad_program(a, diag,
                   "buffer %" PRIu32 ": got an output whose rows have no bound (symbol %" PRIu32
                   "), want one",
                   i, b->symbols[0]);
  }
  if (b->symbols[0] != 0 && __builtin_mul_overflow(rows, a->program->symbol_max[b->symbols[0]], &rows))
    rows = INT64_MAX;
  int64_t pitch = b->rank == 2 ? b->row_pitch : 1, bytes = 0;
  if (b->rank == 2 && pitch < b->dims[1]) {
    return bad_program(a, diag,
                   "buffer %" PRIu32 ": row pitch: got %" PRId64 ", want at least %" PRId64, i, pitch,
                   b->dims[1]);
  }
  if (__builtin_mul_overflow(rows, pitch * (int64_t)sizeof(float), &bytes)) bytes = INT64_MAX;
  AT_MOST("buffer", i, "bytes of an output's rows", bytes, b->bytes);
  return QN_OK;
}

static qn_status check_buffer(const qn_artifact *a, uint32_t i, qn_diag *diag) {
  const qn_art_buffer *b = &a->buffers[i];
  AT_MOST("buffer", i, "kind", b->kind, QN_ART_INPUT);
  STRING("buffer", i, "name", b->name);
  AT_MOST("buffer", i, "bytes", b->bytes, MAX_BYTES);
  AT_MOST("buffer", i, "output", b->output, 1);
  AT_MOST("buffer", i, "cache of a source", b->of_source, b->kind == QN_ART_CACHE);
  AT_MOST("buffer", i, "window", b->window, b->kind == QN_ART_CACHE ? INT32_MAX : 0);
  AT_MOST("buffer", i, "dtype", b->dtype, 255);
  AT_MOST("buffer", i, "rank", b->rank, 4);
  AT_MOST("buffer", i, "row pitch", b->row_pitch, INT32_MAX);
  AT_MOST("buffer", i, "layer", b->layer, 65535);
  for (uint32_t d = 0; d < QN_COUNT(b->symbols); d++) {
    if (d < b->rank) AT_MOST("buffer", i, "dimension", b->dims[d], MAX_EXTENT);
    AT_MOST("buffer", i, "symbol", b->symbols[d], QN_ARTIFACT_SYMBOLS - 1);
  }
  bool arena = b->kind == QN_ART_ARENA;
  if (arena || b->kind == QN_ART_WEIGHT) {
    uint64_t within = arena ? a->program->arena_bytes : a->weights_size;
    AT_MOST("buffer", i, arena ? "offset in the arena" : "offset in the weights", b->offset, within);
    AT_MOST("buffer", i, arena ? "end in the arena" : "end in the weights", b->offset + b->bytes, within);
    AT_MOST("buffer", i, "offset's remainder by 64", b->offset % ALIGNMENT, 0);
  } else if (b->name == 0 || a->strings[b->name] == '\0') {
    return bad_program(a, diag,
                   "buffer %" PRIu32 ": got no name, want one: it is bound by name", i);
  }
  uint64_t own = arena ? a->program->own_bytes : 0;
  AT_MOST("buffer", i, "bytes in a thread's own memory", b->own_bytes, own);
  AT_MOST("buffer", i, "offset in a thread's own memory", b->own_offset, own - b->own_bytes);
  AT_MOST("buffer", i, "own offset's remainder by 64", b->own_offset % ALIGNMENT, 0);
  if (b->output) AT_MOST("buffer", i, "an output's bytes in a thread's own memory", b->own_bytes, 0);
  if (b->kind == QN_ART_CACHE && (b->bytes == 0 || b->bytes % ALIGNMENT != 0 || a->program->page_keys == 0)) {
    return bad_program(a, diag,
                   "buffer %" PRIu32 ": got pages of %" PRIu64 " bytes and %" PRIu32
                   " keys, want multiples of 64 bytes and at least one key",
                   i, b->bytes, a->program->page_keys);
  }
  return b->output ? check_output(a, i, diag) : QN_OK;
}

// No two inputs of one name, no two caches of one kind and layer.
static qn_status check_bindings(const qn_artifact *a, qn_diag *diag) {
  uint32_t bound[MAX_CACHES], count = 0;
  for (uint32_t i = 0; i < a->program->buffer_count; i++) {
    const qn_art_buffer *b = &a->buffers[i];
    if (b->kind != QN_ART_CACHE && b->kind != QN_ART_INPUT) continue;
    AT_MOST("buffer", i, "inputs and caches so far", count + 1, MAX_CACHES);
    for (uint32_t j = 0; j < count; j++) {
      const qn_art_buffer *other = &a->buffers[bound[j]];
      if (other->kind != b->kind || other->layer != b->layer) continue;
      if (strcmp(a->strings + other->name, a->strings + b->name) == 0) {
        return bad_program(a, diag,
                       "buffer %" PRIu32 ": got '%.64s' of layer %" PRIu32 ", which buffer %" PRIu32
                       " is already",
                       i, a->strings + b->name, b->layer, bound[j]);
      }
    }
    bound[count++] = i;
  }
  return QN_OK;
}

static qn_status check_kernels(const qn_artifact *a, qn_diag *diag) {
  for (uint32_t i = 0; i < a->program->kernel_count; i++) {
    const qn_art_kernel *k = &a->kernels[i];
    STRING("kernel", i, "name", k->name);
    AT_MOST("kernel", i, "symbol of the rows", k->rows_symbol, QN_ARTIFACT_SYMBOLS - 1);
    AT_MOST("kernel", i, "parameters", k->param_count, 4096);
  }
  return QN_OK;
}

// Every kernel has its variants in every plan, and the slices name all variants once, in order.
static qn_status check_plans(const qn_artifact *a, qn_diag *diag) {
  uint32_t next = 0;
  size_t slice_count = (size_t)a->program->plan_count * a->program->kernel_count;
  for (uint32_t i = 0; i < slice_count; i++) {
    const qn_art_slice *slice = &a->slices[i];
    bool chosen = a->kernels[i % a->program->kernel_count].rows_symbol != 0;
    if (slice->variant_count == 0 || (!chosen && slice->variant_count != 1)) {
      return bad_program(a, diag,
                     "slice %" PRIu32 ": variants: got %" PRIu32 ", want %s", i, slice->variant_count,
                     chosen ? "at least 1" : "1, since no symbol chooses one");
    }
    if (slice->first_variant != next) {
      return bad_program(a, diag,
                     "slice %" PRIu32 ": first variant: got %" PRIu32 ", want %" PRIu32, i,
                     slice->first_variant, next);
    }
    AT_MOST("slice", i, "end of the variants", (uint64_t)next + slice->variant_count, a->program->variant_count);
    next += slice->variant_count;
  }
  if (next != a->program->variant_count) {
    return bad_program(a, diag,
                   "got %" PRIu32 " variants, want %" PRIu32 " as the plans have",
                   a->program->variant_count, next);
  }
  for (uint32_t i = 0; i < a->program->variant_count; i++) {
    const qn_art_variant *v = &a->variants[i];
    STRING("variant", i, "name", v->name);
    AT_MOST("variant", i, "smallest row count", v->rows_min, v->rows_max);
    AT_MOST("variant", i, "largest row count", v->rows_max, INT64_MAX);
    AT_MOST("variant", i, "symbol of the extent", v->extent_symbol, QN_ARTIFACT_SYMBOLS - 1);
    AT_MOST("variant", i, "extent", v->extent_value, MAX_EXTENT);
    AT_MOST("variant", i, "mark of parts", v->in_parts, 1);
    AT_MOST("variant", i, "rows of an iteration", v->extent_rows, MAX_EXTENT_ROWS);
  }
  return QN_OK;
}

// A link joins two steps of the program, one of which may be a prologue or chained but not both.
static qn_status check_link(const qn_artifact *a, uint32_t i, qn_diag *diag) {
  const qn_art_step *s = &a->steps[i];
  AT_MOST("step", i, "link", s->link, a->program->machine == QN_ART_GPU ? QN_ART_LINK_NONE : QN_ART_LINK_CHAINED);
  bool last = i + 1 == a->program->step_count, after = i > 0 && a->steps[i - 1].link == QN_ART_LINK_PROLOGUE;
  bool lost = s->link == QN_ART_LINK_PROLOGUE ? last : s->link == QN_ART_LINK_CHAINED && i == 0;
  if (!lost && !(after && s->link != QN_ART_LINK_NONE)) return QN_OK;
  return bad_program(a, diag,
                 "step %" PRIu32 ": got link %" PRIu32
                 ", want a neighbour to join, and none beside a prologue",
                 i, s->link);
}

static qn_status check_steps(const qn_artifact *a, qn_diag *diag) {
  for (uint32_t i = 0; i < a->program->step_count; i++) {
    const qn_art_step *s = &a->steps[i];
    if (s->kernel >= a->program->kernel_count) {
      return bad_program(a, diag,
                     "step %" PRIu32 ": kernel: got %" PRIu32 ", want one of %" PRIu32, i, s->kernel,
                     a->program->kernel_count);
    }
    STRING("step", i, "place", s->loc);
    AT_MOST("step", i, "barrier", s->barrier, 1);
    QN_TRY(check_link(a, i, diag));
    AT_MOST("step", i, "end of the operands", (uint64_t)s->first_operand + s->operand_count, a->program->operand_count);
    if (s->operand_count != a->kernels[s->kernel].param_count) {
      return bad_program(a, diag,
                     "step %" PRIu32 ": got %" PRIu32 " operands, want %" PRIu32
                     " as its kernel has parameters",
                     i, s->operand_count, a->kernels[s->kernel].param_count);
    }
  }
  for (uint32_t i = 0; i < a->program->operand_count; i++) {
    if (a->operands[i] >= a->program->buffer_count) {
      return bad_program(a, diag,
                     "operand %" PRIu32 ": got buffer %" PRIu32 ", want one of %" PRIu32, i,
                     a->operands[i], a->program->buffer_count);
    }
  }
  return QN_OK;
}

// Takes one program after the other and checks it; at the end the first is taken.
static qn_status check_programs(qn_artifact *a, qn_diag *diag) {
  size_t size = 0;
  uint32_t count = 0, last = 0;
  while (qn_artifact_section(a, QN_SECTION_PROGRAM, count, &size)) count++;
  if (count == 0) return qn_fail(diag, QN_ERR_FORMAT, a->path, "got no program section, want one");
  for (uint32_t i = 0; i < count; i++) {
    QN_TRY(find_arrays(a, i, diag));
    QN_TRY(check_head(a, diag));
    if (i > 0 && a->program->machine <= last) {
      return bad_program(a, diag, "got machine %" PRIu32 " after %" PRIu32 ", want one program for each, in order",
                         a->program->machine, last);
    }
    last = a->program->machine;
    for (uint32_t b = 0; b < a->program->buffer_count; b++) QN_TRY(check_buffer(a, b, diag));
    QN_TRY(check_bindings(a, diag));
    QN_TRY(check_kernels(a, diag));
    QN_TRY(check_plans(a, diag));
    QN_TRY(check_steps(a, diag));
  }
  return find_arrays(a, 0, diag);
}

// --- code

QN_PRINTF(4, 5)
static qn_status bad_code(const qn_artifact *a, uint32_t index, qn_diag *diag, const char *format, ...) {
  char text[512];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  return qn_fail(diag, QN_ERR_FORMAT, a->path, "code section %" PRIu32 ": %s", index, text);
}

static qn_status check_offsets(const qn_artifact *a, uint32_t index, const qn_art_code *code, qn_diag *diag) {
  const uint64_t *offsets = (const uint64_t *)(const void *)(code + 1);
  for (uint32_t i = 0; i < code->variant_count; i++) {
    if (offsets[i] < code->image_size) continue;
    return bad_code(a, index, diag, "function %" PRIu32 ": got offset %" PRIu64 ", want less than %" PRIu64, i,
                    offsets[i], code->image_size);
  }
  if (code->cubin_size == 0 && code->ptx_size == 0) return QN_OK;
  return bad_code(a, index, diag,
                  "got a cubin of %" PRIu64 " bytes and PTX of %" PRIu64 " in code for a CPU, want none",
                  code->cubin_size, code->ptx_size);
}

static qn_status check_launches(const qn_artifact *a, uint32_t index, const qn_art_code *code, qn_diag *diag) {
  const qn_art_launch *launches = qn_art_code_launches(code);
  for (uint32_t i = 0; i < code->variant_count; i++) {
    uint64_t threads = (uint64_t)launches[i].lanes * launches[i].groups;
    bool fits = threads > 0 && threads <= QN_ART_BLOCK_THREADS_MAX;
    if (fits && launches[i].shared_bytes <= QN_ART_SHARED_BYTES_MAX) continue;
    return bad_code(a, index, diag,
                    "function %" PRIu32 ": got blocks of %" PRIu32 " groups of %" PRIu32 " lanes with %" PRIu32
                    " bytes of shared memory, want 1 to %u threads and at most %u bytes",
                    i, launches[i].groups, launches[i].lanes, launches[i].shared_bytes, QN_ART_BLOCK_THREADS_MAX,
                    QN_ART_SHARED_BYTES_MAX);
  }
  return QN_OK;
}

// The image of a GPU's code is a cubin and PTX, of which one may be missing; functions must be in something.
static qn_status check_cuda(const qn_artifact *a, uint32_t index, const qn_art_code *code, qn_diag *diag) {
  uint64_t cubin = code->cubin_size, ptx = code->ptx_size;
  if (qn_art_code_sm(code) == 0) {
    return bad_code(a, index, diag, "got '%s' as the chip that it needs, want sm_ and a number", code->required);
  }
  bool empty = code->variant_count > 0 && code->image_size == 0;
  if (cubin > code->image_size || ptx != code->image_size - cubin || empty) {
    return bad_code(a, index, diag,
                    "got a cubin of %" PRIu64 " bytes and PTX of %" PRIu64 " in an image of %" PRIu64
                    ", want at least one, and both together as large as the image",
                    cubin, ptx, code->image_size);
  }
  const char *text = (const char *)code + code->image_offset + cubin;
  if (ptx > 0 && memchr(text, '\0', (size_t)ptx) != text + ptx - 1) {
    return bad_code(a, index, diag, "got PTX whose end is not at its %" PRIu64 "th byte", ptx);
  }
  return check_launches(a, index, code, diag);
}

// The section is as large as the record says; its names end and it is of a program that is there.
static qn_status check_code_head(const qn_artifact *a, uint32_t index, const qn_art_code *code, size_t size,
                                 qn_diag *diag) {
  if (size < sizeof *code) return bad_code(a, index, diag, "got %zu bytes, want at least %zu", size, sizeof *code);
  if (!memchr(code->target, 0, sizeof code->target) || code->target[0] == '\0' ||
      !memchr(code->required, 0, sizeof code->required)) {
    return bad_code(a, index, diag, "got names of target and features that are empty or without an end");
  }
  size_t unused = 0;
  if (!qn_artifact_section(a, QN_SECTION_PROGRAM, code->program, &unused)) {
    return bad_code(a, index, diag, "got program %" PRIu32 ", which is not there", code->program);
  }
  return QN_OK;
}

static qn_status check_code(const qn_artifact *a, uint32_t index, const qn_art_code *code, size_t size, qn_diag *diag) {
  qn_artifact view = *a;
  QN_TRY(check_code_head(a, index, code, size, diag));
  QN_TRY(find_arrays(&view, code->program, diag));
  bool cuda = code->arch == QN_ART_CUDA;
  if (cuda != (view.program->machine == QN_ART_GPU)) {
    return bad_code(a, index, diag, "got code for %s of program %" PRIu32 ", which is for %s", cuda ? "GPUs" : "CPUs",
                    code->program, cuda ? "CPUs" : "GPUs");
  }
  if (code->plan >= view.program->plan_count) {
    return bad_code(a, index, diag, "got plan %" PRIu32 ", want one of %" PRIu32, code->plan, view.program->plan_count);
  }
  uint32_t first = 0, variant_count = 0;
  qn_artifact_plan(&view, code->plan, &first, &variant_count);
  if (code->variant_count != variant_count) {
    return bad_code(a, index, diag, "got %" PRIu32 " functions, want %" PRIu32 " as its plan has variants",
                    code->variant_count, variant_count);
  }
  uint64_t record = cuda ? sizeof(qn_art_launch) : sizeof(uint64_t);
  uint64_t table_end = sizeof *code + (uint64_t)code->variant_count * record;
  if (code->image_offset < table_end || code->image_offset % QN_ARTIFACT_PAGE != 0 || code->image_offset > size ||
      code->image_size > size - code->image_offset) {
    return bad_code(a, index, diag,
                    "got an image of %" PRIu64 " bytes at %" PRIu64 ", want it at a multiple of %u between %" PRIu64
                    " and %zu",
                    code->image_size, code->image_offset, QN_ARTIFACT_PAGE, table_end, size);
  }
  return cuda ? check_cuda(a, index, code, diag) : check_offsets(a, index, code, diag);
}

static qn_status check_all(qn_artifact *a, qn_diag *diag) {
  if ((uintptr_t)a->mapping.data % QN_ARTIFACT_PAGE != 0) {
    return qn_fail(diag, QN_ERR_ARGUMENT, a->path, "got a mapping that does not begin at a page");
  }
  QN_TRY(keep_all_but_weights(a, diag));
  QN_TRY(check_header(a, diag));
  QN_TRY(check_sections(a, diag));
  size_t size = 0;
  a->weights = qn_artifact_section(a, QN_SECTION_WEIGHTS, 0, &size);
  a->weights_size = size;
  QN_TRY(check_programs(a, diag));
  const qn_art_code *code;
  for (uint32_t i = 0; (code = qn_artifact_section(a, QN_SECTION_CODE, i, &size)) != NULL; i++) {
    QN_TRY(check_code(a, i, code, size, diag));
  }
  return QN_OK;
}

// --- the interface

qn_status qn_artifact_open(qn_artifact *artifact, const char *path, qn_diag *diag) {
  qn_mapping mapping;
  *artifact = (qn_artifact){0};
  QN_TRY(qn_mapping_open(&mapping, path, diag));
  return qn_artifact_open_mapping(artifact, mapping, path, diag);
}

qn_status qn_artifact_open_mapping(qn_artifact *artifact, qn_mapping mapping, const char *name, qn_diag *diag) {
  *artifact = (qn_artifact){.mapping = mapping, .path = name};
  qn_status status = check_all(artifact, diag);
  if (status != QN_OK) qn_artifact_close(artifact);
  return status;
}

void qn_artifact_close(qn_artifact *artifact) {
  if (artifact->copy) munmap(artifact->copy, artifact->copy_size);
  qn_mapping_close(&artifact->mapping);
  *artifact = (qn_artifact){0};
}

const void *qn_artifact_section(const qn_artifact *artifact, qn_art_section_kind kind, uint32_t index,
                                size_t *out_size) {
  *out_size = 0;
  for (uint32_t i = 0; i < artifact->section_count; i++) {
    const qn_art_section *section = &artifact->sections[i];
    if (section->kind != (uint32_t)kind || section->index != index) continue;
    *out_size = (size_t)section->size;
    return artifact->mapping.data + section->offset;
  }
  return NULL;
}

bool qn_artifact_view(const qn_artifact *artifact, qn_art_machine machine, qn_artifact *out) {
  size_t size = 0;
  *out = *artifact;
  for (uint32_t i = 0; qn_artifact_section(artifact, QN_SECTION_PROGRAM, i, &size); i++) {
    if (find_arrays(out, i, NULL) == QN_OK && out->program->machine == (uint32_t)machine) return true;
  }
  return false;
}

const qn_art_code *qn_artifact_code_at(const qn_artifact *artifact, uint32_t index) {
  size_t size = 0;
  return qn_artifact_section(artifact, QN_SECTION_CODE, index, &size);
}

const qn_art_launch *qn_art_code_launches(const qn_art_code *code) {
  return (const qn_art_launch *)(const void *)(code + 1);
}

int qn_art_code_sm(const qn_art_code *code) {
  const char *at = code->required;
  int sm = 0;
  if (strncmp(at, "sm_", 3) != 0) return 0;
  for (at += 3; *at >= '0' && *at <= '9' && sm < 1000; at++) sm = sm * 10 + *at - '0';
  return *at == '\0' ? sm : 0;
}

int64_t qn_artifact_extent(const qn_art_variant *variant, const int64_t *symbols) {
  int64_t extent = variant->extent_value, rows = variant->extent_rows > 1 ? variant->extent_rows : 1;
  if (!variant->extent_symbol) return extent;
  int64_t symbol = symbols[variant->extent_symbol], whole = symbol / rows + (symbol % rows > 0);
  return __builtin_mul_overflow(extent, whole, &extent) ? INT64_MAX : extent;
}

const qn_art_slice *qn_artifact_plan(const qn_artifact *artifact, uint32_t plan, uint32_t *out_first,
                                     uint32_t *out_count) {
  uint32_t count = artifact->program->kernel_count;
  const qn_art_slice *slices = artifact->slices + (size_t)plan * count;
  *out_first = count ? slices[0].first_variant : 0;
  *out_count = count ? slices[count - 1].first_variant + slices[count - 1].variant_count - *out_first : 0;
  return slices;
}

qn_status qn_artifact_check_weights(const qn_artifact *artifact, qn_diag *diag) {
  for (uint32_t i = 0; i < artifact->section_count; i++) {
    if (artifact->sections[i].kind != QN_SECTION_WEIGHTS) continue;
    qn_status status = check_hash(artifact, i, diag);
    QN_TRY(qn_mapping_check(&artifact->mapping, artifact->path, diag));
    if (status != QN_OK) return status;
  }
  return QN_OK;
}

int64_t qn_artifact_embedding_size(const qn_artifact *artifact) {
  enum { SYM_R = 2 };  // qn_symbol of ir/type.h
  int64_t size = 0;
  for (uint32_t i = 0; i < artifact->program->buffer_count; i++) {
    const qn_art_buffer *b = &artifact->buffers[i];
    if (b->kind != QN_ART_ARENA || !b->output) continue;
    const char *name = artifact->strings + b->name;
    if (strcmp(name, "logits") == 0) return 0;
    bool rows = b->dtype == DTYPE_F32 && b->rank == 2 && b->symbols[0] == SYM_R && b->dims[0] == 1 && b->symbols[1] == 0;
    if (strcmp(name, "embedding") == 0 && rows && b->dims[1] > 0 && b->dims[1] <= INT32_MAX) size = b->dims[1];
  }
  return size;
}

int64_t qn_artifact_context_max(const qn_artifact *artifact) {
  enum { SYM_P = 3 };  // qn_symbol of ir/type.h
  const qn_art_program *p = artifact->program;
  int64_t pages = p->symbol_max[SYM_P] * (int64_t)p->page_keys;
  if (p->context_tokens == 0) return pages;
  return pages == 0 || p->context_tokens < pages ? p->context_tokens : pages;
}

int64_t qn_artifact_window(const qn_artifact *artifact) {
  int64_t most = 0;
  for (uint32_t i = 0; i < artifact->program->buffer_count; i++) {
    const qn_art_buffer *b = &artifact->buffers[i];
    if (b->kind != QN_ART_CACHE) continue;
    if (b->window == 0 || b->of_source) return 0;  // a source's keys stay, in the sequence's pages
    if (b->window > most) most = b->window;
  }
  return most;
}

int64_t qn_artifact_ring(const qn_artifact *artifact) {
  int64_t most = 0;
  bool table = false;
  for (uint32_t i = 0; i < artifact->program->buffer_count; i++) {
    const qn_art_buffer *b = &artifact->buffers[i];
    if (b->of_source) return 0;  // a source's keys lie in the pages of all
    table = table || (b->kind == QN_ART_INPUT && strcmp(artifact->strings + b->name, "window_table") == 0);
    if (b->kind == QN_ART_CACHE && b->window > most) most = b->window;
  }
  return table && qn_artifact_window(artifact) == 0 ? most : 0;
}

int64_t qn_artifact_paths(const qn_artifact *a, int64_t rows, int64_t sequences) {
  enum { SYMBOL_B = 4 };  // qn_symbol of ir/type.h
  int64_t most = a->program->symbol_max[SYMBOL_B], paths = rows - 1;
  bool copies = false;
  for (uint32_t i = 0; i < a->program->buffer_count && !copies; i++)
    copies = a->buffers[i].kind == QN_ART_INPUT && strcmp(a->strings + a->buffers[i].name, "copies") == 0;
  if (most && paths > most - sequences) paths = most - sequences;
  return !copies || paths < 2 ? 0 : paths;
}
