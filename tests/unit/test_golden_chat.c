// Chat templates against texts that Python's jinja2 gave for them (tests/support/chat_reference.py compares all of
// these again), and every error of templates.
#include <stdlib.h>
#include <time.h>

#include "tests/support/chat_case.h"
#include "tests/support/golden.h"
#include "tests/support/test.h"

// "ok BYTES" and the text, or "error STATUS" and the message; a newline after both.
static void answer(void *context, const char *file_name, qn_str text, qn_buf *out) {
  (void)context, (void)file_name;
  const qn_jinja_options options = {.now = 1700000000};
  qn_diag diag = {0};
  qn_buf rendered;
  qn_buf_init(&rendered, qn_test_allocator());
  qn_status status = qn_chat_case_render(text, &options, qn_test_allocator(), &rendered, &diag);
  if (status == QN_OK) {
    qn_buf_printf(out, "ok %zu\n", rendered.length);
    qn_buf_append(out, qn_buf_text(&rendered), rendered.length);
    qn_buf_putc(out, '\n');
  } else {
    qn_buf_printf(out, "error %s\n%s\n", qn_status_name(status), diag.text);
  }
  qn_buf_deinit(&rendered);
}

START_TEST(files) {
  setenv("TZ", "UTC", 1);
  tzset();
  qn_golden_check("tests/golden/chat", "##", answer, NULL);
}
END_TEST

QN_CASE(golden, files)
QN_TEST_MAIN(golden)
