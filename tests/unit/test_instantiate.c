// Model files through the importer: synthetic models of every built-in template, as they are and with one thing wrong.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "frontend/import/gguf_write.h"
#include "frontend/import/import.h"
#include "runtime/base/file.h"
#include "tests/support/synth.h"
#include "tests/support/test.h"

// ---- models with something changed -------------------------------------------------------------------------------

// What differs from a synthetic model of one layer.
typedef struct edit {
  const char *model;  // NULL: tiny-llama-test
  const char *drop_key;
  void (*add_keys)(qn_gguf_writer *w);
  const char *drop_tensor;
  const char *resize_tensor;  // gets `rows` rows of `cols` values, f32, zeros; rows 0: a vector
  int64_t rows, cols;
  uint32_t resize_type;    // ggml type number of the resized one
  const char *add_tensor;  // a vector of add_count zeros; 0: 4
  int64_t add_count;
  const char *split_tensor, *split_as;  // of experts: becomes one tensor of each, whose number stands for #
  int drop_part, short_part;            // 1 + the number of a part that is not there; that has one row less
} edit;

static const float zeros[1 << 16];

static bool is(qn_str name, const char *text) { return text && qn_str_is(name, text); }

static const char *part_name(const edit *e, int64_t number, char out[96]) {
  const char *at = strchr(e->split_as, '#');
  snprintf(out, 96, "%.*s%d%s", (int)(at - e->split_as), e->split_as, (int)number, at + 1);
  return out;
}

static void split(const qn_gguf_tensor *t, const qn_gguf_view *view, const edit *e, qn_gguf_writer *w) {
  size_t size = view->size_bytes / (size_t)t->dims[2];
  for (int64_t i = 0; i < t->dims[2]; i++) {
    char name[96];
    int64_t dims[] = {t->dims[0], t->dims[1] - (i + 1 == e->short_part)};
    if (i + 1 == e->drop_part) continue;
    const uint8_t *data = (const uint8_t *)view->data + (size_t)i * size;
    qn_gguf_writer_add_tensor(w, qn_str_from(part_name(e, i, name)), t->type, 2, dims, data,
                              size / (size_t)t->dims[1] * (size_t)dims[1]);
  }
}

static void copy_tensors(const qn_gguf *from, const edit *e, qn_gguf_writer *w) {
  for (size_t i = 0; i < from->tensor_count; i++) {
    const qn_gguf_tensor *t = &from->tensors[i];
    qn_gguf_view view;
    qn_diag diag = {0};
    if (is(t->name, e->drop_tensor)) continue;
    if (is(t->name, e->resize_tensor)) {
      size_t size = (size_t)(e->rows ? e->rows : 1) * (size_t)e->cols * sizeof(float);
      ck_assert_uint_le(size, sizeof zeros);
      qn_gguf_writer_add_tensor(w, t->name, e->resize_type, e->rows ? 2 : 1, (int64_t[]){e->cols, e->rows}, zeros,
                                size);
      continue;
    }
    qn_assert_ok(&diag, qn_gguf_tensor_view(from, t, &view, &diag));
    if (is(t->name, e->split_tensor)) {
      split(t, &view, e, w);
      continue;
    }
    qn_gguf_writer_add_tensor(w, t->name, t->type, t->n_dims, t->dims, view.data, view.size_bytes);
  }
  int64_t count = e->add_count ? e->add_count : 4;
  if (e->add_tensor) {
    qn_gguf_writer_add_tensor(w, qn_str_from(e->add_tensor), 0, 1, &count, zeros, (size_t)count * sizeof(float));
  }
}

static void copy_keys(const qn_gguf *from, const edit *e, qn_gguf_writer *w) {
  for (size_t i = 0; i < from->kv_count; i++) {
    const qn_gguf_kv *kv = &from->kvs[i];
    bool tokens = kv->key.length > 9 && memcmp(kv->key.data, "tokenizer", 9) == 0;  // not the importer's business
    if (tokens || is(kv->key, e->drop_key)) continue;
    if (kv->value.type == QN_GGUF_STRING) {
      char key[128];
      snprintf(key, sizeof key, "%.*s", QN_STR_ARGS(kv->key));
      qn_gguf_writer_add_string(w, key, (qn_str){(const char *)kv->value.data, kv->value.count});
      continue;
    }
    qn_gguf_writer_add_raw(w, kv->key, kv->value.type, kv->value.data, kv->value.size_bytes);
  }
  if (e->add_keys) e->add_keys(w);
}

// Writes the changed model; the path is good until the end of the test.
static const char *make_model(const edit *e) {
  qn_diag diag = {0};
  qn_synth_options options = {.model = qn_synth_find(e->model ? e->model : "tiny-llama-test"),
                              .type = qn_synth_type_find("f32"),
                              .layers = 1,
                              .seed = 1};
  uint8_t *data;
  size_t size;
  qn_gguf *gguf;
  ck_assert_ptr_nonnull(options.model);
  qn_assert_ok(&diag, qn_synth_save_memory(&options, qn_test_allocator(), &data, &size, &diag));
  qn_assert_ok(&diag, qn_gguf_open_memory(&gguf, data, size, "synth", qn_test_allocator(), &diag));
  qn_gguf_writer *w = qn_gguf_writer_create(qn_test_allocator());
  ck_assert_ptr_nonnull(w);
  copy_keys(gguf, e, w);
  copy_tensors(gguf, e, w);
  const char *path = qn_test_temp_path("model.gguf");
  qn_assert_ok(&diag, qn_gguf_writer_save(w, path, &diag));
  qn_gguf_writer_destroy(w);
  qn_gguf_close(gguf);
  qn_free(qn_test_allocator(), data, size);
  return path;
}

static qn_import *open_model(const edit *e) {
  qn_import *import = NULL;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_import_open(make_model(e), NULL, qn_test_allocator(), &import, &diag));
  return import;
}

static void fails(const edit *e, qn_status status, const char *needle) {
  qn_import *import = NULL;
  qn_diag diag = {0};
  qn_assert_fails(&diag, status, needle, qn_import_open(make_model(e), NULL, qn_test_allocator(), &import, &diag));
  ck_assert_ptr_null(import);
  ck_assert_msg(strstr(diag.text, ".gguf") || strstr(diag.text, ".json"), "names no file: %s", diag.text);
}

