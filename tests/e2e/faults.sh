#!/usr/bin/env bash
# A system whose calls on files fail or do half their work (tests/support/preload/faults.c): compiling, running, the cache
# and the tuning database end in success or in an error with words; an artifact is there whole or not at all.
# QUERN_TEST_ALL=1: every call in turn instead of some (sessions make several hundred each, half a second apiece).
. "$(dirname "$0")/../support/e2e.sh"
need_quern
nano="$QUERN_SOURCE/models/nano/nano.gguf" library="$QUERN_BUILD/tests/faults.so"
[ -r "$nano" ] || skip "models/nano/nano.gguf is missing"
[ -r "$library" ] || skip "faults.so is not built"
mkdir "$WORK/out"
export XDG_CACHE_HOME="$WORK/cache" XDG_DATA_HOME="$WORK/data"
unset QUERN_OBJECT_CACHE  # every run makes the same calls
# The sanitizer wants to be the first library. Here it comes after ours, which finds it by RTLD_NEXT.
export ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}verify_asan_link_order=0"
most=3
[ "${QUERN_TEST_ALL:-0}" = 0 ] || most=1000000

# faulty CALL AT HOW PATH COMMAND...: with the fault from that call on; the status is in $code, the message in err.
faulty() {
  code=0
  QUERN_FAULT_CALL=$1 QUERN_FAULT_AT=$2 QUERN_FAULT_HOW=$3 QUERN_FAULT_PATH=$4 LD_PRELOAD=$library \
    "${@:5}" >"$WORK/text" 2>"$WORK/err" || code=$?
}

# calls CALL PATH COMMAND...: prints how many calls of the kind a success takes.
calls() {
  rm -f "$WORK/count"
  : >"$WORK/count"
  QUERN_FAULT_COUNT="$WORK/count" faulty "$1" 0 EIO "$2" "${@:3}"
  [ "$code" -eq 0 ] || fail "${*:3}: ends with $code: $(cat "$WORK/err")"
  stat -c %s "$WORK/count"
}

# some COUNT: some of the numbers 1 to COUNT, with the first and the last.
some() {
  local i
  if [ "$1" -le "$most" ]; then seq 1 "$1"; else for ((i = 0; i < most; i++)); do echo $((1 + i * ($1 - 1) / (most - 1))); done; fi
}

# A clean error: a status of quern's, and a line that names what could not be done.
clean_error() {
  [ "$code" -ge 2 ] && [ "$code" -le 10 ] && grep -q '^quern: .*: ' "$WORK/err" || fail "$*: code $code: $(cat "$WORK/err")"
}

# --- compiling: nothing or the old file is there after an error, and no other

cat >"$WORK/graph.json" <<'JSON'
{"quern_graph": 1, "name": "small", "inputs": {"x": {"shape": ["T", 8]}},
 "weights": {"w": {"shape": [8], "data": [1, 2, 3, 4, 5, 6, 7, 8]}},
 "graph": [{"set": "y", "op": "rmsnorm", "args": ["x", "w"], "attrs": {"eps": 1e-5}}, {"output": "y", "value": "y"}]}
