// Folders of the Hugging Face world with something wrong (or right) in them: tests/golden/hf/*.txt are lists of cases.
//   base NAME              the folder begins as a copy of tests/golden/models/NAME; without it, it is empty
//   config KEY JSON        sets a key of config.json; KEY may be dotted; without JSON the key is removed
//   drop FILE              removes a file
//   rename FILE FILE
//   file FILE              writes the lines that follow, up to "end"
//   tensors FILE BYTES     writes a safetensors file whose header is the lines that follow, up to "end", and BYTES zeros
//   header FILE LENGTH     the same with a wrong length of the header and no data
//   poke FILE N HEX        overwrites bytes, from N before the file's end on
//   open FILE              opens this instead of the folder
//   template FILE          with this template
//   # ---- want
//   "ok: architecture, model's name, vocabulary" and lines about sampling, or the error
//   # ====
// QUERN_UPDATE_GOLDEN=1 rewrites what is wanted by what is got; read the difference before keeping it.
#include <cjson/cJSON.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "frontend/import/import.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "tests/support/golden.h"
#include "tests/support/test.h"

// ---- the folder --------------------------------------------------------------------------------------------------

typedef struct folder {
  char path[256];      // of the model's folder, in the temporary one
  char open[512];      // what is opened
  char template[512];  // empty = none
} folder;

static void path_in(const folder *f, const char *name, char out[600]) { snprintf(out, 600, "%s/%s", f->path, name); }

// The whole of a file with a NUL after it; freed with free().
static char *read_whole(const char *path, size_t *out_size) {
  char *data;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_file_read(path, QN_TEXT_MAX, qn_allocator_default(), &data, out_size, &diag));
  return data;
}

static void empty_folder(folder *f) {
  snprintf(f->path, sizeof f->path, "%s", qn_test_temp_path("tiny"));
  snprintf(f->open, sizeof f->open, "%s", f->path);
  f->template[0] = 0;
  mkdir(f->path, 0700);
  DIR *list = opendir(f->path);
  ck_assert_ptr_nonnull(list);
  for (const struct dirent *entry; (entry = readdir(list)) != NULL;) {
    char path[600];
    path_in(f, entry->d_name, path);
    if (entry->d_name[0] != '.') ck_assert_int_eq(remove(path), 0);
  }
  closedir(list);
}

static void copy_base(const folder *f, const char *name) {
  char source[512];
  snprintf(source, sizeof source, "%s/%s", qn_test_source("tests/golden/models"), name);
  DIR *list = opendir(source);
  qn_check(list != NULL, "%s cannot be listed", source);
  for (const struct dirent *entry; (entry = readdir(list)) != NULL;) {
    char from[800], to[600];
    size_t size;
    if (entry->d_name[0] == '.' || strcmp(entry->d_name, "expected.safetensors") == 0) continue;
    if (strstr(entry->d_name, ".gguf")) continue;
    snprintf(from, sizeof from, "%s/%s", source, entry->d_name);
    path_in(f, entry->d_name, to);
    char *data = read_whole(from, &size);
    qn_test_write_file(to, data, size);
    free(data);
  }
  closedir(list);
}

static void set_config(const folder *f, char *key, const char *json) {
  char path[600];
  size_t size;
  path_in(f, "config.json", path);
  char *text = read_whole(path, &size);
  cJSON *root = cJSON_Parse(text), *object = root;
  ck_assert_ptr_nonnull(root);
  for (char *dot; (dot = strchr(key, '.')) != NULL; key = dot + 1) {
    *dot = 0;
    if (!cJSON_IsObject(cJSON_GetObjectItem(object, key))) {
      cJSON_DeleteItemFromObject(object, key);
      cJSON_AddObjectToObject(object, key);
    }
    object = cJSON_GetObjectItem(object, key);
  }
  cJSON_DeleteItemFromObject(object, key);
  cJSON *value = *json ? cJSON_Parse(json) : NULL;
  qn_check(!*json || value, "'%s' is not JSON", json);
  if (value) cJSON_AddItemToObject(object, key, value);
  char *out = cJSON_Print(root);
  qn_test_write_file(path, out, strlen(out));
  cJSON_free(out);
  cJSON_Delete(root);
  free(text);
}

// ---- the cases' lines --------------------------------------------------------------------------------------------

