// The in-memory linker on objects built by hand: layout, each relocation, and what it must refuse.
#include <elf.h>
#include <stdio.h>

#include "codegen/cpu/link.h"
#include "tests/support/test.h"

// An object with .text, one constants section, one relocation in .text, and symbols: 1 = constants, 2 = "kernel" at
// the start of .text, 3 = the global `undefined` or a second function.
typedef struct small_object {
  _Alignas(8) uint8_t bytes[1024];
} small_object;

typedef struct recipe {
  uint16_t machine;
  uint8_t text[16];
  const char *function;         // name of the symbol at .text's start
  const char *undefined;        // name of symbol 3; NULL = none
  uint32_t relocation, symbol;  // type 0 = no relocation
  uint64_t at;
  int64_t addend;
  uint64_t constants_align, constants_flags;
} recipe;

enum {
  TEXT_AT = 64,
  CONSTANTS_AT = 128,
  RELA_AT = 192,
  SYMBOLS_AT = 256,
  STRINGS_AT = 384,
  NAMES_AT = 448,
  SECTIONS_AT = 512
};

static void write_symbols(const recipe *r, small_object *o) {
  char *strings = (char *)o->bytes + STRINGS_AT;
  snprintf(strings + 1, 31, "%s", r->function);
  snprintf(strings + 32, 31, "%s", r->undefined ? r->undefined : "");
  Elf64_Sym symbols[4] = {
      {0},
      {.st_info = ELF64_ST_INFO(STB_LOCAL, STT_SECTION), .st_shndx = 2},
      {.st_name = 1, .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC), .st_shndx = 1},
      {.st_name = 32, .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_NOTYPE), .st_shndx = SHN_UNDEF},
  };
  memcpy(o->bytes + SYMBOLS_AT, symbols, sizeof symbols);
}

static qn_link_object build(const recipe *r, small_object *o) {
  memset(o, 0, sizeof *o);
  Elf64_Ehdr header = {
      .e_type = ET_REL, .e_machine = r->machine, .e_shoff = SECTIONS_AT, .e_shnum = 7, .e_shstrndx = 6};
  memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  memcpy(o->bytes, &header, sizeof header);
  memcpy(o->bytes + TEXT_AT, r->text, sizeof r->text);
  memcpy(o->bytes + CONSTANTS_AT, "constant constant constant const", 32);
  Elf64_Rela rela = {r->at, ELF64_R_INFO((uint64_t)r->symbol, r->relocation), r->addend};
  memcpy(o->bytes + RELA_AT, &rela, sizeof rela);
  write_symbols(r, o);
  memcpy(o->bytes + NAMES_AT, "\0.text\0.rodata\0.rela.text", 26);
  Elf64_Shdr sections[7] = {
      {0},
      {.sh_name = 1,
       .sh_type = SHT_PROGBITS,
       .sh_flags = SHF_ALLOC | SHF_EXECINSTR,
       .sh_offset = TEXT_AT,
       .sh_size = sizeof r->text,
       .sh_addralign = 16},
      {.sh_name = 7,
       .sh_type = SHT_PROGBITS,
       .sh_flags = SHF_ALLOC | r->constants_flags,
       .sh_offset = CONSTANTS_AT,
       .sh_size = 32,
       .sh_addralign = r->constants_align ? r->constants_align : 64},
      {.sh_name = 15,
       .sh_type = SHT_RELA,
       .sh_offset = RELA_AT,
       .sh_size = r->relocation ? sizeof rela : 0,
       .sh_link = 4,
       .sh_info = 1},
      {.sh_type = SHT_SYMTAB, .sh_offset = SYMBOLS_AT, .sh_size = 4 * sizeof(Elf64_Sym), .sh_link = 5},
      {.sh_type = SHT_STRTAB, .sh_offset = STRINGS_AT, .sh_size = 64},
      {.sh_type = SHT_STRTAB, .sh_offset = NAMES_AT, .sh_size = 64},
  };
  memcpy(o->bytes + SECTIONS_AT, sections, sizeof sections);
  return (qn_link_object){o->bytes, sizeof o->bytes};
}

