// Fuzzes what reads an artifact without running it: any bytes are refused with words, or described, and their kernels
// read back as the program that quern tune and quern verify work on, or refused in turn.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "frontend/artifact_program.h"
#include "frontend/quern.h"
#include "runtime/base/file.h"
#include "tests/support/artifact_builder.h"
#include "tests/support/fuzz.h"

static void check_error(int code, const char *text) {
  fuzz_require(code != QN_ERR_INTERNAL && text[0] != '\0', "an error of our own, or without words");
}

static void describe(const char *path) {
  char *text = NULL;
  quern_error error = {0};
  int code = quern_inspect(path, "all", &text, &error);
  if (code != 0) check_error(code, error.text);
  for (const char *c = code == 0 ? text : ""; *c; c++)
    fuzz_require(((unsigned char)*c >= 0x20 && *c != 0x7F) || *c == '\n' || *c == '\t', "a control byte is printed");
  free(text);
}

static void read_program(const char *path) {
  qn_artifact artifact;
  qn_arena arena;
  qn_program *program;
  qn_diag diag = {0};
  if (qn_artifact_open(&artifact, path, &diag) != QN_OK) return;
  qn_arena_init(&arena, qn_allocator_default());
  qn_status status = quern_artifact_program(&artifact, &arena, &program, &diag);
  if (status != QN_OK) check_error((int)status, diag.text);
  qn_arena_deinit(&arena);
  qn_artifact_close(&artifact);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const char *path = fuzz_file(0, data, size);
  describe(path);
  read_program(path);
  return 0;
}

// --- a small artifact, as it is compiled

static const char graph[] =
    "{\"quern_graph\": 1, \"name\": \"small\", \"inputs\": {\"x\": {\"shape\": [\"T\", 8]}},"
    " \"weights\": {\"w\": {\"shape\": [8], \"data\": [1, 2, 3, 4, 5, 6, 7, 8]}},"
    " \"graph\": [{\"set\": \"y\", \"op\": \"rmsnorm\", \"args\": [\"x\", \"w\"], \"attrs\": {\"eps\": 1e-5}},"
    " {\"output\": \"y\", \"value\": \"y\"}]}";

void fuzz_seeds(fuzz_take_fn take, void *context) {
  char folder[] = "/tmp/fuzz-inspect-XXXXXX", model[64], artifact[64];
  char *data = NULL;
  size_t size = 0;
  quern_error error = {0};
  qn_diag diag = {0};
  fuzz_require(mkdtemp(folder) != NULL, "no folder");
  snprintf(model, sizeof model, "%s/small.json", folder);
  snprintf(artifact, sizeof artifact, "%s/small.qn", folder);
  FILE *file = fopen(model, "w");
  fuzz_require(file != NULL && fputs(graph, file) >= 0 && fclose(file) == 0, "no file");
  quern_compile_options options = {.size = sizeof options, .tuning_db = "none", .target = "x86-64-v2"};
  fuzz_require(quern_compile(model, artifact, &options, &error) == 0, error.text);
  qn_status status = qn_file_read(artifact, QN_TEXT_MAX, qn_allocator_default(), &data, &size, &diag);
  fuzz_require(status == QN_OK, diag.text);
  take(context, data, size);
  qn_free(qn_allocator_default(), data, size + 1);
  unlink(model);
  unlink(artifact);
  rmdir(folder);
}

static void repair(uint8_t *data, size_t size) {
  uint64_t file_size = size;
  if (size >= sizeof(qn_art_header)) memcpy(data + offsetof(qn_art_header, file_size), &file_size, sizeof file_size);
  qn_test_artifact_rehash(data, size);
}

static const char *const words[] = {"f32", "[T, ", "kernel ", "for ", "parallel", "99999999999999999999", "-1", "rows", NULL};

QN_FUZZ_MAIN_WITH(.words = words, .runs = 2000, .sparse = true, .repair = repair)
