"""The engines that peers.py compares: how each is found, prepared and measured, every measurement in its own process."""
import dataclasses
import json
import os
import re
import subprocess
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))


class Unable(Exception):
    """An engine is not here, does not take a model, or failed. The text says why, for the table."""


@dataclasses.dataclass
class Model:
    """A model file: where it is, the name and format that the table shows, and the weights' bytes that a token reads."""
    path: str
    name: str
    format: str
    bytes_a_token: int


@dataclasses.dataclass
class Settings:
    threads: int
    prompt: int
    generate: int
    first: int  # tokens of the prompt for the time to the first token
    timeout: float  # seconds, of one process
    work: str  # folder for what engines make of a model file


# ---- processes -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Outcome:
    stdout: str
    seconds: float
    rss: int  # bytes, the most that were resident


def last_line(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error|exception|fail|abort", line, re.IGNORECASE)]
    return (errors or lines or ["it said nothing"])[-1][:160]


def run(command, timeout):
    """Runs a program to its end; Unable, with what it said last, where that was not a good one."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        begin = time.perf_counter()
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        except OSError as error:
            raise Unable(f"{command[0]}: {error.strerror}") from error
        late = threading.Event()
        timer = threading.Timer(timeout, lambda: (late.set(), process.kill()))
        timer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        finally:
            timer.cancel()
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), err.seek(0)
        stdout, stderr = (f.read().decode("utf-8", "replace") for f in (out, err))
    if late.is_set():
        raise Unable(f"took longer than {timeout:.0f} s")
    if process.returncode != 0:
        ended = f"signal {-process.returncode}" if process.returncode < 0 else f"exit code {process.returncode}"
        raise Unable(f"{ended}: {last_line(stderr or stdout)}")
    return Outcome(stdout, seconds, usage.ru_maxrss * 1024)


def parse_object(text):
    """The JSON object on the last line that is one: libraries write to stdout what they please."""
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except ValueError:
            pass
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            try:
                return json.loads(line)
            except ValueError:
                continue
    raise Unable(f"printed no JSON: {last_line(text)}")


def parse_llama_bench(text):
    """{"prefill": tokens/s, "decode": tokens/s} of llama-bench's JSON, as far as it measured them; of several with one
    length, each is a list entry under "all" with its flash attention."""
    begin = re.search(r"^\s*\[\s*$|^\s*\[\s*\{", text, re.MULTILINE)
    if begin is None:
        raise Unable(f"llama-bench printed no JSON: {last_line(text)}")
    try:
        rows, _ = json.JSONDecoder().raw_decode(text[begin.start():].lstrip())
    except ValueError as error:
        raise Unable(f"llama-bench printed broken JSON: {error}") from error
    out = {"all": []}
    for row in rows:
        kind = "prefill" if row["n_prompt"] > 0 else "decode"
        out[kind] = row["avg_ts"]
        out["all"].append((kind, int(bool(row.get("flash_attn"))), row["avg_ts"]))
    return out


# ---- what all engines share ----------------------------------------------------------------------------------------


class Engine:
    """One engine. A subclass says how it is found (`version`), readied for a model (`prepare`) and measured."""
    name = "?"

    def version(self):
        """A text for the report; Unable where the engine is not here."""
        raise NotImplementedError

    def prepare(self, model, settings):
        """Does once what later measurements of the model need and may take for granted."""

    def speed(self, model, settings):
        """{"prefill": tokens/s, "decode": tokens/s, "rss": bytes}, and what else the engine knows of itself."""
        raise NotImplementedError

    def first(self, model, settings):
        """{"ttft_ms": from nothing loaded to the first token}."""
        raise NotImplementedError

    def notes(self, model):
        """What was chosen for the model, for the report."""
        return ""

    @staticmethod
    def kept(model, settings, suffix):
        """Path of what is made of the model file, in the work folder, and whether it is newer than the file."""
        path = os.path.join(settings.work, os.path.splitext(os.path.basename(model.path))[0] + suffix)
        return path, os.path.exists(path) and os.path.getmtime(path) > os.path.getmtime(model.path)


def lengths(settings):
    return ["--threads", str(settings.threads), "--prompt", str(settings.prompt), "--generate", str(settings.generate)]


class PythonEngine(Engine):
    """An engine from a Python package, measured by a script of ours."""
    script, packages = "", ()

    def __init__(self, python):
        self.python = python

    def version(self):
        code = ("import importlib.metadata as m, json, sys\n"
                "print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))")
        try:
            found = parse_object(run([self.python, "-c", code, *self.packages], 60).stdout)
        except Unable as error:
            raise Unable(f"not installed ({error})") from error
        return ", ".join(f"{name} {found[name]}" for name in self.packages)

    def call(self, settings, *args):
        outcome = run([self.python, os.path.join(HERE, self.script), *args], settings.timeout)
        return {**parse_object(outcome.stdout), "rss": outcome.rss}


# ---- quern ---------------------------------------------------------------------------------------------------------


class Quern(Engine):
    name = "quern"

    def __init__(self, program, options):
        self.program, self.options, self.bench = program, options, None

    def version(self):
        outcome = run([self.program, "--version"], 60)
        return last_line(outcome.stdout)

    def has_bench(self):
        """Whether the program has `quern bench`; older ones are measured by `quern run`."""
        if self.bench is None:
            try:
                run([self.program, "bench", "--help"], 60)
                self.bench = True
            except Unable:
                self.bench = False
        return self.bench

    def prepare(self, model, settings):
        path, fresh = self.kept(model, settings, ".qn")
        if not fresh or os.path.getmtime(path) < os.path.getmtime(self.program):
            if os.path.exists(path):
                os.remove(path)
            run([self.program, "compile", model.path, "-o", path, "--quiet", *self.options], settings.timeout)

    def run_tokens(self, model, settings, prompt, generate):
        path, _ = self.kept(model, settings, ".qn")
        tokens = ",".join(str(t) for t in [1] + [300 + i * 7919 % 100 for i in range(prompt - 1)])
        return run([self.program, "run", path, "--tokens", tokens, "-n", str(generate), "--ignore-eog", "--threads",
                    str(settings.threads), "--json", "--quiet"], settings.timeout)

    def speed(self, model, settings):
        return self.speed_by_bench(model, settings) if self.has_bench() else self.speed_by_run(model, settings)

    def speed_by_bench(self, model, settings):
        path, _ = self.kept(model, settings, ".qn")
        found = parse_object(run([self.program, "bench", path, "--json", "-", "--threads", str(settings.threads),
                                  "--prompt", str(settings.prompt), "--generate", str(settings.generate), "--reps",
                                  "1", "--quiet"], settings.timeout).stdout)
        # Of all tokens, slow ones too, as the peers tell; quern's own tokens/s are those of the median token.
        mean = found["decode"]["tpot_ms"]["mean"]
        return {"prefill": found["prefill"]["tokens_per_s"], "decode": 1e3 / mean,
                "rss": found["rss_bytes"], "mfu": found["prefill"].get("mfu"), "mbu": found["decode"].get("mbu"),
                "read_bytes_per_s": found["machine"]["read_bytes_per_s"], "bench": found}

    def speed_by_run(self, model, settings):
        """The prompt's time has the first touch of the mapped weights in it."""
        prefill = self.run_tokens(model, settings, settings.prompt, 1)
        decode = self.run_tokens(model, settings, 1, settings.generate)
        return {"prefill": parse_object(prefill.stdout)["timings"]["prefill_tokens_per_s"],
                "decode": parse_object(decode.stdout)["timings"]["decode_tokens_per_s"],
                "rss": max(prefill.rss, decode.rss)}

    def first(self, model, settings):
        return {"ttft_ms": self.run_tokens(model, settings, settings.first, 1).seconds * 1e3}


# ---- llama.cpp and ik_llama.cpp ------------------------------------------------------------------------------------


class LlamaCppPython(PythonEngine):
    name, script, packages = "llama-cpp-python", "peers_llama.py", ("llama-cpp-python",)

    def speed(self, model, settings):
        return self.call(settings, "speed", model.path, *lengths(settings))

    def first(self, model, settings):
        return self.call(settings, "first", model.path, "--threads", str(settings.threads), "--prompt",
                         str(settings.first))


class LlamaBench(Engine):
    """llama-bench, of llama.cpp or of ik_llama.cpp: which options are fastest is tried once for each model, apart for
    prefill and decode, and then measured."""
    name = "llama.cpp"
    variants = ([],)  # options, beside those of flash attention
    no_warmup = ["--no-warmup"]

    def __init__(self, program, extra=()):
        self.program, self.extra = program, list(extra)
        self.chosen = {}  # model path -> {"prefill": options, "decode": options}

    def version(self):
        if not self.program:
            raise Unable(f"not asked for (--{'ik-llama' if self.name.startswith('ik') else 'llama-bench'} PROGRAM)")
        run([self.program, "--help"], 60)
        return os.path.basename(self.program)

    def bench(self, model, settings, prompt, generate, options):
        outcome = run([self.program, "-m", model.path, "-t", str(settings.threads), "-p", str(prompt), "-n",
                       str(generate), "-r", "1", "-o", "json", *self.extra, *options], settings.timeout)
        return outcome, parse_llama_bench(outcome.stdout)

    def prepare(self, model, settings):
        best = {}
        for variant in self.variants:
            _, found = self.bench(model, settings, 128, 16, [*variant, "-fa", "0,1"])
            for kind, flash, speed in found["all"]:
                if speed > best.get(kind, (0,))[0]:
                    best[kind] = (speed, [*variant, "-fa", str(flash)])
        self.chosen[model.path] = {kind: options for kind, (_, options) in best.items()}

    def speed(self, model, settings):
        chosen = self.chosen[model.path]
        if chosen["prefill"] == chosen["decode"]:
            outcome, found = self.bench(model, settings, settings.prompt, settings.generate, chosen["prefill"])
            return {"prefill": found["prefill"], "decode": found["decode"], "rss": outcome.rss}
        first, prefill = self.bench(model, settings, settings.prompt, 0, chosen["prefill"])
        second, decode = self.bench(model, settings, 0, settings.generate, chosen["decode"])
        return {"prefill": prefill["prefill"], "decode": decode["decode"], "rss": max(first.rss, second.rss)}

    def first(self, model, settings):
        """The whole process: load, and a prompt without a warm-up. The fastest of the variants."""
        times = [self.bench(model, settings, settings.first, 0, [*variant, "-fa", "1", *self.no_warmup])[0].seconds
                 for variant in self.variants]
        return {"ttft_ms": min(times) * 1e3}

    def notes(self, model):
        chosen = self.chosen.get(model.path)
        return "" if chosen is None else "; ".join(f"{kind} {' '.join(o)}" for kind, o in sorted(chosen.items()))


class IkLlama(LlamaBench):
    name = "ik_llama.cpp"
    variants = (["-rtr", "0"], ["-rtr", "1"])  # weights as they are; repacked at load
    no_warmup = ["-w", "0"]


# ---- OpenVINO and ONNX Runtime -------------------------------------------------------------------------------------


class OpenVino(PythonEngine):
    name, script, packages = "OpenVINO GenAI", "peers_openvino.py", ("openvino-genai",)

    def __init__(self, python):
        super().__init__(python)
        self.chosen = {}  # model path -> {"prefill": attention, "decode": attention}

    def prepare(self, model, settings):
        path, fresh = self.kept(model, settings, ".openvino")
        if not fresh:
            self.call(settings, "write", model.path, path, "--threads", str(settings.threads))
        short = dataclasses.replace(settings, prompt=128, generate=16)
        tried = {backend: self.measure(model, short, backend) for backend in ("PA", "SDPA")}
        self.chosen[model.path] = {kind: max(tried, key=lambda b: tried[b][kind]) for kind in ("prefill", "decode")}

    def measure(self, model, settings, backend):
        path, _ = self.kept(model, settings, ".openvino")
        return self.call(settings, "speed", path, *lengths(settings), "--backend", backend)

    def speed(self, model, settings):
        chosen = self.chosen[model.path]
        runs = {backend: self.measure(model, settings, backend) for backend in sorted(set(chosen.values()))}
        return {"rss": max(r["rss"] for r in runs.values()),
                **{kind: runs[backend][kind] for kind, backend in chosen.items()}}

    def first(self, model, settings):
        path, _ = self.kept(model, settings, ".openvino")
        return self.call(settings, "first", path, "--threads", str(settings.threads), "--prompt", str(settings.first),
                         "--backend", self.chosen[model.path]["prefill"])

    def notes(self, model):
        return "; ".join(f"{kind} {b}" for kind, b in sorted(self.chosen.get(model.path, {}).items()))


class OnnxRuntime(PythonEngine):
    name, script, packages = "ONNX Runtime", "peers_onnx.py", ("onnxruntime", "onnx")

    def prepare(self, model, settings):
        path, fresh = self.kept(model, settings, ".onnx")
        if not fresh:
            self.call(settings, "write", model.path, path)

    def speed(self, model, settings):
        path, _ = self.kept(model, settings, ".onnx")
        return self.call(settings, "speed", path, *lengths(settings))

    def first(self, model, settings):
        path, _ = self.kept(model, settings, ".onnx")
        return self.call(settings, "first", path, "--threads", str(settings.threads), "--prompt", str(settings.first))