static uint32_t word_at(const qn_code *code, uint64_t at) {
  uint32_t word;
  memcpy(&word, code->image + at, sizeof word);
  return word;
}

START_TEST(objects_are_laid_out_and_joined) {
  small_object memory[2];
  recipe first = {.machine = EM_X86_64,
                  .text = {1},
                  .function = "one",
                  .relocation = R_X86_64_PC32,
                  .symbol = 1,
                  .at = 4,
                  .addend = 12};
  recipe second = {.machine = EM_X86_64,
                   .text = {2},
                   .function = "two",
                   .undefined = "one",
                   .relocation = R_X86_64_PLT32,
                   .symbol = 3,
                   .at = 8,
                   .addend = -4};
  qn_link_object objects[2] = {build(&first, &memory[0]), build(&second, &memory[1])};
  const char *names[2] = {"two", "one"};
  qn_code code;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_link(objects, 2, names, 2, qn_test_allocator(), &code, &diag));
  // Code first: 16 bytes each; then the constants at multiples of 64.
  ck_assert_uint_eq(code.offsets[0], 16);
  ck_assert_uint_eq(code.offsets[1], 0);
  ck_assert_uint_eq(code.image[0], 1);
  ck_assert_uint_eq(code.image[16], 2);
  ck_assert_int_eq(memcmp(code.image + 64, "constant", 8), 0);
  ck_assert_int_eq(memcmp(code.image + 128, "constant", 8), 0);
  ck_assert_uint_eq(word_at(&code, 4), 64 + 12 - 4);
  ck_assert_uint_eq(word_at(&code, 24), (uint32_t)(0 - 4 - 24));
  qn_code_deinit(&code);
  qn_code_deinit(&code);  // harmless
  ck_assert_uint_eq(qn_test_allocator_memory()->live_blocks, 0);
}
END_TEST

// One AArch64 instruction at .text + 4 with a relocation to constants + addend; the constants lie at 0x1000 + 64.
static uint32_t relocate_a64(uint32_t instruction, uint32_t type, int64_t addend) {
  small_object memory;
  recipe r = {.machine = EM_AARCH64,
              .function = "k",
              .relocation = type,
              .symbol = 1,
              .at = 4,
              .addend = addend,
              .constants_align = 4096};
  memcpy(r.text + 4, &instruction, 4);
  qn_link_object object = build(&r, &memory);
  qn_code code;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_link(&object, 1, (const char *const[]){"k"}, 1, qn_test_allocator(), &code, &diag));
  uint32_t word = word_at(&code, 4);
  qn_code_deinit(&code);
  return word;
}

START_TEST(aarch64_relocations) {
  // Encodings as an assembler gives them for these distances (constants at 0x1000, the instruction at 4).
  ck_assert_uint_eq(relocate_a64(0x90000000, 275, 0x40), 0xB0000000);     // adrp x0, one page on
  ck_assert_uint_eq(relocate_a64(0x90000000, 275, 0x4040), 0xB0000020);   // adrp x0, five pages on
  ck_assert_uint_eq(relocate_a64(0x91000000, 277, 0x40), 0x91010000);     // add x0, x0, #0x40
  ck_assert_uint_eq(relocate_a64(0x3D400000, 278, 0x41), 0x3D410400);     // ldr b0, [x0, #0x41]
  ck_assert_uint_eq(relocate_a64(0x7D400000, 284, 0x42), 0x7D408400);     // ldr h0, [x0, #0x42]
  ck_assert_uint_eq(relocate_a64(0xBD400000, 285, 0x44), 0xBD404400);     // ldr s0, [x0, #0x44]
  ck_assert_uint_eq(relocate_a64(0xFD400000, 286, 0x48), 0xFD402400);     // ldr d0, [x0, #0x48]
  ck_assert_uint_eq(relocate_a64(0x3DC00000, 299, 0x40), 0x3DC01000);     // ldr q0, [x0, #0x40]
  ck_assert_uint_eq(relocate_a64(0x10000000, 274, 5), 0x30008000);        // adr x0, .+0x1001
  ck_assert_uint_eq(relocate_a64(0x9C000000, 273, 4), 0x9C008000);        // ldr q0, .+0x1000
  ck_assert_uint_eq(relocate_a64(0x94000000, 283, 4), 0x94000400);        // bl .+0x1000
  ck_assert_uint_eq(relocate_a64(0x14000000, 282, -0x1000), 0x17FFFFFF);  // b .-4
  ck_assert_uint_eq(relocate_a64(0, 261, 0), 0x1000 - 4);                 // .word constants - .
}
END_TEST

