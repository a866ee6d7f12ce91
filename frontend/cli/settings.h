// Threads, pages and waiting of run and bench: what options say, and where they say nothing what quern tune found for
// the model, or else what quern machine found.
#ifndef QUERN_CLI_SETTINGS_H
#define QUERN_CLI_SETTINGS_H

#include "frontend/quern.h"

// Options, zero or NULL where none was given.
typedef struct cli_settings_options {
  uint64_t threads, decode_threads;
  const char *spin;  // microseconds
  uint64_t grain;
  bool pin, no_pin, quiet;
  const char *huge_pages;  // a word of RUN_HUGE_PAGES
  const char *tuning_db;   // as in quern_machine_get_settings
} cli_settings_options;

typedef struct cli_settings {
  int threads, decode_threads;
  bool no_pin;
  int64_t spin_us;
  int grain;
  const char *huge_pages;  // a word of RUN_HUGE_PAGES; NULL = the default
} cli_settings;

// 0, or an exit code after a message about an option. A database that cannot be read is noted on stderr (unless quiet),
// and defaults are taken.
int cli_settings_get(const cli_settings_options *options, cli_settings *out);
// Takes what quern tune found for this model, where options say nothing. A database that cannot be read was noted.
void cli_settings_of_model(const cli_settings_options *options, const quern_model *model, cli_settings *settings);
// Writes them into the options of a session.
void cli_settings_apply(const cli_settings *settings, quern_session_options *out);

#define CLI_THREADS_STANDARD        "as quern tune or machine found, else one a physical core"
#define CLI_DECODE_THREADS_STANDARD "as quern tune or machine found, else all; all with --threads"
#define CLI_DECODE_THREADS_HELP     "of them, for steps of one token a sequence: memory may be read as fast by fewer"
#define CLI_SPIN_STANDARD           "as quern tune or machine found, else 40"
#define CLI_SPIN_HELP               "how long a thread that waits for others spins before it sleeps; 0 is not at all"
#define CLI_GRAIN_STANDARD          "as quern tune found, else 2"
#define CLI_GRAIN_HELP              "of what is left of its share of a kernel a thread takes one part of N + 1; 1 is few large pieces"
#define CLI_PIN_HELP                "bind each thread to a core, whatever quern machine found"

#endif
