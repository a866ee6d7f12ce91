// Graphs built in code for tests: tensors by name, as the host binds them and as the oracle takes them; some graphs;
// and the comparison of a run with the oracle. Everything asserts.
#ifndef QN_TESTS_SUPPORT_BUILT_GRAPH_H
#define QN_TESTS_SUPPORT_BUILT_GRAPH_H

#include "frontend/quern.h"
#include "tests/support/public.h"

#define QN_COMPILE(...) \
  (&(quern_compile_options){.size = sizeof(quern_compile_options), .tuning_db = "none", __VA_ARGS__})
#define QN_RUNNER(...) (&(quern_runner_options){.size = sizeof(quern_runner_options), .no_pin = true, __VA_ARGS__})
#define QN_SIZES(...)  (&(quern_sizes){__VA_ARGS__})

typedef struct qn_built_tensor {
  const char *name;
  size_t count;
  float *values;  // owned; of a weight in blocks: what the blocks stand for
  int32_t *ids;   // owned, of integers: instead
  uint8_t *data;  // owned, of a weight in blocks: an odd address is borrowed of it
} qn_built_tensor;

enum { QN_BUILT_TENSORS = 16 };
typedef struct qn_built {
  quern_graph *graph;
  qn_built_tensor tensors[QN_BUILT_TENSORS];
  size_t count;
  qn_test_random random;
} qn_built;

void qn_built_init(qn_built *b, const char *name, const quern_graph_options *options);
void qn_built_deinit(qn_built *b);
// Values from -1 to 1; of integers zeros.
qn_built_tensor *qn_built_values(qn_built *b, const char *name, size_t count);
qn_built_tensor *qn_built_integers(qn_built *b, const char *name, size_t count);
const qn_built_tensor *qn_built_find(const qn_built *b, const char *name);
// Weights: a matrix, borrowed; a vector of values around 1, copied; a matrix in another format, borrowed at an odd
// address.
quern_value qn_built_matrix(qn_built *b, const char *name, int rows, int columns);
quern_value qn_built_vector(qn_built *b, const char *name, int size);
quern_value qn_built_blocks(qn_built *b, const char *name, const char *format, int rows, int columns);
quern_value qn_built_input(qn_built *b, const char *name, const char *type);
quern_value qn_built_apply(qn_built *b, const char *op, quern_value x, quern_value y);
quern_value qn_built_op(qn_built *b, const char *name, const quern_value *operands, size_t count,
                        const quern_attr *attrs, size_t attr_count, const char *type);
#define OPERANDS(...) (const quern_value[]){__VA_ARGS__}, sizeof((quern_value[]){__VA_ARGS__}) / sizeof(quern_value)
#define ATTRS(...)    (const quern_attr[]){__VA_ARGS__}, sizeof((quern_attr[]){__VA_ARGS__}) / sizeof(quern_attr)

// y = x + down(silu(gate(n)) * up(n)), n = rmsnorm(x): QN_MLP_ROWS rows of x. `format` of gate and up, NULL = f32.
enum { QN_MLP_ROWS = 7 };
void qn_built_mlp(qn_built *b, const char *format, int width, int hidden);

// Attention over caches of its own: inputs q, k, v, pos, seq, block_table (of two pages), output y, for
// QN_ATTENTION_TOKENS tokens of one sequence.
enum { QN_ATTENTION_TOKENS = 6, QN_ATTENTION_QUERY = 64, QN_ATTENTION_KEY = 32 };
void qn_built_attention(qn_built *b);

// Binds an input's values.
void qn_built_bind(quern_runner *runner, const qn_built *b, const char *name);
// |got - want| <= tolerance * (|want| + root mean square of want) in every value of an output, by the oracle with empty
// caches.
void qn_built_check(const qn_built *b, const char *output, const float *got, const quern_sizes *sizes,
                    double tolerance);

#endif
