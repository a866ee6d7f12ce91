// The driver API: devices, memory, streams, events, graphs, counters, and what must fail and how.
#include <stdio.h>
#include <stdlib.h>

#include "tests/ptxsim/support_sim.h"

// p[i] = p[i] * 2 + 1 for the first n.
static const char twice[] =
    ".version 7.0\n.target sm_80\n.address_size 64\n.global .align 4 .u32 bias = 1;\n"
    ".visible .entry twice(.param .u64 p, .param .u32 n)\n.maxntid 256, 1, 1\n{ .reg .b64 %p, %at; .reg .b32 %i, %n, "
    "%v, %b, %t; .reg .pred %q;\n"
    "ld.param.u64 %p, [p]; ld.param.u32 %n, [n]; mov.u32 %i, %ctaid.x; mov.u32 %t, %ntid.x; mov.u32 %v, %tid.x;\n"
    "mad.lo.u32 %i, %i, %t, %v; setp.ge.u32 %q, %i, %n; @%q ret; mul.wide.u32 %at, %i, 4; add.s64 %p, %p, %at;\n"
    "ld.global.u32 %v, [%p]; ld.global.u32 %b, [bias]; mad.lo.u32 %v, %v, 2, %b; st.global.u32 [%p], %v; ret; }\n";
static const char dynamic[] =
    ".version 7.0\n.target sm_80\n.address_size 64\n.extern .shared .align 16 .b8 big[];\n"
    ".visible .entry k(.param .u64 p)\n{ .shared .align 4 .b8 small[12]; .reg .b32 %a, %b, %t; .reg .b64 %p;\n"
    "mov.u32 %a, small; mov.u32 %b, big; sub.u32 %a, %b, %a; mov.u32 %t, %dynamic_smem_size; ld.param.u64 %p, [p];\n"
    "st.shared.u32 [%b+65532], %t; st.global.v2.u32 [%p], {%a, %t}; ret; }\n";

START_TEST(test_devices) {
  int count, version, major, minor, sms;
  char name[64];
  size_t bytes;
  sim_open();
  sim.reset();
  sim_fails(CUDA_ERROR_NOT_INITIALIZED, "cuInit has not been called", sim.device_count(&count));
  sim_set("devices", "none");
  sim_fails(CUDA_ERROR_NO_DEVICE, "there is no device", sim.init(0));
  sim_set("devices", "sm_80,sm_90,sm_100,sm_120,sm_89");
  sim_ok(sim.init(0));
  sim_ok(sim.device_count(&count));
  ck_assert_int_eq(count, 5);
  static const int sm[] = {80, 90, 100, 120, 89};
  for (int d = 0; d < count; d++) {
    sim_ok(sim.device_attribute(&major, 75, d));
    sim_ok(sim.device_attribute(&minor, 76, d));
    sim_ok(sim.device_attribute(&sms, 16, d));
    sim_ok(sim.device_name(name, sizeof name, d));
    sim_ok(sim.total_memory(&bytes, d));
    ck_assert_int_eq(major * 10 + minor, sm[d]);
    ck_assert_int_gt(sms, 50);
    ck_assert_uint_gt(bytes, 1ull << 30);
    ck_assert_ptr_nonnull(strstr(name, "sm_"));
  }
  sim_fails(CUDA_ERROR_INVALID_DEVICE, "device 5 of 5", sim.device_name(name, sizeof name, 5));
  sim_fails(CUDA_ERROR_INVALID_VALUE, "device attribute 9999", sim.device_attribute(&major, 9999, 0));
  sim_fails(CUDA_ERROR_INVALID_CONTEXT, "no current context", sim.synchronize());
  sim_ok(sim.driver_version(&version));
  ck_assert_int_eq(version, 13000);
  ck_assert_int_eq(sim.set("frob", "1"), -1);
  ck_assert_str_eq(sim.error(), "ptxsim: there is no option 'frob'");
  ck_assert_int_eq(sim.set("memory", "lots"), -1);
  ck_assert_str_eq(sim.error(), "ptxsim: option 'memory' does not take 'lots'");
  const char *text;
  sim_ok(sim.error_name(CUDA_ERROR_OUT_OF_MEMORY, &text));
  ck_assert_str_eq(text, "CUDA_ERROR_OUT_OF_MEMORY");
  sim_ok(sim.error_string(CUDA_ERROR_INVALID_PTX, &text));
  ck_assert_str_eq(text, "a PTX JIT compilation failed");
  ck_assert_int_eq(sim.error_name((CUresult)12345, &text), CUDA_ERROR_INVALID_VALUE);
}
END_TEST

