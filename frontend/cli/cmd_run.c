// quern run: continues a text. The text alone goes to standard output, as it is generated; all else to stderr.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "frontend/cli/chat.h"
#include "frontend/cli/cli.h"
#include "frontend/cli/json.h"
#include "frontend/cli/model_options.h"
#include "frontend/cli/progress.h"
#include "frontend/cli/run_open.h"
#include "frontend/cli/samples.h"
#include "frontend/cli/settings.h"
#include "frontend/cli/speculate.h"
#include "runtime/base/file.h"
#include "runtime/base/vec.h"

typedef struct run_options {
  cli_common common;
  const char *prompt, *tokens, *logits_path, *target, *numeric, *quant, *kv_type, *kv_evict, *template_path,
      *huge_pages, *spin, *tuning_db, *prefix_cache, *device, *libcuda, *signed_by, *chat_template, *system,
      *max_tokens, *speculate, *draft_tokens, *accept;
  cli_texts stops;
  uint64_t top_k, repeat_last, seed, samples, threads, decode_threads, grain, context, chunk, kv_keep;
  double temperature, top_p, min_p, repeat_penalty;
  bool chat, json, jit, no_cache, special, ignore_eog, pin, no_pin, check_kernels;
} run_options;

#define FIELD(name) offsetof(run_options, name)
static const cli_option options_table[] = {
    {"prompt", 'p', CLI_TEXT, FIELD(prompt), "TEXT", 0, 0, NULL, "standard input",
     "the text to continue; - is standard input, of which a newline at the end is dropped; an empty text starts from "
     "the "
     "model's begin-of-text token"},
    {"tokens", 0, CLI_TEXT, FIELD(tokens), "ID,...", 0, 0, NULL, NULL,
     "token ids instead of a text, taken as they are; wanted for a model without a tokenizer"},
    {"chat", 0, CLI_FLAG, FIELD(chat), NULL, 0, 0, NULL, NULL,
     "hold a conversation by the model's chat template: each line of standard input is a message, /help tells the "
     "commands; --prompt is the first message"},
    {"system", 0, CLI_TEXT, FIELD(system), "TEXT", 0, 0, NULL, NULL,
     "what the system says before the conversation; without --chat the prompt is a message of a conversation then, too"},
    {"chat-template", 0, CLI_TEXT, FIELD(chat_template), "auto|none|FILE|TEXT", 0, 0, NULL,
     "auto with --chat or --system, else none",
     "auto: the model's own makes the prompt a message that is answered; none: the prompt is continued as it is; also "
     "the name of another one that the model has (tool_use), a file, or the Jinja text itself"},
    {"special", 0, CLI_FLAG, FIELD(special), NULL, 0, 0, NULL, NULL,
     "control tokens by name: <|im_end|> in the prompt becomes the token, and is shown in the output"},
    {"max-tokens", 'n', CLI_TEXT, FIELD(max_tokens), "N", 0, 0, NULL, CLI_OF_MODEL "256, with --chat no limit",
     "generate at most this many tokens; 0 only evaluates the prompt, with --chat it is no limit"},
    {"stop", 0, CLI_TEXTS, FIELD(stops), "TEXT", 0, 0, NULL, NULL,
     "end before this text appears; may be given several times"},
    {"ignore-eog", 0, CLI_FLAG, FIELD(ignore_eog), NULL, 0, 0, NULL, NULL, "go on after the model has ended its text"},
    {"temp", 0, CLI_REAL, FIELD(temperature), "X", 0, 1000, NULL, CLI_OF_MODEL "0",
     "temperature; 0 takes the most likely token"},
    {"top-k", 0, CLI_COUNT, FIELD(top_k), "N", 0, INT32_MAX, NULL, CLI_OF_MODEL "40",
     "sample from the N most likely; 0 = all"},
    {"top-p", 0, CLI_REAL, FIELD(top_p), "X", 0, 1, NULL, CLI_OF_MODEL "0.95",
     "sample from the most likely that together reach this probability; 1 = all"},
    {"min-p", 0, CLI_REAL, FIELD(min_p), "X", 0, 1, NULL, CLI_OF_MODEL "0.05",
     "sample from those at least this fraction as likely as the first; 0 = all"},
    {"repeat-penalty", 0, CLI_REAL, FIELD(repeat_penalty), "X", 0, 1000, NULL, CLI_OF_MODEL "1",
     "logits of recent tokens are divided by this; 1 = none"},
    {"repeat-last", 0, CLI_COUNT, FIELD(repeat_last), "N", 0, 1 << 20, NULL, CLI_OF_MODEL "64",
     "how many tokens count as recent"},
    {"seed", 0, CLI_COUNT, FIELD(seed), "N", 0, UINT64_MAX, NULL, "0",
     "of the random numbers; the same seed gives the "
     "same text on every machine"},
    {"samples", 0, CLI_COUNT, FIELD(samples), "N", 1, 4096, NULL, NULL,
     "so many texts from the prompt, which is evaluated once: the i-th with the seed and i - 1 added to it, as that seed gives "
     "it alone. Each begins with a line that tells its seed; all are printed when all are there"},
    CLI_OPTION_SPECULATE(CLI_SPECULATE_HELP),
    CLI_OPTION_DRAFT_TOKENS,
    {"accept", 0, CLI_CHOICE, FIELD(accept), "HOW", 0, 0, "same|rejection", "same",
     "with --speculate and --temp: same: guesses come true that are drawn anyway, so the text is that without guesses; rejection: "
     "as many as can be with every token as likely as without, which is another text"},
    CLI_OPTION_DEVICE,
    CLI_OPTION_LIBCUDA,
    {"check-kernels", 0, CLI_FLAG, FIELD(check_kernels), NULL, 0, 0, NULL, NULL,
     "on a GPU: wait for every kernel, so that an error tells which one it is of; slow"},
    {"threads", 'j', CLI_COUNT, FIELD(threads), "N", 1, 1024, NULL, CLI_THREADS_STANDARD, "to compute with"},
    CLI_OPTION_DECODE_THREADS,
    CLI_OPTION_SPIN,
    CLI_OPTION_GRAIN,
    CLI_OPTION_PIN,
    CLI_OPTION_NO_PIN,
    {"ctx", 'c', CLI_COUNT, FIELD(context), "N", 1, INT32_MAX, NULL, "what the artifact allows",
     "tokens of context, prompt and generated text together; a model file is compiled for as many"},
    {"chunk", 0, CLI_COUNT, FIELD(chunk), "N", 1, 65536, NULL, "what the artifact allows",
     "tokens of the prompt taken in one step; any value gives the same text"},
    {"prefix-cache", 0, CLI_TEXT, FIELD(prefix_cache), "FILE", 0, 0, NULL, NULL,
     "evaluate of the text only what follows a beginning that the file holds from earlier runs, and write to it what this "
     "one adds; the text is the same with it or without"},
    {"logits", 0, CLI_TEXT, FIELD(logits_path), "FILE", 0, 0, NULL, NULL,
     "write logits as rows of little-endian float32: row 0 after the prompt, row i after the i-th generated token; a "
     "row "
     "for every token that was chosen from it, one that ended the text included. Evaluates the text a second time"},
    {"json", 0, CLI_FLAG, FIELD(json), NULL, 0, 0, NULL, NULL,
     "print one JSON object at the end instead of the text: text, ids, timings, why it ended"},
    CLI_OPTION_TARGET,
    CLI_OPTION_NUMERIC,
    CLI_OPTION_QUANT,
    CLI_OPTION_KV_TYPE(CLI_KV_TYPES),
    CLI_OPTION_KV_EVICT,
    CLI_OPTION_KV_KEEP,
    CLI_OPTION_HUGE_PAGES,
    CLI_OPTION_TUNING_DB(", and of quern machine"),
    CLI_OPTION_SIGNATURE,
    CLI_OPTION_TEMPLATE,
    {"jit", 0, CLI_FLAG, FIELD(jit), NULL, 0, 0, NULL, NULL, "model file: compile in memory, write no file"},
    CLI_OPTION_NO_CACHE,
};

