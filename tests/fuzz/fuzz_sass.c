// Fuzzes the scan of cubins: any bytes are refused with words that name the file, or counted.
#include <string.h>

#include "codegen/cuda/sass.h"
#include "tests/support/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  qn_sass_report r;
  qn_diag diag = {0};
  qn_status status = qn_sass_scan(data, size, "k", "fuzz", &r, &diag);
  if (status != QN_OK) {
    fuzz_require(status == QN_ERR_FORMAT, "an odd status");
    fuzz_require(diag.status == status && strncmp(diag.text, "fuzz: ", 6) == 0, "an error does not name the file");
    return 0;
  }
  fuzz_require(r.instructions >= 0 && (uint64_t)r.instructions <= size / 16, "more instructions than the file has");
  for (int op = 0; op < QN_SASS_COUNT; op++) {
    int64_t accesses = 0;
    for (int w = 0; w < QN_SASS_WIDTHS; w++) accesses += r.width[op][w];
    fuzz_require(r.count[op] >= 0 && r.count[op] <= r.instructions && accesses <= r.count[op], "a count");
  }
  return 0;
}

// --- a file of one kernel

enum { NAMES_AT = 64, SYMBOLS_AT = 144, TEXT_AT = 192, INFO_AT = 256, TABLE_AT = 288, SECTIONS = 6, SIZE = 672 };

static void put(uint8_t *bytes, size_t at, uint64_t value, int width) {
  for (int i = 0; i < width; i++) bytes[at + (size_t)i] = (uint8_t)(value >> 8 * i);
}

static void put_section(uint8_t *bytes, int index, size_t name, uint32_t type, size_t at, size_t size, uint32_t link) {
  size_t head = TABLE_AT + (size_t)index * 64;
  put(bytes, head, name, 4);
  put(bytes, head + 4, type, 4);
  put(bytes, head + 24, at, 8);
  put(bytes, head + 32, size, 8);
  put(bytes, head + 40, link, 4);
}

void fuzz_seeds(fuzz_take_fn take, void *context) {
  static const char names[] = "\0.shstrtab\0.text.k\0.symtab\0.nv.info\0.nv.shared.k\0k";
  static const uint32_t code[][2] = {{0x7981, 6}, {0x7986, 5}, {0x7fae, 6}, {0x723c, 0}};
  uint8_t bytes[SIZE] = "\177ELF\2\1\1";
  put(bytes, 48, 80, 4);
  put(bytes, 40, TABLE_AT, 8);
  put(bytes, 58, 64, 2);
  put(bytes, 60, SECTIONS, 2);
  put(bytes, 62, 1, 2);
  memcpy(bytes + NAMES_AT, names, sizeof names);
  put(bytes, SYMBOLS_AT + 24, 49, 4);
  for (size_t i = 0; i < QN_COUNT(code); i++) {
    put(bytes, TEXT_AT + i * 16, code[i][0], 8);
    put(bytes, TEXT_AT + i * 16 + 8, (uint64_t)code[i][1] << 9, 8);
  }
  for (unsigned i = 0; i < 2; i++) {  // registers, frame
    put(bytes, INFO_AT + i * 12, 4 | (i ? 0x11u : 0x2fu) << 8 | 8u << 16, 4);
    put(bytes, INFO_AT + i * 12 + 4, 1, 4);
    put(bytes, INFO_AT + i * 12 + 8, 40, 4);
  }
  put_section(bytes, 1, 1, 3, NAMES_AT, sizeof names, 0);
  put_section(bytes, 2, 11, 1, TEXT_AT, sizeof code / sizeof *code * 16, 0);
  put_section(bytes, 3, 19, 2, SYMBOLS_AT, 48, 1);
  put_section(bytes, 4, 27, 0x70000000, INFO_AT, 24, 3);
  put_section(bytes, 5, 36, 8, SIZE * 2, 256, 0);
  qn_sass_report r;
  qn_diag diag = {0};
  fuzz_require(qn_sass_scan(bytes, sizeof bytes, "k", "seed", &r, &diag) == QN_OK && r.registers == 40, diag.text);
  take(context, bytes, sizeof bytes);
}

static const char *const words[] = {".text.k", ".symtab", ".nv.info", "k", NULL};

QN_FUZZ_MAIN(words, 50000)
