// The keys of sampling defaults in one table: names, ranges and what to say of other values.
#include "runtime/base/sampler_defaults.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static const struct {
  const char *name;
  double min, max;
  bool above;     // min itself is not among them
  bool whole;
  double without;  // what -1 stands for; NAN = it is a value like others
  const char *want;
} keys[QN_SAMPLER_KEYS] = {
    [QN_SAMPLER_TEMPERATURE] = {"temperature", 0, 1000, false, false, NAN, "a number from 0 to 1000"},
    [QN_SAMPLER_TOP_K] = {"top_k", 0, INT32_MAX, false, true, 0, "a whole number from 0 to 2147483647"},
    [QN_SAMPLER_TOP_P] = {"top_p", 0, 1, true, false, NAN, "a number above 0 and at most 1"},
    [QN_SAMPLER_MIN_P] = {"min_p", 0, 1, false, false, NAN, "a number from 0 to 1"},
    [QN_SAMPLER_REPEAT_PENALTY] = {"repeat_penalty", 0, 1000, true, false, NAN, "a number above 0 and at most 1000"},
    [QN_SAMPLER_REPEAT_LAST] = {"repeat_last", 0, QN_SAMPLER_LAST_MAX, false, true, QN_SAMPLER_LAST_MAX,
                                "a whole number from 0 to 1048576"},
    [QN_SAMPLER_MAX_TOKENS] = {"max_tokens", 1, INT32_MAX, false, true, NAN, "a whole number from 1 to 2147483647"},
};

const char *qn_sampler_key_name(qn_sampler_key key) { return keys[key].name; }
const char *qn_sampler_key_want(qn_sampler_key key) { return keys[key].want; }

bool qn_sampler_defaults_set(qn_sampler_defaults *defaults, qn_sampler_key key, double value) {
  if (value == -1 && !isnan(keys[key].without)) value = keys[key].without;
  bool within = value <= keys[key].max && (keys[key].above ? value > keys[key].min : value >= keys[key].min);
  if (!within || (keys[key].whole && value != floor(value))) return false;
  defaults->said[key] = true;
  defaults->values[key] = value;
  return true;
}

void qn_sampler_defaults_put(const qn_sampler_defaults *defaults, qn_buf *out) {
  for (int key = 0; key < QN_SAMPLER_KEYS; key++) {
    if (!defaults->said[key]) continue;
    qn_buf_printf(out, "sampling.%s = ", keys[key].name);
    qn_buf_put_f64(out, defaults->values[key]);
    qn_buf_putc(out, '\n');
  }
}

qn_status qn_sampler_defaults_read(qn_sampler_defaults *defaults, qn_sampler_key key, qn_str value, const char *where,
                                   qn_diag *diag) {
  char digits[40], *end = digits;
  bool fits = value.length > 0 && value.length < sizeof digits;
  if (fits) {
    memcpy(digits, value.data, value.length);
    digits[value.length] = '\0';
    fits = digits[strspn(digits, "0123456789+-.e")] == '\0';  // no blanks, hex, "inf", "nan"
  }
  if (fits && qn_sampler_defaults_set(defaults, key, qn_strtod(digits, &end)) && *end == '\0') return QN_OK;
  return qn_fail(diag, QN_ERR_FORMAT, where, "the summary's sampling.%s: got '%.*s', want %s", keys[key].name,
                 (int)(value.length < sizeof digits ? value.length : sizeof digits), value.data, keys[key].want);
}
