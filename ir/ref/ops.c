// Every op's formula in double. No blocking, no fusion, no cleverness: what the kernels are measured against.
#include <math.h>
#include <string.h>

#include "ir/program.h"
#include "ir/ref/ref.h"

typedef struct op_context {
  const qn_node *node;
  const qn_ref_tensor *const *in;
  qn_ref_tensor *out;
  qn_diag *diag;
} op_context;

static int64_t dim(const qn_ref_tensor *t, int axis) { return t->type.dims[axis].value; }
static int64_t last(const qn_ref_tensor *t) { return t->type.rank ? dim(t, t->type.rank - 1) : 1; }

// --- elementwise

static double unary(qn_op op, double x) {
  switch (op) {
    case QN_OP_NEG: return -x;
    case QN_OP_SQRT: return sqrt(x);
    case QN_OP_EXP: return exp(x);
    case QN_OP_TANH: return tanh(x);
    case QN_OP_ERF: return erf(x);
    case QN_OP_SIGMOID: return 1 / (1 + exp(-x));
    case QN_OP_RELU: return x > 0 ? x : 0;
    case QN_OP_SILU: return x / (1 + exp(-x));
    case QN_OP_GELU: return x / 2 * (1 + erf(x / sqrt(2)));
    default: return x / 2 * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));  // GELU_TANH
  }
}

static double binary(qn_op op, double x, double y) {
  switch (op) {
    case QN_OP_ADD: return x + y;
    case QN_OP_SUB: return x - y;
    case QN_OP_MUL: return x * y;
    default: return x / y;
  }
}

// The element of a broadcast operand beside element i of the result.
static double broadcast(const qn_ref_tensor *t, const qn_ref_tensor *result, int64_t i) {
  if (t->type.rank == 0) return t->values[0];
  if (t->type.rank < result->type.rank) return t->values[i % last(result)];
  return t->values[i];
}

static void elementwise(const op_context *c) {
  for (int64_t i = 0; i < c->out->count; i++) {
    double x = broadcast(c->in[0], c->out, i);
    c->out->values[i] =
        c->node->operand_count == 1 ? unary(c->node->op, x) : binary(c->node->op, x, broadcast(c->in[1], c->out, i));
  }
}

// --- rows

static void rmsnorm(const op_context *c, const double *x, double *y, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += x[i] * x[i];
  double root = sqrt(sum / (double)n + qn_node_float(c->node, QN_ATTR_EPS, 0));
  for (int64_t i = 0; i < n; i++) y[i] = x[i] / root * c->in[1]->values[i];
}

static void layernorm(const op_context *c, const double *x, double *y, int64_t n) {
  double mean = 0, variance = 0;
  for (int64_t i = 0; i < n; i++) mean += x[i] / (double)n;
  for (int64_t i = 0; i < n; i++) variance += (x[i] - mean) * (x[i] - mean) / (double)n;
  double root = sqrt(variance + qn_node_float(c->node, QN_ATTR_EPS, 0));
  for (int64_t i = 0; i < n; i++) y[i] = (x[i] - mean) / root * c->in[1]->values[i] + c->in[2]->values[i];
}

static void softmax(const double *x, double *y, int64_t n) {
  double max = -INFINITY, sum = 0;
  for (int64_t i = 0; i < n; i++) max = x[i] > max ? x[i] : max;
  for (int64_t i = 0; i < n; i++) sum += y[i] = exp(x[i] - max);
  for (int64_t i = 0; i < n; i++) y[i] /= sum;
}

// Blocks of 32: the value that scale and code stand for. The scale is an f32, as the format stores it.
static void quantize(const double *x, double *y, int64_t n) {
  for (int64_t block = 0; block < n; block += 32) {
    double max = 0;
    for (int64_t i = block; i < block + 32; i++) max = fabs(x[i]) > max || isnan(x[i]) ? fabs(x[i]) : max;
    double scale = isfinite(max) ? (float)(max / 127) : NAN;
    for (int64_t i = block; i < block + 32; i++) {
      y[i] = max < QN_QUANTIZE_LEAST ? 0 : nearbyint(x[i] * 127 / max) * scale;
    }
  }
}