static const char details[] =
    "Continues a text. FILE is an artifact (quern compile) or a model file, which is compiled into the cache\n"
    "($XDG_CACHE_HOME/quern, or ~/.cache/quern) and taken from there the next time. The generated text alone\n"
    "goes to standard output, then a newline; of a model without a tokenizer, the ids with spaces between\n"
    "them. Ctrl-C ends the text after the current token.\n"
    "\n"
    "With --chat standard input holds a conversation, a message a line; Ctrl-C ends an answer, Ctrl-D the conversation.\n"
    "What was said stays in the KV cache: of every turn only what is new is evaluated. The i-th answer is sampled with\n"
    "the seed and i - 1 added to it.\n";

// One run. Zero-initialised, then filled from the top down.
typedef struct run_state {
  const run_options *options;
  const qn_allocator *allocator;
  quern_model *model;      // owned
  quern_scheduler *scheduler;  // owned, with --samples; then the session is its own
  quern_session *session;      // owned
  cli_speculation speculation;
  quern_speculator *speculator;  // owned; NULL without --speculate
  cli_settings settings;
  cli_device device;
  bool has_tokenizer;
  int64_t max_tokens;
  cli_chat_template chat_template;
  bool templated;  // the prompt goes through it
  quern_sampler_options sampler;  // from options and the model
  cli_ids prompt, generated;  // owned
  qn_buf text;               // with --json: what was generated
  bool no_memory;            // in the callback
  double load_seconds;    // opening the model and creating the session
  quern_stats stats;
  qn_file_writer logits;  // of --logits
  qn_diag logits_diag;
} run_state;

static int fail_nomem(const char *what) { return cli_fail(QN_ERR_NOMEM, "run", "out of memory for %s", what); }

// --- the prompt

