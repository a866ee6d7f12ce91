// What the files of the Jinja evaluator share: tokens, the tree of a template, and a rendering under way.
#ifndef QN_RUNTIME_JINJA_IMPL_H
#define QN_RUNTIME_JINJA_IMPL_H

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/vec.h"
#include "runtime/jinja.h"

typedef qn_jinja_value value;

// ---- a template's text

typedef struct qn_jinja_source {
  const char *name;  // owned by the arena
  qn_str text;       // newlines are \n, one at the end is gone; owned by the arena
} qn_jinja_source;

// "NAME:LINE:COLUMN: what"; columns count bytes. Returns `status`.
qn_status qn_jinja_fail(const qn_jinja_source *source, size_t at, qn_diag *diag, qn_status status, const char *format,
                        ...) QN_PRINTF(5, 6);
qn_status qn_jinja_vfail(const qn_jinja_source *source, size_t at, qn_diag *diag, qn_status status, const char *format,
                         va_list args);

// ---- tokens

typedef enum qn_jinja_token_kind {
  TOKEN_DATA,         // text between tags
  TOKEN_BLOCK_BEGIN,  // {%
  TOKEN_BLOCK_END,
  TOKEN_PRINT_BEGIN,  // {{
  TOKEN_PRINT_END,
  TOKEN_NAME,
  TOKEN_STRING,  // text: without quotes, escapes resolved
  TOKEN_INT,
  TOKEN_FLOAT,
  TOKEN_OPERATOR,  // text
  TOKEN_END
} qn_jinja_token_kind;

typedef struct qn_jinja_token {
  qn_jinja_token_kind kind;
  uint32_t at;  // byte of the source
  qn_str text;
  int64_t integer;
  double real;
} qn_jinja_token;

typedef QN_VEC(qn_jinja_token) qn_jinja_tokens;

// The tokens of a template, ended by TOKEN_END; memory from the arena.
QN_CHECKED qn_status qn_jinja_lex(const qn_jinja_source *source, qn_arena *arena, qn_jinja_tokens *out, qn_diag *diag);

// ---- the tree

typedef enum qn_jinja_node_kind {
  // expressions
  NODE_LITERAL,  // literal
  NODE_NAME,     // text
  NODE_LIST,     // items[].value
  NODE_TUPLE,
  NODE_DICT,        // items[].key, .value
  NODE_NOT,         // a
  NODE_NEGATE,      // a
  NODE_PLUS,        // a
  NODE_AND,         // a, b
  NODE_OR,          // a, b
  NODE_ARITHMETIC,  // a op b
  NODE_CONCAT,      // items[].value, joined by ~
  NODE_COMPARE,     // a, then items[].op with .value, chained
  NODE_CHOICE,      // a if b else c (NULL: undefined)
  NODE_ATTRIBUTE,   // a.text
  NODE_INDEX,       // a[b]
  NODE_SLICE,       // a[items[0]:items[1]:items[2]], values NULL where left out
  NODE_CALL,        // a(items)
  NODE_FILTER,      // a | filter(items); a NULL: of a block
  NODE_TEST,        // a is test(items); op 1: is not
  // statements; next is the one after it
  NODE_DATA,          // text
  NODE_PRINT,         // a
  NODE_IF,            // a, body, other (the statements of else; an elif is an if there)
  NODE_FOR,           // items[].name in a, if b: body, other; op 1: recursive
  NODE_SET,           // items[].name = a; of items[0].key (a NAME) an attribute of a namespace
  NODE_SET_BLOCK,     // items[0] = body, through a (a chain of FILTERs, or NULL)
  NODE_MACRO,         // text, items[].name with .value as default, body
  NODE_CALL_BLOCK,    // a (a CALL) with a macro `caller` of items and body
  NODE_FILTER_BLOCK,  // body through a (a chain of FILTERs)
  NODE_WITH,          // items[].name = .value, body
  NODE_GENERATION,    // body
  NODE_BREAK,
  NODE_CONTINUE,
} qn_jinja_node_kind;

