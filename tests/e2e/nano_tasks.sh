#!/usr/bin/env bash
# What the committed model has learnt: at least 99 % of the held-out cases of each task right, whole answer and end.
. "$(dirname "$0")/../support/e2e.sh"
tasks="$QUERN_BUILD/tests/quern-tasks" model="$QUERN_SOURCE/models/nano/nano.gguf"
[ -x "$tasks" ] || skip "$tasks is not built"
[ -r "$model" ] || skip "models/nano/nano.gguf is missing"
"$tasks" "$model" "$QUERN_SOURCE/models/nano/tasks.tsv" --min 0.99 || fail "quern-tasks ends with $?"
pass
