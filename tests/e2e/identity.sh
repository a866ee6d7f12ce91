#!/usr/bin/env bash
# The numeric contract: the same logits, bit for bit, whatever the number of threads, the chunks of the prompt, the
# schedule, the instruction set, and whether the code comes from an artifact or from the JIT.
. "$(dirname "$0")/../support/e2e.sh"
need_quern
export XDG_CACHE_HOME="$WORK/cache"
nano="$QUERN_SOURCE/models/nano/nano.gguf"
synth="$QUERN_BUILD/tests/quern-synth"
[ -r "$nano" ] || skip "models/nano/nano.gguf is missing"
[ -x "$synth" ] || skip "$synth is not built"

# A prompt of 70 tokens: more than a page of keys, and a remainder in every chunk size used here.
tokens=7
for i in $(seq 1 69); do tokens+=",$((i * 37 % 500 + 3))"; done

# logits FILE RUN-OPTION...
logits() {
  "$QUERN" run -q --tokens "$tokens" -n 6 --ignore-eog --logits "$WORK/$1" "${@:2}" >"$WORK/$1.text" ||
    fail "quern run ${*:2} ends with $?"
}

compared=0
# same RUN-OPTION...: as `logits`, and they must be those of "want".
same() {
  logits got "$@"
  cmp "$WORK/want" "$WORK/got" >&2 || fail "$name: other logits with: ${*//"$WORK"\//}"
  cmp "$WORK/want.text" "$WORK/got.text" >&2 || fail "$name: another text with: ${*//"$WORK"\//}"
  compared=$((compared + 1))
}

# compile OUT COMPILE-OPTION...
compile() { "$QUERN" compile -q "$model" -o "$WORK/$1" --ctx 128 "${@:2}" || fail "quern compile ${*:2} ends with $?"; }

cat >"$WORK/plain.schedule" <<'TEXT'
m_tiles = 1
n_tile = 1
k_unroll = 0
lanes = 1
prefetch_bytes = 0
parallel = 0
TEXT
cat >"$WORK/wide.schedule" <<'TEXT'
m_tiles = 4,1
n_tile = 2
k_unroll = 1
lanes = 16
prefetch_bytes = 4096
parallel = 1
TEXT

# Compiling is slow: each model takes one of the schedules, the next one the other; with QUERN_TEST_ALL both.
schedule_turn=0
next_schedules() {
  schedules="plain wide"
  [ -z "${QUERN_TEST_ALL:-}" ] || return 0
  if ((schedule_turn++ % 2)); then schedules=plain; else schedules=wide; fi
}

# identity NAME MODEL COMPILE-OPTION...
identity() {
  name=$1 model=$2
  shift 2
  compile model.qn "$@"
  logits want "$WORK/model.qn" --threads 1
  [ -s "$WORK/want" ] || fail "$name: no logits"
  for threads in 2 3; do same "$WORK/model.qn" --threads "$threads"; done
  for chunk in 1 7 32; do same "$WORK/model.qn" --chunk "$chunk"; done
  next_schedules
  for schedule in $schedules; do
    compile other.qn --schedule "$WORK/$schedule.schedule" "$@"
    same "$WORK/other.qn"
    same "$WORK/other.qn" --chunk 7 --threads 2
  done
  # One artifact with code for several instruction sets, each with schedules of its own; those that this machine lacks
  # are left out.
  compile targets.qn --target "${targets// /,}" "$@"
  for target in $targets; do
    if "$QUERN" inspect "$WORK/targets.qn" --what targets | grep -A1 "^target = $target[ ,]" | has 'runs here'; then
      same "$WORK/targets.qn" --target "$target"
    fi
  done
}

machine=$(uname -m)
[ "$machine" = x86_64 ] || skip "the targets compared are x86-64's, this is $machine"
targets="x86-64-v4 x86-64-v3"
for format in q4_0 q8_0 q4_1; do
  "$synth" --model tiny-llama-test --type "$format" -o "$WORK/$format.gguf" >/dev/null || fail "quern-synth: $format"
done
identity "nano, f16 weights" "$nano"
# Code for what this machine lacks is not run: one artifact that has some is enough.
if [ -z "${QUERN_TEST_ALL:-}" ] && ! grep -q avx512f /proc/cpuinfo; then targets=x86-64-v3; fi
# Generated code has no sanitizers, so that these would find there what they find without: the bits.
if [ "${QUERN_SANITIZE:-OFF}" != ON ] || [ -n "${QUERN_TEST_ALL:-}" ]; then
  identity "q4_1, float activations, bf16 cache" "$WORK/q4_1.gguf" --numeric f32 --kv-type bf16
  identity "q4_0, int8 activations, int8 cache" "$WORK/q4_0.gguf" --kv-type int8
  identity "q8_0, float activations, int4 cache" "$WORK/q8_0.gguf" --numeric f32 --kv-type int4
  identity "q8_0, int8 activations, f16 cache" "$WORK/q8_0.gguf" --kv-type f16
  targets="x86-64-v2"  # has no fused multiply-add: takes long to compile, so once
  identity "q4_1, int8 activations" "$WORK/q4_1.gguf"
fi

# Without an artifact: the JIT, and through the cache.
name="nano" model=$nano
logits want "$nano"
same "$nano" --jit
same "$nano" --jit --threads 2 --chunk 7
same "$nano" --no-cache
pass "$compared runs with the same bits"
