#!/usr/bin/env bash
# quern embed: a folder of sentence-transformers with an old tokenizer, texts from all places, errors; and, where
# QUERN_MINILM is the folder of all-MiniLM-L6-v2, 20 sentences against the reference.
. "$(dirname "$0")/../support/e2e.sh"
need_quern
golden="$QUERN_SOURCE/tests/golden"
cd "$WORK"

# wrong CODE TEXT ARGUMENT...: quern embed ends with CODE and one line on stderr that holds TEXT.
wrong() {
  local code=0
  "$QUERN" embed -q "${@:3}" >out 2>err </dev/null || code=$?
  [ "$code" -eq "$1" ] || fail "${*:3}: exit code $code, want $1: $(cat err)"
  [ "$(wc -l <err)" -eq 1 ] && [ ! -s out ] || fail "${*:3}: got: $(cat err out)"
  grep -qF -e "$2" err || fail "${*:3}: want '$2' in: $(cat err)"
}

# cosines FILE FILE: of the vectors in the lines of both, one a line.
cosines() {
  awk 'NR == FNR { want[FNR] = $0; next }
       { n = split(want[FNR], w, " "); d = a = b = 0
         for (i = 1; i <= n; i++) { d += w[i] * $i; a += w[i] * w[i]; b += $i * $i }
         c = -1; if (n == NF && a * b != 0) c = d / sqrt(a * b)
         printf "%.6f\n", c }' "$1" "$2"
}

# ---- a tiny model

cp -r "$golden/models/minilm" model
for i in $(seq 0 95); do
  case $i in
    0) echo '[PAD]' ;; 1) echo '[UNK]' ;; 2) echo '[CLS]' ;; 3) echo '[SEP]' ;; 4) echo '[MASK]' ;;
    *) printf 'w%d\n' "$i" ;;
  esac
done >model/vocab.txt
echo '{"tokenizer_class": "BertTokenizer", "do_lower_case": true}' >model/tokenizer_config.json
"$QUERN" compile -q model -o model.qn --numeric f32 --batch 3
"$QUERN" inspect model.qn | has 'architecture = bert' || fail "inspect: $("$QUERN" inspect model.qn)"
[ "$("$QUERN" tokenize model.qn -p 'W7 w9 other' --ids)" = "2 7 9 1 3" ] || fail "tokens of vocab.txt"

printf 'w7 w9\nw12\n\nw7 w9 w10 w11\nW7 W9' >texts
"$QUERN" embed model.qn -f texts >five
[ "$(wc -l <five)" -eq 5 ] && [ "$(head -n 1 five | wc -w)" -eq 36 ] || fail "five texts of 36 numbers: $(cat five)"
[ "$(head -n 1 five)" = "$(tail -n 1 five)" ] || fail "the same text has two embeddings"
"$QUERN" embed -q model.qn <texts | cmp - five || fail "standard input"
"$QUERN" embed model.qn -p 'w7 w9' | cmp - <(head -n 1 five) || fail "-p"
for how in "--batch 1" "--threads 1" "--batch 2 --threads 2"; do
  # shellcheck disable=SC2086
  "$QUERN" embed model.qn -f texts $how | cmp - five || fail "$how changes bits"
done
"$QUERN" embed -q model --numeric f32 -f texts | cmp - five || fail "a model file, by the cache"
"$QUERN" embed model.qn -p 'w7 w9' --json | has '^{"dimensions": 36, "texts": \[{"tokens": 4, "embedding": \[-\?[0-9]' || fail "--json"
awk '{ s = 0; for (i = 1; i <= NF; i++) s += $i * $i; if (s < 0.99999 || s > 1.00001) exit 1 }' five || fail "not of length 1"

"$QUERN" verify -q model.qn --fast >out || fail "verify: $(cat out)"
"$QUERN" inspect model.qn --what summary,graph | grep -c 'cache {kind="k"' | has '^1$' || fail "inspect: the layers share a cache"
"$QUERN" bench -q model.qn --prompt 9,30 --batch 1,3 --reps 1 --json bench.json >out || fail "bench: $(cat out)"
[ "$(grep -c '^ *\(9\|30\)  *[13] ' out)" -eq 4 ] && grep -q 'texts/s' out || fail "bench: $(cat out)"
grep -q '"text": {"tokens": 30, "batch": 3, .*"texts_per_s"' bench.json && grep -q '"mfu"' bench.json || fail "bench --json: $(cat bench.json)"
"$QUERN" bench -q model.qn --reps 1 | has '^ *77  *1 ' || fail "bench: 77 tokens are the most, 128 and 512 the usual"
"$QUERN" machine -q --budget 0 >/dev/null || fail "quern machine ends with $?"
"$QUERN" explain -q model.qn --prompt 12 --reps 1 --threads 2 --json one.json --html page.html >out || fail "explain: $(cat out)"
grep -q '^embed, 12 tokens after 0 keys: ' out && [ "$(grep -c ' tokens* after ' out)" -eq 1 ] || fail "explain: $(cat out)"
grep -q '"embed": {"threads": 2, "tokens": 12,' one.json && ! grep -q '"decode"\|"prefill"' one.json || fail "explain --json: $(cat one.json)"
grep -q '<h2>Embed</h2>' page.html || fail "the page of explain"
"$QUERN" explain -q model --device cuda:sm_90 --prompt 12 --json two.json >out || fail "explain --device: $(cat out)"
grep -q '^embed, 12 tokens after 0 keys: ' out || fail "explain --device: $(cat out)"
"$QUERN" tune -q model --numeric f32 --budget 1s --db tuned.db >out || fail "tune: $(cat out)"

