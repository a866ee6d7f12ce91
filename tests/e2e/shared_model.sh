#!/usr/bin/env bash
# One model shared by threads, under ThreadSanitizer: two threads run four sequences each over it, and every sequence has the
# tokens that it has alone (frontend/examples/threads.c with the runtime, both compiled for that).
. "$(dirname "$0")/../support/e2e.sh"
need_quern
program="$QUERN_BUILD/tests/quern-threads-tsan"
[ -x "$program" ] || skip "$program is not built: this build has another sanitizer"
"$QUERN" compile -q "$QUERN_SOURCE/models/nano/nano.gguf" -o "$WORK/nano.qn" --batch 4 || fail "compile ends with $?"

# ThreadSanitizer of older compilers does not know the address ranges of newer kernels, but without randomisation.
run=("$program")
"$program" >"$WORK/out" 2>&1 || true
if grep -q 'unexpected memory mapping' "$WORK/out"; then run=(setarch -R "$program"); fi
code=0
TSAN_OPTIONS=exitcode=66 "${run[@]}" "$WORK/nano.qn" >"$WORK/out" 2>"$WORK/err" || code=$?
grep -q 'unexpected memory mapping' "$WORK/err" && skip "ThreadSanitizer does not run on this kernel"
[ "$code" -eq 0 ] || fail "ends with $code: $(cat "$WORK/out"; head -60 "$WORK/err")"
grep -q '^copy: k q d =| k q d' "$WORK/out" || fail "got: $(cat "$WORK/out")"
pass
