#!/usr/bin/env bash
# --quant: models quantised while they are compiled still do what they did, each matrix's error is told, rows that the
# format does not fit get another one by name, what is quantised already stays, and the cache keeps the results apart.
. "$(dirname "$0")/../support/e2e.sh"
need_quern
nano="$QUERN_SOURCE/models/nano/nano.gguf"
[ -r "$nano" ] || skip "models/nano/nano.gguf is missing"
export XDG_CACHE_HOME="$WORK/cache"
cd "$WORK"

# ask FORMAT MODE PROMPT WANT: nano in the format.
ask() {
  "$QUERN" run -q "$nano" --jit --quant "$1" --numeric "$2" -p "$3" -n 12 >text || fail "run --quant $1 ends with $?"
  [ "$(cat text)" = "$4" ] || fail "--quant $1 --numeric $2: '$3' gave '$(cat text)', want '$4'"
}
ask q8_0 f32 "reverse: k q d a =" " a d q k"
ask Q4_0 int8 "sort: k q d a =" " a d k q"

# The report: a row a matrix, then a summary; the artifact knows its formats.
"$QUERN" compile "$nano" --quant q8_0 -o nano.qn 2>err || fail "compile --quant ends with $?: $(cat err)"
[ "$(grep -c ' f16 *q8_0 .* %' err)" -eq 22 ] || fail "want 22 rows in the table: $(cat err)"
grep -q 'blk.2.ffn_down.weight *f16 *q8_0 *256 x 512 *0\.[0-9]* %' err || fail "no row of blk.2.ffn_down: $(cat err)"
grep -q '^quern: 22 of 22 matrices quantised for q8_0: 3.6 MiB became 1.9, RMS error 0\.5' err || fail "summary: $(cat err)"
"$QUERN" inspect nano.qn -w summary,tensors >text
grep -q '^quantised_to = q8_0$' text || fail "inspect does not tell of the quantising: $(cat text)"
grep -q 'q8_0\[512,256\] token_embd.weight' text || fail "inspect shows other formats: $(cat text)"
! grep -qF ' f16[' text || fail "a matrix is left in f16: $(cat text)"
"$QUERN" compile -q "$nano" --quant q8_0 -j 1 -o one.qn 2>err
[ ! -s err ] || fail "-q is not quiet: $(cat err)"
for file in nano one; do "$QUERN" inspect $file.qn -w sections | grep weights >$file.sum; done
[ -s nano.sum ] && cmp nano.sum one.sum || fail "the weights depend on the threads that quantised them"

# A format with errors that are the values' own: nothing is left out, and vectors stay f32.
"$QUERN" compile "$nano" --quant f16 -o same.qn 2>err
grep -q 'warning: nothing was quantised to f16: 22 matrices are left as they are (has the format)' err ||
  fail "f16 to f16: $(cat err)"

# What is quantised already.
synth="$QUERN_BUILD/tests/quern-synth"
if [ -x "$synth" ]; then
  "$synth" --model tiny-llama-test --type q4_0 -o tiny.gguf
  "$QUERN" compile tiny.gguf --quant q8_0 -o tiny.qn 2>err
  grep -q 'blk.1.attn_k.weight *q4_0 *q4_0 *32 x 64 *quantised already' err || fail "a quantised model: $(cat err)"
  "$synth" --model tiny-gpt2-test --type bf16 -o gpt2.gguf
  "$QUERN" compile gpt2.gguf --quant q4_1 -o gpt2.qn 2>err
  grep -q 'position_embd.weight *f32 *f32 *64 x 64 *kept by its template' err || fail "learned positions: $(cat err)"
  grep -q 'token_embd.weight *bf16 *q4_1 *512 x 64 .* %' err || fail "a BF16 table: $(cat err)"
fi

# The cache: another format is another artifact, the same in other letters is not.
for format in q8_0 Q8_0; do "$QUERN" run -q "$nano" --quant "$format" -p "copy: k q =" -n 2 >text; done
"$QUERN" run -q "$nano" -p "copy: k q =" -n 2 >text
[ "$(find cache -name '*.qn' | wc -l)" -eq 2 ] || fail "want 2 artifacts in the cache: $(find cache -name '*.qn')"

# Errors.
code=0
"$QUERN" compile -q "$nano" --quant q9 -o x.qn 2>err || code=$?
[ "$code" -eq 2 ] && grep -q "quern: error: quant: got 'q9', want one of f32, f16, bf16, q8_0, q4_0" err ||
  fail "an unknown format: code $code: $(cat err)"
[ ! -e x.qn ] || fail "an unknown format leaves a file"
code=0
"$QUERN" run -q nano.qn --quant q8_0 -p x 2>err || code=$?
[ "$code" -eq 2 ] && grep -q "quern: error: --quant: is for model files" err || fail "an artifact: code $code: $(cat err)"

# A real float model with rows of 172, which no block divides: they become f16, said aloud; the story goes on as it did.
if stories=$(shared_model models/stories260K/stories260K.gguf 2>/dev/null); then
  "$QUERN" compile "$stories" --quant q8_0 -o stories.qn 2>err
  grep -q 'warning: rows of 172 values cannot become q8_0; f16 instead for blk.0.ffn_down.weight, .* and 1 more$' err ||
    fail "rows of 172: $(cat err)"
  grep -q 'blk.4.ffn_down.weight .* instead of q8_0' err || fail "the row of blk.4.ffn_down: $(cat err)"
  "$QUERN" run -q stories.qn -p "" -n 80 >text
  golden=$(dirname "$stories")/golden-greedy-n200.txt
  head -c 120 text >ours
  head -c 120 "$golden" | cmp - ours || fail "q8_0: the story is another: $(cat text)"
fi
pass
