// Tables of fields, and entries as lines of text.
#include "autotune/db_record.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/hash.h"

// Each kind's fields once: F(struct, column and name in lines, type, member).
#define RECORD_FIELDS(F)                   \
  F(qn_record, signature, TEXT, signature) \
  F(qn_record, target, TEXT, target)       \
  F(qn_record, machine, TEXT, fingerprint) \
  F(qn_record, generator, TEXT, generator) \
  F(qn_record, threads, INT, threads)      \
  F(qn_record, rows_min, INT64, rows_min)  \
  F(qn_record, rows_max, INT64, rows_max)  \
  F(qn_record, rows, INT64, rows)          \
  F(qn_record, keys, INT64, keys)          \
  F(qn_record, schedule, TEXT, schedule)   \
  F(qn_record, verdict, VERDICT, verdict)  \
  F(qn_record, median_s, REAL, median_s)   \
  F(qn_record, spread_s, REAL, spread_s)   \
  F(qn_record, bound_s, REAL, bound_s)     \
  F(qn_record, samples, INT, samples)      \
  F(qn_record, times, TIMES, times)        \
  F(qn_record, evidence, TEXT, evidence)   \
  F(qn_record, made, INT64, when)
#define FINISHED_FIELDS(F)                   \
  F(qn_finished, signature, TEXT, signature) \
  F(qn_finished, target, TEXT, target)       \
  F(qn_finished, machine, TEXT, fingerprint) \
  F(qn_finished, generator, TEXT, generator) \
  F(qn_finished, threads, INT, threads)      \
  F(qn_finished, rows_min, INT64, rows_min)  \
  F(qn_finished, rows_max, INT64, rows_max)  \
  F(qn_finished, plan, TEXT, plan)           \
  F(qn_finished, reason, TEXT, reason)       \
  F(qn_finished, within, REAL, within)       \
  F(qn_finished, gain, REAL, gain)           \
  F(qn_finished, pairs, INT, pairs)          \
  F(qn_finished, made, INT64, when)
#define MACHINE_FIELDS(F)                          \
  F(qn_machine_record, machine, TEXT, fingerprint) \
  F(qn_machine_record, profile, TEXT, profile)     \
  F(qn_machine_record, made, INT64, when)

#define FIELD(struct_name, name, type, member) {#name, DB_##type, offsetof(struct_name, member)},
static const qn_db_field record_fields[] = {RECORD_FIELDS(FIELD)};
static const qn_db_field finished_fields[] = {FINISHED_FIELDS(FIELD)};
static const qn_db_field machine_fields[] = {MACHINE_FIELDS(FIELD)};

const qn_db_kind qn_db_kinds[DB_KIND_COUNT] = {
    [DB_RECORD] = {"record", sizeof(qn_record), record_fields, QN_COUNT(record_fields)},
    [DB_FINISHED] = {"finished", sizeof(qn_finished), finished_fields, QN_COUNT(finished_fields)},
    [DB_MACHINE] = {"machine", sizeof(qn_machine_record), machine_fields, QN_COUNT(machine_fields)},
};

// --- fields

static const void *member(const void *entry, const qn_db_field *field) { return (const char *)entry + field->offset; }
static void *member_of(void *entry, const qn_db_field *field) { return (char *)entry + field->offset; }

const char *qn_db_get_text(const void *entry, const qn_db_field *field) {
  const char *text = *(const char *const *)member(entry, field);
  return text ? text : "";
}

int64_t qn_db_get_int(const void *entry, const qn_db_field *field) {
  switch (field->type) {
    case DB_INT: return *(const int *)member(entry, field);
    case DB_VERDICT: return (int64_t) * (const qn_verdict *)member(entry, field);
    default: return *(const int64_t *)member(entry, field);
  }
}

double qn_db_get_real(const void *entry, const qn_db_field *field) { return *(const double *)member(entry, field); }

void qn_db_set_text(void *entry, const qn_db_field *field, const char *text) {
  *(const char **)member_of(entry, field) = text;
}

bool qn_db_set_int(void *entry, const qn_db_field *field, int64_t value) {
  switch (field->type) {
    case DB_INT:
      if (value < INT_MIN || value > INT_MAX) return false;
      *(int *)member_of(entry, field) = (int)value;
      return true;
    case DB_VERDICT:
      if (value < 0 || value >= QN_VERDICT_COUNT) return false;
      *(qn_verdict *)member_of(entry, field) = (qn_verdict)value;
      return true;
    default: *(int64_t *)member_of(entry, field) = value; return true;
  }
}

