#!/usr/bin/env python3
"""Makes the tiny checkpoints of tests/golden/models and what transformers computes with them.

    python3 -m venv reference           # anywhere outside this tree
    reference/bin/pip install torch transformers safetensors numpy
    reference/bin/python tests/support/reference.py [--out FOLDER] [--llama-cpp FOLDER] [NAME...]

Each folder gets config.json, model.safetensors (or shards) and expected.safetensors: some tokens (and a source, where an
encoder reads one beside them), a handful of positions, and the logits there, computed in float32 from the weights as they
are stored; of encoders the embeddings of the first few tokens, of more and of all. Some get model.gguf, by the converter of
a checkout of llama.cpp.
The tests need none of this.
An architecture is a function below: it gives a model of random weights, of at most some 100 KB.
"""

import argparse
import json
import pathlib
import shutil
import sys
import tempfile
import zlib

import numpy as np
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

MODELS = {}


def model(dtype, tokens=75, shard=None, gguf=False, pack=None, pool=None):
    """Registers a function that makes a model; `dtype` is how its weights are stored, `shard` the size of files, `gguf`
    whether llama.cpp's converter keeps all that it computes (it drops the windows of some), `pack` a way to pack its
    linear layers (below). `pool` makes an embedding of an encoder's hidden states: "mean" and "cls", which are written
    as modules of sentence-transformers ("mean+norm": scaled to length 1), or "", the mean without any modules."""

    def register(make):
        MODELS[make.__name__] = (make, dtype, tokens, shard, gguf, pack, pool)
        return make

    return register


# ---- the architectures ----------------------------------------------------------------------------------------------


@model(torch.bfloat16, gguf=True)
def llama():
    return hf.LlamaForCausalLM(hf.LlamaConfig(
        vocab_size=112, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=128, rope_theta=5000.0, rms_norm_eps=1e-5))


@model(torch.float32, shard="30KB", gguf=True)
def llama_biases():
    return hf.LlamaForCausalLM(hf.LlamaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, attention_bias=True, mlp_bias=True,
        tie_word_embeddings=True))


@model(torch.float16, gguf=True)
def qwen2():
    return hf.Qwen2ForCausalLM(hf.Qwen2Config(
        vocab_size=112, hidden_size=36, intermediate_size=56, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=True))


@model(torch.float16)
def t5():
    return hf.T5ForConditionalGeneration(hf.T5Config(
        vocab_size=64, d_model=32, d_kv=12, d_ff=24, num_layers=3, num_decoder_layers=2, num_heads=3,
        decoder_start_token_id=0))


@model(torch.bfloat16, gguf=True)
def t5_gated():
    net = hf.T5ForConditionalGeneration(hf.T5Config(
        vocab_size=64, d_model=32, d_kv=8, d_ff=24, num_layers=2, num_heads=5, relative_attention_num_buckets=12,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=3))
    net.lm_head.weight = torch.nn.Parameter(torch.empty_like(net.lm_head.weight))  # of its own since version 1.1
    return net


# The matrices of these are packed int4 (below); what the reference computes with are the values that they stand for.
@model(torch.float16, pack="awq")
def llama_awq():
    return hf.LlamaForCausalLM(hf.LlamaConfig(
        vocab_size=96, hidden_size=128, intermediate_size=256, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=True))


@model(torch.float16, pack="gptq")
def llama_gptq():
    return hf.LlamaForCausalLM(hf.LlamaConfig(
        vocab_size=96, hidden_size=96, intermediate_size=160, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, max_position_embeddings=128, tie_word_embeddings=True))


@model(torch.float16, gguf=True)
def gpt2():
    return hf.GPT2LMHeadModel(hf.GPT2Config(
        vocab_size=112, n_embd=35, n_layer=2, n_head=5, n_positions=128, n_ctx=128))


@model(torch.bfloat16, tokens=100, gguf=True)
def llama3_scaling():
    return hf.LlamaForCausalLM(hf.LlamaConfig(
        vocab_size=96, hidden_size=36, intermediate_size=48, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=3, head_dim=16, max_position_embeddings=128, rope_theta=10000.0,
        rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                      "original_max_position_embeddings": 64}))


