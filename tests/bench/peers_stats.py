"""Statistics and tables of peers.py, and their self-check."""
import statistics

OURS = "quern"
FILE_TYPES = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
              12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K",
              25: "IQ4_NL", 30: "IQ4_XS", 32: "BF16", 38: "MXFP4"}


def format_name(file):
    """A Gguf's format as people call it: the file type of a mix; otherwise that, if the weights bear it out."""
    name, found = FILE_TYPES.get(file.values.get("general.file_type"), ""), file.format()
    return name if name and (found.endswith("+") or name.startswith(found)) else found


def spread(values):
    """{"median", "min", "max"} of numbers, None where there are none."""
    if not values:
        return None
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def column(rounds, engine, key):
    """An engine's values of a key, of the rounds that have it."""
    return [r[engine][key] for r in rounds if r.get(engine, {}).get(key) is not None]


def ratio(rounds, key):
    """quern / the fastest peer, by medians, round by round: {"peer", "median", "min", "max"}, or None."""
    speeds = {name: statistics.median(column(rounds, name, key))
              for name in {n for r in rounds for n in r} - {OURS} if column(rounds, name, key)}
    if not speeds or not column(rounds, OURS, key):
        return None
    peer = max(speeds, key=speeds.get)
    ratios = [r[OURS][key] / r[peer][key] for r in rounds if OURS in r and peer in r]
    return {"peer": peer, **spread(ratios)} if ratios else None


def summarise(model, rounds, failed, notes, seconds):
    """All that the tables and the JSON tell of one model."""
    names = list(dict.fromkeys(n for r in rounds for n in r))
    bandwidth = column(rounds, OURS, "read_bytes_per_s")
    # The share of the peak that a token/s is: the same for all engines, for the arithmetic is the same.
    shares = [m / s for m, s in zip(column(rounds, OURS, "mfu"), column(rounds, OURS, "prefill"))]
    engines = {}
    for name in names:
        keys = ("prefill", "decode", "ttft_ms", "rss", "mfu")
        entry = {key: spread(column(rounds, name, key)) for key in keys}
        if name == OURS and column(rounds, name, "mbu"):
            entry["mbu"] = spread(column(rounds, name, "mbu"))
        elif bandwidth:
            entry["mbu"] = spread([s * model.bytes_a_token / statistics.median(bandwidth)
                                   for s in column(rounds, name, "decode")])
        if name != OURS and shares:
            entry["mfu"] = spread([s * statistics.median(shares) for s in column(rounds, name, "prefill")])
        engines[name] = {**{k: v for k, v in entry.items() if v is not None}, "chosen": notes.get(name, "")}
    return {"model": model.name, "format": model.format, "bytes_a_token": model.bytes_a_token, "seconds": seconds,
            "engines": engines, "failed": failed, "rounds": rounds,
            "ratio": {key: ratio(rounds, key) for key in ("prefill", "decode")}}


# ---- tables --------------------------------------------------------------------------------------------------------


def cell(entry, key, text="{:.1f}", scale=1.0):
    return "-" if key not in entry else text.format(entry[key]["median"] * scale)


def ratio_text(found):
    return "-" if found is None else f"{found['median']:.2f} ({found['min']:.2f} to {found['max']:.2f})"


def table(result):
    """One model's table, as text."""
    lines = [f"\n{result['model']} ({result['format']}, {result['bytes_a_token'] / 1e6:.0f} MB a token), "
             f"{len(result['rounds'])} rounds",
             f"{'':18}{'prefill/s':>11}{'decode/s':>11}{'TTFT ms':>10}{'MBU':>7}{'MFU':>7}{'RSS MiB':>9}"]
    for name, entry in result["engines"].items():
        lines.append(f"{name:18}{cell(entry, 'prefill'):>11}{cell(entry, 'decode', '{:.2f}'):>11}"
                     f"{cell(entry, 'ttft_ms', '{:.0f}'):>10}{cell(entry, 'mbu', '{:.0f} %', 100):>7}"
                     f"{cell(entry, 'mfu', '{:.0f} %', 100):>7}{cell(entry, 'rss', '{:.0f}', 2**-20):>9}"
                     f"  {entry['chosen']}".rstrip())
    lines += [f"{name:18}not run: {reason}" for name, reason in result["failed"].items()]
    for key, found in result["ratio"].items():
        if found is not None:
            lines.append(f"{OURS} / {found['peer']}, {key}: {ratio_text(found)}")
    return "\n".join(lines)


