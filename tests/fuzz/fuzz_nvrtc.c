// Fuzzes what is kept of NVRTC's results: any bytes are no entry, or are one whose texts end where they should, whose log
// and machine code can be read, and which is written the same.
#include <string.h>

#include "codegen/cuda/nvrtc_cache.h"
#include "codegen/cuda/ptxas.h"
#include "codegen/cuda/sass.h"
#include "codegen/kept_file.h"
#include "tests/support/fuzz.h"

static const uint64_t key[2] = {0x0123456789abcdef, 77};

static void use(const qn_nvrtc_code *code) {
  qn_ptxas_report report;
  qn_sass_report scan;
  qn_diag diag = {0};
  fuzz_require(strlen(code->ptx) == code->ptx_size - 1 && strlen(code->log) == code->log_size - 1, "a text");
  if (qn_ptxas_find(code->log, "k", &report)) fuzz_require(report.registers >= 0, "fewer registers than none");
  qn_status status = qn_sass_scan(code->cubin, code->cubin_size, "k", "fuzz", &scan, &diag);
  fuzz_require(status == QN_OK || (status == QN_ERR_FORMAT && diag.text[0] != '\0'), "an odd status");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  qn_nvrtc_code code;
  qn_buf again;
  if (!qn_nvrtc_entry_parse((const char *)data, size, key, qn_allocator_default(), &code)) return 0;
  use(&code);
  qn_buf_init(&again, qn_allocator_default());
  qn_nvrtc_entry_print(key, &code, &again);
  fuzz_require(again.length == size && memcmp(again.data, data, size) == 0, "an entry reads back as another");
  qn_buf_deinit(&again);
  qn_nvrtc_code_deinit(&code);
  return 0;
}

void fuzz_seeds(fuzz_take_fn take, void *context) {
  static char ptx[] = ".version 8.0\n.visible .entry k() { ret; }\n", empty[] = "";
  static char log[] =
      "ptxas info    : Compiling entry function 'k' for 'sm_90'\n"
      "ptxas         .     16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads\n"
      "ptxas info    : Used 40 registers, used 1 barriers, 128 bytes smem\n";
  static uint8_t cubin[] = "\177ELF\2\1\1";
  const qn_nvrtc_code codes[] = {
      {.ptx = ptx, .ptx_size = sizeof ptx, .cubin = cubin, .cubin_size = sizeof cubin, .log = log, .log_size = sizeof log},
      {.ptx = ptx, .ptx_size = sizeof ptx, .cubin = cubin, .cubin_size = 0, .log = empty, .log_size = sizeof empty}};
  for (size_t i = 0; i < QN_COUNT(codes); i++) {
    qn_buf entry;
    qn_buf_init(&entry, qn_allocator_default());
    qn_nvrtc_entry_print(key, &codes[i], &entry);
    take(context, entry.data, entry.length);
    qn_buf_deinit(&entry);
  }
}

static const char *const words[] = {"Compiling entry function 'k'", " registers", " bytes smem", " bytes stack frame",
                                    "99999999999999999999", "-1", NULL};

QN_FUZZ_MAIN_WITH(.words = words, .runs = 30000, .repair = qn_kept_rehash)
