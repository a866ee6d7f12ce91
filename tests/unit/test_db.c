// The database of tuning: what is put is found, also by other processes and after kill -9; merging loses nothing; an
// edited, damaged, locked, foreign or full one is told in words.
#include "autotune/db.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "autotune/db_internal.h"
#include "tests/support/test.h"

static qn_db *open_db(const char *path, bool read_only) {
  qn_diag diag = {0};
  qn_db *db = NULL;
  qn_assert_ok(&diag, qn_db_open(path, read_only, qn_test_allocator(), &db, &diag));
  return db;
}

static void open_fails(const char *path, bool read_only, qn_status want, const char *needle) {
  qn_diag diag = {0};
  qn_db *db = NULL;
  qn_assert_fails(&diag, want, needle, qn_db_open(path, read_only, qn_test_allocator(), &db, &diag));
  ck_assert_ptr_null(db);
}

// Overwrites bytes of a file at an offset.
static void overwrite(const char *path, long offset, const void *bytes, size_t size) {
  FILE *file = fopen(path, "r+b");
  ck_assert_ptr_nonnull(file);
  ck_assert_int_eq(fseek(file, offset, SEEK_SET), 0);
  ck_assert_uint_eq(fwrite(bytes, 1, size, file), size);
  fclose(file);
}

// Changes the first place where a text stands in a file into another of the same length, as an editor of bytes would.
static void edit(const char *path, const char *from, const char *to) {
  static char bytes[1 << 20];
  FILE *file = fopen(path, "rb");
  ck_assert_ptr_nonnull(file);
  size_t size = fread(bytes, 1, sizeof bytes, file), length = strlen(from), i = 0;
  fclose(file);
  ck_assert_uint_eq(length, strlen(to));
  while (i + length <= size && memcmp(bytes + i, from, length) != 0) i++;
  ck_assert_msg(i + length <= size, "'%s' is not in %s", from, path);
  overwrite(path, (long)i, to, length);
}

static const double some_times[] = {1.5e-6, 1.75e-6, 1.625e-6};

static qn_record sample(int number) {
  return (qn_record){.signature = "matmul q4_0[2048,5632] x f32[M]",
                     .target = "x86-64-v3",
                     .fingerprint = "x86-64 avx2,fma l1=32K cores=2",
                     .generator = "abc",
                     .threads = 2,
                     .rows_min = 1,
                     .rows_max = 4,
                     .rows = 1,
                     .keys = 512,
                     .schedule = "m_tiles = 1; n_tile = 2",
                     .verdict = QN_VERDICT_OK,
                     .median_s = 1e-6 * (1 + number),
                     .spread_s = 2.5e-8,
                     .bound_s = 9e-7,
                     .samples = 12,
                     .times = some_times,
                     .time_count = 3,
                     .evidence = "same bits; \"quoted\" \\ and\ttabs",
                     .when = 1700000000 + number};
}

static void put(qn_db *db, qn_record record) {
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_db_put(db, &record, &diag));
}

static qn_db_counts count(qn_db *db) {
  qn_diag diag = {0};
  qn_db_counts counts;
  qn_assert_ok(&diag, qn_db_count(db, &counts, &diag));
  return counts;
}

static void same_record(const qn_record *got, const qn_record *want) {
  ck_assert_str_eq(got->signature, want->signature);
  ck_assert_str_eq(got->target, want->target);
  ck_assert_str_eq(got->fingerprint, want->fingerprint);
  ck_assert_str_eq(got->generator, want->generator);
  ck_assert_str_eq(got->schedule, want->schedule);
  ck_assert_str_eq(got->evidence, want->evidence);
  ck_assert_int_eq(got->threads, want->threads);
  ck_assert_int_eq(got->rows_min, want->rows_min);
  ck_assert_int_eq(got->rows_max, want->rows_max);
  ck_assert_int_eq(got->rows, want->rows);
  ck_assert_int_eq(got->keys, want->keys);
  ck_assert_int_eq((int)got->verdict, (int)want->verdict);
  ck_assert(got->median_s == want->median_s && got->spread_s == want->spread_s && got->bound_s == want->bound_s);
  ck_assert_int_eq(got->samples, want->samples);
  ck_assert_int_eq(got->time_count, want->time_count);
  ck_assert_int_eq(memcmp(got->times, want->times, (size_t)want->time_count * sizeof(double)), 0);
  ck_assert_int_eq(got->when, want->when);
}

