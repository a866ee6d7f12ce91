// lut16, a table of 16 bytes looked up by the low nibble of each byte: by byte shuffles where targets have them (pshufb
// from x86-64-v2 on, tbl on aarch64), else by selecting between its halves, quarters, eighths and entries.
#include <string.h>

#include "codegen/cpu/emit.h"

enum { TABLE_LANES = 4, MAX_LANES = 16 };  // i32 lanes of a table, and of the widest shuffle

// By each bit of the index in turn; x: bytes below 16.
static MlirValue select_entries(qn_emit *e, const uint8_t table[16], MlirValue x) {
  qn_mlir *m = &e->m;
  MlirType type = mlirValueGetType(x);
  MlirValue entries[16], zero = qn_mlir_int(m, type, 0);
  for (int i = 0; i < 16; i++) entries[i] = qn_mlir_int(m, type, (int8_t)table[i]);
  for (int bit = 0, count = 16; bit < 4; bit++) {
    MlirValue is_set = qn_mlir_cmpi(m, QN_MLIR_SLT, zero, qn_mlir_binary(m, "arith.andi", x, qn_mlir_int(m, type, 1 << bit)));
    count /= 2;
    for (int i = 0; i < count; i++) entries[i] = qn_mlir_select(m, is_set, entries[2 * i + 1], entries[2 * i]);
  }
  return entries[0];
}

static MlirValue shuffle_plain(qn_emit *e, const uint8_t table[16], MlirValue x, int lanes) {
  qn_mlir *m = &e->m;
  MlirValue bytes = qn_mlir_bitcast(m, x, qn_mlir_vector(m, m->i8, 4 * lanes));
  return qn_mlir_bitcast(m, select_entries(e, table, bytes), qn_mlir_vector(m, m->i32, lanes));
}

// One instruction on 4, 8 or 16 lanes.
static MlirValue shuffle(qn_emit *e, const int32_t *table, MlirValue x, int lanes) {
  qn_mlir *m = &e->m;
  if (e->target->arch == QN_ARCH_RISCV64) return shuffle_plain(e, (const uint8_t *)table, x, lanes);
  MlirType bytes = qn_mlir_vector(m, m->i8, 4 * lanes);
  MlirValue args[2] = {qn_mlir_bitcast(m, qn_mlir_i32s(m, table, lanes), bytes), qn_mlir_bitcast(m, x, bytes)};
  const char *name = lanes == 16  ? "llvm.x86.avx512.pshuf.b.512"
                     : lanes == 8 ? "llvm.x86.avx2.pshuf.b"
                                  : "llvm.x86.ssse3.pshuf.b.128";
  if (e->target->arch == QN_ARCH_AARCH64) name = "llvm.aarch64.neon.tbl1.v16i8";
  return qn_mlir_bitcast(m, qn_mlir_intrinsic(m, name, bytes, args, 2), qn_mlir_vector(m, m->i32, lanes));
}

// Lanes [first, first + lanes) of x, those beyond its end the last one again.
static MlirValue take(qn_emit *e, MlirValue x, int first, int lanes) {
  int64_t mask[MAX_LANES];
  int have = qn_mlir_lanes(x);
  if (have == lanes) return x;
  if (have == 1) return qn_mlir_broadcast(&e->m, x, lanes);
  for (int i = 0; i < lanes; i++) mask[i] = first + i < have ? first + i : have - 1;
  return qn_mlir_shuffle(&e->m, x, x, mask, lanes);
}

// whole, with the lanes from `first` on replaced by those of part as far as whole goes.
static MlirValue put(qn_emit *e, MlirValue whole, MlirValue part, int first) {
  int64_t widen[QN_LANES_MAX], blend[QN_LANES_MAX];
  int have = qn_mlir_lanes(whole), lanes = qn_mlir_lanes(part);
  for (int i = 0; i < have; i++) {
    bool inside = i >= first && i < first + lanes;
    widen[i] = inside ? i - first : 0;
    blend[i] = inside ? have + i : i;
  }
  MlirValue wide = qn_mlir_shuffle(&e->m, part, part, widen, have);
  return qn_mlir_shuffle(&e->m, whole, wide, blend, have);
}

MlirValue qn_emit_lut16(qn_emit *e, const uint8_t table[16], MlirValue x, bool masked) {
  qn_mlir *m = &e->m;
  int32_t words[MAX_LANES];
  int have = qn_mlir_lanes(x), lanes = e->target->arch != QN_ARCH_X86_64 ? TABLE_LANES : e->target->vector_bytes / 4;
  while (lanes > TABLE_LANES && lanes > have) lanes /= 2;
  for (int at = 0; at < lanes; at += TABLE_LANES) memcpy(words + at, table, 16);
  if (!masked) x = qn_mlir_binary(m, "arith.andi", x, qn_mlir_int(m, mlirValueGetType(x), 0x0F0F0F0F));
  if (have == lanes) return shuffle(e, words, x, lanes);
  MlirValue result = x;
  for (int first = 0; first < have; first += lanes) {
    MlirValue part = shuffle(e, words, take(e, x, first, lanes), lanes);
    if (have == 1) return qn_mlir_extract(m, part, 0);
    result = put(e, result, part, first);
  }
  return result;
}
