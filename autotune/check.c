// Checking machine code against the plain kernel (check.h).
#include "autotune/check.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "autotune/sample.h"
#include "ir/loop_interp.h"
#include "runtime/base/hash.h"

enum { MAX_POINTS = 48, CHECK_KEYS = 70, CHECK_SEQUENCES = 3 };

// A parameter that the kernel writes.
typedef struct output {
  size_t param;
  size_t size;
  uint8_t *written;      // owned: not 0 for each byte that the plain kernel writes
  uint8_t *interpreted;  // owned: the pattern, and over it what the interpreter wrote
  uint8_t *kept;         // owned: what code that was right left; NULL = nothing yet
  int64_t width;         // of a row that is padded, in elements; 0 = rows have no padding
  bool read;             // a cache that the kernel reads, too: it goes on from the pattern, and may leave it as it is
} output;

struct qn_check {
  const qn_allocator *allocator;  // borrowed
  qn_inputs *inputs;              // owned
  void **pointers;                // owned: what the code is called with
  output *outputs;                // owned
  size_t output_count;
};

// --- what must come out

static bool expression_reads(const qn_lexpr *e, const qn_lbuf *buf) {
  bool reads = e->op == QN_LX_LOAD && e->u.load.buf == buf;
  for (int i = 0; !reads && i < 3 && e->operands[i]; i++) reads = expression_reads(e->operands[i], buf);
  return reads;
}

// Of kernels as lowered.
static bool block_reads(const qn_lblock *block, const qn_lbuf *buf) {
  bool reads = false;
  for (const qn_lstmt *s = block->first; s && !reads; s = s->next) {
    if (s->kind == QN_LS_FOR) reads = block_reads(&s->u.loop.body, buf);
    if (s->kind == QN_LS_STORE) reads = expression_reads(s->u.store.value, buf);
  }
  return reads;
}

static qn_status add_outputs(qn_check *c, qn_diag *diag) {
  const qn_subject *s = &c->inputs->subject;
  c->outputs = qn_alloc_zeroed(c->allocator, (c->inputs->count + 1) * sizeof *c->outputs);
  c->pointers = qn_alloc_zeroed(c->allocator, (c->inputs->count + 1) * sizeof *c->pointers);
  if (!c->outputs || !c->pointers) return qn_fail_nomem(diag, s->plain->name, "its outputs");
  for (size_t i = 0; i < c->inputs->count; i++) {
    c->pointers[i] = c->inputs->buffers[i].data;
    if (!s->plain->params[i]->writable) continue;
    output *o = &c->outputs[c->output_count++];
    *o = (output){.param = i,
                  .size = c->inputs->buffers[i].size,
                  .read = s->params[i]->kind == QN_PB_CACHE && block_reads(&s->plain->body, s->plain->params[i])};
    o->written = qn_alloc_zeroed(c->allocator, o->size);
    o->interpreted = qn_alloc(c->allocator, o->size);
    if (o->size && (!o->written || !o->interpreted)) return qn_fail_nomem(diag, s->plain->name, "its outputs");
    qn_inputs_poison(i, o->interpreted, o->size);
    const qn_pbuf *p = s->params[i];
    if (p->kind != QN_PB_ARENA || p->type.rank < 2 || p->row_pitch <= 0 || p->type.dtype == QN_DTYPE_A8) continue;
    o->width = qn_row_width(&p->type, c->inputs->symbols);
  }
  return QN_OK;
}

// The interpreter's buffers: the inputs, and in place of outputs `written` or `interpreted`.
static qn_linterp_buffer *bind(const qn_check *c, bool footprint, qn_arena *arena) {
  qn_linterp_buffer *bound = QN_ARENA_ARRAY(arena, c->inputs->count + 1, qn_linterp_buffer);
  if (!bound) return NULL;
  for (size_t i = 0; i < c->inputs->count; i++)
    bound[i] = (qn_linterp_buffer){c->inputs->buffers[i].data, c->inputs->buffers[i].size};
  for (size_t i = 0; i < c->output_count; i++)
    bound[c->outputs[i].param].data = footprint ? c->outputs[i].written : c->outputs[i].interpreted;
  return bound;
}

static qn_status interpret(const qn_check *c, const qn_lkernel *kernel, const qn_linterp_buffer *bound, qn_diag *diag) {
  return qn_lkernel_interpret(kernel, bound, c->inputs->symbols, 0, INT64_MAX, c->allocator, diag);
}

