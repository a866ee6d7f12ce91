// mov with packing and unpacking, cvta, cvt. What was never written may be moved: the copy counts as unwritten too, and
// only a use of it is a fault (compilers move values that no path has set).
#include "tests/ptxsim/exec.h"
#include "tests/ptxsim/form.h"
#include "tests/ptxsim/numbers.h"

static void set_written(ps_warp *w, int32_t row, uint32_t written) {
  uint32_t *mine = ps_written(w, row);
  *mine = (*mine & ~w->mask) | (written & w->mask);
}

#define MOV(bits, T)                                     \
  static void mov_##bits(ps_warp *w, const ps_insn *i) { \
    T *d = ps_dst(w, i, 0);                              \
    const T *a = ps_src(w, i, 0);                        \
    const uint32_t written = *ps_written(w, i->src[0]);  \
    PS_ASSIGN(T, d, a[l]);                               \
    set_written(w, i->dst[0], written);                  \
  }
MOV(16, uint16_t)
MOV(32, uint32_t)
MOV(64, uint64_t)

static uint32_t all_written(const ps_warp *w, const ps_insn *i) {
  uint32_t written = PS_FULL;
  for (int k = 0; k < i->src_count; k++) written &= *ps_written(w, i->src[k]);
  return written;
}

static void pack_2x16(ps_warp *w, const ps_insn *i) {
  uint32_t *d = ps_dst(w, i, 0), written = all_written(w, i);
  const uint16_t *a = ps_src(w, i, 0), *b = ps_src(w, i, 1);
  PS_ASSIGN(uint32_t, d, a[l] | (uint32_t)b[l] << 16);
  set_written(w, i->dst[0], written);
}
static void pack_2x32(ps_warp *w, const ps_insn *i) {
  uint64_t *d = ps_dst(w, i, 0);
  uint32_t written = all_written(w, i);
  const uint32_t *a = ps_src(w, i, 0), *b = ps_src(w, i, 1);
  PS_ASSIGN(uint64_t, d, a[l] | (uint64_t)b[l] << 32);
  set_written(w, i->dst[0], written);
}
static void pack_4x16(ps_warp *w, const ps_insn *i) {
  uint64_t *d = ps_dst(w, i, 0);
  uint32_t written = all_written(w, i);
  const uint16_t *p[4];
  for (int k = 0; k < 4; k++) p[k] = ps_src(w, i, k);
  PS_ASSIGN(uint64_t, d, p[0][l] | (uint64_t)p[1][l] << 16 | (uint64_t)p[2][l] << 32 | (uint64_t)p[3][l] << 48);
  set_written(w, i->dst[0], written);
}

// %clock and the like: how many instructions the block has executed.
static void mov_clock(ps_warp *w, const ps_insn *i) {
  uint64_t now = w->block->steps;
  if (i->width == 8) {
    uint64_t *d = ps_dst(w, i, 0);
    PS_ASSIGN(uint64_t, d, now);
  } else {
    uint32_t *d = ps_dst(w, i, 0);
    PS_ASSIGN(uint32_t, d, (uint32_t)now);
  }
  set_written(w, i->dst[0], PS_FULL);
}

ps_fn ps_select_mov(ps_form *f) {
  ps_insn *i = f->insn;
  i->flags |= PS_FLAG_OWN_INIT | PS_FLAG_RAW_SOURCE;
  unsigned bytes = ps_type_bytes(f->type[0]);
  if (i->src_count == 1) return bytes == 2 ? mov_16 : bytes == 4 ? mov_32 : mov_64;
  if (i->src_count == 4) return bytes == 8 ? pack_4x16 : NULL;
  return bytes == 4 ? pack_2x16 : bytes == 8 ? pack_2x32 : NULL;
}
ps_fn ps_select_clock(ps_form *f) {
  f->insn->flags |= PS_FLAG_OWN_INIT | PS_FLAG_RAW_SOURCE;
  return mov_clock;
}

static void unpack(ps_warp *w, const ps_insn *i) {
  uint32_t written = *ps_written(w, i->src[0]);
  uint64_t v[PS_LANES];
  if (i->type == PS_b64) {
    memcpy(v, ps_src(w, i, 0), sizeof v);
  } else {
    const uint32_t *a = ps_src(w, i, 0);
    PS_EACH_LANE { v[l] = a[l]; }
  }
  for (int k = 0; k < i->dst_count; k++) {
    if (i->width == 2) {
      uint16_t *d = ps_dst(w, i, k);
      PS_ASSIGN(uint16_t, d, (uint16_t)(v[l] >> (k * 16)));
    } else {
      uint32_t *d = ps_dst(w, i, k);
      PS_ASSIGN(uint32_t, d, (uint32_t)(v[l] >> (k * 32)));
    }
    set_written(w, i->dst[k], written);
  }
}
ps_fn ps_select_unpack(ps_form *f) {
  ps_insn *i = f->insn;
  i->flags |= PS_FLAG_OWN_INIT | PS_FLAG_RAW_SOURCE;
  i->width = (uint8_t)(ps_type_bytes(f->type[0]) / i->dst_count);
  return unpack;
}

// ---- addresses ----

static void cvta_window(ps_warp *w, const ps_insn *i) {
  uint64_t *d = ps_dst(w, i, 0);
  const uint64_t *a = ps_src(w, i, 0), shift = (uint64_t)i->offset;
  PS_ASSIGN(uint64_t, d, a[l] + shift);
}
static void cvta32(ps_warp *w, const ps_insn *i) {
  uint32_t *d = ps_dst(w, i, 0);
  const uint32_t *a = ps_src(w, i, 0);
  PS_ASSIGN(uint32_t, d, a[l]);
}
static uint64_t window_of(const ps_form *f) {
  if (ps_has(f, PS_MOD_shared) || ps_has(f, PS_MOD_shared_cta)) return PS_WINDOW_SHARED;
  if (ps_has(f, PS_MOD_local)) return PS_WINDOW_LOCAL;
  if (ps_has(f, PS_MOD_param) || ps_has(f, PS_MOD_param_entry)) return PS_WINDOW_PARAM;
  return 0;
}
ps_fn ps_select_cvta(ps_form *f) {
  if (f->type[0] == PS_u32) return cvta32;
  uint64_t window = window_of(f);
  f->insn->offset = (int64_t)(ps_has(f, PS_MOD_to) ? 0 - window : window);
  return cvta_window;
}

static void isspacep(ps_warp *w, const ps_insn *i) {
  const uint64_t *a = ps_src(w, i, 0);
  uint64_t window = (uint64_t)i->offset, mask = 0;
  for (int l = 0; l < PS_LANES; l++) {
    bool windowed = a[l] >= PS_WINDOW_SHARED && a[l] < PS_WINDOW_PARAM + PS_WINDOW_BYTES;
    bool holds = window != 0 ? a[l] - window < PS_WINDOW_BYTES && a[l] >= window : !windowed && i->op == 0;
    if (holds) mask |= 1u << l;
  }
  ps_set_predicate(w, i->dst[0], (uint32_t)mask);
}
ps_fn ps_select_isspacep(ps_form *f) {
  f->insn->offset = (int64_t)window_of(f);
  f->insn->op = ps_has(f, PS_MOD_const);
  return isspacep;
}
