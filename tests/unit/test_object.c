// Object files: what is linked from them gives the bits that the JIT gives, by one thread and with loops done in parts;
// their headers; what they refuse when they run, and when they are made.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "runtime/cpu_features.h"
#include "tests/support/built_graph.h"

enum { WIDTH = 33, HIDDEN = 45, FIELDS = 32 };

typedef int (*run_fn)(const void *args);
typedef void (*part_fn)(void *work, int64_t begin, int64_t end);

// A linked object and the struct of its arguments, all of 8 bytes, by the names in its header.
typedef struct linked {
  void *library;
  run_fn run;
  char *header;  // owned
  char names[FIELDS][64];
  size_t count;
  union {
    const void *pointer;
    int64_t number;
    void (*function)(void *context, part_fn part, void *work, int64_t count);
  } args[FIELDS];
} linked;

static char *read_file(const char *path) {
  FILE *file = fopen(path, "rb");
  ck_assert_msg(file != NULL, "%s", path);
  char *text = calloc(1, 1 << 16);
  size_t length = fread(text, 1, (1 << 16) - 1, file);
  fclose(file);
  text[length] = '\0';
  return text;
}

// The fields of the struct, in order: the word before each ';' of its lines.
static void read_fields(linked *l) {
  char *at = strstr(l->header, "_args {");
  ck_assert_ptr_nonnull(at);
  while ((at = strchr(at, '\n')) != NULL && at[1] != '}') {
    char *end = strchr(++at, ';'), *begin = end;
    ck_assert(end != NULL && l->count < FIELDS);
    while (begin[-1] != ' ' && begin[-1] != '*') begin--;
    snprintf(l->names[l->count++], sizeof l->names[0], "%.*s", (int)(end - begin), begin);
  }
}

// Links "NAME.o", whose functions begin with `prefix`, and opens it.
static void link_object(linked *l, const char *name, const char *prefix) {
  char command[1024], object[256], library[256], header[256], symbol[64];
  const char *cc = getenv("QUERN_CC");
  snprintf(object, sizeof object, "%s/%s.o", qn_test_temp_dir(), name);
  snprintf(library, sizeof library, "%s/%s.so", qn_test_temp_dir(), name);
  snprintf(header, sizeof header, "%s/%s.h", qn_test_temp_dir(), name);
  snprintf(command, sizeof command, "%s -shared -nostartfiles -Wl,-z,defs -o '%s' '%s' -lc", cc ? cc : "cc", library,
           object);
  ck_assert_int_eq(system(command), 0);
  *l = (linked){.library = dlopen(library, RTLD_NOW | RTLD_LOCAL), .header = read_file(header)};
  ck_assert_msg(l->library != NULL, "%s", dlerror());
  snprintf(symbol, sizeof symbol, "%s_run", prefix);
  void *address = dlsym(l->library, symbol);
  ck_assert_ptr_nonnull(address);
  memcpy(&l->run, &address, sizeof address);
  read_fields(l);
}

static void unlink_object(linked *l) {
  dlclose(l->library);
  free(l->header);
}

static size_t field(const linked *l, const char *name) {
  for (size_t i = 0; i < l->count; i++)
    if (strcmp(l->names[i], name) == 0) return i;
  ck_abort_msg("no field %s in %s", name, l->header);
}

// The number of a #define in the header.
static long defined(const linked *l, const char *name) {
  char line[96];
  snprintf(line, sizeof line, "#define %s ", name);
  const char *at = strstr(l->header, line);
  ck_assert_msg(at != NULL, "no %s in %s", name, l->header);
  return strtol(at + strlen(line), NULL, 10);
}

// The host's threads: parts of unlike sizes, the last ones first.
static int parts_done;
static void in_parts(void *context, part_fn part, void *work, int64_t count) {
  ck_assert_ptr_eq(context, &parts_done);
  int64_t middle = count / 3;
  part(work, middle, count);
  if (middle > 0) part(work, 0, middle);
  parts_done++;
}

