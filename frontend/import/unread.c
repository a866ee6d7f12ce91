// What is left over of a model, in any world.
#include "frontend/import/unread.h"

#include <string.h>

// A name from the file for a message: bytes that are not printable ASCII replaced.
static const char *clean(qn_str name, char out[96]) {
  size_t length = name.length < 90 ? name.length : 90;
  for (size_t i = 0; i < length; i++) out[i] = name.data[i] >= ' ' && name.data[i] <= '~' ? name.data[i] : '?';
  out[length] = 0;
  return out;
}

static qn_status check_keys(qn_binding *binding, qn_diag *diag) {
  const qn_model_source *source = &binding->source;
  qn_str key;
  for (size_t i = 0; source->key_at(source->context, i, &key); i++) {
    bool known = key.length == 0 || qn_binding_reads_key(binding, key);
    if (!known) QN_TRY(qn_binding_ignores(binding, &binding->t->ignored_keys, key, &known, diag));
    if (known) continue;
    char name[96];
    return qn_fail(diag, QN_ERR_UNSUPPORTED, source->name,
                   "the template %s does not know the key '%s': this is a variant of '%s' that quern would compute "
                   "wrongly; use a template of your own that describes it (or ignores the key)",
                   binding->t->file, clean(key, name), source->architecture);
  }
  return QN_OK;
}

// Lists at most five tensors that the graph does not use; *out_count is of all.
static qn_status list_unused(qn_binding *binding, qn_buf *list, size_t *out_count, qn_diag *diag) {
  const qn_model_source *source = &binding->source;
  qn_str tensor;
  *out_count = 0;
  for (size_t i = 0; source->tensor_at(source->context, i, &tensor); i++) {
    bool known = tensor.length == 0 || qn_map_get(&binding->tensor_index, tensor, NULL);
    char name[96];
    if (!known) QN_TRY(qn_binding_ignores(binding, &binding->t->ignored_weights, tensor, &known, diag));
    if (known) continue;
    if (*out_count < 5) qn_buf_printf(list, "%s'%s'", *out_count ? ", " : "", clean(tensor, name));
    if (*out_count == 5) qn_buf_puts(list, ", ...");
    ++*out_count;
  }
  return QN_OK;
}

qn_status qn_check_unread(qn_binding *binding, qn_diag *diag) {
  QN_TRY(check_keys(binding, diag));
  qn_buf list;
  size_t count;
  qn_buf_init(&list, qn_allocator_default());
  qn_status status = list_unused(binding, &list, &count, diag);
  if (status == QN_OK && count) {
    status = qn_fail(diag, QN_ERR_UNSUPPORTED, binding->source.name,
                     "the template %s does not use %zu tensor%s of the file (%s): this is a variant of '%s' that quern "
                     "would compute wrongly; use a template of your own that describes it (or ignores them)",
                     binding->t->file, count, count == 1 ? "" : "s", qn_buf_text(&list), binding->source.architecture);
  }
  qn_buf_deinit(&list);
  return status;
}
