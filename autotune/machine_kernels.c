// Probe kernels as loop IR text.
#include <stdio.h>
#include <string.h>

#include "autotune/machine_internal.h"
#include "runtime/topology.h"

// What a probe of arithmetic is.
static const struct {
  const char *link;  // of chain i in turn k: printf'd with at, i; NULL = a form of dot products
  int lanes;
  bool single;  // one chain: what is measured is how long a link takes
} forms[QN_PROBE_COUNT] = {
    [QN_PROBE_FMA] = {"fma(w.f32[{at}*16 : 16], x[{i}], a{i}[0 : 16])", 16, false},
    [QN_PROBE_BF16] = {"fma(w.bf16[{at}*16 : 16], x[{i}], a{i}[0 : 16])", 16, false},
    [QN_PROBE_VECTOR] = {"xor(a{i}[0 : 16] + w.i32[((k + {i}) % 8)*16 : 16], 252645135i32)", 16, false},
    [QN_PROBE_FMA_LATENCY] = {"fma(w.f32[{at}*16 : 4], x[{i}], a{i}[0 : 4])", 4, true},
    [QN_PROBE_VECTOR_LATENCY] = {"xor(a{i}[0 : 4] + w.i32[{at}*16 : 4], 252645135i32)", 4, true},
    [QN_PROBE_DOT4] = {"dot4(a{i}[0 : 16], w.i32[{at}*16 : 16], x[{i}])", 16, false},
    [QN_PROBE_DOT4S] = {"dot4s(a{i}[0 : 16], w.i32[{at}*16 : 16], x[{i}])", 16, false},
    [QN_PROBE_DOT4_NIBBLE] = {"dot4(a{i}[0 : 16], and(w.i32[{at}*16 : 16], 252645135i32), x[{i}])", 16, false},
    [QN_PROBE_DOT2_NIBBLE] = {NULL, 16, false},
};

// Independent chains, as many as fill three quarters of the registers: enough to hide an instruction's latency. One of
// dot2 takes twice the registers, for the pairs and for what they are folded into.
int qn_probe_chains(const qn_target *target, qn_probe probe) {
  if (forms[probe].single) return 1;
  int chains = target->vector_registers * target->vector_bytes / LINE * 3 / (probe == QN_PROBE_DOT2_NIBBLE ? 8 : 4);
  return chains < 1 ? 1 : chains > MAX_CHAINS ? MAX_CHAINS : chains;
}

int qn_probe_lanes(qn_probe probe) { return forms[probe].lanes; }

// Half of the cache, a power of two: the other half is for what else is in it.
int64_t qn_probe_set_bytes(qn_probe probe) {
  const qn_topology *machine = qn_topology_get();
  int level = probe == QN_PROBE_READ_L1 ? 1 : probe == QN_PROBE_READ_L2 ? 2 : 3;
  for (int i = 0; i < machine->cache_count; i++) {
    if (machine->caches[i].level != level) continue;
    int64_t set = LINE * SUMS;
    while (set * 4 <= (int64_t)machine->caches[i].bytes && set * 4 <= READ_BYTES) set *= 2;
    return set;
  }
  return 0;
}

// Of one call: once over all of the set, or as often as makes a call's own time small.
int64_t qn_probe_extent(qn_probe probe) {
  if (probe >= QN_PROBE_FMA) return ROUNDS;
  if (probe < QN_PROBE_READ_L1) return READ_BYTES / CHUNK_BYTES;
  int64_t chunks = qn_probe_set_bytes(probe) / CHUNK_BYTES;
  return chunks > RESULT_LINES ? chunks : RESULT_LINES;
}

// --- the kernels

static void write_sums(int count, qn_buf *out) {
  for (int i = 0; i < count; i++) qn_buf_printf(out, "    local s%d : i32[16]\n    s%d[0 : 16] = 0i32\n", i, i);
}

// And the end of the kernel.
static void add_sums(int count, qn_buf *out) {
  for (int i = 0; i < count; i++) qn_buf_printf(out, "%ss%d[0 : 16]", i > 0 ? " + " : "", i);
  qn_buf_puts(out, "\n  }\n}\n");
}

static void write_read(int ahead, qn_buf *out) {
  qn_buf_printf(out, "kernel \"read_%d\" {\n  param w : i32[%d] streamed\n  param y : i32[%d] out\n", ahead,
                READ_BYTES / 4, READ_BYTES / CHUNK_BYTES * 16);
  qn_buf_printf(out, "  for n in 0..%d data parallel {\n", READ_BYTES / CHUNK_BYTES);
  write_sums(SUMS, out);
  qn_buf_printf(out, "    for k in 0..%d reduce {\n", CHUNK_BYTES / LINE / SUMS);
  for (int i = 0; i < SUMS; i++) {
    const char *at = "n*16384 + k*64";
    if (ahead) qn_buf_printf(out, "      prefetch w[%s + %d]\n", at, i * 16 + ahead / 4);
    qn_buf_printf(out, "      s%d[0 : 16] = s%d[0 : 16] + w[%s + %d : 16]\n", i, i, at, i * 16);
  }
  qn_buf_puts(out, "    }\n    y[n*16 : 16] = ");
  add_sums(SUMS, out);
}
_Static_assert(CHUNK_BYTES / 4 == 16384 && SUMS * LINE / 4 == 64, "as write_read has them");

