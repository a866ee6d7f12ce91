// What lanes of a warp do together: shuffles, votes, matches, reductions. The scheduler has brought the lanes of the
// mask here; whoever executes this must be in its own mask.
#include "tests/ptxsim/cuda_abi.h"
#include "tests/ptxsim/exec.h"
#include "tests/ptxsim/form.h"

// Each lane's mask must name the lane itself. False after a fault.
static bool check_masks(ps_warp *w, const ps_insn *i, const uint32_t *masks) {
  for (int l = 0; l < PS_LANES; l++) {
    if (!PS_ACTIVE(w->mask, l) || PS_ACTIVE(masks[l], l)) continue;
    ps_fault_at(w, i, l, CUDA_ERROR_ILLEGAL_INSTRUCTION, "lane %d is not in its own mask 0x%08x", l, masks[l]);
    return false;
  }
  return true;
}

static ps_fn synchronised(ps_form *f, ps_fn fn, uint8_t mask_source) {
  f->insn->control = PS_CONTROL_SYNC;
  f->insn->sync_arg = mask_source;
  return fn;
}

// ---- shfl: c holds the clamp and the segment mask, as the PTX document's formula takes them ----

enum { SHFL_IDX, SHFL_UP, SHFL_DOWN, SHFL_BFLY };

static void shfl(ps_warp *w, const ps_insn *i) {
  uint32_t *d = ps_dst(w, i, 0), out[PS_LANES], written = 0, holds = 0;
  const uint32_t *a = ps_src(w, i, 0), *b = ps_src(w, i, 1), *c = ps_src(w, i, 2), *masks = ps_src(w, i, 3);
  if (!check_masks(w, i, masks)) return;
  const uint32_t a_written = *ps_written(w, i->src[0]);
  for (int l = 0; l < PS_LANES; l++) {
    out[l] = a[l];
    if (!PS_ACTIVE(w->mask, l)) continue;
    int bval = (int)(b[l] & 31), cval = (int)(c[l] & 31), segment = (int)(c[l] >> 8 & 31);
    int most = (l & segment) | (cval & ~segment), least = l & segment, j = l;
    bool p = false;
    switch (i->op) {
      case SHFL_UP:
        j = l - bval;
        p = j >= most;
        break;
      case SHFL_DOWN:
        j = l + bval;
        p = j <= most;
        break;
      case SHFL_BFLY:
        j = l ^ bval;
        p = j <= most;
        break;
      default:
        j = least | (bval & ~segment);
        p = j <= most;
        break;
    }
    if (!p) j = l;
    if (p) holds |= 1u << l;
    out[l] = a[j];
    // From a lane that does not take part comes nothing that is defined.
    if (PS_ACTIVE(w->mask, j) && PS_ACTIVE(masks[l], j) && PS_ACTIVE(a_written, j)) written |= 1u << l;
  }
  PS_ASSIGN(uint32_t, d, out[l]);
  uint32_t *mine = ps_written(w, i->dst[0]);
  *mine = (*mine & ~w->mask) | written;
  ps_set_predicate(w, i->dst[1], holds);
  *ps_written(w, i->dst[1]) |= w->mask;
}
ps_fn ps_select_shfl(ps_form *f) {
  f->insn->op = ps_has(f, PS_MOD_up)     ? SHFL_UP
                : ps_has(f, PS_MOD_down) ? SHFL_DOWN
                : ps_has(f, PS_MOD_bfly) ? SHFL_BFLY
                                         : SHFL_IDX;
  f->insn->flags |= PS_FLAG_OWN_INIT;
  return synchronised(f, shfl, 3);
}

// ---- votes ----

enum { VOTE_ALL, VOTE_ANY, VOTE_UNI, VOTE_BALLOT };

static void vote(ps_warp *w, const ps_insn *i) {
  const uint32_t p = ps_predicate(w, i, 0), *masks = ps_src(w, i, 1);
  if (!check_masks(w, i, masks)) return;
  uint32_t holds = 0, ballots[PS_LANES];
  for (int l = 0; l < PS_LANES; l++) {
    uint32_t members = masks[l] & w->mask, yes = p & members;
    ballots[l] = yes;
    bool result = i->op == VOTE_ALL ? yes == members : i->op == VOTE_ANY ? yes != 0 : yes == members || yes == 0;
    if (result) holds |= 1u << l;
  }
  if (i->op == VOTE_BALLOT) {
    uint32_t *d = ps_dst(w, i, 0);
    PS_ASSIGN(uint32_t, d, ballots[l]);
  } else {
    ps_set_predicate(w, i->dst[0], holds);
  }
}
ps_fn ps_select_vote(ps_form *f) {
  f->insn->op = ps_has(f, PS_MOD_all)   ? VOTE_ALL
                : ps_has(f, PS_MOD_any) ? VOTE_ANY
                : ps_has(f, PS_MOD_uni) ? VOTE_UNI
                                        : VOTE_BALLOT;
  return synchronised(f, vote, 1);
}