START_TEST(what_is_put_is_found) {
  const char *path = qn_test_temp_path("folder/found.db");
  qn_arena arena;
  qn_arena_init(&arena, qn_test_allocator());
  qn_db *db = open_db(path, false);
  ck_assert_str_eq(qn_db_path(db), path);
  qn_record slow = sample(3), fast = sample(1), wrong = sample(0), got;
  wrong.verdict = QN_VERDICT_WRONG;
  put(db, slow), put(db, fast), put(db, wrong), put(db, fast);  // the same twice is there once
  qn_db_close(db);
  db = open_db(path, true);
  ck_assert_int_eq(count(db).records, 3);
  bool found;
  int rejected;
  qn_diag diag = {0};
  qn_db_filter filter = {.signature = fast.signature,
                         .target = fast.target,
                         .fingerprint = fast.fingerprint,
                         .generator = fast.generator,
                         .threads = 2,
                         .rows_min = 1,
                         .rows_max = 4};
  qn_assert_ok(&diag, qn_db_best(db, &filter, &arena, &got, &found, &rejected, &diag));
  ck_assert(found && rejected == 0);
  same_record(&got, &fast);
  filter.threads = 1;
  qn_assert_ok(&diag, qn_db_best(db, &filter, &arena, &got, &found, &rejected, &diag));
  ck_assert(!found);
  qn_assert_fails(&diag, QN_ERR_IO, "may only be read, want to add", qn_db_put(db, &fast, &diag));
  qn_db_close(db);
  qn_arena_deinit(&arena);
}
END_TEST

typedef struct seen {
  int count, rejected;
  char medians[256], last_rejected[128];
} seen;

static bool see(void *context, const qn_record *record, const char *rejected) {
  seen *s = context;
  s->count++;
  if (rejected) {
    s->rejected++;
    snprintf(s->last_rejected, sizeof s->last_rejected, "%s", rejected);
  }
  size_t used = strlen(s->medians);
  snprintf(s->medians + used, sizeof s->medians - used, "%s:%g ", qn_verdict_name(record->verdict),
           record->median_s * 1e6);
  return s->count < 5;
}

START_TEST(records_of_the_family_are_seeds) {
  qn_db *db = open_db(qn_test_temp_path("seeds.db"), false);
  qn_record mine = sample(1), larger = sample(2), elsewhere = sample(3), other_op = sample(4), failed = sample(0);
  larger.signature = "matmul q4_0[4096,5632] x f32[M]";
  elsewhere.fingerprint = "x86-64 avx512f l1=48K cores=8";
  other_op.signature = "matmul q8_0[2048,5632] x f32[M]";
  failed.verdict = QN_VERDICT_CRASHED;
  put(db, elsewhere), put(db, larger), put(db, mine), put(db, other_op), put(db, failed);
  qn_diag diag = {0};
  seen s = {0};
  qn_assert_ok(&diag, qn_db_each(db, &(qn_db_filter){.family = mine.signature}, see, &s, &diag));
  ck_assert_str_eq(s.medians, "ok:2 ok:3 ok:4 crashed:1 ");  // of q8_0 it is another family
  s = (seen){0};
  qn_assert_ok(&diag,
               qn_db_each(db, &(qn_db_filter){.other_fingerprint = mine.fingerprint, .only_ok = true}, see, &s, &diag));
  ck_assert_str_eq(s.medians, "ok:4 ");
  // What was killed from outside is no evidence against a schedule.
  failed.verdict = QN_VERDICT_KILLED;
  put(db, failed);
  s = (seen){0};
  qn_assert_ok(&diag, qn_db_each(db, &(qn_db_filter){.signature = mine.signature, .only_bad = true}, see, &s, &diag));
  ck_assert_str_eq(s.medians, "crashed:1 ");
  s = (seen){.count = 4};  // the callback ends it
  qn_assert_ok(&diag, qn_db_each(db, &(qn_db_filter){0}, see, &s, &diag));
  ck_assert_int_eq(s.count, 5);
  // A record of another machine is told apart: never the best of this one.
  qn_arena arena;
  qn_record got;
  bool found;
  qn_arena_init(&arena, qn_test_allocator());
  qn_db_filter here = {.signature = mine.signature, .fingerprint = "x86-64 avx2,fma l1=32K cores=4"};
  qn_assert_ok(&diag, qn_db_best(db, &here, &arena, &got, &found, NULL, &diag));
  ck_assert(!found);
  qn_arena_deinit(&arena);
  qn_db_close(db);
}
END_TEST