static void rows(const op_context *c) {
  int64_t n = last(c->out);
  for (int64_t at = 0; at < c->out->count; at += n) {
    const double *x = c->in[0]->values + at;
    double *y = c->out->values + at;
    switch (c->node->op) {
      case QN_OP_RMSNORM: rmsnorm(c, x, y, n); break;
      case QN_OP_LAYERNORM: layernorm(c, x, y, n); break;
      case QN_OP_SOFTMAX: softmax(x, y, n); break;
      default: quantize(x, y, n); break;
    }
  }
}

// --- shapes

static void slice(const op_context *c) {
  int64_t axis = qn_node_int(c->node, QN_ATTR_AXIS, 0), begin = qn_node_int(c->node, QN_ATTR_BEGIN, 0), inner = 1;
  for (int i = (int)axis + 1; i < c->out->type.rank; i++) inner *= dim(c->out, i);
  int64_t span = dim(c->out, (int)axis) * inner, from_span = dim(c->in[0], (int)axis) * inner;
  for (int64_t i = 0; i < c->out->count; i++) {
    c->out->values[i] = c->in[0]->values[i / span * from_span + begin * inner + i % span];
  }
}

static void concat(const op_context *c) {
  int64_t axis = qn_node_int(c->node, QN_ATTR_AXIS, 0), inner = 1, at = 0;
  for (int i = (int)axis + 1; i < c->out->type.rank; i++) inner *= dim(c->out, i);
  int64_t span = dim(c->out, (int)axis) * inner;
  for (int part = 0; part < c->node->operand_count; part++) {
    const qn_ref_tensor *t = c->in[part];
    int64_t width = dim(t, (int)axis) * inner;
    for (int64_t i = 0; i < t->count; i++) c->out->values[i / width * span + at + i % width] = t->values[i];
    at += width;
  }
}

static qn_status take_rows(const op_context *c, const qn_ref_tensor *table, const qn_ref_tensor *ids) {
  int64_t width = last(table);
  for (int64_t i = 0; i < ids->count; i++) {
    int64_t row = (int64_t)ids->values[i];
    if (row < 0 || row >= dim(table, 0)) {
      return qn_fail(c->diag, QN_ERR_ARGUMENT, c->node->loc, "%s: got row %lld, want one of 0..%lld",
                     qn_op_get_info(c->node->op)->name, (long long)row, (long long)dim(table, 0) - 1);
    }
    memcpy(c->out->values + i * width, table->values + row * width, (size_t)width * sizeof(double));
  }
  return QN_OK;
}

static void pool(const op_context *c) {
  const qn_ref_tensor *x = c->in[0], *pos = c->in[1], *rows = c->in[2];
  bool mean = strcmp(qn_node_text(c->node, QN_ATTR_KIND, ""), "mean") == 0;
  int64_t width = last(x);
  for (int64_t i = 0; i < c->out->count; i++) {
    int64_t t = (int64_t)rows->values[i / width], before = (int64_t)pos->values[t] < t ? (int64_t)pos->values[t] : t;
    double sum = 0;
    for (int64_t s = t - before; s <= t; s++) sum += s == t - before || mean ? x->values[s * width + i % width] : 0;
    c->out->values[i] = mean ? sum / (double)(before + 1) : sum;
  }
}

// --- products

static void matmul(const op_context *c) {
  int64_t k = last(c->in[0]), n = last(c->out);
  for (int64_t i = 0; i < c->out->count; i++) {
    const double *x = c->in[0]->values + i / n * k, *w = c->in[1]->values + i % n * k;
    double sum = 0;
    for (int64_t j = 0; j < k; j++) sum += x[j] * w[j];
    c->out->values[i] = sum;
  }
}

