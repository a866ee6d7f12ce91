#!/usr/bin/env bash
# quern bench: the table, the JSON with every key that is promised and a number behind it, options that make no sense,
# an end in between. What the numbers are is the machine's business and no test's.
. "$(dirname "$0")/../support/e2e.sh"
need_quern
model="$QUERN_SOURCE/models/nano/nano.gguf"
[ -r "$model" ] || skip "models/nano/nano.gguf is missing"
export XDG_CACHE_HOME="$WORK/cache"
artifact="$WORK/nano.qn"
quick=(--reps 1 -n 4)

# wrong CODE TEXT ARGUMENT...: ends with CODE, one line on stderr that holds TEXT, nothing on stdout.
wrong() {
  local code=0
  "$QUERN" bench -q "${@:3}" >"$WORK/out" 2>"$WORK/err" </dev/null || code=$?
  [ "$code" -eq "$1" ] || fail "bench ${*:3}: exit code $code, want $1: $(cat "$WORK/err")"
  [ "$(wc -l <"$WORK/err")" -eq 1 ] || fail "bench ${*:3}: want one line, got: $(cat "$WORK/err")"
  grep -qF -e "$2" "$WORK/err" || fail "bench ${*:3}: want '$2' in: $(cat "$WORK/err")"
  [ ! -s "$WORK/out" ] || fail "bench ${*:3}: an error with text on stdout"
}

# numbers FILE KEY...: each key has a positive number after it, wherever it stands.
numbers() {
  local key
  for key in "${@:2}"; do
    grep -oE "\"$key\": [^,}]*" "$1" >"$WORK/found" || fail "no \"$key\" in $(cat "$1")"
    ! grep -vE ': [0-9]+(\.[0-9]+)?(e[-+][0-9]+)?$' "$WORK/found" || fail "\"$key\" is no number"
  done
}
keys=(read_bytes_per_s read_small_pages_bytes_per_s int8_ops_per_s int8_narrow_ops_per_s fp32_flops_per_s load_ms start_ms ttft_ms tokens_per_s
  mfu mbu p50 p90 p95 p99 mean rss_bytes)

# ---- a model file with all sweeps: by way of the cache, compiled for the largest batch

"$QUERN" bench "$model" "${quick[@]}" --threads 1,2 --prompt 3,16 --depth 0,20 --batch 1,3 --speculate lookup \
  --draft-tokens 3 --json "$WORK/all.json" \
  >"$WORK/table" 2>"$WORK/err" || fail "bench ends with $?: $(cat "$WORK/err")"
numbers "$WORK/all.json" "${keys[@]}"
[ "$(wc -l <"$WORK/all.json")" -eq 1 ] || fail "the JSON is not one line"
for part in '"machine": {' '"prefill": {"tokens": 16, "threads": 2' '"decode": {"depth": 0, "batch": 1, "sequences": 1, "threads": 2' \
  '"machines": \[{' '"clock": "wall"' '"numeric_mode": "int8"'; do
  grep -q "$part" "$WORK/all.json" || fail "no $part in $(cat "$WORK/all.json")"
done
[ "$(sed 's/.*"decodes"//' "$WORK/all.json" | grep -o '"batch"' | wc -l)" -eq 8 ] || fail "want 2 threads x 2 depths x 2 batches"
[ "$(sed 's/.*"decodes"//' "$WORK/all.json" | grep -o '"sequences": 3' | wc -l)" -eq 4 ] || fail "a batch of one sequence"
[ "$(sed 's/.*"prefills"//; s/"decodes".*//' "$WORK/all.json" | grep -o '"tokens"' | wc -l)" -eq 4 ] || fail "want 4 prompts"
[ "$(grep -o '"technique": "lookup", "depth": [0-9]*, "threads": [12], "draft_tokens": 3' "$WORK/all.json" | wc -l)" -eq 4 ] ||
  fail "want guesses with 2 threads x 2 depths: $(cat "$WORK/all.json")"
numbers "$WORK/all.json" times_as_fast acceptance_rate tokens_per_pass plain_tokens_per_s
for text in 'machine, 2 threads: reads' '^load ' 'TTFT ms' 'MBU' 'lookup .* % '; do
  grep -q "$text" "$WORK/table" || fail "the table lacks '$text': $(cat "$WORK/table")"
done
grep -q '^quern: decoding$' "$WORK/err" || fail "no progress: $(cat "$WORK/err")"
if command -v python3 >/dev/null && python3 -c 'import json' 2>/dev/null; then
  python3 -c 'import json, sys; json.load(open(sys.argv[1], encoding="utf-8"))' "$WORK/all.json" || fail "that is no JSON"
fi

# What guesses begins anew with each text: more rounds of one do not make more of it come true.
"$QUERN" compile -q "$model" --batch 8 -o "$WORK/rows.qn"
for reps in 1 3; do
  "$QUERN" bench -q "$WORK/rows.qn" --threads 1 --prompt 3 --depth 0 --batch 1 -n 20 --reps $reps --speculate lookahead \
    --draft-tokens 7 --json - 2>"$WORK/err" | grep -o '"acceptance_rate": [0-9.]*, "tokens_per_pass": [0-9.]*' >"$WORK/rounds$reps" ||
    fail "lookahead: $(cat "$WORK/err")"
done
cmp "$WORK/rounds1" "$WORK/rounds3" >&2 || fail "lookahead remembers the text of the round before"

