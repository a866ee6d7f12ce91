// A GGUF file as a template sees it: metadata keys and tensors, and the check that nothing in it was left unread.
#ifndef QN_IMPORT_GGUF_SOURCE_H
#define QN_IMPORT_GGUF_SOURCE_H

#include "frontend/import/bind.h"
#include "frontend/import/gguf.h"

// `gguf` and `architecture` are borrowed. gguf NULL: a source with neither keys nor tensors, called `name`.
qn_model_source qn_gguf_source(qn_gguf *gguf, const char *name, const char *architecture);

// After the graph was made: every "<architecture>." key was read by a param, every tensor used by the graph, but for
// those that the template ignores. What is left over would mean a variant that the template does not describe, and a
// wrong result: UNSUPPORTED, naming it.
QN_CHECKED qn_status qn_gguf_source_check_unread(const qn_gguf *gguf, qn_binding *binding, qn_diag *diag);

#endif
