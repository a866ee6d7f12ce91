// What guesses tokens, by the command line's words.
#include "frontend/cli/speculate.h"

#include <string.h>

#include "frontend/cli/cli.h"

#define MOST_TOKENS     64
// Of a draft model that is compiled here: for each text, and for the paths of its tree that can go on at a time, twice; as far
// as all texts then have no more than a step should.
#define DRAFT_SEQUENCES 9
#define DRAFT_MOST      72

// The technique whose name the word begins with, up to its end or a colon.
static bool find_technique(const char *word, quern_technique *out) {
  size_t length = strcspn(word, ":");
  const char *name;
  for (int i = 0; (name = quern_technique_name((quern_technique)i)) != NULL; i++) {
    if (strlen(name) != length || memcmp(name, word, length) != 0) continue;
    *out = (quern_technique)i;
    return true;
  }
  return false;
}

static int read_tokens(const char *word, int32_t *out) {
  uint64_t count = 0;
  if (strcmp(word, "auto") == 0) return 0;
  if (!cli_read_count(word, &count) || count < 1 || count > MOST_TOKENS)
    return cli_fail(QN_ERR_ARGUMENT, "--draft-tokens", "got '%s', want auto or a number from 1 to %d", word, MOST_TOKENS);
  *out = (int32_t)count;
  return 0;
}

int cli_speculation_read(const char *speculate, const char *draft_tokens, cli_speculation *out) {
  *out = (cli_speculation){.wanted = speculate != NULL};
  if (!speculate)
    return draft_tokens ? cli_fail(QN_ERR_ARGUMENT, "--draft-tokens", "is for --speculate; give that, too") : 0;
  const char *colon = strchr(speculate, ':');
  bool found = find_technique(speculate, &out->technique);
  bool takes_file = out->technique == QUERN_SPECULATE_DRAFT || out->technique == QUERN_SPECULATE_MEDUSA;
  if (!found || (takes_file ? !colon || !colon[1] : colon != NULL))
    return cli_fail(QN_ERR_ARGUMENT, "--speculate", "got '%s', want %s", speculate, CLI_SPECULATE_VALUE);
  if (takes_file) out->draft_path = colon + 1;
  out->guesses = out->technique != QUERN_SPECULATE_LOOKUP;
  return draft_tokens ? read_tokens(draft_tokens, &out->tokens) : 0;
}

uint32_t cli_speculation_sequences(const cli_speculation *s) {
  return !s->wanted ? 0 : s->tokens ? (uint32_t)s->tokens + 1 : 8;
}

// Guesses are rows of a step, and paths of trees are sequences beside the texts.
uint32_t cli_speculation_sequences_of(const cli_speculation *s, uint32_t texts) {
  uint32_t guesses = cli_speculation_sequences(s);
  return s->guesses ? texts + guesses : texts > guesses ? texts : guesses;
}

static uint32_t draft_sequences(uint32_t texts) {
  uint32_t all = texts < DRAFT_MOST ? texts * DRAFT_SEQUENCES : texts;
  return all < DRAFT_MOST ? all : texts > DRAFT_MOST ? texts : DRAFT_MOST;
}

int cli_speculation_open(cli_speculation *s, const run_source *target, uint32_t texts) {
  if (!s->draft_path) return 0;
  run_source source = *target;
  source.path = s->draft_path;
  source.quant = source.template_path = NULL;  // are of the model's own file
  if (quern_is_artifact(s->draft_path)) {
    source.numeric = source.kv_type = NULL;
    source.jit = source.no_cache = false;
  }
  source.sequences = s->technique == QUERN_SPECULATE_DRAFT ? draft_sequences(texts) : texts;
  source.context = 0;
  source.all_logits = false;
  source.guesses = false;
  source.kv_evict = NULL;
  source.out_artifact = NULL;
  return run_open(&source, &s->draft);
}

quern_speculator_options cli_speculation_options(const cli_speculation *s) {
  return (quern_speculator_options){.size = sizeof(quern_speculator_options),
                                    .technique = s->technique,
                                    .draft = s->draft,
                                    .tokens = s->tokens,
                                    .rejection = s->rejection};
}

void cli_speculation_join(const cli_speculation *s, quern_scheduler_options *out) {
  if (s->technique == QUERN_SPECULATE_MEDUSA) {
    out->heads = s->draft;
  } else {
    out->draft = s->draft;
  }
}

int cli_speculation_create(const cli_speculation *s, quern_session *session, quern_speculator **out_speculator,
                           quern_error *error) {
  quern_speculator_options options = cli_speculation_options(s);
  *out_speculator = NULL;
  return s->wanted ? (int)quern_speculator_create(session, &options, out_speculator, error) : 0;
}

void cli_speculation_free(cli_speculation *s) {
  quern_model_close(s->draft);
  *s = (cli_speculation){0};
}
