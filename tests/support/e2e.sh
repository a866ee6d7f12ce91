# Sourced by the shell tests: their environment with defaults, a temporary folder, and the ways to end.
#   QUERN         the program               QUERN_SOURCE  the source tree
#   QUERN_BUILD   the build folder          WORK          a fresh folder, removed at the end
# A test runs top to bottom and ends with `pass`; `fail TEXT` and `skip REASON` end it at once.
# shellcheck shell=bash
set -euo pipefail

QUERN_SOURCE=${QUERN_SOURCE:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}
QUERN_BUILD=${QUERN_BUILD:-$QUERN_SOURCE/build}
QUERN=${QUERN:-$QUERN_BUILD/quern}
export QUERN_SOURCE QUERN_BUILD QUERN
WORK=$(mktemp -d "${TMPDIR:-/tmp}/quern-e2e-XXXXXX")
trap 'rm -rf "$WORK"' EXIT
# The user's own tuning database and cache are none of a test's business.
export XDG_DATA_HOME=$WORK/data XDG_CACHE_HOME=$WORK/cache

pass() {
  echo "PASS: ${*:-$(basename "$0")}"
  exit 0
}

fail() {
  echo "FAIL: $*" >&2
  exit 1
}

skip() {
  echo "SKIP: $*"
  exit 77
}

# The program is part of every build: a test that goes without it would hold nothing.
# COMMAND | has GREP-OPTION... PATTERN: reads all of it, where grep -q ends at the first match and COMMAND may then fail for
# want of a reader.
has() { grep -c "$@" >/dev/null; }

# stopped SIGNAL SECONDS COMMAND...: sends it the signal after that time and gives its exit status. Left to itself timeout
# signals the program and then its group: the second signal ends what is about to end in good order.
stopped() { timeout --foreground --preserve-status -k 60 -s "$@"; }

need_quern() {
  [ -x "$QUERN" ] || fail "$QUERN is not built; run make without a target, or set QUERN"
}

# shared_model RELATIVE: prints the path of a shared model, or fails with 77 where it is not there.
# Use: model=$(shared_model models/stories260K/stories260K.gguf) || exit 77
shared_model() {
  local path="${QUERN_SHARED:-$QUERN_SOURCE/../shared}/$1"
  if [ ! -r "$path" ]; then
    echo "SKIP: no shared model $1 (set QUERN_SHARED)" >&2
    return 77
  fi
  echo "$path"
}

# compiled_for_gpu OPTION...: compiles by `quern compile` for cuda:sm_80, and has QUERN_LIBCUDA name the simulator, or the driver
# that QUERN_TEST_LIBCUDA names. False, with the reason on stdout, without the simulator or NVRTC.
compiled_for_gpu() {
  local simulator=$QUERN_BUILD/ptxsim/libcuda.so.1 said
  export QUERN_LIBCUDA=${QUERN_TEST_LIBCUDA:-$simulator}
  if [ "$QUERN_LIBCUDA" = "$simulator" ] && [ ! -r "$simulator" ]; then
    echo "$simulator is not built"
    return 1
  fi
  said=$("$QUERN" compile -q "$@" --target cuda:sm_80 2>&1) && return 0
  grep -q NVRTC <<<"$said" || fail "compile for GPUs: $said"
  echo "$said"
  return 1
}

# What programs of the tests are compiled with: the compiler of the build, and its sanitizers where it has some.
QUERN_CC=${QUERN_CC:-cc}
case $(basename "$QUERN_CC") in
  *clang*) QUERN_CXX=${QUERN_CXX:-${QUERN_CC/clang/clang++}} ;;
  *) QUERN_CXX=${QUERN_CXX:-c++} ;;
esac
sanitize=()
if [ "${QUERN_SANITIZE:-OFF}" = ON ]; then sanitize=(-fsanitize=address,undefined); fi

# Installs into $WORK/prefix and points pkg-config and the loader there.
install_prefix() {
  cmake --install "$QUERN_BUILD" --prefix "$WORK/prefix" >"$WORK/install.log" 2>&1 || fail "$(cat "$WORK/install.log")"
  prefix=$WORK/prefix
  local library
  library=$(find "$prefix" -name 'libquern_run.so.0')
  [ -n "$library" ] || fail "no libquern_run.so.0 was installed"
  libdir=$(dirname "$library")
  export PKG_CONFIG_PATH=$libdir/pkgconfig LD_LIBRARY_PATH=$libdir
  # A sanitizer's dlopen does not look where libquern.so says.
  if [ ${#sanitize[@]} -gt 0 ]; then LD_LIBRARY_PATH+=:$libdir/quern; fi
}
