// The in-memory linker (link.h). Sections are laid out by kind, code first, each at its alignment within an image that
// is mapped at a page boundary; all references are relative, so placing is all there is to do.
#include "codegen/cpu/link.h"

#include <elf.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/vec.h"

enum { PAGE = 4096 };

// AArch64 relocation numbers that our code has ("ELF for the Arm 64-bit Architecture", table of static relocations).
enum {
  A64_PREL32 = 261,
  A64_LD_PREL_LO19 = 273,
  A64_ADR_PREL_LO21 = 274,
  A64_ADR_PREL_PG_HI21 = 275,
  A64_ADD_ABS_LO12 = 277,
  A64_LDST8_ABS_LO12 = 278,
  A64_JUMP26 = 282,
  A64_CALL26 = 283,
  A64_LDST16_ABS_LO12 = 284,
  A64_LDST32_ABS_LO12 = 285,
  A64_LDST64_ABS_LO12 = 286,
  A64_LDST128_ABS_LO12 = 299,
};

#define NOT_PLACED UINT64_MAX

typedef struct object {
  const uint8_t *data;
  size_t size;
  const Elf64_Shdr *sections;
  size_t section_count;
  const char *section_names;
  const Elf64_Sym *symbols;
  size_t symbol_count;
  const char *symbol_names;
  uint16_t machine;
  uint64_t *places;  // by section: its offset in the image, or NOT_PLACED
} object;

typedef struct linker {
  object *objects;
  size_t object_count;
  uint8_t *image;
  size_t image_size;
  const qn_allocator *allocator;
  qn_diag *diag;
} linker;

static const char *where = "linking";

// The object comes from LLVM in the same process; the checks are against our own mistakes, not hostile files.
static qn_status read_object(linker *l, const qn_link_object *input, qn_arena *arena, object *out) {
  const Elf64_Ehdr *header = (const Elf64_Ehdr *)(const void *)input->data;
  if (input->size < sizeof *header || memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 ||
      header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_type != ET_REL)
    return qn_fail(l->diag, QN_ERR_INTERNAL, where, "not an ELF64 relocatable object");
  *out = (object){
      .data = input->data, .size = input->size, .machine = header->e_machine, .section_count = header->e_shnum};
  if (header->e_shoff + header->e_shnum * sizeof(Elf64_Shdr) > input->size || header->e_shstrndx >= header->e_shnum)
    return qn_fail(l->diag, QN_ERR_INTERNAL, where, "the section table lies outside the object");
  out->sections = (const Elf64_Shdr *)(const void *)(input->data + header->e_shoff);
  out->section_names = (const char *)input->data + out->sections[header->e_shstrndx].sh_offset;
  out->places = QN_ARENA_ARRAY(arena, out->section_count, uint64_t);
  if (!out->places) return qn_fail_nomem(l->diag, where, "section table");
  for (size_t i = 0; i < out->section_count; i++) {
    const Elf64_Shdr *s = &out->sections[i];
    out->places[i] = NOT_PLACED;
    if (s->sh_type != SHT_NOBITS && s->sh_offset + s->sh_size > input->size)
      return qn_fail(l->diag, QN_ERR_INTERNAL, where, "section %s lies outside the object",
                     out->section_names + s->sh_name);
    if (s->sh_type != SHT_SYMTAB) continue;
    out->symbols = (const Elf64_Sym *)(const void *)(input->data + s->sh_offset);
    out->symbol_count = s->sh_size / sizeof(Elf64_Sym);
    out->symbol_names = (const char *)input->data + out->sections[s->sh_link].sh_offset;
  }
  return QN_OK;
}

// Gives every section of the wanted kind a place; *end is where the image ends so far.
static qn_status place_sections(linker *l, bool code, uint64_t *end) {
  for (size_t i = 0; i < l->object_count; i++) {
    object *o = &l->objects[i];
    for (size_t s = 0; s < o->section_count; s++) {
      const Elf64_Shdr *section = &o->sections[s];
      if (!(section->sh_flags & SHF_ALLOC) || section->sh_size == 0) continue;
      if (section->sh_flags & (SHF_WRITE | SHF_TLS) || section->sh_type != SHT_PROGBITS)
        return qn_fail(l->diag, QN_ERR_INTERNAL, where, "section %s is neither code nor constants",
                       o->section_names + section->sh_name);
      if (((section->sh_flags & SHF_EXECINSTR) != 0) != code) continue;
      if (section->sh_addralign > PAGE)
        return qn_fail(l->diag, QN_ERR_INTERNAL, where, "section %s wants alignment %" PRIu64,
                       o->section_names + section->sh_name, (uint64_t)section->sh_addralign);
      *end = qn_align_up(*end, section->sh_addralign ? section->sh_addralign : 1);
      o->places[s] = *end;
      *end += section->sh_size;
    }
  }
  return QN_OK;
}

