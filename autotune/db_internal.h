// What db.c, which alone knows SQLite, gives to the files beside it.
#ifndef QN_AUTOTUNE_DB_INTERNAL_H
#define QN_AUTOTUNE_DB_INTERNAL_H

#include "autotune/db_record.h"

// Walks all entries of a kind in the order of their fields; see qn_record_fn.
typedef bool (*qn_db_entry_fn)(void *context, const void *entry, const char *rejected);
QN_CHECKED qn_status qn_db_walk(qn_db *db, qn_db_kind_id kind, qn_db_entry_fn each, void *context, qn_diag *diag);
// Adds an entry; *out_new (may be NULL) is false when it was there.
QN_CHECKED qn_status qn_db_add(qn_db *db, qn_db_kind_id kind, const void *entry, bool *out_new, qn_diag *diag);
// Several additions that are all there or not at all.
QN_CHECKED qn_status qn_db_begin(qn_db *db, qn_diag *diag);
QN_CHECKED qn_status qn_db_commit(qn_db *db, qn_diag *diag);
void qn_db_rollback(qn_db *db);
const qn_allocator *qn_db_allocator(const qn_db *db);

// The user's own database ($XDG_DATA_HOME/quern/tuning.db ...), appended to `out`.
QN_CHECKED qn_status qn_db_default_path(qn_buf *out, qn_diag *diag);
// Who holds locks on the database's files, as the system tells: " by process 12 (quern)"; nothing where it does not.
void qn_db_lock_owners(const char *path, qn_buf *out);

#endif