static qn_status find_written(qn_check *c, qn_arena *arena, qn_diag *diag) {
  const qn_lkernel *plain = c->inputs->subject.plain;
  qn_lbuild b;
  qn_lkernel *copy = qn_lkernel_copy(&b, arena, plain, plain->name);
  qn_linterp_buffer *bound = bind(c, true, arena);
  if (copy) qn_footprint(&b);
  if (!copy || !bound || b.failed) return qn_fail_nomem(diag, plain->name, "its check");
  return interpret(c, copy, bound, diag);
}

// How deep iterations are chosen, and how many: the shallowest of which a few are affordable.
static int choose_depth(const qn_nest *nest, const qn_lkernel *kernel, const int64_t *symbols, int64_t work,
                        int64_t *out_points) {
  int depth = nest->depth > 0 ? 1 : 0;
  while (depth < nest->depth && qn_nest_cost(nest, depth, kernel, symbols) > work / 4) depth++;
  int64_t points = work / qn_nest_cost(nest, depth, kernel, symbols), all = 1;
  for (int i = 0; i < depth && all <= MAX_POINTS; i++)
    all *= nest->trips[i] > MAX_POINTS ? MAX_POINTS + 1 : nest->trips[i];
  points = points < 2 ? 2 : points > MAX_POINTS ? MAX_POINTS : points;
  *out_points = points < all ? points : all;
  return depth;
}

// Iteration `point`: the first, the last, then any, at the ends more often; or all of them where there are few.
static void choose_point(const qn_nest *nest, int depth, int64_t point, bool all, uint64_t seed, int64_t *at) {
  for (int i = depth - 1; i >= 0; i--) {
    uint64_t words[] = {seed, (uint64_t)point, (uint64_t)i}, random = qn_hash64(words, sizeof words, 5);
    int64_t last = nest->trips[i] - 1;
    if (all) {
      at[i] = point % nest->trips[i];
      point /= nest->trips[i];
    } else if (point < 2) {
      at[i] = point ? last : 0;
    } else {
      at[i] = random % 8 == 0 ? 0 : random % 8 == 1 ? last : (int64_t)(random / 8 % (uint64_t)nest->trips[i]);
    }
  }
}

static qn_status interpret_some(qn_check *c, int64_t work, qn_arena *arena, qn_diag *diag) {
  const qn_lkernel *plain = c->inputs->subject.plain;
  const int64_t *symbols = c->inputs->symbols;
  qn_lbuild b;
  qn_nest nest;
  qn_lkernel *copy = qn_lkernel_copy(&b, arena, plain, plain->name);
  qn_linterp_buffer *bound = bind(c, false, arena);
  if (!copy || !bound) return qn_fail_nomem(diag, plain->name, "its check");
  qn_nest_find(copy, symbols, &nest);
  int64_t points = 0, all = 1;
  int depth = choose_depth(&nest, copy, symbols, work, &points);
  for (int i = 0; i < depth && all <= points; i++) all *= nest.trips[i];
  for (int64_t point = 0; point < points; point++) {
    int64_t at[QN_NEST_DEPTH] = {0};
    choose_point(&nest, depth, point, all == points, c->inputs->seed, at);
    qn_nest_select(&b, &nest, depth, at);
    if (b.failed) return qn_fail_nomem(diag, plain->name, "its check");
    QN_TRY(interpret(c, copy, bound, diag));
  }
  return QN_OK;
}

// Writing to what is only read is a fault.
static qn_status protect_inputs(const qn_check *c, qn_diag *diag) {
  for (size_t i = 0; i < c->inputs->count; i++) {
    const qn_guarded *g = &c->inputs->buffers[i];
    if (c->inputs->subject.plain->params[i]->writable || c->inputs->borrowed[i]) continue;
    if (!qn_guarded_protect(g)) return qn_fail_nomem(diag, c->inputs->subject.plain->name, "protected memory");
  }
  return QN_OK;
}

