// Traces of requests: read from a file, or made up from a seed; and the objective that they are held against.
#include "frontend/cli/bench_trace.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/file.h"

#define DEFAULT_REQUESTS 100
#define DEFAULT_LENGTHS  "16,256"
#define DEFAULT_OUTPUTS  "8,128"
#define TRACE_SIZE_MAX   (64 << 20)

static bool add(bench_traces *t, trace *to, trace_request request) {
  int64_t tokens = request.prompt + request.output;
  if (tokens > t->longest) t->longest = tokens;
  return qn_vec_push(t->b->allocator, &to->requests, request);
}

static int fail_nomem(void) { return cli_fail(QN_ERR_NOMEM, "--trace", "out of memory for requests"); }

// --- a file

enum { FIELD_AT, FIELD_PROMPT, FIELD_OUTPUT, FIELD_PREFIX, FIELD_PREFIX_TOKENS, FIELD_PRIORITY, FIELD_CLIENT, FIELDS };

static int bad_line(const char *path, size_t number, const char *what, const char *got, const char *want) {
  char where[300];
  snprintf(where, sizeof where, "%s:%zu", path, number);
  return cli_fail(QN_ERR_FORMAT, where, "%s: got '%.60s', want %s", what, got, want);
}

static bool read_field(const char *text, uint64_t least, uint64_t most, int64_t *out) {
  uint64_t value;
  if (!cli_read_count(text, &value) || value < least || value > most) return false;
  *out = (int64_t)value;
  return true;
}

static int take_fields(const char *path, size_t number, char *const *fields, int count, trace_request *r) {
  char *end = fields[FIELD_AT];
  double ms = strtod(fields[FIELD_AT], &end);
  int64_t client = 0;
  if (end == fields[FIELD_AT] || *end || !(ms >= 0 && ms < 1e12))
    return bad_line(path, number, "arrival", fields[FIELD_AT], "milliseconds from the beginning");
  r->at = ms * 1e-3;
  if (!read_field(fields[FIELD_PROMPT], 1, INT32_MAX, &r->prompt))
    return bad_line(path, number, "prompt", fields[FIELD_PROMPT], "a number of tokens, at least 1");
  if (!read_field(fields[FIELD_OUTPUT], 1, INT32_MAX, &r->output))
    return bad_line(path, number, "output", fields[FIELD_OUTPUT], "a number of tokens, at least 1");
  if (count > FIELD_PREFIX && !read_field(fields[FIELD_PREFIX], 0, INT32_MAX, &r->prefix))
    return bad_line(path, number, "prefix", fields[FIELD_PREFIX], "the number of a shared prefix, 0 = none");
  if (count > FIELD_PREFIX_TOKENS &&
      !read_field(fields[FIELD_PREFIX_TOKENS], 0, (uint64_t)r->prompt, &r->prefix_tokens))
    return bad_line(path, number, "prefix tokens", fields[FIELD_PREFIX_TOKENS], "at most those of the prompt");
  if (count > FIELD_PRIORITY) {
    r->batch = strcmp(fields[FIELD_PRIORITY], "batch") == 0;
    if (!r->batch && strcmp(fields[FIELD_PRIORITY], "online") != 0)
      return bad_line(path, number, "priority", fields[FIELD_PRIORITY], "online or batch");
  }
  if (count > FIELD_CLIENT && !read_field(fields[FIELD_CLIENT], 0, INT32_MAX, &client))
    return bad_line(path, number, "client", fields[FIELD_CLIENT], "a number");
  r->client = (uint64_t)client;
  return 0;
}

// Fields with white space between them.
static int take_line(bench_traces *t, trace *to, const char *path, size_t number, char *line) {
  char *fields[FIELDS + 1], *rest = line;
  int count = 0;
  trace_request request = {0};
  line[strcspn(line, "#")] = '\0';
  for (char *word; count <= FIELDS && (word = strtok_r(rest, " \t\r", &rest)) != NULL;) fields[count++] = word;
  if (count == 0) return 0;
  if (count <= FIELD_OUTPUT || count > FIELDS) {
    return bad_line(path, number, "a request", fields[0],
                    "arrival in ms, prompt tokens, output tokens, then maybe: prefix, prefix tokens, priority, client");
  }
  int code = take_fields(path, number, fields, count, &request);
  if (code != 0) return code;
  const trace_request *last = to->requests.count > 0 ? &to->requests.items[to->requests.count - 1] : NULL;
  if (last && request.at < last->at) return bad_line(path, number, "arrival", fields[FIELD_AT], "none before the last line's");
  return add(t, to, request) ? 0 : fail_nomem();
}

