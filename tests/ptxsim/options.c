// Options of the simulator, by ptxsim_set or from the environment (PTXSIM_DEVICES and so on), and the table of devices.
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/ptxsim/driver.h"

static const ps_device known[] = {
#define PS_DEVICE(sm, mps, threads, blocks, shared, l2, clock, bus, gib) \
  {sm, mps, threads, blocks, shared, l2, clock, bus, (uint64_t)(gib) << 30, 0},
#include "tests/ptxsim/device.def"
#undef PS_DEVICE
};

static bool parse_bytes(const char *text, uint64_t *out) {
  char *end;
  uint64_t n = strtoull(text, &end, 10);
  unsigned shift = 0;
  if (end == text) return false;
  switch (tolower((unsigned char)*end)) {
    case 'k': shift = 10; break;
    case 'm': shift = 20; break;
    case 'g': shift = 30; break;
    case '\0': *out = n; return true;
    default: return false;
  }
  *out = n << shift;
  return end[1] == '\0';
}

static bool parse_flag(const char *text, bool *out) {
  if (strcmp(text, "0") != 0 && strcmp(text, "1") != 0) return false;
  *out = text[0] == '1';
  return true;
}

static bool parse_order(const char *text, ps_order *out) {
  static const char *const names[] = {"forward", "reverse", "shuffle"};
  for (int k = 0; k < 3; k++) {
    if (strcmp(text, names[k]) != 0) continue;
    *out = (ps_order)k;
    return true;
  }
  return false;
}

static bool parse_devices(ps_driver *d, const char *text) {
  ps_device found[PS_MAX_DEVICES];
  int count = 0;
  if (strcmp(text, "none") != 0) {
    while (*text != '\0') {
      char *end;
      if (strncmp(text, "sm_", 3) != 0 || count == PS_MAX_DEVICES) return false;
      long sm = strtol(text + 3, &end, 10);
      size_t k = 0;
      while (k < QN_COUNT(known) && known[k].sm != sm) k++;
      if (k == QN_COUNT(known) || (*end != ',' && *end != '\0')) return false;
      found[count++] = known[k];
      text = *end == ',' ? end + 1 : end;
    }
  }
  memcpy(d->devices, found, sizeof found[0] * (size_t)count);
  d->device_count = count;
  for (int k = 0; k < count && d->memory_limit > 0; k++) d->devices[k].memory_bytes = d->memory_limit;
  return true;
}

int ps_option_set(ps_driver *d, const char *name, const char *value) {
  ps_options *o = &d->options;
  uint64_t number = 0;
  bool is_number = parse_bytes(value, &number), ok = false;
  if (strcmp(name, "devices") == 0) {
    ok = parse_devices(d, value);
  } else if (strcmp(name, "memory") == 0) {
    ok = is_number && number > 0;
    if (ok) d->memory_limit = number;
    for (int k = 0; k < d->device_count && ok; k++) d->devices[k].memory_bytes = number;
  } else if (strcmp(name, "driver") == 0) {
    ok = is_number && number >= 1000 && number < 100000;
    if (ok) d->version = (int)number;
  } else if (strcmp(name, "warp_order") == 0) {
    ok = parse_order(value, &o->warp_order);
  } else if (strcmp(name, "block_order") == 0) {
    ok = parse_order(value, &o->block_order);
  } else if (strcmp(name, "seed") == 0) {
    ok = is_number;
    if (ok) o->seed = number;
  } else if (strcmp(name, "perturb") == 0) {
    ok = parse_flag(value, &o->perturb);
  } else if (strcmp(name, "races") == 0) {
    ok = parse_flag(value, &o->check_races);
  } else if (strcmp(name, "initialised") == 0) {
    ok = parse_flag(value, &o->check_initialised);
  } else if (strcmp(name, "threads") == 0) {
    ok = is_number && number <= 64;
    if (ok) o->threads = (uint32_t)number;
  } else if (strcmp(name, "watchdog") == 0) {
    ok = is_number;
    if (ok) o->watchdog = number;
  } else if (strcmp(name, "eager") == 0) {
    ok = parse_flag(value, &d->eager);
  } else {
    snprintf(d->error, sizeof d->error, "ptxsim: there is no option '%s'", name);
    return -1;
  }
  if (!ok) snprintf(d->error, sizeof d->error, "ptxsim: option '%s' does not take '%s'", name, value);
  return ok ? 0 : -1;
}

void ps_options_load(ps_driver *d) {
  extern char **environ;
  if (d->loaded) return;
  d->loaded = true;
  d->version = 13000;
  d->options = (ps_options){.check_races = true, .check_initialised = true, .seed = 1, .watchdog = 1ull << 32};
  parse_devices(d, "sm_80,sm_90,sm_100,sm_120");
  for (char **e = environ; *e != NULL; e++) {
    if (strncmp(*e, "PTXSIM_", 7) != 0) continue;
    char name[32] = "";
    const char *equals = strchr(*e, '=');
    size_t n = equals != NULL ? (size_t)(equals - *e) - 7 : 0;
    if (n == 0 || n >= sizeof name) continue;
    for (size_t k = 0; k < n; k++) name[k] = (char)tolower((unsigned char)(*e)[7 + k]);
    // A program that is tested cannot see what ptxsim_set would say, so a wrong variable is told aloud.
    if (ps_option_set(d, name, equals + 1) != 0) fprintf(stderr, "%s\n", d->error);
  }
}
