// Chat templates: what bounds them, hostile ones, JSON, memory that runs out, the artifact's section, where templates
// come from, and the public interface. What templates render is in tests/golden/chat.
#include "runtime/chat.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "frontend/import/chat_source.h"
#include "frontend/import/gguf_write.h"
#include "runtime/model.h"
#include "tests/support/chat_case.h"
#include "tests/support/fake_model.h"
#include "tests/support/test.h"

static qn_status render(const char *text, const qn_jinja_options *options, qn_diag *diag) {
  qn_buf out;
  qn_buf_init(&out, qn_test_allocator());
  *diag = (qn_diag){0};
  qn_status status = qn_chat_case_render(qn_str_from(text), options, qn_test_allocator(), &out, diag);
  qn_buf_deinit(&out);
  return status;
}

// ---- bounds

START_TEST(steps_end) {
  static const char *const endless[] = {
      "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
      "{% set ns = namespace(x='a') %}{% for a in range(99999) %}{% if ns.x in ns.x %}{% endif %}{% set ns.x = ns.x ~ "
      "'a' %}{% endfor %}",
      "{% for a in range(99999) %}{{ range(50000)|sort|join|length }}{% endfor %}",
      "{% set ns = namespace(x=[1]) %}{% for a in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x == "
      "ns.x|list }}",
      "{% set ns = namespace(x=[1]) %}{% for a in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
      "{% set ns = namespace(x=[1]) %}{% for a in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ "
      "ns.x|tojson|length }}",
  };
  qn_jinja_options few = {.steps = 200000, .bytes = 8 << 20};
  for (size_t i = 0; i < QN_COUNT(endless); i++) {
    qn_diag diag;
    qn_assert_fails(&diag, QN_ERR_LIMIT, "does it loop?", render(endless[i], &few, &diag));
  }
}
END_TEST

START_TEST(memory_is_bounded) {
  static const char *const large[] = {
      "{{ 'x' * 99999999999 }}",
      "{{ [0] * 99999999999 }}",
      "{% set ns = namespace(x='ab') %}{% for a in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
      "{% set ns = namespace(x='ab') %}{% for a in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
      "{% set ns = namespace(x='ab') %}{% for a in range(99) %}{% set ns.x = ns.x|replace('b', 'bbbbbbbbbb') %}{% "
      "endfor %}",
      "{% set ns = namespace(x='ab') %}{% for a in range(99) %}{% set ns.x = ns.x.replace('', 'bbbbbbbb') %}{% endfor "
      "%}",
      "{% set ns = namespace(x='a\n') %}{% for a in range(99) %}{% set ns.x = (ns.x * 9)|indent(1000, true, true) %}{% "
      "endfor %}",
      "{% set ns = namespace(x=['ab']) %}{% for a in range(99) %}{% set ns.x = [ns.x|join('xxxxxxxx')] * 99 %}{% "
      "endfor %}",
      "{% set x = 'a' * 1000000 %}{% for a in range(99) %}{{ x }}{% endfor %}",
      "{% set x %}{% for a in range(99) %}{{ 'a' * 1000000 }}{% endfor %}{% endset %}",
      "{% set x = ('a ' * 400000).split(' ') %}{{ x|length }}{{ x|map('upper')|list|length }}{{ x|list }}",
  };
  qn_jinja_options small = {.bytes = 4 << 20};
  for (size_t i = 0; i < QN_COUNT(large); i++) {
    qn_diag diag;
    qn_test_memory memory;
    qn_buf out;
    qn_test_memory_init(&memory);
    qn_buf_init(&out, &memory.allocator);
    diag = (qn_diag){0};
    qn_assert_fails(&diag, QN_ERR_LIMIT, "bytes of",
                    qn_chat_case_render(qn_str_from(large[i]), &small, &memory.allocator, &out, &diag));
    qn_buf_deinit(&out);
    ck_assert_uint_eq(memory.live_bytes, 0);
    ck_assert_uint_le(memory.peak_bytes, 64u << 20);
  }
}
END_TEST

// A text of `count` times `part`, with ends.
static char *nest(const char *begin, const char *part, size_t count, const char *end) {
  char *text = malloc(strlen(begin) + strlen(part) * count + strlen(end) + 1), *at = text;
  at += sprintf(at, "%s", begin);
  for (size_t i = 0; i < count; i++) at += sprintf(at, "%s", part);
  sprintf(at, "%s", end);
  return text;
}