// Runs with one thread's loops and in parts: the same values, which are left in `out`.
static void run_both(linked *l, const char *output, float *out, size_t bytes) {
  float *again = calloc(1, bytes);
  l->args[field(l, output)].pointer = out;
  l->args[field(l, "parallel")].function = NULL;
  ck_assert_int_eq(l->run(l->args), 0);
  l->args[field(l, output)].pointer = again;
  l->args[field(l, "parallel")].function = in_parts;
  l->args[field(l, "parallel_context")].pointer = &parts_done;
  parts_done = 0;
  ck_assert_int_eq(l->run(l->args), 0);
  ck_assert_int_gt(parts_done, 0);
  ck_assert_mem_eq(again, out, bytes);
  free(again);
}

static void *scratch_of(const linked *l, const char *name) {
  size_t bytes = ((size_t)defined(l, name) + 64) / 64 * 64;
  void *memory = aligned_alloc(64, bytes);
  memset(memory, 0xFF, bytes);  // NaNs, which nothing may read
  return memory;
}

// What the JIT makes of the input x.
static void run_jit(const qn_built *b, quern_model *model, int64_t rows, float *y, size_t bytes) {
  quern_runner *runner = NULL;
  OK(quern_runner_create(model, QN_RUNNER(.threads = 1), &runner, error));
  qn_built_bind(runner, b, "x");
  OK(quern_runner_bind_output(runner, "y", y, bytes, error));
  OK(quern_runner_run(runner, QN_SIZES(.tokens = rows), error));
  quern_runner_destroy(runner);
}

static void try_mlp(const char *format, int width, const char *weights) {
  qn_built b;
  linked l;
  float want[QN_MLP_ROWS * 64], got[QN_MLP_ROWS * 64] = {0};
  quern_object_options how = {.size = sizeof how, .name = "mlp", .weights_path = weights};
  quern_model *model = NULL;
  qn_built_mlp(&b, format, width, HIDDEN);
  OK(quern_graph_jit(b.graph, QN_COMPILE(.threads = 1), &model, error));
  OK(quern_graph_object(b.graph, qn_test_temp_path("m.o"), &how, QN_COMPILE(.threads = 1), error));
  link_object(&l, "m", "mlp");
  void *scratch = scratch_of(&l, "MLP_SCRATCH_BYTES"), *file = NULL;
  l.args[field(&l, "in_x")].pointer = qn_built_find(&b, "x")->values;
  l.args[field(&l, "scratch")].pointer = scratch;
  if (weights) {
    size_t size = (size_t)defined(&l, "MLP_WEIGHTS_BYTES");
    FILE *from = fopen(weights, "rb");
    file = aligned_alloc(64, size);
    ck_assert(from && fread(file, 1, size, from) == size && fgetc(from) == EOF);
    fclose(from);
    l.args[field(&l, "weights")].pointer = file;
  }
  for (int64_t rows = 1; rows <= QN_MLP_ROWS; rows += 2) {
    size_t bytes = (size_t)rows * (size_t)width * sizeof(float);
    run_jit(&b, model, rows, want, sizeof want);
    l.args[field(&l, "tokens")].number = rows;
    run_both(&l, "out_y", got, bytes);
    ck_assert_mem_eq(got, want, bytes);
  }
  if (weights) {
    ((char *)file)[8] ^= 1;  // of its hash
    ck_assert_int_eq(l.run(l.args), QUERN_ERR_FORMAT);
    l.args[field(&l, "weights")].pointer = NULL;
    ck_assert_int_eq(l.run(l.args), QUERN_ERR_ARGUMENT);
  }
  free(file);
  free(scratch);
  unlink_object(&l);
  quern_model_close(model);
  qn_built_deinit(&b);
}

START_TEST(weights_within) {
  try_mlp(NULL, WIDTH, NULL);
  try_mlp("q4_0", 64, NULL);
}
END_TEST
START_TEST(weights_in_a_file) { try_mlp("q8_0", 64, qn_test_temp_path("m.weights")); }
END_TEST