START_TEST(test_memory) {
  size_t left, total;
  CUdeviceptr a, b;
  void *host;
  uint8_t bytes[64];
  sim_start("sm_80");
  sim_set("memory", "1m");
  sim_ok(sim.alloc(&a, 700000));
  sim_fails(CUDA_ERROR_OUT_OF_MEMORY, "cuMemAlloc of 700000 bytes: 348576 of 1048576 are free", sim.alloc(&b, 700000));
  sim_ok(sim.memory_info(&left, &total));
  ck_assert_uint_eq(left, 348576);
  ck_assert_uint_eq(total, 1 << 20);
  sim_ok(sim.free(a));
  sim_fails(CUDA_ERROR_INVALID_VALUE, "where no allocation begins", sim.free(a));
  sim_ok(sim.alloc(&b, 700000));
  sim_fails(CUDA_ERROR_INVALID_VALUE, "into the freed 'memory #1'", sim.to_device(a, bytes, 1));
  sim_fails(CUDA_ERROR_INVALID_VALUE, "which ends 10 bytes on; want 64", sim.to_device(b + 699990, bytes, 64));
  sim_fails(CUDA_ERROR_INVALID_VALUE, "behind the end", sim.to_host(bytes, b + 700000, 64));
  sim_fails(CUDA_ERROR_INVALID_VALUE, "cuMemAlloc of no bytes", sim.alloc(&a, 0));
  sim_ok(sim.fill8(b, 7, 64));
  sim_ok(sim.fill32(b + 16, 0x01020304, 4));
  sim_ok(sim.device_to_device(b + 64, b, 64));
  sim_ok(sim.to_host(bytes, b + 64, 64));
  ck_assert_uint_eq(bytes[0], 7);
  ck_assert_uint_eq(bytes[16], 4);
  ck_assert_uint_eq(bytes[31], 1);
  ck_assert_uint_eq(bytes[32], 7);
  sim_ok(sim.alloc_host(&host, 4096));
  sim_ok(sim.free_host(host));
  sim_fails(CUDA_ERROR_INVALID_VALUE, "cuMemFreeHost of other memory", sim.free_host(bytes));
  sim_ok(sim.host_register(bytes, sizeof bytes, 0));
  sim_fails(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, "registered already", sim.host_register(bytes + 8, 8, 0));
  sim_ok(sim.host_unregister(bytes));
  sim_fails(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, "other memory", sim.host_unregister(bytes));
  sim_set("memory", "40g");
}
END_TEST

