// quern embed: texts as vectors, by an encoder.
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "frontend/cli/cli.h"
#include "frontend/cli/json.h"
#include "frontend/cli/model_options.h"
#include "frontend/cli/run_open.h"
#include "frontend/cli/tokens.h"
#include "runtime/base/file.h"

typedef struct embed_options {
  cli_common common;
  const char *prompt, *file, *quant, *numeric, *target, *kv_type, *template_path, *tuning_db, *device, *libcuda,
      *signed_by;
  uint64_t context, batch, threads;
  bool truncate, normalize, json, no_cache;
} embed_options;

enum { STANDARD_BATCH = 16 };

#define FIELD(name) offsetof(embed_options, name)
static const cli_option options_table[] = {
    {"prompt", 'p', CLI_TEXT, FIELD(prompt), "TEXT", 0, 0, NULL, "lines of standard input",
     "embed this one text; - is standard input, a text a line"},
    {"file", 'f', CLI_TEXT, FIELD(file), "FILE", 0, 0, NULL, NULL, "embed each line of a file"},
    {"truncate", 0, CLI_FLAG, FIELD(truncate), NULL, 0, 0, NULL, NULL,
     "leave out the end of texts that are too long, which are an error otherwise"},
    {"normalize", 0, CLI_FLAG, FIELD(normalize), NULL, 0, 0, NULL, NULL,
     "scale embeddings to length 1, where the model does not say so itself"},
    {"json", 0, CLI_FLAG, FIELD(json), NULL, 0, 0, NULL, NULL,
     "print one JSON object: dimensions, and of each text its tokens' number and its embedding"},
    {"ctx", 'c', CLI_COUNT, FIELD(context), "N", 1, INT32_MAX, NULL, "what the model says",
     "model file: the most tokens of a text, to compile for"},
    {"batch", 'b', CLI_COUNT, FIELD(batch), "N", 1, 1024, NULL, "16",
     "texts computed together at most; no embedding depends on it"},
    CLI_OPTION_QUANT,
    CLI_OPTION_NUMERIC,
    CLI_OPTION_THREADS,
    CLI_OPTION_DEVICE,
    CLI_OPTION_LIBCUDA,
    CLI_OPTION_TARGET,
    CLI_OPTION_KV_TYPE(CLI_KV_FLOAT_TYPES),
    CLI_OPTION_TEMPLATE,
    CLI_OPTION_TUNING_DB(""),
    CLI_OPTION_NO_CACHE,
    CLI_OPTION_SIGNATURE,
};

static const char details[] =
    "Makes an embedding of each text, a vector of numbers, by an encoder (BERT and its like), and prints it, a text a\n"
    "line, numbers with spaces between. FILE is an artifact or a model file, which is compiled into the cache as "
    "quern\n"
    "run does; for an artifact to compute several texts together it must be compiled with --batch. How a text's\n"
    "tokens become one vector (the mean of all or the first; of length 1 or not) is the model's to say.\n";

typedef struct embed_state {
  const embed_options *o;
  quern_model *model;      // owned
  quern_session *session;  // owned
  char *owned;             // the texts where they were read
  size_t owned_size;
  int64_t most;           // tokens of a text
  cli_ids tokens, text;   // owned: of all texts; of the one that is being read
  QN_VEC(size_t) counts;  // owned: tokens of each
  float *embeddings;      // owned, from malloc: (texts, width)
  size_t width, batch;    // of an embedding; texts of a step at most
  qn_buf out;
} embed_state;

static int fail_nomem(void) { return cli_fail(QN_ERR_NOMEM, "embed", "out of memory"); }

// ---- texts ---------------------------------------------------------------------------------------------------------

// Cuts the tokens in s->text to as many as fit: those that go around the text stay.
static int truncate_text(embed_state *s, const char *text, size_t length) {
  cli_ids bare = {0};
  quern_error error = {0};
  int code = cli_tokenize(s->model, text, length, 0, &bare, &error);
  size_t around = code == 0 ? s->text.count - bare.count : 0, before = 0, most = (size_t)s->most;
  while (code == 0 && before < around && bare.count > 0 &&
         memcmp(s->text.items + before, bare.items, bare.count * sizeof *bare.items) != 0)
    before++;
  qn_vec_free(qn_allocator_default(), &bare);
  if (code != 0) return cli_fail_with(code, &error);
  size_t after = around - before;
  if (around >= most)
    return cli_fail(QN_ERR_LIMIT, "embed", "%zu tokens go around a text, want fewer than %zu", around, most);
  memmove(s->text.items + most - after, s->text.items + s->text.count - after, after * sizeof *s->text.items);
  s->text.count = most;
  return 0;
}

