// The check of machine code that tuning rests on: it finds nothing in code that is right, for kernels of every kind and
// format, and finds every way of being wrong that is planted.
#include "autotune/check.h"

#include <stdio.h>

#include "codegen/artifact_write.h"
#include "codegen/codegen.h"
#include "passes/pass.h"
#include "tests/support/graph_text.h"
#include "tests/support/test.h"

// A program with its machine code.
typedef struct compiled {
  qn_arena arena;
  qn_program *program;
  qn_jit *jit;
} compiled;

static void compile(compiled *c, const char *text, const char *sizes, bool quantize, bool code) {
  qn_diag diag = {0};
  qn_target target;
  qn_arena_init(&c->arena, qn_test_allocator());
  qn_assert_ok(&diag, qn_target_parse("host", &target, &diag));
  qn_pass_options options = {
      .machine = qn_machine_model_plain(target.vector_bytes, target.vector_registers, target.dots, 0),
      .quantize_activations = quantize};
  qn_pass_context context = {.arena = &c->arena, .allocator = qn_test_allocator(), .options = &options, .diag = &diag};
  qn_assert_ok(&diag, qn_graph_from_text(text, sizes, &c->arena, &context.graph, &diag));
  qn_assert_ok(&diag, qn_run_passes(&context));
  c->program = context.program;
  c->jit = NULL;
  if (!code) return;
  size_t count = 0;
  const qn_lkernel **kernels = qn_program_variants(c->program, &count);
  qn_codegen_options codegen = {.target = &target, .threads = 1};
  qn_assert_ok(&diag, qn_jit_create(kernels, count, &codegen, qn_test_allocator(), &c->jit, &diag));
}

static void release(compiled *c) {
  qn_jit_destroy(c->jit);
  qn_arena_deinit(&c->arena);
}

static qn_kernel_entry entry_of(const compiled *c, uint32_t kernel, int variant) {
  size_t index = (size_t)variant;
  for (uint32_t i = 0; i < kernel; i++) index += (size_t)c->program->kernels.items[i].variant_count;
  return qn_jit_kernel(c->jit, index);
}

// Every variant of a step's kernel, at the row counts that its tiles want, with `seeds` seeds.
static void check_step(compiled *c, const qn_pstep *step, uint64_t seeds) {
  const qn_pkernel *kernel = &c->program->kernels.items[step->kernel];
  qn_subject subject;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_subject_of_step(c->program, step, &c->arena, &subject, &diag));
  for (int v = 0; v < kernel->variant_count; v++) {
    const qn_pvariant *variant = &kernel->variants[v];
    int64_t rows[QN_CHECK_ROWS_MAX], most = subject.max_values[kernel->rows != QN_SYM_NONE ? kernel->rows : QN_SYM_T];
    int count = qn_check_row_counts(&variant->schedule, variant->rows_min,
                                    variant->rows_max < most ? variant->rows_max : most, rows);
    for (int i = 0; i < count; i++) {
      for (uint64_t seed = 0; seed < seeds; seed++) {
        qn_check *check = NULL;
        qn_check_result result, again;
        qn_assert_ok(&diag,
                     qn_check_create(&subject, rows[i], seed, QN_CHECK_WORK, NULL, qn_test_allocator(), &check, &diag));
        qn_check_run(check, entry_of(c, step->kernel, v), variant->extent, NULL, &result);
        qn_check(result.right, "%s: %s", variant->kernel->name, result.text);
        qn_check(result.written > 0 && result.interpreted > 0, "%s: nothing was compared", kernel->name);
        qn_assert_ok(&diag, qn_check_keep(check, &diag));
        qn_check_run(check, entry_of(c, step->kernel, v), variant->extent, NULL, &again);
        qn_check(again.right && again.compared + again.interpreted == again.written, "%s: not all was compared",
                 kernel->name);
        qn_check_destroy(check);
      }
    }
  }
}