@model(torch.float16, tokens=100, gguf=True)
def llama_linear():
    return hf.LlamaForCausalLM(hf.LlamaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=128, rope_scaling={"rope_type": "linear", "factor": 2.5}))


@model(torch.float16, tokens=100)
def llama_dynamic():
    return hf.LlamaForCausalLM(hf.LlamaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=128, rope_scaling={"rope_type": "dynamic", "factor": 2.0}))


@model(torch.float16, tokens=100, gguf=True)
def llama_yarn():
    return hf.LlamaForCausalLM(hf.LlamaConfig(
        vocab_size=96, hidden_size=36, intermediate_size=40, num_hidden_layers=1, num_attention_heads=3,
        num_key_value_heads=1, head_dim=32, max_position_embeddings=256, rope_theta=1000.0,
        rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}))


@model(torch.bfloat16, tokens=120)
def mistral():
    return hf.MistralForCausalLM(hf.MistralConfig(
        vocab_size=96, hidden_size=48, intermediate_size=56, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=128, sliding_window=37))


@model(torch.float16, tokens=40, gguf=True)
def mistral_whole():
    """Without a window, as the later ones are, and as all are in GGUF."""
    return hf.MistralForCausalLM(hf.MistralConfig(
        vocab_size=64, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, head_dim=12, max_position_embeddings=128, sliding_window=None))


@model(torch.bfloat16, tokens=120)
def qwen2_window():
    return hf.Qwen2ForCausalLM(hf.Qwen2Config(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, use_sliding_window=True, sliding_window=33,
        max_window_layers=1))


@model(torch.bfloat16, gguf=True)
def qwen3():
    return hf.Qwen3ForCausalLM(hf.Qwen3Config(
        vocab_size=96, hidden_size=40, intermediate_size=48, num_hidden_layers=2, num_attention_heads=5,
        num_key_value_heads=1, head_dim=20, max_position_embeddings=128, tie_word_embeddings=True))


@model(torch.bfloat16, tokens=120, gguf=True)
def gemma2():
    return hf.Gemma2ForCausalLM(hf.Gemma2Config(
        vocab_size=96, hidden_size=36, intermediate_size=48, num_hidden_layers=3, num_attention_heads=3,
        num_key_value_heads=1, head_dim=12, query_pre_attn_scalar=12, max_position_embeddings=128, sliding_window=41,
        attn_logit_softcapping=3.0, final_logit_softcapping=4.0))


@model(torch.bfloat16, tokens=120, gguf=True)
def gemma3():
    return hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(
        vocab_size=96, hidden_size=32, intermediate_size=40, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=1, head_dim=8, query_pre_attn_scalar=8, max_position_embeddings=128, sliding_window=29,
        rope_parameters={"full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
                         "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}))


@model(torch.bfloat16)
def gemma3_pictures():
    text = hf.Gemma3TextConfig(
        vocab_size=80, hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, head_dim=8, query_pre_attn_scalar=8, max_position_embeddings=128, sliding_window=29)
    vision = hf.SiglipVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=16, patch_size=8)
    return hf.Gemma3ForConditionalGeneration(hf.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, boi_token_index=77, eoi_token_index=78,
        image_token_index=79))


@model(torch.float16, tokens=100, gguf=True)
def phi3():
    return hf.Phi3ForCausalLM(hf.Phi3Config(
        vocab_size=96, hidden_size=36, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=3, max_position_embeddings=128, original_max_position_embeddings=128, sliding_window=47,
        pad_token_id=0))


@model(torch.bfloat16, tokens=100, gguf=True)
def phi3_longrope():
    return hf.Phi3ForCausalLM(hf.Phi3Config(
        vocab_size=96, hidden_size=48, intermediate_size=40, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=256, original_max_position_embeddings=64, pad_token_id=0,
        partial_rotary_factor=0.75,
        rope_scaling={"rope_type": "longrope", "short_factor": [1.0, 1.1, 1.3], "long_factor": [1.5, 2.5, 4.0]}))


@model(torch.float16, gguf=True)
def gptneox():
    return hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(
        vocab_size=96, hidden_size=36, intermediate_size=56, num_hidden_layers=2, num_attention_heads=3,
        rotary_pct=0.34, max_position_embeddings=128))


