// The pre-tokenizer: UTF-8, the byte alphabet, where the patterns cut (by hand, from the models' tokenizer.json
// patterns), and that time stays linear.
#include <stdio.h>
#include <stdlib.h>

#include "frontend/import/vocab_pre.h"
#include "runtime/tokenizer_impl.h"
#include "tests/unit/tokenizer_vocabulary.h"

START_TEST(utf8_sequences) {
  const struct {
    const char *text;
    size_t length;
    bool unfinished;
  } cases[] = {{"a", 1, 0},
               {"\x7F", 1, 0},
               {"\x80", 0, 0},
               {"\xBF", 0, 0},
               {"\xC0\x80", 0, 0},
               {"\xC1\xBF", 0, 0},
               {"\xC2\x80", 2, 0},
               {"\xC2", 0, 1},
               {"\xC2x", 0, 0},
               {"\xE0\x9F\x80", 0, 0},
               {"\xE0\xA0\x80", 3, 0},
               {"\xE0", 0, 1},
               {"\xE0\x9F", 0, 0},
               {"\xE0\xA0", 0, 1},
               {"\xED\x9F\xBF", 3, 0},
               {"\xED\xA0\x80", 0, 0},
               {"\xED\xA0", 0, 0},
               {"\xEF\xBF\xBF", 3, 0},
               {"\xF0\x8F\xBF\xBF", 0, 0},
               {"\xF0\x90\x80\x80", 4, 0},
               {"\xF0\x90\x80", 0, 1},
               {"\xF4\x8F\xBF\xBF", 4, 0},
               {"\xF4\x90\x80\x80", 0, 0},
               {"\xF4\x90", 0, 0},
               {"\xF5", 0, 0},
               {"\xFF", 0, 0}};
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    bool unfinished;
    size_t length = qn_utf8_sequence(cases[i].text, strlen(cases[i].text), &unfinished);
    ck_assert_msg(length == cases[i].length && unfinished == cases[i].unfinished, "case %zu: %zu %d", i, length,
                  unfinished);
  }
  ck_assert_uint_eq(qn_utf8_sequence("", 0, NULL), 0);
  ck_assert_uint_eq(qn_utf8_code_point("\xF0\x9F\xA6\x99", 4), 0x1F999);
  ck_assert_uint_eq(qn_utf8_code_point("\xE2\x96\x81", 3), 0x2581);
  ck_assert_uint_eq(qn_utf8_code_point("\xC4\xA0", 2), 0x120);
}
END_TEST

START_TEST(byte_alphabet) {
  // A bijection between the bytes and 256 code points below 324.
  bool seen[256] = {false};
  int count = 0;
  for (uint32_t code_point = 0; code_point < 1000; code_point++) {
    int byte = qn_byte_of_code_point(code_point);
    if (byte < 0) continue;
    ck_assert(byte < 256 && !seen[byte]);
    seen[byte] = true;
    count++;
  }
  ck_assert_int_eq(count, 256);
  ck_assert_int_eq(qn_byte_of_code_point(0x120), ' ');   // Ġ
  ck_assert_int_eq(qn_byte_of_code_point(0x10A), '\n');  // Ċ
  ck_assert_int_eq(qn_byte_of_code_point(0x100), 0);
  ck_assert_int_eq(qn_byte_of_code_point(0x121), 0x7F);
  ck_assert_int_eq(qn_byte_of_code_point(0x142), 0xA0);
  ck_assert_int_eq(qn_byte_of_code_point(0x143), 0xAD);
  ck_assert_int_eq(qn_byte_of_code_point('a'), 'a');
  ck_assert_int_eq(qn_byte_of_code_point(0xFF), 0xFF);
  ck_assert_int_eq(qn_byte_of_code_point(' '), -1);
  ck_assert_int_eq(qn_byte_of_code_point(0xFFFFFFFF), -1);
}
END_TEST

// ---- splitting ---------------------------------------------------------------------------------------------------