START_TEST(test_modules) {
  CUmodule m;
  CUfunction f;
  CUdeviceptr p;
  size_t size;
  char log[256] = "", text[4096];
  sim_start("sm_80");
  sim_ok(sim.load(&m, twice));
  sim_ok(sim.global(&p, &size, m, "bias"));
  ck_assert_uint_eq(size, 4);
  uint32_t bias;
  sim_download(&bias, p, 4);
  ck_assert_uint_eq(bias, 1);
  sim_fails(CUDA_ERROR_NOT_FOUND, "no variable 'bia'", sim.global(&p, &size, m, "bia"));
  sim_fails(CUDA_ERROR_NOT_FOUND, "no kernel 'thrice'", sim.function(&f, m, "thrice"));
  sim_ok(sim.function(&f, m, "twice"));
  sim_ok(sim.unload(m));
  sim_fails(CUDA_ERROR_INVALID_HANDLE, "module", sim.unload(m));
  sim_fails(CUDA_ERROR_INVALID_HANDLE, "its module was unloaded", sim_run(f, 1, 1, 0, NULL));
  // Errors of the PTX go to the JIT's log too.
  int options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
  void *values[] = {log, (void *)(uintptr_t)sizeof log};
  sim_fails(CUDA_ERROR_INVALID_PTX, "frob", sim.load_ex(&m, sim_module("sm_80", "", "frob;"), 2, options, values));
  ck_assert_str_eq(log, "PTX line 5: 'frob': the instruction 'frob' is not known");
  // Too old a chip, too old a driver.
  sim_fails(CUDA_ERROR_INVALID_PTX, "PTX .target sm_90, and the device is sm_80",
            sim.load(&m, sim_module("sm_90", "", "ret;")));
  sim_fails(CUDA_ERROR_INVALID_PTX, "PTX .target sm_80a",
            (sim_start("sm_90"), sim.load(&m, sim_module("sm_80a", "", "ret;"))));
  sim_ok(sim.load(&m, sim_module("sm_90a", "", "ret;")));
  sim_start("sm_120");
  sim_fails(CUDA_ERROR_INVALID_PTX, "sm_100f", sim.load(&m, sim_module("sm_100f", "", "ret;")));
  sim_ok(sim.load(&m, sim_module("sm_120f", "", "ret;")));
  sim_ok(sim.load(&m, sim_module("sm_90", "", "ret;")));
  sim_set("driver", "11080");
  sim_fails(CUDA_ERROR_UNSUPPORTED_PTX_VERSION, "PTX .version 8.0; the driver (CUDA 11.8) takes at most 7.8",
            sim.load(&m, sim_module("sm_80", "", "ret;")));
  sim_set("driver", "13000");
  // Images that are no text.
  sim_fails(CUDA_ERROR_INVALID_IMAGE, "corrupt",
            sim.load(&m,
                     "\x7f"
                     "ELF garbage that is longer than the header of an ELF file, which has 64 bytes"));
  sim_fails(CUDA_ERROR_INVALID_IMAGE, "corrupt", sim.load(&m, "no such thing"));
  sim_fails(CUDA_ERROR_INVALID_IMAGE, "corrupt", sim.load(&m, ".version 8.0\x80"));
  sim_fails(CUDA_ERROR_NO_BINARY_FOR_GPU, "fat binary", sim.load(&m, "\x50\xed\x55\xba"));
  uint8_t cubin[256] = {0x7f, 'E', 'L', 'F', 2, 1};
  cubin[18] = 190;
  cubin[40] = 64;  // section headers at 64, two of 64 bytes
  cubin[58] = 64;
  cubin[60] = 2;
  sim_fails(CUDA_ERROR_NO_BINARY_FOR_GPU, "ptxsim_provide_ptx", sim.load(&m, cubin));
  snprintf(text, sizeof text, "%s", sim_module("sm_80", "", "ret;"));
  ck_assert_int_eq(sim.provide_ptx(cubin, 192, text), 0);
  sim_ok(sim.load(&m, cubin));
}
END_TEST

