// Calls of the public interface that must succeed, or fail in a certain way. `call` names its last argument `error`.
#ifndef QN_TESTS_SUPPORT_PUBLIC_H
#define QN_TESTS_SUPPORT_PUBLIC_H

#include "runtime/quern_run.h"
#include "tests/support/test.h"

#define OK(call)                                                        \
  do {                                                                  \
    quern_error error_ = {.code = -1};                                  \
    quern_error *error = &error_;                                       \
    int code_ = (int)(call);                                            \
    ck_assert_msg(code_ == 0, "%s: %d: %s", #call, code_, error->text); \
    ck_assert(error->code == 0 && error->text[0] == '\0');              \
  } while (0)
#define FAILS(want, needle, call)                                                                                      \
  do {                                                                                                                 \
    quern_error error_ = {.code = -1};                                                                                 \
    quern_error *error = &error_;                                                                                      \
    int code_ = (int)(call);                                                                                           \
    ck_assert_msg(code_ == (want) && error->code == (want) && strstr(error->text, needle), "%s: %d: %s", #call, code_, \
                  error->text);                                                                                        \
  } while (0)

#endif
