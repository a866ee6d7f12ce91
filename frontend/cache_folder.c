// The folder of compiled models: whose it is, what is in it, and what goes when there is too much. Any file may vanish
// at any time, by other processes that do the same or by hand: that is no error anywhere.
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "codegen/cuda/nvrtc.h"
#include "frontend/cache.h"
#include "frontend/compile.h"
#include "frontend/quern.h"
#include "runtime/base/arena.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/options.h"
#include "runtime/base/vec.h"

#define DEFAULT_LIMIT  (UINT64_C(32) << 30)
#define LEFTOVER_AGE_S 3600  // of a file that a compilation wrote to last
#define HASH_DIGITS    16

// --- whose it is

qn_status quern_cache_folder_name(qn_buf *out, qn_diag *diag) {
  const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  if (xdg && *xdg) {
    qn_buf_printf(out, "%s/quern", xdg);
  } else if (home && *home) {
    qn_buf_printf(out, "%s/.cache/quern", home);
  } else {
    return qn_fail(diag, QN_ERR_IO, "cache",
                   "got neither XDG_CACHE_HOME nor HOME, want one; or use quern compile -o FILE");
  }
  return out->failed ? qn_fail_nomem(diag, "cache", "a path") : QN_OK;
}

// Parents as usual, the folder itself for the user alone.
static qn_status make_folder(char *path, qn_diag *diag) {
  char *name = strrchr(path, '/');
  if (name && name > path) {
    *name = '\0';
    qn_status status = qn_make_directories(path, diag);
    *name = '/';
    QN_TRY(status);
  }
  if (mkdir(path, 0700) == 0 || errno == EEXIST) return QN_OK;
  return qn_fail(diag, QN_ERR_IO, path, "cannot create the folder: %s", strerror(errno));
}

qn_status quern_cache_folder_make(qn_buf *out, qn_diag *diag) {
  struct stat info;
  QN_TRY(quern_cache_folder_name(out, diag));
  const char *path = qn_buf_text(out);
  QN_TRY(make_folder(out->data, diag));
  if (stat(path, &info) != 0) return qn_fail(diag, QN_ERR_IO, path, "cannot be examined: %s", strerror(errno));
  if (!S_ISDIR(info.st_mode)) return qn_fail(diag, QN_ERR_IO, path, "is a file; want a folder");
  if (info.st_uid != geteuid()) {
    return qn_fail(
        diag, QN_ERR_IO, path,
        "belongs to user %lu, want user %lu, who would run the code in it; set XDG_CACHE_HOME to a folder of "
        "your own",
        (unsigned long)info.st_uid, (unsigned long)geteuid());
  }
  if ((info.st_mode & 077) != 0 && chmod(path, 0700) != 0)
    return qn_fail(diag, QN_ERR_IO, path, "cannot be made private (chmod 700): %s", strerror(errno));
  return QN_OK;
}

bool quern_cache_folder(const char *inside, qn_buf *path) {
  qn_diag unused = {0};
  if (quern_cache_folder_make(path, &unused) != QN_OK) return false;
  if (*inside) qn_buf_printf(path, "/%s", inside);
  return !path->failed;
}

const char *quern_nvrtc_folder(qn_buf *path) {
  const char *named = getenv(QN_NVRTC_CACHE_VARIABLE);
  if (named && *named) {
    qn_buf_puts(path, named);
    return path->failed ? NULL : qn_buf_text(path);
  }
  return quern_cache_folder("nvrtc", path) ? qn_buf_text(path) : NULL;
}

bool quern_cache_has(const char *path) {
  struct stat info;
  if (lstat(path, &info) != 0) return false;
  if (S_ISREG(info.st_mode) && info.st_uid == geteuid()) return true;
  unlink(path);
  return false;
}

void quern_cache_touch(const char *path) { utimensat(AT_FDCWD, path, NULL, 0); }

// --- what is in it

// An entry is a file "HEAD-0123456789abcdef.TAIL". Nothing else in the folders is ours to touch.
typedef struct kind {
  const char *name, *inside, *tail;  // inside: the folder in the cache's own; "" = that itself
} kind;
static const kind kinds[] = {{"artifact", "", ".qn"}, {"nvrtc", "nvrtc", ".nvrtc"}};

typedef struct found {
  const kind *kind;
  char *path, *model;  // of the arena
  uint64_t bytes;
  int64_t used_at;
} found;

typedef struct contents {
  qn_arena arena;
  QN_VEC(found) entries;  // of the arena, of all kinds
  QN_VEC(char *) leftovers;
  uint64_t bytes;
} contents;

