// The vocabulary of a Hugging Face folder, or of one of its files, as the description the tokenizer is made from.
#ifndef QN_IMPORT_VOCAB_FOLDER_H
#define QN_IMPORT_VOCAB_FOLDER_H

#include "runtime/base/arena.h"
#include "runtime/base/diag.h"
#include "runtime/base/vocabulary.h"

// All of these fill *out with texts and arrays that live in `arena`, which must outlive it. Errors name the file and
// the place in it, got and want.

// Finds tokenizer.json, else tokenizer.model, else vocab.txt (WordPiece) or vocab.json and merges.txt (byte-level BPE) of
// the classes that vocab_files.c lists, in `folder`; what they do not say (which tokens are BOS, EOS, unknown and
// padding, which end a generation, tokens that were added) is taken from tokenizer_config.json,
// special_tokens_map.json, added_tokens.json, generation_config.json and config.json, where these are there. *out_found
// (may be NULL: then it is an error, UNSUPPORTED): is there one of these? vocab_size: the rows of the model's
// embedding, 0 = not known: a vocabulary with more tokens is refused. Errors: those of the functions below, IO.
QN_CHECKED qn_status qn_vocab_from_folder(const char *folder, int64_t vocab_size, qn_arena *arena,
                                          qn_tokenizer_desc *out, bool *out_found, qn_diag *diag);

// A tokenizer.json (the tokenizers library's): models BPE, Unigram and WordPiece with the normalizers, pre-tokenizers,
// post-processors and decoders in the tables of vocab_json*.c. Ids of BOS and so on are -1. `text` ends in a NUL that
// `length` does not count; `name` begins messages. Errors: FORMAT (not JSON; entries of the wrong kind; an id or a
// token that is there twice; ids with large gaps; merges that repeat or whose result is no token), UNSUPPORTED (a part
// that is not in the tables, by name; dropout; a pattern that means something else to PCRE2), LIMIT, NOMEM.
QN_CHECKED qn_status qn_vocab_from_json(const char *text, size_t length, const char *name, qn_arena *arena,
                                        qn_tokenizer_desc *out, qn_diag *diag);

// A tokenizer.model (SentencePiece's protobuf) of type BPE or UNIGRAM, encoded as SentencePiece does. BOS goes in front
// of texts for BPE, EOS behind for UNIGRAM, where there are such: callers who know better change it. Errors: FORMAT
// (not such a file; it ends early; no pieces), UNSUPPORTED (another type, by name; white space as suffixes), NOMEM.
QN_CHECKED qn_status qn_vocab_from_sentencepiece(const void *data, size_t size, const char *name, qn_arena *arena,
                                                 qn_tokenizer_desc *out, qn_diag *diag);

// Is this a tokenizer.json or tokenizer.model by its name and first bytes? For programs that take either.
bool qn_vocab_is_sentencepiece(const void *data, size_t size);

#endif
