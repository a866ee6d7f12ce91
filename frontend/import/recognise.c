// Recognises model files by their first bytes, those that quern does not read among them.
#include "frontend/import/recognise.h"

#include <string.h>
#include <sys/stat.h>

#include "runtime/base/file.h"

enum { PEEK_BYTES = 64 };

static bool begins(const uint8_t *data, size_t size, const char *magic, size_t length) {
  return size >= length && memcmp(data, magic, length) == 0;
}

#define WANT      ", want GGUF or safetensors"
#define TO_TENSORS                                                                                            \
  WANT "; load it with transformers, in a place where that may run code, and save it with save_pretrained, " \
       "which writes safetensors"

// What a file that is no model of ours seems to be, and what to do.
static const char *name_other(const uint8_t *d, size_t size) {
  if (begins(d, size, "quern\r\n\032", 8)) return "is compiled already, want a model file: run it as it is";
  if (begins(d, size, "PK\003\004", 4)) {
    return "is a zip archive or a PyTorch checkpoint (a pickle, which runs code when it is read)" TO_TENSORS;
  }
  if (size >= 2 && d[0] == 0x80 && d[1] >= 2 && d[1] <= 5) {
    return "is a Python pickle (an old PyTorch checkpoint), which runs code when it is read" TO_TENSORS;
  }
  if (begins(d, size, "\x89HDF", 4)) return "is an HDF5 file" TO_TENSORS;
  if (begins(d, size, "tjgg", 4) || begins(d, size, "lmgg", 4) || begins(d, size, "fmgg", 4) ||
      begins(d, size, "algg", 4)) {
    return "is a GGML file from before GGUF, want GGUF; get a newer file or convert the original model";
  }
  if (size >= 3 && d[0] == 0x08 && d[1] >= 1 && d[1] < 32 &&
      (d[2] == 0x12 || d[2] == 0x1a || d[2] == 0x22 || d[2] == 0x3a)) {
    return "is an ONNX model" WANT
           "; give the model it was made from, or describe the graph in JSON (models/README.md)";
  }
  return "is neither GGUF nor safetensors nor a graph in JSON (by its first bytes)";
}

// The length of a header of less than 2^48 bytes, and the header's first byte.
static bool is_safetensors(const uint8_t *data, size_t size) {
  return size >= 9 && data[6] == 0 && data[7] == 0 && data[8] == '{';
}

qn_status qn_recognise(const char *path, qn_model_kind *out, qn_diag *diag) {
  struct stat info;
  qn_mapping mapping;
  if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) {
    *out = QN_MODEL_FOLDER;
    return QN_OK;
  }
  QN_TRY(qn_mapping_open(&mapping, path, diag));
  const uint8_t *data = mapping.data;
  const char *other = NULL;
  size_t size = mapping.size < PEEK_BYTES ? mapping.size : PEEK_BYTES, at = 0;
  if (begins(data, size, "\xef\xbb\xbf", 3)) at = 3;
  while (at < size && memchr(" \t\r\n", data[at], 4)) at++;
  if (begins(data, size, "GGUF", 4)) {
    *out = QN_MODEL_GGUF;
  } else if (is_safetensors(data, size)) {
    *out = QN_MODEL_SAFETENSORS;
  } else if (at < size && data[at] == '{') {
    *out = QN_MODEL_JSON;
  } else {
    other = name_other(data, size);
  }
  qn_mapping_close(&mapping);
  return other ? qn_fail(diag, QN_ERR_UNSUPPORTED, path, "%s", other) : QN_OK;
}
