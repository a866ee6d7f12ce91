// A writer of JSON: values one after the other, commas by itself. Text that is not UTF-8 is made so.
#ifndef QUERN_CLI_JSON_H
#define QUERN_CLI_JSON_H

#include <stdint.h>

#include "runtime/base/str.h"

typedef struct cli_json {
  qn_buf *out;   // borrowed
  bool follows;  // a value was written at this level: a comma goes before the next
} cli_json;

// `key` is NULL in an array and at the top. `bracket` is '{' or '['.
void cli_json_begin(cli_json *json, const char *key, char bracket);
void cli_json_end(cli_json *json, char bracket);
void cli_json_text(cli_json *json, const char *key, qn_str text);
void cli_json_int(cli_json *json, const char *key, int64_t value);
void cli_json_count(cli_json *json, const char *key, uint64_t value);
void cli_json_real(cli_json *json, const char *key, double value);     // three decimals; null when not finite
void cli_json_precise(cli_json *json, const char *key, double value);  // six significant digits; null when not finite

// Writes a finished text to a file, whole or not at all, or to standard output for "-". 0, or an exit code after a message
// that names `option`.
int cli_json_save(const qn_buf *text, const char *path, const char *option);

#endif