JSON
compile=("$QUERN" compile -q "$WORK/graph.json" -o "$WORK/out/model.qn" --ctx 64)
"${compile[@]}"
cp "$WORK/out/model.qn" "$WORK/whole.qn"
for kind in "write ENOSPC" "write EIO" "fsync EIO" "fsync EDQUOT" "rename EACCES" "open EROFS"; do
  read -r call how <<<"$kind"
  total=$(calls "$call" "$WORK/out" "${compile[@]}")
  [ "$total" -gt 0 ] || fail "compile makes no call of $call"
  for at in $(some "$total"); do
    echo old >"$WORK/old"
    cp "$WORK/whole.qn" "$WORK/out/model.qn"
    touch -d '2001-02-03' "$WORK/out/model.qn"
    faulty "$call" "$at" "$how" "$WORK/out" "${compile[@]}"
    if [ "$code" -ne 0 ]; then
      clean_error "compile, $kind at $at"
      grep -q model.qn "$WORK/err" || fail "compile, $kind at $at: the file is not named: $(cat "$WORK/err")"
      [ "$(stat -c %Y "$WORK/out/model.qn")" = "$(date -d '2001-02-03' +%s)" ] || fail "compile, $kind at $at: the old file is gone"
    fi
    cmp -s "$WORK/out/model.qn" "$WORK/whole.qn" || fail "compile, $kind at $at: neither the old file nor the new one"
    [ "$(ls -A "$WORK/out")" = model.qn ] || fail "compile, $kind at $at: leaves $(ls -A "$WORK/out")"
  done
  [ "$call" = open ] || [ "$code" -ne 0 ] || fail "compile, $kind: the last one is not noticed"
done
for how in short interrupted; do
  faulty write 1 "$how" "$WORK/out" "${compile[@]}"
  [ "$code" -eq 0 ] && cmp -s "$WORK/out/model.qn" "$WORK/whole.qn" || fail "compile, write $how: $(cat "$WORK/err")"
done
for how in EIO EACCES; do
  compile_nano=("$QUERN" compile -q "$nano" -o "$WORK/nano.qn" --ctx 64)
  faulty open 1 "$how" nano.gguf "${compile_nano[@]}"
  clean_error "compile, opening the model: $how"
  faulty mmap 1 "$how" nano.gguf "${compile_nano[@]}"
  clean_error "compile, mapping the model: $how"
done

# --- running

"$QUERN" compile -q "$nano" -o "$WORK/nano.qn" --ctx 64
run=("$QUERN" run -q "$WORK/nano.qn" -p "copy: k q d =" -n 20)
for call in open mmap read; do
  total=$(calls "$call" nano.qn "${run[@]}")
  for at in $(some "$total"); do
    faulty "$call" "$at" EIO nano.qn "${run[@]}"
    [ "$code" -eq 0 ] && [ "$(cat "$WORK/text")" = " k q d" ] || clean_error "run, $call at $at"
  done
done
faulty write 1 ENOSPC "$WORK/text" "${run[@]}"
clean_error "run, standard output is full"
faulty write 1 short "$WORK/text" "${run[@]}"
[ "$code" -eq 0 ] && [ "$(cat "$WORK/text")" = " k q d" ] || fail "run, short writes: $(cat "$WORK/text" "$WORK/err")"
echo -n "copy: k q d =" >"$WORK/prompt"
for how in short interrupted EIO; do
  faulty read 1 "$how" prompt bash -c '"$0" run -q "$1" -n 20 <"$2"' "$QUERN" "$WORK/nano.qn" "$WORK/prompt"
  if [ "$how" = EIO ]; then
    clean_error "run, a prompt that cannot be read"
  else
    [ "$code" -eq 0 ] && [ "$(cat "$WORK/text")" = " k q d" ] || fail "run, read $how: $(cat "$WORK/text" "$WORK/err")"
  fi
done

# --- the cache: a place that fails costs the cache or is told, and what is there later is whole

cached=("$QUERN" run -q "$nano" -p "copy: k q d =" -n 20)
for kind in "write ENOSPC" "fsync EIO" "rename EIO"; do
  read -r call how <<<"$kind"
  rm -rf "$XDG_CACHE_HOME"
  faulty "$call" 1 "$how" "$XDG_CACHE_HOME" "${cached[@]}"
  [ "$code" -eq 0 ] && [ "$(cat "$WORK/text")" = " k q d" ] || clean_error "the cache, $kind"
  [ "$(find "$XDG_CACHE_HOME" -name '*.qn' | wc -l)" -eq 0 ] || fail "the cache, $kind: there is an artifact"
  [ "$("${cached[@]}")" = " k q d" ] || fail "the cache after $kind"
