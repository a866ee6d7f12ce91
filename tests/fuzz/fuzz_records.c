// Fuzzes what a tuning database is filled with from outside: the lines of an exported file. Any line is refused with a
// reason, or is an entry that prints and reads back the same; its schedule is then read as one.
#include <string.h>

#include "autotune/db_record.h"
#include "ir/schedule.h"
#include "tests/support/fuzz.h"

// A line whose checksum fits, since mutations would hardly find one: `id=` is what an entry's own line would have.
static void with_checksum(qn_str line, qn_buf *out) {
  const char *id = memmem(line.data, line.length, "id=", 3);
  const char *end = id ? memchr(id, ' ', line.length - (size_t)(id - line.data)) : NULL;
  for (int kind = 0; end && kind < DB_KIND_COUNT; kind++) {
    size_t length = strlen(qn_db_kinds[kind].name);
    if (line.length < length || memcmp(line.data, qn_db_kinds[kind].name, length) != 0) continue;
    qn_str rest = {end + 1, line.length - (size_t)(end + 1 - line.data)};
    qn_db_id sum = qn_db_entry_id((qn_db_kind_id)kind, rest);
    qn_buf_printf(out, "%s id=%s ", qn_db_kinds[kind].name, sum.text);
    qn_buf_append(out, rest.data, rest.length);
    return;
  }
  qn_buf_append(out, line.data, line.length);
}

static void read_line(qn_str line, qn_arena *arena) {
  qn_db_kind_id kind, again_kind;
  qn_db_entry entry, again;
  const char *wrong = qn_db_line_parse(line, arena, &kind, &entry);
  if (wrong) {
    fuzz_require(wrong[0] != '\0', "a refusal without words");
    return;
  }
  fuzz_require(qn_db_entry_wrong(kind, &entry) == NULL, "an entry that may not be kept was taken");
  qn_buf first, second;
  qn_buf_init(&first, qn_allocator_default());
  qn_buf_init(&second, qn_allocator_default());
  qn_db_line_print(kind, &entry, &first);
  wrong = qn_db_line_parse((qn_str){qn_buf_text(&first), first.length}, arena, &again_kind, &again);
  fuzz_require(wrong == NULL && again_kind == kind, "a line that was printed is not read");
  qn_db_line_print(kind, &again, &second);
  fuzz_require(strcmp(qn_buf_text(&first), qn_buf_text(&second)) == 0, "a line reads back as another");
  for (int i = 0; i < qn_db_kinds[kind].field_count; i++) {
    const qn_db_field *field = &qn_db_kinds[kind].fields[i];
    qn_schedule schedule;
    qn_diag diag = {0};
    if (field->type != DB_TEXT) continue;
    qn_str text = qn_str_from(qn_db_get_text(&entry, field));
    qn_status status = qn_schedule_parse("fuzz", text, &schedule, &diag);
    fuzz_require(status == diag.status, "a verdict without words");
  }
  qn_buf_deinit(&first);
  qn_buf_deinit(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  qn_arena arena;
  qn_buf fitting;
  qn_str line = {(const char *)data, size};
  qn_arena_init(&arena, qn_allocator_default());
  qn_buf_init(&fitting, qn_allocator_default());
  read_line(line, &arena);
  with_checksum(line, &fitting);
  read_line((qn_str){fitting.length ? fitting.data : "", fitting.length}, &arena);
  qn_buf_deinit(&fitting);
  qn_arena_deinit(&arena);
  return 0;
}

void fuzz_seeds(fuzz_take_fn take, void *context) {
  static const char texts[] = "k \"quoted\" \\ m_tiles = 4; n_tile = 2";
  for (int kind = 0; kind < DB_KIND_COUNT; kind++) {
    qn_db_entry entry;
    qn_buf line;
    memset(&entry, 0, sizeof entry);
    for (int i = 0; i < qn_db_kinds[kind].field_count; i++) {
      const qn_db_field *field = &qn_db_kinds[kind].fields[i];
      char *at = (char *)&entry + field->offset;
      if (field->type == DB_TEXT) *(const char **)(void *)at = texts;
      if (field->type == DB_REAL) *(double *)(void *)at = 1.5e-6 * i;
      if (field->type == DB_INT) *(int *)(void *)at = i;
      if (field->type == DB_INT64) *(int64_t *)(void *)at = INT64_MAX - i;
    }
    qn_buf_init(&line, qn_allocator_default());
    qn_db_line_print((qn_db_kind_id)kind, &entry, &line);
    take(context, line.data, line.length);
    qn_buf_deinit(&line);
  }
}

static const char *const words[] = {"=\"", "\" ", "nan", "1e999", "-1", "99999999999999999999", "\\", "id=", " ", "1 2 3",
                                    NULL};

QN_FUZZ_MAIN(words, 8000)
