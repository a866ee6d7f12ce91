// quern completion: scripts by which bash and zsh complete command lines, made from the tables of options.
#include <string.h>

#include "frontend/cli/cli.h"

static const char details[] =
    "Writes a script that completes quern's commands, options and values in a shell. For this session:\n"
    "  bash   source <(quern completion bash)\n"
    "  zsh    source <(quern completion zsh)\n";

// --- what a value is

typedef enum value_kind { VALUE_NONE, VALUE_WORDS, VALUE_FILE, VALUE_FOLDER } value_kind;

// What stands for a value in help tells what completes it.
static value_kind kind_of(const cli_option *option) {
  if (option->kind == CLI_CHOICE) return VALUE_WORDS;
  if (!option->value) return VALUE_NONE;
  if (strcmp(option->value, "DIR") == 0) return VALUE_FOLDER;
  return strstr(option->value, "FILE") ? VALUE_FILE : VALUE_NONE;
}

static bool takes_file(const cli_command *command) {
  return strstr(command->operands, "FILE") || strstr(command->operands, "MODEL") || strstr(command->operands, "OUT.qn");
}

static void put_words(qn_buf *out, const char *choices) {
  for (; *choices; choices++) qn_buf_putc(out, *choices == '|' ? ' ' : *choices);
}

static void put_command_names(qn_buf *out) {
  size_t count;
  const cli_command *const *commands = cli_commands(&count);
  for (size_t i = 0; i < count; i++) qn_buf_printf(out, "%s%s", i ? " " : "", commands[i]->name);
}

// --- bash

static void put_bash_option(qn_buf *out, const cli_option *option) {
  if (option->kind == CLI_FLAG || option->kind == CLI_MAYBE) return;
  qn_buf_printf(out, "        --%s", option->name);
  if (option->letter) qn_buf_printf(out, "|-%c", option->letter);
  switch (kind_of(option)) {
    case VALUE_WORDS:
      qn_buf_puts(out, ") words=\"");
      put_words(out, option->choices);
      qn_buf_puts(out, "\" ;;\n");
      break;
    case VALUE_FILE: qn_buf_puts(out, ") files=-f ;;\n"); break;
    case VALUE_FOLDER: qn_buf_puts(out, ") files=-d ;;\n"); break;
    case VALUE_NONE: qn_buf_puts(out, ") return ;;\n"); break;
  }
}

static void put_bash_command(qn_buf *out, const cli_command *command) {
  const cli_option *option;
  qn_buf_printf(out, "    %s)\n      options=\"", command->name);
  for (size_t i = 0; (option = cli_option_at(command, i)) != NULL; i++) {
    qn_buf_printf(out, "%s--%s", i ? " " : "", option->name);
    if (option->letter) qn_buf_printf(out, " -%c", option->letter);
  }
  qn_buf_puts(out, "\"\n      case $previous in\n");
  for (size_t i = 0; (option = cli_option_at(command, i)) != NULL; i++) put_bash_option(out, option);
  qn_buf_puts(out, "        *) ");
  if (command->operand_choices) {
    qn_buf_puts(out, "words=\"");
    put_words(out, command->operand_choices);
    qn_buf_putc(out, '"');
  } else if (strstr(command->operands, "COMMAND")) {
    qn_buf_puts(out, "words=$commands");
  } else if (takes_file(command)) {
    qn_buf_puts(out, "files=-f");
  } else {
    qn_buf_puts(out, ": no operand");
  }
  qn_buf_puts(out, " ;;\n      esac\n      ;;\n");
}

// "--name=value" comes as three words, since bash cuts at "=".
static const char bash_head[] =
    "# Completes quern's command lines in bash. Made by quern completion bash.\n"
    "_quern() {\n"
    "  local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} options= words= files= commands\n"
    "  if [[ $word == = ]]; then\n"
    "    word=\n"
    "  elif [[ $previous == = ]]; then\n"
    "    previous=${COMP_WORDS[COMP_CWORD-2]}\n"
    "  fi\n"
    "  COMPREPLY=()\n";

static const char bash_tail[] =
    "    *) return ;;\n"
    "  esac\n"
    "  if [[ $word == -* ]]; then\n"
    "    COMPREPLY=($(compgen -W \"$options\" -- \"$word\"))\n"
    "    return\n"
    "  fi\n"
    "  if [[ $words ]]; then COMPREPLY=($(compgen -W \"$words\" -- \"$word\")); fi\n"
    "  if [[ $files ]]; then\n"
    "    compopt -o filenames 2>/dev/null\n"
    "    local IFS=$'\\n'\n"
    "    COMPREPLY=($(compgen \"$files\" -- \"$word\"))\n"
    "  fi\n"
    "}\n"
    "complete -F _quern quern\n";

static void put_bash(qn_buf *out) {
  size_t count;
  const cli_command *const *commands = cli_commands(&count);
  qn_buf_puts(out, bash_head);
  qn_buf_puts(out, "  commands=\"");
  put_command_names(out);
  qn_buf_puts(out,
              "\"\n  if [[ $COMP_CWORD -eq 1 ]]; then\n"
              "    COMPREPLY=($(compgen -W \"$commands help --help --version\" -- \"$word\"))\n    return\n  fi\n"
              "  case ${COMP_WORDS[1]} in\n    help) words=$commands ;;\n");
  for (size_t i = 0; i < count; i++) put_bash_command(out, commands[i]);
  qn_buf_puts(out, bash_tail);
}

