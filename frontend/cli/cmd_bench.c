// quern bench: how fast a model runs here, beside what the machine could do.
#include <stdlib.h>
#include <string.h>

#include "frontend/cli/bench.h"
#include "frontend/cli/bench_trace.h"
#include "frontend/cli/json.h"
#include "frontend/cli/model_options.h"
#include "frontend/cli/run_open.h"
#include "runtime/base/file.h"

#define DEFAULT_PROMPTS "128,512"
#define DEFAULT_DEPTHS  "0"
#define DEFAULT_BATCHES "1"

#define FIELD(name) offsetof(bench_options, name)
static const cli_option options_table[] = {
    {"json", 0, CLI_TEXT, FIELD(json_path), "FILE", 0, 0, NULL, NULL,
     "write everything that was measured as one JSON object; - is standard output, where it takes the table's place"},
    {"threads", 'j', CLI_TEXT, FIELD(threads), "N,...", 0, 0, NULL, CLI_THREADS_STANDARD,
     "numbers of threads; what stands for the whole is the last"},
    CLI_OPTION_DEVICE,
    CLI_OPTION_LIBCUDA,
    {"prompt", 'p', CLI_TEXT, FIELD(prompts), "N,...", 0, 0, NULL, DEFAULT_PROMPTS,
     "tokens of a prompt; what stands for the whole is the last"},
    {"generate", 'n', CLI_COUNT, FIELD(generate), "N", 1, 1 << 20, NULL, "64", "tokens to decode"},
    {"depth", 0, CLI_TEXT, FIELD(depths), "N,...", 0, 0, NULL, DEFAULT_DEPTHS,
     "keys in the cache before decoding, filled with numbers; what stands for the whole is the first"},
    {"batch", 0, CLI_TEXT, FIELD(batches), "N,...", 0, 0, NULL, DEFAULT_BATCHES,
     "tokens a step: of so many sequences, or of one where an artifact has room for one only. A model file is compiled "
     "for as many sequences"},
    {"against", 0, CLI_TEXT, FIELD(against), "OTHER.qn", 0, 0, NULL, NULL,
     "another artifact, of the same model, which takes turns with FILE in this process: prints how many times as fast FILE "
     "is, and nothing else. With the last of --threads; --reps prompts each, and as many times the tokens to decode"},
    {"trace", 0, CLI_TEXT, FIELD(trace), "FILE|poisson:RATE,...", 0, 0, NULL, NULL,
     "replay requests that arrive over time on the scheduler, and nothing else: those of a file, or --requests of them at "
     "random, so many a second. A line of the file is one request: milliseconds from the beginning, tokens of the prompt, "
     "tokens to generate, and maybe: number of a prefix that others share, its tokens, online or batch, number of a client"},
    {"slo", 0, CLI_TEXT, FIELD(slo), "ttft=TIME,tpot=TIME", 0, 0, NULL, "none",
     "trace: what a request is promised, in ms or s; goodput counts those that got it"},
    {"requests", 0, CLI_COUNT, FIELD(requests), "N", 1, 1 << 20, NULL, "100 of them", "trace poisson: how many"},
    {"output", 0, CLI_TEXT, FIELD(outputs), "LEAST,MOST", 0, 0, NULL, "8,128",
     "trace poisson: tokens to generate, small numbers as likely as large ones; of prompts --prompt says it (16,256)"},
    {"shared-prefix", 0, CLI_COUNT, FIELD(shared_prefix), "N", 1, 1 << 20, NULL, "0",
     "trace poisson: each prompt begins with one of four texts of so many tokens"},
    {"seed", 0, CLI_COUNT, FIELD(seed), "N", 0, INT64_MAX, NULL, "0", "trace poisson: of the random numbers"},
    {"batching", 0, CLI_TEXT, FIELD(batching), "HOW,...", 0, 0, NULL, "continuous",
     "trace: continuous, dynamic or static, or several of them one after the other; the largest of --batch is how many "
     "requests are evaluated together"},
    {"pages", 0, CLI_COUNT, FIELD(pages), "N", 1, 1 << 30, NULL, "enough for all",
     "trace: pages of the KV cache; with too few, requests wait or are preempted"},
    {"prefix-cache", 0, CLI_FLAG, FIELD(prefix_cache), NULL, 0, 0, NULL, NULL,
     "trace: keep what prompts have in common in the KV cache, as long as there is room"},
    {"preempt", 0, CLI_CHOICE, FIELD(preempt), "HOW", 0, 0, "recompute|swap", "recompute",
     "trace: what becomes of the keys and values of a preempted request: evaluated again, or kept in memory"},
    CLI_OPTION_SPECULATE("decode one sequence with guesses, too, in turns with decoding it without (see quern run --help); "
                         "trace: guess what comes next of every request"),
    CLI_OPTION_DRAFT_TOKENS,
    {"longest-wait", 0, CLI_COUNT, FIELD(longest_wait), "MS", 1, 1 << 20, NULL, "no bound",
     "trace: take in prompts only so far that nobody who generates waits longer for a token"},
    {"batch-wait", 0, CLI_COUNT, FIELD(batch_wait), "MS", 1, 1 << 20, NULL, "0",
     "trace with dynamic batching: how long a batch that is not full waits"},
    {"html", 0, CLI_TEXT, FIELD(html_path), "FILE", 0, 0, NULL, NULL, "trace: a page with plots; - is standard output"},
    {"reps", 0, CLI_COUNT, FIELD(reps), "N", 1, 1000, NULL, "5", "repetitions of everything, taken in turn"},
    {"clock", 0, CLI_CHOICE, FIELD(clock), "CLOCK", 0, 0, "wall|cpu", "wall",
     "what counts as time: on the wall; or the CPU time of the threads over their number, of which other programs on a "
     "busy machine take nothing, for the model and for the machine alike"},
    {"ctx", 'c', CLI_COUNT, FIELD(context), "N", 1, INT32_MAX, NULL, "the model's own",
     "model file: compile for a context of so many tokens"},
    CLI_OPTION_DECODE_THREADS,
    CLI_OPTION_SPIN,
    CLI_OPTION_GRAIN,
    CLI_OPTION_PIN,
    CLI_OPTION_NO_PIN,
    CLI_OPTION_TARGET,
    CLI_OPTION_NUMERIC,
    CLI_OPTION_QUANT,
    CLI_OPTION_KV_TYPE(CLI_KV_TYPES),
    CLI_OPTION_KV_EVICT,
    CLI_OPTION_KV_KEEP,
    CLI_OPTION_HUGE_PAGES,
    CLI_OPTION_TUNING_DB(", and of quern machine"),
    CLI_OPTION_TEMPLATE,
    CLI_OPTION_SIGNATURE,
};

