// The database on SQLite: one table a kind of entry, made from the tables of fields in db_record.c. Every entry carries
// the hash of its fields as its key, so that adding it twice adds it once, and that one edited by hand is known.
#include "autotune/db.h"

#include <errno.h>
#include <sqlite3.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "autotune/db_internal.h"
#include "runtime/base/file.h"

enum {
  APPLICATION_ID = 0x71756572,  // "quer", in the file's header (PRAGMA application_id)
  FORMAT_VERSION = 2,           // in the file's header (PRAGMA user_version)
  PATIENCE_MS = 5000,
  RETRY_MS = 20,
  MAX_CONDITIONS = 9,  // the fields of qn_db_filter
};

struct qn_db {
  const qn_allocator *allocator;     // borrowed
  sqlite3 *sqlite;                   // owned
  sqlite3_stmt *add[DB_KIND_COUNT];  // owned; NULL before the first use
  qn_buf path;
  int patience_ms;
  bool read_only;
};

const char *qn_db_path(const qn_db *db) { return qn_buf_text(&db->path); }
const qn_allocator *qn_db_allocator(const qn_db *db) { return db->allocator; }

void qn_db_set_patience(qn_db *db, int milliseconds) {
  db->patience_ms = milliseconds;
  sqlite3_busy_timeout(db->sqlite, milliseconds);
}

// --- errors

static qn_status fail_locked(qn_db *db, qn_diag *diag) {
  qn_buf owners;
  qn_buf_init(&owners, db->allocator);
  qn_db_lock_owners(qn_db_path(db), &owners);
  qn_status status = qn_fail(diag, QN_ERR_IO, qn_db_path(db),
                             "got it locked%s for longer than %d ms, want to write it; wait for that to end, or end it",
                             owners.length ? qn_buf_text(&owners) : " by another process", db->patience_ms);
  qn_buf_deinit(&owners);
  return status;
}

// SQLite tells a disk that is full and a file that may not grow (limits, quotas) by several codes.
static bool no_space(sqlite3 *sqlite, int code) {
  int extended = sqlite ? sqlite3_extended_errcode(sqlite) : code;
  return (code & 0xFF) == SQLITE_FULL || extended == SQLITE_IOERR_WRITE || extended == SQLITE_IOERR_SHMSIZE;
}

// What SQLite answered, as an error of ours. `what` says what was tried.
static qn_status fail(qn_db *db, int code, const char *what, qn_diag *diag) {
  const char *path = qn_db_path(db), *said = db->sqlite ? sqlite3_errmsg(db->sqlite) : sqlite3_errstr(code);
  int error = db->sqlite ? sqlite3_system_errno(db->sqlite) : 0;
  switch (code & 0xFF) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED: return fail_locked(db, diag);
    case SQLITE_NOMEM: return qn_fail_nomem(diag, path, what);
    case SQLITE_NOTADB:
      return qn_fail(diag, QN_ERR_FORMAT, path, "got a file of another kind, want a tuning database; name another one");
    case SQLITE_CORRUPT:
      return qn_fail(diag, QN_ERR_FORMAT, path,
                     "got a damaged database (%s) when to %s; move it away (sqlite3's .recover may save entries)", said,
                     what);
    case SQLITE_READONLY:
    case SQLITE_PERM:
      return qn_fail(diag, QN_ERR_IO, path, "got a database that may only be read, want to %s; name another file",
                     what);
    default: break;
  }
  if (no_space(db->sqlite, code))
    return qn_fail(diag, QN_ERR_IO, path,
                   "got no space left (disk, quota or limit of file sizes) to %s; what is in it is kept: make room and "
                   "go on",
                   what);
  return qn_fail(diag, QN_ERR_IO, path, "cannot %s: %s%s%s; check the path and its rights", what, said,
                 error ? ": " : "", error ? strerror(error) : "");
}

