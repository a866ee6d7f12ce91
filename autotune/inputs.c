// Buffers for a kernel's parameters: their sizes, guard pages, and which values go where (inputs.h).
#include "autotune/inputs.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/base/hash.h"

enum { ALIGNMENT = 64, CANARY = 0xA5, HUGE_FROM = 4 << 20 };

int64_t qn_dim_at(qn_dim dim, const int64_t symbols[QN_SYM_COUNT]) {
  int64_t value = 0;
  if (qn_dim_is_const(dim)) return dim.value;
  return __builtin_mul_overflow(dim.value, symbols[dim.symbol], &value) ? INT64_MAX : value;
}

int64_t qn_row_width(const qn_type *type, const int64_t symbols[QN_SYM_COUNT]) {
  int64_t width = 1;
  for (int i = 1; i < type->rank; i++)
    if (__builtin_mul_overflow(width, qn_dim_at(type->dims[i], symbols), &width)) return INT64_MAX;
  return width;
}

int64_t qn_param_elements(const qn_lexpr *e, const int64_t symbols[QN_SYM_COUNT]) {
  int64_t a, b, result = 0;
  if (e->op == QN_LX_INT) return e->u.int_value;
  if (e->op == QN_LX_SYM) return symbols[e->u.symbol];
  if (e->op != QN_LX_ADD && e->op != QN_LX_MUL) return -1;
  if ((a = qn_param_elements(e->operands[0], symbols)) < 0) return -1;
  if ((b = qn_param_elements(e->operands[1], symbols)) < 0) return -1;
  bool over = e->op == QN_LX_ADD ? __builtin_add_overflow(a, b, &result) : __builtin_mul_overflow(a, b, &result);
  return over ? -1 : result;
}

// --- subjects

qn_status qn_subject_of_step(const qn_program *program, const qn_pstep *step, qn_arena *arena, qn_subject *out,
                             qn_diag *diag) {
  const qn_pkernel *kernel = &program->kernels.items[step->kernel];
  size_t count = kernel->plain->param_count;
  const qn_pbuf **params = QN_ARENA_ARRAY(arena, count, const qn_pbuf *);
  if (!params) return qn_fail_nomem(diag, kernel->name, "what its parameters are");
  for (size_t i = 0; i < count; i++) params[i] = &program->buffers.items[step->buffers[i]];
  *out = (qn_subject){.plain = kernel->plain, .params = params, .rows = kernel->rows, .run_tokens = kernel->run_tokens};
  memcpy(out->max_values, program->max_values, sizeof out->max_values);
  return QN_OK;
}

static int64_t at_most(const qn_subject *subject, qn_symbol symbol, int64_t value) {
  int64_t most = subject->max_values[symbol];
  if (most > 0 && value > most) value = most;
  return value < 1 ? 1 : value;
}

// Which tokens it works on: a source's, or the sequences' own.
static qn_symbol tokens_symbol(const qn_subject *subject) {
  for (size_t i = 0; i < subject->plain->param_count; i++) {
    const qn_pbuf *p = subject->params[i];
    if (p->kind == QN_PB_INPUT && p->type.rank > 0 && p->type.dims[0].symbol == QN_SYM_S) return QN_SYM_S;
  }
  return QN_SYM_T;
}

void qn_subject_symbols(const qn_subject *subject, int64_t rows, int64_t keys, int64_t sequences,
                        int64_t out[QN_SYM_COUNT]) {
  memset(out, 0, sizeof(int64_t) * QN_SYM_COUNT);
  out[QN_SYM_T] = at_most(subject, QN_SYM_T, rows);
  out[QN_SYM_S] = at_most(subject, QN_SYM_S, rows);
  out[QN_SYM_R] = at_most(subject, QN_SYM_R, rows);
  if (out[QN_SYM_R] > out[QN_SYM_T]) out[QN_SYM_R] = out[QN_SYM_T];
  int64_t tokens = out[tokens_symbol(subject)];
  out[QN_SYM_B] = at_most(subject, QN_SYM_B, sequences < tokens ? sequences : tokens);
  out[QN_SYM_P] = at_most(subject, QN_SYM_P, (keys + tokens + QN_PAGE_KEYS - 1) / QN_PAGE_KEYS);
  out[QN_SYM_G] = out[QN_SYM_B] * out[QN_SYM_P] + 1;  // page 0 is nobody's
}

