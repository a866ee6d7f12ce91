#!/usr/bin/env bash
# The command line itself: help and version, how options are read, what goes to which stream, exit codes, signals.
. "$(dirname "$0")/../support/e2e.sh"
need_quern
model="$QUERN_SOURCE/models/nano/nano.gguf"
[ -r "$model" ] || skip "models/nano/nano.gguf is missing"
export XDG_CACHE_HOME="$WORK/cache"
artifact="$WORK/nano.qn"

# wrong CODE TEXT ARGUMENT...: ends with CODE, one line on stderr that holds TEXT, nothing on stdout.
wrong() {
  local code=0
  "$QUERN" "${@:3}" >"$WORK/out" 2>"$WORK/err" </dev/null || code=$?
  [ "$code" -eq "$1" ] || fail "quern ${*:3}: exit code $code, want $1: $(cat "$WORK/err")"
  [ "$(wc -l <"$WORK/err")" -eq 1 ] || fail "quern ${*:3}: want one line, got: $(cat "$WORK/err")"
  grep -q '^quern: error: ' "$WORK/err" || fail "quern ${*:3}: got: $(cat "$WORK/err")"
  grep -qF -e "$2" "$WORK/err" || fail "quern ${*:3}: want '$2' in: $(cat "$WORK/err")"
  [ ! -s "$WORK/out" ] || fail "quern ${*:3}: an error with text on stdout"
}

# ---- help and version

[ "$("$QUERN" --version)" = "quern 0.1.0" ] || fail "--version: $("$QUERN" --version)"
for command in compile run bench inspect verify; do
  "$QUERN" "$command" --help >"$WORK/help" 2>"$WORK/err" || fail "$command --help ends with $?"
  [ ! -s "$WORK/err" ] || fail "$command --help writes to stderr"
  "$QUERN" help "$command" | cmp - "$WORK/help" || fail "quern help $command is not quern $command --help"
  "$QUERN" --help | has "^  $command " || fail "quern --help does not know $command"
  [ "$(awk '{ if (length > 125) n++ } END { print n + 0 }' "$WORK/help")" -eq 0 ] || fail "$command --help has long lines"
done
for option in output target ctx chunk batch numeric kv-type template threads schedule dump-ir dump-dir all-logits; do
  "$QUERN" compile --help | has -E -- "--$option\b" || fail "compile --help does not tell --$option"
done
for option in prompt tokens max-tokens temp top-k top-p min-p repeat-penalty repeat-last seed threads ctx chunk stop \
  logits json target jit no-cache numeric kv-type huge-pages template; do
  "$QUERN" run --help | has -E -- "--$option\b" || fail "run --help does not tell --$option"
done
for option in json threads prompt generate depth batch reps clock ctx no-pin target numeric quant kv-type huge-pages template; do
  "$QUERN" bench --help | has -E -- "--$option\b" || fail "bench --help does not tell --$option"
done
"$QUERN" compile --help | has 'x86-64-v3' || fail "compile --help does not list targets"
wrong 2 "did you mean compile?" comiple
wrong 2 "unknown command 'frobnicate'" frobnicate

# ---- reading options

wrong 2 "unknown option '--thread'; did you mean --threads?" run "$model" --thread 2
wrong 2 "did you mean --temp?" run "$model" --temperature 1
wrong 2 "unknown option '--frobnicate'; see quern run --help" run "$model" --frobnicate
wrong 2 "unknown option '-x'" run "$model" -x
for number in 0 -1 abc 1.5 '' 0x10 +1 ' 1' 99999999999999999999; do
  wrong 2 "--threads: got '$number', want a whole number from 1 to 1024" run "$model" --threads "$number"
  wrong 2 "--threads: got '$number', want" run "$model" --threads="$number"
done
for number in x nan inf 0x1 1e999 -0.5 '' 1001; do
  wrong 2 "--temp: got '$number', want a number from 0 to 1000" run "$model" --temp "$number"
