// The machine's stored profile, for the files of frontend/.
#ifndef QUERN_FRONTEND_MACHINE_H
#define QUERN_FRONTEND_MACHINE_H

#include "autotune/db.h"
#include "autotune/profile.h"

// The latest profile of this machine in the database; *out_found is false when there is none that can be taken, and
// then `note` (size bytes; may be NULL) tells why, if there is something to tell.
QN_CHECKED qn_status quern_machine_stored(qn_db *db, qn_machine_profile *out, int64_t *out_when, bool *out_found,
                                          char *note, size_t note_size, qn_diag *diag);

// Fills in what is known of this machine for code of a target that runs on it: its topology, and what `db` (NULL =
// none) has measured. A target that does not run here, and a profile that cannot be read, leave `model` as it is.
void quern_machine_fill_model(qn_db *db, const qn_target *target, int threads, qn_machine_model *model);

// "none": nothing is to be kept.
bool quern_keeps_nothing(const char *tuning_db);

#endif
