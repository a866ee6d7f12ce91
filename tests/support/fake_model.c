// The hand-made language model: three steps (fill the caches, read them back, make logits), four kernels.
#include "tests/support/fake_model.h"

#include <stdatomic.h>
#include <string.h>

#include "runtime/tokenizer.h"

enum { T = QN_TEST_SYM_T, R = QN_TEST_SYM_R, P = QN_TEST_SYM_P, B = QN_TEST_SYM_B, G = QN_TEST_SYM_G };
enum { HIDDEN_PITCH = 16, LOGITS_PITCH = 48 };

static atomic_int errors;
static const int32_t *script;
static size_t script_count;
static int64_t window;  // 0 = all
static bool slots;      // keys lie where the input "slot" says
static int64_t source;  // tokens of it that all see; 0 = there is none
static bool rings;      // v has a window and a table of its own, k none

int qn_fake_errors(void) { return atomic_load(&errors); }

void qn_fake_set_script(const int32_t *tokens, size_t count) {
  script = tokens;
  script_count = tokens ? count : 0;
}

void qn_fake_set_window(int64_t keys) { window = keys; }
void qn_fake_set_rings(bool apart) { rings = apart; }

// The first key that the last of `count` tokens sees.
static int64_t first_seen(int64_t count) { return window > 0 && count > window ? count - window : 0; }

static bool expect(bool condition) {
  if (!condition) atomic_fetch_add(&errors, 1);
  return condition;
}

// --- what is computed

static uint32_t hash_start(void) { return 2166136261u; }
static uint32_t hash_token(uint32_t hash, uint32_t token) {
  hash = (hash ^ (token + 1)) * 16777619u;
  return hash ^ hash >> 15;
}

// The logit of token v after n tokens with this hash.
static float logit(uint32_t hash, int64_t n, int64_t v) {
  if (n < (int64_t)script_count && script[n] == v) return 100.0f;
  uint32_t mixed = (hash >> (v % 13)) * (uint32_t)(2654435761u * (uint32_t)(v + 1));
  return (float)(mixed >> 8 & 0xffff) / 65536.0f;
}

void qn_fake_logits(const int32_t *tokens, size_t count, float *out) {
  uint32_t hash = hash_start();
  for (size_t i = (size_t)first_seen((int64_t)count); i < count; i++) hash = hash_token(hash, (uint32_t)tokens[i]);
  for (int64_t v = 0; v < QN_FAKE_VOCAB; v++) out[v] = logit(hash, (int64_t)count, v);
}

// --- kernels

// Where key `pos` of a sequence lies in the pools, or -1.
static int64_t slot(const int32_t *table, const int64_t *symbols, int32_t seq, int32_t pos, bool ring) {
  int64_t place = pos / QN_FAKE_PAGE_KEYS;
  if (!expect(seq >= 0 && seq < symbols[B] && pos >= 0 && place < symbols[P])) return -1;
  int64_t page = table[seq * symbols[P] + place];
  return expect(page >= 0 && (ring || page < symbols[G])) ? page * QN_FAKE_PAGE_KEYS + pos % QN_FAKE_PAGE_KEYS : -1;
}

// The token's place among the cache's keys, and among those of v, where it has a table of its own.
static void fill_slot(int64_t at, int64_t own, int32_t token, int32_t pos, float *k, int32_t *v) {
  if (at < 0 || own < 0) return;
  k[at] = (float)token;
  v[2 * own] = token * token;
  v[2 * own + 1] = pos;
}

// tokens, pos, seq, block_table, k (f32: the token), v (2 × i32: its square, and the position); with rings v's table is last
static void fill(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  const int32_t *tokens = buffers[0], *pos = buffers[1], *seq = buffers[2], *table = buffers[3];
  float *k = buffers[4];
  int32_t *v = buffers[5];
  const int32_t *own = rings ? buffers[6] : table;
  for (int64_t t = begin; t < end; t++)
    fill_slot(slot(table, symbols, seq[t], pos[t], false), slot(own, symbols, seq[t], pos[t], rings), tokens[t], pos[t], k,
              v);
}

// The same and copies: so many sequences from seq on; with a source where that ends, last.
static void fill_copies(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  const int32_t *tokens = buffers[0], *pos = buffers[1], *seq = buffers[2], *table = buffers[3], *copies = buffers[6];
  const int32_t *own = rings ? buffers[7] : table;
  for (int64_t t = begin; t < end; t++) {
    expect(copies[t] >= 1 && (source == 0 || ((const int32_t *)buffers[7 + rings])[t] == source - 1));
    for (int32_t s = seq[t]; s < seq[t] + copies[t]; s++)
      fill_slot(slot(table, symbols, s, pos[t], false), slot(own, symbols, s, pos[t], rings), tokens[t], pos[t], buffers[4],
                buffers[5]);
  }
}

