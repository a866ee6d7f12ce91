#!/usr/bin/env bash
# quern machine: measured once and kept, told from the database after that, in every form; a topology that hwloc makes up;
# and what goes wrong with files and databases.
. "$(dirname "$0")/../support/e2e.sh"
need_quern

has() { grep -qE -- "$2" "$1" || fail "$1 has no '$2': $(cat "$1")"; }
# fails_with CODE PATTERN COMMAND...: ends with that code and says that on stderr.
fails_with() {
  local code=$1 pattern=$2 got=0
  shift 2
  "$@" > "$WORK/out" 2> "$WORK/err" || got=$?
  [ "$got" = "$code" ] || fail "$*: got exit code $got, want $code: $(cat "$WORK/err")"
  has "$WORK/err" "$pattern"
}

# Measured, and kept.
"$QUERN" machine -q --budget 0.5 --svg "$WORK/a.svg" > "$WORK/first" || fail "quern machine"
[ -f "$WORK/data/quern/tuning.db" ] || fail "no database was made"
for word in '^cores +[0-9]+ of [0-9]+' '^features' '^fingerprint .* threads=[0-9]+$' '^read memory, GB/s +[0-9]' \
  '^read memory, small pages, GB/s +[0-9]' '^fma, Gop/s +[0-9]' '^bf16 widened, Gop/s +[0-9]' '^int8, Gop/s +[0-9]' '^int8 of few bits, Gop/s +[0-9]' \
  '^barrier, us' '^settings +[0-9]+ threads? for prompts, [0-9]+ for tokens' 'operations a byte' '^measured .* with code for '; do
  has "$WORK/first" "$word"
done
grep -q 'measures again' "$WORK/first" && fail "what was just measured is told as stored"
has "$WORK/a.svg" '^</svg>$'
has "$WORK/a.svg" '>memory [0-9.]+.B/s<'
grep -qE 'href|url\(|src=' "$WORK/a.svg" && fail "the SVG wants something from elsewhere"

# Told from the database: at once, and the same.
"$QUERN" machine -q --json "$WORK/b.json" > "$WORK/second" || fail "quern machine, the second time"
has "$WORK/second" 'quern machine --fresh measures again'
diff <(sed 's/; quern machine.*//' "$WORK/first") <(sed 's/; quern machine.*//' "$WORK/second") > "$WORK/diff" ||
  fail "stored and measured differ: $(cat "$WORK/diff")"
"$QUERN" machine --json - > "$WORK/c.json" || fail "quern machine --json -"
cmp -s "$WORK/b.json" "$WORK/c.json" || fail "two JSON texts of one profile differ"
has "$WORK/c.json" '"from": "database"'
if command -v python3 > /dev/null; then
  python3 - "$WORK/c.json" << 'PY' || fail "the JSON is not as it should be"
import json, sys
m = json.load(open(sys.argv[1]))
n = len(m["threads"])
assert n >= 1 and m["threads"] == sorted(m["threads"])
for name in ("read_l1", "read_l2", "read_l3", "read_memory", "read_memory_small", "fma", "bf16_widened", "int8", "barrier_s"):
    assert len(m[name]) == n, name
assert all(x > 0 for x in m["read_memory"] + m["fma"] + m["bf16_widened"] + m["int8"] + m["int8_narrow"])
assert 1 <= m["settings"]["threads_decode"] <= m["settings"]["threads_prefill"] <= m["cores"]
assert m["fingerprint"].endswith("threads=%d" % m["threads"][-1]) and m["cycles_per_s"] > 1e7
PY
fi

# run takes what was found, unless its options say otherwise; the text is the same.
export XDG_CACHE_HOME=$WORK/cache
settings() { "$QUERN" run -q "$QUERN_SOURCE/models/nano/nano.gguf" -p 'Once upon' -n 20 --json "$@" > "$WORK/run.json"; }
number() { sed -E "s/.*\"$1\": ([0-9]+).*/\1/" "$2"; }
settings || fail "quern run with stored settings"
for pair in threads:threads_prefill decode_threads:threads_decode; do
  got=$(number "${pair%:*}" "$WORK/run.json") want=$(number "${pair#*:}" "$WORK/c.json")
  [ "$got" = "$want" ] || fail "run takes $got ${pair%:*}, stored are $want"
