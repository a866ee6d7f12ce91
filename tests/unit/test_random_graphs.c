// Random graphs of every op that is not a cache's, by a fixed random sequence: the program that fusion and lowering
// make must compute what the oracle does, in one thread's order and in another's. Finds what no list of cases thinks
// of. A failure names the graph's number after the test; QUERN_TEST_GRAPH=number prints and runs that one.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/support/graph_run.h"
#include "tests/support/test.h"

enum { MAX_VALUES = 64 };

// What the generator knows of a value: rows 'T', 'R', or 0 where dims[0] is a constant.
typedef struct value {
  char name[8];
  char rows;
  int rank, dims[4];
} value;

typedef struct generator {
  qn_test_random random;
  value values[MAX_VALUES];
  int count, names;
  qn_buf text;
} generator;

static int below(generator *g, int bound) { return (int)(qn_test_random_u64(&g->random) % (uint64_t)bound); }

// A statement's head, "v7 = "; the value gets the shape.
static value *begin(generator *g, const value *shape) {
  value *v = &g->values[g->count++];
  *v = *shape;
  snprintf(v->name, sizeof v->name, "v%d", g->names++);
  qn_buf_printf(&g->text, "%s = ", v->name);
  return v;
}

static void put_type(generator *g, const value *v) {
  qn_buf_puts(&g->text, " f32[");
  for (int i = 0; i < v->rank; i++) {
    bool symbolic = i == 0 && v->rows;
    if (!symbolic || v->dims[i] > 1) qn_buf_printf(&g->text, "%s%d", i ? "," : "", v->dims[i]);
    if (symbolic) qn_buf_putc(&g->text, v->rows);
  }
  qn_buf_puts(&g->text, "]\n");
}

static void make_source(generator *g, const char *op, const value *shape) {
  begin(g, shape);
  qn_buf_puts(&g->text, op);
  put_type(g, shape);
}

static const value *pick(generator *g) { return &g->values[below(g, g->count)]; }

static const value *pick_shaped(generator *g, const value *shape) {
  for (int tries = 0; tries < 8; tries++) {
    const value *v = pick(g);
    if (v->rank == shape->rank && v->rows == shape->rows && memcmp(v->dims, shape->dims, sizeof v->dims) == 0) return v;
  }
  return shape;
}

static int last_dim(const value *v) { return v->rank ? v->dims[v->rank - 1] : 1; }

// --- one statement each; false when the value picked does not suit

static bool add_unary(generator *g) {
  static const char *const ops[] = {"tanh", "neg", "sigmoid", "relu", "silu", "gelu", "gelu_tanh", "erf"};
  value x = *pick(g);
  begin(g, &x);
  qn_buf_printf(&g->text, "%s %s\n", ops[below(g, QN_COUNT(ops))], x.name);
  return true;
}

static bool add_binary(generator *g) {
  value x = *pick(g), y = *pick_shaped(g, &x);
  if (below(g, 3) == 0) {  // products are kept small
    begin(g, &x);
    qn_buf_printf(&g->text, "mul %s %s\n", x.name, y.name);
    value p = g->values[--g->count];
    begin(g, &x);
    qn_buf_printf(&g->text, "tanh %s\n", p.name);
    return true;
  }
  begin(g, &x);
  qn_buf_printf(&g->text, "%s %s %s\n", below(g, 2) ? "add" : "sub", x.name, y.name);
  return true;
}

// A scalar, or a vector beside the rows: a parameter or a value.
static bool add_broadcast(generator *g) {
  value x = *pick(g), v = {.rank = 1, .dims = {last_dim(&x)}};
  if (x.rank == 0 || (x.rank == 1 && x.rows)) return false;
  int kind = below(g, 3);
  if (kind == 0) {
    qn_buf_printf(&g->text, "k%d = const 0.75\n", g->names);
    snprintf(v.name, sizeof v.name, "k%d", g->names);
  } else if (kind == 1) {
    make_source(g, "param", &v);
    v = g->values[g->count - 1];
  } else {
    const value *found = pick_shaped(g, &v);
    if (found == &v) return false;
    v = *found;
  }
  begin(g, &x);
  bool swap = below(g, 2);
  qn_buf_printf(&g->text, "%s %s %s\n", below(g, 2) ? "add" : "sub", swap ? v.name : x.name, swap ? x.name : v.name);
  return true;
}