void qn_db_set_real(void *entry, const qn_db_field *field, double value) { *(double *)member_of(entry, field) = value; }

void qn_db_set_times(void *entry, const double *times, int count) {
  qn_record *record = entry;
  record->times = times;
  record->time_count = count;
}

void qn_db_put_times(const void *entry, qn_buf *out) {
  const qn_record *record = entry;
  for (int i = 0; i < record->time_count; i++) {
    if (i > 0) qn_buf_putc(out, ' ');
    qn_buf_put_f64(out, record->times[i]);
  }
}

// --- what may be kept

static const char *text_wrong(const char *text) {
  for (; *text; text++) {
    if (*text == '\n' || *text == '\r') return "a text of several lines";
  }
  return NULL;
}

static const char *times_wrong(const qn_record *record) {
  if (record->time_count < 0 || record->time_count > QN_RECORD_TIMES) return "more times than a record keeps";
  for (int i = 0; i < record->time_count; i++)
    if (!isfinite(record->times[i])) return "a time that is not finite";
  return NULL;
}

const char *qn_db_entry_wrong(qn_db_kind_id id, const void *entry) {
  const qn_db_kind *kind = &qn_db_kinds[id];
  for (int i = 0; i < kind->field_count; i++) {
    const qn_db_field *field = &kind->fields[i];
    const char *wrong = NULL;
    switch (field->type) {
      case DB_TEXT: wrong = text_wrong(qn_db_get_text(entry, field)); break;
      case DB_REAL: wrong = isfinite(qn_db_get_real(entry, field)) ? NULL : "a number that is not finite"; break;
      case DB_TIMES: wrong = times_wrong(entry); break;
      case DB_VERDICT:
        wrong = (uint64_t)qn_db_get_int(entry, field) < QN_VERDICT_COUNT ? NULL : "a verdict that there is not";
        break;
      default: break;
    }
    if (wrong) return wrong;
  }
  return NULL;
}

// --- lines

static void put_value(const void *entry, const qn_db_field *field, qn_buf *out) {
  switch (field->type) {
    case DB_TEXT: qn_buf_quote(out, qn_str_from(qn_db_get_text(entry, field))); break;
    case DB_INT:
    case DB_INT64: qn_buf_printf(out, "%" PRId64, qn_db_get_int(entry, field)); break;
    case DB_REAL: qn_buf_put_f64(out, qn_db_get_real(entry, field)); break;
    case DB_VERDICT: qn_buf_puts(out, qn_verdict_name((qn_verdict)qn_db_get_int(entry, field))); break;
    case DB_TIMES:
      qn_buf_putc(out, '"');
      qn_db_put_times(entry, out);
      qn_buf_putc(out, '"');
      break;
  }
}

void qn_db_entry_print(qn_db_kind_id id, const void *entry, qn_buf *out) {
  const qn_db_kind *kind = &qn_db_kinds[id];
  for (int i = 0; i < kind->field_count; i++) {
    qn_buf_printf(out, i > 0 ? " %s=" : "%s=", kind->fields[i].name);
    put_value(entry, &kind->fields[i], out);
  }
}

qn_db_id qn_db_entry_id(qn_db_kind_id kind, qn_str printed) {
  qn_db_id id;
  uint64_t seed = 2 * (uint64_t)kind;
  snprintf(id.text, sizeof id.text, "%016" PRIx64 "%016" PRIx64, qn_hash64(printed.data, printed.length, seed),
           qn_hash64(printed.data, printed.length, seed + 1));
  return id;
}

void qn_db_line_print(qn_db_kind_id kind, const void *entry, qn_buf *out) {
  qn_buf fields;
  qn_buf_init(&fields, out->allocator);
  qn_db_entry_print(kind, entry, &fields);
  qn_db_id id = qn_db_entry_id(kind, (qn_str){qn_buf_text(&fields), fields.length});
  qn_buf_printf(out, "%s id=%s %s", qn_db_kinds[kind].name, id.text, qn_buf_text(&fields));
  out->failed |= fields.failed;
  qn_buf_deinit(&fields);
}

// What is left of a line, and where its texts go.
typedef struct reader {
  const char *at, *end;
  qn_arena *arena;
} reader;

static qn_str take_word(reader *r, const char *stops) {
  const char *start = r->at;
  while (r->at < r->end && !strchr(stops, *r->at)) r->at++;
  return (qn_str){start, (size_t)(r->at - start)};
}

