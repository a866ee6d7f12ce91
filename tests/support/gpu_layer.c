// The layer of gpu_layer.h: attention with its cache, and the gated products after it.
#include "tests/support/gpu_layer.h"

#include <stdio.h>

#include "ir/program.h"

const char qn_gpu_layer[] =
    "max T=$T R=1 B=1 P=$P G=$P\n"
    "x = input f32[T,$D]; n1 = param f32[$D]; n2 = param f32[$D]; wq = param $F[$Q,$D]; wk = param $F[$K,$D]\n"
    "wv = param $F[$K,$D]; wo = param $F[$D,$Q]; wg = param $F[$I,$D]; wu = param $F[$I,$D]; wd = param $F[$D,$I]\n"
    "table = rope_table pos dims=$C theta=10000; a = rmsnorm x n1 eps=1e-5\n"
    "q = matmul a wq; k = matmul a wk; v = matmul a wv\n"
    "q3 = split_heads q heads=$H; k3 = split_heads k heads=$J; v3 = split_heads v heads=$J\n"
    "qr = rope q3 table kind=pairs; kr = rope k3 table kind=pairs\n"
    "kc = cache kind=k index=0 f16[G,$J,$C,64]; vc = cache kind=v index=0 f16[G,$J,64,$C]\n"
    "kw = kv_write kc kr pos seq block_table kind=k; vw = kv_write vc v3 pos seq block_table kind=v\n"
    "s = attn_scores qr kw pos seq block_table scale=0.125; p = softmax s; o = attn_mix p vw pos seq block_table\n"
    "om = merge_heads o; oo = matmul om wo; h = add x oo; b = rmsnorm h n2 eps=1e-5\n"
    "g = matmul b wg; sg = silu g; u = matmul b wu; m = mul sg u; d = matmul m wd; y = add h d; output y";

void qn_gpu_layer_sizes(const qn_synth_model *m, const char *format, int prompt, int depth, char *out, size_t size) {
  int most = prompt > depth + 1 ? prompt : depth + 1;
  snprintf(out, size, "T=%d P=%d D=%d Q=%d K=%d I=%d H=%d J=%d C=%d F=%s", prompt,
           (most + QN_PAGE_KEYS - 1) / QN_PAGE_KEYS + 1, m->hidden, m->heads * m->head_dim, m->kv_heads * m->head_dim,
           m->ffn, m->heads, m->kv_heads, m->head_dim, format);
}
