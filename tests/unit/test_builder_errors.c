// Every error of graphs built in code: of building, compiling and running them, and of memory that runs out.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/support/built_graph.h"

// A graph to spoil: an input x of f32[T,8], a weight w of f32[4,8] and a vector v of 8.
typedef struct scene {
  quern_graph *graph;
  quern_value x, w, v;
} scene;

static float numbers[64];

static scene set_scene(void) {
  scene s = {0};
  OK(quern_graph_create("scene", NULL, &s.graph, error));
  s.x = quern_graph_input(s.graph, "x", "f32[T,8]", NULL);
  s.w = quern_graph_weight(s.graph, "w", "f32[4,8]", numbers, 128, QUERN_COPY, NULL);
  s.v = quern_graph_weight(s.graph, "v", "f16[8]", numbers, 16, QUERN_BORROW, NULL);
  ck_assert(s.x && s.w && s.v);
  return s;
}

// The call gives no value and this error, which stays with the graph: whatever comes after it tells the same.
#define SPOILS(want, needle, call)                                                                                    \
  do {                                                                                                                \
    scene s = set_scene();                                                                                            \
    quern_error error_ = {.code = -1};                                                                                \
    quern_error *error = &error_;                                                                                     \
    ck_assert_msg((call) == 0, "%s gives a value", #call);                                                            \
    ck_assert_msg(error_.code == (want) && strstr(error_.text, needle) && strstr(error_.text, "scene"), "%s: %d: %s", \
                  #call, error_.code, error_.text);                                                                   \
    stays(&s, &error_);                                                                                               \
  } while (0)

static void stays(scene *s, const quern_error *first) {
  quern_error error;
  quern_model *model = NULL;
  char type[16], *text = NULL;
  ck_assert_uint_eq(quern_graph_apply(s->graph, "relu", s->x, 0, &error), 0);
  ck_assert_str_eq(error.text, first->text);
  ck_assert_uint_eq(quern_graph_constant(s->graph, 1, &error), 0);
  ck_assert_uint_eq(quern_graph_input(s->graph, "z", "f32[T,1]", &error), 0);
  ck_assert_uint_eq(quern_graph_weight(s->graph, "z", "f32[1]", numbers, 4, QUERN_COPY, NULL), 0);
  ck_assert_int_eq(quern_graph_output(s->graph, "y", s->x, &error), first->code);
  ck_assert_int_eq(quern_graph_type(s->graph, s->x, type, sizeof type, &error), first->code);
  ck_assert_int_eq(quern_graph_text(s->graph, &text, &error), first->code);
  ck_assert_ptr_null(text);
  ck_assert_int_eq(quern_graph_jit(s->graph, NULL, &model, &error), first->code);
  ck_assert_str_eq(error.text, first->text);
  ck_assert_ptr_null(model);
  quern_graph_destroy(s->graph);
}

START_TEST(graphs) {
  quern_graph *graph = NULL;
  quern_graph_options options = {.size = sizeof options};
  FAILS(QUERN_ERR_ARGUMENT, "got no name", quern_graph_create(NULL, NULL, &graph, error));
  FAILS(QUERN_ERR_ARGUMENT, "got no name", quern_graph_create("", NULL, &graph, error));
  options.most.tokens = -1;
  FAILS(QUERN_ERR_ARGUMENT, "most.tokens: got -1", quern_graph_create("g", &options, &graph, error));
  options.most = (quern_sizes){.rows = INT64_MAX};
  FAILS(QUERN_ERR_ARGUMENT, "most.rows: got 9223372036854775807", quern_graph_create("g", &options, &graph, error));
  options.most = (quern_sizes){.pages = INT32_MAX};
  FAILS(QUERN_ERR_ARGUMENT, "most.pages", quern_graph_create("g", &options, &graph, error));
  options.most = (quern_sizes){.sequences = 1 << 21};
  FAILS(QUERN_ERR_ARGUMENT, "most.sequences", quern_graph_create("g", &options, &graph, error));
  options.most = (quern_sizes){.pool_pages = -5};
  FAILS(QUERN_ERR_ARGUMENT, "most.pool_pages", quern_graph_create("g", &options, &graph, error));
  options = (quern_graph_options){.size = 2};
  FAILS(QUERN_ERR_ARGUMENT, "got size 2", quern_graph_create("g", &options, &graph, error));
  ck_assert_ptr_null(graph);
  quern_graph_destroy(NULL);
}
END_TEST

START_TEST(inputs_and_weights) {
  SPOILS(QUERN_ERR_ARGUMENT, "input: got no name", quern_graph_input(s.graph, "", "f32[T,1]", error));
  SPOILS(QUERN_ERR_ARGUMENT, "input 'x' is there already", quern_graph_input(s.graph, "x", "f32[T,1]", error));
  SPOILS(QUERN_ERR_ARGUMENT, "y: got the type 'f33[T]'", quern_graph_input(s.graph, "y", "f33[T]", error));
  SPOILS(QUERN_ERR_ARGUMENT, "got the type 'f32[T,4", quern_graph_input(s.graph, "y", "f32[T,4", error));
  SPOILS(QUERN_ERR_ARGUMENT, "got the type 'f32[T] '", quern_graph_input(s.graph, "y", "f32[T] ", error));
  SPOILS(QUERN_ERR_ARGUMENT, "got the type ''", quern_graph_input(s.graph, "y", NULL, error));
  SPOILS(QUERN_ERR_ARGUMENT, "at most 4 dimensions", quern_graph_input(s.graph, "y", "f32[1,1,1,1,1]", error));
  SPOILS(QUERN_ERR_ARGUMENT, "got type f16[T], want f32 or i32", quern_graph_input(s.graph, "y", "f16[T]", error));
  SPOILS(QUERN_ERR_ARGUMENT, "no elements", quern_graph_input(s.graph, "y", "f32[0]", error));
#define WEIGHT(name, type, bytes, how) quern_graph_weight(s.graph, name, type, numbers, bytes, how, error)
  SPOILS(QUERN_ERR_ARGUMENT, "weight: got no name", WEIGHT(NULL, "f32[4]", 16, QUERN_COPY));
  SPOILS(QUERN_ERR_ARGUMENT, "weight 'w' is there already", WEIGHT("w", "f32[4]", 16, QUERN_COPY));
  SPOILS(QUERN_ERR_ARGUMENT, "got the type 'x'", WEIGHT("y", "x", 16, QUERN_COPY));
  SPOILS(QUERN_ERR_ARGUMENT, "got type i32[4], want a weight format", WEIGHT("y", "i32[4]", 16, QUERN_COPY));
  SPOILS(QUERN_ERR_ARGUMENT, "got type f32[T,4]", WEIGHT("y", "f32[T,4]", 16, QUERN_COPY));
  SPOILS(QUERN_ERR_ARGUMENT, "got type f32[]", WEIGHT("y", "f32[]", 4, QUERN_COPY));
  SPOILS(QUERN_ERR_ARGUMENT, "whole blocks", WEIGHT("y", "q4_0[2,33]", 36, QUERN_COPY));
  SPOILS(QUERN_ERR_ARGUMENT, "whole blocks", WEIGHT("y", "f32[4611686018427387904,8]", 8, QUERN_COPY));
  SPOILS(QUERN_ERR_ARGUMENT, "got 17 bytes, want 16", WEIGHT("y", "f32[4]", 17, QUERN_COPY));
  SPOILS(QUERN_ERR_ARGUMENT, "got 18 bytes, want 36", WEIGHT("y", "q4_0[2,32]", 18, QUERN_BORROW));
  SPOILS(QUERN_ERR_ARGUMENT, "got ownership 7", WEIGHT("y", "f32[4]", 16, (quern_ownership)7));
  SPOILS(QUERN_ERR_ARGUMENT, "got 16 bytes at no address",
         quern_graph_weight(s.graph, "y", "f32[4]", NULL, 16, QUERN_COPY, error));
  SPOILS(QUERN_ERR_ARGUMENT, "constant: got inf", quern_graph_constant(s.graph, HUGE_VAL, error));
  SPOILS(QUERN_ERR_ARGUMENT, "constant: got 1e+300", quern_graph_constant(s.graph, 1e300, error));
}
END_TEST

static quern_value op(scene *s, const char *name, const quern_value *operands, size_t count, const quern_attr *attrs,
                      size_t attr_count, const char *type, quern_error *error) {
  quern_op o = {.size = sizeof o,
                .name = name,
                .operands = operands,
                .operand_count = count,
                .attrs = attrs,
                .attr_count = attr_count,
                .type = type};
  return quern_graph_op(s->graph, &o, error);
}
#define OP(name, operands, attrs, type) op(&s, name, operands, attrs, type, error)
#define EPS                             ATTRS({"eps", 1e-5, NULL})
#define NO_ATTRS                        NULL, 0
#define NONE                            NULL, 0

START_TEST(ops) {
  SPOILS(QUERN_ERR_ARGUMENT, "got the op 'conv', want one of: cache, reshape",
         OP("conv", OPERANDS(s.x), NO_ATTRS, NULL));
  SPOILS(QUERN_ERR_ARGUMENT, "got the op ''", OP(NULL, OPERANDS(s.x), NO_ATTRS, NULL));
  // What other functions or passes alone make.
  SPOILS(QUERN_ERR_ARGUMENT, "got the op 'param'", OP("param", OPERANDS(s.x), NO_ATTRS, NULL));
  SPOILS(QUERN_ERR_ARGUMENT, "got the op 'quantize'", OP("quantize", OPERANDS(s.x), NO_ATTRS, NULL));
  SPOILS(QUERN_ERR_ARGUMENT, "rmsnorm %4: operand 1: got 77, want a value of this graph",
         OP("rmsnorm", OPERANDS(s.x, 77), EPS, NULL));
  SPOILS(QUERN_ERR_ARGUMENT, "operand 0: got 0", OP("rmsnorm", OPERANDS(0, s.v), EPS, NULL));
  SPOILS(QUERN_ERR_ARGUMENT, "got 9 operands", OP("concat", OPERANDS(1, 1, 1, 1, 1, 1, 1, 1, 1), NO_ATTRS, NULL));
  SPOILS(QUERN_ERR_ARGUMENT, "got 1 operands, want 2", OP("rmsnorm", OPERANDS(s.x), EPS, NULL));
  SPOILS(QUERN_ERR_ARGUMENT, "got no attribute eps", OP("rmsnorm", OPERANDS(s.x, s.v), NO_ATTRS, NULL));
  SPOILS(QUERN_ERR_ARGUMENT, "there is no attribute 'epsilon'",
         OP("rmsnorm", OPERANDS(s.x, s.v), ATTRS({"epsilon", 1, NULL}), NULL));
  SPOILS(QUERN_ERR_ARGUMENT, "there is no attribute ''",
         OP("rmsnorm", OPERANDS(s.x, s.v), ATTRS({NULL, 1, NULL}), NULL));
  SPOILS(QUERN_ERR_ARGUMENT, "attribute theta, which this op does not have",
         OP("rmsnorm", OPERANDS(s.x, s.v), ATTRS({"eps", 1, NULL}, {"theta", 1, NULL}), NULL));
  SPOILS(QUERN_ERR_ARGUMENT, "attribute eps: got a text, want a number",
         OP("rmsnorm", OPERANDS(s.x, s.v), ATTRS({"eps", 0, "small"}), NULL));
  SPOILS(QUERN_ERR_ARGUMENT, "attribute eps: got nan",
         OP("rmsnorm", OPERANDS(s.x, s.v), ATTRS({"eps", NAN, NULL}), NULL));
  SPOILS(QUERN_ERR_ARGUMENT, "attribute kind: got a number, want a text",
         OP("cache", NONE, ATTRS({"kind", 1, NULL}, {"index", 0, NULL}), "f32[G,1,8,64]"));
  SPOILS(QUERN_ERR_ARGUMENT, "attribute heads: got 1.5, want an integer",
         OP("split_heads", OPERANDS(s.x), ATTRS({"heads", 1.5, NULL}), NULL));
  SPOILS(QUERN_ERR_ARGUMENT, "attribute heads: got 1e+12, want an integer",
         OP("split_heads", OPERANDS(s.x), ATTRS({"heads", 1e12, NULL}), NULL));
  SPOILS(QUERN_ERR_ARGUMENT, "attribute heads: got 3, want a divisor",
         OP("split_heads", OPERANDS(s.x), ATTRS({"heads", 3, NULL}), NULL));
  SPOILS(QUERN_ERR_ARGUMENT, "got f32[4,8], want", OP("rmsnorm", OPERANDS(s.x, s.w), EPS, NULL));
  SPOILS(QUERN_ERR_ARGUMENT, "matmul", quern_graph_apply(s.graph, "matmul", s.x, s.v, error));
  SPOILS(QUERN_ERR_ARGUMENT, "got no type, want one", OP("reshape", OPERANDS(s.x), NO_ATTRS, NULL));
  SPOILS(QUERN_ERR_ARGUMENT, "reshape %4: got the type 'f32'", OP("reshape", OPERANDS(s.x), NO_ATTRS, "f32"));
  SPOILS(QUERN_ERR_ARGUMENT, "as many elements", OP("reshape", OPERANDS(s.x), NO_ATTRS, "f32[T,9]"));
  SPOILS(QUERN_ERR_ARGUMENT, "got type f32[T,9], want f32[T,8]", OP("relu", OPERANDS(s.x), NO_ATTRS, "f32[T,9]"));
  scene s = set_scene();
  quern_error error;
  quern_op short_op = {.size = 3, .name = "relu"};
  ck_assert_uint_eq(quern_graph_op(s.graph, &short_op, &error), 0);
  ck_assert_ptr_nonnull(strstr(error.text, "got size 3"));
  quern_graph_destroy(s.graph);
  // What an op is called is the host's choice.
  s = set_scene();
  quern_op named = {.size = sizeof named,
                    .name = "matmul",
                    .operands = (quern_value[]){s.x, s.v},
                    .operand_count = 2,
                    .label = "my product"};
  ck_assert_uint_eq(quern_graph_op(s.graph, &named, &error), 0);
  ck_assert_ptr_nonnull(strstr(error.text, "scene: my product: matmul"));
  quern_graph_destroy(s.graph);
}
END_TEST

START_TEST(outputs_and_texts) {
  scene s = set_scene();
  char type[9], *text = NULL;
  FAILS(QUERN_ERR_ARGUMENT, "got value 99", quern_graph_type(s.graph, 99, type, sizeof type, error));
  FAILS(QUERN_ERR_LIMIT, "got room for 8 bytes, want 9", quern_graph_type(s.graph, s.x, type, 8, error));
  OK(quern_graph_type(s.graph, s.x, type, sizeof type, error));
  ck_assert_str_eq(type, "f32[T,8]");
  OK(quern_graph_type(s.graph, s.v, type, sizeof type, error));
  ck_assert_str_eq(type, "f32[8]");  // a vector, whatever it is kept in
  OK(quern_graph_output(s.graph, "y", s.x, error));
  OK(quern_graph_text(s.graph, &text, error));
  ck_assert_ptr_nonnull(strstr(text, "param {name=\"w\"} : f32[4,8]"));
  free(text);
  ck_assert_ptr_nonnull(strstr(quern_graph_ops(), "rmsnorm: 2 operands, eps: "));
  ck_assert_ptr_nonnull(strstr(quern_graph_ops(), "concat: 1 to 8 operands, layout (may be left out), axis: "));
  ck_assert_ptr_eq(quern_graph_ops(), quern_graph_ops());
  FAILS(QUERN_ERR_ARGUMENT, "output 'y' is there twice", quern_graph_output(s.graph, "y", s.x, error));
  FAILS(QUERN_ERR_ARGUMENT, "output 'y' is there twice", quern_graph_output(s.graph, "z", s.x, error));
  quern_graph_destroy(s.graph);
  s = set_scene();
  FAILS(QUERN_ERR_ARGUMENT, "got no name", quern_graph_output(s.graph, NULL, s.x, error));
  quern_graph_destroy(s.graph);
  s = set_scene();
  FAILS(QUERN_ERR_ARGUMENT, "got value 0", quern_graph_output(s.graph, "y", 0, error));
  quern_graph_destroy(s.graph);
}
END_TEST

START_TEST(compiling) {
  scene s = set_scene();
  quern_model *model = NULL;
  const char *path = qn_test_temp_path("never.qn");
  FAILS(QUERN_ERR_ARGUMENT, "scene: the graph has no output", quern_graph_jit(s.graph, NULL, &model, error));
  OK(quern_graph_output(s.graph, "y", quern_graph_apply(s.graph, "matmul", s.x, s.w, NULL), error));
#define REFUSES(field, ...) \
  FAILS(QUERN_ERR_ARGUMENT, "got the option " field, quern_graph_compile(s.graph, path, QN_COMPILE(__VA_ARGS__), error))
  REFUSES("template_path", .template_path = "llama.json");
  REFUSES("quant", .quant = "q4_0");
  REFUSES("kv_type", .kv_type = "f16");
  REFUSES("context_tokens", .context_tokens = 64);
  REFUSES("chunk_tokens", .chunk_tokens = 64);
  REFUSES("sequences", .sequences = 2);
  REFUSES("all_logits", .all_logits = true);
  REFUSES("guesses", .guesses = true);
  FAILS(QUERN_ERR_ARGUMENT, "kv-evict: got 'old', want one of none, sinks, norm, unlike, heavy, adaptive, hitters, keyformer",
        quern_graph_load(s.graph, QN_COMPILE(.kv_evict = "old"), NULL, &model, error));
  FAILS(QUERN_ERR_ARGUMENT, "got the option kv_type",
        quern_graph_load(s.graph, QN_COMPILE(.kv_type = "f16"), NULL, &model, error));
  FAILS(QUERN_ERR_ARGUMENT, "numeric-mode: got 'int4'",
        quern_graph_jit(s.graph, QN_COMPILE(.numeric_mode = "int4"), &model, error));
  FAILS(QUERN_ERR_ARGUMENT, "z80", quern_graph_jit(s.graph, QN_COMPILE(.target = "z80"), &model, error));
  FAILS(QUERN_ERR_ARGUMENT, "the JIT makes code",
        quern_graph_jit(s.graph, QN_COMPILE(.target = "cuda:sm_90"), &model, error));
  FAILS(QUERN_ERR_ARGUMENT, "got an empty name", quern_graph_compile(s.graph, "", NULL, error));
  ck_assert_ptr_null(model);
  ck_assert_int_ne(setenv("XDG_CACHE_HOME", "/dev/null", 1), -1);
  FAILS(QUERN_ERR_IO, "/dev/null", quern_graph_load(s.graph, QN_COMPILE(.threads = 1), NULL, &model, error));
  quern_graph_destroy(s.graph);
  // A cache that is written has no other reader.
  s = set_scene();
  const quern_attr attrs[] = {{"kind", 0, "k"}, {"index", 0, NULL}};
  quern_value pos = quern_graph_input(s.graph, "pos", "i32[T]", NULL),
              table = quern_graph_input(s.graph, "block_table", "i32[B,P]", NULL),
              cache = op(&s, "cache", NULL, 0, attrs, 2, "f16[G,1,8,64]", NULL),
              heads = op(&s, "split_heads", OPERANDS(s.x), ATTRS({"heads", 1, NULL}), NULL, NULL);
  ck_assert(op(&s, "kv_write", OPERANDS(cache, heads, pos, pos, table), attrs, 1, NULL, NULL) != 0);
  quern_value scores =
      op(&s, "attn_scores", OPERANDS(heads, cache, pos, pos, table), ATTRS({"scale", 1, NULL}), NULL, NULL);
  OK(quern_graph_output(s.graph, "y", scores, error));
  FAILS(QUERN_ERR_ARGUMENT, "2 uses of a cache that kv_write overwrites",
        quern_graph_jit(s.graph, NULL, &model, error));
  quern_graph_destroy(s.graph);
}
END_TEST

START_TEST(running) {
  scene s = set_scene();
  quern_model *model = NULL;
  quern_runner *runner = NULL;
  float x[16] = {0}, y[8];
  OK(quern_graph_output(s.graph, "y", quern_graph_apply(s.graph, "matmul", s.x, s.w, NULL), error));
  OK(quern_graph_jit(s.graph, QN_COMPILE(.threads = 1), &model, error));
  FAILS(QUERN_ERR_ARGUMENT, "got size 1",
        quern_runner_create(model, &(quern_runner_options){.size = 1}, &runner, error));
  FAILS(QUERN_ERR_ARGUMENT, "spin_us: got -2", quern_runner_create(model, QN_RUNNER(.spin_us = -2), &runner, error));
  ck_assert_ptr_null(runner);
  OK(quern_runner_create(model, QN_RUNNER(.threads = 1), &runner, error));
  FAILS(QUERN_ERR_ARGUMENT, "input 'x' is not bound", quern_runner_run(runner, QN_SIZES(.tokens = 2), error));
  FAILS(QUERN_ERR_ARGUMENT, "got input 'z'; the program's inputs are: x",
        quern_runner_bind_input(runner, "z", x, 4, error));
  FAILS(QUERN_ERR_ARGUMENT, "got input ''", quern_runner_bind_input(runner, NULL, x, 4, error));
  FAILS(QUERN_ERR_ARGUMENT, "got no memory", quern_runner_bind_input(runner, "x", NULL, 4, error));
  FAILS(QUERN_ERR_ARGUMENT, "got output 'x'; the program's outputs are: y",
        quern_runner_bind_output(runner, "x", y, sizeof y, error));
  OK(quern_runner_bind_input(runner, "x", x, 63, error));
  FAILS(QUERN_ERR_LIMIT, "input 'x': got 63 bytes, want 64 for T = 2",
        quern_runner_run(runner, QN_SIZES(.tokens = 2), error));
  OK(quern_runner_bind_input(runner, "x", x, 0, error));
  FAILS(QUERN_ERR_LIMIT, "input 'x': got 0 bytes, want 32", quern_runner_run(runner, QN_SIZES(.tokens = 1), error));
  OK(quern_runner_bind_input(runner, "x", x, sizeof x, error));
  OK(quern_runner_bind_output(runner, "y", y, 31, error));
  FAILS(QUERN_ERR_LIMIT, "output 'y': got 31 bytes, want 32 for T = 2",
        quern_runner_run(runner, QN_SIZES(.tokens = 2), error));
  FAILS(QUERN_ERR_LIMIT, "size T: got 257, want 0 to 256", quern_runner_run(runner, QN_SIZES(.tokens = 257), error));
  FAILS(QUERN_ERR_LIMIT, "size T: got -1", quern_runner_run(runner, QN_SIZES(.tokens = -1), error));
  FAILS(QUERN_ERR_ARGUMENT, "sizes: got NULL", quern_runner_run(runner, NULL, error));
  FAILS(QUERN_ERR_LIMIT, "size R: got -1", quern_runner_run(runner, QN_SIZES(.rows = -1), error));
  OK(quern_runner_bind_output(runner, "y", y, 32, error));
  OK(quern_runner_run(runner, QN_SIZES(.tokens = 2), error));
  quern_runner_destroy(runner);
  quern_runner_destroy(NULL);
  quern_model_close(model);
  quern_graph_destroy(s.graph);
}
END_TEST

START_TEST(quantising) {
  float values[64] = {0};
  uint8_t out[64];
  size_t bytes = 1;
  FAILS(QUERN_ERR_ARGUMENT, "q9_z", quern_quantize("q9_z", 1, 32, values, out, sizeof out, &bytes, error));
  ck_assert_uint_eq(bytes, 0);
  FAILS(QUERN_ERR_ARGUMENT, "rows of 33 values, want rows of whole blocks of 32",
        quern_quantize("q4_0", 1, 33, values, out, sizeof out, &bytes, error));
  FAILS(QUERN_ERR_ARGUMENT, "got 0 rows", quern_quantize("q4_0", 0, 32, values, out, sizeof out, &bytes, error));
  FAILS(QUERN_ERR_LIMIT, "got room for 35 bytes, want 36",
        quern_quantize("q4_0", 2, 32, values, out, 35, &bytes, error));
  ck_assert_uint_eq(bytes, 36);
  values[3] = NAN;
  FAILS(QUERN_ERR_FORMAT, "quantize", quern_quantize("q4_0", 2, 32, values, out, 36, &bytes, error));
}
END_TEST

// --- memory

static qn_status build(const qn_allocator *allocator, void *context) {
  const quern_allocator own = {allocator->context, allocator->reallocate};
  quern_graph_options options = {.size = sizeof options, .allocator = &own};
  quern_graph *g = NULL;
  quern_error error;
  (void)context;
  int code = quern_graph_create("g", &options, &g, &error);
  if (code != 0) return (qn_status)code;
  quern_value x = quern_graph_input(g, "x", "f32[T,8]", NULL);
  quern_value w = quern_graph_weight(g, "w", "f32[4,8]", numbers, 128, QUERN_COPY, NULL);
  quern_value y = quern_graph_apply(g, "silu", quern_graph_apply(g, "matmul", x, w, NULL), 0, NULL);
  code = quern_graph_output(g, "y", y, &error);
  quern_graph_destroy(g);
  return (qn_status)code;
}

// Compiling it, with memory of the host's for that and for the model.
static qn_status compile(const qn_allocator *allocator, void *context) {
  const quern_allocator own = {allocator->context, allocator->reallocate};
  quern_model *model = NULL;
  quern_runner *runner = NULL;
  quern_error error;
  float x[8] = {0};
  int code = quern_graph_jit(context, QN_COMPILE(.threads = 1, .allocator = &own), &model, &error);
  if (code == 0) code = (int)quern_runner_create(model, QN_RUNNER(.threads = 1), &runner, &error);
  if (code == 0) code = (int)quern_runner_bind_input(runner, "x", x, sizeof x, &error);
  if (code == 0) code = (int)quern_runner_run(runner, QN_SIZES(.tokens = 1), &error);
  quern_runner_destroy(runner);
  quern_model_close(model);
  return (qn_status)code;
}

START_TEST(memory) {
  qn_test_failing_allocations(build, NULL);
  scene s = set_scene();
  qn_test_memory all;
  OK(quern_graph_output(s.graph, "y", quern_graph_apply(s.graph, "matmul", s.x, s.w, NULL), error));
  qn_test_memory_init(&all);
  ck_assert_int_eq(compile(&all.allocator, s.graph), QN_OK);
  ck_assert(all.allocations > 0 && all.live_blocks == 0);
  // Each of a spread of allocations fails, and with it all later ones.
  for (size_t i = 0; i < 24; i++) {
    qn_test_memory some;
    qn_test_memory_init(&some);
    some.fail_at = 1 + i * all.allocations / 24;
    qn_status status = compile(&some.allocator, s.graph);
    ck_assert_msg(status == QN_ERR_NOMEM, "allocation %zu of %zu: got %s", some.fail_at, all.allocations,
                  qn_status_name(status));
    ck_assert_uint_eq(some.live_blocks, 0);
  }
  quern_graph_destroy(s.graph);
}
END_TEST

QN_CASE(building, graphs, inputs_and_weights, ops, outputs_and_texts)
QN_CASE(using, compiling, running, quantising, memory)
QN_TEST_MAIN(building, using)
