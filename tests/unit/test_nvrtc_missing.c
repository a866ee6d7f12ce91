// What is said where NVRTC is not, or is something else; and how the report of ptxas is read. Needs no library.
#include <stdlib.h>

#include "codegen/cuda/nvrtc.h"
#include "codegen/cuda/ptxas.h"
#include "tests/support/test.h"

static void check_open(const char *library, qn_status want, const char *needle) {
  qn_diag diag = {0};
  qn_nvrtc *nvrtc = NULL;
  qn_nvrtc_options options = {.library = library};
  qn_assert_fails(&diag, want, needle, qn_nvrtc_open(&options, qn_test_allocator(), &nvrtc, &diag));
}

START_TEST(a_library_that_is_not_there) {
  check_open("/nowhere/libnvrtc.so.13", QN_ERR_TARGET, "cannot be loaded (looked at: /nowhere/libnvrtc.so.13:");
  check_open("/nowhere/libnvrtc.so.13", QN_ERR_TARGET, "install the toolkit or set QUERN_NVRTC");
}
END_TEST

START_TEST(the_variable_names_the_library) {
  ck_assert_int_eq(setenv("QUERN_NVRTC", "/somewhere/else.so", 1), 0);
  check_open(NULL, QN_ERR_TARGET, "/somewhere/else.so");
  check_open("/nowhere/first.so", QN_ERR_TARGET, "/nowhere/first.so");  // an option goes before it
}
END_TEST

START_TEST(a_library_that_is_another) {
  check_open("libm.so.6", QN_ERR_TARGET, "the library has no function nvrtcVersion: want NVRTC of CUDA 12 or 13");
}
END_TEST

START_TEST(the_report_of_ptxas) {
  static const char log[] =
      "ptxas info    : 0 bytes gmem\n"
      "ptxas info    : Compiling entry function 'first' for 'sm_90'\n"
      "ptxas info    : Function properties for first\n"
      "ptxas         .     48 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads\n"
      "ptxas info    : Used 40 registers, used 1 barriers, 48 bytes cumulative stack size, 1024 bytes smem\n"
      "ptxas info    : Compiling entry function 'second' for 'sm_90'\n"
      "ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
      "ptxas info    : Used 255 registers, used 0 barriers\n"
      "ptxas info    : Compiling entry function 'third' for 'sm_90'\n";
  qn_ptxas_report r;
  ck_assert(qn_ptxas_find(log, "first", &r));
  ck_assert(r.registers == 40 && r.stack_bytes == 48 && r.spill_bytes == 20 && r.shared_bytes == 1024);
  ck_assert(qn_ptxas_find(log, "second", &r));
  ck_assert(r.registers == 255 && r.stack_bytes == 0 && r.spill_bytes == 0 && r.shared_bytes == 0);
  ck_assert(!qn_ptxas_find(log, "third", &r));  // the log breaks off
  ck_assert(!qn_ptxas_find(log, "firs", &r));
}
END_TEST

QN_CASE(missing, a_library_that_is_not_there, the_variable_names_the_library, a_library_that_is_another)
QN_CASE(reports, the_report_of_ptxas)
QN_TEST_MAIN(missing, reports)
