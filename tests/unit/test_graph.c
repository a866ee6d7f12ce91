// The graph IR: what building refuses and how it says so, what the verifier finds, questions about nodes, rewriting,
// and that no failing allocation is lost.
#include "ir/graph.h"

#include "tests/support/graph_text.h"
#include "tests/support/test.h"

// ---- building -------------------------------------------------------------------------------------------------

// A layer's caches, before the statement that is wrong.
#define CACHES                                                                           \
  "kc = cache kind=k index=0 f32[G,2,16,64]; vc = cache kind=v index=0 f32[G,2,64,16]; " \
  "q = input f32[T,4,16]; q3 = input f32[T,3,16]; x = input f32[T,2,16]; p = input f32[T,4,64P]; "

#define EXPERTS \
  "r = input f32[T,4]; i = top_k r k=2; x = input f32[T,8]; w = param f32[4,9,8]; v = param f32[9,8]; r3 = input f32[T,2,4]; "

static const struct {
  const char *text, *message;
} build_errors[] = {
    // operands and attributes
    {"x = input f32[T,4]; y = add x", "y: add: got 1 operands, want 2 to 2"},
    {"x = input f32[T,4]; y = neg x x", "y: neg: got 2 operands, want 1 to 1"},
    {"x = input f32[T,4]; y = neg x axis=1", "y: neg: got attribute axis, which this op does not have"},
    {"x = input f32[T,4]; y = slice x axis=1 axis=1 begin=0 end=1", "y: slice: attribute axis is there twice"},
    {"x = input f32[T,4]; y = slice x axis=1 begin=0", "y: slice: got no attribute end, want one"},
    {"x = input f32[T,4]; y = reshape x", "y: reshape: got no type, want one: its shape cannot be inferred"},
    {"x = input f32[T,4]; y = neg x f32[T,5]", "y: neg: got type f32[T,5], want f32[T,4]"},
    {"x = input f32[T,0]", "x: input: got a result of no elements, or too many to count"},
    {"x = input f32[T,9223372036854775807,2]", "x: input: got a result of no elements, or too many to count"},
    // sources
    {"x = input q8_0[T,32]", "x: input: got type q8_0[T,32], want f32 or i32"},
    {"w = param f32[T,4]", "w: param: got type f32[T,4], want a weight format and constant dimensions"},
    {"w = param i32[4]", "w: param: got type i32[4], want a weight format and constant dimensions"},
    {"w = param q4_0[8,48]", "w: param: got type q4_0[8,48], want rows of whole blocks"},
    {"w = param q4_0[]", "w: param: got type q4_0[], want rows of whole blocks"},
    {"c = const 1 f32[1]", "c: const: got type f32[1], want f32[]"},
    {"c = cache kind=q index=0 f32[G,2,16,64]", "c: cache: attribute kind: got 'q', want k, v, sum or softsum"},
    {"c = cache kind=k index=0 f32[G,2,64,16]",
     "c: cache: got type f32[G,2,64,16], want floats, int8 or int4 [G, heads, head_dim, 64] for kind k"},
    {"c = cache kind=v index=0 f32[G,2,16,63]", "want floats, int8 or int4 [G, heads, 64, head_dim] for kind v"},
    {"c = cache kind=k index=0 f32[2G,2,16,64]", "c: cache: got type f32[2G,2,16,64]"},
    {"c = cache kind=k index=0 i8[G,2,16,64]", "c: cache: got type i8[G,2,16,64]"},
    // views
    {"x = input f32[T,4]; y = reshape x f32[T,5]",
     "y: reshape: operand 0: got f32[T,4], want as many elements as the result, of its type"},
    {"x = input f32[T,4]; y = reshape x f32[R,4]", "as many elements as the result"},
    {"x = input f32[R,524288]; s = input i32[R,8]; y = sample x s",
     "y: sample: operand 0: got f32[R,524288], want f32[R, vocabulary], vocabulary less than 2^19"},
    {"x = input f32[R,5]; s = input i32[T,8]; y = sample x s", "y: sample: operand 1: got i32[T,8], want i32[R, 8]"},
    {"x = input f32[R,5]; s = input f32[R,8]; y = sample x s", "y: sample: operand 1: got f32[R,8], want i32[R, 8]"},
    {"x = input f32[T,4]; y = reshape x i32[T,4]", "as many elements as the result"},
    {"x = input f32[T,64P]; y = reshape x f32[T,64]", "no symbol but in the first dimension"},
    {"w = param q8_0[4,64]; y = reshape w q8_0[8,32]", "as many elements as the result, of its type"},
    {"x = input f32[T,2,4]; y = split_heads x heads=2",
     "y: split_heads: operand 0: got f32[T,2,4], want f32[T, width]"},
    {"x = input f32[T,6]; y = split_heads x heads=4",
     "y: split_heads: attribute heads: got 4, want a divisor of the width"},
    {"x = input f32[T,6]; y = split_heads x heads=0", "attribute heads: got 0"},
    {"x = input f32[T,6]; y = merge_heads x", "y: merge_heads: operand 0: got f32[T,6], want f32[T, heads, head_dim]"},
    {"x = input f32[T,6]; y = slice x axis=0 begin=0 end=1",
     "y: slice: attribute axis: got 0, want a dimension of constant size"},
    {"x = input f32[T,6]; y = slice x axis=2 begin=0 end=1", "y: slice: attribute axis: got 2"},
    {"x = input f32[T,6]; y = slice x axis=1 begin=6 end=7",
     "y: slice: attribute begin: got 6, want an element of the axis"},
    {"x = input f32[T,6]; y = slice x axis=1 begin=2 end=2",
     "y: slice: attribute end: got 2, want begin < end <= the axis's size"},
    {"x = input f32[T,6]; y = slice x axis=1 begin=2 end=7", "attribute end: got 7"},
    {"w = param q8_0[4,64]; y = slice w axis=0 begin=0 end=2", "want a type without blocks"},
    {"x = input f32[T,4,64P]; y = slice x axis=1 begin=0 end=2", "no symbol but in the first dimension"},
    {"x = input f32[T,6]; y = concat x x axis=2", "y: concat: attribute axis: got 2, want a dimension of the operands"},
    {"x = input f32[T,6]; y = concat x x axis=0",
     "y: concat: operand 0: got f32[T,6], want operand 0's type but for the axis, which must be constant"},
    {"x = input f32[T,6]; z = input f32[R,6]; y = concat x z axis=1", "y: concat: operand 1: got f32[R,6]"},
    {"x = input f32[T,2,64P]; y = concat x x axis=1", "no symbol but in the first dimension"},
    {"x = input i32[T,6]; y = concat x x axis=1",
     "y: concat: operand 0: got i32[T,6], want f32, or parameters along axis 0"},
    {"w = param q8_0[4,64]; y = concat w w axis=1", "want f32, or parameters along axis 0"},
    {"x = input f32[9223372036854775807]; y = concat x x axis=0",
     "y: concat: operand 1: got f32[9223372036854775807], want sizes whose sum can be counted"},
    // elementwise and row ops
    {"x = input f32[T,4]; w = input f32[5]; y = add x w",
     "y: add: operand 1: got f32[5], want the other operand's shape, its last dimension, or a scalar"},
    {"x = input f32[T,4]; w = input i32[T,4]; y = mul x w", "y: mul: operand 1: got i32[T,4], want f32"},
    {"x = input i32[T]; y = neg x", "y: neg: operand 0: got i32[T], want f32"},
    {"x = input f32[T,7P]; y = neg x", "want symbols in the first dimension, or 16 times a symbol in the last"},
    {"x = input f32[T,P,4]; y = sub x x", "want symbols in the first dimension, or 16 times a symbol in the last"},
    {"x = input f32[T,64P]; w = input f32[64P]; y = add x w", "y: add: operand 1: got f32[64P]"},
    {"x = input f32[T,64P]; y = softmax x",
     "y: softmax: operand 0: got f32[T,64P], want rows of constant width, or f32[T, heads, 64P]"},
    {"x = input f32[]; y = softmax x", "y: softmax: operand 0: got f32[]"},
    {"x = input f32[T,64P]; w = param f32[64]; y = rmsnorm x w eps=0",
     "y: rmsnorm: operand 0: got f32[T,64P], want f32[..., width]"},
    {"x = input f32[T]; w = param f32[1]; y = rmsnorm x w eps=0",
     "y: rmsnorm: operand 0: got f32[T], want f32[..., width]"},
    {"x = input f32[T,4]; w = param f32[5]; y = rmsnorm x w eps=0",
     "y: rmsnorm: operand 1: got f32[5], want f32[width]"},
    {"x = input f32[T,4]; w = param f32[4]; b = param f16[4]; y = layernorm x w b eps=0",
     "y: layernorm: operand 2: got f16[4], want f32[width]"},
    {"x = input f32[T,4]; w = param f32[4]; y = rmsnorm x w eps=-1",
     "y: rmsnorm: attribute eps: got -1, want 0 or more"},
    {"x = input f32[T,4]; w = param f32[4]; y = rmsnorm x w eps=nan", "attribute eps: got nan"},
    {"x = input f32[T,48]; y = quantize x",
     "y: quantize: operand 0: got f32[T,48], want f32[T, width], width a multiple of 32"},
    // tables and products
    {"w = input f32[9,4]; y = embed w tokens",
     "y: embed: operand 0: got f32[9,4], want a parameter [vocabulary, width]"},
    {"w = param f32[4]; y = embed w tokens", "y: embed: operand 0: got f32[4]"},
    {"w = param f32[9,4]; y = embed w block_table", "y: embed: operand 1: got i32[B,P], want i32[T]"},
    {"x = input f32[T,2,4]; y = gather_rows x rows", "y: gather_rows: operand 0: got f32[T,2,4], want f32[T, width]"},
    {"x = input f32[T,4]; y = gather_rows x x", "y: gather_rows: operand 1: got f32[T,4], want i32[R]"},
    {"x = input f32[T,2,4]; w = param f32[9,4]; y = matmul x w",
     "y: matmul: operand 0: got f32[T,2,4], want f32[T, K] or a8[T, K]"},
    {"x = input f32[T,4]; w = param f32[9,5]; y = matmul x w",
     "y: matmul: operand 1: got f32[9,5], want a parameter [N, K] with operand 0's K"},
    {"x = input f32[T,4]; w = input f32[9,4]; y = matmul x w", "y: matmul: operand 1: got f32[9,4], want a parameter"},
    {"x = input f32[T,4]; w = param f32[4,9]; v = reshape w f32[9,4]; y = matmul x v",
     "y: matmul: operand 1: got f32[9,4], want a parameter"},
    {"x = input f32[T,32]; z = quantize x; w = param f32[9,32]; y = matmul z w",
     "y: matmul: operand 1: got f32[9,32], want a format with blocks"},
    {"x = input f32[T,32]; w = param f16[9,32]; y = matmul x w halves=2",
     "y: matmul: attribute halves: got 2, want 1, or no such attribute"},
    {"x = input f32[T,32]; w = param q8_0[9,32]; y = matmul x w halves=1",
     "y: matmul: operand 1: got q8_0[9,32], want f16 or bf16 beside the attribute halves"},
    {"x = input f32[T]; y = rope_table x dims=4 theta=1e4", "y: rope_table: operand 0: got f32[T], want i32[T]"},
    {"y = rope_table pos dims=3 theta=1e4", "y: rope_table: attribute dims: got 3, want an even number of 2 or more"},
    {"y = rope_table pos dims=4 theta=0", "y: rope_table: attribute theta: got 0, want more than 0"},
    {"y = rope_table pos dims=4 theta=10 scale=0", "y: rope_table: attribute scale: got 0, want more than 0"},
    {"f = param f32[4]; y = rope_table pos f dims=4 theta=10",
     "y: rope_table: operand 1: got f32[4], want f32[dims/2]"},
    {"t = rope_table pos dims=4 theta=10; x = input f32[T,4]; y = rope x t kind=pairs",
     "y: rope: operand 0: got f32[T,4], want f32[T, heads, head_dim]"},
    {"t = rope_table pos dims=4 theta=10; x = input f32[T,2,4]; y = rope x t kind=thirds",
     "y: rope: attribute kind: got 'thirds', want pairs or halves"},
    {"t = rope_table pos dims=6 theta=10; x = input f32[T,2,4]; y = rope x t kind=pairs",
     "y: rope: operand 1: got f32[T,6], want f32[T, dims], dims at most head_dim"},
    {"t = input f32[T,3]; x = input f32[T,2,4]; y = rope x t kind=pairs", "y: rope: operand 1: got f32[T,3]"},
    // experts
    {"x = input f32[T,2,4]; y = top_k x k=1", "y: top_k: operand 0: got f32[T,2,4], want f32[T, width]"},
    {"x = input f32[T,4]; y = top_k x k=5", "y: top_k: attribute k: got 5, want 1 to the width"},
    {"x = input f32[T,4]; y = top_k x k=0", "y: top_k: attribute k: got 0, want 1 to the width"},
    {"x = input f32[T]; i = input i32[T,2]; y = pick x i", "y: pick: operand 0: got f32[T], want f32[T, width]"},
    {"x = input f32[T,4]; i = input i32[T,2]; y = pick x i",
     "y: pick: operand 1: got i32[T,2], want a top_k of operand 0's rows and width"},
    {"x = input f32[T,4]; z = input f32[T,5]; i = top_k z k=2; y = pick x i", "y: pick: operand 1: got i32[T,2]"},
    {"x = input f32[T,4]; z = input f32[R,4]; i = top_k z k=2; y = pick x i", "y: pick: operand 1: got i32[R,2]"},
    {"i = input i32[T,2]; y = expert_order i", "y: expert_order: operand 0: got i32[T,2], want a top_k"},
    {"x = input f32[T,4097]; i = top_k x k=2; y = expert_order i",
     "y: expert_order: operand 0: got i32[T,2], want a top_k among at most 4096 values"},
    {"x = input f32[2305843009213693952T,2]; i = top_k x k=2; y = expert_order i",
     "y: expert_order: operand 0: got i32[2305843009213693952T,2], want fewer rows"},
    {EXPERTS "y = expert_matmul r3 w i", "y: expert_matmul: operand 0: got f32[T,2,4], want f32 or a8 [T, K] or [kT, K]"},
    {EXPERTS "y = expert_matmul x v i",
     "y: expert_matmul: operand 1: got f32[9,8], want a parameter [E, N, K] with operand 0's K"},
    {EXPERTS "z = input f32[4,9,8]; y = expert_matmul x z i",
     "y: expert_matmul: operand 1: got f32[4,9,8], want a parameter [E, N, K]"},
    {EXPERTS "z = input f32[T,7]; y = expert_matmul z w i", "y: expert_matmul: operand 1: got f32[4,9,8]"},
    {EXPERTS "z = param f32[4097,9,8]; y = expert_matmul x z i", "want at most 4096 experts"},
    {EXPERTS "z = input f32[T,32]; q = quantize z; u = param f32[4,9,32]; y = expert_matmul q u i",
     "y: expert_matmul: operand 1: got f32[4,9,32], want a format with blocks"},
    {EXPERTS "j = input i32[T,2]; y = expert_matmul x w j",
     "y: expert_matmul: operand 2: got i32[T,2], want a top_k among as many values as there are experts"},
    {EXPERTS "u = param f32[5,9,8]; y = expert_matmul x u i", "y: expert_matmul: operand 2: got i32[T,2]"},
    {EXPERTS "z = input f32[3T,8]; y = expert_matmul z w i",
     "y: expert_matmul: operand 0: got f32[3T,8], want a row for each token, or for each expert of a token"},
    {EXPERTS "j = top_k r k=3; o = expert_order j; y = expert_matmul x w i o",
     "y: expert_matmul: operand 3: got i32[6T], want the expert_order of operand 2"},

    {"x = input f32[T,4]; y = pool x pos rows kind=max", "y: pool: attribute kind: got 'max', want mean or first"},
    {"x = input f32[T,2,4]; y = pool x pos rows kind=mean", "y: pool: operand 0: got f32[T,2,4], want f32[T, width]"},
    {"x = input f32[T,4]; y = pool x rows rows kind=mean", "y: pool: operand 1: got i32[R], want i32[T]"},
    {"x = input f32[T,4]; y = pool x pos x kind=first", "y: pool: operand 2: got f32[T,4], want i32[R]"},

    {"x = input f32[T]; g = input f32[T,2]; y = expert_mix x g",
     "y: expert_mix: operand 0: got f32[T], want f32[kT, width]"},
    {"x = input f32[T,4]; g = input f32[T,2]; y = expert_mix x g",
     "y: expert_mix: operand 1: got f32[T,2], want f32[T, k] where operand 0 has kT rows"},
    // caches and attention
    {CACHES "s = cache kind=sum index=0 f32[G,2,2,64]; y = neg q", "s: cache: got type f32[G,2,2,64], want f32[G, heads, 1, 64]"},
    {CACHES "s = cache kind=sum index=0 f16[G,2,1,64]; y = neg q", "s: cache: got type f16[G,2,1,64], want f32[G, heads, 1, 64]"},
    {CACHES "s = cache kind=sum index=0 f32[G,2,1,64]; y = kv_write s x pos seq block_table kind=sum",
     "y: kv_write: operand 1: got f32[T,2,16], want f32[T, heads, 64P], heads a multiple of the cache's"},
    {CACHES "s = cache kind=sum index=0 f32[G,3,1,64]; p = attn_scores q kc pos seq block_table scale=1\n"
            "y = kv_write s p pos seq block_table kind=sum",
     "y: kv_write: operand 1: got f32[T,4,64P], want f32[T, heads, 64P], heads a multiple of the cache's"},
    {CACHES "s = cache kind=sum index=0 f32[G,2,1,64]; p = attn_scores q kc pos seq block_table scale=1\n"
            "y = kv_write s p pos seq block_table pos kind=sum",
     "y: kv_write: operand 5: got i32[T], want nothing: sums are of one sequence"},
    {CACHES "y = kv_write kc x pos seq block_table kind=q", "y: kv_write: attribute kind: got 'q', want k, v, sum or softsum"},
    {CACHES "y = kv_write kc x pos seq block_table kind=v",
     "y: kv_write: operand 0: got f32[G,2,16,64], want a cache of this kind"},
    {CACHES "z = input f32[G,2,16,64]; y = kv_write z x pos seq block_table kind=k", "want a cache of this kind"},
    {CACHES "y = kv_write kc q pos seq block_table kind=k",
     "y: kv_write: operand 1: got f32[T,4,16], want f32[T, heads, head_dim] as the cache has them"},
    {CACHES "y = kv_write kc x rows seq block_table kind=k", "y: kv_write: operand 2: got i32[R], want i32[T]"},
    {CACHES "y = kv_write kc x pos block_table block_table kind=k",
     "y: kv_write: operand 3: got i32[B,P], want i32[T]"},
    {CACHES "y = kv_write kc x pos seq pos kind=k", "y: kv_write: operand 4: got i32[T], want i32[B, P]"},
    {CACHES "y = kv_write kc x pos seq block_table rows kind=k", "y: kv_write: operand 5: got i32[R], want i32[T]"},
    {CACHES "y = attn_scores p kc pos seq block_table scale=1",
     "y: attn_scores: operand 0: got f32[T,4,64P], want f32[T, heads, head_dim]"},
    {CACHES "y = attn_scores q vc pos seq block_table scale=1",
     "y: attn_scores: operand 1: got f32[G,2,64,16], want a K cache with q's head_dim and a divisor of its heads"},
    {CACHES "y = attn_scores q3 kc pos seq block_table scale=1",
     "y: attn_scores: operand 1: got f32[G,2,16,64], want a K cache"},
    {CACHES "y = attn_scores q kc pos seq block_table scale=1 window=-1",
     "y: attn_scores: attribute window: got -1, want 0 or more"},
    {CACHES "y = attn_scores q kc pos seq block_table scale=1 softcap=-2",
     "y: attn_scores: attribute softcap: got -2, want 0 or more"},
    {CACHES "w = param f32[2]; y = attn_scores q kc pos seq block_table w scale=1",
     "y: attn_scores: operand 5: got f32[2], want f32[heads]"},
    {CACHES "w = param f32[1,4]; y = attention q kc vc pos seq block_table w scale=1",
     "y: attention: operand 6: got f32[1,4], want f32[heads]"},
    {CACHES "y = attn_scores q kc pos seq block_table scale=1 origin=1",
     "y: attn_scores: attribute origin: got 1, want the operand that it is of, f32[heads * distances], too"},
    {CACHES "w = param f32[6]; y = attn_scores q kc pos seq block_table w scale=1 origin=1",
     "attribute origin: got 1, want the operand that it is of"},
    {CACHES "w = param f32[4,2]; y = attention q kc vc pos seq block_table w scale=1 origin=0",
     "attribute origin: got 0, want the operand that it is of"},
    {CACHES "w = param f32[8]; y = attention q kc vc pos seq block_table w scale=1 origin=2",
     "y: attention: attribute origin: got 2, want one of the bias's distances, from 0 on"},
    {CACHES "w = param f32[8]; y = attn_scores q kc pos seq block_table w scale=1 origin=-1",
     "attribute origin: got -1, want one of the bias's distances"},
    {CACHES "y = attn_scores q kc pos seq block_table scale=1 ahead=-1",
     "y: attn_scores: attribute ahead: got -1, want 0 to 2^31 - 1"},
    {CACHES "y = attn_scores q kc pos seq block_table scale=1 ahead=2147483648",
     "y: attn_scores: attribute ahead: got 2147483648, want 0 to 2^31 - 1"},
    {CACHES "y = attn_scores q kc pos seq block_table rows scale=1", "y: attn_scores: operand 5: got i32[R], want i32[T]"},
    {CACHES "w = param f32[4]; y = attn_scores q kc pos seq block_table pos w scale=1",
     "y: attn_scores: operand 6: got f32[4], want nothing after i32[T]"},
    {CACHES "y = attention q kc vc pos seq block_table pos scale=1 origin=0",
     "y: attention: attribute origin: got 0, want the operand that it is of, f32[heads * distances], too"},
    {CACHES "w = param f32[4]; y = attn_scores q kc pos seq block_table w rows scale=1",
     "y: attn_scores: operand 6: got i32[R], want i32[T]"},
    {CACHES "y = attn_scores q kc source_pos seq block_table scale=1",
     "y: attn_scores: operand 2: got i32[S], want i32[T]"},
    {CACHES "y = attn_mix q vc pos seq block_table",
     "y: attn_mix: operand 0: got f32[T,4,16], want f32[T, heads, 64P]"},
    {CACHES "y = attn_mix p kc pos seq block_table",
     "y: attn_mix: operand 1: got f32[G,2,16,64], want a V cache with a divisor of the heads"},
    {CACHES "y = attn_mix p vc pos rows block_table", "y: attn_mix: operand 3: got i32[R], want i32[T]"},
    {CACHES "y = attention q kc kc pos seq block_table scale=1",
     "y: attention: operand 2: got f32[G,2,16,64], want a V cache with the K cache's heads"},
    {CACHES "y = attention q kc vc pos seq tokens scale=1", "y: attention: operand 5: got i32[T], want i32[B, P]"},
    // outputs
    {"x = input f32[T,4]; output x x", "output 'x' is there twice; give each its own name"},
};

