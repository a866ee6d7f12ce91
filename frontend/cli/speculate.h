// --speculate and --draft-tokens of run, bench and eval: what guesses tokens, so that a step evaluates several.
#ifndef QUERN_CLI_SPECULATE_H
#define QUERN_CLI_SPECULATE_H

#include "frontend/cli/run_open.h"

// What the options say. Zero-initialised: no guesses.
typedef struct cli_speculation {
  bool wanted;
  quern_technique technique;
  const char *draft_path;  // borrowed from the command line, also of heads; NULL = the technique needs no model of its own
  int32_t tokens;          // 0 = as many as pay
  bool guesses;            // the model is to be compiled for guesses that branch
  bool rejection;          // quern_speculator_options.rejection
  quern_model *draft;      // owned, once opened
} cli_speculation;

#define CLI_SPECULATE_VALUE "lookup|draft:FILE|medusa:FILE|lookahead"
#define CLI_SPECULATE_HELP                                                                                       \
  "guess what comes next and evaluate several tokens a step; the text is the same, bit for bit. lookup: what came " \
  "after the same tokens before; draft:FILE: what a smaller model says, an artifact or a model file with the same "  \
  "vocabulary; medusa:FILE: what Medusa heads say, an artifact or their folder; lookahead: what the model chose after the same " \
  "tokens, also in a window of guesses further on. Guesses of these three branch where an artifact was compiled with --guesses, " \
  "as model files are"
#define CLI_DRAFT_TOKENS_VALUE    "N|auto"
#define CLI_DRAFT_TOKENS_STANDARD "auto"
#define CLI_DRAFT_TOKENS_HELP \
  "guesses a step: always up to N; auto: as many as pay by what came true so far, at most 7"

// Reads the options' words, NULL where they are not given. 0, or an exit code after a message.
int cli_speculation_read(const char *speculate, const char *draft_tokens, cli_speculation *out);
// Sequences that a model file must be compiled for, so that a step can verify the guesses; 0 = it need not be.
uint32_t cli_speculation_sequences(const cli_speculation *speculation);
// The same where a scheduler has so many texts at a time.
uint32_t cli_speculation_sequences_of(const cli_speculation *speculation, uint32_t texts);
// Opens the draft model or the heads, if there are any, as `target` says the model itself was, a model file compiled for so many
// texts at a time. 0, or an exit code after a message.
int cli_speculation_open(cli_speculation *speculation, const run_source *target, uint32_t texts);
// Gives them to a scheduler.
void cli_speculation_join(const cli_speculation *speculation, quern_scheduler_options *out);
// What the options say to a scheduler's request.
quern_speculator_options cli_speculation_options(const cli_speculation *speculation);
// Makes the guesser of a session; *out_speculator NULL without --speculate. A status, with *error.
int cli_speculation_create(const cli_speculation *speculation, quern_session *session,
                           quern_speculator **out_speculator, quern_error *error);
// After the session is gone.
void cli_speculation_free(cli_speculation *speculation);

#endif