static const char details[] =
    "Measures a model: the time to load it, to evaluate prompts (TTFT: until the first token is there) and\n"
    "from token to token (TPOT). FILE is an artifact or a model, which is compiled into the cache as\n"
    "quern run does. The machine is measured in the same run, by kernels compiled like the model's:\n"
    "  MBU   bytes of weights and of keys and values that a step reads, as part of what memory gives\n"
    "  MFU   time that the multiply-adds would take at the peaks of dot4 and fma, as part of what they take; codes\n"
    "        of few bits are held against a peak of their own, since several of their products add up in 16 bits\n"
    "Of a GPU the bytes a second are measured that copies within its memory read and write, and the peaks of f32\n"
    "multiply-adds and of tensor cores by kernels that NVRTC compiles; without NVRTC there is no MFU.\n"
    "A prompt's tokens are made up, and greedy sampling goes on after the end of a text. Ctrl-C ends it.\n"
    "\n"
    "Of a model with an encoder (T5) prompts are what that reads, and decoding looks at the last of them. Of an encoder\n"
    "alone (BERT) texts of --prompt tokens are embedded, --batch of them at a time.\n";

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double bench_percentile(const bench_samples *samples, double part) {
  if (samples->count == 0) return 0;
  qsort(samples->items, samples->count, sizeof *samples->items, by_value);
  size_t index = (size_t)(part * (double)samples->count);
  return samples->items[index < samples->count ? index : samples->count - 1];
}

