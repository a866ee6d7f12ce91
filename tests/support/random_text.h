// Random texts for tokenizers, the same on every machine and in tests/support/reference_tokenizers.py, which makes the
// goldens of their tokens.
#ifndef QN_TESTS_RANDOM_TEXT_H
#define QN_TESTS_RANDOM_TEXT_H

#include <stdint.h>

#include "runtime/base/str.h"

// Appends the index-th text: UTF-8 of words, numbers, white space, texts of special tokens and characters of many scripts,
// all of them assigned for long, so that versions of Unicode agree on them.
void qn_random_text(uint64_t index, qn_buf *out);

#endif