START_TEST(nesting_is_bounded) {
  static const struct {
    const char *begin, *part, *end, *needle;
  } cases[] = {
      {"{{ ", "(", "1 }}", "nested too deeply"},
      {"{{ ", "not ", "1 }}", "nested too deeply"},
      {"{{ ", "-", "1 }}", "nested too deeply"},
      {"{{ ", "[", "1 }}", "nested too deeply"},
      {"{{ ", "1 if 1 else ", "1 }}", "nested too deeply"},
      {"", "{% if 1 %}", "", "nested too deeply"},
      {"{{ 1", " + 1", " }}", "nested deeper than"},
      {"{{ 1", "|string", " }}", "nested deeper than"},
      {"{{ 'a'", "[0]", " }}", "nested deeper than"},
      {"{% filter string", "|string", " %}x{% endfilter %}", "nested deeper than"},
      {"{% set x | string", "|string", " %}x{% endset %}", "nested deeper than"},
      {"{{ 'a'|map('map'", ",'map'", ") }}", "nested deeper than"},
      {"{{ a", " or a", " }}", "nested deeper than"},
  };
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    qn_diag diag;
    char *text = nest(cases[i].begin, cases[i].part, 3000, cases[i].end);
    qn_assert_fails(&diag, QN_ERR_LIMIT, cases[i].needle, render(text, NULL, &diag));
    free(text);
  }
  qn_diag diag;
  qn_assert_fails(&diag, QN_ERR_LIMIT, "does a macro call itself?",
                  render("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", NULL, &diag));
  qn_assert_fails(&diag, QN_ERR_LIMIT, "nested deeper",
                  render("{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}", NULL, &diag));
  qn_assert_fails(&diag, QN_ERR_LIMIT, "nested deeper",
                  render("{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}", NULL, &diag));
  // Many elifs and long chains of ~ are not deep.
  char *text = nest("{% if 0 %}", "{% elif 0 %}", 3000, "{% else %}x{% endif %}");
  qn_assert_ok(&diag, render(text, NULL, &diag));
  free(text);
  text = nest("{{ 1", " ~ 1", 3000, " }}");
  qn_assert_ok(&diag, render(text, NULL, &diag));
  free(text);
}
END_TEST

START_TEST(long_templates) {
  qn_diag diag = {0};
  qn_jinja *jinja = (qn_jinja *)&diag;
  char *text = nest("", "xxxxxxxxxxxxxxxx", QN_JINJA_MAX_TEXT / 16, "");
  qn_assert_ok(&diag, qn_jinja_parse("t", qn_str_from(text), qn_test_allocator(), &jinja, &diag));
  qn_jinja_free(jinja);
  qn_assert_fails(&diag, QN_ERR_LIMIT, "bytes, want at most",
                  qn_jinja_parse("t", (qn_str){text, QN_JINJA_MAX_TEXT + 1}, qn_test_allocator(), &jinja, &diag));
  ck_assert_ptr_null(jinja);
  free(text);
  qn_jinja_free(NULL);
}
END_TEST

// Each allocation of a parse and a rendering fails in turn.
START_TEST(no_memory) {
  static const char text[] =
      "{% macro m(a, b=[1]) %}{{ a|upper }}{{ b }}{% endmacro %}{% for x in messages if x.role != 'q' %}{% set y %}{{ "
      "m(x.content) }}"
      "{% endset %}{{ y ~ loop.index }}{% endfor %}{{ messages|map(attribute='role')|join(',') }}{{ "
      "messages|tojson(indent=1) }}"
      "{{ 'a b'.split() }}{{ {'a': numbers|sort}|dictsort }}{{ 'x'.replace('x', 'y')|title }}{{ numbers[::-1] }}{{ "
      "'abc'[::2] }}";
  size_t failed = 0;
  for (size_t at = 1;; at++) {
    qn_test_memory memory;
    qn_buf out;
    qn_diag diag = {0};
    qn_test_memory_init(&memory);
    memory.fail_at = at;
    qn_buf_init(&out, &memory.allocator);
    qn_status status = qn_chat_case_render(qn_str_from(text), NULL, &memory.allocator, &out, &diag);
    qn_check(status == QN_OK || status == QN_ERR_NOMEM, "allocation %zu: %s", at, diag.text);
    qn_buf_deinit(&out);
    qn_check(memory.live_bytes == 0, "allocation %zu: %zu bytes are left", at, memory.live_bytes);
    if (status == QN_OK) break;
    failed++;
  }
  ck_assert_uint_gt(failed, 20);
}
END_TEST

