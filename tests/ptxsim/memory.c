// Allocations, the bits of what was written, named ranges.
#include "tests/ptxsim/memory.h"

#include <stdio.h>
#include <sys/mman.h>

#define FIRST_ADDRESS 0x10000000000ull  // nothing of the host's is near
#define GAP_BYTES     (1u << 20)
#define ALIGN_BYTES   512u

static uint64_t written_bytes(uint64_t size) { return (size + 7) / 8 + 8; }

static uint8_t *map_bytes(uint64_t size) {
  void *bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return bytes == MAP_FAILED ? NULL : bytes;
}

static uint32_t add_range(ps_memory *m, const char *name, uint64_t bytes) {
  ps_range_info info = {.bytes = bytes};
  snprintf(info.name, sizeof info.name, "%s", name);
  if (!qn_vec_push(qn_allocator_default(), &m->ranges, info)) return 0;
  return (uint32_t)m->ranges.count - 1;
}

// Puts it in its place by address; false when out of memory.
static bool insert(ps_memory *m, ps_allocation *a) {
  if (!qn_vec_push(qn_allocator_default(), &m->allocations, a)) return false;
  size_t i = m->allocations.count - 1;
  for (; i > 0 && m->allocations.items[i - 1]->base > a->base; i--)
    m->allocations.items[i] = m->allocations.items[i - 1];
  m->allocations.items[i] = a;
  return true;
}

static void release(ps_allocation *a) {
  if (a->host != NULL && a->mapped) munmap(a->host, a->size);
  if (a->written != NULL) munmap(a->written, written_bytes(a->size));
  a->host = a->written = NULL;
}

static void destroy(ps_allocation *a) {
  release(a);
  qn_vec_free(qn_allocator_default(), &a->ranges);
  qn_free(qn_allocator_default(), a, sizeof *a);
}

void ps_memory_deinit(ps_memory *m) {
  for (size_t i = 0; i < m->allocations.count; i++) destroy(m->allocations.items[i]);
  qn_vec_free(qn_allocator_default(), &m->allocations);
  qn_vec_free(qn_allocator_default(), &m->ranges);
  *m = (ps_memory){0};
}

static ps_allocation *add(ps_memory *m, ps_allocation made, const char *name) {
  ps_allocation *a = qn_alloc_zeroed(qn_allocator_default(), sizeof *a);
  if (a == NULL) return NULL;
  *a = made;
  char text[64];
  snprintf(text, sizeof text, "%s #%llu", name, (unsigned long long)++m->serial);
  a->range = add_range(m, text, a->size);
  if (!insert(m, a)) {
    qn_free(qn_allocator_default(), a, sizeof *a);
    return NULL;
  }
  return a;
}