static void check_all(const char *text, const char *sizes, bool quantize, uint64_t seeds) {
  compiled c;
  compile(&c, text, sizes, quantize, true);
  for (size_t i = 0; i < c.program->steps.count; i++) check_step(&c, &c.program->steps.items[i], seeds);
  release(&c);
}

static const char layer[] =
    "embd = param $F[100,64]; norm = param f32[64]; x = embed embd tokens; table = rope_table pos dims=16 theta=10000\n"
    "a = rmsnorm x norm eps=1e-5; wq = param $F[64,64]; wk = param $F[32,64]; wv = param $F[32,64]\n"
    "q = matmul a wq; k = matmul a wk; v = matmul a wv\n"
    "q3 = split_heads q heads=4; k3 = split_heads k heads=2; v3 = split_heads v heads=2\n"
    "qr = rope q3 table kind=pairs; kr = rope k3 table kind=pairs\n"
    "kc = cache kind=k index=0 $C[G,2,16,64]; vc = cache kind=v index=0 $C[G,2,64,16]\n"
    "kw = kv_write kc kr pos seq block_table kind=k; vw = kv_write vc v3 pos seq block_table kind=v\n"
    "s = attn_scores qr kw pos seq block_table scale=0.25; p = softmax s; o = attn_mix p vw pos seq block_table\n"
    "om = merge_heads o; wo = param $F[64,64]; oo = matmul om wo; h = add x oo\n"
    "norm2 = param f32[64]; b = rmsnorm h norm2 eps=1e-5; wg = param $F[160,64]; wu = param $F[160,64]\n"
    "wd = param $F[64,160]; g = matmul b wg; gs = silu g; u = matmul b wu; gu = mul gs u; d = matmul gu wd; y = add h "
    "d\n"
    "last = gather_rows y rows; norm3 = param f32[64]; l = rmsnorm last norm3 eps=1e-5; logits = matmul l embd\n"
    "output logits";

START_TEST(a_layer) { check_all(layer, "F=q8_0 C=f16", true, 2); }
END_TEST

// Guesses that branch: keys and values are written to several sequences.
static const char branching[] =
    "x = input f32[T,64]; copies = input i32[T]; t = exp x; k3 = split_heads t heads=4; kc = cache kind=k index=0 $C[G,4,16,64]\n"
    "vc = cache kind=v index=0 $C[G,4,64,16]; kw = kv_write kc k3 pos seq block_table copies kind=k\n"
    "vw = kv_write vc k3 pos seq block_table copies kind=v; s = attn_scores k3 kw pos seq block_table scale=0.25; p = softmax s\n"
    "o = attn_mix p vw pos seq block_table; output o";
START_TEST(keys_of_several_sequences) {
  check_all(branching, "C=f16", false, 3);
  check_all(branching, "C=f32", false, 1);
}
END_TEST

// Choices, and orders by them, are legal ones; with few experts there are runs that all tiles of tokens do.
START_TEST(experts) {
  check_all("max T=40 R=40; x = input f32[T,64]; t = exp x; wr = param f32[6,64]; r = matmul x wr; i = top_k r k=2\n"
            "p = pick r i; g = softmax p; w1 = param $F[6,32,64]; w3 = param $F[6,32,64]; a = expert_matmul x w1 i; s = "
            "silu a\n"
            "u = expert_matmul x w3 i; m = mul s u; w2 = param $F[6,33,32]; d = expert_matmul m w2 i; y = expert_mix d g\n"
            "j = top_k t k=3; b = pick x j; output y b",
            "F=q4_0", true, 4);
}
END_TEST