typedef struct pre_steps {
  qn_arena arena;
  qn_tokenizer_desc desc;
  qn_steps steps;
} pre_steps;

static qn_status open_pre(const char *name, const qn_allocator *allocator, pre_steps *out, qn_diag *diag) {
  const qn_pre_tokenizer *line;
  *out = (pre_steps){0};
  qn_arena_init(&out->arena, allocator);
  qn_step_list list = {.arena = &out->arena};
  QN_TRY(qn_pre_tokenizer_find(name, &line, diag));
  qn_step_list_pre_tokenizer(&list, line);
  QN_TRY(qn_step_list_finish(&list, &out->desc, diag));
  const qn_tokenizer_desc *d = &out->desc;
  return qn_steps_open(&out->steps, d->steps, d->step_count, d->normalizer_count, d->charsmap, d->unicode, false,
                       allocator, "test", diag);
}

static void close_pre(pre_steps *pre) {
  qn_steps_close(&pre->steps);
  qn_arena_deinit(&pre->arena);
}

static pre_steps create(const char *name) {
  pre_steps pre;
  qn_diag diag = {0};
  qn_assert_ok(&diag, open_pre(name, qn_test_allocator(), &pre, &diag));
  return pre;
}

// The words before the last step brings them into the byte alphabet; a table's normal form is left out.
static qn_status cut(const pre_steps *pre, qn_str text, qn_stepper *s, qn_diag *diag) {
  QN_TRY(qn_stepper_load(s, text, QN_STEP_AT_START | QN_STEP_AT_END, diag));
  return qn_steps_run(&pre->steps, pre->steps.normalizer_count, pre->steps.count - 1, s, diag);
}

// The words of `text`, joined by "|".
static void split(const pre_steps *pre, qn_str text, char *out, size_t out_size) {
  qn_stepper s;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_stepper_init(&s, qn_test_allocator(), &diag));
  qn_assert_ok(&diag, cut(pre, text, &s, &diag));
  size_t begin = 0, used = 0;
  for (size_t i = 0; i < s.words.count; begin = s.words.items[i++].end) {
    size_t length = s.words.items[i].end - begin;
    ck_assert(s.words.items[i].begin == begin && length > 0 && used + length + 2 < out_size);
    if (i > 0) out[used++] = '|';
    memcpy(out + used, text.data + begin, length);
    used += length;
  }
  ck_assert_uint_eq(begin, text.length);
  out[used] = '\0';
  qn_stepper_deinit(&s);
}

