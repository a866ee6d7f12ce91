// Tokenizers that a folder has in the files of older days, vocab.txt (WordPiece) or vocab.json and merges.txt
// (byte-level BPE), as the tokenizer.json that transformers makes of them.
#ifndef QN_IMPORT_VOCAB_FILES_H
#define QN_IMPORT_VOCAB_FILES_H

#include "frontend/import/json.h"
#include "frontend/import/template.h"

// What of the folder is there. Paths are NULL for files that are not; the trees are borrowed and may be NULL.
typedef struct qn_vocab_files {
  const char *folder;                           // for messages
  const char *vocab_txt, *vocab_json, *merges;  // paths
  const cJSON *config, *special_map, *added;    // tokenizer_config.json, special_tokens_map.json, added_tokens.json
  const cJSON *model_config;                    // config.json
} qn_vocab_files;

// *out is the text of a tokenizer.json, to be freed with cJSON_free; NULL when the folder has no such files. Errors:
// FORMAT (a file that is damaged), LIMIT (more lines or values than QN_JSON_MOST_VALUES), UNSUPPORTED (a tokenizer_class that is
// not known here), IO, NOMEM.
QN_CHECKED qn_status qn_vocab_files_to_json(const qn_vocab_files *files, qn_arena *arena, char **out, qn_diag *diag);

#endif