done
wrong 2 "--top-p: got '1.5', want a number from 0 to 1" run "$model" --top-p 1.5
wrong 2 "--numeric: got 'int4', want int8, f32 or half" compile "$model" -o "$WORK/x.qn" --numeric int4
wrong 2 "--kv-type: got 'f8', want f32, f16, bf16, int8 or int4" compile "$model" -o "$WORK/x.qn" --kv-type f8
wrong 2 "--json: got '1', want no value" run "$model" --json=1
wrong 2 "--prompt: got nothing after it, want TEXT" run "$model" --prompt
wrong 2 "got no file, want an artifact or a model file" run
wrong 2 "got 'b' too, want only a model file" compile a b -o "$WORK/x.qn"
wrong 2 "got no -o FILE" compile "$model"
wrong 2 "got an empty name" compile "$model" -o ""
wrong 2 "got the model file itself" compile "$model" -o "$QUERN_SOURCE/models/../models/nano/nano.gguf"
wrong 5 "--no-such-file" compile -q -o "$WORK/x.qn" -- --no-such-file

# ---- compile

"$QUERN" compile "$model" -o "$artifact" >"$WORK/out" 2>"$WORK/err" || fail "compile ends with $?: $(cat "$WORK/err")"
[ ! -s "$WORK/out" ] || fail "compile writes to stdout"
grep -q '^quern: .*compiled into .*nano.qn' "$WORK/err" || fail "compile does not tell its end: $(cat "$WORK/err")"
[ "$(grep -c $'\r\|\033' "$WORK/err")" -eq 0 ] || fail "compile redraws lines where stderr is no terminal"
"$QUERN" compile -q "$model" -o "$WORK/quiet.qn" 2>"$WORK/err"
[ ! -s "$WORK/err" ] || fail "compile --quiet writes: $(cat "$WORK/err")"
"$QUERN" compile -q "$model" -o "$WORK/ir.qn" --dump-ir
[ "$(find "$WORK/ir.qn.ir" -name '*.txt' | wc -l)" -ge 5 ] || fail "--dump-ir: got $(ls "$WORK/ir.qn.ir")"
"$QUERN" compile -q "$model" -o "$WORK/ir.qn" --dump-ir=lower,nonsense --dump-dir "$WORK/some" 2>"$WORK/err"
[ "$(find "$WORK/some" -type f | wc -l)" -eq "$(find "$WORK/some" -name '*_lower.txt' | wc -l)" ] ||
  fail "--dump-ir=lower: got $(ls "$WORK/some")"
grep -q "no text is called 'nonsense'" "$WORK/err" || fail "--dump-ir does not tell of unknown names: $(cat "$WORK/err")"
# One stage alone.
"$QUERN" compile -q "$model" --emit=asm >"$WORK/stage"
grep -q 'qk_matmul' "$WORK/stage" || fail "--emit=asm: $(head -3 "$WORK/stage")"
"$QUERN" compile -q "$model" --emit=mlir -o "$WORK/stage.mlir" >"$WORK/stage"
[ ! -s "$WORK/stage" ] && grep -q 'llvm.func @qk_matmul' "$WORK/stage.mlir" || fail "--emit=mlir: $(head -3 "$WORK/stage.mlir")"
"$QUERN" compile -q "$model" --emit lower | has '^kernel "qk_matmul' || fail "--emit lower"
wrong 2 "got 'nonsense', want one of: balance_keys, canonicalise, " compile -q "$model" --emit=nonsense
wrong 2 "got 'cuda', which is of GPUs, and no such target; name one (cuda:sm_90)" compile -q "$model" --emit=cuda
wrong 2 "--emit: got --dump-ir too" compile -q "$model" --emit=asm --dump-ir
"$QUERN" compile -q "$QUERN_SOURCE/frontend/examples/embed.json" --emit=object -o "$WORK/e.o" --weights "$WORK/e.weights" ||
  fail "--emit=object ends with $?"
grep -q "int scaled_norm_run(const scaled_norm_args \*args);" "$WORK/e.h" && [ "$(stat -c %s "$WORK/e.weights")" -gt 4096 ] ||
  fail "--emit=object: $(cat "$WORK/e.h")"
