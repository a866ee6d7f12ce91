#!/usr/bin/env bash
# --device cuda of run and bench: the same greedy text as on the CPU, from an artifact for both and from a model file by way of
# the cache; what is told of the device; every option and device that makes no sense. In the simulator, or on the driver that
# QUERN_TEST_LIBCUDA names.
. "$(dirname "$0")/../support/e2e.sh"
need_quern
simulator="$QUERN_BUILD/ptxsim/libcuda.so.1"
export QUERN_LIBCUDA="${QUERN_TEST_LIBCUDA:-$simulator}"
if [ "$QUERN_LIBCUDA" = "$simulator" ] && [ ! -r "$simulator" ]; then skip "$simulator is not built"; fi
model="$QUERN_SOURCE/models/nano/nano.gguf"
[ -r "$model" ] || skip "models/nano/nano.gguf is missing"
if stories=$(shared_model models/stories260K/stories260K.gguf 2>/dev/null); then model=$stories; fi
export XDG_CACHE_HOME="$WORK/cache"
export PTXSIM_DEVICES=sm_89,sm_90 PTXSIM_MEMORY=64m
"$QUERN" compile -q "$model" -o "$WORK/both.qn" --target host,cuda:sm_80 --ctx 64 2>"$WORK/err" || {
  grep -q "NVRTC" "$WORK/err" && skip "$(cat "$WORK/err")"
  fail "quern compile: $(cat "$WORK/err")"
}

# wrong CODE TEXT COMMAND ARGUMENT...: ends with CODE, one line on stderr that holds TEXT, nothing on stdout.
wrong() {
  local code=0
  "$QUERN" "$3" -q "${@:4}" >"$WORK/out" 2>"$WORK/err" </dev/null || code=$?
  [ "$code" -eq "$1" ] || fail "${*:3}: exit code $code, want $1: $(cat "$WORK/err")"
  [ "$(wc -l <"$WORK/err")" -eq 1 ] || fail "${*:3}: want one line, got: $(cat "$WORK/err")"
  grep -qF -e "$2" "$WORK/err" || fail "${*:3}: want '$2' in: $(cat "$WORK/err")"
  [ ! -s "$WORK/out" ] || fail "${*:3}: an error with text on stdout"
}

# ---- the same text

prompt="Once upon a time"
run=(-p "$prompt" -n 8)
"$QUERN" run -q "$WORK/both.qn" "${run[@]}" >"$WORK/want" || fail "quern run on the CPU ends with $?"
"$QUERN" run "$WORK/both.qn" "${run[@]}" --device cuda >"$WORK/got" 2>"$WORK/err" || fail "on the GPU: $(cat "$WORK/err")"
cmp "$WORK/got" "$WORK/want" >&2 || fail "another text on the GPU"
grep -qE '^quern: on cuda:0, .* \(sm_[0-9]+\), (PTX|machine code) of cuda:sm_80$' "$WORK/err" || fail "what is told: $(cat "$WORK/err")"
"$QUERN" run -q "$WORK/both.qn" "${run[@]}" --device cuda:0 --libcuda "$QUERN_LIBCUDA" --check-kernels --json >"$WORK/json" ||
  fail "--check-kernels ends with $?"
for part in '"device": {"id": "cuda:0", "name": "' '"chip": "sm_' '"code": "' '"target": "cuda:sm_80"' '"threads": 0'; do
  grep -qF "$part" "$WORK/json" || fail "no $part in $(cat "$WORK/json")"
done
# Drawn tokens: the device's choice is the host's, also where a penalty leaves it to the host.
for options in "--temp 1 --seed 7" "--temp 2 --top-k 0 --top-p 0.9 --min-p 0 --seed 3" "--temp 1 --seed 7 --repeat-penalty 1.3"; do
  # shellcheck disable=SC2086
  "$QUERN" run -q "$WORK/both.qn" "${run[@]}" $options >"$WORK/drawn" || fail "$options on the CPU ends with $?"
  # shellcheck disable=SC2086
  "$QUERN" run -q "$WORK/both.qn" "${run[@]}" $options --device cuda >"$WORK/got" || fail "$options on the GPU ends with $?"
  cmp "$WORK/got" "$WORK/drawn" >&2 || fail "$options: another text on the GPU"