def rows_of(result, names):
    speeds = []
    for name in names:
        entry = result["engines"].get(name)
        speeds.append("-" if entry is None else f"{cell(entry, 'prefill')} / {cell(entry, 'decode', '{:.2f}')}")
    ours = result["engines"].get(OURS, {})
    ratios = [ratio_text(result["ratio"][key]) for key in ("prefill", "decode")]
    ttft = " / ".join(cell(result["engines"].get(name, {}), "ttft_ms", "{:.0f}") for name in names)
    return [result["model"], result["format"], *speeds, *ratios, cell(ours, "mbu", "{:.0f} %", 100),
            cell(ours, "mfu", "{:.0f} %", 100), ttft]


def report_text(report):
    """All models in one table, in Markdown."""
    names = list(dict.fromkeys(n for r in report["models"] for n in r["engines"]))
    s = report["settings"]
    beside = f", {report['busy_processes']} busy processes beside" if report["busy_processes"] else ""
    lines = [f"\n{report['machine']['cpu']}, {s['threads']} threads, prompt {s['prompt']}, generated {s['generate']}, "
             f"tokens/s prefill / decode{beside}; medians; ratios: quern / fastest peer, median (smallest to largest)"]
    lines += [f"- {name}: {version}" for name, version in report["engines"].items()]
    lines += [f"- {name}: not run: {reason}" for name, reason in report["absent"].items()]
    head = ["model", "format", *names, "prefill ratio", "decode ratio", "MBU", "MFU",
            f"TTFT {s['first']} ms: " + " / ".join(names)]
    lines += ["", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(rows_of(result, names)) + " |" for result in report["models"]]
    lines += [f"- {r['model']}: {name} not run: {reason}" for r in report["models"]
              for name, reason in r["failed"].items()]
    return "\n".join(lines)


# ---- self-check ----------------------------------------------------------------------------------------------------


def check_statistics(expect):
    rounds = [{"quern": {"prefill": 30.0, "decode": 10.0}, "a": {"prefill": 10.0, "decode": 8.0},
               "b": {"prefill": 20.0, "decode": 5.0}},
              {"quern": {"prefill": 60.0, "decode": 12.0}, "a": {"prefill": 11.0, "decode": 8.0},
               "b": {"prefill": 20.0, "decode": 16.0}},
              {"quern": {"prefill": 40.0, "decode": 11.0}, "a": {"prefill": 12.0, "decode": 4.0}}]
    expect("spread", spread([3, 1, 2]), {"median": 2, "min": 1, "max": 3})
    expect("spread of nothing", spread([]), None)
    expect("column of an engine that fell out", column(rounds, "b", "prefill"), [20.0, 20.0])
    expect("prefill ratio", ratio(rounds, "prefill"), {"peer": "b", "median": 2.25, "min": 1.5, "max": 3.0})
    expect("decode ratio", ratio(rounds, "decode"), {"peer": "b", "median": 1.375, "min": 0.75, "max": 2.0})
    expect("no peer", ratio([{"quern": {"prefill": 1.0}}], "prefill"), None)
    return rounds


def check_tables(expect, rounds):
    class model:
        name, format, bytes_a_token = "m", "Q4_0", 1_000_000
    rounds[0]["quern"].update(read_bytes_per_s=2e7, mfu=0.5, ttft_ms=7.0)
    result = summarise(model, rounds, {"c": "speed: exit code 1: no"}, {"a": "-fa 1"}, 1.0)
    text = table(result)
    expect("a reason in the table", "not run: speed: exit code 1: no" in text, True)
    expect("MBU from quern's bandwidth", result["engines"]["a"]["mbu"]["median"], 0.4)
    expect("MFU from quern's", round(result["engines"]["b"]["mfu"]["median"], 6), 0.333333)
    report = {"machine": {"cpu": "x"}, "engines": {}, "absent": {"d": "not installed"}, "busy_processes": 0,
              "settings": {"threads": 2, "prompt": 512, "generate": 128, "first": 128}, "models": [result]}
    lines = report_text(report).splitlines()
    expect("columns", {line.count("|") for line in lines if line.startswith("|")}, {11})
    expect("an absent engine", "- d: not run: not installed" in lines, True)


