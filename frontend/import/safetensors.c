// Parses and checks safetensors files: a length, a JSON header with a type, a shape and a range of bytes for each tensor,
// and the bytes. An index is a JSON file that says which file each tensor is in.
#include "frontend/import/safetensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "frontend/import/json.h"
#include "runtime/base/file.h"
#include "runtime/base/map.h"
#include "runtime/base/vec.h"

enum { LENGTH_BYTES = 8, MAX_FILES = 16384 };
#define MAX_EXACT ((double)(1ull << 53))  // integers up to it are exact in JSON's numbers

// One file that is open.
typedef struct shard {
  const char *path;    // arena
  qn_mapping mapping;  // empty where the bytes are the caller's
} shard;

// What stands behind a qn_safetensors.
typedef struct files {
  qn_safetensors base;
  const qn_allocator *allocator;  // borrowed
  qn_arena arena;
  QN_VEC(shard) shards;                   // arena
  QN_VEC(qn_safetensors_tensor) tensors;  // arena
  qn_map index;                           // name → place in tensors
} files;

// The header that is being read.
typedef struct reader {
  files *f;
  qn_json json;
  const uint8_t *data;  // what follows the header
  uint64_t size, base;  // its bytes, and where it begins in the file
} reader;

// ---- one tensor --------------------------------------------------------------------------------------------------

// A JSON number that is an integer from 0 to 2^53.
static qn_status read_count(const reader *r, const cJSON *item, const char *path, uint64_t *out) {
  double number = 0;
  QN_TRY(qn_json_number(&r->json, item, path, &number));
  if (number < 0 || number > MAX_EXACT || number != (double)(uint64_t)number) {
    return qn_json_fail(&r->json, QN_ERR_FORMAT, path, "got %.17g, want an integer of 0 or more", number);
  }
  *out = (uint64_t)number;
  return QN_OK;
}

static qn_status read_shape(const reader *r, const cJSON *item, const char *path, qn_safetensors_tensor *t) {
  const char *shape_path = qn_json_key_path(&r->json, path, "shape");
  const cJSON *list = qn_json_get(item, "shape"), *child;
  QN_TRY(qn_json_array(&r->json, list, shape_path, 0, INT32_MAX));
  if (cJSON_GetArraySize(list) > QN_SAFETENSORS_MAX_DIMS) {
    return qn_json_fail(&r->json, QN_ERR_UNSUPPORTED, shape_path, "got %d dimensions, want at most %d",
                        cJSON_GetArraySize(list), QN_SAFETENSORS_MAX_DIMS);
  }
  t->count = 1;
  cJSON_ArrayForEach(child, list) {
    const char *dim_path = qn_json_index_path(&r->json, shape_path, (size_t)t->rank);
    uint64_t dim;
    QN_TRY(read_count(r, child, dim_path, &dim));
    if (__builtin_mul_overflow(t->count, dim, &t->count) || t->count > INT64_MAX / 64) {
      return qn_json_fail(&r->json, QN_ERR_FORMAT, dim_path, "the tensor has more elements than memory has addresses");
    }
    t->dims[t->rank++] = (int64_t)dim;
  }
  return QN_OK;
}

static qn_status read_type(const reader *r, const cJSON *item, const char *path, qn_safetensors_tensor *t) {
  const char *name = NULL, *type_path = qn_json_key_path(&r->json, path, "dtype");
  QN_TRY(qn_json_text(&r->json, qn_json_get(item, "dtype"), type_path, &name));
  if (qn_stored_parse(name, &t->dtype)) return QN_OK;
  qn_buf known;
  qn_buf_init(&known, r->f->allocator);
  for (int i = 0; i < QN_STORED_COUNT; i++) qn_buf_printf(&known, "%s%s", i ? ", " : "", qn_stored_name((qn_stored_dtype)i));
  qn_status status = qn_json_fail(&r->json, QN_ERR_UNSUPPORTED, type_path, "got '%.40s', want one of %s", name,
                                  qn_buf_text(&known));
  qn_buf_deinit(&known);
  return status;
}

