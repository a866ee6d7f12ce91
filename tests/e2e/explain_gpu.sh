#!/usr/bin/env bash
# quern explain --device: predictions for chips that are not here, of a model file and of artifacts, as tables, JSON and a
# page that say what they are; and what makes no sense. Needs neither a GPU nor NVRTC, but for the artifact with code.
. "$(dirname "$0")/../support/e2e.sh"
need_quern
model="$QUERN_SOURCE/models/nano/nano.gguf"
[ -r "$model" ] || skip "models/nano/nano.gguf is missing"
export XDG_CACHE_HOME="$WORK/cache" XDG_DATA_HOME="$WORK/data"

# wrong CODE TEXT ARGUMENT...: ends with CODE, one line on stderr that holds TEXT, nothing on stdout.
wrong() {
  local code=0
  "$QUERN" explain -q "${@:3}" >"$WORK/out" 2>"$WORK/err" </dev/null || code=$?
  [ "$code" -eq "$1" ] || fail "explain ${*:3}: exit code $code, want $1: $(cat "$WORK/err")"
  [ "$(wc -l <"$WORK/err")" -eq 1 ] || fail "explain ${*:3}: want one line, got: $(cat "$WORK/err")"
  grep -qF -e "$2" "$WORK/err" || fail "explain ${*:3}: want '$2' in: $(cat "$WORK/err")"
  [ ! -s "$WORK/out" ] || fail "explain ${*:3}: an error with text on stdout"
}

has() {
  grep -qE -e "$2" "$1" || fail "no '$2' in $(head -c 4000 "$1")"
}

# ---- a model file

"$QUERN" explain -q "$model" --device cuda:sm_90 --prompt 16 --terms --json "$WORK/one.json" --html "$WORK/page.html" \
  >"$WORK/text" || fail "explain --device ends with $?"
has "$WORK/text" '^quern nano, cuda:sm_90: a prediction, nothing was run: .* figures of the H100, 132 multiprocessors at 1830 MHz \(.+\)$'
has "$WORK/text" '^H100: reads 3350 GB/s, [0-9.]+ TOP/s int8 by tensor cores, [0-9.]+ TFLOP/s fp32$'
has "$WORK/text" '^prefill, 16 tokens after 0 keys: .* tokens/s, MBU [0-9.]+ %, MFU [0-9.]+ %; bounds are [0-9.]+ % of it$'
has "$WORK/text" '^decode, 1 token after 16 keys: '
has "$WORK/text" '^ *[0-9.]+ % .* %  (bandwidth|cache|issue|latency|synchronisation) +qk_matmul_f16_f32_n256_k512$'
has "$WORK/text" 'qk_.* \(lanes = [0-9]+; groups = [0-9]+; .*[0-9]+ blocks? of [0-9]+ threads on [0-9]+ of 132 multiprocessors; .*\)$'
! grep -qE '^page faults|[0-9] threads?$|^tuning|measured' "$WORK/text" || fail "a prediction that tells of measuring: $(cat "$WORK/text")"
has "$WORK/one.json" '"prediction": "a prediction, nothing was run: '
! grep -qE ': -?(null|nan|inf)' "$WORK/one.json" || fail "a number that is none: $(cat "$WORK/one.json")"
has "$WORK/page.html" '<b>This is </b>a prediction, nothing was run: '
! grep -qE 'measured in the same run|Other programs|page faults</span>' "$WORK/page.html" || fail "a page that tells of measuring"
"$QUERN" explain -q "$model" --device cuda:H100 --prompt 16 --json - >"$WORK/again.json"
cmp -s "$WORK/one.json" "$WORK/again.json" || fail "the same question has two answers"

# Beside another chip.
"$QUERN" explain -q "$model" --device cuda:RTX-5090 --prompt 16 --against "$WORK/one.json" >"$WORK/text"
has "$WORK/text" '^quern nano, cuda:sm_120: a prediction'
has "$WORK/text" "^$WORK/one.json is of cuda:sm_90, predicted$"
has "$WORK/text" '^decode against .*, [0-9.]+ times as fast; '

# ---- what makes no sense

wrong 2 "device: no chip 'sm_70' is known; want one of sm_80, A100" "$model" --device cuda:sm_70
wrong 2 "device: got 'cpu', want a chip by kind or name: cuda:sm_90, cuda:H100" "$model" --device cpu
wrong 2 "--threads: is for measuring on this machine, got --device" "$model" --device cuda:H100 --threads 2
wrong 2 "--db: is for measuring on this machine, got --device" "$model" --device cuda:H100 --db none
wrong 2 "--target: is for measuring on this machine, got --device" "$model" --device cuda:H100 --target host
wrong 8 "want a context of at most 256 tokens" "$model" --device cuda:H100 --prompt 257
wrong 5 "$WORK/nothing" "$WORK/nothing" --device cuda:H100

# ---- artifacts

"$QUERN" compile -q "$model" -o "$WORK/cpu.qn"
wrong 2 "--numeric: is for model files, got an artifact" "$WORK/cpu.qn" --device cuda:H100 --numeric f32
wrong 7 "has no code that the H100 runs; compile the model with --target cuda:sm_90" "$WORK/cpu.qn" --device cuda:H100

# Code that is there tells its registers; all else is as of the model file.
if "$QUERN" compile -q "$model" -o "$WORK/gpu.qn" --target cuda:sm_80,cuda:sm_90 2>"$WORK/err"; then
  "$QUERN" explain -q "$WORK/gpu.qn" --device cuda:sm_90 --prompt 16 --terms --json "$WORK/two.json" >"$WORK/text"
  has "$WORK/text" '^quern nano, cuda:sm_90: a prediction, nothing was run: '
  has "$WORK/text" 'qk_.* \(lanes = .* bytes of shared memory; [0-9]+ registers; room for [0-9]+ % of the warps\)$'
  for key in memory_bytes value_bytes fp32_ops bandwidth_s calls; do
    [ "$(grep -o "\"$key\": [^,}]*" "$WORK/one.json" | sort | md5sum)" = "$(grep -o "\"$key\": [^,}]*" "$WORK/two.json" | sort | md5sum)" ] ||
      fail "the artifact has another $key than the model file"
  done
  "$QUERN" explain -q "$WORK/gpu.qn" --device cuda:sm_120 >/dev/null || fail "code of an older chip is not taken"
else
  grep -q 'NVRTC' "$WORK/err" || fail "compile for GPUs: $(cat "$WORK/err")"
fi
pass