wrong 2 "got no -o FILE, want the object file" compile -q "$model" --emit=object
wrong 2 "--name: goes with --emit=object alone" compile -q "$model" -o "$WORK/n.qn" --name n
wrong 2 "--weights: goes with --emit=object alone" compile -q "$model" --emit=asm --weights "$WORK/w"
wrong 2 "name: got '1', want a C identifier" compile -q "$model" --emit=object -o "$WORK/n.o" --name 1
wrong 5 "no-folder/stage" compile -q "$model" --emit=asm -o "$WORK/no-folder/stage"
wrong 2 "is an artifact already" compile "$artifact" -o "$WORK/x.qn"
# Only an artifact, or an empty file, is replaced: not a template, nor a model behind a link.
cp "$QUERN_SOURCE/models/llama.json" "$WORK/own.json"
cp "$model" "$WORK/other.gguf" && ln -s other.gguf "$WORK/link.qn"
wrong 2 "own.json: is there already and no artifact (it begins with '{." compile "$model" -q -o "$WORK/own.json"
wrong 2 "(it begins with 'GGUF" compile "$model" -q -o "$WORK/link.qn"
cmp "$model" "$WORK/other.gguf" && cmp "$QUERN_SOURCE/models/llama.json" "$WORK/own.json" || fail "compile replaced a file"
: >"$WORK/quiet.qn" && "$QUERN" compile -q "$model" -o "$WORK/quiet.qn" || fail "compile onto an empty file"

# ---- run: streams and formats

"$QUERN" run "$artifact" -p "copy: k q d =" -n 20 >"$WORK/text" 2>"$WORK/err"
[ "$(cat "$WORK/text")" = " k q d" ] || fail "run: got '$(cat "$WORK/text")', want ' k q d'"
grep -q '^quern: prompt .* tokens/s.*ended: eog$' "$WORK/err" || fail "run: stderr is $(cat "$WORK/err")"
"$QUERN" run -q "$artifact" -p "copy: k q d =" -n 20 2>"$WORK/err" | cmp - "$WORK/text"
[ ! -s "$WORK/err" ] || fail "run --quiet writes: $(cat "$WORK/err")"
printf 'copy: k q d =\n' | "$QUERN" run -q "$artifact" -n 20 | cmp - "$WORK/text" || fail "the prompt from stdin"
printf 'copy: k q d =' | "$QUERN" run -q "$artifact" -p - -n 20 | cmp - "$WORK/text" || fail "the prompt from -p -"
"$QUERN" run -q "$artifact" -n20 --prompt="copy: k q d =" --temp=0 | cmp - "$WORK/text" || fail "--option=value"
"$QUERN" run -q "$artifact" </dev/null -n 5 >"$WORK/empty"
"$QUERN" run -q "$artifact" -p "" -n 5 | cmp - "$WORK/empty" || fail "an empty prompt"
[ "$("$QUERN" run -q "$artifact" -p "" -n 5)" = "$("$QUERN" run -q "$artifact" --tokens 510 -n 5)" ] ||
  fail "an empty prompt is not BOS"
"$QUERN" run -q "$artifact" -p "Once" -n 0 >"$WORK/none" && [ ! -s "$WORK/none" ] || fail "-n 0 writes text"
[ "$("$QUERN" run -q "$artifact" -p "copy: k q d =" --stop " d")" = " k q" ] || fail "--stop"
[ "$("$QUERN" run -q "$artifact" -p "copy: k q d =" --stop "zz" --stop " q")" = " k" ] || fail "--stop twice"

"$QUERN" run -q "$artifact" -p 'copy: k q d =' --json >"$WORK/json"
[ "$(wc -l <"$WORK/json")" -eq 1 ] || fail "--json: not one line"
for text in '"text": " k q d"' '"stop": "eog"' '"prompt_ids": [510, ' '"ids": [' '"ttft_ms": ' '"decode_tokens_per_s": ' \
  '"target": "' '"model": "'; do
  grep -qF "$text" "$WORK/json" || fail "--json: no $text in $(cat "$WORK/json")"
done
"$QUERN" run -q "$artifact" --tokens 34,92,10,9,0,200,255 -n 40 --temp 1.5 --seed 3 --top-k 0 --top-p 1 --min-p 0 --json \
  >"$WORK/json"
if command -v python3 >/dev/null && python3 -c 'import json' 2>/dev/null; then
  python3 -c 'import json, sys; json.load(open(sys.argv[1], encoding="utf-8"))' "$WORK/json" || fail "--json is no JSON"
fi

