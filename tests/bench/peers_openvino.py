"""OpenVINO GenAI on a GGUF file: converts it to OpenVINO's own form once, and measures that.

    peers_openvino.py write MODEL.gguf FOLDER
    peers_openvino.py speed FOLDER --threads 2 --prompt 512 --generate 128 --backend PA
    peers_openvino.py first FOLDER --threads 2 --prompt 128

OpenVINO's reader of GGUF knows byte-level BPE alone: a file with another tokenizer is first copied under a made-up BPE
vocabulary of the same size; the tensors stay what they are. `write` keeps the model as openvino_model.xml, and code compiled for it in a cache in
the same folder, so that `first` starts as quickly as OpenVINO can. Needs openvino-genai, openvino-tokenizers and numpy.
Prints one JSON object.
"""
import argparse
import json
import os
import sys
import time

from peers_gguf import Gguf, copy_with_bpe


def pipeline(path, args, **options):
    import openvino_genai
    if args.backend:
        options["ATTENTION_BACKEND"] = args.backend
    return openvino_genai.LLMPipeline(path, "CPU", INFERENCE_NUM_THREADS=args.threads, **options)


def cached(args):
    return pipeline(args.path, args, CACHE_DIR=os.path.join(args.path, "cache"))


def write(args):
    os.makedirs(args.out, exist_ok=True)
    copy, file = os.path.join(args.out, "model.gguf"), Gguf(args.path)
    try:  # OpenVINO writes beside the file it reads
        if file.values.get("tokenizer.ggml.model") == "gpt2":
            os.symlink(os.path.abspath(args.path), copy)
        else:
            copy_with_bpe(file, copy)
        pipeline(copy, args, enable_save_ov_model=True)
    finally:
        if os.path.lexists(copy):
            os.remove(copy)
    if not os.path.exists(os.path.join(args.out, "openvino_model.xml")):
        raise SystemExit("OpenVINO wrote no openvino_model.xml")
    args.path = args.out
    for args.backend in ("PA", "SDPA"):
        cached(args)
    return {}


def generate(pipe, prompt, count):
    """Seconds of generating `count` tokens after `prompt` made-up ones: of the first, and of each of the others."""
    import numpy
    import openvino
    import openvino_genai
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens, config.ignore_eos, config.do_sample, config.apply_chat_template = count, True, False, False
    ids = numpy.array([[1] + [300 + i * 7919 % 100 for i in range(prompt - 1)]], numpy.int64)
    metrics = pipe.generate(openvino.Tensor(ids), config).perf_metrics
    if metrics.get_num_generated_tokens() != count:
        raise SystemExit(f"generated {metrics.get_num_generated_tokens()} tokens, not {count}")
    return metrics.get_ttft().mean / 1e3, metrics.get_tpot().mean / 1e3


def speed(args):
    pipe = cached(args)
    generate(pipe, 8, 2)  # first touch
    first, _ = generate(pipe, args.prompt, 1)
    _, each = generate(pipe, 1, args.generate + 1)
    return {"prefill": args.prompt / first, "decode": 1 / each}


def first(args):
    begin = time.perf_counter()
    generate(cached(args), args.prompt, 1)
    return {"ttft_ms": (time.perf_counter() - begin) * 1e3}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["write", "speed", "first"])
    parser.add_argument("path", help="write: the GGUF file; otherwise the folder")
    parser.add_argument("out", nargs="?", help="write: the folder to write")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generate", type=int, default=128)
    parser.add_argument("--backend", choices=["PA", "SDPA"], help="attention; default OpenVINO's")
    args = parser.parse_args()
    print(json.dumps({"write": write, "speed": speed, "first": first}[args.what](args)))


if __name__ == "__main__":
    sys.exit(main())
