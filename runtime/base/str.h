// Borrowed string slices, and a growing text buffer with a sticky failure.
#ifndef QN_BASE_STR_H
#define QN_BASE_STR_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#include "runtime/base/alloc.h"

// A slice of somebody else's bytes; not NUL-terminated.
typedef struct qn_str {
  const char *data;
  size_t length;
} qn_str;

#define QN_STR(literal) ((qn_str){(literal), sizeof(literal) - 1})
// For printf("%.*s", QN_STR_ARGS(s)).
#define QN_STR_ARGS(s) (int)(s).length, (s).data

qn_str qn_str_from(const char *text);  // NULL gives the empty slice
bool qn_str_equal(qn_str a, qn_str b);
bool qn_str_is(qn_str a, const char *text);
// strtod, with "." whatever decimal point the host's locale has.
double qn_strtod(const char *text, char **out_end);

// Bytes of the UTF-8 sequence at the front of text (1..4), 0 when there is none: RFC 3629, so no surrogates, no
// overlong forms. *out_unfinished (may be NULL) is true when the text ends inside a sequence that is right so far.
size_t qn_utf8_sequence(const char *text, size_t length, bool *out_unfinished);

// A text being written. After a failed allocation `failed` stays true and writes do nothing: check once, at the end.
typedef struct qn_buf {
  const qn_allocator *allocator;  // borrowed
  char *data;                     // owned; NUL-terminated when not NULL
  size_t length, capacity;
  bool failed;
} qn_buf;

void qn_buf_init(qn_buf *buf, const qn_allocator *allocator);
void qn_buf_deinit(qn_buf *buf);
void qn_buf_append(qn_buf *buf, const void *data, size_t length);
void qn_buf_puts(qn_buf *buf, const char *text);
void qn_buf_putc(qn_buf *buf, char c);
void qn_buf_printf(qn_buf *buf, const char *format, ...) __attribute__((format(printf, 2, 3)));
void qn_buf_vprintf(qn_buf *buf, const char *format, va_list args);
// Text in double quotes with \" \\ \n \t and \xNN for other control bytes: the quoting of our IR texts.
void qn_buf_quote(qn_buf *buf, qn_str text);
// Shortest decimal that reads back as the same double / float ("%.9g"/"%.17g" trimmed), "inf", "-inf", "nan".
void qn_buf_put_f64(qn_buf *buf, double value);
void qn_buf_put_f32(qn_buf *buf, float value);
const char *qn_buf_text(const qn_buf *buf);  // never NULL

// The name nearest to `got` among `count` names that name(context, i) gives; NULL when none is near.
const char *qn_nearest(const char *got, size_t count, const char *(*name)(const void *context, size_t i),
                       const void *context);

#endif