START_TEST(building_refuses) {
  for (size_t i = 0; i < QN_COUNT(build_errors); i++) {
    qn_arena arena;
    qn_graph *graph = NULL;
    qn_diag diag = {0};
    qn_arena_init(&arena, qn_test_allocator());
    qn_status status = qn_graph_from_text(build_errors[i].text, NULL, &arena, &graph, &diag);
    qn_check(status == QN_ERR_FORMAT || status == QN_ERR_ARGUMENT, "%s: got %s", build_errors[i].text,
             qn_status_name(status));
    qn_check(strstr(diag.text, build_errors[i].message), "%s:\n got  '%s'\n want '%s'", build_errors[i].text, diag.text,
             build_errors[i].message);
    qn_arena_deinit(&arena);
  }
}
END_TEST

// ---- a graph to ask -------------------------------------------------------------------------------------------

typedef struct fixture {
  qn_arena arena;
  qn_graph *graph;
  qn_diag diag;
} fixture;

static void set_up(fixture *f, const char *text) {
  *f = (fixture){0};
  qn_arena_init(&f->arena, qn_test_allocator());
  qn_assert_ok(&f->diag, qn_graph_from_text(text, NULL, &f->arena, &f->graph, &f->diag));
}

static void tear_down(fixture *f) { qn_arena_deinit(&f->arena); }

