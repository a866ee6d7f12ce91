// NVRTC by dlopen.
#include "tests/ptxsim/support_nvrtc.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct program *nvrtc_program;
static struct {
  int (*create)(nvrtc_program *, const char *, const char *, int, const char *const *, const char *const *);
  int (*compile)(nvrtc_program, int, const char *const *);
  int (*log_size)(nvrtc_program, size_t *);
  int (*log)(nvrtc_program, char *);
  int (*ptx_size)(nvrtc_program, size_t *);
  int (*ptx)(nvrtc_program, char *);
  int (*cubin_size)(nvrtc_program, size_t *);
  int (*cubin)(nvrtc_program, char *);
  int (*destroy)(nvrtc_program *);
  char include[512];
} nvrtc;

static void *open_below(const char *toolkit) {
  static const char *const names[] = {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"};
  for (size_t k = 0; toolkit != NULL && k < sizeof names / sizeof names[0]; k++) {
    char path[512];
    snprintf(path, sizeof path, "%s/lib64/%s", toolkit, names[k]);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) continue;
    snprintf(nvrtc.include, sizeof nvrtc.include, "-I%s/include", toolkit);
    return library;
  }
  return NULL;
}

static bool bind(void *library, const char *name, void *out) {
  void *address = dlsym(library, name);
  memcpy(out, &address, sizeof address);
  return address != NULL;
}

bool nvrtc_open(const char **out_reason) {
  const char *const toolkits[] = {getenv("CUDA_HOME"), getenv("CUDA_PATH"), "/usr/local/cuda"};
  *out_reason = "NVRTC is not here (CUDA toolkit; set CUDA_HOME to its folder)";
  if (nvrtc.create != NULL) return true;
  void *library = NULL;
  for (size_t k = 0; k < 3 && library == NULL; k++) library = open_below(toolkits[k]);
  if (library == NULL) return false;
  bool ok = bind(library, "nvrtcCompileProgram", &nvrtc.compile) &&
            bind(library, "nvrtcGetProgramLogSize", &nvrtc.log_size) &&
            bind(library, "nvrtcGetProgramLog", &nvrtc.log) && bind(library, "nvrtcGetPTXSize", &nvrtc.ptx_size) &&
            bind(library, "nvrtcGetPTX", &nvrtc.ptx) && bind(library, "nvrtcGetCUBINSize", &nvrtc.cubin_size) &&
            bind(library, "nvrtcGetCUBIN", &nvrtc.cubin) && bind(library, "nvrtcDestroyProgram", &nvrtc.destroy) &&
            bind(library, "nvrtcCreateProgram", &nvrtc.create);
  if (!ok) *out_reason = "NVRTC lacks a function";
  return ok;
}

const char *nvrtc_ptx(const char *source, const char *target, const void **out_cubin, size_t *out_cubin_bytes) {
  char arch[64];
  snprintf(arch, sizeof arch, "--gpu-architecture=%s", target);
  const char *const options[] = {arch, "--std=c++17", "-default-device", nvrtc.include};
  nvrtc_program p;
  size_t size = 0;
  if (nvrtc.create(&p, source, "test.cu", 0, NULL, NULL) != 0) return NULL;
  if (nvrtc.compile(p, 4, options) != 0) {
    nvrtc.log_size(p, &size);
    char *log = calloc(size + 1, 1);
    if (log != NULL && nvrtc.log(p, log) == 0) fprintf(stderr, "%s\n", log);
    free(log);
    nvrtc.destroy(&p);
    return NULL;
  }
  nvrtc.ptx_size(p, &size);
  char *text = calloc(size + 1, 1);
  if (text == NULL || nvrtc.ptx(p, text) != 0) return NULL;
  if (out_cubin != NULL) {
    nvrtc.cubin_size(p, out_cubin_bytes);
    char *cubin = malloc(*out_cubin_bytes);
    if (cubin == NULL || nvrtc.cubin(p, cubin) != 0) return NULL;
    *out_cubin = cubin;
  }
  nvrtc.destroy(&p);
  return text;
}