static qn_status run(qn_db *db, const char *sql, const char *what, qn_diag *diag) {
  int code = sqlite3_exec(db->sqlite, sql, NULL, NULL, NULL);
  return code == SQLITE_OK ? QN_OK : fail(db, code, what, diag);
}

static qn_status ask_int(qn_db *db, const char *sql, int64_t *out, qn_diag *diag) {
  sqlite3_stmt *statement = NULL;
  int code = sqlite3_prepare_v2(db->sqlite, sql, -1, &statement, NULL);
  if (code == SQLITE_OK) code = sqlite3_step(statement);
  if (code == SQLITE_ROW) *out = sqlite3_column_int64(statement, 0);
  qn_status status = code == SQLITE_ROW ? QN_OK : fail(db, code, "read it", diag);
  sqlite3_finalize(statement);
  return status;
}

// --- tables

static const char *column_type(qn_db_type type) {
  return type == DB_INT || type == DB_INT64 ? "INTEGER" : type == DB_REAL ? "REAL" : "TEXT";
}

// What is not a field of the entry's: its key, and what to find it by.
static bool has_family(qn_db_kind_id id) { return id != DB_MACHINE; }

static void put_schema(qn_buf *sql) {
  for (int id = 0; id < DB_KIND_COUNT; id++) {
    const qn_db_kind *kind = &qn_db_kinds[id];
    qn_buf_printf(sql, "CREATE TABLE %s (id TEXT PRIMARY KEY", kind->name);
    if (has_family((qn_db_kind_id)id)) qn_buf_puts(sql, ", family TEXT NOT NULL");
    for (int i = 0; i < kind->field_count; i++)
      qn_buf_printf(sql, ", %s %s NOT NULL", kind->fields[i].name, column_type(kind->fields[i].type));
    qn_buf_puts(sql, ") WITHOUT ROWID;");
    if (has_family((qn_db_kind_id)id)) {
      qn_buf_printf(sql, "CREATE INDEX %s_signature ON %s (signature, target, machine);", kind->name, kind->name);
      qn_buf_printf(sql, "CREATE INDEX %s_family ON %s (family);", kind->name, kind->name);
    } else {
      qn_buf_printf(sql, "CREATE INDEX %s_machine ON %s (machine);", kind->name, kind->name);
    }
  }
  qn_buf_printf(sql, "PRAGMA application_id = %d; PRAGMA user_version = %d;", APPLICATION_ID, FORMAT_VERSION);
}

// *out_fresh = there is nothing in it at all. Within a transaction: another process may be making its tables.
static qn_status check_version(qn_db *db, bool *out_fresh, qn_diag *diag) {
  int64_t application = 0, version = 0, tables = 0;
  QN_TRY(ask_int(db, "PRAGMA application_id", &application, diag));
  QN_TRY(ask_int(db, "PRAGMA user_version", &version, diag));
  QN_TRY(ask_int(db, "SELECT count(*) FROM sqlite_master", &tables, diag));
  *out_fresh = application == 0 && version == 0 && tables == 0;
  if (*out_fresh) return QN_OK;
  if (application != APPLICATION_ID)
    return qn_fail(diag, QN_ERR_UNSUPPORTED, qn_db_path(db),
                   "got another program's SQLite database, want a tuning database; name another file");
  if (version != FORMAT_VERSION)
    return qn_fail(diag, QN_ERR_UNSUPPORTED, qn_db_path(db),
                   "got a tuning database of format version %lld, want %d; export it with the quern that made it, and "
                   "import that into another file",
                   (long long)version, FORMAT_VERSION);
  return QN_OK;
}

static qn_status look(qn_db *db, bool *out_fresh, qn_diag *diag) {
  QN_TRY(run(db, "BEGIN", "read it", diag));
  qn_status status = check_version(db, out_fresh, diag);
  qn_db_rollback(db);
  return status;
}

