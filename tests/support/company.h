// Requests in company: a scheduler on the hand-made model (fake_model.h), with a clock of its own, and requests whose
// tokens and text are known from what each gives alone. Everything asserts.
#ifndef QN_TESTS_SUPPORT_COMPANY_H
#define QN_TESTS_SUPPORT_COMPANY_H

#include <stdatomic.h>

#include "runtime/scheduler.h"
#include "tests/support/fake_model.h"
#include "tests/support/test.h"

// The most of each, and how many keys stay where they are evicted.
enum { QN_COMPANY_PROMPT = 70, QN_COMPANY_TOKENS = 40, QN_COMPANY_CONTEXT = 128, QN_COMPANY_KEEP = 24 };

// What is asked for, and what comes of it alone.
typedef struct qn_asked {
  int32_t prompt[QN_COMPANY_PROMPT];
  int64_t count, max_tokens;
  qn_sampler_options sampler;
  qn_str stops[1];
  size_t stop_count;
  char text[512];  // what it must be
  int32_t tokens[QN_COMPANY_TOKENS + QN_COMPANY_CONTEXT];
  int64_t generated;
  qn_stop_reason reason;
} qn_asked;

// A request among others.
typedef struct qn_running {
  const qn_asked *a;
  uint64_t id;
  char text[512];
  int64_t given;
  bool ended, may_end_early, stop_after;  // stop_after: the callback says so at its third call
  int calls;
  qn_status status;
  qn_request_result result;
  char error[256];
  int *order, place;  // how many ended before it
} qn_running;

typedef struct qn_company {
  qn_artifact artifact, draft;
  qn_threads *threads;
  qn_tokenizer *tokenizer;
  qn_decoder *decoder;
  qn_scheduler *scheduler;
  const qn_allocator *allocator;  // of the scheduler
  qn_diag diag;
} qn_company;

// What is opened from then on, and asked for.
typedef struct qn_company_options {
  bool prefixes;      // shall decoders keep what sequences held?
  bool trees;         // may guesses branch? Of the artifacts that are opened, with rows for 4 paths or more
  bool begin_alike;   // shall many prompts begin with the same tokens?
  const char *evict;  // do decoders give keys up, and by what policy? NULL = none
} qn_company_options;
extern qn_company_options qn_company_how;
extern _Atomic uint64_t qn_company_clock_ns;

void qn_company_open(qn_company *f);
void qn_company_close(qn_company *f);  // no byte is lost
void qn_company_decoder(qn_company *f, int32_t sequences, int64_t pages, const qn_kernel_entry *kernels,
                        qn_decoder **out);
// A decoder and a scheduler.
void qn_company_start(qn_company *f, const qn_scheduler_options *o, int32_t sequences, int64_t pages,
                      const qn_kernel_entry *kernels);
// Whatever is there ends; no page is lost.
void qn_company_finish(qn_company *f);

uint64_t qn_company_below(qn_test_random *random, uint64_t limit);
// Something at random, and what comes of it alone.
void qn_company_ask(qn_company *f, qn_test_random *random, qn_asked *a);
// So many tokens after a prompt of so many.
qn_asked qn_company_plain(int64_t prompt, int64_t tokens);
// What comes of it by qn_generate, in a sequence of its own.
void qn_company_alone(qn_company *f, qn_asked *a);

// A request whose callbacks hold it to what comes alone; `r` is the context.
qn_request_params qn_company_request(const qn_asked *a, qn_running *r);
// One of which only when it ends is looked at; `order` counts those that ended (NULL = nobody does).
qn_request_params qn_company_timed(const qn_asked *a, qn_running *r, int *order);
void qn_company_add(qn_company *f, const qn_request_params *params);
// Steps until all have ended; the clock goes on, a microsecond a step.
void qn_company_step_to_end(qn_company *f);
qn_scheduler_stats qn_company_stats(const qn_company *f);

#endif
