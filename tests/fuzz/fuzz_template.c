// Fuzzes templates and graphs in JSON: any text gives an error that names the file, or a graph (verified when it is
// made).
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/import/gguf_source.h"
#include "frontend/import/import.h"
#include "frontend/import/instantiate.h"
#include "runtime/base/file.h"
#include "tests/support/fuzz.h"

static qn_status make_graph(qn_template *t, qn_arena *arena, qn_diag *diag) {
  qn_model_source source = qn_gguf_source(NULL, "fuzz.json", t->name);
  qn_instantiate_options options = {.kv_dtype = QN_DTYPE_F16, .max_values = {0, 8, 2, 3, 1, 3}};
  qn_binding binding;
  qn_graph *graph;
  qn_status status = qn_binding_init(&binding, t, &source, arena, diag);
  if (status == QN_OK) status = qn_instantiate(&binding, &options, arena, &graph, diag);
  qn_binding_deinit(&binding);
  return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  qn_arena arena;
  qn_template t;
  qn_diag diag = {0};
  char *text = malloc(size + 1);
  fuzz_require(text != NULL, "out of memory");
  memcpy(text, data, size);
  text[size] = '\0';
  qn_arena_init(&arena, qn_allocator_default());
  qn_status status = qn_template_parse(&t, "fuzz.json", text, size, qn_builtin_template_text, &arena, &diag);
  free(text);
  if (status == QN_OK) status = make_graph(&t, &arena, &diag);
  if (status != QN_OK) {
    fuzz_require(diag.status == status && strstr(diag.text, ".json: ") != NULL, "an error does not name the file");
    fuzz_require(status != QN_ERR_INTERNAL && status != QN_ERR_ARGUMENT, "an odd status");
  }
  qn_template_deinit(&t);
  qn_arena_deinit(&arena);
  return 0;
}

static const char graph_seed[] =
    "{\"quern_graph\": 1, \"name\": \"g\", \"params\": {\"n\": {\"value\": 2, \"max\": 9}, \"m\": {\"default\": \"n * "
    "4\"},"
    " \"k\": {\"kind\": \"text\", \"value\": \"halves\"}}, \"inputs\": {\"x\": {\"shape\": [\"T\", 8]}},"
    " \"weights\": {\"w\": {\"shape\": [8], \"data\": [1, 2, 3, 4, 5, 6, 7, 8]}, \"o\": {\"gguf\": \"b.{i}\", "
    "\"shape\": [\"m\"],"
    " \"optional\": true}, \"p\": {\"shape\": [2, 8], \"base64\": "
    "\"AACAPwAAgD8AAIA/AACAPwAAgD8AAIA/AACAPwAAgD8AAIA/AACAPwAAgD8AAIA/AACAPwAAgD8AAIA/AACAPw==\"}},"
    " \"graph\": [{\"set\": \"y\", \"op\": \"rmsnorm\", \"args\": [\"x\", \"w\"], \"attrs\": {\"eps\": \"1 / (n + "
    "8)\"}},"
    " {\"set\": \"a\", \"op\": \"rope_table\", \"args\": [\"pos\"], \"attrs\": {\"dims\": 2, \"theta\": 100}},"
    " {\"repeat\": \"n\", \"index\": \"i\", \"label\": \"layer\", \"body\": ["
    " {\"set\": \"h\", \"op\": \"split_heads\", \"args\": [\"y\"], \"attrs\": {\"heads\": \"n\"}},"
    " {\"set\": \"h\", \"op\": \"rope\", \"args\": [\"h\", \"a\"], \"attrs\": {\"kind\": \"{k}\"}},"
    " {\"set\": \"c\", \"op\": \"cache\", \"attrs\": {\"kind\": \"k\", \"index\": \"i\"}, \"shape\": [\"G\", 2, \"m / "
    "2\", 64], \"dtype\": \"kv\"},"
    " {\"set\": \"c\", \"op\": \"kv_write\", \"args\": [\"c\", \"h\", \"pos\", \"seq\", \"block_table\"], \"attrs\": "
    "{\"kind\": \"k\"}},"
    " {\"set\": \"h\", \"op\": \"merge_heads\", \"args\": [\"h\"]},"
    " {\"if\": \"has(o) || i % 2 == 1\", \"then\": [{\"set\": \"y\", \"op\": \"add\", \"args\": [\"y\", \"o|w\"]}],"
    " \"else\": [{\"set\": \"y\", \"op\": \"mul\", \"args\": [\"h\", \"= sqrt(m)\"]}]}]},"
    " {\"set\": \"y\", \"op\": \"matmul\", \"args\": [\"y\", \"p\"], \"shape\": [\"T\", 2]}, {\"output\": \"y\", "
    "\"value\": \"y\"}]}";

void fuzz_seeds(fuzz_take_fn take, void *context) {
  take(context, graph_seed, strlen(graph_seed));
  for (size_t i = 0; i < qn_builtin_template_count; i++)
    take(context, qn_builtin_templates[i].text, strlen(qn_builtin_templates[i].text));
}

static const char *const words[] = {"0",       "-1",        "1e999",       "99999999999999999999", "null",
                                    "true",    "\"\"",      "\"i\"",       "\"n / 0\"",            "[]",
                                    "{}",      "\"T\"",     "\"{i}\"",     "\"y\"",                "\"x\"",
                                    "64",      "\"m\"",     "\"(((((\"",   "4096",                 "\"w|o?\"",
                                    "\"\\u0000\"", "2.5",   "\"1 ? 2 : n\"", "\"64P\"",            NULL};

QN_FUZZ_MAIN_WITH(.words = words, .runs = 300, .json = true)
