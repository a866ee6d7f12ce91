// Writes the object file: LLVM's object of the driver, to which two sections are added, the kernels' image and the
// packed weights. Their symbols are those that the driver refers to. The weights come first in the file, since the
// driver must know where they are.
#include "codegen/object_file.h"

#include <elf.h>
#include <inttypes.h>
#include <string.h>

// Code reaches constants within 2 GiB, of which a program has other uses, too.
#define WEIGHTS_MAX (UINT64_C(15) << 27)

// --- fields

static bool uses(const qn_type *type, qn_symbol symbol) {
  for (int i = 0; i < type->rank; i++)
    if (type->dims[i].symbol == symbol) return true;
  return false;
}

static bool program_uses(const qn_program *program, qn_symbol symbol) {
  for (size_t i = 0; i < program->buffers.count; i++)
    if (uses(&program->buffers.items[i].type, symbol)) return true;
  for (size_t k = 0; k < program->kernels.count; k++) {
    const qn_pkernel *kernel = &program->kernels.items[k];
    if (kernel->rows == symbol) return true;
    for (int v = 0; v < kernel->variant_count; v++)
      if (kernel->variants[v].extent.symbol == symbol) return true;
  }
  return false;
}

qn_status qn_driver_list_fields(const qn_program *program, bool own_weights, qn_arena *arena,
                                const qn_driver_field **out, size_t *out_count, qn_diag *diag) {
  static const struct {
    qn_pbuf_kind of;
    qn_driver_field_kind kind;
  } tensors[] = {{QN_PB_INPUT, QN_FIELD_INPUT}, {QN_PB_ARENA, QN_FIELD_OUTPUT}, {QN_PB_CACHE, QN_FIELD_CACHE}};
  qn_driver_field *fields = QN_ARENA_ARRAY(arena, program->buffers.count + QN_SYM_COUNT + 4, qn_driver_field);
  size_t count = 0;
  if (!fields) return qn_fail_nomem(diag, program->name, "the fields of its arguments");
  for (size_t t = 0; t < QN_COUNT(tensors); t++) {
    for (size_t i = 0; i < program->buffers.count; i++) {
      const qn_pbuf *p = &program->buffers.items[i];
      if (p->kind == tensors[t].of && p->name)
        fields[count++] = (qn_driver_field){.kind = tensors[t].kind, .buffer = (uint32_t)i};
    }
  }
  if (!own_weights) fields[count++] = (qn_driver_field){.kind = QN_FIELD_WEIGHTS};
  fields[count++] = (qn_driver_field){.kind = QN_FIELD_SCRATCH};
  for (int s = QN_SYM_NONE + 1; s < QN_SYM_COUNT; s++)
    if (program_uses(program, (qn_symbol)s))
      fields[count++] = (qn_driver_field){.kind = QN_FIELD_SIZE, .symbol = (qn_symbol)s};
  fields[count++] = (qn_driver_field){.kind = QN_FIELD_PARALLEL};
  fields[count++] = (qn_driver_field){.kind = QN_FIELD_PARALLEL_CONTEXT};
  *out = fields;
  *out_count = count;
  return QN_OK;
}

// --- the file

// A section that is added, and the symbol at its start.
typedef struct added {
  const char *section, *symbol;
  uint64_t flags, offset, size;
} added;

typedef struct object {
  uint8_t *data;  // of LLVM's object; its symbol table is changed in place
  size_t size;
  Elf64_Ehdr header;
  Elf64_Shdr *sections;  // arena: with room for those that are added
  size_t section_count;
} object;

// The object comes from LLVM in the same process: what is checked here are our own mistakes.
static qn_status read_object(object *o, size_t room, qn_arena *arena, qn_diag *diag) {
  if (o->size < sizeof o->header || memcmp(o->data, ELFMAG, SELFMAG) != 0 || o->data[EI_CLASS] != ELFCLASS64)
    return qn_fail(diag, QN_ERR_INTERNAL, "object file", "LLVM made no ELF64 object of the driver");
  memcpy(&o->header, o->data, sizeof o->header);
  o->section_count = o->header.e_shnum;
  size_t bytes = o->section_count * sizeof(Elf64_Shdr);
  if (o->header.e_shoff > o->size || bytes > o->size - o->header.e_shoff || o->header.e_shstrndx >= o->section_count)
    return qn_fail(diag, QN_ERR_INTERNAL, "object file", "the driver's sections lie outside its object");
  o->sections = QN_ARENA_ARRAY(arena, o->section_count + room, Elf64_Shdr);
  if (!o->sections) return qn_fail_nomem(diag, "object file", "a section table");
  memcpy(o->sections, o->data + o->header.e_shoff, bytes);
  return QN_OK;
}

