// Every op's kernel against the oracle, at odd sizes: interpreted as lowered, interpreted as scheduled or compiled.
// They must agree in every bit; the oracle bounds the error of the first.
#include <stdio.h>

#include "tests/support/kernel_cases.h"
#include "tests/support/test.h"

// One sequence, T in {1, 2, 3, 5, 13, 17}; positions go on from step to step.
static const qn_scenario token_counts = {1,
                                         1,
                                         {0},
                                         {{.spans = {{0, 0, 1}}},
                                          {.spans = {{0, 1, 2}}},
                                          {.spans = {{0, 3, 3}}},
                                          {.spans = {{0, 6, 5}}},
                                          {.spans = {{0, 11, 13}}, .rows = 2, .threads = 2},
                                          {.spans = {{0, 24, 17}}, .rows = 9, .threads = 3}}};
// Three sequences: one within its first page of keys, one that goes beyond it, one that goes beyond the second.
static const qn_scenario sequences = {3,
                                      3,
                                      {61, 7, 126},
                                      {{.spans = {{0, 61, 5}, {1, 7, 2}, {2, 126, 1}}, .threads = 2},
                                       {.spans = {{1, 9, 1}}},
                                       {.spans = {{2, 127, 2}, {0, 66, 1}}},
                                       {.spans = {{0, 67, 17}}, .threads = 3},
                                       {.spans = {{2, 129, 1}}}}};

// Runs of tokens that share keys: longer than a tile's rows, cut by other sequences, across a page, positions falling.
static const qn_scenario runs = {3,
                                 3,
                                 {50, 3, 120},
                                 {{.spans = {{0, 50, 17}, {1, 3, 2}, {2, 120, 1}}, .threads = 3},
                                  {.spans = {{1, 6, 3}, {1, 5, 1}, {0, 67, 5}, {1, 9, 1}}, .threads = 2},
                                  {.spans = {{2, 121, 11}, {0, 72, 1}, {1, 10, 3}}}}};

// The program for GPUs: its kernels as mapped to lanes have the bits of the program for CPUs.
static void check_gpu_program(const qn_kernel_case *c, const char *sizes, bool quantize) {
  const qn_scenario *s = c->scenario;
  qn_run *cpu = qn_run_create(c->text, sizes, &(qn_run_options){.quantize_activations = quantize}),
         *gpu = qn_run_create(c->text, sizes, &(qn_run_options){.gpu = true, .quantize_activations = quantize});
  const qn_run_output *want[QN_COUNT(s->steps)], *got[QN_COUNT(s->steps)];
  char label[160];
  qn_kernel_run_steps(cpu, s, QN_RUN_PLAIN, want);
  qn_kernel_run_steps(gpu, s, QN_RUN_LANES, got);
  for (int i = 0; s->steps[i].spans[0].count; i++) {
    snprintf(label, sizeof label, "%.60s... %s, step %d: for GPUs", c->text, sizes ? sizes : "", i);
    for (size_t o = 0; o < qn_run_output_count(cpu); o++) qn_run_compare_bits(&got[i][o], &want[i][o], label);
  }
  qn_run_destroy(cpu);
  qn_run_destroy(gpu);
}

// Of a case's sizes the sanitizers take the first and every third.
static void check_cases(const qn_kernel_case *cases, size_t count) {
  for (size_t i = 0; i < count; i++) {
    if (!cases[i].sizes[0]) qn_kernel_check_program(&cases[i], NULL, false);
    for (size_t j = 0; cases[i].sizes[j]; j++) {
      if (j == 0 || (i + j) % qn_test_stride(1, 3) == 0)
        qn_kernel_check_program(&cases[i], cases[i].sizes[j], false);
      else
        qn_kernel_skip_program();
    }
  }
}

// ---- elementwise ops ------------------------------------------------------------------------------------------

static const qn_kernel_case elementwise[] = {
    // Special values, and no cancellation: the polynomials' few units in the last place.
    {"s = input f32[T,$D]; a = neg s; b = sqrt s; c = exp s; d = tanh s; e = erf s; f = sigmoid s; g = relu s\n"
     "output a b c d e f g",
     {"D=1", "D=17", "D=33"},
     &token_counts,
     1e-6,
     QN_SCALE_OWN},
    {"x = input f32[T,$D]; a = gelu x; b = gelu_tanh x; c = silu x; output a b c",
     {"D=15", "D=16", "D=31"},
     &token_counts,
     1e-6,
     QN_SCALE_MAGNITUDE},
    {"s = input f32[T,$D]; a = gelu s; b = gelu_tanh s; c = silu s; output a b c", {"D=16"}, &token_counts, 1e-6,
     QN_SCALE_RMS},
    {"x = input f32[T,$D]; s = input f32[T,$D]; a = add x s; b = sub s x; c = mul x s; d = div s x; e = div x s\n"
     "output a b c d e",
     {"D=1", "D=17"},
     &token_counts,
     1e-6,
     QN_SCALE_OWN},
    // Broadcast: vectors and scalars on either side, three dimensions, vectors computed and given by the host.
    {"x = input f32[T,$D]; w = param f32[$D]; v = input f32[$D]; k = const 0.75; h = input f32[]\n"
     "a = add x w; b = sub w x; c = mul x v; d = div k x; e = sub x h; w2 = exp w; f = mul w2 x; h2 = tanh h; g = add "
     "h2 x\n"
     "output a b c d e f g w2 h2",
     {"D=1", "D=15", "D=33"},
     &qn_row_classes,
     1e-6,
     QN_SCALE_RMS},
    {"x = input f32[T,$W]; y = input f32[T,$W]; w = param f32[$C]; x3 = split_heads x heads=3; y3 = split_heads y "
     "heads=3\n"
     "a = add x3 y3; b = mul x3 w; c = merge_heads b; d = sub c x; k = const 3; e = div a k; output a b d e",
     {"W=15 C=5", "W=51 C=17"},
     &qn_row_classes,
     1e-6,
     QN_SCALE_RMS},
    // Rank 1: one value a token, and none.
    {"x = input f32[T]; y = input f32[T]; v = input f32[7]; k = const 2\n"
     "a = add x y; b = mul a k; c = gelu v; d = mul v c; output b d",
     {0},
     &qn_row_classes,
     1e-6,
     QN_SCALE_MAGNITUDE},
    // Constants that only folding meets, and chains that would double at every step if nothing went to memory.
    {"a = const 1.5; b = silu a; c = gelu b; d = div c a; e = neg d; f = neg e; one = const 1; x = input f32[T,9]\n"
     "y = mul x one; z = mul d y; w = add z f; output w",  // which cancels where x is near -1
     {0},
     &qn_row_classes,
     1e-6,
     QN_SCALE_RMS},
    {"x = input f32[T,17]; a = add x x; b = tanh a; c = add b b; d = tanh c; e = add d d; f = tanh e; g = add f f\n"
     "h = tanh g; i = add h h; j = tanh i; k = add j j; l = tanh k; m = add l l; n = tanh m; o = add n n; output o",
     {0},
     &qn_row_classes,
     1e-5,
     QN_SCALE_RMS},
};

