// What goes wrong with GPUs, each with the text that a user gets: drivers, devices, chips, damaged code, memory, faults
// of kernels. In the simulator, which can be made to have each.
#include <elf.h>
#include <stdlib.h>

#include "runtime/executor.h"
#include "tests/ptxsim/support_sim.h"
#include "tests/support/gpu_program.h"
#include "tests/support/test.h"

enum { T = QN_TEST_SYM_T, R = QN_TEST_SYM_R, P = QN_TEST_SYM_P, B = QN_TEST_SYM_B };

// A fresh simulator with these devices.
static void restart(const char *devices) {
  sim_open();
  sim.reset();
  sim_set("driver", "13000");
  sim_set("devices", devices);
}

static qn_status list(const char *library, qn_diag *diag) {
  qn_cuda_info found[8];
  size_t count;
  *diag = (qn_diag){0};
  return qn_cuda_list(library, found, QN_COUNT(found), &count, diag);
}

START_TEST(drivers) {
  qn_diag diag;
  restart("sm_90");
  qn_assert_fails(&diag, QN_ERR_TARGET,
                  "no driver: /nowhere/libcuda.so cannot be loaded (/nowhere/libcuda.so: cannot open",
                  list("/nowhere/libcuda.so", &diag));
  ck_assert_ptr_nonnull(strstr(diag.text, "install it, or name its library with --libcuda or QUERN_LIBCUDA"));
  qn_assert_fails(&diag, QN_ERR_TARGET,
                  "the driver is too old, or none: libm.so.6 has no function cuInit, want the driver "
                  "of CUDA 12.0 or later; update it",
                  list("libm.so.6", &diag));
  setenv("QUERN_LIBCUDA", "/nowhere/else.so", 1);
  qn_assert_fails(&diag, QN_ERR_TARGET, "/nowhere/else.so cannot be loaded", list(NULL, &diag));
  setenv("QUERN_LIBCUDA", PTXSIM_LIBRARY, 1);
  qn_assert_ok(&diag, list(NULL, &diag));
  unsetenv("QUERN_LIBCUDA");
  sim_set("driver", "11080");
  qn_assert_fails(&diag, QN_ERR_TARGET, "too old: got one for CUDA 11.8", list(PTXSIM_LIBRARY, &diag));
  ck_assert_ptr_nonnull(strstr(diag.text, "want CUDA 12.0 or later; update it"));
  restart("none");
  qn_assert_fails(&diag, QN_ERR_TARGET, "no device: the driver (CUDA 13.0) finds no GPU", list(PTXSIM_LIBRARY, &diag));
}
END_TEST

START_TEST(devices) {
  qn_cuda_info found[3] = {0};
  qn_diag diag = {0};
  size_t count;
  int index;
  restart("sm_80,sm_120,sm_90,sm_100");
  qn_assert_ok(&diag, qn_cuda_list(PTXSIM_LIBRARY, found, QN_COUNT(found), &count, &diag));
  ck_assert_uint_eq(count, 4);  // of which there was room for three
  ck_assert(found[1].index == 1 && found[1].sm == 120 && found[2].sm == 90 && found[2].driver_version == 13000);
  ck_assert(strcmp(found[0].name, "ptxsim sm_80") == 0 && found[0].memory_bytes == (uint64_t)40 << 30);
  qn_assert_ok(&diag, qn_cuda_parse("cuda", &index, &diag));
  ck_assert_int_eq(index, 0);
  qn_assert_ok(&diag, qn_cuda_parse("cuda:12", &index, &diag));
  ck_assert_int_eq(index, 12);
  static const char *const wrong[] = {"cuda:", "cuda:x", "cuda:1x", "cuda:-1", "cuda:99999999999", "CUDA", "gpu", ""};
  for (size_t i = 0; i < QN_COUNT(wrong); i++) {
    diag = (qn_diag){0};
    qn_assert_fails(&diag, QN_ERR_ARGUMENT, "want cpu, cuda or cuda:N", qn_cuda_parse(wrong[i], &index, &diag));
  }
}
END_TEST

// --- opening

typedef void (*change_fn)(qn_test_artifact *a);