// Standard input, or the option's text. *out_owned is to be freed.
static int read_prompt(const run_options *options, const char **out_text, size_t *out_length, char **out_owned) {
  *out_owned = NULL;
  if (options->prompt && strcmp(options->prompt, "-") != 0) {
    *out_text = options->prompt;
    *out_length = strlen(options->prompt);
    return 0;
  }
  if (!options->common.quiet && isatty(STDIN_FILENO)) fputs("quern: reading the prompt; Ctrl-D ends it\n", stderr);
  qn_diag diag = {0};
  cli_leave_signals();
  qn_status status = qn_file_read("-", QN_TEXT_MAX, qn_allocator_default(), out_owned, out_length, &diag);
  cli_catch_signals();
  if (status != QN_OK) return cli_fail((int)status, "prompt", "%s", diag.text);
  if (*out_length > 0 && (*out_owned)[*out_length - 1] == '\n') --*out_length;
  *out_text = *out_owned;
  return 0;
}

// A vocabulary may want an end-of-text token after every text, but a text that goes on has no end (what an encoder reads
// has): drops it. It is one
// that is not there when the text is tokenized without such additions.
static int drop_added_end(run_state *run, const char *text, size_t length, unsigned flags) {
  cli_ids *ids = &run->prompt, plain = {0};
  int32_t end = quern_token_eos(run->model);
  if (quern_model_has_source(run->model)) return 0;
  if (ids->count == 0 || end < 0 || ids->items[ids->count - 1] != end) return 0;
  quern_error error = {0};
  int code = cli_tokenize(run->model, text, length, flags & ~(unsigned)QUERN_TOKENIZE_ADD_SPECIAL, &plain, &error);
  if (code != 0) cli_fail_with(code, &error);
  if (code == 0) {
    size_t added = ids->count - plain.count;  // one at the end, at the beginning, or both
    bool at_end = added == 1 && memcmp(ids->items, plain.items, plain.count * sizeof *plain.items) == 0;
    if (added == 2 || at_end) ids->count--;
  }
  qn_vec_free(run->allocator, &plain);
  return code;
}

static int tokenize(run_state *run, const char *text, size_t length) {
  unsigned flags = QUERN_TOKENIZE_ADD_SPECIAL | (run->options->special ? QUERN_TOKENIZE_PARSE_SPECIAL : 0);
  quern_error error = {0};
  int code = cli_tokenize(run->model, text, length, flags, &run->prompt, &error);
  if (code != 0) return cli_fail_with(code, &error);
  code = drop_added_end(run, text, length, flags);
  if (code != 0 || run->prompt.count > 0) return code;
  int32_t first = quern_token_bos(run->model) >= 0 ? quern_token_bos(run->model) : quern_token_eos(run->model);
  if (first < 0)
    return cli_fail(QN_ERR_ARGUMENT, "prompt", "got an empty text, want some: the model has no token to begin with");
  return qn_vec_push(run->allocator, &run->prompt, first) ? 0 : fail_nomem("the prompt's tokens");
}

// "1,2,3"
static int parse_ids(run_state *run) {
  int32_t vocab = quern_model_vocab_size(run->model);
  const char *at = run->options->tokens;
  for (;;) {
    char word[24];
    size_t length = strcspn(at, ",");
    uint64_t id;
    snprintf(word, sizeof word, "%.*s", (int)(length < sizeof word ? length : sizeof word), at);
    if (length >= sizeof word || !cli_read_count(word, &id) || id >= (uint64_t)vocab) {
      return cli_fail(QN_ERR_ARGUMENT, "--tokens", "token %zu: got '%s', want a number from 0 to %d", run->prompt.count,
                      word, vocab - 1);
    }
    if (!qn_vec_push(run->allocator, &run->prompt, (int32_t)id)) return fail_nomem("the prompt's tokens");
    if (!at[length]) return 0;
    at += length + 1;
  }
}

// The prompt as a message, after the system's.
static int apply_template(run_state *run, const char *text, size_t length) {
  char *copy = strndup(text, length);
  if (!copy) return fail_nomem("the prompt");
  const char *system = run->options->system;
  const quern_chat_message messages[] = {{"system", system}, {"user", copy}};
  quern_error error = {0};
  size_t first = system ? 0 : 1;
  int code = cli_chat_tokens(run->model, &run->chat_template, messages + first, QN_COUNT(messages) - first, &run->prompt,
                             &error);
  free(copy);
  if (code != 0) return cli_fail_with(code, &error);
  return run->prompt.count > 0 ? 0 : cli_fail(QN_ERR_ARGUMENT, "chat template", "got no text for the prompt");
}

static int make_prompt(run_state *run) {
  const run_options *options = run->options;
  if (quern_model_vocab_size(run->model) == 0)
    return cli_fail(QN_ERR_UNSUPPORTED, quern_model_name(run->model),
                    "is no language model: it has no tokens; heads guess for one by --speculate medusa:FILE");
  if (options->tokens && options->prompt) {
    return cli_fail(QN_ERR_ARGUMENT, "--tokens", "got --prompt too, want one of them");
  }
  if (options->tokens) return parse_ids(run);
  if (!run->has_tokenizer) {
    return cli_fail(QN_ERR_ARGUMENT, options->prompt ? "--prompt" : "prompt",
                    "the model has no tokenizer; give token ids with --tokens");
  }
  const char *text = "";
  size_t length = 0;
  char *owned = NULL;
  int code = read_prompt(options, &text, &length, &owned);
  if (code == 0) code = run->templated ? apply_template(run, text, length) : tokenize(run, text, length);
  free(owned);
  return code;
}