// ---- row ops --------------------------------------------------------------------------------------------------

static const qn_kernel_case row_ops[] = {
    {"x = input f32[T,$D]; z = input f32[T,$D]; w = param f32[$D]; b = param f32[$D]\n"
     "a = rmsnorm x w eps=1e-5; c = layernorm x w b eps=1e-5; d = softmax x; e = rmsnorm z w eps=0.001\n"
     "f = layernorm z w b eps=0.1; g = softmax z; output a c d e f g",
     {"D=1", "D=15", "D=16", "D=17", "D=31", "D=33", "D=131"},
     &token_counts,
     2e-6,
     QN_SCALE_RMS},
    {"z = input f32[T,32]; w = param f32[32]; a = rmsnorm z w eps=0; output a", {0}, &qn_row_classes, 2e-6,
     QN_SCALE_OWN},
    // Per head, and what follows in the same kernel.
    {"x = input f32[T,$W]; x3 = split_heads x heads=3; w = param f32[$C]; b = param f32[$C]\n"
     "a = rmsnorm x3 w eps=1e-6; c = layernorm x3 w b eps=1e-6; d = softmax x3; e = mul a d; f = merge_heads e\n"
     "g = add f x; output c g",
     {"W=3 C=1", "W=48 C=16", "W=57 C=19"},
     &qn_row_classes,
     2e-6,
     QN_SCALE_RMS},
    // A row alone, and rows whose number is constant.
    {"x = input f32[$D]; w = param f32[$D]; b = param f32[$D]; a = rmsnorm x w eps=1e-5; c = layernorm a w b eps=1e-5\n"
     "d = softmax c; y = input f32[3,$D]; e = softmax y; f = rmsnorm e w eps=1e-9; output d f",
     {"D=7", "D=16", "D=37"},
     &qn_row_classes,
     2e-6,
     QN_SCALE_RMS},
    // Over keys: the width holds a symbol.
    {"x = input f32[T,3,64P]; k = const 2; y = mul x k; p = softmax y; z = sub p y; output p z",
     {0},
     &sequences,
     2e-6,
     QN_SCALE_RMS},
    // Norms of norms: numbers of one row op inside another's.
    {"x = input f32[T,21]; w = param f32[21]; b = param f32[21]; a = layernorm x w b eps=1e-5; c = add a x\n"
     "d = rmsnorm c w eps=1e-5; e = softmax d; f = silu e; output f d",
     {0},
     &qn_row_classes,
     2e-6,
     QN_SCALE_RMS},
};

// ---- shapes ---------------------------------------------------------------------------------------------------

static const qn_kernel_case shapes[] = {
    // Concat and slice on each axis, of values and of inputs, and views of views.
    {"x = input f32[T,$A]; y = input f32[T,$B]; n = neg y; a = concat x n x axis=1; b = neg a; c = slice b axis=1 "
     "begin=1 end=$E\n"
     "d = exp c; output a c d",
     {"A=1 B=1 E=2", "A=5 B=16 E=19", "A=17 B=15 E=40"},
     &qn_row_classes,
     1e-6,
     QN_SCALE_OWN},
    {"x = input f32[T,24]; x3 = split_heads x heads=3; y = input f32[T,30]; y3 = split_heads y heads=3; z = neg y3\n"
     "a = concat x3 z axis=2; b = slice a axis=2 begin=3 end=12; c = slice b axis=1 begin=1 end=3; d = merge_heads c\n"
     "e = add d d; x2 = input f32[T,2,8]; f = concat x3 x2 axis=1; g = slice f axis=1 begin=2 end=5; h = neg g\n"
     "output a c e h",
     {0},
     &qn_row_classes,
     1e-6,
     QN_SCALE_OWN},
    {"x = input f32[5,7]; y = input f32[2,7]; n = exp y; a = concat x n y axis=0; b = slice a axis=0 begin=4 end=8; c "
     "= tanh b\n"
     "w = param f32[3,7]; d = concat w n axis=0; v = input f32[6]; u = neg v; e = concat v u v axis=0\n"
     "f = slice e axis=0 begin=3 end=11; g = sqrt f; output a c d e g",
     {0},
     &qn_row_classes,
     1e-6,
     QN_SCALE_OWN},
    // Reshapes that keep rows, and ones that do not.
    {"x = input f32[T,30]; n = neg x; a = reshape n f32[T,2,15]; b = reshape n f32[T,3,2,5]; c = exp b; d = reshape n "
     "f32[5T,6]\n"
     "e = tanh d; f = reshape e f32[T,30]; g = add f n; h = reshape d f32[T,30]; i = slice d axis=1 begin=2 end=5\n"
     "j = reshape n f32[30T]; k = erf j; output a c e g i k h",
     {0},
     &qn_row_classes,
     1e-6,
     QN_SCALE_OWN},
    {"x = input f32[4,6]; n = neg x; a = reshape n f32[24]; b = exp a; c = reshape b f32[6,4]; d = slice c axis=0 "
     "begin=1 end=5\n"
     "e = reshape d f32[4,4]; f = slice c axis=0 begin=2 end=6; g = add e f; h = reshape x f32[2,3,4]; i = sqrt h; "
     "output b c g i",
     {0},
     &qn_row_classes,
     1e-6,
     QN_SCALE_OWN},
    // The rows of a view are not the rows of what it views.
    {"x = input f32[4,4]; w = param f32[4]; n = rmsnorm x w eps=1e-3; a = slice n axis=0 begin=1 end=3; b = reshape a "
     "f32[4,2]\n"
     "c = tanh b; output c n",
     {0},
     &qn_row_classes,
     2e-6,
     QN_SCALE_OWN},
    // Outputs: one value twice, a source, a part of another output, a view of a view, a parameter.
    {"x = input f32[T,18]; p = param f32[3,5]; k = const 2; n = neg x; a = reshape n f32[T,3,6]; b = slice n axis=1 "
     "begin=5 end=9\n"
     "c = reshape x f32[T,18]; d = reshape b f32[T,2,2]; e = reshape n f32[T,18]; output n a b x c d e p",
     {0},
     &qn_row_classes,
     1e-6,
     QN_SCALE_OWN},
    // Lookups of rows.
    {"x = input f32[T,$D]; g = gather_rows x rows; n = neg x; h = gather_rows n rows; w = param f32[$D]\n"
     "r = rmsnorm n w eps=1e-5; i = gather_rows r rows; j = rmsnorm i w eps=1e-5; output g h j r",
     {"D=1", "D=17", "D=31"},
     &token_counts,
     2e-6,
     QN_SCALE_OWN},
    {"x = input f32[T,10]; w = param f32[10]; r = rmsnorm x w eps=1e-5; again = input i32[T] name=tokens; e = param "
     "f32[1,10]\n"
     "l = embed e tokens; g = gather_rows r again; a = add g r; b = add a l; output b",
     {0},
     &token_counts,
     2e-6,
     QN_SCALE_RMS},
    // The tokens of a sequence in this step as one row; what is pooled may be no value in memory, and be pooled again.
    {"x = input f32[T,$D]; a = pool x pos rows kind=mean; b = pool x pos rows kind=first; n = neg x\n"
     "c = pool n pos rows kind=mean\n"
     "w = param f32[$D]; r = rmsnorm c w eps=1e-24; s = add a r; output a b s",
     {"D=1", "D=17", "D=40"},
     &runs,
     2e-6,
     QN_SCALE_RMS},
};

