// Reading goldens of tokens and holding a tokenizer against them.
#include "tests/support/token_golden.h"

#include <stdio.h>
#include <stdlib.h>

#include "runtime/base/file.h"
#include "tests/support/random_text.h"
#include "tests/support/test.h"

enum { TEXTS = 1000 };

typedef struct golden {
  const char *name;
  const qn_tokenizer *tokenizer;
  bool decodes;  // decoding gives every text again
  uint32_t digests[TEXTS];
  char *clear;  // ids of the first few texts, as text; borrowed from `lines`
  char *lines;  // owned
  size_t lines_size;
} golden;

static void read_golden(golden *g, const char *path) {
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_file_read(path, QN_TEXT_MAX, qn_test_allocator(), &g->lines, &g->lines_size, &diag));
  char *at = g->lines;
  g->decodes = strncmp(at, "decodes yes\n", 12) == 0;
  at = strchr(at, '\n');
  for (int i = 0; i < TEXTS; i++) g->digests[i] = (uint32_t)strtoul(at, &at, 16);
  g->clear = at;
}

// FNV-1a over the ids' bytes.
static uint32_t digest(const qn_token_vec *tokens) {
  uint32_t hash = 0x811C9DC5;
  for (size_t i = 0; i < tokens->count; i++) {
    for (int b = 0; b < 4; b++) hash = (hash ^ ((uint32_t)tokens->items[i] >> (8 * b) & 255)) * 0x01000193;
  }
  return hash;
}

static void encode(const golden *g, qn_str text, unsigned flags, qn_token_vec *tokens) {
  qn_diag diag = {0};
  tokens->count = 0;
  qn_status status = qn_tokenizer_encode(g->tokenizer, text, flags, qn_test_allocator(), tokens, &diag);
  qn_check(status == QN_OK, "%s: %s", g->name, diag.text);
}

static void print_tokens(const golden *g, int index, qn_str text, const qn_token_vec *tokens) {
  char key[24];
  qn_buf line;
  qn_buf_init(&line, qn_allocator_default());
  qn_buf_printf(&line, "%s, text %d: ", g->name, index);
  qn_buf_quote(&line, text);
  qn_buf_puts(&line, " got ");
  for (size_t i = 0; i < tokens->count; i++) {
    qn_buf_printf(&line, " %d ", tokens->items[i]);
    qn_buf_quote(&line, qn_tokenizer_piece(g->tokenizer, tokens->items[i]));
  }
  snprintf(key, sizeof key, "\ntext %d:", index);
  const char *want = strstr(g->clear, key);
  if (want) qn_buf_printf(&line, " want%.*s", (int)strcspn(want + strlen(key), "\n"), want + strlen(key));
  fprintf(stderr, "%s\n", qn_buf_text(&line));
  qn_buf_deinit(&line);
}

// The texts of all tokens, one after the other as a stream gives them.
static void stream(const golden *g, const qn_token_vec *tokens, unsigned flags, qn_buf *out) {
  qn_detokenizer d;
  qn_diag diag = {0};
  qn_str part;
  bool unfinished;
  qn_assert_ok(&diag, qn_detokenizer_init(&d, g->tokenizer, flags, qn_test_allocator(), &diag));
  for (size_t i = 0; i < tokens->count; i++) {
    qn_check(qn_detokenizer_push(&d, tokens->items[i], &part, &diag) == QN_OK, "%s", diag.text);
    for (size_t at = 0, length; at < part.length; at += length ? length : 1) {
      length = qn_utf8_sequence(part.data + at, part.length - at, &unfinished);
      qn_check(!unfinished, "%s: a character that is cut", g->name);
    }
    qn_buf_append(out, part.data, part.length);
  }
  part = qn_detokenizer_flush(&d);
  qn_buf_append(out, part.data, part.length);
  qn_detokenizer_deinit(&d);
}

// Decoding at once and as a stream; both give the text where the tokenizer keeps it.
static bool check_decoding(const golden *g, qn_str text, const qn_token_vec *tokens) {
  qn_buf whole, streamed;
  qn_diag diag = {0};
  qn_buf_init(&whole, qn_test_allocator());
  qn_buf_init(&streamed, qn_test_allocator());
  qn_assert_ok(&diag, qn_tokenizer_decode(g->tokenizer, tokens->items, tokens->count, 0, &whole, &diag));
  stream(g, tokens, 0, &streamed);
  qn_check(qn_str_equal((qn_str){whole.data, whole.length}, (qn_str){streamed.data, streamed.length}), "%s: a stream",
           g->name);
  bool same = !g->decodes || qn_str_equal((qn_str){whole.data, whole.length}, text);
  qn_buf_deinit(&whole);
  qn_buf_deinit(&streamed);
  return same;
}

void qn_token_golden_check(const qn_tokenizer *tokenizer, const char *name, const char *path, unsigned flags) {
  golden g = {.name = name, .tokenizer = tokenizer};
  qn_token_vec tokens = {0};
  qn_buf text;
  int wrong = 0, lost = 0;
  read_golden(&g, path);
  qn_buf_init(&text, qn_test_allocator());
  const int step = (int)qn_test_stride(1, 3);
  for (int i = 0; i < TEXTS; i += step) {
    text.length = 0;
    qn_random_text((uint64_t)i, &text);
    const qn_str all = {qn_buf_text(&text), text.length};
    encode(&g, all, flags, &tokens);
    if (digest(&tokens) != g.digests[i] && wrong++ < 5) print_tokens(&g, i, all, &tokens);
    // U+2581 is a space to those who write spaces so: they cannot tell the two.
    bool marks = memmem(all.data, all.length, "\xe2\x96\x81", 3) != NULL;
    encode(&g, all, 0, &tokens);
    if (!marks && !check_decoding(&g, all, &tokens) && lost++ < 5) print_tokens(&g, i, all, &tokens);
  }
  qn_check(wrong == 0 && lost == 0, "%s: of %d texts %d have other ids than they should, %d decode to another text",
           name, TEXTS, wrong, lost);
  qn_vec_free(qn_test_allocator(), &tokens);
  qn_buf_deinit(&text);
  qn_free(qn_test_allocator(), g.lines, g.lines_size + 1);
}