// --- guarded memory

void qn_guarded_seal(const qn_guarded *g) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  uint8_t *first = g->mapping + page, *end = g->mapping + g->mapping_size - page;
  memset(first, CANARY, (size_t)(g->data - first));
  memset(g->data + g->size, CANARY, (size_t)(end - (g->data + g->size)));
}

qn_status qn_guarded_create(size_t size, qn_guarded *out, qn_diag *diag) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = 0, all = 0;
  *out = (qn_guarded){0};
  if (!qn_size_add(size, page + ALIGNMENT, &whole) || !qn_size_add(qn_align_up(whole, page), 2 * page, &all))
    return qn_fail_nomem(diag, "kernel", "a buffer");
  all = qn_align_up(size + ALIGNMENT, page) + 2 * page;
  void *mapping = mmap(NULL, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) return qn_fail_nomem(diag, "kernel", "a buffer");
  out->mapping = mapping;
  out->mapping_size = all;
  out->size = size;
  uint8_t *first = out->mapping + page, *end = out->mapping + all - page;
  if (mprotect(first, (size_t)(end - first), PROT_READ | PROT_WRITE) != 0) {
    qn_guarded_destroy(out);
    return qn_fail_nomem(diag, "kernel", "a buffer");
  }
  if (size >= HUGE_FROM) madvise(first, (size_t)(end - first), MADV_HUGEPAGE);  // touching it takes less time
  out->data = end - qn_align_up(size, ALIGNMENT);
  qn_guarded_seal(out);
  return QN_OK;
}

void qn_guarded_destroy(qn_guarded *g) {
  if (g->mapping) munmap(g->mapping, g->mapping_size);
  *g = (qn_guarded){0};
}

bool qn_guarded_protect(const qn_guarded *g) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  return mprotect(g->mapping + page, g->mapping_size - 2 * page, PROT_READ) == 0;
}

bool qn_guarded_touched(const qn_guarded *g, int64_t *out_at) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  const uint8_t *first = g->mapping + page, *end = g->mapping + g->mapping_size - page;
  for (const uint8_t *at = g->data + g->size; at < end; at++) {
    *out_at = at - g->data;
    if (*at != CANARY) return true;
  }
  for (const uint8_t *at = g->data; at > first;) {
    *out_at = --at - g->data;
    if (*at != CANARY) return true;
  }
  return false;
}

// --- which tokens there are

typedef struct tokens {
  int64_t count;
  int32_t *sequence, *pos;  // one a token; owned
  int32_t *seen;            // by sequence: keys that its last token sees; owned
  int64_t sequences, pages;
} tokens;

typedef struct filling {
  qn_inputs *in;
  qn_inputs_use use;
  tokens tokens;
  qn_diag *diag;
} filling;

static uint64_t mix(uint64_t seed, uint64_t a, uint64_t b) {
  uint64_t words[] = {seed, a, b};
  return qn_hash64(words, sizeof words, 7);
}

// How many rows what index parameter `by` chooses a row of has (or, where it stands in an index by itself, values in a
// row): the least of all that it is part of the index of.
typedef struct lookup {
  const qn_inputs *in;
  const qn_lbuf *by, *held;  // held: a local that a value of it is kept in; NULL = none
  const qn_lbuf *into;       // while an index is walked: whose
  bool scaled, cut;     // on the way from there: multiplied; divided, or a remainder taken
  bool positions;       // by is the positions: of what it indexes, tables of the model count alone
  int64_t rows;
} lookup;

