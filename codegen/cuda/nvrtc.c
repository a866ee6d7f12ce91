// NVRTC by dlopen, through a table of the symbols that are used.
#include "codegen/cuda/nvrtc.h"

#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base/hash.h"
#include "runtime/base/str.h"

// The library's interface, as far as it is used (NVRTC's guide, "User Interface"). Results are 0 for success.
typedef struct nvrtc_program *program_handle;
enum { RESULT_OK = 0, RESULT_NO_MEMORY = 1, RESULT_COMPILATION = 6 };

struct qn_nvrtc {
  const qn_allocator *allocator;  // borrowed
  char include[512];              // "-I<folder>", or "" where there is none
  bool ptx_alone;
  int major, minor;
  int *archs;  // owned: supported capabilities
  int arch_count;
  struct {
    int (*version)(int *, int *);
    const char *(*error_text)(int);
    int (*arch_count)(int *);
    int (*archs)(int *);
    int (*create)(program_handle *, const char *, const char *, int, const char *const *, const char *const *);
    int (*compile)(program_handle, int, const char *const *);
    int (*destroy)(program_handle *);
    int (*log_size)(program_handle, size_t *);
    int (*log)(program_handle, char *);
    int (*ptx_size)(program_handle, size_t *);
    int (*ptx)(program_handle, char *);
    int (*cubin_size)(program_handle, size_t *);
    int (*cubin)(program_handle, char *);
  } call;
};

// Symbol by symbol: name and place in `call`.
static const struct {
  const char *name;
  size_t offset;
} SYMBOLS[] = {
    {"nvrtcVersion", offsetof(qn_nvrtc, call.version)},
    {"nvrtcGetErrorString", offsetof(qn_nvrtc, call.error_text)},
    {"nvrtcGetNumSupportedArchs", offsetof(qn_nvrtc, call.arch_count)},
    {"nvrtcGetSupportedArchs", offsetof(qn_nvrtc, call.archs)},
    {"nvrtcCreateProgram", offsetof(qn_nvrtc, call.create)},
    {"nvrtcCompileProgram", offsetof(qn_nvrtc, call.compile)},
    {"nvrtcDestroyProgram", offsetof(qn_nvrtc, call.destroy)},
    {"nvrtcGetProgramLogSize", offsetof(qn_nvrtc, call.log_size)},
    {"nvrtcGetProgramLog", offsetof(qn_nvrtc, call.log)},
    {"nvrtcGetPTXSize", offsetof(qn_nvrtc, call.ptx_size)},
    {"nvrtcGetPTX", offsetof(qn_nvrtc, call.ptx)},
    {"nvrtcGetCUBINSize", offsetof(qn_nvrtc, call.cubin_size)},
    {"nvrtcGetCUBIN", offsetof(qn_nvrtc, call.cubin)},
};

// ---- finding it -------------------------------------------------------------------------------------------------

static const char *const SONAMES[] = {"libnvrtc.so.13", "libnvrtc.so.12"};

// Tries both names in a folder ("" = where the system looks); *tried grows by the folder.
static void *load_from(const char *folder, qn_buf *tried) {
  void *library = NULL;
  for (size_t i = 0; i < QN_COUNT(SONAMES) && !library; i++) {
    char path[512];
    snprintf(path, sizeof path, "%s%s%s", folder, *folder ? "/" : "", SONAMES[i]);
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  }
  if (!library) qn_buf_printf(tried, "%s%s", tried->length ? ", " : "", *folder ? folder : "the system's folders");
  return library;
}

static void *load_from_toolkit(const char *root, qn_buf *tried) {
  static const char *const folders[] = {"lib64", "lib"};
  void *library = NULL;
  for (size_t i = 0; root && *root && i < QN_COUNT(folders) && !library; i++) {
    char folder[448];
    snprintf(folder, sizeof folder, "%s/%s", root, folders[i]);
    library = load_from(folder, tried);
  }
  return library;
}

