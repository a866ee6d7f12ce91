// Each pass of passes.def on small graphs: tests/golden/graph_passes/<pass>/*.txt, a graph and what the pass leaves, or
// its error. Comment lines before the graph set options: "# int8" quantises activations, "# gpu" is for GPUs,
// "# evict places", "# evict queries" and "# evict sums" let keys be evicted, "# rings" gives windows beside other layers
// their table, "# weights" lets passes know made-up values of parameters, and what they make of them is printed,
// "# machine 32 16" are the bytes and the number of the target's vector registers, "# schedule lanes=4 ..." forces one.
// Passes after `lower` start from the graph that `lower` takes; a program prints without kernels, but after `lower`,
// and with schedules after `schedule`.
#include <stdio.h>

#include "ir/format.h"
#include "passes/pass.h"
#include "tests/support/golden.h"
#include "tests/support/graph_text.h"
#include "tests/support/test.h"

// Every fourth row of a matrix is 9 times as large, and the first value of a vector 5.
static qn_status find_weight(void *context, const char *name, qn_tensor_data *out, qn_diag *diag) {
  static float values[4096];
  const qn_graph *graph = *(qn_graph *const *)context;
  for (qn_id id = 1; id < graph->nodes.count; id++) {
    const qn_node *node = qn_graph_node(graph, id);
    if (node->op != QN_OP_PARAM || strcmp(qn_node_text(node, QN_ATTR_NAME, ""), name) != 0) continue;
    bool matrix = node->type.rank == 2;
    int64_t rows = node->type.dims[0].value, width = matrix ? node->type.dims[1].value : 1;
    ck_assert(node->type.dtype == QN_DTYPE_F32 && rows * width <= (int64_t)QN_COUNT(values));
    for (int64_t i = 0; i < rows * width; i++) values[i] = matrix ? (i / width % 4 == 1 ? 9 : 1) : i == 0 ? 5 : 1;
    *out = (qn_tensor_data){.format = qn_format_of(QN_DTYPE_F32), .rank = node->type.rank, .dims = {rows, width}};
    out->data = values;
    return QN_OK;
  }
  return qn_fail(diag, QN_ERR_FORMAT, name, "is no parameter");
}

static void print_made(const qn_pass_context *context, qn_buf *out) {
  for (size_t i = 0; i < context->made.count; i++) {
    qn_buf_printf(out, "%s =", context->made.items[i].name);
    for (int64_t j = 0; j < context->made.items[i].count; j++)
      qn_buf_printf(out, " %g", (double)context->made.items[i].values[j]);
    qn_buf_putc(out, '\n');
  }
}

static void parse_options(qn_str text, qn_pass_options *options, qn_schedule *schedule) {
  qn_diag diag = {0};
  int vector_bytes = 64, vector_registers = 32;
  *options = (qn_pass_options){.forced_schedule = NULL};
  for (size_t at = 0; at < text.length && text.data[at] == '#';) {
    char line[256] = "";
    size_t length = 0;
    while (at + length < text.length && text.data[at + length] != '\n') length++;
    snprintf(line, sizeof line, "%.*s", (int)length, text.data + at);
    at += length + 1;
    options->quantize_activations |= strcmp(line, "# int8") == 0;
    options->half_activations |= strcmp(line, "# half") == 0;
    options->gpu |= strcmp(line, "# gpu") == 0;
    options->rings |= strcmp(line, "# rings") == 0;
    if (strcmp(line, "# evict places") == 0) options->evict = QN_EVICT_PLACES;
    if (strcmp(line, "# evict queries") == 0) options->evict = QN_EVICT_QUERIES;
    if (strcmp(line, "# evict sums") == 0) options->evict = QN_EVICT_SUMS | QN_EVICT_SOFTSUMS;
    sscanf(line, "# machine %d %d", &vector_bytes, &vector_registers);
    if (strncmp(line, "# schedule ", 11) != 0) continue;
    for (char *c = line + 11; *c; c++) *c = *c == ' ' ? '\n' : *c;
    qn_assert_ok(&diag, qn_schedule_parse("schedule", qn_str_from(line + 11), schedule, &diag));
    options->forced_schedule = schedule;
  }
  options->machine = qn_machine_model_plain(vector_bytes, vector_registers, 0, 0);
}

static qn_status run(const char *pass, qn_pass_context *context) {
  static const char *const program_passes[] = {"lower", "link_steps", "plan_memory", "schedule"};
  size_t first = 0;
  while (first < QN_COUNT(program_passes) && strcmp(program_passes[first], pass) != 0) first++;
  for (size_t i = 0; first < QN_COUNT(program_passes) && i < first; i++)
    QN_TRY(qn_run_pass(context, program_passes[i]));
  return qn_run_pass(context, pass);
}

static void print_program(const char *pass, const qn_program *program, qn_buf *out) {
  qn_program_print(program, out);
  for (size_t i = 0; i < program->kernels.count; i++) {
    const qn_pkernel *kernel = &program->kernels.items[i];
    if (strcmp(pass, "lower") == 0) {
      qn_buf_printf(out, "// %s\n", kernel->signature);
      qn_lkernel_print(kernel->plain, out);
    }
    for (int v = 0; v < kernel->variant_count; v++) {
      qn_buf_printf(out, "%s\n", kernel->variants[v].kernel->name);
      qn_schedule_print(&kernel->variants[v].schedule, out);
    }
  }
}

