#!/usr/bin/env python3
"""fp32 matrix products tuned by quern and by Apache TVM's MetaSchedule, for the same time, and run in turn.

    python3 -m venv tvm && tvm/bin/pip install apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.14.post1 xgboost psutil
    tvm/bin/python tests/bench/tvm.py [options]

x [T, K] times w [N, K] transposed, for every --shapes NxK and every --tokens T. Both tuners get the same seconds for each
product and the same threads; what they need before they can begin (starting Python, importing TVM)
is not counted. Then each runs its best code in turn, --rounds times, on the same machine and the same values: quern's by
build/tests/quern-graph in a process of its own, TVM's by its own time_evaluator, weights warm for both. Told are each
side's median, GFLOP/s, the ratio TVM / quern round by round as median with the smallest and largest (above 1: quern is
faster), and how far both results are from a product in double precision. quern keeps its order of summation whatever the
schedule; TVM's may change it. quern packs the weights when it compiles, TVM reads them as they are, [N, K].

TVM's own LLVM target for this CPU is used (-mcpu as LLVM names it), with MetaSchedule's default space and evolutionary
search with its XGBoost model. Candidates are built in forks of this process instead of new Pythons. Without TVM it says so and ends with 77.
"""
import argparse
import json
import logging
import os
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.path.normpath(os.path.join(HERE, "..", "..", "build"))


# This file has the package's name: without its own folder `import tvm` finds that.
sys.path[:] = [path for path in sys.path if os.path.abspath(path or ".") != HERE]


