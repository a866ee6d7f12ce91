#!/usr/bin/env bash
# What the KV cache takes, told before anything is compiled; and texts whose beginning an earlier process has evaluated:
# the same text as without, from a file that is checked.
. "$(dirname "$0")/../support/e2e.sh"
need_quern
model="$QUERN_SOURCE/models/nano/nano.gguf"
[ -r "$model" ] || skip "models/nano/nano.gguf is missing"
"$QUERN" compile -q "$model" -o "$WORK/nano.qn" --kv-type f16
artifact="$WORK/nano.qn"

# ---- quern inspect --batch --ctx --kv-type

bytes() { "$QUERN" inspect "$@" | sed -n 's/^kv_cache_bytes = \([0-9]*\),.*/\1/p'; }
one=$(bytes "$model" --ctx 128 --kv-type f32)
[ -n "$one" ] && [ "$one" -gt 0 ] || fail "no bytes: $("$QUERN" inspect "$model" --ctx 128)"
[ "$(bytes "$model" --ctx 128 --batch 8)" -eq $((8 * one)) ] || fail "eight sequences"
[ "$(bytes "$model" --ctx 65)" -eq "$one" ] || fail "whole pages"
[ "$(bytes "$model" --ctx 128 --kv-type f16)" -eq $((one / 2)) ] || fail "f16"
[ "$(bytes "$artifact" --ctx 128)" -eq $((one / 2)) ] || fail "the artifact: $("$QUERN" inspect "$artifact" --ctx 128)"
"$QUERN" inspect "$artifact" --kv-type f16 | has '^kv_type = f16$' || fail "the artifact's type"
# As much as a session takes.
full=$("$QUERN" run -q "$artifact" -p a -n 1 --json | sed -n 's/.*"context": \([0-9]*\).*/\1/p')
[ "$(bytes "$artifact" --batch 1)" -eq "$(bytes "$artifact" --ctx "$full")" ] || fail "all of the context"

# refused STATUS TEXT ARGUMENTS...
refused() {
  local status=0 want=$1 text=$2
  shift 2
  "$QUERN" "$@" >"$WORK/out" 2>"$WORK/err" || status=$?
  [ "$status" -eq "$want" ] || fail "$*: got status $status, want $want: $(cat "$WORK/err")"
  grep -qF -- "$text" "$WORK/err" || fail "$*: want '$text', got $(cat "$WORK/err")"
}
refused 2 "got kv-type 'f32', want 'f16'" inspect "$artifact" --kv-type f32
refused 2 "got 'f12', want f32" inspect "$model" --kv-type f12
refused 8 "tokens, want at most" inspect "$artifact" --ctx 99999999
refused 8 "got 2 sequences of" inspect "$artifact" --batch 2
refused 2 "makes no sense with --batch" inspect "$artifact" --batch 1 --what memory

# ---- quern run --prefix-cache

kept="$WORK/kept"
prompt="Once upon a time there was a little girl named Lily who lived in a house with a garden. One day she"
"$QUERN" run -q "$artifact" -p "$prompt" -n 12 --json >"$WORK/plain"
ids() { grep -o '"ids": \[[^]]*\]' "$1"; }
held() { sed -n 's/.*"held_tokens": \([0-9]*\).*/\1/p' "$1"; }
count=$(grep -o '"prompt_ids": \[[^]]*\]' "$WORK/plain" | tr ',' '\n' | wc -l)
for round in 1 2; do
  "$QUERN" run -q "$artifact" -p "$prompt" -n 12 --json --prefix-cache "$kept" >"$WORK/json"
  [ "$(ids "$WORK/json")" = "$(ids "$WORK/plain")" ] || fail "round $round: another text: $(cat "$WORK/json")"
  want=0
  [ $round -eq 1 ] || want=$((count - 1))
  [ "$(held "$WORK/json")" -eq "$want" ] || fail "round $round: got $(held "$WORK/json") tokens held, want $want of $count"
done
# Another text that begins alike, with logits, in a chunk of another size.
"$QUERN" run -q "$artifact" -p "$prompt was" -n 5 --json --logits "$WORK/a" >"$WORK/plain"
"$QUERN" run -q "$artifact" -p "$prompt was" -n 5 --json --logits "$WORK/b" --chunk 3 --prefix-cache "$kept" >"$WORK/json"
[ "$(ids "$WORK/json")" = "$(ids "$WORK/plain")" ] && cmp "$WORK/a" "$WORK/b" || fail "another text that begins alike"
[ "$(held "$WORK/json")" -ge $((count - 2)) ] || fail "got $(held "$WORK/json") tokens held"