static int64_t choices(const lookup *l) {
  int64_t elements = INT64_MAX;
  if (l->into->kind == QN_LB_LOCAL) {
    bool plain = !l->scaled && !l->cut && qn_lexpr_is_int(l->into->elements, &elements);
    return plain ? elements : INT64_MAX;
  }
  const qn_pbuf *p = l->in->subject.params[l->into->param_index];
  bool table = p->kind == QN_PB_WEIGHT || p->kind == QN_PB_ARENA;
  if (l->positions && !table) return INT64_MAX;
  bool in_row = p->kind == QN_PB_ARENA && p->type.rank == 2 && !l->scaled && !l->cut;
  if (in_row && qn_row_width(&p->type, l->in->symbols) > 1) return qn_row_width(&p->type, l->in->symbols);
  return p->type.rank > 0 ? qn_dim_at(p->type.dims[0], l->in->symbols) : 1;
}

static void find_lookups(lookup *l, const qn_lexpr *e) {
  const lookup outer = *l;
  if (e->op == QN_LX_LOAD) {
    bool by = e->u.load.buf == l->by || (l->held && e->u.load.buf == l->held);
    if (by && l->into && choices(l) < l->rows) l->rows = choices(l);
    l->into = e->u.load.buf;
    l->scaled = l->cut = false;
  }
  l->scaled = l->scaled || e->op == QN_LX_MUL;
  l->cut = l->cut || e->op == QN_LX_DIV || e->op == QN_LX_MOD;
  for (int i = 0; i < qn_lop_info_of(e->op)->operands; i++) find_lookups(l, e->operands[i]);
  l->into = outer.into;
  l->scaled = outer.scaled;
  l->cut = outer.cut;
}

static void find_lookups_in(lookup *l, const qn_lblock *block) {
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    if (s->kind == QN_LS_FOR) {
      find_lookups(l, s->u.loop.lo);
      find_lookups(l, s->u.loop.hi);
      find_lookups_in(l, &s->u.loop.body);
    } else if (s->kind == QN_LS_STORE) {
      l->into = s->u.store.buf;
      l->scaled = l->cut = false;
      find_lookups(l, s->u.store.index);
      l->into = NULL;
      find_lookups(l, s->u.store.value);
    }
  }
}

// The local that takes values of the buffer as they are.
static const qn_lbuf *find_held(const qn_lblock *block, const qn_lbuf *by) {
  const qn_lbuf *held = NULL;
  for (const qn_lstmt *s = block->first; s && !held; s = s->next) {
    if (s->kind == QN_LS_FOR) held = find_held(&s->u.loop.body, by);
    if (s->kind != QN_LS_STORE || s->u.store.buf->kind != QN_LB_LOCAL) continue;
    const qn_lexpr *value = s->u.store.value;
    if (value->op == QN_LX_LOAD && value->u.load.buf == by) held = s->u.store.buf;
  }
  return held;
}

static int64_t rows_looked_up(const qn_inputs *in, size_t param, bool positions) {
  lookup l = {.in = in, .by = in->subject.plain->params[param], .positions = positions, .rows = INT32_MAX};
  if (!positions) l.held = find_held(&in->subject.plain->body, l.by);
  find_lookups_in(&l, &in->subject.plain->body);
  return l.rows;
}

static bool is_input(const qn_pbuf *p, const char *name) {
  return p->kind == QN_PB_INPUT && p->name && strcmp(p->name, name) == 0;
}

// What an input says of each token: where it is, the last key that it sees, of which sequence it is, of how
// many it is at once.
typedef enum told { TOLD_NOTHING, TOLD_POS, TOLD_LAST_POS, TOLD_SEQ, TOLD_COPIES } told;

static told told_of(const qn_pbuf *p) {
  static const struct {
    const char *name;
    told what;
  } inputs[] = {{"pos", TOLD_POS},
                {"slot", TOLD_POS},
                {"source_pos", TOLD_POS},
                {"last_pos", TOLD_LAST_POS},
                {"source_last_pos", TOLD_LAST_POS},
                {"cross_last_pos", TOLD_LAST_POS},
                {"seq", TOLD_SEQ},
                {"source_seq", TOLD_SEQ},
                {"copies", TOLD_COPIES}};
  for (size_t i = 0; i < QN_COUNT(inputs); i++)
    if (is_input(p, inputs[i].name)) return inputs[i].what;
  return TOLD_NOTHING;
}

