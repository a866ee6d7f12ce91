// Loads the CPU code generator, a library of its own (libquern_llvm.so: codegen/cpu over LLVM and MLIR), when something
// is compiled for the first time. A program that only runs artifacts never pays for it: LLVM takes 80 MB of memory and
// 20 ms of CPU time before main. The functions here have the names of those in the library, and call them.
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "codegen/codegen.h"
#include "codegen/cpu/host.h"
#include "codegen/object_file.h"

#define LIBRARY "libquern_llvm.so"  // beside the program, or where the system looks for libraries

// Typed like the functions that this file defines.
static struct generator {
  __typeof__(&qn_cpu_compile) compile;
  __typeof__(&qn_cpu_driver) driver;
  __typeof__(&qn_jit_create) jit_create;
  __typeof__(&qn_jit_kernel) jit_kernel;
  __typeof__(&qn_jit_destroy) jit_destroy;
  __typeof__(&qn_host_features) host_features;
  __typeof__(&qn_host_features_free) host_features_free;
  __typeof__(&qn_host_cpu) host_cpu;
} generator;
static char failure[512];  // why it is not there; "" = it is

static bool find(void *library, const char *name, void *out) {
  void *address = dlsym(library, name);
  if (!address) snprintf(failure, sizeof failure, "%s has no function %s", LIBRARY, name);
  memcpy(out, &address, sizeof address);  // ISO C has no cast from an object's address to a function's
  return address != NULL;
}

// It stays loaded until the process ends: LLVM cannot be unloaded.
static void load(void) {
  void *library = dlopen(LIBRARY, RTLD_LAZY | RTLD_LOCAL);
  if (!library) {
    const char *why = dlerror();
    snprintf(failure, sizeof failure, "%s", why ? why : LIBRARY);
    return;
  }
  bool found = find(library, "qn_cpu_compile", &generator.compile) &&
               find(library, "qn_cpu_driver", &generator.driver) &&
               find(library, "qn_jit_create", &generator.jit_create) &&
               find(library, "qn_jit_kernel", &generator.jit_kernel) &&
               find(library, "qn_jit_destroy", &generator.jit_destroy) &&
               find(library, "qn_host_features", &generator.host_features) &&
               find(library, "qn_host_features_free", &generator.host_features_free) &&
               find(library, "qn_host_cpu", &generator.host_cpu);
  if (!found) dlclose(library);
}

static bool loaded(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, load);
  return failure[0] == '\0';
}

static qn_status need_generator(qn_diag *diag) {
  if (loaded()) return QN_OK;
  return qn_fail(diag, QN_ERR_IO, "code generator", "cannot be loaded: %s; %s belongs beside the program", failure,
                 LIBRARY);
}

qn_status qn_cpu_compile(const qn_lkernel *const *kernels, size_t count, const qn_codegen_options *options,
                         const qn_allocator *allocator, qn_code *out, qn_diag *diag) {
  *out = (qn_code){0};
  QN_TRY(need_generator(diag));
  return generator.compile(kernels, count, options, allocator, out, diag);
}

qn_status qn_cpu_driver(const qn_driver *driver, const qn_codegen_options *options, const qn_allocator *allocator,
                        uint8_t **out, size_t *out_size, qn_diag *diag) {
  *out = NULL;
  QN_TRY(need_generator(diag));
  return generator.driver(driver, options, allocator, out, out_size, diag);
}

qn_status qn_jit_create(const qn_lkernel *const *kernels, size_t count, const qn_codegen_options *options,
                        const qn_allocator *allocator, qn_jit **out, qn_diag *diag) {
  *out = NULL;
  QN_TRY(need_generator(diag));
  return generator.jit_create(kernels, count, options, allocator, out, diag);
}

// Of a JIT that was created, so the library is there.
qn_kernel_fn qn_jit_kernel(const qn_jit *jit, size_t index) { return generator.jit_kernel(jit, index); }

void qn_jit_destroy(qn_jit *jit) {
  if (jit) generator.jit_destroy(jit);
}

qn_status qn_host_check(qn_diag *diag) { return need_generator(diag); }

char *qn_host_features(void) { return loaded() ? generator.host_features() : NULL; }

char *qn_host_cpu(void) { return loaded() ? generator.host_cpu() : NULL; }

void qn_host_features_free(char *features) {
  if (features) generator.host_features_free(features);
}
