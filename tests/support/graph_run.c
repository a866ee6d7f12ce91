// Graphs by the oracle and by compiled kernels, on the same made-up data.
#include "tests/support/graph_run.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "codegen/artifact_write.h"
#include "runtime/base/hash.h"
#include "tests/support/graph_text.h"
#include "tests/support/test.h"

typedef struct parameter {
  const char *name;
  const qn_format *format;
  int64_t n, k;
  uint8_t *data;  // in the file's layout
} parameter;

typedef struct pool {
  const qn_node *node;  // CACHE
  uint8_t *data;        // of the compiled program, as the cache's dtype
  double *oracle;
  int64_t count;
  qn_kv_page page;
  size_t bytes;
} pool;

struct qn_run {
  qn_arena arena;
  qn_run_options options;
  qn_graph *graph;          // what the oracle evaluates
  const qn_graph *planned;  // after all passes
  qn_program *program;
  QN_VEC(parameter) params;
  QN_VEC(pool) pools;
  uint8_t **weights;  // by program buffer
  uint8_t *memory;    // the program's arena
  qn_target target;
  qn_jit *jit;
  struct gpu_variants {
    qn_gpu_variant items[QN_MAX_VARIANTS];
    int count;  // 0 = not made yet
  } *gpu;  // one a kernel
  int sequences, pages;
  // the step being run
  int64_t symbols[QN_SYM_COUNT];
  int *token_sequence, *token_pos;
  bool magnitude;
};

size_t qn_run_output_count(const qn_run *run) { return run->graph->outputs.count; }

void qn_run_mark_ops(const qn_run *run, bool *seen) {
  for (qn_id id = 1; id < run->graph->nodes.count; id++) seen[qn_graph_node(run->graph, id)->op] = true;
  for (qn_id id = 1; id < run->planned->nodes.count; id++) seen[qn_graph_node(run->planned, id)->op] = true;
}

const qn_program *qn_run_program(const qn_run *run) { return run->program; }

// --- made-up values: a function of names and numbers, so that they do not depend on the order of asking

static double unit(const char *name, int64_t a, int64_t b, int64_t c) {
  int64_t numbers[] = {a, b, c};
  uint64_t hash = qn_hash64(numbers, sizeof numbers, qn_hash64(name, strlen(name), 1));
  return (double)(hash >> 11) * 0x1p-53;
}

static double special(double u) {
  static const double values[] = {0.0,  -0.0,  INFINITY, -INFINITY, NAN,  1e-42, -1e-38, 3e38, -3e38, 88.5,
                                  -104, 1e-20, -1e-5,    4.0,       0.85, 20.0,  -20.0,  9.2,  -9.2,  1e10};
  size_t count = QN_COUNT(values);
  return u < 0.5 ? (double)(float)values[(size_t)(u * 2 * (double)count)] : (double)(float)((u - 0.75) * 40);
}

// Blocks of 32 that differ in size, each tenth with an infinity or a NaN. `choice` is the block's, u the element's.
static double block_value(double choice, double u, int64_t column) {
  static const double sizes[] = {1e-44, 1e-37, 4e-36, 1e-30, 1e-3, 1, 1e3, 1e30, 1, 1};
  int kind = (int)(choice * 10);
  if (kind >= 8 && column == 9) return kind == 8 ? -INFINITY : NAN;
  return (double)(float)(u * sizes[kind]);
}

static double input_value(const char *name, int64_t row, int64_t part, int64_t column) {
  double u = unit(name, row, part, column);
  if (name[0] == 'q') {
    if (column % 32 == 5) return u < 0.5 ? 127 / 64.0 : -127 / 64.0;
    return nearbyint((u - 0.5) * 2 * 127) / 64.0;
  }
  if (name[0] == 's') return special(u);
  if (name[0] == 'b') return block_value(unit(name, row, part, column / 32 + 1000), u * 2 - 1, column % 32);
  if (name[0] == 'z' && (part % 2 == 0 || column < 32)) return 0;
  return (double)(float)(u * 4 - 2);
}

static double cache_value(const qn_node *node, int64_t sequence, int64_t key, int64_t head, int64_t c) {
  char name[32];
  snprintf(name, sizeof name, "%s%d", qn_node_text(node, QN_ATTR_KIND, ""), (int)qn_node_int(node, QN_ATTR_INDEX, 0));
  double value = unit(name, sequence, key, head * 4096 + c) * 2 - 1;
  if (node->type.dtype == QN_DTYPE_F16) return (double)qn_f16_to_f32(qn_f32_to_f16((float)value));
  if (node->type.dtype == QN_DTYPE_BF16) return (double)qn_bf16_to_f32(qn_f32_to_bf16((float)value));
  return (double)(float)value;
}

static void put_half(uint8_t *at, double value) {
  uint16_t half = qn_f32_to_f16((float)value);
  memcpy(at, &half, sizeof half);
}