// ---- match ----

static void match(ps_warp *w, const ps_insn *i) {
  const uint32_t *masks = ps_src(w, i, 1);
  if (!check_masks(w, i, masks)) return;
  uint64_t v[PS_LANES];
  if (i->type == PS_b64) {
    memcpy(v, ps_src(w, i, 0), sizeof v);
  } else {
    const uint32_t *a = ps_src(w, i, 0);
    PS_EACH_LANE { v[l] = a[l]; }
  }
  uint32_t *d = ps_dst(w, i, 0), out[PS_LANES] = {0}, all = 0;
  for (int l = 0; l < PS_LANES; l++) {
    uint32_t members = masks[l] & w->mask, same = 0;
    for (int k = 0; k < PS_LANES; k++) {
      if (PS_ACTIVE(members, k) && v[k] == v[l]) same |= 1u << k;
    }
    if (same == members) all |= 1u << l;
    out[l] = i->op == 0 ? same : same == members ? members : 0;
  }
  PS_ASSIGN(uint32_t, d, out[l]);
  if (i->dst_count > 1) ps_set_predicate(w, i->dst[1], all);
}
ps_fn ps_select_match(ps_form *f) {
  f->insn->op = ps_has(f, PS_MOD_all);
  return synchronised(f, match, 1);
}

// ---- redux ----

enum { REDUX_ADD, REDUX_MIN, REDUX_MAX, REDUX_AND, REDUX_OR, REDUX_XOR };

static uint32_t reduce(const ps_insn *i, uint32_t a, uint32_t b) {
  bool is_signed = i->type == PS_s32, less = is_signed ? (int32_t)a < (int32_t)b : a < b;
  switch (i->op) {
    case REDUX_ADD: return a + b;
    case REDUX_MIN: return less ? a : b;
    case REDUX_MAX: return less ? b : a;
    case REDUX_AND: return a & b;
    case REDUX_OR: return a | b;
    default: return a ^ b;
  }
}

static void redux(ps_warp *w, const ps_insn *i) {
  const uint32_t *a = ps_src(w, i, 0), *masks = ps_src(w, i, 1);
  if (!check_masks(w, i, masks)) return;
  uint32_t *d = ps_dst(w, i, 0), out[PS_LANES] = {0};
  for (int l = 0; l < PS_LANES; l++) {
    if (!PS_ACTIVE(w->mask, l)) continue;
    uint32_t members = masks[l] & w->mask, r = a[l];
    for (int k = 0; k < PS_LANES; k++) {
      if (k != l && PS_ACTIVE(members, k)) r = reduce(i, r, a[k]);
    }
    out[l] = r;
  }
  PS_ASSIGN(uint32_t, d, out[l]);
}
ps_fn ps_select_redux(ps_form *f) {
  static const ps_mod ops[] = {PS_MOD_add, PS_MOD_min, PS_MOD_max, PS_MOD_and, PS_MOD_or, PS_MOD_xor};
  for (size_t k = 0; k < QN_COUNT(ops); k++) {
    if (ps_has(f, ops[k])) f->insn->op = (uint8_t)k;
  }
  return synchronised(f, redux, 1);
}

static void activemask(ps_warp *w, const ps_insn *i) {
  uint32_t *d = ps_dst(w, i, 0), mask = w->mask;
  PS_ASSIGN(uint32_t, d, mask);
}
ps_fn ps_select_activemask(ps_form *f) {
  (void)f;
  return activemask;
}

// Any lane may be elected, the same one each time: here the lowest.
static void elect(ps_warp *w, const ps_insn *i) {
  const uint32_t *masks = ps_src(w, i, 0);
  if (!check_masks(w, i, masks)) return;
  uint32_t *d = ps_dst(w, i, 0), lane = (uint32_t)__builtin_ctz(w->mask);
  PS_ASSIGN(uint32_t, d, lane);
  ps_set_predicate(w, i->dst[1], 1u << lane);
}
ps_fn ps_select_elect(ps_form *f) { return synchronised(f, elect, 0); }
