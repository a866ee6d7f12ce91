#!/usr/bin/env bash
# quern bench --trace: requests of a file and at random, the table, the JSON, the page; traces and options that make no sense.
# What the numbers are is the machine's business; that no request fails and no page is lost is this test's.
. "$(dirname "$0")/../support/e2e.sh"
need_quern
model="$QUERN_SOURCE/models/nano/nano.gguf" artifact="$WORK/nano.qn"
[ -r "$model" ] || skip "models/nano/nano.gguf is missing"
"$QUERN" compile -q "$model" -o "$artifact" --batch 4 || fail "compile ends with $?"

# wrong CODE TEXT ARGUMENT...: ends with CODE, one line on stderr that holds TEXT.
wrong() {
  local code=0
  "$QUERN" bench -q "$artifact" --batch 4 "${@:3}" >"$WORK/out" 2>"$WORK/err" </dev/null || code=$?
  [ "$code" -eq "$1" ] || fail "bench ${*:3}: exit code $code, want $1: $(cat "$WORK/err")"
  [ "$(wc -l <"$WORK/err")" -eq 1 ] || fail "bench ${*:3}: want one line, got: $(cat "$WORK/err")"
  grep -qF -e "$2" "$WORK/err" || fail "bench ${*:3}: want '$2' in: $(cat "$WORK/err")"
}
# trace LINE...: a file of these lines.
trace() { printf '%s\n' "$@" >"$WORK/trace"; }
count() { grep -o "\"$1\": $2" "$WORK/json" | wc -l; }

# ---- a file: comments, prefixes, priorities, clients; few pages, so that somebody is preempted

trace '# arrival prompt output prefix tokens priority client' '0 20 30' '' '0 70 40 1 64 batch 7' '1.5 70 40 1 64 online 8 # two alike' \
  '2 100 20' '2 90 30' '3 1 1'
for how in recompute swap; do
  "$QUERN" bench -q "$artifact" --trace "$WORK/trace" --batch 4 --pages 4 --preempt $how --batching continuous,dynamic,static \
    --batch-wait 1 --longest-wait 50 --slo ttft=10s,tpot=500ms --json "$WORK/json" --html "$WORK/html" >"$WORK/table" ||
    fail "the trace ends with $?"
  [ "$(count requests 6)" -eq 3 ] && [ "$(count failed 0)" -eq 3 ] && [ "$(count generated_tokens 161)" -eq 3 ] ||
    fail "got $(cat "$WORK/json")"
  [ "$(grep -oE '"(ttft_ms|tpot_ms)": \{"p50": [0-9.]+, "p90": [0-9.]+, "p95": [0-9.]+, "p99": [0-9.]+, "mean": [0-9.]+\}' "$WORK/json" | wc -l)" -eq 6 ] ||
    fail "no percentiles in $(cat "$WORK/json")"
done
[ "$(count swap_bytes 0)" -lt 3 ] || fail "nobody was swapped out: $(cat "$WORK/json")"
for word in continuous dynamic static; do grep -q "^$word  *file" "$WORK/table" || fail "no $word in $(cat "$WORK/table")"; done
grep -q '<svg' "$WORK/html" && ! grep -qE '(src|href)="?http' "$WORK/html" || fail "the page: $(head -c 300 "$WORK/html")"

# ---- at random: the same requests from the same seed; a plot of goodput

for i in 1 2; do
  "$QUERN" bench -q "$artifact" --trace poisson:50,200 --requests 12 --prompt 4,40 --output 2,20 --shared-prefix 16 --seed 5 --batch 4 \
    --clock cpu --json "$WORK/json" --html "$WORK/html" >/dev/null || fail "poisson ends with $?"
  grep -oE '"(generated|prompt)_tokens": [0-9]+' "$WORK/json" >"$WORK/tokens$i"
done
cmp -s "$WORK/tokens1" "$WORK/tokens2" || fail "a seed gives $(cat "$WORK/tokens1") and then $(cat "$WORK/tokens2")"
[ "$(count cache_hit_rate 0)" -eq 2 ] || fail "hits without --prefix-cache: $(cat "$WORK/json")"
[ "$(count rate_per_s '[0-9]*')" -eq 2 ] && [ "$(grep -c '<svg' "$WORK/html")" -eq 2 ] || fail "got $(cat "$WORK/json")"
"$QUERN" bench -q "$artifact" --trace poisson:50 --requests 12 --prompt 4,40 --output 2,20 --shared-prefix 64 --seed 5 --batch 4 \
  --prefix-cache --speculate lookup --json "$WORK/json" >/dev/null || fail "--prefix-cache ends with $?"
grep -qE '"acceptance_rate": [0-9.]+, "tokens_per_pass": [1-9]' "$WORK/json" || fail "got $(cat "$WORK/json")"
grep -qE '"cache_hit_rate": 0\.[1-9]' "$WORK/json" || fail "no hits in $(cat "$WORK/json")"
"$QUERN" bench -q "$artifact" --trace "$WORK/trace" --json - >"$WORK/out" && [ "$(wc -l <"$WORK/out")" -eq 1 ] || fail "--json -"