qn_status qn_check_create(const qn_subject *subject, int64_t rows, uint64_t seed, int64_t work,
                          const qn_check *weights_of, const qn_allocator *allocator, qn_check **out, qn_diag *diag) {
  int64_t symbols[QN_SYM_COUNT];
  qn_arena arena;
  *out = NULL;
  qn_check *c = qn_alloc_zeroed(allocator, sizeof *c);
  if (!c) return qn_fail_nomem(diag, subject->plain->name, "its check");
  c->allocator = allocator;
  qn_arena_init(&arena, allocator);
  qn_subject_symbols(subject, rows, CHECK_KEYS, CHECK_SEQUENCES, symbols);
  qn_status status = qn_inputs_create(subject, symbols, seed, QN_INPUTS_CHECK, weights_of ? weights_of->inputs : NULL,
                                      allocator, &c->inputs, diag);
  if (status == QN_OK) status = add_outputs(c, diag);
  if (status == QN_OK) status = find_written(c, &arena, diag);
  if (status == QN_OK) status = interpret_some(c, work, &arena, diag);
  if (status == QN_OK) status = protect_inputs(c, diag);
  qn_arena_deinit(&arena);
  if (status == QN_OK) {
    *out = c;
  } else {
    qn_check_destroy(c);
  }
  return status;
}

void qn_check_destroy(qn_check *c) {
  if (!c) return;
  for (size_t i = 0; i < c->output_count; i++) {
    qn_free(c->allocator, c->outputs[i].written, c->outputs[i].size);
    qn_free(c->allocator, c->outputs[i].interpreted, c->outputs[i].size);
    qn_free(c->allocator, c->outputs[i].kept, c->outputs[i].size);
  }
  if (c->pointers) qn_free(c->allocator, c->pointers, (c->inputs->count + 1) * sizeof *c->pointers);
  if (c->outputs) qn_free(c->allocator, c->outputs, (c->inputs->count + 1) * sizeof *c->outputs);
  qn_inputs_destroy(c->inputs);
  qn_free(c->allocator, c, sizeof *c);
}

// --- running

// The two ends alone, and what is between them in two parts; the later first.
static void run_pieces(const qn_check *c, void *const *pointers, qn_kernel_entry entry, int64_t extent) {
  int64_t ends[] = {0, extent > 0, extent / 2, extent - 1, extent};
  for (int i = 3; i >= 0; i--) {
    int64_t begin = ends[i] > ends[1] ? ends[i] : i > 0 ? ends[1] : 0;
    if (begin < ends[i + 1]) entry(pointers, c->inputs->symbols, begin, ends[i + 1]);
  }
}

// --- comparing

typedef enum element_kind { FLOAT32, FLOAT16, BFLOAT16, BYTES } element_kind;

typedef struct element {
  element_kind kind;
  size_t size;
} element;

// What lies at a place of an output: of a8 rows codes, then scales, then sums; pages of codes have both, byte by byte.
static element element_at(const qn_pbuf *p, const int64_t *symbols, size_t at) {
  if (p->type.dtype == QN_DTYPE_F16) return (element){FLOAT16, 2};
  if (p->type.dtype == QN_DTYPE_BF16) return (element){BFLOAT16, 2};
  if (p->kind == QN_PB_CACHE && qn_dtype_is_block(p->type.dtype)) return (element){BYTES, 1};
  if (p->type.dtype != QN_DTYPE_A8) return (element){p->type.dtype == QN_DTYPE_I32 ? BYTES : FLOAT32, 4};
  int64_t width = qn_row_width(&p->type, symbols), in_row = p->row_pitch > 0 ? (int64_t)at % p->row_pitch : (int64_t)at;
  if (in_row < width) return (element){BYTES, 1};
  return (element){in_row < width + width / 8 ? FLOAT32 : BYTES, 4};
}

static double read_element(element e, const uint8_t *at) {
  uint16_t half = 0;
  uint32_t word = 0;
  float value = 0;
  if (e.size == 2) memcpy(&half, at, 2);
  if (e.size == 4) memcpy(&word, at, 4);
  memcpy(&value, &word, sizeof value);
  switch (e.kind) {
    case FLOAT32: return (double)value;
    case FLOAT16: return (double)qn_f16_to_f32(half);
    case BFLOAT16: return (double)qn_bf16_to_f32(half);
    case BYTES: break;
  }
  return e.size == 1 ? (double)(int8_t)*at : (double)(int32_t)word;
}

static bool same(element e, const uint8_t *a, const uint8_t *b) {
  if (memcmp(a, b, e.size) == 0) return true;
  return e.kind != BYTES && isnan(read_element(e, a)) && isnan(read_element(e, b));
}

static bool is_pattern(size_t param, size_t at, element e, const uint8_t *data) {
  for (size_t i = 0; i < e.size; i++)
    if (data[at + i] != qn_inputs_poison_byte(param, at + i)) return false;
  return true;
}