static bool add_row_op(generator *g) {
  value x = *pick(g), w = {.rank = 1, .dims = {last_dim(&x)}};
  int kind = below(g, 3);
  if (x.rank == 0 || (x.rank == 1 && x.rows)) return false;
  if (kind < 2) {
    make_source(g, "param", &w);
    w = g->values[g->count - 1];
  }
  begin(g, &x);
  if (kind == 0) qn_buf_printf(&g->text, "rmsnorm %s %s eps=0.1\n", x.name, w.name);
  if (kind == 1) qn_buf_printf(&g->text, "layernorm %s %s %s eps=0.1\n", x.name, w.name, w.name);
  if (kind == 2) qn_buf_printf(&g->text, "softmax %s\n", x.name);
  return true;
}

static bool add_slice(generator *g) {
  value x = *pick(g), out = x;
  int axis = x.rank ? below(g, x.rank) : 0;
  if (x.rank == 0 || (axis == 0 && x.rows)) return false;
  int first = below(g, x.dims[axis]), end = first + 1 + below(g, x.dims[axis] - first);
  out.dims[axis] = end - first;
  begin(g, &out);
  qn_buf_printf(&g->text, "slice %s axis=%d begin=%d end=%d\n", x.name, axis, first, end);
  return true;
}

static bool add_concat(generator *g) {
  value x = *pick(g), y = *pick(g), out = x;
  int axis = x.rank ? below(g, x.rank) : 0;
  if (x.rank == 0 || y.rank != x.rank || x.rows != y.rows || (axis == 0 && x.rows)) return false;
  for (int i = 0; i < x.rank; i++) {
    if (i != axis && x.dims[i] != y.dims[i]) return false;
  }
  out.dims[axis] += y.dims[axis];
  if (out.dims[axis] > 80) return false;
  begin(g, &out);
  qn_buf_printf(&g->text, "concat %s %s axis=%d\n", x.name, y.name, axis);
  return true;
}

// The same elements in 1 to 3 dimensions; rows may be cut or joined.
static bool add_reshape(generator *g) {
  value x = *pick(g), out = {.rows = x.rows};
  int elements = 1;
  for (int i = 0; i < x.rank; i++) elements *= x.dims[i];
  for (out.rank = 0; out.rank < 2 && elements > 1;) {
    int divisor = 1 + below(g, elements);
    while (elements % divisor) divisor--;
    if (out.rank == 0 && x.rows && below(g, 3)) divisor = x.dims[0];
    if (elements % divisor) return false;
    out.dims[out.rank++] = divisor;
    elements /= divisor;
  }
  out.dims[out.rank++] = elements;
  begin(g, &out);
  qn_buf_printf(&g->text, "reshape %s", x.name);
  put_type(g, &out);
  return true;
}

static bool add_matmul(generator *g) {
  value x = *pick(g), w = {.rank = 2};
  if (x.rank != 2) return false;
  w.dims[0] = 1 + below(g, 40);
  w.dims[1] = x.dims[1];
  const char *type = x.dims[1] % 32 == 0 ? (below(g, 2) ? "q8_0" : "q4_1") : below(g, 2) ? "f32" : "f16";
  qn_buf_printf(&g->text, "w%d = param %s[%d,%d]; k%d = const 0.2\n", g->names, type, w.dims[0], w.dims[1], g->names);
  char number[8];
  snprintf(number, sizeof number, "%d", g->names);
  value out = x;
  out.dims[1] = w.dims[0];
  begin(g, &out);
  qn_buf_printf(&g->text, "matmul %s w%s\n", x.name, number);
  value product = g->values[--g->count];
  begin(g, &out);
  qn_buf_printf(&g->text, "mul %s k%s\n", product.name, number);
  if (below(g, 3) == 0) g->values[g->count++] = product;  // somebody may read it too
  return true;
}

static bool add_lookup(generator *g) {
  value x = *pick(g), out = x;
  if (below(g, 3) == 0) {
    value table = {.rank = 2, .rows = 'T', .dims = {1, 1 + below(g, 30)}};
    qn_buf_printf(&g->text, "e%d = param f32[9,%d]\n", g->names, table.dims[1]);
    int number = g->names;
    begin(g, &table);
    qn_buf_printf(&g->text, "embed e%d tokens\n", number);
    return true;
  }
  if (x.rank != 2 || x.rows != 'T' || x.dims[0] != 1) return false;
  out.rows = 'R';
  begin(g, &out);
  qn_buf_printf(&g->text, "gather_rows %s rows\n", x.name);
  return true;
}