double bench_median(const bench_samples *samples) { return bench_percentile(samples, 0.5); }
double bench_mean(const bench_samples *samples) {
  double sum = 0;
  for (size_t i = 0; i < samples->count; i++) sum += samples->items[i];
  return samples->count == 0 ? 0 : sum / (double)samples->count;
}

bool bench_step(bench *b, const char *stage) {
  return cli_progress_step(&b->progress, b->options->against ? "taking turns" : stage, b->done++, b->total);
}

// --- the plan

int bench_read_list(const char *name, const char *text, uint64_t least, uint64_t most, bench_list *out) {
  for (;;) {
    char word[24];
    uint64_t value;
    size_t length = strcspn(text, ",");
    snprintf(word, sizeof word, "%.*s", (int)(length < sizeof word ? length : sizeof word), text);
    if (out->count == BENCH_LIST_MAX) {
      return cli_fail(QN_ERR_ARGUMENT, name, "got more than %d numbers, want fewer", BENCH_LIST_MAX);
    }
    if (length >= sizeof word || !cli_read_count(word, &value) || value < least || value > most) {
      return cli_fail(QN_ERR_ARGUMENT, name, "got '%s', want whole numbers from %llu to %llu with commas between them",
                      word, (unsigned long long)least, (unsigned long long)most);
    }
    out->items[out->count++] = (int64_t)value;
    if (!text[length]) return 0;
    text += length + 1;
  }
}

static int read_lists(bench *b) {
  const bench_options *o = b->options;
  int code = 0;
  if (o->threads) code = bench_read_list("--threads", o->threads, 1, 1024, &b->threads);
  if (code == 0) code = bench_read_list("--prompt", o->prompts ? o->prompts : DEFAULT_PROMPTS, 1, INT32_MAX, &b->prompts);
  if (code == 0) code = bench_read_list("--depth", o->depths ? o->depths : DEFAULT_DEPTHS, 0, INT32_MAX, &b->depths);
  if (code == 0) code = bench_read_list("--batch", o->batches ? o->batches : DEFAULT_BATCHES, 1, 4096, &b->batches);
  if (code == 0 && !o->threads) b->threads = (bench_list){{0}, 1};  // as many as a session takes by itself
  return code;
}

static int find_device(bench *b) {
  const bench_options *o = b->options;
  const cli_cpu_option cpu_options[] = {{"--threads", o->threads},
                                        {"--decode-threads", o->decode_threads > 0},
                                        {"--spin", o->spin},
                                        {"--grain", o->grain > 0},
                                        {"--pin", o->pin},
                                        {"--no-pin", o->no_pin},
                                        {"--huge-pages", o->huge_pages},
                                        {"--clock", o->clock && strcmp(o->clock, "cpu") == 0}};
  return cli_device_find(o->device, o->libcuda, cpu_options, QN_COUNT(cpu_options), &b->device);
}

static cli_settings_options settings_options(const bench *b) {
  const bench_options *o = b->options;
  cli_settings_options settings = {.threads = o->threads ? (uint64_t)b->threads.items[0] : 0,
                                   .decode_threads = o->decode_threads,
                                   .spin = o->spin,
                                   .grain = o->grain,
                                   .pin = o->pin,
                                   .no_pin = o->no_pin,
                                   .quiet = o->common.quiet,
                                   .huge_pages = o->huge_pages,
                                   .tuning_db = o->tuning_db};
  for (size_t i = 0; o->threads && i < b->threads.count; i++) {
    if ((uint64_t)b->threads.items[i] < settings.threads) settings.threads = (uint64_t)b->threads.items[i];
  }
  return settings;
}

static int read_settings(bench *b) {
  cli_settings_options settings = settings_options(b);
  return cli_settings_get(&settings, &b->settings);
}

int64_t bench_largest(const bench_list *list) {
  int64_t most = 0;
  for (size_t i = 0; i < list->count; i++) most = list->items[i] > most ? list->items[i] : most;
  return most;
}

