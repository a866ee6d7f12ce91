// The helpers that unit tests share.
#include "tests/support/test.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define QN_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define QN_ASAN 1
#endif
#endif

#define MEMORY_LIMIT ((rlim_t)4 << 30)

size_t qn_test_stride(size_t plain, size_t sanitized) {
  const char *all = getenv("QUERN_TEST_ALL");
  if (all && *all && strcmp(all, "0") != 0) return 1;
#ifdef QN_ASAN
  (void)plain;
  return sanitized;
#else
  (void)sanitized;
  return plain;
#endif
}

// ---- main -----------------------------------------------------------------------------------------------------

TCase *qn_test_case(const char *name, const TTest *const *tests, size_t count) {
  TCase *tcase = tcase_create(name);
  for (size_t i = 0; i < count; i++) tcase_add_test(tcase, tests[i]);
  return tcase;
}

// A test that runs away fails instead of taking the machine's memory with it. Sanitizers map far more than they use.
static void limit_memory(void) {
#ifndef QN_ASAN
  struct rlimit limit;
  if (getrlimit(RLIMIT_DATA, &limit) == 0 && limit.rlim_cur > MEMORY_LIMIT) {
    limit.rlim_cur = MEMORY_LIMIT;
    setrlimit(RLIMIT_DATA, &limit);
  }
#endif
}

int qn_test_main(const char *file, const qn_test_case_fn *cases, size_t count, int argc, char **argv) {
  const char *base = strrchr(file, '/');
  base = base ? base + 1 : file;
  setenv("CK_DEFAULT_TIMEOUT", "300", 0);  // seconds a test; Check's own 4 are too few under sanitizers
  if (argc > 1) setenv("CK_RUN_CASE", argv[1], 1);
  limit_memory();
  Suite *suite = suite_create(base);
  for (size_t i = 0; i < count; i++) suite_add_tcase(suite, cases[i]());
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  int failed = srunner_ntests_failed(runner), run = srunner_ntests_run(runner);
  srunner_free(runner);
  if (run == 0) fprintf(stderr, "%s: no test ran\n", base);
  return failed == 0 && run > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

void qn_test_abort(const char *file, int line, const char *condition, const char *format, ...) {
  char text[512];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  ck_abort_msg("%s:%d: '%s' is false: %s", file, line, condition, text);
}

void qn_test_skip(const char *format, ...) {
  va_list args;
  va_start(args, format);
  fputs("SKIP: ", stdout);
  vprintf(format, args);
  putchar('\n');
  va_end(args);
  fflush(NULL);
  exit(77);
}

// ---- memory ---------------------------------------------------------------------------------------------------

// Each block has its size in front and a known pattern around, so that wrong sizes and overruns are seen.
typedef struct block_header {
  size_t size, magic;
} block_header;
enum { TAIL_BYTES = 8 };
#define BLOCK_MAGIC ((size_t)0x51424C4Bu)

static void check_block(const block_header *header, size_t old_size) {
  static const unsigned char tail[TAIL_BYTES] = {0xA5, 0xA5, 0xA5, 0xA5, 0xA5, 0xA5, 0xA5, 0xA5};
  qn_check(header->magic == BLOCK_MAGIC, "a pointer that this allocator did not give, or freed twice");
  qn_check(header->size == old_size, "a block of %zu bytes is given back as %zu", header->size, old_size);
  qn_check(memcmp((const char *)(header + 1) + old_size, tail, TAIL_BYTES) == 0, "written past a block's end");
}

static void *test_reallocate(void *context, void *pointer, size_t old_size, size_t new_size) {
  qn_test_memory *memory = context;
  block_header *header = pointer ? (block_header *)pointer - 1 : NULL, *fresh = NULL;
  if (header) check_block(header, old_size);
  if (new_size > (pointer ? old_size : 0)) {
    memory->allocations++;
    if (memory->fail_at > 0 && memory->allocations >= memory->fail_at) return NULL;
  }
  if (new_size > 0) {  // always a new place, so that stale pointers show
    fresh = new_size < SIZE_MAX - 4096 ? malloc(sizeof *fresh + new_size + TAIL_BYTES) : NULL;
    if (!fresh) return NULL;
    *fresh = (block_header){new_size, BLOCK_MAGIC};
    memset(fresh + 1, 0xCD, new_size);
    memset((char *)(fresh + 1) + new_size, 0xA5, TAIL_BYTES);
    if (header) memcpy(fresh + 1, pointer, old_size < new_size ? old_size : new_size);
    memory->live_bytes += new_size;
    memory->live_blocks++;
  }
  if (header) {
    memory->live_bytes -= old_size;
    memory->live_blocks--;
    memset(header, 0xDD, sizeof *header + old_size);
    free(header);
  }
  if (memory->live_bytes > memory->peak_bytes) memory->peak_bytes = memory->live_bytes;
  return fresh ? fresh + 1 : NULL;
}

void qn_test_memory_init(qn_test_memory *memory) { *memory = (qn_test_memory){.allocator = {memory, test_reallocate}}; }

qn_test_memory *qn_test_allocator_memory(void) {
  static qn_test_memory memory;
  if (!memory.allocator.reallocate) qn_test_memory_init(&memory);
  return &memory;
}

const qn_allocator *qn_test_allocator(void) { return &qn_test_allocator_memory()->allocator; }

void qn_test_failing_allocations(qn_status (*body)(const qn_allocator *allocator, void *context), void *context) {
  for (size_t fail_at = 1;; fail_at++) {
    qn_test_memory memory;
    qn_test_memory_init(&memory);
    memory.fail_at = fail_at;
    qn_status status = body(&memory.allocator, context);
    ck_assert_msg(memory.live_blocks == 0, "allocation %zu fails: %zu blocks (%zu bytes) are left", fail_at,
                  memory.live_blocks, memory.live_bytes);
    if (memory.allocations < fail_at) {
      ck_assert_msg(status == QN_OK, "no allocation fails: got %s", qn_status_name(status));
      return;
    }
    ck_assert_msg(status == QN_ERR_NOMEM, "allocation %zu fails: got %s, want nomem", fail_at, qn_status_name(status));
  }
}

// ---- files ----------------------------------------------------------------------------------------------------

static char temp_dir[256];
static pid_t temp_dir_owner;

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *walk) {
  (void)info, (void)type, (void)walk;
  return remove(path);
}