static const qn_import_graph_options plain = {
    .context_tokens = 100, .chunk_tokens = 16, .max_rows = 2, .max_sequences = 3, .kv_dtype = QN_DTYPE_F16};

// ---- good models -------------------------------------------------------------------------------------------------

static const char *const test_models[] = {"tiny-llama-test", "tiny-qwen2-test", "tiny-gpt2-test", "tiny-olmoe-test"};

START_TEST(test_models_verify) {
  for (size_t i = 0; i < QN_COUNT(test_models); i++) {
    const qn_synth_model *model = qn_synth_find(test_models[i]);
    qn_import *import = open_model(&(edit){.model = test_models[i]});
    qn_import_graph_options options = plain;
    options.context_tokens = 0;
    qn_arena arena;
    qn_graph *graph;
    qn_diag diag = {0};
    qn_arena_init(&arena, qn_test_allocator());
    qn_assert_ok(&diag, qn_import_graph(import, &options, &arena, &graph, &diag));
    qn_assert_ok(&diag, qn_graph_verify(graph, QN_STAGE_IMPORTED, &diag));
    ck_assert_str_eq(qn_import_architecture(import), model->architecture);
    ck_assert_str_eq(qn_import_model_name(import), model->name);
    ck_assert_int_eq(qn_import_context(import), model->context);
    ck_assert_int_eq(qn_import_vocab_size(import), model->vocab);
    ck_assert_ptr_nonnull(qn_import_gguf(import));
    int64_t pages = (model->context + QN_PAGE_KEYS - 1) / QN_PAGE_KEYS;
    ck_assert_int_eq(graph->max_values[QN_SYM_T], 16);
    ck_assert_int_eq(graph->max_values[QN_SYM_R], 2);
    ck_assert_int_eq(graph->max_values[QN_SYM_B], 3);
    ck_assert_int_eq(graph->max_values[QN_SYM_P], pages);
    ck_assert_int_eq(graph->max_values[QN_SYM_G], 3 * pages);
    ck_assert_uint_eq(graph->outputs.count, 1);
    ck_assert_str_eq(graph->outputs.items[0].name, "logits");
    qn_arena_deinit(&arena);
    qn_import_close(import);
  }
}
END_TEST

// A weight of one tensor an expert is the weight that is one tensor.
START_TEST(test_stacks) {
  const char *const whole_name = "blk.0.ffn_up_exps.weight";
  qn_import *whole = open_model(&(edit){.model = "tiny-olmoe-test"});
  qn_import *apart = open_model(
      &(edit){.model = "tiny-olmoe-test", .split_tensor = whole_name, .split_as = "blk.0.ffn_up.#.weight"});
  qn_weight_source sources[] = {qn_import_weights(whole), qn_import_weights(apart)};
  qn_tensor_data data[2];
  qn_diag diag = {0};
  qn_assert_ok(&diag, sources[0].find(sources[0].context, whole_name, &data[0], &diag));
  qn_assert_ok(&diag, sources[1].find(sources[1].context, "blk.0.ffn_up.0.weight", &data[1], &diag));
  for (int i = 0; i < 2; i++) {
    ck_assert(data[i].rank == 3 && data[i].dims[0] == 6 && data[i].dims[1] == 96 && data[i].dims[2] == 64);
    ck_assert_int_eq(data[i].format->dtype, QN_DTYPE_F32);
  }
  ck_assert_mem_eq(data[0].data, data[1].data, 6 * 96 * 64 * sizeof(float));
  qn_import_close(whole);
  qn_import_close(apart);
}
END_TEST

// The graph of one layer of each architecture, as text: tests/golden/templates/<model>.txt.
START_TEST(test_golden) {
  for (size_t i = 0; i < QN_COUNT(test_models); i++) {
    char path[1024], *want;
    size_t size;
    qn_import *import = open_model(&(edit){.model = test_models[i]});
    qn_import_graph_options options = plain;
    options.context_tokens = 64;
    qn_arena arena;
    qn_graph *graph;
    qn_buf text;
    qn_diag diag = {0};
    qn_arena_init(&arena, qn_test_allocator());
    qn_buf_init(&text, qn_test_allocator());
    qn_assert_ok(&diag, qn_import_graph(import, &options, &arena, &graph, &diag));
    qn_import_describe(import, &text);
    qn_graph_print(graph, &text);
    snprintf(path, sizeof path, "%s/%s.txt", qn_test_source("tests/golden/templates"), test_models[i]);
    if (getenv("QUERN_UPDATE_GOLDEN")) qn_test_write_file(path, qn_buf_text(&text), text.length);
    qn_assert_ok(&diag, qn_file_read(path, QN_TEXT_MAX, qn_test_allocator(), &want, &size, &diag));
    ck_assert_msg(strcmp(want, qn_buf_text(&text)) == 0, "%s (QUERN_UPDATE_GOLDEN=1 rewrites): got\n%s", path,
                  qn_buf_text(&text));
    qn_free(qn_test_allocator(), want, size + 1);
    qn_buf_deinit(&text);
    qn_arena_deinit(&arena);
    qn_import_close(import);
  }
}
END_TEST

// The model that ships with quern.
START_TEST(test_nano) {
  qn_import *import;
  qn_diag diag = {0};
  qn_assert_ok(&diag,
               qn_import_open(qn_test_source("models/nano/nano.gguf"), NULL, qn_test_allocator(), &import, &diag));
  ck_assert_str_eq(qn_import_architecture(import), "llama");
  ck_assert_int_eq(qn_import_context(import), 256);
  ck_assert_int_eq(qn_import_vocab_size(import), 512);
  qn_import_close(import);
}
END_TEST