// --- generating

static bool interrupted(void *context) {
  (void)context;
  return cli_interrupted();
}

// A quern_text_fn.
static bool take_text(void *context, const char *text, size_t length, int32_t token) {
  run_state *run = context;
  char id[16];
  if (token >= 0 && !qn_vec_push(run->allocator, &run->generated, token)) run->no_memory = true;
  if (!run->has_tokenizer && token >= 0) {
    length = (size_t)snprintf(id, sizeof id, run->generated.count > 1 ? " %d" : "%d", token);
    text = id;
  }
  if (run->options->json) {
    if (run->has_tokenizer) qn_buf_append(&run->text, text, length);
    if (run->text.failed) run->no_memory = true;
  } else {
    cli_out(text, length);
  }
  return !run->no_memory && !cli_out_failed() && !cli_interrupted();
}

// What the model's files say holds where no option says else.
static const struct {
  const char *name;  // of the option
  enum { OF_REAL, OF_COUNT } kind;
  size_t offset;     // in quern_sampler_options: a double or an int32_t
} sampler_fields[] = {
    {"temp", OF_REAL, offsetof(quern_sampler_options, temperature)},
    {"top-k", OF_COUNT, offsetof(quern_sampler_options, top_k)},
    {"top-p", OF_REAL, offsetof(quern_sampler_options, top_p)},
    {"min-p", OF_REAL, offsetof(quern_sampler_options, min_p)},
    {"repeat-penalty", OF_REAL, offsetof(quern_sampler_options, repeat_penalty)},
    {"repeat-last", OF_COUNT, offsetof(quern_sampler_options, repeat_last_n)},
};

static quern_sampler_options sampler_of_options(const run_options *o) {
  return (quern_sampler_options){.size = sizeof(quern_sampler_options),
                                 .temperature = o->temperature,
                                 .top_k = (int32_t)o->top_k,
                                 .top_p = o->top_p,
                                 .min_p = o->min_p,
                                 .repeat_penalty = o->repeat_penalty,
                                 .repeat_last_n = (int32_t)o->repeat_last,
                                 .seed = o->seed};
}

static void choose_sampler(run_state *run) {
  const run_options *o = run->options;
  quern_sampler_options own = sampler_of_options(o);
  char told[256] = "";
  size_t used = 0;
  run->sampler = own;
  quern_model_sampler_defaults(run->model, &run->sampler);
  for (size_t i = 0; i < QN_COUNT(sampler_fields); i++) {
    bool real = sampler_fields[i].kind == OF_REAL;
    char *to = (char *)&run->sampler + sampler_fields[i].offset;
    const char *from = (const char *)&own + sampler_fields[i].offset;
    size_t bytes = real ? sizeof(double) : sizeof(int32_t);
    if (memcmp(to, from, bytes) == 0) continue;
    if (cli_given(&cli_run_command, &o->common, sampler_fields[i].name)) {
      memcpy(to, from, bytes);
      continue;
    }
    bool tells = run->sampler.temperature > 0 || strncmp(sampler_fields[i].name, "repeat", 6) == 0;
    double value = real ? *(double *)(void *)to : *(int32_t *)(void *)to;
    if (tells) used += (size_t)snprintf(told + used, sizeof told - used, " --%s %.10g", sampler_fields[i].name, value);
  }
  if (*told && !o->common.quiet) fprintf(stderr, "quern: sampling as the model's files say:%s\n", told);
}

// -n, or what the model's files say, or the usual; after the model is open.
static void choose_max_tokens(run_state *run) {
  int64_t said = quern_model_max_tokens(run->model);
  if (!run->options->max_tokens && said > 0) run->max_tokens = said;
}

// Evaluates the prompt, or has the encoder read it and evaluates the token that a text begins with.
static int evaluate_prompt(run_state *run, const float **out_logits, quern_error *error) {
  int32_t start = quern_model_start_token(run->model);
  if (!quern_model_has_source(run->model))
    return (int)quern_session_eval(run->session, 0, run->prompt.items, run->prompt.count, out_logits, error);
  int code = (int)quern_session_source(run->session, 0, run->prompt.items, run->prompt.count, error);
  return code == 0 ? (int)quern_session_eval(run->session, 0, &start, 1, out_logits, error) : code;
}

static int generate(run_state *run) {
  const run_options *options = run->options;
  quern_error error = {0};
  int code;
  if (run->max_tokens == 0) {
    run->stats = (quern_stats){.size = sizeof run->stats, .reason = QUERN_STOP_MAX_TOKENS, .pending_token = -1};
    run->stats.prompt_tokens = (int64_t)run->prompt.count;
    code = evaluate_prompt(run, NULL, &error);
  } else {
    quern_generate_params params = {.size = sizeof params,
                                  .prompt = run->prompt.items,
                                    .prompt_count = run->prompt.count,
                                    .max_tokens = run->max_tokens,
                                    .sampler = &run->sampler,
                                    .stops = options->stops.items,
                                    .stop_count = options->stops.count,
                                    .ignore_eog = options->ignore_eog,
                                    .show_special = options->special,
                                    .cancelled = interrupted,
                                    .speculator = run->speculator,
      .callback = take_text,
                                    .callback_context = run};
    run->stats.size = sizeof run->stats;
    code = (int)quern_generate(run->session, &params, &run->stats, &error);
  }
  if (run->no_memory) return fail_nomem("the text");
  return code == 0 ? 0 : cli_fail_with(code, &error);
}