static bool add_rope(generator *g) {
  value x = *pick(g);
  if (x.rank != 3 || x.rows != 'T' || x.dims[0] != 1 || x.dims[2] < 2) return false;
  int dims = 2 * (1 + below(g, x.dims[2] / 2)), number = g->names;
  qn_buf_printf(&g->text, "t%d = rope_table pos dims=%d theta=50\n", number, dims);
  begin(g, &x);
  qn_buf_printf(&g->text, "rope %s t%d kind=%s\n", x.name, number, below(g, 2) ? "pairs" : "halves");
  return true;
}

// --- a graph

static void generate(generator *g, uint64_t seed) {
  static bool (*const statements[])(generator *) = {add_unary,  add_unary,  add_binary, add_binary,  add_broadcast,
                                                    add_row_op, add_slice,  add_concat, add_reshape, add_matmul,
                                                    add_matmul, add_lookup, add_rope};
  *g = (generator){.random = {seed * 2654435761u + 12345}};
  qn_buf_init(&g->text, qn_test_allocator());
  make_source(g, "input", &(value){.rank = 2, .rows = 'T', .dims = {1, 1 + below(g, 40)}});
  make_source(g, "input", &(value){.rank = 3, .rows = 'T', .dims = {1, 1 + below(g, 4), 1 + below(g, 20)}});
  make_source(g, "input", &(value){.rank = 2, .rows = 'T', .dims = {1, 32 * (1 + below(g, 2))}});
  make_source(g, "input", &(value){.rank = 2, .dims = {1 + below(g, 6), 1 + below(g, 9)}});
  make_source(g, "input", &(value){.rank = 1, .dims = {1 + below(g, 33)}});
  make_source(g, "input", &(value){.rank = 1, .rows = 'T', .dims = {1}});
  for (int left = 6 + below(g, 20); left > 0 && g->count < MAX_VALUES - 4;)
    left -= statements[below(g, QN_COUNT(statements))](g);
  qn_buf_puts(&g->text, "output");
  for (int left = 1 + below(g, 4), i = g->count - 1; left > 0; left--, i -= 1 + below(g, 3)) {
    qn_buf_printf(&g->text, " %s", g->values[i].name);
  }
}

static void compare(const qn_run_output *got, const qn_run_output *want, const char *text) {
  for (int64_t i = 0; i < want->count; i++) {
    double x = got->values[i], y = want->values[i];
    qn_check(fabs(x - y) <= 1e-3 * (1 + fabs(y)), "%s[%lld]: got %g, want %g in\n%s", got->name, (long long)i, x, y,
             text);
  }
}

static void check_graph(uint64_t seed) {
  static const qn_run_step steps[] = {{.spans = {{0, 0, 1}}},
                                      {.spans = {{0, 1, 4}, {1, 0, 2}}, .rows = 3, .threads = 3}};
  generator g;
  generate(&g, seed);
  const char *text = qn_buf_text(&g.text);
  if (getenv("QUERN_TEST_GRAPH")) fprintf(stderr, "%s\n", text);
  bool quantize = seed % 4 == 0;  // a code may be off by one there: only the bits are compared
  qn_run *run = qn_run_create(text, NULL, &(qn_run_options){.quantize_activations = quantize});
  for (size_t s = 0; s < QN_COUNT(steps); s++) {
    const qn_run_output *want = qn_run_oracle(run, &steps[s], false);
    const qn_run_output *plain = qn_run_execute(run, QN_RUN_PLAIN, &steps[s]);
    const qn_run_output *scheduled = qn_run_execute(run, QN_RUN_SCHEDULED, &steps[s]);
    for (size_t o = 0; o < qn_run_output_count(run); o++) {
      if (!quantize) compare(&plain[o], &want[o], text);
      qn_run_compare_bits(&scheduled[o], &plain[o], text);
    }
  }
  qn_run_destroy(run);
  qn_buf_deinit(&g.text);
}

START_TEST(random_graphs) { check_graph((uint64_t)_i); }
END_TEST

static TCase *graphs(void) {
  const char *one = getenv("QUERN_TEST_GRAPH");
  int first = one ? atoi(one) : 1, end = one ? first + 1 : 5000 / (int)qn_test_stride(25, 50);
  TCase *tcase = qn_test_case("graphs", NULL, 0);
  tcase_add_loop_test(tcase, random_graphs, first, end);
  return tcase;
}

QN_TEST_MAIN(graphs)
