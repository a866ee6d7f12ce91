// The vocabulary of a GGUF file: its tokenizer.* keys, checked, as the description the tokenizer is made from.
#ifndef QN_IMPORT_VOCAB_H
#define QN_IMPORT_VOCAB_H

#include "frontend/import/gguf.h"
#include "runtime/base/arena.h"
#include "runtime/base/vocabulary.h"

// Fills *out. Token and merge texts are borrowed from `gguf`, arrays live in `arena` or in `gguf`: both must outlive
// *out. A byte-level vocabulary without tokenizer.ggml.pre (files from before April 2024) is cut as "default",
// llama.cpp's choice for such files, with a warning in the log. Errors name the file, the key, got and want: FORMAT
// (missing tokens, scores or merges; a wrong type; counts that do not agree; an id that is no token's; a merge that is
// not two texts with a space between), UNSUPPORTED (another kind of tokenizer than "llama" and "gpt2"), NOMEM.
// Pre-tokenizer names are checked by qn_tokenizer_serialize.
QN_CHECKED qn_status qn_vocab_from_gguf(qn_gguf *gguf, qn_arena *arena, qn_tokenizer_desc *out, qn_diag *diag);

#endif