done
text=$(sed -E 's/.*"ids": \[([^]]*)\].*/\1/' "$WORK/run.json")
for options in '-j 2 --decode-threads 1 --spin 0 --no-pin --grain 1' '-j 3 --decode-threads 2 --spin 500 --pin --grain 64' '-j 1'; do
  # shellcheck disable=SC2086
  settings $options || fail "quern run $options"
  [ "$text" = "$(sed -E 's/.*"ids": \[([^]]*)\].*/\1/' "$WORK/run.json")" ] || fail "another text with $options"
done
[ "$(number threads "$WORK/run.json")" = 1 ] || fail "-j 1 is not heard"
artifact=$(echo "$WORK"/cache/quern/*.qn)
"$QUERN" run -q "$artifact" -p x -n 1 --json --tuning-db none > "$WORK/run.json" || fail "an artifact with --tuning-db"
run_nano=("$QUERN" run "$QUERN_SOURCE/models/nano/nano.gguf" -p x -n 1)
fails_with 2 "decode-threads: got 2, want at most the 1 of --threads" "${run_nano[@]}" -j 1 --decode-threads 2
fails_with 2 "spin: got '-3', want microseconds from 0 to 1000000" "${run_nano[@]}" --spin -3
fails_with 2 "pin: got --no-pin too, want one of them" "${run_nano[@]}" --pin --no-pin
mkdir -p "$WORK/bad/quern"
head -c 8192 /dev/urandom > "$WORK/bad/quern/tuning.db"
XDG_DATA_HOME=$WORK/bad "${run_nano[@]}" > "$WORK/out" 2> "$WORK/err" || fail "a damaged database ends quern run"
has "$WORK/err" "note: the machine's settings are not used: .*got a file of another kind"

# Another topology is another machine: nothing is stored for it, and its caches and nodes are told.
export HWLOC_SYNTHETIC='pack:2 [numa(memory=1073741824)] l3:1(size=8388608) core:2 l2:1(size=1048576) l1d:1(size=49152) pu:1'
"$QUERN" machine -q --budget 0 --db none > "$WORK/synthetic" || fail "quern machine on a synthetic topology"
has "$WORK/synthetic" '^cores +[1-4] of 4, .*2 packages, 2 NUMA nodes, 2 GiB'
has "$WORK/synthetic" 'L1 48 KiB \(4 of them\), L2 1 MiB \(4 of them\), L3 8 MiB for 2 cores \(2 of them\)'
has "$WORK/synthetic" '^fingerprint .* l1=48K l2=1024K l3=16384K threads='
grep -q 'measures again' "$WORK/synthetic" && fail "a profile of another machine was taken"
unset HWLOC_SYNTHETIC

# What goes wrong.
fails_with 2 "machine: got 'x.qn', want no file" "$QUERN" machine x.qn
fails_with 5 'nowhere/a.svg' "$QUERN" machine -q --svg "$WORK/nowhere/a.svg"
fails_with 5 'nowhere/a.json' "$QUERN" machine -q --json "$WORK/nowhere/a.json"
head -c 8192 /dev/urandom > "$WORK/junk.db"
fails_with 3 'junk.db: got a file of another kind, want a tuning database' "$QUERN" machine --db "$WORK/junk.db"
fails_with 5 'got neither XDG_DATA_HOME nor HOME, want one' env -u XDG_DATA_HOME -u HOME "$QUERN" machine
# A stored profile whose bytes were edited is not taken, and that is said.
sed 's/read_memory = 1/read_memory = 9/; s/read_memory = 2/read_memory = 9/; s/read_memory = [3-8]/read_memory = 9/' \
  "$WORK/data/quern/tuning.db" > "$WORK/edited.db"
if ! cmp -s "$WORK/edited.db" "$WORK/data/quern/tuning.db"; then
  "$QUERN" machine --budget 0 --db "$WORK/edited.db" > "$WORK/out" 2> "$WORK/err" || fail "an edited profile ends quern machine"
  has "$WORK/err" 'note: 1 stored measurement was rejected: edited or damaged'
fi
pass
