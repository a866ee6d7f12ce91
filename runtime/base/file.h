// Files: read-only mappings, whole reads, and writes that appear whole or not at all.
#ifndef QN_BASE_FILE_H
#define QN_BASE_FILE_H

#include <stdint.h>
#include <stdio.h>

#include "runtime/base/alloc.h"
#include "runtime/base/diag.h"
#include "runtime/base/guard.h"

// A read-only private mapping of a whole file.
typedef struct qn_mapping {
  const uint8_t *data;  // owned by the mapping
  size_t size;          // bytes
  qn_guard *guard;      // owned by the mapping; NULL = memory that no file is behind
} qn_mapping;

// Maps `path`. An empty file, a directory and whatever cannot be mapped are errors. Bytes that the file loses later read
// as zeros, in every thread (guard.h says how): who has read them asks qn_mapping_check.
QN_CHECKED qn_status qn_mapping_open(qn_mapping *mapping, const char *path, qn_diag *diag);
// Maps an open descriptor (a memfd, say); `name` is for messages. The descriptor stays the caller's.
QN_CHECKED qn_status qn_mapping_open_fd(qn_mapping *mapping, int fd, const char *name, qn_diag *diag);
// Takes all bytes but [begin, end) into memory, where the file's fate does not reach them; these stay the file's, as far as
// they are whole pages. The addresses stay. Errors: NOMEM; IO when the file has lost bytes by then.
QN_CHECKED qn_status qn_mapping_keep_but(qn_mapping *mapping, size_t begin, size_t end, const char *name, qn_diag *diag);
// IO when bytes were lost while the mapping was open: the file shrank or its disk failed.
QN_CHECKED qn_status qn_mapping_check(const qn_mapping *mapping, const char *name, qn_diag *diag);
void qn_mapping_close(qn_mapping *mapping);

// Is there anything of this name? A link to nothing counts, and so does what cannot be looked at: opening it tells what is wrong,
// where a file that may be absent would be taken for absent.
bool qn_file_is_there(const char *path);

// Reads all of a file into memory from `allocator`, with a NUL after it (free *out_size + 1 bytes). path "-" is
// standard input, which alone may be a pipe. LIMIT when there are more than `most` bytes.
QN_CHECKED qn_status qn_file_read(const char *path, size_t most, const qn_allocator *allocator, char **out_data,
                                  size_t *out_size, qn_diag *diag);
#define QN_TEXT_MAX     ((size_t)1 << 30)  // `most` for prompts and JSON
#define QN_SCHEDULE_MAX ((size_t)1 << 20)  // `most` for schedules, which people write

// A file written beside its final place and renamed into it by commit; abandoned (and removed) by any other end. What a
// killed process left is removed by the next writer of the same path. Bytes are collected and handed to the system in
// pieces as large as huge pages, each at a multiple of that size: file systems that have large pages for files keep each in
// one then, and who maps the file reads it faster. So an error of the disk may be told by a later call, or by commit.
#define QN_FILE_PIECE ((size_t)2 << 20)
typedef struct qn_file_writer {
  int fd;
  char *path;            // owned: the final path
  char *temporary_path;  // owned: NULL when writing into memory
  uint64_t offset;       // bytes written so far
  char *pending;         // owned: room for a piece, with the last bytes before `offset`; NULL = no room needed so far
  size_t pending_size;   // of them, not handed to the system yet
  qn_diag *diag;         // borrowed
} qn_file_writer;

QN_CHECKED qn_status qn_file_writer_open(qn_file_writer *writer, const char *path, qn_diag *diag);
// Writes into an anonymous memory file instead (commit keeps fd open for qn_mapping_open_fd; the caller closes it).
QN_CHECKED qn_status qn_file_writer_open_memory(qn_file_writer *writer, const char *name, qn_diag *diag);
QN_CHECKED qn_status qn_file_writer_write(qn_file_writer *writer, const void *data, size_t size);
// Pads with zeros to a multiple of `alignment`.
QN_CHECKED qn_status qn_file_writer_align(qn_file_writer *writer, size_t alignment);
// Overwrites earlier bytes (a header whose offsets are known only at the end).
QN_CHECKED qn_status qn_file_writer_write_at(qn_file_writer *writer, uint64_t offset, const void *data, size_t size);
// Hands all bytes to the system: for who reads fd before commit, which does so itself.
QN_CHECKED qn_status qn_file_writer_flush(qn_file_writer *writer);
// The bytes are on the disk before the name is there.
QN_CHECKED qn_status qn_file_writer_commit(qn_file_writer *writer);
void qn_file_writer_abandon(qn_file_writer *writer);  // harmless after commit

// Creates a folder and its parents.
QN_CHECKED qn_status qn_make_directories(const char *path, qn_diag *diag);

#endif