done
# A model file: compiled for the device's chip, and from the cache the second time.
for remark in 'for cuda:sm_80, to be cached at' 'from the cache'; do
  "$QUERN" run "$model" "${run[@]}" --device cuda -c 64 >"$WORK/got" 2>"$WORK/err" || fail "a model file: $(cat "$WORK/err")"
  cmp "$WORK/got" "$WORK/want" >&2 || fail "another text from a model file"
  if [ "$QUERN_LIBCUDA" = "$simulator" ]; then grep -qF "$remark" "$WORK/err" || fail "want '$remark': $(cat "$WORK/err")"; fi
done

# ---- eval: the same numbers

echo "Once upon a time there was a fox." >"$WORK/line"
for device in cpu cuda; do
  "$QUERN" eval -q "$WORK/both.qn" --perplexity "$WORK/line" --lines --device $device --json "$WORK/eval_$device" >/dev/null 2>"$WORK/err" ||
    fail "eval on $device: $(cat "$WORK/err")"
  grep -oE '"perplexity": \{"value": [0-9].*' "$WORK/eval_$device" >"$WORK/numbers_$device" || fail "no perplexity in $(cat "$WORK/eval_$device")"
done
cmp "$WORK/numbers_cpu" "$WORK/numbers_cuda" >&2 || fail "eval on the GPU: $(cat "$WORK/numbers_cuda"), want $(cat "$WORK/numbers_cpu")"

# ---- bench

"$QUERN" bench -q "$WORK/both.qn" --device cuda --prompt 3 -n 2 --reps 1 --json "$WORK/bench.json" >"$WORK/table" 2>"$WORK/err" ||
  fail "quern bench ends with $?: $(cat "$WORK/err")"
for text in '^device cuda:0, .* copies read and write [0-9.]+ GB/s; tensor cores [0-9.]+ TOP/s int8, .* fp32$' ' MFU' 'TTFT ms' 'MBU' '^energy: not read of GPUs'; do
  grep -qE "$text" "$WORK/table" || fail "the table lacks '$text': $(cat "$WORK/table")"
done
for key in read_bytes_per_s load_ms start_ms int8_ops_per_s f16_flops_per_s ttft_ms tokens_per_s mbu mfu p50 mean; do
  grep -oE "\"$key\": -?[0-9]" "$WORK/bench.json" >/dev/null || fail "no \"$key\" in $(cat "$WORK/bench.json")"
done
grep -qF '"device": {"id": "cuda:0"' "$WORK/bench.json" || fail "no device in $(cat "$WORK/bench.json")"

QUERN_NVRTC=/nowhere/libnvrtc.so "$QUERN" bench -q "$WORK/both.qn" --device cuda --prompt 3 -n 1 --reps 1 >"$WORK/table" 2>"$WORK/err" ||
  fail "quern bench without NVRTC ends with $?: $(cat "$WORK/err")"
grep -q '^no MFU: NVRTC: cannot be loaded' "$WORK/table" || fail "the table tells not why there is no MFU: $(cat "$WORK/table")"

# ---- verify: the device's code against the loop IR

"$QUERN" verify --fast "$WORK/both.qn" --device cuda >"$WORK/out" 2>"$WORK/err" || fail "verify: $(cat "$WORK/out" "$WORK/err")"
grep -q 'kernels for cuda:sm_80 are right' "$WORK/err" || fail "verify: $(cat "$WORK/err")"
[ "$(grep -c '^OK' "$WORK/out")" -gt 10 ] || fail "verify: $(cat "$WORK/out")"

# ---- what makes no sense

