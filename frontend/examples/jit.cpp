// A graph built in C++: c++ jit.cpp $(pkg-config --cflags --libs quern) -o jit && ./jit
// y = softmax(x w), with w in blocks of 4 bits, which the library makes of floats.
#include <quern.h>

#include <cmath>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <vector>

static void check(int code, const quern_error &error) {
  if (code != 0) throw std::runtime_error(error.text);
}

int main() try {
  const int rows = 3, in = 64, out = 24;
  quern_error error;
  std::vector<float> weights(size_t(out) * in), x(size_t(rows) * in), y(size_t(rows) * out);
  for (size_t i = 0; i < weights.size(); i++) weights[i] = float(i * 7 % 31) / 31 - 0.5f;
  for (size_t i = 0; i < x.size(); i++) x[i] = float(i * 5 % 17) / 17 - 0.5f;
  size_t bytes = 0;
  quern_quantize("q4_0", out, in, weights.data(), nullptr, 0, &bytes, nullptr);  // how many there are
  std::vector<unsigned char> blocks(bytes);
  check(quern_quantize("q4_0", out, in, weights.data(), blocks.data(), bytes, &bytes, &error), error);

  quern_graph *created = nullptr;
  check(quern_graph_create("softmax_of_product", nullptr, &created, &error), error);
  std::unique_ptr<quern_graph, decltype(&quern_graph_destroy)> graph(created, quern_graph_destroy);
  quern_value v = quern_graph_input(created, "x", "f32[T,64]", nullptr);
  quern_value w = quern_graph_weight(created, "w", "q4_0[24,64]", blocks.data(), bytes, QUERN_BORROW, nullptr);
  v = quern_graph_apply(created, "matmul", v, w, nullptr);
  check(quern_graph_output(created, "y", quern_graph_apply(created, "softmax", v, 0, nullptr), &error), error);

  quern_model *jitted = nullptr;
  check(quern_graph_jit(created, nullptr, &jitted, &error), error);
  std::unique_ptr<quern_model, decltype(&quern_model_close)> model(jitted, quern_model_close);
  quern_runner *started = nullptr;
  check(quern_runner_create(jitted, nullptr, &started, &error), error);
  std::unique_ptr<quern_runner, decltype(&quern_runner_destroy)> runner(started, quern_runner_destroy);
  check(quern_runner_bind_input(started, "x", x.data(), x.size() * sizeof(float), &error), error);
  check(quern_runner_bind_output(started, "y", y.data(), y.size() * sizeof(float), &error), error);
  quern_sizes sizes = {};
  sizes.tokens = rows;
  check(quern_runner_run(started, &sizes, &error), error);
  for (int r = 0; r < rows; r++) {
    double sum = 0;
    for (int i = 0; i < out; i++) sum += y[size_t(r) * out + i];
    std::printf("row %d: %.4f %.4f ..., sum %.4f\n", r, y[size_t(r) * out], y[size_t(r) * out + 1], sum);
    if (std::fabs(sum - 1) > 1e-5) throw std::runtime_error("a row whose probabilities are not 1 together");
  }
} catch (const std::exception &e) {
  std::fprintf(stderr, "jit: %s\n", e.what());
  return 1;
}
