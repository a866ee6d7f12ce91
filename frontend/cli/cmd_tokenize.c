// quern tokenize: a text's tokens, or the text of tokens.
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "frontend/cli/cli.h"
#include "frontend/cli/json.h"
#include "runtime/base/file.h"
#include "runtime/base/vec.h"

typedef struct tokenize_options {
  cli_common common;
  const char *prompt, *file;
  bool special, bare, decode, count, ids, json;
} tokenize_options;

#define FIELD(name) offsetof(tokenize_options, name)
static const cli_option options_table[] = {
    {"prompt", 'p', CLI_TEXT, FIELD(prompt), "TEXT", 0, 0, NULL, "standard input",
     "the text; - is standard input, of which a newline at the end is dropped"},
    {"file", 'f', CLI_TEXT, FIELD(file), "FILE", 0, 0, NULL, NULL, "take the text from a file, every byte of it"},
    {"special", 0, CLI_FLAG, FIELD(special), NULL, 0, 0, NULL, NULL,
     "control tokens by name: <|im_end|> in the text becomes the token; with --decode they are shown"},
    {"bare", 0, CLI_FLAG, FIELD(bare), NULL, 0, 0, NULL, NULL,
     "without the tokens that the vocabulary wants around every text"},
    {"decode", 0, CLI_FLAG, FIELD(decode), NULL, 0, 0, NULL, NULL,
     "the other way: the text is token ids, with white space or commas between them; their text is printed as it is"},
    {"count", 0, CLI_FLAG, FIELD(count), NULL, 0, 0, NULL, NULL, "print only how many tokens there are"},
    {"ids", 0, CLI_FLAG, FIELD(ids), NULL, 0, 0, NULL, NULL, "print only the ids, in one line"},
    {"json", 0, CLI_FLAG, FIELD(json), NULL, 0, 0, NULL, NULL,
     "print one JSON object: kind, vocabulary, count, ids, pieces; with --decode text, too"},
};

static const char details[] =
    "Shows the tokens of a text, one a line: the id, then what it stands for, quoted. FILE is an artifact, a\n"
    "model file (GGUF), a folder from Hugging Face, a tokenizer.json or a tokenizer.model; weights are not\n"
    "read. Texts are tokenized as quern run does: tokens that the vocabulary wants around a text are among\n"
    "them, control tokens by name only with --special.\n";

typedef struct tokenize_state {
  const tokenize_options *options;
  quern_tokenizer *tokenizer;  // owned
  char *owned;                 // the text where it was read, from malloc
  size_t owned_size;
  const char *text;
  size_t length;
  QN_VEC(int32_t) tokens;  // owned
  qn_buf out;
} tokenize_state;

static int fail_nomem(void) { return cli_fail(QN_ERR_NOMEM, "tokenize", "out of memory"); }

static int read_text(tokenize_state *s) {
  const tokenize_options *o = s->options;
  qn_diag diag = {0};
  if (o->prompt && o->file) return cli_fail(QN_ERR_ARGUMENT, "--file", "got --prompt too, want one of them");
  if (o->prompt && strcmp(o->prompt, "-") != 0) {
    s->text = o->prompt;
    s->length = strlen(o->prompt);
    return 0;
  }
  const char *path = o->file ? o->file : "-";
  if (!o->file && !o->common.quiet && isatty(STDIN_FILENO)) fputs("quern: reading the text; Ctrl-D ends it\n", stderr);
  cli_leave_signals();
  qn_status status = qn_file_read(path, QN_TEXT_MAX, qn_allocator_default(), &s->owned, &s->owned_size, &diag);
  cli_catch_signals();
  if (status != QN_OK) return cli_fail((int)status, o->file ? "--file" : "text", "%s", diag.text);
  s->text = s->owned;
  s->length = s->owned_size;
  if (!o->file && s->length > 0 && s->text[s->length - 1] == '\n') s->length--;
  return 0;
}

// ---- decoding ----------------------------------------------------------------------------------------------------

static bool is_between(char c) { return c == ',' || c == ' ' || (c >= '\t' && c <= '\r'); }

static int parse_ids(tokenize_state *s) {
  int32_t most = quern_tokenizer_count(s->tokenizer) - 1;
  for (size_t at = 0; at < s->length;) {
    if (is_between(s->text[at])) {
      at++;
      continue;
    }
    size_t end = at;
    while (end < s->length && !is_between(s->text[end])) end++;
    char word[24];
    uint64_t id;
    snprintf(word, sizeof word, "%.*s", (int)(end - at < sizeof word ? end - at : sizeof word - 1), s->text + at);
    if (end - at >= sizeof word || !cli_read_count(word, &id) || id > (uint64_t)most) {
      return cli_fail(QN_ERR_ARGUMENT, "--decode", "token %zu: got '%s', want a number from 0 to %d", s->tokens.count,
                      word, most);
    }
    if (!qn_vec_push(qn_allocator_default(), &s->tokens, (int32_t)id)) return fail_nomem();
    at = end;
  }
  return 0;
}

static int decode(tokenize_state *s, qn_buf *text) {
  unsigned flags = s->options->special ? QUERN_DETOKENIZE_SPECIAL : 0;
  quern_error error = {0};
  size_t length = 0;
  int code = parse_ids(s);
  if (code != 0) return code;
  code = quern_tokenizer_decode(s->tokenizer, s->tokens.items, s->tokens.count, flags, NULL, 0, &length, &error);
  if (code == QN_ERR_LIMIT && length > 0) {  // now it is known how long it is
    char *bytes = malloc(length);
    if (!bytes) return fail_nomem();
    code =
        quern_tokenizer_decode(s->tokenizer, s->tokens.items, s->tokens.count, flags, bytes, length, &length, &error);
    if (code == 0) qn_buf_append(text, bytes, length);
    free(bytes);
  }
  return code == 0 ? 0 : cli_fail_with(code, &error);
}

