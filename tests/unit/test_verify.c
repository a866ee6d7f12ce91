// quern_verify: an artifact as the compiler made it is right; one whose code was changed, and whose checksums were made
// to fit again, is found out, and whatever such code does stays in a child.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "frontend/quern.h"
#include "tests/support/artifact_builder.h"
#include "tests/support/only_child.h"
#include "tests/support/test.h"

static uint8_t *bytes;  // of the artifact
static size_t size;

static void make_artifact(void) {
  quern_error error = {0};
  const char *path = qn_test_temp_path("verify.qn");
  quern_compile_options options = {.size = sizeof options, .context_tokens = 128, .chunk_tokens = 16};
  ck_assert_msg(quern_compile(qn_test_source("models/nano/nano.gguf"), path, &options, &error) == 0, "%s", error.text);
  FILE *file = fopen(path, "rb");
  ck_assert_ptr_nonnull(file);
  fseek(file, 0, SEEK_END);
  size = (size_t)ftell(file);
  rewind(file);
  bytes = malloc(size);
  ck_assert_uint_eq(fread(bytes, 1, size, file), size);
  fclose(file);
}

static void free_artifact(void) { free(bytes); }

typedef struct seen {
  int right, wrong;
  char kernel[96], verdict[16], evidence[256];  // of the last that is not right
} seen;

static void note(void *context, const quern_verified *r) {
  seen *s = context;
  if (strcmp(r->verdict, "ok") == 0) {
    s->right++;
    return;
  }
  s->wrong++;
  snprintf(s->kernel, sizeof s->kernel, "%s", r->kernel);
  snprintf(s->verdict, sizeof s->verdict, "%s", r->verdict);
  snprintf(s->evidence, sizeof s->evidence, "%s", r->evidence);
}

static int verify(const char *path, bool quick, seen *s, quern_verify_report *report, quern_error *error) {
  *s = (seen){0};
  quern_verify_options options = {.size = sizeof options,
                                  .quick = quick,
                                  .limit_s = quick ? 1 : 0,
                                  .verified = note,
                                  .verified_context = s,
                                  .check_weights = true};
  return quern_verify(path, &options, report, error);
}

// The artifact with what was done to it, and fitting checksums. Of this test's process.
static const char *changed(void) {
  const char *path = qn_test_temp_path("changed.qn");
  qn_test_artifact_rehash(bytes, size);
  qn_test_write_file(path, bytes, size);
  return path;
}

static qn_art_code *code_of(uint8_t **out_image) {
  const qn_art_header *header = (const void *)bytes;
  const qn_art_section *sections = (const void *)(header + 1);
  for (uint32_t i = 0; i < header->section_count; i++) {
    if (sections[i].kind != QN_SECTION_CODE) continue;
    qn_art_code *code = (void *)(bytes + sections[i].offset);
    *out_image = (uint8_t *)code + code->image_offset;
    return code;
  }
  ck_abort_msg("no code");
  return NULL;
}

START_TEST(right) {
  seen s;
  quern_verify_report report = {.size = sizeof report};
  quern_error error = {0};
  int code = verify(changed(), false, &s, &report, &error);
  ck_assert_msg(code == 0, "%s: %s: %s", error.text, s.kernel, s.evidence);
  ck_assert(s.right >= 10 && s.wrong == 0 && report.wrong == 0);
  ck_assert_int_eq((int)report.checked, s.right);
  ck_assert(report.target[0] != 0);
  ck_assert_int_eq(waitpid(-1, NULL, WNOHANG), -1);
}
END_TEST

// The first instruction of one variant becomes a return: it computes nothing, and no other is blamed.
START_TEST(a_changed_instruction) {
  static const uint8_t x86[] = {0xC3}, arm[] = {0xC0, 0x03, 0x5F, 0xD6};
  seen s;
  quern_verify_report report = {.size = sizeof report};
  quern_error error = {0};
  uint8_t *image;
  qn_art_code *code = code_of(&image);
  const uint64_t *offsets = (const void *)(code + 1);
  uint8_t *at = image + offsets[code->variant_count / 2];
  memcpy(at, code->arch == 0 ? x86 : arm, code->arch == 0 ? sizeof x86 : sizeof arm);
  ck_assert_int_eq(verify(changed(), true, &s, &report, &error), QUERN_ERR_FORMAT);
  ck_assert_msg(s.wrong == 1 && report.wrong == 1, "%d are wrong", s.wrong);
  ck_assert_str_eq(s.verdict, "wrong");
  ck_assert_msg(strstr(s.evidence, "it was not written"), "%s", s.evidence);
  ck_assert_msg(strstr(error.text, "do other than their loop IR says"), "%s", error.text);
}
END_TEST