// The range of bytes, which must be inside the file and as long as type and shape say.
static qn_status read_range(const reader *r, const cJSON *item, const char *path, qn_safetensors_tensor *t) {
  const char *range_path = qn_json_key_path(&r->json, path, "data_offsets");
  const cJSON *range = qn_json_get(item, "data_offsets");
  uint64_t begin, end, bits = t->count * qn_stored_bits(t->dtype);  // read_shape saw to it that this fits
  QN_TRY(qn_json_array(&r->json, range, range_path, 2, 2));
  QN_TRY(read_count(r, cJSON_GetArrayItem(range, 0), qn_json_index_path(&r->json, range_path, 0), &begin));
  QN_TRY(read_count(r, cJSON_GetArrayItem(range, 1), qn_json_index_path(&r->json, range_path, 1), &end));
  if (begin > end || end > r->size) {
    return qn_json_fail(&r->json, QN_ERR_FORMAT, range_path,
                        "got bytes %" PRIu64 " to %" PRIu64 ", want a range within the %" PRIu64
                        " bytes behind the header; the file is damaged or was cut short, get it again",
                        begin, end, r->size);
  }
  if (bits % 8 != 0 || end - begin != bits / 8) {
    return qn_json_fail(&r->json, QN_ERR_FORMAT, range_path,
                        "got %" PRIu64 " bytes, want %" PRIu64 " for %" PRIu64 " values of type %s", end - begin,
                        bits / 8 + (bits % 8 != 0), t->count, qn_stored_name(t->dtype));
  }
  t->data = r->data + begin;
  t->size_bytes = end - begin;
  t->offset = r->base + begin;
  return QN_OK;
}

static qn_status add_tensor(const reader *r, const qn_safetensors_tensor *t) {
  files *f = r->f;
  uint64_t other;
  if (qn_map_get(&f->index, qn_str_from(t->name), &other)) {  // in this file JSON's check of keys has seen it
    return qn_json_fail(&r->json, QN_ERR_FORMAT, qn_json_key_path(&r->json, "", t->name),
                        "the tensor is in %s, too; want it in one shard",
                        f->tensors.items[other].file);
  }
  if (!qn_map_put(&f->index, qn_str_from(t->name), f->tensors.count) ||
      !qn_vec_push_arena(&f->arena, &f->tensors, *t)) {
    return qn_fail_nomem(r->json.diag, r->json.file, "the list of tensors");
  }
  return QN_OK;
}

static qn_status read_tensor(const reader *r, const cJSON *item) {
  static const char *const keys[] = {"dtype", "shape", "data_offsets", NULL};
  const char *path = qn_json_key_path(&r->json, "", item->string);
  qn_safetensors_tensor t = {.name = qn_arena_strdup(&r->f->arena, item->string), .file = r->json.file};
  if (!t.name) return qn_fail_nomem(r->json.diag, r->json.file, "a tensor's name");
  if (!*t.name) return qn_json_fail(&r->json, QN_ERR_FORMAT, "\"\"", "got a tensor without a name");
  QN_TRY(qn_json_object(&r->json, item, path, keys));
  QN_TRY(read_type(r, item, path, &t));
  QN_TRY(read_shape(r, item, path, &t));
  QN_TRY(read_range(r, item, path, &t));
  return add_tensor(r, &t);
}

// ---- one file ----------------------------------------------------------------------------------------------------

static int by_offset(const void *a, const void *b) {
  const qn_safetensors_tensor *const *one = a, *const *other = b;
  if ((*one)->offset != (*other)->offset) return (*one)->offset < (*other)->offset ? -1 : 1;
  return (*one)->size_bytes < (*other)->size_bytes ? -1 : (*one)->size_bytes > (*other)->size_bytes;
}

