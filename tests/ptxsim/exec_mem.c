// Loads and stores: where each lane's address is, the checks, the counters, and the data between memory and registers.
#include "tests/ptxsim/exec_mem.h"
#include "tests/ptxsim/cuda_abi.h"
#include "tests/ptxsim/exec.h"
#include "tests/ptxsim/form.h"
#include "tests/ptxsim/shared.h"

#define MAX_BYTES 32  // of one lane's access

// Copies of a size that is known in each case are moves, not calls.
static inline void copy_bytes(void *to, const void *from, unsigned bytes) {
  switch (bytes) {
    case 1: memcpy(to, from, 1); break;
    case 2: memcpy(to, from, 2); break;
    case 4: memcpy(to, from, 4); break;
    case 8: memcpy(to, from, 8); break;
    case 16: memcpy(to, from, 16); break;
    default: memcpy(to, from, 32); break;
  }
}

// ---- addresses ----

void ps_addresses(const ps_warp *w, const ps_insn *i, int source, uint64_t out[PS_LANES]) {
  const uint64_t offset = (uint64_t)i->offset;
  if (i->address32 >> source & 1) {
    const uint32_t *base = ps_src(w, i, source);
    PS_EACH_LANE { out[l] = (uint32_t)(base[l] + (uint32_t)offset); }
  } else {
    const uint64_t *base = ps_src(w, i, source);
    PS_EACH_LANE { out[l] = base[l] + offset; }
  }
}

// The active lanes by the space their address is in, which becomes an offset in it.
typedef struct spaces {
  uint32_t global, shared, local, param;
} spaces;

static bool in_window(uint64_t address, uint64_t window) { return address - window < PS_WINDOW_BYTES; }

static spaces classify(const ps_warp *w, const ps_insn *i, uint64_t address[PS_LANES]) {
  spaces s = {0};
  switch (i->space) {
    case PS_SPACE_GLOBAL: s.global = w->mask; return s;
    case PS_SPACE_SHARED: s.shared = w->mask; return s;
    case PS_SPACE_LOCAL: s.local = w->mask; return s;
    case PS_SPACE_PARAM: s.param = w->mask; return s;
    default: break;
  }
  for (int l = 0; l < PS_LANES; l++) {
    if (!PS_ACTIVE(w->mask, l)) continue;
    uint32_t *mask = &s.global;
    if (in_window(address[l], PS_WINDOW_SHARED)) mask = &s.shared;
    if (in_window(address[l], PS_WINDOW_LOCAL)) mask = &s.local;
    if (in_window(address[l], PS_WINDOW_PARAM)) mask = &s.param;
    if (mask != &s.global) address[l] &= PS_WINDOW_BYTES - 1;
    *mask |= 1u << l;
  }
  return s;
}

// ---- global memory ----

// The bytes of one lane's access, whose range is remembered for the instruction. NULL after a fault.
static uint8_t *search_place(ps_warp *w, const ps_insn *i, int lane, uint64_t address, unsigned bytes, bool write,
                             ps_place *place) {
  ps_launch *launch = w->block->launch;
  if (address % bytes != 0) {
    ps_fault_at(w, i, lane, CUDA_ERROR_MISALIGNED_ADDRESS, "misaligned access to global memory: %u bytes at 0x%llx",
                bytes, (unsigned long long)address);
    return NULL;
  }
  if (address < place->low || address + bytes > place->high) {
    ps_allocation *a = ps_memory_find(launch->memory, address, bytes);
    if (a == NULL || (a->device >= 0 && a->device != launch->device)) {
      char text[256];
      ps_memory_describe(launch->memory, address, bytes, text, sizeof text);
      ps_fault_at(w, i, lane, CUDA_ERROR_ILLEGAL_ADDRESS, "global memory out of bounds: %s of %u bytes at %s%s",
                  write ? "store" : "load", bytes, text, a != NULL ? ", which is another device's" : "");
      return NULL;
    }
    place->allocation = a;
    place->range = ps_memory_range(a, address, &place->low, &place->high);
  }
  ps_allocation *a = place->allocation;
  if (write && a->constant) {
    ps_fault_at(w, i, lane, CUDA_ERROR_ILLEGAL_ADDRESS, "store to constant memory at 0x%llx",
                (unsigned long long)address);
    return NULL;
  }
  return a->host + (address - a->base);
}

