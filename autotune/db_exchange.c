// Entries to a text file and back: one line each, so that what machines found can be reviewed, kept and merged.
#include <stdio.h>
#include <string.h>

#include "autotune/db_internal.h"
#include "runtime/base/file.h"
#include "runtime/base/vec.h"

#define FIRST_LINE "quern-tuning 1"
#define IMPORT_MAX ((size_t)4 << 30)

static int64_t *count_of(qn_db_counts *counts, qn_db_kind_id kind) {
  int64_t *const of[DB_KIND_COUNT] = {&counts->records, &counts->marks, &counts->machines};
  return of[kind];
}

typedef struct export_walk {
  qn_db_kind_id kind;
  qn_db_counts *counts;
  qn_file_writer *file;  // NULL = only count
  qn_buf line;
  qn_status status;
} export_walk;

static bool export_entry(void *context, const void *entry, const char *rejected) {
  export_walk *w = context;
  if (rejected) {
    w->counts->rejected++;
    return true;
  }
  ++*count_of(w->counts, w->kind);
  if (!w->file) return true;
  w->line.length = 0;
  qn_db_line_print(w->kind, entry, &w->line);
  qn_buf_putc(&w->line, '\n');
  if (w->line.failed) {
    w->status = qn_fail_nomem(w->file->diag, w->file->path, "a line");
  } else {
    w->status = qn_file_writer_write(w->file, w->line.data, w->line.length);
  }
  return w->status == QN_OK;
}

static qn_status walk_all(qn_db *db, qn_file_writer *file, qn_db_counts *out, qn_diag *diag) {
  export_walk w = {.counts = out, .file = file};
  qn_status status = QN_OK;
  memset(out, 0, sizeof *out);
  qn_buf_init(&w.line, qn_db_allocator(db));
  for (int kind = 0; status == QN_OK && kind < DB_KIND_COUNT; kind++) {
    w.kind = (qn_db_kind_id)kind;
    status = qn_db_walk(db, w.kind, export_entry, &w, diag);
    if (status == QN_OK) status = w.status;
  }
  qn_buf_deinit(&w.line);
  return status;
}

qn_status qn_db_count(qn_db *db, qn_db_counts *out, qn_diag *diag) { return walk_all(db, NULL, out, diag); }

qn_status qn_db_export(qn_db *db, const char *path, qn_db_counts *out, qn_diag *diag) {
  qn_file_writer file;
  QN_TRY(qn_file_writer_open(&file, path, diag));
  qn_status status = qn_file_writer_write(&file, FIRST_LINE "\n", sizeof FIRST_LINE);
  if (status == QN_OK) status = walk_all(db, &file, out, diag);
  if (status == QN_OK) return qn_file_writer_commit(&file);
  qn_file_writer_abandon(&file);
  return status;
}

// --- import

typedef struct parsed {
  qn_db_kind_id kind;
  qn_db_entry entry;  // texts in the arena
} parsed;

typedef struct import_state {
  qn_db *db;
  const char *path;
  qn_db_import_fn progress;
  void *context;
  qn_db_counts *counts;
  qn_arena arena;  // of all entries
  QN_VEC(parsed) entries;  // in the arena
  int64_t lines;
  int64_t bad, first_bad;
  char why[256];  // of the first bad line
  qn_diag *diag;
} import_state;

enum { ASK_EVERY = 256 };

// Reading counts as half of the work, adding as the other.
static qn_status ask(const import_state *s, int64_t done) {
  if (done % ASK_EVERY != 0 || !s->progress || s->progress(s->context, done / 2, s->lines)) return QN_OK;
  return qn_fail(s->diag, QN_ERR_CANCELLED, s->path, "cancelled by the caller; nothing was imported");
}

static qn_status read_line(import_state *s, qn_str line, int64_t number) {
  parsed p;
  const char *wrong = qn_db_line_parse(line, &s->arena, &p.kind, &p.entry);
  if (!wrong) return qn_vec_push_arena(&s->arena, &s->entries, p) ? QN_OK : qn_fail_nomem(s->diag, s->path, "entries");
  if (s->bad++ > 0) return QN_OK;
  s->first_bad = number;
  snprintf(s->why, sizeof s->why, "%s", wrong);
  return QN_OK;
}

static qn_str next_line(qn_str *text) {
  const char *end = memchr(text->data, '\n', text->length);
  qn_str line = {text->data, end ? (size_t)(end - text->data) : text->length};
  size_t taken = line.length + (end != NULL);
  *text = (qn_str){text->data + taken, text->length - taken};
  if (line.length > 0 && line.data[line.length - 1] == '\r') line.length--;
  return line;
}

static int64_t count_lines(qn_str text) {
  int64_t lines = 0;
  for (; text.length > 0; lines++) (void)next_line(&text);
  return lines;
}

// All lines into entries: nobody waits for the database meanwhile.
static qn_status read_text(import_state *s, qn_str text) {
  s->lines = count_lines(text);
  qn_str line = next_line(&text);
  if (!qn_str_is(line, FIRST_LINE))
    return qn_fail(s->diag, QN_ERR_FORMAT, s->path,
                   "line 1: got '%.*s', want '%s'; only what quern exported is imported",
                   (int)(line.length < 40 ? line.length : 40), line.data, FIRST_LINE);
  for (int64_t number = 2; text.length > 0; number++) {
    line = next_line(&text);
    QN_TRY(ask(s, number));
    if (line.length > 0 && line.data[0] != '#') QN_TRY(read_line(s, line, number));
  }
  if (s->bad > 0)
    return qn_fail(s->diag, QN_ERR_FORMAT, s->path, "line %lld: %s (%lld bad line%s); nothing was imported: take %s out",
                   (long long)s->first_bad, s->why, (long long)s->bad, s->bad > 1 ? "s" : "",
                   s->bad > 1 ? "them" : "it");
  return QN_OK;
}

// All entries, in a transaction of the caller's.
static qn_status add_entries(import_state *s) {
  for (size_t i = 0; i < s->entries.count; i++) {
    const parsed *p = &s->entries.items[i];
    bool added;
    QN_TRY(ask(s, s->lines + (int64_t)i));
    QN_TRY(qn_db_add(s->db, p->kind, &p->entry, &added, s->diag));
    ++*(added ? count_of(s->counts, p->kind) : &s->counts->known);
  }
  return QN_OK;
}

static qn_status import_text(import_state *s, qn_str text) {
  QN_TRY(read_text(s, text));
  QN_TRY(qn_db_begin(s->db, s->diag));
  qn_status status = add_entries(s);
  if (status == QN_OK) return qn_db_commit(s->db, s->diag);
  qn_db_rollback(s->db);
  return status;
}

qn_status qn_db_import(qn_db *db, const char *path, qn_db_import_fn progress, void *context, qn_db_counts *out,
                       qn_diag *diag) {
  import_state s = {
      .db = db, .path = path, .progress = progress, .context = context, .counts = out, .diag = diag};
  char *text;
  size_t size;
  memset(out, 0, sizeof *out);
  QN_TRY(qn_file_read(path, IMPORT_MAX, qn_db_allocator(db), &text, &size, diag));
  qn_arena_init(&s.arena, qn_db_allocator(db));
  qn_status status = import_text(&s, (qn_str){text, size});
  if (status != QN_OK) memset(out, 0, sizeof *out);
  qn_arena_deinit(&s.arena);
  qn_free(qn_db_allocator(db), text, size + 1);
  return status;
}