START_TEST(cuts) {
  static const struct {
    const char *pre, *text, *words;
  } cases[] = {
      // GPT-2: a space goes with what follows it, of several the last; contractions in lower case only.
      {"gpt-2", "Hello world", "Hello| world"},
      {"gpt-2", "  a   b ", " | a|  | b| "},
      {"gpt-2", "I've he'll they'RE", "I|'ve| he|'ll| they|'|RE"},
      {"gpt-2", "abc123, 4!?", "abc|123|,| 4|!?"},
      {"gpt-2", "a\n\n b\t\tc", "a|\n\n| b|\t|\t|c"},
      {"gpt-2", "x\xC2\xA0y \xE2\x80\x83z", "x|\xC2\xA0|y| |\xE2\x80\x83|z"},  // other white space is not a space
      {"gpt-2",
       "a\xE1\xA0\x8E"
       "b",
       "a|\xE1\xA0\x8E|b"},  // U+180E is no white space
      {"gpt-2", " \xE1\xA0\x8E", " \xE1\xA0\x8E"},
      // SmolLM: digits one by one, then as GPT-2 (a space before a digit stays alone).
      {"smollm", "in 2024!", "in| |2|0|2|4|!"},
      {"smollm", "x1y", "x|1|y"},
      // Llama 3: one character that is no letter or digit leads a word; up to three digits; newlines end a run of
      // punctuation or of white space.
      {"llama-bpe", "Hello world", "Hello| world"},
      {"llama-bpe", "I'VE we'Ll", "I|'VE| we|'Ll"},
      {"llama-bpe", "1234567", "123|456|7"},
      {"llama-bpe", "a 12 b", "a| |12| b"},
      {"llama-bpe", "#include <x.h>\nint", "#include| <|x|.h|>\n|int"},
      {"llama-bpe", "a  b", "a| | b"},
      {"llama-bpe", "a \n \n b", "a| \n \n| b"},
      {"llama-bpe", "a\n\nb\n", "a|\n\n|b|\n"},
      {"llama-bpe", "a\t\tb", "a|\t|\tb"},
      {"llama-bpe", "end.\r\n\r\nNew", "end|.\r\n\r\n|New"},
      {"llama-bpe", "x = (y)", "x| =| (|y|)"},
      {"llama-bpe", "  ", "  "},
      {"llama-bpe", "\xC3\xA9t\xC3\xA9 \xE6\x88\x91\xE6\x83\xB3", "\xC3\xA9t\xC3\xA9| \xE6\x88\x91\xE6\x83\xB3"},
      {"llama-bpe", "don't \xF0\x9F\xA6\x99.cpp", "don|'t| \xF0\x9F\xA6\x99.|cpp"},
      // Qwen2: the same with single digits.
      {"qwen2", "1234", "1|2|3|4"},
      {"qwen2", "a 12 b", "a| |1|2| b"},
      {"qwen2", "I'VE #x  y\n\n z", "I|'VE| #|x| | y|\n\n| z"},
      {"qwen2", "f(x)\n  return", "f|(x|)\n| | return"},
      // Combining marks stay with their letters in Qwen3.5's, not in Qwen2's (U+0301).
      {"qwen2", "e\xCC\x81t", "e|\xCC\x81t"},
      {"qwen35", "e\xCC\x81t", "e\xCC\x81t"},
      {"falcon", "a.b 12345", "a|.|b| |123|45"},  // three digits, without their space
      {"default", "a.b 12345", "a|.|b| |123|45"},
      {"tekken", "helloWorld ABCdef 12", "hello|World| ABCdef| |1|2"},
      {"gpt-4o", "helloWorld it's ABC's 1234/\n", "hello|World| it's| ABC's| |123|4|/\n"},
      {"deepseek-v3", "a12345 \xE4\xBD\xA0\xE5\xA5\xBD!x", "a|123|45| |\xE4\xBD\xA0\xE5\xA5\xBD|!x"},
      {"seed-coder", "a!\n b", "a|!|\n| b"},
      {"bailingmoe", "a\n\nb", "a|\n\n|b"},
      {"gpt-2", "", ""},
  };
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    char words[256];
    pre_steps pre = create(cases[i].pre);
    split(&pre, qn_str_from(cases[i].text), words, sizeof words);
    ck_assert_msg(strcmp(words, cases[i].words) == 0, "%s '%s': got '%s', want '%s'", cases[i].pre, cases[i].text,
                  words, cases[i].words);
    close_pre(&pre);
  }
}
END_TEST

START_TEST(bytes_that_are_not_utf8) {
  const struct {
    const char *text, *words;
  } cases[] = {{"ab\xFF"
                "cd",
                "ab|\xFF|cd"},
               {"\xFF\xFE", "\xFF\xFE"},
               {"a \x80\x80 b", "a| |\x80\x80| b"},
               {"x\xC3", "x|\xC3"},
               {"\xE2\x96x", "\xE2\x96|x"}};
  pre_steps pre = create("llama-bpe");
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    char words[64];
    split(&pre, qn_str_from(cases[i].text), words, sizeof words);
    ck_assert_str_eq(words, cases[i].words);
  }
  char words[64];
  split(&pre, (qn_str){"a\0b", 3}, words, sizeof words);
  ck_assert_int_eq(memcmp(words, "a|\0b", 4), 0);
  close_pre(&pre);
}
END_TEST