def check_parsing(expect):
    from peers_engines import Unable, last_line, parse_llama_bench, parse_object
    noisy = 'loading\n[\n {"n_prompt": 512, "n_gen": 0, "avg_ts": 90.5, "flash_attn": true},\n' \
            ' {"n_prompt": 0, "n_gen": 16, "avg_ts": 12.5, "flash_attn": 0}\n]\ndone\n'
    expect("llama-bench", parse_llama_bench(noisy),
           {"prefill": 90.5, "decode": 12.5, "all": [("prefill", 1, 90.5), ("decode", 0, 12.5)]})
    expect("an object after noise", parse_object('note\n{"a": 1}\nbye {\n'), {"a": 1})
    expect("an object over lines", parse_object('{\n "a": 1\n}\n'), {"a": 1})
    expect("the error, not the last line", last_line("Error: no such op\nbye\n"), "Error: no such op")
    for name, parse, text in (("no JSON", parse_object, "nothing"), ("no rows", parse_llama_bench, "nothing"),
                              ("cut off", parse_llama_bench, '[\n {"n_prompt": 5')):
        try:
            parse(text)
            expect(name, "accepted", "Unable")
        except Unable:
            pass


def check_gguf(expect):
    import os
    import struct
    import tempfile
    from peers_gguf import Gguf, bpe_values, copy_with_bpe

    def text(value):
        return struct.pack("<Q", len(value)) + value.encode()

    values = [text("general.architecture") + struct.pack("<I", 8) + text("llama"),
              text("llama.block_count") + struct.pack("<II", 4, 3),
              text("tokenizer.ggml.scores") + struct.pack("<IIQ3f", 9, 6, 3, 1.0, 2.0, 3.0)]
    tensors = text("token_embd.weight") + struct.pack("<IQQIQ", 2, 32, 300, 8, 0)
    tensors += text("output_norm.weight") + struct.pack("<IQIQ", 1, 32, 0, 10208)
    head = struct.pack("<4sIQQ", b"GGUF", 3, 2, len(values)) + b"".join(values) + tensors
    data = bytes(i % 251 for i in range(10208 + 128))
    with tempfile.TemporaryDirectory() as folder:
        path, copy = os.path.join(folder, "a.gguf"), os.path.join(folder, "b.gguf")
        with open(path, "wb") as file:
            file.write(head + b"\0" * (-len(head) % 32) + data)
        read = Gguf(path)
        expect("values", (read.get("block_count"), read.values["tokenizer.ggml.scores"]), (3, [1.0, 2.0, 3.0]))
        expect("bytes a token, tied", read.bytes_a_token(), 300 * 34 + 128)
        expect("format", read.format(), "Q8_0")
        copy_with_bpe(read, copy)
        again = Gguf(copy)
        expect("the copy's tokens", len(again.values["tokenizer.ggml.tokens"]), 300)
        with open(copy, "rb") as file:
            file.seek(again.data_begin)
            expect("the copy's tensors", file.read(), data)
    for count in (300, 70000):
        tokens = dict((key, value) for key, value, _, _ in bpe_values(count))
        expect(f"{count} different tokens", len(set(tokens["tokenizer.ggml.tokens"])), count)


def selftest():
    """Checks what can be checked without an engine. 0, or 1 after saying what is wrong."""
    wrong = []

    def expect(what, got, want):
        if got != want:
            wrong.append(f"{what}: got {got!r}, want {want!r}")

    check_tables(expect, check_statistics(expect))
    check_parsing(expect)
    check_gguf(expect)
    for line in wrong:
        print(f"peers: {line}")
    print(f"peers: self-check {'failed' if wrong else 'passed'}")
    return 1 if wrong else 0
