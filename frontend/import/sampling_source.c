// Tables of the keys that other programs have for sampling.
#include "frontend/import/sampling_source.h"

#include <stdlib.h>
#include <string.h>

#include "frontend/import/json.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"

typedef struct sampling_key {
  const char *name;
  qn_sampler_key key;
} sampling_key;

// A key of something that quern does not do, unless its value is this one.
typedef struct other_key {
  const char *name;
  double nothing;
} other_key;

// What is left out is told at the end, all in one message.
typedef struct remarks {
  qn_buf range, other;
} remarks;

static void begin_remarks(remarks *r) {
  qn_buf_init(&r->range, qn_allocator_default());
  qn_buf_init(&r->other, qn_allocator_default());
}

static void note_other(remarks *r, const char *name) { qn_buf_printf(&r->other, "%s%s", r->other.length ? ", " : "", name); }

static void end_remarks(remarks *r, const char *file) {
  if (r->range.length) qn_log(QN_LOG_WARNING, "%s: %s: left out", file, qn_buf_text(&r->range));
  if (r->other.length) {
    qn_log(QN_LOG_WARNING, "%s: asks for %s, which quern does not do: left out, so texts may be others than elsewhere", file,
           qn_buf_text(&r->other));
  }
  qn_buf_deinit(&r->range);
  qn_buf_deinit(&r->other);
}

static void take(qn_sampler_defaults *out, const char *name, qn_sampler_key key, double value, remarks *r) {
  if (qn_sampler_defaults_set(out, key, value)) return;
  qn_buf_printf(&r->range, "%s%s: got %g, want %s", r->range.length ? "; " : "", name, value, qn_sampler_key_want(key));
}

// ---- GGUF --------------------------------------------------------------------------------------------------------

static const sampling_key gguf_keys[] = {
    {"general.sampling.temp", QN_SAMPLER_TEMPERATURE},
    {"general.sampling.top_k", QN_SAMPLER_TOP_K},
    {"general.sampling.top_p", QN_SAMPLER_TOP_P},
    {"general.sampling.min_p", QN_SAMPLER_MIN_P},
    {"general.sampling.penalty_repeat", QN_SAMPLER_REPEAT_PENALTY},
    {"general.sampling.penalty_last_n", QN_SAMPLER_REPEAT_LAST},
};
static const other_key gguf_others[] = {{"general.sampling.xtc_probability", 0}, {"general.sampling.mirostat", 0}};

// The shortest decimal that is the same float: 0.95, where the file has a float's nearest to it.
static double shortest(double value) {
  qn_buf text;
  qn_buf_init(&text, qn_allocator_default());
  qn_buf_put_f32(&text, (float)value);
  double out = text.failed ? value : qn_strtod(qn_buf_text(&text), NULL);
  qn_buf_deinit(&text);
  return out;
}

static qn_status number_of(const qn_gguf *gguf, const char *name, bool *out_found, double *out, qn_diag *diag) {
  const qn_gguf_kv *kv = qn_gguf_find(gguf, name);
  *out_found = kv != NULL;
  if (!kv) return QN_OK;
  QN_TRY(qn_gguf_get_float(gguf, name, out, diag));
  if (kv->value.type == QN_GGUF_F32) *out = shortest(*out);
  return QN_OK;
}

static qn_status read_gguf(const qn_gguf *gguf, qn_sampler_defaults *out, remarks *r, qn_diag *diag) {
  double value = 0;
  bool found;
  for (size_t i = 0; i < QN_COUNT(gguf_keys); i++) {
    QN_TRY(number_of(gguf, gguf_keys[i].name, &found, &value, diag));
    if (found) take(out, gguf_keys[i].name, gguf_keys[i].key, value, r);
  }
  for (size_t i = 0; i < QN_COUNT(gguf_others); i++) {
    QN_TRY(number_of(gguf, gguf_others[i].name, &found, &value, diag));
    if (found && value != gguf_others[i].nothing) note_other(r, gguf_others[i].name);
  }
  if (qn_gguf_find(gguf, "general.sampling.sequence")) note_other(r, "general.sampling.sequence");
  return QN_OK;
}

qn_status qn_sampling_from_gguf(const qn_gguf *gguf, qn_sampler_defaults *out, qn_diag *diag) {
  remarks r;
  *out = (qn_sampler_defaults){0};
  begin_remarks(&r);
  qn_status status = read_gguf(gguf, out, &r, diag);
  end_remarks(&r, gguf->name);
  return status;
}

// ---- generation_config.json --------------------------------------------------------------------------------------

