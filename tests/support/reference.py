#!/usr/bin/env python3
"""Makes the tiny checkpoints of tests/golden/models and what transformers computes with them.

    python3 -m venv reference           # anywhere outside this tree
    reference/bin/pip install torch transformers safetensors numpy
    reference/bin/python tests/support/reference.py [--out FOLDER] [NAME...]

Each folder gets config.json, model.safetensors (or shards) and expected.safetensors: some tokens, a handful of
positions, and the logits there, computed in float32 from the weights as they are stored. The tests need none of this.
An architecture is a function below: it gives a model of random weights, of at most some 100 KB.
"""

import argparse
import pathlib
import shutil
import zlib

import torch
import transformers as hf
from safetensors.torch import save_file

MODELS = {}


def model(dtype, tokens=75, shard=None):
    """Registers a function that makes a model; `dtype` is how its weights are stored, `shard` the size of files."""

    def register(make):
        MODELS[make.__name__] = (make, dtype, tokens, shard)
        return make

    return register


# ---- the architectures ----------------------------------------------------------------------------------------------


@model(torch.bfloat16)
def llama():
    return hf.LlamaForCausalLM(hf.LlamaConfig(
        vocab_size=160, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=128, rope_theta=5000.0, rms_norm_eps=1e-5))


@model(torch.float32, shard="30KB")
def llama_biases():
    return hf.LlamaForCausalLM(hf.LlamaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, attention_bias=True, mlp_bias=True,
        tie_word_embeddings=True))


@model(torch.float16)
def qwen2():
    return hf.Qwen2ForCausalLM(hf.Qwen2Config(
        vocab_size=160, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=True))


@model(torch.float16)
def gpt2():
    return hf.GPT2LMHeadModel(hf.GPT2Config(
        vocab_size=128, n_embd=40, n_layer=2, n_head=5, n_positions=128))


# ---- what is made of each ----------------------------------------------------------------------------------------------


def randomise(net, generator):
    """Weights that make every part of a layer matter: matrices keep the size of what goes through them, vectors move
    away from what they begin as."""
    with torch.no_grad():
        for name, p in net.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.ndim < 2:
                p.add_(0.2 * noise)
            elif "embed" in name or "wte" in name or "wpe" in name or "shared" in name:
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
    with torch.no_grad():
        logits = net(input_ids=tokens[None]).logits[0, positions]
    return {"tokens": tokens.int(), "positions": torch.tensor(positions, dtype=torch.int32),
            "logits": logits.float().contiguous()}


def make(name, out):
    build, dtype, count, shard = MODELS[name]
    seed = zlib.crc32(name.encode())
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    net = build()
    randomise(net, generator)
    net = net.to(dtype)
    folder = out / name
    for old in folder.glob("*.safetensors*"):
        old.unlink()
    net.save_pretrained(folder, safe_serialization=True, **({"max_shard_size": shard} if shard else {}))
    (folder / "generation_config.json").unlink(missing_ok=True)
    # Read back in float32: rounding the module itself would round its tables of frequencies, too.
    net = type(net).from_pretrained(folder, dtype=torch.float32).eval()
    vocab = net.config.get_text_config().vocab_size
    save_file(expect(net, vocab, count, generator), folder / "expected.safetensors")
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name}: {size / 1000:.0f} KB")
    if size > 200_000:
        shutil.rmtree(folder)
        raise SystemExit(f"{name}: {size} bytes, want at most 200000")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    here = pathlib.Path(__file__).resolve().parent.parent
    parser.add_argument("--out", type=pathlib.Path, default=here / "golden" / "models", metavar="FOLDER")
    parser.add_argument("names", nargs="*", metavar="NAME", help="of an architecture; without any, all")
    args = parser.parse_args()
    hf.logging.set_verbosity_error()
    hf.logging.disable_progress_bar()
    for name in args.names or MODELS:
        if name not in MODELS:
            parser.error(f"no architecture '{name}', want one of {', '.join(MODELS)}")
        make(name, args.out)


if __name__ == "__main__":
    main()
