// Jinja templates, as chat templates use them: a text is parsed once and rendered with values. Settings are those of
// transformers: trim_blocks, lstrip_blocks, break and continue, {% generation %}, tojson that leaves HTML alone,
// raise_exception and strftime_now. Values are Python's in what they print and how they compare.
//
// A template comes from anybody: it can read no file and no name but those it is given, and is bounded in steps, in
// memory and in nesting. README.md says what of Jinja is there.
#ifndef QN_RUNTIME_JINJA_H
#define QN_RUNTIME_JINJA_H

#include <stdint.h>

#include "runtime/base/arena.h"
#include "runtime/base/diag.h"

#define QN_JINJA_MAX_TEXT    (4u << 20)    // bytes of a template
#define QN_JINJA_MAX_NESTING 128           // of blocks and expressions in a template, and of values in JSON
#define QN_JINJA_MAX_DEPTH   400           // of what is being evaluated at a time, calls of macros included
#define QN_JINJA_STEPS       20000000u     // default: nodes evaluated, and 64 bytes of text made or read, are one each
#define QN_JINJA_BYTES       (256u << 20)  // default: of all values and texts made in a rendering

typedef enum qn_jinja_kind {
  QN_JINJA_ABSENT,     // of an argument: not given
  QN_JINJA_UNDEFINED,  // text says why: "'x' is undefined"
  QN_JINJA_NONE,
  QN_JINJA_BOOL,
  QN_JINJA_INT,
  QN_JINJA_FLOAT,
  QN_JINJA_STRING,
  QN_JINJA_LIST,
  QN_JINJA_TUPLE,
  QN_JINJA_MAP,
  QN_JINJA_NAMESPACE,
  QN_JINJA_LOOP,      // the variable loop
  QN_JINJA_FUNCTION,  // a global or a method
  QN_JINJA_MACRO,
  QN_JINJA_KIND_COUNT
} qn_jinja_kind;

typedef struct qn_jinja_list qn_jinja_list;
typedef struct qn_jinja_map qn_jinja_map;

// A value; what it points at is borrowed.
typedef struct qn_jinja_value {
  qn_jinja_kind kind;
  union {
    bool boolean;
    int64_t integer;
    double real;
    qn_str text;                // STRING (UTF-8 where its maker gives such), UNDEFINED
    const qn_jinja_list *list;  // LIST, TUPLE
    qn_jinja_map *map;          // MAP, NAMESPACE
    struct qn_jinja_loop *loop;
    const struct qn_jinja_function *function;
    const struct qn_jinja_macro *macro;
  };
} qn_jinja_value;

struct qn_jinja_list {
  const qn_jinja_value *items;
  size_t count;
};

typedef struct qn_jinja_pair {
  qn_jinja_value key, value;
} qn_jinja_pair;

// In the order of insertion; no key twice.
struct qn_jinja_map {
  qn_jinja_pair *pairs;
  size_t count, capacity;
};

static inline qn_jinja_value qn_jinja_text(qn_str text) {
  return (qn_jinja_value){.kind = QN_JINJA_STRING, .text = text};
}
static inline qn_jinja_value qn_jinja_bool(bool value) {
  return (qn_jinja_value){.kind = QN_JINJA_BOOL, .boolean = value};
}
static inline qn_jinja_value qn_jinja_int(int64_t value) {
  return (qn_jinja_value){.kind = QN_JINJA_INT, .integer = value};
}

// Puts a value under a key that is a text, in place of what is there. Memory from the arena; false when there is none.
bool qn_jinja_map_set(qn_arena *arena, qn_jinja_map *map, qn_str key, qn_jinja_value value);
// The value under a text; NULL when there is none.
const qn_jinja_value *qn_jinja_map_get(const qn_jinja_map *map, qn_str key);

// A JSON text as a value: objects become maps (of equal keys the last holds), null None. Memory from the arena, texts
// without escapes from `text` itself. `name` is for messages. Errors: FORMAT (line and column), LIMIT (nested too
// deeply), NOMEM.
QN_CHECKED qn_status qn_jinja_from_json(const char *name, qn_str text, qn_arena *arena, qn_jinja_value *out,
                                        qn_diag *diag);

// ---- templates

typedef struct qn_jinja qn_jinja;

// Parses a template; text and name (for messages) are copied. Never changes after: any number of threads may render it
// at the same time. Errors, with line and column: FORMAT (not Jinja, an unknown filter or test; those known are
// listed), UNSUPPORTED (what needs other templates: include, import, extends, block), LIMIT (too long, nested too
// deeply), NOMEM.
QN_CHECKED qn_status qn_jinja_parse(const char *name, qn_str text, const qn_allocator *allocator, qn_jinja **out,
                                    qn_diag *diag);
void qn_jinja_free(qn_jinja *jinja);  // NULL is harmless

typedef struct qn_jinja_options {
  uint64_t steps;  // 0 = QN_JINJA_STEPS
  size_t bytes;    // 0 = QN_JINJA_BYTES
  int64_t now;     // what strftime_now tells, seconds since 1970, in local time; 0 = the clock's
} qn_jinja_options;

// Renders with the variables (a MAP with texts as keys) to the end of `out`; after an error *out is as it was. Errors,
// with line and column: FORMAT (what Jinja raises: an undefined name used, an operation that the operands do not have),
// ARGUMENT (the template called raise_exception: its text), LIMIT (steps, bytes, depth), NOMEM.
QN_CHECKED qn_status qn_jinja_render(const qn_jinja *jinja, const qn_jinja_map *variables,
                                     const qn_jinja_options *options, const qn_allocator *allocator, qn_buf *out,
                                     qn_diag *diag);

#endif
