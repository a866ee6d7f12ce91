// A module of kernels is named by its bytecode as emitted, before anything of MLIR's or LLVM's was done with it; by the
// source files that do that (QN_STAGES_HASH); by the libraries that they call; and by the target.
#include "codegen/cpu/object_cache.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "codegen/kept_file.h"
#include "runtime/base/hash.h"

typedef struct hashers {
  qn_hasher each[2];
} hashers;

static void add(hashers *h, const void *data, size_t size) {
  for (size_t i = 0; i < QN_COUNT(h->each); i++) qn_hasher_update(&h->each[i], data, size);
}

static void add_text(hashers *h, const char *text) { add(h, text, strlen(text) + 1); }

static void add_bytecode(MlirStringRef bytes, void *user_data) { add(user_data, bytes.data, bytes.length); }

// An update that keeps the version changes a library's size or its time. False: there is no telling.
static bool add_libraries(hashers *h) {
  static const char *const libraries[] = {QN_LLVM_LIBRARY, QN_MLIR_LIBRARY};
  unsigned version[3];
  LLVMGetVersion(&version[0], &version[1], &version[2]);
  add(h, version, sizeof version);
  for (size_t i = 0; i < QN_COUNT(libraries); i++) {
    struct stat info;
    if (stat(libraries[i], &info) != 0) return false;
    const int64_t numbers[] = {info.st_size, info.st_mtim.tv_sec, info.st_mtim.tv_nsec};
    add(h, numbers, sizeof numbers);
  }
  return true;
}

qn_object_key qn_object_key_of(MlirModule module, const qn_codegen_options *options) {
  qn_object_key key = {.folder = options->dump ? NULL : getenv(QN_OBJECT_CACHE_VARIABLE)};
  hashers h;
  if (!key.folder || !*key.folder) return (qn_object_key){0};
  for (size_t i = 0; i < QN_COUNT(h.each); i++) qn_hasher_init(&h.each[i], i);
  add_text(&h, QN_STAGES_HASH);
  if (!add_libraries(&h)) return (qn_object_key){0};
  add_text(&h, options->target->triple);
  add_text(&h, options->target->cpu);
  add_text(&h, options->target->features);
  mlirOperationWriteBytecode(mlirModuleGetOperation(module), add_bytecode, &h);
  for (size_t i = 0; i < QN_COUNT(h.each); i++) key.words[i] = qn_hasher_final(&h.each[i]);
  return key;
}

static qn_kept_name name_of(const qn_object_key *key) {
  qn_kept_name name = {.key = {key->words[0], key->words[1]}};
  memcpy(name.magic, "qobject1", sizeof name.magic);
  return name;
}

// False when memory runs out.
static bool path_of(const qn_object_key *key, const qn_allocator *allocator, qn_buf *out) {
  qn_buf_init(out, allocator);
  qn_buf_printf(out, "%s/kernels-%016" PRIx64 ".o", key->folder, key->words[0]);
  return !out->failed;
}

LLVMMemoryBufferRef qn_object_find(const qn_object_key *key, const qn_allocator *allocator) {
  LLVMMemoryBufferRef object = NULL;
  qn_kept_name name = name_of(key);
  qn_kept kept;
  qn_buf path;
  if (!key->folder) return NULL;
  if (path_of(key, allocator, &path) && qn_kept_read(qn_buf_text(&path), &name, allocator, &kept)) {
    object = LLVMCreateMemoryBufferWithMemoryRangeCopy(kept.content, kept.size, "kernels");
    qn_kept_deinit(&kept, allocator);
  }
  qn_buf_deinit(&path);
  return object;
}

void qn_object_keep(const qn_object_key *key, LLVMMemoryBufferRef object, const qn_allocator *allocator) {
  qn_kept_name name = name_of(key);
  qn_buf path, entry;
  if (!key->folder) return;
  qn_buf_init(&entry, allocator);
  if (path_of(key, allocator, &path)) {
    qn_kept_begin(&name, &entry);
    qn_buf_append(&entry, LLVMGetBufferStart(object), LLVMGetBufferSize(object));
    qn_kept_finish(&entry, 0);
    qn_kept_write(key->folder, qn_buf_text(&path), &entry);
  }
  qn_buf_deinit(&entry);
  qn_buf_deinit(&path);
}
