#!/usr/bin/env bash
# What tuning gives, and what it costs: sessions of a minute on models, what a long session adds, tuned schedules against
# the defaults and a middle value for every knob, the next session, and what records cost a compilation. Wants a machine
# that does nothing else. Everything goes below WORK; an existing long session there goes on.
#   tests/bench/tune.sh WORK MODEL.gguf...        environment: QUERN (build/quern), LONG (30m; 0 = no long session),
# REPS (60: prompts that each artifact evaluates for a ratio)
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,6p' "$0" >&2; exit 2; }
QUERN=${QUERN:-$(dirname "$0")/../../build/quern}
LONG=${LONG:-30m}
REPS=${REPS:-60}
work=$1
shift
mkdir -p "$work"
export XDG_DATA_HOME="$work/data" XDG_CACHE_HOME="$work/cache"

seconds() { # seconds COMMAND...: what it takes on the wall
  local begin end
  begin=$(date +%s.%N)
  "$@" >/dev/null 2>&1
  end=$(date +%s.%N)
  awk -v a="$begin" -v b="$end" 'BEGIN { printf "%.2f", b - a }'
}

# turns ARTIFACT OTHER: how many times as fast the first is, by turns that both take in one process
turns() {
  "$QUERN" bench -q "$1" --against "$2" --prompt 256 -n 64 --reps "$REPS" | sed -n '/prompt/,$p'
}

"$QUERN" machine >/dev/null 2>&1 || true # so that every session and compilation knows the same machine
for model in "$@"; do
  name=$(basename "$model" .gguf)
  short="$work/$name.short.db" long="$work/$name.long.db"
  cp "$XDG_DATA_HOME/quern/tuning.db" "$short" 2>/dev/null || true
  [ -e "$long" ] || cp "$short" "$long" 2>/dev/null || true
  echo "== $name: a session of a minute"
  echo "took $(seconds "$QUERN" tune "$model" --db "$short" --budget 60s --json "$work/$name.short.json") s"
  "$QUERN" tune "$model" --db "$short" --budget 0 2>/dev/null
  echo "== $name: the next session: $(seconds "$QUERN" tune "$model" --db "$short" --budget 0) s without trials"
  echo "== $name: tuned against the default and a middle value for every knob"
  "$QUERN" tune "$model" --db "$short" --budget 0 --against middle --pairs 64 --json "$work/$name.against.json" 2>/dev/null |
    grep 'geometric mean' || true
  echo "== $name: compile, without and with records"
  for _ in 1 2 3; do
    echo "$(seconds "$QUERN" compile -q "$model" -o "$work/$name.default.qn")" \
      "$(seconds "$QUERN" compile -q "$model" -o "$work/$name.short.qn" --tuning-db "$short")"
  done
  echo "== $name: the tuned artifact against the default one"
  turns "$work/$name.short.qn" "$work/$name.default.qn"
  if [ "$LONG" != 0 ]; then
    echo "== $name: a session of $LONG"
    "$QUERN" tune "$model" --db "$long" --budget "$LONG" --json "$work/$name.long.json" 2>/dev/null | tail -4
    echo "== $name: a session after one that came to its end: $(seconds "$QUERN" tune "$model" --db "$long") s"
    "$QUERN" compile -q "$model" -o "$work/$name.long.qn" --tuning-db "$long"
    echo "== $name: after the long session against after a minute"
    turns "$work/$name.long.qn" "$work/$name.short.qn"
  fi
done
