// Modules: PTX text is parsed and decoded when it is loaded, so what the simulator does not know is an error of the
// load, with its line, in the JIT's error log too.
#include <elf.h>
#include <stdio.h>

#include "tests/ptxsim/driver.h"
#include "tests/ptxsim/driver_api.h"

// ---- images of machine code, for which PTX was handed in ----

typedef struct provided {
  void *image;
  size_t image_bytes;
  char *ptx;
  size_t ptx_bytes;
} provided;
static QN_VEC(provided) provided_images;

int ptxsim_provide_ptx(const void *image, size_t image_bytes, const char *ptx) {
  const qn_allocator *a = qn_allocator_default();
  pthread_mutex_lock(&ps_the_driver.lock);
  provided p = {qn_alloc(a, image_bytes), image_bytes, qn_alloc(a, strlen(ptx) + 1), strlen(ptx) + 1};
  bool ok = p.image != NULL && p.ptx != NULL;
  if (ok) {
    memcpy(p.image, image, image_bytes);
    memcpy(p.ptx, ptx, p.ptx_bytes);
    ok = qn_vec_push(a, &provided_images, p);
  }
  if (!ok) {
    qn_free(a, p.image, p.image_bytes);
    qn_free(a, p.ptx, p.ptx_bytes);
  }
  pthread_mutex_unlock(&ps_the_driver.lock);
  return ok ? 0 : -1;
}

void ps_provided_clear(void) {
  const qn_allocator *a = qn_allocator_default();
  for (size_t k = 0; k < provided_images.count; k++) {
    qn_free(a, provided_images.items[k].image, provided_images.items[k].image_bytes);
    qn_free(a, provided_images.items[k].ptx, provided_images.items[k].ptx_bytes);
  }
  qn_vec_free(a, &provided_images);
}

// Bytes of an ELF file by its own account, 0 when it is none of CUDA's.
static size_t elf_bytes(const void *image) {
  Elf64_Ehdr h;
  memcpy(&h, image, sizeof h);
  enum { EM_CUDA_NUMBER = 190 };
  if (h.e_ident[EI_CLASS] != ELFCLASS64 || h.e_machine != EM_CUDA_NUMBER || h.e_shentsize != sizeof(Elf64_Shdr))
    return 0;
  size_t sections = h.e_shoff + (size_t)h.e_shnum * h.e_shentsize;
  size_t segments = h.e_phoff + (size_t)h.e_phnum * h.e_phentsize;
  size_t size = sections > segments ? sections : segments;
  return size > sizeof h && size < (1u << 30) ? size : 0;
}

// The PTX of an image. Text is its own; machine code needs what was handed in for it.
static CUresult text_of(const void *image, const char **out) {
  const unsigned char *bytes = image;
  static const unsigned char fat[4] = {0x50, 0xed, 0x55, 0xba};
  if (memcmp(bytes, ELFMAG, SELFMAG) == 0) {
    size_t size = elf_bytes(image);
    if (size == 0) {
      return ps_error(CUDA_ERROR_INVALID_IMAGE,
                      "the image is an ELF file with a header that no cubin has: it is corrupt");
    }
    for (size_t k = 0; k < provided_images.count; k++) {
      const provided *p = &provided_images.items[k];
      if (p->image_bytes >= size && memcmp(p->image, image, size) == 0) {
        *out = p->ptx;
        return CUDA_SUCCESS;
      }
    }
    return ps_error(
        CUDA_ERROR_NO_BINARY_FOR_GPU,
        "the image is machine code, which a simulated device does not run: load PTX, or hand the PTX of this "
        "image to ptxsim_provide_ptx first");
  }
  if (memcmp(bytes, fat, sizeof fat) == 0) {
    return ps_error(CUDA_ERROR_NO_BINARY_FOR_GPU, "the image is a fat binary: load the PTX in it by itself");
  }
  const char *text = image;
  size_t n = 0;
  while (text[n] == '\n' || text[n] == '\t' || text[n] == '\r' || (text[n] >= ' ' && text[n] < 127)) n++;
  if (text[n] != '\0' || strstr(text, ".version") == NULL) {
    return ps_error(CUDA_ERROR_INVALID_IMAGE, "the image is neither PTX nor machine code: it is corrupt");
  }
  *out = text;
  return CUDA_SUCCESS;
}

// ---- loading ----