START_TEST(test_weights) {
  qn_import *import = open_model(&(edit){.model = "tiny-gpt2-test"});
  qn_weight_source weights = qn_import_weights(import);
  qn_tensor_data data;
  qn_diag diag = {0};
  qn_assert_ok(&diag, weights.find(weights.context, "blk.0.attn_qkv.weight", &data, &diag));
  ck_assert(data.rank == 2 && data.dims[0] == 192 && data.dims[1] == 64 && data.format->dtype == QN_DTYPE_F32);
  ck_assert_ptr_nonnull(data.data);
  qn_assert_ok(&diag, weights.find(weights.context, "blk.0.attn_qkv.bias", &data, &diag));
  ck_assert(data.rank == 1 && data.dims[0] == 192);
  qn_assert_fails(&diag, QN_ERR_FORMAT, "model.gguf: tensor 'nope' is missing",
                  weights.find(weights.context, "nope", &data, &diag));
  qn_import_close(import);
}
END_TEST

// Files say the same in more than one way.
static void add_uniform_heads(qn_gguf_writer *w) {
  qn_gguf_writer_add_array(w, "llama.attention.head_count_kv", QN_GGUF_U32, (uint32_t[]){2, 2, 2}, 3);
}
static void add_harmless(qn_gguf_writer *w) {
  qn_gguf_writer_add_text(w, "llama.tensor_data_layout", "Meta AI original pth");
  qn_gguf_writer_add_text(w, "llama.rope.scaling.type", "none");
  qn_gguf_writer_add_u32(w, "llama.expert_count", 0);
  qn_gguf_writer_add_u32(w, "llamas.unknown", 1);  // another prefix
}

START_TEST(test_tolerated) {
  qn_import_close(open_model(&(edit){.drop_key = "llama.attention.head_count_kv", .add_keys = add_uniform_heads}));
  qn_import_close(open_model(&(edit){.add_keys = add_harmless}));
  qn_import_close(open_model(&(edit){.add_tensor = "blk.0.attn_rot_embd.weight"}));
  qn_import_close(open_model(&(edit){.drop_key = "llama.rope.freq_base"}));
  qn_import_close(open_model(&(edit){.drop_key = "llama.vocab_size"}));
  qn_import_close(open_model(&(edit){.drop_tensor = "output.weight"}));
  qn_import *import = open_model(&(edit){.drop_key = "general.name"});
  ck_assert_str_eq(qn_import_model_name(import), "model.gguf");
  qn_import_close(import);
  import = open_model(&(edit){.drop_key = "llama.context_length"});
  ck_assert_int_eq(qn_import_context(import), 0);
  qn_import_close(import);
}
END_TEST

// Llama 3's frequency factors and biases, where a file has them, are used.
START_TEST(test_optional) {
  static const struct {
    const char *tensor;
    int64_t count;
    qn_op op;
  } cases[] = {
      {"rope_freqs.weight", 8, QN_OP_ROPE_TABLE},
      {"blk.0.attn_k.bias", 32, QN_OP_ADD},
      {"blk.0.attn_output.bias", 64, QN_OP_ADD},
  };
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    qn_import *import = open_model(&(edit){.add_tensor = cases[i].tensor, .add_count = cases[i].count});
    qn_arena arena;
    qn_graph *graph;
    qn_diag diag = {0};
    bool used = false;
    qn_arena_init(&arena, qn_test_allocator());
    qn_assert_ok(&diag, qn_import_graph(import, &plain, &arena, &graph, &diag));
    for (qn_id id = 1; id < graph->nodes.count; id++) {
      const qn_node *node = qn_graph_node(graph, id);
      if (node->op != cases[i].op || node->operand_count != 2) continue;
      const char *name = qn_node_text(qn_graph_node(graph, node->operands[1]), QN_ATTR_NAME, "");
      used = used || strcmp(name, cases[i].tensor) == 0;
    }
    ck_assert_msg(used, "%s is not used", cases[i].tensor);
    qn_arena_deinit(&arena);
    qn_import_close(import);
  }
}
END_TEST

// A scaling's factors by each frequency, its scale, and a window, as the graph gets them.
static void add_yarn(qn_gguf_writer *w) {
  qn_gguf_writer_add_text(w, "llama.rope.scaling.type", "yarn");
  qn_gguf_writer_add_f32(w, "llama.rope.scaling.factor", 4);
  qn_gguf_writer_add_u32(w, "llama.rope.scaling.original_context_length", 1024);
}
static void add_linear(qn_gguf_writer *w) { qn_gguf_writer_add_f32(w, "llama.rope.scale_linear", 2); }
static void add_window(qn_gguf_writer *w) { qn_gguf_writer_add_u32(w, "llama.attention.sliding_window", 48); }

START_TEST(test_scaling) {
  static const struct {
    void (*add)(qn_gguf_writer *w);
    double scale, factors[8];
    int64_t window;
  } cases[] = {
      {NULL, 1, {0}, 0},
      {add_window, 1, {0}, 48},
      {add_linear, 1, {2, 2, 2, 2, 2, 2, 2, 2}, 0},
      // of 8 frequencies from 10000, those of more than 32 turns in 1024 tokens stay, those of less than 1 are divided by 4
      {add_yarn, 1.1386294361119891, {1, 1, 1.230769231, 1.6, 2.285714286, 4, 4, 4}, 0},
  };
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    qn_import *import = open_model(&(edit){.add_keys = cases[i].add});
    qn_weight_source weights = qn_import_weights(import);
    qn_arena arena;
    qn_graph *graph;
    qn_diag diag = {0};
    qn_arena_init(&arena, qn_test_allocator());
    qn_assert_ok(&diag, qn_import_graph(import, &plain, &arena, &graph, &diag));
    for (qn_id id = 1; id < graph->nodes.count; id++) {
      const qn_node *node = qn_graph_node(graph, id);
      if (node->op == QN_OP_ATTN_SCORES) ck_assert_int_eq(qn_node_int(node, QN_ATTR_WINDOW, 0), cases[i].window);
      if (node->op != QN_OP_ROPE_TABLE) continue;
      ck_assert(fabs(qn_node_float(node, QN_ATTR_SCALE, 1) - cases[i].scale) < 1e-9);
      ck_assert_int_eq(node->operand_count, cases[i].factors[0] > 0 ? 2 : 1);
      if (node->operand_count == 1) continue;
      qn_tensor_data data;
      const char *name = qn_node_text(qn_graph_node(graph, node->operands[1]), QN_ATTR_NAME, "");
      qn_assert_ok(&diag, weights.find(weights.context, name, &data, &diag));
      ck_assert(data.rank == 1 && data.dims[0] == 8 && data.format->dtype == QN_DTYPE_F32);
      for (int j = 0; j < 8; j++)
        ck_assert_msg(fabs(((const float *)data.data)[j] - cases[i].factors[j]) < 1e-6, "factor %d: got %.9g", j,
                      (double)((const float *)data.data)[j]);
    }
    qn_arena_deinit(&arena);
    qn_import_close(import);
  }
}
END_TEST