static inline uint8_t *find_place(ps_warp *w, const ps_insn *i, int lane, uint64_t address, unsigned bytes, bool write,
                                  ps_place *place) {
  // bytes is a power of two
  bool known = (address & (bytes - 1)) == 0 && address >= place->low && address + bytes <= place->high;
  if (!known || (write && place->allocation->constant)) return search_place(w, i, lane, address, bytes, write, place);
  return place->allocation->host + (address - place->allocation->base);
}

static bool check_written(ps_warp *w, const ps_insn *i, int lane, const ps_place *place, uint64_t address,
                          uint64_t bytes, unsigned lane_bytes) {
  const ps_allocation *a = place->allocation;
  if (a->written == NULL || !w->block->launch->options->check_initialised) return true;
  uint64_t first = ps_first_unwritten(a, address - a->base, bytes);
  if (first == bytes) return true;
  uint64_t at = address + first;
  char text[256];
  ps_memory_describe(w->block->launch->memory, at, 1, text, sizeof text);
  ps_fault_at(w, i, lane + (int)(first / lane_bytes), CUDA_ERROR_LAUNCH_FAILED, "uninitialised global memory: %s",
              text);
  return false;
}

static void count_global(ps_block *b, uint32_t range, bool write, uint64_t requests, uint64_t bytes, uint64_t sectors,
                         bool wide) {
  ps_counters *c = &b->counters;
  ps_traffic *t = &b->traffic[range];
  if (write) {
    c->store_requests += requests, c->store_bytes += bytes, c->store_sectors += sectors;
    t->store_requests += requests, t->store_bytes += bytes, t->store_sectors += sectors;
  } else {
    c->load_requests += requests, c->load_bytes += bytes, c->load_sectors += sectors;
    c->load_requests_128 += wide ? requests : 0;
    t->load_requests += requests, t->load_bytes += bytes, t->load_sectors += sectors;
    t->load_requests_128 += wide ? requests : 0;
  }
}

// Are all bytes of a small aligned access written? Its bits are whole bytes of the marks, or lie in one of them.
static inline bool small_written(const ps_allocation *a, uint64_t offset, unsigned bytes) {
  const uint8_t *marks = a->written + offset / 8;
  if (bytes < 8) {
    unsigned bits = ((1u << bytes) - 1u) << (offset % 8);
    return (marks[0] & bits) == bits;
  }
  for (unsigned k = 0; k < bytes / 8; k++) {
    if (marks[k] != 0xff) return false;
  }
  return true;
}

// One lane at a time: any addresses, in any ranges. An aligned access of at most 32 bytes lies in one sector. What goes
// to one range is counted together.
static bool scattered(ps_warp *w, const ps_insn *i, uint32_t mask, const uint64_t address[PS_LANES], unsigned bytes,
                      bool write, uint8_t *host[PS_LANES]) {
  ps_block *b = w->block;
  ps_place *place = &b->places[i - b->program->insns.items];
  const bool check = !write && b->launch->options->check_initialised;
  uint64_t sectors[PS_LANES], highest = 0, requests = 1, lanes = 0, moved = 0;
  uint32_t range = 0;
  int count = 0, before = 0;
  for (int l = 0; l < PS_LANES; l++) {
    if (!PS_ACTIVE(mask, l)) continue;
    if (lanes > 0 && address[l] == address[before]) {  // many loads are the same for all lanes
      host[l] = host[before];
      lanes++;
      continue;
    }
    before = l;
    host[l] = find_place(w, i, l, address[l], bytes, write, place);
    if (host[l] == NULL) return false;
    ps_allocation *a = place->allocation;
    const uint64_t offset = address[l] - a->base;
    if (check && a->written != NULL && !small_written(a, offset, bytes)) {
      if (!check_written(w, i, l, place, address[l], bytes, bytes)) return false;
    }
    if (lanes > 0 && place->range != range) {
      count_global(b, range, write, requests, lanes * bytes, moved, bytes >= 16);
      requests = lanes = moved = 0;
    }
    range = place->range;
    uint64_t sector = address[l] / 32;
    int k = -1;
    if (count > 0 && sector <= highest) {
      for (k = count - 1; k >= 0 && sectors[k] != sector; k--) {
      }
    }
    if (k < 0) {
      sectors[count++] = sector;
      moved++;
      if (sector > highest) highest = sector;
    }
    lanes++;
    if (write) ps_mark_written(a, offset, bytes);
  }
  count_global(b, range, write, requests, lanes * bytes, moved, bytes >= 16);
  return true;
}

