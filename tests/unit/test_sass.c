// The scan of cubins on ELF files made by hand: what it counts, and that no damage leads it astray. What NVRTC's cubins
// hold is test_cuda_compile.c's.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codegen/cuda/sass.h"
#include "tests/support/test.h"

enum {
  MAX_BYTES = 4096,
  SECTIONS = 7,
  NAMES_AT = 64,
  SYMBOLS_AT = 512,
  TEXT_AT = 768,
  INFO_AT = 1536,
  TABLE_AT = 2048
};

typedef struct file {
  uint8_t bytes[MAX_BYTES];
  size_t names;
} file;

static void put(file *f, size_t at, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; i++) f->bytes[at + (size_t)i] = (uint8_t)(value >> 8 * i);
}

// The offset of a name among the file's.
static uint32_t name(file *f, const char *text) {
  size_t at = f->names;
  memcpy(f->bytes + NAMES_AT + at, text, strlen(text) + 1);
  f->names += strlen(text) + 1;
  return (uint32_t)at;
}

static void put_section(file *f, int index, const char *text, uint32_t type, size_t at, size_t size, uint32_t link) {
  size_t head = TABLE_AT + (size_t)index * 64;
  put(f, head, name(f, text), 4);
  put(f, head + 4, type, 4);
  put(f, head + 24, at, 8);
  put(f, head + 32, size, 8);
  put(f, head + 40, link, 4);
}

static void put_instruction(file *f, size_t number, unsigned opcode, unsigned width) {
  put(f, TEXT_AT + number * 16, opcode, 8);
  put(f, TEXT_AT + number * 16 + 8, (uint64_t)width << 9, 8);
}

// Attributes of the function with this symbol: 0x2f registers, 0x11 frame.
static size_t put_attribute(file *f, size_t at, unsigned kind, unsigned symbol, unsigned value) {
  put(f, INFO_AT + at, 4 | kind << 8 | 8u << 16, 4);
  put(f, INFO_AT + at + 4, symbol, 4);
  put(f, INFO_AT + at + 8, value, 4);
  return at + 12;
}

// Two kernels' symbols, of which "k" has code: four loads of different widths, others.
static void make_file(file *f) {
  *f = (file){.names = 1};
  memcpy(f->bytes, "\177ELF\2\1\1", 7);
  put(f, 48, 80, 4);
  put(f, 40, TABLE_AT, 8);
  put(f, 58, 64, 2);
  put(f, 60, SECTIONS, 2);
  put(f, 62, 1, 2);
  static const unsigned code[][2] = {{0x7981, 6}, {0x7381, 6}, {0x7981, 4}, {0x7981, 0}, {0x7986, 5},
                                     {0x7fae, 6}, {0x723c, 0}, {0x7237, 0}, {0x7b1d, 0}, {0x7223, 3}};
  for (size_t i = 0; i < QN_COUNT(code); i++) put_instruction(f, i, code[i][0], code[i][1]);
  put(f, SYMBOLS_AT + 24, name(f, "other"), 4);
  put(f, SYMBOLS_AT + 48, name(f, "k"), 4);
  size_t end = put_attribute(f, 0, 0x2f, 1, 99);
  put(f, INFO_AT + end, 1 | 0x50 << 8, 4);  // of another format, with nothing behind it
  end = put_attribute(f, end + 4, 0x2f, 2, 40);
  end = put_attribute(f, end, 0x11, 2, 16);
  put_section(f, 2, ".text.k", 1, TEXT_AT, QN_COUNT(code) * 16, 0);
  put_section(f, 3, ".symtab", 2, SYMBOLS_AT, 72, 1);
  put_section(f, 4, ".nv.info", 0x70000000, INFO_AT, end, 3);
  put_section(f, 5, ".nv.shared.k", 8, MAX_BYTES * 2, 256, 0);
  put_section(f, 6, ".text.kk", 1, TEXT_AT, 16, 0);
  put_section(f, 1, ".shstrtab", 3, NAMES_AT, SYMBOLS_AT - NAMES_AT, 0);
}

