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
"$QUERN" verify -q tiny.qn --fast >out 2>&1 || fail "verify: $(tail -5 out)"

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
refuses 'encoder, and what is measured are texts that go on' bench tiny.qn --prompt 8 -n 2
refuses 'encoder, and what is measured are texts that go on' eval tiny.qn --perplexity text
refuses 'encoder, and what is measured are texts that go on' explain tiny.qn
pass "source.sh"
