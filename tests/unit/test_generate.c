// The decoding loop on a scripted model: what text comes out when, why it stops, and that stop strings and characters
// that come in pieces are held back.
#include "runtime/generate.h"

#include <math.h>
#include <stdio.h>

#include "tests/support/fake_model.h"
#include "tests/support/test.h"

// --- stop strings

// Pushes the pieces of `text` cut at every place where the bits of `cuts` say so; gives what came out, with '|' where
// the stop string was found, then what the flush gave in brackets.
static const char *filter(const qn_str *stops, size_t count, const char *text, unsigned cuts) {
  static char out[256];
  qn_stop_filter f;
  qn_diag diag = {0};
  size_t used = 0, begin = 0, length = strlen(text), stop;
  qn_assert_ok(&diag, qn_stop_filter_init(&f, stops, count, length, qn_test_allocator(), &diag));
  bool found = false;
  for (size_t i = 1; i <= length && !found; i++) {
    if (i < length && !(cuts >> (i - 1) & 1)) continue;
    qn_str given;
    found = qn_stop_filter_push(&f, (qn_str){text + begin, i - begin}, &given, &stop);
    used += (size_t)snprintf(out + used, sizeof out - used, "%.*s", QN_STR_ARGS(given));
    begin = i;
  }
  if (found) {
    used += (size_t)snprintf(out + used, sizeof out - used, "|%zu", stop);
  } else {
    qn_str rest = qn_stop_filter_flush(&f);
    used += (size_t)snprintf(out + used, sizeof out - used, "[%.*s]", QN_STR_ARGS(rest));
  }
  qn_stop_filter_deinit(&f);
  return out;
}

START_TEST(stop_strings) {
  const qn_str stops[] = {QN_STR("STOP"), QN_STR("\n\n"), QN_STR("TOPS")};
  for (unsigned cuts = 0; cuts < 1u << 9; cuts++) {  // however the text is cut
    ck_assert_str_eq(filter(stops, 3, "abSTOPcd", cuts), "ab|0");
    ck_assert_str_eq(filter(stops, 3, "abSTxOP\n", cuts), "abSTxOP[\n]");
    ck_assert_str_eq(filter(stops, 3, "STSTSTOP", cuts), "STST|0");
    ck_assert_str_eq(filter(stops, 3, "a\nb\n\nc", cuts), "a\nb|1");
    ck_assert_str_eq(filter(stops, 3, "xTOPS", cuts), "x|2");
    ck_assert_str_eq(filter(stops, 3, "xSTO", cuts), "x[STO]");
    ck_assert_str_eq(filter(stops, 0, "xSTOP", cuts), "xSTOP[]");
  }
  const qn_str nested[] = {QN_STR("abcd"), QN_STR("bc"), QN_STR("ab")};
  ck_assert_str_eq(filter(nested, 2, "xabcd", 0), "x|0");      // begins first
  ck_assert_str_eq(filter(nested, 2, "xabcd", 0xff), "xa|1");  // is there first
  ck_assert_str_eq(filter(nested, 3, "abcd", 0), "|0");
  const qn_str empty[] = {QN_STR("a"), QN_STR("")};
  qn_stop_filter f;
  qn_diag diag = {0};
  qn_assert_fails(&diag, QN_ERR_ARGUMENT, "empty one at place 1",
                  qn_stop_filter_init(&f, empty, 2, 8, qn_test_allocator(), &diag));
}
END_TEST

// --- generation

typedef struct fixture {
  qn_artifact artifact;
  qn_threads *threads;
  qn_decoder *decoder;
  qn_tokenizer *tokenizer;
  qn_sampler *sampler;
  qn_generate_params params;
  qn_generate_stats stats;
  qn_diag diag;
  char text[512];    // calls of the callback: "text" with id, separated by spaces
  int cancel_after;  // calls; 0 = never
  int calls;
  int asked, cancel_when_asked;  // of `cancelled`: times; 0 = never
} fixture;

static bool note(void *context, qn_str text, int32_t id) {
  fixture *f = context;
  size_t used = strlen(f->text);
  snprintf(f->text + used, sizeof f->text - used, "%s%d'%.*s'", used ? " " : "", id, QN_STR_ARGS(text));
  return ++f->calls != f->cancel_after;
}

