// The identity of the compiler that is running: what the linker stamped into it (the GNU build id, a hash of the linked
// bytes), or else a hash of its code and constants in memory; together with the hash of its code generator's library and
// what the system says of the LLVM libraries behind that, neither of which is loaded for it.
#include <elf.h>
#include <inttypes.h>
#include <link.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "codegen/target.h"
#include "frontend/compile.h"
#include "runtime/base/hash.h"

// Adds the build id among the notes of one segment; false when there is none.
static bool add_note(qn_hasher *hasher, const uint8_t *notes, size_t size) {
  size_t at = 0;
  while (size - at >= sizeof(ElfW(Nhdr))) {
    ElfW(Nhdr) note;
    memcpy(&note, notes + at, sizeof note);
    size_t name = at + sizeof note, text = name + (((size_t)note.n_namesz + 3) & ~(size_t)3);
    size_t end = text + (((size_t)note.n_descsz + 3) & ~(size_t)3);
    if (end > size || end <= at) return false;
    if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && memcmp(notes + name, "GNU", 4) == 0) {
      qn_hasher_update(hasher, notes + text, note.n_descsz);
      return true;
    }
    at = end;
  }
  return false;
}

static bool add_build_id(qn_hasher *hasher, const struct dl_phdr_info *object) {
  for (size_t i = 0; i < object->dlpi_phnum; i++) {
    const ElfW(Phdr) *segment = &object->dlpi_phdr[i];
    if (segment->p_type != PT_NOTE) continue;
    const uint8_t *notes = (const uint8_t *)(object->dlpi_addr + segment->p_vaddr);  // NOLINT: as the loader has it
    if (add_note(hasher, notes, segment->p_memsz)) return true;
  }
  return false;
}

// Adds what nothing writes to while the process runs: code and constants.
static void add_contents(qn_hasher *hasher, const struct dl_phdr_info *object) {
  for (size_t i = 0; i < object->dlpi_phnum; i++) {
    const ElfW(Phdr) *segment = &object->dlpi_phdr[i];
    if (segment->p_type != PT_LOAD || (segment->p_flags & PF_W) || !(segment->p_flags & PF_R)) continue;
    qn_hasher_update(hasher, (const void *)(object->dlpi_addr + segment->p_vaddr), segment->p_filesz);  // NOLINT
  }
}

static bool holds_this_file(const struct dl_phdr_info *object) {
  uintptr_t here = (uintptr_t)&quern_build_id;
  for (size_t i = 0; i < object->dlpi_phnum; i++) {
    const ElfW(Phdr) *segment = &object->dlpi_phdr[i];
    uintptr_t start = object->dlpi_addr + segment->p_vaddr;
    if (segment->p_type == PT_LOAD && here >= start && here - start < segment->p_memsz) return true;
  }
  return false;
}

// Called with each object of the process.
static int add_object(struct dl_phdr_info *object, size_t size, void *context) {
  (void)size;
  qn_hasher *hasher = context;
  if (!holds_this_file(object)) return 0;
  if (!add_build_id(hasher, object)) add_contents(hasher, object);
  return 1;
}

// A library that is too large to be read here: an update changes its size or its time.
static void add_library(qn_hasher *hasher, const char *path) {
  struct stat info;
  qn_hasher_update(hasher, path, strlen(path) + 1);
  if (stat(path, &info) != 0) return;
  int64_t numbers[] = {info.st_size, info.st_mtim.tv_sec, info.st_mtim.tv_nsec};
  qn_hasher_update(hasher, numbers, sizeof numbers);
}

static char text[17];

static void make_text(void) {
  qn_hasher hasher;
  qn_hasher_init(&hasher, 0);
  dl_iterate_phdr(add_object, &hasher);
  qn_hasher_update(&hasher, qn_generator_id, strlen(qn_generator_id));
  add_library(&hasher, QN_LLVM_LIBRARY);
  add_library(&hasher, QN_MLIR_LIBRARY);
  snprintf(text, sizeof text, "%016" PRIx64, qn_hasher_final(&hasher));
}

const char *quern_build_id(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, make_text);
  return text;
}
