// The option parser. A value follows in the same word (--name=value, -n5) or in the next one (--name value, -n 5); "--"
// ends the options; the last of two equal options holds.
#include "frontend/cli/options.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/cli/cli.h"

enum { NAME_SIZE = 64 };

static const cli_option common_options[] = {
    {"quiet", 'q', CLI_FLAG, offsetof(cli_common, quiet), NULL, 0, 0, NULL, NULL,
     "no progress and no remarks on stderr"},
    {"help", 'h', CLI_FLAG, offsetof(cli_common, help), NULL, 0, 0, NULL, NULL, "this text"},
};

const cli_option *cli_option_at(const cli_command *command, size_t i) {
  if (i < command->option_count) return &command->options[i];
  i -= command->option_count;
  return i < QN_COUNT(common_options) ? &common_options[i] : NULL;
}

// --- messages

static const char *option_name(const void *command, size_t i) { return cli_option_at(command, i)->name; }

static int unknown_option(const cli_command *command, const char *word) {
  char name[NAME_SIZE];
  snprintf(name, sizeof name, "%s", word + strspn(word, "-"));
  name[strcspn(name, "=")] = '\0';
  const char *near = NULL;
  if (word[1] == '-') near = qn_nearest(name, command->option_count + QN_COUNT(common_options), option_name, command);
  if (near) {
    return cli_fail(QN_ERR_ARGUMENT, command->name, "unknown option '%s'; did you mean --%s?", word, near);
  }
  return cli_fail(QN_ERR_ARGUMENT, command->name, "unknown option '%s'; see quern %s --help", word, command->name);
}

static int wrong_value(const cli_option *option, const char *got, const char *want) {
  char where[NAME_SIZE + 2];
  snprintf(where, sizeof where, "--%s", option->name);
  return cli_fail(QN_ERR_ARGUMENT, where, "got '%s', want %s", got, want);
}

// --- values

bool cli_read_count(const char *text, uint64_t *out) {
  if (*text < '0' || *text > '9') return false;  // strtoull takes blanks and signs
  char *end;
  errno = 0;
  unsigned long long value = strtoull(text, &end, 10);
  if (errno != 0 || *end != '\0') return false;
  *out = value;
  return true;
}

static bool read_real(const char *text, double *out) {
  if (!*text || text[strspn(text, "0123456789+-.eE")] != '\0') return false;  // no blanks, hex, "inf", "nan"
  char *end;
  double value = strtod(text, &end);
  if (*end != '\0' || !isfinite(value)) return false;
  *out = value;
  return true;
}

static bool is_choice(const char *choices, const char *text) {
  size_t length = strlen(text);
  for (const char *at = choices; length > 0;) {
    size_t size = strcspn(at, "|");
    if (size == length && memcmp(at, text, size) == 0) return true;
    if (!at[size]) break;
    at += size + 1;
  }
  return false;
}

static int set_count(const cli_option *option, const char *text, uint64_t *field) {
  if (cli_read_count(text, field) && *field >= option->min && *field <= option->max) return 0;
  char want[96];
  snprintf(want, sizeof want, "a whole number from %llu to %llu", (unsigned long long)option->min,
           (unsigned long long)option->max);
  return wrong_value(option, text, want);
}

static int set_real(const cli_option *option, const char *text, double *field) {
  if (read_real(text, field) && *field >= (double)option->min && *field <= (double)option->max) return 0;
  char want[96];
  snprintf(want, sizeof want, "a number from %llu to %llu", (unsigned long long)option->min,
           (unsigned long long)option->max);
  return wrong_value(option, text, want);
}

// "a|b|c" → "a, b or c"
static void list_choices(const char *choices, char *out, size_t size) {
  size_t used = 0;
  for (const char *at = choices; *at && used < size;) {
    size_t length = strcspn(at, "|");
    const char *between = used == 0 ? "" : at[length] ? ", " : " or ";
    used += (size_t)snprintf(out + used, size - used, "%s%.*s", between, (int)length, at);
    at += length + (at[length] == '|');
  }
}