START_TEST(test_launch_errors) {
  CUdeviceptr p;
  uint32_t n = 0;
  int value;
  void *params[] = {&p, &n}, *missing[] = {&p, NULL};
  sim_start("sm_80");
  CUfunction f = sim_kernel(twice, "twice"), g = sim_kernel(dynamic, "k");
  p = sim_upload(NULL, 4096);
  sim_fails(CUDA_ERROR_INVALID_VALUE, "it was compiled for 256", sim_run(f, 1, 257, 0, params));
  sim_fails(CUDA_ERROR_INVALID_VALUE, "a grid of 0 x 1 x 1 blocks", sim_run(f, 0, 32, 0, params));
  sim_fails(CUDA_ERROR_INVALID_VALUE, "blocks of 2000 x 1 x 1 threads", sim_run(g, 1, 2000, 0, params));
  sim_fails(CUDA_ERROR_INVALID_VALUE, "parameter 1 is NULL", sim_run(f, 1, 32, 0, missing));
  sim_fails(CUDA_ERROR_INVALID_VALUE, "no parameters, want 2", sim_run(f, 1, 32, 0, NULL));
  sim_fails(CUDA_ERROR_INVALID_VALUE, "65536 bytes of dynamic shared memory; 49152 are allowed",
            sim_run(g, 1, 1, 65536, params));
  sim_fails(CUDA_ERROR_INVALID_VALUE, "of at most 166896",
            sim.set_function_attribute(g, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 200000));
  sim_ok(sim.set_function_attribute(g, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 65536));
  sim_ok(sim_run(g, 1, 1, 65536, params));
  uint32_t got[2];
  sim_download(got, p, sizeof got);
  ck_assert_uint_eq(got[0], 16);  // behind 12 bytes, aligned to 16
  ck_assert_uint_eq(got[1], 65536);
  sim_ok(sim.function_attribute(&value, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, g));
  ck_assert_int_eq(value, 16);
  sim_ok(sim.function_attribute(&value, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, f));
  ck_assert_int_eq(value, 256);
  sim_ok(sim.function_attribute(&value, CU_FUNC_ATTRIBUTE_NUM_REGS, f));
  ck_assert_int_ge(value, 16);
  sim_ok(sim.occupancy(&value, g, 256, 65536));
  ck_assert_int_eq(value, 2);  // 164 KiB by 64 KiB, 16 bytes and 1 KiB each
  sim_ok(sim.occupancy(&value, f, 256, 0));
  ck_assert_int_eq(value, 8);  // 2048 threads
}
END_TEST

// What is queued runs when the host waits, not before.
START_TEST(test_streams) {
  uint32_t in[64], *pinned, n = 64;
  CUstream s;
  CUevent before, after;
  void *host;
  float ms;
  sim_start("sm_80");
  CUfunction f = sim_kernel(twice, "twice");
  for (uint32_t k = 0; k < 64; k++) in[k] = k;
  CUdeviceptr p = sim_upload(in, sizeof in);
  sim_ok(sim.alloc_host(&host, sizeof in));
  pinned = host;
  sim_ok(sim.stream_create(&s, 1));
  sim_ok(sim.event_create(&before, 0));
  sim_ok(sim.event_create(&after, 0));
  void *params[] = {&p, &n};
  sim_ok(sim.event_record(before, s));
  sim_ok(sim.launch(f, 1, 1, 1, 64, 1, 1, 0, s, params, NULL));
  p = 0;  // parameters were taken at the launch
  n = 0;
  CUdeviceptr q = sim_upload(in, 4);
  sim_ok(sim.event_record(after, s));
  sim_ok(sim.to_host_async(pinned, q, 4, s));
  ck_assert_uint_eq(pinned[0], 0);
  ck_assert_int_eq(sim.event_query(after), CUDA_ERROR_NOT_READY);
  sim_ok(sim.event_query(after));
  sim_ok(sim.stream_synchronize(s));
  sim_ok(sim.event_elapsed(&ms, before, after));
  ck_assert(ms >= 0);
  sim_ok(sim.stream_query(s));
  sim_ok(sim.stream_destroy(s));
  ck_assert_int_eq(sim.stream_synchronize(s), CUDA_ERROR_INVALID_HANDLE);
  sim_ok(sim.event_destroy(before));
  sim_ok(sim.event_destroy(after));
  sim_ok(sim.free_host(host));
}
END_TEST