static void fill_block(const parameter *p, int64_t n, int64_t block, uint8_t *at) {
  const qn_format *f = p->format;
  if (f->block_values == 1) {
    double u = unit(p->name, n, block, 0);
    bool positive = n == 0 && p->n == 1 && p->name[0] != 'b';
    float value = (float)(positive ? u + 0.5 : u * 2 - 1);
    uint16_t half = f->dtype == QN_DTYPE_F16 ? qn_f32_to_f16(value) : qn_f32_to_bf16(value);
    if (f->dtype == QN_DTYPE_F32)
      memcpy(at, &value, sizeof value);
    else
      memcpy(at, &half, sizeof half);
    return;
  }
  for (uint32_t i = 0; i < f->block_bytes; i++) at[i] = (uint8_t)(unit(p->name, n, block, i) * 256);
  // Scales that make values of about 1 at most.
  double range = f->has_table ? f->offset : 1 << (f->code_bits - 1), min_range = 1 << f->sub_min.bits;
  if (f->sub_scale.bits > 0) range *= 1 << (f->sub_scale.bits - (f->sub_scale.is_signed || f->sub_scale.offset > 0));
  bool zero = unit(p->name, n, block, -1) < 0.05;
  double scale = (unit(p->name, n, block, -2) + 0.5) / range / 1.5;
  if (f->scale_kind == QN_SCALE_E8M0) {
    at[f->scale_at] = zero ? 1 : (uint8_t)(128 + ilogb(scale));
  } else {
    put_half(at + f->scale_at, zero ? 0 : scale);
  }
  if (f->min_at >= 0) put_half(at + f->min_at, -unit(p->name, n, block, -3) / min_range);
}

static const parameter *find_param(const qn_run *run, const char *name) {
  for (size_t i = 0; i < run->params.count; i++) {
    if (strcmp(run->params.items[i].name, name) == 0) return &run->params.items[i];
  }
  ck_abort_msg("no parameter '%s'", name);
  return NULL;
}

static void make_params(qn_run *run) {
  for (qn_id id = 1; id < run->graph->nodes.count; id++) {
    const qn_node *node = qn_graph_node(run->graph, id);
    if (node->op != QN_OP_PARAM) continue;
    parameter p = {
        .name = qn_node_text(node, QN_ATTR_NAME, ""), .format = qn_format_of(node->type.dtype), .n = 1, .k = 1};
    for (int i = 0; i + 1 < node->type.rank; i++) p.n *= node->type.dims[i].value;
    if (node->type.rank > 0) p.k = node->type.dims[node->type.rank - 1].value;
    int64_t blocks = p.k / p.format->block_values;
    p.data = qn_arena_array(&run->arena, (size_t)(p.n * blocks), p.format->block_bytes);
    for (int64_t i = 0; i < p.n * blocks; i++) {
      fill_block(&p, i / blocks, i % blocks, p.data + (size_t)i * p.format->block_bytes);
    }
    ck_assert(qn_vec_push_arena(&run->arena, &run->params, p));
  }
}

// --- compiling

// A weight buffer's bytes, made of its sources as the artifact writer does.
static uint8_t *pack(qn_run *run, const qn_pbuf *buffer) {
  uint8_t *out = qn_alloc_zeroed(qn_test_allocator(), (size_t)buffer->bytes);
  size_t at = 0;
  if (buffer->source_count == 0) memcpy(out, buffer->literal, (size_t)buffer->type.dims[0].value * sizeof(float));
  for (size_t i = 0; i < buffer->source_count; i++) {
    const parameter *p = find_param(run, buffer->sources[i]);
    if (buffer->layout == QN_LAYOUT_PLAIN) {
      double *row = QN_ARENA_ARRAY(&run->arena, (size_t)p->k, double);
      for (int64_t n = 0; n < p->n; n++) {
        qn_format_row_to_f64(p->format, p->k,
                             p->data + (size_t)(n * p->k / p->format->block_values) * p->format->block_bytes, row);
        for (int64_t k = 0; k < p->k; k++, at += sizeof(float)) {
          float value = (float)row[k];
          qn_check(at + sizeof value <= buffer->bytes, "a weight has more than its buffer's %zu bytes", (size_t)buffer->bytes);
          memcpy(out + at, &value, sizeof value);
        }
      }
      continue;
    }
    uint32_t rows = buffer->layout == QN_LAYOUT_ROWS16 ? QN_TILE_ROWS : 1;
    size_t size = 0;
    int64_t matrices = buffer->type.rank == 3 ? buffer->type.dims[0].value : 1, n = p->n / matrices;
    ck_assert(qn_format_tile_bytes(p->format, rows, n, p->k, &size));
    for (int64_t m = 0; m < matrices; m++, at += size) {
      qn_check(at + size <= buffer->bytes, "a weight has more than its buffer's %zu bytes", (size_t)buffer->bytes);
      size_t from = (size_t)(m * n * p->k / p->format->block_values) * p->format->block_bytes;
      qn_format_pack(p->format, rows, n, p->k, p->data + from, 0, n, out + at);
    }
  }
  return out;
}

static void compile(qn_run *run, const char *text, const char *sizes) {
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_target_parse(run->options.target ? run->options.target : "host", &run->target, &diag));
  qn_pass_options options = {
      .machine = qn_machine_model_plain(run->target.vector_bytes, run->target.vector_registers, run->target.dots,
                                        run->target.cache_bytes),
      .gpu = run->options.gpu,
      .quantize_activations = run->options.quantize_activations,
      .half_activations = run->options.half_activations,
      .evict = run->options.evict,
      .forced_schedule = run->options.schedule};
  qn_pass_context context = {
      .arena = &run->arena, .allocator = qn_test_allocator(), .options = &options, .diag = &diag};
  qn_assert_ok(&diag, qn_graph_from_text(text, sizes, &run->arena, &run->graph, &diag));
  make_params(run);
  context.graph = run->graph;
  qn_assert_ok(&diag, qn_run_passes(&context));
  run->program = context.program;
  run->planned = context.graph;
  if (run->options.quantize_activations || run->options.evict) {
    // The oracle quantises where the program does, and gives the queries that it gives.
    context.graph = run->graph;
    context.program = NULL;
    qn_assert_ok(&diag, qn_run_passes_until(&context, run->options.quantize_activations ? "quantize_activations" : "place_keys"));
    run->graph = context.graph;
  }
}

