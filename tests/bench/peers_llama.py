"""llama.cpp through llama-cpp-python on a GGUF file.

    peers_llama.py speed MODEL.gguf --threads 2 --prompt 512 --generate 128 --flash 1
    peers_llama.py first MODEL.gguf --threads 2 --prompt 128

Prints one JSON object.
"""
import argparse
import json
import sys
import time


def load(args, context):
    from llama_cpp import Llama
    return Llama(model_path=args.path, n_ctx=context, n_threads=args.threads, n_threads_batch=args.threads,
                 n_batch=max(args.prompt, 32), n_ubatch=min(max(args.prompt, 32), 512), flash_attn=bool(args.flash),
                 verbose=False, logits_all=False)


def prompt_of(count):
    return [1] + [300 + i * 7919 % 100 for i in range(count - 1)]


def speed(args):
    model = load(args, max(args.prompt, args.generate) + 8)
    model.eval([1])  # first touch of the weights
    model.reset()
    begin = time.perf_counter()
    model.eval(prompt_of(args.prompt))
    prefill = time.perf_counter() - begin
    model.reset()
    model.eval([1])
    begin = time.perf_counter()
    for _ in range(args.generate):
        model.eval([400])  # the arithmetic does not depend on which
    decode = time.perf_counter() - begin
    return {"prefill": args.prompt / prefill, "decode": args.generate / decode}


def first(args):
    begin = time.perf_counter()
    load(args, args.prompt + 8).eval(prompt_of(args.prompt))
    return {"ttft_ms": (time.perf_counter() - begin) * 1e3}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "first"])
    parser.add_argument("path")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generate", type=int, default=128)
    parser.add_argument("--flash", type=int, default=1, help="flash attention")
    args = parser.parse_args()
    print(json.dumps(speed(args) if args.what == "speed" else first(args)))


if __name__ == "__main__":
    sys.exit(main())