// All 32 lanes side by side in one range: the place of the first one. NULL where it is not so, or after a fault.
static uint8_t *side_by_side(ps_warp *w, const ps_insn *i, uint32_t mask, const uint64_t address[PS_LANES],
                             unsigned bytes, bool write) {
  if (mask != PS_FULL) return NULL;
  uint64_t wrong = 0, first = address[0];
  PS_VECTOR for (int l = 0; l < PS_LANES; l++) wrong |= address[l] ^ (first + (uint64_t)l * bytes);
  if (wrong != 0) return NULL;
  ps_block *b = w->block;
  ps_place *place = &b->places[i - b->program->insns.items];
  uint8_t *host = find_place(w, i, 0, first, bytes, write, place);
  uint64_t span = (uint64_t)bytes * PS_LANES;
  if (host == NULL || span > place->high - first) return NULL;
  if (!write && !check_written(w, i, 0, place, first, span, bytes)) return NULL;
  count_global(b, place->range, write, 1, span, (first + span - 1) / 32 - first / 32 + 1, bytes >= 16);
  if (write) ps_mark_written(place->allocation, first - place->allocation->base, span);
  return host;
}

bool ps_global_lanes(ps_warp *w, const ps_insn *i, uint32_t mask, const uint64_t address[PS_LANES], unsigned bytes,
                     bool write, uint8_t *host[PS_LANES]) {
  uint8_t *first = side_by_side(w, i, mask, address, bytes, write);
  if (ps_faulted(w)) return false;
  if (first == NULL) return scattered(w, i, mask, address, bytes, write, host);
  for (int l = 0; l < PS_LANES; l++) host[l] = first + (size_t)l * bytes;
  return true;
}

// ---- local memory and parameters ----

static uint8_t *local_place(ps_warp *w, const ps_insn *i, int lane, uint64_t at, unsigned bytes) {
  uint64_t total = w->block->program->local_bytes;
  if (at > total || bytes > total - at || at % bytes != 0) {
    ps_fault_at(w, i, lane, at % bytes != 0 ? CUDA_ERROR_MISALIGNED_ADDRESS : CUDA_ERROR_ILLEGAL_ADDRESS,
                "local memory %s: %u bytes at %llu of %llu", at % bytes != 0 ? "misaligned" : "out of bounds", bytes,
                (unsigned long long)at, (unsigned long long)total);
    return NULL;
  }
  return w->local + (uint64_t)lane * total + at;
}

static bool load_local(ps_warp *w, const ps_insn *i, uint32_t mask, const uint64_t address[PS_LANES], unsigned bytes,
                       uint8_t *raw, uint32_t *written) {
  for (int l = 0; l < PS_LANES; l++) {
    if (!PS_ACTIVE(mask, l)) continue;
    const uint8_t *p = local_place(w, i, l, address[l], bytes);
    if (p == NULL) return false;
    memcpy(raw + (size_t)l * bytes, p, bytes);
    const uint8_t *marks = w->local_written + (p - w->local);
    for (unsigned k = 0; k < bytes; k++) {
      if (marks[k] == 0) *written &= ~(1u << l);
    }
  }
  return true;
}

static bool load_params(ps_warp *w, const ps_insn *i, uint32_t mask, const uint64_t address[PS_LANES], unsigned bytes,
                        uint8_t *raw) {
  uint64_t total = w->block->program->param_bytes;
  for (int l = 0; l < PS_LANES; l++) {
    if (!PS_ACTIVE(mask, l)) continue;
    if (address[l] > total || bytes > total - address[l] || address[l] % bytes != 0) {
      ps_fault_at(w, i, l, CUDA_ERROR_ILLEGAL_ADDRESS, "parameters out of bounds: %u bytes at %llu of %llu", bytes,
                  (unsigned long long)address[l], (unsigned long long)total);
      return false;
    }
    memcpy(raw + (size_t)l * bytes, w->block->launch->config->params + address[l], bytes);
  }
  return true;
}