qn_run *qn_run_create(const char *text, const char *sizes, const qn_run_options *options) {
  qn_run *run = qn_alloc_zeroed(qn_test_allocator(), sizeof *run);
  qn_arena_init(&run->arena, qn_test_allocator());
  if (options) run->options = *options;
  compile(run, text, sizes);
  size_t count = run->program->buffers.count;
  run->weights = QN_ARENA_ARRAY(&run->arena, count, uint8_t *);
  for (size_t i = 0; i < count; i++) {
    const qn_pbuf *p = &run->program->buffers.items[i];
    if (p->kind == QN_PB_WEIGHT) run->weights[i] = pack(run, p);
  }
  run->memory = aligned_alloc(64, run->program->arena_bytes);
  return run;
}

static void free_pools(qn_run *run) {
  for (size_t i = 0; i < run->pools.count; i++) {
    const pool *p = &run->pools.items[i];
    qn_free(qn_test_allocator(), p->data, p->bytes);
  }
  run->pools.count = 0;
}

void qn_run_destroy(qn_run *run) {
  qn_jit_destroy(run->jit);
  free_pools(run);
  for (size_t i = 0; i < run->program->buffers.count; i++) {
    qn_free(qn_test_allocator(), run->weights[i], (size_t)run->program->buffers.items[i].bytes);
  }
  free(run->memory);
  qn_arena_deinit(&run->arena);
  qn_free(qn_test_allocator(), run, sizeof *run);
}

const qn_gpu_variant *qn_run_gpu_variants(qn_run *run, size_t kernel, int *out_count) {
  const qn_program *program = run->program;
  if (!run->gpu) run->gpu = QN_ARENA_ARRAY(&run->arena, program->kernels.count, struct gpu_variants);
  struct gpu_variants *v = &run->gpu[kernel];
  const qn_pkernel *k = &program->kernels.items[kernel];
  qn_diag diag = {0};
  if (v->count == 0) {
    int64_t most = k->rows == QN_SYM_NONE ? INT64_MAX : program->max_values[k->rows];
    qn_assert_ok(&diag, qn_gpu_variants(k, most, &run->arena, v->items, &v->count, &diag));
  }
  *out_count = v->count;
  return v->items;
}

// --- caches

// Pages of the pool are given out backwards, or by another order; page 0 of the pool stays unused.
static int page_of(const qn_run *run, int sequence, int page) {
  int number = sequence * run->pages + page, count = run->sequences * run->pages;
  int shifted = (number + run->options.page_order * 3) % count;
  return count - shifted;
}

// A key of a sequence as codes, and what the oracle has of it. Scales are such that all numbers come up.
static void code_key(const qn_run *run, pool *p, int sequence, int64_t key) {
  const qn_kv_page *page = &p->page;
  int64_t number = page_of(run, sequence, (int)(key / page->keys)), slot = key % page->keys;
  for (int64_t head = 0; head < page->heads; head++) {
    uint8_t *at = p->data + number * page->page_bytes + head * page->head_bytes;
    for (int64_t c = 0; c < page->width; c++) {
      double u = unit("scale", sequence, key, head * 4096 + c / page->group_width) + 0.5;
      uint16_t scale = qn_f32_to_bf16((float)(u / page->most));
      int code = (int)nearbyint(cache_value(p->node, sequence, key, head, c) * page->most);
      qn_kv_page_set_code(page, at, slot, c, code);
      memcpy(at + qn_kv_page_scale(page, slot, c), &scale, sizeof scale);
      int64_t base = number * page->heads + head;
      int64_t to = page->is_k ? (base * page->width + c) * page->keys + slot : (base * page->keys + slot) * page->width + c;
      p->oracle[to] = (double)qn_bf16_to_f32(scale) * code;
    }
  }
}

static void fill_pool(const qn_run *run, pool *p, const int *past) {
  const qn_type *type = &p->node->type;
  bool is_k = qn_kv_lies_as_k(qn_node_text(p->node, QN_ATTR_KIND, ""));
  int64_t heads = type->dims[1].value, width = type->dims[is_k ? 2 : 3].value;
  for (int64_t i = 0; i < p->count; i++) p->oracle[i] = NAN;
  memset(p->data, 0xFF, p->bytes);  // of codes that nobody wrote: scales that are NaN
  for (int s = 0; s < run->sequences; s++) {
    for (int64_t key = 0; past && key < past[s]; key++) {
      for (int64_t i = 0; i < heads * width; i++) {
        int64_t c = i % width, base = page_of(run, s, (int)(key / QN_PAGE_KEYS)) * heads + i / width;
        int64_t slot = key % QN_PAGE_KEYS;
        int64_t at = is_k ? (base * width + c) * QN_PAGE_KEYS + slot : (base * QN_PAGE_KEYS + slot) * width + c;
        p->oracle[at] = cache_value(p->node, s, key, i / width, c);
      }
    }
  }
  for (int s = 0; p->page.coded && s < run->sequences; s++) {
    for (int64_t key = 0; past && key < past[s]; key++) code_key(run, p, s, key);
  }
  for (int64_t i = 0; i < p->count && !p->page.coded; i++) {
    float value = (float)p->oracle[i];
    uint16_t half = type->dtype == QN_DTYPE_F16 ? qn_f32_to_f16(value) : qn_f32_to_bf16(value);
    if (type->dtype == QN_DTYPE_F32)
      memcpy(p->data + i * 4, &value, 4);
    else
      memcpy(p->data + i * 2, &half, 2);
  }
}

