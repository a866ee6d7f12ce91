// Packed int4 checkpoints. A method is a row of a table; its words are read by the description there.
#include "frontend/import/hf_packed.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { PER_WORD = 8, BITS = 4 };  // codes of a 32-bit word, and bits of one

struct qn_hf_packing {
  const char *method;
  bool codes_along_k;          // a word holds 8 values along K of one row; else one value of 8 rows
  uint8_t place[PER_WORD];     // of the word's numbers along N, where its words go along N: number j is in nibble place[j]
  bool zeros_less_one;         // zero points are stored less one, unless checkpoint_format says otherwise
};

static const qn_hf_packing packings[] = {
    {.method = "awq", .place = {0, 4, 1, 5, 2, 6, 3, 7}},
    {.method = "gptq", .codes_along_k = true, .place = {0, 1, 2, 3, 4, 5, 6, 7}, .zeros_less_one = true},
};

#define KEY(name) "quantization_config." name

// ---- the configuration -------------------------------------------------------------------------------------------

static qn_status fail_key(const qn_hf_model *model, qn_diag *diag, const char *key, const char *want) {
  const qn_hf_value *value = qn_hf_config_find(&model->config, key);
  qn_buf got;
  qn_buf_init(&got, qn_allocator_default());
  if (value) qn_hf_value_print(value, 4, &got);
  qn_status status = qn_fail(diag, QN_ERR_UNSUPPORTED, model->config.name, "key '%s': got %.80s, want %s", key,
                             value ? qn_buf_text(&got) : "nothing", want);
  qn_buf_deinit(&got);
  return status;
}

// A text that, where it is there, must be this one.
static qn_status want_text(const qn_hf_model *model, const char *key, const char *want, qn_diag *diag) {
  const qn_hf_value *value = qn_hf_config_find(&model->config, key);
  if (!value || (value->kind == QN_HF_TEXT && strcasecmp(value->text, want) == 0)) return QN_OK;
  char text[64];
  snprintf(text, sizeof text, "\"%s\"", want);
  return fail_key(model, diag, key, text);
}

static qn_status fail_method(const qn_hf_model *model, const qn_hf_value *method, qn_diag *diag) {
  return qn_fail(diag, QN_ERR_UNSUPPORTED, model->config.name,
                 "key '" KEY("quant_method") "': got '%.60s', want awq or gptq of 4 bits; or compile the original weights "
                 "(--quant quantises them) or a GGUF file",
                 method && method->kind == QN_HF_TEXT ? method->text : "nothing");
}

// Variants of AWQ and GPTQ that are packed otherwise.
static qn_status read_variant(const qn_hf_model *model, qn_hf_packed *out, qn_diag *diag) {
  const qn_hf_value *format = qn_hf_config_find(&model->config, KEY("checkpoint_format"));
  const qn_hf_value *zero_point = qn_hf_config_find(&model->config, KEY("zero_point"));
  out->zero_plus = out->packing->zeros_less_one;
  if (!out->packing->codes_along_k) {
    if (zero_point && !zero_point->flag) return fail_key(model, diag, KEY("zero_point"), "true");
    return want_text(model, KEY("version"), "gemm", diag);
  }
  if (format && format->kind == QN_HF_TEXT && strcmp(format->text, "gptq_v2") == 0) {
    out->zero_plus = 0;
  } else {
    QN_TRY(want_text(model, KEY("checkpoint_format"), "gptq", diag));
  }
  return want_text(model, KEY("pack_dtype"), "int32", diag);
}

static qn_status read_config(const qn_hf_model *model, qn_hf_packed *out, qn_diag *diag) {
  const qn_hf_value *method = qn_hf_config_find(&model->config, KEY("quant_method"));
  bool is_text = method && method->kind == QN_HF_TEXT, found;
  qn_value value;
  for (size_t i = 0; is_text && i < QN_COUNT(packings); i++) {
    if (strcmp(packings[i].method, method->text) == 0) out->packing = &packings[i];
  }
  if (!out->packing) return fail_method(model, method, diag);
  QN_TRY(qn_hf_config_get(&model->config, KEY("bits"), QN_PARAM_INT, &found, &value, diag));
  if (!found || value.i != BITS) return fail_key(model, diag, KEY("bits"), "4");
  QN_TRY(qn_hf_config_get(&model->config, KEY("group_size"), QN_PARAM_INT, &found, &value, diag));
  if (!found || (value.i != -1 && (value.i < 32 || value.i % 32 != 0 || value.i > INT32_MAX))) {
    return fail_key(model, diag, KEY("group_size"), "a multiple of 32, or -1");
  }
  out->group_values = value.i == -1 ? 0 : value.i;
  return read_variant(model, out, diag);
}

// ---- the tensors -------------------------------------------------------------------------------------------------

static bool ends_with(const char *text, const char *ending, size_t *out_stem) {
  size_t length = strlen(text), tail = strlen(ending);
  if (length <= tail || strcmp(text + length - tail, ending) != 0) return false;
  *out_stem = length - tail;
  return true;
}