static bool is_cancelled(void *context) {
  fixture *f = context;
  return ++f->asked == f->cancel_when_asked;
}

static const int32_t prompt[] = {QN_FAKE_BOS, QN_FAKE_ONE, QN_FAKE_TWO};

// The script is the prompt and what shall come after it.
static void set_up(fixture *f, const int32_t *script, size_t count, int64_t context) {
  size_t size;
  *f = (fixture){.artifact = qn_fake_model_open(&(qn_fake_options){.tokenizer = true})};
  qn_decoder_options options = {.context = context, .executor = {.jit_entries = qn_fake_kernels}};
  qn_sampler_options greedy = qn_sampler_options_default();
  greedy.temperature = 0;
  qn_fake_set_script(script, count);
  const void *blob = qn_artifact_section(&f->artifact, QN_SECTION_TOKENIZER, 0, &size);
  qn_assert_ok(&f->diag, qn_tokenizer_open(blob, size, qn_test_allocator(), &f->tokenizer, &f->diag));
  qn_assert_ok(&f->diag, qn_threads_create(2, false, qn_test_allocator(), &f->threads, &f->diag));
  qn_assert_ok(&f->diag,
               qn_decoder_create(&f->artifact, f->threads, &options, qn_test_allocator(), &f->decoder, &f->diag));
  qn_assert_ok(&f->diag, qn_sampler_create(&greedy, QN_FAKE_TOKENS, qn_test_allocator(), &f->sampler, &f->diag));
  f->params =
      (qn_generate_params){.prompt = prompt, .prompt_count = QN_COUNT(prompt), .callback = note, .callback_context = f};
}

static qn_status generate(fixture *f) {
  f->diag = (qn_diag){0};
  f->text[0] = '\0';
  f->calls = 0;
  return qn_generate(f->decoder, f->tokenizer, f->sampler, &f->params, qn_test_allocator(), &f->stats, &f->diag);
}

static void tear_down(fixture *f) {
  qn_sampler_destroy(f->sampler);
  qn_decoder_destroy(f->decoder);
  qn_threads_destroy(f->threads);
  qn_tokenizer_close(f->tokenizer);
  qn_artifact_close(&f->artifact);
  qn_fake_set_script(NULL, 0);
  ck_assert_int_eq(qn_fake_errors(), 0);
}

#define SCRIPT(...) static const int32_t script[] = {QN_FAKE_BOS, QN_FAKE_ONE, QN_FAKE_TWO, __VA_ARGS__}

START_TEST(until_the_end_of_the_text) {
  SCRIPT(QN_FAKE_ONE, QN_FAKE_AB, QN_FAKE_E2, QN_FAKE_82, QN_FAKE_AC, QN_FAKE_E2, QN_FAKE_X, QN_FAKE_EOS);
  fixture f;
  set_up(&f, script, QN_COUNT(script), 100);
  qn_assert_ok(&f.diag, generate(&f));
  ck_assert_str_eq(f.text, "6' one' 8'ab' 3'' 4'' 5'\xE2\x82\xAC' 3'' 16'\xE2x'");
  ck_assert_int_eq(f.stats.reason, QN_STOP_EOG);
  ck_assert_int_eq(f.stats.prompt_tokens, 3);
  ck_assert_int_eq(f.stats.generated_tokens, 8);
  ck_assert_int_eq(f.stats.decode_steps, 7);
  ck_assert_int_eq(f.stats.pending, QN_FAKE_EOS);
  ck_assert_int_eq(qn_decoder_position(f.decoder, 0), 10);
  ck_assert(f.stats.prefill_ns > 0 && f.stats.first_ns >= f.stats.prefill_ns && f.stats.decode_ns > 0);
  tear_down(&f);
}
END_TEST

START_TEST(text_left_at_the_end) {
  SCRIPT(QN_FAKE_ST, QN_FAKE_E2, QN_FAKE_82);
  fixture f;
  const qn_str stops[] = {QN_STR("STOP"), QN_STR("ST\xE2\x82!")};
  set_up(&f, script, QN_COUNT(script), 100);
  f.params.max_tokens = 3;
  f.params.stops = stops;
  f.params.stop_count = 2;
  qn_assert_ok(&f.diag, generate(&f));
  ck_assert_str_eq(f.text, "12'' 3'' 4'' -1'ST\xE2\x82'");
  ck_assert_int_eq(f.stats.reason, QN_STOP_MAX_TOKENS);
  ck_assert_int_eq(f.stats.pending, QN_FAKE_82);
  ck_assert_int_eq(qn_decoder_position(f.decoder, 0), 5);
  tear_down(&f);
}
END_TEST

