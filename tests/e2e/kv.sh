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