START_TEST(families_and_distances) {
  qn_buf text;
  qn_buf_init(&text, qn_test_allocator());
  qn_db_family("matmul q4_0[2048,32] x1 -12 3.5 8", &text);
  ck_assert_str_eq(qn_buf_text(&text), "matmul q4_0[#,#] x1 -# 3.5 #");
  qn_buf_deinit(&text);
  ck_assert(qn_db_distance("a[8,4]", "a[8,4]") == 0);
  ck_assert(qn_db_distance("a[7,4]", "a[15,4]") == 1);
  ck_assert(qn_db_distance("a[7,4]", "a[15,9]") == 2);
  ck_assert(isinf(qn_db_distance("a[7]", "b[7]")) && isinf(qn_db_distance("a[7]", "a[7] ")));
  ck_assert(isinf(qn_db_distance("a[7]", "a[M]")));
}
END_TEST

START_TEST(marks_and_machines) {
  qn_diag diag = {0};
  qn_arena arena;
  bool found;
  qn_arena_init(&arena, qn_test_allocator());
  qn_db *db = open_db(qn_test_temp_path("marks.db"), false);
  qn_finished mark = {.signature = "s",
                      .target = "t",
                      .fingerprint = "f",
                      .generator = "g1",
                      .threads = 2,
                      .rows_min = 1,
                      .rows_max = 8,
                      .plan = "1..8: n_tile = 2",
                      .reason = "within 3 %",
                      .within = 0.03,
                      .gain = 1.25,
                      .pairs = 12,
                      .when = 100},
              got;
  qn_assert_ok(&diag, qn_db_set_finished(db, &mark, &diag));
  mark.plan = "1..8: n_tile = 4", mark.when = 200;
  qn_assert_ok(&diag, qn_db_set_finished(db, &mark, &diag));
  qn_assert_ok(&diag, qn_db_finished(db, &mark, &arena, &got, &found, NULL, &diag));
  ck_assert(found && got.within == 0.03 && got.gain == 1.25 && got.pairs == 12 && got.when == 200);
  ck_assert_str_eq(got.plan, "1..8: n_tile = 4");
  mark.generator = "g2";
  qn_assert_ok(&diag, qn_db_finished(db, &mark, &arena, &got, &found, NULL, &diag));
  ck_assert(!found);
  mark.generator = NULL;
  qn_assert_ok(&diag, qn_db_finished(db, &mark, &arena, &got, &found, NULL, &diag));
  ck_assert(found);
  qn_finished whole = mark;  // of rows 0 to 0, and older than those of a class
  whole.generator = "g1", whole.rows_min = whole.rows_max = 0, whole.plan = "4 64", whole.when = 150;
  qn_assert_ok(&diag, qn_db_finished(db, &whole, &arena, &got, &found, NULL, &diag));
  ck_assert(!found);
  qn_assert_ok(&diag, qn_db_set_finished(db, &whole, &diag));
  qn_assert_ok(&diag, qn_db_finished(db, &whole, &arena, &got, &found, NULL, &diag));
  ck_assert(found);
  ck_assert_str_eq(got.plan, "4 64");
  qn_machine_record machine = {"f", "read=1e9", 50}, was;
  qn_assert_ok(&diag, qn_db_put_machine(db, &machine, &diag));
  machine = (qn_machine_record){"f", "read=2e9", 0};  // now
  qn_assert_ok(&diag, qn_db_put_machine(db, &machine, &diag));
  qn_assert_ok(&diag, qn_db_machine(db, "f", &arena, &was, &found, NULL, &diag));
  ck_assert(found && was.when > 1700000000);
  ck_assert_str_eq(was.profile, "read=2e9");
  qn_assert_ok(&diag, qn_db_machine(db, "h", &arena, &was, &found, NULL, &diag));
  ck_assert(!found);
  ck_assert_int_eq(count(db).marks, 3);
  ck_assert_int_eq(count(db).machines, 2);
  qn_db_close(db);
  qn_arena_deinit(&arena);
}
END_TEST

START_TEST(what_cannot_be_kept) {
  qn_diag diag = {0};
  qn_db *db = open_db(qn_test_temp_path("kept.db"), false);
  qn_record record = sample(0);
  record.evidence = "two\nlines";
  qn_assert_fails(&diag, QN_ERR_ARGUMENT, "several lines", qn_db_put(db, &record, &diag));
  diag = (qn_diag){0}, record = sample(0), record.median_s = NAN;
  qn_assert_fails(&diag, QN_ERR_ARGUMENT, "not finite", qn_db_put(db, &record, &diag));
  diag = (qn_diag){0}, record = sample(0), record.time_count = QN_RECORD_TIMES + 1;
  qn_assert_fails(&diag, QN_ERR_ARGUMENT, "more times", qn_db_put(db, &record, &diag));
  diag = (qn_diag){0}, record = sample(0), record.verdict = QN_VERDICT_COUNT;
  qn_assert_fails(&diag, QN_ERR_ARGUMENT, "a verdict", qn_db_put(db, &record, &diag));
  ck_assert_int_eq(count(db).records, 0);
  qn_db_close(db);
}
END_TEST

