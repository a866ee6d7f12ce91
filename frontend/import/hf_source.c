// Keys and tensors of a model's folder for binding.
#include "frontend/import/hf_source.h"

#include <stdio.h>
#include <string.h>

// ---- keys --------------------------------------------------------------------------------------------------------

// Keys of config.json that say nothing of what a model computes: they are about training, sampling, and the program that
// wrote the file. '*' is any characters.
static const char *const harmless[] = {
    "model_type", "architectures", "auto_map.*", "_name_or_path", "name_or_path", "_commit_hash", "transformers_version",
    "torch_dtype", "dtype", "torchscript", "use_bfloat16", "tf_legacy_loss", "_attn_implementation*", "tokenizer_class",
    "use_cache", "return_dict", "return_dict_in_generate", "output_attentions", "output_hidden_states", "output_scores",
    "output_router_logits", "router_aux_loss_coef", "router_jitter_noise",
    "initializer_range", "initializer_factor", "gradient_checkpointing", "pretraining_tp", "*dropout*", "*pdrop", "*_drop",
    "id2label.*", "label2id.*", "finetuning_task", "problem_type", "task_specific_params.*", "prefix",
    "bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "sep_token_id", "cls_token_id", "mask_token_id",
    "forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens", "bad_words_ids",
    "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "num_return_sequences",
    "diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty",
    "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty",
    "remove_invalid_values", "chunk_size_feed_forward", "quantization_config.*",
};

// Keys that say nothing as long as they are false, empty or none.
static const char *const harmless_if_empty[] = {
    "is_encoder_decoder", "is_decoder", "add_cross_attention", "cross_attention_hidden_size", "tie_encoder_decoder",
    "pruned_heads",
};

static bool is_listed(const char *const *patterns, size_t count, const char *key) {
  for (size_t i = 0; i < count; i++) {
    if (qn_pattern_matches(patterns[i], qn_str_from(key))) return true;
  }
  return false;
}

static bool is_null(void *context, const char *key) {
  const qn_hf_source *source = context;
  return qn_hf_config_is_null(&source->model->config, key);
}

static bool is_empty(const qn_hf_value *value) {
  switch (value->kind) {
    case QN_HF_BOOL: return !value->flag;
    case QN_HF_LIST: return value->count == 0;
    case QN_HF_OBJECT: return true;
    default: return false;
  }
}

static bool key_at(void *context, size_t i, qn_str *out) {
  const qn_hf_source *source = context;
  if (i >= source->model->config.values.count) return false;
  const qn_hf_value *value = &source->model->config.values.items[i];
  bool says_nothing = value->kind == QN_HF_NULL || is_listed(harmless, QN_COUNT(harmless), value->key) ||
                      (is_empty(value) && is_listed(harmless_if_empty, QN_COUNT(harmless_if_empty), value->key));
  *out = says_nothing ? (qn_str){0} : qn_str_from(value->key);
  return true;
}

static qn_status find_key(void *context, const char *key, qn_param_kind kind, bool *out_found, qn_value *out,
                          qn_diag *diag) {
  const qn_hf_source *source = context;
  return qn_hf_config_get(&source->model->config, key, kind, out_found, out, diag);
}

static qn_status find_item(void *context, const char *key, qn_param_kind kind, int64_t index, bool *out_found,
                           int64_t *out_count, qn_value *out, qn_diag *diag) {
  const qn_hf_source *source = context;
  return qn_hf_config_get_item(&source->model->config, key, kind, index, out_found, out_count, out, diag);
}

// ---- tensors -----------------------------------------------------------------------------------------------------

static bool has_tensor(void *context, const char *name) {
  const qn_hf_source *source = context;
  return qn_hf_packed_has(&source->packed, name) || qn_safetensors_find(source->model->files, name) != NULL;
}

static qn_status fail_type(const qn_safetensors_tensor *t, qn_diag *diag) {
  qn_buf known;
  qn_buf_init(&known, qn_allocator_default());
  for (int i = 0; i < QN_STORED_COUNT; i++) {
    if (!qn_stored_format((qn_stored_dtype)i)) continue;
    qn_buf_printf(&known, "%s%s", known.length ? ", " : "", qn_stored_name((qn_stored_dtype)i));
  }
  qn_status status = qn_fail(diag, QN_ERR_UNSUPPORTED, t->file, "tensor '%s' has the type %s, want a weight's: %s", t->name,
                             qn_stored_name(t->dtype), qn_buf_text(&known));
  qn_buf_deinit(&known);
  return status;
}

