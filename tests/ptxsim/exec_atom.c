// atom and red. Blocks run on several threads, so those on global memory are the host's own atomic operations; lanes
// come one after another.
#include "tests/ptxsim/cuda_abi.h"
#include "tests/ptxsim/exec.h"
#include "tests/ptxsim/exec_mem.h"
#include "tests/ptxsim/form.h"
#include "tests/ptxsim/numbers.h"
#include "tests/ptxsim/shared.h"

enum { A_ADD, A_AND, A_OR, A_XOR, A_EXCH, A_MIN, A_MAX, A_INC, A_DEC, A_CAS };

static uint32_t add_half(ps_type type, uint32_t a, uint32_t b) {
  bool bf = type == PS_bf16 || type == PS_bf16x2;
  float x = bf ? ps_from_bf16((uint16_t)a) : ps_from_f16((uint16_t)a);
  float y = bf ? ps_from_bf16((uint16_t)b) : ps_from_f16((uint16_t)b);
  return bf ? ps_to_bf16(ps_odd_f32(ps_odd_sum(x, y))) : ps_to_f16(x + y);
}

static uint64_t add(ps_type type, uint64_t a, uint64_t b) {
  switch (type) {
    case PS_f32: return ps_bits32(ps_canonical(ps_f32((uint32_t)a) + ps_f32((uint32_t)b)));
    case PS_f64: return ps_bits64(ps_f64(a) + ps_f64(b));
    case PS_f16:
    case PS_bf16: return add_half(type, (uint32_t)a, (uint32_t)b);
    case PS_f16x2:
    case PS_bf16x2:
      return add_half(type, (uint32_t)a, (uint32_t)b) | (uint64_t)add_half(type, (uint32_t)a >> 16, (uint32_t)b >> 16)
                                                            << 16;
    default: return a + b;
  }
}

static bool less(ps_type type, uint64_t a, uint64_t b) {
  switch (type) {
    case PS_s32: return (int32_t)a < (int32_t)b;
    case PS_s64: return (int64_t)a < (int64_t)b;
    case PS_f32: return ps_f32((uint32_t)a) < ps_f32((uint32_t)b);
    case PS_f64: return ps_f64(a) < ps_f64(b);
    default: return a < b;
  }
}

// What the memory becomes.
static uint64_t apply(const ps_insn *i, uint64_t old, uint64_t b, uint64_t c) {
  ps_type type = (ps_type)i->type;
  switch (i->op) {
    case A_ADD: return add(type, old, b);
    case A_AND: return old & b;
    case A_OR: return old | b;
    case A_XOR: return old ^ b;
    case A_EXCH: return b;
    case A_MIN: return less(type, b, old) ? b : old;
    case A_MAX: return less(type, old, b) ? b : old;
    case A_INC: return old >= b ? 0 : old + 1;
    case A_DEC: return old == 0 || old > b ? b : old - 1;
    default: return old == b ? c : old;
  }
}