static int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

// One character after a backslash, as qn_buf_quote writes them; -1 = none of them.
static int take_escape(reader *r) {
  if (r->at >= r->end) return -1;
  char c = *r->at++;
  switch (c) {
    case '"':
    case '\\': return c;
    case 'n': return '\n';
    case 't': return '\t';
    case 'x': break;
    default: return -1;
  }
  if (r->end - r->at < 2) return -1;
  int high = hex_digit(r->at[0]), low = hex_digit(r->at[1]);
  r->at += 2;
  return high < 0 || low < 0 ? -1 : high << 4 | low;
}

static const char *take_quoted(reader *r, qn_str *out) {
  if (r->at >= r->end || *r->at != '"') return "want a text in double quotes";
  r->at++;
  char *text = qn_arena_alloc(r->arena, (size_t)(r->end - r->at) + 1);
  size_t length = 0;
  if (!text) return "out of memory";
  while (r->at < r->end && *r->at != '"') {
    int c = *r->at++;
    if (c == '\\') c = take_escape(r);
    if (c == -1 || c == 0) return "a text with an escape that there is not";
    text[length++] = (char)c;
  }
  if (r->at >= r->end) return "a text without its closing quote";
  r->at++;
  *out = (qn_str){text, length};
  return NULL;
}

static bool parse_int(qn_str text, int64_t *out) {
  char copy[24], *end;
  if (text.length == 0 || text.length >= sizeof copy) return false;
  memcpy(copy, text.data, text.length);
  copy[text.length] = '\0';
  errno = 0;
  *out = strtoll(copy, &end, 10);
  return *end == '\0' && errno == 0;
}

static bool parse_real(qn_str text, double *out) {
  char copy[64], *end;
  if (text.length == 0 || text.length >= sizeof copy) return false;
  memcpy(copy, text.data, text.length);
  copy[text.length] = '\0';
  *out = qn_strtod(copy, &end);
  return *end == '\0' && isfinite(*out);
}

bool qn_db_times_parse(qn_str text, double *out, int *out_count) {
  *out_count = 0;
  for (size_t i = 0; i < text.length;) {
    size_t start = i;
    while (i < text.length && text.data[i] != ' ') i++;
    if (*out_count == QN_RECORD_TIMES) return false;
    if (!parse_real((qn_str){text.data + start, i - start}, &out[*out_count])) return false;
    (*out_count)++;
    i++;
  }
  return true;
}

static const char *parse_times(qn_str text, qn_arena *arena, void *entry) {
  double times[QN_RECORD_TIMES];
  int count;
  if (!qn_db_times_parse(text, times, &count)) return "want up to 32 numbers with a space between";
  double *copy = QN_ARENA_ARRAY(arena, (size_t)count, double);
  if (!copy) return "out of memory";
  if (count > 0) memcpy(copy, times, (size_t)count * sizeof *copy);
  qn_db_set_times(entry, copy, count);
  return NULL;
}

static const char *take_value(reader *r, const qn_db_field *field, void *entry) {
  bool quoted = field->type == DB_TEXT || field->type == DB_TIMES;
  qn_str text = {0};
  if (quoted) {
    const char *wrong = take_quoted(r, &text);
    if (wrong) return wrong;
  } else {
    text = take_word(r, " ");
  }
  int64_t number = 0;
  double real = 0;
  qn_verdict verdict;
  switch (field->type) {
    case DB_TEXT: qn_db_set_text(entry, field, text.data); return NULL;
    case DB_TIMES: return parse_times(text, r->arena, entry);
    case DB_REAL:
      if (!parse_real(text, &real)) return "want a number";
      qn_db_set_real(entry, field, real);
      return NULL;
    case DB_VERDICT:
      if (!qn_verdict_parse(text, &verdict)) return "want a verdict";
      return qn_db_set_int(entry, field, (int64_t)verdict) ? NULL : "want a verdict";
    default: return parse_int(text, &number) && qn_db_set_int(entry, field, number) ? NULL : "want an integer";
  }
}

static bool find_kind(qn_str word, qn_db_kind_id *out) {
  for (int i = 0; i < DB_KIND_COUNT; i++) {
    *out = (qn_db_kind_id)i;
    if (qn_str_is(word, qn_db_kinds[i].name)) return true;
  }
  return false;
}

static const qn_db_field *find_field(const qn_db_kind *kind, qn_str name) {
  for (int i = 0; i < kind->field_count; i++)
    if (qn_str_is(name, kind->fields[i].name)) return &kind->fields[i];
  return NULL;
}