static const sampling_key config_keys[] = {
    {"temperature", QN_SAMPLER_TEMPERATURE},
    {"top_k", QN_SAMPLER_TOP_K},
    {"top_p", QN_SAMPLER_TOP_P},
    {"min_p", QN_SAMPLER_MIN_P},
    {"repetition_penalty", QN_SAMPLER_REPEAT_PENALTY},
    {"max_new_tokens", QN_SAMPLER_MAX_TOKENS},
};
static const other_key config_others[] = {
    {"num_beams", 1}, {"num_beam_groups", 1}, {"typical_p", 1}, {"epsilon_cutoff", 0}, {"eta_cutoff", 0}, {"top_h", 0},
    {"no_repeat_ngram_size", 0}, {"encoder_no_repeat_ngram_size", 0}, {"encoder_repetition_penalty", 1},
    {"penalty_alpha", 0}, {"diversity_penalty", 0}, {"min_new_tokens", 0}, {"min_length", 0}, {"guidance_scale", 1},
};
// The same of lists, objects and ids: anything but null and what is empty.
static const char *const config_lists[] = {
    "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "sequence_bias", "forced_bos_token_id",
    "forced_eos_token_id", "exponential_decay_length_penalty", "stop_strings", "constraints", "force_words_ids",
};

static const cJSON *get(const cJSON *top, const char *key) {
  const cJSON *item = qn_json_get(top, key);
  return item && !cJSON_IsNull(item) ? item : NULL;
}

static qn_status take_numbers(const qn_json *json, const cJSON *top, qn_sampler_defaults *out, remarks *r) {
  double value = 0;
  for (size_t i = 0; i < QN_COUNT(config_keys); i++) {
    const char *name = config_keys[i].name;
    const cJSON *item = get(top, name);
    if (!item) continue;
    QN_TRY(qn_json_number(json, item, name, &value));
    take(out, name, config_keys[i].key, value, r);
  }
  for (size_t i = 0; i < QN_COUNT(config_others); i++) {
    const cJSON *item = get(top, config_others[i].name);
    if (!item) continue;
    QN_TRY(qn_json_number(json, item, config_others[i].name, &value));
    if (value != config_others[i].nothing) note_other(r, config_others[i].name);
  }
  return QN_OK;
}

static void set(qn_sampler_defaults *out, qn_sampler_key key, double value) {
  out->said[key] = true;
  out->values[key] = value;
}

// What transformers makes of a file that says this.
static void complete(qn_sampler_defaults *out, bool samples, bool says_how) {
  static const double usual[QN_SAMPLER_KEYS] = {
      [QN_SAMPLER_TEMPERATURE] = 1, [QN_SAMPLER_TOP_K] = 50, [QN_SAMPLER_TOP_P] = 1, [QN_SAMPLER_MIN_P] = 0};
  for (int key = QN_SAMPLER_TEMPERATURE; samples && key <= QN_SAMPLER_MIN_P; key++) {
    if (!out->said[key]) set(out, (qn_sampler_key)key, usual[key]);
  }
  if (!samples && says_how) set(out, QN_SAMPLER_TEMPERATURE, 0);
}

static qn_status take_config(const qn_json *json, const cJSON *top, qn_sampler_defaults *out, remarks *r) {
  bool samples = false, says_how = get(top, "do_sample") != NULL;
  QN_TRY(qn_json_object(json, top, "", NULL));
  if (says_how) QN_TRY(qn_json_bool(json, get(top, "do_sample"), "do_sample", &samples));
  QN_TRY(take_numbers(json, top, out, r));
  for (size_t i = 0; i < QN_COUNT(config_lists); i++) {
    const cJSON *item = get(top, config_lists[i]);
    bool holds = item && (!(cJSON_IsArray(item) || cJSON_IsObject(item)) || cJSON_GetArraySize(item) > 0);
    if (holds) note_other(r, config_lists[i]);
  }
  for (int key = QN_SAMPLER_TEMPERATURE; key <= QN_SAMPLER_REPEAT_PENALTY; key++) says_how |= out->said[key];
  complete(out, samples, says_how);
  if (out->said[QN_SAMPLER_REPEAT_PENALTY]) set(out, QN_SAMPLER_REPEAT_LAST, QN_SAMPLER_LAST_MAX);
  return QN_OK;
}

qn_status qn_sampling_from_folder(const char *folder, qn_arena *arena, qn_sampler_defaults *out, qn_diag *diag) {
  *out = (qn_sampler_defaults){0};
  size_t length = strlen(folder), size;
  const char *slash = length > 0 && folder[length - 1] == '/' ? "" : "/";
  const char *path = qn_arena_printf(arena, "%s%sgeneration_config.json", folder, slash);
  char *text;
  cJSON *top = NULL;
  remarks r;
  if (!path) return qn_fail_nomem(diag, folder, "a path");
  if (!qn_file_is_there(path)) return QN_OK;
  QN_TRY(qn_file_read(path, QN_TEXT_MAX, arena->allocator, &text, &size, diag));
  qn_json json = {arena, path, diag};
  begin_remarks(&r);
  qn_status status = qn_json_parse(&json, text, size, &top);
  if (status == QN_OK) status = take_config(&json, top, out, &r);
  end_remarks(&r, path);
  cJSON_Delete(top);
  qn_free(arena->allocator, text, size + 1);
  return status;
}
