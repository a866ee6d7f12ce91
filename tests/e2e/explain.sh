#!/usr/bin/env bash
# quern explain: the tables, the JSON with every key that is promised, two runs side by side, the page, and options that
# make no sense. How the page looks is e2e/explain_page.sh's; what the numbers are is the machine's business and no test's.
. "$(dirname "$0")/../support/e2e.sh"
need_quern
model="$QUERN_SOURCE/models/nano/nano.gguf"
[ -r "$model" ] || skip "models/nano/nano.gguf is missing"
export XDG_CACHE_HOME="$WORK/cache" XDG_DATA_HOME="$WORK/data"
artifact="$WORK/nano.qn"
quick=(--reps 1 --prompt 16)

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

"$QUERN" machine -q --budget 0 >/dev/null || fail "quern machine ends with $?"  # once, instead of in every run below

# ---- tables

"$QUERN" compile -q "$model" -o "$artifact"
"$QUERN" explain "$artifact" "${quick[@]}" --threads 2 --terms --json "$WORK/one.json" >"$WORK/text" 2>"$WORK/err" ||
  fail "explain ends with $?: $(cat "$WORK/err")"
has "$WORK/text" '^quern nano, .*, 2 threads$'
has "$WORK/text" '^machine: reads [0-9.]+ GB/s, [0-9.]+ GOP/s int8 \([0-9.]+ by codes of few bits\), [0-9.]+ GFLOP/s fp32; [0-9.]+ us a page fault$'
has "$WORK/text" '^prefill, 16 tokens after 0 keys: .* tokens/s, MBU [0-9.]+ %, MFU [0-9.]+ %; bounds are [0-9.]+ % of it'
has "$WORK/text" '^decode, 1 token after 16 keys: '
has "$WORK/text" '^page faults: [0-9]+ the first time, which took .* \([0-9]+ read from a disk\), then [0-9]+ \([0-9]+\)$'
limits='bandwidth|cache|issue|fallback ISA|latency|synchronisation|page faults|not explained'
[ "$(grep -cE "^ *[0-9.]+ % .* %  ($limits) +qk_matmul_f16_f32_n256_k512$" "$WORK/text")" -eq 2 ] ||
  fail "want the kernel once in each phase: $(cat "$WORK/text")"
has "$WORK/text" 'qk_attention_h4_d64__m1 \(m_tiles = .*; parallel = [01]\)$'
grep -q '^quern: measuring' "$WORK/err" || fail "no progress: $(cat "$WORK/err")"
grep -q 'the code does without' "$WORK/text" && fail "host code that does without something: $(cat "$WORK/text")"

# ---- JSON

json_keys=(quern model target host lacking threads read_bytes_per_s int8_ops_per_s narrow_ops_per_s fp32_ops_per_s fault_s tokens depth
  seconds outside_s bound_s mbu mfu stream_bytes_per_s first_s minor_faults major_faults kernel variant place schedule
  limit tuning calls memory_bytes value_bytes int8_ops fp32_ops other_ops kernel_s wait_s share of_bound predicted_s
  tried failed tuned_s terms bandwidth synchronisation)
for key in "${json_keys[@]}"; do
  grep -q "\"$key\": " "$WORK/one.json" || fail "no \"$key\" in $(cat "$WORK/one.json")"
done
! grep -qE ': -?(null|nan|inf)' "$WORK/one.json" || fail "a number that is none: $(cat "$WORK/one.json")"
[ "$(wc -l <"$WORK/one.json")" -eq 1 ] || fail "the JSON is not one line"
if command -v python3 >/dev/null; then
  python3 - "$WORK/one.json" <<'EOF' || fail "the JSON is not as promised"
import json, sys
e = json.load(open(sys.argv[1], encoding="utf-8"))
for name in ("prefill", "decode"):
    phase = e[name]
    kernels = phase["kernels"]
    assert len(kernels) > 5, name
    assert sum(k["share"] for k in kernels) < 1.0001, name
    assert all(k["limit"] in k["terms"] for k in kernels), name
    product = next(k for k in kernels if k["kernel"] == "qk_matmul_f16_f32_n256_k512")
    assert product["calls"] == 3 and abs(product["memory_bytes"] / (3 * 512 * 256 * 2) - 1) < 1e-5, product
    assert abs(product["fp32_ops"] / (3 * phase["tokens"] * 2 * 512 * 256) - 1) < 1e-5, product  # of six digits
EOF
fi

# ---- two runs, and the page; of a model file by way of the cache

"$QUERN" explain -q "$model" "${quick[@]}" --threads 2 --against "$WORK/one.json" --html "$WORK/page.html" >"$WORK/text" ||
  fail "explain of a model file ends with $?"