def say(text):
    print(text, file=sys.stderr, flush=True)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--shapes", default="2048x2048,5632x2048,2048x5632", help="N x K; default %(default)s (TinyLlama's layers)")
    add("--tokens", default="1,16,256", help="rows of x; default %(default)s")
    add("--threads", type=int, default=0, help="of both; default one a core that this process may use")
    add("--minutes", type=float, default=18, help="for everything; default %(default)s")
    add("--budget", type=float, help="seconds for each tuner and product; default what --minutes leaves")
    add("--rounds", type=int, default=7, help="in which both are run in turn; default %(default)s")
    add("--seconds", type=float, default=0.4, help="that each runs in a round, at least; default %(default)s")
    add("--build", default=BUILD, help="quern's build folder; default %(default)s")
    add("--mcpu", help="LLVM's name of this CPU, for TVM; default what LLVM of TVM detects")
    add("--work", help="folder for what is made on the way; default a temporary one")
    add("--json", metavar="FILE", help="write everything that was measured")
    return parser.parse_args()


def cores():
    """Physical cores that this process may use."""
    seen = set()
    for cpu in os.sched_getaffinity(0):
        try:
            with open(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", encoding="ascii") as file:
                seen.add(file.read())
        except OSError:
            seen.add(str(cpu))
    return len(seen)


# ---- quern

def write_gguf(path, weights):
    """A GGUF file with one F32 tensor, which quern's graph takes its weights from."""
    rows, columns = weights.shape
    name = b"w"
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 0)
    head += struct.pack("<Q", len(name)) + name + struct.pack("<IQQIQ", 2, columns, rows, 0, 0)
    with open(path, "wb") as file:
        file.write(head + b"\0" * (-len(head) % 32) + weights.tobytes())


class Quern:
    """The product as a graph of quern's own, tuned by `quern tune` and compiled with its records."""
    name = "quern"

    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.program = os.path.join(options.build, "quern")
        self.runner = os.path.join(options.build, "tests", "quern-graph")
        for path in (self.program, self.runner):
            if not os.access(path, os.X_OK):
                sys.exit(f"tvm.py: {path} is not there; build quern or give --build")
        self.database = os.path.join(folder, "tuning.db")

    def call(self, *arguments):
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"tvm.py: {' '.join(arguments)} ends with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def tune(self, product, budget):
        graph, weights = product.path("graph.json"), product.path("weights.gguf")
        write_gguf(weights, product.w)
        with open(graph, "w", encoding="utf-8") as file:
            json.dump({"quern_graph": 1, "name": product.name, "weights_file": os.path.basename(weights),
                       "inputs": {"x": {"shape": ["T", product.k]}},
                       "weights": {"w": {"gguf": "w", "shape": [product.n, product.k]}},
                       "graph": [{"set": "y", "op": "matmul", "args": ["x", "w"]}, {"output": "y", "value": "y"}]}, file)
        chunk, threads = ("--chunk", str(product.t)), ("--threads", str(self.options.threads))
        begin = time.monotonic()
        self.call(self.program, "tune", "-q", graph, "--budget", f"{budget:.0f}s", "--within", "0.1%", "--db", self.database,
                  *chunk, *threads)
        spent = time.monotonic() - begin
        product.artifact = product.path("product.qn")
        self.call(self.program, "compile", "-q", graph, "-o", product.artifact, "--tuning-db", self.database, *chunk)
        return spent

    def run(self, product):
        with open(product.path("x.f32"), "wb") as file:
            file.write(product.x.tobytes())
        out = product.path("quern.f32")
        text = self.call(self.runner, product.artifact, "--threads", str(self.options.threads), "--rows", str(product.t),
                         "--seconds", str(self.options.seconds), "--input", product.path("x.f32"), "--output", out)
        return statistics.median(json.loads(text)["seconds"]), product.numpy.fromfile(out, dtype="float32")


# ---- TVM

class BudgetSpent(Exception):
    """Ends MetaSchedule, which counts trials and no seconds."""


def fork_builder(ms, derived_object, workers, timeout_s):
    """A builder for MetaSchedule whose workers are forks of this process. TVM's own starts Python anew for every batch
    and parses its tensor intrinsics in each, some 20 s of CPU that would be most of a short budget."""
    from tvm.s_tir.meta_schedule.builder.local_builder import default_build, default_export

    def build_some(inputs, path):
        with open(path, "w", encoding="utf-8") as file:
            for i, one in inputs:
                try:
                    line = {"index": i, "path": default_export(default_build(one.mod, one.target, None))}
                except Exception as error:  # a candidate that does not compile
                    line = {"index": i, "error": str(error)[:500]}
                file.write(json.dumps(line) + "\n")
                file.flush()

    @derived_object
    class ForkBuilder(ms.builder.PyBuilder):
        def build(self, build_inputs):
            results = [ms.builder.BuilderResult(None, "not built in time") for _ in build_inputs]
            deadline, children = time.monotonic() + timeout_s, []
            with tempfile.TemporaryDirectory(prefix="quern-tvm-build-") as folder:
                for w in range(workers):
                    path = os.path.join(folder, str(w))
                    child = os.fork()
                    if child == 0:
                        try:
                            build_some(list(enumerate(build_inputs))[w::workers], path)
                        finally:
                            os._exit(0)
                    children.append((child, path))
                for child, path in children:
                    while os.waitpid(child, os.WNOHANG)[0] == 0:
                        if time.monotonic() > deadline:
                            os.kill(child, signal.SIGKILL)
                        time.sleep(0.005)
                    with open(path, encoding="utf-8") as file:
                        for line in map(json.loads, file):
                            results[line["index"]] = ms.builder.BuilderResult(line.get("path"), line.get("error"))
            return results

    return ForkBuilder()


class Tvm:
    """The product as a tensor expression, tuned by MetaSchedule."""
    name = "TVM"

    def __init__(self, options):
        import tvm
        from tvm import te
        from tvm.ir.utils import derived_object
        from tvm.s_tir import meta_schedule
        import tvm.s_tir.tensor_intrin  # takes seconds, which are not tuning
        self.tvm, self.te, self.ms, self.derived, self.options = tvm, te, meta_schedule, derived_object, options
        os.environ["TVM_NUM_THREADS"] = str(options.threads)
        cpu = options.mcpu or tvm.get_global_func("target.llvm_get_system_cpu")()
        self.target = tvm.target.Target({"kind": "llvm", "mcpu": cpu, "num-cores": options.threads})
        self.version = tvm.__version__
        logging.disable(logging.WARNING)  # the tables of every batch
        self.builder = fork_builder(meta_schedule, derived_object, options.threads, 120)
        self.runner = meta_schedule.runner.LocalRunner(timeout_sec=60)

    def function(self, t, n, k):
        x, w = self.te.placeholder((t, k), name="x"), self.te.placeholder((n, k), name="w")
        axis = self.te.reduce_axis((0, k), name="k")
        y = self.te.compute((t, n), lambda i, j: self.te.sum(x[i, axis] * w[j, axis], axis=axis), name="y")
        return self.te.create_prim_func([x, w, y])

    def search(self, function, budget, trials, folder):
        """Tunes until the seconds or the trials are over; the database that holds what was found."""
        ms, deadline, spent = self.ms, time.monotonic() + budget, []

        @self.derived
        class Deadline(ms.measure_callback.PyMeasureCallback):
            def apply(self, *arguments):
                if time.monotonic() > deadline:
                    spent.append(True)
                    raise BudgetSpent("the budget is spent")

        callbacks = list(ms.measure_callback.MeasureCallback.create("default")) + [Deadline()]
        database = ms.database.MemoryDatabase()
        try:
            ms.tune_tir(mod=function, target=self.target, work_dir=folder, max_trials_global=trials,
                        num_trials_per_iter=min(16, trials), builder=self.builder, runner=self.runner,
                        database=database, measure_callbacks=callbacks, num_tuning_cores=self.options.threads)
        except Exception:  # it comes through TVM's C++ as another one
            if not spent:
                raise
        return database

    def warm_up(self, folder):
        """Builders and runner are processes of their own, which import TVM first: seconds that are not tuning."""
        self.search(self.function(4, 32, 32), 300, 2, folder)

    def tune(self, product, budget):
        function = self.function(product.t, product.n, product.k)
        begin = time.monotonic()
        database = self.search(function, budget, 100000, product.folder)
        spent = time.monotonic() - begin
        product.trials = len(database)
        schedule = self.ms.tir_integration.compile_tir(database, function, self.target)
        if schedule is None:
            product.library = None
            return spent
        from tvm.s_tir.meta_schedule.builder.local_builder import default_build  # as candidates are built
        library = product.path("tvm.so")
        default_build(schedule.mod, self.target, None).export_library(library)
        product.library = self.tvm.runtime.load_module(library)
        device, numpy = self.tvm.cpu(), product.numpy
        product.tensors = [self.tvm.runtime.tensor(v, device)
                           for v in (product.x, product.w, numpy.zeros((product.t, product.n), "float32"))]
        return spent

    def run(self, product):
        entry = product.library["main"]
        entry(*product.tensors)
        once = time.monotonic()
        entry(*product.tensors)
        once = max(time.monotonic() - once, 1e-6)
        evaluate = product.library.time_evaluator("main", self.tvm.cpu(), number=1,
                                                  repeat=max(10, int(self.options.seconds / once)))
        return statistics.median(evaluate(*product.tensors).results), product.tensors[2].numpy().reshape(-1)


# ---- both

class Product:
    """One product: its sizes, values and what the tuners made of it."""

    def __init__(self, numpy, folder, t, n, k):
        self.numpy, self.t, self.n, self.k = numpy, t, n, k
        self.name = f"t{t}_n{n}_k{k}"
        self.folder = os.path.join(folder, self.name)
        os.makedirs(self.folder, exist_ok=True)
        random = numpy.random.default_rng(t * 1000003 + n * 1009 + k)
        self.x = random.standard_normal((t, k), dtype="float32")
        self.w = random.standard_normal((n, k), dtype="float32")
        self.want = (self.x.astype("float64") @ self.w.astype("float64").T).reshape(-1)
        self.artifact = self.library = self.tensors = None
        self.trials = 0

    def path(self, name):
        return os.path.join(self.folder, name)

    def error(self, got):
        """The largest error as a part of the largest value."""
        return float(abs(got - self.want).max() / abs(self.want).max())


def measure(product, sides, options, budget):
    result = {"tokens": product.t, "n": product.n, "k": product.k, "rounds": []}
    for side in sides:
        say(f"{product.name}: {side.name} tunes for {budget:.0f} s")
        result[f"{side.name}_tuned_s"] = side.tune(product, budget)
    result["TVM_trials"] = product.trials
    if product.library is None:
        result["failed"] = "TVM found nothing in that time"
        return result
    for i in range(options.rounds):
        seconds = {}
        for side in sides if i % 2 == 0 else sides[::-1]:
            seconds[side.name], got = side.run(product)
            result[f"{side.name}_error"] = product.error(got)
            if not result[f"{side.name}_error"] < 1e-3:
                sys.exit(f"tvm.py: {product.name}: {side.name} computes something else: {result}")
        result["rounds"].append(seconds)
    ratios = [r["TVM"] / r["quern"] for r in result["rounds"]]
    result["ratio"] = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    for side in sides:
        result[side.name] = statistics.median(r[side.name] for r in result["rounds"])
    return result


def table(results, version, options, budget):
    lines = [f"Apache TVM {version}, MetaSchedule; {options.threads} threads, {budget:.0f} s for each tuner and product; "
             f"{options.rounds} rounds in turn", "",
             "| tokens | N × K | quern us | TVM us | quern GFLOP/s | TVM GFLOP/s | TVM / quern | trials of TVM |",
             "|---|---|---|---|---|---|---|---|"]
    for r in results:
        shape = f"{r['n']} × {r['k']}"
        if "failed" in r:
            lines.append(f"| {r['tokens']} | {shape} | | | | | {r['failed']} | {r['TVM_trials']} |")
            continue
        flops = 2 * r["tokens"] * r["n"] * r["k"]
        ratio = r["ratio"]
        lines.append(f"| {r['tokens']} | {shape} | {1e6 * r['quern']:.1f} | {1e6 * r['TVM']:.1f} | "
                     f"{1e-9 * flops / r['quern']:.1f} | {1e-9 * flops / r['TVM']:.1f} | "
                     f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f}) | {r['TVM_trials']} |")
    told = [r["ratio"]["median"] for r in results if "ratio" in r]
    if told:
        lines += ["", f"Geometric mean of TVM / quern: {statistics.geometric_mean(told):.2f}"]
    return "\n".join(lines)