// Where a symbol named `name` is defined in any object.
static bool find_global(const linker *l, const char *name, uint64_t *out) {
  for (size_t i = 0; i < l->object_count; i++) {
    const object *o = &l->objects[i];
    for (size_t s = 0; s < o->symbol_count; s++) {
      const Elf64_Sym *symbol = &o->symbols[s];
      if (ELF64_ST_BIND(symbol->st_info) == STB_LOCAL || symbol->st_shndx == SHN_UNDEF) continue;
      if (symbol->st_shndx >= o->section_count || o->places[symbol->st_shndx] == NOT_PLACED) continue;
      if (strcmp(o->symbol_names + symbol->st_name, name) != 0) continue;
      *out = o->places[symbol->st_shndx] + symbol->st_value;
      return true;
    }
  }
  return false;
}

static qn_status symbol_place(const linker *l, const object *o, size_t index, uint64_t *out) {
  if (index >= o->symbol_count) return qn_fail(l->diag, QN_ERR_INTERNAL, where, "symbol number %zu of none", index);
  const Elf64_Sym *symbol = &o->symbols[index];
  const char *name = o->symbol_names + symbol->st_name;
  if (symbol->st_shndx == SHN_UNDEF) {
    if (find_global(l, name, out)) return QN_OK;
    return qn_fail(l->diag, QN_ERR_INTERNAL, where, "undefined symbol '%s': a kernel may not call a library", name);
  }
  if (symbol->st_shndx >= o->section_count || o->places[symbol->st_shndx] == NOT_PLACED)
    return qn_fail(l->diag, QN_ERR_INTERNAL, where, "symbol '%s' is not in code or constants", name);
  *out = o->places[symbol->st_shndx] + symbol->st_value;
  return QN_OK;
}

static void put_u32(uint8_t *at, uint32_t value) { memcpy(at, &value, sizeof value); }

static bool fits_signed(int64_t value, int bits) {
  return value >= -(INT64_C(1) << (bits - 1)) && value < (INT64_C(1) << (bits - 1));
}

// Replaces `count` bits at `shift` of the instruction.
static void put_bits(uint8_t *at, uint64_t value, int shift, int count) {
  uint32_t word, mask = ((UINT32_C(1) << count) - 1) << shift;
  memcpy(&word, at, sizeof word);
  put_u32(at, (word & ~mask) | (((uint32_t)value << shift) & mask));
}

static bool relocate_x86(uint8_t *at, uint32_t type, int64_t target, int64_t place, bool *out_known) {
  *out_known = type == R_X86_64_PC32 || type == R_X86_64_PLT32 || type == R_X86_64_PC64;
  if (!*out_known) return false;
  int64_t distance = target - place;
  if (type == R_X86_64_PC64) {
    memcpy(at, &distance, sizeof distance);
    return true;
  }
  put_u32(at, (uint32_t)distance);
  return fits_signed(distance, 32);
}

