// The device that run and bench compute on: --device and --libcuda.
#ifndef QUERN_CLI_DEVICE_H
#define QUERN_CLI_DEVICE_H

#include "frontend/cli/json.h"
#include "frontend/quern.h"

typedef struct cli_device {
  const char *name;     // "cuda:1" for quern_model_options.device; NULL = the CPU
  const char *libcuda;  // as given
  quern_device_info info;
} cli_device;

// An option that makes no sense on a GPU, and whether it was given.
typedef struct cli_cpu_option {
  const char *name;
  bool given;
} cli_cpu_option;

// Finds the device that --device names; NULL = the CPU. 0, or an exit code after a message: no such device or driver,
// or one of `cpu_options` (`count` of them) was given with a GPU.
int cli_device_find(const char *device, const char *libcuda, const cli_cpu_option *cpu_options, size_t count,
                    cli_device *out);
// "cuda:0, NVIDIA H100 (sm_90), machine code of cuda:sm_90"
void cli_device_describe(const quern_model *model, char *out, size_t size);

// The same as a member "device" of an object; nothing of a model on the CPU.
void cli_device_put(cli_json *json, const quern_model *model);

#define CLI_DEVICE_STANDARD  "cpu"
#define CLI_DEVICE_HELP      "where to compute: cpu, cuda (the first GPU of NVIDIA) or cuda:N"
#define CLI_LIBCUDA_STANDARD "$QUERN_LIBCUDA, else libcuda.so.1"
#define CLI_LIBCUDA_HELP     "the library of NVIDIA's driver"

#endif
