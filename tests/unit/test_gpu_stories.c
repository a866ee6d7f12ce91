// A shared model on a GPU, in the simulator or on the driver that QUERN_TEST_LIBCUDA names: what it says (gpu_speech.h).
#include "tests/support/gpu_speech.h"
#include "tests/support/test.h"

static const char *stories;

START_TEST(stories260k) { qn_test_gpu_speaks(stories, "int8", qn_test_gpu_tokens(8)); }
END_TEST

START_TEST(stories_without_int8) { qn_test_gpu_speaks(stories, "f32", qn_test_gpu_tokens(2)); }
END_TEST

static TCase *models(void) {
  stories = qn_test_shared("models/stories260K/stories260K.gguf");
  if (!stories) qn_test_skip("no shared model models/stories260K/stories260K.gguf (set QUERN_SHARED)");
  qn_test_gpu_open();
  const TTest *const tests[] = {stories260k, stories_without_int8};
  return qn_test_case("models", tests, QN_COUNT(tests));
}

QN_TEST_MAIN(models)