static bool relocate_aarch64(uint8_t *at, uint32_t type, int64_t target, int64_t place, bool *out_known) {
  int64_t distance = target - place, pages = (target >> 12) - (place >> 12);
  *out_known = true;
  switch (type) {
    case A64_PREL32: put_u32(at, (uint32_t)distance); return fits_signed(distance, 32);
    case A64_LD_PREL_LO19: put_bits(at, (uint64_t)distance >> 2, 5, 19); return fits_signed(distance, 21);
    case A64_ADR_PREL_LO21:
      put_bits(at, (uint64_t)distance & 3, 29, 2);
      put_bits(at, (uint64_t)distance >> 2, 5, 19);
      return fits_signed(distance, 21);
    case A64_ADR_PREL_PG_HI21:
      put_bits(at, (uint64_t)pages & 3, 29, 2);
      put_bits(at, (uint64_t)pages >> 2, 5, 19);
      return fits_signed(pages, 21);
    case A64_ADD_ABS_LO12:
    case A64_LDST8_ABS_LO12: put_bits(at, (uint64_t)target & 0xFFF, 10, 12); return true;
    case A64_LDST16_ABS_LO12: put_bits(at, ((uint64_t)target & 0xFFF) >> 1, 10, 12); return true;
    case A64_LDST32_ABS_LO12: put_bits(at, ((uint64_t)target & 0xFFF) >> 2, 10, 12); return true;
    case A64_LDST64_ABS_LO12: put_bits(at, ((uint64_t)target & 0xFFF) >> 3, 10, 12); return true;
    case A64_LDST128_ABS_LO12: put_bits(at, ((uint64_t)target & 0xFFF) >> 4, 10, 12); return true;
    case A64_JUMP26:
    case A64_CALL26: put_bits(at, (uint64_t)distance >> 2, 0, 26); return fits_signed(distance, 28);
    default: *out_known = false; return false;
  }
}

// The value of the pair whose first instruction lies at `hi` of the image: what its own relocation says.
static bool riscv_pair(const linker *l, const object *o, const Elf64_Shdr *relocations, int64_t hi, int64_t *out) {
  const Elf64_Rela *entries = (const Elf64_Rela *)(const void *)(o->data + relocations->sh_offset);
  uint64_t base = o->places[relocations->sh_info], symbol;
  qn_diag unused = {0};
  const linker quiet = {.objects = l->objects, .object_count = l->object_count, .diag = &unused};
  for (size_t i = 0; i < relocations->sh_size / sizeof *entries; i++) {
    const Elf64_Rela *r = &entries[i];
    if (ELF64_R_TYPE(r->r_info) != R_RISCV_PCREL_HI20 || (int64_t)(base + r->r_offset) != hi) continue;
    if (symbol_place(&quiet, o, ELF64_R_SYM(r->r_info), &symbol) != QN_OK) return false;
    *out = (int64_t)symbol + r->r_addend - hi;
    return true;
  }
  return false;
}

// `pair` is of the low halves, whose target is the instruction that has the high one. Code is made without relaxation,
// so that distances within a section are the assembler's business.
static bool relocate_riscv(uint8_t *at, uint32_t type, int64_t target, int64_t place, const int64_t *pair,
                           bool *out_known) {
  int64_t distance = target - place, low = pair ? *pair : 0;
  *out_known = true;
  switch (type) {
    case R_RISCV_32_PCREL: put_u32(at, (uint32_t)distance); return fits_signed(distance, 32);
    case R_RISCV_PCREL_HI20:
      put_bits(at, (uint64_t)(distance + 0x800) >> 12, 12, 20);
      return fits_signed(distance, 32);
    case R_RISCV_PCREL_LO12_I: put_bits(at, (uint64_t)low & 0xFFF, 20, 12); return pair != NULL;
    case R_RISCV_PCREL_LO12_S:
      put_bits(at, (uint64_t)low & 0x1F, 7, 5);
      put_bits(at, (uint64_t)low >> 5 & 0x7F, 25, 7);
      return pair != NULL;
    default: *out_known = false; return false;
  }
}

static bool relocate_one(linker *l, const object *o, const Elf64_Shdr *relocations, uint32_t type, int64_t target,
                         int64_t place, bool *out_known) {
  uint8_t *at = l->image + place;
  int64_t value = 0;
  if (o->machine == EM_AARCH64) return relocate_aarch64(at, type, target, place, out_known);
  if (o->machine != EM_RISCV) return relocate_x86(at, type, target, place, out_known);
  bool low = type == R_RISCV_PCREL_LO12_I || type == R_RISCV_PCREL_LO12_S;
  bool has_pair = low && riscv_pair(l, o, relocations, target, &value);
  return relocate_riscv(at, type, target, place, has_pair ? &value : NULL, out_known);
}

