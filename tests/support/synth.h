// Synthetic GGUF models: the true shapes of real architectures with random weights, for benchmarks and end-to-end
// tests that cannot carry the real files. llama.cpp loads them too.
#ifndef QN_TEST_SYNTH_H
#define QN_TEST_SYNTH_H

#include "ir/format.h"
#include "runtime/base/diag.h"

// A decoder's shape: one line of the table in synth.c.
typedef struct qn_synth_model {
  const char *name;          // "llama-3.2-1b"
  const char *architecture;  // GGUF's word: "llama", "qwen2", "gpt2", "olmoe"
  int hidden, layers, heads, kv_heads, head_dim, ffn, vocab, context;
  float rope_theta;  // 0: learned positions
  float epsilon;
  bool tied;  // no output.weight of its own
  bool qkv_bias;
  bool llama3_rope;        // rope_freqs.weight with Llama 3's factors 32, 1, 4, 8192
  const char *vocabulary;  // a line of synth_vocabulary.c
  int experts, experts_used;  // ffn is then that of one; 0 = none
  bool qk_norm;               // of all of a token's queries, and of its keys
} qn_synth_model;

// What a file's matrices are: of one format, a mix of two, or each of another.
typedef struct qn_synth_type {
  const char *name;  // "q4_k_m"
  uint32_t file_type;
  qn_dtype format;  // of matrices and embeddings
  qn_dtype better;  // of the output head, and of attn_v and ffn_down of some layers (llama.cpp's _M mixes)
  bool every;       // instead: all formats of the types before it, in turn
} qn_synth_type;

typedef struct qn_synth_options {
  const qn_synth_model *model;
  const qn_synth_type *type;  // of matrices and embeddings; vectors and learned positions are f32
  int layers;                 // 0: the model's own number
  uint64_t seed;              // the same options and seed give the same bytes
} qn_synth_options;

// NULL when no model has the name / when index is past the last model.
const qn_synth_model *qn_synth_find(const char *name);
const qn_synth_model *qn_synth_at(size_t index);

const qn_synth_type *qn_synth_type_find(const char *name);
const qn_synth_type *qn_synth_type_at(size_t index);

QN_CHECKED qn_status qn_synth_save(const qn_synth_options *options, const char *path, const qn_allocator *allocator,
                                   qn_diag *diag);
// Into memory from the allocator: *out_data is the caller's, to be freed with size *out_size.
QN_CHECKED qn_status qn_synth_save_memory(const qn_synth_options *options, const qn_allocator *allocator,
                                          uint8_t **out_data, size_t *out_size, qn_diag *diag);

#endif
