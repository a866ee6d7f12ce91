#!/usr/bin/env bash
# quern run on a model file: compiled once, then taken from the cache; another model, another option and a damaged file
# in the cache are seen; runs at the same time do not disturb each other.
. "$(dirname "$0")/../support/e2e.sh"
need_quern
[ -r "$QUERN_SOURCE/models/nano/nano.gguf" ] || skip "models/nano/nano.gguf is missing"
export XDG_CACHE_HOME="$WORK/cache"
folder="$XDG_CACHE_HOME/quern" model="$WORK/nano.gguf"
cp "$QUERN_SOURCE/models/nano/nano.gguf" "$model"

# run WANT ARGUMENT...: runs the model; WANT ("compiling" or "from the cache") must be what it says.
run() {
  "$QUERN" run "$model" -p "copy: k q d =" -n 20 "${@:2}" >"$WORK/text" 2>"$WORK/err" ||
    fail "run ${*:2} ends with $?: $(cat "$WORK/err")"
  grep -q "^quern: $1" "$WORK/err" || fail "run ${*:2}: want '$1', got: $(cat "$WORK/err")"
  [ "$(cat "$WORK/text")" = " k q d" ] || fail "run ${*:2}: got '$(cat "$WORK/text")'"
}

# cached COUNT: so many artifacts are in the cache, and nothing else.
cached() {
  [ "$(find "$folder" -name '*.qn' | wc -l)" -eq "$1" ] || fail "want $1 artifacts, got: $(ls "$folder")"
  [ "$(find "$folder" -type f | wc -l)" -eq "$1" ] || fail "something is left in the cache: $(ls "$folder")"
}

run "compiling .*nano.gguf for host, to be cached at $folder/"
cached 1
run "from the cache: $folder/"
cached 1
run "from the cache" --threads 1 --seed 5 --chunk 3
(cd "$WORK" && model=nano.gguf && run "from the cache") || fail "another spelling of the path is another model"
ln -s "$model" "$WORK/link.gguf"
(model="$WORK/link.gguf" && run "from the cache") || fail "a symbolic link is another model"
[ "$("$QUERN" run -q "$model" -p "copy: k q d =" 2>&1)" = " k q d" ] || fail "run --quiet says something"

run "from the cache" --numeric int8 --kv-type f32 --target host

# What changes the code or the model makes another artifact.
run "compiling" --kv-type f16
run "from the cache" --kv-type f16
cached 2
touch -d '2001-02-03 04:05:06' "$model"
run "compiling"
cached 3
run "from the cache"
mkdir "$WORK/tmp"
TMPDIR="$WORK/tmp" run "compiling" --no-cache
[ -z "$(ls "$WORK/tmp")" ] || fail "--no-cache leaves something behind: $(ls "$WORK/tmp")"
run "compiling in memory" --jit
cached 3