// The newest PTX that a driver takes.
static int ptx_version_of(int driver) {
  static const struct {
    int driver, ptx;
  } table[] = {{11000, 70}, {11010, 71}, {11020, 72}, {11030, 73}, {11040, 74}, {11050, 75}, {11060, 76},
               {11070, 77}, {11080, 78}, {12000, 80}, {12010, 81}, {12020, 82}, {12030, 83}, {12040, 84},
               {12050, 85}, {12070, 86}, {12080, 87}, {12090, 88}, {13000, 90}, {13010, 91}};
  int ptx = 0;
  for (size_t k = 0; k < QN_COUNT(table); k++) {
    if (table[k].driver <= driver) ptx = table[k].ptx;
  }
  return ptx;
}

static CUresult check_target(const ps_module *m, const ps_device *device) {
  int newest = ptx_version_of(ps_the_driver.version);
  if (m->version > newest) {
    return ps_error(
        CUDA_ERROR_UNSUPPORTED_PTX_VERSION,
        "PTX .version %d.%d; the driver (CUDA %d.%d) takes at most %d.%d: update it, or compile for an older one",
        m->version / 10, m->version % 10, ps_the_driver.version / 1000, ps_the_driver.version % 1000 / 10, newest / 10,
        newest % 10);
  }
  bool family = m->suffix == 'f' && device->sm / 10 == m->sm / 10 && device->sm >= m->sm;
  bool fits = m->suffix == 0 ? m->sm <= device->sm : m->suffix == 'f' ? family : m->sm == device->sm;
  if (!fits) {
    char suffix[2] = {m->suffix, '\0'};
    return ps_error(CUDA_ERROR_INVALID_PTX, "PTX .target sm_%d%s, and the device is sm_%d: compile for that", m->sm,
                    suffix, device->sm);
  }
  return CUDA_SUCCESS;
}

static CUresult place_globals(CUmodule m) {
  ps_memory *memory = &ps_the_driver.memory;
  for (size_t k = 0; k < m->ptx.variables.count; k++) {
    ps_symbol *v = m->ptx.variables.items[k];
    if (v->kind == PS_SYMBOL_SHARED) continue;
    if (v->external || v->size_bytes == 0) {
      return ps_error(CUDA_ERROR_INVALID_PTX, "PTX line %d: '%.*s' is defined in no module", v->line,
                      QN_STR_ARGS(v->name));
    }
    char name[64];
    snprintf(name, sizeof name, "%.*s", QN_STR_ARGS(v->name));
    ps_allocation *a = ps_memory_allocate(memory, m->context->device, v->size_bytes, name);
    if (a == NULL || !qn_vec_push_arena(&m->arena, &m->globals, a)) return CUDA_ERROR_OUT_OF_MEMORY;
    if (v->initial != NULL) memcpy(a->host, v->initial, v->size_bytes);
    ps_mark_written(a, 0, a->size);
    a->constant = v->kind == PS_SYMBOL_CONST;
    v->offset = a->base;
  }
  return CUDA_SUCCESS;
}

