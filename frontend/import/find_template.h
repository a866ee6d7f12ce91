// The template for a model: a user's own, or the built-in one for its architecture.
#ifndef QN_IMPORT_FIND_TEMPLATE_H
#define QN_IMPORT_FIND_TEMPLATE_H

#include "frontend/import/template.h"

typedef struct qn_model_identity {
  const char *path;          // for messages
  qn_world world;
  const char *architecture;  // "llama"
} qn_model_identity;

// Parses it into *out, which is initialised already (and is deinitialised by the caller in every case). template_path
// NULL: the built-in one; UNSUPPORTED when there is none: the text lists those there are and names the nearest.
QN_CHECKED qn_status qn_find_template(qn_template *out, const qn_model_identity *model, const char *template_path,
                                      qn_arena *arena, qn_diag *diag);
// Reads a JSON file, a template or a graph.
QN_CHECKED qn_status qn_read_template(qn_template *out, const char *path, qn_arena *arena, qn_diag *diag);

#endif