typedef enum qn_jinja_op {
  OP_ADD,
  OP_SUBTRACT,
  OP_MULTIPLY,
  OP_DIVIDE,
  OP_FLOOR,
  OP_MODULO,
  OP_POWER,
  OP_EQUAL,
  OP_UNEQUAL,
  OP_LESS,
  OP_LESS_EQUAL,
  OP_GREATER,
  OP_GREATER_EQUAL,
  OP_IN,
  OP_NOT_IN,
} qn_jinja_op;

typedef struct node node;

typedef struct item {
  qn_str name;  // empty = a positional argument
  node *key, *value;
  qn_jinja_op op;
} item;

struct node {
  qn_jinja_node_kind kind;
  int op;
  uint32_t at;  // byte of the source, for messages
  qn_str text;
  value literal;
  node *a, *b, *c;
  item *items;
  size_t count, capacity;  // of items
  node *body, *other, *next;
  const struct qn_jinja_builtin *builtin;  // FILTER, TEST; NULL: there is none of this name
};

struct qn_jinja {
  qn_arena arena;  // owns everything, this included
  qn_jinja_source source;
  node *body;
};

typedef struct qn_jinja_builtin qn_jinja_builtin;  // a filter, test, method or global function

// ---- parsing

typedef struct parser {
  qn_jinja *jinja;
  const qn_jinja_token *token;  // the next one
  qn_diag *diag;
  int nesting, loops;  // of blocks and expressions; for loops around the statement, within its macro
  int conditions;      // ifs around it: what they hold may never be reached
} parser;

qn_status qn_jinja_wrong(parser *p, const qn_jinja_token *at, qn_status status, const char *format, ...)
    QN_PRINTF(4, 5);
// Fails with what was got, "want" and this.
qn_status qn_jinja_unexpected(parser *p, const char *want);
QN_CHECKED qn_status qn_jinja_new_node(parser *p, qn_jinja_node_kind kind, const qn_jinja_token *at, node **out);
QN_CHECKED qn_status qn_jinja_add_item(parser *p, node *to, item added);
bool qn_jinja_at_operator(const parser *p, const char *text);
bool qn_jinja_at_name(const parser *p, const char *text);
bool qn_jinja_skip_operator(parser *p, const char *text);
bool qn_jinja_skip_name(parser *p, const char *text);
QN_CHECKED qn_status qn_jinja_need_operator(parser *p, const char *text);
QN_CHECKED qn_status qn_jinja_need_name(parser *p, const char *what, qn_str *out);
QN_CHECKED qn_status qn_jinja_enter(parser *p);  // one level deeper; LIMIT
void qn_jinja_leave(parser *p);

// jinja_expression.c
// No filter or test of this name: lists those that there are.
qn_status qn_jinja_fail_unknown(const qn_jinja_source *source, size_t at, qn_diag *diag, const char *what,
                                const qn_jinja_builtin *table, qn_str name);
QN_CHECKED qn_status qn_jinja_parse_expression(parser *p, bool choice, node **out);  // choice: with "if"
// One expression, or several with commas between, which are a tuple.
QN_CHECKED qn_status qn_jinja_parse_tuple(parser *p, bool choice, node **out);
QN_CHECKED qn_status qn_jinja_parse_primary(parser *p, node **out);
QN_CHECKED qn_status qn_jinja_parse_postfix(parser *p, node **in_out);
QN_CHECKED qn_status qn_jinja_parse_call(parser *p, node *callee, node **out);
// The filters of a block, without the first "|".
QN_CHECKED qn_status qn_jinja_parse_filters(parser *p, node **out);

QN_CHECKED qn_status qn_jinja_parse_tokens(qn_jinja *jinja, const qn_jinja_token *tokens, qn_diag *diag);

// ---- a rendering

typedef struct variable {
  qn_str name;
  value value;
  struct variable *next;
} variable;

typedef struct scope {
  variable *variables;
  struct scope *outer;
} scope;

struct qn_jinja_loop {
  const qn_jinja_list *items;
  size_t index;      // from 0
  size_t depth;      // of recursive loops, from 0
  const node *node;  // the statement
  scope *outside;    // where it stands
  value changed;     // what loop.changed was last called with; ABSENT = never
};

