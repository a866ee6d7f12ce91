#!/usr/bin/env bash
# Chat templates and conversations: of a model file, of an option, answers as if the whole conversation were evaluated at once,
# only what is new evaluated, commands, signals, errors.
. "$(dirname "$0")/../support/e2e.sh"
need_quern
nano="$QUERN_SOURCE/models/nano/nano.gguf"
[ -r "$nano" ] || skip "models/nano/nano.gguf is missing"
model="$WORK/chat.gguf" artifact="$WORK/chat.qn"

# wrong CODE TEXT ARGUMENT...
wrong() {
  local code=0
  "$QUERN" "${@:3}" >"$WORK/out" 2>"$WORK/err" </dev/null || code=$?
  [ "$code" -eq "$1" ] || fail "quern ${*:3}: exit code $code, want $1: $(cat "$WORK/err")"
  grep -qF -e "$2" "$WORK/err" || fail "quern ${*:3}: want '$2' in: $(cat "$WORK/err")"
}

# with_template TEMPLATE FILE: nano with a chat template in place of its licence; the header grows by a multiple of the
# alignment, so that tensors stay where their offsets say.
with_template() {
  TEMPLATE=$1 perl -0777 -pe '
    my $t = $ENV{TEMPLATE};
    $t .= "{#" . (" " x ((32 - (8 + length($t) + 4 - 10) % 32) % 32)) . "#}";
    my $old = pack("Q<", 15) . "general.license" . pack("V", 8) . pack("Q<", 10) . "Apache-2.0";
    my $new = pack("Q<", 23) . "tokenizer.chat_template" . pack("V", 8) . pack("Q<", length $t) . $t;
    s/\Q$old\E/$new/ or die "no licence to replace"' "$nano" >"$2"
}

# Each message and its answer are a document of nano's, so that answers can be checked.
turns="{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}{{ m.content }}{% elif m.role == 'assistant' %}{{ m.content }}{{ eos_token }}{% else %}{{ bos_token + m.content + eos_token }}{% endif %}{% endfor %}"
with_template "$turns" "$model"
"$QUERN" compile -q "$model" -o "$artifact" || fail "compile ends with $?"
"$QUERN" inspect -w sections "$artifact" | has '^.*chat' || fail "inspect does not tell the section: $("$QUERN" inspect -w sections "$artifact")"
"$QUERN" inspect "$artifact" | has "^chat_templates = default$" || fail "inspect does not tell the templates"

# ---- a folder's templates

cp -r "$QUERN_SOURCE/tests/golden/models/llama" "$WORK/folder"
printf '{"chat_template": "{{ 1 }}"}' >"$WORK/folder/tokenizer_config.json"
mkdir "$WORK/folder/additional_chat_templates"
printf '{{ 2 }}' >"$WORK/folder/additional_chat_templates/tool_use.jinja"
"$QUERN" compile -q "$WORK/folder" -o "$WORK/folder.qn" || fail "compile of a folder ends with $?"
"$QUERN" inspect "$WORK/folder.qn" | has "^chat_templates = default, tool_use$" || fail "a folder: $("$QUERN" inspect "$WORK/folder.qn")"

# ---- one message

plain=$("$QUERN" run -q "$artifact" -p "copy: k q d =" -n 30)
[ "$plain" = " k q d" ] || fail "got '$plain'"
[ "$("$QUERN" run -q "$artifact" -p "copy: k q d =" --chat-template auto)" = " k q d" ] || fail "--chat-template auto"
[ "$("$QUERN" run -q "$artifact" -p "copy: k q d =" --chat-template none)" = " k q d" ] || fail "--chat-template none"
ids() { "$QUERN" run -q "$artifact" -n 1 --json "$@" | sed 's/.*"prompt_ids": *\(\[[^]]*\]\).*/\1/'; }
[ "$(ids -p "max: 1" --system "a")" = "$(ids --special -p '<|bos|>a<|eos|><|bos|>max: 1' | sed 's/510, *510/510/; s/510,510/510/')" ] ||
  fail "--system: $(ids -p "max: 1" --system "a"), want $(ids --special -p '<|bos|>a<|eos|><|bos|>max: 1')"
