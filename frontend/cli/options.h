// Options of a command, from one table: the parser, --help and the messages about wrong values all read it.
#ifndef QUERN_CLI_OPTIONS_H
#define QUERN_CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

// What an option takes, and the type of the field that it sets.
typedef enum cli_kind {
  CLI_FLAG,    // nothing; bool
  CLI_TEXT,    // const char *
  CLI_TEXTS,   // cli_texts: may be given several times
  CLI_CHOICE,  // const char *: one of `choices`
  CLI_MAYBE,   // const char *: "all" unless =VALUE follows the name
  CLI_COUNT,   // uint64_t within [min, max]
  CLI_REAL,    // double within [min, max]
} cli_kind;

typedef struct cli_texts {
  const char **items;  // owned, each borrowed from the command line
  size_t count;
} cli_texts;

typedef struct cli_option {
  const char *name;  // without the dashes
  char letter;       // 0 = no short form
  cli_kind kind;
  size_t offset;         // of the field in the command's struct
  const char *value;     // what --help calls the value: "N", "FILE"
  uint64_t min, max;     // CLI_COUNT, CLI_REAL
  const char *choices;   // CLI_CHOICE: "int8|f32"
  const char *standard;  // what holds without the option: of a number the value, maybe behind CLI_OF_MODEL, else words; NULL =
                         // nothing to say
  const char *help;
} cli_option;

#define CLI_OF_MODEL "the model's, else "  // before a standard that a model may have one in place of
#define CLI_OPTIONS_MAX 128               // of a command

// Every command's struct begins with this.
typedef struct cli_common {
  bool help, quiet;
  bool given[CLI_OPTIONS_MAX];  // by the option's place in the table: it was on the command line
} cli_common;

typedef struct cli_command {
  const char *name;
  const char *operands;  // "MODEL -o OUT.qn"; COMMAND stands for a command's name, what holds FILE or MODEL for a file
  const char *summary;   // one line, for `quern help`
  const char *details;   // paragraphs for --help; lines of at most 100 columns
  const cli_option *options;
  size_t option_count;
  size_t options_size;                             // of the struct that the options set, which begins with cli_common
  const char *operand_choices;                     // "bash|zsh": the operand is one of these; NULL = any
  const char *operand_name;                        // what the one operand is, for messages: "a model file"
  bool operand_optional;                           // run gets NULL where there is none
  const char *(*more)(void);                       // a text after the options in --help; NULL = none
  int (*run)(void *options, const char *operand);  // returns the exit code
} cli_command;

// Parses argv[0 .. argc) (what follows the command's name) into the zeroed struct behind `common`, and the operand.
// 0, or QN_ERR_ARGUMENT after a message on stderr, or QN_ERR_NOMEM.
// When --help is among the options nothing else is required; the caller prints it.
int cli_parse(const cli_command *command, int argc, char **argv, cli_common *common, const char **out_operand);
// Was the option of this name on the command line?
bool cli_given(const cli_command *command, const cli_common *common, const char *name);
// Frees what cli_parse allocated (lists of texts).
void cli_parse_free(const cli_command *command, cli_common *common);

// The i-th option of the command's table and then of those that all have; NULL after the last.
const cli_option *cli_option_at(const cli_command *command, size_t i);
// Prints words of `text`, wrapped at 100 columns and indented by `indent`, and a newline; the cursor is at `column`.
void cli_print_wrapped(const char *text, size_t indent, size_t column, FILE *to);
// The help of one command.
void cli_print_help(const cli_command *command, FILE *to);

// A decimal number without sign and the like; false when it is none or does not fit.
bool cli_read_count(const char *text, uint64_t *out);

#endif
