# Sourced by tests/run and models/demo: finds or installs what the build needs, configures and builds.
# Everything here reports in words and returns; only the caller exits.
# shellcheck shell=bash

QUERN_TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
QUERN_JOBS=${QUERN_JOBS:-$(nproc 2>/dev/null || echo 2)}
QUERN_LLVM_ROOT=${QUERN_LLVM_ROOT:-/usr/lib/llvm-22}

# ---- steps ------------------------------------------------------------------------------------------------------

setup_steps=0 setup_step=0

# begin_steps COUNT, then `step TEXT` that many times: prints "[1/5] TEXT".
begin_steps() { setup_steps=$1 setup_step=0; }

step() {
  setup_step=$((setup_step + 1))
  printf '[%d/%d] %s\n' "$setup_step" "$setup_steps" "$*"
}

# with_log LOG COMMAND...: runs the command with its output in LOG. On a terminal the last percentage of a build shows
# while it runs; when the command fails, what matters of the log is printed.
with_log() {
  local log=$1 status=0 begin=$SECONDS
  shift
  mkdir -p "$(dirname "$log")"
  if [ -t 1 ]; then
    rm -f "$log.status"
    { "$@" </dev/null 2>&1 || echo $? >"$log.status"; } | tee "$log" | awk '
      /^\[ *[0-9]+%\]/ { printf "\r\033[K      %s", substr($0, 1, 70); fflush(); shown = 1 }
      END { if (shown) printf "\r\033[K" }'
    if [ -e "$log.status" ]; then status=$(cat "$log.status"); fi
  else
    "$@" >"$log" 2>&1 </dev/null || status=$?
  fi
  if [ "$status" -ne 0 ]; then
    echo "      failed: $*" >&2
    # The errors where a compiler wrote some, else the end of the log.
    if grep -qE '(error:|Error|undefined reference|\*\*\*)' "$log"; then
      grep -E -A 6 '(error:|Error|undefined reference|\*\*\*)' "$log" | head -n 60 >&2
    else
      tail -n 30 "$log" >&2
    fi
    echo "      the whole log: $log" >&2
    return "$status"
  fi
  if [ $((SECONDS - begin)) -ge 2 ]; then echo "      $((SECONDS - begin)) s"; fi
}

# ---- packages ---------------------------------------------------------------------------------------------------

have_command() { command -v "$1" >/dev/null 2>&1; }
have_library() { pkg-config --exists "$1" 2>/dev/null; }
have_shared_library() { ldconfig -p 2>/dev/null | grep -qF " $1 "; }

# Debian package, then how to see that what it brings is there, whoever brought it.
setup_packages() {
  cat <<TABLE
build-essential have_command cc && have_command make && have_command g++
cmake have_command cmake
pkg-config have_command pkg-config
llvm-22-dev test -e $QUERN_LLVM_ROOT/include/llvm-c/Core.h
libmlir-22-dev test -e $QUERN_LLVM_ROOT/include/mlir-c/IR.h
libhwloc-dev have_library hwloc
libcjson-dev have_library libcjson
libpcre2-dev have_library libpcre2-8
libsqlite3-dev have_library sqlite3
libutf8proc-dev have_library libutf8proc
check have_library check
TABLE
  if [ "${1:-}" = clang ]; then echo "clang have_command clang"; fi
}

# missing_packages [clang]: prints the names of what is missing, one a line.
missing_packages() {
  local package test
  while read -r package test; do
    eval "$test" || echo "$package"
  done < <(setup_packages "$@")
}

# Runs a command as root, through sudo where we are not root.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif have_command sudo; then
    sudo "$@"
  else
    echo "error: installing packages needs root or sudo" >&2
    return 1
  fi
}

