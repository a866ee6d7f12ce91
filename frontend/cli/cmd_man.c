// quern man: manual pages, made from the same tables as --help, so that the two cannot differ.
#include <stdlib.h>
#include <string.h>

#include "frontend/cli/cli.h"
#include "runtime/base/file.h"

typedef struct man_options {
  cli_common common;
  const char *folder;
} man_options;

#define FIELD(name) offsetof(man_options, name)
static const cli_option options_table[] = {
    {"all", 0, CLI_TEXT, FIELD(folder), "DIR", 0, 0, NULL, NULL,
     "write every page into this folder, as quern.1, quern-run.1 and so on, instead of one to standard output"},
};

static const char details[] =
    "Writes the manual page of a command, or of quern itself, to standard output: quern man run | man -l -\n";

// --- text in roff

// Characters that roff would take for its own.
static void put_text(qn_buf *out, const char *text, size_t length) {
  bool begins = out->length == 0 || out->data[out->length - 1] == '\n';
  for (size_t i = 0; i < length; i++) {
    if (begins && (text[i] == '.' || text[i] == '\'')) qn_buf_puts(out, "\\&");
    begins = text[i] == '\n';
    if (text[i] == '\\') {
      qn_buf_puts(out, "\\e");
    } else if (text[i] == '-') {
      qn_buf_puts(out, "\\-");
    } else {
      qn_buf_putc(out, text[i]);
    }
  }
}

static void put(qn_buf *out, const char *text) { put_text(out, text, strlen(text)); }

// Lines of a help text: those that begin with a space are tables, kept as they are, like a line that ends in a colon.
static void put_paragraphs(qn_buf *out, const char *text) {
  bool table = false;
  while (*text) {
    size_t length = strcspn(text, "\n");
    bool kept = text[0] == ' ' || (length > 0 && text[length - 1] == ':' && text[length] && text[length + 1] == ' ');
    if (kept != table) qn_buf_puts(out, kept ? ".PP\n.nf\n" : ".fi\n.PP\n");
    table = kept;
    put_text(out, text, length);
    qn_buf_putc(out, '\n');
    text += length + (text[length] == '\n');
  }
  if (table) qn_buf_puts(out, ".fi\n");
}

static void put_option(qn_buf *out, const cli_option *option) {
  const char *value = option->kind == CLI_CHOICE ? option->choices : option->value;
  qn_buf_puts(out, ".TP\n\\fB");
  if (option->letter) qn_buf_printf(out, "\\-%c\\fR, \\fB", option->letter);
  qn_buf_puts(out, "\\-\\-");
  put(out, option->name);
  qn_buf_puts(out, "\\fR");
  if (value) {
    qn_buf_puts(out, option->kind == CLI_MAYBE ? "[=\\fI" : " \\fI");
    put(out, value);
    qn_buf_puts(out, option->kind == CLI_MAYBE ? "\\fR]" : "\\fR");
  }
  qn_buf_putc(out, '\n');
  put(out, option->help);
  if (option->standard) {
    qn_buf_puts(out, " (default: ");
    put(out, option->standard);
    qn_buf_putc(out, ')');
  }
  qn_buf_putc(out, '\n');
}

// --- pages

static void put_head(qn_buf *out, const char *name, const char *summary) {
  qn_buf_puts(out, ".\\\" Made by quern man.\n.TH ");
  for (const char *at = name; *at; at++) qn_buf_putc(out, (char)(*at >= 'a' && *at <= 'z' ? *at - 'a' + 'A' : *at));
  qn_buf_printf(out, " 1 \"\" \"quern %s\" \"User Commands\"\n.SH NAME\n", quern_version());
  put(out, name);
  qn_buf_puts(out, " \\- ");
  put(out, summary);
  qn_buf_puts(out, "\n.SH SYNOPSIS\n");
}

static void put_exit_codes(qn_buf *out) {
  size_t count;
  const cli_exit_code *codes = cli_exit_codes(&count);
  qn_buf_puts(out, ".SH EXIT STATUS\n");
  for (size_t i = 0; i < count; i++) qn_buf_printf(out, ".TP\n.B %d\n%s\n", codes[i].code, codes[i].meaning);
  qn_buf_puts(out, ".TP\n.B 128 + N\nended by signal N\n");
}

// All pages but `own`.
static void put_see_also(qn_buf *out, const cli_command *own) {
  size_t count;
  const cli_command *const *commands = cli_commands(&count);
  qn_buf_puts(out, ".SH SEE ALSO\n");
  if (own) qn_buf_puts(out, ".BR quern (1),\n");
  const cli_command *last = commands[count - 1] == own ? commands[count - 2] : commands[count - 1];
  for (size_t i = 0; i < count; i++) {
    if (commands[i] == own) continue;
    qn_buf_printf(out, ".BR quern\\-%s (1)%s\n", commands[i]->name, commands[i] == last ? "" : ",");
  }
}

