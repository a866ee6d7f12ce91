// What a model's files say of how its tokens are to be chosen (generation_config.json, general.sampling.* of GGUF): found
// by the importer, kept as lines of the artifact's summary, taken by the runtime where its caller says nothing else.
#ifndef QN_BASE_SAMPLER_DEFAULTS_H
#define QN_BASE_SAMPLER_DEFAULTS_H

#include "runtime/base/diag.h"
#include "runtime/base/str.h"

typedef enum qn_sampler_key {
  QN_SAMPLER_TEMPERATURE,
  QN_SAMPLER_TOP_K,
  QN_SAMPLER_TOP_P,
  QN_SAMPLER_MIN_P,
  QN_SAMPLER_REPEAT_PENALTY,
  QN_SAMPLER_REPEAT_LAST,
  QN_SAMPLER_MAX_TOKENS,  // of a text
  QN_SAMPLER_KEYS
} qn_sampler_key;

#define QN_SAMPLER_LAST_MAX (1 << 20)  // tokens that may count as lately seen

// Zero-initialised: nothing is said.
typedef struct qn_sampler_defaults {
  bool said[QN_SAMPLER_KEYS];
  double values[QN_SAMPLER_KEYS];  // within the key's range where said
} qn_sampler_defaults;

// "top_p"
const char *qn_sampler_key_name(qn_sampler_key key);
// Notes a value; false, and nothing changes, where it is not one of the key's. -1 is what other programs write for no
// limit of QN_SAMPLER_TOP_K and _REPEAT_LAST.
bool qn_sampler_defaults_set(qn_sampler_defaults *defaults, qn_sampler_key key, double value);
// What qn_sampler_defaults_set takes, for messages: "more than 0 and at most 1".
const char *qn_sampler_key_want(qn_sampler_key key);
// A line "sampling.top_p = 0.9" for each that is said.
void qn_sampler_defaults_put(const qn_sampler_defaults *defaults, qn_buf *out);
// The same from such a line's value, which may come from anybody. FORMAT, naming the line, got and want.
QN_CHECKED qn_status qn_sampler_defaults_read(qn_sampler_defaults *defaults, qn_sampler_key key, qn_str value,
                                              const char *where, qn_diag *diag);

#endif
