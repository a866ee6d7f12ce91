#!/usr/bin/env bash
# quern tune: a session ends and says why, the next one goes on where it stopped, also after a kill; what it found is
# used by compile and run, changes no bit, and is told; databases that cannot be used are told, too.
. "$(dirname "$0")/../support/e2e.sh"
need_quern
nano="$QUERN_SOURCE/models/nano/nano.gguf" logits="$QUERN_BUILD/tests/quern-logits"
[ -r "$nano" ] || skip "models/nano/nano.gguf is missing"
[ -x "$logits" ] || skip "$logits is not built"
export XDG_CACHE_HOME="$WORK/cache"
cd "$WORK"
db="$WORK/records.db"

# tune ARGUMENT...: a session on the database; its report is in `report`, its progress in `progress`.
tune() {
  "$QUERN" tune "$nano" --db "$db" "$@" >report 2>progress || fail "tune $*: ends with $?: $(cat progress)"
}

# says FILE TEXT: the file has a line with that text.
says() { grep -qF -e "$2" "$1" || fail "want '$2' in $1: $(cat "$1")"; }

# tried: how many candidates the last session tried, known: how many it knew.
tried() { sed -n 's/^\([0-9]*\) candidates tried in .*/\1/p' report; }
known() { sed -n 's/.* s, \([0-9]*\) known from before.*/\1/p' report; }

# ---- a session and the next

"$QUERN" compile -q "$nano" -o before.qn --tuning-db none
for budget in 3s 12s 60s; do # a batch that the budget cuts off was not tried, which a busy machine needs longer for
  tune --budget "$budget" --json report.json
  [ "$(tried)" -eq 0 ] || break
done
[ "$(tried)" -gt 0 ] || fail "nothing was tried: $(cat report)"
says report "it ended because "
says report "records: $db"
says progress "tried, "
for field in '"kernels": [' '"schedule": "m_tiles = ' '"end": "' '"tried": '; do says report.json "$field"; done

# A kernel with few schedules comes to its end; then there is nothing left to do.
few='qk_rmsnorm*'
for _ in 1 2 3; do
  tune --budget 20s --kernel "$few"
  grep -q "it ended because the budget" report || break
done
tune --budget 20s --kernel "$few"
[ "$(tried)" -eq 0 ] && [ "$(known)" -gt 0 ] || fail "a finished kernel is tuned again: $(cat report)"

# ---- what was found is used, and changes nothing

"$QUERN" compile "$nano" -o after.qn --tuning-db "$db" 2>err
grep -qE '^quern: schedules from tuning: [1-9][0-9]* of [0-9]+$' err || fail "compile uses no records: $(cat err)"
"$QUERN" inspect -w kernels after.qn | has '^  tuned for rows .* us at .* rows.*; machine .*; build ' ||
  fail "the artifact has no evidence"
"$logits" before.qn >before.txt && "$logits" after.qn >after.txt
cmp -s before.txt after.txt || fail "tuning changes bits: $(diff before.txt after.txt)"
"$QUERN" verify -q after.qn >verified || fail "verify: $(cat verified)"

# An artifact is tuned by what it carries, and knows the records of its model.
"$QUERN" tune after.qn --db "$db" --budget 0 >report 2>progress || fail "tune an artifact: $(cat progress)"
[ "$(known)" -gt 0 ] || fail "an artifact's kernels are others than its model's: $(cat report)"
says progress "a budget of 0 s allows no trial"

# With --guesses keys and values are written to several sequences, by kernels that there are not without.
writes='qk_kv_write*'
for budget in 2s 12s 60s; do
  tune --guesses --batch 4 --budget "$budget" --kernel "$writes"
  [ "$(tried)" -eq 0 ] || break
done
[ "$(tried)" -gt 0 ] || fail "nothing of $writes was tried: $(cat report)"
"$QUERN" compile -q "$nano" --guesses --batch 4 -o guesses.qn --tuning-db "$db"
"$QUERN" tune guesses.qn --db "$db" --budget 0 --kernel "$writes" >report 2>progress || fail "tune: $(cat progress)"
[ "$(known)" -gt 0 ] || fail "nothing of $writes is known: $(cat report)"
"$QUERN" tune "$nano" --batch 4 --db none --budget 0 --kernel "$writes" >report 2>&1 && fail "without --guesses there are $writes, too"

# How to compile is said by the model, not by what was compiled from it.
for option in "--ctx 64" "--chunk 32" "--batch 2" "--guesses" "--numeric f32" "--quant q8_0" "--kv-type f16" "--template x.json"; do
  code=0
  # shellcheck disable=SC2086
  "$QUERN" tune -q after.qn --db none --budget 0 $option >report 2>err || code=$?
  [ "$code" -eq 2 ] || fail "tune an artifact with $option: exit code $code, want 2: $(cat err)"
  says err "${option%% *}: is for model files, got the artifact after.qn"
done

# New records lead run to a new compilation.
run() { "$QUERN" run "$nano" -p "copy: k q d =" -n 20 "$@" >text 2>err || fail "run $*: $(cat err)"; }
run --tuning-db fresh.db
says err "quern: compiling"
run --tuning-db fresh.db
says err "quern: from the cache:"
cp "$db" fresh.db
run --tuning-db fresh.db
says err "tuning has found other schedules since it was cached"
says err "schedules from tuning: "
run --tuning-db fresh.db
says err "quern: from the cache:"

