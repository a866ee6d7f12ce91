// The entries of the database as tables of fields, their text form and their checksums: what is the same in SQLite and
// in exported files.
#ifndef QN_AUTOTUNE_DB_RECORD_H
#define QN_AUTOTUNE_DB_RECORD_H

#include <stddef.h>

#include "autotune/db.h"

typedef enum qn_db_type { DB_TEXT, DB_INT, DB_INT64, DB_REAL, DB_VERDICT, DB_TIMES } qn_db_type;

typedef struct qn_db_field {
  const char *name;
  qn_db_type type;
  size_t offset;  // in the entry's struct
} qn_db_field;

typedef enum qn_db_kind_id { DB_RECORD, DB_FINISHED, DB_MACHINE, DB_KIND_COUNT } qn_db_kind_id;

typedef struct qn_db_kind {
  const char *name;  // the table's, and the first word of a line
  size_t size;       // of the struct
  const qn_db_field *fields;
  int field_count;
} qn_db_kind;

extern const qn_db_kind qn_db_kinds[DB_KIND_COUNT];

// Any of the entries' structs.
typedef union qn_db_entry {
  qn_record record;
  qn_finished finished;
  qn_machine_record machine;
} qn_db_entry;

// 128 bits in hexadecimal over every field: an entry's name, and the checksum that shows an edit.
typedef struct qn_db_id {
  char text[33];
} qn_db_id;

// Why the entry cannot be kept (a text of several lines, a number that is not finite, too many times), or NULL.
const char *qn_db_entry_wrong(qn_db_kind_id kind, const void *entry);
// `field=value` of every field, in order, spaces between: texts in double quotes.
void qn_db_entry_print(qn_db_kind_id kind, const void *entry, qn_buf *out);
// The id of what qn_db_entry_print wrote.
qn_db_id qn_db_entry_id(qn_db_kind_id kind, qn_str printed);
// Reads "KIND id=... field=value ...", texts into the arena. NULL, or what is wrong with the line (static or in the
// arena). Fields that are not named are 0, which the checksum knows of.
const char *qn_db_line_parse(qn_str line, qn_arena *arena, qn_db_kind_id *out_kind, qn_db_entry *out);
// "KIND id=... " before what qn_db_entry_print wrote.
void qn_db_line_print(qn_db_kind_id kind, const void *entry, qn_buf *out);
// Numbers with spaces between; false when the text is not such, or has more than QN_RECORD_TIMES.
bool qn_db_times_parse(qn_str text, double *out, int *out_count);
// A copy of the entry whose texts and times are in the arena; false when it is full.
bool qn_db_entry_copy(qn_db_kind_id kind, const void *entry, qn_arena *arena, void *out);

// Reading and writing a field of an entry: texts are never NULL when read.
const char *qn_db_get_text(const void *entry, const qn_db_field *field);
int64_t qn_db_get_int(const void *entry, const qn_db_field *field);  // INT, INT64, VERDICT
double qn_db_get_real(const void *entry, const qn_db_field *field);
void qn_db_put_times(const void *entry, qn_buf *out);  // of a qn_record
// False when the field cannot hold it.
bool qn_db_set_int(void *entry, const qn_db_field *field, int64_t value);
void qn_db_set_text(void *entry, const qn_db_field *field, const char *text);  // borrowed
void qn_db_set_real(void *entry, const qn_db_field *field, double value);
void qn_db_set_times(void *entry, const double *times, int count);  // borrowed

#endif