// ---- tables, rotations ----------------------------------------------------------------------------------------

static const qn_kernel_case rotations[] = {
    {"t = rope_table pos dims=$D theta=$H; f = param f32[$F]; u = rope_table pos f dims=$D theta=$H; output t u",
     {"D=2 F=1 H=10000", "D=6 F=3 H=10000", "D=64 F=32 H=500000"},
     &token_counts,
     5e-6,
     QN_SCALE_RMS},
    {"f = param f32[3]; t = rope_table pos dims=6 theta=100 scale=1.25; u = rope_table pos f dims=6 theta=50 scale=0.5\n"
     "output t u",
     {0},
     &qn_row_classes,
     5e-6,
     QN_SCALE_RMS},
    {"x = input f32[T,$W]; x3 = split_heads x heads=$N; t = rope_table pos dims=$D theta=100\n"
     "a = rope x3 t kind=pairs; b = rope x3 t kind=halves; k = const 0.5; c = mul a k; d = merge_heads b; e = add d x\n"
     "output c e b",
     {"W=2 N=1 D=2", "W=24 N=3 D=8", "W=21 N=3 D=4", "W=66 N=2 D=32", "W=160 N=2 D=80"},
     &qn_row_classes,
     5e-6,
     QN_SCALE_RMS},
    // A rotation of a norm, which is written to the cache and used besides.
    {"x = input f32[T,20]; w = param f32[10]; x3 = split_heads x heads=2; n = rmsnorm x3 w eps=1e-6\n"
     "t = rope_table pos dims=6 theta=100; r = rope n t kind=halves; c = cache kind=k index=0 f32[G,2,10,64]\n"
     "kw = kv_write c r pos seq block_table kind=k; s = attn_scores r kw pos seq block_table scale=1; k = const 1\n"
     "e = exp s; p = div e k; output p r",
     {0},
     &sequences,
     2e-5,
     QN_SCALE_RMS},
    // Heads that are taken out of a rotation, and of a norm, which the same kernel makes.
    {"x = input f32[T,60]; x3 = split_heads x heads=6; t = rope_table pos dims=6 theta=100; r = rope x3 t kind=halves\n"
     "h = slice r axis=1 begin=4 end=6; c = cache kind=k index=0 f32[G,2,10,64]\n"
     "kw = kv_write c h pos seq block_table kind=k; q = slice r axis=1 begin=0 end=4\n"
     "s = attn_scores q kw pos seq block_table scale=1; k = const 1; e = exp s; p = div e k; output p r",
     {0},
     &sequences,
     2e-5,
     QN_SCALE_RMS},
    {"x = input f32[T,60]; w = param f32[10]; x3 = split_heads x heads=6; n = rmsnorm x3 w eps=1e-6\n"
     "t = rope_table pos dims=6 theta=100; h = slice n axis=1 begin=4 end=6; r = rope h t kind=halves\n"
     "k = const 0.5; m = mul n k; output r m",
     {0},
     &qn_row_classes,
     2e-5,
     QN_SCALE_RMS},
};

// ---- attention ------------------------------------------------------------------------------------------------

#define ATTENTION_INPUTS                                                                 \
  "q = input f32[T,$H,$C]; k = input f32[T,$J,$C]; v = input f32[T,$J,$C]\n"             \
  "kc = cache kind=k index=0 $F[G,$J,$C,64]; vc = cache kind=v index=0 $F[G,$J,64,$C]\n" \
  "kw = kv_write kc k pos seq block_table kind=k; vw = kv_write vc v pos seq block_table kind=v\n"