// --- --logits

// Opens the file before anything is generated. It appears under its name when it is complete.
static int open_logits(run_state *run, const char *model_path) {
  const char *path = run->options->logits_path;
  if (!path) return 0;
  if (cli_same_file(path, model_path)) {
    return cli_fail(QN_ERR_ARGUMENT, "--logits", "got the model file itself, want another file");
  }
  qn_status status = qn_file_writer_open(&run->logits, path, &run->logits_diag);
  return status == QN_OK ? 0 : cli_fail((int)status, "--logits", "%s", run->logits_diag.text);
}

// Row after row: evaluates the same tokens again, the prompt in one call and then one token at a time, as generating
// them did. The last token chosen was never evaluated.
static int write_logits(run_state *run) {
  size_t vocab = (size_t)quern_model_vocab_size(run->model);
  size_t rows = run->stats.generated_tokens > 0 ? (size_t)run->stats.generated_tokens : 1;
  quern_error error = {0};
  quern_session_reset(run->session, 0);
  for (size_t i = 0; i < rows; i++) {
    const float *logits = NULL;
    int code = i == 0 ? evaluate_prompt(run, &logits, &error)
                      : (int)quern_session_eval(run->session, 0, &run->generated.items[i - 1], 1, &logits, &error);
    if (code != 0) return cli_fail_with(code, &error);
    qn_status status = qn_file_writer_write(&run->logits, logits, vocab * sizeof *logits);
    if (status != QN_OK) return cli_fail((int)status, "--logits", "%s", run->logits_diag.text);
  }
  qn_status status = qn_file_writer_commit(&run->logits);
  return status == QN_OK ? 0 : cli_fail((int)status, "--logits", "%s", run->logits_diag.text);
}

// --- what is told at the end

static double per_second(int64_t count, uint64_t ns) { return ns > 0 ? (double)count * 1e9 / (double)ns : 0; }

static void put_ids(cli_json *json, const char *key, const cli_ids *ids) {
  cli_json_begin(json, key, '[');
  for (size_t i = 0; i < ids->count; i++) cli_json_int(json, NULL, ids->items[i]);
  cli_json_end(json, ']');
}

// The most physical memory that this process had so far, bytes; 0 = not known. Not getrusage, which counts what the
// process had before it became this program.
static int64_t peak_memory(void) {
  char line[128];
  long long kib = 0;
  FILE *file = fopen("/proc/self/status", "re");
  while (file && fgets(line, sizeof line, file) && sscanf(line, "VmHWM: %lld kB", &kib) != 1) continue;
  if (file) fclose(file);
  return kib * 1024;
}

// Tokens that a step of the model gave, over all of them.
static double tokens_a_pass(const quern_stats *stats) {
  return stats->passes > 0 ? (double)stats->decode_steps / (double)stats->passes : 0;
}

static void put_speculation(cli_json *json, const run_state *run) {
  const quern_stats *stats = &run->stats;
  cli_json_begin(json, "speculation", '{');
  cli_json_text(json, "technique", qn_str_from(quern_technique_name(run->speculation.technique)));
  cli_json_int(json, "passes", stats->passes);
  cli_json_int(json, "tokens", stats->decode_steps);
  cli_json_int(json, "proposed", stats->proposed);
  cli_json_int(json, "accepted", stats->accepted);
  cli_json_real(json, "tokens_per_pass", tokens_a_pass(stats));
  cli_json_end(json, '}');
}

static int print_json(run_state *run) {
  const quern_stats *stats = &run->stats;
  quern_session_info info = {.size = sizeof info};
  qn_buf out;
  qn_buf_init(&out, run->allocator);
  cli_json json = {.out = &out};
  quern_session_get_info(run->session, &info, NULL);
  cli_json_begin(&json, NULL, '{');
  if (run->has_tokenizer) cli_json_text(&json, "text", (qn_str){qn_buf_text(&run->text), run->text.length});
  put_ids(&json, "ids", &run->generated);
  put_ids(&json, "prompt_ids", &run->prompt);
  cli_json_text(&json, "stop", qn_str_from(quern_stop_reason_name(stats->reason)));
  cli_json_text(&json, "model", qn_str_from(quern_model_name(run->model)));
  cli_json_text(&json, "target", qn_str_from(quern_model_target(run->model)));
  cli_device_put(&json, run->model);
  cli_json_int(&json, "threads", info.threads);
  cli_json_int(&json, "decode_threads", info.decode_threads);
  cli_json_int(&json, "context", info.context);
  cli_json_int(&json, "rss_bytes", peak_memory());
  cli_json_int(&json, "held_tokens", stats->held_tokens);
  cli_json_begin(&json, "timings", '{');
  cli_json_real(&json, "load_ms", run->load_seconds * 1e3);
  cli_json_real(&json, "ttft_ms", (double)stats->first_ns * 1e-6);
  cli_json_real(&json, "prefill_ms", (double)stats->prefill_ns * 1e-6);
  cli_json_real(&json, "decode_ms", (double)stats->decode_ns * 1e-6);
  cli_json_real(&json, "prefill_tokens_per_s", per_second(stats->prompt_tokens - stats->held_tokens, stats->prefill_ns));
  cli_json_real(&json, "decode_tokens_per_s", per_second(stats->decode_steps, stats->decode_ns));
  cli_json_end(&json, '}');
  if (run->speculator) put_speculation(&json, run);
  cli_json_end(&json, '}');
  qn_buf_putc(&out, '\n');
  bool failed = out.failed;
  cli_out(qn_buf_text(&out), out.length);
  qn_buf_deinit(&out);
  return failed ? fail_nomem("the JSON text") : 0;
}

