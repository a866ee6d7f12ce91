// Fuzzes chat templates and their variables: any text gives a rendering or an error that names the template, within its
// steps and bytes. An input is variables in JSON, a line "## ---- template" and a template, or a template alone.
#include <stdio.h>
#include <string.h>

#include "tests/support/chat_case.h"
#include "tests/support/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const qn_jinja_options few = {.steps = 20000, .bytes = 1 << 20, .now = 1700000000};
  qn_diag diag = {0};
  qn_buf out;
  qn_buf_init(&out, qn_allocator_default());
  qn_status status = qn_chat_case_render((qn_str){(const char *)data, size}, &few, qn_allocator_default(), &out, &diag);
  if (status != QN_OK) {
    fuzz_require(
        status == QN_ERR_FORMAT || status == QN_ERR_ARGUMENT || status == QN_ERR_LIMIT || status == QN_ERR_UNSUPPORTED,
        "an odd status");
    fuzz_require(strstr(diag.text, "chat:") == diag.text || strstr(diag.text, "variables") == diag.text,
                 "an error does not say where");
    fuzz_require(out.length == 0, "an error left a text");
  }
  fuzz_require(out.length <= (1 << 20), "a rendering is longer than its bound");
  qn_buf_deinit(&out);
  return 0;
}

static const char *const seeds[] = {
    "{%- for m in messages if m.role != 'x' %}{{- '<|' ~ m['role'] + '|>\\n' }}{% if loop.first and not loop.last %}{{ "
    "m.content|trim "
    "}}{% elif m.content is string %}{% else %}{{ raise_exception('no') }}{% endif %}{% endfor %}",
    "{% macro f(a, b=[1, {'k': 2.5}], *c) %}{{ caller() if caller is defined else a }}{% endmacro %}{% call(x) f(1, "
    "b=2) %}y{% endcall %}"
    "{{ f('a') }}",
    "{% macro f(a, b=3) %}{{ a ~ b }}{% endmacro %}{% set ns = namespace(n=0, s='') %}{% for i in range(9, 1, -2) %}{% "
    "if i % 3 == 0 "
    "%}{% continue %}{% endif %}{% set ns.n = ns.n + i ** 2 // 3 %}{% set ns.s %}{{ f(i, b=ns.n) }}{% endset %}{% "
    "endfor %}{{ ns.s }}",
    "{{ messages|selectattr('role', 'in', ['user', 'system'])|map(attribute='content')|join(', ')|upper }}"
    "{{ messages|rejectattr('role', 'equalto', 'user')|list|length }}{{ numbers|sort(reverse=true)|unique|sum }}"
    "{{ nested|dictsort|tojson(indent=2, sort_keys=true) }}{{ 'a b  c'.split(none, 1)[-1][::-1]|replace('b', "
    "'x')|title|indent(2) }}",
    "{# c -#} {% raw %}{{ x }}{% endraw -%} {%+ if true +%}\n{% endif %}{% filter upper|trim %}a{% endfilter %}{% with "
    "a = 1, b = (2, 3) "
    "%}{{ a, b }}{% endwith %}{% generation %}{{ '\\u00e9\\x41\\101' 'x' }}{% endgeneration %}",
    "{% for a in [1, [2, [3]]] recursive %}{{ loop(a) if a is iterable else a }}{{ loop.cycle('x', 'y') }}{{ "
    "loop.changed(a) }}{{ "
    "loop.previtem|default('-') }}{% endfor %}{% set a, b = 1, 2 %}{{ -a + b * 2.5e-1 }}{{ 1 < a <= 3 != b }}{{ x if a "
    "in [1] }}",
    "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"\\u00e9\\ud83d\\ude00\"}]}], "
    "\"n\": [1, -2.5e3, "
    "null, true]}\n## ---- template\n{{ messages[0].content[0]['text']|length }}{% for k, v in messages[0].items() "
    "%}{{ k }}{% endfor %}"
    "{{ strftime_now('%d %b %Y') }}{{ n|tojson }}{{ 'ab'.strip('a').rsplit('b', 1) }}{{ 'x'.find('y', 1, 2) }}{{ "
    "dict(a=1).get('b', 2) }}",
};

void fuzz_seeds(fuzz_take_fn take, void *context) {
  for (size_t i = 0; i < QN_COUNT(seeds); i++) take(context, seeds[i], strlen(seeds[i]));
}

static const char *const words[] = {
    "{%",        "%}",       "{{",         "}}",      "{#",        "#}",       "-",
    "|",         "(",        ")",          "[",       "]",         "{",        "}",
    ":",         ",",        "=",          "==",      "**",        "//",       "~",
    "' '",       "\"",       "\\u",        " if ",    " else ",    " for ",    " in ",
    " is ",      " not ",    " and ",      " or ",    "endfor",    "endif",    "set ",
    "loop",      "raw",      "endraw",     "macro ",  "endmacro",  "call ",    "endcall",
    "recursive", "ns.",      "namespace(", "range(",  "|map(",     "|join",    "|sort",
    "|tojson",   "|select(", ".split(",    ".strip(", "|replace(", "|indent(", "|int",
    "|round",    "|reverse", "messages",   "numbers", "nested",    "none",     "true",
    "1e9",       "99999999", "0",          "-1",      "\xc3\xa9",  "\xff",     "## ---- template\n",
    NULL};
QN_FUZZ_MAIN(words, 12000)
