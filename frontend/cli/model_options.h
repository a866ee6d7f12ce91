// Options that several commands have, which open what quern run opens: entries of their tables, so that each is called
// and told the same everywhere. FIELD(name) is the command's own: the offset of a field of its struct.
#ifndef QUERN_CLI_MODEL_OPTIONS_H
#define QUERN_CLI_MODEL_OPTIONS_H

#include "frontend/cli/device.h"
#include "frontend/cli/options.h"
#include "frontend/cli/run_open.h"
#include "frontend/cli/settings.h"
#include "frontend/cli/speculate.h"
#include "runtime/base/kv_policy.h"

#define CLI_OPTION_THREADS \
  { "threads", 'j', CLI_COUNT, FIELD(threads), "N", 1, 1024, NULL, "one a physical core", "to compute with" }
#define CLI_OPTION_DECODE_THREADS                                                                                      \
  {                                                                                                                    \
    "decode-threads", 0, CLI_COUNT, FIELD(decode_threads), "N", 1, 1024, NULL, CLI_DECODE_THREADS_STANDARD,            \
        CLI_DECODE_THREADS_HELP                                                                                        \
  }
#define CLI_OPTION_SPIN \
  { "spin", 0, CLI_TEXT, FIELD(spin), "MICROSECONDS", 0, 0, NULL, CLI_SPIN_STANDARD, CLI_SPIN_HELP }
#define CLI_OPTION_GRAIN \
  { "grain", 0, CLI_COUNT, FIELD(grain), "N", 1, 64, NULL, CLI_GRAIN_STANDARD, CLI_GRAIN_HELP }
#define CLI_OPTION_PIN \
  { "pin", 0, CLI_FLAG, FIELD(pin), NULL, 0, 0, NULL, NULL, CLI_PIN_HELP }
#define CLI_OPTION_NO_PIN \
  { "no-pin", 0, CLI_FLAG, FIELD(no_pin), NULL, 0, 0, NULL, NULL, "leave the threads free to move between cores" }
#define CLI_OPTION_HUGE_PAGES                                                                                   \
  {                                                                                                             \
    "huge-pages", 0, CLI_CHOICE, FIELD(huge_pages), "PAGES", 0, 0, RUN_HUGE_PAGES, "madvise", RUN_HUGE_PAGES_HELP \
  }
// `help`: what the command does with the guesses.
#define CLI_OPTION_SPECULATE(help) \
  { "speculate", 0, CLI_TEXT, FIELD(speculate), CLI_SPECULATE_VALUE, 0, 0, NULL, NULL, help }
#define CLI_OPTION_DRAFT_TOKENS                                                                                         \
  {                                                                                                                     \
    "draft-tokens", 0, CLI_TEXT, FIELD(draft_tokens), CLI_DRAFT_TOKENS_VALUE, 0, 0, NULL, CLI_DRAFT_TOKENS_STANDARD,    \
        CLI_DRAFT_TOKENS_HELP                                                                                           \
  }
#define CLI_OPTION_DEVICE \
  { "device", 0, CLI_TEXT, FIELD(device), "cpu|cuda[:N]", 0, 0, NULL, CLI_DEVICE_STANDARD, CLI_DEVICE_HELP }
#define CLI_OPTION_LIBCUDA \
  { "libcuda", 0, CLI_TEXT, FIELD(libcuda), "FILE", 0, 0, NULL, CLI_LIBCUDA_STANDARD, CLI_LIBCUDA_HELP }
#define CLI_OPTION_TARGET                                                                                 \
  {                                                                                                       \
    "target", 't', CLI_TEXT, FIELD(target), "T", 0, 0, NULL, "host",                                      \
        "model file: compile for this (see quern compile --help); artifact: run the code it has for this" \
  }
#define CLI_OPTION_NUMERIC                                                           \
  {                                                                                  \
    "numeric", 0, CLI_CHOICE, FIELD(numeric), "MODE", 0, 0, "int8|f32|half", "int8", \
        "model file: see quern compile --help"                                       \
  }
#define CLI_OPTION_QUANT                                                            \
  {                                                                                 \
    "quant", 0, CLI_TEXT, FIELD(quant), "FORMAT", 0, 0, NULL, "the file's formats", \
        "model file: quantise its float matrices (see quern compile --help)"        \
  }
#define CLI_KV_TYPES       "f32|f16|bf16|int8|int4"
#define CLI_KV_FLOAT_TYPES "f32|f16|bf16"
#define CLI_OPTION_KV_TYPE(types) \
  { "kv-type", 0, CLI_CHOICE, FIELD(kv_type), "TYPE", 0, 0, types, "f32", "model file: how keys and values are kept" }
#define CLI_OPTION_KV_EVICT                                                                       \
  {                                                                                               \
    "kv-evict", 0, CLI_CHOICE, FIELD(kv_evict), "POLICY", 0, 0, QN_KV_POLICY_CHOICES, "none",     \
        "which keys a text with --kv-keep of them keeps beside the first 4. " QN_KV_POLICY_MEANINGS \
        ". An artifact must be compiled for it"                                                   \
  }
#define CLI_OPTION_KV_KEEP                                                  \
  {                                                                         \
    "kv-keep", 0, CLI_COUNT, FIELD(kv_keep), "N", 1, INT32_MAX, NULL, NULL, \
        "with --kv-evict: keys that a text has at most"                     \
  }
#define CLI_OPTION_TEMPLATE                                                                \
  {                                                                                        \
    "template", 0, CLI_TEXT, FIELD(template_path), "FILE", 0, 0, NULL, "the built-in one", \
        "model file: the architecture as JSON"                                             \
  }
// `more` goes on with the sentence.
#define CLI_OPTION_TUNING_DB(more)                                                            \
  {                                                                                           \
    "tuning-db", 0, CLI_TEXT, FIELD(tuning_db), "FILE|none", 0, 0, NULL, "the user's own",    \
        "the database of quern tune, whose records choose the schedules of a model file" more \
  }
#define CLI_OPTION_NO_CACHE                                           \
  {                                                                   \
    "no-cache", 0, CLI_FLAG, FIELD(no_cache), NULL, 0, 0, NULL, NULL, \
        "model file: compile anew and keep nothing in the cache"      \
  }
#define CLI_OPTION_SIGNATURE \
  { "require-signature", 0, CLI_TEXT, FIELD(signed_by), "FILE", 0, 0, NULL, NULL, CLI_SIGNATURE_HELP }

#endif
