# For e2e tests of other processors under qemu-user, sourced after e2e.sh: one artifact made here holds code for this
# machine and for others; the runtime, cross-built, runs each of them on an emulated CPU that has no more than that, and
# every logit is that of x86-64, bit for bit.

# cross_tools ARCH PACKAGES: skips where the emulator or the compiler is missing.
cross_tools() {
  arch=$1 cross=$1-linux-gnu-gcc
  need_quern
  [ "$(uname -m)" = x86_64 ] || skip "this compares $arch with x86-64, and this machine is $(uname -m)"
  for tool in "qemu-$arch" "$cross"; do
    command -v "$tool" >/dev/null || skip "no $tool here (Debian packages qemu-user, $2)"
  done
  grep -qs '^QUERN_SANITIZE:BOOL=ON' "$QUERN_BUILD/CMakeCache.txt" && skip "what runs under qemu is not what has sanitizers"
  cd "$QUERN_SOURCE" || exit 1
}

# cross_library: builds libquern_run for $arch as those do who ship it, into $library, which is kept from run to run. False
# where hwloc and PCRE2 are not here for that processor. $emulator runs what is linked with it.
cross_library() {
  local debian=${arch/aarch64/arm64} triple=$arch-linux-gnu
  local root=${QUERN_CROSS:-$QUERN_BUILD/cross}/$debian
  library="$QUERN_BUILD/cross/build-$arch"
  libraries="$root/usr/lib/$triple"
  [ -e "$libraries/pkgconfig/hwloc.pc" ] && [ -e "$libraries/pkgconfig/libpcre2-8.pc" ] || return 1
  mkdir -p "$QUERN_BUILD/cross"  # $QUERN_CROSS may be elsewhere
  (
    flock 9
    export PKG_CONFIG_LIBDIR="$libraries/pkgconfig" PKG_CONFIG_SYSROOT_DIR="$root"
    export PKG_CONFIG_ALLOW_SYSTEM_CFLAGS=1 PKG_CONFIG_ALLOW_SYSTEM_LIBS=1
    cmake -S . -B "$library" -DQUERN_RUNTIME_ONLY=ON -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR="$arch" \
      -DCMAKE_C_COMPILER="$cross" -DCMAKE_C_FLAGS="-isystem $root/usr/include/$triple" -DCMAKE_INSTALL_LIBDIR=lib &&
      make -C "$library" -j"$(nproc)"
  ) 9>"$QUERN_BUILD/cross/lock-$arch" >"$WORK/log" 2>&1 || fail "the cross build: $(tail -n 20 "$WORK/log")"
  cross_link=(-L"$libraries" -Wl,-rpath-link,"$libraries:$root/lib/$triple")
  emulated_libraries="$libraries:$root/lib/$triple"
  emulator=("qemu-$arch" -L "/usr/$triple" -E "LD_LIBRARY_PATH=$emulated_libraries")
}

