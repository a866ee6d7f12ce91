#!/usr/bin/env bash
# riscv64 under qemu-user (tests/support/cross.sh): RV64GC, and with vectors of 128 and 256 bits.
. "$(dirname "$0")/../support/e2e.sh"
. "$(dirname "$0")/../support/cross.sh"
# qemu of Debian 12 has vectors and does not tell programs so: they are told here, by a getauxval of the test's.
cat >"$WORK/tell_vectors.c" <<'C'
unsigned long __real_getauxval(unsigned long type), __wrap_getauxval(unsigned long type);
unsigned long __wrap_getauxval(unsigned long type) {
  return __real_getauxval(type) | (type == 16 && VECTORS ? 1ul << ('v' - 'a') : 0);  // AT_HWCAP
}
C
cross_flags=("$WORK/tell_vectors.c" -Wl,--wrap=getauxval -DVECTORS=0)
cross_need riscv64 "gcc-riscv64-linux-gnu, libc6-dev-riscv64-cross"

# A feature that the CPU lacks is named.
pair=riscv64+v=rv64,v=false
"$QUERN" compile -q models/nano/nano.gguf -o "$WORK/model.qn" --target riscv64+v --ctx 128 || fail "code with vectors"
if cross_run "$WORK/model.qn" --target riscv64+v 2>"$WORK/err"; then fail "code with vectors is run without them"; fi
grep -q "needs v, which this CPU lacks" "$WORK/err" || fail "a missing feature: $(cat "$WORK/err")"

compare_objects riscv64=rv64,v=false "${cross_flags[@]}"
lacking rv64,v=false riscv64+v m,a,f,d,c,v "${cross_flags[@]}"

counts=1,5
compare "nano, f16 weights" models/nano/nano.gguf riscv64=rv64,v=false

cross_flags[2]=-DVECTORS=1
cross_need riscv64 ""
vectors=elen=64,vext_spec=v1.0
compare_objects "riscv64+v=rv64,v=true,vlen=128,$vectors" "${cross_flags[@]}"
compare "nano, f16 weights, vectors" models/nano/nano.gguf "riscv64+v=rv64,v=true,vlen=128,$vectors"
"$synth" --model tiny-llama-test --type q4_0 -o "$WORK/q4_0.gguf" >/dev/null || fail "quern-synth"
compare "q4_0" "$WORK/q4_0.gguf" "riscv64+v=rv64,v=true,vlen=256,$vectors"
pass "$compared runs on riscv64 with the bits of x86-64"
