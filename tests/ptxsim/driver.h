// The state behind the driver API: devices, contexts, modules, streams and what is queued in them, counters. One lock
// guards all of it, also while kernels run.
#ifndef PTXSIM_DRIVER_H
#define PTXSIM_DRIVER_H

#include "tests/ptxsim/cuda_abi.h"
#include "tests/ptxsim/exec.h"

enum { PS_MAX_DEVICES = 8 };

typedef struct ps_device {
  int sm, multiprocessors, threads, blocks, shared_kib, l2_mib, clock_mhz, bus_bits;
  uint64_t memory_bytes, used_bytes;
} ps_device;

struct CUctx_st {
  int device, references;
  bool primary;
};

typedef struct ps_kernel_stats {
  char *name;  // owned
  ps_counters counters;
  QN_VEC(ps_traffic) traffic;  // by range
} ps_kernel_stats;

struct CUfunc_st {
  struct CUmod_st *module;
  ps_program *program;  // in the module's arena
  uint32_t max_dynamic_shared;
};

struct CUmod_st {
  qn_arena arena;
  char *source;  // in the arena
  ps_module ptx;
  CUcontext context;
  QN_VEC(struct CUfunc_st *) functions;  // in the arena
  QN_VEC(ps_allocation *) globals;
};

typedef enum ps_op_kind { PS_OP_KERNEL, PS_OP_COPY, PS_OP_FILL, PS_OP_EVENT, PS_OP_GRAPH, PS_OP_NOTHING } ps_op_kind;

// Something that a stream or a graph does.
typedef struct ps_op {
  ps_op_kind kind;
  CUcontext context;
  CUfunction function;
  ps_launch_config config;
  uint8_t *params;  // owned: config.params
  size_t param_bytes;
  uint64_t to, from, size;  // of a copy or fill, in bytes
  uint32_t value;
  uint8_t value_bytes;
  CUevent event;
  CUgraphExec exec;
} ps_op;

struct CUgraphNode_st {
  ps_op op;
  struct CUgraph_st *graph;
};
struct CUgraph_st {
  QN_VEC(CUgraphNode) nodes;  // owned, in an order that respects what depends on what
  bool capturing, broken;
};
struct CUgraphExec_st {
  QN_VEC(ps_op) ops;
  QN_VEC(CUgraphNode) origins;  // the nodes they were made from: names only
};
struct CUstream_st {
  CUcontext context;
  CUgraph capture;  // borrowed: being recorded
  bool origin;      // where the capture began
  unsigned flags;
};
struct CUevent_st {
  bool recorded, pending;
  uint64_t time_ns;
  unsigned flags;
  CUgraph capture;  // recorded in a stream that is captured
};

typedef struct ps_driver {
  pthread_mutex_t lock;
  bool loaded, initialised;
  ps_options options;
  ps_device devices[PS_MAX_DEVICES];
  int device_count;
  uint64_t memory_limit;  // 0 = the chip's
  int version;
  bool eager;
  struct CUctx_st primary[PS_MAX_DEVICES];
  ps_memory memory;
  CUresult sticky;  // after a fault every call gives this
  QN_VEC(CUmodule) modules;
  QN_VEC(CUstream) streams;
  QN_VEC(ps_op) queue;
  QN_VEC(ps_kernel_stats) kernels;
  struct CUstream_st default_stream;
  ps_driver_counts counts;
  uint32_t grid_id;
  char error[1024];
} ps_driver;

extern ps_driver ps_the_driver;
extern _Thread_local CUcontext ps_current;

typedef enum ps_need { PS_NEED_NOTHING, PS_NEED_INIT, PS_NEED_CONTEXT } ps_need;
// Takes the lock and checks what a call needs; the lock is free again when it gives an error.
CUresult ps_enter(ps_need need);
// The same for calls that give something back, which they do after a fault, too; ps_flush tells of it.
CUresult ps_enter_giving_back(void);
CUresult ps_leave(CUresult result);
// Records the text of an error and gives the result back.
CUresult ps_error(CUresult result, const char *format, ...) QN_PRINTF(2, 3);

// options.c: reads the environment, once.
void ps_options_load(ps_driver *driver);
int ps_option_set(ps_driver *driver, const char *name, const char *value);

// driver_stream.c
CUstream ps_stream(CUstream handle);  // NULL where the handle is none
// Queues an operation, records it in the graph that is being captured, or runs it. Owns op->params from here on.
CUresult ps_submit(CUstream stream, ps_op *op);
CUresult ps_flush(void);  // runs all that is queued
CUresult ps_run_op(ps_op *op);
void ps_op_deinit(ps_op *op);
bool ps_capturing(void);           // any stream
CUresult ps_refuse_capture(void);  // the error of a call that a capture does not allow

// driver_launch.c
CUresult ps_run_kernel(const ps_op *op);
CUresult ps_make_launch(CUfunction function, const unsigned grid[3], const unsigned block[3], unsigned shared_bytes,
                        void **params, void **extra, ps_op *out_op);
// driver_memory.c
CUresult ps_run_copy(const ps_op *op);
CUresult ps_run_fill(const ps_op *op);
// driver_graph.c
CUresult ps_run_graph(CUgraphExec exec);
CUgraphNode ps_graph_add(CUgraph graph, const ps_op *op);

// driver_module.c
void ps_module_destroy(CUmodule module);
// report.c: the counters of a kernel by its name, which are made when they are new.
ps_kernel_stats *ps_stats_of(const char *name);
void ps_stats_clear(void);
void ps_provided_clear(void);

#endif