// ---- wrong models ------------------------------------------------------------------------------------------------

static void add_text_layers(qn_gguf_writer *w) { qn_gguf_writer_add_text(w, "llama.block_count", "two"); }
static void add_many_layers(qn_gguf_writer *w) { qn_gguf_writer_add_u32(w, "llama.block_count", 100000); }
static void add_no_layers(qn_gguf_writer *w) { qn_gguf_writer_add_u32(w, "llama.block_count", 0); }
static void add_two_layers(qn_gguf_writer *w) { qn_gguf_writer_add_u32(w, "llama.block_count", 2); }
static void add_odd_heads(qn_gguf_writer *w) { qn_gguf_writer_add_u32(w, "llama.attention.head_count", 5); }
static void add_three_kv(qn_gguf_writer *w) { qn_gguf_writer_add_u32(w, "llama.attention.head_count_kv", 3); }
static void add_varied_heads(qn_gguf_writer *w) {
  qn_gguf_writer_add_array(w, "llama.attention.head_count_kv", QN_GGUF_U32, (uint32_t[]){2, 4}, 2);
}
static void add_empty_heads(qn_gguf_writer *w) {
  qn_gguf_writer_add_array(w, "llama.attention.head_count_kv", QN_GGUF_U32, (uint32_t[]){2}, 0);
}
static void add_nan_eps(qn_gguf_writer *w) { qn_gguf_writer_add_f32(w, "llama.attention.layer_norm_rms_epsilon", NAN); }
static void add_negative_eps(qn_gguf_writer *w) {
  qn_gguf_writer_add_f32(w, "llama.attention.layer_norm_rms_epsilon", -1);
}

START_TEST(test_keys) {
  static const struct {
    const char *drop;
    void (*add)(qn_gguf_writer *w);
    const char *want;
  } cases[] = {
      {"llama.block_count", NULL,
       "key 'llama.block_count' is missing; the template needs it (llama.json: params.layers)"},
      {"llama.attention.layer_norm_rms_epsilon", NULL, "key 'llama.attention.layer_norm_rms_epsilon' is missing"},
      {"llama.block_count", add_text_layers, "llama.block_count"},
      {"llama.block_count", add_many_layers,
       "key 'llama.block_count': got 100000, want a number of 1 to 4096 (param layers)"},
      {"llama.block_count", add_no_layers, "key 'llama.block_count': got 0, want a number of 1 to 4096 (param layers)"},
      {"llama.block_count", add_two_layers,
       "tensor 'blk.1.attn_norm.weight' is missing; the template needs it (llama.json: weights.attn_norm)"},
      {"llama.attention.head_count", add_odd_heads, "llama.json: params.head_dim: got 12.8, want an integer"},
      {"llama.attention.head_count_kv", add_empty_heads, "key 'llama.attention.head_count_kv' is an empty list"},
      {"llama.attention.layer_norm_rms_epsilon", add_negative_eps,
       "key 'llama.attention.layer_norm_rms_epsilon': got -1, want a number of 0 to 1"},
      {"llama.attention.layer_norm_rms_epsilon", add_nan_eps, "key 'llama.attention.layer_norm_rms_epsilon'"},
      {"general.architecture", NULL, "general.architecture"},
  };
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    fails(&(edit){.drop_key = cases[i].drop, .add_keys = cases[i].add}, QN_ERR_FORMAT, cases[i].want);
  }
}
END_TEST

static void add_experts(qn_gguf_writer *w) {
  qn_gguf_writer_add_u32(w, "llama.expert_count", 8);
  qn_gguf_writer_add_u32(w, "llama.expert_used_count", 9);
}
static void say_experts(qn_gguf_writer *w) { qn_gguf_writer_add_u32(w, "llama.expert_count", 8); }
static void add_scaling(qn_gguf_writer *w) {
  qn_gguf_writer_add_text(w, "llama.rope.scaling.type", "ntk");
  qn_gguf_writer_add_f32(w, "llama.rope.scaling.factor", 4);
}
static void add_mix(qn_gguf_writer *w) { qn_gguf_writer_add_f32(w, "llama.rope.scaling.yarn_ext_factor", 0.5f); }
static void add_parallel(qn_gguf_writer *w) { qn_gguf_writer_add_bool(w, "llama.use_parallel_residual", true); }
static void add_softcap(qn_gguf_writer *w) { qn_gguf_writer_add_f32(w, "llama.attn_logit_softcapping", 50); }
static void add_value_length(qn_gguf_writer *w) { qn_gguf_writer_add_u32(w, "llama.attention.value_length", 8); }
static void add_encoder(qn_gguf_writer *w) { qn_gguf_writer_add_bool(w, "llama.attention.causal", false); }
static void add_mamba(qn_gguf_writer *w) { qn_gguf_writer_add_text(w, "general.architecture", "mamba"); }
static void add_unknown(qn_gguf_writer *w) { qn_gguf_writer_add_text(w, "general.architecture", "lama"); }

