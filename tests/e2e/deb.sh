#!/usr/bin/env bash
# The Debian package that cpack makes: what it says of itself, what is in it, and that it works where it is unpacked.
. "$(dirname "$0")/../support/e2e.sh"
need_quern
for tool in cpack dpkg-deb dpkg-shlibdeps dpkg-architecture; do
  command -v "$tool" >/dev/null || skip "no $tool here (Debian packages cmake, dpkg, dpkg-dev)"
done
[ "${QUERN_SANITIZE:-OFF}" = OFF ] || skip "packages are made of builds without sanitizers"

# As if for Ninja, which has nothing built first: everything is.
cpack -D CPACK_CMAKE_GENERATOR=Ninja -G DEB --config "$QUERN_BUILD/CPackConfig.cmake" -B "$WORK/package" >"$WORK/log" 2>&1 || fail "cpack: $(tail "$WORK/log")"
version=$("$QUERN" --version)
version=${version#quern }
machine=$(dpkg-architecture -qDEB_HOST_ARCH)
package="$WORK/package/quern_${version}_$machine.deb"
[ -s "$package" ] || fail "no quern_${version}_$machine.deb: $(ls "$WORK/package")"

field() { dpkg-deb -f "$package" "$1"; }
[ "$(field Package) $(field Version) $(field Architecture)" = "quern $version $machine" ] || fail "$(dpkg-deb -f "$package")"
for name in libc6 libllvm22 libmlir-22 libhwloc15 libpcre2-8-0 libcjson1 libsqlite3-0; do
  field Depends | tr ',' '\n' | has -E "^ ?$name( |$)" || fail "it does not depend on $name: $(field Depends)"
done
[ "$(field Recommends)" = libsodium23 ] || fail "it recommends $(field Recommends)"

dpkg-deb -c "$package" >"$WORK/list"
awk '$2 != "root/root" || substr($1, 9, 1) == "w" {print}' "$WORK/list" | grep -v '^l' >"$WORK/odd" || true
[ ! -s "$WORK/odd" ] || fail "owners and modes: $(cat "$WORK/odd")"
awk '{print $6}' "$WORK/list" | grep -v '/$' >"$WORK/files"
for file in bin/quern include/quern.h include/quern_run.h share/man/man1/quern.1 share/man/man1/quern-run.1 \
  share/bash-completion/completions/quern share/zsh/site-functions/_quern share/doc/quern/README.md; do
  grep -qxF "./usr/$file" "$WORK/files" || fail "$file is not in it: $(cat "$WORK/files")"
done
for file in libquern.so.0 libquern_run.so.0 libquern.a libquern_run.a quern/libquern_llvm.so pkgconfig/quern_run.pc; do
  grep -qE "^\./usr/lib/(.*/)?$file$" "$WORK/files" || fail "$file is not in it: $(cat "$WORK/files")"
done
grep -vE '^\./usr/(bin|include|lib|share)/' "$WORK/files" >"$WORK/odd" && fail "elsewhere: $(cat "$WORK/odd")"

dpkg-deb -x "$package" "$WORK/root"
installed="$WORK/root/usr/bin/quern"
[ "$("$installed" --version)" = "quern $version" ] || fail "the packaged program does not start"
"$installed" compile -q "$QUERN_SOURCE/models/nano/nano.gguf" -o "$WORK/nano.qn" || fail "the packaged program does not compile"
[ "$("$installed" run -q "$WORK/nano.qn" -p 'copy: k q d =' -n 20)" = " k q d" ] || fail "nor does it run"
if command -v readelf >/dev/null; then
  readelf -SW "$installed" | has '\.debug_info' && fail "the packaged program is not stripped"
fi
pass