static void print_stats(const run_state *run) {
  const quern_stats *stats = &run->stats;
  char held[64] = "";
  if (stats->held_tokens > 0) snprintf(held, sizeof held, ", %lld of them held,", (long long)stats->held_tokens);
  fprintf(
      stderr,
      "quern: prompt %lld tokens%s in %.1f ms (%.0f tokens/s); generated %lld in %.1f ms (%.1f tokens/s); ended: %s\n",
      (long long)stats->prompt_tokens, held, (double)stats->prefill_ns * 1e-6,
      per_second(stats->prompt_tokens - stats->held_tokens, stats->prefill_ns), (long long)stats->generated_tokens,
      (double)stats->decode_ns * 1e-6, per_second(stats->decode_steps, stats->decode_ns),
      quern_stop_reason_name(stats->reason));
  if (run->speculator)
    fprintf(stderr, "quern: %s: %lld of %lld guesses came true, %.2f tokens a step\n",
            quern_technique_name(run->speculation.technique), (long long)stats->accepted, (long long)stats->proposed,
            tokens_a_pass(stats));
}

static int finish(run_state *run) {
  int code = 0;
  if (run->options->json) {
    code = print_json(run);
  } else if (run->max_tokens > 0) {
    cli_out("\n", 1);
  }
  if (!run->options->common.quiet && !cli_out_failed()) print_stats(run);
  if (code == 0 && run->options->logits_path && !cli_interrupted() && !cli_out_failed()) code = write_logits(run);
  int out_code = cli_out_end();
  return code != 0 ? code : out_code != 0 ? out_code : cli_interrupted() ? cli_interrupt_code() : 0;
}

// --- the command

// With --samples: how many texts are evaluated together; the others wait.
static uint32_t samples_together(const run_state *run) {
  int32_t most = quern_model_sequences_max(run->model);
  return most > 0 && run->options->samples > (uint64_t)most ? (uint32_t)most : (uint32_t)run->options->samples;
}

static int create_scheduler(run_state *run, quern_session_options *session, quern_error *error) {
  quern_scheduler_options how = {.size = sizeof how, .session = session};
  cli_speculation_join(&run->speculation, &how);
  session->sequences = (int32_t)samples_together(run);
  // A text that comes when the others have ended finds their prompt there.
  session->prefix_cache = session->prefix_cache || run->options->samples > (uint64_t)session->sequences;
  int code = (int)quern_scheduler_create(run->model, &how, &run->scheduler, error);
  if (code == 0) run->session = quern_scheduler_session(run->scheduler);
  return code;
}

static int create_session(run_state *run) {
  const run_options *options = run->options;
  quern_session_options how = {.size = sizeof how,
                               .context = (int64_t)options->context,
                               .chunk = (int64_t)options->chunk,
                               .check_kernels = options->check_kernels,
                               .prefix_cache = options->prefix_cache != NULL,
                               .kv_evict = options->kv_evict,
                               .kv_keep = (int64_t)options->kv_keep};
  cli_settings_apply(&run->settings, &how);
  quern_error error = {0};
  int code = options->samples > 0 ? create_scheduler(run, &how, &error)
                                  : (int)quern_session_create(run->model, &how, &run->session, &error);
  return code == 0 ? 0 : cli_fail_with(code, &error);
}

static int open_draft(run_state *run, const run_source *source) {
  return cli_speculation_open(&run->speculation, source, run->options->samples > 0 ? samples_together(run) : 1);
}

static int create_speculator(run_state *run) {
  quern_error error = {0};
  if (run->scheduler) return 0;
  int code = cli_speculation_create(&run->speculation, run->session, &run->speculator, &error);
  return code == 0 ? 0 : cli_fail_with(code, &error);
}

// --prefix-cache: what earlier runs have kept, where there is a file; and what is kept now.
static int load_prefixes(run_state *run) {
  const char *path = run->options->prefix_cache;
  quern_error error = {0};
  int64_t pages;
  if (!path || (access(path, F_OK) != 0 && errno == ENOENT)) return 0;
  int code = (int)quern_session_load_prefixes(run->session, path, &pages, &error);
  return code == 0 ? 0 : cli_fail_with(code, &error);
}

