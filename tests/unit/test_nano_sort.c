// gpt-nano-sort through the compiled kernels: every stored intermediate of block 0 and the logits, for its batch of three
// sequences in one step; and it sorts. The numbers were made by somebody else's implementation.
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "codegen/artifact_write.h"
#include "frontend/import/import.h"
#include "frontend/quern.h"
#include "passes/pass.h"
#include "runtime/executor.h"
#include "tests/support/nano_sort.h"
#include "tests/support/test.h"

enum { SEQUENCES = 3, LENGTH = 11, TOKENS = SEQUENCES * LENGTH, HEADS = 3, LETTERS = 6, VOCAB = 3 };
#define TOLERANCE 1e-4

// A stored tensor and the value that must equal it: the last node of that place and op.
typedef struct intermediate {
  const char *stored, *loc;
  qn_op op;
} intermediate;

static const intermediate intermediates[] = {
    {"x", "x", QN_OP_ADD},
    {"ln1", "layer 0: attn_in", QN_OP_LAYERNORM},
    {"qkv", "layer 0: qkv", QN_OP_ADD},
    {"q", "layer 0: q", QN_OP_SLICE},
    {"k", "layer 0: k", QN_OP_SLICE},
    {"v", "layer 0: v", QN_OP_SLICE},
    {"att", "layer 0: scores", QN_OP_ATTN_SCORES},
    {"attSm", "layer 0: probs", QN_OP_SOFTMAX},
    {"y", "layer 0: mixed", QN_OP_ATTN_MIX},
    {"yProj", "layer 0: attn", QN_OP_ADD},
    {"attnResid", "layer 0: x", QN_OP_ADD},
    {"ln2", "layer 0: ffn_in", QN_OP_LAYERNORM},
    {"fc", "layer 0: up", QN_OP_ADD},
    {"gelu", "layer 0: up", QN_OP_GELU_TANH},
    {"block1", "layer 1: x", QN_OP_ADD},
};

// What a compiled graph needs to run.
typedef struct compiled {
  qn_arena arena;
  qn_import *import;
  qn_jit *jit;
  qn_artifact artifact;
  qn_threads *threads;
  qn_executor *executor;
  void *pools[64];
  size_t pool_count;
} compiled;

static qn_id find(const qn_graph *graph, const char *loc, qn_op op, bool first) {
  qn_id found = 0;
  for (qn_id id = 1; id < graph->nodes.count && !(found && first); id++) {
    const qn_node *node = qn_graph_node(graph, id);
    if (node->op == op && strcmp(node->loc, loc) == 0) found = id;
  }
  qn_check(found, "no %s at '%s' in the graph", qn_op_get_info(op)->name, loc);
  return found;
}

// block 0 adds twice into x: attnResid is the first sum, block0 (mlpResid) the second.
static void add_outputs(qn_graph *graph) {
  qn_diag diag = {0};
  for (size_t i = 0; i < QN_COUNT(intermediates); i++) {
    const intermediate *m = &intermediates[i];
    bool first = strcmp(m->stored, "attnResid") == 0;
    qn_assert_ok(&diag, qn_graph_add_output(graph, m->stored, find(graph, m->loc, m->op, first), &diag));
  }
  qn_assert_ok(&diag, qn_graph_add_output(graph, "block0", find(graph, "layer 0: x", QN_OP_ADD, false), &diag));
}

static void link_kernels(compiled *c, qn_program *program) {
  qn_diag diag = {0};
  size_t count = 0;
  const qn_lkernel **kernels = qn_program_variants(program, &count);
  qn_target target;
  qn_assert_ok(&diag, qn_target_parse("host", &target, &diag));
  qn_codegen_options options = {.target = &target, .threads = 1};
  qn_assert_ok(&diag, qn_jit_create(kernels, count, &options, qn_allocator_default(), &c->jit, &diag));
  qn_kernel_entry *entries = QN_ARENA_ARRAY(&c->arena, count, qn_kernel_entry);
  for (size_t i = 0; i < count; i++) entries[i] = qn_jit_kernel(c->jit, i);
  qn_file_writer writer;
  qn_mapping mapping;
  qn_weight_source weights = qn_import_weights(c->import);
  qn_program_plan plan;
  qn_assert_ok(&diag, qn_program_plan_take(program, &plan, &diag));
  qn_artifact_program only = {.machine = QN_ART_CPU, .program = program, .plans = &plan, .plan_count = 1};
  qn_artifact_spec spec = {.programs = &only, .program_count = 1, .weights = &weights, .vocab_size = VOCAB};
  qn_assert_ok(&diag, qn_file_writer_open_memory(&writer, "nano-sort", &diag));
  qn_assert_ok(&diag, qn_artifact_write(&writer, &spec, qn_allocator_default(), &diag));
  qn_assert_ok(&diag, qn_file_writer_commit(&writer));
  qn_assert_ok(&diag, qn_mapping_open_fd(&mapping, writer.fd, "nano-sort", &diag));
  close(writer.fd);
  qn_assert_ok(&diag, qn_artifact_open_mapping(&c->artifact, mapping, "nano-sort", &diag));
  qn_assert_ok(&diag, qn_threads_create(2, false, qn_allocator_default(), &c->threads, &diag));
  qn_executor_options run = {.jit_entries = entries};
  qn_assert_ok(&diag, qn_executor_create(&c->artifact, c->threads, &run, qn_allocator_default(), &c->executor, &diag));
}