static void put_command_page(qn_buf *out, const cli_command *command) {
  char name[64];
  const cli_option *option;
  snprintf(name, sizeof name, "quern-%s", command->name);
  put_head(out, name, command->summary);
  qn_buf_printf(out, ".B quern %s\n", command->name);
  if (command->operands[0]) {
    qn_buf_puts(out, ".I ");
    put(out, command->operands);
    qn_buf_putc(out, '\n');
  }
  qn_buf_puts(out, "[options]\n.SH DESCRIPTION\n");
  put_paragraphs(out, command->details);
  qn_buf_puts(out, ".SH OPTIONS\n");
  for (size_t i = 0; (option = cli_option_at(command, i)) != NULL; i++) put_option(out, option);
  if (command->more) {
    qn_buf_puts(out, ".SH NOTES\n");
    put_paragraphs(out, command->more());
  }
  put_exit_codes(out);
  put_see_also(out, command);
}

// What the program takes from its environment.
static const struct {
  const char *name, *meaning;
} variables[] = {
    {"XDG_CACHE_HOME", "artifacts that quern run compiled are kept in the folder quern in it; ~/.cache without it"},
    {"QUERN_CACHE_LIMIT", "what those artifacts may take together: 20G, 500M, or bytes; 0 is any size; 32 GiB without it"},
    {"XDG_DATA_HOME",
     "the database of quern tune and quern machine is quern/tuning.db in it; ~/.local/share without it"},
    {"TMPDIR", "where files are made that nobody keeps; /tmp without it"},
};

static void put_main_page(qn_buf *out) {
  size_t count;
  const cli_command *const *commands = cli_commands(&count);
  put_head(out, "quern", "compiles transformer models to machine code and runs them");
  qn_buf_puts(out, ".B quern\n.I COMMAND\n[options]\n.br\n.B quern help\n[\\fICOMMAND\\fR]\n.SH DESCRIPTION\n");
  put(out, cli_purpose);
  qn_buf_puts(out, "\n.SH COMMANDS\n");
  for (size_t i = 0; i < count; i++) {
    qn_buf_printf(out, ".TP\n.BR quern\\-%s (1)\n", commands[i]->name);
    put(out, commands[i]->summary);
    qn_buf_putc(out, '\n');
  }
  qn_buf_puts(out, ".SH ENVIRONMENT\n");
  for (size_t i = 0; i < QN_COUNT(variables); i++) {
    qn_buf_printf(out, ".TP\n.B %s\n", variables[i].name);
    put(out, variables[i].meaning);
    qn_buf_putc(out, '\n');
  }
  put_exit_codes(out);
  put_see_also(out, NULL);
}

// --- the command

static int fail_nomem(void) { return cli_fail(QN_ERR_NOMEM, "man", "out of memory for a page"); }

// `command` NULL: quern itself.
static int write_page(const char *folder, const cli_command *command) {
  qn_buf path, page;
  qn_diag diag = {0};
  qn_file_writer writer;
  qn_buf_init(&path, qn_allocator_default());
  qn_buf_init(&page, qn_allocator_default());
  if (command) {
    qn_buf_printf(&path, "%s/quern-%s.1", folder, command->name);
    put_command_page(&page, command);
  } else {
    qn_buf_printf(&path, "%s/quern.1", folder);
    put_main_page(&page);
  }
  int code = path.failed || page.failed ? fail_nomem() : 0;
  if (code == 0) {
    qn_status status = qn_file_writer_open(&writer, qn_buf_text(&path), &diag);
    if (status == QN_OK) {
      status = qn_file_writer_write(&writer, page.data, page.length);
      if (status == QN_OK) status = qn_file_writer_commit(&writer);
      qn_file_writer_abandon(&writer);
    }
    if (status != QN_OK) code = cli_fail((int)status, "man", "%s", diag.text);
  }
  qn_buf_deinit(&path);
  qn_buf_deinit(&page);
  return code;
}

static int write_all(const char *folder) {
  size_t count;
  const cli_command *const *commands = cli_commands(&count);
  qn_diag diag = {0};
  qn_status status = qn_make_directories(folder, &diag);
  if (status != QN_OK) return cli_fail((int)status, "man", "%s", diag.text);
  int code = write_page(folder, NULL);
  for (size_t i = 0; i < count && code == 0; i++) code = write_page(folder, commands[i]);
  return code;
}

static int run(void *context, const char *name) {
  const man_options *options = context;
  const cli_command *command = name ? cli_find_command(name) : NULL;
  if (name && !command) return cli_unknown_command(name);
  if (options->folder && name) return cli_fail(QN_ERR_ARGUMENT, "--all", "writes every page, got '%s' too", name);
  if (options->folder) return write_all(options->folder);
  qn_buf page;
  qn_buf_init(&page, qn_allocator_default());
  if (command) {
    put_command_page(&page, command);
  } else {
    put_main_page(&page);
  }
  bool failed = page.failed;
  cli_out(qn_buf_text(&page), page.length);
  qn_buf_deinit(&page);
  return failed ? fail_nomem() : cli_out_end();
}

const cli_command cli_man_command = {
    .name = "man",
    .operands = "[COMMAND]",
    .summary = "writes the manual page of a command",
    .details = details,
    .options = options_table,
    .option_count = QN_COUNT(options_table),
    .options_size = sizeof(man_options),
    .operand_name = "one command",
    .operand_optional = true,
    .run = run,
};