QN_CASE(entries, what_is_put_is_found, records_of_the_family_are_seeds, families_and_distances, marks_and_machines,
        what_cannot_be_kept)

// ---- exchange

static qn_db_counts export_to(qn_db *db, const char *path) {
  qn_diag diag = {0};
  qn_db_counts counts;
  qn_assert_ok(&diag, qn_db_export(db, path, &counts, &diag));
  return counts;
}

static qn_db_counts import_from(qn_db *db, const char *path) {
  qn_diag diag = {0};
  qn_db_counts counts;
  qn_assert_ok(&diag, qn_db_import(db, path, NULL, NULL, &counts, &diag));
  return counts;
}

static char *contents(const char *path) {
  FILE *file = fopen(path, "rb");
  ck_assert_ptr_nonnull(file);
  char *text = calloc(1, 1 << 16);
  size_t size = fread(text, 1, (1 << 16) - 1, file);
  ck_assert(size > 0);
  fclose(file);
  return text;
}

START_TEST(two_exports_merged) {
  const char *a_text = qn_test_temp_path("a.txt"), *b_text = qn_test_temp_path("b.txt");
  qn_db *a = open_db(qn_test_temp_path("a.db"), false), *b = open_db(qn_test_temp_path("b.db"), false);
  qn_db *first = open_db(qn_test_temp_path("first.db"), false),
        *second = open_db(qn_test_temp_path("second.db"), false);
  qn_diag diag = {0};
  for (int i = 0; i < 20; i++) put(i % 2 ? a : b, sample(i));
  for (int i = 20; i < 25; i++) put(a, sample(i)), put(b, sample(i));
  qn_machine_record machine = {"f", "read=1", 5};
  qn_assert_ok(&diag, qn_db_put_machine(a, &machine, &diag));
  qn_finished mark = {.signature = "s", .when = 7};
  qn_assert_ok(&diag, qn_db_set_finished(b, &mark, &diag));
  ck_assert_int_eq(export_to(a, a_text).records, 15);
  ck_assert_int_eq(export_to(b, b_text).marks, 1);
  // In either order, into one database or another: the same entries, and the same text of them.
  ck_assert_int_eq(import_from(first, a_text).records, 15);
  qn_db_counts counts = import_from(first, b_text);
  ck_assert_int_eq(counts.records, 10);
  ck_assert_int_eq(counts.known, 5);
  import_from(second, b_text), import_from(second, a_text);
  ck_assert_int_eq(count(first).records, 25);
  ck_assert_int_eq(import_from(first, a_text).known, 16);
  export_to(first, qn_test_temp_path("first.txt")), export_to(second, qn_test_temp_path("second.txt"));
  char *one = contents(qn_test_temp_path("first.txt")), *other = contents(qn_test_temp_path("second.txt"));
  ck_assert_str_eq(one, other);
  ck_assert_ptr_nonnull(strstr(one, "record id="));
  free(one), free(other);
  for (int i = 0; i < 25; i++) {
    qn_record want = sample(i), got;
    bool found;
    qn_arena arena;
    qn_arena_init(&arena, qn_test_allocator());
    seen s = {0};
    qn_assert_ok(&diag, qn_db_each(first, &(qn_db_filter){.signature = want.signature}, see, &s, &diag));
    qn_assert_ok(&diag,
                 qn_db_best(first, &(qn_db_filter){.signature = want.signature}, &arena, &got, &found, NULL, &diag));
    ck_assert(found && s.rejected == 0);
    qn_arena_deinit(&arena);
  }
  qn_db_close(a), qn_db_close(b), qn_db_close(first), qn_db_close(second);
}
END_TEST

