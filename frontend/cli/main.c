// The program `quern`: finds the command, and holds what the commands share: messages, signals, standard output.
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "frontend/cli/cli.h"

static const cli_command *const commands[] = {
    &cli_compile_command, &cli_run_command,     &cli_bench_command, &cli_explain_command, &cli_inspect_command,
    &cli_tokenize_command, &cli_embed_command, &cli_verify_command, &cli_machine_command, &cli_tune_command, &cli_cache_command,
    &cli_eval_command, &cli_man_command,
    &cli_completion_command};

const char cli_purpose[] = "Compiles transformer models to machine code and runs them.";

static const cli_exit_code exit_codes[] = {
    {0, "done"},
    {QN_ERR_ARGUMENT, "wrong argument"},
    {QN_ERR_FORMAT, "damaged file"},
    {QN_ERR_UNSUPPORTED, "not supported"},
    {QN_ERR_IO, "reading or writing failed"},
    {QN_ERR_NOMEM, "out of memory"},
    {QN_ERR_TARGET, "not for this machine"},
    {QN_ERR_LIMIT, "a limit was reached"},
    {QN_ERR_INTERNAL, "a bug in quern"},
};

const cli_command *const *cli_commands(size_t *out_count) {
  *out_count = QN_COUNT(commands);
  return commands;
}

const cli_exit_code *cli_exit_codes(size_t *out_count) {
  *out_count = QN_COUNT(exit_codes);
  return exit_codes;
}

// --- messages

// The library's texts may hold names from hostile files: control bytes would drive the terminal.
static void print_error(const char *text) {
  fputs("quern: error: ", stderr);
  for (const char *at = text; *at; at++) {
    unsigned char c = (unsigned char)*at;
    if (c < 0x20 || c == 0x7F) {
      fprintf(stderr, "\\x%02x", c);
    } else {
      fputc(c, stderr);
    }
  }
  fputc('\n', stderr);
}

int cli_fail(int code, const char *where, const char *format, ...) {
  char text[2048];
  int used = snprintf(text, sizeof text, "%s: ", where);
  if (used > 0 && (size_t)used < sizeof text) {
    va_list args;
    va_start(args, format);
    vsnprintf(text + used, sizeof text - (size_t)used, format, args);
    va_end(args);
  }
  print_error(text);
  return code;
}

int cli_fail_with(int code, const quern_error *error) {
  print_error(error->text[0] ? error->text : qn_status_name((qn_status)code));
  return code;
}

// --- signals

static volatile sig_atomic_t caught;

static void catch_signal(int number) { caught = number; }

static void set_handler(void (*handler)(int)) {
  struct sigaction action = {.sa_handler = handler, .sa_flags = (int)SA_RESETHAND};
  sigemptyset(&action.sa_mask);
  const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
  for (size_t i = 0; i < QN_COUNT(numbers); i++) {
    struct sigaction old;
    if (sigaction(numbers[i], NULL, &old) == 0 && old.sa_handler == SIG_IGN) continue;  // as nohup wants it
    sigaction(numbers[i], &action, NULL);
  }
}

void cli_catch_signals(void) { set_handler(catch_signal); }

void cli_leave_signals(void) { set_handler(SIG_DFL); }

bool cli_interrupted(void) { return caught != 0; }

bool cli_take_interrupt(void) {
  if (caught != SIGINT) return false;
  caught = 0;
  return true;
}

int cli_interrupt_code(void) { return 128 + caught; }

// --- files

bool cli_same_file(const char *a, const char *b) {
  struct stat first, second;
  return stat(a, &first) == 0 && stat(b, &second) == 0 && first.st_dev == second.st_dev &&
         first.st_ino == second.st_ino;
}

int cli_check_outputs(const char *path, const char *json_path, const char *html_path) {
  const struct {
    const char *option, *path;
  } outputs[] = {{"--json", json_path}, {"--html", html_path}};
  for (size_t i = 0; i < QN_COUNT(outputs); i++) {
    if (!outputs[i].path || strcmp(outputs[i].path, "-") == 0) continue;
    if (cli_same_file(outputs[i].path, path))
      return cli_fail(QN_ERR_ARGUMENT, outputs[i].option, "got the model file itself, want another file");
  }
  if (json_path && html_path && strcmp(json_path, html_path) == 0)
    return cli_fail(QN_ERR_ARGUMENT, "--html", "got the same file as --json, want another one");
  return 0;
}

// --- standard output

static int out_error;  // errno of the first write that failed