static qn_status open_with(change_fn change, const qn_cuda_open_options *how, qn_cuda **out, qn_artifact *artifact,
                           qn_diag *diag) {
  qn_test_artifact a;
  qn_cuda_open_options options = how ? *how : (qn_cuda_open_options){.device = "cuda"};
  *diag = (qn_diag){0};
  qn_gpu_program_describe(&a, 1);
  if (change) change(&a);
  *artifact = qn_gpu_program_open(&a);
  options.library = PTXSIM_LIBRARY;
  return qn_cuda_open(artifact, &options, qn_test_allocator(), out, diag);
}

// Opening fails and leaves nothing behind.
static void fails(change_fn change, const qn_cuda_open_options *how, qn_status want, const char *text) {
  qn_cuda *cuda;
  qn_artifact artifact;
  qn_diag diag;
  size_t live = qn_test_allocator_memory()->live_blocks;
  qn_assert_fails(&diag, want, text, open_with(change, how, &cuda, &artifact, &diag));
  ck_assert_ptr_null(cuda);
  qn_artifact_close(&artifact);
  ck_assert_uint_eq(qn_test_allocator_memory()->live_blocks, live);
}

static void without_code(qn_test_artifact *a) { a->code_count = 0; }

START_TEST(no_such_device) {
  restart("sm_80,sm_90");
  fails(NULL, &(qn_cuda_open_options){.device = "cuda:2"}, QN_ERR_ARGUMENT,
        "device: got cuda:2, want one of: cuda:0 (ptxsim sm_80), cuda:1 (ptxsim sm_90)");
  fails(NULL, &(qn_cuda_open_options){.device = "cuda:x"}, QN_ERR_ARGUMENT, "got 'cuda:x'");
  fails(without_code, NULL, QN_ERR_TARGET, "there is no code for GPUs in this artifact; compile it with --target");
  fails(NULL, &(qn_cuda_open_options){.device = "cuda", .target = "cuda:sm_90"}, QN_ERR_ARGUMENT,
        "got target 'cuda:sm_90', want one of: cuda:sm_80");
  restart("none");
  fails(NULL, NULL, QN_ERR_TARGET, "no device");
}
END_TEST

static void for_sm_90(qn_test_artifact *a) {
  a->code_count = 0;
  qn_test_artifact_cuda(a, "cuda:sm_90", "sm_90", 0, qn_gpu_program_ptx, 0, qn_gpu_program_ptx_size(),
                        qn_gpu_program_launches);
}

// sm_80 is there already.
static void for_three_chips(qn_test_artifact *a) {
  qn_test_artifact_cuda(a, "cuda:sm_120", "sm_120", 0, qn_gpu_program_ptx, 0, qn_gpu_program_ptx_size(),
                        qn_gpu_program_launches);
  qn_test_artifact_cuda(a, "cuda:sm_90", "sm_90", 0, qn_gpu_program_ptx, 0, qn_gpu_program_ptx_size(),
                        qn_gpu_program_launches);
}

START_TEST(chips) {
  static const char *const cases[][2] = {{"sm_80", "cuda:sm_80"},
                                         {"sm_89", "cuda:sm_80"},
                                         {"sm_90", "cuda:sm_90"},
                                         {"sm_100", "cuda:sm_90"},
                                         {"sm_120", "cuda:sm_120"}};
  qn_cuda *cuda;
  qn_artifact artifact;
  qn_diag diag;
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    restart(cases[i][0]);
    qn_assert_ok(&diag, open_with(for_three_chips, NULL, &cuda, &artifact, &diag));
    ck_assert_str_eq(qn_cuda_code(cuda)->target, cases[i][1]);
    qn_cuda_close(cuda);
    qn_artifact_close(&artifact);
  }
  restart("sm_80");
  fails(for_sm_90, NULL, QN_ERR_TARGET,
        "cuda:0 (ptxsim sm_80): too old a chip: it is sm_80, and gpu.qn has code for: cuda:sm_90");
  fails(for_three_chips, &(qn_cuda_open_options){.device = "cuda", .target = "cuda:sm_120"}, QN_ERR_TARGET,
        "too old a chip");
  restart("sm_120");
  qn_assert_ok(&diag, open_with(for_three_chips, &(qn_cuda_open_options){.device = "cuda", .target = "cuda:sm_80"},
                                &cuda, &artifact, &diag));
  ck_assert_str_eq(qn_cuda_code(cuda)->target, "cuda:sm_80");
  qn_cuda_close(cuda);
  qn_artifact_close(&artifact);
}
END_TEST