static void compile(compiled *c, const char *gguf) {
  qn_diag diag = {0};
  qn_arena_init(&c->arena, qn_allocator_default());
  qn_assert_ok(&diag, qn_import_open(gguf, NULL, qn_allocator_default(), &c->import, &diag));
  qn_import_graph_options options = {.context_tokens = LENGTH, .chunk_tokens = TOKENS, .max_rows = TOKENS,
                                     .max_sequences = SEQUENCES, .kv_dtype = QN_DTYPE_F32};
  qn_graph *graph = NULL;
  qn_assert_ok(&diag, qn_import_graph(c->import, &options, &c->arena, &graph, &diag));
  add_outputs(graph);
  qn_pass_options passes = {.machine = qn_machine_model_plain(64, 32, 0, 0)};
  qn_pass_context pass = {.arena = &c->arena, .allocator = qn_allocator_default(), .options = &passes, .graph = graph,
                          .diag = &diag};
  qn_assert_ok(&diag, qn_run_passes(&pass));
  link_kernels(c, pass.program);
}

static void destroy(compiled *c) {
  qn_executor_destroy(c->executor);
  qn_threads_destroy(c->threads);
  qn_artifact_close(&c->artifact);
  qn_jit_destroy(c->jit);
  qn_import_close(c->import);
  for (size_t i = 0; i < c->pool_count; i++) free(c->pools[i]);
  qn_arena_deinit(&c->arena);
}

// One step of all 33 tokens, each sequence with its own page.
static void run(compiled *c, const qn_nano_tensor *idx) {
  qn_diag diag = {0};
  int32_t tokens[TOKENS], pos[TOKENS], seq[TOKENS], rows[TOKENS], table[SEQUENCES];
  for (int i = 0; i < TOKENS; i++) {
    tokens[i] = (int32_t)idx->values[i];
    pos[i] = i % LENGTH;
    seq[i] = i / LENGTH;
    rows[i] = i;
  }
  for (int i = 0; i < SEQUENCES; i++) table[i] = SEQUENCES - 1 - i;
  const struct { const char *name; const int32_t *data; } inputs[] = {
      {"tokens", tokens}, {"pos", pos}, {"seq", seq}, {"rows", rows}, {"block_table", table}};
  for (size_t i = 0; i < QN_COUNT(inputs); i++) {
    qn_assert_ok(&diag, qn_executor_bind_input(c->executor, inputs[i].name, inputs[i].data, &diag));
  }
  for (uint32_t i = 0; i < c->artifact.program->buffer_count; i++) {
    const qn_art_buffer *buffer = &c->artifact.buffers[i];
    if (buffer->kind != QN_ART_CACHE) continue;
    void *pool = c->pools[c->pool_count++] = calloc(SEQUENCES, buffer->bytes);
    qn_assert_ok(&diag, qn_executor_bind_cache(c->executor, c->artifact.strings + buffer->name, buffer->layer, pool, &diag));
  }
  const int64_t symbols[QN_ARTIFACT_SYMBOLS] = {0, TOKENS, TOKENS, 1, SEQUENCES, SEQUENCES};
  qn_assert_ok(&diag, qn_executor_run(c->executor, symbols, QN_RUN_PROMPT, &diag));
}

// Element of a stored tensor for token t: [B, T, D], [1, T, D] or, by heads, [B, H, T, D].
static float stored_value(const qn_nano_tensor *stored, int t, int64_t head, int64_t d) {
  int64_t b = t / LENGTH, at = t % LENGTH;
  if (stored->rank == 3) return stored->values[(b * LENGTH + at) * stored->dims[2] + d];
  return stored->values[((b * HEADS + head) * LENGTH + at) * stored->dims[3] + d];
}

