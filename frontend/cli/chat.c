// A conversation: messages from standard input, answers to standard output. What was said stays in the KV cache; of the
// whole conversation, rendered anew each time, only what the cache does not hold yet is evaluated.
#include "frontend/cli/chat.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "frontend/cli/cli.h"

typedef struct conversation {
  const cli_chat *chat;
  bool terminal;                        // messages are typed
  QN_VEC(quern_chat_message) messages;  // contents are owned
  cli_ids held;                         // the tokens that the cache holds
  cli_ids next;                         // the conversation, rendered
  qn_buf answer;
  cli_ids generated;
  int32_t turn_end;   // ends an answer, like the tokens that always do; -1 = none
  quern_stats stats;  // of the last answer
  size_t again;       // tokens that were in the cache and had to be evaluated again for it
  uint64_t answers;
  bool over;  // /exit
} conversation;

static int no_memory(void) { return cli_fail(QN_ERR_NOMEM, "chat", "out of memory for the conversation"); }

static void remark(const conversation *c, const char *format, ...) QN_PRINTF(2, 3);
static void remark(const conversation *c, const char *format, ...) {
  va_list args;
  if (c->chat->quiet) return;
  va_start(args, format);
  fputs("quern: ", stderr);
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  va_end(args);
}

// ---- what was said

static int say(conversation *c, const char *role, const char *content, size_t length) {
  char *copy = malloc(length + 1);
  if (!copy) return no_memory();
  memcpy(copy, content, length);
  copy[length] = '\0';
  if (qn_vec_push(qn_allocator_default(), &c->messages, ((quern_chat_message){role, copy}))) return 0;
  free(copy);
  return no_memory();
}

static void forget(conversation *c, size_t keep) {
  while (c->messages.count > keep) free((char *)c->messages.items[--c->messages.count].content);
}

static int begin(conversation *c) {
  forget(c, 0);
  c->held.count = 0;
  quern_session_reset(c->chat->session, 0);
  return c->chat->system ? say(c, "system", c->chat->system, strlen(c->chat->system)) : 0;
}

// ---- commands

static int do_help(conversation *c);
static int do_reset(conversation *c) {
  remark(c, "the conversation begins anew");
  return begin(c);
}
static int do_exit(conversation *c) {
  c->over = true;
  return 0;
}
static int do_stats(conversation *c) {
  const quern_stats *s = &c->stats;
  quern_session_info info = {.size = sizeof info};
  quern_session_get_info(c->chat->session, &info, NULL);
  fprintf(stderr,
          "quern: context %zu of %lld tokens; last prompt %lld tokens in %.1f ms (%zu of them again), answer %lld in "
          "%.1f ms "
          "(%.1f tokens/s); ended: %s\n",
          c->held.count, (long long)info.context, (long long)s->prompt_tokens, (double)s->prefill_ns * 1e-6, c->again,
          (long long)s->generated_tokens, (double)s->decode_ns * 1e-6,
          s->decode_ns > 0 ? (double)s->decode_steps * 1e9 / (double)s->decode_ns : 0.0,
          c->answers > 0 ? quern_stop_reason_name(s->reason) : "nothing yet");
  return 0;
}

static const struct {
  const char *name, *help;
  int (*run)(conversation *c);
} commands[] = {
    {"/help", "tells the commands", do_help},
    {"/reset", "forgets all that was said", do_reset},
    {"/stats", "tells how much of the context is used, and times of the last answer", do_stats},
    {"/exit", "ends; so does the end of standard input (Ctrl-D)", do_exit},
};

static int do_help(conversation *c) {
  (void)c;
  for (size_t i = 0; i < QN_COUNT(commands); i++) fprintf(stderr, "  %-8s %s\n", commands[i].name, commands[i].help);
  fputs(
      "A line that ends in \\ goes on in the next one; // at the beginning is / in a message. Ctrl-C ends an answer.\n",
      stderr);
  return 0;
}

static int run_command(conversation *c, const char *line) {
  for (size_t i = 0; i < QN_COUNT(commands); i++)
    if (strcmp(line, commands[i].name) == 0) return commands[i].run(c);
  fprintf(stderr, "quern: there is no command '%.40s'; /help lists them, and // begins a message with /\n", line);
  return 0;
}

