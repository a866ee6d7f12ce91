// minGPT's names → the gpt2 template's. minGPT's linear layers keep (out, in) as GGUF does: no matrix is transposed.
#include "tests/support/nano_sort.h"

#include <stdio.h>
#include <string.h>

#include "frontend/import/gguf_write.h"
#include "frontend/import/graph_json.h"
#include "frontend/import/json.h"
#include "runtime/base/file.h"

struct qn_nano_file {
  qn_arena arena;
  qn_json json;
  cJSON *root;  // owned
};

static qn_status parse_file(qn_nano_file *file, const char *path, qn_diag *diag) {
  char *text;
  size_t size;
  QN_TRY(qn_file_read(path, QN_TEXT_MAX, qn_allocator_default(), &text, &size, diag));
  file->json = (qn_json){&file->arena, qn_arena_strdup(&file->arena, path), diag};
  qn_status status =
      file->json.file ? qn_json_parse(&file->json, text, size, &file->root) : qn_fail_nomem(diag, path, "a path");
  qn_free(qn_allocator_default(), text, size + 1);
  return status;
}

qn_status qn_nano_open(const char *path, qn_nano_file **out, qn_diag *diag) {
  *out = NULL;
  qn_nano_file *file = qn_alloc_zeroed(qn_allocator_default(), sizeof *file);
  if (!file) return qn_fail_nomem(diag, path, "a file");
  qn_arena_init(&file->arena, qn_allocator_default());
  qn_status status = parse_file(file, path, diag);
  if (status == QN_OK) {
    *out = file;
  } else {
    qn_nano_close(file);
  }
  return status;
}

void qn_nano_close(qn_nano_file *file) {
  if (!file) return;
  cJSON_Delete(file->root);
  qn_arena_deinit(&file->arena);
  qn_free(qn_allocator_default(), file, sizeof *file);
}

qn_status qn_nano_get(qn_nano_file *file, const char *name, qn_nano_tensor *out, qn_diag *diag) {
  const qn_json json = {&file->arena, file->json.file, diag};
  const cJSON *item = qn_json_get(file->root, name), *dim;
  *out = (qn_nano_tensor){.count = 1};
  QN_TRY(qn_json_object(&json, item, name, NULL));
  QN_TRY(qn_json_array(&json, qn_json_get(item, "shape"), name, 1, 4));
  cJSON_ArrayForEach(dim, qn_json_get(item, "shape")) {
    out->dims[out->rank++] = dim->valueint;
    out->count *= (size_t)dim->valueint;
  }
  uint8_t *bytes;
  size_t size;
  const char *text;
  QN_TRY(qn_json_text(&json, qn_json_get(item, "data"), name, &text));
  if (!qn_base64_decode(qn_str_from(text), &file->arena, &bytes, &size) || size != out->count * sizeof(float)) {
    return qn_json_fail(&json, QN_ERR_FORMAT, name, "data is no base64 of %zu floats", out->count);
  }
  out->values = (float *)(void *)bytes;  // arenas align for any type; every machine of ours is little-endian
  return QN_OK;
}

// What a tensor is called; %d is the layer.
static const struct {
  const char *from, *to;
  bool layered;
} names[] = {
    {"transformer.wte.weight", "token_embd.weight", false},
    {"transformer.wpe.weight", "position_embd.weight", false},
    {"transformer.ln_f.weight", "output_norm.weight", false},
    {"transformer.ln_f.bias", "output_norm.bias", false},
    {"lm_head.weight", "output.weight", false},
    {"ln_1.weight", "attn_norm.weight", true},
    {"ln_1.bias", "attn_norm.bias", true},
    {"attn.c_attn.weight", "attn_qkv.weight", true},
    {"attn.c_attn.bias", "attn_qkv.bias", true},
    {"attn.c_proj.weight", "attn_output.weight", true},
    {"attn.c_proj.bias", "attn_output.bias", true},
    {"ln_2.weight", "ffn_norm.weight", true},
    {"ln_2.bias", "ffn_norm.bias", true},
    {"mlp.c_fc.weight", "ffn_up.weight", true},
    {"mlp.c_fc.bias", "ffn_up.bias", true},
    {"mlp.c_proj.weight", "ffn_down.weight", true},
    {"mlp.c_proj.bias", "ffn_down.bias", true},
};

enum { LAYERS = 3 };

static qn_status add_tensor(qn_nano_file *file, qn_gguf_writer *writer, size_t index, int layer, qn_diag *diag) {
  char from[96], to[96];
  snprintf(from, sizeof from, "%s", names[index].from);
  snprintf(to, sizeof to, "%s", names[index].to);
  if (names[index].layered) {
    snprintf(from, sizeof from, "transformer.h.%d.%s", layer, names[index].from);
    snprintf(to, sizeof to, "blk.%d.%s", layer, names[index].to);
  }
  qn_nano_tensor tensor;
  QN_TRY(qn_nano_get(file, from, &tensor, diag));
  int64_t dims[4] = {0};
  for (int d = 0; d < tensor.rank; d++) dims[d] = tensor.dims[tensor.rank - 1 - d];
  qn_gguf_writer_add_tensor(writer, qn_str_from(to), qn_format_of(QN_DTYPE_F32)->gguf_type, tensor.rank, dims,
                            tensor.values, tensor.count * sizeof(float));
  return QN_OK;
}

static qn_status add_tensors(qn_nano_file *file, qn_gguf_writer *writer, qn_diag *diag) {
  for (size_t i = 0; i < QN_COUNT(names); i++) {
    int count = names[i].layered ? LAYERS : 1;
    for (int layer = 0; layer < count; layer++) QN_TRY(add_tensor(file, writer, i, layer, diag));
  }
  return QN_OK;
}

static void add_keys(qn_gguf_writer *w) {
  qn_gguf_writer_add_text(w, "general.architecture", "gpt2");
  qn_gguf_writer_add_text(w, "general.name", "gpt-nano-sort");
  qn_gguf_writer_add_u32(w, "gpt2.vocab_size", 3);
  qn_gguf_writer_add_u32(w, "gpt2.context_length", 11);
  qn_gguf_writer_add_u32(w, "gpt2.embedding_length", 48);
  qn_gguf_writer_add_u32(w, "gpt2.block_count", LAYERS);
  qn_gguf_writer_add_u32(w, "gpt2.feed_forward_length", 192);
  qn_gguf_writer_add_u32(w, "gpt2.attention.head_count", 3);
  qn_gguf_writer_add_f32(w, "gpt2.attention.layer_norm_epsilon", 1e-5f);  // PyTorch's default
}

qn_status qn_nano_sort_convert(const char *json_path, const char *gguf_path, qn_diag *diag) {
  qn_nano_file *file;
  QN_TRY(qn_nano_open(json_path, &file, diag));
  qn_gguf_writer *writer = qn_gguf_writer_create(qn_allocator_default());
  qn_status status = writer ? QN_OK : qn_fail_nomem(diag, gguf_path, "a GGUF writer");
  if (status == QN_OK) {
    add_keys(writer);
    status = add_tensors(file, writer, diag);
  }
  if (status == QN_OK) status = qn_gguf_writer_save(writer, gguf_path, diag);
  qn_gguf_writer_destroy(writer);
  qn_nano_close(file);
  return status;
}
