#!/usr/bin/env bash
# The page of quern explain in a browser without a window: it renders in light and in dark, to something else than
# nothing, and asks for nothing. The browser resolves no name meanwhile.
. "$(dirname "$0")/../support/e2e.sh"
need_quern
model="$QUERN_SOURCE/models/nano/nano.gguf"
[ -r "$model" ] || skip "models/nano/nano.gguf is missing"
chromium=$(command -v chromium || command -v chromium-browser) || skip "no chromium (Debian package chromium)"
export XDG_CACHE_HOME="$WORK/cache" XDG_DATA_HOME="$WORK/data" HOME="$WORK"

# browse ARGUMENT... FILE: opens a page; its output in $WORK/out.
browse() {
  timeout 60 "$chromium" --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars --no-first-run \
    --disable-background-networking --disable-component-update --user-data-dir="$WORK/profile" \
    --host-resolver-rules="MAP * ~NOTFOUND" "${@:1:$#-1}" "file://${*: -1}" >"$WORK/out" 2>"$WORK/err" ||
    fail "the browser ends with $?: $(tail -n 3 "$WORK/err")"
}

# requests FILE: what the page at FILE asks for, besides itself. What the browser asks for has no origin.
requests() {
  browse --virtual-time-budget=3000 --log-net-log="$WORK/log" --dump-dom "$1"
  # An event a line.
  grep '"initiator":"' "$WORK/log" | grep -v '"initiator":"not an origin"' | grep -oE '"url":"[^"]*"' || true
}

"$QUERN" compile -q "$model" -o "$WORK/nano.qn"
"$QUERN" explain -q "$WORK/nano.qn" --reps 1 --prompt 16 --json "$WORK/one.json" --html "$WORK/first.html" >/dev/null
"$QUERN" explain -q "$WORK/nano.qn" --reps 1 --prompt 16 --against "$WORK/one.json" --html "$WORK/page.html" >/dev/null

# ---- nothing is asked for; the same look at a page that asks finds it

got=$(requests "$WORK/page.html")
[ -z "$got" ] || fail "the page asks for: $got"
grep -q '<h2>Decode</h2>' "$WORK/out" && grep -q '</svg>' "$WORK/out" || fail "the page lacks parts in the browser"
printf '<!DOCTYPE html><title>x</title><img src="http://example.com/x.png"><link rel="stylesheet" href="https://example.com/x.css">' \
  >"$WORK/asks.html"
[ "$(requests "$WORK/asks.html" | grep -c 'example.com')" -ge 2 ] || fail "this test does not see requests"

# ---- what it looks like

printf '<!DOCTYPE html><title>x</title>' >"$WORK/blank.html"
size=(--window-size=1240,2000 --force-device-scale-factor=0.5)
browse "${size[@]}" --screenshot="$WORK/blank.png" "$WORK/blank.html"
browse "${size[@]}" --blink-settings=preferredColorScheme=1 --screenshot="$WORK/light.png" "$WORK/page.html"
browse "${size[@]}" --blink-settings=preferredColorScheme=0 --screenshot="$WORK/dark.png" "$WORK/page.html"
blank=$(wc -c <"$WORK/blank.png")
for shade in light dark; do
  bytes=$(wc -c <"$WORK/$shade.png")
  [ "$bytes" -gt $((blank * 5)) ] || fail "the screenshot in $shade has $bytes bytes, a blank one $blank"
done
! cmp -s "$WORK/light.png" "$WORK/dark.png" || fail "light and dark look the same"
command -v python3 >/dev/null || pass "no python3: brightness not looked at"
python3 - "$WORK/light.png" "$WORK/dark.png" <<'EOF' || fail "the screenshots are not a light and a dark page"
# Decodes the screenshots (8-bit RGB or RGBA, not interlaced) and looks at their pixels.
import struct, sys, zlib

def pixels(path):
    data = open(path, "rb").read()
    assert data[:8] == b"\x89PNG\r\n\x1a\n", path
    at, packed = 8, b""
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + length]
        if kind == b"IHDR":
            width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", body)
            assert depth == 8 and colour in (2, 6) and interlace == 0, (depth, colour, interlace)
        packed += body if kind == b"IDAT" else b""
        at += length + 12
    size = 3 if colour == 2 else 4
    raw, row, rows = zlib.decompress(packed), bytearray(width * size), []
    for y in range(height):
        start = y * (width * size + 1)
        kind, line = raw[start], bytearray(raw[start + 1:start + 1 + width * size])
        for i in range(len(line)):
            a = line[i - size] if i >= size else 0
            b = row[i]
            c = row[i - size] if i >= size else 0
            if kind == 1: line[i] = (line[i] + a) & 255
            elif kind == 2: line[i] = (line[i] + b) & 255
            elif kind == 3: line[i] = (line[i] + (a + b) // 2) & 255
            elif kind == 4:
                p = a + b - c
                near = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
                line[i] = (line[i] + near) & 255
        row = line
        rows.append(bytes(line))
    return [tuple(r[i:i + 3]) for r in rows[::4] for i in range(0, len(r), 4 * size)]

def look(path):
    seen = pixels(path)
    most = max(set(seen), key=seen.count)
    return len(set(seen)), sum(most) / 3, sum(1 for p in seen if p != most) / len(seen)

for path, light in ((sys.argv[1], True), (sys.argv[2], False)):
    colours, background, drawn = look(path)
    print(f"{path}: {colours} colours, background {background:.0f}, {100 * drawn:.1f} % of it drawn on")
    assert colours > 40 and drawn > 0.03, path
    assert background > 200 if light else background < 60, path
EOF
pass