static qn_status create_tables(qn_db *db, qn_diag *diag) {
  bool fresh;
  QN_TRY(qn_db_begin(db, diag));
  qn_status status = check_version(db, &fresh, diag);  // another process may have been first
  if (status == QN_OK && fresh) {
    qn_buf sql;
    qn_buf_init(&sql, db->allocator);
    put_schema(&sql);
    status = sql.failed ? qn_fail_nomem(diag, qn_db_path(db), "its tables")
                        : run(db, qn_buf_text(&sql), "make its tables", diag);
    qn_buf_deinit(&sql);
  }
  if (status == QN_OK) return qn_db_commit(db, diag);
  qn_db_rollback(db);
  return status;
}

// SQLite does not wait for others here, so we do. A file system that cannot share memory keeps the rollback journal:
// slower, as safe.
static qn_status write_ahead(qn_db *db, qn_diag *diag) {
  for (int waited = 0;; waited += RETRY_MS) {
    int code = sqlite3_exec(db->sqlite, "PRAGMA journal_mode = WAL", NULL, NULL, NULL);
    if (code == SQLITE_OK) break;
    if ((code & 0xFF) != SQLITE_BUSY || waited >= db->patience_ms) return fail(db, code, "open it", diag);
    sqlite3_sleep(RETRY_MS);
  }
  // A process that is killed loses nothing that was committed; a machine that loses power may lose the last commits.
  return run(db, "PRAGMA synchronous = NORMAL", "open it", diag);
}

// --- opening

static qn_status make_folder(qn_db *db, qn_diag *diag) {
  const char *path = qn_db_path(db), *slash = strrchr(path, '/');
  if (!slash || slash == path) return QN_OK;
  qn_buf folder;
  qn_buf_init(&folder, db->allocator);
  qn_buf_append(&folder, path, (size_t)(slash - path));
  qn_status status = folder.failed ? qn_fail_nomem(diag, path, "a path") : qn_make_directories(folder.data, diag);
  qn_buf_deinit(&folder);
  return status;
}

// Where nobody may write beside it and nothing waits in a log, the file alone is the whole database: then SQLite needs
// no shared memory, which it could not make.
static bool is_still(qn_db *db) {
  qn_buf name;
  struct stat info;
  qn_buf_init(&name, db->allocator);
  qn_buf_puts(&name, qn_db_path(db));
  char *slash = name.data ? strrchr(name.data, '/') : NULL;
  if (slash) *slash = '\0';
  bool locked = access(!slash ? "." : slash == name.data ? "/" : name.data, W_OK) != 0;
  if (slash) *slash = '/';
  qn_buf_puts(&name, "-wal");
  bool still = !name.failed && locked && stat(name.data, &info) != 0;
  qn_buf_deinit(&name);
  return still;
}

// "file:PATH?immutable=1", with the bytes quoted that mean something in it.
static void put_still_uri(const char *path, qn_buf *out) {
  qn_buf_puts(out, "file:");
  for (; *path; path++) {
    if (strchr("%?#", *path)) {
      qn_buf_printf(out, "%%%02x", (unsigned char)*path);
    } else {
      qn_buf_putc(out, *path);
    }
  }
  qn_buf_puts(out, "?immutable=1");
}

static qn_status open_sqlite(qn_db *db, qn_diag *diag) {
  int flags = db->read_only ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
  qn_buf name;
  qn_buf_init(&name, db->allocator);
  if (db->read_only && access(qn_db_path(db), F_OK) != 0 && errno == ENOENT) {
    qn_buf_puts(&name, ":memory:");
    flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
  } else if (db->read_only && is_still(db)) {
    put_still_uri(qn_db_path(db), &name);
    flags |= SQLITE_OPEN_URI;
  } else {
    qn_buf_puts(&name, qn_db_path(db));
  }
  int code = name.failed ? SQLITE_NOMEM : sqlite3_open_v2(qn_buf_text(&name), &db->sqlite, flags, NULL);
  qn_buf_deinit(&name);
  if (code != SQLITE_OK) return fail(db, code, "open it", diag);
  sqlite3_busy_timeout(db->sqlite, db->patience_ms);
  return QN_OK;
}