// The largest position that the tables of this kernel, and the cache, have room for.
static int64_t positions(const qn_inputs *in) {
  int64_t most = in->symbols[QN_SYM_P] * QN_PAGE_KEYS;
  for (size_t i = 0; i < in->count; i++) {
    if (told_of(in->subject.params[i]) != TOLD_POS) continue;
    int64_t rows = rows_looked_up(in, i, true);
    if (rows < most) most = rows;
  }
  return most;
}

// Runs of tokens: each sequence has a share of them, larger for the first, that ends at the last key of the cache or
// crosses a page before it. In every second seed positions fall.
static qn_status make_tokens(filling *f) {
  tokens *t = &f->tokens;
  const qn_inputs *in = f->in;
  t->count = in->symbols[tokens_symbol(&in->subject)];
  t->sequences = in->symbols[QN_SYM_B];
  t->pages = in->symbols[QN_SYM_P];
  if (t->count > INT32_MAX || t->sequences > INT32_MAX || t->pages > INT32_MAX / QN_PAGE_KEYS)
    return qn_fail(f->diag, QN_ERR_LIMIT, in->subject.plain->name, "got %" PRId64 " tokens, want at most %d", t->count,
                   INT32_MAX);
  t->sequence = qn_alloc_zeroed(in->allocator, (size_t)t->count * sizeof(int32_t));
  t->pos = qn_alloc_zeroed(in->allocator, (size_t)t->count * sizeof(int32_t));
  t->seen = qn_alloc_zeroed(in->allocator, (size_t)t->sequences * sizeof(int32_t));
  if (!t->sequence || !t->pos || !t->seen) return qn_fail_nomem(f->diag, in->subject.plain->name, "tokens");
  int64_t room = positions(in), at = 0;
  for (int64_t s = 0; s < t->sequences; s++) {
    int64_t left = t->count - at, others = t->sequences - 1 - s;
    int64_t count = others ? (left - others + 1) / 2 : left;
    if (count < 1) count = 1;
    if (count > left) count = left;
    int64_t spare = room > count ? room - count : 0;
    int64_t first =
        f->use == QN_INPUTS_TIME || s == 0 ? spare : (int64_t)(mix(in->seed, 3, (uint64_t)s) % (uint64_t)(spare + 1));
    bool falls = f->use == QN_INPUTS_CHECK && in->seed % 2 && s % 2 == 0;
    for (int64_t i = 0; i < count; i++, at++) {
      t->sequence[at] = (int32_t)s;
      t->pos[at] = (int32_t)((first + (falls ? count - 1 - i : i)) % (room > 0 ? room : 1));
    }
    t->seen[s] = (int32_t)(first + count);
  }
  return QN_OK;
}

static void free_tokens(filling *f) {
  tokens *t = &f->tokens;
  qn_free(f->in->allocator, t->sequence, (size_t)t->count * sizeof(int32_t));
  qn_free(f->in->allocator, t->pos, (size_t)t->count * sizeof(int32_t));
  qn_free(f->in->allocator, t->seen, (size_t)t->sequences * sizeof(int32_t));
}

// Pages are given out backwards.
static int32_t page_of(const tokens *t, int64_t sequence, int64_t page) {
  return (int32_t)(t->sequences * t->pages - (sequence * t->pages + page));
}

// --- filling

static void put_i32(uint8_t *at, int32_t value) { memcpy(at, &value, sizeof value); }

// A choice of experts: every second seed of checks chooses among two, so that many rows have the same.
static int64_t choices_of_rows(const filling *f, const qn_pbuf *p, int64_t rows) {
  bool few = f->use == QN_INPUTS_CHECK && f->in->seed % 2 && p->kind == QN_PB_ARENA && p->type.rank == 2;
  return few && rows > 2 ? 2 : rows;
}

static bool has_token(const tokens *t, int32_t sequence, int32_t pos) {
  for (int64_t i = 0; i < t->count; i++)
    if (t->sequence[i] == sequence && t->pos[i] == pos) return true;
  return false;
}