START_TEST(what_a_call_refuses) {
  qn_built b;
  linked l;
  float y[QN_MLP_ROWS * WIDTH];
  qn_built_mlp(&b, NULL, WIDTH, HIDDEN);
  OK(quern_graph_object(b.graph, qn_test_temp_path("r.o"), NULL, QN_COMPILE(.threads = 1), error));
  link_object(&l, "r", "gated_mlp");
  void *scratch = scratch_of(&l, "GATED_MLP_SCRATCH_BYTES");
  ck_assert_int_eq(defined(&l, "GATED_MLP_MAX_TOKENS"), 256);
  ck_assert_int_eq(l.run(NULL), QUERN_ERR_ARGUMENT);
  ck_assert_int_eq(l.run(l.args), QUERN_ERR_ARGUMENT);
  l.args[field(&l, "in_x")].pointer = qn_built_find(&b, "x")->values;
  ck_assert_int_eq(l.run(l.args), QUERN_ERR_ARGUMENT);
  l.args[field(&l, "scratch")].pointer = (char *)scratch + 4;
  ck_assert_int_eq(l.run(l.args), QUERN_ERR_ARGUMENT);
  l.args[field(&l, "scratch")].pointer = scratch;
  ck_assert_int_eq(l.run(l.args), 0);  // no rows, and nobody wants them
  l.args[field(&l, "tokens")].number = 257;
  ck_assert_int_eq(l.run(l.args), QUERN_ERR_LIMIT);
  l.args[field(&l, "tokens")].number = -1;
  ck_assert_int_eq(l.run(l.args), QUERN_ERR_LIMIT);
  l.args[field(&l, "tokens")].number = 2;
  ck_assert_int_eq(l.run(l.args), 0);
  l.args[field(&l, "out_y")].pointer = y;
  ck_assert_int_eq(l.run(l.args), 0);
  qn_built_check(&b, "y", y, QN_SIZES(.tokens = 2), 2e-6);
  free(scratch);
  unlink_object(&l);
  if (qn_cpu_arch() == 0 && !qn_cpu_has("avx512f")) {
    OK(quern_graph_object(b.graph, qn_test_temp_path("f.o"), NULL, QN_COMPILE(.target = "x86-64-v4"), error));
    link_object(&l, "f", "gated_mlp");
    l.args[field(&l, "in_x")].pointer = l.args[field(&l, "scratch")].pointer = y;
    ck_assert_int_eq(l.run(l.args), QUERN_ERR_TARGET);
    unlink_object(&l);
  }
  qn_built_deinit(&b);
}
END_TEST

START_TEST(caches_of_the_host) {
  qn_built b;
  linked l;
  float y[QN_ATTENTION_TOKENS * QN_ATTENTION_QUERY];
  static const char *const inputs[] = {"q", "k", "v", "pos", "seq", "block_table"};
  qn_built_attention(&b);
  OK(quern_graph_object(b.graph, qn_test_temp_path("a.o"), NULL, QN_COMPILE(.threads = 1), error));
  link_object(&l, "a", "attention");
  void *scratch = scratch_of(&l, "ATTENTION_SCRATCH_BYTES");
  void *keys = aligned_alloc(64, 2 * 2 * 16 * 64 * 4), *values = aligned_alloc(64, 2 * 2 * 16 * 64 * 4);
  memset(keys, 0xFF, 2 * 2 * 16 * 64 * 4), memset(values, 0xFF, 2 * 2 * 16 * 64 * 4);
  for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++) {
    char name[32];
    const qn_built_tensor *t = qn_built_find(&b, inputs[i]);
    snprintf(name, sizeof name, "in_%s", inputs[i]);
    l.args[field(&l, name)].pointer = t->ids ? (const void *)t->ids : t->values;
  }
  l.args[field(&l, "cache_k_0")].pointer = keys, l.args[field(&l, "scratch")].pointer = scratch;
  l.args[field(&l, "tokens")].number = QN_ATTENTION_TOKENS, l.args[field(&l, "pages")].number = 2;
  l.args[field(&l, "sequences")].number = 1, l.args[field(&l, "pool_pages")].number = 2;
  ck_assert_int_eq(l.run(l.args), QUERN_ERR_ARGUMENT);
  l.args[field(&l, "cache_v_0")].pointer = values;
  run_both(&l, "out_y", y, sizeof y);
  qn_built_check(&b, "y", y, QN_SIZES(.tokens = QN_ATTENTION_TOKENS, .pages = 2, .sequences = 1, .pool_pages = 2),
                 1e-5);
  free(keys), free(values), free(scratch);
  unlink_object(&l);
  qn_built_deinit(&b);
}
END_TEST

