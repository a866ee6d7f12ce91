// What tuning found, kept for the next time: candidates with their times and verdicts, how far kernels were tuned, and
// what machines were measured to do. One SQLite file for all processes of a user (write-ahead log, so that they may
// write at once, and that a process that is killed loses the entry that it was writing and no other).
#ifndef QN_AUTOTUNE_DB_H
#define QN_AUTOTUNE_DB_H

#include <stdbool.h>
#include <stdint.h>

#include "autotune/verdict.h"
#include "runtime/base/arena.h"
#include "runtime/base/diag.h"
#include "runtime/base/str.h"

typedef struct qn_db qn_db;

// Opens the database at `path`, or the user's own (NULL): $XDG_DATA_HOME/quern/tuning.db or
// ~/.local/share/quern/tuning.db. It is created with its folders when it is not there; with read_only a file that is
// not there reads as one without entries, and nothing is ever written. One connection a process: a child must not touch
// its parent's. `allocator` must outlive it. Errors: IO (no HOME, not to be opened or written, locked for too long, no
// space left), FORMAT (damaged, or not a database), UNSUPPORTED (another format version, another program's database),
// NOMEM.
QN_CHECKED qn_status qn_db_open(const char *path, bool read_only, const qn_allocator *allocator, qn_db **out,
                                qn_diag *diag);
void qn_db_close(qn_db *db);              // NULL is harmless
const char *qn_db_path(const qn_db *db);  // the file; borrowed
// How long to wait for another process that holds the database before it is an error; 5000 ms at first.
void qn_db_set_patience(qn_db *db, int milliseconds);

// ---- candidates

// A candidate that was tried. Texts are one line each, borrowed; NULL is the same as "". What one kernel does is its
// signature; target, fingerprint and generator say for which code, on what make of machine, by which build. Knobs that
// `schedule` does not name have their plain value, so a record outlives the making of new knobs.
#define QN_RECORD_TIMES 32
typedef struct qn_record {
  const char *signature;    // qn_pkernel.signature: what the kernel computes
  const char *target;       // the canonical name of the target
  const char *fingerprint;  // qn_machine_fingerprint
  const char *generator;    // qn_generator_id
  int threads;
  int64_t rows_min, rows_max;  // the class of row counts that it was tried for
  int64_t rows, keys;          // that it was timed at
  const char *schedule;        // ir/schedule.h, "; " between knobs
  qn_verdict verdict;
  double median_s, spread_s;  // of one call: median and interquartile range; 0 when it was not timed
  double bound_s;             // the roofline's; 0 = not known
  int samples;                // that median and spread are of
  const double *times;        // some of them, seconds: at most QN_RECORD_TIMES
  int time_count;
  const char *evidence;  // what was checked, or what was wrong
  int64_t when;          // seconds since 1970; 0 = now, when it is put
} qn_record;

// Adds a record, at once and for good (on return it survives the process). One that is there already, field for field,
// is not added twice. Errors: those of writing (see qn_db_open), ARGUMENT (a text of several lines, a NaN).
QN_CHECKED qn_status qn_db_put(qn_db *db, const qn_record *record, qn_diag *diag);

// Which records: every field that is not NULL or 0 must be equal.
typedef struct qn_db_filter {
  const char *signature;
  const char *family;  // a signature: records of its family (qn_db_family) whatever their sizes
  const char *target, *fingerprint, *generator;
  const char *other_fingerprint;  // records of machines other than this one
  int threads;
  int64_t rows_min, rows_max;
  bool exact_rows;  // rows_min and rows_max must be equal also where they are 0
  bool only_ok, only_bad;  // verdict OK; any other that tells something of the code
} qn_db_filter;

// A record, or one that must not be used: then `rejected` says why (edited: its checksum does not hold), and the
// record's fields are as they were found. All is borrowed for the call. Returning false ends the walk.
typedef bool (*qn_record_fn)(void *context, const qn_record *record, const char *rejected);
// Calls `each` for the records of the filter: those that are OK first, the fastest first of them.
QN_CHECKED qn_status qn_db_each(qn_db *db, const qn_db_filter *filter, qn_record_fn each, void *context, qn_diag *diag);
// The fastest record of the filter that is OK and not to be rejected, with its texts in the arena. *out_found says
// whether there is one, *out_rejected (may be NULL) how many faster ones were rejected. Median times of different
// sessions are held against each other here: a session's own comparison, in pairs, is in its finished mark.
QN_CHECKED qn_status qn_db_best(qn_db *db, const qn_db_filter *filter, qn_arena *arena, qn_record *out, bool *out_found,
                                int *out_rejected, qn_diag *diag);