static void *load_library(const char *path, qn_buf *tried) {
  if (!path || !*path) path = getenv(QN_NVRTC_LIBRARY_VARIABLE);
  if (path && *path) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const char *why = library ? NULL : dlerror();
    if (why) qn_buf_puts(tried, why);
    return library;
  }
  void *library = load_from("", tried);
  if (!library) library = load_from_toolkit(getenv("CUDA_PATH"), tried);
  if (!library) library = load_from_toolkit(getenv("CUDA_HOME"), tried);
  if (!library) library = load_from_toolkit("/usr/local/cuda", tried);
  return library;
}

// include/ beside lib/ or lib64/ of the loaded library, where there is one with headers.
static void find_include(qn_nvrtc *nvrtc, const char *folder) {
  char path[480] = "", probe[512];
  Dl_info info;
  if (folder) {
    snprintf(nvrtc->include, sizeof nvrtc->include, "-I%s", folder);
    return;
  }
  if (!dladdr((const void *)(uintptr_t)nvrtc->call.version, &info) || !info.dli_fname) return;
  snprintf(path, sizeof path, "%s", info.dli_fname);
  for (int up = 0; up < 2; up++) {  // the file's name, its folder
    char *slash = strrchr(path, '/');
    if (!slash) return;
    *slash = '\0';
  }
  snprintf(probe, sizeof probe, "%s/include/cuda_fp16.h", path);
  if (access(probe, R_OK) == 0) snprintf(nvrtc->include, sizeof nvrtc->include, "-I%s/include", path);
}

static qn_status bind_symbols(qn_nvrtc *nvrtc, void *library, qn_diag *diag) {
  for (size_t i = 0; i < QN_COUNT(SYMBOLS); i++) {
    void *address = dlsym(library, SYMBOLS[i].name);
    if (!address)
      return qn_fail(diag, QN_ERR_TARGET, "NVRTC", "the library has no function %s: want NVRTC of CUDA 12 or 13",
                     SYMBOLS[i].name);
    memcpy((char *)nvrtc + SYMBOLS[i].offset, &address, sizeof address);
  }
  return QN_OK;
}

static qn_status call_failed(const qn_nvrtc *nvrtc, const char *where, const char *what, int result, qn_diag *diag) {
  if (result == RESULT_NO_MEMORY) return qn_fail_nomem(diag, where, what);
  return qn_fail(diag, QN_ERR_INTERNAL, where, "NVRTC failed at %s: %s", what, nvrtc->call.error_text(result));
}

static qn_status ask_what_it_is(qn_nvrtc *nvrtc, qn_diag *diag) {
  int result = nvrtc->call.version(&nvrtc->major, &nvrtc->minor);
  if (result == RESULT_OK) result = nvrtc->call.arch_count(&nvrtc->arch_count);
  if (result != RESULT_OK) return call_failed(nvrtc, "NVRTC", "its version", result, diag);
  nvrtc->archs = qn_alloc_zeroed(nvrtc->allocator, (size_t)nvrtc->arch_count * sizeof(int));
  if (!nvrtc->archs) return qn_fail_nomem(diag, "NVRTC", "the list of chips");
  result = nvrtc->call.archs(nvrtc->archs);
  return result == RESULT_OK ? QN_OK : call_failed(nvrtc, "NVRTC", "the list of chips", result, diag);
}

qn_status qn_nvrtc_open(const qn_nvrtc_options *options, const qn_allocator *allocator, qn_nvrtc **out, qn_diag *diag) {
  qn_buf tried;
  qn_buf_init(&tried, allocator);
  void *library = load_library(options ? options->library : NULL, &tried);
  qn_status status = QN_OK;
  if (!library) {
    status = qn_fail(diag, QN_ERR_TARGET, "NVRTC",
                     "cannot be loaded (looked at: %s): CUDA targets need libnvrtc.so of CUDA 12 or 13; install the "
                     "toolkit or set " QN_NVRTC_LIBRARY_VARIABLE " to the library's path",
                     qn_buf_text(&tried));
  }
  qn_buf_deinit(&tried);
  QN_TRY(status);
  qn_nvrtc *nvrtc = qn_alloc_zeroed(allocator, sizeof *nvrtc);
  if (!nvrtc) return qn_fail_nomem(diag, "NVRTC", "its functions");
  nvrtc->allocator = allocator;
  status = bind_symbols(nvrtc, library, diag);
  if (status == QN_OK) status = ask_what_it_is(nvrtc, diag);
  if (status != QN_OK) {
    qn_nvrtc_close(nvrtc);
    return status;
  }
  find_include(nvrtc, options ? options->include : NULL);
  nvrtc->ptx_alone = options && options->ptx_alone;
  *out = nvrtc;
  return QN_OK;
}

