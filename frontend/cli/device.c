// Finding the device by its name, among those that the driver sees.
#include "frontend/cli/device.h"

#include <stdio.h>
#include <string.h>

#include "frontend/cli/cli.h"

enum { DEVICES_MAX = 64 };

static int no_such_device(const char *device, const quern_device_info *found, size_t count) {
  qn_buf known;
  qn_buf_init(&known, qn_allocator_default());
  qn_buf_puts(&known, "cpu");
  for (size_t i = 0; i < count; i++) qn_buf_printf(&known, ", %s (%s, %s)", found[i].id, found[i].name, found[i].chip);
  int code = cli_fail(QN_ERR_ARGUMENT, "--device", "got '%s', want one of: %s", device, qn_buf_text(&known));
  qn_buf_deinit(&known);
  return code;
}

int cli_device_find(const char *device, const char *libcuda, const cli_cpu_option *cpu_options, size_t count,
                    cli_device *out) {
  quern_device_info found[DEVICES_MAX];
  quern_error error = {0};
  size_t devices = 0;
  *out = (cli_device){.libcuda = libcuda};
  if (!device || strcmp(device, "cpu") == 0) {
    if (!libcuda) return 0;
    return cli_fail(QN_ERR_ARGUMENT, "--libcuda", "is for GPUs; give --device cuda, too");
  }
  for (size_t i = 0; i < count; i++) {
    if (!cpu_options[i].given) continue;
    return cli_fail(QN_ERR_ARGUMENT, cpu_options[i].name, "is for CPUs, got --device %s", device);
  }
  if (strncmp(device, "cuda", 4) != 0) {
    return cli_fail(QN_ERR_ARGUMENT, "--device", "got '%s', want cpu, cuda or cuda:N", device);
  }
  int code = (int)quern_device_list(libcuda, found, DEVICES_MAX, &devices, &error);
  if (code != 0) return cli_fail_with(code, &error);
  if (devices > DEVICES_MAX) devices = DEVICES_MAX;
  for (size_t i = 0; i < devices; i++) {
    if (strcmp(device, found[i].id) != 0 && !(i == 0 && strcmp(device, "cuda") == 0)) continue;
    out->info = found[i];
    out->name = device;
    return 0;
  }
  return no_such_device(device, found, devices);
}

void cli_device_describe(const quern_model *model, char *out, size_t size) {
  quern_device_info info;
  out[0] = '\0';
  if (!quern_model_device(model, &info)) return;
  snprintf(out, size, "%s, %s (%s), %s of %s", info.id, info.name, info.chip, quern_model_code_form(model),
           quern_model_target(model));
}

void cli_device_put(cli_json *json, const quern_model *model) {
  quern_device_info info;
  if (!quern_model_device(model, &info)) return;
  cli_json_begin(json, "device", '{');
  cli_json_text(json, "id", qn_str_from(info.id));
  cli_json_text(json, "name", qn_str_from(info.name));
  cli_json_text(json, "chip", qn_str_from(info.chip));
  cli_json_int(json, "memory_bytes", (int64_t)info.memory_bytes);
  cli_json_text(json, "code", qn_str_from(quern_model_code_form(model)));
  cli_json_end(json, '}');
}