// Tensors from number `first` on are this file's: they must follow one another without overlap, gap or rest.
static qn_status check_ranges(const reader *r, size_t first) {
  const files *f = r->f;
  size_t count = f->tensors.count - first;
  const qn_safetensors_tensor **sorted = QN_ARENA_ARRAY(r->json.arena, count, const qn_safetensors_tensor *);
  if (!sorted) return qn_fail_nomem(r->json.diag, r->json.file, "the list of tensors");
  for (size_t i = 0; i < count; i++) sorted[i] = &f->tensors.items[first + i];
  if (count) qsort(sorted, count, sizeof *sorted, by_offset);
  uint64_t at = r->base;
  for (size_t i = 0; i < count; i++) {
    const qn_safetensors_tensor *t = sorted[i];
    if (t->offset != at) {
      return qn_json_fail(&r->json, QN_ERR_FORMAT, qn_json_key_path(&r->json, "", t->name),
                          "its bytes begin at %" PRIu64 " and %s; want them right after those before, at %" PRIu64,
                          t->offset, t->offset < at ? "overlap another tensor's" : "leave a gap", at);
    }
    at += t->size_bytes;
  }
  if (at == r->base + r->size) return QN_OK;
  return qn_json_fail(&r->json, QN_ERR_FORMAT, "", "got %" PRIu64 " bytes that are no tensor's at the end, want none",
                      r->base + r->size - at);
}

static qn_status read_header(reader *r, const cJSON *root) {
  size_t first = r->f->tensors.count;
  const cJSON *child;
  QN_TRY(qn_json_object(&r->json, root, "", NULL));
  cJSON_ArrayForEach(child, root) {
    if (strcmp(child->string, "__metadata__") != 0) QN_TRY(read_tensor(r, child));
  }
  return check_ranges(r, first);
}

// `scratch` holds what is needed while the header is read.
static qn_status read_file(files *f, const char *path, const uint8_t *data, size_t size, qn_arena *scratch,
                           qn_diag *diag) {
  reader r = {.f = f, .json = {scratch, path, diag}};
  uint64_t length = 0;
  for (int i = 0; i < LENGTH_BYTES && size >= LENGTH_BYTES; i++) length |= (uint64_t)data[i] << (8 * i);
  if (size < LENGTH_BYTES + 2) {
    return qn_fail(diag, QN_ERR_FORMAT, path, "got %zu bytes, want a safetensors file's header; get the file again", size);
  }
  if (length > QN_SAFETENSORS_HEADER_MAX || length > size - LENGTH_BYTES) {
    return qn_fail(diag, QN_ERR_FORMAT, path,
                   "got a header of %" PRIu64 " bytes in a file of %zu, want at most %" PRIu64
                   " and the file's own; the file is damaged or no safetensors file",
                   length, size, (uint64_t)QN_SAFETENSORS_HEADER_MAX);
  }
  r.data = data + LENGTH_BYTES + length;
  r.size = size - LENGTH_BYTES - length;
  r.base = LENGTH_BYTES + length;
  char *text = qn_arena_strndup(scratch, (const char *)data + LENGTH_BYTES, (size_t)length);  // the parser wants a NUL
  if (!text) return qn_fail_nomem(diag, path, "a header");
  cJSON *root;
  QN_TRY(qn_json_parse(&r.json, text, (size_t)length, &root));
  qn_status status = read_header(&r, root);
  cJSON_Delete(root);
  return status;
}

// ---- opening -----------------------------------------------------------------------------------------------------

static files *create(const char *name, const qn_allocator *allocator) {
  files *f = qn_alloc_zeroed(allocator, sizeof *f);
  if (!f) return NULL;
  f->allocator = allocator;
  qn_arena_init(&f->arena, allocator);
  qn_map_init(&f->index, allocator);
  f->base.name = qn_arena_strdup(&f->arena, name);
  if (f->base.name) return f;
  qn_safetensors_close(&f->base);
  return NULL;
}

// Opens a shard and reads its header.
static qn_status add_file(files *f, const char *path, qn_diag *diag) {
  shard s = {.path = qn_arena_strdup(&f->arena, path)};
  if (!s.path) return qn_fail_nomem(diag, path, "a path");
  QN_TRY(qn_mapping_open(&s.mapping, path, diag));
  if (!qn_vec_push_arena(&f->arena, &f->shards, s)) {
    qn_mapping_close(&s.mapping);
    return qn_fail_nomem(diag, path, "the list of files");
  }
  f->base.file_bytes += s.mapping.size;
  qn_arena scratch;
  qn_arena_init(&scratch, f->allocator);
  qn_status status = read_file(f, s.path, s.mapping.data, s.mapping.size, &scratch, diag);
  qn_arena_deinit(&scratch);
  return status;
}