static qn_status prepare(qn_db *db, const char *path, qn_diag *diag) {
  bool fresh = true;
  if (path) {
    qn_buf_puts(&db->path, path);
  } else {
    QN_TRY(qn_db_default_path(&db->path, diag));
  }
  if (db->path.failed) return qn_fail_nomem(diag, "tuning database", "a path");
  if (db->path.length == 0)
    return qn_fail(diag, QN_ERR_ARGUMENT, "tuning database", "got an empty path, want a file's");
  if (!db->read_only) QN_TRY(make_folder(db, diag));
  QN_TRY(open_sqlite(db, diag));
  if (!db->read_only && sqlite3_db_readonly(db->sqlite, "main") == 1)
    return fail(db, SQLITE_READONLY, "write it", diag);
  QN_TRY(look(db, &fresh, diag));
  if (!db->read_only) QN_TRY(write_ahead(db, diag));
  return fresh ? create_tables(db, diag) : QN_OK;
}

qn_status qn_db_open(const char *path, bool read_only, const qn_allocator *allocator, qn_db **out, qn_diag *diag) {
  *out = NULL;
  qn_db *db = qn_alloc_zeroed(allocator, sizeof *db);
  if (!db) return qn_fail_nomem(diag, path ? path : "tuning database", "opening it");
  db->allocator = allocator;
  db->patience_ms = PATIENCE_MS;
  db->read_only = read_only;
  qn_buf_init(&db->path, allocator);
  qn_status status = prepare(db, path, diag);
  if (status == QN_OK) {
    *out = db;
  } else {
    qn_db_close(db);
  }
  return status;
}

void qn_db_close(qn_db *db) {
  if (!db) return;
  for (int i = 0; i < DB_KIND_COUNT; i++) sqlite3_finalize(db->add[i]);
  sqlite3_close(db->sqlite);
  qn_buf_deinit(&db->path);
  qn_free(db->allocator, db, sizeof *db);
}

// --- writing

qn_status qn_db_begin(qn_db *db, qn_diag *diag) { return run(db, "BEGIN IMMEDIATE", "write it", diag); }
qn_status qn_db_commit(qn_db *db, qn_diag *diag) {
  qn_status status = run(db, "COMMIT", "write it", diag);
  if (status != QN_OK) qn_db_rollback(db);
  return status;
}
void qn_db_rollback(qn_db *db) {
  if (!sqlite3_get_autocommit(db->sqlite)) sqlite3_exec(db->sqlite, "ROLLBACK", NULL, NULL, NULL);
}

static qn_status prepare_add(qn_db *db, qn_db_kind_id id, qn_diag *diag) {
  if (db->add[id]) return QN_OK;
  const qn_db_kind *kind = &qn_db_kinds[id];
  qn_buf sql;
  qn_buf_init(&sql, db->allocator);
  qn_buf_printf(&sql, "INSERT OR IGNORE INTO %s (id%s", kind->name, has_family(id) ? ", family" : "");
  for (int i = 0; i < kind->field_count; i++) qn_buf_printf(&sql, ", %s", kind->fields[i].name);
  qn_buf_printf(&sql, ") VALUES (?%s", has_family(id) ? ", ?" : "");
  for (int i = 0; i < kind->field_count; i++) qn_buf_puts(&sql, ", ?");
  qn_buf_puts(&sql, ")");
  int code = sql.failed ? SQLITE_NOMEM
                        : sqlite3_prepare_v3(db->sqlite, sql.data, -1, SQLITE_PREPARE_PERSISTENT, &db->add[id], NULL);
  qn_buf_deinit(&sql);
  return code == SQLITE_OK ? QN_OK : fail(db, code, "write it", diag);
}

static int bind_text(sqlite3_stmt *statement, int index, const char *text) {
  return sqlite3_bind_text(statement, index, text, -1, SQLITE_TRANSIENT);
}