// ---- an answer

// A quern_text_fn.
static bool take_text(void *context, const char *text, size_t length, int32_t token) {
  conversation *c = context;
  bool ends = token >= 0 && token == c->turn_end && !c->chat->ignore_eog;
  if (token >= 0 && !cli_ids_push(&c->generated, token)) c->answer.failed = true;
  if (ends) return false;
  qn_buf_append(&c->answer, text, length);
  cli_out(text, length);
  return !c->answer.failed && !cli_out_failed() && !cli_interrupted();
}

static bool interrupted(void *context) {
  (void)context;
  return cli_interrupted();
}

// Leaves in the cache what the rendered conversation begins with.
static void keep_common(conversation *c) {
  size_t common = 0, most = c->held.count < c->next.count ? c->held.count : c->next.count;
  while (common < most && c->held.items[common] == c->next.items[common]) common++;
  if (common == c->next.count) common--;  // one token has to be evaluated, for its logits
  c->again = most - common;
  if (c->again > 0)
    remark(c, "the template writes what was said differently now: %zu tokens, from number %zu on, are evaluated again",
           c->again, common + 1);
  c->held.count = common;
  quern_error unused;
  if (quern_session_truncate(c->chat->session, 0, (int64_t)common, &unused) == QUERN_OK) return;
  quern_session_reset(c->chat->session, 0);  // a window moved on too far
  c->held.count = 0;
}

// What the cache holds after generating: the prompt, and of the answer what was evaluated.
static bool note_held(conversation *c) {
  size_t position = (size_t)quern_session_position(c->chat->session, 0);
  c->held.count = 0;
  for (size_t i = 0; i < position; i++) {
    bool prompt = i < c->next.count;
    if (!prompt && i - c->next.count >= c->generated.count) break;
    if (!cli_ids_push(&c->held, prompt ? c->next.items[i] : c->generated.items[i - c->next.count])) return false;
  }
  return true;
}

static int generate(conversation *c, quern_error *error) {
  quern_sampler_options sampler = *c->chat->sampler;
  sampler.seed += c->answers++;
  quern_generate_params params = {.size = sizeof params,
                                  .prompt = c->next.items + c->held.count,
                                  .prompt_count = c->next.count - c->held.count,
                                  .max_tokens = c->chat->max_tokens,
                                  .sampler = &sampler,
                                  .stops = c->chat->stops,
                                  .stop_count = c->chat->stop_count,
                                  .ignore_eog = c->chat->ignore_eog,
                                  .callback = take_text,
                                  .callback_context = c,
                                  .cancelled = interrupted,
                                  .speculator = c->chat->speculator};
  c->answer.length = c->generated.count = 0;
  cli_catch_signals();
  c->stats.size = sizeof c->stats;
  int code = (int)quern_generate(c->chat->session, &params, &c->stats, error);
  bool stopped = c->stats.reason == QUERN_STOP_CANCELLED && c->generated.count > 0 &&
                 c->generated.items[c->generated.count - 1] == c->turn_end;
  if (stopped) c->stats.reason = QUERN_STOP_EOG;
  if (!note_held(c)) c->answer.failed = true;
  return code;
}

static void tell_end(const conversation *c) {
  quern_session_info info = {.size = sizeof info};
  quern_session_get_info(c->chat->session, &info, NULL);
  if (c->stats.reason == QUERN_STOP_MAX_TOKENS)
    remark(c, "the answer was cut after %lld tokens (--max-tokens)", (long long)c->chat->max_tokens);
  if (c->stats.reason == QUERN_STOP_CONTEXT)
    remark(c, "the context of %lld tokens is full: /reset, or begin with a larger --ctx", (long long)info.context);
}

