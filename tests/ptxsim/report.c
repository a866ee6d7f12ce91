// Counters by kernel and range, as numbers and as a table, and the rest of ptxsim.h.
#include <stdio.h>

#include "tests/ptxsim/driver.h"
#include "tests/ptxsim/form.h"

_Static_assert(PS_CLASS_COUNT <= PTXSIM_CLASS_MAX, "ps_counters has too few classes");

static const char *const class_names[] = {
#define PS_CLASS(name, meaning) #name,
    PS_CLASSES(PS_CLASS)
#undef PS_CLASS
};

static void lock(void) {
  pthread_mutex_lock(&ps_the_driver.lock);
  ps_options_load(&ps_the_driver);
}
static void unlock(void) { pthread_mutex_unlock(&ps_the_driver.lock); }

int ptxsim_set(const char *option, const char *value) {
  lock();
  int r = ps_option_set(&ps_the_driver, option, value);
  unlock();
  return r;
}

const char *ptxsim_error(void) { return ps_the_driver.error; }

static void kernel_clear(ps_kernel_stats *k) {
  qn_free(qn_allocator_default(), k->name, strlen(k->name) + 1);
  qn_vec_free(qn_allocator_default(), &k->traffic);
}

void ps_stats_clear(void) {
  for (size_t k = 0; k < ps_the_driver.kernels.count; k++) kernel_clear(&ps_the_driver.kernels.items[k]);
  qn_vec_free(qn_allocator_default(), &ps_the_driver.kernels);
}

ps_kernel_stats *ps_stats_of(const char *name) {
  ps_driver *d = &ps_the_driver;
  const qn_allocator *a = qn_allocator_default();
  ps_kernel_stats *found = NULL;
  for (size_t k = 0; k < d->kernels.count && found == NULL; k++) {
    if (strcmp(d->kernels.items[k].name, name) == 0) found = &d->kernels.items[k];
  }
  if (found == NULL) {
    ps_kernel_stats made = {.name = qn_alloc(a, strlen(name) + 1)};
    if (made.name == NULL) return NULL;
    strcpy(made.name, name);
    if (!qn_vec_push(a, &d->kernels, made)) return NULL;
    found = &d->kernels.items[d->kernels.count - 1];
  }
  while (found->traffic.count < d->memory.ranges.count) {
    if (!qn_vec_push(a, &found->traffic, (ps_traffic){0})) return NULL;
  }
  return found;
}

void ptxsim_counters_reset(void) {
  lock();
  ps_stats_clear();
  ps_the_driver.counts = (ps_driver_counts){0};
  unlock();
}

void ptxsim_reset(void) {
  lock();
  ps_driver *d = &ps_the_driver;
  for (size_t k = 0; k < d->queue.count; k++) ps_op_deinit(&d->queue.items[k]);
  qn_vec_free(qn_allocator_default(), &d->queue);
  while (d->modules.count > 0) ps_module_destroy(d->modules.items[d->modules.count - 1]);
  qn_vec_free(qn_allocator_default(), &d->modules);
  for (size_t k = 0; k < d->streams.count; k++) {
    qn_free(qn_allocator_default(), d->streams.items[k], sizeof *d->streams.items[k]);
  }
  qn_vec_free(qn_allocator_default(), &d->streams);
  ps_memory_deinit(&d->memory);
  ps_stats_clear();
  ps_provided_clear();
  for (int k = 0; k < PS_MAX_DEVICES; k++) {
    d->devices[k].used_bytes = 0;
    d->primary[k] = (struct CUctx_st){0};
  }
  d->counts = (ps_driver_counts){0};
  d->sticky = CUDA_SUCCESS;
  d->initialised = false;
  d->grid_id = 0;
  d->error[0] = '\0';
  ps_current = NULL;
  unlock();
}

int ptxsim_label(uint64_t address, size_t size_bytes, const char *name) {
  lock();
  bool ok = ps_memory_label(&ps_the_driver.memory, address, size_bytes, name);
  if (!ok) {
    ps_error(CUDA_ERROR_INVALID_VALUE, "ptxsim_label '%s': the bytes are not allocated, or have a name already", name);
  }
  unlock();
  return ok ? 0 : -1;
}