static const qn_kernel_case attention[] = {
    {ATTENTION_INPUTS "s = attn_scores q kw pos seq block_table scale=0.3 window=$W softcap=$S\n"
                      "p = softmax s; o = attn_mix p vw pos seq block_table; output o",
     {"H=1 J=1 C=8 F=f32 W=0 S=0", "H=4 J=2 C=16 F=f32 W=5 S=0", "H=3 J=1 C=48 F=f32 W=64 S=2",
      "H=4 J=4 C=64 F=f32 W=70 S=0", "H=2 J=1 C=80 F=f32 W=1 S=30", "H=2 J=1 C=7 F=f32 W=66 S=0"},
     &sequences,
     1e-5,
     QN_SCALE_RMS},
    {ATTENTION_INPUTS "s = attn_scores q kw pos seq block_table scale=0.3 window=$W\n"
                      "p = softmax s; o = attn_mix p vw pos seq block_table; output o",
     {"H=9 J=3 C=24 F=f32 W=0", "H=8 J=4 C=8 F=f32 W=67", "H=3 J=3 C=80 F=f32 W=0", "H=4 J=1 C=64 F=f32 W=9"},
     &runs,
     1e-5,
     QN_SCALE_RMS},
    // Tokens that several sequences have.
    {"q = input f32[T,$H,$C]; k = input f32[T,$J,$C]; v = input f32[T,$J,$C]; t = rope_table pos dims=8 theta=100\n"
     "r = rope k t kind=halves; kc = cache kind=k index=0 $F[G,$J,$C,64]; vc = cache kind=v index=0 $F[G,$J,64,$C]\n"
     "kw = kv_write kc r pos seq block_table copies kind=k; vw = kv_write vc v pos seq block_table copies kind=v\n"
     "s = attn_scores q kw pos seq block_table scale=0.3; p = softmax s; o = attn_mix p vw pos seq block_table; output o",
     {"H=4 J=2 C=16 F=f32", "H=3 J=1 C=40 F=f32"},
     &sequences,
     1e-5,
     QN_SCALE_RMS},
    // A slope a head, whole and in its parts, by itself and beside a window and a cap; one that is computed.
    {ATTENTION_INPUTS "w = param f32[$H]; s = attn_scores q kw pos seq block_table w scale=0.3 window=$W softcap=$S\n"
                      "p = softmax s; o = attn_mix p vw pos seq block_table; output o",
     {"H=3 J=3 C=16 F=f32 W=0 S=0", "H=6 J=2 C=24 F=f32 W=67 S=3", "H=5 J=1 C=8 F=f32 W=0 S=0"},
     &sequences,
     1e-5,
     QN_SCALE_RMS},
    {ATTENTION_INPUTS "w = param f32[$H]; u = neg w; s = attn_scores q kw pos seq block_table u scale=0.3\n"
                      "p = softmax s; o = attn_mix p vw pos seq block_table; output o",
     {"H=12 J=4 C=16 F=f32", "H=7 J=7 C=80 F=f32"},
     &runs,
     1e-5,
     QN_SCALE_RMS},
    {ATTENTION_INPUTS "w = param f32[$H]; s = attn_scores q kw pos seq block_table w scale=0.3 softcap=5; p = softmax s\n"
                      "o = attn_mix p vw pos seq block_table; output o p",
     {"H=4 J=2 C=16 F=f32"},
     &sequences,
     1e-5,
     QN_SCALE_RMS},
    // Not causal: a token also sees the keys of its sequence that this step writes after its own.
    {ATTENTION_INPUTS "s = attn_scores q kw last_pos seq block_table scale=0.3\n"
                      "p = softmax s; o = attn_mix p vw last_pos seq block_table; output o",
     {"H=4 J=2 C=16 F=f32", "H=3 J=3 C=7 F=f32"},
     &runs,
     1e-5,
     QN_SCALE_RMS},
    {ATTENTION_INPUTS "s = attn_scores q kw last_pos seq block_table scale=0.3; p = softmax s\n"
                      "o = attn_mix p vw last_pos seq block_table; output o p",
     {"H=4 J=2 C=16 F=f32"},
     &sequences,
     1e-5,
     QN_SCALE_RMS},
    // Codes with scales of a token and head, multiplied as numbers, whole and in its parts.
    {ATTENTION_INPUTS "s = attn_scores q kw pos seq block_table scale=0.3 window=$W\n"
                      "p = softmax s; o = attn_mix p vw pos seq block_table; output o",
     {"H=4 J=2 C=16 F=int8 W=0", "H=3 J=1 C=48 F=int4 W=64", "H=2 J=1 C=7 F=int8 W=66", "H=3 J=3 C=80 F=int4 W=0",
      "H=2 J=1 C=9 F=int4 W=0"},
     &sequences,
     1e-5,
     QN_SCALE_RMS},
    {ATTENTION_INPUTS "s = attn_scores q kw pos seq block_table scale=0.3; p = softmax s\n"
                      "o = attn_mix p vw pos seq block_table; output o p",
     {"H=4 J=2 C=20 F=int8", "H=4 J=2 C=40 F=int4"},
     &runs,
     1e-5,
     QN_SCALE_RMS},
    // A bias by distance: of keys before alone, or around the token, beside the rest; one that is computed, in parts.
    // Tokens that see keys after their own: distances go by where they are.
    {ATTENTION_INPUTS "w = param f32[$N]; s = attn_scores q kw pos seq block_table w scale=0.3 origin=$O window=$W softcap=$S\n"
                      "p = softmax s; o = attn_mix p vw pos seq block_table; output o",
     {"H=3 J=3 C=16 F=f32 N=21 O=6 W=0 S=0", "H=4 J=2 C=7 F=f32 N=44 O=3 W=5 S=2"},
     &sequences,
     1e-5,
     QN_SCALE_RMS},
    {ATTENTION_INPUTS "w = param f32[$N]; u = neg w; s = attn_scores q kw last_pos seq block_table u pos scale=0.3 origin=$O\n"
                      "p = softmax s; o = attn_mix p vw last_pos seq block_table; output o p",
     {"H=4 J=2 C=16 F=f32 N=36 O=5"},
     &sequences,
     1e-5,
     QN_SCALE_RMS},
    {ATTENTION_INPUTS "w = param f32[$N]; s = attn_scores q kw last_pos seq block_table w pos scale=0.3 origin=$O\n"
                      "p = softmax s; o = attn_mix p vw last_pos seq block_table; output o",
     {"H=6 J=2 C=9 F=f32 N=66 O=2"},
     &runs,
     1e-5,
     QN_SCALE_RMS},
    {ATTENTION_INPUTS "w = param f32[$H]; s = attn_scores q kw last_pos seq block_table w pos scale=0.3\n"
                      "p = softmax s; o = attn_mix p vw last_pos seq block_table; output o",
     {"H=4 J=2 C=16 F=f32"},
     &sequences,
     1e-5,
     QN_SCALE_RMS},
    // Tokens that see those near them, before and after: more of the one or of the other, fewer than a page and more, in
    // codes, in parts, beside a slope; and ones whose window goes by where they are, though they see all after them.
    {ATTENTION_INPUTS "s = attn_scores q kw last_pos seq block_table pos scale=0.3 window=$W ahead=$A\n"
                      "p = softmax s; o = attn_mix p vw last_pos seq block_table; output o",
     {"H=4 J=2 C=16 F=f32 W=4 A=3", "H=3 J=3 C=7 F=f32 W=66 A=65", "H=2 J=1 C=24 F=f32 W=1 A=0", "H=2 J=2 C=9 F=int8 W=9 A=8"},
     &runs,
     1e-5,
     QN_SCALE_RMS},
    {ATTENTION_INPUTS "s = attn_scores q kw last_pos seq block_table pos scale=0.3 window=$W ahead=$A softcap=4\n"
                      "p = softmax s; o = attn_mix p vw last_pos seq block_table; output o p",
     {"H=4 J=2 C=16 F=f32 W=3 A=7"},
     &sequences,
     1e-5,
     QN_SCALE_RMS},
    {ATTENTION_INPUTS "w = param f32[$H]; s = attn_scores q kw last_pos seq block_table w pos scale=0.3 ahead=$A\n"
                      "p = softmax s; o = attn_mix p vw last_pos seq block_table; output o",
     {"H=4 J=2 C=16 F=f32 A=2"},
     &sequences,
     1e-5,
     QN_SCALE_RMS},
    {ATTENTION_INPUTS "s = attn_scores q kw last_pos seq block_table pos scale=0.3 window=$W\n"
                      "p = softmax s; o = attn_mix p vw last_pos seq block_table; output o",
     {"H=4 J=2 C=16 F=f32 W=3"},
     &runs,
     1e-5,
     QN_SCALE_RMS},
    // One cache for two layers: what the second writes is made of what the first has read.
    {ATTENTION_INPUTS "s = attn_scores q kw last_pos seq block_table scale=0.3; p = softmax s\n"
                      "o = attn_mix p vw last_pos seq block_table; l = add o k; m = sub o v\n"
                      "lw = kv_write kw l pos seq block_table kind=k; mw = kv_write vw m pos seq block_table kind=v\n"
                      "t = attn_scores q lw last_pos seq block_table scale=0.3; u = softmax t\n"
                      "r = attn_mix u mw last_pos seq block_table; output o r",
     {"H=3 J=3 C=16 F=f32", "H=2 J=2 C=7 F=f32"},
     &runs,
     1e-5,
     QN_SCALE_RMS},
    // What an encoder makes of a source, and a decoder's tokens that look at it.
    {"max S=72\n"
     "x = input f32[S,$D]; m = param f32[$D,$D]; n = param f32[$D]; h = rmsnorm x n eps=1e-5; y = matmul h m; q = split_heads y heads=$H\n"
     "kc = cache kind=k index=0 f32[G,$H,$C,64]; vc = cache kind=v index=0 f32[G,$H,64,$C]\n"
     "kw = kv_write kc q source_pos source_seq block_table kind=k; vw = kv_write vc q source_pos source_seq block_table kind=v\n"
     "w = param f32[$N]; s = attn_scores q kw source_last_pos source_seq block_table w source_pos scale=0.3 origin=2\n"
     "p = softmax s; o = attn_mix p vw source_last_pos source_seq block_table\n"
     "t = input f32[T,$H,$C]; a = attn_scores t kw cross_last_pos seq block_table scale=0.3\n"
     "b = softmax a; c = attn_mix b vw cross_last_pos seq block_table; output o c",
     {"H=3 C=7 D=21 N=15"},
     &runs,
     2e-5,
     QN_SCALE_RMS},
    // Keys and values rounded to 11 and to 8 bits.
    {ATTENTION_INPUTS "s = attn_scores q kw pos seq block_table scale=0.3\n"
                      "p = softmax s; o = attn_mix p vw pos seq block_table; output o",
     {"H=9 J=3 C=64 F=f16", "H=4 J=1 C=24 F=f16"},
     &runs,
     2e-3,
     QN_SCALE_RMS},
    {ATTENTION_INPUTS "s = attn_scores q kw pos seq block_table scale=0.3\n"
                      "p = softmax s; o = attn_mix p vw pos seq block_table; output o",
     {"H=4 J=2 C=16 F=f16"},
     &sequences,
     2e-3,
     QN_SCALE_RMS},
    {ATTENTION_INPUTS "s = attn_scores q kw pos seq block_table scale=0.3\n"
                      "p = softmax s; o = attn_mix p vw pos seq block_table; output o",
     {"H=4 J=2 C=16 F=bf16"},
     &sequences,
     2e-2,
     QN_SCALE_RMS},
    // Its parts, where the scores or the probabilities are wanted themselves.
    {ATTENTION_INPUTS "s = attn_scores q kw pos seq block_table scale=0.3 window=$W softcap=$S; p = softmax s\n"
                      "o = attn_mix p vw pos seq block_table; output o p s",
     {"H=4 J=2 C=16 F=f32 W=0 S=0", "H=3 J=1 C=10 F=f32 W=9 S=3"},
     &sequences,
     1e-5,
     QN_SCALE_RMS},
};

