// Functions of quern.h: version and lists, what a file is, descriptions of a model, tuning records as text, the fields
// of an explanation, and models that are kept in the cache.
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "frontend/quern.h"
#include "tests/support/public.h"

static const char *nano(void) { return qn_test_source("models/nano/nano.gguf"); }

START_TEST(names_and_lists) {
  int first, second, third;
  ck_assert_int_eq(sscanf(quern_version(), "%d.%d.%d", &first, &second, &third), 3);
  ck_assert_ptr_nonnull(strstr(quern_targets(), "x86-64-v3"));
  ck_assert_ptr_eq(quern_targets(), quern_targets());
  ck_assert_ptr_nonnull(strstr(quern_quant_formats(), "q4_k, "));
  char target[64];
  OK(quern_gpu_target("sm_90", target, sizeof target, error));
  ck_assert_ptr_eq(strstr(target, "cuda:sm_90"), target);
  FAILS(QUERN_ERR_UNSUPPORTED, "sm_1", quern_gpu_target("sm_1", target, sizeof target, error));
  size_t count;
  const quern_field *fields = quern_explain_fields(QUERN_EXPLAIN_KERNEL, &count);
  bool named = false;
  for (size_t i = 0; i < count; i++) named = named || strcmp(fields[i].key, "kernel") == 0;
  ck_assert(named && count > 10);
}
END_TEST

START_TEST(what_a_file_is) {
  const char *path = qn_test_temp_path("head.qn");
  char *text = NULL;
  qn_test_write_file(path, "quern\r\n\032 and more", 17);
  ck_assert(quern_is_artifact(path) && !quern_is_artifact(nano()));
  ck_assert(!quern_is_artifact(qn_test_temp_path("none")));
  quern_inspect_kv_options kv = {.size = sizeof kv, .sequences = 3, .context = 100, .kv_type = "f16"};
  OK(quern_inspect_kv(nano(), &kv, &text, error));
  ck_assert_ptr_nonnull(strstr(text, "kv_pages = 6: 3 sequences of 100 tokens\n"));
  free(text);
  kv.context = -1;
  FAILS(QUERN_ERR_ARGUMENT, "got 3 sequences of -1 tokens", quern_inspect_kv(nano(), &kv, &text, error));
  ck_assert_ptr_null(text);
  OK(quern_inspect(nano(), NULL, &text, error));
  ck_assert_msg(strstr(text, "architecture") != NULL, "%s", text);
  free(text);
  FAILS(QUERN_ERR_ARGUMENT, "colour", quern_inspect(nano(), "colour", &text, error));
  FAILS(QUERN_ERR_FORMAT, "", quern_inspect(path, NULL, &text, error));
}
END_TEST

START_TEST(paths_in_the_cache) {
  char *path = NULL, *again = NULL, *other = NULL;
  quern_compile_options options = {.size = sizeof options, .tuning_db = "none"};
  ck_assert_int_eq(setenv("XDG_CACHE_HOME", qn_test_temp_dir(), 1), 0);
  OK(quern_cache_path(nano(), &options, &path, error));
  OK(quern_cache_path(nano(), &options, &again, error));
  options.context_tokens = 99;
  OK(quern_cache_path(nano(), &options, &other, error));
  ck_assert_str_eq(path, again);
  ck_assert_str_ne(path, other);
  ck_assert_ptr_eq(strstr(path, qn_test_temp_dir()), path);
  free(path), free(again), free(other);
  FAILS(QUERN_ERR_IO, "none.gguf", quern_cache_path(qn_test_temp_path("none.gguf"), &options, &path, error));
  ck_assert_ptr_null(path);
  options.size = 1;
  FAILS(QUERN_ERR_ARGUMENT, "got size 1", quern_cache_path(nano(), &options, &path, error));
}
END_TEST

START_TEST(records_as_text) {
  const char *db = qn_test_temp_path("tuning.db"), *text = qn_test_temp_path("records.txt");
  quern_tuning_counts counts = {.size = sizeof counts};
  quern_machine_settings settings;
  bool found = true;
  FAILS(QUERN_ERR_IO, "none.txt", quern_tuning_import(db, qn_test_temp_path("none.txt"), NULL, NULL, &counts, error));
  OK(quern_tuning_export(db, text, &counts, error));  // made by the import that failed: empty
  ck_assert(counts.records == 0 && counts.machines == 0);
  OK(quern_tuning_import(db, text, NULL, NULL, &counts, error));
  ck_assert(counts.records == 0 && counts.rejected == 0);
  counts.size = 0;
  FAILS(QUERN_ERR_ARGUMENT, "quern_tuning_counts: got size 0", quern_tuning_export(db, text, &counts, error));
  OK(quern_machine_get_settings(db, &settings, &found, error));
  ck_assert(!found && settings.pin);
}
END_TEST

static void count_text(void *context, const char *name, const char *text, size_t length) {
  ck_assert_str_eq(name, "lower");
  *(size_t *)context += strlen(text) == length ? length : 0;
}