printf 'reverse: {{ messages[0].content }} =' >"$WORK/own.jinja"
[ "$("$QUERN" run -q "$artifact" -p "k q d" --chat-template "$WORK/own.jinja" -n 30)" = "$("$QUERN" run -q "$artifact" --tokens "$(ids -p 'reverse: k q d =' | tr -d '[] ' | sed 's/^510,//')" -n 30)" ] ||
  fail "a template of a file"
[ "$("$QUERN" run -q "$artifact" -p "k q d" --chat-template '{{ bos_token }}reverse: {{ messages[0].content }} =' -n 30)" = " d q k" ] ||
  fail "a template as text"
"$QUERN" run "$artifact" -p "Once" -n 1 2>"$WORK/err" >/dev/null
grep -q 'continuing the text as it is; --chat-template auto asks' "$WORK/err" || fail "no word of the template: $(cat "$WORK/err")"

# ---- a conversation

answers=$(printf 'copy: k q d =\nmax: 47 12 83 =\n' | "$QUERN" run -q "$artifact" --chat)
[ "$answers" = " k q d
 83" ] || fail "answers: $answers"
# The second answer is the one to the whole conversation at once, whatever it says.
told=$(printf 'copy: k q d =\nOnce\n' | "$QUERN" run -q "$artifact" --chat --system "Once upon a time" -n 25)
first=$(head -n 1 <<<"$told")
whole=$("$QUERN" run -q "$artifact" --tokens "$(ids --special -p "<|bos|>Once upon a time<|eos|><|bos|>copy: k q d =$first<|eos|><|bos|>Once" | tr -d '[] ' | sed 's/^510,510/510/')" -n 25)
[ "$(tail -n +2 <<<"$told")" = "$whole" ] || fail "in the cache: '$told', at once: '$whole'"
# Only what is new is evaluated: the second message's tokens and the end of the first answer.
printf 'copy: k q d =\n/stats\ncopy: a =\n/stats\n' | "$QUERN" run -q "$artifact" --chat 2>"$WORK/err" >/dev/null
[ "$(sed -n 's/.*last prompt \([0-9]*\) tokens.*(\([0-9]*\) of them again).*/\1 \2/p' "$WORK/err" | tail -n 1)" = \
  "$(($(ids -p 'copy: a =' | tr ',' '\n' | wc -l) + 1)) 0" ] || fail "evaluated: $(cat "$WORK/err")"
# A template that forgets earlier answers: told, evaluated again, and answered as the whole would be.
brief="{{ bos_token }}{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
printf 'copy: k q d =\nmax: 1 =\n' | "$QUERN" run "$artifact" --chat --chat-template "$brief" -n 12 2>"$WORK/err" >"$WORK/out"
grep -q 'the template writes what was said differently now: [0-9]* tokens, from number [0-9]* on, are evaluated again' "$WORK/err" ||
  fail "evaluated again: $(cat "$WORK/err")"
[ "$(tail -n 1 "$WORK/out")" = "$("$QUERN" run -q "$artifact" -p 'copy: k q d =max: 1 =' -n 12)" ] || fail "answers: $(cat "$WORK/out")"
# -p is the first message, lines with a backslash go on, // is /, empty lines say nothing.
[ "$(printf '\ncopy: k q\\\n d =\n' | "$QUERN" run -q "$artifact" --chat -p 'max: 10 =' -n 8 | wc -l)" -ge 2 ] || fail "-p and lines that go on"
[ "$(printf '//x\n' | "$QUERN" run -q "$artifact" --chat --chat-template '{{ raise_exception(messages[0].content) }}' 2>&1)" = \
  "quern: error: chat template:1:19: the template refuses these messages: /x" ] || fail "// at the beginning"
# --max-tokens cuts an answer and says so.
printf 'copy: k q d =\n' | "$QUERN" run "$artifact" --chat -n 2 2>"$WORK/err" >/dev/null
grep -q 'the answer was cut after 2 tokens (--max-tokens)' "$WORK/err" || fail "-n: $(cat "$WORK/err")"

# ---- commands

printf '/help\n/nothing\ncopy: k q d =\n/reset\n/stats\n/exit\ncopy: q =\n' | "$QUERN" run "$artifact" --chat 2>"$WORK/err" >"$WORK/out"
[ "$(cat "$WORK/out")" = " k q d" ] || fail "/exit: $(cat "$WORK/out")"
for text in '  /reset ' "there is no command '/nothing'" 'the conversation begins anew' 'context 0 of'; do
  grep -qF -e "$text" "$WORK/err" || fail "commands: want '$text' in: $(cat "$WORK/err")"
done

# ---- signals: Ctrl-C ends an answer, and not the program

story='{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}'
mkfifo "$WORK/lines"
"$QUERN" compile -q "$model" --ctx 1000000 -o "$WORK/long.qn"
# A shell has its background ignore SIGINT.
perl -e '$SIG{INT} = "DEFAULT"; exec @ARGV' "$QUERN" run "$WORK/long.qn" --chat --ignore-eog --chat-template "$story" \
  <"$WORK/lines" >"$WORK/out" 2>"$WORK/err" &
pid=$!
exec 7>"$WORK/lines"
echo 'Once upon a time' >&7
for _ in $(seq 200); do
  [ -s "$WORK/out" ] && break
  sleep 0.05
done
[ -s "$WORK/out" ] || fail "no answer begins: $(cat "$WORK/err")"
kill -INT "$pid"
echo '/stats' >&7
for _ in $(seq 200); do
  grep -q 'ended:' "$WORK/err" && break
  sleep 0.05
done
grep -q 'ended: cancelled' "$WORK/err" || fail "after Ctrl-C: $(cat "$WORK/err")"
echo '/exit' >&7
exec 7>&-
code=0
wait "$pid" || code=$?
[ "$code" -eq 0 ] || fail "after Ctrl-C and /exit it ends with $code: $(cat "$WORK/err")"

# ---- errors

wrong 4 "this model has no chat template; give one with --chat-template" run -q "$nano" --chat
wrong 4 "this model has no chat template" run -q "$nano" --chat-template auto -p x
wrong 2 "--chat-template: got none, want one for --chat" run -q "$artifact" --chat --chat-template none
wrong 2 "--chat-template: got none, want one for --system" run -q "$artifact" --system x --chat-template none
wrong 2 "--chat-template: got 'chatml', want auto, none, the name of one of the model's templates, a file, or a template" \
  run -q "$artifact" --chat --chat-template chatml
wrong 2 "--json: makes no sense with --chat" run -q "$artifact" --chat --json
wrong 2 "--logits: makes no sense with --chat" run -q "$artifact" --chat --logits x
wrong 2 "--special: makes no sense with --chat" run -q "$artifact" --chat --special
wrong 2 "--tokens: makes no sense with a chat template" run -q "$artifact" --tokens 1 --system x
wrong 2 "chat template: got no text for the prompt" run -q "$artifact" -p x --chat-template '{{ none|default("") if false }}{% if true %}{% endif %}'
wrong 3 "chat template:1:6: 'x' is undefined" run -q "$artifact" -p x --chat-template '{{ 1 + x }}{{ x.y }}'
for number in x -1 1.5 99999999999; do
  wrong 2 "--max-tokens: got '$number', want a whole number from 0 to 2147483647" run -q "$artifact" -p x --max-tokens "$number"
done
code=0
printf 'copy: %0300d =\n' 1 | "$QUERN" run -q "$artifact" --chat 2>"$WORK/err" >/dev/null || code=$?
[ "$code" -eq 8 ] && grep -q 'want fewer than the context of 256: /reset' "$WORK/err" || fail "a full context: $code $(cat "$WORK/err")"
# A template that cannot be used is told when the model is compiled, and does not keep it from being compiled.
with_template "{{ messages|no_such_filter }}" "$WORK/odd.gguf"
"$QUERN" compile "$WORK/odd.gguf" -o "$WORK/odd.qn" 2>"$WORK/err" || fail "compile ends with $?"
grep -q "chat template cannot be used: chat template:1:13: there is no filter 'no_such_filter', want one of abs, " "$WORK/err" ||
  fail "an odd template: $(cat "$WORK/err")"
pass