START_TEST(nodes_outside_the_limits) {
  fixture f;
  set_up(&f, "x = input f32[T,4]; output x");
  qn_id id = 0;
  qn_node_spec spec = {.op = QN_OP_CONCAT, .operand_count = QN_MAX_OPERANDS + 1, .loc = "many"};
  qn_assert_fails(&f.diag, QN_ERR_FORMAT, "many: concat: got 9 operands and 0 attributes, want at most 8 and 6",
                  qn_graph_add(f.graph, &spec, &id, &f.diag));
  f.diag = (qn_diag){0};
  spec = (qn_node_spec){.op = QN_OP_NEG, .operand_count = 1, .operands = {7}};
  qn_assert_fails(&f.diag, QN_ERR_FORMAT, "?: neg: operand 0: got value 7, want one defined before it",
                  qn_graph_add(f.graph, &spec, &id, &f.diag));
  f.diag = (qn_diag){0};
  qn_assert_fails(&f.diag, QN_ERR_ARGUMENT, "output 'y': got value 2, want one of 1..1",
                  qn_graph_add_output(f.graph, "y", 2, &f.diag));
  tear_down(&f);
}
END_TEST

START_TEST(attributes_are_sorted_and_found) {
  fixture f;
  set_up(&f, "x = input f32[T,4]; y = slice x end=3 begin=1 axis=1; output y");
  const qn_node *slice = qn_graph_node(f.graph, 2);
  ck_assert_int_eq(slice->attrs[0].id, QN_ATTR_AXIS);
  ck_assert_int_eq(slice->attrs[2].id, QN_ATTR_END);
  ck_assert_int_eq(qn_node_int(slice, QN_ATTR_END, -1), 3);
  ck_assert_int_eq(qn_node_int(slice, QN_ATTR_HEADS, -1), -1);
  ck_assert_ptr_null(qn_node_attr(slice, QN_ATTR_NAME));
  ck_assert_str_eq(qn_node_text(qn_graph_node(f.graph, 1), QN_ATTR_NAME, ""), "x");
  ck_assert_double_eq(qn_node_float(slice, QN_ATTR_EPS, 0.5), 0.5);
  tear_down(&f);
}
END_TEST