def main():
    options = parse_arguments()
    begin = time.monotonic()
    options.threads = options.threads or cores()
    os.environ.setdefault("TVM_NUM_THREADS", str(options.threads))
    try:
        import numpy
        sides = [None, Tvm(options)]
    except ImportError as error:
        print(f"SKIP: TVM or what it needs is not here: {error}")
        return 77
    with tempfile.TemporaryDirectory(prefix="quern-tvm-") as temporary:
        folder = options.work or temporary
        os.makedirs(folder, exist_ok=True)
        sides[0] = Quern(options, folder)
        say("starting TVM's builders")
        sides[1].warm_up(os.path.join(folder, "warm"))
        shapes = [tuple(int(v) for v in s.split("x")) for s in options.shapes.split(",")]
        work = [(int(t), n, k) for t in options.tokens.split(",") for n, k in shapes]
        left = 60 * options.minutes - (time.monotonic() - begin)
        running = len(work) * (2 * options.rounds * (options.seconds + 0.3) + 4)
        budget = options.budget or max(2, (left - running) / (2 * len(work)))
        results = []
        for t, n, k in work:
            results.append(measure(Product(numpy, folder, t, n, k), sides, options, budget))
            say(json.dumps({k: v for k, v in results[-1].items() if k != "rounds"}))
    print(table(results, sides[1].version, options, budget))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"tvm": sides[1].version, "threads": options.threads, "budget_s": budget, "products": results},
                      file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
