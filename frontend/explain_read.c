// Reads an explanation back from the JSON that `quern explain --json` writes, to hold another one against it.
#include <stdlib.h>
#include <string.h>

#include "frontend/compile.h"
#include "frontend/explain.h"
#include "frontend/import/json.h"
#include "runtime/base/file.h"

enum { MOST_BYTES = 64 << 20, MOST_KERNELS = 4096 };

#define F(type, key, kind) \
  { #key, QUERN_FIELD_##kind, offsetof(type, key) }
static const quern_field whole_fields[] = {
    F(quern_explanation, quern, TEXT),
    F(quern_explanation, model, TEXT),
    F(quern_explanation, target, TEXT),
    F(quern_explanation, host, TEXT),
    F(quern_explanation, lacking, TEXT),
    F(quern_explanation, prediction, TEXT),
    F(quern_explanation, threads, INT),
    F(quern_explanation, read_bytes_per_s, NUMBER),
    F(quern_explanation, int8_ops_per_s, NUMBER),
    F(quern_explanation, narrow_ops_per_s, NUMBER),
    F(quern_explanation, fp32_ops_per_s, NUMBER),
    F(quern_explanation, target_int8_ops_per_s, NUMBER),
    F(quern_explanation, target_narrow_ops_per_s, NUMBER),
    F(quern_explanation, target_fp32_ops_per_s, NUMBER),
    F(quern_explanation, fault_s, NUMBER),
};
static const quern_field phase_fields[] = {
    F(quern_phase_report, threads, INT),
    F(quern_phase_report, tokens, INTEGER),
    F(quern_phase_report, depth, INTEGER),
    F(quern_phase_report, seconds, NUMBER),
    F(quern_phase_report, outside_s, NUMBER),
    F(quern_phase_report, bound_s, NUMBER),
    F(quern_phase_report, mbu, NUMBER),
    F(quern_phase_report, mfu, NUMBER),
    F(quern_phase_report, stream_bytes_per_s, NUMBER),
    F(quern_phase_report, first_s, NUMBER),
    F(quern_phase_report, first_minor_faults, NUMBER),
    F(quern_phase_report, first_major_faults, NUMBER),
    F(quern_phase_report, minor_faults, NUMBER),
    F(quern_phase_report, major_faults, NUMBER),
    F(quern_phase_report, interrupted, NUMBER),
};
static const quern_field kernel_fields[] = {
    F(quern_kernel_report, kernel, TEXT),        F(quern_kernel_report, variant, TEXT),
    F(quern_kernel_report, place, TEXT),         F(quern_kernel_report, schedule, TEXT),
    F(quern_kernel_report, limit, TEXT),         F(quern_kernel_report, tuning, TEXT),
    F(quern_kernel_report, calls, INTEGER),      F(quern_kernel_report, memory_bytes, NUMBER),
    F(quern_kernel_report, value_bytes, NUMBER), F(quern_kernel_report, int8_ops, NUMBER),
    F(quern_kernel_report, fp32_ops, NUMBER),    F(quern_kernel_report, other_ops, NUMBER),
    F(quern_kernel_report, seconds, NUMBER),     F(quern_kernel_report, kernel_s, NUMBER),
    F(quern_kernel_report, wait_s, NUMBER),      F(quern_kernel_report, share, NUMBER),
    F(quern_kernel_report, bound_s, NUMBER),     F(quern_kernel_report, of_bound, NUMBER),
    F(quern_kernel_report, predicted_s, NUMBER), F(quern_kernel_report, tried, INTEGER),
    F(quern_kernel_report, failed, INTEGER),     F(quern_kernel_report, tuned_s, NUMBER),
};
#undef F

const quern_field *quern_explain_fields(quern_explain_level level, size_t *out_count) {
  static const struct {
    const quern_field *fields;
    size_t count;
  } levels[] = {{whole_fields, QN_COUNT(whole_fields)},
                {phase_fields, QN_COUNT(phase_fields)},
                {kernel_fields, QN_COUNT(kernel_fields)}};
  *out_count = levels[level].count;
  return levels[level].fields;
}

static qn_status read_field(const qn_json *json, const cJSON *object, const char *path, const quern_field *f,
                            void *out) {
  const cJSON *item = qn_json_get(object, f->key);
  const char *where = qn_json_key_path(json, path, f->key);
  char *at = (char *)out + f->offset;
  if (!item) return qn_json_fail(json, QN_ERR_FORMAT, where, "is not there; want what quern explain --json writes");
  if (f->kind == QUERN_FIELD_TEXT) {
    *(const char **)(void *)at = "";
    if (cJSON_IsString(item) && item->valuestring[0] == '\0') return QN_OK;
    for (char *c = cJSON_IsString(item) ? item->valuestring : ""; *c; c++) {
      if ((unsigned char)*c < 0x20 || *c == 0x7F) *c = '?';  // it may go to a terminal
    }
    return qn_json_text(json, item, where, (const char **)(void *)at);
  }
  double number = 0;
  QN_TRY(qn_json_number(json, item, where, &number));
  if (!(number >= 0 && number < 1e18))
    return qn_json_fail(json, QN_ERR_FORMAT, where, "got %g, want 0 or more", number);
  if (f->kind == QUERN_FIELD_NUMBER) *(double *)(void *)at = number;
  if (f->kind == QUERN_FIELD_INTEGER) *(int64_t *)(void *)at = (int64_t)number;
  if (f->kind == QUERN_FIELD_INT) *(int *)(void *)at = number > 1e6 ? 1000000 : (int)number;
  return QN_OK;
}

static qn_status read_fields(const qn_json *json, const cJSON *object, const char *path, quern_explain_level level,
                             void *out) {
  size_t count;
  const quern_field *fields = quern_explain_fields(level, &count);
  QN_TRY(qn_json_object(json, object, path, NULL));
  for (size_t i = 0; i < count; i++) QN_TRY(read_field(json, object, path, &fields[i], out));
  return QN_OK;
}

// The terms stand in an object of their own, by their names.
static qn_status read_terms(const qn_json *json, const cJSON *object, const char *path, quern_kernel_report *out) {
  size_t count;
  const quern_explain_term *terms = quern_explain_terms(&count);
  const cJSON *item = qn_json_get(object, "terms");
  const char *where = qn_json_key_path(json, path, "terms");
  if (!item) return qn_json_fail(json, QN_ERR_FORMAT, where, "is not there; want what quern explain --json writes");
  QN_TRY(qn_json_object(json, item, where, NULL));
  for (size_t i = 0; i < count; i++) {
    quern_field f = {terms[i].name, QUERN_FIELD_NUMBER, terms[i].offset};
    QN_TRY(read_field(json, item, where, &f, out));
  }
  return QN_OK;
}

static qn_status read_kernels(const qn_json *json, const cJSON *list, const char *path, quern_phase_report *out) {
  QN_TRY(qn_json_array(json, list, path, 0, MOST_KERNELS));
  size_t count = (size_t)cJSON_GetArraySize(list);
  quern_kernel_report *kernels = QN_ARENA_ARRAY(json->arena, count, quern_kernel_report);
  if (!kernels) return qn_fail_nomem(json->diag, json->file, "kernels");
  out->kernels = kernels;
  const cJSON *item;
  cJSON_ArrayForEach(item, list) {
    const char *where = qn_json_index_path(json, path, out->kernel_count);
    quern_kernel_report *k = &kernels[out->kernel_count++];
    QN_TRY(read_fields(json, item, where, QUERN_EXPLAIN_KERNEL, k));
    QN_TRY(read_terms(json, item, where, k));
  }
  return QN_OK;
}

// By the first of the phases.
static explain_kind kind_of(const cJSON *top) {
  for (int kind = EXPLAIN_TEXTS; kind < EXPLAIN_KINDS; kind++)
    if (qn_json_get(top, explain_phase_name((explain_kind)kind, 0))) return (explain_kind)kind;
  return EXPLAIN_TEXTS;
}

static qn_status read_explanation(const qn_json *json, const cJSON *top, explanation *e) {
  QN_TRY(read_fields(json, top, "", QUERN_EXPLAIN_WHOLE, &e->told));
  explain_kind kind = kind_of(top);
  e->told.phase_count = explain_phase_count(kind);
  for (size_t i = 0; i < e->told.phase_count; i++) {
    const char *name = explain_phase_name(kind, (int)i);
    const cJSON *phase = qn_json_get(top, name);
    if (!phase) {
      return qn_json_fail(json, QN_ERR_FORMAT, name, "is not there; want what quern explain --json writes");
    }
    QN_TRY(read_fields(json, phase, name, QUERN_EXPLAIN_PHASE, &e->phases[i]));
    e->phases[i].name = name;
    const char *where = qn_json_key_path(json, name, "kernels");
    QN_TRY(read_kernels(json, qn_json_get(phase, "kernels"), where, &e->phases[i]));
  }
  return QN_OK;
}

qn_status explanation_parse(const char *name, const char *text, size_t size, explanation *e, qn_diag *diag) {
  qn_json json = {.arena = &e->arena, .file = name, .diag = diag};
  cJSON *top = NULL;
  qn_status status = qn_json_parse(&json, text, size, &top);
  if (status == QN_OK) status = read_explanation(&json, top, e);
  cJSON_Delete(top);
  return status;
}

int quern_explanation_read(const char *path, const quern_explanation **out, quern_error *error) {
  qn_diag diag = {0};
  char *text = NULL;
  size_t size = 0;
  *out = NULL;
  explanation *e = explanation_create();
  qn_status status = e ? qn_file_read(path, MOST_BYTES, qn_allocator_default(), &text, &size, &diag)
                       : qn_fail_nomem(&diag, path, "an explanation");
  if (status == QN_OK) status = explanation_parse(path, text, size, e, &diag);
  if (text) qn_free(qn_allocator_default(), text, size + 1);
  if (status == QN_OK) {
    *out = &e->told;
  } else if (e) {
    quern_explanation_free(&e->told);
  }
  return quern_give_error(error, &diag, status);
}
