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

refuses() {
  local want=$1
  shift
  local status=0
  "$QUERN" "$@" >out 2>err </dev/null || status=$?
  [ $status -eq 4 ] || fail "$*: want exit status 4, got: $(cat out err)"
  grep -q "$want" err || fail "$*: want '$want' in: $(cat err)"
}
echo 'the old inn' >text
refuses 'encoder, which reads each text anew' run tiny.qn --chat --chat-template '{{ messages[0].content }}'
refuses 'has an encoder, and tokens are guessed of texts that go on' bench tiny.qn --speculate lookup
refuses 'has an encoder, and --trace replays requests for texts that go on' bench tiny.qn --trace poisson:5
refuses 'encoder, and what is measured are texts that go on' eval tiny.qn --perplexity text
refuses 'has an encoder, and what is explained are texts that go on; quern bench' explain tiny.qn
refuses 'encoder, and what is predicted are texts that go on' explain tiny --device cuda:sm_90
pass "source.sh$gpu"