@model(torch.float32)
def gptneox_serial():
    return hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(
        vocab_size=80, hidden_size=30, intermediate_size=40, num_hidden_layers=2, num_attention_heads=5,
        rotary_pct=1.0, max_position_embeddings=128, use_parallel_residual=False))


@model(torch.float16, gguf=True)
def falcon():
    return hf.FalconForCausalLM(hf.FalconConfig(
        vocab_size=96, hidden_size=30, num_hidden_layers=2, num_attention_heads=5, num_kv_heads=1, multi_query=True,
        new_decoder_architecture=False, parallel_attn=True, bias=False, alibi=False))


@model(torch.bfloat16, gguf=True)
def falcon_new():
    return hf.FalconForCausalLM(hf.FalconConfig(
        vocab_size=96, hidden_size=36, num_hidden_layers=2, num_attention_heads=6, num_kv_heads=2,
        new_decoder_architecture=True, bias=False, alibi=False, num_ln_in_parallel_attn=2))


@model(torch.bfloat16)
def falcon_one_norm():
    return hf.FalconForCausalLM(hf.FalconConfig(
        vocab_size=80, hidden_size=36, num_hidden_layers=1, num_attention_heads=6, num_kv_heads=3,
        new_decoder_architecture=True, bias=False, alibi=False, num_ln_in_parallel_attn=1))


@model(torch.float16)
def falcon_alibi():
    return hf.FalconForCausalLM(hf.FalconConfig(
        vocab_size=80, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, multi_query=False,
        new_decoder_architecture=False, parallel_attn=False, bias=True, alibi=True))


@model(torch.bfloat16, tokens=120)
def starcoder2():
    return hf.Starcoder2ForCausalLM(hf.Starcoder2Config(
        vocab_size=96, hidden_size=36, intermediate_size=64, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=128, sliding_window=35))


@model(torch.float16, tokens=40, gguf=True)
def starcoder2_whole():
    return hf.Starcoder2ForCausalLM(hf.Starcoder2Config(
        vocab_size=64, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, sliding_window=None))


@model(torch.float16, gguf=True)
def bloom():
    return hf.BloomForCausalLM(hf.BloomConfig(
        vocab_size=96, hidden_size=30, n_layer=2, n_head=6))


@model(torch.float16, gguf=True)
def stablelm():
    return hf.StableLmForCausalLM(hf.StableLmConfig(
        vocab_size=96, hidden_size=48, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=3, use_qkv_bias=True, max_position_embeddings=128))


@model(torch.bfloat16)
def stablelm_parallel():
    return hf.StableLmForCausalLM(hf.StableLmConfig(
        vocab_size=80, hidden_size=48, intermediate_size=40, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, use_parallel_residual=True, qk_layernorm=True, max_position_embeddings=128))


@model(torch.bfloat16, gguf=True)
def olmo2():
    return hf.Olmo2ForCausalLM(hf.Olmo2Config(
        vocab_size=96, hidden_size=36, intermediate_size=48, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=3, max_position_embeddings=128, pad_token_id=1, eos_token_id=2))


@model(torch.bfloat16, gguf=True)
def mixtral():
    return hf.MixtralForCausalLM(hf.MixtralConfig(
        vocab_size=96, hidden_size=32, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=5, num_experts_per_tok=2, max_position_embeddings=128))


@model(torch.float16, gguf=True)
def qwen3moe():
    return hf.Qwen3MoeForCausalLM(hf.Qwen3MoeConfig(
        vocab_size=96, hidden_size=32, intermediate_size=40, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=3, num_key_value_heads=1, head_dim=16, num_experts=5, num_experts_per_tok=3,
        norm_topk_prob=True, max_position_embeddings=128))


@model(torch.float16)
def qwen3moe_some_dense():
    return hf.Qwen3MoeForCausalLM(hf.Qwen3MoeConfig(
        vocab_size=96, hidden_size=32, intermediate_size=40, moe_intermediate_size=16, num_hidden_layers=3,
        num_attention_heads=2, num_key_value_heads=2, head_dim=24, num_experts=4, num_experts_per_tok=2,
        mlp_only_layers=[1], norm_topk_prob=False, max_position_embeddings=128))