static int bind_field(sqlite3_stmt *statement, int index, const void *entry, const qn_db_field *field,
                      const qn_allocator *allocator) {
  switch (field->type) {
    case DB_TEXT: return bind_text(statement, index, qn_db_get_text(entry, field));
    case DB_INT:
    case DB_INT64: return sqlite3_bind_int64(statement, index, qn_db_get_int(entry, field));
    case DB_REAL: return sqlite3_bind_double(statement, index, qn_db_get_real(entry, field));
    case DB_VERDICT: return bind_text(statement, index, qn_verdict_name((qn_verdict)qn_db_get_int(entry, field)));
    case DB_TIMES: break;
  }
  qn_buf times;
  qn_buf_init(&times, allocator);
  qn_db_put_times(entry, &times);
  int code = times.failed ? SQLITE_NOMEM : bind_text(statement, index, qn_buf_text(&times));
  qn_buf_deinit(&times);
  return code;
}

static int bind_entry(qn_db *db, qn_db_kind_id id, const void *entry) {
  const qn_db_kind *kind = &qn_db_kinds[id];
  sqlite3_stmt *statement = db->add[id];
  qn_buf text;
  int index = 1;
  qn_buf_init(&text, db->allocator);
  qn_db_entry_print(id, entry, &text);
  qn_db_id key = qn_db_entry_id(id, (qn_str){qn_buf_text(&text), text.length});
  int code = text.failed ? SQLITE_NOMEM : bind_text(statement, index++, key.text);
  qn_buf_deinit(&text);
  if (code == SQLITE_OK && has_family(id)) {
    qn_db_family(qn_db_get_text(entry, &kind->fields[0]), &text);
    code = text.failed ? SQLITE_NOMEM : bind_text(statement, index++, qn_buf_text(&text));
    qn_buf_deinit(&text);
  }
  for (int i = 0; code == SQLITE_OK && i < kind->field_count; i++)
    code = bind_field(statement, index++, entry, &kind->fields[i], db->allocator);
  return code;
}

qn_status qn_db_add(qn_db *db, qn_db_kind_id id, const void *entry, bool *out_new, qn_diag *diag) {
  const char *wrong = qn_db_entry_wrong(id, entry);
  if (wrong) return qn_fail(diag, QN_ERR_ARGUMENT, qn_db_path(db), "a %s has %s", qn_db_kinds[id].name, wrong);
  if (db->read_only) return fail(db, SQLITE_READONLY, "add to it", diag);
  QN_TRY(prepare_add(db, id, diag));
  int code = bind_entry(db, id, entry);
  if (code == SQLITE_OK) code = sqlite3_step(db->add[id]);
  qn_status status = code == SQLITE_DONE ? QN_OK : fail(db, code, "add to it", diag);
  if (out_new) *out_new = status == QN_OK && sqlite3_changes(db->sqlite) > 0;
  sqlite3_reset(db->add[id]);  // gives the same error again
  sqlite3_clear_bindings(db->add[id]);
  return status;
}

static int64_t now_if_0(int64_t when) { return when ? when : (int64_t)time(NULL); }

qn_status qn_db_put(qn_db *db, const qn_record *record, qn_diag *diag) {
  qn_record copy = *record;
  copy.when = now_if_0(record->when);
  return qn_db_add(db, DB_RECORD, &copy, NULL, diag);
}

qn_status qn_db_set_finished(qn_db *db, const qn_finished *mark, qn_diag *diag) {
  qn_finished copy = *mark;
  copy.when = now_if_0(mark->when);
  return qn_db_add(db, DB_FINISHED, &copy, NULL, diag);
}

qn_status qn_db_put_machine(qn_db *db, const qn_machine_record *machine, qn_diag *diag) {
  qn_machine_record copy = *machine;
  copy.when = now_if_0(machine->when);
  return qn_db_add(db, DB_MACHINE, &copy, NULL, diag);
}

