#!/usr/bin/env bash
# quern tokenize: tokens of a text and back, from every kind of file that has a tokenizer; its errors.
. "$(dirname "$0")/../support/e2e.sh"
need_quern
nano="$QUERN_SOURCE/models/nano/nano.gguf"
json="$QUERN_SOURCE/tests/golden/tokenizers/llama3.json"
cd "$WORK"

# wrong CODE TEXT ARGUMENT...: quern tokenize ends with CODE and one line on stderr that holds TEXT.
wrong() {
  local code=0
  "$QUERN" tokenize -q "${@:3}" >out 2>err </dev/null || code=$?
  [ "$code" -eq "$1" ] || fail "${*:3}: exit code $code, want $1: $(cat err)"
  [ "$(wc -l <err)" -eq 1 ] && [ ! -s out ] || fail "${*:3}: got: $(cat err out)"
  grep -qF -e "$2" err || fail "${*:3}: want '$2' in: $(cat err)"
}

# ---- what it prints

[ "$("$QUERN" tokenize "$json" -p 'a "b')" = '     0  "<s>"
    66  "a"
   480  " \""
    67  "b"' ] || fail "tokens: $("$QUERN" tokenize "$json" -p 'a "b')"
[ "$("$QUERN" tokenize "$json" -p 'a b' --ids)" = "0 66 222 67" ] || fail "ids: $("$QUERN" tokenize "$json" -p 'a b' --ids)"
[ "$("$QUERN" tokenize "$json" -p 'a b' --ids --bare)" = "66 222 67" ] || fail "--bare"
[ "$("$QUERN" tokenize "$json" -p 'a b' --count)" = 4 ] || fail "--count"
[ "$(printf 'a b\n' | "$QUERN" tokenize -q "$json" --count)" = 4 ] || fail "standard input"
printf 'a b\n' >text
[ "$("$QUERN" tokenize "$json" -f text --ids)" = "0 66 222 67 200" ] || fail "a file's newline belongs to it"
[ "$("$QUERN" tokenize "$json" -p '<|end|>' --count --bare)" -gt 1 ] || fail "plain text became a control token"
[ "$("$QUERN" tokenize "$json" -p '<|end|>' --ids --bare --special)" = 1 ] || fail "--special"
"$QUERN" tokenize "$json" -p 'a' --json |
  grep -qx '{"kind": "bpe", "vocabulary": 700, "count": 2, "ids": \[0, 66\], "pieces": \["<s>", "a"\]}' || fail "--json"

# ---- the other way

[ "$("$QUERN" tokenize "$json" --decode -p '0, 66 222 67')" = "a b" ] || fail "--decode"
[ "$("$QUERN" tokenize "$json" --decode --special -p '0 66')" = "<s>a" ] || fail "--decode --special"
"$QUERN" tokenize "$json" --decode --json -p '66' | has '"text": "a", "ids": \[66\]' || fail "--decode --json"
text='Grüße, "Welt"! 日本語 🦙'
for file in "$json" "$QUERN_SOURCE/tests/golden/tokenizers/llama2.json" "$nano"; do
  [ "$("$QUERN" tokenize "$file" -p "$text" --ids | "$QUERN" tokenize -q "$file" --decode)" = "$text" ] || fail "$file: back"
done

# ---- every kind of file

mkdir folder
cp "$json" folder/tokenizer.json
[ "$("$QUERN" tokenize folder -p 'a b' --ids)" = "0 66 222 67" ] || fail "a folder"
"$QUERN" tokenize "$QUERN_SOURCE/tests/golden/tokenizers/spm-bpe.model" -p 'a b' --json | has '"kind": "spm"' || fail "a tokenizer.model"
"$QUERN" compile -q "$nano" -o nano.qn
[ "$("$QUERN" tokenize nano.qn -p "$text" --ids)" = "$("$QUERN" tokenize "$nano" -p "$text" --ids)" ] || fail "an artifact"

# ---- a folder with a model and a tokenizer

cp -r "$QUERN_SOURCE/tests/golden/models/llama" model && chmod -R u+w model
echo '{"model": {"type": "BPE", "vocab": {"a": 0, "<s>": 1, "</s>": 2, "b": 3, "ab": 4}, "merges": ["a b"]}, "added_tokens":
  [{"id": 1, "content": "<s>", "special": true}], "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken":
  {"id": "<s>"}}, {"Sequence": {"id": "A"}}], "special_tokens": {"<s>": {"ids": [1]}}}}' >model/tokenizer.json
echo '{"bos_token": "<s>", "eos_token": "</s>"}' >model/tokenizer_config.json
"$QUERN" compile -q model -o model.qn
"$QUERN" inspect model.qn | has -x 'tokenizer = bpe, 5 tokens, bos 1 "<s>", eos 2 "</s>", prompts begin with bos' ||
  fail "inspect: $("$QUERN" inspect model.qn | grep tokenizer)"
[ "$("$QUERN" tokenize model.qn -p abba --ids)" = "1 4 3 0" ] || fail "the model's tokenizer"
"$QUERN" run -q model.qn -p abba -n 3 --json | has '"prompt_ids": \[1, 4, 3, 0\]' || fail "run: $("$QUERN" run -q model.qn -p abba -n 3 --json)"
cp "$json" model/tokenizer.json && rm model/tokenizer_config.json
code=0
"$QUERN" compile -q model -o bad.qn 2>err || code=$?
[ "$code" -eq 3 ] && grep -q 'the tokenizer has 700 tokens, want at most [0-9]*, the rows' err && [ ! -e bad.qn ] ||
  fail "a tokenizer with more tokens than the model: code $code, $(cat err)"

# ---- errors

wrong 5 "no-such" no-such -p x
wrong 4 "has neither tokenizer.json nor tokenizer.model" "$WORK" -p x
echo '{"model": {"type": "BPE"}}' >bad.json
wrong 3 "bad.json: model.vocab: want an object" bad.json -p x
echo 'no tokenizer' >bad.txt
wrong 3 "bad.txt: 1:1: not JSON" bad.txt -p x
sed 's/"type":"Split"/"type":"Slit"/' "$json" >bad.json
wrong 4 "bad.json: pre_tokenizer.pretokenizers[0]: got a pre-tokenizer of type 'Slit', want one of" bad.json -p x
bare=$(find "$QUERN_SOURCE/tests/golden/models" -name model.gguf | head -n 1)
[ -n "$bare" ] || fail "no model without a tokenizer among the goldens"
wrong 4 "this model has no tokenizer (tokenizer.ggml.model)" "$bare" -p x
rm model/tokenizer.json
"$QUERN" compile -q model -o bare.qn
wrong 4 "bare.qn: this artifact has no tokenizer" bare.qn -p x
wrong 2 "--file: got --prompt too, want one of them" "$json" -p x -f text
wrong 5 "--file" "$json" -f no-such
wrong 2 "--decode: token 1: got '700', want a number from 0 to 699" "$json" --decode -p '1 700'
wrong 2 "--decode: token 0: got 'x', want a number" "$json" --decode -p 'x'
pass "tokenize"
