// The tiny checkpoints of tests/golden/models: which there are, how they are compiled, and what the reference made of
// some tokens (tests/support/reference.py).
#ifndef QN_TESTS_SUPPORT_GOLDEN_MODEL_H
#define QN_TESTS_SUPPORT_GOLDEN_MODEL_H

#include "frontend/import/safetensors.h"
#include "frontend/quern.h"

enum { QN_GOLDEN_MODELS_MAX = 128, QN_GOLDEN_TOKENS_MAX = 512, QN_GOLDEN_SEQUENCES = 3 };

// A folder of tests/golden/models or its "model.gguf", and the folder, where what is wanted is.
typedef struct qn_golden_model {
  char path[512], folder[512];
} qn_golden_model;

// All of them by path; their number.
int qn_golden_models_find(qn_golden_model out[QN_GOLDEN_MODELS_MAX]);
// The last part of the folder's path, "llama".
const char *qn_golden_model_name(const qn_golden_model *model);

// expected.safetensors: tokens I32 [T], positions I32 [P], logits F32 [P, vocabulary]; of an encoder in their place
// lengths I32 [P], of texts that are so many of the first tokens, and embeddings F32 [P, width]. Where there is an
// encoder beside the decoder, whose tokens they are, also source I32 [S].
typedef struct qn_golden_expectation {
  qn_safetensors *file;  // owned: qn_safetensors_close
  int32_t tokens[QN_GOLDEN_TOKENS_MAX], source[QN_GOLDEN_TOKENS_MAX];
  size_t count, source_count;
  bool encoder;
  const qn_safetensors_tensor *positions, *logits;
} qn_golden_expectation;
void qn_golden_model_expect(const qn_golden_model *model, qn_golden_expectation *out);

// Room for all that is evaluated: texts at once of an encoder, QN_GOLDEN_SEQUENCES together; of others all logits, in
// chunks of 32 tokens at most.
void qn_golden_model_options(const qn_golden_expectation *e, quern_compile_options *out);

// All logits of the tokens (count, vocabulary), given to the session in pieces of these sizes in turn.
void qn_golden_model_evaluate(quern_session *session, const qn_golden_expectation *e, const int *pieces,
                              size_t piece_count, float *out);
// Of an encoder: embeddings (P, width) of texts that begin alike, of the lengths that are wanted, `together` at a time.
void qn_golden_model_embed(quern_session *session, const qn_golden_expectation *e, size_t together, float *out);

#endif
