// The small expressions of architecture templates ("heads * head_dim", "1 / sqrt(head_dim)", "has(attn_q_bias)",
// "kinds[i] == 'full'") and texts with expressions in braces ("blk.{i}.attn_q.weight"). Evaluated straight from the
// text; models/README.md has the grammar. Templates may come from anybody: depth is bounded, integers are
// overflow-checked, results are finite.
#ifndef QN_IMPORT_EXPRESSION_H
#define QN_IMPORT_EXPRESSION_H

#include <stdint.h>

#include "runtime/base/diag.h"
#include "runtime/base/str.h"

typedef enum qn_value_kind { QN_VALUE_INT, QN_VALUE_FLOAT, QN_VALUE_TEXT } qn_value_kind;

typedef struct qn_value {
  qn_value_kind kind;
  int64_t i;    // INT; conditions give 0 or 1
  double f;     // FLOAT, finite
  qn_str text;  // TEXT, borrowed from the expression or from the scope
} qn_value;

static inline qn_value qn_value_int(int64_t i) { return (qn_value){.kind = QN_VALUE_INT, .i = i}; }
static inline qn_value qn_value_float(double f) { return (qn_value){.kind = QN_VALUE_FLOAT, .f = f}; }
static inline qn_value qn_value_text(qn_str text) { return (qn_value){.kind = QN_VALUE_TEXT, .text = text}; }
// 64, 0.125, pairs
void qn_value_print(const qn_value *value, qn_buf *out);

// What names mean. The functions fail when there is no such thing; with `out` NULL they check that alone.
typedef struct qn_scope {
  void *context;
  // The value of a parameter or an index.
  qn_status (*name)(void *context, const char *where, qn_str name, qn_value *out, qn_diag *diag);
  // name[index], of a parameter that is a list; with `out` NULL the index says nothing.
  qn_status (*item)(void *context, const char *where, qn_str name, int64_t index, qn_value *out, qn_diag *diag);
  // has(weight), rows(weight), cols(weight): `function` is one of these three words.
  qn_status (*weight)(void *context, const char *where, qn_str function, qn_str weight, qn_value *out, qn_diag *diag);
  int64_t *work;  // characters evaluated so far, of all scopes that share this; NULL = nobody counts
} qn_scope;

// A template of a few lines can ask for any number of evaluations: all together may have so many characters; sixteen of a
// text that is made count as one. The function counts a text that was made otherwise. LIMIT beyond that.
enum { QN_EXPRESSION_WORK = 1 << 25, QN_EXPRESSION_TEXT = 16 };
QN_CHECKED qn_status qn_expression_count_text(const char *where, const qn_scope *scope, size_t length, qn_diag *diag);

// `where` begins every message ("llama.json: params.head_dim.default").
QN_CHECKED qn_status qn_expression_evaluate(const char *where, const char *text, const qn_scope *scope, qn_value *out,
                                            qn_diag *diag);
// Syntax and names only, in branches not taken too; nothing is evaluated.
QN_CHECKED qn_status qn_expression_check(const char *where, const char *text, const qn_scope *scope, qn_diag *diag);

// The value must be an integer within [min, max].
QN_CHECKED qn_status qn_expression_int(const char *where, const char *text, const qn_scope *scope, int64_t min,
                                       int64_t max, int64_t *out, qn_diag *diag);
// The value must be a number.
QN_CHECKED qn_status qn_expression_number(const char *where, const char *text, const qn_scope *scope, double *out,
                                          qn_diag *diag);
// A number, taken as true when it is not 0.
QN_CHECKED qn_status qn_expression_condition(const char *where, const char *text, const qn_scope *scope, bool *out,
                                             qn_diag *diag);

// Appends `text` with each {expression} replaced by its value. `out` NULL: checks syntax and names only.
QN_CHECKED qn_status qn_text_expand(const char *where, const char *text, const qn_scope *scope, qn_buf *out,
                                    qn_diag *diag);

// True for [A-Za-z_][A-Za-z0-9_]* of at most 64 bytes.
bool qn_expression_is_name(qn_str text);

#endif
