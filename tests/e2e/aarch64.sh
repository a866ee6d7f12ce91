#!/usr/bin/env bash
# aarch64 under qemu-user (tests/support/cross.sh): NEON alone, with dotprod, and with i8mm.
. "$(dirname "$0")/../support/e2e.sh"
. "$(dirname "$0")/../support/cross.sh"
cross_need aarch64 "gcc-aarch64-linux-gnu, libc6-dev-arm64-cross"
cpus="aarch64=cortex-a72 aarch64+dotprod=neoverse-n1 aarch64+dotprod+i8mm=max"

counts=1,3,17
compare "nano, f16 weights" models/nano/nano.gguf "$cpus"
counts=70  # more than a page of keys
if stories=$(shared_model models/stories260K/stories260K.gguf); then compare stories260K "$stories" "${cpus##* }"; fi
counts=1,17
compare_formats "$cpus"

# A feature that the CPU lacks is named.
pair=aarch64+dotprod=cortex-a72
"$QUERN" compile -q models/nano/nano.gguf -o "$WORK/model.qn" --target aarch64+dotprod --ctx 128
if cross_run "$WORK/model.qn" --target aarch64+dotprod 2>"$WORK/err"; then fail "code for dotprod is run without it"; fi
grep -q "needs dotprod, which this CPU lacks" "$WORK/err" || fail "a missing feature: $(cat "$WORK/err")"

# Object files: the values of x86-64, and a code of their own where the CPU lacks something.
compare_objects "$cpus"
lacking cortex-a72 aarch64+dotprod neon,dotprod
pass "$compared runs on aarch64 with the bits of x86-64"