for command in run bench; do
  wrong 2 "--threads: is for CPUs, got --device cuda" $command "$WORK/both.qn" --device cuda --threads 2
  wrong 2 "--huge-pages: is for CPUs" $command "$WORK/both.qn" --device cuda --huge-pages off
  wrong 2 "--device: got 'gpu', want cpu, cuda or cuda:N" $command "$WORK/both.qn" --device gpu
  wrong 2 "--device: got 'cuda:99', want one of: cpu, cuda:0 (" $command "$WORK/both.qn" --device cuda:99
  wrong 2 "--libcuda: is for GPUs; give --device cuda, too" $command "$WORK/both.qn" --libcuda "$QUERN_LIBCUDA"
  wrong 7 "no driver: $WORK/none.so cannot be loaded" $command "$WORK/both.qn" --device cuda --libcuda "$WORK/none.so"
  wrong 2 "got target 'host+x', want one of: cuda:sm_80" $command "$WORK/both.qn" --device cuda --target host+x
done
wrong 2 "--clock: is for CPUs" bench "$WORK/both.qn" --device cuda --clock cpu
wrong 2 "--jit: is for CPUs" run "$model" --device cuda --jit
wrong 2 "--check-kernels: is for GPUs" run "$WORK/both.qn" --check-kernels
"$QUERN" compile -q "$model" -o "$WORK/cpu.qn" --ctx 64
wrong 7 "there is no code for GPUs in this artifact; compile it with --target cuda:" run "$WORK/cpu.qn" --device cuda
wrong 7 "there is no code for GPUs in this artifact; compile it with --target cuda:" verify "$WORK/cpu.qn" --device cuda
"$QUERN" compile -q "$model" -o "$WORK/gpu.qn" --target cuda:sm_90 --ctx 64
wrong 7 "there is code for GPUs only in this artifact; run it with --device cuda" run "$WORK/gpu.qn"
if [ "$QUERN_LIBCUDA" = "$simulator" ]; then
  wrong 7 "too old a chip: it is sm_89" run "$WORK/gpu.qn" --device cuda
  "$QUERN" run -q "$WORK/gpu.qn" "${run[@]}" --device cuda:1 >"$WORK/got" || fail "cuda:1 ends with $?"
  cmp "$WORK/got" "$WORK/want" >&2 || fail "another text on cuda:1"
  PTXSIM_MEMORY=300k wrong 6 "out of memory for" run "$WORK/both.qn" --device cuda
  PTXSIM_DRIVER=11080 wrong 7 "the driver is too old: got one for CUDA 11.8" run "$WORK/both.qn" --device cuda
  PTXSIM_DEVICES=none wrong 7 "no device" run "$WORK/both.qn" --device cuda
fi

# ---- tests/gpu: runs the tests where there is a device, and else says what lacks

mkdir "$WORK/bin"
printf '#!/bin/sh\necho "QUERN_TEST_LIBCUDA=$QUERN_TEST_LIBCUDA ctest $*"\n' >"$WORK/bin/ctest"
chmod +x "$WORK/bin/ctest"
PATH="$WORK/bin:$PATH" "$QUERN_SOURCE/tests/gpu" --libcuda "$QUERN_LIBCUDA" >"$WORK/out" || fail "tests/gpu ends with $?: $(cat "$WORK/out")"
grep -qF "QUERN_TEST_LIBCUDA=$QUERN_LIBCUDA ctest --test-dir $QUERN_BUILD" "$WORK/out" || fail "tests/gpu: $(cat "$WORK/out")"
code=0
PATH="$WORK/bin:$PATH" "$QUERN_SOURCE/tests/gpu" --libcuda "$WORK/none.so" >"$WORK/out" || code=$?
[ "$code" -eq 77 ] && grep -q '^SKIP: .*no driver: .*none.so cannot be loaded' "$WORK/out" || fail "tests/gpu without a driver: $code, $(cat "$WORK/out")"
pass "the same text on a GPU, its device told, errors in words"