START_TEST(uses_and_bases) {
  fixture f;
  set_up(&f, "x = input f32[T,4]; a = add x x; b = split_heads a heads=2; c = merge_heads b; d = neg c; output a d");
  uint32_t *uses = qn_graph_count_uses(f.graph, &f.arena);
  const uint32_t want[] = {0, 2, 2, 1, 1, 1};
  for (qn_id id = 1; id <= 5; id++) ck_assert_uint_eq(uses[id], want[id]);
  ck_assert_uint_eq(qn_graph_base(f.graph, 4), 2);
  f.graph->nodes.items[3].group = 1;  // a view that copies
  ck_assert_uint_eq(qn_graph_base(f.graph, 4), 3);
  tear_down(&f);
}
END_TEST

START_TEST(stacks_of_parameters) {
  fixture f;
  set_up(&f,
         "a = param f32[2,4]; b = param f32[3,4]; x = input f32[3,4]; s = concat a b axis=0; m = concat a x axis=0\n"
         "w = concat b b axis=1; output s m w");
  ck_assert(qn_graph_is_stack(f.graph, qn_graph_node(f.graph, 4)));
  ck_assert(!qn_graph_is_stack(f.graph, qn_graph_node(f.graph, 5)));
  ck_assert(!qn_graph_is_stack(f.graph, qn_graph_node(f.graph, 6)));
  ck_assert(!qn_graph_is_stack(f.graph, qn_graph_node(f.graph, 1)));
  tear_down(&f);
}
END_TEST

