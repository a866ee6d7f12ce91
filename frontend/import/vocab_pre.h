// The pre-tokenizers that GGUF files name (tokenizer.ggml.pre): the patterns by which byte-level vocabularies cut a text
// into words. A tokenizer.json has its patterns in itself.
#ifndef QN_IMPORT_VOCAB_PRE_H
#define QN_IMPORT_VOCAB_PRE_H

#include "frontend/import/vocab_steps.h"

enum { QN_PRE_PATTERNS = 4 };

typedef struct qn_pre_tokenizer {
  const char *name;
  const char *const *patterns;  // (QN_PRE_PATTERNS), NULL after the last; each cuts the words of the one before
  bool ignore_merges, add_bos;  // what the name implies for settings that a file says nothing of
  bool nfc;                     // the text is brought into NFC first: files do not say, the models' own tokenizers do
} qn_pre_tokenizer;

// The line of a name. Errors: UNSUPPORTED; the text lists the names.
QN_CHECKED qn_status qn_pre_tokenizer_find(const char *name, const qn_pre_tokenizer **out, qn_diag *diag);
// Adds all its steps, the last of which brings the words into the byte alphabet.
void qn_step_list_pre_tokenizer(qn_step_list *list, const qn_pre_tokenizer *pre);

#endif
