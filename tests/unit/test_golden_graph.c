// The graph IR in text: tests/golden/graph/*.txt. What is printed parses to what prints the same, and errors name their
// line and column.
#include "ir/graph.h"
#include "tests/support/golden.h"
#include "tests/support/test.h"

static void print_again(void *context, const char *file_name, qn_str text, qn_buf *out) {
  (void)context, (void)file_name;
  qn_arena arena;
  qn_diag diag = {0};
  qn_graph *graph = NULL;
  qn_arena_init(&arena, qn_test_allocator());
  qn_status status = qn_graph_parse("case", text, &arena, &graph, &diag);
  if (status == QN_OK) status = qn_graph_verify(graph, QN_STAGE_FUSED, &diag);
  if (status == QN_OK) {
    qn_graph_print(graph, out);
  } else {
    qn_buf_printf(out, "error %s: %s\n", qn_status_name(status), diag.text);
  }
  qn_arena_deinit(&arena);
}

START_TEST(graphs) { qn_golden_check("tests/golden/graph", "#", print_again, NULL); }
END_TEST

QN_CASE(golden, graphs)
QN_TEST_MAIN(golden)
