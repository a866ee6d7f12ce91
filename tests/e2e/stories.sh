#!/usr/bin/env bash
# A real trained model against what others computed with it: stories260K, greedy from BOS, must give llama2.c's text byte
# for byte and the float64 logits, from an artifact, through the cache and through the JIT, with any number of threads.
. "$(dirname "$0")/../support/e2e.sh"
need_quern
model=$(shared_model models/stories260K/stories260K.gguf) || exit 77
folder=$(dirname "$model")
export XDG_CACHE_HOME="$WORK/cache"

# same_text GOLDEN TOKENS RUN-OPTION...
same_text() {
  "$QUERN" run -q -p "" -n "$2" "${@:3}" >"$WORK/text" || fail "quern run ${*:3} ends with $?"
  cmp "$WORK/text" "$folder/$1" >&2 || fail "quern run ${*:3}: the text is not $1"
}

"$QUERN" compile -q "$model" -o "$WORK/stories.qn"
for threads in 1 2; do
  same_text golden-greedy-n200.txt 200 "$WORK/stories.qn" --threads "$threads"
  same_text golden-greedy-n200.txt 200 "$model" --jit --threads "$threads"
done
same_text golden-greedy-n256.txt 256 "$WORK/stories.qn"
same_text golden-greedy-n200.txt 200 "$model"


# The first 40 ids, from BOS as a token id.
want_ids="403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426, 338, 401, 396, 267, 337, 410, 408, \
419, 292, 411, 322, 265, 282, 295, 433, 426, 385, 328, 432, 358, 394, 261, 370, 432, 352"
"$QUERN" run -q "$WORK/stories.qn" --tokens 1 -n 40 --json >"$WORK/json"
grep -qF "\"ids\": [$want_ids]" "$WORK/json" || fail "the first 40 ids are others: $(cat "$WORK/json")"

# Logits after BOS, computed in float64.
"$QUERN" run -q "$WORK/stories.qn" -p "" -n 0 --logits "$WORK/logits"
[ "$(stat -c %s "$WORK/logits")" -eq $((512 * 4)) ] || fail "--logits: $(stat -c %s "$WORK/logits") bytes, want 2048"
od -An -v -t f4 -w4 "$WORK/logits" | awk '
  BEGIN { want[403] = 17.02352; want[385] = 15.40621; want[410] = 13.10826; want[317] = 12.76917; want[407] = 12.41809 }
  { id = NR - 1
    if (id in want) {
      seen++
      if ($1 - want[id] > 1e-3 || want[id] - $1 > 1e-3) { print "logit " id ": got " $1 ", want " want[id]; bad = 1 }
    } else if ($1 > 12.41809) { print "logit " id ": got " $1 ", want less than the five best"; bad = 1 } }
  END { exit bad || seen != 5 }' >&2 || fail "logits after BOS differ from float64"
pass "stories260K: texts byte for byte, logits within 1e-3"
