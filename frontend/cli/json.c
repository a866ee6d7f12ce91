// The JSON writer. Bytes that are not UTF-8 become U+FFFD, as RFC 8259 wants UTF-8 and models give any bytes.
#include "frontend/cli/json.h"

#include <inttypes.h>
#include <math.h>

// Length of the UTF-8 sequence at the front (Unicode 15, table 3-7), 0 when there is none.
static size_t sequence_length(const unsigned char *s, size_t left) {
  if (s[0] < 0x80) return 1;
  size_t length = s[0] >= 0xC2 && s[0] <= 0xDF ? 2 : (s[0] & 0xF0) == 0xE0 ? 3 : s[0] >= 0xF0 && s[0] <= 0xF4 ? 4 : 0;
  if (length == 0 || length > left) return 0;
  unsigned char low = s[0] == 0xE0 ? 0xA0 : s[0] == 0xF0 ? 0x90 : 0x80;
  unsigned char high = s[0] == 0xED ? 0x9F : s[0] == 0xF4 ? 0x8F : 0xBF;
  if (s[1] < low || s[1] > high) return 0;
  for (size_t i = 2; i < length; i++) {
    if ((s[i] & 0xC0) != 0x80) return 0;
  }
  return length;
}

static void put_string(qn_buf *out, qn_str text) {
  qn_buf_putc(out, '"');
  for (size_t i = 0; i < text.length;) {
    unsigned char c = (unsigned char)text.data[i];
    size_t length = sequence_length((const unsigned char *)text.data + i, text.length - i);
    if (length == 0) {
      qn_buf_puts(out, "\\ufffd");
    } else if (c == '"' || c == '\\') {
      qn_buf_printf(out, "\\%c", c);
    } else if (c == '\n') {
      qn_buf_puts(out, "\\n");
    } else if (c < 0x20 || c == 0x7F) {
      qn_buf_printf(out, "\\u%04x", c);
    } else {
      qn_buf_append(out, text.data + i, length);
    }
    i += length ? length : 1;
  }
  qn_buf_putc(out, '"');
}

static void begin_value(cli_json *json, const char *key) {
  if (json->follows) qn_buf_puts(json->out, ", ");
  json->follows = true;
  if (key) {
    put_string(json->out, qn_str_from(key));
    qn_buf_puts(json->out, ": ");
  }
}

void cli_json_begin(cli_json *json, const char *key, char bracket) {
  begin_value(json, key);
  qn_buf_putc(json->out, bracket);
  json->follows = false;
}

void cli_json_end(cli_json *json, char bracket) {
  qn_buf_putc(json->out, bracket);
  json->follows = true;
}

void cli_json_text(cli_json *json, const char *key, qn_str text) {
  begin_value(json, key);
  put_string(json->out, text);
}

void cli_json_int(cli_json *json, const char *key, int64_t value) {
  begin_value(json, key);
  qn_buf_printf(json->out, "%" PRId64, value);
}

void cli_json_real(cli_json *json, const char *key, double value) {
  begin_value(json, key);
  if (isfinite(value)) {
    qn_buf_printf(json->out, "%.3f", value);
  } else {
    qn_buf_puts(json->out, "null");
  }
}