# Records are for a number of threads: runs with so many use them, others keep their own artifact.
usual=$(sed -n 's/.*"threads": \([0-9]*\).*/\1/p' report.json)
other=$((usual + 1))
for budget in 3s 12s 60s; do
  "$QUERN" tune "$nano" --db threads.db --budget "$budget" --threads "$other" --kernel 'qk_rmsnorm' >report 2>progress ||
    fail "tune --threads $other: $(cat progress)"
  [ "$(tried)" -eq 0 ] || break
done
says report "they are for $other threads: quern run --threads $other and quern compile --run-threads $other use them"
"$QUERN" compile "$nano" -o threads.qn --tuning-db threads.db 2>err
says err "note: tuning has found schedules for $other threads, and none for the $usual that are compiled for"
"$QUERN" compile "$nano" -o threads.qn --tuning-db threads.db --run-threads "$other" 2>err
grep -qE '^quern: schedules from tuning: [1-9][0-9]* of [0-9]+$' err || fail "--run-threads uses no records: $(cat err)"
"$logits" threads.qn >threads.txt
cmp -s before.txt threads.txt || fail "schedules for other threads change bits"
run --tuning-db threads.db --threads "$other"
says err "schedules from tuning: "
run --tuning-db threads.db
says err "none for the $usual"
run --tuning-db threads.db --threads "$other"
says err "quern: from the cache:"

# ---- export and import

"$QUERN" tune --db "$db" --export all.txt 2>err || fail "$(cat err)"
says err "written to all.txt"
"$QUERN" tune --db other.db --import all.txt 2>err || fail "$(cat err)"
"$QUERN" tune --db other.db --export again.txt -q
cmp -s all.txt again.txt || fail "an import loses or changes something"

# ---- interrupted and killed

# started ARGUMENT...: a session in the background that has found something, with its process in $session.
started() {
  "$QUERN" tune "$nano" --db killed.db --budget 1h >report 2>progress &
  session=$!
  for _ in $(seq 1 600); do
    sleep 0.1
    grep -q ' tried, ' progress || continue # it reads the model still, which can be ended, too
    [ "$("$QUERN" tune --db killed.db --export count.txt -q 2>/dev/null && wc -l <count.txt)" -gt 2 ] 2>/dev/null && return
    sleep 0.1
  done
  fail "a session finds nothing: $(cat progress)"
}
started
kill -9 "$session"
wait "$session" 2>/dev/null || true
grep -c '^record' count.txt >before_kill || true
"$QUERN" tune "$nano" --db killed.db --budget 0 >report 2>progress || fail "after a kill: $(cat progress)"
[ "$(known)" -gt 0 ] || fail "a killed session has left nothing: $(cat report)"
started
kill -TERM "$session"  # a shell's background process ignores SIGINT
code=0
wait "$session" || code=$?
[ "$code" -eq 143 ] || fail "an interrupted session ends with $code, want 143: $(cat progress)"
says report "it ended because it was interrupted"

# ---- databases that cannot be used, and other mistakes

# wrong CODE TEXT ARGUMENT...: quern tune ends so, with one line that holds the text.
wrong() {
  local code=0
  "$QUERN" tune -q "${@:3}" >out 2>err || code=$?
  [ "$code" -eq "$1" ] || fail "tune ${*:3}: exit code $code, want $1: $(cat err)"
  [ "$(wc -l <err)" -eq 1 ] || fail "tune ${*:3}: want one line, got: $(cat err)"
  says err "$2"
}
echo 'This is no database, but a text that is longer than a header.' >text.db
wrong 3 "text.db" "$nano" --db text.db --budget 1s
head -c 3000 "$db" >short.db
wrong 3 "short.db" "$nano" --db short.db --budget 1s
wrong 5 "Is a directory" "$nano" --db "$WORK" --budget 1s
wrong 2 "got the pattern 'nothing*', want one that matches a kernel's name" "$nano" --db none --kernel 'nothing*'
wrong 2 "--budget: got 'soon', want a time: 60s, 5m, 1h" "$nano" --budget soon
wrong 2 "--within: got '0', want a part of more than 0: 5%, 0.05" "$nano" --within 0
wrong 2 "got no file, want a model file or an artifact" --budget 1s
wrong 2 "--db: got 'none', want a database to export from or import into" --db none --export x.txt
wrong 3 "text.db" --db imported.db --import text.db
wrong 5 "missing.gguf" missing.gguf
case $(uname -m) in
  x86_64) wrong 7 "so its code cannot be timed here" "$nano" --target aarch64 --db none ;;
esac
# compile goes on without them, and says so.
"$QUERN" compile "$nano" -o x.qn --tuning-db text.db 2>err || fail "compile with a bad database: $(cat err)"
says err "quern: warning: the records of tuning are not used: "

# An edited record is not used, and told.
if python3 -c 'import sqlite3' 2>/dev/null; then
  cp "$db" edited.db
  python3 - <<'END'
import sqlite3
db = sqlite3.connect("edited.db")
db.execute("UPDATE finished SET plan = replace(plan, 'k_unroll = 1', 'k_unroll = 0')")
db.execute("UPDATE finished SET reason = reason || '.'")
db.commit()
END
  "$QUERN" compile "$nano" -o x.qn --tuning-db edited.db 2>err || fail "compile with edited records: $(cat err)"
  says err "was edited: its checksum does not hold"
  "$QUERN" tune "$nano" --db edited.db --budget 0 >report 2>err || fail "tune with edited records: $(cat err)"
  grep -qE '^quern: warning: [1-9][0-9]* entries of the database are not used, the first: qk_.*: was edited' err ||
    fail "tune says nothing of edited records: $(cat err)"
fi
pass