static qn_status find_tensor(void *context, const char *name, bool *out_found, qn_tensor_data *out, qn_diag *diag) {
  const qn_hf_source *source = context;
  const qn_safetensors_tensor *t = qn_safetensors_find(source->model->files, name);
  *out_found = true;
  if (qn_hf_packed_has(&source->packed, name)) return qn_hf_packed_find(&source->packed, name, out, diag);
  *out_found = t != NULL;
  if (!t) return QN_OK;
  const qn_format *format = qn_stored_format(t->dtype);
  if (!format) return fail_type(t, diag);
  if (t->rank > QN_MAX_RANK) {
    return qn_fail(diag, QN_ERR_UNSUPPORTED, t->file, "tensor '%s' has %d dimensions, want at most %d", t->name, t->rank,
                   QN_MAX_RANK);
  }
  *out = (qn_tensor_data){.format = format, .rank = t->rank ? t->rank : 1, .dims = {1}};
  for (int d = 0; d < t->rank; d++) out->dims[d] = t->dims[d];
  if (qn_stored_is_format(t->dtype)) out->data = t->data;
  return QN_OK;
}

static qn_status load_tensor(void *context, const char *name, void *out, qn_diag *diag) {
  const qn_hf_source *source = context;
  const qn_safetensors_tensor *t = qn_safetensors_find(source->model->files, name);
  if (qn_hf_packed_has(&source->packed, name)) return qn_hf_packed_load(&source->packed, name, out, diag);
  if (!t) return qn_fail(diag, QN_ERR_FORMAT, source->model->name, "tensor '%s' is missing", name);
  qn_stored_convert(t->dtype, t->data, (size_t)t->count, out);
  return QN_OK;
}

static bool tensor_at(void *context, size_t i, qn_str *out) {
  const qn_hf_source *source = context;
  if (i >= source->model->files->tensor_count) return false;
  *out = qn_str_from(source->packed.packing ? source->packed.names[i] : source->model->files->tensors[i].name);
  return true;
}

// ---- opening -----------------------------------------------------------------------------------------------------

qn_status qn_hf_source_open(qn_hf_source *out, const qn_hf_model *model, qn_arena *arena, qn_diag *diag) {
  *out = (qn_hf_source){.model = model};
  qn_map_init(&out->packed.weights, arena->allocator);
  return qn_hf_packed_open(&out->packed, model, arena, diag);
}

void qn_hf_source_close(qn_hf_source *source) { qn_hf_packed_deinit(&source->packed); }

// What a config.json without model_type is of: parts of models, by a key that they have.
static const struct {
  const char *key, *architecture;
} parts[] = {{"medusa_num_heads", "medusa"}};

static const char *part_of(const qn_hf_config *config) {
  for (size_t i = 0; i < QN_COUNT(parts); i++)
    if (qn_hf_config_find(config, parts[i].key)) return parts[i].architecture;
  return NULL;
}

qn_status qn_hf_source_get(qn_hf_source *hf, qn_model_source *out, qn_diag *diag) {
  const qn_hf_model *model = hf->model;
  bool found;
  qn_value type;
  QN_TRY(qn_hf_config_get(&model->config, "model_type", QN_PARAM_TEXT, &found, &type, diag));
  const char *part = part_of(&model->config);
  if (!found && part) {
    type.text = qn_str_from(part);
  } else if (!found || type.text.length == 0) {
    return qn_fail(diag, QN_ERR_FORMAT, model->config.name,
                   "key 'model_type' is missing, which names the architecture; want a model's config.json");
  }
  *out = (qn_model_source){.context = hf,
                           .name = model->name,
                           .architecture = type.text.data,
                           .world = QN_WORLD_HF,
                           .find_key = find_key,
                           .find_item = find_item,
                           .is_null = is_null,
                           .find_tensor = find_tensor,
                           .has_tensor = has_tensor,
                           .load_tensor = load_tensor,
                           .key_at = key_at,
                           .tensor_at = tensor_at};
  return QN_OK;
}
