// Reads a cubin: a 64-bit little-endian ELF file whose sections .text.KERNEL hold instructions of 16 bytes, and whose
// section .nv.info holds attributes of functions, by their symbols: registers and stack.
#include "codegen/cuda/sass.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/str.h"

typedef enum width_form { WIDTH_NONE, WIDTH_PLAIN, WIDTH_COPY } width_form;

static const struct {
  const char *name;
  unsigned opcode;
  width_form form;
} OPS[] = {
#define QN_SASS(name, opcode, accesses, meaning) {#name, opcode, WIDTH_##accesses},
#include "codegen/cuda/sass.def"
#undef QN_SASS
};

const char *qn_sass_name(qn_sass_op op) { return OPS[op].name; }

// ELF-64 (System V ABI): offsets of the fields that are used.
enum {
  HEADER_BYTES = 64,
  ABI_AT = 8,
  SECTION_TABLE_AT = 40,
  FLAGS_AT = 48,
  SECTION_SIZE_AT = 58,
  SECTION_COUNT_AT = 60,
  NAMES_INDEX_AT = 62,
  SECTION_BYTES = 64,
  SYMBOL_BYTES = 24,
  SECTION_SYMBOLS = 2,
  SECTION_NOBITS = 8,
};

typedef struct section {
  const char *name;
  uint32_t type, link;
  const uint8_t *data;  // NULL where the file holds none of it
  uint64_t size;
} section;

typedef struct image {
  const uint8_t *data;
  size_t size;
  const char *where;
  qn_diag *diag;
  const uint8_t *table;  // of sections
  uint32_t count;
  const uint8_t *names;
  uint64_t names_size;
} image;

static uint64_t number(const uint8_t *at, int bytes) {
  uint64_t value = 0;
  for (int i = bytes - 1; i >= 0; i--) value = value << 8 | at[i];
  return value;
}

static qn_status damaged(const image *m, const char *what) {
  return qn_fail(m->diag, QN_ERR_FORMAT, m->where, "is no cubin that can be read: %s", what);
}

// A NUL-terminated name in a table of them; "" where there is none.
static const char *name_in(const uint8_t *names, uint64_t size, uint64_t at) {
  return at < size && memchr(names + at, 0, (size_t)(size - at)) ? (const char *)names + at : "";
}

static qn_status section_at(const image *m, uint32_t index, section *out) {
  if (index >= m->count) return damaged(m, "a section is referred to that is not there");
  const uint8_t *at = m->table + (size_t)index * SECTION_BYTES;
  uint64_t offset = number(at + 24, 8);
  *out = (section){.name = name_in(m->names, m->names_size, number(at, 4)),
                   .type = (uint32_t)number(at + 4, 4),
                   .link = (uint32_t)number(at + 40, 4),
                   .size = number(at + 32, 8)};
  if (out->type == SECTION_NOBITS) return QN_OK;
  if (offset > m->size || out->size > m->size - offset) return damaged(m, "a section lies beyond its end");
  out->data = m->data + offset;
  return QN_OK;
}

static qn_status open_image(image *m) {
  static const uint8_t magic[] = {0x7f, 'E', 'L', 'F', 2, 1};  // 64 bits, little-endian
  if (m->size < HEADER_BYTES || memcmp(m->data, magic, sizeof magic) != 0)
    return damaged(m, "it does not begin like an ELF file of 64 bits");
  uint64_t table = number(m->data + SECTION_TABLE_AT, 8);
  uint64_t count = number(m->data + SECTION_COUNT_AT, 2), bytes = number(m->data + SECTION_SIZE_AT, 2);
  if (bytes != SECTION_BYTES || count == 0) return damaged(m, "it has no sections");
  if (table > m->size || count * SECTION_BYTES > m->size - table) return damaged(m, "its sections lie beyond its end");
  m->table = m->data + table;
  m->count = (uint32_t)count;
  section names;
  QN_TRY(section_at(m, (uint32_t)number(m->data + NAMES_INDEX_AT, 2), &names));
  if (!names.data) return damaged(m, "its sections have no names");
  m->names = names.data;
  m->names_size = names.size;
  return QN_OK;
}

// The section PREFIX + KERNEL, or PREFIX alone when kernel is ""; *out_found says whether there is one.
static qn_status find_section(const image *m, const char *prefix, const char *kernel, section *out, bool *out_found) {
  size_t length = strlen(prefix);
  *out_found = false;
  for (uint32_t i = 0; i < m->count; i++) {
    QN_TRY(section_at(m, i, out));
    if (strncmp(out->name, prefix, length) != 0 || strcmp(out->name + length, kernel) != 0) continue;
    *out_found = true;
    return QN_OK;
  }
  *out = (section){0};
  return QN_OK;
}

