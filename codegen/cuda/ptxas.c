// Reads the log of `ptxas -v`:
//   ptxas info    : Compiling entry function 'NAME' for 'sm_90'
//   ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
//   ptxas info    : Used 40 registers, used 1 barriers, 128 bytes smem
#include "codegen/cuda/ptxas.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The number in front of `words` between `at` and `end`; 0 where they do not stand.
static int64_t number_before(const char *at, const char *end, const char *words) {
  const char *found = strstr(at, words);
  if (!found || found >= end) return 0;
  const char *digits = found;
  while (digits > at && digits[-1] == ' ') digits--;
  while (digits > at && digits[-1] >= '0' && digits[-1] <= '9') digits--;
  return strtoll(digits, NULL, 10);
}

bool qn_ptxas_find(const char *log, const char *kernel, qn_ptxas_report *out) {
  static const char head[] = "Compiling entry function '";
  char wanted[512];
  snprintf(wanted, sizeof wanted, "%s%s'", head, kernel);
  const char *at = strstr(log, wanted);
  if (!at) return false;
  at += strlen(wanted);
  const char *end = strstr(at, head);
  if (!end) end = at + strlen(at);
  const char *used = strstr(at, " registers");
  if (!used || used >= end) return false;
  *out = (qn_ptxas_report){
      .registers = number_before(at, end, " registers"),
      .stack_bytes = number_before(at, end, " bytes stack frame"),
      .spill_bytes = number_before(at, end, " bytes spill stores") + number_before(at, end, " bytes spill loads"),
      .shared_bytes = number_before(at, end, " bytes smem")};
  return true;
}
