// What the commands share: messages, signals, standard output, and the table of commands.
#ifndef QUERN_CLI_H
#define QUERN_CLI_H

#include "frontend/cli/options.h"
#include "frontend/quern.h"
#include "runtime/base/status.h"
#include "runtime/base/str.h"

extern const cli_command cli_compile_command, cli_run_command, cli_bench_command, cli_inspect_command,
    cli_explain_command, cli_tokenize_command, cli_embed_command, cli_verify_command, cli_machine_command, cli_tune_command,
    cli_cache_command, cli_eval_command, cli_man_command, cli_completion_command;

// Every command, in the order of `quern help`.
const cli_command *const *cli_commands(size_t *out_count);
const cli_command *cli_find_command(const char *name);  // NULL = there is none
// The message for a name that is none. Returns the exit code.
int cli_unknown_command(const char *name);
// What the program is, in one sentence.
extern const char cli_purpose[];

// What the program's exit codes mean, but for 128 + N.
typedef struct cli_exit_code {
  int code;
  const char *meaning;
} cli_exit_code;
const cli_exit_code *cli_exit_codes(size_t *out_count);

// "quern: error: where: message" in one line on stderr, whatever bytes the message holds. Returns `code`.
int cli_fail(int code, const char *where, const char *format, ...) QN_PRINTF(3, 4);
// The same for an error of the library; `code` alone decides when there is no text.
int cli_fail_with(int code, const quern_error *error);

// SIGINT, SIGTERM and SIGHUP ask the command to end at the next good place; a second one ends it at once.
void cli_catch_signals(void);
// They end the program at once again, as they should while it waits for standard input.
void cli_leave_signals(void);
bool cli_interrupted(void);
// Forgets a signal that was caught, when it was SIGINT; false otherwise. cli_catch_signals catches the next one.
bool cli_take_interrupt(void);
// 128 + the signal's number.
int cli_interrupt_code(void);

#define CLI_SIGNATURE_HELP                                                                                        \
  "the artifact must be signed with the private key that belongs to this public one (PEM, as openssl pkey -pubout " \
  "writes it), and not a byte changed since"

// Do both names mean one file that is there?
bool cli_same_file(const char *a, const char *b);
// Where reports go must be neither the model's file nor one place; either may be NULL, or "-". 0, or the exit code with a
// message.
int cli_check_outputs(const char *path, const char *json_path, const char *html_path);

// Standard output. A write fails once and for all: the rest is dropped and cli_out_end gives the exit code: 0 when the
// reader went away (a broken pipe is no error), else QN_ERR_IO with a message.
void cli_out(const void *data, size_t size);
bool cli_out_failed(void);
int cli_out_end(void);

#endif