static qn_status finish(files *f, qn_status status, qn_safetensors **out, qn_diag *diag) {
  qn_diag lost = {0};
  if (qn_safetensors_check(&f->base, &lost) != QN_OK) {  // says more than what the zeros led to
    status = lost.status;
    if (diag) *diag = lost;
  }
  f->base.file_count = f->shards.count;
  f->base.tensor_count = f->tensors.count;
  f->base.tensors = f->tensors.items;
  *out = status == QN_OK ? &f->base : NULL;
  if (status != QN_OK) qn_safetensors_close(&f->base);
  return status;
}

qn_status qn_safetensors_open(qn_safetensors **out, const char *path, const qn_allocator *allocator, qn_diag *diag) {
  files *f = create(path, allocator);
  *out = NULL;
  return f ? finish(f, add_file(f, path, diag), out, diag) : qn_fail_nomem(diag, path, "its tensors");
}

qn_status qn_safetensors_open_memory(qn_safetensors **out, const void *data, size_t size, const char *name,
                                     const qn_allocator *allocator, qn_diag *diag) {
  files *f = create(name, allocator);
  *out = NULL;
  if (!f) return qn_fail_nomem(diag, name, "its tensors");
  qn_arena scratch;
  qn_arena_init(&scratch, allocator);
  f->base.file_bytes = size;
  qn_status status = read_file(f, f->base.name, data, size, &scratch, diag);
  qn_arena_deinit(&scratch);
  return finish(f, status, out, diag);
}

// ---- shards ------------------------------------------------------------------------------------------------------

// A name of a file beside the index, which may come from anybody.
static bool is_plain_name(const char *name) {
  if (strchr(name, '/') || name[0] == '.') return false;
  for (const char *c = name; *c; c++) {
    if ((unsigned char)*c < ' ' || *c == 0x7F) return false;
  }
  return true;
}

typedef QN_VEC(const char *) name_list;

// The distinct files of a weight map, in the order in which they appear.
static qn_status list_shards(const qn_json *json, const cJSON *map, name_list *out) {
  qn_map seen;
  qn_map_init(&seen, json->arena->allocator);
  qn_status status = QN_OK;
  const cJSON *child;
  cJSON_ArrayForEach(child, map) {
    const char *path = qn_json_key_path(json, "weight_map", child->string), *name = NULL;
    if ((status = qn_json_text(json, child, path, &name)) != QN_OK) break;
    if (qn_map_get(&seen, qn_str_from(name), NULL)) continue;
    if (!is_plain_name(name)) {
      status = qn_json_fail(json, QN_ERR_FORMAT, path, "got '%.80s', want the name of a file beside this one", name);
    } else if (out->count == MAX_FILES) {
      status = qn_json_fail(json, QN_ERR_LIMIT, path, "got more than %d files", MAX_FILES);
    } else if (!qn_map_put(&seen, qn_str_from(name), 1) || !qn_vec_push_arena(json->arena, out, name)) {
      status = qn_fail_nomem(json->diag, json->file, "the list of files");
    }
    if (status != QN_OK) break;
  }
  qn_map_deinit(&seen);
  return status;
}

static const char *beside(qn_arena *arena, const char *path, const char *name) {
  const char *slash = strrchr(path, '/');
  return qn_arena_printf(arena, "%.*s%s", slash ? (int)(slash + 1 - path) : 0, path, name);
}

static qn_status fail_missing(const qn_json *json, const name_list *names) {
  size_t missing = 0;
  const char *first = NULL;
  for (size_t i = 0; i < names->count; i++) {
    const char *path = beside(json->arena, json->file, names->items[i]);
    if (path && access(path, F_OK) == 0) continue;
    first = first ? first : names->items[i];
    missing++;
  }
  if (!missing) return QN_OK;
  return qn_fail(json->diag, QN_ERR_FORMAT, json->file,
                 "%zu of the %zu files that it lists %s missing beside it ('%.100s'%s); get %s", missing, names->count,
                 missing == 1 ? "is" : "are", first, missing == 1 ? "" : ", ...", missing == 1 ? "it" : "them");
}

