#!/usr/bin/env bash
# quern eval: perplexity against what the logits say, windows and strides, tasks, JSON, tables, errors.
. "$(dirname "$0")/../support/e2e.sh"
need_quern
model="$QUERN_SOURCE/models/nano/nano.gguf" stories="$QUERN_SOURCE/models/nano/stories.txt" tasks="$QUERN_SOURCE/models/nano/tasks.tsv"
[ -r "$model" ] || skip "models/nano/nano.gguf is missing"
artifact="$WORK/nano.qn"

# wrong CODE TEXT ARGUMENT...
wrong() {
  local code=0
  "$QUERN" "${@:3}" >"$WORK/out" 2>"$WORK/err" </dev/null || code=$?
  [ "$code" -eq "$1" ] || fail "quern ${*:3}: exit code $code, want $1: $(cat "$WORK/err")"
  grep -qF -e "$2" "$WORK/err" || fail "quern ${*:3}: want '$2' in: $(cat "$WORK/err")"
  [ ! -s "$WORK/out" ] || fail "quern ${*:3}: an error with text on stdout"
}
value() { sed -n "s/.*\"$1\": *\([0-9.e+-]*\).*/\1/p" "$WORK/json" | head -n 1; }
perplexity() { "$QUERN" eval -q "$@" | sed -n 's/^perplexity \([0-9.]*\),.*/\1/p'; }
same() {  # same A B TOLERANCE WHAT
  awk -v a="$1" -v b="$2" -v t="$3" 'BEGIN { exit !(a > 0 && (a - b) / a < t && (b - a) / a < t) }' || fail "$4: got $1, want $2"
}

"$QUERN" compile -q "$model" -o "$artifact" --all-logits || fail "compile ends with $?"
head -n 4 "$stories" >"$WORK/text"

# ---- perplexity

"$QUERN" eval "$artifact" --perplexity "$WORK/text" --lines --json "$WORK/json" >"$WORK/out" 2>"$WORK/err" || fail "eval: $(cat "$WORK/err")"
grep -qE '^perplexity 1\.[0-9]{4}, standard error 0\.[0-9]{4}: [0-9]+ tokens of 4 texts, windows of 256 tokens 128 apart$' "$WORK/out" ||
  fail "eval: $(cat "$WORK/out")"
[ "$(value tokens)" -gt 100 ] && [ "$(value texts)" -eq 4 ] || fail "--json: $(cat "$WORK/json")"
# By hand: the logits that run --logits writes for a text of two tokens.
printf 'On' >"$WORK/short"
"$QUERN" run -q "$artifact" -p "" -n 0 --logits "$WORK/logits" >/dev/null
id=$("$QUERN" run -q "$artifact" -p On -n 1 --json | sed 's/.*"prompt_ids": *\[510, *\([0-9]*\)\].*/\1/')
want=$(od -An -v -tf4 -w4 "$WORK/logits" | awk -v id="$id" '{ x[NR - 1] = $1 } END { for (i in x) s += exp(x[i]); print s / exp(x[id]) }')
[[ "$id" =~ ^[0-9]+$ ]] || fail "the text is not one token: $id"
same "$(perplexity "$artifact" --perplexity "$WORK/short")" "$want" 1e-4 "one token"
# Without all logits, and by any threads, it is the same; lines that are one text are another one.
"$QUERN" compile -q "$model" -o "$WORK/single.qn"
[ "$(perplexity "$artifact" --perplexity "$WORK/text")" = "$(perplexity "$WORK/single.qn" --perplexity "$WORK/text" -j 1)" ] || fail "without all logits"
[ "$(perplexity "$artifact" --perplexity "$WORK/text")" != "$(perplexity "$artifact" --perplexity "$WORK/text" --lines)" ] || fail "--lines"
# The more there is before each token, the smaller it is; every token counts once, whatever the window.
long=$(perplexity "$artifact" --perplexity "$WORK/text" --stride 16) short=$(perplexity "$artifact" --perplexity "$WORK/text" --ctx 8 --stride 4)
awk -v a="$long" -v b="$short" 'BEGIN { exit !(a > 1 && a < b) }' || fail "windows: $long with much before each token, $short with little"
tokens=""
for window in "--ctx 256" "--ctx 17 --stride 5" "--ctx 2 --stride 1"; do
  # shellcheck disable=SC2086
  "$QUERN" eval -q "$artifact" --perplexity "$WORK/text" $window --json "$WORK/json" >/dev/null || fail "$window"
  [ "${tokens:-$(value tokens)}" = "$(value tokens)" ] || fail "$window: got $(value tokens) tokens, want $tokens"
  tokens=$(value tokens)