// In checks some tokens are the next sequence's, too, where that has none of its own at their place.
static int32_t copies_of(const filling *f, int64_t i) {
  const tokens *t = &f->tokens;
  if (f->use != QN_INPUTS_CHECK || t->sequence[i] + 1 == t->sequences || mix(f->in->seed, 4, (uint64_t)i) % 2) return 1;
  return has_token(t, t->sequence[i] + 1, t->pos[i]) ? 1 : 2;
}

static int32_t of_token(const filling *f, int64_t i, told what, int32_t otherwise) {
  const tokens *t = &f->tokens;
  switch (what) {
    case TOLD_POS: return t->pos[i];
    case TOLD_LAST_POS: return t->seen[t->sequence[i]] - 1;
    case TOLD_SEQ: return t->sequence[i];
    case TOLD_COPIES: return copies_of(f, i);
    default: return otherwise;
  }
}

static void fill_indices(filling *f, size_t param) {
  const qn_inputs *in = f->in;
  const qn_pbuf *p = in->subject.params[param];
  const tokens *t = &f->tokens;
  qn_guarded *g = &in->buffers[param];
  int64_t count = (int64_t)(g->size / sizeof(int32_t));
  int64_t rows = choices_of_rows(f, p, rows_looked_up(in, param, false));
  for (int64_t i = 0; i < count; i++) {
    int32_t value = (int32_t)(mix(in->seed, param, (uint64_t)i) % (uint64_t)(rows > 0 ? rows : 1));
    if (i < t->count) value = of_token(f, i, told_of(p), value);
    if (is_input(p, "block_table") || is_input(p, "window_table")) value = page_of(t, i / t->pages, i % t->pages);
    if (i == 0 && (is_input(p, "tokens") || is_input(p, "source"))) value = (int32_t)(rows - 1);
    put_i32(g->data + i * 4, value);
  }
}


// Whether the parameter is the order of rows by what parameter `ids` chooses for them (expert_order in ir/ops.def).
static bool is_order(const qn_inputs *in, size_t param, size_t ids) {
  const qn_pbuf *p = in->subject.params[param], *q = in->subject.params[ids];
  if (p->kind != QN_PB_ARENA || p->type.dtype != QN_DTYPE_I32 || p->type.rank != 1) return false;
  if (q->kind != QN_PB_ARENA || q->type.dtype != QN_DTYPE_I32 || q->type.rank != 2) return false;
  if (in->subject.plain->params[param]->writable || in->subject.plain->params[ids]->writable) return false;
  int64_t rows = qn_dim_at(q->type.dims[0], in->symbols), width = qn_row_width(&q->type, in->symbols), numbers = 0;
  bool counted = !__builtin_mul_overflow(rows, 2 * width, &numbers);
  return counted && numbers == qn_dim_at(p->type.dims[0], in->symbols) && q->row_pitch >= width &&
         numbers <= (int64_t)(in->buffers[param].size / 4) &&
         rows * q->row_pitch <= (int64_t)(in->buffers[ids].size / 4);
}

static int32_t get_i32(const uint8_t *at) {
  int32_t value;
  memcpy(&value, at, sizeof value);
  return value;
}

// Rows in an order, and which expert each of them has.
typedef struct ordering {
  uint8_t *out;  // two i32 a place
  const uint8_t *ids;
  int64_t width, pitch;  // of a row of the ids
} ordering;

static int32_t expert_of(const ordering *o, int64_t row) {
  return get_i32(o->ids + (row / o->width * o->pitch + row % o->width) * 4);
}

static int32_t expert_at(const ordering *o, int64_t place) { return expert_of(o, get_i32(o->out + place * 8)); }