// ---- instructions -----------------------------------------------------------------------------------------------

enum { WIDTH_MASK = 7, NEW_COPIES_SM = 100 };

// What the field says, as an index into widths. Plain: U8, S8, U16, S16, 32, 64, 128 bits, and 128 of some form.
static int width_index(width_form form, int sm, unsigned field) {
  static const int plain[WIDTH_MASK + 1] = {0, 0, 1, 1, 2, 3, 4, 4}, copies[WIDTH_MASK + 1] = {2, 2, 3, 3, 4, 4, 4, 4};
  return form == WIDTH_COPY && sm >= NEW_COPIES_SM ? copies[field] : plain[field];
}

static void count_instruction(const uint8_t *at, qn_sass_report *out) {
  enum { OPCODE_MASK = 0x1ff, WIDTH_BIT = 73 - 64 };
  unsigned opcode = (unsigned)number(at, 2) & OPCODE_MASK, field = (number(at + 8, 8) >> WIDTH_BIT) & WIDTH_MASK;
  out->instructions++;
  for (size_t i = 0; i < QN_COUNT(OPS); i++) {
    if (OPS[i].opcode != opcode) continue;
    out->count[i]++;
    if (OPS[i].form != WIDTH_NONE) out->width[i][width_index(OPS[i].form, out->sm, field)]++;
  }
}

// ---- attributes -------------------------------------------------------------------------------------------------

// The name of a symbol of the file's table.
static qn_status symbol_name(const image *m, uint64_t index, const char **out) {
  *out = "";
  for (uint32_t i = 0; i < m->count; i++) {
    section symbols, names;
    QN_TRY(section_at(m, i, &symbols));
    if (symbols.type != SECTION_SYMBOLS || !symbols.data || index >= symbols.size / SYMBOL_BYTES) continue;
    QN_TRY(section_at(m, symbols.link, &names));
    if (names.data) *out = name_in(names.data, names.size, number(symbols.data + index * SYMBOL_BYTES, 4));
    return QN_OK;
  }
  return QN_OK;
}

// An attribute is its format and its kind, a byte each, and a number of 16 bits: its value, or in the format SIZED how
// many bytes follow. Those of functions are a symbol's index and a value.
static qn_status read_attributes(const image *m, const char *kernel, qn_sass_report *out) {
  enum { SIZED = 4, REGISTERS = 0x2f, FRAME = 0x11, HEAD = 4, PAIR = 8 };
  section info;
  bool found = false;
  QN_TRY(find_section(m, ".nv.info", "", &info, &found));
  for (uint64_t at = 0; found && info.data && at + HEAD <= info.size;) {
    const uint8_t *a = info.data + at;
    uint64_t bytes = a[0] == SIZED ? number(a + 2, 2) : 0;
    if (bytes > info.size - at - HEAD) return damaged(m, "an attribute lies beyond its section's end");
    if (bytes == PAIR && (a[1] == REGISTERS || a[1] == FRAME)) {
      const char *name;
      QN_TRY(symbol_name(m, number(a + HEAD, 4), &name));
      int64_t value = (int64_t)number(a + HEAD + 4, 4);
      if (strcmp(name, kernel) == 0) *(a[1] == REGISTERS ? &out->registers : &out->stack_bytes) = value;
    }
    at += HEAD + bytes;
  }
  return QN_OK;
}

// CUDA 13 moved the chip's number from the lowest byte of the flags to the next one.
static int chip_of(const uint8_t *file) {
  enum { NEW_ABI = 8 };
  return (int)(number(file + FLAGS_AT, 4) >> (file[ABI_AT] >= NEW_ABI ? 8 : 0) & 0xff);
}

qn_status qn_sass_scan(const void *cubin, size_t size, const char *kernel, const char *where, qn_sass_report *out,
                       qn_diag *diag) {
  enum { INSTRUCTION_BYTES = 16 };
  image m = {.data = cubin, .size = size, .where = where, .diag = diag};
  section text, shared;
  bool found = false, is_shared = false;
  *out = (qn_sass_report){0};
  QN_TRY(open_image(&m));
  out->sm = chip_of(m.data);
  QN_TRY(find_section(&m, ".text.", kernel, &text, &found));
  if (!found || !text.data) return qn_fail(diag, QN_ERR_FORMAT, where, "the cubin holds no kernel '%s'", kernel);
  for (uint64_t at = 0; at + INSTRUCTION_BYTES <= text.size; at += INSTRUCTION_BYTES)
    count_instruction(text.data + at, out);
  QN_TRY(find_section(&m, ".nv.shared.", kernel, &shared, &is_shared));
  if (is_shared) out->shared_bytes = (int64_t)shared.size;
  return read_attributes(&m, kernel, out);
}
