// The files that a model is read from: what its identity in the cache depends on.
#ifndef QN_IMPORT_MODEL_FILES_H
#define QN_IMPORT_MODEL_FILES_H

#include "frontend/import/recognise.h"
#include "runtime/base/arena.h"
#include "runtime/base/vec.h"

typedef struct qn_path_list {
  const char **items;  // arena
  size_t count, capacity;
} qn_path_list;

// Every file that opening the model at `path` may read, in an order that depends on nothing but their names: of a folder
// all with JSON, weights, vocabularies and chat templates, whether they are read or not.
QN_CHECKED qn_status qn_model_files(const char *path, qn_model_kind kind, qn_arena *arena, qn_path_list *out,
                                    qn_diag *diag);

#endif