static void remove_temp_dir(void) {
  if (temp_dir[0] && temp_dir_owner == getpid()) nftw(temp_dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

const char *qn_test_temp_dir(void) {
  if (!temp_dir[0] || temp_dir_owner != getpid()) {
    const char *parent = getenv("TMPDIR");
    snprintf(temp_dir, sizeof temp_dir, "%s/quern-test-XXXXXX", parent && *parent ? parent : "/tmp");
    ck_assert_msg(mkdtemp(temp_dir) != NULL, "mkdtemp %s: %s", temp_dir, strerror(errno));
    temp_dir_owner = getpid();
    atexit(remove_temp_dir);
  }
  return temp_dir;
}

static char *next_path(void) {
  static char paths[16][1024];
  static unsigned next;
  return paths[next++ % 16];
}

const char *qn_test_temp_path(const char *name) {
  char *path = next_path();
  snprintf(path, sizeof(char[1024]), "%s/%s", qn_test_temp_dir(), name);
  return path;
}

const char *qn_test_source(const char *relative) {
  char *path = next_path();
  snprintf(path, sizeof(char[1024]), "%s/%s", QUERN_SOURCE_DIR, relative);
  return path;
}

const char *qn_test_shared(const char *relative) {
  const char *root = getenv("QUERN_SHARED");
  char *path = next_path();
  if (root && *root) {
    snprintf(path, sizeof(char[1024]), "%s/%s", root, relative);
  } else {
    snprintf(path, sizeof(char[1024]), "%s/../shared/%s", QUERN_SOURCE_DIR, relative);
  }
  return access(path, R_OK) == 0 ? path : NULL;
}

void qn_test_write_file(const char *path, const void *data, size_t size) {
  FILE *file = fopen(path, "wb");
  ck_assert_msg(file != NULL, "%s: %s", path, strerror(errno));
  ck_assert_uint_eq(fwrite(data, 1, size, file), size);
  ck_assert_int_eq(fclose(file), 0);
}

// ---- numbers --------------------------------------------------------------------------------------------------

uint64_t qn_test_random_u64(qn_test_random *random) {
  if (random->state == 0) random->state = 0x9E3779B97F4A7C15u;
  random->state ^= random->state >> 12;
  random->state ^= random->state << 25;
  random->state ^= random->state >> 27;
  return random->state * 0x2545F4914F6CDD1Du;
}

double qn_test_random_unit(qn_test_random *random) { return (double)(qn_test_random_u64(random) >> 11) * 0x1p-53; }
