#!/usr/bin/env bash
# aarch64 under qemu-user (tests/support/cross.sh): NEON alone, with dotprod, and with i8mm.
. "$(dirname "$0")/../support/e2e.sh"
. "$(dirname "$0")/../support/cross.sh"
cross_need aarch64 "gcc-aarch64-linux-gnu, libc6-dev-arm64-cross"
cpus="aarch64=cortex-a72 aarch64+dotprod=neoverse-n1 aarch64+dotprod+i8mm=max"

counts=1,2,3,16,17
compare "nano, f16 weights" models/nano/nano.gguf "$cpus"
counts=70  # more than a page of keys
if stories=$(shared_model models/stories260K/stories260K.gguf); then compare stories260K "$stories" "${cpus##* }"; fi
counts=1,3,17
compare_formats "$cpus"

# A feature that the CPU lacks is named.
pair=aarch64+dotprod=cortex-a72
"$QUERN" compile -q models/nano/nano.gguf -o "$WORK/model.qn" --target aarch64+dotprod --ctx 128
if cross_run "$WORK/model.qn" --target aarch64+dotprod 2>"$WORK/err"; then fail "code for dotprod is run without it"; fi
grep -q "needs dotprod, which this CPU lacks" "$WORK/err" || fail "a missing feature: $(cat "$WORK/err")"

# Object files: the values of x86-64, and a code of their own where the CPU lacks something.
embed() {  # embed COMPILER TARGET FLAG...
  "$QUERN" compile -q frontend/examples/embed.json --emit=object --name scaled --target "$2" -o "$WORK/scaled.o" || fail "an object for $2"
  "$1" -O1 -I"$WORK" frontend/examples/embed.c "$WORK/scaled.o" -pthread "${@:3}" -o "$WORK/embed" || fail "linking an object for $2"
}
embed cc host
"$WORK/embed" >"$WORK/want" || fail "embed.c ends with $?"
for pair in $cpus; do
  embed "$cross" "${pair%%=*}" -static
  qemu-aarch64 -cpu "${pair#*=}" "$WORK/embed" >"$WORK/got" || fail "an object for ${pair%%=*} ends with $?"
  cmp "$WORK/want" "$WORK/got" || fail "an object for ${pair%%=*} gives other values"
done
embed "$cross" aarch64+dotprod -static
code=0
qemu-aarch64 -cpu cortex-a72 "$WORK/embed" 2>"$WORK/err" || code=$?
[ "$code" -eq 7 ] && grep -q "must have neon,dotprod" "$WORK/err" || fail "an object without dotprod: $code: $(cat "$WORK/err")"
pass "$compared runs on aarch64 with the bits of x86-64"