size_t ptxsim_kernel_count(void) { return ps_the_driver.kernels.count; }
const char *ptxsim_kernel_name(size_t k) {
  return k < ps_the_driver.kernels.count ? ps_the_driver.kernels.items[k].name : NULL;
}
int ptxsim_kernel_counters(size_t k, ps_counters *out) {
  if (k >= ps_the_driver.kernels.count) return -1;
  *out = ps_the_driver.kernels.items[k].counters;
  return 0;
}
const char *ptxsim_class_name(size_t k) { return k < PS_CLASS_COUNT ? class_names[k] : NULL; }
size_t ptxsim_range_count(void) { return ps_the_driver.memory.ranges.count; }
const char *ptxsim_range_name(size_t r) {
  return r < ps_the_driver.memory.ranges.count ? ps_the_driver.memory.ranges.items[r].name : NULL;
}
uint64_t ptxsim_range_bytes(size_t r) {
  return r < ps_the_driver.memory.ranges.count ? ps_the_driver.memory.ranges.items[r].bytes : 0;
}
int ptxsim_kernel_traffic(size_t k, size_t range, ps_traffic *out) {
  if (k >= ps_the_driver.kernels.count || range >= ps_the_driver.memory.ranges.count) return -1;
  const ps_kernel_stats *s = &ps_the_driver.kernels.items[k];
  *out = range < s->traffic.count ? s->traffic.items[range] : (ps_traffic){0};
  return 0;
}
void ptxsim_driver_counters(ps_driver_counts *out) { *out = ps_the_driver.counts; }

// ---- tables for people ----

static double ratio(uint64_t a, uint64_t b) { return b > 0 ? (double)a / (double)b : 0; }

static void report_kernel(qn_buf *out, const ps_kernel_stats *s) {
  const ps_counters *c = &s->counters;
  qn_buf_printf(out, "%s: %llu launches, %llu blocks, %llu instructions of warps, %.1f lanes each\n", s->name,
                (unsigned long long)c->launches, (unsigned long long)c->blocks, (unsigned long long)c->instructions,
                ratio(c->lane_instructions, c->instructions));
  for (int k = 0; k < PS_CLASS_COUNT; k++) {
    if (c->by_class[k] > 0) qn_buf_printf(out, "  %s %llu", class_names[k], (unsigned long long)c->by_class[k]);
  }
  qn_buf_printf(out,
                "\n  loads %llu bytes asked for, %llu moved (%.3f); stores %llu, %llu (%.3f); atomics %llu sectors\n",
                (unsigned long long)c->load_bytes, (unsigned long long)c->load_sectors * 32,
                ratio(c->load_sectors * 32, c->load_bytes), (unsigned long long)c->store_bytes,
                (unsigned long long)c->store_sectors * 32, ratio(c->store_sectors * 32, c->store_bytes),
                (unsigned long long)c->atomic_sectors);
  qn_buf_printf(out,
                "  shared memory: %llu requests, %llu wavefronts (%.3f of the least); tensor operations %llu; waits at "
                "barriers %llu\n",
                (unsigned long long)c->shared_requests, (unsigned long long)c->shared_wavefronts,
                ratio(c->shared_wavefronts, c->shared_wavefronts_least), (unsigned long long)c->tensor_operations,
                (unsigned long long)c->block_barriers);
  for (size_t r = 0; r < s->traffic.count; r++) {
    const ps_traffic *t = &s->traffic.items[r];
    if (t->load_requests + t->store_requests == 0) continue;
    qn_buf_printf(out, "    %s (%llu bytes): loads %llu asked for, %llu moved; stores %llu, %llu\n",
                  ps_the_driver.memory.ranges.items[r].name,
                  (unsigned long long)ps_the_driver.memory.ranges.items[r].bytes, (unsigned long long)t->load_bytes,
                  (unsigned long long)t->load_sectors * 32, (unsigned long long)t->store_bytes,
                  (unsigned long long)t->store_sectors * 32);
  }
}

static size_t copy_out(qn_buf *text, char *out, size_t size) {
  size_t n = text->length;
  if (size > 0) {
    size_t take = n < size - 1 ? n : size - 1;
    memcpy(out, qn_buf_text(text), take);
    out[take] = '\0';
  }
  qn_buf_deinit(text);
  return n;
}

size_t ptxsim_report(char *out, size_t size) {
  lock();
  qn_buf text;
  qn_buf_init(&text, qn_allocator_default());
  for (size_t k = 0; k < ps_the_driver.kernels.count; k++) report_kernel(&text, &ps_the_driver.kernels.items[k]);
  const ps_driver_counts *c = &ps_the_driver.counts;
  qn_buf_printf(&text,
                "driver: %llu launches of kernels, %llu of graphs (%llu nodes), %llu synchronisations, %llu bytes to "
                "devices, %llu back\n",
                (unsigned long long)c->kernel_launches, (unsigned long long)c->graph_launches,
                (unsigned long long)c->graph_nodes, (unsigned long long)c->synchronisations,
                (unsigned long long)c->host_to_device_bytes, (unsigned long long)c->device_to_host_bytes);
  unlock();
  return copy_out(&text, out, size);
}

size_t ptxsim_opcodes(char *out, size_t size) {
  qn_buf text;
  qn_buf_init(&text, qn_allocator_default());
  for (size_t k = 0; k < ps_opcode_count; k++) {
    const ps_opcode *o = &ps_opcodes[k];
    qn_buf_printf(&text, "%s\t%s\t%s\t%s\t%s\n", o->root, o->modifiers, o->operands, class_names[o->klass], o->meaning);
  }
  return copy_out(&text, out, size);
}
