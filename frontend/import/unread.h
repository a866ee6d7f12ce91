// The check that nothing of a model was left unread.
#ifndef QN_IMPORT_UNREAD_H
#define QN_IMPORT_UNREAD_H

#include "frontend/import/bind.h"

// After the graph was made: every key that says how the model computes was read by a param, every tensor used by the
// graph, but for those that the template ignores. What is left over would mean a variant that the template does not
// describe, and a wrong result: UNSUPPORTED, naming it.
QN_CHECKED qn_status qn_check_unread(qn_binding *binding, qn_diag *diag);

#endif