// Answers the last message. One that cannot be answered is forgotten.
static int answer(conversation *c) {
  const cli_chat *chat = c->chat;
  quern_error error = {0};
  quern_session_info info = {.size = sizeof info};
  size_t before = c->messages.count - 1;
  int code = cli_chat_tokens(chat->model, chat->by, c->messages.items, c->messages.count, &c->next, &error);
  quern_session_get_info(chat->session, &info, NULL);
  if (code == 0 && c->next.count == 0) {
    code = QN_ERR_ARGUMENT;
    snprintf(error.text, sizeof error.text, "chat template: got no text for the conversation");
  } else if (code == 0 && (int64_t)c->next.count >= info.context) {
    code = QN_ERR_LIMIT;
    snprintf(error.text, sizeof error.text,
             "chat: the conversation has %zu tokens, want fewer than the context of %lld: /reset, or begin with a "
             "larger --ctx",
             c->next.count, (long long)info.context);
  }
  if (code == 0) {
    keep_common(c);
    code = generate(c, &error);
  }
  if (c->answer.failed) return no_memory();
  if (code != 0 || (c->stats.reason == QUERN_STOP_CANCELLED && c->generated.count == 0)) {
    if (code == 0) remark(c, "interrupted before the answer began; the message is forgotten");
    forget(c, before);
    return code == 0 ? 0 : cli_fail_with(code, &error);
  }
  cli_out("\n", 1);
  tell_end(c);
  return say(c, "assistant", qn_buf_text(&c->answer), c->answer.length);
}

// A message and its answer; what ends the conversation is returned.
static int take_message(conversation *c, const char *text, size_t length) {
  int code = say(c, "user", text, length);
  if (code == 0) code = answer(c);
  if (cli_interrupted() && !cli_take_interrupt()) return cli_interrupt_code();  // another signal than Ctrl-C's
  if (cli_out_failed()) c->over = true;
  return c->terminal && code != QN_ERR_NOMEM ? 0 : code;
}

// ---- lines

// One message, without its newline: lines that end in a backslash go on. *out_end at the end of standard input.
static int read_message(conversation *c, qn_buf *out, bool *out_end) {
  char *line = NULL;
  size_t capacity = 0;
  out->length = 0;
  *out_end = true;
  cli_leave_signals();
  for (;;) {
    if (c->terminal) fputs(out->length > 0 ? ". " : "> ", stderr);
    ssize_t length = getline(&line, &capacity, stdin);
    if (length < 0) break;
    *out_end = false;
    if (length > 0 && line[length - 1] == '\n') length--;
    if (length > 0 && line[length - 1] == '\r') length--;
    bool goes_on = length > 0 && line[length - 1] == '\\';
    qn_buf_append(out, line, (size_t)length - goes_on);
    if (!goes_on) break;
    qn_buf_putc(out, '\n');
  }
  free(line);
  if (out->failed) return no_memory();
  return ferror(stdin) ? cli_fail(QN_ERR_IO, "standard input", "cannot be read") : 0;
}

static int take_lines(conversation *c) {
  qn_buf line;
  int code = 0;
  bool end = false;
  qn_buf_init(&line, qn_allocator_default());
  while (code == 0 && !c->over) {
    code = read_message(c, &line, &end);
    if (end || code != 0) break;
    const char *text = qn_buf_text(&line);
    size_t length = line.length;
    bool escaped = length > 1 && text[0] == '/' && text[1] == '/';
    if (length > 0 && text[0] == '/' && !escaped) {
      code = run_command(c, text);
    } else if (length > 0) {
      code = take_message(c, text + escaped, length - escaped);
    }
  }
  if (end && c->terminal) fputc('\n', stderr);
  qn_buf_deinit(&line);
  return code;
}

int cli_chat_run(const cli_chat *chat) {
  conversation c = {.chat = chat, .terminal = isatty(STDIN_FILENO) != 0};
  qn_buf_init(&c.answer, qn_allocator_default());
  c.turn_end = cli_chat_turn_end(chat->model, chat->by);
  int code = begin(&c);
  if (code == 0 && c.terminal) remark(&c, "/help lists the commands; Ctrl-D ends");
  if (code == 0 && chat->first) code = take_message(&c, chat->first, strlen(chat->first));
  if (code == 0) code = take_lines(&c);
  forget(&c, 0);
  qn_vec_free(qn_allocator_default(), &c.messages);
  qn_vec_free(qn_allocator_default(), &c.held);
  qn_vec_free(qn_allocator_default(), &c.next);
  qn_vec_free(qn_allocator_default(), &c.generated);
  qn_buf_deinit(&c.answer);
  int out_code = cli_out_end();
  return code != 0 ? code : out_code;
}