START_TEST(test_graphs) {
  uint32_t in[64], out[64], n = 64;
  CUstream s, t;
  CUevent fork, join;
  CUgraph graph, other;
  CUgraphExec exec;
  CUgraphExecUpdateResultInfo info;
  ps_driver_counts counts;
  size_t nodes = 0;
  sim_start("sm_90");
  CUfunction f = sim_kernel(twice, "twice");
  for (uint32_t k = 0; k < 64; k++) in[k] = k;
  CUdeviceptr p = sim_upload(in, sizeof in), q = sim_upload(in, sizeof in);
  void *params[] = {&p, &n}, *params_q[] = {&q, &n};
  sim_ok(sim.stream_create(&s, 1));
  sim_ok(sim.stream_create(&t, 1));
  sim_ok(sim.event_create(&fork, 0));
  sim_ok(sim.event_create(&join, 0));
  sim.counters_reset();
  sim_ok(sim.begin_capture(s, 0));
  sim_ok(sim.launch(f, 1, 1, 1, 64, 1, 1, 0, s, params, NULL));
  sim_ok(sim.event_record(fork, s));
  sim_ok(sim.stream_wait(t, fork, 0));
  sim_ok(sim.launch(f, 1, 1, 1, 64, 1, 1, 0, t, params_q, NULL));
  sim_ok(sim.event_record(join, t));
  sim_ok(sim.stream_wait(s, join, 0));
  sim_ok(sim.launch(f, 1, 1, 1, 64, 1, 1, 0, s, params, NULL));
  sim_ok(sim.end_capture(s, &graph));
  sim_ok(sim.graph_nodes(graph, NULL, &nodes));
  ck_assert_uint_eq(nodes, 3);
  sim_ok(sim.instantiate(&exec, graph, 0));
  sim_ok(sim.graph_upload(exec, s));
  sim_ok(sim.graph_launch(exec, s));
  sim_ok(sim.graph_launch(exec, s));
  sim_ok(sim.stream_synchronize(s));
  sim_download(out, p, sizeof out);
  for (uint32_t k = 0; k < 64; k++) qn_check(out[k] == ((k + 1) << 4) - 1, "after 4 launches: %u", out[k]);
  sim_download(out, q, sizeof out);
  for (uint32_t k = 0; k < 64; k++) qn_check(out[k] == ((k + 1) << 2) - 1, "after 2 launches: %u", out[k]);
  sim.driver_counters(&counts);
  ck_assert_uint_eq(counts.graph_launches, 2);
  ck_assert_uint_eq(counts.graph_nodes, 6);
  ck_assert_uint_eq(counts.kernel_launches, 0);
  ck_assert_uint_eq(counts.synchronisations, 3);
  // The same operations with other parameters; then other operations.
  n = 1;
  sim_ok(sim.begin_capture(s, 0));
  for (int k = 0; k < 3; k++) sim_ok(sim.launch(f, 1, 1, 1, 64, 1, 1, 0, s, params, NULL));
  sim_ok(sim.end_capture(s, &other));
  sim_ok(sim.graph_update(exec, other, &info));
  sim_ok(sim.graph_launch(exec, s));
  sim_download(out, p, sizeof out);
  ck_assert_uint_eq(out[0], (1 << 7) - 1);
  ck_assert_uint_eq(out[1], (2 << 4) - 1);
  sim_ok(sim.graph_destroy(other));
  sim_ok(sim.begin_capture(s, 0));
  sim_ok(sim.launch(f, 1, 1, 1, 64, 1, 1, 0, s, params, NULL));
  sim_ok(sim.end_capture(s, &other));
  sim_fails(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, "other operations", sim.graph_update(exec, other, &info));
  ck_assert_int_eq(info.result, 2);
  sim_ok(sim.graph_destroy(other));
  // What a capture does not allow breaks it.
  sim_ok(sim.begin_capture(s, 0));
  sim_fails(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "not allowed while", sim.stream_synchronize(s));
  sim_fails(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "broke the capture", sim.end_capture(s, &other));
  sim_fails(CUDA_ERROR_ILLEGAL_STATE, "not captured", sim.end_capture(s, &other));
  sim_ok(sim.graph_exec_destroy(exec));
  sim_ok(sim.graph_destroy(graph));
  sim_ok(sim.event_destroy(fork));
  sim_ok(sim.event_destroy(join));
}
END_TEST

