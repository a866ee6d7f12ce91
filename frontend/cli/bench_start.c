// How long a start takes and how much memory a run: asked of `quern run` in processes of their own, where nothing of
// the benchmark's is in the way.
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "frontend/cli/bench.h"

extern char **environ;

enum { START_RUNS = 5 };

// Runs this program with `arguments`; its standard output into *out (NUL-terminated). An exit code after a message.
static int run_self(char *const *arguments, qn_buf *out) {
  posix_spawn_file_actions_t actions;
  int pipes[2], status = 0;
  pid_t child;
  if (pipe2(pipes, O_CLOEXEC) != 0) return cli_fail(QN_ERR_IO, "bench", "cannot open a pipe: %s", strerror(errno));
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, pipes[1], STDOUT_FILENO);
  int error = posix_spawn(&child, "/proc/self/exe", &actions, NULL, arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  close(pipes[1]);
  char chunk[4096];
  for (ssize_t count;
       error == 0 && ((count = read(pipes[0], chunk, sizeof chunk)) > 0 || (count < 0 && errno == EINTR));) {
    if (count > 0) qn_buf_append(out, chunk, (size_t)count);
  }
  close(pipes[0]);
  if (error != 0) return cli_fail(QN_ERR_IO, "bench", "cannot start a process: %s", strerror(error));
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  if (cli_interrupted()) return QN_ERR_CANCELLED;
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return 0;
  // It has told why on standard error.
  return WIFEXITED(status) ? WEXITSTATUS(status) : QN_ERR_INTERNAL;
}

// The number after "key": in a JSON text of ours; negative when there is none.
static double number_of(const char *json, const char *key) {
  char quoted[64];
  snprintf(quoted, sizeof quoted, "\"%s\": ", key);
  const char *at = strstr(json, quoted);
  return at ? strtod(at + strlen(quoted), NULL) : -1;
}

// "1,1,1"
static void put_tokens(qn_buf *out, int64_t count) {
  for (int64_t i = 0; i < count; i++) qn_buf_puts(out, i ? ",1" : "1");
}

static int run_once(bench *b, int64_t prompt, uint64_t generate, qn_buf *json) {
  qn_buf tokens;
  char count[24], threads[16], context[24];
  qn_buf_init(&tokens, b->allocator);
  put_tokens(&tokens, prompt);
  snprintf(count, sizeof count, "%" PRIu64, generate);
  snprintf(context, sizeof context, "%" PRId64, b->context);
  snprintf(threads, sizeof threads, "%d", (int)b->threads.items[b->threads.count - 1]);
  char *arguments[30] = {
      "quern", "run", "-q", "--json", "--ignore-eog", "--tokens", (char *)(uintptr_t)qn_buf_text(&tokens),
      "-n",    count, "-c", context};
  int used = 11;
  if (b->threads.items[b->threads.count - 1] > 0) {
    arguments[used++] = "-j";
    arguments[used++] = threads;
  }
  if (b->device.name) {
    arguments[used++] = "--device";
    arguments[used++] = (char *)(uintptr_t)b->device.name;
  } else {
    arguments[used++] = b->settings.no_pin ? "--no-pin" : "--pin";
  }
  if (b->device.libcuda) {
    arguments[used++] = "--libcuda";
    arguments[used++] = (char *)(uintptr_t)b->device.libcuda;
  }
  if (b->settings.huge_pages) {
    arguments[used++] = "--huge-pages";
    arguments[used++] = (char *)(uintptr_t)b->settings.huge_pages;
  }
  if (b->options->tuning_db) {
    arguments[used++] = "--tuning-db";
    arguments[used++] = (char *)(uintptr_t)b->options->tuning_db;
  }
  if (b->options->signed_by) {
    arguments[used++] = "--require-signature";
    arguments[used++] = (char *)(uintptr_t)b->options->signed_by;
  }
  if (b->options->target) {
    arguments[used++] = "-t";
    const char *target = b->model ? quern_model_target(b->model) : b->options->target;
    arguments[used++] = (char *)(uintptr_t)target;
  }
  arguments[used++] = "--";
  arguments[used++] = (char *)(uintptr_t)b->artifact;
  json->length = 0;
  int code = tokens.failed ? cli_fail(QN_ERR_NOMEM, "bench", "out of memory for a prompt") : run_self(arguments, json);
  qn_buf_deinit(&tokens);
  return code;
}

int bench_measure_start(bench *b) {
  enum { MOST_TOKENS = 32768 };  // the system limits what a word of a command line may hold
  qn_buf json;
  qn_buf_init(&json, b->allocator);
  int code = 0;
  for (int i = 0; code == 0 && i < START_RUNS; i++) {
    if (!bench_step(b, "starting")) code = QN_ERR_CANCELLED;
    double begin = cli_seconds();
    if (code == 0) code = run_once(b, 1, 1, &json);
    double passed = cli_seconds() - begin;
    if (code != 0) break;
    bool kept = qn_vec_push(b->allocator, &b->load, number_of(qn_buf_text(&json), "load_ms") * 1e-3);
    passed -= number_of(qn_buf_text(&json), "ttft_ms") * 1e-3;
    if (!kept || !qn_vec_push(b->allocator, &b->start, passed)) code = cli_fail(QN_ERR_NOMEM, "bench", "out of memory");
  }
  int64_t prompt = b->prompts.items[b->prompts.count - 1];
  if (code == 0 && !bench_step(b, "memory")) code = QN_ERR_CANCELLED;
  if (code == 0) code = run_once(b, prompt < MOST_TOKENS ? prompt : MOST_TOKENS, 8, &json);
  if (code == 0) b->rss_bytes = (uint64_t)number_of(qn_buf_text(&json), "rss_bytes");
  qn_buf_deinit(&json);
  return code;
}