"$QUERN" compile -q "$model" -o "$WORK/batch.qn" --batch 4  # another model: the type of its cache is f32
refused 4 "was saved with another model" run "$WORK/batch.qn" -p a -n 1 --prefix-cache "$kept"
refused 2 "got the model file itself" run "$artifact" -p a -n 1 --prefix-cache "$artifact"
printf 'x' | dd of="$kept" bs=1 seek=700 conv=notrunc 2>/dev/null
refused 3 "damaged" run "$artifact" -p a -n 1 --prefix-cache "$kept"

# ---- windows: pages before the window are given back, and no bit depends on it

window=16
sed "s/\"hf\": \"sliding_window\", \"default\": 0}/\"hf\": \"sliding_window\", \"default\": $window}/" \
  "$QUERN_SOURCE/models/llama.json" >"$WORK/window.json"
cmp -s "$WORK/window.json" "$QUERN_SOURCE/models/llama.json" && fail "the template has no window to be set"
for chunk in 256 8; do  # with room for all of a text's keys, and without
  "$QUERN" compile -q "$model" -o "$WORK/window$chunk.qn" --template "$WORK/window.json" --ctx 256 --chunk $chunk
  "$QUERN" run -q "$WORK/window$chunk.qn" -p "$prompt" -n 200 --ignore-eog --json --logits "$WORK/logits$chunk" \
    >"$WORK/json$chunk"
done
cmp "$WORK/logits256" "$WORK/logits8" && [ "$(ids "$WORK/json256")" = "$(ids "$WORK/json8")" ] || fail "another text"
page=$("$QUERN" inspect "$WORK/window8.qn" --ctx 256 | sed -n 's/^kv_page_bytes = \([0-9]*\),.*/\1/p')
[ "$(bytes "$WORK/window256.qn" --ctx 256)" -eq $((4 * page)) ] || fail "the bytes of all keys"
[ "$(bytes "$WORK/window8.qn" --ctx 256)" -eq $((3 * page)) ] || fail "the bytes of a window"
"$QUERN" inspect "$WORK/window8.qn" --ctx 256 | has 'a window of 16 and of a step of 8$' || fail "the window is not told"
# A beginning is kept whole, and guesses are taken back across a page that was given back.
for round in 1 2; do
  "$QUERN" run -q "$WORK/window8.qn" -p "$prompt" -n 200 --ignore-eog --json --prefix-cache "$WORK/windows" >"$WORK/json"
  [ "$(ids "$WORK/json")" = "$(ids "$WORK/json8")" ] || fail "round $round: another text: $(cat "$WORK/json")"
done
[ "$(held "$WORK/json")" -eq $((count - 1)) ] || fail "got $(held "$WORK/json") tokens held"
"$QUERN" run -q "$model" --template "$WORK/window.json" --ctx 256 -p "$prompt" -n 200 --ignore-eog --json \
  --speculate lookup >"$WORK/json"
[ "$(ids "$WORK/json")" = "$(ids "$WORK/json8")" ] || fail "guesses: another text: $(cat "$WORK/json")"

# Windows in some layers alone: their pages are their own. The same text whatever the chunk and the threads, with all keys
# kept for beginnings, and by guesses that branch.
sed "s/\"value\": \"window\", \"note\": \"what a layer/\"value\": \"j % 2 == 0 ? $window : 0\", \"note\": \"what a layer/" \
  "$QUERN_SOURCE/models/llama.json" >"$WORK/some.json"
cmp -s "$WORK/some.json" "$QUERN_SOURCE/models/llama.json" && fail "the template has no windows of layers to be set"
"$QUERN" compile -q "$model" -o "$WORK/some.qn" --template "$WORK/some.json" --ctx 256 --chunk 32 --batch 8 --guesses
some() { "$QUERN" run -q "$WORK/some.qn" -p "$prompt" -n 200 --ignore-eog --json --logits "$WORK/logits$1" "${@:2}" >"$WORK/json$1"; }
some a --chunk 1
some b --chunk 32 -j 1 --prefix-cache "$WORK/rings"
cmp "$WORK/logitsa" "$WORK/logitsb" && [ "$(ids "$WORK/jsona")" = "$(ids "$WORK/jsonb")" ] || fail "rings: another text"
"$QUERN" run -q "$WORK/some.qn" -p "$prompt" -n 200 --ignore-eog --json \
  --speculate "draft:$QUERN_SOURCE/models/nano/draft.gguf" >"$WORK/jsonb"