static bool in_padding(const qn_pbuf *p, const output *o, size_t at) {
  return o->width > 0 && (int64_t)(at / 4) % p->row_pitch >= o->width;
}

static void tell(const qn_check *c, const output *o, size_t at, element e, const uint8_t *got, const uint8_t *want,
                 const char *by, qn_check_result *out) {
  const qn_pbuf *p = c->inputs->subject.params[o->param];
  int64_t index = (int64_t)(at / e.size), pitch = p->kind == QN_PB_ARENA && p->row_pitch > 0 ? p->row_pitch : 0;
  if (p->type.dtype == QN_DTYPE_A8) index = (int64_t)at;
  char place[64], wanted[40] = "";
  if (pitch)
    snprintf(place, sizeof place, "row %" PRId64 ", column %" PRId64, index / pitch, index % pitch);
  else
    snprintf(place, sizeof place, "element %" PRId64, index);
  if (want) snprintf(wanted, sizeof wanted, ", want %.9g", read_element(e, want));
  snprintf(out->text, sizeof out->text, "%" PRId64 " rows, seed %" PRIu64 ": '%s', %s: got %.9g%s%s",
           c->inputs->symbols[QN_SYM_T], c->inputs->seed, c->inputs->subject.plain->params[o->param]->name, place,
           read_element(e, got), wanted, by);
  out->right = false;
}

// The iteration of a kernel's nest that writes byte `at` of an output, searched for by halves; the kernel is a
// footprint.
static qn_status find_iteration(qn_check *c, qn_lbuild *b, const qn_nest *nest, int depth, size_t param, size_t at,
                                qn_linterp_buffer *bound, int64_t out[QN_NEST_DEPTH]) {
  for (int i = 0; i < depth; i++) {
    int64_t begin = 0, end = nest->trips[i];
    while (end - begin > 1) {
      int64_t middle = begin + (end - begin) / 2;
      qn_nest_limit(b, nest, i, begin, middle);
      memset(bound[param].data, 0, bound[param].size);
      if (b->failed) return QN_ERR_NOMEM;
      QN_TRY(interpret(c, b->kernel, bound, NULL));
      if (((const uint8_t *)bound[param].data)[at])
        end = middle;
      else
        begin = middle;
    }
    out[i] = begin;
    qn_nest_limit(b, nest, i, begin, begin + 1);
  }
  return QN_OK;
}

// Has the interpreter compute the iteration that writes byte `at` of an output.
static qn_status settle_in(qn_check *c, const output *o, size_t at, qn_arena *arena) {
  const qn_lkernel *plain = c->inputs->subject.plain;
  const int64_t *symbols = c->inputs->symbols;
  qn_lbuild footprint, whole;
  qn_nest places, nest;
  int64_t iteration[QN_NEST_DEPTH] = {0};
  qn_linterp_buffer *scratch = bind(c, true, arena), *bound = bind(c, false, arena);
  if (!qn_lkernel_copy(&footprint, arena, plain, plain->name) || !qn_lkernel_copy(&whole, arena, plain, plain->name) ||
      !scratch || !bound)
    return QN_ERR_NOMEM;
  for (size_t i = 0; i < c->output_count; i++) {  // what is written is found out anew, piece by piece
    scratch[c->outputs[i].param].data = qn_arena_alloc(arena, c->outputs[i].size);
    if (!scratch[c->outputs[i].param].data) return QN_ERR_NOMEM;
  }
  qn_footprint(&footprint);
  qn_nest_find(footprint.kernel, symbols, &places);
  qn_nest_find(whole.kernel, symbols, &nest);
  int depth = places.depth < nest.depth ? places.depth : nest.depth;
  QN_TRY(find_iteration(c, &footprint, &places, depth, o->param, at, scratch, iteration));
  qn_nest_select(&whole, &nest, depth, iteration);
  return whole.failed ? QN_ERR_NOMEM : interpret(c, whole.kernel, bound, NULL);
}

static bool settle(qn_check *c, const output *o, size_t at) {
  qn_arena arena;
  qn_arena_init(&arena, c->allocator);
  qn_status status = settle_in(c, o, at, &arena);
  qn_arena_deinit(&arena);
  return status == QN_OK;
}

