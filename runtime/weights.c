// Places the weights (weights.h).
#include "runtime/weights.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/topology.h"

enum { COPY_BYTES = 16 << 20, THP_BYTES = 2 << 20 };

// A line "name: number" of /proc/meminfo; 0 when it is not there.
static uint64_t meminfo(const char *name) {
  char line[128], format[64];
  unsigned long long value = 0;
  FILE *file = fopen("/proc/meminfo", "re");
  snprintf(format, sizeof format, "%s: %%llu", name);
  while (file && fgets(line, sizeof line, file) && sscanf(line, format, &value) != 1) continue;
  if (file) fclose(file);
  return value;
}

static qn_status map_thp(const qn_artifact *a, void **out, size_t *out_size, qn_diag *diag) {
  if (!qn_size_add(a->weights_size, THP_BYTES, out_size)) *out_size = SIZE_MAX;
  void *memory = mmap(NULL, *out_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return qn_fail_nomem(diag, a->path, "a copy of the weights on huge pages");
  madvise(memory, *out_size, MADV_HUGEPAGE);
  *out = memory;
  return QN_OK;
}

static qn_status map_hugetlb(const qn_artifact *a, void **out, size_t *out_size, qn_diag *diag) {
  size_t page = (size_t)meminfo("Hugepagesize") * 1024;
  if (page == 0) {
    return qn_fail(diag, QN_ERR_LIMIT, a->path, "huge pages: the system has none (no Hugepagesize in /proc/meminfo)");
  }
  size_t pages = a->weights_size / page + (a->weights_size % page != 0);
  *out_size = pages * page;
  void *memory = mmap(NULL, *out_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
  if (memory != MAP_FAILED) {
    *out = memory;
    return QN_OK;
  }
  if (errno != ENOMEM) return qn_fail(diag, QN_ERR_LIMIT, a->path, "huge pages: %s", strerror(errno));
  return qn_fail(diag, QN_ERR_LIMIT, a->path,
                 "huge pages: got %" PRIu64
                 " that are free, want %zu of %zu KiB for the weights; reserve them as root: "
                 "echo %zu > /proc/sys/vm/nr_hugepages",
                 meminfo("HugePages_Free"), pages, page / 1024, pages);
}

// Piece by piece, so that the file's pages do not stay in memory beside the copy. Whole pages: behind the weights comes
// what is kept (qn_mapping_keep_but).
static void copy_weights(const qn_artifact *a, uint8_t *to) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  for (size_t at = 0; at < a->weights_size; at += COPY_BYTES) {
    size_t left = a->weights_size - at, count = left < COPY_BYTES ? left : COPY_BYTES;
    memcpy(to + at, a->weights + at, count);
    madvise((void *)(uintptr_t)(a->weights + at), count - count % page, MADV_DONTNEED);
  }
}

qn_status qn_weights_place(qn_artifact *a, qn_huge_pages how, qn_diag *diag) {
  if ((unsigned)how >= QN_HUGE_PAGES_COUNT) {
    return qn_fail(diag, QN_ERR_ARGUMENT, "huge_pages", "got %d, want 0 to %d", (int)how, QN_HUGE_PAGES_COUNT - 1);
  }
  if (a->weights_size == 0) return QN_OK;
  void *memory = (void *)(uintptr_t)a->weights;
  size_t size = a->weights_size;
  if (how == QN_HUGE_PAGES_MADVISE || how == QN_HUGE_PAGES_OFF) {  // where the system has neither, nothing is lost
    madvise(memory, size, how == QN_HUGE_PAGES_OFF ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
    madvise(memory, size, MADV_WILLNEED);
    return QN_OK;
  }
  bool thp = how == QN_HUGE_PAGES_THP;
  QN_TRY(thp ? map_thp(a, &memory, &size, diag) : map_hugetlb(a, &memory, &size, diag));
  a->copy = memory;
  a->copy_size = size;
  qn_topology_interleave(memory, size);
  uint8_t *to = thp ? (uint8_t *)qn_align_up((size_t)(uintptr_t)memory, THP_BYTES) : memory;
  copy_weights(a, to);
  mprotect(memory, size, PROT_READ);
  a->weights = to;
  return qn_mapping_check(&a->mapping, a->path, diag);
}