// --- code

// An ELF header as cubins have one, for machine code of so many bytes, and the PTX behind it.
enum { CUBIN_BYTES = 256 };
static char image[CUBIN_BYTES + (16 << 10)];

static void make_image(bool corrupt, const char *ptx) {
  Elf64_Ehdr header = {.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, 1},
                       .e_machine = corrupt ? 0 : 190,  // EM_CUDA
                       .e_shoff = sizeof header,
                       .e_shentsize = sizeof(Elf64_Shdr),
                       .e_shnum = 3};
  memset(image, 0, sizeof image);
  memcpy(image, &header, sizeof header);
  ck_assert_uint_lt(strlen(ptx), sizeof image - CUBIN_BYTES);
  memcpy(image + CUBIN_BYTES, ptx, strlen(ptx) + 1);
}

static size_t image_ptx_bytes(void) { return strlen(image + CUBIN_BYTES) + 1; }

static void with_image(qn_test_artifact *a) {
  a->code_count = 0;
  qn_test_artifact_cuda(a, "cuda:sm_80", "sm_80", 0, image, CUBIN_BYTES, image_ptx_bytes(), qn_gpu_program_launches);
}
static void with_cubin_alone(qn_test_artifact *a) {
  a->code_count = 0;
  qn_test_artifact_cuda(a, "cuda:sm_80", "sm_80", 0, image, CUBIN_BYTES, 0, qn_gpu_program_launches);
}

static bool runs_from_ptx(void) {
  qn_cuda *cuda;
  qn_artifact artifact;
  qn_diag diag;
  qn_assert_ok(&diag, open_with(with_image, NULL, &cuda, &artifact, &diag));
  bool ptx = qn_cuda_from_ptx(cuda);
  qn_cuda_close(cuda);
  qn_artifact_close(&artifact);
  return ptx;
}

START_TEST(which_form_runs) {
  make_image(false, qn_gpu_program_ptx);
  restart("sm_80");  // whose driver says that it has no use for the machine code
  ck_assert(runs_from_ptx());
  ck_assert_int_eq(sim.provide_ptx(image, CUBIN_BYTES, qn_gpu_program_ptx), 0);
  ck_assert(!runs_from_ptx());
  restart("sm_89");  // of the same major version
  ck_assert_int_eq(sim.provide_ptx(image, CUBIN_BYTES, qn_gpu_program_ptx), 0);
  ck_assert(!runs_from_ptx());
  restart("sm_90");  // of another: it is not even tried
  ck_assert_int_eq(sim.provide_ptx(image, CUBIN_BYTES, qn_gpu_program_ptx), 0);
  ck_assert(runs_from_ptx());
  restart("sm_90");
  fails(with_cubin_alone, NULL, QN_ERR_TARGET, "runs neither the machine code nor the PTX of target 'cuda:sm_80'");
}
END_TEST