void qn_run_begin(qn_run *run, int sequences, int pages, const int *past) {
  free_pools(run);
  run->sequences = sequences;
  run->pages = pages;
  run->symbols[QN_SYM_B] = sequences;
  run->symbols[QN_SYM_P] = pages;
  run->symbols[QN_SYM_G] = sequences * pages + 1;
  for (qn_id id = 1; id < run->graph->nodes.count; id++) {
    const qn_node *node = qn_graph_node(run->graph, id);
    if (node->op != QN_OP_CACHE) continue;
    pool p = {.node = node};
    ck_assert(qn_type_elements(&node->type, run->symbols, &p.count));
    ck_assert(qn_type_kv_page(&node->type, qn_kv_lies_as_k(qn_node_text(node, QN_ATTR_KIND, "")), &p.page));
    p.bytes = (size_t)(p.page.page_bytes * run->symbols[QN_SYM_G]);
    p.data = qn_alloc(qn_test_allocator(), p.bytes);
    p.oracle = QN_ARENA_ARRAY(&run->arena, (size_t)p.count, double);
    fill_pool(run, &p, past);
    ck_assert(qn_vec_push_arena(&run->arena, &run->pools, p));
  }
}

static pool *find_pool(qn_run *run, const char *kind, int64_t layer) {
  for (size_t i = 0; i < run->pools.count; i++) {
    const qn_node *node = run->pools.items[i].node;
    if (strcmp(qn_node_text(node, QN_ATTR_KIND, ""), kind) == 0 && qn_node_int(node, QN_ATTR_INDEX, 0) == layer) {
      return &run->pools.items[i];
    }
  }
  ck_abort_msg("no cache %s of layer %d", kind, (int)layer);
  return NULL;
}

// --- a step

static void start_step(qn_run *run, const qn_run_step *step) {
  int tokens = 0;
  for (int i = 0; i < QN_RUN_MAX_SPANS && step->spans[i].count; i++) tokens += step->spans[i].count;
  if (run->sequences == 0) qn_run_begin(run, QN_RUN_MAX_SPANS, 1, NULL);
  run->token_sequence = QN_ARENA_ARRAY(&run->arena, (size_t)tokens, int);
  run->token_pos = QN_ARENA_ARRAY(&run->arena, (size_t)tokens, int);
  run->symbols[QN_SYM_T] = tokens;
  run->symbols[QN_SYM_R] = step->rows ? step->rows : tokens;
  run->symbols[QN_SYM_S] = run->graph->max_values[QN_SYM_S] ? tokens : 0;  // a source of the same tokens
  for (int i = 0, t = 0; i < QN_RUN_MAX_SPANS; i++) {
    for (int j = 0; j < step->spans[i].count; j++, t++) {
      run->token_sequence[t] = step->spans[i].sequence;
      run->token_pos[t] = step->spans[i].first + j;
    }
  }
}

// The size of the smallest table that token ids look into.
static int64_t vocabulary(const qn_run *run) {
  int64_t size = INT64_MAX;
  for (qn_id id = 1; id < run->graph->nodes.count; id++) {
    const qn_node *node = qn_graph_node(run->graph, id);
    if (node->op != QN_OP_EMBED) continue;
    int64_t rows = qn_graph_node(run->graph, node->operands[0])->type.dims[0].value;
    if (rows < size) size = rows;
  }
  return size == INT64_MAX ? 1 : size;
}

// A row of a sample op's settings: see runtime/README.md. Each row has others.
static double sampling_word(int64_t row, int64_t word) {
  static const struct {
    float inverse_temperature;
    int32_t top_k, top_p;
    float log_min_p;
  } kinds[] = {{1, 1, 1 << 20, -INFINITY}, {1, 0, 1 << 20, -INFINITY}, {1.25f, 7, 996147, -3},
               {0.5f, 0, 629146, -INFINITY}, {2, 3, 1 << 20, -INFINITY}, {1, 90, 900000, -INFINITY},
               {4, 0, 1 << 20, -1.5f}};
  int32_t bits = 0;
  size_t kind = (size_t)row % QN_COUNT(kinds);
  if (word == 1) return kinds[kind].top_k;
  if (word == 2) return kinds[kind].top_p;
  if (word == 0) memcpy(&bits, &kinds[kind].inverse_temperature, sizeof bits);
  if (word == 3) memcpy(&bits, &kinds[kind].log_min_p, sizeof bits);
  if (word >= 4 && word < 7 && kind > 0) return floor(unit("random", row, word, 0) * 0x1p16);
  return bits;
}