static qn_status relocate_section(linker *l, const object *o, const Elf64_Shdr *relocations) {
  uint64_t base = o->places[relocations->sh_info];
  const Elf64_Rela *entries = (const Elf64_Rela *)(const void *)(o->data + relocations->sh_offset);
  for (size_t i = 0; i < relocations->sh_size / sizeof *entries; i++) {
    const Elf64_Rela *r = &entries[i];
    uint32_t type = (uint32_t)ELF64_R_TYPE(r->r_info);
    uint64_t symbol;
    QN_TRY(symbol_place(l, o, ELF64_R_SYM(r->r_info), &symbol));
    if (base + r->r_offset + sizeof(uint64_t) > l->image_size)
      return qn_fail(l->diag, QN_ERR_INTERNAL, where, "a relocation lies outside its section");
    int64_t target = (int64_t)symbol + r->r_addend, place = (int64_t)(base + r->r_offset);
    bool known, fits = relocate_one(l, o, relocations, type, target, place, &known);
    if (!known)
      return qn_fail(l->diag, QN_ERR_INTERNAL, where, "relocation type %" PRIu32 " of %s is not supported", type,
                     o->machine == EM_AARCH64 ? "AArch64" : o->machine == EM_RISCV ? "RISC-V" : "x86-64");
    if (!fits)
      return qn_fail(l->diag, QN_ERR_INTERNAL, where, "a relocation of type %" PRIu32 " is out of reach", type);
  }
  return QN_OK;
}

static qn_status relocate(linker *l) {
  for (size_t i = 0; i < l->object_count; i++) {
    const object *o = &l->objects[i];
    for (size_t s = 0; s < o->section_count; s++) {
      const Elf64_Shdr *section = &o->sections[s];
      if (section->sh_type != SHT_RELA || section->sh_info >= o->section_count) continue;
      if (o->places[section->sh_info] == NOT_PLACED) continue;
      QN_TRY(relocate_section(l, o, section));
    }
  }
  return QN_OK;
}

static qn_status lay_out(linker *l, const qn_link_object *inputs, qn_arena *arena) {
  l->objects = QN_ARENA_ARRAY(arena, l->object_count, object);
  if (!l->objects) return qn_fail_nomem(l->diag, where, "object table");
  for (size_t i = 0; i < l->object_count; i++) QN_TRY(read_object(l, &inputs[i], arena, &l->objects[i]));
  uint64_t end = 0;
  QN_TRY(place_sections(l, true, &end));
  QN_TRY(place_sections(l, false, &end));
  l->image_size = qn_align_up(end + sizeof(uint64_t), 64);  // room behind the last relocated field
  l->image = qn_alloc_zeroed(l->allocator, l->image_size);
  if (!l->image) return qn_fail_nomem(l->diag, where, "code image");
  for (size_t i = 0; i < l->object_count; i++) {
    const object *o = &l->objects[i];
    for (size_t s = 0; s < o->section_count; s++)
      if (o->places[s] != NOT_PLACED)
        memcpy(l->image + o->places[s], o->data + o->sections[s].sh_offset, o->sections[s].sh_size);
  }
  return relocate(l);
}

qn_status qn_link(const qn_link_object *objects, size_t object_count, const char *const *names, size_t name_count,
                  const qn_allocator *allocator, qn_code *out, qn_diag *diag) {
  linker l = {.object_count = object_count, .allocator = allocator, .diag = diag};
  qn_arena arena;
  qn_arena_init(&arena, allocator);
  *out = (qn_code){.allocator = allocator, .kernel_count = name_count};
  qn_status status = lay_out(&l, objects, &arena);
  out->image = l.image;
  out->image_size = l.image_size;
  if (status == QN_OK) {
    out->offsets = qn_alloc(allocator, (name_count ? name_count : 1) * sizeof *out->offsets);
    if (!out->offsets) status = qn_fail_nomem(diag, where, "kernel offsets");
  }
  for (size_t i = 0; i < name_count && status == QN_OK; i++)
    if (!find_global(&l, names[i], &out->offsets[i]))
      status = qn_fail(diag, QN_ERR_INTERNAL, where, "no object defines kernel '%s'", names[i]);
  qn_arena_deinit(&arena);
  if (status != QN_OK) qn_code_deinit(out);
  return status;
}

void qn_code_deinit(qn_code *code) {
  if (!code->allocator) return;
  qn_free(code->allocator, code->image, code->image_size);
  qn_free(code->allocator, code->offsets, (code->kernel_count ? code->kernel_count : 1) * sizeof *code->offsets);
  qn_free(code->allocator, code->launches, (code->kernel_count ? code->kernel_count : 1) * sizeof *code->launches);
  *code = (qn_code){0};
}
