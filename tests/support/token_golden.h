// Goldens of tokens: what reference_tokenizers.py writes (an .ids file), and holding a tokenizer against one.
#ifndef QN_TESTS_TOKEN_GOLDEN_H
#define QN_TESTS_TOKEN_GOLDEN_H

#include "runtime/tokenizer.h"

// Encodes the 1,000 random texts with these flags and holds the ids against the golden at `path`; where it says so,
// decoding must give the texts again, at once and as a stream. Differences go to stderr with the tokens; one is a failure
// of the test.
void qn_token_golden_check(const qn_tokenizer *tokenizer, const char *name, const char *path, unsigned flags);

#endif
