#!/usr/bin/env bash
# Bad input of every kind: the exit code says which kind, one line on stderr names the file and the reason, and no file
# or part of a file is left behind.
. "$(dirname "$0")/../support/e2e.sh"
need_quern
nano="$QUERN_SOURCE/models/nano/nano.gguf"
[ -r "$nano" ] || skip "models/nano/nano.gguf is missing"
export XDG_CACHE_HOME="$WORK/cache"
mkdir "$WORK/out"
cd "$WORK"
cp "$nano" good.gguf
"$QUERN" compile -q good.gguf -o good.qn
size=$(stat -c %s good.gguf)

# wrong CODE TEXT COMMAND ARGUMENT...: quern ends with CODE, one line on stderr that holds TEXT, and nothing left behind.
wrong() {
  local code=0
  "$QUERN" "$3" -q "${@:4}" >stdout 2>stderr </dev/null || code=$?
  check "$1" "$2" "$code" "quern ${*:3}"
}

# check WANT-CODE TEXT GOT-CODE WHAT: the same of a command that has run already.
check() {
  [ "$3" -eq "$1" ] || fail "$4: exit code $3, want $1: $(cat stderr)"
  [ "$(wc -l <stderr)" -eq 1 ] || fail "$4: want one line, got: $(cat stderr)"
  grep -q '^quern: error: ' stderr || fail "$4: got: $(cat stderr)"
  grep -qF -e "$2" stderr || fail "$4: want '$2' in: $(cat stderr)"
  [ ! -s stdout ] || fail "$4: text on stdout"
  [ -z "$(ls out)" ] || fail "$4: left behind: $(ls out)"
  [ -z "$(find . -name '*.tmp.*')" ] || fail "$4: left behind: $(find . -name '*.tmp.*')"
}