void qn_nvrtc_close(qn_nvrtc *nvrtc) {
  if (!nvrtc) return;
  qn_free(nvrtc->allocator, nvrtc->archs, (size_t)nvrtc->arch_count * sizeof(int));
  qn_free(nvrtc->allocator, nvrtc, sizeof *nvrtc);
}

void qn_nvrtc_version(const qn_nvrtc *nvrtc, int *out_major, int *out_minor) {
  *out_major = nvrtc->major;
  *out_minor = nvrtc->minor;
}

bool qn_nvrtc_supports(const qn_nvrtc *nvrtc, int sm) {
  for (int i = 0; i < nvrtc->arch_count; i++)
    if (nvrtc->archs[i] == sm) return true;
  return false;
}

// ---- compiling --------------------------------------------------------------------------------------------------

// One of the program's results: its size, then its bytes.
static qn_status take(const qn_nvrtc *nvrtc, program_handle program, int (*size_of)(program_handle, size_t *),
                      int (*get)(program_handle, char *), const char *where, const char *what, void *out_data,
                      size_t *out_size, qn_diag *diag) {
  size_t size = 0;
  int result = size_of(program, &size);
  if (result != RESULT_OK) return call_failed(nvrtc, where, what, result, diag);
  char *data = qn_alloc_zeroed(nvrtc->allocator, size + 1);
  if (!data) return qn_fail_nomem(diag, where, what);
  memcpy(out_data, &data, sizeof data);
  *out_size = size;
  result = get(program, data);
  return result == RESULT_OK ? QN_OK : call_failed(nvrtc, where, what, result, diag);
}

static qn_status unknown_chip(const qn_nvrtc *nvrtc, const char *name, int sm, qn_diag *diag) {
  char known[256] = "";
  for (int i = 0; i < nvrtc->arch_count; i++) {
    size_t used = strlen(known);
    snprintf(known + used, sizeof known - used, "%s%d", used ? ", " : "", nvrtc->archs[i]);
  }
  return qn_fail(diag, QN_ERR_UNSUPPORTED, name, "NVRTC %d.%d makes no code for sm_%d; it knows %s", nvrtc->major,
                 nvrtc->minor, sm, known);
}

enum { MAX_OPTIONS = 16 };

// Fills in the options of a compilation and gives their number; `arch` is the text of one of them.
static int list_options(const qn_nvrtc *nvrtc, int sm, char arch[40], const char *out[MAX_OPTIONS]) {
  static const char *const fixed[] = {"--std=c++17",
                                      "-default-device",
                                      "-diag-suppress=177",  // a function of the prelude that no kernel calls
                                      "--fmad=false",
                                      "--ftz=false",
                                      "--prec-div=true",
                                      "--prec-sqrt=true",
                                      "--ptxas-options=-v",
                                      "--ptxas-options=--warn-on-spills"};
  _Static_assert(QN_COUNT(fixed) + 2 <= MAX_OPTIONS, "they fit");
  int count = 0;
  size_t of_machine_code = nvrtc->ptx_alone ? 2 : 0;  // the last ones
  snprintf(arch, 40, "--gpu-architecture=%s_%d", nvrtc->ptx_alone ? "compute" : "sm", sm);
  out[count++] = arch;
  for (size_t i = 0; i + of_machine_code < QN_COUNT(fixed); i++) out[count++] = fixed[i];
  if (nvrtc->include[0]) out[count++] = nvrtc->include;
  return count;
}

