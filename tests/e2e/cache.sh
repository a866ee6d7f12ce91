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
  "$QUERN" inspect "$file" | grep -q '^context_tokens = 9999' && rm "$file"
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
grep -q "^quern: compiling anew (only GGUF files are cached) $WORK/graph.json" "$WORK/err" || fail "$(cat "$WORK/err")"
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
cached 1

# A compilation that fails leaves nothing.
head -c 100000 "$model" >"$WORK/short.gguf"
code=0
"$QUERN" run "$WORK/short.gguf" -p x 2>"$WORK/err" || code=$?
[ "$code" -eq 3 ] || fail "a truncated model: exit code $code, want 3"
cached 1

# Where there is no place for a cache.
code=0
: >"$WORK/file"
XDG_CACHE_HOME="$WORK/file" "$QUERN" run "$model" -p x 2>"$WORK/err" || code=$?
[ "$code" -eq 5 ] && grep -q "$WORK/file" "$WORK/err" || fail "a cache that cannot be: code $code: $(cat "$WORK/err")"
env -u XDG_CACHE_HOME HOME="$WORK/home" "$QUERN" run -q "$model" -p x -n 1 >"$WORK/text" || fail "the cache in HOME"
[ "$(find "$WORK/home/.cache/quern" -name '*.qn' | wc -l)" -eq 1 ] || fail "no artifact in ~/.cache/quern"
pass
