// Fuzzes templates and graphs in JSON: any text gives an error that names the file, or a graph (verified when it is
// made). With libFuzzer (clang -DQN_LIBFUZZER -fsanitize=fuzzer,address,undefined) the engine drives it; built plainly
// it mutates the built-in templates, a graph, and files that are named, by a fixed random sequence: fuzz_template [-n
// RUNS] [-s SEED] [FILE...]
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/import/gguf_source.h"
#include "frontend/import/import.h"
#include "frontend/import/instantiate.h"
#include "runtime/base/file.h"
#include "tests/support/fuzz.h"

static void require(bool condition, const char *what) {
  if (condition) return;
  fprintf(stderr, "fuzz_template: %s\n", what);
  abort();
}

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
  require(text != NULL, "out of memory");
  memcpy(text, data, size);
  text[size] = '\0';
  qn_arena_init(&arena, qn_allocator_default());
  qn_status status = qn_template_parse(&t, "fuzz.json", text, size, qn_builtin_template_text, &arena, &diag);
  free(text);
  if (status == QN_OK) status = make_graph(&t, &arena, &diag);
  if (status != QN_OK) {
    require(diag.status == status && strstr(diag.text, ".json: ") != NULL, "an error does not name the file");
    require(status != QN_ERR_INTERNAL && status != QN_ERR_ARGUMENT, "an odd status");
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

#ifdef QN_LIBFUZZER
QN_FUZZ_MAIN(NULL, 0)
#else

static uint64_t random_state = 1;

static uint64_t random_below(uint64_t limit) {
  random_state ^= random_state >> 12;
  random_state ^= random_state << 25;
  random_state ^= random_state >> 27;
  return (random_state * 0x2545f4914f6cdd1du >> 16) % limit;
}

// Makes `with` of text [at, at + length) in place of what is there; *size changes. The buffer has room.
static void replace(char *text, size_t *size, size_t at, size_t length, const char *with, size_t with_length) {
  memmove(text + at + with_length, text + at + length, *size - at - length);
  memcpy(text + at, with, with_length);
  *size += with_length - length;
}

// The end of the text, number or word that begins at `at`; `at` itself where none does.
static size_t token_end(const char *text, size_t size, size_t at) {
  size_t end = at;
  if (text[at] == '"') {
    for (end++; end < size && text[end] != '"'; end++) end += text[end] == '\\';
    return end < size ? end + 1 : at;
  }
  while (end < size && strchr("+-.0123456789eEaflnrstu", text[end]) != NULL && text[end] != '\0') end++;
  return end;
}

// A token at random, which the JSON stays well-formed without; false when there is none.
static bool pick_token(const char *text, size_t size, size_t *out_at, size_t *out_end) {
  uint64_t seen = 0;
  for (size_t at = 0; at < size;) {
    size_t end = token_end(text, size, at);
    if (end > at && random_below(++seen) == 0) {
      *out_at = at;
      *out_end = end;
    }
    at = end > at ? end : at + 1;
  }
  return seen > 0;
}

// A token becomes another of the text, or one of a list.
static size_t mutate_token(char *text, size_t size) {
  static const char *const words[] = {"0",
                                      "-1",
                                      "1e999",
                                      "99999999999999999999",
                                      "null",
                                      "true",
                                      "\"\"",
                                      "\"i\"",
                                      "\"n / 0\"",
                                      "[]",
                                      "{}",
                                      "\"T\"",
                                      "\"{i}\"",
                                      "\"y\"",
                                      "\"x\"",
                                      "64",
                                      "\"m\"",
                                      "\"(((((\"",
                                      "4096",
                                      "\"w|o?\"",
                                      "\"\\u0000\"",
                                      "2.5",
                                      "\"1 ? 2 : n\"",
                                      "\"64P\""};
  size_t at = 0, end = 0, from = 0, from_end = 0;
  if (!pick_token(text, size, &at, &end)) return size;
  char other[128];
  const char *word = words[random_below(QN_COUNT(words))];
  if (random_below(2) != 0 && pick_token(text, size, &from, &from_end) && from_end - from < sizeof other) {
    memcpy(other, text + from, from_end - from);
    other[from_end - from] = '\0';
    word = other;
  }
  replace(text, &size, at, end - at, word, strlen(word));
  return size;
}

// Characters changed, pieces copied or lost.
static size_t mutate_bytes(char *text, size_t size) {
  char piece[64];
  size_t at = random_below(size), from = random_below(size), length = 1 + random_below(sizeof piece - 1);
  size_t most = size - (at > from ? at : from);
  if (length > most) length = most;
  memcpy(piece, text + from, length);
  switch (random_below(3)) {
    case 0: text[at] = (char)(random_below(2) != 0 ? 32 + random_below(95) : random_below(256)); break;
    case 1: replace(text, &size, at, 0, piece, length); break;
    default:
      if (size > length) replace(text, &size, at, length, "", 0);
      break;
  }
  return size;
}

// Changes 1 to 3 places; the buffer has room for them.
static size_t mutate(char *text, size_t size) {
  for (uint64_t n = 1 + random_below(3); n > 0; n--) {
    size = random_below(8) != 0 ? mutate_token(text, size) : mutate_bytes(text, size);
    text[size] = '\0';
  }
  return size;
}

static void fuzz_seed(const char *seed, size_t size, uint64_t runs) {
  LLVMFuzzerTestOneInput((const uint8_t *)seed, size);
  char *text = malloc(size + 1024);
  require(text != NULL, "out of memory");
  for (uint64_t run = 0; run < runs && size > 0; run++) {
    memcpy(text, seed, size);
    text[size] = '\0';
    size_t cut = mutate(text, size);
    LLVMFuzzerTestOneInput((const uint8_t *)text, cut);
  }
  free(text);
}

int main(int argc, char **argv) {
  uint64_t runs = 10000;
  int first_file = 1;
  for (; first_file + 1 < argc && argv[first_file][0] == '-'; first_file += 2) {
    uint64_t number = strtoull(argv[first_file + 1], NULL, 10);
    if (strcmp(argv[first_file], "-n") == 0) runs = number;
    if (strcmp(argv[first_file], "-s") == 0) random_state = number | 1;
  }
  fuzz_seed(graph_seed, strlen(graph_seed), runs);
  for (size_t i = 0; i < qn_builtin_template_count; i++) {
    fuzz_seed(qn_builtin_templates[i].text, strlen(qn_builtin_templates[i].text), runs / 10);
  }
  for (int i = first_file; i < argc; i++) {
    char *text;
    size_t size;
    require(qn_file_read(argv[i], QN_TEXT_MAX, qn_allocator_default(), &text, &size, NULL) == QN_OK,
            "a file that was named cannot be read");
    fuzz_seed(text, size, runs / 10);
    qn_free(qn_allocator_default(), text, size + 1);
  }
  return 0;
}

#endif