START_TEST(what_stands_in_a_kernel) {
  file f;
  qn_diag diag = {0};
  qn_sass_report r;
  make_file(&f);
  qn_assert_ok(&diag, qn_sass_scan(f.bytes, sizeof f.bytes, "k", "test", &r, &diag));
  ck_assert_int_eq(r.instructions, 10);
  ck_assert_int_eq(r.count[QN_SASS_LDG], 4);
  ck_assert_int_eq(r.width[QN_SASS_LDG][4], 2);
  ck_assert_int_eq(r.width[QN_SASS_LDG][2], 1);
  ck_assert_int_eq(r.width[QN_SASS_LDG][0], 1);
  ck_assert_int_eq(r.width[QN_SASS_STG][3], 1);
  ck_assert_int_eq(r.width[QN_SASS_LDGSTS][4], 1);
  ck_assert_int_eq(r.sm, 80);
  ck_assert_int_eq(r.count[QN_SASS_HMMA] + r.count[QN_SASS_IMMA] + r.count[QN_SASS_BAR], 3);
  ck_assert_int_eq(r.count[QN_SASS_LDL] + r.count[QN_SASS_STL], 0);
  ck_assert_int_eq(r.registers, 40);
  ck_assert_int_eq(r.stack_bytes, 16);
  ck_assert_int_eq(r.shared_bytes, 256);
  ck_assert_str_eq(qn_sass_name(QN_SASS_LDGSTS), "LDGSTS");
  // Of another chip, whose copies have codes of their own, in the way of CUDA 13.
  f.bytes[8] = 8;
  put(&f, 48, 100 << 8 | 2, 4);
  put_instruction(&f, 5, 0x7fae, 2);
  qn_assert_ok(&diag, qn_sass_scan(f.bytes, sizeof f.bytes, "k", "test", &r, &diag));
  ck_assert_int_eq(r.sm, 100);
  ck_assert_int_eq(r.width[QN_SASS_LDGSTS][3], 1);
  ck_assert_int_eq(r.width[QN_SASS_LDG][4], 2);
}
END_TEST

static void refuses(const void *bytes, size_t size, const char *kernel, const char *why) {
  qn_diag diag = {0};
  qn_sass_report r;
  qn_assert_fails(&diag, QN_ERR_FORMAT, why, qn_sass_scan(bytes, size, kernel, "test", &r, &diag));
}

START_TEST(what_is_no_cubin) {
  file f;
  make_file(&f);
  refuses(f.bytes, sizeof f.bytes, "l", "test: the cubin holds no kernel 'l'");
  refuses("\177ELF\1", 5, "k", "it does not begin like an ELF file of 64 bits");
  put(&f, 60, 0, 2);
  refuses(f.bytes, sizeof f.bytes, "k", "it has no sections");
  make_file(&f);
  put(&f, 40, MAX_BYTES - 64, 8);
  refuses(f.bytes, sizeof f.bytes, "k", "its sections lie beyond its end");
  make_file(&f);
  put(&f, 62, 5, 2);
  refuses(f.bytes, sizeof f.bytes, "k", "its sections have no names");
  put(&f, 62, 77, 2);
  refuses(f.bytes, sizeof f.bytes, "k", "a section is referred to that is not there");
  make_file(&f);
  put(&f, TABLE_AT + 2 * 64 + 32, MAX_BYTES, 8);
  refuses(f.bytes, sizeof f.bytes, "k", "a section lies beyond its end");
  make_file(&f);
  put(&f, INFO_AT + 2, 0xfff0, 2);
  refuses(f.bytes, sizeof f.bytes, "k", "an attribute lies beyond its section's end");
}
END_TEST

// Whatever the damage, it ends, with an error or without, and reads nothing beyond the bytes given.
START_TEST(damage) {
  file f;
  qn_sass_report r;
  qn_test_random random = {7};
  make_file(&f);
  for (size_t size = 0; size < sizeof f.bytes; size += 7) {
    qn_diag diag = {0};
    uint8_t *copy = qn_alloc(qn_test_allocator(), size + 1);
    memcpy(copy, f.bytes, size);
    qn_status status = qn_sass_scan(copy, size, "k", "test", &r, &diag);
    ck_assert(status == QN_OK || status == QN_ERR_FORMAT);
    qn_free(qn_test_allocator(), copy, size + 1);
  }
  for (int i = 0; i < 20000; i++) {
    file bad = f;
    qn_diag diag = {0};
    for (int j = 0; j < 3; j++) {
      size_t at = (size_t)(qn_test_random_u64(&random) % sizeof bad.bytes);
      bool head = j < 2;
      if (head) at = j == 0 ? at % 64 : TABLE_AT + at % (SECTIONS * 64);
      bad.bytes[at] = (uint8_t)qn_test_random_u64(&random);
    }
    qn_status status = qn_sass_scan(bad.bytes, sizeof bad.bytes, "k", "test", &r, &diag);
    ck_assert(status == QN_OK || status == QN_ERR_FORMAT);
  }
}
END_TEST

QN_CASE(sass, what_stands_in_a_kernel, what_is_no_cubin, damage)
QN_TEST_MAIN(sass)
