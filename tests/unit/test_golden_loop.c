// Loop IR in text: tests/golden/loop/*.txt. The printed kernels (simplified first in files simplify*.txt), or the error
// of the parser or the verifier.
#include "ir/loop.h"
#include "tests/support/golden.h"
#include "tests/support/test.h"

static const qn_lexpr *simplify(qn_lbuild *b, const qn_lexpr *e, void *context) {
  (void)context;
  return qn_lexpr_simplify(b, e);
}

// What becomes of a text: the kernels printed, or the first error and a newline.
static void answer(void *context, const char *file_name, qn_str text, qn_buf *out) {
  (void)context;
  bool simplified = strncmp(file_name, "simplify", 8) == 0;
  qn_arena arena;
  qn_diag diag = {0};
  qn_lkernel **kernels = NULL;
  size_t count = 0;
  qn_arena_init(&arena, qn_test_allocator());
  qn_status status = qn_lkernels_parse("case", text, &arena, &kernels, &count, &diag);
  for (size_t i = 0; status == QN_OK && i < count; i++) {
    qn_lbuild b;
    qn_lbuild_open(&b, &arena, kernels[i]);
    if (simplified) qn_lblock_map(&b, &kernels[i]->body, simplify, NULL);
    ck_assert(!b.failed);
    status = qn_lkernel_verify(kernels[i], &diag);
  }
  if (status != QN_OK) {
    qn_buf_printf(out, "%s: %s\n", qn_status_name(status), diag.text);
  } else {
    for (size_t i = 0; i < count; i++) {
      if (i > 0) qn_buf_putc(out, '\n');
      qn_lkernel_print(kernels[i], out);
    }
  }
  qn_arena_deinit(&arena);
}

START_TEST(golden_files) { qn_golden_check("tests/golden/loop", "//", answer, NULL); }
END_TEST

QN_CASE(golden, golden_files)
QN_TEST_MAIN(golden)
