// Templates and graphs in JSON: tests/golden/templates/*.txt are lists of cases:
//   a template or graph
//   // ---- want
//   "ok" for a template; for a graph what it makes, printed; or the error
//   // ====
// QUERN_UPDATE_GOLDEN=1 rewrites what is wanted by what is got; read the difference before keeping it.
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "frontend/import/gguf_source.h"
#include "frontend/import/graph_json.h"
#include "frontend/import/import.h"
#include "frontend/import/instantiate.h"
#include "runtime/base/file.h"
#include "tests/support/test.h"

static const char WANT[] = "// ---- want\n", END[] = "// ====\n";

// What "extends" may name: one template, and two that extend each other.
static const char *lookup(const char *name) {
  if (strcmp(name, "base") == 0) {
    return "{\"quern_template\": 1, \"name\": \"base\", \"gguf\": [\"base\"],"
           " \"params\": {\"width\": {\"value\": 4}, \"eps\": {\"kind\": \"float\", \"default\": 0.5}},"
           " \"weights\": {\"w\": {\"gguf\": \"w\", \"shape\": [\"width\"]}},"
           " \"graph\": [{\"set\": \"y\", \"op\": \"rmsnorm\", \"args\": [\"w\", \"w\"], \"attrs\": {\"eps\": "
           "\"eps\"}},"
           " {\"output\": \"y\", \"value\": \"y\"}]}";
  }
  if (strcmp(name, "left") == 0) return "{\"quern_template\": 1, \"name\": \"left\", \"extends\": \"right\"}";
  if (strcmp(name, "right") == 0) return "{\"quern_template\": 1, \"name\": \"right\", \"extends\": \"left\"}";
  return NULL;
}

static qn_status make_graph(qn_template *t, qn_arena *arena, qn_buf *out, qn_diag *diag) {
  qn_model_source source = qn_gguf_source(NULL, "case", t->name);
  qn_instantiate_options options = {.kv_dtype = QN_DTYPE_F16, .max_values = {0, 8, 2, 3, 1, 3}};
  qn_binding binding;
  qn_graph *graph = NULL;
  qn_status status = qn_binding_init(&binding, t, &source, arena, diag);
  if (status == QN_OK) status = qn_instantiate(&binding, &options, arena, &graph, diag);
  if (status == QN_OK) qn_graph_print(graph, out);
  qn_binding_deinit(&binding);
  return status;
}

// What becomes of a text.
static void answer_with(qn_str text, qn_template_lookup_fn find, qn_buf *out) {
  qn_arena arena;
  qn_template t;
  qn_diag diag = {0};
  char *copy = qn_alloc(qn_test_allocator(), text.length + 1);  // so that a sanitizer sees a byte too many
  memcpy(copy, text.data, text.length);
  copy[text.length] = 0;
  qn_arena_init(&arena, qn_test_allocator());
  qn_status status = qn_template_parse(&t, "case", copy, text.length, find, &arena, &diag);
  qn_free(qn_test_allocator(), copy, text.length + 1);  // nothing of it is kept
  if (status == QN_OK) status = t.is_graph ? make_graph(&t, &arena, out, &diag) : QN_OK;
  if (status != QN_OK) {
    qn_buf_printf(out, "%s: %s\n", qn_status_name(status), diag.text);
  } else if (!t.is_graph) {
    qn_buf_puts(out, "ok\n");
  }
  qn_template_deinit(&t);
  qn_arena_deinit(&arena);
}

static void answer(qn_str text, qn_buf *out) { answer_with(text, lookup, out); }

// The file as it should be, from the file as it is.
static size_t rebuild(const char *file, qn_buf *out) {
  size_t cases = 0;
  for (; *file; cases++) {
    const char *want = strstr(file, WANT), *end = want ? strstr(want, END) : NULL;
    ck_assert_msg(want && end, "a case without its want or its end: %.60s", file);
    qn_buf_append(out, file, (size_t)(want - file));
    qn_buf_puts(out, WANT);
    answer((qn_str){file, (size_t)(want - file)}, out);
    qn_buf_puts(out, END);
    file = end + strlen(END);
  }
  return cases;
}

static void check_file(const char *name) {
  char path[1024], *file;
  size_t size;
  qn_diag diag = {0};
  qn_buf out;
  qn_buf_init(&out, qn_test_allocator());
  snprintf(path, sizeof path, "%s/%s", qn_test_source("tests/golden/templates"), name);
  qn_assert_ok(&diag, qn_file_read(path, QN_TEXT_MAX, qn_test_allocator(), &file, &size, &diag));
  ck_assert_uint_gt(rebuild(file, &out), 0);
  if (getenv("QUERN_UPDATE_GOLDEN")) {
    qn_test_write_file(path, qn_buf_text(&out), out.length);
  } else {
    size_t line = 1, at = 0;  // of the first difference
    for (; at < out.length && file[at] == out.data[at]; at++) line += file[at] == '\n';
    while (at > 0 && file[at - 1] != '\n') at--;
    ck_assert_msg(strcmp(file, qn_buf_text(&out)) == 0, "%s:%zu:\n got  %.*s\n want %.*s", name, line,
                  (int)strcspn(out.data + at, "\n"), out.data + at, (int)strcspn(file + at, "\n"), file + at);
  }
  qn_free(qn_test_allocator(), file, size + 1);
  qn_buf_deinit(&out);
}

