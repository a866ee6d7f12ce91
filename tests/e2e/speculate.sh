#!/usr/bin/env bash
# Guesses on the committed model: the text is that of plain decoding whatever guesses, greedy and sampled, in runs and in
# chats; how many tokens a step gives; and what is refused.
. "$(dirname "$0")/../support/e2e.sh"
need_quern
nano="$QUERN_SOURCE/models/nano/nano.gguf" draft="$QUERN_SOURCE/models/nano/draft.gguf"
heads="$QUERN_SOURCE/models/nano/medusa"
[ -r "$nano" ] && [ -r "$draft" ] || skip "models/nano is not there"
"$QUERN" compile -q "$nano" --batch 8 -o "$WORK/nano.qn"
"$QUERN" compile -q "$nano" --batch 16 --guesses --chunk 32 -o "$WORK/tree.qn"
"$QUERN" compile -q "$draft" --batch 9 -o "$WORK/draft.qn"
"$QUERN" compile -q "$heads" -o "$WORK/medusa.qn"

"$QUERN" inspect "$WORK/tree.qn" --batch 1 --ctx 256 >"$WORK/kv"
grep -qF "kv_pages = 34: 1 sequences of 256 tokens, and 2 for each of 15 paths of guesses" "$WORK/kv" || fail "$(cat "$WORK/kv")"

# Guesses of chains, and of trees: MODEL TECHNIQUE.
techniques=("nano lookup" "nano draft:$WORK/draft.qn" "nano lookahead" "tree draft:$WORK/draft.qn" "tree medusa:$WORK/medusa.qn" "tree lookahead")
# same_text PROMPT DRAFT-TOKENS OPTION...
same_text() {
  "$QUERN" run -q "$WORK/nano.qn" -p "$1" -n 100 "${@:3}" >"$WORK/plain"
  for technique in "${techniques[@]}"; do
    "$QUERN" run -q "$WORK/${technique% *}.qn" -p "$1" -n 100 "${@:3}" --speculate "${technique#* }" --draft-tokens "$2" \
      >"$WORK/guessed" || fail "--speculate $technique ends with $?"
    cmp "$WORK/plain" "$WORK/guessed" >&2 || fail "--speculate $technique ${*:2}: another text"
  done
}
same_text "Once upon a time" auto
same_text "copy: q w e r t =" 7
same_text "Once upon a time" 7 --temp 0.8 --seed 7
same_text "Long ago" 3 --temp 1.2 --seed 3 --repeat-penalty 1.2

# at_least TECHNIQUE LEAST PROMPT: so many tokens a step of the model.
at_least() {
  "$QUERN" run -q "$WORK/tree.qn" -p "$3" --speculate "$1" --draft-tokens 7 --json >"$WORK/json"
  awk -v least="$2" '{ if (match($0, /"tokens_per_pass": [0-9.]+/) && substr($0, RSTART + 19, RLENGTH - 19) + 0 >= least) ok = 1 }
    END { exit !ok }' "$WORK/json" || fail "$1 on '$3': want at least $2 tokens a step: $(grep -o '"speculation.*' "$WORK/json")"
}
at_least "draft:$WORK/draft.qn" 2.5 "Once upon a time"
at_least "draft:$WORK/draft.qn" 2.5 "sort: q w e r t ="
at_least lookup 3 "copy: q w e r t y u ="
at_least "medusa:$WORK/medusa.qn" 2.5 "Once upon a time"
at_least "medusa:$WORK/medusa.qn" 1.5 "sort: q w e r t ="
at_least lookahead 3 "copy: q w e r t y u ="

# The rejection scheme takes more of a draft's guesses; greedy it says the same.
"$QUERN" run -q "$WORK/nano.qn" -p "Once upon a time" -n 100 --temp 1.5 --top-k 0 --seed 3 --speculate "draft:$WORK/draft.qn" --draft-tokens 4 \
  --accept rejection --json >"$WORK/json"