// How long the head of an entry's name is (`length` bytes of the name count); 0 where it is no entry's.
static size_t head_length(const kind *k, const char *name, size_t length) {
  size_t end = strlen(k->tail), rest = HASH_DIGITS + 1 + end;
  if (length <= rest || memcmp(name + length - end, k->tail, end) != 0 || name[length - rest] != '-') return 0;
  for (size_t i = length - rest + 1; i < length - end; i++) {
    if (!isxdigit((unsigned char)name[i])) return 0;
  }
  return length - rest;
}

// Who makes an entry writes "ENTRY.tmp.PID.N" and may hold "ENTRY.lock"; those of one that was killed stay.
static bool is_leftover(const kind *k, const char *name, const struct stat *info) {
  static const char *const marks[] = {".tmp.", ".lock"};
  if (time(NULL) - info->st_mtim.tv_sec <= LEFTOVER_AGE_S) return false;
  for (size_t i = 0; i < QN_COUNT(marks); i++) {
    const char *mark = strstr(name, marks[i]);
    if (!mark || head_length(k, name, (size_t)(mark - name)) == 0) continue;
    long pid = i == 0 ? strtol(mark + strlen(marks[i]), NULL, 10) : 0;
    return pid <= 0 || (kill((pid_t)pid, 0) != 0 && errno == ESRCH);
  }
  return false;
}

static bool add_file(contents *c, const kind *k, const char *folder, const char *name) {
  struct stat info;
  char *path = qn_arena_printf(&c->arena, "%s/%s", folder, name);
  if (!path) return false;
  if (lstat(path, &info) != 0 || !S_ISREG(info.st_mode)) return true;
  size_t length = head_length(k, name, strlen(name));
  if (length > 0) {
    found f = {k, path, qn_arena_strndup(&c->arena, name, length), (uint64_t)info.st_size, info.st_mtim.tv_sec};
    c->bytes += f.bytes;
    return f.model && qn_vec_push_arena(&c->arena, &c->entries, f);
  }
  return !is_leftover(k, name, &info) || qn_vec_push_arena(&c->arena, &c->leftovers, path);
}

static int later_first(const void *a, const void *b) {
  const found *x = a, *y = b;
  return x->used_at != y->used_at ? (x->used_at < y->used_at ? 1 : -1) : strcmp(x->path, y->path);
}

// A folder that is not there is an empty one.
static qn_status read_kind(contents *c, const kind *k, const char *cache, qn_diag *diag) {
  const char *folder = *k->inside ? qn_arena_printf(&c->arena, "%s/%s", cache, k->inside) : cache;
  if (!folder) return qn_fail_nomem(diag, cache, "a path");
  DIR *dir = opendir(folder);
  if (!dir && errno == ENOENT) return QN_OK;
  if (!dir) return qn_fail(diag, QN_ERR_IO, folder, "cannot read the folder: %s", strerror(errno));
  bool memory = true;
  for (struct dirent *entry; memory && (entry = readdir(dir)) != NULL;) memory = add_file(c, k, folder, entry->d_name);
  closedir(dir);
  return memory ? QN_OK : qn_fail_nomem(diag, folder, "what is in the folder");
}

// To be freed with qn_arena_deinit(&c->arena) in every case.
static qn_status read_folder(contents *c, const char *folder, qn_diag *diag) {
  *c = (contents){0};
  qn_arena_init(&c->arena, qn_allocator_default());
  for (size_t i = 0; i < QN_COUNT(kinds); i++) QN_TRY(read_kind(c, &kinds[i], folder, diag));
  if (c->entries.count > 0) qsort(c->entries.items, c->entries.count, sizeof *c->entries.items, later_first);
  return QN_OK;
}

// --- what goes

qn_status quern_cache_limit(uint64_t *out_bytes, qn_diag *diag) {
  static const char units[] = "KMGT";
  const char *text = getenv("QUERN_CACHE_LIMIT");
  *out_bytes = DEFAULT_LIMIT;
  if (!text || !*text) return QN_OK;
  char *end = NULL;
  errno = 0;
  unsigned long long value = strtoull(text, &end, 10);
  const char *unit = *end ? strchr(units, *end) : NULL;
  unsigned shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;
  if (!isdigit((unsigned char)*text) || errno != 0 || (*end && (!unit || end[1])) || value > UINT64_MAX >> shift)
    return qn_fail(diag, QN_ERR_ARGUMENT, "QUERN_CACHE_LIMIT", "got '%s', want bytes: 20G, 500M; 0 = no limit", text);
  *out_bytes = value ? value << shift : UINT64_MAX;
  return QN_OK;
}

