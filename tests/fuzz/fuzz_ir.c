// Fuzzes the readers of our texts: graphs, loop kernels and schedules, which artifacts and tuning records carry. Any text
// gives an error that names the place, or something that prints and reads back the same.
#include <string.h>

#include "ir/graph.h"
#include "ir/loop.h"
#include "ir/schedule.h"
#include "runtime/base/file.h"
#include "tests/support/fuzz.h"

enum { GRAPH = 'g', KERNELS = 'k', SCHEDULE = 's', KNOBS = 'm' };  // the input's first byte

static void check_error(qn_status status, const qn_diag *diag) {
  fuzz_require(diag->status == status && diag->text[0] != '\0', "an error without words");
  fuzz_require(status != QN_ERR_INTERNAL, diag->text);
}

static void read_graph(qn_str text, qn_arena *arena) {
  qn_graph *graph, *again;
  qn_diag diag = {0};
  qn_status status = qn_graph_parse("fuzz", text, arena, &graph, &diag);
  if (status != QN_OK) {
    check_error(status, &diag);
    return;
  }
  qn_buf first, second;
  qn_buf_init(&first, qn_allocator_default());
  qn_buf_init(&second, qn_allocator_default());
  qn_graph_print(graph, &first);
  status = qn_graph_parse("fuzz", (qn_str){qn_buf_text(&first), first.length}, arena, &again, &diag);
  fuzz_require(status == QN_OK, "a graph that was printed is not read");
  qn_graph_print(again, &second);
  fuzz_require(strcmp(qn_buf_text(&first), qn_buf_text(&second)) == 0, "a graph reads back as another");
  qn_buf_deinit(&first);
  qn_buf_deinit(&second);
}

static void put_kernels(qn_lkernel **kernels, size_t count, qn_buf *out) {
  for (size_t i = 0; i < count; i++) qn_lkernel_print(kernels[i], out);
}

static void read_kernels(qn_str text, qn_arena *arena) {
  qn_lkernel **kernels, **again;
  size_t count, count_again;
  qn_diag diag = {0};
  qn_status status = qn_lkernels_parse("fuzz", text, arena, &kernels, &count, &diag);
  if (status != QN_OK) {
    check_error(status, &diag);
    return;
  }
  for (size_t i = 0; i < count; i++) {
    qn_diag said = {0};
    qn_status checked = qn_lkernel_verify(kernels[i], &said);  // may say no, and must come back
    fuzz_require(checked == said.status, "a verdict without words");
  }
  qn_buf first, second;
  qn_buf_init(&first, qn_allocator_default());
  qn_buf_init(&second, qn_allocator_default());
  put_kernels(kernels, count, &first);
  status = qn_lkernels_parse("fuzz", (qn_str){qn_buf_text(&first), first.length}, arena, &again, &count_again, &diag);
  fuzz_require(status == QN_OK, "kernels that were printed are not read");
  put_kernels(again, count_again, &second);
  fuzz_require(strcmp(qn_buf_text(&first), qn_buf_text(&second)) == 0, "kernels read back as others");
  qn_buf_deinit(&first);
  qn_buf_deinit(&second);
}

static void read_schedule(qn_str text) {
  qn_schedule schedule, again;
  qn_diag diag = {0};
  qn_status status = qn_schedule_parse("fuzz", text, &schedule, &diag);
  if (status != QN_OK) {
    check_error(status, &diag);
    return;
  }
  qn_buf out;
  qn_buf_init(&out, qn_allocator_default());
  qn_schedule_print(&schedule, &out);
  status = qn_schedule_parse("fuzz", (qn_str){qn_buf_text(&out), out.length}, &again, &diag);
  fuzz_require(status == QN_OK && qn_schedule_equal(&schedule, &again), "a schedule reads back as another");
  qn_buf_deinit(&out);
}

static void read_knobs(qn_str text) {
  qn_machine_knobs knobs;
  qn_diag diag = {0};
  qn_status status = qn_machine_knobs_parse("fuzz", text, &knobs, &diag);
  if (status != QN_OK) check_error(status, &diag);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  qn_arena arena;
  if (size == 0) return 0;
  qn_str text = {(const char *)data + 1, size - 1};
  qn_arena_init(&arena, qn_allocator_default());
  switch (data[0]) {
    case GRAPH: read_graph(text, &arena); break;
    case KERNELS: read_kernels(text, &arena); break;
    case SCHEDULE: read_schedule(text); break;
    case KNOBS: read_knobs(text); break;
    default: break;
  }
  qn_arena_deinit(&arena);
  return 0;
}

// A golden text behind its kind.
static void take_golden(fuzz_take_fn take, void *context, char kind, const char *path) {
  char *data;
  size_t size;
  qn_buf text;
  fuzz_require(qn_file_read(path, QN_TEXT_MAX, qn_allocator_default(), &data, &size, NULL) == QN_OK, path);
  qn_buf_init(&text, qn_allocator_default());
  qn_buf_putc(&text, kind);
  qn_buf_append(&text, data, size);
  take(context, text.data, text.length);
  qn_buf_deinit(&text);
  qn_free(qn_allocator_default(), data, size + 1);
}

void fuzz_seeds(fuzz_take_fn take, void *context) {
  static const char knobs[] = "mhuge_pages = 1\n";
  qn_schedule schedule = qn_schedule_plain();
  qn_buf text;
  take_golden(take, context, GRAPH, QUERN_SOURCE_DIR "/tests/golden/graph/every_op.txt");
  take_golden(take, context, KERNELS, QUERN_SOURCE_DIR "/tests/golden/loop/every_form.txt");
  qn_buf_init(&text, qn_allocator_default());
  qn_buf_putc(&text, SCHEDULE);
  qn_schedule_print(&schedule, &text);
  take(context, text.data, text.length);
  qn_buf_deinit(&text);
  take(context, knobs, sizeof knobs - 1);
}

static const char *const words[] = {"f32", "q4_0", "i32", "[T, ", "]", "(", ")", "%", "99999999999999999999", "-1",
                                    "vector", "for ", "parallel", "\"", "\n", "{", "}", "1e999", "T", " = ", NULL};

QN_FUZZ_MAIN(words, 4000)