START_TEST(damaged_code) {
  static char changed[16 << 10];
  restart("sm_80");
  make_image(true, qn_gpu_program_ptx);  // with a checksum that fits
  fails(with_image, NULL, QN_ERR_FORMAT,
        "gpu.qn: target 'cuda:sm_80': the machine code is corrupt, cuda:0 (ptxsim sm_80) refuses it: "
        "CUDA_ERROR_INVALID_IMAGE 200");
  make_image(false, "\x01\x02");
  fails(with_image, NULL, QN_ERR_FORMAT, "the PTX is corrupt");
  memcpy(changed, qn_gpu_program_ptx, qn_gpu_program_ptx_size());
  memcpy(strstr(changed, "shl.b32"), "sha.b32", 7);
  make_image(false, changed);
  fails(with_image, NULL, QN_ERR_FORMAT,
        "cannot compile the PTX: CUDA_ERROR_INVALID_PTX 218 (a PTX JIT compilation failed): "
        "PTX line 7: 'sha.b32'");
  memcpy(changed, qn_gpu_program_ptx, qn_gpu_program_ptx_size());
  memcpy(strstr(changed, "7.0"), "8.8", 3);
  make_image(false, changed);
  sim_set("driver", "12040");
  fails(with_image, NULL, QN_ERR_TARGET,
        "the driver (CUDA 12.4) is older than the compiler that made the PTX of target "
        "'cuda:sm_80': CUDA_ERROR_UNSUPPORTED_PTX_VERSION");
  restart("sm_80");
  memcpy(changed, qn_gpu_program_ptx, qn_gpu_program_ptx_size());
  memcpy(strstr(changed, "second_many("), "second_more(", 12);
  make_image(false, changed);
  fails(with_image, NULL, QN_ERR_FORMAT, "target 'cuda:sm_80': got no function 'second_many' in its code");
}
END_TEST

static void with_much_shared_memory(qn_test_artifact *a) {
  static qn_art_launch launches[4];
  memcpy(launches, qn_gpu_program_launches, sizeof launches);
  launches[3].shared_bytes = 200 << 10;
  a->code_count = 0;
  qn_test_artifact_cuda(a, "cuda:sm_80", "sm_80", 0, qn_gpu_program_ptx, 0, qn_gpu_program_ptx_size(), launches);
}

// --- memory

static void with_large_weights(qn_test_artifact *a) {
  static char bytes[600 << 10];
  qn_test_artifact_weight(a, "large", bytes, sizeof bytes);
}

static qn_status executor_of(qn_cuda *cuda, qn_artifact *artifact, const qn_allocator *allocator, qn_executor **out,
                             qn_diag *diag) {
  qn_executor_options options = {.cuda = cuda, .profile = true};
  *diag = (qn_diag){0};
  return qn_executor_create(artifact, NULL, &options, allocator, out, diag);
}

static void with_large_arena(qn_test_artifact *a) { a->head.arena_bytes = 2 << 20; }

START_TEST(out_of_memory) {
  qn_cuda *cuda;
  qn_artifact artifact;
  qn_diag diag;
  qn_executor *e = NULL;
  void *pool;
  restart("sm_120");
  fails(with_much_shared_memory, NULL, QN_ERR_TARGET,
        "kernel 'third' wants 204800 bytes of shared memory a block, and there are 101376");
  sim_set("memory", "500k");
  fails(with_large_weights, NULL, QN_ERR_NOMEM,
        "cuda:0 (ptxsim sm_120): out of memory for the weights of 614656 bytes: 512000 of 512000 are free; a smaller "
        "model");
  sim_set("memory", "1m");
  qn_assert_ok(&diag, open_with(with_large_arena, NULL, &cuda, &artifact, &diag));
  qn_assert_fails(&diag, QN_ERR_NOMEM, "out of memory for intermediate values of 2097152 bytes",
                  executor_of(cuda, &artifact, qn_test_allocator(), &e, &diag));
  ck_assert_ptr_null(e);
  qn_cuda_close(cuda);
  qn_artifact_close(&artifact);
  qn_assert_ok(&diag, open_with(NULL, NULL, &cuda, &artifact, &diag));
  qn_assert_ok(&diag, executor_of(cuda, &artifact, qn_test_allocator(), &e, &diag));
  const qn_memory *memory = qn_executor_memory(e);
  qn_assert_fails(&diag, QN_ERR_NOMEM, "out of memory for a KV cache of 1048576 bytes: ",
                  memory->take(memory->context, 1 << 20, "t", "a KV cache", "ask for a smaller context", &pool, &diag));
  ck_assert_ptr_nonnull(strstr(diag.text, "are free; ask for a smaller context"));
  ck_assert_ptr_null(pool);
  diag = (qn_diag){0};
  const int64_t many[QN_ARTIFACT_SYMBOLS] = {[T] = 1, [B] = 1000, [P] = 1000};
  qn_assert_fails(&diag, QN_ERR_NOMEM, "out of memory for a step's inputs of", qn_executor_reserve(e, many, &diag));
  double rate;
  sim_set("memory", "1m");
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_NOMEM, "out of memory for a measurement", qn_cuda_measure_read(cuda, &rate, &diag));
  qn_executor_destroy(e);
  qn_cuda_close(cuda);
  qn_artifact_close(&artifact);
  sim_set("memory", "32g");
}
END_TEST