// pos, seq, block_table, k, v, hidden (T, 2): the hash's bits and the number of tokens
static void look_back(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  const int32_t *pos = buffers[0], *seq = buffers[1], *table = buffers[2], *v = buffers[4];
  const float *k = buffers[3];
  float *hidden = buffers[5];
  const int32_t *ring = rings ? buffers[6] : table;
  for (int64_t t = begin; t < end; t++) {
    uint32_t hash = hash_start();
    for (int32_t i = (int32_t)first_seen((int64_t)pos[t] + 1); i <= pos[t]; i++) {
      int64_t at = slot(table, symbols, seq[t], i, false), own = slot(ring, symbols, seq[t], i, rings);
      if (at < 0 || own < 0) return;
      int32_t token = (int32_t)k[at];
      expect(v[2 * own] == token * token && (slots || v[2 * own + 1] == i));
      hash = hash_token(hash, (uint32_t)token);
    }
    memcpy(&hidden[t * HIDDEN_PITCH], &hash, sizeof hash);
    hidden[t * HIDDEN_PITCH + 1] = (float)(pos[t] + 1);
  }
}

static float logit_of_row(void *const *buffers, const int64_t *symbols, int64_t r, int64_t v) {
  const float *hidden = buffers[0];
  const int32_t *rows = buffers[1];
  uint32_t hash;
  if (!expect(rows[r] >= 0 && rows[r] < symbols[T])) return 0;
  memcpy(&hash, &hidden[rows[r] * HIDDEN_PITCH], sizeof hash);
  return logit(hash, (int64_t)hidden[rows[r] * HIDDEN_PITCH + 1], v);
}

// hidden, rows, logits (R, vocab); for one row, shared along the vocabulary
static void logits_one(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  float *logits = buffers[2];
  expect(symbols[R] == 1);
  for (int64_t v = begin; v < end; v++) logits[v] = logit_of_row(buffers, symbols, 0, v);
}

// The same for many, shared along the rows.
static void logits_many(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  float *logits = buffers[2];
  expect(symbols[R] > 1);
  for (int64_t r = begin; r < end; r++) {
    for (int64_t v = 0; v < QN_FAKE_VOCAB; v++) logits[r * LOGITS_PITCH + v] = logit_of_row(buffers, symbols, r, v);
  }
}

const qn_kernel_entry qn_fake_kernels[QN_FAKE_KERNELS] = {fill, look_back, logits_one, logits_many};
const qn_kernel_entry qn_fake_tree_kernels[QN_FAKE_KERNELS] = {fill_copies, look_back, logits_one, logits_many};

// --- the artifact

// Of a cache, [pages, ...], as ir/README.md has it.
static void set_shape(qn_test_artifact *a, uint32_t buffer, const int64_t dims[4]) {
  qn_art_buffer *b = &a->buffers.items[buffer];
  b->rank = 4;
  memcpy(b->dims, dims, sizeof b->dims);
  b->symbols[0] = G;
}

static void describe(const qn_fake_options *options, qn_test_artifact *a) {
  qn_test_artifact_init(a);
  int64_t max_t = options->max_t ? options->max_t : 16, max_r = options->max_r ? options->max_r : 16;
  memcpy(a->head.symbol_max, (int64_t[QN_ARTIFACT_SYMBOLS]){0, max_t, max_r, options->max_p, options->max_b, 0, 0},
         sizeof a->head.symbol_max);
  a->head.page_keys = QN_FAKE_PAGE_KEYS;
  a->head.vocab_size = QN_FAKE_VOCAB;
  uint32_t tokens = qn_test_artifact_input(a, "tokens", T, 0), pos = qn_test_artifact_input(a, "pos", T, 0);
  if (options->slots) pos = qn_test_artifact_input(a, "slot", T, 0);
  slots = options->slots;
  uint32_t seq = qn_test_artifact_input(a, "seq", T, 0), rows = qn_test_artifact_input(a, "rows", R, 0);
  uint32_t table = qn_test_artifact_input(a, "block_table", B, P);
  uint32_t k = qn_test_artifact_cache(a, "k", 0, QN_FAKE_PAGE_KEYS * 4);
  uint32_t v = qn_test_artifact_cache(a, "v", 0, QN_FAKE_PAGE_KEYS * 8);
  set_shape(a, k, (int64_t[]){1, 1, 1, QN_FAKE_PAGE_KEYS});
  set_shape(a, v, (int64_t[]){1, 1, QN_FAKE_PAGE_KEYS, 2});
  a->buffers.items[v].window = (uint32_t)window;
  a->buffers.items[k].window = rings ? 0 : (uint32_t)window;
  if (options->sums)
    set_shape(a, qn_test_artifact_cache(a, "sum", 0, QN_FAKE_PAGE_KEYS * 4), (int64_t[]){1, 1, 1, QN_FAKE_PAGE_KEYS});
  uint32_t hidden = qn_test_artifact_arena(a, NULL, T, max_t, 2);
  uint32_t logits = qn_test_artifact_arena(a, "logits", R, max_r, QN_FAKE_VOCAB);
  if (options->queries) qn_test_artifact_arena(a, "query.0", R, max_r, 1);
  uint32_t copies = options->trees ? qn_test_artifact_input(a, "copies", T, 0) : 0;
  uint32_t ring = rings ? qn_test_artifact_input(a, "window_table", B, P) : 0, cross = 0;
  source = options->source;
  if (source > 0) {
    qn_test_artifact_input(a, "source", QN_TEST_SYM_S, 0);
    cross = qn_test_artifact_input(a, "cross_last_pos", T, 0);
  }
  qn_test_artifact_kernel(a, "fill", (options->trees ? 7 : 6) + rings + (source > 0), 0);
  qn_test_artifact_variant(a, 0, 0, T, 1);
  qn_test_artifact_kernel(a, "look_back", 6 + rings, 0);
  qn_test_artifact_variant(a, 0, 0, T, 1);
  qn_test_artifact_kernel(a, "logits", 3, R);
  qn_test_artifact_variant(a, 1, 1, 0, QN_FAKE_VOCAB);
  qn_test_artifact_variant(a, 2, max_r > 2 ? max_r : 2, R, 1);
  qn_test_artifact_step(a, 0, false,
                        (const uint32_t[]){tokens, pos, seq, table, k, v, options->trees ? copies : ring, rings ? ring : cross, cross});
  qn_test_artifact_step(a, 1, true, (const uint32_t[]){pos, seq, table, k, v, hidden, ring});
  qn_test_artifact_step(a, 2, true, (const uint32_t[]){hidden, rows, logits});
}