// An update that keeps the version changes the library's size or its time.
static void hash_library(const qn_nvrtc *nvrtc, qn_hasher *hasher) {
  int64_t numbers[] = {nvrtc->major, nvrtc->minor, 0, 0, 0};
  Dl_info info = {0};
  struct stat file;
  dladdr((const void *)(uintptr_t)nvrtc->call.version, &info);
  if (info.dli_fname && stat(info.dli_fname, &file) == 0) {
    numbers[2] = file.st_size;
    numbers[3] = file.st_mtim.tv_sec;
    numbers[4] = file.st_mtim.tv_nsec;
  }
  qn_hasher_update(hasher, numbers, sizeof numbers);
}

void qn_nvrtc_key(const qn_nvrtc *nvrtc, const char *source, int sm, uint64_t out_key[2]) {
  char arch[40];
  const char *options[MAX_OPTIONS];
  int count = list_options(nvrtc, sm, arch, options);
  for (uint64_t i = 0; i < 2; i++) {
    qn_hasher hasher;
    qn_hasher_init(&hasher, i);
    hash_library(nvrtc, &hasher);
    for (int o = 0; o < count; o++) qn_hasher_update(&hasher, options[o], strlen(options[o]) + 1);
    qn_hasher_update(&hasher, source, strlen(source));
    out_key[i] = qn_hasher_final(&hasher);
  }
}

const qn_allocator *qn_nvrtc_allocator(const qn_nvrtc *nvrtc) { return nvrtc->allocator; }

static qn_status compile_program(const qn_nvrtc *nvrtc, program_handle program, const char *name, int sm,
                                 qn_nvrtc_code *out, qn_diag *diag) {
  char arch[40];
  const char *options[MAX_OPTIONS];
  int count = list_options(nvrtc, sm, arch, options);
  int result = nvrtc->call.compile(program, count, options);
  if (result != RESULT_OK && result != RESULT_COMPILATION) return call_failed(nvrtc, name, "compiling", result, diag);
  QN_TRY(take(nvrtc, program, nvrtc->call.log_size, nvrtc->call.log, name, "the log", &out->log, &out->log_size, diag));
  if (result == RESULT_COMPILATION && strstr(out->log, "cannot open source file"))
    return qn_fail(diag, QN_ERR_INTERNAL, name, "a header is missing; they are looked for in %s: %.700s",
                   nvrtc->include[0] ? nvrtc->include + strlen("-I") : "no folder, since none was found beside NVRTC",
                   out->log);
  if (result == RESULT_COMPILATION)
    return qn_fail(diag, QN_ERR_INTERNAL, name, "NVRTC %d.%d for sm_%d refuses the source: %.700s", nvrtc->major,
                   nvrtc->minor, sm, out->log);
  QN_TRY(take(nvrtc, program, nvrtc->call.ptx_size, nvrtc->call.ptx, name, "the PTX", &out->ptx, &out->ptx_size, diag));
  if (nvrtc->ptx_alone) return QN_OK;
  return take(nvrtc, program, nvrtc->call.cubin_size, nvrtc->call.cubin, name, "the cubin", &out->cubin,
              &out->cubin_size, diag);
}

qn_status qn_nvrtc_compile(const qn_nvrtc *nvrtc, const char *name, const char *source, int sm, qn_nvrtc_code *out,
                           qn_diag *diag) {
  program_handle program = NULL;
  *out = (qn_nvrtc_code){.allocator = nvrtc->allocator};
  if (!qn_nvrtc_supports(nvrtc, sm)) return unknown_chip(nvrtc, name, sm, diag);
  int result = nvrtc->call.create(&program, source, name, 0, NULL, NULL);
  if (result != RESULT_OK) return call_failed(nvrtc, name, "taking the source", result, diag);
  qn_status status = compile_program(nvrtc, program, name, sm, out, diag);
  nvrtc->call.destroy(&program);
  if (status != QN_OK) qn_nvrtc_code_deinit(out);
  return status;
}

static void give_back(const qn_allocator *allocator, void *data, size_t size) {
  if (data) qn_free(allocator, data, size + 1);
}

void qn_nvrtc_code_deinit(qn_nvrtc_code *code) {
  give_back(code->allocator, code->ptx, code->ptx_size);
  give_back(code->allocator, code->cubin, code->cubin_size);
  give_back(code->allocator, code->log, code->log_size);
  *code = (qn_nvrtc_code){.allocator = code->allocator};
}
