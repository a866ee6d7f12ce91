[ "$(foreign_symbols "$WORK/libasks.so" -D | wc -l)" -eq 2 ] || fail "this test does not see planted uses of LLVM and CUDA"[ "$(foreign_symbols "$WORK/libasks.so" -D | wc -l)" -eq 2 ] || fail "this test does not see planted uses of LLVM and CUDA"#!/usr/bin/env bash
# The runtime alone: libquern_run, static and shared, asks for nothing of LLVM, MLIR, CUDA, cJSON or SQLite. Ends with a
# check of itself: a library that does ask for LLVM must be found out.
. "$(dirname "$0")/../support/e2e.sh"

foreign='(^|[[:space:]])(LLVM[A-Z]|mlir[A-Z]|cJSON_|sqlite3_|cu[A-Z]|nvrtc|_ZN4llvm|_ZN4mlir)'

# foreign_symbols FILE [NM-OPTION]: the undefined symbols that belong to the compiler's side.
foreign_symbols() {
  nm "${@:2}" --undefined-only "$1" 2>/dev/null | grep -E "$foreign" || true
}

# foreign_libraries FILE: the shared libraries, direct and indirect, of the compiler's side.
foreign_libraries() {
  ldd "$1" 2>/dev/null | grep -iE 'libLLVM|libMLIR|libcuda|libnvrtc|libcjson|libsqlite' || true
}

check() {
  local found
  [ -e "$1" ] || fail "$1 is not built"
  found=$(foreign_symbols "$@"; if [ $# -gt 1 ]; then foreign_libraries "$1"; fi)
  [ -z "$found" ] || fail "$1 needs the compiler: $found"
}
check "$QUERN_BUILD/libquern_run.a"
check "$QUERN_BUILD/libquern_run.so" -D

cc=${CC:-cc}
cat >"$WORK/asks.c" <<'C'
void LLVMShutdown(void);
int cuInit(unsigned);
void asks(void);
void asks(void) { LLVMShutdown(), cuInit(0); }
C
"$cc" -shared -fPIC "$WORK/asks.c" -o "$WORK/libasks.so"
[ "$(foreign_symbols "$WORK/libasks.so" -D | wc -l)" -eq 2 ] || fail "this test does not see planted uses of LLVM and CUDA"
pass "libquern_run needs no LLVM, MLIR, CUDA, cJSON or SQLite"