// Every x.qweight stands for x.weight; its other parts stand for nothing.
static qn_status list_names(qn_hf_packed *p, qn_arena *arena, qn_diag *diag) {
  static const char *const others[] = {".qzeros", ".scales", ".g_idx"};
  p->names = QN_ARENA_ARRAY(arena, p->files->tensor_count, const char *);
  if (!p->names) return qn_fail_nomem(diag, p->files->name, "its tensors");
  for (size_t i = 0; i < p->files->tensor_count; i++) {
    const char *name = p->files->tensors[i].name;
    size_t stem;
    bool part = false;
    p->names[i] = name;
    for (size_t j = 0; j < QN_COUNT(others) && !part; j++) {
      if (!ends_with(name, others[j], &stem)) continue;
      const char *codes = qn_arena_printf(arena, "%.*s.qweight", (int)stem, name);
      if (!codes) return qn_fail_nomem(diag, p->files->name, "a name");
      part = qn_safetensors_find(p->files, codes) != NULL;
    }
    if (part) p->names[i] = NULL;
    if (!ends_with(name, ".qweight", &stem)) continue;
    p->names[i] = qn_arena_printf(arena, "%.*s.weight", (int)stem, name);
    if (!p->names[i] || !qn_map_put(&p->weights, qn_str_from(p->names[i]), 1)) {
      return qn_fail_nomem(diag, p->files->name, "a name");
    }
  }
  return QN_OK;
}

static bool has_config(const qn_hf_model *model) {
  for (size_t i = 0; i < model->config.values.count; i++) {
    if (model->config.values.items[i].kind != QN_HF_NULL &&
        strncmp(model->config.values.items[i].key, "quantization_config", strlen("quantization_config")) == 0) return true;
  }
  return false;
}

qn_status qn_hf_packed_open(qn_hf_packed *out, const qn_hf_model *model, qn_arena *arena, qn_diag *diag) {
  *out = (qn_hf_packed){.files = model->files};
  qn_map_init(&out->weights, arena->allocator);
  if (has_config(model)) {
    QN_TRY(read_config(model, out, diag));
    return list_names(out, arena, diag);
  }
  for (size_t i = 0, stem; i < model->files->tensor_count; i++) {
    if (!ends_with(model->files->tensors[i].name, ".qweight", &stem)) continue;
    return qn_fail(diag, QN_ERR_FORMAT, model->config.name,
                   "key 'quantization_config' is missing, but there are packed weights ('%.100s'); want it as transformers "
                   "writes it (older tools have it in a file of their own)",
                   model->files->tensors[i].name);
  }
  return QN_OK;
}

void qn_hf_packed_deinit(qn_hf_packed *packed) { qn_map_deinit(&packed->weights); }

bool qn_hf_packed_has(const qn_hf_packed *packed, const char *name) {
  return packed->packing && qn_map_get(&packed->weights, qn_str_from(name), NULL);
}

// A packed matrix (n, k), its parts and its format.
typedef struct matrix {
  const qn_safetensors_tensor *codes, *zeros, *scales, *order;  // order NULL: groups follow one another along K
  int64_t n, k, group, groups;
  const qn_format *format;
} matrix;

// One of the parts of "x.weight", with its type and, where rank is not 0, its shape (rows, columns).
static qn_status find_part(const qn_hf_packed *p, const char *name, const char *part, qn_stored_dtype dtype, int rank,
                           const int64_t *dims, const qn_safetensors_tensor **out, qn_diag *diag) {
  char full[512];
  snprintf(full, sizeof full, "%.*s.%s", (int)(strlen(name) - strlen(".weight")), name, part);
  const qn_safetensors_tensor *t = qn_safetensors_find(p->files, full);
  if (!t) return qn_fail(diag, QN_ERR_FORMAT, p->files->name, "tensor '%.200s' is missing beside '%.200s'", full, name);
  if (t->dtype != dtype) {
    return qn_fail(diag, QN_ERR_UNSUPPORTED, t->file, "tensor '%.200s' has the type %s, want %s", full,
                   qn_stored_name(t->dtype), qn_stored_name(dtype));
  }
  bool fits = t->rank == rank;
  for (int d = 0; fits && d < rank; d++) fits = dims[d] == 0 || dims[d] == t->dims[d];
  if (!fits || t->count == 0) {
    return qn_fail(diag, QN_ERR_FORMAT, t->file,
                   "tensor '%.200s' has %d dimensions (%" PRId64 ", %" PRId64 "), want %d that fit the others (%" PRId64
                   ", %" PRId64 "; 0 is any)",
                   full, t->rank, t->rank > 0 ? t->dims[0] : 0, t->rank > 1 ? t->dims[1] : 0, rank, dims[0],
                   rank > 1 ? dims[1] : 0);
  }
  *out = t;
  return QN_OK;
}

static uint32_t word_at(const qn_safetensors_tensor *t, int64_t i) {
  uint32_t word;
  memcpy(&word, t->data + 4 * i, sizeof word);
  return word;
}

