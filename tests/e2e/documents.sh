#!/usr/bin/env bash
# Manual pages and shell completion: there is a page for every command, all options are in it, troff takes it without a
# word, and a shell really completes by the scripts.
. "$(dirname "$0")/../support/e2e.sh"
need_quern

wrong() {  # wrong CODE TEXT ARGUMENT...
  local code=0
  "$QUERN" "${@:3}" >"$WORK/out" 2>"$WORK/err" || code=$?
  [ "$code" -eq "$1" ] && grep -qF -e "$2" "$WORK/err" || fail "quern ${*:3}: ends with $code: $(cat "$WORK/err")"
}

# ---- manual pages

"$QUERN" man --all "$WORK/man" || fail "man --all ends with $?"
commands=$("$QUERN" --help | awk '/^Commands:/ { on = 1; next } /^$/ { on = 0 } on && $1 != "help" { print $1 }')
[ "$(wc -w <<<"$commands")" -ge 10 ] || fail "commands: $commands"
[ "$(find "$WORK/man" -type f | wc -l)" -eq $(($(wc -w <<<"$commands") + 1)) ] || fail "pages: $(ls "$WORK/man")"
for command in $commands; do
  page="$WORK/man/quern-$command.1"
  "$QUERN" man "$command" | cmp - "$page" || fail "quern man $command is not the page that --all writes"
  grep -q "^\.BR quern\\\\-$command (1)" "$WORK/man/quern.1" || fail "quern.1 does not tell of $command"
  for option in $("$QUERN" "$command" --help | sed -n '/^Options:/,/^$/p' | grep -oE '^  (-.,|   ) --[a-z-]+' | grep -oE '\-\-[a-z-]+'); do
    grep -qF -e "\\-\\-$(sed 's/^--//; s/-/\\-/g' <<<"$option")" "$page" || fail "$page does not tell $option"
  done
done
"$QUERN" man | cmp - "$WORK/man/quern.1" || fail "quern man is not quern.1"
if command -v groff >/dev/null; then
  for page in "$WORK"/man/*; do
    groff -man -ww -z -Tutf8 "$page" 2>"$WORK/err" || fail "groff takes not $page"
    [ ! -s "$WORK/err" ] || fail "groff of $page: $(head -3 "$WORK/err")"
  done
  groff -man -Tascii -P-c "$WORK/man/quern-run.1" | has -E 'temperature; +0 +takes +the +most +likely +token +\(default:' ||
    fail "quern-run.1 lacks the text of --temp"
fi
wrong 2 "unknown command 'rum'; did you mean run?" man rum
wrong 2 "--all: writes every page, got 'run' too" man --all "$WORK/man" run
: >"$WORK/file"
wrong 5 "is a file; want a folder" man --all "$WORK/file"
wrong 5 "cannot create" man --all /proc/nothing/here
wrong 2 "got nothing, want a shell: bash or zsh" completion
wrong 2 "got fish, want a shell: bash or zsh" completion fish

# ---- bash

"$QUERN" completion bash >"$WORK/quern.bash" || fail "completion bash ends with $?"
bash -n "$WORK/quern.bash" || fail "bash does not parse its script"
# complete WORD...: the completions of the last word, in one line, sorted.
complete_words() {
  (
    cd "$WORK/place"
    # shellcheck disable=SC1091
    . "$WORK/quern.bash"
    COMP_WORDS=(quern "$@") COMP_CWORD=$#
    _quern
    printf '%s\n' "${COMPREPLY[@]}" | sort | xargs
  )
}
mkdir -p "$WORK/place/folder"
: >"$WORK/place/model.gguf"
: >"$WORK/place/two words.qn"
expect() {  # expect WANT WORD...
  local got
  got=$(complete_words "${@:2}")
  [ "$got" = "$1" ] || fail "completing 'quern ${*:2}': got '$got', want '$1'"
}
expect "compile completion" com
expect "--numeric" run --num
expect "int8" compile --numeric in
expect "f32" compile --numeric = f
expect "model.gguf" compile mod
expect "two words.qn" run two
expect "folder" compile --dump-dir ""
expect "" run -n ""
expect "bash" completion b
expect "explain" help ex
expect "verify" man ver
expect "--special --speculate --spin" run --sp
# ---- zsh

"$QUERN" completion zsh >"$WORK/_quern" || fail "completion zsh ends with $?"
if command -v zsh >/dev/null; then
  zsh -f -n "$WORK/_quern" || fail "zsh does not parse its script"
  # zsh_words WORD...: what zsh offers, as its own functions hand it to compadd.
  cat >"$WORK/offer.zsh" <<'ZSH'
zmodload zsh/zpty
zpty offering zsh -f -i
zpty -w offering "PS1=; stty -echo; cd $2; autoload -Uz compinit; compinit -u -D; source $1; LISTMAX=0"
zpty -w offering $'compadd() { builtin compadd -O offered "$@"; print -rl -- "<$^offered>" >>$OFFERED; builtin compadd "$@" }'
zpty -w offering $'offer() { BUFFER=$LINE CURSOR=$#LINE; zle complete-word; print END >>$OFFERED; BUFFER=; zle accept-line }'
zpty -w offering $'zle -N offer; bindkey "^X" offer'
zpty -w -n offering $'\C-X'
for i in {1..100}; do
  grep -q END $OFFERED 2>/dev/null && break
  zpty -r -t offering _ '*' >/dev/null
  sleep 0.05
done
zpty -d offering
ZSH
  zsh_offers() {  # zsh_offers WANT LINE
    : >"$WORK/offered"
    OFFERED="$WORK/offered" LINE=$2 timeout 30 zsh -f "$WORK/offer.zsh" "$WORK/_quern" "$WORK/place" </dev/null >/dev/null 2>&1 || true
    grep -qF "<$1>" "$WORK/offered" || fail "completing '$2' in zsh: want $1, got $(tr '\n' ' ' <"$WORK/offered")"
  }
  zsh_offers compile "quern com"
  zsh_offers --numeric "quern run --num"
  zsh_offers f32 "quern compile --numeric f"
  zsh_offers model.gguf "quern compile mod"
  zsh_offers bash "quern completion b"
  zsh_offers verify "quern man ver"
fi

pass