static const char *say(qn_arena *arena, qn_str name, const char *what) {
  const char *text = qn_arena_printf(arena, "'%.*s': %s", (int)(name.length < 40 ? name.length : 40), name.data, what);
  return text ? text : "out of memory";
}

// The fields of a line after its kind. *out_id is the id that the line gives.
static const char *take_fields(reader *r, const qn_db_kind *kind, qn_db_entry *out, qn_str *out_id) {
  while (r->at < r->end) {
    if (*r->at++ != ' ') return "want a space between fields";
    qn_str name = take_word(r, "= ");
    if (r->at >= r->end || *r->at != '=') return say(r->arena, name, "want name=value");
    r->at++;
    if (qn_str_is(name, "id")) {
      *out_id = take_word(r, " ");
      continue;
    }
    const qn_db_field *field = find_field(kind, name);
    if (!field) return say(r->arena, name, "no such field");
    const char *wrong = take_value(r, field, out);
    if (wrong) return say(r->arena, name, wrong);
  }
  return NULL;
}

const char *qn_db_line_parse(qn_str line, qn_arena *arena, qn_db_kind_id *out_kind, qn_db_entry *out) {
  reader r = {line.data, line.data + line.length, arena};
  qn_str word = take_word(&r, " "), id = {0};
  memset(out, 0, sizeof *out);
  if (!find_kind(word, out_kind)) return say(arena, word, "want record, finished or machine");
  const char *wrong = take_fields(&r, &qn_db_kinds[*out_kind], out, &id);
  if (!wrong) wrong = qn_db_entry_wrong(*out_kind, out);
  if (wrong) return wrong;
  qn_buf printed;
  qn_buf_init(&printed, arena->allocator);
  qn_db_entry_print(*out_kind, out, &printed);
  qn_db_id want = qn_db_entry_id(*out_kind, (qn_str){qn_buf_text(&printed), printed.length});
  if (printed.failed) {
    wrong = "out of memory";
  } else if (!qn_str_is(id, want.text)) {
    wrong = "its id is not that of its fields: the line was edited, or cut";
  }
  qn_buf_deinit(&printed);
  return wrong;
}

bool qn_db_entry_copy(qn_db_kind_id id, const void *entry, qn_arena *arena, void *out) {
  const qn_db_kind *kind = &qn_db_kinds[id];
  memcpy(out, entry, kind->size);
  for (int i = 0; i < kind->field_count; i++) {
    const qn_db_field *field = &kind->fields[i];
    if (field->type == DB_TEXT) {
      char *text = qn_arena_strdup(arena, qn_db_get_text(entry, field));
      if (!text) return false;
      qn_db_set_text(out, field, text);
    } else if (field->type == DB_TIMES) {
      const qn_record *record = entry;
      double *times = QN_ARENA_ARRAY(arena, (size_t)record->time_count, double);
      if (!times) return false;
      if (record->time_count > 0) memcpy(times, record->times, (size_t)record->time_count * sizeof *times);
      qn_db_set_times(out, times, record->time_count);
    }
  }
  return true;
}

// --- families

static bool is_word(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

// The length of the number at `at` that stands for itself (no letter touches it); 0 = there is none.
static size_t number_length(const char *text, const char *at) {
  if (at > text && (is_word(at[-1]) || at[-1] == '.')) return 0;
  size_t length = 0;
  while (at[length] >= '0' && at[length] <= '9') length++;
  return length > 0 && !is_word(at[length]) && at[length] != '.' ? length : 0;
}

void qn_db_family(const char *signature, qn_buf *out) {
  for (const char *at = signature; *at;) {
    size_t length = number_length(signature, at);
    qn_buf_putc(out, length > 0 ? '#' : *at);
    at += length > 0 ? length : 1;
  }
}

double qn_db_distance(const char *a, const char *b) {
  double distance = 0;
  const char *at = a, *bt = b;
  while (*at && *bt) {
    size_t a_length = number_length(a, at), b_length = number_length(b, bt);
    if ((a_length > 0) != (b_length > 0)) return INFINITY;
    if (a_length > 0) {
      double x = qn_strtod(at, NULL), y = qn_strtod(bt, NULL);
      distance += fabs(log2((x + 1) / (y + 1)));  // 0 is a number as well
      at += a_length, bt += b_length;
    } else if (*at++ != *bt++) {
      return INFINITY;
    }
  }
  return *at == *bt ? distance : INFINITY;
}
