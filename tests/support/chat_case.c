// Cases of chat templates.
#include "tests/support/chat_case.h"

#include <string.h>

const char qn_chat_case_variables[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \" Be brief. \"}, {\"role\": \"user\", \"content\": \"Hi "
    "\\u00e9\"},"
    " {\"role\": \"assistant\", \"content\": \"Yo\"}, {\"role\": \"user\", \"content\": \"Bye\"}],"
    " \"m\": {\"content\": \"c\"}, \"bos_token\": \"<s>\", \"eos_token\": \"</s>\", \"add_generation_prompt\": true,"
    " \"numbers\": [3, 1, 2], \"nothing\": null, \"nested\": {\"a\": {\"b\": [1, 2.5, \"\\u2603\", true]}}}";

static const char mark[] = "## ---- template\n";

static qn_status render(qn_str json, qn_str text, const qn_jinja_options *options, const qn_allocator *allocator,
                        qn_arena *arena, qn_buf *out, qn_diag *diag) {
  qn_jinja_value variables;
  qn_jinja *jinja;
  QN_TRY(qn_jinja_from_json("variables", json, arena, &variables, diag));
  if (variables.kind != QN_JINJA_MAP) return qn_fail(diag, QN_ERR_ARGUMENT, "variables", "got no object");
  QN_TRY(qn_jinja_parse("chat", text, allocator, &jinja, diag));
  qn_status status = qn_jinja_render(jinja, variables.map, options, allocator, out, diag);
  qn_jinja_free(jinja);
  return status;
}

qn_status qn_chat_case_render(qn_str text, const qn_jinja_options *options, const qn_allocator *allocator, qn_buf *out,
                              qn_diag *diag) {
  qn_str json = qn_str_from(qn_chat_case_variables);
  const char *at = text.length ? memmem(text.data, text.length, mark, sizeof mark - 1) : NULL;
  if (at) {
    json = (qn_str){text.data, (size_t)(at - text.data)};
    at += sizeof mark - 1;
    text = (qn_str){at, (size_t)(text.data + text.length - at)};
  }
  qn_arena arena;
  qn_arena_init(&arena, allocator);
  qn_status status = render(json, text, options, allocator, &arena, out, diag);
  qn_arena_deinit(&arena);
  return status;
}
