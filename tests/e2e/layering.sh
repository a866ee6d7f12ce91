#!/usr/bin/env bash
# The shape of the house: every #include of every room against the table of who may include whom, and against the
# table of outside libraries. Ends with a check of itself: planted violations must all be found, and nothing else.
. "$(dirname "$0")/../support/e2e.sh"

rooms="frontend ir passes codegen runtime autotune"

# check_tree ROOT: prints "file:line: reason" for each include that breaks a rule.
check_tree() {
  local root=$1 room present=()
  for room in $rooms; do
    if [ -d "$root/$room" ]; then present+=("$room"); fi
  done
  [ ${#present[@]} -gt 0 ] || return 0
  (
    cd "$root" || exit
    grep -rnE --include='*.c' --include='*.h' --include='*.def' '^[[:space:]]*#[[:space:]]*include' "${present[@]}"
  ) | awk '
    function room_of(path) {
      if (path ~ /^runtime\/base\//) return "base"
      if (path ~ /^frontend\/import\//) return "import"
      if (path ~ /^frontend\/cli\//) return "cli"
      if (path ~ /^frontend\/examples\//) return "example"
      if (path == "frontend/quern.h") return "public"
      if (path ~ /^frontend\//) return "frontend"
      return substr(path, 1, index(path, "/") - 1)
    }
    BEGIN {
      # Who may include what of ours: patterns of rooted paths.
      may["base"]     = "^runtime/base/"
      may["ir"]       = "^(ir|runtime/base)/"
      may["passes"]   = "^(passes|ir|runtime/base)/"
      may["runtime"]  = "^runtime/"
      may["codegen"]  = "^(codegen|ir|runtime/base)/|^runtime/artifact[.]h$"
      may["autotune"] = "^(autotune|ir|runtime)/|^passes/pass[.]h$|^codegen/target[.]h$"
      may["import"]   = "^(frontend/import|ir|runtime/base)/"
      may["cli"]      = "^(frontend/cli|runtime/base)/|^frontend/quern[.]h$"
      may["public"]   = "^runtime/base/|^runtime/quern_run[.]h$"
      may["example"]  = "^$"
      may["frontend"] = "."
      # Which files may include an outside library: header pattern -> pattern of our paths.
      only["^(mlir|llvm)(-c)?/"]                = "^codegen/cpu/"
      only["^(nvrtc|cuda|cuda_[a-z0-9_]*)[.]h$"] = "^codegen/cuda/|^runtime/device_cuda[.][ch]$"
      only["^hwloc([.]h|/)"]                    = "^runtime/topology[.]c$"
      only["^(cjson/)?cJSON[.]h$"]              = "^frontend/import/"
      only["^sqlite3[.]h$"]                     = "^autotune/db[.]c$"
      only["^utf8proc[.]h$"]                    = "^frontend/import/"
      only["^pcre2[.]h$"]                       = "^runtime/tokenizer[^/]*[.][ch]$"
      only["^quern(_run)?[.]h$"]               = "^frontend/examples/"  # as installed: what a host program sees
      # Of the system: C17, POSIX and Linux. No intrinsics: kernels come from the compiler.
      n = split("assert complex ctype errno fenv float inttypes limits locale math setjmp signal stdalign stdarg " \
                "stdatomic stdbool stddef stdint stdio stdlib stdnoreturn string threads time wchar wctype " \
                "alloca byteswap cpuid dirent fnmatch dlfcn elf endian fcntl ftw getopt glob libgen link malloc poll " \
                "pthread pwd regex sched semaphore spawn strings termios unistd", names, " ")
      for (i = 1; i <= n; i++) system_header[names[i] ".h"] = 1
    }
    {
      split($0, field, ":")
      file = field[1]; line = field[2]
      text = substr($0, length(file) + length(line) + 3)
      if (!match(text, /["<][^">]*[">]/)) { print file ":" line ": an include that is no plain name"; next }
      quoted = substr(text, RSTART, 1) == "\""
      name = substr(text, RSTART + 1, RLENGTH - 2)
      for (header in only) {
        if (name ~ header) {
          if (file !~ only[header]) print file ":" line ": " name " belongs to " only[header] " alone"
          next
        }
      }
      if (!quoted) {
        if (!(name in system_header) && name !~ /^(sys|linux|asm|sanitizer)\//)
          print file ":" line ": <" name "> is in no table of outside libraries"
        next
      }
      if (room_of(file) == "example" && name !~ /\//) next  # what the compiler made for it
      if (name !~ /^(frontend|ir|passes|codegen|runtime|autotune)\//) {
        print file ":" line ": \"" name "\" is not rooted at the top of the tree, or not ours"
        next
      }
      room = room_of(file)
      if (name !~ may[room]) print file ":" line ": " room " must not include " name
    }'
}

# plant FILE LINE...: writes a file of the planted tree.
plant() {
  mkdir -p "$WORK/tree/$(dirname "$1")"
  printf '%s\n' "${@:2}" >"$WORK/tree/$1"
}

# Each planted line that breaks a rule ends in "// bad"; the others must pass.
plant runtime/base/a.c '#include "runtime/base/a.h"' '#include "runtime/artifact.h" // bad' \
  '#include <hwloc.h> // bad'
plant ir/a.c '#include "ir/a.h"' '#include "runtime/base/a.h"' \
  '#include "passes/pass.h" // bad' '#include <zlib.h> // bad'
plant ir/ref/a.c '#include "ir/a.h"' '#include "a.h" // bad' \
  '#include "../a.h" // bad' '#include <cjson/cJSON.h> // bad'
plant passes/a.c '#include "ir/a.h"' '#include "codegen/target.h" // bad' '#include "runtime/threads.h" // bad'
plant runtime/a.c '#include "runtime/a.h"' '#include "ir/type.h" // bad' '#  include <llvm-c/Core.h> // bad'
plant runtime/topology.c '#include <hwloc.h>' '#include <pcre2.h> // bad'
plant runtime/tokenizer_bpe.c '#include <pcre2.h>' '#include "frontend/quern.h" // bad'
plant runtime/device_cuda.c '#include <cuda.h>' '#include <nvrtc.h>' '#include "codegen/cuda/emit.h" // bad'
plant runtime/device_cpu.c '#include <cuda.h> // bad' '#include <immintrin.h> // bad' '#include <sys/mman.h>'
plant codegen/a.c '#include "runtime/artifact.h"' '#include "runtime/device.h" // bad' '#include <mlir-c/IR.h> // bad'
plant codegen/cpu/a.c '#include <mlir-c/IR.h>' '#include "llvm-c/Core.h"' '#include "passes/pass.h" // bad'
plant codegen/cuda/a.c '#include <nvrtc.h>' '#include "mlir-c/IR.h" // bad' '#include "autotune/db.h" // bad'
plant autotune/db.c '#include <sqlite3.h>' '#include "passes/pass.h"' '#include "passes/fuse.h" // bad'
plant autotune/a.c '#include "codegen/target.h"' '#include "codegen/cpu/a.h" // bad' '#include <sqlite3.h> // bad'
plant frontend/import/a.c '#include <cjson/cJSON.h>' '#include "ir/a.h"' '#include "passes/pass.h" // bad'
plant frontend/quern.c '#include "autotune/db.h"' '#include "codegen/cpu/a.h"' '#include <llvm-c/Core.h> // bad'
plant frontend/quern.h '#include "runtime/quern_run.h"' '#include "ir/graph.h" // bad'
plant frontend/own.h '#include "ir/graph.h"' '#include <sqlite3.h> // bad'
plant frontend/examples/a.c '#include <quern_run.h>' '#include <pthread.h>' '#include "made.h"' '#include "frontend/quern.h" // bad'
plant frontend/cli/a.c '#include <quern.h> // bad'
plant frontend/cli/main.c '#include "frontend/quern.h"' '#include "runtime/base/a.h"' \
  '#include "ir/graph.h" // bad' '#include "runtime/quern_run.h" // bad'

(cd "$WORK/tree" && grep -rn '// bad$' . | sed 's|^\./||' | cut -d: -f1,2 | sort) >"$WORK/want"
check_tree "$WORK/tree" | cut -d: -f1,2 | sort >"$WORK/got"
if ! diff -u "$WORK/want" "$WORK/got" >&2; then
  fail "this test does not find what was planted (above: - missed, + found wrongly)"
fi

check_tree "$QUERN_SOURCE" >"$WORK/violations"
if [ -s "$WORK/violations" ]; then
  cat "$WORK/violations" >&2
  fail "$(wc -l <"$WORK/violations") includes break the layering (DESIGN, the table of who may include whom)"
fi
pass "layering: $(grep -c . "$WORK/want") planted violations found, none in the tree"