// GPTQ says of every place along K which group it is in: in order, or the model was quantised by importance.
static qn_status check_order(const qn_hf_packed *p, const char *name, matrix *m, qn_diag *diag) {
  char full[512];
  snprintf(full, sizeof full, "%.*s.g_idx", (int)(strlen(name) - strlen(".weight")), name);
  if (!qn_safetensors_find(p->files, full)) return QN_OK;
  QN_TRY(find_part(p, name, "g_idx", QN_STORED_I32, 1, (int64_t[]){m->k}, &m->order, diag));
  for (int64_t k = 0; k < m->k; k++) {
    if (word_at(m->order, k) == (uint32_t)(k / m->group)) continue;
    return qn_fail(diag, QN_ERR_UNSUPPORTED, m->order->file,
                   "tensor '%.200s': value %" PRId64 " is in group %" PRIu32 ", want group %" PRId64
                   ": the checkpoint was quantised with desc_act (columns by importance), which quern does not read; want "
                   "one without",
                   full, k, word_at(m->order, k), k / m->group);
  }
  return QN_OK;
}

static qn_status find_matrix(const qn_hf_packed *p, const char *name, matrix *m, qn_diag *diag) {
  bool along_k = p->packing->codes_along_k;
  *m = (matrix){0};
  QN_TRY(find_part(p, name, "qweight", QN_STORED_I32, 2, (int64_t[]){0, 0}, &m->codes, diag));
  m->k = along_k ? m->codes->dims[0] * PER_WORD : m->codes->dims[0];
  m->n = along_k ? m->codes->dims[1] : m->codes->dims[1] * PER_WORD;
  m->group = p->group_values ? p->group_values : m->k;
  if (m->k % m->group != 0 || m->group % 32 != 0 || m->n % PER_WORD != 0) {
    return qn_fail(diag, QN_ERR_UNSUPPORTED, m->codes->file,
                   "tensor '%.200s' has %" PRId64 " rows of %" PRId64 " values, want rows in whole groups of %" PRId64
                   " (a multiple of 32) and a multiple of 8 of them",
                   m->codes->name, m->n, m->k, m->group);
  }
  m->groups = m->k / m->group;
  m->format = qn_format_of(m->group % 128 == 0 ? QN_DTYPE_Z4_128 : QN_DTYPE_Z4_32);
  QN_TRY(find_part(p, name, "qzeros", QN_STORED_I32, 2, (int64_t[]){m->groups, m->n / PER_WORD}, &m->zeros, diag));
  QN_TRY(find_part(p, name, "scales", QN_STORED_F16, 2, (int64_t[]){m->groups, m->n}, &m->scales, diag));
  return along_k ? check_order(p, name, m, diag) : QN_OK;
}

qn_status qn_hf_packed_find(const qn_hf_packed *packed, const char *name, qn_tensor_data *out, qn_diag *diag) {
  matrix m;
  QN_TRY(find_matrix(packed, name, &m, diag));
  *out = (qn_tensor_data){.format = m.format, .rank = 2, .dims = {m.n, m.k}};
  return QN_OK;
}

// ---- bytes -------------------------------------------------------------------------------------------------------

// Number j of words that go along N: `columns` words a row of the tensor.
static uint32_t along_n(const qn_hf_packing *packing, const qn_safetensors_tensor *t, int64_t row, int64_t j) {
  return word_at(t, row * t->dims[1] + j / PER_WORD) >> (BITS * packing->place[j % PER_WORD]) & 15;
}

static uint32_t code_at(const qn_hf_packing *packing, const matrix *m, int64_t n, int64_t k) {
  if (!packing->codes_along_k) return along_n(packing, m->codes, k, n);
  return word_at(m->codes, k / PER_WORD * m->n + n) >> (BITS * (k % PER_WORD)) & 15;
}

// One block of row n, from value `first` along K on; all of it is of one group.
static void put_block(const qn_hf_packed *p, const matrix *m, int64_t n, int64_t first, uint8_t *block) {
  const qn_format *f = m->format;
  int64_t group = first / m->group;
  uint32_t zero = along_n(p->packing, m->zeros, group, n) + (uint32_t)p->zero_plus;
  memset(block, 0, f->block_bytes);
  memcpy(block + f->scale_at, m->scales->data + 2 * (group * m->n + n), 2);
  for (uint32_t g = 0; g < f->block_values / f->group_values; g++) {
    qn_field_put(&f->sub_scale.field, block, g, 1);
    qn_field_put(&f->sub_min.field, block, g, zero);
  }
  for (uint32_t i = 0; i < f->block_values; i++) {
    qn_field_put(&f->codes, block, i, code_at(p->packing, m, n, first + i));
  }
}

qn_status qn_hf_packed_load(const qn_hf_packed *packed, const char *name, void *out, qn_diag *diag) {
  matrix m;
  QN_TRY(find_matrix(packed, name, &m, diag));
  uint8_t *block = out;
  for (int64_t n = 0; n < m.n; n++) {
    for (int64_t k = 0; k < m.k; k += m.format->block_values, block += m.format->block_bytes) {
      put_block(packed, &m, n, k, block);
    }
  }
  return QN_OK;
}