# --ctx is what a model file is compiled for, be it more than the model's own.
run "compiling" --ctx 9999
run "from the cache" --ctx 9999
for file in "$folder"/*.qn; do
  "$QUERN" inspect "$file" | has '^context_tokens = 9999' && rm "$file"
done
cached 3
# A long name of a model does not make one that is too long.
(
  model="$WORK/$(printf 'n%.0s' $(seq 1 240)).gguf"
  cp "$WORK/nano.gguf" "$model" && run "compiling"
  rm "$folder"/nnn*
)

# A damaged file in the cache is replaced.
for file in "$folder"/*.qn; do head -c 1000 "$file" >"$WORK/short" && cp "$WORK/short" "$file"; done
run "warning: the cached artifact cannot be used: .*truncated"
grep -q '^quern: compiling' "$WORK/err" || fail "a damaged file in the cache is not compiled again"
run "from the cache"
for file in "$folder"/*.qn; do echo 'This is no artifact.' >"$file"; done
run "warning: the cached artifact cannot be used: "
run "from the cache"

# A graph in JSON has its weights in another file: it is not cached.
echo '{"quern_graph": 1}' >"$WORK/graph.json"
"$QUERN" run "$WORK/graph.json" -p x 2>"$WORK/err" && fail "half a graph runs"
grep -q "^quern: compiling anew (graphs in JSON are not cached) $WORK/graph.json" "$WORK/err" || fail "$(cat "$WORK/err")"
cached 3

# Four at once, with an empty cache.
rm -r "$folder"
for i in 1 2 3 4; do
  "$QUERN" run "$model" -p "copy: k q d =" -n 20 >"$WORK/text$i" 2>"$WORK/err$i" &
  pids[i]=$!
done
for i in 1 2 3 4; do
  wait "${pids[i]}" || fail "run $i of four ends with $?: $(cat "$WORK/err$i")"
  [ "$(cat "$WORK/text$i")" = " k q d" ] || fail "run $i of four: got '$(cat "$WORK/text$i")'"
done
[ "$(cat "$WORK"/err? | grep -c '^quern: compiling .*, to be cached at ')" -eq 1 ] || fail "four at once compile more than once: $(cat "$WORK"/err?)"
cached 1

# A compilation that fails leaves nothing.
head -c 100000 "$model" >"$WORK/short.gguf"
code=0
"$QUERN" run "$WORK/short.gguf" -p x 2>"$WORK/err" || code=$?
[ "$code" -eq 3 ] || fail "a truncated model: exit code $code, want 3"
cached 1

# It is the user's alone, also where it was made otherwise; what others own is refused, or not used.
mode() { stat -c %a "$1"; }
[ "$(mode "$folder")" = 700 ] || fail "the cache may be entered by others: $(mode "$folder")"
chmod 755 "$folder"
run "from the cache"
[ "$(mode "$folder")" = 700 ] || fail "the cache is not made private: $(mode "$folder")"
if [ "$(id -u)" -eq 0 ]; then
  for file in "$folder"/*.qn; do chown 12345 "$file"; done
  run "compiling"
  [ "$(stat -c %u "$folder"/*.qn)" = 0 ] || fail "an artifact of another user is used"
  chown 12345 "$folder"
  code=0
  "$QUERN" run "$model" -p x 2>"$WORK/err" || code=$?
  [ "$code" -eq 5 ] && grep -q "belongs to user 12345, want user 0" "$WORK/err" || fail "another's cache: code $code: $(cat "$WORK/err")"
  chown 0 "$folder"
fi
for file in "$folder"/*.qn; do mv "$file" "$WORK/elsewhere" && ln -s "$WORK/elsewhere" "$file"; done
run "compiling"
[ ! -L "$(echo "$folder"/*.qn)" ] || fail "a link in the cache is followed"
rm "$WORK/elsewhere"

# What was not used for the longest time goes, as do leftovers; what is no artifact of ours stays.
rm "$folder"/*
run "compiling" --ctx 301
first=$(find "$folder" -name '*.qn')
run "compiling" --ctx 302
one=$(stat -c %s "$first")
touch -d '2 days ago' "$first"
export QUERN_CACHE_LIMIT=$((one * 5 / 2))
: >"$folder/notes.qn"
: >"$folder/nano.gguf-0123456789abcdef.qn.tmp.999999999.0"
: >"$folder/nano.gguf-0123456789abcdef.qn.tmp.$$.0"
: >"$folder/nano.gguf-0123456789abcdef.qn.lock"
touch -d '2 hours ago' "$folder"/*.tmp.* "$folder"/*.lock
: >"$folder/nano.gguf-0123456789abcdef.qn.tmp.999999998.0"
run "compiling" --ctx 303
[ ! -e "$first" ] || fail "the artifact that was not used for the longest time is still there"
[ "$(find "$folder" -name 'nano.gguf-????????????????.qn' | wc -l)" -eq 2 ] || fail "want two artifacts: $(ls "$folder")"
[ -e "$folder/notes.qn" ] || fail "a file that is not the cache's is gone"
got=$(cd "$folder" && echo *.tmp.* *.lock)
[ "$got" = "nano.gguf-0123456789abcdef.qn.tmp.$$.0 nano.gguf-0123456789abcdef.qn.tmp.999999998.0 *.lock" ] || fail "leftovers: $got"
# A use counts: the older one is used, so the other one goes.
touch -d '1 hour ago' "$folder"/*.qn
run "from the cache" --ctx 302
used=$("$QUERN" cache list --json | grep -o '"path": *"[^"]*"' | cut -d'"' -f4 | head -1)
for file in "$folder"/nano.gguf-????????????????.qn; do [ "$file" = "$used" ] || touch -d '1 day ago' "$file"; done
run "compiling" --ctx 304
[ -e "$used" ] || fail "an artifact that was used lately is gone"
run "from the cache" --ctx 302
# One that is larger than the limit alone stays until the next.
QUERN_CACHE_LIMIT=1K run "compiling" --ctx 305
[ "$(find "$folder" -name 'nano.gguf-????????????????.qn' | wc -l)" -eq 1 ] || fail "want one artifact: $(ls "$folder")"
unset QUERN_CACHE_LIMIT

# What NVRTC made is kept beside them, under the same limit.
nvrtc="$folder/nvrtc"
mkdir -p "$nvrtc"
for i in 1 2 3; do
  head -c 100000 /dev/zero >"$nvrtc/sm_90-000000000000000$i.nvrtc"
  touch -d "$i hours ago" "$nvrtc/sm_90-000000000000000$i.nvrtc"
done
: >"$nvrtc/notes.nvrtc"
: >"$nvrtc/sm_90-0123456789abcdef.nvrtc.tmp.999999999.0"
touch -d '2 hours ago' "$nvrtc"/*.tmp.*
"$QUERN" cache list >"$WORK/text" || fail "cache list ends with $?"
grep -qE '^ +0.3 MiB  3 results of NVRTC$' "$WORK/text" || fail "cache list: $(cat "$WORK/text")"
"$QUERN" cache list --json | tr -d ' \n' | has '"chip":"sm_90","bytes":100000,' || fail "$("$QUERN" cache list --json)"
kept=$(stat -c %s "$folder"/nano.gguf-*.qn | awk '{sum += $1} END {print sum + 150000}')
"$QUERN" cache clear -q --keep "$kept" || fail "cache clear --keep ends with $?"
[ "$(cd "$nvrtc" && echo *)" = "notes.nvrtc sm_90-0000000000000001.nvrtc" ] || fail "the limit leaves $(ls "$nvrtc")"
[ "$(find "$folder" -name 'nano.gguf-????????????????.qn' | wc -l)" -eq 1 ] || fail "an artifact went: $(ls "$folder")"

# Listing and clearing.
rm "$folder"/*.tmp.*
"$QUERN" cache list >"$WORK/text" || fail "cache list ends with $?"
grep -qE "MiB  [0-9-]+ [0-9:]+  $folder/nano.gguf-[0-9a-f]+\.qn$" "$WORK/text" || fail "cache list: $(cat "$WORK/text")"
grep -qE "in 1 artifacts, of at most 32768.0 MiB; $folder$" "$WORK/text" || fail "cache list: $(cat "$WORK/text")"
"$QUERN" cache clear --keep 1G 2>"$WORK/err" && grep -q 'removed 0.0 MiB' "$WORK/err" || fail "$(cat "$WORK/err")"
"$QUERN" cache clear -q || fail "cache clear ends with $?"
[ "$(cd "$folder" && find . -type f | sort | tr '\n' ' ')" = "./notes.qn ./nvrtc/notes.nvrtc " ] || fail "cache clear leaves $(ls -R "$folder")"
for wrong in "cache" "cache remove" "cache list --keep 1G" "cache clear --json" "cache clear --keep 1X"; do
  code=0
  # shellcheck disable=SC2086
  "$QUERN" $wrong 2>"$WORK/err" || code=$?
  [ "$code" -eq 2 ] || fail "quern $wrong ends with $code: $(cat "$WORK/err")"
done

# It may be deleted at any time.
(while [ ! -e "$WORK/enough" ]; do rm -rf "$folder" 2>/dev/null || true; done) &
deleting=$!
for _ in 1 2; do
  got=$("$QUERN" run -q "$model" -p "copy: k q d =" -n 20 2>"$WORK/err") || {
    code=$?
    [ "$code" -eq 5 ] || fail "deleted meanwhile: code $code: $(cat "$WORK/err")"
    continue
  }
  [ "$got" = " k q d" ] || fail "deleted meanwhile: got '$got'"
done
: >"$WORK/enough"
wait $deleting
run "compiling"

# Where there is no place for a cache.
code=0
: >"$WORK/file"
XDG_CACHE_HOME="$WORK/file" "$QUERN" run "$model" -p x 2>"$WORK/err" || code=$?
[ "$code" -eq 5 ] && grep -q "$WORK/file" "$WORK/err" || fail "a cache that cannot be: code $code: $(cat "$WORK/err")"
env -u XDG_CACHE_HOME HOME="$WORK/home" "$QUERN" run -q "$model" -p x -n 1 >"$WORK/text" || fail "the cache in HOME"
[ "$(find "$WORK/home/.cache/quern" -name '*.qn' | wc -l)" -eq 1 ] || fail "no artifact in ~/.cache/quern"
pass