static qn_status evict(contents *c, uint64_t most, const char *keep, uint64_t *out_removed, qn_diag *diag) {
  for (size_t i = 0; i < c->leftovers.count; i++) unlink(c->leftovers.items[i]);
  for (size_t i = c->entries.count; i-- > 0 && c->bytes > most;) {
    const found *f = &c->entries.items[i];
    if (keep && strcmp(f->path, keep) == 0) continue;
    if (unlink(f->path) != 0 && errno != ENOENT)
      return qn_fail(diag, QN_ERR_IO, f->path, "cannot be removed: %s", strerror(errno));
    c->bytes -= f->bytes;
    if (out_removed) *out_removed += f->bytes;
  }
  return QN_OK;
}

qn_status quern_cache_evict(uint64_t most, const char *keep, uint64_t *out_removed, qn_diag *diag) {
  qn_buf folder;
  contents c = {0};
  if (out_removed) *out_removed = 0;
  qn_buf_init(&folder, qn_allocator_default());
  qn_status status = quern_cache_folder_name(&folder, diag);
  if (status == QN_OK) {
    status = read_folder(&c, qn_buf_text(&folder), diag);
    if (status == QN_OK) status = evict(&c, most, keep, out_removed, diag);
    qn_arena_deinit(&c.arena);
  }
  qn_buf_deinit(&folder);
  return status;
}

// --- the public functions

static qn_status list(contents *c, quern_cache_listing *out, qn_diag *diag) {
  qn_buf folder;
  qn_buf_init(&folder, qn_allocator_default());
  qn_status status = quern_cache_folder_name(&folder, diag);
  if (status == QN_OK) status = read_folder(c, qn_buf_text(&folder), diag);
  if (status == QN_OK) status = quern_cache_limit(&out->limit, diag);
  if (status == QN_OK) {
    quern_cache_entry *entries = QN_ARENA_ARRAY(&c->arena, c->entries.count, quern_cache_entry);
    out->folder = qn_arena_strdup(&c->arena, qn_buf_text(&folder));
    if (!entries || !out->folder) status = qn_fail_nomem(diag, "cache", "a listing");
    for (size_t i = 0; status == QN_OK && i < c->entries.count; i++) {
      const found *f = &c->entries.items[i];
      entries[i] = (quern_cache_entry){f->path, f->model, f->bytes, f->used_at, f->kind->name};
    }
    out->entries = entries;
  }
  out->count = c->entries.count;
  out->bytes = c->bytes;
  qn_buf_deinit(&folder);
  return status;
}

// A listing that ends before this has no place for what it owns.
#define LISTING_LEAST (offsetof(quern_cache_listing, owned) + sizeof(void *))

int quern_cache_list(quern_cache_listing *out, quern_error *error) {
  qn_diag diag = {0};
  quern_cache_listing made = {.size = sizeof made};
  qn_status status = qn_result_check_owner(out, "quern_cache_listing", LISTING_LEAST, &diag);
  if (status == QN_OK && !(made.owned = calloc(1, sizeof(contents)))) status = qn_fail_nomem(&diag, "cache", "a listing");
  if (status == QN_OK) status = list(made.owned, &made, &diag);
  if (status != QN_OK) quern_cache_listing_free(&made);
  qn_result_give(out, &made, sizeof made);
  return quern_give_error(error, &diag, status);
}

void quern_cache_listing_free(quern_cache_listing *listing) {
  if (qn_result_is_short(listing, LISTING_LEAST)) return;
  contents *c = listing->owned;
  if (c && c->arena.allocator) qn_arena_deinit(&c->arena);
  free(c);
  qn_result_give(listing, NULL, sizeof *listing);
}

// Called when something was kept. That it could not be done is no failure of what was made.
void quern_cache_hold_limit(const char *keep) {
  uint64_t most = 0;
  qn_diag diag = {0};
  qn_status status = quern_cache_limit(&most, &diag);
  if (status == QN_OK) status = quern_cache_evict(most, keep, NULL, &diag);
  if (status != QN_OK) qn_log(QN_LOG_WARNING, "the cache keeps more than it should: %s", diag.text);
}

int quern_cache_clear(uint64_t keep_bytes, uint64_t *out_removed, quern_error *error) {
  qn_diag diag = {0};
  return quern_give_error(error, &diag, quern_cache_evict(keep_bytes, NULL, out_removed, &diag));
}