// The last position that a token of the sequence has in this step.
static double last_pos(const qn_run *run, int sequence) {
  int last = 0;
  for (int64_t t = 0; t < run->symbols[QN_SYM_T]; t++) {
    if (run->token_sequence[t] == sequence && run->token_pos[t] > last) last = run->token_pos[t];
  }
  return last;
}

// A token goes to the next sequence, too, where that has none of its own in this step.
static double copies_of(const qn_run *run, int sequence) {
  if (sequence + 1 >= run->symbols[QN_SYM_B]) return 1;
  for (int64_t t = 0; t < run->symbols[QN_SYM_T]; t++)
    if (run->token_sequence[t] == sequence + 1) return 1;
  return 2;
}

// Element i of an input, `width` to a row.
static double input_element(const qn_run *run, const char *name, const qn_type *type, int64_t i, int64_t width) {
  int64_t tokens = run->symbols[QN_SYM_T], row = i / width;
  bool of_tokens = type->rank > 0 && (type->dims[0].symbol == QN_SYM_T || type->dims[0].symbol == QN_SYM_S);
  if (strncmp(name, "source_", 7) == 0) name += 7;
  if (strncmp(name, "cross_", 6) == 0) name += 6;
  if (strcmp(name, "pos") == 0 || strcmp(name, "slot") == 0) return run->token_pos[i];
  if (strcmp(name, "last_pos") == 0) return last_pos(run, run->token_sequence[i]);
  if (strcmp(name, "seq") == 0) return run->token_sequence[i];
  if (strcmp(name, "copies") == 0) return copies_of(run, run->token_sequence[i]);
  if (strcmp(name, "rows") == 0) return (double)(run->symbols[QN_SYM_R] == tokens ? i : tokens - 1 - i);
  if (strcmp(name, "block_table") == 0) return page_of(run, (int)row, (int)(i % width));
  if (strcmp(name, "sampling") == 0) return sampling_word(row, i % width);
  if (type->dtype == QN_DTYPE_I32) {
    return floor(unit(name, run->token_sequence[i], run->token_pos[i], 0) * (double)vocabulary(run));
  }
  return of_tokens ? input_value(name, run->token_sequence[row], run->token_pos[row], i % width)
                   : input_value(name, -1, row, i % width);
}

static double *input_values(qn_run *run, const char *name, const qn_type *type, int64_t *out_count) {
  int64_t width = 1;
  ck_assert(qn_type_elements(type, run->symbols, out_count));
  for (int i = 1; i < type->rank; i++) {
    width *= type->dims[i].value * (qn_dim_is_const(type->dims[i]) ? 1 : run->symbols[type->dims[i].symbol]);
  }
  if (type->rank == 1 && qn_dim_is_const(type->dims[0])) width = type->dims[0].value;
  double *values = QN_ARENA_ARRAY(&run->arena, (size_t)*out_count, double);
  for (int64_t i = 0; i < *out_count; i++) values[i] = input_element(run, name, type, i, width);
  return values;
}

// --- the oracle

static qn_status give_source(void *context, const qn_node *node, qn_ref_tensor *out, qn_diag *diag) {
  qn_run *run = context;
  (void)diag;
  if (node->op == QN_OP_INPUT) {
    out->values = input_values(run, qn_node_text(node, QN_ATTR_NAME, ""), &node->type, &out->count);
  } else if (node->op == QN_OP_CACHE) {
    out->values = find_pool(run, qn_node_text(node, QN_ATTR_KIND, ""), qn_node_int(node, QN_ATTR_INDEX, 0))->oracle;
  } else {
    const parameter *p = find_param(run, qn_node_text(node, QN_ATTR_NAME, ""));
    out->values = QN_ARENA_ARRAY(&run->arena, (size_t)(p->n * p->k), double);
    for (int64_t n = 0; n < p->n; n++) {
      size_t row_bytes = (size_t)(p->k / p->format->block_values) * p->format->block_bytes;
      qn_format_row_to_f64(p->format, p->k, p->data + (size_t)n * row_bytes, out->values + n * p->k);
    }
  }
  if (run->magnitude && node->type.dtype != QN_DTYPE_I32) {
    double *values = QN_ARENA_ARRAY(&run->arena, (size_t)out->count, double);
    for (int64_t i = 0; i < out->count; i++) values[i] = fabs(out->values[i]);
    out->values = values;
  }
  return QN_OK;
}

static void keep_caches(qn_run *run, const qn_ref_tensor *values) {
  for (qn_id id = 1; id < run->graph->nodes.count; id++) {
    const qn_node *node = qn_graph_node(run->graph, id), *cache = node;
    if (node->op != QN_OP_KV_WRITE) continue;
    while (cache->op == QN_OP_KV_WRITE) cache = qn_graph_node(run->graph, cache->operands[0]);
    pool *p = find_pool(run, qn_node_text(cache, QN_ATTR_KIND, ""), qn_node_int(cache, QN_ATTR_INDEX, 0));
    memcpy(p->oracle, values[id].values, (size_t)p->count * sizeof(double));
  }
}

