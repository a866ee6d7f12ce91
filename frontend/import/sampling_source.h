// How a model's files say that its tokens are to be chosen: generation_config.json of a folder, general.sampling.* of a
// GGUF file. What of it quern does not do, and numbers out of range, are told by one warning each file, and left out.
#ifndef QN_IMPORT_SAMPLING_SOURCE_H
#define QN_IMPORT_SAMPLING_SOURCE_H

#include "frontend/import/gguf.h"
#include "runtime/base/arena.h"
#include "runtime/base/sampler_defaults.h"

// As llama.cpp takes them: each key for itself. Errors: FORMAT (a key that is no number).
QN_CHECKED qn_status qn_sampling_from_gguf(const qn_gguf *gguf, qn_sampler_defaults *out, qn_diag *diag);

// As transformers takes them: with do_sample, what the file does not say is what is usual there (temperature 1, top_k
// 50, all of top_p and min_p); without, the most likely token is taken, and the rest is for who asks for a
// temperature. A penalty is of the whole text. No such file: nothing is said. Errors: IO, NOMEM, FORMAT (no JSON, a key twice,
// a value of another type).
QN_CHECKED qn_status qn_sampling_from_folder(const char *folder, qn_arena *arena, qn_sampler_defaults *out,
                                             qn_diag *diag);

#endif