// A bit here and there: most are found, and none ends this process.
START_TEST(changed_bits) {
  uint8_t *image;
  qn_art_code *code = code_of(&image);
  qn_test_random random = {99};
  enum { TRIES = 8 };  // of fewer all may meet what is never run
  int found = 0;
  for (int i = 0; i < TRIES; i++) {
    seen s;
    quern_verify_report report = {.size = sizeof report};
    quern_error error = {0};
    uint8_t *at = image + qn_test_random_u64(&random) % (code->image_size / 2);
    uint8_t before = *at;
    *at ^= (uint8_t)(1u << qn_test_random_u64(&random) % 8);
    int status = verify(changed(), true, &s, &report, &error);
    ck_assert_msg(status == 0 || status == QUERN_ERR_FORMAT, "%s", error.text);
    found += status != 0;
    *at = before;
  }
  ck_assert_msg(found * 3 >= TRIES, "found %d of %d", found, TRIES);
}
END_TEST

// What the text says of parameters and loops may be anything.
START_TEST(changed_text) {
  static const struct {
    const char *from, *to;
    int status;
    const char *text;
  } cases[] = {
      {"#   layouts = ", "#   lay-outs =", QUERN_ERR_FORMAT, "how its weights are packed is not told"},
      {"rows16,-,-\n", "rows61,-,-\n", QUERN_ERR_FORMAT, "a layout is none that is known"},
      {"rows16,-,-\n", "-,-,-,-,-,\n", QUERN_ERR_FORMAT, "it tells other layouts"},
      {"rows16,-,-\n", "rows1 ,-,-\n", QUERN_ERR_FORMAT, "a layout is none that is known"},
      {"acc[0] = fma(", "acc[0] = max(", QUERN_ERR_FORMAT, ""},
      {"schedule of qk_m", "schedule of qk_n", QUERN_ERR_FORMAT, "its schedule is not there"},
      {"0.0", "1.0", QUERN_ERR_FORMAT, "do other than their loop IR says"},
  };
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    seen s;
    quern_verify_report report = {.size = sizeof report};
    quern_error error = {0};
    const qn_art_header *header = (const void *)bytes;
    const qn_art_section *section = (const void *)(header + 1);
    while (section->kind != QN_SECTION_KERNELS) section++;
    char *at = memmem(bytes + section->offset, section->size, cases[i].from, strlen(cases[i].from));
    ck_assert_msg(at != NULL, "no '%s'", cases[i].from);
    memcpy(at, cases[i].to, strlen(cases[i].to));
    ck_assert_int_eq(verify(changed(), true, &s, &report, &error), cases[i].status);
    ck_assert_msg(strstr(error.text, cases[i].text), "case %zu: %s", i, error.text);
    memcpy(at, cases[i].from, strlen(cases[i].from));
  }
}
END_TEST

// Types of buffers that do not fit the kernels are a result, or an error, of the one that they belong to.
START_TEST(changed_types) {
  const qn_art_header *header = (const void *)bytes;
  const qn_art_section *section = (const void *)(header + 1);
  while (section->kind != QN_SECTION_PROGRAM) section++;
  qn_art_program *program = (void *)(bytes + section->offset);
  qn_art_buffer *buffers = (void *)(bytes + section->offset + qn_align_up(sizeof *program, 8));
  static const int64_t values[] = {0, 1, 3, 100, INT32_MAX};
  size_t stride = qn_test_stride(29, 61);
  for (size_t i = 0; i < program->buffer_count; i += stride) {
    for (size_t v = 0; v < QN_COUNT(values); v += 2) {
      seen s;
      quern_verify_report report = {.size = sizeof report};
      quern_error error = {0};
      qn_art_buffer before = buffers[i];
      if (before.output) continue;
      if (before.rank > 0) buffers[i].dims[(i + v) % before.rank] = values[v];
      buffers[i].dtype = (uint32_t)(i + v) % 24;
      buffers[i].row_pitch = values[(v + 1) % QN_COUNT(values)];
      int status = verify(changed(), true, &s, &report, &error);
      ck_assert_msg(status >= 0 && status <= QUERN_ERR_LIMIT, "buffer %zu: %s", i, error.text);
      buffers[i] = before;
    }
  }
}
END_TEST

static void expect(const char *text, int code) {
  seen s;
  quern_verify_report report = {.size = sizeof report};
  quern_error error = {0};
  ck_assert_int_eq(verify(changed(), true, &s, &report, &error), code);
  ck_assert_msg(strstr(error.text, text) != NULL, "got '%s', want '%s' in it", error.text, text);
}