// What the templates do not describe is refused by its name: no file is computed wrongly in silence.
START_TEST(test_refusals) {
  static const struct {
    const char *drop;
    void (*add)(qn_gguf_writer *w);
    const char *want;
  } cases[] = {
      {NULL, add_experts, "9 experts of a token, of 8, make no sense"},
      {NULL, add_scaling, "RoPE scaling of type 'ntk' (factor 4) is not supported, want linear, dynamic, llama3 or yarn"},
      {NULL, add_mix, "yarn's extrapolation by 0.5 is not supported"},
      {NULL, add_parallel, "parallel attention and feed-forward (use_parallel_residual) is not supported"},
      {NULL, add_softcap, "the template llama.json does not know the key 'llama.attn_logit_softcapping'"},
      {NULL, add_value_length, "values of 8 beside keys of 16"},
      {NULL, add_encoder, "attention that is not causal"},
      {"llama.attention.head_count_kv", add_three_kv, "4 query heads cannot share 3 KV heads evenly"},
      {"llama.attention.head_count_kv", add_varied_heads,
       "key 'llama.attention.head_count_kv' differs by layer (2 in the first, 4 in layer 1)"},
      {"general.architecture", add_mamba, "got the architecture 'mamba' (Mamba, a state space model), want a transformer"},
      {"general.architecture", add_unknown, "got the architecture 'lama', want one of "},
      {"general.architecture", add_unknown, " (the nearest is llama); or describe it in a template of your own"},
  };
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    fails(&(edit){.drop_key = cases[i].drop, .add_keys = cases[i].add}, QN_ERR_UNSUPPORTED, cases[i].want);
  }
}
END_TEST

START_TEST(test_tensors) {
  fails(&(edit){.drop_tensor = "blk.0.ffn_up.weight"}, QN_ERR_FORMAT,
        "tensor 'blk.0.ffn_up.weight' is missing; the template needs it (llama.json: weights.ffn_up)");
  fails(&(edit){.drop_tensor = "token_embd.weight"}, QN_ERR_FORMAT, "tensor 'token_embd.weight' is missing");
  fails(&(edit){.resize_tensor = "blk.0.attn_k.weight", .rows = 64, .cols = 64}, QN_ERR_FORMAT,
        "tensor 'blk.0.attn_k.weight': got shape [64, 64], want [32, 64] = [kv_heads * head_dim, hidden] "
        "(llama.json: weights.attn_k)");
  fails(&(edit){.resize_tensor = "blk.0.attn_k.weight", .cols = 64}, QN_ERR_FORMAT, "got shape [64], want [32, 64]");
  fails(&(edit){.resize_tensor = "output_norm.weight", .cols = 63}, QN_ERR_FORMAT,
        "got shape [63], want [64] = [hidden]");
  fails(&(edit){.resize_tensor = "output_norm.weight", .rows = 2, .cols = 64}, QN_ERR_FORMAT,
        "got shape [2, 64], want [64]");
  fails(&(edit){.resize_tensor = "token_embd.weight", .rows = 100, .cols = 64}, QN_ERR_FORMAT,
        "got shape [100, 64], want [512, 64]");
  fails(&(edit){.resize_tensor = "blk.0.attn_k.weight", .rows = 32, .cols = 64, .resize_type = 26}, QN_ERR_UNSUPPORTED,
        "blk.0.attn_k.weight");
  fails(&(edit){.add_tensor = "blk.0.attn_q_norm.weight"}, QN_ERR_UNSUPPORTED,
        "the template llama.json does not use 1 tensor of the file ('blk.0.attn_q_norm.weight')");
  fails(&(edit){.add_tensor = "position_embd.weight"}, QN_ERR_UNSUPPORTED, "'position_embd.weight'");
  fails(&(edit){.add_tensor = "blk.1.attn_norm.weight"}, QN_ERR_UNSUPPORTED, "'blk.1.attn_norm.weight'");
  fails(&(edit){.add_tensor = "rope_freqs.weight"}, QN_ERR_FORMAT,
        "tensor 'rope_freqs.weight': got shape [4], want [8] = [rope_dims / 2]");
  fails(&(edit){.add_keys = say_experts}, QN_ERR_FORMAT, "tensor 'blk.0.ffn_gate_inp.weight' is missing");
  edit experts = {.model = "tiny-olmoe-test",
                  .split_tensor = "blk.0.ffn_down_exps.weight",
                  .split_as = "blk.0.ffn_down.#.weight"};
  experts.drop_part = 1;
  fails(&experts, QN_ERR_FORMAT, "tensor 'blk.0.ffn_down_exps.weight' is missing");
  experts.drop_part = 4;
  fails(&experts, QN_ERR_FORMAT, "tensor 'blk.0.ffn_down.3.weight' is missing; the template needs it");
  experts.drop_part = 0;
  experts.short_part = 6;
  fails(&experts, QN_ERR_FORMAT,
        "tensor 'blk.0.ffn_down.5.weight': got f32 [63, 96], want f32 [64, 96] as 'blk.0.ffn_down.0.weight' has, on which "
        "it is stacked");
  fails(&(edit){.model = "tiny-olmoe-test", .add_tensor = "blk.0.ffn_down.0.weight"}, QN_ERR_UNSUPPORTED,
        "does not use 1 tensor of the file ('blk.0.ffn_down.0.weight')");
  fails(&(edit){.model = "tiny-gpt2-test", .drop_tensor = "blk.0.attn_qkv.bias"}, QN_ERR_FORMAT,
        "tensor 'blk.0.attn_qkv.bias' is missing");
}
END_TEST

START_TEST(test_graph_options) {
  static const struct {
    int64_t context, chunk, rows, sequences;
    qn_dtype kv_dtype;
    qn_status status;
    const char *want;
  } cases[] = {
      {-1, 1, 1, 1, QN_DTYPE_F32, QN_ERR_ARGUMENT, "context: got -1, want 1 to 2147483647"},
      {INT64_MAX, 1, 1, 1, QN_DTYPE_F32, QN_ERR_ARGUMENT, "context: got 9223372036854775807"},
      {64, 0, 1, 1, QN_DTYPE_F32, QN_ERR_ARGUMENT, "chunk: got 0"},
      {64, 1, -5, 1, QN_DTYPE_F32, QN_ERR_ARGUMENT, "rows: got -5"},
      {64, 1, 1, 1 << 30, QN_DTYPE_F32, QN_ERR_ARGUMENT, "sequences: got 1073741824"},
      {64, 1, 1, 1, QN_DTYPE_Q8_0, QN_ERR_ARGUMENT, "kv type: got q8_0, want f32, f16, bf16, int8 or int4"},
      {65, 1, 1, 1, QN_DTYPE_F32, QN_ERR_LIMIT,
       "context: got 65 tokens, want at most the 64 that tiny-gpt2-test has positions for"},
  };
  qn_import *import = open_model(&(edit){.model = "tiny-gpt2-test"});
  qn_arena arena;
  qn_arena_init(&arena, qn_test_allocator());
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    qn_import_graph_options options = {cases[i].context, cases[i].chunk, cases[i].rows, cases[i].sequences,
                                       cases[i].kv_dtype,
                                       false};
    qn_graph *graph;
    qn_diag diag = {0};
    qn_assert_fails(&diag, cases[i].status, cases[i].want, qn_import_graph(import, &options, &arena, &graph, &diag));
    ck_assert_ptr_null(graph);
  }
  qn_import_close(import);
  import = open_model(&(edit){.drop_key = "llama.context_length"});
  qn_import_graph_options options = {.chunk_tokens = 1, .max_rows = 1, .max_sequences = 1, .kv_dtype = QN_DTYPE_F32};
  qn_graph *graph;
  qn_diag diag = {0};
  qn_assert_fails(&diag, QN_ERR_ARGUMENT, "context: got none",
                  qn_import_graph(import, &options, &arena, &graph, &diag));
  qn_import_close(import);
  qn_arena_deinit(&arena);
}
END_TEST