START_TEST(allocations_fail) {
  qn_artifact artifact;
  qn_test_artifact a;
  restart("sm_80");
  qn_gpu_program_describe(&a, 1);
  artifact = qn_gpu_program_open(&a);
  for (size_t fail_at = 1;; fail_at++) {
    qn_test_memory memory;
    qn_cuda *cuda = NULL;
    qn_executor *e = NULL;
    qn_diag diag = {0};
    qn_cuda_open_options options = {.device = "cuda", .library = PTXSIM_LIBRARY};
    qn_test_memory_init(&memory);
    memory.fail_at = fail_at;
    qn_status status = qn_cuda_open(&artifact, &options, &memory.allocator, &cuda, &diag);
    if (status == QN_OK) status = executor_of(cuda, &artifact, &memory.allocator, &e, &diag);
    qn_executor_destroy(e);
    qn_cuda_close(cuda);
    ck_assert_uint_eq(memory.live_blocks, 0);
    if (status == QN_OK) break;
    ck_assert_msg(status == QN_ERR_NOMEM, "%s", diag.text);
  }
  qn_artifact_close(&artifact);
}
END_TEST

// --- faults of kernels

// `third` reads a pool that was given back.
static void fault(bool check_kernels, qn_run_kind kind, const char *text) {
  qn_cuda *cuda;
  qn_artifact artifact;
  qn_diag diag;
  qn_executor *e = NULL;
  void *pool;
  int32_t input[64] = {0};
  restart("sm_90");
  qn_assert_ok(&diag, open_with(NULL, NULL, &cuda, &artifact, &diag));
  qn_executor_options options = {.cuda = cuda, .check_kernels = check_kernels};
  qn_assert_ok(&diag, qn_executor_create(&artifact, NULL, &options, qn_test_allocator(), &e, &diag));
  const qn_memory *memory = qn_executor_memory(e);
  qn_assert_ok(&diag, memory->take(memory->context, QN_GPU_PAGE_BYTES, "t", "keys", "", &pool, &diag));
  qn_assert_ok(&diag, qn_executor_bind_cache(e, "k", 0, pool, &diag));
  memory->give_back(memory->context, pool, QN_GPU_PAGE_BYTES);
  qn_assert_ok(&diag, qn_executor_bind_input(e, "x", input, &diag));
  qn_assert_ok(&diag, qn_executor_bind_input(e, "table", input, &diag));
  const int64_t symbols[QN_ARTIFACT_SYMBOLS] = {[T] = 1, [R] = 1, [P] = 1, [B] = 1, [QN_TEST_SYM_G] = 1};
  qn_assert_fails(&diag, QN_ERR_INTERNAL, text, qn_executor_run(e, symbols, kind, &diag));
  ck_assert_ptr_nonnull(strstr(diag.text, "CUDA_ERROR_ILLEGAL_ADDRESS 700 (an illegal memory access was encountered)"));
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_INTERNAL, "a kernel faulted before, and this process cannot use the device any more",
                  qn_executor_run(e, symbols, kind, &diag));
  qn_executor_destroy(e);
  qn_cuda_close(cuda);
  qn_artifact_close(&artifact);
}

START_TEST(faults) {
  static const char unknown[] = "cuda:0 (ptxsim sm_90): a kernel faulted, of 3 in a step with T = 1: ";
  fault(false, QN_RUN_STEP, unknown);
  fault(false, QN_RUN_PROMPT, unknown);
  fault(true, QN_RUN_STEP, "cuda:0 (ptxsim sm_90): kernel 'third' (step 2, op 2) faulted: ");
}
END_TEST

QN_CASE(errors, drivers, devices, no_such_device, chips, which_form_runs, damaged_code, out_of_memory, allocations_fail,
        faults)
QN_TEST_MAIN(errors)
