// The pre-tokenizer: UTF-8, the byte alphabet, where the patterns cut (by hand, from the models' tokenizer.json
// patterns), and that time stays linear.
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "runtime/tokenizer_impl.h"
#include "tests/support/test.h"

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

static qn_pre_tokenizer *create(const char *name) {
  qn_pre_tokenizer *pre;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_pre_tokenizer_create(name, qn_test_allocator(), &pre, &diag));
  return pre;
}

// The words of `text`, joined by "|".
static void split(const qn_pre_tokenizer *pre, qn_str text, char *out, size_t out_size) {
  qn_word_vec words = {0};
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_pre_tokenizer_split(pre, text, qn_test_allocator(), &words, &diag));
  size_t begin = 0, used = 0;
  for (size_t i = 0; i < words.count; begin = words.items[i++].end) {
    size_t length = words.items[i].end - begin;
    ck_assert(words.items[i].end > begin && used + length + 2 < out_size);
    if (i > 0) out[used++] = '|';
    memcpy(out + used, text.data + begin, length);
    used += length;
  }
  ck_assert_uint_eq(begin, text.length);
  out[used] = '\0';
  qn_vec_free(qn_test_allocator(), &words);
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
    qn_pre_tokenizer *pre = create(cases[i].pre);
    split(pre, qn_str_from(cases[i].text), words, sizeof words);
    ck_assert_msg(strcmp(words, cases[i].words) == 0, "%s '%s': got '%s', want '%s'", cases[i].pre, cases[i].text,
                  words, cases[i].words);
    qn_pre_tokenizer_destroy(pre);
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
  qn_pre_tokenizer *pre = create("llama-bpe");
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    char words[64];
    split(pre, qn_str_from(cases[i].text), words, sizeof words);
    ck_assert_str_eq(words, cases[i].words);
  }
  char words[64];
  split(pre, (qn_str){"a\0b", 3}, words, sizeof words);
  ck_assert_int_eq(memcmp(words, "a|\0b", 4), 0);
  qn_pre_tokenizer_destroy(pre);
}
END_TEST

// The names that an error lists are the table; there are too many to repeat here.
static size_t table_names(char names[64][32]) {
  qn_diag diag = {0};
  bool ignore_merges, add_bos;
  qn_assert_fails(&diag, QN_ERR_UNSUPPORTED, "pre-tokenizer 'nonsense' is not known; known are: default gpt-2 ",
                  qn_pre_tokenizer_check("nonsense", &ignore_merges, &add_bos, &diag));
  size_t count = 0;
  for (char *name = strtok(strstr(diag.text, "are: ") + 5, " "); name != NULL; name = strtok(NULL, " ")) {
    ck_assert(count < 64 && strlen(name) < 32 && strlen(name) < QN_TOK_PRE_BYTES);
    strcpy(names[count++], name);
  }
  ck_assert_str_eq(names[count - 1], "deepseek-v3");  // nothing was cut
  return count;
}

START_TEST(every_name_compiles_and_covers) {
  char names[64][32];
  size_t count = table_names(names);
  for (size_t i = 0; i < count; i++) {
    qn_pre_tokenizer *pre = create(names[i]);
    char words[1024];
    split(pre,
          QN_STR("Hello, W\xC3\xB6rld's  12 34567\r\n\t{x_y}\n\n \xE4\xBD\xA0\xE5\xA5\xBD "
                 "\xFF\xF0\x9F\x98\x81!! "),
          words, sizeof words);
    ck_assert_msg(strstr(words, "\xFF") != NULL && strlen(words) > 60, "%s: %s", names[i], words);
    qn_pre_tokenizer_destroy(pre);
  }
}
END_TEST

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