static int set_choice(const cli_option *option, const char *text, const char **field) {
  char want[128];
  *field = text;
  if (is_choice(option->choices, text)) return 0;
  list_choices(option->choices, want, sizeof want);
  return wrong_value(option, text, want);
}

static int add_text(cli_texts *texts, const char *text) {
  const char **items = realloc(texts->items, (texts->count + 1) * sizeof *items);
  if (!items) return cli_fail(QN_ERR_NOMEM, "options", "out of memory");
  texts->items = items;
  items[texts->count++] = text;
  return 0;
}

static int set_value(const cli_option *option, const char *text, cli_common *common) {
  void *field = (char *)common + option->offset;
  switch (option->kind) {
    case CLI_FLAG: *(bool *)field = true; return 0;
    case CLI_TEXT:
    case CLI_MAYBE: *(const char **)field = text; return 0;
    case CLI_TEXTS: return add_text(field, text);
    case CLI_CHOICE: return set_choice(option, text, field);
    case CLI_COUNT: return set_count(option, text, field);
    case CLI_REAL: return set_real(option, text, field);
  }
  return QN_ERR_INTERNAL;
}

// --- words

typedef struct words {
  const cli_command *command;
  cli_common *common;
  char **argv;
  int count, at;
} words;

// The value in the next word.
static int take_next(words *w, const cli_option *option) {
  if (w->at == w->count) {
    char where[NAME_SIZE + 2];
    snprintf(where, sizeof where, "--%s", option->name);
    return cli_fail(QN_ERR_ARGUMENT, where, "got nothing after it, want %s", option->value);
  }
  return set_value(option, w->argv[w->at++], w->common);
}

static void note_given(words *w, const cli_option *option) {
  for (size_t i = 0; i < w->command->option_count; i++) {
    if (option == &w->command->options[i]) w->common->given[i] = true;
  }
}

// --name, --name=value
static int parse_long(words *w, const char *word) {
  const char *name = word + 2, *equals = strchr(name, '=');
  size_t length = equals ? (size_t)(equals - name) : strlen(name);
  const cli_option *option;
  for (size_t i = 0; (option = cli_option_at(w->command, i)) != NULL; i++) {
    if (strlen(option->name) == length && memcmp(option->name, name, length) == 0) break;
  }
  if (!option) return unknown_option(w->command, word);
  note_given(w, option);
  if (option->kind == CLI_FLAG && equals) return wrong_value(option, equals + 1, "no value");
  if (option->kind == CLI_MAYBE && !equals) return set_value(option, "all", w->common);
  if (equals) return set_value(option, equals + 1, w->common);
  return option->kind == CLI_FLAG ? set_value(option, NULL, w->common) : take_next(w, option);
}

// -q, -n5, -n 5, -qn5
static int parse_short(words *w, const char *word) {
  for (const char *at = word + 1; *at; at++) {
    const cli_option *option;
    for (size_t i = 0; (option = cli_option_at(w->command, i)) != NULL && option->letter != *at; i++) continue;
    if (!option) return unknown_option(w->command, word);
    note_given(w, option);
    int code;
    if (option->kind == CLI_FLAG) {
      code = set_value(option, NULL, w->common);
    } else {
      return at[1] ? set_value(option, at + 1, w->common) : take_next(w, option);
    }
    if (code != 0) return code;
  }
  return 0;
}

// What --help says is the default is the default: there is no second place for it.
static void set_standards(const cli_command *command, cli_common *common) {
  for (size_t i = 0; i < command->option_count; i++) {
    const cli_option *option = &command->options[i];
    void *field = (char *)common + option->offset;
    const char *standard = option->standard;
    if (!standard) continue;
    if (strncmp(standard, CLI_OF_MODEL, strlen(CLI_OF_MODEL)) == 0) standard += strlen(CLI_OF_MODEL);
    if (option->kind == CLI_COUNT && !cli_read_count(standard, field)) *(uint64_t *)field = 0;
    if (option->kind == CLI_REAL && !read_real(standard, field)) *(double *)field = 0;
  }
}