// ---- between memory and registers ----

#define UNPACK(TM, TR)                                           \
  do {                                                           \
    TR *d = ps_dst(w, i, e);                                     \
    const uint8_t *from = raw + (size_t)e * sizeof(TM);          \
    PS_ASSIGN(TR, d, ({                                          \
                TM v;                                            \
                memcpy(&v, from + (size_t)l * stride, sizeof v); \
                (TR) v;                                          \
              }));                                               \
  } while (0)

static void unpack(ps_warp *w, const ps_insn *i, const uint8_t *raw) {
  const unsigned stride = (unsigned)i->size * i->vector;
  const bool sign = (i->flags & PS_FLAG_SIGNED) != 0;
  for (int e = 0; e < i->vector; e++) {
    switch (i->size * 16 + i->width) {
      case 1 * 16 + 2:
        if (sign)
          UNPACK(int8_t, int16_t);
        else
          UNPACK(uint8_t, uint16_t);
        break;
      case 1 * 16 + 4:
        if (sign)
          UNPACK(int8_t, int32_t);
        else
          UNPACK(uint8_t, uint32_t);
        break;
      case 1 * 16 + 8:
        if (sign)
          UNPACK(int8_t, int64_t);
        else
          UNPACK(uint8_t, uint64_t);
        break;
      case 2 * 16 + 2: UNPACK(uint16_t, uint16_t); break;
      case 2 * 16 + 4:
        if (sign)
          UNPACK(int16_t, int32_t);
        else
          UNPACK(uint16_t, uint32_t);
        break;
      case 2 * 16 + 8:
        if (sign)
          UNPACK(int16_t, int64_t);
        else
          UNPACK(uint16_t, uint64_t);
        break;
      case 4 * 16 + 4: UNPACK(uint32_t, uint32_t); break;
      case 4 * 16 + 8:
        if (sign)
          UNPACK(int32_t, int64_t);
        else
          UNPACK(uint32_t, uint64_t);
        break;
      default: UNPACK(uint64_t, uint64_t); break;
    }
  }
}

#define PACK(TM, TR)                                 \
  do {                                               \
    const TR *s = ps_src(w, i, 1 + e);               \
    uint8_t *to = raw + (size_t)e * sizeof(TM);      \
    PS_VECTOR for (int l = 0; l < PS_LANES; l++) {   \
      const TM v = (TM)s[l];                         \
      memcpy(to + (size_t)l * stride, &v, sizeof v); \
    }                                                \
  } while (0)

static void pack(const ps_warp *w, const ps_insn *i, uint8_t *raw) {
  const unsigned stride = (unsigned)i->size * i->vector;
  for (int e = 0; e < i->vector; e++) {
    switch (i->size * 16 + i->width) {
      case 1 * 16 + 2: PACK(uint8_t, uint16_t); break;
      case 1 * 16 + 4: PACK(uint8_t, uint32_t); break;
      case 1 * 16 + 8: PACK(uint8_t, uint64_t); break;
      case 2 * 16 + 2: PACK(uint16_t, uint16_t); break;
      case 2 * 16 + 4: PACK(uint16_t, uint32_t); break;
      case 2 * 16 + 8: PACK(uint16_t, uint64_t); break;
      case 4 * 16 + 4: PACK(uint32_t, uint32_t); break;
      case 4 * 16 + 8: PACK(uint32_t, uint64_t); break;
      default: PACK(uint64_t, uint64_t); break;
    }
  }
}

static bool load_shared(ps_warp *w, const ps_insn *i, uint32_t mask, const uint64_t address[PS_LANES], unsigned bytes,
                        uint8_t *raw) {
  bool atomic = (i->flags & PS_FLAG_ATOMIC) != 0;
  int before = -1, alike = 0;
  for (int l = 0; l < PS_LANES; l++) {
    if (!PS_ACTIVE(mask, l)) continue;
    // From the third reader of a place on there is nothing new to record: several lanes of this warp read it.
    alike = before >= 0 && address[l] == address[before] ? alike + 1 : 0;
    if (alike < 2 && !ps_shared_read(w, i, l, address[l], bytes, atomic)) return false;
    copy_bytes(raw + (size_t)l * bytes, w->block->shared + address[l], bytes);
    before = l;
  }
  ps_shared_count(w, mask, address, bytes);
  return true;
}