// The family of a signature: its text with # for every number that stands for itself ("matmul q4_0[#,#]", where q4_0 is
// a word). Kernels of one family differ in sizes only.
void qn_db_family(const char *signature, qn_buf *out);
// How far apart the sizes of two signatures of one family are: the sum of |log2| of the ratios of their numbers.
// INFINITY when they are of different families.
double qn_db_distance(const char *a, const char *b);

// ---- how far kernels were tuned

// A session's end for a kernel: `plan` is the winner in words of the session's own (schedules by class of row counts).
// The latest one of a key counts: signature, target, fingerprint, generator, threads, rows_min and rows_max.
typedef struct qn_finished {
  const char *signature, *target, *fingerprint, *generator;
  int threads;
  int64_t rows_min, rows_max;
  const char *plan;
  const char *reason;  // why it ended: "within 3 % of the roofline"
  double within;       // how far from the bound it may be: 0.05
  double gain;         // the default's time over the winner's, measured in so many pairs; pairs 0 = not known
  int pairs;
  int64_t when;        // seconds since 1970; 0 = now, when it is put
} qn_finished;

QN_CHECKED qn_status qn_db_set_finished(qn_db *db, const qn_finished *mark, qn_diag *diag);
// The latest mark with the key's fields, into the arena; generator NULL = of any build. *out_rejected (may be NULL)
// counts later ones that were edited.
QN_CHECKED qn_status qn_db_finished(qn_db *db, const qn_finished *key, qn_arena *arena, qn_finished *out,
                                    bool *out_found, int *out_rejected, qn_diag *diag);
// Called for every mark of the filter (its `family` and `other_fingerprint` hold here too), the latest first.
typedef bool (*qn_finished_fn)(void *context, const qn_finished *mark, const char *rejected);
QN_CHECKED qn_status qn_db_each_finished(qn_db *db, const qn_db_filter *filter, qn_finished_fn each, void *context,
                                         qn_diag *diag);

// ---- machines

// A measurement of a machine: `profile` is autotune/profile.h's text.
typedef struct qn_machine_record {
  const char *fingerprint;
  const char *profile;
  int64_t when;
} qn_machine_record;

QN_CHECKED qn_status qn_db_put_machine(qn_db *db, const qn_machine_record *machine, qn_diag *diag);
// The latest measurement under a fingerprint, into the arena.
QN_CHECKED qn_status qn_db_machine(qn_db *db, const char *fingerprint, qn_arena *arena, qn_machine_record *out,
                                   bool *out_found, int *out_rejected, qn_diag *diag);

// ---- exchange

typedef struct qn_db_counts {
  int64_t records, marks, machines;
  int64_t rejected;  // edited ones, which are left out
  int64_t known;     // of an import: entries that were there already
} qn_db_counts;

QN_CHECKED qn_status qn_db_count(qn_db *db, qn_db_counts *out, qn_diag *diag);  // known is 0
// Writes every entry to a text file, one a line, in an order that depends on the entries alone. The file appears whole
// or not at all.
QN_CHECKED qn_status qn_db_export(qn_db *db, const char *path, qn_db_counts *out, qn_diag *diag);
// Asked now and then with how many lines of how many are done; false ends the import with CANCELLED.
typedef bool (*qn_db_import_fn)(void *context, int64_t done, int64_t lines);
// Adds the entries of such a file: what is in both is there once. All or nothing: a line that is not an entry, or was
// edited, is an error (FORMAT) that names the first such line and how many there are, and nothing is added. The database
// is locked while entries are added, not while they are read. `progress` may be NULL.
QN_CHECKED qn_status qn_db_import(qn_db *db, const char *path, qn_db_import_fn progress, void *context,
                                  qn_db_counts *out, qn_diag *diag);

#endif