static void rope_table(const op_context *c) {
  int64_t dims = last(c->out);
  double theta = qn_node_float(c->node, QN_ATTR_THETA, 0), scale = qn_node_float(c->node, QN_ATTR_SCALE, 1);
  for (int64_t i = 0; i < c->out->count; i++) {
    int64_t f = i % dims % (dims / 2);
    double frequency = pow(theta, -2.0 * (double)f / (double)dims);
    if (c->node->operand_count == 2) frequency /= c->in[1]->values[f];
    double angle = c->in[0]->values[i / dims] * frequency;
    c->out->values[i] = scale * (i % dims < dims / 2 ? cos(angle) : sin(angle));
  }
}

static void rope(const op_context *c) {
  int64_t head_dim = last(c->out), dims = last(c->in[1]), half = dims / 2, row = dim(c->out, 1) * head_dim;
  bool pairs = strcmp(qn_node_text(c->node, QN_ATTR_KIND, ""), "pairs") == 0;
  memcpy(c->out->values, c->in[0]->values, (size_t)c->out->count * sizeof(double));
  for (int64_t head = 0; head < c->out->count; head += head_dim) {
    const double *x = c->in[0]->values + head, *table = c->in[1]->values + head / row * dims;
    for (int64_t i = 0; i < half; i++) {
      int64_t a = pairs ? 2 * i : i, b = pairs ? 2 * i + 1 : i + half;
      c->out->values[head + a] = x[a] * table[i] - x[b] * table[half + i];
      c->out->values[head + b] = x[a] * table[half + i] + x[b] * table[i];
    }
  }
}

// --- the paged cache

// Index in a pool of key `key` of sequence `seq`: K is [G, J, C, 64], V is [G, J, 64, C].
static int64_t pool_index(const qn_ref_tensor *pool, bool is_k, int64_t seq, const qn_ref_tensor *table, int64_t key,
                          int64_t head, int64_t c) {
  int64_t page = (int64_t)table->values[seq * dim(table, 1) + key / QN_PAGE_KEYS];
  int64_t base = page * dim(pool, 1) + head, slot = key % QN_PAGE_KEYS;
  return is_k ? (base * dim(pool, 2) + c) * QN_PAGE_KEYS + slot : (base * QN_PAGE_KEYS + slot) * dim(pool, 3) + c;
}

// What a cache of codes makes of values that share a scale, `stride` apart, in place.
static void keep_codes(const qn_kv_page *page, double *values, int64_t count, int64_t stride) {
  float max = 0, most = (float)page->most;
  bool odd = false;
  for (int64_t i = 0; i < count; i++) {
    float x = fabsf((float)values[i * stride]);
    odd = odd || !isfinite(x);
    max = x > max ? x : max;
  }
  float scale = odd ? NAN : qn_bf16_to_f32(qn_f32_to_bf16(max / (most + 0.5f)));
  float inverse = max >= QN_QUANTIZE_LEAST ? 1 / scale : 0;
  for (int64_t i = 0; i < count; i++) {
    float code = nearbyintf((float)values[i * stride] * inverse);
    values[i * stride] = (double)scale * (code > most ? most : code < -most ? -most : code);
  }
}

// The keys or values that were written of token t to sequence `seq`.
static void keep_token(const op_context *c, const qn_kv_page *page, int64_t t, int64_t seq) {
  const qn_ref_tensor *table = c->in[4];
  int64_t pos = (int64_t)c->in[2]->values[t], width = page->group_width;
  for (int64_t head = 0; head < page->heads; head++) {
    for (int64_t first = 0; first < page->width; first += width) {
      int64_t at = pool_index(c->out, page->is_k, seq, table, pos, head, first);
      int64_t count = page->width - first < width ? page->width - first : width;
      keep_codes(page, c->out->values + at, count, page->is_k ? page->keys : 1);
    }
  }
}