// Reads memory as a product of some tokens with weights of Q4_0 does: scales and four lines of codes a block. A token
// has several sums, so that no chain takes as long as memory; three tokens take 12 registers of 32 bytes. Where a dot
// product is three instructions their work may take as long as memory, too, and far prefetches seem to bring little.
static void write_stream(int tokens, int ahead, bool far, qn_buf *out) {
  enum { BLOCK = 288, SCALES = 32, LINES = 4 };
  static const char mask[] = "252645135i32";  // 0x0F0F0F0F
  int sums = tokens > 1 ? 2 : LINES;          // a token's
  _Static_assert(BLOCK - SCALES == LINES * LINE && CHUNK_BYTES / 4 == 16384, "as the text has them");
  qn_buf_printf(out, "kernel \"stream_%d%s\" {\n  param w : i32[%d] streamed\n  param y : i32[%d] out\n", ahead,
                far ? "_far" : "", READ_BYTES / 4, READ_BYTES / CHUNK_BYTES * 16);
  qn_buf_printf(out, "  for n in 0..%d data parallel {\n", READ_BYTES / CHUNK_BYTES);
  write_sums(tokens * sums, out);
  qn_buf_printf(out, "    for k in 0..%d reduce {\n", CHUNK_BYTES / BLOCK);
  for (int at = 0; ahead && at < BLOCK; at += LINE)
    qn_buf_printf(out, "      prefetch %sw[n*16384 + k*%d + %d]\n", far ? "far " : "", BLOCK / 4, (at + ahead) / 4);
  qn_buf_printf(out, "      s0[0 : 8] = s0[0 : 8] + w[n*16384 + k*%d : 8]\n", BLOCK / 4);
  for (int i = 0; i < tokens * LINES; i++) {
    char line[48];
    int codes = 0x01010101 * (1 + i / LINES), sum = i / LINES * sums + i % sums;  // a token's activations are all alike
    snprintf(line, sizeof line, "w[n*16384 + k*%d + %d : 16]", BLOCK / 4, (SCALES + i % LINES * LINE) / 4);
    qn_buf_printf(out, "      s%d[0 : 16] = dot4(s%d[0 : 16], and(%s, %s), %di32)\n", sum, sum, line, mask, codes);
    qn_buf_printf(out, "      s%d[0 : 16] = dot4(s%d[0 : 16], and(shr(%s, 4i32), %s), %di32)\n", sum, sum, line, mask,
                  codes);
  }
  qn_buf_puts(out, "    }\n    y[n*16 : 16] = ");
  add_sums(tokens * sums, out);
}

// Reads the same bytes again and again, which a cache holds. Results go to lines that are a thread's own.
static void write_cache_read(qn_probe probe, qn_buf *out) {
  int64_t set = qn_probe_set_bytes(probe), chunk = set < CHUNK_BYTES ? set : CHUNK_BYTES;
  if (set == 0) set = chunk = LINE * SUMS;  // there is no such cache: a kernel that nobody calls
  qn_buf_printf(out, "kernel \"cache_%d\" {\n  param w : i32[%d]\n  param y : i32[%d] out\n", (int)probe, (int)set / 4,
                RESULT_LINES * LINE / 4);
  qn_buf_printf(out, "  for n in 0..%d data parallel {\n", (int)qn_probe_extent(probe));
  write_sums(SUMS, out);
  qn_buf_printf(out, "    for k in 0..%d reduce {\n", (int)chunk / LINE / SUMS);
  for (int i = 0; i < SUMS; i++)
    qn_buf_printf(out, "      s%d[0 : 16] = s%d[0 : 16] + w[(n %% %d)*%d + k*64 + %d : 16]\n", i, i, (int)(set / chunk),
                  (int)chunk / 4, i * 16);
  qn_buf_printf(out, "    }\n    y[(n %% %d)*16 : 16] = ", RESULT_LINES);
  add_sums(SUMS, out);
}

static const char nibbles[] = "and(w.i32[%s*16 : 16], 252645135i32)";  // 0x0F0F0F0F

