#!/usr/bin/env bash
# The scheduler for a few seconds as bench/soak_main.c drives it, on the trained model: plainly (or with this build's
# sanitizers) and under ThreadSanitizer. Guesses of
# every kind, trees among them. For long: build/tests/quern-soak MODEL.qn SECONDS SEED DRAFT.qn HEADS.qn, build/tests/quern-soak-tsan too.
. "$(dirname "$0")/../support/e2e.sh"
need_quern
model="$QUERN_SOURCE/models/nano/nano.gguf"
[ -r "$model" ] || skip "models/nano/nano.gguf is missing"
"$QUERN" compile -q "$model" -o "$WORK/nano.qn" --batch 16 --guesses || fail "compile ends with $?"
"$QUERN" compile -q "$QUERN_SOURCE/models/nano/draft.gguf" -o "$WORK/draft.qn" --batch 48 || fail "compile of the draft ends with $?"
"$QUERN" compile -q "$QUERN_SOURCE/models/nano/medusa" -o "$WORK/medusa.qn" --batch 4 || fail "compile of the heads ends with $?"
mkdir "$WORK/swap"
export TMPDIR="$WORK/swap" TSAN_OPTIONS=exitcode=66
seconds=${QUERN_TEST_SOAK_SECONDS:-4}

soak() {
  "$@" "$WORK/nano.qn" "$seconds" "$RANDOM" "$WORK/draft.qn" "$WORK/medusa.qn" >"$WORK/out" 2>"$WORK/err" || fail "$* ends with $?: $(head -60 "$WORK/err")"
  grep -qE ' [1-9][0-9]* preemptions' "$WORK/out" || fail "nobody was preempted: $(cat "$WORK/out")"
  for by in lookup draft medusa lookahead; do
    grep -qE " [1-9][0-9]* by $by" "$WORK/out" || fail "no guess of $by came true: $(cat "$WORK/out")"
  done
  [ -z "$(ls "$WORK/swap")" ] || fail "files are left: $(ls "$WORK/swap")"
  cat "$WORK/out"
}
soak "$QUERN_BUILD/tests/quern-soak"
tsan="$QUERN_BUILD/tests/quern-soak-tsan"
if [ -x "$tsan" ]; then
  # ThreadSanitizer of older compilers does not know the address ranges of newer kernels, but without randomisation.
  run=("$tsan")
  "$tsan" >"$WORK/out" 2>&1 || true
  if grep -q 'unexpected memory mapping' "$WORK/out"; then run=(setarch -R "$tsan"); fi
  "${run[@]}" >"$WORK/out" 2>&1 || true
  grep -q 'unexpected memory mapping' "$WORK/out" || soak "${run[@]}"
fi
pass