ps_allocation *ps_memory_allocate(ps_memory *m, int device, uint64_t size, const char *name) {
  if (m->next == 0) m->next = FIRST_ADDRESS;
  ps_allocation made = {.base = m->next, .size = size, .mapped = true, .device = device};
  made.host = map_bytes(size);
  made.written = map_bytes(written_bytes(size));
  ps_allocation *a = made.host != NULL && made.written != NULL ? add(m, made, name) : NULL;
  if (a == NULL) {
    release(&made);
    return NULL;
  }
  m->next = (m->next + size + GAP_BYTES + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
  return a;
}

ps_allocation *ps_memory_register(ps_memory *m, void *host, uint64_t size, const char *name) {
  // An earlier registration of the same place is gone for good, or its tombstone would hide this one.
  for (size_t i = 0; i < m->allocations.count; i++) {
    ps_allocation *a = m->allocations.items[i];
    if (!a->freed || a->base >= (uintptr_t)host + size || a->base + a->size <= (uintptr_t)host) continue;
    destroy(a);
    for (size_t j = i--; j + 1 < m->allocations.count; j++) m->allocations.items[j] = m->allocations.items[j + 1];
    m->allocations.count--;
  }
  ps_allocation made = {.base = (uintptr_t)host, .size = size, .host = host, .device = -1};
  return add(m, made, name);
}

void ps_memory_free(ps_memory *m, ps_allocation *a) {
  (void)m;
  release(a);
  a->freed = true;
}

ps_allocation *ps_memory_at(const ps_memory *m, uint64_t address) {
  size_t low = 0, high = m->allocations.count;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (m->allocations.items[middle]->base <= address) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low > 0 ? m->allocations.items[low - 1] : NULL;
}

ps_allocation *ps_memory_find(const ps_memory *m, uint64_t address, uint64_t size) {
  ps_allocation *a = ps_memory_at(m, address);
  if (a == NULL || a->freed || size > a->size || address - a->base > a->size - size) return NULL;
  return a;
}

bool ps_memory_label(ps_memory *m, uint64_t address, uint64_t size, const char *name) {
  ps_allocation *a = size > 0 ? ps_memory_find(m, address, size) : NULL;
  if (a == NULL) return false;
  for (size_t i = 0; i < a->ranges.count; i++) {
    if (address < a->ranges.items[i].high && address + size > a->ranges.items[i].low) return false;
  }
  ps_range range = {address, address + size, add_range(m, name, size)};
  if (!qn_vec_push(qn_allocator_default(), &a->ranges, range)) return false;
  size_t i = a->ranges.count - 1;
  for (; i > 0 && a->ranges.items[i - 1].low > address; i--) a->ranges.items[i] = a->ranges.items[i - 1];
  a->ranges.items[i] = range;
  return true;
}

uint32_t ps_memory_range(const ps_allocation *a, uint64_t address, uint64_t *out_low, uint64_t *out_high) {
  uint64_t low = a->base;
  for (size_t i = 0; i < a->ranges.count; i++) {
    const ps_range *r = &a->ranges.items[i];
    if (address < r->low) {
      *out_low = low;
      *out_high = r->low;
      return a->range;
    }
    if (address < r->high) {
      *out_low = r->low;
      *out_high = r->high;
      return r->id;
    }
    low = r->high;
  }
  *out_low = low;
  *out_high = a->base + a->size;
  return a->range;
}

// Bits [from, from + count) of a byte, set or cleared. Another thread may be at the byte's other bits.
static void change_bits(uint8_t *byte, unsigned from, unsigned count, bool set) {
  uint8_t bits = (uint8_t)(((1u << count) - 1u) << from);
  if (set) {
    if ((__atomic_load_n(byte, __ATOMIC_RELAXED) & bits) != bits) __atomic_fetch_or(byte, bits, __ATOMIC_RELAXED);
  } else {
    __atomic_fetch_and(byte, (uint8_t)~bits, __ATOMIC_RELAXED);
  }
}

static void change(ps_allocation *a, uint64_t offset, uint64_t size, bool set) {
  if (a->written == NULL || size == 0) return;
  uint64_t first = offset / 8, end = (offset + size) / 8;
  unsigned head = (unsigned)(offset % 8), tail = (unsigned)((offset + size) % 8);
  if (first == end) {
    change_bits(&a->written[first], head, (unsigned)size, set);
    return;
  }
  if (head > 0) change_bits(&a->written[first++], head, 8 - head, set);
  if (end > first) memset(a->written + first, set ? 0xff : 0, end - first);
  if (tail > 0) change_bits(&a->written[end], 0, tail, set);
}

void ps_mark_written(ps_allocation *a, uint64_t offset, uint64_t size) { change(a, offset, size, true); }
void ps_mark_unwritten(ps_allocation *a, uint64_t offset, uint64_t size) { change(a, offset, size, false); }

uint64_t ps_first_unwritten(const ps_allocation *a, uint64_t offset, uint64_t size) {
  if (a->written == NULL) return size;
  uint64_t i = offset, end = offset + size;
  while (i < end) {
    uint64_t word;
    if (i % 64 == 0 && end - i >= 64) {
      memcpy(&word, a->written + i / 8, sizeof word);
      if (word == UINT64_MAX) {
        i += 64;
        continue;
      }
    }
    uint64_t in_byte = 8 - i % 8, n = in_byte < end - i ? in_byte : end - i;
    unsigned bits = ((1u << n) - 1u) << (i % 8);
    unsigned missing = bits & ~(unsigned)a->written[i / 8];
    if (missing != 0) return i / 8 * 8 + (unsigned)__builtin_ctz(missing) - offset;
    i += n;
  }
  return size;
}

void ps_memory_describe(const ps_memory *m, uint64_t address, uint64_t size, char *out, size_t out_size) {
  const ps_allocation *a = ps_memory_at(m, address);
  unsigned long long at = address;
  if (a == NULL) {
    snprintf(out, out_size, "0x%llx is no address of this device", at);
  } else if (a->freed) {
    snprintf(out, out_size, "0x%llx is %llu bytes into the freed '%s' (%llu bytes)", at, at - a->base,
             m->ranges.items[a->range].name, (unsigned long long)a->size);
  } else if (address < a->base + a->size) {
    snprintf(out, out_size, "0x%llx is %llu bytes into '%s', which ends %llu bytes on; want %llu", at, at - a->base,
             m->ranges.items[a->range].name, (unsigned long long)(a->base + a->size - address),
             (unsigned long long)size);
  } else {
    snprintf(out, out_size, "0x%llx is %llu bytes behind the end of '%s' (%llu bytes)", at,
             (unsigned long long)(address - a->base - a->size), m->ranges.items[a->range].name,
             (unsigned long long)a->size);
  }
}
