// Cases of chat templates, of which golden files hold many: variables in JSON, a line "## ---- template", the template.
// A case without that line is a template alone, with variables that all such cases share.
#ifndef QN_TESTS_SUPPORT_CHAT_CASE_H
#define QN_TESTS_SUPPORT_CHAT_CASE_H

#include "runtime/jinja.h"

// Variables of cases that bring none: a conversation, bos_token, eos_token, add_generation_prompt, and some values.
extern const char qn_chat_case_variables[];

// Renders a case to the end of `out`; what fails is in *diag.
QN_CHECKED qn_status qn_chat_case_render(qn_str text, const qn_jinja_options *options, const qn_allocator *allocator,
                                         qn_buf *out, qn_diag *diag);

#endif
