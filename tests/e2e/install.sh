#!/usr/bin/env bash
# What cmake --install puts into a prefix: it is complete, it works where it lies and where it is moved to, and programs find
# it by pkg-config and by CMake, shared and static.
. "$(dirname "$0")/../support/e2e.sh"
need_quern
model="$QUERN_SOURCE/models/nano/nano.gguf"
install_prefix

for file in bin/quern include/quern.h include/quern_run.h share/man/man1/quern.1 share/man/man1/quern-run.1 \
  share/bash-completion/completions/quern share/zsh/site-functions/_quern share/doc/quern/README.md \
  share/doc/quern/examples/run.c; do
  [ -s "$prefix/$file" ] || fail "$file was not installed"
done
for file in libquern.so libquern.so.0 libquern.a libquern_run.so libquern_run.a quern/libquern_llvm.so pkgconfig/quern.pc \
  pkgconfig/quern_run.pc cmake/quern/quernConfig.cmake cmake/quern/quernConfigVersion.cmake; do
  [ -e "$libdir/$file" ] || fail "$file is not in $libdir"
done
version=$("$QUERN" --version)
[ "quern $(pkg-config --modversion quern)" = "$version" ] || fail "quern.pc is of another version than $version"

# The program compiles and runs from the prefix, and from elsewhere once that was moved.
(
  unset LD_LIBRARY_PATH
  mv "$prefix" "$WORK/moved"
  "$WORK/moved/bin/quern" compile -q "$model" -o "$WORK/nano.qn" || fail "the installed program does not compile"
  [ "$("$WORK/moved/bin/quern" run -q "$WORK/nano.qn" -p 'copy: k q d =' -n 20)" = " k q d" ] || fail "nor does it run"
  mv "$WORK/moved" "$prefix"
) || exit 1

# The headers lie side by side, and either may be included alone.
printf '#include <quern.h>\nint main(void) { return quern_version()[0] == 0; }\n' >"$WORK/version.c"
printf '#include <quern_run.h>\nint main(void) { return quern_status_name(0)[0] == 0; }\n' >"$WORK/status.c"
build() {  # build PROGRAM SOURCE FLAG...
  "$QUERN_CC" "${sanitize[@]}" "$2" "${@:3}" -o "$WORK/$1" 2>"$WORK/err" || fail "$1: $(cat "$WORK/err")"
  "$WORK/$1" || fail "$1 ends with $?"
}
read -ra flags <<<"$(pkg-config --cflags --libs quern)"
build version "$WORK/version.c" "${flags[@]}"
read -ra flags <<<"$(pkg-config --cflags --libs quern_run)"
build status "$WORK/status.c" "${flags[@]}"
[ "$(ldd "$WORK/version" | grep -c libquern.so.0)" -eq 1 ] || fail "the program with quern.h is not linked with libquern.so.0"
ldd "$WORK/version" | has -E 'LLVM|MLIR' && fail "a program loads LLVM before it compiles anything"

# Static, by what pkg-config says of that.
for name in quern quern_run; do
  source=$WORK/version.c
  if [ $name = quern_run ]; then source=$WORK/status.c; fi
  read -ra flags <<<"$(pkg-config --static --cflags --libs $name | sed "s,-l$name\b,-l:lib$name.a,")"
  build "static-$name" "$source" "${flags[@]}"
  ldd "$WORK/static-$name" | has libquern && fail "static-$name is not static"
done

# By CMake: components, targets, and an error for what is none.
mkdir "$WORK/project"
cat >"$WORK/project/CMakeLists.txt" <<'CMAKE'
cmake_minimum_required(VERSION 3.25)
project(user LANGUAGES C)
find_package(quern 0.1 REQUIRED COMPONENTS run compile)
foreach(library compile run compile_static run_static)
  string(REGEX REPLACE "_static" "" source ${library})
  add_executable(${library} ${source}.c)
  target_link_libraries(${library} PRIVATE quern::${library})
endforeach()
CMAKE
cp "$WORK/version.c" "$WORK/project/compile.c"
cp "$WORK/status.c" "$WORK/project/run.c"
cmake -S "$WORK/project" -B "$WORK/project/build" -DCMAKE_C_COMPILER="$QUERN_CC" -DCMAKE_PREFIX_PATH="$prefix" \
  -DCMAKE_C_FLAGS="${sanitize[*]}" >"$WORK/log" 2>&1 || fail "$(cat "$WORK/log")"
cmake --build "$WORK/project/build" >"$WORK/log" 2>&1 || fail "$(cat "$WORK/log")"
for program in compile run compile_static run_static; do
  "$WORK/project/build/$program" || fail "$program, linked by CMake, ends with $?"
done
sed -i 's/run compile)/run walk)/' "$WORK/project/CMakeLists.txt"
cmake -S "$WORK/project" -B "$WORK/project/none" -DCMAKE_C_COMPILER="$QUERN_CC" -DCMAKE_PREFIX_PATH="$prefix" >"$WORK/log" 2>&1 &&
  fail "a component that is none is found"
tr -s ' \n' ' ' <"$WORK/log" | has "quern has no component 'walk'; there are run and compile" || fail "$(cat "$WORK/log")"
pass