grep -q '"accepted": [1-9]' "$WORK/json" || fail "the rejection scheme takes nothing: $(cat "$WORK/json")"
"$QUERN" run -q "$WORK/nano.qn" -p "Long ago" -n 40 >"$WORK/plain"
"$QUERN" run -q "$WORK/nano.qn" -p "Long ago" -n 40 --speculate "draft:$WORK/draft.qn" --accept rejection >"$WORK/guessed"
cmp "$WORK/plain" "$WORK/guessed" >&2 || fail "--accept rejection: another greedy text"

# A conversation: what was said before is known to the guesses, too.
chat='{% for m in messages %}{{ m.content }}{% endfor %}'
n=0
printf 'copy: a b c =\ncopy: d e f =\n' >"$WORK/messages"
for speculate in "" "--speculate lookup" "--speculate draft:$WORK/draft.qn"; do
  # shellcheck disable=SC2086
  "$QUERN" run -q "$WORK/nano.qn" --chat --chat-template "$chat" -n 20 $speculate <"$WORK/messages" >"$WORK/chat$n"
  n=$((n + 1))
done
cmp "$WORK/chat0" "$WORK/chat1" >&2 && cmp "$WORK/chat0" "$WORK/chat2" >&2 || fail "a chat becomes another one by guesses"

# refuses CODE TEXT OPTION...
refuses() {
  local code=0
  "$QUERN" run -q "$WORK/nano.qn" -p x "${@:3}" 2>"$WORK/err" >"$WORK/out" || code=$?
  [ "$code" -eq "$1" ] && grep -qF -- "$2" "$WORK/err" || fail "${*:3}: got $code: $(cat "$WORK/err"), want $1: $2"
}
refuses 2 "--speculate: got 'luck', want lookup|draft:FILE|medusa:FILE|lookahead" --speculate luck
refuses 2 "--speculate: got 'medusa'" --speculate medusa
refuses 4 "does not give the hidden states that heads guess from; compile it with --guesses" --speculate "medusa:$WORK/medusa.qn"
refuses 5 "none.qn" --speculate "medusa:$WORK/none.qn"
refuses 2 "--speculate: got 'draft:'" --speculate draft:
refuses 2 "--speculate: got 'lookup:x'" --speculate lookup:x
refuses 2 "--accept: is for --speculate" --accept same
refuses 2 "--draft-tokens: is for --speculate" --draft-tokens 3
refuses 2 "--draft-tokens: got '0', want auto or a number from 1 to 64" --speculate lookup --draft-tokens 0
refuses 8 "got 8 guesses to verify in a step, but the artifact computes the logits of 8 tokens a step" \
  --speculate lookup --draft-tokens 8
refuses 5 "none.qn" --speculate "draft:$WORK/none.qn"
if other=$(shared_model models/stories260K/stories260K.gguf 2>"$WORK/unused"); then
  refuses 2 "of the draft model is" --speculate "draft:$other"
fi
# In caches of codes, too: those of several sequences are written alike.
"$QUERN" compile -q "$nano" --batch 8 --guesses --kv-type int8 -o "$WORK/codes.qn"
"$QUERN" run -q "$WORK/codes.qn" -p "Long ago" -n 100 --temp 0.9 --seed 2 >"$WORK/plain"
"$QUERN" run -q "$WORK/codes.qn" -p "Long ago" -n 100 --temp 0.9 --seed 2 --speculate "medusa:$WORK/medusa.qn" \
  --draft-tokens 7 >"$WORK/guessed" || fail "guesses in int8 end with $?"
cmp "$WORK/plain" "$WORK/guessed" >&2 || fail "guesses change the text of an int8 cache"

