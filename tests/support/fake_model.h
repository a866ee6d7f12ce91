// A language model without a compiler: an artifact laid out by hand whose kernels are C functions. A token's logits are
// a function of all tokens before it, read back through block table and cache, so that a wrong page, position or chunk
// shows; and a script can say which tokens come out.
#ifndef QN_TESTS_SUPPORT_FAKE_MODEL_H
#define QN_TESTS_SUPPORT_FAKE_MODEL_H

#include "runtime/executor.h"
#include "tests/support/artifact_builder.h"

enum {
  QN_FAKE_VOCAB = 40,  // of the logits; the tokenizer has fewer
  QN_FAKE_PAGE_KEYS = 16,
  QN_FAKE_KERNELS = 4,  // variants, that is
};

// Token ids of the tokenizer: SentencePiece, with byte tokens of "€" only.
enum {
  QN_FAKE_UNK,
  QN_FAKE_BOS,
  QN_FAKE_EOS,
  QN_FAKE_E2,
  QN_FAKE_82,
  QN_FAKE_AC,
  QN_FAKE_ONE,
  QN_FAKE_TWO,
  QN_FAKE_AB,
  QN_FAKE_CD,
  QN_FAKE_ABC,
  QN_FAKE_D,
  QN_FAKE_ST,
  QN_FAKE_OP,
  QN_FAKE_STOP,
  QN_FAKE_SPACE,
  QN_FAKE_X,
  QN_FAKE_TOKENS
};

extern const qn_kernel_entry qn_fake_kernels[QN_FAKE_KERNELS];
extern const qn_kernel_entry qn_fake_tree_kernels[QN_FAKE_KERNELS];  // of one with options.trees
// What the kernels found wrong (indices out of range, caches that disagree). Zero at the start of a program.
int qn_fake_errors(void);

// The token that comes after a sequence of n tokens is script[n], as long as the script goes; NULL: none is favoured.
// Borrowed.
void qn_fake_set_script(const int32_t *script, size_t count);
// From now on tokens see so many keys, their own the last, and models that are built say so. 0 = all, as at the start.
void qn_fake_set_window(int64_t keys);

// With a window: v has it, and pages of its own by the input "window_table"; k is of a layer that sees all, although no
// more is read of it.
void qn_fake_set_rings(bool apart);

typedef struct qn_fake_options {
  int64_t max_t, max_r, max_p, max_b;  // as compiled; max_t and max_r 0 = 16, the others 0 = any
  bool tokenizer;
  bool trees;  // it takes `copies`
  int64_t source;  // beside trees: tokens read a source, of so many tokens, by "cross_last_pos". For the process, as slots
  bool slots;  // keys may be evicted: they lie where the input "slot" says. For the process, until another is built
  bool queries;  // it has an output of queries, which nobody writes
  bool sums;     // it has a cache of sums of attention, which nobody writes
} qn_fake_options;

// The artifact's bytes, from qn_allocator_default; `change` (may be NULL) alters the description before it is written.
void qn_fake_model_build(const qn_fake_options *options, void (*change)(qn_test_artifact *a), qn_buf *out);
// The same, opened.
qn_artifact qn_fake_model_open(const qn_fake_options *options);

// What the logits after these tokens must be: (QN_FAKE_VOCAB).
void qn_fake_logits(const int32_t *tokens, size_t count, float *out);

#endif
