#!/usr/bin/env bash
# Compiling for GPUs: source without NVRTC, artifacts with it, alone and beside CPUs, and what the other commands say of them.
source "$(dirname "${BASH_SOURCE[0]}")/../support/e2e.sh"
need_quern
model=$QUERN_SOURCE/models/nano/nano.gguf
cd "$WORK"

# wrong CODE TEXT COMMAND...: ends with the code and says so.
wrong() {
  local want=$1 text=$2 code=0
  shift 2
  "$QUERN" "$@" >stdout 2>stderr || code=$?
  [ "$code" -eq "$want" ] || fail "quern $*: code $code, want $want: $(cat stderr)"
  grep -qF -- "$text" stderr || fail "quern $*: want '$text', got: $(cat stderr)"
}

unset QUERN_NVRTC_CACHE  # the folder in the cache is looked at here

# ---- without NVRTC

export QUERN_NVRTC=/nowhere/libnvrtc.so
"$QUERN" compile -q "$model" --target cuda:sm_90 --emit=cuda -o kernels.cu
grep -q 'extern "C" __global__ void .*qk_matmul' kernels.cu || fail "--emit=cuda: $(head -5 kernels.cu)"
"$QUERN" compile -q "$model" --target cuda:sm_80,host,cuda:sm_120 --emit=cuda | cmp - kernels.cu || fail "--emit=cuda depends on the chip"
"$QUERN" compile -q "$model" --target cuda:sm_80 --emit=gpu_link_steps | has '^program' || fail "--emit of a GPU's pass"
wrong 2 "got 'asm', which is of CPUs, and no such target" compile "$model" --target cuda:sm_90 --emit=asm
wrong 7 "NVRTC: cannot be loaded (looked at: /nowhere/libnvrtc.so" compile -q "$model" --target cuda:sm_90 -o none.qn
wrong 7 "or set QUERN_NVRTC to the library's path" compile -q "$model" --target host,cuda:sm_90 -o none.qn
wrong 7 "looked at: elsewhere.so" compile -q "$model" --target cuda:sm_90 --nvrtc elsewhere.so -o none.qn
[ ! -e none.qn ] || fail "an artifact is left behind"
wrong 2 "'cuda:sm_70' is no GPU that quern compiles for; it compiles for cuda:sm_80" compile "$model" --target cuda:sm_70 -o none.qn
echo 'n_tile = 2' >schedule
wrong 2 "got 'cuda:sm_90', a GPU, but a schedule is of kernels for CPUs alone" \
  compile "$model" --target cuda:sm_90,host --schedule schedule -o none.qn
wrong 2 "got 'cuda:sm_90', a GPU, but kernels are tuned for CPUs alone" tune "$model" --target cuda:sm_90 --budget 0
wrong 2 "got 'cuda:sm_90', a GPU, but the JIT makes code for CPUs alone" run "$model" --target cuda:sm_90 --jit -p x
"$QUERN" help compile >help
grep -q '^cuda:sm_120 ' help || fail "compile --help names no GPUs"

# ---- with it

unset QUERN_NVRTC
code=0
"$QUERN" compile -q "$model" --target cuda:sm_90,host,cuda:sm_80 -o both.qn 2>stderr || code=$?
if [ "$code" -eq 7 ] && grep -q 'NVRTC: cannot be loaded' stderr; then skip "the rest: $(cat stderr)"; fi
[ "$code" -eq 0 ] || fail "compile ends with $code: $(cat stderr)"
"$QUERN" compile -q "$model" -o cpu.qn
"$QUERN" compile -q "$model" --target cuda:sm_90 -o gpu.qn

# Weights are there once, and the CPU does what it did.
weights() { "$QUERN" inspect "$1" -w sections | awk '$1 == "weights" { print $3, $NF }'; }
[ "$(weights both.qn)" = "$(weights cpu.qn)" ] || fail "weights: $(weights both.qn), for the CPU alone $(weights cpu.qn)"
"$QUERN" run -q cpu.qn -p "copy: k q d =" >want
"$QUERN" run -q both.qn -p "copy: k q d =" | cmp - want || fail "the CPU's code beside a GPU's says something else"
wrong 7 "there is code for GPUs only in this artifact; run it with --device cuda" run -q gpu.qn -p x
wrong 7 "target 'cuda:sm_80' needs a GPU" run -q both.qn --target cuda:sm_80 -p x