static int add_text(embed_state *s, const char *text, size_t length) {
  quern_error error = {0};
  int code = cli_tokenize(s->model, text, length, QUERN_TOKENIZE_ADD_SPECIAL, &s->text, &error);
  if (code != 0) return cli_fail_with(code, &error);
  if (s->text.count == 0)
    return cli_fail(QN_ERR_ARGUMENT, "embed", "text %zu has no tokens, want at least one", s->counts.count + 1);
  if ((int64_t)s->text.count > s->most && s->o->truncate) {
    code = truncate_text(s, text, length);
    if (code != 0) return code;
  }
  if ((int64_t)s->text.count > s->most) {
    return cli_fail(
        QN_ERR_LIMIT, "embed",
        "text %zu has %zu tokens, want at most %lld; split it, give --truncate, or compile for more (--ctx) "
        "where the model has positions for them",
        s->counts.count + 1, s->text.count, (long long)s->most);
  }
  if (!cli_ids_reserve(&s->tokens, s->tokens.count + s->text.count)) return fail_nomem();
  memcpy(s->tokens.items + s->tokens.count, s->text.items, s->text.count * sizeof *s->text.items);
  s->tokens.count += s->text.count;
  return qn_vec_push(qn_allocator_default(), &s->counts, s->text.count) ? 0 : fail_nomem();
}

static int read_lines(embed_state *s) {
  const embed_options *o = s->o;
  qn_diag diag = {0};
  if (!o->file && !o->common.quiet && isatty(STDIN_FILENO))
    fputs("quern: reading texts, one a line; Ctrl-D ends them\n", stderr);
  cli_leave_signals();
  qn_status status =
      qn_file_read(o->file ? o->file : "-", QN_TEXT_MAX, qn_allocator_default(), &s->owned, &s->owned_size, &diag);
  cli_catch_signals();
  if (status != QN_OK) return cli_fail((int)status, o->file ? "--file" : "text", "%s", diag.text);
  for (size_t at = 0; at < s->owned_size;) {
    const char *line = s->owned + at, *end = memchr(line, '\n', s->owned_size - at);
    size_t length = end ? (size_t)(end - line) : s->owned_size - at;
    bool carriage = length > 0 && line[length - 1] == '\r';
    int code = add_text(s, line, length - carriage);
    if (code != 0) return code;
    at += length + 1;
  }
  return 0;
}

static int read_texts(embed_state *s) {
  const char *prompt = s->o->prompt;
  if (prompt && s->o->file) return cli_fail(QN_ERR_ARGUMENT, "--file", "got --prompt too, want one of them");
  return prompt && strcmp(prompt, "-") != 0 ? add_text(s, prompt, strlen(prompt)) : read_lines(s);
}

// ---- embeddings ----------------------------------------------------------------------------------------------------

static void scale_to_one(float *vector, size_t width) {
  double squares = 0;
  for (size_t i = 0; i < width; i++) squares += (double)vector[i] * (double)vector[i];
  for (size_t i = 0; i < width && squares > 0; i++) vector[i] = (float)((double)vector[i] / sqrt(squares));
}

static int embed_texts(embed_state *s) {
  quern_error error = {0};
  size_t texts = s->counts.count, bytes;
  if (!qn_size_mul(texts, s->width * sizeof(float), &bytes)) return fail_nomem();
  s->embeddings = malloc(bytes ? bytes : 1);
  if (!s->embeddings) return fail_nomem();
  const int32_t *tokens = s->tokens.items;
  for (size_t at = 0, now; at < texts; at += now) {  // some at a time, so that a signal is heard between them
    now = texts - at < s->batch ? texts - at : s->batch;
    if (cli_interrupted()) return cli_interrupt_code();
    int code =
        (int)quern_session_embed(s->session, tokens, s->counts.items + at, now, s->embeddings + at * s->width, &error);
    if (code != 0) return cli_fail_with(code, &error);
    for (size_t i = 0; i < now; i++) tokens += s->counts.items[at + i];
  }
  for (size_t i = 0; i < texts && s->o->normalize; i++) scale_to_one(s->embeddings + i * s->width, s->width);
  return 0;
}

