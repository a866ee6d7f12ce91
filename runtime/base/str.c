// String slices and the growing text buffer.
#include "runtime/base/str.h"

#include <locale.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

qn_str qn_str_from(const char *text) { return text ? (qn_str){text, strlen(text)} : (qn_str){"", 0}; }

bool qn_str_equal(qn_str a, qn_str b) {
  return a.length == b.length && (a.length == 0 || memcmp(a.data, b.data, a.length) == 0);
}

bool qn_str_is(qn_str a, const char *text) { return qn_str_equal(a, qn_str_from(text)); }

double qn_strtod(const char *text, char **out_end) {
  locale_t plain = newlocale(LC_ALL_MASK, "C", (locale_t)0);
  if (!plain) return strtod(text, out_end);  // no memory: where the C locale is not built in
  double value = strtod_l(text, out_end, plain);
  freelocale(plain);
  return value;
}

size_t qn_utf8_sequence(const char *text, size_t length, bool *out_unfinished) {
  const unsigned char *p = (const unsigned char *)text;
  if (out_unfinished != NULL) *out_unfinished = false;
  if (length == 0) return 0;
  if (p[0] < 0x80) return 1;
  // RFC 3629, section 4: how long the sequence is and what its second byte may be.
  size_t need;
  unsigned low = 0x80, high = 0xBF;
  if (p[0] >= 0xC2 && p[0] <= 0xDF) {
    need = 2;
  } else if (p[0] >= 0xE0 && p[0] <= 0xEF) {
    need = 3;
    if (p[0] == 0xE0) low = 0xA0;
    if (p[0] == 0xED) high = 0x9F;
  } else if (p[0] >= 0xF0 && p[0] <= 0xF4) {
    need = 4;
    if (p[0] == 0xF0) low = 0x90;
    if (p[0] == 0xF4) high = 0x8F;
  } else {
    return 0;
  }
  for (size_t i = 1; i < need; i++, low = 0x80, high = 0xBF) {
    if (i >= length) {
      if (out_unfinished != NULL) *out_unfinished = true;
      return 0;
    }
    if (p[i] < low || p[i] > high) return 0;
  }
  return need;
}

void qn_buf_init(qn_buf *buf, const qn_allocator *allocator) { *buf = (qn_buf){.allocator = allocator}; }

void qn_buf_deinit(qn_buf *buf) {
  qn_free(buf->allocator, buf->data, buf->capacity);
  *buf = (qn_buf){.allocator = buf->allocator};
}

// Makes room for `extra` bytes and a NUL.
static bool reserve(qn_buf *buf, size_t extra) {
  size_t need;
  if (buf->failed) return false;
  if (qn_size_add(buf->length, extra, &need) && qn_size_add(need, 1, &need)) {
    if (need <= buf->capacity) return true;
    size_t capacity = buf->capacity > SIZE_MAX / 2 ? need : buf->capacity * 2;
    if (capacity < need) capacity = need;
    if (capacity < 64) capacity = 64;
    char *data = qn_realloc(buf->allocator, buf->data, buf->capacity, capacity);
    if (data) {
      buf->data = data;
      buf->capacity = capacity;
      return true;
    }
  }
  buf->failed = true;
  return false;
}

void qn_buf_append(qn_buf *buf, const void *data, size_t length) {
  if (!reserve(buf, length)) return;
  if (length > 0) memcpy(buf->data + buf->length, data, length);
  buf->length += length;
  buf->data[buf->length] = '\0';
}

void qn_buf_puts(qn_buf *buf, const char *text) { qn_buf_append(buf, text, strlen(text)); }

void qn_buf_putc(qn_buf *buf, char c) { qn_buf_append(buf, &c, 1); }

void qn_buf_printf(qn_buf *buf, const char *format, ...) {
  va_list args;
  va_start(args, format);
  qn_buf_vprintf(buf, format, args);
  va_end(args);
}

void qn_buf_vprintf(qn_buf *buf, const char *format, va_list args) {
  va_list again;
  va_copy(again, args);
  int length = vsnprintf(NULL, 0, format, args);
  if (length < 0) {
    buf->failed = true;
  } else if (reserve(buf, (size_t)length)) {
    vsnprintf(buf->data + buf->length, (size_t)length + 1, format, again);
    buf->length += (size_t)length;
  }
  va_end(again);
}