// A whole language model: the logits of a session.
START_TEST(a_language_model) {
  enum { COUNT = 5, MOST = 8 };
  const char *nano = qn_test_source("models/nano/nano.gguf");
  const quern_compile_options *how = QN_COMPILE(.context_tokens = 64, .chunk_tokens = MOST);
  const quern_object_options name = {.size = sizeof name, .name = "nano"};
  int32_t tokens[COUNT], pos[COUNT], seq[COUNT] = {0}, rows[1] = {COUNT - 1}, table[1] = {0};
  quern_model *model = NULL;
  quern_session *session = NULL;
  const float *want = NULL;
  linked l;
  for (int i = 0; i < COUNT; i++) tokens[i] = 7 * i + 3, pos[i] = i;
  OK(quern_jit(nano, how, &model, error));
  OK(quern_session_create(model, NULL, &session, error));
  OK(quern_session_eval(session, 0, tokens, COUNT, &want, error));
  OK(quern_compile_object(nano, qn_test_temp_path("n.o"), &name, how, error));
  link_object(&l, "n", "nano");
  void *scratch = scratch_of(&l, "NANO_SCRATCH_BYTES"), *pools[64] = {0};
  size_t pool_count = 0;
  for (size_t i = 0; i < l.count; i++) {
    if (strncmp(l.names[i], "cache_", strlen("cache_")) != 0) continue;
    ck_assert_uint_lt(pool_count, 64);
    l.args[i].pointer = pools[pool_count++] = aligned_alloc(64, 1 << 20);
  }
  const void *inputs[] = {tokens, pos, seq, rows, table};
  static const char *const names[] = {"in_tokens", "in_pos", "in_seq", "in_rows", "in_block_table"};
  for (size_t i = 0; i < 5; i++) l.args[field(&l, names[i])].pointer = inputs[i];
  l.args[field(&l, "scratch")].pointer = scratch;
  l.args[field(&l, "tokens")].number = COUNT;
  static const char *const ones[] = {"rows", "pages", "sequences", "pool_pages"};
  for (size_t i = 0; i < 4; i++) l.args[field(&l, ones[i])].number = 1;
  size_t bytes = (size_t)quern_model_vocab_size(model) * sizeof(float);
  float *got = calloc(1, bytes);
  run_both(&l, "out_logits", got, bytes);
  ck_assert_mem_eq(got, want, bytes);
  for (size_t i = 0; i < pool_count; i++) free(pools[i]);
  free(got), free(scratch);
  unlink_object(&l);
  quern_session_destroy(session);
  quern_model_close(model);
}
END_TEST