// ---- sampling -------------------------------------------------------------------------------------------------

static const qn_kernel_case sampling[] = {
    {"x = input f32[T,$V]; sampling = input i32[T,8]; a = sample x sampling; output a",
     {"V=1", "V=64", "V=65", "V=700"},
     &qn_row_classes,
     1e-9,
     QN_SCALE_OWN},
    // With values that are none.
    {"s = input f32[T,$V]; sampling = input i32[T,8]; a = sample s sampling; output a",
     {"V=1", "V=3", "V=70"},
     &qn_row_classes,
     1e-9,
     QN_SCALE_OWN},
};

// What is fused with products, each with float and with quantised weights and activations.
static const qn_kernel_case fused[] = {
    {"q = input f32[T,32]; w = param $F[$N,32]; b = param f32[$N]; res = input f32[T,$N]; n = neg res; m = matmul q w\n"
     "a = add m b; g = gelu a; y = add g n; z = add y res; k = const 0.5; u = mul z k; output u",
     {"F=f32 N=17", "F=f32 N=32", "F=q8_0 N=100", "F=q4_0 N=1"},
     &qn_row_classes,
     3e-6,
     QN_SCALE_RMS},
    {"q = input f32[T,64]; wg = param $F[$N,64]; wu = param $F[$N,64]; bg = param f32[$N]; bu = param f32[$N]; g = "
     "matmul q wg\n"
     "g2 = add g bg; s = silu g2; u = matmul q wu; u2 = add u bu; y = mul s u2; z = add y g; output z",
     {"F=f32 N=17", "F=q4_1 N=48", "F=iq4_nl N=17"},
     &qn_row_classes,
     3e-6,
     QN_SCALE_RMS},
    // Merged and sliced; a slice that is an output; the last of odd width.
    {"q = input f32[T,32]; wq = param $F[32,32]; wk = param $F[16,32]; wv = param $F[$N,32]; a = matmul q wq; b = "
     "matmul q wk\n"
     "c = matmul q wv; d = tanh b; e = split_heads a heads=4; f = exp e; output c d f b",
     {"F=f32 N=17", "F=q8_0 N=3"},
     &qn_row_classes,
     3e-6,
     QN_SCALE_RMS},
    // As in files of several formats: two of three are merged, gate and up of different formats meet.
    {"q = input f32[T,256]; wq = param $F[32,256]; wk = param $F[16,256]; wv = param $G[16,256]; a = matmul q wq\n"
     "b = matmul q wk; c = matmul q wv; d = add b c; wg = param $F[17,256]; wu = param $G[17,256]; g = matmul q wg\n"
     "s = silu g; u = matmul q wu; y = mul s u; e = embed wv tokens; output a d y e",
     {"F=q4_k G=q6_k", "F=q5_0 G=f16"},
     &qn_row_classes,
     3e-6,
     QN_SCALE_RMS},
    // Inputs that are views, rows that are chosen or constant, one input for two formats, a weight stacked by the
    // graph.
    {"q = input f32[T,96]; x = slice q axis=1 begin=32 end=96; w = param $F[20,64]; a = matmul x w; g = gather_rows q "
     "rows\n"
     "w2 = param $F[33,96]; b = matmul g w2; c = neg b; w3 = param f16[5,96]; w4 = param bf16[7,96]; d = matmul q w3; "
     "e = matmul q w4\n"
     "q3 = input f32[3,32]; w5 = param $F[16,32]; w6 = param $F[9,32]; w7 = concat w5 w6 axis=0; f = matmul q3 w7; h = "
     "relu f\n"
     "output a b c d e h",
     {"F=q8_0", "F=f32"},
     &qn_row_classes,
     3e-6,
     QN_SCALE_RMS},
    // Blocks that quantise to zeros, and ones that are not finite, which no code may hide.
    {"b = input f32[T,$K]; w = param $F[5,$K]; a = matmul b w; output a",
     {"F=q8_0 K=32", "F=q4_1 K=96"},
     &token_counts,
     3e-6,
     QN_SCALE_MAGNITUDE},
    // A parameter in three roles: streamed, looked up and added.
    {"q = input f32[T,8]; w = param f32[8,8]; a = matmul q w; e = embed w tokens; y = input f32[8,8]; b = add y w\n"
     "s = slice w axis=1 begin=2 end=5; c = exp s; r = gather_rows w tokens; d = add r e; f = add d a; output f b c",
     {0},
     &qn_row_classes,
     3e-6,
     QN_SCALE_RMS},
};