static void run_case(void *pass, const char *file_name, qn_str text, qn_buf *out) {
  qn_diag diag = {0};
  qn_arena arena;
  qn_schedule schedule;
  qn_pass_options options;
  qn_arena_init(&arena, qn_test_allocator());
  qn_pass_context context = {.arena = &arena, .allocator = qn_test_allocator(), .options = &options, .diag = &diag};
  parse_options(text, &options, &schedule);
  const qn_weight_source weights = {&context.graph, find_weight};
  if (strncmp(text.data, "# weights\n", 10) == 0) options.weights = &weights;
  qn_assert_ok(&diag, qn_graph_parse(file_name, text, &arena, &context.graph, &diag));
  qn_status status = run(pass, &context);
  if (status != QN_OK) {
    qn_buf_printf(out, "error %s: %s\n", qn_status_name(status), diag.text);
  } else if (context.program) {
    print_program(pass, context.program, out);
  } else {
    qn_graph_print(context.graph, out);
    print_made(&context, out);
  }
  qn_arena_deinit(&arena);
}

static void check_pass(const char *pass) {
  char folder[128];
  snprintf(folder, sizeof folder, "tests/golden/graph_passes/%s", pass);
  qn_golden_check(folder, "#", run_case, (void *)pass);
}

#define QN_PASS(name, stage, text)               \
  START_TEST(test_##name) { check_pass(#name); } \
  END_TEST
#include "passes/passes.def"
#undef QN_PASS

START_TEST(unknown_passes) {
  qn_diag diag = {0};
  qn_pass_context context = {.diag = &diag};
  qn_assert_fails(&diag, QN_ERR_ARGUMENT, "got 'inline', want a name of passes.def", qn_run_pass(&context, "inline"));
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_ARGUMENT, "got 'inline', want a name of passes.def",
                  qn_run_passes_until(&context, "inline"));
}
END_TEST

// Every pass, with each allocation failing in turn.
static qn_status run_all(const qn_allocator *allocator, void *text) {
  bool gpu = strstr(text, "logits") != NULL;
  qn_arena arena;
  qn_diag diag = {0};
  qn_pass_options options = {
      .gpu = gpu, .machine = qn_machine_model_plain(64, 32, 0, 0), .quantize_activations = true};
  qn_arena_init(&arena, allocator);
  qn_pass_context context = {.arena = &arena, .allocator = allocator, .options = &options, .diag = &diag};
  qn_status status = qn_graph_from_text(text, NULL, &arena, &context.graph, &diag);
  if (status == QN_OK) status = qn_run_passes(&context);
  ck_assert_msg(status != QN_ERR_INTERNAL, "%s", diag.text);
  qn_arena_deinit(&arena);
  return status;
}

START_TEST(failing_allocations) {
  static const char *const texts[] = {
      "w = param q4_0[40,32]; x = embed w tokens; w1 = param f32[32]; n = rmsnorm x w1 eps=1\n"
      "n3 = split_heads n heads=2; t = rope_table pos dims=16 theta=9; r = rope n3 t kind=pairs\n"
      "c = cache kind=k index=0 f16[G,2,16,64]; kw = kv_write c r pos seq block_table kind=k\n"
      "m = matmul n w; g = silu m; k = const 2; h = mul g k; output h",
      "q = input f32[T,4,8]; v = input f32[T,2,8]; c = cache kind=v index=0 f32[G,2,64,8]\n"
      "d = cache kind=k index=0 f32[G,2,8,64]; cw = kv_write c v pos seq block_table kind=v\n"
      "s = attn_scores q d pos seq block_table scale=1 window=7; p = softmax s; o = attn_mix p cw pos seq block_table\n"
      "s2 = attn_scores q d pos seq block_table scale=1; p2 = softmax s2; e2 = neg p2; o2 = attn_mix e2 cw pos seq "
      "block_table\n"
      "a = concat o o2 axis=1; f = softmax a; y = merge_heads f; g = gather_rows y rows; w = param f32[64]; l = "
      "layernorm g w w eps=1\n"
      "z = input f32[3,4]; z2 = concat z z axis=0; output l z2 z",
      "q = input f32[T,4,8]; d = cache kind=k index=0 f32[G,2,8,64]; c = cache kind=v index=0 f32[G,2,64,8]\n"
      "s = attn_scores q d pos seq block_table scale=1 window=7; p = softmax s; o = attn_mix p c pos seq block_table\n"
      "y = merge_heads o; w = param f32[40,32]; g = gather_rows y rows; logits = matmul g w; output logits"};
  for (size_t i = 0; i < QN_COUNT(texts); i++) qn_test_failing_allocations(run_all, (void *)texts[i]);
}
END_TEST

static TCase *golden(void) {
  const TTest *const tests[] = {
#define QN_PASS(name, stage, text) test_##name,
#include "passes/passes.def"
#undef QN_PASS
      unknown_passes,
      failing_allocations,
  };
  return qn_test_case("golden", tests, sizeof tests / sizeof tests[0]);
}

QN_TEST_MAIN(golden)