START_TEST(costs) {
  static const struct {
    const char *text;  // the last value is asked
    double flops, bytes_read, bytes_written;
  } cases[] = {
      {"x = input f32[T,64]; w = param q8_0[32,64]; y = matmul x w", 2. * 3 * 32 * 64, 3 * 64 * 4 + 32 * 2 * 34,
       3 * 32 * 4},
      {"x = input f32[T,64]; y = gelu x", 3 * 64 * 19, 3 * 64 * 4, 3 * 64 * 4},
      {"x = input f32[T,64]; y = quantize x", 3 * 64 * 5, 3 * 64 * 4, 3 * 64 * 1.5},
      {"x = input f32[T,64]; y = slice x axis=1 begin=0 end=8", 0, 0, 0},
      {"x = input f32[T,64]", 0, 0, 0},
      {CACHES "y = attn_scores q kc pos seq block_table scale=1", 2. * 3 * 4 * 128 * 16,
       3 * 64 * 4 + 5 * 2048 * 4 + 12 + 12 + 8, 3 * 4 * 128 * 4},
      {CACHES "y = attn_mix p vc pos seq block_table", 2. * 3 * 64 * 128, 3 * 4 * 128 * 4 + 5 * 2048 * 4 + 32,
       3 * 64 * 4},
      {CACHES "y = attention q kc vc pos seq block_table scale=1", 4. * 3 * 64 * 128, 3 * 64 * 4 + 10 * 2048 * 4 + 32,
       3 * 64 * 4},
      {CACHES "y = kv_write kc x pos seq block_table kind=k", 0, 3 * 32 * 4 + 32, 3 * 32 * 4},
  };
  const int64_t symbols[QN_SYM_COUNT] = {
      [QN_SYM_T] = 3, [QN_SYM_P] = 2, [QN_SYM_B] = 1, [QN_SYM_G] = 5, [QN_SYM_R] = 1};
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    fixture f;
    set_up(&f, cases[i].text);
    qn_cost cost = qn_node_cost(f.graph, (qn_id)(f.graph->nodes.count - 1), symbols);
    qn_check(cost.flops == cases[i].flops, "%s: got %g flops, want %g", cases[i].text, cost.flops, cases[i].flops);
    qn_check(cost.bytes_read == cases[i].bytes_read, "%s: got %g bytes read, want %g", cases[i].text, cost.bytes_read,
             cases[i].bytes_read);
    qn_check(cost.bytes_written == cases[i].bytes_written, "%s: got %g bytes written, want %g", cases[i].text,
             cost.bytes_written, cases[i].bytes_written);
    tear_down(&f);
  }
}
END_TEST