START_TEST(one_stage) {
  size_t bytes = 0;
  quern_compile_options options = {
      .size = sizeof options, .tuning_db = "none", .dump = count_text, .dump_context = &bytes};
  OK(quern_emit(nano(), "lower", &options, error));
  ck_assert_uint_gt(bytes, 1000);
  FAILS(QUERN_ERR_ARGUMENT, "lover", quern_emit(nano(), "lover", &options, error));
  options.tuning_use = &(quern_tuning_use){0};
  FAILS(QUERN_ERR_ARGUMENT, "quern_tuning_use: got size 0", quern_emit(nano(), "lower", &options, error));
  quern_tune_report report = {0};
  FAILS(QUERN_ERR_ARGUMENT, "quern_tune_report: got size 0", quern_tune(nano(), NULL, &report, error));
  report.size = offsetof(quern_tune_report, owned);  // what it owned could not be freed
  FAILS(QUERN_ERR_ARGUMENT, "want sizeof(quern_tune_report) in it", quern_tune(nano(), NULL, &report, error));
  FAILS(QUERN_ERR_ARGUMENT, "quern_tune_report: got NULL, want a struct", quern_tune(nano(), NULL, NULL, error));
  quern_tune_report_free(&report);
}
END_TEST

// --- the cache

typedef struct heard {
  char text[4096];
} heard;

static void hear(void *context, quern_log_level level, const char *text) {
  heard *h = context;
  size_t used = strlen(h->text);
  snprintf(h->text + used, sizeof h->text - used, "%d %s\n", (int)level, text);
}

static bool count_calls(void *context, const char *stage, uint64_t done, uint64_t total) {
  (void)stage, (void)done, (void)total;
  ++*(int *)context;
  return true;
}

static int load(const char *path, uint32_t context_tokens, heard *h, quern_error *error) {
  quern_model *model = NULL;
  int calls = 0;
  quern_compile_options options = {.size = sizeof options,
                                   .tuning_db = "none",
                                   .context_tokens = context_tokens,
                                   .progress = count_calls,
                                   .progress_context = &calls};
  *h = (heard){0};
  quern_log_set(hear, h);
  int code = quern_load(path, &options, NULL, &model, error);
  quern_log_set(NULL, NULL);
  if (code == 0) {
    ck_assert_ptr_nonnull(strstr(quern_model_path(model), "nano.gguf-"));
    ck_assert((strstr(h->text, "2 compiling ") != NULL) == (calls > 0));
    ck_assert((strstr(h->text, "2 from the cache: ") != NULL) == (calls == 0));
  }
  quern_model_close(model);
  return code;
}

START_TEST(models_are_kept) {
  heard h;
  quern_cache_listing listing = {.size = sizeof listing};
  uint64_t removed = 0;
  ck_assert_int_eq(setenv("XDG_CACHE_HOME", qn_test_temp_path("kept"), 1), 0);
  OK(quern_cache_list(&listing, error));  // a folder that is not there is an empty one
  ck_assert(listing.count == 0 && listing.limit == (uint64_t)32 << 30);
  quern_cache_listing_free(&listing);
  OK(load(nano(), 99, &h, error));
  ck_assert_ptr_nonnull(strstr(h.text, "compiling"));
  OK(load(nano(), 99, &h, error));
  ck_assert_ptr_nonnull(strstr(h.text, "from the cache"));
  ck_assert_int_eq(setenv("QUERN_CACHE_LIMIT", "3M", 1), 0);
  OK(quern_cache_list(&listing, error));
  ck_assert(listing.count == 1 && listing.bytes == listing.entries[0].bytes && listing.limit == 3 << 20);
  ck_assert_str_eq(listing.entries[0].model, "nano.gguf");
  uint64_t bytes = listing.bytes;
  quern_cache_listing_free(&listing);
  OK(quern_cache_clear(bytes, &removed, error));
  ck_assert_uint_eq(removed, 0);
  OK(quern_cache_clear(bytes - 1, &removed, error));
  ck_assert_uint_eq(removed, bytes);
  FAILS(QUERN_ERR_UNSUPPORTED, "is not cached, got neither a GGUF file nor a model's folder", load(qn_test_source("models/llama.json"), 0, &h, error));
  FAILS(QUERN_ERR_IO, "none.gguf", load(qn_test_temp_path("none.gguf"), 0, &h, error));
  static const char *const wrong[] = {"many", "-1", "3X", "3MB", "99999999999999999999", "99999999999T"};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    ck_assert_int_eq(setenv("QUERN_CACHE_LIMIT", wrong[i], 1), 0);
    FAILS(QUERN_ERR_ARGUMENT, "want bytes: 20G", quern_cache_list(&listing, error));
    ck_assert_ptr_null(listing.owned);
  }
  ck_assert_int_eq(setenv("QUERN_CACHE_LIMIT", "0", 1), 0);
  OK(quern_cache_list(&listing, error));
  ck_assert_uint_eq(listing.limit, UINT64_MAX);
  quern_cache_listing none = {0};
  FAILS(QUERN_ERR_ARGUMENT, "quern_cache_listing: got size 0", quern_cache_list(&none, error));
  FAILS(QUERN_ERR_ARGUMENT, "quern_cache_listing: got NULL, want a struct", quern_cache_list(NULL, error));
  none = (quern_cache_listing){.size = offsetof(quern_cache_listing, owned), .owned = &none};  // of which nothing is read
  FAILS(QUERN_ERR_ARGUMENT, "want sizeof(quern_cache_listing) in it", quern_cache_list(&none, error));
  quern_cache_listing_free(&none);
  quern_cache_listing_free(&listing);
}
END_TEST

QN_CASE(all, one_stage, names_and_lists, what_a_file_is, paths_in_the_cache, records_as_text)
QN_CASE(cache, models_are_kept)
QN_TEST_MAIN(all, cache)
