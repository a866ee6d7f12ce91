// A graph that a host has built, as a compilation sees it: what it takes in place of a model file.
#ifndef QUERN_FRONTEND_BUILDER_H
#define QUERN_FRONTEND_BUILDER_H

#include "frontend/quern.h"
#include "ir/graph.h"
#include "ir/program.h"
#include "runtime/base/hash.h"

const char *quern_built_name(const quern_graph *graph);
// Refuses a graph that has an error or no output, and options that are of model files alone.
QN_CHECKED qn_status quern_built_check(const quern_graph *graph, const quern_compile_options *options, qn_diag *diag);
// A copy in an arena, for passes to change.
QN_CHECKED qn_status quern_built_copy(const quern_graph *graph, qn_arena *arena, qn_graph **out, qn_diag *diag);
// The weights by their names; they are the graph's.
qn_weight_source quern_built_weights(const quern_graph *graph);
// Tokens of context: what its pages hold.
int64_t quern_built_context(const quern_graph *graph);
// Token ids are below it (qn_graph_vocab_size); 0 = neither a language model nor an encoder.
int64_t quern_built_vocab_size(const quern_graph *graph);
// Adds all that the graph says, and its weights' bytes. NOMEM.
QN_CHECKED qn_status quern_built_hash(const quern_graph *graph, qn_hasher *hasher, qn_diag *diag);

#endif