// The names that an error lists are the table; there are too many to repeat here.
static size_t table_names(char names[64][32]) {
  qn_diag diag = {0};
  const qn_pre_tokenizer *line;
  qn_assert_fails(&diag, QN_ERR_UNSUPPORTED, "pre-tokenizer 'nonsense' is not known; known are: default gpt-2 ",
                  qn_pre_tokenizer_find("nonsense", &line, &diag));
  size_t count = 0;
  for (char *name = strtok(strstr(diag.text, "are: ") + 5, " "); name != NULL; name = strtok(NULL, " ")) {
    ck_assert(count < 64 && strlen(name) < 32);
    strcpy(names[count++], name);
  }
  ck_assert_str_eq(names[count - 1], "deepseek-v3");  // nothing was cut
  return count;
}

START_TEST(every_name_compiles_and_covers) {
  char names[64][32];
  size_t count = table_names(names);
  for (size_t i = 0; i < count; i++) {
    pre_steps pre = create(names[i]);
    char words[1024];
    split(&pre,
          QN_STR("Hello, W\xC3\xB6rld's  12 34567\r\n\t{x_y}\n\n \xE4\xBD\xA0\xE5\xA5\xBD "
                 "\xFF\xF0\x9F\x98\x81!! "),
          words, sizeof words);
    ck_assert_msg(strstr(words, "\xFF") != NULL && strlen(words) > 60, "%s: %s", names[i], words);
    close_pre(&pre);
  }
}
END_TEST

START_TEST(long_runs_take_linear_time) {
  enum { SIZE = 1 << 20 };
  static const char *const names[] = {"default", "gpt-2",  "smollm", "llama-bpe",  "qwen2",      "qwen35",
                                      "falcon",  "tekken", "gpt-4o", "seed-coder", "bailingmoe", "deepseek-v3"};
  static const char *const units[] = {"a", "A",   " ",  "\n",           "7",        "'",
                                      "-", " \n", "aA", "\xE4\xBD\xA0", "\xCC\x81", "\xFF"};
  char *text = malloc(SIZE + 1);
  for (size_t i = 0; i < QN_COUNT(names); i++) {
    pre_steps pre = create(names[i]);
    for (size_t u = 0; u < QN_COUNT(units); u++) {
      for (size_t at = 0, length = strlen(units[u]); at < SIZE; at++) text[at] = units[u][at % length];
      text[SIZE] = 'x';
      qn_stepper s;
      qn_diag diag = {0};
      qn_assert_ok(&diag, qn_stepper_init(&s, qn_allocator_default(), &diag));
      qn_assert_ok(&diag, cut(&pre, (qn_str){text, SIZE + 1}, &s, &diag));
      ck_assert_uint_gt(s.words.count, 0);  // quadratic time would take minutes, beyond the test's time limit
      qn_stepper_deinit(&s);
    }
    close_pre(&pre);
  }
  free(text);
}
END_TEST

// ---- errors ------------------------------------------------------------------------------------------------------

// Where the pattern matches first, as "begin end".
static qn_status find(const char *pattern, uint32_t limit, qn_str text, size_t *out_begin, size_t *out_end,
                      qn_diag *diag) {
  qn_patterns *patterns;
  qn_matcher matcher = {0};
  qn_assert_ok(diag, qn_patterns_create(1, limit, qn_test_allocator(), &patterns, diag));
  qn_status status = qn_patterns_add(patterns, qn_str_from(pattern), false, diag);
  if (status == QN_OK) status = qn_matcher_init(&matcher, qn_test_allocator(), diag);
  if (status == QN_OK) status = qn_pattern_find(patterns, 0, &matcher, text, 0, 100, out_begin, out_end, diag);
  qn_matcher_deinit(&matcher);
  qn_patterns_destroy(patterns);
  return status;
}