// Sorts by insertion, which keeps the order of equals: there are as many rows as a step has.
static void fill_order(filling *f, size_t param, size_t ids) {
  const qn_pbuf *q = f->in->subject.params[ids];
  ordering o = {.out = f->in->buffers[param].data,
                .ids = f->in->buffers[ids].data,
                .width = qn_row_width(&q->type, f->in->symbols),
                .pitch = q->row_pitch};
  int64_t count = qn_dim_at(q->type.dims[0], f->in->symbols) * o.width;
  for (int64_t row = 0, at; row < count; row++) {
    for (at = row; at > 0 && expert_at(&o, at - 1) > expert_of(&o, row); at--)
      put_i32(o.out + at * 8, get_i32(o.out + (at - 1) * 8));
    put_i32(o.out + at * 8, (int32_t)row);
  }
  for (int64_t place = count - 1, end = count; place >= 0; place--) {  // end: of the rows of the place's expert
    bool first = place == 0 || expert_at(&o, place - 1) != expert_at(&o, place);
    put_i32(o.out + place * 8 + 4, 0);
    if (!first) continue;
    for (int64_t at = place; at < end; at += QN_EXPERT_RUN)
      put_i32(o.out + at * 8 + 4, (int32_t)(end - at < QN_EXPERT_RUN ? end - at : QN_EXPERT_RUN));
    end = place;
  }
}

// Rows of f32: arena rows have a pitch, those of inputs do not.
static void fill_rows(filling *f, size_t param) {
  const qn_inputs *in = f->in;
  const qn_pbuf *p = in->subject.params[param];
  qn_guarded *g = &in->buffers[param];
  int64_t count = (int64_t)(g->size / sizeof(float)), pitch = p->kind == QN_PB_ARENA ? p->row_pitch : 0;
  if (pitch <= 0)
    pitch = p->type.rank == 1 ? qn_dim_at(p->type.dims[0], in->symbols) : qn_row_width(&p->type, in->symbols);
  if (pitch < 1 || pitch > count) pitch = count;
  for (int64_t row = 0, at = 0; at < count; row++, at += pitch) {
    int64_t length = count - at < pitch ? count - at : pitch;
    qn_inputs_fill_row(mix(in->seed, param, (uint64_t)row), qn_inputs_kind(in->seed, row, f->use),
                       (float *)(void *)(g->data + at * 4), length);
  }
}

static void fill_a8_rows(filling *f, size_t param) {
  const qn_inputs *in = f->in;
  const qn_pbuf *p = in->subject.params[param];
  qn_guarded *g = &in->buffers[param];
  int64_t width = qn_row_width(&p->type, in->symbols), pitch = p->row_pitch;
  for (int64_t row = 0; (row + 1) * pitch <= (int64_t)g->size; row++) {
    qn_inputs_fill_a8(mix(in->seed, param, (uint64_t)row), qn_inputs_kind(in->seed, row, f->use), g->data + row * pitch,
                      width);
  }
}

static void put_float(qn_dtype dtype, uint8_t *at, float value) {
  uint16_t half = dtype == QN_DTYPE_F16 ? qn_f32_to_f16(value) : qn_f32_to_bf16(value);
  if (dtype == QN_DTYPE_F32)
    memcpy(at, &value, sizeof value);
  else
    memcpy(at, &half, sizeof half);
}

// What of a head's memory is nobody's: NaN, of codes any bytes with scales that are NaN.
static void fill_unseen(const qn_kv_page *page, qn_dtype dtype, uint8_t *data, size_t bytes) {
  size_t size = page->coded ? 1 : (size_t)page->bits / 8;
  if (page->coded) {
    qn_inputs_poison(0, data, bytes);
    for (size_t at = 0; at < bytes; at++) data[at] |= (at % (size_t)page->head_bytes) >= (size_t)page->scales_at ? 0xFF : 1;
    return;
  }
  for (size_t at = 0; at + size <= bytes; at += size) put_float(dtype, data + at, NAN);
}

// An element that somebody sees: a number of -1 to 1, or a code, whose scale makes it one.
static void put_cached(const qn_kv_page *page, qn_dtype dtype, uint8_t *head, int64_t key, int64_t c, float value) {
  int shift;
  if (!page->coded) {
    put_float(dtype, head + qn_kv_page_place(page, key, c, &shift), value);
    return;
  }
  qn_kv_page_set_code(page, head, key, c, (int)(value * (float)page->most));
  put_float(QN_DTYPE_BF16, head + qn_kv_page_scale(page, key, c), 1 / (float)page->most);
}