// The file's table of positions is shorter than its context says: the table decides.
static void add_long_context(qn_gguf_writer *w) { qn_gguf_writer_add_u32(w, "gpt2.context_length", 4096); }

START_TEST(test_positions) {
  qn_import *import =
      open_model(&(edit){.model = "tiny-gpt2-test", .drop_key = "gpt2.context_length", .add_keys = add_long_context});
  ck_assert_int_eq(qn_import_context(import), 64);
  qn_import_close(import);
}
END_TEST

// ---- files of every kind -----------------------------------------------------------------------------------------

static const char *write_text(const char *name, const char *text) {
  const char *path = qn_test_temp_path(name);
  qn_test_write_file(path, text, strlen(text));
  return path;
}

static void path_fails(const char *path, const char *template_path, qn_status status, const char *needle) {
  qn_import_options options = {.template_path = template_path};
  qn_import *import = NULL;
  qn_diag diag = {0};
  qn_assert_fails(&diag, status, needle, qn_import_open(path, &options, qn_test_allocator(), &import, &diag));
  ck_assert_ptr_null(import);
}

START_TEST(test_recognition) {
  static const struct {
    const char *bytes;
    size_t size;
    const char *want;
  } cases[] = {
      {"PK\003\004data.pkl", 12, "is a zip archive or a PyTorch checkpoint (a pickle, which runs code when it is read), want GGUF or safetensors"},
      {"\x80\002}q", 4, "is a Python pickle"},
      {"\x89HDF\r\n", 6, "is an HDF5 file"},
      {"tjgg\003\0\0\0", 8, "is a GGML file from before GGUF"},
      {"\x08\x07\x12\x04onnx", 8, "is an ONNX model"},
      {"quern\r\n\032\1\0\0\0", 12, "is compiled already"},
      {"hello", 5, "is neither GGUF nor safetensors nor a graph in JSON"},
      {" \n", 2, "is neither GGUF nor safetensors nor a graph in JSON"},
  };
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    const char *path = qn_test_temp_path("file");
    qn_test_write_file(path, cases[i].bytes, cases[i].size);
    path_fails(path, NULL, QN_ERR_UNSUPPORTED, cases[i].want);
  }
  path_fails(write_text("file", ""), NULL, QN_ERR_FORMAT, "the file is empty");
  path_fails(write_text("file", "GGUF"), NULL, QN_ERR_FORMAT, "file");
  path_fails(write_text("file", " {\"model_type\": \"llama\"}"), NULL, QN_ERR_FORMAT, "got neither \"quern_template\"");
  path_fails(qn_test_temp_path("absent"), NULL, QN_ERR_IO, "absent: cannot open");
  path_fails(qn_test_temp_path(""), NULL, QN_ERR_FORMAT, "has no config.json; want a model's folder");
  const char *alone = qn_test_temp_path("alone.safetensors");
  qn_test_write_file(alone, "\x40\0\0\0\0\0\0\0{\"a\"", 12);
  path_fails(alone, NULL, QN_ERR_FORMAT, "has no config.json");
}
END_TEST

static const char own_template[] =
    "{\"quern_template\": 1, \"name\": \"own\", \"extends\": \"llama\", \"gguf\": [\"llama\"],"
    " \"params\": {\"rope_kind\": {\"kind\": \"text\", \"value\": \"halves\"}},"
    " \"ignore\": {\"keys\": [\"{arch}.*\"], \"weights\": [\"*norm.bi*s\"]}}";

START_TEST(test_own_template) {
  qn_import *import = NULL;
  qn_diag diag = {0};
  qn_import_options options = {.template_path = write_text("own.json", own_template)};
  const char *model = make_model(&(edit){.add_keys = add_softcap, .add_tensor = "output_norm.bias"});
  qn_assert_ok(&diag, qn_import_open(model, &options, qn_test_allocator(), &import, &diag));
  qn_buf text;
  qn_buf_init(&text, qn_test_allocator());
  qn_import_describe(import, &text);
  ck_assert_ptr_nonnull(strstr(qn_buf_text(&text), "rope_kind = halves\n"));
  qn_buf_deinit(&text);
  qn_import_close(import);
  path_fails(make_model(&(edit){.model = "tiny-gpt2-test"}), options.template_path, QN_ERR_ARGUMENT,
             "own.json: is not for the architecture 'gpt2'");
  path_fails(model, write_text("graph.json", "{\"quern_graph\": 1, \"name\": \"g\", \"graph\": []}"), QN_ERR_ARGUMENT,
             "is a graph, want a template");
  path_fails(model, write_text("bad.json", "{\"quern_template\": 1,"), QN_ERR_FORMAT, "bad.json: 1:22: not JSON");
  path_fails(model, qn_test_temp_path("absent.json"), QN_ERR_IO, "absent.json");
  path_fails(options.template_path, NULL, QN_ERR_ARGUMENT, "own.json: is an architecture template, want a model");
}
END_TEST