// --- reading

static const char no_memory[] = "out of memory";
static const char edited[] = "its checksum does not hold: the entry was edited or is damaged";

// A row's fields; texts are SQLite's until the next step, times the caller's. Returns why it is to be rejected, or
// NULL.
static const char *read_entry(qn_db *db, sqlite3_stmt *row, qn_db_kind_id id, qn_db_entry *out,
                              double times[QN_RECORD_TIMES]) {
  const qn_db_kind *kind = &qn_db_kinds[id];
  const char *wrong = NULL;
  memset(out, 0, sizeof *out);
  for (int i = 0; i < kind->field_count; i++) {
    const qn_db_field *field = &kind->fields[i];
    const char *text = (const char *)sqlite3_column_text(row, i + 1);
    qn_verdict verdict;
    int count;
    switch (field->type) {
      case DB_TEXT: qn_db_set_text(out, field, text ? text : ""); break;
      case DB_REAL: qn_db_set_real(out, field, sqlite3_column_double(row, i + 1)); break;
      case DB_TIMES:
        if (!qn_db_times_parse(qn_str_from(text), times, &count)) wrong = edited;
        qn_db_set_times(out, times, count);
        break;
      case DB_VERDICT:
        if (!qn_verdict_parse(qn_str_from(text), &verdict) || !qn_db_set_int(out, field, (int64_t)verdict))
          wrong = edited;
        break;
      default:
        if (!qn_db_set_int(out, field, sqlite3_column_int64(row, i + 1))) wrong = edited;
    }
  }
  if (wrong) return wrong;
  qn_buf printed;
  qn_buf_init(&printed, db->allocator);
  qn_db_entry_print(id, out, &printed);
  qn_db_id want = qn_db_entry_id(id, (qn_str){qn_buf_text(&printed), printed.length});
  bool failed = printed.failed,
       same = !failed && qn_str_is(qn_str_from((const char *)sqlite3_column_text(row, 0)), want.text);
  qn_buf_deinit(&printed);
  return failed ? no_memory : same ? NULL : edited;
}

static void put_select(qn_db_kind_id id, qn_buf *sql) {
  const qn_db_kind *kind = &qn_db_kinds[id];
  qn_buf_puts(sql, "SELECT id");
  for (int i = 0; i < kind->field_count; i++) qn_buf_printf(sql, ", %s", kind->fields[i].name);
  qn_buf_printf(sql, " FROM %s", kind->name);
}

// The values of a query's question marks, in order.
typedef struct conditions {
  const char *texts[MAX_CONDITIONS];  // NULL = a number
  int64_t numbers[MAX_CONDITIONS];
  int count;
} conditions;

static void add_text(conditions *c, qn_buf *sql, const char *test, const char *text) {
  if (!text) return;
  qn_buf_printf(sql, "%s %s", c->count ? " AND" : " WHERE", test);
  c->texts[c->count++] = text;
}

static void add_number(conditions *c, qn_buf *sql, const char *test, int64_t number, bool always) {
  if (number == 0 && !always) return;
  qn_buf_printf(sql, "%s %s", c->count ? " AND" : " WHERE", test);
  c->numbers[c->count++] = number;
}