const qn_run_output *qn_run_oracle(qn_run *run, const qn_run_step *step, bool magnitude) {
  qn_diag diag = {0};
  qn_ref_tensor *values = NULL;
  start_step(run, step);
  run->magnitude = magnitude;
  qn_assert_ok(&diag, qn_ref_evaluate(run->graph, run->symbols, give_source, run, &run->arena, &values, &diag));
  if (!magnitude) keep_caches(run, values);
  qn_run_output *outputs = QN_ARENA_ARRAY(&run->arena, run->graph->outputs.count, qn_run_output);
  for (size_t i = 0; i < run->graph->outputs.count; i++) {
    const qn_ref_tensor *value = &values[run->graph->outputs.items[i].value];
    outputs[i] = (qn_run_output){run->graph->outputs.items[i].name, value->type, value->count, value->values};
  }
  return outputs;
}

// --- the compiled program

// A parameter's size in elements: constants, symbols, + and *.
static int64_t elements_of(const qn_lexpr *e, const int64_t *symbols) {
  if (e->op == QN_LX_INT) return e->u.int_value;
  if (e->op == QN_LX_SYM) return symbols[e->u.symbol];
  int64_t a = elements_of(e->operands[0], symbols), b = elements_of(e->operands[1], symbols);
  return e->op == QN_LX_ADD ? a + b : e->op == QN_LX_DIV ? a / b : a * b;
}

static uint8_t *bind_input(qn_run *run, const qn_pbuf *p, size_t *out_size) {
  int64_t count = 0;
  const double *values = input_values(run, p->name, &p->type, &count);
  uint8_t *data = qn_arena_array(&run->arena, (size_t)count, 4);
  for (int64_t i = 0; i < count; i++) {
    float number = (float)values[i];
    int32_t integer = p->type.dtype == QN_DTYPE_I32 ? (int32_t)values[i] : 0;
    memcpy(data + i * 4, p->type.dtype == QN_DTYPE_I32 ? (void *)&integer : (void *)&number, 4);
  }
  *out_size = (size_t)count * 4;
  return data;
}

static void bind(qn_run *run, qn_linterp_buffer *out) {
  for (size_t i = 0; i < run->program->buffers.count; i++) {
    const qn_pbuf *p = &run->program->buffers.items[i];
    out[i].size = (size_t)p->bytes;
    switch (p->kind) {
      case QN_PB_ARENA: out[i].data = run->memory + p->offset; break;
      case QN_PB_WEIGHT: out[i].data = run->weights[i]; break;
      case QN_PB_INPUT: out[i].data = bind_input(run, p, &out[i].size); break;
      case QN_PB_CACHE: {
        const pool *cache = find_pool(run, p->name, p->layer);
        out[i].data = cache->data;
        out[i].size = cache->bytes;
        break;
      }
    }
  }
}

static int choose_variant(const qn_run *run, const qn_pkernel *kernel) {
  int64_t rows = run->symbols[kernel->rows];
  for (int v = 0; v < kernel->variant_count; v++) {
    if (kernel->variants[v].rows_min <= rows && rows <= kernel->variants[v].rows_max) return v;
  }
  ck_abort_msg("%s: no variant for %d rows", kernel->name, (int)rows);
  return 0;
}

static size_t function_index(const qn_program *program, uint32_t kernel, int variant) {
  size_t index = (size_t)variant;
  for (uint32_t i = 0; i < kernel; i++) index += (size_t)program->kernels.items[i].variant_count;
  return index;
}

static const qn_gpu_variant *choose_gpu_variant(qn_run *run, uint32_t kernel) {
  int count = 0;
  const qn_gpu_variant *v = qn_run_gpu_variants(run, kernel, &count);
  int64_t rows = run->symbols[run->program->kernels.items[kernel].rows];
  for (int i = 0; i < count; i++) {
    if (v[i].rows_min <= rows && rows <= v[i].rows_max) return &v[i];
  }
  ck_abort_msg("no GPU variant for %d rows", (int)rows);
  return NULL;
}

// A step as it is to be run for the symbols' values: which variant (of the plain engine: the kernel as lowered).
typedef struct chosen {
  const qn_pstep *step;
  int variant;
  const qn_lkernel *code;
  int64_t trips;
  bool in_parts;
  const qn_gpu_variant *gpu;
} chosen;

static chosen choose(qn_run *run, qn_run_engine engine, size_t index) {
  const qn_pstep *step = &run->program->steps.items[index];
  const qn_pkernel *kernel = &run->program->kernels.items[step->kernel];
  if (engine == QN_RUN_PLAIN) return (chosen){.step = step, .code = kernel->plain, .trips = 1};
  if (engine >= QN_RUN_LANES) {
    const qn_gpu_variant *gpu = choose_gpu_variant(run, step->kernel);
    return (chosen){.step = step, .code = gpu->kernel, .trips = 1, .gpu = gpu};
  }
  int v = choose_variant(run, kernel);
  qn_dim extent = kernel->variants[v].extent;
  int64_t trips = extent.value * (qn_dim_is_const(extent) ? 1 : run->symbols[extent.symbol]);
  return (chosen){step, v, kernel->variants[v].kernel, trips, kernel->variants[v].in_parts, NULL};
}