# ---- an artifact: as it was compiled

"$QUERN" compile -q "$model" -o "$artifact"
"$QUERN" bench -q "$artifact" "${quick[@]}" --prompt 4 --clock cpu --json - >"$WORK/one.json" 2>"$WORK/err" ||
  fail "bench of an artifact ends with $?: $(cat "$WORK/err")"
[ ! -s "$WORK/err" ] || fail "--quiet writes: $(cat "$WORK/err")"
[ "$(wc -l <"$WORK/one.json")" -eq 1 ] || fail "--json - does not take the table's place"
numbers "$WORK/one.json" "${keys[@]}"
wrong 8 "--batch: got 2, want at most 1, for which the artifact was compiled" "$artifact" "${quick[@]}" --prompt 4 --batch 2
# As many tokens of one sequence as it has rows of logits for.
"$QUERN" compile -q "$model" -o "$WORK/rows.qn" --all-logits
"$QUERN" bench -q "$WORK/rows.qn" "${quick[@]}" --prompt 4 --threads 1 --batch 2 >"$WORK/table" || fail "tokens of one sequence"
grep -q ' 2\* ' "$WORK/table" && grep -q '^\* tokens of one sequence' "$WORK/table" || fail "got: $(cat "$WORK/table")"

# ---- two artifacts in turns

"$QUERN" compile -q "$model" -o "$WORK/other.qn" --ctx 64
"$QUERN" bench "$artifact" --against "$WORK/other.qn" --reps 2 -n 16 --prompt 3,16 --depth 0,4 --json "$WORK/turns.json" \
  >"$WORK/table" 2>"$WORK/err" || fail "bench --against ends with $?: $(cat "$WORK/err")"
numbers "$WORK/turns.json" tokens_per_s against_tokens_per_s ratio ratio_low ratio_high
[ "$(grep -o '"prompt": [0-9]*, "pairs": 2,' "$WORK/turns.json" | wc -l)" -eq 2 ] || fail "got: $(cat "$WORK/turns.json")"
[ "$(grep -o '"batch": 1, "pairs": 4,' "$WORK/turns.json" | wc -l)" -eq 2 ] || fail "got: $(cat "$WORK/turns.json")"
[ "$(grep -cE ' [0-9.]+ to [0-9.]+$' "$WORK/table")" -eq 4 ] || fail "got: $(cat "$WORK/table")"
grep -q '^quern: taking turns$' "$WORK/err" || fail "no progress: $(cat "$WORK/err")"
"$QUERN" bench -q "$artifact" --against "$artifact" --reps 1 -n 4 --prompt 4 --json - >"$WORK/one.json" 2>"$WORK/err" ||
  fail "bench of an artifact against itself: $(cat "$WORK/err")"
[ "$(wc -l <"$WORK/one.json")" -eq 1 ] && [ ! -s "$WORK/err" ] || fail "got: $(cat "$WORK/one.json" "$WORK/err")"
wrong 3 "is no artifact, which --against wants; compile it" "$artifact" "${quick[@]}" --prompt 4 --against "$model"
wrong 8 "$WORK/other.qn: got prompts and depths for a context of 65 tokens, want at most 64" "$artifact" -n 4 --prompt 65 \
  --against "$WORK/other.qn"
"$QUERN_BUILD/tests/quern-synth" --model smollm2-135m --layers 1 --type q4_0 -o "$WORK/tiny.gguf" >/dev/null
"$QUERN" compile -q "$WORK/tiny.gguf" -o "$WORK/tiny.qn"
wrong 2 "tokens in its vocabulary, want 512 as" "$artifact" "${quick[@]}" --prompt 4 --against "$WORK/tiny.qn"

# ---- what makes no sense

wrong 2 "--threads: got '0', want whole numbers from 1 to 1024" "$artifact" --threads 1,0
wrong 2 "--prompt: got '', want" "$artifact" --prompt 1,
wrong 2 "--depth: got '-1', want" "$artifact" --depth=-1
wrong 2 "--prompt: got more than 16 numbers" "$artifact" --prompt 1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1
wrong 2 "--clock: got 'sun', want wall or cpu" "$artifact" --clock sun
wrong 2 "--speculate: got it with --against" "$artifact" --speculate lookup --against "$artifact"
wrong 2 "--json: got the model file itself" "$artifact" --json "$artifact"
wrong 2 "--numeric: is for model files" "$artifact" --numeric f32
wrong 8 "for a context of 257 tokens, want at most 256" "$artifact" "${quick[@]}" --prompt 257
wrong 5 "$WORK/nothing" "$WORK/nothing"
printf '{"version": 1, "graph": []}' >"$WORK/graph.json"
"$QUERN" bench -q "$WORK/graph.json" "${quick[@]}" >"$WORK/out" 2>"$WORK/err" && fail "bench of a graph without a model"

# ---- Ctrl-C

code=0
stopped INT 2 "$QUERN" bench -q "$artifact" --prompt 100 -n 100 --reps 1000 >"$WORK/out" 2>"$WORK/err" ||
  code=$?
[ "$code" -eq 130 ] || fail "SIGINT: exit code $code, want 130: $(cat "$WORK/err")"
[ ! -s "$WORK/out" ] && [ ! -s "$WORK/err" ] || fail "SIGINT: $(cat "$WORK/out" "$WORK/err")"
pass
