// quern_inspect's parts: what is asked of both kinds of file, the half for artifacts (inspect_artifact.c) and that for
// models (inspect_model.c).
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
extern const char *const inspect_part_names[INSPECT_PART_COUNT];

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

// The same of a model: a file or a folder.
typedef struct inspect_model inspect_model;
QN_CHECKED qn_status inspect_model_open(const inspection *to, inspect_model **out);
bool inspect_model_has(const inspect_model *model, inspect_part part);  // those of `all` are these
QN_CHECKED qn_status inspect_model_part(inspect_model *model, inspect_part part);
// IO when its files lost bytes meanwhile.
QN_CHECKED qn_status inspect_model_check(const inspect_model *model);
void inspect_model_close(inspect_model *model);  // NULL is harmless

// "12.3 MiB"; below 10 KiB the bytes. Text of at most 32 bytes in `out`, which is returned.
const char *inspect_size(uint64_t bytes, char out[32]);
// Text of a file that may come from anybody: control bytes but newline and tab become \xNN.
void inspect_put_text(qn_buf *out, qn_str text);

#endif
