// The element types that checkpoints of the Hugging Face world store, and the weight format that each becomes: its own
// where quern has it, else the smallest that holds every value (F64 alone is rounded).
#ifndef QN_IMPORT_STORED_H
#define QN_IMPORT_STORED_H

#include "ir/format.h"

// In the order of the table in stored.c.
typedef enum qn_stored_dtype {
  QN_STORED_BOOL,
  QN_STORED_F4,
  QN_STORED_F6_E2M3,
  QN_STORED_F6_E3M2,
  QN_STORED_U8,
  QN_STORED_I8,
  QN_STORED_F8_E5M2,
  QN_STORED_F8_E4M3,
  QN_STORED_F8_E8M0,
  QN_STORED_I16,
  QN_STORED_U16,
  QN_STORED_F16,
  QN_STORED_BF16,
  QN_STORED_I32,
  QN_STORED_U32,
  QN_STORED_F32,
  QN_STORED_C64,
  QN_STORED_F64,
  QN_STORED_I64,
  QN_STORED_U64,
  QN_STORED_COUNT
} qn_stored_dtype;

const char *qn_stored_name(qn_stored_dtype dtype);              // "BF16"
bool qn_stored_parse(const char *name, qn_stored_dtype *out);   // false when unknown
uint32_t qn_stored_bits(qn_stored_dtype dtype);                 // of one element

// What a weight of this type becomes; NULL for types that are no weights (indices, masks, packed words).
const qn_format *qn_stored_format(qn_stored_dtype dtype);
// Are the stored bytes that format's own?
bool qn_stored_is_format(qn_stored_dtype dtype);
// Writes `count` elements in that format. `from` and `out` need no alignment.
void qn_stored_convert(qn_stored_dtype dtype, const void *from, size_t count, void *out);

#endif