// Params that are lists, from lists and from single values of each type; a vector of which each value is changed.
static const char list_template[] =
    "{\"quern_template\": 1, \"name\": \"own\", \"extends\": \"llama\", \"gguf\": [\"llama\"],"
    " \"params\": {\"ints\": {\"list\": 3, \"gguf\": \"{arch}.ints\", \"max\": 9},"
    "   \"floats\": {\"kind\": \"float\", \"list\": 3, \"gguf\": \"{arch}.floats\"},"
    "   \"bools\": {\"kind\": \"bool\", \"list\": 3, \"gguf\": \"{arch}.bools\"},"
    "   \"texts\": {\"kind\": \"text\", \"list\": 3, \"gguf\": \"{arch}.texts\"},"
    "   \"one\": {\"list\": 3, \"gguf\": \"{arch}.block_count\"}, \"none\": {\"list\": 3, \"gguf\": \"none\", \"default\": \"j + ints[j]\"}},"
    " \"weights\": {\"output_norm\": {\"gguf\": \"output_norm.weight\", \"shape\": [\"hidden\"], \"each\": {\"gguf\": \"2 * value + j\"}}}}";

static void add_lists(qn_gguf_writer *w, const uint32_t *ints, uint64_t count) {
  const qn_str texts[] = {QN_STR("a"), QN_STR("b\n"), QN_STR("")};
  qn_gguf_writer_add_array(w, "llama.ints", QN_GGUF_U32, ints, count);
  qn_gguf_writer_add_array(w, "llama.floats", QN_GGUF_F32, (float[]){0.5f, -1, 2}, 3);
  qn_gguf_writer_add_array(w, "llama.bools", QN_GGUF_BOOL, (uint8_t[]){1, 0, 1}, 3);
  qn_gguf_writer_add_strings(w, "llama.texts", texts, 3);
}
static void add_good_lists(qn_gguf_writer *w) { add_lists(w, (uint32_t[]){1, 2, 3}, 3); }
static void add_short_list(qn_gguf_writer *w) { add_lists(w, (uint32_t[]){1, 2}, 2); }
static void add_no_list(qn_gguf_writer *w) { add_lists(w, (uint32_t[]){1}, 0); }
static void add_large_value(qn_gguf_writer *w) { add_lists(w, (uint32_t[]){1, 2, 10}, 3); }
static void add_wrong_type(qn_gguf_writer *w) {
  qn_gguf_writer_add_array(w, "llama.ints", QN_GGUF_F32, (float[]){1, 2, 3}, 3);
}
static void add_infinity(qn_gguf_writer *w) {
  qn_gguf_writer_add_array(w, "llama.ints", QN_GGUF_U32, (uint32_t[]){1, 2, 3}, 3);
  qn_gguf_writer_add_array(w, "llama.floats", QN_GGUF_F32, (float[]){0.5f, INFINITY, 2}, 3);
}

START_TEST(test_lists) {
  static const struct {
    void (*add)(qn_gguf_writer *w);
    const char *want;
  } cases[] = {
      {add_short_list, "key 'llama.ints': got a list of 2 values, want 3 = 3 (param ints)"},
      {add_no_list, "key 'llama.ints': got a list of 0 values, want 3 = 3 (param ints)"},
      {add_large_value, "key 'llama.ints': got 10, want a number of 0 to 9 (param ints)"},
      {add_wrong_type, "key 'llama.ints': value 0 of the list is of another type, want integers"},
      {add_infinity, "key 'llama.floats': value 1 of the list is of another type, want numbers"},
      {NULL, "key 'llama.ints' is missing"},
  };
  qn_import_options options = {.template_path = write_text("own.json", list_template)};
  qn_diag diag = {0};
  qn_import *import = NULL;
  qn_tensor_data before, after;
  qn_assert_ok(&diag, qn_import_open(make_model(&(edit){.add_keys = add_good_lists}), &options, qn_test_allocator(),
                                     &import, &diag));
  qn_buf text;
  qn_buf_init(&text, qn_test_allocator());
  qn_import_describe(import, &text);
  ck_assert_ptr_nonnull(strstr(qn_buf_text(&text), "\nints = 1, 2, 3\nfloats = 0.5, -1, 2\nbools = 1, 0, 1\n"
                                                   "texts = a, b\\x0a, \none = 1, 1, 1\nnone = 1, 3, 5\n"));
  qn_buf_deinit(&text);
  qn_weight_source weights = qn_import_weights(import);
  qn_import *plain_import = open_model(&(edit){0});
  qn_weight_source plain_weights = qn_import_weights(plain_import);
  qn_assert_ok(&diag, weights.find(weights.context, "output_norm.weight", &after, &diag));
  qn_assert_ok(&diag, plain_weights.find(plain_weights.context, "output_norm.weight", &before, &diag));
  for (int j = 0; j < 64; j++)
    ck_assert(((const float *)after.data)[j] == 2 * ((const float *)before.data)[j] + (float)j);
  qn_import_close(plain_import);
  qn_import_close(import);
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    path_fails(make_model(&(edit){.add_keys = cases[i].add}), options.template_path, QN_ERR_FORMAT, cases[i].want);
  }
}
END_TEST

// A graph of the user's own with weights in the JSON and in a GGUF file beside it.
static const char graph_text[] =
    "\xef\xbb\xbf {\"quern_graph\": 1, \"name\": \"norm\", \"weights_file\": \"model.gguf\","
    " \"params\": {\"hidden\": {\"gguf\": \"llama.embedding_length\"}, \"context\": {\"value\": 128}},"
    " \"inputs\": {\"x\": {\"shape\": [\"T\", 64]}},"
    " \"weights\": {\"up\": {\"gguf\": \"blk.0.ffn_up.weight\", \"shape\": [160, \"hidden\"]},"
    "               \"flat\": {\"gguf\": \"blk.0.ffn_gate.weight\", \"shape\": [10240], \"stack\": \"e\"},"
    "               \"two\": {\"shape\": [1, 2], \"data\": [0.5, -2]}},"
    " \"graph\": [{\"set\": \"z\", \"op\": \"neg\", \"args\": [\"flat\"]}, {\"output\": \"z\", \"value\": \"z\"},"
    "             {\"set\": \"y\", \"op\": \"matmul\", \"args\": [\"x\", \"up\"]},"
    "             {\"set\": \"y\", \"op\": \"slice\", \"args\": [\"y\"], \"attrs\": {\"axis\": 1, \"begin\": 0, "
    "\"end\": 2}},"
    "             {\"set\": \"y\", \"op\": \"matmul\", \"args\": [\"y\", \"two\"]}, {\"output\": \"y\", \"value\": "
    "\"y\"}]}";