# patch FILE OFFSET TEXT: overwrites bytes.
patch() { printf '%b' "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none; }

# find_text FILE TEXT: the offset of its first occurrence.
find_text() { LC_ALL=C grep -obUaF -m 1 -e "$2" "$1" | head -n 1 | cut -d: -f1; }

# ---- model files

wrong 5 "no-such.gguf" compile no-such.gguf -o out/x.qn
wrong 3 "out: has no config.json; want a model's folder" compile out -o out/x.qn
: >empty.gguf
wrong 3 "empty.gguf: the file is empty" compile empty.gguf -o out/x.qn
echo 'This is no model.' >text.gguf
for command in "compile text.gguf -o out/x.qn" "run text.gguf -p x" "inspect text.gguf"; do
  # shellcheck disable=SC2086
  wrong 4 "text.gguf" $command
done
for bytes in 1 3; do
  head -c "$bytes" good.gguf >short.gguf
  wrong 4 "short.gguf: is neither GGUF nor" compile short.gguf -o out/x.qn
done
for bytes in 4 7 8 20 24 100 1000 20000 $((size / 2)) $((size - 1)); do
  head -c "$bytes" good.gguf >short.gguf
  wrong 3 "short.gguf" compile short.gguf -o out/x.qn
done

cp good.gguf bad.gguf && patch bad.gguf 0 'GGUX'
wrong 4 "bad.gguf" compile bad.gguf -o out/x.qn
cp good.gguf bad.gguf && patch bad.gguf 4 '\x63'
wrong 4 "bad.gguf" compile bad.gguf -o out/x.qn
cp good.gguf bad.gguf && patch bad.gguf 8 '\xff\xff\xff\xff\xff\xff\xff\x7f'
wrong 3 "bad.gguf" compile bad.gguf -o out/x.qn
cp good.gguf bad.gguf && patch bad.gguf 16 '\xff\xff\xff\xff'
wrong 3 "bad.gguf" compile bad.gguf -o out/x.qn
# The length of the first key.
cp good.gguf bad.gguf && patch bad.gguf 24 '\xff\xff\xff\xff\xff\xff\xff\xff'
wrong 3 "bad.gguf" compile bad.gguf -o out/x.qn

# The value of general.architecture: after the key, 4 bytes of type and 8 of length.
at=$(($(find_text good.gguf general.architecture) + 20 + 12))
cp good.gguf bad.gguf && patch bad.gguf "$at" 'lxama'
wrong 4 "lxama" compile bad.gguf -o out/x.qn
grep -q 'bad.gguf.*llama' stderr || fail "an unknown architecture: the known ones are not told: $(cat stderr)"
# Names with control bytes do not reach the terminal.
patch bad.gguf "$at" 'l\x1b[2J'
wrong 4 "'l?[2J'" compile bad.gguf -o out/x.qn

# The pre-tokenizer's name: after the key, 4 bytes of type and 8 of length.
at=$(($(find_text good.gguf tokenizer.ggml.pre) + 18 + 12))
cp good.gguf bad.gguf && patch bad.gguf "$at" 'zz'
wrong 4 "bad.gguf: " compile bad.gguf -o out/x.qn
# An embedding of 511 rows: after the name, 4 bytes of rank and 8 of the other dimension; after the key, 4 of type.
cp good.gguf bad.gguf && patch bad.gguf $(($(find_text good.gguf token_embd.weight) + 17 + 4 + 8)) '\xff\x01'
patch bad.gguf $(($(find_text good.gguf llama.vocab_size) + 16 + 4)) '\xff\x01'
wrong 3 "bad.gguf: key 'tokenizer.ggml.tokens': has 512 tokens, want at most 511" compile bad.gguf -o out/x.qn
# A newline in the model's name makes no line of its own in the summary.
at=$(($(find_text good.gguf general.name) + 12 + 12))
cp good.gguf bad.gguf && patch bad.gguf "$at" '\n'
"$QUERN" compile -q bad.gguf -o name.qn && "$QUERN" inspect name.qn --what metadata >text
grep -q '^model = \\x0a' text || fail "a newline in the model's name: $(cat text)"

cp good.gguf bad.gguf && patch bad.gguf "$(find_text good.gguf blk.1.attn_k.weight)" 'blk.1.attn_z'
wrong 3 "blk.1.attn_k.weight" compile bad.gguf -o out/x.qn
grep -q 'bad.gguf' stderr || fail "a missing tensor: the file is not named: $(cat stderr)"
cp good.gguf bad.gguf && patch bad.gguf "$(find_text good.gguf llama.block_count)" 'llama.block_cOunt'
wrong 3 "block_count" compile bad.gguf -o out/x.qn
# A tensor's offset: name, 4 bytes of rank, 2 × 8 of shape, 4 of type.
at=$(($(find_text good.gguf blk.1.attn_k.weight) + 19 + 4 + 16 + 4))
cp good.gguf bad.gguf && patch bad.gguf "$at" '\xff\xff\xff\xff\xff\xff\xff\x00'
wrong 3 "blk.1.attn_k.weight" compile bad.gguf -o out/x.qn
cp good.gguf bad.gguf && patch bad.gguf $((at - 4)) '\x11'
wrong 4 "blk.1.attn_k.weight" compile bad.gguf -o out/x.qn

echo '{ "quern": ' >graph.json
wrong 3 "graph.json" compile graph.json -o out/x.qn
echo 'nonsense' >bad.json
wrong 3 "bad.json" compile good.gguf -o out/x.qn --template bad.json
wrong 5 "no-such.json" compile good.gguf -o out/x.qn --template no-such.json

# ---- options that only the library understands

wrong 2 "x86-64-v9" compile good.gguf -o out/x.qn --target x86-64-v9
wrong 2 "target" compile good.gguf -o out/x.qn --target ""
echo 'n_tiles = 2' >knob.schedule
wrong 2 "n_tiles" compile good.gguf -o out/x.qn --schedule knob.schedule
echo 'n_tile = many' >value.schedule
wrong 2 "many" compile good.gguf -o out/x.qn --schedule value.schedule
wrong 5 "no-such.schedule" compile good.gguf -o out/x.qn --schedule no-such.schedule

# ---- output

wrong 5 "no-such-folder/x.qn" compile good.gguf -o no-such-folder/x.qn
wrong 2 "out: is a folder" compile good.gguf -o out
wrong 2 "/dev/null: is a device" compile good.gguf -o /dev/null
if [ "$(id -u)" -ne 0 ]; then
  mkdir closed && chmod 555 closed
  wrong 5 "closed/x.qn" compile good.gguf -o closed/x.qn
fi
# A file that may not grow stands for a disk that is full: the write fails in the middle.
code=0
(ulimit -f 500 && exec "$QUERN" compile -q good.gguf -o out/x.qn) >stdout 2>stderr || code=$?
check 5 "out/x.qn: cannot write" "$code" "a file that may not grow"
# An artifact that was there stays as it was.
cp good.qn kept.qn
code=0
(ulimit -f 500 && exec "$QUERN" compile -q good.gguf -o kept.qn) >stdout 2>stderr || code=$?
check 5 "kept.qn: cannot write" "$code" "a file that may not grow, over another"
cmp good.qn kept.qn || fail "a compilation that failed has damaged the artifact that was there"
# A real full disk, where a file system may be mounted.
mkdir disk
if unshare -rm sh -c 'mount -t tmpfs -o size=512k none disk' 2>unused; then
  code=0
  unshare -rm sh -c 'mount -t tmpfs -o size=512k none disk && "$QUERN" compile -q good.gguf -o disk/x.qn; code=$?
    [ -z "$(ls disk)" ] || echo "left behind: $(ls disk)" >&2
    exit $code' >stdout 2>stderr || code=$?
  check 5 "disk/x.qn: cannot write: No space left" "$code" "a full disk"
fi
# Cut off by a signal while it works.
code=0
stopped TERM 0.2 "$QUERN" compile -q good.gguf -o out/x.qn >stdout 2>stderr || code=$?
case $code in
  0) rm out/x.qn ;;  # it was done before
  143) [ -z "$(ls out)" ] || fail "SIGTERM: left behind: $(ls out)" ;;
  *) fail "SIGTERM: exit code $code, want 143: $(cat stderr)" ;;