// What token t adds to the sum of a key, which its own token begins.
static void add_attention(const op_context *c, int64_t t, int64_t kv_head, int64_t key) {
  const qn_ref_tensor *pool = c->in[0], *p = c->in[1];
  int64_t heads = dim(p, 1), keys = dim(p, 2), group = heads / dim(pool, 1);
  int64_t at = pool_index(pool, true, (int64_t)c->in[3]->values[t], c->in[4], key, kv_head, 0);
  if (key == (int64_t)c->in[2]->values[t]) c->out->values[at] = 0;
  for (int64_t h = kv_head * group; h < (kv_head + 1) * group; h++)
    c->out->values[at] += p->values[(t * heads + h) * keys + key];
}

static void kv_sum(const op_context *c) {
  for (int64_t t = 0; t < dim(c->in[1], 0); t++) {
    for (int64_t head = 0; head < dim(c->in[0], 1); head++) {
      for (int64_t key = 0; key <= (int64_t)c->in[2]->values[t]; key++) add_attention(c, t, head, key);
    }
  }
}

static void kv_write(const op_context *c) {
  const qn_ref_tensor *pool = c->in[0], *x = c->in[1], *pos = c->in[2], *seq = c->in[3], *table = c->in[4];
  const char *kind = qn_node_text(c->node, QN_ATTR_KIND, "k");
  bool is_k = qn_kv_lies_as_k(kind);
  memcpy(c->out->values, pool->values, (size_t)pool->count * sizeof(double));
  if (qn_kv_is_sum(kind)) {
    kv_sum(c);
    return;
  }
  int64_t heads = dim(x, 1), width = dim(x, 2);
  qn_kv_page page;
  bool coded = qn_type_kv_page(&c->node->type, is_k, &page) && page.coded;
  for (int64_t t = 0; t < dim(x, 0); t++) {
    int64_t copies = c->node->operand_count > 5 ? (int64_t)c->in[5]->values[t] : 1, first = (int64_t)seq->values[t];
    for (int64_t s = first; s < first + copies; s++) {
      for (int64_t i = 0; i < heads * width; i++) {
        int64_t at = pool_index(pool, is_k, s, table, (int64_t)pos->values[t], i / width, i % width);
        c->out->values[at] = x->values[t * heads * width + i];
      }
      if (coded) keep_token(c, &page, t, s);
    }
  }
}

// Operands of attention, `first_place` being pos.
typedef struct attention_places {
  int pos, seq, table, by, at;  // by: slopes or bias, 0 = none
} attention_places;

static attention_places places_of(const op_context *c, int first_place) {
  attention_places p = {.pos = first_place, .seq = first_place + 1, .table = first_place + 2};
  const qn_type *after = c->node->operand_count > first_place + 3 ? &c->in[first_place + 3]->type : NULL;
  qn_attention_operands(c->node, first_place, after, &p.by, &p.at);
  return p;
}

static bool sees(const op_context *c, const attention_places *p, int64_t t, int64_t key) {
  int64_t window = qn_node_int(c->node, QN_ATTR_WINDOW, 0), at = (int64_t)c->in[p->at]->values[t];
  int64_t last = (int64_t)c->in[p->pos]->values[t];
  const qn_attr *ahead = qn_node_attr(c->node, QN_ATTR_AHEAD);
  if (ahead && key > at + ahead->value.i) return false;
  return key <= last && (window <= 0 || key > at - window);
}