START_TEST(test_template_errors) { check_file("template_errors.txt"); }
END_TEST
START_TEST(test_graph_errors) { check_file("graph_errors.txt"); }
END_TEST
START_TEST(test_graphs) { check_file("graphs.txt"); }
END_TEST

// The examples of models/README.md, each between ```json and ```, are what they say.
START_TEST(test_readme) {
  static const char BEGIN[] = "```json\n";
  char *text;
  size_t size;
  int examples = 0;
  qn_diag diag = {0};
  qn_assert_ok(&diag,
               qn_file_read(qn_test_source("models/README.md"), QN_TEXT_MAX, qn_test_allocator(), &text, &size, &diag));
  for (const char *at = text; (at = strstr(at, BEGIN)) != NULL; examples++) {
    const char *begin = at + strlen(BEGIN), *end = strstr(begin, "```");
    qn_buf out;
    ck_assert_ptr_nonnull(end);
    qn_buf_init(&out, qn_test_allocator());
    answer_with((qn_str){begin, (size_t)(end - begin)}, qn_builtin_template_text, &out);
    bool good = strcmp(qn_buf_text(&out), "ok\n") == 0 || strncmp(qn_buf_text(&out), "graph ", 6) == 0;
    ck_assert_msg(good, "%.60s...: %s", begin, qn_buf_text(&out));
    qn_buf_deinit(&out);
    at = end;
  }
  ck_assert_int_ge(examples, 4);
  qn_free(qn_test_allocator(), text, size + 1);
}
END_TEST

// Every built-in template parses, has a name that is its file's, and says what it is for.
START_TEST(test_builtin) {
  ck_assert_uint_ge(qn_builtin_template_count, 3);
  for (size_t i = 0; i < qn_builtin_template_count; i++) {
    const qn_builtin_template *builtin = &qn_builtin_templates[i];
    qn_arena arena;
    qn_template t;
    qn_diag diag = {0};
    char file[128];
    qn_arena_init(&arena, qn_test_allocator());
    qn_assert_ok(&diag, qn_template_parse(&t, builtin->name, builtin->text, strlen(builtin->text),
                                          qn_builtin_template_text, &arena, &diag));
    snprintf(file, sizeof file, "%s.json", t.name);
    ck_assert_str_eq(file, builtin->name);
    ck_assert_uint_ge(t.matches[QN_WORLD_GGUF].count + t.matches[QN_WORLD_HF].count, 1);
    ck_assert(!t.is_graph);
    qn_template_deinit(&t);
    qn_arena_deinit(&arena);
  }
}
END_TEST

// A text that is too deep, too long or cut at any byte is an error and no more.
START_TEST(test_hostile) {
  qn_buf text, out;
  for (int kind = 0; kind < 3; kind++) {
    static const char *const openers[] = {
        "[", "{\"a\":", "{\"quern_graph\":1,\"name\":\"x\",\"graph\":[{\"repeat\":1,\"index\":\"i\",\"body\":["};
    static const char *const again[] = {"[", "{\"a\":", "{\"repeat\":1,\"index\":\"i\",\"body\":["};
    qn_buf_init(&text, qn_test_allocator());
    qn_buf_init(&out, qn_test_allocator());
    qn_buf_puts(&text, openers[kind]);
    for (int i = 0; i < 20000; i++) qn_buf_puts(&text, again[kind]);
    answer((qn_str){text.data, text.length}, &out);
    ck_assert_msg(strncmp(qn_buf_text(&out), "format: case: 1:", 16) == 0, "%s", qn_buf_text(&out));
    qn_buf_deinit(&text);
    qn_buf_deinit(&out);
  }
  const char *whole = lookup("base");
  for (size_t length = 0; length < strlen(whole); length++) {
    qn_buf_init(&out, qn_test_allocator());
    answer((qn_str){whole, length}, &out);
    ck_assert_msg(strncmp(qn_buf_text(&out), "format: case: ", 14) == 0, "%zu: %s", length, qn_buf_text(&out));
    qn_buf_deinit(&out);
  }
}
END_TEST