// One element of an output; false ends the comparison.
static bool compare_element(qn_check *c, const output *o, size_t at, element e, const uint8_t *got, int64_t *small_gaps,
                            qn_check_result *out) {
  if (!o->written[at]) {
    if (is_pattern(o->param, at, e, got)) return true;
    tell(c, o, at, e, got + at, NULL, ", want nothing written there", out);
    return false;
  }
  out->written++;
  bool interpreted = !is_pattern(o->param, at, e, o->interpreted);
  const uint8_t *want = interpreted ? o->interpreted : out->kept_wrong ? NULL : o->kept;
  out->interpreted += interpreted;
  out->compared += !interpreted && want;
  if (want == o->kept && want && !same(e, got + at, want + at) && settle(c, o, at)) {
    want = o->interpreted;
    out->kept_wrong = !same(e, want + at, o->kept + at);
  }
  if (want && !same(e, got + at, want + at)) {
    bool missing = is_pattern(o->param, at, e, got);
    tell(c, o, at, e, got + at, want + at, missing ? " (it was not written)" : "", out);
    return false;
  }
  if (want || o->read || !is_pattern(o->param, at, e, got)) return true;
  // A byte or two may be the pattern by chance.
  int64_t allowed = e.size == 4 ? 0 : 3 + (int64_t)(o->size / (e.size == 2 ? 4096 : 64));
  if (++*small_gaps <= allowed) return true;
  tell(c, o, at, e, got + at, NULL, ", which is what was there before: it was not written", out);
  return false;
}

static bool compare_output(qn_check *c, const output *o, qn_check_result *out) {
  const qn_pbuf *p = c->inputs->subject.params[o->param];
  const uint8_t *got = c->inputs->buffers[o->param].data;
  int64_t small_gaps = 0;
  for (size_t at = 0; at < o->size;) {
    element e = element_at(p, c->inputs->symbols, at);
    if (at + e.size > o->size) break;
    if (!in_padding(p, o, at) && !compare_element(c, o, at, e, got, &small_gaps, out)) return false;
    at += e.size;
  }
  return true;
}

// False: it did not run as it should.
static bool run_remote(qn_check *c, const qn_check_remote *remote, qn_check_result *out) {
  const qn_lkernel *plain = c->inputs->subject.plain;
  size_t count = c->inputs->count;
  size_t *sizes = qn_alloc_zeroed(c->allocator, (count + 1) * sizeof *sizes);
  bool *written = qn_alloc_zeroed(c->allocator, (count + 1) * sizeof *written);
  out->right = sizes && written;
  if (!out->right) snprintf(out->text, sizeof out->text, "out of memory for the sizes of its parameters");
  for (size_t i = 0; out->right && i < count; i++) {
    sizes[i] = c->inputs->buffers[i].size;
    written[i] = plain->params[i]->writable;
  }
  if (out->right)
    out->right = remote->run(remote->context, c->pointers, sizes, written, count, c->inputs->symbols, out->text,
                             sizeof out->text);
  qn_free(c->allocator, sizes, (count + 1) * sizeof *sizes);
  qn_free(c->allocator, written, (count + 1) * sizeof *written);
  return out->right;
}

void qn_check_run(qn_check *c, qn_kernel_entry entry, qn_dim extent, const qn_check_remote *remote,
                  qn_check_result *out) {
  *out = (qn_check_result){.right = true};
  const qn_lkernel *plain = c->inputs->subject.plain;
  for (size_t i = 0; i < c->output_count; i++) {
    const output *o = &c->outputs[i];
    qn_inputs_poison(o->param, c->inputs->buffers[o->param].data, o->size);
    qn_guarded_seal(&c->inputs->buffers[o->param]);
  }
  if (!remote) run_pieces(c, c->pointers, entry, qn_dim_at(extent, c->inputs->symbols));
  if (remote && !run_remote(c, remote, out)) return;
  for (size_t i = 0; i < c->inputs->count; i++) {
    int64_t at = 0;
    if (!plain->params[i]->writable || !qn_guarded_touched(&c->inputs->buffers[i], &at)) continue;
    snprintf(out->text, sizeof out->text, "%" PRId64 " rows: writes outside of '%s', at byte %" PRId64 " of %zu",
             c->inputs->symbols[QN_SYM_T], plain->params[i]->name, at, c->inputs->buffers[i].size);
    out->right = false;
    return;
  }
  for (size_t i = 0; i < c->output_count; i++)
    if (!compare_output(c, &c->outputs[i], out)) return;
}

qn_status qn_check_keep(qn_check *c, qn_diag *diag) {
  for (size_t i = 0; i < c->output_count; i++) {
    output *o = &c->outputs[i];
    if (!o->kept) o->kept = qn_alloc(c->allocator, o->size);
    if (o->size && !o->kept) return qn_fail_nomem(diag, c->inputs->subject.plain->name, "its outputs");
    if (o->size) memcpy(o->kept, c->inputs->buffers[o->param].data, o->size);
  }
  return QN_OK;
}