// ---- encoding ----------------------------------------------------------------------------------------------------

static int encode(tokenize_state *s) {
  unsigned flags =
      (s->options->special ? QUERN_TOKENIZE_PARSE_SPECIAL : 0u) | (s->options->bare ? 0u : QUERN_TOKENIZE_ADD_SPECIAL);
  quern_error error = {0};
  size_t count = 0;
  int code = quern_tokenizer_encode(s->tokenizer, s->text, s->length, flags, NULL, 0, &count, &error);
  if (code == QN_ERR_LIMIT && count > 0) {
    while (s->tokens.count < count) {
      if (!qn_vec_push(qn_allocator_default(), &s->tokens, 0)) return fail_nomem();
    }
    code = quern_tokenizer_encode(s->tokenizer, s->text, s->length, flags, s->tokens.items, count, &count, &error);
  }
  return code == 0 ? 0 : cli_fail_with(code, &error);
}

// ---- printing ----------------------------------------------------------------------------------------------------

static qn_str piece_of(const tokenize_state *s, size_t i) {
  qn_str piece;
  piece.data = quern_tokenizer_piece(s->tokenizer, s->tokens.items[i], &piece.length);
  return piece;
}

static void put_json(tokenize_state *s, const qn_buf *text) {
  cli_json json = {.out = &s->out};
  cli_json_begin(&json, NULL, '{');
  cli_json_text(&json, "kind", qn_str_from(quern_tokenizer_kind(s->tokenizer)));
  cli_json_int(&json, "vocabulary", quern_tokenizer_count(s->tokenizer));
  cli_json_int(&json, "count", (int64_t)s->tokens.count);
  if (!s->options->count) {
    if (text) cli_json_text(&json, "text", (qn_str){qn_buf_text(text), text->length});
    cli_json_begin(&json, "ids", '[');
    for (size_t i = 0; i < s->tokens.count; i++) cli_json_int(&json, NULL, s->tokens.items[i]);
    cli_json_end(&json, ']');
    cli_json_begin(&json, "pieces", '[');
    for (size_t i = 0; i < s->tokens.count; i++) cli_json_text(&json, NULL, piece_of(s, i));
    cli_json_end(&json, ']');
  }
  cli_json_end(&json, '}');
  qn_buf_putc(&s->out, '\n');
}

// In double quotes; what is not UTF-8 by itself as \xNN.
static void put_piece(qn_buf *out, qn_str piece) {
  qn_buf_putc(out, '"');
  for (size_t at = 0, length; at < piece.length; at += length ? length : 1) {
    unsigned char c = (unsigned char)piece.data[at];
    length = qn_utf8_sequence(piece.data + at, piece.length - at, NULL);
    if (c == '"' || c == '\\') {
      qn_buf_printf(out, "\\%c", c);
    } else if (c == '\n') {
      qn_buf_puts(out, "\\n");
    } else if (c == '\t') {
      qn_buf_puts(out, "\\t");
    } else if (length == 0 || c < 0x20 || c == 0x7F) {
      qn_buf_printf(out, "\\x%02x", c);
    } else {
      qn_buf_append(out, piece.data + at, length);
    }
  }
  qn_buf_puts(out, "\"\n");
}

static void put_text(tokenize_state *s, const qn_buf *text) {
  if (s->options->count) {
    qn_buf_printf(&s->out, "%zu\n", s->tokens.count);
  } else if (text) {
    qn_buf_append(&s->out, text->data, text->length);
  } else if (s->options->ids) {
    for (size_t i = 0; i < s->tokens.count; i++) qn_buf_printf(&s->out, i ? " %d" : "%d", s->tokens.items[i]);
    qn_buf_putc(&s->out, '\n');
  } else {
    for (size_t i = 0; i < s->tokens.count; i++) {
      qn_buf_printf(&s->out, "%6d  ", s->tokens.items[i]);
      put_piece(&s->out, piece_of(s, i));
    }
  }
}

static int tokenize(tokenize_state *s, const char *path) {
  quern_error error = {0};
  qn_buf text;
  int code = quern_tokenizer_open(path, &s->tokenizer, &error);
  if (code != 0) return cli_fail_with(code, &error);
  code = read_text(s);
  if (code != 0) return code;
  qn_buf_init(&text, qn_allocator_default());
  bool decodes = s->options->decode;
  code = decodes ? decode(s, &text) : encode(s);
  if (code == 0) {
    if (s->options->json) {
      put_json(s, decodes ? &text : NULL);
    } else {
      put_text(s, decodes ? &text : NULL);
    }
    if (s->out.failed || text.failed) code = fail_nomem();
  }
  qn_buf_deinit(&text);
  if (code != 0) return code;
  cli_out(s->out.data, s->out.length);
  return cli_out_end();
}

static int run(void *context, const char *path) {
  tokenize_state s = {.options = context};
  qn_buf_init(&s.out, qn_allocator_default());
  int code = tokenize(&s, path);
  quern_tokenizer_close(s.tokenizer);
  if (s.owned) qn_free(qn_allocator_default(), s.owned, s.owned_size + 1);
  qn_vec_free(qn_allocator_default(), &s.tokens);
  qn_buf_deinit(&s.out);
  return code;
}

const cli_command cli_tokenize_command = {
    .name = "tokenize",
    .operands = "FILE",
    .summary = "shows the tokens of a text, or the text of tokens",
    .details = details,
    .options = options_table,
    .option_count = QN_COUNT(options_table),
    .options_size = sizeof(tokenize_options),
    .operand_name = "an artifact, a model file, a folder, a tokenizer.json or a tokenizer.model",
    .run = run,
};
