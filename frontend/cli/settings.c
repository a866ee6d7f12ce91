// What options say, before what is stored for this machine, before what a session does by itself.
#include "frontend/cli/settings.h"

#include <stdio.h>

#include "frontend/cli/cli.h"
#include "frontend/cli/run_open.h"

#define MOST_SPIN_US 1000000

static int read_spin(const char *text, int64_t *out) {
  uint64_t value;
  if (!text) return 0;
  if (!cli_read_count(text, &value) || value > MOST_SPIN_US)
    return cli_fail(QN_ERR_ARGUMENT, "--spin", "got '%s', want microseconds from 0 to %d", text, MOST_SPIN_US);
  *out = value > 0 ? (int64_t)value : -1;
  return 0;
}

static void read_stored(const cli_settings_options *o, cli_settings *out) {
  static const char *const words[] = {"madvise", "off", "thp", "hugetlb"};
  quern_machine_settings stored;
  quern_error error = {0};
  bool found;
  int code = quern_machine_get_settings(o->tuning_db, &stored, &found, &error);
  if (code != 0 && !o->quiet) fprintf(stderr, "quern: note: the machine's settings are not used: %s\n", error.text);
  if (code != 0 || !found) return;
  *out = (cli_settings){.threads = stored.threads_prefill,
                        .decode_threads = stored.threads_decode,
                        .no_pin = !stored.pin,
                        .spin_us = stored.spin_us,
                        .grain = stored.grain,
                        .huge_pages = words[stored.huge_pages]};
}

int cli_settings_get(const cli_settings_options *o, cli_settings *out) {
  *out = (cli_settings){0};
  if (o->pin && o->no_pin) return cli_fail(QN_ERR_ARGUMENT, "--pin", "got --no-pin too, want one of them");
  if (o->threads > 0 && o->decode_threads > o->threads)
    return cli_fail(QN_ERR_ARGUMENT, "--decode-threads", "got %llu, want at most the %llu of --threads",
                    (unsigned long long)o->decode_threads, (unsigned long long)o->threads);
  read_stored(o, out);
  if (o->threads > 0) {  // one number for everything, unless two are given
    out->threads = (int)o->threads;
    out->decode_threads = 0;
  }
  if (o->decode_threads > 0) out->decode_threads = (int)o->decode_threads;
  if (o->pin || o->no_pin) out->no_pin = o->no_pin;
  if (o->huge_pages) out->huge_pages = o->huge_pages;
  if (o->grain > 0) out->grain = (int)o->grain;
  return read_spin(o->spin, &out->spin_us);
}

void cli_settings_of_model(const cli_settings_options *o, const quern_model *model, cli_settings *settings) {
  quern_machine_settings tuned = {0};
  bool found = false;
  if (quern_model_get_settings(model, o->tuning_db, (int)o->threads, &tuned, &found, NULL) != 0 || !found) return;
  if (o->threads == 0) settings->threads = tuned.threads_prefill;
  if (o->threads == 0 && o->decode_threads == 0) settings->decode_threads = tuned.threads_decode;
  if (o->decode_threads > 0 && settings->threads > 0 && settings->threads < settings->decode_threads)
    settings->threads = settings->decode_threads;
  if (!o->spin) settings->spin_us = tuned.spin_us;
  if (o->grain == 0) settings->grain = tuned.grain;
}

void cli_settings_apply(const cli_settings *settings, quern_session_options *out) {
  out->threads = settings->threads;
  out->decode_threads = settings->decode_threads;
  out->no_pin = settings->no_pin;
  out->spin_us = settings->spin_us;
  out->grain = settings->grain;
}