static void compare(const compiled *c, qn_nano_file *partials, const char *output, const char *name) {
  qn_diag diag = {0};
  qn_nano_tensor stored;
  qn_assert_ok(&diag, qn_nano_get(partials, name, &stored, &diag));
  const qn_art_buffer *buffer = NULL;
  const float *values = qn_executor_output(c->executor, output, &buffer);
  qn_check(values, "no output '%s'", output);
  int64_t heads = stored.rank == 4 ? HEADS : 1, width = stored.dims[stored.rank - 1];
  bool keys = strncmp(name, "att", 3) == 0 && stored.rank == 4;  // ours has a whole page of keys
  int64_t pitch = keys ? (int64_t)HEADS * 64 : buffer->row_pitch, head_pitch = keys ? 64 : width;
  for (int t = 0; t < TOKENS; t++) {
    for (int64_t h = 0; h < heads; h++) {
      for (int64_t d = 0; d < width; d++) {
        float got = values[t * pitch + h * head_pitch + d], want = stored_value(&stored, t, h, d);
        bool equal = isinf(want) ? got == want : fabsf(got - want) <= TOLERANCE;
        qn_check(equal, "%s: token %d, head %lld, value %lld: got %.9g, want %.9g", name, t, (long long)h, (long long)d,
                 (double)got, (double)want);
      }
    }
  }
}

static const char *converted(void) {
  qn_diag diag = {0};
  const char *json = qn_test_shared(QN_NANO_SORT_MODEL), *gguf = qn_test_temp_path("nano-sort.gguf");
  qn_assert_ok(&diag, qn_nano_sort_convert(json, gguf, &diag));
  return gguf;
}

START_TEST(test_intermediates_and_logits) {
  qn_diag diag = {0};
  qn_nano_file *partials = NULL;
  qn_nano_tensor idx;
  qn_assert_ok(&diag, qn_nano_open(qn_test_shared(QN_NANO_SORT_PARTIALS), &partials, &diag));
  qn_assert_ok(&diag, qn_nano_get(partials, "idx", &idx, &diag));
  compiled c = {0};
  compile(&c, converted());
  run(&c, &idx);
  for (size_t i = 0; i < QN_COUNT(intermediates); i++) {
    compare(&c, partials, intermediates[i].stored, intermediates[i].stored);
  }
  compare(&c, partials, "block0", "mlpResid");
  compare(&c, partials, "block0", "block0");
  compare(&c, partials, "logits", "lm_head");
  destroy(&c);
  qn_nano_close(partials);
}
END_TEST

static int by_value(const void *a, const void *b) { return *(const int32_t *)a - *(const int32_t *)b; }

// Greedy: the sixth letter's logits give the first letter of the answer, and so on.
static void sorts(quern_session *session, const int32_t letters[LETTERS]) {
  quern_error error = {0};
  int32_t want[LETTERS];
  const float *logits = NULL;
  memcpy(want, letters, sizeof want);
  qsort(want, LETTERS, sizeof *want, by_value);
  quern_session_reset(session, 0);
  ck_assert_msg(quern_session_eval(session, 0, letters, LETTERS, &logits, &error) == QUERN_OK, "%s", error.text);
  for (int i = 0; i < LETTERS; i++) {
    int32_t best = 0;
    for (int32_t v = 1; v < VOCAB; v++) best = logits[v] > logits[best] ? v : best;
    qn_check(best == want[i], "letter %d of the answer to %d%d%d%d%d%d: got %d, want %d", i, letters[0], letters[1],
             letters[2], letters[3], letters[4], letters[5], best, want[i]);
    if (i + 1 == LETTERS) break;
    ck_assert_msg(quern_session_eval(session, 0, &best, 1, &logits, &error) == QUERN_OK, "%s", error.text);
  }
}

START_TEST(test_it_sorts) {
  quern_error error = {0};
  quern_model *model = NULL;
  quern_session *session = NULL;
  quern_session_options options = {.size = sizeof options, .threads = 1};
  ck_assert_msg(quern_jit(converted(), NULL, &model, &error) == 0, "%s", error.text);
  ck_assert_msg(quern_session_create(model, &options, &session, &error) == QUERN_OK, "%s", error.text);
  for (int i = 0; i < 729; i += 7) {  // of all 3^6 inputs
    int32_t letters[LETTERS];
    for (int at = 0, rest = i; at < LETTERS; at++, rest /= VOCAB) letters[at] = rest % VOCAB;
    sorts(session, letters);
  }
  quern_session_destroy(session);
  quern_model_close(model);
}
END_TEST

static TCase *nano_sort(void) {
  if (!qn_test_shared(QN_NANO_SORT_MODEL) || !qn_test_shared(QN_NANO_SORT_PARTIALS)) {
    qn_test_skip("the shared models are not here");
  }
  const TTest *const tests[] = {test_intermediates_and_logits, test_it_sorts};
  return qn_test_case("nano_sort", tests, QN_COUNT(tests));
}

QN_TEST_MAIN(nano_sort)
