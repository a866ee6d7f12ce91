// What values a GPU schedule has, and may have.
#include "ir/gpu_schedule.h"

#include <stddef.h>
#include <string.h>

static const struct {
  const char *name;
  size_t offset;
} FIELDS[] = {
    {"lanes", offsetof(qn_gpu_schedule, lanes)},
    {"groups", offsetof(qn_gpu_schedule, groups)},
    {"stages", offsetof(qn_gpu_schedule, stages)},
    {"stage_bytes", offsetof(qn_gpu_schedule, stage_bytes)},
    {"parts", offsetof(qn_gpu_schedule, parts)},
};
_Static_assert(sizeof(qn_gpu_schedule) == QN_COUNT(FIELDS) * sizeof(int), "every field is an int and in the table");

bool qn_gpu_schedule_equal(const qn_gpu_schedule *a, const qn_gpu_schedule *b) { return memcmp(a, b, sizeof *a) == 0; }

void qn_gpu_schedule_print(const qn_gpu_schedule *schedule, qn_buf *out) {
  for (size_t i = 0; i < QN_COUNT(FIELDS); i++) {
    int value;
    memcpy(&value, (const char *)schedule + FIELDS[i].offset, sizeof value);
    qn_buf_printf(out, "%s = %d\n", FIELDS[i].name, value);
  }
}

qn_status qn_gpu_schedule_check(const qn_gpu_schedule *schedule, const char *where, qn_diag *diag) {
  int lanes = schedule->lanes, groups = schedule->groups;
  bool part = lanes >= 1 && lanes <= QN_GPU_WARP && (lanes & (lanes - 1)) == 0;
  bool whole = lanes > 0 && lanes % QN_GPU_WARP == 0 && lanes <= QN_GPU_BLOCK_THREADS_MAX;
  if (!part && !whole)
    return qn_fail(diag, QN_ERR_ARGUMENT, where, "lanes: got %d, want 1, 2, 4, 8, 16, or a multiple of %d up to %d",
                   lanes, QN_GPU_WARP, QN_GPU_BLOCK_THREADS_MAX);
  int most = lanes > QN_GPU_WARP ? 1 : QN_GPU_BLOCK_THREADS_MAX / lanes;
  if (groups < 1 || groups > most)
    return qn_fail(diag, QN_ERR_ARGUMENT, where, "groups: got %d of %d lanes, want 1 to %d", groups, lanes, most);
  if (schedule->parts < 0)
    return qn_fail(diag, QN_ERR_ARGUMENT, where, "parts: got %d, want 0 (a row is one group's) or more", schedule->parts);
  if (schedule->stages == 0) return QN_OK;
  if (schedule->stages < 2 || schedule->stages > QN_GPU_STAGES_MAX)
    return qn_fail(diag, QN_ERR_ARGUMENT, where, "stages: got %d, want 0 (no ring) or 2 to %d", schedule->stages,
                   QN_GPU_STAGES_MAX);
  if (schedule->stage_bytes > 0) return QN_OK;
  return qn_fail(diag, QN_ERR_ARGUMENT, where, "stage_bytes: got %d, want a positive number", schedule->stage_bytes);
}
