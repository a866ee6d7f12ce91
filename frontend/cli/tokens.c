// Texts as token ids.
#include "frontend/cli/tokens.h"

#include "frontend/cli/cli.h"

bool cli_ids_reserve(cli_ids *ids, size_t count) {
  while (ids->capacity < count) {
    size_t had = ids->count;
    ids->count = ids->capacity;  // so that the push below grows it
    bool grown = qn_vec_push(qn_allocator_default(), ids, 0);
    ids->count = had;
    if (!grown) return false;
  }
  return true;
}

bool cli_ids_push(cli_ids *ids, int32_t id) { return qn_vec_push(qn_allocator_default(), ids, id); }

int cli_tokenize(const quern_model *model, const char *text, size_t length, unsigned flags, cli_ids *out,
                 quern_error *error) {
  size_t count = 0;
  out->count = 0;
  int code = (int)quern_tokenize(model, text, length, flags, NULL, 0, &count, error);
  if (code == QN_ERR_LIMIT && count > 0) {  // now it is known how many there are
    if (!cli_ids_reserve(out, count)) {
      *error = (quern_error){.code = QN_ERR_NOMEM, .text = "tokens: out of memory"};
      return QN_ERR_NOMEM;
    }
    code = (int)quern_tokenize(model, text, length, flags, out->items, out->capacity, &count, error);
  }
  if (code == 0) out->count = count;
  return code;
}