typedef enum flow { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE } flow;

typedef struct evaluation {
  const qn_jinja_source *source;
  const qn_jinja_map *variables;
  qn_arena *arena;  // of all values
  qn_buf *out;      // what is printed goes here
  qn_diag *diag;
  scope *scope;
  flow flow;
  uint64_t steps_left, steps;
  size_t bytes_left, bytes;
  int depth;
  uint32_t at;  // of what is evaluated now, for messages
  int64_t now;
} evaluation;

// Arguments of a call as it stands: positional ones, then named ones.
typedef struct arguments {
  const value *items;
  size_t count;
  const qn_str *names;  // of named ones
  const value *named;
  size_t named_count;
} arguments;

enum { MAX_PARAMETERS = 6 };

// A filter, test, method or global function. `parameters` are names with commas between, of which the first `required`
// must be given; args[] has a value for each, ABSENT where none is given. "*": any arguments, which all->... are.
typedef qn_status (*builtin_fn)(evaluation *e, value self, const value *args, const arguments *all, value *out);
struct qn_jinja_builtin {
  const char *name;
  builtin_fn call;
  const char *parameters;
  int required;
};

typedef struct qn_jinja_function {
  const qn_jinja_builtin *builtin;
  value self;
} qn_jinja_function;

typedef struct qn_jinja_macro {
  const node *node;  // MACRO or CALL_BLOCK
  scope *outer;
} qn_jinja_macro;

// Fails where the evaluation is.
qn_status qn_jinja_raise(evaluation *e, qn_status status, const char *format, ...) QN_PRINTF(3, 4);
qn_status qn_jinja_nomem(evaluation *e);
// Counts work; LIMIT when it is too much.
QN_CHECKED qn_status qn_jinja_deeper(evaluation *e);  // LIMIT; e->depth-- takes it back
QN_CHECKED qn_status qn_jinja_charge(evaluation *e, size_t bytes);
// Zeroed memory for a value, counted; LIMIT, NOMEM.
QN_CHECKED qn_status qn_jinja_take_memory(evaluation *e, size_t size, void **out);
QN_CHECKED qn_status qn_jinja_take_array(evaluation *e, size_t count, size_t size, void **out);

// jinja_value.c
#define NONE_VALUE   ((value){.kind = QN_JINJA_NONE})
#define ABSENT_VALUE ((value){.kind = QN_JINJA_ABSENT})
const char *qn_jinja_kind_name(value v);  // "a list": for messages
bool qn_jinja_is_text(value v, const char *text);
bool qn_jinja_is_number(value v);      // INT, FLOAT, BOOL
double qn_jinja_number_of(value v);    // of a number
int64_t qn_jinja_integer_of(value v);  // of INT and BOOL
bool qn_jinja_is_truthy(value v);
QN_CHECKED qn_status qn_jinja_make_undefined(evaluation *e, value *out, const char *format, ...) QN_PRINTF(3, 4);
// Fails when a value that is undefined is used.
QN_CHECKED qn_status qn_jinja_need_defined(evaluation *e, value v);
QN_CHECKED qn_status qn_jinja_equal_values(evaluation *e, value a, value b, bool *out);
// <0, 0, >0. FORMAT for values that have no order.
QN_CHECKED qn_status qn_jinja_compare_values(evaluation *e, value a, value b, int *out);
QN_CHECKED qn_status qn_jinja_contains_value(evaluation *e, value whole, value part, bool *out);
QN_CHECKED qn_status qn_jinja_find_pair(evaluation *e, const qn_jinja_map *map, value key,
                                        qn_jinja_pair **out);  // NULL = none