static void ld(ps_warp *w, const ps_insn *i) {
  uint64_t address[PS_LANES];
  ps_addresses(w, i, 0, address);
  spaces s = classify(w, i, address);
  const unsigned bytes = (unsigned)i->size * i->vector;
  _Alignas(32) uint8_t raw[PS_LANES * MAX_BYTES];
  uint32_t written = PS_FULL;
  const uint8_t *data = raw;
  if (s.global == PS_FULL && (data = side_by_side(w, i, s.global, address, bytes, false)) != NULL) {
    unpack(w, i, data);
  } else {
    uint8_t *host[PS_LANES];
    if (ps_faulted(w)) return;
    if (s.global != 0 && !scattered(w, i, s.global, address, bytes, false, host)) return;
    for (int l = 0; l < PS_LANES; l++) {
      if (PS_ACTIVE(s.global, l)) copy_bytes(raw + (size_t)l * bytes, host[l], bytes);
    }
    if (s.shared != 0 && !load_shared(w, i, s.shared, address, bytes, raw)) return;
    if (s.local != 0 && !load_local(w, i, s.local, address, bytes, raw, &written)) return;
    if (s.param != 0 && !load_params(w, i, s.param, address, bytes, raw)) return;
    unpack(w, i, raw);
  }
  for (int e = 0; e < i->vector; e++) {
    uint32_t *mine = ps_written(w, i->dst[e]);
    *mine = (*mine & ~w->mask) | (written & w->mask);
  }
}

// Values of lanes whose register was never written go to local memory as such, and nowhere else.
static bool store_local(ps_warp *w, const ps_insn *i, uint32_t mask, const uint64_t address[PS_LANES], unsigned bytes,
                        const uint8_t *raw) {
  for (int l = 0; l < PS_LANES; l++) {
    if (!PS_ACTIVE(mask, l)) continue;
    uint8_t *p = local_place(w, i, l, address[l], bytes);
    if (p == NULL) return false;
    memcpy(p, raw + (size_t)l * bytes, bytes);
    for (int e = 0; e < i->vector; e++) {
      bool is_written = PS_ACTIVE(*ps_written(w, i->src[1 + e]), l);
      memset(w->local_written + (p - w->local) + e * i->size, is_written, i->size);
    }
  }
  return true;
}

static bool store_shared(ps_warp *w, const ps_insn *i, uint32_t mask, const uint64_t address[PS_LANES], unsigned bytes,
                         const uint8_t *raw) {
  bool atomic = (i->flags & PS_FLAG_ATOMIC) != 0;
  for (int l = 0; l < PS_LANES; l++) {
    if (!PS_ACTIVE(mask, l)) continue;
    if (!ps_shared_write(w, i, l, address[l], bytes, atomic, raw + (size_t)l * bytes)) return false;
    copy_bytes(w->block->shared + address[l], raw + (size_t)l * bytes, bytes);
  }
  ps_shared_count(w, mask, address, bytes);
  return true;
}

static bool sources_written(ps_warp *w, const ps_insn *i, uint32_t mask) {
  for (int k = 0; k < i->src_count; k++) {
    uint32_t missing = mask & ~*ps_written(w, i->src[k]);
    if (missing == 0) continue;
    ps_fault_at(w, i, __builtin_ctz(missing), CUDA_ERROR_LAUNCH_FAILED,
                "operand %d is a register that was never written", k + 1);
    return false;
  }
  return true;
}