# cross_need ARCH PACKAGES: cross_tools; builds quern-logits for the processor, with the arguments in $cross_flags, into
# $emulated: with libquern_run, or where hwloc or PCRE2 is missing with those files of runtime/ that need neither.
cross_flags=() compared=0
cross_need() {
  cross_tools "$@"
  synth="$QUERN_BUILD/tests/quern-synth" native="$QUERN_BUILD/tests/quern-logits"
  [ -x "$synth" ] && [ -x "$native" ] || skip "quern-synth or quern-logits is not built"
  emulated="$WORK/quern-logits"
  if cross_library; then
    "$cross" -std=c17 -D_GNU_SOURCE -O1 -I. -pthread -o "$emulated" tests/bench/logits_main.c "${cross_flags[@]}" \
      "$library/libquern_run.a" "${cross_link[@]}" -lhwloc -lpcre2-8 -ldl -lm || fail "the cross build"
    return
  fi
  emulator=("qemu-$arch")
  local sources=() file cross_objects=$WORK/cross-$arch
  for file in runtime/*.c runtime/base/*.c; do
    case $file in
      runtime/topology.c | runtime/tokenizer_*.c | runtime/jinja_*.c) ;;  # hwloc, PCRE2, and what nothing here calls
      *) sources+=("$file") ;;
    esac
  done
  if [ ! -d "$cross_objects" ]; then
    mkdir "$cross_objects"
    for file in "${sources[@]}" tests/support/topology_plain.c tests/bench/logits_main.c; do
      echo "-o $cross_objects/${file//\//_}.o $file"
    done | xargs -P "$(nproc)" -L 1 "$cross" -std=c17 -D_GNU_SOURCE -O1 -ffunction-sections -fdata-sections -ffp-contract=off \
      -Wall -Wextra -Werror -I. -pthread -c || fail "the cross build"
  fi
  # What calls what is left out goes at the end, since nothing calls it.
  "$cross" -Wl,--gc-sections -pthread -static -o "$emulated" "$cross_objects"/*.o "${cross_flags[@]}" -lm || fail "the cross build"
}

# A pair TARGET=CPU: a target, and a CPU of qemu that has it and nothing beyond.
cross_run() { "${emulator[@]}" -cpu "${pair#*=}" "$emulated" "$@"; }

# compare NAME MODEL PAIRS COMPILE-OPTION...: the artifact for x86-64 and the targets of the pairs, all with the same bits,
# at the numbers of tokens in $counts.
compare() {
  local name=$1 model=$2 pairs=$3 targets=host
  shift 3
  for pair in $pairs; do
    case ,$targets, in *,"${pair%%=*}",*) ;; *) targets+=,${pair%%=*} ;; esac
  done
  "$QUERN" compile -q "$model" -o "$WORK/model.qn" --target "$targets" --ctx 128 --all-logits "$@" ||
    fail "$name: quern compile ends with $?"
  "$native" "$WORK/model.qn" --counts "$counts" | tail -n +2 >"$WORK/want"
  [ -s "$WORK/want" ] || fail "$name: no logits"
  for pair in $pairs; do
    cross_run "$WORK/model.qn" --counts "$counts" >"$WORK/got" || fail "$name: ${pair%%=*} ends with $?"
    [ "$(head -n 1 "$WORK/got")" = "target ${pair%%=*}" ] || fail "$name: $(head -n 1 "$WORK/got"), want ${pair%%=*}"
    tail -n +2 "$WORK/got" | diff "$WORK/want" - >&2 || fail "$name: other logits on ${pair%%=*}"
    compared=$((compared + 1))
  done
}

# compare_formats PAIRS: every weight format that can be written, in one model each of whose matrices has another: with
# activations in int8 on all the targets, and in f32, whose kernels are alike on all of them, on the first one.
compare_formats() {
  "$synth" --model tiny-wide-test --type every --layers 2 -o "$WORK/every.gguf" >/dev/null || fail "quern-synth"
  compare "every format, int8 activations" "$WORK/every.gguf" "$1" --numeric int8
  compare "every format, f32 activations" "$WORK/every.gguf" "${1%% *}" --numeric f32
}

# embed COMPILER TARGET FLAG...: frontend/examples/embed.c with an object file for the target, as $WORK/embed.
embed() {
  "$QUERN" compile -q frontend/examples/embed.json --emit=object --name scaled --target "$2" -o "$WORK/scaled.o" ||
    fail "an object for $2"
  "$1" -O1 -I"$WORK" frontend/examples/embed.c "$WORK/scaled.o" -pthread "${@:3}" -o "$WORK/embed" || fail "linking an object for $2"
}

# compare_objects PAIRS FLAG...: what object files for the targets compute is what those for x86-64 do.
compare_objects() {
  embed cc host
  "$WORK/embed" >"$WORK/want" || fail "embed.c ends with $?"
  for pair in $1; do
    embed "$cross" "${pair%%=*}" -static "${@:2}"
    "qemu-$arch" -cpu "${pair#*=}" "$WORK/embed" >"$WORK/got" || fail "an object for ${pair%%=*} ends with $?"
    cmp "$WORK/want" "$WORK/got" || fail "an object for ${pair%%=*} gives other values"
    compared=$((compared + 1))
  done
}

# lacking CPU TARGET FEATURES FLAG...: an object file says by its code that the CPU lacks something of these.
lacking() {
  local code=0
  embed "$cross" "$2" -static "${@:4}"
  "qemu-$arch" -cpu "$1" "$WORK/embed" 2>"$WORK/err" || code=$?
  [ "$code" -eq 7 ] && grep -q "must have $3" "$WORK/err" || fail "an object for $2 on $1: $code: $(cat "$WORK/err")"
}