START_TEST(failures_leave_what_was_there) {
  qn_buf out;
  qn_diag diag = {0};
  qn_buf_init(&out, qn_test_allocator());
  qn_buf_puts(&out, "before");
  qn_assert_fails(&diag, QN_ERR_FORMAT, "chat:2:6: 'x' is undefined",
                  qn_chat_case_render(QN_STR("printed\n{{ x + 1 }}"), NULL, qn_test_allocator(), &out, &diag));
  ck_assert_str_eq(qn_buf_text(&out), "before");
  qn_buf_deinit(&out);
}
END_TEST

// ---- JSON

START_TEST(json_errors) {
  static const struct {
    const char *text, *needle;
    qn_status status;
  } cases[] = {
      {"", "j:1:1: not JSON: the text ends, want a value", QN_ERR_FORMAT},
      {"{\n \"a\" 1}", "j:2:6: not JSON: got '1', want a colon", QN_ERR_FORMAT},
      {"{\"a\": 1, }", "want a text in double quotes", QN_ERR_FORMAT},
      {"[1 2]", "want a comma or ]", QN_ERR_FORMAT},
      {"{\"a\":1 2}", "want a comma or }", QN_ERR_FORMAT},
      {"[1,]", "want a value", QN_ERR_FORMAT},
      {"\"a", "the text ends, want a quote", QN_ERR_FORMAT},
      {"\"a\\", "the text ends, want a quote", QN_ERR_FORMAT},
      {"\"\\q\"", "got 'q', want an escape", QN_ERR_FORMAT},
      {"\"\\u12g4\"", "want four hexadecimal digits", QN_ERR_FORMAT},
      {"\"a\nb\"", "got byte 0x0a, want an escape for a control character", QN_ERR_FORMAT},
      {"1 2", "want nothing more", QN_ERR_FORMAT},
      {"nul", "got 'n', want a value", QN_ERR_FORMAT},
      {"1e", "got '1', want a value", QN_ERR_FORMAT},
      {"--1", "want a value", QN_ERR_FORMAT},
  };
  qn_jinja_value out;
  qn_arena arena;
  qn_arena_init(&arena, qn_test_allocator());
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    qn_diag diag = {0};
    qn_assert_fails(&diag, cases[i].status, cases[i].needle,
                    qn_jinja_from_json("j", qn_str_from(cases[i].text), &arena, &out, &diag));
  }
  qn_diag diag = {0};
  char *deep = nest("", "[", 3000, "");
  qn_assert_fails(&diag, QN_ERR_LIMIT, "nested too deeply",
                  qn_jinja_from_json("j", qn_str_from(deep), &arena, &out, &diag));
  free(deep);
  diag = (qn_diag){0};
  qn_assert_ok(&diag,
               qn_jinja_from_json(
                   "j", QN_STR(" {\"a\": \"\\ud83d\\ude00\\ud800\\/\", \"n\": [1, -2.5e1, true, null], \"a\": 7} "),
                   &arena, &out, &diag));
  ck_assert_uint_eq(out.map->count, 2);
  ck_assert_int_eq(qn_jinja_map_get(out.map, QN_STR("a"))->integer, 7);
  ck_assert(qn_jinja_map_get(out.map, QN_STR("n"))->list->items[1].real == -25.0);
  ck_assert_ptr_null(qn_jinja_map_get(out.map, QN_STR("b")));
  qn_assert_ok(&diag, qn_jinja_from_json("j", QN_STR("\"\\ud83d\\ude00|\\ud800|\\/\""), &arena, &out, &diag));
  ck_assert(qn_str_is(out.text, "\xF0\x9F\x98\x80|\xEF\xBF\xBD|/"));
  qn_arena_deinit(&arena);
}
END_TEST

// ---- the section, and where templates come from

static qn_buf section_of(const qn_chat_template *templates, size_t count) {
  qn_buf out;
  qn_diag diag = {0};
  qn_buf_init(&out, qn_test_allocator());
  qn_assert_ok(&diag, qn_chat_serialize(templates, count, &out, &diag));
  return out;
}

