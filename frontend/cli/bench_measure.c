// Takes the samples of `quern bench`: everything once in each repetition, so that whatever else the machine does falls
// on all of it alike.
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "frontend/cli/bench.h"
#include "runtime/base/file.h"

static int fail_nomem(void) { return cli_fail(QN_ERR_NOMEM, "bench", "out of memory for measurements"); }

static bool add(bench *b, bench_samples *samples, double value) { return qn_vec_push(b->allocator, samples, value); }

// Seconds by the clock that was chosen.
static double now(const bench_round *r) {
  struct timespec t;
  clock_gettime(r->cpu_time ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return ((double)t.tv_sec + (double)t.tv_nsec * 1e-9) / (r->cpu_time ? r->threads : 1);
}

// --- the machine

// What a GPU reads of its memory, and the peaks of its arithmetic; without NVRTC these stay unknown, and it is told why.
static int measure_device(bench_round *r, bench_machine *m) {
  bench *b = r->b;
  quern_device_peaks peaks = {.size = sizeof peaks};
  double *rate = &r->rates[QUERN_RATE_READ];
  if (!bench_step(b, "measuring the device")) return QN_ERR_CANCELLED;
  int code = (int)quern_model_measure_read(b->model, rate, &r->error);
  if (code == 0 && !*b->no_peaks.text) code = quern_model_measure_peaks(b->model, NULL, &peaks, &r->error);
  if (code == QN_ERR_TARGET) {
    b->no_peaks = r->error;
    code = 0;
  }
  if (code != 0) return cli_fail_with(code, &r->error);
  r->rates[QUERN_RATE_FP32] = peaks.fp32_ops_per_s;
  r->rates[QUERN_RATE_INT8] = r->rates[QUERN_RATE_NARROW] = peaks.int8_ops_per_s;
  r->f16_ops_per_s = peaks.f16_ops_per_s;
  bool kept = add(b, &m->rates[QUERN_RATE_READ], *rate);
  if (kept && !*b->no_peaks.text) {
    kept = add(b, &m->rates[QUERN_RATE_FP32], peaks.fp32_ops_per_s) &&
           add(b, &m->rates[QUERN_RATE_INT8], peaks.int8_ops_per_s) && add(b, &m->f16, peaks.f16_ops_per_s);
  }
  return kept ? 0 : fail_nomem();
}

static int measure_machine(bench_round *r, bench_machine *m) {
  if (r->b->device.name) return measure_device(r, m);
  for (int rate = 0; rate <= QUERN_RATE_NARROW; rate++) {
    if (!bench_step(r->b, "measuring the machine")) return QN_ERR_CANCELLED;
    int code = quern_machine_measure(r->b->machine, (quern_rate)rate, m->threads,
                                     r->cpu_time ? QUERN_CLOCK_CPU : QUERN_CLOCK_WALL, &r->rates[rate], &r->error);
    if (code != 0) return cli_fail_with(code, &r->error);
    if (!add(r->b, &m->rates[rate], r->rates[rate])) return fail_nomem();
  }
  return 0;
}

// Are the peaks known that MFU is a part of?
static bool has_peaks(const bench_round *r) { return r->rates[QUERN_RATE_INT8] > 0 && r->rates[QUERN_RATE_FP32] > 0; }

// Does the model multiply 16-bit floats by 16-bit floats, which tensor cores do?
static bool has_halves(const bench *b) {
  size_t length = 0;
  const char *mode = quern_model_summary_value(b->model, "numeric_mode", &length);
  return mode && length == 4 && memcmp(mode, "half", 4) == 0;
}

// Seconds that the multiply-adds of a step take at the peaks, those of codes at the one that their bits allow.
static double ideal_seconds(const bench_round *r, double tokens, double rows, double attention_macs) {
  const quern_model_cost *c = &r->b->cost;
  double pair = (double)(c->f32_macs_key + c->int8_macs_key);
  double codes = pair > 0 ? attention_macs * (double)c->int8_macs_key / pair : 0;  // of attention, over caches of codes
  double int8 = (double)c->int8_macs_token * tokens + (double)c->int8_macs_row * rows + codes;
  double narrow = (double)c->narrow_macs_token * tokens + (double)c->narrow_macs_row * rows;
  if (c->int8_macs_key > 0) narrow += codes * (double)c->narrow_macs_key / (double)c->int8_macs_key;
  double floats = (double)c->f32_macs_token * tokens + (double)c->f32_macs_row * rows;
  double products = r->f16_ops_per_s > 0 && has_halves(r->b) ? r->f16_ops_per_s : r->rates[QUERN_RATE_FP32];
  return 2 * (int8 - narrow) / r->rates[QUERN_RATE_INT8] + 2 * narrow / r->rates[QUERN_RATE_NARROW] +
         2 * floats / products + 2 * (attention_macs - codes) / r->rates[QUERN_RATE_FP32];
}

// --- energy

bool bench_joules(double *out) {
  static const char folder[] = "/sys/class/powercap";
  bool found = false;
  *out = 0;
  DIR *dir = opendir(folder);
  for (struct dirent *entry; dir && (entry = readdir(dir)) != NULL;) {
    char path[512];
    const char *colon = strchr(entry->d_name, ':');
    unsigned long long microjoules;
    if (!colon || strchr(colon + 1, ':')) continue;  // packages are intel-rapl:0; intel-rapl:0:0 is a part of one
    snprintf(path, sizeof path, "%s/%s/energy_uj", folder, entry->d_name);
    FILE *file = fopen(path, "re");
    if (file && fscanf(file, "%llu", &microjoules) == 1) {
      *out += (double)microjoules * 1e-6;
      found = true;
    }
    if (file) fclose(file);
  }
  if (dir) closedir(dir);
  return found;
}

// --- prompts

static int32_t made_up_token(const bench_round *r, int64_t i) { return (int32_t)((i * 7919 + 13) % r->vocab); }

// When each token came.
typedef struct watch {
  bench_round *r;
  bench_samples *steps;  // NULL = not wanted
  double first, last;
  int64_t count;
  bool no_memory;
} watch;

static bool note_token(void *context, const char *text, size_t length, int32_t token) {
  (void)text, (void)length;
  watch *w = context;
  double at = now(w->r);
  if (token < 0) return true;
  if (w->count++ == 0)
    w->first = at;
  else if (w->steps && !add(w->r->b, w->steps, at - w->last))
    w->no_memory = true;
  w->last = at;
  return !w->no_memory && !cli_interrupted();
}

static bool interrupted(void *context) {
  (void)context;
  return cli_interrupted();
}

static const quern_sampler_options greedy = {.size = sizeof greedy, .top_p = 1, .repeat_penalty = 1};

// A greedy generation whose tokens `w` notes.
static quern_generate_params watched(watch *w, const int32_t *prompt, size_t count, int64_t most) {
  return (quern_generate_params){.size = sizeof(quern_generate_params),
                                 .prompt = prompt,
                                 .prompt_count = count,
                                 .max_tokens = most,
                                 .sampler = &greedy,
                                 .ignore_eog = true,
                                 .callback = note_token,
                                 .cancelled = interrupted,
                                 .callback_context = w};
}

// So many of them, to be freed; NULL after a message.
static int32_t *make_tokens(const bench_round *r, size_t count) {
  int32_t *tokens = malloc(count * sizeof *tokens);
  for (size_t i = 0; tokens && i < count; i++) tokens[i] = made_up_token(r, (int64_t)i);
  if (!tokens) (void)fail_nomem();
  return tokens;
}

// A sample of what took `seconds`, and its MFU; attention sees p->tokens tokens in each of `texts` texts.
static int note_prompt(bench_round *r, bench_prefill *p, double seconds, double texts) {
  double bytes = 0, macs = 0;
  bool kept = add(r->b, &p->ttft, seconds);
  bool told = r->b->has_cost && !r->b->sourced;  // which does not say what is an encoder's
  told = told && quern_model_get_attention_cost(r->b->model, 0, p->tokens, &bytes, &macs);
  if (kept && told && has_peaks(r)) {
    kept = add(r->b, &p->mfu, ideal_seconds(r, (double)p->tokens * texts, texts, macs * texts) / seconds);
  }
  return kept ? 0 : fail_nomem();
}

int bench_texts(bench_round *r, bench_prefill *p) {
  if (!bench_step(r->b, "texts")) return QN_ERR_CANCELLED;
  size_t texts = (size_t)p->texts, width = (size_t)quern_model_embedding_size(r->b->model);
  int32_t *tokens = make_tokens(r, texts * (size_t)p->tokens);
  size_t *counts = calloc(texts, sizeof *counts);
  float *embeddings = calloc(texts * width, sizeof *embeddings);
  int code = tokens && counts && embeddings ? 0 : tokens ? fail_nomem() : QN_ERR_NOMEM;
  for (size_t i = 0; code == 0 && i < texts; i++) counts[i] = (size_t)p->tokens;
  double begin = now(r);
  if (code == 0) code = (int)quern_session_embed(r->session, tokens, counts, texts, embeddings, &r->error);
  double seconds = now(r) - begin;
  free(tokens);
  free(counts);
  free(embeddings);
  if (code != 0) return r->error.code == code ? cli_fail_with(code, &r->error) : code;
  return note_prompt(r, p, seconds, (double)p->texts);
}

int bench_prompt(bench_round *r, bench_prefill *p) {
  if (!bench_step(r->b, "prompts")) return QN_ERR_CANCELLED;
  size_t count = (size_t)p->tokens;
  int32_t *tokens = make_tokens(r, count);
  if (!tokens) return QN_ERR_NOMEM;
  watch w = {.r = r};
  quern_generate_params params = watched(&w, tokens, count, 1);
  quern_session_reset(r->session, 0);
  double begin = now(r);
  int code = (int)quern_generate(r->session, &params, NULL, &r->error);
  free(tokens);
  if (code != 0) return cli_fail_with(code, &r->error);
  if (w.count < 1) return QN_ERR_CANCELLED;
  return note_prompt(r, p, w.first - begin, 1);
}

// --- decoding

// One sequence from a token on, sampled and turned into text as a generation does; *out_stats may be NULL.
static int decode_alone(bench_round *r, int64_t depth, int64_t steps, quern_speculator *speculator, bench_samples *into,
                        double *out_seconds, quern_stats *out_stats) {
  watch w = {.r = r, .steps = into};
  int32_t token = made_up_token(r, 0);
  quern_generate_params params = watched(&w, &token, 1, steps + 1);
  params.speculator = speculator;
  quern_session_reset(r->session, 0);
  int code = (int)quern_session_fill(r->session, 0, depth, &r->error);
  if (code == 0) code = (int)quern_generate(r->session, &params, out_stats, &r->error);
  if (code != 0) return cli_fail_with(code, &r->error);
  if (w.no_memory) return fail_nomem();
  if (w.count <= steps) return QN_ERR_CANCELLED;
  *out_seconds = w.last - w.first;
  return 0;
}

// An empty sequence: of a model with an encoder one that looks at the last of the prompts.
static int begin_sequence(bench_round *r, int32_t sequence) {
  const bench *b = r->b;
  if (!b->sourced) {
    quern_session_reset(r->session, sequence);
    return 0;
  }
  size_t count = (size_t)b->prompts.items[b->prompts.count - 1];
  int32_t *tokens = make_tokens(r, count);
  if (!tokens) return QN_ERR_NOMEM;
  int code = (int)quern_session_source(r->session, sequence, tokens, count, &r->error);
  free(tokens);
  return code;
}

// `batch` tokens a step, without sampling: the logits of each are there.
int bench_decode_together(bench_round *r, bench_decode *d, int64_t steps, double *out_seconds) {
  quern_item *items = calloc((size_t)d->batch, sizeof *items);
  int code = items ? 0 : fail_nomem();
  for (int64_t i = 0; code == 0 && i < (d->one_sequence ? 1 : d->batch); i++) {
    code = begin_sequence(r, (int32_t)i);
    if (code == 0) code = (int)quern_session_fill(r->session, (int32_t)i, d->depth, &r->error);
  }
  double last = now(r);
  *out_seconds = 0;
  for (int64_t s = 0; code == 0 && s <= steps; s++) {  // the first warms up
    for (int64_t i = 0; i < d->batch; i++) {
      items[i] = (quern_item){made_up_token(r, s + i), d->one_sequence ? 0 : (int32_t)i, true};
    }
    if (d->one_sequence) code = (int)quern_session_truncate(r->session, 0, d->depth, &r->error);
    if (code == 0) code = (int)quern_session_step(r->session, items, (size_t)d->batch, &r->error);
    double at = now(r);
    if (code == 0 && s > 0 && !add(r->b, &d->step, at - last)) code = fail_nomem();
    if (s > 0) *out_seconds += at - last;
    last = at;
    if (cli_interrupted()) break;
  }
  free(items);
  if (code != 0 && r->error.code == code) return cli_fail_with(code, &r->error);
  return code == 0 && cli_interrupted() ? QN_ERR_CANCELLED : code;
}

static int measure_decode(bench_round *r, bench_decode *d) {
  bench *b = r->b;
  int64_t steps = (int64_t)b->options->generate;
  double seconds = 0, before = 0, after = 0;
  if (!bench_step(b, "decoding")) return QN_ERR_CANCELLED;
  bool energy = !b->device.name && bench_joules(&before);  // the counters are of the processor
  bool alone = d->batch == 1 && !b->sourced;  // whose source would be read with each text
  int code = alone ? decode_alone(r, d->depth, steps, NULL, &d->step, &seconds, NULL) : bench_decode_together(r, d, steps, &seconds);
  if (code != 0) return code;
  if (energy && bench_joules(&after) && after > before &&
      !add(b, &d->joules, (after - before) / (double)(steps * d->batch))) {
    return fail_nomem();
  }
  double step = seconds / (double)steps, batch = (double)d->batch, sequences = d->one_sequence ? 1 : batch;
  int64_t held = d->depth + (d->one_sequence && d->batch > 1 ? 0 : steps / 2);  // in the middle one
  double key_bytes = 0, macs = 0;
  bool told = quern_model_get_attention_cost(b->model, held, d->one_sequence ? d->batch : 1, &key_bytes, &macs);
  if (!b->has_cost || !told || b->sourced) return 0;
  double bytes = (double)b->cost.weight_bytes + (double)b->cost.token_bytes * batch + key_bytes * sequences;
  bool kept = add(b, &d->mbu, bytes / step / r->rates[QUERN_RATE_READ]);
  if (kept && has_peaks(r)) kept = add(b, &d->mfu, ideal_seconds(r, batch, batch, macs * sequences) / step);
  return kept ? 0 : fail_nomem();
}

// --- guesses

static int create_speculator(bench_round *r) {
  int code = cli_speculation_create(&r->b->speculation, r->session, &r->speculator, &r->error);
  return code == 0 ? 0 : cli_fail_with(code, &r->error);
}

// What guesses remembers no text of an earlier round, which was the same.
static int measure_guesses(bench_round *r, bench_guess *g) {
  bench *b = r->b;
  int64_t steps = (int64_t)b->options->generate;
  double plain = 0, guessed = 0;
  quern_stats stats = {.size = sizeof stats};
  if (!bench_step(b, "guessing")) return QN_ERR_CANCELLED;
  int code = r->speculator ? 0 : create_speculator(r);
  if (code == 0) code = decode_alone(r, g->depth, steps, NULL, NULL, &plain, NULL);
  if (code == 0) code = decode_alone(r, g->depth, steps, r->speculator, NULL, &guessed, &stats);
  quern_speculator_destroy(r->speculator);
  r->speculator = NULL;
  if (code != 0) return code;
  g->tokens += stats.decode_steps;
  g->passes += stats.passes;
  g->proposed += stats.proposed;
  g->accepted += stats.accepted;
  bool kept = add(b, &g->plain, plain / (double)steps) && add(b, &g->guessed, guessed / (double)steps);
  return kept ? 0 : fail_nomem();
}

// --- time outside kernels

static double kernel_seconds(const quern_session *session) {
  quern_step_profile p = {.size = sizeof p};
  double ns = 0;
  for (size_t i = 0; quern_session_profile(session, i, &p); i++) ns += (double)p.kernel_ns;
  return ns * 1e-9;
}

// In a session of its own, since noting the times takes some.
static int measure_outside(bench *b, bench_decode *d, const quern_session_options *how) {
  bench_round r = {.b = b, .vocab = quern_model_vocab_size(b->model)};  // by the wall, as a profile is
  quern_session_options options = *how;
  bench_samples shares = {0}, steps = {0};
  options.profile = true;
  if (!bench_step(b, "time outside kernels")) return QN_ERR_CANCELLED;
  int code = (int)quern_session_create(b->model, &options, &r.session, &r.error);
  if (code != 0) return cli_fail_with(code, &r.error);
  for (uint64_t i = 0; code == 0 && i < b->options->reps; i++) {
    double seconds = 0, kernels = kernel_seconds(r.session);
    code = decode_alone(&r, d->depth, (int64_t)b->options->generate, NULL, &steps, &seconds, NULL);
    kernels = kernel_seconds(r.session) - kernels;
    // The first token's evaluation is among the kernels' times and not among the seconds: one step of steps + 1.
    kernels *= (double)b->options->generate / (double)(b->options->generate + 1);
    if (code == 0 && !add(b, &shares, 1 - kernels / seconds)) code = fail_nomem();
  }
  if (code == 0) d->outside = bench_median(&shares);
  qn_vec_free(b->allocator, &shares);
  qn_vec_free(b->allocator, &steps);
  quern_session_destroy(r.session);
  return code;
}

// --- everything

int bench_plan_batch(const quern_model *model, int64_t batch, bool *out_one_sequence) {
  int32_t sequences = quern_model_sequences_max(model), rows = quern_model_rows_max(model);
  *out_one_sequence = batch > 1 && sequences > 0 && batch > sequences;
  if (rows == 0 || batch <= rows) return 0;
  return cli_fail(QN_ERR_LIMIT, "--batch",
                  "got %lld, want at most %d, for which the artifact was compiled; compile it with a larger --batch",
                  (long long)batch, rows);
}

static int plan(bench *b, int threads, int decode_threads) {
  bench_machine machine = {.threads = threads};
  bool kept = qn_vec_push(b->allocator, &b->machines, machine);
  for (size_t i = 0; kept && i < b->prompts.count; i++) {
    for (size_t j = 0; kept && j < (b->embeds ? b->batches.count : 1); j++) {
      bench_prefill p = {.threads = threads, .tokens = b->prompts.items[i], .texts = b->embeds ? b->batches.items[j] : 0};
      kept = qn_vec_push(b->allocator, &b->prefills, p);
    }
  }
  for (size_t i = 0; !b->embeds && i < b->depths.count; i++) {
    for (size_t j = 0; kept && j < b->batches.count; j++) {
      bench_decode d = {.threads = decode_threads, .depth = b->depths.items[i], .batch = b->batches.items[j], .outside = -1};
      int code = bench_plan_batch(b->model, d.batch, &d.one_sequence);
      if (code != 0) return code;
      kept = qn_vec_push(b->allocator, &b->decodes, d);
    }
    bench_guess g = {.threads = decode_threads, .depth = b->depths.items[i]};
    if (kept && b->speculation.wanted) kept = qn_vec_push(b->allocator, &b->guesses, g);
  }
  return kept ? 0 : fail_nomem();
}

static int measure_rounds(bench *b, bench_round *r, size_t first_prefill, size_t first_decode, size_t first_guess) {
  int code = 0;
  for (uint64_t rep = 0; code == 0 && rep < b->options->reps; rep++) {
    code = measure_machine(r, &b->machines.items[b->machines.count - 1]);
    r->threads = r->prompt_threads;
    for (size_t i = first_prefill; code == 0 && i < b->prefills.count; i++) {
      code = b->embeds ? bench_texts(r, &b->prefills.items[i]) : bench_prompt(r, &b->prefills.items[i]);
    }
    r->threads = r->decode_threads;
    for (size_t i = first_decode; code == 0 && i < b->decodes.count; i++) {
      code = measure_decode(r, &b->decodes.items[i]);
    }
    for (size_t i = first_guess; code == 0 && i < b->guesses.count; i++) code = measure_guesses(r, &b->guesses.items[i]);
  }
  return code;
}

// Memory is touched for the first time, and threads are awake.
int bench_warm_up(bench_round *r) {
  int32_t tokens[64];
  int64_t most = r->b->context;
  size_t count = most < (int64_t)QN_COUNT(tokens) ? (size_t)most : QN_COUNT(tokens);
  if (r->b->embeds) {
    bench_prefill p = {.tokens = (int64_t)count, .texts = 1};
    int code = bench_texts(r, &p);
    qn_vec_free(r->b->allocator, &p.ttft);
    qn_vec_free(r->b->allocator, &p.mfu);
    return code;
  }
  for (size_t i = 0; i < count; i++) tokens[i] = made_up_token(r, (int64_t)i);
  const float *logits;  // they are made, too
  int code = begin_sequence(r, 0);
  if (code == 0) code = (int)quern_session_eval(r->session, 0, tokens, count, &logits, &r->error);
  return code == 0 ? 0 : cli_fail_with(code, &r->error);
}

// All with one number of threads.
static int measure_threads(bench *b, int threads) {
  bench_round r = {.b = b, .vocab = quern_model_vocab_size(b->model)};
  r.cpu_time = b->options->clock && strcmp(b->options->clock, "cpu") == 0;
  quern_session_options how = {.size = sizeof how,
                               .context = b->context,
                               .kv_evict = b->options->kv_evict,
                               .kv_keep = (int64_t)b->options->kv_keep};
  cli_settings_apply(&b->settings, &how);
  if (threads > 0) how.threads = threads;  // otherwise those of the settings
  int32_t sequences = 1;
  for (size_t i = 0; i < b->batches.count; i++) {
    bool one = false;
    int code = bench_plan_batch(b->model, b->batches.items[i], &one);
    if (code != 0) return code;
    if (!one && b->batches.items[i] > sequences) sequences = (int32_t)b->batches.items[i];
  }
  how.sequences = sequences;
  int code = (int)quern_session_create(b->model, &how, &r.session, &r.error);
  if (code != 0) return cli_fail_with(code, &r.error);
  quern_session_info info = {.size = sizeof info};
  quern_session_get_info(r.session, &info, NULL);
  r.threads = r.prompt_threads = info.threads;
  r.decode_threads = info.decode_threads;
  size_t first_prefill = b->prefills.count, first_decode = b->decodes.count, first_guess = b->guesses.count;
  code = plan(b, info.threads, info.decode_threads);
  b->kv_bytes = info.kv_bytes;
  if (code == 0) code = bench_warm_up(&r);
  if (code == 0) code = create_speculator(&r);  // an error before anything is measured
  if (code == 0) code = measure_rounds(b, &r, first_prefill, first_decode, first_guess);
  quern_speculator_destroy(r.speculator);
  quern_session_destroy(r.session);
  for (size_t i = first_decode; code == 0 && i < b->decodes.count; i++) {
    if (b->decodes.items[i].batch == 1 && !b->sourced) code = measure_outside(b, &b->decodes.items[i], &how);
  }
  return code;
}

int bench_measure(bench *b) {
  size_t each = (b->device.name ? 1 : QUERN_RATE_NARROW + 1), batches = b->batches.count;
  each += b->embeds ? b->prompts.count * batches : b->prompts.count + b->depths.count * (batches + b->speculation.wanted);
  size_t more = b->embeds ? 1 : b->sourced ? 0 : b->depths.count;  // warming up; time outside kernels
  b->total = b->done + b->threads.count * (each * b->options->reps + more);
  for (size_t i = 0; i < b->threads.count; i++) {
    int code = measure_threads(b, (int)b->threads.items[i]);
    if (code != 0) return code;
  }
  return 0;
}
