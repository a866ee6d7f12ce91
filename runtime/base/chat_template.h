// A chat template as an importer finds it: what is stored in the artifact and applied by the runtime (runtime/chat.h).
#ifndef QN_BASE_CHAT_TEMPLATE_H
#define QN_BASE_CHAT_TEMPLATE_H

#include "runtime/base/str.h"

// A model's own is named "default"; it may have others ("tool_use").
typedef struct qn_chat_template {
  qn_str name, text;  // text: Jinja
} qn_chat_template;

#endif