START_TEST(a_stop_string_across_tokens) {
  SCRIPT(QN_FAKE_AB, QN_FAKE_ST, QN_FAKE_X, QN_FAKE_ST, QN_FAKE_OP, QN_FAKE_ONE);
  fixture f;
  const qn_str stops[] = {QN_STR("never"), QN_STR("STOP")};
  set_up(&f, script, QN_COUNT(script), 100);
  f.params.stops = stops;
  f.params.stop_count = 2;
  qn_assert_ok(&f.diag, generate(&f));
  ck_assert_str_eq(f.text, "8'ab' 12'' 16'STx' 12'' 13''");
  ck_assert_int_eq(f.stats.reason, QN_STOP_STRING);
  ck_assert_uint_eq(f.stats.stop_index, 1);
  ck_assert_int_eq(f.stats.pending, QN_FAKE_OP);
  tear_down(&f);
}
END_TEST

START_TEST(the_context_fills) {
  fixture f;
  set_up(&f, NULL, 0, 20);
  f.params.ignore_eog = true;
  qn_assert_ok(&f.diag, generate(&f));
  ck_assert_int_eq(f.stats.reason, QN_STOP_CONTEXT);
  ck_assert_int_eq(qn_decoder_position(f.decoder, 0), 20);
  ck_assert_int_eq(f.stats.generated_tokens, 18);
  ck_assert(f.stats.pending >= 0);
  qn_assert_fails(&f.diag, QN_ERR_LIMIT, "the context is full", generate(&f));
  ck_assert_int_eq(f.stats.prompt_tokens, 0);
  tear_down(&f);
}
END_TEST

START_TEST(cancelled_and_continued) {
  SCRIPT(QN_FAKE_AB, QN_FAKE_CD, QN_FAKE_ONE, QN_FAKE_TWO, QN_FAKE_EOS);
  fixture f;
  set_up(&f, script, QN_COUNT(script), 100);
  f.cancel_after = 2;
  qn_assert_ok(&f.diag, generate(&f));
  ck_assert_str_eq(f.text, "8'ab' 9'cd'");
  ck_assert_int_eq(f.stats.reason, QN_STOP_CANCELLED);
  ck_assert_int_eq(f.stats.pending, QN_FAKE_CD);
  f.cancel_after = 0;
  f.params.prompt = &f.stats.pending;
  f.params.prompt_count = 1;
  qn_generate_stats before = f.stats;
  f.params.prompt = &before.pending;
  qn_assert_ok(&f.diag, generate(&f));
  ck_assert_str_eq(f.text, "6' one' 7' two'");
  ck_assert_int_eq(f.stats.reason, QN_STOP_EOG);
  tear_down(&f);
}
END_TEST

