#!/usr/bin/env bash
# Signed artifacts by the program: compile --sign, run and verify --require-signature, what inspect says, and that checking
# without running works where the code would not.
. "$(dirname "$0")/../support/e2e.sh"
need_quern
command -v openssl >/dev/null || skip "no openssl, which makes keys"
ldconfig -p 2>/dev/null | has 'libsodium\.so\.23' || skip "no libsodium (Debian package libsodium23)"
model="$QUERN_SOURCE/models/nano/nano.gguf"
cd "$WORK"
for name in mine other; do
  openssl genpkey -algorithm ed25519 -out $name.key 2>"$WORK/err" || fail "$(cat "$WORK/err")"
  openssl pkey -in $name.key -pubout -out $name.pub 2>"$WORK/err" || fail "$(cat "$WORK/err")"
done

# wrong CODE TEXT ARGUMENT...
wrong() {
  local code=0
  "$QUERN" "${@:3}" >"$WORK/out" 2>"$WORK/err" </dev/null || code=$?
  [ "$code" -eq "$1" ] && grep -qF -e "$2" "$WORK/err" || fail "quern ${*:3}: ends with $code: $(cat "$WORK/err")"
}

"$QUERN" compile -q "$model" -o signed.qn --sign mine.key || fail "compile --sign ends with $?"
"$QUERN" compile -q "$model" -o plain.qn || fail "compile ends with $?"
[ "$("$QUERN" run -q signed.qn --require-signature mine.pub -p 'copy: k q d =' -n 20)" = " k q d" ] || fail "a signed artifact does not run"
[ "$("$QUERN" run -q signed.qn -p 'copy: k q d =' -n 20)" = " k q d" ] || fail "nor does it without asking for the signature"
wrong 3 "signed.qn: is signed by another key" run signed.qn --require-signature other.pub -p x
wrong 3 "plain.qn: is not signed, want a signature" run plain.qn --require-signature mine.pub -p x
wrong 2 "is for artifacts, got the model file" run "$model" --require-signature mine.pub -p x
wrong 3 "want a key as openssl writes it" run signed.qn --require-signature mine.key -p x
wrong 5 "none.pub" run signed.qn --require-signature none.pub -p x
wrong 3 "want a key as openssl writes it" compile "$model" -o x.qn --sign mine.pub
wrong 5 "none.key" compile "$model" -o x.qn --sign none.key
openssl genpkey -algorithm x25519 -out agree.key 2>"$WORK/err" || fail "$(cat "$WORK/err")"
wrong 4 "got another kind of key, want Ed25519" compile "$model" -o x.qn --sign agree.key
[ ! -e x.qn ] || fail "a compilation without a key leaves something"

# Every command that runs an artifact's code, or reads what its kernels are, asks for the signature when it is told to.
"$QUERN" tune -q signed.qn --require-signature mine.pub --db none --budget 0 >"$WORK/out" 2>"$WORK/err" || fail "tune: $(cat "$WORK/err")"
"$QUERN" bench -q signed.qn --require-signature mine.pub --prompt 4 -n 2 --reps 1 --threads 1 --against signed.qn \
  >"$WORK/out" 2>"$WORK/err" || fail "bench: $(cat "$WORK/err")"
"$QUERN" explain -q signed.qn --require-signature mine.pub --prompt 4 --reps 1 --threads 1 --db none \
  >"$WORK/out" 2>"$WORK/err" || fail "explain: $(cat "$WORK/err")"
for command in "bench -q --prompt 4 -n 2 --reps 1" "explain -q --prompt 4 --reps 1" "explain -q --device cuda:sm_90" \
  "tune -q --db none --budget 0" "eval -q --tasks $QUERN_SOURCE/models/nano/tasks.tsv" "verify"; do
  # shellcheck disable=SC2086
  wrong 3 "plain.qn: is not signed" $command plain.qn --require-signature mine.pub
  # shellcheck disable=SC2086
  wrong 3 "signed.qn: is signed by another key" $command signed.qn --require-signature other.pub
  [ "$command" = verify ] || wrong 2 "is for artifacts, got the model file" $command "$model" --require-signature mine.pub
done
wrong 3 "plain.qn: is not signed" bench -q --prompt 4 -n 2 --reps 1 signed.qn --require-signature mine.pub --against plain.qn

# The key is the one that openssl knows, and the signature is of Ed25519ph: the weights count, which are not hashed.
key=$(openssl pkey -pubin -in mine.pub -outform DER | tail -c 32 | od -An -tx1 | tr -d ' \n')
"$QUERN" inspect signed.qn | has "^signature = ed25519, not checked, by $key\$" || fail "$("$QUERN" inspect signed.qn)"
"$QUERN" inspect plain.qn | has '^signature' && fail "a signature where there is none"
"$QUERN" inspect -w sections signed.qn | has -E '^signature +0 +96 bytes' || fail "$("$QUERN" inspect -w sections signed.qn)"
offset=$("$QUERN" inspect -w sections signed.qn | sed -n 's/^weights .* at \([0-9]*\) .*/\1/p')
cp signed.qn changed.qn
printf '\125' | dd of=changed.qn bs=1 seek=$((offset + 5000)) conv=notrunc 2>"$WORK/err"
cmp -s signed.qn changed.qn && fail "nothing was changed"
"$QUERN" run -q changed.qn -p x -n 1 >"$WORK/out" || fail "who does not ask runs what was changed"
wrong 3 "the signature does not fit: the file was changed after it was signed" run changed.qn --require-signature mine.pub -p x

# verify: with nothing run, also for a machine that this one is not.
"$QUERN" verify signed.qn --no-run --check-weights --require-signature mine.pub 2>"$WORK/err" || fail "$(cat "$WORK/err")"
grep -q 'records and hashes, also of the weights, and signature are right; nothing was run$' "$WORK/err" || fail "$(cat "$WORK/err")"
"$QUERN" verify changed.qn --no-run || fail "hashes without those of the weights"
wrong 3 "damaged" verify changed.qn --no-run --check-weights
wrong 3 "the signature does not fit" verify changed.qn --no-run --require-signature mine.pub
wrong 3 "is not signed" verify plain.qn --require-signature mine.pub
foreign=aarch64
if [ "$(uname -m)" = aarch64 ]; then foreign=x86-64-v3; fi
"$QUERN" compile -q "$model" -o foreign.qn --target $foreign --sign mine.key || fail "compile for $foreign"
"$QUERN" verify foreign.qn --no-run --require-signature mine.pub || fail "verify --no-run wants the machine"
pass
