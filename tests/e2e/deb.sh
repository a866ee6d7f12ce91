#!/usr/bin/env bash
# The Debian package that cpack makes: what is in it, what it depends on, and that its program works.
. "$(dirname "$0")/../support/e2e.sh"
need_quern
[ "${QUERN_SANITIZE:-OFF}" = OFF ] || skip "no package is made of a build with sanitizers"
for tool in cpack dpkg-deb dpkg-shlibdeps; do
  command -v $tool >/dev/null || skip "no $tool"
done
(cd "$WORK" && cpack --config "$QUERN_BUILD/CPackConfig.cmake" -G DEB -D CPACK_DEBIAN_COMPRESSION_TYPE=gzip \
  -B "$WORK/packages") >"$WORK/log" 2>&1 ||
  fail "$(tail -20 "$WORK/log")"
package=$(find "$WORK/packages" -maxdepth 1 -name 'quern_*.deb')
[ -n "$package" ] || fail "no package: $(ls "$WORK/packages")"
[ "$(dpkg-deb -f "$package" Package)" = quern ] || fail "$(dpkg-deb -f "$package")"
[ "quern $(dpkg-deb -f "$package" Version)" = "$("$QUERN" --version)" ] || fail "$(dpkg-deb -f "$package" Version)"
for library in libc6 libhwloc libpcre2-8 libsqlite3 libcjson libmlir; do
  dpkg-deb -f "$package" Depends | grep -qi "\b$library" || fail "no dependency on $library: $(dpkg-deb -f "$package" Depends)"
done
dpkg-deb -x "$package" "$WORK/root"
usr=$WORK/root/usr
for file in bin/quern lib/libquern.so.0 lib/libquern_run.so.0 lib/libquern_run.a lib/quern/libquern_llvm.so include/quern.h \
  share/man/man1/quern-tune.1.gz share/doc/quern/LICENSE; do
  [ -e "$usr/$file" ] || [ -e "$usr/${file%.gz}" ] || fail "no $file in the package: $(cd "$WORK/root" && find . -type f)"
done
readelf -S "$usr/bin/quern" | grep -q '\.debug_info' && fail "the program is not stripped"
"$usr/bin/quern" compile -q "$QUERN_SOURCE/models/nano/nano.gguf" -o "$WORK/nano.qn" || fail "the program does not compile"
[ "$("$usr/bin/quern" run -q "$WORK/nano.qn" -p 'copy: k q d =' -n 20)" = " k q d" ] || fail "the program does not run"
pass