bool cli_given(const cli_command *command, const cli_common *common, const char *name) {
  for (size_t i = 0; i < command->option_count; i++) {
    if (strcmp(command->options[i].name, name) == 0) return common->given[i];
  }
  return false;
}

int cli_parse(const cli_command *command, int argc, char **argv, cli_common *common, const char **out_operand) {
  assert(command->option_count <= CLI_OPTIONS_MAX);
  words w = {.command = command, .common = common, .argv = argv, .count = argc};
  bool only_operands = false;
  *out_operand = NULL;
  set_standards(command, common);
  while (w.at < w.count) {
    const char *word = argv[w.at++];
    int code = 0;
    if (!only_operands && strcmp(word, "--") == 0) {
      only_operands = true;
    } else if (!only_operands && word[0] == '-' && word[1] == '-') {
      code = parse_long(&w, word);
    } else if (!only_operands && word[0] == '-' && word[1]) {
      code = parse_short(&w, word);
    } else if (*out_operand) {
      code = cli_fail(QN_ERR_ARGUMENT, command->name, "got '%s' too, want only %s", word, command->operand_name);
    } else {
      *out_operand = word;
    }
    if (code != 0) return code;
  }
  if (!*out_operand && !common->help && !command->operand_optional) {
    return cli_fail(QN_ERR_ARGUMENT, command->name, "got no file, want %s; see quern %s --help", command->operand_name,
                    command->name);
  }
  return 0;
}

void cli_parse_free(const cli_command *command, cli_common *common) {
  for (size_t i = 0; i < command->option_count; i++) {
    if (command->options[i].kind != CLI_TEXTS) continue;
    cli_texts *texts = (cli_texts *)(void *)((char *)common + command->options[i].offset);
    free(texts->items);
    *texts = (cli_texts){0};
  }
}

// --- help

enum { HELP_COLUMN = 28, HELP_WIDTH = 100 };

void cli_print_wrapped(const char *text, size_t indent, size_t column, FILE *to) {
  while (*text) {
    size_t length = strcspn(text, " ");
    if (column > indent && column + 1 + length > HELP_WIDTH) {
      fprintf(to, "\n%*s", (int)indent, "");
      column = indent;
    } else if (column > indent) {
      fputc(' ', to);
      column++;
    }
    fprintf(to, "%.*s", (int)length, text);
    column += length;
    text += length + (text[length] == ' ');
  }
  fputc('\n', to);
}

static void print_option(const cli_option *option, FILE *to) {
  char left[96], text[512];
  int used = snprintf(left, sizeof left, option->letter ? "  -%c, --%s" : "  %c   --%s",
                      option->letter ? option->letter : ' ', option->name);
  const char *value = option->kind == CLI_CHOICE ? option->choices : option->value;
  if (value) {
    used += snprintf(left + used, sizeof left - (size_t)used, option->kind == CLI_MAYBE ? "[=%s]" : " %s", value);
  }
  fputs(left, to);
  if (used >= HELP_COLUMN - 1) {
    fputc('\n', to);
    used = 0;
  }
  fprintf(to, "%*s", HELP_COLUMN - used, "");
  const char *standard = option->standard;
  snprintf(text, sizeof text, "%s%s%s%s", option->help, standard ? " (default: " : "", standard ? standard : "",
           standard ? ")" : "");
  cli_print_wrapped(text, HELP_COLUMN, HELP_COLUMN, to);
}

void cli_print_help(const cli_command *command, FILE *to) {
  fprintf(to, "usage: quern %s %s [options]\n\n%s\nOptions:\n", command->name, command->operands, command->details);
  const cli_option *option;
  for (size_t i = 0; (option = cli_option_at(command, i)) != NULL; i++) print_option(option, to);
  if (command->more) fprintf(to, "\n%s", command->more());
}
