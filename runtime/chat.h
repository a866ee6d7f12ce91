// A model's chat templates: what turns messages into the text that the model was trained to answer. Kept in the
// artifact's CHAT section, one after the other: name and text.
#ifndef QN_RUNTIME_CHAT_H
#define QN_RUNTIME_CHAT_H

#include "runtime/base/chat_template.h"
#include "runtime/jinja.h"
#include "runtime/tokenizer.h"

#define QN_CHAT_MAX_TEMPLATES 64  // of a model

// Writes the section's bytes to the end of `out`: each template as two lengths (32 bits, little-endian), name and text.
// LIMIT for too many, or a text of more than QN_JINJA_MAX_TEXT bytes, NOMEM.
QN_CHECKED qn_status qn_chat_serialize(const qn_chat_template *templates, size_t count, qn_buf *out, qn_diag *diag);

// The index-th template of a section's bytes, borrowed from them; false after the last. FORMAT where they are damaged.
QN_CHECKED qn_status qn_chat_read(const void *section, size_t size, size_t index, qn_chat_template *out,
                                  bool *out_found, qn_diag *diag);

typedef struct qn_chat_message {
  qn_str role, content;
} qn_chat_message;

typedef struct qn_chat_request {
  const qn_chat_message *messages;
  size_t message_count;
  bool no_answer;         // do not begin the answer of the assistant
  qn_str variables_json;  // an object of further variables, which come before the others; empty = none
  qn_jinja_options options;
} qn_chat_request;

// Renders a template with the variables messages, add_generation_prompt, those of the request, and bos_token,
// eos_token, unk_token and pad_token where the tokenizer (may be NULL) has them. `name` is for messages. Errors: those
// of qn_jinja_parse, qn_jinja_from_json and qn_jinja_render.
QN_CHECKED qn_status qn_chat_render(const char *name, qn_str text, const qn_chat_request *request,
                                    const qn_tokenizer *tokenizer, const qn_allocator *allocator, qn_buf *out,
                                    qn_diag *diag);

#endif