// A fork that has the prompt's first tokens gives the same text, stop reason and history of the sampler, whatever it has.
START_TEST(a_prompt_that_is_held) {
  static int32_t tokens[40];
  fixture f;
  char whole[sizeof f.text];
  for (int32_t i = 0; i < 40; i++) tokens[i] = QN_FAKE_ONE + i % 3;
  set_up(&f, NULL, 0, 100);
  qn_sampler_options penalty = qn_sampler_options_default();
  penalty.temperature = 0;
  penalty.repeat_penalty = 3;
  f.params.prompt = tokens;
  f.params.prompt_count = 40;
  f.params.max_tokens = 12;
  f.params.ignore_eog = true;
  static const size_t helds[] = {0, 1, 15, 16, 39};
  for (size_t i = 0; i < QN_COUNT(helds); i++) {
    qn_sampler_destroy(f.sampler);
    qn_assert_ok(&f.diag, qn_sampler_create(&penalty, QN_FAKE_TOKENS, qn_test_allocator(), &f.sampler, &f.diag));
    qn_decoder_truncate(f.decoder, 0, (int64_t)helds[i]);
    f.params.held = helds[i];
    qn_assert_ok(&f.diag, generate(&f));
    if (i == 0) strcpy(whole, f.text);
    ck_assert_str_eq(f.text, whole);
    ck_assert(f.stats.prompt_tokens == 40 && f.stats.held_tokens == (int64_t)helds[i]);
  }
  f.params.held = 40;
  qn_assert_fails(&f.diag, QN_ERR_ARGUMENT, "prompt_held: got 40, want fewer than the prompt's 40 tokens", generate(&f));
  qn_decoder_truncate(f.decoder, 0, 3);
  f.params.held = 4;
  qn_assert_fails(&f.diag, QN_ERR_ARGUMENT, "and at most the 3 that the sequence has", generate(&f));
  // The first tokens being held, a text begins all the same, without the space that is put before one.
  SCRIPT(QN_FAKE_ONE, QN_FAKE_EOS);
  qn_fake_set_script(script, QN_COUNT(script));
  static const int32_t begin[] = {QN_FAKE_BOS, QN_FAKE_BOS, QN_FAKE_BOS};
  qn_decoder_truncate(f.decoder, 0, 0);
  const float *last;
  qn_assert_ok(&f.diag, qn_decoder_eval(f.decoder, 0, begin, 2, NULL, &last, &f.diag));
  f.params.prompt = begin;
  f.params.prompt_count = 3;
  f.params.held = 2;
  f.params.ignore_eog = false;
  qn_assert_ok(&f.diag, generate(&f));
  ck_assert_str_eq(f.text, "6'one'");
  tear_down(&f);
}
END_TEST

// Chunks of 16: a prompt of 40 tokens takes three steps.
START_TEST(cancelled_between_steps) {
  static int32_t tokens[40];
  fixture f;
  for (int32_t i = 0; i < 40; i++) tokens[i] = QN_FAKE_ONE + i % 3;
  set_up(&f, NULL, 0, 100);
  f.params.prompt = tokens;
  f.params.prompt_count = 40;
  f.params.max_tokens = 4;
  f.params.ignore_eog = true;
  f.params.cancelled = is_cancelled;
  char whole[sizeof f.text];
  qn_assert_ok(&f.diag, generate(&f));
  ck_assert_int_eq(f.asked, 3 + 3);
  ck_assert_int_eq(f.stats.reason, QN_STOP_MAX_TOKENS);
  strcpy(whole, f.text);
  qn_decoder_truncate(f.decoder, 0, 2);
  f.asked = 0;
  f.cancel_when_asked = 3;  // two chunks are in the cache by then
  qn_assert_ok(&f.diag, generate(&f));
  ck_assert_str_eq(f.text, "");
  ck_assert(f.stats.reason == QN_STOP_CANCELLED && f.stats.prompt_tokens == 0 && f.stats.pending == -1);
  ck_assert_int_eq(qn_decoder_position(f.decoder, 0), 2);
  f.params.prompt += 2;
  f.params.prompt_count -= 2;
  f.asked = 0;
  f.cancel_when_asked = 5;  // before the second token is evaluated
  qn_assert_ok(&f.diag, generate(&f));
  ck_assert_int_eq(f.calls, 2);
  ck_assert(strncmp(f.text, whole, strlen(f.text)) == 0);
  ck_assert(f.stats.reason == QN_STOP_CANCELLED && f.stats.generated_tokens == 2 && f.stats.pending >= 0);
  ck_assert_int_eq(qn_decoder_position(f.decoder, 0), 41);
  // What does not fit is refused before any of it is evaluated.
  static int32_t many[60];
  f.params.prompt = many;
  f.params.prompt_count = 60;
  f.asked = 0;
  qn_assert_fails(&f.diag, QN_ERR_LIMIT, "context", generate(&f));
  ck_assert(f.asked == 0 && qn_decoder_position(f.decoder, 0) == 41);
  tear_down(&f);
}
END_TEST

static void logits_of_nan(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  float *logits = buffers[2];
  (void)symbols;
  for (int64_t v = begin; v < end; v++) logits[v] = NAN;
}