START_TEST(the_engine_gives_up) {
  size_t begin, end, live = qn_test_allocator_memory()->live_blocks;
  qn_diag diag = {0};
  qn_assert_fails(
      &diag, QN_ERR_LIMIT, "a pattern's engine gave up at byte 100 of the text: match limit exceeded",
      find("(a+)+$|(a|aa)+b", 10000, QN_STR("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac"), &begin, &end, &diag));
  // Generated code's stack overflows here: the interpreter takes over and finds the match.
  char text[20001];
  memset(text, 'a', sizeof text);
  text[20000] = 'c';
  diag = (qn_diag){0};
  qn_assert_ok(&diag, find("(?:(a)|b)*c", 0, (qn_str){text, sizeof text}, &begin, &end, &diag));
  ck_assert(begin == 0 && end == sizeof text);
  qn_assert_fails(&diag, QN_ERR_UNSUPPORTED, "tokenizer: pattern 'a(b', offset 3: missing closing parenthesis",
                  find("a(b", 0, QN_STR("ab"), &begin, &end, &diag));
  diag = (qn_diag){0};
  qn_assert_ok(&diag, find("b", 0, QN_STR("aa"), &begin, &end, &diag));
  ck_assert_uint_eq(begin, 3);  // there is no match
  ck_assert_uint_eq(qn_test_allocator_memory()->live_blocks, live);
}
END_TEST

// ---- other steps -------------------------------------------------------------------------------------------------

// The words that come of one step, joined by "|".
static const char *run_step(qn_token_step step, const char *text) {
  static char out[256];
  qn_steps steps;
  qn_stepper s;
  qn_diag diag = {0};
  size_t used = 0;
  qn_assert_ok(&diag, qn_steps_open(&steps, &step, 1, 0, tiny_charsmap(),
                                    (qn_str){(const char *)tiny_unicode, sizeof tiny_unicode}, false,
                                    qn_test_allocator(), "test", &diag));
  qn_assert_ok(&diag, qn_stepper_init(&s, qn_test_allocator(), &diag));
  qn_assert_ok(&diag, qn_stepper_load(&s, qn_str_from(text), QN_STEP_AT_START | QN_STEP_AT_END, &diag));
  qn_assert_ok(&diag, qn_steps_run(&steps, 0, 1, &s, &diag));
  for (size_t i = 0; i < s.words.count; i++) {
    qn_word word = s.words.items[i];
    used += (size_t)snprintf(out + used, sizeof out - used, "%s%.*s", i > 0 ? "|" : "", (int)(word.end - word.begin),
                             s.text.data + word.begin);
  }
  if (s.words.count == 0) out[0] = '\0';
  qn_stepper_deinit(&s);
  qn_steps_close(&steps);
  return out;
}

static const char *cut_at(qn_split_behavior behavior, unsigned flags, const char *pattern, const char *text) {
  return run_step((qn_token_step){.op = QN_STEP_SPLIT,
                                  .behavior = (uint8_t)behavior,
                                  .flags = (uint16_t)flags,
                                  .pattern = qn_str_from(pattern)},
                  text);
}

START_TEST(split_behaviors) {
  ck_assert_str_eq(cut_at(QN_SPLIT_ISOLATED, 0, "-", "a-b--c"), "a|-|b|-|-|c");
  ck_assert_str_eq(cut_at(QN_SPLIT_REMOVED, 0, "-", "-a-b--c-"), "a|b|c");
  ck_assert_str_eq(cut_at(QN_SPLIT_WITH_PREVIOUS, 0, "-", "-a-b--c"), "-|a-|b-|-|c");
  ck_assert_str_eq(cut_at(QN_SPLIT_WITH_NEXT, 0, "-", "a-b--c-"), "a|-b|-|-c|-");
  ck_assert_str_eq(cut_at(QN_SPLIT_CONTIGUOUS, 0, "-", "a-b--c"), "a|-|b|--|c");
  ck_assert_str_eq(cut_at(QN_SPLIT_REMOVED, QN_STEP_INVERT, "[a-z]+", "ab, cd."), "ab|cd");
  ck_assert_str_eq(cut_at(QN_SPLIT_ISOLATED, QN_STEP_LITERAL, ".", "a.b"), "a|.|b");
  ck_assert_str_eq(cut_at(QN_SPLIT_ISOLATED, 0, "(?=[A-Z])", "aBcDE"), "a|Bc|D|E");  // empty matches
  ck_assert_str_eq(cut_at(QN_SPLIT_ISOLATED, 0, "x*", "axxb"), "a|xx|b");
  ck_assert_str_eq(cut_at(QN_SPLIT_ISOLATED, 0, "-", "a-\xFF--b"), "a|-|\xFF|-|-|b");
}
END_TEST

