#!/usr/bin/env bash
# Killed at random moments, a compilation leaves the old file or the whole new one, and the next one clears up what it
# left. QUERN_TEST_ALL=1: 100 times instead of a few.
. "$(dirname "$0")/../support/e2e.sh"
need_quern
nano="$QUERN_SOURCE/models/nano/nano.gguf"
[ -r "$nano" ] || skip "models/nano/nano.gguf is missing"
rounds=4
[ "${QUERN_TEST_ALL:-0}" = 0 ] || rounds=100
mkdir "$WORK/out"
export XDG_CACHE_HOME="$WORK/cache"
unset QUERN_OBJECT_CACHE  # a compilation takes its time

# Two artifacts that differ, and how long one takes.
begin=$(date +%s%N)
"$QUERN" compile -q "$nano" -o "$WORK/old.qn" --ctx 64
took=$((($(date +%s%N) - begin) / 1000000))
"$QUERN" compile -q "$nano" -o "$WORK/new.qn" --ctx 128
! cmp -s "$WORK/old.qn" "$WORK/new.qn" || fail "the two artifacts are the same"
cp "$WORK/old.qn" "$WORK/out/model.qn"

# kill_at MILLISECONDS COMMAND...: starts it and kills it after so long.
kill_at() {
  "${@:2}" >"$WORK/text" 2>"$WORK/err" &
  local pid=$!
  sleep "$(($1 / 1000)).$(printf %03d $(($1 % 1000)))"
  kill -9 "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || true
}

RANDOM=1
killed=0
for ((round = 0; round < rounds; round++)); do
  # Most of the writing is at the end: every other moment is near it.
  if ((round % 2)); then at=$((took * 3 / 4 + RANDOM % (took / 2 + 1))); else at=$((RANDOM % (took + 1))); fi
  kill_at "$at" "$QUERN" compile -q "$nano" -o "$WORK/out/model.qn" --ctx 128
  if cmp -s "$WORK/out/model.qn" "$WORK/old.qn"; then
    killed=$((killed + 1))
  else
    cmp -s "$WORK/out/model.qn" "$WORK/new.qn" || fail "killed after $at ms: neither the old file nor the new one"
    cp "$WORK/old.qn" "$WORK/out/model.qn"
  fi
done
[ "$killed" -gt 0 ] || fail "no compilation was killed before its end"
"$QUERN" compile -q "$nano" -o "$WORK/out/model.qn" --ctx 128
cmp -s "$WORK/out/model.qn" "$WORK/new.qn" || fail "a compilation after those killed is another"
[ "$(ls -A "$WORK/out")" = model.qn ] || fail "something stays behind: $(ls -A "$WORK/out")"

# The cache: what is found in it after a kill works, and nothing else stays.
for ((round = 0; round < rounds / 2; round++)); do
  kill_at $((took / 2 + RANDOM % (took / 2 + 1))) "$QUERN" run -q "$nano" -p "copy: k q d =" -n 20
done
[ "$("$QUERN" run -q "$nano" -p "copy: k q d =" -n 20)" = " k q d" ] || fail "the cache after kills"
[ "$(find "$XDG_CACHE_HOME/quern" -type f | wc -l)" -eq 1 ] || fail "the cache after kills: $(ls -A "$XDG_CACHE_HOME/quern")"
pass
