// Schedules and machine knobs as text, driven by knobs.def: a knob is one line there and nowhere else.
#include "ir/schedule.h"

#include <stdio.h>
#include <string.h>

static const qn_knob KNOBS[] = {
#define QN_KNOB_INT(name, legal, plain, kernels, meaning) \
  {#name, legal, kernels, meaning, plain, 0, false, offsetof(qn_schedule, name), 0},
#define QN_KNOB_LIST(name, count, legal, plain, kernels, meaning)                                      \
  {#name, legal, kernels, meaning, plain, QN_COUNT(((qn_schedule *)0)->name), false, offsetof(qn_schedule, name), \
   offsetof(qn_schedule, count)},
#define QN_KNOB_MACHINE(name, legal, plain, meaning) \
  {#name, legal, "", meaning, plain, 0, true, offsetof(qn_machine_knobs, name), 0},
#include "ir/knobs.def"
#undef QN_KNOB_INT
#undef QN_KNOB_LIST
#undef QN_KNOB_MACHINE
};

// Those of a schedule, or those of the machine: `values` is a qn_schedule or a qn_machine_knobs.
typedef struct knob_set {
  bool of_machine;
  void *values;
} knob_set;

const qn_knob *qn_knobs(size_t *out_count) {
  *out_count = QN_COUNT(KNOBS);
  return KNOBS;
}

static int *field(void *values, size_t offset) { return (int *)(void *)((char *)values + offset); }
static const int *field_of(const void *values, size_t offset) {
  return (const int *)(const void *)((const char *)values + offset);
}

int qn_knob_get(const qn_knob *knob, const void *schedule) { return *field_of(schedule, knob->offset); }
void qn_knob_set(const qn_knob *knob, void *schedule, int value) { *field(schedule, knob->offset) = value; }

// How many values a knob has.
static int value_count(const void *values, const qn_knob *k) {
  return k->capacity > 0 ? *field_of(values, k->count_offset) : 1;
}

static void set_plain(bool of_machine, void *values) {
  for (size_t i = 0; i < QN_COUNT(KNOBS); i++) {
    if (KNOBS[i].of_machine != of_machine) continue;
    *field(values, KNOBS[i].offset) = KNOBS[i].plain;
    if (KNOBS[i].capacity > 0) *field(values, KNOBS[i].count_offset) = 1;
  }
}

qn_schedule qn_schedule_plain(void) {
  qn_schedule schedule = {.m_tile_count = 0};
  set_plain(false, &schedule);
  return schedule;
}

qn_machine_knobs qn_machine_knobs_plain(void) {
  qn_machine_knobs knobs = {0};
  set_plain(true, &knobs);
  return knobs;
}

bool qn_schedule_equal(const qn_schedule *a, const qn_schedule *b) {
  for (size_t i = 0; i < QN_COUNT(KNOBS); i++) {
    if (KNOBS[i].of_machine) continue;
    int count = value_count(a, &KNOBS[i]);
    if (count != value_count(b, &KNOBS[i])) return false;
    size_t bytes = (size_t)count * sizeof(int);
    if (memcmp(field_of(a, KNOBS[i].offset), field_of(b, KNOBS[i].offset), bytes) != 0) return false;
  }
  return true;
}

static void print_knobs(bool of_machine, const void *set, qn_buf *out) {
  for (size_t i = 0; i < QN_COUNT(KNOBS); i++) {
    if (KNOBS[i].of_machine != of_machine) continue;
    const int *values = field_of(set, KNOBS[i].offset);
    qn_buf_printf(out, "%s = ", KNOBS[i].name);
    for (int j = 0; j < value_count(set, &KNOBS[i]); j++) qn_buf_printf(out, j > 0 ? ",%d" : "%d", values[j]);
    qn_buf_putc(out, '\n');
  }
}

void qn_schedule_print(const qn_schedule *schedule, qn_buf *out) { print_knobs(false, schedule, out); }
void qn_machine_knobs_print(const qn_machine_knobs *knobs, qn_buf *out) { print_knobs(true, knobs, out); }

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

bool qn_knob_is_legal(const qn_knob *knob, int value) { return is_legal(knob->legal, value); }

// Checks the values of one knob; `where` is for messages.
static qn_status check_knob(const void *schedule, const qn_knob *k, const char *where, qn_diag *diag) {
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
  for (size_t i = 0; i < QN_COUNT(KNOBS); i++) {
    if (!KNOBS[i].of_machine) QN_TRY(check_knob(schedule, &KNOBS[i], "schedule", diag));
  }
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

static qn_status parse_values(const qn_knob *k, qn_str text, const char *where, void *out, qn_diag *diag) {
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
static qn_status parse_line(qn_str line, const char *where, bool *seen, knob_set out, qn_diag *diag) {
  char got[48];
  bool has_value = memchr(line.data, '=', line.length) != NULL;
  qn_str name = trim(take_until(&line, '='));
  if (!has_value) return qn_fail(diag, QN_ERR_ARGUMENT, where, "got '%s', want 'knob = value'", shown(name, got));
  for (size_t i = 0; i < QN_COUNT(KNOBS); i++) {
    if (KNOBS[i].of_machine != out.of_machine || !qn_str_is(name, KNOBS[i].name)) continue;
    if (seen[i]) return qn_fail(diag, QN_ERR_ARGUMENT, where, "%s: got it twice, want it once", KNOBS[i].name);
    seen[i] = true;
    return parse_values(&KNOBS[i], line, where, out.values, diag);
  }
  char known[256];
  size_t used = 0;
  for (size_t i = 0; i < QN_COUNT(KNOBS) && used < sizeof known; i++) {
    if (KNOBS[i].of_machine != out.of_machine) continue;
    used += (size_t)snprintf(known + used, sizeof known - used, used > 0 ? ", %s" : "%s", KNOBS[i].name);
  }
  return qn_fail(diag, QN_ERR_ARGUMENT, where, "got the knob '%s', want one of %s", shown(name, got), known);
}

static qn_status parse_knobs(const char *name, qn_str text, knob_set out, qn_diag *diag) {
  bool seen[QN_COUNT(KNOBS)] = {false};
  for (size_t number = 1; text.length > 0; number++) {
    qn_str line = take_until(&text, '\n');
    line = trim(take_until(&line, '#'));
    if (line.length == 0) continue;
    char where[256];
    snprintf(where, sizeof where, "%s:%zu", name, number);
    QN_TRY(parse_line(line, where, seen, out, diag));
  }
  return QN_OK;
}

qn_status qn_schedule_parse(const char *name, qn_str text, qn_schedule *out, qn_diag *diag) {
  qn_schedule schedule = qn_schedule_plain();
  QN_TRY(parse_knobs(name, text, (knob_set){false, &schedule}, diag));
  *out = schedule;
  return QN_OK;
}

qn_status qn_machine_knobs_parse(const char *name, qn_str text, qn_machine_knobs *out, qn_diag *diag) {
  qn_machine_knobs knobs = qn_machine_knobs_plain();
  QN_TRY(parse_knobs(name, text, (knob_set){true, &knobs}, diag));
  *out = knobs;
  return QN_OK;
}