// ---- verifying ------------------------------------------------------------------------------------------------

static void forward_operand(qn_graph *g) { g->nodes.items[2].operands[0] = 3; }
static void other_type(qn_graph *g) { g->nodes.items[2].type.dims[1].value = 7; }
static void high_group(qn_graph *g) { g->nodes.items[2].group = 1; }
static void a_group(qn_graph *g) { g->nodes.items[2].group = g->group_count = 1; }
static void no_output(qn_graph *g) { g->outputs.count = 0; }
static void wild_output(qn_graph *g) { g->outputs.items[0].value = 99; }

#define CHAIN "x = input f32[T,4]; a = neg x; b = exp a; output b"
START_TEST(verifying) {
  static const struct {
    const char *text;
    void (*spoil)(qn_graph *graph);  // NULL = the text is wrong enough
    qn_graph_stage stage;
    qn_status status;
    const char *message;
  } cases[] = {
      {CHAIN, forward_operand, QN_STAGE_IMPORTED, QN_ERR_FORMAT, "a: neg: operand 0: got value 3, want one before 2"},
      {CHAIN, other_type, QN_STAGE_FUSED, QN_ERR_FORMAT, "a: neg: value 2 has another type than its shape rule gives"},
      {CHAIN, high_group, QN_STAGE_FUSED, QN_ERR_FORMAT, "a: neg: got group 1, want at most 0"},
      {CHAIN, a_group, QN_STAGE_IMPORTED, QN_ERR_FORMAT, "a: neg: got a group, which only passes may make"},
      {CHAIN, a_group, QN_STAGE_PLANNED, QN_ERR_INTERNAL, "b: exp: value 3 has no group after fusion"},
      {CHAIN, no_output, QN_STAGE_IMPORTED, QN_ERR_FORMAT, "got no output, want at least one"},
      {CHAIN, wild_output, QN_STAGE_IMPORTED, QN_ERR_FORMAT, "output 'b': got value 99, want one of 1..3"},
      {"x = input f32[T,32]; a = quantize x; output a", NULL, QN_STAGE_IMPORTED, QN_ERR_FORMAT,
       "a: quantize: got this op, which only passes may make"},
      {CACHES "a = cache kind=k index=0 f32[G,3,16,64]; output x", NULL, QN_STAGE_IMPORTED, QN_ERR_FORMAT,
       "a: cache k of layer 0: got two of them, want one"},
      {CACHES
       "a = attn_scores q kc pos seq block_table scale=1; b = kv_write kc x pos seq block_table kind=k; output a",
       NULL, QN_STAGE_IMPORTED, QN_ERR_FORMAT,
       "kc: cache: got 2 uses of a cache that kv_write overwrites, want the kv_write alone, or others that what it writes is made of"},
      {CACHES "b = kv_write kc x pos seq block_table kind=k; a = attn_scores q b pos seq block_table scale=1\n"
              "c = kv_write b x pos seq block_table kind=k; output a",
       NULL, QN_STAGE_IMPORTED, QN_ERR_FORMAT, "b: kv_write: got 2 uses of a cache that kv_write overwrites"},
      // made of what was read before, and of something that is read after it
      {CACHES "v = kv_write vc x pos seq block_table kind=v; b = kv_write kc x pos seq block_table kind=k\n"
              "a = attn_scores q b pos seq block_table scale=1; p = softmax a; m = attn_mix p v pos seq block_table\n"
              "y = slice m axis=1 begin=0 end=2; c = kv_write b y pos seq block_table kind=k\n"
              "d = attn_scores q c pos seq block_table scale=1; e = exp d; output e",
       NULL, QN_STAGE_IMPORTED, QN_OK, ""},
      {CACHES "v = kv_write vc x pos seq block_table kind=v; b = kv_write kc x pos seq block_table kind=k\n"
              "a = attn_scores q b pos seq block_table scale=1; p = softmax a; m = attn_mix p v pos seq block_table\n"
              "y = slice m axis=1 begin=0 end=2; c = kv_write b y pos seq block_table kind=k\n"
              "d = attn_scores q b pos seq block_table scale=1; e = exp d; output e",
       NULL, QN_STAGE_IMPORTED, QN_ERR_FORMAT, "b: kv_write: got 3 uses of a cache that kv_write overwrites"},
      {CACHES "a = kv_write kc x pos seq block_table kind=k; b = kv_write a x pos seq block_table kind=k\n"
              "c = attn_scores q a pos seq block_table scale=1; output c",
       NULL, QN_STAGE_FUSED, QN_ERR_FORMAT, "a: kv_write: got 2 uses of a cache that kv_write overwrites"},
      {CACHES "a = cache kind=k index=1 f32[G,2,16,64]; b = kv_write a x pos seq block_table kind=k\n"
              "c = attn_scores q b pos seq block_table scale=1; d = exp c; output c d",
       NULL, QN_STAGE_IMPORTED, QN_OK, ""},
  };
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    fixture f;
    set_up(&f, cases[i].text);
    if (cases[i].spoil) cases[i].spoil(f.graph);
    qn_status status = qn_graph_verify(f.graph, cases[i].stage, &f.diag);
    qn_check(status == cases[i].status && strstr(f.diag.text, cases[i].message), "%s: got %s, '%s', want '%s'",
             cases[i].text, qn_status_name(status), f.diag.text, cases[i].message);
    tear_down(&f);
  }
}
END_TEST

