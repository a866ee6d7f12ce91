#!/usr/bin/env bash
# Every example of frontend/examples, built against an installed quern by the command that its head tells, and run.
. "$(dirname "$0")/../support/e2e.sh"
need_quern
command -v "$QUERN_CXX" >/dev/null || skip "no C++ compiler ($QUERN_CXX)"
model="$QUERN_SOURCE/models/nano/nano.gguf"
examples="$QUERN_SOURCE/frontend/examples"
artifact="$WORK/nano.qn"
install_prefix
"$QUERN" compile -q "$model" -o "$artifact" --batch 4 || fail "compile ends with $?"
cd "$WORK"

built=()
# build COMPILER SOURCE PACKAGE FLAG...
build() {
  local flags
  read -ra flags <<<"$(pkg-config --cflags --libs "$3")"
  "$1" -Wall -Wextra -Werror "${sanitize[@]}" "$examples/$2" "${flags[@]}" "${@:4}" -o "$WORK/example" 2>"$WORK/err" ||
    fail "$2: $(cat "$WORK/err")"
  built+=("$2")
}
# try ARGUMENT...: runs the example that was built last, with its output in $WORK/out and $WORK/err.
try() {
  local code=0
  "$WORK/example" "$@" >"$WORK/out" 2>"$WORK/err" || code=$?
  [ "$code" -eq 0 ] || fail "${built[-1]} $*: ends with $code: $(cat "$WORK/err")"
}

# ---- run an artifact: the same text as the program's own

prompt="Once upon a time"
"$QUERN" run -q "$artifact" -p "$prompt" --temp 0.8 -n 256 >"$WORK/want"
[ "$(wc -c <"$WORK/want")" -gt 100 ] || fail "a short story: $(cat "$WORK/want")"
build "$QUERN_CC" run.c quern_run -std=c99
try "$artifact" "$prompt"
[ "$(cat "$WORK/out")" = "$(cat "$WORK/want")" ] || fail "run.c: got '$(cat "$WORK/out")', want '$(cat "$WORK/want")'"
code=0
"$WORK/example" "$WORK/none.qn" x 2>"$WORK/err" || code=$?
[ "$code" -eq 5 ] && grep -q 'none.qn' "$WORK/err" || fail "run.c without a file: ends with $code: $(cat "$WORK/err")"
if [ ${#sanitize[@]} -eq 0 ]; then
  ldd "$WORK/example" | awk '{ print $1 }' | sed 's,.*/,,' | grep -vE \
    '^(linux-vdso|ld-linux.*|libquern_run|lib(c|m|dl|pthread|hwloc|pcre2-8|udev|xml2|z|lzma|cap|ltdl|icu.*|stdc\+\+|gcc_s|pciaccess)|libOpenCL.*)\.so' \
    >"$WORK/others" && fail "run.c loads $(cat "$WORK/others")"
fi
build "$QUERN_CXX" run.cpp quern_run -std=c++17
try "$artifact" "$prompt"
[ "$(cat "$WORK/out")" = "$(cat "$WORK/want")" ] || fail "run.cpp: got '$(cat "$WORK/out")'"

# ---- from Python

built+=(run.py)
if command -v python3 >/dev/null && [ ${#sanitize[@]} -eq 0 ]; then
  python3 "$examples/run.py" "$libdir/libquern_run.so.0" "$artifact" "$prompt" >"$WORK/out" 2>"$WORK/err" ||
    fail "run.py: $(cat "$WORK/err")"
  [ "$(cat "$WORK/out")" = "$(cat "$WORK/want")" ] || fail "run.py: got '$(cat "$WORK/out")'"
else
  echo "not tried: run.py (no python3, or a sanitizer that Python does not load)"
fi

# ---- tokens as they come, state, threads

build "$QUERN_CC" stream.c quern_run
printf 'Once upon a time\n and then\n' >"$WORK/in"
try "$artifact" <"$WORK/in"
[ "$(grep -c 'tokens/s, ended: ' "$WORK/err")" -eq 2 ] || fail "stream.c: $(cat "$WORK/err")"
[ "$(wc -c <"$WORK/out")" -gt 60 ] || fail "stream.c: got '$(cat "$WORK/out")'"

build "$QUERN_CC" state.c quern_run -lm
try "$artifact" "Once upon a" "$WORK/prompt.state"
grep -q "' time'" "$WORK/out" && grep -qE '^restored from [0-9]+ bytes: the same logits$' "$WORK/out" ||
  fail "state.c: $(cat "$WORK/out")"

build "$QUERN_CC" threads.c quern_run -pthread
try "$artifact"
[ "$(wc -l <"$WORK/out")" -ge 8 ] && grep -q '^copy: k q d =| k q d' "$WORK/out" || fail "threads.c: $(cat "$WORK/out")"

# ---- tune, then compile

export XDG_DATA_HOME="$WORK/data"
build "$QUERN_CC" tune.c quern
try "$model" "$WORK/tuned.qn" 0
grep -q '^schedules from tuning: 0 of [1-9]' "$WORK/out" || fail "tune.c: $(cat "$WORK/out")"
[ "$("$QUERN" run -q "$WORK/tuned.qn" -p 'copy: k q d =' -n 20)" = " k q d" ] || fail "what tune.c compiled does not run"

# ---- a graph built in code: compiled in the process, and from the cache

build "$QUERN_CC" jit.c quern -std=c11 -D_GNU_SOURCE -lm
try
grep -qE "^3 rows of 64 values, the largest error [0-9.e-]+: right$" "$WORK/out" || fail "jit.c: $(cat "$WORK/out")"
for round in 1 2; do
  try "$WORK/graphs"
  grep -q ": right$" "$WORK/out" || fail "jit.c with a cache, round $round: $(cat "$WORK/out")"
  [ "$(find "$WORK/graphs" -name "gated_mlp-*.qn" | wc -l)" -eq 1 ] || fail "jit.c: $(find "$WORK/graphs")"
done
build "$QUERN_CXX" jit.cpp quern -std=c++17
try
[ "$(grep -c "sum 1.0000$" "$WORK/out")" -eq 3 ] || fail "jit.cpp: $(cat "$WORK/out")"

# ---- an object file, in a program that has nothing else of quern in it

"$QUERN" compile -q "$examples/embed.json" --emit=object --name scaled -o scaled.o || fail "--emit=object ends with $?"
"$QUERN_CC" -std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror "${sanitize[@]}" "$examples/embed.c" scaled.o -I. -pthread -o example \
  2>"$WORK/err" || fail "embed.c: $(cat "$WORK/err")"
built+=(embed.c embed.json)
try
[ "$(grep -c "^-0.4082 -0.8165$" "$WORK/out")" -eq 5 ] || fail "embed.c: $(cat "$WORK/out")"
ldd "$WORK/example" | has -i quern && fail "embed.c loads a library of quern"
printf "#include \"scaled.h\"\n#include \"scaled.h\"\nint main() { return scaled_run(nullptr) == 2 ? 0 : 1; }\n" >embed.cpp
"$QUERN_CXX" -std=c++17 -pedantic -Wall -Wextra -Werror "${sanitize[@]}" embed.cpp scaled.o -o example || fail "an object file in C++"
try

# ---- none was forgotten

for file in "$examples"/*; do
  printf '%s\n' "${built[@]}" | has -xF "$(basename "$file")" || fail "$(basename "$file") is built by no test"
done
pass
