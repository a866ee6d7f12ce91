// Fuzzes the readers of the Hugging Face world: any bytes give an error, or a safetensors file whose every tensor lies
// inside those bytes, or a config.json whose keys can be asked for in every way. What begins with '{' is a config.json.
#include <stdlib.h>
#include <string.h>

#include "frontend/import/hf_config.h"
#include "frontend/import/safetensors.h"
#include "tests/support/fuzz.h"

static void check_error(qn_status status, const qn_diag *diag) {
  fuzz_require(status == QN_ERR_FORMAT || status == QN_ERR_UNSUPPORTED || status == QN_ERR_LIMIT || status == QN_ERR_NOMEM,
               "an odd status");
  fuzz_require(diag->status == status && strncmp(diag->text, "fuzz: ", 6) == 0, "an error does not name the file");
}

static void read_tensor(const qn_safetensors *files, const qn_safetensors_tensor *t, const uint8_t *data, size_t size) {
  uint64_t begin = (uint64_t)((uintptr_t)t->data - (uintptr_t)data);
  fuzz_require(begin <= size && t->size_bytes <= size - begin, "a tensor leaves the file");
  fuzz_require(t->offset == begin, "an offset is none of the file");
  fuzz_require(qn_safetensors_find(files, t->name) == t, "a tensor is not found");
  fuzz_require(t->count * qn_stored_bits(t->dtype) == t->size_bytes * 8, "a tensor does not fill its bytes");
  const qn_format *format = qn_stored_format(t->dtype);
  if (!format || t->count == 0) return;
  uint8_t *out = malloc((size_t)t->count * format->block_bytes);
  if (out) qn_stored_convert(t->dtype, t->data, (size_t)t->count, out);
  free(out);
}

static void read_file(const uint8_t *data, size_t size) {
  qn_safetensors *files;
  qn_diag diag = {0};
  qn_status status = qn_safetensors_open_memory(&files, data, size, "fuzz", qn_allocator_default(), &diag);
  if (status != QN_OK) {
    fuzz_require(files == NULL, "a file that was refused is open");
    check_error(status, &diag);
    return;
  }
  for (size_t i = 0; i < files->tensor_count; i++) read_tensor(files, &files->tensors[i], data, size);
  qn_safetensors_close(files);
}

static void read_config(const char *text, size_t size) {
  qn_arena arena;
  qn_hf_config config;
  qn_diag diag = {0};
  qn_buf out;
  qn_arena_init(&arena, qn_allocator_default());
  qn_buf_init(&out, qn_allocator_default());
  qn_status status = qn_hf_config_parse(&config, "fuzz", text, size, &arena, &diag);
  if (status != QN_OK) check_error(status, &diag);
  for (size_t i = 0; status == QN_OK && i < config.values.count; i++) {
    const qn_hf_value *value = &config.values.items[i];
    bool null = value->kind == QN_HF_NULL;
    fuzz_require(qn_hf_config_find(&config, value->key) == (null ? NULL : value), "a key is not found");
    fuzz_require(qn_hf_config_is_null(&config, value->key) == null, "null is no value, and nothing else is null");
    qn_hf_value_print(value, 100000, &out);
    for (int kind = QN_PARAM_INT; kind <= QN_PARAM_TEXT; kind++) {
      bool found;
      qn_value read;
      qn_status got = qn_hf_config_get(&config, value->key, (qn_param_kind)kind, &found, &read, NULL);
      fuzz_require(got != QN_OK || found == !null, "a key that is there is not found");
    }
  }
  qn_hf_config_deinit(&config);
  qn_buf_deinit(&out);
  qn_arena_deinit(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0 || data[0] != '{') {
    read_file(data, size);
    return 0;
  }
  char *text = malloc(size + 1);
  if (!text) return 0;
  memcpy(text, data, size);
  text[size] = 0;
  read_config(text, size);
  free(text);
  return 0;
}

// A safetensors file with this header and so many bytes of data.
static void take_file(fuzz_take_fn take, void *context, const char *header, size_t bytes) {
  uint8_t file[1024] = {0};
  size_t length = strlen(header);
  fuzz_require(8 + length + bytes <= sizeof file, "a seed is too long");
  file[0] = (uint8_t)length;
  file[1] = (uint8_t)(length >> 8);
  memcpy(file + 8, header, length);
  for (size_t i = 0; i < bytes; i++) file[8 + length + i] = (uint8_t)(37 * i);
  take(context, file, 8 + length + bytes);
}

void fuzz_seeds(fuzz_take_fn take, void *context) {
  static const char config[] =
      "{\"model_type\": \"llama\", \"hidden_size\": 64, \"rms_norm_eps\": 1e-05, \"rope_scaling\": {\"rope_type\": "
      "\"llama3\", \"factor\": 8.0}, \"layer_types\": [\"full\", \"full\"], \"none\": null, \"empty\": {}, \"tied\": true}";
  take(context, config, sizeof config - 1);
  take_file(take, context,
            "{\"__metadata__\":{\"format\":\"pt\"},\"a\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]},"
            "\"b\":{\"dtype\":\"F8_E4M3\",\"shape\":[8],\"data_offsets\":[16,24]},"
            "\"c\":{\"dtype\":\"F64\",\"shape\":[1,1,1,1,1],\"data_offsets\":[24,32]},"
            "\"d\":{\"dtype\":\"F4\",\"shape\":[4],\"data_offsets\":[32,34]}}",
            34);
  take_file(take, context, "{}", 0);
}

static const char *const words[] = {"\"dtype\"",        "\"shape\"", "\"data_offsets\"", "\"F32\"",   "\"BF16\"", "\"F8_E5M2\"",
                                    "\"I64\"",          "[0,",       "1e18",            "-1",        "0.5",      "4294967296",
                                    "9007199254740993", "null",      "\"__metadata__\"", "[[[[[[[[", "{\"a\":",  NULL};

QN_FUZZ_MAIN(words, 20000)