// A good export with one line's `from` changed into `to` is not imported, and says `needle`.
static void import_fails(const char *good, const char *from, const char *to, const char *needle) {
  const char *path = qn_test_temp_path("bad.txt"), *at = strstr(good, from);
  qn_db *db = open_db(qn_test_temp_path("bad.db"), false);
  ck_assert_ptr_nonnull(at);
  char *text = calloc(1, strlen(good) + strlen(to) + 1);
  memcpy(text, good, (size_t)(at - good));
  strcat(strcat(text, to), at + strlen(from));
  qn_test_write_file(path, text, strlen(text));
  free(text);
  qn_diag diag = {0};
  qn_db_counts counts;
  qn_assert_fails(&diag, QN_ERR_FORMAT, needle, qn_db_import(db, path, NULL, NULL, &counts, &diag));
  ck_assert_int_eq(count(db).records, 0);  // nothing of it, the good lines neither
  qn_db_close(db);
}

START_TEST(bad_lines) {
  const char *path = qn_test_temp_path("good.txt");
  qn_db *db = open_db(qn_test_temp_path("good.db"), false);
  for (int i = 0; i < 3; i++) put(db, sample(i));
  export_to(db, path);
  char *good = contents(path);
  import_fails(good, "quern-tuning 1", "quern-tuning 9", "line 1: got 'quern-tuning 9', want 'quern-tuning 1'");
  import_fails(good, "median_s=2e-06", "median_s=1e-09", "line 3: its id is not that of its fields");
  import_fails(good, "record id", "recipe id", "line 2: 'recipe': want record, finished or machine");
  import_fails(good, "threads=2", "threads=", "'threads': want an integer");
  import_fails(good, "threads=2", "threads=99999999999", "'threads': want an integer");
  import_fails(good, "rows=1", "rows", "'rows': want name=value");
  import_fails(good, "verdict=ok", "verdict=good", "'verdict': want a verdict");
  import_fails(good, "verdict=ok", "colour=red", "'colour': no such field");
  import_fails(good, "median_s=", "median_s=x", "'median_s': want a number");
  import_fails(good, "generator=\"abc\"", "generator=abc", "'generator': want a text in double quotes");
  import_fails(good, "generator=\"abc\"", "generator=\"abc\"x", "want a space between fields");
  import_fails(good, "\\\"quoted", "\\qquoted", "'evidence': a text with an escape that there is not");
  import_fails(good, "times=\"1.5e-06", "times=\"1.5e-06,", "'times': want up to 32 numbers");
  char *twice = strdup(good);
  for (char *at = twice; (at = strstr(at, "rows=1 "));) at[5] = '2';
  import_fails(twice, "quern", "quern",
               "line 2: its id is not that of its fields: the line was edited, or cut "
               "(3 bad lines); nothing was imported: take them out");
  free(twice);
  import_fails(good, strrchr(good, '"') - 4, "", "a text without its closing quote (1 bad line)");  // cut short
  free(good);
  qn_db_counts counts;
  qn_diag diag = {0};
  qn_assert_fails(&diag, QN_ERR_IO, "none.txt", qn_db_import(db, qn_test_temp_path("none.txt"), NULL, NULL, &counts, &diag));
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_IO, "nowhere", qn_db_export(db, qn_test_temp_path("nowhere/x.txt"), &counts, &diag));
  qn_db_close(db);
}
END_TEST

typedef struct watching {
  qn_db *other;
  int64_t calls, stop_at, done, lines;
} watching;

// While lines are read others write at once; `stop_at` counts calls.
static bool watch(void *context, int64_t done, int64_t lines) {
  watching *w = context;
  ck_assert(done >= w->done && done <= lines);
  w->done = done;
  w->lines = lines;
  if (++w->calls == 1) put(w->other, sample(5000));
  return w->calls != w->stop_at;
}

// Reading a long file locks nobody out, and who wants no more of it gets none of it.
START_TEST(imports_are_watched) {
  enum { ENTRIES = 1500 };
  const char *path = qn_test_temp_path("long.txt"), *to = qn_test_temp_path("watched.db");
  qn_db *from = open_db(qn_test_temp_path("long.db"), false), *db = open_db(to, false), *other = open_db(to, false);
  qn_diag diag = {0};
  qn_db_counts counts;
  qn_db_set_patience(other, 0);
  for (int i = 0; i < ENTRIES; i++) put(from, sample(i));
  export_to(from, path);
  for (int stop = 1; stop <= 7; stop += 6) {
    watching w = {.other = other, .stop_at = stop};
    qn_assert_fails(&diag, QN_ERR_CANCELLED, "cancelled by the caller; nothing was imported",
                    qn_db_import(db, path, watch, &w, &counts, &diag));
    diag = (qn_diag){0};
    ck_assert_int_eq(count(db).records, 1);  // the other's
    ck_assert_int_eq(counts.records, 0);
  }
  watching w = {.other = other};
  qn_assert_ok(&diag, qn_db_import(db, path, watch, &w, &counts, &diag));
  ck_assert_int_eq(counts.records, ENTRIES);
  ck_assert_int_gt(w.calls, 8);
  ck_assert_int_eq(w.lines, ENTRIES + 1);
  qn_db_close(from), qn_db_close(db), qn_db_close(other);
}
END_TEST