START_TEST(test_own_graph) {
  qn_import *import = NULL;
  qn_diag diag = {0};
  const char *model = make_model(&(edit){0});
  const char *path = write_text("graph.json", graph_text);
  qn_assert_ok(&diag, qn_import_open(path, NULL, qn_test_allocator(), &import, &diag));
  ck_assert_str_eq(qn_import_architecture(import), "norm");
  ck_assert_int_eq(qn_import_vocab_size(import), 0);
  ck_assert_int_eq(qn_import_context(import), 128);
  qn_weight_source weights = qn_import_weights(import);
  qn_tensor_data data;
  qn_assert_ok(&diag, weights.find(weights.context, "two", &data, &diag));
  ck_assert(data.rank == 2 && data.dims[0] == 1 && data.dims[1] == 2 && ((const float *)data.data)[1] == -2.0f);
  qn_assert_ok(&diag, weights.find(weights.context, "blk.0.ffn_up.weight", &data, &diag));
  ck_assert(data.rank == 2 && data.dims[0] == 160 && data.dims[1] == 64);
  qn_assert_ok(&diag, weights.find(weights.context, "blk.0.ffn_gate.weight", &data, &diag));  // rows as a vector
  ck_assert(data.rank == 1 && data.dims[0] == 160 * 64);
  qn_arena arena;
  qn_graph *graph;
  qn_arena_init(&arena, qn_test_allocator());
  qn_assert_ok(&diag, qn_import_graph(import, &plain, &arena, &graph, &diag));
  qn_assert_ok(&diag, qn_graph_verify(graph, QN_STAGE_IMPORTED, &diag));
  qn_arena_deinit(&arena);
  qn_import_close(import);
  path_fails(path, path, QN_ERR_ARGUMENT, "is a graph in JSON and needs no template");
  ck_assert_int_eq(remove(model), 0);
  path_fails(path, NULL, QN_ERR_IO, "model.gguf: cannot open");
}
END_TEST

// What guesses need is there, also behind a cap of the logits; and who cannot have it is told so.
static qn_status graph_for_guesses(const char *path, qn_arena *arena, qn_graph **out, qn_diag *diag) {
  qn_import *import = NULL;
  qn_import_graph_options options = plain;
  options.guesses = true;
  *out = NULL;
  QN_TRY(qn_import_open(path, NULL, qn_test_allocator(), &import, diag));
  qn_status status = qn_import_graph(import, &options, arena, out, diag);
  qn_import_close(import);
  return status;
}

START_TEST(test_guesses) {
  static const char no_product[] =
      "{\"quern_graph\": 1, \"name\": \"negated\", \"inputs\": {\"x\": {\"shape\": [\"R\", 64]}},"
      " \"graph\": [{\"set\": \"y\", \"op\": \"neg\", \"args\": [\"x\"]}, {\"output\": \"logits\", \"value\": \"y\"}]}";
  qn_arena arena;
  qn_graph *graph;
  qn_diag diag = {0};
  bool hidden = false;
  int writes = 0;
  qn_arena_init(&arena, qn_test_allocator());
  qn_assert_ok(&diag, graph_for_guesses(qn_test_source("tests/golden/models/gemma2"), &arena, &graph, &diag));
  for (size_t i = 0; i < graph->outputs.count; i++) {
    const qn_type *type = &qn_graph_node(graph, graph->outputs.items[i].value)->type;
    hidden = hidden || (strcmp(graph->outputs.items[i].name, "hidden") == 0 && type->rank == 2 &&
                        type->dims[0].symbol == QN_SYM_R);
  }
  for (qn_id id = 1; id < graph->nodes.count; id++) {
    const qn_node *node = qn_graph_node(graph, id);
    if (node->op != QN_OP_KV_WRITE) continue;
    writes++;
    ck_assert_int_eq(node->operand_count, 6);
    ck_assert_str_eq(qn_node_text(qn_graph_node(graph, node->operands[5]), QN_ATTR_NAME, ""), "copies");
  }
  ck_assert(hidden && writes > 0);
  qn_assert_fails(&diag, QN_ERR_UNSUPPORTED, "has an encoder, and tokens are guessed of texts that go on",
                  graph_for_guesses(qn_test_source("tests/golden/models/t5"), &arena, &graph, &diag));
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_UNSUPPORTED, "its logits are made by 'input' and not by a product",
                  graph_for_guesses(write_text("negated.json", no_product), &arena, &graph, &diag));
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_UNSUPPORTED, "has no output 'logits', want a language model",
                  graph_for_guesses(qn_test_source("models/nano/medusa"), &arena, &graph, &diag));
  qn_arena_deinit(&arena);
}
END_TEST

// ---- memory ------------------------------------------------------------------------------------------------------

static qn_status import_all(const qn_allocator *allocator, void *context) {
  qn_import *import;
  qn_arena arena;
  qn_graph *graph;
  qn_diag diag = {0};
  QN_TRY(qn_import_open(context, NULL, allocator, &import, &diag));
  qn_arena_init(&arena, allocator);
  qn_status status = qn_import_graph(import, &plain, &arena, &graph, &diag);
  qn_arena_deinit(&arena);
  qn_import_close(import);
  return status;
}

START_TEST(test_memory) {
  static char path[1024];
  snprintf(path, sizeof path, "%s", make_model(&(edit){.model = "tiny-qwen2-test"}));
  qn_test_failing_allocations(import_all, path);
  make_model(&(edit){0});
  snprintf(path, sizeof path, "%s", write_text("graph.json", graph_text));
  qn_test_failing_allocations(import_all, path);
}
END_TEST

QN_CASE(good, test_models_verify, test_stacks, test_golden, test_nano, test_weights, test_tolerated, test_optional, test_scaling)
QN_CASE(wrong, test_keys, test_refusals, test_tensors, test_graph_options, test_positions)
QN_CASE(files, test_recognition, test_own_template, test_lists, test_own_graph, test_guesses, test_memory)
QN_TEST_MAIN(good, wrong, files)