@model(torch.float16, gguf=True)
def olmoe():
    return hf.OlmoeForCausalLM(hf.OlmoeConfig(
        vocab_size=96, hidden_size=32, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_experts=6, num_experts_per_tok=3, max_position_embeddings=128, eos_token_id=1))


@model(torch.float16, gguf=True)
def qwen2moe():
    return hf.Qwen2MoeForCausalLM(hf.Qwen2MoeConfig(
        vocab_size=96, hidden_size=32, intermediate_size=40, moe_intermediate_size=16,
        shared_expert_intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        num_experts=5, num_experts_per_tok=2, max_position_embeddings=128))


# ---- int4 checkpoints ----------------------------------------------------------------------------------------------
# A linear layer's weight is scale * (code - zero), codes of 4 bits, with a scale and a zero for each group along a row.
# Eight numbers share a 32-bit word: of AWQ along the rows' direction in an order of its own, of GPTQ codes along a row.


def into_words(numbers, order):
    """(m, 8n) numbers below 16 → (m, n) words, number order[i] of each eight in nibble i."""
    eights = numbers.reshape(numbers.shape[0], -1, 8)[:, :, order].astype(np.uint32)
    return (eights << (4 * np.arange(8, dtype=np.uint32))).sum(axis=2, dtype=np.uint32).view(np.int32)