"$QUERN" inspect both.qn >summary
grep -qE '^program = [0-9]+ steps' summary && grep -qE '^program for GPUs = [0-9]+ steps' summary || fail "inspect: $(cat summary)"
[ "$(grep -cE '^target = cuda:sm_[89]0, .* of code, for a GPU: a cubin of .*, PTX of ' summary)" -eq 2 ] || fail "inspect: $(cat summary)"
grep -q '^  needs = sm_90$' summary || fail "inspect: what a GPU's code needs"
"$QUERN" inspect both.qn -w kernels >kernels
grep -q '^for GPUs:' kernels && grep -qE '^      blocks of [0-9]+ threads, [0-9]+ bytes of shared memory' kernels &&
  grep -qE '^      lanes = 16' kernels || fail "inspect tells no launches"
"$QUERN" inspect both.qn -w loops | has '^# for GPUs:' || fail "inspect has no loop IR of the GPUs' program"
"$QUERN" inspect gpu.qn -w all >all || fail "inspect of a GPU's artifact"

# Checked is what runs here.
"$QUERN" verify --fast both.qn >out 2>stderr || fail "verify: $(cat stderr)"
grep -q 'not checked: code for GPUs (cuda:sm_90,cuda:sm_80)$' stderr || fail "verify tells not what it leaves out: $(cat stderr)"
"$QUERN" tune both.qn --budget 0 --db none >out 2>stderr || fail "tune: $(cat stderr)"
grep -q 'not tuned: code for GPUs (cuda:sm_90,cuda:sm_80)$' stderr || fail "tune tells not what it leaves out: $(cat stderr)"
wrong 7 "cuda:sm_90 needs a GPU" verify gpu.qn
wrong 7 "there is code for GPUs only in this artifact" explain gpu.qn
wrong 7 "this CPU runs none of the targets here: cuda:sm_90 needs a GPU" tune gpu.qn --budget 0

# NVRTC's results are kept, and the same artifact comes from them; every stage beside it, or one alone.
[ "$(find "$XDG_CACHE_HOME/quern/nvrtc" -name '*.nvrtc' | wc -l)" -eq 2 ] || fail "the cache: $(find "$XDG_CACHE_HOME")"
"$QUERN" compile -q "$model" --target cuda:sm_90 -o again.qn --dump-ir=cuda,ptx,ptxas,gpu_lower --dump-dir stages
cmp gpu.qn again.qn || fail "the second artifact differs"
mv "$XDG_CACHE_HOME/quern/nvrtc" named
QUERN_NVRTC_CACHE=$WORK/named "$QUERN" compile -q "$model" --target cuda:sm_90 -o again.qn
cmp gpu.qn again.qn || fail "the artifact from a named folder differs"
[ ! -e "$XDG_CACHE_HOME/quern/nvrtc" ] && [ "$(find named -name '*.nvrtc' | wc -l)" -eq 2 ] || fail "QUERN_NVRTC_CACHE: $(find named)"
[ "$(find stages -type f | wc -l)" -eq 4 ] && ls stages/*_gpu_lower.txt >listed || fail "--dump-ir: $(ls stages)"
cmp stages/*_cuda.cu kernels.cu || fail "--dump-ir=cuda and --emit=cuda differ"
grep -q 'Used [0-9]* registers' stages/*_ptxas.txt || fail "--dump-ir=ptxas"
"$QUERN" compile -q "$model" --target cuda:sm_90 --emit=ptx | cmp - stages/*_ptx.ptx || fail "--emit=ptx"
grep -q '^\.target sm_90' stages/*_ptx.ptx || fail "--emit=ptx: $(head stages/*_ptx.ptx)"
pass