START_TEST(sections) {
  const qn_chat_template two[] = {{QN_STR("default"), QN_STR("{{ 1 }}")}, {QN_STR("tool_use"), QN_STR("")}};
  qn_buf bytes = section_of(two, 2);
  qn_chat_template got;
  qn_diag diag = {0};
  bool found;
  qn_assert_ok(&diag, qn_chat_read(bytes.data, bytes.length, 1, &got, &found, &diag));
  ck_assert(found && qn_str_is(got.name, "tool_use") && got.text.length == 0);
  qn_assert_ok(&diag, qn_chat_read(bytes.data, bytes.length, 2, &got, &found, &diag));
  ck_assert(!found);
  for (size_t size = 1; size < bytes.length; size++) {
    if (size == 8 + 7 + 7) continue;  // the end of the first
    qn_assert_fails(&diag, QN_ERR_FORMAT, "ends beyond its section",
                    qn_chat_read(bytes.data, size, SIZE_MAX, &got, &found, &diag));
  }
  memset(bytes.data, 0xFF, 8);
  qn_assert_fails(&diag, QN_ERR_FORMAT, "template 0 ends beyond",
                  qn_chat_read(bytes.data, bytes.length, SIZE_MAX, &got, &found, &diag));
  qn_buf_deinit(&bytes);
  qn_chat_template many[QN_CHAT_MAX_TEMPLATES + 1] = {{{0}, {0}}};
  diag = (qn_diag){0};
  qn_buf_init(&bytes, qn_test_allocator());
  qn_assert_fails(&diag, QN_ERR_LIMIT, "has 65 templates, want at most 64",
                  qn_chat_serialize(many, QN_COUNT(many), &bytes, &diag));
  qn_assert_ok(&diag, qn_chat_serialize(many, QN_CHAT_MAX_TEMPLATES, &bytes, &diag));
  qn_assert_ok(&diag, qn_chat_serialize(many, 1, &bytes, &diag));
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_FORMAT, "there are more than 64",
                  qn_chat_read(bytes.data, bytes.length, SIZE_MAX, &got, &found, &diag));
  qn_buf_deinit(&bytes);
  char *text = nest("", "xxxxxxxxxxxxxxxx", QN_JINJA_MAX_TEXT / 16 + 1, "");
  qn_buf_init(&bytes, qn_test_allocator());
  qn_chat_template large = {QN_STR("default"), qn_str_from(text)};
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_LIMIT, "want at most", qn_chat_serialize(&large, 1, &bytes, &diag));
  qn_buf_deinit(&bytes);
  free(text);
}
END_TEST

START_TEST(from_gguf) {
  qn_gguf_writer *writer = qn_gguf_writer_create(qn_test_allocator());
  qn_gguf_writer_add_text(writer, "tokenizer.chat_template.rag", "r");
  qn_gguf_writer_add_text(writer, "tokenizer.chat_template", "d");
  qn_gguf_writer_add_text(writer, "tokenizer.chat_templates", "no template");
  uint8_t *data;
  size_t size;
  qn_gguf *gguf;
  qn_diag diag = {0};
  qn_arena arena;
  qn_chat_templates found;
  qn_arena_init(&arena, qn_test_allocator());
  qn_assert_ok(&diag, qn_gguf_writer_save_memory(writer, &data, &size, &diag));
  qn_gguf_writer_destroy(writer);
  qn_assert_ok(&diag, qn_gguf_open_memory(&gguf, data, size, "t.gguf", qn_test_allocator(), &diag));
  qn_assert_ok(&diag, qn_chat_from_gguf(gguf, &arena, &found, &diag));
  ck_assert_uint_eq(found.count, 2);
  ck_assert(qn_str_is(found.items[0].name, "rag") && qn_str_is(found.items[1].name, "default"));
  qn_gguf_close(gguf);
  qn_free(qn_test_allocator(), data, size);

  writer = qn_gguf_writer_create(qn_test_allocator());
  qn_gguf_writer_add_u32(writer, "tokenizer.chat_template", 1);
  qn_assert_ok(&diag, qn_gguf_writer_save_memory(writer, &data, &size, &diag));
  qn_gguf_writer_destroy(writer);
  qn_assert_ok(&diag, qn_gguf_open_memory(&gguf, data, size, "t.gguf", qn_test_allocator(), &diag));
  qn_assert_fails(&diag, QN_ERR_FORMAT, "t.gguf: key 'tokenizer.chat_template' is u32, want a text",
                  qn_chat_from_gguf(gguf, &arena, &found, &diag));
  qn_gguf_close(gguf);
  qn_free(qn_test_allocator(), data, size);
  qn_arena_deinit(&arena);
}
END_TEST

