// What values a GPU schedule may have.
#include "ir/gpu_schedule.h"

#include <string.h>

// Fields are ints alone: there is no padding between them.
bool qn_gpu_schedule_equal(const qn_gpu_schedule *a, const qn_gpu_schedule *b) { return memcmp(a, b, sizeof *a) == 0; }

void qn_gpu_schedule_print(const qn_gpu_schedule *schedule, qn_buf *out) {
  qn_buf_printf(out, "lanes = %d\ngroups = %d\n", schedule->lanes, schedule->groups);
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
  if (schedule->stages == 0) return QN_OK;
  if (schedule->stages < 2 || schedule->stages > QN_GPU_STAGES_MAX)
    return qn_fail(diag, QN_ERR_ARGUMENT, where, "stages: got %d, want 0 (no ring) or 2 to %d", schedule->stages,
                   QN_GPU_STAGES_MAX);
  if (schedule->stage_bytes > 0) return QN_OK;
  return qn_fail(diag, QN_ERR_ARGUMENT, where, "stage_bytes: got %d, want a positive number", schedule->stage_bytes);
}