"$QUERN" run -q "$artifact" -p "Once" -n 3 --logits "$WORK/logits" >/dev/null
[ "$(stat -c %s "$WORK/logits")" -eq $((3 * 512 * 4)) ] || fail "--logits: $(stat -c %s "$WORK/logits") bytes, want 3 rows"
"$QUERN" run -q "$artifact" -p "Once" -n 0 --logits "$WORK/first" >/dev/null
cmp -n 2048 "$WORK/first" "$WORK/logits" || fail "--logits: row 0 depends on -n"
# A row for every token that was chosen, the one that ended the text too: 3 of text, then the end.
count=$("$QUERN" run -q "$artifact" -p "copy: k q d =" --json --logits "$WORK/logits" | grep -o '"ids": \[[^]]*' | tr -cd , | wc -c)
[ "$(stat -c %s "$WORK/logits")" -eq $(((count + 2) * 2048)) ] || fail "--logits: no row for the end of the text"
cp "$artifact" "$WORK/same.qn"
wrong 2 "--logits: got the model file itself" run -q "$WORK/same.qn" -p x --logits "$WORK/../$(basename "$WORK")/same.qn"
cmp "$artifact" "$WORK/same.qn" || fail "--logits damaged the model"

# Sampling: the same seed the same text, another seed another one.
sample() { "$QUERN" run -q "$artifact" -p "Once upon a time" -n 60 --temp 1 --seed "$1"; }
[ "$(sample 1)" = "$(sample 1)" ] || fail "one seed gives two texts"
[ "$(sample 1)" != "$(sample 2)" ] || fail "two seeds give one text"

wrong 2 "token 1: got '512', want a number from 0 to 511" run "$artifact" --tokens 1,512
wrong 2 "token 1: got '', want" run "$artifact" --tokens 1,
wrong 2 "token 0: got '0000000000000000000000" run "$artifact" --tokens 00000000000000000000000099999
wrong 2 "--target: got 'host,x86-64-v3', want one target" run "$artifact" -t host,x86-64-v3 -p x
"$QUERN" run -q "$artifact" -t host -p "copy: k q d =" | cmp - "$WORK/text" || fail "run of an artifact for the host"
wrong 2 "--tokens: got --prompt too" run "$artifact" --tokens 1 -p x
wrong 2 "--numeric: is for model files" run "$artifact" --numeric f32
wrong 2 "--jit: is for model files" run "$artifact" --jit

# An end-of-text token that the vocabulary wants after every text is not part of a text that goes on.
at=$(($(LC_ALL=C grep -obUaF tokenizer.ggml.add_eos_token "$model" | cut -d: -f1) + 28 + 4))
cp "$model" "$WORK/eos.gguf" && printf '\1' | dd of="$WORK/eos.gguf" bs=1 seek="$at" conv=notrunc status=none
"$QUERN" inspect "$WORK/eos.gguf" --what metadata | has 'add_eos_token = true' || fail "the test's own patch"
[ "$("$QUERN" run -q "$WORK/eos.gguf" -p "copy: k q d =" -n 20)" = " k q d" ] || fail "the prompt ends with EOS"

# ---- a model without a tokenizer

synth="$QUERN_BUILD/tests/quern-synth"
if [ -x "$synth" ] && "$synth" --model tiny-gpt2-test --type f32 -o "$WORK/gpt2.gguf" >/dev/null &&
  "$QUERN" compile -q "$WORK/gpt2.gguf" -o "$WORK/bare.qn" 2>/dev/null &&
  "$QUERN" inspect "$WORK/bare.qn" | has '^tokenizer = none'; then
  wrong 2 "the model has no tokenizer; give token ids with --tokens" run "$WORK/bare.qn" -p x
  [[ "$("$QUERN" run -q "$WORK/bare.qn" --tokens 1,2 -n 3)" =~ ^[0-9]+\ [0-9]+\ [0-9]+$ ]] || fail "ids without a tokenizer"
fi

# ---- streams that fail, signals

"$QUERN" run -q "$artifact" -p "Once upon a time" -n 200 2>"$WORK/err" | head -c 4 >/dev/null
codes=("${PIPESTATUS[@]}")
[ "${codes[0]}" -eq 0 ] && [ ! -s "$WORK/err" ] || fail "a closed pipe: code ${codes[0]}, $(cat "$WORK/err")"
if [ -c /dev/full ]; then
  for arguments in "run -q $artifact -p Once -n 5" "inspect $artifact" "--help" "run --help"; do
    code=0
    # shellcheck disable=SC2086
    "$QUERN" $arguments >/dev/full 2>"$WORK/err" || code=$?
    [ "$code" -eq 5 ] && grep -q 'standard output: cannot write' "$WORK/err" || fail "a full disk: $arguments: code $code"
  done