void cli_out(const void *data, size_t size) {
  const char *bytes = data;
  while (size > 0 && out_error == 0) {
    ssize_t count = write(STDOUT_FILENO, bytes, size);
    if (count < 0 && errno != EINTR) out_error = errno;
    if (count < 0) continue;
    bytes += count;
    size -= (size_t)count;
  }
}

bool cli_out_failed(void) { return out_error != 0; }

int cli_out_end(void) {
  if (out_error == 0 || out_error == EPIPE) return 0;
  return cli_fail(QN_ERR_IO, "standard output", "cannot write: %s", strerror(out_error));
}

// --- commands

static const char *command_name(const void *context, size_t i) {
  (void)context;
  return i < QN_COUNT(commands) ? commands[i]->name : "help";
}

const cli_command *cli_find_command(const char *name) {
  for (size_t i = 0; i < QN_COUNT(commands); i++) {
    if (strcmp(commands[i]->name, name) == 0) return commands[i];
  }
  return NULL;
}

int cli_unknown_command(const char *name) {
  const char *near = qn_nearest(name, QN_COUNT(commands) + 1, command_name, NULL);
  if (near) return cli_fail(QN_ERR_ARGUMENT, "quern", "unknown command '%s'; did you mean %s?", name, near);
  return cli_fail(QN_ERR_ARGUMENT, "quern", "unknown command '%s'; see quern --help", name);
}

static void print_usage(FILE *to) {
  char codes[512];
  size_t used = (size_t)snprintf(codes, sizeof codes, "quern help COMMAND tells the options of a command. Exit codes:");
  for (size_t i = 0; i < QN_COUNT(exit_codes); i++) {
    used += (size_t)snprintf(codes + used, sizeof codes - used, " %d %s%s", exit_codes[i].code, exit_codes[i].meaning,
                             i + 1 < QN_COUNT(exit_codes) ? "," : ";");
  }
  snprintf(codes + used, sizeof codes - used, " 128 + N when signal N ended it.");
  fprintf(to, "usage: quern COMMAND ...\n\n%s\n\nCommands:\n", cli_purpose);
  for (size_t i = 0; i < QN_COUNT(commands); i++) {
    fprintf(to, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
  }
  fprintf(to,
          "  %-10s %s\n\nOptions:\n  -h, --help     this text\n      --version  the version\n\n", "help",
          "tells the options of a command");
  cli_print_wrapped(codes, 0, 0, to);
}

// Help goes to standard output: a reader that went away is fine, a full disk is not.
static int end_text(void) {
  if (fflush(stdout) == 0 && !ferror(stdout)) return 0;
  if (errno == EPIPE) return 0;
  return cli_fail(QN_ERR_IO, "standard output", "cannot write: %s", strerror(errno));
}

static int help(const char *name) {
  const cli_command *command = name ? cli_find_command(name) : NULL;
  if (command) {
    cli_print_help(command, stdout);
  } else if (!name || strcmp(name, "help") == 0) {
    print_usage(stdout);
  } else {
    return cli_unknown_command(name);
  }
  return end_text();
}

static bool is_word(const char *word, const char *letter, const char *name) {
  return strcmp(word, letter) == 0 || strcmp(word, name) == 0;
}

static int run_command(const cli_command *command, int argc, char **argv) {
  const char *operand;
  cli_common *options = calloc(1, command->options_size);
  if (!options) return cli_fail(QN_ERR_NOMEM, command->name, "out of memory for options");
  int code = cli_parse(command, argc, argv, options, &operand);
  if (code == 0) code = options->help ? help(command->name) : command->run(options, operand);
  cli_parse_free(command, options);
  free(options);
  return code;
}

int main(int argc, char **argv) {
  signal(SIGPIPE, SIG_IGN);  // a write to a closed pipe is an error like any other,
  signal(SIGXFSZ, SIG_IGN);  // and so is one beyond the limit of file sizes
  if (argc < 2) {
    print_usage(stderr);
    return QN_ERR_ARGUMENT;
  }
  const char *word = argv[1];
  if (is_word(word, "-h", "--help") || strcmp(word, "help") == 0) return help(argc > 2 ? argv[2] : NULL);
  if (is_word(word, "-V", "--version") || strcmp(word, "version") == 0) {
    printf("quern %s\n", quern_version());
    return end_text();
  }
  const cli_command *command = cli_find_command(word);
  if (!command) return cli_unknown_command(word);
  return run_command(command, argc - 2, argv + 2);
}