// ---- rewriting ------------------------------------------------------------------------------------------------

static qn_status drop_one(qn_rewriter *r, qn_id id, qn_id *out) {
  *out = 0;
  return id == *(const qn_id *)r->context ? QN_OK : qn_rewrite_keep(r, id, out);
}

START_TEST(rewriting) {
  fixture f;
  qn_id dropped = 0;
  qn_graph *to = NULL;
  qn_buf before, after;
  set_up(&f, "max T=7; " CHAIN);
  f.graph->nodes.items[2].group = f.graph->group_count = 1;
  qn_assert_ok(&f.diag, qn_graph_rewrite(f.graph, &f.arena, drop_one, &dropped, &to, &f.diag));
  qn_buf_init(&before, qn_test_allocator());
  qn_buf_init(&after, qn_test_allocator());
  qn_graph_print(f.graph, &before);
  qn_graph_print(to, &after);
  ck_assert_str_eq(qn_buf_text(&after), qn_buf_text(&before));
  ck_assert_uint_eq(to->group_count, 1);
  qn_buf_deinit(&before);
  qn_buf_deinit(&after);
  dropped = 2;
  qn_assert_fails(&f.diag, QN_ERR_INTERNAL, "b: a pass dropped operand 0 of exp, which is still used",
                  qn_graph_rewrite(f.graph, &f.arena, drop_one, &dropped, &to, &f.diag));
  f.diag = (qn_diag){0};
  dropped = 3;
  qn_assert_fails(&f.diag, QN_ERR_INTERNAL, "a pass dropped the value of output 'b'",
                  qn_graph_rewrite(f.graph, &f.arena, drop_one, &dropped, &to, &f.diag));
  tear_down(&f);
}
END_TEST

