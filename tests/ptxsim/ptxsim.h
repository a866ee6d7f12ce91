// What the simulator's library exports beside the driver API: options, faults in words, and the counters by kernel and
// by range of memory. Programs find these by dlsym, as they find the driver's functions; nothing here is part of CUDA.
#ifndef PTXSIM_H
#define PTXSIM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

#define PTXSIM_CLASS_MAX 32

// Of one kernel, over all its launches since the last reset.
typedef struct ps_counters {
  uint64_t launches, blocks, threads;
  uint64_t instructions;                             // executed by warps
  uint64_t lane_instructions;                        // the same, times active lanes
  uint64_t by_class[PTXSIM_CLASS_MAX];               // of `instructions`; names by ptxsim_class_name
  uint64_t load_requests, load_bytes, load_sectors;  // of global memory: bytes asked for, sectors of 32 bytes moved
  uint64_t store_requests, store_bytes, store_sectors;
  uint64_t load_requests_128;  // of the load requests, those of 16 bytes a lane or more
  uint64_t atomic_requests, atomic_sectors;
  uint64_t shared_requests;                             // loads, stores, atomics, ldmatrix
  uint64_t shared_wavefronts, shared_wavefronts_least;  // how many there were, and without any bank conflict
  uint64_t shared_bytes;
  uint64_t tensor_operations;      // multiplications and additions of mma
  uint64_t arithmetic_operations;  // of fma (2), add, mul, dp4a (8), ... outside mma, counted by lane
  uint64_t block_barriers;         // waits of warps at them
  uint64_t copies;                 // cp.async, by lane
  uint64_t launch_ns;              // real time
} ps_counters;

// What one kernel did to one range of memory.
typedef struct ps_traffic {
  uint64_t load_requests, load_bytes, load_sectors;
  uint64_t store_requests, store_bytes, store_sectors;
  uint64_t load_requests_128;  // of the load requests, those of 16 bytes a lane or more
} ps_traffic;

// What was asked of the driver, in all.
typedef struct ps_driver_counts {
  uint64_t kernel_launches;  // by cuLaunchKernel, outside graphs
  uint64_t graph_launches, graph_nodes;
  uint64_t synchronisations;  // calls in which the host waits for the device, copies included
  uint64_t host_to_device_bytes, device_to_host_bytes;
} ps_driver_counts;

// Sets an option, as the variable PTXSIM_<NAME> of the environment does when the library starts; cuInit and what
// follows see it. 0, or -1 with the reason in ptxsim_error() for an unknown option or value. They are:
//   devices       sm_80, sm_89, sm_90, sm_100, sm_120, several with commas (default: sm_80,sm_90,sm_100,sm_120), or
//   none memory        bytes of each device (k, m, g may follow) driver        the CUDA version it speaks, 12040
//   for 12.4 (default 13000) warp_order, block_order    forward, reverse, shuffle seed          of shuffles and
//   perturbations perturb       1: approximate instructions and mma are off by up to 2 ulp races, initialised    0
//   turns the check off threads       of the host; 0 = one a core watchdog      instructions of warps after which a
//   block counts as hanging eager         1: streams run at once; 0 (default): at the last moment, when the host waits
//   or asks
int ptxsim_set(const char *option, const char *value);

// The text of the last fault or failed call, "" when there is none. Valid until the next call of the library.
const char *ptxsim_error(void);
// As if the process began anew: contexts, modules and memory are gone, counters zero. Options stay.
void ptxsim_reset(void);

// Gives a name to bytes of device memory, so that they are counted apart. 0, or -1 when they are not allocated.
int ptxsim_label(uint64_t address, size_t size_bytes, const char *name);
// The PTX for an image of machine code, which cuModuleLoadData takes instead of it. Both are copied.
int ptxsim_provide_ptx(const void *image, size_t image_bytes, const char *ptx);

void ptxsim_counters_reset(void);
size_t ptxsim_kernel_count(void);
// NULL for an index from the count on. Borrowed until the next reset.
const char *ptxsim_kernel_name(size_t kernel);
int ptxsim_kernel_counters(size_t kernel, ps_counters *out);
const char *ptxsim_class_name(size_t klass);
size_t ptxsim_range_count(void);
const char *ptxsim_range_name(size_t range);
uint64_t ptxsim_range_bytes(size_t range);
int ptxsim_kernel_traffic(size_t kernel, size_t range, ps_traffic *out);
void ptxsim_driver_counters(ps_driver_counts *out);
// All of it as a table for people; how many bytes it takes, of which at most size - 1 and a NUL are written.
size_t ptxsim_report(char *out, size_t size);
// The table of instructions it knows, one line each.
size_t ptxsim_opcodes(char *out, size_t size);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif
