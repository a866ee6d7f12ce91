// Builds synthetic models. Weights have standard deviation 1/sqrt(K) (residual outputs 1/sqrt(2 K layers)), so that
// activations keep their size through any number of layers.
#include "tests/support/synth.h"

#include <math.h>
#include <string.h>

#include "frontend/import/gguf_write.h"
#include "frontend/import/quantize.h"
#include "runtime/base/arena.h"
#include "tests/support/synth_vocabulary.h"

// name, architecture, hidden, layers, heads, KV heads, head_dim, ffn, vocab, context, theta, eps, tied, bias, llama3,
// vocabulary, experts, of which used, norms of queries and keys
static const qn_synth_model models[] = {
    {"tinyllama-1.1b", "llama", 2048, 22, 32, 4, 64, 5632, 32000, 2048, 1e4f, 1e-5f, false, false, false, "spm", 0, 0, false},
    {"llama-3.2-1b", "llama", 2048, 16, 32, 8, 64, 8192, 128256, 131072, 5e5f, 1e-5f, true, false, true, "llama-3", 0, 0, false},
    {"smollm2-135m", "llama", 576, 30, 9, 3, 64, 1536, 49152, 8192, 1e5f, 1e-5f, true, false, false, "smollm", 0, 0, false},
    {"qwen2.5-0.5b", "qwen2", 896, 24, 14, 2, 64, 4864, 151936, 32768, 1e6f, 1e-6f, true, true, false, "qwen2", 0, 0, false},
    {"gpt2", "gpt2", 768, 12, 12, 12, 64, 3072, 50257, 1024, 0.0f, 1e-5f, true, true, false, "gpt-2", 0, 0, false},
    {"olmoe-1b-7b", "olmoe", 2048, 16, 16, 16, 128, 1024, 50304, 4096, 1e4f, 1e-5f, false, false, false, "gpt-2", 64, 8, true},
    // As many weights as a token of the former meets, in one feed-forward.
    {"olmoe-dense", "llama", 2048, 16, 16, 16, 128, 8192, 50304, 4096, 1e4f, 1e-5f, false, false, false, "gpt-2", 0, 0, false},
    {"tiny-llama-test", "llama", 64, 2, 4, 2, 16, 160, 512, 256, 1e4f, 1e-5f, false, false, false, "spm", 0, 0, false},
    {"tiny-wide-test", "llama", 256, 3, 4, 2, 64, 512, 512, 256, 1e4f, 1e-5f, false, false, false, "spm", 0, 0, false},
    {"tiny-qwen2-test", "qwen2", 64, 2, 4, 2, 16, 160, 512, 256, 1e4f, 1e-6f, true, true, false, "spm", 0, 0, false},
    {"tiny-gpt2-test", "gpt2", 64, 2, 4, 4, 16, 256, 512, 64, 0.0f, 1e-5f, true, true, false, "spm", 0, 0, false},
    {"tiny-olmoe-test", "olmoe", 64, 2, 4, 2, 16, 96, 512, 256, 1e4f, 1e-5f, false, false, false, "spm", 6, 2, true},
};

const qn_synth_model *qn_synth_at(size_t index) { return index < QN_COUNT(models) ? &models[index] : NULL; }