// Runs a query whose columns are put_select's; takes `sql`.
static qn_status walk(qn_db *db, qn_db_kind_id id, qn_buf *sql, const conditions *c, qn_db_entry_fn each, void *context,
                      qn_diag *diag) {
  sqlite3_stmt *row = NULL;
  int code = sql->failed ? SQLITE_NOMEM : sqlite3_prepare_v2(db->sqlite, qn_buf_text(sql), -1, &row, NULL);
  for (int i = 0; c && code == SQLITE_OK && i < c->count; i++) {
    code = c->texts[i] ? sqlite3_bind_text(row, i + 1, c->texts[i], -1, SQLITE_STATIC)
                       : sqlite3_bind_int64(row, i + 1, c->numbers[i]);
  }
  bool more = true;
  while (more && (code == SQLITE_OK || code == SQLITE_ROW)) {
    code = sqlite3_step(row);
    if (code != SQLITE_ROW) break;
    qn_db_entry entry;
    double times[QN_RECORD_TIMES];
    const char *rejected = read_entry(db, row, id, &entry, times);
    if (rejected == no_memory) {
      code = SQLITE_NOMEM;
      break;
    }
    more = each(context, &entry, rejected);
  }
  qn_status status = code == SQLITE_DONE || code == SQLITE_ROW ? QN_OK : fail(db, code, "read it", diag);
  sqlite3_finalize(row);
  qn_buf_deinit(sql);
  return status;
}

qn_status qn_db_walk(qn_db *db, qn_db_kind_id id, qn_db_entry_fn each, void *context, qn_diag *diag) {
  const qn_db_kind *kind = &qn_db_kinds[id];
  qn_buf sql;
  qn_buf_init(&sql, db->allocator);
  put_select(id, &sql);
  for (int i = 0; i < kind->field_count; i++) qn_buf_printf(&sql, "%s %s", i ? "," : " ORDER BY", kind->fields[i].name);
  return walk(db, id, &sql, NULL, each, context, diag);
}

// Takes `family`, whose text the conditions keep.
static void put_filter(const qn_db_filter *f, qn_buf *family, conditions *c, qn_buf *sql) {
  if (f->family) qn_db_family(f->family, family);
  add_text(c, sql, "signature = ?", f->signature);
  add_text(c, sql, "family = ?", f->family ? qn_buf_text(family) : NULL);
  add_text(c, sql, "target = ?", f->target);
  add_text(c, sql, "machine = ?", f->fingerprint);
  add_text(c, sql, "machine <> ?", f->other_fingerprint);
  add_text(c, sql, "generator = ?", f->generator);
  add_number(c, sql, "threads = ?", f->threads, false);
  add_number(c, sql, "rows_min = ?", f->rows_min, f->exact_rows);
  add_number(c, sql, "rows_max = ?", f->rows_max, f->exact_rows);
}

typedef struct record_walk {
  qn_record_fn each;
  void *context;
} record_walk;

static bool each_record(void *context, const void *entry, const char *rejected) {
  record_walk *w = context;
  return w->each(w->context, entry, rejected);
}

static void put_verdicts(const qn_db_filter *filter, bool more, qn_buf *sql) {
  qn_buf_printf(sql, "%s verdict IN (''", more ? " AND" : " WHERE");
  for (int v = 0; v < QN_VERDICT_COUNT; v++) {
    bool wanted = filter->only_ok ? v == QN_VERDICT_OK : qn_verdict_blames((qn_verdict)v);
    if (wanted) qn_buf_printf(sql, ", '%s'", qn_verdict_name((qn_verdict)v));
  }
  qn_buf_puts(sql, ")");
}

qn_status qn_db_each(qn_db *db, const qn_db_filter *filter, qn_record_fn each, void *context, qn_diag *diag) {
  conditions c = {0};
  record_walk w = {each, context};
  qn_buf sql, family;
  qn_buf_init(&sql, db->allocator);
  qn_buf_init(&family, db->allocator);
  put_select(DB_RECORD, &sql);
  put_filter(filter, &family, &c, &sql);
  if (filter->only_ok || filter->only_bad) put_verdicts(filter, c.count > 0, &sql);
  qn_buf_puts(&sql, " ORDER BY verdict <> 'ok', median_s, made, id");
  sql.failed |= family.failed;
  qn_status status = walk(db, DB_RECORD, &sql, &c, each_record, &w, diag);
  qn_buf_deinit(&family);
  return status;
}

// The first entry of a walk that is not rejected, and how many before it are.
typedef struct first_entry {
  qn_db_kind_id kind;
  qn_arena *arena;
  void *out;
  bool found, failed;
  int rejected;
} first_entry;