# Heads for another width, for another vocabulary (whose sizes are told by the tensors alone), fewer than config.json says.
refuses_heads() { # MODEL HEADS CODE TEXT
  local code=0
  "$QUERN" run -q "$1" -p x --speculate "medusa:$2" 2>"$WORK/err" >"$WORK/out" || code=$?
  [ "$code" -eq "$3" ] && grep -qF -- "$4" "$WORK/err" || fail "heads $2: got $code: $(cat "$WORK/err"), want $3: $4"
}
"$QUERN" compile -q "$draft" --batch 4 --guesses -o "$WORK/narrow.qn"
refuses_heads "$WORK/narrow.qn" "$WORK/medusa.qn" 2 "the heads are for hidden states of 256 numbers, want the model's 96"
refuses_heads "$WORK/tree.qn" "$WORK/draft.qn" 2 "has no input 'hidden' of f32 [R, width], want Medusa heads"
header='{"medusa_head.0.0.linear.weight":{"dtype":"F16","shape":[256,256],"data_offsets":[0,131072]},'
header+='"medusa_head.0.0.linear.bias":{"dtype":"F16","shape":[256],"data_offsets":[131072,131584]},'
header+='"medusa_head.0.1.weight":{"dtype":"F16","shape":[8,256],"data_offsets":[131584,135680]}}'
mkdir "$WORK/few" && echo '{"medusa_num_heads": 1, "medusa_num_layers": 1}' >"$WORK/few/config.json"
{
  printf "\\x$(printf %02x $((${#header} % 256)))\\x$(printf %02x $((${#header} / 256)))\\0\\0\\0\\0\\0\\0%s" "$header"
  head -c 135680 /dev/zero
} >"$WORK/few/medusa_lm_head.safetensors"
refuses_heads "$WORK/tree.qn" "$WORK/few" 2 "head 0 has a vocabulary of 8 tokens, want the model's 512"
echo '{"medusa_num_heads": 2, "medusa_num_layers": 1}' >"$WORK/few/config.json"
refuses_heads "$WORK/tree.qn" "$WORK/few" 3 "medusa_head.1.0.linear.weight"
code=0
"$QUERN" compile -q "$heads" --guesses -o "$WORK/x.qn" 2>"$WORK/err" || code=$?
[ "$code" -eq 4 ] && grep -qF "has no output 'logits', want a language model to guess for" "$WORK/err" ||
  fail "heads with --guesses: got $code: $(cat "$WORK/err")"

code=0
"$QUERN" compile -q "$draft" -o "$WORK/one.qn"
"$QUERN" run -q "$WORK/one.qn" -p x --speculate lookup 2>"$WORK/err" || code=$?
[ "$code" -eq 8 ] && grep -qF "compile it with --batch 8" "$WORK/err" || fail "one row: got $code: $(cat "$WORK/err")"

# Several texts from one prompt: each is what its seed gives alone, whatever guesses, and the prompt is evaluated once; the
# ninth waits for a sequence.
for seed in 7 11 15; do
  echo "--- seed $seed"
  "$QUERN" run -q "$WORK/nano.qn" -p "Once upon a time" -n 30 --temp 0.9 --seed $seed
done >"$WORK/alone"
for speculate in "" "--speculate lookup"; do
  # shellcheck disable=SC2086
  "$QUERN" run -q "$WORK/nano.qn" -p "Once upon a time" -n 30 --temp 0.9 --seed 7 --samples 9 $speculate >"$WORK/samples" ||
    fail "--samples ends with $?"
  [ "$(grep -cxF -f "$WORK/alone" "$WORK/samples")" -eq "$(wc -l <"$WORK/alone")" ] ||
    fail "--samples $speculate: got $(cat "$WORK/samples"), want among it $(cat "$WORK/alone")"
