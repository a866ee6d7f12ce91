// Schedules as text, driven by schedule.def: a knob is one line there and nowhere else.
#include "ir/schedule.h"

#include <stdio.h>
#include <string.h>

typedef struct knob {
  const char *name;
  size_t offset, count_offset;  // of the int (or the first of a list), and of the list's count
  int capacity;                 // items a list may have; 0 = a single value
  const char *legal;
  int plain;
} knob;

static const knob KNOBS[] = {
#define QN_KNOB_INT(name, legal, plain, meaning) {#name, offsetof(qn_schedule, name), 0, 0, legal, plain},
#define QN_KNOB_LIST(name, count, legal, plain, meaning) \
  {#name, offsetof(qn_schedule, name), offsetof(qn_schedule, count), QN_COUNT(((qn_schedule *)0)->name), legal, plain},
#include "ir/schedule.def"
#undef QN_KNOB_INT
#undef QN_KNOB_LIST
};

static int *field(qn_schedule *schedule, size_t offset) { return (int *)(void *)((char *)schedule + offset); }
static const int *field_of(const qn_schedule *schedule, size_t offset) {
  return (const int *)(const void *)((const char *)schedule + offset);
}

// How many values a knob has.
static int value_count(const qn_schedule *schedule, const knob *k) {
  return k->capacity > 0 ? *field_of(schedule, k->count_offset) : 1;
}

qn_schedule qn_schedule_plain(void) {
  qn_schedule schedule = {.m_tile_count = 0};
  for (size_t i = 0; i < QN_COUNT(KNOBS); i++) {
    *field(&schedule, KNOBS[i].offset) = KNOBS[i].plain;
    if (KNOBS[i].capacity > 0) *field(&schedule, KNOBS[i].count_offset) = 1;
  }
  return schedule;
}

bool qn_schedule_equal(const qn_schedule *a, const qn_schedule *b) {
  for (size_t i = 0; i < QN_COUNT(KNOBS); i++) {
    int count = value_count(a, &KNOBS[i]);
    if (count != value_count(b, &KNOBS[i])) return false;
    size_t bytes = (size_t)count * sizeof(int);
    if (memcmp(field_of(a, KNOBS[i].offset), field_of(b, KNOBS[i].offset), bytes) != 0) return false;
  }
  return true;
}

void qn_schedule_print(const qn_schedule *schedule, qn_buf *out) {
  for (size_t i = 0; i < QN_COUNT(KNOBS); i++) {
    const int *values = field_of(schedule, KNOBS[i].offset);
    qn_buf_printf(out, "%s = ", KNOBS[i].name);
    for (int j = 0; j < value_count(schedule, &KNOBS[i]); j++) qn_buf_printf(out, j > 0 ? ",%d" : "%d", values[j]);
    qn_buf_putc(out, '\n');
  }
}

// --- checking

// Reads digits from the front of *text; stops before the value could pass 10 digits.
static int64_t read_digits(const char **text) {
  int64_t value = 0;
  for (int digits = 0; **text >= '0' && **text <= '9' && digits < 10; (*text)++, digits++) {
    value = value * 10 + (**text - '0');
  }
  return value;
}

// Is the value among those of a "legal values" column?
static bool is_legal(const char *legal, int value) {
  while (*legal) {
    int64_t low = read_digits(&legal), high = low;
    if (legal[0] == '.' && legal[1] == '.') {
      legal += 2;
      high = read_digits(&legal);
    }
    if (value >= low && value <= high) return true;
    if (*legal == '|') legal++;
  }
  return false;
}

// Checks the values of one knob; `where` is for messages.
static qn_status check_knob(const qn_schedule *schedule, const knob *k, const char *where, qn_diag *diag) {
  const int *values = field_of(schedule, k->offset);
  int count = value_count(schedule, k);
  if (count < 1 || (k->capacity > 0 && count > k->capacity)) {
    return qn_fail(diag, QN_ERR_ARGUMENT, where, "%s: got %d values, want 1 to %d", k->name, count, k->capacity);
  }
  for (int i = 0; i < count; i++) {
    if (!is_legal(k->legal, values[i])) {
      return qn_fail(diag, QN_ERR_ARGUMENT, where, "%s: got %d, want %s", k->name, values[i], k->legal);
    }
    if (i > 0 && values[i] >= values[i - 1]) {
      return qn_fail(diag, QN_ERR_ARGUMENT, where, "%s: got %d after %d, want falling values", k->name, values[i],
                     values[i - 1]);
    }
  }
  if (k->capacity > 0 && values[count - 1] != 1) {
    return qn_fail(diag, QN_ERR_ARGUMENT, where, "%s: got %d as the last value, want 1", k->name, values[count - 1]);
  }
  return QN_OK;
}

qn_status qn_schedule_check(const qn_schedule *schedule, qn_diag *diag) {
  for (size_t i = 0; i < QN_COUNT(KNOBS); i++) QN_TRY(check_knob(schedule, &KNOBS[i], "schedule", diag));
  return QN_OK;
}

// --- parsing

static qn_str trim(qn_str text) {
  while (text.length > 0 && strchr(" \t\r", text.data[0]) && text.data[0]) text.data++, text.length--;
  while (text.length > 0 && strchr(" \t\r", text.data[text.length - 1]) && text.data[text.length - 1]) text.length--;
  return text;
}

// The part of *text before `separator`, or all of it; *text becomes what follows.
static qn_str take_until(qn_str *text, char separator) {
  const char *end = text->length > 0 ? memchr(text->data, separator, text->length) : NULL;
  size_t length = end ? (size_t)(end - text->data) : text->length;
  qn_str head = {text->data, length};
  size_t used = length + (end != NULL);
  *text = (qn_str){text->length > 0 ? text->data + used : text->data, text->length - used};
  return head;
}

// A text for a message: short, printable.
static const char *shown(qn_str text, char out[48]) {
  size_t length = text.length < 40 ? text.length : 40;
  for (size_t i = 0; i < length; i++) {
    unsigned char c = (unsigned char)text.data[i];
    out[i] = c >= 0x20 && c < 0x7F ? (char)c : '?';
  }
  snprintf(out + length, 48 - length, "%s", text.length > 40 ? "..." : "");
  return out;
}

// A whole number of at most 9 digits; false otherwise.
static bool parse_value(qn_str text, int *out) {
  int value = 0;
  if (text.length < 1 || text.length > 9) return false;
  for (size_t i = 0; i < text.length; i++) {
    if (text.data[i] < '0' || text.data[i] > '9') return false;
    value = value * 10 + (text.data[i] - '0');
  }
  *out = value;
  return true;
}

static qn_status parse_values(const knob *k, qn_str text, const char *where, qn_schedule *out, qn_diag *diag) {
  char got[48];
  int count = 0, most = k->capacity > 0 ? k->capacity : 1, *values = field(out, k->offset);
  for (bool more = true; more; count++) {
    more = text.length > 0 && memchr(text.data, ',', text.length) != NULL;
    qn_str item = trim(take_until(&text, ','));
    if (count == most) return qn_fail(diag, QN_ERR_ARGUMENT, where, "%s: got more values than %d", k->name, most);
    if (!parse_value(item, &values[count])) {
      return qn_fail(diag, QN_ERR_ARGUMENT, where, "%s: got '%s', want %s", k->name, shown(item, got), k->legal);
    }
  }
  if (k->capacity > 0) *field(out, k->count_offset) = count;
  return check_knob(out, k, where, diag);
}

// One line "knob = value"; `seen` has a flag a knob.
static qn_status parse_line(qn_str line, const char *where, bool *seen, qn_schedule *out, qn_diag *diag) {
  char got[48];
  bool has_value = memchr(line.data, '=', line.length) != NULL;
  qn_str name = trim(take_until(&line, '='));
  if (!has_value) return qn_fail(diag, QN_ERR_ARGUMENT, where, "got '%s', want 'knob = value'", shown(name, got));
  for (size_t i = 0; i < QN_COUNT(KNOBS); i++) {
    if (!qn_str_is(name, KNOBS[i].name)) continue;
    if (seen[i]) return qn_fail(diag, QN_ERR_ARGUMENT, where, "%s: got it twice, want it once", KNOBS[i].name);
    seen[i] = true;
    return parse_values(&KNOBS[i], line, where, out, diag);
  }
  char known[256];
  size_t used = 0;
  for (size_t i = 0; i < QN_COUNT(KNOBS) && used < sizeof known; i++) {
    used += (size_t)snprintf(known + used, sizeof known - used, i > 0 ? ", %s" : "%s", KNOBS[i].name);
  }
  return qn_fail(diag, QN_ERR_ARGUMENT, where, "got the knob '%s', want one of %s", shown(name, got), known);
}

qn_status qn_schedule_parse(const char *name, qn_str text, qn_schedule *out, qn_diag *diag) {
  bool seen[QN_COUNT(KNOBS)] = {false};
  qn_schedule schedule = qn_schedule_plain();
  for (size_t number = 1; text.length > 0; number++) {
    qn_str line = take_until(&text, '\n');
    line = trim(take_until(&line, '#'));
    if (line.length == 0) continue;
    char where[256];
    snprintf(where, sizeof where, "%s:%zu", name, number);
    QN_TRY(parse_line(line, where, seen, &schedule, diag));
  }
  *out = schedule;
  return QN_OK;
}