START_TEST(logits_that_are_no_numbers) {
  static qn_kernel_entry kernels[QN_FAKE_KERNELS];
  fixture f;
  memcpy(kernels, qn_fake_kernels, sizeof kernels);
  kernels[2] = logits_of_nan;
  set_up(&f, NULL, 0, 100);
  qn_decoder_options options = {.context = 100, .executor = {.jit_entries = kernels}};
  qn_decoder_destroy(f.decoder);
  qn_assert_ok(&f.diag, qn_decoder_create(&f.artifact, f.threads, &options, qn_test_allocator(), &f.decoder, &f.diag));
  qn_assert_fails(&f.diag, QN_ERR_FORMAT, "the weights may be damaged, try --check-weights", generate(&f));
  ck_assert_msg(strncmp(f.diag.text, f.artifact.path, strlen(f.artifact.path)) == 0, "%s", f.diag.text);
  tear_down(&f);
}
END_TEST

START_TEST(sequences_that_are_not_there) {
  fixture f;
  set_up(&f, NULL, 0, 100);
  f.params.sequence = 1;
  qn_assert_fails(&f.diag, QN_ERR_ARGUMENT, "sequence: got 1, want 0 to 0", generate(&f));
  f.params.sequence = -1;
  qn_assert_fails(&f.diag, QN_ERR_ARGUMENT, "sequence: got -1", generate(&f));
  tear_down(&f);
}
END_TEST

START_TEST(settings) {
  SCRIPT(QN_FAKE_EOS, QN_FAKE_AB, QN_FAKE_EOS, QN_FAKE_X);
  fixture f;
  set_up(&f, script, QN_COUNT(script), 100);
  f.params.max_tokens = 4;
  f.params.ignore_eog = f.params.show_special = true;
  qn_assert_ok(&f.diag, generate(&f));
  ck_assert_str_eq(f.text, "2'</s>' 8'ab' 2'</s>' 16'x'");
  qn_decoder_reset(f.decoder, 0);
  f.params.show_special = false;
  qn_assert_ok(&f.diag, generate(&f));
  ck_assert_str_eq(f.text, "2'' 8'ab' 2'' 16'x'");
  qn_decoder_reset(f.decoder, 0);
  f.params.callback = NULL;
  qn_assert_ok(&f.diag, generate(&f));
  ck_assert_int_eq(f.stats.generated_tokens, 4);
  f.params.max_tokens = -1;
  qn_assert_fails(&f.diag, QN_ERR_ARGUMENT, "max_tokens: got -1", generate(&f));
  f.params.max_tokens = 1;
  f.params.prompt_count = 0;
  qn_assert_fails(&f.diag, QN_ERR_ARGUMENT, "got 0 tokens", generate(&f));
  tear_down(&f);
}
END_TEST

START_TEST(without_a_tokenizer) {
  SCRIPT(QN_FAKE_EOS, QN_FAKE_AB);
  fixture f;
  set_up(&f, script, QN_COUNT(script), 100);
  qn_tokenizer *tokenizer = f.tokenizer;
  f.tokenizer = NULL;
  f.params.max_tokens = 2;
  qn_assert_ok(&f.diag, generate(&f));
  ck_assert_str_eq(f.text, "2'' 8''");
  const qn_str stop = QN_STR("x");
  f.params.stops = &stop;
  f.params.stop_count = 1;
  qn_assert_fails(&f.diag, QN_ERR_ARGUMENT, "without a tokenizer", generate(&f));
  f.tokenizer = tokenizer;
  tear_down(&f);
}
END_TEST

static qn_status generate_with(const qn_allocator *allocator, void *context) {
  fixture *f = context;
  qn_decoder_reset(f->decoder, 0);
  return qn_generate(f->decoder, f->tokenizer, f->sampler, &f->params, allocator, &f->stats, NULL);
}

START_TEST(out_of_memory) {
  SCRIPT(QN_FAKE_AB, QN_FAKE_EOS);
  fixture f;
  set_up(&f, script, QN_COUNT(script), 100);
  qn_test_failing_allocations(generate_with, &f);
  tear_down(&f);
}
END_TEST

QN_CASE(stops, stop_strings, a_stop_string_across_tokens, text_left_at_the_end)
QN_CASE(loop, until_the_end_of_the_text, the_context_fills, cancelled_and_continued, a_prompt_that_is_held, cancelled_between_steps, settings,
        without_a_tokenizer)
QN_CASE(refused, logits_that_are_no_numbers, sequences_that_are_not_there)
QN_CASE(memory, out_of_memory)
QN_TEST_MAIN(stops, loop, refused, memory)
