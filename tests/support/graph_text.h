// Graphs for tests in short: names instead of value numbers, types inferred. "x = input f32[T,64]; y = gelu x".
#ifndef QN_TESTS_SUPPORT_GRAPH_TEXT_H
#define QN_TESTS_SUPPORT_GRAPH_TEXT_H

#include "ir/graph.h"

// Statements end with ';' or a line end; words are apart by spaces; '#' starts a comment.
//   name = op word...       a word with '=' is an attribute, one with '[' the type, any other an operand
//   output name...          outputs, named as their values are
//   max T=17 P=2            the largest values of symbols (T, R 72, P 4, B 4, G 17 where not said; S none)
// Inputs and params get their own name as attribute `name`; `const 0.5` is short for `const value=0.5 f32[]`.
// tokens, pos, last_pos, seq, rows, block_table and a source's are made on their first use. "$N" in the
// text is replaced by the value of the variable N in `sizes`, which reads "N=17 K=64" (NULL = none).
// Errors name the statement's number: "graph:3: ...".
QN_CHECKED qn_status qn_graph_from_text(const char *text, const char *sizes, qn_arena *arena, qn_graph **out,
                                        qn_diag *diag);

#endif
