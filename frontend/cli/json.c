// The JSON writer. Bytes that are not UTF-8 become U+FFFD, as RFC 8259 wants UTF-8 and models give any bytes.
#include "frontend/cli/json.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "frontend/cli/cli.h"
#include "runtime/base/file.h"

static void put_string(qn_buf *out, qn_str text) {
  qn_buf_putc(out, '"');
  for (size_t i = 0; i < text.length;) {
    unsigned char c = (unsigned char)text.data[i];
    size_t length = qn_utf8_sequence(text.data + i, text.length - i, NULL);
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

void cli_json_count(cli_json *json, const char *key, uint64_t value) {
  begin_value(json, key);
  qn_buf_printf(json->out, "%" PRIu64, value);
}

void cli_json_real(cli_json *json, const char *key, double value) {
  begin_value(json, key);
  if (isfinite(value)) {
    qn_buf_printf(json->out, "%.3f", value);
  } else {
    qn_buf_puts(json->out, "null");
  }
}

void cli_json_precise(cli_json *json, const char *key, double value) {
  begin_value(json, key);
  if (isfinite(value)) {
    qn_buf_printf(json->out, "%.6g", value);
  } else {
    qn_buf_puts(json->out, "null");
  }
}

int cli_json_save(const qn_buf *text, const char *path, const char *option) {
  qn_diag diag = {0};
  qn_status status = text->failed ? qn_fail_nomem(&diag, option, "the JSON text") : QN_OK;
  if (status == QN_OK && strcmp(path, "-") == 0) {
    cli_out(text->data, text->length);
  } else if (status == QN_OK) {
    qn_file_writer writer;
    status = qn_file_writer_open(&writer, path, &diag);
    if (status == QN_OK) status = qn_file_writer_write(&writer, text->data, text->length);
    if (status == QN_OK) status = qn_file_writer_commit(&writer);
    qn_file_writer_abandon(&writer);
  }
  return status == QN_OK ? cli_out_end() : cli_fail((int)status, option, "%s", diag.text);
}