static double score(const op_context *c, const attention_places *p, int64_t t, int64_t head, int64_t key) {
  const qn_ref_tensor *q = c->in[0], *pool = c->in[1];
  int64_t width = dim(q, 2), group = dim(q, 1) / dim(pool, 1);
  double sum = 0;
  for (int64_t i = 0; i < width; i++) {
    double k =
        pool->values[pool_index(pool, true, (int64_t)c->in[p->seq]->values[t], c->in[p->table], key, head / group, i)];
    sum += q->values[(t * dim(q, 1) + head) * width + i] * k;
  }
  sum *= qn_node_float(c->node, QN_ATTR_SCALE, 1);
  double cap = qn_node_float(c->node, QN_ATTR_SOFTCAP, 0);
  if (cap > 0) sum = cap * tanh(sum / cap);
  if (!p->by) return sum;
  int64_t distance = key - (int64_t)c->in[p->at]->values[t];
  if (!qn_node_attr(c->node, QN_ATTR_ORIGIN)) return sum + c->in[p->by]->values[head] * (double)distance;
  int64_t count = dim(c->in[p->by], 0) / dim(q, 1), column = distance + qn_node_int(c->node, QN_ATTR_ORIGIN, 0);
  column = column < 0 ? 0 : column < count ? column : count - 1;
  return sum + c->in[p->by]->values[head * count + column];
}

static void attn_scores(const op_context *c) {
  int64_t heads = dim(c->out, 1), keys = dim(c->out, 2);
  attention_places p = places_of(c, 2);
  for (int64_t i = 0; i < c->out->count; i++) {
    int64_t t = i / keys / heads, key = i % keys;
    c->out->values[i] = sees(c, &p, t, key) ? score(c, &p, t, i / keys % heads, key) : -INFINITY;
  }
}

// out[t, head] = sum over keys of weights[key] * v.
static void mix(const op_context *c, const qn_ref_tensor *pool, int places, int64_t t, int64_t head,
                const double *weights, int64_t keys) {
  int64_t heads = dim(c->out, 1), width = dim(c->out, 2), group = heads / dim(pool, 1);
  for (int64_t i = 0; i < width; i++) {
    double sum = 0;
    for (int64_t key = 0; key < keys; key++) {
      sum += weights[key] *
             pool->values[pool_index(pool, false, (int64_t)c->in[places + 1]->values[t], c->in[places + 2], key, head / group, i)];
    }
    c->out->values[(t * heads + head) * width + i] = sum;
  }
}

static void attn_mix(const op_context *c) {
  int64_t heads = dim(c->out, 1), keys = dim(c->in[0], 2);
  for (int64_t i = 0; i < dim(c->out, 0) * heads; i++) {
    int64_t t = i / heads;
    mix(c, c->in[1], 2, t, i % heads, c->in[0]->values + i * keys, (int64_t)c->in[2]->values[t] + 1);
  }
}

static qn_status attention(const op_context *c, qn_arena *arena) {
  int64_t heads = dim(c->out, 1), most = dim(c->in[5], 1) * QN_PAGE_KEYS;
  double *weights = QN_ARENA_ARRAY(arena, (size_t)most, double);
  attention_places p = places_of(c, 3);
  if (!weights) return qn_fail_nomem(c->diag, c->node->loc, "attention weights");
  for (int64_t i = 0; i < dim(c->out, 0) * heads; i++) {
    int64_t t = i / heads, pos = (int64_t)c->in[3]->values[t];
    for (int64_t key = 0; key <= pos; key++)
      weights[key] = sees(c, &p, t, key) ? score(c, &p, t, i % heads, key) : -INFINITY;
    softmax(weights, weights, pos + 1);
    mix(c, c->in[2], 3, t, i % heads, weights, pos + 1);
  }
  return QN_OK;
}

// --- experts

// NaN is above all, then the larger value; of equal ones the first.
static bool comes_before(double a, int64_t at_a, double b, int64_t at_b) {
  if (isnan(a) != isnan(b)) return isnan(a);
  if (!isnan(a) && a != b) return a > b;
  return at_a < at_b;
}