[ "$(ids "$WORK/jsona")" = "$(ids "$WORK/jsonb")" ] || fail "rings and guesses: another text"
told=$("$QUERN" inspect "$WORK/some.qn" --ctx 256 --batch 1 | sed -n 's/^kv_window_pages = //p')
[[ $told == [0-9]*' of 128.0 KiB: layers with a window keep those of 16 tokens and of a step of 32' ]] || fail "got '$told'"

# ---- guesses, and a beginning that is held

rm "$kept"
for guess in lookup "draft:$QUERN_SOURCE/models/nano/draft.gguf"; do
  for round in 1 2; do
    "$QUERN" run -q "$WORK/batch.qn" -p "$prompt" -n 24 --json --speculate "$guess" --prefix-cache "$kept" >"$WORK/json"
    "$QUERN" run -q "$WORK/batch.qn" -p "$prompt" -n 24 --json >"$WORK/plain"
    [ "$(ids "$WORK/json")" = "$(ids "$WORK/plain")" ] || fail "$guess, round $round: another text: $(cat "$WORK/json")"
  done
  [ "$(held "$WORK/json")" -eq $((count - 1)) ] || fail "$guess: got $(held "$WORK/json") tokens held"
done

# ---- keys that are evicted

"$QUERN" compile -q "$model" -o "$WORK/all.qn" --ctx 256
"$QUERN" compile -q "$model" -o "$WORK/evict.qn" --ctx 256 --batch 4 --guesses --kv-evict adaptive
"$QUERN" compile -q "$model" -o "$WORK/codes.qn" --ctx 256 --kv-evict keyformer --kv-type int8
"$QUERN" inspect "$WORK/codes.qn" | grep -q '^kv_evict = keyformer$' || fail "inspect does not tell the policy"
"$QUERN" verify -q "$WORK/evict.qn" >"$WORK/out" || fail "kernels that sum attention: $(cat "$WORK/out")"
# Channels of keys in int4 are balanced: the same bits whatever the chunk, and where weights are quantised on the way.
"$QUERN" compile -q "$model" -o "$WORK/four.qn" --kv-type int4 --ctx 256 --chunk 64 --quant q8_0
"$QUERN" inspect "$WORK/four.qn" --what graph | grep -q key_channels || fail "no factors of channels"
"$QUERN" verify -q "$WORK/four.qn" || fail "kernels that keep codes are said to be wrong"
for chunk in 64 5; do "$QUERN" run -q "$WORK/four.qn" -p "$prompt" -n 40 --chunk $chunk --logits "$WORK/four$chunk" >/dev/null; done
cmp "$WORK/four64" "$WORK/four5" || fail "int4, chunks"
story() { "$QUERN" run -q "$1" -p "$prompt" -n 180 --ignore-eog --json --logits "$WORK/$2" "${@:3}" >"$WORK/$2.json" || fail "$*: $?"; }
story "$WORK/all.qn" all
story "$WORK/evict.qn" kept
cmp "$WORK/all" "$WORK/kept" && [ "$(ids "$WORK/all.json")" = "$(ids "$WORK/kept.json")" ] || fail "places of keys: another text"
story "$WORK/evict.qn" kept --kv-evict heavy --kv-keep 256  # room for all
cmp "$WORK/all" "$WORK/kept" || fail "as many keys as the context has: another text"
for policy in sinks norm unlike heavy adaptive hitters; do
  story "$WORK/evict.qn" whole --kv-evict $policy --kv-keep 40
  cmp -s "$WORK/all" "$WORK/whole" && fail "$policy evicts nothing"
  story "$WORK/evict.qn" chunks --kv-evict $policy --kv-keep 40 --chunk 7 -j 1
  cmp "$WORK/whole" "$WORK/chunks" && [ "$(ids "$WORK/whole.json")" = "$(ids "$WORK/chunks.json")" ] || fail "$policy in chunks"
done
for policy in norm keyformer; do
  story "$WORK/codes.qn" whole --kv-evict $policy --kv-keep 40
  story "$WORK/codes.qn" chunks --kv-evict $policy --kv-keep 40 --chunk 3
  cmp "$WORK/whole" "$WORK/chunks" || fail "$policy: codes that are moved"