// So many values that reading them would take gigabytes.
START_TEST(test_too_many_values) {
  enum { VALUES = (1 << 23) + 1 };
  qn_buf text, out;
  qn_buf_init(&text, qn_test_allocator());
  qn_buf_init(&out, qn_test_allocator());
  qn_buf_puts(&text, "{\"quern_graph\": 1, \"name\": \"\\\",[{\", \"graph\": [0");
  char more[1 << 16];
  for (size_t i = 0; i < sizeof more; i += 2) memcpy(more + i, ",0", 2);
  for (size_t i = 0; i < (size_t)VALUES * 2; i += sizeof more) qn_buf_append(&text, more, sizeof more);
  answer((qn_str){text.data, text.length}, &out);
  ck_assert_msg(strncmp(qn_buf_text(&out), "limit: case: got more than 8388608 values", 41) == 0, "%s", qn_buf_text(&out));
  qn_buf_deinit(&text);
  qn_buf_deinit(&out);
}
END_TEST

// The deepest that is allowed: chains of params, each in a nested expression.
START_TEST(test_deepest) {
  qn_buf text, out;
  qn_buf_init(&text, qn_test_allocator());
  qn_buf_init(&out, qn_test_allocator());
  qn_buf_puts(&text, "{\"quern_graph\": 1, \"name\": \"g\", \"params\": {");
  for (int i = 0; i < 15; i++) {
    qn_buf_printf(&text, "\"p%d\": {\"value\": \"", i);
    for (int depth = 0; depth < 22; depth++) qn_buf_puts(&text, "max(1, ");
    qn_buf_printf(&text, "p%d", i + 1);
    for (int depth = 0; depth < 22; depth++) qn_buf_puts(&text, ")");
    qn_buf_puts(&text, "\"}, ");
  }
  qn_buf_puts(&text, "\"p15\": {\"value\": 7}}, \"graph\": [{\"output\": \"y\", \"value\": \"tokens\"}]}");
  answer((qn_str){text.data, text.length}, &out);
  ck_assert_msg(strncmp(qn_buf_text(&out), "graph ", 6) == 0, "%s", qn_buf_text(&out));
  qn_buf_deinit(&text);
  qn_buf_deinit(&out);
}
END_TEST

START_TEST(test_base64) {
  static const struct {
    const char *text, *want;  // want NULL: refused
  } cases[] = {
      {"", ""},
      {"Zg==", "f"},
      {"Zm8=", "fo"},
      {"Zm9v", "foo"},
      {"Zm9vYg==", "foob"},
      {"Zm9vYmE=", "fooba"},
      {"Zm9vYmFy", "foobar"},
      {"Zg", "f"},
      {"Zm8", "fo"},
      {" Z\ng = =", "f"},
      {"/+8=", "\xff\xef"},
      {"Z", NULL},
      {"Zg=", NULL},
      {"Zg===", NULL},
      {"Zg==Zg==", NULL},
      {"Z*==", NULL},
      {"====", NULL},
      {"Zm9v=", NULL},
  };
  qn_arena arena;
  qn_arena_init(&arena, qn_test_allocator());
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    uint8_t *bytes;
    size_t size;
    bool good = qn_base64_decode(qn_str_from(cases[i].text), &arena, &bytes, &size);
    ck_assert_msg(good == (cases[i].want != NULL), "%s", cases[i].text);
    if (!good) continue;
    ck_assert_uint_eq(size, strlen(cases[i].want));
    ck_assert_mem_eq(bytes, cases[i].want, size);
  }
  qn_arena_deinit(&arena);
}
END_TEST

START_TEST(test_reserved) {
  static const char *const words[] = {"T", "R", "P", "B", "G", "arch", "kv", "true", "", "a-b", "9"};
  for (size_t i = 0; i < QN_COUNT(words); i++) ck_assert_msg(qn_template_is_reserved(words[i]), "%s", words[i]);
  ck_assert(!qn_template_is_reserved("attn_q"));
  qn_dim dim;
  ck_assert(qn_template_parse_symbol("64P", &dim) && dim.symbol == QN_SYM_P && dim.value == 64);
  ck_assert(!qn_template_parse_symbol("0T", &dim));
  ck_assert(!qn_template_parse_symbol("64", &dim));
  ck_assert(!qn_template_parse_symbol("TT", &dim));
  ck_assert(!qn_template_parse_symbol("9999999999T", &dim));
}
END_TEST

static qn_status parse_failing(const qn_allocator *allocator, void *context) {
  (void)context;
  qn_arena arena;
  qn_template t;
  qn_diag diag = {0};
  qn_arena_init(&arena, allocator);
  static const char text[] =
      "{\"quern_template\": 1, \"name\": \"x\", \"extends\": \"base\", \"params\": {\"a\": {\"value\": 1}}}";
  qn_status status = qn_template_parse(&t, "case", text, strlen(text), lookup, &arena, &diag);
  qn_template_deinit(&t);
  qn_arena_deinit(&arena);
  return status;
}

START_TEST(test_memory) { qn_test_failing_allocations(parse_failing, NULL); }
END_TEST

QN_CASE(golden, test_template_errors, test_graph_errors, test_graphs)
QN_CASE(templates, test_readme, test_builtin, test_hostile, test_too_many_values, test_deepest, test_base64, test_reserved, test_memory)
QN_TEST_MAIN(golden, templates)