// What is made up is legal for every format: the interpreter reads all kinds of rows. Code of some formats too.
START_TEST(formats) {
  static const char text[] =
      "max T=20; x = input f32[T,256]; w = param $F[$N,256]; y = matmul x w; e = embed w tokens; output y e";
  for (int dtype = 0; dtype < QN_DTYPE_COUNT; dtype++) {
    const qn_format *format = qn_format_of((qn_dtype)dtype);
    char sizes[64];
    if (!format) continue;
    compiled c;
    qn_diag diag = {0};
    snprintf(sizes, sizeof sizes, "F=%s N=%d", format->name, dtype % 2 ? 33 : 48);
    compile(&c, text, sizes, format->block_values > 1 && dtype % 3, (size_t)dtype % qn_test_stride(6, 20) == 0);
    for (size_t i = 0; i < c.program->steps.count; i++) {
      qn_subject subject;
      if (c.jit) check_step(&c, &c.program->steps.items[i], QN_INPUTS_KINDS);
      qn_assert_ok(&diag, qn_subject_of_step(c.program, &c.program->steps.items[i], &c.arena, &subject, &diag));
      for (uint64_t seed = 0; !c.jit && seed < QN_INPUTS_KINDS; seed++) {
        qn_check *check = NULL;
        qn_assert_ok(&diag, qn_check_create(&subject, 3, seed, 20000, NULL, qn_test_allocator(), &check, &diag));
        qn_check_destroy(check);
      }
    }
    release(&c);
  }
}
END_TEST

// Kernels of other kinds, as they are made of what they are given: learned positions, scores over all keys, parts of
// stacked values, row counts that are no token's. The interpreter finds no index out of range and no number that it
// cannot take.
START_TEST(other_kernels) {
  static const char *const texts[] = {
      "wte = param f32[77,48]; wpe = param f32[192,48]; t = embed wte tokens; e = embed wpe pos; x = add t e\n"
      "n1 = param f32[48]; b1 = param f32[48]; a = layernorm x n1 b1 eps=1e-5; w = param f32[144,48]; bw = param "
      "f32[144]\n"
      "m = matmul a w; qkv = add m bw; q = slice qkv axis=1 begin=0 end=48; k = slice qkv axis=1 begin=48 end=96\n"
      "v = slice qkv axis=1 begin=96 end=144; q3 = split_heads q heads=3; k3 = split_heads k heads=3\n"
      "v3 = split_heads v heads=3; kc = cache kind=k index=0 f32[G,3,16,64]; vc = cache kind=v index=0 f32[G,3,64,16]\n"
      "kw = kv_write kc k3 pos seq block_table kind=k; vw = kv_write vc v3 pos seq block_table kind=v\n"
      "s = attn_scores q3 kw pos seq block_table scale=0.25 window=9 softcap=3; p = softmax s\n"
      "cs = cache kind=sum index=0 f32[G,3,1,64]; sw = kv_write cs p pos seq block_table kind=sum\n"
      "o = attn_mix p vw pos seq block_table; om = merge_heads o; f = gelu_tanh om; g = gelu x; last = gather_rows f "
      "rows\n"
      "output last p s g",
      "x = input f32[T,30]; n = neg x; a = reshape n f32[T,2,15]; b = exp a; d = reshape n f32[5T,6]; e = tanh d\n"
      "f = concat x n x axis=1; h = input f32[]; i = sub f h; v = input f32[7]; u = erf v; output b e f i u",
      "x = input f32[5,7]; y = input f32[2,7]; n = exp y; a = concat x n y axis=0; b = slice a axis=0 begin=4 end=8\n"
      "c = tanh b; t = rope_table pos dims=6 theta=100; z = input f32[T,21]; z3 = split_heads z heads=3\n"
      "r = rope z3 t kind=halves; output a c r",
  };
  for (size_t i = 0; i < QN_COUNT(texts); i++) {
    compiled c;
    qn_diag diag = {0};
    compile(&c, texts[i], NULL, true, false);
    for (size_t s = 0; s < c.program->steps.count; s++) {
      qn_subject subject;
      qn_assert_ok(&diag, qn_subject_of_step(c.program, &c.program->steps.items[s], &c.arena, &subject, &diag));
      for (uint64_t seed = 0; seed < QN_INPUTS_KINDS; seed += qn_test_stride(2, 4)) {
        qn_check *check = NULL;
        qn_assert_ok(&diag, qn_check_create(&subject, 1 + (int64_t)seed * 3, seed, 20000, NULL, qn_test_allocator(),
                                            &check, &diag));
        qn_check_destroy(check);
      }
    }
    release(&c);
  }
}
END_TEST