esac

# ---- artifacts

wrong 5 "no-such.qn" run no-such.qn -p x
size=$(stat -c %s good.qn)
for bytes in 8 31 32 100 4096 $((size / 2)) $((size - 1)); do
  head -c "$bytes" good.qn >bad.qn
  wrong 3 "bad.qn" run bad.qn -p x
  wrong 3 "bad.qn" inspect bad.qn
done
cp good.qn bad.qn && patch bad.qn 8 '\x63'
wrong 4 "bad.qn" run bad.qn -p x
# One byte in the middle of each section; the weights' only when asked.
"$QUERN" inspect good.qn --what sections >sections
while read -r name _ bytes _ _ offset _; do
  cp good.qn bad.qn && patch bad.qn $((offset + bytes / 2)) '\xa5\x5a\xa5'
  if [ "$name" = weights ]; then
    wrong 3 "weights" inspect bad.qn --check-weights
  else
    wrong 3 "$name" run bad.qn -p x
  fi
done <sections
[ "$(wc -l <sections)" -ge 6 ] || fail "the sections are: $(cat sections)"

# Code for another machine, or for features that are not here.
case $(uname -m) in x86_64) other=aarch64 ;; *) other=x86-64-v3 ;; esac
"$QUERN" compile -q good.gguf -o other.qn --target "$other"
wrong 7 "$other" run other.qn -p x
wrong 2 "x86-64-v3" run good.qn --target x86-64-v3+nonsense -p x

# ---- running

"$QUERN" compile -q good.gguf -o small.qn --ctx 64
wrong 8 "64" run small.qn -p "$(printf 'a b c d %.0s' $(seq 1 40))"
grep -qE '1[0-9]{2}' stderr || fail "a prompt that is too long: its length is not told: $(cat stderr)"
wrong 8 "65" run small.qn -p x --ctx 65
wrong 8 "999" run small.qn -p x --chunk 999
wrong 2 "top" run small.qn -p x --temp 1 --top-p 0
wrong 2 "repeat" run small.qn -p x --repeat-penalty 0
wrong 5 "no-such-folder/l" run -q small.qn -p "copy: k =" -n 0 --logits no-such-folder/l

# ---- out of memory: an error, not a crash

if grep -q __asan_init "$QUERN"; then
  echo "not done: limits of memory (AddressSanitizer needs the whole address space)"
else
  truncate -s 64G huge.qn && patch huge.qn 0 'quern\r\n\x1a'
  truncate -s 64G huge.gguf && patch huge.gguf 0 'GGUF\x03'
  "$QUERN" compile -q good.gguf -o wide.qn --ctx 16000000
  for arguments in "run -q huge.qn -p x" "compile -q huge.gguf -o out/x.qn" "run -q wide.qn -p x --threads 1"; do
    code=0
    # shellcheck disable=SC2086
    (ulimit -v 4000000 && exec "$QUERN" $arguments) >stdout 2>stderr || code=$?
    check 6 "" "$code" "little memory: $arguments"
  done
fi

# ---- a program without its code generator: runs what is compiled, and says what it lacks for the rest

mkdir "$WORK/alone" && cp "$QUERN" "$WORK/alone/quern"
"$QUERN" compile -q "$QUERN_SOURCE/models/nano/nano.gguf" -o "$WORK/alone/nano.qn"
[ "$("$WORK/alone/quern" run -q "$WORK/alone/nano.qn" -p "copy: k q d =")" = " k q d" ] || fail "no run without the generator"
for target in host x86-64-v3; do
  code=0
  "$WORK/alone/quern" compile -q "$QUERN_SOURCE/models/nano/nano.gguf" -o "$WORK/alone/x.qn" --target "$target" 2>"$WORK/err" ||
    code=$?
  [ "$code" -eq 5 ] && grep -q 'code generator: cannot be loaded: .*belongs beside the program' "$WORK/err" ||
    fail "without the generator: code $code, $(cat "$WORK/err")"
done
pass