static CUresult decode_entries(CUmodule m, qn_diag *diag) {
  for (size_t k = 0; k < m->ptx.functions.count; k++) {
    const ps_function *f = m->ptx.functions.items[k];
    if (!f->entry || !f->defined) continue;
    CUfunction function = QN_ARENA_NEW(&m->arena, struct CUfunc_st);
    if (function == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
    qn_status status = ps_decode(&m->ptx, f, &m->arena, &function->program, diag);
    if (status == QN_ERR_NOMEM) return CUDA_ERROR_OUT_OF_MEMORY;
    if (status != QN_OK) return ps_error(CUDA_ERROR_INVALID_PTX, "%s", diag->text);
    function->module = m;
    function->max_dynamic_shared = 48u << 10;
    if (!qn_vec_push_arena(&m->arena, &m->functions, function)) return CUDA_ERROR_OUT_OF_MEMORY;
  }
  return CUDA_SUCCESS;
}

void ps_module_destroy(CUmodule m) {
  ps_driver *d = &ps_the_driver;
  for (size_t k = 0; k < d->modules.count; k++) {
    if (d->modules.items[k] == m) d->modules.items[k] = d->modules.items[--d->modules.count];
  }
  for (size_t k = 0; k < m->globals.count; k++) {
    if (!m->globals.items[k]->freed) ps_memory_free(&d->memory, m->globals.items[k]);
  }
  qn_arena_deinit(&m->arena);
  qn_free(qn_allocator_default(), m, sizeof *m);
}

static CUresult build(CUmodule m, const char *text) {
  qn_diag diag = {0};
  m->source = qn_arena_strdup(&m->arena, text);
  if (m->source == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
  qn_status status = ps_parse(qn_str_from(m->source), &m->arena, &m->ptx, &diag);
  if (status == QN_ERR_NOMEM) return CUDA_ERROR_OUT_OF_MEMORY;
  if (status != QN_OK) return ps_error(CUDA_ERROR_INVALID_PTX, "%s", diag.text);
  CUresult r = check_target(&m->ptx, &ps_the_driver.devices[m->context->device]);
  if (r == CUDA_SUCCESS) r = place_globals(m);
  return r == CUDA_SUCCESS ? decode_entries(m, &diag) : r;
}

static CUresult load(CUmodule *out, const void *image) {
  if (out == NULL || image == NULL) return ps_error(CUDA_ERROR_INVALID_VALUE, "cuModuleLoadData of nothing");
  const char *text = NULL;
  CUresult r = text_of(image, &text);
  if (r != CUDA_SUCCESS) return r;
  CUmodule m = qn_alloc_zeroed(qn_allocator_default(), sizeof *m);
  if (m == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
  qn_arena_init(&m->arena, qn_allocator_default());
  m->context = ps_current;
  r = build(m, text);
  if (r == CUDA_SUCCESS && !qn_vec_push(qn_allocator_default(), &ps_the_driver.modules, m))
    r = CUDA_ERROR_OUT_OF_MEMORY;
  if (r != CUDA_SUCCESS) {
    ps_module_destroy(m);
    return r;
  }
  *out = m;
  return CUDA_SUCCESS;
}

// The option's place in the list, or -1.
static int find_option(unsigned count, const int *options, int wanted) {
  for (unsigned k = 0; k < count; k++) {
    if (options[k] == wanted) return (int)k;
  }
  return -1;
}

CUresult cuModuleLoadDataEx(CUmodule *out, const void *image, unsigned count, int *options, void **values) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  if (ps_capturing()) return ps_leave(ps_refuse_capture());
  r = load(out, image);
  int log = find_option(count, options, CU_JIT_ERROR_LOG_BUFFER);
  int size = find_option(count, options, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES);
  if (log >= 0 && size >= 0) {
    size_t bytes = (size_t)(uintptr_t)values[size];
    int n = bytes > 0 ? snprintf(values[log], bytes, "%s", r != CUDA_SUCCESS ? ps_the_driver.error : "") : 0;
    values[size] = (void *)(uintptr_t)(n > 0 ? n : 0);
  }
  return ps_leave(r);
}

CUresult cuModuleLoadData(CUmodule *out, const void *image) { return cuModuleLoadDataEx(out, image, 0, NULL, NULL); }

static bool is_module(CUmodule m) {
  for (size_t k = 0; k < ps_the_driver.modules.count; k++) {
    if (ps_the_driver.modules.items[k] == m) return true;
  }
  ps_error(CUDA_ERROR_INVALID_HANDLE, "the module is none");
  return false;
}

CUresult cuModuleUnload(CUmodule m) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  if (!is_module(m)) return ps_leave(CUDA_ERROR_INVALID_HANDLE);
  r = ps_flush();
  ps_module_destroy(m);
  return ps_leave(r);
}

CUresult cuModuleGetFunction(CUfunction *out, CUmodule m, const char *name) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  if (!is_module(m)) return ps_leave(CUDA_ERROR_INVALID_HANDLE);
  for (size_t k = 0; k < m->functions.count; k++) {
    if (strcmp(m->functions.items[k]->program->name, name) != 0) continue;
    *out = m->functions.items[k];
    return ps_leave(CUDA_SUCCESS);
  }
  return ps_leave(ps_error(CUDA_ERROR_NOT_FOUND, "the module has no kernel '%s'", name));
}

CUresult cuModuleGetGlobal_v2(CUdeviceptr *out_address, size_t *out_size, CUmodule m, const char *name) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  if (!is_module(m)) return ps_leave(CUDA_ERROR_INVALID_HANDLE);
  for (size_t k = 0; k < m->ptx.variables.count; k++) {
    const ps_symbol *v = m->ptx.variables.items[k];
    if (v->kind == PS_SYMBOL_SHARED || !qn_str_is(v->name, name)) continue;
    if (out_address != NULL) *out_address = v->offset;
    if (out_size != NULL) *out_size = v->size_bytes;
    return ps_leave(CUDA_SUCCESS);
  }
  return ps_leave(ps_error(CUDA_ERROR_NOT_FOUND, "the module has no variable '%s'", name));
}