#define UPDATE(T)                                                                                                      \
  do {                                                                                                                 \
    T *p = (T *)(void *)place, old = __atomic_load_n(p, __ATOMIC_SEQ_CST);                                             \
    while (!__atomic_compare_exchange_n(p, &old, (T)apply(i, old, b, c), false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) { \
    }                                                                                                                  \
    return old;                                                                                                        \
  } while (0)

static uint64_t update(const ps_insn *i, uint8_t *place, uint64_t b, uint64_t c) {
  if (i->size == 2) UPDATE(uint16_t);
  if (i->size == 4) UPDATE(uint32_t);
  UPDATE(uint64_t);
}

static uint64_t source(const ps_warp *w, const ps_insn *i, int k, int lane) {
  if (k >= i->src_count) return 0;
  const void *row = ps_src(w, i, k);
  return i->size == 2   ? ((const uint16_t *)row)[lane]
         : i->size == 4 ? ((const uint32_t *)row)[lane]
                        : ((const uint64_t *)row)[lane];
}

// One lane's place in memory, checked as a read and a write; NULL after a fault.
static uint8_t *place_of(ps_warp *w, const ps_insn *i, int lane, uint64_t address, bool shared) {
  if (shared) {
    if (!ps_shared_read(w, i, lane, address, i->size, true)) return NULL;
    if (!ps_shared_write(w, i, lane, address, i->size, true, NULL)) return NULL;
    return w->block->shared + address;
  }
  ps_launch *launch = w->block->launch;
  ps_allocation *a = ps_memory_find(launch->memory, address, i->size);
  char text[256];
  ps_memory_describe(launch->memory, address, i->size, text, sizeof text);
  if (address % i->size != 0) {
    ps_fault_at(w, i, lane, CUDA_ERROR_MISALIGNED_ADDRESS, "misaligned atomic of %u bytes at 0x%llx", i->size,
                (unsigned long long)address);
    return NULL;
  }
  if (a == NULL || a->constant || (a->device >= 0 && a->device != launch->device)) {
    ps_fault_at(w, i, lane, CUDA_ERROR_ILLEGAL_ADDRESS, "global memory out of bounds: atomic of %u bytes at %s",
                i->size, text);
    return NULL;
  }
  if (launch->options->check_initialised && ps_first_unwritten(a, address - a->base, i->size) != i->size) {
    ps_fault_at(w, i, lane, CUDA_ERROR_LAUNCH_FAILED, "uninitialised global memory: %s", text);
    return NULL;
  }
  return a->host + (address - a->base);
}

static void atom(ps_warp *w, const ps_insn *i) {
  uint64_t address[PS_LANES], sectors[PS_LANES];
  int sector_count = 0, at = 0;
  uint32_t in_shared = 0;
  ps_addresses(w, i, 0, address);
  for (int l = 0; l < PS_LANES; l++) {
    if (!PS_ACTIVE(w->mask, l)) continue;
    bool shared = i->space == PS_SPACE_SHARED;
    if (i->space == PS_SPACE_GENERIC && address[l] - PS_WINDOW_SHARED < PS_WINDOW_BYTES) {
      shared = true;
      address[l] -= PS_WINDOW_SHARED;
    }
    uint8_t *place = place_of(w, i, l, address[l], shared);
    if (place == NULL) return;
    uint64_t old = update(i, place, source(w, i, 1, l), source(w, i, 2, l));
    if (i->dst_count > 0) {
      void *d = ps_dst(w, i, 0);
      if (i->size == 2) ((uint16_t *)d)[l] = (uint16_t)old;
      if (i->size == 4) ((uint32_t *)d)[l] = (uint32_t)old;
      if (i->size == 8) ((uint64_t *)d)[l] = old;
    }
    if (shared) {
      in_shared |= 1u << l;
      continue;
    }
    for (at = sector_count - 1; at >= 0 && sectors[at] != address[l] / 32; at--) {
    }
    if (at < 0) sectors[sector_count++] = address[l] / 32;
  }
  ps_shared_count(w, in_shared, address, i->size);
  if (sector_count > 0) w->block->counters.atomic_requests++;
  w->block->counters.atomic_sectors += (uint64_t)sector_count;
}

ps_fn ps_select_atom(ps_form *f) {
  static const ps_mod ops[] = {PS_MOD_add, PS_MOD_and, PS_MOD_or,  PS_MOD_xor, PS_MOD_exch,
                               PS_MOD_min, PS_MOD_max, PS_MOD_inc, PS_MOD_dec, PS_MOD_cas};
  ps_insn *i = f->insn;
  for (size_t k = 0; k < QN_COUNT(ops); k++) {
    if (ps_has(f, ops[k])) i->op = (uint8_t)k;
  }
  ps_type t = f->type[0];
  bool real = ps_type_kind(t) == 'F', bits = ps_type_kind(t) == 'B', half = real && t != PS_f32 && t != PS_f64;
  bool logic = i->op == A_AND || i->op == A_OR || i->op == A_XOR, counts = i->op == A_INC || i->op == A_DEC;
  if (logic && !bits) return NULL;
  if (counts && t != PS_u32) return NULL;
  if (bits && (i->op == A_ADD || i->op == A_MIN || i->op == A_MAX)) return NULL;
  if (real && i->op != A_ADD) return NULL;
  if (half && !ps_has(f, PS_MOD_noftz)) return NULL;
  i->size = (uint8_t)ps_type_bytes(t);
  if (ps_has(f, PS_MOD_global)) i->space = PS_SPACE_GLOBAL;
  if (ps_has(f, PS_MOD_shared) || ps_has(f, PS_MOD_shared_cta)) i->space = PS_SPACE_SHARED;
  return atom;
}
