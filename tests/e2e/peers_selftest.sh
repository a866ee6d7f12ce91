#!/usr/bin/env bash
# tests/bench/peers.py: its parsing and statistics, what its help says, and that an engine or a model that is not there
# gives a reason and no traceback. No engine is measured.
. "$(dirname "$0")/../support/e2e.sh"
command -v python3 >/dev/null || skip "python3 is missing"
export PYTHONDONTWRITEBYTECODE=1
peers="$QUERN_SOURCE/tests/bench/peers.py"
python3 "$peers" --selftest || fail "peers.py --selftest ends with $?"

options=$(grep -oE 'add\("--[a-z-]+' "$peers" | grep -oE -- '--[a-z-]+')
help=$(python3 "$peers" --help) || fail "peers.py --help ends with $?"
for option in $options; do
  grep -qF -- "$option" <<<"$help" || fail "peers.py --help does not tell of $option"
done

missing="$WORK/missing.gguf"
python3 "$peers" "$missing" >"$WORK/out" 2>"$WORK/err" && fail "a missing model is not an error"
grep -q "^peers: error: $missing" "$WORK/err" || fail "a missing model: got $(cat "$WORK/err")"
model="$QUERN_SOURCE/models/nano/nano.gguf"
[ -r "$model" ] || skip "models/nano/nano.gguf is missing"
python3 "$peers" "$model" --quern "$WORK/no-quern" --engines quern,llama.cpp --llama-bench /bin/false --json "$WORK/json" \
  >"$WORK/out" 2>"$WORK/err" || fail "engines that are missing: $(cat "$WORK/err")"
grep -q "^- quern: not run: $WORK/no-quern: No such file" "$WORK/out" || fail "no reason for quern: $(cat "$WORK/out")"
grep -q "^- llama.cpp: not run: exit code 1" "$WORK/out" || fail "no reason for llama.cpp: $(cat "$WORK/out")"
python3 -c 'import json, sys; json.load(open(sys.argv[1]))' "$WORK/json" || fail "broken JSON"
pass