static void top_k(const op_context *c) {
  int64_t width = last(c->in[0]), count = last(c->out);
  for (int64_t i = 0; i < c->out->count; i++) {
    const double *x = c->in[0]->values + i / count * width;
    int64_t before = i % count ? (int64_t)c->out->values[i - 1] : -1, best = -1;
    for (int64_t e = 0; e < width; e++) {
      if (before >= 0 && !comes_before(x[before], before, x[e], e)) continue;
      if (best < 0 || comes_before(x[e], e, x[best], best)) best = e;
    }
    c->out->values[i] = (double)best;
  }
}

static void pick(const op_context *c) {
  int64_t width = last(c->in[0]), count = last(c->out);
  for (int64_t i = 0; i < c->out->count; i++) {
    c->out->values[i] = c->in[0]->values[i / count * width + (int64_t)c->in[1]->values[i]];
  }
}

static void expert_order(const op_context *c) {
  const double *ids = c->in[0]->values;
  int64_t rows = c->in[0]->count, place = 0;
  for (int64_t expert = 0; place < rows; expert++) {
    int64_t first = place, end;
    for (int64_t row = 0; row < rows; row++) {
      if ((int64_t)ids[row] == expert) c->out->values[2 * place++] = (double)row;
    }
    for (end = place, place = first; place < end; place++) {
      int64_t left = end - place;
      bool begins = (place - first) % QN_EXPERT_RUN == 0;
      c->out->values[2 * place + 1] = !begins ? 0 : (double)(left < QN_EXPERT_RUN ? left : QN_EXPERT_RUN);
    }
  }
}

static void expert_matmul(const op_context *c) {
  const qn_ref_tensor *x = c->in[0], *w = c->in[1], *ids = c->in[2];
  int64_t k = last(x), n = last(c->out);
  for (int64_t i = 0; i < c->out->count; i++) {
    int64_t row = i / n, expert = (int64_t)ids->values[row], rows_each = ids->count / dim(x, 0);
    const double *a = x->values + row / rows_each * k, *b = w->values + (expert * n + i % n) * k;
    double sum = 0;
    for (int64_t j = 0; j < k; j++) sum += a[j] * b[j];
    c->out->values[i] = sum;
  }
}

static void expert_mix(const op_context *c) {
  int64_t width = last(c->out), count = last(c->in[1]);
  for (int64_t i = 0; i < c->out->count; i++) {
    int64_t t = i / width;
    double sum = 0;
    for (int64_t j = 0; j < count; j++) {
      sum += c->in[1]->values[t * count + j] * c->in[0]->values[(t * count + j) * width + i % width];
    }
    c->out->values[i] = sum;
  }
}

// --- sampling

enum { INVERSE_TEMPERATURE, TOP_K, TOP_P, LOG_MIN_P, RANDOM };

static double float_setting(const double *settings, int word) {
  int32_t bits = (int32_t)settings[word];
  float value;
  memcpy(&value, &bits, sizeof value);
  return (double)value;
}

static double maximum(const double *x, int64_t n) {
  double max = -INFINITY;
  for (int64_t i = 0; i < n; i++) max = isnan(x[i]) ? x[i] : x[i] > max ? x[i] : max;
  return max;
}

static double weight(double x, double max, double scale) { return nearbyint(0x1p24 * exp((x - max) * scale)); }

// How many values are at least x[i], and the sum of their weights.
static void sum_from(const double *x, int64_t n, double least, double max, double *out_count, double *out_weight) {
  *out_count = *out_weight = 0;
  for (int64_t i = 0; i < n; i++) {
    if (x[i] < least) continue;
    *out_count += 1;
    *out_weight += weight(x[i], max, 1);
  }
}