static void make_tokenizer(qn_buf *out) {
  static const char *const texts[QN_FAKE_TOKENS] = {"<unk>",
                                                    "<s>",
                                                    "</s>",
                                                    "<0xE2>",
                                                    "<0x82>",
                                                    "<0xAC>",
                                                    "\xE2\x96\x81one",
                                                    "\xE2\x96\x81two",
                                                    "ab",
                                                    "cd",
                                                    "abc",
                                                    "d",
                                                    "ST",
                                                    "OP",
                                                    "STOP",
                                                    "\xE2\x96\x81",
                                                    "x"};
  qn_str tokens[QN_FAKE_TOKENS];
  float scores[QN_FAKE_TOKENS];
  uint8_t types[QN_FAKE_TOKENS] = {QN_TOKEN_UNKNOWN, QN_TOKEN_CONTROL, QN_TOKEN_CONTROL,
                                   QN_TOKEN_BYTE,    QN_TOKEN_BYTE,    QN_TOKEN_BYTE};
  for (int i = 0; i < QN_FAKE_TOKENS; i++) {
    tokens[i] = qn_str_from(texts[i]);
    scores[i] = (float)-i;
    if (types[i] == 0) types[i] = QN_TOKEN_NORMAL;
  }
#define MARK "\xe2\x96\x81"
  static const int32_t bos[] = {QN_FAKE_BOS};
  static const qn_token_step steps[] = {
      {.op = QN_STEP_PREPEND, .content = {MARK, 3}},
      {.op = QN_STEP_REPLACE, .flags = QN_STEP_LITERAL, .pattern = {" ", 1}, .content = {MARK, 3}}};
  qn_tokenizer_desc desc = {.kind = QN_TOKENIZER_SPM,
                            .token_count = QN_FAKE_TOKENS,
                            .tokens = tokens,
                            .scores = scores,
                            .types = types,
                            .bos = QN_FAKE_BOS,
                            .eos = QN_FAKE_EOS,
                            .unk = QN_FAKE_UNK,
                            .pad = -1,
                            .before = bos,
                            .before_count = 1,
                            .steps = steps,
                            .step_count = QN_COUNT(steps),
                            .normalizer_count = QN_COUNT(steps),
                            .fuse_unknown = true,
                            .decoder = {.byte_tokens = true, .space = QN_STR(MARK), .drop_space = true}};
  qn_diag diag = {0};
  qn_buf_init(out, qn_allocator_default());
  qn_test_need(qn_tokenizer_serialize(&desc, qn_allocator_default(), out, &diag) == QN_OK, diag.text);
}

void qn_fake_model_build(const qn_fake_options *options, void (*change)(qn_test_artifact *a), qn_buf *out) {
  static const qn_fake_options none;
  qn_test_artifact a;
  qn_buf tokenizer;
  if (!options) options = &none;
  describe(options, &a);
  make_tokenizer(&tokenizer);
  if (options->tokenizer) a.tokenizer = (qn_str){tokenizer.data, tokenizer.length};
  a.summary = QN_STR("source = by hand\nempty =\n pad  =  two words \t\nsource = again\n");
  if (change) change(&a);
  qn_test_artifact_build(&a, out);
  qn_buf_deinit(&tokenizer);
  qn_test_artifact_deinit(&a);
}

qn_artifact qn_fake_model_open(const qn_fake_options *options) {
  qn_artifact artifact;
  qn_diag diag = {0};
  qn_buf file;
  qn_fake_model_build(options, NULL, &file);
  qn_test_need(
      qn_artifact_open_mapping(&artifact, qn_test_artifact_map(file.data, file.length), "fake.qn", &diag) == QN_OK,
      diag.text);
  qn_buf_deinit(&file);
  return artifact;
}