static void put_vector(qn_buf *out, const float *vector, size_t width, const char *between) {
  for (size_t i = 0; i < width; i++) {
    if (i > 0) qn_buf_puts(out, between);
    if (isfinite(vector[i]))
      qn_buf_put_f32(out, vector[i]);
    else
      qn_buf_puts(out, "null");
  }
}

static void put_results(embed_state *s) {
  const float *at = s->embeddings;
  bool json = s->o->json;
  if (json) qn_buf_printf(&s->out, "{\"dimensions\": %zu, \"texts\": [", s->width);
  for (size_t i = 0; i < s->counts.count; i++, at += s->width) {
    if (json) qn_buf_printf(&s->out, "%s{\"tokens\": %zu, \"embedding\": [", i ? ", " : "", s->counts.items[i]);
    put_vector(&s->out, at, s->width, json ? ", " : " ");
    qn_buf_puts(&s->out, json ? "]}" : "\n");
  }
  if (json) qn_buf_puts(&s->out, "]}\n");
}

// ---- the command ---------------------------------------------------------------------------------------------------

static int open_model(embed_state *s, const char *path) {
  const embed_options *o = s->o;
  uint32_t batch = o->batch ? (uint32_t)o->batch : STANDARD_BATCH;
  run_source source = {.path = path,
                       .target = o->target,
                       .numeric = o->numeric,
                       .quant = o->quant,
                       .kv_type = o->kv_type,
                       .template_path = o->template_path,
                       .tuning_db = o->tuning_db,
                       .context = (uint32_t)o->context,
                       .run_threads = (int)o->threads,
                       .sequences = batch,
                       .no_cache = o->no_cache,
                       .signed_by = o->signed_by,
                       .quiet = o->common.quiet,
                       .encoder = true};
  const cli_cpu_option cpu_options[] = {{"--threads", o->threads > 0}};
  quern_error error = {0};
  int code = cli_device_find(o->device, o->libcuda, cpu_options, QN_COUNT(cpu_options), &source.device);
  if (code == 0) code = run_open(&source, &s->model);
  if (code != 0) return code;
  if (!quern_model_has_tokenizer(s->model))
    return cli_fail(QN_ERR_UNSUPPORTED, path, "this model has no tokenizer, and what is embedded are texts");
  int32_t most = quern_model_sequences_max(s->model);
  quern_session_options how = {.size = sizeof how, .threads = (int)o->threads, .context = (int64_t)o->context};
  how.sequences = most > 0 && (uint32_t)most < batch ? most : (int32_t)batch;
  code = (int)quern_session_create(s->model, &how, &s->session, &error);
  if (code != 0) return cli_fail_with(code, &error);
  quern_session_info info = {.size = sizeof info};
  quern_session_get_info(s->session, &info, NULL);
  s->most = info.context < info.chunk ? info.context : info.chunk;
  s->batch = (size_t)how.sequences;
  s->width = (size_t)quern_model_embedding_size(s->model);
  return 0;
}

static int embed(embed_state *s, const char *path) {
  int code = open_model(s, path);
  if (code == 0) code = read_texts(s);
  if (code == 0) code = embed_texts(s);
  if (code != 0) return code;
  put_results(s);
  if (s->out.failed) return fail_nomem();
  cli_out(s->out.data, s->out.length);
  return cli_out_end();
}

static int run(void *context, const char *path) {
  embed_state s = {.o = context};
  cli_catch_signals();
  qn_buf_init(&s.out, qn_allocator_default());
  int code = embed(&s, path);
  quern_session_destroy(s.session);
  quern_model_close(s.model);
  if (s.owned) qn_free(qn_allocator_default(), s.owned, s.owned_size + 1);
  qn_vec_free(qn_allocator_default(), &s.tokens);
  qn_vec_free(qn_allocator_default(), &s.text);
  qn_vec_free(qn_allocator_default(), &s.counts);
  qn_buf_deinit(&s.out);
  free(s.embeddings);
  return code;
}

const cli_command cli_embed_command = {
    .name = "embed",
    .operands = "FILE",
    .summary = "makes embeddings of texts by an encoder (BERT and its like)",
    .details = details,
    .options = options_table,
    .option_count = QN_COUNT(options_table),
    .options_size = sizeof(embed_options),
    .operand_name = "an artifact or a model file",
    .run = run,
};
