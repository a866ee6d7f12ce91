// A model split into several GGUF files: "NAME-00001-of-00003.gguf" has the keys, and every file some of the tensors.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "frontend/import/gguf_internal.h"

// "-00001-of-00003.gguf" behind the name that the parts share.
enum { TAIL_BYTES = 20 };

static qn_status fail_name(const qn_gguf_file *first, qn_diag *diag) {
  return qn_fail(diag, QN_ERR_FORMAT, first->base.name,
                 "is the first of %zu parts of a model, whose names end in -00001-of-%05zu.gguf; want them named so",
                 first->base.part_count, first->base.part_count);
}

// The path of part `number`, from 0, in the arena.
static qn_status part_path(qn_gguf_file *first, size_t number, const char **out, qn_diag *diag) {
  const char *path = first->base.name;
  size_t length = strlen(path), count = first->base.part_count;
  char tail[48];
  snprintf(tail, sizeof tail, "-00001-of-%05zu.gguf", count);
  if (length <= TAIL_BYTES || strcmp(path + length - TAIL_BYTES, tail) != 0) return fail_name(first, diag);
  *out = qn_arena_printf(&first->arena, "%.*s-%05zu-of-%05zu.gguf", (int)(length - TAIL_BYTES), path, number + 1, count);
  return *out ? QN_OK : qn_fail_nomem(diag, path, "the path of a part");
}

static qn_status open_other(qn_gguf_file *first, size_t number, qn_diag *diag) {
  const char *path;
  size_t count = first->base.part_count;
  QN_TRY(part_path(first, number, &path, diag));
  if (access(path, F_OK) != 0) {
    return qn_fail(diag, QN_ERR_FORMAT, first->base.name, "part %zu of %zu is missing beside it ('%.200s'); get all parts",
                   number + 1, count, path);
  }
  qn_gguf **other = &first->others[number - 1];
  QN_TRY(qn_gguf_open_part(other, path, first->allocator, diag));
  if ((*other)->part_count == count && qn_gguf_file_of(*other)->part == (int64_t)number) return QN_OK;
  return qn_fail(diag, QN_ERR_FORMAT, path, "says that it is part %" PRId64 " of %zu, want part %zu of %zu",
                 qn_gguf_file_of(*other)->part + 1, (*other)->part_count, number + 1, count);
}

// The tensors of all parts as one list.
static qn_status join_tensors(qn_gguf_file *first, size_t total, qn_diag *diag) {
  qn_gguf *base = &first->base;
  qn_gguf_tensor *all = QN_ARENA_ARRAY(&first->arena, total, qn_gguf_tensor);
  if (!all) return qn_fail_nomem(diag, base->name, "the tensor list");
  size_t count = base->tensor_count;
  if (count) memcpy(all, base->tensors, count * sizeof *all);
  for (size_t i = 0; i + 1 < base->part_count; i++) {
    const qn_gguf *other = first->others[i];
    for (size_t t = 0; t < other->tensor_count; t++) {
      char where[QN_GGUF_PLACE_BYTES];
      if (qn_map_get(&first->tensor_index, other->tensors[t].name, NULL)) {
        qn_gguf_place(other->name, "tensor", other->tensors[t].name, false, 0, where);
        return qn_fail(diag, QN_ERR_FORMAT, where, "the tensor is in another part, too; want it in one");
      }
      if (!qn_map_put(&first->tensor_index, other->tensors[t].name, count)) {
        return qn_fail_nomem(diag, base->name, "the index of tensors");
      }
      all[count++] = other->tensors[t];
    }
  }
  base->tensors = all;
  base->tensor_count = total;
  return QN_OK;
}

qn_status qn_gguf_join_parts(qn_gguf_file *first, qn_diag *diag) {
  qn_gguf *base = &first->base;
  int64_t stated;
  if (first->part != 0) {
    return qn_fail(diag, QN_ERR_ARGUMENT, base->name, "is part %" PRId64 " of %zu of a model, want the first part's path",
                   first->part + 1, base->part_count);
  }
  first->others = QN_ARENA_ARRAY(&first->arena, base->part_count - 1, qn_gguf *);
  if (!first->others) return qn_fail_nomem(diag, base->name, "its parts");
  size_t total = base->tensor_count;
  for (size_t i = 1; i < base->part_count; i++) {
    QN_TRY(open_other(first, i, diag));
    total += first->others[i - 1]->tensor_count;
    base->file_bytes += first->others[i - 1]->file_bytes;
  }
  if (qn_gguf_find(base, "split.tensors.count")) {
    QN_TRY(qn_gguf_get_int(base, "split.tensors.count", 0, INT64_MAX, &stated, diag));
    if ((uint64_t)stated != total) {
      return qn_fail(diag, QN_ERR_FORMAT, base->name,
                     "key 'split.tensors.count' says %" PRId64 " tensors, got %zu in all parts", stated, total);
    }
  }
  return join_tensors(first, total, diag);
}
