// quern-chat: renders Jinja templates with variables from JSON, for comparing with Python's jinja2
// (tests/support/chat_reference.py). Reads cases from standard input: a line "TEMPLATE_BYTES JSON_BYTES", then both
// texts; writes for each "ok BYTES" or "STATUS BYTES", a newline, and the text or the message.
#include <stdio.h>
#include <stdlib.h>

#include "runtime/jinja.h"

static void fail(const char *what) {
  fprintf(stderr, "quern-chat: %s\n", what);
  exit(2);
}

static char *take(size_t size) {
  char *text = malloc(size + 1);
  if (!text || fread(text, 1, size, stdin) != size) fail("a case ends too early");
  return text;
}

static void answer(qn_str text, qn_str json) {
  qn_arena arena;
  qn_jinja *jinja = NULL;
  qn_jinja_value variables;
  qn_diag diag = {0};
  qn_buf out;
  qn_arena_init(&arena, qn_allocator_default());
  qn_buf_init(&out, qn_allocator_default());
  qn_status status = qn_jinja_from_json("variables", json, &arena, &variables, &diag);
  if (status == QN_OK && variables.kind != QN_JINJA_MAP) fail("variables are no object");
  if (status == QN_OK) status = qn_jinja_parse("template", text, qn_allocator_default(), &jinja, &diag);
  if (status == QN_OK) status = qn_jinja_render(jinja, variables.map, NULL, qn_allocator_default(), &out, &diag);
  if (status != QN_OK) {
    out.length = 0;
    qn_buf_puts(&out, diag.text);
  }
  printf("%s %zu\n", status == QN_OK ? "ok" : qn_status_name(status), out.length);
  fwrite(qn_buf_text(&out), 1, out.length, stdout);
  fflush(stdout);
  qn_jinja_free(jinja);
  qn_buf_deinit(&out);
  qn_arena_deinit(&arena);
}

int main(void) {
  size_t template_bytes, json_bytes;
  char line[64];
  while (fgets(line, sizeof line, stdin)) {
    if (sscanf(line, "%zu %zu", &template_bytes, &json_bytes) != 2) fail("want a line with two sizes");
    char *text = take(template_bytes), *json = take(json_bytes);
    answer((qn_str){text, template_bytes}, (qn_str){json, json_bytes});
    free(text);
    free(json);
  }
  return 0;
}
