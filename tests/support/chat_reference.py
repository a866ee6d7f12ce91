#!/usr/bin/env python3
"""Compares the golden files of chat templates with what Python's jinja2 makes of them, set up as transformers does.

    python3 -m venv reference && reference/bin/pip install jinja2
    reference/bin/python tests/support/chat_reference.py tests/golden/chat

Where a golden file says "ok" jinja2 must give the same text; where it says "error", jinja2 must raise, but for what
quern leaves out on purpose (status unsupported) and its own limits (status limit).
"""

import datetime
import json
import os
import re
import sys
import time

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = 1700000000
# Errors of quern alone: integers beyond 64 bits, tuples within tuples as targets, what jinja2 drops without a word (a
# comment or raw without an end), and mistakes that its lazy generators and int's ValueError hide.
STRICTER = ["9223372036854775807 +", "99999999999999999999", "(b, c)", "{#\n", "{% raw %}\n", "['b':]", "|int(0, 99)",
            "messages|map }}", "'a'|items"]


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_same"), [], [], body).set_lineno(line)

    def _same(self, caller):
        return caller()


def environment():
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: datetime.datetime.fromtimestamp(NOW).strftime(form)
    return env


def shared_variables():
    """The variables of cases that bring none, out of tests/support/chat_case.c."""
    with open(os.path.join(os.path.dirname(__file__), "chat_case.c"), encoding="utf-8") as file:
        text = file.read().split("qn_chat_case_variables[] =")[1].split(";\n")[0]
    joined = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', text))
    return json.loads(joined.replace('\\"', '"').replace("\\\\", "\\"))


def render(env, text, variables):
    try:
        return "ok", env.from_string(text).render(**variables)
    except Exception as error:  # whatever it raises is an answer
        return "error", f"{type(error).__name__}: {error}"


def main(folder):
    os.environ["TZ"] = "UTC"
    time.tzset()
    env, shared, cases, different = environment(), shared_variables(), 0, 0
    for name in sorted(os.listdir(folder)):
        with open(os.path.join(folder, name), encoding="utf-8", newline="") as file:
            parts = file.read().split("## ====\n")
        for part in parts[:-1]:
            given, want = part.split("## ---- want\n")
            variables, text = shared, given
            if "## ---- template\n" in given:
                written, text = given.split("## ---- template\n")
                variables = json.loads(written)
            kind, rest = want.split("\n", 1)
            status, got = render(env, text, variables)
            if kind.startswith("ok"):
                same = status == "ok" and got + "\n" == rest
            else:
                same = status == "error" or kind in ("error unsupported", "error limit") or any(x in text for x in STRICTER)
            cases += 1
            if not same:
                different += 1
                print(f"{name}: {text!r}\n  jinja2: {status} {got!r}\n  golden: {kind} {rest!r}")
    print(f"{cases} cases, {different} differ (jinja2 {jinja2.__version__})")
    return 1 if different or not cases else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