START_TEST(what_is_refused) {
  qn_built b;
  const char *path = qn_test_temp_path("x.o"), *text = qn_test_temp_path("text");
  quern_object_options how = {.size = sizeof how};
  qn_built_mlp(&b, NULL, WIDTH, HIDDEN);
  how.name = "1st";
  FAILS(QUERN_ERR_ARGUMENT, "name: got '1st', want a C identifier",
        quern_graph_object(b.graph, path, &how, QN_COMPILE(.threads = 1), error));
  how.name = "two words";
  FAILS(QUERN_ERR_ARGUMENT, "want a C identifier",
        quern_graph_object(b.graph, path, &how, QN_COMPILE(.threads = 1), error));
  how.name = NULL;
  FAILS(QUERN_ERR_ARGUMENT, "an object file has code for CPUs alone",
        quern_graph_object(b.graph, path, &how, QN_COMPILE(.target = "cuda:sm_90"), error));
  FAILS(QUERN_ERR_ARGUMENT, "got 'x86-64-v2,x86-64-v3', want one",
        quern_graph_object(b.graph, path, &how, QN_COMPILE(.target = "x86-64-v2,x86-64-v3"), error));
  FAILS(QUERN_ERR_ARGUMENT, "an object file is not signed",
        quern_graph_object(b.graph, path, &how, QN_COMPILE(.sign_key = "key.pem"), error));
  FAILS(QUERN_ERR_ARGUMENT, "got an empty name",
        quern_graph_object(b.graph, "", &how, QN_COMPILE(.threads = 1), error));
  FAILS(QUERN_ERR_IO, "none/x.o",
        quern_graph_object(b.graph, qn_test_temp_path("none/x.o"), &how, QN_COMPILE(.threads = 1), error));
  qn_test_write_file(text, "precious", 8);
  FAILS(QUERN_ERR_ARGUMENT, "is there already and not an object file",
        quern_graph_object(b.graph, text, &how, QN_COMPILE(.threads = 1), error));
  how.header_path = text;
  FAILS(QUERN_ERR_ARGUMENT, "not a header that quern made",
        quern_graph_object(b.graph, path, &how, QN_COMPILE(.threads = 1), error));
  how.header_path = NULL;
  how.weights_path = text;
  FAILS(QUERN_ERR_ARGUMENT, "not a file of weights",
        quern_graph_object(b.graph, path, &how, QN_COMPILE(.threads = 1), error));
  how.size = 3;
  FAILS(QUERN_ERR_ARGUMENT, "got size 3", quern_graph_object(b.graph, path, &how, QN_COMPILE(.threads = 1), error));
  FAILS(QUERN_ERR_IO, "none.gguf", quern_compile_object(qn_test_temp_path("none.gguf"), path, NULL, NULL, error));
  FILE *none = fopen(path, "rb");
  ck_assert_ptr_null(none);
  qn_built_deinit(&b);
  // Names that are one in C.
  qn_built_init(&b, "2 names", NULL);
  quern_value one = qn_built_input(&b, "x.1", "f32[T,4]"), two = qn_built_input(&b, "x-1", "f32[T,4]");
  OK(quern_graph_output(b.graph, "y", qn_built_apply(&b, "add", one, two), error));
  FAILS(QUERN_ERR_UNSUPPORTED, "both 'x_1' in C",
        quern_graph_object(b.graph, path, NULL, QN_COMPILE(.threads = 1), error));
  qn_built_deinit(&b);
}
END_TEST

// The size is looked at before the values.
START_TEST(too_many_weights) {
  enum { K = 1024, N = 491520 + 16 };
  const size_t bytes = (size_t)N * K * sizeof(float);
  qn_built b;
  quern_object_options how = {.size = sizeof how};
  void *data = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ck_assert(data != MAP_FAILED);
  qn_built_init(&b, "large", NULL);
  quern_value x = qn_built_input(&b, "x", "f32[T,1024]");
  quern_value w = quern_graph_weight(b.graph, "w", "f32[491536,1024]", data, bytes, QUERN_BORROW, NULL);
  OK(quern_graph_output(b.graph, "y", qn_built_apply(&b, "matmul", x, w), error));
  FAILS(QUERN_ERR_LIMIT, "want at most 2013265920 in an object; put them into a file",
        quern_graph_object(b.graph, qn_test_temp_path("l.o"), &how, QN_COMPILE(.threads = 1), error));
  qn_built_deinit(&b);
  munmap(data, bytes);
}
END_TEST

QN_CASE(runs, weights_within, weights_in_a_file, what_a_call_refuses, caches_of_the_host, a_language_model)
QN_CASE(refusals, what_is_refused, too_many_weights)
QN_TEST_MAIN(runs, refusals)