static void write_file(const char *name, const char *text) {
  qn_test_write_file(qn_test_temp_path(name), text, strlen(text));
}

static qn_status read_folder(const char *name, qn_arena *arena, qn_chat_templates *out, qn_diag *diag) {
  *diag = (qn_diag){0};
  return qn_chat_from_folder(qn_test_temp_path(name), arena, out, diag);
}

START_TEST(from_folder) {
  qn_arena arena;
  qn_chat_templates found;
  qn_diag diag;
  qn_arena_init(&arena, qn_test_allocator());
  mkdir(qn_test_temp_path("model"), 0700);
  mkdir(qn_test_temp_path("model/additional_chat_templates"), 0700);
  qn_assert_ok(&diag, read_folder("model", &arena, &found, &diag));
  ck_assert_uint_eq(found.count, 0);
  write_file("model/chat_template.json", "{\"chat_template\": \"old\"}");
  qn_assert_ok(&diag, read_folder("model", &arena, &found, &diag));
  ck_assert(found.count == 1 && qn_str_is(found.items[0].text, "old"));
  write_file(
      "model/tokenizer_config.json",
      "{\"chat_template\": [{\"name\": \"default\", \"template\": \"a\"}, {\"name\": \"rag\", \"template\": \"b\"}]}");
  qn_assert_ok(&diag, read_folder("model", &arena, &found, &diag));
  ck_assert(found.count == 2 && qn_str_is(found.items[1].name, "rag") && qn_str_is(found.items[1].text, "b"));
  write_file("model/chat_template.jinja", "{{ 1 }}\n");
  write_file("model/additional_chat_templates/tool_use.jinja", "t");
  qn_assert_ok(&diag, read_folder("model", &arena, &found, &diag));
  ck_assert(found.count == 2 && qn_str_is(found.items[0].text, "{{ 1 }}\n") &&
            qn_str_is(found.items[1].name, "tool_use"));
  static const struct {
    const char *text, *needle;
  } wrong[] = {{"{\"chat_template\": 1}", "chat_template: got a number, want a text"},
               {"{\"chat_template\": [1]}", "chat_template[0]: got a number, want an object"},
               {"{\"chat_template\": [{\"name\": \"a\"}]}", "chat_template[0].template: got nothing, want a text"},
               {"{", "not JSON"}};
  for (size_t i = 0; i < QN_COUNT(wrong); i++) {
    mkdir(qn_test_temp_path("wrong"), 0700);
    write_file("wrong/tokenizer_config.json", wrong[i].text);
    qn_assert_fails(&diag, QN_ERR_FORMAT, wrong[i].needle, read_folder("wrong", &arena, &found, &diag));
  }
  qn_arena_deinit(&arena);
}
END_TEST

// ---- the public interface

static qn_str chat_section;  // of the model below
static void add_chat(qn_test_artifact *a) { a->chat = chat_section; }

static qn_status open_model(qn_str section, quern_model **out, qn_diag *diag) {
  qn_buf file;
  qn_model_jit jit = {.entries = qn_fake_kernels, .entry_count = QN_FAKE_KERNELS, .target = "by hand"};
  chat_section = section;
  qn_fake_model_build(&(qn_fake_options){.tokenizer = true}, add_chat, &file);
  qn_status status = qn_model_open_mapping(qn_test_artifact_map(file.data, file.length), "fake.qn", &jit,
                                           qn_allocator_default(), out, diag);
  qn_buf_deinit(&file);
  return status;
}

static quern_model *model_with(const qn_chat_template *templates, size_t count) {
  quern_model *model = NULL;
  qn_diag diag = {0};
  qn_buf bytes = section_of(templates, count);
  qn_assert_ok(&diag, open_model((qn_str){bytes.data, bytes.length}, &model, &diag));
  qn_buf_deinit(&bytes);
  return model;
}

