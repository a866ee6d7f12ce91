// Texts as token ids, for commands: lists that grow, and the library's two calls (how many, then which) as one.
#ifndef QUERN_CLI_TOKENS_H
#define QUERN_CLI_TOKENS_H

#include "frontend/quern.h"
#include "runtime/base/vec.h"

typedef QN_VEC(int32_t) cli_ids;  // freed with qn_vec_free and qn_allocator_default

// Makes room for `count` ids in all; false when out of memory.
bool cli_ids_reserve(cli_ids *ids, size_t count);
bool cli_ids_push(cli_ids *ids, int32_t id);

// The tokens of a text in place of what `out` holds; flags as quern_tokenize. Its status.
int cli_tokenize(const quern_model *model, const char *text, size_t length, unsigned flags, cli_ids *out,
                 quern_error *error);

#endif