START_TEST(rewriting) {
  const qn_str x = QN_STR("x");
  ck_assert_str_eq(run_step((qn_token_step){.op = QN_STEP_REPLACE, .pattern = QN_STR("b+"), .content = x},
                            "abba\xFF"
                            "b"),
                   "axa|\xFF|x");
  ck_assert_str_eq(run_step((qn_token_step){.op = QN_STEP_REPLACE, .pattern = QN_STR(".")}, "ab"), "");
  ck_assert_str_eq(run_step((qn_token_step){.op = QN_STEP_SURROUND, .pattern = QN_STR("b"), .content = x}, "abb"),
                   "axbxxbx");
  ck_assert_str_eq(run_step((qn_token_step){.op = QN_STEP_PREPEND, .content = x},
                            "a\xFF"
                            "b"),
                   "xa|\xFF|b");
  ck_assert_str_eq(run_step((qn_token_step){.op = QN_STEP_PREPEND, .content = x}, ""), "");
  ck_assert_str_eq(run_step((qn_token_step){.op = QN_STEP_PREPEND, .flags = QN_STEP_UNLESS_THERE, .content = x}, "xa"),
                   "xa");
  ck_assert_str_eq(run_step((qn_token_step){.op = QN_STEP_BYTE_LEVEL}, " a\xFF"),
                   "\xC4\xA0"
                   "a|\xC3\xBF");
  ck_assert_str_eq(run_step((qn_token_step){.op = QN_STEP_CHARSMAP}, "AaA\xFF"), "bab|\xFF");
  // As the tokenizers library: a cluster that begins with a key becomes what the key does, accent and all.
  ck_assert_str_eq(run_step((qn_token_step){.op = QN_STEP_CHARSMAP, .flags = QN_STEP_GRAPHEMES},
                            "A\xCC\x81"
                            "A"),
                   "bb");
  ck_assert_str_eq(run_step((qn_token_step){.op = QN_STEP_LOWERCASE}, "AbA\xC3\xA9"), "aba\xC3\xA9");
}
END_TEST

static qn_status create_and_split(const qn_allocator *allocator, void *context) {
  pre_steps pre;
  qn_diag diag = {0};
  qn_stepper s = {0};
  qn_status status = open_pre(context, allocator, &pre, &diag);
  if (status == QN_OK) status = qn_stepper_init(&s, allocator, &diag);
  if (status == QN_OK) status = cut(&pre, QN_STR("Hello world's 1 2 3 \xFF x y z u v w"), &s, &diag);
  if (s.allocator != NULL) qn_stepper_deinit(&s);
  close_pre(&pre);
  return status;
}

START_TEST(allocations_may_fail) {
  qn_test_failing_allocations(create_and_split, "gpt-2");
  qn_test_failing_allocations(create_and_split, "smollm");
}
END_TEST

QN_CASE(characters, utf8_sequences, byte_alphabet)
QN_CASE(words, cuts, bytes_that_are_not_utf8, every_name_compiles_and_covers, long_runs_take_linear_time)
QN_CASE(steps, split_behaviors, rewriting)
QN_CASE(errors, the_engine_gives_up, allocations_may_fail)
QN_TEST_MAIN(characters, words, steps, errors)
