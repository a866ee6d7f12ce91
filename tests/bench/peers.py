#!/usr/bin/env python3
"""Prefill, decode and time to the first token of GGUF models, beside other engines and in turn with them.

    tests/bench/peers.py MODEL.gguf... [options]
    tests/bench/peers.py --models tinyllama-1.1b,smollm2-135m --formats f16,q8_0,q4_0,q4_k_m --folder DIR [options]

The second form makes what is missing of these models in DIR with quern-synth. Engines, those of them that are here:

    quern             build/quern (or --quern): the file compiled ahead of time, then `quern bench`
    ik_llama.cpp      --ik-llama PROGRAM, its llama-bench: weights as they are and repacked at load (-rtr 1), flash
                      attention on and off; what is fastest in a short trial is measured, prefill and decode apart
    llama.cpp         --llama-bench PROGRAM, likewise (it repacks by itself)
    llama-cpp-python  llama.cpp through the Python package
    OpenVINO GenAI    openvino-genai, from the file's own weights; paged attention or not, likewise
    ONNX Runtime      onnxruntime, a graph of the file's own weights (peers_onnx.py says which)

Each round measures every engine once, one after the other, each in a process of its own, on the same weights, with the same
threads and lengths: a prompt of --prompt tokens with nothing in the cache, and --generate tokens from an empty cache.
Weights have been touched before either. The ratio quern / fastest peer is taken round by round: these machines are noisy,
so only ratios of one run mean anything. TTFT is from nothing running to the first token of a prompt of --first tokens,
with the file in the page cache; of the engines in Python, whose interpreter starts before, from the call that loads.
MBU: weights' bytes a token x tokens/s / read bandwidth; MFU: multiply-adds of the prompt / the peak of the arithmetic that
quern does them in. Bandwidth and peak are what `quern bench` measured in the same run, for all engines.

An engine that is not here, does not take a model, or fails, gets a row with the reason.
"""
import argparse
import contextlib
import json
import os
import platform
import struct
import subprocess
import sys
import tempfile
import time

import peers_stats as stats
from peers_engines import (HERE, IkLlama, LlamaBench, LlamaCppPython, Model, OnnxRuntime, OpenVino, Quern, Settings,
                           Unable)
from peers_gguf import Gguf

BUILD = os.path.normpath(os.path.join(HERE, "..", "..", "build"))


def say(text):
    print(text, file=sys.stderr, flush=True)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("files", nargs="*", metavar="MODEL.gguf", help="model files")
    add("--models", default="", help="names that quern-synth knows, with commas")
    add("--formats", default="f16,q8_0,q4_0,q4_k_m", help="of --models; default %(default)s")
    add("--folder", help="where --models are, or are made; default the work folder")
    add("--work", help="keeps what engines make of the models (several GiB), for the next time; default a temporary "
                       "folder, emptied after each model")
    add("--prepare", action="store_true", help="make models and fill --work, measure nothing")
    add("--engines", default="", help="parts of the names of those to run, with commas; default all that are here")
    add("--threads", type=int, default=2, help="default %(default)s")
    add("--prompt", type=int, default=512, help="tokens of the prompt; default %(default)s")
    add("--generate", type=int, default=128, help="tokens to generate; default %(default)s")
    add("--first", type=int, default=128, help="tokens of the prompt for TTFT; default %(default)s")
    add("--rounds", type=int, default=3, help="default %(default)s")
    add("--first-rounds", type=int, default=1, help="rounds that measure TTFT too; default %(default)s, 0 is none")
    add("--minutes", type=float, help="end in about so many: shared among the models by size, a model's rounds end "
                                      "when its share is used up, though not before the second")
    add("--load", type=int, default=0, metavar="N", help="processes beside that keep a core busy each; default none")
    add("--json", metavar="FILE", help="write everything as JSON; - is standard output, in the tables' place")
    add("--timeout", type=float, default=600, help="seconds for one process; default %(default)s")
    add("--quern", default=os.environ.get("QUERN", os.path.join(BUILD, "quern")), help="default %(default)s")
    add("--quern-options", default="", help="of quern compile, as one text")
    add("--synth", default=os.path.join(BUILD, "tests", "quern-synth"), help="default %(default)s")
    add("--python", default=sys.executable, help="with the Python packages of peers; default this one")
    add("--ik-llama", metavar="PROGRAM", help="llama-bench of ik_llama.cpp")
    add("--ik-options", default="", help="further options of it, as one text")
    add("--llama-bench", metavar="PROGRAM", help="llama-bench of llama.cpp")
    add("--selftest", action="store_true", help="check the parsing and the statistics, and end")
    args = parser.parse_args()
    if not args.selftest and not args.files and not args.models:
        parser.error("no model: give files, or --models")
    return args


# ---- what is measured, and with what -------------------------------------------------------------------------------


def all_engines(args):
    engines = [Quern(args.quern, args.quern_options.split()), IkLlama(args.ik_llama, args.ik_options.split()),
               LlamaBench(args.llama_bench), LlamaCppPython(args.python), OpenVino(args.python),
               OnnxRuntime(args.python)]
    wanted = [w.lower() for w in args.engines.split(",") if w]
    return [e for e in engines if not wanted or any(w in e.name.lower() for w in wanted)]


def find_engines(args):
    """The engines that are here, the versions of all, and why others are not here."""
    here, versions, absent = [], {}, {}
    for engine in all_engines(args):
        try:
            versions[engine.name] = engine.version()
            here.append(engine)
            say(f"{engine.name}: {versions[engine.name]}")
        except Unable as reason:
            absent[engine.name] = str(reason)
            say(f"{engine.name}: not run: {reason}")
    return here, versions, absent