// Every tensor of the index is in the file that it names, and no file holds one that it does not name.
static qn_status check_index(files *f, const qn_json *json, const cJSON *map) {
  const cJSON *child;
  qn_map listed;
  qn_map_init(&listed, json->arena->allocator);
  qn_status status = QN_OK;
  cJSON_ArrayForEach(child, map) {
    const qn_safetensors_tensor *t = qn_safetensors_find(&f->base, child->string);
    const char *path = qn_json_key_path(json, "weight_map", child->string);
    const char *want = beside(json->arena, json->file, child->valuestring);
    if (!want || !qn_map_put(&listed, qn_str_from(child->string), 1)) {
      status = qn_fail_nomem(json->diag, json->file, "its tensors");
    } else if (!t) {
      status = qn_json_fail(json, QN_ERR_FORMAT, path, "the tensor is not in '%.100s'; the files are not of one model",
                            child->valuestring);
    } else if (strcmp(t->file, want) != 0) {
      status = qn_json_fail(json, QN_ERR_FORMAT, path, "the tensor is in %s, want it in '%.100s'", t->file,
                            child->valuestring);
    }
    if (status != QN_OK) break;
  }
  for (size_t i = 0; i < f->tensors.count && status == QN_OK; i++) {
    const qn_safetensors_tensor *t = &f->tensors.items[i];
    if (qn_map_get(&listed, qn_str_from(t->name), NULL)) continue;
    status = qn_json_fail(json, QN_ERR_FORMAT, "weight_map", "does not list '%.100s', which is in %s", t->name, t->file);
  }
  qn_map_deinit(&listed);
  return status;
}

static qn_status read_index(files *f, const qn_json *json, const cJSON *root) {
  name_list names = {0};
  QN_TRY(qn_json_object(json, root, "", NULL));
  const cJSON *map = qn_json_get(root, "weight_map");
  QN_TRY(qn_json_object(json, map, "weight_map", NULL));
  QN_TRY(list_shards(json, map, &names));
  if (names.count == 0) return qn_json_fail(json, QN_ERR_FORMAT, "weight_map", "lists no tensors");
  QN_TRY(fail_missing(json, &names));
  for (size_t i = 0; i < names.count; i++) {
    const char *path = beside(json->arena, json->file, names.items[i]);
    if (!path) return qn_fail_nomem(json->diag, json->file, "a path");
    QN_TRY(add_file(f, path, json->diag));
  }
  return check_index(f, json, map);
}

qn_status qn_safetensors_open_index(qn_safetensors **out, const char *path, const qn_allocator *allocator,
                                    qn_diag *diag) {
  char *text;
  size_t size;
  cJSON *root = NULL;
  *out = NULL;
  QN_TRY(qn_file_read(path, QN_TEXT_MAX, allocator, &text, &size, diag));
  qn_arena arena;
  qn_arena_init(&arena, allocator);
  qn_json json = {&arena, path, diag};
  files *f = create(path, allocator);
  qn_status status = f ? qn_json_parse(&json, text, size, &root) : qn_fail_nomem(diag, path, "its tensors");
  if (status == QN_OK) status = read_index(f, &json, root);
  cJSON_Delete(root);
  qn_arena_deinit(&arena);
  qn_free(allocator, text, size + 1);
  return f ? finish(f, status, out, diag) : status;
}

// ---- the rest ----------------------------------------------------------------------------------------------------

qn_status qn_safetensors_check(const qn_safetensors *base, qn_diag *diag) {
  const files *f = (const files *)base;
  for (size_t i = 0; i < f->shards.count; i++) {
    QN_TRY(qn_mapping_check(&f->shards.items[i].mapping, f->shards.items[i].path, diag));
  }
  return QN_OK;
}

void qn_safetensors_close(qn_safetensors *base) {
  files *f = (files *)base;
  if (!f) return;
  for (size_t i = 0; i < f->shards.count; i++) qn_mapping_close(&f->shards.items[i].mapping);
  qn_map_deinit(&f->index);
  qn_arena_deinit(&f->arena);
  qn_free(f->allocator, f, sizeof *f);
}

const qn_safetensors_tensor *qn_safetensors_find(const qn_safetensors *base, const char *name) {
  const files *f = (const files *)base;
  uint64_t at;
  return qn_map_get(&f->index, qn_str_from(name), &at) ? &f->tensors.items[at] : NULL;
}