# ---- on a GPU: the same bits

gpu=", without GPUs"
if compiled_for_gpu model -o gpu.qn --numeric f32 --batch 3; then
  gpu=""
  for batch in 1 3; do
    "$QUERN" embed -q gpu.qn -f texts --batch $batch --device cuda >got || fail "on a GPU, $batch together: code $?"
    cmp got five || fail "on a GPU, $batch together"
  done
  "$QUERN" embed -q model --numeric f32 --batch 3 -f texts --device cuda | cmp - five || fail "a model file, on a GPU"
  "$QUERN" verify -q gpu.qn --fast --device cuda >out 2>&1 || fail "verify on a GPU: $(cat out)"
  wrong 2 "--threads: is for CPUs, got --device cuda" gpu.qn --device cuda --threads 2 -f texts
  wrong 7 "there is no code for GPUs in this artifact" model.qn --device cuda -f texts
fi

# ---- texts that are too long

seq -s ' ' 1 80 | sed 's/\([0-9]*\)/w\1/g' >long
wrong 8 "text 1 has 82 tokens, want at most 77; split it, give --truncate, or compile for more (--ctx)" model.qn -f long
"$QUERN" embed model.qn --truncate -f long >cut
seq -s ' ' 1 75 | sed 's/\([0-9]*\)/w\1/g' | "$QUERN" embed -q model.qn | cmp - cut || fail "--truncate"
"$QUERN" embed -q model --numeric f32 --ctx 96 -f long | cmp -s - cut && fail "--ctx 96 has room for the whole text"

# ---- errors

nano="$QUERN_SOURCE/models/nano/nano.gguf"
wrong 4 "makes no embeddings, want an encoder" "$nano" -p x
wrong 2 "--file: got --prompt too, want one of them" model.qn -p x -f texts
wrong 5 "--file" model.qn -f no-such
for command in "run -p x" "eval --perplexity texts"; do
  code=0
  # shellcheck disable=SC2086
  "$QUERN" ${command%% *} -q model.qn $(case $command in *' '*) echo "${command#* }" ;; esac) >out 2>err </dev/null || code=$?
  [ "$code" -eq 4 ] && grep -q 'is an encoder, which makes embeddings and no text; want quern embed' err ||
    fail "$command: code $code, $(cat err)"
done
# refused CODE TEXT COMMAND...
refused() {
  local code=0
  "$QUERN" "${@:3}" >out 2>err </dev/null || code=$?
  [ "$code" -eq "$1" ] && grep -qF -e "$2" err || fail "${*:3}: code $code, want $1 and '$2' in: $(cat err)"
}
refused 2 'got a depth of 4 for model.qn, which is an encoder and decodes nothing' explain -q model.qn --depth 4
refused 2 'got a depth of 4 for model, which is an encoder and decodes nothing' explain -q model --device cuda:sm_90 --depth 4
refused 8 'want a context of at most 77 tokens' explain -q model.qn --prompt 78
refused 4 'has an encoder, and --trace replays requests for texts that go on' bench -q model.qn --trace poisson:5
refused 2 '--against: is for models that write texts' bench -q model.qn --against model.qn
refused 2 '--generate: is for models that write texts' bench -q model.qn -n 4
refused 8 'got 4, want at most 3, for which the artifact was compiled' bench -q model.qn --batch 4 --reps 1
rm model/vocab.txt model/tokenizer_config.json
wrong 4 "this model has no tokenizer, and what is embedded are texts" model -p x

# ---- the real one

[ -n "${QUERN_MINILM-}" ] || pass "embed$gpu (QUERN_MINILM is not given: without all-MiniLM-L6-v2)"
want="$golden/embeddings/all-minilm-l6-v2.txt"
for mode in f32 int8; do
  "$QUERN" embed -q "$QUERN_MINILM" --numeric $mode -f "$golden/embeddings/sentences.txt" >got
  cosines "$want" got >cosines
  [ "$(wc -l <cosines)" -eq 20 ] || fail "$(wc -l <cosines) embeddings, want 20"
  awk '$1 < 0.9999 { exit 1 }' cosines || fail "$mode: cosines with the reference: $(tr '\n' ' ' <cosines)"
done
pass "embed, with all-MiniLM-L6-v2$gpu"