// Sectors against bytes by named range: side by side, with a stride, all lanes alike.
START_TEST(test_counters) {
  sim_start("sm_80");
  const char *body =
      ".reg .b64 %a, %b, %at; .reg .b32 %t, %v, %r<4>; .reg .f32 %x; ld.param.u64 %a, [a]; ld.param.u64 %b, [b]; "
      "mov.u32 %t, %tid.x;\n"
      "mul.wide.u32 %at, %t, 16; add.s64 %a, %a, %at; ld.global.v4.u32 {%r0, %r1, %r2, %r3}, [%a]; ld.global.u32 %v, "
      "[%b];\n"
      "mul.wide.u32 %at, %t, 64; add.s64 %b, %b, %at; ld.global.u32 %v, [%b]; st.global.u32 [%b], %v;\n"
      "mov.f32 %x, 0f3f800000; fma.rn.f32 %x, %x, %x, %x; bar.sync 0; ret;";
  CUfunction f = sim_kernel(sim_module("sm_80", ".param .u64 a, .param .u64 b", body), "k");
  static uint8_t zeros[8192];
  CUdeviceptr all = sim_upload(zeros, sizeof zeros), a = all + 1024, b = all + 4096;
  ck_assert_int_eq(sim.label(a, 512, "weights"), 0);
  ck_assert_int_eq(sim.label(b, 2048, "activations"), 0);
  ck_assert_int_eq(sim.label(b + 100, 4, "again"), -1);
  void *params[] = {&a, &b};
  sim_ok(sim_run(f, 1, 32, 0, params));
  ps_traffic w = sim_traffic("k", "weights"), x = sim_traffic("k", "activations");
  ck_assert_uint_eq(w.load_bytes, 512);
  ck_assert_uint_eq(w.load_sectors, 16);
  ck_assert_uint_eq(w.load_requests, 1);
  ck_assert_uint_eq(w.load_requests_128, 1);
  ck_assert_uint_eq(x.load_requests_128, 0);
  ck_assert_uint_eq(x.load_requests, 2);
  ck_assert_uint_eq(x.load_bytes, 256);
  ck_assert_uint_eq(x.load_sectors, 1 + 32);
  ck_assert_uint_eq(x.store_sectors, 32);
  ps_counters c = sim_counters("k");
  ck_assert_uint_eq(c.load_requests_128, 1);
  ck_assert_uint_eq(c.load_sectors, 49);
  ck_assert_uint_eq(c.block_barriers, 1);
  ck_assert_uint_eq(c.launches, 1);
  ck_assert_uint_eq(c.instructions, 15);
  ck_assert_uint_eq(c.lane_instructions, 15 * 32);
  ck_assert_uint_eq(c.arithmetic_operations, 64);
  char report[8192];
  ck_assert_uint_lt(sim.report(report, sizeof report), sizeof report);
  ck_assert_ptr_nonnull(strstr(report, "weights (512 bytes): loads 512 asked for, 512 moved"));
}
END_TEST

START_TEST(test_proc_address) {
  void *address = NULL;
  int status;
  sim_start("sm_80");
  sim_ok(sim.proc_address("cuMemAlloc", &address, 12000, 0, &status));
  void *expected;
  memcpy(&expected, &sim.alloc, sizeof expected);
  ck_assert_ptr_eq(address, expected);
  sim_ok(sim.proc_address("cuGraphInstantiate", &address, 12000, 0, &status));
  ck_assert_int_eq(status, 0);
  sim_fails(CUDA_ERROR_NOT_FOUND, "no call 'cuFrob'", sim.proc_address("cuFrob", &address, 12000, 0, &status));
  sim_set("driver", "11040");
  sim_fails(CUDA_ERROR_NOT_FOUND, "the driver is 11040", sim.proc_address("cuMemAlloc", &address, 12000, 0, &status));
  sim_set("driver", "13000");
}
END_TEST

// Two devices: memory of one is none of the other's.
START_TEST(test_two_devices) {
  CUcontext second;
  sim_start("sm_80,sm_90");
  CUdeviceptr p = sim_upload(NULL, 256);
  sim_ok(sim.retain(&second, 1));
  sim_ok(sim.set_current(second));
  CUfunction f = sim_kernel(twice, "twice");
  uint32_t n = 1;
  void *params[] = {&p, &n};
  sim_fails(CUDA_ERROR_ILLEGAL_ADDRESS, "which is another device's", sim_run(f, 1, 32, 0, params));
}
END_TEST

QN_CASE(driver, test_devices, test_memory, test_modules, test_launch_errors, test_streams, test_graphs, test_counters,
        test_proc_address, test_two_devices)
QN_TEST_MAIN(driver)