def make_models(args, folder):
    """Paths of all models; those of --models are made where missing."""
    paths = list(args.files)
    for name in filter(None, args.models.split(",")):
        for kind in filter(None, args.formats.split(",")):
            path = os.path.join(folder, f"{name}-{kind}.gguf")
            paths.append(path)
            if os.path.exists(path):
                continue
            say(f"making {path}")
            result = subprocess.run([args.synth, "--model", name, "--type", kind, "-o", path], check=False)
            if result.returncode != 0:
                say(f"{path}: quern-synth failed; left out")
                paths.pop()
    return paths


def describe(path):
    try:
        file = Gguf(path)
    except OSError as error:
        raise SystemExit(f"peers: error: {path}: {error.strerror}") from error
    except (ValueError, KeyError, struct.error) as error:
        raise SystemExit(f"peers: error: {path}: not a GGUF file that can be read: {error}") from error
    return Model(path, os.path.splitext(os.path.basename(path))[0], stats.format_name(file), file.bytes_a_token())


@contextlib.contextmanager
def busy_processes(count):
    """Keeps `count` cores busy, as far as there are so many."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


# ---- one model -----------------------------------------------------------------------------------------------------


class Runner:
    """Measures one model in rounds. An engine that fails is left out from then on, and `failed` says why."""

    def __init__(self, model, engines, settings):
        self.model, self.engines, self.settings = model, list(engines), settings
        self.rounds, self.failed = [], {}

    def attempt(self, engine, what, call):
        try:
            return call(self.model, self.settings)
        except Unable as reason:
            text = str(reason)
        except (KeyError, TypeError, ValueError, OSError) as error:
            text = f"{type(error).__name__}: {error}"
        self.failed[engine.name] = f"{what}: {text}"
        self.engines.remove(engine)
        say(f"  {engine.name}: not run: {what}: {text}")
        return None

    def prepare(self):
        for engine in list(self.engines):
            begin = time.monotonic()
            self.attempt(engine, "prepare", engine.prepare)
            if engine in self.engines:
                say(f"  {engine.name} ready after {time.monotonic() - begin:.0f} s {engine.notes(self.model)}")

    def round(self, with_first):
        row = {}
        for engine in list(self.engines):
            found = self.attempt(engine, "speed", engine.speed)
            if found is not None and with_first:
                found.update(self.attempt(engine, "first token", engine.first) or {})
            if found is not None:
                row[engine.name] = found
                say(f"  round {len(self.rounds) + 1} {engine.name}: prefill {found['prefill']:.1f}, decode "
                    f"{found['decode']:.2f} tokens/s")
        self.rounds.append(row)

    def run(self, args, deadline):
        for i in range(args.rounds):
            begin = time.monotonic()
            if not self.engines:
                break
            self.round(i < args.first_rounds)
            took = time.monotonic() - begin
            if deadline is not None and i >= 1 and time.monotonic() + took / 2 > deadline:
                say(f"  {i + 1} of {args.rounds} rounds, for the time's sake")
                break


def share_of_time(args, end, models, at):
    """When the model's rounds should have ended: its share, by size, of the time that is left."""
    if end is None:
        return None
    sizes = [m.bytes_a_token + (300 << 20) for m in models[at:]]
    now = time.monotonic()
    return now + max(0.0, end - now) * sizes[0] / sum(sizes)


def measure(args, settings, models, engines):
    end = None if args.minutes is None else time.monotonic() + 60 * args.minutes
    results = []
    with busy_processes(args.load):
        for at, model in enumerate(models):
            say(f"{model.name} ({at + 1} of {len(models)})")
            begin = time.monotonic()
            deadline = share_of_time(args, end, models, at)
            with tempfile.TemporaryDirectory() as own:
                runner = Runner(model, engines, Settings(**{**vars(settings), "work": settings.work or own}))
                runner.prepare()
                if not args.prepare:
                    runner.run(args, deadline)
            took = time.monotonic() - begin
            notes = {e.name: e.notes(model) for e in engines}
            results.append(stats.summarise(model, runner.rounds, runner.failed, notes, took))
            say(f"  {took:.0f} s")
            if not args.prepare and args.json != "-":
                print(stats.table(results[-1]), flush=True)
    return results


# ---- the report ----------------------------------------------------------------------------------------------------


def machine():
    name, load = platform.processor() or platform.machine(), os.getloadavg()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    return {"cpu": name, "cores": os.cpu_count(), "system": platform.platform(), "load_average": load}


def write_json(path, report):
    text = json.dumps(report, indent=1) + "\n"
    if path == "-":
        sys.stdout.write(text)
        return
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def main():
    args = parse_arguments()
    if args.selftest:
        return stats.selftest()
    with tempfile.TemporaryDirectory() as own:
        if args.work:
            os.makedirs(args.work, exist_ok=True)
        models = [describe(path) for path in make_models(args, args.folder or args.work or own)]
        settings = Settings(args.threads, args.prompt, args.generate, args.first, args.timeout, args.work)
        before = machine()
        engines, versions, absent = find_engines(args)
        results = measure(args, settings, models, engines)
    if args.prepare:
        return 0
    report = {"machine": before, "engines": versions, "absent": absent, "busy_processes": args.load,
              "settings": {k: v for k, v in vars(settings).items() if k not in ("work", "timeout")}, "models": results}
    if args.json:
        write_json(args.json, report)
    if args.json != "-":
        print(stats.report_text(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
