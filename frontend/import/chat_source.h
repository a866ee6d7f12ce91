// The chat templates that come with a model: in a GGUF file's metadata, or in the files of a Hugging Face folder.
#ifndef QN_IMPORT_CHAT_SOURCE_H
#define QN_IMPORT_CHAT_SOURCE_H

#include "frontend/import/gguf.h"
#include "runtime/base/arena.h"
#include "runtime/base/chat_template.h"
#include "runtime/base/vec.h"

typedef QN_VEC(qn_chat_template) qn_chat_templates;

// Those of a GGUF file: tokenizer.chat_template is "default", tokenizer.chat_template.NAME others. Texts are borrowed
// from the file, the list's memory is the arena's. Errors: FORMAT (a key that is no text), NOMEM.
QN_CHECKED qn_status qn_chat_from_gguf(const qn_gguf *gguf, qn_arena *arena, qn_chat_templates *out, qn_diag *diag);

// Those of a folder: chat_template.jinja, or else chat_template of tokenizer_config.json, or of chat_template.json,
// which is a text, or a list of
// {"name", "template"}; beside these additional_chat_templates/NAME.jinja. All memory is the arena's. A folder without
// any gives an empty list. Errors: those of reading the files, FORMAT (JSON of another shape), NOMEM.
QN_CHECKED qn_status qn_chat_from_folder(const char *folder, qn_arena *arena, qn_chat_templates *out, qn_diag *diag);

#endif