// The pool of a layer: keys that somebody sees are numbers, everything else is NaN. check_type has found a page in it.
static void fill_cache(filling *f, size_t param) {
  const qn_inputs *in = f->in;
  const qn_pbuf *p = in->subject.params[param];
  const tokens *t = &f->tokens;
  qn_guarded *g = &in->buffers[param];
  qn_kv_page layout;
  if (!qn_type_kv_page(&p->type, qn_kv_lies_as_k(p->name), &layout)) return;
  fill_unseen(&layout, p->type.dtype, g->data, g->size);
  for (int64_t s = 0; s < t->sequences; s++) {
    for (int64_t key = 0; key < t->seen[s]; key++) {
      int64_t page = page_of(t, s, key / QN_PAGE_KEYS), slot = key % QN_PAGE_KEYS;
      uint64_t random = mix(in->seed, param, (uint64_t)(s * 65537 + key)) | 1;
      for (int64_t i = 0; i < layout.heads * layout.width; i++) {
        random = random * UINT64_C(6364136223846793005) + 1442695040888963407u;
        float value = (float)(random >> 40) * 0x1p-23f - 1;
        uint8_t *head = g->data + (size_t)(page * layout.page_bytes + i / layout.width * layout.head_bytes);
        put_cached(&layout, p->type.dtype, head, slot, i % layout.width, value);
      }
    }
  }
}

// Eight bytes of the pattern.
static uint64_t poison_word(size_t param, size_t word) {
  uint64_t x = (word + 1) * UINT64_C(0x9E3779B97F4A7C15) + param * UINT64_C(0xD1B54A32D192ED03);
  x ^= x >> 29;
  x *= UINT64_C(0xBF58476D1CE4E5B9);
  return x ^ x >> 32;
}

uint8_t qn_inputs_poison_byte(size_t param, size_t at) { return (uint8_t)(poison_word(param, at / 8) >> at % 8 * 8); }

void qn_inputs_poison(size_t param, uint8_t *data, size_t size) {
  for (size_t at = 0; at < size; at += 8) {
    uint64_t word = poison_word(param, at / 8);
    for (size_t i = 0; i < 8 && at + i < size; i++) data[at + i] = (uint8_t)(word >> i * 8);
  }
}

static qn_status fill_param(filling *f, size_t param) {
  const qn_inputs *in = f->in;
  const qn_pbuf *p = in->subject.params[param];
  qn_guarded *g = &in->buffers[param];
  bool written = in->subject.plain->params[param]->writable;
  if (written && f->use == QN_INPUTS_CHECK) {
    qn_inputs_poison(param, g->data, g->size);
  } else if (p->kind == QN_PB_WEIGHT) {
    return qn_inputs_fill_weight(p, mix(in->seed, param, 99), f->use, g->data, g->size, in->allocator, f->diag);
  } else if (p->kind == QN_PB_CACHE) {
    fill_cache(f, param);
  } else if (p->type.dtype == QN_DTYPE_I32) {
    fill_indices(f, param);
  } else if (p->type.dtype == QN_DTYPE_A8) {
    fill_a8_rows(f, param);
  } else {
    fill_rows(f, param);
  }
  return QN_OK;
}

// --- all of it

// Types may come from an artifact that somebody made up: what is filled by them lies inside of the buffers.
static qn_status check_type(const qn_inputs *in, size_t i, qn_diag *diag) {
  const qn_pbuf *p = in->subject.params[i];
  int64_t width = qn_row_width(&p->type, in->symbols), all = 0, size = (int64_t)in->buffers[i].size;
  bool fits = true;
  if (p->kind == QN_PB_CACHE) {
    qn_kv_page page;
    bool is_k = p->name && qn_kv_lies_as_k(p->name);
    fits = p->name && qn_type_kv_page(&p->type, is_k, &page) && page.keys == QN_PAGE_KEYS &&
           !__builtin_mul_overflow(page.page_bytes, in->symbols[QN_SYM_G], &all) && all == size;
  } else if (p->type.dtype == QN_DTYPE_A8) {
    fits = p->type.rank >= 2 && width % 32 == 0 && width <= size && p->row_pitch >= width + width / 2;
  }
  if (fits) return QN_OK;
  return qn_fail(diag, QN_ERR_UNSUPPORTED, in->subject.plain->name,
                 "parameter %zu: got a type that its %" PRId64 " bytes do not hold", i, size);
}