fi
"$QUERN" compile -q "$model" -o "$WORK/long.qn" --ctx 4000000
code=0
stopped INT 1 "$QUERN" run "$WORK/long.qn" -p "Once" -n 4000000 --ignore-eog --threads 1 \
  >"$WORK/text" 2>"$WORK/err" || code=$?
[ "$code" -eq 130 ] || fail "SIGINT: exit code $code, want 130: $(tail -n 1 "$WORK/err")"
[ -s "$WORK/text" ] || fail "SIGINT: the text so far is lost"
grep -q 'ended: cancelled' "$WORK/err" || fail "SIGINT: $(cat "$WORK/err")"

# While it waits for its prompt there is nothing to finish.
mkfifo "$WORK/pipe"
exec 9<>"$WORK/pipe"
code=0
stopped TERM 1 "$QUERN" run -q "$artifact" <&9 >"$WORK/text" 2>"$WORK/err" || code=$?
[ "$code" -eq 143 ] || fail "SIGTERM while the prompt is read: exit code $code, want 143"
exec 9>&-

# ---- inspect

"$QUERN" inspect "$artifact" >"$WORK/summary"
for text in '^file = artifact version [0-9]' '^target = ' '^kv_cache = ' '^arena = ' '^weights = ' '^tokenizer = bpe, 512 tokens'; do
  grep -qE "$text" "$WORK/summary" || fail "inspect: no $text"
done
for part in summary metadata sections targets memory tensors kernels graph loops; do
  [ "$("$QUERN" inspect "$artifact" --what "$part" | wc -l)" -ge 2 ] || fail "inspect --what $part"
done
"$QUERN" inspect "$artifact" -w all | grep -cE '^# [a-z]+$' | has -x 9 || fail "inspect --what all has not 9 parts"
"$QUERN" inspect "$artifact" --what kernels | has 'm_tiles = ' || fail "inspect --what kernels tells no schedule"
"$QUERN" compile -q "$model" -o "$WORK/two.qn" --target x86-64-v4,x86-64-v3 --ctx 128
"$QUERN" inspect "$WORK/two.qn" --what kernels >"$WORK/kernels"
grep -q '^  plan 1 x86-64-v3:' "$WORK/kernels" || fail "inspect --what kernels: no plan for the second target"
[ "$(grep -A3 '^  plan [01]' "$WORK/kernels" | grep -c 'm_tiles = ')" -ge 2 ] || fail "inspect: a plan without schedules"
"$QUERN" inspect "$artifact" --check-weights | has 'weights_hash = good' || fail "inspect --check-weights"
"$QUERN" inspect "$model" --what metadata | has '^tokenizer.ggml.tokens = string\[512\]' || fail "inspect of GGUF metadata"
"$QUERN" inspect "$model" --what tensors | has '^F16 .*token_embd.weight' || fail "inspect of GGUF tensors"
"$QUERN" inspect "$model" --what graph | has . || fail "inspect of a model's graph"
"$QUERN" inspect "$model" | has '^compiles = yes' || fail "inspect of a model"

# ---- verify

"$QUERN" verify -q --fast "$artifact" >"$WORK/verified" || fail "verify ends with $?"
grep -q '^OK  *qk_matmul' "$WORK/verified" || fail "verify: no product in $(cat "$WORK/verified")"
! grep -qv '^OK ' "$WORK/verified" || fail "verify: $(grep -v '^OK ' "$WORK/verified")"
"$QUERN" verify -q --fast --check-weights --json - "$artifact" >"$WORK/json" || fail "verify --json ends with $?"
grep -q '"kernels": \[{"kernel": "qk_.*"verdict": "ok".*"wrong": 0' "$WORK/json" || fail "verify --json: $(cat "$WORK/json")"
wrong 2 "got target 'z80', want one of" verify -q --target z80 "$artifact"
wrong 2 "got the artifact itself" verify -q --json "$artifact" "$artifact"
wrong 5 "$WORK/nothing" verify -q "$WORK/nothing"
wrong 5 "is a pipe" verify -q "$WORK/pipe"
wrong 3 "nano.gguf" verify -q "$model"

wrong 2 "what: got 'sumary', want summary" inspect "$artifact" --what sumary
wrong 2 "is a model file, which has no kernels" inspect "$model" --what kernels
wrong 5 "$WORK/nothing" inspect "$WORK/nothing"
wrong 5 "is a pipe" inspect "$WORK/pipe"
wrong 5 "is a pipe" compile -q "$WORK/pipe" -o "$WORK/x.qn"
pass