// What the program says beside the text.
START_TEST(changed_program) {
  const qn_art_header *header = (const void *)bytes;
  qn_art_section *sections = (void *)(bytes + sizeof *header), *program_section = sections, *kernels = sections;
  while (program_section->kind != QN_SECTION_PROGRAM) program_section++;
  while (kernels->kind != QN_SECTION_KERNELS) kernels++;
  uint8_t *at = bytes + program_section->offset;
  qn_art_program *program = (void *)at;
  qn_art_buffer *buffers = (void *)(at + qn_align_up(sizeof *program, 8));
  qn_artifact a;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_artifact_open(&a, changed(), &diag));  // for the places of its arrays
  qn_art_kernel *kernel = (void *)(at + ((const uint8_t *)a.kernels - (const uint8_t *)a.program));
  qn_art_step *step = (void *)(at + ((const uint8_t *)a.steps - (const uint8_t *)a.program));
  qn_artifact_close(&a);
  step += program->step_count - 1;  // the logits, which no other step computes
  kernel += step->kernel;
  uint32_t dtype = buffers[0].dtype;
  buffers[0].dtype = 200;
  expect("buffer 0: got type 200, want one below", QUERN_ERR_FORMAT);
  buffers[0].dtype = dtype;
  kernel->param_count--;
  step->operand_count--;
  expect("parameters in its text, want", QUERN_ERR_FORMAT);
  kernel->param_count++;
  step->operand_count++;
  kernels->kind = 99;
  expect("carries no loop IR of its kernels", QUERN_ERR_UNSUPPORTED);
  kernels->kind = QN_SECTION_KERNELS;
}
END_TEST

static bool stop_at_once(void *context, const char *stage, uint64_t done, uint64_t total) {
  (void)stage, (void)total;
  return done < *(uint64_t *)context;
}

static bool kill_child(void *context, const char *stage, uint64_t done, uint64_t total) {
  int *left = context;
  (void)done, (void)total;
  pid_t child = *left > 0 && strcmp(stage, "checking kernels") == 0 ? qn_test_only_child() : 0;
  if (child > 0 && kill(child, SIGKILL) == 0) (*left)--;
  return true;
}

// What the system kills for memory says nothing of the code: it is checked once more, and if that is killed, too, not blamed.
START_TEST(killed_by_the_system) {
  for (int kills = 1; kills <= 2; kills++) {
    int left = kills;
    quern_error error = {0};
    quern_verify_report report = {.size = sizeof report};
    quern_verify_options options = {.size = sizeof options, .quick = true, .progress = kill_child, .progress_context = &left};
    int code = quern_verify(changed(), &options, &report, &error);
    ck_assert_int_eq(left, 0);
    ck_assert_msg(code == (kills == 1 ? 0 : QUERN_ERR_NOMEM), "%d killed: got %d: %s", kills, code, error.text);
    ck_assert_uint_eq(report.wrong, 0);
    ck_assert(kills == 1 || strstr(error.text, "' was killed twice from outside (signal 9 (Killed)), which the system does when"));
    ck_assert_int_eq(waitpid(-1, NULL, WNOHANG), -1);
  }
}
END_TEST

START_TEST(asked_wrongly) {
  quern_error error = {0};
  uint64_t limit = 3;
  const char *path = changed();
  quern_verify_options none = {0}, target = {.size = sizeof target, .target = "z80"};
  quern_verify_options stopped = {
      .size = sizeof stopped, .quick = true, .progress = stop_at_once, .progress_context = &limit};
  ck_assert_int_eq(quern_verify(path, &none, NULL, &error), QUERN_ERR_ARGUMENT);
  ck_assert_ptr_nonnull(strstr(error.text, "got size 0"));
  ck_assert_int_eq(quern_verify(path, NULL, &(quern_verify_report){0}, &error), QUERN_ERR_ARGUMENT);
  ck_assert_ptr_nonnull(strstr(error.text, "quern_verify_report: got size 0"));
  ck_assert_int_eq(quern_verify(path, &target, NULL, &error), QUERN_ERR_ARGUMENT);
  ck_assert_ptr_nonnull(strstr(error.text, "got target 'z80', want one of"));
  ck_assert_int_eq(quern_verify(path, &stopped, NULL, &error), QUERN_ERR_CANCELLED);
  ck_assert_int_eq(quern_verify(qn_test_source("README.md"), NULL, NULL, &error), QUERN_ERR_FORMAT);
  ck_assert_int_eq(quern_verify(qn_test_temp_path("none.qn"), NULL, NULL, &error), QUERN_ERR_IO);
  ck_assert_int_eq(waitpid(-1, NULL, WNOHANG), -1);
}
END_TEST

static TCase *artifacts(void) {
  TCase *tests = tcase_create("artifacts");
  tcase_add_unchecked_fixture(tests, make_artifact, free_artifact);
  tcase_set_timeout(tests, 300);
  tcase_add_test(tests, right);
  tcase_add_test(tests, a_changed_instruction);
  tcase_add_test(tests, changed_bits);
  tcase_add_test(tests, changed_text);
  tcase_add_test(tests, changed_types);
  tcase_add_test(tests, changed_program);
  tcase_add_test(tests, killed_by_the_system);
  tcase_add_test(tests, asked_wrongly);
  return tests;
}
QN_TEST_MAIN(artifacts)
