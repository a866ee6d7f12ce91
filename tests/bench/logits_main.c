// quern-logits: runs an artifact by the runtime's lower half alone (no tokenizer) and prints the bits of its logits, a
// line a token count, so that two machines, two targets or two builds can be compared by diff. It needs neither hwloc
// nor PCRE2 when it is linked with tests/support/topology_plain.c: tests/e2e/aarch64.sh builds it for other processors.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/hash.h"
#include "runtime/decode.h"

static int usage(FILE *to, int code) {
  fprintf(to,
          "usage: quern-logits ARTIFACT [--target T] [--threads N] [--counts N,N,...] [--chunk N]\n"
          "  --target   code of this target; else the best that runs here\n"
          "  --threads  1 by default\n"
          "  --counts   how many tokens to evaluate, each time from an empty cache, and three more one by one;\n"
          "             1,2,3,16,17 by default\n"
          "  --chunk    tokens a step at most; 0, the default, is as many as the artifact allows\n"
          "prints the target, and for each count a hash of all its logits and the first of the last row\n");
  return code;
}

typedef struct settings {
  const char *path, *target, *counts;
  int threads;
  int64_t chunk;
} settings;

static int read_settings(int argc, char **argv, settings *out) {
  *out = (settings){.threads = 1, .counts = "1,2,3,16,17"};
  for (int i = 1; i < argc; i++) {
    const char *value = i + 1 < argc ? argv[i + 1] : NULL;
    if (strcmp(argv[i], "--help") == 0) return usage(stdout, -1);
    if (argv[i][0] != '-') {
      out->path = argv[i];
      continue;
    }
    if (!value) return usage(stderr, QN_ERR_ARGUMENT);
    if (strcmp(argv[i], "--target") == 0) {
      out->target = value;
    } else if (strcmp(argv[i], "--threads") == 0) {
      out->threads = atoi(value);
    } else if (strcmp(argv[i], "--counts") == 0) {
      out->counts = value;
    } else if (strcmp(argv[i], "--chunk") == 0) {
      out->chunk = atoll(value);
    } else {
      return usage(stderr, QN_ERR_ARGUMENT);
    }
    i++;
  }
  return out->path && out->threads > 0 ? 0 : usage(stderr, QN_ERR_ARGUMENT);
}

// Evaluates `count` tokens at once, then three more one by one; the logits of all of them go into the line.
static qn_status run_count(qn_decoder *decoder, int64_t count, qn_diag *diag) {
  enum { MORE = 3 };
  size_t vocab = (size_t)qn_decoder_vocab(decoder), row = vocab * sizeof(float);
  int32_t *tokens = malloc(((size_t)count + MORE) * sizeof *tokens);
  float *logits = malloc(((size_t)count + MORE) * row);
  if (!tokens || !logits) return qn_fail_nomem(diag, "quern-logits", "the logits");
  for (int64_t i = 0; i < count + MORE; i++) tokens[i] = (int32_t)((i * 37 + 11) % (int64_t)vocab);
  qn_decoder_reset(decoder, 0);
  qn_status status = qn_decoder_eval(decoder, 0, tokens, (size_t)count, logits, NULL, diag);
  for (size_t i = (size_t)count; status == QN_OK && i < (size_t)count + MORE; i++)
    status = qn_decoder_eval(decoder, 0, tokens + i, 1, logits + i * vocab, NULL, diag);
  if (status == QN_OK) {
    const float *last = logits + ((size_t)count + MORE - 1) * vocab;
    printf("%" PRId64 " tokens: hash %016" PRIx64 ", last row %a %a %a\n", count,
           qn_hash64(logits, ((size_t)count + MORE) * row, 0), (double)last[0], (double)last[1 % vocab],
           (double)last[2 % vocab]);
  }
  free(tokens);
  free(logits);
  return status;
}

static qn_status run(const settings *s, qn_decoder *decoder, qn_diag *diag) {
  printf("target %s\n", qn_executor_target(qn_decoder_executor(decoder)));
  for (const char *at = s->counts; *at;) {
    char *end;
    long long count = strtoll(at, &end, 10);
    if (end == at || count < 1 || count > qn_decoder_context(decoder) - 3)
      return qn_fail(diag, QN_ERR_ARGUMENT, "--counts", "got '%s', want numbers from 1 to %" PRId64, at,
                     qn_decoder_context(decoder) - 3);
    QN_TRY(run_count(decoder, count, diag));
    at = end + (*end == ',');
  }
  return QN_OK;
}

int main(int argc, char **argv) {
  settings s;
  int code = read_settings(argc, argv, &s);
  if (code != 0) return code < 0 ? 0 : code;
  qn_diag diag = {0};
  qn_artifact artifact;
  qn_threads *threads = NULL;
  qn_decoder *decoder = NULL;
  qn_decoder_options options = {.chunk = s.chunk, .executor = {.target = s.target}};
  qn_status status = qn_artifact_open(&artifact, s.path, &diag);
  bool opened = status == QN_OK;
  if (status == QN_OK) status = qn_threads_create(s.threads, false, qn_allocator_default(), &threads, &diag);
  if (status == QN_OK)
    status = qn_decoder_create(&artifact, threads, &options, qn_allocator_default(), &decoder, &diag);
  if (status == QN_OK) status = run(&s, decoder, &diag);
  if (status != QN_OK) fprintf(stderr, "quern-logits: %s\n", diag.text);
  qn_decoder_destroy(decoder);
  if (threads) qn_threads_destroy(threads);
  if (opened) qn_artifact_close(&artifact);
  return (int)status;
}
