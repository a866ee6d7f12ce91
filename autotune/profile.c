// A machine's profile: its text, the settings and the model that follow from it, and fingerprints.
#include "autotune/profile.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/cpu_features.h"
#include "runtime/topology.h"

// --- the fingerprint

void qn_machine_features(qn_buf *out) {
  bool any = false;
  const char *name;
  for (size_t i = 0; (name = qn_cpu_feature_name(i)) != NULL; i++) {
    if (!qn_cpu_has(name)) continue;
    qn_buf_printf(out, "%s%s", any ? "," : "", name);
    any = true;
  }
  if (!any) qn_buf_puts(out, "none");
}

void qn_machine_fingerprint(int threads, qn_buf *out) {
  const qn_topology *machine = qn_topology_get();
  qn_buf_printf(out, "%s ", qn_cpu_arch_name(qn_cpu_arch()));
  qn_machine_features(out);
  qn_buf_printf(out, " l1=%" PRIu64 "K l2=%" PRIu64 "K l3=%" PRIu64 "K threads=%d", machine->l1d_bytes >> 10,
                machine->l2_bytes >> 10, machine->l3_bytes >> 10, threads > 0 ? threads : machine->default_threads);
}

// --- text

// Every speed once: a value a number of threads, or one.
static const struct speed {
  const char *name;
  size_t offset;
  bool by_count;
  bool later;  // profiles of before do not have it, which is to say that it is not known
} speeds[] = {
#define READ(level, name)                                                                                 \
  {"read_" name, offsetof(qn_machine_profile, read[QN_PROFILE_##level][QN_PROFILE_HUGE]), true, false}, { \
    "read_" name "_small", offsetof(qn_machine_profile, read[QN_PROFILE_##level][QN_PROFILE_SMALL]), true, false \
  }
#define EACH(name) \
  { #name, offsetof(qn_machine_profile, name), true, false }
#define ONE(name) \
  { #name, offsetof(qn_machine_profile, name), false, false }
#define LATER(name, field) \
  { name, offsetof(qn_machine_profile, field), false, true }
    READ(L1, "l1"),
    READ(L2, "l2"),
    READ(L3, "l3"),
    READ(MEMORY, "memory"),
    EACH(fma),
    EACH(bf16),
    EACH(int8),
    EACH(narrow),
    EACH(barrier_s),
    EACH(piece_s),
    EACH(read_part),
    EACH(int8_part),
    ONE(huge_gain),
    ONE(moving_gain),
    // Not by the fields' names: profiles of before have what plain lines gain as ahead_gain.
    LATER("stream_ahead", ahead_gain),
    LATER("stream_far", far_gain),
    ONE(wake_s),
    ONE(cycles_per_s),
    ONE(fma_latency),
    ONE(vector_ops),
    {"dots_unsigned", offsetof(qn_machine_profile, dots[0]), false, false},
    {"dots_signed", offsetof(qn_machine_profile, dots[1]), false, false},
    {"dots_pairs", offsetof(qn_machine_profile, dots[2]), false, false},
    ONE(huge_bytes),
#undef READ
#undef EACH
#undef ONE
#undef LATER
};

void qn_profile_print(const qn_machine_profile *profile, qn_buf *out) {
  qn_buf_printf(out, "target = %s; threads =", profile->target);
  for (int i = 0; i < profile->count; i++) qn_buf_printf(out, " %d", profile->threads[i]);
  for (size_t s = 0; s < QN_COUNT(speeds); s++) {
    const double *values = (const double *)(const void *)((const char *)profile + speeds[s].offset);
    qn_buf_printf(out, "; %s =", speeds[s].name);
    for (int i = 0; i < (speeds[s].by_count ? profile->count : 1); i++) {
      char digits[32];  // what is measured has no more than these
      snprintf(digits, sizeof digits, "%.4g", values[i]);
      qn_buf_putc(out, ' ');
      qn_buf_put_f64(out, strtod(digits, NULL));
    }
  }
  qn_buf knobs;
  qn_buf_init(&knobs, out->allocator);
  qn_machine_knobs_print(&profile->knobs, &knobs);
  for (char *line = knobs.data; line && *line;) {
    size_t length = strcspn(line, "\n");
    qn_buf_printf(out, "; %.*s", (int)length, line);
    line += length + (line[length] == '\n');
  }
  out->failed |= knobs.failed;
  qn_buf_deinit(&knobs);
}

typedef struct profile_reader {
  const char *name;  // for messages
  qn_machine_profile *profile;
  bool seen[QN_COUNT(speeds)];
  qn_buf knobs;  // lines for qn_machine_knobs_parse
  qn_diag *diag;
} profile_reader;

static qn_status read_numbers(profile_reader *r, qn_str name, const char *text, double *out, int want) {
  char *end;
  for (int i = 0; i < want; i++, text = end) {
    out[i] = qn_strtod(text, &end);
    if (end == text || !isfinite(out[i]) || out[i] < 0)
      return qn_fail(r->diag, QN_ERR_FORMAT, r->name, "'%.*s': want %d numbers; measure again: quern machine --fresh",
                     QN_STR_ARGS(name), want);
  }
  return text[strspn(text, " ")] == '\0' ? QN_OK
                                         : qn_fail(r->diag, QN_ERR_FORMAT, r->name,
                                                   "'%.*s': got more than %d numbers; measure again: quern machine "
                                                   "--fresh",
                                                   QN_STR_ARGS(name), want);
}

static qn_status read_threads(profile_reader *r, const char *text) {
  qn_machine_profile *p = r->profile;
  char *end;
  for (p->count = 0;; text = end) {
    long value = strtol(text, &end, 10);
    if (end == text) break;
    bool rises = value > (p->count > 0 ? p->threads[p->count - 1] : 0) && value <= 1 << 20;
    if (!rises || p->count == QN_PROFILE_COUNTS) break;
    p->threads[p->count++] = (int)value;
  }
  if (p->count > 0 && text[strspn(text, " ")] == '\0') return QN_OK;
  return qn_fail(r->diag, QN_ERR_FORMAT, r->name,
                 "'threads': want 1 to %d rising numbers; measure again: quern machine "
                 "--fresh",
                 QN_PROFILE_COUNTS);
}

static bool is_knob(qn_str name) {
  size_t count;
  const qn_knob *knobs = qn_knobs(&count);
  for (size_t i = 0; i < count; i++)
    if (knobs[i].of_machine && qn_str_is(name, knobs[i].name)) return true;
  return false;
}

static qn_status read_field(profile_reader *r, qn_str name, const char *value) {
  qn_machine_profile *p = r->profile;
  if (qn_str_is(name, "target")) {
    snprintf(p->target, sizeof p->target, "%s", value);
    return QN_OK;
  }
  if (qn_str_is(name, "threads")) return read_threads(r, value);
  if (is_knob(name)) {
    qn_buf_printf(&r->knobs, "%.*s = %s\n", QN_STR_ARGS(name), value);
    return QN_OK;
  }
  for (size_t s = 0; s < QN_COUNT(speeds); s++) {
    if (!qn_str_is(name, speeds[s].name)) continue;
    r->seen[s] = true;
    double *values = (double *)(void *)((char *)p + speeds[s].offset);
    return read_numbers(r, name, value, values, speeds[s].by_count ? p->count : 1);
  }
  return QN_OK;  // of a later quern
}

static qn_status read_fields(profile_reader *r, qn_str text) {
  char field[1024];
  while (text.length > 0) {
    const char *stop = memchr(text.data, ';', text.length);
    size_t length = stop ? (size_t)(stop - text.data) : text.length, start = 0;
    while (start < length && text.data[start] == ' ') start++;
    const char *equals = memchr(text.data, '=', length);
    if (!equals || length >= sizeof field)
      return qn_fail(r->diag, QN_ERR_FORMAT, r->name,
                     "got '%.*s', want name = values; measure again: quern machine "
                     "--fresh",
                     (int)(length < 60 ? length : 60), text.data);
    memcpy(field, text.data + start, length - start);
    field[length - start] = '\0';
    size_t name = strcspn(field, " =");
    char *value = strchr(field, '=') + 1;
    QN_TRY(read_field(r, (qn_str){field, name}, value + strspn(value, " ")));
    length += stop != NULL;
    text = (qn_str){text.data + length, text.length - length};
  }
  for (size_t s = 0; s < QN_COUNT(speeds); s++) {
    if (!r->seen[s] && !speeds[s].later)
      return qn_fail(r->diag, QN_ERR_FORMAT, r->name, "'%s' is missing; measure again: quern machine --fresh",
                     speeds[s].name);
  }
  return QN_OK;
}

qn_status qn_profile_parse(const char *name, qn_str text, qn_machine_profile *out, qn_diag *diag) {
  profile_reader r = {.name = name, .profile = out, .diag = diag};
  memset(out, 0, sizeof *out);
  qn_buf_init(&r.knobs, qn_allocator_default());
  qn_status status = read_fields(&r, text);
  if (status == QN_OK && r.knobs.failed) status = qn_fail_nomem(diag, name, "knobs");
  if (status == QN_OK)
    status = qn_machine_knobs_parse(name, (qn_str){qn_buf_text(&r.knobs), r.knobs.length}, &out->knobs, diag);
  qn_buf_deinit(&r.knobs);
  return status;
}

// --- settings

#define ENOUGH       0.98  // of the best: fewer threads that reach it leave cores, and power, to others
#define MOVING_GAIN  1.05  // binding threads makes times steady; only a clear loss speaks against it
#define MOST_SPIN_US 1000

// All of them where it is not known.
static int fewest_threads(const qn_machine_profile *p, const double *parts) {
  for (int i = 0; i < p->count; i++)
    if (parts[i] >= ENOUGH) return p->threads[i];
  return p->threads[p->count - 1];
}

qn_machine_knobs qn_profile_knobs(const qn_machine_profile *p) {
  qn_machine_knobs knobs = qn_machine_knobs_plain();
  if (p->count == 0) return knobs;
  // Decoding reads; a prompt computes.
  knobs.threads_decode = fewest_threads(p, p->read_part);
  knobs.threads_prefill = fewest_threads(p, p->int8_part);
  if (knobs.threads_prefill < knobs.threads_decode) knobs.threads_prefill = knobs.threads_decode;
  knobs.pin = p->moving_gain <= MOVING_GAIN;
  // Who waits as long as sleeping and waking would take loses at most as much again, whatever it waits for (Karlin et
  // al. 1991, "Empirical studies of competitive spinning").
  double wake_us = ceil(p->wake_s * 1e6);
  if (p->moving_gain > 0 && p->wake_s > 0) knobs.spin_us = wake_us < 1 ? 1 : wake_us > MOST_SPIN_US ? MOST_SPIN_US : (int)wake_us;
  return knobs;
}

// --- the model

// A speed with some number of threads: between those measured, in proportion.
static double at_threads(const qn_machine_profile *p, const double *rates, int threads) {
  if (threads <= p->threads[0]) return rates[0];
  for (int i = 1; i < p->count; i++) {
    if (threads > p->threads[i]) continue;
    double part = (double)(threads - p->threads[i - 1]) / (p->threads[i] - p->threads[i - 1]);
    return rates[i - 1] + part * (rates[i] - rates[i - 1]);
  }
  return rates[p->count - 1];
}

static void set(double *value, double measured) {
  if (measured > 0) *value = measured;
}

static void fill_instructions(const qn_machine_profile *p, qn_machine_model *model) {
  double lanes = model->vector_bytes / 4.0, cycles = p->cycles_per_s;
  set(&model->fma_per_cycle, p->fma[0] / (2 * lanes * cycles));
  set(&model->loads_per_cycle, p->read[QN_PROFILE_L1][QN_PROFILE_HUGE][0] / (model->vector_bytes * cycles));
  set(&model->vector_ops_per_cycle, p->vector_ops / (lanes * cycles));
  set(&model->fma_latency, p->fma_latency);
  for (int form = 0; form < 3; form++)
    if (p->dots[form] > 1.02 * p->dots[model->dots]) model->dots = form;
}

// The better way to read one stream stays what it is to a core's best; the others are as much slower as was measured.
static void fill_streams(double ahead_gain, double far_gain, qn_machine_model *model) {
  if (ahead_gain <= 0) return;
  double better = model->stream_alone > model->stream_ahead ? model->stream_alone : model->stream_ahead;
  model->stream_ahead = ahead_gain < 1 ? better * ahead_gain : better;
  model->stream_alone = ahead_gain < 1 ? better : better / ahead_gain;
  model->stream_far = far_gain > 0 ? model->stream_alone * far_gain : 0;
}

void qn_profile_fill_model(const qn_machine_profile *p, const qn_target *target, int threads, qn_machine_model *model) {
  const qn_topology *machine = qn_topology_get();
  if (threads <= 0) threads = machine->default_threads;
  model->cores = threads;
  if (machine->l1d_bytes > 0) model->l1_bytes = (int64_t)machine->l1d_bytes;
  if (machine->l2_bytes > 0) model->l2_bytes = (int64_t)machine->l2_bytes;
  if (machine->cache_count > 0) model->l3_bytes = (int64_t)machine->l3_bytes;
  // Where other programs were at work some speeds are far too low and others are not: no such mixture is believed.
  if (!p || p->count == 0 || !(p->moving_gain > 0) || !(p->cycles_per_s > 0)) return;
  model->cycles_per_s = p->cycles_per_s;
  if (strcmp(p->target, target->name) == 0) fill_instructions(p, model);
  set(&model->l2_bytes_per_cycle, p->read[QN_PROFILE_L2][QN_PROFILE_HUGE][0] / p->cycles_per_s);
  set(&model->l3_bytes_per_cycle,
      at_threads(p, p->read[QN_PROFILE_L3][QN_PROFILE_HUGE], threads) / threads / p->cycles_per_s);
  set(&model->memory_bytes_per_s, at_threads(p, p->read[QN_PROFILE_MEMORY][QN_PROFILE_HUGE], threads));
  set(&model->core_bytes_per_s, p->read[QN_PROFILE_MEMORY][QN_PROFILE_HUGE][0]);
  fill_streams(p->ahead_gain, p->far_gain, model);
  set(&model->barrier_s, at_threads(p, p->barrier_s, threads));
  set(&model->piece_s, at_threads(p, p->piece_s, threads));
}
