// What run does with a chat template: one message through it (--chat-template, --system), or a conversation (--chat).
#ifndef QUERN_CLI_CHAT_H
#define QUERN_CLI_CHAT_H

#include "frontend/cli/tokens.h"

// The template that is asked for. Zero-initialised; to be freed with cli_chat_template_free.
typedef struct cli_chat_template {
  const char *name;  // one of the model's; NULL = its default
  const char *text;  // instead of the model's; NULL = the model's
  char *owned;
} cli_chat_template;

// `word`: auto (the model's), the name of one of the model's, a file, or a template's text. 0, or an exit code after a
// message.
int cli_chat_template_choose(const quern_model *model, const char *word, cli_chat_template *out);
void cli_chat_template_free(cli_chat_template *chosen);

// Tokens of a conversation up to where the answer begins, in place of what `out` holds. The library's status.
int cli_chat_tokens(const quern_model *model, const cli_chat_template *by, const quern_chat_message *messages,
                    size_t count, cli_ids *out, quern_error *error);
// The token that the template puts after an answer, where that is a control token; -1 otherwise.
int32_t cli_chat_turn_end(const quern_model *model, const cli_chat_template *by);

// A conversation, with messages from standard input: a line each.
typedef struct cli_chat {
  quern_model *model;      // borrowed, as all of these
  quern_session *session;  // empty
  const cli_chat_template *by;
  const char *system;  // NULL = none
  const char *first;   // the first message; NULL = from standard input, too
  const quern_sampler_options *sampler;
  const char *const *stops;
  size_t stop_count;
  quern_speculator *speculator;  // NULL = one token a step
  int64_t max_tokens;  // of an answer; 0 = no limit
  bool ignore_eog, quiet;
} cli_chat;
// Returns the exit code.
int cli_chat_run(const cli_chat *chat);

#endif