static int read_trace(bench_traces *t, const char *path) {
  char *text = NULL;
  size_t size = 0, number = 1;
  qn_diag diag = {0};
  int code = (int)qn_file_read(path, TRACE_SIZE_MAX, t->b->allocator, &text, &size, &diag);
  if (code != 0) return cli_fail(code, "--trace", "%s", diag.text);
  t->count = 1;
  bool binary = memchr(text, '\0', size) != NULL;
  if (binary) code = cli_fail(QN_ERR_FORMAT, path, "got bytes that are no text, want a line a request");
  for (char *line = text, *end; code == 0 && line < text + size; line = end, number++) {
    end = line + strcspn(line, "\n");
    if (*end) *end++ = '\0';
    code = take_line(t, &t->traces[0], path, number, line);
  }
  qn_free(t->b->allocator, text, size + 1);
  if (code == 0 && t->traces[0].requests.count == 0) code = cli_fail(QN_ERR_FORMAT, path, "has no requests");
  return code;
}

// --- arrivals at random

// SplitMix64 (Steele, Lea, Flood 2014): the same requests from a seed on every machine.
static uint64_t next(uint64_t *state) {
  uint64_t z = *state += 0x9E3779B97F4A7C15u;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  return z ^ z >> 31;
}
static double unit(uint64_t *state) { return (double)(next(state) >> 11) * 0x1p-53; }

// Between the two, small ones as likely as large ones: what people ask for and get spreads over decades.
static int64_t length_between(uint64_t *state, const bench_list *bounds) {
  double least = (double)bounds->items[0], most = (double)bounds->items[bounds->count - 1];
  return (int64_t)(least * pow(most / least, unit(state)) + 0.5);
}

enum { PREFIXES = 4 };  // so many prompts begin alike, where --shared-prefix is given

static int make_up(bench_traces *t, trace *to, double rate, const bench_list *prompts, const bench_list *outputs) {
  const bench_options *o = t->b->options;
  uint64_t state = o->seed;
  double at = 0;
  to->rate = rate;
  for (uint64_t i = 0; i < (o->requests ? o->requests : DEFAULT_REQUESTS); i++) {
    trace_request r = {.at = at, .prompt = length_between(&state, prompts), .output = length_between(&state, outputs)};
    if (o->shared_prefix > 0) {
      r.prefix = 1 + (int64_t)(next(&state) % PREFIXES);
      r.prefix_tokens = (int64_t)o->shared_prefix;
      r.prompt += r.prefix_tokens;
    }
    at -= log(1 - unit(&state)) / rate;
    if (!add(t, to, r)) return fail_nomem();
  }
  return 0;
}

static int read_bounds(const char *name, const char *text, bench_list *out) {
  int code = bench_read_list(name, text, 1, INT32_MAX, out);
  if (code == 0 && out->items[0] > out->items[out->count - 1])
    return cli_fail(QN_ERR_ARGUMENT, name, "got '%s', want the least and the most of --trace's lengths", text);
  return code;
}

static int read_rates(bench_traces *t, const char *text) {
  const bench_options *o = t->b->options;
  bench_list prompts = {0}, outputs = {0};
  int code = read_bounds("--prompt", o->prompts ? o->prompts : DEFAULT_LENGTHS, &prompts);
  if (code == 0) code = read_bounds("--output", o->outputs ? o->outputs : DEFAULT_OUTPUTS, &outputs);
  for (const char *at = text; code == 0; at++) {
    char *end;
    double rate = strtod(at, &end);
    if (end == at || (*end && *end != ',') || !(rate > 0 && rate <= 1e6)) {
      return cli_fail(QN_ERR_ARGUMENT, "--trace", "got 'poisson:%.60s', want requests a second, with commas between several",
                      text);
    }
    if (t->count == TRACE_RATES_MAX)
      return cli_fail(QN_ERR_ARGUMENT, "--trace", "got more than %d rates, want fewer", TRACE_RATES_MAX);
    code = make_up(t, &t->traces[t->count++], rate, &prompts, &outputs);
    at = end;
    if (!*at) break;
  }
  return code;
}