done
# It is measured: the less is kept, the worse.
head -n 2 "$QUERN_SOURCE/models/nano/stories.txt" >"$WORK/text"
perplexity() { "$QUERN" eval -q "$WORK/evict.qn" --perplexity "$WORK/text" "$@" | sed -n 's/^perplexity \([0-9.]*\),.*/\1/p'; }
[ "$(perplexity)" = "$(perplexity --kv-evict sinks --kv-keep 256)" ] || fail "perplexity with room for all"
awk -v a="$(perplexity)" -v b="$(perplexity --kv-evict sinks --kv-keep 16)" 'BEGIN { exit !(a > 1 && a < b) }' || fail "perplexity of few keys"
"$QUERN" bench -q "$WORK/evict.qn" --kv-evict adaptive --kv-keep 24 --prompt 32 -n 8 --reps 1 -j 1 >"$WORK/out" || fail "bench: $?"

few=(--kv-evict heavy --kv-keep 48)
# Guesses in chains and in trees, a beginning that is held, several texts at once: all of it is the same text.
story "$WORK/evict.qn" whole "${few[@]}"
rm -f "$kept"
"$QUERN" run -q "$WORK/evict.qn" -p "$prompt" -n 2 "${few[@]}" --prefix-cache "$kept" >"$WORK/out" || fail "a beginning: $?"
for guess in lookup lookahead "draft:$QUERN_SOURCE/models/nano/draft.gguf"; do
  "$QUERN" run -q "$WORK/evict.qn" -p "$prompt" -n 180 --ignore-eog --json "${few[@]}" --speculate "$guess" \
    --draft-tokens 3 --prefix-cache "$kept" >"$WORK/json" || fail "$guess: $?"
  [ "$(ids "$WORK/json")" = "$(ids "$WORK/whole.json")" ] || fail "$guess, keys evicted: another text: $(cat "$WORK/json")"
done
[ "$(held "$WORK/json")" -eq $((count - 1)) ] || fail "keys evicted: got $(held "$WORK/json") tokens held"
"$QUERN" run -q "$WORK/evict.qn" -p "$prompt" -n 90 "${few[@]}" >"$WORK/alone"
"$QUERN" run -q "$WORK/evict.qn" -p "$prompt" -n 90 "${few[@]}" --samples 3 --temp 0 >"$WORK/out" || fail "samples: $?"
[ "$(grep -cxF -f "$WORK/alone" "$WORK/out")" -eq $((3 * $(wc -l <"$WORK/alone"))) ] || fail "samples: $(cat "$WORK/out" "$WORK/alone")"
"$QUERN" bench -q "$WORK/evict.qn" "${few[@]}" --trace poisson:50 --requests 3 --batch 3 >"$WORK/out" || fail "trace: $?"
refused 4 "was compiled to keep all keys, want one compiled with kv-evict heavy" run "$WORK/all.qn" -p a "${few[@]}"
refused 4 "makes no queries to evict keys by, want one compiled with kv-evict heavy" run "$WORK/codes.qn" -p a "${few[@]}"
refused 4 "does not sum up the attention to evict keys by, want one compiled with kv-evict hitters" run "$WORK/codes.qn" -p a \
  --kv-evict hitters --kv-keep 32
few=(--kv-evict hitters --kv-keep 48)
"$QUERN" run -q "$WORK/evict.qn" -p "$prompt" -n 90 "${few[@]}" >"$WORK/alone"
"$QUERN" run -q "$WORK/evict.qn" -p "$prompt" -n 90 "${few[@]}" --samples 3 --temp 0 >"$WORK/out" || fail "samples: $?"
[ "$(grep -cxF -f "$WORK/alone" "$WORK/out")" -eq $((3 * $(wc -l <"$WORK/alone"))) ] || fail "samples by sums: $(cat "$WORK/out")"
refused 4 "got guesses beside keys that are evicted by sums of attention" run "$WORK/evict.qn" -p a "${few[@]}" --speculate lookup
refused 4 "got prefixes to keep beside keys that are evicted by hitters" run "$WORK/evict.qn" -p a "${few[@]}" --prefix-cache "$WORK/no"
refused 2 "kv_keep: got 0 keys, want 8 to the context's 256" run "$WORK/evict.qn" -p a --kv-evict heavy
refused 2 "got 32 keys to keep and no policy" run "$WORK/evict.qn" -p a --kv-keep 32
refused 2 "got 'old', want none, sinks, norm, unlike, heavy, adaptive, hitters or keyformer" run "$WORK/evict.qn" -p a --kv-evict old --kv-keep 32
refused 4 "keys cannot be evicted from the cache" compile "$model" -o "$WORK/no.qn" --kv-evict sinks --template "$WORK/window.json"
