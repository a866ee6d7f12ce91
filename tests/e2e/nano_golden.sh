#!/usr/bin/env bash
# The committed model against models/nano/golden.txt, which was computed in float64: greedy ids, text, and the five best
# logits of the first step.
. "$(dirname "$0")/../support/e2e.sh"
need_quern
model="$QUERN_SOURCE/models/nano/nano.gguf" golden="$QUERN_SOURCE/models/nano/golden.txt"
[ -r "$model" ] && [ -r "$golden" ] || skip "models/nano/nano.gguf or golden.txt is missing"
"$QUERN" compile -q "$model" -o "$WORK/nano.qn"

# check_case: the fields of one case are in name, limit, prompt, prompt_ids, ids, text, top.
check_case() {
  "$QUERN" run -q "$WORK/nano.qn" -p "$prompt" -n "$limit" --json --logits "$WORK/logits" >"$WORK/json"
  grep -qF "\"prompt_ids\": [${prompt_ids// /, }]" "$WORK/json" || fail "$name: prompt ids: $(cat "$WORK/json")"
  # 511 ends the text and belongs to it in golden.txt; quern tells it as the reason to stop.
  stop=max_tokens
  if [ "${ids##* }" = 511 ]; then stop=eog ids=${ids% 511}; fi
  grep -qF "\"ids\": [${ids// /, }]" "$WORK/json" || fail "$name: want ids $ids, got $(cat "$WORK/json")"
  grep -qF "\"stop\": \"$stop\"" "$WORK/json" || fail "$name: want the end $stop, got $(cat "$WORK/json")"
  "$QUERN" run -q "$WORK/nano.qn" -p "$prompt" -n "$limit" >"$WORK/text"
  [ "$(cat "$WORK/text")" = "$text" ] || fail "$name: want the text '$text', got '$(cat "$WORK/text")'"
  od -An -v -t f4 -w4 -N 2048 "$WORK/logits" | awk -v top="$top" '
    BEGIN { n = split(top, pair, " "); for (i = 1; i <= n; i++) { split(pair[i], p, ":"); want[p[1]] = p[2] } }
    NR - 1 in want { d = $1 - want[NR - 1]; if (d > 1e-3 || d < -1e-3) { print "logit " NR - 1 ": got " $1 ", want " want[NR - 1]; bad = 1 } }
    END { exit bad || n != 5 }' >&2 || fail "$name: logits of the first step"
}

cases=0 name=''
while IFS= read -r line || [ -n "$line" ]; do
  case $line in
    '#'* | '') continue ;;
    name=*) name=${line#*=} ;;
    limit=*) limit=${line#*=} ;;
    prompt=*) prompt=${line#*=} ;;
    prompt_ids=*) prompt_ids=${line#*=} ;;
    ids=*) ids=${line#*=} ;;
    text=*) text=${line#*=} ;;
    gap=*) ;;
    top=*)
      top=${line#*=}
      check_case
      cases=$((cases + 1))
      ;;
    *) fail "golden.txt has a line that is not understood: $line" ;;
  esac
done <"$golden"
[ "$cases" -ge 5 ] || fail "only $cases cases in golden.txt"
pass "nano: $cases golden continuations"
