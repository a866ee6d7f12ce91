#!/usr/bin/env bash
# What a program that was compiled for an earlier libquern has of it: layouts of structs, values of enumerators and
# prototypes, as they are written down in tests/golden/abi.txt, by the rule of quern_run.h ("How this interface grows").
# QUERN_UPDATE_GOLDEN=1 writes it anew, which before a release adds what is new and after one changes nothing else.
. "$(dirname "$0")/../support/e2e.sh"
[ "$(getconf LONG_BIT)" = 64 ] || skip "layouts are written down for 64 bits"
golden=tests/golden/abi.txt
cd "$QUERN_SOURCE"
# Structs without a size that the library makes, each by itself, and a host only reads.
lent="quern_request_result quern_quantized quern_verified quern_tune_progress quern_explanation"

# describe FOLDER: all that the headers in it promise, a line each.
describe() {
  cat "$1/runtime/quern_run.h" "$1/frontend/quern.h" | sed -e 's,//.*,,' -e '/^#/d' -e '/^extern "C"/d' | tr -s ' \n' '  ' |
    sed -e 's/; */;\n/g' -e 's/{ */{\n/g' -e 's/} */}\n/g' >"$WORK/declared"
  awk -v lent="$lent" '
    function member(text, parts, n, i) {
      if (match(text, /\(\*[a-z_0-9]+\)/)) n = split(substr(text, RSTART + 2, RLENGTH - 3), parts, ",")
      else n = split(text, parts, ",")
      for (i = 1; i <= n; i++) {
        sub(/\[.*/, "", parts[i])
        sub(/ *;? *$/, "", parts[i])
        sub(/.*[ *]/, "", parts[i])
        fields[++count] = parts[i]
      }
    }
    function end_struct(i, kind) {
      kind = fields[1] == "size" || index(" " lent " ", " " name " ") ? "grows" : "fixed"
      printf "  printf(\"struct %s %%zu %s\\n\", sizeof(%s));\n", name, kind, name
      for (i = 1; i <= count; i++)
        printf "  printf(\"member %s.%s %%zu %%zu\\n\", offsetof(%s, %s), sizeof(((%s *)0)->%s));\n", name, fields[i],
               name, fields[i], name, fields[i]
    }
    BEGIN { print "#include <stddef.h>\n#include <stdio.h>\n#include \"frontend/quern.h\"\nint main(void) {" }
    /^ *typedef struct quern_[a-z_0-9]+ \{$/ { inside = "struct"; name = $3; count = 0; next }
    /^ *(typedef )?enum( quern_[a-z_0-9]+)? \{$/ { inside = "enum"; next }
    /\}$/ {
      if (inside == "struct") end_struct()
      if (inside == "enum") {
        n = split($0, parts, ",")
        for (i = 1; i <= n; i++)
          if (match(parts[i], /[A-Z][A-Z_0-9]+/))
            printf "  printf(\"enumerator %s %%d\\n\", (int)%s);\n", substr(parts[i], RSTART, RLENGTH), substr(parts[i], RSTART, RLENGTH)
      }
      inside = ""
      next
    }
    inside == "struct" { member($0); next }
    /^ *static inline/ { next }
    /quern_[a-z_0-9]+\)?\(.*\);$/ { sub(/^ */, ""); printf "  puts(\"%s\");\n", $0 }
    END { print "}" }' "$WORK/declared" >"$WORK/describe.c"
  "$QUERN_CC" -std=c11 -I"$1" "$WORK/describe.c" -o "$WORK/describe" 2>"$WORK/err" || fail "describing headers: $(cat "$WORK/err")"
  "$WORK/describe"
}

# broken GOLDEN NOW: what of the first the second does not hold.
broken() {
  awk '
    FNR == NR {
      want[$0]
      if ($1 == "struct") { size[$2] = $3; kind[$2] = $4 }
      if ($1 == "member") known[$2]
      next
    }
    { got[$0] }
    $1 == "struct" { now[$2] = $3 }
    $1 == "member" {
      split($2, of, ".")
      if (!(of[1] in size) || $2 in known) next
      if (kind[of[1]] == "fixed") print $2 " is new in a struct that does not grow"
      else if ($3 + 0 < size[of[1]] + 0) print $2 " is new and lies within the " size[of[1]] " bytes of earlier callers"
    }
    END {
      for (line in want) {
        split(line, words, " ")
        if (line in got) continue
        if (words[1] == "struct" && words[2] in now && words[4] == "grows" && now[words[2]] + 0 >= words[3] + 0) continue
        print "not so any more: " line
      }
    }' "$1" "$2" | sort
}

describe . >"$WORK/now"
for kind in struct member enumerator quern_status; do
  [ "$(grep -c "^$kind " "$WORK/now")" -gt 20 ] || fail "got few lines of $kind: the headers are not read"
done
if [ -n "${QUERN_UPDATE_GOLDEN:-}" ]; then cp "$WORK/now" $golden; fi
wrong=$(broken $golden "$WORK/now")
[ -z "$wrong" ] || fail "programs of an earlier libquern would break: $wrong"
# What nobody wrote down could change unseen.
unknown=$(grep -vxF -f $golden "$WORK/now" || true)
[ -z "$unknown" ] || fail "not in $golden yet (QUERN_UPDATE_GOLDEN=1 writes it): $unknown"

# The rule itself: what is changed is seen, what is added at an end is not.
# try WANT SED-EXPRESSION: the headers so changed; WANT is a pattern, or nothing.
try() {
  rm -rf "$WORK/changed"
  mkdir -p "$WORK/changed/runtime" "$WORK/changed/frontend"
  sed -E "$2" runtime/quern_run.h >"$WORK/changed/runtime/quern_run.h"
  cmp -s runtime/quern_run.h "$WORK/changed/runtime/quern_run.h" && fail "nothing is changed by $2"
  cp frontend/quern.h "$WORK/changed/frontend/"
  describe "$WORK/changed" >"$WORK/then"
  wrong=$(broken "$WORK/now" "$WORK/then")
  if [ -z "$1" ]; then
    [ -z "$wrong" ] || fail "$2: got '$wrong'"
  else
    grep -q "$1" <<<"$wrong" || fail "$2: got '$wrong', want $1"
  fi
}
try "" 's/^\} quern_stats;/int64_t more; } quern_stats;/'
try "" 's/^\} quern_request_result;/int64_t more; } quern_request_result;/'
try "" 's/^quern_status quern_scheduler_check/quern_status quern_more(int more);\n&/'
try "quern_speculator_options.more is new and lies within the" \
  's/^\} quern_speculator_options;/bool more; } quern_speculator_options;/'
try "member quern_stats.prefill_ns" 's/^( *)uint64_t prefill_ns;/\1uint64_t more, prefill_ns;/'
try "quern_item.more is new in a struct that does not grow" 's/^\} quern_item;/int64_t more; } quern_item;/'
try "enumerator QUERN_STOP_STRING" 's/QUERN_STOP_STRING,/QUERN_STOP_MORE, QUERN_STOP_STRING,/'
try "quern_session_reset(quern_session" 's/quern_session_reset\(quern_session \*session, int32_t/quern_session_reset(quern_session *session, int64_t/'
pass
