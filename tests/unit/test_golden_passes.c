// The loop passes, one at a time, on small texts: tests/golden/passes/<pass>/<case>.in.txt holds a schedule, a line
// "---" and a kernel; <case>.out.txt the kernel afterwards, or "error <status>: <message>". Folder `pipeline` runs all
// passes; in `specialise` a first line "T = 4" names the symbol and its value; "stages = 4", "stage_bytes = 1024"
// and "parts = 8" are of the GPU's schedule. Lines that begin with '#' are comments.
// QUERN_UPDATE_GOLDEN=1 rewrites the outputs.
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "passes/gpu_pass.h"
#include "passes/loop_pass.h"
#include "runtime/base/file.h"
#include "runtime/base/vec.h"
#include "tests/support/test.h"

typedef struct text_case {
  qn_arena arena;
  qn_schedule schedule;
  qn_gpu_schedule gpu;
  qn_symbol symbol;  // of specialise
  int64_t value;
  qn_lkernel *kernel;
} text_case;

// Cuts the next line, without its end, off the front of *text.
static qn_str take_line(qn_str *text) {
  const char *end = memchr(text->data, '\n', text->length);
  size_t length = end ? (size_t)(end - text->data) : text->length;
  qn_str line = {text->data, length};
  text->data += length + (end != NULL);
  text->length -= length + (end != NULL);
  return line;
}

// A line "T = 4".
static bool parse_symbol(qn_str line, text_case *c) {
  if (line.length < 5 || line.data[1] != ' ' || !qn_symbol_parse((qn_str){line.data, 1}, &c->symbol)) return false;
  c->value = strtoll(line.data + 4, NULL, 10);
  return true;
}

// A line "stages = 4", "stage_bytes = 1024" or "parts = 8".
static bool parse_gpu(qn_str line, text_case *c) {
  const struct {
    const char *name;
    int *value;
  } fields[] = {{"stages = ", &c->gpu.stages}, {"stage_bytes = ", &c->gpu.stage_bytes}, {"parts = ", &c->gpu.parts}};
  for (size_t i = 0; i < QN_COUNT(fields); i++) {
    size_t length = strlen(fields[i].name);
    if (line.length <= length || memcmp(line.data, fields[i].name, length) != 0) continue;
    *fields[i].value = (int)strtol(line.data + length, NULL, 10);
    return true;
  }
  return false;
}

static void read_case(const char *path, qn_str text, text_case *c) {
  qn_diag diag = {0};
  qn_buf knobs;
  qn_buf_init(&knobs, qn_test_allocator());
  while (text.length > 0) {
    qn_str line = take_line(&text);
    if (qn_str_is(line, "---")) break;
    if (line.length == 0 || line.data[0] == '#' || parse_symbol(line, c) || parse_gpu(line, c)) continue;
    qn_buf_append(&knobs, line.data, line.length);
    qn_buf_putc(&knobs, '\n');
  }
  qn_assert_ok(&diag, qn_schedule_parse(path, qn_str_from(qn_buf_text(&knobs)), &c->schedule, &diag));
  qn_buf_deinit(&knobs);
  qn_lkernel **kernels = NULL;
  size_t count = 0;
  qn_assert_ok(&diag, qn_lkernels_parse(path, text, &c->arena, &kernels, &count, &diag));
  ck_assert_msg(count == 1, "%s: got %zu kernels, want 1", path, count);
  c->kernel = kernels[0];
  qn_assert_ok(&diag, qn_lkernel_verify(c->kernel, &diag));
}

