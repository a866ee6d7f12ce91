// A linker for what our code generator makes: ELF64 relocatable objects → one flat image that runs at any page.
#ifndef QN_CODEGEN_CPU_LINK_H
#define QN_CODEGEN_CPU_LINK_H

#include "codegen/codegen.h"

typedef struct qn_link_object {
  const uint8_t *data;  // borrowed
  size_t size;
} qn_link_object;

// Places the code and constants of all objects one after another, resolves their relocations and looks up `names`.
// Errors: a symbol that no object defines, a relocation that needs an absolute address or is not known (by number),
// writable data.
QN_CHECKED qn_status qn_link(const qn_link_object *objects, size_t object_count, const char *const *names,
                             size_t name_count, const qn_allocator *allocator, qn_code *out, qn_diag *diag);

#endif