static int64_t most_keys(const bench *b) {
  int64_t most = 0;
  for (size_t i = 0; i < b->prompts.count; i++) most = b->prompts.items[i] > most ? b->prompts.items[i] : most;
  for (size_t i = 0; !b->embeds && i < b->depths.count; i++) {
    for (size_t j = 0; j < b->batches.count; j++) {
      int64_t steps = (int64_t)b->options->generate + 1;
      int64_t keys = b->depths.items[i] + (steps > b->batches.items[j] ? steps : b->batches.items[j]);
      most = keys > most ? keys : most;
    }
  }
  return most;
}

// --- the model

// What is measured of a model depends on what it makes.
static int take_kind(bench *b, const char *path) {
  const bench_options *o = b->options;
  b->embeds = quern_model_embedding_size(b->model) > 0;
  b->sourced = quern_model_has_source(b->model);
  if (o->trace && (b->embeds || b->sourced))
    return cli_fail(QN_ERR_UNSUPPORTED, path, "has an encoder, and --trace replays requests for texts that go on; leave it out");
  if (o->speculate && (b->embeds || b->sourced))
    return cli_fail(QN_ERR_UNSUPPORTED, path, "has an encoder, and tokens are guessed of texts that go on; leave --speculate out");
  const struct {
    const char *name;
    bool given;
  } of_texts[] = {{"--against", o->against != NULL}, {"--depth", o->depths != NULL},
                  {"--generate", cli_given(&cli_bench_command, &o->common, "generate")}};
  for (size_t i = 0; b->embeds && i < QN_COUNT(of_texts); i++) {
    if (of_texts[i].given)
      return cli_fail(QN_ERR_ARGUMENT, of_texts[i].name, "is for models that write texts, got the encoder %s", path);
  }
  return 0;
}

// The usual lengths that an encoder can read, or else the longest.
static void shorten_prompts(bench *b, int64_t most) {
  size_t count = 0;
  for (size_t i = 0; i < b->prompts.count; i++) {
    if (most == 0 || b->prompts.items[i] <= most) b->prompts.items[count++] = b->prompts.items[i];
  }
  if (count == 0) b->prompts.items[count++] = most;
  b->prompts.count = count;
}

static run_source source_of(const bench *b, const char *path) {
  const bench_options *o = b->options;
  uint32_t sequences = (uint32_t)bench_largest(&b->batches), guesses = cli_speculation_sequences(&b->speculation);
  if (o->trace) sequences = cli_speculation_sequences_of(&b->speculation, sequences);
  return (run_source){.path = path,
                       .target = o->target,
                       .numeric = o->numeric,
                       .quant = o->quant,
                       .kv_type = o->kv_type,
                       .kv_evict = o->kv_evict,
                       .template_path = o->template_path,
                       .context = (uint32_t)o->context,
                       .run_threads = o->threads && b->threads.count == 1 ? (int)b->threads.items[0] : 0,
                       .signed_by = o->signed_by,
                       .sequences = guesses > sequences ? guesses : sequences,
                       .guesses = b->speculation.guesses,
                       .tuning_db = o->tuning_db,
                       .device = b->device,
                       .quiet = o->common.quiet};
}

static int open_model(bench *b, const char *path, char **out_path) {
  const bench_options *o = b->options;
  run_source source = source_of(b, path);
  source.out_artifact = out_path;
  source.any_kind = true;
  int code = run_open(&source, &b->model);
  if (code == 0) code = take_kind(b, path);
  if (code != 0) return code;
  if (!*out_path) {
    return cli_fail(QN_ERR_ARGUMENT, path,
                    "is not kept in the cache; compile it (quern compile) and bench the artifact");
  }
  cli_settings_options settings = settings_options(b);
  // Of several numbers of threads none has its own: they are compared under the machine's.
  if (!o->threads || b->threads.count == 1) cli_settings_of_model(&settings, b->model, &b->settings);
  b->artifact = *out_path;
  int64_t most = quern_model_context_max(b->model);
  if (b->embeds && !o->prompts) shorten_prompts(b, most);
  b->context = b->options->trace ? 1 : most_keys(b);  // that of a trace is seen when it is replayed
  if (most > 0 && b->context > most) {
    return cli_fail(QN_ERR_LIMIT, path, "got prompts and depths for a context of %lld tokens, want at most %lld",
                    (long long)b->context, (long long)most);
  }
  b->cost.size = sizeof b->cost;
  b->has_cost = quern_model_get_cost(b->model, &b->cost);
  return 0;
}