static qn_status run_pass(const char *pass, qn_loop_pass_context *context, const text_case *c) {
  if (strcmp(pass, "pipeline") == 0) return qn_loop_pipeline(context, NULL, NULL);
  if (strcmp(pass, "gpu_pipeline") == 0) return qn_gpu_pipeline(context, NULL, NULL);
  if (strcmp(pass, "spread_rows") == 0) return qn_pass_spread_rows(context);
  if (strcmp(pass, "copy_tiles") == 0) return qn_pass_copy_tiles(context);
  if (strcmp(pass, "map_mma") == 0) return qn_pass_map_mma(context);
  if (strcmp(pass, "map_lanes") == 0) return qn_pass_map_lanes(context);
  if (strcmp(pass, "join_chains") == 0) return qn_pass_join_chains(context);
  if (strcmp(pass, "stage_streams") == 0) return qn_pass_stage_streams(context);
  if (strcmp(pass, "split_chains") == 0) return qn_pass_split_chains(context);
  if (strcmp(pass, "share_lanes") == 0) return qn_pass_share_lanes(context);
  if (strcmp(pass, "specialise") == 0) return qn_pass_specialise(context, c->symbol, c->value);
#define QN_LOOP_PASS(name, text) \
  if (strcmp(pass, #name) == 0) return qn_pass_##name(context);
#include "passes/loop_passes.def"
#undef QN_LOOP_PASS
  ck_abort_msg("there is no loop pass '%s'", pass);
  return QN_ERR_ARGUMENT;
}

// What the pass makes of the case: a kernel or an error, as text.
static void run_case(const char *pass, const char *path, qn_str text, qn_buf *out) {
  text_case c = {.symbol = QN_SYM_NONE};
  qn_diag diag = {0};
  qn_lbuild build;
  qn_arena_init(&c.arena, qn_test_allocator());
  read_case(path, text, &c);
  qn_lbuild_open(&build, &c.arena, c.kernel);
  qn_loop_pass_context context = {.build = &build, .schedule = &c.schedule, .diag = &diag, .gpu = &c.gpu};
  qn_status status = run_pass(pass, &context, &c);
  if (status != QN_OK) {
    qn_buf_printf(out, "error %s: %s\n", qn_status_name(status), diag.text);
  } else {
    qn_assert_ok(&diag, qn_lkernel_verify(c.kernel, &diag));
    qn_lkernel_print(c.kernel, out);
  }
  qn_arena_deinit(&c.arena);
}

// Compares with, or writes, the expected output of one case; true when it is as expected.
static bool check_case(const char *pass, const char *folder, const char *name) {
  static const char suffix[] = ".in.txt";
  char in_path[1024], out_path[1024];
  int stem = (int)(strlen(name) - strlen(suffix));
  snprintf(in_path, sizeof in_path, "%s/%s", folder, name);
  snprintf(out_path, sizeof out_path, "%s/%.*s.out.txt", folder, stem, name);
  qn_diag diag = {0};
  char *text = NULL, *want = NULL;
  size_t size = 0, want_size = 0;
  qn_assert_ok(&diag, qn_file_read(in_path, QN_TEXT_MAX, qn_test_allocator(), &text, &size, &diag));
  qn_buf got;
  qn_buf_init(&got, qn_test_allocator());
  run_case(pass, in_path, (qn_str){text, size}, &got);
  const char *update = getenv("QUERN_UPDATE_GOLDEN");
  bool same = true;
  if (update && strcmp(update, "1") == 0) {
    qn_test_write_file(out_path, qn_buf_text(&got), got.length);
  } else {
    qn_assert_ok(&diag, qn_file_read(out_path, QN_TEXT_MAX, qn_test_allocator(), &want, &want_size, &diag));
    same = qn_str_equal((qn_str){want, want_size}, (qn_str){qn_buf_text(&got), got.length});
    if (!same) {
      fprintf(stderr, "%s: got\n%s---- want (QUERN_UPDATE_GOLDEN=1 rewrites)\n%s", in_path, qn_buf_text(&got), want);
    }
    qn_free(qn_test_allocator(), want, want_size + 1);
  }
  qn_free(qn_test_allocator(), text, size + 1);
  qn_buf_deinit(&got);
  return same;
}

static int is_input(const struct dirent *entry) {
  size_t length = strlen(entry->d_name);
  return length > 7 && strcmp(entry->d_name + length - 7, ".in.txt") == 0;
}

// Every case in the pass's folder.
static void check_pass(const char *pass) {
  char folder[512];
  struct dirent **entries = NULL;
  snprintf(folder, sizeof folder, "%s/%s", qn_test_source("tests/golden/passes"), pass);
  int count = scandir(folder, &entries, is_input, alphasort), failed = 0;
  ck_assert_msg(count > 0, "%s: no cases", folder);
  for (int i = 0; i < count; i++) {
    if (!check_case(pass, folder, entries[i]->d_name)) failed++;
    free(entries[i]);
  }
  free(entries);
  ck_assert_msg(failed == 0, "%s: %d of %d cases differ", pass, failed, count);
}

START_TEST(test_pipeline) { check_pass("pipeline"); }
END_TEST
START_TEST(test_gpu_pipeline) { check_pass("gpu_pipeline"); }
END_TEST
START_TEST(test_spread_rows) { check_pass("spread_rows"); }
END_TEST
START_TEST(test_copy_tiles) { check_pass("copy_tiles"); }
END_TEST
START_TEST(test_map_mma) { check_pass("map_mma"); }
END_TEST
START_TEST(test_map_lanes) { check_pass("map_lanes"); }
END_TEST
START_TEST(test_join_chains) { check_pass("join_chains"); }
END_TEST
START_TEST(test_stage_streams) { check_pass("stage_streams"); }
END_TEST
START_TEST(test_split_chains) { check_pass("split_chains"); }
END_TEST
START_TEST(test_share_lanes) { check_pass("share_lanes"); }
END_TEST
START_TEST(test_specialise) { check_pass("specialise"); }
END_TEST
#define QN_LOOP_PASS(name, text) \
  START_TEST(test_##name) { check_pass(#name); } \
  END_TEST
#include "passes/loop_passes.def"
#undef QN_LOOP_PASS

static TCase *golden(void) {
  const TTest *const tests[] = {
      test_pipeline,     test_gpu_pipeline, test_map_mma,    test_map_lanes, test_join_chains, test_stage_streams,
      test_split_chains, test_share_lanes,  test_specialise, test_spread_rows, test_copy_tiles,
#define QN_LOOP_PASS(name, text) test_##name,
#include "passes/loop_passes.def"
#undef QN_LOOP_PASS
  };
  return qn_test_case("golden", tests, sizeof tests / sizeof tests[0]);
}

QN_TEST_MAIN(golden)
