#!/usr/bin/env bash
# What the committed model has learnt: at least 99 % of the held-out cases of each task right, whole answer and end.
. "$(dirname "$0")/../support/e2e.sh"
need_quern
model="$QUERN_SOURCE/models/nano/nano.gguf"
[ -r "$model" ] || skip "models/nano/nano.gguf is missing"
"$QUERN" eval "$model" --numeric f32 --tasks "$QUERN_SOURCE/models/nano/tasks.tsv" >"$WORK/out" 2>"$WORK/err" || fail "quern eval ends with $?: $(cat "$WORK/err")"
cat "$WORK/out" "$WORK/err"
[ "$(grep -c ' right, ' "$WORK/out")" -eq 7 ] || fail "want six tasks and their sum"
awk '/ right, / { if ($2 < 0.99 * $4) bad++ } END { exit bad > 0 }' "$WORK/out" || fail "a task has too few right"
pass