// Gives the undefined symbol of that name, where there is one, a place: the start of a section.
static void define_symbol(object *o, const char *name, size_t section, uint64_t size) {
  for (size_t s = 0; s < o->section_count; s++) {
    const Elf64_Shdr *table = &o->sections[s];
    if (table->sh_type != SHT_SYMTAB || table->sh_link >= o->section_count) continue;
    const char *names = (const char *)o->data + o->sections[table->sh_link].sh_offset;
    for (size_t at = 0; at + sizeof(Elf64_Sym) <= table->sh_size; at += sizeof(Elf64_Sym)) {
      uint8_t *place = o->data + table->sh_offset + at;
      Elf64_Sym symbol;
      memcpy(&symbol, place, sizeof symbol);
      if (symbol.st_shndx != SHN_UNDEF || strcmp(names + symbol.st_name, name) != 0) continue;
      symbol.st_shndx = (uint16_t)section;
      symbol.st_value = 0;
      symbol.st_size = size;
      symbol.st_info = ELF64_ST_INFO(STB_GLOBAL, STT_OBJECT);
      symbol.st_other = STV_HIDDEN;
      memcpy(place, &symbol, sizeof symbol);
      return;
    }
  }
}

// The section's names with those of the added ones behind them, written as a new table.
static qn_status write_names(qn_file_writer *writer, object *o, const added *more, size_t count) {
  Elf64_Shdr *names = &o->sections[o->header.e_shstrndx];
  uint64_t start = writer->offset, size = names->sh_size;
  QN_TRY(qn_file_writer_write(writer, o->data + names->sh_offset, names->sh_size));
  for (size_t i = 0; i < count; i++) {
    size_t length = strlen(more[i].section) + 1;
    QN_TRY(qn_file_writer_write(writer, more[i].section, length));
    o->sections[o->section_count + i].sh_name = (uint32_t)size;
    size += length;
  }
  names->sh_offset = start;
  names->sh_size = size;
  return QN_OK;
}

// LLVM's object behind what the file has already, with the added sections in its table.
static qn_status write_sections(qn_file_writer *writer, object *o, const added *more, size_t count) {
  for (size_t i = 0; i < count; i++) {
    define_symbol(o, more[i].symbol, o->section_count + i, more[i].size);
    o->sections[o->section_count + i] = (Elf64_Shdr){.sh_type = SHT_PROGBITS,
                                                     .sh_flags = more[i].flags,
                                                     .sh_offset = more[i].offset,
                                                     .sh_size = more[i].size,
                                                     .sh_addralign = QN_ARTIFACT_PAGE};
  }
  QN_TRY(qn_file_writer_align(writer, QN_ARTIFACT_PAGE));
  uint64_t base = writer->offset;
  QN_TRY(qn_file_writer_write(writer, o->data, o->size));
  QN_TRY(write_names(writer, o, more, count));
  for (size_t s = 1; s < o->section_count; s++)
    if (s != o->header.e_shstrndx) o->sections[s].sh_offset += base;
  QN_TRY(qn_file_writer_align(writer, sizeof(uint64_t)));
  o->header.e_shoff = writer->offset;
  o->header.e_shnum = (uint16_t)(o->section_count + count);
  QN_TRY(qn_file_writer_write(writer, o->sections, (o->section_count + count) * sizeof *o->sections));
  return qn_file_writer_write_at(writer, 0, &o->header, sizeof o->header);
}

