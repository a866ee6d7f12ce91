// The same in C++: c++ run.cpp $(pkg-config --cflags --libs quern_run) -o run && ./run nano.qn "Once upon a time"
#include <quern_run.h>

#include <iostream>
#include <memory>
#include <vector>

static void check(quern_status status, const quern_error &error) {
  if (status != QUERN_OK) throw std::runtime_error(error.text);
}

int main(int argc, char **argv) try {
  if (argc != 3) throw std::runtime_error("usage: run OUT.qn PROMPT");
  const std::string text = argv[2];
  quern_error error;
  quern_model *opened = nullptr;
  check(quern_model_open(argv[1], nullptr, &opened, &error), error);
  std::unique_ptr<quern_model, decltype(&quern_model_close)> model(opened, quern_model_close);
  quern_session *created = nullptr;
  check(quern_session_create(opened, nullptr, &created, &error), error);
  std::unique_ptr<quern_session, decltype(&quern_session_destroy)> session(created, quern_session_destroy);
  std::vector<int32_t> prompt(text.size() + 2);
  quern_generate_params params = {};
  params.size = sizeof params;
  params.max_tokens = 256;
  params.callback = [](void *, const char *t, size_t n, int32_t) -> bool { return !!std::cout.write(t, long(n)); };
  check(quern_tokenize(opened, text.data(), text.size(), QUERN_TOKENIZE_ADD_SPECIAL, prompt.data(), prompt.size(),
                       &params.prompt_count, &error),
        error);
  params.prompt = prompt.data();
  check(quern_generate(created, &params, nullptr, &error), error);
} catch (const std::exception &e) {
  std::cerr << "run: " << e.what() << '\n';
  return 1;
}