START_TEST(comments_and_empty_lines) {
  const char *path = qn_test_temp_path("comments.txt");
  qn_db *db = open_db(qn_test_temp_path("comments.db"), false);
  const char *text = "quern-tuning 1\n# reviewed\n\n";
  qn_test_write_file(path, text, strlen(text));
  ck_assert_int_eq(import_from(db, path).records, 0);
  qn_db_close(db);
}
END_TEST

QN_CASE(exchange, two_exports_merged, bad_lines, imports_are_watched, comments_and_empty_lines)

// ---- bad databases

static const char *filled(const char *name, int records) {
  const char *path = qn_test_temp_path(name);
  qn_db *db = open_db(path, false);
  for (int i = 0; i < records; i++) put(db, sample(i));
  qn_db_close(db);
  return path;
}

START_TEST(an_edited_record_is_rejected) {
  const char *path = filled("edited.db", 3);
  qn_diag diag = {0};
  seen s = {0};
  qn_arena arena;
  qn_record got;
  bool found;
  int rejected;
  edit(path, "n_tile = 2", "n_tile = 9");
  qn_arena_init(&arena, qn_test_allocator());
  qn_db *db = open_db(path, true);
  qn_assert_ok(&diag, qn_db_each(db, &(qn_db_filter){0}, see, &s, &diag));
  ck_assert_int_eq(s.count, 3);
  ck_assert_int_eq(s.rejected, 1);
  ck_assert_str_eq(s.last_rejected, "its checksum does not hold: the entry was edited or is damaged");
  qn_assert_ok(&diag, qn_db_best(db, &(qn_db_filter){0}, &arena, &got, &found, &rejected, &diag));
  ck_assert(found && strcmp(got.schedule, "m_tiles = 1; n_tile = 2") == 0);
  ck_assert_int_eq(count(db).rejected, 1);
  ck_assert_int_eq(export_to(db, qn_test_temp_path("edited.txt")).records, 2);
  qn_db_close(db);
  edit(path, "1.5e-06 1.75e-06", "1.5e-06 1.75e!06");
  edit(path, "n_tile = 2", "n_tile = 3");
  db = open_db(path, true);
  ck_assert(count(db).rejected >= 2);
  qn_db_close(db);
  qn_arena_deinit(&arena);
}
END_TEST

START_TEST(other_versions_and_other_files) {
  const char *path = filled("version.db", 1);
  overwrite(path, 60, "\0\0\0\7", 4);  // SQLite's file format: user_version and application_id, big-endian
  open_fails(path, false, QN_ERR_UNSUPPORTED, "got a tuning database of format version 7, want 2; export it with");
  open_fails(path, true, QN_ERR_UNSUPPORTED, "version.db: got a tuning database of format version 7");
  overwrite(path, 68, "\1\2\3\4", 4);
  open_fails(path, false, QN_ERR_UNSUPPORTED, "got another program's SQLite database");
  path = qn_test_temp_path("text.db");
  char text[4096];
  memset(text, 'x', sizeof text);
  qn_test_write_file(path, text, sizeof text);
  open_fails(path, false, QN_ERR_FORMAT, "got a file of another kind, want a tuning database");
  open_fails(path, true, QN_ERR_FORMAT, "got a file of another kind, want a tuning database");
}
END_TEST

START_TEST(a_damaged_one) {
  const char *path = filled("damaged.db", 200);
  struct stat info;
  ck_assert_int_eq(stat(path, &info), 0);
  char junk[4096];
  memset(junk, 0xA5, sizeof junk);
  for (long at = 4096; at + 4096 <= info.st_size; at += 4096) overwrite(path, at, junk, sizeof junk);
  qn_db *db = open_db(path, false);
  qn_diag diag = {0};
  qn_db_counts counts;
  qn_record record = sample(1);
  qn_assert_fails(&diag, QN_ERR_FORMAT, "got a damaged database (", qn_db_count(db, &counts, &diag));
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_FORMAT, "move it away", qn_db_put(db, &record, &diag));
  qn_db_close(db);
}
END_TEST