static void refuse(const recipe *r, const char *says) {
  small_object memory;
  qn_link_object object = build(r, &memory);
  qn_code code;
  qn_diag diag = {0};
  qn_assert_fails(&diag, QN_ERR_INTERNAL, says,
                  qn_link(&object, 1, (const char *const[]){"kernel"}, 1, qn_test_allocator(), &code, &diag));
  ck_assert_uint_eq(qn_test_allocator_memory()->live_blocks, 0);
}

START_TEST(what_an_image_cannot_hold_is_refused) {
  recipe good = {.machine = EM_X86_64, .function = "kernel"};
  recipe r = good;
  r.undefined = "memset", r.relocation = R_X86_64_PLT32, r.symbol = 3, r.addend = -4;
  refuse(&r, "undefined symbol 'memset'");
  r = good;
  r.relocation = R_X86_64_64, r.symbol = 1;
  refuse(&r, "relocation type 1 of x86-64");
  r = good;
  r.machine = EM_AARCH64, r.relocation = 257, r.symbol = 1;
  refuse(&r, "relocation type 257 of AArch64");
  r = good;
  r.relocation = R_X86_64_PC32, r.symbol = 1, r.addend = INT64_C(1) << 31;
  refuse(&r, "type 2 is out of reach");
  r = good;
  r.relocation = R_X86_64_PC32, r.symbol = 9;
  refuse(&r, "symbol number 9");
  r = good;
  r.relocation = R_X86_64_PC32, r.symbol = 1, r.at = 4096;
  refuse(&r, "outside its section");
  r = good;
  r.constants_flags = SHF_WRITE;
  refuse(&r, ".rodata is neither code nor constants");
  r = good;
  r.constants_align = 1 << 16;
  refuse(&r, "wants alignment 65536");
  r = good;
  r.function = "other";
  refuse(&r, "no object defines kernel 'kernel'");
}
END_TEST

START_TEST(what_is_no_object_is_refused) {
  small_object memory;
  recipe good = {.machine = EM_X86_64, .function = "kernel"};
  qn_link_object object = build(&good, &memory);
  qn_code code;
  const char *name = "kernel";
  for (size_t size = 0; size < SECTIONS_AT + 7 * sizeof(Elf64_Shdr); size += 8) {
    qn_diag diag = {0};
    object.size = size;
    qn_assert_fails(&diag, QN_ERR_INTERNAL, "", qn_link(&object, 1, &name, 1, qn_test_allocator(), &code, &diag));
  }
  ck_assert_uint_eq(qn_test_allocator_memory()->live_blocks, 0);
}
END_TEST

static qn_status link_one(const qn_allocator *allocator, void *context) {
  qn_code code;
  qn_diag diag = {0};
  qn_status status = qn_link(context, 1, (const char *const[]){"kernel"}, 1, allocator, &code, &diag);
  if (status == QN_OK) qn_code_deinit(&code);
  return status;
}

START_TEST(failing_allocations) {
  small_object memory;
  recipe good = {.machine = EM_X86_64, .function = "kernel"};
  qn_link_object object = build(&good, &memory);
  qn_test_failing_allocations(link_one, &object);
}
END_TEST

QN_CASE(linking, objects_are_laid_out_and_joined, aarch64_relocations, what_an_image_cannot_hold_is_refused,
        what_is_no_object_is_refused, failing_allocations)

QN_TEST_MAIN(linking)