// ---- code that is wrong ------------------------------------------------------------------------------------------

static qn_kernel_entry real;
static size_t param;  // the one that is spoilt
static size_t place;  // and where

static void flips_a_bit(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  real(buffers, symbols, begin, end);
  if (begin == 0) ((uint8_t *)buffers[param])[place] ^= 1;
}

static void only_begins(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  if (begin == 0) real(buffers, symbols, begin, end);
}

static int64_t at_least;  // iterations from here on are done twice: a second time by a thread that came late
static void repeats(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  real(buffers, symbols, begin, end);
  if (end > at_least) real(buffers, symbols, begin, end);
}

// The step whose kernel has a name that begins so.
static const qn_pstep *step_of(const compiled *c, const char *name) {
  for (size_t i = 0; i < c->program->steps.count; i++) {
    const qn_pstep *step = &c->program->steps.items[i];
    if (strncmp(c->program->kernels.items[step->kernel].name, name, strlen(name)) == 0) return step;
  }
  ck_abort_msg("no kernel %s", name);
  return NULL;
}

static qn_check *open_check(compiled *c, const qn_pstep *step, int64_t rows, qn_subject *subject, int variant) {
  qn_diag diag = {0};
  qn_check *check = NULL;
  real = entry_of(c, step->kernel, variant);
  qn_assert_ok(&diag, qn_subject_of_step(c->program, step, &c->arena, subject, &diag));
  qn_assert_ok(&diag, qn_check_create(subject, rows, 0, QN_CHECK_WORK, NULL, qn_test_allocator(), &check, &diag));
  return check;
}

static void expect(qn_check *check, qn_kernel_entry entry, qn_dim extent, const char *text) {
  qn_check_result result;
  qn_check_run(check, entry, extent, NULL, &result);
  qn_check(!result.right == (text != NULL), "got '%s', want '%s'", result.text, text ? text : "");
  if (text) qn_check(strstr(result.text, text) != NULL, "got '%s', want '%s' in it", result.text, text);
}

START_TEST(wrong_values) {
  compiled c;
  qn_diag diag = {0};
  qn_subject subject;
  compile(&c, "max T=64 R=1; x = input f32[T,64]; w = param f32[37,64]; y = matmul x w; output y", NULL, false, true);
  const qn_pstep *step = step_of(&c, "qk_matmul");
  const qn_pkernel *kernel = &c.program->kernels.items[step->kernel];
  int variant = kernel->variant_count - 1;
  qn_dim extent = kernel->variants[variant].extent;
  qn_check *check = open_check(&c, step, 40, &subject, variant);
  for (param = 0; !subject.plain->params[param]->writable;) param++;
  expect(check, real, extent, NULL);
  place = 4 * 5;  // the first row is one that the interpreter read
  expect(check, flips_a_bit, extent, "40 rows, seed 0: 'a2', row 0, column 5: got ");
  place = (39 * 48 + 40) * 4;  // padding is nobody's
  expect(check, flips_a_bit, extent, NULL);
  expect(check, only_begins, extent, "it was not written");
  place = (17 * 48 + 11) * 4;  // the interpreter has not been there; other code has
  expect(check, flips_a_bit, extent, NULL);
  expect(check, real, extent, NULL);
  qn_assert_ok(&diag, qn_check_keep(check, &diag));
  expect(check, flips_a_bit, extent, "row 17, column 11");
  // What was kept may be wrong itself: the interpreter says so, and who was right.
  qn_check_result result;
  place = (23 * 48 + 30) * 4;
  qn_check_destroy(check);
  check = open_check(&c, step, 40, &subject, variant);
  expect(check, flips_a_bit, extent, NULL);
  qn_assert_ok(&diag, qn_check_keep(check, &diag));
  qn_check_run(check, real, extent, NULL, &result);
  qn_check(result.right && result.kept_wrong, "%s", result.text);
  expect(check, flips_a_bit, extent, "row 23, column 30");
  at_least = 0;
  expect(check, repeats, extent, NULL);
  qn_check_destroy(check);
  release(&c);
}
END_TEST