START_TEST(public_interface) {
  const qn_chat_template two[] = {
      {QN_STR("default"), QN_STR("{{ bos_token }}{% for m in messages %} {{ m.content }}{{ eos_token }}{% endfor %}"
                                 "{% if add_generation_prompt %}ab{% endif %}{{ pad_token is defined }}")},
      {QN_STR("other"), QN_STR("{{ tools|length }}{{ messages }}")}};
  quern_model *model = model_with(two, 2);
  quern_error error;
  size_t length;
  char text[64];
  int32_t tokens[16];
  const quern_chat_message one = {"user", "one"};
  quern_chat_params params = {.size = sizeof params, .messages = &one, .message_count = 1};
  ck_assert(qn_str_equal((qn_str){quern_model_chat_template(model, NULL, &length), length}, two[0].text));
  ck_assert(qn_str_equal((qn_str){quern_model_chat_template(model, "other", &length), length}, two[1].text));
  ck_assert_ptr_null(quern_model_chat_template(model, "none", &length));

  ck_assert_int_eq(quern_chat_text(model, &params, text, sizeof text, &length, &error), 0);
  ck_assert(qn_str_is((qn_str){text, length}, "<s> one</s>abFalse"));
  ck_assert_int_eq(quern_chat_text(model, &params, text, 3, &length, &error), QUERN_ERR_LIMIT);
  ck_assert(length == 18 && strstr(error.text, "got room for 3 bytes, want 18"));
  params.no_answer = true;
  params.template_text =
      "{{ bos_token }} {{ messages[0].content }}{{ eos_token }}{% if add_generation_prompt %}!{% endif %}";
  ck_assert_int_eq(quern_chat_tokens(model, &params, tokens, 16, &length, &error), 0);
  ck_assert_uint_ge(length, 3);
  ck_assert(tokens[0] == QN_FAKE_BOS && tokens[length - 1] == QN_FAKE_EOS);
  ck_assert_int_eq(quern_chat_tokens(model, &params, tokens, 1, &length, &error), QUERN_ERR_LIMIT);
  params.template_text = NULL;
  params.template_name = "other";
  params.variables = "{\"tools\": [1, 2], \"messages\": \"mine\"}";
  ck_assert_int_eq(quern_chat_text(model, &params, text, sizeof text, &length, &error), 0);
  ck_assert(qn_str_is((qn_str){text, length}, "2mine"));

  static const struct {
    const char *name, *text, *variables, *needle;
    int status;
  } wrong[] = {
      {"none", NULL, NULL, "has no chat template 'none'", QUERN_ERR_UNSUPPORTED},
      {NULL, "{{ x + 1 }}", NULL, "chat template:1:6: 'x' is undefined", QUERN_ERR_FORMAT},
      {NULL, "{{ raise_exception('no') }}", NULL, "the template refuses these messages: no", QUERN_ERR_ARGUMENT},
      {NULL, "x", "[1]", "got JSON that is no object", QUERN_ERR_FORMAT},
      {NULL, "x", "{", "variables:1:2: not JSON", QUERN_ERR_FORMAT},
      {NULL, "{% include 'a' %}", NULL, "reads no other", QUERN_ERR_UNSUPPORTED}};
  for (size_t i = 0; i < QN_COUNT(wrong); i++) {
    params = (quern_chat_params){.size = sizeof params,
                                 .template_name = wrong[i].name,
                                 .template_text = wrong[i].text,
                                 .variables = wrong[i].variables};
    ck_assert_int_eq(quern_chat_text(model, &params, text, sizeof text, &length, &error), wrong[i].status);
    ck_assert_msg(strstr(error.text, wrong[i].needle) != NULL, "%s", error.text);
    ck_assert_int_eq(quern_chat_tokens(model, &params, tokens, 16, &length, NULL), wrong[i].status);
  }
  quern_model_close(model);
}
END_TEST

START_TEST(models_without) {
  quern_model *model = model_with(NULL, 0);
  quern_chat_params params = {.size = sizeof params};
  quern_error error;
  size_t length;
  char text[8];
  ck_assert_ptr_null(quern_model_chat_template(model, NULL, &length));
  ck_assert_int_eq(quern_chat_text(model, &params, text, sizeof text, &length, &error), QUERN_ERR_UNSUPPORTED);
  ck_assert(strstr(error.text, "this model has no chat template; give one"));
  quern_model_close(model);
  qn_diag diag = {0};
  qn_assert_fails(&diag, QN_ERR_FORMAT, "ends beyond its section",
                  open_model(QN_STR("\x07\0\0\0\0\0\0\0def"), &model, &diag));
}
END_TEST

QN_CASE(bounds, steps_end, memory_is_bounded, nesting_is_bounded, long_templates, no_memory,
        failures_leave_what_was_there)
QN_CASE(json, json_errors)
QN_CASE(sources, sections, from_gguf, from_folder)
QN_CASE(interface, public_interface, models_without)
QN_TEST_MAIN(bounds, json, sources, interface)