// Positions and sequences are made together; a cache that is read or written by tokens of unknown places would be
// filled at random, and two tokens could have one key.
static qn_status check_names(const qn_inputs *in, qn_diag *diag) {
  bool cache = false, pos = false, seq = false;
  for (size_t i = 0; i < in->count; i++) {
    cache = cache || in->subject.params[i]->kind == QN_PB_CACHE;
    told what = told_of(in->subject.params[i]);
    pos = pos || what == TOLD_POS || what == TOLD_LAST_POS;
    seq = seq || what == TOLD_SEQ;
  }
  if (!cache || (pos && seq)) return QN_OK;
  return qn_fail(diag, QN_ERR_UNSUPPORTED, in->subject.plain->name,
                 "got a cache but no inputs 'pos' (or 'last_pos') and 'seq', want those: they say where its keys are");
}

static qn_status make_buffers(filling *f, const qn_inputs *weights_of) {
  qn_inputs *in = f->in;
  for (size_t i = 0; i < in->count; i++) {
    const qn_lbuf *param = in->subject.plain->params[i];
    if (weights_of && in->subject.params[i]->kind == QN_PB_WEIGHT) {
      in->buffers[i] = weights_of->buffers[i];
      in->borrowed[i] = true;
      continue;
    }
    int64_t elements = qn_param_elements(param->elements, in->symbols);
    size_t size = 0;
    if (elements < 0 || !qn_size_mul((size_t)elements, qn_lmem_size(param->mem), &size))
      return qn_fail(f->diag, QN_ERR_LIMIT, in->subject.plain->name, "the size of '%s' overflows", param->name);
    QN_TRY(qn_guarded_create(size, &in->buffers[i], f->diag));
    QN_TRY(check_type(in, i, f->diag));
    QN_TRY(fill_param(f, i));
  }
  for (size_t i = 0; i < in->count; i++) {
    for (size_t ids = 0; ids < in->count; ids++)
      if (is_order(in, i, ids)) fill_order(f, i, ids);
  }
  return QN_OK;
}

qn_status qn_inputs_create(const qn_subject *subject, const int64_t symbols[QN_SYM_COUNT], uint64_t seed,
                           qn_inputs_use use, const qn_inputs *weights_of, const qn_allocator *allocator,
                           qn_inputs **out, qn_diag *diag) {
  *out = NULL;
  qn_inputs *in = qn_alloc_zeroed(allocator, sizeof *in);
  if (!in) return qn_fail_nomem(diag, subject->plain->name, "inputs");
  *in = (qn_inputs){.allocator = allocator, .subject = *subject, .seed = seed, .count = subject->plain->param_count};
  memcpy(in->symbols, symbols, sizeof in->symbols);
  in->buffers = qn_alloc_zeroed(allocator, (in->count + 1) * sizeof *in->buffers);
  in->borrowed = qn_alloc_zeroed(allocator, (in->count + 1) * sizeof *in->borrowed);
  filling f = {.in = in, .use = use, .diag = diag};
  qn_status status =
      in->buffers && in->borrowed ? check_names(in, diag) : qn_fail_nomem(diag, subject->plain->name, "inputs");
  if (status == QN_OK) status = make_tokens(&f);
  if (status == QN_OK) status = make_buffers(&f, weights_of);
  free_tokens(&f);
  if (status == QN_OK) {
    *out = in;
  } else {
    qn_inputs_destroy(in);
  }
  return status;
}

void qn_inputs_destroy(qn_inputs *in) {
  if (!in) return;
  for (size_t i = 0; in->buffers && in->borrowed && i < in->count; i++)
    if (!in->borrowed[i]) qn_guarded_destroy(&in->buffers[i]);
  qn_free(in->allocator, in->buffers, (in->count + 1) * sizeof *in->buffers);
  qn_free(in->allocator, in->borrowed, (in->count + 1) * sizeof *in->borrowed);
  qn_free(in->allocator, in, sizeof *in);
}