// What a kernel that writes keys may not touch are all other keys.
START_TEST(wrong_places) {
  compiled c;
  qn_subject subject;
  compile(&c, layer, "F=f32 C=f16", false, true);
  const qn_pstep *step = step_of(&c, "qk_rope");
  const qn_pkernel *kernel = &c.program->kernels.items[step->kernel];
  int variant = kernel->variant_count - 1;  // of several rows
  qn_dim extent = kernel->variants[variant].extent;
  qn_check *check = open_check(&c, step, 7, &subject, variant);
  expect(check, real, extent, NULL);
  for (param = 0; subject.params[param]->kind != QN_PB_CACHE || !subject.plain->params[param]->writable;) param++;
  place = 12;  // in page 0, which nobody has
  expect(check, flips_a_bit, extent, "want nothing written there");
  expect(check, only_begins, extent, "it was not written");
  qn_check_destroy(check);
  release(&c);
}
END_TEST

// ---- what is made up -----------------------------------------------------------------------------------------------

static const int32_t *input(const qn_inputs *in, const char *name, size_t *out_count) {
  for (size_t i = 0; i < in->count; i++) {
    const qn_pbuf *p = in->subject.params[i];
    if (p->kind != QN_PB_INPUT || strcmp(p->name, name) != 0) continue;
    *out_count = in->buffers[i].size / 4;
    return (const int32_t *)(const void *)in->buffers[i].data;
  }
  ck_abort_msg("no input %s", name);
  return NULL;
}

// No two tokens have one key, no two pages one place, and nothing is out of range.
START_TEST(indices) {
  compiled c;
  qn_diag diag = {0};
  compile(&c, layer, "F=f32 C=f16", false, false);
  for (int64_t rows = 1; rows <= 60; rows += 7) {
    for (uint64_t seed = 0; seed < 3; seed++) {
      qn_subject subject;
      qn_inputs *in = NULL;
      int64_t symbols[QN_SYM_COUNT];
      size_t count = 0, pages = 0;
      qn_assert_ok(&diag, qn_subject_of_step(c.program, step_of(&c, "qk_rope"), &c.arena, &subject, &diag));
      qn_subject_symbols(&subject, rows, 70, 3, symbols);
      qn_assert_ok(&diag,
                   qn_inputs_create(&subject, symbols, seed, QN_INPUTS_CHECK, NULL, qn_test_allocator(), &in, &diag));
      const int32_t *pos = input(in, "pos", &count), *seq = input(in, "seq", &count);
      const int32_t *table = input(in, "block_table", &pages);
      qn_check((int64_t)count == symbols[QN_SYM_T] && (int64_t)pages == symbols[QN_SYM_B] * symbols[QN_SYM_P], "sizes");
      for (size_t i = 0; i < count; i++) {
        qn_check(pos[i] >= 0 && pos[i] < symbols[QN_SYM_P] * QN_PAGE_KEYS, "position %d", pos[i]);
        qn_check(seq[i] >= 0 && seq[i] < symbols[QN_SYM_B], "sequence %d", seq[i]);
        for (size_t j = 0; j < i; j++) qn_check(pos[i] != pos[j] || seq[i] != seq[j], "two tokens have one key");
      }
      for (size_t i = 0; i < pages; i++) {
        qn_check(table[i] > 0 && table[i] < symbols[QN_SYM_G], "page %d", table[i]);
        for (size_t j = 0; j < i; j++) qn_check(table[i] != table[j], "a page is given out twice");
      }
      qn_inputs_destroy(in);
    }
  }
  release(&c);
}
END_TEST