// The larger of the k-th largest value and the one down to which top_p of the weights lie.
static double threshold(const double *x, int64_t n, double max, const double *settings) {
  double least = -INFINITY, count = 0, sum = 0, whole = 0;
  for (int64_t i = 0; i < n && settings[TOP_K] > 0; i++) {
    sum_from(x, n, x[i], max, &count, &sum);
    if (count >= settings[TOP_K] && x[i] > least) least = x[i];
  }
  if (settings[TOP_P] >= 0x1p20) return least;
  double reached = least;
  sum_from(x, n, least, max, &count, &whole);
  for (int64_t i = 0; i < n; i++) {
    sum_from(x, n, x[i] > least ? x[i] : least, max, &count, &sum);
    if (sum * 0x1p20 >= settings[TOP_P] * whole && x[i] > reached) reached = x[i];
  }
  return reached;
}

static double draw_token(const double *x, int64_t n, const double *settings) {
  double max = maximum(x, n), passed = 0, whole = 0;
  if (!isfinite(max)) return -1;
  double least = threshold(x, n, max, settings), scale = float_setting(settings, INVERSE_TEMPERATURE);
  double random = (settings[RANDOM] * 0x1p32 + settings[RANDOM + 1] * 0x1p16 + settings[RANDOM + 2]) * 0x1p-48;
  double log_min_p = float_setting(settings, LOG_MIN_P);
  for (int64_t i = 0; i < n; i++) whole += x[i] >= least && x[i] - max >= log_min_p ? weight(x[i], max, scale) : 0;
  for (int64_t i = 0; i < n; i++) {
    passed += x[i] >= least && x[i] - max >= log_min_p ? weight(x[i], max, scale) : 0;
    if (passed > floor(random * whole)) return (double)i;
  }
  return -1;
}

static void sample(const op_context *c) {
  int64_t n = last(c->in[0]);
  for (int64_t i = 0; i < c->out->count; i++)
    c->out->values[i] = draw_token(c->in[0]->values + i * n, n, c->in[1]->values + i * QN_SAMPLE_SETTINGS);
}

qn_status qn_ref_op(const qn_node *node, const qn_ref_tensor *const *operands, qn_ref_tensor *out, qn_arena *arena,
                    qn_diag *diag) {
  op_context c = {node, operands, out, diag};
  uint32_t flags = qn_op_get_info(node->op)->flags;
  if (flags & QN_OF_E) {
    elementwise(&c);
    return QN_OK;
  }
  if (flags & QN_OF_R) {
    rows(&c);
    return QN_OK;
  }
  switch (node->op) {
    case QN_OP_CONST: out->values[0] = qn_node_float(node, QN_ATTR_VALUE, 0); break;
    case QN_OP_RESHAPE:
    case QN_OP_SPLIT_HEADS:
    case QN_OP_MERGE_HEADS: memcpy(out->values, operands[0]->values, (size_t)out->count * sizeof(double)); break;
    case QN_OP_SLICE: slice(&c); break;
    case QN_OP_CONCAT: concat(&c); break;
    case QN_OP_EMBED:
    case QN_OP_GATHER_ROWS: return take_rows(&c, operands[0], operands[1]);
    case QN_OP_POOL: pool(&c); break;
    case QN_OP_MATMUL: matmul(&c); break;
    case QN_OP_TOP_K: top_k(&c); break;
    case QN_OP_PICK: pick(&c); break;
    case QN_OP_EXPERT_ORDER: expert_order(&c); break;
    case QN_OP_EXPERT_MATMUL: expert_matmul(&c); break;
    case QN_OP_EXPERT_MIX: expert_mix(&c); break;
    case QN_OP_ROPE_TABLE: rope_table(&c); break;
    case QN_OP_ROPE: rope(&c); break;
    case QN_OP_KV_WRITE: kv_write(&c); break;
    case QN_OP_ATTN_SCORES: attn_scores(&c); break;
    case QN_OP_ATTN_MIX: attn_mix(&c); break;
    case QN_OP_ATTENTION: return attention(&c, arena);
    case QN_OP_SAMPLE: sample(&c); break;
    default:
      return qn_fail(diag, QN_ERR_INTERNAL, node->loc, "the oracle has no formula for %s",
                     qn_op_get_info(node->op)->name);
  }
  return QN_OK;
}