// What tokens see of a cache: the largest window of all that read it, or everything.
START_TEST(windows_of_caches) {
#define WRITTEN CACHES "kw = kv_write kc x pos seq block_table kind=k; vw = kv_write vc x pos seq block_table kind=v; "
  static const struct {
    const char *text;
    int64_t k, v;
  } cases[] = {
      {WRITTEN "o = attention q kw vw pos seq block_table scale=1 window=9; output o", 9, 9},
      {WRITTEN "o = attention q kw vw pos seq block_table scale=1; output o", 0, 0},
      {WRITTEN "o = attention q kw vw pos seq block_table scale=1 window=9\n"
               "z = attention q kw vw pos seq block_table scale=1 window=70; output o z", 70, 70},
      {WRITTEN "o = attention q kw vw pos seq block_table scale=1 window=9\n"
               "z = attention q kw vw pos seq block_table scale=1; output o z", 0, 0},
      // Apart, and weights that come from elsewhere.
      {WRITTEN "s = attn_scores q kw pos seq block_table scale=1 window=9; w = softmax s\n"
               "o = attn_mix w vw pos seq block_table; output o s", 9, 9},
      {WRITTEN "s = attn_scores q kw pos seq block_table scale=1 window=9; w = exp s\n"
               "o = attn_mix w vw pos seq block_table; output o", 9, 0},
      // Tokens that see keys after their own, or of a source.
      {WRITTEN "o = attention q kw vw last_pos seq block_table scale=1 window=9; output o", 0, 0},
      {WRITTEN "output x", 0, 0},
  };
#undef WRITTEN
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    qn_arena arena;
    qn_graph *graph = NULL;
    qn_diag diag = {0};
    qn_arena_init(&arena, qn_test_allocator());
    qn_assert_ok(&diag, qn_graph_from_text(cases[i].text, NULL, &arena, &graph, &diag));
    int seen = 0;
    for (qn_id id = 1; id < graph->nodes.count; id++) {
      const qn_node *node = qn_graph_node(graph, id);
      if (node->op != QN_OP_CACHE) continue;
      bool is_k = strcmp(qn_node_text(node, QN_ATTR_KIND, ""), "k") == 0;
      int64_t got = qn_graph_cache_window(graph, id), want = is_k ? cases[i].k : cases[i].v;
      qn_check(got == want, "case %d, %s: got %d, want %d", (int)i, is_k ? "k" : "v", (int)got, (int)want);
      seen++;
    }
    ck_assert_int_eq(seen, 2);
    qn_arena_deinit(&arena);
  }
}
END_TEST

// ---- memory ---------------------------------------------------------------------------------------------------

static qn_status print_and_parse(const qn_allocator *allocator, void *context) {
  qn_arena arena;
  qn_graph *graph = NULL, *again = NULL;
  qn_diag diag = {0};
  qn_buf text;
  qn_arena_init(&arena, allocator);
  qn_buf_init(&text, allocator);
  qn_status status = qn_graph_from_text(context, NULL, &arena, &graph, &diag);
  if (status == QN_OK) {
    qn_graph_print(graph, &text);
    status =
        text.failed ? QN_ERR_NOMEM : qn_graph_parse("copy", (qn_str){text.data, text.length}, &arena, &again, &diag);
  }
  if (status == QN_OK) status = qn_graph_verify(again, QN_STAGE_IMPORTED, &diag);
  qn_id none = 0;
  if (status == QN_OK) status = qn_graph_rewrite(again, &arena, drop_one, &none, &graph, &diag);
  if (status == QN_OK && !qn_graph_count_uses(graph, &arena)) status = QN_ERR_NOMEM;
  qn_buf_deinit(&text);
  qn_arena_deinit(&arena);
  return status;
}

START_TEST(failing_allocations) {
  qn_test_failing_allocations(print_and_parse, CACHES
                              "w = param f32[32]; k = const 2.5; y = kv_write kc x pos seq block_table kind=k\n"
                              "s = attn_scores q y pos seq block_table scale=0.5; z = exp s; output z s");
}
END_TEST

START_TEST(ops_by_name) {
  for (int op = 0; op < QN_OP_COUNT; op++) {
    qn_op parsed;
    const qn_op_info *info = qn_op_get_info((qn_op)op);
    ck_assert(qn_op_parse(qn_str_from(info->name), &parsed) && parsed == (qn_op)op);
    ck_assert_int_le(info->min_operands, info->max_operands);
    ck_assert_int_le(info->max_operands, QN_MAX_OPERANDS);
    ck_assert_uint_eq(info->required_attrs & info->optional_attrs, 0);
    ck_assert_uint_gt(strlen(info->meaning), 0);
  }
  qn_op op;
  qn_attr_id attr;
  ck_assert(!qn_op_parse(QN_STR("convolve"), &op) && !qn_attr_parse(QN_STR("colour"), &attr));
}
END_TEST

QN_CASE(graph, building_refuses, nodes_outside_the_limits, attributes_are_sorted_and_found, uses_and_bases,
        stacks_of_parameters, windows_of_caches, costs, verifying, rewriting, failing_allocations, ops_by_name)
QN_TEST_MAIN(graph)
