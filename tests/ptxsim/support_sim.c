// The simulator's library for its tests.
#include "tests/ptxsim/support_sim.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

sim_table sim;

// Where a real driver takes the simulator's place: nothing is set, counted or labelled.
static int no_option(const char *option, const char *value) {
  (void)option, (void)value;
  return 0;
}
static int no_label(uint64_t at, size_t size, const char *name) {
  (void)at, (void)size, (void)name;
  return 0;
}
static const char *no_text(void) { return "see the driver's number"; }
static void nothing(void) {}
static size_t none(void) { return 0; }

static const char *real_driver(void) {
  const char *path = getenv("QUERN_TEST_LIBCUDA");
  return path && *path && strcmp(path, PTXSIM_LIBRARY) != 0 ? path : NULL;
}

bool sim_is_real(void) { return real_driver() != NULL; }

static void leave_out_simulation(void) {
  sim.set = no_option;
  sim.error = no_text;
  sim.reset = sim.counters_reset = nothing;
  sim.label = no_label;
  sim.kernel_count = sim.range_count = none;
}

void sim_open(void) {
  if (sim.init != NULL) return;
  const char *other = getenv("QUERN_TEST_PTXSIM"), *path = other ? other : PTXSIM_LIBRARY;
  if (real_driver()) path = real_driver();
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    abort();
  }
#define SIM_LOAD(result, name, symbol, parameters)                \
  {                                                               \
    void *address = dlsym(library, #symbol);                      \
    bool simulated = strncmp(#symbol, "ptxsim_", 7) == 0;         \
    if (address == NULL && !(simulated && real_driver())) {       \
      fprintf(stderr, "%s has no %s\n", path, #symbol);           \
      abort();                                                    \
    }                                                             \
    memcpy(&sim.name, &address, sizeof address);                  \
  }
  SIM_CALLS(SIM_LOAD)
#undef SIM_LOAD
  if (real_driver()) leave_out_simulation();
}

void sim_set(const char *option, const char *value) { ck_assert_msg(sim.set(option, value) == 0, "%s", sim.error()); }

void sim_start(const char *device) {
  CUcontext context;
  sim_open();
  sim.reset();
  sim_set("devices", device);
  sim_ok(sim.init(0));
  sim_ok(sim.retain(&context, 0));
  sim_ok(sim.set_current(context));
}

CUdeviceptr sim_upload(const void *bytes, size_t size) {
  CUdeviceptr p;
  sim_ok(sim.alloc(&p, size));
  if (bytes != NULL) sim_ok(sim.to_device(p, bytes, size));
  return p;
}

void sim_download(void *out, CUdeviceptr from, size_t size) { sim_ok(sim.to_host(out, from, size)); }

CUfunction sim_kernel(const char *ptx, const char *name) {
  CUmodule module;
  CUfunction function;
  sim_ok(sim.load(&module, ptx));
  sim_ok(sim.function(&function, module, name));
  return function;
}

const char *sim_module(const char *target, const char *parameters, const char *body) {
  static char text[1 << 16];
  int n = snprintf(text, sizeof text, ".version 8.0\n.target %s\n.address_size 64\n.visible .entry k(%s) {\n%s\n}\n",
                   target, parameters, body);
  ck_assert_msg(n > 0 && (size_t)n < sizeof text, "the module is too long");
  return text;
}

CUresult sim_run(CUfunction f, unsigned blocks, unsigned threads, unsigned shared_bytes, void **params) {
  CUresult r = sim.launch(f, blocks, 1, 1, threads, 1, 1, shared_bytes, NULL, params, NULL);
  return r == CUDA_SUCCESS ? sim.synchronize() : r;
}

ps_counters sim_counters(const char *kernel) {
  ps_counters c = {0};
  for (size_t k = 0; k < sim.kernel_count(); k++) {
    if (strcmp(sim.kernel_name(k), kernel) == 0) sim.kernel_counters(k, &c);
  }
  return c;
}

ps_traffic sim_traffic(const char *kernel, const char *range) {
  ps_traffic t = {0};
  for (size_t k = 0; k < sim.kernel_count(); k++) {
    if (strcmp(sim.kernel_name(k), kernel) != 0) continue;
    for (size_t r = 0; r < sim.range_count(); r++) {
      if (strcmp(sim.range_name(r), range) == 0) sim.kernel_traffic(k, r, &t);
    }
  }
  return t;
}