// No key is written twice, and some are written to two sequences.
START_TEST(several_sequences) {
  compiled c;
  qn_diag diag = {0};
  int64_t twice = 0;
  compile(&c, branching, "C=f16", false, false);
  for (int64_t rows = 2; rows <= 60; rows += 7) {
    qn_subject subject;
    qn_inputs *in = NULL;
    int64_t symbols[QN_SYM_COUNT];
    size_t count = 0;
    qn_assert_ok(&diag, qn_subject_of_step(c.program, step_of(&c, "qk_kv_write"), &c.arena, &subject, &diag));
    qn_subject_symbols(&subject, rows, 70, 3, symbols);
    for (int use = 0; use < 2; use++) {
      qn_assert_ok(&diag, qn_inputs_create(&subject, symbols, 1, use ? QN_INPUTS_TIME : QN_INPUTS_CHECK, NULL,
                                           qn_test_allocator(), &in, &diag));
      const int32_t *pos = input(in, "pos", &count), *seq = input(in, "seq", &count), *copies = input(in, "copies", &count);
      for (size_t i = 0; i < count; i++) {
        qn_check(copies[i] >= 1 && seq[i] + copies[i] <= symbols[QN_SYM_B], "%d of sequence %d", copies[i], seq[i]);
        qn_check(!use || copies[i] == 1, "more than a token of a step is timed");
        twice += copies[i] - 1;
        for (size_t j = 0; j < count; j++) {
          bool meets = i != j && pos[i] == pos[j] && seq[j] >= seq[i] && seq[j] < seq[i] + copies[i];
          qn_check(!meets, "tokens %zu and %zu write one key", i, j);
        }
      }
      qn_inputs_destroy(in);
    }
  }
  ck_assert_int_gt(twice, 5);
  release(&c);
}
END_TEST

START_TEST(guards) {
  qn_diag diag = {0};
  for (size_t size = 0; size < 200; size += 33) {
    qn_guarded g;
    int64_t at = 0;
    qn_assert_ok(&diag, qn_guarded_create(size, &g, &diag));
    ck_assert_uint_eq((uintptr_t)g.data % 64, 0);
    ck_assert(!qn_guarded_touched(&g, &at));
    memset(g.data, 1, size);
    ck_assert(!qn_guarded_touched(&g, &at));
    g.data[-3] = 0;
    ck_assert(qn_guarded_touched(&g, &at));
    ck_assert_int_eq(at, -3);
    qn_guarded_seal(&g);
    ck_assert(!qn_guarded_touched(&g, &at));
    if (size % 64) g.data[size] = 0;
    ck_assert(qn_guarded_touched(&g, &at) == (size % 64 != 0));
    qn_guarded_destroy(&g);
  }
}
END_TEST

