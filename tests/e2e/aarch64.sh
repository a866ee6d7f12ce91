#!/usr/bin/env bash
# aarch64 under qemu-user: one artifact made here holds code for x86-64 and for aarch64 with NEON, dotprod and i8mm; the
# runtime, cross-built without hwloc and PCRE2, runs each of them on an emulated CPU that has no more than that, and
# every logit is that of x86-64, bit for bit. Without qemu or a cross compiler there is nothing to run.
. "$(dirname "$0")/../support/e2e.sh"
need_quern
[ "$(uname -m)" = x86_64 ] || skip "this compares aarch64 with x86-64, and this machine is $(uname -m)"
cross=aarch64-linux-gnu-gcc
for tool in qemu-aarch64 $cross; do
  command -v "$tool" >/dev/null || skip "no $tool here (Debian packages qemu-user, gcc-aarch64-linux-gnu, libc6-dev-arm64-cross)"
done
synth="$QUERN_BUILD/tests/quern-synth" native="$QUERN_BUILD/tests/quern-logits"
grep -qs '^QUERN_SANITIZE:BOOL=ON' "$QUERN_BUILD/CMakeCache.txt" && skip "what runs under qemu is not what has sanitizers"
[ -x "$synth" ] && [ -x "$native" ] || skip "quern-synth or quern-logits is not built"

cd "$QUERN_SOURCE"
sources=()
for file in runtime/*.c runtime/base/*.c; do
  case $file in
    runtime/topology.c | runtime/tokenizer*.c) ;;  # hwloc, PCRE2
    runtime/model.c | runtime/quern_run.c | runtime/runner.c | runtime/generate.c | runtime/sampler.c) ;;  # need a tokenizer, or none needs them
    *) sources+=("$file") ;;
  esac
done
emulated="$WORK/quern-logits"
"$cross" -std=c17 -D_GNU_SOURCE -O1 -ffp-contract=off -Wall -Wextra -Werror -I. -pthread -static -o "$emulated" \
  "${sources[@]}" tests/support/topology_plain.c tests/bench/logits_main.c -lm || fail "the cross build"

# Target, and a CPU of qemu that has it and nothing beyond.
cpus="aarch64=cortex-a72 aarch64+dotprod=neoverse-n1 aarch64+dotprod+i8mm=max"
qemu() { qemu-aarch64 -cpu "${pair#*=}" "$emulated" "$@"; }

compared=0
# compare NAME MODEL PAIRS COMPILE-OPTION...: the artifact for x86-64 and the targets of the pairs, all with the same bits.
compare() {
  local name=$1 model=$2 pairs=$3 targets=host
  shift 3
  for pair in $pairs; do targets+=,${pair%%=*}; done
  "$QUERN" compile -q "$model" -o "$WORK/model.qn" --target "$targets" --ctx 128 --all-logits "$@" ||
    fail "$name: quern compile ends with $?"
  "$native" "$WORK/model.qn" --counts "$counts" | tail -n +2 >"$WORK/want"
  [ -s "$WORK/want" ] || fail "$name: no logits"
  for pair in $pairs; do
    qemu "$WORK/model.qn" --counts "$counts" >"$WORK/got" || fail "$name: ${pair%%=*} ends with $?"
    [ "$(head -n 1 "$WORK/got")" = "target ${pair%%=*}" ] || fail "$name: $(head -n 1 "$WORK/got"), want ${pair%%=*}"
    tail -n +2 "$WORK/got" | diff "$WORK/want" - >&2 || fail "$name: other logits on ${pair%%=*}"
    compared=$((compared + 1))
  done
}

counts=1,2,3,16,17
compare "nano, f16 weights" models/nano/nano.gguf "$cpus"
counts=70  # more than a page of keys
if stories=$(shared_model models/stories260K/stories260K.gguf); then compare stories260K "$stories" "${cpus##* }"; fi

# Every weight format that can be written: on every target and in both numeric modes with QUERN_TEST_ALL, else the targets
# by turns, and the mode without integer products, whose kernels are alike on all of them, now and then.
counts=1,3,17 turn=0
read -r -a pairs <<<"$cpus"
for format in $("$synth" --help | sed -n 's/^ *types: //p'); do
  "$synth" --model tiny-llama-test --type "$format" -o "$WORK/$format.gguf" >/dev/null || fail "quern-synth: $format"
  for mode in int8 f32; do
    case $format,$mode in f32,int8 | f16,int8 | bf16,int8) continue ;; esac  # the same graph as with f32
    turn=$((turn + 1))
    if [ -n "${QUERN_TEST_ALL:-}" ]; then
      chosen=$cpus
    elif [ "$mode" = f32 ] && [ $((turn % 5)) -ne 0 ]; then
      continue
    else
      chosen=${pairs[$((turn % 3))]}
    fi
    compare "$format, $mode activations" "$WORK/$format.gguf" "$chosen" --numeric "$mode"
  done
  rm "$WORK/$format.gguf"
done

# A feature that the CPU lacks is named.
pair=aarch64+dotprod=cortex-a72
"$QUERN" compile -q models/nano/nano.gguf -o "$WORK/model.qn" --target aarch64+dotprod --ctx 128
if qemu "$WORK/model.qn" --target aarch64+dotprod 2>"$WORK/err"; then fail "code for dotprod is run without it"; fi
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