// A process that measures a start wants the GPU's memory for itself.
static void leave_device(bench *b) {
  if (!b->device.name) return;
  quern_model_close(b->model);
  b->model = NULL;
}

// Places the weights as asked for. Not before: a process that measures a start wants the reserved pages, too.
static int place_weights(bench *b) {
  if (!b->settings.huge_pages && !b->device.name) return 0;
  run_source source = {.path = b->artifact,
                       .target = b->options->target,
                       .huge_pages = b->settings.huge_pages,
                       .device = b->device,
                       .signed_by = b->options->signed_by,
                       .any_kind = true,
                       .quiet = b->options->common.quiet};
  quern_model_close(b->model);
  b->model = NULL;
  return run_open(&source, &b->model);
}

// The draft model or the heads of --speculate.
static int open_draft(bench *b, const char *path) {
  run_source source = source_of(b, path);
  return cli_speculation_open(&b->speculation, &source, b->options->trace ? (uint32_t)bench_largest(&b->batches) : 1);
}

static int open_machine(bench *b) {
  if (b->device.name) return 0;
  quern_error error = {0};
  int code = quern_machine_open(quern_model_target(b->model), &b->machine, &error);
  return code == 0 ? 0 : cli_fail_with(code, &error);
}

// --- traces

static int write_text(const bench_traces *t, void (*put)(const bench_traces *t, qn_buf *out), const char *path,
                      const char *option) {
  qn_buf text;
  if (!path) return 0;
  qn_buf_init(&text, t->b->allocator);
  put(t, &text);
  int code = cli_json_save(&text, path, option);
  qn_buf_deinit(&text);
  return code;
}

static int replay_traces(bench_traces *t, const char *path, char **artifact) {
  bench *b = t->b;
  const bench_options *o = b->options;
  int code = bench_trace_read(t);
  cli_catch_signals();
  if (code == 0) code = open_model(b, path, artifact);
  cli_progress_init(&b->progress, o->common.quiet);
  if (code == 0) code = place_weights(b);
  if (code == 0) code = open_draft(b, path);
  if (code == 0) code = bench_trace_measure(t);
  cli_progress_end(&b->progress);
  if (cli_interrupted()) return cli_interrupt_code();
  bool silent = (o->json_path && strcmp(o->json_path, "-") == 0) || (o->html_path && strcmp(o->html_path, "-") == 0);
  if (code == 0 && !silent) bench_trace_print(t);
  if (code == 0) code = write_text(t, bench_trace_put_json, o->json_path, "--json");
  if (code == 0) code = write_text(t, bench_trace_put_html, o->html_path, "--html");
  return code != 0 ? code : cli_out_end();
}

static int bench_trace_all(bench *b, const char *path, char **artifact) {
  bench_traces t = {.b = b};
  int code = replay_traces(&t, path, artifact);
  bench_trace_free(&t);
  return code;
}

// Options of a trace without one would do nothing.
static int check_trace_options(const bench_options *o) {
  const struct {
    const char *name;
    bool given;
  } of_traces[] = {{"--slo", o->slo},           {"--requests", o->requests > 0},
                   {"--output", o->outputs},    {"--shared-prefix", o->shared_prefix > 0},
                   {"--batching", o->batching}, {"--pages", o->pages > 0},
                   {"--preempt", o->preempt},   {"--longest-wait", o->longest_wait > 0},
                   {"--html", o->html_path},    {"--batch-wait", o->batch_wait > 0},
                   {"--seed", o->seed > 0},     {"--prefix-cache", o->prefix_cache}};
  for (size_t i = 0; !o->trace && i < QN_COUNT(of_traces); i++) {
    if (of_traces[i].given) return cli_fail(QN_ERR_ARGUMENT, of_traces[i].name, "is for --trace");
  }
  if (o->against && o->speculate)
    return cli_fail(QN_ERR_ARGUMENT, "--speculate", "got it with --against, which compares artifacts; want one of them");
  if (o->trace && o->against) return cli_fail(QN_ERR_ARGUMENT, "--against", "got it with --trace, want one of them");
  return 0;
}