START_TEST(places_that_cannot_be_used) {
  open_fails("", false, QN_ERR_ARGUMENT, "got an empty path");
  open_fails(qn_test_temp_dir(), false, QN_ERR_IO, "cannot open it");
  open_fails("/proc/nowhere/tuning.db", false, QN_ERR_IO, "/proc/nowhere");
  const char *path = qn_test_temp_path("missing/none.db");
  qn_db *db = open_db(path, true);  // reads as one without entries, and is not made
  ck_assert_int_eq(count(db).records, 0);
  qn_db_close(db);
  ck_assert_int_ne(access(path, F_OK), 0);
  unsetenv("XDG_DATA_HOME"), unsetenv("HOME");
  open_fails(NULL, false, QN_ERR_IO, "got neither XDG_DATA_HOME nor HOME, want one; or name a file");
  setenv("HOME", qn_test_temp_path("home"), 1);
  db = open_db(NULL, false);
  ck_assert_str_eq(qn_db_path(db), qn_test_temp_path("home/.local/share/quern/tuning.db"));
  qn_db_close(db);
  setenv("XDG_DATA_HOME", qn_test_temp_path("data"), 1);
  db = open_db(NULL, true);
  ck_assert_str_eq(qn_db_path(db), qn_test_temp_path("data/quern/tuning.db"));
  qn_db_close(db);
}
END_TEST

// As somebody whom rights bind: root may write everything.
static bool become_nobody(void) { return geteuid() != 0 || (setgid(65534) == 0 && setuid(65534) == 0); }

START_TEST(read_only_files) {
  ck_assert_int_eq(mkdir(qn_test_temp_path("locked"), 0755), 0);
  ck_assert_int_eq(chmod(qn_test_temp_dir(), 0755), 0);
  const char *path = filled("locked/only.db", 2);
  ck_assert_int_eq(chmod(path, 0444), 0);
  ck_assert_int_eq(chmod(qn_test_temp_path("locked"), 0555), 0);
  ck_assert(become_nobody());
  open_fails(path, false, QN_ERR_IO, "got a database that may only be read, want to write it; name another file");
  qn_db *db = open_db(path, true);
  ck_assert_int_eq(count(db).records, 2);
  qn_db_close(db);
  open_fails(qn_test_temp_path("locked/new.db"), false, QN_ERR_IO, "new.db: cannot open it");
  chmod(qn_test_temp_path("locked"), 0755);  // to be removed
}
END_TEST

START_TEST(a_full_disk) {
  const char *path = filled("full.db", 1);
  struct rlimit limit = {200 << 10, RLIM_INFINITY};
  signal(SIGXFSZ, SIG_IGN);
  ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
  qn_db *db = open_db(path, false);
  qn_diag diag = {0};
  int put_count = 1;
  for (qn_status status = QN_OK; status == QN_OK && put_count < 2000; put_count++) {
    qn_record record = sample(put_count);
    status = qn_db_put(db, &record, &diag);
    if (status != QN_OK) break;
  }
  ck_assert_int_eq((int)diag.status, QN_ERR_IO);
  ck_assert_msg(strstr(diag.text, "got no space left (disk, quota or limit of file sizes) to add to it") != NULL, "%s",
                diag.text);
  limit.rlim_cur = RLIM_INFINITY;
  ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
  ck_assert_int_eq(count(db).records, put_count);  // what was put before is there, and it goes on
  put(db, sample(put_count));
  qn_db_close(db);
  db = open_db(path, true);
  ck_assert_int_eq(count(db).records, put_count + 1);
  qn_db_close(db);
}
END_TEST

static qn_status open_and_put(const qn_allocator *allocator, void *context) {
  qn_diag diag = {0};
  qn_db *db = NULL;
  qn_arena arena;
  qn_record record = sample(1), got;
  bool found;
  qn_arena_init(&arena, allocator);
  qn_status status = qn_db_open(context, false, allocator, &db, &diag);
  if (status == QN_OK) status = qn_db_put(db, &record, &diag);
  if (status == QN_OK)
    status = qn_db_best(db, &(qn_db_filter){.family = record.signature}, &arena, &got, &found, NULL, &diag);
  qn_arena_deinit(&arena);
  qn_db_close(db);
  return status;
}

START_TEST(memory_runs_out) { qn_test_failing_allocations(open_and_put, (void *)(uintptr_t)filled("memory.db", 2)); }
END_TEST

QN_CASE(bad, an_edited_record_is_rejected, other_versions_and_other_files, a_damaged_one, places_that_cannot_be_used,
        read_only_files, a_full_disk, memory_runs_out)