static int save_prefixes(run_state *run) {
  quern_error error = {0};
  if (!run->options->prefix_cache || cli_interrupted()) return 0;
  quern_session_reset(run->session, 0);
  int code = (int)quern_session_save_prefixes(run->session, run->options->prefix_cache, &error);
  return code == 0 ? 0 : cli_fail_with(code, &error);
}

static int find_device(run_state *run) {
  const run_options *o = run->options;
  const cli_cpu_option cpu_options[] = {{"--threads", o->threads > 0}, {"--decode-threads", o->decode_threads > 0},
                                        {"--spin", o->spin},           {"--grain", o->grain > 0},
                                        {"--pin", o->pin},             {"--no-pin", o->no_pin},
                                        {"--huge-pages", o->huge_pages}, {"--jit", o->jit}};
  int code = cli_device_find(o->device, o->libcuda, cpu_options, QN_COUNT(cpu_options), &run->device);
  if (code == 0 && o->check_kernels && !run->device.name)
    return cli_fail(QN_ERR_ARGUMENT, "--check-kernels", "is for GPUs; give --device cuda, too");
  return code;
}

static void tell_device(const run_state *run) {
  char text[320];
  cli_device_describe(run->model, text, sizeof text);
  if (*text && !run->options->common.quiet) fprintf(stderr, "quern: on %s\n", text);
}

// What makes no sense together with a conversation, or with a template.
static int check_chat(run_state *run) {
  const run_options *o = run->options;
  bool none = o->chat_template && strcmp(o->chat_template, "none") == 0;
  const struct {
    const char *name;
    bool given;
  } others[] = {{"--json", o->json && o->chat},
                {"--logits", o->logits_path && o->chat},
                {"--special", o->special && o->chat},
                {"--samples", o->samples > 0 && o->chat},
                {"--tokens", o->tokens && (o->chat || o->system || (o->chat_template && !none))}};
  for (size_t i = 0; i < QN_COUNT(others); i++) {
    if (others[i].given)
      return cli_fail(QN_ERR_ARGUMENT, others[i].name, "makes no sense with %s", o->chat ? "--chat" : "a chat template");
  }
  if (none && (o->chat || o->system))
    return cli_fail(QN_ERR_ARGUMENT, "--chat-template", "got none, want one for %s", o->chat ? "--chat" : "--system");
  uint64_t count = o->chat ? 0 : 256;
  if (o->max_tokens && (!cli_read_count(o->max_tokens, &count) || count > INT32_MAX))
    return cli_fail(QN_ERR_ARGUMENT, "--max-tokens", "got '%s', want a whole number from 0 to %d", o->max_tokens, INT32_MAX);
  run->max_tokens = (int64_t)count;
  if (o->samples > 0 && o->logits_path)
    return cli_fail(QN_ERR_ARGUMENT, "--logits", "is of one text, and makes no sense with --samples");
  if (o->samples > 0 && count == 0) return cli_fail(QN_ERR_ARGUMENT, "--samples", "got -n 0, want texts of a token or more");
  run->templated = o->chat || o->system || (o->chat_template && !none);
  return 0;
}

static int choose_template(run_state *run) {
  const run_options *o = run->options;
  size_t length;
  if (run->templated && !run->has_tokenizer)
    return cli_fail(QN_ERR_UNSUPPORTED, o->chat ? "--chat" : "--chat-template", "the model has no tokenizer");
  if (o->chat && quern_model_has_source(run->model))
    return cli_fail(QN_ERR_UNSUPPORTED, "--chat",
                    "the model has an encoder, which reads each text anew: it has no conversations; give the text by --prompt");
  if (run->templated)
    return cli_chat_template_choose(run->model, o->chat_template ? o->chat_template : "auto", &run->chat_template);
  if (!o->chat_template && !o->tokens && !o->common.quiet && quern_model_chat_template(run->model, NULL, &length))
    fputs("quern: continuing the text as it is; --chat-template auto asks the model as in a chat, --chat holds one\n", stderr);
  return 0;
}

static int converse(run_state *run) {
  const run_options *o = run->options;
  cli_chat chat = {.model = run->model,
                   .session = run->session,
                   .by = &run->chat_template,
                   .system = o->system,
                   .first = o->prompt && strcmp(o->prompt, "-") != 0 ? o->prompt : NULL,
                   .sampler = &run->sampler,
                   .stops = o->stops.items,
                   .stop_count = o->stops.count,
                   .max_tokens = run->max_tokens,
                   .speculator = run->speculator,
                   .ignore_eog = o->ignore_eog,
                   .quiet = o->common.quiet};
  return cli_chat_run(&chat);
}