// The lines up to "end", which *text is moved behind.
static qn_str take_block(const char **text) {
  const char *begin = *text, *end = strstr(begin, "end\n");
  while (end && end != begin && end[-1] != '\n') end = strstr(end + 1, "end\n");
  qn_check(end != NULL, "a block without its end: %.40s", begin);
  *text = end + strlen("end\n");
  return (qn_str){begin, (size_t)(end - begin)};
}

// A safetensors file: `length` as its header's, which is `header`, and so many zeros.
static void write_tensors(const folder *f, const char *name, uint64_t length, qn_str header, size_t zeros) {
  char path[600];
  qn_buf file;
  qn_buf_init(&file, qn_allocator_default());
  for (int i = 0; i < 8; i++) qn_buf_putc(&file, (char)(length >> (8 * i)));
  qn_buf_append(&file, header.data, header.length);
  for (size_t i = 0; i < zeros; i++) qn_buf_putc(&file, 0);
  path_in(f, name, path);
  qn_test_write_file(path, file.data, file.length);
  qn_buf_deinit(&file);
}

static void poke(const folder *f, const char *name, const char *args) {
  char path[600], *hex;
  size_t size, at = strtoul(args, &hex, 10);
  unsigned byte;
  path_in(f, name, path);
  char *data = read_whole(path, &size);
  qn_check(at <= size, "%s has %zu bytes", name, size);
  at = size - at;
  for (hex++; sscanf(hex, "%2x", &byte) == 1 && at < size; hex += 2) data[at++] = (char)byte;
  qn_test_write_file(path, data, size);
  free(data);
}

static void carry_out(folder *f, char *line, const char **text) {
  char path[600], other[600], *words[3] = {line, line + strlen(line), line + strlen(line)};
  for (int i = 1; i < 3; i++) {
    char *space = strchr(words[i - 1], ' ');
    if (!space) break;
    *space = 0;
    words[i] = space + 1;
  }
  const char *verb = words[0];
  path_in(f, words[1], path);
  path_in(f, words[2], other);
  if (strcmp(verb, "base") == 0) {
    copy_base(f, words[1]);
  } else if (strcmp(verb, "config") == 0) {
    set_config(f, words[1], words[2]);
  } else if (strcmp(verb, "drop") == 0) {
    qn_check(remove(path) == 0, "there is no %s", path);
  } else if (strcmp(verb, "rename") == 0) {
    qn_check(rename(path, other) == 0, "there is no %s", path);
  } else if (strcmp(verb, "poke") == 0) {
    poke(f, words[1], words[2]);
  } else if (strcmp(verb, "open") == 0) {
    snprintf(f->open, sizeof f->open, "%.500s", path);
  } else if (strcmp(verb, "template") == 0) {
    snprintf(f->template, sizeof f->template, "%.500s", path);
  } else if (strcmp(verb, "file") == 0) {
    qn_str block = take_block(text);
    qn_test_write_file(path, block.data, block.length);
  } else if (strcmp(verb, "tensors") == 0) {
    qn_str block = take_block(text);
    write_tensors(f, words[1], block.length, block, strtoul(words[2], NULL, 10));
  } else if (strcmp(verb, "header") == 0) {
    write_tensors(f, words[1], strtoull(words[2], NULL, 10), take_block(text), 0);
  } else {
    qn_check(false, "no such word: %s", verb);
  }
}

// ---- what becomes of them ----------------------------------------------------------------------------------------

// Appends a text with the folder's path replaced by "tiny".
static void put_without_path(const folder *f, const char *text, qn_buf *out) {
  for (const char *at; (at = strstr(text, f->path)) != NULL; text = at + strlen(f->path)) {
    qn_buf_append(out, text, (size_t)(at - text));
    qn_buf_puts(out, "tiny");
  }
  qn_buf_puts(out, text);
}

// The list of architectures grows with every template: a golden text has "..." in its place.
static void hide_list(char *text) {
  static const char begin[] = "want one of ";
  char *list = strstr(text, begin), *end = list ? strpbrk(list, "(;") : NULL;
  if (!end || !strstr(text, "got the architecture")) return;
  list += strlen(begin);
  ck_assert_ptr_nonnull(strstr(list, "llama"));
  if (*end == '(') end--;
  memmove(list + 3, end, strlen(end) + 1);
  memcpy(list, "...", 3);
}

typedef struct log_lines {
  const folder *f;
  qn_buf *out;
} log_lines;