// --- zsh

// Text within '...' of a script, `special` behind backslashes.
static void put_quoted(qn_buf *out, const char *text, const char *special) {
  for (; *text; text++) {
    if (*text == '\'') {
      qn_buf_puts(out, "'\\''");
    } else {
      if (strchr(special, *text)) qn_buf_putc(out, '\\');
      qn_buf_putc(out, *text);
    }
  }
}

static void put_zsh_value(qn_buf *out, const cli_option *option) {
  qn_buf_puts(out, option->kind == CLI_MAYBE ? "::" : ":");
  put_quoted(out, option->value ? option->value : "value", ":\\");
  qn_buf_putc(out, ':');
  switch (kind_of(option)) {
    case VALUE_WORDS:
      qn_buf_putc(out, '(');
      put_words(out, option->choices);
      qn_buf_putc(out, ')');
      break;
    case VALUE_FILE: qn_buf_puts(out, "_files"); break;
    case VALUE_FOLDER: qn_buf_puts(out, "_files -/"); break;
    case VALUE_NONE: qn_buf_putc(out, ' '); break;
  }
}

// One spec for each spelling, which exclude one another unless the option may be given several times.
static void put_zsh_option(qn_buf *out, const cli_option *option) {
  bool value = option->kind != CLI_FLAG;
  for (int spelling = option->letter ? 0 : 1; spelling < 2; spelling++) {
    qn_buf_puts(out, "        '");
    if (option->kind == CLI_TEXTS) {
      qn_buf_putc(out, '*');
    } else if (option->letter) {
      qn_buf_printf(out, "(-%c --%s)", option->letter, option->name);
    }
    if (spelling == 0) {
      qn_buf_printf(out, "-%c%s[", option->letter, value ? "+" : "");
    } else {
      qn_buf_printf(out, "--%s%s[", option->name, option->kind == CLI_MAYBE ? "=-" : value ? "=" : "");
    }
    put_quoted(out, option->help, "[]:\\");
    qn_buf_putc(out, ']');
    if (value) put_zsh_value(out, option);
    qn_buf_puts(out, "' \\\n");
  }
}

static void put_zsh_command(qn_buf *out, const cli_command *command) {
  const cli_option *option;
  qn_buf_printf(out, "    %s)\n      _arguments -s -S \\\n", command->name);
  for (size_t i = 0; (option = cli_option_at(command, i)) != NULL; i++) put_zsh_option(out, option);
  qn_buf_puts(out, "        ");
  if (command->operand_choices) {
    qn_buf_puts(out, "'1: :(");
    put_words(out, command->operand_choices);
    qn_buf_puts(out, ")'");
  } else if (strstr(command->operands, "COMMAND")) {
    qn_buf_puts(out, "'1: :_quern_commands'");
  } else if (takes_file(command)) {
    qn_buf_puts(out, "'1: :_files'");
  } else {
    qn_buf_puts(out, "&& return");
  }
  qn_buf_puts(out, "\n      ;;\n");
}

static void put_zsh(qn_buf *out) {
  size_t count;
  const cli_command *const *commands = cli_commands(&count);
  qn_buf_puts(out,
              "#compdef quern\n# Completes quern's command lines in zsh. Made by quern completion zsh.\n"
              "_quern_commands() {\n  local -a commands=(\n");
  for (size_t i = 0; i < count; i++) {
    qn_buf_printf(out, "    '%s:", commands[i]->name);
    put_quoted(out, commands[i]->summary, ":\\");
    qn_buf_puts(out, "'\n");
  }
  qn_buf_puts(out,
              "    'help:tells the options of a command'\n  )\n  _describe command commands\n}\n"
              "_quern() {\n  if (( CURRENT == 2 )); then\n    _quern_commands\n    return\n  fi\n"
              "  local command=$words[2]\n  shift words\n  (( CURRENT-- ))\n  case $command in\n"
              "    help) _arguments '1: :_quern_commands' ;;\n");
  for (size_t i = 0; i < count; i++) put_zsh_command(out, commands[i]);
  qn_buf_puts(out,
              "  esac\n}\n"
              "if [[ $zsh_eval_context[-1] == loadautofunc ]]; then _quern \"$@\"; else compdef _quern quern; fi\n");
}

// --- the command

static const struct shell {
  const char *name;
  void (*put)(qn_buf *out);
} shells[] = {{"bash", put_bash}, {"zsh", put_zsh}};

static int run(void *context, const char *name) {
  (void)context;
  for (size_t i = 0; name && i < QN_COUNT(shells); i++) {
    if (strcmp(name, shells[i].name) != 0) continue;
    qn_buf script;
    qn_buf_init(&script, qn_allocator_default());
    shells[i].put(&script);
    bool failed = script.failed;
    cli_out(qn_buf_text(&script), script.length);
    qn_buf_deinit(&script);
    return failed ? cli_fail(QN_ERR_NOMEM, "completion", "out of memory for the script") : cli_out_end();
  }
  return cli_fail(QN_ERR_ARGUMENT, "completion", "got %s, want a shell: bash or zsh", name ? name : "nothing");
}

const cli_command cli_completion_command = {
    .name = "completion",
    .operands = "bash|zsh",
    .summary = "writes a script that completes command lines in a shell",
    .details = details,
    .options_size = sizeof(cli_common),
    .operand_name = "one shell",
    .operand_choices = "bash|zsh",
    .operand_optional = true,
    .run = run,
};
