// Tensor cores: ldmatrix, stmatrix, movmatrix, mma. Fragments are gathered into whole matrices by the layouts of the
// PTX document ("Matrix Fragments for mma.m16n8k*"), multiplied in the order of k, and scattered again.
#include "tests/ptxsim/cuda_abi.h"
#include "tests/ptxsim/exec.h"
#include "tests/ptxsim/exec_mem.h"
#include "tests/ptxsim/form.h"
#include "tests/ptxsim/numbers.h"
#include "tests/ptxsim/shared.h"

static ps_fn whole_warp(ps_form *f, ps_fn fn) {
  f->insn->control = PS_CONTROL_SYNC;
  f->insn->sync_arg = 255;
  f->insn->flags |= PS_FLAG_ALIGNED;
  return fn;
}

// ---- ldmatrix and stmatrix ----

// Lanes 8q .. 8q+7 give the addresses of the rows of matrix q. Lane l holds elements 2(l%4) and 2(l%4)+1 of row l/4;
// transposed, the elements of column l/4 instead.
static bool row_addresses(ps_warp *w, const ps_insn *i, int source, unsigned count, uint64_t address[PS_LANES]) {
  ps_addresses(w, i, source, address);
  for (unsigned l = 0; l < count * 8; l++) {
    if (i->space == PS_SPACE_GENERIC) {
      if (address[l] - PS_WINDOW_SHARED >= PS_WINDOW_BYTES) {
        ps_fault_at(w, i, (int)l, CUDA_ERROR_ILLEGAL_ADDRESS, "0x%llx is no address of shared memory",
                    (unsigned long long)address[l]);
        return false;
      }
      address[l] -= PS_WINDOW_SHARED;
    }
  }
  return true;
}

static void ldmatrix(ps_warp *w, const ps_insn *i) {
  unsigned count = i->dst_count;
  uint64_t address[PS_LANES];
  uint16_t rows[4][8][8];
  if (!row_addresses(w, i, 0, count, address)) return;
  for (unsigned l = 0; l < count * 8; l++) {
    if (!ps_shared_read(w, i, (int)l, address[l], 16, false)) return;
    memcpy(rows[l / 8][l % 8], w->block->shared + address[l], 16);
  }
  ps_shared_count(w, count == 4 ? PS_FULL : (1u << count * 8) - 1, address, 16);
  for (unsigned q = 0; q < count; q++) {
    uint32_t *d = ps_dst(w, i, (int)q);
    for (unsigned l = 0; l < PS_LANES; l++) {
      unsigned r = l / 4, c = l % 4 * 2;
      d[l] = i->flags & PS_FLAG_TRANS ? rows[q][c][r] | (uint32_t)rows[q][c + 1][r] << 16
                                      : rows[q][r][c] | (uint32_t)rows[q][r][c + 1] << 16;
    }
  }
}

static void stmatrix(ps_warp *w, const ps_insn *i) {
  unsigned count = i->src_count - 1u;
  uint64_t address[PS_LANES];
  uint16_t rows[4][8][8];
  if (!row_addresses(w, i, 0, count, address)) return;
  for (unsigned q = 0; q < count; q++) {
    const uint32_t *s = ps_src(w, i, 1 + (int)q);
    for (unsigned l = 0; l < PS_LANES; l++) {
      unsigned r = l / 4, c = l % 4 * 2;
      bool trans = (i->flags & PS_FLAG_TRANS) != 0;
      *(trans ? &rows[q][c][r] : &rows[q][r][c]) = (uint16_t)s[l];
      *(trans ? &rows[q][c + 1][r] : &rows[q][r][c + 1]) = (uint16_t)(s[l] >> 16);
    }
  }
  for (unsigned l = 0; l < count * 8; l++) {
    if (!ps_shared_write(w, i, (int)l, address[l], 16, false, rows[l / 8][l % 8])) return;
    memcpy(w->block->shared + address[l], rows[l / 8][l % 8], 16);
  }
  ps_shared_count(w, count == 4 ? PS_FULL : (1u << count * 8) - 1, address, 16);
}

static ps_fn matrix_access(ps_form *f, ps_fn fn) {
  if (ps_has(f, PS_MOD_shared) || ps_has(f, PS_MOD_shared_cta)) f->insn->space = PS_SPACE_SHARED;
  if (ps_has(f, PS_MOD_trans)) f->insn->flags |= PS_FLAG_TRANS;
  f->insn->size = 16;
  return whole_warp(f, fn);
}
ps_fn ps_select_ldmatrix(ps_form *f) { return matrix_access(f, ldmatrix); }
ps_fn ps_select_stmatrix(ps_form *f) { return matrix_access(f, stmatrix); }

