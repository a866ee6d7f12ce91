// The model that ships on a GPU, in the simulator or on the driver that QUERN_TEST_LIBCUDA names: what it says
// (gpu_speech.h), the device's peaks, guesses from the CPU, and code that was changed.
#include <stdio.h>
#include <stdlib.h>

#include "frontend/quern.h"
#include "runtime/base/file.h"
#include "tests/support/artifact_builder.h"
#include "tests/support/gpu_program.h"
#include "tests/support/gpu_speech.h"
#include "tests/support/test.h"

static quern_error error;
#define OK(call) ck_assert_msg((call) == 0, "%s: %s", #call, error.text)

START_TEST(nano) { qn_test_gpu_speaks(qn_test_source("models/nano/nano.gguf"), "int8", qn_test_gpu_tokens(3)); }
END_TEST

// The device's peaks, by kernels of their own; a CPU's model has no device.
START_TEST(peaks) {
  const char *path = qn_test_temp_path("peaks.qn");
  quern_compile_options options = {
      .size = sizeof options, .target = "host,cuda:sm_80", .context_tokens = 96, .tuning_db = "none"};
  OK(quern_compile(qn_test_source("models/nano/nano.gguf"), path, &options, &error));
  for (int gpu = 0; gpu < 2; gpu++) {
    quern_model *model = NULL;
    struct {
      quern_device_peaks known;
      double unknown;
    } newer = {{.size = sizeof newer}, 5};  // a caller's who knows of more: that is zero then
    quern_device_peaks measured = {.size = sizeof measured};
    quern_model_options how = {.size = sizeof how, .device = gpu ? "cuda" : NULL, .libcuda = gpu ? qn_test_libcuda() : NULL};
    OK(quern_model_open(path, &how, &model, &error));
    int code = quern_model_measure_peaks(model, NULL, &newer.known, &error);
    ck_assert_msg(code == (gpu ? 0 : QUERN_ERR_ARGUMENT), "got %d: %s", code, error.text);
    if (!gpu) ck_assert(strstr(error.text, "got a model on the CPU") != NULL);
    const quern_device_peaks *known = &newer.known;
    if (gpu) ck_assert(known->fp32_ops_per_s > 0 && known->int8_ops_per_s > 0 && known->f16_ops_per_s > 0);
    if (gpu) ck_assert(known->size == sizeof newer && newer.unknown == 0);
    measured.size = 0;
    code = quern_model_measure_peaks(model, NULL, &measured, &error);
    ck_assert_msg(code == QUERN_ERR_ARGUMENT && strstr(error.text, "quern_device_peaks: got size 0"), "got %d: %s", code, error.text);
    measured.size = sizeof measured;
    if (gpu) {
      code = quern_model_measure_peaks(model, "/nowhere/libnvrtc.so", &measured, &error);
      ck_assert_msg(code == QUERN_ERR_TARGET && strstr(error.text, "/nowhere/libnvrtc.so"), "got %d: %s", code, error.text);
    }
    quern_model_close(model);
  }
}
END_TEST

// What guesses beside a model on a GPU must be there, too.
START_TEST(guesses_from_the_cpu) {
  static const struct {
    quern_technique technique;
    const char *model, *error;
  } cases[] = {{QUERN_SPECULATE_DRAFT, "models/nano/draft.gguf", "the draft model is on the CPU, want it on the GPU that "},
               {QUERN_SPECULATE_MEDUSA, "models/nano/medusa", "the heads are on the CPU, want them on the GPU that "}};
  const char *path = qn_test_temp_path("guessed.qn");
  quern_compile_options options = {.size = sizeof options,
                                   .target = "cuda:sm_80",
                                   .context_tokens = 96,
                                   .chunk_tokens = 4,
                                   .sequences = 2,
                                   .guesses = true,
                                   .tuning_db = "none"};
  quern_model_options how = {.size = sizeof how, .device = "cuda", .libcuda = qn_test_libcuda()};
  quern_model *model = NULL;
  quern_session *session = NULL;
  OK(quern_compile(qn_test_source("models/nano/draft.gguf"), path, &options, &error));
  OK(quern_model_open(path, &how, &model, &error));
  OK(quern_session_create(model, NULL, &session, &error));
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    quern_model *beside = NULL;
    quern_speculator *speculator = NULL;
    options = (quern_compile_options){.size = sizeof options, .context_tokens = 96, .tuning_db = "none"};
    OK(quern_jit(qn_test_source(cases[i].model), &options, &beside, &error));
    quern_speculator_options guesses = {.size = sizeof guesses, .technique = cases[i].technique, .draft = beside};
    int code = (int)quern_speculator_create(session, &guesses, &speculator, &error);
    ck_assert_msg(code == QUERN_ERR_ARGUMENT && strstr(error.text, cases[i].error), "got %d: %s", code, error.text);
    quern_model_close(beside);
  }
  quern_session_destroy(session);
  quern_model_close(model);
}
END_TEST

static void note_wrong(void *context, const quern_verified *r) {
  int *wrong = context;
  if (strcmp(r->verdict, "wrong") == 0 && strstr(r->evidence, "want")) (*wrong)++;
}

// Code whose every addition was made a subtraction, and whose checksums fit, is found out.
START_TEST(changed_code) {
  const char *path = qn_test_temp_path("changed.qn"), add[] = "add.rn.f32", sub[] = "sub.rn.f32";
  if (!qn_test_simulated()) return;  // a device may take the machine code
  quern_compile_options options = {.size = sizeof options, .target = "cuda:sm_80", .context_tokens = 96, .chunk_tokens = 16};
  OK(quern_compile(qn_test_source("models/nano/nano.gguf"), path, &options, &error));
  char *bytes = NULL;
  size_t size = 0;
  int wrong = 0;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_file_read(path, SIZE_MAX / 2, qn_allocator_default(), &bytes, &size, &diag));
  for (char *at = bytes; (at = memmem(at, (size_t)(bytes + size - at), add, sizeof add - 1)) != NULL;)
    memcpy(at, sub, sizeof sub - 1);
  qn_test_artifact_rehash((uint8_t *)bytes, size);
  qn_test_write_file(path, bytes, size);
  quern_verify_report report = {.size = sizeof report};
  quern_verify_options how = {.size = sizeof how, .quick = true, .device = "cuda", .libcuda = qn_test_libcuda(),
                              .verified = note_wrong, .verified_context = &wrong};
  int code = quern_verify(path, &how, &report, &error);
  ck_assert_msg(code == QUERN_ERR_FORMAT && strstr(error.text, "for cuda:sm_80 do other than their loop IR says"),
                "got %d: %s", code, error.text);
  ck_assert(wrong > 0 && report.wrong >= (uint32_t)wrong && report.checked > report.wrong);
  qn_free(qn_allocator_default(), bytes, size + 1);
}
END_TEST
static TCase *models(void) {
  qn_test_gpu_open();
  const TTest *const tests[] = {nano, peaks, guesses_from_the_cpu, changed_code};
  return qn_test_case("models", tests, QN_COUNT(tests));
}

QN_TEST_MAIN(models)