has "$WORK/text" "^decode against $WORK/one.json: .*, was .*, [0-9.]+ times as fast; MBU [0-9.]+ %, was"
has "$WORK/text" '^ +[0-9.]+ +[0-9.]+ +[0-9.]+ x +[0-9.]+ % +[0-9.]+ %  qk_matmul_f16_f32_n256_k512$'
! grep -q 'not the same work' "$WORK/text" || fail "the same work is told to be another"
sed 's/qk_rmsnorm/qk_<b>/g; s/"depth": 16/"depth": 17/; s/"threads": 2/"threads": 3/' "$WORK/one.json" >"$WORK/other.json"
"$QUERN" explain -q "$artifact" "${quick[@]}" --threads 2 --against "$WORK/other.json" --html "$WORK/other.html" >"$WORK/text"
has "$WORK/text" ' new .* qk_rmsnorm$'
has "$WORK/text" ' gone .* qk_<b>$'
has "$WORK/text" '^not the same work: 1 tokens after 17 keys were measured then$'
has "$WORK/text" "^$WORK/other.json is of .*, 3 threads$"
grep -q 'qk_&#60;b&#62;' "$WORK/other.html" || fail "a name that looks like HTML is not escaped"
! grep -q '<b>_\|qk_<b>' "$WORK/other.html" || fail "a name became HTML"
has "$WORK/page.html" '^<!DOCTYPE html>'
for part in '<svg viewBox' 'Roofline' 'What the time is made of' 'Schedules, and what tuning tried' 'Against an earlier run' \
  'prefers-color-scheme:dark' 'no records' "default-src 'none'"; do
  has "$WORK/page.html" "$part"
done
! grep -qE '(src|href|action)="[^d]|url\(|@import|<script|https?://' "$WORK/page.html" ||
  fail "the page refers to something: $(grep -oE '(src|href|action)="[^"]*"|url\([^)]*\)|https?://[^" ]*' "$WORK/page.html" | head -3)"
[ "$(grep -c '<tr>' "$WORK/page.html")" -eq "$(grep -o '</tr>' "$WORK/page.html" | wc -l)" ] || fail "rows that do not end"

# ---- standard output in the tables' place

"$QUERN" explain -q "$artifact" "${quick[@]}" --threads 2 --decode-threads 1 --json - >"$WORK/text"
has "$WORK/text" '"decode": .*"threads": 1, "tokens": 1'
[ "$(wc -l <"$WORK/text")" -eq 1 ] && [ "$(head -c 1 "$WORK/text")" = "{" ] || fail "--json - gives: $(head -c 300 "$WORK/text")"

# ---- code that is not this CPU's best

if grep -q ' avx2 ' /proc/cpuinfo 2>/dev/null; then
  "$QUERN" compile -q "$model" -o "$WORK/v2.qn" --target x86-64-v2
  "$QUERN" explain -q "$WORK/v2.qn" "${quick[@]}" --html "$WORK/v2.html" >"$WORK/text"
  has "$WORK/v2.html" 'it does without .*avx2'
  has "$WORK/text" '^the code does without .*avx2.*, which this CPU has \(x86-64-v[34].*\): [0-9.]+ of [0-9.]+ GOP/s int8'
fi

# ---- what makes no sense

wrong 2 "--json: got the model file itself" "$artifact" --json "$artifact"
wrong 2 "--html: got the same file as --json" "$artifact" --json "$WORK/x" --html "$WORK/x"
wrong 2 "--db: got '', want a file or none" "$artifact" --db=
wrong 2 "--numeric: is for model files" "$artifact" --numeric f32
wrong 8 "want a context of at most 256 tokens" "$artifact" --prompt 257
wrong 8 "a depth of 256, want a context of at most 256 tokens" "$artifact" --prompt 8 --depth 256
wrong 5 "--against: $WORK/nothing" "$artifact" --against "$WORK/nothing"
sed 's/"kernel": /"kettle": /' "$WORK/one.json" >"$WORK/kettle.json"
wrong 3 "kernel: is not there" "$artifact" --against "$WORK/kettle.json"
wrong 5 "$WORK/nothing" "$WORK/nothing"
printf 'not a database, but long enough to be taken for one by its length alone' >"$WORK/bad.db"
"$QUERN" explain "$artifact" "${quick[@]}" --db "$WORK/bad.db" >"$WORK/text" 2>"$WORK/err" ||
  fail "a bad database ends it: $(cat "$WORK/err")"
has "$WORK/err" '^quern: warning: what tuning tried is not told: .*bad.db: got a file of another kind'
has "$WORK/text" '^decode'
printf '{"version": 1, "graph": []}' >"$WORK/graph.json"
"$QUERN" explain -q "$WORK/graph.json" "${quick[@]}" >"$WORK/out" 2>"$WORK/err" && fail "explains a graph without a model"

# ---- Ctrl-C

code=0
stopped INT 3 "$QUERN" explain -q "$artifact" --reps 1000 >"$WORK/out" 2>"$WORK/err" || code=$?
[ "$code" -eq 130 ] || fail "SIGINT: exit code $code, want 130: $(cat "$WORK/err")"
[ ! -s "$WORK/out" ] && [ ! -s "$WORK/err" ] || fail "SIGINT: $(cat "$WORK/out" "$WORK/err")"
pass
