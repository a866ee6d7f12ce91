// A graph built in code, a gated MLP with RMSNorm, compiled in this process and called on the program's own tensors:
//   cc jit.c $(pkg-config --cflags --libs quern) -lm -o jit && ./jit
// With a folder's name for the cache as the argument it is compiled once and found there from then on.
#include <math.h>
#include <quern.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH = 64, HIDDEN = 160, ROWS = 3 };

static float norm[WIDTH], gate[HIDDEN * WIDTH], up[HIDDEN * WIDTH], down[WIDTH * HIDDEN];

static void check(int code, const quern_error *error) {
  if (code == 0) return;
  fprintf(stderr, "jit: %s\n", error->text);
  exit(code);
}

// y = x + down(silu(gate(n)) * up(n)), n = rmsnorm(x). Errors stay with the graph: the last call tells them.
static quern_graph *build(void) {
  quern_error error;
  quern_graph *g = NULL;
  const quern_attr eps = {"eps", 1e-5, NULL};
  check(quern_graph_create("gated_mlp", NULL, &g, &error), &error);
  quern_value x = quern_graph_input(g, "x", "f32[T,64]", NULL);
  quern_value norm_w = quern_graph_weight(g, "norm", "f32[64]", norm, sizeof norm, QUERN_BORROW, NULL);
  quern_value gate_w = quern_graph_weight(g, "gate", "f32[160,64]", gate, sizeof gate, QUERN_BORROW, NULL);
  quern_value up_w = quern_graph_weight(g, "up", "f32[160,64]", up, sizeof up, QUERN_BORROW, NULL);
  quern_value down_w = quern_graph_weight(g, "down", "f32[64,160]", down, sizeof down, QUERN_BORROW, NULL);
  const quern_value operands[] = {x, norm_w};
  const quern_op rmsnorm = {sizeof rmsnorm, "rmsnorm", operands, 2, &eps, 1, NULL, NULL};
  quern_value n = quern_graph_op(g, &rmsnorm, NULL);
  quern_value gated = quern_graph_apply(g, "silu", quern_graph_apply(g, "matmul", n, gate_w, NULL), 0, NULL);
  quern_value both = quern_graph_apply(g, "mul", gated, quern_graph_apply(g, "matmul", n, up_w, NULL), NULL);
  quern_value y = quern_graph_apply(g, "add", x, quern_graph_apply(g, "matmul", both, down_w, NULL), NULL);
  check(quern_graph_output(g, "y", y, &error), &error);
  return g;
}

// The same in double precision.
static double expected(const float *x, int column) {
  double squares = 0, sum = x[column], n[WIDTH];
  for (int i = 0; i < WIDTH; i++) squares += (double)x[i] * x[i];
  for (int i = 0; i < WIDTH; i++) n[i] = x[i] / sqrt(squares / WIDTH + 1e-5) * norm[i];
  for (int h = 0; h < HIDDEN; h++) {
    double g = 0, u = 0;
    for (int i = 0; i < WIDTH; i++) {
      g += n[i] * gate[h * WIDTH + i];
      u += n[i] * up[h * WIDTH + i];
    }
    sum += g / (1 + exp(-g)) * u * down[column * HIDDEN + h];
  }
  return sum;
}

static void fill(float *values, size_t count, unsigned seed, float scale) {
  for (size_t i = 0; i < count; i++) {
    seed = seed * 1664525u + 1013904223u;
    values[i] = ((float)(seed >> 8) / 8388608.0f - 1.0f) * scale;
  }
}

int main(int argc, char **argv) {
  quern_error error;
  quern_model *model = NULL;
  quern_runner *runner = NULL;
  static float x[ROWS][WIDTH], y[ROWS][WIDTH];
  const quern_compile_options how = {.size = sizeof how, .tuning_db = "none"};
  double worst = 0;
  if (argc > 1) setenv("XDG_CACHE_HOME", argv[1], 1);
  for (int i = 0; i < WIDTH; i++) norm[i] = 1.0f;
  fill(gate, HIDDEN * WIDTH, 1, 0.2f);
  fill(up, HIDDEN * WIDTH, 2, 0.2f);
  fill(down, WIDTH * HIDDEN, 3, 0.2f);
  fill(x[0], ROWS * WIDTH, 4, 1.0f);
  quern_graph *graph = build();
  if (argc > 1) {
    check(quern_graph_load(graph, &how, NULL, &model, &error), &error);
  } else {
    check(quern_graph_jit(graph, &how, &model, &error), &error);
  }
  quern_graph_destroy(graph);
  check(quern_runner_create(model, NULL, &runner, &error), &error);
  check(quern_runner_bind_input(runner, "x", x, sizeof x, &error), &error);
  check(quern_runner_bind_output(runner, "y", y, sizeof y, &error), &error);
  const quern_sizes sizes = {.tokens = ROWS};
  check(quern_runner_run(runner, &sizes, &error), &error);
  for (int row = 0; row < ROWS; row++) {
    for (int i = 0; i < WIDTH; i++) worst = fmax(worst, fabs(y[row][i] - expected(x[row], i)));
  }
  printf("%d rows of %d values, the largest error %.1e: %s\n", ROWS, WIDTH, worst, worst < 1e-5 ? "right" : "WRONG");
  quern_runner_destroy(runner);
  quern_model_close(model);
  return worst < 1e-5 ? 0 : QUERN_ERR_INTERNAL;
}