done

# --- the tuning database: an error is told, and the database is none the worse

db="$WORK/tuning.db"
tune=("$QUERN" tune -q "$WORK/graph.json" --budget 2s --db "$db" --ctx 64 --threads 1)
"${tune[@]}" >"$WORK/text" 2>"$WORK/err" || fail "tune: $(cat "$WORK/err")"
before=$("$QUERN" tune --export "$WORK/before.txt" --db "$db" 2>"$WORK/err" >/dev/null && wc -l <"$WORK/before.txt")
for kind in "write ENOSPC" "write EIO" "fsync EIO" "open EIO" "read EIO"; do
  read -r call how <<<"$kind"
  faulty "$call" 2 "$how" "$db" "$QUERN" tune --import "$WORK/before.txt" --db "$db"
  [ "$code" -eq 0 ] || clean_error "tune --import, $kind"
  rm -f "$WORK/new.db"*
  faulty "$call" 2 "$how" "$WORK/new.db" "$QUERN" tune --import "$WORK/before.txt" --db "$WORK/new.db"
  [ "$code" -eq 0 ] || clean_error "tune --import into a new database, $kind"
  faulty "$call" 2 "$how" "$db" "${compile[@]}" --tuning-db "$db"
  [ "$code" -eq 0 ] || clean_error "compile with a database, $kind"
  "$QUERN" tune --export "$WORK/after.txt" --db "$db" >/dev/null 2>"$WORK/err" || fail "the database after $kind"
  [ "$(wc -l <"$WORK/after.txt")" -eq "$before" ] || fail "the database after $kind: lines are lost"
done

# --- sessions: a database that fails on the way, and a system that gives no process

session=("$QUERN" tune -q "$WORK/graph.json" --budget 0.3s --db "$WORK/session.db" --ctx 64 --threads 1)
for kind in "write ENOSPC" "write EIO" "fsync EIO"; do
  read -r call how <<<"$kind"
  rm -f "$WORK/session.db"*
  total=$(calls "$call" session.db "${session[@]}")
  [ "$total" -gt 3 ] || fail "a session makes $total calls of $call"
  for at in $((total * 3 / 4)) $(if [ "$most" -gt 3 ]; then seq 1 "$total"; fi); do
    rm -f "$WORK/session.db"*
    faulty "$call" "$at" "$how" session.db "${session[@]}"
    [ "$code" -eq 0 ] || clean_error "a session, $kind at $at of $total"
    "$QUERN" tune --export "$WORK/after.txt" --db "$WORK/session.db" >/dev/null 2>"$WORK/err" ||
      grep -q "want to make its tables" "$WORK/err" ||  # which it had not come to
      fail "the database after a session with $kind at $at: $(cat "$WORK/err")"
  done
  "${session[@]}" >"$WORK/text" 2>"$WORK/err" || fail "the session after one with $kind: $(cat "$WORK/err")"
done
no_process() {  # no_process CALL HOW WANT ARGUMENT...: told, with this code
  faulty "$1" 1 "$2" "" "$QUERN" "${@:4}"
  [ "$code" -eq "$3" ] && grep -q 'child process: ' "$WORK/err" "$WORK/text" || fail "${*:4}, $1 $2: $code: $(cat "$WORK/err" "$WORK/text")"
}
tune_it=(tune "$WORK/graph.json" --budget 9s --db none --ctx 64 --threads 1)
for command in "verify --fast $WORK/whole.qn" "${tune_it[*]}"; do
  read -r -a words <<<"$command"
  no_process fork EAGAIN 8 "${words[@]}"
  no_process socketpair EMFILE 8 "${words[@]}"
done
no_process fork ENOMEM 6 verify --fast "$WORK/whole.qn"
no_process fork ENOMEM 0 "${tune_it[@]}"  # a kernel for which there is no memory is left alone
pass