// Every tile of the list is the main one or takes what is left, at one of the row counts; so does a block of tiles.
START_TEST(row_counts) {
  enum { MOST_WIDTHS = QN_SCHEDULE_MAX_TILES + 1 };
  static const int lists[][QN_SCHEDULE_MAX_TILES] = {{1}, {4, 1}, {12, 8, 4, 2, 1}, {64, 3, 1}, {4, 1}};
  static const int counts[] = {1, 2, 5, 3, 2}, m_blocks[] = {1, 1, 1, 1, 3};
  for (size_t l = 0; l < QN_COUNT(lists); l++) {
    qn_schedule s = qn_schedule_plain();
    int64_t rows[QN_CHECK_ROWS_MAX];
    s.m_tile_count = counts[l];
    memcpy(s.m_tiles, lists[l], sizeof s.m_tiles);
    s.m_block = m_blocks[l];
    int widths[MOST_WIDTHS], width_count = 0;
    if (s.m_block > 1) widths[width_count++] = s.m_block * s.m_tiles[0];
    for (int i = 0; i < s.m_tile_count; i++) widths[width_count++] = s.m_tiles[i];
    int count = qn_check_row_counts(&s, 1, 256, rows);
    ck_assert(count >= 1 && count <= QN_CHECK_ROWS_MAX);
    for (int i = 1; i < count; i++) ck_assert_int_lt(rows[i - 1], rows[i]);
    for (int tile = 0; tile < width_count; tile++) {
      int64_t most = 0;
      for (int i = 0; i < count; i++) {
        int64_t left = rows[i];
        for (int t = 0; t < tile; t++) left %= widths[t];
        if (left / widths[tile] > most) most = left / widths[tile];
      }
      qn_check(most >= (tile == 0 && width_count > 1 ? 2 : 1), "list %zu: tile %d runs %d times", l, tile,
               (int)most);
    }
    ck_assert_int_eq(qn_check_row_counts(&s, 5, 5, rows), 1);
    ck_assert_int_eq(rows[0], 5);
    // The quick ones run every tile once.
    for (int64_t least = 1; least < 200; least += 66) {
      int64_t quick[QN_CHECK_ROWS_MAX];
      bool runs[MOST_WIDTHS] = {false};
      int few = qn_check_quick_counts(&s, least, 1000, quick);
      ck_assert_int_eq(quick[0], least);
      qn_check(few <= (l == 2 ? 3 : 2), "list %zu from %d rows: %d row counts", l, (int)least, few);
      for (int i = 0; i < few; i++) {
        int64_t left = quick[i];
        for (int tile = 0; tile < width_count; left %= widths[tile++])
          runs[tile] = runs[tile] || left >= widths[tile];
      }
      for (int tile = 0; tile < width_count; tile++)
        qn_check(runs[tile], "list %zu from %d rows: tile %d has nothing to do", l, (int)least, tile);
    }
  }
}
END_TEST

// Tiles and blocks of them that are wider than all rows leave the others theirs.
START_TEST(row_counts_of_few_rows) {
  static const int tiles[] = {12, 4, 2, 1};
  for (int m_block = 1; m_block <= 3; m_block += 2) {
    for (int first = 0; first < 2; first++) {
      qn_schedule s = qn_schedule_plain();
      s.m_block = m_block;
      s.m_tile_count = 4 - first;
      for (int i = 0; i < s.m_tile_count; i++) s.m_tiles[i] = tiles[first + i];
      for (int quick = 0; quick < 2; quick++) {
        int64_t rows[QN_CHECK_ROWS_MAX];
        bool runs[13] = {false};
        int count = quick ? qn_check_quick_counts(&s, 2, 8, rows) : qn_check_row_counts(&s, 2, 8, rows);
        for (int i = 0; i < count; i++) {
          int64_t left = rows[i];
          ck_assert(left >= 2 && left <= 8);
          for (int t = 0; t < s.m_tile_count; left %= s.m_tiles[t++]) runs[s.m_tiles[t]] |= left >= s.m_tiles[t];
        }
        qn_check(runs[4] && runs[2] && runs[1] && !runs[12], "%d tiles, m_block %d, quick %d: some have nothing to do",
                 s.m_tile_count, m_block, quick);
      }
    }
  }
}
END_TEST

// A cache without positions cannot be filled with what tokens see.
START_TEST(unnamed_positions) {
  compiled c;
  qn_diag diag = {0};
  qn_subject subject;
  int64_t symbols[QN_SYM_COUNT];
  qn_inputs *in = NULL;
  compile(&c, layer, "F=f32 C=f16", false, false);
  for (size_t i = 0; i < c.program->buffers.count; i++) {
    qn_pbuf *p = &c.program->buffers.items[i];
    if (p->name && strcmp(p->name, "pos") == 0) p->name = "places";
  }
  qn_assert_ok(&diag, qn_subject_of_step(c.program, step_of(&c, "qk_attention"), &c.arena, &subject, &diag));
  qn_subject_symbols(&subject, 3, 0, 1, symbols);
  qn_assert_fails(&diag, QN_ERR_UNSUPPORTED, "want those: they say where its keys are",
                  qn_inputs_create(&subject, symbols, 0, QN_INPUTS_CHECK, NULL, qn_test_allocator(), &in, &diag));
  release(&c);
}
END_TEST

