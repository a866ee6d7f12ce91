#!/usr/bin/env bash
# A folder of the Hugging Face world through the program: compile, emit, quantise, inspect, and the cache, whose key is
# made of all files.
. "$(dirname "$0")/../support/e2e.sh"
need_quern
cp -r "$QUERN_SOURCE/tests/golden/models/llama" "$WORK/tiny"
rm -f "$WORK/tiny/model.gguf" "$WORK/tiny/expected.safetensors"
cd "$WORK"
"$QUERN" compile -q tiny -o folder.qn
"$QUERN" compile -q tiny/model.safetensors -o file.qn
(cd tiny && "$QUERN" compile -q . -o ../dot.qn)
"$QUERN" inspect folder.qn >summary
grep -q '^model = tiny$' summary || fail "the model's name: $(cat summary)"
"$QUERN" inspect dot.qn | has '^model = tiny$' || fail "the model's name, of '.'"
"$QUERN" compile -q tiny -o quantised.qn --quant q4_0
"$QUERN" inspect quantised.qn --what metadata >text
grep -q '^quantised_to = q4_0$' text || fail "--quant: $(cat text)"
"$QUERN" compile -q tiny --emit=canonicalise -o graph.txt
grep -q 'model.layers.1.mlp.down_proj.weight' graph.txt || fail "--emit: $(head -5 graph.txt)"

"$QUERN" inspect tiny --what summary,metadata,tensors,graph >text
for want in 'file = safetensors, 1 file' 'compiles = yes' 'architecture = llama' 'rope_parameters.rope_theta = 5000' \
  'BF16   \[112,48\]' 'graph "llama"'; do
  grep -q "$want" text || fail "inspect: want '$want' in: $(head -40 text)"
done

# What is null in config.json is off; what is not there has the reference's default.
cp -r "$QUERN_SOURCE/tests/golden/models/gemma2" gemma2
sed -i 's/"attn_logit_softcapping": [0-9.]*/"attn_logit_softcapping": null/; /"final_logit_softcapping"/d' gemma2/config.json
"$QUERN" inspect gemma2 --what summary,metadata >text
for want in 'score_cap = 0' 'logit_cap = 30' 'window = 41' 'attn_logit_softcapping = null'; do
  grep -q "^$want$" text || fail "null: want '$want' in: $(cat text)"
done

# What generation_config.json says of sampling holds where no option says else.
cp -r tiny says
echo '{"do_sample": true, "temperature": 1.5, "top_k": 30, "top_p": 0.9, "repetition_penalty": 1.1, "max_new_tokens": 12}' >says/generation_config.json
ids() { "$QUERN" run "$@" --tokens 5,6,7 --ignore-eog --json 2>told | tr -d ' \n' | sed 's/.*"ids":\[\([0-9,]*\)\],"prompt_ids.*/\1/'; }
"$QUERN" compile -q says -o says.qn
"$QUERN" inspect says.qn | has '^sampling.temperature = 1.5$' || fail "inspect: $("$QUERN" inspect says.qn)"
"$QUERN" inspect says | has '^sampling.max_tokens = 12$' || fail "inspect: $("$QUERN" inspect says)"
said=$(ids says.qn)
grep -q "say: --temp 1.5 --top-k 30 --top-p 0.9 --min-p 0 --repeat-penalty 1.1 --repeat-last 1048576$" told || fail "what is told: $(cat told)"
[ "$(tr , '\n' <<<"$said" | wc -l)" -eq 12 ] || fail "max_new_tokens: got $said"
how=(--temp 1.5 --top-k 30 --top-p 0.9 --min-p 0 --repeat-penalty 1.1 --repeat-last 1048576)
[ "$(ids folder.qn -n 12 "${how[@]}")" = "$said" ] || fail "the same by options: want $said"
[ "$(ids says.qn --temp 0 --repeat-penalty 1)" = "$(ids folder.qn -n 12)" ] || fail "options come first"
[ "$(ids says.qn -n 3)" = "$(cut -d, -f1-3 <<<"$said")" ] || fail "-n comes first"

# A link to nothing is a file that cannot be read, not one that is not there.
for file in generation_config.json tokenizer_config.json tokenizer.json chat_template.jinja; do
  ln -sf /nowhere/at/all "says/$file"
  code=0
  "$QUERN" compile -q says -o none.qn >out 2>err || code=$?
  [ "$code" -eq 5 ] && grep -qF "$file: cannot open: No such file or directory" err || fail "a link to nothing, $file: code $code, $(cat err)"
  rm "says/$file"
done

# The cache: once compiled, then taken, until a file of the folder changes. (The tiny model has no tokenizer, which is
# told after it was compiled.)
cached() {
  "$QUERN" run "$1" -p x >out 2>err && fail "run $1: want an error, there is no tokenizer"
  grep -q 'tokenizer' err || fail "run $1: $(cat err)"
  find "$XDG_CACHE_HOME/quern" -name '*.qn' | wc -l
}
[ "$(cached tiny)" -eq 1 ] || fail "the cache has: $(ls "$XDG_CACHE_HOME/quern")"
[ "$(cached ./tiny/)" -eq 1 ] || fail "the same folder by another path: $(ls "$XDG_CACHE_HOME/quern")"
sed 's/"rms_norm_eps": 1e-05/"rms_norm_eps": 1e-06/' tiny/config.json >changed && mv changed tiny/config.json
[ "$(cached tiny)" -eq 2 ] || fail "config.json has changed: $(ls "$XDG_CACHE_HOME/quern")"
echo '{}' >tiny/generation_config.json
[ "$(cached tiny)" -eq 3 ] || fail "a file has come: $(ls "$XDG_CACHE_HOME/quern")"
touch tiny/other.bin
[ "$(cached tiny)" -eq 3 ] || fail "a file of no concern has come: $(ls "$XDG_CACHE_HOME/quern")"
pass "folders.sh"