// --- the command

static int write_json(const bench *b) {
  qn_buf text;
  qn_buf_init(&text, b->allocator);
  bench_put_json(b, &text);
  int code = cli_json_save(&text, b->options->json_path, "--json");
  qn_buf_deinit(&text);
  return code;
}

static int bench_all(bench *b, const char *path, char **artifact) {
  const char *json = b->options->json_path;
  int code = cli_check_outputs(path, json, b->options->html_path);
  if (code == 0) code = check_trace_options(b->options);
  if (code == 0) code = read_lists(b);
  if (code == 0) code = cli_speculation_read(b->options->speculate, b->options->draft_tokens, &b->speculation);
  if (code == 0) code = find_device(b);
  if (code == 0 && !b->device.name) code = read_settings(b);
  if (code == 0 && b->options->trace) return bench_trace_all(b, path, artifact);
  cli_catch_signals();
  if (code == 0) code = open_model(b, path, artifact);
  cli_progress_init(&b->progress, b->options->common.quiet);
  bool alone = !b->options->against;
  if (code == 0 && alone && !b->embeds) leave_device(b);
  if (code == 0 && alone && !b->embeds) code = bench_measure_start(b);  // of quern run
  if (code == 0) code = place_weights(b);
  if (code == 0) code = open_draft(b, path);
  if (code == 0 && alone) code = open_machine(b);
  if (code == 0) code = alone ? bench_measure(b) : bench_against(b);
  cli_progress_end(&b->progress);
  if (cli_interrupted()) return cli_interrupt_code();
  if (code != 0 || !alone) return code;
  if (!json || strcmp(json, "-") != 0) bench_print(b);
  return json ? write_json(b) : cli_out_end();
}

static void free_samples(bench *b) {
  for (size_t i = 0; i < b->machines.count; i++) {
    qn_vec_free(b->allocator, &b->machines.items[i].f16);
    for (size_t r = 0; r < QN_COUNT(b->machines.items[i].rates); r++) {
      qn_vec_free(b->allocator, &b->machines.items[i].rates[r]);
    }
  }
  for (size_t i = 0; i < b->prefills.count; i++) {
    bench_prefill *p = &b->prefills.items[i];
    qn_vec_free(b->allocator, &p->ttft);
    qn_vec_free(b->allocator, &p->mfu);
  }
  for (size_t i = 0; i < b->decodes.count; i++) {
    bench_decode *d = &b->decodes.items[i];
    qn_vec_free(b->allocator, &d->step);
    qn_vec_free(b->allocator, &d->mbu);
    qn_vec_free(b->allocator, &d->mfu);
    qn_vec_free(b->allocator, &d->joules);
  }
  for (size_t i = 0; i < b->guesses.count; i++) {
    qn_vec_free(b->allocator, &b->guesses.items[i].plain);
    qn_vec_free(b->allocator, &b->guesses.items[i].guessed);
  }
  qn_vec_free(b->allocator, &b->guesses);
  qn_vec_free(b->allocator, &b->machines);
  qn_vec_free(b->allocator, &b->prefills);
  qn_vec_free(b->allocator, &b->decodes);
  qn_vec_free(b->allocator, &b->load);
  qn_vec_free(b->allocator, &b->start);
}

static int run(void *context, const char *path) {
  bench b = {.options = context, .allocator = qn_allocator_default()};
  char *artifact = NULL;
  int code = bench_all(&b, path, &artifact);
  free_samples(&b);
  quern_machine_close(b.machine);
  cli_speculation_free(&b.speculation);
  quern_model_close(b.model);
  free(artifact);
  return code;
}

const cli_command cli_bench_command = {
    .name = "bench",
    .operands = "FILE",
    .summary = "measures how fast an artifact or a model file runs, beside the machine's limits",
    .details = details,
    .options = options_table,
    .option_count = QN_COUNT(options_table),
    .options_size = sizeof(bench_options),
    .operand_name = "an artifact or a model file",
    .run = run,
};
