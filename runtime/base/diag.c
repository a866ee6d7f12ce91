// Recording the text of a failure in a fixed buffer, so that reporting one can never fail itself.
#include "runtime/base/diag.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

// Appends formatted text at `used`; gives the new length, which may pass the buffer's end when text was cut.
static size_t append(char *text, size_t capacity, size_t used, const char *format, va_list args) {
  int length = vsnprintf(text + used, capacity - used, format, args);
  return length < 0 ? used : used + (size_t)length;
}

// Ends a text that was cut with "...", not in the middle of a UTF-8 sequence.
static void mark_cut(char *text, size_t capacity) {
  size_t end = capacity - 4;
  while (end > 0 && ((unsigned char)text[end] & 0xC0) == 0x80) end--;
  memcpy(text + end, "...", 4);
}

// Names and texts of hostile files go into messages, and those to terminals.
static void mask_controls(char *text) {
  for (; *text; text++) {
    unsigned char c = (unsigned char)*text;
    if ((c < ' ' && c != '\n' && c != '\t') || c == 0x7F) *text = '?';
  }
}

qn_status qn_fail(qn_diag *diag, qn_status status, const char *where, const char *format, ...) {
  if (!diag || diag->status != QN_OK) return status;
  diag->status = status;
  size_t used = 0;
  if (where && *where) {
    int length = snprintf(diag->text, sizeof diag->text, "%s: ", where);
    used = length < 0 ? 0 : (size_t)length;
  }
  if (used < sizeof diag->text) {
    va_list args;
    va_start(args, format);
    used = append(diag->text, sizeof diag->text, used, format, args);
    va_end(args);
  }
  if (used >= sizeof diag->text) mark_cut(diag->text, sizeof diag->text);
  mask_controls(diag->text);
  return status;
}

qn_status qn_fail_nomem(qn_diag *diag, const char *where, const char *what) {
  return qn_fail(diag, QN_ERR_NOMEM, where, "out of memory for %s", what);
}