static void run_kernel(qn_run *run, qn_run_engine engine, const chosen *c, const qn_linterp_buffer *buffers,
                       int64_t begin, int64_t end) {
  const qn_pstep *step = c->step;
  const qn_lkernel *code = c->code;
  int64_t trips = c->trips;
  if (begin == end) return;
  qn_linterp_buffer bound[64];
  void *pointers[64];
  qn_check(code->param_count <= QN_COUNT(bound), "%s: %zu parameters", code->name, code->param_count);
  for (size_t i = 0; i < code->param_count; i++) {
    bound[i] = buffers[step->buffers[i]];
    size_t size = (size_t)elements_of(code->params[i]->elements, run->symbols) * qn_lmem_size(code->params[i]->mem);
    qn_check(size <= bound[i].size, "%s: parameter %s: got %zu bytes, the buffer has %zu", code->name,
             code->params[i]->name, size, bound[i].size);
    bound[i].size = size;
    pointers[i] = bound[i].data;
  }
  qn_diag diag = {0};
  if (engine == QN_RUN_JIT) {
    qn_jit_kernel(run->jit, function_index(run->program, step->kernel, c->variant))(pointers, run->symbols, begin, end);
  } else if (engine == QN_RUN_LAUNCH) {
    int64_t extent = c->gpu->extent ? elements_of(c->gpu->extent, run->symbols) : 1;
    if (extent > 0)
      run->options.launch(run->options.launch_context, run, step->kernel, c->gpu, bound, run->symbols, extent);
  } else {
    bool whole = begin == 0 && end == trips;
    qn_status status =
        qn_lkernel_interpret(code, bound, run->symbols, begin, whole ? INT64_MAX : end, qn_test_allocator(), &diag);
    if (status != QN_OK) {
      qn_buf text;
      qn_buf_init(&text, qn_test_allocator());
      qn_lkernel_print(code, &text);
      qn_test_abort(__FILE__, __LINE__, "qn_lkernel_interpret", "%s\n%s", diag.text, qn_buf_text(&text));
    }
  }
}

static void read_output(const qn_run *run, const qn_pbuf *p, const uint8_t *data, qn_run_output *out) {
  int64_t width = 1, rows = 1;
  *out = (qn_run_output){.name = p->name, .type = p->type};
  for (int i = 0; i < p->type.rank; i++) {
    qn_dim *dim = &out->type.dims[i];
    bool symbolic = !qn_dim_is_const(*dim);
    if (symbolic) *dim = qn_dim_const(dim->value * run->symbols[dim->symbol]);
    *(i == 0 ? &rows : &width) *= dim->value;
  }
  bool padded = p->type.rank > 1;
  for (int i = 1; i < p->type.rank; i++) padded = padded && qn_dim_is_const(p->type.dims[i]);
  out->count = rows * width;
  out->values = QN_ARENA_ARRAY((qn_arena *)&run->arena, (size_t)out->count, double);
  for (int64_t i = 0; i < out->count; i++) {
    int64_t row = i / width, column = i % width;
    float value = 0;
    int32_t integer = 0;
    const uint8_t *at = data + (row * (padded ? p->row_pitch : width) + column) * 4;
    memcpy(&value, at, sizeof value);
    memcpy(&integer, at, sizeof integer);
    out->values[i] = p->type.dtype == QN_DTYPE_I32 ? (double)integer : (double)value;
  }
}

static void make_jit(qn_run *run) {
  qn_diag diag = {0};
  size_t count = 0;
  const qn_lkernel **kernels = qn_program_variants(run->program, &count);
  qn_codegen_options options = {.target = &run->target, .threads = 1};
  qn_assert_ok(&diag, qn_jit_create(kernels, count, &options, qn_test_allocator(), &run->jit, &diag));
}

// --- steps that are linked (qn_link)

// Whether steps are shared out among threads, and linked ones taken together.
static bool is_split(qn_run_engine engine) { return engine == QN_RUN_SCHEDULED || engine == QN_RUN_JIT; }

// Steps that run together: a prologue from `first` to before `head`, then a chain to before `end`, in equal parts.
typedef struct phase {
  size_t first, head, end;
  int64_t units;
} phase;

static bool one_row(const qn_run *run, const qn_pstep *step) {
  const qn_lkernel *kernel = run->program->kernels.items[step->kernel].plain;
  for (size_t i = 0; i < kernel->param_count; i++) {
    const qn_pbuf *p = &run->program->buffers.items[step->buffers[i]];
    if (p->own_bytes && run->symbols[p->type.dims[0].symbol] != 1) return false;
  }
  return true;
}

static phase phase_at(qn_run *run, qn_run_engine engine, size_t first) {
  const qn_program *program = run->program;
  phase p = {.first = first, .head = first};
  bool links = is_split(engine);
  const qn_pstep *step = &program->steps.items[first];
  if (links && step->link == QN_LINK_PROLOGUE && one_row(run, step)) p.head++;
  chosen head = choose(run, engine, p.head);
  p.units = head.trips;
  for (p.end = p.head + 1; links && head.in_parts && p.end < program->steps.count; p.end++) {
    chosen next = choose(run, engine, p.end);
    if (next.step->link != QN_LINK_CHAINED || !next.in_parts) break;
    int64_t a = p.units, b = next.trips;
    while (b != 0) {
      int64_t rest = a % b;
      a = b;
      b = rest;
    }
    p.units = a;
  }
  return p;
}

