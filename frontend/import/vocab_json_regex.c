// Patterns of the tokenizers library are in Oniguruma's syntax. What means the same to PCRE2 is taken as it is, what
// has another spelling there is written anew, and what would mean something else is refused.
#include <ctype.h>
#include <string.h>

#include "frontend/import/vocab_json.h"

typedef struct translation {
  vocab_json *v;
  const char *path;
  qn_str in;
  size_t at;
  qn_buf out;
} translation;

static qn_status refuse(translation *t, size_t at, const char *what) {
  return qn_json_fail(&t->v->json, QN_ERR_UNSUPPORTED, t->path,
                      "the pattern has %s at byte %zu, which is not supported", what, at);
}

static bool ahead(const translation *t, const char *text) {
  size_t length = strlen(text);
  return t->in.length - t->at >= length && memcmp(t->in.data + t->at, text, length) == 0;
}

static void copy(translation *t, size_t count) {
  qn_buf_append(&t->out, t->in.data + t->at, count);
  t->at += count;
}

// Escapes that are classes: what they are within brackets, and whether the class is the others.
static const struct {
  char letter;
  bool inverted;
  const char *inside;
} classes[] = {{'s', false, QN_CLASS_SPACE}, {'S', true, QN_CLASS_SPACE}, {'w', false, QN_CLASS_WORD},
               {'W', true, QN_CLASS_WORD},   {'d', false, "\\p{Nd}"},     {'D', true, "\\p{Nd}"}};

static qn_status put_code_point(translation *t, size_t begin) {
  for (size_t i = 0; i < 4; i++) {
    size_t at = begin + 2 + i;
    if (at >= t->in.length || !isxdigit((unsigned char)t->in.data[at])) return refuse(t, begin, "\\u without 4 digits");
  }
  qn_buf_printf(&t->out, "\\x{%.4s}", t->in.data + begin + 2);
  t->at = begin + 6;
  return QN_OK;
}

static qn_status escape(translation *t, bool in_class) {
  size_t begin = t->at;
  if (begin + 1 >= t->in.length) return refuse(t, begin, "a lone backslash");
  char c = t->in.data[begin + 1];
  for (size_t i = 0; i < QN_COUNT(classes); i++) {
    if (classes[i].letter != c) continue;
    if (in_class && classes[i].inverted && c != 'S') return refuse(t, begin, "\\W or \\D in brackets");
    if (in_class && c == 'S') {
      qn_buf_puts(&t->out, "\\S\\x{180e}");  // which is white space to PCRE2 alone
    } else if (in_class) {
      qn_buf_puts(&t->out, classes[i].inside);
    } else {
      qn_buf_printf(&t->out, "[%s%s]", classes[i].inverted ? "^" : "", classes[i].inside);
    }
    t->at += 2;
    return QN_OK;
  }
  if (c == 'u') return put_code_point(t, begin);
  if (c == 'p' || c == 'P' || (c == 'x' && begin + 2 < t->in.length && t->in.data[begin + 2] == '{')) {
    const char *end = memchr(t->in.data + begin, '}', t->in.length - begin);
    if (end == NULL) return refuse(t, begin, "a property without a closing brace");
    copy(t, (size_t)(end - t->in.data) + 1 - begin);
    return QN_OK;
  }
  if (isalnum((unsigned char)c) && strchr(in_class ? "ntrfvaex" : "ntrfvaexbBAz", c) == NULL) {
    char what[] = "an escape \\?";
    what[sizeof what - 2] = c;
    return refuse(t, begin, what);
  }
  copy(t, 2);
  return QN_OK;
}

// From "[" to its "]". Brackets in brackets add their characters to those around them: they are left out.
static qn_status brackets(translation *t) {
  size_t begin = t->at;
  unsigned inner = 0;
  copy(t, 1);
  if (ahead(t, "^")) copy(t, 1);
  if (ahead(t, "]")) copy(t, 1);
  while (t->at < t->in.length) {
    char c = t->in.data[t->at];
    if (ahead(t, "[^") || ahead(t, "[:")) return refuse(t, t->at, "[^ or [: in brackets");
    if (ahead(t, "&&")) return refuse(t, t->at, "an intersection (&&)");
    if (c == '\\') {
      QN_TRY(escape(t, true));
    } else if (c == '[') {
      inner++;
      t->at++;
    } else if (c == ']' && inner > 0) {
      inner--;
      t->at++;
    } else {
      copy(t, 1);
      if (c == ']') return QN_OK;
    }
  }
  return refuse(t, begin, "brackets without an end");
}

static qn_status parenthesis(translation *t) {
  static const char *const known[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?i)", "(?-i:", "(?-i)"};
  if (ahead(t, "(*")) return refuse(t, t->at, "a verb (*");
  if (!ahead(t, "(?")) {
    copy(t, 1);
    return QN_OK;
  }
  for (size_t i = 0; i < QN_COUNT(known); i++) {
    if (!ahead(t, known[i])) continue;
    copy(t, strlen(known[i]));
    return QN_OK;
  }
  return refuse(t, t->at, "a group of a kind other than (?: (?= (?! (?<= (?<! (?> (?i:");
}

static qn_status translate(translation *t) {
  while (t->at < t->in.length) {
    char c = t->in.data[t->at];
    if (c == '\\') {
      QN_TRY(escape(t, false));
    } else if (c == '[') {
      QN_TRY(brackets(t));
    } else if (c == '(') {
      QN_TRY(parenthesis(t));
    } else if (ahead(t, "}+")) {
      return refuse(t, t->at, "}+, which repeats a repetition");
    } else {
      copy(t, 1);
    }
  }
  return QN_OK;
}

qn_status vocab_json_regex(vocab_json *v, qn_str pattern, const char *path, qn_str *out) {
  translation t = {.v = v, .path = path, .in = pattern};
  qn_buf_init(&t.out, v->arena->allocator);
  qn_status status = translate(&t);
  if (status == QN_OK) {
    char *text = t.out.failed ? NULL : qn_arena_strndup(v->arena, qn_buf_text(&t.out), t.out.length);
    *out = (qn_str){text, t.out.length};
    if (text == NULL) status = qn_fail_nomem(v->json.diag, v->json.file, "a pattern");
  }
  qn_buf_deinit(&t.out);
  return status;
}