// ---- many processes

START_TEST(a_locked_one) {
  const char *path = filled("busy.db", 1);
  int ready[2];
  ck_assert_int_eq(pipe(ready), 0);
  pid_t child = fork();
  if (child == 0) {
    qn_db *db = NULL;
    qn_diag diag = {0};
    bool held = qn_db_open(path, false, qn_allocator_default(), &db, &diag) == QN_OK && qn_db_begin(db, &diag) == QN_OK;
    if (held && write(ready[1], "x", 1) == 1) pause();
    _exit(1);
  }
  char byte;
  ck_assert_int_eq(read(ready[0], &byte, 1), 1);
  qn_db *db = open_db(path, false);
  qn_db_set_patience(db, 50);
  qn_diag diag = {0};
  qn_record record = sample(5);
  char want[64];
  snprintf(want, sizeof want, "by process %d (", (int)child);
  qn_assert_fails(&diag, QN_ERR_IO, want, qn_db_put(db, &record, &diag));
  ck_assert_ptr_nonnull(strstr(diag.text, "for longer than 50 ms, want to write it; wait for that to end, or end it"));
  ck_assert_int_eq(count(db).records, 1);  // reading waits for nobody
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  put(db, record);
  ck_assert_int_eq(count(db).records, 2);
  qn_db_close(db);
}
END_TEST

enum { WRITERS = 4, EACH = 50 };

// Several processes that find no database make one, and all that they put is there.
START_TEST(writers_at_once) {
  const char *path = qn_test_temp_path("many.db");
  pid_t children[WRITERS];
  for (int w = 0; w < WRITERS; w++) {
    children[w] = fork();
    if (children[w] != 0) continue;
    qn_db *db = NULL;
    qn_diag diag = {0};
    qn_status status = qn_db_open(path, false, qn_allocator_default(), &db, &diag);
    if (status == QN_OK) qn_db_set_patience(db, 60000);
    for (int i = 0; status == QN_OK && i < EACH; i++) {
      qn_record record = sample(w * EACH + i);
      status = qn_db_put(db, &record, &diag);
    }
    if (status != QN_OK) fprintf(stderr, "%s\n", diag.text);
    qn_db_close(db);
    _exit((int)status);
  }
  for (int w = 0; w < WRITERS; w++) {
    int status;
    ck_assert_int_eq(waitpid(children[w], &status, 0), children[w]);
    ck_assert_int_eq(status, 0);
  }
  qn_db *db = open_db(path, true);
  ck_assert_int_eq(count(db).records, WRITERS * EACH);
  qn_db_close(db);
}
END_TEST

// Puts records until it is killed, and tells of each by a byte when it is in.
static _Noreturn void write_until_killed(const char *path, int told, int first) {
  qn_db *db = NULL;
  qn_diag diag = {0};
  qn_status status = qn_db_open(path, false, qn_allocator_default(), &db, &diag);
  for (int i = first; status == QN_OK; i++) {
    qn_record record = sample(i);
    status = qn_db_put(db, &record, &diag);
    if (status == QN_OK && write(told, "x", 1) != 1) break;
  }
  fprintf(stderr, "%s\n", diag.text);
  _exit(1);
}

START_TEST(killed_at_any_moment) {
  const char *path = qn_test_temp_path("killed.db");
  qn_test_random random = {20261};
  int64_t there = 0;
  for (int kills = 0; kills < 50; kills++) {
    int told[2];
    ck_assert_int_eq(pipe(told), 0);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) write_until_killed(path, told[1], kills * 100000);
    close(told[1]);
    usleep((useconds_t)(qn_test_random_unit(&random) * 12000));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    char bytes[4096];
    int64_t said = 0;
    for (ssize_t got; (got = read(told[0], bytes, sizeof bytes)) > 0;) said += got;
    close(told[0]);
    qn_db *db = open_db(path, false);
    qn_db_counts now = count(db);
    qn_db_close(db);
    ck_assert_int_eq(now.rejected, 0);
    // All that it told of, and at most the one that it had not told of yet.
    ck_assert_msg(now.records - there == said || now.records - there == said + 1, "kill %d: %d records came, %d told",
                  kills, (int)(now.records - there), (int)said);
    there = now.records;
  }
  ck_assert_int_gt(there, 0);
}
END_TEST

QN_CASE(processes, a_locked_one, writers_at_once, killed_at_any_moment)
QN_TEST_MAIN(entries, exchange, bad, processes)