// Types and sizes that do not fit each other, as only an artifact that somebody made up has them.
START_TEST(types_that_do_not_fit) {
  compiled c;
  qn_diag diag = {0};
  qn_subject subject;
  qn_inputs *in = NULL;
  int64_t symbols[QN_SYM_COUNT];
  compile(&c, "max T=64 R=1; x = input f32[T,32]; w = param q4_0[17,32]; y = matmul x w; output y", NULL, true, false);
  qn_assert_ok(&diag, qn_subject_of_step(c.program, step_of(&c, "qk_matmul"), &c.arena, &subject, &diag));
  qn_subject_symbols(&subject, 3, 0, 1, symbols);
  qn_pbuf *weight = (qn_pbuf *)subject.params[0], *input = (qn_pbuf *)subject.params[1];
  weight->type.dims[0].value = 33;
  qn_assert_fails(&diag, QN_ERR_UNSUPPORTED, "bytes for a weight whose layout takes",
                  qn_inputs_create(&subject, symbols, 0, QN_INPUTS_CHECK, NULL, qn_test_allocator(), &in, &diag));
  weight->type.dims[0].value = 17;
  input->row_pitch = 0;
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_UNSUPPORTED, "parameter 1: got a type that its",
                  qn_inputs_create(&subject, symbols, 0, QN_INPUTS_CHECK, NULL, qn_test_allocator(), &in, &diag));
  symbols[QN_SYM_T] = INT64_MAX / 2;
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_LIMIT, "tokens, want at most",
                  qn_inputs_create(&subject, symbols, 0, QN_INPUTS_CHECK, NULL, qn_test_allocator(), &in, &diag));
  static const char text[] = "kernel \"k\" {\n  param y : f32[T*4611686018427387904] out\n  y[0] = 1.0\n}\n";
  qn_lkernel **kernels = NULL;
  size_t count = 0;
  diag = (qn_diag){0};
  qn_assert_ok(&diag, qn_lkernels_parse("text", (qn_str){text, sizeof text - 1}, &c.arena, &kernels, &count, &diag));
  subject.plain = kernels[0];
  symbols[QN_SYM_T] = 3;
  qn_assert_fails(&diag, QN_ERR_LIMIT, "the size of 'y' overflows",
                  qn_inputs_create(&subject, symbols, 0, QN_INPUTS_CHECK, NULL, qn_test_allocator(), &in, &diag));
  release(&c);
}
END_TEST

static qn_status make_check(const qn_allocator *allocator, void *context) {
  qn_diag diag = {0};
  qn_check *check = NULL;
  qn_status status = qn_check_create(context, 3, 1, 1000, NULL, allocator, &check, &diag);
  if (status == QN_OK) status = qn_check_keep(check, &diag);
  qn_check_destroy(check);
  return status;
}

START_TEST(out_of_memory) {
  compiled c;
  qn_diag diag = {0};
  qn_subject subject;
  compile(&c, "max T=64 R=1; x = input f32[T,32]; w = param q4_0[17,32]; y = matmul x w; output y", NULL, true, false);
  qn_assert_ok(&diag, qn_subject_of_step(c.program, step_of(&c, "qk_matmul"), &c.arena, &subject, &diag));
  qn_test_failing_allocations(make_check, &subject);
  release(&c);
}
END_TEST

QN_CASE(right, a_layer, keys_of_several_sequences, experts, formats, other_kernels)
QN_CASE(faults, wrong_values, wrong_places)
QN_CASE(inputs, indices, several_sequences, guards, row_counts, row_counts_of_few_rows, unnamed_positions,
        types_that_do_not_fit, out_of_memory)
QN_TEST_MAIN(right, faults, inputs)