// One link of chain `i` in turn `k`.
static void write_link(qn_probe probe, int i, qn_buf *out) {
  qn_buf_printf(out, "      a%d[0 : %d] = ", i, forms[probe].lanes);
  for (const char *at = forms[probe].link; *at; at++) {
    if (strncmp(at, "{i}", 3) == 0) {
      qn_buf_printf(out, "%d", i), at += 2;
    } else if (strncmp(at, "{at}", 4) == 0) {
      qn_buf_puts(out, "k % 8"), at += 3;
    } else {
      qn_buf_putc(out, *at);
    }
  }
  qn_buf_putc(out, '\n');
}

// PAIR_LINKS links of all chains: sums of 16 bits, and their folding.
static void write_pairs(int chains, qn_buf *out) {
  char codes[64], at[24];
  for (int i = 0; i < chains; i++) qn_buf_printf(out, "      local p%d : i32[16]\n      p%d[0 : 16] = 0i32\n", i, i);
  for (int link = 0; link < PAIR_LINKS; link++) {
    snprintf(at, sizeof at, "(k + %d) %% 8", link);
    snprintf(codes, sizeof codes, nibbles, at);
    for (int i = 0; i < chains; i++)
      qn_buf_printf(out, "      p%d[0 : 16] = dot2(p%d[0 : 16], %s, x[%d])\n", i, i, codes, i);
  }
  for (int i = 0; i < chains; i++)
    qn_buf_printf(out, "      a%d[0 : 16] = a%d[0 : 16] + fold2(p%d[0 : 16])\n", i, i, i);
}
_Static_assert(W_LINES == 8 && PAIR_LINKS <= W_LINES, "as write_link has them; no two links of a chain are equal");

// One operand changes from turn to turn, the other, which a chain starts with, from chain to chain: what a target must
// do to either before it can multiply is done as often as in a tile of a matmul.
static void write_peak(qn_probe probe, int chains, qn_buf *out) {
  bool pairs = !forms[probe].link, floats = strchr("fmb", forms[probe].link ? forms[probe].link[0] : 'd') != NULL;
  const char *type = floats ? "f32" : "i32";
  int lanes = forms[probe].lanes;
  qn_buf_printf(out, "kernel \"peak_%d\" {\n  param w : u8[%d]\n  param x : %s[%d]\n  param y : %s[%d] out\n",
                (int)probe, W_LINES * LINE, type, chains, type, ROUNDS * chains * lanes);
  qn_buf_printf(out, "  for n in 0..%d data parallel {\n", ROUNDS);
  for (int i = 0; i < chains; i++)
    qn_buf_printf(out, "    local a%d : %s[%d]\n    a%d[0 : %d] = x[%d]\n", i, type, lanes, i, lanes, i);
  qn_buf_printf(out, "    for k in 0..%d reduce {\n", pairs ? TURNS / PAIR_LINKS : TURNS);
  for (int i = 0; !pairs && i < chains; i++) write_link(probe, i, out);
  if (pairs) write_pairs(chains, out);
  qn_buf_puts(out, "    }\n");
  for (int i = 0; i < chains; i++)
    qn_buf_printf(out, "    y[n*%d + %d : %d] = a%d[0 : %d]\n", chains * lanes, i * lanes, lanes, i, lanes);
  qn_buf_puts(out, "  }\n}\n");
}

qn_status qn_machine_kernels(const qn_target *target, qn_arena *arena, const qn_lkernel **out, qn_diag *diag) {
  qn_lkernel **kernels = NULL;
  size_t count = 0;
  qn_buf text;
  qn_buf_init(&text, qn_allocator_default());
  write_read(0, &text);
  write_read(4096, &text);
  write_read(8192, &text);
  write_stream(1, 0, false, &text);
  write_stream(1, 2048, false, &text);
  write_stream(3, 8192, true, &text);
  for (qn_probe probe = QN_PROBE_READ_L1; probe < QN_PROBE_FMA; probe++) write_cache_read(probe, &text);
  for (qn_probe probe = QN_PROBE_FMA; probe < QN_PROBE_COUNT; probe++)
    write_peak(probe, qn_probe_chains(target, probe), &text);
  qn_status status = text.failed ? qn_fail_nomem(diag, "machine", "the probe kernels") : QN_OK;
  if (status == QN_OK) {
    status = qn_lkernels_parse("machine", (qn_str){text.data, text.length}, arena, &kernels, &count, diag);
  }
  if (status == QN_OK && count != QN_PROBE_COUNT) {
    status = qn_fail(diag, QN_ERR_INTERNAL, "machine", "got %zu probe kernels, want %d", count, QN_PROBE_COUNT);
  }
  for (size_t i = 0; status == QN_OK && i < count; i++) {
    status = qn_lkernel_verify(kernels[i], diag);
    out[i] = kernels[i];
  }
  qn_buf_deinit(&text);
  return status;
}