// ---- experts ----------------------------------------------------------------------------------------------------

// Rows of one expert that are more than one run holds, and less than one tile.
static const qn_scenario crowds = {
    1, 1, {0}, {{.spans = {{0, 0, 1}}}, {.spans = {{0, 1, 300}}, .threads = 2}, {.spans = {{0, 301, 3}}, .threads = 3}}};

// The places are seen by what else stands there; special values are NaN, infinities, zeros of both signs, and equal ones.
static const qn_kernel_case experts[] = {
    {"x = input f32[T,$D]; y = input f32[T,$D]; i = top_k x k=$C; a = pick x i; b = pick y i; c = softmax x; d = pick c i\n"
     "e = softmax a; k = const 2.5; f = mul d k; output a b d e f",
     {"D=1 C=1", "D=5 C=2", "D=64 C=8", "D=17 C=17"},
     &token_counts,
     1e-6,
     QN_SCALE_OWN},
    {"s = input f32[T,$D]; y = input f32[T,$D]; i = top_k s k=$C; a = pick s i; b = pick y i; output a b",
     {"D=3 C=3", "D=40 C=7"},
     &token_counts,
     1e-6,
     QN_SCALE_OWN},
    // Of what is computed where it is chosen from, and rows that are constant.
    {"x = input f32[T,12]; y = tanh x; i = top_k y k=3; a = pick y i; z = input f32[3,7]; j = top_k z k=2; b = pick z j\n"
     "output a b",
     {0},
     &qn_row_classes,
     1e-6,
     QN_SCALE_OWN},
    // Sums of what experts gave: of values that the host gives, and of one that all tokens have.
    {"y0 = input f32[T,$W]; y = reshape y0 f32[$R,$D]; g = input f32[T,$K]; a = expert_mix y g; h = input f32[T,1]\n"
     "x = input f32[T,$D]; b = expert_mix x h; c = add a b; output a c",
     {"K=2 R=2T D=5 W=10", "K=8 R=8T D=33 W=264", "K=1 R=T D=16 W=16"},
     &qn_row_classes,
     1e-6,
     QN_SCALE_RMS},
    // Of magnitudes other experts would be chosen. One product, as it is; with what follows it; of rows that each expert has of its own.
    {"q = input f32[T,$K]; r = input f32[T,$E]; i = top_k r k=$C; w = param $F[$E,$N,$K]; a = expert_matmul q w i\n"
     "b = param f32[$N]; v = param $F[$E,$N,$K]; c = expert_matmul q v i; d = add c b; e = tanh d; q0 = input f32[T,$W]\n"
     "p = reshape q0 f32[$R,$K]; f = expert_matmul p w i; output a e f",
     {"F=f32 E=3 C=2 N=17 K=5 R=2T W=10", "F=f16 E=7 C=3 N=33 K=8 R=3T W=24", "F=q8_0 E=4 C=4 N=16 K=64 R=4T W=256",
      "F=q4_0 E=9 C=1 N=48 K=32 R=T W=32", "F=q4_k E=2 C=1 N=5 K=256 R=T W=256", "F=mxfp4 E=3 C=2 N=15 K=96 R=2T W=192"},
     &qn_row_classes,
     1e-5,
     QN_SCALE_RMS},
    {"max T=304 R=304; q = input f32[T,$K]; r = input f32[T,2]; i = top_k r k=1; w = param $F[2,$N,$K]\n"
     "a = expert_matmul q w i; output a",
     {"F=f32 N=17 K=7", "F=q8_0 N=32 K=32"},
     &crowds,
     1e-5,
     QN_SCALE_RMS},
};

// A layer's feed-forward: normalised over all experts and over those chosen, gate and up in one kernel, an expert for all.
static const char mixture[] =
    "q = input f32[T,64]; wr = param f32[$E,64]; r = matmul q wr; i = top_k r k=$C; p = pick r i; g = softmax p\n"
    "w1 = param $F[$E,96,64]; w3 = param $F[$E,96,64]; w2 = param $F[$E,64,96]; a = expert_matmul q w1 i; s = silu a\n"
    "u = expert_matmul q w3 i; m = mul s u; d = expert_matmul m w2 i; o = expert_mix d g; y = add q o\n"
    "n = param f32[64]; z = rmsnorm y n eps=1e-5; sm = softmax r; h = pick sm i; o2 = expert_mix d h\n"
    "wg = param f32[1,64]; t = matmul q wg; t1 = sigmoid t; wd = param $F[64,64]; sh = matmul q wd; o3 = expert_mix sh t1\n"
    "y2 = add o2 o3; output y z y2";
static const qn_kernel_case mixtures[] = {
    {mixture, {"F=f32 E=5 C=2", "F=q8_0 E=8 C=3"}, &qn_row_classes, 1e-5, QN_SCALE_RMS},
    {mixture, {"F=q8_0 E=5 C=2", "F=q4_0 E=16 C=4"}, &qn_row_classes, 3e-2, QN_SCALE_MEAN},
};

// ---- whole layers ---------------------------------------------------------------------------------------------

// Llama: RMSNorm, grouped heads, RoPE, gated feed-forward, tied head.
static const char llama[] =
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