static bool take_first(void *context, const void *entry, const char *rejected) {
  first_entry *f = context;
  if (rejected) {
    f->rejected++;
    return true;
  }
  f->found = true;
  f->failed = !qn_db_entry_copy(f->kind, entry, f->arena, f->out);
  return false;
}

static bool take_first_record(void *context, const qn_record *record, const char *rejected) {
  return take_first(context, record, rejected);
}

static qn_status end_first(qn_db *db, const first_entry *f, qn_status status, bool *out_found, int *out_rejected,
                           qn_diag *diag) {
  if (status == QN_OK && f->failed) status = qn_fail_nomem(diag, qn_db_path(db), "a copy of an entry");
  *out_found = status == QN_OK && f->found;
  if (out_rejected) *out_rejected = f->rejected;
  return status;
}

qn_status qn_db_best(qn_db *db, const qn_db_filter *filter, qn_arena *arena, qn_record *out, bool *out_found,
                     int *out_rejected, qn_diag *diag) {
  first_entry f = {DB_RECORD, arena, out, false, false, 0};
  qn_db_filter ok = *filter;
  ok.only_ok = true;
  qn_status status = qn_db_each(db, &ok, take_first_record, &f, diag);
  return end_first(db, &f, status, out_found, out_rejected, diag);
}

static qn_status walk_finished(qn_db *db, const qn_db_filter *filter, qn_db_entry_fn each, void *context,
                               qn_diag *diag) {
  conditions c = {0};
  qn_buf sql, family;
  qn_buf_init(&sql, db->allocator);
  qn_buf_init(&family, db->allocator);
  put_select(DB_FINISHED, &sql);
  put_filter(filter, &family, &c, &sql);
  qn_buf_puts(&sql, " ORDER BY made DESC, id");
  sql.failed |= family.failed;
  qn_status status = walk(db, DB_FINISHED, &sql, &c, each, context, diag);
  qn_buf_deinit(&family);
  return status;
}

qn_status qn_db_finished(qn_db *db, const qn_finished *key, qn_arena *arena, qn_finished *out, bool *out_found,
                         int *out_rejected, qn_diag *diag) {
  first_entry f = {DB_FINISHED, arena, out, false, false, 0};
  qn_db_filter filter = {.signature = key->signature,
                         .target = key->target,
                         .fingerprint = key->fingerprint,
                         .generator = key->generator,
                         .threads = key->threads,
                         .rows_min = key->rows_min,
                         .rows_max = key->rows_max,
                         .exact_rows = true};
  qn_status status = walk_finished(db, &filter, take_first, &f, diag);
  return end_first(db, &f, status, out_found, out_rejected, diag);
}

typedef struct finished_walk {
  qn_finished_fn each;
  void *context;
} finished_walk;

static bool each_finished(void *context, const void *entry, const char *rejected) {
  finished_walk *w = context;
  return w->each(w->context, entry, rejected);
}

qn_status qn_db_each_finished(qn_db *db, const qn_db_filter *filter, qn_finished_fn each, void *context,
                              qn_diag *diag) {
  finished_walk w = {each, context};
  return walk_finished(db, filter, each_finished, &w, diag);
}

qn_status qn_db_machine(qn_db *db, const char *fingerprint, qn_arena *arena, qn_machine_record *out, bool *out_found,
                        int *out_rejected, qn_diag *diag) {
  first_entry f = {DB_MACHINE, arena, out, false, false, 0};
  conditions c = {0};
  qn_buf sql;
  qn_buf_init(&sql, db->allocator);
  put_select(DB_MACHINE, &sql);
  add_text(&c, &sql, "machine = ?", fingerprint);
  qn_buf_puts(&sql, " ORDER BY made DESC, id");
  return end_first(db, &f, walk(db, DB_MACHINE, &sql, &c, take_first, &f, diag), out_found, out_rejected, diag);
}