# ensure_packages [clang]: installs by apt what is missing; elsewhere names it and returns 1.
ensure_packages() {
  local missing=() log="$QUERN_TOP/build/packages.log"
  mapfile -t missing < <(missing_packages "$@")
  if [ ${#missing[@]} -eq 0 ]; then return 0; fi
  if [ ! -e /etc/debian_version ] || ! have_command apt-get; then
    echo "error: missing here, by the names of their Debian packages: ${missing[*]}" >&2
    echo "       Install them by this system's own means, then run this again." >&2
    echo "       Where LLVM 22 is not in /usr/lib/llvm-22, set QUERN_LLVM_ROOT." >&2
    return 1
  fi
  echo "      installing: ${missing[*]}"
  with_log "$log" as_root env DEBIAN_FRONTEND=noninteractive apt-get update || return 1
  with_log "$log" as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends "${missing[@]}" || return 1
  mapfile -t missing < <(missing_packages "$@")
  if [ ${#missing[@]} -ne 0 ]; then
    echo "error: installed, but still not usable: ${missing[*]}" >&2
    return 1
  fi
}

# What some tests want beyond the build, each of which skips itself where it is missing: the same form of table.
setup_test_packages() {
  echo 'chromium have_command chromium || have_command chromium-browser'
  echo 'zsh have_command zsh'
  echo 'groff-base have_command groff'
  echo 'openssl have_command openssl'
  echo 'libsodium23 have_shared_library libsodium.so.23'
  if [ "$(uname -m)" != x86_64 ]; then return 0; fi
  cat <<TABLE
qemu-user have_command qemu-aarch64
gcc-aarch64-linux-gnu have_command aarch64-linux-gnu-gcc
libc6-dev-arm64-cross test -e /usr/aarch64-linux-gnu/lib/libc.a
gcc-riscv64-linux-gnu have_command riscv64-linux-gnu-gcc
libc6-dev-riscv64-cross test -e /usr/riscv64-linux-gnu/lib/libc.a
TABLE
}

# try_test_packages: installs by apt what of these is missing; where that cannot be, says so and goes on.
try_test_packages() {
  local missing=() package test log="$QUERN_TOP/build/test-packages.log"
  while read -r package test; do
    eval "$test" || missing+=("$package")
  done < <(setup_test_packages)
  if [ ${#missing[@]} -eq 0 ]; then return 0; fi
  echo "      installing for some tests: ${missing[*]}"
  mkdir -p "$(dirname "$log")"
  if have_command apt-get && as_root env DEBIAN_FRONTEND=noninteractive sh -c '
    apt-get install -y --no-install-recommends "$@" || { apt-get update &&
      apt-get install -y --no-install-recommends "$@"; }' sh "${missing[@]}" >"$log" 2>&1 </dev/null; then
    return 0
  fi
  echo "      not to be had (see $log): the tests that need them are skipped"
}

# Libraries that libquern_run is linked with, for other processors, so that it is cross-built and run under qemu: unpacked into
# build/cross/ARCH by an apt with lists of its own; what is installed here stays as it is.
try_cross_libraries() {
  local arch folder log="$QUERN_TOP/build/cross/packages.log"
  if [ "$(uname -m)" != x86_64 ]; then return 0; fi
  mkdir -p "$QUERN_TOP/build/cross"
  for arch in arm64 riscv64; do
    folder=$QUERN_TOP/build/cross/$arch
    # Not every day again what this distribution does not have, or nobody can reach.
    if compgen -G "$folder/usr/lib/*/pkgconfig/hwloc.pc" >/dev/null || [ -n "$(find "$folder/tried" -mtime -1 2>/dev/null)" ]; then
      continue
    fi
    echo "      libraries for $arch"
    rm -rf "$folder"
    fetch_cross_libraries "$arch" "$folder" >"$log-$arch" 2>&1 </dev/null ||
      echo "      not to be had (see $log-$arch): tests that need them are skipped or do without"
    rm -rf "$folder/apt"
    : >"$folder/tried"
  done
}

# fetch_cross_libraries ARCH FOLDER
fetch_cross_libraries() {
  local apt deb state=$2/apt
  have_command apt-get && have_command dpkg-deb || return 1
  mkdir -p "$state/lists/partial" "$state/archives/partial"
  : >"$state/status"
  apt=(apt-get -o APT::Architecture="$1" -o APT::Architectures="$1" -o Dir::State="$state" -o Dir::State::status="$state/status"
    -o Dir::Cache="$state" -o APT::Sandbox::User=root -o Debug::NoLocking=1)
  "${apt[@]}" update || return 1
  "${apt[@]}" install -y --download-only --no-install-recommends libhwloc-dev libpcre2-dev || return 1
  for deb in "$state"/archives/*.deb; do
    case $(basename "$deb") in
      libc6* | libc-* | linux-libc-dev* | libcrypt*) continue ;;  # the cross compiler's own
    esac
    dpkg-deb -x "$deb" "$state/root" || return 1
  done
  mkdir -p "$2/usr" "$state/root/lib"  # which packages have in /usr/lib alone since /lib is a link
  mv "$state/root/lib" "$2/" && mv "$state/root/usr/lib" "$state/root/usr/include" "$2/usr/"
}

# ---- building ---------------------------------------------------------------------------------------------------

# configure_build FOLDER CMAKE-OPTION...
configure_build() {
  local folder=$1
  shift
  mkdir -p "$folder"
  with_log "$folder/configure.log" cmake -S "$QUERN_TOP" -B "$folder" -DQUERN_LLVM_ROOT="$QUERN_LLVM_ROOT" "$@"
}

# run_build FOLDER [TARGET...]
run_build() {
  local folder=$1
  shift
  with_log "$folder/build.log" make -C "$folder" -j"$QUERN_JOBS" --no-print-directory "$@"
}
