// Made-up vocabularies of the true sizes for synthetic models, in GGUF's keys; llama.cpp takes them too.
#ifndef QN_TEST_SYNTH_VOCABULARY_H
#define QN_TEST_SYNTH_VOCABULARY_H

#include "frontend/import/gguf_write.h"
#include "runtime/base/arena.h"

// How a model's vocabulary is made: one line of the table in synth_vocabulary.c.
typedef struct qn_synth_vocabulary {
  const char *name;
  const char *pre;        // byte-level BPE with this way of splitting texts (tokenizer.ggml.pre); NULL = SentencePiece
  int control_count;      // BPE: control tokens, the last ids
  const char *bos, *eos;  // BPE: names of the first and the second of them
  bool add_bos;
} qn_synth_vocabulary;

const qn_synth_vocabulary *qn_synth_vocabulary_find(const char *name);  // NULL when there is none

// Adds the keys of a vocabulary of `count` tokens (at least 512). The arena holds what the writer borrows. False when
// out of memory.
bool qn_synth_vocabulary_add(const qn_synth_vocabulary *vocabulary, size_t count, qn_gguf_writer *writer,
                             qn_arena *arena);

#endif