START_TEST(long_runs_take_linear_time) {
  enum { SIZE = 1 << 20 };
  static const char *const names[] = {"default", "gpt-2",  "smollm", "llama-bpe",  "qwen2",      "qwen35",
                                      "falcon",  "tekken", "gpt-4o", "seed-coder", "bailingmoe", "deepseek-v3"};
  static const char *const units[] = {"a", "A",   " ",  "\n",           "7",        "'",
                                      "-", " \n", "aA", "\xE4\xBD\xA0", "\xCC\x81", "\xFF"};
  char *text = malloc(SIZE + 1);
  for (size_t i = 0; i < QN_COUNT(names); i++) {
    qn_pre_tokenizer *pre = create(names[i]);
    for (size_t u = 0; u < QN_COUNT(units); u++) {
      for (size_t at = 0, length = strlen(units[u]); at < SIZE; at++) text[at] = units[u][at % length];
      text[SIZE] = 'x';
      qn_word_vec words = {0};
      qn_diag diag = {0};
      double begin = seconds();
      qn_assert_ok(&diag, qn_pre_tokenizer_split(pre, (qn_str){text, SIZE + 1}, qn_allocator_default(), &words, &diag));
      // A million words take a second at the worst, quadratic time would take minutes.
      ck_assert_msg(seconds() - begin < 20, "%s, unit %zu: %g s", names[i], u, seconds() - begin);
      qn_vec_free(qn_allocator_default(), &words);
    }
    qn_pre_tokenizer_destroy(pre);
  }
  free(text);
}
END_TEST

// ---- errors ------------------------------------------------------------------------------------------------------

START_TEST(the_engine_gives_up) {
  static const char *const explosive = "(a+)+$|(a|aa)+b";
  qn_pre_tokenizer *pre;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_pre_tokenizer_create_from(&explosive, 1, 10000, qn_test_allocator(), &pre, &diag));
  qn_word_vec words = {0};
  qn_assert_fails(&diag, QN_ERR_LIMIT, "the pre-tokenizer gave up at byte 0 of the text: match limit exceeded",
                  qn_pre_tokenizer_split(pre, QN_STR("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac"),
                                         qn_test_allocator(), &words, &diag));
  qn_vec_free(qn_test_allocator(), &words);
  qn_pre_tokenizer_destroy(pre);

  // Generated code's stack overflows here: the interpreter takes over and finds the match.
  static const char *const deep = "(?:(a)|b)*c";
  diag = (qn_diag){0};
  qn_assert_ok(&diag, qn_pre_tokenizer_create_from(&deep, 1, 0, qn_test_allocator(), &pre, &diag));
  char text[20001];
  memset(text, 'a', sizeof text);
  text[20000] = 'c';
  qn_assert_ok(&diag, qn_pre_tokenizer_split(pre, (qn_str){text, sizeof text}, qn_test_allocator(), &words, &diag));
  ck_assert_uint_eq(words.count, 1);
  qn_vec_free(qn_test_allocator(), &words);
  qn_pre_tokenizer_destroy(pre);
}
END_TEST

START_TEST(bad_pattern) {
  static const char *const broken = "a(b";
  size_t live = qn_test_allocator_memory()->live_blocks;
  qn_pre_tokenizer *pre;
  qn_diag diag = {0};
  qn_assert_fails(&diag, QN_ERR_INTERNAL, "pre-tokenizer pattern 'a(b', offset 3: missing closing parenthesis",
                  qn_pre_tokenizer_create_from(&broken, 1, 0, qn_test_allocator(), &pre, &diag));
  ck_assert_ptr_null(pre);
  ck_assert_uint_eq(qn_test_allocator_memory()->live_blocks, live);
}
END_TEST

static qn_status create_and_split(const qn_allocator *allocator, void *context) {
  qn_pre_tokenizer *pre;
  qn_diag diag = {0};
  qn_status status = qn_pre_tokenizer_create(context, allocator, &pre, &diag);
  if (status != QN_OK) return status;
  qn_word_vec words = {0};
  status = qn_pre_tokenizer_split(pre, QN_STR("Hello world's 1 2 3 \xFF x y z u v w"), allocator, &words, &diag);
  qn_vec_free(allocator, &words);
  qn_pre_tokenizer_destroy(pre);
  return status;
}

START_TEST(allocations_may_fail) {
  qn_test_failing_allocations(create_and_split, "gpt-2");
  qn_test_failing_allocations(create_and_split, "smollm");
}
END_TEST

QN_CASE(characters, utf8_sequences, byte_alphabet)
QN_CASE(words, cuts, bytes_that_are_not_utf8, every_name_compiles_and_covers, long_runs_take_linear_time)
QN_CASE(errors, the_engine_gives_up, bad_pattern, allocations_may_fail)
QN_TEST_MAIN(characters, words, errors)