done

# ---- tasks

"$QUERN" eval "$artifact" --tasks "$tasks" --limit 5 --json - >"$WORK/json" 2>"$WORK/err" || fail "--tasks: $(cat "$WORK/err")"
grep -q '"right": 30, "count": 30}' "$WORK/json" && grep -q '"count": *30' "$WORK/json" || fail "--tasks: $(cat "$WORK/json")"
printf '# a remark\n\ncopy\tcopy: k q d =\tk q d\ncopy\tcopy: k q d =\tx\n' >"$WORK/own.tsv"
"$QUERN" eval "$artifact" --tasks "$WORK/own.tsv" >"$WORK/out" 2>"$WORK/err" || fail "--tasks: $(cat "$WORK/err")"
grep -qE '^copy +1 of +2 right, 50.00 %$' "$WORK/out" && grep -qF "wrong for example: 'copy: k q d =' gave ' k q d', want 'x'" "$WORK/err" ||
  fail "a wrong case: $(cat "$WORK/out" "$WORK/err")"

# ---- tables

# Both numeric modes with QUERN_TEST_ALL=1: each cell is a compilation.
modes=int8 head=" int8: tasks right | int8: perplexity |" cell=" 50.00 % \| [0-9.]+ \|"
if [ "${QUERN_TEST_ALL:-}" = 1 ]; then modes=int8,f32 head+=" f32: tasks right | f32: perplexity |" cell+="$cell"; fi
"$QUERN" eval -q "$model" --quant q8_0,q4_0 --numeric "$modes" --tasks "$WORK/own.tsv" --perplexity "$WORK/short" --json "$WORK/json" >"$WORK/out" ||
  fail "a table ends with $?"
[ "$(head -n 1 "$WORK/out")" = "| format | bits a weight | RMS error |$head" ] || fail "a table: $(cat "$WORK/out")"
grep -qE "^\| q4_0 \| 4\.[0-9]+ \| [0-9.]+ % \|$cell$" "$WORK/out" || fail "a table: $(cat "$WORK/out")"
grep -q '"bits": 8.5,' "$WORK/json" && [ "$(grep -o '"numeric"' "$WORK/json" | wc -l)" -ge 2 ] || fail "a table: $(cat "$WORK/json")"

# ---- errors

: >"$WORK/empty"
printf 'no tabs here\n' >"$WORK/bad.tsv"
wrong 2 "got nothing to measure, want --perplexity FILE or --tasks FILE" eval "$artifact"
wrong 2 "--stride: is of --perplexity" eval "$artifact" --tasks "$tasks" --stride 5
wrong 2 "--lines: is of --perplexity" eval "$artifact" --tasks "$tasks" --lines
wrong 2 "--limit: is of --tasks" eval "$artifact" --perplexity "$stories" --limit 5
wrong 2 "--stride: got 16, want less than the window of 16 tokens" eval -q "$artifact" --perplexity "$stories" --ctx 16 --stride 16
wrong 2 "--quant: is for model files" eval "$artifact" --perplexity "$stories" --quant q8_0,q4_0
wrong 2 "--numeric: is for model files" eval "$artifact" --perplexity "$stories" --numeric int8,f32
wrong 2 "--device: got cuda, but a table is measured on the CPU" eval "$model" --perplexity "$stories" --quant all --device cuda
wrong 2 "q4_9" eval -q "$model" --perplexity "$stories" --quant q4_9,q4_0
wrong 3 "empty: is too short, want two tokens or more" eval -q "$artifact" --perplexity "$WORK/empty"
wrong 3 "empty: has no cases" eval -q "$artifact" --tasks "$WORK/empty"
wrong 3 "bad.tsv:1: got 'no tabs here', want a task, a prompt and an answer with tabs between" eval -q "$artifact" --tasks "$WORK/bad.tsv"
wrong 5 "no-such-file" eval -q "$artifact" --perplexity "$WORK/no-such-file"
wrong 5 "no-such-folder" eval -q "$artifact" --perplexity "$WORK/short" --json "$WORK/no-such-folder/x"
code=0
for _ in $(seq 100); do cat "$stories"; done >"$WORK/long"  # more than any machine does in a second
stopped INT 1 "$QUERN" eval -q "$artifact" --perplexity "$WORK/long" --lines --ctx 200 --stride 1 >"$WORK/out" 2>&1 || code=$?
[ "$code" -eq 130 ] && [ ! -s "$WORK/out" ] || fail "Ctrl-C ends with $code: $(cat "$WORK/out")"
pass