static void note(void *context, qn_log_level level, const char *text) {
  log_lines *lines = context;
  if (level > QN_LOG_WARNING) return;
  qn_buf_puts(lines->out, "warning: ");
  put_without_path(lines->f, text, lines->out);
  qn_buf_putc(lines->out, '\n');
}

// Every tensor's bytes, as the packer asks for them.
static qn_status load_all(qn_import *import, qn_diag *diag) {
  const qn_import_graph_options options = {
      .context_tokens = 8, .chunk_tokens = 1, .max_rows = 1, .max_sequences = 1, .kv_dtype = QN_DTYPE_F32};
  qn_arena arena;
  qn_graph *graph;
  qn_arena_init(&arena, qn_test_allocator());
  qn_status status = qn_import_graph(import, &options, &arena, &graph, diag);
  qn_weight_source weights = qn_import_weights(import);
  for (size_t id = 1; status == QN_OK && id < graph->nodes.count; id++) {
    const qn_node *node = qn_graph_node(graph, (qn_id)id);
    qn_tensor_data data;
    if (node->op == QN_OP_PARAM) status = weights.find(weights.context, qn_node_text(node, QN_ATTR_NAME, ""), &data, diag);
    if (node->op == QN_OP_PARAM && status == QN_OK) ck_assert_ptr_nonnull(data.data);
  }
  qn_arena_deinit(&arena);
  return status;
}

// What the artifact will say of sampling: lines of the summary, behind the answer.
static void put_sampling(const qn_import *import, qn_buf *out) {
  static const char begin[] = "sampling.";
  qn_buf text;
  qn_buf_init(&text, qn_allocator_default());
  qn_import_describe(import, &text);
  for (const char *line = qn_buf_text(&text); *line;) {
    size_t length = strcspn(line, "\n") + 1;
    if (strncmp(line, begin, strlen(begin)) == 0) qn_buf_append(out, line, length);
    line += length;
  }
  qn_buf_deinit(&text);
}

static void open_model(const folder *f, qn_buf *out) {
  qn_import *import = NULL;
  qn_diag diag = {0};
  qn_import_options options = {.template_path = f->template[0] ? f->template : NULL};
  log_lines lines = {f, out};
  qn_log_set(note, &lines);
  qn_status status = qn_import_open(f->open, &options, qn_test_allocator(), &import, &diag);
  if (status == QN_OK) status = load_all(import, &diag);
  qn_log_set(NULL, NULL);
  if (status == QN_OK) {
    qn_buf_printf(out, "ok: %s, %s, %d\n", qn_import_architecture(import), qn_import_model_name(import),
                  (int)qn_import_vocab_size(import));
    put_sampling(import, out);
  } else {
    hide_list(diag.text);
    qn_buf_printf(out, "%s: ", qn_status_name(status));
    put_without_path(f, diag.text, out);
    qn_buf_putc(out, '\n');
  }
  qn_import_close(import);
}

static void answer(void *context, const char *file_name, qn_str text, qn_buf *out) {
  folder f;
  (void)context, (void)file_name;
  empty_folder(&f);
  char *copy = strndup(text.data, text.length);
  ck_assert_ptr_nonnull(copy);
  for (const char *at = copy; *at;) {
    size_t length = strcspn(at, "\n");
    char line[512];
    snprintf(line, sizeof line, "%.*s", (int)length, at);
    at += length + (at[length] == '\n');
    if (line[0] && line[0] != '#') carry_out(&f, line, &at);
  }
  free(copy);
  open_model(&f, out);
}

START_TEST(folders) {
  qn_golden_check("tests/golden/hf", "#", answer, NULL);
  ck_assert_uint_eq(qn_test_allocator_memory()->live_bytes, 0);
}
END_TEST

// Every allocation on the way to a model's tensors fails in turn.
static qn_status open_with(const qn_allocator *allocator, void *context) {
  qn_import *import = NULL;
  qn_diag diag = {0};
  qn_status status = qn_import_open(context, NULL, allocator, &import, &diag);
  qn_import_close(import);
  return status;
}

START_TEST(memory_runs_out) {
  char path[512];
  snprintf(path, sizeof path, "%s", qn_test_source("tests/golden/models/gpt2"));
  qn_test_failing_allocations(open_with, path);
}
END_TEST

QN_CASE(cases, folders, memory_runs_out)

QN_TEST_MAIN(cases)
