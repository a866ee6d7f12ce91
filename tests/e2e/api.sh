#!/usr/bin/env bash
# The public headers: they compile alone as C99 and as C++17, every function in them says what it does, appears in a test
# or in an example that is run, and is what the shared libraries export, nothing else.
. "$(dirname "$0")/../support/e2e.sh"
command -v "$QUERN_CXX" >/dev/null || skip "no C++ compiler ($QUERN_CXX)"
headers="runtime/quern_run.h frontend/quern.h"
cd "$QUERN_SOURCE"

# ---- they compile alone

for header in $headers; do
  printf '#include "%s"\n#include "%s"\n' "$header" "$header" >"$WORK/alone.c"
  for standard in c99 c11 c17; do
    "$QUERN_CC" -std=$standard -pedantic -Wall -Wextra -Werror -I. -fsyntax-only "$WORK/alone.c" || fail "$header as $standard"
  done
  "$QUERN_CXX" -std=c++17 -pedantic -Wall -Wextra -Werror -I. -fsyntax-only -x c++ "$WORK/alone.c" || fail "$header as C++17"
done

# ---- what is in them

# functions FILE...: the names of what is declared there.
functions() {
  sed 's,//.*,,' "$@" | grep -v '^typedef' | grep -oE '\bquern_[a-z0-9_]+\(' | tr -d '(' | sort -u
}

# undocumented FILE: functions without a comment: one above, above the group without blank lines, or on its own lines.
undocumented() {
  awk '
    function declared() {
      if (match(text, /quern_[a-z0-9_]+\(/) && !told && text !~ /\/\//) print substr(text, RSTART, RLENGTH - 1)
      text = ""
    }
    text != "" { text = text "\n" $0; if (/;|\{/) declared(); next }
    /^$/ { told = 0 }
    /^ *\/\// { told = 1 }
    /^(const|bool|char|int|void|size_t|double|static inline|u?int[0-9]+_t|quern_[a-z_]+) .*\(/ {
      text = $0
      if (/;|\{/) declared()
    }' "$1"
}

count=$(functions $headers | wc -l)
[ "$count" -gt 60 ] || fail "got $count functions in the headers, want all of them"
for header in $headers; do
  missing=$(undocumented "$header")
  [ -z "$missing" ] || fail "$header: no comment says what these do: $missing"
done
cat >"$WORK/planted.h" <<'H'
// Told.
int quern_told(void);
int quern_told_too(void);

int quern_beside(void);  // told
int quern_forgotten(int a,
                    int b);
H
[ "$(undocumented "$WORK/planted.h")" = quern_forgotten ] || fail "got '$(undocumented "$WORK/planted.h")', want quern_forgotten"

# ---- every one is called by a test

untested=()
for name in $(functions $headers); do
  grep -rqlw --include='*.c' --include='*.cpp' "$name" tests/unit tests/support frontend/examples || untested+=("$name")
done
[ ${#untested[@]} -eq 0 ] || fail "in no test: ${untested[*]}"

# ---- what the libraries export

# exports LIBRARY HEADER...
exports() {
  local library="$QUERN_BUILD/$1"
  [ -r "$library" ] || fail "$library is not built"
  nm -D --defined-only "$library" | awk '$2 == "T" { sub(/@.*/, "", $3); print $3 }' | sort >"$WORK/exported"
  functions "${@:2}" | grep -v '^quern_sampler_options_default$' >"$WORK/declared"
  diff "$WORK/declared" "$WORK/exported" >"$WORK/diff" || fail "$1 exports other functions than declared: $(cat "$WORK/diff")"
}
exports libquern_run.so runtime/quern_run.h
exports libquern.so $headers
nm -D --defined-only "$QUERN_BUILD/libquern_run.so" | grep 'quern_model_open@@QUERN_RUN_0.1$' >/dev/null || fail "libquern_run.so has no versions"
nm -D --defined-only "$QUERN_BUILD/libquern.so" | grep 'quern_compile@@QUERN_0.1$' >/dev/null || fail "libquern.so has no versions"

# ---- what the runtime needs, and its size

readelf -d "$QUERN_BUILD/libquern_run.so" | has 'SONAME.*\[libquern_run.so.0\]' || fail "the soname of libquern_run.so"
if [ ${#sanitize[@]} -eq 0 ]; then
  needed=$(readelf -d "$QUERN_BUILD/libquern_run.so" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' |
    grep -vE '^lib(c|m|dl|pthread|hwloc|pcre2-8)\.so|^ld-linux' || true)
  [ -z "$needed" ] || fail "libquern_run.so needs $needed"
  strip -o "$WORK/stripped.so" "$QUERN_BUILD/libquern_run.so"
  size=$(stat -c %s "$WORK/stripped.so")
  [ "$size" -le $((512 * 1024)) ] || fail "libquern_run.so has $size bytes stripped, want at most $((512 * 1024))"
fi
pass