// --- the objective

// "200ms", "1.5s"
static bool read_time(const char *text, size_t length, double *out) {
  char word[32], *end;
  if (length == 0 || length >= sizeof word) return false;
  memcpy(word, text, length);
  word[length] = '\0';
  *out = strtod(word, &end);
  if (strcmp(end, "ms") == 0) {
    *out *= 1e-3;
  } else if (strcmp(end, "s") != 0) {
    return false;
  }
  return end != word && *out > 0 && *out < 1e6;
}

static int read_objective(bench_traces *t, const char *text) {
  for (const char *part = text; part;) {
    size_t length = strcspn(part, ",");
    double *to = strncmp(part, "ttft=", 5) == 0 ? &t->slo_ttft : strncmp(part, "tpot=", 5) == 0 ? &t->slo_tpot : NULL;
    if (!to || *to > 0 || !read_time(part + 5, length - 5, to))
      return cli_fail(QN_ERR_ARGUMENT, "--slo", "got '%.60s', want something like ttft=200ms,tpot=100ms", text);
    part = part[length] ? part + length + 1 : NULL;
  }
  return 0;
}

const char *bench_trace_batching(quern_batching batching) {
  static const char *const words[TRACE_BATCHINGS] = {"continuous", "dynamic", "static"};
  return words[batching];
}

static int read_batchings(bench_traces *t, const char *text) {
  for (const char *part = text; part;) {
    size_t length = strcspn(part, ","), which = 0;
    for (; which < TRACE_BATCHINGS; which++) {
      const char *word = bench_trace_batching((quern_batching)which);
      if (strlen(word) == length && strncmp(word, part, length) == 0) break;
    }
    if (which == TRACE_BATCHINGS || t->batching_count == TRACE_BATCHINGS)
      return cli_fail(QN_ERR_ARGUMENT, "--batching", "got '%.60s', want continuous, dynamic or static, with commas between",
                      text);
    t->batchings[t->batching_count++] = (quern_batching)which;
    part = part[length] ? part + length + 1 : NULL;
  }
  return 0;
}

double bench_trace_tpot(const trace_outcome *o) {
  return o->tokens < 2 ? 0 : (o->last - o->first) / (double)(o->tokens - 1);
}

bool bench_trace_within(const bench_traces *t, const trace_request *request, const trace_outcome *o) {
  if (o->status != 0 || o->tokens == 0) return false;
  if (t->slo_ttft > 0 && o->first - request->at > t->slo_ttft) return false;
  return t->slo_tpot <= 0 || bench_trace_tpot(o) <= t->slo_tpot;
}

int bench_trace_read(bench_traces *t) {
  static const char poisson[] = "poisson:";
  const bench_options *o = t->b->options;
  int code = o->slo ? read_objective(t, o->slo) : 0;
  if (code == 0) code = read_batchings(t, o->batching ? o->batching : "continuous");
  if (code != 0) return code;
  if (strncmp(o->trace, poisson, strlen(poisson)) == 0) return read_rates(t, o->trace + strlen(poisson));
  return read_trace(t, o->trace);
}

void bench_trace_free(bench_traces *t) {
  const qn_allocator *allocator = t->b->allocator;
  for (size_t i = 0; i < t->count; i++) qn_vec_free(allocator, &t->traces[i].requests);
  for (size_t i = 0; i < t->runs.count; i++) {
    trace_run *run = &t->runs.items[i];
    qn_vec_free(allocator, &run->outcomes);
    qn_vec_free(allocator, &run->ttft);
    qn_vec_free(allocator, &run->tpot);
    qn_vec_free(allocator, &run->users);
  }
  qn_vec_free(allocator, &t->runs);
}