static const qn_kernel_case layers[] = {
    {llama, {"F=f32 C=f32", "F=q8_0 C=f32"}, &sequences, 1e-4, QN_SCALE_RMS},
    // Keys and values of 11 bits.
    {llama, {"F=q4_0 C=f16"}, &sequences, 1e-2, QN_SCALE_RMS},
    // GPT-2: learned positions, LayerNorm, biases, one matrix for Q, K and V, odd widths.
    {"wte = param f32[77,48]; wpe = param f32[192,48]; t = embed wte tokens; e = embed wpe pos; x = add t e\n"
     "n1 = param f32[48]; b1 = param f32[48]; a = layernorm x n1 b1 eps=1e-5; w = param f32[144,48]; bw = param "
     "f32[144]\n"
     "m = matmul a w; qkv = add m bw; q = slice qkv axis=1 begin=0 end=48; k = slice qkv axis=1 begin=48 end=96\n"
     "v = slice qkv axis=1 begin=96 end=144; q3 = split_heads q heads=3; k3 = split_heads k heads=3; v3 = split_heads "
     "v heads=3\n"
     "kc = cache kind=k index=0 f32[G,3,16,64]; vc = cache kind=v index=0 f32[G,3,64,16]\n"
     "kw = kv_write kc k3 pos seq block_table kind=k; vw = kv_write vc v3 pos seq block_table kind=v\n"
     "s = attn_scores q3 kw pos seq block_table scale=0.25; p = softmax s; o = attn_mix p vw pos seq block_table\n"
     "om = merge_heads o; wo = param f32[48,48]; bo = param f32[48]; o1 = matmul om wo; o2 = add o1 bo; h = add o2 x\n"
     "n2 = param f32[48]; b2 = param f32[48]; c = layernorm h n2 b2 eps=1e-5; w1 = param f32[190,48]; bf = param "
     "f32[190]\n"
     "f = matmul c w1; f1 = add f bf; f2 = gelu_tanh f1; w2 = param f32[48,190]; bp = param f32[48]; f3 = matmul f2 "
     "w2\n"
     "f4 = add f3 bp; y = add h f4; n3 = param f32[48]; b3 = param f32[48]; l = layernorm y n3 b3 eps=1e-5\n"
     "last = gather_rows l rows; logits = matmul last wte; output logits",
     {0},
     &sequences,
     1e-5,
     QN_SCALE_RMS},
    // Norms of heads, biases, a window, soft caps on scores and logits, values read from an earlier layer's cache.
    {"embd = param f32[60,40]; x0 = embed embd tokens; k6 = const 6.3; x = mul x0 k6; norm = param f32[40]; a = "
     "rmsnorm x norm eps=1e-6\n"
     "wq = param f32[40,40]; bq = param f32[40]; q0 = matmul a wq; q = add q0 bq; wk = param f32[20,40]; k = matmul a "
     "wk\n"
     "wv = param f32[20,40]; v = matmul a wv; q3 = split_heads q heads=4; k3 = split_heads k heads=2; v3 = split_heads "
     "v heads=2\n"
     "qn = param f32[10]; kn = param f32[10]; qa = rmsnorm q3 qn eps=1e-6; ka = rmsnorm k3 kn eps=1e-6\n"
     "table = rope_table pos dims=10 theta=1000; qr = rope qa table kind=halves; kr = rope ka table kind=halves\n"
     "kc = cache kind=k index=0 f32[G,2,10,64]; vc = cache kind=v index=0 f32[G,2,64,10]\n"
     "kw = kv_write kc kr pos seq block_table kind=k; vw = kv_write vc v3 pos seq block_table kind=v\n"
     "s = attn_scores qr kw pos seq block_table scale=0.3 window=20 softcap=5; p = softmax s; o = attn_mix p vw pos "
     "seq block_table\n"
     "om = merge_heads o; wo = param f32[40,40]; oo = matmul om wo; norm1 = param f32[40]; o1 = rmsnorm oo norm1 "
     "eps=1e-6; h = add x o1\n"
     "s2 = attn_scores qr kw pos seq block_table scale=0.3; p2 = softmax s2; i = attn_mix p2 vw pos seq block_table\n"
     "im = merge_heads i; h2 = add h im; norm3 = param f32[40]; l = rmsnorm h2 norm3 eps=1e-6; z = matmul l embd\n"
     "cap = const 2; z1 = div z cap; z2 = tanh z1; logits = mul z2 cap; output logits",
     {0},
     &sequences,
     1e-5,
     QN_SCALE_RMS},
};

START_TEST(elementwise_ops) { check_cases(elementwise, QN_COUNT(elementwise)); }
END_TEST
START_TEST(row_op_kernels) { check_cases(row_ops, QN_COUNT(row_ops)); }
END_TEST
START_TEST(shape_ops) { check_cases(shapes, QN_COUNT(shapes)); }
END_TEST
START_TEST(rotation_ops) { check_cases(rotations, QN_COUNT(rotations)); }
END_TEST
START_TEST(attention_ops) { check_cases(attention, QN_COUNT(attention)); }
END_TEST

// Sums of the attention that keys have had, read as keys of one number.
static const qn_kernel_case sums[] = {
    {ATTENTION_INPUTS "s = attn_scores q kw pos seq block_table scale=0.3; p = softmax s\n"
                      "cs = cache kind=sum index=0 f32[G,$J,1,64]; sw = kv_write cs p pos seq block_table kind=sum\n"
                      "one = input f32[T,$J,1]; r = attn_scores one sw pos seq block_table scale=1; o = softmax r\n"
                      "output o",
     {"H=4 J=2 C=16 F=f32", "H=3 J=1 C=8 F=f32", "H=3 J=3 C=20 F=f32"},
     &sequences,
     1e-4,
     QN_SCALE_RMS},
    {ATTENTION_INPUTS "s = attn_scores q kw pos seq block_table scale=0.3; p = softmax s\n"
                      "cs = cache kind=softsum index=0 f32[G,$J,1,64]; sw = kv_write cs p pos seq block_table kind=softsum\n"
                      "one = input f32[T,$J,1]; r = attn_scores one sw pos seq block_table scale=1; o = softmax r\n"
                      "output o",
     {"H=9 J=3 C=24 F=f32"},
     &runs,
     1e-4,
     QN_SCALE_RMS},
};

START_TEST(sums_of_attention) {
  check_cases(sums, QN_COUNT(sums));
  check_gpu_program(&sums[0], sums[0].sizes[0], false);
  check_gpu_program(&sums[1], sums[1].sizes[0], false);
}
END_TEST

START_TEST(attention_for_gpus) {
  for (size_t i = 0, turn = 0; i < QN_COUNT(attention); i++) {
    for (int j = 0; attention[i].sizes[j]; j++, turn++)
      if (turn % qn_test_stride(3, 7) == 0) check_gpu_program(&attention[i], attention[i].sizes[j], false);
  }
}
END_TEST
START_TEST(sampling_ops) { check_cases(sampling, QN_COUNT(sampling)); }
END_TEST

// A code that another rounding of the activation moves by one moves all that follows.
static const qn_kernel_case quantised[] = {
    {llama, {"F=q8_0 C=f32", "F=q4_0 C=f16"}, &sequences, 3e-2, QN_SCALE_MEAN},
};

// Quantised weights meet quantised activations.
static void check_quantised_cases(const qn_kernel_case *cases, size_t count) {
  for (size_t i = 0; i < count; i++) {
    for (int j = 0; j == 0 || cases[i].sizes[j]; j++) {
      const char *sizes = cases[i].sizes[j];
      qn_kernel_check_program(&cases[i], sizes, sizes && (strstr(sizes, "F=q") || strstr(sizes, "F=iq")));
    }
  }
}