QN_CHECKED qn_status qn_jinja_put_pair(evaluation *e, qn_jinja_map *map, value key, value v);
QN_CHECKED qn_status qn_jinja_new_map(evaluation *e, value *out);
// What a for loop goes over: items of lists, keys of maps, characters of texts, nothing of what is undefined.
QN_CHECKED qn_status qn_jinja_items_of(evaluation *e, value v, const qn_jinja_list **out);
QN_CHECKED qn_status qn_jinja_make_list(evaluation *e, qn_jinja_kind kind, size_t count, value **out_items, value *out);
// Python's len; FORMAT for what has none.
QN_CHECKED qn_status qn_jinja_length_of(evaluation *e, value v, int64_t *out);
// Python's str() at the end of `out`.
QN_CHECKED qn_status qn_jinja_print_value(evaluation *e, value v, qn_buf *out);
QN_CHECKED qn_status qn_jinja_text_of(evaluation *e, value v, qn_str *out);
QN_CHECKED qn_status qn_jinja_copy_text(evaluation *e, const char *data, size_t length, value *out);
// What a buffer holds as a value; the buffer is emptied and freed, after errors too.
QN_CHECKED qn_status qn_jinja_take_buffer(evaluation *e, qn_buf *buf, value *out);
void qn_jinja_put_float(qn_buf *out, double v);

size_t qn_jinja_encode(uint32_t code_point, char out[4]);  // UTF-8: how many bytes
uint32_t qn_jinja_decode(const char *bytes, size_t size);  // of a sequence that is right
// Characters: of bytes that are no UTF-8 each is one.
size_t qn_jinja_character_at(qn_str text, size_t at);  // its bytes
size_t qn_jinja_count_characters(qn_str text);
size_t qn_jinja_byte_of_character(qn_str text, size_t index);
bool qn_jinja_is_space(qn_str text, size_t at, size_t *out_length);  // Python's isspace
qn_str qn_jinja_strip_text(qn_str text, bool left, bool right);
qn_str qn_jinja_strip_characters(qn_str text, qn_str set, bool left, bool right);
size_t qn_jinja_find_text(qn_str text, qn_str part, size_t from);  // SIZE_MAX = is not there

// jinja_ops.c
QN_CHECKED qn_status qn_jinja_arithmetic(evaluation *e, qn_jinja_op op, value a, value b, value *out);
QN_CHECKED qn_status qn_jinja_get_attribute(evaluation *e, value v, qn_str name, value *out);
QN_CHECKED qn_status qn_jinja_get_item(evaluation *e, value v, value key, value *out);
// "a.b" or an index, as filters name attributes.
QN_CHECKED qn_status qn_jinja_get_path(evaluation *e, value v, value path, value *out);
QN_CHECKED qn_status qn_jinja_get_slice(evaluation *e, value v, value start, value stop, value step, value *out);

// jinja_eval.c
QN_CHECKED qn_status qn_jinja_call_value(evaluation *e, value f, const arguments *args, value *out);
QN_CHECKED qn_status qn_jinja_call_builtin(evaluation *e, const qn_jinja_builtin *builtin, const char *what, value self,
                                           const arguments *args, value *out);
QN_CHECKED qn_status qn_jinja_run_recursive(evaluation *e, struct qn_jinja_loop *loop, value over, value *out);

// Tables, ended by a name NULL.
extern const qn_jinja_builtin qn_jinja_filters[], qn_jinja_tests[], qn_jinja_globals[], qn_jinja_string_methods[],
    qn_jinja_map_methods[], qn_jinja_list_methods[], qn_jinja_loop_methods[];
const qn_jinja_builtin *qn_jinja_find_builtin(const qn_jinja_builtin *table, qn_str name);  // NULL = there is none

// jinja_json.c: as Python's json.dumps.
typedef struct json_style {
  int indent;          // below 0: on one line
  bool ascii, sorted;  // everything beyond ASCII escaped; keys in order
  qn_str item, key;    // separators
} json_style;
QN_CHECKED qn_status qn_jinja_put_json(evaluation *e, value v, const json_style *style, qn_buf *out);

// jinja_text.c: letter case.
typedef enum letter_case { CASE_LOWER, CASE_UPPER, CASE_TITLE, CASE_CAPITAL } letter_case;
void qn_jinja_put_case(qn_str text, letter_case to, qn_buf *out);

#endif
