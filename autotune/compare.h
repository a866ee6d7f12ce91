// Tuned schedules beside others in one run: the default, and what somebody would set who knows nothing of the kernels.
#ifndef QN_AUTOTUNE_COMPARE_H
#define QN_AUTOTUNE_COMPARE_H

#include "autotune/session.h"

// One middle value for every knob: of the values that are legal for the kernel, in their order, the one in the middle.
qn_schedule qn_space_middle(const qn_space *space);

typedef struct qn_comparison {
  double over_default, over_middle;    // their time over the tuned schedule's; 0 = could not be measured
  double error_default, error_middle;  // standard error of the ratio
  int pairs;
} qn_comparison;

// Times the result's tuned schedule in turns with its default and the middle one, each `pairs` times (fewer where that
// would take more than two seconds).
QN_CHECKED qn_status qn_compare_result(const qn_program *program, const qn_measurer *measurer,
                                       const qn_session_options *options, const qn_session_result *result, int pairs,
                                       qn_comparison *out, qn_diag *diag);

#endif