done
"$QUERN" run -q "$WORK/nano.qn" -p "Once upon a time" -n 30 --temp 0.9 --seed 7 --samples 9 --json >"$WORK/json"
prompt=$(grep -o '"prompt_ids": \[[^]]*' "$WORK/json" | tr -cd , | wc -c)  # its tokens but the last
grep -q "\"prompt_tokens\": $((prompt + 9))," "$WORK/json" || fail "the prompt is evaluated again: $(cat "$WORK/json")"
# With guesses that branch, several of a step.
for speculate in "draft:$draft" "medusa:$heads" lookahead; do
  "$QUERN" run -q "$WORK/tree.qn" -p "Once upon a time" -n 30 --temp 0.9 --seed 7 --samples 9 --speculate "$speculate" --draft-tokens 3 \
    >"$WORK/samples" || fail "--samples --speculate $speculate ends with $?"
  [ "$(grep -cxF -f "$WORK/alone" "$WORK/samples")" -eq "$(wc -l <"$WORK/alone")" ] ||
    fail "--samples --speculate $speculate: got $(cat "$WORK/samples"), want among it $(cat "$WORK/alone")"
  "$QUERN" run -q "$WORK/tree.qn" -p "Once upon a time" -n 30 --samples 3 --speculate "$speculate" --draft-tokens 3 --json >"$WORK/json"
  grep -q '"accepted": [1-9]' "$WORK/json" || fail "$speculate guesses nothing: $(cat "$WORK/json")"
done
refuses 2 "--samples: makes no sense with --chat" --samples 2 --chat
refuses 2 "--samples: got -n 0" --samples 2 -n 0
refuses 2 "--logits: is of one text" --samples 2 --logits "$WORK/logits"
refuses 4 "does not give the hidden states that heads guess from; compile it with --guesses" --samples 2 --speculate "medusa:$WORK/medusa.qn"
"$QUERN" run -q "$WORK/nano.qn" -p Once -n 1 --temp 1 --seed 18446744073709551615 --samples 2 --json >"$WORK/json"
grep -q '"seed": 18446744073709551615,.*"seed": 0,' "$WORK/json" || fail "the largest seed: $(cat "$WORK/json")"
code=0
"$QUERN" run -q "$WORK/medusa.qn" --tokens 1 2>"$WORK/err" || code=$?
[ "$code" -eq 4 ] && grep -q "is no language model" "$WORK/err" || fail "run of heads: got $code: $(cat "$WORK/err")"
# Whoever waits for a sequence when Ctrl-C comes is not begun.
code=0
stopped INT 2 "$QUERN" run -q "$WORK/nano.qn" -p Once -n 200 --ignore-eog --samples 4096 --json >"$WORK/json" 2>"$WORK/err" || code=$?
[ "$code" -eq 130 ] || fail "SIGINT: exit code $code, want 130: $(cat "$WORK/err")"
grep -q '"seed": 4095, "text": "", "ids": \[\], "stop": "cancelled"' "$WORK/json" || fail "SIGINT: $(tail -c 600 "$WORK/json")"

# Where the program itself chooses the tokens, of every row that verifies a guess, too: on the simulator of GPUs.
code=0
"$QUERN" compile -q "$draft" --target cuda:sm_80 --batch 5 --guesses -o "$WORK/gpu.qn" 2>"$WORK/err" || code=$?
if [ "$code" -eq 7 ]; then
  echo "no NVRTC here: nothing is guessed on GPUs"
else
  [ "$code" -eq 0 ] || fail "compiling for GPUs ends with $code: $(cat "$WORK/err")"
  for speculate in "" "--speculate lookup --draft-tokens 3" "--speculate draft:$WORK/gpu.qn --draft-tokens 4"; do
    # shellcheck disable=SC2086
    "$QUERN" run "$WORK/gpu.qn" --device cuda --libcuda "$QUERN_BUILD/ptxsim/libcuda.so.1" -p "copy: a b c d =" -n 12 \
      --ignore-eog --temp 0.7 --seed 3 $speculate >"$WORK/gpu" 2>"$WORK/err" || fail "a GPU: $(cat "$WORK/err")"
    [ -n "$speculate" ] || mv "$WORK/gpu" "$WORK/gpu0"
    [ -z "$speculate" ] || cmp "$WORK/gpu0" "$WORK/gpu" >&2 || fail "$speculate changes what a GPU says"
  done
  grep -q "guesses came true" "$WORK/err" || fail "nothing was guessed: $(cat "$WORK/err")"
fi
pass
