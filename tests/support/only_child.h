// Which process is the child of this one, for tests that kill it.
#ifndef QN_TESTS_SUPPORT_ONLY_CHILD_H
#define QN_TESTS_SUPPORT_ONLY_CHILD_H

#include <sys/types.h>

// 0 = there is none; of several, any. By each process's own file in /proc: not every kernel lists children.
pid_t qn_test_only_child(void);

#endif