static void movmatrix(ps_warp *w, const ps_insn *i) {
  uint32_t *d = ps_dst(w, i, 0);
  const uint32_t *s = ps_src(w, i, 0);
  uint16_t rows[8][8];
  for (unsigned l = 0; l < PS_LANES; l++) {
    rows[l / 4][l % 4 * 2] = (uint16_t)s[l];
    rows[l / 4][l % 4 * 2 + 1] = (uint16_t)(s[l] >> 16);
  }
  for (unsigned l = 0; l < PS_LANES; l++) {
    d[l] = rows[l % 4 * 2][l / 4] | (uint32_t)rows[l % 4 * 2 + 1][l / 4] << 16;
  }
}
ps_fn ps_select_movmatrix(ps_form *f) { return whole_warp(f, movmatrix); }

// ---- mma ----

enum { M = 16, N = 8, MAX_K = 32 };

// A lane's register of A or B holds `elements` neighbours along k, those of lane l in row (A) or column (B) l / 4 from
// k = (l % 4) * elements on: so the registers of all lanes side by side are 8 rows of 4 * elements values in order.
// A's registers are rows 0 to 7, rows 8 to 15, then the same further along k; B's go along k.
enum { MAX_BLOCK = PS_LANES * 4 };

static void expand(const void *row, ps_type type, float out[MAX_BLOCK]) {
  const uint16_t *halves = row;
  const uint32_t *words = row;
  const uint8_t *bytes = row;
  switch (type) {
    case PS_f16: {
      PS_VECTOR for (int e = 0; e < PS_LANES * 2; e++) out[e] = ps_from_f16(halves[e]);
      break;
    }
    case PS_bf16: {
      PS_VECTOR for (int e = 0; e < PS_LANES * 2; e++) out[e] = ps_from_bf16(halves[e]);
      break;
    }
    case PS_tf32: {  // the low 13 bits do not count
      PS_VECTOR for (int e = 0; e < PS_LANES; e++) out[e] = ps_f32(words[e] & ~0x1fffu);
      break;
    }
    default:
      for (int e = 0; e < PS_LANES * 4; e++) out[e] = ps_from_fp8(bytes[e], type == PS_e4m3);
      break;
  }
}

static void gather_a(const ps_warp *w, const ps_insn *i, unsigned regs, unsigned elements, float a[M][MAX_K]) {
  float block[MAX_BLOCK];
  unsigned width = 4 * elements;
  for (unsigned r = 0; r < regs; r++) {
    expand(ps_src(w, i, (int)r), (ps_type)i->type2, block);
    for (unsigned g = 0; g < 8; g++) {
      float *to = &a[r % 2 * 8 + g][r / 2 * width];
      if (width == 8) {  // of a size that is known it is two moves
        memcpy(to, block + g * 8, 8 * sizeof(float));
      } else {
        for (unsigned c = 0; c < width; c++) to[c] = block[g * width + c];
      }
    }
  }
}
static void gather_b(const ps_warp *w, const ps_insn *i, unsigned first, unsigned regs, unsigned elements,
                     float b[MAX_K][N]) {
  float block[MAX_BLOCK];
  unsigned width = 4 * elements;
  for (unsigned r = 0; r < regs; r++) {
    expand(ps_src(w, i, (int)(first + r)), (ps_type)i->op, block);
    for (unsigned c = 0; c < width; c++) {
      for (unsigned g = 0; g < 8; g++) b[r * width + c][g] = block[g * width + c];
    }
  }
}

// Eight sums along k, one a column, in the order of k. Four rows at a time, as each sum waits for the one before.
typedef float eight __attribute__((vector_size(32)));
static void multiply(float a[M][MAX_K], float b[MAX_K][N], float c[M][N], unsigned k_count) {
  for (unsigned m = 0; m < M; m += 4) {
    eight sum[4], column;
    memcpy(sum, c[m], sizeof sum);
    for (unsigned k = 0; k < k_count; k++) {
      memcpy(&column, b[k], sizeof column);
      sum[0] += a[m][k] * column;
      sum[1] += a[m + 1][k] * column;
      sum[2] += a[m + 2][k] * column;
      sum[3] += a[m + 3][k] * column;
    }
    memcpy(c[m], sum, sizeof sum);
  }
}

// c0 and c1 are columns 2(lane % 4) and the next of row lane / 4; c2 and c3 the same of row + 8. So pairs of registers,
// lane by lane, are 8 rows of 8 columns in order.
static void gather_c(const ps_warp *w, const ps_insn *i, int first, bool half, float c[M][N]) {
  for (int r = 0; r < 2; r++) {
    float *to = c[r * 8];
    if (half) {  // both columns in one register
      const uint16_t *pairs = ps_src(w, i, first + r);
      PS_VECTOR for (int e = 0; e < PS_LANES * 2; e++) to[e] = ps_from_f16(pairs[e]);
    } else {
      const float *even = ps_src(w, i, first + r * 2), *odd = ps_src(w, i, first + r * 2 + 1);
      for (int l = 0; l < PS_LANES; l++) {
        to[l * 2] = even[l];
        to[l * 2 + 1] = odd[l];
      }
    }
  }
}

