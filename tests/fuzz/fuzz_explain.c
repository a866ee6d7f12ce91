// Fuzzes explanations that are read back (quern explain --against): any text is refused with words that name the file,
// or is an explanation whose texts and numbers can be printed.
#include <stdlib.h>
#include <string.h>

#include "frontend/explain.h"
#include "runtime/base/str.h"
#include "tests/support/fuzz.h"

static void check_field(const void *report, const quern_field *f) {
  const char *at = (const char *)report + f->offset;
  double number = 0;
  if (f->kind == QUERN_FIELD_TEXT) {
    const char *text = *(const char *const *)(const void *)at;
    fuzz_require(text != NULL, "a text is not there");
    for (; *text; text++) fuzz_require((unsigned char)*text >= 0x20 && *text != 0x7F, "a control byte is left");
    return;
  }
  if (f->kind == QUERN_FIELD_NUMBER) memcpy(&number, at, sizeof number);
  if (f->kind == QUERN_FIELD_INTEGER) number = (double)*(const int64_t *)(const void *)at;
  if (f->kind == QUERN_FIELD_INT) number = (double)*(const int *)(const void *)at;
  fuzz_require(number >= 0 && number <= 1e18, "a number is out of range");
}

static void check_fields(const void *report, quern_explain_level level) {
  size_t count;
  const quern_field *fields = quern_explain_fields(level, &count);
  for (size_t i = 0; i < count; i++) check_field(report, &fields[i]);
}

static void check_all(const explanation *e) {
  size_t term_count;
  const quern_explain_term *terms = quern_explain_terms(&term_count);
  check_fields(&e->told, QUERN_EXPLAIN_WHOLE);
  for (size_t p = 0; p < e->told.phase_count; p++) {
    const quern_phase_report *phase = &e->phases[p];
    check_fields(phase, QUERN_EXPLAIN_PHASE);
    for (size_t k = 0; k < phase->kernel_count; k++) {
      check_fields(&phase->kernels[k], QUERN_EXPLAIN_KERNEL);
      for (size_t t = 0; t < term_count; t++)
        check_field(&phase->kernels[k], &(quern_field){terms[t].name, QUERN_FIELD_NUMBER, terms[t].offset});
    }
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  qn_diag diag = {0};
  char *text = malloc(size + 1);
  explanation *e = explanation_create();
  fuzz_require(text != NULL && e != NULL, "out of memory");
  if (size > 0) memcpy(text, data, size);
  text[size] = '\0';
  qn_status status = explanation_parse("fuzz.json", text, size, e, &diag);
  free(text);
  if (status == QN_OK) {
    check_all(e);
  } else {
    fuzz_require(status == QN_ERR_FORMAT || status == QN_ERR_UNSUPPORTED || status == QN_ERR_LIMIT, "an odd status");
    fuzz_require(diag.status == status && strncmp(diag.text, "fuzz.json: ", 11) == 0, "an error does not name the file");
  }
  quern_explanation_free(&e->told);
  return 0;
}

// --- a seed that has every field

static void put_fields(qn_buf *out, quern_explain_level level) {
  size_t count;
  const quern_field *fields = quern_explain_fields(level, &count);
  for (size_t i = 0; i < count; i++)
    qn_buf_printf(out, fields[i].kind == QUERN_FIELD_TEXT ? "\"%s\":\"t\\n\"," : "\"%s\":1.5e3,", fields[i].key);
}

static void put_phase(qn_buf *out, const char *name, int kernels) {
  size_t count;
  const quern_explain_term *terms = quern_explain_terms(&count);
  qn_buf_printf(out, "\"%s\":{", name);
  put_fields(out, QUERN_EXPLAIN_PHASE);
  qn_buf_puts(out, "\"kernels\":[");
  for (int k = 0; k < kernels; k++) {
    qn_buf_puts(out, k ? ",{" : "{");
    put_fields(out, QUERN_EXPLAIN_KERNEL);
    qn_buf_puts(out, "\"terms\":{");
    for (size_t i = 0; i < count; i++) qn_buf_printf(out, "%s\"%s\":0", i ? "," : "", terms[i].name);
    qn_buf_puts(out, "}}");
  }
  qn_buf_puts(out, "]}");
}

void fuzz_seeds(fuzz_take_fn take, void *context) {
  qn_buf text;
  qn_buf_init(&text, qn_allocator_default());
  qn_buf_putc(&text, '{');
  put_fields(&text, QUERN_EXPLAIN_WHOLE);
  put_phase(&text, "prefill", 1);
  qn_buf_putc(&text, ',');
  put_phase(&text, "decode", 1);
  qn_buf_putc(&text, '}');
  take(context, text.data, text.length);
  qn_buf_deinit(&text);
}

static const char *const words[] = {"0",  "-1", "1e999", "99999999999999999999", "null", "true", "\"\"",
                                    "[]", "{}", "2.5",   "\"\\u0000\"",          "\"\\u001b[2J\"", "1e17", NULL};

QN_FUZZ_MAIN_WITH(.words = words, .runs = 4000, .json = true)
