#!/usr/bin/env bash
# A model with an encoder through the program: the prompt is what the encoder reads, with the end-of-text token that its
# tokenizer adds; what is for texts that go on says so.
. "$(dirname "$0")/../support/e2e.sh"
need_quern
cp -r "$QUERN_SOURCE/tests/golden/models/t5_gated" "$WORK/tiny"
cd "$WORK"
rm -f tiny/model.gguf tiny/expected.safetensors
{
  printf '{"version": "1.0", "truncation": null, "padding": null, "added_tokens": ['
  id=0
  for special in '<pad>' '</s>' '<unk>'; do
    printf '%s{"id": %d, "content": "%s", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}' \
      "$([ $id -gt 0 ] && echo ,)" $id "$special"
    id=$((id + 1))
  done
  printf '], "normalizer": null, "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},'
  printf '"post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],'
  printf '"pair": [], "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}},'
  printf '"decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},'
  printf '"model": {"type": "Unigram", "unk_id": 2, "byte_fallback": false, "vocab": [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["▁", -2.0]'
  for piece in {a..z} ▁{a..z} er on in th; do printf ', ["%s", -3.5]' "$piece"; done
  printf ']}}\n'
} >tiny/tokenizer.json

"$QUERN" compile -q tiny -o tiny.qn --ctx 128
"$QUERN" run -q tiny.qn -p 'the old inn' -n 6 --json >first || fail "run: $(cat first)"
grep -q '"prompt_ids": *\[[0-9, ]*, *1\]' first || fail "the prompt ends with </s>: $(cat first)"
ids=$(tr -d ' \n' <first | sed 's/.*"prompt_ids":\[\([0-9,]*\)\].*/\1/')
made=$(tr -d ' \n' <first | sed 's/.*"ids":\[\([0-9,]*\)\],"prompt_ids.*/\1/')
[ "$("$QUERN" run -q tiny.qn --tokens "$ids" -n 6 --json | tr -d ' \n' | sed 's/.*"ids":\[\([0-9,]*\)\],"prompt_ids.*/\1/')" = "$made" ] ||
  fail "the same tokens by --tokens give others than $made"
[ "$("$QUERN" run -q tiny --jit --tokens "$ids" -n 6 --json | tr -d ' \n' | sed 's/.*"ids":\[\([0-9,]*\)\],"prompt_ids.*/\1/')" = "$made" ] ||
  fail "the JIT gives others than $made"
"$QUERN" run -q tiny.qn -p 'the old inn' -n 6 --ignore-eog --logits logits >/dev/null
[ "$(wc -c <logits)" -eq $((6 * 64 * 4)) ] || fail "logits: $(wc -c <logits) bytes"
"$QUERN" run -q tiny.qn -p 'the old inn' -n 0 || fail "run -n 0"
"$QUERN" inspect tiny.qn --what summary,graph >out || fail "inspect: $(cat out)"
[ "$(grep -c 'cache {kind="k"' out)" -eq 5 ] || fail "the encoder's layers share a cache, two layers of the decoder have two each: $(grep 'cache {' out)"
"$QUERN" bench -q tiny.qn --prompt 8,40 -n 3 --depth 0,5 --reps 1 --json bench.json >out || fail "bench: $(cat out)"
grep -q '^ *source  *threads' out && grep -q '^decoding looks at a source of 40 tokens' out || fail "bench: $(cat out)"
grep -q '"prefill": {"tokens": 40,' bench.json && ! grep -q '"mbu"\|"mfu"' bench.json || fail "bench --json: $(cat bench.json)"
"$QUERN" bench -q tiny.qn --against tiny.qn --prompt 8 -n 3 --reps 1 >out || fail "bench --against: $(cat out)"
"$QUERN" tune -q tiny --budget 1s --db tuned.db >out || fail "tune: $(cat out)"
"$QUERN" verify -q tiny.qn --fast >out 2>&1 || fail "verify: $(tail -5 out)"

# ---- how good it is

# The perplexity of a target given its source, by hand: a token that was drawn, as a text, and the end after it.
for seed in $(seq 40); do
  "$QUERN" run -q tiny.qn -p 'the old inn' -n 2 --ignore-eog --temp 1 --seed "$seed" --logits rows --json >drawn
  first=$(tr -d ' \n' <drawn | sed 's/.*"ids":\[\([0-9]*\),.*/\1/')
  word=$("$QUERN" tokenize tiny.qn --decode -p "$first")
  [ "$("$QUERN" tokenize tiny.qn --ids -p "$word")" != "$first 1" ] || break
done
[ "$seed" -lt 40 ] || fail "no token is a text of its own"
printf 'the old inn\t%s\n\n' "$word" >pairs
want=$(od -An -v -tf4 -w4 rows | awk -v first="$first" '{ x[NR - 1] = $1 }
  END { for (r = 0; r < 2; r++) { s = 0; for (i = 0; i < 64; i++) s += exp(x[64 * r + i]); sum += log(s) - x[64 * r + (r ? 1 : first)] }
        print exp(sum / 2) }')
"$QUERN" eval -q tiny.qn --perplexity pairs --lines >out || fail "eval: $(cat out)"
awk -v want="$want" '{ gsub(",", ""); exit !(NR == 1 && $2 / want < 1.0001 && $2 / want > 0.9999 && $6 == 2 && $9 == 1) }' out ||
  fail "perplexity: got $(cat out), want $want of 2 tokens of 1 text"
printf 'the old inn\t%s\nan other one\ta b c\n' "$word" >pairs
"$QUERN" eval -q tiny --perplexity pairs --lines --ctx 128 -j 1 >got || fail "eval of a model file: $(cat got)"
"$QUERN" eval -q tiny.qn --perplexity pairs --lines | cmp - got || fail "all logits or one a step: $(cat got)"
# What a case has wrong is what run writes; the random model ends no text by itself.
printf 'inns\tthe old inn\tinn\n' >cases
"$QUERN" eval tiny.qn --tasks cases >out 2>err || fail "eval --tasks: $(cat err)"
text=$("$QUERN" run -q tiny.qn -p 'the old inn' -n "$((2 * $("$QUERN" tokenize tiny.qn --bare --count -p inn) + 16))")
grep -qE '^inns +0 of +1 right' out && grep -qF "'the old inn' gave '$text', want 'inn'" err || fail "eval --tasks: $(cat out err), want '$text'"

# ---- how fast it is

"$QUERN" machine -q --budget 0 >/dev/null || fail "quern machine ends with $?"
"$QUERN" explain -q tiny.qn --prompt 9 --depth 4 --reps 1 --threads 2 --json one.json --html page.html >out || fail "explain: $(cat out)"
grep -q '^source, 9 tokens after 0 keys: ' out && grep -q '^decode, 1 token after 4 keys: ' out && ! grep -q prefill out one.json page.html ||
  fail "explain: $(cat out)"
grep -q '<h2>Source</h2>' page.html && grep -q 'Squares: source (s1, s2, …); circles: decode (d1, d2, …);' page.html || fail "the page of explain"
"$QUERN" explain -q tiny --device cuda:sm_90 --prompt 9 --depth 4 --json two.json >out || fail "explain --device: $(cat out)"
grep -q '^source, 9 tokens after 0 keys: ' out || fail "explain --device: $(cat out)"
"$QUERN" explain -q tiny.qn --prompt 9 --depth 4 --reps 1 --against one.json >out || fail "explain --against: $(cat out)"
grep -q '^source against one.json: ' out && ! grep -q 'not the same work' out || fail "explain --against: $(cat out)"

# On a GPU: the same tokens and the same bits, by the device's choice and by the host's.
gpu=", without GPUs"
if compiled_for_gpu tiny -o gpu.qn --ctx 128; then
  gpu=""
  for options in "" "--temp 1 --seed 5" "--temp 1 --seed 5 --repeat-penalty 1.3"; do
    # shellcheck disable=SC2086
    "$QUERN" run -q tiny.qn --tokens "$ids" -n 6 --ignore-eog --json $options | grep -o '"ids": *\[[0-9, ]*\]' >want
    # shellcheck disable=SC2086
    "$QUERN" run -q gpu.qn --tokens "$ids" -n 6 --ignore-eog --json $options --device cuda >got || fail "run $options on a GPU: code $?"
    grep -o '"ids": *\[[0-9, ]*\]' got | cmp - want || fail "run $options on a GPU: $(cat got), want $(cat want)"
  done
  "$QUERN" run -q gpu.qn -p 'the old inn' -n 6 --ignore-eog --logits there --device cuda >/dev/null
  cmp there logits || fail "other logits on a GPU"
  "$QUERN" verify -q gpu.qn --fast --device cuda >out 2>&1 || fail "verify on a GPU: $(tail -5 out)"
fi

# refuses CODE TEXT ARGUMENT...
refuses() {
  local code=$1 want=$2
  shift 2
  local status=0
  "$QUERN" "$@" >out 2>err </dev/null || status=$?
  [ $status -eq "$code" ] || fail "$*: want exit status $code, got $status: $(cat out err)"
  grep -q "$want" err || fail "$*: want '$want' in: $(cat err)"
}
echo 'the old inn' >text
refuses 4 'encoder, which reads each text anew' run tiny.qn --chat --chat-template '{{ messages[0].content }}'
refuses 4 'has an encoder, and tokens are guessed of texts that go on' bench tiny.qn --speculate lookup
refuses 4 'has an encoder, and --trace replays requests for texts that go on' bench tiny.qn --trace poisson:5
refuses 4 'has an encoder, and tokens are guessed of texts that go on; leave --speculate out' eval tiny.qn --tasks cases --speculate lookup
refuses 2 'perplexity: the model has an encoder; give --lines, and in each line a source and its target' eval tiny.qn --perplexity text
refuses 2 'stride: is of texts that go on, got a model with an encoder' eval tiny.qn --perplexity pairs --lines --stride 3
refuses 3 "text:1: got 'the old inn', want a source and a target with a tab between" eval tiny.qn --perplexity text --lines
printf 'a\ta\na\ta b c d\n' >long
refuses 8 'long:2: the target has 5 tokens, want at most 4 (--ctx)' eval tiny.qn --perplexity long --lines --ctx 4
{ printf 'a\ta\n'; printf 'a %.0s' $(seq 200); printf '\ta\n'; } >sources
refuses 8 '^quern: .*sources:2: .*got a source of [0-9]* tokens, want 1 to 128' eval tiny.qn --perplexity sources --lines
sed 's/^/some\t/' sources >cases
refuses 8 '^quern: .*cases:2: .*got a source of [0-9]* tokens, want 1 to 128' eval tiny.qn --tasks cases
refuses 8 'want a context of at most 128 tokens' explain tiny.qn --prompt 129
refuses 8 'want a context of at most 128 tokens' explain tiny.qn --prompt 9 --depth 128
pass "source.sh$gpu"
