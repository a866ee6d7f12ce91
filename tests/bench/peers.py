#!/usr/bin/env python3
"""Decode and prefill of one GGUF model beside llama.cpp, interleaved in one run.

    pip install llama-cpp-python
    build/tests/quern-synth --model tinyllama-1.1b --type q8_0 -o /tmp/tinyllama-q8_0.gguf
    python3 tests/bench/peers.py /tmp/tinyllama-q8_0.gguf [--threads 2] [--prompt 128] [--generate 64] [--rounds 5]

Each round runs quern (`build/quern run --json` on a compiled artifact) and llama.cpp (llama-cpp-python) in turn, in a
process each, on the same token ids and threads. Our prefill includes the first touch of the mapped weights; llama.cpp's
weights have been touched before. Printed are medians over the rounds and the ratio quern / llama.cpp
round by round (median, smallest, largest): these machines are noisy, so only ratios of one run mean anything.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
QUERN = os.environ.get("QUERN", os.path.join(HERE, "..", "..", "build", "quern"))

# Runs in its own process, so that memory and threads of one engine do not disturb the other.
LLAMA_CPP = r"""
import json, sys, time
import numpy as np
from llama_cpp import Llama
path, threads, prompt, generate, ubatch = sys.argv[1], *map(int, sys.argv[2:6])
model = Llama(model_path=path, n_ctx=prompt + generate + 8, n_threads=threads, n_threads_batch=threads,
              n_batch=max(prompt, 32), n_ubatch=ubatch, verbose=False, logits_all=False)
tokens = [1] + [300 + (i * 7919) % 1000 for i in range(prompt - 1)]
model.eval([1]); model.reset()  # first touch of the weights
begin = time.perf_counter(); model.eval(tokens); prefill = time.perf_counter() - begin
ids = []
begin = time.perf_counter()
for _ in range(generate):
    token = 400  # the arithmetic does not depend on which
    model.eval([token]); ids.append(token)
decode = time.perf_counter() - begin
print(json.dumps({"prefill": prompt / prefill, "decode": generate / decode}))
"""


def run_quern(artifact, args):
    tokens = ",".join(str(t) for t in [1] + [300 + (i * 7919) % 1000 for i in range(args.prompt - 1)])
    out = subprocess.run([QUERN, "run", artifact, "--tokens", tokens, "-n", str(args.generate), "--ignore-eog",
                          "--threads", str(args.threads), "--json", "--quiet"], check=True, capture_output=True, text=True)
    timings = json.loads(out.stdout)["timings"]
    return {"prefill": timings["prefill_tokens_per_s"], "decode": timings["decode_tokens_per_s"]}


def run_llama(model, args):
    out = subprocess.run([sys.executable, "-c", LLAMA_CPP, model, str(args.threads), str(args.prompt), str(args.generate),
                          str(args.ubatch)], check=True, capture_output=True, text=True)
    return json.loads(out.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a GGUF file that both engines read")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=128, help="prompt tokens")
    parser.add_argument("--generate", type=int, default=64, help="generated tokens")
    parser.add_argument("--ubatch", type=int, default=512, help="llama.cpp's micro-batch")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        artifact = os.path.join(folder, "model.qn")
        print(f"compiling {os.path.basename(args.model)}", file=sys.stderr)
        subprocess.run([QUERN, "compile", args.model, "-o", artifact, "--quiet"], check=True)
        rounds = []
        for i in range(args.rounds):
            rounds.append((run_quern(artifact, args), run_llama(args.model, args)))
            print(f"round {i + 1} of {args.rounds}: " + ", ".join(
                f"{key} {rounds[-1][0][key]:.1f} : {rounds[-1][1][key]:.1f}" for key in ("prefill", "decode")),
                file=sys.stderr)
    print(f"{os.path.basename(args.model)}, {args.threads} threads, prompt {args.prompt}, generate {args.generate}, "
          f"{args.rounds} rounds")
    print(f"{'tokens/s':10} {'quern':>10} {'llama.cpp':>10} {'ratio':>8} {'min':>6} {'max':>6}")
    for key in ("prefill", "decode"):
        ours, theirs = [r[0][key] for r in rounds], [r[1][key] for r in rounds]
        ratios = [a / b for a, b in zip(ours, theirs)]
        print(f"{key:10} {statistics.median(ours):10.1f} {statistics.median(theirs):10.1f} "
              f"{statistics.median(ratios):8.2f} {min(ratios):6.2f} {max(ratios):6.2f}")


if __name__ == "__main__":
    main()