void qn_buf_quote(qn_buf *buf, qn_str text) {
  qn_buf_putc(buf, '"');
  for (size_t i = 0; i < text.length; i++) {
    unsigned char c = (unsigned char)text.data[i];
    switch (c) {
      case '"': qn_buf_puts(buf, "\\\""); break;
      case '\\': qn_buf_puts(buf, "\\\\"); break;
      case '\n': qn_buf_puts(buf, "\\n"); break;
      case '\t': qn_buf_puts(buf, "\\t"); break;
      default:
        if (c < 0x20 || c == 0x7F) {
          qn_buf_printf(buf, "\\x%02x", c);
        } else {
          qn_buf_putc(buf, (char)c);
        }
    }
  }
  qn_buf_putc(buf, '"');
}

// Appends a number that printf wrote, with "." whatever decimal point the host's locale has.
static void put_number(qn_buf *buf, const char *text) {
  bool in_point = false;
  for (; *text; text++) {
    bool plain = strchr("0123456789eE+-", *text) != NULL;
    if (plain) {
      qn_buf_putc(buf, *text);
    } else if (!in_point) {
      qn_buf_putc(buf, '.');
    }
    in_point = !plain;
  }
}

// "10000" reads better than "1e+04", and is no longer.
static bool is_short_integer(double value, double limit) { return fabs(value) < limit && value == trunc(value); }

void qn_buf_put_f64(qn_buf *buf, double value) {
  if (isnan(value)) {
    qn_buf_puts(buf, "nan");
  } else if (isinf(value)) {
    qn_buf_puts(buf, value < 0 ? "-inf" : "inf");
  } else {
    char text[64];
    if (is_short_integer(value, 1e15)) {
      snprintf(text, sizeof text, "%.0f", value);
    } else {
      for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
      }
    }
    put_number(buf, text);
  }
}

void qn_buf_put_f32(qn_buf *buf, float value) {
  if (isnan(value) || isinf(value)) {
    qn_buf_put_f64(buf, (double)value);
    return;
  }
  char text[64];
  if (is_short_integer((double)value, 1e9)) {
    snprintf(text, sizeof text, "%.0f", (double)value);
  } else {
    for (int digits = 1; digits <= 9; digits++) {
      snprintf(text, sizeof text, "%.*g", digits, (double)value);
      if (strtof(text, NULL) == value) break;
    }
  }
  put_number(buf, text);
}

const char *qn_buf_text(const qn_buf *buf) { return buf->data ? buf->data : ""; }

enum { NEAR_SIZE = 64 };  // bytes of the longest name that can be near another

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

// Levenshtein's distance; names longer than the table count as far away.
static size_t distance(const char *a, const char *b) {
  size_t row[NEAR_SIZE + 1], length = strlen(b);
  if (length > NEAR_SIZE) return NEAR_SIZE;
  for (size_t j = 0; j <= length; j++) row[j] = j;
  for (size_t i = 0; a[i]; i++) {
    size_t corner = row[0];
    row[0] = i + 1;
    for (size_t j = 1; j <= length; j++) {
      size_t changed = corner + (a[i] != b[j - 1]);
      corner = row[j];
      row[j] = smaller(changed, smaller(row[j], row[j - 1]) + 1);
    }
  }
  return row[length];
}

const char *qn_nearest(const char *got, size_t count, const char *(*name)(const void *context, size_t i),
                       const void *context) {
  const char *best = NULL;
  size_t best_distance = 3, length = strlen(got);
  for (size_t i = 0; i < count; i++) {
    const char *candidate = name(context, i);
    size_t shorter = smaller(length, strlen(candidate)), d = distance(got, candidate);
    if (shorter >= 2 && strncmp(got, candidate, shorter) == 0) d = smaller(d, 2);  // --temperature for --temp
    if (d < best_distance && d < strlen(candidate)) {
      best = candidate;
      best_distance = d;
    }
  }
  return best;
}