static void st(ps_warp *w, const ps_insn *i) {
  uint64_t address[PS_LANES];
  ps_addresses(w, i, 0, address);
  spaces s = classify(w, i, address);
  const unsigned bytes = (unsigned)i->size * i->vector;
  if (!sources_written(w, i, s.global | s.shared | s.param)) return;
  _Alignas(32) uint8_t raw[PS_LANES * MAX_BYTES];
  if (s.global == PS_FULL) {
    uint8_t *place = side_by_side(w, i, s.global, address, bytes, true);
    if (place != NULL) pack(w, i, place);
    if (place != NULL || ps_faulted(w)) return;
  }
  pack(w, i, raw);
  uint8_t *host[PS_LANES];
  if (s.global != 0 && !scattered(w, i, s.global, address, bytes, true, host)) return;
  for (int l = 0; l < PS_LANES; l++) {
    if (PS_ACTIVE(s.global, l)) copy_bytes(host[l], raw + (size_t)l * bytes, bytes);
  }
  if (s.shared != 0 && !store_shared(w, i, s.shared, address, bytes, raw)) return;
  if (s.local != 0 && !store_local(w, i, s.local, address, bytes, raw)) return;
  if (s.param != 0) {
    ps_fault_at(w, i, __builtin_ctz(s.param), CUDA_ERROR_ILLEGAL_ADDRESS, "store to the kernel's parameters");
  }
}

// Parameters of the kernel are the same for all lanes.
static void ld_param(ps_warp *w, const ps_insn *i) {
  const uint8_t *from = w->block->launch->config->params + i->offset;
  for (int e = 0; e < i->vector; e++) {
    uint64_t bits = 0;
    memcpy(&bits, from + (size_t)e * i->size, i->size);
    if (i->flags & PS_FLAG_SIGNED) bits = (uint64_t)((int64_t)(bits << (64 - i->size * 8)) >> (64 - i->size * 8));
    if (i->width == 8) {
      uint64_t *d = ps_dst(w, i, e);
      PS_ASSIGN(uint64_t, d, bits);
    } else if (i->width == 4) {
      uint32_t *d = ps_dst(w, i, e);
      PS_ASSIGN(uint32_t, d, (uint32_t)bits);
    } else {
      uint16_t *d = ps_dst(w, i, e);
      PS_ASSIGN(uint16_t, d, (uint16_t)bits);
    }
    *ps_written(w, i->dst[e]) |= w->mask;
  }
}

// ---- selectors ----

static void set_access(ps_form *f) {
  ps_insn *i = f->insn;
  i->size = (uint8_t)ps_type_bytes(f->type[0]);
  if (ps_type_kind(f->type[0]) == 'S') i->flags |= PS_FLAG_SIGNED;
  if (i->space == PS_SPACE_GENERIC) {
    if (ps_has(f, PS_MOD_global) || ps_has(f, PS_MOD_const)) i->space = PS_SPACE_GLOBAL;
    if (ps_has(f, PS_MOD_shared) || ps_has(f, PS_MOD_shared_cta)) i->space = PS_SPACE_SHARED;
    if (ps_has(f, PS_MOD_local)) i->space = PS_SPACE_LOCAL;
  }
  if (ps_has(f, PS_MOD_volatile) || ps_has(f, PS_MOD_relaxed) || ps_has(f, PS_MOD_acquire) ||
      ps_has(f, PS_MOD_release)) {
    i->flags |= PS_FLAG_ATOMIC;
  }
  // What accesses go where may only be known when it runs; local memory takes unwritten values.
  i->flags |= PS_FLAG_OWN_INIT;
}

// 256 bits at once are known from sm_100 on; the checks of targets are the module's.
ps_fn ps_select_ld(ps_form *f) {
  set_access(f);
  return f->insn->size * f->insn->vector <= MAX_BYTES ? ld : NULL;
}
ps_fn ps_select_ld_param(ps_form *f) {
  ps_insn *i = f->insn;
  set_access(f);
  if (i->space == PS_SPACE_LOCAL) return ld;  // of a function, or a call's result
  i->space = PS_SPACE_PARAM;
  return i->param_direct ? ld_param : ld;
}
ps_fn ps_select_st(ps_form *f) {
  set_access(f);
  f->insn->flags |= PS_FLAG_RAW_SOURCE;
  return f->insn->size * f->insn->vector <= MAX_BYTES ? st : NULL;
}
ps_fn ps_select_st_param(ps_form *f) {
  set_access(f);
  f->insn->flags |= PS_FLAG_RAW_SOURCE;
  return f->insn->space == PS_SPACE_LOCAL ? st : NULL;
}

static void nothing(ps_warp *w, const ps_insn *i) {
  (void)w;
  (void)i;
}
ps_fn ps_select_nothing(ps_form *f) {
  f->insn->flags |= PS_FLAG_RAW_SOURCE;
  return nothing;
}
