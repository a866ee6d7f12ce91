// quern_inspect's two halves: what is asked of both kinds of file, and the half for artifacts (inspect_artifact.c).
#ifndef QUERN_FRONTEND_INSPECT_H
#define QUERN_FRONTEND_INSPECT_H

#include <stdint.h>

#include "runtime/base/diag.h"
#include "runtime/base/str.h"

// The parts of a description, in the order in which they are written.
typedef enum inspect_part {
  INSPECT_SUMMARY,
  INSPECT_METADATA,
  INSPECT_SECTIONS,
  INSPECT_TARGETS,
  INSPECT_MEMORY,
  INSPECT_TENSORS,
  INSPECT_KERNELS,
  INSPECT_GRAPH,
  INSPECT_LOOPS,
  INSPECT_CHECK,  // an artifact's weights against their hash
  INSPECT_PART_COUNT
} inspect_part;

typedef struct inspection {
  const char *path;
  const qn_allocator *allocator;  // borrowed
  qn_buf *out;                    // borrowed
  qn_diag *diag;                  // borrowed
} inspection;

// Appends one part of an artifact. Its file is open for as long as parts are asked for.
typedef struct inspect_artifact inspect_artifact;
QN_CHECKED qn_status inspect_artifact_open(const inspection *to, inspect_artifact **out);
QN_CHECKED qn_status inspect_artifact_part(inspect_artifact *artifact, inspect_part part);
void inspect_artifact_close(inspect_artifact *artifact);  // NULL is harmless

// "12.3 MiB"; below 10 KiB the bytes. Text of at most 32 bytes in `out`, which is returned.
const char *inspect_size(uint64_t bytes, char out[32]);
// Text of a file that may come from anybody: control bytes but newline and tab become \xNN.
void inspect_put_text(qn_buf *out, qn_str text);

#endif
