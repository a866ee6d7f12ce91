#!/usr/bin/env bash
# libquern_run as those build it who ship it to other processors: by CMake with QUERN_RUNTIME_ONLY and a cross compiler, with
# hwloc and PCRE2; installed, found by pkg-config, and linked by the program of 30 lines, which tells under qemu the story
# that it tells here.
. "$(dirname "$0")/../support/e2e.sh"
. "$(dirname "$0")/../support/cross.sh"
cross_tools aarch64 "gcc-aarch64-linux-gnu, libc6-dev-arm64-cross"
"$QUERN" compile -q models/nano/nano.gguf -o "$WORK/nano.qn" --target host,aarch64,riscv64 || fail "compile ends with $?"
prompt="Once upon a time"
"$QUERN" run -q "$WORK/nano.qn" -p "$prompt" --temp 0.8 -n 256 >"$WORK/want" || fail "run ends with $?"
[ "$(wc -c <"$WORK/want")" -gt 100 ] || fail "a short story: $(cat "$WORK/want")"

# try CPU: the whole for $arch, of which the emulated CPU has no more than the base.
try() {
  local flags prefix="$WORK/prefix-$arch" needed size
  cmake --install "$library" --prefix "$prefix" >"$WORK/log" 2>&1 || fail "$(cat "$WORK/log")"
  for file in include/quern_run.h lib/libquern_run.so.0 lib/libquern_run.a lib/pkgconfig/quern_run.pc; do
    [ -e "$prefix/$file" ] || fail "$arch: $file was not installed"
  done
  read -ra flags <<<"$(PKG_CONFIG_LIBDIR=$prefix/lib/pkgconfig pkg-config --cflags --libs quern_run)"
  "$cross" -Wall -Wextra -Werror -std=c99 frontend/examples/run.c "${flags[@]}" "${cross_link[@]}" -o "$WORK/run-$arch" 2>"$WORK/err" ||
    fail "run.c for $arch: $(cat "$WORK/err")"
  "${emulator[@]}" -E "LD_LIBRARY_PATH=$prefix/lib:$emulated_libraries" -cpu "$1" \
    "$WORK/run-$arch" "$WORK/nano.qn" "$prompt" >"$WORK/got" || fail "run.c on $arch ends with $?"
  [ "$(cat "$WORK/got")" = "$(cat "$WORK/want")" ] || fail "$arch: got '$(cat "$WORK/got")', want '$(cat "$WORK/want")'"
  needed=$(readelf -d "$prefix/lib/libquern_run.so.0" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' |
    grep -vE '^lib(c|m|dl|pthread|hwloc|pcre2-8)\.so|^ld-linux' || true)
  [ -z "$needed" ] || fail "$arch: libquern_run.so needs $needed"
  # What of it is loaded: where pages may have 64 KiB the linker leaves up to so much of nothing before what is written.
  size=0
  while read -r bytes; do size=$((size + bytes)); done < <(readelf -lW "$prefix/lib/libquern_run.so.0" | awk '$1 == "LOAD" {print $5}')
  [ "$size" -gt 0 ] && [ "$size" -le $((512 * 1024)) ] ||
    fail "$arch: of libquern_run.so $size bytes are loaded, want at most $((512 * 1024))"
  tried+=("$arch ($size bytes)")
}

tried=() untried=()
if cross_library; then try cortex-a72; else untried+=("$arch"); fi
arch=riscv64 cross=riscv64-linux-gnu-gcc
if command -v qemu-riscv64 "$cross" >/dev/null && cross_library; then try rv64,v=false; else untried+=("$arch"); fi
why="no hwloc and PCRE2 for ${untried[*]} in $QUERN_BUILD/cross (tests/run gets Debian's, where it has them)"
[ ${#tried[@]} -gt 0 ] || skip "$why"
pass "${tried[*]}${untried[*]:+; $why}"
