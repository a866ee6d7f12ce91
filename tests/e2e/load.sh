#!/usr/bin/env bash
# What running an artifact takes: no code generator, the weights mapped from the file and not copied (unless a copy on
# huge pages is asked for), and little memory beside them and the KV cache. Times are quern bench's business.
. "$(dirname "$0")/../support/e2e.sh"
need_quern
synth="$QUERN_BUILD/tests/quern-synth"
[ -x "$synth" ] || skip "quern-synth is not built"
[ -r /proc/self/smaps ] || skip "the system has no /proc/PID/smaps"

# ---- the choices of pages give the same text, or say what they lack

nano="$QUERN_SOURCE/models/nano/nano.gguf"
if [ -r "$nano" ]; then
  "$QUERN" compile -q "$nano" -o "$WORK/nano.qn"
  for pages in madvise off thp; do
    [ "$("$QUERN" run -q "$WORK/nano.qn" -p "copy: k q d =" --huge-pages "$pages")" = " k q d" ] || fail "--huge-pages $pages"
  done
  code=0
  "$QUERN" run -q "$WORK/nano.qn" -p "copy: k q d =" --huge-pages hugetlb >"$WORK/text" 2>"$WORK/err" || code=$?
  if [ "$code" -eq 0 ]; then
    [ "$(cat "$WORK/text")" = " k q d" ] || fail "--huge-pages hugetlb: got $(cat "$WORK/text")"
  else
    [ "$code" -eq 8 ] && grep -qE 'huge pages: (got [0-9]+ that are free, want [0-9]+ of .*/proc/sys/vm/nr_hugepages|the system has none)' \
      "$WORK/err" || fail "--huge-pages hugetlb: code $code, $(cat "$WORK/err")"
  fi
  code=0
  XDG_CACHE_HOME="$WORK" "$QUERN" run -q "$nano" --jit --huge-pages thp -p x 2>"$WORK/err" || code=$?
  [ "$code" -eq 2 ] && grep -q -e '--huge-pages: is for artifacts' "$WORK/err" || fail "--jit --huge-pages: $(cat "$WORK/err")"
  # Two NUMA nodes as far as hwloc is told: memory is spread over them where the system lets it.
  [ "$(HWLOC_SYNTHETIC='pack:1 numa:2 core:1 pu:1' HWLOC_THISSYSTEM=1 "$QUERN" run -q "$WORK/nano.qn" -p "copy: k q d =" \
    --huge-pages thp)" = " k q d" ] || fail "a machine of two NUMA nodes"
fi

# ---- what a run has in memory

"$synth" --model smollm2-135m --layers 2 --type q8_0 -o "$WORK/model.gguf" >/dev/null || fail "quern-synth"
artifact="$WORK/model.qn"
"$QUERN" compile -q "$WORK/model.gguf" -o "$artifact" --ctx 8192 --kv-type f16

# A run that goes on until it is ended, looked at when its first token is out.
mkfifo "$WORK/out"
"$QUERN" run -q "$artifact" --tokens 1,2,3,4 --ignore-eog -n 8000 -c 8192 >"$WORK/out" 2>"$WORK/err" &
run=$!
disown "$run"
trap 'kill -9 "$run" 2>/dev/null || true; rm -rf "$WORK"' EXIT
exec 9<"$WORK/out"
read -r -N 1 -t 60 _ <&9 || fail "no token comes out: $(cat "$WORK/err")"
kill -STOP "$run"
cp "/proc/$run/smaps" "$WORK/smaps"
grep '^VmHWM:' "/proc/$run/status" >"$WORK/status"
kill -9 "$run"
exec 9<&-

! grep -qE 'libLLVM|libMLIR|libquern_llvm' "$WORK/smaps" || fail "the code generator is loaded: $(grep -m1 LLVM "$WORK/smaps")"

file_kib=$(($(stat -c %s "$artifact") / 1024))
# Sums over the mappings of the artifact, and over all.
read -r mapped resident dirty anonymous < <(awk -v path="$artifact" '
  /^[0-9a-f]+-[0-9a-f]+ / { ours = $NF == path }
  $1 == "Size:" && ours { mapped += $2 }
  $1 == "Rss:" && ours { resident += $2 }
  ($1 == "Private_Dirty:" || $1 == "Shared_Dirty:") && ours { dirty += $2 }
  $1 == "Anonymous:" { anonymous += $2 }
  END { print mapped + 0, resident + 0, dirty + 0, anonymous + 0 }' "$WORK/smaps")
# All but the weights (here mostly the tokenizer) is taken into memory.
[ "$mapped" -ge $((file_kib * 9 / 10)) ] || fail "the artifact has $file_kib KiB, of which $mapped KiB are mapped"
[ "$resident" -gt 0 ] || fail "nothing of the artifact is in memory"
# A page written to is the process's own copy.
[ "$dirty" -eq 0 ] || fail "$dirty KiB of the artifact were written to"

if grep -q __asan_init "$QUERN"; then
  pass "the weights are mapped (memory is not looked at: the sanitizer takes most of it)"
fi
# 8192 keys of 2 layers, f16, are at most 12 MiB; what one run has touched of them is less.
kv_kib=$((12 * 1024))
[ "$anonymous" -le $((kv_kib + 32 * 1024)) ] || fail "$anonymous KiB of anonymous memory, want at most $((kv_kib + 32 * 1024))"
peak_kib=$(awk '{ print $2 }' "$WORK/status")
[ "$peak_kib" -le $((file_kib + kv_kib + 32 * 1024)) ] ||
  fail "$peak_kib KiB at the peak, want at most $((file_kib + kv_kib + 32 * 1024)): weights, cache and 32 MiB"
pass "$peak_kib KiB at the peak, $file_kib KiB of them the artifact's"