START_TEST(fused_products) { check_quantised_cases(fused, QN_COUNT(fused)); }
END_TEST
START_TEST(expert_ops) { check_cases(experts, QN_COUNT(experts)); }
END_TEST
// Inputs named q quantise exactly.
START_TEST(quantised_experts) {
  for (size_t i = 0; i < QN_COUNT(experts); i++) {
    for (int j = 0; experts[i].sizes[j]; j++)
      if (strstr(experts[i].sizes[j], "F=q8_0")) qn_kernel_check_program(&experts[i], experts[i].sizes[j], true);
  }
  check_cases(mixtures, 1);
  check_quantised_cases(&mixtures[1], 1);
}
END_TEST
// Queries and weights as codes of 8 bits as well.
static const qn_kernel_case codes[] = {
    {ATTENTION_INPUTS "s = attn_scores q kw pos seq block_table scale=0.1 window=$W\n"
                      "p = softmax s; o = attn_mix p vw pos seq block_table; output o",
     {"H=4 J=2 C=64 F=int8 W=0", "H=4 J=1 C=80 F=int4 W=67", "H=3 J=3 C=20 F=int8 W=0", "H=2 J=1 C=40 F=int4 W=0"},
     &runs,
     2e-2,
     QN_SCALE_MEAN},
    {ATTENTION_INPUTS "s = attn_scores q kw pos seq block_table scale=0.1\n"
                      "p = softmax s; o = attn_mix p vw pos seq block_table; output o",
     {"H=9 J=3 C=24 F=int8", "H=8 J=4 C=8 F=int4", "H=3 J=1 C=7 F=int8"},
     &sequences,
     2e-2,
     QN_SCALE_MEAN},
};

START_TEST(attention_over_codes) {
  for (size_t i = 0; i < QN_COUNT(codes); i++) {
    for (int j = 0; codes[i].sizes[j]; j++) qn_kernel_check_program(&codes[i], codes[i].sizes[j], true);
  }
}
END_TEST
START_TEST(attention_over_codes_for_gpus) {
  for (size_t i = 0; i < QN_COUNT(codes); i++) check_gpu_program(&codes[i], codes[i].sizes[i], true);
}
END_TEST
// Keys' places apart from positions, which are the same here: no bit is another one. The queries are those of the
// graph's own, scaled, of the rows that are wanted.
static void check_placed(const qn_kernel_case *c, const char *sizes, qn_evict evict) {
  const qn_scenario *s = c->scenario;
  bool quantize = strstr(sizes, "F=q") != NULL;
  qn_run *plain = qn_run_create(c->text, sizes, &(qn_run_options){.quantize_activations = quantize}),
         *placed = qn_run_create(c->text, sizes, &(qn_run_options){.quantize_activations = quantize, .evict = evict});
  const qn_run_output *want[QN_COUNT(s->steps)], *got[QN_COUNT(s->steps)];
  size_t more = evict == QN_EVICT_QUERIES ? 1 : 0;
  ck_assert_uint_eq(qn_run_output_count(plain), 2);
  ck_assert_uint_eq(qn_run_output_count(placed), 2 + more);
  qn_kernel_run_steps(plain, s, QN_RUN_PLAIN, want);
  qn_run_begin(placed, s->sequences, s->pages, s->past);
  for (int i = 0; s->steps[i].spans[0].count; i++) got[i] = qn_kernel_check_step(placed, c, &s->steps[i], sizes);
  for (int engine = QN_RUN_PLAIN; engine <= QN_RUN_SCHEDULED; engine++) {
    if (engine != QN_RUN_PLAIN) qn_kernel_run_steps(placed, s, (qn_run_engine)engine, got);
    for (int i = 0; s->steps[i].spans[0].count; i++) {
      for (size_t o = 0; o < 2; o++) qn_run_compare_bits(&got[i][o], &want[i][o], sizes);
      if (more) qn_run_compare_bits(&got[i][2], &want[i][1], sizes);
    }
  }
  qn_run_destroy(plain);
  qn_run_destroy(placed);
}

START_TEST(keys_in_places) {
  char text[sizeof llama + 128];
  snprintf(text, sizeof text,
           "%s; qm = merge_heads qr; qg = gather_rows qm rows; sc = const 0.25; qs = mul qg sc; output qs", llama);
  const qn_kernel_case c = {text, {0}, &sequences, 1e-4, QN_SCALE_RMS},
                       mean = {text, {0}, &sequences, 5e-2, QN_SCALE_MEAN};
  check_placed(&c, "F=f32 C=f32", QN_EVICT_QUERIES);
  check_placed(&mean, "F=q8_0 C=f16", QN_EVICT_QUERIES);
  check_placed(&mean, "F=q4_0 C=int8", QN_EVICT_PLACES);
}
END_TEST

START_TEST(float_layers) { check_cases(layers, QN_COUNT(layers)); }
END_TEST
START_TEST(quantised_layers) { check_quantised_cases(quantised, 1); }
END_TEST

static const struct {
  const qn_kernel_case *cases;
  size_t count;
} tables[] = {{elementwise, QN_COUNT(elementwise)}, {row_ops, QN_COUNT(row_ops)},     {shapes, QN_COUNT(shapes)},
              {rotations, QN_COUNT(rotations)},     {attention, QN_COUNT(attention)}, {fused, QN_COUNT(fused)},
              {experts, QN_COUNT(experts)},         {codes, QN_COUNT(codes)},         {sampling, QN_COUNT(sampling)}};

START_TEST(every_op_has_a_case) {
  bool seen[QN_OP_COUNT] = {false};
  for (size_t i = 0; i < QN_COUNT(tables); i++) {
    for (size_t j = 0; j < tables[i].count; j++) {
      const qn_kernel_case *c = &tables[i].cases[j];
      qn_run *run = qn_run_create(c->text, c->sizes[0], &(qn_run_options){.quantize_activations = true});
      qn_run_mark_ops(run, seen);
      qn_run_destroy(run);
    }
  }
  for (int op = 0; op < QN_OP_COUNT; op++) ck_assert_msg(seen[op], "no case holds %s", qn_op_get_info((qn_op)op)->name);
}
END_TEST

QN_CASE(kernels, every_op_has_a_case, elementwise_ops, row_op_kernels, shape_ops, rotation_ops, attention_ops,
        attention_for_gpus, attention_over_codes, attention_over_codes_for_gpus, sampling_ops, fused_products,
        keys_in_places, float_layers, quantised_layers)
QN_CASE(mixtures_of_experts, expert_ops, quantised_experts)
QN_CASE(sums_over_steps, sums_of_attention)
QN_TEST_MAIN(kernels, sums_over_steps, mixtures_of_experts)