# Each request guesses by the draft model, which has as many sequences.
"$QUERN" bench -q "$artifact" --trace poisson:1 --requests 6 --prompt 4,40 --output 8,20 --seed 5 --batch 4 --draft-tokens 3 \
  --speculate "draft:$QUERN_SOURCE/models/nano/draft.gguf" --json "$WORK/json" --html "$WORK/html" >"$WORK/table" || fail "a draft: $?"
grep -qE '"acceptance_rate": 0\.[0-9]+, "tokens_per_pass": [1-9]' "$WORK/json" || fail "got $(cat "$WORK/json")"
grep -q 'accepted *a pass' "$WORK/table" && grep -q 'guesses by draft:' "$WORK/html" || fail "got $(cat "$WORK/table")"

# Or by heads, in trees.
"$QUERN" compile -q "$model" -o "$WORK/trees.qn" --batch 8 --guesses || fail "compile --guesses ends with $?"
"$QUERN" bench -q "$WORK/trees.qn" --trace poisson:1 --requests 6 --prompt 4,40 --output 8,20 --seed 5 --batch 4 --draft-tokens 3 \
  --speculate "medusa:$QUERN_SOURCE/models/nano/medusa" --json "$WORK/json" >"$WORK/table" || fail "heads: $?"
grep -qE '"acceptance_rate": 0\.[0-9]+, "tokens_per_pass": [1-9]' "$WORK/json" || fail "got $(cat "$WORK/json")"

# ---- one request that is longer than all pages fails, and no other

trace '0 20 5' '0 150 5' '0 20 5'
"$QUERN" bench -q "$artifact" --trace "$WORK/trace" --batch 4 --pages 2 --json "$WORK/json" >/dev/null || fail "ends with $?"
[ "$(count failed 1)" -eq 1 ] && [ "$(count generated_tokens 10)" -eq 1 ] || fail "got $(cat "$WORK/json")"

# ---- what makes no sense

wrong 4 "does not give the hidden states that heads guess from; compile it with --guesses" --trace poisson:1 \
  --speculate "medusa:$QUERN_SOURCE/models/nano/medusa"
wrong 5 "$WORK/none" --trace "$WORK/none"
trace '0 20'
wrong 3 "trace:1: a request: got '0', want arrival in ms, prompt tokens, output tokens" --trace "$WORK/trace"
trace '0 20 5' 'soon 20 5'
wrong 3 "trace:2: arrival: got 'soon', want milliseconds" --trace "$WORK/trace"
trace '5 20 5' '4 20 5'
wrong 3 "trace:2: arrival: got '4', want none before the last line's" --trace "$WORK/trace"
trace '0 0 5'
wrong 3 "trace:1: prompt: got '0', want a number of tokens" --trace "$WORK/trace"
trace '0 5 -1'
wrong 3 "trace:1: output: got '-1', want a number of tokens" --trace "$WORK/trace"
trace '0 5 5 x'
wrong 3 "trace:1: prefix: got 'x', want the number of a shared prefix" --trace "$WORK/trace"
trace '0 5 5 1 6'
wrong 3 "trace:1: prefix tokens: got '6', want at most those of the prompt" --trace "$WORK/trace"
trace '0 5 5 1 5 soon'
wrong 3 "trace:1: priority: got 'soon', want online or batch" --trace "$WORK/trace"
trace '0 5 5 1 5 batch me'
wrong 3 "trace:1: client: got 'me', want a number" --trace "$WORK/trace"
trace '# nothing'
wrong 3 "trace: has no requests" --trace "$WORK/trace"
printf '0 5 5\n\0' >"$WORK/trace"
wrong 3 "got bytes that are no text" --trace "$WORK/trace"
wrong 2 "--trace: got 'poisson:0', want requests a second" --trace poisson:0
wrong 2 "--trace: got 'poisson:1;2', want requests a second" --trace 'poisson:1;2'
wrong 2 "--trace: got more than 16 rates" --trace poisson:1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1
wrong 2 "--slo: got 'ttft=fast', want something like ttft=200ms,tpot=100ms" --trace poisson:1 --slo ttft=fast
wrong 2 "--batching: got 'often', want continuous, dynamic or static" --trace poisson:1 --batching often
wrong 2 "--output: got '9,3', want the least and the most" --trace poisson:1 --output 9,3
wrong 2 "--html: got the model file itself" --trace poisson:1 --html "$artifact"
wrong 2 "--html: got the same file as --json" --trace poisson:1 --json "$WORK/one" --html "$WORK/one"
wrong 2 "--slo: is for --trace" --slo ttft=1s
wrong 2 "--against: got it with --trace" --trace poisson:1 --against "$artifact"
wrong 8 "sequences" --trace poisson:1 --batch 5
pass