// The thread's part of a phase. A chain's last units come first: whatever a unit needs of others is not there yet.
static void run_phase(qn_run *run, qn_run_engine engine, const phase *p, const qn_linterp_buffer *buffers, int thread,
                      int threads) {
  const qn_program *program = run->program;
  int64_t first = p->units * thread / threads, last = p->units * (thread + 1) / threads;
  size_t count = program->buffers.count;
  if (first == last) return;
  qn_linterp_buffer *mine = QN_ARENA_ARRAY(&run->arena, count, qn_linterp_buffer);
  memcpy(mine, buffers, count * sizeof *mine);
  for (size_t i = p->first; i < p->head; i++) {
    chosen c = choose(run, engine, i);
    for (size_t j = 0; j < c.code->param_count; j++) {
      const qn_pbuf *b = &program->buffers.items[c.step->buffers[j]];
      if (!b->own_bytes) continue;
      mine[c.step->buffers[j]] =
          (qn_linterp_buffer){QN_ARENA_ARRAY(&run->arena, (size_t)b->own_bytes, uint8_t), (size_t)b->own_bytes};
      memset(mine[c.step->buffers[j]].data, 0xff, (size_t)b->own_bytes);
    }
    run_kernel(run, engine, &c, mine, 0, c.trips);
  }
  bool alone = p->end == p->head + 1;
  for (int64_t unit = alone ? first : last - 1; unit >= first; unit--) {
    for (size_t i = p->head; i < p->end; i++) {
      chosen c = choose(run, engine, i);
      int64_t part = c.trips / p->units;
      run_kernel(run, engine, &c, mine, unit * part, (alone ? last : unit + 1) * part);
    }
  }
}

const qn_run_output *qn_run_execute(qn_run *run, qn_run_engine engine, const qn_run_step *step) {
  const qn_program *program = run->program;
  start_step(run, step);
  if (engine == QN_RUN_JIT && !run->jit) make_jit(run);
  memset(run->memory, 0xff, program->arena_bytes);
  qn_linterp_buffer *buffers = QN_ARENA_ARRAY(&run->arena, program->buffers.count, qn_linterp_buffer);
  bind(run, buffers);
  int threads = step->threads && is_split(engine) ? step->threads : 1;
  for (size_t first = 0, last = 0, segment = 0; first < program->steps.count; first = last, segment++) {
    for (int i = 0; i < threads; i++) {
      int thread = segment % 2 ? threads - 1 - i : i;
      last = first;
      do {
        phase p = phase_at(run, engine, last);
        run_phase(run, engine, &p, buffers, thread, threads);
        last = p.end;
      } while (last < program->steps.count && !program->steps.items[last].barrier);
    }
  }
  qn_run_output *outputs = QN_ARENA_ARRAY(&run->arena, run->graph->outputs.count, qn_run_output);
  for (size_t i = 0; i < run->graph->outputs.count; i++) {
    for (size_t j = 0; j < program->buffers.count; j++) {
      const qn_pbuf *p = &program->buffers.items[j];
      bool is_output = p->kind == QN_PB_ARENA && p->name && strcmp(p->name, run->graph->outputs.items[i].name) == 0;
      if (is_output) read_output(run, p, run->memory + p->offset, &outputs[i]);
    }
    ck_assert_msg(outputs[i].values != NULL, "no output '%s'", run->graph->outputs.items[i].name);
  }
  return outputs;
}

// --- comparing

static double root_mean_square(const qn_run_output *o) {
  double sum = 0;
  int64_t count = 0;
  for (int64_t i = 0; i < o->count; i++) {
    if (!isfinite(o->values[i])) continue;
    sum += o->values[i] * o->values[i];
    count++;
  }
  return count ? sqrt(sum / (double)count) : 0;
}

void qn_run_compare(const qn_run_output *got, const qn_run_output *want, double tolerance, const qn_run_output *scales,
                    double rms, const char *label) {
  double scale = root_mean_square(want) * rms;
  qn_check(got->count == want->count, "%s: %s: got %lld values, want %lld", label, got->name, (long long)got->count,
           (long long)want->count);
  for (int64_t i = 0; i < got->count; i++) {
    double x = got->values[i], y = (double)(float)want->values[i];  // out of f32's range is infinite
    double allowed = tolerance * (fabs(y) + (scales ? fabs(scales->values[i]) : scale)) + 4 * 0x1p-149;
    bool same = (isnan(x) && isnan(y)) || x == y || (isfinite(x) && isfinite(y) && fabs(x - y) <= allowed);
    qn_check(same, "%s: %s[%lld]: got %.9g, want %.9g, allowed difference %.3g, got %.3g", label, got->name,
             (long long)i, x, y, allowed, x - y);
  }
}

double qn_run_error(const qn_run_output *got, const qn_run_output *want) {
  double sum = 0;
  for (int64_t i = 0; i < want->count; i++) {
    double difference = got->values[i] - want->values[i];
    if (!isfinite(difference)) return INFINITY;
    sum += difference * difference;
  }
  return sqrt(sum / (double)want->count) / root_mean_square(want);
}

void qn_run_compare_bits(const qn_run_output *got, const qn_run_output *want, const char *label) {
  qn_check(got->count == want->count, "%s: %s: got %lld values, want %lld", label, got->name, (long long)got->count,
           (long long)want->count);
  for (int64_t i = 0; i < got->count; i++) {
    double x = got->values[i], y = want->values[i];
    bool same = (isnan(x) && isnan(y)) || (x == y && signbit(x) == signbit(y));
    qn_check(same, "%s: %s[%lld]: got %a, want %a, the same bits", label, got->name, (long long)i, x, y);
  }
}