#define ALIKE(name, number, dtype) \
  { name, number, QN_DTYPE_##dtype, QN_DTYPE_##dtype, false }
// name, llama.cpp's number for files of this type (llama_ftype), formats of most and of the preferred matrices
static const qn_synth_type types[] = {
    ALIKE("f32", 0, F32),
    ALIKE("f16", 1, F16),
    ALIKE("bf16", 32, BF16),
    ALIKE("q8_0", 7, Q8_0),
    ALIKE("q4_0", 2, Q4_0),
    ALIKE("q4_1", 3, Q4_1),
    ALIKE("q5_0", 8, Q5_0),
    ALIKE("q5_1", 9, Q5_1),
    ALIKE("q2_k", 10, Q2_K),
    ALIKE("q3_k", 11, Q3_K),
    ALIKE("q4_k", 14, Q4_K),
    ALIKE("q5_k", 16, Q5_K),
    ALIKE("q6_k", 18, Q6_K),
    ALIKE("iq4_nl", 25, IQ4_NL),
    ALIKE("iq4_xs", 30, IQ4_XS),
    ALIKE("mxfp4", 38, MXFP4),
    {"q4_k_m", 15, QN_DTYPE_Q4_K, QN_DTYPE_Q6_K, false},
    {"q5_k_m", 17, QN_DTYPE_Q5_K, QN_DTYPE_Q6_K, false},
    {"every", 1024, QN_DTYPE_Q8_0, QN_DTYPE_Q8_0, true},
};

const qn_synth_type *qn_synth_type_at(size_t index) { return index < QN_COUNT(types) ? &types[index] : NULL; }

const qn_synth_type *qn_synth_type_find(const char *name) {
  for (size_t i = 0; i < QN_COUNT(types); i++) {
    if (strcmp(types[i].name, name) == 0) return &types[i];
  }
  return NULL;
}

const qn_synth_model *qn_synth_find(const char *name) {
  for (size_t i = 0; i < QN_COUNT(models); i++) {
    if (strcmp(models[i].name, name) == 0) return &models[i];
  }
  return NULL;
}

// ---- random rows -------------------------------------------------------------------------------------------------

// A large tensor's rows are windows, at random blocks, into a pool of this many values: making and quantising every
// value of a billion would take far longer than writing them.
enum { POOL_VALUES = 1 << 18 };

typedef struct builder {
  const qn_synth_options *options;
  const qn_synth_model *model;
  int layers;
  qn_gguf_writer *writer;  // owned
  qn_arena arena;          // tensor descriptions and vocabulary
  uint64_t tensor_count;   // seeds differ by tensor
  size_t matrix_count;
  uint8_t *pool;           // owned: the quantised values of the tensor being written
  size_t pool_bytes;       // of all of the buffer
  qn_diag *diag;
  bool failed;  // an allocation failed
} builder;

// One random tensor: what its rows callback gets.
typedef struct random_tensor {
  builder *b;
  const qn_format *format;
  const char *name;  // arena
  int64_t rows, k;
  float mean, deviation;
  uint64_t seed;
  uint64_t pool_rows;  // rows of the pool, 0 until it is filled
} random_tensor;

// Vigna's splitmix64: a hash of its argument good enough to seed with.
static uint64_t splitmix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// The sum of four uniforms, close to a normal distribution; xorshift64* gives all four at once.
static float random_normal(uint64_t *state, float deviation) {
  uint64_t x = *state;
  x ^= x >> 12;
  x ^= x << 25;
  x ^= x >> 27;
  *state = x;
  x *= 0x2545f4914f6cdd1du;
  uint32_t sum =
      (uint32_t)(x & 0xffff) + (uint32_t)(x >> 16 & 0xffff) + (uint32_t)(x >> 32 & 0xffff) + (uint32_t)(x >> 48);
  return ((float)sum / 65536.0f - 2.0f) * (1.7320508f * deviation);  // four uniforms have variance 1/3
}

// Fills the builder's pool with the tensor's quantised values: all of them where they fit.
static qn_status fill_pool(random_tensor *tensor, size_t row_bytes) {
  builder *b = tensor->b;
  int64_t most = POOL_VALUES / tensor->k + 2;  // two rows at least, for windows between them
  tensor->pool_rows = (uint64_t)(tensor->rows < most ? tensor->rows : most);
  size_t need = (size_t)tensor->pool_rows * row_bytes, row_size = (size_t)tensor->k * sizeof(float);
  if (need > b->pool_bytes) {
    uint8_t *pool = qn_realloc(b->arena.allocator, b->pool, b->pool_bytes, need);
    if (pool == NULL) return qn_fail_nomem(b->diag, tensor->name, "random weights");
    b->pool = pool;
    b->pool_bytes = need;
  }
  float *row = qn_alloc(b->arena.allocator, row_size);
  if (row == NULL) return qn_fail_nomem(b->diag, tensor->name, "random weights");
  uint64_t state = splitmix(tensor->seed) | 1;
  qn_status status = QN_OK;
  for (uint64_t r = 0; status == QN_OK && r < tensor->pool_rows; r++) {
    for (int64_t i = 0; i < tensor->k; i++) row[i] = tensor->mean + random_normal(&state, tensor->deviation);
    status = qn_quantize_row(tensor->format, tensor->k, row, b->pool + r * row_bytes, tensor->name, b->diag);
  }
  qn_free(b->arena.allocator, row, row_size);
  return status;
}

// A qn_gguf_rows_fn.
static qn_status random_rows(void *context, int64_t row_begin, int64_t row_end, void *out) {
  random_tensor *tensor = context;
  uint64_t blocks = (uint64_t)(tensor->k / tensor->format->block_values);
  size_t row_bytes = (size_t)blocks * tensor->format->block_bytes;
  if (row_begin == 0) QN_TRY(fill_pool(tensor, row_bytes));
  uint64_t windows = (tensor->pool_rows - 1) * blocks + 1;
  bool whole = tensor->pool_rows == (uint64_t)tensor->rows;
  uint8_t *to = out;
  for (int64_t row = row_begin; row < row_end; row++, to += row_bytes) {
    uint64_t block = whole ? (uint64_t)row * blocks : splitmix(tensor->seed + (uint64_t)row) % windows;
    memcpy(to, tensor->b->pool + block * tensor->format->block_bytes, row_bytes);
  }
  return QN_OK;
}

// ---- tensors -----------------------------------------------------------------------------------------------------

// `rows` rows of k, in as many matrices as there are `experts`; 0 = no such dimension.
static void add_random_of(builder *b, const char *name, const qn_format *format, int64_t k, int64_t rows, int64_t experts,
                          float mean, float deviation) {
  random_tensor *tensor = QN_ARENA_NEW(&b->arena, random_tensor);
  char *copy = name == NULL ? NULL : qn_arena_strdup(&b->arena, name);
  if (tensor == NULL || copy == NULL) {
    b->failed = true;
    return;
  }
  *tensor = (random_tensor){.b = b,
                            .format = format,
                            .name = copy,
                            .rows = experts > 0 ? rows * experts : rows,
                            .k = k,
                            .mean = mean,
                            .deviation = deviation,
                            .seed = splitmix(b->options->seed + b->tensor_count++)};
  int64_t dims[3] = {k, rows, experts};
  int rank = experts > 0 ? 3 : rows == 1 ? 1 : 2;
  qn_gguf_writer_add_tensor_rows(b->writer, copy, format, rank, dims, random_rows, tensor);
}

static void add_random(builder *b, const char *name, const qn_format *format, int64_t k, int64_t rows, float mean,
                       float deviation) {
  add_random_of(b, name, format, k, rows, 0, mean, deviation);
}

// A (rows, k) matrix in the type's format, or, where the mix prefers it, in its better one; in what fits rows of k
// where that does not, as llama.cpp does. `gain` scales the standard deviation 1/sqrt(k).
static void add_matrix(builder *b, const char *name, int64_t k, int64_t rows, float gain, bool preferred) {
  const qn_synth_type *type = b->options->type;
  size_t alike = 0;
  while (types[alike].format == types[alike].better && !types[alike].every) alike++;
  if (type->every) type = &types[b->matrix_count++ % alike];
  const qn_format *format = qn_format_of(preferred ? type->better : type->format);
  add_random(b, name, qn_quantize_format_for(format, k), k, rows, 0.0f, gain / sqrtf((float)k));
}

// The layers whose attn_v and ffn_down llama.cpp's _M mixes keep in more bits: the first and the last eighth, and every
// third between.
static bool more_bits(const builder *b, int layer) {
  int n = b->layers;
  return layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2;
}

// A vector of n values near `mean`.
static void add_vector(builder *b, const char *name, int64_t n, float mean, float deviation) {
  add_random(b, name, qn_format_of(QN_DTYPE_F32), n, 1, mean, deviation);
}

// "blk.3.attn_q.weight"; NULL when out of memory, which add_random notes.
static const char *block_name(builder *b, int layer, const char *what) {
  return qn_arena_printf(&b->arena, "blk.%d.%s", layer, what);
}

// A norm's weight near one, and its bias near zero where LayerNorm has one.
static void add_norm(builder *b, int layer, const char *weight, const char *bias) {
  add_vector(b, layer < 0 ? weight : block_name(b, layer, weight), b->model->hidden, 1.0f, 0.05f);
  if (bias != NULL) add_vector(b, layer < 0 ? bias : block_name(b, layer, bias), b->model->hidden, 0.0f, 0.02f);
}

// A block's matrix (rows, k), and its bias where the name of one is given.
static void add_linear(builder *b, int layer, const char *weight, const char *bias, int64_t k, int64_t rows,
                       float gain) {
  bool varies = strcmp(weight, "attn_v.weight") == 0 || strcmp(weight, "ffn_down.weight") == 0;
  add_matrix(b, block_name(b, layer, weight), k, rows, gain, varies && more_bits(b, layer));
  if (bias != NULL) add_vector(b, block_name(b, layer, bias), rows, 0.0f, 0.02f);
}

// A matrix (rows, k) of each expert.
static void add_experts(builder *b, int layer, const char *weight, int64_t k, int64_t rows, float gain) {
  const qn_format *format = qn_quantize_format_for(qn_format_of(b->options->type->format), k);
  add_random_of(b, block_name(b, layer, weight), format, k, rows, b->model->experts, 0.0f, gain / sqrtf((float)k));
}

static void add_feed_forward(builder *b, int layer, float residual_gain) {
  const qn_synth_model *m = b->model;
  if (m->experts == 0) {
    add_linear(b, layer, "ffn_gate.weight", NULL, m->hidden, m->ffn, 1.0f);
    add_linear(b, layer, "ffn_up.weight", NULL, m->hidden, m->ffn, 1.0f);
    add_linear(b, layer, "ffn_down.weight", NULL, m->ffn, m->hidden, residual_gain);
    return;
  }
  add_random(b, block_name(b, layer, "ffn_gate_inp.weight"), qn_format_of(QN_DTYPE_F32), m->hidden, m->experts, 0.0f,
             1.0f / sqrtf((float)m->hidden));
  add_experts(b, layer, "ffn_gate_exps.weight", m->hidden, m->ffn, 1.0f);
  add_experts(b, layer, "ffn_up_exps.weight", m->hidden, m->ffn, 1.0f);
  add_experts(b, layer, "ffn_down_exps.weight", m->ffn, m->hidden, residual_gain);
}

static void add_llama_block(builder *b, int layer, float residual_gain) {
  const qn_synth_model *m = b->model;
  int64_t q = (int64_t)m->heads * m->head_dim, kv = (int64_t)m->kv_heads * m->head_dim;
  add_norm(b, layer, "attn_norm.weight", NULL);
  add_linear(b, layer, "attn_q.weight", m->qkv_bias ? "attn_q.bias" : NULL, m->hidden, q, 1.0f);
  add_linear(b, layer, "attn_k.weight", m->qkv_bias ? "attn_k.bias" : NULL, m->hidden, kv, 1.0f);
  add_linear(b, layer, "attn_v.weight", m->qkv_bias ? "attn_v.bias" : NULL, m->hidden, kv, 1.0f);
  if (m->qk_norm) {
    add_vector(b, block_name(b, layer, "attn_q_norm.weight"), q, 1.0f, 0.05f);
    add_vector(b, block_name(b, layer, "attn_k_norm.weight"), kv, 1.0f, 0.05f);
  }
  add_linear(b, layer, "attn_output.weight", NULL, q, m->hidden, residual_gain);
  add_norm(b, layer, "ffn_norm.weight", NULL);
  add_feed_forward(b, layer, residual_gain);
}

static void add_gpt2_block(builder *b, int layer, float residual_gain) {
  const qn_synth_model *m = b->model;
  int64_t q = (int64_t)m->heads * m->head_dim;
  add_norm(b, layer, "attn_norm.weight", "attn_norm.bias");
  add_linear(b, layer, "attn_qkv.weight", "attn_qkv.bias", m->hidden, 3 * q, 1.0f);
  add_linear(b, layer, "attn_output.weight", "attn_output.bias", q, m->hidden, residual_gain);
  add_norm(b, layer, "ffn_norm.weight", "ffn_norm.bias");
  add_linear(b, layer, "ffn_up.weight", "ffn_up.bias", m->hidden, m->ffn, 1.0f);
  add_linear(b, layer, "ffn_down.weight", "ffn_down.bias", m->ffn, m->hidden, residual_gain);
}

// Llama 3's frequency divisors, (head_dim / 2) values: 1 for short wavelengths, 32 for long ones, a blend between
// ("The Llama 3 Herd of Models"; the formula is that of the Hugging Face configuration "rope_type": "llama3").
static void add_llama3_factors(builder *b) {
  const double factor = 32.0, low = 1.0, high = 4.0, original_context = 8192.0;
  int64_t n = b->model->head_dim / 2;
  float *factors = QN_ARENA_ARRAY(&b->arena, (size_t)n, float);
  if (factors == NULL) {
    b->failed = true;
    return;
  }
  for (int64_t i = 0; i < n; i++) {
    double wavelength = 2.0 * 3.14159265358979323846 * pow((double)b->model->rope_theta, (double)i / (double)n);
    double blend = (original_context / wavelength - low) / (high - low);
    if (blend < 0.0) blend = 0.0;
    if (blend > 1.0) blend = 1.0;
    factors[i] = (float)(1.0 / ((1.0 - blend) / factor + blend));
  }
  qn_gguf_writer_add_tensor(b->writer, QN_STR("rope_freqs.weight"), qn_format_of(QN_DTYPE_F32)->gguf_type, 1, &n,
                            factors, (size_t)n * sizeof *factors);
}

static void add_tensors(builder *b) {
  const qn_synth_model *m = b->model;
  bool learned_positions = m->rope_theta == 0.0f;
  float residual_gain = 1.0f / sqrtf(2.0f * (float)b->layers);
  add_matrix(b, "token_embd.weight", m->hidden, m->vocab, 1.0f, m->tied);
  if (learned_positions) {
    add_random(b, "position_embd.weight", qn_format_of(QN_DTYPE_F32), m->hidden, m->context, 0.0f, 0.01f);
  }
  if (m->llama3_rope) add_llama3_factors(b);
  for (int layer = 0; layer < b->layers; layer++) {
    if (learned_positions) {
      add_gpt2_block(b, layer, residual_gain);
    } else {
      add_llama_block(b, layer, residual_gain);
    }
  }
  add_norm(b, -1, "output_norm.weight", learned_positions ? "output_norm.bias" : NULL);
  if (!m->tied) add_matrix(b, "output.weight", m->hidden, m->vocab, 1.0f, true);
}

// ---- metadata ----------------------------------------------------------------------------------------------------

static const char *arch_key(builder *b, const char *suffix) {
  const char *key = qn_arena_printf(&b->arena, "%s.%s", b->model->architecture, suffix);
  if (key == NULL) b->failed = true;
  return key != NULL ? key : "";
}

static void add_parameters(builder *b) {
  const qn_synth_model *m = b->model;
  qn_gguf_writer *w = b->writer;
  bool learned_positions = m->rope_theta == 0.0f;
  qn_gguf_writer_add_text(w, "general.architecture", m->architecture);
  qn_gguf_writer_add_text(w, "general.name", m->name);
  qn_gguf_writer_add_u32(w, "general.file_type", b->options->type->file_type);
  qn_gguf_writer_add_u32(w, "general.quantization_version", 2);
  qn_gguf_writer_add_u32(w, arch_key(b, "vocab_size"), (uint32_t)m->vocab);
  qn_gguf_writer_add_u32(w, arch_key(b, "context_length"), (uint32_t)m->context);
  qn_gguf_writer_add_u32(w, arch_key(b, "embedding_length"), (uint32_t)m->hidden);
  qn_gguf_writer_add_u32(w, arch_key(b, "block_count"), (uint32_t)b->layers);
  qn_gguf_writer_add_u32(w, arch_key(b, "feed_forward_length"), (uint32_t)m->ffn);
  qn_gguf_writer_add_u32(w, arch_key(b, "attention.head_count"), (uint32_t)m->heads);
  qn_gguf_writer_add_u32(w, arch_key(b, "attention.head_count_kv"), (uint32_t)m->kv_heads);
  qn_gguf_writer_add_f32(
      w, arch_key(b, learned_positions ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon"),
      m->epsilon);
  if (m->experts > 0) {
    qn_gguf_writer_add_u32(w, arch_key(b, "expert_count"), (uint32_t)m->experts);
    qn_gguf_writer_add_u32(w, arch_key(b, "expert_used_count"), (uint32_t)m->experts_used);
  }
  if (learned_positions) return;
  qn_gguf_writer_add_u32(w, arch_key(b, "rope.dimension_count"), (uint32_t)m->head_dim);
  qn_gguf_writer_add_f32(w, arch_key(b, "rope.freq_base"), m->rope_theta);
}

// ---- the whole ---------------------------------------------------------------------------------------------------

static qn_status builder_init(builder *b, const qn_synth_options *options, const qn_allocator *allocator,
                              qn_diag *diag) {
  *b = (builder){.options = options, .model = options->model, .diag = diag};
  b->layers = options->layers > 0 ? options->layers : options->model->layers;
  qn_arena_init(&b->arena, allocator);
  b->writer = qn_gguf_writer_create(allocator);
  if (b->writer == NULL) return qn_fail_nomem(diag, b->model->name, "the synthetic model");
  add_parameters(b);
  const qn_synth_vocabulary *vocabulary = qn_synth_vocabulary_find(b->model->vocabulary);
  if (!qn_synth_vocabulary_add(vocabulary, (size_t)b->model->vocab, b->writer, &b->arena)) b->failed = true;
  add_tensors(b);
  return b->failed ? qn_fail_nomem(diag, b->model->name, "the synthetic model") : QN_OK;
}

static void builder_deinit(builder *b) {
  qn_gguf_writer_destroy(b->writer);
  qn_free(b->arena.allocator, b->pool, b->pool_bytes);
  qn_arena_deinit(&b->arena);
}

qn_status qn_synth_save(const qn_synth_options *options, const char *path, const qn_allocator *allocator,
                        qn_diag *diag) {
  builder b;
  qn_status status = builder_init(&b, options, allocator, diag);
  if (status == QN_OK) status = qn_gguf_writer_save(b.writer, path, diag);
  builder_deinit(&b);
  return status;
}

qn_status qn_synth_save_memory(const qn_synth_options *options, const qn_allocator *allocator, uint8_t **out_data,
                               size_t *out_size, qn_diag *diag) {
  builder b;
  *out_data = NULL;
  *out_size = 0;
  qn_status status = builder_init(&b, options, allocator, diag);
  if (status == QN_OK) status = qn_gguf_writer_save_memory(b.writer, out_data, out_size, diag);
  builder_deinit(&b);
  return status;
}