// The driver's object for where the weights are now.
static qn_status make_driver(const qn_object_spec *spec, bool own_weights, uint64_t hash,
                             const qn_codegen_options *options, const qn_allocator *allocator, object *out,
                             qn_diag *diag) {
  qn_driver driver = {.name = spec->name,
                      .program = spec->program->programs[0].program,
                      .plan = spec->plan,
                      .offsets = spec->code->offsets,
                      .fields = spec->fields,
                      .field_count = spec->field_count,
                      .own_weights = own_weights,
                      .weights_hash = hash};
  return qn_cpu_driver(&driver, options, allocator, &out->data, &out->size, diag);
}

static qn_status write_weights_file(qn_object_spec *spec, const qn_allocator *allocator, uint64_t *out_hash,
                                    qn_diag *diag) {
  static const uint8_t page[QN_ARTIFACT_PAGE];
  uint64_t offset = 0;
  qn_weights_head head = {.magic = QN_WEIGHTS_MAGIC};
  QN_TRY(qn_file_writer_write(spec->weights, page, sizeof page));
  QN_TRY(qn_artifact_write_weights(spec->weights, spec->program, allocator, &offset, &head.size, &head.hash, diag));
  spec->weight_bytes = offset + head.size;
  *out_hash = head.hash;
  return qn_file_writer_write_at(spec->weights, 0, &head, sizeof head);
}

static qn_status write_own_weights(qn_file_writer *writer, qn_object_spec *spec, const qn_allocator *allocator,
                                   added *out, qn_diag *diag) {
  const qn_program *program = spec->program->programs[0].program;
  uint64_t hash = 0, bytes = 0;
  for (size_t i = 0; i < program->buffers.count; i++)
    if (program->buffers.items[i].kind == QN_PB_WEIGHT) bytes += program->buffers.items[i].bytes;
  if (bytes > WEIGHTS_MAX) {
    return qn_fail(diag, QN_ERR_LIMIT, writer->path,
                   "got %" PRIu64 " bytes of weights, want at most %" PRIu64
                   " in an object; put them into a file of their own",
                   bytes, WEIGHTS_MAX);
  }
  QN_TRY(qn_artifact_write_weights(writer, spec->program, allocator, &out->offset, &out->size, &hash, diag));
  spec->weight_bytes = out->size;
  return QN_OK;
}

qn_status qn_object_write(qn_file_writer *writer, qn_object_spec *spec, const qn_codegen_options *options,
                          const qn_allocator *allocator, qn_diag *diag) {
  static const uint8_t head[sizeof(Elf64_Ehdr)];
  object o = {0};
  uint64_t hash = 0;
  added more[] = {{.flags = SHF_ALLOC | SHF_EXECINSTR, .size = spec->code->image_size}, {.flags = SHF_ALLOC}};
  const char *name = spec->name;
  more[0].section = qn_arena_printf(spec->arena, ".text.%s_image", name);
  more[0].symbol = qn_arena_printf(spec->arena, "%s_image", name);
  more[1].section = qn_arena_printf(spec->arena, ".rodata.%s_weights", name);
  more[1].symbol = qn_arena_printf(spec->arena, "%s_weights", name);
  if (!more[0].section || !more[0].symbol || !more[1].section || !more[1].symbol)
    return qn_fail_nomem(diag, name, "names of symbols");
  QN_TRY(qn_file_writer_write(writer, head, sizeof head));
  QN_TRY(spec->weights ? write_weights_file(spec, allocator, &hash, diag)
                       : write_own_weights(writer, spec, allocator, &more[1], diag));
  QN_TRY(qn_file_writer_align(writer, QN_ARTIFACT_PAGE));
  size_t count = more[1].size > 0 ? 2 : 1;
  more[0].offset = writer->offset;
  QN_TRY(qn_file_writer_write(writer, spec->code->image, spec->code->image_size));
  QN_TRY(qn_driver_list_fields(spec->program->programs[0].program, !spec->weights, spec->arena, &spec->fields,
                               &spec->field_count, diag));
  QN_TRY(make_driver(spec, count > 1, hash, options, allocator, &o, diag));
  qn_status status = read_object(&o, count, spec->arena, diag);
  if (status == QN_OK) status = write_sections(writer, &o, more, count);
  qn_free(allocator, o.data, o.size);
  return status;
}
