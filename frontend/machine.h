// The machine's stored profile, for the files of frontend/.
#ifndef QUERN_FRONTEND_MACHINE_H
#define QUERN_FRONTEND_MACHINE_H

#include "autotune/db.h"
#include "autotune/profile.h"

// The latest profile of this machine in the database; *out_found is false when there is none that can be taken, and
// then `note` (size bytes; may be NULL) tells why, if there is something to tell.
QN_CHECKED qn_status quern_machine_stored(qn_db *db, qn_machine_profile *out, int64_t *out_when, bool *out_found,
                                          char *note, size_t note_size, qn_diag *diag);

// "none": nothing is to be kept.
bool quern_keeps_nothing(const char *tuning_db);

#endif