def quantise(weight, group):
    """(n, k) → codes (n, k), zeros and scales (n, k / group)."""
    n, k = weight.shape
    groups = weight.reshape(n, k // group, group)
    low, high = groups.min(axis=2), groups.max(axis=2)
    scales = ((high - low) / 15).astype(np.float16)
    zeros = np.clip(np.rint(-low / scales), 1, 15).astype(np.int32)
    codes = np.clip(np.rint(groups / scales[..., None]) + zeros[..., None], 0, 15).astype(np.int32)
    return codes.reshape(n, k), zeros, scales


def pack_linear(weight, method, group):
    """The packed tensors of one matrix by the ends of their names, and the values that they stand for."""
    codes, zeros, scales = quantise(weight, group)
    k = weight.shape[1]
    values = scales.astype(np.float32).repeat(group, 1) * (codes - zeros.repeat(group, 1))
    if method == "awq":
        order = [0, 2, 4, 6, 1, 3, 5, 7]
        packed = {"qweight": into_words(codes.T, order), "qzeros": into_words(zeros.T, order)}
    else:
        plain = list(range(8))
        packed = {"qweight": into_words(codes, plain).T, "qzeros": into_words(zeros.T - 1, plain),
                  "g_idx": (np.arange(k) // group).astype(np.int32)}
    return {**packed, "scales": scales.T}, values.astype(np.float32)


PACKED = {
    "awq": (128, {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm",
                  "modules_to_not_convert": None}),
    "gptq": (32, {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": False,
                  "checkpoint_format": "gptq", "pack_dtype": "int32", "damp_percent": 0.1}),
}


def pack_model(net, folder, method):
    """Replaces the linear layers' weights in the folder's file, and in `net` by the values that they stand for."""
    group, config = PACKED[method]
    tensors = load_file(folder / "model.safetensors")
    for name, module in net.named_modules():
        if not isinstance(module, torch.nn.Linear) or name == "lm_head":
            continue
        packed, values = pack_linear(tensors.pop(name + ".weight").float().numpy(), method, group)
        tensors |= {f"{name}.{part}": torch.from_numpy(np.ascontiguousarray(array)) for part, array in packed.items()}
        module.weight.data = torch.from_numpy(values)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": config}, indent=2) + "\n")


# ---- encoders -------------------------------------------------------------------------------------------------------


@model(torch.float16, gguf=True, pool="")
def bert():
    return hf.BertModel(hf.BertConfig(
        vocab_size=112, hidden_size=36, intermediate_size=56, num_hidden_layers=2, num_attention_heads=3,
        max_position_embeddings=80))


@model(torch.float32, pool="cls")
def bert_head():
    return hf.BertForMaskedLM(hf.BertConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=96, hidden_act="gelu_new"))


@model(torch.bfloat16, pool="mean+norm")  # GGUF has no word for the norm
def minilm():
    return hf.BertModel(hf.BertConfig(
        vocab_size=96, hidden_size=36, intermediate_size=48, num_hidden_layers=2, num_attention_heads=6,
        max_position_embeddings=96), add_pooling_layer=False)


@model(torch.bfloat16, gguf=True, pool="cls")
def roberta():
    return hf.RobertaModel(hf.RobertaConfig(
        vocab_size=112, hidden_size=40, intermediate_size=56, num_hidden_layers=2, num_attention_heads=5,
        max_position_embeddings=82, type_vocab_size=1, layer_norm_eps=1e-5))


@model(torch.float16, gguf=True, pool="")
def nomic_bert():
    return hf.NomicBertModel(hf.NomicBertConfig(
        vocab_size=96, hidden_size=36, intermediate_size=56, num_hidden_layers=2, num_attention_heads=3,
        max_position_embeddings=128))


@model(torch.float16, gguf=True, pool="cls")
def modernbert():
    return hf.ModernBertModel(hf.ModernBertConfig(
        vocab_size=96, hidden_size=36, intermediate_size=28, num_hidden_layers=4, num_attention_heads=3,
        max_position_embeddings=128, local_attention=10, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        cls_token_id=1, sep_token_id=2))


def write_modules(folder, pool, width):
    """What sentence-transformers has beside the encoder."""
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")] + ([("2_Normalize", "Normalize")] if "norm" in pool else [])
    (folder / "modules.json").write_text(json.dumps([
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)], indent=2) + "\n")
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({
        "word_embedding_dimension": width, "pooling_mode_cls_token": pool == "cls",
        "pooling_mode_mean_tokens": pool != "cls", "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False}, indent=2) + "\n")
    (folder / "sentence_bert_config.json").write_text('{\n  "max_seq_length": 77,\n  "do_lower_case": false\n}\n')


def expect_embeddings(net, pool, vocab, count, generator):
    """Tokens, how many of the first of them make a text, and the embeddings of those texts."""
    pad = net.config.pad_token_id or 0
    tokens = torch.randint(pad + 1, vocab, (count,), generator=generator)
    lengths = [p + 1 for p in positions_of(count)]
    rows = []
    with torch.no_grad():
        for n in lengths:
            hidden = net.base_model(input_ids=tokens[None, :n]).last_hidden_state[0]
            row = hidden[0] if pool == "cls" else hidden.mean(0)
            rows.append(torch.nn.functional.normalize(row, dim=0) if "norm" in pool else row)
    return {"tokens": tokens.int(), "lengths": torch.tensor(lengths, dtype=torch.int32),
            "embeddings": torch.stack(rows).float().contiguous()}


# ---- what is made of each ----------------------------------------------------------------------------------------------


def randomise(net, generator):
    """Weights that make every part of a layer matter: matrices keep the size of what goes through them, vectors move
    away from what they begin as."""
    with torch.no_grad():
        for name, p in net.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.ndim < 2:
                p.add_(0.2 * noise)
            elif "embed" in name or "wte" in name or "wpe" in name or name == "shared.weight":
                p.copy_(0.7 * noise)
            else:
                fan_in = p.shape[0] if type(owner(net, name)).__name__ == "Conv1D" else p.shape[-1]
                p.copy_(noise * (1.2 / fan_in**0.5))


def owner(net, name):
    return net.get_submodule(name.rpartition(".")[0])


def positions_of(count):
    return sorted({p for p in (0, 1, count // 2, 63, 64, count - 1) if p < count})


def expect(net, vocab, count, generator):
    """Tokens, and the logits at some positions."""
    tokens = torch.randint(0, vocab, (count,), generator=generator)
    positions = positions_of(count)
    given, source = {"input_ids": tokens[None]}, {}
    if net.config.is_encoder_decoder:
        tokens[0] = net.config.decoder_start_token_id
        read = torch.randint(0, vocab, (count + 37,), generator=generator)
        given, source = {"input_ids": read[None], "decoder_input_ids": tokens[None]}, {"source": read.int()}
    with torch.no_grad():
        logits = net(**given).logits[0, positions]
    return {**source, "tokens": tokens.int(), "positions": torch.tensor(positions, dtype=torch.int32),
            "logits": logits.float().contiguous()}


def convert(folder, dtype):
    """The folder's model.gguf by llama.cpp's converter, without a vocabulary but for its size."""
    import gguf
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    types = {torch.float32: "ALL_F32", torch.float16: "MOSTLY_F16", torch.bfloat16: "MOSTLY_BF16"}
    with tempfile.TemporaryDirectory() as temporary:
        copy = pathlib.Path(temporary) / folder.name
        shutil.copytree(folder, copy)
        config = ModelBase.load_hparams(copy, False)
        tokens = {str(i): i for i in range(config["vocab_size"])}
        (copy / "tokenizer.json").write_text(
            json.dumps({"model": {"type": "WordPiece", "vocab": tokens}, "added_tokens": []}))
        kind = get_model_class(get_model_architecture(config, ModelType.TEXT))
        kind.set_vocab = lambda self: None
        if config["model_type"] == "gpt_neox":  # looks for the key's old place
            config["rotary_pct"] = config["rope_parameters"]["partial_rotary_factor"]
        if config["model_type"] == "nomic_bert":  # the converter knows the keys of the model's own code
            config |= {"n_positions": 8192, "max_trained_positions": 2048, "activation_function": "swiglu",
                       "causal": False, "qkv_proj_bias": False, "mlp_fc1_bias": False, "mlp_fc2_bias": False,
                       "prenorm": False, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False,
                       "rotary_emb_scale_base": None, "rotary_emb_base": config["rope_parameters"]["rope_theta"]}
        with torch.inference_mode():
            kind(copy, gguf.LlamaFileType[types[dtype]], folder / "model.gguf", hparams=config).write()


def restore_tying(net, folder):
    """transformers ties T5's head whatever its config says, and keeps under another key what that says of its scale; the
    checkpoints that there are say it as they always did."""
    if not hasattr(net.config, "scale_decoder_outputs"):
        return
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["tie_word_embeddings"] = config.pop("scale_decoder_outputs")
    path.write_text(json.dumps(config, indent=2) + "\n")


def make(name, out, converter):
    build, dtype, count, shard, gguf, pack, pool = MODELS[name]
    seed = zlib.crc32(name.encode())
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    net = build()
    randomise(net, generator)
    net = net.to(dtype)
    folder = out / name
    for old in [*folder.glob("*.safetensors*"), *folder.glob("model.gguf")]:
        old.unlink()
    net.save_pretrained(folder, safe_serialization=True, **({"max_shard_size": shard} if shard else {}))
    (folder / "generation_config.json").unlink(missing_ok=True)
    restore_tying(net, folder)
    # Read back in float32: rounding the module itself would round its tables of frequencies, too.
    net = type(net).from_pretrained(folder, dtype=torch.float32).eval()
    if pack:
        pack_model(net, folder, pack)
    vocab = net.config.get_text_config().vocab_size
    if pool:
        write_modules(folder, pool, net.config.hidden_size)
    expected = (expect(net, vocab, count, generator) if pool is None
                else expect_embeddings(net, pool, vocab, count, generator))
    save_file(expected, folder / "expected.safetensors")
    if gguf and converter:
        convert(folder, dtype)
    elif gguf:
        print(f"{name}: without model.gguf, which --llama-cpp makes")
    size = sum(f.stat().st_size for f in folder.rglob("*"))
    print(f"{name}: {size / 1000:.0f} KB")
    if size > 200_000:
        shutil.rmtree(folder)
        raise SystemExit(f"{name}: {size} bytes, want at most 200000")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    here = pathlib.Path(__file__).resolve().parent.parent
    parser.add_argument("--out", type=pathlib.Path, default=here / "golden" / "models", metavar="FOLDER")
    parser.add_argument("--llama-cpp", type=pathlib.Path, metavar="FOLDER", help="llama.cpp's source, for model.gguf")
    parser.add_argument("names", nargs="*", metavar="NAME", help="of an architecture; without any, all")
    args = parser.parse_args()
    if args.llama_cpp:
        sys.path[:0] = [str(args.llama_cpp), str(args.llama_cpp / "gguf-py")]
    hf.logging.set_verbosity_error()
    hf.logging.disable_progress_bar()
    for name in args.names or MODELS:
        if name not in MODELS:
            parser.error(f"no architecture '{name}', want one of {', '.join(MODELS)}")
        make(name, args.out, args.llama_cpp)


if __name__ == "__main__":
    main()