bool qn_check_locate(const qn_check *c, const void *address, char *out, size_t size) {
  const uint8_t *at = address;
  for (size_t i = 0; i < c->inputs->count; i++) {
    const qn_guarded *g = &c->inputs->buffers[i];
    if (!g->mapping || at < g->mapping || at >= g->mapping + g->mapping_size) continue;
    const char *name = c->inputs->subject.plain->params[i]->name;
    if (at < g->data) {
      snprintf(out, size, "reads or writes %td bytes before '%s'", g->data - at, name);
    } else if (at >= g->data + g->size) {
      snprintf(out, size, "reads or writes %td bytes past the end of '%s'", at - (g->data + g->size), name);
    } else {
      snprintf(out, size, "writes to '%s', which it may only read", name);
    }
    return true;
  }
  return false;
}

// --- row counts

// The candidates within the limits, each once, rising; how many.
static int sort_counts(const int64_t *candidates, int count, int64_t largest, int64_t rows_min, int64_t rows_max,
                       int64_t *out) {
  int kept = 0;
  for (int i = 0; i < count; i++) {
    int64_t rows = candidates[i];
    if (rows < rows_min) rows += (rows_min - rows + largest - 1) / largest * largest;  // as much is left
    if (rows > rows_max) rows = rows_max;
    if (rows < 1) rows = 1;
    int at = 0;
    while (at < kept && out[at] < rows) at++;
    if (at < kept && out[at] == rows) continue;
    memmove(&out[at + 1], &out[at], (size_t)(kept - at) * sizeof *out);
    out[at] = rows;
    kept++;
  }
  return kept;
}

enum { MOST_WIDTHS = QN_SCHEDULE_MAX_TILES + 1 };

// What the rows are cut by, falling: the tiles that take turns at a block together, then each. What is wider than all
// rows never runs.
static int widths_of(const qn_schedule *s, int64_t rows_max, int64_t out[MOST_WIDTHS]) {
  int count = 0;
  int64_t turns = (int64_t)s->m_block * s->m_tiles[0];
  if (s->m_block > 1 && turns <= rows_max) out[count++] = turns;
  for (int i = 0; i < s->m_tile_count; i++) {
    if (s->m_tiles[i] <= rows_max || i == s->m_tile_count - 1) out[count++] = s->m_tiles[i];
  }
  return count;
}

int qn_check_row_counts(const qn_schedule *s, int64_t rows_min, int64_t rows_max, int64_t out[QN_CHECK_ROWS_MAX]) {
  int64_t candidates[QN_CHECK_ROWS_MAX] = {rows_min}, widths[MOST_WIDTHS] = {1};
  int count = 1, width_count = widths_of(s, rows_max, widths);
  candidates[count++] = 2 * widths[0] + 1;
  for (int i = 0; i < width_count && count < QN_CHECK_ROWS_MAX; i++)
    candidates[count++] = widths[0] + widths[i] - 1;  // the most that tiles from i on are left
  return sort_counts(candidates, count, widths[0], rows_min, rows_max, out);
}

int qn_check_quick_counts(const qn_schedule *s, int64_t rows_min, int64_t rows_max, int64_t out[QN_CHECK_ROWS_MAX]) {
  int64_t candidates[QN_CHECK_ROWS_MAX] = {rows_min}, widths[MOST_WIDTHS] = {1};
  bool runs[MOST_WIDTHS] = {false};
  int count = 1, width_count = widths_of(s, rows_max, widths);
  for (int i = 0; i < width_count && count < QN_CHECK_ROWS_MAX; i++) {
    if (runs[i]) continue;
    // Tile i once, and of those after it as many as can follow, each once: what is left is never enough for one above.
    int64_t rest = 0;
    for (int t = width_count - 1; t > i; t--) {
      bool fits = rest + widths[t] < widths[t - 1];
      if (i > 0) fits = fits && widths[i] + rest + widths[t] < widths[i - 1];
      if (fits) rest += widths[t];
      runs[t] = runs[t] || fits;
    }
    runs[0] = runs[i] = true;
    candidates[count++] = widths[0] + (i > 0 ? widths[i] : 0) + rest;
  }
  return sort_counts(candidates, count, widths[0], rows_min, rows_max, out);
}