static void scatter_c(const ps_warp *w, const ps_insn *i, bool half, float c[M][N]) {
  const ps_options *o = w->block->launch->options;
  for (int r = 0; r < 2; r++) {
    float *from = c[r * 8];
    PS_VECTOR for (int e = 0; e < PS_LANES * 2; e++) from[e] = ps_canonical(from[e]);
    for (int e = 0; e < PS_LANES * 2 && o->perturb && !half; e++) {
      from[e] = ps_perturb(from[e], ps_bits32(from[e]), o->seed);
    }
    if (half) {
      uint16_t *pairs = ps_dst(w, i, r);
      PS_VECTOR for (int e = 0; e < PS_LANES * 2; e++) pairs[e] = ps_to_f16(from[e]);
    } else {
      float *even = ps_dst(w, i, r * 2), *odd = ps_dst(w, i, r * 2 + 1);
      for (int l = 0; l < PS_LANES; l++) {
        even[l] = from[l * 2];
        odd[l] = from[l * 2 + 1];
      }
    }
  }
}

static void mma_f32(ps_warp *w, const ps_insn *i) {
  unsigned elements = i->vector, a_regs = i->a_regs, b_regs = a_regs / 2, k_count = b_regs * 4 * elements;
  float a[M][MAX_K], b[MAX_K][N], c[M][N];
  bool half = i->type == PS_f16;  // then c and d are pairs of halves
  gather_a(w, i, a_regs, elements, a);
  gather_b(w, i, a_regs, b_regs, elements, b);
  gather_c(w, i, (int)(a_regs + b_regs), half, c);
  multiply(a, b, c, k_count);
  scatter_c(w, i, half, c);
  w->block->counters.tensor_operations += 2ull * M * N * k_count;
}

static int32_t byte_of(uint32_t reg, unsigned e, bool is_signed) {
  return is_signed ? (int8_t)(reg >> e * 8) : (int32_t)(reg >> e * 8 & 255);
}

static void mma_s32(ps_warp *w, const ps_insn *i) {
  unsigned a_regs = i->a_regs, b_regs = a_regs / 2, k_count = b_regs * 16;
  int32_t a[M][MAX_K], b[MAX_K][N];
  bool a_signed = i->type2 == PS_s8, b_signed = i->op == PS_s8, clamp = (i->flags & PS_FLAG_SAT) != 0;
  for (unsigned l = 0; l < PS_LANES; l++) {
    for (unsigned e = 0; e < 4; e++) {
      for (unsigned r = 0; r < a_regs; r++) {
        uint32_t reg = ((const uint32_t *)ps_src(w, i, (int)r))[l];
        a[l / 4 + r % 2 * 8][l % 4 * 4 + r / 2 * 16 + e] = byte_of(reg, e, a_signed);
      }
      for (unsigned r = 0; r < b_regs; r++) {
        uint32_t reg = ((const uint32_t *)ps_src(w, i, (int)(a_regs + r)))[l];
        b[l % 4 * 4 + r * 16 + e][l / 4] = byte_of(reg, e, b_signed);
      }
    }
  }
  int32_t out[M][N];
  for (unsigned m = 0; m < M; m++) {
    int32_t sum[N] = {0};
    for (unsigned k = 0; k < k_count; k++) {
      PS_VECTOR for (unsigned n = 0; n < N; n++) sum[n] += a[m][k] * b[k][n];
    }
    memcpy(out[m], sum, sizeof sum);
  }
  for (unsigned r = 0; r < 4; r++) {
    const uint32_t *c = ps_src(w, i, (int)(a_regs + b_regs + r));
    uint32_t *d = ps_dst(w, i, (int)r);
    for (unsigned l = 0; l < PS_LANES; l++) {
      int64_t sum = (int64_t)(int32_t)c[l] + out[l / 4 + r / 2 * 8][l % 4 * 2 + r % 2];
      if (clamp) sum = sum > INT32_MAX ? INT32_MAX : sum < INT32_MIN ? INT32_MIN : sum;
      d[l] = (uint32_t)sum;
    }
  }
  w->block->counters.tensor_operations += 2ull * M * N * k_count;
}

// a_regs: registers of A; vector: elements a register; type2 and op: the types of A and B.
ps_fn ps_select_mma(ps_form *f) {
  ps_insn *i = f->insn;
  i->type = (uint8_t)f->type[0];
  i->type2 = (uint8_t)f->type[1];
  i->op = (uint8_t)f->type[2];
  unsigned c_regs = f->type[0] == PS_f16 ? 2 : 4, ab = i->src_count - c_regs;
  i->a_regs = (uint8_t)(ab / 3 * 2);
  unsigned bytes = ps_type_bytes(f->type[1]);
  i->vector = (uint8_t)(4 / bytes);
  // f16 is not multiplied with bf16, nor e4m3's forms with others than fp8.
  if (f->type[1] != f->type[2] && bytes == 2) return NULL;
  if (ps_has(f, PS_MOD_satfinite)) i->flags |= PS_FLAG_SAT;
  return whole_warp(f, f->type[0] == PS_s32 ? mma_s32 : mma_f32);
}