static int generate_samples(run_state *run) {
  const run_options *o = run->options;
  quern_speculator_options guesses = cli_speculation_options(&run->speculation);
  const cli_samples samples = {.model = run->model,
                               .scheduler = run->scheduler,
                               .request = {.size = sizeof samples.request,
                                           .prompt = run->prompt.items,
                                           .prompt_count = run->prompt.count,
                                           .max_tokens = run->max_tokens,
                                           .sampler = &run->sampler,
                                           .stops = o->stops.items,
                                           .stop_count = o->stops.count,
                                           .ignore_eog = o->ignore_eog,
                                           .show_special = o->special,
                                           .speculator = run->speculation.wanted ? &guesses : NULL},
                               .count = o->samples,
                               .json = o->json,
                               .quiet = o->common.quiet};
  return cli_samples_run(&samples);
}

// That a model file is compiled for.
static uint32_t compiled_sequences(const run_state *run) {
  if (run->options->samples == 0) return cli_speculation_sequences(&run->speculation);
  return cli_speculation_sequences_of(&run->speculation, (uint32_t)run->options->samples);
}

// A conversation, samples or one text, as asked for.
static int write_texts(run_state *run, const char *path) {
  const run_options *o = run->options;
  int code = 0;
  if (o->chat) {
    code = converse(run);
  } else if (o->samples > 0) {
    code = generate_samples(run);
  } else {
    code = open_logits(run, path);
    if (code == 0) code = generate(run);
    if (code == 0) code = finish(run);
  }
  return code == 0 ? save_prefixes(run) : code;
}

static int run_all(run_state *run, const char *path) {
  const run_options *o = run->options;
  int code = check_chat(run);
  if (code == 0) code = cli_speculation_read(o->speculate, o->draft_tokens, &run->speculation);
  if (code == 0 && o->accept && !o->speculate)
    return cli_fail(QN_ERR_ARGUMENT, "--accept", "is for --speculate; give that, too");
  run->speculation.rejection = o->accept && strcmp(o->accept, "rejection") == 0;
  if (code == 0) code = find_device(run);
  if (code != 0) return code;
  cli_settings_options settings = {.threads = o->threads,
                                   .decode_threads = o->decode_threads,
                                   .spin = o->spin,
                                   .grain = o->grain,
                                   .pin = o->pin,
                                   .no_pin = o->no_pin,
                                   .quiet = o->common.quiet,
                                   .huge_pages = o->huge_pages,
                                   .tuning_db = o->tuning_db};
  if (!run->device.name) code = cli_settings_get(&settings, &run->settings);
  if (code != 0) return code;
  run_source source = {.path = path,
                       .target = o->target,
                       .numeric = o->numeric,
                       .quant = o->quant,
                       .kv_type = o->kv_type,
                       .kv_evict = o->kv_evict,
                       .template_path = o->template_path,
                       .huge_pages = run->settings.huge_pages,
                       .device = run->device,
                       .tuning_db = o->tuning_db,
                       .signed_by = o->signed_by,
                       .context = (uint32_t)o->context,
                       .sequences = compiled_sequences(run),
                       .guesses = run->speculation.guesses,
                       .run_threads = (int)o->threads,
                       .jit = o->jit,
                       .no_cache = o->no_cache,
                       .quiet = o->common.quiet};
  cli_catch_signals();
  double begin = cli_seconds();
  code = run_open(&source, &run->model);
  run->load_seconds = cli_seconds() - begin;
  if (code != 0) return code;
  if (cli_interrupted()) return cli_interrupt_code();
  tell_device(run);
  cli_settings_of_model(&settings, run->model, &run->settings);
  run->has_tokenizer = quern_model_has_tokenizer(run->model);
  choose_sampler(run);
  choose_max_tokens(run);
  code = choose_template(run);
  if (code == 0 && !o->chat) code = make_prompt(run);
  begin = cli_seconds();
  if (code == 0) code = open_draft(run, &source);
  if (code == 0) code = create_session(run);
  if (code == 0) code = create_speculator(run);
  run->load_seconds += cli_seconds() - begin;
  if (code == 0 && cli_same_file(o->prefix_cache ? o->prefix_cache : "", path))
    code = cli_fail(QN_ERR_ARGUMENT, "--prefix-cache", "got the model file itself, want another file");
  if (code == 0) code = load_prefixes(run);
  return code == 0 ? write_texts(run, path) : code;
}

static int run(void *context, const char *path) {
  run_state run = {.options = context, .allocator = qn_allocator_default()};
  qn_buf_init(&run.text, run.allocator);
  int code = run_all(&run, path);
  qn_file_writer_abandon(&run.logits);
  cli_chat_template_free(&run.chat_template);
  quern_speculator_destroy(run.speculator);
  if (run.scheduler) {
    quern_scheduler_destroy(run.scheduler);
  } else {
    quern_session_destroy(run.session);
  }
  cli_speculation_free(&run.speculation);
  quern_model_close(run.model);
  qn_buf_deinit(&run.text);
  qn_vec_free(run.allocator, &run.prompt);
  qn_vec_free(run.allocator, &run.generated);
  return code;
}

const cli_command cli_run_command = {
    .name = "run",
    .operands = "FILE",
    .summary = "continues a text with an artifact or a model file",
    .details = details,
    .options = options_table,
    .option_count = QN_COUNT(options_table),
    .options_size = sizeof(run_options),
    .operand_name = "an artifact or a model file",
    .run = run,
};
